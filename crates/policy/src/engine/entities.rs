//! The entities that a decision reads: the stored ones, and the small Cedar store of each decision.
//!
//! A portal's `entities.json` may hold a million entities; adding one entity to a Cedar store costs as much as the
//! store is large. So a map of this file holds the stored entities, and each decision gets a small Cedar store that
//! holds only the entities that its policies' conditions can reach from the query.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::{Entities, Entity, EntityId, EntityTypeName, EntityUid, EvalResult};
use cedar_policy_core::ast::{self, Literal, PartialValue, Value, ValueKind};
use cedar_policy_core::entities::{Entities as CoreEntities, NoEntitiesSchema, TCComputation};
use cedar_policy_core::extensions::Extensions;
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::schema::TypeNames;

/// An entity as the evaluator takes it, with *all* its ancestors as parents: Cedar evaluates every `in` without its
/// ancestors in the store, and no decision computes the ancestor relation again.
#[derive(Clone, Debug)]
pub struct ResolvedEntity(Arc<ast::Entity>);

/// One stored entity, its ancestors made transitive and direct.
#[derive(Debug)]
pub struct StoredEntity {
    pub known: ResolvedEntity,
    pub ancestors: Vec<EntityUid>,
}

/// The entities of a revision, with all their ancestors.
#[derive(Debug, Default)]
pub struct EntityStore {
    by_uid: FxHashMap<EntityUid, StoredEntity>,
    /// Types of stored entities that have ancestors; entities of other types need no look-up.
    types_with_ancestors: FxHashSet<EntityTypeName>,
    /// Every ancestor of a stored entity, whether or not it is stored itself.
    above: FxHashSet<EntityUid>,
    /// The ids of a type in order, for searches. A search writes a type's list once and reads it for every page;
    /// another search of the same moment waits meanwhile.
    in_order: Mutex<FxHashMap<EntityTypeName, Arc<[EntityId]>>>,
}

/// Entities that come with one query.
pub type SuppliedEntities = FxHashMap<EntityUid, ResolvedEntity>;

/// A set of entities could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum EntitySetError {
    #[error("entities contradict each other: {0}")]
    Contradiction(String),
    #[error("`{0}` is no path that a request can have")]
    Path(EntityUid),
}

impl EntityStore {
    /// Takes over a checked Cedar store; its ancestor relation is already transitive, but Cedar does not know the
    /// parents that a path has by its id.
    pub fn new(entities: Entities, names: &TypeNames) -> Self {
        let mut ancestors: HashMap<EntityUid, Vec<EntityUid>> = HashMap::new();
        for entity in entities.iter() {
            let uid = entity.uid();
            ancestors.insert(uid.clone(), stored_ancestors(&entities, &uid, names));
        }
        let mut by_uid = FxHashMap::default();
        let mut types_with_ancestors = FxHashSet::default();
        let mut above = FxHashSet::default();
        for entity in entities {
            let uid = entity.uid();
            let ancestors = ancestors.remove(&uid).unwrap_or_default();
            if !ancestors.is_empty() {
                types_with_ancestors.insert(uid.type_name().clone());
                above.extend(ancestors.iter().cloned());
            }
            let known = ResolvedEntity::new(&entity).below(ancestors.iter().cloned());
            by_uid.insert(uid, StoredEntity { known, ancestors });
        }
        Self {
            by_uid,
            types_with_ancestors,
            above,
            in_order: Mutex::default(),
        }
    }

    pub fn get(&self, uid: &EntityUid) -> Option<&StoredEntity> {
        self.by_uid.get(uid)
    }

    /// Every stored entity and every ancestor of one.
    pub fn uids(&self) -> impl Iterator<Item = &EntityUid> {
        self.by_uid.keys().chain(&self.above)
    }

    /// The ids of all entities of one type that `uids` knows, in order.
    pub fn ids_in_order(&self, ty: &EntityTypeName) -> Arc<[EntityId]> {
        let mut in_order = self.in_order.lock();
        if let Some(ids) = in_order.get(ty) {
            return Arc::clone(ids);
        }
        let of_type = self.uids().filter(|uid| uid.type_name() == ty);
        let mut ids: Vec<EntityId> = of_type.map(|uid| uid.id().clone()).collect();
        ids.sort_unstable_by(|one, other| one.unescaped().cmp(other.unescaped()));
        ids.dedup();
        let ids: Arc<[EntityId]> = ids.into();
        in_order.insert(ty.clone(), Arc::clone(&ids));
        ids
    }

    pub fn ancestors(&self, uid: &EntityUid) -> &[EntityUid] {
        self.by_uid.get(uid).map_or(&[], |stored| stored.ancestors.as_slice())
    }

    /// The stored entities of one type, by each entity that they are below.
    pub fn members(&self, ty: Option<&EntityTypeName>) -> FxHashMap<EntityUid, Vec<EntityUid>> {
        let mut members: FxHashMap<EntityUid, Vec<EntityUid>> = FxHashMap::default();
        let Some(ty) = ty.filter(|ty| self.has_ancestors(ty)) else {
            return members;
        };
        for (uid, stored) in self.by_uid.iter().filter(|(uid, _)| uid.type_name() == ty) {
            for above in &stored.ancestors {
                members.entry(above.clone()).or_default().push(uid.clone());
            }
        }
        members
    }

    /// These entities and all that they are below, each once: their stored ancestors, and the parents of each path.
    pub fn with_ancestors(&self, direct: Vec<EntityUid>, names: &TypeNames) -> Vec<EntityUid> {
        let mut all = direct;
        let paths = all.iter().filter(|uid| names.is_path(uid));
        let parents: Vec<EntityUid> = paths.flat_map(|path| names.parents_of_path(path)).collect();
        all.extend(parents);
        let above: Vec<EntityUid> = all.iter().flat_map(|uid| self.ancestors(uid)).cloned().collect();
        all.extend(above);
        all.sort();
        all.dedup();
        all
    }

    /// True if any stored entity is below this one.
    pub fn is_above(&self, uid: &EntityUid) -> bool {
        self.above.contains(uid)
    }

    /// True if any stored entity of this type is below another.
    pub fn has_ancestors(&self, ty: &EntityTypeName) -> bool {
        self.types_with_ancestors.contains(ty)
    }
}

/// All that a stored entity is below. SECURITY: what a file puts below `/a/b` is below `/a`, too; else a forbid on `/a`
/// would not hold for it.
fn stored_ancestors(entities: &Entities, uid: &EntityUid, names: &TypeNames) -> Vec<EntityUid> {
    let above = |uid: &EntityUid| entities.ancestors(uid).into_iter().flatten().cloned();
    let mut all: FxHashSet<EntityUid> = above(uid).collect();
    let mut open: Vec<EntityUid> = all.iter().filter(|uid| names.is_path(uid)).cloned().collect();
    while let Some(path) = open.pop() {
        for parent in names.parents_of_path(&path) {
            let further: Vec<EntityUid> = above(&parent).collect();
            all.insert(parent);
            let new = further.into_iter().filter(|uid| all.insert(uid.clone()));
            open.extend(new.filter(|uid| names.is_path(uid)));
        }
    }
    all.remove(uid);
    all.into_iter().collect()
}

impl ResolvedEntity {
    /// Takes an entity that has all its ancestors as parents.
    pub fn new(entity: &Entity) -> Self {
        Self(Arc::new(entity.as_ref().clone()))
    }

    /// An entity without attributes, below these ancestors.
    pub fn without_attributes(uid: EntityUid, ancestors: impl IntoIterator<Item = EntityUid>) -> Self {
        Self::with(uid, [], ancestors)
    }

    /// An entity with these attributes, below these ancestors.
    pub fn with(
        uid: EntityUid,
        attrs: impl IntoIterator<Item = (String, Value)>,
        ancestors: impl IntoIterator<Item = EntityUid>,
    ) -> Self {
        let attrs = attrs
            .into_iter()
            .map(|(name, value)| (name.into(), PartialValue::Value(value)));
        let parents = ancestors.into_iter().map(ast::EntityUID::from).collect();
        Self(Arc::new(ast::Entity::new_with_attr_partial_value(
            uid.into(),
            attrs,
            HashSet::new(),
            parents,
            [],
        )))
    }

    pub fn attr(&self, name: &str) -> Option<&Value> {
        match self.0.get(name)? {
            PartialValue::Value(value) => Some(value),
            PartialValue::Residual(_) => None,
        }
    }

    /// The same entity below other ancestors.
    pub fn below(&self, ancestors: impl IntoIterator<Item = EntityUid>) -> Self {
        let owned = |(name, value): (&_, &PartialValue)| (Clone::clone(name), value.clone());
        Self(Arc::new(ast::Entity::new_with_attr_partial_value(
            self.0.uid().clone(),
            self.0.attrs().map(owned),
            HashSet::new(),
            ancestors.into_iter().map(ast::EntityUID::from).collect(),
            self.0.tags().map(owned),
        )))
    }

    pub fn uid(&self) -> EntityUid {
        self.0.uid().clone().into()
    }

    pub fn ancestors(&self) -> Vec<EntityUid> {
        self.0.ancestors().map(|uid| uid.clone().into()).collect()
    }

    /// As Cedar's public interface has it; a copy.
    pub fn entity(&self) -> Entity {
        ast::Entity::clone(&self.0).into()
    }

    /// Every entity that its attributes name.
    pub fn references(&self) -> Vec<EntityUid> {
        let mut named = Vec::new();
        self.push_references(&mut named);
        named
    }

    fn push_references(&self, into: &mut Vec<EntityUid>) {
        for (_, value) in self.0.attrs().chain(self.0.tags()) {
            if let PartialValue::Value(value) = value {
                push_named(value, into);
            }
        }
    }
}

/// The entities reachable from `roots` over at most `hops` attribute look-ups.
///
/// A condition that nests `hops` look-ups cannot read past them, so the result is all it can see.
pub fn reachable(
    roots: impl IntoIterator<Item = EntityUid>,
    hops: usize,
    find: impl Fn(&EntityUid) -> Result<Option<ResolvedEntity>, EntitySetError>,
) -> Result<Entities, EntitySetError> {
    let mut found: Vec<ResolvedEntity> = Vec::new();
    let mut frontier: Vec<EntityUid> = roots.into_iter().collect();
    let mut seen: FxHashSet<EntityUid> = FxHashSet::default();
    for hop in 0..hops {
        let mut next = Vec::new();
        for uid in frontier.drain(..) {
            let Some(known) = find(&uid)? else { continue };
            if !seen.insert(uid) {
                continue;
            }
            if hop + 1 < hops {
                known.push_references(&mut next);
            }
            found.push(known);
        }
        if next.is_empty() {
            break;
        }
        frontier = next;
    }
    let found = found.into_iter().map(|known| known.0);
    // each has all its ancestors; working them out again costs tens of microseconds
    let complete = TCComputation::AssumeAlreadyComputed;
    CoreEntities::new()
        .add_entities(found, None::<&NoEntitiesSchema>, complete, Extensions::all_available())
        .map(Entities::from)
        .map_err(|e| EntitySetError::Contradiction(e.to_string()))
}

/// Every entity named inside a value of an entity.
fn push_named(value: &Value, into: &mut Vec<EntityUid>) {
    match value.value_kind() {
        ValueKind::Lit(Literal::EntityUID(uid)) => into.push(ast::EntityUID::clone(uid).into()),
        ValueKind::Lit(_) | ValueKind::ExtensionValue(_) => {}
        ValueKind::Set(set) => set.iter().for_each(|value| push_named(value, into)),
        ValueKind::Record(record) => record.values().for_each(|value| push_named(value, into)),
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
