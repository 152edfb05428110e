//! Upgrades: detects the requests that ask for one, writes the app's request, and checks the app's answer.
//!
//! SECURITY: a request that asks for an upgrade must have no body. The gate writes the upgrade headers of the app's
//! request itself and never copies the client's `Connection`. A tunnel begins only after the app's own 101 that names
//! the same protocol.
//!
//! An extended CONNECT (RFC 8441) goes to the app as the HTTP/1.1 upgrade that it stands for. The client treats any 2xx
//! as success, so an app that answers it with a 2xx other than the matching 101 gets a 502 for the client. An app that
//! refuses (3xx, 4xx, 5xx) answers the client as an ordinary request.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::response::Parts as ResponseParts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use super::UpstreamError;
use super::headers::tokens;

const WEBSOCKET: &str = "websocket";
/// RFC 6455, 4.2.2.
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const WEBSOCKET_KEY_BYTES: usize = 16;

/// An upgrade that the client asked for.
#[derive(Debug)]
pub(super) struct Upgrade {
    protocol: HeaderValue,
    request_form: RequestForm,
    client: OnUpgrade,
}

/// The form in which the client asked.
#[derive(Debug)]
enum RequestForm {
    /// `Upgrade` and `Connection` headers.
    Http1,
    /// An extended CONNECT. For a WebSocket with the `sec-websocket-accept` that the app must answer.
    Http2 { websocket_accept: Option<String> },
}

/// Returns the upgrade that a request asks for. `None`: the request is forwarded as an ordinary one, without its
/// `Upgrade`.
///
/// # Errors
/// An extended CONNECT that cannot be passed on, because as an ordinary request it would mean something else. An
/// upgrade with a body, because the end of the body and the start of the new protocol are ambiguous.
pub(super) fn requested_upgrade(head: &mut Parts) -> Result<Option<Upgrade>, UpstreamError> {
    // only an extended CONNECT carries this extension; `request` changed its method to GET
    if head.extensions.get::<Protocol>().is_some() {
        return extended_connect(head).map(Some).ok_or(UpstreamError::ClientBody);
    }
    if head.version != Version::HTTP_11 || !head.headers.contains_key(UPGRADE) {
        return Ok(None);
    }
    let Some(protocol) = requested_protocol(&head.headers) else {
        return Ok(None);
    };
    let has_length = head.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if has_length || head.headers.contains_key(TRANSFER_ENCODING) {
        return Err(UpstreamError::ClientBody);
    }
    Ok(head.extensions.remove::<OnUpgrade>().map(|client| Upgrade {
        protocol,
        request_form: RequestForm::Http1,
        client,
    }))
}

fn extended_connect(head: &mut Parts) -> Option<Upgrade> {
    let protocol = head.extensions.remove::<Protocol>()?;
    let protocol = HeaderValue::from_str(protocol.as_str()).ok().filter(is_upgradable)?;
    Some(Upgrade {
        protocol,
        request_form: RequestForm::Http2 { websocket_accept: None },
        client: head.extensions.remove::<OnUpgrade>()?,
    })
}

/// The protocol that `Upgrade` names, if it is one and `Connection` names the header.
fn requested_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_named = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    let mut protocols = tokens(headers, &UPGRADE);
    match (protocols.next(), protocols.next()) {
        (Some(protocol), None) if is_named => HeaderValue::from_bytes(protocol).ok().filter(is_upgradable),
        _ => None,
    }
}

/// False for other versions of HTTP and for TLS: requests inside them would bypass the gate.
fn is_upgradable(protocol: &HeaderValue) -> bool {
    let lower = protocol.as_bytes().to_ascii_lowercase();
    let is_token = lower
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(b));
    let refused = [b"h2".as_slice(), b"h3", b"http", b"spdy", b"tls"];
    let is_refused = |part: &[u8]| refused.iter().any(|name| part.starts_with(name));
    is_token && !lower.is_empty() && !lower.split(|b| *b == b'/').any(is_refused)
}

impl Upgrade {
    /// Writes the upgrade into the app's request; the rest of the head is complete.
    pub fn write_request(&mut self, head: &mut Parts) {
        if let RequestForm::Http2 { websocket_accept } = &mut self.request_form {
            head.method = Method::GET;
            if self.protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()) {
                let challenge = WebSocketChallenge::generate();
                *websocket_accept = Some(challenge.accept);
                head.headers.insert(SEC_WEBSOCKET_KEY, challenge.key);
            }
        }
        for name in [EXPECT, TE] {
            head.headers.remove(name);
        }
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, self.protocol.clone());
    }

    /// Checks that the app's answer may go to the client. A 101 must name exactly the protocol that the client asked
    /// for.
    pub fn check_response(&self, answer: &ResponseParts) -> Result<(), UpstreamError> {
        if answer.status != StatusCode::SWITCHING_PROTOCOLS {
            return match self.request_form {
                // the client would treat it as a tunnel
                RequestForm::Http2 { .. } if answer.status.is_success() => Err(UpstreamError::malformed(
                    "the app answered an upgrade with neither 101 nor a refusal",
                )),
                _ => Ok(()),
            };
        }
        let mut protocols = tokens(&answer.headers, &UPGRADE);
        let is_same = protocols
            .next()
            .is_some_and(|protocol| protocol.eq_ignore_ascii_case(self.protocol.as_bytes()));
        if !is_same || protocols.next().is_some() {
            return Err(UpstreamError::malformed(
                "the app agreed to another upgrade than the client asked for",
            ));
        }
        if let RequestForm::Http2 {
            websocket_accept: Some(expected),
        } = &self.request_form
        {
            let mut accepts = answer.headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
            if accepts.next().is_none_or(|accept| accept != expected.as_str()) || accepts.next().is_some() {
                return Err(UpstreamError::malformed("the app's `sec-websocket-accept` is wrong"));
            }
        }
        Ok(())
    }

    /// Turns the app's 101, without its hop-by-hop headers, into the client's answer, and returns the client's side of
    /// the tunnel.
    pub fn accept(self, answer: &mut ResponseParts) -> OnUpgrade {
        answer.headers.remove(CONTENT_LENGTH);
        match self.request_form {
            RequestForm::Http1 => {
                answer.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                answer.headers.insert(UPGRADE, self.protocol);
            }
            RequestForm::Http2 { .. } => {
                answer.status = StatusCode::OK;
                answer.headers.remove(SEC_WEBSOCKET_ACCEPT);
            }
        }
        self.client
    }
}

/// A fresh `sec-websocket-key` and the `sec-websocket-accept` that answers it.
struct WebSocketChallenge {
    key: HeaderValue,
    accept: String,
}

impl WebSocketChallenge {
    fn generate() -> Self {
        let mut bytes = [0; WEBSOCKET_KEY_BYTES];
        // the process's generator cannot fail once seeded; the key is not a secret, it only has to be fresh
        if aws_lc_rs::rand::fill(&mut bytes).is_err() {
            bytes = uuid::Uuid::now_v7().into_bytes();
        }
        let key = STANDARD.encode(bytes);
        Self {
            accept: websocket_accept(&key),
            key: HeaderValue::from_str(&key).unwrap_or(HeaderValue::from_static("")),
        }
    }
}

pub(super) fn websocket_accept(key: &str) -> String {
    let text = [key.as_bytes(), WEBSOCKET_GUID].concat();
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn websocket_accept_is_the_rfcs_example_and_each_key_is_fresh() {
        assert_eq!(websocket_accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let first = WebSocketChallenge::generate().key;
        let second = WebSocketChallenge::generate().key;
        assert_ne!(first, second);
        assert_eq!(STANDARD.decode(first).unwrap().len(), WEBSOCKET_KEY_BYTES);
    }

    #[test]
    fn upgrade_is_one_protocol_that_connection_names_and_that_is_not_http_or_tls() {
        let requested = |lines: &[(&str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
            }
            requested_protocol(&headers).map(|token| token.to_str().unwrap().to_owned())
        };
        let named = ("connection", "keep-alive, Upgrade");
        assert_eq!(requested(&[named, ("upgrade", "websocket")]).as_deref(), Some("websocket"));
        assert_eq!(
            requested(&[named, ("upgrade", " my-proto/2 ")]).as_deref(),
            Some("my-proto/2")
        );
        for refused in [
            "h2c",
            "H2C",
            "HTTP/2.0",
            "http",
            "TLS/1.0",
            "tls",
            "h2",
            "",
            ",",
            "a b",
            "websocket, h2c",
            "a,b",
            "h2c-14",
            "spdy/3.1",
            "websocket/h2c",
        ] {
            assert_eq!(requested(&[named, ("upgrade", refused)]), None, "{refused}");
        }
        assert_eq!(requested(&[named, ("upgrade", "websocket"), ("upgrade", "h2c")]), None);
        assert_eq!(requested(&[("connection", "keep-alive"), ("upgrade", "websocket")]), None);
        assert_eq!(requested(&[("upgrade", "websocket")]), None);
    }
}
