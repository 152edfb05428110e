//! Bodies on their way through: never collected, only watched.
//!
//! `RequestBody` enforces `limits.body_bytes` and says who is being waited for; `Body` is every response's body and
//! gives the upstream connection back when the app's answer was read to its end. Back-pressure is hyper's own:
//! a frame is asked for only when the other side can take it. A held body (`Expect: 100-continue`) asks the client for
//! nothing until the app wants it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::cut::{Cut, Enlist};
use super::headers::{HeaderRules, remove_framing};
use super::pool::Lease;
use crate::limits::RequestSlot;

#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the request body is larger than `limits.body_bytes`")]
    TooLarge,
    #[error("the client's body ended early or is malformed")]
    Client(#[source] hyper::Error),
    #[error("the app answered without asking for the body")]
    Unwanted,
}

/// Whether the client may be asked for its body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wanted {
    Now,
    /// The app has not said yet.
    Held,
    /// It answered without.
    Never,
}

/// How far the request's body has come; written by the body, read by the response's deadline.
#[derive(Debug)]
pub(super) struct Progress {
    pub last: Cell<Instant>,
    pub waits_for_client: Cell<bool>,
    pub too_large: Cell<bool>,
    pub client_failed: Cell<bool>,
    wanted: Cell<Wanted>,
    /// Who polled a held body.
    waiting: RefCell<Option<Waker>>,
}

/// Dropped when an answer was passed on for which the client was never asked for its body: the exchange cannot go on.
#[derive(Debug)]
pub(super) struct Unasked(Rc<Progress>);

impl Progress {
    pub fn start() -> Rc<Self> {
        Rc::new(Self {
            last: Cell::new(Instant::now()),
            waits_for_client: Cell::new(false),
            too_large: Cell::new(false),
            client_failed: Cell::new(false),
            wanted: Cell::new(Wanted::Now),
            waiting: RefCell::new(None),
        })
    }

    /// The client is not asked for its body before `release`.
    pub fn hold(&self) {
        self.wanted.set(Wanted::Held);
    }

    pub fn is_held(&self) -> bool {
        self.wanted.get() == Wanted::Held
    }

    pub fn release(&self) {
        if self.is_held() {
            self.last.set(Instant::now());
            self.settle(Wanted::Now);
        }
    }

    /// Must be kept as long as the app's answer is read.
    pub fn unasked(self: &Rc<Self>) -> Option<Unasked> {
        self.is_held().then(|| Unasked(Rc::clone(self)))
    }

    fn settle(&self, wanted: Wanted) {
        self.wanted.set(wanted);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }
}

impl Drop for Unasked {
    fn drop(&mut self) {
        self.0.settle(Wanted::Never);
    }
}

/// The client's body with a limit.
#[derive(Debug)]
pub struct RequestBody {
    pub(super) incoming: Incoming,
    /// Bytes that may still come.
    pub(super) left: u64,
    pub(super) rules: Arc<HeaderRules>,
    pub(super) progress: Rc<Progress>,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.progress.wanted.get() {
            Wanted::Now => {}
            Wanted::Held => {
                self.progress.waiting.replace(Some(cx.waker().clone()));
                return Poll::Pending;
            }
            Wanted::Never => return Poll::Ready(Some(Err(BodyError::Unwanted))),
        }
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        self.progress.waits_for_client.set(polled.is_pending());
        let frame = ready!(polled);
        self.progress.last.set(Instant::now());
        match frame {
            None => Poll::Ready(None),
            Some(Err(error)) => {
                self.progress.client_failed.set(true);
                Poll::Ready(Some(Err(BodyError::Client(error))))
            }
            Some(Ok(frame)) => Poll::Ready(Some(self.passed(frame))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl RequestBody {
    fn passed(&mut self, mut frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        if let Some(data) = frame.data_ref() {
            let bytes = u64::try_from(data.remaining()).unwrap_or(u64::MAX);
            self.left = self.left.checked_sub(bytes).ok_or_else(|| {
                self.progress.too_large.set(true);
                BodyError::TooLarge
            })?;
        }
        // SECURITY: a trailer must not say what a header may not.
        if let Some(trailers) = frame.trailers_mut() {
            self.rules.remove_from_trailers(trailers);
        }
        Ok(frame)
    }
}

/// The body of every response of the gate.
pub struct Body {
    kind: Kind,
    /// Among `limits.requests`, until this is dropped.
    place: Option<RequestSlot>,
    live: Option<Live>,
}

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("the app's answer broke off")]
    App(#[from] hyper::Error),
    #[error("the answer was cut: it would not be permitted any more")]
    Cut,
}

/// How an answer that takes its time can be ended.
enum Live {
    /// Nobody knows yet whether it does; after one frame more than this says, it does.
    Unseen {
        enlist: Enlist,
        frames: u8,
    },
    Enlisted {
        cut: Rc<Cut>,
        _entry: Rc<dyn Any>,
    },
}

enum Kind {
    Full(Option<Bytes>),
    App {
        incoming: Incoming,
        lease: Option<Lease>,
        unasked: Option<Unasked>,
    },
}

impl Body {
    pub fn empty() -> Self {
        Self::full(Bytes::new())
    }

    pub fn full(bytes: Bytes) -> Self {
        Self {
            kind: Kind::Full(Some(bytes).filter(|bytes| !bytes.is_empty())),
            place: None,
            live: None,
        }
    }

    /// Keeps the request's place until the app's answer has ended or was dropped. The gate's own answers are small and
    /// there already: a client that does not take them costs no other its turn.
    pub fn holding(mut self, place: Option<RequestSlot>) -> Self {
        self.place = place.filter(|_| matches!(self.kind, Kind::App { .. }));
        self
    }

    /// Whether more of it may come.
    pub fn is_open(&self) -> bool {
        !self.is_end_stream()
    }

    /// `enlist` is called once the answer has to be waited for, or has more than one frame: a short one costs nothing.
    pub fn watched(mut self, enlist: Enlist) -> Self {
        self.live = Some(Live::Unseen { enlist, frames: 1 });
        self
    }

    /// Whether it was cut. One that begins to take its time becomes known first.
    fn look_at_cut(&mut self, polled: Seen, cx: &Context<'_>) -> Poll<()> {
        self.live = match self.live.take() {
            Some(Live::Unseen { enlist, frames }) => match (polled, frames.checked_sub(1)) {
                (Seen::Frame, Some(frames)) => Some(Live::Unseen { enlist, frames }),
                (Seen::Frame | Seen::Nothing, _) => {
                    let cut = Rc::new(Cut::default());
                    let _entry = enlist(Rc::clone(&cut));
                    Some(Live::Enlisted { cut, _entry })
                }
            },
            live => live,
        };
        match &self.live {
            Some(Live::Enlisted { cut, .. }) => cut.poll(cx),
            Some(Live::Unseen { .. }) | None => Poll::Pending,
        }
    }

    /// Without a lease the connection is not used again.
    pub(super) fn app(incoming: Incoming, lease: Option<Lease>, unasked: Option<Unasked>) -> Self {
        let mut body = Self {
            kind: Kind::App {
                incoming,
                lease,
                unasked,
            },
            place: None,
            live: None,
        };
        body.return_connection();
        body
    }

    /// Once the app's answer was read to its end.
    fn return_connection(&mut self) {
        if let Kind::App { incoming, .. } = &self.kind
            && incoming.is_end_stream()
        {
            self.finish();
        }
    }

    /// A connection whose request was never finished is not given back.
    fn finish(&mut self) {
        if let Kind::App { lease, unasked, .. } = &mut self.kind
            && let Some(lease) = lease.take()
        {
            match unasked.take() {
                None => lease.give_back(),
                Some(_ends_the_request) => drop(lease),
            }
        }
    }
}

/// What polling the app's answer gave.
#[derive(Clone, Copy)]
enum Seen {
    Frame,
    Nothing,
}

/// SECURITY: a trailer of the app's must not frame anything on the client's connection.
fn without_framing(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        remove_framing(trailers);
    }
    frame
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            Kind::Full(_) => "full",
            Kind::App { .. } => "app",
        };
        f.debug_struct("Body").field("kind", &kind).finish_non_exhaustive()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = &mut *self;
        let polled = match &mut this.kind {
            Kind::Full(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::App { incoming, .. } => Pin::new(incoming).poll_frame(cx),
        };
        let seen = if polled.is_pending() { Seen::Nothing } else { Seen::Frame };
        let over = matches!(polled, Poll::Ready(None));
        if !over && this.live.is_some() && this.look_at_cut(seen, cx).is_ready() {
            return Poll::Ready(Some(Err(AnswerError::Cut)));
        }
        let frame = ready!(polled).map(|frame| frame.map_err(AnswerError::App));
        let frame = frame.map(|frame| frame.map(without_framing));
        let ended = frame
            .as_ref()
            .is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers));
        if ended {
            this.finish();
        } else {
            this.return_connection();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::App { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| u64::try_from(b.len()).unwrap_or(u64::MAX))),
            Kind::App { incoming, .. } => incoming.size_hint(),
        }
    }
}
