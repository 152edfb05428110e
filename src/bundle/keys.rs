//! Ed25519 keys in PEM: PKCS#8 `PRIVATE KEY` to sign, SPKI `PUBLIC KEY` to verify, as `openssl genpkey` and `openssl
//! pkey` write them. A key's id is the SHA-256 of its SPKI in hex. The private part never prints.

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cedargate_policy::types::Redacted;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

use crate::base::digest::sha256;

/// The SPKI of an Ed25519 key, up to the 32 bytes of the key itself (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Most public keys of one file.
const KEYS_MAX: usize = 16;
/// Characters of a PEM line (RFC 7468).
const PEM_LINE: usize = 64;

/// A text that holds no usable key.
#[derive(Debug, thiserror::Error)]
pub enum BundleKeyError {
    #[error("it holds no PEM block `PUBLIC KEY`; `cedargate bundle keygen` and `openssl pkey -pubout` write one")]
    NoPublic,
    #[error("it holds a private key; name the file with the public key")]
    IsPrivate,
    #[error(
        "it holds no PEM block `PRIVATE KEY` (PKCS#8); `cedargate bundle keygen` and `openssl genpkey -algorithm ed25519` write one"
    )]
    NoPrivate,
    #[error("it is not an Ed25519 key")]
    Algorithm,
    #[error("it holds more than {KEYS_MAX} keys")]
    TooMany,
    #[error("the cryptographic library failed")]
    Library,
}

/// A key that verifies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicKey {
    id: String,
    bytes: [u8; 32],
}

/// A key that signs.
pub struct BundleSigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl PublicKey {
    fn new(bytes: [u8; 32]) -> Self {
        Self {
            id: hex::encode(sha256(&spki(&bytes))),
            bytes,
        }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &spki(&self.bytes))
    }
}

impl BundleSigningKey {
    pub fn generate() -> Result<Self, BundleKeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_unspecified| BundleKeyError::Library)?;
        Self::new(pair)
    }

    pub fn from_pem(text: &[u8]) -> Result<Self, BundleKeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_no_block| BundleKeyError::NoPrivate)?;
        // OpenSSL writes PKCS#8 without the public key
        let pair =
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).map_err(|_rejected| BundleKeyError::Algorithm)?;
        Self::new(pair)
    }

    fn new(pair: Ed25519KeyPair) -> Result<Self, BundleKeyError> {
        let bytes: [u8; 32] = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_length| BundleKeyError::Library)?;
        Ok(Self {
            pair,
            public: PublicKey::new(bytes),
        })
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub fn to_pem(&self) -> Result<Redacted<String>, BundleKeyError> {
        let document = self.pair.to_pkcs8v1().map_err(|_unspecified| BundleKeyError::Library)?;
        Ok(Redacted::new(pem("PRIVATE KEY", document.as_ref())))
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        Ok(self.pair.try_sign(message)?.as_ref().to_vec())
    }
}

/// The public keys of a text; at least one.
pub fn public_keys(text: &[u8]) -> Result<Vec<PublicKey>, BundleKeyError> {
    let mut keys = Vec::new();
    for der in SubjectPublicKeyInfoDer::pem_slice_iter(text) {
        let der = der.map_err(|_malformed| BundleKeyError::NoPublic)?;
        let bytes = der.strip_prefix(SPKI_PREFIX.as_slice()).ok_or(BundleKeyError::Algorithm)?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_length| BundleKeyError::Algorithm)?;
        keys.push(PublicKey::new(bytes));
        if keys.len() > KEYS_MAX {
            return Err(BundleKeyError::TooMany);
        }
    }
    if !keys.is_empty() {
        return Ok(keys);
    }
    Err(match PrivatePkcs8KeyDer::from_pem_slice(text) {
        Ok(_private) => BundleKeyError::IsPrivate,
        Err(_) => BundleKeyError::NoPublic,
    })
}

fn spki(key: &[u8; 32]) -> Vec<u8> {
    [SPKI_PREFIX.as_slice(), key].concat()
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----");
    for (n, character) in STANDARD.encode(der).chars().enumerate() {
        if n % PEM_LINE == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    format!("{text}\n-----END {label}-----\n")
}
