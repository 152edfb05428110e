//! `POST auth/backchannel-logout`: the provider ends sessions (OIDC Back-Channel Logout 1.0).
//!
//! The signed logout token is the only credential; cookie and origin are not used. 200 once the sessions that it names
//! have ended, else 400. The effect is the same however often the token arrives: it ends what began before it. If the
//! store does not answer, the logout holds in this gate at once and is published later; the 400 lets the provider try
//! again.

use cedargate_policy::denial::Refusal;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::input::Parameters;
use super::record::request_subject;
use super::{EndpointRequest, LoginDoor};
use crate::audit::{AuthAct, AuthFact, AuthSubject, Event, LoginCode};
use crate::http::answer;
use crate::http::upstream::Body;
use crate::login::{BackchannelLogout, LoginFailure};
use crate::session::Revocation;

pub(super) async fn log_out(door: &LoginDoor, request: &EndpointRequest<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
    let token = Parameters::from_form(&door.config.limits, request.head, body)
        .await?
        .required("logout_token")?;
    let outcome = match door.login.accept_logout_token(&token).await {
        Ok(logout) => revoke(door, request, logout).await,
        Err(failure) => {
            record(door, request_subject(request), Err(&failure));
            Err(failure)
        }
    };
    Ok(match outcome {
        Ok(()) => Response::new(Body::empty()),
        Err(failure) => refused(&failure),
    })
}

async fn revoke(door: &LoginDoor, request: &EndpointRequest<'_>, logout: BackchannelLogout) -> Result<(), LoginFailure> {
    let mut about = request_subject(request);
    about.provider = Some(logout.provider);
    about.issuer = Some(logout.issuer);
    about.subject = logout.revocations.iter().find_map(|revocation| match revocation {
        Revocation::Subject { subject, .. } | Revocation::Unnamed { subject, .. } => Some(subject.clone()),
        _ => None,
    });
    let revoked = door.sessions.revoke_until_stored(&logout.revocations, logout.at).await;
    let revoked = revoked.map_err(|error| LoginFailure::store_unavailable(&error));
    record(door, about, revoked.as_ref().map(|_revoked| ()));
    revoked.map(drop)
}

fn record(door: &LoginDoor, about: AuthSubject, outcome: Result<(), &LoginFailure>) {
    let event = match outcome {
        Ok(()) => about.succeeded(AuthAct::Logout, AuthFact::LoggedOutByProvider),
        Err(failure) => about
            .failed(AuthAct::Logout, failure.code)
            .with_detail(Some(failure.detail.clone())),
    };
    door.audit.send(&Event::Auth(Box::new(event)));
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
