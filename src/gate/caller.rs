//! From a credential to everything that depends on the credential alone, remembered per portal and revision.
//!
//! A remembered caller is the same caller: found by the hash of the whole token, or the version of the session, under one
//! portal's one revision, and only after time, key, issuer and revocations were looked at again. Nothing of a request is ever remembered here.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use serde_json::{Map, Value};

use super::{Gate, now_millis};
use crate::audit::EntityRef;
use crate::authn::{AssertionClaims, Evidence, token_hash};
use crate::authz::CallerHeaders;
use crate::authz::principal::{Principal, claim};
use crate::denial::{Denial, Refusal};
use crate::doors::login::session_identity;
use crate::http::upstream::{header_list, header_value};
use crate::portals::{Active, Caller, Credential, FreshAssertion, Portal};
use crate::revision::Revision;
use crate::revision::cases::subject_prefix;
use crate::session::Session;
use crate::types::Identity;

/// An assertion is signed anew when less than this share of its life is left: one half.
const RENEW_SHARE: i64 = 2;

impl Gate {
    /// The caller that a bearer token proves, under the revision in force.
    pub async fn caller(&self, portal: &Portal, active: &Active, token: &str) -> Result<Arc<Caller>, Refusal> {
        let hash = token_hash(token);
        let now = now_millis() / 1000;
        let known = active.callers.get(&hash).filter(|known| self.still_holds(known, now));
        let caller = match known {
            Some(known) => known,
            None => {
                active.callers.remove(&hash);
                // boxed, as is everything that few requests need: every request's future has room for its largest branch
                let (identity, credential) = Box::pin(self.proven(portal, token)).await?;
                let caller = Arc::new(known_by(portal, &active.revision, identity, credential)?);
                active.callers.insert(hash, Arc::clone(&caller));
                caller
            }
        };
        self.sessions.check_identity(&caller.identity, &portal.name)?;
        Ok(caller)
    }

    /// Whether what a token proved earlier still holds.
    fn still_holds(&self, caller: &Caller, now: i64) -> bool {
        match &caller.credential {
            Credential::Token(proof) => self.authn.recheck(proof, now).is_ok(),
            Credential::Introspected { until } => now < *until,
            // INVARIANT: kept by the version of a session, which is no hash of a token
            Credential::Session(_) => false,
        }
    }

    async fn proven(&self, portal: &Portal, token: &str) -> Result<(Identity, Credential), Refusal> {
        let trusted = &portal.config.issuers;
        let verified = self.identity.introspection.verify(&self.authn, token, trusted).await?;
        let credential = match verified.evidence {
            Evidence::Token(proof) => Credential::Token(proof),
            Evidence::Introspection { until } => Credential::Introspected { until },
        };
        Ok((verified.identity, credential))
    }

    /// The caller that a session proves, which was found for this very request.
    pub fn session_caller(&self, portal: &Portal, active: &Active, session: &Arc<Session>) -> Result<Arc<Caller>, Refusal> {
        if self.sessions.is_revoked(session, &portal.name) {
            return Err(Denial::SessionRevoked.into());
        }
        if let Some(known) = active.callers.get(&session.version)
            && matches!(&known.credential, Credential::Session(of) if of.version == session.version)
        {
            return Ok(known);
        }
        let identity = session_identity(portal, session)?;
        let credential = Credential::Session(Arc::clone(session));
        let caller = Arc::new(known_by(portal, &active.revision, identity, credential)?);
        active.callers.insert(session.version, Arc::clone(&caller));
        Ok(caller)
    }

    /// The assertion for a caller: the last one while it is fresh, else a new one.
    pub fn assertion(&self, portal: &Portal, active: &Active, caller: &Caller) -> Result<HeaderValue, Refusal> {
        let now = now_millis() / 1000;
        let generation = self.assertions.generation();
        let is_fresh = |fresh: &&Arc<FreshAssertion>| now < fresh.renew_at && fresh.generation == generation;
        if let Some(fresh) = caller.assertion.load().as_ref().filter(is_fresh) {
            return Ok(fresh.value.clone());
        }
        let claims = AssertionClaims {
            identity: &caller.identity,
            subject: caller.principal.party.uid.id().unescaped(),
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
            generation,
            renew_at,
        })));
        Ok(value)
    }
}

fn known_by(portal: &Portal, revision: &Revision, identity: Identity, credential: Credential) -> Result<Caller, Refusal> {
    let prefix = subject_prefix(portal.frame(), &identity.issuer);
    let principal = revision.rules.principal(&identity, &prefix)?;
    let asserted = asserted_claims(revision, &identity);
    let attrs = (!asserted.is_empty()).then(|| Arc::new(Value::Object(asserted.clone())));
    Ok(Caller {
        headers: Arc::new(headers(portal, revision, &identity, &principal)),
        roles: identity.roles.iter().map(|r| Arc::from(r.as_str())).collect(),
        entity: EntityRef {
            attrs,
            ..super::entity_ref(&principal.party.uid, &revision.rules.schema)
        },
        token: (!matches!(credential, Credential::Session(_))).then(|| Arc::new(identity.token.clone())),
        asserted,
        assertion: ArcSwapOption::empty(),
        principal,
        credential,
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
