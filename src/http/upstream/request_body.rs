//! The client's request body on its way to the app: streamed, never collected.
//!
//! `RequestBody` enforces `limits.body_bytes`, removes reserved trailers and records in `BodyProgress` how far it came.
//! hyper polls it from the connection's task; the response's deadline, the interim responses and `classify` read the
//! progress from the request's task. All run on one thread, so cells suffice.
//!
//! With `Expect: 100-continue` the body starts held: its poll returns pending without polling the client, and stores
//! the waker. Three events race to end that. The app's 100, a timer or the app's non-error answer releases the body:
//! the poll reads the client. An error answer that the client has received in full, or lost, makes the poll fail: the
//! exchange with the app ends and its connection is not used again. A later event has no effect on a body that is not
//! held any more.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use cedargate_policy::types::HeaderNames;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::headers::HeaderRules;

#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    #[error("the request body is larger than `limits.body_bytes`")]
    TooLarge,
    #[error("the client's body ended early or is malformed")]
    Client(#[source] hyper::Error),
    #[error("the app answered without asking for the body")]
    NotRequested,
}

/// State of the body towards the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum BodyDemand {
    /// Frames are read from the client.
    Open,
    /// The app has not asked for the body yet (`Expect: 100-continue`).
    Held,
    /// The app answered without asking for it; polls fail.
    Refused,
}

/// The progress of the request's body. The body writes it, the response's deadline reads it.
#[derive(Debug)]
pub(super) struct BodyProgress {
    pub last_activity: Cell<Instant>,
    pub waits_for_client: Cell<bool>,
    pub too_large: Cell<bool>,
    pub client_failed: Cell<bool>,
    /// True once hyper took the whole body.
    pub ended: Cell<bool>,
    demand: Cell<BodyDemand>,
    /// Task that polled a held body.
    waker: RefCell<Option<Waker>>,
}

/// Stored with an answer that came while the body was held. Its drop refuses the body, so that the exchange ends.
#[derive(Debug)]
pub(super) struct HeldBody(Rc<BodyProgress>);

impl BodyProgress {
    pub fn start() -> Rc<Self> {
        Rc::new(Self {
            last_activity: Cell::new(Instant::now()),
            waits_for_client: Cell::new(false),
            too_large: Cell::new(false),
            client_failed: Cell::new(false),
            ended: Cell::new(false),
            demand: Cell::new(BodyDemand::Open),
            waker: RefCell::new(None),
        })
    }

    /// Stops reads from the client until `release`.
    pub fn hold(&self) {
        self.demand.set(BodyDemand::Held);
    }

    pub fn is_held(&self) -> bool {
        self.demand.get() == BodyDemand::Held
    }

    /// Lets a held body flow; no effect in another state.
    pub fn release(&self) {
        if self.is_held() {
            self.last_activity.set(Instant::now());
            self.set_demand(BodyDemand::Open);
        }
    }

    /// Returns the guard of a held body; `None` if the body is not held. The caller keeps it until the app's answer is
    /// read.
    pub fn held_body(self: &Rc<Self>) -> Option<HeldBody> {
        self.is_held().then(|| HeldBody(Rc::clone(self)))
    }

    fn set_demand(&self, demand: BodyDemand) {
        self.demand.set(demand);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        self.0.set_demand(BodyDemand::Refused);
    }
}

/// The client's body with a size limit.
#[derive(Debug)]
pub struct RequestBody {
    /// `None`: the request has no body.
    pub(super) incoming: Option<Incoming>,
    /// Bytes left of the limit.
    pub(super) bytes_left: u64,
    pub(super) rules: Arc<HeaderRules>,
    /// The headers that policies read.
    pub(super) policy_headers: HeaderNames,
    pub(super) progress: Rc<BodyProgress>,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        match self.progress.demand.get() {
            BodyDemand::Open => {}
            BodyDemand::Held => {
                self.progress.waker.replace(Some(cx.waker().clone()));
                return Poll::Pending;
            }
            BodyDemand::Refused => return Poll::Ready(Some(Err(RequestBodyError::NotRequested))),
        }
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(&mut *incoming).poll_frame(cx);
        let ended = incoming.is_end_stream() || matches!(polled, Poll::Ready(None));
        self.progress.ended.set(ended);
        self.progress.waits_for_client.set(polled.is_pending());
        let frame = ready!(polled);
        self.progress.last_activity.set(Instant::now());
        match frame {
            None => Poll::Ready(None),
            Some(Err(error)) => {
                self.progress.client_failed.set(true);
                Poll::Ready(Some(Err(RequestBodyError::Client(error))))
            }
            Some(Ok(frame)) => Poll::Ready(Some(self.check_frame(frame))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or(SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl RequestBody {
    /// A second body for a request without one.
    pub fn copy_of_empty(&self) -> Self {
        Self {
            incoming: None,
            bytes_left: self.bytes_left,
            rules: Arc::clone(&self.rules),
            policy_headers: self.policy_headers.clone(),
            progress: Rc::clone(&self.progress),
        }
    }

    /// Counts the bytes of a frame and removes reserved trailers.
    fn check_frame(&mut self, mut frame: Frame<Bytes>) -> Result<Frame<Bytes>, RequestBodyError> {
        if let Some(data) = frame.data_ref() {
            let bytes = u64::try_from(data.remaining()).unwrap_or(u64::MAX);
            self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or_else(|| {
                self.progress.too_large.set(true);
                RequestBodyError::TooLarge
            })?;
        }
        // SECURITY: a trailer must not carry a name that the client may not send as a header, or that a policy has read
        if let Some(trailers) = frame.trailers_mut() {
            self.rules.remove_from_trailers(trailers, &self.policy_headers);
        }
        Ok(frame)
    }
}
