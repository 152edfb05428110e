//! Accepts connections and gives their requests to the path.
//!
//! A connection goes through `handshake` (the steps before HTTP, and which HTTP it speaks), then `http1_connection` or
//! `http2_connection` drives it to its end. Both answer requests through `ConnectionContext::answer`.
//!
//! Each worker thread has its own socket on the same address (SO_REUSEPORT), so workers share only the connection
//! counts. Over the limit, the listener accepts a connection, answers 503 if it speaks plain text, and closes it: a
//! worker that stopped accepting would strand the connections that the kernel queues for its socket. The same happens
//! when only descriptors are free that are kept back for other listeners (`base::descriptors`). No client ends the
//! process: after a failed accept the listener pauses, and a panic ends one request or one connection.
//!
//! When the gate closes, the listener first accepts the connections in the kernel's queue, then returns after the last
//! one ended. A connection without a request gets `FIRST_REQUEST_GRACE` to send one.

mod socket;
mod socket_file;
mod connection_slots;
mod over_limit;
mod handshake;
mod proxy_header;
mod io_stream;
mod linger;
mod guarded_stream;
mod guard;
mod activity;
mod client_connection;
mod http1_connection;
mod http2_connection;

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

use crate::base::deadline;
use crate::base::descriptors::Ceiling;
use crate::base::lifecycle::Shutdown;
use crate::base::metrics::Metrics;
use crate::config::Limits;
use crate::http::client_certificate::SharedTrust;
use crate::http::upstream::Body;
use activity::{AnswerBody, InFlight, Timeouts};
pub use client_connection::ClientConnection;
use client_connection::ConnectionTasks;
pub use connection_slots::{AddressCount, ConnectionCount};
use connection_slots::{LimitReached, TotalSlot};
pub use handshake::ALPN_HTTP2;
use handshake::{HandshakeError, Protocol, handshake};
use linger::Linger;
use over_limit::OverLimitAnswers;
use socket::{Accepted, Stream};
pub use socket::{AddressUse, PeerAddr, Socket, bind, bind_unix, check_address, check_unix};
pub use socket_file::{SocketFile, bind_private};

/// First pause after a failed accept (no file descriptor or memory left); it doubles with every failure.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest pause after failed accepts.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Once the gate closes, a connection without a request has this long to send one: the request may be on its way.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// The reason why bytes on a connection never became a request; the label of `http_rejected_total{reason}`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rejected {
    Malformed,
    HeadersTooLarge,
    HeaderTimeout,
    /// A client that did not take the bytes sent to it.
    SendTimeout,
    /// A client that violated HTTP/2 in a way that ends the connection.
    Http2Protocol,
    /// A client that sent more control frames than any client needs.
    Http2Flood,
    /// A trusted proxy that sent no valid PROXY header.
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

    /// The key of the limit that the client exceeded.
    pub const fn limit(self) -> Option<&'static str> {
        match self {
            Self::HeadersTooLarge => Some("limits.header_bytes or limits.header_count"),
            Self::HeaderTimeout => Some("limits.header_timeout"),
            Self::SendTimeout => Some("limits.send_timeout"),
            Self::TooManyConnections => Some("limits.connections"),
            Self::Malformed | Self::Http2Protocol | Self::Http2Flood | Self::ProxyHeader | Self::TlsHandshake => None,
        }
    }

    /// The reason behind this one; a new reason does not compile without its place in the row.
    #[cfg(test)]
    const fn next(self) -> Option<Self> {
        match self {
            Self::Malformed => Some(Self::HeadersTooLarge),
            Self::HeadersTooLarge => Some(Self::HeaderTimeout),
            Self::HeaderTimeout => Some(Self::SendTimeout),
            Self::SendTimeout => Some(Self::Http2Protocol),
            Self::Http2Protocol => Some(Self::Http2Flood),
            Self::Http2Flood => Some(Self::ProxyHeader),
            Self::ProxyHeader => Some(Self::TlsHandshake),
            Self::TlsHandshake => Some(Self::TooManyConnections),
            Self::TooManyConnections => None,
        }
    }

    /// The reasons of `http_rejected` records.
    #[cfg(test)]
    pub fn recorded() -> impl Iterator<Item = Self> {
        std::iter::successors(Some(Self::Malformed), |reason| reason.next()).filter(|reason| reason.is_recorded())
    }

    /// False for reasons that are only counted: they cost a client nothing, so records of them could crowd out records
    /// of decisions.
    const fn is_recorded(self) -> bool {
        !matches!(self, Self::TlsHandshake | Self::TooManyConnections)
    }
}

/// The certificates of a listener. `tls` replaces them, a handshake takes those of the moment.
pub type SharedTls = Arc<ArcSwap<rustls::ServerConfig>>;

/// The limit that a connection exceeds whose descriptor is kept back.
const DESCRIPTORS: LimitReached = LimitReached("ulimit -n");

/// Options of one listener. The default is plain text, no PROXY header, no limit per address, and all descriptors.
#[derive(Clone, Default)]
pub struct ListenerOptions {
    /// `None`: plain text.
    pub tls: Option<SharedTls>,
    /// The trust in clients' certificates. `None`: requests do not see them.
    pub client_trust: Option<SharedTrust>,
    /// Peers whose connections must start with a PROXY header.
    pub proxies: Vec<IpNet>,
    /// Counts connections per client address; `None`: no limit.
    pub addresses: Option<AddressCount>,
    /// The descriptors that its connections may use.
    pub descriptors: Ceiling,
    /// Those that its refused connections may use while they linger.
    pub lingering: Ceiling,
}

/// Settings and counters that all connections of one listener share.
pub struct ListenerContext {
    header_bytes: usize,
    header_count: usize,
    timeouts: Timeouts,
    linger: Linger,
    /// Open requests of one HTTP/2 connection.
    streams: u32,
    count: ConnectionCount,
    options: ListenerOptions,
    metrics: Metrics,
    over_limit: OverLimitAnswers,
    /// Called for bytes that never became a request (audit kind `http_rejected`).
    on_rejected: OnRejected,
    /// Cloned by each connection at rest that keeps hyper's buffers.
    kept_at_rest: Rc<()>,
}

type OnRejected = Box<dyn Fn(Rejected, PeerAddr)>;

struct Panicked;

impl ListenerContext {
    pub fn new(limits: &Limits, count: ConnectionCount, metrics: &Metrics, on_rejected: OnRejected) -> Self {
        let linger = Linger {
            timeout: limits.linger_timeout.get(),
            idle_timeout: limits.linger_idle_timeout.get(),
            bytes: limits.linger_bytes.get(),
        };
        Self {
            header_bytes: limits.header_bytes.as_usize(),
            header_count: limits.header_count.as_usize(),
            timeouts: Timeouts {
                header: limits.header_timeout.get(),
                idle: limits.idle_timeout.get(),
                send: limits.send_timeout.get(),
                half_close: limits.half_close_timeout.get(),
            },
            linger,
            streams: limits.streams.get(),
            count,
            options: ListenerOptions::default(),
            metrics: metrics.clone(),
            over_limit: OverLimitAnswers::new(linger),
            on_rejected,
            kept_at_rest: Rc::new(()),
        }
    }

    pub fn with_options(self, options: ListenerOptions) -> Self {
        Self { options, ..self }
    }

    /// Counts a connection whose bytes never became a request, and records it.
    fn reject(&self, reason: Rejected, peer: PeerAddr) {
        self.metrics.http_rejected.with_label_values(&[reason.as_str()]).inc();
        if reason.is_recorded() {
            (self.on_rejected)(reason, peer);
        }
    }

    /// Ends a connection over the limit.
    fn reject_over_limit(&self, stream: Stream, peer: PeerAddr, limit: &LimitReached, tracker: &TaskTracker) {
        self.reject(Rejected::TooManyConnections, peer);
        if self.over_limit.warning_is_due() {
            tracing::warn!(
                limit = limit.0,
                "a limit of connections is reached; new connections are closed"
            );
        }
        // a client that expects TLS would not understand the answer
        if self.options.tls.is_some() {
            return;
        }
        if self.options.lingering.is_reached_by(&stream) {
            self.over_limit.send_now(&stream, limit);
        } else {
            self.over_limit.send(stream, limit, tracker);
        }
    }

    /// Takes a slot for a new connection.
    fn admit(&self, stream: &Stream) -> Result<TotalSlot, LimitReached> {
        if self.options.descriptors.is_reached_by(stream) {
            return Err(DESCRIPTORS);
        }
        self.count.acquire()
    }
}

/// Serves until the gate closes, then returns when the last connection ended. Needs a runtime that spawns local tasks.
pub async fn serve<H, F>(socket: Socket, context: Rc<ListenerContext>, mut shutdown: Shutdown, handler: H)
where
    H: Fn(Request<Incoming>, Rc<ClientConnection>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let handler = Rc::new(handler);
    let tasks = ConnectionTasks {
        tracker: TaskTracker::new(),
        shutdown: shutdown.clone(),
        panics: context.metrics.panics.clone(),
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
                spawn_connection(accepted, &context, &tasks, &handler);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; pausing");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
    for accepted in socket.into_queued() {
        spawn_connection(accepted, &context, &tasks, &handler);
    }
    tasks.tracker.close();
    tasks.tracker.wait().await;
}

/// Takes a slot for a new connection and serves it in a task of its own.
fn spawn_connection<H, F>(accepted: Accepted, context: &Rc<ListenerContext>, tasks: &ConnectionTasks, handler: &Rc<H>)
where
    H: Fn(Request<Incoming>, Rc<ClientConnection>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let slot = match context.admit(&accepted.stream) {
        Ok(slot) => slot,
        Err(limit) => return context.reject_over_limit(accepted.stream, accepted.peer, &limit, &tasks.tracker),
    };
    let context = Rc::clone(context);
    let handler = Rc::clone(handler);
    let connection_tasks = tasks.clone();
    tasks.tracker.spawn_local(async move {
        let panics = connection_tasks.panics.clone();
        // boxed: each future around it would have room for it once more
        let served = Box::pin(serve_connection(accepted, slot, connection_tasks, context, handler));
        if catch_panic(served).await.is_err() {
            panics.inc();
            tracing::error!("a connection ended in a panic");
        }
    });
}

/// Serves one connection from its first byte to its end.
async fn serve_connection<H, F>(
    accepted: Accepted,
    slot: TotalSlot,
    tasks: ConnectionTasks,
    context: Rc<ListenerContext>,
    handler: Rc<H>,
) where
    H: Fn(Request<Incoming>, Rc<ClientConnection>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let shutdown = tasks.shutdown.clone();
    let peer = accepted.peer;
    let outcome = tokio::select! {
        biased;
        // boxed, as below: a connection at rest would keep the room for it
        outcome = Box::pin(handshake(accepted.stream, peer, slot, &context)) => outcome,
        () = first_request_grace_over(shutdown.clone()) => return,
    };
    let established = match outcome {
        Ok(established) => established,
        Err(HandshakeError::Closed) => return,
        Err(HandshakeError::Rejected { reason, peer }) => return context.reject(reason, peer),
        Err(HandshakeError::OverLimit { stream, limit }) => {
            return context.reject_over_limit(stream, peer, &limit, &tasks.tracker);
        }
    };
    let connection = ConnectionContext {
        client: ClientConnection::new(established.peer, established.secured, tasks, established.slot),
        listener: context,
        shutdown,
        handler,
    };
    match established.protocol {
        Protocol::Http1 => http1_connection::drive(established.stream, connection).await,
        Protocol::Http2 => Box::pin(http2_connection::drive(established.stream, connection)).await,
    }
}

/// The parts that serve one connection.
struct ConnectionContext<H> {
    listener: Rc<ListenerContext>,
    client: Rc<ClientConnection>,
    shutdown: Shutdown,
    handler: Rc<H>,
}

impl<H> ConnectionContext<H> {
    /// Answers one request. While the gate drains, the answer asks the client to leave. A panic of the handler ends the
    /// request with an error: there is no response to send.
    fn answer<F>(
        &self,
        request: Request<Incoming>,
        in_flight: InFlight,
    ) -> impl Future<Output = Result<Response<AnswerBody>, std::io::Error>> + use<H, F>
    where
        H: Fn(Request<Incoming>, Rc<ClientConnection>) -> F + 'static,
        F: Future<Output = Response<Body>> + 'static,
    {
        // on the heap, once: every future around it would hold it twice, and a stream that only sends holds it to its
        // end
        let answer = Box::pin((self.handler)(request, Rc::clone(&self.client)));
        let listener = Rc::clone(&self.listener);
        let client = Rc::clone(&self.client);
        let shutdown = self.shutdown.clone();
        async move {
            match catch_panic(answer).await {
                Ok(mut response) => {
                    if shutdown.is_draining() || client.is_distrusted() {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok(response.map(|body| AnswerBody::new(body, in_flight)))
                }
                Err(Panicked) => {
                    listener.metrics.panics.inc();
                    Err(std::io::Error::other("the request ended in a panic"))
                }
            }
        }
    }
}

async fn forced(mut shutdown: Shutdown) {
    shutdown.forced().await;
}

/// Resolves when the gate is closing and the time for a connection's first request is over.
async fn first_request_grace_over(mut shutdown: Shutdown) {
    shutdown.closing().await;
    tokio::select! {
        () = shutdown.forced() => {}
        () = deadline::sleep(FIRST_REQUEST_GRACE) => {}
    }
}

/// Turns a panic of the future into an error. Values that the future held are dropped while it unwinds.
async fn catch_panic<F: Future>(future: F) -> Result<F::Output, Panicked> {
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
