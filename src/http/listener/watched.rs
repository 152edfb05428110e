//! The client's stream as hyper sees it: guarded on the way in, watched on the way out.
//!
//! Incoming bytes pass the guard (`guard`) in place; what it refuses never reaches hyper, which gets `POISON` instead and
//! refuses by itself. What came and what does not go is noted in `Activity`. Bytes behind a request that asks to upgrade
//! are kept back until its answer says whether they are HTTP.

mod activity;

pub use activity::EarlyHints;
pub(super) use activity::{Activity, Answering, Patience, Quiet};

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::guard::http1::{Framing, POISON, Verdict};
use super::guard::http2::Frames;

/// Bytes kept back behind a request that asks to upgrade; with one read more, reading stops until it is answered.
const HELD_BYTES_MAX: usize = 64 * 1024;
/// GOAWAY of the whole connection with ENHANCE_YOUR_CALM.
const CALM_DOWN: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0xb];

#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
    guard: Guard,
    /// An informational head on its way out.
    hint: BytesMut,
}

#[derive(Debug)]
enum Guard {
    Http1(Box<Http1>),
    Http2(Box<Frames>),
}

#[derive(Debug)]
struct Http1 {
    framing: Framing,
    held: BytesMut,
    /// What is still to be given of `POISON`; nothing comes after it.
    poison: Option<&'static [u8]>,
}

impl<S> Watched<S> {
    pub fn http1(stream: S, activity: Arc<Activity>) -> Self {
        let guard = Guard::Http1(Box::new(Http1 {
            framing: Framing::new(),
            held: BytesMut::new(),
            poison: None,
        }));
        Self {
            stream,
            activity,
            guard,
            hint: BytesMut::new(),
        }
    }

    pub fn http2(stream: S, activity: Arc<Activity>) -> Self {
        Self {
            stream,
            activity,
            guard: Guard::Http2(Box::new(Frames::new())),
            hint: BytesMut::new(),
        }
    }
}

impl Http1 {
    fn poll_read<S>(
        &mut self,
        stream: &mut S,
        activity: &Activity,
        (cx, buf): (&mut Context<'_>, &mut ReadBuf<'_>),
    ) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin,
    {
        if self.poison.is_some() {
            self.give_poison(buf);
            return Poll::Ready(Ok(()));
        }
        loop {
            self.settle(activity);
            let before = buf.filled().len();
            let mut later = BytesMut::new();
            if self.held.has_remaining() && !self.framing.is_held() {
                later = self.held.split();
                buf.put_slice(&later.split_to(later.len().min(buf.remaining())));
            } else if self.held.len() >= HELD_BYTES_MAX {
                activity.attend_answer(cx);
                return Poll::Pending;
            } else {
                if self.framing.is_held() {
                    activity.attend_answer(cx);
                }
                ready!(Pin::new(&mut *stream).poll_read(cx, buf))?;
                if buf.filled().len() == before {
                    return Poll::Ready(Ok(()));
                }
            }
            self.guard(activity, buf, before);
            // what was held again comes before what was not looked at
            self.held.unsplit(later);
            // All of it may be kept back; but nothing read would mean the end.
            if buf.filled().len() > before {
                activity.bytes_came(self.framing.is_in_head());
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Whether bytes behind a request that asked to upgrade are HTTP, once that is known.
    fn settle(&mut self, activity: &Activity) {
        if self.framing.is_held() {
            match activity.answer_of(self.framing.heads()) {
                Some(true) => self.framing.open(),
                Some(false) => self.framing.resume(),
                None => {}
            }
        }
    }

    /// Leaves in `buf`, from `before` on, only what may pass.
    fn guard(&mut self, activity: &Activity, buf: &mut ReadBuf<'_>, before: usize) {
        let mut from = before;
        while let Some(fresh) = buf.filled().get(from..) {
            match self.framing.scan(fresh) {
                Verdict::Pass => return,
                Verdict::Poison(at) => {
                    activity.refuse();
                    buf.set_filled(from + at);
                    self.poison = Some(POISON);
                    self.give_poison(buf);
                    return;
                }
                Verdict::Hold(at) => {
                    self.settle(activity);
                    from += at;
                    if self.framing.is_held() {
                        self.hold(buf, from);
                        return;
                    }
                }
            }
        }
    }

    fn hold(&mut self, buf: &mut ReadBuf<'_>, from: usize) {
        if let Some(fresh) = buf.filled().get(from..) {
            self.held.extend_from_slice(fresh);
            buf.set_filled(from);
        }
    }

    fn give_poison(&mut self, buf: &mut ReadBuf<'_>) {
        let poison = self.poison.unwrap_or_default();
        if let Some((now, later)) = poison.split_at_checked(poison.len().min(buf.remaining())) {
            buf.put_slice(now);
            self.poison = Some(later);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let frames = match &mut this.guard {
            Guard::Http1(guard) => return guard.poll_read(&mut this.stream, &this.activity, (cx, buf)),
            Guard::Http2(frames) => frames,
        };
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        match frames.scan(fresh, this.activity.written(), Instant::now) {
            Ok(noise) => {
                this.activity.frames_came(frames.is_settled(), noise);
                Poll::Ready(Ok(()))
            }
            Err(_flood) => {
                this.activity.refuse();
                buf.set_filled(before);
                this.calm_down(cx);
                Poll::Ready(Err(io::Error::other("a flood of HTTP/2 frames")))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    /// Says why, if no frame of hyper's is half written; who floods may not listen, so it is not waited for.
    fn calm_down(&mut self, cx: &mut Context<'_>) {
        if !self.activity.is_stuck() && matches!(Pin::new(&mut self.stream).poll_write(cx, &CALM_DOWN), Poll::Ready(Ok(_))) {
            let _told = Pin::new(&mut self.stream).poll_flush(cx);
        }
    }

    /// Whether no informational head is half written.
    fn poll_hint(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.hint.has_remaining() {
            let length = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.hint))?;
            if length == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.hint.advance(length);
        }
        Poll::Ready(Ok(()))
    }

    fn note(&self, polled: Poll<io::Result<usize>>, offered: usize) -> Poll<io::Result<usize>> {
        match &polled {
            Poll::Ready(Ok(length)) => self.activity.wrote(*length, offered),
            Poll::Ready(Err(_gone)) => {}
            Poll::Pending => self.activity.write_stuck(),
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = match self.poll_hint(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.stream).poll_write(cx, buf),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        self.note(polled, buf.len())
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = match self.poll_hint(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        self.note(polled, bufs.iter().map(|buf| buf.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when nothing that it has is left to write: the only place for an informational head.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.guard, Guard::Http1(_)) {
            self.activity.attend(cx);
            if let Some(head) = self.activity.take_hint() {
                self.hint.extend_from_slice(&head);
            }
        }
        ready!(self.poll_hint(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
