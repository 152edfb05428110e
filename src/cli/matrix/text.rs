//! The matrix for people at a terminal: a table for each portal, and below it the conditions by number.

use cedargate_policy::matrix::{Cell, CellAnswer};

use super::{Conditions, PortalMatrix, action_name, conditions};
use crate::cli::Paint;
use crate::cli::report::text::escaped;

/// Conditions by number; cells with the same conditions share one.
#[derive(Default)]
struct Notes(Vec<String>);

/// A cell as it is shown: the width counts the text without colour.
struct Shown {
    text: String,
    answer: Option<CellAnswer>,
}

pub(super) fn report(matrices: &[PortalMatrix], paint: Paint) -> String {
    let portals: Vec<String> = matrices.iter().map(|one| portal(one, paint)).collect();
    portals.join("\n")
}

fn portal(one: &PortalMatrix, paint: Paint) -> String {
    let mut notes = Notes::default();
    let plain = |text: &str| Shown {
        text: escaped(text),
        answer: None,
    };
    let mut head = vec![plain("action"), plain("resource")];
    head.extend(one.matrix.rows.iter().map(|row| plain(&one.row_name(row))));
    let mut lines = vec![head];
    for (number, column) in one.columns() {
        let mut line = vec![plain(action_name(column)), plain(&column.resource_type.to_string())];
        line.extend(one.cells_of(number).map(|(_, cell)| notes.shown(cell)));
        lines.push(line);
    }
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.text.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..one.matrix.rows.len() + 2).map(width).collect();
    let mut text = format!("{}\n", escaped(&one.portal));
    for line in &lines {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| cell.padded(*width, paint))
            .collect();
        text.push_str(&format!("  {}\n", cells.join("  ").trim_end()));
    }
    for (number, note) in notes.0.iter().enumerate() {
        text.push_str(&format!("\n  [{}] {note}", number + 1));
    }
    if !notes.0.is_empty() {
        text.push('\n');
    }
    text
}

impl Notes {
    fn shown(&mut self, cell: &Cell) -> Shown {
        let text = match (cell.answer, conditions(cell)) {
            (CellAnswer::Impossible, _) => "-".to_owned(),
            (CellAnswer::Conditional, Some(conditions)) => format!("if [{}]", self.number(note(&conditions))),
            (CellAnswer::Unknown, _) => {
                let why = cell.why.as_deref().unwrap_or("it could not be computed");
                format!("unknown [{}]", self.number(escaped(why)))
            }
            (answer, _) => answer.as_str().to_owned(),
        };
        Shown {
            text,
            answer: Some(cell.answer),
        }
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

impl Shown {
    fn padded(&self, width: usize, paint: Paint) -> String {
        let space = " ".repeat(width.saturating_sub(self.text.chars().count()));
        let text = match self.answer {
            Some(CellAnswer::Allow) => paint.green(&self.text),
            Some(CellAnswer::Deny) => paint.red(&self.text),
            Some(CellAnswer::Conditional | CellAnswer::Unknown) => paint.yellow(&self.text),
            Some(CellAnswer::Impossible) | None => self.text.clone(),
        };
        format!("{text}{space}")
    }
}
