//! Refuses policy text that is nested or chained beyond reason, before anything recursive reads it.
//!
//! Cedar's parser and everything that walks its result recurse as deep as the text nests; a stack that overflows ends
//! the process, whoever wrote the text. A lexical scan is enough: strings and comments aside, only brackets and
//! operators can nest. The threads that load policies have the stack for what passes here (`app::STACK_BYTES`).

use super::problem::Problem;

/// Brackets inside brackets.
const DEPTH_MAX: usize = 100;
/// Operators and `if`s in one policy: a chain nests as deep as it is long.
const OPERATORS_MAX: usize = 4000;

/// Fails at the first place that goes too deep.
pub fn check(name: &str, text: &str) -> Result<(), Problem> {
    let (mut depth, mut operators) = (0_usize, 0_usize);
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((offset, byte)) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b'/' if bytes.peek().is_some_and(|(_, next)| *next == b'/') => skip_line(&mut bytes),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b';' => operators = 0,
            b'&' | b'|' | b'+' | b'-' | b'*' | b'!' | b'.' | b'<' | b'>' | b'=' => operators += 1,
            b'i' if text
                .get(offset..)
                .is_some_and(|rest| rest.starts_with("if ") || rest.starts_with("in ")) =>
            {
                operators += 1
            }
            _ => {}
        }
        if depth > DEPTH_MAX {
            let problem = Problem::new(name, format!("brackets nest deeper than {DEPTH_MAX}"));
            return Err(problem
                .at_offset(text, offset)
                .with_help("split the condition into several policies"));
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

type Bytes<'a> = std::iter::Peekable<std::iter::Enumerate<std::str::Bytes<'a>>>;

/// To the closing quote; an escaped one does not close.
fn skip_string(bytes: &mut Bytes<'_>) {
    while let Some((_, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'"' => return,
            _ => {}
        }
    }
}

fn skip_line(bytes: &mut Bytes<'_>) {
    for (_, byte) in bytes.by_ref() {
        if byte == b'\n' {
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
        assert_eq!(check("x.cedar", &deep).unwrap_err().line, Some(2));
        let chain = format!(
            "permit(principal, action, resource) when {{ {} true }};",
            "true || ".repeat(3000)
        );
        assert!(check("x.cedar", &chain).unwrap_err().message.contains("operators"));
    }

    #[test]
    fn strings_comments_and_many_policies_do_not_count() {
        let quoted = format!(
            "permit(principal == U::\"{}\\\"\", action, resource); // {}\n",
            "(".repeat(500),
            "[".repeat(500)
        );
        assert!(check("x.cedar", &quoted).is_ok());
        let many = "permit(principal, action, resource) when { 1 == 1 && 2 == 2 };\n".repeat(20_000);
        assert!(check("x.cedar", &many).is_ok());
    }
}
