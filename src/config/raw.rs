//! What `cedargate.yaml` says, key by key: serde mirrors of the file, with defaults. No I/O, no checks across keys.
//!
//! The JSON Schema is generated from these types, and `walk` holds a file against that schema, so a key added here is
//! known everywhere at once: unknown-key suggestions, environment variables, `config schema`. Doc comments become the
//! schema's descriptions. A required key is an `Option` marked `schemars(required)`: `walk` reports its absence.

mod default;
mod scalar;
mod sessions;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use scalar::{ALGORITHMS, AlgorithmText, DurationText, Secret, SizeText};
pub use sessions::{RawAuthMethod, RawLogin, RawProvider, RawRedis, RawRedisTls, RawSessionStore, RawSessions};

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
    /// How browsers log in.
    #[serde(default)]
    pub login: RawLogin,
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
    /// For the operator beside the process: drain, reload. Absent: off.
    pub control: Option<RawControlListen>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawProxyListen {
    /// IP address and port.
    pub address: String,
    /// Serve TLS. Absent: plain HTTP.
    pub tls: Option<RawTls>,
    /// Expect a PROXY protocol header (v1 or v2) on every connection from `trusted_proxies`.
    pub proxy_protocol: bool,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawTls {
    /// PEM file of the certificate chain, leaf first; watched.
    #[schemars(required)]
    pub cert: Option<String>,
    /// PEM file of the private key; watched.
    #[schemars(required)]
    pub key: Option<String>,
    /// PEM file of the authorities that clients' certificates must come from; watched. Absent: clients need none.
    #[serde(default)]
    pub client_ca: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawControlListen {
    /// `unix:/path`: only the socket's owner may use it.
    #[schemars(required)]
    pub address: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawDecisionListen {
    /// IP address and port, or `unix:/path`. Off loopback it needs `auth` or `tls.client_ca`.
    pub address: String,
    /// What callers must present.
    pub auth: RawDecisionAuth,
    /// Serve TLS. Absent: plain HTTP.
    pub tls: Option<RawTls>,
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
    /// `http://host:port`, `https://host:port`, `h2c://host:port` (the same as `http` with `protocol: http2`) or
    /// `unix:/path`; without a path of requests.
    #[schemars(required)]
    pub url: Option<String>,
    /// Which HTTP the app speaks.
    #[serde(default)]
    pub protocol: RawProtocol,
    /// How an `https` app proves itself, and the gate to it.
    #[serde(default)]
    pub tls: RawUpstreamTls,
    /// How long opening a connection may take.
    #[serde(default = "default::connect_timeout")]
    pub connect_timeout: DurationText,
    /// From the last byte of the request sent to the response head.
    #[serde(default = "default::response_timeout")]
    pub response_timeout: DurationText,
    /// How long an unused connection is kept; keep it below the app's own keep-alive.
    #[serde(default = "default::upstream_idle_timeout")]
    pub idle_timeout: DurationText,
    /// Request headers that the app never sees, beside the identity headers: those by which some frameworks let a
    /// client replace the method or path that was decided on.
    #[serde(default = "default::strip_headers")]
    pub strip_headers: Vec<String>,
    /// Forward the client's bearer token to the app.
    #[serde(default)]
    pub forward_authorization: bool,
    /// Size of the head of the app's answer, 8KiB or more.
    #[serde(default = "default::response_header_bytes")]
    pub response_header_bytes: SizeText,
    /// When the gate stops trying an app that cannot be reached.
    #[serde(default)]
    pub circuit: RawCircuit,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RawProtocol {
    /// HTTP/1.1, and HTTP/2 for gRPC; over TLS whatever the app prefers.
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
    pub ca: Option<String>,
    /// Name that the app's certificate must have. Absent: the host in `url`.
    pub server_name: Option<String>,
    /// PEM file of the gate's own certificate chain. Absent: none is presented.
    pub cert: Option<String>,
    /// PEM file of its private key.
    pub key: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawCircuit {
    /// Failed connection attempts in a row after which it opens; 0: never.
    pub failures: u32,
    /// How long requests fail at once before one may try again.
    pub pause: DurationText,
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
    /// A URL, as in the top-level `upstream.url`.
    Url(String),
    /// Like the top-level `upstream`; what is left out is taken from there.
    Full(Box<RawUpstreamOverride>),
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawUpstreamOverride {
    /// As at the top level.
    #[schemars(required)]
    pub url: Option<String>,
    /// Absent: as at the top level.
    #[serde(default)]
    pub protocol: Option<RawProtocol>,
    /// Absent: as at the top level.
    #[serde(default)]
    pub tls: Option<RawUpstreamTls>,
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
    /// Absent: as at the top level.
    #[serde(default)]
    pub response_header_bytes: Option<SizeText>,
    /// Absent: as at the top level.
    #[serde(default)]
    pub circuit: Option<RawCircuit>,
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
    #[serde(default = "default::algorithms")]
    pub algorithms: Vec<AlgorithmText>,
    /// Tolerated difference of clocks, 5m at most.
    #[serde(default = "default::leeway")]
    pub leeway: DurationText,
    /// Which claims say what; dotted paths.
    #[serde(default)]
    pub claims: RawClaims,
    /// Cedar entity type of its principals.
    #[serde(default = "default::principal")]
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
    /// Ask the issuer about bearer tokens that are no JWTs (RFC 7662). Absent: such tokens are refused.
    #[serde(default)]
    pub introspection: Option<RawIntrospection>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawIntrospection {
    /// `https` URL of the introspection endpoint. Absent: OIDC discovery at `issuer`.
    #[serde(default)]
    pub url: Option<String>,
    /// The gate's own client at the issuer.
    #[schemars(required)]
    pub client_id: Option<String>,
    /// Its secret. Better kept in `client_secret_file`.
    #[serde(default)]
    #[schemars(extend("writeOnly" = true))]
    pub client_secret: Option<Secret>,
    /// The same as a file; read at each use.
    #[serde(default)]
    pub client_secret_file: Option<String>,
    /// How long an answer may be used again, 5m at most.
    #[serde(default = "default::introspection_cache")]
    pub cache: DurationText,
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
    #[serde(default = "default::jwks_max_age")]
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
pub struct RawIdentity {
    /// Path prefix of the identity endpoints; no portal can lie under it.
    pub prefix: String,
    /// What the login pages are headed with.
    pub title: String,
    /// PNG or SVG file for the head of the login pages, 64KiB at most.
    pub logo: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAssertion {
    /// Header that carries it.
    pub header: String,
    /// How long it is good for, from 1s to 1h.
    pub ttl: DurationText,
    /// PKCS#8 PEM of P-256 keys: the first signs, all are published and verify; watched. Null: an ephemeral key.
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
    /// Open connections of one client address (IPv6: one /64); `trusted_proxies` are exempt. Null: no limit of its own.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections_per_address: Option<usize>,
    /// Requests being answered at once; more are shed with 503.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: usize,
    /// Requests being answered at once on one HTTP/2 connection.
    #[schemars(range(min = 1, max = 10_000))]
    pub streams: u32,
    /// Requests of one client address (IPv6: one /64). Null: no limit.
    pub rate_per_address: Option<RawRate>,
    /// Requests of one principal in one portal. Null: no limit.
    pub rate_per_principal: Option<RawRate>,
    /// Tries to log in to one local account, and from one client address (IPv6: one /64).
    pub rate_login: RawRate,
    /// Questions in one `/authorize/batch`.
    #[schemars(range(min = 1, max = 10_000))]
    pub batch: usize,
    /// Size of a body on the decision listener.
    pub decision_body_bytes: SizeText,
    /// How long a client may take to send a request's head, and the app a question's body.
    pub header_timeout: DurationText,
    /// How long an idle keep-alive connection is kept.
    pub idle_timeout: DurationText,
    /// How long a client may take none of what is sent to it.
    pub send_timeout: DurationText,
    /// How long an upgraded connection (WebSocket) may be silent in both directions.
    pub tunnel_idle_timeout: DurationText,
    /// Size of a token.
    pub token_bytes: SizeText,
    /// Verified tokens remembered per portal.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub token_cache: usize,
    /// How long after SIGTERM new connections are still taken, so that balancers see the readiness go first.
    pub drain_delay: DurationText,
    /// How long in-flight requests may finish after that.
    pub drain_timeout: DurationText,
    /// Threads that serve traffic. Null: one per core.
    #[schemars(range(min = 1, max = 1024))]
    pub workers: Option<usize>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawRate {
    /// How many in the time of `per`.
    #[schemars(required, range(min = 1, max = 1_000_000))]
    pub requests: Option<u32>,
    /// The time, 1h at most.
    #[serde(default = "default::rate_per")]
    pub per: DurationText,
    /// How many may come at once. Absent: as many as `requests`.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<u32>,
}

/// The JSON Schema of `cedargate.yaml`.
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(Raw).to_value()
}
