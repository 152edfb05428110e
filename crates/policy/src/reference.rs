//! The reference: Cedar's own authorizer over the whole policy set, for one query that was decided.
//!
//! Tests and benches compare the engine with it. Nothing on the path of a request uses it.

use cedar_policy::{Authorizer, Context, Decision as CedarDecision, Entities, PolicyId, PolicySet, Request};

use crate::decision::{Caller, Decision, Query};
use crate::engine::Ancestors;
use crate::error_chain::error_chain;

/// A query as Cedar takes it: all policies, principal and resource with their ancestors, the whole context.
pub struct Reference {
    policies: PolicySet,
    entities: Entities,
    request: Request,
}

impl Reference {
    /// Builds the query that `decision` decided. An error says which part Cedar does not take.
    pub fn new(query: &Query<'_>, caller: Caller<'_>, decision: &Decision) -> Result<Self, String> {
        let Caller::Proven { principal, .. } = caller else {
            return Err("the query has no proven principal".to_owned());
        };
        let target = decision.target.as_ref().ok_or("the query was not evaluated")?;
        let rules = &query.revision.rules;
        let schema = &rules.schema.cedar;
        let mut policies = PolicySet::new();
        for entry in rules.engine.policies() {
            policies.add(entry.policy().clone()).map_err(|error| error_chain(&error))?;
        }
        let parties = [&principal.entity, &target.resource].into_iter();
        let parties = parties.filter_map(|entity| entity.entity(Ancestors::Read));
        let parties = parties.map(|resolved| resolved.entity());
        let entities = Entities::from_entities(parties, Some(schema)).map_err(|error| error_chain(&error))?;
        let context = match &decision.context {
            None => Context::empty(),
            Some(context) => {
                let json = serde_json::to_value(context).map_err(|error| error.to_string())?;
                Context::from_json_value(json, Some((schema, &target.action))).map_err(|error| error_chain(&error))?
            }
        };
        let request = Request::new(
            principal.entity.uid.clone(),
            target.action.clone(),
            target.resource.uid.clone(),
            context,
            Some(schema),
        )
        .map_err(|error| error_chain(&error))?;
        Ok(Self {
            policies,
            entities,
            request,
        })
    }

    /// Asks Cedar about one policy alone: true if it is satisfied, `Err` if it cannot be evaluated.
    pub fn is_satisfied(&self, id: &str) -> Result<bool, String> {
        let policy = self.policies.policy(&PolicyId::new(id)).cloned();
        let alone = PolicySet::from_policies(policy).map_err(|error| error_chain(&error))?;
        let response = Authorizer::new().is_authorized(&self.request, &alone, &self.entities);
        let diagnostics = response.diagnostics();
        match diagnostics.errors().next() {
            Some(error) => Err(error.to_string()),
            None => Ok(diagnostics.reason().next().is_some()),
        }
    }

    /// Asks Cedar; true if it allows.
    pub fn allows(&self) -> bool {
        let response = Authorizer::new().is_authorized(&self.request, &self.policies, &self.entities);
        response.decision() == CedarDecision::Allow
    }
}
