//! Strict JSON: text that two parsers could read differently is refused.
//!
//! Foundation, used for tokens, key sets and the bodies of queries. Refuses duplicate members at every depth, trailing
//! data, invalid UTF-8, lone surrogates and nesting beyond `DEPTH_MAX`. Numbers beyond 64 bits and fractions arrive as
//! floats, so that a caller that needs an integer can refuse them.

pub mod append;

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::text::{self, TextError};

/// Levels of nested arrays and objects.
pub const DEPTH_MAX: usize = 64;
/// Characters of a member's name that an error message shows.
const MEMBER_CHARS_MAX: usize = 64;

/// A text as a JSON string: in double quotes, with escapes.
pub fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The reason why a text is not JSON that all parsers read alike.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line} column {column}: {reason}")]
pub struct JsonError {
    pub line: usize,
    pub column: usize,
    /// The duplicated member, if that is the fault.
    pub member: Option<String>,
    pub reason: String,
}

/// The numbers that a text may hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Numbers {
    Any,
    /// Integers of 64 bits: the only numbers that are Cedar values.
    Integers,
}

/// Parses exactly one JSON value.
pub fn from_slice(bytes: &[u8]) -> Result<Value, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(bytes, error.valid_up_to()))?;
    parse(text, Numbers::Any)
}

/// The place of the first mistake of a JSON text that must not hold numbers other than Cedar's.
pub fn check_integers(text: &str) -> Result<(), JsonError> {
    parse(text, Numbers::Integers).map(drop)
}

/// A number inside a value that is not one of Cedar's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{place}`: {}", not_an_integer(number))]
pub struct NumberError {
    /// Dotted, list items by index.
    pub place: String,
    pub number: Number,
}

/// The same for a value that was parsed already; `place` names it.
pub fn check_integers_in(value: &Value, place: &str) -> Result<(), NumberError> {
    match value {
        Value::Number(number) if !number.is_i64() => Err(NumberError {
            place: place.to_owned(),
            number: number.clone(),
        }),
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.try_for_each(|(index, item)| check_integers_in(item, &format!("{place}.{index}")))
        }
        Value::Object(members) => {
            let mut members = members.iter();
            members.try_for_each(|(name, member)| check_integers_in(member, &format!("{place}.{name}")))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn not_an_integer(number: &dyn fmt::Display) -> String {
    format!(
        "`{number}` is not an integer of 64 bits, and Cedar has no other numbers; write a fraction as \
         {{\"__extn\": {{\"fn\": \"decimal\", \"arg\": \"1.5\"}}}} and a longer number as a string"
    )
}

fn parse(text: &str, numbers: Numbers) -> Result<Value, JsonError> {
    let duplicate = RefCell::new(None);
    let strict = Strict {
        depth: 0,
        duplicate: &duplicate,
        numbers,
    };
    let mut parser = serde_json::Deserializer::from_str(text);
    strict
        .deserialize(&mut parser)
        .and_then(|value| parser.end().map(|()| value))
        .map_err(|error| JsonError {
            line: error.line(),
            column: error.column(),
            member: duplicate.take(),
            reason: without_place(&error.to_string()),
        })
}

/// The same, for texts that must be an object.
pub fn object_from_slice(bytes: &[u8]) -> Result<Map<String, Value>, JsonError> {
    match from_slice(bytes)? {
        Value::Object(map) => Ok(map),
        _ => Err(JsonError {
            line: 1,
            column: 1,
            member: None,
            reason: "expected an object".to_owned(),
        }),
    }
}

/// The bytes without a UTF-8 byte order mark, for documents that people and their editors write. UTF-16 is an error
/// that says so. A token or a query never has a mark: `from_slice` refuses it.
pub fn without_bom(bytes: &[u8]) -> Result<&[u8], JsonError> {
    match text::decode(bytes) {
        Ok(text) => Ok(text.as_bytes()),
        Err(TextError::NotUtf8(valid)) => Err(not_utf8(bytes, valid)),
        Err(TextError::Utf16) => Err(JsonError {
            line: 1,
            column: 1,
            member: None,
            reason: "the text is UTF-16; save it as UTF-8".to_owned(),
        }),
    }
}

fn not_utf8(bytes: &[u8], valid: usize) -> JsonError {
    let before = bytes.get(..valid).unwrap_or_default();
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    JsonError {
        line,
        column,
        member: None,
        reason: "invalid UTF-8".to_owned(),
    }
}

fn without_place(message: &str) -> String {
    message
        .split_once(" at line ")
        .map_or(message, |(reason, _)| reason)
        .to_owned()
}

/// Reads one value of a text that another reader takes apart, by the same rules; `depth` arrays and objects are around
/// it.
#[derive(Clone, Copy)]
pub struct StrictValue {
    pub depth: usize,
}

impl<'de> DeserializeSeed<'de> for StrictValue {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let strict = Strict {
            depth: self.depth,
            duplicate: &RefCell::new(None),
            numbers: Numbers::Any,
        };
        strict.deserialize(deserializer)
    }
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    depth: usize,
    duplicate: &'a RefCell<Option<String>>,
    numbers: Numbers,
}

impl Strict<'_> {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        if self.numbers == Numbers::Integers && i64::try_from(value).is_err() {
            return Err(E::custom(not_an_integer(&value)));
        }
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        if self.numbers == Numbers::Integers {
            return Err(E::custom(
                Number::from_f64(value).map_or_else(|| "number out of range".to_owned(), |number| not_an_integer(&number)),
            ));
        }
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if map.contains_key(&name) {
                let shown: String = name.chars().take(MEMBER_CHARS_MAX).collect();
                let message = format!("duplicate member `{}`", shown.escape_debug());
                *self.duplicate.borrow_mut() = Some(shown);
                return Err(de::Error::custom(message));
            }
            let value = members.next_value_seed(inner)?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_json_is_read_as_serde_json_reads_it() {
        for text in [
            r#"{"a":[1,-2,3.5,"x",null,true,{"b":{}}]}"#,
            " [ ] ",
            "\"\\ud83d\\ude00\"",
            "1e3",
        ] {
            let ours = from_slice(text.as_bytes()).unwrap();
            assert_eq!(ours, serde_json::from_str::<Value>(text).unwrap(), "{text}");
        }
    }

    #[test]
    fn duplicate_members_are_refused_at_every_depth_and_named() {
        for (text, member) in [
            (r#"{"a":1,"a":1}"#, "a"),
            (r#"{"x":[{"b":1,"c":{},"b":2}]}"#, "b"),
            (r#"{"a":1,"\u0061":2}"#, "a"),
            (r#"{"":1,"":2}"#, ""),
        ] {
            let error = from_slice(text.as_bytes()).unwrap_err();
            assert_eq!(error.member.as_deref(), Some(member), "{text}");
            assert!(error.reason.contains("duplicate member"), "{error}");
        }
    }

    #[test]
    fn text_that_is_not_exactly_one_strict_value_is_refused() {
        for text in [
            "",
            "{} {}",
            "{}x",
            "[1,]",
            "{'a':1}",
            "\u{feff}{}",
            "nan",
            "01",
            "1e999",
            "// c\n1",
            r#""\ud800""#,
            r#""\udc00\ud800""#,
        ] {
            assert!(from_slice(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(from_slice(b"{\n\"a\":\"\xff\"}").unwrap_err().line, 2);
        assert!(from_slice(b"\"\xc0\xaf\"").is_err());
    }

    #[test]
    fn nesting_stops_at_the_limit() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(from_slice(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(from_slice(nested(DEPTH_MAX + 1).as_bytes()).is_err());
        assert!(from_slice(&vec![b'['; 1_000_000]).is_err());
    }

    #[test]
    fn numbers_that_are_no_cedar_values_are_named_with_their_place() {
        let error = check_integers("[1,\n {\"a\": 1.50}]").unwrap_err();
        assert_eq!(error.line, 2);
        assert!(error.reason.starts_with("`1.5` is not an integer of 64 bits"), "{error}");
        assert!(check_integers("[-9223372036854775808, 9223372036854775807]").is_ok());
        let value = serde_json::json!({"a": [1, {"b": u64::MAX}]});
        assert_eq!(check_integers_in(&value, "context").unwrap_err().place, "context.a.1.b");
        assert_eq!(check_integers_in(&serde_json::json!({"a": i64::MIN}), "context"), Ok(()));
    }

    #[test]
    fn integers_beyond_64_bits_are_not_integers() {
        let value = from_slice(b"18446744073709551616").unwrap();
        assert!(value.as_i64().is_none() && value.as_u64().is_none());
        assert!(from_slice(b"9223372036854775808").unwrap().as_i64().is_none());
        assert!(from_slice(b"1.0").unwrap().as_i64().is_none());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_agree_with_serde_json(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(value) = from_slice(&bytes) {
                prop_assert_eq!(value, serde_json::from_slice::<Value>(&bytes).unwrap());
            }
        }
    }
}
