//! The evaluation of one query by one revision's policies. Pure: no I/O, no clock, no logging.
//!
//! Equal to Cedar's authorizer over the full policy set in decision, determining policies and errors, except for one
//! rule: a `forbid` that fails to evaluate denies. The index decides scopes; the policies whose scope matches form a
//! *match set*, cached per scope key. A match set without conditions has a constant evaluation. For every other one
//! Cedar evaluates the *condition-only* policies (same policy, scope removed) once they exist, and the original
//! policies until then.
//!
//! An example with three policies: P1 `permit (principal in Role::"viewer", action, resource)`; P2 `permit (principal
//! in Role::"clerk", action == Action::"POST", resource) when { context.hour < 18 }`; F `forbid (principal, action,
//! resource in Path::"/admin") when { !context.mfa }`. A viewer gets `/orders`: the match set is {P1}, it has no
//! condition, so the evaluation is the constant *allow by P1*. A clerk posts to `/admin/x`: the match set is {P2, F};
//! Cedar evaluates the two conditions `context.hour < 18` and `!context.mfa` alone, and the evaluation combines their
//! results.
//!
//! What races: a request may find a match set before its condition-only policies exist. Both forms decide alike, so the
//! request takes the one that is there. The preparing thread stores the new form once (`OnceLock`); if its queue is
//! full, the match set keeps its originals, which costs time and changes no decision.

pub(crate) mod coverage;
pub mod dependencies;
#[cfg(test)]
mod engine_tests;
pub mod entities;
mod evaluation;
pub(crate) mod explain;
pub(crate) mod index;
pub mod nearest_permit;
pub(crate) mod policy;
mod query;
mod readers;
pub mod whole;

use std::collections::HashMap;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, OnceLock, Weak};

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Effect, Entities, EntityUid, Policy, PolicyId, PolicySet, Request,
};
use quick_cache::Equivalent;
use quick_cache::sync::Cache;
use rustc_hash::FxHashMap;

use crate::engine::dependencies::{ContextDependencies, Dependencies};
use crate::engine::entities::{EntitySetError, EntityStore, ResolvedEntity, push_uids, reachable};
use crate::engine::index::{PolicyIndex, ScopeKey};
pub use crate::engine::policy::{PolicyEntry, PolicyInfo};
pub use crate::engine::query::{Ancestors, ContextSource, Effects, EntityQuery, QueryEntity};
pub(crate) use crate::engine::readers::UnknownRead;
use crate::schema::TypeNames;

/// Match sets remembered per revision. Beyond it the cache evicts the least useful one, and the engine makes it again
/// when needed (tens of µs).
const MATCH_SETS_MAX: usize = 16_384;

/// Scope keys whose nearest permit is remembered.
const NEAREST_PERMITS_MAX: usize = 4096;

/// Everything a decision needs of one revision.
pub struct Engine {
    policies: Vec<Arc<PolicyEntry>>,
    has_forbids: bool,
    index: Arc<PolicyIndex>,
    /// Keys of the declared actions.
    actions: FxHashMap<EntityUid, ScopeKey>,
    pub store: Arc<EntityStore>,
    errored_forbids: ErroredForbids,
    match_sets: Cache<MatchKey, Arc<MatchSet>>,
    nearest_permits: Cache<MatchKey, Option<Arc<PolicyInfo>>>,
    preparation_queue: Option<SyncSender<Weak<MatchSet>>>,
    names: Arc<TypeNames>,
}

/// Policies and their index.
pub struct IndexedPolicies {
    pub policies: Vec<Arc<PolicyEntry>>,
    /// A policy's number in it is its position in `policies`.
    pub index: Arc<PolicyIndex>,
}

/// The effect of a `forbid` that fails to evaluate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErroredForbids {
    Deny,
    /// Cedar's own rule (`danger_skip_errors`): it does not forbid, unless it is a shared policy or an emergency
    /// forbid.
    Skip,
}

/// The outcome of evaluating policies, and its reasons.
#[derive(Clone, Debug)]
pub struct Evaluation {
    pub outcome: EvaluationOutcome,
    /// The satisfied forbids, or else the satisfied permits.
    pub policies: Vec<Arc<PolicyInfo>>,
    pub errors: Vec<PolicyError>,
    /// A permit whose scope matched and that carries advice for the caller; only if no policy permits.
    pub advising_permit: Option<Arc<PolicyInfo>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EvaluationOutcome {
    Allow,
    NotPermitted,
    Forbidden,
    EvaluationError,
    /// There is no revision.
    NothingLoaded,
}

/// A policy that failed to evaluate; `policy` is empty if Cedar did not take the query itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyError {
    pub policy: Arc<str>,
    pub message: String,
}

/// The key of a match set. Look-ups borrow it, so that a hit copies nothing.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct MatchKey<K = ScopeKey> {
    effects: Effects,
    principal: K,
    action: K,
    resource: K,
}

/// The policies whose scope matches one key.
pub struct MatchSet {
    unconditional: Vec<Arc<PolicyEntry>>,
    conditional: Vec<Arc<PolicyEntry>>,
    /// The evaluation of a set without conditions; `None` if any policy has one.
    constant: Option<Evaluation>,
    originals: OnceLock<Option<Prepared>>,
    condition_only: OnceLock<Prepared>,
}

/// Policies to evaluate and what they read.
struct Prepared {
    set: PolicySet,
    reads: Dependencies,
}

/// A Cedar request and the entities that its conditions can reach.
struct CedarRequest {
    request: Request,
    entities: Entities,
}

impl IndexedPolicies {
    pub fn of(policies: Vec<Arc<PolicyEntry>>) -> Self {
        let index = Arc::new(PolicyIndex::of(&policies));
        Self { policies, index }
    }
}

impl Equivalent<MatchKey> for MatchKey<&ScopeKey> {
    fn equivalent(&self, key: &MatchKey) -> bool {
        let keys = [&key.principal, &key.action, &key.resource];
        self.effects == key.effects && [self.principal, self.action, self.resource] == keys
    }
}

impl Engine {
    /// `actions` are the declared actions with all their groups.
    pub fn new<'a>(
        policies: Vec<Arc<PolicyEntry>>,
        actions: impl IntoIterator<Item = (&'a EntityUid, &'a [EntityUid])>,
        store: Arc<EntityStore>,
        errored_forbids: ErroredForbids,
    ) -> Self {
        Self::indexed(IndexedPolicies::of(policies), actions, store, errored_forbids)
    }

    /// Takes policies whose index exists already.
    pub fn indexed<'a>(
        IndexedPolicies { policies, index }: IndexedPolicies,
        actions: impl IntoIterator<Item = (&'a EntityUid, &'a [EntityUid])>,
        store: Arc<EntityStore>,
        errored_forbids: ErroredForbids,
    ) -> Self {
        let actions = actions
            .into_iter()
            .map(|(uid, groups)| (uid.clone(), index.actions.key(uid, groups)))
            .collect();
        let match_sets = Cache::new(MATCH_SETS_MAX);
        Self {
            has_forbids: policies.iter().any(|policy| policy.info.effect == Effect::Forbid),
            policies,
            index,
            actions,
            store,
            errored_forbids,
            match_sets,
            nearest_permits: Cache::new(NEAREST_PERMITS_MAX),
            preparation_queue: None,
            names: Arc::default(),
        }
    }

    /// Sends new match sets to `queue`, whose reader makes their condition-only policies; without a queue the originals
    /// are evaluated for good.
    pub fn with_preparation_queue(mut self, queue: Option<SyncSender<Weak<MatchSet>>>) -> Self {
        self.preparation_queue = queue;
        self
    }

    /// Gives paths the ancestors that their ids name.
    pub fn with_names(mut self, names: Arc<TypeNames>) -> Self {
        self.names = names;
        self
    }

    pub fn policies(&self) -> &[Arc<PolicyEntry>] {
        &self.policies
    }

    pub fn index(&self) -> &PolicyIndex {
        &self.index
    }

    /// The policies whose scope covers every principal, this action and this resource; conditions are not looked at.
    pub fn covering_all_principals(&self, action: &EntityUid, resource: &QueryEntity) -> impl Iterator<Item = &Arc<PolicyEntry>> {
        let principal = self.index.principals.key_of_any_type();
        let undeclared = || self.index.actions.key(action, []);
        let action = self.actions.get(action).cloned().unwrap_or_else(undeclared);
        let numbers = self.index.candidates(&principal, &action, &resource.key);
        numbers.into_iter().filter_map(|number| self.policies.get(number as usize))
    }

    /// The policies whose scope covers this principal and this action, with their numbers; resource and conditions are
    /// not looked at.
    pub fn covering_any_resource<'a>(
        &'a self,
        principal: &QueryEntity,
        action: &EntityUid,
    ) -> impl Iterator<Item = (u32, &'a Arc<PolicyEntry>)> + use<'a> {
        let undeclared = || self.index.actions.key(action, []);
        let action = self.actions.get(action).cloned().unwrap_or_else(undeclared);
        let numbers = self.index.candidates_of_any_resource(&principal.key, &action);
        numbers
            .into_iter()
            .filter_map(|number| Some((number, self.policies.get(number as usize)?)))
    }

    /// The policies whose scope covers this action and this resource; principal and conditions are not looked at.
    pub fn covering_any_principal(&self, action: &EntityUid, resource: &QueryEntity) -> impl Iterator<Item = &Arc<PolicyEntry>> {
        let undeclared = || self.index.actions.key(action, []);
        let action = self.actions.get(action).cloned().unwrap_or_else(undeclared);
        let numbers = self.index.candidates_of_any_principal(&action, &resource.key);
        numbers.into_iter().filter_map(|number| self.policies.get(number as usize))
    }

    /// The policies whose scope covers the query; conditions are not looked at.
    pub fn covering(
        &self,
        principal: &QueryEntity,
        action: &EntityUid,
        resource: &QueryEntity,
    ) -> impl Iterator<Item = &Arc<PolicyEntry>> {
        let undeclared = || self.index.actions.key(action, []);
        let action = self.actions.get(action).cloned().unwrap_or_else(undeclared);
        let numbers = self.index.candidates(&principal.key, &action, &resource.key);
        numbers.into_iter().filter_map(|number| self.policies.get(number as usize))
    }

    /// The stored entities that this one's attributes name, and the entity itself.
    pub fn with_neighbours(&self, entity: &QueryEntity) -> Result<Entities, EntitySetError> {
        let find = |uid: &EntityUid| match *uid == entity.uid {
            true => match entity.entity(Ancestors::Read) {
                None => self.known(uid),
                entity => Ok(entity),
            },
            false => self.known(uid),
        };
        reachable([entity.uid.clone()], 2, find)
    }

    /// True if any policy forbids.
    pub fn has_forbids(&self) -> bool {
        self.has_forbids
    }

    /// Evaluates the query. Never fails: a policy that cannot be evaluated denies.
    pub fn decide(&self, query: &EntityQuery<'_>) -> Evaluation {
        let match_set = self.match_set(query);
        if let Some(constant) = &match_set.constant {
            return constant.clone();
        }
        if let Some(failed) = self.unknown_read(&match_set, query.context.unknown()) {
            return failed;
        }
        let Some(prepared) = match_set.condition_only.get().or_else(|| match_set.originals()) else {
            return Evaluation::failed("the matching policies do not form a set".to_owned());
        };
        match self.evaluate(prepared, query) {
            Ok((decision, reasons, errors)) => self.combine(&match_set, decision, &reasons, errors),
            Err(message) => Evaluation::failed(message),
        }
    }

    /// True for a forbid that denies if it cannot be evaluated.
    pub fn denies_by_error(&self, info: &PolicyInfo) -> bool {
        info.effect == Effect::Forbid && (self.errored_forbids == ErroredForbids::Deny || info.is_above_portal())
    }

    /// SECURITY: behind `has` a forbid that reads an unknown field would not apply, and no error would say so.
    fn unknown_read(&self, match_set: &MatchSet, unknown: &[String]) -> Option<Evaluation> {
        if unknown.is_empty() {
            return None;
        }
        let forbids = match_set.conditional.iter().filter(|p| self.denies_by_error(&p.info));
        let read = |policy: &Arc<PolicyEntry>| unknown.iter().find(|field| policy.reads().context.includes(field)).cloned();
        let (policy, field) = forbids.filter_map(|policy| Some((policy, read(policy)?))).next()?;
        let error = PolicyError {
            policy: Arc::clone(&policy.info.id),
            message: format!(
                "`{}` reads context `{field}`, which only the app's own questions have",
                policy.info.id
            ),
        };
        Some(Evaluation::failed_by(error))
    }

    fn match_set(&self, query: &EntityQuery<'_>) -> Arc<MatchSet> {
        let undeclared;
        let action = match self.actions.get(query.action) {
            Some(key) => key,
            None => {
                undeclared = self.index.actions.key(query.action, []);
                &undeclared
            }
        };
        let sought = MatchKey {
            effects: query.effects,
            principal: &query.principal.key,
            action,
            resource: &query.resource.key,
        };
        if let Some(match_set) = self.match_sets.get(&sought) {
            return match_set;
        }
        let key = MatchKey {
            effects: sought.effects,
            principal: sought.principal.clone(),
            action: sought.action.clone(),
            resource: sought.resource.clone(),
        };
        let match_set = Arc::new(self.make_match_set(&key));
        if let Some(queue) = self.preparation_queue.as_ref().filter(|_| match_set.is_waiting()) {
            // full: this match set goes on with its originals, which decide the same
            let _full = queue.try_send(Arc::downgrade(&match_set));
        }
        self.match_sets.insert(key, Arc::clone(&match_set));
        match_set
    }

    fn make_match_set(&self, key: &MatchKey) -> MatchSet {
        let numbers = self.index.candidates(&key.principal, &key.action, &key.resource);
        let all = numbers.into_iter().filter_map(|n| self.policies.get(n as usize)).cloned();
        let taking_part = all.filter(|p| key.effects == Effects::Both || p.info.effect == Effect::Forbid);
        let (conditional, unconditional): (Vec<_>, Vec<_>) = taking_part.partition(|p| p.policy().has_non_scope_constraint());
        let mut match_set = MatchSet {
            unconditional,
            conditional,
            constant: None,
            originals: OnceLock::new(),
            condition_only: OnceLock::new(),
        };
        if match_set.conditional.is_empty() {
            match_set.constant = Some(self.combine(&match_set, Decision::Deny, &[], Vec::new()));
        } else if self.preparation_queue.is_some() {
            match_set.adopt_condition_only();
        }
        match_set
    }

    fn evaluate(&self, prepared: &Prepared, query: &EntityQuery<'_>) -> Result<Evaluated, String> {
        let CedarRequest { request, entities } = self.situation(&prepared.reads, query)?;
        let response = Authorizer::new().is_authorized(&request, &prepared.set, &entities);
        let diagnostics = response.diagnostics();
        let reasons = diagnostics.reason().cloned().collect();
        let errors = diagnostics
            .errors()
            .map(|AuthorizationError::PolicyEvaluationError(e)| (e.policy_id().clone(), e.to_string()));
        Ok((response.decision(), reasons, errors.collect()))
    }

    /// The query as Cedar takes it, as far as conditions read it.
    fn situation(&self, reads: &Dependencies, query: &EntityQuery<'_>) -> Result<CedarRequest, String> {
        let context = query.context.context(&reads.context)?;
        let entities = self.entities(reads, query, &context).map_err(|e| e.to_string())?;
        let principal = query.principal.uid.clone();
        let action = query.action.clone();
        let request = Request::new(principal, action, query.resource.uid.clone(), context, None).map_err(|e| e.to_string())?;
        Ok(CedarRequest { request, entities })
    }

    /// The small entity store that the conditions can reach.
    fn entities(&self, reads: &Dependencies, query: &EntityQuery<'_>, context: &Context) -> Result<Entities, EntitySetError> {
        if reads.hops == 0 {
            return Ok(Entities::empty());
        }
        let mut roots: Vec<EntityUid> = reads.literals.iter().cloned().collect();
        roots.extend(reads.principal.then(|| query.principal.uid.clone()));
        roots.extend(reads.action.then(|| query.action.clone()));
        roots.extend(reads.resource.then(|| query.resource.uid.clone()));
        if reads.context != ContextDependencies::Nothing && query.context.names_entities() {
            push_context_uids(context, &mut roots);
        }
        let ancestors = if reads.ancestors { Ancestors::Read } else { Ancestors::Unread };
        let find = |uid: &EntityUid| {
            let query_entities = [query.principal, query.resource];
            let mut named = query_entities.into_iter().filter(|p| p.uid == *uid);
            if let Some(entity) = named.find_map(|entity| entity.entity(ancestors)) {
                return Ok(Some(entity));
            }
            let known = self.known(uid)?;
            Ok(known.or_else(|| query.supplied.get(uid).cloned()))
        };
        reachable(roots, reads.hops, find)
    }

    /// An entity of the store; a path has the ancestors that its id names, stored or not.
    ///
    /// SECURITY: `/open/../secret`, in a claim or in what the app sends, is below `/open` by its text alone. No
    /// condition sees it.
    fn known(&self, uid: &EntityUid) -> Result<Option<ResolvedEntity>, EntitySetError> {
        let stored = self.store.get(uid);
        if !self.names.is_path(uid) {
            return Ok(stored.map(|s| s.known.clone()));
        }
        if self.names.is_no_path(uid) {
            return Err(EntitySetError::Path(uid.clone()));
        }
        let above = self.path_ancestors(uid);
        Ok(Some(match stored {
            Some(stored) => stored.known.below(above),
            None => ResolvedEntity::without_attributes(uid.clone(), above),
        }))
    }

    /// Every parent path up to `/`, the portal, and every stored ancestor of any of them.
    pub fn path_ancestors(&self, uid: &EntityUid) -> Vec<EntityUid> {
        let mut direct = self.names.parents_of_path(uid);
        direct.extend(self.store.ancestors(uid).iter().cloned());
        self.store.with_ancestors(direct, &self.names)
    }

    /// Combines by Cedar's rule the policies that were evaluated and those without conditions.
    fn combine(
        &self,
        match_set: &MatchSet,
        decision: Decision,
        reasons: &[PolicyId],
        errors: Vec<(PolicyId, String)>,
    ) -> Evaluation {
        let satisfied = |effect: Effect| -> Vec<Arc<PolicyInfo>> {
            let evaluated = match_set
                .conditional
                .iter()
                .filter(|p| reasons.iter().any(|r| r == p.policy().id()));
            let all = match_set
                .unconditional
                .iter()
                .chain(evaluated)
                .filter(|p| p.info.effect == effect);
            all.map(|p| Arc::clone(&p.info)).collect()
        };
        let forbid_failed = errors.iter().any(|(id, _)| {
            let mut failed = match_set.conditional.iter().filter(|p| p.policy().id() == id);
            failed.any(|p| self.denies_by_error(&p.info))
        });
        let errors = errors
            .into_iter()
            .map(|(id, message)| PolicyError {
                policy: Arc::from(id.as_ref()),
                message,
            })
            .collect();
        let forbids = satisfied(Effect::Forbid);
        if !forbids.is_empty() {
            return Evaluation {
                outcome: EvaluationOutcome::Forbidden,
                policies: forbids,
                errors,
                advising_permit: None,
            };
        }
        let policies = satisfied(Effect::Permit);
        let outcome = match (forbid_failed, policies.is_empty(), decision) {
            (true, ..) => EvaluationOutcome::EvaluationError,
            (false, true, Decision::Deny) => EvaluationOutcome::NotPermitted,
            // INVARIANT: Cedar allows only with a satisfied permit; an allow without one counts as an error
            (false, true, Decision::Allow) => EvaluationOutcome::EvaluationError,
            (false, false, _) => EvaluationOutcome::Allow,
        };
        let advising_permit = match_set
            .conditional
            .iter()
            .find(|p| p.info.effect == Effect::Permit && p.info.has_advice());
        let advising_permit = advising_permit
            .filter(|_| outcome == EvaluationOutcome::NotPermitted)
            .map(|p| Arc::clone(&p.info));
        Evaluation {
            outcome,
            policies,
            errors,
            advising_permit,
        }
    }
}

type Evaluated = (Decision, Vec<PolicyId>, Vec<(PolicyId, String)>);

impl MatchSet {
    /// A set that evaluates every policy, those without conditions included.
    fn of_conditional(policies: Vec<Arc<PolicyEntry>>) -> Self {
        Self {
            unconditional: Vec::new(),
            conditional: policies,
            constant: None,
            originals: OnceLock::new(),
            condition_only: OnceLock::new(),
        }
    }

    fn originals(&self) -> Option<&Prepared> {
        let make = || {
            let mut reads = Dependencies::everything(1);
            self.conditional.iter().for_each(|p| reads.merge(p.reads()));
            Some(Prepared {
                set: policy_set(self.conditional.iter().map(|p| p.policy()))?,
                reads,
            })
        };
        self.originals.get_or_init(make).as_ref()
    }

    /// True if its condition-only policies are still to be made.
    fn is_waiting(&self) -> bool {
        self.constant.is_none() && self.condition_only.get().is_none()
    }

    /// Makes the condition-only policies; 70-500 µs per policy, so never on a request's thread.
    pub fn make_condition_only(&self) {
        self.join_condition_only(|policy| policy.condition_only());
    }

    /// After a reload the condition-only policies of unchanged policies are there: joining them costs no more than
    /// joining the originals.
    fn adopt_condition_only(&self) {
        self.join_condition_only(|policy| policy.ready_condition_only());
    }

    fn join_condition_only(&self, condition_only: impl Fn(&PolicyEntry) -> Option<&Policy>) {
        let condition_only = self.conditional.iter().map(|policy| condition_only(policy));
        let Some(condition_only) = condition_only.collect::<Option<Vec<_>>>() else {
            return;
        };
        let Some(set) = policy_set(condition_only) else { return };
        let mut reads = Dependencies::default();
        self.conditional.iter().for_each(|p| reads.merge(p.reads()));
        self.condition_only.get_or_init(|| Prepared { set, reads });
    }
}

/// `None` if any policy cannot join: a set without one of its forbids must not decide.
fn policy_set<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Option<PolicySet> {
    let mut set = PolicySet::new();
    for policy in policies {
        set.add(policy.clone()).ok()?;
    }
    Some(set)
}

fn push_context_uids(context: &Context, roots: &mut Vec<EntityUid>) {
    let keys: HashMap<String, _> = context.clone().into_iter().collect();
    for key in keys.keys() {
        if let Some(value) = context.get(key) {
            push_uids(&value, roots);
        }
    }
}
