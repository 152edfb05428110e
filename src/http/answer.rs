//! Renders a refusal or an upstream failure as one HTTP response; the last step of the path when nothing was forwarded.
//!
//! Programs get problem+json, gRPC callers get trailers only, a person in a browser gets a small page. A response
//! contains only the public texts of `Denial` and a policy author's `@advice`: never the private detail, never policy
//! text. Statuses come from two closed sets: a `Denial`'s own 4xx or 5xx (`refusal_response`), and 502 or 504 for an
//! upstream failure (`upstream_error_response`). The gate makes the redirects to a login, not this module.

mod page;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use cedargate_policy::denial::{Denial, DpopChallenge, Refusal, over_limit};
use cedargate_policy::json::append;
use http::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

pub use self::page::PageLinks;
use crate::config::ALGORITHMS;
use crate::http::pages::Theme;
use crate::http::request::{X_REQUEST_ID, uuid_value};
use crate::http::upstream::{Body, UpstreamError};

/// The header of a nonce for DPoP proofs (RFC 9449).
pub const DPOP_NONCE: &str = "dpop-nonce";
/// `Retry-After` of a 503 whose refusal sets none, in seconds.
const RETRY_AFTER_SECONDS: u64 = 1;

/// Room for a problem without advice and detail.
const PROBLEM_BYTES: usize = 256;

/// The form of the gate's own answers to one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Style {
    Problem,
    Grpc,
    Page,
}

/// The request's facts that every answer of the gate contains.
#[derive(Clone, Debug)]
pub struct AnswerContext {
    pub style: Style,
    pub decision_id: Uuid,
    pub request_id: HeaderValue,
    /// Looks of a page.
    pub theme: Arc<Theme>,
    /// `None`: a page offers no ways on.
    pub page_links: Option<Box<PageLinks>>,
}

impl AnswerContext {
    /// An answer without ways on.
    pub fn new(style: Style, decision_id: Uuid, request_id: HeaderValue, theme: &Arc<Theme>) -> Self {
        Self {
            style,
            decision_id,
            request_id,
            theme: Arc::clone(theme),
            page_links: None,
        }
    }
}

/// The public texts of one answer.
struct PublicText<'a> {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    advice: Option<&'a str>,
    /// The cause, where the caller may read it.
    detail: Option<Cow<'a, str>>,
}

const SEC_FETCH_MODE: &str = "sec-fetch-mode";

impl Style {
    /// Chooses the form by the request's headers. A page is for a navigation only: a GET that accepts HTML and is not a
    /// `fetch`, or the POST of a form, of which `sec-fetch-mode` must say so, and which no browser sends with a token.
    /// A CONNECT never gets gRPC's 200, because a proxy on the way would treat it as a tunnel.
    pub fn for_request(method: &Method, headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let is_grpc = |kind: &str| kind == "application/grpc" || kind.starts_with("application/grpc+");
        if *method != Method::CONNECT && text(CONTENT_TYPE).is_some_and(is_grpc) {
            return Self::Grpc;
        }
        if !text(ACCEPT).is_some_and(prefers_html) {
            return Self::Problem;
        }
        let navigates = match headers.get(SEC_FETCH_MODE) {
            Some(mode) if *method == Method::POST => mode == "navigate" && !headers.contains_key(AUTHORIZATION),
            Some(mode) => mode == "navigate" && *method == Method::GET,
            None => *method == Method::GET,
        };
        let is_script = headers.contains_key("x-requested-with") || headers.contains_key(UPGRADE);
        if navigates && !is_script { Self::Page } else { Self::Problem }
    }
}

/// True if a browser shows the answer to its user: `sec-fetch-mode` says so, or a client that does not send it prefers
/// HTML.
pub fn is_shown_by_browser(headers: &HeaderMap) -> bool {
    match headers.get(SEC_FETCH_MODE) {
        Some(mode) => mode == "navigate",
        None => {
            let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
            accept.is_some_and(prefers_html)
        }
    }
}

/// True if `accept` allows HTML and does not weigh JSON higher (RFC 9110, section 12.5.1).
fn prefers_html(accept: &str) -> bool {
    let weight = |wanted: &str| {
        let ranges = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            parts.next().filter(|kind| kind.eq_ignore_ascii_case(wanted))?;
            let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            Some(quality.map_or(1.0, |quality| quality.parse::<f32>().unwrap_or(0.0)))
        });
        ranges.fold(None, |best: Option<f32>, one| Some(best.map_or(one, |best| best.max(one))))
    };
    let html = weight("text/html").unwrap_or(0.0);
    html > 0.0 && html >= weight("application/json").unwrap_or(0.0)
}

/// Sets the headers that every answer of the gate has: `nosniff`, the request id and the decision id.
pub fn set_common_headers(response: &mut Response<Body>, answer: &AnswerContext) {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(&X_REQUEST_ID, answer.request_id.clone());
    headers.insert("x-cedargate-decision-id", uuid_value(answer.decision_id));
}

/// Renders a refusal.
pub fn refusal_response(refusal: &Refusal, answer: &AnswerContext) -> Response<Body> {
    let detail = match refusal.limit {
        _ if refusal.is_detail_public => Some(Cow::Borrowed(&*refusal.detail)),
        limit => limit.map(|limit| over_limit(limit).into()),
    };
    render_refusal(refusal, refusal.advice.as_deref(), detail, answer)
}

/// Renders a refusal with its private detail, for the app's own door.
pub fn detailed_refusal_response(refusal: &Refusal, answer: &AnswerContext) -> Response<Body> {
    render_refusal(refusal, None, Some(Cow::Borrowed(&*refusal.detail)), answer)
}

fn render_refusal(
    refusal: &Refusal,
    advice: Option<&str>,
    detail: Option<Cow<'_, str>>,
    answer: &AnswerContext,
) -> Response<Body> {
    let denial = refusal.denial;
    let text = PublicText {
        status: denial.status(),
        code: denial.code(),
        title: denial.title(),
        advice,
        detail,
    };
    let mut response = render(&text, answer);
    let headers = response.headers_mut();
    // SECURITY: ambiguous framing closes the connection in every style, for gRPC too
    match denial {
        Denial::RequestInvalid | Denial::RequestTooLarge | Denial::HeadersTooLarge | Denial::Draining => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
    if let Some(seconds) = retry_after(refusal) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if answer.style == Style::Grpc {
        return response;
    }
    if denial.status() == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, challenge(refusal));
        if let Some(dpop) = refusal.dpop.as_deref() {
            add_dpop_challenge(headers, dpop);
        }
    }
    response
}

fn retry_after(refusal: &Refusal) -> Option<u64> {
    let temporary = refusal.denial.status() == StatusCode::SERVICE_UNAVAILABLE;
    refusal.retry_after.or(temporary.then_some(RETRY_AFTER_SECONDS))
}

/// Renders the failure of a permitted request that got no answer from the app: an outcome, not a denial.
pub fn upstream_error_response(error: &UpstreamError, answer: &AnswerContext) -> Response<Body> {
    let (status, code, title) = match error {
        UpstreamError::Unavailable { .. } => (
            StatusCode::BAD_GATEWAY,
            "upstream_unavailable",
            "the application is not available",
        ),
        UpstreamError::Timeout => (
            StatusCode::GATEWAY_TIMEOUT,
            "upstream_timeout",
            "the application did not answer in time",
        ),
        UpstreamError::BodyTooLarge => {
            let refusal = Refusal::over_limit(Denial::RequestTooLarge, "limits.body_bytes");
            return refusal_response(&refusal, answer);
        }
        UpstreamError::ClientBody => return refusal_response(&Denial::RequestInvalid.into(), answer),
    };
    render(
        &PublicText {
            status,
            code,
            title,
            advice: None,
            detail: error.limit().map(|limit| over_limit(limit).into()),
        },
        answer,
    )
}

fn render(text: &PublicText<'_>, answer: &AnswerContext) -> Response<Body> {
    let mut response = match answer.style {
        Style::Grpc => grpc(text),
        Style::Page => page::page(text, answer),
        Style::Problem => problem(text, answer.decision_id),
    };
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    set_common_headers(&mut response, answer);
    response
}

fn problem(text: &PublicText<'_>, decision_id: Uuid) -> Response<Body> {
    let mut body = Vec::with_capacity(PROBLEM_BYTES);
    // no code has a character that JSON escapes
    body.extend_from_slice(b"{\"type\":\"urn:cedargate:denial:");
    body.extend_from_slice(text.code.as_bytes());
    body.extend_from_slice(b"\",\"title\":");
    append::text(&mut body, text.title);
    body.extend_from_slice(b",\"status\":");
    append::number(&mut body, text.status.as_u16());
    body.extend_from_slice(b",\"code\":");
    append::text(&mut body, text.code);
    body.extend_from_slice(b",\"decision_id\":");
    append::text(&mut body, decision_id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    if let Some(advice) = text.advice {
        body.extend_from_slice(b",\"advice\":");
        append::text(&mut body, advice);
    }
    if let Some(detail) = &text.detail {
        body.extend_from_slice(b",\"detail\":");
        append::text(&mut body, detail);
    }
    body.push(b'}');
    with_body(text.status, "application/problem+json", body)
}

/// Renders trailers only: the gRPC status is in the head of a 200 without a body.
fn grpc(text: &PublicText<'_>) -> Response<Body> {
    let status = match text.status.as_u16() {
        400 => "3",
        401 => "16",
        403 => "7",
        404 => "12",
        413 | 429 | 431 => "8",
        504 => "4",
        _ => "14",
    };
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(status));
    headers.insert("grpc-message", HeaderValue::from_static(text.code));
    response
}

/// The `WWW-Authenticate` challenge of RFC 6750 and RFC 9470; a missing token gets one without an error.
fn challenge(refusal: &Refusal) -> HeaderValue {
    let mut text = String::from("Bearer realm=\"cedargate\"");
    let uses_bearer = refusal.dpop.as_ref().is_none_or(|dpop| dpop.error.is_none());
    if let Some(error) = refusal.denial.bearer_error().filter(|_| uses_bearer) {
        text.push_str(&format!(
            ", error=\"{error}\", error_description=\"{}\"",
            refusal.denial.title()
        ));
    }
    if let Some(acr) = refusal.step_up.as_deref().filter(|acr| is_quotable(acr)) {
        text.push_str(&format!(", acr_values=\"{acr}\""));
    }
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("Bearer realm=\"cedargate\""))
}

/// The challenge of RFC 9449, section 7.1, beside that of `Bearer`, and the nonce of section 9.
fn add_dpop_challenge(headers: &mut HeaderMap, dpop: &DpopChallenge) {
    let error = dpop.error.map(|error| format!("error=\"{error}\", ")).unwrap_or_default();
    let text = format!("DPoP {error}algs=\"{}\"", ALGORITHMS.join(" "));
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.append(WWW_AUTHENTICATE, value);
    }
    let nonce = dpop.nonce.as_deref().and_then(|nonce| HeaderValue::from_str(nonce).ok());
    if let Some(nonce) = nonce {
        headers.insert(DPOP_NONCE, nonce);
    }
}

fn is_quotable(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'"' && b != b'\\')
}

fn with_body(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A JSON response. The body stays empty and the status becomes 500 if the value cannot be written as JSON: a caller
/// must never take a part of it for the answer.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    let written = serde_json::to_string(body);
    let status = if written.is_ok() {
        status
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    with_body(status, "application/json", written.unwrap_or_default())
}

/// A response with JSON that is written already.
pub fn json_text(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    with_body(status, "application/json", body)
}

/// A JSON response for an operator: indented, with a line end, and never cached.
pub fn json_for_operator(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = with_body(status, "application/json", format!("{body:#}\n"));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// 405 with `methods` in the `Allow` header and in the JSON body.
pub fn method_not_allowed(methods: &'static str) -> Response<Body> {
    let body = json!({"error": format!("this takes {methods}")});
    let mut response = json(StatusCode::METHOD_NOT_ALLOWED, &body);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn answer(style: Style) -> AnswerContext {
        AnswerContext {
            style,
            decision_id: Uuid::nil(),
            request_id: HeaderValue::from_static("r-1"),
            theme: Theme::plain(),
            page_links: None,
        }
    }

    async fn text(response: Response<Body>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn every_denial_renders_as_a_problem_without_the_private_detail() {
        for denial in Denial::ALL {
            let refusal = Refusal::new(denial, "private-detail");
            let response = refusal_response(&refusal, &answer(Style::Problem));
            assert_eq!(response.status(), denial.status());
            assert_eq!(response.headers()["cache-control"], "no-store");
            assert_eq!(response.headers()["x-request-id"], "r-1");
            assert_eq!(response.headers().contains_key("www-authenticate"), denial.status() == 401);
            assert_eq!(response.headers().contains_key("retry-after"), denial.status() == 503);
            let body = text(response).await;
            assert!(!body.contains("private-detail"));
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["code"], denial.code());
            assert_eq!(body["decision_id"], Uuid::nil().to_string());
        }
    }

    #[test]
    fn challenges_follow_the_rfcs() {
        let of = |refusal: &Refusal| challenge(refusal).to_str().unwrap().to_owned();
        assert_eq!(of(&Denial::TokenMissing.into()), "Bearer realm=\"cedargate\"");
        assert!(of(&Denial::TokenExpired.into()).contains("error=\"invalid_token\", error_description=\""));
        let mut refusal = Refusal::from(Denial::StepUpRequired);
        refusal.step_up = Some("urn:mfa".into());
        assert!(of(&refusal).ends_with(", acr_values=\"urn:mfa\""));
        refusal.step_up = Some("a\", x=\"".into());
        assert!(!of(&refusal).contains("acr_values"));
    }

    #[test]
    fn malformed_request_closes_the_connection() {
        let response = refusal_response(&Denial::RequestInvalid.into(), &answer(Style::Problem));
        assert_eq!(response.headers()["connection"], "close");
    }

    #[test]
    fn retry_after_is_set_in_every_style() {
        for style in [Style::Problem, Style::Grpc, Style::Page] {
            let retry_after = |refusal: &Refusal| {
                let response = refusal_response(refusal, &answer(style));
                response.headers().get("retry-after").map(|v| v.to_str().unwrap().to_owned())
            };
            let mut limited = Refusal::from(Denial::RateLimited);
            limited.retry_after = Some(17);
            assert_eq!(retry_after(&limited).as_deref(), Some("17"), "{style:?}");
            assert_eq!(retry_after(&Denial::Overloaded.into()).as_deref(), Some("1"), "{style:?}");
            assert_eq!(retry_after(&Denial::Forbidden.into()), None, "{style:?}");
        }
    }

    #[test]
    fn grpc_caller_gets_trailers_only() {
        for (denial, status) in [
            (Denial::TokenMissing, "16"),
            (Denial::Forbidden, "7"),
            (Denial::KeyUnavailable, "14"),
        ] {
            let response = refusal_response(&denial.into(), &answer(Style::Grpc));
            assert_eq!(
                (response.status().as_u16(), &response.headers()["grpc-status"]),
                (200, &HeaderValue::from_static(status))
            );
        }
    }

    #[tokio::test]
    async fn page_of_a_denial_escapes_its_advice() {
        let mut refusal = Refusal::from(Denial::Forbidden);
        refusal.advice = Some("<script>".to_owned());
        let response = refusal_response(&refusal, &answer(Style::Page));
        assert!(response.headers().contains_key("content-security-policy"));
        let body = text(response).await;
        assert!(
            body.contains("&lt;script&gt;") && body.contains(&Uuid::nil().to_string()),
            "{body}"
        );
    }

    #[tokio::test]
    async fn page_of_a_temporary_denial_offers_to_try_again() {
        for denial in [Denial::StoreUnavailable, Denial::Overloaded, Denial::RateLimited] {
            let response = refusal_response(&Refusal::new(denial, "private-detail"), &answer(Style::Page));
            assert_eq!(response.status(), denial.status());
            assert!(response.headers().contains_key("retry-after") || denial == Denial::RateLimited);
            let body = text(response).await;
            assert!(body.contains("Try again") && body.contains(denial.code()) && !body.contains("private-detail"));
        }
    }

    #[tokio::test]
    async fn page_of_every_denial_has_a_heading_the_code_and_the_reference() {
        for denial in Denial::ALL {
            let response = refusal_response(&Refusal::new(denial, "private-detail"), &answer(Style::Page));
            assert_eq!(response.status(), denial.status());
            assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8", "{denial:?}");
            assert!(response.headers().contains_key("content-security-policy"), "{denial:?}");
            let body = text(response).await;
            assert!(body.contains("<h1>") && body.contains(denial.code()) && body.contains(&Uuid::nil().to_string()));
            assert!(!body.contains("private-detail"));
        }
    }

    #[test]
    fn a_browser_shows_an_answer_of_a_navigation_or_to_a_client_that_prefers_html() {
        let is_shown = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
            is_shown_by_browser(&pairs.collect())
        };
        let html = ("accept", "text/html,*/*");
        assert!(is_shown(&[("sec-fetch-mode", "navigate")]) && is_shown(&[html]));
        assert!(!is_shown(&[html, ("sec-fetch-mode", "cors")]), "a script gets JSON");
        assert!(
            !is_shown(&[("accept", "application/json, text/html;q=0")]),
            "q=0 refuses HTML"
        );
        assert!(!is_shown(&[("accept", "*/*")]) && !is_shown(&[]));
    }

    #[test]
    fn only_a_navigation_gets_a_page() {
        let of = |method: Method, pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            Style::for_request(&method, &headers)
        };
        let html = ("accept", "text/html,*/*");
        assert_eq!(of(Method::GET, &[html]), Style::Page);
        assert_eq!(of(Method::GET, &[html, ("sec-fetch-mode", "cors")]), Style::Problem);
        assert_eq!(
            of(Method::GET, &[("accept", "application/json, text/html;q=0.9")]),
            Style::Problem
        );
        assert_eq!(of(Method::GET, &[("accept", "text/html;q=0, */*")]), Style::Problem);
        assert_eq!(of(Method::GET, &[("accept", "TEXT/HTML;q=0.8, */*;q=0.1")]), Style::Page);
        assert_eq!(
            of(Method::GET, &[html, ("x-requested-with", "XMLHttpRequest")]),
            Style::Problem
        );
        assert_eq!(of(Method::GET, &[html, ("upgrade", "websocket")]), Style::Problem);
        assert_eq!(of(Method::POST, &[html]), Style::Problem);
        assert_eq!(of(Method::POST, &[html, ("sec-fetch-mode", "navigate")]), Style::Page);
        assert_eq!(of(Method::POST, &[html, ("sec-fetch-mode", "cors")]), Style::Problem);
        let token = ("authorization", "Bearer x");
        assert_eq!(
            of(Method::POST, &[html, ("sec-fetch-mode", "navigate"), token]),
            Style::Problem
        );
        assert_eq!(of(Method::PUT, &[html, ("sec-fetch-mode", "navigate")]), Style::Problem);
        assert_eq!(of(Method::POST, &[("content-type", "application/grpc+proto")]), Style::Grpc);
    }
}
