//! The JSON Schema of `cedargate.yaml`, and the check of a file against it.
//!
//! The check reports unknown, repeated and missing keys, wrong types, values outside their bounds, and texts that do
//! not have their format. A value with a mistake is left out of the JSON that comes back, so that the checks after this
//! one still run on the rest and all mistakes appear together.

use std::time::Duration;

use serde_json::{Map, Value};

use super::document::Document;
use super::error::ConfigErrors;
use super::sections::audit::Fsync;
use super::sections::issuers::ALGORITHMS;
use super::suggestion::hint;
use super::tree::{Node, Origin, Shape, join};
use super::values::{TEXT_MAXIMUM, TEXT_MINIMUM, check_size, check_span, parse_size, parse_span};

/// Keys of the contract whose feature this version does not have. They are refused, because a setting without effect is
/// worse than an error. To make one available, remove it here and add the key to its section. `key=value` refuses one
/// value.
const NOT_AVAILABLE: [&str; 0] = [];

/// A check of a tree against the schema `root`.
pub struct SchemaCheck<'a> {
    root: &'a Value,
    pub errors: &'a mut ConfigErrors,
}

/// One form that a value may take: a schema without references and unions.
type Form<'a> = &'a Map<String, Value>;

pub fn is_not_available(key: &str) -> bool {
    NOT_AVAILABLE.contains(&key)
}

/// Every form that `schema` allows.
pub fn forms<'a>(root: &'a Value, schema: &'a Value) -> Vec<Form<'a>> {
    let Some(object) = schema.as_object() else { return Vec::new() };
    let mut found = Vec::new();
    if let Some(name) = object.get("$ref").and_then(Value::as_str) {
        let target = name.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        found.extend(target.map(|target| forms(root, target)).unwrap_or_default());
    }
    for union in ["anyOf", "oneOf"] {
        let options = object.get(union).and_then(Value::as_array);
        found.extend(options.into_iter().flatten().flat_map(|option| forms(root, option)));
    }
    if object.contains_key("type") || object.contains_key("const") {
        found.push(object);
    }
    found
}

/// True if `form` allows values of the JSON type `name`.
pub fn allows(form: Form<'_>, name: &str) -> bool {
    match form.get("type") {
        Some(Value::String(only)) => only == name,
        Some(Value::Array(several)) => several.iter().any(|one| one == name),
        _ => form.get("const").is_some_and(|value| value.is_string() && name == "string"),
    }
}

/// Schema of the key or list item `step` of a value of these forms.
pub fn step_schema<'a>(forms: &[Form<'a>], step: &str) -> Option<&'a Value> {
    let property = |form: &Form<'a>| form.get("properties").and_then(|properties| properties.get(step));
    let any = |form: &Form<'a>| form.get("additionalProperties").filter(|schema| schema.is_object());
    let item = |form: &Form<'a>| form.get("items").filter(|_| step.parse::<usize>().is_ok());
    forms
        .iter()
        .find_map(|form| property(form).or_else(|| any(form)).or_else(|| item(form)))
}

impl<'a> SchemaCheck<'a> {
    pub fn new(root: &'a Value, errors: &'a mut ConfigErrors) -> Self {
        Self { root, errors }
    }

    /// The JSON of what fits; `None` if the node itself does not.
    pub fn value(&mut self, path: &str, node: &Node, schema: &Value) -> Option<Value> {
        let root = self.root;
        let all = forms(root, schema);
        let fitting: Vec<_> = all
            .iter()
            .copied()
            .filter(|form| json_types(node).iter().any(|name| allows(form, name)))
            .collect();
        if fitting.is_empty() {
            let is_hidden = is_secret(schema) || all.iter().any(|form| form.contains_key("writeOnly"));
            let got = if is_hidden {
                node.type_name().to_owned()
            } else {
                describe(node)
            };
            self.error(path, &node.origin, format!("expected {}, got {got}", expected(&all)));
            // an empty mapping takes the place of a wrong item in a list, so that the items after it keep their numbers
            return all
                .iter()
                .any(|form| allows(form, "object"))
                .then(|| Value::Object(Map::new()))
                .filter(|_| path.ends_with(']'));
        }
        match &node.shape {
            Shape::Null => Some(Value::Null),
            Shape::Bool(value) => Some(Value::Bool(*value)),
            Shape::Number(number) => self.number(path, node, number, &fitting),
            Shape::Text(text) => self.text(path, node, text, &fitting),
            Shape::List(items) => self.list(path, items, &fitting),
            Shape::Map(entries) => Some(Value::Object(self.map(path, &node.origin, entries, &fitting))),
        }
    }

    fn error(&mut self, path: &str, origin: &Origin, message: impl Into<String>) {
        self.errors.add(path, Some(origin.clone()), message);
    }

    fn number(&mut self, path: &str, node: &Node, number: &serde_json::Number, fitting: &[Form<'_>]) -> Option<Value> {
        let bound = |name| fitting.iter().find_map(|form| form.get(name)).and_then(Value::as_f64);
        let value = number.as_f64()?;
        if let Some(min) = bound("minimum").filter(|min| value < *min) {
            self.error(path, &node.origin, format!("`{number}` is too small; the least is {min}"));
            return None;
        }
        if let Some(max) = bound("maximum").filter(|max| value > *max) {
            self.error(path, &node.origin, format!("`{number}` is too large; the most is {max}"));
            return None;
        }
        let bytes = number.as_u64().filter(|_| fitting.iter().any(|form| format(form) == "size"));
        if let Some(Err(message)) = bytes.map(|bytes| check_size(bytes, size_minimum(fitting))) {
            self.error(path, &node.origin, message);
            return None;
        }
        Some(Value::Number(number.clone()))
    }

    fn text(&mut self, path: &str, node: &Node, text: &str, fitting: &[Form<'_>]) -> Option<Value> {
        let checked = check_format(fitting, text).and_then(|()| {
            let known = choices(fitting);
            let open = fitting
                .iter()
                .any(|form| !form.contains_key("enum") && !form.contains_key("const"));
            if open || known.contains(&text) {
                return Ok(());
            }
            if is_not_available(&format!("{path}={text}")) {
                return Err(format!(
                    "`{text}` is not available in this version; use {}",
                    known.join(" or ")
                ));
            }
            Err(format!("unknown value `{text}`; {}", hint(text, &known)))
        });
        match checked {
            Ok(()) => Some(Value::String(text.to_owned())),
            Err(message) => {
                self.error(path, &node.origin, message);
                None
            }
        }
    }

    /// A list with a scalar item that does not fit is left out as a whole: shorter, it would mean something else.
    fn list(&mut self, path: &str, items: &[Node], fitting: &[Form<'_>]) -> Option<Value> {
        let schema = step_schema(fitting, "0").cloned().unwrap_or_default();
        let mut complete = Some(Vec::with_capacity(items.len()));
        for (n, item) in items.iter().enumerate() {
            match (self.value(&format!("{path}[{n}]"), item, &schema), &mut complete) {
                (Some(value), Some(values)) => values.push(value),
                _ => complete = None,
            }
        }
        complete.map(Value::Array)
    }

    fn map(
        &mut self,
        path: &str,
        origin: &Origin,
        entries: &[(String, Origin, Node)],
        fitting: &[Form<'_>],
    ) -> Map<String, Value> {
        let mut result = Map::new();
        let mut seen: Vec<(&str, &Origin)> = Vec::new();
        for (key, key_origin, node) in entries {
            let child = join(path, key);
            if let Some((_, first)) = seen.iter().find(|(other, _)| other == key) {
                let first = (*first).clone();
                self.error(
                    &child,
                    key_origin,
                    format!("this key is given twice (first at {first}); remove one"),
                );
                continue;
            }
            seen.push((key, key_origin));
            match step_schema(fitting, key) {
                Some(schema) => result.extend(self.value(&child, node, schema).map(|value| (key.clone(), value))),
                None => self.unknown_key(path, key, key_origin, node, fitting),
            }
        }
        let required = fitting.iter().filter_map(|form| form.get("required")?.as_array()).flatten();
        for key in required
            .filter_map(Value::as_str)
            .filter(|key| !seen.iter().any(|(seen, _)| seen == key))
        {
            self.error(&join(path, key), origin, "this key is required");
        }
        result
    }

    fn unknown_key(&mut self, path: &str, key: &str, origin: &Origin, node: &Node, fitting: &[Form<'_>]) {
        let child = join(path, key);
        if is_not_available(&child) {
            // `null` restricts nothing, so there is nothing to refuse
            if !matches!(node.shape, Shape::Null) {
                self.error(&child, origin, "not available in this version; remove this key");
            }
            return;
        }
        let known: Vec<&str> = fitting.iter().flat_map(|form| property_names(form)).collect();
        self.error(&child, origin, format!("unknown key; {}", hint(key, &known)));
    }
}

/// The JSON Schema of `cedargate.yaml`.
pub fn json_schema() -> Value {
    schemars::schema_for!(Document).to_value()
}

/// Every key of the schema, as documentation writes it: `listen.proxy.address`, `issuers[].name`,
/// `portals.<slug>.tenant`.
pub fn keys(root: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect_keys(root, root, "", &mut found);
    found
}

fn collect_keys(root: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    for form in forms(root, schema) {
        let properties = form.get("properties").and_then(Value::as_object);
        for (key, below) in properties.into_iter().flatten() {
            let child = join(path, key);
            if !found.contains(&child) {
                found.push(child.clone());
            }
            collect_keys(root, below, &child, found);
        }
        if let Some(items) = form.get("items") {
            collect_keys(root, items, &format!("{path}[]"), found);
        }
        if let Some(any) = form.get("additionalProperties").filter(|schema| schema.is_object()) {
            collect_keys(root, any, &join(path, "<slug>"), found);
        }
    }
}

/// Names of the keys a form declares.
pub fn property_names(form: Form<'_>) -> impl Iterator<Item = &str> {
    let properties = form.get("properties").and_then(Value::as_object);
    properties
        .into_iter()
        .flat_map(|properties| properties.keys().map(String::as_str))
}

/// True if values at this schema must never be shown.
pub fn is_secret(schema: &Value) -> bool {
    schema.get("writeOnly") == Some(&Value::Bool(true))
}

fn json_types(node: &Node) -> &'static [&'static str] {
    match &node.shape {
        Shape::Null => &["null"],
        Shape::Bool(_) => &["boolean"],
        Shape::Number(number) if number.is_f64() => &["number"],
        Shape::Number(_) => &["integer", "number"],
        Shape::Text(_) => &["string"],
        Shape::List(_) => &["array"],
        Shape::Map(_) => &["object"],
    }
}

fn format<'a>(form: Form<'a>) -> &'a str {
    form.get("format").and_then(Value::as_str).unwrap_or_default()
}

fn span_bound(fitting: &[Form<'_>], keyword: &str) -> Option<Duration> {
    let bound = fitting.iter().find_map(|form| form.get(keyword))?;
    parse_span(bound.as_str()?).ok()
}

fn size_minimum(fitting: &[Form<'_>]) -> u64 {
    let bound = fitting.iter().find_map(|form| form.get(TEXT_MINIMUM));
    bound.and_then(Value::as_u64).unwrap_or_default()
}

fn check_format(fitting: &[Form<'_>], text: &str) -> Result<(), String> {
    let format = fitting.iter().map(|form| format(form)).find(|format| !format.is_empty());
    match format.unwrap_or_default() {
        "short-duration" => parse_span(text).and_then(|span| {
            let min = span_bound(fitting, TEXT_MINIMUM);
            let max = span_bound(fitting, TEXT_MAXIMUM);
            check_span(span, min, max)
        }),
        "fsync" => Fsync::parse(text).map(drop),
        "size" => parse_size(text).and_then(|bytes| check_size(bytes, size_minimum(fitting))),
        "jws-algorithm" if text.starts_with("HS") => Err(format!(
            "`{text}` is symmetric: a party that can verify a token could also make one; use one of {}",
            ALGORITHMS.join(", ")
        )),
        "jws-algorithm" if text.eq_ignore_ascii_case("none") => Err(format!(
            "`{text}` would accept unsigned tokens; use one of {}",
            ALGORITHMS.join(", ")
        )),
        _ => Ok(()),
    }
}

fn choices<'a>(fitting: &[Form<'a>]) -> Vec<&'a str> {
    let several = fitting.iter().filter_map(|form| form.get("enum")?.as_array()).flatten();
    let single = fitting.iter().filter_map(|form| form.get("const"));
    several.chain(single).filter_map(Value::as_str).collect()
}

fn expected(forms: &[Form<'_>]) -> String {
    const NAMES: [(&str, &str); 6] = [
        ("boolean", "true or false"),
        ("integer", "a whole number"),
        ("string", "a string"),
        ("array", "a list"),
        ("object", "a mapping"),
        ("null", "null"),
    ];
    let allowed = |name: &str| forms.iter().any(|form| allows(form, name));
    let mut names: Vec<String> = Vec::new();
    for (json_name, name) in NAMES.into_iter().filter(|(json_name, _)| allowed(json_name)) {
        let texts: Vec<Form<'_>> = forms.iter().copied().filter(|form| allows(form, "string")).collect();
        let known = choices(&texts);
        let duration = texts
            .iter()
            .any(|form| form.get("format").is_some_and(|format| format == "short-duration"));
        names.push(match json_name {
            "string" if duration => "a duration such as `5s`".to_owned(),
            "string" if !known.is_empty() => format!("`{}`", known.join("`, `")),
            "array" => "a list such as `[a, b]`".to_owned(),
            _ => name.to_owned(),
        });
    }
    names.join(" or ")
}

fn describe(node: &Node) -> String {
    match &node.shape {
        Shape::Text(text) if text.len() <= 80 && !text.contains('@') => format!("the string `{text}`"),
        Shape::Number(number) => format!("the number `{number}`"),
        Shape::Bool(value) => format!("the boolean `{value}`"),
        _ => node.type_name().to_owned(),
    }
}
