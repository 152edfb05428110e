//! `POST auth/token`: mints a short-lived JWT with tenant and portal, for the caller's own use.
//!
//! Signed with the assertion's keys under another `typ`, so that it is never accepted as an assertion. It expires after
//! five minutes at most, and not later than the credential of this request.

use std::sync::Arc;

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::types::Identity;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::caller::{CallerCredential, principal_id};
use super::input::Parameters;
use super::record::request_subject;
use super::{EndpointRequest, LoginDoor, portal_lookup};
use crate::audit::{AuthAct, AuthFact, Event};
use crate::base::clock::unix_seconds;
use crate::http::answer;
use crate::http::credentials::no_proofs_here;
use crate::http::upstream::Body;
use crate::portals::Portal;

pub(super) async fn mint(door: &LoginDoor, request: &EndpointRequest<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
    // SECURITY: the minted token is bound to nothing, so a bound token is refused as if nothing proved its keys, and a
    // certificate alone mints none
    let request = &EndpointRequest {
        certificate: None,
        ..*request
    };
    let credential = CallerCredential::of(door, request).await?;
    if let CallerCredential::WithProof(_) = credential {
        return Err(no_proofs_here());
    }
    credential.check_origin(door, request)?;
    let parameters = Parameters::from_form_or_json(&door.config.limits, request.head, body).await?;
    let slug = parameters.only("portal").ok_or_else(|| {
        let detail = "the body must have exactly one member, `portal`";
        Refusal::new(Denial::RequestInvalid, detail)
    })?;
    let portal = portal_lookup::find(request, slug)?;
    let verified = credential.identity(door, request, portal).await;
    record(door, request, portal, &credential, &verified);
    let identity = verified?;
    let now = unix_seconds();
    let minted = door
        .assertions
        .mint(&identity, &principal_id(portal, &identity)?, &portal.name, now);
    let minted =
        minted.map_err(|error| Refusal::new(Denial::KeyUnavailable, format!("the token could not be signed: {error}")))?;
    let body = json!({
        "access_token": minted.token,
        "token_type": "Bearer",
        "expires_in": minted.expires_at.saturating_sub(now).max(0),
    });
    Ok(answer::json(StatusCode::OK, &body))
}

fn record(
    door: &LoginDoor,
    request: &EndpointRequest<'_>,
    portal: &Portal,
    credential: &CallerCredential<'_>,
    verified: &Result<Identity, Refusal>,
) {
    let mut about = request_subject(request);
    about.portal = Some(Arc::clone(&portal.name));
    if let CallerCredential::Session(session) = credential {
        about.provider = Some(Arc::from(session.data.provider.as_str()));
        about.session = Some(session.handle.to_hex());
    }
    let event = match verified {
        Ok(identity) => {
            about.issuer = Some(Arc::clone(&identity.issuer));
            about.subject = Some(identity.subject.clone());
            about.tenant = identity.tenant.clone();
            about.succeeded(AuthAct::Token, AuthFact::Minted)
        }
        Err(refusal) => about.failed(AuthAct::Token, refusal.denial),
    };
    door.audit.send(&Event::Auth(Box::new(event)));
}
