//! Advice for mistakes of syntax that people bring from other languages. Cedar's parser says which tokens fit, which
//! does not lead to the cause.

use miette::Diagnostic;

use crate::revision::problem::Problem;

/// The problem with advice, if Cedar gives none and the text at the place tells the cause.
pub(super) fn with_help(problem: Problem, text: &str, error: &dyn Diagnostic) -> Problem {
    let place = error.labels().and_then(|mut labels| labels.next());
    let help = place.and_then(|place| advice(text.get(..place.offset())?, text.get(place.offset()..)?));
    match help {
        Some(help) if problem.help.is_none() => problem.with_help(help),
        _ => problem,
    }
}

/// `before` ends where the mistake begins.
fn advice(before: &str, rest: &str) -> Option<&'static str> {
    let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    match (word.to_ascii_lowercase().as_str(), rest.chars().next()?) {
        ("and", _) => Some("write `&&`"),
        ("or", _) => Some("write `||`"),
        ("not", _) => Some("write `!`"),
        ("permit" | "forbid", _) if ends_policy(before) => Some(UNFINISHED),
        (_, '#') => Some("a comment begins with `//`"),
        (_, '\u{201c}' | '\u{201d}' | '\u{2018}' | '\u{2019}') => Some("write the straight quote `\"`"),
        (_, '(') => {
            // the parser took the word before the bracket for `when` or `unless`
            let before = before.trim_end();
            let policy = before.strip_suffix("permit").or_else(|| before.strip_suffix("forbid"))?;
            ends_policy(policy).then_some(UNFINISHED)
        }
        _ => None,
    }
}

const UNFINISHED: &str = "the policy before this one does not end with `;`";

fn ends_policy(before: &str) -> bool {
    before.trim_end().ends_with([')', '}'])
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use cedar_policy::PolicySet;

    use super::*;

    #[test]
    fn slips_of_other_languages_come_with_advice() {
        let head = "permit (principal, action, resource)";
        for (text, help) in [
            (format!("{head} when {{ 1 == 1 and true }};"), "write `&&`"),
            (format!("{head} when {{ 1 == 1 or true }};"), "write `||`"),
            (format!("{head}\n{head};"), UNFINISHED),
            (
                format!("{head} when {{ true }}\nforbid (principal, action, resource);"),
                UNFINISHED,
            ),
            (format!("# note\n{head};"), "a comment begins with `//`"),
            (
                "permit (principal == U::\u{201c}a\u{201d}, action, resource);".to_owned(),
                "write the straight quote `\"`",
            ),
        ] {
            let errors = PolicySet::from_str(&text).unwrap_err();
            let first = errors.iter().next().unwrap();
            let problem = with_help(Problem::from_diagnostic("x.cedar", &text, first), &text, first);
            assert_eq!(problem.help.as_deref(), Some(help), "{text}: {problem}");
        }
    }
}
