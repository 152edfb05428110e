//! Reports as Markdown, for documents and for comments on pull requests.
//!
//! SECURITY: names, paths and roles are text that a client, an issuer or the author of a pull request chose. `plain`
//! and `code` keep them text: they cannot become a link, a mention, HTML or another result.

use super::{ReportPart, Table};
use crate::base::terminal::escaped;

/// The parts of a report, one below the other.
pub(crate) fn parts(parts: &[ReportPart]) -> String {
    let part = |part: &ReportPart| match part {
        ReportPart::Lines(lines) => lines.lines().map(|line| format!("{}\n", plain(line))).collect(),
        ReportPart::Portal(slug) => format!("\n## Portal {}\n", plain(slug)),
        ReportPart::Heading { text, .. } => format!("\n### {}\n", plain(text)),
        ReportPart::Table(shown) => format!("\n{}", table(shown)),
    };
    parts.iter().map(part).collect()
}

/// A table whose cells are code.
pub(crate) fn table(table: &Table) -> String {
    let head: Vec<String> = table.head.iter().map(|cell| (*cell).to_owned()).collect();
    let cell = |cell: &String| if cell.is_empty() { String::new() } else { code(cell) };
    let rows = table
        .rows
        .iter()
        .map(|cells| row(&cells.iter().map(cell).collect::<Vec<_>>()));
    head_rows(&head) + &rows.collect::<String>()
}

/// The head of a table and the line below it.
pub(crate) fn head_rows(head: &[String]) -> String {
    row(head) + &format!("|{}\n", " --- |".repeat(head.len()))
}

/// A row of a table; its cells are Markdown.
pub(crate) fn row(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// A piece of code, also in a table. Its fence is longer than every run of backticks in it.
pub(crate) fn code(text: &str) -> String {
    let text = escaped(text).replace('|', "\\|");
    let longest = longest_fence(&text);
    let fence = "`".repeat(longest + 1);
    let space = if longest > 0 { " " } else { "" };
    format!("{fence}{space}{text}{space}{fence}")
}

/// A code block whose fence is longer than every run of backticks in it.
pub(crate) fn fenced(language: &str, body: &str) -> String {
    let fence = "`".repeat(longest_fence(body).max(2) + 1);
    format!("{fence}{language}\n{body}\n{fence}\n")
}

fn longest_fence(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or_default()
}

/// Text that means nothing to Markdown and HTML.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => plain.push_str("&amp;"),
            '<' => plain.push_str("&lt;"),
            '>' => plain.push_str("&gt;"),
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '#' | '!' | '~' | '@' => plain.push_str(&format!("&#{};", u32::from(c))),
            c if c.is_control() => plain.push(' '),
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_pretend_to_be_a_result() {
        assert_eq!(
            plain("a|b\n**proved** @team"),
            "a&#124;b &#42;&#42;proved&#42;&#42; &#64;team"
        );
        assert_eq!(fenced("diff", "+ ````\n+ x"), "`````diff\n+ ````\n+ x\n`````\n");
        assert_eq!(fenced("diff", "x"), "```diff\nx\n```\n");
    }

    #[test]
    fn cells_cannot_leave_their_table() {
        let shown = Table {
            head: &["role", "records"],
            rows: vec![vec!["a`|<b>\n\u{1b}".to_owned(), "1".to_owned()]],
        };
        assert_eq!(
            table(&shown),
            "| role | records |\n| --- | --- |\n| `` a`\\|<b>\\n\\u{1b} `` | `1` |\n"
        );
    }
}
