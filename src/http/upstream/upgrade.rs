//! Upgrades: which requests ask for one, how the app is asked, and when it counts as agreed.
//!
//! SECURITY: a request that asks for an upgrade must have no body, what the app is asked is written here and never
//! copied from the client's `Connection`, and a tunnel begins only after the app's own 101 that names the same
//! protocol. An extended CONNECT (RFC 8441) is asked of the app as the HTTP/1.1 upgrade it stands for; no other 2xx may
//! pass as its success.

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

/// What a client asks to turn its connection, or HTTP/2 stream, into.
#[derive(Debug)]
pub(super) struct Upgrade {
    token: HeaderValue,
    form: Form,
    client: OnUpgrade,
}

#[derive(Debug)]
enum Form {
    Http1,
    /// Extended CONNECT; for a WebSocket with the answer to the key that the gate sends.
    Http2 {
        accept: Option<String>,
    },
}

/// Whether a request asks for an upgrade that can be passed on. What asks for another is an ordinary request.
///
/// # Errors
/// One over HTTP/2 for what cannot be passed on: as an ordinary request it would mean something else. And one that comes
/// with a body: where its bytes end and the new protocol's begin is not for us to guess.
pub(super) fn asked(head: &mut Parts) -> Result<Option<Upgrade>, UpstreamError> {
    // only HTTP/2's extended CONNECT leaves one: `request` turned it into the GET it stands for
    if head.extensions.get::<Protocol>().is_some() {
        return extended(head).map(Some).ok_or(UpstreamError::ClientBody);
    }
    if head.version != Version::HTTP_11 || !head.headers.contains_key(UPGRADE) {
        return Ok(None);
    }
    let Some(token) = one_token(&head.headers) else {
        return Ok(None);
    };
    let has_length = head.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if has_length || head.headers.contains_key(TRANSFER_ENCODING) {
        return Err(UpstreamError::ClientBody);
    }
    Ok(head.extensions.remove::<OnUpgrade>().map(|client| Upgrade {
        token,
        form: Form::Http1,
        client,
    }))
}

fn extended(head: &mut Parts) -> Option<Upgrade> {
    let protocol = head.extensions.remove::<Protocol>()?;
    let token = HeaderValue::from_str(protocol.as_str()).ok().filter(is_upgradable)?;
    Some(Upgrade {
        token,
        form: Form::Http2 { accept: None },
        client: head.extensions.remove::<OnUpgrade>()?,
    })
}

/// The one protocol of `Upgrade`, if `Connection` names the header.
fn one_token(headers: &HeaderMap) -> Option<HeaderValue> {
    let named = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    let mut asked = tokens(headers, &UPGRADE);
    match (asked.next(), asked.next()) {
        (Some(token), None) if named => HeaderValue::from_bytes(token).ok().filter(is_upgradable),
        _ => None,
    }
}

/// Not another version of HTTP, and not TLS: those would take the gate out of the way.
fn is_upgradable(token: &HeaderValue) -> bool {
    let lower = token.as_bytes().to_ascii_lowercase();
    let plain = lower
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(b));
    let others = [b"h2".as_slice(), b"h3", b"http", b"spdy", b"tls"];
    let is_other = |part: &[u8]| others.iter().any(|other| part.starts_with(other));
    plain && !lower.is_empty() && !lower.split(|b| *b == b'/').any(is_other)
}

impl Upgrade {
    /// Writes the question into a head that is otherwise ready.
    pub fn ask(&mut self, head: &mut Parts) {
        if let Form::Http2 { accept } = &mut self.form {
            head.method = Method::GET;
            if self.token.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()) {
                let (key, answer) = websocket_key();
                *accept = Some(answer);
                head.headers.insert(SEC_WEBSOCKET_KEY, key);
            }
        }
        for name in [EXPECT, TE] {
            head.headers.remove(name);
        }
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, self.token.clone());
    }

    /// Whether this answer may go back to the one who asked. A 101 must agree to exactly what was asked.
    pub fn check(&self, answer: &ResponseParts) -> Result<(), UpstreamError> {
        if answer.status != StatusCode::SWITCHING_PROTOCOLS {
            return match self.form {
                // the client would take it for a tunnel
                Form::Http2 { .. } if answer.status.is_success() => Err(UpstreamError::malformed(
                    "the app answered an upgrade with neither 101 nor a refusal",
                )),
                _ => Ok(()),
            };
        }
        let mut agreed = tokens(&answer.headers, &UPGRADE);
        let same = agreed
            .next()
            .is_some_and(|token| token.eq_ignore_ascii_case(self.token.as_bytes()));
        if !same || agreed.next().is_some() {
            return Err(UpstreamError::malformed(
                "the app agreed to another upgrade than was asked for",
            ));
        }
        if let Form::Http2 { accept: Some(expected) } = &self.form {
            let mut accepts = answer.headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
            if accepts.next().is_none_or(|accept| accept != expected.as_str()) || accepts.next().is_some() {
                return Err(UpstreamError::malformed("the app's `sec-websocket-accept` is wrong"));
            }
        }
        Ok(())
    }

    /// Turns the app's 101, hop-by-hop headers removed, into the client's answer; gives the client's side of the tunnel.
    pub fn agree(self, answer: &mut ResponseParts) -> OnUpgrade {
        answer.headers.remove(CONTENT_LENGTH);
        match self.form {
            Form::Http1 => {
                answer.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                answer.headers.insert(UPGRADE, self.token);
            }
            Form::Http2 { .. } => {
                answer.status = StatusCode::OK;
                answer.headers.remove(SEC_WEBSOCKET_ACCEPT);
            }
        }
        self.client
    }
}

/// A fresh key, and what an app that understands answers.
fn websocket_key() -> (HeaderValue, String) {
    let mut bytes = [0; WEBSOCKET_KEY_BYTES];
    // the process's generator cannot fail once seeded; a key is no secret, it only has to be fresh
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        bytes = uuid::Uuid::now_v7().into_bytes();
    }
    let key = STANDARD.encode(bytes);
    let value = HeaderValue::from_str(&key).unwrap_or(HeaderValue::from_static(""));
    (value, accept_of(&key))
}

pub(super) fn accept_of(key: &str) -> String {
    let text = [key.as_bytes(), WEBSOCKET_GUID].concat();
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_websocket_key_is_that_of_the_rfc() {
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let (one, two) = (websocket_key().0, websocket_key().0);
        assert_ne!(one, two);
        assert_eq!(STANDARD.decode(one).unwrap().len(), WEBSOCKET_KEY_BYTES);
    }

    #[test]
    fn one_protocol_that_is_no_http_and_that_connection_names_is_an_upgrade() {
        let asked = |lines: &[(&str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
            }
            one_token(&headers).map(|token| token.to_str().unwrap().to_owned())
        };
        let named = ("connection", "keep-alive, Upgrade");
        assert_eq!(asked(&[named, ("upgrade", "websocket")]).as_deref(), Some("websocket"));
        assert_eq!(asked(&[named, ("upgrade", " my-proto/2 ")]).as_deref(), Some("my-proto/2"));
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
            assert_eq!(asked(&[named, ("upgrade", refused)]), None, "{refused}");
        }
        assert_eq!(asked(&[named, ("upgrade", "websocket"), ("upgrade", "h2c")]), None);
        assert_eq!(asked(&[("connection", "keep-alive"), ("upgrade", "websocket")]), None);
        assert_eq!(asked(&[("upgrade", "websocket")]), None);
    }
}
