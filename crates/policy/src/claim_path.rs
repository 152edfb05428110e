//! Paths into the claims of a credential, parsed once at load.
//!
//! Foundation: no I/O, no claims of a request. `realm_access.roles` names a claim whose own name is that text or,
//! without one, the member `roles` of the claim `realm_access`. A segment in quotes may hold dots:
//! `resource_access."shop.api".roles`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

/// The path of one claim.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClaimPath {
    text: String,
    /// Never empty.
    segments: Vec<String>,
    whole: LiteralName,
}

/// The attributes that `portal.yaml` maps to claims.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClaimMapping(BTreeMap<String, ClaimPath>);

/// The meaning of a claim whose own name is the whole text of a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum LiteralName {
    /// It is the claim: the path has no quotes, so the dots may belong to the name.
    First,
    /// It has none: quotes say where the segments end.
    Ignored,
}

/// The reason why a text is no path.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ClaimPathError {
    /// No text at all.
    #[error("is empty; name a claim")]
    Empty,
    /// A quote without its end.
    #[error("has a quote without its end; write a segment with dots as `\"shop.api\"`")]
    OpenQuote,
    /// Text between a closing quote and the next dot.
    #[error("has text after a closing quote; end the segment with a dot")]
    AfterQuote,
    /// An empty segment beside a quoted one.
    #[error("has an empty segment; remove the dot")]
    EmptySegment,
}

impl ClaimPath {
    /// Parses a path. In quotes, `\"` and `\\` stand for a quote and a backslash.
    pub fn parse(text: &str) -> Result<Self, ClaimPathError> {
        if text.is_empty() {
            return Err(ClaimPathError::Empty);
        }
        let is_quoted = text.starts_with('"') || text.contains(".\"");
        if !is_quoted {
            return Ok(Self::unquoted(text));
        }
        let mut segments = Vec::new();
        let mut rest = Some(text);
        while let Some(from) = rest {
            let segment;
            (segment, rest) = match from.strip_prefix('"') {
                Some(quoted) => quoted_segment(quoted)?,
                None => match from.split_once('.') {
                    Some((segment, after)) => (segment.to_owned(), Some(after)),
                    None => (from.to_owned(), None),
                },
            };
            if segment.is_empty() {
                return Err(ClaimPathError::EmptySegment);
            }
            segments.push(segment);
        }
        Ok(Self {
            text: text.to_owned(),
            segments,
            whole: LiteralName::Ignored,
        })
    }

    /// The path whose text has no quotes; also the path of an attribute that no file maps.
    pub fn unquoted(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            segments: text.split('.').map(str::to_owned).collect(),
            whole: LiteralName::First,
        }
    }

    /// The path as it is written in files.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names from the outermost claim inwards.
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// The name of the claim if the whole text may be one.
    pub fn whole_name(&self) -> Option<&str> {
        (self.whole == LiteralName::First).then_some(self.text.as_str())
    }

    /// Writes a value to the place where a look-up of this path finds it.
    pub fn insert(&self, claims: &mut Map<String, Value>, value: Value) {
        if self.whole == LiteralName::First {
            claims.insert(self.text.clone(), value);
            return;
        }
        let Some((last, outer)) = self.segments.split_last() else {
            return;
        };
        let mut map = claims;
        for segment in outer {
            let inner = map.entry(segment.as_str()).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(next) = inner else { return };
            map = next;
        }
        map.insert(last.clone(), value);
    }
}

/// The segment in front of the closing quote, and the text behind the dot that follows it.
fn quoted_segment(text: &str) -> Result<(String, Option<&str>), ClaimPathError> {
    let mut segment = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => {
                let rest = characters.as_str();
                return match rest.strip_prefix('.') {
                    Some(after) => Ok((segment, Some(after))),
                    None if rest.is_empty() => Ok((segment, None)),
                    None => Err(ClaimPathError::AfterQuote),
                };
            }
            '\\' => segment.push(characters.next().ok_or(ClaimPathError::OpenQuote)?),
            c => segment.push(c),
        }
    }
    Err(ClaimPathError::OpenQuote)
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl ClaimMapping {
    /// The claim that is mapped to an attribute.
    pub fn get(&self, attribute: &str) -> Option<&ClaimPath> {
        self.0.get(attribute)
    }

    /// Every mapped attribute, in order.
    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl FromIterator<(String, ClaimPath)> for ClaimMapping {
    fn from_iter<I: IntoIterator<Item = (String, ClaimPath)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn segments(text: &str) -> Result<Vec<String>, ClaimPathError> {
        ClaimPath::parse(text).map(|path| path.segments)
    }

    #[test]
    fn quotes_keep_dots_inside_a_segment() {
        for (text, expected) in [
            ("sub", vec!["sub"]),
            ("realm_access.roles", vec!["realm_access", "roles"]),
            (
                r#"resource_access."shop.api".roles"#,
                vec!["resource_access", "shop.api", "roles"],
            ),
            (r#""https://shop.test/app".roles"#, vec!["https://shop.test/app", "roles"]),
            (r#""a\"b\\c""#, vec!["a\"b\\c"]),
            ("a\"b", vec!["a\"b"]),
        ] {
            assert_eq!(segments(text).unwrap(), expected, "{text}");
        }
        for (text, error) in [
            ("", ClaimPathError::Empty),
            ("\"a", ClaimPathError::OpenQuote),
            ("\"a\\", ClaimPathError::OpenQuote),
            ("a.\"b\"c", ClaimPathError::AfterQuote),
            ("\"a\"..b", ClaimPathError::EmptySegment),
            ("\"\"", ClaimPathError::EmptySegment),
            ("\"a\".", ClaimPathError::EmptySegment),
        ] {
            assert_eq!(segments(text), Err(error), "{text}");
        }
    }

    #[test]
    fn an_inserted_value_is_where_the_path_leads() {
        let mut claims = Map::new();
        for (path, value) in [("a.b", json!(1)), (r#"a."b.c".d"#, json!(2)), (r#"a."b.c".e"#, json!(3))] {
            ClaimPath::parse(path).unwrap().insert(&mut claims, value);
        }
        assert_eq!(Value::Object(claims), json!({"a.b": 1, "a": {"b.c": {"d": 2, "e": 3}}}));
    }
}
