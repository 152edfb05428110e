//! Cross-origin requests, as `portal.yaml` says: preflights answered here or passed on, answers readable by allowed
//! origins.
//!
//! A preflight carries no credential and changes nothing: the browser asks whether it may send a request. The gate
//! treats a request as a preflight only if it is a bodyless OPTIONS with `Origin` and `Access-Control-Request-Method`,
//! and only if the portal's `cors` says so.

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::portal::file::Cors;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
    AUTHORIZATION, CONTENT_LENGTH, COOKIE, ORIGIN, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use crate::http::answer::DPOP_NONCE;
use crate::http::upstream::Body;

/// Seconds for which a browser may remember a preflight's answer.
const MAX_AGE_SECONDS: &str = "600";

/// Headers of a refusal that a script may read, besides its body.
const EXPOSED: &str = "dpop-nonce, retry-after, www-authenticate, x-cedargate-decision-id, x-request-id";

/// The handling of a preflight.
pub enum Preflight {
    /// The gate's answer.
    Answer(Box<Response<Body>>),
    /// The app answers it, without credentials.
    Pass,
}

/// Answers a preflight, or passes it to the app; `None` for every other request.
pub fn preflight(cors: &Cors, head: &Parts) -> Option<Result<Preflight, Refusal>> {
    if *cors == Cors::Absent || !is_preflight(head) {
        return None;
    }
    if *cors == Cors::App {
        return Some(Ok(Preflight::Pass));
    }
    match allowed_origin(cors, head.headers.get(ORIGIN)) {
        Some(origin) => Some(Ok(Preflight::Answer(Box::new(preflight_response(origin, &head.headers))))),
        None => Some(Err(Refusal::new(
            Denial::OriginMismatch,
            "the origin is not in `cors.origins`",
        ))),
    }
}

/// Removes what a preflight must not carry to the app: credentials, and an upgrade. SECURITY: no policy decides on a
/// preflight, so its answer must not become a tunnel.
pub fn strip_for_app(headers: &mut HeaderMap) {
    for name in [AUTHORIZATION, COOKIE, UPGRADE] {
        headers.remove(name);
    }
}

/// Lets a script of an allowed origin read an answer, also a refusal.
pub fn share(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    if !matches!(cors, Cors::Origins(_)) {
        return;
    }
    headers.append(VARY, HeaderValue::from_static("Origin"));
    headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
    headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
    let Some(origin) = allowed_origin(cors, origin) else { return };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
}

/// Lets such a script read some headers of the gate's own answer, too. The app decides about the headers of its
/// answers.
pub fn expose(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    if allowed_origin(cors, origin).is_some() {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
}

/// Lets such a script read the gate's nonce in an answer of the app.
pub fn expose_nonce(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    if allowed_origin(cors, origin).is_some() {
        headers.append(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(DPOP_NONCE));
    }
}

/// The origin, if its scripts may read answers.
fn allowed_origin<'a>(cors: &Cors, origin: Option<&'a HeaderValue>) -> Option<&'a HeaderValue> {
    let Cors::Origins(allowed) = cors else { return None };
    origin.filter(|origin| allowed.iter().any(|a| a.as_bytes() == origin.as_bytes()))
}

/// The `Origin` of a request; `None` without one or with several.
pub fn origin(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut origins = headers.get_all(ORIGIN).iter();
    origins.next().filter(|_| origins.next().is_none()).cloned()
}

fn is_preflight(head: &Parts) -> bool {
    let one = |name| head.headers.get_all(name).iter().count() == 1;
    let bodyless = !head.headers.contains_key(TRANSFER_ENCODING)
        && head
            .headers
            .get(CONTENT_LENGTH)
            .is_none_or(|length| length.as_bytes() == b"0");
    head.method == Method::OPTIONS && one(ORIGIN) && one(ACCESS_CONTROL_REQUEST_METHOD) && bodyless
}

/// Grants every method and header that the preflight names: the request itself is decided when it comes.
fn preflight_response(origin: &HeaderValue, asked: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE_SECONDS));
    if let Some(method) = asked.get(ACCESS_CONTROL_REQUEST_METHOD) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
    }
    if let Some(names) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    let varies = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
    headers.insert(VARY, HeaderValue::from_static(varies));
    response
}
