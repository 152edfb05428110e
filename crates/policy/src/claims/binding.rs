//! The keys that a token is bound to: its claim `cnf` (RFC 7800).
//!
//! A bound token counts only if the same request proves that its sender holds each of the keys: a TLS client
//! certificate (RFC 8705) or the key of a DPoP proof (RFC 9449). The gate shows the keys of a request as its
//! `Possession`; this file compares. A method of confirmation that the gate does not know cannot be checked, so such a
//! token is refused.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::ClaimError;

/// SHA-256 of a certificate or the SHA-256 thumbprint of a key.
pub type Thumbprint = [u8; 32];

const CERTIFICATE: &str = "x5t#S256";
const KEY: &str = "jkt";

/// The keys that the sender of one request proved to hold.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Possession {
    /// SHA-256 of the client certificate of the request's connection.
    pub certificate: Option<Thumbprint>,
    /// The thumbprint (RFC 7638) of the key that signed the request's DPoP proof.
    pub key: Option<Thumbprint>,
}

/// The keys that a token is bound to; the default is none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Binding {
    certificate: Option<Thumbprint>,
    key: Option<Thumbprint>,
}

impl Possession {
    /// The sender proved no key.
    pub const NONE: Self = Self {
        certificate: None,
        key: None,
    };
}

impl Binding {
    /// The binding that the claims name.
    ///
    /// # Errors
    /// `cnf` is there and is malformed, empty, or names a method that the gate cannot check.
    pub fn of(claims: &Map<String, Value>) -> Result<Self, ClaimError> {
        let members = match claims.get("cnf") {
            None => return Ok(Self::default()),
            Some(Value::Object(members)) if !members.is_empty() => members,
            Some(_) => return Err(ClaimError::Bound("`cnf` names no key")),
        };
        let mut binding = Self::default();
        for (name, value) in members {
            let thumbprint = || thumbprint(value).ok_or(ClaimError::Bound("`cnf` holds no SHA-256 thumbprint"));
            match name.as_str() {
                CERTIFICATE => binding.certificate = Some(thumbprint()?),
                KEY => binding.key = Some(thumbprint()?),
                _ => return Err(ClaimError::Bound("`cnf` has a member that the gate cannot check")),
            }
        }
        Ok(binding)
    }

    /// True if the token counts for every sender.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The possession that the token asks for: for checks of its other claims, before a sender uses it.
    pub fn asked_for(&self) -> Possession {
        Possession {
            certificate: self.certificate,
            key: self.key,
        }
    }

    /// Compares the token's keys with those of its sender. Every request with the token comes through here, also if the
    /// token is known already.
    ///
    /// # Errors
    /// A key of the token is not proved. Or a DPoP proof came with a token that is not bound to a key: a thief of the
    /// token could make a proof for it (RFC 9449, section 7.1).
    pub fn check(&self, possession: &Possession) -> Result<(), ClaimError> {
        if self.certificate.is_some() && self.certificate != possession.certificate {
            return Err(ClaimError::Bound(match possession.certificate {
                None => "the token is bound to a client certificate, and the connection has none",
                Some(_) => "the token is bound to another client certificate than the connection's",
            }));
        }
        if self.key != possession.key {
            return Err(ClaimError::Bound(match (self.key, possession.key) {
                (Some(_), None) => "the token is bound to a key (`cnf.jkt`) and came without a DPoP proof",
                (None, _) => "the token came with a DPoP proof and is not bound to a key (`cnf.jkt`)",
                (Some(_), Some(_)) => "the token is bound to another key than that of the DPoP proof",
            }));
        }
        Ok(())
    }
}

/// Unpadded base64url of 32 bytes.
fn thumbprint(value: &Value) -> Option<Thumbprint> {
    URL_SAFE_NO_PAD.decode(value.as_str()?).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn encoded(byte: u8) -> String {
        URL_SAFE_NO_PAD.encode([byte; 32])
    }

    fn binding(cnf: Value) -> Result<Binding, ClaimError> {
        Binding::of(json!({ "cnf": cnf }).as_object().unwrap())
    }

    #[test]
    fn a_bound_token_counts_only_with_exactly_its_own_keys() {
        let shown = |certificate: Option<u8>, key: Option<u8>| Possession {
            certificate: certificate.map(|byte| [byte; 32]),
            key: key.map(|byte| [byte; 32]),
        };
        let unbound = Binding::of(&Map::new()).unwrap();
        let certificate = binding(json!({ "x5t#S256": encoded(1) })).unwrap();
        let key = binding(json!({ "jkt": encoded(2) })).unwrap();
        let both = binding(json!({ "x5t#S256": encoded(1), "jkt": encoded(2) })).unwrap();
        for (binding, possession, accepted) in [
            (unbound, shown(None, None), true),
            (unbound, shown(Some(1), None), true),
            (unbound, shown(None, Some(2)), false),
            (certificate, shown(None, None), false),
            (certificate, shown(Some(1), None), true),
            (certificate, shown(Some(2), None), false),
            (certificate, shown(None, Some(1)), false),
            (certificate, shown(Some(1), Some(2)), false),
            (key, shown(None, None), false),
            (key, shown(None, Some(2)), true),
            (key, shown(None, Some(1)), false),
            (key, shown(Some(2), None), false),
            (key, shown(Some(1), Some(2)), true),
            (both, shown(Some(1), Some(2)), true),
            (both, shown(Some(1), None), false),
            (both, shown(None, Some(2)), false),
        ] {
            assert_eq!(binding.check(&possession).is_ok(), accepted, "{binding:?} {possession:?}");
        }
        assert!(unbound.is_none() && !certificate.is_none() && !key.is_none());
    }

    #[test]
    fn a_confirmation_that_cannot_be_checked_is_refused() {
        for cnf in [
            Value::Null,
            json!({}),
            json!([]),
            json!(encoded(1)),
            json!({ "jwk": { "kty": "EC" } }),
            json!({ "kid": "k" }),
            json!({ "x5t": encoded(1) }),
            json!({ "x5t#S256": encoded(1), "kid": "k" }),
            json!({ "x5t#S256": format!("{}=", encoded(1)) }),
            json!({ "x5t#S256": "AA" }),
            json!({ "x5t#S256": null }),
            json!({ "x5t#S256": hex::encode([1; 32]) }),
            json!({ "jkt": [encoded(1)] }),
            json!({ "JKT": encoded(1) }),
        ] {
            assert!(matches!(binding(cnf.clone()), Err(ClaimError::Bound(_))), "{cnf}");
        }
    }
}
