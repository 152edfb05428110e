//! One question, one revision's rules → a `Permit` or a refusal.
//!
//! On the path after `authn`, before `upstream`. `Permit` is the only key to forwarding and only this file can make
//! one, for public paths too. Every door decides through `Rules::ask`; none has a copy of it.

pub mod context;
pub mod engine;
#[cfg(test)]
mod engine_tests;
pub mod entities;
pub mod policy;
pub mod principal;
pub mod reads;
pub mod schema;
pub mod scope;
pub mod supplied;
pub mod usual;
pub mod value;

use std::collections::BTreeMap;
use std::sync::Arc;

use cedar_policy::{EntityId, EntityTypeName, EntityUid};
use http::HeaderValue;
use uuid::Uuid;

pub use self::context::RecordedContext;
use self::context::{ContextPlans, Facts, ProxyContext};
use self::engine::{Ancestors, Answer, ContextSource, Effects, Engine, Outcome, Party, Question};
use self::entities::Known;
use self::principal::Principal;
use self::schema::SchemaModel;
use self::supplied::SuppliedEntities;
use crate::denial::{Denial, Refusal};

/// Proof that a decision allowed this one request; forwarding consumes it.
#[derive(Debug)]
pub struct Permit {
    pub passport: Passport,
    /// Keeps construction inside this file.
    _sealed: (),
}

/// What the app is told about a permitted request.
#[derive(Clone, Debug)]
pub struct Passport {
    pub decision_id: Uuid,
    pub portal: HeaderValue,
    pub revision: HeaderValue,
    /// `None` on a public path without a credential.
    pub caller: Option<Arc<CallerHeaders>>,
    /// The signed assertion; empty without a caller.
    pub assertion: HeaderValue,
}

/// What the app is told about the caller: values already encoded for headers.
#[derive(Clone, Debug)]
pub struct CallerHeaders {
    pub user: HeaderValue,
    pub email: HeaderValue,
    pub groups: HeaderValue,
    pub preferred_username: HeaderValue,
    pub tenant: HeaderValue,
    pub roles: HeaderValue,
}

/// A portal's policies, schema and entities, ready to be asked.
pub struct Rules {
    pub schema: Arc<SchemaModel>,
    pub engine: Engine,
    pub plans: Arc<ContextPlans>,
    pub names: Arc<TypeNames>,
    /// Principal attribute <- claim, from `portal.yaml`.
    pub claims: BTreeMap<String, String>,
}

/// The types that the gate itself names, where the schema declares them.
#[derive(Clone, Debug, Default)]
pub struct TypeNames {
    pub role: Option<EntityTypeName>,
    pub tenant: Option<EntityTypeName>,
    pub path: Option<EntityTypeName>,
    /// `Portal::"<slug>"`.
    pub portal: Option<EntityUid>,
}

/// What a request wants to do to what, in Cedar's words.
pub struct Target {
    pub action: EntityUid,
    pub resource: Party,
    /// The same request as plain path queries, whose forbids count too: a route must not step around a path rule, nor
    /// may another spelling of the path.
    pub paths: Vec<(EntityUid, Party)>,
    /// The template of the route that it matched, for the record.
    pub route: Option<Arc<str>>,
}

impl TypeNames {
    pub fn new(schema: &SchemaModel, slug: &str) -> Self {
        let portal = schema
            .resolve_type("Portal")
            .map(|ty| EntityUid::from_type_name_and_id(ty, EntityId::new(slug)));
        Self {
            role: schema.resolve_type("Role"),
            tenant: schema.resolve_type("Tenant"),
            path: schema.resolve_type("Path"),
            portal,
        }
    }

    /// What a path is in by its id alone: every parent path up to `/`, and the portal.
    pub fn parents_of_path(&self, uid: &EntityUid) -> Vec<EntityUid> {
        let ty = uid.type_name();
        let parents = parent_paths(uid.id().unescaped());
        let parents = parents.map(|p| EntityUid::from_type_name_and_id(ty.clone(), EntityId::new(p)));
        parents.chain(self.portal.clone()).collect()
    }
}

impl Rules {
    /// The proxy's question. `Err` where it cannot be put at all; everything else is in the answer.
    pub fn ask(&self, principal: &Principal, target: &Target, facts: &Facts<'_>) -> Result<Answer, Refusal> {
        let Some(plan) = self.plans.get(&target.action) else {
            return Err(Refusal::new(
                Denial::NotPermitted,
                format!("action `{}` is not declared", target.action),
            ));
        };
        plan.check(facts)?;
        let own = ProxyContext { plan, facts };
        for (action, path) in &target.paths {
            // where the method is no declared action, rules that name no action still count, in the routed context
            let context = self.plans.get(action).map_or(own, |plan| ProxyContext { plan, facts });
            let forbids = self.decide(
                (&principal.party, action, path),
                &context,
                &SuppliedEntities::default(),
                Effects::Forbids,
            );
            if matches!(forbids.outcome, Outcome::Forbidden | Outcome::EvaluationError) {
                return Ok(forbids);
            }
        }
        self.ask_in(&principal.party, target, &SuppliedEntities::default(), &own)
    }

    /// The question with a context that is already known; the app's door and decision tests ask so.
    pub fn ask_in(
        &self,
        principal: &Party,
        target: &Target,
        supplied: &SuppliedEntities,
        context: &dyn ContextSource,
    ) -> Result<Answer, Refusal> {
        let (who, what) = (principal.uid.type_name(), target.resource.uid.type_name());
        if !self.schema.applies(who, &target.action, what) {
            let detail = format!("the schema does not let a `{who}` do `{}` on a `{what}`", target.action);
            return Err(Refusal::new(Denial::NotPermitted, detail));
        }
        let own = (principal.uid == target.resource.uid)
            .then(|| self.as_resource(principal))
            .flatten();
        Ok(self.decide(
            (principal, &target.action, own.as_ref().unwrap_or(&target.resource)),
            context,
            supplied,
            Effects::Both,
        ))
    }

    /// A principal that acts on itself is one entity: what it is in counts on both sides.
    fn as_resource(&self, principal: &Party) -> Option<Party> {
        let known = principal.entity(Ancestors::Read)?;
        let key = self.engine.index().resources.key(&principal.uid, &known.ancestors());
        Some(Party::known(known, key))
    }

    fn decide(
        &self,
        (principal, action, resource): (&Party, &EntityUid, &Party),
        context: &dyn ContextSource,
        supplied: &SuppliedEntities,
        effects: Effects,
    ) -> Answer {
        self.engine.decide(&Question {
            principal,
            action,
            resource,
            context,
            supplied,
            effects,
        })
    }

    /// A resource by name. A path gets its ancestors from its id; everything else is what the store knows.
    pub fn resource(&self, uid: EntityUid) -> Party {
        let keys = &self.engine.index().resources;
        if self.names.path.as_ref() != Some(uid.type_name()) {
            let key = keys.key(&uid, self.engine.store.ancestors(&uid));
            return Party::stored(uid, key);
        }
        let stored = self.engine.store.get(&uid);
        if stored.is_none() && !self.places_paths() {
            let key = keys.key_among(&uid, parent_paths(uid.id().unescaped()), &self.names.portal);
            return Party::path(uid, key, Arc::clone(&self.names));
        }
        let ancestors = self.path_ancestors(&uid);
        let key = keys.key(&uid, &ancestors);
        match stored {
            Some(stored) => Party::known(stored.known.below(ancestors), key),
            None => Party::known(Known::placed(uid, ancestors), key),
        }
    }

    /// Every parent path up to `/`, the portal, and whatever the store says is above any of them.
    pub fn path_ancestors(&self, uid: &EntityUid) -> Vec<EntityUid> {
        let mut direct = self.names.parents_of_path(uid);
        if self.places_paths() {
            direct.extend(self.engine.store.ancestors(uid).iter().cloned());
            return self.with_stored_ancestors(direct);
        }
        direct
    }

    /// Whether the store can say of a path, or of the portal, what is above it.
    fn places_paths(&self) -> bool {
        let portal = self.names.portal.as_ref().map(EntityUid::type_name);
        let mut types = self.names.path.iter().chain(portal);
        types.any(|ty| self.engine.store.places(ty))
    }
}

/// `/a/b/c` → `/a/b`, `/a`, `/`.
fn parent_paths(id: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(parent_path(id), |p| parent_path(p))
}

fn parent_path(id: &str) -> Option<&str> {
    if id == "/" {
        return None;
    }
    match id.rsplit_once('/')? {
        ("", _) => Some("/"),
        (parent, _) => Some(parent),
    }
}

impl Answer {
    /// The denial that this answer amounts to; `None` if it allows.
    pub fn denial(&self) -> Option<Denial> {
        match self.outcome {
            Outcome::Allow => None,
            Outcome::NotPermitted if self.step_up().is_some() => Some(Denial::StepUpRequired),
            Outcome::NotPermitted => Some(Denial::NotPermitted),
            Outcome::Forbidden if self.step_up().is_some() => Some(Denial::StepUpRequired),
            Outcome::Forbidden => Some(Denial::Forbidden),
            Outcome::EvaluationError => Some(Denial::EvaluationError),
            Outcome::NothingLoaded => Some(Denial::NoPolicyLoaded),
        }
    }

    /// The `acr` that would change the answer: only if every deciding forbid, or the nearest permit, asks for one.
    fn step_up(&self) -> Option<&str> {
        match self.outcome {
            Outcome::Forbidden => {
                let all = self.policies.iter().all(|p| p.annotation("step_up").is_some());
                self.policies.first().filter(|_| all)?.annotation("step_up")
            }
            Outcome::NotPermitted => self.near.as_ref()?.annotation("step_up"),
            Outcome::Allow | Outcome::EvaluationError | Outcome::NothingLoaded => None,
        }
    }

    fn advice(&self) -> Option<String> {
        let speakers = self.policies.iter().chain(&self.near);
        speakers.filter_map(|p| p.annotation("advice")).next().map(str::to_owned)
    }

    /// What the caller is told, if this answer refuses.
    pub fn refusal(&self) -> Option<Refusal> {
        let denial = self.denial()?;
        let deciding: Vec<&str> = self.policies.iter().map(|p| &*p.id).collect();
        let errors: Vec<&str> = self.errors.iter().map(|e| e.message.as_str()).collect();
        let detail = match (deciding.as_slice(), errors.as_slice()) {
            ([], []) => "no permit matched".to_owned(),
            ([], errors) => errors.join("; "),
            (ids, _) => format!("decided by {}", ids.join(", ")),
        };
        let mut refusal = Refusal::new(denial, detail);
        refusal.advice = self.advice();
        refusal.step_up = self.step_up().map(str::to_owned);
        Some(refusal)
    }

    /// Turns an allowing answer into the key to forwarding.
    pub fn permit(&self, passport: Passport) -> Result<Permit, Refusal> {
        match self.refusal() {
            None => Ok(Permit { passport, _sealed: () }),
            Some(refusal) => Err(refusal),
        }
    }
}

impl Permit {
    /// For a path that `portal.yaml` declares public. The caller has checked the credential, if there is one.
    pub fn public(passport: Passport) -> Self {
        Self { passport, _sealed: () }
    }

    #[cfg(test)]
    pub fn for_test(caller: Option<CallerHeaders>) -> Self {
        let passport = Passport {
            decision_id: Uuid::nil(),
            portal: HeaderValue::from_static("customer"),
            revision: HeaderValue::from_static("3f2a"),
            caller: caller.map(Arc::new),
            assertion: HeaderValue::from_static("a.b.c"),
        };
        Self { passport, _sealed: () }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_end_at_the_root() {
        assert_eq!(parent_paths("/a/b/c").collect::<Vec<_>>(), ["/a/b", "/a", "/"]);
        assert_eq!(parent_paths("/a").collect::<Vec<_>>(), ["/"]);
        assert_eq!(parent_paths("/").count(), 0);
        assert_eq!(parent_paths("relative").count(), 0);
    }
}
