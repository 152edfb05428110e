//! Where every HTTP/1 message begins and ends, by a grammar with one reading.
//!
//! Sees each byte before hyper does, keeps no copy of them and decides nothing but "not like this". It stands against
//! what hyper reads generously (bare LF, `Content-Length` beside `Transfer-Encoding`, chunk extensions): between two
//! readers, generosity is how a request is smuggled. Whoever feeds it puts `POISON` where a verdict says; after any
//! prefix that passed, hyper refuses those bytes by itself.

mod octets;

use octets::{TARGET, TOKEN, run, value_run};

/// What a client could never send inside a message: ends every line and head, and is refused at every position of them.
pub const POISON: &[u8] = b"\0\r\n\r\n";
/// hyper's own limit of a trailer section, so that a longer one is refused with its head where that is still possible.
const TRAILER_BYTES_MAX: usize = 16 * 1024;
/// Digits of a `Content-Length`: below 10^18, far from any overflow.
const LENGTH_DIGITS_MAX: u8 = 18;
/// Digits of a chunk size: what a `u64` holds.
const CHUNK_DIGITS_MAX: u8 = 16;

const VERSION: &[u8] = b"HTTP/1.";
const CHUNKED: &[u8] = b"chunked";
const LONGEST_NAME: usize = b"transfer-encoding".len();

/// What may be done with the bytes of one read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    Pass,
    /// The byte at this offset and all after it must never be seen; `POISON` takes their place.
    Poison(usize),
    /// From this offset on, what the bytes mean depends on the answer to the request before them.
    Hold(usize),
}

/// The framing of one client's bytes.
#[derive(Clone, Debug)]
pub struct Framing {
    step: Step,
    section: Section,
    head: Head,
    name: SplitName,
    trailer_bytes: usize,
    heads: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// The method, or nothing of a message yet.
    Start,
    Method,
    TargetStart,
    Target,
    /// So many bytes of `HTTP/1.x` seen.
    Version(usize),
    /// CR of the request line.
    VersionEnd,
    LineStart,
    Name,
    Value,
    /// So many digits seen.
    Length(u8),
    /// So many bytes of `chunked` seen.
    Encoding(usize),
    /// LF of a line.
    LineEnd,
    /// LF of the empty line.
    SectionEnd,
    Body(u64),
    ChunkSize {
        size: u64,
        digits: u8,
    },
    ChunkSizeEnd(u64),
    ChunkData(u64),
    ChunkDataEnd,
    ChunkDataLf,
    /// After a message that asked to upgrade, before its answer.
    Held,
    /// After an upgrade: not HTTP/1.
    Opaque,
    /// After `POISON`: nothing passes any more.
    Poisoned,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Section {
    Head,
    Trailers,
}

#[derive(Clone, Copy, Debug, Default)]
struct Head {
    http11: bool,
    host: bool,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

/// The start of a field name that came in pieces.
#[derive(Clone, Copy, Debug, Default)]
struct SplitName {
    bytes: [u8; LONGEST_NAME],
    length: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Field {
    Other,
    Host,
    Length,
    Encoding,
    Upgrade,
    /// A framing name with `_` for `-`, which some apps read as the real one.
    Alias,
}

/// The offset of a byte that cannot stand where it stands.
#[derive(Debug)]
struct Bad(usize);

impl Framing {
    pub fn new() -> Self {
        Self {
            step: Step::Start,
            section: Section::Head,
            head: Head::default(),
            name: SplitName::default(),
            trailer_bytes: 0,
            heads: 0,
        }
    }

    /// Whole heads so far: the number of the request that the bytes now belong to.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    pub fn is_held(&self) -> bool {
        self.step == Step::Held
    }

    /// Whether the last byte was part of a head, and more of it must follow.
    pub fn is_in_head(&self) -> bool {
        let between = matches!(
            self.step,
            Step::Start
                | Step::Body(_)
                | Step::ChunkSize { .. }
                | Step::ChunkSizeEnd(_)
                | Step::ChunkData(_)
                | Step::ChunkDataEnd
                | Step::ChunkDataLf
                | Step::Held
                | Step::Opaque
                | Step::Poisoned
        );
        self.section == Section::Head && !between
    }

    /// The request before was answered, and not with 101: what follows is the next one.
    pub fn resume(&mut self) {
        self.step = Step::Start;
    }

    /// The request before was answered with 101: what follows is not HTTP/1.
    pub fn open(&mut self) {
        self.step = Step::Opaque;
    }

    /// The next bytes of the connection. After `Poison` the rest is gone; after `Hold` the held bytes come again.
    pub fn scan(&mut self, bytes: &[u8]) -> Verdict {
        let mut rest = bytes;
        // Where in this read the head of the current message ended: the last place where its request can still be stopped.
        let mut head_end = None;
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            match self.step {
                Step::Held => return Verdict::Hold(at),
                Step::Opaque => return Verdict::Pass,
                Step::Poisoned => return Verdict::Poison(at),
                Step::Start => head_end = None,
                Step::SectionEnd if self.section == Section::Head => head_end = Some(at),
                _ => {}
            }
            match self.advance(rest) {
                Ok(after) => rest = after,
                Err(Bad(offset)) => {
                    self.step = Step::Poisoned;
                    return Verdict::Poison(head_end.unwrap_or(at + offset));
                }
            }
        }
        Verdict::Pass
    }

    /// Reads as far as one step goes; gives what is left.
    fn advance<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], Bad> {
        let after = match self.step {
            Step::Start | Step::Method | Step::TargetStart | Step::Target => self.request_line(rest),
            Step::Version(seen) => self.version(rest, seen),
            Step::LineStart | Step::Name => self.name(rest),
            Step::Value => self.value(rest),
            Step::Length(digits) => self.length(rest, digits),
            Step::Encoding(seen) => self.encoding(rest, seen),
            Step::VersionEnd | Step::LineEnd => self.expect(rest, b'\n', Step::LineStart),
            Step::SectionEnd => self.section_end(rest),
            Step::Body(left) => self.skip(rest, left, Step::Body, Step::Held),
            Step::ChunkData(left) => self.skip(rest, left, Step::ChunkData, Step::ChunkDataEnd),
            Step::ChunkSize { size, digits } => self.chunk_size(rest, size, digits),
            Step::ChunkSizeEnd(size) => self.chunk_size_end(rest, size),
            Step::ChunkDataEnd => self.expect(rest, b'\r', Step::ChunkDataLf),
            Step::ChunkDataLf => self.expect(rest, b'\n', Step::ChunkSize { size: 0, digits: 0 }),
            Step::Held | Step::Opaque | Step::Poisoned => Err(Bad(0)),
        }?;
        if self.section == Section::Trailers {
            self.trailer_bytes = self.trailer_bytes.saturating_add(rest.len() - after.len());
            if self.trailer_bytes > TRAILER_BYTES_MAX {
                return Err(Bad(0));
            }
        }
        Ok(after)
    }

    /// Method and target, each at least one byte and followed by one space.
    fn request_line<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], Bad> {
        let (class, going, next) = match self.step {
            Step::Start | Step::Method => (TOKEN, Step::Method, Step::TargetStart),
            _ => (TARGET, Step::Target, Step::Version(0)),
        };
        let length = run(rest, class);
        if length > 0 {
            self.step = going;
        }
        match rest.split_at_checked(length) {
            Some((_, [b' ', after @ ..])) if self.step == going => {
                self.step = next;
                Ok(after)
            }
            Some((_, [])) => Ok(&[]),
            _ => Err(Bad(length)),
        }
    }

    fn version<'a>(&mut self, rest: &'a [u8], seen: usize) -> Result<&'a [u8], Bad> {
        if let (0, [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1', b'\r', after @ ..]) = (seen, rest) {
            // the usual case in one step
            self.head = Head {
                http11: true,
                ..Head::default()
            };
            self.step = Step::VersionEnd;
            return Ok(after);
        }
        let Some((byte, after)) = rest.split_first() else {
            return Ok(rest);
        };
        self.step = match (VERSION.get(seen), byte) {
            (Some(wanted), byte) if wanted == byte => Step::Version(seen + 1),
            (None, b'0' | b'1') if seen == VERSION.len() => {
                self.head = Head {
                    http11: *byte == b'1',
                    ..Head::default()
                };
                Step::Version(seen + 1)
            }
            (None, b'\r') if seen > VERSION.len() => Step::VersionEnd,
            _ => return Err(Bad(0)),
        };
        Ok(after)
    }

    /// A field name up to its colon, or the CR of the empty line.
    fn name<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], Bad> {
        if self.step == Step::LineStart {
            if let [b'\r', after @ ..] = rest {
                self.step = Step::SectionEnd;
                return self.end_of_fields().map(|()| after);
            }
            self.name.length = 0;
        }
        let length = run(rest, TOKEN);
        let Some((piece, after)) = rest.split_at_checked(length) else {
            return Err(Bad(0));
        };
        let split = self.step == Step::Name;
        match after {
            [] => {
                self.name.push(piece);
                self.step = Step::Name;
                Ok(after)
            }
            [b':', after @ ..] if split || length > 0 => {
                let field = if split {
                    self.name.push(piece);
                    self.name.field()
                } else {
                    field(piece)
                };
                self.field(field).map(|()| after).map_err(|Bad(_)| Bad(length))
            }
            _ => Err(Bad(length)),
        }
    }

    /// What a field's name says of the framing, and how its value is read.
    fn field(&mut self, field: Field) -> Result<(), Bad> {
        let head = &mut self.head;
        let trailers = self.section == Section::Trailers;
        self.step = match field {
            Field::Other => Step::Value,
            Field::Upgrade => {
                // Only HTTP/1.1 can switch.
                head.upgrade |= head.http11 && !trailers;
                Step::Value
            }
            _ if trailers => return Err(Bad(0)),
            Field::Host if !head.host => {
                head.host = true;
                Step::Value
            }
            Field::Length if head.length.is_none() && !head.chunked => {
                head.length = Some(0);
                Step::Length(0)
            }
            Field::Encoding if head.length.is_none() && !head.chunked && head.http11 => {
                head.chunked = true;
                Step::Encoding(0)
            }
            Field::Host | Field::Length | Field::Encoding | Field::Alias => return Err(Bad(0)),
        };
        Ok(())
    }

    fn value<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], Bad> {
        let length = value_run(rest);
        match rest.split_at_checked(length) {
            // the usual case in one step
            Some((_, [b'\r', b'\n', after @ ..])) => {
                self.step = Step::LineStart;
                Ok(after)
            }
            Some((_, [b'\r', after @ ..])) => {
                self.step = Step::LineEnd;
                Ok(after)
            }
            Some((_, [])) => Ok(&[]),
            _ => Err(Bad(length)),
        }
    }

    /// Canonical decimal: spaces before it, nothing after it.
    fn length<'a>(&mut self, rest: &'a [u8], digits: u8) -> Result<&'a [u8], Bad> {
        let Some((byte, after)) = rest.split_first() else {
            return Ok(rest);
        };
        let value = self.head.length.unwrap_or(0);
        self.step = match byte {
            b' ' if digits == 0 => Step::Length(0),
            // A second digit after a leading zero is another spelling of the same number.
            b'0'..=b'9' if digits < LENGTH_DIGITS_MAX && (digits == 0 || value > 0) => {
                self.head.length = Some(value * 10 + u64::from(byte - b'0'));
                Step::Length(digits + 1)
            }
            b'\r' if digits > 0 => Step::LineEnd,
            _ => return Err(Bad(0)),
        };
        Ok(after)
    }

    fn encoding<'a>(&mut self, rest: &'a [u8], seen: usize) -> Result<&'a [u8], Bad> {
        let Some((byte, after)) = rest.split_first() else {
            return Ok(rest);
        };
        self.step = match (byte, CHUNKED.get(seen)) {
            (b' ', _) if seen == 0 => Step::Encoding(0),
            (byte, Some(wanted)) if byte.eq_ignore_ascii_case(wanted) => Step::Encoding(seen + 1),
            (b'\r', None) => Step::LineEnd,
            _ => return Err(Bad(0)),
        };
        Ok(after)
    }

    fn expect<'a>(&mut self, rest: &'a [u8], wanted: u8, next: Step) -> Result<&'a [u8], Bad> {
        match rest.split_first() {
            Some((byte, after)) if *byte == wanted => {
                self.step = next;
                Ok(after)
            }
            Some(_) => Err(Bad(0)),
            None => Ok(rest),
        }
    }

    /// What can only be said of a whole head; its last two bytes are not released yet.
    fn end_of_fields(&self) -> Result<(), Bad> {
        if self.section == Section::Head && self.head.http11 && !self.head.host {
            return Err(Bad(0));
        }
        Ok(())
    }

    fn section_end<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], Bad> {
        let after = self.expect(rest, b'\n', Step::Start)?;
        if self.section == Section::Trailers {
            self.finish();
            return Ok(after);
        }
        self.heads = self.heads.saturating_add(1);
        match self.head {
            Head { chunked: true, .. } => self.step = Step::ChunkSize { size: 0, digits: 0 },
            Head { length: Some(left), .. } if left > 0 => self.step = Step::Body(left),
            _ => self.finish(),
        }
        Ok(after)
    }

    fn skip<'a>(&mut self, rest: &'a [u8], left: u64, going: fn(u64) -> Step, done: Step) -> Result<&'a [u8], Bad> {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        let left = left.saturating_sub(length as u64);
        if left > 0 {
            self.step = going(left);
        } else if done == Step::Held {
            self.finish();
        } else {
            self.step = done;
        }
        rest.get(length..).ok_or(Bad(0))
    }

    fn chunk_size<'a>(&mut self, rest: &'a [u8], size: u64, digits: u8) -> Result<&'a [u8], Bad> {
        let Some((byte, after)) = rest.split_first() else {
            return Ok(rest);
        };
        self.step = match (char::from(*byte).to_digit(16), byte) {
            (Some(digit), _) if digits < CHUNK_DIGITS_MAX => Step::ChunkSize {
                size: size << 4 | u64::from(digit),
                digits: digits + 1,
            },
            (None, b'\r') if digits > 0 && i64::try_from(size).is_ok() => Step::ChunkSizeEnd(size),
            _ => return Err(Bad(0)),
        };
        Ok(after)
    }

    fn chunk_size_end<'a>(&mut self, rest: &'a [u8], size: u64) -> Result<&'a [u8], Bad> {
        let next = if size == 0 { Step::LineStart } else { Step::ChunkData(size) };
        let after = self.expect(rest, b'\n', next)?;
        if size == 0 {
            self.section = Section::Trailers;
            self.trailer_bytes = 0;
        }
        Ok(after)
    }

    /// The message is whole; what follows is the next one, unless the answer makes it something else.
    fn finish(&mut self) {
        self.step = if self.head.upgrade { Step::Held } else { Step::Start };
        self.section = Section::Head;
    }
}

impl SplitName {
    /// A name longer than any that matters is kept as too long.
    fn push(&mut self, piece: &[u8]) {
        for byte in piece {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = *byte;
            }
            self.length = self.length.saturating_add(1);
        }
    }

    fn field(&self) -> Field {
        self.bytes.get(..self.length).map_or(Field::Other, field)
    }
}

fn field(name: &[u8]) -> Field {
    let framing = |wanted: &[u8], found| {
        let same = |(a, b): (&u8, &u8)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-');
        if name.eq_ignore_ascii_case(wanted) {
            found
        } else if name.iter().zip(wanted).all(same) {
            Field::Alias
        } else {
            Field::Other
        }
    };
    match name.len() {
        4 if name.eq_ignore_ascii_case(b"host") => Field::Host,
        7 if name.eq_ignore_ascii_case(b"upgrade") => Field::Upgrade,
        14 => framing(b"content-length", Field::Length),
        17 => framing(b"transfer-encoding", Field::Encoding),
        _ => Field::Other,
    }
}

#[cfg(test)]
mod tests;
