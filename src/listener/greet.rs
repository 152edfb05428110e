//! What comes before HTTP on a new connection, and which HTTP it is.
//!
//! HTTP/2 with prior knowledge starts with a preface that no HTTP/1 request can start with. Bytes are looked at and given
//! back (`Rewound`); a client may take `limits.idle_timeout` to say the first one and then `limits.header_timeout`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};

use super::socket::Stream;
use super::{Front, Rejected};

/// What every HTTP/2 connection starts with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes read at once while looking; more than the preface, because an HTTP/1 head may come as one.
const LOOK_BYTES: usize = 4096;

pub(super) enum Protocol {
    Http1,
    Http2,
}

/// A connection of which it is known what it speaks.
pub(super) struct Greeted {
    pub stream: Rewound<Stream>,
    pub protocol: Protocol,
}

/// Why a connection ended before it spoke HTTP.
#[derive(Debug)]
pub(super) enum Unheard {
    /// It said nothing, or is gone.
    Silent,
    Rejected(Rejected),
}

pub(super) async fn greet(stream: Stream, front: &Front) -> Result<Greeted, Unheard> {
    let (stream, protocol) = look(stream, (front.idle_timeout, front.header_timeout)).await?;
    Ok(Greeted { stream, protocol })
}

/// Reads until it cannot be, or is, the preface.
async fn look<S>(mut stream: S, (idle_timeout, header_timeout): (Duration, Duration)) -> Result<(Rewound<S>, Protocol), Unheard>
where
    S: AsyncRead + Unpin,
{
    let mut seen = BytesMut::with_capacity(LOOK_BYTES);
    let first = timeout(idle_timeout, stream.read_buf(&mut seen)).await;
    if !matches!(first, Ok(Ok(1..))) {
        return Err(Unheard::Silent);
    }
    let deadline = Instant::now() + header_timeout;
    let protocol = loop {
        if seen.starts_with(PREFACE) {
            break Protocol::Http2;
        }
        if !PREFACE.starts_with(&seen) {
            break Protocol::Http1;
        }
        match timeout_at(deadline, stream.read_buf(&mut seen)).await {
            Ok(Ok(1..)) => {}
            Ok(_gone) => return Err(Unheard::Silent),
            Err(_late) => return Err(Unheard::Rejected(Rejected::HeaderTimeout)),
        }
    };
    Ok((Rewound::new(stream, seen.freeze()), protocol))
}

/// A stream of which some bytes were read already; they come again first.
#[derive(Debug)]
pub(super) struct Rewound<S> {
    stream: S,
    first: Bytes,
}

impl<S> Rewound<S> {
    pub fn new(stream: S, first: Bytes) -> Self {
        Self { stream, first }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.has_remaining() {
            let length = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first.split_to(length));
            if self.first.is_empty() {
                // the memory goes too
                self.first = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
