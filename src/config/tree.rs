//! A YAML document as a tree; every node has the file and line where it was written.
//!
//! The tree has no types and no meaning yet; `schema` and `check` add them. Duplicate keys are kept, so that they are
//! reported beside all other mistakes.

use std::fmt;
use std::sync::Arc;

use cedargate_policy::text::YamlMistake;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

/// Levels of nesting that a configuration may have; the deepest real one has 6.
const DEPTH_MAX: usize = 32;

/// The place where a value was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    File {
        file: Arc<str>,
        line: u64,
    },
    /// Name of the environment variable.
    Environment(Arc<str>),
}

#[derive(Clone, Debug)]
pub struct Node {
    pub shape: Shape,
    pub origin: Origin,
}

#[derive(Clone, Debug)]
pub enum Shape {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file; a key may occur twice. The origin is the key's.
    Map(Vec<(String, Origin, Node)>),
}

/// A text that is not YAML.
#[derive(Debug)]
pub struct SyntaxError {
    pub line: u64,
    /// The key in that line.
    pub key: Option<String>,
    pub message: String,
}

impl Origin {
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::File { file, .. } => Some(file),
            Self::Environment(_) => None,
        }
    }

    pub fn line(&self) -> Option<u64> {
        match self {
            Self::File { line, .. } => Some(*line),
            Self::Environment(_) => None,
        }
    }

    /// Lines of the file first, then the environment.
    pub fn order(&self) -> (u64, Option<Arc<str>>) {
        match self {
            Self::File { line, .. } => (*line, None),
            Self::Environment(name) => (u64::MAX, Some(Arc::clone(name))),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Environment(name) => write!(f, "environment {name}"),
        }
    }
}

impl Node {
    /// Reads one YAML document whose keys can be written as a path. `place` turns a line into an origin.
    pub fn parse(text: &str, place: &dyn Fn(u64) -> Origin) -> Result<Self, SyntaxError> {
        let node = Self::parse_any(text, place)?;
        node.check_keys()?;
        Ok(node)
    }

    /// Reads one YAML document with any keys.
    pub fn parse_any(text: &str, place: &dyn Fn(u64) -> Origin) -> Result<Self, SyntaxError> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_depth: DEPTH_MAX },
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            strict_booleans: true,
            with_snippet: false,
        };
        match serde_saphyr::from_str_with_options::<Option<Spanned<Parsed>>>(text, options) {
            Ok(Some(parsed)) => Ok(parsed.into_node(place)),
            Ok(None) => Ok(Self {
                shape: Shape::Null,
                origin: place(1),
            }),
            Err(error) => {
                let YamlMistake { line, key, message } = YamlMistake::of(text, &error);
                Err(SyntaxError {
                    line: line.and_then(|line| u64::try_from(line).ok()).unwrap_or(1),
                    key,
                    message,
                })
            }
        }
    }

    fn check_keys(&self) -> Result<(), SyntaxError> {
        match &self.shape {
            Shape::List(items) => items.iter().try_for_each(Self::check_keys),
            Shape::Map(entries) => entries.iter().try_for_each(|(key, origin, node)| {
                if key.contains(['.', '[', ']']) {
                    return Err(SyntaxError {
                        line: origin.line().unwrap_or(1),
                        key: None,
                        message: format!("the key `{key}` must not hold `.`, `[` or `]`"),
                    });
                }
                node.check_keys()
            }),
            _ => Ok(()),
        }
    }

    pub fn child(&self, step: &str) -> Option<&Self> {
        match &self.shape {
            Shape::Map(entries) => entries.iter().find(|(key, ..)| key == step).map(|(_, _, node)| node),
            Shape::List(items) => items.get(step.parse::<usize>().ok()?),
            _ => None,
        }
    }

    /// The value of `key`, made if absent. A value that is no mapping becomes one.
    pub fn map_entry(&mut self, key: &str, origin: &Origin) -> Option<&mut Self> {
        if !matches!(self.shape, Shape::Map(_)) {
            self.shape = Shape::Map(Vec::new());
            self.origin = origin.clone();
        }
        let Shape::Map(entries) = &mut self.shape else { return None };
        let index = entries.iter().position(|(one, ..)| one == key).unwrap_or(entries.len());
        if index == entries.len() {
            entries.push((key.to_owned(), origin.clone(), Self::null(origin)));
        }
        entries.get_mut(index).map(|(_, _, node)| node)
    }

    /// Item `step` of a list, made if it is the next one. A value that is no list becomes one.
    pub fn list_item(&mut self, step: &str, origin: &Origin) -> Option<&mut Self> {
        if !matches!(self.shape, Shape::List(_)) {
            self.shape = Shape::List(Vec::new());
            self.origin = origin.clone();
        }
        let Shape::List(items) = &mut self.shape else { return None };
        let index = step.parse::<usize>().ok()?;
        if index == items.len() {
            items.push(Self::null(origin));
        }
        items.get_mut(index)
    }

    fn null(origin: &Origin) -> Self {
        Self {
            shape: Shape::Null,
            origin: origin.clone(),
        }
    }

    /// The node at `a.b[0].c`, if every step exists.
    pub fn at(&self, path: &str) -> Option<&Self> {
        steps(path).try_fold(self, |node, step| node.child(step))
    }

    /// The origin of the node at `path`, or of the nearest one above it that is written down.
    pub fn nearest_origin(&self, path: &str) -> Option<Origin> {
        let mut node = self;
        let mut origin = None;
        for step in steps(path) {
            let Some(next) = node.child(step) else { break };
            // a scalar has its own line; a mapping or list the line of its key, not that of its first item
            let nested = matches!(next.shape, Shape::Map(_) | Shape::List(_));
            origin = Some(node.key_origin(step).filter(|_| nested).unwrap_or(&next.origin).clone());
            node = next;
        }
        origin
    }

    fn key_origin(&self, step: &str) -> Option<&Origin> {
        match &self.shape {
            Shape::Map(entries) => entries.iter().find(|(key, ..)| key == step).map(|(_, origin, _)| origin),
            _ => None,
        }
    }

    /// The type of this value in words.
    pub fn type_name(&self) -> &'static str {
        match self.shape {
            Shape::Null => "nothing (null)",
            Shape::Bool(_) => "a boolean",
            Shape::Number(_) => "a number",
            Shape::Text(_) => "a string",
            Shape::List(_) => "a list",
            Shape::Map(_) => "a mapping",
        }
    }
}

fn steps(path: &str) -> impl Iterator<Item = &str> {
    path.split(['.', '[', ']']).filter(|step| !step.is_empty())
}

/// `path` one level deeper.
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

enum Parsed {
    Scalar(Shape),
    List(Vec<Spanned<Parsed>>),
    Map(Vec<(Spanned<String>, Spanned<Parsed>)>),
}

trait IntoNode {
    fn into_node(self, place: &dyn Fn(u64) -> Origin) -> Node;
}

impl IntoNode for Spanned<Parsed> {
    fn into_node(self, place: &dyn Fn(u64) -> Origin) -> Node {
        let shape = match self.value {
            Parsed::Scalar(shape) => shape,
            Parsed::List(items) => Shape::List(items.into_iter().map(|item| item.into_node(place)).collect()),
            Parsed::Map(entries) => Shape::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| (key.value, place(key.referenced.line()), value.into_node(place)))
                    .collect(),
            ),
        };
        Node {
            shape,
            origin: place(self.referenced.line()),
        }
    }
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParsedVisitor)
    }
}

struct ParsedVisitor;

impl<'de> Visitor<'de> for ParsedVisitor {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Shape::Null))
    }

    fn visit_none<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Shape::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parsed, D::Error> {
        Parsed::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Shape::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Shape::Number(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Shape::Number(value.into())))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Parsed, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number must be finite"))?;
        Ok(Parsed::Scalar(Shape::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Shape::Text(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Parsed, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Parsed::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            entries.push((key, map.next_value()?));
        }
        Ok(Parsed::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Node, SyntaxError> {
        Node::parse(text, &|line| Origin::File {
            file: Arc::from("f"),
            line,
        })
    }

    #[test]
    fn every_node_knows_its_line() {
        let tree = parse("a: 1\nb:\n  - x\n  - c: true\n").unwrap();
        assert_eq!(tree.at("b[1].c").unwrap().origin.line(), Some(4));
        assert_eq!(tree.nearest_origin("b[1].nowhere").unwrap().line(), Some(4));
        assert!(matches!(tree.at("b[0]").unwrap().shape, Shape::Text(ref text) if text == "x"));
    }

    #[test]
    fn an_empty_document_is_nothing() {
        for text in ["", "\n", "# only a comment\n", "---\n"] {
            assert!(matches!(parse(text).unwrap().shape, Shape::Null), "{text:?}");
        }
    }

    #[test]
    fn duplicate_keys_survive_to_be_reported() {
        let tree = parse("a: 1\na: 2\n").unwrap();
        assert!(matches!(tree.shape, Shape::Map(ref entries) if entries.len() == 2));
    }

    #[test]
    fn broken_yaml_names_its_line() {
        let error = parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.line >= 2, "{error:?}");
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_crash() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&format!("{}{}", "[".repeat(40), "]".repeat(40))).is_err());
    }

    #[test]
    fn two_documents_are_an_error() {
        assert!(parse("a: 1\n---\nb: 2\n").is_err());
    }
}
