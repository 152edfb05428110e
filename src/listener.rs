//! Accepts connections and gives their requests to the path.
//!
//! A connection is greeted (`greet`: what comes before HTTP, and which HTTP it is), then driven to its end by `http1` or
//! `http2`, which agree on everything that concerns requests: `Conversation::answer`.
//!
//! One listener per worker thread on the same address (SO_REUSEPORT), so workers share nothing but a counter. Over
//! the connection limit a connection is accepted and closed at once: with one socket per worker, a worker that stopped
//! accepting would strand what the kernel queues for it. Nothing that arrives here ends the process: accept errors
//! back off, panics end one connection.

mod greet;
mod http1;
mod http2;
mod link;
mod socket;
mod watched;

pub use link::Link;
pub use socket::{PeerAddr, Socket, bind, bind_unix};

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;

use crate::config::Limits;
use crate::lifecycle::Shutdown;
use crate::metrics::Metrics;
use crate::types::Scheme;
use crate::upstream::Body;
use greet::{Protocol, Unheard};
use link::Work;
use socket::Stream;
use watched::{Activity, Answering};

/// First and longest pause after the kernel refused an accept (out of file descriptors, memory).
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(5);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a connection that has asked nothing yet may still begin to, once closing: its request may be on the way.
const LATE_PATIENCE: Duration = Duration::from_secs(1);

/// Why bytes on a connection never became a request; the label of `http_rejected_total{reason}`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rejected {
    Malformed,
    HeadersTooLarge,
    HeaderTimeout,
    /// A client that broke the rules of HTTP/2 for the whole connection.
    Http2Protocol,
}

impl Rejected {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::HeadersTooLarge => "headers_too_large",
            Self::HeaderTimeout => "header_timeout",
            Self::Http2Protocol => "http2_protocol_error",
        }
    }
}

/// Connections open on all workers together, up to `limits.connections`.
#[derive(Clone, Debug)]
pub struct ConnectionCount {
    open: Arc<AtomicUsize>,
    max: usize,
    gauge: Option<prometheus::IntGauge>,
}

/// One counted connection; dropping it frees its place.
#[derive(Debug)]
pub struct Counted(ConnectionCount);

/// What every connection of one listener shares.
pub struct Front {
    header_bytes: usize,
    header_timeout: Duration,
    idle_timeout: Duration,
    /// Requests at once on one HTTP/2 connection.
    streams: u32,
    count: ConnectionCount,
    metrics: Metrics,
    /// Called for bytes that never became a request (audit kind `http_rejected`).
    on_rejected: OnRejected,
}

type OnRejected = Box<dyn Fn(Rejected, PeerAddr)>;

struct Panicked;

impl Front {
    pub fn new(limits: &Limits, count: ConnectionCount, metrics: &Metrics, on_rejected: OnRejected) -> Self {
        Self {
            header_bytes: limits.header_bytes,
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            streams: limits.streams,
            count,
            metrics: metrics.clone(),
            on_rejected,
        }
    }

    fn reject(&self, reason: Rejected, peer: PeerAddr) {
        self.metrics.http_rejected.with_label_values(&[reason.as_str()]).inc();
        (self.on_rejected)(reason, peer);
    }
}

impl ConnectionCount {
    pub fn new(limits: &Limits, metrics: &Metrics) -> Self {
        Self {
            open: Arc::default(),
            max: limits.connections,
            gauge: Some(metrics.connections.clone()),
        }
    }

    /// Counted for itself, outside the published number: the admin listener's.
    pub fn apart(max: usize) -> Self {
        Self {
            open: Arc::default(),
            max,
            gauge: None,
        }
    }

    fn take(&self) -> Option<Counted> {
        let free = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
            (open < self.max).then_some(open + 1)
        });
        free.ok().map(|_before| {
            if let Some(gauge) = &self.gauge {
                gauge.inc();
            }
            Counted(self.clone())
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(gauge) = &self.0.gauge {
            gauge.dec();
        }
    }
}

/// Serves until draining, then returns when every connection ended or was forced to. Needs a `LocalSet`.
pub async fn serve<H, F>(socket: Socket, front: Rc<Front>, mut shutdown: Shutdown, handler: H)
where
    H: Fn(Request<Incoming>, Rc<Link>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let handler = Rc::new(handler);
    let tracker = TaskTracker::new();
    let mut pause = ACCEPT_PAUSE_MIN;
    let told = shutdown.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.closing() => break,
            accepted = socket.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; pausing");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                continue;
            }
        };
        pause = ACCEPT_PAUSE_MIN;
        let Some(counted) = front.count.take() else {
            tracing::warn!("`limits.connections` reached; closing a new connection");
            continue;
        };
        let (front, handler) = (Rc::clone(&front), Rc::clone(&handler));
        let work = Work {
            tracker: tracker.clone(),
            shutdown: told.clone(),
            panics: front.metrics.panics.clone(),
        };
        tracker.spawn_local(async move {
            let panics = work.panics.clone();
            if caught(converse(stream, peer, (work, counted), front, handler)).await.is_err() {
                panics.inc();
                tracing::error!("a connection ended in a panic");
            }
        });
    }
    drop(socket);
    tracker.close();
    tracker.wait().await;
}

/// One connection from its first byte to its end.
async fn converse<H, F>(stream: Stream, peer: PeerAddr, (work, place): (Work, Counted), front: Rc<Front>, handler: Rc<H>)
where
    H: Fn(Request<Incoming>, Rc<Link>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let shutdown = work.shutdown.clone();
    let greeted = tokio::select! {
        biased;
        greeted = greet::greet(stream, &front) => greeted,
        () = late(shutdown.clone()) => return,
    };
    let greeted = match greeted {
        Ok(greeted) => greeted,
        Err(Unheard::Silent) => return,
        Err(Unheard::Rejected(reason)) => return front.reject(reason, peer),
    };
    let conversation = Conversation {
        link: Link::new(peer, Scheme::Http, work, place),
        front,
        shutdown,
        handler,
    };
    match greeted.protocol {
        Protocol::Http1 => http1::drive(greeted.stream, conversation).await,
        Protocol::Http2 => http2::drive(greeted.stream, conversation).await,
    }
}

/// What one connection is served with.
struct Conversation<H> {
    front: Rc<Front>,
    link: Rc<Link>,
    shutdown: Shutdown,
    handler: Rc<H>,
}

impl<H> Conversation<H> {
    /// One answer. While draining it asks the client to leave; a panic ends the request, which is all that is left of it.
    fn answer<F>(
        &self,
        request: Request<Incoming>,
        activity: &Arc<Activity>,
    ) -> impl Future<Output = Result<Response<Answering>, std::io::Error>> + use<H, F>
    where
        H: Fn(Request<Incoming>, Rc<Link>) -> F + 'static,
        F: Future<Output = Response<Body>> + 'static,
    {
        let busy = activity.request();
        let answer = (self.handler)(request, Rc::clone(&self.link));
        let (front, shutdown) = (Rc::clone(&self.front), self.shutdown.clone());
        async move {
            match caught(answer).await {
                Ok(mut response) => {
                    if shutdown.is_draining() {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok(response.map(|body| Answering::new(body, busy)))
                }
                Err(Panicked) => {
                    front.metrics.panics.inc();
                    Err(std::io::Error::other("the request ended in a panic"))
                }
            }
        }
    }
}

async fn forced(mut shutdown: Shutdown) {
    shutdown.forced().await;
}

/// Resolves when a connection that has asked nothing yet must not be waited for any longer.
async fn late(mut shutdown: Shutdown) {
    shutdown.closing().await;
    tokio::select! {
        () = shutdown.forced() => {}
        () = tokio::time::sleep(LATE_PATIENCE) => {}
    }
}

/// A panic of the future becomes a value; whatever the future held is dropped while unwinding.
async fn caught<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(_payload) => std::task::Poll::Ready(Err(Panicked)),
    })
    .await
}

#[cfg(test)]
mod tests;
