//! Counts HTTP/2 frames that cost their sender little and the gate more: pings, settings, resets, priorities, empty
//! data, header blocks in many small pieces, and streams that the gate resets because of the client's mistakes.
//!
//! It reads frame headers, and of header blocks what `header_blocks` needs; h2 stays the parser and refuses malformed
//! frames. Each kind has a leaky bucket per connection. A full bucket ends the connection, because most of these frames
//! belong to the connection and not to one stream. Requests are not counted here: `limits.streams` and the rates bound
//! them.
//!
//! A frame counts when its header is complete, in however many reads that came. Window updates are free as far as bytes
//! that the gate wrote explain them. A write is noted in the poll in which the socket takes it, so no update is read
//! before the bytes that it answers are counted.
//!
//! A reset costs the same whether the client sends it (rapid reset) or makes the gate send it (MadeYouReset), so both
//! fill one bucket: a rate, so that a proxy's long connection survives the mistakes of single clients behind it.
//!
//! Trailers that begin with a pseudo-header are malformed, and h2 would drop the pseudo-header. The guard takes
//! END_STREAM off such a frame, which makes h2 reset the stream with PROTOCOL_ERROR and keep the connection. If the
//! frame's header came in an earlier read, h2 has it already, and the connection ends instead.

use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::frame_reader::{FrameHeader, FramePiece, FrameReader, HEADER_BYTES};
use super::header_blocks::HeaderBlocks;

/// The client's connection preface, before the first frame.
const PREFACE_BYTES: usize = 24;
/// The position of the flags in a frame's header.
const FLAGS_AT: usize = 4;
/// Bytes of a priority in a HEADERS frame.
const PRIORITY_BYTES: usize = 5;
/// PING, SETTINGS, PRIORITY, unknown types and DATA without data. gRPC's keepalive and bandwidth pings are a few per
/// second, a browser's PRIORITY_UPDATE one per request.
const CONTROL: Rate = Rate::per_second(200, 2000);
/// RST_STREAM, in either direction. A client that resets more streams wants no answers (rapid reset). A browser that
/// leaves a page resets its open requests once.
const RESETS: Rate = Rate::per_second(50, 500);
/// Window updates that the bytes written by the gate do not explain.
const WINDOW_UPDATES: Rate = Rate::per_second(1000, 5000);
/// A client answers one DATA frame of the gate with two window updates, for stream and connection. A frame is a header
/// and some bytes, so every so many written bytes explain one update.
const WINDOW_UPDATE_BYTES: u64 = 8;
/// Explained updates that a client may save up in a long download.
const WINDOW_UPDATES_FREE_MAX: u64 = 1 << 20;
/// CONTINUATION frames of one header block. At 16 KiB each they hold far more than any header limit.
const CONTINUATIONS_MAX: u32 = 64;
/// Streams that the gate reset because of the client's mistakes, after which the connection ends with grace: open
/// streams are answered, and the client continues on a new connection. h2 has a count that never falls and would end it
/// without grace (`http2_connection`).
pub const MISTAKES_MAX: u32 = 2048;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PROTOCOL_ERROR: u32 = 1;
/// Codes with which h2 resets a stream because of the client: PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED,
/// FRAME_SIZE_ERROR.
const MISTAKES: [u32; 4] = [PROTOCOL_ERROR, 3, 5, 6];

/// The reason why the connection must end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Violation {
    /// The client sends more frames of a kind than any client needs.
    Flood,
    /// Trailers begin with a pseudo-header, and the stream alone cannot be reset any more.
    MalformedTrailers,
}

/// The frames of one connection.
#[derive(Debug)]
pub struct Frames {
    reader: FrameReader,
    blocks: HeaderBlocks,
    block: Block,
    section: Section,
    payload: Payload,
    continuations: u32,
    /// The newest stream that the client opened.
    newest_stream: u32,
    /// Bit n: the client ended the stream that it opened n streams before the newest.
    ended: u128,
    /// True once the first SETTINGS frame began.
    has_settings: bool,
    counts: Counts,
    control: Bucket,
    resets: Bucket,
    window_updates: Bucket,
    /// Explained window updates that the client has not sent.
    free_updates: u64,
    /// Bytes written by the gate that `free_updates` includes.
    written: u64,
    /// Streams that the gate reset because of the client.
    mistakes: u32,
}

/// The frames that the gate sends on one connection, read for the resets in them.
#[derive(Debug)]
pub struct SentFrames {
    reader: FrameReader,
    /// The code of the RST_STREAM frame that is being sent, as far as it was sent.
    code: Option<u32>,
}

/// Resets that the gate sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SentResets {
    /// Those that are the client's fault.
    pub mistakes: u32,
    /// Those of them whose stream is malformed, so that it never was a request.
    pub malformed: u32,
}

/// The header block that the client is sending: one request's head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Block {
    None,
    /// More frames of it must follow.
    Open,
    /// The current frame ends it.
    Last,
}

/// The section that the current header block is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Section {
    Head,
    Trailers {
        /// Position of the HEADERS frame's flags in the bytes of this read; `None`: they came earlier.
        flags_at: Option<usize>,
    },
}

/// The payload of the frame that is being read.
#[derive(Clone, Copy, Debug)]
struct Payload {
    /// Bytes that are to come.
    left: usize,
    /// True if the next byte is the length of the padding.
    has_padding: bool,
    /// Bytes of a priority before the block.
    priority: usize,
    /// Bytes of padding behind the block.
    padding: usize,
    /// True if it belongs to a header block.
    is_block: bool,
}

/// Frames of one read, by kind.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    control: u32,
    resets: u32,
    window_updates: u32,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    interval: Duration,
    burst: u32,
}

/// A leaky bucket.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// Time at which everything in it will have leaked.
    empty_at: Option<Instant>,
}

impl Frames {
    pub fn new() -> Self {
        Self {
            reader: FrameReader::after_preface(PREFACE_BYTES),
            blocks: HeaderBlocks::new(),
            block: Block::None,
            section: Section::Head,
            payload: Payload::NONE,
            continuations: 0,
            newest_stream: 0,
            ended: 0,
            has_settings: false,
            counts: Counts::default(),
            control: Bucket::new(CONTROL),
            resets: Bucket::new(RESETS),
            window_updates: Bucket::new(WINDOW_UPDATES),
            free_updates: 0,
            written: 0,
            mistakes: 0,
        }
    }

    /// True if the client has sent all that it must: preface and first SETTINGS came, and every header block is
    /// complete.
    pub fn is_settled(&self) -> bool {
        self.has_settings && self.block == Block::None
    }

    /// Notes streams that the gate reset because of the client; the next `scan` counts them. Returns true if the
    /// connection should end with grace.
    pub fn note_mistakes(&mut self, resets: u32) -> bool {
        self.counts.resets = self.counts.resets.saturating_add(resets);
        self.mistakes = self.mistakes.saturating_add(resets);
        self.mistakes >= MISTAKES_MAX
    }

    /// Reads the next bytes of the connection and returns the number of control frames in them. `written` is the number
    /// of bytes that the gate wrote so far. Reads the clock only if there are frames to count. Changes nothing but the
    /// flags of malformed trailers.
    pub fn scan(&mut self, bytes: &mut [u8], written: u64, clock: impl FnOnce() -> Instant) -> Result<u32, Violation> {
        if let Section::Trailers { flags_at } = &mut self.section {
            *flags_at = None;
        }
        let mut malformed: SmallVec<[usize; 2]> = SmallVec::new();
        let mut rest: &[u8] = bytes;
        while let Some(piece) = self.reader.next(&mut rest) {
            match piece {
                FramePiece::Preface => {}
                FramePiece::Header(header) => self.begin_frame(header, (bytes.len() - rest.len()).checked_sub(HEADER_BYTES))?,
                FramePiece::Payload(payload) => malformed.extend(self.read_payload(payload)?),
            }
            if self.reader.is_at_start() && self.block == Block::Last {
                self.block = Block::None;
            }
        }
        for flags_at in malformed {
            if let Some(flags) = bytes.get_mut(flags_at) {
                *flags &= !END_STREAM;
            }
        }
        let counts = std::mem::take(&mut self.counts);
        if counts.control | counts.resets | counts.window_updates > 0 {
            self.fill_buckets(counts, written, clock())?;
        }
        Ok(counts.control)
    }

    /// Begins a frame. `at`: where its header begins in this read, if it does.
    fn begin_frame(&mut self, header: FrameHeader, at: Option<usize>) -> Result<(), Violation> {
        let FrameHeader { length, kind, flags, .. } = header;
        let ends = if flags & END_HEADERS == 0 { Block::Open } else { Block::Last };
        self.payload = Payload::NONE;
        match kind {
            HEADERS => {
                self.continuations = 0;
                self.block = ends;
                self.begin_block(header, at);
            }
            CONTINUATION => {
                self.continuations += 1;
                if self.continuations > CONTINUATIONS_MAX {
                    return Err(Violation::Flood);
                }
                self.block = ends;
                self.payload = Payload::block(length, 0);
            }
            RST_STREAM => self.counts.resets += 1,
            WINDOW_UPDATE => self.counts.window_updates += 1,
            DATA if flags & END_STREAM != 0 => self.end_stream(header.stream),
            DATA if length > 0 => {}
            _ => {
                self.has_settings |= kind == SETTINGS;
                self.counts.control += 1;
            }
        }
        Ok(())
    }

    fn begin_block(&mut self, header: FrameHeader, at: Option<usize>) {
        self.blocks.begin();
        self.payload = Payload::block(header.length, header.flags);
        // a client opens streams in ascending order, so a second head of an older one is its trailers
        self.section = match self.age(header.stream) {
            None => {
                let newer = (header.stream - self.newest_stream).div_ceil(2);
                self.ended = self.ended.checked_shl(newer).unwrap_or_default();
                self.newest_stream = header.stream;
                Section::Head
            }
            // h2 refuses frames of a stream that ended, with a code of its own
            Some(age) if self.ended.checked_shr(age).unwrap_or_default() & 1 == 1 => Section::Head,
            Some(_age) => Section::Trailers {
                flags_at: at.map(|at| at + FLAGS_AT),
            },
        };
        if header.flags & END_STREAM != 0 {
            self.end_stream(header.stream);
        }
    }

    fn end_stream(&mut self, stream: u32) {
        let bit = self.age(stream).and_then(|age| 1_u128.checked_shl(age));
        self.ended |= bit.unwrap_or_default();
    }

    /// The number of streams that the client could have opened after this one; `None`: it is a new one.
    const fn age(&self, stream: u32) -> Option<u32> {
        match self.newest_stream.checked_sub(stream) {
            Some(difference) => Some(difference / 2),
            None => None,
        }
    }

    /// Reads bytes of a payload. Returns the position of the flags of trailers that turned out to be malformed.
    fn read_payload(&mut self, payload: &[u8]) -> Result<Option<usize>, Violation> {
        let fragment = self.payload.fragment(payload);
        if fragment.is_empty() {
            return Ok(None);
        }
        let was_known = self.blocks.begins_with_pseudo_header();
        self.blocks.read(fragment);
        match self.section {
            Section::Trailers { flags_at } if !was_known && self.blocks.begins_with_pseudo_header() => {
                flags_at.map(Some).ok_or(Violation::MalformedTrailers)
            }
            _ => Ok(None),
        }
    }

    fn fill_buckets(&mut self, counts: Counts, written: u64, now: Instant) -> Result<(), Violation> {
        let explained = written.saturating_sub(self.written) / WINDOW_UPDATE_BYTES;
        self.written += explained * WINDOW_UPDATE_BYTES;
        self.free_updates = self.free_updates.saturating_add(explained).min(WINDOW_UPDATES_FREE_MAX);
        let updates = u64::from(counts.window_updates);
        let excess = updates.saturating_sub(self.free_updates);
        self.free_updates = self.free_updates.saturating_sub(updates);
        self.control.add(counts.control, now)?;
        self.resets.add(counts.resets, now)?;
        self.window_updates.add(u32::try_from(excess).unwrap_or(u32::MAX), now)
    }
}

impl Payload {
    /// A payload that is not read.
    const NONE: Self = Self {
        left: 0,
        has_padding: false,
        priority: 0,
        padding: 0,
        is_block: false,
    };

    const fn block(length: usize, flags: u8) -> Self {
        Self {
            left: length,
            has_padding: flags & PADDED != 0,
            priority: if flags & PRIORITY == 0 { 0 } else { PRIORITY_BYTES },
            padding: 0,
            is_block: true,
        }
    }

    /// Takes the next bytes of the payload and returns those that belong to the header block.
    fn fragment<'a>(&mut self, payload: &'a [u8]) -> &'a [u8] {
        if !self.is_block {
            return &[];
        }
        let mut rest = payload;
        if self.has_padding {
            let Some((padding, after)) = rest.split_first() else {
                return &[];
            };
            self.has_padding = false;
            self.padding = usize::from(*padding);
            self.left = self.left.saturating_sub(1);
            rest = after;
        }
        let skipped = self.priority.min(rest.len());
        self.priority -= skipped;
        let fragment = self.left.saturating_sub(skipped + self.padding);
        self.left = self.left.saturating_sub(rest.len());
        let rest = rest.get(skipped..).unwrap_or_default();
        rest.get(..fragment.min(rest.len())).unwrap_or_default()
    }
}

impl SentFrames {
    pub const fn new() -> Self {
        Self {
            reader: FrameReader::new(),
            code: None,
        }
    }

    /// Reads the next bytes that the client gets.
    pub fn scan(&mut self, mut bytes: &[u8]) -> SentResets {
        let mut resets = SentResets::default();
        while let Some(piece) = self.reader.next(&mut bytes) {
            match piece {
                FramePiece::Header(header) => self.code = (header.kind == RST_STREAM).then_some(0),
                FramePiece::Payload(payload) => {
                    if let Some(code) = &mut self.code {
                        *code = payload.iter().fold(*code, |code, byte| code << 8 | u32::from(*byte));
                        if self.reader.is_at_start() && MISTAKES.contains(code) {
                            resets.mistakes += 1;
                            resets.malformed += u32::from(*code == PROTOCOL_ERROR);
                        }
                    }
                }
                FramePiece::Preface => {}
            }
        }
        resets
    }
}

impl Rate {
    const fn per_second(count: u32, burst: u32) -> Self {
        Self {
            interval: Duration::from_micros(1_000_000 / count as u64),
            burst,
        }
    }
}

impl Bucket {
    const fn new(rate: Rate) -> Self {
        Self { rate, empty_at: None }
    }

    fn add(&mut self, frames: u32, now: Instant) -> Result<(), Violation> {
        let from = self.empty_at.map_or(now, |empty_at| empty_at.max(now));
        let room = self.rate.interval.saturating_mul(self.rate.burst);
        let added = self.rate.interval.saturating_mul(frames);
        if from.duration_since(now).saturating_add(added) > room {
            return Err(Violation::Flood);
        }
        self.empty_at = Some(from + added);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
