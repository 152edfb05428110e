//! A strict HTTP/1.1 client: one exchange on a fresh connection, and the checks that every answer must pass.
//!
//! Each response is checked for the status class, the error shape and a header allow-list. A refused request must not
//! have reached the app.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::wait::patience;

/// One response, as it came over the wire.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Headers that may appear on any response; one more is a leak until it is added here on purpose.
const HEADERS_ALLOWED: [&str; 17] = [
    "dpop-nonce",
    "content-type",
    "content-length",
    "transfer-encoding",
    "date",
    "connection",
    "cache-control",
    "x-content-type-options",
    "x-request-id",
    "x-cedargate-decision-id",
    "www-authenticate",
    "retry-after",
    "content-security-policy",
    // of pages
    "referrer-policy",
    "x-frame-options",
    "cross-origin-opener-policy",
    "x-app",
];

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {}", self.text()))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().unwrap()).unwrap_or_default()
    }

    /// The denial code of a refused request.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Asserts the rules that hold for every answer of the proxy.
    pub fn check(&self, method: &str, reached_app: usize) {
        for name in self.headers.keys() {
            assert!(HEADERS_ALLOWED.contains(&name.as_str()), "header `{name}` leaks: {self:?}");
        }
        let from_app = self.headers.contains_key("x-app");
        assert_eq!(
            reached_app,
            usize::from(from_app),
            "the app saw {reached_app} requests for {self:?}"
        );
        if !from_app && method != "HEAD" && self.status != 200 && self.header("content-type") == "application/problem+json" {
            let body = self.json();
            assert_eq!(body["status"], self.status, "{body}");
            for member in ["type", "title", "code", "decision_id"] {
                assert!(body[member].is_string(), "`{member}` is missing: {body}");
            }
            assert_eq!(self.status == 401, self.headers.contains_key("www-authenticate"), "{self:?}");
        }
    }
}

/// One HTTP/1.1 exchange over a fresh connection.
pub fn raw(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("host")) {
        head.push_str("host: shop.test\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    exchange(address, &bytes).unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

/// Sends raw bytes and reads one response; `None` if the connection closes without one.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    // the gate may close before it has read everything
    drop(stream.write_all(bytes));
    let mut received = Vec::new();
    drop(stream.read_to_end(&mut received));
    parse(&received)
}

/// The first final response in what was received.
pub fn parse(received: &[u8]) -> Option<Answer> {
    let split = received.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&received[..split]).unwrap();
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    if status == 100 {
        return parse(&received[split + 4..]);
    }
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        headers.append(http::HeaderName::try_from(name).unwrap(), value.trim().parse().unwrap());
    }
    let rest = &received[split + 4..];
    let body = if headers.get("transfer-encoding").is_some() {
        dechunk(rest)
    } else {
        rest.to_vec()
    };
    assert!(StatusCode::from_u16(status).is_ok());
    Some(Answer {
        status,
        headers,
        body: body.into(),
    })
}

fn dechunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap().trim(), 16).unwrap();
        if size == 0 || rest.len() < end + 2 + size {
            break;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[(end + 2 + size + 2).min(rest.len())..];
    }
    body
}
