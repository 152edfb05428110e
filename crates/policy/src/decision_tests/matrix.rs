//! `for` in a decision test: one written case for each combination of values.
//!
//! `{name}` in a text of the case stands for the combination's value. A text that is nothing but a placeholder becomes
//! the value itself, so a list stays a list. `expect`, `because`, `reason` and `errors` may be maps by value, in the
//! order of `for`; `"*"` stands for the values that the map does not name. A placeholder without a meaning is an error:
//! a misspelt one must not turn into a request that is denied as expected.

use serde_json::{Map, Value};

use super::fields::{Axes, COMBINATIONS_MAX, CaseError, Combination, Field, Fields, is_name, line_of, scalar_text, shown};

/// Cases that `for` makes of the files of one portal.
pub(super) const EXPANDED_MAX: usize = 100_000;
/// Keys whose value may be a map by value.
const BY_VALUE: [&str; 4] = ["expect", "because", "reason", "errors"];
/// Stands in such a map for the values that it does not name.
const OTHERS: &str = "*";

/// A case of one combination.
pub(super) struct Expanded {
    pub name: String,
    pub fields: Vec<Field>,
}

/// The cases that a written case stands for. `number` names a case without a name.
pub(super) fn expand(written: &Fields, number: usize, room: &mut usize) -> Result<Vec<Expanded>, Vec<CaseError>> {
    let Some(axes) = &written.axes else {
        let by_value = written.values.iter().filter(|field| is_by_value(field));
        let wrong: Vec<CaseError> = by_value
            .map(|field| CaseError {
                line: field.line,
                message: format!("`{}`: a map by value needs `for`", field.key),
            })
            .collect();
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let name = name_of(&written.values).unwrap_or_else(|| format!("#{number}"));
        let fields = written.values.iter().filter(|field| field.key != "name").cloned().collect();
        return Ok(vec![Expanded { name, fields }]);
    };
    let line = line_of(axes);
    let fail = |message: String| vec![CaseError { line, message }];
    let combinations = axes.value.combinations().ok_or_else(|| {
        fail(format!(
            "`for` makes more than {COMBINATIONS_MAX} combinations; write several cases"
        ))
    })?;
    *room = room
        .checked_sub(combinations.len())
        .ok_or_else(|| fail(format!("the `for` of all files make more than {EXPANDED_MAX} cases")))?;
    let mut expanded = Vec::new();
    let mut wrong = Vec::new();
    for combination in &combinations {
        match of_combination(written, &axes.value, combination, number) {
            Ok(case) => expanded.push(case),
            Err(found) => wrong.extend(found),
        }
    }
    if wrong.is_empty() { Ok(expanded) } else { Err(wrong) }
}

fn of_combination(
    written: &Fields,
    axes: &Axes,
    combination: &Combination<'_>,
    number: usize,
) -> Result<Expanded, Vec<CaseError>> {
    let mut fields = Vec::new();
    let mut wrong = Vec::new();
    for field in &written.values {
        let filled = chosen(field, axes, combination).and_then(|value| filled(value, combination));
        match filled {
            Ok(value) => fields.push(Field { value, ..field.clone() }),
            Err(message) => wrong.push(CaseError {
                line: field.line,
                message: format!("`{}`: {message}", field.key),
            }),
        }
    }
    let name = name_of(&fields).unwrap_or_else(|| format!("#{number}"));
    fields.retain(|field| field.key != "name");
    let written_name = name_of(&written.values).unwrap_or_default();
    let unnamed = combination
        .iter()
        .filter(|(axis, _)| !written_name.contains(&format!("{{{axis}}}")));
    let unnamed: Vec<String> = unnamed.map(|(axis, value)| format!("{axis}={}", shown(value))).collect();
    let name = match unnamed.is_empty() {
        true => name,
        false => format!("{name} [{}]", unnamed.join(", ")),
    };
    if wrong.is_empty() {
        Ok(Expanded { name, fields })
    } else {
        Err(wrong)
    }
}

fn name_of(fields: &[Field]) -> Option<String> {
    let name = fields.iter().find(|field| field.key == "name")?;
    scalar_text(&name.value)
}

/// The value of a key for this combination: a map by value is followed to its leaf.
fn chosen<'a>(field: &'a Field, axes: &Axes, combination: &Combination<'_>) -> Result<&'a Value, String> {
    let mut value = &field.value;
    if !BY_VALUE.contains(&field.key.as_str()) {
        return Ok(value);
    }
    for (axis, (name, of_combination)) in axes.0.iter().zip(combination) {
        let Value::Object(by_value) = value else { break };
        let known: Vec<String> = axis.values.iter().filter_map(scalar_text).collect();
        if let Some(unknown) = by_value.keys().find(|key| *key != OTHERS && !known.contains(key)) {
            return Err(format!("`{unknown}` is no value of `{name}`"));
        }
        let key = scalar_text(of_combination).unwrap_or_default();
        let found = by_value.get(&key).or_else(|| by_value.get(OTHERS));
        value = found.ok_or_else(|| {
            format!(
                "says nothing for `{name}` = `{}`; add it, or `\"{OTHERS}\"`",
                shown(of_combination)
            )
        })?;
    }
    if value.is_object() {
        return Err("has more levels than `for` has names".to_owned());
    }
    Ok(value)
}

/// True for a map where other cases have a plain value.
fn is_by_value(field: &Field) -> bool {
    BY_VALUE.contains(&field.key.as_str()) && field.value.is_object()
}

/// The value with its placeholders replaced.
fn filled(value: &Value, combination: &Combination<'_>) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => filled_text(text, combination)?,
        Value::Array(items) => Value::Array(items.iter().map(|item| filled(item, combination)).collect::<Result<_, _>>()?),
        Value::Object(members) => {
            let mut replaced = Map::new();
            for (key, member) in members {
                let name = scalar_text(&filled_text(key, combination)?).ok_or_else(|| format!("the key `{key}` is no text"))?;
                if replaced.insert(name.clone(), filled(member, combination)?).is_some() {
                    return Err(format!("the key `{name}` is there twice"));
                }
            }
            Value::Object(replaced)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    })
}

/// A part of a text.
enum TemplatePart<'a> {
    Text(&'a str),
    Placeholder(&'a str),
}

fn filled_text(text: &str, combination: &Combination<'_>) -> Result<Value, String> {
    let pieces = pieces(text);
    let value_of = |name: &str| {
        let found = combination.iter().find(|(axis, _)| *axis == name).map(|(_, value)| *value);
        found.ok_or_else(|| format!("`for` has no `{name}`; for the text itself write `{{{{{name}}}}}`"))
    };
    if let [TemplatePart::Placeholder(name)] = pieces.as_slice() {
        return Ok(value_of(name)?.clone());
    }
    let mut replaced = String::with_capacity(text.len());
    for piece in pieces {
        match piece {
            TemplatePart::Text(text) => replaced.push_str(text),
            TemplatePart::Placeholder(name) => {
                let value = scalar_text(value_of(name)?);
                replaced.push_str(&value.ok_or_else(|| format!("`{{{name}}}` is no text, so it can only stand alone"))?);
            }
        }
    }
    Ok(Value::String(replaced))
}

/// Cuts a text at its placeholders; `{{` and `}}` stand for `{` and `}`.
fn pieces(text: &str) -> Vec<TemplatePart<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        if !before.is_empty() {
            pieces.push(TemplatePart::Text(before));
        }
        let name = from
            .strip_prefix('{')
            .and_then(|inner| Some(inner.split_once('}')?.0))
            .filter(|name| is_name(name));
        let (piece, length) = match name {
            Some(name) => (TemplatePart::Placeholder(name), name.len() + 2),
            None if from.starts_with("{{") => (TemplatePart::Text("{"), 2),
            None if from.starts_with("}}") => (TemplatePart::Text("}"), 2),
            None => (TemplatePart::Text(from.get(..1).unwrap_or_default()), 1),
        };
        pieces.push(piece);
        rest = from.get(length..).unwrap_or_default();
    }
    if !rest.is_empty() {
        pieces.push(TemplatePart::Text(rest));
    }
    pieces
}
