//! Reads a body without faults in one pass, straight into queries.
//!
//! `None` for every body with a fault or an unusual form (an action as an object, for one): the caller reads it again,
//! into JSON values, and says where the fault is. A query that this file reads is read there the same way; a property
//! test compares them.

use std::fmt;
use std::marker::PhantomData;

use cedargate_policy::decision::named::NamedEntity;
use cedargate_policy::json::StrictValue;
use cedargate_policy::types::Redacted;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{Ask, SubjectSource};

/// The members of one query, or those that the items of a batch share.
#[derive(Clone, Default)]
struct Members {
    portal: Option<String>,
    token: Option<String>,
    principal: Option<NamedEntity>,
    action: Option<String>,
    resource: Option<NamedEntity>,
    context: Option<Map<String, Value>>,
    entities: Option<Vec<Value>>,
    requests: Option<Vec<Self>>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Member {
    Portal,
    Token,
    Principal,
    Action,
    Resource,
    Context,
    Entities,
    Requests,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum EntityMember {
    Type,
    Id,
    Attrs,
    Parents,
}

/// Reads a value at a depth of nesting, as `json` counts it.
struct AtDepth<T> {
    depth: usize,
    of: PhantomData<T>,
}

/// The query of a body.
pub(super) fn one(body: &[u8]) -> Option<Ask> {
    read(body)?.into_ask(None)
}

/// The queries of a batch, if there are no more than `max`.
pub(super) fn batch(body: &[u8], max: usize) -> Option<Vec<Ask>> {
    let mut shared = read(body)?;
    let items = shared.requests.take().filter(|items| items.len() <= max)?;
    let items = items.into_iter().enumerate();
    items.map(|(at, item)| item.over(&shared).into_ask(Some(at))).collect()
}

fn read(body: &[u8]) -> Option<Members> {
    let mut parser = serde_json::Deserializer::from_str(std::str::from_utf8(body).ok()?);
    let members = AtDepth::<Members>::new(0).deserialize(&mut parser).ok()?;
    parser.end().ok()?;
    Some(members)
}

impl Members {
    fn into_ask(self, item: Option<usize>) -> Option<Ask> {
        let subject = match (self.token, self.principal) {
            (None, None) => SubjectSource::Header,
            (Some(token), None) => SubjectSource::Token(Redacted::new(token)),
            (None, Some(principal)) => SubjectSource::Principal(principal),
            (Some(_), Some(_)) => return None,
        };
        if self.requests.is_some() {
            return None;
        }
        Some(Ask {
            item,
            portal: self.portal?,
            subject,
            action: self.action?,
            resource: self.resource?,
            context: self.context,
            entities: self.entities.unwrap_or_default(),
        })
    }

    /// An item of a batch with the members that it does not have itself.
    fn over(self, shared: &Self) -> Self {
        let names_subject = self.token.is_some() || self.principal.is_some();
        let shared_subject = Some(shared).filter(|_| !names_subject);
        Self {
            portal: self.portal.or_else(|| shared.portal.clone()),
            token: self.token.or_else(|| shared_subject?.token.clone()),
            principal: self.principal.or_else(|| shared_subject?.principal.clone()),
            action: self.action.or_else(|| shared.action.clone()),
            resource: self.resource.or_else(|| shared.resource.clone()),
            context: self.context.or_else(|| shared.context.clone()),
            entities: self.entities.or_else(|| shared.entities.clone()),
            requests: self.requests,
        }
    }
}

impl<T> AtDepth<T> {
    fn new(depth: usize) -> Self {
        Self { depth, of: PhantomData }
    }
}

/// Sets a member, which must not be there yet.
fn set<T, E: Error>(member: &mut Option<T>, value: T) -> Result<(), E> {
    match member.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom("given twice")),
    }
}

impl<'de> DeserializeSeed<'de> for AtDepth<Members> {
    type Value = Members;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Members, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for AtDepth<Members> {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a query")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Members, A::Error> {
        let inner = self.depth + 1;
        let mut members = Members::default();
        while let Some(member) = from.next_key()? {
            match member {
                Member::Portal => set(&mut members.portal, from.next_value()?)?,
                Member::Token => set(&mut members.token, from.next_value()?)?,
                Member::Principal => set(
                    &mut members.principal,
                    from.next_value_seed(AtDepth::<NamedEntity>::new(inner))?,
                )?,
                Member::Action => set(&mut members.action, from.next_value()?)?,
                Member::Resource => set(
                    &mut members.resource,
                    from.next_value_seed(AtDepth::<NamedEntity>::new(inner))?,
                )?,
                Member::Context => match from.next_value_seed(StrictValue { depth: inner })? {
                    Value::Object(context) => set(&mut members.context, context)?,
                    _ => return Err(Error::custom("not an object")),
                },
                Member::Entities => match from.next_value_seed(StrictValue { depth: inner })? {
                    Value::Array(entities) => set(&mut members.entities, entities)?,
                    _ => return Err(Error::custom("not a list")),
                },
                Member::Requests if self.depth == 0 => {
                    set(
                        &mut members.requests,
                        from.next_value_seed(AtDepth::<Vec<Members>>::new(inner))?,
                    )?;
                }
                Member::Requests => return Err(Error::custom("a batch in a batch")),
            }
        }
        Ok(members)
    }
}

impl<'de> DeserializeSeed<'de> for AtDepth<Vec<Members>> {
    type Value = Vec<Members>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for AtDepth<Vec<Members>> {
    type Value = Vec<Members>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of queries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(members) = from.next_element_seed(AtDepth::<Members>::new(self.depth + 1))? {
            all.push(members);
        }
        Ok(all)
    }
}

impl<'de> DeserializeSeed<'de> for AtDepth<NamedEntity> {
    type Value = NamedEntity;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<NamedEntity, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AtDepth<NamedEntity> {
    type Value = NamedEntity;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an entity")
    }

    fn visit_str<E>(self, text: &str) -> Result<NamedEntity, E> {
        Ok(NamedEntity::Text(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<NamedEntity, A::Error> {
        let inner = StrictValue { depth: self.depth + 1 };
        let mut ty = None;
        let mut id = None;
        let mut attrs = None;
        let mut parents = None;
        while let Some(member) = from.next_key()? {
            match member {
                EntityMember::Type => set(&mut ty, from.next_value()?)?,
                EntityMember::Id => set(&mut id, from.next_value()?)?,
                EntityMember::Attrs => set(&mut attrs, from.next_value_seed(inner)?)?,
                EntityMember::Parents => set(&mut parents, from.next_value_seed(inner)?)?,
            }
        }
        let missing = || Error::custom("without type or id");
        Ok(NamedEntity::Parts {
            ty: ty.ok_or_else(missing)?,
            id: id.ok_or_else(missing)?,
            attrs,
            parents,
        })
    }
}

#[cfg(test)]
mod tests {
    use cedargate_policy::json::DEPTH_MAX;
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::parse;
    use super::*;

    /// Everything that a query says.
    fn said(ask: &Ask) -> String {
        let subject = match &ask.subject {
            SubjectSource::Token(token) => format!("token {}", token.expose()),
            SubjectSource::Principal(principal) => format!("{principal:?}"),
            SubjectSource::Header => "header".to_owned(),
        };
        let Ask {
            item,
            portal,
            action,
            resource,
            context,
            entities,
            ..
        } = ask;
        format!("{item:?} {portal} {subject} {action} {resource:?} {context:?} {entities:?}")
    }

    fn agree(body: &[u8]) -> Result<(), TestCaseError> {
        let slow = |body| Ask::read(parse(body).ok()?, None).ok();
        if let Some(ask) = one(body) {
            prop_assert_eq!(Some(said(&ask)), slow(body).as_ref().map(said));
        }
        let slow = |body| Ask::read_batch(parse(body).ok()?, 3).ok();
        if let Some(asks) = batch(body, 3) {
            let slow = slow(body).unwrap_or_default();
            let slow: Vec<_> = slow.iter().map(|ask| ask.as_ref().ok().map(said)).collect();
            prop_assert_eq!(asks.iter().map(|ask| Some(said(ask))).collect::<Vec<_>>(), slow);
        }
        Ok(())
    }

    /// JSON text of a value; now and then of a wrong one.
    fn value() -> impl Strategy<Value = String> {
        let entity = r#"\{("type":"T",)?"id":"i"(,"type":"T")?(,"attrs":(\{"a":1\}|null|1))?(,"parents":\[("P::1")?\])?(,"id":1|,"x":2)?\}"#;
        prop_oneof![
            Just("\"a\\u0041\"".to_owned()),
            Just("null".to_owned()),
            Just("{}".to_owned()),
            Just("[]".to_owned()),
            Just("{\"a\":1,\"a\":2}".to_owned()),
            Just("[1.5]".to_owned()),
            entity,
        ]
    }

    fn members(portal: &'static str) -> impl Strategy<Value = String> {
        let name = prop_oneof![
            Just("portal"),
            Just("token"),
            Just("principal"),
            Just("action"),
            Just("resource"),
            Just("context"),
            Just("entities"),
            Just("requests"),
            Just("x"),
        ];
        let usual = prop_oneof![
            Just(format!("{portal}\"action\":\"a\",\"resource\":\"r\"")),
            Just(format!(
                "{portal}\"resource\":{{\"type\":\"T\",\"id\":\"i\"}},\"action\":\"a\""
            )),
            Just("\"portal\":\"q\"".to_owned()),
            Just("\"principal\":\"p\"".to_owned()),
        ];
        let extra = prop::collection::vec((name, value()), 0..3);
        (usual, extra).prop_map(|(usual, extra)| {
            let extra = extra.iter().map(|(name, value)| format!(",\"{name}\":{value}"));
            usual + &extra.collect::<String>()
        })
    }

    proptest! {
        #[test]
        fn queries_read_quickly_are_read_the_same_way_slowly(
            one in members("\"portal\":\"p\","), shared in members(""), items in prop::collection::vec(members("\"portal\":\"p\","), 0..5),
        ) {
            agree(format!("{{{one}}}").as_bytes())?;
            let items: Vec<String> = items.iter().map(|members| format!("{{{members}}}")).collect();
            agree(format!("{{{shared},\"requests\":[{}]}}", items.join(",")).as_bytes())?;
        }
    }

    #[test]
    fn usual_bodies_are_read_in_one_pass() {
        let query = json!({
            "portal": "p", "principal": {"type": "User", "id": "a", "parents": ["Role::\"r\""]}, "action": "view",
            "resource": "Doc::\"1\"", "context": {"n": 1}, "entities": [],
        });
        assert!(one(query.to_string().as_bytes()).is_some());
        let items = json!({"portal": "p", "token": "t", "action": "view", "requests": [{"resource": "a"}, {"resource": "b", "principal": "c"}]});
        let asks = batch(items.to_string().as_bytes(), 2).unwrap();
        assert!(matches!(asks.as_slice(), [first, second]
            if matches!(first.subject, SubjectSource::Token(_)) && matches!(second.subject, SubjectSource::Principal(_))));
    }

    #[test]
    fn nesting_is_counted_from_the_start_of_the_body() {
        for depth in [DEPTH_MAX - 2, DEPTH_MAX - 1, DEPTH_MAX] {
            let nested = "[".repeat(depth) + &"]".repeat(depth);
            let query = format!("{{\"portal\":\"p\",\"action\":\"a\",\"resource\":\"r\",\"entities\":{nested}}}");
            assert_eq!(one(query.as_bytes()).is_some(), parse(query.as_bytes()).is_ok(), "{depth}");
            let entity =
                format!("{{\"portal\":\"p\",\"action\":\"a\",\"resource\":{{\"type\":\"T\",\"id\":\"i\",\"attrs\":{nested}}}}}");
            assert_eq!(one(entity.as_bytes()).is_some(), parse(entity.as_bytes()).is_ok(), "{depth}");
            let items = format!("{{\"requests\":[{query}]}}");
            assert_eq!(
                batch(items.as_bytes(), 9).is_some(),
                parse(items.as_bytes()).is_ok(),
                "{depth}"
            );
        }
    }
}
