//! A case as it is written: its keys in order, each value with its line, and the variables of `for`.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::revision::problem::Problem;

/// Combinations of one case.
pub(super) const COMBINATIONS_MAX: usize = 1000;
/// Characters of a value in a message or in the name of a case.
const SHOWN_CHARS_MAX: usize = 60;

/// The keys of one case as they are written.
pub(super) struct Fields {
    pub axes: Option<Spanned<Axes>>,
    pub values: Vec<Field>,
}

/// A key of a case and its value.
#[derive(Clone)]
pub(super) struct Field {
    pub key: String,
    pub line: Option<usize>,
    pub value: Value,
}

/// The variables of a case with their values, in the order of the file.
#[derive(Default)]
pub(super) struct Axes(pub Vec<Axis>);

/// One variable.
pub(super) struct Axis {
    pub name: String,
    pub values: Vec<Value>,
}

/// An error of a case.
pub(super) struct CaseError {
    pub line: Option<usize>,
    pub message: String,
}

/// One value of each axis.
pub(super) type Combination<'a> = Vec<(&'a str, &'a Value)>;

impl CaseError {
    pub fn in_file(self, name: &str, line: Option<usize>) -> Problem {
        Problem::new(name, self.message).at_line(self.line.or(line))
    }
}

impl Axes {
    /// Adds a variable; `Err` is a text for the user.
    pub fn add(&mut self, name: String, values: Vec<Value>) -> Result<(), String> {
        if !is_name(&name) {
            return Err(format!("`for`: `{name}` is no name; use letters, digits and `_`"));
        }
        if values.is_empty() {
            return Err(format!("`for`: `{name}` has no value"));
        }
        for (number, value) in values.iter().enumerate() {
            if values.iter().take(number).any(|other| other == value) {
                return Err(format!("`for`: `{name}` has the value `{}` twice", shown(value)));
            }
        }
        self.0.push(Axis { name, values });
        Ok(())
    }

    /// Every combination; the last variable changes fastest. `None`: there are too many.
    pub fn combinations(&self) -> Option<Vec<Combination<'_>>> {
        let count = self
            .0
            .iter()
            .try_fold(1_usize, |count, axis| count.checked_mul(axis.values.len()))?;
        if count > COMBINATIONS_MAX {
            return None;
        }
        let mut all: Vec<Combination<'_>> = vec![Vec::new()];
        for axis in &self.0 {
            let mut longer = Vec::with_capacity(all.len() * axis.values.len());
            for combination in &all {
                for value in &axis.values {
                    let mut next = combination.clone();
                    next.push((axis.name.as_str(), value));
                    longer.push(next);
                }
            }
            all = longer;
        }
        Some(all)
    }
}

/// The spelling of a text, a number or a boolean.
pub(super) fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

pub(super) fn line_of<T>(spanned: &Spanned<T>) -> Option<usize> {
    usize::try_from(spanned.referenced.line()).ok().filter(|line| *line > 0)
}

/// A value in a message, shortened.
pub(super) fn shown(value: &Value) -> String {
    let text = scalar_text(value).unwrap_or_else(|| value.to_string());
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// True for the name of a variable.
pub(super) fn is_name(text: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    text.starts_with(first) && text.chars().all(|c| first(c) || c.is_ascii_digit())
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a case: keys and values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields {
                    axes: None,
                    values: Vec::new(),
                };
                while let Some(key) = map.next_key::<String>()? {
                    if key == "for" {
                        fields.axes = Some(map.next_value()?);
                        continue;
                    }
                    let value: Spanned<Value> = map.next_value()?;
                    fields.values.push(Field {
                        key,
                        line: line_of(&value),
                        value: value.value,
                    });
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

impl<'de> Deserialize<'de> for Axes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AxesVisitor;
        impl<'de> Visitor<'de> for AxesVisitor {
            type Value = Axes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("names with lists of values: `for: { role: [viewer, editor] }`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Axes, A::Error> {
                let mut axes = Axes::default();
                while let Some(name) = map.next_key::<String>()? {
                    let values: Vec<Value> = map.next_value()?;
                    axes.add(name, values).map_err(de::Error::custom)?;
                }
                Ok(axes)
            }
        }
        deserializer.deserialize_map(AxesVisitor)
    }
}
