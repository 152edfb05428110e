//! Tells a slow request head from an idle connection from a busy one.
//!
//! hyper has one timer for the first two. `Activity` is written by the stream (bytes came) and by the response's body
//! (the answer ended), and read by the connection's only timer.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::upstream::Body;

#[derive(Debug)]
pub(super) struct Activity {
    /// Requests being answered: 0 or 1 in HTTP/1.
    busy: Cell<u32>,
    /// When the first byte of an unfinished head came.
    head: Cell<Option<Instant>>,
    /// When the last answer ended, or the connection began.
    idle: Cell<Instant>,
}

/// One request being answered.
#[derive(Debug)]
pub(super) struct Busy(Rc<Activity>);

impl Activity {
    pub fn start() -> Rc<Self> {
        Rc::new(Self {
            busy: Cell::new(0),
            head: Cell::new(None),
            idle: Cell::new(Instant::now()),
        })
    }

    pub fn request(self: &Rc<Self>) -> Busy {
        self.busy.set(self.busy.get().saturating_add(1));
        self.head.set(None);
        Busy(Rc::clone(self))
    }

    fn bytes_came(&self) {
        if self.busy.get() == 0 && self.head.get().is_none() {
            self.head.set(Some(Instant::now()));
        }
    }

    /// Resolves when a head took too long (`true`) or the connection was idle for too long (`false`).
    pub async fn quiet(&self, header_timeout: Duration, idle_timeout: Duration) -> bool {
        loop {
            let now = Instant::now();
            let check = match (self.busy.get(), self.head.get()) {
                (0, Some(begun)) if begun + header_timeout <= now => return true,
                (0, Some(begun)) => begun + header_timeout,
                (0, None) if self.idle.get() + idle_timeout <= now => return false,
                // A head may begin while we sleep, so never sleep past its deadline.
                (0, None) => (self.idle.get() + idle_timeout).min(now + header_timeout),
                _ => now + header_timeout.min(idle_timeout),
            };
            tokio::time::sleep_until(check).await;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get().saturating_sub(1));
        self.0.idle.set(Instant::now());
    }
}

/// A stream that notes incoming bytes.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    activity: Rc<Activity>,
}

impl<S> Watched<S> {
    pub fn new(stream: S, activity: Rc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.bytes_came();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
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

/// A response body that ends its request's busy time when it is dropped.
#[derive(Debug)]
pub(super) struct Answering {
    body: Body,
    _busy: Busy,
}

impl Answering {
    pub fn new(body: Body, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl HttpBody for Answering {
    type Data = bytes::Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
