//! A table with a head, in columns for people and in Markdown for comments.

use crate::cli::report::text::escaped;

/// Characters of a cell; the rest is cut.
const CELL_CHARS_MAX: usize = 72;

/// Rows below a head.
pub(in crate::cli) struct Grid {
    pub head: &'static [&'static str],
    pub rows: Vec<Vec<String>>,
}

impl Grid {
    /// Aligned columns, indented.
    pub fn text(&self) -> String {
        let head = self.head.iter().map(|cell| (*cell).to_owned()).collect();
        let rows: Vec<Vec<String>> = std::iter::once(head)
            .chain(self.rows.iter().map(|row| row.iter().map(|cell| short(cell)).collect()))
            .collect();
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row: &Vec<String>| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            format!("  {}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
        };
        rows.iter().map(line).collect()
    }

    /// A table as GitHub and GitLab show it.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let head: Vec<String> = self.head.iter().map(|cell| (*cell).to_owned()).collect();
        let rule: Vec<String> = self.head.iter().map(|_| "---".to_owned()).collect();
        let rows = self.rows.iter().map(|row| {
            let cells: Vec<String> = row.iter().map(|cell| markdown_cell(cell)).collect();
            line(&cells)
        });
        line(&head) + &line(&rule) + &rows.collect::<String>()
    }
}

fn short(cell: &str) -> String {
    let cell = escaped(cell);
    match cell.char_indices().nth(CELL_CHARS_MAX) {
        Some((end, _)) => format!("{}…", cell.get(..end).unwrap_or_default()),
        None => cell,
    }
}

/// SECURITY: a path or a role is any text that a client or an issuer chose; it must not become a link, a mention or HTML.
fn markdown_cell(cell: &str) -> String {
    if cell.is_empty() {
        return String::new();
    }
    format!("`{}`", escaped(cell).replace('`', "'").replace('|', "\\|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cannot_leave_their_table() {
        let grid = Grid {
            head: &["role", "records"],
            rows: vec![vec!["a`|<b>\n\u{1b}".to_owned(), "1".to_owned()]],
        };
        assert_eq!(
            grid.markdown(),
            "| role | records |\n| --- | --- |\n| `a'\\|<b>\\n\\u{1b}` | `1` |\n"
        );
        assert_eq!(grid.text(), "  role            records\n  a`|<b>\\n\\u{1b}  1\n");
    }
}
