//! The caller of a token that comes with a DPoP proof (RFC 9449).
//!
//! The order is fixed: the proof by itself, then the token with the proof's key, then whether the proof may still
//! count. A URL in a proof must be one of the portal's own: the origin that its configuration says, or the requested
//! host where the configuration names it. A `Host` that only the client chose proves nothing.

use std::sync::Arc;

use cedargate_policy::claims::Possession;
use cedargate_policy::denial::{Denial, DpopChallenge, Refusal};
use cedargate_policy::portal::path::CanonicalPath;
use http::header::HOST;
use http::{HeaderMap, HeaderValue};
use url::Url;

use super::record::Progress;
use super::{ActivePortal, Gate, RequestHead};
use crate::authn::{AcceptedProof, DpopProof, NonceKeys, PresentedToken, ProofError, ProofTarget, TokenError};
use crate::base::clock::unix_seconds;
use crate::config::Dpop;
use crate::portals::Caller;

/// The header of the proof.
const PROOF: &str = "dpop";
/// Purpose of the key of nonces.
const NONCE_LABEL: &[u8] = b"cedargate dpop nonce v1";

impl Gate {
    /// The caller of the scheme `DPoP`.
    pub(super) async fn caller_by_proof(
        &self,
        head: &RequestHead,
        active_portal: ActivePortal<'_>,
        token: &str,
        progress: &mut Progress,
    ) -> Result<Arc<Caller>, Refusal> {
        let bad_proof = |error: TokenError| error.refusal_of(token).challenged(challenge("invalid_dpop_proof"));
        let target = ProofTarget {
            method: head.parts.method.as_str(),
            is_url: &|url| self.is_own_url(head, active_portal, url),
            token,
        };
        let read = single(&head.parts.headers).and_then(|proof| DpopProof::read(proof, &target));
        let proof = read.map_err(bad_proof)?;
        let possession = Possession {
            key: Some(proof.key),
            ..head.possession()
        };
        let caller = self.caller(active_portal, PresentedToken { token, possession }).await;
        let caller = caller.map_err(|refusal| refusal.challenged(challenge("invalid_token")))?;
        let issuer = &caller.proven.identity.issuer;
        let issuer = self.config.issuers.iter().find(|known| known.scope.name == *issuer);
        // INVARIANT: a token of an issuer without `dpop` was refused with the proof's key
        let settings = issuer.and_then(|issuer| issuer.dpop.as_ref()).ok_or(Denial::TokenInvalid)?;
        match self.count_once(&proof, settings).await {
            Ok(accepted) => {
                let next = accepted.next_nonce.as_deref().map(HeaderValue::from_str);
                progress.next_nonce = next.and_then(Result::ok);
                Ok(caller)
            }
            Err(ProofError::Refused(error)) => Err(bad_proof(error)),
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

    /// Lets a proof count once: in this process, and then among the replicas that share the store. A store that does not answer
    /// refuses.
    async fn count_once(&self, proof: &DpopProof, settings: &Dpop) -> Result<AcceptedProof, ProofError> {
        let keys = match self.sessions.shared_macs(NONCE_LABEL) {
            None => NonceKeys::OfThisProcess,
            Some(keys) => NonceKeys::Shared(keys),
        };
        let accepted = self.proofs.accept(proof, settings, &keys, unix_seconds())?;
        if let NonceKeys::OfThisProcess = keys {
            return Ok(accepted);
        }
        let first = self.sessions.first("dpop", &proof.id, self.proofs.memory()).await;
        match first.map_err(|error| ProofError::Store(error.to_string()))? {
            true => Ok(accepted),
            false => Err(TokenError::Proof("counted before, at another replica (`jti`)".into()).into()),
        }
    }

    /// True if a proof's URL is that of the request. Query and fragment do not count (RFC 9449, section 4.3).
    fn is_own_url(&self, head: &RequestHead, active_portal: ActivePortal<'_>, text: &str) -> bool {
        let Ok(url) = Url::parse(text) else { return false };
        if !url.username().is_empty() || url.password().is_some() {
            return false;
        }
        let origin = url.origin().ascii_serialization();
        let portal = &active_portal.portal.config;
        let is_configured = self.config.origin_of(portal, &head.client.host).as_deref() == Some(&origin);
        let is_requested = !portal.matches.hosts.is_empty() && requested_origin(head).as_deref() == Some(&origin);
        let is_path = CanonicalPath::parse_request(url.path()).is_ok_and(|path| path.as_str() == head.path.as_str());
        is_path && (is_configured || is_requested)
    }
}

/// Scheme, host and port as the client asked for them.
fn requested_origin(head: &RequestHead) -> Option<String> {
    let authority = match head.parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => head.parts.headers.get(HOST)?.to_str().ok()?,
    };
    let url = Url::parse(&format!("{}://{authority}", head.client.scheme.as_str())).ok()?;
    (url.host_str() == Some(head.client.host.as_str())).then(|| url.origin().ascii_serialization())
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

fn challenge(error: &'static str) -> DpopChallenge {
    DpopChallenge {
        error: Some(error),
        nonce: None,
    }
}
