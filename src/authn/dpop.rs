//! Checks a DPoP proof (RFC 9449): the sender of a request shows that it holds the key that its token is bound to.
//!
//! `read` checks everything that the proof says by itself: its form, its signature by the key that it brings, method,
//! URL, token. Its key then is the sender's `Possession`, with which the token is verified. `ProofLog::accept` comes
//! last: the issuer's bounds of time, the nonce, and that no proof counts twice. A proof is thus remembered only for a
//! token that is valid, so that senders without one cannot fill the log.
//!
//! The log is of this process. Where replicas share a store, the caller of `accept` asks the store, too, whether a
//! proof counts first, and nonces carry the tag of a key that all replicas have. Without a shared store, a nonce is
//! valid in the process that made it alone, so with `dpop.nonce` a proof counts once among all replicas.

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{hmac, rand};
use cedargate_policy::claims::{Thumbprint, time};
use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use serde_json::Value;

use super::AuthnError;
use super::error::TokenError;
use super::jwk::PublicKey;
use super::jws::{self, TokenKind};
use crate::base::clock::unix_seconds;
use crate::base::digest::{sha256, sha256_of};
use crate::config::Dpop;

/// Longest proof, in bytes.
const PROOF_BYTES_MAX: usize = 8 * 1024;
/// Longest `jti`, in bytes.
const JTI_BYTES_MAX: usize = 256;
/// Seconds by which the client's clock may be ahead.
const AHEAD: i64 = 5;
/// Life of a nonce.
const NONCE_LIFE: Duration = Duration::from_secs(300);
/// Age from which an accepted nonce is answered with a fresh one.
const NONCE_RENEWAL: Duration = Duration::from_secs(150);
/// Bytes of a nonce's time and of its tag.
const NONCE_TIME_BYTES: usize = 8;
const NONCE_TAG_BYTES: usize = 16;

/// The request that a proof must be for.
pub struct ProofTarget<'a> {
    pub method: &'a str,
    /// True if `htu` is the URL of the request.
    pub is_url: &'a dyn Fn(&str) -> bool,
    /// The access token of the request.
    pub token: &'a str,
}

/// A proof that fits its request, and whose key signed it.
#[derive(Debug)]
pub struct DpopProof {
    /// Thumbprint of the key (RFC 7638).
    pub key: Thumbprint,
    issued_at: i64,
    nonce: Option<String>,
    /// Names the proof in the log, and in a shared store.
    pub id: [u8; 32],
}

/// The keys of nonces: the first one makes them, each of them checks. `Shared` by all replicas, which then share a
/// store of the proofs that counted, too.
pub enum NonceKeys {
    OfThisProcess,
    Shared(Vec<hmac::Key>),
}

/// A proof that counts, as far as this process knows.
#[derive(Debug)]
pub struct AcceptedProof {
    /// The nonce for the client's next proofs; `None` if the one that it used stays valid for long.
    pub next_nonce: Option<String>,
}

/// The proofs that counted, in two sets of one span of time each: an entry stays for at least one span, and no entry is
/// looked at to be removed.
pub struct ProofLog {
    seen: Mutex<SeenProofs>,
    /// `limits.dpop_proofs`.
    proofs_max: usize,
    /// Seconds for which a proof could count again.
    span: i64,
    /// A proof from before this second may have counted in a process before this one.
    started_at: i64,
    nonce_key: hmac::Key,
}

/// The reason for which a sound proof does not count.
#[derive(Debug)]
pub enum ProofError {
    Refused(TokenError),
    /// The client should come again with this nonce.
    NonceNeeded(String),
    /// The log has no room (`limits.dpop_proofs`).
    Full,
    /// The store that the replicas share does not answer.
    Store(String),
}

impl From<TokenError> for ProofError {
    fn from(error: TokenError) -> Self {
        Self::Refused(error)
    }
}

struct SeenProofs {
    current: FxHashSet<[u8; 32]>,
    before: FxHashSet<[u8; 32]>,
    /// Unix second at which `current` began.
    since: i64,
}

impl DpopProof {
    /// Reads the proof of a request and checks that it is for this request and token.
    ///
    /// # Errors
    /// The proof is malformed, not signed by its key, or for another request or token.
    pub fn read(proof: &str, target: &ProofTarget<'_>) -> Result<Self, TokenError> {
        if proof.len() > PROOF_BYTES_MAX {
            return Err(refused("is longer than 8 KiB"));
        }
        let parsed = jws::parse(proof, PROOF_BYTES_MAX, TokenKind::Proof);
        let parsed = parsed.map_err(|error| TokenError::Proof(format!("is malformed: {error}").into()))?;
        let claims = &parsed.claims;
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let jti = text("jti").filter(|jti| (1..=JTI_BYTES_MAX).contains(&jti.len()));
        let jti = jti.ok_or_else(|| refused("has no `jti` of 1 to 256 bytes"))?;
        if text("htm") != Some(target.method) {
            return Err(refused("is for another method (`htm`)"));
        }
        if !text("htu").is_some_and(target.is_url) {
            return Err(refused("is for another URL (`htu`)"));
        }
        if text("ath") != Some(jws::encode(sha256(target.token.as_bytes())).as_str()) {
            return Err(refused("is for another token (`ath`)"));
        }
        let issued_at = time(claims, "iat").ok().flatten();
        let issued_at = issued_at.ok_or_else(|| refused("has no time (`iat`)"))?;
        let nonce = match claims.get("nonce") {
            None => None,
            Some(Value::String(nonce)) => Some(nonce.clone()),
            Some(_) => return Err(refused("has a malformed `nonce`")),
        };
        let jwk = parsed.header.jwk.as_ref().ok_or_else(|| refused("brings no key (`jwk`)"))?;
        let key = PublicKey::parse(jwk).map_err(|_unusable| refused("brings a key that cannot be used (`jwk`)"))?;
        if !key.verifies(parsed.header.algorithm, parsed.signing_input.as_bytes(), &parsed.signature) {
            return Err(refused("is not signed by its key"));
        }
        Ok(Self {
            key: key.thumbprint,
            issued_at,
            nonce,
            id: sha256_of(&[&key.thumbprint, jti.as_bytes()]),
        })
    }
}

impl ProofLog {
    /// # Errors
    /// There is no randomness for the key of nonces.
    pub fn new(settings: impl Iterator<Item = Dpop>, proofs_max: usize) -> Result<Self, AuthnError> {
        let longest = settings.map(|dpop| dpop.max_age).max().unwrap_or_default();
        let mut secret = [0; 32];
        rand::fill(&mut secret).map_err(|_unspecified| AuthnError::Randomness)?;
        Ok(Self {
            seen: Mutex::new(SeenProofs {
                current: FxHashSet::default(),
                before: FxHashSet::default(),
                since: unix_seconds(),
            }),
            proofs_max,
            span: seconds(longest).saturating_add(AHEAD).saturating_add(1),
            started_at: unix_seconds(),
            nonce_key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
        })
    }

    /// The time for which a shared store must remember a proof.
    pub fn memory(&self) -> Duration {
        Duration::from_secs(self.span.unsigned_abs())
    }

    /// Lets a proof count, once in this process, for an issuer with these settings. The token was verified with the
    /// proof's key.
    ///
    /// # Errors
    /// The proof is too old or from the future, has no fresh nonce, or counted before; or the log is full.
    pub fn accept(&self, proof: &DpopProof, settings: &Dpop, keys: &NonceKeys, now: i64) -> Result<AcceptedProof, ProofError> {
        let age = now.saturating_sub(proof.issued_at);
        if age > seconds(settings.max_age) {
            return Err(refused("is older than issuers[].dpop.max_age").into());
        }
        if age < -AHEAD {
            return Err(refused("is from the future (`iat`)").into());
        }
        let mut next_nonce = None;
        if settings.nonce {
            let keys = match keys {
                NonceKeys::OfThisProcess => std::slice::from_ref(&self.nonce_key),
                NonceKeys::Shared(keys) => keys,
            };
            let age = proof.nonce.as_deref().and_then(|nonce| age_of_nonce(nonce, keys, now));
            let Some(age) = age.filter(|age| *age <= seconds(NONCE_LIFE)) else {
                return Err(ProofError::NonceNeeded(nonce(keys.first(), now)?));
            };
            next_nonce = (age >= seconds(NONCE_RENEWAL))
                .then(|| nonce(keys.first(), now))
                .transpose()?;
        } else if matches!(keys, NonceKeys::OfThisProcess) && proof.issued_at < self.started_at {
            return Err(refused("is older than this process, which cannot know whether it counted before").into());
        }
        let mut seen = self.seen.lock();
        seen.turn(now, self.span);
        if seen.current.contains(&proof.id) || seen.before.contains(&proof.id) {
            return Err(refused("counted before (`jti`)").into());
        }
        if seen.current.len() + seen.before.len() >= self.proofs_max {
            return Err(ProofError::Full);
        }
        seen.current.insert(proof.id);
        Ok(AcceptedProof { next_nonce })
    }
}

/// A nonce: its time, and a tag that only the holders of the key can make.
///
/// # Errors
/// There is no key: the cryptographic library failed.
fn nonce(key: Option<&hmac::Key>, now: i64) -> Result<String, TokenError> {
    let key = key.ok_or_else(|| refused("cannot be given a nonce"))?;
    let time = now.to_be_bytes();
    let tag = hmac::sign(key, &time);
    let tag = tag.as_ref().get(..NONCE_TAG_BYTES).unwrap_or_default();
    Ok(jws::encode([&time, tag].concat()))
}

/// Seconds since a nonce was made with one of these keys; `None` if none of them made it, or if it is from the future.
fn age_of_nonce(text: &str, keys: &[hmac::Key], now: i64) -> Option<i64> {
    let bytes = jws::decode(text).unwrap_or_default();
    let made_at = i64::from_be_bytes(*bytes.first_chunk::<NONCE_TIME_BYTES>()?);
    let is_made_with = |key: &hmac::Key| {
        let expected = nonce(Some(key), made_at).unwrap_or_default();
        verify_slices_are_equal(expected.as_bytes(), text.as_bytes()).is_ok()
    };
    let age = now.saturating_sub(made_at);
    (age >= -AHEAD && keys.iter().any(is_made_with)).then_some(age)
}

impl SeenProofs {
    /// Forgets the proofs of the span before the last one.
    fn turn(&mut self, now: i64, span: i64) {
        let age = now.saturating_sub(self.since);
        if age < span {
            return;
        }
        self.before = std::mem::take(&mut self.current);
        if age >= span.saturating_mul(2) {
            self.before.clear();
        }
        self.since = now;
    }
}

fn refused(why: &'static str) -> TokenError {
    TokenError::Proof(why.into())
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
