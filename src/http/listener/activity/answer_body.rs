//! The body of an answer: keeps its request open until hyper drops it, and shows whether the client takes it.
//!
//! Over HTTP/2, hyper asks for the next frame only while the client's window is open. Data that was handed out and not
//! followed by another poll therefore means a closed window: the connection's timer counts such answers
//! (`Activity::window_closed_since`), and the stream's own task times the single one (`InFlight::is_stalled`).

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body as HttpBody, Frame, SizeHint};

use super::InFlight;
use crate::http::upstream::Body;

/// A response body that ends its request when it is dropped.
#[derive(Debug)]
pub(in crate::http::listener) struct AnswerBody {
    body: Body,
    in_flight: InFlight,
    /// True while the answer counts among `State::blocked_answers`.
    is_blocked: bool,
}

impl AnswerBody {
    pub fn new(body: Body, in_flight: InFlight) -> Self {
        if !body.is_end_stream() {
            in_flight.data_waits();
        }
        Self {
            body,
            in_flight,
            is_blocked: false,
        }
    }

    /// True if the gate itself answers.
    pub fn is_own(&self) -> bool {
        self.body.is_own()
    }

    /// Drops the body, for the answer to a HEAD request.
    pub fn without_content(mut self) -> Self {
        self.body = Body::empty();
        self.in_flight.data_wanted();
        self
    }

    /// Hyper asks for more: the client's window is open.
    fn data_wanted(&mut self) {
        self.in_flight.data_wanted();
        if std::mem::take(&mut self.is_blocked) {
            let mut state = self.in_flight.activity.state.lock();
            state.blocked_answers = state.blocked_answers.saturating_sub(1);
        }
    }

    /// Counts the answer as blocked until hyper asks for more. HTTP/1 has no window.
    fn data_given(&mut self) {
        self.in_flight.data_waits();
        if self.in_flight.stall.is_some() {
            self.is_blocked = true;
            self.in_flight.activity.state.lock().blocked_answers += 1;
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.data_wanted();
    }
}

impl HttpBody for AnswerBody {
    type Data = bytes::Bytes;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, Self::Error>>> {
        self.data_wanted();
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_data()) {
            self.data_given();
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
