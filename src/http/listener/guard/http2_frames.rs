//! Counts HTTP/2 frames that cost their sender little and the gate more: pings, settings, resets, priorities, empty data,
//! header blocks in many small pieces.
//!
//! It reads frame headers only, skips payloads and changes nothing; h2 stays the parser and refuses malformed frames. Each
//! kind has a leaky bucket per connection. A full bucket ends the connection, because most of these frames belong to the
//! connection and not to one stream. Requests are not counted here: `limits.streams` and the rates bound them.
//!
//! A frame counts when its header is complete, in however many reads that came. Window updates are free as far as bytes
//! that the gate wrote explain them. A write is noted in the poll in which the socket takes it, so no update is read
//! before the bytes that it answers are counted.

use std::time::Duration;

use tokio::time::Instant;

/// The client's connection preface, before the first frame.
const PREFACE_BYTES: usize = 24;
const HEADER_BYTES: usize = 9;
/// PING, SETTINGS, PRIORITY, unknown types and DATA without data. gRPC's keepalive and bandwidth pings are a few per
/// second, a browser's PRIORITY_UPDATE one per request.
const CONTROL: Rate = Rate::per_second(200, 2000);
/// RST_STREAM. A client that resets more streams wants no answers (rapid reset). A browser that leaves a page resets its open
/// requests once.
const RESETS: Rate = Rate::per_second(50, 500);
/// Window updates that the bytes written by the gate do not explain.
const WINDOW_UPDATES: Rate = Rate::per_second(1000, 5000);
/// A client answers one DATA frame of the gate with two window updates, for stream and connection. A frame is a header and
/// some bytes, so every so many written bytes explain one update.
const WINDOW_UPDATE_BYTES: u64 = 8;
/// Explained updates that a client may save up in a long download.
const WINDOW_UPDATES_FREE_MAX: u64 = 1 << 20;
/// CONTINUATION frames of one header block. At 16 KiB each they hold far more than any header limit.
const CONTINUATIONS_MAX: u32 = 64;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// The client sends more frames of a kind than any client needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flood;

/// The frames of one connection.
#[derive(Debug)]
pub struct Frames {
    step: Step,
    block: Block,
    continuations: u32,
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
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Bytes of the preface that are to come.
    Preface(usize),
    Header {
        bytes: [u8; HEADER_BYTES],
        have: usize,
    },
    /// Bytes of a payload that are to come.
    Payload(usize),
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
            step: Step::Preface(PREFACE_BYTES),
            block: Block::None,
            continuations: 0,
            has_settings: false,
            counts: Counts::default(),
            control: Bucket::new(CONTROL),
            resets: Bucket::new(RESETS),
            window_updates: Bucket::new(WINDOW_UPDATES),
            free_updates: 0,
            written: 0,
        }
    }

    /// True if the client owes nothing: preface and first SETTINGS came, and every header block is complete.
    pub fn is_settled(&self) -> bool {
        self.has_settings && self.block == Block::None
    }

    /// Reads the next bytes of the connection and returns the number of control frames in them. `written` is the number of
    /// bytes that the gate wrote so far. Reads the clock only if there are frames to count.
    pub fn scan(&mut self, bytes: &[u8], written: u64, clock: impl FnOnce() -> Instant) -> Result<u32, Flood> {
        let mut rest = bytes;
        while let Some(after) = self.advance(rest)? {
            rest = after;
        }
        let counts = std::mem::take(&mut self.counts);
        if counts.control | counts.resets | counts.window_updates > 0 {
            self.fill_buckets(counts, written, clock())?;
        }
        Ok(counts.control)
    }

    /// Reads the bytes of one step and returns the rest; `None` when no bytes are left.
    fn advance<'a>(&mut self, rest: &'a [u8]) -> Result<Option<&'a [u8]>, Flood> {
        if rest.is_empty() {
            return Ok(None);
        }
        let after = match &mut self.step {
            Step::Preface(left) | Step::Payload(left) => {
                let length = (*left).min(rest.len());
                *left -= length;
                let done = *left == 0;
                if done {
                    self.end_payload();
                }
                rest.get(length..)
            }
            Step::Header { bytes, have } => {
                let length = HEADER_BYTES.saturating_sub(*have).min(rest.len());
                for (slot, byte) in bytes.iter_mut().skip(*have).zip(rest) {
                    *slot = *byte;
                }
                *have += length;
                if *have == HEADER_BYTES {
                    let header = *bytes;
                    self.count_frame(header)?;
                }
                rest.get(length..)
            }
        };
        Ok(after)
    }

    fn count_frame(&mut self, header: [u8; HEADER_BYTES]) -> Result<(), Flood> {
        let [a, b, c, kind, flags, ..] = header;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let ends = if flags & END_HEADERS == 0 { Block::Open } else { Block::Last };
        match kind {
            HEADERS => {
                self.continuations = 0;
                self.block = ends;
            }
            CONTINUATION => {
                self.continuations += 1;
                if self.continuations > CONTINUATIONS_MAX {
                    return Err(Flood);
                }
                self.block = ends;
            }
            RST_STREAM => self.counts.resets += 1,
            WINDOW_UPDATE => self.counts.window_updates += 1,
            DATA if length > 0 || flags & END_STREAM != 0 => {}
            _ => {
                self.has_settings |= kind == SETTINGS;
                self.counts.control += 1;
            }
        }
        self.step = Step::Payload(length);
        if length == 0 {
            self.end_payload();
        }
        Ok(())
    }

    fn end_payload(&mut self) {
        if self.block == Block::Last {
            self.block = Block::None;
        }
        self.step = Step::Header {
            bytes: [0; HEADER_BYTES],
            have: 0,
        };
    }

    fn fill_buckets(&mut self, counts: Counts, written: u64, now: Instant) -> Result<(), Flood> {
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

    fn add(&mut self, frames: u32, now: Instant) -> Result<(), Flood> {
        let from = self.empty_at.map_or(now, |empty_at| empty_at.max(now));
        let room = self.rate.interval.saturating_mul(self.rate.burst);
        let added = self.rate.interval.saturating_mul(frames);
        if from.duration_since(now).saturating_add(added) > room {
            return Err(Flood);
        }
        self.empty_at = Some(from + added);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
