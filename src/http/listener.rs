//! Accepts connections and gives their requests to the path.
//!
//! A connection is greeted (`greet`: what comes before HTTP, and which HTTP it is), then driven to its end by `http1` or
//! `http2`, which agree on everything that concerns requests: `Conversation::answer`.
//!
//! One listener per worker thread on the same address (SO_REUSEPORT), so workers share nothing but a counter. Over
//! the connection limit a connection is accepted, told so if it speaks plain text, and closed: with one socket per
//! worker, a worker that stopped accepting would strand what the kernel queues for it. Nothing that arrives here ends
//! the process: accept errors back off, panics end one connection.

mod file;
mod greet;
mod guard;
mod http1;
mod http2;
mod link;
mod places;
mod proxy_header;
mod refusal;
mod socket;
mod watched;
mod wire;

pub use file::{SocketFile, bind_private};
pub use greet::ALPN_HTTP2;
pub use link::Link;
pub use places::{AddressCount, ConnectionCount};
pub use socket::{PeerAddr, Socket, bind, bind_unix};

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use ipnet::IpNet;
use tokio_util::task::TaskTracker;

use crate::base::lifecycle::Shutdown;
use crate::base::metrics::Metrics;
use crate::config::Limits;
use crate::http::upstream::Body;
use greet::{Protocol, Unheard};
use link::Work;
use places::Counted;
use refusal::Refusals;
use socket::Stream;
use watched::{Activity, Answering, Patience};

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
    /// A client that took none of what was sent to it.
    SendTimeout,
    /// A client that broke the rules of HTTP/2 for the whole connection.
    Http2Protocol,
    /// A client that sent more frames without meaning than any needs.
    Http2Flood,
    /// A trusted proxy that did not say whose connection it passes on.
    ProxyHeader,
    TlsHandshake,
    TooManyConnections,
}

impl Rejected {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::HeadersTooLarge => "headers_too_large",
            Self::HeaderTimeout => "header_timeout",
            Self::SendTimeout => "send_timeout",
            Self::Http2Protocol => "http2_protocol_error",
            Self::Http2Flood => "http2_flood",
            Self::ProxyHeader => "proxy_header",
            Self::TlsHandshake => "tls_handshake",
            Self::TooManyConnections => "too_many_connections",
        }
    }

    /// What costs a client nothing at all is only counted: records of it would crowd out those of decisions.
    const fn is_recorded(self) -> bool {
        !matches!(self, Self::TlsHandshake | Self::TooManyConnections)
    }
}

/// The certificates of a listener as they are now; `tls` swaps them.
pub type SharedTls = Arc<ArcSwap<rustls::ServerConfig>>;

/// What is special about one listener; by default nothing is.
#[derive(Clone, Default)]
pub struct Entrance {
    /// `None`: plain text.
    pub tls: Option<SharedTls>,
    /// Whose connections must start with a PROXY header.
    pub proxies: Vec<IpNet>,
    /// Who counts connections per address; `None`: nobody.
    pub addresses: Option<AddressCount>,
}

/// What every connection of one listener shares.
pub struct Front {
    header_bytes: usize,
    patience: Patience,
    /// Requests at once on one HTTP/2 connection.
    streams: u32,
    count: ConnectionCount,
    entrance: Entrance,
    metrics: Metrics,
    refusals: Refusals,
    /// Called for bytes that never became a request (audit kind `http_rejected`).
    on_rejected: OnRejected,
}

type OnRejected = Box<dyn Fn(Rejected, PeerAddr)>;

struct Panicked;

impl Front {
    pub fn new(limits: &Limits, count: ConnectionCount, metrics: &Metrics, on_rejected: OnRejected) -> Self {
        Self {
            header_bytes: limits.header_bytes.as_usize(),
            patience: Patience {
                header: limits.header_timeout.get(),
                idle: limits.idle_timeout.get(),
                send: limits.send_timeout.get(),
            },
            streams: limits.streams.get(),
            count,
            entrance: Entrance::default(),
            metrics: metrics.clone(),
            refusals: Refusals::new(),
            on_rejected,
        }
    }

    pub fn with(self, entrance: Entrance) -> Self {
        Self { entrance, ..self }
    }

    fn reject(&self, reason: Rejected, peer: PeerAddr) {
        self.metrics.http_rejected.with_label_values(&[reason.as_str()]).inc();
        if reason.is_recorded() {
            (self.on_rejected)(reason, peer);
        }
    }

    /// Ends a connection that there is no place for.
    fn turn_away(&self, stream: Stream, peer: PeerAddr, tracker: &TaskTracker) {
        self.reject(Rejected::TooManyConnections, peer);
        if self.refusals.warn() {
            tracing::warn!("`limits.connections` or `limits.connections_per_address` reached; new connections are turned away");
        }
        // who expects TLS would not understand
        if self.entrance.tls.is_none() {
            self.refusals.answer(stream, tracker);
        }
    }
}

/// Serves until closing, then returns when every connection ended or was forced to. Needs a `LocalSet`.
pub async fn serve<H, F>(socket: Socket, front: Rc<Front>, mut shutdown: Shutdown, handler: H)
where
    H: Fn(Request<Incoming>, Rc<Link>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let handler = Rc::new(handler);
    let work = Work {
        tracker: TaskTracker::new(),
        shutdown: shutdown.clone(),
        panics: front.metrics.panics.clone(),
    };
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.closing() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => {
                pause = ACCEPT_PAUSE_MIN;
                admit(accepted, &front, &work, &handler);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; pausing");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
    for accepted in socket.into_queued() {
        admit(accepted, &front, &work, &handler);
    }
    work.tracker.close();
    work.tracker.wait().await;
}

/// Gives a new connection a place and a task.
fn admit<H, F>((stream, peer): (Stream, PeerAddr), front: &Rc<Front>, work: &Work, handler: &Rc<H>)
where
    H: Fn(Request<Incoming>, Rc<Link>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let Ok(counted) = front.count.take() else {
        return front.turn_away(stream, peer, &work.tracker);
    };
    let (front, work, handler) = (Rc::clone(front), work.clone(), Rc::clone(handler));
    let tracker = work.tracker.clone();
    tracker.spawn_local(async move {
        let panics = work.panics.clone();
        if caught(converse(stream, peer, (work, counted), front, handler)).await.is_err() {
            panics.inc();
            tracing::error!("a connection ended in a panic");
        }
    });
}

/// One connection from its first byte to its end.
async fn converse<H, F>(stream: Stream, peer: PeerAddr, (work, counted): (Work, Counted), front: Rc<Front>, handler: Rc<H>)
where
    H: Fn(Request<Incoming>, Rc<Link>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let shutdown = work.shutdown.clone();
    let greeted = tokio::select! {
        biased;
        greeted = greet::greet(stream, peer, counted, &front) => greeted,
        () = late(shutdown.clone()) => return,
    };
    let greeted = match greeted {
        Ok(greeted) => greeted,
        Err(Unheard::Silent) => return,
        Err(Unheard::Rejected(reason, peer)) => return front.reject(reason, peer),
        Err(Unheard::Crowded(stream)) => return front.turn_away(stream, peer, &work.tracker),
    };
    let conversation = Conversation {
        link: Link::new(greeted.peer, greeted.scheme, work, greeted.place),
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
        let busy = activity.request(request.version());
        // on the heap, once: every future around it would hold it twice, and a stream that only sends holds it to its end
        let answer = Box::pin((self.handler)(request, Rc::clone(&self.link)));
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
mod panic_tests;
#[cfg(test)]
mod tests;
