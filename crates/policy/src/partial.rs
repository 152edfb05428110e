//! Cedar's type-aware partial evaluation: policies, and a query of which parts are unknown → the outcome of each policy.
//!
//! `matrix` asks it about callers of whom only the roles are known, `permissions` about one caller. `rewrite` fills in what is
//! known before and Cedar's interface does not take. If Cedar refuses policies together, each is evaluated alone, so that one
//! of them does not make the others unknown. Decides nothing, and is never used on the path of a request.

pub(crate) mod rewrite;

use cedar_policy::{PartialEntities, PartialRequest, Policy, PolicyId, PolicySet};

use crate::error_chain::error_chain;
use crate::schema::SchemaModel;

/// What remains of a policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome<C = String> {
    True,
    False,
    /// It cannot be evaluated, for any query.
    Fails,
    /// A condition remains.
    Depends(C),
    /// Cedar could not say; the reason.
    Unknown(String),
}

/// One query to evaluate policies for.
pub(crate) struct PartialQuery<'a> {
    pub schema: &'a SchemaModel,
    pub request: &'a PartialRequest,
    /// The entities that are known; every other one is unknown. `Err`: the reason why they cannot be used.
    pub entities: Result<&'a PartialEntities, String>,
}

impl PartialQuery<'_> {
    /// The outcomes of policies whose ids are their numbers in the list. `condition` tells what the caller wants to
    /// know of a policy that remains: writing it as text costs as much as the evaluation.
    pub fn evaluate<C: Clone>(&self, policies: &[&Policy], condition: &dyn Fn(&Policy) -> Option<C>) -> Vec<Outcome<C>> {
        match self.evaluate_together(policies, condition) {
            Ok(outcomes) => outcomes,
            Err(_) if policies.len() > 1 => policies
                .iter()
                .flat_map(|policy| {
                    let alone = policy.new_id(PolicyId::new("0"));
                    self.evaluate(&[&alone], condition)
                })
                .collect(),
            Err(why) => vec![Outcome::Unknown(why); policies.len()],
        }
    }

    fn evaluate_together<C: Clone>(
        &self,
        policies: &[&Policy],
        condition: &dyn Fn(&Policy) -> Option<C>,
    ) -> Result<Vec<Outcome<C>>, String> {
        let set = PolicySet::from_policies(policies.iter().copied().cloned()).map_err(|error| error_chain(&error))?;
        let entities = self.entities.as_ref().map_err(Clone::clone)?;
        let response = set
            .tpe(self.request, entities, &self.schema.cedar)
            .map_err(|error| error_chain(&error))?;
        let mut outcomes = vec![Outcome::Unknown("Cedar's answer does not name the policy".to_owned()); policies.len()];
        let mut note = |id: &PolicyId, outcome| {
            let id: &str = id.as_ref();
            let number = id.parse::<usize>().ok();
            if let Some(place) = number.and_then(|number| outcomes.get_mut(number)) {
                *place = outcome;
            }
        };
        let (permits, forbids) = (response.true_permits(), response.true_forbids());
        permits.chain(forbids).for_each(|id| note(id, Outcome::True));
        let (permits, forbids) = (response.false_permits(), response.false_forbids());
        permits.chain(forbids).for_each(|id| note(id, Outcome::False));
        let (permits, forbids) = (response.error_permits(), response.error_forbids());
        permits.chain(forbids).for_each(|id| note(id, Outcome::Fails));
        for policy in response.residual_policies() {
            if let Some(remaining) = condition(&policy) {
                note(policy.id(), Outcome::Depends(remaining));
            }
        }
        Ok(outcomes)
    }
}
