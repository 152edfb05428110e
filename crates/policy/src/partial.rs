//! Cedar's type-aware partial evaluation: policies, and a query of which parts are unknown → the outcome of each
//! policy.
//!
//! `matrix` asks it about callers of whom only the roles are known, `permissions` about one caller, `search` about one
//! side. `rewrite` fills in what is known before and Cedar's interface does not take. If Cedar refuses policies
//! together, each is evaluated alone, so that one of them does not make the others unknown. Decides nothing, and is
//! never used on the path of a request.

pub(crate) mod rewrite;

use cedar_policy::{EntityUid, PartialEntities, PartialRequest, Policy, PolicyId, PolicySet};
use serde_json::Value;

use crate::error_chain::error_chain;
use crate::partial::rewrite::{KnownMemberships, Rewritten};
use crate::schema::SchemaModel;

/// What remains of a policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum PartialOutcome<C = String> {
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
    pub fn evaluate<C: Clone>(&self, policies: &[&Policy], condition: &dyn Fn(&Policy) -> Option<C>) -> Vec<PartialOutcome<C>> {
        match self.evaluate_together(policies, condition) {
            Ok(outcomes) => outcomes,
            Err(_) if policies.len() > 1 => policies
                .iter()
                .flat_map(|policy| {
                    let alone = policy.new_id(PolicyId::new("0"));
                    self.evaluate(&[&alone], condition)
                })
                .collect(),
            Err(why) => vec![PartialOutcome::Unknown(why); policies.len()],
        }
    }

    /// The outcomes of policies, given as Cedar's JSON, after filling in what is known. `Err`: the reason why a policy
    /// has none.
    pub fn evaluate_known<C: Clone>(
        &self,
        known: &KnownMemberships<'_>,
        policies: &[Result<&Value, &String>],
        condition: &dyn Fn(&Policy) -> Option<C>,
    ) -> Vec<PartialOutcome<C>> {
        let mut outcomes = Vec::with_capacity(policies.len());
        let mut open = Vec::new();
        for (place, policy) in policies.iter().enumerate() {
            let outcome = match policy.map(|json| known.rewrite(json)) {
                Ok(Rewritten::Never) => PartialOutcome::False,
                Ok(Rewritten::Policy(json)) => match Policy::from_json(Some(PolicyId::new(open.len().to_string())), json) {
                    Ok(policy) => {
                        open.push((place, policy));
                        // replaced below
                        PartialOutcome::Unknown(String::new())
                    }
                    Err(error) => PartialOutcome::Unknown(error_chain(&error)),
                },
                Err(why) => PartialOutcome::Unknown(why.clone()),
            };
            outcomes.push(outcome);
        }
        let rewritten: Vec<&Policy> = open.iter().map(|(_, policy)| policy).collect();
        let evaluated = self.evaluate(&rewritten, condition);
        for ((place, _), outcome) in open.iter().zip(evaluated) {
            if let Some(slot) = outcomes.get_mut(*place) {
                *slot = outcome;
            }
        }
        outcomes
    }

    fn evaluate_together<C: Clone>(
        &self,
        policies: &[&Policy],
        condition: &dyn Fn(&Policy) -> Option<C>,
    ) -> Result<Vec<PartialOutcome<C>>, String> {
        let set = PolicySet::from_policies(policies.iter().copied().cloned()).map_err(|error| error_chain(&error))?;
        let entities = self.entities.as_ref().map_err(Clone::clone)?;
        let response = set
            .tpe(self.request, entities, &self.schema.cedar)
            .map_err(|error| error_chain(&error))?;
        let mut outcomes = vec![PartialOutcome::Unknown("Cedar's answer does not name the policy".to_owned()); policies.len()];
        let mut note = |id: &PolicyId, outcome| {
            let id: &str = id.as_ref();
            let number = id.parse::<usize>().ok();
            if let Some(place) = number.and_then(|number| outcomes.get_mut(number)) {
                *place = outcome;
            }
        };
        let permits = response.true_permits();
        let forbids = response.true_forbids();
        permits.chain(forbids).for_each(|id| note(id, PartialOutcome::True));
        let permits = response.false_permits();
        let forbids = response.false_forbids();
        permits.chain(forbids).for_each(|id| note(id, PartialOutcome::False));
        let permits = response.error_permits();
        let forbids = response.error_forbids();
        permits.chain(forbids).for_each(|id| note(id, PartialOutcome::Fails));
        for policy in response.residual_policies() {
            if let Some(remaining) = condition(&policy) {
                note(policy.id(), PartialOutcome::Depends(remaining));
            }
        }
        Ok(outcomes)
    }
}

/// The entities of which a variable must be one, or below one, wherever a remaining policy is satisfied: a list for
/// each membership that the policy demands, and none if it demands none.
pub(crate) fn demanded_memberships(remaining: &Policy, variable: &str) -> Vec<Vec<EntityUid>> {
    let mut demanded = Vec::new();
    let Ok(json) = remaining.to_json() else { return demanded };
    let conditions = json.get("conditions").and_then(Value::as_array).into_iter().flatten();
    for condition in conditions.filter(|condition| condition.get("kind").and_then(Value::as_str) == Some("when")) {
        if let Some(body) = condition.get("body") {
            push_demanded(body, variable, &mut demanded);
        }
    }
    demanded
}

fn push_demanded(expression: &Value, variable: &str, demanded: &mut Vec<Vec<EntityUid>>) {
    if let Some(both) = expression.get("&&") {
        for side in ["left", "right"] {
            if let Some(operand) = both.get(side) {
                push_demanded(operand, variable, demanded);
            }
        }
        return;
    }
    let is_variable = |operand: Option<&Value>| operand.and_then(|o| o.get("Var")).and_then(Value::as_str) == Some(variable);
    let list = if let Some(node) = expression.get("in") {
        is_variable(node.get("left")).then(|| node.get("right")).flatten()
    } else if let Some(node) = expression.get("is") {
        is_variable(node.get("left")).then(|| node.get("in")).flatten()
    } else if let Some(node) = expression.get("==") {
        match (is_variable(node.get("left")), is_variable(node.get("right"))) {
            (true, false) => node.get("right"),
            (false, true) => node.get("left"),
            _ => None,
        }
    } else {
        None
    };
    demanded.extend(list.and_then(literal_entities));
}

/// The entities of a literal, or of a set of literals; `None` for any other expression.
fn literal_entities(expression: &Value) -> Option<Vec<EntityUid>> {
    if let Some(set) = expression.get("Set") {
        return set.as_array()?.iter().map(|item| rewrite::uid(item.get("Value")?)).collect();
    }
    match expression.get("Value")? {
        Value::Array(items) => items.iter().map(rewrite::uid).collect(),
        value => Some(vec![rewrite::uid(value)?]),
    }
}
