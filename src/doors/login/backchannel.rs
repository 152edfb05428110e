//! `POST auth/backchannel-logout`: the provider ends sessions (OIDC Back-Channel Logout 1.0).
//!
//! The signed logout token is the only credential: no cookie, no origin. 200 once everything it names has ended, else 400.

use std::sync::Arc;

use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::{IdentityDoor, Visit, form, json as json_answer};
use crate::audit::{AuthEvent, Event};
use crate::denial::{Denial, Refusal};
use crate::http::upstream::Body;
use crate::login::{LoginCode, LoginFailure, LogoutOrder};
use crate::session::Revocation;

impl IdentityDoor {
    pub(super) async fn backchannel_logout(&self, visit: &Visit<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
        let fields = form(visit.head, body).await?;
        let token = fields.iter().find(|(name, _)| name == "logout_token").map(|(_, token)| token);
        let token = token.ok_or_else(|| Refusal::new(Denial::RequestInvalid, "the form has no `logout_token`"))?;
        let done = match self.login.logout_token(token).await {
            Ok(order) => self.carry_out(visit, order).await,
            Err(failure) => {
                self.tell(self.auth_event(visit, "logout"), Err(&failure));
                Err(failure)
            }
        };
        Ok(match done {
            Ok(()) => Response::new(Body::empty()),
            Err(failure) => refused(&failure),
        })
    }

    async fn carry_out(&self, visit: &Visit<'_>, order: LogoutOrder) -> Result<(), LoginFailure> {
        for what in order.revocations {
            let mut event = self.auth_event(visit, "logout");
            event.provider = Some(Arc::clone(&order.provider));
            event.issuer = Some(Arc::clone(&order.issuer));
            if let Revocation::Subject { subject, .. } = &what {
                event.subject = Some(subject.clone());
            }
            let revoked = self.sessions.revoke(what).await;
            let revoked = revoked.map_err(|error| LoginFailure::new(LoginCode::StoreUnavailable, error.to_string()));
            self.tell(event, revoked.as_ref().map(|_| ()));
            if let Err(failure) = revoked {
                // the provider may send the same token again
                if let Err(error) = self.sessions.forget("logout", &order.mark).await {
                    tracing::warn!(%error, "a logout token that ended nothing stays marked as used");
                }
                return Err(failure);
            }
        }
        Ok(())
    }

    fn tell(&self, mut event: AuthEvent, outcome: Result<(), &LoginFailure>) {
        (event.result, event.reason) = match outcome {
            Ok(()) => ("success", "backchannel_logout"),
            Err(failure) => ("failure", failure.code.code()),
        };
        event.detail = outcome.err().map(|failure| failure.detail.clone());
        self.audit.send(Event::Auth(Box::new(event)));
    }
}

/// Section 2.8: the text says what went wrong and nothing of whom it was about.
fn refused(failure: &LoginFailure) -> Response<Body> {
    let (error, description) = match failure.code {
        LoginCode::StoreUnavailable | LoginCode::ProviderUnavailable => ("temporarily_unavailable", "try again"),
        _ => ("invalid_request", "the logout token is not accepted"),
    };
    json_answer(
        StatusCode::BAD_REQUEST,
        &json!({"error": error, "error_description": description}),
    )
}
