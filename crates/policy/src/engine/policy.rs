//! One policy as the engine takes it: id and annotations for reports, its dependencies, and its condition-only form.
//!
//! The loader makes it; revisions share it as long as the text is the same. It is immutable, except that dependencies
//! and the condition-only form are computed once and stored. Decides nothing.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use cedar_policy::{ActionConstraint, Effect, EntityUid, Policy, PrincipalConstraint};
use serde_json::json;

use crate::engine::dependencies::Dependencies;
use crate::engine::explain::mentioned_names;

/// A policy as reports and records show it.
#[derive(Debug)]
pub struct PolicyInfo {
    pub id: Arc<str>,
    pub effect: Effect,
    pub annotations: Vec<(String, String)>,
    /// File and line, for reports; never sent to a caller.
    pub place: String,
}

/// One policy of one place, ready to be indexed and evaluated. Revisions share it while its text and place stay the
/// same.
#[derive(Debug)]
pub struct PolicyEntry {
    pub info: Arc<PolicyInfo>,
    body: Arc<PolicyBody>,
}

/// The part that a policy's text alone determines; shared between revisions while the text does not change.
#[derive(Debug)]
struct PolicyBody {
    original: Policy,
    reads: OnceLock<Dependencies>,
    mentions: OnceLock<BTreeSet<String>>,
    condition_only: OnceLock<Option<Policy>>,
}

impl PolicyEntry {
    /// A template link becomes the static policy that it stands for; `None` if it has no such form.
    pub fn new(policy: &Policy, place: String) -> Option<Self> {
        let id: &str = policy.id().as_ref();
        let annotations = policy.annotations().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let info = Arc::new(PolicyInfo {
            id: Arc::from(id),
            effect: policy.effect(),
            annotations,
            place,
        });
        let original = if policy.is_static() {
            policy.clone()
        } else {
            unlinked(policy)?
        };
        let body = PolicyBody {
            original,
            reads: OnceLock::new(),
            mentions: OnceLock::new(),
            condition_only: OnceLock::new(),
        };
        Some(Self {
            info,
            body: Arc::new(body),
        })
    }

    /// The same policy at another place.
    pub fn at(self: &Arc<Self>, place: String) -> Arc<Self> {
        if self.info.place == place {
            return Arc::clone(self);
        }
        Arc::new(Self {
            info: Arc::new(PolicyInfo {
                id: Arc::clone(&self.info.id),
                effect: self.info.effect,
                annotations: self.info.annotations.clone(),
                place,
            }),
            body: Arc::clone(&self.body),
        })
    }

    /// True if both were made from the same parse of the same text.
    pub fn is_same_reading(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.body, &other.body)
    }

    pub fn policy(&self) -> &Policy {
        &self.body.original
    }

    /// The parts of a query that the conditions read.
    pub fn reads(&self) -> &Dependencies {
        let read = || Dependencies::of(self.policy()).unwrap_or_else(|| Dependencies::everything(usize::MAX));
        self.body.reads.get_or_init(read)
    }

    /// The entities that scope of the principal and conditions name.
    pub fn named_entities(&self) -> impl Iterator<Item = EntityUid> {
        let of_scope = match self.policy().principal_constraint() {
            PrincipalConstraint::In(uid) | PrincipalConstraint::Eq(uid) | PrincipalConstraint::IsIn(_, uid) => Some(uid),
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
        };
        of_scope.into_iter().chain(self.reads().literals.iter().cloned())
    }

    /// The names of all attributes and fields that the conditions look up, on whichever value.
    pub(super) fn mentions(&self) -> &BTreeSet<String> {
        self.body.mentions.get_or_init(|| mentioned_names(self.policy()))
    }

    /// True if the scope lets the policy apply to an action that is in these groups.
    pub fn covers_action(&self, action: &EntityUid, groups: &[EntityUid]) -> bool {
        match self.policy().action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(uid) => uid == *action,
            ActionConstraint::In(all) => all.iter().any(|uid| uid == action || groups.contains(uid)),
        }
    }

    /// The same policy with an unconstrained scope; `None` if its JSON form does not read back.
    pub(super) fn condition_only(&self) -> Option<&Policy> {
        self.body.condition_only.get_or_init(|| scope_free(self.policy())).as_ref()
    }

    /// The condition-only form, if it was made already.
    pub(super) fn ready_condition_only(&self) -> Option<&Policy> {
        self.body.condition_only.get()?.as_ref()
    }
}

impl PolicyInfo {
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// True for a shared policy and for an emergency forbid: the portal's own `portal.yaml` must not weaken them.
    pub(super) fn is_above_portal(&self) -> bool {
        let mut folders = self.place.split('/').skip(1);
        folders.next() == Some("_shared") || folders.next() == Some("_deny")
    }

    pub(super) fn has_advice(&self) -> bool {
        self.annotation("advice").is_some() || self.annotation("step_up").is_some()
    }
}

fn scope_free(policy: &Policy) -> Option<Policy> {
    let mut json = policy.to_json().ok()?;
    let object = json.as_object_mut()?;
    for variable in ["principal", "action", "resource"] {
        object.insert(variable.to_owned(), json!({"op": "All"}));
    }
    Policy::from_json(Some(policy.id().clone()), json).ok()
}

/// A template link as the static policy it stands for.
fn unlinked(link: &Policy) -> Option<Policy> {
    Policy::from_json(Some(link.id().clone()), link.to_json().ok()?).ok()
}
