//! One HTTP/1 connection, driven to its end.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::watched::{Activity, Quiet, Watched};
use super::{Conversation, Front, Link, Rejected, forced, late};
use crate::base::lifecycle::Shutdown;
use crate::http::upstream::Body;

/// hyper's smallest buffer.
const BUFFER_BYTES_MIN: usize = 8192;

/// Returns when the connection ended, was forced to, was silent for too long, or became something else (an upgrade).
pub async fn drive<S, H, F>(stream: S, conversation: Conversation<H>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Fn(Request<Incoming>, Rc<Link>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let (front, shutdown) = (&conversation.front, &conversation.shutdown);
    let activity = Activity::http1();
    conversation.link.watch(&activity);
    let watched = TokioIo::new(Watched::http1(stream, Arc::clone(&activity)));
    let service = service_fn(|request| {
        let answer = conversation.answer(request, &activity);
        let activity = Arc::clone(&activity);
        async move { answer.await.inspect(|response| activity.answered(response.status())) }
    });
    let mut connection = pin!(settings(front).serve_connection(watched, service).with_upgrades());
    let mut leaving = pin!(leave(shutdown.clone(), &activity));
    let mut left = false;
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = connection.as_mut() => break outcome,
            () = leaving.as_mut(), if !left => {
                left = true;
                connection.as_mut().graceful_shutdown();
            }
            () = forced(shutdown.clone()), if left => return,
            quiet = activity.quiet(front.patience) => {
                match quiet {
                    Quiet::Header => front.reject(Rejected::HeaderTimeout, conversation.link.peer),
                    Quiet::Send => front.reject(Rejected::SendTimeout, conversation.link.peer),
                    Quiet::Idle => {}
                }
                return;
            }
        }
    };
    // What the guard refused inside a body is no parse error of a head.
    let refused = || activity.is_refused().then_some(Rejected::Malformed);
    if let Some(reason) = outcome.err().as_ref().and_then(rejection).or_else(refused) {
        front.reject(reason, conversation.link.peer);
    }
}

/// A client that was accepted and has not asked yet gets the time to: hyper ends a connection without requests at once.
/// The answer closes the connection, as all do while draining.
async fn leave(mut shutdown: Shutdown, activity: &Activity) {
    shutdown.closing().await;
    if activity.is_fresh() {
        late(shutdown).await;
    }
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

fn rejection(error: &hyper::Error) -> Option<Rejected> {
    if error.is_parse_too_large() {
        Some(Rejected::HeadersTooLarge)
    } else if error.is_parse() {
        Some(Rejected::Malformed)
    } else {
        None
    }
}
