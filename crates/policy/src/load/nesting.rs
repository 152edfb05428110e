//! Refuses policy text that is nested or chained beyond reason, before anything recursive reads it.
//!
//! Cedar's parser and everything that walks its result recurse as deep as the text nests; a stack that overflows ends
//! the process, for any text. A lexical scan is enough: strings and comments aside, only brackets and
//! operators can nest. The threads that load policies have the stack for what passes here (`app::STACK_BYTES`).

use crate::revision::problem::Problem;

/// Brackets inside brackets.
const DEPTH_MAX: usize = 100;
/// Operators and `if`s in one policy: a chain nests as deep as it is long.
const OPERATORS_MAX: usize = 4000;

/// Bytes of one policy, or of one declaration of a schema. Cedar needs a second for some megabytes.
const STATEMENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What the text is; in a schema `<` and `>` are brackets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Syntax {
    Policies,
    Schema,
}

/// Fails at the first place that is nested too deep.
pub fn check(name: &str, text: &str, syntax: Syntax) -> Result<(), Problem> {
    let mut depth = 0_usize;
    let mut operators = 0_usize;
    let mut start = 0_usize;
    let mut chars = text.char_indices().peekable();
    while let Some((offset, char)) = chars.next() {
        match char {
            '"' => skip_string(&mut chars),
            '/' if chars.peek().is_some_and(|(_, next)| *next == '/') => skip_line(&mut chars),
            '<' if syntax == Syntax::Schema => depth += 1,
            '>' if syntax == Syntax::Schema => depth = depth.saturating_sub(1),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ';' => {
                operators = 0;
                start = offset;
            }
            '&' | '|' | '+' | '-' | '*' | '!' | '.' | '<' | '>' | '=' => operators += 1,
            'i' if text
                .get(offset..)
                .is_some_and(|rest| rest.starts_with("if ") || rest.starts_with("in ")) =>
            {
                operators += 1
            }
            _ => {}
        }
        // the character after a long text or comment is behind all of it
        if offset - start > STATEMENT_BYTES_MAX {
            return Err(too_long(name, text, start, syntax));
        }
        if depth > DEPTH_MAX {
            let problem = Problem::new(name, format!("brackets nest deeper than {DEPTH_MAX}"));
            return Err(problem.at_offset(text, offset).with_help(match syntax {
                Syntax::Policies => "split the condition into several policies",
                Syntax::Schema => "give the inner types names: `type Inner = …;`",
            }));
        }
        if operators > OPERATORS_MAX {
            let problem = Problem::new(name, format!("a policy has more than {OPERATORS_MAX} operators"));
            return Err(problem
                .at_offset(text, offset)
                .with_help("use a set and `contains`, or split the policy"));
        }
    }
    Ok(())
}

fn too_long(name: &str, text: &str, start: usize, syntax: Syntax) -> Problem {
    let what = match syntax {
        Syntax::Policies => "a policy",
        Syntax::Schema => "a declaration",
    };
    let message = format!("{what} is longer than {} MiB", STATEMENT_BYTES_MAX >> 20);
    // behind the end of the statement before it
    let rest = text.get(start..).unwrap_or_default();
    let blank = rest.len() - rest.trim_start_matches([';', ' ', '\t', '\r', '\n']).len();
    let problem = Problem::new(name, message).at_offset(text, start + blank);
    match syntax {
        Syntax::Policies => problem.with_help("values that many policies compare with belong into entities.json"),
        Syntax::Schema => problem,
    }
}

type Chars<'a> = std::iter::Peekable<std::str::CharIndices<'a>>;

/// Skips to the closing quote; an escaped one does not close.
pub(super) fn skip_string(chars: &mut Chars<'_>) {
    while let Some((_, char)) = chars.next() {
        match char {
            '\\' => drop(chars.next()),
            '"' => return,
            _ => {}
        }
    }
}

/// SECURITY: a lone carriage return ends a comment for Cedar; the checks must see the text after it.
pub(super) fn skip_line(chars: &mut Chars<'_>) {
    for (_, char) in chars.by_ref() {
        if char == '\n' || char == '\r' {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_and_long_texts_are_refused_with_their_place() {
        let deep = format!(
            "permit(principal, action, resource)\nwhen {{ {}true{} }};",
            "(".repeat(200),
            ")".repeat(200)
        );
        assert_eq!(check("x.cedar", &deep, Syntax::Policies).unwrap_err().line, Some(2));
        let chain = format!(
            "permit(principal, action, resource) when {{ {} true }};",
            "true || ".repeat(3000)
        );
        assert!(
            check("x.cedar", &chain, Syntax::Policies)
                .unwrap_err()
                .message
                .contains("operators")
        );
    }

    #[test]
    fn a_policy_of_many_megabytes_is_refused_at_its_start() {
        let long = |bytes: usize| {
            format!(
                "permit (principal, action, resource);\n\npermit (principal, action, resource) when {{ \"{}\" == \"\" }};\n",
                "a".repeat(bytes)
            )
        };
        let problem = check("x.cedar", &long(STATEMENT_BYTES_MAX), Syntax::Policies).unwrap_err();
        assert_eq!(
            (problem.message.as_str(), problem.line),
            ("a policy is longer than 4 MiB", Some(3))
        );
        assert!(check("x.cedar", &long(STATEMENT_BYTES_MAX - 1000), Syntax::Policies).is_ok());
        // an end is missing: what follows is one statement
        assert!(check("x.cedar", &"}".repeat(STATEMENT_BYTES_MAX + 2), Syntax::Policies).is_err());
        // many policies are long together
        let many = "permit (principal, action, resource);\n".repeat(STATEMENT_BYTES_MAX / 30);
        assert!(many.len() > STATEMENT_BYTES_MAX && check("x.cedar", &many, Syntax::Policies).is_ok());
    }

    #[test]
    fn a_comment_hides_nothing_that_cedar_reads() {
        let deep = format!(
            "// note\rpermit(principal, action, resource) when {{ {}true{} }};",
            "(".repeat(200),
            ")".repeat(200)
        );
        assert!(check("x.cedar", &deep, Syntax::Policies).is_err());
    }

    #[test]
    fn strings_comments_and_many_policies_do_not_count() {
        let quoted = format!(
            "permit(principal == U::\"{}\\\"\", action, resource); // {}\n",
            "(".repeat(500),
            "[".repeat(500)
        );
        assert!(check("x.cedar", &quoted, Syntax::Policies).is_ok());
        let many = "permit(principal, action, resource) when { 1 == 1 && 2 == 2 };\n".repeat(20_000);
        assert!(check("x.cedar", &many, Syntax::Policies).is_ok());
    }

    #[test]
    fn a_schema_may_nest_angle_brackets_no_deeper() {
        let sets = |depth: usize| format!("entity E {{ a: {}Long{} }};", "Set<".repeat(depth), ">".repeat(depth));
        assert!(check("s", &sets(99), Syntax::Schema).is_ok());
        assert!(check("s", &sets(100), Syntax::Schema).is_err());
        let records = format!("entity E {{ a: {}Long{} }};", "{ a: ".repeat(100), "}".repeat(100));
        assert!(check("s", &records, Syntax::Schema).is_err());
    }
}
