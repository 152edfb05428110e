//! A request with its entities that shows a difference: as the solver found it, and as the gate can meet it.
//!
//! The solver invents ids and ancestors. A path gets an id that has the ancestors of the example, and the ancestors
//! that its id has; an empty id becomes a name, because no credential names an empty subject. The result is decided
//! again: it is an example only if the whole policy sets say so.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use cedar_policy::{
    Authorizer, Context, Decision, Effect, Entities, EntityId, EntityTypeName, EntityUid, Policy, PolicySet, Request,
};
use cedargate_policy::engine::{Effects, Evaluation};
use chrono::{DateTime, Datelike};
use serde_json::{Map, Value, json};

use super::clause::{Described, Expression};
use super::facts::ProofFacts;
use super::question::Environment;
use super::system::System;

/// The name of an entity without one.
const UNNAMED: &str = "any";
/// Names that are tried for a path before one is used that the policies name, too.
const NAMES_MAX: usize = 100;

/// The years that a date of Cedar can have.
const YEARS: RangeInclusive<i32> = 0..=9999;

/// A request with its entities.
#[derive(Clone, Debug)]
pub(crate) struct Example {
    pub principal: EntityUid,
    pub action: EntityUid,
    pub resource: EntityUid,
    /// Cedar's JSON.
    pub context: Value,
    /// Cedar's JSON: a list.
    pub entities: Value,
    /// The decision of the side that must not allow more, once it is known.
    pub inner: Option<Evaluation>,
    /// `None`: the other side does not know the action for these types.
    pub outer: Option<Evaluation>,
    /// True if the portal's policies are the side that allows; false if a statement is.
    pub is_of_policies: bool,
    request: Request,
    store: Entities,
}

/// The requests that a statement is about.
pub(super) struct Region {
    pub expression: Expression,
    pub literals: BTreeSet<EntityUid>,
    policies: PolicySet,
}

impl Region {
    /// `None` if the expression does not read back as a policy.
    pub fn new(expression: Expression, literals: BTreeSet<EntityUid>) -> Option<Self> {
        let policy: Policy = expression.policy(0, Effect::Permit, Described::Yes)?;
        Some(Self {
            policies: PolicySet::from_policies([policy]).ok()?,
            expression,
            literals,
        })
    }

    pub fn contains(&self, example: &Example) -> bool {
        let response = Authorizer::new().is_authorized(&example.request, &self.policies, &example.store);
        response.decision() == Decision::Allow
    }
}

impl Example {
    pub(super) fn new(request: &Request, store: &Entities) -> Option<Self> {
        let context = match request.context() {
            Some(context) => context.to_json_value().ok()?,
            None => json!({}),
        };
        Some(Self {
            principal: request.principal()?.clone(),
            action: request.action()?.clone(),
            resource: request.resource()?.clone(),
            context,
            entities: store.to_json_value().ok()?,
            inner: None,
            outer: None,
            is_of_policies: true,
            request: request.clone(),
            store: store.clone(),
        })
    }

    pub(super) fn decide(&self, system: &System<'_>, effects: Effects) -> Evaluation {
        system.whole.decide(&self.request, &self.store, effects)
    }

    pub(super) fn decided(self, inner: Evaluation, outer: Option<Evaluation>) -> Self {
        Self {
            inner: Some(inner),
            outer,
            ..self
        }
    }

    /// The same, if a statement is the side that allows.
    pub(super) fn of_statement(self) -> Self {
        Self {
            is_of_policies: false,
            ..self
        }
    }

    /// The entities that say something, by name: actions are in the schema, and paths have the ancestors that their ids
    /// name.
    pub fn described(&self) -> Vec<Value> {
        let says_something = |entity: &&Value| {
            let ty = entity.pointer("/uid/type").and_then(Value::as_str).unwrap_or_default();
            let is_path = entity
                .pointer("/uid/id")
                .and_then(Value::as_str)
                .is_some_and(|id| id.starts_with('/'));
            let has = |part: &str| match entity.get(part) {
                Some(Value::Array(items)) => !items.is_empty() && !is_path,
                Some(Value::Object(members)) => !members.is_empty(),
                _ => false,
            };
            ty != self.action.type_name().to_string() && ["parents", "attrs", "tags"].into_iter().any(has)
        };
        let entities = self.entities.as_array().into_iter().flatten();
        let mut described: Vec<Value> = entities.filter(says_something).cloned().collect();
        described.sort_by_key(|entity| entity.get("uid").map(ToString::to_string));
        for parents in described
            .iter_mut()
            .filter_map(|entity| entity.get_mut("parents")?.as_array_mut())
        {
            parents.sort_by_key(ToString::to_string);
        }
        described
    }

    /// The example as the gate can meet it; `None` if it cannot be put together so.
    pub(super) fn realistic(&self, environment: &Environment<'_>, facts: &ProofFacts<'_>) -> Option<Self> {
        let mut made = Renamed {
            context: self.context.clone(),
            entities: self.entities.clone(),
        };
        if let Some(portal) = facts.portal(&self.action) {
            made.context.as_object_mut()?.insert("portal".to_owned(), json!(portal));
        }
        let mut principal = self.principal.clone();
        let mut resource = self.resource.clone();
        if facts.is_path(resource.type_name()) {
            let named = self.path(&resource, facts);
            made.rename(&resource, &named);
            resource = named;
        }
        for uid in [&mut principal, &mut resource] {
            if uid.id().unescaped().is_empty() {
                let named = EntityUid::from_type_name_and_id(uid.type_name().clone(), EntityId::new(UNNAMED));
                made.rename(uid, &named);
                *uid = named;
            }
        }
        made.give_paths_their_ancestors(facts);
        plain_times(&mut made.context);
        plain_times(&mut made.entities);
        if environment.described == Described::No {
            made.remove(&resource);
        }
        let store = Entities::from_json_value(made.entities.clone(), None).ok()?;
        let context = Context::from_json_value(made.context.clone(), None).ok()?;
        let request = Request::new(principal, self.action.clone(), resource, context, None).ok()?;
        Self::new(&request, &store)
    }

    /// An id for a path that lies below the deepest path among its ancestors.
    fn path(&self, uid: &EntityUid, facts: &ProofFacts<'_>) -> EntityUid {
        let ty: &EntityTypeName = uid.type_name();
        let is_path = |uid: &EntityUid| facts.is_path(uid.type_name()) && uid.id().unescaped().starts_with('/');
        if is_path(uid) {
            return uid.clone();
        }
        let above = self.store.ancestors(uid).into_iter().flatten().filter(|uid| is_path(uid));
        let deepest = above.max_by_key(|uid| uid.id().unescaped().len());
        let deepest = deepest.map_or("", |uid| uid.id().unescaped()).trim_end_matches('/');
        let named = |name: String| EntityUid::from_type_name_and_id(ty.clone(), EntityId::new(name));
        let mut names = (0..NAMES_MAX).map(|number| match number {
            0 => named(format!("{deepest}/{UNNAMED}")),
            number => named(format!("{deepest}/{UNNAMED}-{number}")),
        });
        names
            .find(|uid| self.store.get(uid).is_none())
            .unwrap_or_else(|| named(format!("{deepest}/{UNNAMED}")))
    }
}

/// Context and entities while entities get other names.
struct Renamed {
    context: Value,
    entities: Value,
}

impl Renamed {
    fn rename(&mut self, from: &EntityUid, to: &EntityUid) {
        if from != to {
            let from = name_of(from);
            let to = name_of(to);
            replace(&mut self.context, &from, &to);
            replace(&mut self.entities, &from, &to);
        }
    }

    fn remove(&mut self, uid: &EntityUid) {
        let name = name_of(uid);
        if let Some(entities) = self.entities.as_array_mut() {
            entities.retain(|entity| entity.get("uid") != Some(&name));
        }
    }

    fn give_paths_their_ancestors(&mut self, facts: &ProofFacts<'_>) {
        for entity in self.entities.as_array_mut().into_iter().flatten() {
            let uid = entity.get("uid").cloned().and_then(|uid| EntityUid::from_json(uid).ok());
            let Some(uid) = uid.filter(|uid| facts.is_path(uid.type_name())) else {
                continue;
            };
            let parents: Vec<Value> = facts.ancestors(&uid).iter().map(name_of).collect();
            if let Some(entity) = entity.as_object_mut() {
                entity.insert("parents".to_owned(), Value::Array(parents));
            }
        }
    }
}

/// Writes a time, which the solver gives as a distance from 1970, as a date.
fn plain_times(value: &mut Value) {
    if let Some(text) = date_of(value) {
        *value = json!({"__extn": {"fn": "datetime", "arg": text}});
        return;
    }
    match value {
        Value::Object(members) => members.values_mut().for_each(plain_times),
        Value::Array(items) => items.iter_mut().for_each(plain_times),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The date of `offset(datetime("1970-01-01"), duration("…ms"))`, if it has the usual form.
fn date_of(value: &Value) -> Option<String> {
    let offset = value
        .get("__extn")
        .filter(|extension| extension.get("fn") == Some(&json!("offset")))?;
    let argument = |number: usize, function: &str| {
        let extension = offset.get("args")?.get(number)?.get("__extn")?;
        extension
            .get("arg")?
            .as_str()
            .filter(|_| extension.get("fn") == Some(&json!(function)))
    };
    argument(0, "datetime").filter(|date| *date == "1970-01-01")?;
    let millis: i64 = argument(1, "duration")?.strip_suffix("ms")?.parse().ok()?;
    let time = DateTime::from_timestamp_millis(millis).filter(|time| YEARS.contains(&time.year()))?;
    Some(time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

fn name_of(uid: &EntityUid) -> Value {
    json!({"type": uid.type_name().to_string(), "id": uid.id().unescaped()})
}

/// Replaces an entity's name wherever it stands.
fn replace(value: &mut Value, from: &Value, to: &Value) {
    if value == from {
        value.clone_from(to);
        return;
    }
    match value {
        Value::Object(members) => each(members, from, to),
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, from, to)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn each(members: &mut Map<String, Value>, from: &Value, to: &Value) {
    members.values_mut().for_each(|member| replace(member, from, to));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(millis: i64) -> Value {
        let part = |function: &str, argument: &str| json!({"__extn": {"fn": function, "arg": argument}});
        let arguments = [part("datetime", "1970-01-01"), part("duration", &format!("{millis}ms"))];
        let mut value = json!({"now": {"__extn": {"fn": "offset", "args": arguments}}});
        plain_times(&mut value);
        value["now"]["__extn"].take()
    }

    #[test]
    fn a_distance_from_1970_is_written_as_a_date_that_cedar_reads() {
        for (millis, date) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1, "1970-01-01T00:00:00.001Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (-62_135_596_800_000, "0001-01-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            let value = written(millis);
            assert_eq!(value, json!({"fn": "datetime", "arg": date}));
            Context::from_json_value(json!({"now": {"__extn": value}}), None).expect("Cedar reads the date");
        }
        for millis in [i64::MIN, i64::MAX, 253_402_300_800_000] {
            assert_eq!(written(millis)["fn"], "offset", "{millis}: Cedar has no date for it");
        }
    }
}
