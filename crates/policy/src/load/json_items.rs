//! The items of a JSON list with their lines, in one pass over the text, for messages that name a place.
//!
//! A list may have a million items: no caller may look for the line of one by reading the text from its beginning.

use serde::de::IgnoredAny;
use serde_json::Deserializer;

use crate::revision::problem::Problem;
use crate::revision::source::SourceFile;

/// One item's piece of a text, and the line in which it begins.
pub(super) struct Item<'a> {
    pub text: &'a str,
    pub line: usize,
}

/// The items of a JSON list, as far as they are JSON.
pub(super) fn items(text: &str) -> impl Iterator<Item = Item<'_>> {
    let mut offset = text.find('[').map_or(text.len(), |at| at + 1);
    let mut line = line_ends(text.get(..offset)) + 1;
    std::iter::from_fn(move || {
        let rest = text.get(offset..)?;
        let start = offset + rest.find(|c: char| c != ',' && !c.is_ascii_whitespace())?;
        line += line_ends(text.get(offset..start));
        let rest = text.get(start..)?;
        let mut values = Deserializer::from_str(rest).into_iter::<IgnoredAny>();
        values.next()?.ok()?;
        let text = rest.get(..values.byte_offset())?;
        offset = start + text.len();
        let item = Item { text, line };
        line += line_ends(Some(text));
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
    parsed.map(|error| Problem::new(name, error.to_string()).at_line(Some(error.line())))
}

fn line_ends(text: Option<&str>) -> usize {
    text.unwrap_or_default().matches('\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_has_its_text_and_its_line() {
        let found = |text| items(text).map(|item| (item.text, item.line)).collect::<Vec<_>>();
        assert_eq!(
            found("\n[{\"a\":\n1},\n\n\"]\", [\n7]]"),
            [("{\"a\":\n1}", 2), ("\"]\"", 5), ("[\n7]", 5)]
        );
        assert_eq!(found("[1, 2, x, 3]"), [("1", 1), ("2", 1)]);
        assert_eq!(found("[]"), []);
        assert_eq!(found("7"), []);
    }
}
