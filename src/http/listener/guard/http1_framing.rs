//! The framing of HTTP/1: where every message begins and ends, by a grammar with one reading.
//!
//! Smuggling needs two readers that disagree about the end of a message. hyper reads generously: bare LF,
//! `Content-Length` beside `Transfer-Encoding`, chunk extensions. This state machine sees each byte before hyper, keeps
//! no copy of it, and refuses every byte that another reader could read in another way.
//!
//! The order that makes a refusal safe: bytes pass to hyper only up to the refused one, and `INVALID_BYTES` follow in
//! its place. hyper refuses these at every position of a head or chunk line, so it cannot complete the message. If the
//! read that holds the refused byte also holds the end of the message's head, the whole request is stopped; if hyper
//! already has the head, only the body breaks. Nothing passes after a refusal.
//!
//! Bytes of a target that clients should have escaped (`é`, `<`, `"`) are not refused: `scan` returns `Escape`, and the
//! caller writes the escapes before any reader sees the target.
//!
//! One case cannot be decided here: bytes behind a request that asks to upgrade are HTTP or a tunnel, depending on the
//! answer. `scan` returns `Hold` for them until the caller says `continue_as_http` or `continue_as_tunnel`.
//!
//! A fault here can refuse too much. It can never let more pass than hyper accepts by itself (docs/decisions/0011).

mod byte_classes;
mod field_name;

use byte_classes::{TARGET, TOKEN, UNESCAPED, run, value_run};
use field_name::{NamedField, SplitName, classify};

/// Bytes that hyper refuses at every position of a head or a line; they also end every line and head.
pub const INVALID_BYTES: &[u8] = b"\0\r\n\r\n";
/// hyper's own limit of a trailer section. The guard refuses a longer one earlier, so that its request can still be
/// stopped.
const TRAILER_BYTES_MAX: usize = 16 * 1024;
/// Digits of a `Content-Length`: values below 10^18 cannot overflow.
const LENGTH_DIGITS_MAX: u8 = 18;
/// Digits of a chunk size that fit a `u64`.
const CHUNK_DIGITS_MAX: u8 = 16;

const VERSION: &[u8] = b"HTTP/1.";
const CHUNKED: &[u8] = b"chunked";

/// The verdict on the bytes of one read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ScanResult {
    Pass,
    /// The byte at this offset and all bytes after it must not pass; `INVALID_BYTES` take their place.
    Refuse(usize),
    /// From this offset on, the meaning of the bytes depends on the answer to the request before them.
    Hold(usize),
    /// Bytes of a target that must be percent-encoded. The caller puts the escapes in their place and passes them, and
    /// what follows, again.
    Escape(Unescaped),
}

/// A run of bytes of a target, some of which are unescaped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unescaped {
    pub at: usize,
    pub length: usize,
}

/// The framing of the bytes of one connection.
#[derive(Clone, Debug)]
pub struct Framing {
    step: FramingState,
    section: Section,
    head: Head,
    name: SplitName,
    trailer_bytes: usize,
    heads: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum FramingState {
    /// Before the first byte of a message.
    Start,
    Method,
    TargetStart,
    Target,
    /// Bytes of `HTTP/1.x` seen.
    Version(usize),
    /// After the CR of the request line.
    VersionEnd,
    LineStart,
    Name,
    Value,
    /// Digits seen.
    Length(u8),
    /// Bytes of `chunked` seen.
    Encoding(usize),
    /// After the CR of a line.
    LineEnd,
    /// After the CR of the empty line.
    SectionEnd,
    /// Bytes of the body that are to come.
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
    /// After an upgrade: the bytes are no HTTP/1.
    Tunnel,
    /// After a refused byte: nothing passes any more.
    Refused,
}

/// The body of an HTTP/1 request, as far as its bytes came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BodyProgress {
    Complete,
    CompleteInChunks,
    Incomplete,
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

/// The offset of a byte that the grammar does not allow at its position.
#[derive(Debug)]
struct BadByte(usize);

impl Framing {
    pub fn new() -> Self {
        Self {
            step: FramingState::Start,
            section: Section::Head,
            head: Head::default(),
            name: SplitName::default(),
            trailer_bytes: 0,
            heads: 0,
        }
    }

    /// Number of complete heads, and so of the request that the current bytes belong to.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// True if the bytes behind a request that asked to upgrade wait for its answer.
    pub fn is_held(&self) -> bool {
        self.step == FramingState::Held
    }

    /// True if no message is half read.
    pub fn is_between_messages(&self) -> bool {
        matches!(self.step, FramingState::Start | FramingState::Held | FramingState::Tunnel)
    }

    /// True after an upgrade.
    pub fn is_tunnel(&self) -> bool {
        self.step == FramingState::Tunnel
    }

    /// True if the last byte was part of a head that is not complete.
    pub fn is_in_head(&self) -> bool {
        let outside_a_head = matches!(
            self.step,
            FramingState::Start
                | FramingState::Body(_)
                | FramingState::ChunkSize { .. }
                | FramingState::ChunkSizeEnd(_)
                | FramingState::ChunkData(_)
                | FramingState::ChunkDataEnd
                | FramingState::ChunkDataLf
                | FramingState::Held
                | FramingState::Tunnel
                | FramingState::Refused
        );
        self.section == Section::Head && !outside_a_head
    }

    /// The last request's body, as far as its bytes came.
    pub fn body(&self) -> BodyProgress {
        match self.step {
            _ if self.is_in_head() => BodyProgress::Complete,
            FramingState::Tunnel | FramingState::Refused => BodyProgress::Complete,
            FramingState::Start | FramingState::Held if self.head.chunked => BodyProgress::CompleteInChunks,
            FramingState::Start | FramingState::Held => BodyProgress::Complete,
            _ => BodyProgress::Incomplete,
        }
    }

    /// Continues after `Hold`: the answer was not 101, so the next request follows.
    pub fn continue_as_http(&mut self) {
        self.step = FramingState::Start;
    }

    /// Continues after `Hold`: the answer was 101, so no HTTP/1 follows.
    pub fn continue_as_tunnel(&mut self) {
        self.step = FramingState::Tunnel;
    }

    /// Reads the next bytes of the connection. After `Refuse` it reads no more; after `Hold` the caller passes the held
    /// bytes again.
    pub fn scan(&mut self, bytes: &[u8]) -> ScanResult {
        let mut rest = bytes;
        // offset at which the current message's head ends in this read: up to there, its request can still be stopped
        let mut head_end = None;
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            match self.step {
                FramingState::Held => return ScanResult::Hold(at),
                FramingState::Tunnel => return ScanResult::Pass,
                FramingState::Refused => return ScanResult::Refuse(at),
                FramingState::Start => head_end = None,
                FramingState::SectionEnd if self.section == Section::Head => head_end = Some(at),
                _ => {}
            }
            match self.advance(rest) {
                Ok(after) => rest = after,
                Err(BadByte(offset)) => {
                    if let Some(length) = self.unescaped(rest, offset) {
                        return ScanResult::Escape(Unescaped { at: at + offset, length });
                    }
                    self.step = FramingState::Refused;
                    return ScanResult::Refuse(head_end.unwrap_or(at + offset));
                }
            }
        }
        ScanResult::Pass
    }

    /// The length of the run of bytes of the target from `offset` on, if it begins with an unescaped one.
    ///
    /// SECURITY: hyper and every later reader see the escapes alone, so the target that is decided on is the one that
    /// is forwarded.
    fn unescaped(&mut self, rest: &[u8], offset: usize) -> Option<usize> {
        if !matches!(self.step, FramingState::TargetStart | FramingState::Target) {
            return None;
        }
        let bytes = rest.get(offset..)?;
        if run(bytes, UNESCAPED) == 0 {
            return None;
        }
        self.step = FramingState::Target;
        Some(run(bytes, TARGET | UNESCAPED))
    }

    /// Reads the bytes of one step and returns the rest.
    fn advance<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], BadByte> {
        let after = match self.step {
            FramingState::Start | FramingState::Method | FramingState::TargetStart | FramingState::Target => {
                self.read_request_line(rest)
            }
            FramingState::Version(seen) => self.read_version(rest, seen),
            FramingState::LineStart | FramingState::Name => self.read_name(rest),
            FramingState::Value => self.read_value(rest),
            FramingState::Length(digits) => self.read_length(rest, digits),
            FramingState::Encoding(seen) => self.read_encoding(rest, seen),
            FramingState::VersionEnd | FramingState::LineEnd => self.expect(rest, b'\n', FramingState::LineStart),
            FramingState::SectionEnd => self.end_section(rest),
            FramingState::Body(left) => self.skip(rest, left, FramingState::Body, FramingState::Held),
            FramingState::ChunkData(left) => self.skip(rest, left, FramingState::ChunkData, FramingState::ChunkDataEnd),
            FramingState::ChunkSize { size, digits } => self.read_chunk_size(rest, size, digits),
            FramingState::ChunkSizeEnd(size) => self.end_chunk_size(rest, size),
            FramingState::ChunkDataEnd => self.expect(rest, b'\r', FramingState::ChunkDataLf),
            FramingState::ChunkDataLf => self.expect(rest, b'\n', FramingState::ChunkSize { size: 0, digits: 0 }),
            FramingState::Held | FramingState::Tunnel | FramingState::Refused => Err(BadByte(0)),
        }?;
        if self.section == Section::Trailers {
            self.trailer_bytes = self.trailer_bytes.saturating_add(rest.len() - after.len());
            if self.trailer_bytes > TRAILER_BYTES_MAX {
                return Err(BadByte(0));
            }
        }
        Ok(after)
    }

    /// Method and target, each at least one byte and followed by one space.
    fn read_request_line<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], BadByte> {
        let (class, current, next) = match self.step {
            FramingState::Start | FramingState::Method => (TOKEN, FramingState::Method, FramingState::TargetStart),
            _ => (TARGET, FramingState::Target, FramingState::Version(0)),
        };
        let length = run(rest, class);
        if length > 0 {
            self.step = current;
        }
        match rest.split_at_checked(length) {
            Some((_, [b' ', after @ ..])) if self.step == current => {
                self.step = next;
                Ok(after)
            }
            Some((_, [])) => Ok(&[]),
            _ => Err(BadByte(length)),
        }
    }

    fn read_version<'a>(&mut self, rest: &'a [u8], seen: usize) -> Result<&'a [u8], BadByte> {
        if let (0, [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1', b'\r', after @ ..]) = (seen, rest) {
            // the common case in one step
            self.head = Head {
                http11: true,
                ..Head::default()
            };
            self.step = FramingState::VersionEnd;
            return Ok(after);
        }
        let Some((byte, after)) = rest.split_first() else {
            return Ok(rest);
        };
        self.step = match (VERSION.get(seen), byte) {
            (Some(wanted), byte) if wanted == byte => FramingState::Version(seen + 1),
            (None, b'0' | b'1') if seen == VERSION.len() => {
                self.head = Head {
                    http11: *byte == b'1',
                    ..Head::default()
                };
                FramingState::Version(seen + 1)
            }
            (None, b'\r') if seen > VERSION.len() => FramingState::VersionEnd,
            _ => return Err(BadByte(0)),
        };
        Ok(after)
    }

    /// A field name up to its colon, or the CR of the empty line.
    fn read_name<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], BadByte> {
        if self.step == FramingState::LineStart {
            if let [b'\r', after @ ..] = rest {
                self.step = FramingState::SectionEnd;
                return self.check_head().map(|()| after);
            }
            self.name.clear();
        }
        let length = run(rest, TOKEN);
        let Some((piece, after)) = rest.split_at_checked(length) else {
            return Err(BadByte(0));
        };
        let split = self.step == FramingState::Name;
        match after {
            [] => {
                self.name.push(piece);
                self.step = FramingState::Name;
                Ok(after)
            }
            [b':', after @ ..] if split || length > 0 => {
                let field = if split {
                    self.name.push(piece);
                    self.name.field()
                } else {
                    classify(piece)
                };
                self.apply_field(field).map(|()| after).map_err(|BadByte(_)| BadByte(length))
            }
            _ => Err(BadByte(length)),
        }
    }

    /// Applies a field's name to the framing, and selects how its value is read.
    fn apply_field(&mut self, field: NamedField) -> Result<(), BadByte> {
        let head = &mut self.head;
        let trailers = self.section == Section::Trailers;
        self.step = match field {
            NamedField::Other => FramingState::Value,
            NamedField::Upgrade => {
                // only HTTP/1.1 can switch protocols
                head.upgrade |= head.http11 && !trailers;
                FramingState::Value
            }
            _ if trailers => return Err(BadByte(0)),
            NamedField::Host if !head.host => {
                head.host = true;
                FramingState::Value
            }
            NamedField::Length if head.length.is_none() && !head.chunked => {
                head.length = Some(0);
                FramingState::Length(0)
            }
            NamedField::Encoding if head.length.is_none() && !head.chunked && head.http11 => {
                head.chunked = true;
                FramingState::Encoding(0)
            }
            NamedField::Host | NamedField::Length | NamedField::Encoding | NamedField::Alias => return Err(BadByte(0)),
        };
        Ok(())
    }

    fn read_value<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], BadByte> {
        let length = value_run(rest);
        match rest.split_at_checked(length) {
            // the common case in one step
            Some((_, [b'\r', b'\n', after @ ..])) => {
                self.step = FramingState::LineStart;
                Ok(after)
            }
            Some((_, [b'\r', after @ ..])) => {
                self.step = FramingState::LineEnd;
                Ok(after)
            }
            Some((_, [])) => Ok(&[]),
            _ => Err(BadByte(length)),
        }
    }

    /// Reads a canonical decimal: spaces may precede it, only CR may follow it.
    fn read_length<'a>(&mut self, rest: &'a [u8], digits: u8) -> Result<&'a [u8], BadByte> {
        let Some((byte, after)) = rest.split_first() else {
            return Ok(rest);
        };
        let value = self.head.length.unwrap_or(0);
        self.step = match byte {
            b' ' if digits == 0 => FramingState::Length(0),
            // a digit after a leading zero is another spelling of the same number
            b'0'..=b'9' if digits < LENGTH_DIGITS_MAX && (digits == 0 || value > 0) => {
                self.head.length = Some(value * 10 + u64::from(byte - b'0'));
                FramingState::Length(digits + 1)
            }
            b'\r' if digits > 0 => FramingState::LineEnd,
            _ => return Err(BadByte(0)),
        };
        Ok(after)
    }

    fn read_encoding<'a>(&mut self, rest: &'a [u8], seen: usize) -> Result<&'a [u8], BadByte> {
        let Some((byte, after)) = rest.split_first() else {
            return Ok(rest);
        };
        self.step = match (byte, CHUNKED.get(seen)) {
            (b' ', _) if seen == 0 => FramingState::Encoding(0),
            (byte, Some(wanted)) if byte.eq_ignore_ascii_case(wanted) => FramingState::Encoding(seen + 1),
            (b'\r', None) => FramingState::LineEnd,
            _ => return Err(BadByte(0)),
        };
        Ok(after)
    }

    fn expect<'a>(&mut self, rest: &'a [u8], wanted: u8, next: FramingState) -> Result<&'a [u8], BadByte> {
        match rest.split_first() {
            Some((byte, after)) if *byte == wanted => {
                self.step = next;
                Ok(after)
            }
            Some(_) => Err(BadByte(0)),
            None => Ok(rest),
        }
    }

    /// Checks the complete head. Its last two bytes have not passed yet.
    fn check_head(&self) -> Result<(), BadByte> {
        if self.section == Section::Head && self.head.http11 && !self.head.host {
            return Err(BadByte(0));
        }
        Ok(())
    }

    fn end_section<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], BadByte> {
        let after = self.expect(rest, b'\n', FramingState::Start)?;
        if self.section == Section::Trailers {
            self.end_message();
            return Ok(after);
        }
        self.heads = self.heads.saturating_add(1);
        match self.head {
            Head { chunked: true, .. } => self.step = FramingState::ChunkSize { size: 0, digits: 0 },
            Head { length: Some(left), .. } if left > 0 => self.step = FramingState::Body(left),
            _ => self.end_message(),
        }
        Ok(after)
    }

    fn skip<'a>(
        &mut self,
        rest: &'a [u8],
        left: u64,
        current: fn(u64) -> FramingState,
        next: FramingState,
    ) -> Result<&'a [u8], BadByte> {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        let left = left.saturating_sub(length as u64);
        if left > 0 {
            self.step = current(left);
        } else if next == FramingState::Held {
            self.end_message();
        } else {
            self.step = next;
        }
        rest.get(length..).ok_or(BadByte(0))
    }

    fn read_chunk_size<'a>(&mut self, rest: &'a [u8], size: u64, digits: u8) -> Result<&'a [u8], BadByte> {
        let Some((byte, after)) = rest.split_first() else {
            return Ok(rest);
        };
        self.step = match (char::from(*byte).to_digit(16), byte) {
            (Some(digit), _) if digits < CHUNK_DIGITS_MAX => FramingState::ChunkSize {
                size: size << 4 | u64::from(digit),
                digits: digits + 1,
            },
            (None, b'\r') if digits > 0 && i64::try_from(size).is_ok() => FramingState::ChunkSizeEnd(size),
            _ => return Err(BadByte(0)),
        };
        Ok(after)
    }

    fn end_chunk_size<'a>(&mut self, rest: &'a [u8], size: u64) -> Result<&'a [u8], BadByte> {
        let next = if size == 0 {
            FramingState::LineStart
        } else {
            FramingState::ChunkData(size)
        };
        let after = self.expect(rest, b'\n', next)?;
        if size == 0 {
            self.section = Section::Trailers;
            self.trailer_bytes = 0;
        }
        Ok(after)
    }

    /// Ends the message. The next one follows, unless this one asked to upgrade: then its answer decides.
    fn end_message(&mut self) {
        self.step = if self.head.upgrade {
            FramingState::Held
        } else {
            FramingState::Start
        };
        self.section = Section::Head;
    }
}

#[cfg(test)]
mod tests;
