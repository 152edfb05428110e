//! One query in the engine's terms: its entities, their keys, and the context that is built as far as conditions read
//! it.
//!
//! Doors and decision fill it; the engine reads it. Decides nothing.

use std::sync::{Arc, OnceLock};

use cedar_policy::{Context, EntityUid};
use rustc_hash::FxHashMap;

use crate::engine::dependencies::ContextDependencies;
use crate::engine::entities::ResolvedEntity;
use crate::engine::index::ScopeKey;
use crate::schema::TypeNames;

/// The policies that take part.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Effects {
    Both,
    /// Only forbids: for a routed request's plain path query.
    Forbids,
}

/// The principal or the resource of a query.
#[derive(Clone, Debug)]
pub struct QueryEntity {
    pub uid: EntityUid,
    pub key: ScopeKey,
    knowledge: Knowledge,
}

/// The knowledge about an entity beyond its name.
#[derive(Clone, Debug)]
enum Knowledge {
    /// The store's entity of that name, or none.
    Stored,
    /// An unstored path: no attributes, ancestors derived from its id when a condition reads them.
    Path(Arc<TypeNames>, OnceLock<ResolvedEntity>),
    Entity(ResolvedEntity),
}

/// Tells whether conditions read the ancestors of an entity.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ancestors {
    Read,
    Unread,
}

/// One query, in the engine's terms.
pub struct EntityQuery<'a> {
    pub principal: &'a QueryEntity,
    pub action: &'a EntityUid,
    pub resource: &'a QueryEntity,
    pub context: &'a dyn ContextSource,
    /// Entities that came with the query.
    pub supplied: &'a FxHashMap<EntityUid, ResolvedEntity>,
    pub effects: Effects,
}

/// Builds the context when, and as far as, conditions read it.
pub trait ContextSource {
    /// Fails only if a fact cannot be expressed as a Cedar value; then the query is denied.
    fn context(&self, reads: &ContextDependencies) -> Result<Context, String>;

    /// True if the context may hold entities.
    fn names_entities(&self) -> bool;

    /// Fields that policies may read and that nothing tells at this door. Their absence says nothing about the query,
    /// so a forbid that reads one cannot be evaluated.
    fn unknown(&self) -> &[String] {
        &[]
    }
}

impl QueryEntity {
    /// An entity by name; the store's entity of that name counts.
    pub fn stored(uid: EntityUid, key: ScopeKey) -> Self {
        Self {
            uid,
            key,
            knowledge: Knowledge::Stored,
        }
    }

    /// A path that the store does not hold.
    pub fn path(uid: EntityUid, key: ScopeKey, names: Arc<TypeNames>) -> Self {
        Self {
            uid,
            key,
            knowledge: Knowledge::Path(names, OnceLock::new()),
        }
    }

    /// An entity with its attributes and ancestors.
    pub fn resolved(known: ResolvedEntity, key: ScopeKey) -> Self {
        Self {
            uid: known.uid(),
            key,
            knowledge: Knowledge::Entity(known),
        }
    }

    /// The entity; without its ancestors if no condition reads them and they were not derived yet.
    pub fn entity(&self, ancestors: Ancestors) -> Option<ResolvedEntity> {
        match (&self.knowledge, ancestors) {
            (Knowledge::Stored, _) => None,
            (Knowledge::Path(..), Ancestors::Unread) => Some(ResolvedEntity::without_attributes(self.uid.clone(), [])),
            (Knowledge::Path(names, made), Ancestors::Read) => {
                let made =
                    made.get_or_init(|| ResolvedEntity::without_attributes(self.uid.clone(), names.parents_of_path(&self.uid)));
                Some(made.clone())
            }
            (Knowledge::Entity(known), _) => Some(known.clone()),
        }
    }
}
