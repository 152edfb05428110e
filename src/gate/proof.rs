//! The caller of a token that comes with a DPoP proof (RFC 9449).
//!
//! The order is fixed: the proof by itself, then the token with the proof's key, then whether the proof may still
//! count.

use std::sync::Arc;

use cedargate_policy::claims::Possession;
use cedargate_policy::denial::Refusal;

use super::record::Progress;
use super::{ActivePortal, Gate, RequestHead};
use crate::authn::{PresentedToken, ProofTarget, Proofs};
use crate::http::request::AskedUrl;
use crate::portals::Caller;

impl Gate {
    /// The caller of the scheme `DPoP`.
    pub(super) async fn caller_by_proof(
        &self,
        head: &RequestHead,
        active_portal: ActivePortal<'_>,
        token: &str,
        progress: &mut Progress,
    ) -> Result<Arc<Caller>, Refusal> {
        let portal = active_portal.portal;
        let asked = AskedUrl::of(&head.parts, &head.client);
        let target = ProofTarget {
            method: head.parts.method.as_str(),
            is_url: &|url| asked.is(url, &self.config, &portal.config),
            token,
        };
        let proof = Proofs::read(&head.parts.headers, &target)?;
        let possession = Possession {
            key: Some(proof.key),
            ..head.possession()
        };
        let caller = self.caller(active_portal, PresentedToken { token, possession }).await;
        let caller = caller.map_err(Proofs::bad_token)?;
        progress.next_nonce = self.proofs.admit(&proof, token, &caller.proven.identity.issuer).await?;
        Ok(caller)
    }
}
