//! The entities a decision reads, and no others.
//!
//! A portal's `entities.json` may hold a million entities; adding one entity to a Cedar store costs as much as the
//! store is large. So the stored ones live in a map of ours, and each decision gets a tiny store: what its policies'
//! conditions can reach from the question, and nothing else.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use cedar_policy::{Entities, Entity, EntityTypeName, EntityUid, EvalResult};
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::json;

/// One stored entity, its ancestors made transitive and direct.
#[derive(Debug)]
pub struct StoredEntity {
    /// With *all* ancestors as parents, so that it answers every `in` without its ancestors being in the store.
    pub entity: Entity,
    pub ancestors: Vec<EntityUid>,
}

/// Everything known about entities when a revision was built.
#[derive(Debug, Default)]
pub struct EntityStore {
    by_uid: FxHashMap<EntityUid, StoredEntity>,
    /// Types of the entities that stand below others; the rest need no look-up of ancestors.
    placed_types: FxHashSet<EntityTypeName>,
    /// Everything that a stored entity is below, stored itself or not.
    above: FxHashSet<EntityUid>,
}

/// A set of entities could not be put together (duplicate with different content, a cycle).
#[derive(Debug, thiserror::Error)]
#[error("entities do not fit together: {0}")]
pub struct EntitySetError(String);

impl EntityStore {
    /// Takes over a checked Cedar store; its ancestor relation is already transitive.
    pub fn new(entities: Entities) -> Result<Self, EntitySetError> {
        let mut ancestors: HashMap<EntityUid, Vec<EntityUid>> = HashMap::new();
        for entity in entities.iter() {
            let uid = entity.uid();
            let all = entities.ancestors(&uid).map(|a| a.cloned().collect()).unwrap_or_default();
            ancestors.insert(uid, all);
        }
        let mut by_uid = FxHashMap::default();
        let mut placed_types = FxHashSet::default();
        let mut above = FxHashSet::default();
        for entity in entities {
            let uid = entity.uid();
            let ancestors = ancestors.remove(&uid).unwrap_or_default();
            if !ancestors.is_empty() {
                placed_types.insert(uid.type_name().clone());
                above.extend(ancestors.iter().cloned());
            }
            let entity = with_parents(entity, ancestors.iter().cloned().collect())?;
            by_uid.insert(uid, StoredEntity { entity, ancestors });
        }
        Ok(Self {
            by_uid,
            placed_types,
            above,
        })
    }

    pub fn get(&self, uid: &EntityUid) -> Option<&StoredEntity> {
        self.by_uid.get(uid)
    }

    pub fn ancestors(&self, uid: &EntityUid) -> &[EntityUid] {
        self.by_uid.get(uid).map_or(&[], |stored| stored.ancestors.as_slice())
    }

    /// Whether any stored entity is below this one.
    pub fn is_above(&self, uid: &EntityUid) -> bool {
        self.above.contains(uid)
    }

    /// Whether any stored entity of this type is below another.
    pub fn places(&self, ty: &EntityTypeName) -> bool {
        self.placed_types.contains(ty)
    }
}

/// The entities reachable from `roots` over at most `hops` attribute look-ups.
///
/// A condition that nests `hops` look-ups cannot read past them, so the result is all it can see.
pub fn reachable<'a>(
    roots: impl IntoIterator<Item = EntityUid>,
    hops: usize,
    find: impl Fn(&EntityUid) -> Option<Cow<'a, Entity>>,
) -> Result<Entities, EntitySetError> {
    let mut seen: FxHashSet<EntityUid> = FxHashSet::default();
    let mut found: Vec<Entity> = Vec::new();
    let mut frontier: Vec<EntityUid> = roots.into_iter().collect();
    for hop in 0..hops {
        let mut next = Vec::new();
        for uid in frontier.drain(..) {
            let Some(entity) = find(&uid) else { continue };
            if !seen.insert(uid) {
                continue;
            }
            if hop + 1 < hops {
                push_references(&entity, &mut next);
            }
            found.push(entity.into_owned());
        }
        if next.is_empty() {
            break;
        }
        frontier = next;
    }
    Entities::from_entities(found, None).map_err(|e| EntitySetError(e.to_string()))
}

/// The same entity below other parents.
pub fn with_parents(entity: Entity, parents: HashSet<EntityUid>) -> Result<Entity, EntitySetError> {
    let uid = entity.uid();
    let fail = |e: &dyn std::fmt::Display| EntitySetError(format!("`{uid}`: {e}"));
    if entity.tags().next().is_none() {
        let (uid, attrs, _) = entity.into_inner();
        return Entity::new(uid, attrs, parents).map_err(|e| fail(&e));
    }
    // taking an entity apart loses its tags; its JSON form keeps them
    let mut json = entity.to_json_value().map_err(|e| fail(&e))?;
    let parents = parents
        .iter()
        .map(|p| json!({"type": p.type_name().to_string(), "id": p.id().unescaped()}));
    if let Some(object) = json.as_object_mut() {
        object.insert("parents".to_owned(), parents.collect());
    }
    Entity::from_json_value(json, None).map_err(|e| fail(&e))
}

fn push_references(entity: &Entity, into: &mut Vec<EntityUid>) {
    let attrs = entity.attrs().filter_map(|(_, v)| v.ok());
    let tags = entity.tags().filter_map(|(_, v)| v.ok());
    for value in attrs.chain(tags) {
        push_uids(&value, into);
    }
}

/// Every entity named inside a value.
pub fn push_uids(value: &EvalResult, into: &mut Vec<EntityUid>) {
    match value {
        EvalResult::EntityUid(uid) => into.push(uid.clone()),
        EvalResult::Set(set) => set.iter().for_each(|v| push_uids(v, into)),
        EvalResult::Record(record) => record.iter().for_each(|(_, v)| push_uids(v, into)),
        EvalResult::Bool(_) | EvalResult::Long(_) | EvalResult::String(_) | EvalResult::ExtensionValue(_) => {}
    }
}
