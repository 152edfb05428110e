//! Accepts connections and gives their requests to the path.
//!
//! One listener per worker thread on the same address (SO_REUSEPORT), so workers share nothing but a counter. Over
//! the connection limit a connection is accepted and closed at once: with one socket per worker, a worker that stopped
//! accepting would strand what the kernel queues for it. Nothing that arrives here ends the process: accept errors
//! back off, panics end one connection.

mod file;
mod link;
mod socket;
mod watched;

pub use file::{SocketFile, bind_private};
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
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::TaskTracker;

use crate::config::Limits;
use crate::lifecycle::Shutdown;
use crate::metrics::Metrics;
use crate::types::Scheme;
use crate::upstream::Body;
use watched::{Activity, Answering, Watched};

/// First and longest pause after the kernel refused an accept (out of file descriptors, memory).
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(5);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// While leaving, how long a connection may go without a first request: one that was opened in advance must not hold up
/// the end.
const LEAVING_IDLE: Duration = Duration::from_secs(1);
/// hyper's smallest buffer.
const BUFFER_BYTES_MIN: usize = 8192;

/// Why bytes on a connection never became a request; the label of `http_rejected_total{reason}`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rejected {
    Malformed,
    HeadersTooLarge,
    HeaderTimeout,
}

impl Rejected {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::HeadersTooLarge => "headers_too_large",
            Self::HeaderTimeout => "header_timeout",
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
    pub header_bytes: usize,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub count: ConnectionCount,
    pub metrics: Metrics,
    /// Called for bytes that hyper refused by itself (audit kind `http_rejected`).
    pub on_rejected: Box<dyn Fn(Rejected, PeerAddr)>,
}

struct Panicked;

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
        let (front, handler, told) = (Rc::clone(&front), Rc::clone(&handler), told.clone());
        tracker.spawn_local(async move {
            let link = Link::new(peer, Scheme::Http, counted);
            if caught(converse(stream, link, &front, told, handler)).await.is_err() {
                front.metrics.panics.inc();
                tracing::error!("a connection ended in a panic");
            }
        });
    }
    drop(socket);
    tracker.close();
    tracker.wait().await;
}

async fn converse<S, H, F>(stream: S, link: Rc<Link>, front: &Rc<Front>, mut shutdown: Shutdown, handler: Rc<H>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<Incoming>, Rc<Link>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let peer = link.peer;
    let told = shutdown.clone();
    let activity = Activity::start();
    let watched = TokioIo::new(Watched::new(stream, Rc::clone(&activity)));
    let service = service_fn(|request| {
        let busy = activity.request();
        let answer = handler(request, Rc::clone(&link));
        let (metrics, told) = (&front.metrics, told.clone());
        async move {
            match caught(answer).await {
                Ok(mut response) => {
                    if told.is_draining() {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok(response.map(|body| Answering::new(body, busy)))
                }
                Err(Panicked) => {
                    metrics.panics.inc();
                    Err(std::io::Error::other("the request ended in a panic"))
                }
            }
        }
    });
    let mut connection = pin!(settings(front).serve_connection(watched, service));
    let mut closing = false;
    let outcome = loop {
        let told = shutdown.clone();
        let idle_timeout = if closing {
            front.idle_timeout.min(LEAVING_IDLE)
        } else {
            front.idle_timeout
        };
        tokio::select! {
            biased;
            outcome = connection.as_mut() => break outcome,
            () = shutdown.closing(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = forced(told), if closing => return,
            partial = activity.quiet(front.header_timeout, idle_timeout) => {
                if partial {
                    reject(front, Rejected::HeaderTimeout, peer);
                }
                return;
            }
        }
    };
    if let Err(error) = outcome
        && let Some(reason) = rejection(&error)
    {
        reject(front, reason, peer);
    }
}

async fn forced(mut shutdown: Shutdown) {
    shutdown.forced().await;
}

/// Header and idle timeouts are `Activity`'s: hyper has one timer for both. Never `pipeline_flush`: it lifts hyper's limit
/// on what it buffers for a client that does not read.
fn settings(front: &Front) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_buf_size(front.header_bytes.max(BUFFER_BYTES_MIN))
        // no `pipeline_flush`: it never writes the last answer of a connection that closes on pipelined bytes
        .half_close(false);
    builder
}

fn reject(front: &Front, reason: Rejected, peer: PeerAddr) {
    front.metrics.http_rejected.with_label_values(&[reason.as_str()]).inc();
    (front.on_rejected)(reason, peer);
}

fn rejection(error: &hyper::Error) -> Option<Rejected> {
    if error.is_parse_too_large() {
        Some(Rejected::HeadersTooLarge)
    } else if error.is_parse() {
        Some(Rejected::Malformed)
    } else {
        None
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
