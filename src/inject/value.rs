//! The parts that inject adds, as values that are written as block YAML or as JSON.
//!
//! Order is kept: a container reads as the chart writes it.

use cedargate_policy::json::quoted;
use serde_json::Value as Json;

use super::tree::{Node, Shape};

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Value {
    /// A scalar as it stands in a YAML text, without quotes: a number, a truth value, a word.
    Plain(String),
    Text(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

/// The layout of the place where a value is written.
pub(super) struct Layout<'a> {
    /// Spaces before the value's keys or dashes.
    pub column: usize,
    pub line_end: &'a str,
}

impl Value {
    /// `None` for an alias or a key that is a collection.
    pub fn of(node: &Node) -> Option<Self> {
        Some(match &node.shape {
            Shape::Scalar { text, is_plain: true } if node.is_null() => {
                Self::Plain(if text.is_empty() { "null".into() } else { text.clone() })
            }
            Shape::Scalar { text, is_plain: true } => Self::Plain(text.clone()),
            Shape::Scalar { text, .. } => Self::Text(text.clone()),
            Shape::Alias(_) => return None,
            Shape::List { items, .. } => Self::List(items.iter().map(Self::of).collect::<Option<_>>()?),
            Shape::Map { entries, .. } => {
                let entries = entries
                    .iter()
                    .map(|entry| Some((entry.name()?.to_owned(), Self::of(&entry.value)?)));
                Self::Map(entries.collect::<Option<_>>()?)
            }
        })
    }

    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Self> {
        match self {
            Self::Map(entries) => entries.iter_mut().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }

    pub fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    pub fn items_mut(&mut self) -> Option<&mut Vec<Self>> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// The text of a scalar.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Plain(text) | Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// One line of JSON.
    pub fn json(&self) -> Json {
        match self {
            Self::Text(text) => Json::String(text.clone()),
            Self::Plain(text) => plain_json(text),
            Self::List(items) => Json::Array(items.iter().map(Self::json).collect()),
            Self::Map(entries) => Json::Object(entries.iter().map(|(key, value)| (key.clone(), value.json())).collect()),
        }
    }

    /// Compact JSON with a space after `:` and `,`, as people write flow YAML; keys in their order.
    pub fn flow(&self) -> String {
        match self {
            Self::Plain(_) | Self::Text(_) => self.json().to_string(),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Self::flow).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Map(entries) => {
                let entries = entries
                    .iter()
                    .map(|(key, value)| format!("{}: {}", quoted(key), value.flow()));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// JSON over several lines. `indent`: the white space before the value's own line; `unit`: that of one level.
    pub fn pretty(&self, indent: &str, unit: &str, line_end: &str) -> String {
        let inner = format!("{indent}{unit}");
        let lines = |lines: Vec<String>, open: char, close: char| {
            let separator = format!(",{line_end}{inner}");
            format!("{open}{line_end}{inner}{}{line_end}{indent}{close}", lines.join(&separator))
        };
        match self {
            Self::List(items) if !items.is_empty() => lines(
                items.iter().map(|item| item.pretty(&inner, unit, line_end)).collect(),
                '[',
                ']',
            ),
            Self::Map(entries) if !entries.is_empty() => {
                let entry = |(key, value): &(String, Self)| format!("{}: {}", quoted(key), value.pretty(&inner, unit, line_end));
                lines(entries.iter().map(entry).collect(), '{', '}')
            }
            other => other.flow(),
        }
    }

    /// Lines of block YAML: the entries of a mapping or the items of a list, each from `column` on.
    pub fn block(&self, layout: &Layout<'_>, out: &mut String) {
        let pad = " ".repeat(layout.column);
        match self {
            Self::Map(entries) => {
                for (key, value) in entries {
                    out.push_str(&pad);
                    Self::entry_lines(key, value, layout, out);
                }
            }
            Self::List(items) => {
                let below = Layout {
                    column: layout.column + 2,
                    ..*layout
                };
                for item in items {
                    out.push_str(&pad);
                    out.push_str("- ");
                    if item.is_block() {
                        let mut lines = String::new();
                        item.block(&below, &mut lines);
                        out.push_str(lines.trim_start_matches(' '));
                    } else {
                        out.push_str(&item.inline());
                        out.push_str(layout.line_end);
                    }
                }
            }
            scalar => {
                out.push_str(&pad);
                out.push_str(&scalar.inline());
                out.push_str(layout.line_end);
            }
        }
    }

    fn entry_lines(key: &str, value: &Self, layout: &Layout<'_>, out: &mut String) {
        out.push_str(key);
        out.push(':');
        if value.is_block() {
            out.push_str(layout.line_end);
            value.block(
                &Layout {
                    column: layout.column + 2,
                    ..*layout
                },
                out,
            );
        } else {
            out.push(' ');
            out.push_str(&value.inline());
            out.push_str(layout.line_end);
        }
    }

    fn is_block(&self) -> bool {
        match self {
            Self::List(items) => !items.is_empty(),
            Self::Map(entries) => !entries.is_empty(),
            _ => false,
        }
    }

    /// The value on its key's line.
    fn inline(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            // single quotes keep a JSON text readable
            Self::Text(text) if text.starts_with('{') && !text.contains('\n') => format!("'{}'", text.replace('\'', "''")),
            other => other.flow(),
        }
    }
}

/// A plain scalar as YAML 1.2 reads it.
fn plain_json(text: &str) -> Json {
    match text {
        "null" | "~" | "" => Json::Null,
        "true" => Json::Bool(true),
        "false" => Json::Bool(false),
        number => match number.parse::<i64>() {
            Ok(number) => Json::Number(number.into()),
            Err(_) => Json::String(text.to_owned()),
        },
    }
}
