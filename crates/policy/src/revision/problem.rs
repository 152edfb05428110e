//! A problem of a file that a user owns: its place, and advice.

use std::fmt;

use miette::Diagnostic;
use serde::Serialize;

/// One problem. Lines and columns (in bytes) count from 1; absent for a problem of the whole file.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Problem {
    pub file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// The place after the last byte, where it is known.
    #[serde(skip)]
    pub end: Option<Box<Position>>,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<Box<str>>,
    /// The id of the policy that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Box<str>>,
}

/// Everything that keeps a candidate from becoming a revision; never empty.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("{}", lines(problems))]
pub struct RevisionError {
    pub problems: Vec<Problem>,
}

impl Problem {
    pub fn new(file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            column: None,
            end: None,
            message: message.into(),
            help: None,
            policy: None,
        }
    }

    pub fn at_line(mut self, line: Option<usize>) -> Self {
        self.line = line;
        self
    }

    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into().into_boxed_str());
        self
    }

    pub fn at_offset(mut self, text: &str, offset: usize) -> Self {
        let position = position(text, offset);
        self.line = Some(position.line);
        self.column = Some(position.column);
        self
    }

    /// The same from `offset` over `length` bytes.
    pub fn at_span(self, text: &str, offset: usize, length: usize) -> Self {
        Self {
            end: Some(Box::new(position(text, offset + length))),
            ..self.at_offset(text, offset)
        }
    }

    pub fn of_policy(mut self, id: &str) -> Self {
        self.policy = Some(id.into());
        self
    }

    /// Moves a problem of a piece of a file to its place in the whole file; `first` is where the piece begins. A
    /// problem without a place moves to the piece's first line.
    pub fn within(mut self, file: &str, first: Position) -> Self {
        file.clone_into(&mut self.file);
        let moved = |line: usize, column: usize| if line == 1 { column + first.column - 1 } else { column };
        self.column = self.column.map(|column| moved(self.line.unwrap_or(1), column));
        self.line = Some(self.line.unwrap_or(1) + first.line - 1);
        self.end = self.end.map(|end| {
            Box::new(Position {
                line: end.line + first.line - 1,
                column: moved(end.line, end.column),
            })
        });
        self
    }

    /// From a Cedar error: its first label is the place, its help the advice.
    pub fn from_diagnostic(file: &str, text: &str, error: &dyn Diagnostic) -> Self {
        let label = error.labels().and_then(|mut labels| labels.next());
        let mut message = error.to_string();
        if let Some(note) = label.as_ref().and_then(|l| l.label()).filter(|n| !message.contains(n)) {
            message = format!("{message}: {note}");
        }
        let mut problem = Self::new(file, message);
        problem.help = error.help().map(|h| h.to_string().into_boxed_str());
        match label {
            Some(label) => problem.at_span(text, label.offset(), label.len()),
            None => problem,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        write!(f, ": {}", self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, " (help: {help})"))
    }
}

/// One slip is one problem: Cedar reports it for each combination of action and types. Keeps of the problems at one
/// place the first that has advice, in the order of the file.
pub fn merged(mut problems: Vec<Problem>) -> Vec<Problem> {
    let place = |problem: &Problem| (problem.line, problem.column, problem.end.as_deref().copied());
    problems.sort_by(|a, b| {
        let key = |problem: &Problem| (place(problem), problem.help.is_none());
        key(a).cmp(&key(b)).then_with(|| a.message.cmp(&b.message))
    });
    let mut merged: Vec<Problem> = Vec::new();
    let mut others = 0;
    for problem in problems {
        match merged.last_mut() {
            Some(last) if last.line.is_some() && place(last) == place(&problem) => others += 1,
            last => {
                last.into_iter().for_each(|last| last.add_others(others));
                others = 0;
                merged.push(problem);
            }
        }
    }
    merged.iter_mut().last().into_iter().for_each(|last| last.add_others(others));
    merged
}

impl Problem {
    fn add_others(&mut self, others: usize) {
        if others > 0 {
            let noun = if others == 1 { "combination" } else { "combinations" };
            self.message.push_str(&format!(
                "; likewise in {others} more {noun} of action, principal and resource"
            ));
        }
    }
}

impl From<Problem> for RevisionError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl RevisionError {
    /// `Err` if anything was found.
    pub fn check(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// A place in a text; both count from 1.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// The position of a byte offset.
pub fn position(text: &str, offset: usize) -> Position {
    let before = text.as_bytes().get(..offset.min(text.len())).unwrap_or_default();
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
    Position { line, column }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_become_lines_and_columns() {
        let at = |offset| position("ab\ncd", offset);
        assert_eq!(at(0), Position { line: 1, column: 1 });
        assert_eq!(at(4), Position { line: 2, column: 2 });
        assert_eq!(at(99), Position { line: 2, column: 3 }, "past the end");
    }
}
