//! Cuts the bytes of one direction of an HTTP/2 connection into frame headers and pieces of payloads, in however many
//! reads or writes they come. It copies nothing but the header of the current frame.

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 9;

/// The header of one frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FrameHeader {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

#[derive(Debug, Eq, PartialEq)]
pub enum FramePiece<'a> {
    /// Bytes before the first frame.
    Preface,
    /// A frame's header is complete.
    Header(FrameHeader),
    /// Bytes of the current frame's payload, in the order in which they come.
    Payload(&'a [u8]),
}

#[derive(Debug)]
pub struct FrameReader {
    step: FrameState,
}

#[derive(Clone, Copy, Debug)]
enum FrameState {
    /// Bytes of the preface that are to come.
    Preface(usize),
    Header {
        bytes: [u8; HEADER_BYTES],
        have: usize,
    },
    /// Bytes of a payload that are to come.
    Payload(usize),
}

impl FrameState {
    const START: Self = Self::Header {
        bytes: [0; HEADER_BYTES],
        have: 0,
    };
}

impl FrameReader {
    /// Reads frames after so many bytes of a preface.
    pub const fn after_preface(bytes: usize) -> Self {
        Self {
            step: FrameState::Preface(bytes),
        }
    }

    pub const fn new() -> Self {
        Self { step: FrameState::START }
    }

    /// True between two frames.
    pub const fn is_at_start(&self) -> bool {
        matches!(self.step, FrameState::Header { have: 0, .. })
    }

    /// Takes the next piece off `rest`. `None` when `rest` ends inside a frame's header or before one.
    pub fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Option<FramePiece<'a>> {
        match &mut self.step {
            FrameState::Preface(left) => {
                let taken = take(rest, *left)?;
                *left -= taken.len();
                if *left == 0 {
                    self.step = FrameState::START;
                }
                Some(FramePiece::Preface)
            }
            FrameState::Payload(left) => {
                let taken = take(rest, *left)?;
                *left -= taken.len();
                if *left == 0 {
                    self.step = FrameState::START;
                }
                Some(FramePiece::Payload(taken))
            }
            FrameState::Header { bytes, have } => {
                let taken = take(rest, HEADER_BYTES - *have)?;
                for (slot, byte) in bytes.iter_mut().skip(*have).zip(taken) {
                    *slot = *byte;
                }
                *have += taken.len();
                if *have < HEADER_BYTES {
                    return None;
                }
                let [a, b, c, kind, flags, stream @ ..] = *bytes;
                let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.step = if length == 0 {
                    FrameState::START
                } else {
                    FrameState::Payload(length)
                };
                Some(FramePiece::Header(FrameHeader {
                    length,
                    kind,
                    flags,
                    stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
                }))
            }
        }
    }
}

/// Takes up to `length` bytes off `rest`; `None` if there are none.
fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length.min(rest.len()))?;
    *rest = after;
    (!taken.is_empty()).then_some(taken)
}
