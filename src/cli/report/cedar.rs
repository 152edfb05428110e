//! Values and entities of Cedar's JSON, for people: as policies write them.

use serde_json::Value;

/// `{ owner: User::"a", since: datetime("2026-01-01") }`.
pub(crate) fn value(value: &Value) -> String {
    match value {
        Value::Object(members) => match (members.get("__entity"), members.get("__extn")) {
            (Some(entity), _) => uid(entity),
            (_, Some(call)) => extension(call),
            (None, None) => record(value),
        },
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(self::value).collect();
            format!("[{}]", items.join(", "))
        }
        Value::String(text) => format!("\"{}\"", text.escape_debug()),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn record(record: &Value) -> String {
    let members = record.as_object().into_iter().flatten();
    let members: Vec<String> = members
        .map(|(name, member)| format!("{}: {}", key(name), value(member)))
        .collect();
    match members.as_slice() {
        [] => "{}".to_owned(),
        members => format!("{{ {} }}", members.join(", ")),
    }
}

fn key(name: &str) -> String {
    let is_plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.escape_debug())
    }
}

fn extension(call: &Value) -> String {
    let name = call.get("fn").and_then(Value::as_str).unwrap_or_default();
    let arguments: Vec<String> = match (call.get("args"), call.get("arg")) {
        (Some(Value::Array(arguments)), _) => arguments.iter().map(value).collect(),
        (_, Some(argument)) => vec![value(argument)],
        _ => Vec::new(),
    };
    format!("{name}({})", arguments.join(", "))
}

/// `User::"a" in [Role::"viewer"] { email: "a@b" }`.
pub(crate) fn entity(entity: &Value) -> String {
    let parents = entity.get("parents").and_then(Value::as_array).into_iter().flatten();
    let parents: Vec<String> = parents.map(uid).collect();
    let mut text = entity.get("uid").map(uid).unwrap_or_default();
    if !parents.is_empty() {
        text.push_str(&format!(" in [{}]", parents.join(", ")));
    }
    for (part, word) in [("attrs", ""), ("tags", " tags")] {
        let members = entity
            .get(part)
            .filter(|part| part.as_object().is_some_and(|part| !part.is_empty()));
        text.extend(members.map(|members| format!("{word} {}", record(members))));
    }
    text
}

fn uid(value: &Value) -> String {
    let member = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    format!("{}::\"{}\"", member("type"), member("id").escape_debug())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_read_like_policies() {
        let user = json!({"__entity": {"type": "User", "id": "a\"b"}});
        let now = json!({"__extn": {"fn": "datetime", "arg": "2026-01-01"}});
        let context = json!({"user": user, "x-y": [1, true, {}]});
        assert_eq!(value(&context), r#"{ user: User::"a\"b", "x-y": [1, true, {}] }"#);
        assert_eq!(value(&now), r#"datetime("2026-01-01")"#);
        let described = json!({"uid": {"type": "User", "id": "a"}, "parents": [{"type": "Role", "id": "r"}], "attrs": {"n": 1}});
        assert_eq!(entity(&described), r#"User::"a" in [Role::"r"] { n: 1 }"#);
    }
}
