//! Forwards one permitted request to the app and streams the answer back.
//!
//! Last step of the path; the permit is consumed, so a decision forwards at most once. Sends exactly one freshly
//! framed HTTP/1.1 request per permit: a retry happens only if hyper gives the whole request back because a pooled
//! connection died before any of it was written. Must never add to what the permit says about the caller.

mod body;
mod headers;
mod pool;

pub use body::{Body, BodyError, RequestBody};
pub use headers::{HeaderRules, header_list, header_value};
pub use pool::{IDLE_CONNECTIONS_MAX, Pool};

use std::rc::Rc;
use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Request, Response, Uri, Version};
use hyper::body::Incoming;

use crate::authz::Permit;
use crate::config::Upstream;
use crate::request::{ClientFacts, Trace};
use body::Progress;
use pool::Lease;

/// Why the app did not answer; the label of `upstream_errors_total{reason}`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failure {
    Connect,
    ConnectTimeout,
    /// The connection ended before the response's head.
    Closed,
    /// The app's answer was no valid HTTP.
    Malformed,
}

#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("the app is not available (`{}`); check that it listens at `upstream.url`", reason.as_str())]
    Unavailable {
        reason: Failure,
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    #[error("the app did not answer within `upstream.response_timeout`")]
    Timeout,
    #[error("the request body is larger than `limits.body_bytes`")]
    BodyTooLarge,
    #[error("the client's request body stopped or is malformed")]
    ClientBody,
}

/// Where and how one request goes out.
#[derive(Debug)]
pub struct Outward<'a> {
    pub upstream: &'a Upstream,
    /// The canonical path that was decided on.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub client: &'a ClientFacts,
    pub trace: &'a Trace,
    pub request_id: &'a HeaderValue,
    pub rules: &'a Arc<HeaderRules>,
    /// `limits.body_bytes`; `None`: the app's business.
    pub body_bytes_max: Option<u64>,
}

impl Failure {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Closed => "closed",
            Self::Malformed => "malformed",
        }
    }
}

impl UpstreamError {
    fn unavailable(reason: Failure) -> Self {
        Self::Unavailable { reason, source: None }
    }

    fn failed(reason: Failure, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable {
            reason,
            source: Some(source.into()),
        }
    }

    /// The metric's label; a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unavailable { reason, .. } => reason.as_str(),
            Self::Timeout => "timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::ClientBody => "client_body",
        }
    }
}

/// Sends the request and waits for the response's head; the body streams. Cancelling the future (client gone) closes
/// the app's connection.
pub async fn forward(
    pool: &Pool,
    permit: Permit,
    request: Request<Incoming>,
    outward: Outward<'_>,
) -> Result<Response<Body>, UpstreamError> {
    if exceeds(&request, outward.body_bytes_max) {
        return Err(UpstreamError::BodyTooLarge);
    }
    let progress = Progress::start();
    let request = rebuilt(request, permit, &outward, Rc::clone(&progress))?;
    let mut lease = pool.lease(outward.upstream).await?;
    progress.last.set(tokio::time::Instant::now());
    let response = match exchange(&mut lease, request, &progress, outward.upstream).await {
        Exchanged::Answered(response) => response,
        Exchanged::Failed(error) => return Err(error),
        Exchanged::Unsent(request) => {
            lease = pool.connect(outward.upstream).await?;
            progress.last.set(tokio::time::Instant::now());
            match exchange(&mut lease, *request, &progress, outward.upstream).await {
                Exchanged::Answered(response) => response,
                Exchanged::Failed(error) => return Err(error),
                Exchanged::Unsent(_) => return Err(UpstreamError::unavailable(Failure::Closed)),
            }
        }
    };
    let (mut head, incoming) = response.into_parts();
    headers::inward(&mut head.headers, outward.request_id);
    Ok(Response::from_parts(head, Body::app(incoming, lease)))
}

fn exceeds(request: &Request<Incoming>, max: Option<u64>) -> bool {
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    matches!((announced, max), (Some(bytes), Some(max)) if bytes > max)
}

fn rebuilt(
    request: Request<Incoming>,
    permit: Permit,
    outward: &Outward<'_>,
    progress: Rc<Progress>,
) -> Result<Request<RequestBody>, UpstreamError> {
    let (mut head, incoming) = request.into_parts();
    let target = match outward.query {
        Some(query) => format!("{}?{query}", outward.path),
        None => outward.path.to_owned(),
    };
    // The path was checked before; if it is no URI after all, nothing is sent.
    head.uri = Uri::try_from(target).map_err(|_not_a_uri| UpstreamError::ClientBody)?;
    head.version = Version::HTTP_11;
    head.extensions.clear();
    headers::outward(&mut head.headers, permit, outward);
    let body = RequestBody {
        incoming,
        left: outward.body_bytes_max.unwrap_or(u64::MAX),
        rules: Arc::clone(outward.rules),
        progress,
    };
    Ok(Request::from_parts(head, body))
}

enum Exchanged {
    Answered(Response<Incoming>),
    Failed(UpstreamError),
    /// A pooled connection died before anything was written.
    Unsent(Box<Request<RequestBody>>),
}

async fn exchange(lease: &mut Lease, request: Request<RequestBody>, progress: &Progress, upstream: &Upstream) -> Exchanged {
    let reused = lease.reused;
    let answer = lease.sender.try_send_request(request);
    let outcome = tokio::select! {
        biased;
        outcome = answer => outcome,
        () = silence(progress, upstream.response_timeout) => {
            return Exchanged::Failed(if progress.waits_for_client.get() { UpstreamError::ClientBody } else { UpstreamError::Timeout });
        }
    };
    match outcome {
        Ok(response) => Exchanged::Answered(response),
        Err(mut unsent) => match unsent.take_message() {
            Some(request) if reused => Exchanged::Unsent(Box::new(request)),
            _ => Exchanged::Failed(classified(unsent.into_error(), progress)),
        },
    }
}

/// Resolves when nothing has moved for so long: neither a piece of the request's body nor the response's head.
async fn silence(progress: &Progress, timeout: std::time::Duration) {
    loop {
        let deadline = progress.last.get() + timeout;
        if deadline <= tokio::time::Instant::now() {
            return;
        }
        tokio::time::sleep_until(deadline).await;
    }
}

fn classified(error: hyper::Error, progress: &Progress) -> UpstreamError {
    if progress.too_large.get() {
        UpstreamError::BodyTooLarge
    } else if progress.client_failed.get() {
        UpstreamError::ClientBody
    } else if error.is_parse() {
        UpstreamError::failed(Failure::Malformed, error)
    } else {
        UpstreamError::failed(Failure::Closed, error)
    }
}

#[cfg(test)]
mod tests;
