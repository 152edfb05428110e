//! The matrix as Markdown, for documents and pull requests.

use cedargate_policy::matrix::CellAnswer;

use super::{PortalMatrix, action_name, conditions};
use crate::cli::report::markdown::{code, head_rows, plain, row};

pub(super) fn report(matrices: &[PortalMatrix]) -> String {
    matrices.iter().map(portal).collect::<Vec<_>>().join("\n")
}

fn portal(one: &PortalMatrix) -> String {
    let mut notes: Vec<String> = Vec::new();
    let mut head = vec!["action".to_owned(), "resource".to_owned()];
    head.extend(one.matrix.rows.iter().map(|row| plain(&one.row_name(row))));
    let mut text = format!("## {}\n\n{}", plain(&one.portal), head_rows(&head));
    for (number, column) in one.columns() {
        let mut cells = vec![plain(action_name(column)), plain(&column.resource_type.to_string())];
        for (_, cell) in one.cells_of(number) {
            let note = match (cell.answer, conditions(cell)) {
                (CellAnswer::Conditional, Some(conditions)) => Some(note(&conditions.permits, &conditions.forbids)),
                (CellAnswer::Unknown, _) => cell.why.as_deref().map(plain),
                _ => None,
            };
            let number = note.map(|note| {
                let known = notes.iter().position(|known| *known == note);
                known.unwrap_or_else(|| {
                    notes.push(note);
                    notes.len() - 1
                }) + 1
            });
            let mark = number.map(|number| format!(" ({number})")).unwrap_or_default();
            cells.push(format!("{}{mark}", cell.answer.as_str()));
        }
        text.push_str(&row(&cells));
    }
    if !notes.is_empty() {
        text.push('\n');
    }
    for (number, note) in notes.iter().enumerate() {
        text.push_str(&format!("{}. {note}\n", number + 1));
    }
    text
}

fn note(permits: &[String], forbids: &[String]) -> String {
    let list = |texts: &[String]| texts.iter().map(|text| code(text)).collect::<Vec<_>>().join(" or ");
    match forbids {
        [] => format!("if {}", list(permits)),
        forbids => format!("if {}, unless {}", list(permits), list(forbids)),
    }
}
