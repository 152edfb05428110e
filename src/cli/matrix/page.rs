//! The matrix for the workbench's page: names, answers and conditions once each, and cells that point at them.

use std::collections::HashMap;
use std::sync::Arc;

use cedar_policy::Effect;
use cedargate_policy::matrix::{Cell, CellAnswer, Condition};
use serde_json::{Value, json};

use super::{PortalMatrix, action_name};
use crate::workbench::{Datum, standalone};

/// The conditions of a matrix, each once.
#[derive(Default)]
struct PageConditions {
    known: HashMap<*const Condition, usize>,
    by_text: HashMap<String, usize>,
    written: Vec<Value>,
}

/// One file that needs nothing else: the page of the workbench, with the matrices alone.
pub(super) fn html(matrices: &[PortalMatrix]) -> String {
    let portals: Vec<Value> = matrices.iter().map(|one| json!({"portal": one.portal})).collect();
    let tree = json!({"name": "Permissions matrix", "pages": ["matrix"], "portals": portals});
    let mut data = vec![Datum::of("tree", &[], &tree)];
    data.extend(
        matrices
            .iter()
            .map(|one| Datum::of("matrix", &[("portal", &one.portal)], &portal(one))),
    );
    standalone("#/matrix", &data)
}

pub(super) fn portal(one: &PortalMatrix) -> Value {
    let mut conditions = PageConditions::default();
    let rows = one.matrix.rows.iter().map(|row| {
        let includes: Vec<&str> = row.includes.iter().map(|role| role.id().unescaped()).collect();
        json!({"name": one.row_name(row), "principal": row.principal_type.to_string(),
            "role": row.role.as_ref().map(|role| role.id().unescaped()), "includes": includes})
    });
    let rows: Vec<Value> = rows.collect();
    let columns = one.columns().map(|(number, column)| {
        let cells: Vec<Value> = one.cells_of(number).map(|(_, cell)| conditions.cell(cell)).collect();
        json!({"action": action_name(column), "resource": column.resource_type.to_string(), "cells": cells})
    });
    let columns: Vec<Value> = columns.collect();
    json!({"portal": one.portal, "rows": rows, "columns": columns, "conditions": conditions.written})
}

impl PageConditions {
    /// The answer alone, or the answer with the numbers of permits and forbids, and the reason why it is unknown.
    fn cell(&mut self, cell: &Cell) -> Value {
        let answer = match cell.answer {
            CellAnswer::Deny => 0,
            CellAnswer::Conditional => 1,
            CellAnswer::Allow => 2,
            CellAnswer::Unknown => 3,
            CellAnswer::Impossible => 4,
        };
        if cell.permits.is_empty() && cell.forbids.is_empty() && cell.why.is_none() {
            return json!(answer);
        }
        let permits = self.numbers(&cell.permits);
        let forbids = self.numbers(&cell.forbids);
        match &cell.why {
            Some(why) => json!([answer, permits, forbids, why]),
            None => json!([answer, permits, forbids]),
        }
    }

    fn numbers(&mut self, conditions: &[Arc<Condition>]) -> Vec<usize> {
        conditions.iter().map(|condition| self.number(condition)).collect()
    }

    fn number(&mut self, condition: &Arc<Condition>) -> usize {
        if let Some(number) = self.known.get(&Arc::as_ptr(condition)) {
            return *number;
        }
        let effect = match condition.policy.effect {
            Effect::Permit => "permit",
            Effect::Forbid => "forbid",
        };
        let written = json!({"policy": &*condition.policy.id, "effect": effect, "place": condition.policy.place,
            "text": condition.text});
        // columns make their conditions anew
        let number = *self.by_text.entry(written.to_string()).or_insert_with(|| {
            self.written.push(written);
            self.written.len() - 1
        });
        self.known.insert(Arc::as_ptr(condition), number);
        number
    }
}
