//! Reads the plain part of a named query without Cedar's JSON parser.
//!
//! That parser takes tens of microseconds for a few values, and most queries hold scalars and names only. A value that
//! this file reads, Cedar reads the same way. Every other value, right or wrong, is left to Cedar, which also writes
//! the error message. A property test (`decision/named_tests.rs`) holds that both give the same decisions, records and
//! errors.

use cedar_policy::{EntityId, EntityTypeName, EntityUid};
use serde_json::{Map, Value};
use smallvec::SmallVec;

use crate::engine::entities::ResolvedEntity;
use crate::engine::entities::SuppliedEntities;
use crate::rules::Rules;
use crate::schema::{EntityModel, SchemaModel};

/// An entity as a query describes it.
#[derive(Clone, Copy)]
pub struct DescribedEntity<'a> {
    pub uid: &'a EntityUid,
    pub attrs: Option<&'a Value>,
    pub parents: Option<&'a Value>,
}

/// `Type::"id"` or `{"type": …, "id": …}`, the type written in full and declared.
pub fn fast_name(schema: &SchemaModel, value: &Value) -> Option<EntityUid> {
    match value {
        Value::String(text) => fast_text(schema, text),
        Value::Object(parts) if parts.len() == 2 => {
            of_full_type(schema, parts.get("type")?.as_str()?, parts.get("id")?.as_str()?)
        }
        _ => None,
    }
}

/// `Type::"id"`, whose id contains no escape and no quote.
pub fn fast_text(schema: &SchemaModel, text: &str) -> Option<EntityUid> {
    let (ty, rest) = text.split_once("::\"")?;
    let id = rest.strip_suffix('"').filter(|id| !id.contains(['"', '\\']))?;
    of_full_type(schema, ty, id)
}

fn of_full_type(schema: &SchemaModel, ty: &str, id: &str) -> Option<EntityUid> {
    let ty = schema.type_in_full(ty)?;
    Some(EntityUid::from_type_name_and_id(ty.clone(), EntityId::new(id)))
}

impl Rules {
    /// The entities that a query describes, if each is one that the schema surely allows and the app may define.
    pub fn fast_entities(&self, described: &[DescribedEntity<'_>], reserved: Option<&EntityUid>) -> Option<SuppliedEntities> {
        let mut supplied = SuppliedEntities::default();
        for one in described.iter().filter(|d| d.attrs.is_some() || d.parents.is_some()) {
            let model = self.definable(one.uid).filter(|_| reserved != Some(one.uid))?;
            if !no_attrs(model, one.attrs) {
                return None;
            }
            let parents = self.fast_parents(model, one.parents)?;
            // one entity is the parent of another: leave the closure to Cedar
            let entangled = described.iter().any(|other| parents.contains(other.uid));
            let is_path_below = !parents.is_empty() && self.is_path(one.uid);
            let is_misspelt = parents.iter().any(|parent| self.names.is_no_path(parent));
            let is_twice = supplied.contains_key(one.uid);
            if entangled
                || is_twice
                || is_misspelt
                || is_path_below
                || (!parents.is_empty() && self.engine.store.is_above(one.uid))
            {
                return None;
            }
            let above = self.with_stored_ancestors(parents.into_vec());
            supplied.insert(one.uid.clone(), ResolvedEntity::without_attributes(one.uid.clone(), above));
        }
        Some(supplied)
    }

    /// The model of an entity that the app may define: its type is declared and not an enumeration, not reserved for
    /// the gate, and the store does not hold it.
    fn definable(&self, uid: &EntityUid) -> Option<&EntityModel> {
        let model = self.schema.entity(uid.type_name()).filter(|model| !model.is_enum())?;
        let is_free = !self.is_reserved(uid) && self.engine.store.get(uid).is_none();
        is_free.then_some(model)
    }

    fn fast_parents(&self, model: &EntityModel, parents: Option<&Value>) -> Option<SmallVec<[EntityUid; 4]>> {
        let Some(parents) = parents else {
            return Some(SmallVec::new());
        };
        let allowed = |ty: &EntityTypeName| model.member_of.contains(ty) && self.schema.entity(ty).is_some_and(|m| !m.is_enum());
        let named = parents.as_array()?.iter().map(|parent| fast_name(&self.schema, parent));
        named.map(|uid| uid.filter(|uid| allowed(uid.type_name()))).collect()
    }
}

fn no_attrs(model: &EntityModel, attrs: Option<&Value>) -> bool {
    let none_given = attrs.is_none_or(|attrs| attrs.as_object().is_some_and(Map::is_empty));
    none_given && model.attrs.fields.values().all(|field| !field.required)
}
