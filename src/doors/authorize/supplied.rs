//! The entities that a query describes, for its record: a replay needs them.

use cedargate_policy::decision::named::NamedEntity;
use serde_json::{Map, Value};

use super::body::{Ask, SubjectSource};
use crate::audit::Supplied;

/// The text in place of descriptions that are too large.
const TRUNCATED: &str = "[truncated]";

/// The descriptions of a query; `TRUNCATED` if they are larger than `bytes_max`.
pub(super) fn supplied(ask: &Ask, bytes_max: usize) -> Box<Supplied> {
    let principal = match &ask.subject {
        SubjectSource::Principal(principal) => Some(principal),
        SubjectSource::Token(_) | SubjectSource::Header => None,
    };
    let members = principal
        .into_iter()
        .chain([&ask.resource])
        .flat_map(|entity| described(entity));
    let bytes: usize = members.chain(&ask.entities).map(size).sum();
    if bytes > bytes_max {
        return Box::new(Supplied::Truncated(TRUNCATED));
    }
    let resource = object(&ask.resource);
    Box::new(Supplied::Described {
        principal: principal.map(|principal| Value::Object(object(principal))),
        resource: (!resource.is_empty()).then_some(Value::Object(resource)),
        entities: ask.entities.clone(),
    })
}

fn described(entity: &NamedEntity) -> impl Iterator<Item = &Value> {
    let (attrs, parents) = match entity {
        NamedEntity::Text(_) => (None, None),
        NamedEntity::Parts { attrs, parents, .. } => (attrs.as_ref(), parents.as_ref()),
    };
    attrs.into_iter().chain(parents)
}

fn object(entity: &NamedEntity) -> Map<String, Value> {
    let mut object = Map::new();
    if let NamedEntity::Parts { attrs, parents, .. } = entity {
        object.extend(attrs.clone().map(|attrs| ("attrs".to_owned(), attrs)));
        object.extend(parents.clone().map(|parents| ("parents".to_owned(), parents)));
    }
    object
}

/// Bytes of a value as JSON, roughly.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| size(item) + 1).sum::<usize>(),
        Value::Object(fields) => 2 + fields.iter().map(|(name, value)| name.len() + 4 + size(value)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ask(body: &Value) -> Ask {
        Ask::from_body(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn descriptions_are_kept_up_to_the_limit() {
        let named = ask(&json!({
            "portal": "p", "principal": "User::\"a\"", "action": "view",
            "resource": {"type": "Order", "id": "1", "attrs": {"owner": "a"}}, "entities": [{"uid": {"type": "User", "id": "b"}}],
        }));
        let kept = serde_json::to_value(supplied(&named, 1000)).unwrap();
        assert_eq!(
            kept,
            json!({"principal": {}, "resource": {"attrs": {"owner": "a"}}, "entities": [{"uid": {"type": "User", "id": "b"}}]})
        );
        assert_eq!(serde_json::to_value(supplied(&named, 20)).unwrap(), json!("[truncated]"));
        let proven = ask(&json!({"portal": "p", "token": "t", "action": "view", "resource": "Order::\"1\""}));
        assert_eq!(serde_json::to_value(supplied(&proven, 0)).unwrap(), json!({}));
    }
}
