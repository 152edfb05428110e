//! The entities that a query describes, for its record: a replay needs them.

use cedargate_policy::decision::named::NamedEntity;

use super::body::{Ask, SubjectSource};
use crate::audit::Supplied;

/// The text in place of descriptions that are too large.
const TRUNCATED: &[u8] = b"\"[truncated]\"";
/// Room for a few attributes.
const USUAL_BYTES: usize = 128;

/// The descriptions of a query; `TRUNCATED` if they are larger than `bytes_max`.
pub(super) fn supplied(ask: &Ask, bytes_max: usize) -> Supplied {
    let mut out = Vec::with_capacity(USUAL_BYTES);
    let mut separator = b'{';
    let mut member = |out: &mut Vec<u8>, name: &[u8]| {
        out.push(separator);
        out.extend_from_slice(name);
        separator = b',';
    };
    if let SubjectSource::Principal(principal) = &ask.subject {
        member(&mut out, b"\"principal\":");
        append_described(&mut out, principal);
    }
    if let NamedEntity::Parts { attrs: Some(_), .. } | NamedEntity::Parts { parents: Some(_), .. } = &ask.resource {
        member(&mut out, b"\"resource\":");
        append_described(&mut out, &ask.resource);
    }
    if !ask.entities.is_empty() {
        member(&mut out, b"\"entities\":");
        append_json(&mut out, &ask.entities);
    }
    if out.is_empty() {
        out.push(b'{');
    }
    out.push(b'}');
    if out.len() > bytes_max && out.len() > b"{}".len() {
        out = TRUNCATED.to_vec();
    }
    Supplied::new(out)
}

/// Attributes and parents as an object.
fn append_described(out: &mut Vec<u8>, entity: &NamedEntity) {
    let (attrs, parents) = match entity {
        NamedEntity::Text(_) => (None, None),
        NamedEntity::Parts { attrs, parents, .. } => (attrs.as_ref(), parents.as_ref()),
    };
    out.push(b'{');
    if let Some(attrs) = attrs {
        out.extend_from_slice(b"\"attrs\":");
        append_json(out, attrs);
    }
    if let Some(parents) = parents {
        out.extend_from_slice(if attrs.is_some() {
            b",\"parents\":".as_slice()
        } else {
            b"\"parents\":"
        });
        append_json(out, parents);
    }
    out.push(b'}');
}

fn append_json(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    // INVARIANT: values that were JSON, into memory
    let _cannot_fail = serde_json::to_writer(out, value).is_err();
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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
