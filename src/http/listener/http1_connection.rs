//! Drives one HTTP/1 connection to its end.
//!
//! hyper parses, answers and keeps the connection alive. This adds the timeouts (`Activity::overdue`, because hyper has one
//! timer for head and idle time), the reasons of refused bytes, and the order of a shutdown. When the gate closes, a
//! connection with a request is told at once to close after its answer. One without a request first gets
//! `FIRST_REQUEST_GRACE`, because hyper ends such a connection immediately. A forced shutdown drops it at any time. A socket
//! whose client may still be sending lingers after all that (`linger`).

use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::activity::{Activity, Overdue};
use super::guarded_stream::{ClientEnd, GuardedStream};
use super::{ClientConnection, ConnectionContext, ListenerContext, Rejected, first_request_grace_over, forced};
use crate::base::lifecycle::Shutdown;
use crate::http::upstream::Body;

/// hyper's smallest buffer.
const BUFFER_BYTES_MIN: usize = 8192;
/// hyper's limits of a head are so much higher than `limits.header_bytes` and `limits.header_count`: its refusals have no
/// body, so the gate refuses first (`request::check_head_size`).
const HEADER_BYTES_MARGIN: usize = 8 * 1024;
const HEADER_COUNT_MARGIN: usize = 64;

/// Returns when the connection ended, a timeout or a forced shutdown ended it, or it was upgraded.
pub async fn drive<S, H, F>(stream: S, context: ConnectionContext<H>)
where
    S: AsyncRead + AsyncWrite + AsFd + Send + Unpin + 'static,
    H: Fn(Request<Incoming>, Rc<ClientConnection>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let listener = &context.listener;
    let shutdown = &context.shutdown;
    let peer = context.client.peer;
    let activity = Activity::http1();
    context.client.enable_early_hints(&activity);
    let client_end = ClientEnd {
        half_close_timeout: listener.timeouts.half_close,
        duplicate: |stream: &S| stream.as_fd().try_clone_to_owned(),
    };
    let guarded = TokioIo::new(GuardedStream::http1(stream, Arc::clone(&activity), client_end));
    let service = service_fn(|request: Request<Incoming>| {
        let in_flight = activity.begin_request(request.version());
        let answer = context.answer(request, in_flight);
        let activity = Arc::clone(&activity);
        async move { answer.await.inspect(|response| activity.answered(response.status())) }
    });
    let mut connection = pin!(settings(listener).serve_connection(guarded, service).with_upgrades());
    let mut must_close = pin!(close_is_due(shutdown.clone(), &activity));
    let mut is_closing = false;
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = connection.as_mut() => break outcome,
            () = must_close.as_mut(), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = forced(shutdown.clone()), if is_closing => return,
            overdue = activity.overdue(listener.timeouts) => {
                match overdue {
                    Overdue::Header => listener.reject(Rejected::HeaderTimeout, peer),
                    Overdue::Send => listener.reject(Rejected::SendTimeout, peer),
                    Overdue::Idle => {}
                }
                return;
            }
        }
    };
    if let Some(socket) = activity.take_lingering() {
        listener.linger.spawn(socket, &context.client, shutdown.clone());
    }
    // hyper reports no parse error for bytes that the guard refused inside a body
    let refused = || activity.is_refused().then_some(Rejected::Malformed);
    if let Some(reason) = outcome.err().as_ref().and_then(rejection).or_else(refused) {
        listener.reject(reason, peer);
    }
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
        // `half_close` of hyper would not notice a reset either; see `guarded_stream`. No `pipeline_flush`: it lifts hyper's limit on the bytes buffered for a client that does not read, and never
        // writes the last answer of a connection that closes on pipelined bytes
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
