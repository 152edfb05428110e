//! The answers of the workbench, each with the headers that keep the page to itself.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, LOCATION, REFERRER_POLICY, SET_COOKIE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderValue, Response, StatusCode};
use hyper::body::{Frame, SizeHint};
use serde_json::json;
use tokio::sync::mpsc;

use super::access::{PageAccess, Rejection, Welcome};
use super::{CallRefusal, page};

/// SECURITY: own files only, no inline script or style, no form, no frame. With Trusted Types the browser refuses to
/// make markup or script of a text, even if the page's own code tried.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
/// Goes on to the page by itself.
const WELCOME: &str = "<!doctype html><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"0;url=/\">\
                       <title>cedargate workbench</title><p><a href=\"/\">Workbench</a></p>";

/// The body of an answer: a text, or events until the reader goes away.
pub(super) enum Body {
    Whole(Option<Bytes>),
    Events(mpsc::Receiver<Bytes>),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events(events) => events
                .poll_recv(context)
                .map(|event| event.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

/// An answer with the headers of every answer.
pub(super) fn with(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-embedder-policy"), "require-corp"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

pub(super) fn json(status: StatusCode, body: Bytes) -> Response<Body> {
    with(status, "application/json", Body::Whole(Some(body)))
}

pub(super) fn refused(refused: &CallRefusal) -> Response<Body> {
    let body = json!({ "error": refused.message }).to_string();
    json(refused.status, body.into())
}

/// Sets the cookie, and leads to the page.
pub(super) fn welcome(access: &PageAccess, welcome: Welcome) -> Response<Body> {
    let mut response = match welcome {
        Welcome::Page => text(StatusCode::OK, "text/html; charset=utf-8", WELCOME),
        Welcome::Redirect => {
            let mut response = text(StatusCode::SEE_OTHER, "text/plain", "");
            response.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
            response
        }
    };
    let cookie = format!("{}; Path=/; HttpOnly; SameSite=Strict", access.cookie());
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

/// A file of the page.
pub(super) fn asset(path: &str) -> Response<Body> {
    match page::asset(path) {
        Some(asset) => with(StatusCode::OK, asset.kind, Body::Whole(Some(asset.bytes))),
        None => text(StatusCode::NOT_FOUND, "text/plain", "there is no such page\n"),
    }
}

pub(super) fn rejected(rejection: Rejection) -> Response<Body> {
    let (status, message) = match rejection {
        Rejection::Host => (StatusCode::MISDIRECTED_REQUEST, "the workbench has another address\n"),
        Rejection::Origin => (StatusCode::FORBIDDEN, "another page may not ask the workbench\n"),
        Rejection::Unknown => (
            StatusCode::FORBIDDEN,
            "open the address that `cedargate workbench` printed; each start has a new one\n",
        ),
        Rejection::Method => (StatusCode::METHOD_NOT_ALLOWED, "GET or POST\n"),
        Rejection::Form => (StatusCode::BAD_REQUEST, "a call is JSON, from the page itself\n"),
    };
    text(status, "text/plain", message)
}

fn text(status: StatusCode, kind: &'static str, text: &'static str) -> Response<Body> {
    with(status, kind, Body::Whole(Some(Bytes::from_static(text.as_bytes()))))
}
