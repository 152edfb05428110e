//! The DPoP proof of a request, from its header to the moment at which it counts.
//!
//! `read` checks the proof by itself. Then the caller of this file verifies the token with the proof's key. `admit`
//! comes last: it lets the proof count once, in this process and among the replicas that share Redis. A store that does
//! not answer refuses.

use std::sync::Arc;

use cedargate_policy::denial::{Denial, DpopChallenge, Refusal};
use http::{HeaderMap, HeaderValue};

use super::AuthnError;
use super::dpop::{AcceptedProof, DpopProof, NonceKeys, ProofError, ProofLog, ProofTarget};
use super::error::TokenError;
use crate::base::clock::unix_seconds;
use crate::config::{Config, Dpop};
use crate::session::Sessions;

/// The header of the proof.
const PROOF: &str = "dpop";
/// Purpose of the key of nonces.
const NONCE_LABEL: &[u8] = b"cedargate dpop nonce v1";

/// Everything that tells whether a proof counts.
pub struct Proofs {
    log: ProofLog,
    config: Arc<Config>,
    sessions: Arc<Sessions>,
}

impl Proofs {
    /// # Errors
    /// There is no randomness for the key of nonces.
    pub fn new(config: &Arc<Config>, sessions: &Arc<Sessions>) -> Result<Arc<Self>, AuthnError> {
        let dpop = config.issuers.iter().filter_map(|issuer| issuer.dpop);
        Ok(Arc::new(Self {
            log: ProofLog::new(dpop, config.limits.dpop_proofs.as_usize())?,
            config: Arc::clone(config),
            sessions: Arc::clone(sessions),
        }))
    }

    /// The proof of a request, which is for this request and its token.
    ///
    /// # Errors
    /// There is no proof or more than one, or it is malformed or for another request or token.
    pub fn read(headers: &HeaderMap, target: &ProofTarget<'_>) -> Result<DpopProof, Refusal> {
        let read = single(headers).and_then(|proof| DpopProof::read(proof, target));
        read.map_err(|error| bad_proof(error, target.token))
    }

    /// The refusal of a token that came with a proof.
    pub fn bad_token(refusal: Refusal) -> Refusal {
        refusal.challenged(challenge("invalid_token"))
    }

    /// Lets the proof of a verified token of this issuer count, once. Returns the nonce for the client's next proofs,
    /// if the one that it used ends soon.
    ///
    /// # Errors
    /// The proof is too old, lacks a fresh nonce or counted before; or the log is full, or the store does not answer.
    pub async fn admit(&self, proof: &DpopProof, token: &str, issuer: &str) -> Result<Option<HeaderValue>, Refusal> {
        let issuer = self.config.issuers.iter().find(|known| &*known.scope.name == issuer);
        // INVARIANT: a token of an issuer without `dpop` was refused with the proof's key
        let settings = issuer.and_then(|issuer| issuer.dpop.as_ref()).ok_or(Denial::TokenInvalid)?;
        match self.count_once(proof, settings).await {
            Ok(accepted) => {
                let next = accepted.next_nonce.as_deref().map(HeaderValue::from_str);
                Ok(next.and_then(Result::ok))
            }
            Err(ProofError::Refused(error)) => Err(bad_proof(error, token)),
            Err(ProofError::NonceNeeded(nonce)) => {
                let refusal = TokenError::Proof("has no fresh nonce".into()).refusal_of(token);
                Err(refusal.challenged(DpopChallenge {
                    nonce: Some(nonce),
                    ..challenge("use_dpop_nonce")
                }))
            }
            Err(ProofError::Store(why)) => Err(Refusal::new(Denial::StoreUnavailable, why)),
            Err(ProofError::Full) => Err(Refusal::over_limit(Denial::Overloaded, "limits.dpop_proofs")),
        }
    }

    async fn count_once(&self, proof: &DpopProof, settings: &Dpop) -> Result<AcceptedProof, ProofError> {
        let keys = match self.sessions.shared_macs(NONCE_LABEL) {
            None => NonceKeys::OfThisProcess,
            Some(keys) => NonceKeys::Shared(keys),
        };
        let accepted = self.log.accept(proof, settings, &keys, unix_seconds())?;
        if let NonceKeys::OfThisProcess = keys {
            return Ok(accepted);
        }
        let first = self.sessions.first("dpop", &proof.id, self.log.memory()).await;
        match first.map_err(|error| ProofError::Store(error.to_string()))? {
            true => Ok(accepted),
            false => Err(TokenError::Proof("counted before, at another replica (`jti`)".into()).into()),
        }
    }
}

/// The only proof of a request.
fn single(headers: &HeaderMap) -> Result<&str, TokenError> {
    let mut all = headers.get_all(PROOF).iter().map(HeaderValue::to_str);
    match (all.next(), all.next()) {
        (Some(Ok(proof)), None) => Ok(proof),
        (None, _) => Err(TokenError::Proof("is missing".into())),
        _ => Err(TokenError::Proof("is not a single header of visible ASCII".into())),
    }
}

fn bad_proof(error: TokenError, token: &str) -> Refusal {
    error.refusal_of(token).challenged(challenge("invalid_dpop_proof"))
}

fn challenge(error: &'static str) -> DpopChallenge {
    DpopChallenge {
        error: Some(error),
        nonce: None,
    }
}
