//! Reports: findings, decision-test cases and tables, printed the same way by every command.
//!
//! A command fills the types of this file and names the formats it has (`Writers`), each with the writer of that
//! format: `text` for people, `markdown` for comments, `json` for scripts, `csv` for spreadsheets, `junit` for test
//! reports, `github` for annotations, `sarif` for code scanning. Reports go to stdout with `print`; messages to the
//! user go to stderr with `complain`. A new format is one more writer; a new command needs none.

pub(crate) mod cedar;
pub(crate) mod csv;
mod format;
pub(crate) mod github;
pub(crate) mod json;
pub(crate) mod junit;
pub(crate) mod markdown;
pub(crate) mod places;
pub(crate) mod sarif;
pub(crate) mod text;

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use cedargate_policy::decision::explain::Explanation;
use cedargate_policy::decision_tests::{CaseResult, TestOutcome};
use cedargate_policy::lint::{self, LintFinding};
use cedargate_policy::revision::problem::Problem;
use serde::Serialize;

pub(crate) use self::format::{Format, Writers};
pub(crate) use crate::base::terminal::Paint;

/// Rule of every finding of loading: parse, validation, entities, decision tests.
const RULE_VALIDATION: &str = "validation";
/// Rule of every finding about the configuration.
const RULE_CONFIGURATION: &str = "configuration";

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Error,
    Warning,
    Note,
}

/// One statement about a place in a user's file. Columns count bytes. Serializes to an entry of `findings` as every
/// command publishes it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    /// The id of the rule that found it.
    pub rule: &'static str,
    pub severity: Severity,
    pub message: String,
    /// Advice: the next step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// `None`: the finding is about the configuration as a whole.
    pub file: Option<String>,
    /// From 1; `None`: the finding is about the whole file.
    pub line: Option<usize>,
    /// From 1.
    pub column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub portal: Option<String>,
    /// The id of the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// One decision test with its outcome.
#[derive(Clone, Debug)]
pub(crate) struct TestCase {
    pub name: String,
    pub file: String,
    pub line: Option<usize>,
    pub outcome: CaseOutcome,
    /// Ids of the policies that decided.
    pub deciding: Vec<String>,
    /// For people: the reasons of its decision, if it failed.
    pub reasons: Option<String>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum CaseOutcome {
    Passed,
    /// With the difference to what the case expects.
    Failed(String),
    /// With the reason that the case gives.
    Skipped(String),
}

/// The decision tests of one portal.
#[derive(Clone, Debug)]
pub(crate) struct Suite {
    pub portal: String,
    pub cases: Vec<TestCase>,
    /// Ids of the policies that decided no case.
    pub uncovered: Vec<String>,
    /// Errors that kept the portal, or a test file, from loading.
    pub findings: Vec<Finding>,
    pub duration: Duration,
}

/// The text of a file by its name in findings; `None` if it is not known.
pub(crate) type SourceText<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Rows of cells without a head. A label precedes each cell, so that one line can be read alone.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    /// One for each column.
    pub labels: &'static [&'static str],
    pub rows: Vec<Vec<String>>,
}

/// Rows below a head.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub head: &'static [&'static str],
    pub rows: Vec<Vec<String>>,
}

/// A part of a report for people.
#[derive(Clone, Debug)]
pub(crate) enum ReportPart {
    /// Lines of text, each with its line break.
    Lines(String),
    /// The parts below are about this portal.
    Portal(String),
    Heading {
        text: String,
        /// Colours the heading.
        severity: Option<Severity>,
    },
    Table(Table),
}

impl Finding {
    /// A finding of loading a portal.
    pub fn from_problem(problem: &Problem, severity: Severity, portal: &str) -> Self {
        Self {
            rule: RULE_VALIDATION,
            severity,
            message: problem.message.clone(),
            help: problem.help.as_deref().map(str::to_owned),
            file: Some(problem.file.clone()),
            line: problem.line,
            column: problem.column,
            end_line: problem.end.as_ref().map(|end| end.line),
            end_column: problem.end.as_ref().map(|end| end.column),
            portal: Some(portal.to_owned()),
            policy: problem.policy.as_deref().map(str::to_owned),
        }
    }

    /// A warning about a file that belongs to no portal.
    pub fn of_no_portal(problem: &Problem) -> Self {
        Self {
            portal: None,
            ..Self::from_problem(problem, Severity::Warning, "")
        }
    }

    /// A finding of a lint rule.
    pub fn from_lint(finding: &LintFinding, portal: &str) -> Self {
        let severity = match finding.severity {
            lint::Severity::Error => Severity::Error,
            lint::Severity::Warning => Severity::Warning,
            lint::Severity::Note => Severity::Note,
        };
        Self {
            rule: finding.rule.id,
            ..Self::from_problem(&finding.problem, severity, portal)
        }
    }

    /// A warning about the configuration; its message starts with the key.
    pub fn configuration(message: String) -> Self {
        Self {
            rule: RULE_CONFIGURATION,
            severity: Severity::Warning,
            message,
            help: None,
            file: None,
            line: None,
            column: None,
            end_line: None,
            end_column: None,
            portal: None,
            policy: None,
        }
    }
}

impl TestCase {
    pub fn from_result(result: CaseResult, reasons: impl FnOnce(&Explanation) -> String) -> Self {
        Self {
            name: result.name,
            file: result.file,
            line: result.line,
            outcome: match result.verdict {
                TestOutcome::Passed => CaseOutcome::Passed,
                TestOutcome::Failed(why) => CaseOutcome::Failed(why),
                TestOutcome::Skipped(why) => CaseOutcome::Skipped(why),
            },
            deciding: result.deciding.iter().map(|id| id.to_string()).collect(),
            reasons: result.explanation.as_deref().map(reasons),
        }
    }

    pub fn has_failed(&self) -> bool {
        matches!(self.outcome, CaseOutcome::Failed(_))
    }
}

/// `file:line:column: message (help: …)`, as far as known.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            f.write_str(file)?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
                if let Some(column) = self.column {
                    write!(f, ":{column}")?;
                }
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, " (help: {help})"),
            None => Ok(()),
        }
    }
}

/// Every finding once and with its column, with the first portal that has it: all portals read the shared files.
pub(crate) fn distinct(mut findings: Vec<Finding>, source: SourceText<'_>) -> Vec<Finding> {
    places::complete(&mut findings, source);
    let mut said = HashSet::new();
    let mut distinct = Vec::new();
    for finding in findings {
        let place = (finding.rule, finding.file.clone(), finding.line, finding.column);
        if said.insert((place, finding.message.clone())) {
            distinct.push(finding);
        }
    }
    distinct
}

/// Writes a report to stdout. A reader that closed its end (`| head`) is not an error.
pub(crate) fn print(text: &str) {
    use std::io::Write;
    let _reader_closed = std::io::stdout().lock().write_all(text.as_bytes()).is_err();
}

/// Writes a message to the user, and a line break, to stderr.
pub(crate) fn complain(text: &str) {
    use std::io::Write;
    let _reader_closed = writeln!(std::io::stderr().lock(), "{text}").is_err();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(super) const PLAIN: Paint = Paint::PLAIN;

    pub(super) fn finding() -> Finding {
        let problem = Problem::new("policies/p/a.cedar", "50% is\nnot a policy").with_help("add `;`");
        Finding::from_problem(&problem.at_line(Some(3)), Severity::Error, "p")
    }

    pub(super) fn suite() -> Suite {
        let case = |name: &str, outcome| TestCase {
            name: name.to_owned(),
            file: "policies/p/tests/t.yaml".to_owned(),
            line: Some(7),
            outcome,
            deciding: vec!["all".to_owned()],
            reasons: None,
        };
        Suite {
            portal: "p".to_owned(),
            cases: vec![
                case("reads", CaseOutcome::Passed),
                case("writes <x>", CaseOutcome::Failed("expected deny".to_owned())),
                case("later", CaseOutcome::Skipped("not yet".to_owned())),
            ],
            uncovered: vec!["never".to_owned()],
            findings: Vec::new(),
            duration: Duration::from_millis(1500),
        }
    }

    #[test]
    fn finding_serializes_to_the_published_shape() {
        assert_eq!(
            json!(finding()),
            json!({"rule": "validation", "severity": "error", "message": "50% is\nnot a policy", "help": "add `;`",
                "file": "policies/p/a.cedar", "line": 3, "column": null, "portal": "p"})
        );
    }

    #[test]
    fn finding_prints_like_the_problem_it_comes_from() {
        let problem = Problem::new("a.cedar", "wrong").at_offset("ab\ncd", 4).with_help("fix it");
        let finding = Finding::from_problem(&problem, Severity::Warning, "p");
        assert_eq!(finding.to_string(), problem.to_string());
        assert_eq!(Finding::configuration("a.b: odd".to_owned()).to_string(), "a.b: odd");
    }
}
