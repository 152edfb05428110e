//! Entities, principals and resources that come with a named query.
//!
//! A stored entity replaces a sent one of the same name. The app may not define the principal of a token, actions,
//! roles, tenants or portals. Every entity is checked against the schema.

use cedar_policy::{Entities, EntityUid};
use rustc_hash::FxHashMap;
use serde_json::{Value, json};

use crate::engine::QueryEntity;
use crate::engine::entities::ResolvedEntity;
use crate::engine::entities::SuppliedEntities;
use crate::error_chain::json_error;
use crate::hierarchy::{self, HierarchyError};
use crate::rules::Rules;

/// Most entities in one query.
const ENTITIES_MAX: usize = 10_000;

/// The reason why sent entities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SuppliedError {
    #[error("{0}")]
    Entities(String),
    #[error("`{0}` cannot be supplied: the app may not define actions, roles, tenants, portals and the token's principal")]
    Reserved(String),
    #[error("`{0}` cannot be given parents: stored entities are below it; name its parents in entities.json")]
    Above(String),
    #[error("`{0}` cannot be given parents: the parents of a path follow from its id")]
    Path(String),
    #[error("`{0}` is no path that a request can have")]
    NoPath(String),
    #[error("`{name}` is described twice, at {first} and at {second}; describe it once")]
    Twice { name: String, first: usize, second: usize },
    #[error("more than {ENTITIES_MAX} entities")]
    TooMany,
    #[error(transparent)]
    TooDeep(#[from] HierarchyError),
}

impl Rules {
    /// `list` is Cedar's entity JSON. `reserved` is the principal of a credential, if there is one.
    pub fn supplied_entities(&self, list: &Value, reserved: Option<&EntityUid>) -> Result<SuppliedEntities, SuppliedError> {
        if list.as_array().is_some_and(Vec::is_empty) {
            return Ok(SuppliedEntities::default());
        }
        if list.as_array().is_some_and(|l| l.len() > ENTITIES_MAX) {
            return Err(SuppliedError::TooMany);
        }
        hierarchy::check_query(list)?;
        let mut parsed = self.parse(list.clone())?;
        if parsed.iter().any(|e| self.is_known(&e.uid())) {
            // a stored entity counts as the store has it, also as a parent of a sent one
            self.refuse_reserved(&parsed, list, reserved)?;
            parsed = self.parse(self.without_known(list))?;
        }
        self.refuse_reserved(&parsed, list, reserved)?;
        let mut supplied = SuppliedEntities::default();
        for entity in parsed.iter() {
            let uid = entity.uid();
            if self.schema.action(&uid).is_none() && !self.is_known(&uid) {
                let above: Vec<EntityUid> = parsed.ancestors(&uid).map(|a| a.cloned().collect()).unwrap_or_default();
                if !above.is_empty() && self.is_path(&uid) {
                    return Err(SuppliedError::Path(uid.to_string()));
                }
                if !above.is_empty() && self.engine.store.is_above(&uid) {
                    return Err(SuppliedError::Above(uid.to_string()));
                }
                let entity = ResolvedEntity::new(entity);
                let named = above.iter().cloned().chain(entity.references());
                if let Some(path) = named.into_iter().find(|named| self.names.is_no_path(named)) {
                    return Err(SuppliedError::NoPath(path.to_string()));
                }
                supplied.insert(uid, entity.below(self.with_stored_ancestors(above)));
            }
        }
        Ok(supplied)
    }

    fn parse(&self, list: Value) -> Result<Entities, SuppliedError> {
        Entities::from_json_value(list, Some(&self.schema.cedar)).map_err(|e| SuppliedError::Entities(json_error(&e)))
    }

    /// True if the store holds it; the declared actions, which every list gets from the schema, do not count.
    fn is_known(&self, uid: &EntityUid) -> bool {
        self.schema.action(uid).is_none() && self.engine.store.get(uid).is_some()
    }

    fn without_known(&self, list: &Value) -> Value {
        let items = list.as_array().into_iter().flatten();
        items
            .filter(|item| named(item).is_none_or(|uid| !self.is_known(&uid)))
            .cloned()
            .collect()
    }

    fn refuse_reserved(&self, parsed: &Entities, list: &Value, reserved: Option<&EntityUid>) -> Result<(), SuppliedError> {
        for entity in parsed.iter() {
            let uid = entity.uid();
            // checking against the schema adds the declared actions by itself
            let added = self.schema.action(&uid).is_some() && !names_entity(list, &uid);
            if !added && (reserved == Some(&uid) || self.is_reserved(&uid)) {
                return Err(SuppliedError::Reserved(uid.to_string()));
            }
        }
        Ok(())
    }

    pub(super) fn is_reserved(&self, uid: &EntityUid) -> bool {
        let ty = uid.type_name();
        let names = &self.names;
        let portal = names.portal.as_ref().map(EntityUid::type_name);
        [names.role.as_ref(), names.tenant.as_ref(), portal]
            .into_iter()
            .flatten()
            .any(|t| t == ty)
            || ty.basename() == "Action"
    }

    /// A principal that the app names, with `attrs` and `parents` if it gives them.
    ///
    /// A stored entity of that name counts alone.
    pub fn named_principal(&self, uid: EntityUid, supplied: &SuppliedEntities) -> QueryEntity {
        if let Some(known) = supplied.get(&uid) {
            let key = self.engine.index().principals.key(&uid, &known.ancestors());
            return QueryEntity::resolved(known.clone(), key);
        }
        let key = self.engine.index().principals.key(&uid, self.engine.store.ancestors(&uid));
        QueryEntity::stored(uid, key)
    }

    /// A resource that the app names; the ancestors of a path come from its id alone.
    pub fn named_resource(&self, uid: EntityUid, supplied: &SuppliedEntities) -> QueryEntity {
        let sent = supplied.get(&uid).filter(|_| self.engine.store.get(&uid).is_none());
        let Some(known) = sent else { return self.resource(uid) };
        let above = if self.is_path(&uid) {
            self.path_ancestors(&uid)
        } else {
            known.ancestors()
        };
        let key = self.engine.index().resources.key(&uid, &above);
        QueryEntity::resolved(known.below(above), key)
    }
}

/// A named entity with its own attributes and parents, as an item of Cedar's entity JSON.
pub fn entity_item(uid: &EntityUid, attrs: &Value, parents: &Value) -> Value {
    json!({"uid": {"type": uid.type_name().to_string(), "id": uid.id().unescaped()}, "attrs": attrs, "parents": parents})
}

/// Refuses a list that describes an entity twice, also with equal content. Places count from 0.
pub fn check_distinct(list: &[Value]) -> Result<(), SuppliedError> {
    let mut seen = FxHashMap::default();
    for (second, item) in list.iter().enumerate() {
        let Some(named) = item.get("uid") else { continue };
        let named = named.get("__entity").unwrap_or(named);
        let name = (
            named.get("type").and_then(Value::as_str),
            named.get("id").and_then(Value::as_str),
        );
        if let ((Some(ty), Some(id)), Some(first)) = (name, seen.insert(name, second)) {
            return Err(SuppliedError::Twice {
                name: format!("{ty}::{id:?}"),
                first,
                second,
            });
        }
    }
    Ok(())
}

fn names_entity(list: &Value, uid: &EntityUid) -> bool {
    let mut items = list.as_array().into_iter().flatten();
    items.any(|item| named(item).is_some_and(|named| named == *uid))
}

fn named(item: &Value) -> Option<EntityUid> {
    EntityUid::from_json(item.get("uid")?.clone()).ok()
}
