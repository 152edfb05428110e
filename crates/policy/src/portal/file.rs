//! `portal.yaml`: the settings that a portal's own team makes for its traffic.
//!
//! Read while a revision loads, never on a request. Every error is reported at once with its line and key; a file with
//! any error is rejected whole. An unknown key is an error: a misspelt key would otherwise silently have no effect.

mod flags;

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use thiserror::Error;
use url::Url;

use super::path::rules::{Case, PathRules};
use super::path::{CanonicalPath, is_canonical_id};
use super::route::{PublicPaths, RouteSpec, RouteTable};
use crate::claim_path::{ClaimMapping, ClaimPath};
use crate::flags::Flag;
use crate::text::YamlMistake;

/// A checked `portal.yaml`; a default is the meaning of an absent key.
#[derive(Clone, Debug, Default)]
pub struct PortalFile {
    pub title: Option<String>,
    /// Cedar namespace of actions and types that are written without one.
    pub namespace: Option<String>,
    pub public: PublicPaths,
    pub routes: RouteTable,
    /// How the app reads paths.
    pub paths: PathRules,
    /// Attribute of the principal → claim.
    pub claims: ClaimMapping,
    pub flags: BTreeMap<String, Flag>,
    pub flag_lines: BTreeMap<String, Option<usize>>,
    /// Context fields that only the app gives, at `/authorize`, with their lines.
    pub supplied: BTreeMap<String, Option<usize>>,
    /// The login of a browser without a session; absent: 401 only.
    pub login: Option<LoginBy>,
    pub cors: Cors,
    pub danger_skip_errors: SkipErrors,
}

/// The providers at which a browser can log in. With several, the user chooses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LoginBy {
    /// Not empty; no name is there twice.
    pub providers: Vec<NamedProvider>,
}

/// A provider that the file names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamedProvider {
    /// A key of `login.providers`.
    pub name: String,
    pub line: Option<usize>,
}

/// The component that answers a CORS preflight.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Cors {
    /// No component: an OPTIONS request is decided as every other request.
    #[default]
    Absent,
    /// The app: the gate forwards preflights to it, without credentials.
    App,
    /// The gate, for these exact origins.
    Origins(Vec<String>),
}

/// The effect of an error in a forbid.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SkipErrors {
    /// The query is denied.
    #[default]
    Deny,
    /// Cedar's own rule: the policy is skipped.
    DangerSkip,
}

#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{}{key}: {message}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub struct PortalFileError {
    pub line: Option<usize>,
    /// Dotted, list items by index.
    pub key: String,
    pub message: String,
}

const KEYS: [&str; 11] = [
    "title",
    "namespace",
    "public",
    "routes",
    "paths",
    "claims",
    "flags",
    "context",
    "login",
    "cors",
    "danger_skip_errors",
];

/// A YAML value with its position in the file.
#[derive(Debug)]
enum PlacedValue {
    Null,
    Bool(bool),
    /// A whole number, if it is one.
    Number(Option<i64>),
    Text(String),
    List(Vec<Spanned<PlacedValue>>),
    Map(Vec<(Spanned<String>, Spanned<PlacedValue>)>),
}

/// A node with the key that leads to it.
#[derive(Clone)]
struct SourceLocation<'a> {
    key: String,
    line: Option<usize>,
    node: &'a PlacedValue,
}

type Errors = Vec<PortalFileError>;

impl PortalFile {
    /// An empty text is a file without keys.
    pub fn parse(text: &str) -> Result<Self, Vec<PortalFileError>> {
        // Only `true` and `false` are booleans: an action may well be called `on`.
        let options = serde_saphyr::options! { strict_booleans: true };
        let root: Spanned<PlacedValue> =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| vec![syntax_error(text, &error)])?;
        let root = SourceLocation {
            key: String::new(),
            line: Some(1),
            node: &root.value,
        };
        let mut file = Self::default();
        let mut errors = Errors::new();
        if !matches!(root.node, PlacedValue::Null) {
            let entries = root.entries(Some(&KEYS), &mut errors);
            // routes and public entries are compared as these rules say
            if let Some((_, place)) = entries.iter().find(|(name, _)| *name == "paths") {
                file.paths = paths(place, &mut errors);
            }
            for (name, place) in entries {
                file.take(name, &place, &mut errors);
            }
        }
        if errors.is_empty() { Ok(file) } else { Err(errors) }
    }

    fn take(&mut self, name: &str, place: &SourceLocation<'_>, errors: &mut Errors) {
        match name {
            "title" => self.title = place.text(errors),
            "namespace" => self.namespace = place.text(errors).filter(|text| is_namespace(text, place, errors)),
            "public" => self.public = public(place, self.paths.case, errors),
            "routes" => self.routes = routes(place, self.paths.case, errors),
            "claims" => {
                let entries = place.entries(None, errors);
                self.claims = entries
                    .iter()
                    .filter_map(|(k, v)| Some(((*k).to_owned(), claim_path(v, errors)?)))
                    .collect();
            }
            "flags" => {
                let entries = place.entries(None, errors);
                self.flag_lines = entries.iter().map(|(k, v)| ((*k).to_owned(), v.line)).collect();
                self.flags = entries
                    .iter()
                    .filter_map(|(k, v)| Some(((*k).to_owned(), flags::flag(v, errors)?)))
                    .collect();
            }
            "context" => self.supplied = supplied(place, errors),
            "login" => self.login = login(place, errors),
            "cors" => self.cors = cors(place, errors),
            "danger_skip_errors" => {
                self.danger_skip_errors = match place.bool(errors) {
                    Some(true) => SkipErrors::DangerSkip,
                    Some(false) | None => SkipErrors::Deny,
                }
            }
            _ => {}
        }
    }
}

impl<'a> SourceLocation<'a> {
    fn error(&self, message: impl Into<String>) -> PortalFileError {
        PortalFileError {
            line: self.line,
            key: self.key.clone(),
            message: message.into(),
        }
    }

    fn text(&self, errors: &mut Errors) -> Option<String> {
        match self.node {
            PlacedValue::Text(text) if !text.trim().is_empty() => return Some(text.clone()),
            PlacedValue::Text(_) => errors.push(self.error("is empty; write a text or remove the key")),
            other => errors.push(self.error(format!("{other} where a text belongs; put it in quotes if it is one"))),
        }
        None
    }

    fn bool(&self, errors: &mut Errors) -> Option<bool> {
        if let PlacedValue::Bool(value) = self.node {
            return Some(*value);
        }
        let message = match self.node {
            PlacedValue::Text(text) => match spelt_boolean(text) {
                Some(meant) => format!("`{text}` is a text in YAML; write `{meant}`, without quotes"),
                None => format!("the text `{text}` where `true` or `false` belongs"),
            },
            other => format!("{other} where `true` or `false` belongs"),
        };
        errors.push(self.error(message));
        None
    }

    fn items(&self, errors: &mut Errors) -> Vec<SourceLocation<'a>> {
        let PlacedValue::List(items) = self.node else {
            errors.push(self.error(format!("{} where a list belongs", self.node)));
            return Vec::new();
        };
        let item = |(index, item): (usize, &'a Spanned<PlacedValue>)| SourceLocation {
            key: format!("{}[{index}]", self.key),
            line: line_of(item),
            node: &item.value,
        };
        items.iter().enumerate().map(item).collect()
    }

    /// The entries of a map, without those whose key is not one of `known`.
    fn entries(&self, known: Option<&[&str]>, errors: &mut Errors) -> Vec<(&'a str, SourceLocation<'a>)> {
        let PlacedValue::Map(entries) = self.node else {
            errors.push(self.error(format!("{} where keys and values belong", self.node)));
            return Vec::new();
        };
        let mut places = Vec::new();
        for (key, value) in entries {
            let name = key.value.as_str();
            let place = SourceLocation {
                key: if self.key.is_empty() {
                    name.to_owned()
                } else {
                    format!("{}.{name}", self.key)
                },
                line: line_of(key).or_else(|| line_of(value)),
                node: &value.value,
            };
            match known.filter(|known| !known.contains(&name)) {
                Some(known) => errors.push(place.error(unknown_key(name, known))),
                None => places.push((name, place)),
            }
        }
        places
    }
}

/// The boolean that a text stands for in older versions of YAML, or in quotes.
fn spelt_boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

/// The message for a key that a file does not have, with the key that was meant.
pub(crate) fn unknown_key(name: &str, known: &[&str]) -> String {
    let nearest = known.iter().min_by_key(|key| strsim::damerau_levenshtein(key, name));
    match nearest.filter(|key| strsim::damerau_levenshtein(key, name) <= 3) {
        Some(key) => format!("unknown key `{name}`; did you mean `{key}`?"),
        None => format!("unknown key `{name}`; known are {}", known.join(", ")),
    }
}

fn claim_path(place: &SourceLocation<'_>, errors: &mut Errors) -> Option<ClaimPath> {
    let text = place.text(errors)?;
    let path = ClaimPath::parse(&text);
    path.map_err(|error| errors.push(place.error(format!("`{text}` {error}"))))
        .ok()
}

fn is_namespace(text: &str, place: &SourceLocation<'_>, errors: &mut Errors) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let name = |part: &str| part.starts_with(first) && part.chars().all(|c| first(c) || c.is_ascii_digit());
    let valid = text.split("::").all(name);
    if !valid {
        errors.push(place.error(format!("`{text}` is not a Cedar namespace; write names with `::` between")));
    }
    valid
}

fn paths(place: &SourceLocation<'_>, errors: &mut Errors) -> PathRules {
    let mut rules = PathRules::default();
    let entries = place.entries(Some(&["case", "opaque"]), errors);
    for (name, place) in &entries {
        match *name {
            "case" => match place.text(errors).as_deref() {
                Some("ignored") => rules.case = Case::Ignored,
                Some("distinguished") | None => {}
                Some(text) => errors.push(place.error(format!("`{text}` is neither `ignored` nor `distinguished`"))),
            },
            _ => {
                for item in place.items(errors) {
                    rules.opaque.extend(opaque_prefix(&item, errors));
                }
            }
        }
    }
    for prefix in &mut rules.opaque {
        *prefix = match (PathRules {
            case: rules.case,
            opaque: Vec::new(),
        })
        .fold(prefix)
        {
            Ok(folded) => folded.into_owned(),
            Err(refusal) => {
                errors.push(place.error(format!("`{prefix}`: {}", refusal.detail)));
                continue;
            }
        };
    }
    rules
}

fn opaque_prefix(item: &SourceLocation<'_>, errors: &mut Errors) -> Option<String> {
    let text = item.text(errors)?;
    let is_plain = |path: &CanonicalPath| is_canonical_id(&text) && path.plain_id() == text;
    if CanonicalPath::parse(&text).is_ok_and(|path| is_plain(&path)) {
        return Some(text);
    }
    errors.push(item.error(format!(
        "`{text}` is not a canonical path; write it with a leading and without a trailing `/`, without needless escapes"
    )));
    None
}

fn public(place: &SourceLocation<'_>, case: Case, errors: &mut Errors) -> PublicPaths {
    let items = place.items(errors);
    let texts: Vec<(usize, String)> = items
        .iter()
        .enumerate()
        .filter_map(|(i, item)| Some((i, item.text(errors)?)))
        .collect();
    let entries: Vec<&str> = texts.iter().map(|(_, text)| text.as_str()).collect();
    PublicPaths::new(&entries, case).unwrap_or_else(|refused| {
        for (at, error) in refused {
            let item = texts.get(at).and_then(|(index, _)| items.get(*index));
            errors.push(item.unwrap_or(place).error(error.to_string()));
        }
        PublicPaths::default()
    })
}

fn routes(place: &SourceLocation<'_>, case: Case, errors: &mut Errors) -> RouteTable {
    let specs: Vec<(SourceLocation<'_>, RouteSpec)> = place
        .items(errors)
        .into_iter()
        .filter_map(|item| route(&item, errors).map(|spec| (item, spec)))
        .collect();
    let plain: Vec<RouteSpec> = specs.iter().map(|(_, spec)| spec.clone()).collect();
    RouteTable::new(&plain, case).unwrap_or_else(|refused| {
        for (index, error) in refused {
            let item = specs.get(index).map_or(place, |(item, _)| item);
            errors.push(item.error(error.to_string()));
        }
        RouteTable::default()
    })
}

fn route(item: &SourceLocation<'_>, errors: &mut Errors) -> Option<RouteSpec> {
    let before = errors.len();
    let entries = item.entries(Some(&["route", "action", "resource"]), errors);
    let route = required(item, &entries, "route", errors).and_then(|p| p.text(errors));
    let action = required(item, &entries, "action", errors).and_then(|p| p.text(errors));
    let resource = required(item, &entries, "resource", errors)?;
    let parts = resource.entries(Some(&["type", "id"]), errors);
    let resource_type = required(&resource, &parts, "type", errors).and_then(|p| p.text(errors));
    let resource_id = required(&resource, &parts, "id", errors).and_then(|p| p.text(errors));
    let spec = RouteSpec {
        route: route?,
        action: action?,
        resource_type: resource_type?,
        resource_id: resource_id?,
    };
    (errors.len() == before).then_some(spec)
}

/// `{ provider: corp }`, or `{ providers: [corp, partner] }`.
fn login(place: &SourceLocation<'_>, errors: &mut Errors) -> Option<LoginBy> {
    let entries = place.entries(Some(&["provider", "providers"]), errors);
    let named = |name: &str| entries.iter().find(|(key, _)| *key == name).map(|(_, place)| place);
    let places = match (named("provider"), named("providers")) {
        (Some(_), Some(list)) => {
            errors.push(list.error("`provider` is given, too; keep one of them"));
            return None;
        }
        (None, Some(list)) => {
            let items = list.items(errors);
            if matches!(list.node, PlacedValue::List(none) if none.is_empty()) {
                errors.push(list.error("names no provider; name one, or remove `login`"));
            }
            items
        }
        (_, None) => required(place, &entries, "provider", errors).into_iter().collect(),
    };
    let mut providers: Vec<NamedProvider> = Vec::new();
    for place in places {
        let Some(name) = place.text(errors) else { continue };
        if providers.iter().any(|known| known.name == name) {
            errors.push(place.error(format!("`{name}` is named twice; remove one of them")));
        }
        providers.push(NamedProvider { name, line: place.line });
    }
    (!providers.is_empty()).then_some(LoginBy { providers })
}

fn required<'a>(
    parent: &SourceLocation<'a>,
    entries: &[(&str, SourceLocation<'a>)],
    name: &str,
    errors: &mut Errors,
) -> Option<SourceLocation<'a>> {
    let found = entries.iter().find(|(key, _)| *key == name);
    if found.is_none() && matches!(parent.node, PlacedValue::Map(_)) {
        errors.push(parent.error(format!("`{name}` is missing")));
    }
    found.map(|(_, place)| place.clone())
}

/// `{ supplied: [name, …] }`: the names with their lines.
fn supplied(place: &SourceLocation<'_>, errors: &mut Errors) -> BTreeMap<String, Option<usize>> {
    let entries = place.entries(Some(&["supplied"]), errors);
    let list = required(place, &entries, "supplied", errors);
    let names = list.map(|list| list.items(errors)).unwrap_or_default();
    names
        .iter()
        .filter_map(|name| Some((name.text(errors)?, name.line)))
        .collect()
}

fn cors(place: &SourceLocation<'_>, errors: &mut Errors) -> Cors {
    if let PlacedValue::Text(text) = place.node {
        if text == "app" {
            return Cors::App;
        }
        errors.push(place.error(format!("`{text}` is neither `app` nor `{{ origins: [...] }}`")));
        return Cors::Absent;
    }
    let entries = place.entries(Some(&["origins"]), errors);
    let Some(list) = required(place, &entries, "origins", errors) else {
        return Cors::Absent;
    };
    let mut origins = Vec::new();
    for item in list.items(errors) {
        match item.text(errors) {
            Some(text) if is_origin(&text) => origins.push(text),
            Some(text) => errors.push(item.error(format!(
                "`{text}` is not an exact origin; write `https://host` or `https://host:port` in lower case, without path or `*`"
            ))),
            None => {}
        }
    }
    Cors::Origins(origins)
}

/// Exactly what a browser sends in `Origin`: serialised again it must be the same text.
fn is_origin(text: &str) -> bool {
    let web = |url: &Url| matches!(url.scheme(), "http" | "https") && !text.contains('*');
    Url::parse(text).is_ok_and(|url| web(&url) && url.origin().ascii_serialization() == text)
}

fn line_of<T>(spanned: &Spanned<T>) -> Option<usize> {
    usize::try_from(spanned.referenced.line()).ok().filter(|line| *line > 0)
}

fn syntax_error(text: &str, error: &serde_saphyr::Error) -> PortalFileError {
    let YamlMistake { line, key, message } = YamlMistake::of(text, error);
    PortalFileError {
        line,
        key: key.unwrap_or_else(|| "portal.yaml".to_owned()),
        message,
    }
}

impl fmt::Display for PlacedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        })
    }
}

impl<'de> Deserialize<'de> for PlacedValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = PlacedValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<PlacedValue, E> {
        Ok(PlacedValue::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<PlacedValue, E> {
        Ok(PlacedValue::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<PlacedValue, D::Error> {
        PlacedValue::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<PlacedValue, E> {
        Ok(PlacedValue::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<PlacedValue, E> {
        Ok(PlacedValue::Number(Some(value)))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<PlacedValue, E> {
        Ok(PlacedValue::Number(i64::try_from(value).ok()))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<PlacedValue, E> {
        Ok(PlacedValue::Number(None))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<PlacedValue, E> {
        Ok(PlacedValue::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<PlacedValue, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(PlacedValue::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<PlacedValue, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(PlacedValue::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portal::path::CanonicalPath;

    const FULL: &str = r#"
title: Customer portal
namespace: Shop
public: [ "GET /portal/customer/assets/**" ]
routes:
  - { route: "GET /portal/customer/orders/{order}", action: viewOrder, resource: { type: Order, id: "{order}" } }
paths: { case: distinguished, opaque: [ "/portal/customer/files" ] }
claims: { email: mail }
context: { supplied: [cart_total] }
flags: { new_checkout: true, banner: { value: false, public: true }, quiet: { value: true } }
cors: { origins: ["https://ui.example.com", "http://localhost:3000"] }
danger_skip_errors: false
"#;

    fn only_error(text: &str) -> PortalFileError {
        let mut errors = PortalFile::parse(text).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors.remove(0)
    }

    #[test]
    fn every_key_is_read() {
        let file = PortalFile::parse(FULL).unwrap();
        let path = |raw: &str| CanonicalPath::parse(raw).unwrap();
        let found = |raw: &str| {
            let path = path(raw);
            let reading = file.paths.read(&path).unwrap();
            file.routes.find("GET", &reading).map(|found| found.resource_id)
        };
        assert_eq!(file.title.as_deref(), Some("Customer portal"));
        assert_eq!(file.namespace.as_deref(), Some("Shop"));
        let asset = path("/portal/customer/assets/x.css");
        assert!(file.public.find("GET", &file.paths.read(&asset).unwrap()).is_some());
        assert_eq!(found("/portal/customer/orders/7").as_deref(), Some("7"));
        assert_eq!(
            file.paths,
            PathRules {
                case: Case::Distinguished,
                opaque: vec!["/portal/customer/files".to_owned()]
            }
        );
        assert_eq!(file.claims.get("email").unwrap().as_str(), "mail");
        let flag = |value, public| Flag {
            value: crate::flags::FlagValue::Bool(value),
            public,
            audience: None,
        };
        assert_eq!(file.flags["new_checkout"], flag(true, false));
        assert_eq!(file.flags["banner"], flag(false, true));
        assert_eq!(file.flags["quiet"], flag(true, false));
        assert_eq!(file.supplied.keys().collect::<Vec<_>>(), ["cart_total"]);
        assert!(matches!(&file.cors, Cors::Origins(origins) if origins.len() == 2));
        assert_eq!(file.danger_skip_errors, SkipErrors::Deny);
    }

    #[test]
    fn every_key_is_optional() {
        for text in ["", "# nothing\n", "{}", "title: x"] {
            let file = PortalFile::parse(text).unwrap();
            assert!(file.public.is_empty() && file.routes.routes().is_empty(), "{text}");
            assert_eq!((file.cors, file.danger_skip_errors), (Cors::Absent, SkipErrors::Deny));
        }
        assert_eq!(PortalFile::parse("cors: app").unwrap().cors, Cors::App);
        let skip = PortalFile::parse("danger_skip_errors: true").unwrap();
        assert_eq!(skip.danger_skip_errors, SkipErrors::DangerSkip);
    }

    #[test]
    fn paths_say_how_the_app_reads_them() {
        let file = PortalFile::parse("routes: []\npaths: { opaque: [\"/Api\", /], case: ignored }").unwrap();
        assert_eq!(file.paths.case, Case::Ignored);
        assert_eq!(file.paths.opaque, ["/api", "/"]);
        for (bad, key) in [
            ("{ case: lower }", "paths.case"),
            ("{ case: true }", "paths.case"),
            ("{ opaque: /a }", "paths.opaque"),
            ("{ opaque: [a] }", "paths.opaque[0]"),
            ("{ opaque: [/b, /a/] }", "paths.opaque[1]"),
            ("{ opaque: [/a%2Fb] }", "paths.opaque[0]"),
            ("{ opaque: [/a//b] }", "paths.opaque[0]"),
            ("{ opaque: [/a%3Ab] }", "paths.opaque[0]"),
            ("{ opaq: [/a] }", "paths.opaq"),
            ("[]", "paths"),
        ] {
            assert_eq!(only_error(&format!("paths: {bad}")).key, key, "{bad}");
        }
        // a route is read by the rules, wherever they stand
        let text = "routes:\n  - { route: GET /A, action: b, resource: { type: T, id: x } }\n  - { route: GET /a, action: b, resource: { type: T, id: x } }\npaths: { case: ignored }\n";
        assert_eq!(only_error(text).key, "routes[1]");
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_key() {
        let error = only_error("title: x\npublc: []\n");
        assert_eq!((error.line, error.key.as_str()), (Some(2), "publc"));
        assert!(error.message.contains("`public`"), "{error}");
        let error = only_error("routes:\n  - route: GET /a\n    acton: x\n    action: view\n    resource: { type: A, id: b }\n");
        assert_eq!((error.line, error.key.as_str()), (Some(3), "routes[0].acton"));
    }

    #[test]
    fn all_errors_are_reported_at_once_with_their_lines() {
        let text = "title: 7\npublic:\n  - GET /a\n  - get /b\nflags: { x: 1.5 }\nrouts: []\nlogin: { provide: corp }\n";
        let errors = PortalFile::parse(text).unwrap_err();
        let places: Vec<_> = errors.iter().map(|e| (e.line.unwrap(), e.key.as_str())).collect();
        for place in [
            (1, "title"),
            (4, "public[1]"),
            (5, "flags.x"),
            (6, "routs"),
            (7, "login.provide"),
        ] {
            assert!(places.contains(&place), "{place:?} is not in {places:?}");
        }
        assert!(places.contains(&(7, "login")), "its `provider` is missing: {places:?}");
        assert_eq!(places.len(), 6);
    }

    #[test]
    fn only_true_and_false_are_booleans() {
        assert_eq!(PortalFile::parse("title: yes").unwrap().title.as_deref(), Some("yes"));
        for (text, advice) in [
            ("yes", "write `true`"),
            ("On", "write `true`"),
            ("no", "write `false`"),
            ("'true'", "without quotes"),
            ("maybe", "the text `maybe` where"),
            ("1", "a number where"),
        ] {
            let error = only_error(&format!("danger_skip_errors: {text}"));
            assert_eq!(error.key, "danger_skip_errors");
            assert!(error.message.contains(advice), "{text}: {error}");
        }
        for (text, advice) in [("yes", "write `true`"), ("no", "write `false`"), ("'true'", "without quotes")] {
            let error = only_error(&format!("flags: {{ beta: {text} }}"));
            assert!(error.message.contains(advice), "{text}: {error}");
        }
        for text in ["true", "True", "TRUE"] {
            let file = PortalFile::parse(&format!("danger_skip_errors: {text}")).unwrap();
            assert_eq!(file.danger_skip_errors, SkipErrors::DangerSkip, "{text}");
        }
    }

    #[test]
    fn login_names_a_provider() {
        let by = PortalFile::parse("title: x\nlogin: { provider: corp }")
            .unwrap()
            .login
            .unwrap();
        let names = |by: &LoginBy| by.providers.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
        assert_eq!((names(&by), by.providers[0].line), (vec!["corp".to_owned()], Some(2)));
        let several = PortalFile::parse("login: { providers: [corp, partner] }")
            .unwrap()
            .login
            .unwrap();
        assert_eq!(names(&several), ["corp", "partner"]);
        for (bad, says) in [
            ("{ providers: [] }", "names no provider"),
            ("{ providers: [a, a] }", "named twice"),
            ("{ providers: [a], provider: b }", "keep one"),
            ("{ providers: corp }", "where a list belongs"),
        ] {
            let error = only_error(&format!("login: {bad}"));
            assert!(error.message.contains(says), "{bad}: {}", error.message);
        }
        for bad in [
            "{ value: 1.5 }",
            "{ public: true }",
            "{ value: true, publc: true }",
            "{ value: true, public: x }",
        ] {
            PortalFile::parse(&format!("flags: {{ x: {bad} }}")).unwrap_err();
        }
        assert!(only_error("login: {}").message.contains("`provider` is missing"));
    }

    #[test]
    fn route_errors_carry_the_line_of_their_route() {
        let row = |route: &str| format!("  - {{ route: \"{route}\", action: a, resource: {{ type: A, id: b }} }}\n");
        let error = only_error(&format!("routes:\n{}{}", row("GET /{x}"), row("GET /{y}")));
        assert_eq!((error.line, error.key.as_str()), (Some(3), "routes[1]"));
        assert!(
            error.message.contains("GET /{x}") && error.message.contains("GET /{y}"),
            "{error}"
        );
        let error = only_error("routes:\n  - { route: GET /a, action: b }\n");
        assert!(error.message.contains("`resource` is missing"), "{error}");
    }

    #[test]
    fn broken_yaml_and_repeated_keys_are_errors() {
        assert_eq!(only_error("title: x\ntitle: y\n").line, Some(2));
        only_error("title: [");
        only_error("- a");
        only_error("just text");
    }

    #[test]
    fn origins_are_exact() {
        for bad in [
            "*",
            "https://*.example.com",
            "https://a.test/",
            "https://a.test/x",
            "a.test",
            "https://A.test",
            "https://a.test:443",
            "https://u@a.test",
            "null",
            "ftp://a.test",
        ] {
            let error = only_error(&format!("cors: {{ origins: [\"{bad}\"] }}"));
            assert_eq!(error.key, "cors.origins[0]", "{bad}");
        }
        only_error("cors: any");
        only_error("cors: {}");
    }

    #[test]
    fn the_published_schema_has_exactly_the_keys_that_are_read() {
        let schema: serde_json::Value = serde_json::from_str(include_str!("../../../../schemas/portal.schema.json")).unwrap();
        let mut published: Vec<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut keys = KEYS.to_vec();
        published.sort_unstable();
        keys.sort_unstable();
        assert_eq!(published, keys);
    }
}
