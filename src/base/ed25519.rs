//! Ed25519 keys in PEM: sign and verify what the gate publishes apart from tokens.
//!
//! A private key is PKCS#8 (`openssl genpkey -algorithm ed25519`), a public key is SubjectPublicKeyInfo (`openssl pkey
//! -pubout`). The private part never prints. Callers put a text of their own in front of what they sign, so that a
//! signature made for one purpose means nothing for another.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::digest::sha256;

const PRIVATE_LABEL: &str = "PRIVATE KEY";
const PUBLIC_LABEL: &str = "PUBLIC KEY";
/// DER of an Ed25519 SubjectPublicKeyInfo (RFC 8410), up to the key's 32 bytes.
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Bytes of a public key.
const PUBLIC_BYTES: usize = 32;
/// Bytes of the hash that a key's id shows.
const ID_BYTES: usize = 8;
/// Most keys of one file.
const KEYS_MAX: usize = 64;

/// The text holds no usable key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    #[error("not a PEM block `PRIVATE KEY` (PKCS#8): make one with `openssl genpkey -algorithm ed25519`")]
    Private,
    #[error("not PEM blocks `PUBLIC KEY`: make one with `openssl pkey -in key.pem -pubout`")]
    Public,
    #[error("not an Ed25519 key: make one with `openssl genpkey -algorithm ed25519`")]
    Algorithm,
    #[error("more than {KEYS_MAX} keys")]
    TooMany,
}

/// A private key.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    id: String,
}

/// A public key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifyingKey {
    bytes: [u8; PUBLIC_BYTES],
    id: String,
}

impl SigningKey {
    /// Reads one private key.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let [der] = blocks(text, PRIVATE_LABEL)
            .and_then(|blocks| <[Vec<u8>; 1]>::try_from(blocks).ok())
            .ok_or(KeyError::Private)?;
        let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(|_rejected| KeyError::Algorithm)?;
        let id = id_of(pair.public_key().as_ref());
        Ok(Self { pair, id })
    }

    /// The id of the public key: the first 8 bytes of its SHA-256 in hex.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The signature of `message`, 64 bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    /// The public key.
    pub fn verifying_key(&self) -> Option<VerifyingKey> {
        VerifyingKey::from_bytes(self.pair.public_key().as_ref())
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl VerifyingKey {
    /// Reads public keys; the text of a private key gives its public part.
    pub fn all_from_pem(text: &str) -> Result<Vec<Self>, KeyError> {
        if text.contains(PRIVATE_LABEL) {
            let key = SigningKey::from_pem(text)?.verifying_key();
            return key.map(|key| vec![key]).ok_or(KeyError::Algorithm);
        }
        let blocks = blocks(text, PUBLIC_LABEL).filter(|blocks| !blocks.is_empty());
        let blocks = blocks.ok_or(KeyError::Public)?;
        if blocks.len() > KEYS_MAX {
            return Err(KeyError::TooMany);
        }
        let keys = blocks.iter().map(|der| {
            let bytes = der.strip_prefix(&PUBLIC_PREFIX).ok_or(KeyError::Algorithm)?;
            Self::from_bytes(bytes).ok_or(KeyError::Algorithm)
        });
        keys.collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes = <[u8; PUBLIC_BYTES]>::try_from(bytes).ok()?;
        Some(Self {
            id: id_of(&bytes),
            bytes,
        })
    }

    /// As in `SigningKey::id`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// True if `signature` is this key's signature of `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.bytes)
            .verify(message, signature)
            .is_ok()
    }
}

fn id_of(public_key: &[u8]) -> String {
    hex::encode(sha256(public_key).get(..ID_BYTES).unwrap_or_default())
}

/// The DER of consecutive PEM blocks of this label. `None` if the text holds anything else.
fn blocks(text: &str, label: &str) -> Option<Vec<Vec<u8>>> {
    let begin = format!("-----BEGIN {label}-----");
    let end = format!("-----END {label}-----");
    let parts = text.split_inclusive(&end).filter(|part| !part.trim().is_empty());
    let ders = parts.map(|part| {
        let base64 = part.trim().strip_prefix(&begin)?.strip_suffix(&end)?;
        let base64: String = base64.split_ascii_whitespace().collect();
        STANDARD.decode(base64).ok()
    });
    ders.collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The example of RFC 8410, section 10.3.
    pub const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    /// Its public key, section 10.1.
    pub const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn signature_verifies_with_the_public_key_and_for_its_message_alone() {
        let private = SigningKey::from_pem(PRIVATE).unwrap();
        let [public] = <[VerifyingKey; 1]>::try_from(VerifyingKey::all_from_pem(PUBLIC).unwrap()).unwrap();
        assert_eq!(Some(&public), private.verifying_key().as_ref());
        assert_eq!(VerifyingKey::all_from_pem(PRIVATE).unwrap(), vec![public.clone()]);
        assert_eq!((private.id(), private.id().len()), (public.id(), 16));
        let signature = private.sign(b"message");
        assert!(public.verifies(b"message", &signature));
        assert!(!public.verifies(b"massage", &signature) && !public.verifies(b"message", b""));
        assert!(!format!("{private:?}").contains("MC4C"));
    }

    #[test]
    fn other_texts_are_refused() {
        let ec = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----";
        assert_eq!(SigningKey::from_pem(ec).unwrap_err(), KeyError::Algorithm);
        for bad in ["", "hello", PUBLIC, &format!("{PRIVATE}{PRIVATE}"), &format!("x{PRIVATE}")] {
            assert_eq!(SigningKey::from_pem(bad).unwrap_err(), KeyError::Private, "{bad}");
        }
        for bad in ["", "hello", &format!("{PUBLIC}x")] {
            assert_eq!(VerifyingKey::all_from_pem(bad).unwrap_err(), KeyError::Public, "{bad}");
        }
        assert_eq!(VerifyingKey::all_from_pem(&PUBLIC.repeat(3)).unwrap().len(), 3);
        assert_eq!(VerifyingKey::all_from_pem(&PUBLIC.repeat(65)).unwrap_err(), KeyError::TooMany);
    }
}
