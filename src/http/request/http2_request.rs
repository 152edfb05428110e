//! Turns an HTTP/2 request into HTTP/1.1's terms, so that every later step sees one kind of request.
//!
//! `:authority` becomes `Host`, split cookies are joined, and an extended CONNECT (RFC 8441: an upgrade) becomes the
//! GET with `Upgrade` that it stands for. Requests that the HTTP library accepts although RFC 9113 forbids them are
//! refused.

use cedargate_policy::denial::{Denial, Refusal};
use http::header::{CONNECTION, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use hyper::ext::Protocol;

use super::invalid;
use crate::config::Limits;
use crate::http::target::escaped;

/// Bytes that one field counts beside its name and value (RFC 9113, section 6.5.2).
const FIELD_BYTES: usize = 32;
/// The same in HTTP/1.1: a colon, a space and a line end.
const LINE_BYTES: usize = 4;
/// Headers of a connection, malformed in HTTP/2 (RFC 9113, section 8.2.2).
const CONNECTION_SPECIFIC: [&str; 3] = ["keep-alive", "proxy-connection", "http2-settings"];

/// Checks the size of a request's head.
///
/// The library's own limits are higher, because its refusals have neither a record nor a body that says which limit it
/// is.
pub fn check_head_size(parts: &Parts, limits: &Limits) -> Result<(), Refusal> {
    if parts.headers.len() > limits.header_count.as_usize() {
        return Err(Refusal::over_limit(Denial::HeadersTooLarge, "limits.header_count"));
    }
    let field = match parts.version {
        Version::HTTP_2 => FIELD_BYTES,
        _ => LINE_BYTES,
    };
    let fields = parts.headers.iter();
    let fields: usize = fields.map(|(name, value)| name.as_str().len() + value.len() + field).sum();
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if fields.saturating_add(target) > limits.header_bytes.as_usize() {
        return Err(Refusal::over_limit(Denial::HeadersTooLarge, "limits.header_bytes"));
    }
    Ok(())
}

/// Leaves an HTTP/1 request as it is. An upgrade keeps its `Protocol` in the extensions.
pub fn as_http1(parts: &mut Parts) -> Result<(), Refusal> {
    if parts.version != Version::HTTP_2 {
        // SECURITY: only an HTTP/2 request can carry `:protocol`
        parts.extensions.remove::<Protocol>();
        return Ok(());
    }
    check_fields(&parts.headers)?;
    extended_connect(parts)?;
    if parts.uri.scheme().is_none() && parts.uri.authority().is_some() {
        return Err(invalid("no `:scheme`"));
    }
    one_authority(parts)?;
    escape_target(parts)?;
    join_cookies(&mut parts.headers);
    Ok(())
}

fn check_fields(headers: &HeaderMap) -> Result<(), Refusal> {
    let specific = [CONNECTION, TRANSFER_ENCODING, UPGRADE];
    if specific.iter().any(|name| headers.contains_key(name))
        || CONNECTION_SPECIFIC.iter().any(|name| headers.contains_key(*name))
    {
        return Err(invalid("a connection-specific header in HTTP/2"));
    }
    if headers.get_all(TE).iter().any(|te| te.as_bytes() != b"trailers") {
        return Err(invalid("`te` other than `trailers` in HTTP/2"));
    }
    // HTTP/1.1 would trim the value on the way to the app, after policies had read it untrimmed
    if headers
        .values()
        .any(|value| value.as_bytes().trim_ascii() != value.as_bytes())
    {
        return Err(invalid("a header's value has spaces around it"));
    }
    Ok(())
}

/// CONNECT with `:protocol` opens the same as `GET` with `Upgrade`, so the gate decides on it as a GET.
fn extended_connect(parts: &mut Parts) -> Result<(), Refusal> {
    if parts.method != Method::CONNECT {
        return match parts.extensions.get::<Protocol>() {
            Some(_) => Err(invalid("`:protocol` without CONNECT")),
            None => Ok(()),
        };
    }
    let Some(protocol) = parts.extensions.get::<Protocol>() else {
        return Err(invalid("this method is never forwarded"));
    };
    if !is_token(protocol.as_ref()) {
        return Err(invalid("`:protocol` is not a valid protocol name"));
    }
    parts.method = Method::GET;
    Ok(())
}

/// True for a token (RFC 9110, section 5.6.2) of the characters that registered protocols have: it becomes the value of
/// `Upgrade`.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'+' | b'/'))
}

/// Writes the escapes that the guard writes into the target of an HTTP/1 request.
fn escape_target(parts: &mut Parts) -> Result<(), Refusal> {
    let Some(target) = parts.uri.path_and_query() else {
        return Ok(());
    };
    let Some(escaped) = escaped(target.as_str().as_bytes()) else {
        return Ok(());
    };
    let malformed = || invalid("`:path` is malformed");
    let mut uri = parts.uri.clone().into_parts();
    uri.path_and_query = Some(PathAndQuery::try_from(escaped).map_err(|_not_a_path| malformed())?);
    parts.uri = Uri::from_parts(uri).map_err(|_not_a_uri| malformed())?;
    Ok(())
}

/// Makes an `:authority` without `Host` the `Host`. If both are there, `check` compares them.
fn one_authority(parts: &mut Parts) -> Result<(), Refusal> {
    let Some(named) = parts.uri.authority().filter(|_| !parts.headers.contains_key(HOST)) else {
        return Ok(());
    };
    let host = HeaderValue::from_str(named.as_str()).map_err(|_not_a_value| invalid("`:authority` is malformed"))?;
    parts.headers.insert(HOST, host);
    Ok(())
}

/// Joins cookie lines into one, with `; ` between the pairs (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    if lines.next().is_none() || lines.next().is_none() {
        return;
    }
    let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // INVARIANT: header values joined with allowed bytes are a header value
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(b"; ".as_slice())) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::check;

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut builder = http::Request::builder().method(method).uri(uri).version(Version::HTTP_2);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn an_http_2_request_gets_the_host_and_cookie_headers_of_http_1() {
        let mut request = parts(
            "GET",
            "https://Shop.test:8443/x?q=1",
            &[("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2; c=3"), ("te", "trailers")],
        );
        as_http1(&mut request).unwrap();
        assert_eq!(request.headers["host"], "Shop.test:8443");
        let cookies: Vec<_> = request.headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3"]);
        let target = check(&request).unwrap();
        assert_eq!(
            (target.host.as_str(), target.port, target.path),
            ("shop.test", Some(8443), "/x")
        );
    }

    #[test]
    fn a_target_gets_the_escapes_that_its_client_left_out() {
        let mut request = parts("GET", "https://a.test/x{1}?q={}|^`", &[]);
        as_http1(&mut request).unwrap();
        assert_eq!(request.uri, "https://a.test/x%7B1%7D?q=%7B%7D%7C%5E%60");
        let target = check(&request).unwrap();
        assert_eq!((target.path, target.query), ("/x%7B1%7D", Some("q=%7B%7D%7C%5E%60")));
    }

    #[test]
    fn an_authority_and_a_host_must_be_equal() {
        for (uri, host, fine) in [
            ("http://a.test/", "A.test.", true),
            ("http://a.test/", "a.test:80", true),
            ("http://a.test/", "b.test", false),
            ("http://a.test/", "a.test:81", false),
            ("http://u@a.test/", "a.test", false),
            ("/", "a.test", true),
            ("/", "u@a.test", false),
        ] {
            let mut request = parts("GET", uri, &[("host", host)]);
            let outcome = as_http1(&mut request).and_then(|()| check(&request).map(drop));
            assert_eq!(outcome.is_ok(), fine, "{uri} {host}");
        }
        for (uri, headers) in [
            ("/", &[][..]),
            ("http://u@a.test/", &[]),
            ("ftp://a.test/", &[]),
            ("http://a.test/", &[("host", "a.test"), ("host", "a.test")]),
        ] {
            let mut request = parts("GET", uri, headers);
            let outcome = as_http1(&mut request).and_then(|()| check(&request).map(drop));
            assert!(outcome.is_err(), "{uri} {headers:?}");
        }
    }

    #[test]
    fn headers_that_http_2_forbids_are_refused() {
        for (name, value) in [
            ("connection", "close"),
            ("upgrade", "websocket"),
            ("keep-alive", "1"),
            ("proxy-connection", "x"),
            ("http2-settings", "x"),
            ("te", "gzip"),
            ("te", "trailers, gzip"),
            ("x-a", " b"),
            ("x-a", "b\t"),
            ("x-a", " "),
        ] {
            let mut request = parts("GET", "http://a.test/", &[(name, value)]);
            assert!(as_http1(&mut request).is_err(), "{name}: {value}");
        }
    }

    #[test]
    fn a_head_is_measured_as_its_version_writes_it() {
        let limits = |bytes: u64, count: u32| -> Limits {
            serde_json::from_value(serde_json::json!({"header_bytes": bytes, "header_count": count})).unwrap()
        };
        let limit = |parts: &Parts, limits: &Limits| check_head_size(parts, limits).err().and_then(|refusal| refusal.limit);
        let value = "v".repeat(497);
        let headers: Vec<(&str, &str)> = (0..20).map(|_| ("x-a", value.as_str())).collect();
        let http2 = parts("GET", "http://a.test/", &headers);
        assert_eq!(limit(&http2, &limits(20 * 532 + 1, 20)), None);
        assert_eq!(limit(&http2, &limits(20 * 532, 20)), Some("limits.header_bytes"));
        assert_eq!(limit(&http2, &limits(20 * 532, 19)), Some("limits.header_count"));
        let mut http1 = parts("GET", "/", &headers);
        http1.version = Version::HTTP_11;
        assert_eq!(limit(&http1, &limits(20 * 504 + 1, 20)), None);
        assert_eq!(limit(&http1, &limits(20 * 504, 20)), Some("limits.header_bytes"));
    }

    #[test]
    fn a_connect_is_an_upgrade_or_is_refused() {
        let mut plain = parts("CONNECT", "a.test:80", &[]);
        assert!(as_http1(&mut plain).is_err());
        let mut upgrade = parts("CONNECT", "https://a.test/chat", &[]);
        upgrade.extensions.insert(Protocol::from_static("websocket"));
        as_http1(&mut upgrade).unwrap();
        assert_eq!((upgrade.method.as_str(), check(&upgrade).unwrap().path), ("GET", "/chat"));
        for broken in ["", "web socket", "web\r\nsocket", "a, b", "é"] {
            let mut upgrade = parts("CONNECT", "https://a.test/chat", &[]);
            upgrade.extensions.insert(Protocol::from_static(broken));
            assert!(as_http1(&mut upgrade).is_err(), "{broken:?}");
        }
        let mut odd = parts("GET", "https://a.test/chat", &[]);
        odd.extensions.insert(Protocol::from_static("websocket"));
        assert!(as_http1(&mut odd).is_err());
    }
}
