//! Builds the caller of a credential: everything that depends on the credential and the revision alone. Cached per
//! portal.
//!
//! The cache key is the hash of the whole token, the version of the session, or the hash of the certificate's chain and
//! issuer. A cached caller is used only after time, key, issuer and revocations were checked again, and only under the
//! revision that made it. The first request under another revision makes the caller anew of the cached proof, so an
//! edit costs no caller a signature check. The cache holds no fact of a request.
//!
//! What races: while a revision is replaced, requests under the old and the new one may each put their caller into the
//! cache. The later one stays, and a request under the other revision makes its own again.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use cedargate_policy::claims::{Binding, ClaimError, login_identity};
use cedargate_policy::denial::{Denial, Refusal, RefusedCredential};
use cedargate_policy::permit::CallerHeaders;
use cedargate_policy::principal::Principal;
use cedargate_policy::revision::Revision;
use cedargate_policy::types::Identity;
use http::HeaderValue;
use serde_json::{Map, Value};

use super::{ActivePortal, Gate};
use crate::audit::{CallerRecord, EntityRef};
use crate::authn::certificate::identity_at;
use crate::authn::{AssertionClaims, Evidence, PresentedToken, TokenError, token_hash};
use crate::base::clock::unix_seconds;
use crate::base::digest::sha256_of;
use crate::config::{AccessTokenUse, ProviderKind};
use crate::http::client_certificate::ClientCertificate;
use crate::http::upstream::{header_list, header_value};
use crate::portals::{Caller, Credential, FreshAssertion, Portal, Proven};
use crate::session::Session;

/// An assertion is signed anew when less than this share of its life is left: one half.
const RENEW_SHARE: i64 = 2;

impl Gate {
    /// The caller that a bearer token proves, under the revision in force.
    pub async fn caller(&self, active_portal: ActivePortal<'_>, presented: PresentedToken<'_>) -> Result<Arc<Caller>, Refusal> {
        let portal = active_portal.portal;
        let hash = token_hash(presented.token);
        let now = unix_seconds();
        let known = portal.callers.get(&hash);
        if let Some(known) = &known {
            // before the entry could be dropped: a sender without the token's keys must not cost its owner the entry
            let bound = known.proven.binding.check(&presented.possession);
            bound.map_err(|error| TokenError::from(error).refusal_of(presented.token))?;
        }
        let known = known.filter(|known| self.is_proven(known, now));
        let caller = match known {
            Some(known) if known.is_under(active_portal) => known,
            known => {
                let proven = match &known {
                    Some(known) => known.proven.clone(),
                    None => {
                        portal.callers.remove(&hash);
                        // boxed, as is everything that few requests need: every request's future has room for its
                        // largest branch
                        Box::pin(self.verify(portal, presented)).await?
                    }
                };
                let shown = RefusedCredential {
                    check: "principal",
                    issuer: Some(proven.identity.token.iss.clone()),
                    kid: proven.identity.token.kid.clone(),
                    claim: None,
                };
                let caller = build_caller(active_portal, proven, known.as_deref());
                let caller = Arc::new(caller.map_err(|refusal| {
                    let claim = refusal.credential.as_ref().and_then(|credential| credential.claim.clone());
                    refusal.of_credential(RefusedCredential { claim, ..shown })
                })?);
                portal.callers.insert(hash, Arc::clone(&caller));
                caller
            }
        };
        self.sessions.check_caller(caller.proven.revocable(), &portal.name)?;
        Ok(caller)
    }

    /// True if the proof of a cached token still holds.
    fn is_proven(&self, caller: &Caller, now: i64) -> bool {
        match &caller.proven.credential {
            Credential::Token(proof) => self.authn.recheck(proof, now).is_ok(),
            Credential::Introspected { until } => now < *until,
            // INVARIANT: those callers are cached under other keys, so a token hash never finds one
            Credential::Session(_) | Credential::Certificate => false,
        }
    }

    async fn verify(&self, portal: &Portal, presented: PresentedToken<'_>) -> Result<Proven, Refusal> {
        let trusted = &portal.config.issuers;
        let verified = self.identity.introspection.verify(&self.authn, presented, trusted).await;
        let verified = verified.map_err(|error| error.refusal_of(presented.token))?;
        let (binding, credential) = match verified.evidence {
            Evidence::Token(proof) => (proof.binding, Credential::Token(proof)),
            Evidence::Introspection { until, binding } => (binding, Credential::Introspected { until }),
        };
        Ok(Proven {
            identity: Arc::new(verified.identity),
            credential,
            binding,
            access_token: None,
        })
    }

    /// The caller of a session that was found for this request, and for this portal (`presented_session`).
    pub fn session_caller(&self, active_portal: ActivePortal<'_>, session: &Arc<Session>) -> Result<Arc<Caller>, Refusal> {
        let portal = active_portal.portal;
        let is_of =
            |known: &Arc<Caller>| matches!(&known.proven.credential, Credential::Session(of) if of.version == session.version);
        let known = portal.callers.get(&session.version).filter(is_of);
        let proven = match &known {
            Some(known) if known.is_under(active_portal) => return Ok(Arc::clone(known)),
            Some(known) => known.proven.clone(),
            None => Proven {
                identity: Arc::new(login_identity(&portal.scope, &session.login_claims())?),
                credential: Credential::Session(Arc::clone(session)),
                binding: Binding::default(),
                access_token: self.access_token_for_app(session),
            },
        };
        let caller = Arc::new(build_caller(active_portal, proven, known.as_deref())?);
        portal.callers.insert(session.version, Arc::clone(&caller));
        Ok(caller)
    }

    /// The caller that the client certificate of a connection proves: that of the first issuer of the portal that
    /// vouches for it. The certificate was checked for this request.
    pub fn certificate_caller(
        &self,
        active_portal: ActivePortal<'_>,
        certificate: &ClientCertificate,
    ) -> Result<Arc<Caller>, Refusal> {
        let portal = active_portal.portal;
        let caller = portal.certificate_trust(&self.config).first(certificate, |issuer| {
            let key = sha256_of(&[b"certificate", &certificate.digest, issuer.scope.name.as_bytes()]);
            let is_of = |known: &Arc<Caller>| matches!(known.proven.credential, Credential::Certificate);
            let known = portal.callers.get(&key).filter(is_of);
            let proven = match &known {
                Some(known) if known.is_under(active_portal) => return Ok(Some(Arc::clone(known))),
                Some(known) => known.proven.clone(),
                None => {
                    let Some(identity) = identity_at(issuer, certificate)? else {
                        return Ok(None);
                    };
                    Proven {
                        identity: Arc::new(identity),
                        credential: Credential::Certificate,
                        binding: Binding::default(),
                        access_token: None,
                    }
                }
            };
            let caller = Arc::new(build_caller(active_portal, proven, known.as_deref())?);
            portal.callers.insert(key, Arc::clone(&caller));
            Ok(Some(caller))
        })?;
        self.sessions.check_caller(caller.proven.revocable(), &portal.name)?;
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
            identity: &caller.proven.identity,
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
        let expires_at = self.assertions.expires_at(&caller.proven.identity, now);
        let renew_at = now + (expires_at - now) / RENEW_SHARE;
        caller.assertion.store(Some(Arc::new(FreshAssertion {
            value: value.clone(),
            generation,
            renew_at,
        })));
        Ok(value)
    }
}

impl Caller {
    /// True if this revision made the caller.
    fn is_under(&self, active_portal: ActivePortal<'_>) -> bool {
        // the text would not do: it is a shortened hash
        Arc::ptr_eq(&self.revision, &active_portal.active.revision.id)
    }

    /// The assertion that was signed for the caller under another revision, if it says what this revision would say.
    fn assertion_as_signed_for(&self, principal: &Principal, asserted: &Map<String, Value>) -> Option<Arc<FreshAssertion>> {
        let is_same = self.principal.entity.uid == principal.entity.uid && self.asserted == *asserted;
        self.assertion.load_full().filter(|_| is_same)
    }
}

/// Makes the caller anew of its proof. Of `before`, the same caller under another revision, only the assertion may
/// stay.
fn build_caller(active_portal: ActivePortal<'_>, proven: Proven, before: Option<&Caller>) -> Result<Caller, Refusal> {
    let ActivePortal { portal, active } = active_portal;
    let revision = &active.revision;
    let identity = &proven.identity;
    let principal = revision.principal(&portal.scope, identity)?;
    let asserted = asserted_claims(revision, identity)?;
    let entity = with_attributes(&principal, revision, &asserted);
    let token = (!matches!(proven.credential, Credential::Session(_))).then_some(&identity.token);
    let assertion = before.and_then(|before| before.assertion_as_signed_for(&principal, &asserted));
    let headers = CallerHeaders {
        access_token: proven.access_token.clone(),
        ..headers(portal, revision, identity, &principal)?
    };
    Ok(Caller {
        revision: Arc::clone(&revision.id),
        headers: Arc::new(headers),
        record: Arc::new(CallerRecord::new(entity, identity, token)),
        asserted,
        assertion: ArcSwapOption::new(assertion),
        principal,
        proven,
    })
}

/// The principal with its attributes, as records show it.
fn with_attributes(principal: &Principal, revision: &Revision, asserted: &Map<String, Value>) -> EntityRef {
    EntityRef {
        attrs: (!asserted.is_empty()).then(|| Arc::new(Value::Object(asserted.clone()))),
        ..super::entity_ref(&principal.entity.uid, revision)
    }
}

/// The principal of an identity that another door proved, as records show it.
pub fn asserted_entity(principal: &Principal, revision: &Revision, identity: &Identity) -> Result<EntityRef, Refusal> {
    Ok(with_attributes(principal, revision, &asserted_claims(revision, identity)?))
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

/// The identity headers, named as in oauth2-proxy. A claim that `portal.yaml` maps to an attribute is the claim that
/// the policies saw.
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
    let groups = header_list(portal.groups(named("groups")?, identity));
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
