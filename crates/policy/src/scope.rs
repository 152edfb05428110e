//! The parts of the platform's configuration that policies depend on: one portal, the issuers it trusts, its login providers.
//!
//! The gate builds a `PortalScope` from `cedargate.yaml`; commands without a configuration build one from defaults. These types
//! do not contain key sources or upstreams.

use std::sync::Arc;

use crate::types::{Identity, PortalSlug};

/// One portal as the platform's configuration describes it.
#[derive(Clone, Debug)]
pub struct PortalScope {
    /// The portal's name.
    pub slug: PortalSlug,
    /// The requests that belong to the portal.
    pub matches: PortalMatch,
    /// Source of a request's tenant.
    pub tenant: TenantSource,
    /// The issuers that the portal trusts, in the order of its configuration.
    pub issuers: Vec<Arc<IssuerScope>>,
    /// Providers of `login.providers`. `None`: there is no configuration, so names of providers cannot be checked.
    pub providers: Option<Vec<ProviderScope>>,
    /// The reason why no browser can log in at this portal, for a portal file that names a login; `None` if browsers can.
    pub login_obstacle: Option<String>,
}

/// Hosts and path prefix of a portal.
#[derive(Clone, Debug)]
pub struct PortalMatch {
    /// Lower case, without port or trailing dot; `*` is one whole label. Empty: any host.
    pub hosts: Vec<String>,
    /// Canonical path; `/` or without trailing slash.
    pub path_prefix: String,
}

/// The source of the *request's* tenant (the principal's comes from its credential alone).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TenantSource {
    /// The request has no tenant of its own.
    Claim,
    /// First label of the host.
    HostLabel,
    /// Every request of the portal is for this tenant.
    Fixed(String),
}

/// One issuer: what it may assert, and how its claims become an identity.
#[derive(Clone, Debug)]
pub struct IssuerScope {
    /// `issuers[].name`.
    pub name: Arc<str>,
    /// Exactly the `iss` of its tokens.
    pub issuer: String,
    /// Never empty.
    pub audiences: Vec<String>,
    /// Claims that hold subject, tenant and roles.
    pub claims: ClaimPaths,
    /// Cedar type of its principals.
    pub principal: Arc<str>,
    /// `None`: `<name>|` where a portal trusts several issuers, else nothing.
    pub subject_prefix: Option<String>,
    /// Tenants this issuer may assert; `None`: any.
    pub tenants: Option<Vec<String>>,
    /// Roles this issuer may assert; `None`: any.
    pub roles: Option<Vec<String>>,
}

/// Dotted paths into the claims (`realm_access.roles`); a claim whose name holds the dots wins.
#[derive(Clone, Debug)]
pub struct ClaimPaths {
    /// Path of the subject.
    pub subject: String,
    /// Path of the tenant.
    pub tenant: String,
    /// Path of the roles.
    pub roles: String,
}

/// A way to log in, as far as a portal file may name it.
#[derive(Clone, Debug)]
pub struct ProviderScope {
    /// Key of `login.providers`.
    pub name: Arc<str>,
    /// `issuers[].name` of the issuer that vouches for its users.
    pub issuer: Arc<str>,
}

impl PortalScope {
    /// A portal at `path_prefix` of any host that trusts no issuer: the start for tests and commands without a configuration.
    pub fn at(slug: PortalSlug, path_prefix: impl Into<String>) -> Self {
        Self {
            slug,
            matches: PortalMatch {
                hosts: Vec::new(),
                path_prefix: path_prefix.into(),
            },
            tenant: TenantSource::Claim,
            issuers: Vec::new(),
            providers: None,
            login_obstacle: None,
        }
    }

    /// The host of a request that names none, where no client sent it: the portal's first, a leading `*` standing for the
    /// caller's tenant; else `localhost`.
    pub fn default_host(&self, tenant: Option<&str>) -> String {
        let first = self.matches.hosts.first();
        match (first, &self.tenant, tenant) {
            (Some(host), ..) => host.replace('*', tenant.unwrap_or("any")),
            (None, TenantSource::HostLabel, Some(tenant)) => format!("{tenant}.localhost"),
            (None, ..) => "localhost".to_owned(),
        }
    }

    /// The trusted issuer of this name.
    pub fn issuer(&self, name: &str) -> Option<&Arc<IssuerScope>> {
        self.issuers.iter().find(|issuer| *issuer.name == *name)
    }

    /// The id of an identity's principal: its subject, after `<issuer>|` where the portal trusts several issuers, or after the
    /// prefix that the issuer's configuration names.
    pub fn subject(&self, identity: &Identity) -> String {
        let subject = &identity.subject;
        match self.issuer(&identity.issuer).map(|issuer| &**issuer) {
            Some(IssuerScope {
                subject_prefix: Some(prefix),
                ..
            }) => format!("{prefix}{subject}"),
            Some(issuer) if self.issuers.len() > 1 => format!("{}|{subject}", issuer.name),
            _ => subject.clone(),
        }
    }
}

impl IssuerScope {
    /// An issuer with the default claims and no bounds.
    pub fn new(name: impl Into<Arc<str>>, issuer: impl Into<String>, audiences: Vec<String>) -> Self {
        Self {
            name: name.into(),
            issuer: issuer.into(),
            audiences,
            claims: ClaimPaths::default(),
            principal: Arc::from("User"),
            subject_prefix: None,
            tenants: None,
            roles: None,
        }
    }

    /// The issuer of claims in decision tests where the configuration has no issuer.
    pub fn unconfigured() -> Self {
        Self::new("unconfigured", "urn:cedargate:unconfigured", vec!["unconfigured".to_owned()])
    }
}

impl Default for ClaimPaths {
    fn default() -> Self {
        Self {
            subject: "sub".to_owned(),
            tenant: "tenant".to_owned(),
            roles: "roles".to_owned(),
        }
    }
}

impl TenantSource {
    /// The tenant that a request for `host` belongs to; `None` if the request has no tenant of its own.
    pub fn of_request<'a>(&'a self, host: Option<&'a str>) -> Option<&'a str> {
        match self {
            Self::Claim => None,
            Self::HostLabel => host?.split('.').next().filter(|label| !label.is_empty()),
            Self::Fixed(tenant) => Some(tenant),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn portal(hosts: &[&str], tenant: TenantSource) -> PortalScope {
        let mut portal = PortalScope::at(PortalSlug::parse("shop").unwrap(), "/shop");
        portal.matches.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        portal.tenant = tenant;
        portal
    }

    #[test]
    fn a_request_that_names_no_host_gets_one_that_the_portal_matches() {
        let host = |hosts: &[&str], tenant, caller| portal(hosts, tenant).default_host(caller);
        assert_eq!(host(&["shop.test", "b.test"], TenantSource::Claim, None), "shop.test");
        assert_eq!(
            host(&["*.shop.test"], TenantSource::HostLabel, Some("acme")),
            "acme.shop.test"
        );
        assert_eq!(host(&["*.shop.test"], TenantSource::HostLabel, None), "any.shop.test");
        assert_eq!(host(&[], TenantSource::HostLabel, Some("acme")), "acme.localhost");
        assert_eq!(host(&[], TenantSource::Fixed("acme".to_owned()), Some("other")), "localhost");
    }

    #[test]
    fn the_tenant_of_a_request_comes_from_its_source_alone() {
        assert_eq!(TenantSource::Claim.of_request(Some("acme.test")), None);
        assert_eq!(TenantSource::HostLabel.of_request(Some("acme.test")), Some("acme"));
        assert_eq!(TenantSource::HostLabel.of_request(None), None, "a named query has no host");
        assert_eq!(TenantSource::Fixed("acme".to_owned()).of_request(None), Some("acme"));
    }
}
