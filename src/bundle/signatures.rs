//! The signatures of a bundle: `ed25519 <key id> <base64>`, one a line, each over the bytes of the manifest.
//!
//! The text is parsed before a signature is verified, so it has the simplest form that can name several keys.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::keys::{BundleSigningKey, PublicKey};
use super::{BundleError, SIGNATURES_MAX};

const ALGORITHM: &str = "ed25519";
const KEY_ID_CHARS: usize = 64;
const SIGNATURE_BYTES: usize = 64;

/// One signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signature {
    /// Id of the key that is said to have signed.
    pub key: String,
    pub(super) bytes: Vec<u8>,
}

impl Signature {
    pub(super) fn new(key: &BundleSigningKey, manifest: &[u8]) -> Result<Self, BundleError> {
        let failed = |_unspecified| BundleError::Signatures("the cryptographic library failed".to_owned());
        Ok(Self {
            key: key.public().id().to_owned(),
            bytes: key.sign(manifest).map_err(failed)?,
        })
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (Some(ALGORITHM), Some(key), Some(base64), None) = (words.next(), words.next(), words.next(), words.next()) else {
            return None;
        };
        let is_hex = key.len() == KEY_ID_CHARS && key.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let bytes = STANDARD.decode(base64).ok()?;
        (is_hex && bytes.len() == SIGNATURE_BYTES).then(|| Self {
            key: key.to_owned(),
            bytes,
        })
    }
}

pub(super) fn render(signatures: &[Signature]) -> String {
    let line = |signature: &Signature| format!("{ALGORITHM} {} {}\n", signature.key, STANDARD.encode(&signature.bytes));
    signatures.iter().map(line).collect()
}

pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Signature>, BundleError> {
    let refuse = |why: String| BundleError::Signatures(why);
    let text = std::str::from_utf8(bytes).map_err(|_not_utf8| refuse("they are not text".to_owned()))?;
    let mut signatures: Vec<Signature> = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let why = || format!("line {} is not `{ALGORITHM} <key id> <base64>`", n + 1);
        let signature = Signature::parse(line).ok_or_else(|| refuse(why()))?;
        if signatures.len() == SIGNATURES_MAX {
            return Err(refuse(format!("there are more than {SIGNATURES_MAX}")));
        }
        if signatures.iter().any(|known| known.key == signature.key) {
            return Err(refuse(format!("the key {} signed twice", signature.key)));
        }
        signatures.push(signature);
    }
    Ok(signatures)
}

/// Returns the id of a trusted key that signed the manifest. A wrong signature of a trusted key refuses the bundle,
/// also beside a right one.
pub(super) fn verify(manifest: &[u8], signatures: &[Signature], keys: &[PublicKey]) -> Result<String, BundleError> {
    let mut signed_by = None;
    for signature in signatures {
        let Some(key) = keys.iter().find(|key| key.id() == signature.key) else {
            continue;
        };
        let key_bytes = UnparsedPublicKey::new(&ED25519, key.bytes());
        if key_bytes.verify(manifest, &signature.bytes).is_err() {
            return Err(BundleError::Forged(signature.key.clone()));
        }
        signed_by.get_or_insert_with(|| signature.key.clone());
    }
    let names = || {
        signatures
            .iter()
            .map(|signature| signature.key.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    match signed_by {
        Some(key) => Ok(key),
        None if signatures.is_empty() => Err(BundleError::Unsigned),
        None => Err(BundleError::Untrusted(names())),
    }
}
