//! The last look before a text is given out: it says what the text before said, and nothing more than the sidecar's
//! parts.
//!
//! The edits are made to the text, so a layout that they were not made for could change a value that is not theirs.
//! Both texts are read again here, and every value is compared.

use std::collections::BTreeMap;

use super::tree::{Node, Shape, YamlDocument, parse};

/// The parts of fields that inject changes; every other field must be as before.
const CHANGED: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// Collections that may get content.
const MAY_BE_EMPTY: [&str; 6] = [
    "/initContainers/",
    "/containers/",
    "/volumes/",
    "/annotations/",
    "/metadata/",
    "/lifecycle/",
];

/// A value: the text of a scalar, or the mark of an empty collection.
type Leaves = BTreeMap<String, String>;

/// The first field that differs although inject may not change it. `None`: all is well.
pub(super) fn difference(before: &str, after: &str) -> Option<String> {
    let (Ok(before), Ok(after)) = (parse(before), parse(after)) else {
        return Some("the result is not YAML".to_owned());
    };
    if before.len() != after.len() {
        return Some("the number of documents".to_owned());
    }
    before.iter().zip(&after).find_map(|(before, after)| {
        let before = leaves(before);
        let after = leaves(after);
        let lost = before
            .iter()
            .find(|(path, value)| after.get(*path) != Some(value) && !may_change(path));
        // what is new lies in a part that is ours
        let added = after
            .keys()
            .find(|path| !before.contains_key(*path) && !may_change(path) && !is_ours(path, &before));
        lost.map(|(path, _)| path).or(added).cloned()
    })
}

fn may_change(path: &str) -> bool {
    let in_probe = CHANGED.iter().any(|probe| path.contains(&format!("/{probe}/")));
    let was_empty = MAY_BE_EMPTY.iter().any(|key| path.ends_with(key));
    let of_the_end = path.contains("/lifecycle/preStop/") || path.ends_with("/terminationGracePeriodSeconds");
    in_probe || was_empty || of_the_end || path.ends_with("/targetPort")
}

/// True for the record, and for what belongs to an item that was not there before.
fn is_ours(path: &str, before: &Leaves) -> bool {
    if path.ends_with("/metadata/annotations/cedargate.io~injected") {
        return true;
    }
    ["/initContainers/", "/containers/", "/volumes/"].iter().any(|list| {
        let Some((head, rest)) = path.split_once(list) else {
            return false;
        };
        let number = rest.split('/').next().unwrap_or_default();
        let item = format!("{head}{list}{number}");
        let is_of_item = |known: &String| {
            known
                .strip_prefix(&item)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        !before
            .range(item.clone()..)
            .take_while(|(known, _)| known.starts_with(&item))
            .any(|(known, _)| is_of_item(known))
    })
}

fn leaves(document: &YamlDocument) -> Leaves {
    let mut found = Leaves::new();
    visit(&document.root, String::new(), &mut found);
    found
}

fn visit(node: &Node, path: String, found: &mut Leaves) {
    match &node.shape {
        Shape::Scalar { text, is_plain } => {
            // a null may get content: the list or mapping that it stood for
            let path = if node.is_null() { format!("{path}/") } else { path };
            found.insert(path, format!("{is_plain} {text}"));
        }
        Shape::Alias(anchor) => {
            found.insert(path, format!("*{anchor}"));
        }
        Shape::List { items, .. } if items.is_empty() => {
            found.insert(format!("{path}/"), "[]".to_owned());
        }
        Shape::Map { entries, .. } if entries.is_empty() => {
            found.insert(format!("{path}/"), "{}".to_owned());
        }
        Shape::List { items, .. } => {
            for (n, item) in items.iter().enumerate() {
                visit(item, format!("{path}/{n}"), found);
            }
        }
        Shape::Map { entries, .. } => {
            for (n, entry) in entries.iter().enumerate() {
                let key = entry.name().map_or_else(|| format!("?{n}"), |name| name.replace('/', "~"));
                if entry.name().is_none() {
                    visit(&entry.key, format!("{path}/?{n}?"), found);
                }
                visit(&entry.value, format!("{path}/{key}"), found);
            }
        }
    }
}
