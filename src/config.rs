//! The platform team's settings, checked and ready to use.
//!
//! Foundation. Turning `cedargate.yaml` into these values is the only place where configuration can fail. Nothing here
//! reads the environment or a file after start.
//!
//! `load` reads file and environment into a tree whose nodes know their lines (`tree`, `env`), checks it against the
//! JSON Schema of the sections (`schema`: unknown keys, types, bounds), and checks each section against the others
//! (`document`, `check`, `sections`). All mistakes come back together.

mod check;
mod document;
mod env;
mod error;
mod load;
mod schema;
mod secret;
mod sections;
mod suggestion;
#[cfg(test)]
mod tests;
mod tree;
mod values;
mod warning;

pub use env::process_environment;
pub use error::ConfigErrors;
pub use load::{Loaded, effective_json, effective_lines, from_str, load, load_without_secrets};
pub use schema::json_schema;
pub use secret::Secret;
pub use sections::app_probes::{AppProbe, AppProbes, ProbeTarget};
pub use sections::assertion::Assertion;
pub use sections::audit::{
    AllowWord, Audit, AuditAllow, AuditChain, AuditSink, Compress, FileSink, Fsync, OnFull, Rotate, Share,
};
pub use sections::authzen::Authzen;
pub use sections::bundle::{
    BUNDLE_BYTES_MAX, Bundle, BundleCredential, BundleKeys, BundleSource, BundleTransport, OciReference, Rollback,
};
pub use sections::certificate_rules::{CertificateRules, CertificateSubject};
pub use sections::egress::Egress;
pub use sections::exposure_check::ExposureCheck;
pub use sections::identity::{IdentityPages, StatedIn};
pub use sections::issuers::{ALGORITHMS, Algorithm, Dpop, Introspection, Issuer, KeySource, KeyTransport, TokenSource};
pub use sections::limits::{Limits, Rate};
pub use sections::listen::{Address, ClientCertificates, Listen, ProxyProtocol, Tls};
pub use sections::login::{
    AccessTokenUse, ClaimsFrom, ClientAuth, Endpoints, Login, OidcClient, Provider, ProviderKind, SessionCookie,
};
pub use sections::policies::Policies;
pub use sections::portals::{Portal, RESERVED_PREFIX};
pub use sections::public_url::host_of;
pub use sections::sessions::{CookieSecurity, Redis, SessionStore, Sessions, Topology};
pub use sections::strip_headers;
pub use sections::token_exchange::{TokenExchange, UpstreamToken};
pub use sections::upstream::{Circuit, Protocol, Upstream, UpstreamTls};
pub use sections::upstream_url::{Authority, UpstreamUrl};
pub use suggestion::hint;
pub use tree::{Node, Origin, Shape};
pub use values::ByteSize;

#[cfg(test)]
pub use values::Count;
#[cfg(test)]
pub use {
    sections::limits::RateLimit,
    values::{TimeSpan, Timeout},
};

use std::sync::Arc;

use cedargate_policy::scope::{PortalScope, ProviderScope, RemovedHeaders};
use ipnet::IpNet;

/// Everything `cedargate.yaml` decides.
#[derive(Clone, Debug)]
pub struct Config {
    /// Scheme and authority under which browsers reach the gate, without a trailing slash.
    pub public_url: Option<String>,
    pub listen: Listen,
    pub upstream: Upstream,
    pub app_probes: AppProbes,
    /// `None`: off.
    pub exposure_check: Option<ExposureCheck>,
    /// `None`: every folder of `policies.dir` is a portal at `/portal/<slug>`.
    pub portals: Option<Vec<Portal>>,
    pub policies: Policies,
    /// The policies' source in place of the folders.
    pub bundle: Option<Bundle>,
    /// Those of `issuers`, then those of `client_certificates`, then one for every provider with local accounts.
    pub issuers: Vec<Issuer>,
    pub sessions: Sessions,
    pub login: Login,
    pub identity: IdentityPages,
    pub trusted_proxies: Vec<IpNet>,
    pub assertion: Assertion,
    pub audit: Audit,
    pub authzen: Authzen,
    pub limits: Limits,
}

impl Config {
    /// Reads the text of a file without an environment; relative paths start at the current folder. For tests and the
    /// demo.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigErrors> {
        from_str(text, std::path::Path::new(""), std::iter::empty()).map(|loaded| loaded.config)
    }

    /// The headers that the gate removes from requests of a portal: the configured ones, its own, and those that hold
    /// tokens.
    pub fn removed_headers(&self, portal: &Portal) -> RemovedHeaders {
        let upstream = portal.upstream.as_ref().unwrap_or(&self.upstream);
        let issuers = portal.issuers.iter().filter_map(|index| self.issuers.get(*index));
        let tokens = issuers
            .flat_map(|issuer| &issuer.token_from)
            .filter_map(|source| match source {
                TokenSource::Header(name) => Some(name.as_str()),
                TokenSource::Cookie(_) | TokenSource::WebsocketProtocol(_) => None,
            });
        let own = strip_headers::ALWAYS
            .names
            .iter()
            .copied()
            .chain([self.assertion.header.as_str()]);
        let configured = upstream.strip_headers.iter().map(String::as_str);
        RemovedHeaders {
            removed: configured.chain(own).chain(tokens).map(str::to_owned).collect(),
            passed: upstream.pass_headers.clone(),
        }
    }

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
            login_obstacle: self.login_obstacle(portal),
            removed_headers: self.removed_headers(portal),
        }
    }
}
