//! The app behind the demo's gate: the pages of the portals for a browser's navigation, their files, and the JSON API.
//!
//! It listens on loopback and believes the identity headers, because only the gate reaches it. The pages run no inline
//! script and no other origin's; every answer says its type and forbids guessing another, so text out of an order is
//! never a page.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;

use super::api::{Api, ApiAnswer, ApiProblem, ApiRequest};
use super::pages::{Pages, StaticFile};

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 64 * 1024;
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
                           connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
/// A file's name holds a hash of its content.
const FOREVER: &str = "public, max-age=31536000, immutable";

#[derive(Debug)]
pub(super) struct App {
    pub pages: Pages,
    pub api: Api,
}

/// Serves the app on a thread of its own until the process ends.
pub(super) fn serve(app: Arc<App>) -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("demo-app".to_owned())
        .spawn(move || runtime.block_on(accept(listener, app)))?;
    Ok(address)
}

async fn accept(listener: std::net::TcpListener, app: Arc<App>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    while let Ok((stream, _)) = listener.accept().await {
        let app = Arc::clone(&app);
        let service = service_fn(move |request| {
            let app = Arc::clone(&app);
            async move { Ok::<_, std::convert::Infallible>(app.respond(request).await) }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

impl App {
    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if reads(&head.method)
            && let Some((portal, rest)) = portal_of(path)
        {
            if let Some(name) = rest.strip_prefix("assets/") {
                let page = self.pages.asset(portal, name);
                return page.map_or_else(|| of_problem(&no_file()), of_asset);
            }
            if navigates(&head.headers)
                && let Some(page) = self.pages.index(portal)
            {
                return of_index(page);
            }
        }
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            let title = format!("the body is larger than {BODY_BYTES_MAX} bytes, or broken");
            return of_problem(&problem(StatusCode::PAYLOAD_TOO_LARGE, title));
        };
        let request = ApiRequest {
            method: &head.method,
            path,
            query: head.uri.query().unwrap_or_default(),
            headers: &head.headers,
            body: &body.to_bytes(),
        };
        match self.api.respond(&request).await {
            Ok(answer) => of_answer(answer),
            Err(problem) => of_problem(&problem),
        }
    }
}

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn navigates(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accept
        .flat_map(|value| value.split(','))
        .any(|kind| kind.trim().starts_with("text/html"))
}

/// The portal and the path below it.
fn portal_of(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/portal/")?;
    Some(rest.split_once('/').unwrap_or((rest, "")))
}

fn problem(status: StatusCode, title: String) -> ApiProblem {
    ApiProblem {
        status,
        title,
        verdict: None,
    }
}

fn no_file() -> ApiProblem {
    problem(StatusCode::NOT_FOUND, "there is no such file".to_owned())
}

/// The headers of every answer.
fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    set(&mut response, CONTENT_TYPE, content_type);
    set(&mut response, X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(&mut response, VARY, "accept");
    response
}

fn set(response: &mut Response<Full<Bytes>>, name: HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}

fn content(page: StaticFile) -> Bytes {
    match page.content {
        std::borrow::Cow::Borrowed(built_in) => Bytes::from_static(built_in),
        std::borrow::Cow::Owned(read) => Bytes::from(read),
    }
}

fn of_index(page: StaticFile) -> Response<Full<Bytes>> {
    let mut response = response(StatusCode::OK, page.content_type, content(page));
    set(&mut response, CONTENT_SECURITY_POLICY, PAGE_POLICY);
    set(&mut response, REFERRER_POLICY, "same-origin");
    set(&mut response, CACHE_CONTROL, "no-cache");
    response
}

fn of_asset(page: StaticFile) -> Response<Full<Bytes>> {
    let mut response = response(StatusCode::OK, page.content_type, content(page));
    // an SVG that is opened by itself is a document
    set(
        &mut response,
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'",
    );
    set(&mut response, CACHE_CONTROL, FOREVER);
    response
}

fn of_answer(answer: ApiAnswer) -> Response<Full<Bytes>> {
    let text = answer.body.map(|body| format!("{body}\n")).unwrap_or_default();
    let mut response = response(answer.status, "application/json", Bytes::from(text));
    set(&mut response, CACHE_CONTROL, "private, no-store");
    response
}

fn of_problem(problem: &ApiProblem) -> Response<Full<Bytes>> {
    let mut body = json!({"type": "about:blank", "title": problem.title, "status": problem.status.as_u16()});
    if let (Some(verdict), Some(members)) = (&problem.verdict, body.as_object_mut()) {
        members.insert("code".to_owned(), json!(verdict.reason));
        members.insert("decision_id".to_owned(), json!(verdict.decision_id));
    }
    let mut response = response(problem.status, "application/problem+json", Bytes::from(format!("{body}\n")));
    set(&mut response, CACHE_CONTROL, "no-store");
    response
}
