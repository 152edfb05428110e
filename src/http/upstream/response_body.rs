//! The body of every response of the gate: the gate's own bytes, or the app's body as it streams.
//!
//! The app's connection goes back to the pool when its body was read to the end, and closes if the body is dropped
//! before that. Back-pressure is hyper's: the listener polls for a frame only when the client can take it.
//!
//! A streaming response can outlive its permission, so it registers as live (`RegisterLive`) on its second frame or its
//! first wait, whichever comes first; a response of one frame that is ready at once never registers. From then on
//! `poll_frame` checks the cut signal after it polled the app. A frame and a cut that arrive together end the response:
//! the cut wins, except over the regular end of the body, which is complete. If the client goes away, the drop of the
//! body removes the registration.

use std::any::Any;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::cut_signal::{CutSignal, RegisterLive};
use super::headers::prepare_response_trailers;
use super::pool::Lease;
use super::request_body::HeldBody;
use crate::limits::RequestSlot;

/// The body of every response of the gate.
pub struct Body {
    source: BodySource,
    /// The request's place in `limits.requests`; free again when the body is dropped.
    request_slot: Option<RequestSlot>,
    live: Option<LiveState>,
}

/// An error that ends a response before its end.
#[derive(Debug, thiserror::Error)]
pub enum ResponseBodyError {
    #[error("the app's answer broke off")]
    App(#[from] hyper::Error),
    #[error("the gate ended the answer: it would not be permitted any more")]
    Cut,
}

/// Registration of a response that the gate can cut.
enum LiveState {
    /// The response registers at the next wait, or after `frames_left` more frames.
    Unregistered {
        register: RegisterLive,
        frames_left: u8,
    },
    Registered {
        cut: Rc<CutSignal>,
        _registration: Rc<dyn Any>,
    },
}

type ByteStream = Pin<Box<dyn Stream<Item = Bytes>>>;

enum BodySource {
    /// A body of the gate; `None` once it was sent.
    Own(Option<Bytes>),
    /// A message of the gate over gRPC, and the trailers that end it.
    Message {
        message: Option<Bytes>,
        trailers: Option<HeaderMap>,
    },
    /// Bytes of the gate that come one after the other; `None` once they ended.
    Stream(Option<ByteStream>),
    App {
        incoming: Incoming,
        lease: Option<Lease>,
        held_body: Option<HeldBody>,
        /// The app's body broke off; returned to hyper at the next poll.
        failure: Option<hyper::Error>,
    },
}

/// Result of a poll of the app's body.
#[derive(Clone, Copy)]
enum AppPoll {
    Frame,
    Waits,
}

impl Body {
    /// True for an answer of the gate itself; false for the app's.
    pub fn is_own(&self) -> bool {
        !matches!(self.source, BodySource::App { .. })
    }

    pub fn empty() -> Self {
        Self::full(Bytes::new())
    }

    pub fn full(bytes: Bytes) -> Self {
        Self {
            source: BodySource::Own(Some(bytes).filter(|bytes| !bytes.is_empty())),
            request_slot: None,
            live: None,
        }
    }

    /// Bytes of the gate that come one after the other. The stream is dropped when it ended or the client left.
    pub fn stream(bytes: impl Stream<Item = Bytes> + 'static) -> Self {
        Self {
            source: BodySource::Stream(Some(Box::pin(bytes))),
            request_slot: None,
            live: None,
        }
    }

    /// One message and trailers.
    pub fn message(message: Bytes, trailers: HeaderMap) -> Self {
        Self {
            source: BodySource::Message {
                message: Some(message),
                trailers: Some(trailers),
            },
            request_slot: None,
            live: None,
        }
    }

    /// Keeps the request's place until the app's body has ended or was dropped. The gate's own bodies are small and in
    /// memory, so a client that reads one slowly keeps no place.
    pub fn with_request_slot(mut self, slot: Option<RequestSlot>) -> Self {
        self.request_slot = slot.filter(|_| matches!(self.source, BodySource::App { .. }));
        self
    }

    /// True if more frames may come.
    pub fn is_open(&self) -> bool {
        !self.is_end_stream()
    }

    /// Makes the response register as live when it needs a wait or more than one frame. A shorter response costs
    /// nothing.
    pub fn registered_as_live(mut self, register: RegisterLive) -> Self {
        self.live = Some(LiveState::Unregistered {
            register,
            frames_left: 1,
        });
        self
    }

    /// The app's body. Without a lease the connection is not used again.
    pub(super) fn from_app(incoming: Incoming, lease: Option<Lease>, held_body: Option<HeldBody>) -> Self {
        let mut body = Self {
            source: BodySource::App {
                incoming,
                lease,
                held_body,
                failure: None,
            },
            request_slot: None,
            live: None,
        };
        body.finish_if_ended();
        body
    }

    /// Registers the response if it is due, then polls its cut signal.
    fn poll_cut(&mut self, polled: AppPoll, cx: &Context<'_>) -> Poll<()> {
        self.live = match self.live.take() {
            Some(LiveState::Unregistered { register, frames_left }) => match (polled, frames_left.checked_sub(1)) {
                (AppPoll::Frame, Some(frames_left)) => Some(LiveState::Unregistered { register, frames_left }),
                (AppPoll::Frame | AppPoll::Waits, _) => {
                    let cut = Rc::new(CutSignal::default());
                    let registration = register(Rc::clone(&cut));
                    Some(LiveState::Registered {
                        cut,
                        _registration: registration,
                    })
                }
            },
            live => live,
        };
        match &self.live {
            Some(LiveState::Registered { cut, .. }) => cut.poll(cx),
            Some(LiveState::Unregistered { .. }) | None => Poll::Pending,
        }
    }

    fn finish_if_ended(&mut self) {
        if let BodySource::App { incoming, .. } = &self.source
            && incoming.is_end_stream()
        {
            self.finish();
        }
    }

    /// Returns the connection to the pool, or closes it if its request was never sent to the end.
    fn finish(&mut self) {
        if let BodySource::App { lease, held_body, .. } = &mut self.source
            && let Some(lease) = lease.take()
        {
            match held_body.take() {
                None => lease.give_back(),
                Some(_refuses_the_request_body) => drop(lease),
            }
        }
    }
}

/// Takes a frame that is there, else moves the app's connection on and looks again.
///
/// A failure waits for one poll. hyper ends the client's connection at once when the body fails, and with it what it
/// has not written yet; before that it writes the head and the frames that came with the failure.
fn poll_app(
    incoming: &mut Incoming,
    lease: Option<&mut Lease>,
    failure: &mut Option<hyper::Error>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    if let Some(failure) = failure.take() {
        return Poll::Ready(Some(Err(failure)));
    }
    let mut polled = Pin::new(&mut *incoming).poll_frame(cx);
    if let (true, Some(lease)) = (polled.is_pending(), lease) {
        lease.drive(cx);
        polled = Pin::new(incoming).poll_frame(cx);
    }
    match polled {
        Poll::Ready(Some(Err(error))) => {
            *failure = Some(error);
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        polled => polled,
    }
}

/// SECURITY: a trailer of the app must not change the framing of the client's connection, and not the client's session.
fn with_clean_trailers(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        prepare_response_trailers(trailers);
    }
    frame
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source = match self.source {
            BodySource::Own(_) | BodySource::Stream(_) | BodySource::Message { .. } => "own",
            BodySource::App { .. } => "app",
        };
        f.debug_struct("Body").field("source", &source).finish_non_exhaustive()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = ResponseBodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        let this = &mut *self;
        let polled = match &mut this.source {
            BodySource::Own(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            BodySource::Stream(source) => {
                let Some(stream) = source else { return Poll::Ready(None) };
                let next = ready!(stream.as_mut().poll_next(cx));
                if next.is_none() {
                    *source = None;
                }
                return Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))));
            }
            BodySource::Message { message, trailers } => {
                let frame = message
                    .take()
                    .map(Frame::data)
                    .or_else(|| trailers.take().map(Frame::trailers));
                return Poll::Ready(frame.map(Ok));
            }
            BodySource::App {
                incoming,
                lease,
                failure,
                ..
            } => poll_app(incoming, lease.as_mut(), failure, cx),
        };
        let app_poll = if polled.is_pending() { AppPoll::Waits } else { AppPoll::Frame };
        let is_over = matches!(polled, Poll::Ready(None));
        if !is_over && this.live.is_some() && this.poll_cut(app_poll, cx).is_ready() {
            return Poll::Ready(Some(Err(ResponseBodyError::Cut)));
        }
        let frame = ready!(polled).map(|frame| frame.map_err(ResponseBodyError::App));
        let frame = frame.map(|frame| frame.map(with_clean_trailers));
        let ended = frame
            .as_ref()
            .is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers));
        if ended {
            this.finish();
        } else {
            this.finish_if_ended();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            BodySource::Own(bytes) => bytes.is_none(),
            BodySource::Stream(stream) => stream.is_none(),
            BodySource::Message { trailers, .. } => trailers.is_none(),
            BodySource::App { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            BodySource::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| u64::try_from(b.len()).unwrap_or(u64::MAX)))
            }
            BodySource::Message { .. } | BodySource::Stream(_) => SizeHint::new(),
            BodySource::App { incoming, .. } => incoming.size_hint(),
        }
    }
}
