//! The matrix as Markdown, for documents and pull requests.

use cedargate_policy::matrix::CellAnswer;

use super::{PortalMatrix, action_name, conditions};

pub(super) fn report(matrices: &[PortalMatrix]) -> String {
    matrices.iter().map(portal).collect::<Vec<_>>().join("\n")
}

fn portal(one: &PortalMatrix) -> String {
    let mut notes: Vec<String> = Vec::new();
    let names: Vec<String> = one.matrix.rows.iter().map(|row| escaped(&one.row_name(row))).collect();
    let mut text = format!(
        "## {}\n\n| action | resource | {} |\n",
        escaped(&one.portal),
        names.join(" | ")
    );
    text.push_str(&format!("|---|---|{}\n", "---|".repeat(names.len())));
    for (number, column) in one.columns() {
        let mut cells = vec![escaped(action_name(column)), escaped(&column.resource_type.to_string())];
        for (_, cell) in one.cells_of(number) {
            let note = match (cell.answer, conditions(cell)) {
                (CellAnswer::Conditional, Some(conditions)) => Some(note(&conditions.permits, &conditions.forbids)),
                (CellAnswer::Unknown, _) => cell.why.as_deref().map(escaped),
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
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
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

/// A piece of code with a fence that is longer than any row of backticks in it.
fn code(text: &str) -> String {
    let text = text.replace(['\n', '\r'], " ").replace('|', "\\|");
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or_default();
    let fence = "`".repeat(longest + 1);
    let space = if longest > 0 { " " } else { "" };
    format!("{fence}{space}{text}{space}{fence}")
}

/// SECURITY: a role or an id is any text; in a table it must stay text.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => escaped.push(' '),
            '<' => escaped.push_str("&lt;"),
            '&' => escaped.push_str("&amp;"),
            '|' | '`' | '*' | '_' | '[' | ']' | '\\' | '#' | '!' | '~' => escaped.extend(['\\', c]),
            c if c.is_control() => {}
            c => escaped.push(c),
        }
    }
    escaped
}
