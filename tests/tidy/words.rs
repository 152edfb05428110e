//! Comments in plain words: the component that acts is named.

use std::path::Path;

use crate::scan::{display, files, read, report};

/// Pronouns that hide who acts. A comment names the component instead: the gate, the worker, the client, Redis, the
/// caller.
const INDEFINITE: &[&str] = &[
    "anybody",
    "anyone",
    "everybody",
    "everyone",
    "nobody",
    "no one",
    "somebody",
    "someone",
    "whatever",
    "whoever",
    "whomever",
];
/// Words that open a riddle. A doc comment opens with a noun or a verb: "Returns …", "The key ring …", "True if …".
const RIDDLES: &[&str] = &[
    "For",
    "From what",
    "How",
    "In place of",
    "Of",
    "What",
    "When",
    "Where",
    "Whether",
    "Who",
    "Whom",
    "Whose",
    "Why",
];
/// Of a hundred doc comments, so many may open with one of them.
const RIDDLES_PERCENT_MAX: usize = 3;
/// Columns of a comment, as of a line of `docs/`.
const COLUMNS_MAX: usize = 120;

struct Comment {
    place: String,
    text: String,
    opens_docs: bool,
}

fn comments() -> Vec<Comment> {
    let mut found = Vec::new();
    for root in ["src", "crates", "benches", "tests"] {
        for file in files(Path::new(root)) {
            if file.extension().is_none_or(|e| e != "rs") || file.starts_with("tests/tidy") {
                continue;
            }
            let mut was_doc = false;
            for (number, line) in read(&display(&file)).lines().enumerate() {
                let words = line.trim_start();
                let is_doc = words.starts_with("///") || words.starts_with("//!");
                let comment = match line.find("//") {
                    Some(at) if is_doc || words.starts_with("//") || line[..at].ends_with(' ') => &line[at..],
                    _ => {
                        was_doc = false;
                        continue;
                    }
                };
                found.push(Comment {
                    place: format!("{}:{}", display(&file), number + 1),
                    text: comment.trim_start_matches(['/', '!']).trim().to_owned(),
                    opens_docs: is_doc && !was_doc,
                });
                was_doc = is_doc;
            }
        }
    }
    assert!(found.len() > 1000, "the scan found only {} comments", found.len());
    found
}

fn has_word(text: &str, word: &str) -> bool {
    let lower = text.to_lowercase();
    let is_letter = |c: Option<char>| c.is_some_and(char::is_alphabetic);
    lower
        .match_indices(word)
        .any(|(at, _)| !is_letter(lower[..at].chars().next_back()) && !is_letter(lower[at + word.len()..].chars().next()))
}

#[test]
fn comments_name_who_acts() {
    let found = comments();
    let findings: Vec<String> = found
        .iter()
        .filter_map(|comment| {
            let word = INDEFINITE.iter().find(|word| has_word(&comment.text, word))?;
            Some(format!("{}: `{word}`; name the component that acts", comment.place))
        })
        .collect();
    report(&findings);
}

#[test]
fn doc_comments_open_with_a_noun_or_a_verb() {
    let found = comments();
    let openings: Vec<&Comment> = found.iter().filter(|comment| comment.opens_docs).collect();
    let riddles: Vec<String> = openings
        .iter()
        .filter(|comment| {
            RIDDLES
                .iter()
                .any(|word| comment.text.strip_prefix(word).is_some_and(|rest| rest.starts_with(' ')))
        })
        .map(|comment| format!("{}: `{}`; open with a noun or a verb", comment.place, comment.text))
        .collect();
    if riddles.len() * 100 > openings.len() * RIDDLES_PERCENT_MAX {
        report(&riddles);
    }
}

#[test]
fn comments_wrap_at_120_columns() {
    let mut findings = Vec::new();
    for root in ["src", "crates", "benches", "tests"] {
        for file in files(Path::new(root)) {
            if file.extension().is_none_or(|e| e != "rs") {
                continue;
            }
            let text = read(&display(&file));
            let comments = text
                .lines()
                .enumerate()
                .filter(|(_, line)| line.trim_start().starts_with("//"));
            let long = comments.filter(|(_, line)| line.chars().count() > COLUMNS_MAX);
            findings.extend(long.map(|(number, _)| {
                let place = format!("{}:{}", display(&file), number + 1);
                format!("{place}: a comment beyond {COLUMNS_MAX} columns; wrap it")
            }));
        }
    }
    report(&findings);
}
