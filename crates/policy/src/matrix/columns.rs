//! Cedar's partial evaluation of a portal's policies, column by column.
//!
//! The policies that cover a column's action are evaluated in one call. Rows that know the same about a policy share
//! its result.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cedar_policy::{EntityTypeName, EntityUid, PartialEntities, PartialEntityUid, PartialRequest, Policy, PolicyId};
use serde_json::Value;

use super::{Cell, CellAnswer, Column, Conditions, Row, cell};
use crate::engine::{PolicyEntry, PolicyInfo};
use crate::error_chain::error_chain;
use crate::partial::rewrite::{KnownMemberships, Rewritten};
use crate::partial::{PartialOutcome, PartialQuery};
use crate::revision::Revision;

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
        let mut by_type: BTreeMap<&EntityTypeName, HashMap<Form, PartialOutcome>> = BTreeMap::new();
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
                        answer: CellAnswer::Impossible,
                        permits: Vec::new(),
                        forbids: Vec::new(),
                        why: None,
                    };
                }
                let outcomes = by_type.get(&row.principal_type);
                let of_row: Vec<(Arc<PolicyInfo>, PartialOutcome)> = self
                    .covering(column)
                    .map(|(number, policy)| {
                        let found = outcomes.and_then(|outcomes| outcomes.get(&policy.form(number, row)));
                        let lost = || PartialOutcome::Unknown("was not evaluated".to_owned());
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
    fn outcomes(&self, column: &Column, principal: &EntityTypeName, rows: &[&Row]) -> HashMap<Form, PartialOutcome> {
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
                    Ok(Rewritten::Never) => PartialOutcome::False,
                    Ok(Rewritten::Policy(json)) => match Policy::from_json(Some(id), json) {
                        Ok(policy) => {
                            open.push((form.clone(), policy));
                            // replaced below
                            PartialOutcome::Unknown(String::new())
                        }
                        Err(error) => PartialOutcome::Unknown(error_chain(&error)),
                    },
                    Err(why) => PartialOutcome::Unknown(why),
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
                let query = PartialQuery {
                    schema: &self.revision.rules.schema,
                    request: &request,
                    entities: self.actions.as_ref().map_err(Clone::clone),
                };
                query.evaluate(&policies, &condition)
            }
            Err(error) => vec![PartialOutcome::Unknown(error_chain(&error)); open.len()],
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
        let known = KnownMemberships {
            roles: &row.includes,
            role_type: self.role_type.as_ref(),
            resource: &resource,
            context: &BTreeMap::new(),
            stand_in: None,
        };
        Ok(known.rewrite(policy.json.as_ref().map_err(Clone::clone)?))
    }
}

/// The condition that remains of a policy, as Cedar writes it.
fn condition(remaining: &Policy) -> Option<String> {
    remaining.as_ref().non_scope_constraints().map(ToString::to_string)
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
