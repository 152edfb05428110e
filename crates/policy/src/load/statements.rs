//! Cuts policy text into its statements, so that the cost of an edit depends on the changed statements, not on the size
//! of the file.
//!
//! In Cedar `;` ends a policy and occurs nowhere else but in strings and comments. Cedar decides whether a statement is
//! a policy; a text that does not end with a statement is not cut.
//!
//! Two readers could disagree about the end of a statement: this one, and Cedar's parser. So Cedar parses every piece,
//! and a piece that is not exactly one policy or template refuses the whole file: a wrong cut loses no policy. A piece
//! whose text was read before takes the known result over, and with it all that was prepared for the policy
//! (docs/decisions/0017). One without `@id` is known only under the same number, because its id counts statements.

use super::nesting::{skip_line, skip_string};

/// One statement, from its first word to its `;`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Statement<'a> {
    pub text: &'a str,
    /// Bytes before the statement.
    pub offset: usize,
    /// First line, from 1.
    pub line: usize,
    /// In bytes, from 1.
    pub column: usize,
}

/// All statements in order; `None` if anything but space and comments follows the last.
pub fn split(text: &str) -> Option<Vec<Statement<'_>>> {
    let mut all = Vec::new();
    let mut cursor = Cursor::default();
    let mut start = None;
    let mut chars = text.char_indices().peekable();
    while let Some((offset, char)) = chars.next() {
        match char {
            '/' if chars.peek().is_some_and(|(_, next)| *next == '/') => skip_line(&mut chars),
            '"' => {
                start.get_or_insert(offset);
                skip_string(&mut chars);
            }
            ';' => {
                let from = start.take().unwrap_or(offset);
                cursor.advance(text, from);
                all.push(Statement {
                    text: text.get(from..=offset)?,
                    offset: from,
                    line: cursor.line + 1,
                    column: from - cursor.line_start + 1,
                });
            }
            _ if char.is_whitespace() => {}
            _ => {
                start.get_or_insert(offset);
            }
        }
    }
    start.is_none().then_some(all)
}

/// The bytes before `needle` in a statement; strings and comments do not count, unless it begins with one.
pub fn find(text: &str, needle: &str) -> Option<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut before = ' ';
    let mut chars = text.char_indices().peekable();
    while let Some((offset, char)) = chars.next() {
        let rest = text.get(offset..)?;
        let is_inside_word = is_word(before) && needle.starts_with(is_word);
        if rest.starts_with(needle) && !is_inside_word {
            return Some(offset);
        }
        before = char;
        match char {
            '/' if chars.peek().is_some_and(|(_, next)| *next == '/') => skip_line(&mut chars),
            '"' => skip_string(&mut chars),
            _ => {}
        }
    }
    None
}

/// Counts lines in one pass for all statements.
#[derive(Default)]
struct Cursor {
    offset: usize,
    line: usize,
    line_start: usize,
}

impl Cursor {
    fn advance(&mut self, text: &str, to: usize) {
        let passed = text.as_bytes().get(self.offset..to).unwrap_or_default();
        for (distance, byte) in passed.iter().enumerate() {
            if *byte == b'\n' {
                self.line += 1;
                self.line_start = self.offset + distance + 1;
            }
        }
        self.offset = to;
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use cedar_policy::PolicySet;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_found_outside_of_strings_and_comments() {
        let text = "@advice(\"permit\") // permit\nunpermit permit (principal == R::\"a\")";
        assert_eq!(find(text, "permit"), text.rfind("permit"));
        assert_eq!(find(text, "R::\"a\""), text.find("R::"));
        assert_eq!((find(text, "a\""), find(text, "@advice")), (None, Some(0)));
    }
    use crate::revision::problem::position;

    #[test]
    fn strings_and_comments_end_no_statement() {
        let text = "// a; b\n@advice(\"x;\\\";\") permit(principal, // ;\n action, resource);\n\n  forbid(principal, action, resource); // end;";
        let all = split(text).unwrap();
        assert_eq!(all.len(), 2);
        assert!(all[0].text.starts_with("@advice") && all[0].text.ends_with("resource);"));
        assert_eq!((all[1].line, all[1].column), (5, 3));
        assert!(split("permit(principal, action, resource)").is_none());
        assert_eq!(split(" \n// nothing\r\n\u{a0}"), Some(Vec::new()));
    }

    #[test]
    fn a_comment_ends_where_it_ends_for_cedar() {
        let text = "// a\rpermit(principal, action, resource);";
        assert_eq!(PolicySet::from_str(text).unwrap().num_of_policies(), 1);
        assert_eq!(split(text).unwrap().len(), 1);
    }

    /// The policies that Cedar reads from the pieces; `None` if it refuses one.
    fn pieces(text: &str) -> Option<Vec<String>> {
        let mut found = Vec::new();
        for statement in split(text)? {
            let position = position(text, statement.offset);
            assert_eq!((statement.line, statement.column), (position.line, position.column));
            let set = PolicySet::from_str(statement.text).ok()?;
            found.extend(set.policies().map(ToString::to_string));
            found.extend(set.templates().map(ToString::to_string));
        }
        Some(found)
    }

    fn whole(text: &str) -> Option<Vec<String>> {
        let set = PolicySet::from_str(text).ok()?;
        let number = |id: &cedar_policy::PolicyId| id.to_string().trim_start_matches("policy").parse::<usize>().unwrap();
        let mut all: Vec<_> = set.policies().map(|p| (number(p.id()), p.to_string())).collect();
        all.extend(set.templates().map(|t| (number(t.id()), t.to_string())));
        all.sort();
        Some(all.into_iter().map(|(_, text)| text).collect())
    }

    proptest! {
        #[test]
        fn the_statements_are_those_that_cedar_reads_in_the_whole_text(parts in prop::collection::vec(prop::sample::select(vec![
            "permit(principal, action, resource);", "forbid(principal == ?principal, action, resource);", "@id(\"a;b\")",
            "permit(principal, action, resource) when { \"x\\\";\" == \"\n;//\" };", "// note;\n", "// odd\r", "\"", ";", "//", "\n",
            "\u{a0}", "\u{b}", " ", "permit", "\\", "when { 1 == 1 }", "é", "/",
        ]), 0..8)) {
            let text = parts.concat();
            prop_assert_eq!(pieces(&text), whole(&text), "{:?}", text);
        }
    }
}
