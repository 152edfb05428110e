//! What `cedargate.yaml` says, key by key: serde mirrors of the file, with defaults. No I/O, no checks across keys.
//!
//! The JSON Schema is generated from these types, and `walk` holds a file against that schema, so a key added here is
//! known everywhere at once: unknown-key suggestions, environment variables, `config schema`. Doc comments become the
//! schema's descriptions. A required key is an `Option` marked `schemars(required)`: `walk` reports its absence.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema as schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::types::Redacted;

/// The keys of cedargate.yaml.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
#[schemars(title = "cedargate.yaml")]
pub struct Raw {
    /// Scheme and authority under which browsers reach the gate, such as `https://shop.example.com`.
    #[serde(default)]
    pub public_url: Option<String>,
    /// Where the gate listens.
    #[serde(default)]
    pub listen: RawListen,
    /// The app behind the gate.
    #[schemars(required)]
    pub upstream: Option<RawUpstream>,
    /// What each portal matches, by slug. Absent: every folder of `policies.dir` is a portal at `/portal/<slug>`.
    #[serde(default)]
    pub portals: Option<BTreeMap<String, RawPortal>>,
    /// Where policies and schemas are, and how they are watched.
    #[serde(default)]
    pub policies: RawPolicies,
    /// Who may issue tokens. Empty: only public paths answer.
    #[serde(default)]
    pub issuers: Vec<RawIssuer>,
    /// Browser sessions.
    #[serde(default)]
    pub sessions: RawSessions,
    /// The identity endpoints that the gate serves itself.
    #[serde(default)]
    pub identity: RawIdentity,
    /// Networks (`10.0.0.0/8`) whose forwarded headers the proxy listener believes.
    #[serde(default)]
    pub trusted_proxies: Vec<String>,
    /// The signed identity that the app receives.
    #[serde(default)]
    pub assertion: RawAssertion,
    /// The decision log.
    #[serde(default)]
    pub audit: RawAudit,
    /// Limits of sizes, counts and times.
    #[serde(default)]
    pub limits: RawLimits,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawListen {
    /// For clients.
    pub proxy: RawProxyListen,
    /// For the app: `/authorize`. Null: off.
    pub decision: Option<RawDecisionListen>,
    /// Health, metrics, status; read-only. Null: off.
    pub admin: Option<RawAdminListen>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawProxyListen {
    /// IP address and port.
    pub address: String,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawDecisionListen {
    /// IP address and port, or `unix:/path`. Off loopback it needs `auth`.
    pub address: String,
    /// What callers must present.
    pub auth: RawDecisionAuth,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawDecisionAuth {
    /// Bearer tokens that callers must present, each of 16 characters or more. Better kept in `tokens_file`.
    #[schemars(extend("writeOnly" = true))]
    pub tokens: Option<Vec<Secret>>,
    /// The same as a file, one token per line; blank lines and lines that start with `#` are ignored.
    pub tokens_file: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAdminListen {
    /// IP address and port.
    pub address: String,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawUpstream {
    /// `http://host:port`, without a path.
    #[schemars(required)]
    pub url: Option<String>,
    /// How long opening a connection may take.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout: DurationText,
    /// From the last byte of the request sent to the response head.
    #[serde(default = "default_response_timeout")]
    pub response_timeout: DurationText,
    /// How long an unused connection is kept; keep it below the app's own keep-alive.
    #[serde(default = "default_upstream_idle_timeout")]
    pub idle_timeout: DurationText,
    /// Request headers that the app never sees, beside the identity headers: those by which some frameworks let a
    /// client replace the method or path that was decided on.
    #[serde(default = "default_strip_headers")]
    pub strip_headers: Vec<String>,
    /// Forward the client's bearer token to the app.
    #[serde(default)]
    pub forward_authorization: bool,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawPortal {
    /// Which requests belong to the portal. Absent: any host, `/portal/<slug>`.
    #[serde(default, rename = "match")]
    pub matches: RawMatch,
    /// Names of the issuers the portal trusts. Absent: all of them.
    #[serde(default)]
    pub issuers: Option<Vec<String>>,
    /// Where the request's tenant comes from.
    #[serde(default)]
    pub tenant: RawTenant,
    /// The portal's own app: a URL, or a mapping. Absent: the top-level `upstream`.
    #[serde(default)]
    pub upstream: Option<RawPortalUpstream>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawMatch {
    /// Host names without port; `*` stands for one whole label. Empty: any host.
    pub hosts: Vec<String>,
    /// Canonical path; compared by whole segments. Absent: `/portal/<slug>`.
    pub path_prefix: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RawTenant {
    /// The request has no tenant of its own.
    #[default]
    Claim,
    /// The first label of the host.
    HostLabel,
    /// Always this tenant.
    Fixed(String),
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum RawPortalUpstream {
    /// `http://host:port`, without a path.
    Url(String),
    /// Like the top-level `upstream`; what is left out is taken from there.
    Full(RawUpstreamOverride),
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawUpstreamOverride {
    /// `http://host:port`, without a path.
    #[schemars(required)]
    pub url: Option<String>,
    /// Absent: as at the top level.
    #[serde(default)]
    pub connect_timeout: Option<DurationText>,
    /// Absent: as at the top level.
    #[serde(default)]
    pub response_timeout: Option<DurationText>,
    /// Absent: as at the top level.
    #[serde(default)]
    pub idle_timeout: Option<DurationText>,
    /// Absent: as at the top level.
    #[serde(default)]
    pub strip_headers: Option<Vec<String>>,
    /// Absent: as at the top level.
    #[serde(default)]
    pub forward_authorization: Option<bool>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPolicies {
    /// Folder of the portals' folders, from the configuration file's folder.
    pub dir: String,
    /// Folder of the schemas.
    pub schemas: String,
    /// How often the folders are looked at, 100ms or more.
    pub poll: DurationText,
    /// Portals that readiness waits for.
    pub require: Vec<String>,
    /// Folder where the last good revisions survive a restart. Null: they do not.
    pub state_dir: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawIssuer {
    /// Unique name for logs and metrics: `[a-z0-9_-]+`.
    #[schemars(required)]
    pub name: Option<String>,
    /// Exactly the `iss` of its tokens.
    #[schemars(required)]
    pub issuer: Option<String>,
    /// The `aud` values accepted; at least one.
    #[schemars(required)]
    pub audiences: Option<Vec<String>>,
    /// Where its keys are. Absent: OIDC discovery at `issuer`.
    #[serde(default)]
    pub jwks: Option<RawJwks>,
    /// Signature algorithms accepted; asymmetric ones only.
    #[serde(default = "default_algorithms")]
    pub algorithms: Vec<AlgorithmText>,
    /// Tolerated difference of clocks, 5m at most.
    #[serde(default = "default_leeway")]
    pub leeway: DurationText,
    /// Which claims say what; dotted paths.
    #[serde(default)]
    pub claims: RawClaims,
    /// Cedar entity type of its principals.
    #[serde(default = "default_principal")]
    pub principal: String,
    /// Put before every subject. Absent: `<name>|` where a portal trusts several issuers, else nothing.
    #[serde(default)]
    pub subject_prefix: Option<String>,
    /// Tenants it may assert. Absent: any.
    #[serde(default)]
    pub tenants: Option<Vec<String>>,
    /// Roles it may assert. Absent: any.
    #[serde(default)]
    pub roles: Option<Vec<String>>,
    /// Allow fetching keys without TLS from another host: whoever can answer there can sign in as anyone.
    #[serde(default)]
    pub danger_insecure_jwks: bool,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawJwks {
    /// `https` URL of the key set. Either this or `file`.
    #[serde(default)]
    pub url: Option<String>,
    /// File of the key set, watched. Either this or `url`.
    #[serde(default)]
    pub file: Option<String>,
    /// How long the last good keys are used when they cannot be fetched.
    #[serde(default = "default_jwks_max_age")]
    pub max_age: DurationText,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawClaims {
    /// Who.
    pub subject: String,
    /// The principal's tenant.
    pub tenant: String,
    /// The principal's roles.
    pub roles: String,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSessions {
    /// Where sessions live.
    pub store: RawSessionStore,
    /// A session not used for this long ends.
    pub idle_timeout: DurationText,
    /// A session ends this long after its login.
    pub absolute_timeout: DurationText,
    /// How long a replica may not know of a revocation.
    pub staleness_max: DurationText,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RawSessionStore {
    /// In this process.
    #[default]
    Memory,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawIdentity {
    /// Path prefix of the identity endpoints; no portal can lie under it.
    pub prefix: String,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAssertion {
    /// Header that carries it.
    pub header: String,
    /// How long it is good for, from 1s to 1h.
    pub ttl: DurationText,
    /// PKCS#8 PEM of a P-256 key. Null: an ephemeral key.
    pub key_file: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAudit {
    /// Where records go: `stdout`, or `{ file: path }`.
    pub sink: RawAuditSink,
    /// Whether allowed decisions are recorded; denied ones always are.
    pub allow: RawAuditAllow,
    /// Dotted paths of the record that are masked.
    pub mask: Vec<String>,
    /// What happens when records wait for a slow sink: drop and count, or deny.
    pub on_full: RawOnFull,
    /// Records that may wait for the writer.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub queue: usize,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RawAuditSink {
    /// Standard output.
    #[default]
    Stdout,
    /// Appended to this file.
    File(String),
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RawAuditAllow {
    #[default]
    All,
    None,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RawOnFull {
    #[default]
    Drop,
    Deny,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    /// Size of a request's head, 8KiB or more.
    pub header_bytes: SizeText,
    /// Size of a request's body on the proxy listener. Null: the app's business.
    pub body_bytes: Option<SizeText>,
    /// Open client connections.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: usize,
    /// Questions in one `/authorize/batch`.
    #[schemars(range(min = 1, max = 10_000))]
    pub batch: usize,
    /// Size of a body on the decision listener.
    pub decision_body_bytes: SizeText,
    /// How long a client may take to send a request's head.
    pub header_timeout: DurationText,
    /// How long an idle keep-alive connection is kept.
    pub idle_timeout: DurationText,
    /// Size of a token.
    pub token_bytes: SizeText,
    /// Verified tokens remembered per portal.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub token_cache: usize,
    /// How long in-flight requests may finish after SIGTERM.
    pub drain_timeout: DurationText,
    /// Threads that serve traffic. Null: one per core.
    #[schemars(range(min = 1, max = 1024))]
    pub workers: Option<usize>,
}

/// The JSON Schema of `cedargate.yaml`.
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(Raw).to_value()
}

// ---- scalars with a text form ----

/// `5s`, `1m30s`, `24h`, `500ms`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DurationText(pub Duration);

/// Bytes: `65536`, `32KiB`, `1MiB`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SizeText(pub u64);

/// Name of a JWS algorithm.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AlgorithmText(pub String);

/// Serializes as `[redacted]`.
#[derive(Clone, Debug)]
pub struct Secret(pub Redacted<String>);

pub const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];

impl DurationText {
    pub fn parse(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map(Self).map_err(|_| {
            format!("`{text}` is not a duration; write a number with its unit, such as `500ms`, `5s`, `1m30s` or `24h`")
        })
    }
}

impl SizeText {
    const UNITS: [(&'static str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

    pub fn parse(text: &str) -> Result<Self, String> {
        let (digits, unit) = Self::UNITS
            .iter()
            .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|digits| (digits.trim_end(), *unit)))
            .unwrap_or((text, 1));
        let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let number = all_digits.then(|| digits.parse::<u64>().ok()).flatten();
        number.and_then(|number| number.checked_mul(unit)).map(Self).ok_or_else(|| {
            format!("`{text}` is not a size; write bytes, such as `65536`, or a number with `KiB`, `MiB` or `GiB`")
        })
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Serialize for DurationText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&humantime::format_duration(self.0).to_string().replace(' ', ""))
    }
}

impl JsonSchema for DurationText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    // `duration` is ISO 8601's format in JSON Schema, so ours has its own name
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema!({ "type": "string", "format": "short-duration", "examples": ["500ms", "1m30s"] })
    }
}

impl<'de> Deserialize<'de> for SizeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(number) => Ok(Self(number)),
            Form::Text(text) => Self::parse(&text).map_err(serde::de::Error::custom),
        }
    }
}

impl Serialize for SizeText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (suffix, unit) = Self::UNITS
            .into_iter()
            .find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit))
            .unwrap_or(("B", 1));
        if unit == 1 {
            serializer.serialize_u64(self.0)
        } else {
            serializer.serialize_str(&format!("{}{suffix}", self.0 / unit))
        }
    }
}

impl JsonSchema for SizeText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema!({ "type": ["integer", "string"], "minimum": 0, "format": "size", "examples": [65536, "32KiB"] })
    }
}

impl JsonSchema for AlgorithmText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Algorithm".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema!({ "type": "string", "format": "jws-algorithm", "enum": ALGORITHMS })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Redacted::new(text)))
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema!({ "type": "string", "writeOnly": true })
    }
}

// ---- defaults ----

const fn seconds(seconds: u64) -> DurationText {
    DurationText(Duration::from_secs(seconds))
}

const fn kibibytes(number: u64) -> SizeText {
    SizeText(number << 10)
}

fn default_connect_timeout() -> DurationText {
    seconds(1)
}

fn default_response_timeout() -> DurationText {
    seconds(60)
}

fn default_upstream_idle_timeout() -> DurationText {
    seconds(30)
}

/// Headers by which frameworks replace the method, path or host that was decided on.
fn default_strip_headers() -> Vec<String> {
    [
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-original-url",
        "x-rewrite-url",
        "x-original-uri",
        "x-original-method",
        "x-original-host",
        "x-override-url",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn default_algorithms() -> Vec<AlgorithmText> {
    ["RS256", "ES256", "EdDSA"]
        .map(|name| AlgorithmText(name.to_owned()))
        .to_vec()
}

fn default_leeway() -> DurationText {
    seconds(30)
}

fn default_principal() -> String {
    "User".to_owned()
}

fn default_jwks_max_age() -> DurationText {
    seconds(24 * 60 * 60)
}

impl Default for RawListen {
    fn default() -> Self {
        Self {
            proxy: RawProxyListen::default(),
            decision: Some(RawDecisionListen::default()),
            admin: Some(RawAdminListen::default()),
        }
    }
}

impl Default for RawProxyListen {
    fn default() -> Self {
        Self {
            address: "0.0.0.0:8900".to_owned(),
        }
    }
}

impl Default for RawDecisionListen {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:8901".to_owned(),
            auth: RawDecisionAuth::default(),
        }
    }
}

impl Default for RawAdminListen {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:8903".to_owned(),
        }
    }
}

impl Default for RawPolicies {
    fn default() -> Self {
        Self {
            dir: "policies".to_owned(),
            schemas: "schemas".to_owned(),
            poll: seconds(5),
            require: Vec::new(),
            state_dir: None,
        }
    }
}

impl Default for RawClaims {
    fn default() -> Self {
        Self {
            subject: "sub".to_owned(),
            tenant: "tenant".to_owned(),
            roles: "roles".to_owned(),
        }
    }
}

impl Default for RawSessions {
    fn default() -> Self {
        Self {
            store: RawSessionStore::Memory,
            idle_timeout: seconds(30 * 60),
            absolute_timeout: seconds(12 * 60 * 60),
            staleness_max: seconds(1),
        }
    }
}

impl Default for RawIdentity {
    fn default() -> Self {
        Self {
            prefix: "/api/v1/identity".to_owned(),
        }
    }
}

impl Default for RawAssertion {
    fn default() -> Self {
        Self {
            header: "x-cedargate-assertion".to_owned(),
            ttl: seconds(60),
            key_file: None,
        }
    }
}

impl Default for RawAudit {
    fn default() -> Self {
        Self {
            sink: RawAuditSink::Stdout,
            allow: RawAuditAllow::All,
            mask: vec!["context.headers".to_owned()],
            on_full: RawOnFull::Drop,
            queue: 8192,
        }
    }
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            header_bytes: kibibytes(32),
            body_bytes: None,
            connections: 10_000,
            batch: 200,
            decision_body_bytes: kibibytes(1024),
            header_timeout: seconds(10),
            idle_timeout: seconds(75),
            token_bytes: kibibytes(16),
            token_cache: 10_000,
            drain_timeout: seconds(30),
            workers: None,
        }
    }
}
