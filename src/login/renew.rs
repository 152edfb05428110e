//! A session's grant and claims, renewed at the provider.
//!
//! Only a provider that says the grant is over, or that now speaks of somebody else, ends a session. Whatever else goes wrong
//! after new tokens were given keeps them, with the old claims: a rotated refresh token that is lost would end it, too.

use serde_json::{Map, Value};
use std::sync::Arc;

use super::claims::{carry_over, complete, privileges_differ};
use super::complete::refresh_at;
use super::provider::{Oidc, Tokens};
use super::{Login, ProviderError, now_millis};
use crate::audit::{AuthEvent, Event};
use crate::authn::{ExpectedIdToken, decode_id_token_claims, map_claims};
use crate::session::{Grant, Handle, RefreshError, SessionData};
use crate::types::Redacted;

/// Milliseconds until claims that could not be renewed are tried again.
const RETRY: i64 = 30 * 1000;

impl Login {
    /// Renews a session's grant and claims at the provider. Recorded, whatever comes of it.
    pub async fn renew(self: Arc<Self>, session: Handle, data: SessionData) -> Result<SessionData, RefreshError> {
        let mut event = AuthEvent {
            event: "refresh",
            portal: Some(Arc::from(data.portal.as_str())),
            provider: Some(Arc::from(data.provider.as_str())),
            issuer: Some(Arc::from(data.issuer.as_str())),
            subject: Some(data.subject.clone()),
            tenant: self.tenant_of(&data),
            session: Some(session.to_hex()),
            ..AuthEvent::default()
        };
        let renewed = self.renewed(data).await;
        (event.result, event.reason) = match &renewed {
            Ok(_) => ("success", "renewed"),
            Err(RefreshError::Ended(_) | RefreshError::Foreign(_)) => ("failure", "grant_ended"),
            Err(RefreshError::Temporary(_)) => ("failure", "provider_unavailable"),
        };
        event.detail = renewed.as_ref().err().map(ToString::to_string);
        self.audit.send(Event::Auth(Box::new(event)));
        renewed
    }

    /// As its provider's issuer says it, if it may.
    fn tenant_of(&self, data: &SessionData) -> Option<String> {
        let provider = self.oidc(&data.provider).ok()?;
        map_claims(&provider.issuer, &data.claims).ok()?.tenant
    }

    async fn renewed(&self, data: SessionData) -> Result<SessionData, RefreshError> {
        let temporary = |why: &str| RefreshError::Temporary(why.to_owned());
        let provider = self
            .oidc(&data.provider)
            .map_err(|_unknown| temporary("its provider is not configured any more"))?;
        let grant = data.grant.clone().ok_or_else(|| temporary("there is no grant to renew"))?;
        let old = grant
            .refresh_token
            .as_ref()
            .ok_or_else(|| temporary("there is no refresh token"))?;
        let mut tokens = provider.refresh(old).await.map_err(|error| match error {
            ProviderError::InvalidGrant => RefreshError::Ended(error.to_string()),
            _ => RefreshError::Temporary(error.to_string()),
        })?;
        let claims = self.renewed_claims(provider, &data, &tokens).await;
        let now = now_millis();
        let id_token = tokens.id_token.take();
        match claims {
            Ok(claims) => {
                let mut renewed = with_claims(provider, data, claims)?;
                renewed.grant = Some(renewed_grant(grant, tokens, id_token, now));
                Ok(renewed)
            }
            Err(error @ ProviderError::Other(_)) => Err(RefreshError::Foreign(error.to_string())),
            Err(error) => {
                tracing::warn!(provider = &*provider.name, %error, "claims not renewed, the old ones stay for now");
                let mut kept = data;
                let mut grant = renewed_grant(grant, tokens, None, now);
                grant.refresh_at = Some(now.saturating_add(RETRY));
                kept.grant = Some(grant);
                Ok(kept)
            }
        }
    }

    /// New claims; the ID token that was kept says what no new one says.
    async fn renewed_claims(
        &self,
        provider: &Oidc,
        data: &SessionData,
        tokens: &Tokens,
    ) -> Result<Map<String, Value>, ProviderError> {
        let kept = data
            .grant
            .as_ref()
            .and_then(|grant| decode_id_token_claims(grant.id_token.expose()));
        let mut claims = kept.unwrap_or_else(|| (*data.claims).clone());
        if let Some(raw) = &tokens.id_token {
            let expected = ExpectedIdToken {
                audience: &provider.client_id,
                nonce: None,
                access_token: tokens.access_token.expose(),
            };
            let id = self.authn.verify_id_token(provider.index, raw.expose(), expected).await?;
            if claims.get("sub").and_then(Value::as_str) != Some(&id.subject) {
                return Err(ProviderError::Other(
                    "the renewed ID token is about somebody else (`sub`)".to_owned(),
                ));
            }
            claims = id.claims;
        }
        carry_over(&data.claims, &mut claims);
        complete(provider, claims, &tokens.access_token).await
    }
}

/// The session with its new claims, if they are about the same person.
fn with_claims(provider: &Oidc, mut data: SessionData, claims: Map<String, Value>) -> Result<SessionData, RefreshError> {
    // Claims that give nothing any more (a tenant that the issuer may not assert) are kept: every portal refuses them.
    if map_claims(&provider.issuer, &claims).is_ok_and(|granted| granted.subject != data.subject) {
        return Err(RefreshError::Foreign("the renewed claims are about somebody else".to_owned()));
    }
    data.rotation_due |= privileges_differ(provider, &data.claims, &claims);
    data.claims = Arc::new(claims);
    Ok(data)
}

/// The old grant with what is new of it. `id_token`: `None` keeps the old one, whose claims are still those of the session.
fn renewed_grant(old: Grant, tokens: Tokens, id_token: Option<Redacted<String>>, now: i64) -> Grant {
    let refresh_token = tokens.refresh_token.or(old.refresh_token);
    Grant {
        refresh_at: refresh_at(refresh_token.is_some(), tokens.expires_in, now),
        id_token: id_token.unwrap_or(old.id_token),
        refresh_token,
        access_token: tokens.access_token,
    }
}
