//! The client's stream as hyper uses it: the guard checks the bytes that hyper reads, `Activity` notes the bytes that
//! hyper writes.
//!
//! Incoming bytes pass the guard (`guard`) in hyper's own buffer, without a copy. Bytes that the guard refuses never
//! reach hyper: over HTTP/1 hyper gets `INVALID_BYTES` in their place, refuses by itself and writes the 400; over
//! HTTP/2 the read fails and the connection ends, or h2 gets a frame that it answers with a reset of the stream.
//! Outgoing HTTP/2 bytes are read for resets (`SentFrames`), after the socket took them.
//!
//! An HTTP/1 client may send bytes behind a request that asks to upgrade, before it knows the answer. They are the next
//! request or the first bytes of a tunnel, and only the answer tells. The stream holds up to `HELD_BYTES_MAX` of them
//! back, then stops reading, and continues when `Activity` has the answer: after 101 they pass unread, after any other
//! status the guard reads them as HTTP.
//!
//! The end of an HTTP/1 client's bytes between two messages waits for the answers (`half_close`). At its own end of the
//! connection the stream tells whether the client may still be sending: closing the socket then would destroy the
//! answer (`linger`).

mod half_close;
mod shared_stream;

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::{Activity, AnswerState};
use super::guard::http1_framing::{BodyProgress, Framing, INVALID_BYTES, ScanResult, Unescaped};
use super::guard::http2_frames::{Frames, SentFrames, Violation};
use crate::http::target::escaped;
use half_close::HalfClose;
pub(super) use shared_stream::SharedStream;

/// Bytes held back behind a request that asks to upgrade; with one read more, reading stops until it is answered.
const HELD_BYTES_MAX: usize = 64 * 1024;
/// GOAWAY for the whole connection, up to the last byte of its code.
const GOAWAY_START: [u8; 16] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0];
const PROTOCOL_ERROR: u8 = 1;
const ENHANCE_YOUR_CALM: u8 = 0xb;

#[derive(Debug)]
pub(super) struct GuardedStream<S> {
    stream: S,
    activity: Arc<Activity>,
    guard: Guard,
    /// `None` over HTTP/2.
    client_end: Option<ClientEnd<S>>,
    /// An informational head that is partly written.
    early_hint: BytesMut,
    /// True if the last read found nothing.
    awaits_bytes: bool,
    /// True if the stream keeps no written byte.
    is_flushed: bool,
    /// True once the gate's own side was closed.
    is_closed: bool,
}

/// What the stream needs to know about the end of an HTTP/1 connection.
#[derive(Debug)]
pub(super) struct ClientEnd<S> {
    /// Longest silence of an answer to a client that sends no more.
    pub half_close_timeout: Duration,
    /// A second descriptor of the client's socket.
    pub duplicate: fn(&S) -> io::Result<OwnedFd>,
}

#[derive(Debug)]
enum Guard {
    Http1(Box<Http1Guard>),
    Http2(Box<Http2Guard>),
}

#[derive(Debug)]
struct Http2Guard {
    received: Frames,
    sent: SentFrames,
}

#[derive(Debug)]
struct Http1Guard {
    framing: Framing,
    /// True if the bytes before the last read ended inside a head.
    was_in_head: bool,
    held: BytesMut,
    /// The rest of `INVALID_BYTES` that hyper has not read yet; nothing comes after it.
    invalid: Option<&'static [u8]>,
    /// Set once the client sends no more, while the gate must still answer.
    half_close: Option<HalfClose>,
    half_close_timeout: Duration,
    /// True once the client's end was read.
    is_ended: bool,
}

impl<S> GuardedStream<S> {
    pub fn http1(stream: S, activity: Arc<Activity>, client_end: ClientEnd<S>) -> Self {
        let guard = Guard::Http1(Box::new(Http1Guard {
            framing: Framing::new(),
            was_in_head: false,
            held: BytesMut::new(),
            invalid: None,
            half_close: None,
            half_close_timeout: client_end.half_close_timeout,
            is_ended: false,
        }));
        Self {
            stream,
            activity,
            guard,
            client_end: Some(client_end),
            early_hint: BytesMut::new(),
            awaits_bytes: false,
            is_flushed: true,
            is_closed: false,
        }
    }

    pub fn http2(stream: S, activity: Arc<Activity>) -> Self {
        Self {
            stream,
            activity,
            guard: Guard::Http2(Box::new(Http2Guard {
                received: Frames::new(),
                sent: SentFrames::new(),
            })),
            client_end: None,
            early_hint: BytesMut::new(),
            awaits_bytes: false,
            is_flushed: true,
            is_closed: false,
        }
    }
}

impl<S> GuardedStream<S> {
    /// True if an HTTP/1 connection is between two requests, and hyper holds no byte of it: it has read and answered
    /// every request that the guard saw, the answers are sent, and it waits for the next byte.
    pub fn is_at_rest(&self) -> bool {
        let Guard::Http1(guard) = &self.guard else { return false };
        self.awaits_bytes
            && self.is_flushed
            && !self.early_hint.has_remaining()
            && guard.is_between_messages()
            && self.activity.is_done_with(guard.framing.heads())
    }

    /// True if hyper ends the connection after an answer that leaves the request's body unread: hyper drops what
    /// is there at once, and of a body in chunks only the first. A refused body in chunks counts as unread.
    pub fn ends_after(&self, status: StatusCode) -> bool {
        let Guard::Http1(guard) = &self.guard else { return false };
        match guard.framing.body() {
            BodyProgress::Complete => false,
            BodyProgress::CompleteInChunks => status.is_client_error() || status.is_server_error(),
            BodyProgress::Incomplete => true,
        }
    }
}

impl Http1Guard {
    /// True if the guard holds no byte back, and the client has none to send.
    fn is_between_messages(&self) -> bool {
        self.framing.is_between_messages() && !self.held.has_remaining() && self.invalid.is_none() && !self.is_ended
    }

    fn poll_read<S>(
        &mut self,
        stream: &mut S,
        activity: &Activity,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin,
    {
        if self.invalid.is_some() {
            self.put_invalid(buf);
            return Poll::Ready(Ok(()));
        }
        loop {
            self.take_answer(activity);
            let before = buf.filled().len();
            let mut unread = BytesMut::new();
            if self.held.has_remaining() && !self.framing.is_held() {
                unread = self.held.split();
                buf.put_slice(&unread.split_to(unread.len().min(buf.remaining())));
            } else if self.held.len() >= HELD_BYTES_MAX {
                activity.wake_on_answer(cx);
                return Poll::Pending;
            } else {
                if self.framing.is_held() {
                    activity.wake_on_answer(cx);
                }
                ready!(Pin::new(&mut *stream).poll_read(cx, buf))?;
                if buf.filled().len() == before {
                    return self.poll_end(activity, cx);
                }
            }
            self.inspect(activity, buf, before);
            // bytes that `inspect` held back again come before those that it has not read
            self.held.unsplit(unread);
            // if all bytes are held back, read on: an empty read would mean the end of the stream
            if buf.filled().len() > before {
                self.note_head(activity);
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// The client sends no more. Ready when hyper may know it.
    fn poll_end(&mut self, activity: &Activity, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_ended = true;
        if !self.framing.is_between_messages() {
            return Poll::Ready(Ok(()));
        }
        let half_close = self.half_close.get_or_insert_with(HalfClose::start);
        half_close.poll_answered(activity, self.half_close_timeout, cx)
    }

    /// True if the client may still be sending, although the gate reads no more: the rest of a message, or another
    /// request.
    fn may_be_sending<S: AsyncRead + Unpin>(&mut self, stream: &mut S, activity: &Activity, cx: &mut Context<'_>) -> bool {
        let asked_for_tunnel = self.framing.is_held();
        self.take_answer(activity);
        if self.is_ended || self.framing.is_tunnel() {
            return false;
        }
        if !self.framing.is_between_messages() || activity.has_requests_beyond(self.framing.heads()) {
            return true;
        }
        // behind a refused request for a tunnel, its client may send a body or the first bytes of the tunnel
        if asked_for_tunnel || self.held.has_remaining() {
            return true;
        }
        let mut byte = [0];
        let mut unread = ReadBuf::new(&mut byte);
        let polled = Pin::new(stream).poll_read(cx, &mut unread);
        matches!(polled, Poll::Ready(Ok(()))) && !unread.filled().is_empty()
    }

    /// Tells `Activity` whether a head is unfinished. Most reads hold whole heads, and change nothing.
    fn note_head(&mut self, activity: &Activity) {
        if self.framing.is_in_head() || self.was_in_head {
            activity.http1_bytes_came(&self.framing);
        }
        self.was_in_head = self.framing.is_in_head();
    }

    /// Tells the framing what the bytes behind an upgrade request are, once its answer is known.
    fn take_answer(&mut self, activity: &Activity) {
        if self.framing.is_held() {
            match activity.answer_to(self.framing.heads()) {
                AnswerState::SwitchedProtocols => self.framing.continue_as_tunnel(),
                AnswerState::Http => self.framing.continue_as_http(),
                AnswerState::Undecided => {}
            }
        }
    }

    /// Leaves in `buf`, from `before` on, only bytes that may pass.
    fn inspect(&mut self, activity: &Activity, buf: &mut ReadBuf<'_>, before: usize) {
        let mut from = before;
        while let Some(fresh) = buf.filled().get(from..) {
            match self.framing.scan(fresh) {
                ScanResult::Pass => return,
                ScanResult::Refuse(at) => {
                    activity.refuse();
                    buf.set_filled(from + at);
                    self.invalid = Some(INVALID_BYTES);
                    self.put_invalid(buf);
                    return;
                }
                ScanResult::Escape(Unescaped { at, length }) => {
                    self.escape(buf, Unescaped { at: from + at, length });
                    return;
                }
                ScanResult::Hold(at) => {
                    self.take_answer(activity);
                    from += at;
                    if self.framing.is_held() {
                        self.hold(buf, from);
                        return;
                    }
                }
            }
        }
    }

    /// Takes the bytes from an unescaped one on out of `buf`, and keeps them for the next read with their escapes.
    fn escape(&mut self, buf: &mut ReadBuf<'_>, Unescaped { at, length }: Unescaped) {
        let fresh = buf.filled().get(at..).unwrap_or_default();
        let Some((target, after)) = fresh.split_at_checked(length) else {
            return;
        };
        let escaped = escaped(target);
        self.held.extend_from_slice(escaped.as_deref().unwrap_or(target));
        self.held.extend_from_slice(after);
        buf.set_filled(at);
    }

    fn hold(&mut self, buf: &mut ReadBuf<'_>, from: usize) {
        if let Some(fresh) = buf.filled().get(from..) {
            self.held.extend_from_slice(fresh);
            buf.set_filled(from);
        }
    }

    fn put_invalid(&mut self, buf: &mut ReadBuf<'_>) {
        let invalid = self.invalid.unwrap_or_default();
        if let Some((now, rest)) = invalid.split_at_checked(invalid.len().min(buf.remaining())) {
            buf.put_slice(now);
            self.invalid = Some(rest);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for GuardedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let frames = match &mut this.guard {
            Guard::Http1(guard) => {
                let polled = guard.poll_read(&mut this.stream, &this.activity, cx, buf);
                this.awaits_bytes = polled.is_pending();
                return polled;
            }
            Guard::Http2(guard) => &mut guard.received,
        };
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let fresh = buf.filled_mut().get_mut(before..).unwrap_or_default();
        match this.activity.http2_bytes_came(frames, fresh) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(violation) => {
                buf.set_filled(before);
                this.send_goaway(cx, violation);
                Poll::Ready(Err(io::Error::other("the client broke a rule of HTTP/2")))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> GuardedStream<S> {
    /// Tells a client why the connection ends, unless a frame of hyper's is half written. Does not wait: the client may
    /// not be reading.
    fn send_goaway(&mut self, cx: &mut Context<'_>, violation: Violation) {
        let code = match violation {
            Violation::Flood => ENHANCE_YOUR_CALM,
            Violation::MalformedTrailers => PROTOCOL_ERROR,
        };
        let frame = [&GOAWAY_START[..], &[code]].concat();
        let is_free = !self.activity.is_write_stuck();
        if is_free && matches!(Pin::new(&mut self.stream).poll_write(cx, &frame), Poll::Ready(Ok(_))) {
            let _best_effort = Pin::new(&mut self.stream).poll_flush(cx);
        }
    }

    /// Ready when no informational head is half written.
    fn poll_early_hint(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.early_hint.has_remaining() {
            let length = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.early_hint))?;
            if length == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.early_hint.advance(length);
        }
        Poll::Ready(Ok(()))
    }

    fn note_write(&mut self, polled: Poll<io::Result<usize>>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.is_flushed = false;
        match &polled {
            Poll::Ready(Ok(length)) => {
                self.activity.wrote(*length, bufs.iter().map(|buf| buf.len()).sum());
                self.read_sent(*length, bufs);
            }
            Poll::Ready(Err(_closed)) => {}
            Poll::Pending => self.activity.write_stuck(),
        }
        polled
    }

    /// Counts the resets in the `length` bytes that the socket took.
    fn read_sent(&mut self, mut length: usize, bufs: &[io::IoSlice<'_>]) {
        let Guard::Http2(guard) = &mut self.guard else { return };
        let mut mistakes = 0;
        let mut malformed = 0;
        for buf in bufs {
            let taken = buf.get(..length).unwrap_or(buf);
            let resets = guard.sent.scan(taken);
            mistakes += resets.mistakes;
            malformed += resets.malformed;
            length -= taken.len();
        }
        if malformed > 0 {
            self.activity.note_malformed(malformed);
        }
        if mistakes > 0 && guard.received.note_mistakes(mistakes) {
            self.activity.wear_out();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for GuardedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = match self.poll_early_hint(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.stream).poll_write(cx, buf),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        self.note_write(polled, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = match self.poll_early_hint(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        self.note_write(polled, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Hyper flushes when nothing of its own is left to write: the only position for an informational head.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.guard, Guard::Http1(_))
            && let Some(head) = self.activity.take_early_hint(cx)
        {
            self.early_hint.extend_from_slice(&head);
        }
        ready!(self.poll_early_hint(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.is_flushed = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_closed {
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        self.is_closed = true;
        let this = &mut *self;
        if let Guard::Http1(guard) = &mut this.guard
            && guard.may_be_sending(&mut this.stream, &this.activity, cx)
            && let Some(client_end) = &this.client_end
            // without a descriptor left, the answer may be lost
            && let Ok(socket) = (client_end.duplicate)(&this.stream)
        {
            this.activity.linger(socket);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
