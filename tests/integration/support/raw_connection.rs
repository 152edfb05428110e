//! A client connection of raw bytes: the test decides which bytes are sent and when.
//!
//! Blocking and plain std, independent of the libraries that the gate is built on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Answer, parse};

/// A connection of a client that sends any bytes at any time.
pub struct RawConnection {
    pub stream: TcpStream,
    pub(super) left: Vec<u8>,
}

impl RawConnection {
    pub fn open(address: SocketAddr) -> Self {
        Self::try_open(address).unwrap()
    }

    pub fn try_open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        stream.set_nodelay(true).unwrap();
        Ok(Self {
            stream,
            left: Vec::new(),
        })
    }

    /// The bytes that were read beyond the last text.
    pub fn take_left(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.left)
    }

    /// Returns false if the peer no longer takes bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Reads up to and including the text; returns the bytes, or all bytes before the end of the connection.
    pub fn read_until(&mut self, text: &str) -> Vec<u8> {
        loop {
            if let Some(at) = find(&self.left, text.as_bytes()) {
                return self.left.drain(..at + text.len()).collect();
            }
            if !self.more() {
                return std::mem::take(&mut self.left);
            }
        }
    }

    /// Reads so many bytes, or fewer if the connection ends first.
    pub fn read_exactly(&mut self, length: usize) -> Vec<u8> {
        while self.left.len() < length && self.more() {}
        self.left.drain(..length.min(self.left.len())).collect()
    }

    /// One response with its body; `None` if the connection ends first. `HEAD` answers have no body.
    pub fn read_answer(&mut self, method: &str) -> Option<Answer> {
        loop {
            let head = self.read_until("\r\n\r\n");
            let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
            if !text.ends_with("\r\n\r\n") {
                return None;
            }
            if text.starts_with("http/1.1 100") {
                continue;
            }
            let mut all = head;
            let status = text.split(' ').nth(1)?.to_owned();
            let length = text
                .split("\r\ncontent-length: ")
                .nth(1)
                .and_then(|rest| rest.split("\r\n").next()?.parse::<usize>().ok());
            if method != "HEAD" && status != "204" && status != "304" {
                if text.contains("\r\ntransfer-encoding: chunked") {
                    all.extend(self.read_until("0\r\n\r\n"));
                } else {
                    let length = length.unwrap_or(0);
                    while self.left.len() < length {
                        if !self.more() {
                            return None;
                        }
                    }
                    all.extend(self.left.drain(..length));
                }
            }
            return parse(&all);
        }
    }

    /// True if the peer ended the connection and sent no more bytes before.
    pub fn is_closed(&mut self) -> bool {
        while self.more() {}
        self.left.is_empty() && matches!(self.stream.read(&mut [0; 1]), Ok(0) | Err(_))
    }

    fn more(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(length @ 1..) => {
                self.left.extend(&buffer[..length]);
                true
            }
            _ => false,
        }
    }
}

pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}
