//! Drives one HTTP/2 connection to its end.
//!
//! Every stream is a task on the connection's thread, tracked like a tunnel (`ClientConnection::spawn`). The constants
//! below times `limits.streams` bound the memory that a client can make the gate hold. h2 itself and
//! `guard::http2_frames` bound floods of resets, pings, settings and continuations: they end the connection.
//!
//! A connection leaves in two steps. First GOAWAY: because the gate drains, or the connection is idle or had very many
//! malformed streams. Then the open streams end and the connection with them; the timeouts still hold, and a client
//! that neither sends nor closes after GOAWAY is dropped after `GOAWAY_TIMEOUT`. A forced shutdown drops the connection
//! at once.

use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error as _;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::activity::{Activity, AnswerBody, Overdue, StreamStall, Timeouts};
use super::guard::http2_frames::{MISTAKES_MAX, Violation};
use super::guarded_stream::GuardedStream;
use super::{ClientConnection, ConnectionContext, ListenerContext, PeerAddr, Rejected, forced};
use crate::base::deadline;
use crate::base::lifecycle::Shutdown;
use crate::http::upstream::Body;

/// Bytes of one request's body that may wait in memory: the receive window of a stream.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// The receive window of a connection. h2 ends a connection when the frames that wait on it take more than half of the
/// window, and counts a small frame as up to 256 bytes: room for some 2,000 messages of a few bytes.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes of one answer that may wait for the client's window.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// The library's limit of a head is so much higher than `limits.header_bytes`: its refusals leave no record, so the
/// gate refuses first (`request::check_head_size`).
const HEADER_BYTES_MARGIN: usize = 16 * 1024;
/// Largest frame that a client may send; HTTP/2's own minimum of that limit.
const FRAME_BYTES: u32 = 16 * 1024;
/// Streams that a client opened and reset before the gate accepted them (rapid reset); more end the connection.
const RESETS_PENDING_MAX: usize = 20;
/// Streams that the library reset because of the client's mistakes; more end the connection. The count never falls, so
/// the gate ends the connection with grace long before (`MISTAKES_MAX`), and floods by their rate
/// (`guard::http2_frames`). It ends a client that makes more mistakes in one read, or does not read the resets: each
/// takes some hundred bytes until then.
const RESETS_FOR_ERRORS_MAX: usize = 2 * MISTAKES_MAX as usize;
/// Memory of the task that answers one stream, without the buffers above and the answer itself.
const STREAM_BYTES_MAX: usize = 4 * 1024;
/// Longest time that a client may keep a connection open after GOAWAY when no stream is open.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(5);
/// Headers of a connection: an HTTP/2 answer with them is malformed (RFC 9113, section 8.2.2).
const CONNECTION_HEADERS: [HeaderName; 5] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Spawns the tasks of streams on the thread of their connection. A stream is in flight until its task ends, because a
/// tunnel (WebSocket) has no answer that ends with it.
#[derive(Clone)]
struct StreamExecutor {
    client: Rc<ClientConnection>,
    listener: Rc<ListenerContext>,
    activity: Arc<Activity>,
    new_stall: NewStall,
}

/// Hands the stall of a new stream from its request to its task: hyper calls the service, and then spawns the task.
type NewStall = Rc<Cell<Option<StreamStall>>>;

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        // a client opens a stream with one small frame, and the futures around this one hold it several times
        const { assert!(size_of::<F>() <= STREAM_BYTES_MAX) };
        let in_flight = self.activity.begin_stream(self.new_stall.take());
        let send_timeout = self.listener.timeouts.send;
        let listener = Rc::clone(&self.listener);
        let peer = self.client.peer;
        self.client.spawn(async move {
            let mut future = pin!(future);
            loop {
                tokio::select! {
                    biased;
                    _ended = future.as_mut() => return,
                    () = deadline::sleep(send_timeout) => {}
                }
                // the client may still read other streams of the connection: only this one is reset
                if in_flight.is_stalled(send_timeout) {
                    return listener.reject(Rejected::SendTimeout, peer);
                }
            }
        });
    }
}

/// Returns when the connection ended, or a timeout or a forced shutdown ended it.
pub async fn drive<S, H, F>(stream: S, context: ConnectionContext<H>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Fn(Request<Incoming>, Rc<ClientConnection>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let listener = &context.listener;
    let shutdown = &context.shutdown;
    let activity = Activity::http2();
    let new_stall = NewStall::default();
    let guarded = TokioIo::new(GuardedStream::http2(stream, Arc::clone(&activity)));
    let service = service_fn(|request: Request<Incoming>| {
        let is_head = *request.method() == Method::HEAD;
        let stall = StreamStall::default();
        new_stall.set(Some(Rc::clone(&stall)));
        let answer = context.answer(request, activity.begin_stream(Some(stall)));
        async move {
            answer.await.map(|mut response| {
                strip_connection_headers(response.headers_mut());
                // over HTTP/1, hyper does this
                if is_head { without_content(response) } else { response }
            })
        }
    });
    let executor = StreamExecutor {
        client: Rc::clone(&context.client),
        listener: Rc::clone(listener),
        activity: Arc::clone(&activity),
        new_stall: Rc::clone(&new_stall),
    };
    let mut connection = pin!(settings(listener, executor).serve_connection(guarded, service));
    let peer = context.client.peer;
    let end = tokio::select! {
        biased;
        outcome = connection.as_mut() => Some(ConnectionEnd::Closed(outcome)),
        never = count_malformed(&activity, listener, peer) => match never {},
        () = goaway_is_due(shutdown.clone()) => None,
        () = activity.worn_out() => None,
        overdue = activity.overdue(listener.timeouts) => match overdue {
            Overdue::Idle => None,
            overdue => Some(ConnectionEnd::Overdue(overdue)),
        },
    };
    let end = match end {
        Some(end) => end,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                end = finish_streams(connection, &activity, listener, shutdown) => end,
                never = count_malformed(&activity, listener, peer) => match never {},
            }
        }
    };
    (0..activity.take_malformed()).for_each(|_| listener.reject(Rejected::Malformed, peer));
    let rejected = match end {
        ConnectionEnd::Overdue(Overdue::Header) => Some(Rejected::HeaderTimeout),
        ConnectionEnd::Overdue(Overdue::Send) => Some(Rejected::SendTimeout),
        ConnectionEnd::Overdue(Overdue::Idle) | ConnectionEnd::Forced | ConnectionEnd::Closed(Ok(())) => None,
        ConnectionEnd::Closed(Err(error)) => rejection(&error, &activity),
    };
    if let Some(reason) = rejected {
        listener.reject(reason, peer);
    }
}

/// Counts and records each malformed stream while its connection goes on: it never became a request.
async fn count_malformed(activity: &Activity, listener: &ListenerContext, peer: PeerAddr) -> Infallible {
    std::future::poll_fn(|_cx| {
        (0..activity.take_malformed()).for_each(|_| listener.reject(Rejected::Malformed, peer));
        Poll::Pending
    })
    .await
}

/// The way a connection came to its end.
enum ConnectionEnd {
    Closed(hyper::Result<()>),
    Overdue(Overdue),
    Forced,
}

/// Serves the open streams after GOAWAY, until the connection ends.
async fn finish_streams(
    mut connection: impl Future<Output = hyper::Result<()>> + Unpin,
    activity: &Activity,
    listener: &ListenerContext,
    shutdown: &Shutdown,
) -> ConnectionEnd {
    let timeouts = Timeouts {
        idle: GOAWAY_TIMEOUT,
        ..listener.timeouts
    };
    // the connection may have been idle for longer, and the client has yet to read the GOAWAY
    let overdue = async {
        deadline::sleep(GOAWAY_TIMEOUT).await;
        activity.overdue(timeouts).await
    };
    tokio::select! {
        biased;
        outcome = &mut connection => ConnectionEnd::Closed(outcome),
        () = forced(shutdown.clone()) => ConnectionEnd::Forced,
        overdue = overdue => ConnectionEnd::Overdue(overdue),
    }
}

/// Resolves when the connection is to send GOAWAY. A connection from before the drain sends it at once. A connection
/// that was opened during the drain waits until the gate closes: before that, its client would only connect again, to
/// the same gate, because load balancers have not noticed yet.
async fn goaway_is_due(mut shutdown: Shutdown) {
    if shutdown.is_draining() {
        shutdown.closing().await;
    } else {
        shutdown.draining().await;
    }
}

fn settings(listener: &ListenerContext, executor: StreamExecutor) -> http2::Builder<StreamExecutor> {
    let mut builder = http2::Builder::new(executor);
    builder
        .max_concurrent_streams(listener.streams)
        .max_header_list_size(u32::try_from(listener.header_bytes.saturating_add(HEADER_BYTES_MARGIN)).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .adaptive_window(false)
        .max_frame_size(FRAME_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(RESETS_FOR_ERRORS_MAX)
        // WebSocket over HTTP/2, RFC 8441
        .enable_connect_protocol();
    builder
}

/// Makes the answer to a HEAD request: the length of the content, without the content.
fn without_content(mut response: Response<AnswerBody>) -> Response<AnswerBody> {
    let length = response.body().size_hint().exact().filter(|length| *length > 0);
    if let Some(length) = length {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
    }
    response.map(AnswerBody::without_content)
}

fn strip_connection_headers(headers: &mut HeaderMap) {
    for name in &CONNECTION_HEADERS {
        headers.remove(name);
    }
}

/// The reason why the gate ended the connection; `None` if the client or the network did.
fn rejection(error: &hyper::Error, activity: &Activity) -> Option<Rejected> {
    let h2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    match activity.violation() {
        Some(Violation::Flood) => return Some(Rejected::Http2Flood),
        Some(Violation::MalformedTrailers) => return Some(Rejected::Http2Protocol),
        None => {}
    }
    match h2 {
        Some(error) if !(error.is_go_away() && error.is_library()) => None,
        Some(error) if error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) => Some(Rejected::Http2Flood),
        Some(_) => Some(Rejected::Http2Protocol),
        None => None,
    }
}
