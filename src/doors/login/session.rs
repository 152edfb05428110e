//! `GET auth/session`: the caller's identity at a portal. The response never contains a token.

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::types::Identity;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::caller::{CallerCredential, principal_id};
use super::input::Parameters;
use super::{EndpointRequest, LoginDoor, portal_lookup};
use crate::http::answer;
use crate::http::upstream::Body;
use crate::portals::Portal;

/// A caller whose credential is verified for a portal.
pub(super) struct CallerAtPortal<'a> {
    pub portal: &'a Portal,
    pub identity: Identity,
    pub credential: CallerCredential<'a>,
}

/// The caller at the portal that the query names; at the portal of its session, if it names none.
pub(super) async fn caller_at_portal<'a>(door: &LoginDoor, request: &EndpointRequest<'a>) -> Result<CallerAtPortal<'a>, Refusal> {
    let credential = CallerCredential::of(door, request).await?;
    let slug = match (Parameters::from_query(request.head).optional("portal")?, &credential) {
        (Some(slug), _) => slug,
        (None, CallerCredential::Session(session)) => session.data.portal.clone(),
        (None, CallerCredential::Bearer(_) | CallerCredential::WithProof(_) | CallerCredential::Certificate(_)) => {
            let detail = "a token or certificate belongs to no portal: add `?portal=`";
            return Err(Refusal::new(Denial::RequestInvalid, detail));
        }
    };
    let portal = portal_lookup::find(request, &slug)?;
    let identity = credential.identity(door, request, portal).await?;
    Ok(CallerAtPortal {
        portal,
        identity,
        credential,
    })
}

pub(super) async fn show(door: &LoginDoor, request: &EndpointRequest<'_>) -> Result<Response<Body>, Refusal> {
    let CallerAtPortal {
        portal,
        identity,
        credential,
    } = caller_at_portal(door, request).await?;
    let mut body = describe(portal, &identity)?;
    if let CallerCredential::Session(session) = &credential {
        body.insert("provider".to_owned(), json!(session.data.provider));
        let idle_timeout = door.config.sessions.idle_timeout.as_secs();
        body.insert("idle_timeout".to_owned(), json!(idle_timeout));
    }
    Ok(answer::json(StatusCode::OK, &body))
}

fn describe(portal: &Portal, identity: &Identity) -> Result<Map<String, Value>, Refusal> {
    let auth = &identity.auth;
    let mut body = Map::new();
    let mut insert = |name: &str, value: Value| {
        if !value.is_null() {
            body.insert(name.to_owned(), value);
        }
    };
    insert("subject", json!(principal_id(portal, identity)?));
    insert("issuer", json!(&*identity.issuer));
    insert("tenant", json!(identity.tenant));
    insert("portal", json!(&*portal.name));
    insert("roles", json!(identity.roles));
    insert("expires_at", json!(identity.expires_at));
    insert(
        "auth",
        json!({"method": auth.method, "time": auth.time, "acr": auth.acr, "amr": auth.amr}),
    );
    for name in ["name", "email"] {
        let claim = portal.claim(&identity.claims, name)?;
        let text = claim.filter(|value| value.is_string());
        insert(name, text.cloned().unwrap_or_default());
    }
    Ok(body)
}
