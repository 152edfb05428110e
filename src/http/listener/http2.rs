//! One HTTP/2 connection, driven to its end.
//!
//! Every stream is a task of the same thread, kept hold of like a tunnel is (`Link::spawn`). What a client can make the
//! gate remember is bounded by the constants below times `limits.streams`; floods of resets, pings, settings and
//! continuations are bounded by h2 itself and by `guard::http2`, which end the connection.

use std::error::Error as _;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::watched::{Activity, Answering, Patience, Quiet, Watched};
use super::{Conversation, Front, Link, Rejected, forced};
use crate::base::lifecycle::Shutdown;
use crate::http::upstream::Body;

/// Bytes of one request's body that may wait in memory: the client's window per stream.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// The same for all streams of a connection together. h2 ends a connection on which small frames wait, each counted as
/// up to 256 bytes, for more than half of it: room for some 2,000 messages of a few bytes.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes of one answer that may wait for the client's window.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// How much more of a head the library takes than `limits.header_bytes`: what it refuses itself, nobody can record.
const HEADER_BYTES_MORE: usize = 16 * 1024;
/// Largest frame taken; HTTP/2's own minimum.
const FRAME_BYTES: u32 = 16 * 1024;
/// Streams that a client opened and reset before they were looked at (rapid reset); more end the connection.
const RESETS_PENDING_MAX: usize = 20;
/// Streams that broke a rule and were reset for it; more end the connection.
const RESETS_FOR_ERRORS_MAX: usize = 64;
/// Memory of the task that answers one stream, but for the buffers above and the answer itself.
const STREAM_BYTES_MAX: usize = 4 * 1024;
/// How long a client may take to close a connection on which it was told to leave and nothing is being answered.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(5);
/// They have no meaning in HTTP/2, and an answer that has them is malformed there.
const CONNECTION_HEADERS: [HeaderName; 5] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Spawns on the thread that the connection lives on. A stream counts as being answered until its task ends: a tunnel
/// (WebSocket) has no answer that could.
#[derive(Clone)]
struct Beside {
    link: Rc<Link>,
    front: Rc<Front>,
    activity: Arc<Activity>,
}

impl<F> hyper::rt::Executor<F> for Beside
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        // what a client gets for one small frame; the futures around this one hold it several times over
        const { assert!(size_of::<F>() <= STREAM_BYTES_MAX) };
        let (busy, patience) = (self.activity.task_of_request(), self.front.patience.send);
        let (front, peer) = (Rc::clone(&self.front), self.link.peer);
        self.link.spawn(async move {
            let mut future = pin!(future);
            loop {
                tokio::select! {
                    biased;
                    _nothing_to_say = future.as_mut() => return,
                    () = tokio::time::sleep(patience) => {}
                }
                // others of the connection may be read: only this stream is reset
                if busy.is_stalled(patience) {
                    return front.reject(Rejected::SendTimeout, peer);
                }
            }
        });
    }
}

/// Returns when the connection ended, was forced to, or had nothing to do for too long.
pub async fn drive<S, H, F>(stream: S, conversation: Conversation<H>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Fn(Request<Incoming>, Rc<Link>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let (front, shutdown) = (&conversation.front, &conversation.shutdown);
    let activity = Activity::http2();
    let watched = TokioIo::new(Watched::http2(stream, Arc::clone(&activity)));
    let service = service_fn(|request: Request<Incoming>| {
        let is_head = *request.method() == Method::HEAD;
        let answer = conversation.answer(request, &activity);
        async move {
            answer.await.map(|mut response| {
                strip_connection_headers(response.headers_mut());
                // over HTTP/1 the library does this
                if is_head { without_content(response) } else { response }
            })
        }
    });
    let beside = Beside {
        link: Rc::clone(&conversation.link),
        front: Rc::clone(front),
        activity: Arc::clone(&activity),
    };
    let mut connection = pin!(settings(front, beside).serve_connection(watched, service));
    let leaving = tokio::select! {
        biased;
        outcome = connection.as_mut() => Err(Ended::Closed(outcome)),
        () = leave(shutdown.clone()) => Ok(()),
        quiet = activity.quiet(front.patience) => match quiet {
            Quiet::Idle => Ok(()),
            owing => Err(Ended::Quiet(owing)),
        },
    };
    let ended = match leaving {
        Err(ended) => ended,
        Ok(()) => {
            connection.as_mut().graceful_shutdown();
            goodbye(connection, &activity, (front, shutdown)).await
        }
    };
    let rejected = match ended {
        Ended::Quiet(Quiet::Header) => Some(Rejected::HeaderTimeout),
        Ended::Quiet(Quiet::Send) => Some(Rejected::SendTimeout),
        Ended::Quiet(Quiet::Idle) | Ended::Forced | Ended::Closed(Ok(())) => None,
        Ended::Closed(Err(error)) => rejection(&error, &activity),
    };
    if let Some(reason) = rejected {
        front.reject(reason, conversation.link.peer);
    }
}

/// How a connection came to its end.
enum Ended {
    Closed(hyper::Result<()>),
    Quiet(Quiet),
    Forced,
}

/// The client was told; what is in flight ends, then the connection.
async fn goodbye(
    mut connection: impl Future<Output = hyper::Result<()>> + Unpin,
    activity: &Activity,
    (front, shutdown): (&Front, &Shutdown),
) -> Ended {
    let patience = Patience {
        idle: GOODBYE_PATIENCE,
        ..front.patience
    };
    // it may have been idle for longer than that, and has yet to hear why
    let quiet = async {
        tokio::time::sleep(GOODBYE_PATIENCE).await;
        activity.quiet(patience).await
    };
    tokio::select! {
        biased;
        outcome = &mut connection => Ended::Closed(outcome),
        () = forced(shutdown.clone()) => Ended::Forced,
        quiet = quiet => Ended::Quiet(quiet),
    }
}

/// A client that was here before draining began is told at once: GOAWAY costs it nothing. One that comes later would
/// only come again, and to the same gate while balancers have not noticed.
async fn leave(mut shutdown: Shutdown) {
    if shutdown.is_draining() {
        shutdown.closing().await;
    } else {
        shutdown.draining().await;
    }
}

fn settings(front: &Front, beside: Beside) -> http2::Builder<Beside> {
    let mut builder = http2::Builder::new(beside);
    builder
        .max_concurrent_streams(front.streams)
        .max_header_list_size(u32::try_from(front.header_bytes.saturating_add(HEADER_BYTES_MORE)).unwrap_or(u32::MAX))
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

/// The answer to a HEAD: as long as it says, and empty.
fn without_content(mut response: Response<Answering>) -> Response<Answering> {
    let length = response.body().size_hint().exact().filter(|length| *length > 0);
    if let Some(length) = length {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
    }
    response.map(Answering::without_content)
}

fn strip_connection_headers(headers: &mut HeaderMap) {
    for name in &CONNECTION_HEADERS {
        headers.remove(name);
    }
}

/// Why this side ended the connection, if that is what the client did.
fn rejection(error: &hyper::Error, activity: &Activity) -> Option<Rejected> {
    let h2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    match h2 {
        _ if activity.is_refused() => Some(Rejected::Http2Flood),
        Some(error) if !(error.is_go_away() && error.is_library()) => None,
        Some(error) if error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) => Some(Rejected::Http2Flood),
        Some(_) => Some(Rejected::Http2Protocol),
        None => None,
    }
}
