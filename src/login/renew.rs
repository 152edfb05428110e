//! Renews a session's grant and claims at the provider.
//!
//! Two results end the session: the provider says that the grant is over, or the new claims are about another subject.
//! Any other error after the provider gave new tokens keeps these tokens with the old claims: the provider may have
//! rotated the refresh token, and losing the new one would end the session at the next renewal.

use std::sync::Arc;

use cedargate_policy::claims::tenant_of_session;
use cedargate_policy::types::Redacted;
use serde_json::{Map, Value};

use super::claims::carry_over;
use super::complete::refresh_at;
use super::provider::{OidcProvider, Tokens};
use super::{ProviderError, RelyingParty};
use crate::audit::{AuthAct, AuthFact, AuthSubject, Event, LoginCode};
use crate::authn::{ExpectedIdToken, decode_id_token_claims, map_claims};
use crate::base::clock::unix_millis;
use crate::session::{Grant, Handle, RefreshError, SessionData};

/// Milliseconds until the next renewal if the claims could not be renewed.
const RETRY_MILLIS: i64 = 30 * 1000;

impl RelyingParty {
    /// Renews a session's grant and claims at the provider, and writes one audit record of the result.
    pub async fn renew(self: Arc<Self>, session: Handle, data: SessionData) -> Result<SessionData, RefreshError> {
        let about = AuthSubject {
            portal: Some(Arc::from(data.portal.as_str())),
            provider: Some(Arc::from(data.provider.as_str())),
            issuer: Some(Arc::from(data.issuer.as_str())),
            subject: Some(data.subject.clone()),
            tenant: self.tenant_of(&data),
            session: Some(session.to_hex()),
            ..AuthSubject::default()
        };
        let renewed = self.request_renewal(data).await;
        let event = match &renewed {
            Ok(_) => about.succeeded(AuthAct::Refresh, AuthFact::Renewed),
            Err(RefreshError::Ended(_) | RefreshError::Foreign(_)) => about.failed(AuthAct::Refresh, AuthFact::GrantEnded),
            Err(RefreshError::Temporary(_)) => about.failed(AuthAct::Refresh, LoginCode::ProviderUnavailable),
        };
        let detail = renewed.as_ref().err().map(ToString::to_string);
        self.audit.send(&Event::Auth(Box::new(event.with_detail(detail))));
        renewed
    }

    fn tenant_of(&self, data: &SessionData) -> Option<String> {
        let provider = self.oidc(&data.provider).ok()?;
        tenant_of_session(&data.claims, &provider.issuer.scope.claims).map(str::to_owned)
    }

    async fn request_renewal(&self, data: SessionData) -> Result<SessionData, RefreshError> {
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
        let now = unix_millis();
        let id_token = tokens.id_token.take();
        match claims {
            Ok(claims) => {
                let mut renewed = with_claims(provider, data, claims)?;
                renewed.grant = Some(renewed_grant(grant, tokens, id_token, now));
                Ok(renewed)
            }
            Err(error @ ProviderError::Mismatch(_)) => Err(RefreshError::Foreign(error.to_string())),
            Err(error) => {
                tracing::warn!(provider = &*provider.name, %error, "claims not renewed, the old ones stay for now");
                let mut unchanged = data;
                let mut grant = renewed_grant(grant, tokens, None, now);
                grant.refresh_at = Some(now.saturating_add(RETRY_MILLIS));
                unchanged.grant = Some(grant);
                Ok(unchanged)
            }
        }
    }

    /// The claims of the new ID token; those of the stored ID token if the provider sent no new one.
    async fn renewed_claims(
        &self,
        provider: &OidcProvider,
        data: &SessionData,
        tokens: &Tokens,
    ) -> Result<Map<String, Value>, ProviderError> {
        let stored = data
            .grant
            .as_ref()
            .and_then(|grant| decode_id_token_claims(grant.id_token.expose()));
        let mut claims = stored.unwrap_or_else(|| (*data.claims).clone());
        if let Some(raw) = &tokens.id_token {
            let expected = ExpectedIdToken {
                audience: &provider.client_id,
                nonce: None,
                access_token: tokens.access_token.expose(),
            };
            let id = self.authn.verify_id_token(provider.index, raw.expose(), expected).await?;
            if claims.get("sub").and_then(Value::as_str) != Some(&id.subject) {
                return Err(ProviderError::Mismatch(
                    "the renewed ID token is about another subject (`sub`)".to_owned(),
                ));
            }
            claims = id.claims;
        }
        carry_over(&data.claims, &mut claims);
        self.login_claims(provider, claims, &tokens.access_token).await
    }
}

/// The session data with new claims; an error if they are about another subject.
fn with_claims(provider: &OidcProvider, mut data: SessionData, claims: Map<String, Value>) -> Result<SessionData, RefreshError> {
    // claims that `granted` refuses (a tenant that the issuer may not assert) are stored: every portal refuses them,
    // too
    if map_claims(&provider.issuer, &claims).is_ok_and(|granted| granted.subject != data.subject) {
        return Err(RefreshError::Foreign(
            "the renewed claims are about another subject".to_owned(),
        ));
    }
    data.claims = Arc::new(claims);
    Ok(data)
}

/// The grant with the new tokens. Without a new `id_token` the old one stays: the session still has its claims.
fn renewed_grant(old: Grant, tokens: Tokens, id_token: Option<Redacted<String>>, now: i64) -> Grant {
    let refresh_token = tokens.refresh_token.or(old.refresh_token);
    Grant {
        refresh_at: refresh_at(refresh_token.as_ref(), tokens.expires_in, now),
        id_token: id_token.unwrap_or(old.id_token),
        refresh_token,
        access_token: tokens.access_token,
    }
}
