//! What one connection is doing, as far as patience and the guard need to know.
//!
//! Written by the stream (bytes came, a write is stuck) and by answers (begun, given, ended); read by the connection's
//! only timer. Atomic only because hyper wants to send a stream that it upgrades: one thread does it all.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::http::upstream::Body;

/// Less than this taken in a whole `limits.send_timeout` is a client that does not read.
pub(super) const DRIP_BYTES: u64 = 1024;
/// What answering one PING writes: no sign that anything else is read.
const NOISE_BYTES: u64 = 17;
/// Longest `103 Early Hints` head; a longer one is not sent.
const HINT_BYTES_MAX: usize = 8 * 1024;

/// How long a connection may owe us something.
#[derive(Clone, Copy, Debug)]
pub(in crate::http::listener) struct Patience {
    pub header: Duration,
    pub idle: Duration,
    pub send: Duration,
}

/// Why a connection need not be kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::http::listener) enum Quiet {
    /// A request's head, or HTTP/2's greeting, did not come to its end.
    Header,
    /// What we send is not taken.
    Send,
    /// Nothing was asked.
    Idle,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Http1,
    Http2,
}

#[derive(Debug)]
pub(in crate::http::listener) struct Activity {
    kind: Kind,
    began: Instant,
    /// Requests being answered: 0 or 1 in HTTP/1.
    busy: AtomicU32,
    /// When the client began to owe the rest of a head; 0: it does not. As all times here, in microseconds since `began`.
    head: AtomicU64,
    /// Whether part of a head came while a request was busy.
    partial: AtomicBool,
    /// When the last answer ended, or the connection began.
    idle: AtomicU64,
    /// Requests that came, and answers that were decided, in HTTP/1's order.
    requests: AtomicU64,
    answers: AtomicU64,
    /// Whether the last answer is 101.
    switched: AtomicBool,
    /// Whether the last request can be given informational answers.
    informable: AtomicBool,
    /// Bytes written, and how many of them answer nothing but noise.
    written: AtomicU64,
    noise: AtomicU64,
    /// Since when a write is stuck, 0: it is not; and `written` at that time.
    stuck: AtomicU64,
    stuck_written: AtomicU64,
    /// Answers that gave data and were not asked for more since: the client's window is shut.
    given: AtomicU32,
    /// Whether the guard ended what the client said.
    refused: AtomicBool,
    /// Whether bytes are held back until the last request is answered.
    holding: AtomicBool,
    /// Whether there is a hint in `task`.
    hinted: AtomicBool,
    task: Mutex<Task>,
}

/// What is handed to the connection's task.
#[derive(Debug, Default)]
struct Task {
    waker: Option<Waker>,
    /// An informational head that is still to be written, and for which request.
    hint: Option<(u64, Vec<u8>)>,
    /// Of the HTTP/2 request that came last, until its task begins.
    waiting: Option<Arc<Waiting>>,
}

/// Since when one HTTP/2 answer has something to send and is not asked for it, as all times of its `Activity`; 0: it is.
#[derive(Debug, Default)]
struct Waiting(AtomicU64);

/// One request being answered.
#[derive(Debug)]
pub(in crate::http::listener) struct Busy {
    activity: Arc<Activity>,
    /// Only of HTTP/2.
    waiting: Option<Arc<Waiting>>,
}

/// Sends `103 Early Hints` for one HTTP/1.1 request, while it has no answer.
#[derive(Clone, Debug)]
pub struct EarlyHints {
    activity: Arc<Activity>,
    request: u64,
}

impl Activity {
    pub fn http1() -> Arc<Self> {
        Self::start(Kind::Http1)
    }

    /// Owes preface and first SETTINGS from the start.
    pub fn http2() -> Arc<Self> {
        let activity = Self::start(Kind::Http2);
        activity.head.store(1, Ordering::Relaxed);
        activity
    }

    fn start(kind: Kind) -> Arc<Self> {
        Arc::new(Self {
            kind,
            began: Instant::now(),
            busy: AtomicU32::new(0),
            head: AtomicU64::new(0),
            partial: AtomicBool::new(false),
            idle: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            switched: AtomicBool::new(false),
            informable: AtomicBool::new(false),
            written: AtomicU64::new(0),
            noise: AtomicU64::new(0),
            stuck: AtomicU64::new(0),
            stuck_written: AtomicU64::new(0),
            given: AtomicU32::new(0),
            refused: AtomicBool::new(false),
            holding: AtomicBool::new(false),
            hinted: AtomicBool::new(false),
            task: Mutex::default(),
        })
    }

    /// The task of the request that came last: of one with a tunnel it outlives the answer.
    pub fn task_of_request(self: &Arc<Self>) -> Busy {
        let waiting = self.task().waiting.take();
        self.busy_with(waiting)
    }

    fn busy_with(self: &Arc<Self>, waiting: Option<Arc<Waiting>>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy {
            activity: Arc::clone(self),
            waiting,
        }
    }

    pub fn request(self: &Arc<Self>, version: Version) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.informable.store(version == Version::HTTP_11, Ordering::Relaxed);
        if self.kind == Kind::Http1 {
            self.head.store(0, Ordering::Relaxed);
            return self.busy_with(None);
        }
        let waiting = Arc::<Waiting>::default();
        self.task().waiting = Some(Arc::clone(&waiting));
        self.busy_with(Some(waiting))
    }

    /// Whether nothing was ever asked.
    pub fn is_fresh(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    /// An HTTP/1 answer was decided, before any of it is written: what the client says next is a request, or after 101
    /// is not HTTP.
    pub fn answered(&self, status: http::StatusCode) {
        let switched = status == http::StatusCode::SWITCHING_PROTOCOLS;
        self.switched.store(switched, Ordering::Relaxed);
        self.answers.fetch_add(1, Ordering::Relaxed);
        // only then: a needless turn of the connection costs it a read
        if self.holding.swap(false, Ordering::Relaxed) {
            self.wake();
        }
    }

    /// `None` while this request has no answer, else whether it was 101.
    pub(super) fn answer_of(&self, request: u64) -> Option<bool> {
        (self.answers.load(Ordering::Relaxed) >= request).then(|| self.switched.load(Ordering::Relaxed))
    }

    /// For the request that came last; `None` where the client cannot be told (HTTP/1.0, HTTP/2).
    pub fn hints(self: &Arc<Self>) -> Option<EarlyHints> {
        (self.kind == Kind::Http1 && self.informable.load(Ordering::Relaxed)).then(|| EarlyHints {
            activity: Arc::clone(self),
            request: self.requests.load(Ordering::Relaxed),
        })
    }

    /// The guard refused what came; for whoever counts it.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// HTTP/1 bytes came; `in_head`: and the last of them are an unfinished head.
    pub(super) fn bytes_came(&self, in_head: bool) {
        self.partial.store(in_head, Ordering::Relaxed);
        if in_head && self.busy.load(Ordering::Relaxed) == 0 {
            self.owe_head();
        }
    }

    /// HTTP/2 frames came, so many of them noise; `settled`: and the client owes no rest of a head.
    pub(super) fn frames_came(&self, settled: bool, noise: u32) {
        self.noise.fetch_add(u64::from(noise) * NOISE_BYTES, Ordering::Relaxed);
        if settled {
            self.head.store(0, Ordering::Relaxed);
        } else {
            self.owe_head();
        }
    }

    fn owe_head(&self) {
        if self.head.load(Ordering::Relaxed) == 0 {
            self.head.store(self.now(), Ordering::Relaxed);
        }
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether the last write left something over.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed) > 0
    }

    /// `length` of `offered` bytes were taken.
    pub(super) fn wrote(&self, length: usize, offered: usize) {
        self.written.fetch_add(length as u64, Ordering::Relaxed);
        if length >= offered {
            self.stuck.store(0, Ordering::Relaxed);
        }
    }

    /// A write found no room. Only what goes beyond a drip begins the time anew.
    pub(super) fn write_stuck(&self) {
        let written = self.written();
        let taken = written.saturating_sub(self.stuck_written.load(Ordering::Relaxed));
        if !self.is_stuck() || taken >= DRIP_BYTES {
            self.stuck.store(self.now(), Ordering::Relaxed);
            self.stuck_written.store(written, Ordering::Relaxed);
        }
    }

    /// Who to wake when the last request is answered.
    pub(super) fn attend_answer(&self, cx: &Context<'_>) {
        self.attend(cx);
        self.holding.store(true, Ordering::Relaxed);
    }

    /// Who to wake when there is something to hand over.
    pub(super) fn attend(&self, cx: &Context<'_>) {
        let waker = &mut self.task().waker;
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    fn wake(&self) {
        let waker = self.task().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// An informational head to write, if its request still has no answer.
    pub(super) fn take_hint(&self) -> Option<Vec<u8>> {
        if !self.hinted.swap(false, Ordering::Relaxed) {
            return None;
        }
        let (request, head) = self.task().hint.take()?;
        self.answer_of(request).is_none().then_some(head)
    }

    fn task(&self) -> std::sync::MutexGuard<'_, Task> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when the connection need not be kept any longer.
    pub async fn quiet(&self, patience: Patience) -> Quiet {
        let mut shut = None;
        loop {
            match self.look(patience, &mut shut) {
                Ok(again) => tokio::time::sleep_until(again).await,
                Err(quiet) => return quiet,
            }
        }
    }

    /// When to look again. `shut`: since when answers wait for the client's window, and what was written then.
    fn look(&self, patience: Patience, shut: &mut Option<(Instant, u64)>) -> Result<Instant, Quiet> {
        let now = Instant::now();
        let busy = self.busy.load(Ordering::Relaxed) > 0;
        let head = self
            .at(&self.head)
            .filter(|_| self.kind == Kind::Http2 || !busy)
            .map(|since| (since + patience.header, Quiet::Header));
        let stuck = self.at(&self.stuck).map(|since| (since + patience.send, Quiet::Send));
        let shut = self.window_shut(now, shut).map(|since| (since + patience.send, Quiet::Send));
        let idle_since = self.began + Duration::from_micros(self.idle.load(Ordering::Relaxed));
        let idle = (!busy && head.is_none() && stuck.is_none()).then_some((idle_since + patience.idle, Quiet::Idle));
        // Something may begin while we sleep, so never sleep past its deadline.
        let mut again = now + patience.header.min(patience.idle).min(patience.send);
        for (deadline, quiet) in [head, stuck, shut, idle].into_iter().flatten() {
            if deadline <= now {
                return Err(quiet);
            }
            again = again.min(deadline);
        }
        Ok(again)
    }

    /// HTTP/2 has a second way not to read: a window that is never opened. Seen at one look and still there at the next.
    fn window_shut(&self, now: Instant, shut: &mut Option<(Instant, u64)>) -> Option<Instant> {
        if self.kind == Kind::Http1 || self.given.load(Ordering::Relaxed) == 0 {
            *shut = None;
            return None;
        }
        let sent = self.written().saturating_sub(self.noise.load(Ordering::Relaxed));
        match *shut {
            Some((since, before)) if sent.saturating_sub(before) < DRIP_BYTES => Some(since),
            _ => {
                *shut = Some((now, sent));
                Some(now)
            }
        }
    }

    fn at(&self, time: &AtomicU64) -> Option<Instant> {
        let at = time.load(Ordering::Relaxed);
        (at > 0).then(|| self.began + Duration::from_micros(at))
    }

    /// Microseconds since the connection began, never 0.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }
}

impl Busy {
    /// Whether the answer has waited for so long to be asked for more: the client keeps this stream's window shut.
    pub fn is_stalled(&self, patience: Duration) -> bool {
        let since = self.waiting.as_ref().map_or(0, |waiting| waiting.0.load(Ordering::Relaxed));
        let waited = Duration::from_micros(self.activity.now().saturating_sub(since));
        since > 0 && waited >= patience
    }

    fn wait(&self) {
        if let Some(waiting) = &self.waiting {
            waiting.0.store(self.activity.now(), Ordering::Relaxed);
        }
    }

    fn asked(&self) {
        if let Some(waiting) = &self.waiting {
            waiting.0.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let activity = &self.activity;
        // the time first: whoever sees no request must not see an old time
        activity.idle.store(activity.now(), Ordering::Relaxed);
        if activity.kind == Kind::Http1 && activity.partial.load(Ordering::Relaxed) {
            activity.owe_head();
        }
        activity.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl EarlyHints {
    /// Best effort: not sent if the answer is decided, an earlier write is stuck or it makes what waits too long.
    pub fn send(&self, headers: &HeaderMap) {
        let activity = &self.activity;
        let current = activity.requests.load(Ordering::Relaxed) == self.request && activity.answer_of(self.request).is_none();
        if !current || activity.is_stuck() {
            return;
        }
        let Some(head) = informational(headers) else {
            return;
        };
        let mut task = activity.task();
        match &mut task.hint {
            Some((request, waiting)) if *request == self.request && waiting.len() + head.len() <= HINT_BYTES_MAX => {
                waiting.extend_from_slice(&head);
            }
            Some((request, _)) if *request == self.request => {}
            hint => *hint = Some((self.request, head)),
        }
        drop(task);
        activity.hinted.store(true, Ordering::Relaxed);
        activity.wake();
    }
}

fn informational(headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut head = b"HTTP/1.1 103 Early Hints\r\n".to_vec();
    for (name, value) in headers {
        // nothing that could be read as framing
        if ![CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE].contains(name) {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
    }
    head.extend_from_slice(b"\r\n");
    (head.len() <= HINT_BYTES_MAX).then_some(head)
}

/// A response body that ends its request's busy time when it is dropped.
#[derive(Debug)]
pub(in crate::http::listener) struct Answering {
    body: Body,
    busy: Busy,
    /// Whether data was given and no more asked for since.
    given: bool,
}

impl Answering {
    pub fn new(body: Body, busy: Busy) -> Self {
        if !body.is_end_stream() {
            busy.wait();
        }
        Self {
            body,
            busy,
            given: false,
        }
    }

    /// The answer to a HEAD, whatever was made for it.
    pub fn without_content(mut self) -> Self {
        self.body = Body::empty();
        self.busy.asked();
        self
    }

    fn asked(&mut self) {
        self.busy.asked();
        if std::mem::take(&mut self.given) {
            self.busy.activity.given.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.asked();
    }
}

impl HttpBody for Answering {
    type Data = bytes::Bytes;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, Self::Error>>> {
        self.asked();
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_data()) {
            self.given = true;
            self.busy.wait();
            self.busy.activity.given.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
