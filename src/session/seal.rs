//! What leaves the process is sealed: sessions, small shared values, and the state of logins.
//!
//! A session's value is `version | key id | length | card | body`, each part `nonce | ciphertext | tag` of AES-256-GCM. The
//! card opens with the ring, so that an operator can list sessions. The body's key comes from the ring *and* the cookie's id,
//! so neither a dump of the store nor the ring alone opens it. Both are bound to deployment and handle, and the body to
//! the very card beside it: a value that was moved, mixed or changed does not open.

pub mod keys;

use aws_lc_rs::aead::{Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use self::keys::{KEY_ID_BYTES, Keys, RingKey};
use super::cookie::SessionId;
use super::record::{Card, Handle, SessionData};

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;
/// Version and key id.
const HEAD_BYTES: usize = 1 + KEY_ID_BYTES;
const HANDLE_LABEL: &[u8] = b"cedargate session handle v1";
const CARD_LABEL: &[u8] = b"cedargate session card v1";
const BODY_LABEL: &[u8] = b"cedargate session body v1";
const SHARED_LABEL: &[u8] = b"cedargate shared value v1";
const TRIP_LABEL: &[u8] = b"cedargate trip v1";

/// Why a value does not open.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OpenError {
    #[error("it is no sealed value of this version")]
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

/// What the operator may see, and what the store's keeper needs without a cookie.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct StoredCard {
    #[serde(flatten)]
    pub card: Card,
    /// Hex of the first id's handle.
    pub lineage: String,
    /// Unix milliseconds after which this id is no good: it was rotated.
    pub ends_at: Option<i64>,
    /// Hex of the handle that came after it.
    pub successor: Option<String>,
    /// Nobody came with this id yet: the one before it goes on until somebody does.
    #[serde(default)]
    pub unproven: bool,
    /// Those who asked the provider to renew the grant and did not write what came of it: the grant may be spent.
    #[serde(default)]
    pub asked: Vec<Asked>,
    /// Unix milliseconds of the last renewal.
    #[serde(default)]
    pub renewed_at: Option<i64>,
}

/// A process that renews a session.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Asked {
    /// Unix milliseconds.
    pub renewing_since: i64,
    /// The process' random name.
    pub by: String,
}

impl StoredCard {
    /// Of several ids of one session the highest is the one that it goes by.
    pub fn rank(&self) -> u8 {
        match (self.unproven, &self.successor) {
            (false, None) => 2,
            (false, Some(_)) => 1,
            (true, _) => 0,
        }
    }
}

/// The ids around this one. They open with its cookie alone: who has it may have the next, and may end the one before.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Links {
    #[serde(with = "link")]
    pub previous: Option<SessionId>,
    #[serde(with = "link")]
    pub next: Option<SessionId>,
}

/// A session's value, open.
#[derive(Clone, Debug)]
pub struct Opened {
    pub card: StoredCard,
    pub data: SessionData,
    pub links: Links,
    pub version: [u8; 32],
}

/// Seals and opens for one deployment.
pub struct Seal {
    pub keys: Keys,
    /// `sessions.redis.key_prefix`: what is sealed under one does not open under another.
    pub prefix: String,
}

impl Seal {
    pub fn handle(id: &SessionId) -> Handle {
        Handle(sha256(&[HANDLE_LABEL, id.0.expose()]))
    }

    pub fn session(
        &self,
        id: &SessionId,
        card: &StoredCard,
        (data, links): (&SessionData, &Links),
    ) -> Result<Vec<u8>, SealError> {
        let handle = Self::handle(id);
        let ring = self.keys.ring();
        let key = ring.sealing();
        let card = serde_json::to_vec(card).map_err(|_unlikely| SealError)?;
        let mut data = serde_json::to_vec(data).map_err(|_unlikely| SealError)?;
        data.extend(serde_json::to_vec(links).map_err(|_unlikely| SealError)?);
        let aad = self.bound(CARD_LABEL, &handle.0, key);
        let card = seal(&self.card_key(key).ok_or(SealError)?, &aad, card)?;
        let aad = [self.bound(BODY_LABEL, &handle.0, key), card.clone()].concat();
        let body = seal(&self.body_key(key, id, handle).ok_or(SealError)?, &aad, data)?;
        let length = u32::try_from(card.len()).map_err(|_huge| SealError)?;
        Ok([&[VERSION][..], &key.id, &length.to_be_bytes(), &card, &body].concat())
    }

    pub fn open_session(&self, id: &SessionId, value: &[u8]) -> Result<Opened, OpenError> {
        let handle = Self::handle(id);
        let ring = self.keys.ring();
        let parts = Parts::read(value)?;
        let key = ring.find(parts.key_id).ok_or(OpenError::UnknownKey)?;
        let card = self.open_parts_card(&parts, key, handle)?;
        let aad = [&self.bound(BODY_LABEL, &handle.0, key), parts.card].concat();
        let body_key = self.body_key(key, id, handle).ok_or(OpenError::Broken)?;
        let body = open(&body_key, &aad, parts.body)?;
        let mut texts = serde_json::Deserializer::from_slice(&body);
        let data = SessionData::deserialize(&mut texts).map_err(|_may_quote| OpenError::Form)?;
        // what was sealed before there were any has none
        let links = Links::deserialize(&mut texts).unwrap_or_default();
        Ok(Opened {
            card,
            data,
            links,
            version: sha256(&[&handle.0, &body]),
        })
    }

    /// What can be seen without the cookie.
    pub fn open_card(&self, handle: Handle, value: &[u8]) -> Result<StoredCard, OpenError> {
        let ring = self.keys.ring();
        let parts = Parts::read(value)?;
        let key = ring.find(parts.key_id).ok_or(OpenError::UnknownKey)?;
        self.open_parts_card(&parts, key, handle)
    }

    /// A small value for other replicas, bound to where it is kept.
    pub fn shared(&self, place: &[u8], value: &[u8]) -> Result<Vec<u8>, SealError> {
        self.seal_with(SHARED_LABEL, b"", place, value)
    }

    pub fn open_shared(&self, place: &[u8], value: &[u8]) -> Result<Vec<u8>, OpenError> {
        self.open_with(SHARED_LABEL, b"", place, value)
    }

    /// A value that goes through the browser; only who has the secret as well brings it back.
    pub fn trip(&self, secret: &[u8], value: &[u8]) -> Result<String, SealError> {
        let sealed = self.seal_with(TRIP_LABEL, secret, b"", value)?;
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    pub fn open_trip(&self, secret: &[u8], text: &str) -> Result<Vec<u8>, OpenError> {
        let sealed = URL_SAFE_NO_PAD.decode(text).map_err(|_may_quote| OpenError::Form)?;
        self.open_with(TRIP_LABEL, secret, b"", &sealed)
    }

    fn seal_with(&self, label: &[u8], salt: &[u8], place: &[u8], value: &[u8]) -> Result<Vec<u8>, SealError> {
        let ring = self.keys.ring();
        let key = ring.sealing();
        let own = key.derive(salt, &[label, self.prefix.as_bytes(), place]).ok_or(SealError)?;
        let sealed = seal(&own, &self.bound(label, place, key), value.to_vec())?;
        Ok([&[VERSION][..], &key.id, &sealed].concat())
    }

    fn open_with(&self, label: &[u8], salt: &[u8], place: &[u8], value: &[u8]) -> Result<Vec<u8>, OpenError> {
        let ring = self.keys.ring();
        let (key_id, sealed) = head(value)?;
        let key = ring.find(key_id).ok_or(OpenError::UnknownKey)?;
        let own = key.derive(salt, &[label, self.prefix.as_bytes(), place]);
        open(&own.ok_or(OpenError::Broken)?, &self.bound(label, place, key), sealed)
    }

    fn open_parts_card(&self, parts: &Parts<'_>, key: &RingKey, handle: Handle) -> Result<StoredCard, OpenError> {
        let card_key = self.card_key(key).ok_or(OpenError::Broken)?;
        let card = open(&card_key, &self.bound(CARD_LABEL, &handle.0, key), parts.card)?;
        serde_json::from_slice(&card).map_err(|_may_quote| OpenError::Form)
    }

    fn card_key(&self, key: &RingKey) -> Option<RandomizedNonceKey> {
        key.derive(b"", &[CARD_LABEL, self.prefix.as_bytes()])
    }

    fn body_key(&self, key: &RingKey, id: &SessionId, handle: Handle) -> Option<RandomizedNonceKey> {
        key.derive(id.0.expose(), &[BODY_LABEL, self.prefix.as_bytes(), &handle.0])
    }

    /// What a sealed part belongs to.
    fn bound(&self, label: &[u8], place: &[u8], key: &RingKey) -> Vec<u8> {
        let mut aad = vec![VERSION];
        for part in [label, self.prefix.as_bytes(), place, &key.id] {
            aad.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            aad.extend_from_slice(part);
        }
        aad
    }
}

/// Where the parts of a session's value lie.
struct Parts<'a> {
    key_id: &'a [u8],
    card: &'a [u8],
    body: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(value: &'a [u8]) -> Result<Self, OpenError> {
        let (key_id, rest) = head(value)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(OpenError::Form)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_huge| OpenError::Form)?;
        let (card, body) = rest.split_at_checked(length).ok_or(OpenError::Form)?;
        Ok(Self { key_id, card, body })
    }
}

fn head(value: &[u8]) -> Result<(&[u8], &[u8]), OpenError> {
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

pub(super) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// No two lists of parts have the same bytes: each goes with its length.
pub(super) fn sha256_of_parts(kind: u8, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(&[kind]);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

mod link {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::SessionId;
    use crate::types::Redacted;

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
