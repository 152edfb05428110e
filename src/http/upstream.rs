//! Forwards one permitted request to the app and streams the answer back.
//!
//! Last step of the path; the permit is consumed, so a decision forwards at most once. Sends exactly one freshly
//! framed request per permit, by HTTP/1.1 or HTTP/2: a retry happens only if hyper gives the whole request back because
//! a connection died before any of it was written. Must never add to what the permit says about the caller.

mod app;
mod body;
mod circuit;
mod client;
mod cut;
mod deadline;
mod failure;
mod headers;
mod http2;
mod interim;
mod pool;
mod tls;
mod transport;
mod tunnel;
mod upgrade;

pub use app::{App, Apps};
pub use body::{Body, RequestBody};
pub use cut::Cut;
pub use failure::{Failure, UpstreamError};
pub use headers::{Cleansed, HeaderRules, cleanse, header_list, header_value};
pub use interim::Early;
pub use pool::Pool;
pub use tls::TlsError;
pub use tunnel::Tunnels;

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::timeout;
use tokio_util::either::Either;

use crate::config::{Protocol, UpstreamUrl};
use crate::http::request::{ClientFacts, Trace};
use body::Progress;
use cedargate_policy::permit::Permit;
use client::Clients;
use deadline::{Patience, is_grpc};
use failure::classified;
use interim::{Interims, is_final, listen};
use pool::Lease;
use transport::Offer;
use upgrade::Upgrade;

/// Where and how one request goes out.
pub struct Outward<'a> {
    pub upstream: &'a App,
    /// The canonical path that was decided on.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub client: &'a ClientFacts,
    pub trace: &'a Trace,
    pub request_id: &'a HeaderValue,
    pub rules: &'a Arc<HeaderRules>,
    /// By the same rules.
    pub cleansed: Cleansed,
    /// `limits.body_bytes`; `None`: the app's business.
    pub body_bytes_max: Option<u64>,
    /// Takes the app's early hints; `None` where the client cannot be told.
    pub early: Option<Early<'a>>,
    /// The connection's place in `limits.connections`; a tunnel keeps it.
    pub place: Rc<dyn Any>,
    /// Ends a tunnel.
    pub cut: Rc<Cut>,
}

/// One request on its way, whatever connection it takes.
struct Exchange<'a> {
    app: &'a App,
    progress: Rc<Progress>,
    patience: Patience,
    interims: Interims,
    early: Option<Early<'a>>,
}

/// Sends the request and waits for the response's head; the body streams. Cancelling the future (client gone) closes
/// the app's connection, or resets the stream.
pub async fn forward(
    pool: &Pool,
    permit: Permit,
    request: Request<Incoming>,
    outward: Outward<'_>,
) -> Result<Response<Body>, UpstreamError> {
    if exceeds(&request, outward.body_bytes_max) {
        return Err(UpstreamError::BodyTooLarge);
    }
    let (mut head, mut incoming) = request.into_parts();
    let came_by = head.version;
    let response_timeout = outward.upstream.settings.response_timeout;
    ends_as_announced(&mut incoming, response_timeout).await?;
    let mut upgrade = upgrade::asked(&mut head)?;
    let progress = Progress::start();
    rebuild(&mut head, permit, &outward, &pool.clients)?;
    if let Some(upgrade) = &mut upgrade {
        upgrade.ask(&mut head);
    }
    let mut request = Request::from_parts(head, request_body(incoming, &outward, &progress));
    let exchange = Exchange {
        app: outward.upstream,
        patience: Patience::of(request.headers(), response_timeout),
        interims: listen(&mut request, (came_by, response_timeout), outward.early),
        early: outward.early,
        progress,
    };
    match upgrade {
        None => exchange.plain(pool, request, outward.request_id).await,
        Some(upgrade) => exchange.upgrading(pool, request, (upgrade, outward)).await,
    }
}

/// Over HTTP/2 a body can go on that was announced as empty. The app must not take the request for whole before that is known.
async fn ends_as_announced(body: &mut Incoming, patience: Duration) -> Result<(), UpstreamError> {
    if body.is_end_stream() || body.size_hint().exact() != Some(0) {
        return Ok(());
    }
    match timeout(patience, body.frame()).await {
        Ok(None) => Ok(()),
        Ok(Some(Ok(frame))) if frame.is_trailers() => Ok(()),
        Ok(Some(_)) | Err(_) => Err(UpstreamError::ClientBody),
    }
}

fn exceeds(request: &Request<Incoming>, max: Option<u64>) -> bool {
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    matches!((announced, max), (Some(bytes), Some(max)) if bytes > max)
}

/// In HTTP/1.1's form; `send` turns it into HTTP/2's if the connection is one.
fn rebuild(head: &mut Parts, permit: Permit, outward: &Outward<'_>, clients: &Clients) -> Result<(), UpstreamError> {
    head.uri = match head.uri.path_and_query() {
        // as it came, without scheme and authority
        Some(target) if target.path() == outward.path && target.query() == outward.query => Uri::from(target.clone()),
        _ => {
            let target = match outward.query {
                Some(query) => format!("{}?{query}", outward.path),
                None => outward.path.to_owned(),
            };
            // the path was checked before; if it is no URI after all, nothing is sent
            Uri::try_from(target).map_err(|_not_a_uri| UpstreamError::ClientBody)?
        }
    };
    head.version = Version::HTTP_11;
    head.extensions.clear();
    headers::outward(&mut head.headers, permit, outward, clients);
    Ok(())
}

fn request_body(incoming: Incoming, outward: &Outward<'_>, progress: &Rc<Progress>) -> RequestBody {
    RequestBody {
        incoming,
        left: outward.body_bytes_max.unwrap_or(u64::MAX),
        rules: Arc::clone(outward.rules),
        progress: Rc::clone(progress),
    }
}

enum Exchanged {
    Answered(Response<Incoming>),
    Failed(UpstreamError),
    /// A connection died before anything was written.
    Unsent(Box<Request<RequestBody>>),
}

impl Exchange<'_> {
    async fn plain(
        mut self,
        pool: &Pool,
        request: Request<RequestBody>,
        request_id: &HeaderValue,
    ) -> Result<Response<Body>, UpstreamError> {
        let (offer, method) = (offer(self.app, &request), request.method().clone());
        let mut lease = pool.lease(self.app, offer).await?;
        let response = match self.exchange(&mut lease, request).await {
            Exchanged::Answered(response) => response,
            Exchanged::Failed(error) => return Err(error),
            Exchanged::Unsent(request) => {
                lease = pool.connect(self.app, offer).await?;
                match self.exchange(&mut lease, *request).await {
                    Exchanged::Answered(response) => response,
                    Exchanged::Failed(error) => return Err(error),
                    Exchanged::Unsent(_) => return Err(UpstreamError::unavailable(Failure::Closed)),
                }
            }
        };
        let (mut head, incoming) = response.into_parts();
        if !is_final(head.status) {
            return Err(UpstreamError::malformed("the app switched protocols without being asked"));
        }
        // an app that sends what must not come would send it where the next answer begins
        let lease = (!headers::announces_no_body(&head, &method)).then_some(lease);
        headers::inward(&mut head, request_id)?;
        let unasked = if head.status.is_client_error() || head.status.is_server_error() {
            self.progress.unasked()
        } else {
            // an app that took the request may still read its body
            self.progress.release();
            None
        };
        Ok(Response::from_parts(head, Body::app(incoming, lease, unasked)))
    }

    async fn upgrading(
        mut self,
        pool: &Pool,
        request: Request<RequestBody>,
        (upgrade, outward): (Upgrade, Outward<'_>),
    ) -> Result<Response<Body>, UpstreamError> {
        let mut lease = pool.connect_for_upgrade(self.app).await?;
        let mut response = match self.exchange(&mut lease, request).await {
            Exchanged::Answered(response) => response,
            Exchanged::Failed(error) => return Err(error),
            Exchanged::Unsent(_) => return Err(UpstreamError::unavailable(Failure::Closed)),
        };
        let app = hyper::upgrade::on(&mut response);
        let (mut head, incoming) = response.into_parts();
        upgrade.check(&head)?;
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            headers::inward(&mut head, outward.request_id)?;
            return Ok(Response::from_parts(head, Body::app(incoming, Some(lease), None)));
        }
        // a 101 has no body, whatever it says of one
        head.headers.remove(CONTENT_LENGTH);
        head.headers.remove(TRANSFER_ENCODING);
        headers::inward(&mut head, outward.request_id)?;
        let client = upgrade.agree(&mut head);
        pool.tunnels.open(client, app, (outward.place, outward.cut));
        Ok(Response::from_parts(head, Body::empty()))
    }

    async fn exchange(&mut self, lease: &mut Lease, request: Request<RequestBody>) -> Exchanged {
        let reused = lease.is_reused();
        let progress = &self.progress;
        progress.last.set(tokio::time::Instant::now());
        let answer = match send(lease, request, &self.app.url) {
            Ok(answer) => answer,
            Err(error) => return Exchanged::Failed(error),
        };
        let outcome = tokio::select! {
            biased;
            // hints that came before the answer go before it
            never = self.interims.pass_on(progress, self.early) => match never {},
            outcome = answer => outcome,
            error = self.patience.end(progress) => return Exchanged::Failed(error),
        };
        match outcome {
            Ok(mut response) => {
                // the version is of each connection, and the client's is another (RFC 9110, 6.2)
                *response.version_mut() = Version::HTTP_11;
                Exchanged::Answered(response)
            }
            Err(mut unsent) => match unsent.take_message() {
                Some(request) if reused => Exchanged::Unsent(Box::new(request)),
                _ => Exchanged::Failed(classified(unsent.into_error(), progress)),
            },
        }
    }
}

/// gRPC needs HTTP/2; what else a plain-text app speaks cannot be asked.
fn offer(app: &App, request: &Request<RequestBody>) -> Offer {
    match (app.settings.protocol, &app.url) {
        (Protocol::Http1, _) => Offer::Http1,
        (Protocol::Http2, _) => Offer::Http2,
        (Protocol::Auto, UpstreamUrl::Https(_)) => Offer::Either,
        (Protocol::Auto, _) if *request.method() == Method::POST && is_grpc(request.headers()) => Offer::Http2,
        (Protocol::Auto, _) => Offer::Http1,
    }
}

type Sent = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

/// Hands the request to the connection, in the connection's form.
fn send(
    lease: &mut Lease,
    mut request: Request<RequestBody>,
    url: &UpstreamUrl,
) -> Result<impl Future<Output = Sent>, UpstreamError> {
    match lease {
        Lease::Http1(exclusive) => {
            http2::put_host(&mut request);
            announce_body(&mut request);
            Ok(Either::Left(exclusive.sender.try_send_request(request)))
        }
        Lease::Http2(stream) => {
            http2::put_authority(&mut request, url)?;
            Ok(Either::Right(stream.sender.try_send_request(request)))
        }
    }
}

/// hyper takes a GET whose body has no known length for one without a body.
fn announce_body(request: &mut Request<RequestBody>) {
    let bodiless = matches!(*request.method(), Method::GET | Method::HEAD);
    if bodiless && !request.body().is_end_stream() && request.body().size_hint().exact().is_none() {
        request
            .headers_mut()
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

#[cfg(test)]
mod tests;
