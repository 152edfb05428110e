//! The matrix as CSV (RFC 4180): one line for each cell.

use cedargate_policy::matrix::CellAnswer;

use super::{PortalMatrix, action_name, conditions};

pub(super) fn report(matrices: &[PortalMatrix]) -> String {
    let mut text = String::from("portal,principal,role,action,resource,answer,permits,forbids\r\n");
    for one in matrices {
        for (number, column) in one.columns() {
            for (row, cell) in one.cells_of(number).filter(|(_, cell)| cell.answer != CellAnswer::Impossible) {
                let conditions = conditions(cell);
                let list = |texts: &[String]| texts.join("\n");
                let fields = [
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
                ];
                let fields: Vec<String> = fields.iter().map(|field| quoted(field)).collect();
                text.push_str(&format!("{}\r\n", fields.join(",")));
            }
        }
    }
    text
}

/// SECURITY: spreadsheets run a text that begins like a formula; an apostrophe in front makes it a text.
fn quoted(field: &str) -> String {
    let is_formula = field.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if is_formula { format!("'{field}") } else { field.to_owned() };
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_and_formulas_are_texts() {
        assert_eq!(quoted("a"), "a");
        assert_eq!(quoted("a,\"b\"\n"), "\"a,\"\"b\"\"\n\"");
        assert_eq!(quoted("=cmd|' /C calc'!A0"), "'=cmd|' /C calc'!A0");
        assert_eq!(quoted("+1,2"), "\"'+1,2\"");
    }
}
