//! The platform team's settings, checked and ready to use.
//!
//! Foundation. `config/raw.rs` mirrors what the file says; turning raw into these values is the only place where
//! configuration can fail. Nothing here reads the environment or a file after start.
//!
//! `load` reads file and environment into a located tree (`tree`, `env`), holds it against the JSON Schema of the raw
//! types (`walk`: unknown keys, types, ranges), and checks what one value means beside the others (`check`).

mod check;
mod env;
mod error;
mod load;
mod raw;
#[cfg(test)]
mod tests;
mod tree;
mod walk;
mod warning;

pub use env::process_environment;
pub use error::ConfigErrors;
pub use load::{Loaded, PrintFormat, from_str, load, print};
pub use raw::json_schema;
pub use tree::{Node, Origin, Shape};
pub use walk::hint;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cedargate_policy::scope::{IssuerScope, PortalMatch, PortalScope, ProviderScope, TenantSource};
use ipnet::IpNet;

use cedargate_policy::types::{PortalSlug, Redacted};

/// Everything `cedargate.yaml` decides.
#[derive(Clone, Debug)]
pub struct Config {
    /// Scheme and authority under which browsers reach the gate, without a trailing slash.
    pub public_url: Option<String>,
    pub listen: Listen,
    pub upstream: Upstream,
    /// `None`: every folder of `policies.dir` is a portal at `/portal/<slug>`.
    pub portals: Option<Vec<Portal>>,
    pub policies: Policies,
    /// Those of `issuers`, then one for every provider with local accounts.
    pub issuers: Vec<Issuer>,
    pub sessions: Sessions,
    pub login: Login,
    pub identity: IdentityPages,
    pub trusted_proxies: Vec<IpNet>,
    pub assertion: Assertion,
    pub audit: Audit,
    pub limits: Limits,
}

#[derive(Clone, Debug)]
pub struct Listen {
    pub proxy: ProxyListen,
    pub decision: Option<DecisionListen>,
    pub admin: Option<SocketAddr>,
    /// Path of the Unix socket.
    pub control: Option<PathBuf>,
}

/// Where clients come in.
#[derive(Clone, Debug)]
pub struct ProxyListen {
    pub address: SocketAddr,
    pub tls: Option<Tls>,
    pub proxy_protocol: ProxyProtocol,
}

/// Whether connections from `trusted_proxies` start with a PROXY protocol header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyProtocol {
    Off,
    Required,
}

/// PEM files of one listener; read at start and again when they change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// `None`: clients need no certificate.
    pub client_ca: Option<PathBuf>,
}

/// Where the app asks. Off loopback `tokens` is never empty, or `tls` has a `client_ca`.
#[derive(Clone, Debug)]
pub struct DecisionListen {
    pub address: Address,
    /// Bearer tokens that callers must present (`auth.tokens_file`, one per line); empty: no check.
    pub tokens: Vec<Redacted<String>>,
    pub tls: Option<Tls>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The app beside the gate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Upstream {
    pub url: UpstreamUrl,
    pub protocol: Protocol,
    /// Only read for an `https` URL.
    pub tls: UpstreamTls,
    pub connect_timeout: Duration,
    /// From the last byte of the request sent to the response head.
    pub response_timeout: Duration,
    /// How long an unused connection is kept; shorter than the app's own keep-alive.
    pub idle_timeout: Duration,
    /// Lower-case names of request headers the app never sees, beside the identity headers.
    pub strip_headers: Vec<String>,
    /// Whether the client's bearer token reaches the app.
    pub forward_authorization: bool,
    /// Largest head of an answer.
    pub response_header_bytes: usize,
    pub circuit: Circuit,
}

/// Which HTTP the app speaks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Protocol {
    /// HTTP/1.1, and HTTP/2 for gRPC; over TLS whatever ALPN says.
    Auto,
    Http1,
    Http2,
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

/// When to stop trying an app that cannot be reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Circuit {
    /// Failed connection attempts in a row; 0: never.
    pub failures: u32,
    pub pause: Duration,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum UpstreamUrl {
    Http(Authority),
    Https(Authority),
    Unix(PathBuf),
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Authority {
    /// Name or address as it stands in a URL: IPv6 in brackets.
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Debug)]
pub struct Portal {
    pub slug: PortalSlug,
    pub matches: PortalMatch,
    /// Indexes into `Config::issuers`.
    pub issuers: Vec<usize>,
    pub tenant: TenantSource,
    /// `None`: the top-level upstream.
    pub upstream: Option<Upstream>,
}

#[derive(Clone, Debug)]
pub struct Policies {
    pub dir: PathBuf,
    pub schemas: PathBuf,
    pub poll: Duration,
    pub require: Vec<PortalSlug>,
    pub state_dir: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct Issuer {
    /// The part that policies depend on: name, audiences, claims and bounds.
    pub scope: Arc<IssuerScope>,
    pub keys: KeySource,
    /// Over what they may be fetched.
    pub key_transport: KeyTransport,
    /// How long the last good keys are used when they cannot be fetched.
    pub jwks_max_age: Duration,
    /// Never empty.
    pub algorithms: Vec<Algorithm>,
    pub leeway: Duration,
    /// `None`: bearer tokens that are no JWTs are refused.
    pub introspection: Option<Introspection>,
}

/// How an issuer is asked about opaque tokens (RFC 7662).
#[derive(Clone, Debug)]
pub struct Introspection {
    /// `None`: discovery.
    pub url: Option<String>,
    pub client_id: String,
    pub client_secret: Secret,
    /// How long an answer may be used again.
    pub cache: Duration,
}

/// A secret of the configuration.
#[derive(Clone, Debug)]
pub enum Secret {
    Value(Redacted<String>),
    /// Trimmed; read again when it changes.
    File(PathBuf),
}

#[derive(Clone, Debug)]
pub struct Sessions {
    pub store: SessionStore,
    /// `None`: an ephemeral key, with the memory store only.
    pub key_file: Option<PathBuf>,
    pub idle_timeout: Duration,
    pub absolute_timeout: Duration,
    pub staleness_max: Duration,
    /// Sessions remembered by this process.
    pub cache: usize,
    pub cookie: CookieSecurity,
}

#[derive(Clone, Debug)]
pub enum SessionStore {
    Memory,
    Redis(Box<Redis>),
}

/// What the session cookie is protected with beside HttpOnly and SameSite.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CookieSecurity {
    /// `Secure`, and a `__Host-` name.
    Host,
    /// Neither: for plain HTTP on localhost.
    DangerInsecure,
}

#[derive(Clone, Debug)]
pub struct Redis {
    pub topology: Topology,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub tls: RedisTls,
    pub key_prefix: String,
    /// How long one command may take.
    pub timeout: Duration,
}

#[derive(Clone, Debug)]
pub enum Topology {
    Single(Redacted<String>),
    Sentinel {
        master: String,
        urls: Vec<Redacted<String>>,
        /// Of the servers behind the sentinels.
        tls: bool,
    },
    Cluster(Vec<Redacted<String>>),
}

#[derive(Clone, Debug, Default)]
pub struct RedisTls {
    /// `None`: the system's authorities.
    pub ca: Option<PathBuf>,
    /// Certificate chain and key of the gate's own.
    pub identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Clone, Debug, Default)]
pub struct Login {
    /// In the order of their names, which are `[a-z0-9_-]+`.
    pub providers: Vec<Provider>,
}

/// A way to log in.
#[derive(Clone, Debug)]
pub struct Provider {
    pub name: Arc<str>,
    pub title: String,
    /// Index into `Config::issuers`.
    pub issuer: usize,
    pub kind: ProviderKind,
}

#[derive(Clone, Debug)]
pub enum ProviderKind {
    Oidc {
        client_id: String,
        auth: ClientAuth,
        /// With `openid`.
        scopes: Vec<String>,
    },
    /// Accounts in this file.
    Local(PathBuf),
}

/// How the gate proves itself to a provider.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    SecretBasic(Secret),
    SecretPost(Secret),
    /// PKCS#8 PEM of a P-256 key.
    PrivateKeyJwt(PathBuf),
}

/// The endpoints and pages that the gate serves itself.
#[derive(Clone, Debug)]
pub struct IdentityPages {
    /// Canonical path without trailing slash.
    pub prefix: String,
    pub title: String,
    pub logo: Option<PathBuf>,
}

/// Over what an issuer's keys may be fetched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyTransport {
    /// https, or http to this very machine.
    Tls,
    /// `danger_insecure_jwks`: whoever can answer there can sign in as anyone.
    DangerPlain,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeySource {
    Discovery,
    Url(String),
    File(PathBuf),
    /// Local accounts: there are no tokens of this issuer, so none is ever believed.
    NoTokens,
}

/// JWS algorithms, all asymmetric; `danger_symmetric_algorithms` is what HS* would need and is not offered.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

#[derive(Clone, Debug)]
pub struct Assertion {
    /// Lower-case header name.
    pub header: String,
    pub ttl: Duration,
    /// PKCS#8 PEM of P-256 keys: the first signs, all verify; `None`: an ephemeral key.
    pub key_file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct Audit {
    pub sink: AuditSink,
    pub allow: AuditAllow,
    /// Dotted paths of the record that are replaced by `"[masked]"`.
    pub mask: Vec<String>,
    pub on_full: OnFull,
    /// Records waiting for the writer.
    pub queue: usize,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AuditSink {
    Stdout,
    File(PathBuf),
}

/// Whether allowed decisions are recorded; denied ones always are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AuditAllow {
    All,
    None,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnFull {
    Drop,
    Deny,
}

#[derive(Clone, Debug)]
pub struct Limits {
    pub header_bytes: usize,
    /// `None`: the app's business.
    pub body_bytes: Option<u64>,
    pub connections: usize,
    /// `None`: no limit of its own.
    pub connections_per_address: Option<usize>,
    /// Requests being answered at once.
    pub requests: usize,
    /// The same on one HTTP/2 connection.
    pub streams: u32,
    pub rate_per_address: Option<Rate>,
    pub rate_per_principal: Option<Rate>,
    /// Tries to log in to one local account, and from one address.
    pub rate_login: Rate,
    /// Questions in one `/authorize/batch`.
    pub batch: usize,
    /// Bytes of an `/authorize` body.
    pub decision_body_bytes: usize,
    pub header_timeout: Duration,
    /// How long an idle keep-alive connection is kept.
    pub idle_timeout: Duration,
    /// How long a client may take none of what is sent to it.
    pub send_timeout: Duration,
    /// How long an upgraded connection may be silent in both directions.
    pub tunnel_idle_timeout: Duration,
    pub token_bytes: usize,
    /// Verified tokens remembered per portal.
    pub token_cache: usize,
    /// How long after SIGTERM new connections are still taken.
    pub drain_delay: Duration,
    /// How long in-flight requests may finish after that.
    pub drain_timeout: Duration,
    /// Threads that serve traffic; default: one per core.
    pub workers: usize,
}

/// So many requests in a time, and so many at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    pub requests: NonZeroU32,
    pub per: Duration,
    pub burst: NonZeroU32,
}

impl Config {
    /// For tests and the demo: a file's text, no environment, relative paths from the current folder.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigErrors> {
        from_str(text, std::path::Path::new(""), std::iter::empty()).map(|loaded| loaded.config)
    }
}

impl Issuer {
    /// An issuer whose tokens the gate never accepts: the one of local accounts.
    pub fn without_tokens(scope: IssuerScope) -> Self {
        Self {
            scope: Arc::new(scope),
            keys: KeySource::NoTokens,
            key_transport: KeyTransport::Tls,
            jwks_max_age: Duration::ZERO,
            algorithms: vec![Algorithm::Es256],
            leeway: Duration::ZERO,
            introspection: None,
        }
    }
}

impl Authority {
    /// The host as sockets and certificates name it: an IPv6 address without its brackets.
    pub fn dialled(&self) -> &str {
        let bare = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        bare.unwrap_or(&self.host)
    }
}

impl UpstreamUrl {
    /// Scheme and authority, or the socket: the `aud` of assertions.
    pub fn origin(&self) -> String {
        match self {
            Self::Http(authority) => format!("http://{}:{}", authority.host, authority.port),
            Self::Https(authority) => format!("https://{}:{}", authority.host, authority.port),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

impl Config {
    /// A portal as its policies see it.
    pub fn portal_scope(&self, portal: &Portal) -> PortalScope {
        let scope = |index: usize| self.issuers.get(index).map(|issuer| Arc::clone(&issuer.scope));
        let provider = |provider: &Provider| {
            let issuer = scope(provider.issuer)?;
            Some(ProviderScope {
                name: Arc::clone(&provider.name),
                issuer: Arc::clone(&issuer.name),
            })
        };
        PortalScope {
            slug: portal.slug.clone(),
            matches: portal.matches.clone(),
            tenant: portal.tenant.clone(),
            issuers: portal.issuers.iter().filter_map(|index| scope(*index)).collect(),
            providers: Some(self.login.providers.iter().filter_map(provider).collect()),
        }
    }
}

impl Portal {
    /// A portal that only its folder announces: at `/portal/<slug>` of any host, every issuer, no tenant of the request's own.
    pub fn discovered(slug: &PortalSlug, issuers: usize) -> Self {
        Self {
            slug: slug.clone(),
            matches: PortalMatch {
                hosts: Vec::new(),
                path_prefix: format!("/portal/{slug}"),
            },
            issuers: (0..issuers).collect(),
            tenant: TenantSource::Claim,
            upstream: None,
        }
    }
}
