//! Bounds the hierarchy of entities before Cedar works out which entity is in which.
//!
//! Cedar keeps every ancestor of every entity, and a chain of n entities has n²/2 of them: one megabyte of JSON could
//! take gigabytes and minutes. So the steps from each entity to each of its ancestors are counted first, and counting
//! stops at the limit. Names are read by Cedar's own reader; what it does not read, Cedar refuses with its own message
//! afterwards.

use cedar_policy::EntityUid;
use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::Value;

/// Steps in the entities of one query.
pub(crate) const QUERY_STEPS_MAX: usize = 100_000;
/// Steps in an `entities.json` of any size …
const FILE_STEPS: usize = 100_000;
/// … and further ones for each of them …
const STEPS_PER_ENTITY: usize = 16;
/// … up to this many.
const FILE_STEPS_MAX: usize = 5_000_000;

/// The hierarchy is too deep or too dense.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the entities have more than {max} ancestors together, each counted for each entity below it; nest them less deeply")]
pub struct HierarchyError {
    max: usize,
}

/// The members of an entity that say where it is.
#[derive(Deserialize)]
struct ParentMembers {
    uid: Value,
    #[serde(default)]
    parents: Vec<Value>,
}

/// Entities by number, each with the numbers of its parents.
#[derive(Default)]
struct Hierarchy {
    numbers: FxHashMap<EntityUid, usize>,
    parents: Vec<Vec<usize>>,
    /// The steps into each entity: what is in a path is in the path's parents, too.
    weights: Vec<usize>,
}

/// Checks the text of an `entities.json`.
pub(crate) fn check_file(text: &str) -> Result<(), HierarchyError> {
    // a text that is no list of entities is refused by Cedar
    let items: Vec<ParentMembers> = serde_json::from_str(text).unwrap_or_default();
    let more = items.len().saturating_mul(STEPS_PER_ENTITY);
    let max = FILE_STEPS.saturating_add(more).min(FILE_STEPS_MAX);
    Hierarchy::of(items).check(max)
}

/// Checks the entities of a query.
pub(crate) fn check_query(list: &Value) -> Result<(), HierarchyError> {
    let items = list.as_array().into_iter().flatten();
    let items = items.filter_map(|item| ParentMembers::deserialize(item).ok());
    Hierarchy::of(items).check(QUERY_STEPS_MAX)
}

impl Hierarchy {
    fn of(items: impl IntoIterator<Item = ParentMembers>) -> Self {
        let mut all = Self::default();
        for ParentMembers { uid, parents } in items {
            let Ok(uid) = EntityUid::from_json(uid) else { continue };
            if parents.is_empty() {
                continue;
            }
            let child = all.number(uid);
            for parent in parents {
                let Ok(parent) = EntityUid::from_json(parent) else { continue };
                let parent = all.number(parent);
                if let Some(known) = all.parents.get_mut(child) {
                    known.push(parent);
                }
            }
        }
        all
    }

    fn number(&mut self, uid: EntityUid) -> usize {
        let next = self.parents.len();
        let above = match uid.type_name().basename() {
            "Path" => uid.id().unescaped().matches('/').count(),
            _ => 0,
        };
        let number = *self.numbers.entry(uid).or_insert(next);
        if number == next {
            self.parents.push(Vec::new());
            self.weights.push(above.saturating_add(1));
        }
        number
    }

    /// Counts the steps from every entity upwards, at most `max`.
    fn check(&self, max: usize) -> Result<(), HierarchyError> {
        let mut steps = 0_usize;
        // the entity from which each entity was reached last
        let mut reached_from = vec![usize::MAX; self.parents.len()];
        let mut open = Vec::new();
        for start in 0..self.parents.len() {
            open.push(start);
            while let Some(entity) = open.pop() {
                let Some(parents) = self.parents.get(entity) else { continue };
                let weights = parents.iter().filter_map(|parent| self.weights.get(*parent));
                steps = weights.fold(steps, |steps, weight| steps.saturating_add(*weight));
                if steps > max {
                    return Err(HierarchyError { max });
                }
                for &parent in parents {
                    if let Some(from) = reached_from.get_mut(parent)
                        && *from != start
                    {
                        *from = start;
                        open.push(parent);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn uid(n: usize) -> Value {
        json!({"type": "Folder", "id": n.to_string()})
    }

    /// Each folder inside the next `width` ones.
    fn nested(count: usize, width: usize) -> Value {
        let item = |n: usize| {
            let parents: Vec<_> = (n + 1..=n + width).map(uid).collect();
            json!({"uid": uid(n), "attrs": {}, "parents": parents})
        };
        (0..count).map(item).collect()
    }

    #[test]
    fn a_deep_chain_and_a_dense_net_are_refused_and_wide_trees_are_not() {
        for (list, is_bounded) in [
            (nested(400, 1), true),
            (nested(500, 1), false),
            (nested(10_000, 1), false),
            (nested(60, 20), true),
            (nested(300, 30), false),
            // ten thousand documents, each directly in three folders
            (
                (0..10_000)
                    .map(|n| json!({"uid": uid(n), "attrs": {}, "parents": [uid(10_001), uid(10_002), uid(10_003)]}))
                    .collect(),
                true,
            ),
            // documents in a path: each is in the path's parents, too
            (
                (0..5_000)
                    .map(|n| json!({"uid": uid(n), "attrs": {}, "parents": [{"type": "Path", "id": "/a".repeat(100)}]}))
                    .collect(),
                false,
            ),
            // a circle: Cedar names it
            (json!([{"uid": uid(1), "attrs": {}, "parents": [uid(1)]}]), true),
        ] {
            assert_eq!(
                check_query(&list).is_ok(),
                is_bounded,
                "{} entities",
                list.as_array().unwrap().len()
            );
        }
    }

    #[test]
    fn the_escaped_form_of_a_name_counts_as_the_plain_one() {
        let item = |n: usize| json!({"uid": {"__entity": uid(n)}, "attrs": {}, "parents": [{"__entity": uid(n + 1)}]});
        let list: Value = (0..600)
            .map(|n| if n % 2 == 0 { item(n) } else { nested(n + 1, 1)[n].clone() })
            .collect();
        assert!(check_query(&list).is_err());
        assert!(check_file(&list.to_string()).is_err());
    }

    #[test]
    fn a_file_may_have_more_ancestors_the_more_entities_it_has() {
        assert!(check_file(&nested(400, 1).to_string()).is_ok());
        assert!(check_file(&nested(5_000, 1).to_string()).is_err());
        let tree: Value = (0..40_000)
            .map(|n| json!({"uid": uid(n + 1), "attrs": {}, "parents": [uid(n / 4)]}))
            .collect();
        assert!(check_file(&tree.to_string()).is_ok());
        assert!(check_query(&tree).is_err());
    }
}
