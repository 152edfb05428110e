//! `POST auth/token`: a short-lived JWT with tenant and portal, for the caller's own use.
//!
//! Signed by the assertion's keys, under another `typ`: it never passes for an assertion. It outlives neither five minutes nor
//! the credential that it was asked for with.

use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::json as object;

use super::visitor::principal_id;
use super::visitor::{Visitor, portal_named};
use super::{FORM_BYTES_MAX, FORM_TIMEOUT, IdentityDoor, Visit, form, json};
use crate::audit::Event;
use crate::denial::{Denial, Refusal};
use crate::http::request::same_origin;
use crate::http::upstream::Body;
use crate::portals::Portal;
use crate::types::Identity;

impl IdentityDoor {
    pub(super) async fn token(&self, visit: &Visit<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
        let visitor = self.visitor(visit).await?;
        if matches!(visitor, Visitor::Session(_)) {
            same_origin(&visit.head.headers, self.config.public_url.as_deref())?;
        }
        let portal = portal_named(visit, &asked(visit, body).await?)?;
        let outcome = self.identity(&visitor, &portal).await;
        self.tell_minted(visit, (&portal, &visitor), &outcome);
        let identity = outcome?;
        let now = super::unix_seconds();
        let minted = self
            .assertions
            .mint(&identity, &principal_id(&portal, &identity), &portal.name, now);
        let minted =
            minted.map_err(|error| Refusal::new(Denial::KeyUnavailable, format!("the token could not be signed: {error}")))?;
        let answer = object!({
            "access_token": minted.token,
            "token_type": "Bearer",
            "expires_in": minted.expires_at.saturating_sub(now).max(0),
        });
        Ok(json(StatusCode::OK, &answer))
    }

    fn tell_minted(&self, visit: &Visit<'_>, (portal, visitor): (&Portal, &Visitor<'_>), outcome: &Result<Identity, Refusal>) {
        let mut event = self.auth_event(visit, "token");
        (event.result, event.reason) = match outcome {
            Ok(_) => ("success", "minted"),
            Err(refusal) => ("failure", refusal.denial.code()),
        };
        event.portal = Some(Arc::clone(&portal.name));
        if let Visitor::Session(session) = visitor {
            event.provider = Some(Arc::from(session.data.provider.as_str()));
            event.session = Some(session.handle.to_hex());
        }
        if let Ok(identity) = outcome {
            event.issuer = Some(Arc::clone(&identity.issuer));
            event.subject = Some(identity.subject.clone());
            event.tenant = identity.tenant.clone();
        }
        self.audit.send(Event::Auth(Box::new(event)));
    }
}

/// `portal` of a form or of a JSON object, and nothing else.
async fn asked(visit: &Visit<'_>, body: Incoming) -> Result<String, Refusal> {
    let invalid = |why: &'static str| Refusal::new(Denial::RequestInvalid, why);
    let kind = visit.head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    let fields = if kind == Some("application/json") {
        let read = tokio::time::timeout(FORM_TIMEOUT, Limited::new(body, FORM_BYTES_MAX).collect()).await;
        let read = read.map_err(|_late| invalid("the body did not come in time"))?;
        let bytes = read.map_err(|_error| Refusal::new(Denial::RequestTooLarge, "the body is too large or broke off"))?;
        let object = crate::json::object_from_slice(&bytes.to_bytes()).map_err(|_error| invalid("the body is no JSON object"))?;
        let text = |(name, value): (String, serde_json::Value)| Some((name, value.as_str()?.to_owned()));
        let fields: Option<Vec<_>> = object.into_iter().map(text).collect();
        fields.ok_or(invalid("a member is no string"))?
    } else {
        form(visit.head, body).await?
    };
    match fields.as_slice() {
        [(name, slug)] if name == "portal" => Ok(slug.clone()),
        _ => Err(invalid("the body must name a `portal`, and nothing else")),
    }
}
