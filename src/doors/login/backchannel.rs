//! `POST auth/backchannel-logout`: the provider ends sessions (OIDC Back-Channel Logout 1.0).
//!
//! The signed logout token is the only credential; cookie and origin are not used. 200 once every session that it names has
//! ended, else 400.

use std::sync::Arc;

use cedargate_policy::denial::Refusal;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::input::Parameters;
use super::record::auth_event;
use super::{EndpointRequest, LoginDoor};
use crate::audit::{AuthEvent, Event};
use crate::http::answer;
use crate::http::upstream::Body;
use crate::login::{BackchannelLogout, LoginCode, LoginFailure};
use crate::session::Revocation;

pub(super) async fn log_out(door: &LoginDoor, request: &EndpointRequest<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
    let token = Parameters::from_form(request.head, body).await?.required("logout_token")?;
    let outcome = match door.login.accept_logout_token(&token).await {
        Ok(logout) => revoke(door, request, logout).await,
        Err(failure) => {
            record(door, auth_event(request, "logout"), Err(&failure));
            Err(failure)
        }
    };
    Ok(match outcome {
        Ok(()) => Response::new(Body::empty()),
        Err(failure) => refused(&failure),
    })
}

async fn revoke(door: &LoginDoor, request: &EndpointRequest<'_>, logout: BackchannelLogout) -> Result<(), LoginFailure> {
    for revocation in logout.revocations {
        let mut event = auth_event(request, "logout");
        event.provider = Some(Arc::clone(&logout.provider));
        event.issuer = Some(Arc::clone(&logout.issuer));
        if let Revocation::Subject { subject, .. } = &revocation {
            event.subject = Some(subject.clone());
        }
        let revoked = door.sessions.revoke(revocation).await;
        let revoked = revoked.map_err(|error| LoginFailure::store_unavailable(&error));
        record(door, event, revoked.as_ref().map(|_revoked| ()));
        if let Err(failure) = revoked {
            // removes the mark, so that the provider can send the same token again
            if let Err(error) = door.sessions.forget("logout", &logout.used_key).await {
                tracing::warn!(%error, "a logout token that ended nothing stays marked as used");
            }
            return Err(failure);
        }
    }
    Ok(())
}

fn record(door: &LoginDoor, mut event: AuthEvent, outcome: Result<(), &LoginFailure>) {
    match outcome {
        Ok(()) => {
            event.result = "success";
            event.reason = "backchannel_logout";
        }
        Err(failure) => {
            event.result = "failure";
            event.reason = failure.code.code();
            event.detail = Some(failure.detail.clone());
        }
    }
    door.audit.send(Event::Auth(Box::new(event)));
}

/// The error response of section 2.8. It names the kind of fault and nothing of the user.
fn refused(failure: &LoginFailure) -> Response<Body> {
    let body = match failure.code {
        LoginCode::StoreUnavailable | LoginCode::ProviderUnavailable => {
            json!({"error": "temporarily_unavailable", "error_description": "try again"})
        }
        _ => json!({"error": "invalid_request", "error_description": "the logout token is not accepted"}),
    };
    answer::json(StatusCode::BAD_REQUEST, &body)
}
