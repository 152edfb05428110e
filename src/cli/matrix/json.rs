//! The matrix for scripts.

use std::sync::Arc;

use cedargate_policy::matrix::{CellAnswer, Condition};
use serde_json::{Value, json};

use super::{PortalMatrix, action_name};

pub(super) fn report(matrices: &[PortalMatrix]) -> String {
    let portals: Vec<Value> = matrices.iter().map(portal).collect();
    crate::cli::report::json::text(&json!({ "portals": portals }))
}

fn portal(one: &PortalMatrix) -> Value {
    let mut cells = Vec::new();
    for (number, column) in one.columns() {
        for (row, cell) in one.cells_of(number).filter(|(_, cell)| cell.answer != CellAnswer::Impossible) {
            cells.push(json!({
                "principal": row.principal_type.to_string(),
                "role": row.role.as_ref().map(|role| role.id().unescaped()),
                "action": action_name(column),
                "resource": column.resource_type.to_string(),
                "answer": cell.answer.as_str(),
                "permits": conditions(&cell.permits),
                "forbids": conditions(&cell.forbids),
                "why": cell.why,
            }));
        }
    }
    json!({"portal": one.portal, "cells": cells})
}

/// A policy without `condition` always holds.
fn conditions(conditions: &[Arc<Condition>]) -> Vec<Value> {
    let one = |condition: &Arc<Condition>| json!({"policy": &*condition.policy.id, "place": condition.policy.place, "condition": condition.text});
    conditions.iter().map(one).collect()
}
