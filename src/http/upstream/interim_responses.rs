//! Interim responses of the app: `100 Continue` and `103 Early Hints`.
//!
//! hyper reports an interim response by a callback on the connection's task; the request's task takes it from a queue.
//! The queue is bounded by the hints that one request may pass on; a push to a full queue drops the hint. Only a
//! request that can use interim responses has a queue, and an empty queue allocates nothing.
//!
//! `Exchange::send` polls the queue before the answer, so hints that arrived before the answer go to the client before
//! it. A held body (`Expect: 100-continue`) is released by the app's 100 or by a timer, whichever comes first. hyper
//! reports no interim responses of HTTP/2 connections, so there the timer always releases it. The timer is at most half
//! the response timeout: the app's time to answer restarts with the release and must not run out before it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use http::header::EXPECT;
use http::{HeaderMap, Request, Version};
use http_body::Body as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::RequestBody;
use super::headers;
use super::request_body::BodyProgress;
use crate::base::deadline::sleep_until;

/// Longest time that the gate waits for the app's 100 before it sends the body anyway (RFC 9110, 10.1.1).
pub const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);
/// Early hints passed on per request.
const HINTS_MAX: usize = 8;
const CONTINUE: u16 = 100;
const EARLY_HINTS: u16 = 103;

/// Sends an early hint to the client; called with the headers of an app's 103 without hop-by-hop headers.
pub type SendHints<'a> = &'a dyn Fn(HeaderMap);

/// The interim responses of one exchange.
#[derive(Debug)]
pub(super) struct InterimResponses {
    queue: Option<Arc<InterimQueue>>,
    hints_left: usize,
    /// Time at which a held body is released without a 100.
    release_at: Option<Instant>,
}

/// Filled by the connection's task, emptied by the request's task.
#[derive(Debug, Default)]
struct InterimQueue {
    responses: Mutex<VecDeque<Interim>>,
    pushed: Notify,
}

#[derive(Debug)]
enum Interim {
    Continue,
    Hints(HeaderMap),
}

impl InterimResponses {
    /// Holds the body if the client waits for a 100, and subscribes to interim responses if the body is held or the
    /// client can receive hints.
    pub fn subscribe(
        request: &mut Request<RequestBody>,
        client_version: Version,
        response_timeout: Duration,
        send_hints: Option<SendHints<'_>>,
    ) -> Self {
        let mut release_at = None;
        if request.headers().contains_key(EXPECT) {
            if waits_for_continue(request, client_version) {
                request.body().progress.hold();
                release_at = Some(Instant::now() + CONTINUE_TIMEOUT.min(response_timeout / 2));
            } else {
                request.headers_mut().remove(EXPECT);
            }
        }
        let wanted = release_at.is_some() || send_hints.is_some();
        Self {
            queue: wanted.then(|| InterimQueue::attach(request)),
            hints_left: HINTS_MAX,
            release_at,
        }
    }

    /// Lets the second send of the request fill the same queue.
    pub fn subscribe_again(&self, request: &mut Request<RequestBody>) {
        if let Some(queue) = &self.queue {
            queue.fill_from(request);
        }
    }

    /// Releases the body and passes hints on as interim responses arrive. Never returns; the caller drops it when the
    /// app's answer is there. Cancel-safe.
    pub async fn pass_on(&mut self, progress: &BodyProgress, send_hints: Option<SendHints<'_>>) -> std::convert::Infallible {
        loop {
            tokio::select! {
                biased;
                interim = next(self.queue.as_deref()) => match interim {
                    Interim::Continue => progress.release(),
                    Interim::Hints(mut hints) => {
                        let Some(send_hints) = send_hints.filter(|_| self.hints_left > 0) else { continue };
                        self.hints_left -= 1;
                        headers::prepare_hints(&mut hints);
                        send_hints(hints);
                    }
                },
                () = sleep_until_some(self.release_at), if progress.is_held() => progress.release(),
            }
        }
    }
}

impl InterimQueue {
    /// Makes a queue that hyper fills with the interim responses to `request`.
    fn attach(request: &mut Request<RequestBody>) -> Arc<Self> {
        let queue = Arc::new(Self::default());
        queue.fill_from(request);
        queue
    }

    fn fill_from(self: &Arc<Self>, request: &mut Request<RequestBody>) {
        let filled = Arc::clone(self);
        hyper::ext::on_informational(request, move |interim| {
            filled.push(match interim.status().as_u16() {
                CONTINUE => Interim::Continue,
                EARLY_HINTS => Interim::Hints(interim.headers().clone()),
                _ => return,
            });
        });
    }

    /// Drops the response when the queue is full.
    fn push(&self, interim: Interim) {
        let mut responses = self.responses.lock();
        if responses.len() <= HINTS_MAX {
            responses.push_back(interim);
            self.pushed.notify_one();
        }
    }

    fn pop(&self) -> Option<Interim> {
        self.responses.lock().pop_front()
    }
}

/// True if the client waits for a 100. An HTTP/1.0 client cannot (RFC 9110, 10.1.1), and an empty body needs none.
fn waits_for_continue(request: &Request<RequestBody>, client_version: Version) -> bool {
    let expect = request.headers().get(EXPECT);
    let is_continue = expect.is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    is_continue && client_version >= Version::HTTP_11 && !request.body().is_end_stream()
}

/// Waits for the next interim response; forever without a queue.
async fn next(queue: Option<&InterimQueue>) -> Interim {
    let Some(queue) = queue else {
        return std::future::pending().await;
    };
    loop {
        if let Some(interim) = queue.pop() {
            return interim;
        }
        queue.pushed.notified().await;
    }
}

async fn sleep_until_some(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
