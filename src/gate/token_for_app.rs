//! The token that a permitted request carries to the app in `Authorization`, where the gate gives one
//! (`upstream.token`).
//!
//! SECURITY: a failure refuses the request. The client's own token never takes the place of the gate's.

use std::sync::Arc;

use cedargate_policy::denial::{Denial, Refusal};
use http::HeaderValue;

use super::{ActivePortal, Gate};
use crate::authn::{ExchangeError, SubjectToken};
use crate::config::UpstreamToken;
use crate::portals::{Caller, Credential};

impl Gate {
    /// The provider's token for the app, if the portal exchanges tokens. `presented`: the token of the request.
    pub(super) async fn exchanged_token(
        &self,
        active_portal: ActivePortal<'_>,
        caller: Option<&Arc<Caller>>,
        presented: Option<&str>,
    ) -> Result<Option<HeaderValue>, Refusal> {
        let (UpstreamToken::Exchange(settings), Some(caller)) = (&active_portal.portal.token, caller) else {
            return Ok(None);
        };
        let identity = &caller.proven.identity;
        let token = match &caller.proven.credential {
            Credential::Token(_) | Credential::Introspected { .. } => presented,
            Credential::Session(session) => session.data.grant.as_ref().map(|grant| grant.access_token.expose().as_str()),
            Credential::Certificate => None,
        };
        let unavailable = |detail: String| Refusal::new(Denial::KeyUnavailable, detail);
        let token = token.ok_or_else(|| unavailable("the caller has no token that could be exchanged for the app".to_owned()))?;
        let subject = SubjectToken {
            token,
            issuer: &identity.issuer,
            subject: &identity.subject,
            expires_at: identity.expires_at,
        };
        // boxed: few portals exchange tokens
        let exchanged = Box::pin(self.exchange.exchange(settings, subject)).await;
        exchanged
            .map(Some)
            .map_err(|error| match (&error, &caller.proven.credential) {
                // a session stays: its own token is renewed beside it
                (ExchangeError::Refused(_), Credential::Token(_) | Credential::Introspected { .. }) => {
                    Refusal::new(Denial::TokenInvalid, error.to_string())
                }
                _ => unavailable(error.to_string()),
            })
    }

    /// `Authorization` for the app: the exchanged token, or the assertion.
    pub(super) fn authorization_for_app(
        active_portal: ActivePortal<'_>,
        exchanged: Option<HeaderValue>,
        assertion: &HeaderValue,
    ) -> Option<HeaderValue> {
        match &active_portal.portal.token {
            UpstreamToken::Exchange(_) => exchanged,
            UpstreamToken::Assertion if !assertion.is_empty() => {
                let mut value = HeaderValue::try_from([b"Bearer ", assertion.as_bytes()].concat()).ok()?;
                value.set_sensitive(true);
                Some(value)
            }
            UpstreamToken::Assertion | UpstreamToken::Passthrough | UpstreamToken::None => None,
        }
    }
}
