//! The facts that a request states about itself, after every ambiguous request was refused.
//!
//! First step of the path. hyper has already refused requests that no HTTP parser accepts; `check` refuses requests
//! that two parsers could read differently (docs/threat-model.md lists the cases), so that the request decided on is
//! the one forwarded. The client's address and scheme come from the connection, and from headers only if the peer is a
//! trusted proxy. Nothing here decides which caller sends the request.

mod asked_url;
mod forwarded;
mod http2_request;
mod origin;
mod stated;
mod trace;

use std::cell::LazyCell;
use std::net::{IpAddr, Ipv6Addr};

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::types::Scheme;
use http::header::{AsHeaderName, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use uuid::{Builder, Uuid};

pub use asked_url::AskedUrl;
pub use forwarded::{client_facts, is_trusted};
pub use http2_request::{as_http1, check_head_size};
pub use origin::{is_from_browser, is_upgrade, needs_evidence, same_origin};
pub use stated::{StatedAddress, StatedLine, StatedRequest, scheme_of, stated_client};
pub use trace::{Sampling, TRACEPARENT, TRACESTATE, Trace};

/// Longest method name, in bytes.
const METHOD_BYTES_MAX: usize = 32;
/// Longest host name, in bytes (RFC 1035).
const HOST_BYTES_MAX: usize = 253;
/// Longest request id taken from a client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The target of an unambiguous request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target<'a> {
    /// Lower case, no port, no trailing dot; an IPv6 address is in brackets.
    pub host: String,
    pub port: Option<u16>,
    /// As sent; always starts with `/`.
    pub path: &'a str,
    pub query: Option<&'a str>,
}

/// The client of a request, as far as it is known without its credential.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ClientFacts {
    /// The rightmost untrusted address; IPv4-mapped IPv6 addresses are IPv4.
    pub source_ip: IpAddr,
    pub scheme: Scheme,
    /// The host the client asked for, as `Target::host`.
    pub host: String,
    pub port: u16,
    pub named_by: NamedBy,
}

/// The source of a request's host.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum NamedBy {
    /// The `Host` header.
    Host,
    /// A header of a trusted proxy.
    Proxy,
}

/// A host with an optional port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Authority {
    /// Lower case, no trailing dot; an IPv6 address is in brackets.
    pub host: String,
    pub port: Option<u16>,
}

/// The identifiers under which a request is found in logs and traces.
#[derive(Clone, Debug)]
pub struct Correlation {
    pub request_id: HeaderValue,
    pub trace: Trace,
}

/// Refuses every request that could be read in two ways.
pub fn check(parts: &Parts) -> Result<Target<'_>, Refusal> {
    check_method(&parts.method)?;
    check_framing(&parts.headers)?;
    check_expect(&parts.headers)?;
    let host = one_host(&parts.headers)?;
    check_uri(&parts.uri, &host)?;
    let path = parts.uri.path();
    // for the library a target of `?q` has the path `/`; other parsers find no path in it
    let written = parts.uri.path_and_query().map_or(path, |both| both.as_str());
    if !path.starts_with('/') || !written.starts_with('/') {
        return Err(invalid("the path does not start with `/`"));
    }
    Ok(Target {
        host: host.host,
        port: host.port,
        path,
        query: parts.uri.query(),
    })
}

/// The caller may read the detail: it speaks of the request alone, and holds nothing of it.
fn invalid(detail: &'static str) -> Refusal {
    Refusal::new(Denial::RequestInvalid, detail).with_public_detail()
}

fn check_method(method: &Method) -> Result<(), Refusal> {
    if *method == Method::CONNECT || *method == Method::TRACE {
        return Err(invalid("this method is never forwarded"));
    }
    let name = method.as_str();
    if name.len() > METHOD_BYTES_MAX {
        return Err(invalid("the method is longer than 32 bytes"));
    }
    let sane = name.starts_with(|c: char| c.is_ascii_uppercase()) && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    if sane {
        Ok(())
    } else {
        Err(invalid("the method is not an upper-case token"))
    }
}

fn check_framing(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(invalid("`transfer-encoding` is not exactly `chunked`"));
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        if lengths.next().is_some() || !is_canonical_number(length.as_bytes()) {
            return Err(invalid("`content-length` is not one plain number"));
        }
        if headers.contains_key(TRANSFER_ENCODING) {
            return Err(invalid("both `content-length` and `transfer-encoding`"));
        }
    }
    Ok(())
}

fn is_canonical_number(text: &[u8]) -> bool {
    match text {
        [] => false,
        [b'0'] => true,
        [b'0', ..] => false,
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}

fn check_expect(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut values = headers.get_all(EXPECT).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(()),
        _ => Err(invalid("`expect` is not `100-continue`")),
    }
}

fn one_host(headers: &HeaderMap) -> Result<Authority, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host
            .to_str()
            .ok()
            .and_then(authority)
            .ok_or_else(|| invalid("`host` is not a host name of at most 253 bytes or an address")),
        (None, _) => Err(invalid("no `host`")),
        (Some(_), Some(_)) => Err(invalid("more than one `host`")),
    }
}

/// A target in absolute form must name the same host as `Host`. Authority form and `*` belong to methods that the gate
/// does not forward.
fn check_uri(uri: &Uri, host: &Authority) -> Result<(), Refusal> {
    let (scheme, named) = match (uri.scheme_str(), uri.authority()) {
        (None, None) => return Ok(()),
        (Some(scheme), Some(named)) => (scheme, named),
        _ => return Err(invalid("the target is neither a path nor a full URL")),
    };
    let default = match scheme {
        "http" => Scheme::Http.default_port(),
        "https" => Scheme::Https.default_port(),
        _ => return Err(invalid("the target's scheme is not http or https")),
    };
    let named = authority(named.as_str()).ok_or_else(|| invalid("the target's authority is malformed"))?;
    if named.host != host.host || named.port.unwrap_or(default) != host.port.unwrap_or(default) {
        return Err(invalid("the target and `host` name different hosts"));
    }
    Ok(())
}

/// Parses `host[:port]`. `None` if it has userinfo or is malformed.
pub fn authority(text: &str) -> Option<Authority> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, rest) = bracketed.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let port = match rest.strip_prefix(':') {
            Some(digits) => Some(parse_port(digits)?),
            None if rest.is_empty() => None,
            None => return None,
        };
        let host = format!("[{address}]");
        return Some(Authority { host, port });
    }
    let (host, port) = match text.split_once(':') {
        Some((host, digits)) => (host, Some(parse_port(digits)?)),
        None => (text, None),
    };
    let host = dns_name(host)?;
    Some(Authority { host, port })
}

fn parse_port(digits: &str) -> Option<u16> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten().filter(|port| *port != 0)
}

fn dns_name(host: &str) -> Option<String> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut before = b'.';
    let is_sane = host.bytes().all(|byte| {
        let follows = std::mem::replace(&mut before, byte);
        byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || (byte == b'.' && follows != b'.')
    });
    // the last label is not empty either
    (is_sane && before != b'.' && host.len() <= HOST_BYTES_MAX).then(|| host.to_ascii_lowercase())
}

/// Returns the value of a header that occurs exactly once and is text.
fn single_value(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(one), None) => one.to_str().ok(),
        _ => None,
    }
}

/// A new UUIDv7 of this time, in Unix milliseconds. Unlike `Uuid::now_v7` it reads no clock and takes no lock; the ids
/// of one millisecond are in no order.
pub fn new_id(now_millis: i64) -> Uuid {
    // the bytes between these hold the version and the variant
    let [a, b, c, d, e, f, _, _, _, g, h, i, j, ..] = Uuid::new_v4().into_bytes();
    let millis = u64::try_from(now_millis).unwrap_or_default();
    Builder::from_unix_timestamp_millis(millis, &[a, b, c, d, e, f, g, h, i, j]).into_uuid()
}

/// Returns the request's id and its position in a trace. If the client sent neither, both are one new UUIDv7 of the
/// decision's time.
pub fn correlation(headers: &HeaderMap, decision_id: Uuid) -> Correlation {
    let fresh = LazyCell::new(|| {
        let (time_and_version, _) = decision_id.as_u64_pair();
        new_id(i64::try_from(time_and_version >> 16).unwrap_or_default())
    });
    Correlation {
        request_id: request_id(headers, &fresh),
        trace: Trace::from_headers(headers, decision_id, &fresh),
    }
}

/// The client's `X-Request-ID` if it is one well-formed value.
fn request_id(headers: &HeaderMap, fresh: &LazyCell<Uuid, impl FnOnce() -> Uuid>) -> HeaderValue {
    let well_formed = |id: &&HeaderValue| {
        let id = id.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
            && id
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    let mut ids = headers.get_all(&X_REQUEST_ID).iter();
    match (ids.next().filter(well_formed), ids.next()) {
        (Some(id), None) => id.clone(),
        _ => uuid_value(**fresh),
    }
}

/// A UUID as a header value, without allocating a string.
pub fn uuid_value(id: Uuid) -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    let text: &str = id.hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut builder = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn ambiguous_requests_are_refused() {
        let h = ("host", "a.test");
        for (method, uri, headers) in [
            ("GET", "/", vec![]),
            ("GET", "/", vec![h, h]),
            ("GET", "/", vec![("host", "a b")]),
            ("GET", "/", vec![("host", "u@a.test")]),
            ("GET", "/", vec![("host", "a.test:0")]),
            ("GET", "/", vec![("host", "a.test:99999")]),
            ("GET", "/", vec![("host", "a..test")]),
            ("GET", "/", vec![("host", "")]),
            ("GET", "/", vec![("host", "[::1")]),
            ("GET", "/", vec![("host", "[::1]x")]),
            ("GET", "http://b.test/", vec![h]),
            ("GET", "http://a.test:81/", vec![h]),
            ("GET", "http://u@a.test/", vec![h]),
            ("GET", "ftp://a.test/", vec![h]),
            ("GET", "a.test:80", vec![h]),
            ("OPTIONS", "*", vec![h]),
            ("CONNECT", "a.test:80", vec![h]),
            ("GET", "http://a.test?q", vec![h]),
            ("TRACE", "/", vec![h]),
            ("get", "/", vec![h]),
            ("G3T", "/", vec![h]),
            ("POST", "/", vec![h, ("transfer-encoding", "gzip, chunked")]),
            ("POST", "/", vec![h, ("transfer-encoding", ",chunked")]),
            (
                "POST",
                "/",
                vec![h, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            ),
            ("POST", "/", vec![h, ("content-length", "03")]),
            ("POST", "/", vec![h, ("content-length", "+3")]),
            ("POST", "/", vec![h, ("content-length", "3"), ("content-length", "3")]),
            (
                "POST",
                "/",
                vec![h, ("content-length", "3"), ("transfer-encoding", "chunked")],
            ),
            ("POST", "/", vec![h, ("expect", "more")]),
        ] {
            let parts = parts(method, uri, &headers);
            let refusal = check(&parts).expect_err(&format!("{method} {uri} {headers:?}"));
            assert_eq!(refusal.denial, Denial::RequestInvalid);
        }
    }

    #[test]
    fn a_plain_request_has_one_target() {
        for (uri, host, expected, port) in [
            ("/x?q=1", "A.Test.:8080", "a.test", Some(8080)),
            ("http://a.test/x?q=1", "a.test:80", "a.test", Some(80)),
            ("https://A.test:443/x?q=1", "a.test", "a.test", None),
            ("/x?q=1", "[2001:DB8::1]:80", "[2001:db8::1]", Some(80)),
            ("/x?q=1", "127.0.0.1", "127.0.0.1", None),
        ] {
            let parts = parts(
                "PROPFIND",
                uri,
                &[("host", host), ("transfer-encoding", "Chunked"), ("expect", "100-Continue")],
            );
            let target = check(&parts).unwrap();
            assert_eq!((target.host.as_str(), target.port), (expected, port));
            assert_eq!((target.path, target.query), ("/x", Some("q=1")));
        }
    }

    #[test]
    fn request_ids_are_kept_if_well_formed_and_made_otherwise() {
        let id = |values: &[&str]| {
            let headers: Vec<_> = values.iter().map(|v| ("x-request-id", *v)).collect();
            correlation(&parts("GET", "/", &headers).headers, Uuid::now_v7()).request_id
        };
        assert_eq!(id(&["a.B_c-1"]), "a.B_c-1");
        let long = "x".repeat(129);
        for bad in [&[][..], &[""], &["a b"], &["a", "b"], &[long.as_str()]] {
            assert_eq!(id(bad).len(), 36, "{bad:?}");
        }
    }

    #[test]
    fn an_id_names_its_time_and_differs_from_every_other() {
        let ids = [new_id(1_700_000_000_123), new_id(1_700_000_000_123)];
        assert_ne!(ids[0], ids[1]);
        for id in ids {
            let time = id.get_timestamp().unwrap().to_unix();
            assert_eq!((id.get_version_num(), time), (7, (1_700_000_000, 123_000_000)));
        }
        let made = correlation(&HeaderMap::new(), ids[0]);
        let made_id = Uuid::parse_str(made.request_id.to_str().unwrap()).unwrap();
        assert_eq!(
            (made_id.get_timestamp().unwrap().to_unix(), made_id.into_bytes()),
            (ids[0].get_timestamp().unwrap().to_unix(), made.trace.trace_id)
        );
        assert_eq!(new_id(-1).get_timestamp().unwrap().to_unix(), (0, 0));
    }

    #[test]
    fn only_a_strict_traceparent_continues_a_trace() {
        let trace = |value: &str| {
            correlation(
                &parts("GET", "/", &[("traceparent", value), ("tracestate", "a=b")]).headers,
                Uuid::now_v7(),
            )
            .trace
        };
        let id = "0af7651916cd43dd8448eb211c80319c";
        let good = trace(&format!("00-{id}-b7ad6b7169203331-01"));
        assert_eq!(
            (hex::encode(good.trace_id).as_str(), good.flags, good.state.len()),
            (id, 1, 1)
        );
        let span = hex::encode(good.span_id);
        assert_eq!(good.traceparent(), format!("00-{id}-{span}-01"));
        assert_ne!(hex::encode(good.span_id), "b7ad6b7169203331");
        for bad in [
            format!("01-{id}-b7ad6b7169203331-01"),
            format!("00-{id}-b7ad6b7169203331-01-x"),
            format!("00-{}-b7ad6b7169203331-01", id.to_uppercase()),
            format!("00-{id}-0000000000000000-01"),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            "nonsense".to_owned(),
        ] {
            let fresh = trace(&bad);
            assert_ne!(hex::encode(fresh.trace_id), id, "{bad}");
            assert!(fresh.state.is_empty());
        }
    }
}
