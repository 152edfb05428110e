//! The changes between two revisions of a portal: policies by their ids, and the other files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cedar_policy_formatter::{Config, policies_str_to_pretty};
use cedargate_policy::engine::PolicyEntry;
use cedargate_policy::revision::Revision;
use serde_json::Value;
use similar::{ChangeTag, TextDiff};

use super::sides::LoadedPortal;

/// Characters of a line of a formatted policy.
const LINE_WIDTH: usize = 100;
/// Details of one file that are named; the others are counted.
const DETAILS_MAX: usize = 20;
/// Unchanged lines around a changed one of a policy: all of it.
const WHOLE: usize = 100_000;
/// Unchanged lines around a changed one.
const CONTEXT_LINES: usize = 3;

/// A policy that is not the same on both sides.
pub(super) struct PolicyChange {
    pub id: String,
    pub kind: ChangeKind,
    /// File and line: of the new side, or of the old one if it is gone.
    pub place: String,
    pub lines: Vec<DiffLine>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ChangeKind {
    Added,
    Removed,
    Changed,
}

/// A line of a text diff.
pub(super) struct DiffLine {
    pub sign: char,
    pub text: String,
}

/// A file that holds no policies and is not the same on both sides.
pub(super) struct FileChange {
    pub name: String,
    pub kind: ChangeKind,
    /// The parts of it, as far as they have names.
    pub details: Vec<String>,
    pub lines: Vec<DiffLine>,
}

impl ChangeKind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

type ById<'a> = BTreeMap<&'a str, &'a Arc<PolicyEntry>>;

fn by_id(revision: &Revision) -> ById<'_> {
    let policies = revision.rules.engine.policies().iter();
    policies.map(|entry| (&*entry.info.id, entry)).collect()
}

/// Added, removed and changed policies, by id.
pub(super) fn policies(old: Option<&LoadedPortal>, new: Option<&LoadedPortal>) -> Vec<PolicyChange> {
    let before = old.map(|portal| by_id(&portal.revision)).unwrap_or_default();
    let after = new.map(|portal| by_id(&portal.revision)).unwrap_or_default();
    let ids: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
    let change = |id: &str| {
        let old = before.get(id).copied();
        let new = after.get(id).copied();
        let kind = match (old, new) {
            (Some(old), Some(new)) if is_same(old, new) => return None,
            (Some(_), Some(_)) => ChangeKind::Changed,
            (None, _) => ChangeKind::Added,
            (_, None) => ChangeKind::Removed,
        };
        let text = |entry: Option<&Arc<PolicyEntry>>| entry.map(|entry| formatted(entry)).unwrap_or_default();
        Some(PolicyChange {
            id: id.to_owned(),
            kind,
            place: new.or(old).map(|entry| entry.info.place.clone()).unwrap_or_default(),
            lines: lines(&text(old), &text(new), WHOLE),
        })
    };
    ids.into_iter().filter_map(change).collect()
}

fn is_same(old: &Arc<PolicyEntry>, new: &Arc<PolicyEntry>) -> bool {
    if old.is_same_reading(new) {
        return true;
    }
    let json = |entry: &Arc<PolicyEntry>| entry.policy().to_json().ok();
    old.info.effect == new.info.effect && json(old).is_some_and(|old| Some(old) == json(new))
}

/// The policy as `cedargate fmt` writes it, without comments.
pub(in crate::cli) fn formatted(entry: &PolicyEntry) -> String {
    let text = entry.policy().to_cedar().unwrap_or_else(|| entry.policy().to_string());
    let config = Config {
        line_width: LINE_WIDTH,
        indent_width: 4,
    };
    policies_str_to_pretty(&text, &config).unwrap_or(text).trim().to_owned()
}

/// The lines of a text diff, unchanged ones as far as they are near changed ones.
fn lines(old: &str, new: &str, context: usize) -> Vec<DiffLine> {
    let diff = TextDiff::from_lines(old, new);
    let mut lines = Vec::new();
    for (number, group) in diff.grouped_ops(context).iter().enumerate() {
        if number > 0 {
            lines.push(DiffLine {
                sign: ' ',
                text: "…".to_owned(),
            });
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            lines.push(DiffLine {
                sign: match change.tag() {
                    ChangeTag::Equal => ' ',
                    ChangeTag::Delete => '-',
                    ChangeTag::Insert => '+',
                },
                text: change.value().trim_end_matches(['\n', '\r']).to_owned(),
            });
        }
    }
    lines
}

/// Every other file that is not the same: schemas, `portal.yaml`, entities, links, invariants, decision tests.
pub(super) fn files(old: Option<&LoadedPortal>, new: Option<&LoadedPortal>) -> Vec<FileChange> {
    let before = old.map(LoadedPortal::files).unwrap_or_default();
    let after = new.map(LoadedPortal::files).unwrap_or_default();
    let names: BTreeSet<&String> = before.0.keys().chain(after.0.keys()).collect();
    let change = |name: &String| {
        if name.ends_with(".cedar") {
            return None;
        }
        let old = before.get(name);
        let new = after.get(name);
        let kind = match (old, new) {
            (Some(old), Some(new)) if old.hash == new.hash => return None,
            (Some(_), Some(_)) => ChangeKind::Changed,
            (None, _) => ChangeKind::Added,
            (_, None) => ChangeKind::Removed,
        };
        let text = |file: Option<&_>| {
            let file: Option<&cedargate_policy::revision::source::SourceFile> = file;
            file.and_then(|file| file.text(name).ok()).unwrap_or_default().to_owned()
        };
        let old = text(old);
        let new = text(new);
        let has_text = kind == ChangeKind::Changed && (name.ends_with(".cedarschema") || name.ends_with("invariants.yaml"));
        Some(FileChange {
            details: details(name, &old, &new),
            lines: if has_text {
                lines(&old, &new, CONTEXT_LINES)
            } else {
                Vec::new()
            },
            name: name.clone(),
            kind,
        })
    };
    names.into_iter().filter_map(change).collect()
}

/// The parts of a file that changed, by their names.
fn details(name: &str, old: &str, new: &str) -> Vec<String> {
    let (before, after) = match name.rsplit_once('/').map(|(_, file)| file) {
        Some("portal.yaml") => (portal_parts(old), portal_parts(new)),
        Some("entities.json") => (items(old, "uid"), items(new, "uid")),
        Some("links.json") => (items(old, "id"), items(new, "id")),
        _ => return Vec::new(),
    };
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut details: Vec<String> = keys
        .into_iter()
        .filter_map(|key| match (before.get(key), after.get(key)) {
            (Some(old), Some(new)) if old == new => None,
            (Some(_), Some(_)) => Some(format!("{key} changed")),
            (None, _) => Some(format!("{key} added")),
            (_, None) => Some(format!("{key} removed")),
        })
        .collect();
    if details.len() > DETAILS_MAX {
        let more = details.len() - DETAILS_MAX;
        details.truncate(DETAILS_MAX);
        details.push(format!("and {more} more"));
    }
    details
}

/// The keys of `portal.yaml`; routes and public paths one by one.
fn portal_parts(text: &str) -> BTreeMap<String, Value> {
    let parsed: Option<Value> = serde_saphyr::from_str(text).ok().flatten();
    let mut parts = BTreeMap::new();
    for (key, value) in parsed.as_ref().and_then(Value::as_object).into_iter().flatten() {
        match (key.as_str(), value.as_array()) {
            ("routes", Some(routes)) => parts.extend(routes.iter().map(|route| {
                let named = route.get("route").and_then(Value::as_str).unwrap_or_default();
                (format!("route `{named}`"), route.clone())
            })),
            ("public", Some(public)) => parts.extend(public.iter().map(|entry| {
                let named = entry.as_str().unwrap_or_default();
                (format!("public path `{named}`"), entry.clone())
            })),
            _ => drop(parts.insert(format!("`{key}`"), value.clone())),
        }
    }
    parts
}

/// The items of a JSON list, by one of their members.
fn items(text: &str, member: &str) -> BTreeMap<String, Value> {
    let parsed: Option<Value> = serde_json::from_str(text).ok();
    let list = parsed.as_ref().and_then(Value::as_array).into_iter().flatten();
    let name = |item: &Value| match item.get(member)? {
        Value::String(text) => Some(format!("`{text}`")),
        uid => {
            let uid = uid.get("__entity").unwrap_or(uid);
            Some(format!("`{}::{}`", uid.get("type")?.as_str()?, uid.get("id")?))
        }
    };
    list.filter_map(|item| Some((name(item)?, item.clone()))).collect()
}
