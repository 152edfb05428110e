//! An OpenAPI description (3.0, 3.1 or 3.2, JSON or YAML): the operations that an app says it has.
//!
//! Reads only what routes are made of and compared with: method, path, operation id, tags, and whether the file asks
//! for no login. Everything else in the file may be anything. A description decides nothing.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use thiserror::Error;

use crate::portal::path::CanonicalPath;
use crate::text::yaml_message;

/// Nodes of a YAML document; the largest public descriptions have about a million.
const YAML_NODES_MAX: usize = 8_000_000;
/// Deepest nesting of a YAML document.
const YAML_DEPTH_MAX: usize = 200;
/// What stands for a value in an example path; no real path has a segment of this name.
const VALUE: &str = "0value0";

/// A description as it was read.
#[derive(Clone, Debug, Default)]
pub struct OpenApi {
    pub title: Option<String>,
    /// Path of the first server, without a slash at its end; often empty.
    pub base: String,
    /// In the order of the file.
    pub operations: Vec<Operation>,
    /// What the file has and this reader leaves out.
    pub left_out: Vec<String>,
}

/// One method of one path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Operation {
    /// In upper case.
    pub method: String,
    /// As the file writes it.
    pub path: String,
    pub id: Option<String>,
    pub tags: Vec<String>,
    /// True if the file says that the operation needs no login.
    pub is_open: bool,
}

/// The file is no description that can be read.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum OpenApiError {
    #[error("{message}")]
    Syntax { message: String, line: Option<usize> },
    #[error("it is Swagger {0}; convert it to OpenAPI 3 first, for example with `npx swagger2openapi`")]
    Swagger(String),
    #[error("it has no `openapi: 3.…`, so it is no OpenAPI description")]
    Unversioned,
    #[error("it is OpenAPI {0}; 3.0, 3.1 and 3.2 are known")]
    Version(String),
}

#[derive(serde::Deserialize)]
struct Document {
    #[serde(default)]
    openapi: Option<Text>,
    #[serde(default)]
    swagger: Option<Text>,
    #[serde(default)]
    info: Option<Info>,
    #[serde(default)]
    servers: Option<Vec<Server>>,
    #[serde(default)]
    security: Option<Vec<BTreeMap<String, IgnoredAny>>>,
    #[serde(default)]
    paths: Option<Paths>,
    #[serde(default)]
    components: Option<Components>,
}

#[derive(serde::Deserialize)]
struct Info {
    #[serde(default)]
    title: Option<Text>,
}

#[derive(serde::Deserialize)]
struct Server {
    #[serde(default)]
    url: Option<Text>,
}

#[derive(serde::Deserialize)]
struct Components {
    #[serde(default, rename = "pathItems")]
    path_items: Option<BTreeMap<String, PathItem>>,
}

/// In the order of the file, without extensions (`x-…`).
#[derive(Default)]
struct Paths(Vec<(String, PathItem)>);

#[derive(Clone, Default, serde::Deserialize)]
#[serde(default)]
struct PathItem {
    #[serde(rename = "$ref")]
    reference: Option<String>,
    get: Option<Details>,
    put: Option<Details>,
    post: Option<Details>,
    delete: Option<Details>,
    options: Option<Details>,
    head: Option<Details>,
    patch: Option<Details>,
    trace: Option<Details>,
    query: Option<Details>,
}

#[derive(Clone, Default, serde::Deserialize)]
#[serde(default)]
struct Details {
    #[serde(rename = "operationId")]
    operation_id: Option<Text>,
    tags: Option<Vec<Text>>,
    security: Option<Vec<BTreeMap<String, IgnoredAny>>>,
}

/// A text that JSON or YAML may also write as a number.
#[derive(Clone)]
struct Text(String);

impl OpenApi {
    pub fn parse(text: &str) -> Result<Self, OpenApiError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let document: Document = read(text)?;
        match (document.openapi, document.swagger) {
            (Some(Text(version)), _) if is_known(&version) => {}
            (Some(Text(version)), _) => return Err(OpenApiError::Version(version)),
            (None, Some(Text(version))) => return Err(OpenApiError::Swagger(version)),
            (None, None) => return Err(OpenApiError::Unversioned),
        }
        let servers = document.servers.unwrap_or_default();
        let mut api = Self {
            title: document.info.and_then(|info| info.title).map(|title| title.0),
            base: servers
                .into_iter()
                .next()
                .and_then(|server| server.url)
                .map(|url| base_path(&url))
                .unwrap_or_default(),
            ..Self::default()
        };
        let items = document.components.and_then(|it| it.path_items).unwrap_or_default();
        let by_default = match document.security {
            Some(all) if !all.is_empty() => DefaultLogin::Asked,
            _ => DefaultLogin::Unstated,
        };
        for (path, item) in document.paths.unwrap_or_default().0 {
            match item.resolved(&items) {
                Ok(item) => api.add(&path, item, by_default),
                Err(reference) => api.left_out.push(format!("path `{path}`: `{reference}` is not in this file")),
            }
        }
        Ok(api)
    }

    fn add(&mut self, path: &str, item: PathItem, by_default: DefaultLogin) {
        for (method, details) in item.methods() {
            let Some(details) = details else { continue };
            self.operations.push(Operation {
                method: method.to_owned(),
                path: path.to_owned(),
                id: details.operation_id.map(|id| id.0).filter(|id| !id.trim().is_empty()),
                tags: details.tags.unwrap_or_default().into_iter().map(|tag| tag.0).collect(),
                is_open: is_open(details.security.as_deref(), by_default),
            });
        }
    }

    /// Where the paths of the file begin at the gate: the server's path if it is below the portal's prefix, else below
    /// both.
    pub fn mount(&self, prefix: &str) -> String {
        let prefix = prefix.trim_end_matches('/');
        let is_below = self.base == prefix || self.base.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        if is_below && !self.base.is_empty() {
            return self.base.clone();
        }
        let own = |operation: &Operation| operation.path.starts_with(&format!("{prefix}/")) || operation.path == prefix;
        if self.operations.iter().any(own) {
            return String::new();
        }
        format!("{prefix}{}", self.base)
    }
}

impl Operation {
    /// The operation's path with every parameter filled; `None` if the gate would refuse such a path.
    pub fn example(&self, mount: &str) -> Option<CanonicalPath> {
        let mut path = format!("{mount}{}", self.path);
        while let Some(open) = path.find('{') {
            let close = path.get(open..)?.find('}')? + open;
            path.replace_range(open..=close, VALUE);
        }
        CanonicalPath::parse(&path).ok()
    }

    /// The bytes before the operation in the text of its file, and its length there.
    pub fn written_at(&self, text: &str) -> Option<(usize, usize)> {
        let of_path = key(text, 0, &self.path)?;
        let method = self.method.to_ascii_lowercase();
        Some(key(text, of_path.0 + of_path.1, &method).unwrap_or(of_path))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// JSON by the JSON reader: YAML readers differ on tabs and on escapes.
fn read(text: &str) -> Result<Document, OpenApiError> {
    if text.trim_start().starts_with('{')
        && let Ok(document) = serde_json::from_str(text)
    {
        return Ok(document);
    }
    let options = serde_saphyr::options! {
        // real descriptions use few anchors very often; the reader bounds what all uses together replay
        budget: serde_saphyr::budget! {
            max_depth: YAML_DEPTH_MAX, max_nodes: YAML_NODES_MAX, max_events: YAML_NODES_MAX, enforce_alias_anchor_ratio: false
        },
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| OpenApiError::Syntax {
        message: yaml_message(&error),
        line: error.location().and_then(|location| usize::try_from(location.line()).ok()),
    })
}

fn is_known(version: &str) -> bool {
    ["3.0", "3.1", "3.2"].iter().any(|known| {
        version
            .strip_prefix(known)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// The file's own answer to whether operations need a login.
#[derive(Clone, Copy, Eq, PartialEq)]
enum DefaultLogin {
    Asked,
    Unstated,
}

/// An operation's own list replaces the file's; a list that is empty, or has an empty choice, asks for nothing. A file
/// without any list says nothing about logins.
fn is_open(own: Option<&[BTreeMap<String, IgnoredAny>]>, by_default: DefaultLogin) -> bool {
    match own {
        Some([]) => by_default == DefaultLogin::Asked,
        Some(choices) => choices.iter().any(BTreeMap::is_empty),
        None => false,
    }
}

/// `https://api.example.com/v1/` → `/v1`. Variables (`{version}`) have no value here.
fn base_path(url: &Text) -> String {
    let path = match url.0.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => url.0.strip_prefix('/').unwrap_or_default(),
    };
    let path = path.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    if path.is_empty() || path.contains('{') {
        return String::new();
    }
    format!("/{path}")
}

/// The place of a mapping's key at or after `from`, quoted or not.
fn key(text: &str, from: usize, name: &str) -> Option<(usize, usize)> {
    let rest = text.get(from..)?;
    let found = rest.match_indices(name).find(|(at, _)| {
        let before = rest.get(..*at).and_then(|before| before.chars().next_back());
        let after = rest.get(at + name.len()..).unwrap_or_default();
        let is_start = before.is_none_or(|c| c.is_whitespace() || matches!(c, '"' | '\'' | '{' | ','));
        is_start && after.trim_start_matches(['"', '\'', ' ']).starts_with(':')
    });
    found.map(|(at, name)| (from + at, name.len()))
}

impl PathItem {
    /// The item that a reference of this file names; `Err` is a reference that leads nowhere.
    fn resolved(self, items: &BTreeMap<String, Self>) -> Result<Self, String> {
        let Some(reference) = &self.reference else {
            return Ok(self);
        };
        let name = reference.strip_prefix("#/components/pathItems/");
        let name = name.map(|name| name.replace("~1", "/").replace("~0", "~"));
        let target = name.and_then(|name| items.get(&name));
        target
            .filter(|target| target.reference.is_none())
            .cloned()
            .ok_or_else(|| reference.clone())
    }

    fn methods(self) -> [(&'static str, Option<Details>); 9] {
        [
            ("GET", self.get),
            ("HEAD", self.head),
            ("POST", self.post),
            ("PUT", self.put),
            ("PATCH", self.patch),
            ("DELETE", self.delete),
            ("OPTIONS", self.options),
            ("TRACE", self.trace),
            ("QUERY", self.query),
        ]
    }
}

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Paths;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from path to operations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Paths, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = map.next_key::<String>()? {
                    if path.starts_with('/') {
                        paths.push((path, map.next_value::<Option<PathItem>>()?.unwrap_or_default()));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Paths(paths))
            }

            fn visit_unit<E>(self) -> Result<Paths, E> {
                Ok(Paths::default())
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl Visitor<'_> for Any {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Text, E> {
                Ok(Text(format!("{number:?}")))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "
openapi: 3.1
info: { title: Shop, version: 1 }
servers: [{ url: 'https://api.example.com/portal/shop/v1/' }]
security: [{ oauth: [read] }]
paths:
  x-note: anything
  /orders:
    parameters: [{ name: page, in: query }]
    get: { operationId: listOrders, tags: [orders, 2024], responses: { 200: { description: ok } } }
    post: { responses: {} }
  '/orders/{id}':
    get: { operationId: getOrder, security: [] }
  /health: { get: { security: [{}, { oauth: [] }] } }
  /shared: { $ref: '#/components/pathItems/shared' }
  /elsewhere: { $ref: 'other.yaml#/x' }
  /nothing:
components:
  pathItems: { shared: { delete: { operationId: drop } } }
";

    fn lines(api: &OpenApi) -> Vec<String> {
        let line = |it: &Operation| format!("{it} {:?} {:?} {}", it.id.as_deref().unwrap_or("-"), it.tags, it.is_open);
        api.operations.iter().map(line).collect()
    }

    #[test]
    fn operations_are_read_in_the_order_of_the_file() {
        let api = OpenApi::parse(YAML).unwrap();
        assert_eq!(api.title.as_deref(), Some("Shop"));
        assert_eq!(api.base, "/portal/shop/v1");
        assert_eq!(
            lines(&api),
            [
                r#"GET /orders "listOrders" ["orders", "2024"] false"#,
                r#"POST /orders "-" [] false"#,
                r#"GET /orders/{id} "getOrder" [] true"#,
                r#"GET /health "-" [] true"#,
                r#"DELETE /shared "drop" [] false"#,
            ]
        );
        assert_eq!(api.left_out, ["path `/elsewhere`: `other.yaml#/x` is not in this file"]);
    }

    #[test]
    fn the_place_of_an_operation_is_its_method_below_its_path() {
        let api = OpenApi::parse(YAML).unwrap();
        let at = |index: usize| {
            let (offset, length) = api.operations[index].written_at(YAML).unwrap();
            let line = YAML.split_at(offset).0.lines().count();
            (line, YAML.get(offset..offset + length).unwrap())
        };
        assert_eq!(at(0), (10, "get"));
        assert_eq!(at(1), (11, "post"));
        assert_eq!(at(2), (13, "get"));
        assert_eq!(at(4), (19, "delete"), "where the reference leads");
    }

    #[test]
    fn json_with_tabs_and_escapes_is_read_as_json() {
        let json = "{\n\t\"openapi\": \"3.0.3\",\n\t\"paths\": {\"\\/a\": {\"get\": {\"summary\": \"\\ud83d\\ude00\"}}}}";
        assert_eq!(lines(&OpenApi::parse(json).unwrap()), [r#"GET /a "-" [] false"#]);
    }

    #[test]
    fn what_is_no_openapi_3_is_refused_with_what_it_is() {
        for (text, expected) in [
            ("swagger: '2.0'", OpenApiError::Swagger("2.0".to_owned())),
            ("openapi: 4.0.0", OpenApiError::Version("4.0.0".to_owned())),
            ("a: 1", OpenApiError::Unversioned),
            ("", OpenApiError::Unversioned),
        ] {
            assert_eq!(OpenApi::parse(text).unwrap_err(), expected, "{text}");
        }
        for text in [
            "- 1",
            "openapi: 3.0.0\npaths: [",
            "\u{0}",
            "{\"openapi\": \"3.0.0\", \"paths\": 7}",
        ] {
            assert!(
                matches!(OpenApi::parse(text), Err(OpenApiError::Syntax { .. })),
                "{text:?}: {:?}",
                OpenApi::parse(text)
            );
        }
        let bomb = format!(
            "openapi: 3.0.0\na: &a [x]\n{}",
            (0..40).fold(String::new(), |all, n| all + &format!("b{n}: &b{n} [*a, *a]\n"))
        );
        assert!(OpenApi::parse(&bomb).is_ok(), "what is not read costs nothing");
    }

    #[test]
    fn the_paths_begin_below_the_portals_prefix() {
        let mut api = OpenApi::default();
        for (base, path, expected) in [
            ("", "/orders", "/portal/shop"),
            ("/v1", "/orders", "/portal/shop/v1"),
            ("/portal/shop/v1", "/orders", "/portal/shop/v1"),
            ("/portal/shopping", "/orders", "/portal/shop/portal/shopping"),
            ("", "/portal/shop/orders", ""),
        ] {
            api.base = base.to_owned();
            api.operations = vec![Operation {
                method: "GET".to_owned(),
                path: path.to_owned(),
                id: None,
                tags: Vec::new(),
                is_open: false,
            }];
            assert_eq!(api.mount("/portal/shop"), expected, "{base} {path}");
        }
        assert_eq!(api.mount("/"), "");
    }
}
