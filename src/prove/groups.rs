//! Groups policies by the conditions that they share.
//!
//! A policy is satisfied only if each of its conjuncts is true. If no request that a proof looks for has a condition,
//! no policy with that condition matters, and one question answers for all of them (docs/decisions/0052).

use std::collections::{BTreeSet, HashMap};

use cedar_policy::EntityUid;

use super::clause::Expression;
use super::system::{Number, System};

/// Policies with a condition that each of them demands.
pub(super) struct Group {
    pub condition: Expression,
    /// Every entity that the condition names, and perhaps more.
    pub literals: Vec<EntityUid>,
    pub members: BTreeSet<Number>,
}

/// The groups of the policies, large ones first. A policy is in one group for each of its conjuncts.
pub(super) fn groups(system: &System<'_>, numbers: &[Number]) -> Vec<Group> {
    let mut groups: HashMap<String, Group> = HashMap::new();
    for number in numbers {
        let Ok(clause) = system.clause(*number) else { continue };
        for condition in clause.when.demanded() {
            let new = |condition: Expression| Group {
                condition,
                literals: clause.literals.clone(),
                members: BTreeSet::new(),
            };
            let group = groups.entry(condition.text()).or_insert_with(|| new(condition));
            group.members.insert(*number);
        }
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_cached_key(|group| {
        (
            std::cmp::Reverse(group.members.len()),
            group.members.first().copied(),
            group.condition.text(),
        )
    });
    groups
}
