//! Activity of one client connection: its open requests, bytes that the client must still send, bytes that it does not
//! take.
//!
//! The guarded stream, the requests and their response bodies write it; the connection's one timer (`overdue`) and the
//! stream's guard read it. All of them run on the worker thread of the connection, so nothing waits for the lock. It
//! exists because hyper moves the stream of an upgraded connection, and therefore asks for `Send`.
//! INVARIANT: nothing awaits under the lock, and no waker is called or dropped under it.
//!
//! Four orders matter:
//! - `answered` runs before hyper writes a byte of the answer. Bytes that the client sends after it saw the answer are
//!   read under it; bytes that came earlier were held back by the guard, and `answered` wakes the reader.
//! - A next head that begins while a request is open starts no head timer. `in_head` remembers it, and the end of the
//!   request starts the timer. So a client never pays for the time that the gate took.
//! - `overdue` sleeps until the nearest deadline, but never longer than the shortest timeout: a duty that begins during
//!   the sleep cannot be overdue before the timer looks again.
//! - An early hint carries the number of its request. A hint that arrives after the answer, or for an earlier request,
//!   is dropped, so it never precedes another request's answer.

mod answer_body;
mod early_hints;

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use http::Version;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::guard::http1_framing::Framing;
use super::guard::http2_frames::{Frames, Violation};
use crate::base::deadline;
pub(super) use answer_body::AnswerBody;
pub use early_hints::EarlyHints;
use early_hints::PendingHint;

/// A client that takes fewer bytes than this in a whole `limits.send_timeout` does not read.
const DRIP_BYTES: u64 = 1024;
/// Bytes that the answer to one PING writes. They do not show that the client reads anything else.
const NOISE_BYTES: u64 = 17;

/// The times for which a client may owe a head, send no request, or take no bytes, and for which an answer may be
/// silent that goes to a client which sends no more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub header: Duration,
    pub idle: Duration,
    pub send: Duration,
    pub half_close: Duration,
}

/// The timeout that a client exceeded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Overdue {
    /// A request's head, or the start of HTTP/2 (preface and first SETTINGS), did not come to its end.
    Header,
    /// The client does not take the bytes that the gate sends.
    Send,
    /// The client sent no request.
    Idle,
}

/// The answer to an HTTP/1 request, as far as it decides how the bytes behind the request are read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum AnswerState {
    Undecided,
    /// The bytes behind the request are the next request.
    Http,
    /// 101: the bytes behind the request are no HTTP.
    SwitchedProtocols,
}

/// The answers of an HTTP/1 connection, for a client that sends no more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum AnswerProgress {
    /// The last request has no answer yet.
    Awaited,
    /// The answer is on its way, and the client took all bytes so far.
    Sending { written: u64 },
    /// The client does not take the bytes that wait.
    Stuck,
    /// No request is open.
    Done,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

#[derive(Debug)]
pub(super) struct Activity {
    protocol: Protocol,
    state: Mutex<State>,
    /// HTTP/2 streams that were reset because they are malformed, and are not counted yet. Looked at in every poll.
    malformed_streams: AtomicU32,
}

#[derive(Debug)]
struct State {
    /// Requests and HTTP/2 stream tasks that have not ended.
    in_flight: u32,
    /// Since when the client must still send the rest of a head.
    head_since: Option<Instant>,
    /// True if the HTTP/1 bytes so far end inside a head.
    in_head: bool,
    /// End of the last answer, or start of the connection.
    idle_since: Instant,
    /// HTTP/1 requests that came, and answers that were decided, in the same order.
    requests: u64,
    answers: u64,
    /// True if the last decided answer is 101.
    switched_protocols: bool,
    /// True if the last request may get informational answers (HTTP/1.1).
    takes_early_hints: bool,
    /// Bytes written to the client, and how many of them answered only noise.
    written: u64,
    noise_written: u64,
    stuck_write: Option<StuckWrite>,
    /// HTTP/2 answers that handed out data and were not asked for more: the client's window is closed.
    blocked_answers: u32,
    /// True once the guard refused the client's bytes.
    refused: bool,
    /// The reason, over HTTP/2.
    violation: Option<Violation>,
    /// True once an HTTP/2 connection has had so many malformed streams that it should end with grace.
    is_worn: bool,
    /// True while the stream holds bytes back until the last request is answered.
    wake_on_answer: bool,
    /// True while the stream keeps the client's end from hyper, until no request is open.
    wake_on_end: bool,
    /// The client's socket, if it may still be sending at the connection's end.
    lingering: Option<OwnedFd>,
    /// Wakes the task that reads and writes the stream.
    waker: Option<Waker>,
    early_hint: Option<PendingHint>,
}

/// A write that found no room.
#[derive(Clone, Copy, Debug)]
struct StuckWrite {
    since: Instant,
    /// `State::written` at that time.
    written: u64,
}

/// The time from which HTTP/2 answers waited for the client's window, and the bytes sent until then.
#[derive(Clone, Copy, Debug)]
struct ClosedWindow {
    since: Instant,
    sent: u64,
}

/// Since when the answer of one HTTP/2 stream has data to send and hyper does not ask for it; shared by the stream's
/// answer and its task.
pub(super) type StreamStall = Rc<Cell<Option<Instant>>>;

/// A request that has not ended, or the task of an HTTP/2 stream. Dropping it ends it.
#[derive(Debug)]
pub(super) struct InFlight {
    activity: Arc<Activity>,
    /// `None` for HTTP/1.
    stall: Option<StreamStall>,
}

impl Activity {
    pub fn http1() -> Arc<Self> {
        Self::start(Protocol::Http1, None)
    }

    /// The client must send the preface and the first SETTINGS from the start.
    pub fn http2() -> Arc<Self> {
        Self::start(Protocol::Http2, Some(Instant::now()))
    }

    fn start(protocol: Protocol, head_since: Option<Instant>) -> Arc<Self> {
        Arc::new(Self {
            protocol,
            state: Mutex::new(State {
                in_flight: 0,
                head_since,
                in_head: false,
                idle_since: Instant::now(),
                requests: 0,
                answers: 0,
                switched_protocols: false,
                takes_early_hints: false,
                written: 0,
                noise_written: 0,
                stuck_write: None,
                blocked_answers: 0,
                refused: false,
                violation: None,
                is_worn: false,
                wake_on_answer: false,
                wake_on_end: false,
                lingering: None,
                waker: None,
                early_hint: None,
            }),
            malformed_streams: AtomicU32::new(0),
        })
    }

    /// Begins an HTTP/1 request.
    pub fn begin_request(self: &Arc<Self>, version: Version) -> InFlight {
        let mut state = self.state.lock();
        state.requests += 1;
        state.takes_early_hints = version == Version::HTTP_11;
        state.head_since = None;
        state.in_flight += 1;
        drop(state);
        InFlight {
            activity: Arc::clone(self),
            stall: None,
        }
    }

    /// Begins an HTTP/2 request, or the task of its stream: with a tunnel the task outlives the answer.
    pub fn begin_stream(self: &Arc<Self>, stall: Option<StreamStall>) -> InFlight {
        self.state.lock().in_flight += 1;
        InFlight {
            activity: Arc::clone(self),
            stall,
        }
    }

    /// True until the first request.
    pub fn has_no_request(&self) -> bool {
        self.state.lock().requests == 0
    }

    /// Notes that an HTTP/1 answer was decided. Must run before any byte of it is written.
    pub fn answered(&self, status: http::StatusCode) {
        let mut state = self.state.lock();
        state.switched_protocols = status == http::StatusCode::SWITCHING_PROTOCOLS;
        state.answers += 1;
        // a wake that is not needed costs the connection a read
        let waker = std::mem::take(&mut state.wake_on_answer)
            .then(|| state.waker.take())
            .flatten();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The progress of the answers. Wakes this task when no request is open any more.
    pub fn wait_for_end(&self, cx: &Context<'_>) -> AnswerProgress {
        let mut state = self.state.lock();
        if state.in_flight == 0 {
            return AnswerProgress::Done;
        }
        state.wake_on_end = true;
        let replaced = state.set_waker(cx);
        let progress = if state.answer_to(state.requests) == AnswerState::Undecided {
            AnswerProgress::Awaited
        } else if state.stuck_write.is_some() {
            AnswerProgress::Stuck
        } else {
            AnswerProgress::Sending { written: state.written }
        };
        drop(state);
        drop(replaced);
        progress
    }

    /// True if fewer HTTP/1 requests than `heads` came to hyper.
    pub fn has_requests_beyond(&self, heads: u64) -> bool {
        heads > self.state.lock().requests
    }

    /// True if the first `heads` HTTP/1 requests came to hyper and were answered, and the client took the answers.
    pub fn is_done_with(&self, heads: u64) -> bool {
        let state = self.state.lock();
        state.in_flight == 0 && state.requests == heads && state.stuck_write.is_none() && !state.refused
    }

    /// The time at which a connection without an open request has been idle for too long.
    pub fn idle_until(&self, timeouts: Timeouts) -> Instant {
        self.state.lock().idle_since + timeouts.idle
    }

    /// Keeps the client's socket beyond the end of the connection, because closing it would destroy the answer.
    pub fn linger(&self, socket: OwnedFd) {
        self.state.lock().lingering = Some(socket);
    }

    /// The socket that `linger` kept.
    pub fn take_lingering(&self) -> Option<OwnedFd> {
        self.state.lock().lingering.take()
    }

    /// The answer to the HTTP/1 request of this number; the first request is 1.
    pub fn answer_to(&self, request: u64) -> AnswerState {
        self.state.lock().answer_to(request)
    }

    /// True once the app's 101 made a tunnel of the connection.
    pub fn has_switched_protocols(&self) -> bool {
        self.state.lock().switched_protocols
    }

    /// True once the guard refused the client's bytes.
    pub fn is_refused(&self) -> bool {
        self.state.lock().refused
    }

    pub fn refuse(&self) {
        self.state.lock().refused = true;
    }

    /// Notes whether the HTTP/1 bytes that `framing` has read end inside a head.
    pub fn http1_bytes_came(&self, framing: &Framing) {
        let mut state = self.state.lock();
        state.in_head = framing.is_in_head();
        if state.in_head && state.in_flight == 0 {
            state.start_head_timer();
        }
    }

    /// The reason why the guard refused the client's HTTP/2 bytes.
    pub fn violation(&self) -> Option<Violation> {
        self.state.lock().violation
    }

    /// Passes HTTP/2 bytes through the guard, and notes whether the client must still send the rest of a head.
    ///
    /// # Errors
    /// The connection must end; noted as the violation.
    pub fn http2_bytes_came(&self, frames: &mut Frames, bytes: &mut [u8]) -> Result<(), Violation> {
        let mut state = self.state.lock();
        match frames.scan(bytes, state.written, Instant::now) {
            Ok(noise) => {
                state.noise_written += u64::from(noise) * NOISE_BYTES;
                if frames.is_settled() {
                    state.head_since = None;
                } else {
                    state.start_head_timer();
                }
                Ok(())
            }
            Err(violation) => {
                state.violation = Some(violation);
                Err(violation)
            }
        }
    }

    /// Notes that the connection should end with grace. The task that drives the connection sees it in the same poll.
    pub fn wear_out(&self) {
        self.state.lock().is_worn = true;
    }

    /// Resolves once `wear_out` was called while the connection was polled.
    pub async fn worn_out(&self) {
        std::future::poll_fn(|_cx| match self.state.lock().is_worn {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        })
        .await;
    }

    /// Notes resets of malformed streams. The task that drives the connection sees them in the same poll.
    pub fn note_malformed(&self, streams: u32) {
        self.malformed_streams.fetch_add(streams, Ordering::Relaxed);
    }

    /// Takes the malformed streams that were not counted yet.
    pub fn take_malformed(&self) -> u32 {
        match self.malformed_streams.load(Ordering::Relaxed) {
            0 => 0,
            _some => self.malformed_streams.swap(0, Ordering::Relaxed),
        }
    }

    /// True if the last write left bytes over.
    pub fn is_write_stuck(&self) -> bool {
        self.state.lock().stuck_write.is_some()
    }

    /// Notes that the socket took `length` of `offered` bytes.
    pub fn wrote(&self, length: usize, offered: usize) {
        let mut state = self.state.lock();
        state.written += length as u64;
        if length >= offered {
            state.stuck_write = None;
        }
    }

    /// Notes that a write found no room. Starts the send timer, and starts it again only if the client has taken
    /// `DRIP_BYTES`.
    pub fn write_stuck(&self) {
        let mut state = self.state.lock();
        let written = state.written;
        let drips = state
            .stuck_write
            .is_some_and(|stuck| written.saturating_sub(stuck.written) < DRIP_BYTES);
        if !drips {
            state.stuck_write = Some(StuckWrite {
                since: Instant::now(),
                written,
            });
        }
    }

    /// Wakes this task when the last request is answered.
    pub fn wake_on_answer(&self, cx: &Context<'_>) {
        let mut state = self.state.lock();
        state.wake_on_answer = true;
        let replaced = state.set_waker(cx);
        drop(state);
        drop(replaced);
    }

    /// Returns the early hint to write, if its request is still unanswered. Wakes this task when the next one is there.
    pub fn take_early_hint(&self, cx: &Context<'_>) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        let replaced = state.set_waker(cx);
        let hint = state.early_hint.take();
        let hint = hint.filter(|hint| state.answer_to(hint.request) == AnswerState::Undecided);
        drop(state);
        drop(replaced);
        hint.map(|hint| hint.head)
    }

    /// Resolves when the client has exceeded a timeout.
    pub async fn overdue(&self, timeouts: Timeouts) -> Overdue {
        let mut window = None;
        loop {
            match self.next_look(timeouts, &mut window) {
                Ok(at) => deadline::sleep_until(at).await,
                Err(overdue) => return overdue,
            }
        }
    }

    /// The time at which to look again, or the timeout that is exceeded. `window` keeps the state between two looks.
    fn next_look(&self, timeouts: Timeouts, window: &mut Option<ClosedWindow>) -> Result<Instant, Overdue> {
        let now = Instant::now();
        let state = self.state.lock();
        let is_busy = state.in_flight > 0;
        let head = state
            .head_since
            .filter(|_| self.protocol == Protocol::Http2 || !is_busy)
            .map(|since| (since + timeouts.header, Overdue::Header));
        let stuck = state.stuck_write.map(|stuck| (stuck.since + timeouts.send, Overdue::Send));
        let closed = self
            .window_closed_since(&state, now, window)
            .map(|since| (since + timeouts.send, Overdue::Send));
        let idle = (!is_busy && head.is_none() && stuck.is_none()).then_some((state.idle_since + timeouts.idle, Overdue::Idle));
        drop(state);
        // a duty that begins during the sleep has a deadline of its own, at least this far away
        let mut next = now + timeouts.header.min(timeouts.idle).min(timeouts.send);
        for (deadline, overdue) in [head, stuck, closed, idle].into_iter().flatten() {
            if deadline <= now {
                return Err(overdue);
            }
            next = next.min(deadline);
        }
        Ok(next)
    }

    /// HTTP/2 has a second way not to read: a client that never opens its window. It counts if the window is closed at
    /// one look and the client took no more than a drip by the next.
    fn window_closed_since(&self, state: &State, now: Instant, window: &mut Option<ClosedWindow>) -> Option<Instant> {
        if self.protocol == Protocol::Http1 || state.blocked_answers == 0 {
            *window = None;
            return None;
        }
        let sent = state.written.saturating_sub(state.noise_written);
        match *window {
            Some(closed) if sent.saturating_sub(closed.sent) < DRIP_BYTES => Some(closed.since),
            _ => {
                *window = Some(ClosedWindow { since: now, sent });
                Some(now)
            }
        }
    }
}

impl State {
    fn answer_to(&self, request: u64) -> AnswerState {
        match (self.answers >= request, self.switched_protocols) {
            (false, _) => AnswerState::Undecided,
            (true, false) => AnswerState::Http,
            (true, true) => AnswerState::SwitchedProtocols,
        }
    }

    fn start_head_timer(&mut self) {
        if self.head_since.is_none() {
            self.head_since = Some(Instant::now());
        }
    }

    /// Returns the waker that was replaced, to be dropped after the lock.
    fn set_waker(&mut self, cx: &Context<'_>) -> Option<Waker> {
        match &self.waker {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            _ => self.waker.replace(cx.waker().clone()),
        }
    }
}

impl InFlight {
    /// True if the answer's data has waited for so long: the client keeps the window of this stream closed.
    pub fn is_stalled(&self, timeout: Duration) -> bool {
        let since = self.stall.as_ref().and_then(|stall| stall.get());
        since.is_some_and(|since| since.elapsed() >= timeout)
    }

    fn data_waits(&self) {
        if let Some(stall) = &self.stall {
            stall.set(Some(Instant::now()));
        }
    }

    fn data_wanted(&self) {
        if let Some(stall) = &self.stall {
            stall.set(None);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = self.activity.state.lock();
        state.idle_since = now;
        state.in_flight = state.in_flight.saturating_sub(1);
        if state.in_head {
            state.start_head_timer();
        }
        let is_wanted = state.in_flight == 0 && std::mem::take(&mut state.wake_on_end);
        let waker = is_wanted.then(|| state.waker.take()).flatten();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
