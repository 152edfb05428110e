//! One keep-alive connection: sends a request, receives its answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Instant;

use super::answer::{Answer, parse};

/// The send buffer takes a whole request: `send` writes once and does not wait.
const SEND_BUFFER_BYTES: usize = 1024 * 1024;
const READ_BYTES: usize = 64 * 1024;

pub struct Connection {
    pub stream: TcpStream,
    /// The time when the pending request was due.
    pub since: Instant,
    pub busy: bool,
    /// Index of the pending request.
    pub request: usize,
    read: Vec<u8>,
    filled: usize,
    body: Range<usize>,
}

/// The result of reading.
pub enum Received {
    Nothing,
    /// The server closed the connection without an answer.
    End,
    /// A whole answer with this status.
    Answer(u16),
}

impl Connection {
    pub fn open(address: SocketAddr) -> Result<Self, String> {
        let open = || {
            let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
            socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
            socket.connect(&address.into())?;
            socket.set_nonblocking(true)?;
            socket.set_tcp_nodelay(true)?;
            Ok::<TcpStream, std::io::Error>(socket.into())
        };
        Ok(Self {
            stream: open().map_err(|e| format!("{address}: {e}"))?,
            since: Instant::now(),
            busy: false,
            request: 0,
            read: vec![0; READ_BYTES],
            filled: 0,
            body: 0..0,
        })
    }

    pub fn send(&mut self, request: &[u8], since: Instant) -> Result<(), String> {
        self.since = since;
        self.busy = true;
        self.filled = 0;
        match self.stream.write(request) {
            Ok(written) if written == request.len() => Ok(()),
            Ok(written) => Err(format!("only {written} of {} bytes were taken", request.len())),
            Err(error) => Err(error.to_string()),
        }
    }

    pub fn receive(&mut self) -> Result<Received, String> {
        loop {
            if self.filled == self.read.len() {
                self.read.resize(self.filled * 2, 0);
            }
            match self.stream.read(self.read.get_mut(self.filled..).unwrap()) {
                Ok(0) if self.filled == 0 => return Ok(Received::End),
                Ok(0) => return Err("the connection ended within an answer".to_owned()),
                Ok(more) => self.filled += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Received::Nothing),
                Err(error) if error.kind() == ErrorKind::ConnectionReset && self.filled == 0 => return Ok(Received::End),
                Err(error) => return Err(error.to_string()),
            }
            if let Answer::Whole { status, body } = parse(self.read.get(..self.filled).unwrap())? {
                self.busy = false;
                self.body = body;
                return Ok(Received::Answer(status));
            }
        }
    }

    /// The body of the last answer, as it arrived.
    pub fn body(&self) -> String {
        String::from_utf8_lossy(self.read.get(self.body.clone()).unwrap()).into_owned()
    }
}
