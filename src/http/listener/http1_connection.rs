//! Drives one HTTP/1 connection to its end.
//!
//! hyper parses, answers and keeps the connection alive. This adds the timeouts (`Activity::overdue`, because hyper has
//! one timer for head and idle time), the reasons of refused bytes, and the order of a shutdown. When the gate closes,
//! a connection with a request is told at once to close after its answer. One without a request first gets
//! `FIRST_REQUEST_GRACE`, because hyper ends such a connection immediately. A forced shutdown drops it at any time. A
//! socket whose client may still be sending lingers after all that (`linger`).
//!
//! hyper keeps two buffers of 8 KiB for a connection without a request. A worker lets `KEPT_AT_REST` connections keep
//! them, so that a client that asks again costs no more. Each further connection gives hyper's part up as soon as it is
//! at rest, and gets a new one with the next byte.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::activity::{Activity, Overdue};
use super::guarded_stream::{ClientEnd, GuardedStream, SharedStream};
use super::io_stream::Readable;
use super::{ClientConnection, ConnectionContext, ListenerContext, Rejected, first_request_grace_over, forced};
use crate::base::deadline::sleep_until;
use crate::base::lifecycle::Shutdown;
use crate::http::upstream::Body;

/// hyper's smallest buffer.
const BUFFER_BYTES_MIN: usize = 8192;
/// hyper's limits of a head are so much higher than `limits.header_bytes` and `limits.header_count`: its refusals have
/// no body, so the gate refuses first (`request::check_head_size`).
const HEADER_BYTES_MARGIN: usize = 8 * 1024;
const HEADER_COUNT_MARGIN: usize = 64;

/// Connections at rest for which a listener of a worker keeps hyper's buffers. In the tests of this crate none keeps
/// them, so that each rest is one without hyper.
const KEPT_AT_REST: usize = if cfg!(test) { 0 } else { 64 };

/// The state of a connection that hyper let go of.
enum Served {
    /// The client may send another request.
    AtRest,
    /// The connection ended or was upgraded.
    Ended,
}

/// The end of a rest.
enum RestEnd {
    /// The client sent bytes, or closed.
    ByClient,
    ByShutdown,
    Overdue,
}

/// Returns when the connection ended, a timeout or a forced shutdown ended it, or it was upgraded.
pub async fn drive<S, H, F>(stream: S, context: ConnectionContext<H>)
where
    S: AsyncRead + AsyncWrite + AsFd + Readable + Send + Unpin + 'static,
    H: Fn(Request<Incoming>, Rc<ClientConnection>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let activity = Activity::http1();
    context.client.enable_early_hints(&activity);
    let client_end = ClientEnd {
        half_close_timeout: context.listener.timeouts.half_close,
        duplicate: |stream: &S| stream.as_fd().try_clone_to_owned(),
    };
    let stream = SharedStream::new(GuardedStream::http1(stream, Arc::clone(&activity), client_end));
    let mut phase = Phase::Open;
    loop {
        // on the heap: a connection at rest must not keep room for it
        let served = Box::pin(serve(stream.clone(), &context, &activity, phase));
        if let Served::Ended = served.await {
            return;
        }
        match rest(&stream, &context, &activity).await {
            RestEnd::ByClient => {}
            RestEnd::ByShutdown => phase = Phase::Closing,
            RestEnd::Overdue => return,
        }
    }
}

/// Waits, without hyper, for the next byte of a connection at rest.
async fn rest<S: Readable, H>(stream: &SharedStream<S>, context: &ConnectionContext<H>, activity: &Activity) -> RestEnd {
    tokio::select! {
        biased;
        () = stream.readable() => RestEnd::ByClient,
        () = close_is_due(context.shutdown.clone(), activity) => RestEnd::ByShutdown,
        () = sleep_until(activity.idle_until(context.listener.timeouts)) => RestEnd::Overdue,
    }
}

/// The state of a connection while it serves requests.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Phase {
    Open,
    /// The connection is to close after its current answer.
    Closing,
}

/// Serves requests with hyper.
async fn serve<S, H, F>(
    stream: SharedStream<S>,
    context: &ConnectionContext<H>,
    activity: &Arc<Activity>,
    mut phase: Phase,
) -> Served
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Fn(Request<Incoming>, Rc<ClientConnection>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let listener = &context.listener;
    let shutdown = &context.shutdown;
    let peer = context.client.peer;
    let service = service_fn(|request: Request<Incoming>| {
        let in_flight = activity.begin_request(request.version());
        let answer = context.answer(request, in_flight);
        let activity = Arc::clone(activity);
        let stream = stream.clone();
        async move {
            let mut response = answer.await?;
            activity.answered(response.status());
            // RFC 9112, 9.6: a client that does not read `Connection: close` sends its next request into a connection
            // that closes
            if response.body().is_own() && stream.ends_after(response.status()) {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, io::Error>(response)
        }
    });
    let connection = settings(listener).serve_connection(TokioIo::new(stream.clone()), service);
    let mut connection = pin!(connection.with_upgrades());
    let mut must_close = pin!(close_is_due(shutdown.clone(), activity));
    if phase == Phase::Closing {
        connection.as_mut().graceful_shutdown();
    }
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = connection.as_mut() => break outcome,
            () = must_close.as_mut(), if phase == Phase::Open => {
                phase = Phase::Closing;
                connection.as_mut().graceful_shutdown();
            }
            () = forced(shutdown.clone()), if phase == Phase::Closing => return Served::Ended,
            // after hyper's turn: what it left undone is seen
            () = at_rest(&stream, listener), if phase == Phase::Open => return Served::AtRest,
            overdue = activity.overdue(listener.timeouts) => {
                match overdue {
                    Overdue::Header => listener.reject(Rejected::HeaderTimeout, peer),
                    Overdue::Send => listener.reject(Rejected::SendTimeout, peer),
                    Overdue::Idle => {}
                }
                return Served::Ended;
            }
        }
    };
    if !activity.has_switched_protocols() {
        close(stream, context).await;
    }
    if let Some(socket) = activity.take_lingering() {
        listener.linger.spawn(socket, &context.client, shutdown.clone());
    }
    // hyper reports no parse error for bytes that the guard refused inside a body
    let refused = || activity.is_refused().then_some(Rejected::Malformed);
    if let Some(reason) = outcome.err().as_ref().and_then(rejection).or_else(refused) {
        listener.reject(reason, peer);
    }
    Served::Ended
}

/// Closes the gate's side of a connection that hyper left open. Once a client asked for a tunnel, hyper leaves the end
/// of the connection to the tunnel, also if the tunnel was refused.
async fn close<S: AsyncRead + AsyncWrite + Unpin, H>(mut stream: SharedStream<S>, context: &ConnectionContext<H>) {
    let closed = poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx));
    tokio::select! {
        _closed_or_late = timeout(context.listener.timeouts.send, closed) => {}
        () = forced(context.shutdown.clone()) => {}
    }
}

/// Resolves when the connection is at rest and enough others keep hyper's buffers.
async fn at_rest<S>(stream: &SharedStream<S>, listener: &ListenerContext) {
    let mut kept = None;
    poll_fn(|_cx| {
        if !stream.is_at_rest() {
            kept = None;
        } else if kept.is_none() {
            // the listener itself holds one
            if Rc::strong_count(&listener.kept_at_rest) > KEPT_AT_REST {
                return Poll::Ready(());
            }
            kept = Some(Rc::clone(&listener.kept_at_rest));
        }
        Poll::Pending
    })
    .await;
}

/// Resolves when the connection is to close after its current answer.
async fn close_is_due(mut shutdown: Shutdown, activity: &Activity) {
    shutdown.closing().await;
    if activity.has_no_request() {
        first_request_grace_over(shutdown).await;
    }
}

fn settings(listener: &ListenerContext) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_buf_size(
            listener
                .header_bytes
                .saturating_add(HEADER_BYTES_MARGIN)
                .max(BUFFER_BYTES_MIN),
        )
        .max_headers(listener.header_count.saturating_add(HEADER_COUNT_MARGIN))
        // `half_close` of hyper would not notice a reset either; see `guarded_stream`. No `pipeline_flush`: it lifts
        // hyper's limit on the bytes buffered for a client that does not read, and never writes the last answer of a
        // connection that closes on pipelined bytes
        .half_close(false);
    builder
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
