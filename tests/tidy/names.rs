//! One name for one type: a reader who searches a name finds the type, not six.

use std::collections::BTreeMap;

use crate::scan::{code_lines, report, sources};

/// Types of one name, over the gate and the policy crate. Two are a pair that meets nowhere: the configuration's
/// `Portal` and the running one.
const TYPES_OF_A_NAME_MAX: usize = 2;
/// Names that say which part of its file a type is, and that no other file imports.
const OF_EVERY_FILE: &[&str] = &["Args"];

#[test]
fn a_type_has_a_name_of_its_own() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in sources() {
        for (number, line) in code_lines(&file.text) {
            if let Some(name) = declared(line) {
                places
                    .entry(name.to_owned())
                    .or_default()
                    .push(format!("{}:{number}", file.name));
            }
        }
    }
    assert!(places.len() > 500, "the scan found only {} types", places.len());
    let several = places
        .iter()
        .filter(|(name, places)| places.len() > TYPES_OF_A_NAME_MAX && !OF_EVERY_FILE.contains(&name.as_str()));
    let findings: Vec<String> = several
        .map(|(name, places)| {
            format!(
                "{}: `{name}` names {} types; name each by its subject",
                places.join(", "),
                places.len()
            )
        })
        .collect();
    report(&findings);
}

/// The type that a line at the top level of a file declares.
fn declared(line: &str) -> Option<&str> {
    let mut words = line
        .split([' ', '<', '(', ';', '=', '{', ':'])
        .filter(|word| !word.is_empty());
    if line.starts_with(' ') {
        return None;
    }
    let mut word = words.next()?;
    while word.starts_with("pub") || word.ends_with(')') || word == "crate" || word == "in" || word == "super" {
        word = words.next()?;
    }
    let is_type = matches!(word, "struct" | "enum" | "trait" | "type");
    words.next().filter(|_| is_type)
}

#[test]
fn declarations_are_found() {
    assert_eq!(declared("pub(crate) struct Writers<T, const N: usize>(X);"), Some("Writers"));
    assert_eq!(declared("pub enum Format {"), Some("Format"));
    assert_eq!(declared("type Lines = X;"), Some("Lines"));
    assert_eq!(declared("pub(in crate::cli) struct Side {"), Some("Side"));
    assert_eq!(declared("    struct Inner;"), None);
    assert_eq!(declared("fn structure() {"), None);
}
