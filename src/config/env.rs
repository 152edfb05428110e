//! The environment as a layer over the file: `CEDARGATE_SECTION__KEY=value` is written into the tree.
//!
//! The schema says how a value reads (a number, a list …), but nothing is checked here: an unknown key is written as
//! well, and `schema` reports it. Variables that Kubernetes makes for a service named cedargate are ignored.

use std::sync::Arc;

use serde_json::Value;

use super::error::ConfigErrors;
use super::schema::{allows, forms, is_not_available, keys, property_names, step_schema};
use super::tree::{Node, Origin, Shape, join};

const PREFIX: &str = "CEDARGATE_";
/// Keyword of the schema for a mapping whose keys are no slugs.
const VERBATIM_KEYS: &str = "x-verbatim-keys";

/// Variables of the gate that are not configuration keys.
const NOT_KEYS: [&str; 3] = ["CONFIG", "LOG", "TEST_DATA"];

/// A variable that stands for a key, such as `["issuers", "0", "name"]`.
struct Variable {
    origin: Origin,
    name: String,
    steps: Vec<String>,
    value: String,
}

/// The process's environment. Names and values that are not Unicode are made readable; `std::env::vars` would panic.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

/// Writes every variable that stands for a key into `tree`.
pub fn apply(tree: &mut Node, schema: &Value, env: impl Iterator<Item = (String, String)>, errors: &mut ConfigErrors) {
    let mut variables: Vec<Variable> = env
        .filter_map(|(name, value)| variable(schema, name, value, errors))
        .collect();
    // a section before its keys, list items by number
    variables.sort_by_cached_key(|variable| {
        let numbered = |step: &String| (step.parse::<u32>().unwrap_or(0), step.clone());
        variable.steps.iter().map(numbered).collect::<Vec<_>>()
    });
    for variable in variables {
        write(tree, schema, &variable, errors);
    }
}

fn variable(schema: &Value, name: String, value: String, errors: &mut ConfigErrors) -> Option<Variable> {
    let rest = name.strip_prefix(PREFIX)?.to_lowercase();
    let origin = Origin::Environment(Arc::from(name.as_str()));
    if NOT_KEYS.iter().any(|key| key.to_lowercase() == rest) {
        return None;
    }
    let top = forms(schema, schema);
    let is_top_key = is_not_available(&rest) || top.iter().any(|form| property_names(form).any(|key| key == rest));
    if !name.contains("__") && !is_top_key {
        if let Some(key) = flat_key(schema, &rest) {
            let right = key.to_uppercase().replace('.', "__");
            errors.add(
                &key,
                Some(origin),
                format!("two underscores separate levels; write `{PREFIX}{right}`"),
            );
        }
        return None;
    }
    let steps = rest.split("__").map(str::to_owned).collect();
    Some(Variable {
        origin,
        name,
        steps,
        value,
    })
}

/// The key that `limits_batch` means: a missing underscore must not lose a restriction.
fn flat_key(schema: &Value, flat: &str) -> Option<String> {
    static_keys(schema)
        .into_iter()
        .find(|key| key.contains('.') && key.replace('.', "_") == flat)
}

/// Every key of the schema that is not inside a list or a mapping with free keys.
fn static_keys(schema: &Value) -> Vec<String> {
    keys(schema).into_iter().filter(|key| !key.contains(['[', '<'])).collect()
}

fn write(tree: &mut Node, root: &Value, variable: &Variable, errors: &mut ConfigErrors) {
    let mut node = tree;
    let mut path = String::new();
    let mut schema = Some(root);
    for step in &variable.steps {
        let here = schema.map(|schema| forms(root, schema)).unwrap_or_default();
        let is_list = here.iter().any(|form| allows(form, "array")) && step.parse::<usize>().is_ok();
        let free_keys = here
            .iter()
            .any(|form| form.get("additionalProperties").is_some_and(Value::is_object));
        let are_slugs = free_keys && !here.iter().any(|form| form.get(VERBATIM_KEYS).is_some());
        // slugs have no underscore, variables no hyphen
        let key = if are_slugs { step.replace('_', "-") } else { step.clone() };
        schema = step_schema(&here, &key);
        path = if is_list {
            format!("{path}[{key}]")
        } else {
            join(&path, &key)
        };
        let next = if is_list {
            node.list_item(&key, &variable.origin)
        } else {
            node.map_entry(&key, &variable.origin)
        };
        let Some(next) = next else {
            let message = "the items of a list are counted from 0 without a gap; set the item before this one, too";
            errors.add(&path, Some(variable.origin.clone()), message);
            return;
        };
        node = next;
    }
    match parse_value(root, schema, &variable.value, &variable.origin) {
        Some(shape) => node.shape = shape,
        None => {
            let message = format!(
                "the value of `{}` cannot be read; write a YAML value in one line",
                variable.name
            );
            errors.add(&path, Some(variable.origin.clone()), message);
        }
    }
    node.origin = variable.origin.clone();
}

/// Reads a text as the type that the schema expects. A text of another type stays a text, and `schema` refuses it.
fn parse_value(root: &Value, schema: Option<&Value>, text: &str, origin: &Origin) -> Option<Shape> {
    let here = schema.map(|schema| forms(root, schema)).unwrap_or_default();
    let allowed = |name| here.iter().any(|form| allows(form, name));
    let trimmed = text.trim();
    if allowed("null") && (trimmed.is_empty() || trimmed == "null") {
        return Some(Shape::Null);
    }
    let braced = (allowed("object") && trimmed.starts_with('{')) || (allowed("array") && trimmed.starts_with('['));
    if braced {
        return Node::parse(trimmed, &|_| origin.clone()).ok().map(|node| node.shape);
    }
    if allowed("array") {
        let item = step_schema(&here, "0");
        let parts = trimmed.split(',').map(str::trim).filter(|part| !part.is_empty());
        let items = parts.map(|part| {
            Some(Node {
                shape: parse_value(root, item, part, origin)?,
                origin: origin.clone(),
            })
        });
        return items.collect::<Option<Vec<_>>>().map(Shape::List);
    }
    let number = allowed("integer").then(|| trimmed.parse::<u64>().ok()).flatten();
    Some(match (trimmed, number) {
        (_, Some(number)) => Shape::Number(number.into()),
        ("true", _) if allowed("boolean") => Shape::Bool(true),
        ("false", _) if allowed("boolean") => Shape::Bool(false),
        _ => Shape::Text(text.to_owned()),
    })
}
