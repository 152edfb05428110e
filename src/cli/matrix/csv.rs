//! The matrix as CSV: one line for each cell.

use cedargate_policy::matrix::CellAnswer;

use super::{PortalMatrix, action_name, conditions};
use crate::cli::report::csv;

const HEAD: &[&str] = &[
    "portal",
    "principal",
    "role",
    "action",
    "resource",
    "answer",
    "permits",
    "forbids",
];

pub(super) fn report(matrices: &[PortalMatrix]) -> String {
    let mut rows = Vec::new();
    for one in matrices {
        for (number, column) in one.columns() {
            for (row, cell) in one.cells_of(number).filter(|(_, cell)| cell.answer != CellAnswer::Impossible) {
                let conditions = conditions(cell);
                let list = |texts: &[String]| texts.join("\n");
                rows.push(vec![
                    one.portal.clone(),
                    row.principal_type.to_string(),
                    row.role
                        .as_ref()
                        .map_or(String::new(), |role| role.id().unescaped().to_owned()),
                    action_name(column).to_owned(),
                    column.resource_type.to_string(),
                    cell.answer.as_str().to_owned(),
                    conditions.as_ref().map(|all| list(&all.permits)).unwrap_or_default(),
                    conditions.as_ref().map(|all| list(&all.forbids)).unwrap_or_default(),
                ]);
            }
        }
    }
    csv::table(HEAD, &rows)
}
