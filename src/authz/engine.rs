//! The decision: a question against one revision's policies → an answer. Pure: no I/O, no clock, no logging.
//!
//! Equal to Cedar's authorizer over the full policy set in decision, determining policies and errors, except for the
//! house rule that an errored `forbid` denies. Scopes are decided by the index; the policies that remain form a
//! *slice*, kept per scope key. A slice without conditions is a constant; otherwise Cedar evaluates the slice's
//! *twins* (same policy, scope removed) once they exist, and the originals until then.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, OnceLock, Weak};

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Effect, Entities, EntityUid, Policy, PolicyId, PolicySet, Request,
};
use quick_cache::Equivalent;
use quick_cache::sync::Cache;
use rustc_hash::FxHashMap;

use super::TypeNames;
use super::entities::{EntitySetError, EntityStore, Known, push_uids, reachable};
pub use super::policy::{PolicyEntry, PolicyInfo};
use super::reads::{ContextReads, Reads};
use super::scope::{PolicyIndex, ScopeKey};

/// Slices remembered per revision. Past it the least useful is forgotten and made again when needed (tens of µs).
const SLICES_MAX: usize = 16_384;

/// Everything a decision needs of one revision.
pub struct Engine {
    policies: Vec<Arc<PolicyEntry>>,
    index: Arc<PolicyIndex>,
    /// Keys of the declared actions.
    actions: FxHashMap<EntityUid, ScopeKey>,
    pub store: Arc<EntityStore>,
    errored_forbids: ErroredForbids,
    slices: Cache<SliceKey, Arc<Slice>>,
    twins: Option<SyncSender<Weak<Slice>>>,
    names: Arc<TypeNames>,
}

/// What a `forbid` does that fails to evaluate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErroredForbids {
    Deny,
    /// Cedar's own rule (`danger_skip_errors`): it does not forbid.
    Skip,
}

/// Which policies take part.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Effects {
    Both,
    /// Only what could forbid: a routed request's plain path query.
    Forbids,
}

/// One side of a question: who, or what.
#[derive(Clone, Debug)]
pub struct Party {
    pub uid: EntityUid,
    pub key: ScopeKey,
    knowledge: Knowledge,
}

/// What is known of a party beyond its name.
#[derive(Clone, Debug)]
enum Knowledge {
    /// Nothing, or what the store holds.
    Stored,
    /// No attributes, and in what its id says it is in; the entity is made when a condition looks at that.
    Path(Arc<TypeNames>, OnceLock<Known>),
    Entity(Known),
}

/// Whether conditions ask what an entity is in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ancestors {
    Read,
    Unread,
}

/// Everything asked.
pub struct Question<'a> {
    pub principal: &'a Party,
    pub action: &'a EntityUid,
    pub resource: &'a Party,
    pub context: &'a dyn ContextSource,
    /// Entities the app sent along.
    pub supplied: &'a FxHashMap<EntityUid, Known>,
    pub effects: Effects,
}

/// Builds the context when, and as far as, conditions read it.
pub trait ContextSource {
    /// Fails only where a fact cannot be expressed; that denies.
    fn context(&self, reads: &ContextReads) -> Result<Context, String>;

    /// Whether it may have entities in it.
    fn names_entities(&self) -> bool;
}

/// A decision and its reasons.
#[derive(Clone, Debug)]
pub struct Answer {
    pub outcome: Outcome,
    /// The satisfied forbids, or else the satisfied permits.
    pub policies: Vec<Arc<PolicyInfo>>,
    pub errors: Vec<PolicyError>,
    /// Where nothing permits: a permit whose scope matched and whose author has something to tell the caller.
    pub near: Option<Arc<PolicyInfo>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    Allow,
    NotPermitted,
    Forbidden,
    EvaluationError,
    /// There is no revision.
    NothingLoaded,
}

/// A policy that failed to evaluate; `policy` is empty if the question itself could not be put.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyError {
    pub policy: Arc<str>,
    pub message: String,
}

/// Looked for by reference: nothing of it is copied where its slice is there already.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct SliceKey<K = ScopeKey> {
    effects: Effects,
    principal: K,
    action: K,
    resource: K,
}

/// The policies whose scope matches one key.
pub struct Slice {
    unconditional: Vec<Arc<PolicyEntry>>,
    conditional: Vec<Arc<PolicyEntry>>,
    /// The answer where there are no conditions.
    constant: Option<Answer>,
    originals: OnceLock<Option<Prepared>>,
    twins: OnceLock<Prepared>,
}

/// Policies to evaluate and what they read.
struct Prepared {
    set: PolicySet,
    reads: Reads,
}

impl Party {
    /// Known by name; what the store holds of it counts.
    pub fn stored(uid: EntityUid, key: ScopeKey) -> Self {
        Self {
            uid,
            key,
            knowledge: Knowledge::Stored,
        }
    }

    /// A path that no store knows.
    pub fn path(uid: EntityUid, key: ScopeKey, names: Arc<TypeNames>) -> Self {
        Self {
            uid,
            key,
            knowledge: Knowledge::Path(names, OnceLock::new()),
        }
    }

    /// Known in full.
    pub fn known(known: Known, key: ScopeKey) -> Self {
        Self {
            uid: known.uid(),
            key,
            knowledge: Knowledge::Entity(known),
        }
    }

    /// Without its ancestors if nobody asks for them and it has no entity yet.
    pub fn entity(&self, ancestors: Ancestors) -> Option<Known> {
        match (&self.knowledge, ancestors) {
            (Knowledge::Stored, _) => None,
            (Knowledge::Path(..), Ancestors::Unread) => Some(Known::placed(self.uid.clone(), [])),
            (Knowledge::Path(names, made), Ancestors::Read) => {
                let made = made.get_or_init(|| Known::placed(self.uid.clone(), names.parents_of_path(&self.uid)));
                Some(made.clone())
            }
            (Knowledge::Entity(known), _) => Some(known.clone()),
        }
    }
}

impl Equivalent<SliceKey> for SliceKey<&ScopeKey> {
    fn equivalent(&self, key: &SliceKey) -> bool {
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
        let index = Arc::new(PolicyIndex::of(&policies));
        Self::indexed((policies, index), actions, store, errored_forbids)
    }

    /// The index is that of the policies.
    pub fn indexed<'a>(
        (policies, index): (Vec<Arc<PolicyEntry>>, Arc<PolicyIndex>),
        actions: impl IntoIterator<Item = (&'a EntityUid, &'a [EntityUid])>,
        store: Arc<EntityStore>,
        errored_forbids: ErroredForbids,
    ) -> Self {
        let actions = actions
            .into_iter()
            .map(|(uid, groups)| (uid.clone(), index.actions.key(uid, groups)))
            .collect();
        let slices = Cache::new(SLICES_MAX);
        Self {
            policies,
            index,
            actions,
            store,
            errored_forbids,
            slices,
            twins: None,
            names: Arc::default(),
        }
    }

    /// Has new slices twinned by whoever reads the other end of `queue`; without it originals are evaluated for good.
    pub fn with_twin_queue(mut self, queue: Option<SyncSender<Weak<Slice>>>) -> Self {
        self.twins = queue;
        self
    }

    /// Lets paths be in what their ids say they are in.
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

    /// Decides. Never fails: what cannot be evaluated denies.
    pub fn decide(&self, question: &Question<'_>) -> Answer {
        let slice = self.slice(question);
        if let Some(constant) = &slice.constant {
            return constant.clone();
        }
        let Some(prepared) = slice.twins.get().or_else(|| slice.originals()) else {
            return Answer::failed("the matching policies do not form a set".to_owned());
        };
        match self.evaluate(prepared, question) {
            Ok((decision, reasons, errors)) => self.combine(&slice, decision, &reasons, errors),
            Err(message) => Answer::failed(message),
        }
    }

    fn slice(&self, question: &Question<'_>) -> Arc<Slice> {
        let undeclared;
        let action = match self.actions.get(question.action) {
            Some(key) => key,
            None => {
                undeclared = self.index.actions.key(question.action, []);
                &undeclared
            }
        };
        let sought = SliceKey {
            effects: question.effects,
            principal: &question.principal.key,
            action,
            resource: &question.resource.key,
        };
        if let Some(slice) = self.slices.get(&sought) {
            return slice;
        }
        let key = SliceKey {
            effects: sought.effects,
            principal: sought.principal.clone(),
            action: sought.action.clone(),
            resource: sought.resource.clone(),
        };
        let slice = Arc::new(self.make_slice(&key));
        if let Some(queue) = self.twins.as_ref().filter(|_| slice.is_waiting()) {
            // full: this slice goes on with its originals, which decide the same
            let _full = queue.try_send(Arc::downgrade(&slice));
        }
        self.slices.insert(key, Arc::clone(&slice));
        slice
    }

    fn make_slice(&self, key: &SliceKey) -> Slice {
        let numbers = self.index.candidates(&key.principal, &key.action, &key.resource);
        let all = numbers.into_iter().filter_map(|n| self.policies.get(n as usize)).cloned();
        let taking_part = all.filter(|p| key.effects == Effects::Both || p.info.effect == Effect::Forbid);
        let (conditional, unconditional): (Vec<_>, Vec<_>) = taking_part.partition(|p| p.policy().has_non_scope_constraint());
        let mut slice = Slice {
            unconditional,
            conditional,
            constant: None,
            originals: OnceLock::new(),
            twins: OnceLock::new(),
        };
        if slice.conditional.is_empty() {
            slice.constant = Some(self.combine(&slice, Decision::Deny, &[], Vec::new()));
        } else if self.twins.is_some() {
            slice.take_over_twins();
        }
        slice
    }

    fn evaluate(&self, prepared: &Prepared, question: &Question<'_>) -> Result<Evaluated, String> {
        let context = question.context.context(&prepared.reads.context)?;
        let entities = self
            .entities(&prepared.reads, question, &context)
            .map_err(|e| e.to_string())?;
        let (principal, action) = (question.principal.uid.clone(), question.action.clone());
        let request = Request::new(principal, action, question.resource.uid.clone(), context, None).map_err(|e| e.to_string())?;
        let response = Authorizer::new().is_authorized(&request, &prepared.set, &entities);
        let diagnostics = response.diagnostics();
        let reasons = diagnostics.reason().cloned().collect();
        let errors = diagnostics
            .errors()
            .map(|AuthorizationError::PolicyEvaluationError(e)| (e.policy_id().clone(), e.to_string()));
        Ok((response.decision(), reasons, errors.collect()))
    }

    /// The tiny store that the conditions can see.
    fn entities(&self, reads: &Reads, question: &Question<'_>, context: &Context) -> Result<Entities, EntitySetError> {
        if reads.hops == 0 {
            return Ok(Entities::empty());
        }
        let mut roots: Vec<EntityUid> = reads.literals.iter().cloned().collect();
        roots.extend(reads.principal.then(|| question.principal.uid.clone()));
        roots.extend(reads.action.then(|| question.action.clone()));
        roots.extend(reads.resource.then(|| question.resource.uid.clone()));
        if reads.context != ContextReads::Nothing && question.context.names_entities() {
            push_context_uids(context, &mut roots);
        }
        let ancestors = if reads.ancestors { Ancestors::Read } else { Ancestors::Unread };
        let find = |uid: &EntityUid| {
            let parties = [question.principal, question.resource];
            let mut named = parties.into_iter().filter(|p| p.uid == *uid);
            let party = named.find_map(|party| party.entity(ancestors));
            party
                .or_else(|| self.known(uid))
                .or_else(|| question.supplied.get(uid).cloned())
        };
        reachable(roots, reads.hops, find)
    }

    /// An entity of the store; a path is in what its id says it is in, stored or not.
    fn known(&self, uid: &EntityUid) -> Option<Known> {
        let stored = self.store.get(uid);
        if self.names.path.as_ref() != Some(uid.type_name()) {
            return stored.map(|s| s.known.clone());
        }
        let parents = self.names.parents_of_path(uid);
        let higher: Vec<EntityUid> = parents.iter().flat_map(|p| self.store.ancestors(p)).cloned().collect();
        let mut above: HashSet<EntityUid> = parents.into_iter().chain(higher).collect();
        let Some(stored) = stored else {
            return Some(Known::placed(uid.clone(), above));
        };
        above.extend(stored.ancestors.iter().cloned());
        Some(stored.known.below(above))
    }

    /// Cedar's combining rule, over what was evaluated and what needed no evaluation.
    fn combine(&self, slice: &Slice, decision: Decision, reasons: &[PolicyId], errors: Vec<(PolicyId, String)>) -> Answer {
        let satisfied = |effect: Effect| -> Vec<Arc<PolicyInfo>> {
            let evaluated = slice
                .conditional
                .iter()
                .filter(|p| reasons.iter().any(|r| r == p.policy().id()));
            let all = slice
                .unconditional
                .iter()
                .chain(evaluated)
                .filter(|p| p.info.effect == effect);
            all.map(|p| Arc::clone(&p.info)).collect()
        };
        let forbid_failed = errors.iter().any(|(id, _)| {
            slice
                .conditional
                .iter()
                .any(|p| p.info.effect == Effect::Forbid && p.policy().id() == id)
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
            return Answer {
                outcome: Outcome::Forbidden,
                policies: forbids,
                errors,
                near: None,
            };
        }
        let policies = satisfied(Effect::Permit);
        let outcome = match (
            forbid_failed && self.errored_forbids == ErroredForbids::Deny,
            policies.is_empty(),
            decision,
        ) {
            (true, ..) => Outcome::EvaluationError,
            (false, true, Decision::Deny) => Outcome::NotPermitted,
            // INVARIANT: Cedar allows only with a satisfied permit; without one it is not believed
            (false, true, Decision::Allow) => Outcome::EvaluationError,
            (false, false, _) => Outcome::Allow,
        };
        let near = slice
            .conditional
            .iter()
            .find(|p| p.info.effect == Effect::Permit && p.info.speaks());
        let near = near.filter(|_| outcome == Outcome::NotPermitted).map(|p| Arc::clone(&p.info));
        Answer {
            outcome,
            policies,
            errors,
            near,
        }
    }
}

type Evaluated = (Decision, Vec<PolicyId>, Vec<(PolicyId, String)>);

impl Slice {
    fn originals(&self) -> Option<&Prepared> {
        let make = || {
            let mut reads = Reads::everything(1);
            self.conditional.iter().for_each(|p| reads.merge(p.reads()));
            Some(Prepared {
                set: policy_set(self.conditional.iter().map(|p| p.policy()))?,
                reads,
            })
        };
        self.originals.get_or_init(make).as_ref()
    }

    /// Whether somebody should make its twins.
    fn is_waiting(&self) -> bool {
        self.constant.is_none() && self.twins.get().is_none()
    }

    /// Makes the scope-free twins; 70-500 µs per policy, so never on a request's thread.
    pub fn make_twins(&self) {
        self.evaluate_twins(|policy| policy.twin());
    }

    /// After a reload the twins of unchanged policies are there: joining them costs no more than joining the originals.
    fn take_over_twins(&self) {
        self.evaluate_twins(|policy| policy.known_twin());
    }

    fn evaluate_twins(&self, twin: impl Fn(&PolicyEntry) -> Option<&Policy>) {
        let twins = self.conditional.iter().map(|policy| twin(policy));
        let Some(twins) = twins.collect::<Option<Vec<_>>>() else {
            return;
        };
        let Some(set) = policy_set(twins) else { return };
        let mut reads = Reads::default();
        self.conditional.iter().for_each(|p| reads.merge(p.reads()));
        self.twins.get_or_init(|| Prepared { set, reads });
    }
}

/// `None` if any policy cannot join: a set with one forbid less is no set.
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

impl Answer {
    /// There is nothing to ask: no revision was ever loaded.
    pub fn unloaded() -> Self {
        Self {
            outcome: Outcome::NothingLoaded,
            policies: Vec::new(),
            errors: Vec::new(),
            near: None,
        }
    }

    /// The question could not be put to Cedar.
    pub fn failed(message: String) -> Self {
        let error = PolicyError {
            policy: Arc::from(""),
            message,
        };
        Self {
            outcome: Outcome::EvaluationError,
            policies: Vec::new(),
            errors: vec![error],
            near: None,
        }
    }
}
