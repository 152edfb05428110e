//! Forwards one permitted request to the app and streams the answer back; the last step of a permitted request's path.
//!
//! `forward` consumes the permit, so one decision forwards at most one request. It writes the identity headers from the
//! permit only and never from the client's request. The request goes out by HTTP/1.1 or HTTP/2, as the leased
//! connection requires.
//!
//! A pooled connection can die while the request is on its way to it: apps close connections that were idle.
//! `send_with_retry` sends such a request once more, on a fresh connection, in two cases. Either hyper gives the whole
//! request back, which means that no byte of it was written. Or the app may have seen it, but it is idempotent (RFC
//! 9110, 9.2.2) and without a body, and no byte of an answer came. Every other failure is final. While the answer is
//! awaited, three futures race in a fixed order: interim responses, the answer, the deadline. If the client goes away,
//! the drop of the `forward` future closes the app's connection, or resets the HTTP/2 stream.

mod app_probe;
mod apps;
mod circuit;
mod client_headers;
mod client_tls;
mod cut_signal;
mod failure;
mod name_set;
mod headers;
mod http1_connection;
mod http2_connection;
mod interim_responses;
mod pool;
mod request_body;
mod response_body;
mod response_deadline;
mod spare_request;
mod transport;
mod tunnel;
mod upgrade;

use std::any::Any;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use cedargate_policy::permit::Permit;
use cedargate_policy::types::HeaderNames;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::timeout;
use tokio_util::either::Either;

use crate::config::{Protocol, UpstreamUrl};
use crate::http::request::{ClientFacts, Trace};
pub use app_probe::Probe;
pub use apps::{App, Apps};
use client_headers::ClientHeaderCache;
pub use client_tls::TlsError;
pub use cut_signal::CutSignal;
pub use failure::{FailureReason, UpstreamError};
use failure::{classify, is_lost_connection};
pub use headers::{HeaderRules, Sanitized, Sender, header_list, header_value, headers_for_proxy, sanitize};
use interim_responses::InterimResponses;
pub use interim_responses::SendHints;
use pool::Lease;
pub use pool::Pool;
use request_body::BodyProgress;
pub use request_body::RequestBody;
pub use response_body::Body;
use response_deadline::{ResponseDeadline, is_grpc};
use spare_request::SpareRequest;
use transport::VersionOffer;
pub use tunnel::Tunnels;
use upgrade::Upgrade;

/// The target of one permitted request, and the facts that its headers need.
pub struct ForwardRequest<'a> {
    pub app: &'a App,
    /// The canonical path that the decision used.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub client: &'a ClientFacts,
    pub trace: &'a Trace,
    pub request_id: &'a HeaderValue,
    pub rules: &'a Arc<HeaderRules>,
    /// The headers that policies read: a trailer may not add one after the decision.
    pub policy_headers: &'a HeaderNames,
    /// Proof that `sanitize` ran with these rules.
    pub sanitized: Sanitized,
    /// `limits.body_bytes`; `None`: the gate sets no limit.
    pub body_bytes_max: Option<u64>,
    /// Sends the app's early hints to the client; `None` if the client's protocol cannot receive them.
    pub send_hints: Option<SendHints<'a>>,
    /// The connection's place in `limits.connections`; a tunnel keeps it.
    pub connection_slot: Rc<dyn Any>,
    /// Ends a tunnel.
    pub cut: Rc<CutSignal>,
}

/// One permitted request and its answer, over whichever connection. It holds what is large for as long as the exchange
/// takes; the futures of its methods refer to it, because a future has room for each of its arguments twice.
pub struct Exchange<'a> {
    pool: &'a Pool,
    app: &'a App,
    /// `None` once it was handed to hyper.
    request: Option<Request<RequestBody>>,
    request_id: &'a HeaderValue,
    upgrade: Option<UpgradeExchange>,
    progress: Rc<BodyProgress>,
    deadline: ResponseDeadline,
    interim_responses: InterimResponses,
    send_hints: Option<SendHints<'a>>,
}

/// What an exchange needs besides if it may end in a tunnel.
struct UpgradeExchange {
    upgrade: Upgrade,
    connection_slot: Rc<dyn Any>,
    cut: Rc<CutSignal>,
}

/// The head of the app's answer, and the connection that its body comes over.
struct AppResponse {
    response: Response<Incoming>,
    lease: Lease,
}

/// True if a body that has not ended yet is announced as empty.
fn is_announced_as_empty(body: &Incoming) -> bool {
    !body.is_end_stream() && body.size_hint().exact() == Some(0)
}

/// Checks that a body announced as empty is empty. Over HTTP/2 frames may follow all the same, and the app must not
/// take the request for complete before that is excluded.
async fn check_empty_body(body: &mut Incoming, wait_max: Duration) -> Result<(), UpstreamError> {
    match timeout(wait_max, body.frame()).await {
        Ok(None) => Ok(()),
        Ok(Some(Ok(frame))) if frame.is_trailers() => Ok(()),
        Ok(Some(_)) | Err(_) => Err(UpstreamError::ClientBody),
    }
}

/// True if the announced length exceeds the limit.
fn is_too_large(headers: &HeaderMap, bytes_max: Option<u64>) -> bool {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    matches!((announced, bytes_max), (Some(bytes), Some(max)) if bytes > max)
}

/// Writes the head for the app in HTTP/1.1's form; `start_request` converts it for an HTTP/2 connection.
fn rebuild_head(
    head: &mut Parts,
    permit: Permit,
    to: &ForwardRequest<'_>,
    client_headers: &ClientHeaderCache,
) -> Result<(), UpstreamError> {
    head.uri = match head.uri.path_and_query() {
        // the client's own target, without scheme and authority
        Some(target) if target.path() == to.path && target.query() == to.query => Uri::from(target.clone()),
        _ => {
            let target = match to.query {
                Some(query) => format!("{}?{query}", to.path),
                None => to.path.to_owned(),
            };
            // `request` already checked the path; if it is not a URI after all, nothing is sent
            Uri::try_from(target).map_err(|_not_a_uri| UpstreamError::ClientBody)?
        }
    };
    head.version = Version::HTTP_11;
    head.extensions.clear();
    headers::write_request_headers(&mut head.headers, permit, to, client_headers);
    Ok(())
}

fn request_body(incoming: Incoming, to: &ForwardRequest<'_>, progress: &Rc<BodyProgress>) -> RequestBody {
    progress.ended.set(incoming.is_end_stream());
    RequestBody {
        incoming: (!incoming.is_end_stream()).then_some(incoming),
        bytes_left: to.body_bytes_max.unwrap_or(u64::MAX),
        rules: Arc::clone(to.rules),
        policy_headers: to.policy_headers.clone(),
        progress: Rc::clone(progress),
    }
}

/// The outcome of one send.
enum SendOutcome {
    Answered(Response<Incoming>),
    Failed(UpstreamError),
    /// A reused connection was lost, and the request may be sent once more.
    Lost {
        request: Box<Request<RequestBody>>,
        error: UpstreamError,
    },
}

impl SendOutcome {
    fn into_response(self) -> Result<Response<Incoming>, UpstreamError> {
        match self {
            Self::Answered(response) => Ok(response),
            Self::Failed(error) | Self::Lost { error, .. } => Err(error),
        }
    }
}

impl<'a> Exchange<'a> {
    /// Makes the app's request out of the client's. Takes the permit: one decision forwards at most one request.
    pub async fn begin(
        pool: &'a Pool,
        permit: Permit,
        mut head: Box<Parts>,
        mut incoming: Incoming,
        to: ForwardRequest<'a>,
    ) -> Result<Self, UpstreamError> {
        if is_too_large(&head.headers, to.body_bytes_max) {
            return Err(UpstreamError::BodyTooLarge);
        }
        let response_timeout = to.app.settings.response_timeout;
        if is_announced_as_empty(&incoming) {
            // boxed: few requests need it, and a future has room for its largest branch
            Box::pin(check_empty_body(&mut incoming, response_timeout)).await?;
        }
        let client_version = head.version;
        let mut upgrade = upgrade::requested_upgrade(&mut head)?;
        let progress = BodyProgress::start();
        rebuild_head(&mut head, permit, &to, &pool.client_headers)?;
        if let Some(upgrade) = &mut upgrade {
            upgrade.write_request(&mut head);
        }
        let mut request = Request::from_parts(*head, request_body(incoming, &to, &progress));
        Ok(Self {
            pool,
            app: to.app,
            request_id: to.request_id,
            deadline: ResponseDeadline::from_headers(request.headers(), response_timeout),
            interim_responses: InterimResponses::subscribe(&mut request, client_version, response_timeout, to.send_hints),
            send_hints: to.send_hints,
            progress,
            request: Some(request),
            upgrade: upgrade.map(|upgrade| UpgradeExchange {
                upgrade,
                connection_slot: to.connection_slot,
                cut: to.cut,
            }),
        })
    }

    /// Sends the request and waits for the head of the app's answer; the bodies stream. The drop of the future (client
    /// gone) closes the app's connection, or resets the stream.
    pub async fn answer(&mut self) -> Result<Response<Body>, UpstreamError> {
        match self.upgrade.take() {
            None => self.forward_ordinary().await,
            Some(upgrade) => Box::pin(self.forward_upgrade(upgrade)).await,
        }
    }

    async fn forward_ordinary(&mut self) -> Result<Response<Body>, UpstreamError> {
        let method = self.request.as_ref().map_or(Method::GET, |request| request.method().clone());
        let AppResponse { response, mut lease } = self.send_with_retry().await?;
        if !self.progress.ended.get() || lease.write_waits() {
            lease.drive_in_task();
        }
        let (mut head, incoming) = response.into_parts();
        if head.status.is_informational() {
            return Err(UpstreamError::malformed("the app switched protocols without being asked"));
        }
        // an app that sends a forbidden body sends it in the place of the next answer: do not use the connection again
        let lease = (!headers::announces_forbidden_body(&head, &method)).then_some(lease);
        headers::write_response_headers(&mut head, self.request_id)?;
        let held_body = if head.status.is_client_error() || head.status.is_server_error() {
            self.progress.held_body()
        } else {
            // an app that accepted the request may still read its body
            self.progress.release();
            None
        };
        Ok(Response::from_parts(head, Body::from_app(incoming, lease, held_body)))
    }

    async fn forward_upgrade(&mut self, upgrade: UpgradeExchange) -> Result<Response<Body>, UpstreamError> {
        let UpgradeExchange {
            upgrade,
            connection_slot,
            cut,
        } = upgrade;
        let mut lease = self.pool.connect_for_upgrade(self.app).await?;
        self.start_waiting();
        let mut response = self.send(&mut lease).await.into_response()?;
        let app = hyper::upgrade::on(&mut response);
        let (mut head, incoming) = response.into_parts();
        upgrade.check_response(&head)?;
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            headers::write_response_headers(&mut head, self.request_id)?;
            return Ok(Response::from_parts(head, Body::from_app(incoming, Some(lease), None)));
        }
        // a 101 has no body, even if its headers announce one
        head.headers.remove(CONTENT_LENGTH);
        head.headers.remove(TRANSFER_ENCODING);
        headers::write_response_headers(&mut head, self.request_id)?;
        let client = upgrade.accept(&mut head);
        self.pool.tunnels.open(client, app, connection_slot, cut);
        Ok(Response::from_parts(head, Body::empty()))
    }

    /// Sends the request on a leased connection, and once more on a fresh one if the first was lost and the request
    /// allows it.
    async fn send_with_retry(&mut self) -> Result<AppResponse, UpstreamError> {
        let offer = match &self.request {
            Some(request) => version_offer(self.app, request),
            None => VersionOffer::Http1,
        };
        let mut lease = self.pool.lease(self.app, offer).await?;
        // once: a second send gives the app no second `response_timeout`
        self.start_waiting();
        let mut outcome = self.send(&mut lease).await;
        if let SendOutcome::Lost { request, error } = outcome {
            self.request = Some(*request);
            tracing::debug!(
                cause = error.cause(),
                "a reused connection to the app was lost; sending the request once more"
            );
            // boxed: few requests need it
            lease = Box::pin(self.pool.lease_fresh(self.app, offer, lease)).await?;
            outcome = Box::pin(self.send(&mut lease)).await;
        }
        let response = outcome.into_response()?;
        // over HTTP/1.1 hyper refuses them
        if response.headers().len() > self.app.settings.response_header_count {
            return Err(UpstreamError::unavailable(FailureReason::HeadersTooLarge));
        }
        Ok(AppResponse { response, lease })
    }

    /// The time for the app's answer begins.
    fn start_waiting(&self) {
        self.progress.last_activity.set(tokio::time::Instant::now());
    }

    /// Sends the request once and waits for the head of the answer, or for the deadline.
    async fn send(&mut self, lease: &mut Lease) -> SendOutcome {
        // INVARIANT: `begin` puts the request in, and each send is given one
        let Some(request) = self.request.take() else {
            return SendOutcome::Failed(UpstreamError::ClientBody);
        };
        let reused = lease.is_reused();
        let spare = if reused { SpareRequest::of(&request) } else { None };
        let answer = match start_request(lease, request, &self.app.url) {
            Ok(answer) => answer,
            Err(error) => return SendOutcome::Failed(error),
        };
        let mut failed = match self.answer_or_deadline(lease, pin!(answer)).await {
            Err(expired) => return SendOutcome::Failed(expired),
            Ok(Ok(mut response)) => {
                // the version belongs to each connection (RFC 9110, 6.2)
                *response.version_mut() = Version::HTTP_11;
                return SendOutcome::Answered(response);
            }
            Ok(Err(failed)) => failed,
        };
        let unsent = failed.take_message().filter(|_| reused);
        let error = failed.into_error();
        let repeatable = spare.filter(|_| lease.is_unanswered() && is_lost_connection(&error));
        let error = classify(error, &self.progress);
        match unsent.or_else(|| self.repeat(repeatable?)) {
            Some(request) => SendOutcome::Lost {
                request: Box::new(request),
                error,
            },
            None => SendOutcome::Failed(error),
        }
    }

    /// Moves the connection on until the head of the answer is there. `Err`: the deadline came first.
    async fn answer_or_deadline(
        &mut self,
        lease: &mut Lease,
        mut answer: Pin<&mut impl Future<Output = AnswerResult>>,
    ) -> Result<AnswerResult, UpstreamError> {
        let progress = &self.progress;
        let mut interim_responses = pin!(self.interim_responses.pass_on(progress, self.send_hints));
        let mut deadline = pin!(self.deadline.expire(progress));
        poll_fn(|cx| {
            lease.drive(cx);
            // hints that arrived before the answer go to the client before it
            if let Poll::Ready(never) = interim_responses.as_mut().poll(cx) {
                match never {}
            }
            match answer.as_mut().poll(cx) {
                Poll::Ready(outcome) => Poll::Ready(Ok(outcome)),
                Poll::Pending => deadline.as_mut().poll(cx).map(Err),
            }
        })
        .await
    }

    /// Makes the spare copy ready to be sent.
    fn repeat(&self, spare: SpareRequest) -> Option<Request<RequestBody>> {
        let mut request = spare.into_request()?;
        self.interim_responses.subscribe_again(&mut request);
        Some(request)
    }
}

/// Chooses the HTTP versions to offer. Over plain text the app cannot say which it speaks; gRPC requires HTTP/2.
fn version_offer(app: &App, request: &Request<RequestBody>) -> VersionOffer {
    match (app.settings.protocol, &app.url) {
        (Protocol::Http1, _) => VersionOffer::Http1,
        (Protocol::Http2, _) => VersionOffer::Http2,
        (Protocol::Auto, UpstreamUrl::Https(_)) => VersionOffer::Either,
        (Protocol::Auto, _) if *request.method() == Method::POST && is_grpc(request.headers()) => VersionOffer::Http2,
        (Protocol::Auto, _) => VersionOffer::Http1,
    }
}

type AnswerResult = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

/// Hands the request to the connection, in the connection's form, and returns the future of the answer.
fn start_request(
    lease: &mut Lease,
    mut request: Request<RequestBody>,
    url: &UpstreamUrl,
) -> Result<impl Future<Output = AnswerResult> + use<>, UpstreamError> {
    match lease {
        Lease::Http1(lease) => {
            http2_connection::put_host(&mut request);
            announce_body(&mut request);
            let connection = &mut lease.connection;
            connection.watch.request_begins();
            Ok(Either::Left(connection.sender.try_send_request(request)))
        }
        Lease::Http2(stream) => {
            http2_connection::put_authority(&mut request, url)?;
            Ok(Either::Right(stream.sender.try_send_request(request)))
        }
    }
}

/// Announces the body of a GET or HEAD as chunked; hyper would drop a body of unknown length.
fn announce_body(request: &mut Request<RequestBody>) {
    let usually_bodiless = matches!(*request.method(), Method::GET | Method::HEAD);
    if usually_bodiless && !request.body().is_end_stream() && request.body().size_hint().exact().is_none() {
        request
            .headers_mut()
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

#[cfg(test)]
mod tests;
