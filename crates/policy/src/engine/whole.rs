//! Every policy of an engine against one Cedar request that brings its own entities and context.
//!
//! A proof confirms its examples with it: Cedar's own authorizer evaluates the original policies, and the engine
//! combines their results by the rule that decides requests. It costs time in proportion to all policies, so no request
//! uses it.

use std::sync::Arc;

use cedar_policy::{AuthorizationError, Authorizer, Effect, Entities, PolicySet, Request};

use super::{Effects, Engine, Evaluation, MatchSet, PolicyEntry, policy_set};

/// All policies of one engine as one Cedar set.
pub struct WholeSet<'e> {
    engine: &'e Engine,
    set: PolicySet,
    all: MatchSet,
    forbids: MatchSet,
}

impl Engine {
    /// `None` if the policies do not form a set.
    pub fn whole(&self) -> Option<WholeSet<'_>> {
        let of = |effects: Effects| {
            let taking_part = |policy: &&Arc<PolicyEntry>| effects == Effects::Both || policy.info.effect == Effect::Forbid;
            MatchSet::of_conditional(self.policies.iter().filter(taking_part).cloned().collect())
        };
        Some(WholeSet {
            engine: self,
            set: policy_set(self.policies.iter().map(|policy| policy.policy()))?,
            all: of(Effects::Both),
            forbids: of(Effects::Forbids),
        })
    }
}

impl WholeSet<'_> {
    /// Evaluates the policies that take part.
    pub fn decide(&self, request: &Request, entities: &Entities, effects: Effects) -> Evaluation {
        let response = Authorizer::new().is_authorized(request, &self.set, entities);
        let diagnostics = response.diagnostics();
        // without permits, Cedar's own decision says nothing
        let (taking_part, decision) = match effects {
            Effects::Both => (&self.all, response.decision()),
            Effects::Forbids => (&self.forbids, cedar_policy::Decision::Deny),
        };
        let reasons: Vec<_> = diagnostics.reason().cloned().collect();
        let errors = diagnostics
            .errors()
            .map(|AuthorizationError::PolicyEvaluationError(e)| (e.policy_id().clone(), e.to_string()));
        self.engine.combine(taking_part, decision, &reasons, errors.collect())
    }
}
