//! The permissions of one caller: action × resource type → allow, deny or conditional.
//!
//! *Allow* means that the engine allows for every resource of the type, in every context, at every time; *deny* that it
//! allows for none. Everything else is *conditional*, also what could fail, what Cedar cannot say, and what is too much
//! work to find out. Cedar's partial evaluation (`partial`) computes it with the caller as the principal and the facts
//! of the portal and of the caller; resource, time and the facts of a request are unknown. It is about the queries that
//! an app asks by action and resource. Permits nothing: a request is decided by `decision` alone.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cedar_policy::{
    Effect, EntityId, EntityTypeName, EntityUid, PartialEntities, PartialEntityUid, PartialRequest, ResourceConstraint,
};
use rustc_hash::FxHashMap;
use serde::Serialize;
use serde_json::{Value, json};

use crate::context::{ContextFacts, LastingField};
use crate::decision::named::{ContextPrecedence, NamedEntity, NamedQuery};
use crate::decision::{Caller, Decision, Query, QueryForm, check_tenant, decide};
use crate::denial::{Denial, Refusal};
use crate::digest::sha256_of;
use crate::engine::{Ancestors, PolicyEntry};
use crate::error_chain::error_chain;
use crate::partial::rewrite::{KnownMemberships, Placeholder};
use crate::partial::{PartialOutcome, PartialQuery};
use crate::principal::Principal;
use crate::revision::Revision;
use crate::schema::ActionModel;
use crate::scope::PortalScope;
use crate::types::Identity;

/// Policies that one computation lets Cedar evaluate. Beyond it, types and actions that are not settled are
/// conditional.
pub const EVALUATIONS_MAX: usize = 5000;
/// Policies that Cedar evaluates in one call; the computation stops when a call settles the answer.
const CHUNK: usize = 64;
/// Id of an entity that stands in for a resource; it is in questions that Cedar leaves open, and never decided about.
const STAND_IN: &str = "\u{0}any resource";

/// The caller, and the portal whose policies are asked.
#[derive(Clone, Copy)]
pub struct PermissionsQuery<'a> {
    pub portal: &'a PortalScope,
    pub revision: &'a Revision,
    pub identity: &'a Identity,
    /// The principal that the revision makes of the identity.
    pub principal: &'a Principal,
}

/// The answer for one action on one type of resources.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// Every resource, in every context.
    Allow,
    /// No resource, in no context.
    Deny,
    /// It depends on more than the caller, or is not known.
    Conditional,
}

/// The answers for one caller, by the names that queries use.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Permissions {
    /// Resource type → action → answer.
    pub resource_types: BTreeMap<String, BTreeMap<String, Permission>>,
}

/// The state of one computation.
struct Computation<'a> {
    query: PermissionsQuery<'a>,
    facts: ContextFacts<'a>,
    entities: Result<PartialEntities, String>,
    /// Cedar's JSON of the policies, by number.
    json: FxHashMap<u32, Result<Arc<Value>, String>>,
    evaluations_left: usize,
}

/// One action on one type of resources.
struct Column<'a> {
    resource_type: &'a EntityTypeName,
    context: BTreeMap<String, Option<Value>>,
    stand_in: EntityUid,
    /// `Err`: the reason why Cedar does not take the query.
    request: Result<PartialRequest, String>,
}

/// What is known about the policies of one effect.
#[derive(Clone, Copy, Debug, Default)]
struct Holds {
    /// One of them holds for every resource.
    always: bool,
    /// One of them could hold.
    possibly: bool,
}

/// A policy, as far as its scope tells.
enum ByScope {
    Never,
    Always,
    /// The scope names a resource; there is no condition.
    Depends,
    /// The condition must be evaluated.
    Open,
}

impl PermissionsQuery<'_> {
    /// Everything about the caller that the answers depend on: equal digests under one revision have equal answers.
    pub fn digest(&self) -> [u8; 32] {
        let entity = &self.principal.entity;
        let known = entity.entity(Ancestors::Read);
        let mut above: Vec<String> = known
            .iter()
            .flat_map(|known| known.ancestors())
            .map(|uid| uid.to_string())
            .collect();
        above.sort_unstable();
        let attrs = known.and_then(|known| known.entity().to_json_value().ok());
        // an attribute that has no JSON: the claims that it was made of
        let attrs = attrs.and_then(|mut json| json.get_mut("attrs").map(Value::take));
        let attrs = attrs.unwrap_or_else(|| Value::Object((*self.identity.claims).clone()));
        let auth = format!("{:?}", self.identity.auth);
        let tenant = &self.identity.tenant;
        let slug = self.portal.slug.as_str();
        let facts = json!([
            slug,
            entity.uid.to_string(),
            above,
            attrs,
            tenant,
            auth,
            &*self.principal.flags
        ]);
        sha256_of([sorted(facts).to_string().as_bytes()])
    }
}

/// The same JSON with the members of its objects in order: Cedar writes attributes in any order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let members: BTreeMap<String, Value> = members.into_iter().map(|(name, member)| (name, sorted(member))).collect();
            Value::Object(members.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

impl Permission {
    /// Equal answers stay; different ones are conditional.
    fn joined(self, other: Self) -> Self {
        if self == other { self } else { Self::Conditional }
    }
}

impl Permissions {
    /// Every action on every type that the schema lets it have.
    ///
    /// # Errors
    /// The caller's tenant is not the portal's.
    pub fn of(query: PermissionsQuery<'_>) -> Result<Self, Refusal> {
        let tenant = query.portal.tenant.of_request(None);
        check_tenant(tenant, query.identity.tenant.as_deref())?;
        let schema = &query.revision.rules.schema;
        let mut computation = Computation {
            facts: ContextFacts::of_named(query.portal, tenant, Some(query.identity), &query.principal.flags, 0),
            entities: known_entities(query),
            json: FxHashMap::default(),
            evaluations_left: EVALUATIONS_MAX,
            query,
        };
        let mut resource_types: BTreeMap<String, BTreeMap<String, Permission>> = BTreeMap::new();
        let actions: BTreeMap<&EntityUid, &ActionModel> = schema.actions().collect();
        for (action, model) in actions {
            for resource_type in &model.resources {
                let answer = computation.answer(action, resource_type);
                let of_type = resource_types.entry(schema.type_name(resource_type)).or_default();
                of_type.insert(schema.action_name(action), answer);
            }
        }
        Ok(Self { resource_types })
    }

    /// Action → the answer for resources of every type.
    pub fn actions(&self) -> BTreeMap<&str, Permission> {
        let mut actions: BTreeMap<&str, Permission> = BTreeMap::new();
        for (action, answer) in self.resource_types.values().flatten() {
            let joined = actions.entry(action).or_insert(*answer);
            *joined = joined.joined(*answer);
        }
        actions
    }
}

/// The answer for one action on one resource.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ResourceAnswer {
    pub permission: Permission,
    /// The stronger login (`acr_values`) that a policy asks for; only beside a *deny* that nothing but this login
    /// lifts.
    pub step_up: Option<String>,
}

impl From<Permission> for ResourceAnswer {
    fn from(permission: Permission) -> Self {
        Self {
            permission,
            step_up: None,
        }
    }
}

/// One action on one resource.
pub struct ResourceQuestion<'a> {
    pub action: &'a str,
    pub resource: &'a NamedEntity,
    /// Unix milliseconds.
    pub now_millis: i64,
}

impl ResourceQuestion<'_> {
    /// The decision without the facts of a request; *conditional* if they could change it.
    ///
    /// # Errors
    /// `request_invalid`: the portal has no such action or type, or the description does not fit the schema.
    pub fn answer(&self, of: PermissionsQuery<'_>) -> Result<ResourceAnswer, Refusal> {
        let rules = &of.revision.rules;
        let unknown = || Refusal::new(Denial::RequestInvalid, format!("the schema has no action `{}`", self.action));
        let action = rules.schema.resolve_action(self.action).ok_or_else(unknown)?;
        let resource = self.resource.uid(&rules.schema, "resource")?;
        let principal = &of.principal.entity;
        if !rules.schema.applies(principal.uid.type_name(), &action, resource.type_name()) {
            return Ok(Permission::Deny.into());
        }
        let of_request: Vec<_> = rules
            .plans
            .get(&action)
            .map(|plan| plan.of_request().collect())
            .unwrap_or_default();
        if of_request.iter().any(|field| field.required) {
            return Ok(Permission::Conditional.into());
        }
        let decision = self.decide(of);
        if let Some(refusal) = decision.unevaluated() {
            return match refusal.denial {
                Denial::RequestInvalid => Err(refusal.clone()),
                _ => Ok(Permission::Deny.into()),
            };
        }
        let Some(target) = &decision.target else {
            return Ok(Permission::Deny.into());
        };
        let reads = |policy: &PolicyEntry| of_request.iter().any(|field| policy.reads().context.includes(field.name));
        let covering = rules.engine.covering(principal, &action, &target.resource);
        let mut open: Vec<_> = covering.filter(|policy| reads(policy)).collect();
        if rules.is_path(&target.resource.uid) {
            // a forbid holds on the other readings of a path, too
            let all = rules
                .engine
                .covering_any_resource(principal, &action)
                .map(|(_, policy)| policy);
            open.extend(all.filter(|policy| policy.info.effect == Effect::Forbid && reads(policy)));
        }
        // a determining policy that reads no such fact stays satisfied
        let is_settled = |effect: Effect| {
            let mut determining = decision.policies().iter().filter(|policy| policy.effect == effect);
            determining.any(|policy| open.iter().all(|open| open.info.id != policy.id))
        };
        let may = |effect: Effect| open.iter().any(|policy| policy.info.effect == effect);
        let permission = match decision.denial() {
            None if is_settled(Effect::Permit) && !may(Effect::Forbid) => Permission::Allow,
            Some(_) if is_settled(Effect::Forbid) || open.is_empty() => Permission::Deny,
            Some(Denial::NotPermitted) if !may(Effect::Permit) => Permission::Deny,
            None | Some(_) => Permission::Conditional,
        };
        let is_denied = permission == Permission::Deny;
        let refusal = decision.refusal().filter(|_| is_denied);
        let step_up = refusal.and_then(|refusal| refusal.step_up).map(String::from);
        Ok(ResourceAnswer { permission, step_up })
    }

    fn decide(&self, of: PermissionsQuery<'_>) -> Decision {
        let query = Query {
            portal: of.portal,
            revision: of.revision,
            now_millis: self.now_millis,
            asked: QueryForm::Named(NamedQuery {
                action: self.action,
                resource: self.resource,
                principal: None,
                context: None,
                precedence: ContextPrecedence::Gate,
                entities: &[],
            }),
        };
        let caller = Caller::Proven {
            identity: of.identity,
            principal: of.principal,
        };
        decide(&query, caller)
    }
}

impl<'a> Computation<'a> {
    fn answer(&mut self, action: &'a EntityUid, resource_type: &'a EntityTypeName) -> Permission {
        let rules = &self.query.revision.rules;
        let principal = &self.query.principal.entity;
        if !rules.schema.applies(principal.uid.type_name(), action, resource_type) {
            return Permission::Deny;
        }
        let plan = rules.plans.get(action);
        let lasting = match plan.map(|plan| plan.lasting(&self.facts)).transpose() {
            Ok(lasting) => lasting.unwrap_or_default(),
            // the same refusal as every query of the action
            Err(_refusal) => return Permission::Deny,
        };
        let column = self.column(action, resource_type, lasting);
        let covering: Vec<_> = rules.engine.covering_any_resource(principal, action).collect();
        let (permits, forbids): (Vec<_>, Vec<_>) = covering
            .into_iter()
            .partition(|(_, policy)| policy.info.effect == Effect::Permit);
        let permits = self.hold(&column, &permits);
        if !permits.possibly {
            return Permission::Deny;
        }
        let forbids = self.hold(&column, &forbids);
        match (permits.always, forbids) {
            (_, Holds { always: true, .. }) => Permission::Deny,
            (true, Holds { possibly: false, .. }) => Permission::Allow,
            _ => Permission::Conditional,
        }
    }

    fn column(&self, action: &'a EntityUid, resource_type: &'a EntityTypeName, lasting: Vec<LastingField>) -> Column<'a> {
        let request = PartialRequest::new(
            PartialEntityUid::from_concrete(self.query.principal.entity.uid.clone()),
            action.clone(),
            PartialEntityUid::new(resource_type.clone(), None),
            None,
            &self.query.revision.rules.schema.cedar,
        );
        Column {
            resource_type,
            context: lasting.into_iter().collect(),
            stand_in: EntityUid::from_type_name_and_id(resource_type.clone(), EntityId::new(STAND_IN)),
            request: request.map_err(|error| error_chain(&error)),
        }
    }

    /// Tells if one of these policies, all of one effect, holds. Stops when one holds always.
    fn hold(&mut self, column: &Column<'_>, policies: &[(u32, &Arc<PolicyEntry>)]) -> Holds {
        let mut holds = Holds::default();
        let mut open = Vec::new();
        for (number, policy) in policies {
            match self.by_scope(column, policy) {
                ByScope::Never => {}
                ByScope::Always => return Holds::ALWAYS,
                ByScope::Depends => holds.possibly = true,
                ByScope::Open => open.push((*number, *policy)),
            }
        }
        for chunk in open.chunks(CHUNK) {
            let Some(left) = self.evaluations_left.checked_sub(chunk.len()) else {
                holds.possibly = true;
                break;
            };
            self.evaluations_left = left;
            for (outcome, (_, policy)) in self.evaluate(column, chunk).into_iter().zip(chunk) {
                match outcome {
                    PartialOutcome::True => return Holds::ALWAYS,
                    PartialOutcome::Fails if self.query.revision.rules.engine.denies_by_error(&policy.info) => {
                        return Holds::ALWAYS;
                    }
                    PartialOutcome::False | PartialOutcome::Fails => {}
                    PartialOutcome::Depends(_) | PartialOutcome::Unknown(_) => holds.possibly = true,
                }
            }
        }
        holds
    }

    fn by_scope(&self, column: &Column<'_>, policy: &PolicyEntry) -> ByScope {
        let fits = |ty: &EntityTypeName| ty == column.resource_type;
        let is_settled = match policy.policy().resource_constraint() {
            ResourceConstraint::Any => true,
            ResourceConstraint::Is(ty) if fits(&ty) => true,
            ResourceConstraint::Is(_) => return ByScope::Never,
            ResourceConstraint::IsIn(ty, _) if !fits(&ty) => return ByScope::Never,
            ResourceConstraint::Eq(uid) if !fits(uid.type_name()) => return ByScope::Never,
            ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => self.surely_above(column).contains(&uid),
            ResourceConstraint::Eq(_) => false,
        };
        match (is_settled, policy.policy().has_non_scope_constraint()) {
            (_, true) => ByScope::Open,
            (true, false) => ByScope::Always,
            (false, false) => ByScope::Depends,
        }
    }

    /// The entities that every resource of the type is in: a path is in the root path and in the portal.
    fn surely_above(&self, column: &Column<'_>) -> Vec<EntityUid> {
        let names = &self.query.revision.rules.names;
        if names.path.as_ref() != Some(column.resource_type) {
            return Vec::new();
        }
        let root = EntityUid::from_type_name_and_id(column.resource_type.clone(), EntityId::new("/"));
        names.portal.iter().cloned().chain([root]).collect()
    }

    /// The outcome of each policy.
    fn evaluate(&mut self, column: &Column<'_>, policies: &[(u32, &Arc<PolicyEntry>)]) -> Vec<PartialOutcome<()>> {
        let request = match &column.request {
            Ok(request) => request,
            Err(why) => return vec![PartialOutcome::Unknown(why.clone()); policies.len()],
        };
        let resource = self.surely_above(column);
        let known = KnownMemberships {
            // Cedar knows the ancestors of the caller
            roles: &BTreeSet::new(),
            role_type: None,
            resource: &resource,
            context: &column.context,
            stand_in: Some(Placeholder {
                variable: "resource",
                uid: &column.stand_in,
                described: &["principal", "context"],
            }),
        };
        for (number, policy) in policies {
            let read = || policy.policy().to_json().map(Arc::new).map_err(|error| error_chain(&error));
            self.json.entry(*number).or_insert_with(read);
        }
        let unread = "the policy was not read".to_owned();
        let json: Vec<_> = policies
            .iter()
            .map(|(number, _)| self.json.get(number).map_or(Err(&unread), |json| json.as_deref()))
            .collect();
        let query = PartialQuery {
            schema: &self.query.revision.rules.schema,
            request,
            entities: self.entities.as_ref().map_err(Clone::clone),
        };
        query.evaluate_known(&known, &json, &|_remaining| Some(()))
    }
}

impl Holds {
    const ALWAYS: Self = Self {
        always: true,
        possibly: true,
    };
}

/// The caller and the stored entities that its attributes name.
fn known_entities(query: PermissionsQuery<'_>) -> Result<PartialEntities, String> {
    let rules = &query.revision.rules;
    let entities = rules.engine.with_neighbours(&query.principal.entity);
    let entities = entities.map_err(|error| error.to_string())?;
    PartialEntities::from_concrete(entities, &rules.schema.cedar).map_err(|error| error_chain(&error))
}
