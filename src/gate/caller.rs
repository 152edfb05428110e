//! From a bearer token to everything that depends on the token alone, remembered per portal and revision.
//!
//! A remembered caller is the same caller: found by the hash of the whole token, under one portal's one revision, and
//! only after time, key and issuer were looked at again. Nothing of a request is ever remembered here.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use serde_json::{Map, Value};

use super::{Gate, now_millis};
use crate::audit::EntityRef;
use crate::authn::{AssertionClaims, Verified, token_hash};
use crate::authz::CallerHeaders;
use crate::authz::principal::{Principal, claim};
use crate::denial::{Denial, Refusal};
use crate::revision::Revision;
use crate::revision::cases::subject_prefix;
use crate::serving::{Active, Caller, FreshAssertion, Portal};
use crate::types::Identity;
use crate::upstream::{header_list, header_value};

/// An assertion is signed anew when less than this share of its life is left: one half.
const RENEW_SHARE: i64 = 2;

impl Gate {
    /// The caller that a token proves, under the revision in force.
    pub async fn caller(&self, portal: &Portal, active: &Active, token: &str) -> Result<Arc<Caller>, Refusal> {
        let hash = token_hash(token);
        let now = now_millis() / 1000;
        if let Some(known) = active.callers.get(&hash) {
            match self.authn.recheck(&known.proof, now) {
                Ok(()) => return Ok(known),
                Err(_) => active.callers.remove(&hash),
            }
        }
        let trusted = &portal.config.issuers;
        let verified = match self.authn.try_verify(token, trusted, now) {
            Some(verified) => verified?,
            None => self.authn.verify(token, trusted, now).await?,
        };
        let caller = Arc::new(known(portal, &active.revision, verified)?);
        active.callers.insert(hash, Arc::clone(&caller));
        Ok(caller)
    }

    /// The assertion for a caller: the last one while it is fresh, else a new one.
    pub fn assertion(&self, portal: &Portal, active: &Active, caller: &Caller) -> Result<HeaderValue, Refusal> {
        let now = now_millis() / 1000;
        if let Some(fresh) = caller.assertion.load().as_ref().filter(|fresh| now < fresh.renew_at) {
            return Ok(fresh.value.clone());
        }
        let claims = AssertionClaims {
            identity: &caller.identity,
            portal: &portal.name,
            audience: &portal.upstream.url.origin(),
            revision: &active.revision.id,
            claims: &caller.asserted,
            now,
        };
        let signed = self
            .assertions
            .sign(claims)
            .ok()
            .and_then(|jwt| HeaderValue::try_from(jwt).ok());
        let value = signed.ok_or_else(|| Refusal::new(Denial::KeyUnavailable, "the assertion could not be signed"))?;
        let expires_at = self.assertions.expires_at(&caller.identity, now);
        let renew_at = now + (expires_at - now) / RENEW_SHARE;
        caller.assertion.store(Some(Arc::new(FreshAssertion {
            value: value.clone(),
            renew_at,
        })));
        Ok(value)
    }
}

impl Caller {
    /// The principal, as the record shows it.
    pub fn entity_ref(&self) -> EntityRef {
        EntityRef {
            attrs: self.attrs.clone(),
            ..super::entity_ref(&self.principal.party.uid)
        }
    }
}

fn known(portal: &Portal, revision: &Revision, verified: Verified) -> Result<Caller, Refusal> {
    let Verified { identity, proof } = verified;
    let prefix = subject_prefix(portal.frame(), &identity.issuer);
    let principal = revision.rules.principal(&identity, &prefix)?;
    let asserted = asserted_claims(revision, &identity);
    let attrs = (!asserted.is_empty()).then(|| Arc::new(Value::Object(asserted.clone())));
    Ok(Caller {
        headers: Arc::new(headers(portal, revision, &identity, &principal)),
        roles: identity.roles.iter().map(|r| Arc::from(r.as_str())).collect(),
        attrs,
        token: Arc::new(identity.token.clone()),
        asserted,
        assertion: ArcSwapOption::empty(),
        principal,
        proof,
        identity,
    })
}

/// The claims that the schema turns into attributes: what the app may see of the token.
fn asserted_claims(revision: &Revision, identity: &Identity) -> Map<String, Value> {
    let rules = &revision.rules;
    let ty = rules.schema.resolve_type(&identity.principal_type);
    let declared = ty.and_then(|ty| rules.schema.entity(&ty)).map(|model| &model.attrs.fields);
    let mut claims = Map::new();
    for name in declared.into_iter().flat_map(|fields| fields.keys()) {
        let path = rules.claims.get(name).unwrap_or(name);
        if let Some(value) = claim(&identity.claims, path) {
            claims.insert(path.clone(), value.clone());
        }
    }
    claims
}

/// The names oauth2-proxy users know. A claim that `portal.yaml` maps to an attribute is the one the policies saw.
fn headers(portal: &Portal, revision: &Revision, identity: &Identity, principal: &Principal) -> CallerHeaders {
    let named = |name: &str| claim(&identity.claims, revision.rules.claims.get(name).map_or(name, String::as_str));
    let text = |name: &str| {
        named(name)
            .and_then(Value::as_str)
            .map_or(HeaderValue::from_static(""), header_value)
    };
    let roles = header_list(identity.roles.iter().map(String::as_str));
    let bounded = portal.issuers.iter().any(|i| i.name == identity.issuer && i.roles.is_some());
    // groups are not bound by `issuers[].roles`: where an issuer is, only its roles are passed on
    let groups = named("groups").and_then(Value::as_array).filter(|_| !bounded);
    let groups = groups.and_then(|all| all.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    let groups = groups.map_or_else(|| roles.clone(), header_list);
    CallerHeaders {
        user: header_value(principal.party.uid.id().unescaped()),
        email: text("email"),
        groups,
        preferred_username: text("preferred_username"),
        tenant: identity.tenant.as_deref().map_or(HeaderValue::from_static(""), header_value),
        roles,
    }
}
