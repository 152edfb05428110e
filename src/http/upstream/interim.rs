//! What the app says before it answers: 100 Continue, and early hints.
//!
//! hyper tells of interim answers from the connection's own task, so they come over a queue that is as long as hints
//! are allowed per request; what does not fit is dropped. Only requests that can use one have it, and most get nothing by
//! it: it holds no room before something comes. HTTP/2 connections tell nothing: there a held body is let go after `CONTINUE_TIMEOUT`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::EXPECT;
use http::{HeaderMap, Request, StatusCode, Version};
use http_body::Body as _;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::RequestBody;
use super::body::Progress;
use super::headers;

/// How long an app that was asked whether it wants the body may say nothing (RFC 9110, 10.1.1: do not wait for ever).
pub const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);
/// Early hints passed on per request.
const HINTS_MAX: usize = 8;
const CONTINUE: u16 = 100;
const EARLY_HINTS: u16 = 103;

/// Takes the hints that an app's 103 gives, hop-by-hop headers removed.
pub type Early<'a> = &'a dyn Fn(HeaderMap);

/// The interim answers of one exchange.
#[derive(Debug)]
pub(super) struct Interims {
    told: Option<Arc<Told>>,
    hints_left: usize,
    /// When a held body is let go.
    release_at: Option<Instant>,
}

/// What the connection's task told.
#[derive(Debug, Default)]
struct Told {
    queue: Mutex<VecDeque<Interim>>,
    news: Notify,
}

#[derive(Debug)]
enum Interim {
    Continue,
    Hints(HeaderMap),
}

/// Holds the body back if the client waits for a 100, and listens if that or `early` gives a reason to.
pub(super) fn listen(
    request: &mut Request<RequestBody>,
    (came_by, response_timeout): (Version, Duration),
    early: Option<Early<'_>>,
) -> Interims {
    let mut interims = Interims {
        told: None,
        hints_left: HINTS_MAX,
        release_at: None,
    };
    if request.headers().contains_key(EXPECT) {
        if expects(request, came_by) {
            request.body().progress.hold();
            // the app's time to answer begins with the body, and must not end before
            let patience = CONTINUE_TIMEOUT.min(response_timeout / 2);
            interims.release_at = Some(Instant::now() + patience);
        } else {
            request.headers_mut().remove(EXPECT);
        }
    }
    if interims.release_at.is_some() || early.is_some() {
        let told = Arc::new(Told::default());
        interims.told = Some(Arc::clone(&told));
        hyper::ext::on_informational(request, move |interim| {
            told.push(match interim.status().as_u16() {
                CONTINUE => Interim::Continue,
                EARLY_HINTS => Interim::Hints(interim.headers().clone()),
                _ => return,
            });
        });
    }
    interims
}

/// A client of HTTP/1.0 cannot mean it, and without a body there is nothing to wait for.
fn expects(request: &Request<RequestBody>, came_by: Version) -> bool {
    let expect = request.headers().get(EXPECT);
    let continues = expect.is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    continues && came_by >= Version::HTTP_11 && !request.body().is_end_stream()
}

impl Interims {
    /// Passes on what comes, for ever: the exchange ends with the app's answer. Cancel-safe.
    pub async fn pass_on(&mut self, progress: &Progress, early: Option<Early<'_>>) -> std::convert::Infallible {
        loop {
            tokio::select! {
                biased;
                interim = next(self.told.as_deref()) => match interim {
                    Interim::Continue => progress.release(),
                    Interim::Hints(mut hints) => {
                        let Some(early) = early.filter(|_| self.hints_left > 0) else { continue };
                        self.hints_left -= 1;
                        headers::early(&mut hints);
                        early(hints);
                    }
                },
                () = at(self.release_at), if progress.is_held() => progress.release(),
            }
        }
    }
}

impl Told {
    /// What is too much is a hint less.
    fn push(&self, interim: Interim) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() <= HINTS_MAX {
            queue.push_back(interim);
            self.news.notify_one();
        }
    }

    fn pop(&self) -> Option<Interim> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

async fn next(told: Option<&Told>) -> Interim {
    let Some(told) = told else {
        return std::future::pending().await;
    };
    loop {
        if let Some(interim) = told.pop() {
            return interim;
        }
        told.news.notified().await;
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Whether this status may end an exchange.
pub(super) fn is_final(status: StatusCode) -> bool {
    !status.is_informational()
}
