//! Cedar's partial evaluation of a portal's policies, column by column.
//!
//! The policies that cover a column's action are evaluated in one call. Rows that know the same about a policy share its
//! result. If Cedar refuses the call, each policy is evaluated alone, so that one of them does not make the others unknown.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cedar_policy::{EntityTypeName, EntityUid, PartialEntities, PartialEntityUid, PartialRequest, Policy, PolicyId, PolicySet};
use serde_json::Value;

use super::rewrite::{Known, Rewritten};
use super::{Answer, Cell, Column, Conditions, Row, cell};
use crate::engine::{PolicyEntry, PolicyInfo};
use crate::error_chain::error_chain;
use crate::revision::Revision;

/// What remains of a policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    True,
    False,
    /// It cannot be evaluated, for any query.
    Fails,
    /// The condition that remains, as Cedar writes it.
    Depends(String),
    /// Cedar could not say; the reason.
    Unknown(String),
}

/// A policy with what the rows know about it.
struct Prepared<'a> {
    entry: &'a Arc<PolicyEntry>,
    json: Result<Value, String>,
    /// The entities in it of which some row knows if its callers are in them.
    mentions: Vec<EntityUid>,
}

/// The policies of a revision, ready for every column.
pub(super) struct Columns<'a> {
    revision: &'a Revision,
    policies: Vec<Prepared<'a>>,
    role_type: Option<EntityTypeName>,
    /// The actions with their groups: the only entities that are known.
    actions: Result<PartialEntities, String>,
}

/// A policy's number, and which of its mentions the callers are in: rows with the same form share its outcome.
type Form = (usize, Vec<bool>);

impl<'a> Columns<'a> {
    pub fn new(revision: &'a Revision, rows: &[Row]) -> Self {
        let role_type = revision.rules.names.role.clone();
        let is_known =
            |uid: &EntityUid| Some(uid.type_name()) == role_type.as_ref() || rows.iter().any(|row| row.includes.contains(uid));
        let policies = revision.rules.engine.policies().iter().map(|entry| Prepared {
            json: entry.policy().to_json().map_err(|error| error_chain(&error)),
            mentions: entry.policy().entity_literals().into_iter().filter(is_known).collect(),
            entry,
        });
        Self {
            policies: policies.collect(),
            actions: actions(revision),
            revision,
            role_type,
        }
    }

    /// The cells of one column, in the order of the rows.
    pub fn cells(&self, column: &Column, rows: &[Row]) -> Vec<Cell> {
        let mut conditions = Conditions::default();
        let mut by_type: BTreeMap<&EntityTypeName, HashMap<Form, Outcome>> = BTreeMap::new();
        for row in rows {
            if !by_type.contains_key(&row.principal_type) {
                let alike: Vec<&Row> = rows
                    .iter()
                    .filter(|other| other.principal_type == row.principal_type)
                    .collect();
                by_type.insert(&row.principal_type, self.outcomes(column, &row.principal_type, &alike));
            }
        }
        let engine = &self.revision.rules.engine;
        rows.iter()
            .map(|row| {
                let schema = &self.revision.rules.schema;
                if !schema.applies(&row.principal_type, &column.action, &column.resource_type) {
                    return Cell {
                        answer: Answer::Impossible,
                        permits: Vec::new(),
                        forbids: Vec::new(),
                        why: None,
                    };
                }
                let outcomes = by_type.get(&row.principal_type);
                let of_row: Vec<(Arc<PolicyInfo>, Outcome)> = self
                    .covering(column)
                    .map(|(number, policy)| {
                        let found = outcomes.and_then(|outcomes| outcomes.get(&policy.form(number, row)));
                        let lost = || Outcome::Unknown("was not evaluated".to_owned());
                        (Arc::clone(&policy.entry.info), found.cloned().unwrap_or_else(lost))
                    })
                    .collect();
                cell(&of_row, |info| engine.denies_by_error(info), &mut conditions)
            })
            .collect()
    }

    /// The policies whose scope has the column's action, with their numbers.
    fn covering(&self, column: &Column) -> impl Iterator<Item = (usize, &Prepared<'a>)> {
        let model = self.revision.rules.schema.action(&column.action);
        let groups = model.map(|model| model.ancestors.as_slice()).unwrap_or_default();
        let all = self.policies.iter().enumerate();
        all.filter(move |(_, policy)| policy.entry.covers_action(&column.action, groups))
    }

    /// The outcome of each form that the rows of one principal type have.
    fn outcomes(&self, column: &Column, principal: &EntityTypeName, rows: &[&Row]) -> HashMap<Form, Outcome> {
        let mut outcomes = HashMap::new();
        let mut open: Vec<(Form, Policy)> = Vec::new();
        for (number, policy) in self.covering(column) {
            for row in rows {
                let form = policy.form(number, row);
                if outcomes.contains_key(&form) {
                    continue;
                }
                let id = PolicyId::new(open.len().to_string());
                let outcome = match self.rewritten(policy, row, column) {
                    Ok(Rewritten::Never) => Outcome::False,
                    Ok(Rewritten::Policy(json)) => match Policy::from_json(Some(id), json) {
                        Ok(policy) => {
                            open.push((form.clone(), policy));
                            // replaced below
                            Outcome::Unknown(String::new())
                        }
                        Err(error) => Outcome::Unknown(error_chain(&error)),
                    },
                    Err(why) => Outcome::Unknown(why),
                };
                outcomes.insert(form, outcome);
            }
        }
        let schema = &self.revision.rules.schema.cedar;
        let request = PartialRequest::new(
            PartialEntityUid::new(principal.clone(), None),
            column.action.clone(),
            PartialEntityUid::new(column.resource_type.clone(), None),
            None,
            schema,
        );
        let evaluated = match request {
            Ok(request) => {
                let policies: Vec<&Policy> = open.iter().map(|(_, policy)| policy).collect();
                self.evaluate(&policies, &request)
            }
            Err(error) => vec![Outcome::Unknown(error_chain(&error)); open.len()],
        };
        outcomes.extend(open.into_iter().map(|(form, _)| form).zip(evaluated));
        outcomes
    }

    fn rewritten(&self, policy: &Prepared<'_>, row: &Row, column: &Column) -> Result<Rewritten, String> {
        let names = &self.revision.rules.names;
        let mut resource = Vec::new();
        if names.path.as_ref() == Some(&column.resource_type) {
            resource.extend(names.portal.clone());
        }
        let known = Known {
            roles: &row.includes,
            role_type: self.role_type.as_ref(),
            resource: &resource,
        };
        Ok(known.rewrite(policy.json.as_ref().map_err(Clone::clone)?))
    }

    /// The outcomes of policies whose ids are their numbers in the list.
    fn evaluate(&self, policies: &[&Policy], request: &PartialRequest) -> Vec<Outcome> {
        match self.evaluate_together(policies, request) {
            Ok(outcomes) => outcomes,
            Err(_) if policies.len() > 1 => policies
                .iter()
                .flat_map(|policy| {
                    let alone = policy.new_id(PolicyId::new("0"));
                    self.evaluate(&[&alone], request)
                })
                .collect(),
            Err(why) => vec![Outcome::Unknown(why); policies.len()],
        }
    }

    fn evaluate_together(&self, policies: &[&Policy], request: &PartialRequest) -> Result<Vec<Outcome>, String> {
        let set = PolicySet::from_policies(policies.iter().copied().cloned()).map_err(|error| error_chain(&error))?;
        let entities = self.actions.as_ref().map_err(Clone::clone)?;
        let schema = &self.revision.rules.schema.cedar;
        let response = set.tpe(request, entities, schema).map_err(|error| error_chain(&error))?;
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
            if let Some(condition) = policy.as_ref().non_scope_constraints() {
                note(policy.id(), Outcome::Depends(condition.to_string()));
            }
        }
        Ok(outcomes)
    }
}

fn actions(revision: &Revision) -> Result<PartialEntities, String> {
    let schema = &revision.rules.schema.cedar;
    let actions = schema.action_entities().map_err(|error| error_chain(&error))?;
    PartialEntities::from_concrete(actions, schema).map_err(|error| error_chain(&error))
}

impl Prepared<'_> {
    fn form(&self, number: usize, row: &Row) -> Form {
        (number, self.mentions.iter().map(|uid| row.includes.contains(uid)).collect())
    }
}
