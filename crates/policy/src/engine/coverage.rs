//! The clauses of conditions that evaluations reach, for the coverage of decision tests.
//!
//! Built on the same clauses and the same evaluator as explanations. Cedar stops at the first clause that is not as the
//! policy needs it, so the clauses after it are not reached. Never used on the path of a request.

use super::explain::{FoundValue, Part, WrittenClause, parts};
use super::{Engine, EntityQuery, PolicyEntry};

/// A policy whose scope fits a query.
pub(crate) struct ReachedPolicy<'a> {
    pub entry: &'a PolicyEntry,
    /// For each clause that was reached, in order: true if it is as the policy needs it. A clause that cannot be
    /// evaluated ends the list.
    pub met: Vec<bool>,
}

impl PolicyEntry {
    /// The clauses of the condition, in the order in which Cedar evaluates them.
    pub(crate) fn clauses(&self) -> Vec<WrittenClause> {
        let Some(condition) = self.policy().as_ref().non_scope_constraints() else {
            return Vec::new();
        };
        parts(condition).iter().map(Part::written).collect()
    }
}

impl Engine {
    /// Calls `visit` for every policy whose scope fits the query.
    pub(crate) fn reach(&self, query: &EntityQuery<'_>, mut visit: impl FnMut(ReachedPolicy<'_>)) {
        let match_set = self.match_set(query);
        for entry in &match_set.unconditional {
            visit(ReachedPolicy { entry, met: Vec::new() });
        }
        for entry in &match_set.conditional {
            let met = self.met(entry, query);
            visit(ReachedPolicy { entry, met });
        }
    }

    fn met(&self, entry: &PolicyEntry, query: &EntityQuery<'_>) -> Vec<bool> {
        let mut met = Vec::new();
        let Some(condition) = entry.policy().as_ref().non_scope_constraints() else {
            return met;
        };
        let Ok(situation) = self.situation(entry.reads(), query) else {
            return met;
        };
        for part in parts(condition) {
            let FoundValue::Value(value) = situation.truth(part.expression) else {
                break;
            };
            met.push(value == part.wants);
            if value != part.wants {
                break;
            }
        }
        met
    }
}
