//! Values of the file with a text form or bounds of their own: time spans, sizes, counts, secrets.
//!
//! Each type states its bounds once, as const parameters. Its JSON Schema carries them (`minimum` and `maximum` for
//! numbers, `x-minimum` and `x-maximum` for texts), `schema` reports a value outside them with its key and line, and
//! `Deserialize` refuses it too, so that the rest of the gate never holds one. The schema's `format` names the check.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::time::Duration;

use cedargate_policy::types::Redacted;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema as schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Keywords of the schema for the bounds of values that are written as texts.
pub const TEXT_MINIMUM: &str = "x-minimum";
pub const TEXT_MAXIMUM: &str = "x-maximum";

/// A time span: `500ms`, `5s`, `1m30s`, `24h`. It has at least `MIN_MS` and at most `MAX_MS` milliseconds.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct TimeSpan<const MIN_MS: u64 = 0, const MAX_MS: u64 = { u64::MAX }>(Duration);

/// A time span above zero. Zero would mean "never" to one reader and "at once" to another.
pub type Timeout = TimeSpan<1>;

/// A number of bytes, at least `MIN`: `65536`, `32KiB`, `1MiB`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ByteSize<const MIN: u64 = 0>(u64);

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Count<const MIN: u32, const MAX: u32>(u32);

/// A secret in the file; it serializes as `[redacted]`.
#[derive(Clone, Debug)]
pub struct SecretText(pub Redacted<String>);

impl<const MIN_MS: u64, const MAX_MS: u64> TimeSpan<MIN_MS, MAX_MS> {
    /// # Errors
    /// A text that names the bound.
    pub fn new(span: Duration) -> Result<Self, String> {
        check_span(span, Self::min(), Self::max()).map(|()| Self(span))
    }

    /// `MS` milliseconds; a number outside the bounds does not compile.
    pub const fn millis<const MS: u64>() -> Self {
        const { assert!(MIN_MS <= MS && MS <= MAX_MS, "outside the bounds of the type") };
        Self(Duration::from_millis(MS))
    }

    /// `S` seconds; a number outside the bounds does not compile.
    pub const fn seconds<const S: u64>() -> Self {
        const { assert!(MIN_MS <= S * 1000 && S * 1000 <= MAX_MS, "outside the bounds of the type") };
        Self(Duration::from_secs(S))
    }

    pub const fn get(self) -> Duration {
        self.0
    }

    fn min() -> Option<Duration> {
        (MIN_MS > 0).then_some(Duration::from_millis(MIN_MS))
    }

    fn max() -> Option<Duration> {
        (MAX_MS < u64::MAX).then_some(Duration::from_millis(MAX_MS))
    }
}

impl<const MIN: u64> ByteSize<MIN> {
    /// `N` KiB; a number outside the bounds does not compile.
    pub const fn kib<const N: u64>() -> Self {
        const { assert!(MIN <= N << 10, "outside the bounds of the type") };
        Self(N << 10)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes, or the largest that this machine can address.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const MIN: u32, const MAX: u32> Count<MIN, MAX> {
    /// `None`: the number is outside the bounds.
    pub const fn new(number: u32) -> Option<Self> {
        if MIN <= number && number <= MAX {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number `N`; one outside the bounds does not compile.
    pub const fn of<const N: u32>() -> Self {
        const { assert!(MIN <= N && N <= MAX, "outside the bounds of the type") };
        Self(N)
    }

    pub const fn get(self) -> u32 {
        self.0
    }

    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// The number; 1 in place of 0.
    pub fn as_non_zero(self) -> NonZeroU32 {
        NonZeroU32::new(self.0).unwrap_or(NonZeroU32::MIN)
    }
}

/// Reads a time span without bounds.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_why| {
        format!("`{text}` is not a duration; write a number with its unit, such as `500ms`, `5s`, `1m30s` or `24h`")
    })
}

/// A time span as the file writes it.
pub fn span_text(span: Duration) -> String {
    humantime::format_duration(span).to_string().replace(' ', "")
}

pub fn check_span(span: Duration, min: Option<Duration>, max: Option<Duration>) -> Result<(), String> {
    if let Some(min) = min.filter(|min| span < *min) {
        return Err(format!("`{}` is too short; the least is {}", span_text(span), span_text(min)));
    }
    if let Some(max) = max.filter(|max| span > *max) {
        return Err(format!("`{}` is too long; the most is {}", span_text(span), span_text(max)));
    }
    Ok(())
}

const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a size without bounds.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|digits| (digits.trim_end(), *unit)))
        .unwrap_or((text, 1));
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let number = all_digits.then(|| digits.parse::<u64>().ok()).flatten();
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| format!("`{text}` is not a size; write bytes, such as `65536`, or a number with `KiB`, `MiB` or `GiB`"))
}

pub fn check_size(bytes: u64, min: u64) -> Result<(), String> {
    if bytes < min {
        return Err(format!("`{bytes}` bytes are too few; the least is {min}"));
    }
    Ok(())
}

impl<'de, const MIN_MS: u64, const MAX_MS: u64> Deserialize<'de> for TimeSpan<MIN_MS, MAX_MS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let span = parse_span(&String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        Self::new(span).map_err(D::Error::custom)
    }
}

impl<const MIN_MS: u64, const MAX_MS: u64> Serialize for TimeSpan<MIN_MS, MAX_MS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&span_text(self.0))
    }
}

impl<const MIN_MS: u64, const MAX_MS: u64> JsonSchema for TimeSpan<MIN_MS, MAX_MS> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    // the format `duration` of JSON Schema is ISO 8601, so this one has a name of its own
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = schema!({ "type": "string", "format": "short-duration", "examples": ["500ms", "1m30s"] });
        for (keyword, bound) in [(TEXT_MINIMUM, Self::min()), (TEXT_MAXIMUM, Self::max())] {
            if let Some(bound) = bound {
                schema.insert(keyword.to_owned(), span_text(bound).into());
            }
        }
        schema
    }
}

impl<'de, const MIN: u64> Deserialize<'de> for ByteSize<MIN> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        let bytes = match Form::deserialize(deserializer)? {
            Form::Number(number) => number,
            Form::Text(text) => parse_size(&text).map_err(D::Error::custom)?,
        };
        check_size(bytes, MIN).map_err(D::Error::custom)?;
        Ok(Self(bytes))
    }
}

impl<const MIN: u64> Serialize for ByteSize<MIN> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (suffix, unit) = UNITS
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

impl<const MIN: u64> JsonSchema for ByteSize<MIN> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = schema!({ "type": ["integer", "string"], "minimum": 0, "format": "size", "examples": [65536, "32KiB"] });
        if MIN > 0 {
            schema.insert(TEXT_MINIMUM.to_owned(), MIN.into());
        }
        schema
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Count<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(deserializer)?;
        Self::new(number).ok_or_else(|| D::Error::custom(format!("`{number}` is not between {MIN} and {MAX}")))
    }
}

impl<const MIN: u32, const MAX: u32> JsonSchema for Count<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema!({ "type": "integer", "format": "uint32", "minimum": MIN, "maximum": MAX })
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Redacted::new(text)))
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl JsonSchema for SecretText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema!({ "type": "string", "writeOnly": true })
    }
}
