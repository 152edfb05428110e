//! Keys of every algorithm, and tokens signed with them.

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::shop::claims;
use crate::{AUDIENCE, ISSUER};

/// Signature algorithms; each is also the `kid` of its key.
pub const ALGORITHMS: [&str; 3] = ["RS256", "ES256", "EdDSA"];

/// One key of each algorithm.
pub struct Keys {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Keys {
    /// Makes new keys.
    pub fn generate() -> Self {
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            ed: Ed25519KeyPair::generate().unwrap(),
        }
    }

    /// The public keys, as an issuer publishes them.
    pub fn jwks(&self) -> Value {
        let public = self.rsa.public_key();
        let n = encode(public.modulus().big_endian_without_leading_zero());
        let e = encode(public.exponent().big_endian_without_leading_zero());
        // uncompressed: 4, x, y
        let point = self.ec.public_key().as_ref().split_at(1).1;
        let (x, y) = point.split_at(32);
        json!({"keys": [
            {"kty": "RSA", "kid": "RS256", "n": n, "e": e},
            {"kty": "EC", "crv": "P-256", "kid": "ES256", "x": encode(x), "y": encode(y)},
            {"kty": "OKP", "crv": "Ed25519", "kid": "EdDSA", "x": encode(self.ed.public_key())},
        ]})
    }

    /// A token for the caller of `shop::claims` under another subject; it is valid for an hour.
    pub fn token(&self, algorithm: &str, subject: &str) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let mut claims = claims();
        let times = [("iat", now), ("exp", now + Duration::from_secs(3_600))];
        claims.extend(times.map(|(name, at)| (name.to_owned(), json!(at.as_secs()))));
        claims.extend([("iss", ISSUER), ("aud", AUDIENCE), ("sub", subject)].map(|(name, text)| (name.to_owned(), json!(text))));
        let header = json!({"alg": algorithm, "typ": "JWT", "kid": algorithm});
        let input = format!("{}.{}", encode(header.to_string()), encode(Value::Object(claims).to_string()));
        let signature = self.sign(algorithm, input.as_bytes());
        format!("{input}.{}", encode(signature))
    }

    fn sign(&self, algorithm: &str, input: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match algorithm {
            "RS256" => {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa.sign(&RSA_PKCS1_SHA256, &random, input, &mut signature).unwrap();
                signature
            }
            "ES256" => self.ec.sign(&random, input).unwrap().as_ref().to_vec(),
            _ => self.ed.sign(input).as_ref().to_vec(),
        }
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
