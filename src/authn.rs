//! Who is calling, from a bearer JWT.
//!
//! On the path after the portal is known, before `authz`. The token is taken apart strictly (`authn/jws.rs`), its
//! issuer is one that the portal trusts or it ends here, its signature is checked with that issuer's own keys
//! (`authn/keys.rs`), and only then do its claims become an `Identity`. Must never accept what it cannot prove: every
//! doubt is a `TokenError`. Nothing here caches a decision; a remembered token is re-checked on every use.

mod assertion;
mod cache;
mod error;
mod id_token;
mod introspection;
mod jwk;
mod jws;
mod keys;
mod mint;
mod signer;

#[cfg(test)]
mod attack_tests;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod refresh_tests;
#[cfg(test)]
mod wycheproof_tests;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use prometheus::IntCounter;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::assertion::{AssertionClaims, AssertionError, AssertionKeys, Returned, is_assertion};
pub use self::cache::{TokenCache, token_hash};
pub use self::error::TokenError;
pub use self::id_token::{Expected, IdToken, LogoutToken, granted, kept_claims};
pub use self::introspection::{Ground, Introspection};
use self::jwk::Choice;
use self::jws::{Compact, Typ};
use self::keys::IssuerKeys;
pub use self::keys::{FetchError, check_url, discovery_url};
pub use self::mint::{inspect, mint};
pub use self::signer::SigningKey;
use crate::base::metrics::Metrics;
use crate::config::{Algorithm, Issuer, KeySource};
use crate::denial::{Denial, Refusal};
use crate::types::Identity;
pub use cedargate_policy::claims::Window;
use cedargate_policy::claims::{self, TokenHeader};

/// How often the age of the keys is published.
const AGE_INTERVAL: Duration = Duration::from_secs(5);

/// Why no authenticator could be built.
#[derive(Debug, thiserror::Error)]
pub enum AuthnError {
    #[error("issuers[{index}]: {source}")]
    Source { index: usize, source: FetchError },
    #[error("cannot set up the https client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Every configured issuer with its keys. Shared by all workers; the keys are refreshed by `run`.
pub struct Authn {
    issuers: Vec<IssuerState>,
    token_bytes: usize,
    metrics: Metrics,
}

struct IssuerState {
    config: Issuer,
    leeway: i64,
    keys: IssuerKeys,
    accepted: IntCounter,
}

/// Who is calling, and what to look at when the same token comes again.
#[derive(Clone, Debug)]
pub struct Verified {
    pub identity: Identity,
    pub proof: Proof,
}

/// What a verified token rests on: its time and its key.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Index into `Config::issuers`.
    pub issuer: usize,
    pub window: Window,
    generation: u64,
    thumbprint: [u8; 32],
    algorithm: Algorithm,
}

/// What `/status` says of an issuer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuerStatus {
    pub name: Arc<str>,
    pub keys: usize,
    /// Seconds since the keys were last confirmed; `None` before the first time.
    pub age: Option<i64>,
    pub last_error: Option<String>,
}

/// Why a token cannot be judged without waiting.
enum Pause {
    FirstKeys,
    UnknownKid { kid: String, generation: u64 },
}

/// A synchronous look at a token.
enum Look {
    Done(Box<Verified>),
    Wait(usize, Pause),
}

/// Whose signature it is.
enum Signed {
    By { thumbprint: [u8; 32], generation: u64 },
    Wait(Pause),
}

impl Authn {
    /// Fails on a key source that may not be used; nothing is fetched yet.
    pub fn new(issuers: &[Issuer], token_bytes: usize, metrics: Metrics) -> Result<Arc<Self>, AuthnError> {
        let remote = issuers
            .iter()
            .any(|issuer| !matches!(issuer.keys, KeySource::File(_) | KeySource::NoTokens));
        let client = if remote { Some(keys::client()?) } else { None };
        let mut states = Vec::with_capacity(issuers.len());
        for (index, issuer) in issuers.iter().enumerate() {
            match &issuer.keys {
                KeySource::Url(url) => keys::check_url(url, issuer.key_transport),
                KeySource::Discovery => keys::check_url(&keys::discovery_url(&issuer.scope.issuer), issuer.key_transport),
                KeySource::File(_) | KeySource::NoTokens => Ok(()),
            }
            .map_err(|source| AuthnError::Source { index, source })?;
            states.push(IssuerState {
                config: issuer.clone(),
                leeway: i64::try_from(issuer.leeway.as_secs()).unwrap_or(i64::MAX),
                keys: IssuerKeys::new(issuer, client.clone(), metrics.clone()),
                accepted: metrics.token_validations.with_label_values(&[&*issuer.scope.name, "ok"]),
            });
        }
        Ok(Arc::new(Self {
            issuers: states,
            token_bytes,
            metrics,
        }))
    }

    /// Keeps every issuer's keys fresh until stopped. Belongs on the control runtime.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let with_keys = self.issuers.iter().enumerate();
        let with_keys = with_keys.filter(|(_, issuer)| issuer.config.keys != KeySource::NoTokens);
        for (index, _) in with_keys {
            let (authn, stop) = (Arc::clone(&self), stop.clone());
            tasks.spawn(async move {
                if let Some(issuer) = authn.issuers.get(index) {
                    issuer.keys.refresh(stop).await;
                }
            });
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(AGE_INTERVAL) => self.publish_ages(keys::unix_now()),
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Checks a token against the issuers a portal trusts (indexes into `Config::issuers`). Waits, with a deadline,
    /// only for the first keys or for one refetch after an unknown key id.
    pub async fn verify(&self, token: &str, trusted: &[usize], now: i64) -> Result<Verified, TokenError> {
        let (outcome, issuer) = self.verify_uncounted(token, trusted, now).await;
        self.count(issuer, &outcome);
        outcome
    }

    /// The same without waiting; `None` if only waiting could tell.
    pub fn try_verify(&self, token: &str, trusted: &[usize], now: i64) -> Option<Result<Verified, TokenError>> {
        let mut issuer = None;
        let outcome = match self.look(token, trusted, now, &mut issuer) {
            Ok(Look::Done(verified)) => Ok(*verified),
            Ok(Look::Wait(..)) => return None,
            Err(error) => Err(error),
        };
        self.count(issuer, &outcome);
        Some(outcome)
    }

    /// Whether what was proven still holds: time, key, age of the keys. For every use of a remembered token.
    pub fn recheck(&self, proof: &Proof, now: i64) -> Result<(), TokenError> {
        proof.window.check(now)?;
        let issuer = self.issuers.get(proof.issuer).ok_or(TokenError::IssuerUnknown)?;
        let snapshot = issuer.keys.snapshot();
        let set = snapshot.as_ref().ok_or_else(|| issuer.unavailable("none were ever read"))?;
        if issuer.keys.is_stale(now) {
            return Err(issuer.unavailable("the last good ones are past jwks.max_age"));
        }
        if set.generation == proof.generation || set.holds(&proof.thumbprint, proof.algorithm) {
            return Ok(());
        }
        Err(TokenError::KeyGone { issuer: issuer.name() })
    }

    /// What `/status` shows.
    pub fn status(&self) -> Vec<IssuerStatus> {
        let now = keys::unix_now();
        self.issuers
            .iter()
            .filter(|issuer| issuer.config.keys != KeySource::NoTokens)
            .map(|issuer| {
                let snapshot = issuer.keys.snapshot();
                IssuerStatus {
                    name: Arc::clone(&issuer.config.scope.name),
                    keys: snapshot.as_ref().map_or(0, |set| set.keys.len()),
                    age: snapshot.as_ref().map(|_| issuer.keys.age(now)),
                    last_error: issuer.keys.last_error(),
                }
            })
            .collect()
    }

    async fn verify_uncounted(&self, token: &str, trusted: &[usize], now: i64) -> (Result<Verified, TokenError>, Option<usize>) {
        let mut issuer = None;
        for attempt in [Attempt::First, Attempt::Last] {
            match self.look(token, trusted, now, &mut issuer) {
                Ok(Look::Done(verified)) => return (Ok(*verified), issuer),
                Err(error) => return (Err(error), issuer),
                Ok(Look::Wait(index, pause)) => {
                    if let Some(error) = self.wait(index, pause, attempt).await {
                        return (Err(error), issuer);
                    }
                }
            }
        }
        // INVARIANT: waiting on the last attempt always gives an error.
        (Err(TokenError::malformed("its key could not be settled")), issuer)
    }

    /// Waits for what is missing; an error if that is in vain.
    async fn wait(&self, index: usize, pause: Pause, attempt: Attempt) -> Option<TokenError> {
        let Some(issuer) = self.issuers.get(index) else {
            return Some(TokenError::IssuerUnknown);
        };
        match (pause, attempt) {
            (Pause::FirstKeys, Attempt::First) => {
                issuer.keys.wait_for_first().await;
                None
            }
            (Pause::FirstKeys, Attempt::Last) => Some(issuer.unavailable("none were read yet")),
            (Pause::UnknownKid { kid, generation }, Attempt::First) => {
                let fetched = issuer.keys.refetch_for(&kid, generation).await;
                (!fetched).then(|| issuer.unknown_kid())
            }
            (Pause::UnknownKid { kid, generation }, Attempt::Last) => {
                issuer.keys.remember_unknown(&kid, generation);
                Some(issuer.unknown_kid())
            }
        }
    }

    fn look(&self, token: &str, trusted: &[usize], now: i64, who: &mut Option<usize>) -> Result<Look, TokenError> {
        let parsed = jws::parse(token, self.token_bytes, Typ::Bearer)?;
        let iss = match parsed.claims.get("iss") {
            Some(Value::String(iss)) if !iss.is_empty() => iss,
            _ => return Err(TokenError::claim("iss", "is missing, empty or no string")),
        };
        let (index, issuer) = trusted
            .iter()
            .filter_map(|index| self.issuers.get(*index).map(|issuer| (*index, issuer)))
            .find(|(_, issuer)| issuer.config.scope.issuer == *iss && issuer.config.keys != KeySource::NoTokens)
            .ok_or(TokenError::IssuerUnknown)?;
        *who = Some(index);
        issuer.look(index, parsed, now)
    }

    fn count(&self, issuer: Option<usize>, outcome: &Result<Verified, TokenError>) {
        let state = issuer.and_then(|index| self.issuers.get(index));
        match (outcome, state) {
            (Ok(_), Some(issuer)) => issuer.accepted.inc(),
            (Ok(_), None) => {}
            (Err(error), state) => {
                let name = state.map_or("unknown", |issuer| &*issuer.config.scope.name);
                let labels = [name, error.denial().code()];
                self.metrics.token_validations.with_label_values(&labels).inc();
            }
        }
    }

    fn publish_ages(&self, now: i64) {
        for issuer in self.issuers.iter().filter(|issuer| issuer.keys.snapshot().is_some()) {
            let age = u32::try_from(issuer.keys.age(now)).unwrap_or(u32::MAX);
            self.metrics
                .jwks_age
                .with_label_values(&[&*issuer.config.scope.name])
                .set(f64::from(age));
        }
    }
}

/// A token is looked at twice at most.
#[derive(Clone, Copy)]
enum Attempt {
    First,
    Last,
}

impl IssuerState {
    fn look(&self, index: usize, token: Compact<'_>, now: i64) -> Result<Look, TokenError> {
        let (thumbprint, generation) = match self.signed(&token, now)? {
            Signed::By { thumbprint, generation } => (thumbprint, generation),
            Signed::Wait(pause) => return Ok(Look::Wait(index, pause)),
        };
        let window = claims::window(&token.claims, self.leeway)?;
        window.check(now)?;
        let proof = Proof {
            issuer: index,
            window,
            generation,
            thumbprint,
            algorithm: token.header.algorithm,
        };
        let identity = {
            let header = TokenHeader {
                kid: token.header.kid,
                alg: jws::algorithm_name(token.header.algorithm),
            };
            claims::token_identity(&self.config.scope, header, token.claims, window)?
        };
        Ok(Look::Done(Box::new(Verified { identity, proof })))
    }

    /// Which of the issuer's keys made the signature. For every token that it signs, whatever it is for.
    fn signed(&self, token: &Compact<'_>, now: i64) -> Result<Signed, TokenError> {
        let algorithm = token.header.algorithm;
        if !self.config.algorithms.contains(&algorithm) {
            return Err(TokenError::Algorithm { issuer: self.name() });
        }
        let snapshot = self.keys.snapshot();
        let Some(set) = snapshot.as_ref() else {
            return Ok(Signed::Wait(Pause::FirstKeys));
        };
        if self.keys.is_stale(now) {
            return Err(self.unavailable("the last good ones are past jwks.max_age"));
        }
        let candidates = match set.choose(token.header.kid.as_deref(), algorithm) {
            Choice::Keys(keys) => keys,
            Choice::Unusable(why) => {
                return Err(TokenError::Key {
                    issuer: self.name(),
                    why,
                });
            }
            Choice::UnknownKid => {
                let kid = token.header.kid.clone().unwrap_or_default();
                let generation = set.generation;
                return Ok(Signed::Wait(Pause::UnknownKid { kid, generation }));
            }
        };
        let input = token.signing_input.as_bytes();
        let key = candidates
            .into_iter()
            .find(|key| key.verifies(algorithm, input, &token.signature))
            .ok_or_else(|| TokenError::Signature { issuer: self.name() })?;
        Ok(Signed::By {
            thumbprint: key.thumbprint,
            generation: set.generation,
        })
    }

    fn name(&self) -> String {
        self.config.scope.name.to_string()
    }

    fn unavailable(&self, why: &'static str) -> TokenError {
        TokenError::KeysUnavailable {
            issuer: self.name(),
            why,
        }
    }

    fn unknown_kid(&self) -> TokenError {
        TokenError::Key {
            issuer: self.name(),
            why: "no published key has the token's `kid`",
        }
    }
}

/// The bearer token of a request. `None` without `Authorization`; another scheme is a bad token, not an absent one.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Refusal::new(Denial::RequestInvalid, "several `authorization` headers"));
    }
    let invalid = |why| Refusal::new(Denial::TokenInvalid, why);
    // whether it is ASCII, every character of the token says below
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_not_text| invalid("`authorization` is not visible ASCII"))?;
    let (scheme, token) = text
        .split_once(' ')
        .ok_or_else(|| invalid("`authorization` holds no credential"))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(invalid("`authorization` has another scheme than Bearer"));
    }
    // every byte is looked at, so that the compiler looks at many at once
    let is_sound = token.bytes().fold(true, |sound, byte| sound & is_token68(byte));
    if token.is_empty() || !is_sound {
        return Err(invalid("the bearer token is empty or holds foreign characters"));
    }
    Ok(Some(token))
}

/// RFC 9110, section 11.2. Without a branch.
fn is_token68(byte: u8) -> bool {
    let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    // `-`, `.`, `/` and the digits are neighbours
    let digit = byte.wrapping_sub(b'-') < 13;
    letter | digit | (byte == b'_') | (byte == b'~') | (byte == b'+') | (byte == b'=')
}
