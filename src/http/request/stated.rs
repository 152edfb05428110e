//! The request that a proxy holds back and asks about: its method, host and target, as the proxy states them.
//!
//! The proxy goes on with the client's own target, and the gate cannot rewrite it. So a target counts only if it is
//! stated byte for byte, once, and by a proxy that the gate believes. SECURITY: every fact comes from one place. A
//! second header that states it too could be the client's.

use std::net::IpAddr;

use cedargate_policy::denial::Refusal;
use cedargate_policy::types::Scheme;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use ipnet::IpNet;

use super::forwarded::{forwarded_address, scheme_named};
use super::{ClientFacts, NamedBy, Target, invalid, single_value};

static ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
static ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");
static FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
static FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The client's request as a proxy states it.
#[derive(Debug)]
pub struct StatedRequest {
    /// Method, target, `Host` and the client's headers.
    pub parts: Box<Parts>,
    pub scheme: Scheme,
    pub address: StatedAddress,
}

/// The source of the client's address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StatedAddress {
    /// The rightmost untrusted address of `X-Forwarded-For`, which the proxy must send.
    ForwardedFor,
    /// The proxy's own statement.
    Known(IpAddr),
}

/// The request line and the host of a stated request.
#[derive(Debug)]
pub struct StatedLine<'a> {
    pub method: &'a str,
    /// Path and query, as the client sent them.
    pub target: &'a str,
    pub host: &'a str,
    pub scheme: Scheme,
}

impl StatedRequest {
    /// Reads `X-Original-Method` and `X-Original-URL` (a full URL), and takes both out: every other `X-Original-*` is
    /// the client's.
    pub fn from_original(mut headers: HeaderMap) -> Result<Self, Refusal> {
        let method = single_value(&headers, &ORIGINAL_METHOD).ok_or(invalid("no single `X-Original-Method`"))?;
        let url = single_value(&headers, &ORIGINAL_URL).ok_or(invalid("no single `X-Original-URL`"))?;
        let malformed = || invalid("`X-Original-URL` is not a full URL: scheme, host and path");
        let (scheme, rest) = url.split_once("://").ok_or_else(malformed)?;
        let (host, _) = rest.split_once('/').ok_or_else(malformed)?;
        let line = StatedLine {
            method,
            target: rest.get(host.len()..).ok_or_else(malformed)?,
            host,
            scheme: scheme_of(scheme).ok_or_else(malformed)?,
        };
        let line = line.check()?;
        headers.remove(&ORIGINAL_METHOD);
        headers.remove(&ORIGINAL_URL);
        Ok(Self::new(headers, line, StatedAddress::ForwardedFor))
    }

    /// Reads `X-Forwarded-Method`, `-Uri`, `-Host` and `-Proto`.
    pub fn from_forwarded(headers: HeaderMap) -> Result<Self, Refusal> {
        let line = StatedLine {
            method: single_value(&headers, &FORWARDED_METHOD).ok_or(invalid("no single `X-Forwarded-Method`"))?,
            target: single_value(&headers, &FORWARDED_URI).ok_or(invalid("no single `X-Forwarded-Uri`"))?,
            host: single_value(&headers, &FORWARDED_HOST).ok_or(invalid("no single `X-Forwarded-Host`"))?,
            scheme: forwarded_scheme(&headers)?,
        };
        let line = line.check()?;
        Ok(Self::new(headers, line, StatedAddress::ForwardedFor))
    }

    /// Reads a request that is the client's own, but for the prefix of its path.
    pub fn below(prefix: &str, parts: &mut Parts) -> Result<Self, Refusal> {
        let written = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
        let target = written.strip_prefix(prefix).ok_or(invalid("the path lacks its prefix"))?;
        let line = StatedLine {
            method: parts.method.as_str(),
            target,
            host: single_value(&parts.headers, HOST).ok_or(invalid("no single `Host`"))?,
            scheme: forwarded_scheme(&parts.headers)?,
        };
        let line = line.check()?;
        Ok(Self::new(
            std::mem::take(&mut parts.headers),
            line,
            StatedAddress::ForwardedFor,
        ))
    }

    /// A request of these headers; `line` is checked.
    pub fn new(mut headers: HeaderMap, line: CheckedLine, address: StatedAddress) -> Self {
        let CheckedLine {
            method,
            uri,
            host,
            scheme,
        } = line;
        headers.insert(HOST, host);
        // these frame the proxy's question, not the client's request
        for name in [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT] {
            headers.remove(name);
        }
        // SECURITY: proxies take `Upgrade` out of their question; a WebSocket from a foreign page must not pass as a
        // plain GET
        if headers.contains_key(SEC_WEBSOCKET_KEY) && !headers.contains_key(UPGRADE) {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = method;
        parts.uri = uri;
        parts.headers = headers;
        Self {
            parts: Box::new(parts),
            scheme,
            address,
        }
    }
}

/// A request line whose parts have their types.
#[derive(Debug)]
pub struct CheckedLine {
    method: Method,
    uri: Uri,
    host: HeaderValue,
    scheme: Scheme,
}

impl StatedLine<'_> {
    /// Parses the parts. The target must survive unchanged: a reader that drops a fragment would decide on another one.
    pub fn check(&self) -> Result<CheckedLine, Refusal> {
        let target = PathAndQuery::try_from(self.target).map_err(|_malformed| invalid("the stated target is malformed"))?;
        if target.as_str() != self.target || !self.target.starts_with('/') {
            return Err(invalid("the stated target is not a path with a query"));
        }
        Ok(CheckedLine {
            method: Method::try_from(self.method).map_err(|_malformed| invalid("the stated method is malformed"))?,
            uri: Uri::from(target),
            host: HeaderValue::try_from(self.host).map_err(|_malformed| invalid("the stated host is malformed"))?,
            scheme: self.scheme,
        })
    }
}

/// The client of a stated request. `trusted` are the proxies whose items of `X-Forwarded-For` are passed over.
pub fn stated_client(
    headers: &HeaderMap,
    scheme: Scheme,
    address: StatedAddress,
    target: Target<'_>,
    trusted: &[IpNet],
) -> Result<ClientFacts, Refusal> {
    let source_ip = match address {
        StatedAddress::Known(address) => address.to_canonical(),
        // SECURITY: without it the client would have the address of the proxy, and the rights of that address
        StatedAddress::ForwardedFor => forwarded_address(headers, trusted)?.ok_or(invalid("no `X-Forwarded-For`"))?,
    };
    Ok(ClientFacts {
        source_ip,
        scheme,
        host: target.host,
        port: target.port.unwrap_or_else(|| scheme.default_port()),
        named_by: NamedBy::Proxy,
    })
}

fn forwarded_scheme(headers: &HeaderMap) -> Result<Scheme, Refusal> {
    single_value(headers, &FORWARDED_PROTO)
        .and_then(scheme_of)
        .ok_or(invalid("no single `X-Forwarded-Proto` of http or https"))
}

/// The scheme by its name; Traefik calls that of a WebSocket `ws` or `wss`.
pub fn scheme_of(name: &str) -> Option<Scheme> {
    match name {
        "ws" => Some(Scheme::Http),
        "wss" => Some(Scheme::Https),
        name => scheme_named(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn an_original_url_states_scheme_host_and_target_byte_for_byte() {
        for (url, host, target) in [
            ("https://shop.test/a?b=c", "shop.test", "/a?b=c"),
            ("https://shop.test:8443/", "shop.test:8443", "/"),
            ("https://[::1]:80/x//y/../%2e?q=/", "[::1]:80", "/x//y/../%2e?q=/"),
        ] {
            let lines = [("x-original-method", "GET"), ("x-original-url", url)];
            let stated = StatedRequest::from_original(headers(&lines)).unwrap();
            assert_eq!(stated.parts.headers[HOST], host);
            assert_eq!(stated.parts.uri.to_string(), target);
            assert_eq!(stated.scheme, Scheme::Https);
        }
        for url in [
            "/a",
            "//shop.test/a",
            "shop.test/a",
            "https://shop.test",
            "https://shop.test?q",
            "https://shop.test/a#b",
            "https://shop.test/a b",
            "ftp://shop.test/",
            "",
        ] {
            let lines = [("x-original-method", "GET"), ("x-original-url", url)];
            assert!(StatedRequest::from_original(headers(&lines)).is_err(), "{url}");
        }
        let twice = [
            ("x-original-method", "GET"),
            ("x-original-url", "https://a.test/"),
            ("x-original-url", "https://a.test/"),
        ];
        assert!(StatedRequest::from_original(headers(&twice)).is_err());
    }

    #[test]
    fn a_websocket_is_seen_without_its_upgrade_header() {
        let lines = [
            ("x-forwarded-method", "GET"),
            ("x-forwarded-uri", "/feed"),
            ("x-forwarded-host", "shop.test"),
            ("x-forwarded-proto", "wss"),
            ("sec-websocket-key", "x"),
            ("content-length", "3"),
        ];
        let stated = StatedRequest::from_forwarded(headers(&lines)).unwrap();
        assert!(stated.parts.headers.contains_key(UPGRADE));
        assert!(!stated.parts.headers.contains_key(CONTENT_LENGTH));
        assert_eq!(stated.scheme, Scheme::Https);
        for missing in 0..4 {
            let mut lines = lines.to_vec();
            lines.remove(missing);
            assert!(StatedRequest::from_forwarded(headers(&lines)).is_err(), "{missing}");
        }
    }
}
