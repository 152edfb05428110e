//! Reports for people at a terminal.

use super::{CaseOutcome, Finding, Paint, Severity, Suite, Table};

/// Shows or leaves out the policies that decided no case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Coverage {
    Show,
    Omit,
}

/// One line for each finding, after `indent`.
pub(crate) fn findings(findings: &[Finding], indent: &str, paint: Paint) -> String {
    let line = |finding: &Finding| {
        let severity = match finding.severity {
            Severity::Error => paint.red("error:"),
            Severity::Warning => paint.dim("warning:"),
        };
        format!("{indent}{severity} {finding}\n")
    };
    findings.iter().map(line).collect()
}

/// The cases of all suites, then the counts.
pub(crate) fn suites(suites: &[Suite], coverage: Coverage, paint: Paint) -> String {
    let mut text = String::new();
    for suite in suites {
        text.push_str(&format!("{}\n", suite.portal));
        text.push_str(&findings(&suite.findings, "  ", paint));
        for case in &suite.cases {
            let name = &case.name;
            text.push_str(&match &case.outcome {
                CaseOutcome::Passed => format!("  {} {name}\n", paint.green("ok")),
                CaseOutcome::Skipped(reason) => format!("  {} {name} ({reason})\n", paint.dim("skipped")),
                CaseOutcome::Failed(difference) => {
                    let line = case.line.map(|line| format!(":{line}")).unwrap_or_default();
                    format!("  {} {name} ({}{line})\n     {difference}\n", paint.red("FAILED"), case.file)
                }
            });
        }
        if coverage == Coverage::Show {
            for id in &suite.uncovered {
                text.push_str(&format!("  {} {id}\n", paint.dim("not covered:")));
            }
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
pub(crate) fn table(table: &Table) -> String {
    let line = |row: &Vec<String>| {
        let cells = table
            .columns
            .iter()
            .zip(row)
            .map(|(label, cell)| format!("{label}{}", escaped(cell)));
        let cells: Vec<String> = cells.filter(|cell| !cell.is_empty()).collect();
        format!("{}\n", cells.join("  "))
    };
    table.rows.iter().map(line).collect()
}

/// SECURITY: a subject is any text that an issuer chose; control characters in it must not steer the terminal.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PLAIN, finding, suite};
    use super::*;

    #[test]
    fn findings_are_lines_with_severity_place_and_help() {
        assert_eq!(
            findings(&[finding()], "  ", PLAIN),
            "  error: policies/p/a.cedar:3: 50% is\nnot a policy (help: add `;`)\n"
        );
    }

    #[test]
    fn suites_list_every_case_and_count_the_outcomes() {
        let cases =
            "p\n  ok reads\n  FAILED writes <x> (policies/p/tests/t.yaml:7)\n     expected deny\n  skipped later (not yet)\n";
        let counts = "\n1 passed, 1 failed, 1 skipped\n";
        assert_eq!(suites(&[suite()], Coverage::Omit, PLAIN), format!("{cases}{counts}"));
        assert_eq!(
            suites(&[suite()], Coverage::Show, PLAIN),
            format!("{cases}  not covered: never\n{counts}")
        );
    }

    #[test]
    fn table_labels_its_cells_and_escapes_control_characters() {
        let shown = Table {
            columns: &["", "tenant=", ""],
            rows: vec![
                vec!["a\u{1b}[2J".to_owned(), String::new(), "disabled".to_owned()],
                vec!["b".to_owned(), "acme".to_owned(), String::new()],
            ],
        };
        assert_eq!(table(&shown), "a\\u{1b}[2J  tenant=  disabled\nb  tenant=acme\n");
    }
}
