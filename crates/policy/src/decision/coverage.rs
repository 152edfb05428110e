//! How far decision tests reach: policies that decide, and clauses that were true and false.
//!
//! The decision is made by the same function as every other; an observer sees the evaluations on the way. For decision
//! tests, never on the path of a request.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Access, Caller, Decision, Query};
use crate::engine::coverage::ReachedPolicy;
use crate::engine::{Engine, EntityQuery, Evaluation, PolicyInfo};
use crate::revision::Revision;
use crate::rules::Observer;

/// Notes what many decisions reach. Threads share it; each holds the lock for one decision's notes.
#[derive(Default)]
pub struct Coverage {
    seen: Mutex<HashMap<Arc<str>, SeenClauses>>,
}

#[derive(Default)]
struct SeenClauses {
    decides: bool,
    clauses: Vec<SeenClause>,
}

#[derive(Clone, Copy, Default)]
struct SeenClause {
    met: bool,
    unmet: bool,
}

/// The coverage of one policy.
#[derive(Clone, Debug)]
pub struct PolicyCoverage {
    pub info: Arc<PolicyInfo>,
    /// True if it decided a case.
    pub decides: bool,
    pub clauses: Vec<ClauseCoverage>,
}

/// The coverage of one clause of a condition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClauseCoverage {
    /// As the author wrote it.
    pub text: String,
    /// Line breaks between the beginning of the policy and the clause; `None` for the policy of a template link.
    pub line_offset: Option<usize>,
    pub was_true: bool,
    pub was_false: bool,
}

/// Points that tests can reach: a policy that decides, a clause that is true, a clause that is false.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Points {
    pub reached: usize,
    pub all: usize,
}

/// Decides, and notes what the decision reached.
pub fn decide_covered(query: &Query<'_>, caller: Caller<'_>, coverage: &Coverage) -> Decision {
    let decision = match query.access() {
        Access::Closed(decision) => *decision,
        Access::Public(open) | Access::Credential(open) => open.decide_observed(caller, Some(coverage)),
    };
    let mut seen = coverage.seen.lock();
    for policy in decision.policies() {
        seen.entry(Arc::clone(&policy.id)).or_default().decides = true;
    }
    decision
}

impl Observer for Coverage {
    fn evaluated(&self, engine: &Engine, query: &EntityQuery<'_>, _: &Evaluation) {
        engine.reach(query, |ReachedPolicy { entry, met }| {
            let mut seen = self.seen.lock();
            let seen = seen.entry(Arc::clone(&entry.info.id)).or_default();
            if seen.clauses.len() < met.len() {
                seen.clauses.resize(met.len(), SeenClause::default());
            }
            for (clause, is_met) in seen.clauses.iter_mut().zip(met) {
                clause.met |= is_met;
                clause.unmet |= !is_met;
            }
        });
    }
}

impl Coverage {
    /// The coverage of every policy of the revision, in its order.
    pub fn policies(&self, revision: &Revision) -> Vec<PolicyCoverage> {
        let seen = self.seen.lock();
        let none = SeenClauses::default();
        let policies = revision.rules.engine.policies().iter();
        let covered = policies.map(|entry| {
            let seen = seen.get(&entry.info.id).unwrap_or(&none);
            let clauses = entry.clauses().into_iter().enumerate().map(|(number, clause)| {
                let seen = seen.clauses.get(number).copied().unwrap_or_default();
                let (was_true, was_false) = if clause.wants {
                    (seen.met, seen.unmet)
                } else {
                    (seen.unmet, seen.met)
                };
                ClauseCoverage {
                    text: clause.text,
                    line_offset: clause.line_offset,
                    was_true,
                    was_false,
                }
            });
            PolicyCoverage {
                info: Arc::clone(&entry.info),
                decides: seen.decides,
                clauses: clauses.collect(),
            }
        });
        covered.collect()
    }
}

impl PolicyCoverage {
    /// Adds what the tests of another portal reach of the same policy.
    pub fn merge(&mut self, other: &Self) {
        self.decides |= other.decides;
        for (clause, other) in self.clauses.iter_mut().zip(&other.clauses) {
            clause.was_true |= other.was_true;
            clause.was_false |= other.was_false;
        }
    }

    pub fn points(&self) -> Points {
        let clauses = self
            .clauses
            .iter()
            .map(|clause| usize::from(clause.was_true) + usize::from(clause.was_false));
        Points {
            reached: usize::from(self.decides) + clauses.sum::<usize>(),
            all: 1 + 2 * self.clauses.len(),
        }
    }
}
