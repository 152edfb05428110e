//! `GET auth/session`: who am I; never a token.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::{Map, Value, json as object};
use url::form_urlencoded;

use super::visitor::principal_id;
use super::visitor::{Visitor, portal_named};
use super::{IdentityDoor, Visit, json};
use crate::denial::{Denial, Refusal};
use crate::http::upstream::Body;
use crate::portals::Portal;
use crate::types::Identity;
use cedargate_policy::claims;

impl IdentityDoor {
    pub(super) async fn who_am_i(&self, visit: &Visit<'_>) -> Result<Response<Body>, Refusal> {
        let visitor = self.visitor(visit).await?;
        let slug = match (asked_portal(visit)?, &visitor) {
            (Some(slug), _) => slug,
            (None, Visitor::Session(session)) => session.data.portal.clone(),
            (None, Visitor::Bearer(_)) => {
                let detail = "a token is for no portal of its own: ask with `?portal=`";
                return Err(Refusal::new(Denial::RequestInvalid, detail));
            }
        };
        let portal = portal_named(visit, &slug)?;
        let identity = self.identity(&visitor, &portal).await?;
        let mut answer = described(&portal, &identity);
        if let Visitor::Session(session) = &visitor {
            answer.insert("provider".to_owned(), object!(session.data.provider));
            let idle = self.config.sessions.idle_timeout.as_secs();
            answer.insert("idle_timeout".to_owned(), object!(idle));
        }
        Ok(json(StatusCode::OK, &Value::Object(answer)))
    }
}

/// `?portal=`, at most once.
fn asked_portal(visit: &Visit<'_>) -> Result<Option<String>, Refusal> {
    let query = visit.head.uri.query().unwrap_or_default();
    let mut asked = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "portal");
    let slug = asked.next().map(|(_, slug)| slug.into_owned());
    match asked.next() {
        None => Ok(slug),
        Some(_) => Err(Refusal::new(Denial::RequestInvalid, "`portal` is repeated")),
    }
}

fn described(portal: &Arc<Portal>, identity: &Identity) -> Map<String, Value> {
    let auth = &identity.auth;
    let mut answer = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            answer.insert(name.to_owned(), value);
        }
    };
    put("subject", object!(principal_id(portal, identity)));
    put("issuer", object!(&*identity.issuer));
    put("tenant", object!(identity.tenant));
    put("portal", object!(&*portal.name));
    put("roles", object!(identity.roles));
    put("expires_at", object!(identity.expires_at));
    put(
        "auth",
        object!({"method": auth.method, "time": auth.time, "acr": auth.acr, "amr": auth.amr}),
    );
    let active = portal.active.load();
    for name in ["name", "email"] {
        // as `portal.yaml` maps it
        let path = active.as_ref().and_then(|active| active.revision.rules.claims.get(name));
        let claim = claims::at(&identity.claims, path.map_or(name, String::as_str)).ok().flatten();
        let text = claim.filter(|value| value.is_string());
        put(name, text.cloned().unwrap_or_default());
    }
    answer
}
