//! The policies of one side of a comparison: to reason about one by one, and to decide whole requests with.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::{Effect, EntityUid};
use cedargate_policy::engine::whole::WholeSet;
use cedargate_policy::engine::{Engine, ErroredForbids, PolicyEntry};

use super::clause::Clause;

/// The policies of one engine.
pub(super) struct System<'e> {
    engine: &'e Engine,
    pub whole: WholeSet<'e>,
    /// Made when needed: a proof looks at few of many policies.
    clauses: Vec<OnceCell<Option<Clause>>>,
    by_id: HashMap<Arc<str>, usize>,
}

/// The number of a policy in its system.
pub(super) type Number = usize;

impl<'e> System<'e> {
    /// `None` if the policies do not form a set.
    pub fn of(engine: &'e Engine) -> Option<Self> {
        let entries = engine.policies();
        Some(Self {
            engine,
            whole: engine.whole()?,
            clauses: entries.iter().map(|_| OnceCell::new()).collect(),
            by_id: entries.iter().map(|entry| Arc::clone(&entry.info.id)).zip(0..).collect(),
        })
    }

    pub fn entry(&self, number: Number) -> Option<&'e Arc<PolicyEntry>> {
        self.engine.policies().get(number)
    }

    /// Every policy.
    pub fn all(&self) -> Vec<Number> {
        (0..self.clauses.len()).collect()
    }

    pub fn id(&self, number: Number) -> &'e str {
        self.entry(number).map_or("", |entry| &entry.info.id)
    }

    pub fn number(&self, id: &str) -> Option<Number> {
        self.by_id.get(id).copied()
    }

    pub fn clause(&self, number: Number) -> Result<&Clause, String> {
        let make = || {
            let entry = self.entry(number)?;
            Clause::new(entry.policy(), self.errored(entry))
        };
        let clause = self.clauses.get(number).and_then(|cell| cell.get_or_init(make).as_ref());
        clause.ok_or_else(|| format!("policy `{}` has no JSON form", self.id(number)))
    }

    /// The effect of an error of this policy; it matters for forbids alone.
    fn errored(&self, entry: &PolicyEntry) -> ErroredForbids {
        match entry.info.effect == Effect::Permit || self.engine.denies_by_error(&entry.info) {
            true => ErroredForbids::Deny,
            false => ErroredForbids::Skip,
        }
    }

    /// The policies of one effect that can apply to this action.
    pub fn covering<'s>(&'s self, effect: Effect, action: &'s Action<'_>) -> impl Iterator<Item = Number> + 's {
        let covers =
            move |entry: &Arc<PolicyEntry>| entry.info.effect == effect && entry.covers_action(&action.uid, action.groups);
        let entries = self.engine.policies().iter().enumerate();
        entries.filter(move |(_, entry)| covers(entry)).map(|(number, _)| number)
    }

    /// True if the policy can apply to this action.
    pub fn covers(&self, number: Number, action: &Action<'_>) -> bool {
        self.entry(number)
            .is_some_and(|entry| entry.covers_action(&action.uid, action.groups))
    }

    /// The policies that this system does not share with another one.
    pub fn beyond(&self, other: &Self) -> Vec<Number> {
        let is_same = |entry: &Arc<PolicyEntry>| {
            let counterpart = other.number(&entry.info.id).and_then(|number| other.entry(number));
            counterpart.is_some_and(|counterpart| {
                counterpart.is_same_reading(entry) && self.errored(entry) == other.errored(counterpart)
            })
        };
        let unmatched = |system: &Self, is_same: &dyn Fn(&Arc<PolicyEntry>) -> bool| -> Vec<Number> {
            let entries = system.engine.policies().iter().enumerate();
            entries
                .filter(|(_, entry)| !is_same(entry))
                .map(|(number, _)| number)
                .collect()
        };
        let own = unmatched(self, &is_same);
        if own.is_empty() {
            return own;
        }
        // a policy under another id, in another layout, or with other annotations decides alike
        let is_same_of_other = |entry: &Arc<PolicyEntry>| {
            let counterpart = self.number(&entry.info.id).and_then(|number| self.entry(number));
            counterpart.is_some_and(|counterpart| {
                counterpart.is_same_reading(entry) && other.errored(entry) == self.errored(counterpart)
            })
        };
        let others = unmatched(other, &is_same_of_other);
        let keys: HashSet<String> = others.iter().filter_map(|n| Some(other.clause(*n).ok()?.key())).collect();
        own.into_iter()
            .filter(|number| self.clause(*number).map_or(true, |clause| !keys.contains(&clause.key())))
            .collect()
    }
}

/// An action with its groups.
pub(super) struct Action<'a> {
    pub uid: EntityUid,
    pub groups: &'a [EntityUid],
}
