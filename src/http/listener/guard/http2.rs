//! Counts HTTP/2 frames that cost their sender little and us more: pings, settings, resets, priorities, empty data,
//! header blocks in crumbs.
//!
//! Reads frame headers only, skips payloads, changes nothing; h2 stays the parser and refuses what is malformed. Each
//! kind has a leaky bucket per connection; a full one ends the connection. No stream is open to a flood: what a
//! request costs is bounded elsewhere (`limits.streams`, rates).

use std::time::Duration;

use tokio::time::Instant;

/// The client's connection preface, before the first frame.
const PREFACE_BYTES: usize = 24;
const HEADER_BYTES: usize = 9;
/// PING, SETTINGS, PRIORITY, unknown types and DATA without data. gRPC's keepalive and bandwidth pings are a few per
/// second, a browser's PRIORITY_UPDATE one per request.
const CONTROL: Rate = Rate::per_second(200, 2000);
/// A client that resets more streams than this does not want answers (rapid reset). A page that is left resets its
/// open requests once.
const RESETS: Rate = Rate::per_second(50, 500);
/// Window updates beyond what our own bytes explain.
const WINDOW_UPDATES: Rate = Rate::per_second(1000, 5000);
/// Two window updates, stream and connection, answer one DATA frame of ours: at least a header and some bytes.
const WINDOW_UPDATE_BYTES: u64 = 8;
/// Updates that a long download may leave unused.
const WINDOW_UPDATES_EARNED_MAX: u64 = 1 << 20;
/// At 16 KiB each far more than any header limit of ours; only crumbs are more.
const CONTINUATIONS_MAX: u32 = 64;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// The client sends more of something than any client needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flood;

/// The frames of one client's bytes.
#[derive(Debug)]
pub struct Frames {
    step: Step,
    block: Block,
    continuations: u32,
    greeted: bool,
    counts: Counts,
    control: Bucket,
    resets: Bucket,
    window_updates: Bucket,
    /// Window updates that bytes of ours explain and the client did not send yet.
    earned: u64,
    /// Bytes of ours that `earned` knows of.
    written: u64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many bytes of the preface are to come.
    Preface(usize),
    Header {
        bytes: [u8; HEADER_BYTES],
        have: usize,
    },
    /// So many bytes of a payload are to come.
    Payload(usize),
}

/// A header block: what one request's head is sent in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Block {
    None,
    /// More frames of it follow.
    Open,
    /// The frame that is being read ends it.
    Last,
}

/// What came in one read.
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

/// When it will have leaked everything that went in.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    empty_at: Option<Instant>,
}

impl Frames {
    pub fn new() -> Self {
        Self {
            step: Step::Preface(PREFACE_BYTES),
            block: Block::None,
            continuations: 0,
            greeted: false,
            counts: Counts::default(),
            control: Bucket::new(CONTROL),
            resets: Bucket::new(RESETS),
            window_updates: Bucket::new(WINDOW_UPDATES),
            earned: 0,
            written: 0,
        }
    }

    /// Whether preface and first SETTINGS came and no request's head is half here: nothing that the client owes us.
    pub fn is_settled(&self) -> bool {
        self.greeted && self.block == Block::None
    }

    /// The next bytes of the connection; `written` of ours went the other way so far. The clock is read only if there is
    /// something to count. Gives the number of frames that are noise.
    pub fn scan(&mut self, bytes: &[u8], written: u64, clock: impl FnOnce() -> Instant) -> Result<u32, Flood> {
        let mut rest = bytes;
        while let Some(after) = self.advance(rest)? {
            rest = after;
        }
        let counts = std::mem::take(&mut self.counts);
        if counts.control | counts.resets | counts.window_updates > 0 {
            self.pour(counts, written, clock())?;
        }
        Ok(counts.control)
    }

    /// One step further; `None` when nothing is left to read.
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
                for (place, byte) in bytes.iter_mut().skip(*have).zip(rest) {
                    *place = *byte;
                }
                *have += length;
                if *have == HEADER_BYTES {
                    let header = *bytes;
                    self.frame(header)?;
                }
                rest.get(length..)
            }
        };
        Ok(after)
    }

    fn frame(&mut self, header: [u8; HEADER_BYTES]) -> Result<(), Flood> {
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
                self.greeted |= kind == SETTINGS;
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

    fn pour(&mut self, counts: Counts, written: u64, now: Instant) -> Result<(), Flood> {
        let earned = written.saturating_sub(self.written) / WINDOW_UPDATE_BYTES;
        self.written += earned * WINDOW_UPDATE_BYTES;
        self.earned = self.earned.saturating_add(earned).min(WINDOW_UPDATES_EARNED_MAX);
        let updates = u64::from(counts.window_updates);
        let excess = updates.saturating_sub(self.earned);
        self.earned = self.earned.saturating_sub(updates);
        self.control.pour(counts.control, now)?;
        self.resets.pour(counts.resets, now)?;
        self.window_updates.pour(u32::try_from(excess).unwrap_or(u32::MAX), now)
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

    fn pour(&mut self, drops: u32, now: Instant) -> Result<(), Flood> {
        let from = self.empty_at.map_or(now, |empty_at| empty_at.max(now));
        let room = self.rate.interval.saturating_mul(self.rate.burst);
        let added = self.rate.interval.saturating_mul(drops);
        if from.duration_since(now).saturating_add(added) > room {
            return Err(Flood);
        }
        self.empty_at = Some(from + added);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
