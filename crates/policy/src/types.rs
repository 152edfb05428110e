//! Plain values that the steps of a request's path hand to each other.
//!
//! Foundation: imports no other module of this crate. The types check their construction and format themselves; no
//! function here performs I/O, reads a clock or makes a decision.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

/// A portal's name in paths, files, metrics and logs: lower-case letters, digits, `-`; 1-63 characters.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortalSlug(Arc<str>);

/// The way that a query came in. The label of `decisions_total{door}`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Door {
    Proxy,
    Authorize,
    Authzen,
    /// nginx, Traefik, Caddy, HAProxy: a proxy asks before it forwards.
    ForwardAuth,
    /// Envoy asks before it forwards, over gRPC or HTTP.
    ExtAuthz,
}

/// The scheme by which the client reached the first trusted hop.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Scheme {
    Http,
    Https,
}

/// The caller's identity, taken from one verified credential and from nothing else.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `issuers[].name` of the issuer that vouches.
    pub issuer: Arc<str>,
    /// The subject claim as the issuer wrote it (a portal may prefix it).
    pub subject: String,
    /// Cedar entity type of the principal, from `issuers[].principal` (default `User`).
    pub principal_type: Arc<str>,
    pub tenant: Option<String>,
    /// In the order of the claim, without repetitions.
    pub roles: Vec<String>,
    /// Every claim of the credential; the schema decides which become attributes.
    pub claims: Arc<Map<String, Value>>,
    /// Unix seconds of the credential's own expiry; the issuer's leeway is not in it.
    pub expires_at: i64,
    pub auth: Arc<AuthFacts>,
    pub token: TokenFacts,
}

/// The way that the caller logged in: the context record `auth`.
#[derive(Clone, Debug, Default)]
pub struct AuthFacts {
    /// One of `METHODS`.
    pub method: &'static str,
    /// Unix seconds of the login (`auth_time`, else `iat`).
    pub time: Option<i64>,
    pub acr: Option<String>,
    pub amr: Vec<String>,
    pub scopes: Vec<String>,
    /// Fields that the credential has in a form that the gate cannot read. A query that reads one is refused.
    pub unreadable: Vec<UnreadableFact>,
}

impl AuthFacts {
    /// The ways to prove a caller.
    pub const METHODS: [&'static str; 4] = ["bearer", "session", "assertion", "certificate"];

    /// The method of this name.
    pub fn method_named(name: &str) -> Option<&'static str> {
        Self::METHODS.into_iter().find(|known| *known == name)
    }
}

/// A field of `AuthFacts` that a malformed claim would fill.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnreadableFact {
    /// Name of the field in the context record.
    pub field: &'static str,
    /// The claim at fault.
    pub claim: String,
    /// The fault, with the claim's name.
    pub detail: String,
}

/// A token as decision records show it: enough to find it at its issuer, nothing that could be used.
#[derive(Clone, Debug, Default)]
pub struct TokenFacts {
    pub iss: String,
    pub aud: Vec<String>,
    pub kid: Option<String>,
    pub alg: &'static str,
    /// First 16 hex digits of SHA-256 of `jti`.
    pub jti_hash: Option<String>,
}

/// A value that must never reach a log: `Debug` and `Display` print `[redacted]`.
#[derive(Clone, Eq, PartialEq)]
pub struct Redacted<T>(T);

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl PortalSlug {
    /// `None` unless the text is a valid slug.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = (1..=63).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        valid.then(|| Self(Arc::from(text)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A placeholder slug, for texts about a portal without a name.
    pub fn placeholder() -> Self {
        Self(Arc::from("portal"))
    }
}

impl fmt::Display for PortalSlug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Door {
    pub const ALL: [Self; 5] = [Self::Proxy, Self::Authorize, Self::Authzen, Self::ForwardAuth, Self::ExtAuthz];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Authorize => "authorize",
            Self::Authzen => "authzen",
            Self::ForwardAuth => "forward_auth",
            Self::ExtAuthz => "ext_authz",
        }
    }
}

impl<T> Redacted<T> {
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The secret itself; a review should look at every call site.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T> fmt::Display for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Names of headers that policies read; every spelling of a name counts.
#[derive(Clone, Debug, Default)]
pub struct HeaderNames(Arc<[String]>);

impl HeaderNames {
    /// True if a header of this name, in any spelling, is one of them.
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|own| is_same_header(own, name))
    }
}

impl FromIterator<String> for HeaderNames {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

/// True if servers that turn headers into variables (CGI, WSGI, Rack, PHP) give both names the same one: they
/// distinguish neither case nor `-`, `_`, `.` and the like.
pub fn is_same_header(one: &str, other: &str) -> bool {
    let fold = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => byte.to_ascii_lowercase(),
        false => b'-',
    };
    one.len() == other.len() && one.bytes().map(fold).eq(other.bytes().map(fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_that_servers_merge_are_one_header() {
        for other in ["x-dept", "X_Dept", "x.dept", "x!dept", "X-DEPT"] {
            assert!(is_same_header(other, "x-dept"), "{other}");
        }
        for other in ["xdept", "x--dept", "x-depth", "y-dept"] {
            assert!(!is_same_header(other, "x-dept"), "{other}");
        }
    }

    #[test]
    fn slugs_are_dns_labels() {
        for good in ["a", "admin", "shop-2"] {
            assert!(PortalSlug::parse(good).is_some(), "{good}");
        }
        for bad in ["", "-a", "a-", "Admin", "a_b", "a/b", "_shared", &"x".repeat(64)] {
            assert!(PortalSlug::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn redacted_values_do_not_print() {
        let secret = Redacted::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "[redacted] [redacted]");
    }
}
