//! A message of Cedar about `entities.json` → a problem at its place in the file, with advice.
//!
//! Cedar names the entity and the attribute, and no place. The place is looked for only if there is a mistake.

use std::str::FromStr;

use cedar_policy::EntityUid;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;
use serde_json::Value;

use super::json_items::{JsonItem, items};
use crate::revision::problem::Problem;
use crate::schema::SchemaModel;

/// Beginnings of Cedar's messages that say only which part of Cedar found the mistake.
const FOUND_BY: [&str; 3] = [
    "error during entity deserialization: ",
    "entity does not conform to the schema: ",
    "transitive closure computation/enforcement error: ",
];
const EXAMPLE: &str = "an entity is `{ \"uid\": { \"type\": …, \"id\": … }, \"attrs\": {}, \"parents\": [] }`";

/// The members of an entity that this file reads.
#[derive(Deserialize)]
struct Named {
    uid: Value,
    #[serde(default)]
    parents: Vec<Value>,
}

pub(super) fn uid_of(item: &JsonItem<'_>) -> Option<EntityUid> {
    let named: Named = serde_json::from_str(item.text).ok()?;
    EntityUid::from_json(named.uid).ok()
}

/// The problem that Cedar's message is about.
pub(super) fn problem(name: &str, text: &str, model: &SchemaModel, message: &str) -> Problem {
    let short = FOUND_BY
        .iter()
        .fold(message, |text, start| text.strip_prefix(start).unwrap_or(text));
    let is_named = |item: &JsonItem<'_>| uid_of(item).is_some_and(|uid| short.contains(&format!("`{uid}`")));
    if let Some((line, column)) = position_in(short) {
        let is_no_list = short.starts_with("invalid type") && short.contains("expected a sequence") && line == 1;
        let message = match short.split(" at line ").next() {
            _ if is_no_list => "is no list of entities",
            message => message.unwrap_or(short),
        };
        let problem = Problem {
            // the reader names the place before the first byte 0
            column: Some(column.max(1)),
            ..Problem::new(name, message).at_line(Some(line))
        };
        let is_member = short.starts_with("missing field");
        return if is_member || is_no_list {
            problem.with_help(EXAMPLE)
        } else {
            problem
        };
    }
    if short.contains("input graph has a cycle") {
        return cycle(name, text, short);
    }
    let problem = Problem::new(name, short);
    let Some(item) = items(text).find(is_named) else {
        return problem;
    };
    let words = words(short);
    let quoted = words.iter().find_map(|word| {
        let quoted = format!("\"{word}\"");
        item.text.find(&quoted).map(|at| (at, quoted.len()))
    });
    let (offset, length) = quoted.unwrap_or((0, item.text.len()));
    let problem = item.place(name, problem, offset, length);
    match help(short, &words, uid_of(&item), model) {
        Some(help) => problem.with_help(help),
        None => problem,
    }
}

/// The names in a message that are no entities.
fn words(message: &str) -> Vec<&str> {
    let quoted = message.split('`').skip(1).step_by(2);
    quoted.filter(|word| !word.contains("::\"")).collect()
}

fn help(message: &str, words: &[&str], uid: Option<EntityUid>, model: &SchemaModel) -> Option<String> {
    let word = words.first()?;
    if message.contains("is not declared in the schema") {
        let types = model.entities().map(|(ty, _)| ty.to_string());
        return Some(format!("did you mean `{}`?", closest(word, types)?));
    }
    if message.contains("should not exist according to the schema") {
        let entity = model.entity(uid?.type_name())?;
        let attributes = entity.attrs.fields.keys().map(ToString::to_string);
        return Some(match closest(word, attributes) {
            Some(closest) => format!("did you mean `{closest}`?"),
            None => "the type declares no attribute".to_owned(),
        });
    }
    if message.contains("is not allowed to have an ancestor of type") {
        let ty = uid?.type_name().to_string();
        return Some(format!("remove the parent; the schema says what `{ty}` may be in"));
    }
    None
}

fn closest(word: &str, known: impl Iterator<Item = String>) -> Option<String> {
    known.max_by(|a, b| strsim::jaro_winkler(a, word).total_cmp(&strsim::jaro_winkler(b, word)))
}

/// An entity that is its own ancestor, with the parents in between; the place is its entry.
fn cycle(name: &str, text: &str, message: &str) -> Problem {
    let mut parents: FxHashMap<EntityUid, Vec<EntityUid>> = FxHashMap::default();
    let mut places: FxHashMap<EntityUid, JsonItem<'_>> = FxHashMap::default();
    for item in items(text) {
        let Ok(named) = serde_json::from_str::<Named>(item.text) else {
            continue;
        };
        let Ok(uid) = EntityUid::from_json(named.uid) else { continue };
        places.insert(uid.clone(), item);
        let above = named
            .parents
            .into_iter()
            .filter_map(|parent| EntityUid::from_json(parent).ok());
        parents.insert(uid, above.collect());
    }
    let named = message.split('`').nth(1).and_then(|uid| EntityUid::from_str(uid).ok());
    let Some(mut way) = named.and_then(|uid| way_back(&uid, &parents)) else {
        return Problem::new(name, message);
    };
    // Cedar names any of them: begin with the first of the file
    let first = way
        .iter()
        .enumerate()
        .min_by_key(|(_, uid)| places.get(uid).map(|item| item.begin));
    let first = first.map_or(0, |(at, _)| at);
    way.rotate_left(first);
    let shown: Vec<String> = way.iter().chain(way.first()).map(|uid| format!("`{uid}`")).collect();
    let problem = Problem::new(name, format!("the parents make a cycle: {}", shown.join(" in ")));
    let problem = match way.first().and_then(|uid| places.get(uid)) {
        Some(item) => item.place_whole(name, problem),
        None => problem,
    };
    problem.with_help("remove one of these parents")
}

/// The entities from one over its parents to one whose parent it is, by the shortest way.
fn way_back(from: &EntityUid, parents: &FxHashMap<EntityUid, Vec<EntityUid>>) -> Option<Vec<EntityUid>> {
    let mut ways = std::collections::VecDeque::from([vec![from.clone()]]);
    let mut seen = FxHashSet::default();
    while let Some(way) = ways.pop_front() {
        for parent in way.last().and_then(|last| parents.get(last)).into_iter().flatten() {
            if parent == from {
                return Some(way);
            }
            if seen.insert(parent.clone()) {
                ways.push_back(way.iter().chain([parent]).cloned().collect());
            }
        }
    }
    None
}

/// `… at line 3 column 5`, as the JSON parser puts it.
fn position_in(message: &str) -> Option<(usize, usize)> {
    let (_, rest) = message.split_once(" at line ")?;
    let mut numbers = rest
        .split(" column ")
        .map(|number| number.split(|c: char| !c.is_ascii_digit()).next());
    Some((numbers.next()??.parse().ok()?, numbers.next()??.parse().ok()?))
}
