//! Tells a slow request head from an idle connection from a busy one.
//!
//! hyper has one timer for the first two. `Activity` is written by the stream (bytes came) and by the response's body
//! (the answer ended), and read by the connection's only timer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::upstream::Body;

/// Shared by one connection's stream and answers; atomic only because hyper wants to send a stream that it upgrades.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    /// Requests being answered: 0 or 1 in HTTP/1.
    busy: AtomicU32,
    /// Whether there ever was a request.
    asked: AtomicBool,
    /// When the first byte of an unfinished head came; 0: none.
    head: AtomicU64,
    /// When the last answer ended, or the connection began.
    idle: AtomicU64,
}

/// One request being answered.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Activity {
    pub fn start() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            busy: AtomicU32::new(0),
            asked: AtomicBool::new(false),
            head: AtomicU64::new(0),
            idle: AtomicU64::new(0),
        })
    }

    pub fn request(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.asked.store(true, Ordering::Relaxed);
        self.head.store(0, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Whether nothing was ever asked.
    pub fn is_fresh(&self) -> bool {
        !self.asked.load(Ordering::Relaxed)
    }

    fn bytes_came(&self) {
        if self.busy.load(Ordering::Relaxed) == 0 && self.head.load(Ordering::Relaxed) == 0 {
            self.head.store(self.now().max(1), Ordering::Relaxed);
        }
    }

    /// Resolves when a head took too long (`true`) or the connection was idle for too long (`false`).
    pub async fn quiet(&self, header_timeout: Duration, idle_timeout: Duration) -> bool {
        loop {
            let now = Instant::now();
            let check = match (self.busy.load(Ordering::Relaxed), self.head_begun()) {
                (0, Some(begun)) if begun + header_timeout <= now => return true,
                (0, Some(begun)) => begun + header_timeout,
                (0, None) if self.idle_since() + idle_timeout <= now => return false,
                // A head may begin while we sleep, so never sleep past its deadline.
                (0, None) => (self.idle_since() + idle_timeout).min(now + header_timeout),
                _ => now + header_timeout.min(idle_timeout),
            };
            tokio::time::sleep_until(check).await;
        }
    }

    /// Resolves when there was no request for so long.
    pub async fn unused(&self, idle_timeout: Duration) {
        loop {
            let now = Instant::now();
            let check = match self.busy.load(Ordering::Relaxed) {
                0 if self.idle_since() + idle_timeout <= now => return,
                0 => self.idle_since() + idle_timeout,
                _ => now + idle_timeout,
            };
            tokio::time::sleep_until(check).await;
        }
    }

    fn head_begun(&self) -> Option<Instant> {
        let at = self.head.load(Ordering::Relaxed);
        (at > 0).then(|| self.began + Duration::from_micros(at))
    }

    fn idle_since(&self) -> Instant {
        self.began + Duration::from_micros(self.idle.load(Ordering::Relaxed))
    }

    /// Microseconds since the connection began.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // the time first: whoever sees no request must not see an old time
        self.0.idle.store(self.0.now(), Ordering::Relaxed);
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that notes incoming bytes.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub fn new(stream: S, activity: Arc<Activity>) -> Self {
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
