//! The names that a description's paths and operations become: resource types, actions, groups.

use std::collections::{BTreeMap, BTreeSet};

use cedargate_policy::openapi::Operation;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// What a description may write as it is and the gate forwards as an escape, beside all that is not ASCII.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ');

/// Words that Cedar keeps for itself.
const KEYWORDS: [&str; 18] = [
    "true",
    "false",
    "if",
    "then",
    "else",
    "in",
    "is",
    "like",
    "has",
    "action",
    "entity",
    "type",
    "namespace",
    "tags",
    "enum",
    "appliesTo",
    "permit",
    "forbid",
];
/// Types of Cedar that a declared type would hide.
const BUILT_IN: [&str; 12] = [
    "Bool",
    "Boolean",
    "Long",
    "String",
    "Set",
    "Record",
    "Entity",
    "Extension",
    "ipaddr",
    "decimal",
    "datetime",
    "duration",
];

/// A path of the description as a route of the portal.
#[derive(Debug)]
pub(super) struct RoutePath {
    segments: Vec<NameSegment>,
    /// Position of the first segment of the description's own path.
    own: usize,
}

#[derive(Debug)]
enum NameSegment {
    Literal(String),
    /// A whole segment that is captured under this name.
    Value(String),
}

/// What an operation is about.
pub(super) struct OperationResource {
    pub ty: String,
    pub id: String,
}

/// The names in use. A type stands for one shape of ids only: two shapes would give one thing two names.
pub(super) struct UsedNames {
    types: BTreeMap<String, String>,
    actions: BTreeSet<String>,
}

impl RoutePath {
    pub fn parse(mount: &str, path: &str) -> Result<Self, String> {
        if path.contains(['?', '#']) {
            return Err("its path has a query; a route is a path alone".to_owned());
        }
        let of = |path: &str| -> Vec<String> {
            let path = path.trim_matches('/');
            path.split('/').filter(|_| !path.is_empty()).map(str::to_owned).collect()
        };
        let mut parsed = Self {
            segments: Vec::new(),
            own: of(mount).len(),
        };
        for segment in of(mount).into_iter().chain(of(path)) {
            let segment = parsed.segment(&segment);
            parsed.segments.push(segment);
        }
        Ok(parsed)
    }

    /// A segment with a parameter is captured whole: a route has no smaller parts.
    fn segment(&self, text: &str) -> NameSegment {
        if !text.contains('{') {
            return NameSegment::Literal(utf8_percent_encode(text, ESCAPED).to_string());
        }
        let name = words(text).join("_");
        let name = match name.chars().next() {
            Some(first) if first.is_ascii_alphabetic() => name,
            _ => format!("value_{name}"),
        };
        let mut free = name.clone();
        let mut number = 2;
        while self.values().any(|value| value == free) {
            free = format!("{name}_{number}");
            number += 1;
        }
        NameSegment::Value(free)
    }

    /// What a reader of the routes must know of a segment that is more or less than one parameter.
    pub fn remark(path: &str) -> Option<String> {
        let is_plain = |segment: &&str| {
            let inner = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            !segment.contains('{') || inner.is_some_and(|name| !name.contains(['{', '}', '+', '*']))
        };
        let segment = path.split('/').find(|segment| !is_plain(segment))?;
        Some(match segment.contains(['+', '*']) {
            true => format!("its route matches one segment in the place of `{segment}`, and no deeper path"),
            false => format!("its route matches every segment in the place of `{segment}`, whatever stands around the parameter"),
        })
    }

    fn values(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            NameSegment::Value(name) => Some(name.as_str()),
            NameSegment::Literal(_) => None,
        })
    }

    pub fn route(&self) -> String {
        self.written(|name| format!("{{{name}}}"))
    }

    pub fn example(&self) -> String {
        self.written(|_| "1".to_owned())
    }

    fn written(&self, value: impl Fn(&str) -> String) -> String {
        let segment = |segment: &NameSegment| match segment {
            NameSegment::Literal(text) => format!("/{text}"),
            NameSegment::Value(name) => format!("/{}", value(name)),
        };
        let text: String = self.segments.iter().map(segment).collect();
        if text.is_empty() { "/".to_owned() } else { text }
    }

    /// `/orders/{order}/items/{item}` → `OrderItem`; `/repos/{owner}/{name}` → `Repo`. Empty without a parameter.
    fn type_name(&self) -> String {
        let mut name = String::new();
        let mut before = None;
        let mut follows_a_value = false;
        for (at, segment) in self.segments.iter().enumerate() {
            match segment {
                NameSegment::Literal(text) => before = Some(text).filter(|_| at >= self.own),
                NameSegment::Value(value) => match before.take() {
                    Some(literal) => name.push_str(&pascal(&singular(literal))),
                    None if follows_a_value && !name.is_empty() => {}
                    None => name.push_str(&pascal(without_id(value))),
                },
            }
            follows_a_value = matches!(segment, NameSegment::Value(_));
        }
        name
    }

    /// The literal in front of each run of values, and how many values it has.
    fn shape(&self) -> String {
        let mut shape = String::new();
        let mut last = "";
        for segment in self.segments.iter().skip(self.own) {
            match segment {
                NameSegment::Literal(text) => last = text,
                NameSegment::Value(_) => {
                    shape.push_str(&format!("/{last}/*"));
                    last = "";
                }
            }
        }
        shape
    }
}

impl UsedNames {
    pub fn new(types: &BTreeSet<String>, actions: &BTreeSet<String>) -> Self {
        let reserved = types.iter().map(String::as_str).chain(KEYWORDS).chain(BUILT_IN);
        Self {
            // no path has this shape
            types: reserved.map(|name| (name.to_owned(), String::new())).collect(),
            actions: actions.clone(),
        }
    }

    pub fn resource(&mut self, path: &RoutePath) -> OperationResource {
        let values: Vec<String> = path.values().map(|name| format!("{{{name}}}")).collect();
        if values.is_empty() {
            let own = path.segments.iter().skip(path.own).map(|segment| match segment {
                NameSegment::Literal(text) | NameSegment::Value(text) => text.as_str(),
            });
            let id = own.collect::<Vec<_>>().join("/");
            return OperationResource {
                ty: self.claim("Collection", "collection"),
                id: if id.is_empty() { "/".to_owned() } else { id },
            };
        }
        let name = path.type_name();
        let name = if is_identifier(&name) {
            name
        } else {
            format!("Resource{name}")
        };
        OperationResource {
            ty: self.claim(&name, &path.shape()),
            id: values.join("/"),
        }
    }

    /// The name, or one like it if the name stands for something else.
    fn claim(&mut self, name: &str, shape: &str) -> String {
        let mut free = name.to_owned();
        let mut number = 1;
        while self.types.get(&free).is_some_and(|taken| taken != shape) {
            number += 1;
            free = match number {
                2 => format!("{name}Resource"),
                number => format!("{name}Resource{number}"),
            };
        }
        self.types.insert(free.clone(), shape.to_owned());
        free
    }

    /// The operation's own id, else its method and path.
    pub fn action(&mut self, operation: &Operation, path: &RoutePath) -> String {
        let own = operation.id.as_deref().map(str::trim);
        let made = made_of(&operation.method, path);
        let name = own.filter(|id| !self.actions.contains(*id)).unwrap_or(&made).to_owned();
        self.add_action(&name)
    }

    pub fn group(&mut self, tag: &str) -> String {
        let tag = tag.trim();
        if self.actions.contains(tag) {
            return self.add_action(&format!("{tag} operations"));
        }
        self.add_action(tag)
    }

    fn add_action(&mut self, name: &str) -> String {
        let mut free = name.to_owned();
        let mut number = 2;
        while !self.actions.insert(free.clone()) {
            free = format!("{name}{number}");
            number += 1;
        }
        free
    }
}

/// `GET /orders/{id}/items` → `getOrdersByIdItems`.
fn made_of(method: &str, path: &RoutePath) -> String {
    let mut name = method.to_ascii_lowercase();
    for segment in path.segments.iter().skip(path.own) {
        match segment {
            NameSegment::Literal(text) => name.push_str(&pascal(text)),
            NameSegment::Value(value) => name.push_str(&format!("By{}", pascal(value))),
        }
    }
    name
}

/// A name that Cedar reads without quotes.
pub(super) fn is_identifier(name: &str) -> bool {
    let mut letters = name.chars();
    let starts = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    starts && letters.all(|c| c.is_ascii_alphanumeric() || c == '_') && !KEYWORDS.contains(&name) && !name.starts_with("__cedar")
}

fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .collect()
}

fn pascal(text: &str) -> String {
    let parts = text
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty());
    let upper = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    parts.map(upper).collect()
}

/// `orderId`, `order_id` → `order`.
fn without_id(name: &str) -> &str {
    let short = ["_id", "Id", "ID"].iter().find_map(|end| name.strip_suffix(end));
    short.filter(|short| !short.is_empty()).unwrap_or(name)
}

/// The usual English rules; a wrong guess is only a less pretty name.
fn singular(word: &str) -> String {
    let end = |end: &str, new: &str| {
        let stem = word.strip_suffix(end).filter(|stem| stem.len() > 1);
        stem.map(|stem| format!("{stem}{new}"))
    };
    if ["series", "species", "news", "us", "ss"]
        .iter()
        .any(|end| word.ends_with(end))
    {
        return word.to_owned();
    }
    end("ies", "y")
        .or_else(|| end("sses", "ss"))
        .or_else(|| end("uses", "us"))
        .or_else(|| end("ches", "ch"))
        .or_else(|| end("shes", "sh"))
        .or_else(|| end("xes", "x"))
        .or_else(|| end("s", ""))
        .unwrap_or_else(|| word.to_owned())
}
