//! The items of a JSON list with their lines, in one pass over the text, for messages that name a place.
//!
//! A list may have a million items: no caller may look for the line of one by reading the text from its beginning.

use serde::de::IgnoredAny;
use serde_json::Deserializer;

use crate::revision::problem::{Position, Problem};
use crate::revision::source::SourceFile;

/// One item's piece of a text, and where it begins.
pub(super) struct JsonItem<'a> {
    pub text: &'a str,
    pub begin: Position,
}

impl JsonItem<'_> {
    /// Places a problem at some bytes of the item.
    pub fn place(&self, name: &str, problem: Problem, offset: usize, length: usize) -> Problem {
        problem.at_span(self.text, offset, length).within(name, self.begin)
    }

    /// Places a problem at the whole item.
    pub fn place_whole(&self, name: &str, problem: Problem) -> Problem {
        self.place(name, problem, 0, self.text.len())
    }
}

/// The items of a JSON list, as far as they are JSON.
pub(super) fn items(text: &str) -> impl Iterator<Item = JsonItem<'_>> {
    let mut offset = text.find('[').map_or(text.len(), |at| at + 1);
    let mut begin = Position { line: 1, column: 1 };
    advance(&mut begin, text.get(..offset));
    std::iter::from_fn(move || {
        let rest = text.get(offset..)?;
        let start = offset + rest.find(|c: char| c != ',' && !c.is_ascii_whitespace())?;
        advance(&mut begin, text.get(offset..start));
        let rest = text.get(start..)?;
        let mut values = Deserializer::from_str(rest).into_iter::<IgnoredAny>();
        values.next()?.ok()?;
        let text = rest.get(..values.byte_offset())?;
        offset = start + text.len();
        let item = JsonItem { text, begin };
        advance(&mut begin, Some(text));
        Some(item)
    })
}

/// What is wrong with the text of a JSON file; an empty one is no JSON file yet.
pub(super) fn syntax_problem(name: &str, file: &SourceFile) -> Option<Problem> {
    let text = match file.text(name) {
        Ok(text) => text,
        Err(problem) => return Some(problem),
    };
    let parsed = serde_json::from_str::<IgnoredAny>(text)
        .err()
        .filter(|_| !text.trim().is_empty());
    parsed.map(|error| json_problem(name, &error, &error.to_string()))
}

/// A problem at the place that the JSON parser names; `message` may have the place at its end.
pub(crate) fn json_problem(name: &str, error: &serde_json::Error, message: &str) -> Problem {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let problem = Problem::new(name, message.replacen(&place, "", 1)).at_line(Some(error.line()));
    Problem {
        column: Some(error.column().max(1)),
        ..problem
    }
}

/// Moves a position over a text.
fn advance(position: &mut Position, text: Option<&str>) {
    let text = text.unwrap_or_default();
    match text.rfind('\n') {
        Some(last) => {
            position.line += text.matches('\n').count();
            position.column = text.len() - last;
        }
        None => position.column += text.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_has_its_text_and_its_line() {
        let found = |text| {
            items(text)
                .map(|item| (item.text, item.begin.line, item.begin.column))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            found("\n[{\"a\":\n1},\n\n\"]\", [\n7]]"),
            [("{\"a\":\n1}", 2, 2), ("\"]\"", 5, 1), ("[\n7]", 5, 6)]
        );
        assert_eq!(found("[1, 2, x, 3]"), [("1", 1, 2), ("2", 1, 5)]);
        assert_eq!(found("[]"), []);
        assert_eq!(found("7"), []);
    }
}
