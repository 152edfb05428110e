//! Reports for people at a terminal.

pub(crate) use crate::base::terminal::escaped;

use super::places::Lines;
use super::{
    CaseOutcome, Finding, Listing, Paint, RULE_CONFIGURATION, RULE_VALIDATION, ReportPart, Severity, SourceText, Suite, Table,
};

/// Characters of a line that an excerpt shows.
const EXCERPT_CHARS: usize = 140;
/// Characters of a table's cell; the rest is cut.
const CELL_CHARS_MAX: usize = 72;

/// A cell of aligned columns.
pub(crate) struct ColumnCell {
    pub text: String,
    /// The same text with its colour.
    pub painted: Option<String>,
}

/// Each finding with its place, the line of the file with the place underlined, and the help.
pub(crate) fn findings(findings: &[Finding], source: SourceText<'_>, paint: Paint) -> String {
    let mut files = Lines::default();
    findings.iter().map(|one| finding(one, &mut files, source, paint)).collect()
}

fn finding(finding: &Finding, files: &mut Lines, source: SourceText<'_>, paint: Paint) -> String {
    let severity = match finding.severity {
        Severity::Error => paint.red("error:"),
        Severity::Warning => paint.yellow("warning:"),
        Severity::Note => paint.dim("note:"),
    };
    let rule = match finding.rule {
        RULE_VALIDATION | RULE_CONFIGURATION => String::new(),
        rule => paint.dim(&format!(" [{rule}]")),
    };
    let mut text = format!("{severity} {}{rule}\n", finding.message);
    let Some(file) = &finding.file else {
        return with_help(text, finding, "  ");
    };
    let numbers = finding.line.into_iter().chain(finding.line.and(finding.column));
    let place: String = numbers.map(|number| format!(":{number}")).collect();
    let policy = finding.policy.as_ref().map(|id| format!("  (policy {})", escaped(id)));
    text.push_str(&format!(
        "  {} {file}{place}{}\n",
        paint.dim("-->"),
        policy.unwrap_or_default()
    ));
    let excerpt = finding.line.and_then(|line| excerpt(line, finding, files, source));
    if let Some(Excerpt { number, line, marks }) = &excerpt {
        let bar = paint.dim("|");
        text.push_str(&format!("{} {bar} {line}\n", paint.dim(number)));
        text.push_str(&format!("{:1$} {bar} {2}\n", "", number.len(), paint.red(marks)));
    }
    with_help(text, finding, "  ")
}

fn with_help(mut text: String, finding: &Finding, indent: &str) -> String {
    if let Some(help) = &finding.help {
        text.push_str(&format!("{indent}= help: {help}\n"));
    }
    text
}

/// A line of a file, and marks below the place in it.
struct Excerpt {
    number: String,
    line: String,
    marks: String,
}

/// `None` if the file has no such line.
fn excerpt(number: usize, finding: &Finding, files: &mut Lines, source: SourceText<'_>) -> Option<Excerpt> {
    let line = files.get(finding.file.as_deref()?, number, source)?;
    let end = line.trim_end().chars().count();
    // without a column the place is the line
    let indent = line.len() - line.trim_start().len();
    let from = finding.column.map_or(indent, |column| characters(line, column));
    let to = match (finding.column, finding.end_line, finding.end_column) {
        (Some(_), Some(last), Some(column)) if last == number => characters(line, column),
        (None, ..) | (_, Some(_), _) => end,
        (Some(_), None, _) => from + 1,
    };
    // a long line is cut to the characters around the place
    let start = if from > EXCERPT_CHARS / 2 {
        from - EXCERPT_CHARS / 4
    } else {
        0
    };
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    let mut cut: String = line.chars().skip(start).take(EXCERPT_CHARS).map(shown).collect();
    if line.chars().count() > start + EXCERPT_CHARS {
        cut.push('…');
    }
    let width = to.saturating_sub(from).clamp(1, EXCERPT_CHARS);
    Some(Excerpt {
        number: number.to_string(),
        line: cut,
        marks: format!("{}{}", " ".repeat(from - start), "^".repeat(width)),
    })
}

/// The characters before a column, which counts bytes from 1.
fn characters(line: &str, column: usize) -> usize {
    let mut before = column.saturating_sub(1).min(line.len());
    while !line.is_char_boundary(before) {
        before -= 1;
    }
    line.get(..before).map_or(0, |text| text.chars().count())
}

/// The cases of all suites, then the counts.
pub(crate) fn suites(suites: &[Suite], source: SourceText<'_>, paint: Paint) -> String {
    let mut text = String::new();
    for suite in suites {
        text.push_str(&format!("{}\n", suite.portal));
        text.push_str(&findings(&suite.findings, source, paint));
        for case in &suite.cases {
            let name = &case.name;
            text.push_str(&match &case.outcome {
                CaseOutcome::Passed => format!("  {} {name}\n", paint.green("ok")),
                CaseOutcome::Skipped(reason) => format!("  {} {name} ({reason})\n", paint.dim("skipped")),
                CaseOutcome::Failed(difference) => {
                    let line = case.line.map(|line| format!(":{line}")).unwrap_or_default();
                    let reasons = case.reasons.as_deref().unwrap_or_default();
                    format!(
                        "  {} {name} ({}{line})\n     {difference}\n{reasons}",
                        paint.red("FAILED"),
                        case.file
                    )
                }
            });
        }
    }
    text.push_str(&counts(suites));
    text
}

fn counts(suites: &[Suite]) -> String {
    let outcomes = || suites.iter().flat_map(|suite| &suite.cases).map(|case| &case.outcome);
    let passed = outcomes().filter(|outcome| matches!(outcome, CaseOutcome::Passed)).count();
    let failed = outcomes().filter(|outcome| matches!(outcome, CaseOutcome::Failed(_))).count();
    let skipped = outcomes()
        .filter(|outcome| matches!(outcome, CaseOutcome::Skipped(_)))
        .count();
    format!("\n{passed} passed, {failed} failed, {skipped} skipped\n")
}

/// One line for each row. Leaves out a cell without label and content.
pub(crate) fn listing(listing: &Listing) -> String {
    let line = |row: &Vec<String>| {
        let cells = listing
            .labels
            .iter()
            .zip(row)
            .map(|(label, cell)| format!("{label}{}", escaped(cell)));
        let cells: Vec<String> = cells.filter(|cell| !cell.is_empty()).collect();
        format!("{}\n", cells.join("  "))
    };
    listing.rows.iter().map(line).collect()
}

/// The parts of a report, one below the other.
pub(crate) fn parts(parts: &[ReportPart], paint: Paint) -> String {
    let part = |part: &ReportPart| match part {
        ReportPart::Lines(lines) => lines.lines().map(|line| format!("{}\n", escaped(line))).collect(),
        ReportPart::Portal(slug) => format!("\nportal {}\n", escaped(slug)),
        ReportPart::Heading { text, severity } => {
            let text = escaped(text);
            let painted = match severity {
                Some(Severity::Error) => paint.red(&text),
                Some(Severity::Warning) => paint.yellow(&text),
                Some(Severity::Note) | None => text,
            };
            format!("\n{painted}\n")
        }
        ReportPart::Table(shown) => table(shown),
    };
    parts.iter().map(part).collect()
}

/// Aligned columns below their head.
pub(crate) fn table(table: &Table) -> String {
    let head = table.head.iter().map(|cell| ColumnCell::plain(cell)).collect();
    let rows = table
        .rows
        .iter()
        .map(|row| row.iter().map(|cell| ColumnCell::plain(&short(&escaped(cell)))).collect());
    columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn short(cell: &str) -> String {
    match cell.char_indices().nth(CELL_CHARS_MAX) {
        Some((end, _)) => format!("{}…", cell.get(..end).unwrap_or_default()),
        None => cell.to_owned(),
    }
}

/// Aligned columns, indented.
pub(crate) fn columns(rows: &[Vec<ColumnCell>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.text.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<ColumnCell>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| cell.padded(*width)).collect();
        format!("  {}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

impl ColumnCell {
    /// Text without colour.
    pub fn plain(text: &str) -> Self {
        Self {
            text: escaped(text),
            painted: None,
        }
    }

    /// The width counts the text without colour.
    fn padded(&self, width: usize) -> String {
        let space = " ".repeat(width.saturating_sub(self.text.chars().count()));
        format!("{}{space}", self.painted.as_deref().unwrap_or(&self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PLAIN, finding, suite};
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn findings_show_the_place_the_line_and_the_help() {
        let mut finding = finding();
        assert_eq!(
            findings(std::slice::from_ref(&finding), &none, PLAIN),
            "error: 50% is\nnot a policy\n  --> policies/p/a.cedar:3\n  = help: add `;`\n"
        );
        let source = |_: &str| Some("a\nb\n\té = ö.owner == 1;\n".to_owned());
        finding.message = "wrong".to_owned();
        (finding.column, finding.end_line, finding.end_column) = (Some(7), Some(3), Some(15));
        finding.policy = Some("x".to_owned());
        assert_eq!(
            findings(&[finding], &source, PLAIN),
            "error: wrong\n  --> policies/p/a.cedar:3:7  (policy x)\n3 |  é = ö.owner == 1;\n  |      ^^^^^^^\n  = help: add `;`\n"
        );
    }

    #[test]
    fn a_long_line_is_cut_around_its_place() {
        let long = format!("{}here{}", "x".repeat(5_000), "y".repeat(5_000));
        let source = move |_: &str| Some(long.clone());
        let mut finding = finding();
        (finding.line, finding.column, finding.end_line, finding.end_column) = (Some(1), Some(5_001), Some(1), Some(5_005));
        let text = findings(&[finding], &source, PLAIN);
        let lines: Vec<&str> = text.lines().collect();
        assert!(text.len() < 500, "{text}");
        assert_eq!(lines[3].find("here"), lines[4].find("^^^^"), "{text}");
    }

    #[test]
    fn suites_list_every_case_and_count_the_outcomes() {
        let cases =
            "p\n  ok reads\n  FAILED writes <x> (policies/p/tests/t.yaml:7)\n     expected deny\n  skipped later (not yet)\n";
        let counts = "\n1 passed, 1 failed, 1 skipped\n";
        assert_eq!(suites(&[suite()], &none, PLAIN), format!("{cases}{counts}"));
    }

    #[test]
    fn listing_labels_its_cells_and_escapes_control_characters() {
        let shown = Listing {
            labels: &["", "tenant=", ""],
            rows: vec![
                vec!["a\u{1b}[2J".to_owned(), String::new(), "disabled".to_owned()],
                vec!["b".to_owned(), "acme".to_owned(), String::new()],
            ],
        };
        assert_eq!(listing(&shown), "a\\u{1b}[2J  tenant=  disabled\nb  tenant=acme\n");
    }

    #[test]
    fn table_aligns_its_columns_and_cuts_long_cells() {
        let shown = Table {
            head: &["role", "records"],
            rows: vec![
                vec!["a`|<b>\n\u{1b}".to_owned(), "1".to_owned()],
                vec!["x".repeat(200), "2".to_owned()],
            ],
        };
        let text = table(&shown);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].find("records"), lines[1].rfind('1'), "{text}");
        assert!(lines[1].starts_with("  a`|<b>\\n\\u{1b}  "), "{text}");
        assert!(lines[2].contains(&format!("{}…  2", "x".repeat(CELL_CHARS_MAX))), "{text}");
    }

    #[test]
    fn columns_are_as_wide_as_their_text_without_colour() {
        let painted = ColumnCell {
            text: "allow".to_owned(),
            painted: Some("<allow>".to_owned()),
        };
        let rows = [
            vec![ColumnCell::plain("a"), ColumnCell::plain("b")],
            vec![painted, ColumnCell::plain("c")],
        ];
        assert_eq!(columns(&rows), "  a      b\n  <allow>  c\n");
    }
}
