//! The permissions of a portal as a matrix: roles × actions × resource types → allow, deny, or under which conditions.
//!
//! Cedar's type-aware partial evaluation computes each cell: principal, resource and context are unknown, and of the
//! principal only its roles are known (`partial/rewrite`). What remains of a policy is the condition of the cell. A
//! cell that cannot be computed says *unknown*. The matrix is about policies as the app's questions see them; tenants,
//! routes and public paths are not part of it. Decides nothing, and is never used on the path of a request.

mod columns;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cedar_policy::{Effect, EntityTypeName, EntityUid};

use self::columns::Columns;
use crate::engine::PolicyInfo;
use crate::partial::PartialOutcome;
use crate::revision::Revision;
use crate::scope::PortalScope;

/// The matrix of one portal.
pub struct Matrix {
    pub rows: Vec<Row>,
    pub columns: Vec<Column>,
    /// One list for each row, with a cell for each column.
    pub cells: Vec<Vec<Cell>>,
}

/// Callers of one type that have exactly one role, or none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row {
    pub principal_type: EntityTypeName,
    /// `None`: callers without a role.
    pub role: Option<EntityUid>,
    /// The role and everything that it is in, as the stored entities say.
    pub includes: BTreeSet<EntityUid>,
}

/// One action on resources of one type.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Column {
    pub action: EntityUid,
    pub resource_type: EntityTypeName,
}

/// What the policies answer to the callers of a row.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum CellAnswer {
    /// Every resource, in every context.
    Allow,
    /// No resource, in no context.
    Deny,
    /// It depends on the resource, the context, or more of the principal.
    Conditional,
    /// It could not be computed.
    Unknown,
    /// The schema does not let these callers do this.
    Impossible,
}

/// One cell.
#[derive(Clone, Debug)]
pub struct Cell {
    pub answer: CellAnswer,
    /// The permits of which one must hold.
    pub permits: Vec<Arc<Condition>>,
    /// The forbids of which none may hold; a forbid that cannot be evaluated holds.
    pub forbids: Vec<Arc<Condition>>,
    /// The reason why it is unknown.
    pub why: Option<String>,
}

/// What remains of a policy for one cell.
#[derive(Debug)]
pub struct Condition {
    pub policy: Arc<PolicyInfo>,
    /// As Cedar writes it; `None`: the policy always holds.
    pub text: Option<String>,
}

impl CellAnswer {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Conditional => "conditional",
            Self::Unknown => "unknown",
            Self::Impossible => "impossible",
        }
    }
}

impl Matrix {
    /// Computes every cell.
    pub fn of(portal: &PortalScope, revision: &Revision) -> Self {
        Self::select(portal, revision, |_| true, |_| true)
    }

    /// Computes the cells of some rows and columns.
    pub fn select(
        portal: &PortalScope,
        revision: &Revision,
        is_row: impl Fn(&Row) -> bool,
        is_column: impl Fn(&Column) -> bool,
    ) -> Self {
        let mut rows = rows(portal, revision);
        let mut columns = columns(revision);
        // prepared with all rows: a cell says the same beside few others
        let partial = Columns::new(revision, &rows);
        rows.retain(is_row);
        columns.retain(is_column);
        let mut cells: Vec<Vec<Cell>> = rows.iter().map(|_| Vec::with_capacity(columns.len())).collect();
        for column in &columns {
            for (row, cell) in cells.iter_mut().zip(partial.cells(column, &rows)) {
                row.push(cell);
            }
        }
        Self { rows, columns, cells }
    }
}

/// Every action with every resource type that the schema lets it have.
fn columns(revision: &Revision) -> Vec<Column> {
    let actions = revision.rules.schema.actions();
    let of_action = actions.flat_map(|(action, model)| {
        let of_type = |resource_type: &EntityTypeName| Column {
            action: action.clone(),
            resource_type: resource_type.clone(),
        };
        model.resources.iter().map(of_type).collect::<Vec<_>>()
    });
    let mut columns: Vec<Column> = of_action.collect();
    columns.sort();
    columns
}

fn rows(portal: &PortalScope, revision: &Revision) -> Vec<Row> {
    let schema = &revision.rules.schema;
    let acting: BTreeSet<&EntityTypeName> = schema.actions().flat_map(|(_, action)| &action.principals).collect();
    let roles = roles(portal, revision);
    let mut rows = Vec::new();
    for ty in acting {
        let row = |role: Option<&EntityUid>| {
            let above = role.into_iter().flat_map(|role| revision.rules.engine.store.ancestors(role));
            Row {
                principal_type: ty.clone(),
                role: role.cloned(),
                includes: role.into_iter().chain(above).cloned().collect(),
            }
        };
        rows.push(row(None));
        let is_in = |role: &&EntityUid| {
            let model = schema.entity(ty);
            model.is_some_and(|model| model.member_of.contains(role.type_name()))
        };
        rows.extend(roles.iter().filter(is_in).map(|role| row(Some(role))));
    }
    rows
}

/// Roles that entities, policies or the bounds of issuers name.
pub fn roles(portal: &PortalScope, revision: &Revision) -> BTreeSet<EntityUid> {
    let Some(ty) = &revision.rules.names.role else {
        return BTreeSet::new();
    };
    let stored = revision.rules.engine.store.uids().cloned();
    let written = revision
        .rules
        .engine
        .policies()
        .iter()
        .flat_map(|policy| policy.policy().entity_literals());
    let bounds = portal.issuers.iter().flat_map(|issuer| issuer.roles.iter().flatten());
    let bounds = bounds.map(|role| EntityUid::from_type_name_and_id(ty.clone(), cedar_policy::EntityId::new(role)));
    let all = stored.chain(written).chain(bounds);
    all.filter(|uid| uid.type_name() == ty).collect()
}

/// The cell of a row, out of what remains of each policy.
fn cell(
    outcomes: &[(Arc<PolicyInfo>, PartialOutcome)],
    denies_by_error: impl Fn(&PolicyInfo) -> bool,
    texts: &mut Conditions,
) -> Cell {
    let mut cell = Cell {
        answer: CellAnswer::Deny,
        permits: Vec::new(),
        forbids: Vec::new(),
        why: None,
    };
    let mut unknown: HashMap<Effect, String> = HashMap::new();
    for (info, outcome) in outcomes {
        let into = match info.effect {
            Effect::Permit => &mut cell.permits,
            Effect::Forbid => &mut cell.forbids,
        };
        match outcome {
            PartialOutcome::True => into.push(texts.get(info, None)),
            PartialOutcome::Depends(text) => into.push(texts.get(info, Some(text))),
            PartialOutcome::Fails if denies_by_error(info) => into.push(texts.get(info, None)),
            PartialOutcome::False | PartialOutcome::Fails => {}
            PartialOutcome::Unknown(why) => drop(unknown.entry(info.effect).or_insert_with(|| format!("{}: {why}", info.id))),
        }
    }
    let always = |conditions: &[Arc<Condition>]| conditions.iter().any(|condition| condition.text.is_none());
    let is_permitted = !cell.permits.is_empty() || unknown.contains_key(&Effect::Permit);
    cell.answer = if always(&cell.forbids) || !is_permitted {
        CellAnswer::Deny
    } else if unknown.contains_key(&Effect::Forbid) || (!always(&cell.permits) && unknown.contains_key(&Effect::Permit)) {
        CellAnswer::Unknown
    } else if always(&cell.permits) && cell.forbids.is_empty() {
        CellAnswer::Allow
    } else {
        CellAnswer::Conditional
    };
    match cell.answer {
        CellAnswer::Deny => {
            cell.permits.clear();
            cell.forbids.retain(|condition| condition.text.is_none());
        }
        CellAnswer::Unknown => cell.why = unknown.into_values().min(),
        CellAnswer::Allow => cell.permits.retain(|condition| condition.text.is_none()),
        CellAnswer::Conditional if always(&cell.permits) => cell.permits.retain(|condition| condition.text.is_none()),
        CellAnswer::Conditional | CellAnswer::Impossible => {}
    }
    cell
}

/// Conditions by policy and text, so that cells share them.
#[derive(Default)]
struct Conditions(BTreeMap<(Arc<str>, Option<String>), Arc<Condition>>);

impl Conditions {
    fn get(&mut self, info: &Arc<PolicyInfo>, text: Option<&String>) -> Arc<Condition> {
        let key = (Arc::clone(&info.id), text.cloned());
        let made = self.0.entry(key).or_insert_with(|| {
            Arc::new(Condition {
                policy: Arc::clone(info),
                text: text.cloned(),
            })
        });
        Arc::clone(made)
    }
}
