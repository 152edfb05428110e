//! Verifies bearer tokens and turns their claims into an `Identity`; on the path after the portal is known, before the
//! decision.
//!
//! The gate parses the token strictly (`authn/jws.rs`), requires an issuer that the portal trusts, checks the signature
//! with that issuer's own keys (`authn/keys.rs`), and only then reads the claims (`cedargate_policy::claims`). Every
//! doubt is a `TokenError`. Nothing here caches a decision; `recheck` checks a cached token again on every use.
//!
//! Verification first runs without waiting. It waits only for the issuer's first keys, or for one refetch after an
//! unknown key id; each wait has a deadline, and the token is then verified once more. If the wait was in vain, the
//! token is refused.

mod assertion;
mod cache;
pub mod certificate;
mod dpop;
mod proofs;
mod endpoints;
mod error;
mod exchange;
mod id_token;
mod in_flight;
mod introspection;
mod jwk;
mod jws;
mod keys;
mod mint;
mod refusal;
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

pub use cedargate_policy::claims::Window;
use cedargate_policy::claims::{self, Binding, BoundIdentity, Possession, TokenHeader};
use cedargate_policy::types::Identity;
use prometheus::IntCounter;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::assertion::{AssertionClaims, AssertionError, AssertionKeys, VerifiedAssertion, is_assertion};
pub use self::cache::{TokenCache, token_hash};
pub use self::dpop::ProofTarget;
pub use self::error::TokenError;
pub use self::exchange::{ExchangeClient, ExchangeError, SubjectToken};
pub use self::id_token::{ExpectedAccessToken, ExpectedIdToken, IdToken, LogoutToken, decode_id_token_claims, map_claims};
pub use self::introspection::{Evidence, IntrospectionClient};
use self::jwk::{KeyChoice, PublicKey};
use self::jws::{CompactJws, TokenKind};
use self::keys::IssuerKeys;
pub use self::keys::{FetchError, check_key_file, check_url, discovery_url};
pub use self::mint::{inspect, mint};
pub use self::proofs::Proofs;
pub use self::signer::SigningKey;
use crate::base::clock::unix_seconds;
use crate::base::metrics::Metrics;
use crate::base::outbound::Clients;
use crate::config::{Algorithm, Issuer, KeySource};

/// Interval at which the metric of the keys' age is set.
const AGE_INTERVAL: Duration = Duration::from_secs(5);

/// An error of building the authenticator.
#[derive(Debug, thiserror::Error)]
pub enum AuthnError {
    #[error("issuers[{index}]: {source}")]
    Source { index: usize, source: FetchError },
    #[error("issuers[{index}]: {message}")]
    Client { index: usize, message: String },
    #[error("the random number generator failed")]
    Randomness,
}

/// All configured issuers with their keys. All workers share it; `run` refreshes the keys.
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

/// The identity of a verified token, and the proof that `recheck` needs when the same token comes again.
#[derive(Clone, Debug)]
pub struct Verified {
    pub identity: Identity,
    pub proof: TokenProof,
}

/// A token as a request presented it.
#[derive(Clone, Copy, Debug)]
pub struct PresentedToken<'a> {
    pub token: &'a str,
    /// The keys that the sender of the request proved to hold.
    pub possession: Possession,
}

/// The facts that make a verified token valid: its time window, its key, and the keys that its sender must hold.
#[derive(Clone, Debug)]
pub struct TokenProof {
    /// Index into `Config::issuers`.
    pub issuer: usize,
    pub window: Window,
    pub binding: Binding,
    generation: u64,
    thumbprint: [u8; 32],
    algorithm: Algorithm,
}

impl<'a> PresentedToken<'a> {
    /// A token whose sender proved no key: a token that is bound to one is refused.
    pub fn bearer(token: &'a str) -> Self {
        Self {
            token,
            possession: Possession::NONE,
        }
    }
}

/// An issuer as `/status` shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuerStatus {
    pub name: Arc<str>,
    pub keys: usize,
    /// Seconds since the keys were last confirmed; `None` before the first time.
    pub age: Option<i64>,
    pub last_error: Option<String>,
}

/// The keys that a verification has to wait for.
enum MissingKeys {
    /// The issuer's first key set.
    First,
    /// A newer key set than `generation`, because that one has no key `kid`.
    Kid { kid: String, generation: u64 },
}

/// Result of a verification that does not wait.
enum Attempted {
    Verified(Box<Verified>),
    NeedsKeys { issuer: usize, missing: MissingKeys },
}

/// Result of a signature check that does not wait.
enum SignatureCheck {
    Valid { thumbprint: [u8; 32], generation: u64 },
    NeedsKeys(MissingKeys),
}

impl Authn {
    /// Fails on a key source that is not permitted; nothing is fetched yet.
    pub fn new(issuers: &[Issuer], token_bytes: usize, metrics: Metrics) -> Result<Arc<Self>, AuthnError> {
        let mut clients = Clients::default();
        let mut states = Vec::with_capacity(issuers.len());
        for (index, issuer) in issuers.iter().enumerate() {
            match &issuer.keys {
                KeySource::Url(url) => keys::check_url(url, issuer.key_transport),
                KeySource::Discovery => keys::check_url(&keys::discovery_url(&issuer.scope.issuer), issuer.key_transport),
                KeySource::File(_) | KeySource::NoTokens => Ok(()),
            }
            .map_err(|source| AuthnError::Source { index, source })?;
            let client = match &issuer.keys {
                KeySource::File(_) | KeySource::NoTokens => None,
                KeySource::Url(_) | KeySource::Discovery => {
                    let client = clients.of(&issuer.egress, keys::with_deadline);
                    Some(client.map_err(|message| AuthnError::Client { index, message })?)
                }
            };
            states.push(IssuerState {
                config: issuer.clone(),
                leeway: i64::try_from(issuer.leeway.as_secs()).unwrap_or(i64::MAX),
                keys: IssuerKeys::new(issuer, client, metrics.clone()),
                accepted: metrics.token_validations.with_label_values(&[&*issuer.scope.name, "ok"]),
            });
        }
        Ok(Arc::new(Self {
            issuers: states,
            token_bytes,
            metrics,
        }))
    }

    /// Refreshes every issuer's keys until stopped. Runs on the control runtime.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let with_keys = self.issuers.iter().enumerate();
        let with_keys = with_keys.filter(|(_, issuer)| issuer.config.keys != KeySource::NoTokens);
        for (index, _) in with_keys {
            let authn = Arc::clone(&self);
            let stop = stop.clone();
            tasks.spawn(async move {
                if let Some(issuer) = authn.issuers.get(index) {
                    issuer.keys.refresh(stop).await;
                }
            });
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(AGE_INTERVAL) => self.publish_ages(unix_seconds()),
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Verifies a token of the issuers that a portal trusts (indexes into `Config::issuers`). Waits, with a deadline,
    /// only for an issuer's first keys or for one refetch after an unknown key id.
    pub async fn verify(&self, token: PresentedToken<'_>, trusted: &[usize], now: i64) -> Result<Verified, TokenError> {
        let mut issuer = None;
        let outcome = self.verify_uncounted(token, trusted, now, &mut issuer).await;
        self.count(issuer, &outcome);
        outcome
    }

    /// Verifies like `verify` without waiting; `None` if it would have to wait for keys.
    pub fn try_verify(&self, token: PresentedToken<'_>, trusted: &[usize], now: i64) -> Option<Result<Verified, TokenError>> {
        let mut issuer = None;
        let outcome = match self.attempt(token, trusted, now, &mut issuer) {
            Ok(Attempted::Verified(verified)) => Ok(*verified),
            Ok(Attempted::NeedsKeys { .. }) => return None,
            Err(error) => Err(error),
        };
        self.count(issuer, &outcome);
        Some(outcome)
    }

    /// Checks a cached token again: its time window, its key and the age of the keys. Every use of a cached token calls
    /// it, after it compared `binding` with the sender.
    pub fn recheck(&self, proof: &TokenProof, now: i64) -> Result<(), TokenError> {
        proof.window.check(now)?;
        let issuer = self.issuers.get(proof.issuer).ok_or(TokenError::IssuerUnknown)?;
        let snapshot = issuer.keys.snapshot();
        let set = snapshot.as_ref().ok_or_else(|| issuer.unavailable("none were read yet"))?;
        if issuer.keys.is_stale(now) {
            return Err(issuer.unavailable("the last good ones are past jwks.max_age"));
        }
        if set.generation == proof.generation || set.holds(&proof.thumbprint, proof.algorithm) {
            return Ok(());
        }
        Err(TokenError::KeyGone { issuer: issuer.name() })
    }

    /// Returns the issuers for `/status`.
    pub fn status(&self) -> Vec<IssuerStatus> {
        let now = unix_seconds();
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

    /// Verifies a token and stores the index of its issuer in `issuer` as soon as it is known.
    async fn verify_uncounted(
        &self,
        token: PresentedToken<'_>,
        trusted: &[usize],
        now: i64,
        issuer: &mut Option<usize>,
    ) -> Result<Verified, TokenError> {
        for pass in [VerificationPass::First, VerificationPass::Last] {
            match self.attempt(token, trusted, now, issuer)? {
                Attempted::Verified(verified) => return Ok(*verified),
                Attempted::NeedsKeys { issuer, missing } => self.wait_for_keys(issuer, missing, pass).await?,
            }
        }
        // INVARIANT: `wait_for_keys` fails on the last attempt
        Err(TokenError::malformed("its key could not be determined"))
    }

    /// Waits for missing keys. Fails if the wait was in vain, and always on the last attempt.
    async fn wait_for_keys(&self, issuer: usize, missing: MissingKeys, pass: VerificationPass) -> Result<(), TokenError> {
        let issuer = self.issuers.get(issuer).ok_or(TokenError::IssuerUnknown)?;
        match (missing, pass) {
            (MissingKeys::First, VerificationPass::First) => {
                issuer.keys.wait_for_first().await;
                Ok(())
            }
            (MissingKeys::First, VerificationPass::Last) => Err(issuer.unavailable("none were read yet")),
            (MissingKeys::Kid { kid, generation }, VerificationPass::First) => {
                let fetched = issuer.keys.refetch_for(&kid, generation).await;
                fetched.then_some(()).ok_or_else(|| issuer.unknown_kid())
            }
            (MissingKeys::Kid { kid, generation }, VerificationPass::Last) => {
                issuer.keys.remember_unknown(&kid, generation);
                Err(issuer.unknown_kid())
            }
        }
    }

    /// Verifies a token without waiting. Stores the index of its issuer in `found` as soon as it is known.
    fn attempt(
        &self,
        presented: PresentedToken<'_>,
        trusted: &[usize],
        now: i64,
        found: &mut Option<usize>,
    ) -> Result<Attempted, TokenError> {
        let parsed = jws::parse(presented.token, self.token_bytes, TokenKind::Bearer)?;
        let iss = match parsed.claims.get("iss") {
            Some(Value::String(iss)) if !iss.is_empty() => iss,
            _ => return Err(TokenError::claim("iss", "is missing, empty or not a string")),
        };
        let (index, issuer) = trusted
            .iter()
            .filter_map(|index| self.issuers.get(*index).map(|issuer| (*index, issuer)))
            .find(|(_, issuer)| issuer.config.scope.issuer == *iss && issuer.config.keys != KeySource::NoTokens)
            .ok_or(TokenError::IssuerUnknown)?;
        *found = Some(index);
        issuer.attempt(index, parsed, &presented.possession, now)
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

/// A token is verified twice at most: before and after the wait for keys.
#[derive(Clone, Copy)]
enum VerificationPass {
    First,
    Last,
}

/// Checks that an issuer's tokens may come in this way: with a DPoP proof or without one.
fn check_sender(issuer: &Issuer, possession: &Possession) -> Result<(), TokenError> {
    let why = match (&issuer.dpop, possession.key) {
        (None, Some(_)) => "its issuer has no `dpop`, so it may not come with a DPoP proof (issuers[].dpop)",
        (Some(dpop), None) if dpop.required => "its issuer demands a DPoP proof (issuers[].dpop.required)",
        _ => return Ok(()),
    };
    Err(claims::ClaimError::Bound(why).into())
}

impl IssuerState {
    fn attempt(&self, index: usize, token: CompactJws<'_>, possession: &Possession, now: i64) -> Result<Attempted, TokenError> {
        let (thumbprint, generation) = match self.check_signature(&token, now)? {
            SignatureCheck::Valid { thumbprint, generation } => (thumbprint, generation),
            SignatureCheck::NeedsKeys(missing) => return Ok(Attempted::NeedsKeys { issuer: index, missing }),
        };
        let window = claims::window(&token.claims, self.leeway)?;
        window.check(now)?;
        check_sender(&self.config, possession)?;
        let algorithm = token.header.algorithm;
        let header = TokenHeader {
            kid: token.header.kid,
            alg: jws::algorithm_name(token.header.algorithm),
        };
        let BoundIdentity { identity, binding } =
            claims::token_identity(&self.config.scope, header, token.claims, window, possession)?;
        let proof = TokenProof {
            issuer: index,
            window,
            binding,
            generation,
            thumbprint,
            algorithm,
        };
        Ok(Attempted::Verified(Box::new(Verified { identity, proof })))
    }

    /// Checks the signature with the issuer's keys and returns the key that made it. Every kind of token comes through
    /// here.
    fn check_signature(&self, token: &CompactJws<'_>, now: i64) -> Result<SignatureCheck, TokenError> {
        let algorithm = token.header.algorithm;
        if !self.config.algorithms.contains(&algorithm) {
            return Err(TokenError::Algorithm { issuer: self.name() });
        }
        let snapshot = self.keys.snapshot();
        let Some(set) = snapshot.as_ref() else {
            return Ok(SignatureCheck::NeedsKeys(MissingKeys::First));
        };
        if self.keys.is_stale(now) {
            return Err(self.unavailable("the last good ones are past jwks.max_age"));
        }
        let signed = |key: &&PublicKey| key.verifies(algorithm, token.signing_input.as_bytes(), &token.signature);
        let key = match set.choose(token.header.kid.as_deref(), algorithm) {
            KeyChoice::Keys(keys) => keys
                .into_iter()
                .find(signed)
                .ok_or_else(|| TokenError::Signature { issuer: self.name() })?,
            KeyChoice::Unusable(why) => {
                return Err(TokenError::Key {
                    issuer: self.name(),
                    why,
                });
            }
            KeyChoice::UnknownKid { unnamed } => match unnamed.filter(signed) {
                Some(key) => key,
                None => {
                    let kid = token.header.kid.clone().unwrap_or_default();
                    let generation = set.generation;
                    return Ok(SignatureCheck::NeedsKeys(MissingKeys::Kid { kid, generation }));
                }
            },
        };
        Ok(SignatureCheck::Valid {
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
