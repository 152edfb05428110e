//! Seals every value that leaves the process: sessions, small shared values, and the state of logins.
//!
//! A session's value is `version | key id | length | header | body`; header and body are each `nonce | ciphertext |
//! tag` of AES-256-GCM. The server's keys open the header, so that an operator can list sessions. The body's key is
//! derived from the server's keys *and* the cookie's id, so neither a dump of the store nor the keys alone open it.
//! Both are bound to deployment and handle, and the body to exactly the header of the same value: a value that was
//! moved, mixed or changed does not open.
//!
//! The first key of the ring seals, every key of the ring opens. Every use derives a key of its own by HKDF, so a value
//! sealed for one purpose opens for no other.
//!
//! The labels and the layout are the stored format of running deployments and never change.

pub mod keys;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cedargate_policy::types::Redacted;
use serde::{Deserialize, Serialize};

use self::keys::ActiveKeyRing;
use super::StoreError;
use super::cookie::SessionId;
use super::record::{Handle, SessionData, SessionSummary};
use crate::base::digest::sha256_of;

const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 12;
/// Version and key id.
const HEAD_BYTES: usize = 1 + KEY_ID_BYTES;
const HANDLE_LABEL: &[u8] = b"cedargate session handle v1";
const HEADER_LABEL: &[u8] = b"cedargate session card v1";
const BODY_LABEL: &[u8] = b"cedargate session body v1";
const SHARED_LABEL: &[u8] = b"cedargate shared value v1";
const BROWSER_LABEL: &[u8] = b"cedargate trip v1";

/// The reason why a value does not open.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OpenError {
    #[error("it is not a sealed value of this version")]
    Form,
    #[error("no key of the ring sealed it (sessions.key_file)")]
    UnknownKey,
    #[error("it was changed, moved, or sealed elsewhere")]
    Broken,
}

/// The cryptographic library failed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the value cannot be sealed")]
pub struct SealError;

/// The part of a session that the server's keys open without the cookie: the operator's view, and the state of rotation
/// and renewal.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SealedHeader {
    #[serde(flatten)]
    pub summary: SessionSummary,
    /// Hex of the handle of the session's first id.
    pub lineage: String,
    /// Unix milliseconds after which this id is refused; set once its successor was used.
    pub ends_at: Option<i64>,
    /// Hex of the handle of the id that this one was rotated to.
    pub successor: Option<String>,
    /// No request has used this rotated id yet; the previous id stays valid until one does.
    #[serde(default, rename = "unproven")]
    pub unconfirmed: bool,
    /// Processes that asked the provider to renew the grant and have not written the result: the stored grant may be
    /// spent.
    #[serde(default, rename = "asked")]
    pub renewal_claims: Vec<RenewalClaim>,
    /// Unix milliseconds of the last renewal.
    #[serde(default)]
    pub renewed_at: Option<i64>,
}

/// The claim of one process to renew a session.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RenewalClaim {
    /// Unix milliseconds.
    pub renewing_since: i64,
    /// Random name of the process.
    pub by: String,
}

impl SealedHeader {
    /// Orders the ids of one session for a listing: the highest rank is the current id.
    pub fn rank(&self) -> u8 {
        match (self.unconfirmed, &self.successor) {
            (false, None) => 2,
            (false, Some(_)) => 1,
            (true, _) => 0,
        }
    }
}

/// The previous and the next id of a rotated session. They are in the body, which only the cookie opens: the holder of
/// an id may learn the next id and may end the previous one.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct RotationLinks {
    #[serde(with = "link")]
    pub previous: Option<SessionId>,
    #[serde(with = "link")]
    pub next: Option<SessionId>,
}

/// A session's value, opened.
#[derive(Clone, Debug)]
pub struct OpenedSession {
    pub header: SealedHeader,
    pub data: SessionData,
    pub links: RotationLinks,
    pub version: [u8; 32],
}

/// A value as it was read from the store, and opened.
pub struct StoredSession {
    /// The sealed bytes, for a compare-and-set.
    pub raw: Vec<u8>,
    pub opened: OpenedSession,
}

/// One server key.
pub struct RingKey {
    /// Names the key in sealed values. A hash, which does not reveal the key.
    pub id: [u8; KEY_ID_BYTES],
    secret: Redacted<[u8; 32]>,
}

/// The server's keys. Never empty, because the first key is a field of its own.
pub struct KeyRing {
    first: RingKey,
    others: Vec<RingKey>,
}

/// The output length of HKDF: 32 bytes.
struct KeyBytes;

impl KeyType for KeyBytes {
    fn len(&self) -> usize {
        32
    }
}

impl RingKey {
    fn new(secret: [u8; 32]) -> Self {
        let hash = sha256_of(&[b"cedargate key id v1", &secret]);
        let mut id = [0; KEY_ID_BYTES];
        for (to, from) in id.iter_mut().zip(hash) {
            *to = from;
        }
        Self {
            id,
            secret: Redacted::new(secret),
        }
    }

    /// Derives the key of one purpose; `None` if the cryptographic library fails.
    pub fn derive(&self, salt: &[u8], info: &[&[u8]]) -> Option<RandomizedNonceKey> {
        RandomizedNonceKey::new(&AES_256_GCM, &self.derived_bytes(salt, info)?).ok()
    }

    /// Derives a key for the tags of one purpose; `None` if the cryptographic library fails.
    pub fn derive_mac(&self, salt: &[u8], info: &[&[u8]]) -> Option<hmac::Key> {
        Some(hmac::Key::new(hmac::HMAC_SHA256, &self.derived_bytes(salt, info)?))
    }

    fn derived_bytes(&self, salt: &[u8], info: &[&[u8]]) -> Option<[u8; 32]> {
        let mut info_bytes = Vec::new();
        for part in info {
            info_bytes.extend_from_slice(&u32::try_from(part.len()).ok()?.to_be_bytes());
            info_bytes.extend_from_slice(part);
        }
        let mut key = [0; 32];
        let extracted = Salt::new(HKDF_SHA256, salt).extract(self.secret.expose());
        extracted.expand(&[&info_bytes], KeyBytes).ok()?.fill(&mut key).ok()?;
        Some(key)
    }
}

impl KeyRing {
    pub fn sealing(&self) -> &RingKey {
        &self.first
    }

    pub fn find(&self, id: &[u8]) -> Option<&RingKey> {
        self.keys().find(|key| key.id == id)
    }

    /// Every key; the one that seals is the first.
    pub fn keys(&self) -> impl Iterator<Item = &RingKey> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

/// Seals and opens for one deployment.
pub struct Seal {
    pub keys: ActiveKeyRing,
    /// `sessions.redis.key_prefix`. A value sealed under one prefix does not open under another.
    pub prefix: String,
}

impl Seal {
    pub fn handle(id: &SessionId) -> Handle {
        Handle(sha256_of(&[HANDLE_LABEL, id.0.expose()]))
    }

    pub fn session(
        &self,
        id: &SessionId,
        header: &SealedHeader,
        data: &SessionData,
        links: &RotationLinks,
    ) -> Result<Vec<u8>, SealError> {
        let handle = Self::handle(id);
        let ring = self.keys.ring.load();
        let key = ring.sealing();
        let header = serde_json::to_vec(header).map_err(|_unlikely| SealError)?;
        let mut data = serde_json::to_vec(data).map_err(|_unlikely| SealError)?;
        data.extend(serde_json::to_vec(links).map_err(|_unlikely| SealError)?);
        let aad = self.bound_to(HEADER_LABEL, &handle.0, key);
        let header = seal(&self.header_key(key).ok_or(SealError)?, &aad, header)?;
        let aad = [self.bound_to(BODY_LABEL, &handle.0, key), header.clone()].concat();
        let body = seal(&self.body_key(key, id, handle).ok_or(SealError)?, &aad, data)?;
        let length = u32::try_from(header.len()).map_err(|_huge| SealError)?;
        Ok([&[VERSION][..], &key.id, &length.to_be_bytes(), &header, &body].concat())
    }

    pub fn open_session(&self, id: &SessionId, value: &[u8]) -> Result<OpenedSession, OpenError> {
        let handle = Self::handle(id);
        let ring = self.keys.ring.load();
        let parts = SealedParts::read(value)?;
        let key = ring.find(parts.key_id).ok_or(OpenError::UnknownKey)?;
        let header = self.open_header_part(&parts, key, handle)?;
        let aad = [&self.bound_to(BODY_LABEL, &handle.0, key), parts.header].concat();
        let body_key = self.body_key(key, id, handle).ok_or(OpenError::Broken)?;
        let body = open(&body_key, &aad, parts.body)?;
        let mut texts = serde_json::Deserializer::from_slice(&body);
        let data = SessionData::deserialize(&mut texts).map_err(|_may_quote| OpenError::Form)?;
        // values sealed before rotation existed have no links
        let links = RotationLinks::deserialize(&mut texts).unwrap_or_default();
        Ok(OpenedSession {
            header,
            data,
            links,
            version: sha256_of(&[&handle.0, &body]),
        })
    }

    /// Opens the header, for which no cookie is needed.
    pub fn open_header(&self, handle: Handle, value: &[u8]) -> Result<SealedHeader, OpenError> {
        let ring = self.keys.ring.load();
        let parts = SealedParts::read(value)?;
        let key = ring.find(parts.key_id).ok_or(OpenError::UnknownKey)?;
        self.open_header_part(&parts, key, handle)
    }

    /// Seals a small value for other replicas, bound to the store's key under which it is stored.
    pub fn shared(&self, store_key: &[u8], value: &[u8]) -> Result<Vec<u8>, SealError> {
        self.seal_with(SHARED_LABEL, b"", store_key, value)
    }

    pub fn open_shared(&self, store_key: &[u8], value: &[u8]) -> Result<Vec<u8>, OpenError> {
        self.open_with(SHARED_LABEL, b"", store_key, value)
    }

    /// Seals a value that passes through the browser. Opening it needs the same secret.
    pub fn for_browser(&self, secret: &[u8], value: &[u8]) -> Result<String, SealError> {
        let sealed = self.seal_with(BROWSER_LABEL, secret, b"", value)?;
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    pub fn open_from_browser(&self, secret: &[u8], text: &str) -> Result<Vec<u8>, OpenError> {
        let sealed = URL_SAFE_NO_PAD.decode(text).map_err(|_may_quote| OpenError::Form)?;
        self.open_with(BROWSER_LABEL, secret, b"", &sealed)
    }

    fn seal_with(&self, label: &[u8], salt: &[u8], context: &[u8], value: &[u8]) -> Result<Vec<u8>, SealError> {
        let ring = self.keys.ring.load();
        let key = ring.sealing();
        let own = key.derive(salt, &[label, self.prefix.as_bytes(), context]).ok_or(SealError)?;
        let sealed = seal(&own, &self.bound_to(label, context, key), value.to_vec())?;
        Ok([&[VERSION][..], &key.id, &sealed].concat())
    }

    fn open_with(&self, label: &[u8], salt: &[u8], context: &[u8], value: &[u8]) -> Result<Vec<u8>, OpenError> {
        let ring = self.keys.ring.load();
        let (key_id, sealed) = split_key_id(value)?;
        let key = ring.find(key_id).ok_or(OpenError::UnknownKey)?;
        let own = key.derive(salt, &[label, self.prefix.as_bytes(), context]);
        open(&own.ok_or(OpenError::Broken)?, &self.bound_to(label, context, key), sealed)
    }

    fn open_header_part(&self, parts: &SealedParts<'_>, key: &RingKey, handle: Handle) -> Result<SealedHeader, OpenError> {
        let header_key = self.header_key(key).ok_or(OpenError::Broken)?;
        let header = open(&header_key, &self.bound_to(HEADER_LABEL, &handle.0, key), parts.header)?;
        serde_json::from_slice(&header).map_err(|_may_quote| OpenError::Form)
    }

    fn header_key(&self, key: &RingKey) -> Option<RandomizedNonceKey> {
        key.derive(b"", &[HEADER_LABEL, self.prefix.as_bytes()])
    }

    fn body_key(&self, key: &RingKey, id: &SessionId, handle: Handle) -> Option<RandomizedNonceKey> {
        key.derive(id.0.expose(), &[BODY_LABEL, self.prefix.as_bytes(), &handle.0])
    }

    /// The associated data of a sealed part: label, deployment, context and key, each with its length.
    fn bound_to(&self, label: &[u8], context: &[u8], key: &RingKey) -> Vec<u8> {
        let mut aad = vec![VERSION];
        for part in [label, self.prefix.as_bytes(), context, &key.id] {
            aad.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            aad.extend_from_slice(part);
        }
        aad
    }
}

/// The parts of a session's value, still sealed.
struct SealedParts<'a> {
    key_id: &'a [u8],
    header: &'a [u8],
    body: &'a [u8],
}

impl<'a> SealedParts<'a> {
    fn read(value: &'a [u8]) -> Result<Self, OpenError> {
        let (key_id, rest) = split_key_id(value)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(OpenError::Form)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_huge| OpenError::Form)?;
        let (header, body) = rest.split_at_checked(length).ok_or(OpenError::Form)?;
        Ok(Self { key_id, header, body })
    }
}

/// Checks the version; returns the key id and the rest.
fn split_key_id(value: &[u8]) -> Result<(&[u8], &[u8]), OpenError> {
    let (head, rest) = value.split_at_checked(HEAD_BYTES).ok_or(OpenError::Form)?;
    match head.split_first() {
        Some((&VERSION, key_id)) => Ok((key_id, rest)),
        _ => Err(OpenError::Form),
    }
}

fn seal(key: &RandomizedNonceKey, aad: &[u8], mut plain: Vec<u8>) -> Result<Vec<u8>, SealError> {
    let nonce = key.seal_in_place_append_tag(Aad::from(aad), &mut plain);
    let nonce = nonce.map_err(|_unspecified| SealError)?;
    let mut sealed = nonce.as_ref().to_vec();
    sealed.append(&mut plain);
    Ok(sealed)
}

fn open(key: &RandomizedNonceKey, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let (nonce, text) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Form)?;
    let mut text = text.to_vec();
    let plain = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), &mut text);
    let length = plain.map_err(|_unspecified| OpenError::Broken)?.len();
    text.truncate(length);
    Ok(text)
}

impl From<SealError> for StoreError {
    fn from(error: SealError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<OpenError> for StoreError {
    fn from(error: OpenError) -> Self {
        Self::Refused(error.to_string())
    }
}

mod link {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::SessionId;
    use cedargate_policy::types::Redacted;

    pub fn serialize<S: Serializer>(id: &Option<SessionId>, to: S) -> Result<S::Ok, S::Error> {
        id.as_ref().map(|id| URL_SAFE_NO_PAD.encode(id.0.expose())).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SessionId>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let bytes = text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        Ok(bytes.map(|bytes| SessionId(Redacted::new(bytes))))
    }
}

#[cfg(test)]
mod tests;
