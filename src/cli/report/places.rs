//! Columns of findings that know their line alone: readers of YAML say where a value begins, and not which word is
//! meant.
//!
//! The place is the first name that the message quotes and the line holds, else the line's text.

use std::collections::BTreeMap;

use super::{Finding, SourceText};

/// Files by name, each with its lines: a large file may have thousands of findings.
#[derive(Default)]
pub(super) struct Lines(BTreeMap<String, Vec<String>>);

impl Lines {
    /// A line of a file, which counts from 1.
    pub fn get(&mut self, file: &str, number: usize, source: SourceText<'_>) -> Option<&str> {
        if !self.0.contains_key(file) {
            let text = source(file).unwrap_or_default();
            self.0.insert(file.to_owned(), text.lines().map(str::to_owned).collect());
        }
        self.0.get(file)?.get(number.checked_sub(1)?).map(String::as_str)
    }
}

/// Gives a column to every finding that has a line.
pub(crate) fn complete(findings: &mut [Finding], source: SourceText<'_>) {
    let mut lines = Lines::default();
    for finding in findings.iter_mut().filter(|finding| finding.column.is_none()) {
        let place = finding.file.as_deref().zip(finding.line);
        let Some(line) = place.and_then(|(file, number)| lines.get(file, number, source)) else {
            continue;
        };
        let text = line.trim();
        if text.is_empty() {
            continue;
        }
        let start = line.len() - line.trim_start().len();
        let (from, length) = quoted(&finding.message)
            .flat_map(|name| [Some(name), name.rsplit(['.', ']']).next()])
            .flatten()
            .find_map(|name| Some((word(line, name)?, name.len())))
            .unwrap_or((start, text.len()));
        finding.column = Some(from + 1);
        finding.end_line = finding.line;
        finding.end_column = Some(from + length + 1);
    }
}

/// The texts between backticks.
fn quoted(message: &str) -> impl Iterator<Item = &str> {
    message.split('`').skip(1).step_by(2)
}

/// The offset of a text that is no part of a longer word.
fn word(line: &str, text: &str) -> Option<usize> {
    let is_of_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let is_whole = |(at, _): &(usize, &str)| {
        let before = line.get(..*at).and_then(|before| before.chars().next_back());
        let after = line.get(at + text.len()..).and_then(|after| after.chars().next());
        !before.is_some_and(is_of_word) && !after.is_some_and(is_of_word)
    };
    let mut places = line.match_indices(text).filter(|_| !text.is_empty());
    places.find(is_whole).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use cedargate_policy::revision::problem::Problem;

    use super::super::Severity;
    use super::*;

    #[test]
    fn a_finding_with_a_line_gets_the_word_that_its_message_quotes() {
        let file = "routes:\n  - route: GET /x\n    actoin: read-all\n\n  éé: off\n";
        for (line, message, place) in [
            (3, "`routes[0].actoin`: unknown key; did you mean `action`?", Some((5, 11))),
            (3, "`read` is no action", Some((5, 21))),
            (3, "there is no action `read-all`", Some((13, 21))),
            (2, "`routes[0]` needs `action`", Some((3, 18))),
            (5, "`éé`: unknown key", Some((3, 7))),
            (4, "`routes`: is empty", None),
            (9, "`routes`: is gone", None),
        ] {
            let problem = Problem::new("policies/p/portal.yaml", message).at_line(Some(line));
            let mut findings = [Finding::from_problem(&problem, Severity::Error, "p")];
            complete(&mut findings, &|_| Some(file.to_owned()));
            let found = findings[0].column.zip(findings[0].end_column);
            assert_eq!(found, place, "{message}");
        }
    }
}
