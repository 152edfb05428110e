//! A token issuer of the tests: one ES256 key, and the claims that the tests start from.
//!
//! The issuer signs with a library that the gate does not use for verification. Keys of other families are in `signer`.

use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

/// An issuer with one ES256 key, minting with a library of its own.
pub struct Issuer {
    pub kid: String,
    pem: String,
    public: Vec<u8>,
}

impl Issuer {
    pub fn new(kid: &str) -> Self {
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let der = pair.to_pkcs8v1().unwrap();
        let body = base64(der.as_ref(), &base64::engine::general_purpose::STANDARD);
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        Self {
            kid: kid.to_owned(),
            pem,
            public: pair.public_key().as_ref().to_vec(),
        }
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub fn jwk(&self) -> Value {
        let url = |bytes: &[u8]| base64(bytes, &base64::engine::general_purpose::URL_SAFE_NO_PAD);
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid,
            "x": url(&self.public[1..33]), "y": url(&self.public[33..65])})
    }

    pub fn jwks(&self) -> Value {
        json!({"keys": [self.jwk()]})
    }

    /// Signs exactly these claims.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(&json!({}), claims)
    }

    /// Signs with extra header members.
    pub fn sign_with(&self, extra: &Value, claims: &Value) -> String {
        let mut header = json!({"alg": "ES256", "typ": "JWT", "kid": self.kid});
        for (name, value) in extra.as_object().unwrap() {
            header[name] = value.clone();
        }
        let url = |v: &Value| base64(v.to_string().as_bytes(), &base64::engine::general_purpose::URL_SAFE_NO_PAD);
        self.sign_raw(&format!("{}.{}", url(&header), url(claims)))
    }

    /// Signs any `header.payload`.
    pub fn sign_raw(&self, input: &str) -> String {
        let key = EncodingKey::from_ec_pem(self.pem.as_bytes()).unwrap();
        let signature = jsonwebtoken::crypto::sign(input.as_bytes(), &key, Algorithm::ES256).unwrap();
        format!("{input}.{signature}")
    }

    /// A token of this issuer for the usual audience.
    pub fn token(&self, subject: &str, roles: &[&str]) -> String {
        self.sign(&claims(subject, roles))
    }
}

/// Claims of the test issuer: tenant `acme`, ten minutes.
pub fn claims(subject: &str, roles: &[&str]) -> Value {
    json!({"iss": ISSUER, "aud": "shop", "sub": subject, "tenant": "acme", "roles": roles, "iat": now(), "exp": now() + 600})
}

pub fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        .try_into()
        .unwrap()
}

pub const ISSUER: &str = "https://issuer.test/";

fn base64(bytes: &[u8], engine: &base64::engine::GeneralPurpose) -> String {
    use base64::Engine;
    engine.encode(bytes)
}
