//! Envoy's `ext_authz` over gRPC: `Check` of `envoy.service.auth.v3`, and the health service of gRPC.
//!
//! Envoy states the request that it holds back, with the path as it will forward it. The decision is `gate::asked`'s. A
//! permitted request gets every identity header, and Envoy removes the headers that the gate's own forwarding would
//! remove.
//!
//! SECURITY: without `encode_raw_headers` Envoy joins the lines of a header and replaces bytes that are not UTF-8 by
//! `!`. Then a value with a comma counts as several lines, and a path with `!` is refused. The listener is on this
//! machine alone, so the caller is the operator's Envoy.

mod messages;

use std::net::IpAddr;

use bytes::{BufMut as _, Bytes, BytesMut};
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::types::Door;
use http::header::{CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prost::Message;

use self::messages::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderLine, HeaderValueOption, HealthCheckRequest,
    HealthCheckResponse, HttpRequest, HttpStatus, OkHttpResponse, Status, Struct, Value,
};
use crate::doors::authorize::read_body;
use crate::gate::{AskedRequest, Checked, Gate, Removal};
use crate::http::request::{StatedAddress, StatedLine, StatedRequest, check_head_size, scheme_of};
use crate::http::upstream::Body;

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const SERVICE: &str = "envoy.service.auth.v3.Authorization";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// The key of `context_extensions` that names the portal.
const PORTAL: &str = "portal";
/// `APPEND_IF_EXISTS_OR_ADD`.
const APPEND: i32 = 0;
/// `OVERWRITE_IF_EXISTS_OR_ADD`.
const OVERWRITE: i32 = 2;
/// Flag and length before a message.
const PREFIX_BYTES: usize = 5;
/// `SERVING` of the health service.
const SERVING: i32 = 1;

/// A status of gRPC, other than OK.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Failure {
    InvalidArgument = 3,
    NotFound = 5,
    ResourceExhausted = 8,
    Unimplemented = 12,
}

/// Answers one call; never fails.
pub async fn handle(gate: &Gate, request: Request<Incoming>) -> Response<Body> {
    match call(gate, request).await {
        Ok(message) => answer(&message),
        Err(failure) => failed(failure),
    }
}

async fn call(gate: &Gate, request: Request<Incoming>) -> Result<Bytes, Failure> {
    let (head, body) = request.into_parts();
    let kind = head
        .headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    if head.method != Method::POST || !kind.starts_with("application/grpc") {
        return Err(Failure::Unimplemented);
    }
    check_head_size(&head, &gate.config.limits).map_err(|_too_large| Failure::ResourceExhausted)?;
    match head.uri.path() {
        CHECK => {
            let message = read(gate, body).await?;
            let question = CheckRequest::decode(message).map_err(|_malformed| Failure::InvalidArgument)?;
            Ok(check(gate, question).await)
        }
        HEALTH => {
            let question = HealthCheckRequest::decode(read(gate, body).await?).map_err(|_malformed| Failure::InvalidArgument)?;
            match question.service.as_str() {
                "" | SERVICE => Ok(HealthCheckResponse { status: SERVING }.encode_to_vec().into()),
                _ => Err(Failure::NotFound),
            }
        }
        _ => Err(Failure::Unimplemented),
    }
}

/// The one message of a unary call.
async fn read(gate: &Gate, body: Incoming) -> Result<Bytes, Failure> {
    let mut bytes = read_body(gate, body).await.map_err(|_refused| Failure::ResourceExhausted)?;
    if bytes.len() < PREFIX_BYTES {
        return Err(Failure::InvalidArgument);
    }
    let message = bytes.split_off(PREFIX_BYTES);
    match *bytes {
        [0, a, b, c, d] if usize::try_from(u32::from_be_bytes([a, b, c, d])) == Ok(message.len()) => Ok(message),
        // the gate announces no compression
        [1, ..] => Err(Failure::Unimplemented),
        _ => Err(Failure::InvalidArgument),
    }
}

async fn check(gate: &Gate, question: CheckRequest) -> Bytes {
    let attributes = question.attributes.unwrap_or_default();
    let portal = attributes.context_extensions.get(PORTAL).cloned();
    let stated = stated(attributes);
    let ids = stated.as_ref().map(|stated| stated.parts.headers.clone()).unwrap_or_default();
    let asked = stated.map(|stated| AskedRequest {
        stated,
        removal: Removal::Named,
        portal,
        only: None,
    });
    let checked = gate.check(Door::ExtAuthz, &ids, asked).await;
    response(checked).await.encode_to_vec().into()
}

/// The request that Envoy states.
fn stated(attributes: AttributeContext) -> Result<StatedRequest, Refusal> {
    let source = attributes
        .source
        .and_then(|peer| peer.address)
        .and_then(|address| address.socket_address);
    let address: Option<IpAddr> = source.and_then(|source| source.address.parse().ok());
    let address = address.ok_or(invalid("`source` holds no address"))?;
    let http = attributes.request.and_then(|request| request.http);
    let http = http.ok_or(invalid("`request.http` is missing"))?;
    let headers = match http.header_map.is_some() {
        true => raw_headers(&http)?,
        false => joined_headers(&http)?,
    };
    let line = StatedLine {
        method: &http.method,
        target: &http.path,
        host: &http.host,
        scheme: scheme_of(&http.scheme).ok_or(invalid("`scheme` is neither http nor https"))?,
    };
    Ok(StatedRequest::new(headers, line.check()?, StatedAddress::Known(address)))
}

/// The lines of `header_map`. The path of the request line must be among them, byte for byte.
fn raw_headers(http: &HttpRequest) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::new();
    let mut has_path = false;
    let lines = http.header_map.iter().flat_map(|map| &map.headers);
    for line in lines {
        let value = if line.raw_value.is_empty() {
            line.value.as_bytes()
        } else {
            &line.raw_value
        };
        if line.key == ":path" {
            if value != http.path.as_bytes() {
                return Err(invalid("the path is not UTF-8"));
            }
            has_path = true;
        }
        append(&mut headers, &line.key, value)?;
    }
    // without its bytes the path of the request line may be one in which Envoy replaced some
    has_path.then_some(headers).ok_or(invalid("`header_map` holds no `:path`"))
}

/// The headers of the map. SECURITY: a comma may stand between two lines, so it separates two values, but not in
/// cookies, of which Envoy joins the lines as HTTP/1.1 does.
fn joined_headers(http: &HttpRequest) -> Result<HeaderMap, Refusal> {
    if http.path.contains('!') {
        return Err(invalid(
            "the path holds `!`, which Envoy writes for bytes that are not UTF-8; set `encode_raw_headers`",
        ));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &http.headers {
        match name.as_str() {
            "cookie" => append(&mut headers, name, value.as_bytes())?,
            _ => {
                for one in value.split(',') {
                    append(&mut headers, name, one.trim().as_bytes())?;
                }
            }
        }
    }
    Ok(headers)
}

fn append(headers: &mut HeaderMap, name: &str, value: &[u8]) -> Result<(), Refusal> {
    if name.starts_with(':') {
        return Ok(());
    }
    let malformed = || invalid("a header is malformed");
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_malformed| malformed())?;
    let value = HeaderValue::from_bytes(value).map_err(|_malformed| malformed())?;
    headers.append(name, value);
    Ok(())
}

async fn response(checked: Checked) -> CheckResponse {
    let dynamic_metadata = Some(metadata(&checked));
    match checked.verdict {
        Ok(forwardable) => {
            let set = forwardable.set.iter().map(|(name, value)| option(name, value));
            let remove = forwardable.remove.iter().filter(|name| !is_envoys(name));
            CheckResponse {
                status: Some(Status { code: 0 }),
                ok_response: Some(OkHttpResponse {
                    headers: set.collect(),
                    headers_to_remove: remove.map(|name| name.as_str().to_owned()).collect(),
                }),
                denied_response: None,
                dynamic_metadata,
            }
        }
        Err(refused) => {
            let (head, body) = refused.response.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let code = match head.status {
                StatusCode::UNAUTHORIZED | StatusCode::FOUND => 16,
                _ => 7,
            };
            CheckResponse {
                status: Some(Status { code }),
                denied_response: Some(DeniedHttpResponse {
                    status: Some(HttpStatus {
                        code: i32::from(head.status.as_u16()),
                    }),
                    headers: head.headers.iter().map(|(name, value)| option(name, value)).collect(),
                    body: String::from_utf8_lossy(&body).into_owned(),
                }),
                ok_response: None,
                dynamic_metadata,
            }
        }
    }
}

/// True for the headers that Envoy itself writes for the app.
fn is_envoys(name: &HeaderName) -> bool {
    let forwarded = [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-client-cert",
    ];
    forwarded.contains(&name.as_str()) || name.as_str().starts_with("x-envoy-")
}

fn option(name: &HeaderName, value: &HeaderValue) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderLine {
            key: name.as_str().to_owned(),
            // INVARIANT: the gate's own headers are visible ASCII; a cookie of the client may not be
            value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
            raw_value: Vec::new(),
        }),
        // an answer may set several cookies
        append_action: if *name == SET_COOKIE { APPEND } else { OVERWRITE },
        keep_empty_value: true,
    }
}

/// The decision, for Envoy's access log and further filters.
fn metadata(checked: &Checked) -> Struct {
    let policies = checked.policies.iter().map(|policy| Value::text(policy)).collect();
    let mut fields = std::collections::HashMap::new();
    fields.insert("decision_id".to_owned(), Value::text(&checked.decision_id.to_string()));
    fields.insert(
        "portal".to_owned(),
        Value::text(checked.portal.as_deref().unwrap_or_default()),
    );
    fields.insert(
        "revision".to_owned(),
        Value::text(checked.revision.as_deref().unwrap_or_default()),
    );
    fields.insert("policies".to_owned(), Value::list(policies));
    Struct { fields }
}

fn answer(message: &[u8]) -> Response<Body> {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut response = Response::new(Body::message(framed.freeze(), trailers));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn failed(failure: Failure) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(failure as u16));
    response
}

fn invalid(detail: &'static str) -> Refusal {
    Refusal::new(Denial::RequestInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::messages::HeaderLines;
    use super::*;

    #[test]
    fn raw_headers_count_only_with_the_bytes_of_the_path() {
        let read = |lines: &[(&str, &[u8])]| {
            let line = |(key, value): &(&str, &[u8])| HeaderLine {
                key: (*key).to_owned(),
                value: String::new(),
                raw_value: value.to_vec(),
            };
            let headers = lines.iter().map(line).collect();
            let http = HttpRequest {
                path: "/a!".to_owned(),
                header_map: Some(HeaderLines { headers }),
                ..HttpRequest::default()
            };
            raw_headers(&http)
                .map(|headers| headers.len())
                .map_err(|refusal| refusal.denial)
        };
        assert_eq!(read(&[(":path", b"/a!"), ("x-a", b"1"), ("x-a", b"2")]), Ok(2));
        assert_eq!(read(&[(":path", b"/a\xff"), ("x-a", b"1")]), Err(Denial::RequestInvalid));
        assert_eq!(read(&[("x-a", b"1")]), Err(Denial::RequestInvalid));
    }
}
