//! RS256 tokens of an issuer with a new key, and the key in the formats that the peers read.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

pub const ISSUER: &str = "https://issuer.bench.test/";
pub const AUDIENCE: &str = "shop";
const KEY_ID: &str = "bench";
/// Longer than any run.
const LIFE_SECONDS: u64 = 6 * 3600;

pub struct Issuer {
    key: KeyPair,
    random: SystemRandom,
}

impl Issuer {
    pub fn new() -> Self {
        Self {
            key: KeyPair::generate(KeySize::Rsa2048).unwrap(),
            random: SystemRandom::new(),
        }
    }

    pub fn jwks(&self) -> String {
        let key = self.key.public_key();
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let n = number(key.modulus().big_endian_without_leading_zero());
        let e = number(key.exponent().big_endian_without_leading_zero());
        json!({"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": KEY_ID, "n": n, "e": e}]}).to_string()
    }

    pub fn public_pem(&self) -> String {
        let der: PublicKeyX509Der = self.key.public_key().as_der().unwrap();
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// A token of Alice of acme, logged in with a second factor; tokens with different numbers differ.
    pub fn token(&self, roles: &[&str], number: usize) -> String {
        self.signed(roles, number, now() + LIFE_SECONDS)
    }

    pub fn expired(&self, roles: &[&str]) -> String {
        self.signed(roles, 0, now() - 3600)
    }

    fn signed(&self, roles: &[&str], number: usize, expires: u64) -> String {
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": KEY_ID});
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "tenant": "acme", "roles": roles, "email": "alice@acme.example",
            "amr": ["pwd", "mfa"], "scope": "openid shop", "iat": expires - LIFE_SECONDS, "exp": expires, "jti": number.to_string(),
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &self.random, signed.as_bytes(), &mut signature)
            .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The same token with another signature.
pub fn forged(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    if let Some(byte) = bytes.get_mut(17) {
        *byte ^= 0x40;
    }
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(bytes))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
