//! Values of the file that have a text form of their own: durations, sizes, algorithm names, secrets.
//!
//! Each says in the schema, by `format`, how `walk` is to check it.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema as schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use cedargate_policy::types::Redacted;

/// `5s`, `1m30s`, `24h`, `500ms`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DurationText(pub Duration);

/// Bytes: `65536`, `32KiB`, `1MiB`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SizeText(pub u64);

/// Name of a JWS algorithm.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AlgorithmText(pub String);

/// Serializes as `[redacted]`.
#[derive(Clone, Debug)]
pub struct Secret(pub Redacted<String>);

pub const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];

impl DurationText {
    pub fn parse(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map(Self).map_err(|_why| {
            format!("`{text}` is not a duration; write a number with its unit, such as `500ms`, `5s`, `1m30s` or `24h`")
        })
    }
}

impl SizeText {
    const UNITS: [(&'static str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

    pub fn parse(text: &str) -> Result<Self, String> {
        let (digits, unit) = Self::UNITS
            .iter()
            .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|digits| (digits.trim_end(), *unit)))
            .unwrap_or((text, 1));
        let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let number = all_digits.then(|| digits.parse::<u64>().ok()).flatten();
        number.and_then(|number| number.checked_mul(unit)).map(Self).ok_or_else(|| {
            format!("`{text}` is not a size; write bytes, such as `65536`, or a number with `KiB`, `MiB` or `GiB`")
        })
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Serialize for DurationText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&humantime::format_duration(self.0).to_string().replace(' ', ""))
    }
}

impl JsonSchema for DurationText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    // `duration` is ISO 8601's format in JSON Schema, so ours has its own name
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema!({ "type": "string", "format": "short-duration", "examples": ["500ms", "1m30s"] })
    }
}

impl<'de> Deserialize<'de> for SizeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(number) => Ok(Self(number)),
            Form::Text(text) => Self::parse(&text).map_err(serde::de::Error::custom),
        }
    }
}

impl Serialize for SizeText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (suffix, unit) = Self::UNITS
            .into_iter()
            .find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit))
            .unwrap_or(("B", 1));
        if unit == 1 {
            serializer.serialize_u64(self.0)
        } else {
            serializer.serialize_str(&format!("{}{suffix}", self.0 / unit))
        }
    }
}

impl JsonSchema for SizeText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema!({ "type": ["integer", "string"], "minimum": 0, "format": "size", "examples": [65536, "32KiB"] })
    }
}

impl JsonSchema for AlgorithmText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Algorithm".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema!({ "type": "string", "format": "jws-algorithm", "enum": ALGORITHMS })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Redacted::new(text)))
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema!({ "type": "string", "writeOnly": true })
    }
}
