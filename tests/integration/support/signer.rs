//! Signing keys of every family, for tokens that no well-behaved issuer makes.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
};
use serde_json::{Value, json};

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

pub fn unb64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()
}

/// A signing key of any family, with its public JWK.
pub struct Signer {
    pub kid: String,
    pub jwk: Value,
    pub secret: Secret,
}

/// The private part; the family decides the algorithms.
pub enum Secret {
    Rsa(rsa::KeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    pub fn rsa(kid: &str) -> Self {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let public = pair.public_key();
        let n = public.modulus().big_endian_without_leading_zero().to_vec();
        let e = public.exponent().big_endian_without_leading_zero().to_vec();
        let jwk = json!({"kty": "RSA", "kid": kid, "n": b64(n), "e": b64(e)});
        Self {
            kid: kid.to_owned(),
            jwk,
            secret: Secret::Rsa(pair),
        }
    }

    pub fn ed(kid: &str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": b64(pair.public_key().as_ref())});
        Self {
            kid: kid.to_owned(),
            jwk,
            secret: Secret::Ed(pair),
        }
    }

    pub fn ec(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref().to_vec();
        let jwk = json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": b64(&point[1..33]), "y": b64(&point[33..])});
        Self {
            kid: kid.to_owned(),
            jwk,
            secret: Secret::Ec(pair),
        }
    }

    /// The public key as DER: the secret of a verifier that confuses it with an HMAC key.
    pub fn public_der(&self) -> Vec<u8> {
        match &self.secret {
            Secret::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Secret::Ec(pair) => pair.public_key().as_ref().to_vec(),
            Secret::Ed(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    pub fn jwks(&self) -> Value {
        json!({"keys": [self.jwk]})
    }

    /// The name of the algorithm this key signs with by default.
    pub fn alg(&self) -> &'static str {
        match self.secret {
            Secret::Rsa(_) => "RS256",
            Secret::Ec(_) => "ES256",
            Secret::Ed(_) => "EdDSA",
        }
    }

    /// The signature over a `header.payload` with any algorithm of the key's family; others give the family's default.
    pub fn signature(&self, alg: &str, input: &str) -> Vec<u8> {
        match &self.secret {
            Secret::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match alg {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &SystemRandom::new(), input.as_bytes(), &mut signature)
                    .unwrap();
                signature
            }
            Secret::Ec(pair) => pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap().as_ref().to_vec(),
            Secret::Ed(pair) => pair.sign(input.as_bytes()).as_ref().to_vec(),
        }
    }

    pub fn header(&self) -> Value {
        json!({"alg": self.alg(), "typ": "JWT", "kid": self.kid})
    }

    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&self.header(), claims)
    }

    /// Signs with what the header's `alg` says, as far as the key can.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        self.token_raw(
            &header.to_string(),
            &claims.to_string(),
            header["alg"].as_str().unwrap_or_default(),
        )
    }

    pub fn token_raw(&self, header: &str, claims: &str, alg: &str) -> String {
        let input = format!("{}.{}", b64(header), b64(claims));
        let signature = self.signature(alg, &input);
        format!("{input}.{}", b64(signature))
    }
}
