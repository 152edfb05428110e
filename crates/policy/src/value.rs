//! JSON values from claims and requests → Cedar values of the type that the schema declares.
//!
//! Pure. A value that is not exactly of its declared type is refused, never converted: a string does not become a
//! number or a truth value. The two readings that are not literal (a string naming an entity, an integer as a datetime
//! in Unix seconds) exist because tokens have no other form for these values.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use cedar_policy::{Context, EntityId, EntityTypeName, EntityUid, Policy};
pub use cedar_policy_core::ast::Value;
use cedar_policy_core::ast::{self, ExtensionFunction, PartialValue};
use cedar_policy_core::extensions::Extensions;
use serde_json::{Map, Value as Json};

use crate::json::append;
use crate::schema::{AttrType, RecordType};

/// Items in one set taken from a claim.
pub const SET_ITEMS_MAX: usize = 4096;

/// The place at which a value did not fit, and the type expected there.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum ValueError {
    #[error("`{0}` is not {1}")]
    Mismatch(String, &'static str),
    #[error("`{0}` is missing")]
    Missing(String),
    #[error("`{0}` has more than {SET_ITEMS_MAX} items")]
    TooMany(String),
}

/// The value at `place` as the declared type: what evaluating Cedar's expression for it would give, without the
/// expression.
pub fn value(ty: &AttrType, json: &Json, place: &str) -> Result<Value, ValueError> {
    let mismatch = |expected| ValueError::Mismatch(place.to_owned(), expected);
    match ty {
        AttrType::String => json.as_str().map(Value::from).ok_or(mismatch("a string")),
        AttrType::Long => json.as_i64().map(Value::from).ok_or(mismatch("a 64-bit integer")),
        AttrType::Bool => json.as_bool().map(Value::from).ok_or(mismatch("true or false")),
        AttrType::Ip => extension(json, &CONSTRUCTORS.ip).ok_or(mismatch("an IP address or range")),
        AttrType::Decimal => extension(json, &CONSTRUCTORS.decimal).ok_or(mismatch("a decimal string")),
        AttrType::Datetime => datetime(json).ok_or(mismatch("a datetime")),
        AttrType::Duration => extension(json, &CONSTRUCTORS.duration).ok_or(mismatch("a duration")),
        AttrType::Entity(ty) => entity(ty, json)
            .map(|uid| Value::from(ast::EntityUID::from(uid)))
            .ok_or(mismatch(
                "an entity of the declared type: `{\"type\": …, \"id\": …}`, or its id alone",
            )),
        AttrType::Set(element) => set(element, json, place),
        AttrType::Record(record) => {
            let object = json.as_object().ok_or(mismatch("an object"))?;
            Ok(Value::record(record_fields(record, object, place)?, None))
        }
    }
}

/// The declared fields of a record; fields that the schema does not declare are left out.
fn record_fields(record: &RecordType, object: &Map<String, Json>, place: &str) -> Result<Vec<(String, Value)>, ValueError> {
    let mut fields = Vec::with_capacity(record.fields.len());
    for (name, field) in &record.fields {
        let inner = || match place {
            "" => name.clone(),
            place => format!("{place}.{name}"),
        };
        match object.get(name) {
            Some(json) => fields.push((name.clone(), value(&field.ty, json, &inner())?)),
            None if field.required => return Err(ValueError::Missing(inner())),
            None => {}
        }
    }
    Ok(fields)
}

/// A value as Cedar's JSON of an expression.
pub fn expression(value: &Value) -> Option<Json> {
    let text = ast::Expr::from(value.clone()).to_string();
    let policy = Policy::parse(None, format!("permit (principal, action, resource) when {{ {text} }};")).ok()?;
    let mut json = policy.to_json().ok()?;
    let condition = json.get_mut("conditions")?.get_mut(0)?;
    condition.get_mut("body").map(Json::take)
}

fn set(element: &AttrType, json: &Json, place: &str) -> Result<Value, ValueError> {
    let items = json
        .as_array()
        .ok_or_else(|| ValueError::Mismatch(place.to_owned(), "a list"))?;
    if items.len() > SET_ITEMS_MAX {
        return Err(ValueError::TooMany(place.to_owned()));
    }
    let items = items
        .iter()
        .map(|item| value(element, item, place))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Value::set(items, None))
}

/// An extension's function that makes its values from text.
struct Constructor {
    name: &'static str,
    function: Option<&'static ExtensionFunction>,
}

struct Constructors {
    ip: Constructor,
    decimal: Constructor,
    datetime: Constructor,
    duration: Constructor,
}

/// Found once: an expression that calls one has Cedar parse its name, which costs ten times as much as the call.
static CONSTRUCTORS: LazyLock<Constructors> = LazyLock::new(|| Constructors {
    ip: Constructor::of("ip"),
    decimal: Constructor::of("decimal"),
    datetime: Constructor::of("datetime"),
    duration: Constructor::of("duration"),
});

impl Constructor {
    fn of(name: &'static str) -> Self {
        let parsed = ast::Name::parse_unqualified_name(name).ok();
        let function = parsed.and_then(|parsed| Extensions::all_available().func(&parsed).ok());
        Self { name, function }
    }

    /// `None` for text that is none of its values.
    fn call(&self, text: &str) -> Option<Value> {
        match self.function?.call(&[Value::from(text)]).ok()? {
            PartialValue::Value(value) => Some(value),
            PartialValue::Residual(_) => None,
        }
    }
}

/// `"10.0.0.1"` or Cedar's `{"__extn":{"fn":"ip","arg":"10.0.0.1"}}`.
fn extension(json: &Json, constructor: &Constructor) -> Option<Value> {
    let text = match json {
        Json::String(text) => text.as_str(),
        _ => {
            let call = json.get("__extn")?;
            let named = call.get("fn")?.as_str()? == constructor.name;
            named.then(|| call.get("arg")?.as_str()).flatten()?
        }
    };
    constructor.call(text)
}

/// Cedar's datetime text; an integer is Unix seconds, as in `auth_time`.
fn datetime(json: &Json) -> Option<Value> {
    match json.as_i64() {
        Some(seconds) => datetime_of(seconds.checked_mul(1000)?),
        None => extension(json, &CONSTRUCTORS.datetime),
    }
}

/// Unix milliseconds as Cedar's datetime; `None` outside the years 0-9999.
pub fn datetime_of(unix_millis: i64) -> Option<Value> {
    CONSTRUCTORS.datetime.call(&datetime_text(unix_millis)?)
}

pub fn ip_of(address: IpAddr) -> Option<Value> {
    CONSTRUCTORS.ip.call(&address.to_string())
}

/// Unix milliseconds as Cedar's datetime text (`2026-01-31T23:59:59.999Z`); `None` outside the years 0-9999.
pub fn datetime_text(unix_millis: i64) -> Option<String> {
    let mut text = Vec::with_capacity("2026-01-31T23:59:59.999Z".len());
    append_datetime(&mut text, unix_millis).then_some(())?;
    String::from_utf8(text).ok()
}

/// Appends that text without quotes; false, and nothing, outside the years 0-9999.
pub fn append_datetime(out: &mut Vec<u8>, unix_millis: i64) -> bool {
    let millis = u32::try_from(unix_millis.rem_euclid(1000)).unwrap_or_default();
    append::time::<3>(out, unix_millis.div_euclid(1000), millis)
}

/// `"alice"` (an id of the declared type), `{"type":…,"id":…}` or `{"__entity":{…}}`; the type must be the declared
/// one.
fn entity(ty: &EntityTypeName, value: &Json) -> Option<EntityUid> {
    if let Some(id) = value.as_str() {
        // as an id, `User::"alice"` would name another user than the one that is meant
        if id.contains("::\"") && id.ends_with('"') {
            return None;
        }
        return Some(EntityUid::from_type_name_and_id(ty.clone(), EntityId::new(id)));
    }
    let named = value.get("__entity").unwrap_or(value);
    let written = EntityTypeName::from_str(named.get("type")?.as_str()?).ok()?;
    (written == *ty).then(|| {
        Some(EntityUid::from_type_name_and_id(
            written,
            EntityId::new(named.get("id")?.as_str()?),
        ))
    })?
}

/// A context of values, with no expression left to evaluate.
pub fn context_of(fields: Vec<(String, Value)>) -> Context {
    let fields = fields.into_iter().map(|(name, value)| (name.into(), value));
    ast::Context::Value(Arc::new(fields.collect())).into()
}

/// True if a value is a scalar of its declared type, or a set of such.
pub fn is_plain(ty: &AttrType, value: &Json) -> bool {
    match (ty, value) {
        (AttrType::String, Json::String(_)) | (AttrType::Bool, Json::Bool(_)) => true,
        (AttrType::Long, Json::Number(number)) => number.is_i64(),
        (AttrType::Set(element), Json::Array(items)) => {
            items.len() <= SET_ITEMS_MAX && items.iter().all(|item| !item.is_array() && is_plain(element, item))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn strings_never_become_numbers_or_truth_values() {
        for (ty, bad) in [
            (AttrType::Long, json!("7")),
            (AttrType::Long, json!(7.5)),
            (AttrType::Long, json!(9_223_372_036_854_775_808_u64)),
            (AttrType::Bool, json!("true")),
            (AttrType::Bool, json!(1)),
            (AttrType::String, json!(7)),
            (AttrType::String, json!(null)),
            (AttrType::Ip, json!("10.0.0.300")),
            (AttrType::Decimal, json!("1.23456")),
            (AttrType::Datetime, json!("yesterday")),
            (AttrType::Set(Box::new(AttrType::String)), json!("a")),
            (AttrType::Set(Box::new(AttrType::String)), json!(["a", 1])),
            (AttrType::Entity("User".parse().unwrap()), json!({"type": "Role", "id": "x"})),
            (AttrType::Entity("User".parse().unwrap()), json!("User::\"alice\"")),
        ] {
            assert!(value(&ty, &bad, "claim").is_err(), "{ty:?} {bad}");
        }
    }

    #[test]
    fn values_of_the_declared_type_are_taken() {
        for (ty, good) in [
            (AttrType::Long, json!(-7)),
            (AttrType::Ip, json!("10.0.0.0/8")),
            (AttrType::Decimal, json!("1.25")),
            (AttrType::Datetime, json!(1_700_000_000)),
            (AttrType::Datetime, json!("2026-01-01")),
            (AttrType::Duration, json!("1h")),
            (AttrType::Entity("User".parse().unwrap()), json!("alice")),
            (
                AttrType::Entity("User".parse().unwrap()),
                json!({"__entity": {"type": "User", "id": "a"}}),
            ),
        ] {
            assert!(value(&ty, &good, "claim").is_ok(), "{ty:?} {good}");
        }
    }

    #[test]
    fn datetimes_are_written_as_cedar_reads_them() {
        assert_eq!(datetime_text(0).unwrap(), "1970-01-01T00:00:00.000Z");
        assert_eq!(datetime_text(1_767_225_600_123).unwrap(), "2026-01-01T00:00:00.123Z");
        assert_eq!(datetime_text(951_782_400_000).unwrap(), "2000-02-29T00:00:00.000Z");
        assert_eq!(datetime_text(-1).unwrap(), "1969-12-31T23:59:59.999Z");
        assert!(datetime_of(1_767_225_600_123).is_some());
        assert!(datetime_text(i64::MAX).is_none());
    }
}
