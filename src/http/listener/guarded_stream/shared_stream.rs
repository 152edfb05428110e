//! A guarded stream that the connection's task keeps while hyper uses it.
//!
//! hyper gives the stream of a connection back only at the connection's end, and not at all where requests may upgrade.
//! So hyper gets one handle and the task keeps another: a connection at rest drops hyper's part, with its buffers, and
//! goes on with the same stream. Only one of the two uses the stream at a time, so nothing waits for the lock. It
//! exists because hyper asks for `Send`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::StatusCode;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::GuardedStream;
use crate::http::listener::io_stream::Readable;

#[derive(Debug)]
pub(in crate::http::listener) struct SharedStream<S>(Arc<Mutex<GuardedStream<S>>>);

impl<S> Clone for SharedStream<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> SharedStream<S> {
    pub fn new(stream: GuardedStream<S>) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    /// See `GuardedStream::is_at_rest`.
    pub fn is_at_rest(&self) -> bool {
        self.0.lock().is_at_rest()
    }

    /// See `GuardedStream::ends_after`.
    pub fn ends_after(&self, status: StatusCode) -> bool {
        self.0.lock().ends_after(status)
    }
}

impl<S: Readable> SharedStream<S> {
    /// Resolves when the client of a connection at rest sends bytes or closes.
    pub async fn readable(&self) {
        // an error is found again by the read that follows
        let _readable = std::future::poll_fn(|cx| self.0.lock().stream.poll_readable(cx)).await;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for SharedStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for SharedStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write(cx, buf)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_shutdown(cx)
    }
}
