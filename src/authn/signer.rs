//! A P-256 key that signs ES256 tokens: the gate's assertion key and the demo issuer's.
//!
//! This module handles keys, PEM and the compact serialisation, not claims. The private part never prints; `to_pem` is
//! the only function that returns it, for the demo.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cedargate_policy::types::Redacted;
use serde_json::{Value, json};

use super::jws::encode;
use crate::base::digest::sha256;

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";
/// Most keys of one file.
const KEYS_MAX: usize = 16;
/// Characters of a PEM line (RFC 7468).
const PEM_LINE: usize = 64;

/// An error of reading a signing key, or of signing.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    #[error(
        "not PEM blocks `PRIVATE KEY` (PKCS#8): make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
    )]
    Pem,
    #[error("not a PKCS#8 key on P-256")]
    Key,
    #[error("the same key twice")]
    Repeated,
    #[error("more than {KEYS_MAX} keys")]
    TooMany,
    #[error("the cryptographic library failed")]
    Library,
    #[error("claims are not representable as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// A key pair with its public JWK; the key id is its RFC 7638 thumbprint.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    kid: String,
    jwk: Value,
}

impl SigningKey {
    pub fn generate() -> Result<Self, SignerError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_unspecified| SignerError::Library)?;
        Self::new(pair)
    }

    /// Reads a P-256 key, PKCS#8 in PEM.
    pub fn from_pem(pem: &str) -> Result<Self, SignerError> {
        let body = pem
            .trim()
            .strip_prefix(PEM_BEGIN)
            .and_then(|rest| rest.strip_suffix(PEM_END))
            .ok_or(SignerError::Pem)?;
        let base64: String = body.split_ascii_whitespace().collect();
        let der = STANDARD.decode(base64).map_err(|_not_base64| SignerError::Pem)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).map_err(|_rejected| SignerError::Key)?;
        Self::new(pair)
    }

    /// Reads consecutive PEM blocks; at least one, and nothing else.
    pub fn all_from_pem(text: &str) -> Result<Vec<Self>, SignerError> {
        let blocks: Vec<&str> = text
            .split_inclusive(PEM_END)
            .filter(|block| !block.trim().is_empty())
            .collect();
        if blocks.is_empty() {
            return Err(SignerError::Pem);
        }
        if blocks.len() > KEYS_MAX {
            return Err(SignerError::TooMany);
        }
        blocks.into_iter().map(Self::from_pem).collect()
    }

    /// Returns the private key as PEM, for the demo issuer's file.
    pub fn to_pem(&self) -> Result<Redacted<String>, SignerError> {
        let document = self.pair.to_pkcs8v1().map_err(|_unspecified| SignerError::Library)?;
        let mut pem = PEM_BEGIN.to_owned();
        for (n, character) in STANDARD.encode(document.as_ref()).chars().enumerate() {
            if n % PEM_LINE == 0 {
                pem.push('\n');
            }
            pem.push(character);
        }
        Ok(Redacted::new(format!("{pem}\n{PEM_END}\n")))
    }

    fn new(pair: EcdsaKeyPair) -> Result<Self, SignerError> {
        let point = pair.public_key().as_ref();
        let (Some(4), Some(x), Some(y), 65) = (point.first(), point.get(1..33), point.get(33..), point.len()) else {
            return Err(SignerError::Key);
        };
        let x = encode(x);
        let y = encode(y);
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let kid = encode(sha256(canonical.as_bytes()));
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "use": "sig", "alg": "ES256"});
        Ok(Self { pair, kid, jwk })
    }

    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Returns the public key as a JWK.
    pub fn jwk(&self) -> &Value {
        &self.jwk
    }

    /// Returns the public key as a JWK set of one key.
    pub fn jwks(&self) -> Value {
        json!({"keys": [self.jwk]})
    }

    /// Signs exactly this header and these claims as a compact ES256 JWS.
    pub fn sign(&self, header: &Value, claims: &impl serde::Serialize) -> Result<String, SignerError> {
        self.sign_input(format!(
            "{}.{}",
            encode(serde_json::to_vec(header)?),
            encode(serde_json::to_vec(claims)?)
        ))
    }

    /// Appends the signature of the two encoded segments.
    pub(super) fn sign_input(&self, mut token: String) -> Result<String, SignerError> {
        let signature = self
            .pair
            .sign(&SystemRandom::new(), token.as_bytes())
            .map_err(|_unspecified| SignerError::Library)?;
        token.push('.');
        token.push_str(&encode(signature));
        Ok(token)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_unchanged_after_its_pem_is_read() {
        let key = SigningKey::generate().unwrap();
        let pem = key.to_pem().unwrap();
        let again = SigningKey::from_pem(pem.expose()).unwrap();
        assert_eq!(again.kid(), key.kid());
        assert!(!format!("{key:?} {pem:?}").contains("BEGIN"));
        assert!(matches!(SigningKey::from_pem("hello"), Err(SignerError::Pem)));
        let other = SigningKey::generate().unwrap().to_pem().unwrap();
        let both = format!("{}\n{}", pem.expose(), other.expose());
        let kids: Vec<_> = SigningKey::all_from_pem(&both)
            .unwrap()
            .iter()
            .map(|key| key.kid().to_owned())
            .collect();
        assert_eq!((kids.len(), kids[0].as_str()), (2, key.kid()));
        for bad in ["", " ", &format!("{both}\ntrailing"), &format!("comment\n{both}")] {
            assert!(SigningKey::all_from_pem(bad).is_err(), "{bad}");
        }
        let junk = format!("{PEM_BEGIN}\nAAAA\n{PEM_END}");
        assert!(matches!(SigningKey::from_pem(&junk), Err(SignerError::Key)));
    }
}
