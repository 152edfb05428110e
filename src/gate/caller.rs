//! Builds the caller of a credential: everything that depends on the credential alone. Cached per portal and revision.
//!
//! The cache key is the hash of the whole token, or the version of the session; each revision of a portal has its own cache. A
//! cached caller is used only after time, key, issuer and revocations were checked again. The cache holds no fact of a request.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use cedargate_policy::claims::ClaimError;
use cedargate_policy::denial::{Denial, Refusal, RefusedCredential};
use cedargate_policy::permit::CallerHeaders;
use cedargate_policy::principal::Principal;
use cedargate_policy::revision::Revision;
use cedargate_policy::types::Identity;
use http::HeaderValue;
use serde_json::{Map, Value};

use super::{ActivePortal, Gate};
use crate::audit::EntityRef;
use crate::authn::{AssertionClaims, Evidence, token_hash};
use crate::base::clock::unix_seconds;
use crate::config::{AccessTokenUse, ProviderKind};
use crate::http::upstream::{header_list, header_value};
use crate::portals::{Caller, Credential, FreshAssertion, Portal};
use crate::session::Session;

/// An assertion is signed anew when less than this share of its life is left: one half.
const RENEW_SHARE: i64 = 2;

impl Gate {
    /// The caller that a bearer token proves, under the revision in force.
    pub async fn caller(&self, active_portal: ActivePortal<'_>, token: &str) -> Result<Arc<Caller>, Refusal> {
        let ActivePortal { portal, active } = active_portal;
        let hash = token_hash(token);
        let now = unix_seconds();
        let known = active.callers.get(&hash).filter(|known| self.is_proven(known, now));
        let caller = match known {
            Some(known) => known,
            None => {
                active.callers.remove(&hash);
                // boxed, as is everything that few requests need: every request's future has room for its largest branch
                let (identity, credential) = Box::pin(self.verify(portal, token)).await?;
                let shown = RefusedCredential {
                    check: "principal",
                    issuer: Some(identity.token.iss.clone()),
                    kid: identity.token.kid.clone(),
                    claim: None,
                };
                let caller = build_caller(portal, &active.revision, identity, credential);
                let caller = Arc::new(caller.map_err(|refusal| refusal.of_credential(shown))?);
                active.callers.insert(hash, Arc::clone(&caller));
                caller
            }
        };
        self.sessions.check_identity(&caller.identity, &portal.name)?;
        Ok(caller)
    }

    /// True if the proof of a cached token still holds.
    fn is_proven(&self, caller: &Caller, now: i64) -> bool {
        match &caller.credential {
            Credential::Token(proof) => self.authn.recheck(proof, now).is_ok(),
            Credential::Introspected { until } => now < *until,
            // INVARIANT: session callers are cached under the session version, so a token hash never finds one
            Credential::Session(_) => false,
        }
    }

    async fn verify(&self, portal: &Portal, token: &str) -> Result<(Identity, Credential), Refusal> {
        let trusted = &portal.config.issuers;
        let verified = self.identity.introspection.verify(&self.authn, token, trusted).await;
        let verified = verified.map_err(|error| error.refusal_of(token))?;
        let credential = match verified.evidence {
            Evidence::Token(proof) => Credential::Token(proof),
            Evidence::Introspection { until } => Credential::Introspected { until },
        };
        Ok((verified.identity, credential))
    }

    /// The caller of a session that was looked up for this request.
    pub fn session_caller(&self, active_portal: ActivePortal<'_>, session: &Arc<Session>) -> Result<Arc<Caller>, Refusal> {
        let ActivePortal { portal, active } = active_portal;
        if self.sessions.is_revoked(session, &portal.name) {
            return Err(Denial::SessionRevoked.into());
        }
        if let Some(known) = active.callers.get(&session.version)
            && matches!(&known.credential, Credential::Session(of) if of.version == session.version)
        {
            return Ok(known);
        }
        let identity = portal.session_identity(session)?;
        let credential = Credential::Session(Arc::clone(session));
        let mut caller = build_caller(portal, &active.revision, identity, credential)?;
        if let Some(headers) = Arc::get_mut(&mut caller.headers) {
            headers.access_token = self.access_token_for_app(session);
        }
        let caller = Arc::new(caller);
        active.callers.insert(session.version, Arc::clone(&caller));
        Ok(caller)
    }

    /// The provider's access token of a session, if the provider's configuration passes it on.
    fn access_token_for_app(&self, session: &Session) -> Option<HeaderValue> {
        let provider = self.login.provider(&session.data.provider)?;
        let ProviderKind::Oidc(client) = &provider.kind else {
            return None;
        };
        if client.access_token == AccessTokenUse::GateOnly {
            return None;
        }
        let token = session.data.grant.as_ref()?.access_token.expose();
        let mut value = HeaderValue::from_str(token).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The assertion for a caller: the last one while it is fresh, else a new one.
    pub fn assertion(&self, active_portal: ActivePortal<'_>, caller: &Caller) -> Result<HeaderValue, Refusal> {
        let ActivePortal { portal, active } = active_portal;
        let now = unix_seconds();
        let generation = self.assertions.generation();
        let is_fresh = |fresh: &&Arc<FreshAssertion>| now < fresh.renew_at && fresh.generation == generation;
        if let Some(fresh) = caller.assertion.load().as_ref().filter(is_fresh) {
            return Ok(fresh.value.clone());
        }
        let claims = AssertionClaims {
            identity: &caller.identity,
            subject: caller.principal.entity.uid.id().unescaped(),
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

fn build_caller(portal: &Portal, revision: &Revision, identity: Identity, credential: Credential) -> Result<Caller, Refusal> {
    let principal = revision.principal(&portal.scope, &identity)?;
    let asserted = asserted_claims(revision, &identity)?;
    let attrs = (!asserted.is_empty()).then(|| Arc::new(Value::Object(asserted.clone())));
    Ok(Caller {
        headers: Arc::new(headers(portal, revision, &identity, &principal)?),
        roles: identity.roles.iter().map(|r| Arc::from(r.as_str())).collect(),
        entity: EntityRef {
            attrs,
            ..super::entity_ref(&principal.entity.uid, revision)
        },
        token: (!matches!(credential, Credential::Session(_))).then(|| Arc::new(identity.token.clone())),
        asserted,
        assertion: ArcSwapOption::empty(),
        principal,
        credential,
        identity,
    })
}

/// The claims that the schema turns into attributes; the app sees no other claim of the token.
fn asserted_claims(revision: &Revision, identity: &Identity) -> Result<Map<String, Value>, Refusal> {
    let rules = &revision.rules;
    let ty = rules.schema.resolve_type(&identity.principal_type);
    let declared = ty.and_then(|ty| rules.schema.entity(&ty)).map(|model| &model.attrs.fields);
    let mut asserted = Map::new();
    for name in declared.into_iter().flat_map(|fields| fields.keys()) {
        let Some(value) = rules.claims.claim(&identity.claims, name)? else {
            continue;
        };
        match rules.claims.get(name) {
            Some(path) => path.insert(&mut asserted, value.clone()),
            None => drop(asserted.insert(name.clone(), value.clone())),
        }
    }
    Ok(asserted)
}

/// The identity headers, named as in oauth2-proxy. A claim that `portal.yaml` maps to an attribute is the claim that the
/// policies saw.
fn headers(portal: &Portal, revision: &Revision, identity: &Identity, principal: &Principal) -> Result<CallerHeaders, Refusal> {
    // a claim that is elsewhere is no fault here: the principal was refused for it if the policies read it
    let named = |name: &str| match revision.rules.claims.claim(&identity.claims, name) {
        Err(ClaimError::Elsewhere { .. }) => Ok(None),
        found => found,
    };
    let text = |name: &str| {
        let claim = named(name)?.and_then(Value::as_str);
        Ok::<_, Refusal>(claim.map_or(HeaderValue::from_static(""), header_value))
    };
    let roles = header_list(identity.roles.iter().map(String::as_str));
    let bounded = portal
        .scope
        .issuer(&identity.issuer)
        .is_some_and(|issuer| issuer.roles.is_some());
    // `issuers[].roles` does not bound groups, so the roles of a bounded issuer are passed on in their place
    let groups = named("groups")?.and_then(Value::as_array).filter(|_| !bounded);
    let groups = groups.and_then(|all| all.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    let groups = groups.map_or_else(|| roles.clone(), header_list);
    Ok(CallerHeaders {
        user: header_value(principal.entity.uid.id().unescaped()),
        email: text("email")?,
        groups,
        preferred_username: text("preferred_username")?,
        tenant: identity.tenant.as_deref().map_or(HeaderValue::from_static(""), header_value),
        roles,
        access_token: None,
    })
}
