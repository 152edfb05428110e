//! The matrix for people at a terminal: a table for each portal, and below it the conditions by number.

use cedargate_policy::matrix::{Cell, CellAnswer};

use super::{Conditions, PortalMatrix, action_name, conditions};
use crate::cli::Paint;
use crate::cli::report::text::{ColumnCell, columns, escaped};

/// Conditions by number; cells with the same conditions share one.
#[derive(Default)]
struct Notes(Vec<String>);

pub(super) fn report(matrices: &[PortalMatrix], paint: Paint) -> String {
    let portals: Vec<String> = matrices.iter().map(|one| portal(one, paint)).collect();
    portals.join("\n")
}

fn portal(one: &PortalMatrix, paint: Paint) -> String {
    let mut notes = Notes::default();
    let mut head = vec![ColumnCell::plain("action"), ColumnCell::plain("resource")];
    head.extend(one.matrix.rows.iter().map(|row| ColumnCell::plain(&one.row_name(row))));
    let mut lines = vec![head];
    for (number, column) in one.columns() {
        let mut line = vec![
            ColumnCell::plain(action_name(column)),
            ColumnCell::plain(&column.resource_type.to_string()),
        ];
        line.extend(one.cells_of(number).map(|(_, cell)| notes.shown(cell, paint)));
        lines.push(line);
    }
    let mut text = format!("{}\n{}", escaped(&one.portal), columns(&lines));
    for (number, note) in notes.0.iter().enumerate() {
        text.push_str(&format!("\n  [{}] {note}", number + 1));
    }
    if !notes.0.is_empty() {
        text.push('\n');
    }
    text
}

impl Notes {
    fn shown(&mut self, cell: &Cell, paint: Paint) -> ColumnCell {
        let text = match (cell.answer, conditions(cell)) {
            (CellAnswer::Impossible, _) => "-".to_owned(),
            (CellAnswer::Conditional, Some(conditions)) => format!("if [{}]", self.number(note(&conditions))),
            (CellAnswer::Unknown, _) => {
                let why = cell.why.as_deref().unwrap_or("it could not be computed");
                format!("unknown [{}]", self.number(escaped(why)))
            }
            (answer, _) => answer.as_str().to_owned(),
        };
        let painted = match cell.answer {
            CellAnswer::Allow => Some(paint.green(&text)),
            CellAnswer::Deny => Some(paint.red(&text)),
            CellAnswer::Conditional | CellAnswer::Unknown => Some(paint.yellow(&text)),
            CellAnswer::Impossible => None,
        };
        ColumnCell { text, painted }
    }

    fn number(&mut self, note: String) -> usize {
        let known = self.0.iter().position(|known| *known == note);
        known.unwrap_or_else(|| {
            self.0.push(note);
            self.0.len() - 1
        }) + 1
    }
}

fn note(Conditions { permits, forbids }: &Conditions) -> String {
    let list = |texts: &[String]| -> String { texts.iter().map(|text| format!("\n        {}", escaped(text))).collect() };
    match (permits.len(), forbids.is_empty()) {
        (1, true) => format!("if{}", list(permits)),
        (_, true) => format!("if one of{}", list(permits)),
        (1, false) => format!("if{}\n      and none of{}", list(permits), list(forbids)),
        (_, false) => format!("if one of{}\n      and none of{}", list(permits), list(forbids)),
    }
}
