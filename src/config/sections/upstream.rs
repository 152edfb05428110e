//! `upstream`: where the app is, which HTTP it speaks, and how a portal's own app differs from the top-level one.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema as schema};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::app_probes::RawProbes;
use super::exposure_check::{self, RawExposureCheck};
use super::limits::{HEADER_BYTES_MIN, HeaderCount};
use super::strip_headers::{DEFAULT_ITEM, OWN, default_names};
use super::token_exchange::{RawAppToken, RawTokenExchange, RawUpstreamToken, UpstreamToken};
use super::upstream_url::{UpstreamUrl, authority};
use crate::config::check::{Checker, UNIX};
use crate::config::values::{ByteSize, Timeout};

/// The scheme that means `http` with `protocol: http2`.
const H2C: &str = "h2c";
/// Keys of the top-level `upstream` alone: they are about the pod, and no portal has its own.
const TOP_LEVEL_KEYS: [&str; 2] = ["probes", "exposure_check"];
/// Bytes of a Unix socket's path that Linux takes: `sun_path` without its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;
const FORMS: &str = "write it as `http://host:port`, `https://host:port`, `h2c://host:port` or `unix:/path`";

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawUpstream {
    /// `http://host:port`, `https://host:port`, `h2c://host:port` (the same as `http` with `protocol: http2`) or
    /// `unix:/path`; without a path of requests.
    #[schemars(required)]
    pub url: Option<String>,
    /// The HTTP versions that the app speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// Certificates for TLS with an `https` app.
    #[serde(default)]
    pub tls: RawUpstreamTls,
    /// Longest time to open a connection.
    #[serde(default = "Timeout::seconds::<1>")]
    pub connect_timeout: Timeout,
    /// Longest time from the last byte of the request to the response head.
    #[serde(default = "Timeout::seconds::<60>")]
    pub response_timeout: Timeout,
    /// Time after which an unused connection is closed; keep it below the app's own keep-alive.
    #[serde(default = "Timeout::seconds::<4>")]
    pub idle_timeout: Timeout,
    /// Request headers that the app never gets from a client, beside the gate's own; `x-name-*` stands for all names
    /// with this start, and `default` for the built-in list (`cedargate config headers`).
    #[serde(default = "strip_headers")]
    pub strip_headers: Vec<String>,
    /// Headers of that list that pass if they come from `trusted_proxies`. These proxies must set or remove each of
    /// them on every request.
    #[serde(default)]
    pub pass_headers: Vec<String>,
    /// The token that the app gets in `Authorization`.
    #[serde(default)]
    pub token: RawUpstreamToken,
    /// How the gate gets another token for the app, with `token: exchange`.
    #[serde(default)]
    pub exchange: Option<RawTokenExchange>,
    /// The older name of `token: passthrough`.
    #[serde(default)]
    pub forward_authorization: bool,
    /// Size of the head of the app's answer, 8KiB or more.
    #[serde(default = "ByteSize::<HEADER_BYTES_MIN>::kib::<64>")]
    pub response_header_bytes: ByteSize<HEADER_BYTES_MIN>,
    /// Headers of the app's answer.
    #[serde(default = "HeaderCount::of::<256>")]
    pub response_header_count: HeaderCount,
    /// The point at which the gate stops trying an app that cannot be reached.
    #[serde(default)]
    pub circuit: Circuit,
    /// The app's own probes, which the admin listener forwards.
    #[serde(default)]
    pub probes: RawProbes,
    /// Looks whether the app can be reached around the gate. Null: off.
    #[serde(default = "exposure_check::by_default")]
    pub exposure_check: Option<RawExposureCheck>,
}

/// The protocols of an app.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1, and HTTP/2 for gRPC; over TLS the version that the app prefers.
    #[default]
    Auto,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only; upgrades (WebSocket) still go by HTTP/1.1.
    Http2,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawUpstreamTls {
    /// PEM file of the authorities that the app's certificate must come from. Absent: the system's.
    pub ca: Option<PathBuf>,
    /// Name that the app's certificate must have. Absent: the host in `url`.
    pub server_name: Option<String>,
    /// PEM file of the gate's own certificate chain. Absent: none is presented.
    pub cert: Option<PathBuf>,
    /// PEM file of its private key.
    pub key: Option<PathBuf>,
}

/// The point at which the gate stops trying an app that cannot be reached.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Circuit {
    /// Failed connection attempts in a row after which it opens; 0: never.
    pub failures: u32,
    /// Time in which requests fail at once before one may try again.
    pub pause: Timeout,
}

/// The app of one portal: a URL alone, or keys of `upstream`. Keys that the portal leaves out are the top-level ones.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum PortalUpstream {
    Url(String),
    /// The keys that the portal gives; `null` counts as left out.
    Keys(Map<String, Value>),
}

/// The app behind the gate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Upstream {
    pub url: UpstreamUrl,
    pub protocol: Protocol,
    /// Only read for an `https` URL.
    pub tls: UpstreamTls,
    pub connect_timeout: Duration,
    /// Longest time from the last byte of the request to the response head.
    pub response_timeout: Duration,
    /// Time after which an unused connection is closed.
    pub idle_timeout: Duration,
    /// Lower-case names, or starts with `-*`, of request headers that the app never gets from a client, beside the
    /// gate's own.
    pub strip_headers: Vec<String>,
    /// Those of them that pass if they come from a trusted proxy.
    pub pass_headers: Vec<String>,
    pub token: UpstreamToken,
    /// Largest head of an answer.
    pub response_header_bytes: usize,
    /// Most headers of an answer.
    pub response_header_count: usize,
    pub circuit: Circuit,
}

#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct UpstreamTls {
    /// `None`: the system's authorities.
    pub ca: Option<PathBuf>,
    /// `None`: the URL's host.
    pub server_name: Option<String>,
    /// Certificate chain and key of the gate's own.
    pub identity: Option<(PathBuf, PathBuf)>,
}

fn strip_headers() -> Vec<String> {
    vec![DEFAULT_ITEM.to_owned()]
}

impl Default for Circuit {
    fn default() -> Self {
        Self {
            failures: 5,
            pause: Timeout::millis::<200>(),
        }
    }
}

impl Checker<'_> {
    /// `section`: the key of the mapping; `url_key`: the key of its URL.
    pub fn upstream(&mut self, section: &str, url_key: &str, raw: &RawUpstream) -> Option<Upstream> {
        let key = |name: &str| format!("{section}.{name}");
        let url = raw.url.as_ref().and_then(|url| self.upstream_url(url_key, url));
        let strip_headers = self.strip_headers(&key("strip_headers"), &raw.strip_headers);
        let pass_headers = self.pass_headers(&key("pass_headers"), &raw.pass_headers);
        let tls = self.upstream_tls(&key("tls"), &raw.tls, raw.url.as_deref());
        let app_token = RawAppToken {
            token: raw.token,
            exchange: raw.exchange.as_ref(),
            forward_authorization: raw.forward_authorization,
        };
        let token = self.upstream_token(section, app_token);
        let protocol = self.protocol(&key("protocol"), raw.protocol, raw.url.as_deref());
        Some(Upstream {
            url: url?,
            protocol: protocol?,
            tls: tls?,
            connect_timeout: raw.connect_timeout.get(),
            response_timeout: raw.response_timeout.get(),
            idle_timeout: raw.idle_timeout.get(),
            strip_headers,
            pass_headers,
            token: token?,
            response_header_bytes: raw.response_header_bytes.as_usize(),
            response_header_count: raw.response_header_count.as_usize(),
            circuit: raw.circuit,
        })
    }

    /// The app of a portal. `base`: the top-level upstream, checked before; mistakes in its keys are reported there
    /// alone.
    pub fn portal_upstream(&mut self, section: &str, own: &PortalUpstream, base: &RawUpstream) -> Option<Upstream> {
        let (url_key, keys) = match own {
            PortalUpstream::Url(url) => (section.to_owned(), Map::from_iter([("url".to_owned(), json!(url))])),
            PortalUpstream::Keys(keys) => (format!("{section}.url"), keys.clone()),
        };
        let is_wrong = |key: &str| self.has_error_under(&format!("upstream.{key}"));
        match overlay(base, is_wrong, keys) {
            Ok(raw) => self.upstream(section, &url_key, &raw),
            Err(error) => {
                self.error(section, format!("the configuration cannot be read: {error}"));
                None
            }
        }
    }

    /// The names of `strip_headers`, with the built-in list in the place of its item.
    fn strip_headers(&mut self, key: &str, items: &[String]) -> Vec<String> {
        let mut names = Vec::new();
        for (n, item) in items.iter().enumerate() {
            if item == DEFAULT_ITEM {
                names.extend(default_names().map(str::to_owned));
            } else {
                names.push(self.header_pattern(&format!("{key}[{n}]"), item));
            }
        }
        names
    }

    fn pass_headers(&mut self, key: &str, items: &[String]) -> Vec<String> {
        let mut names = Vec::new();
        for (n, item) in items.iter().enumerate() {
            let key = format!("{key}[{n}]");
            let name = self.header_pattern(&key, item);
            // servers that turn headers into variables read `_` as `-`
            let spelled = name.replace('_', "-");
            let is_own = |own: &str| {
                spelled
                    .strip_suffix('*')
                    .map_or(own == spelled, |start| own.starts_with(start))
            };
            if spelled.starts_with("x-cedargate") || OWN.iter().any(|own| is_own(own)) {
                self.error(
                    &key,
                    format!("`{item}` is a header that the gate sets itself; it cannot pass"),
                );
            }
            names.push(name);
        }
        names
    }

    /// A header's name, or the start of names: `x-name-*`.
    fn header_pattern(&mut self, key: &str, text: &str) -> String {
        let Some((start, after)) = text.split_once('*') else {
            return self.header_name(key, text);
        };
        if !after.is_empty() || !start.ends_with(['-', '_']) || start.len() < 2 {
            self.error(
                key,
                format!("`{text}` has a `*` that is not the end of a start such as `x-name-*`"),
            );
            return text.to_owned();
        }
        format!("{}*", self.header_name(key, start))
    }

    fn upstream_url(&mut self, key: &str, text: &str) -> Option<UpstreamUrl> {
        if let Some(path) = text.strip_prefix(UNIX) {
            if path.is_empty() || path.starts_with("//") {
                self.error(key, "needs the path of a socket, such as `unix:/run/app.sock`");
                return None;
            }
            let path = self.path(key, path);
            let bytes = path.as_os_str().len();
            if bytes > SOCKET_PATH_BYTES_MAX {
                let message = format!(
                    "has {bytes} bytes, and the path of a socket has {SOCKET_PATH_BYTES_MAX} at most; choose a shorter one"
                );
                self.error(key, message);
                return None;
            }
            return Some(UpstreamUrl::Unix(path));
        }
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let Some(scheme) = scheme.filter(|scheme| ["http", "https", H2C].contains(&scheme.as_str())) else {
            self.error(key, FORMS);
            return None;
        };
        // the parser knows the default ports of http and https only
        let rest = text.split_once("://").map_or("", |(_, rest)| rest);
        let parsed = if scheme == H2C { "http" } else { scheme.as_str() };
        let url = self.parse_url(key, &format!("{parsed}://{rest}"))?;
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        if !path.is_empty() || url.query().is_some() || url.fragment().is_some() {
            self.error(
                key,
                format!("has a path or query; requests keep their own, so write `{scheme}://host:port` only"),
            );
            return None;
        }
        let Some(authority) = authority(&url) else {
            self.error(key, format!("has no host or port 0; write `{scheme}://host:port`"));
            return None;
        };
        Some(if scheme == "https" {
            UpstreamUrl::Https(authority)
        } else {
            UpstreamUrl::Http(authority)
        })
    }

    fn protocol(&mut self, key: &str, protocol: Protocol, url: Option<&str>) -> Option<Protocol> {
        match protocol {
            Protocol::Http1 if is_h2c(url) => {
                self.error(key, "`http1` contradicts the scheme `h2c` of the URL; keep one of them");
                None
            }
            _ if is_h2c(url) => Some(Protocol::Http2),
            protocol => Some(protocol),
        }
    }

    fn upstream_tls(&mut self, section: &str, raw: &RawUpstreamTls, url: Option<&str>) -> Option<UpstreamTls> {
        let key = |name: &str| format!("{section}.{name}");
        let ca = self.optional_path(&key("ca"), raw.ca.as_deref());
        let identity = match (&raw.cert, &raw.key) {
            (Some(cert), Some(private)) => Some(Some((self.path(&key("cert"), cert), self.path(&key("key"), private)))),
            (None, None) => Some(None),
            _ => {
                self.error(&key("cert"), "needs `key`, and the other way round; write both or none");
                None
            }
        };
        let is_set = raw.ca.is_some() || raw.cert.is_some() || raw.server_name.is_some();
        if is_set && !url.is_none_or(is_https) {
            self.error(
                section,
                "is for an `https` URL; this one is not, so nothing would be encrypted",
            );
        }
        if let Some(name) = &raw.server_name {
            self.not_blank(&key("server_name"), name);
        }
        Some(UpstreamTls {
            ca,
            server_name: raw.server_name.clone(),
            identity: identity?,
        })
    }
}

/// `base` with the keys that a portal gives in the place of its own; `is_wrong` names keys of `base` with a mistake.
///
/// The portal always has a URL of its own. `tls` of the top level is for an `https` URL, so a portal with another URL
/// does not take it; `h2c` in the URL of the top level counts as its `protocol`, and `h2c` in the portal's URL as the
/// portal's.
fn overlay(
    base: &RawUpstream,
    is_wrong: impl Fn(&str) -> bool,
    mut own: Map<String, Value>,
) -> Result<RawUpstream, serde_json::Error> {
    own.retain(|_, value| !value.is_null());
    let url = own.get("url").and_then(Value::as_str);
    let mut keys: Map<String, Value> = serde_json::from_value(serde_json::to_value(base)?)?;
    keys.retain(|key, _| key != "url" && !is_top_level(key) && !is_wrong(key));
    if is_h2c(base.url.as_deref()) {
        keys.insert("protocol".to_owned(), serde_json::to_value(Protocol::Http2)?);
    }
    if is_h2c(url) {
        keys.remove("protocol");
    }
    if !url.is_some_and(is_https) {
        keys.remove("tls");
    }
    keys.append(&mut own);
    serde_json::from_value(Value::Object(keys))
}

fn is_top_level(key: &str) -> bool {
    TOP_LEVEL_KEYS.contains(&key)
}

fn is_h2c(url: Option<&str>) -> bool {
    let scheme = url.and_then(|url| url.split_once("://")).map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(H2C))
}

fn is_https(url: &str) -> bool {
    url.to_ascii_lowercase().starts_with("https:")
}

/// The keys of `upstream` in their order; `null` for those that the portal leaves out.
impl Serialize for PortalUpstream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let own = match self {
            Self::Url(url) => return serializer.serialize_str(url),
            Self::Keys(own) => own,
        };
        let is_given = |key: &str| own.get(key).is_some_and(|value| !value.is_null());
        let given: Map<String, Value> = own.clone().into_iter().filter(|(key, _)| is_given(key)).collect();
        let whole: Result<RawUpstream, _> = serde_json::from_value(Value::Object(given));
        let shown = whole.and_then(serde_json::to_value).map_err(serde::ser::Error::custom)?;
        let shown = shown.as_object().into_iter().flatten().filter(|(key, _)| !is_top_level(key));
        serializer.collect_map(shown.map(|(key, value)| (key, if is_given(key) { value } else { &Value::Null })))
    }
}

/// The schema of `upstream`, whose keys may all be left out but `url`.
impl JsonSchema for PortalUpstream {
    fn schema_name() -> Cow<'static, str> {
        "PortalUpstream".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut keys = RawUpstream::json_schema(generator);
        keys.insert(
            "description".to_owned(),
            json!("Like the top-level `upstream`; what is left out is taken from there."),
        );
        let mut properties = keys.get_mut("properties").and_then(Value::as_object_mut);
        if let Some(properties) = &mut properties {
            properties.retain(|key, _| !is_top_level(key));
        }
        for (key, property) in properties.into_iter().flatten() {
            let own = property.as_object().cloned().unwrap_or_default();
            *property = Value::Object(if key == "url" { own } else { optional(own) });
        }
        schema!({
            "anyOf": [
                { "type": "string", "description": "A URL, as in the top-level `upstream.url`." },
                keys,
            ]
        })
    }
}

/// The schema of a key that may be left out: it allows `null`, too, and says what its absence means.
fn optional(mut property: Map<String, Value>) -> Map<String, Value> {
    property.remove("default");
    property.remove("description");
    match property.get_mut("type") {
        Some(Value::Array(types)) => types.push(json!("null")),
        Some(one) => *one = json!([one.clone(), "null"]),
        None => property = Map::from_iter([("anyOf".to_owned(), json!([property, { "type": "null" }]))]),
    }
    property.insert("description".to_owned(), json!("Absent: as at the top level."));
    property.insert("default".to_owned(), Value::Null);
    property
}
