//! HTTP/2 written by hand: frames and literal header fields, so that a client can send frames that no library sends.
//!
//! Blocking and plain std, independent of the library that the gate speaks HTTP/2 with. What it sends is never indexed
//! or compressed; what it reads may be.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::support::Answer;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The largest flow-control window: the client never holds the gate back.
const WINDOW: u32 = 0x7fff_ffff;

/// One header field, as bytes.
pub type Field = (Vec<u8>, Vec<u8>);

/// The end of a request. The codes show in the message of a failed test.
#[derive(Debug)]
pub enum Outcome {
    Answer(Answer),
    /// The stream was reset, with this code.
    Reset(u32),
    /// The connection was ended, with this code.
    GoneAway(u32),
    /// The connection ended without a GOAWAY.
    Closed,
}

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub struct Http2 {
    pub stream: TcpStream,
    left: Vec<u8>,
    next: u32,
    decoder: Decoder,
    pub settings: HashMap<u16, u32>,
}

impl Http2 {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut connection = Self {
            stream,
            left: Vec::new(),
            next: 1,
            decoder: Decoder::default(),
            settings: HashMap::new(),
        };
        connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        connection.frame(SETTINGS, 0, 0, &[&[0, 4][..], &WINDOW.to_be_bytes()].concat());
        connection.frame(WINDOW_UPDATE, 0, 0, &(WINDOW - 65_535).to_be_bytes());
        connection
    }

    /// Returns false if the peer no longer takes bytes.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.send(&[&head, payload].concat())
    }

    pub fn next_stream(&mut self) -> u32 {
        let stream = self.next;
        self.next += 2;
        stream
    }

    /// Opens a stream with exactly these fields, in this order.
    pub fn ask(&mut self, fields: &[Field], flags: u8) -> u32 {
        let stream = self.next_stream();
        self.headers(stream, fields, flags);
        stream
    }

    /// A head that is too large for one frame goes on in CONTINUATION frames.
    pub fn headers(&mut self, stream: u32, fields: &[Field], flags: u8) {
        let block = encode(fields);
        let mut pieces = block.chunks(16_384).peekable();
        let mut kind = HEADERS;
        while let Some(piece) = pieces.next() {
            let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            let flags = if kind == HEADERS { flags | end } else { end };
            self.frame(kind, flags, stream, piece);
            kind = CONTINUATION;
        }
    }

    pub fn data(&mut self, stream: u32, bytes: &[u8], flags: u8) {
        let mut pieces = bytes.chunks(16_384).peekable();
        if pieces.peek().is_none() {
            self.frame(DATA, flags, stream, b"");
        }
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            self.frame(DATA, if last { flags } else { 0 }, stream, piece);
        }
    }

    /// Sends a whole request and returns its outcome.
    pub fn exchange(&mut self, fields: &[Field], body: &[u8]) -> Outcome {
        if body.is_empty() {
            let stream = self.ask(fields, END_STREAM);
            return self.outcome(stream);
        }
        let stream = self.ask(fields, 0);
        self.data(stream, body, END_STREAM);
        self.outcome(stream)
    }

    pub fn outcome(&mut self, stream: u32) -> Outcome {
        let (mut headers, mut body, mut block) = (None, Vec::new(), Vec::new());
        while let Some(frame) = self.read() {
            if frame.kind == GOAWAY {
                return Outcome::GoneAway(number(&frame.payload[4..8]));
            }
            if matches!(frame.kind, HEADERS | CONTINUATION) {
                block.extend_from_slice(&frame.payload);
                if frame.flags & END_HEADERS != 0 {
                    // every block, also of another stream, belongs to the one table
                    let fields = self.decoder.decode(&std::mem::take(&mut block));
                    if frame.stream == stream && !is_interim(&fields) {
                        headers.get_or_insert(fields);
                    }
                }
            }
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                RST_STREAM => match headers {
                    // an answer that came whole counts: the rest of the request was not wanted any more
                    Some(fields) if number(&frame.payload) == 0 => return Outcome::Answer(answer(fields, body)),
                    _ => return Outcome::Reset(number(&frame.payload)),
                },
                DATA => body.extend_from_slice(&frame.payload),
                _ => {}
            }
            if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                return match headers {
                    Some(fields) => Outcome::Answer(answer(fields, body)),
                    None => Outcome::Closed,
                };
            }
        }
        Outcome::Closed
    }

    /// The next frame; settings and pings are answered on the way. `None` once the connection ended.
    pub fn read(&mut self) -> Option<Frame> {
        self.fill(9)?;
        let length = number(&[0, self.left[0], self.left[1], self.left[2]]) as usize;
        self.fill(9 + length)?;
        let bytes: Vec<u8> = self.left.drain(..9 + length).collect();
        let frame = Frame {
            kind: bytes[3],
            flags: bytes[4],
            stream: number(&bytes[5..9]) & 0x7fff_ffff,
            payload: bytes[9..].to_vec(),
        };
        if frame.kind == SETTINGS && frame.flags & ACK == 0 {
            for pair in frame.payload.chunks_exact(6) {
                self.settings
                    .insert(u16::from_be_bytes([pair[0], pair[1]]), number(&pair[2..]));
            }
            self.frame(SETTINGS, ACK, 0, b"");
        }
        if frame.kind == PING && frame.flags & ACK == 0 {
            self.frame(PING, ACK, 0, &frame.payload);
        }
        Some(frame)
    }

    fn fill(&mut self, length: usize) -> Option<()> {
        let mut buffer = vec![0; 64 * 1024];
        while self.left.len() < length {
            match self.stream.read(&mut buffer) {
                Ok(read @ 1..) => self.left.extend(&buffer[..read]),
                _ => return None,
            }
        }
        Some(())
    }
}

pub fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Field {
    (name.as_ref().to_vec(), value.as_ref().to_vec())
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |sum, byte| (sum << 8) | u32::from(*byte))
}

fn is_interim(fields: &[Field]) -> bool {
    fields
        .iter()
        .any(|(name, value)| name == b":status" && value.starts_with(b"1"))
}

fn answer(fields: Vec<Field>, body: Vec<u8>) -> Answer {
    let (mut status, mut headers) = (0, HeaderMap::new());
    for (name, value) in fields {
        if name == b":status" {
            status = std::str::from_utf8(&value).unwrap().parse().unwrap();
            continue;
        }
        let name = HeaderName::from_lowercase(&name).unwrap_or_else(|_| panic!("`{}`", name.escape_ascii()));
        headers.append(name, HeaderValue::from_bytes(&value).unwrap());
    }
    Answer {
        status,
        headers,
        body: body.into(),
    }
}

/// Literal fields, never indexed, never compressed.
pub fn encode(fields: &[Field]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        for text in [name, value] {
            push_length(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

fn push_length(block: &mut Vec<u8>, length: usize) {
    if length < 0x7f {
        block.push(length as u8);
        return;
    }
    block.push(0x7f);
    let mut rest = length - 0x7f;
    while rest >= 0x80 {
        block.push((rest % 0x80) as u8 | 0x80);
        rest /= 0x80;
    }
    block.push(rest as u8);
}

/// RFC 7541. Nothing is evicted: a proper encoder never names what it evicted.
#[derive(Default)]
struct Decoder {
    table: Vec<Field>,
}

impl Decoder {
    fn decode(&mut self, block: &[u8]) -> Vec<Field> {
        let (mut rest, mut fields) = (block, Vec::new());
        while let Some(first) = rest.first().copied() {
            let prefix = match first {
                0x80.. => 7,
                0x40..0x80 => 6,
                0x20..0x40 => 5,
                _ => 4,
            };
            let index = take_number(&mut rest, prefix);
            if prefix == 5 {
                continue;
            }
            if prefix == 7 {
                fields.push(self.entry(index));
                continue;
            }
            let name = if index == 0 {
                take_text(&mut rest)
            } else {
                self.entry(index).0
            };
            let field = (name, take_text(&mut rest));
            if prefix == 6 {
                self.table.insert(0, field.clone());
            }
            fields.push(field);
        }
        fields
    }

    fn entry(&self, index: usize) -> Field {
        match STATIC.get(index - 1) {
            Some((name, value)) => field(name, value),
            None => self.table[index - 1 - STATIC.len()].clone(),
        }
    }
}

fn take_number(rest: &mut &[u8], prefix: u32) -> usize {
    let max = (1_usize << prefix) - 1;
    let mut value = usize::from(rest[0]) & max;
    *rest = &rest[1..];
    if value < max {
        return value;
    }
    let mut shift = 0;
    loop {
        let byte = rest[0];
        *rest = &rest[1..];
        value += usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

fn take_text(rest: &mut &[u8]) -> Vec<u8> {
    let is_compressed = rest[0] & 0x80 != 0;
    let length = take_number(rest, 7);
    let (text, after) = rest.split_at(length);
    *rest = after;
    if is_compressed { unhuffman(text) } else { text.to_vec() }
}

/// The code is canonical: the lengths define it.
fn unhuffman(text: &[u8]) -> Vec<u8> {
    let mut symbols: Vec<usize> = (0..256).collect();
    symbols.sort_by_key(|symbol| CODE_LENGTHS[*symbol]);
    let (mut codes, mut code, mut last) = (HashMap::new(), 0_u32, 0);
    for symbol in symbols {
        code <<= CODE_LENGTHS[symbol] - last;
        last = CODE_LENGTHS[symbol];
        codes.insert((last, code), symbol as u8);
        code += 1;
    }
    let (mut out, mut length, mut code) = (Vec::new(), 0_u8, 0_u32);
    for bit in text.iter().flat_map(|byte| (0..8).rev().map(move |at| (byte >> at) & 1)) {
        (length, code) = (length + 1, (code << 1) | u32::from(bit));
        if let Some(symbol) = codes.get(&(length, code)) {
            out.push(*symbol);
            (length, code) = (0, 0);
        }
    }
    out
}

const CODE_LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28,
    28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7,
    6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24,
    23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22,
    23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27,
    26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25,
    24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];
