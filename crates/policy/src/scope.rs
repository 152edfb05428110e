//! The parts of the platform's configuration that policies depend on: one portal, the issuers it trusts, its login
//! providers.
//!
//! The gate builds a `PortalScope` from `cedargate.yaml`; commands without a configuration build one from defaults.
//! These types do not contain key sources or upstreams.

use std::borrow::Cow;
use std::sync::Arc;

use crate::claim_path::ClaimPath;
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
    /// The reason why no browser can log in at this portal, for a portal file that names a login; `None` if browsers
    /// can.
    pub login_obstacle: Option<String>,
    /// The request headers that the gate removes before the decision, so that no policy can read them.
    pub removed_headers: RemovedHeaders,
}

/// Names of headers, and starts of names as `x-name-*`, in lower case.
#[derive(Clone, Debug, Default)]
pub struct RemovedHeaders {
    /// The removed ones, in any spelling.
    pub removed: Vec<String>,
    /// Exceptions for trusted proxies.
    pub passed: Vec<String>,
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
    /// The claim that must name one of `audiences`; `aud` must do so as well wherever a token has it.
    pub audience_claim: ClaimPath,
    /// Claims that hold subject, tenant and roles.
    pub claims: ClaimPaths,
    /// The effect of a claim that the issuer left out of the token and offers elsewhere.
    pub overage: Overage,
    /// Bounds on the roles of one credential.
    pub role_limits: RoleLimits,
    /// Cedar type of its principals.
    pub principal: Arc<str>,
    /// `None`: `<name>|` where a portal trusts several issuers, else nothing.
    pub subject_prefix: Option<String>,
    /// Tenants this issuer may assert; `None`: any.
    pub tenants: Option<Vec<String>>,
    /// Roles this issuer may assert; `None`: any.
    pub roles: Option<Vec<String>>,
}

/// The claims that hold subject, tenant and roles.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClaimPaths {
    /// Path of the subject.
    pub subject: ClaimPath,
    /// Path of the tenant.
    pub tenant: ClaimPath,
    /// The claims whose roles a credential has, all together.
    pub roles: Vec<RoleClaim>,
}

/// One claim that holds roles.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RoleClaim {
    /// Path of the claim.
    pub path: ClaimPath,
    /// The part of the claim that names the roles.
    pub form: RoleForm,
}

/// The part of a claim that names roles.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RoleForm {
    /// A string, or an array of strings: one role each.
    Values,
    /// The same, each string split at this separator.
    Split(String),
    /// The names of an object's members.
    Keys,
}

/// The effect of a claim that is mapped or read, and that the issuer left out of the token because it is too long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Overage {
    /// The credential is refused.
    Refuse,
    /// The claim counts as absent, so a forbid that reads it does not apply.
    DangerIgnore,
}

/// Bounds on the roles of one credential.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RoleLimits {
    /// Most roles.
    pub count: usize,
    /// Most bytes of one role.
    pub bytes: usize,
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
    /// A portal at `path_prefix` of any host that trusts no issuer: the start for tests and commands without a
    /// configuration.
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
            removed_headers: RemovedHeaders::default(),
        }
    }

    /// The host of a request that names none, where no client sent it: the portal's first, a leading `*` standing for
    /// the caller's tenant; else `localhost`.
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

    /// The id of an identity's principal: its subject, after `<issuer>|` where the portal trusts several issuers, or
    /// after the prefix that the issuer's configuration names.
    ///
    /// # Errors
    /// SECURITY: an id belongs to the issuer with the longest prefix that it begins with. A subject whose id belongs to
    /// another issuer is refused: policies, revocations and the app know a principal by this id alone.
    pub fn subject(&self, identity: &Identity) -> Result<String, ForeignSubject> {
        let Some(own) = self.issuer(&identity.issuer) else {
            return Ok(identity.subject.clone());
        };
        let id = format!("{}{}", self.prefix(own), identity.subject);
        let begins = |issuer: &&Arc<IssuerScope>| begins_with(&id, &self.prefix(issuer));
        let owner = self
            .issuers
            .iter()
            .filter(begins)
            .max_by_key(|issuer| self.prefix(issuer).len());
        match owner.filter(|owner| owner.name != own.name) {
            Some(owner) => Err(ForeignSubject {
                issuer: own.name.to_string(),
                owner: owner.name.to_string(),
                prefix: self.prefix(owner).into_owned(),
            }),
            None => Ok(id),
        }
    }

    /// The text before every subject of an issuer.
    fn prefix<'a>(&self, issuer: &'a IssuerScope) -> Cow<'a, str> {
        match &issuer.subject_prefix {
            Some(prefix) => Cow::Borrowed(prefix),
            None if self.issuers.len() > 1 => Cow::Owned(format!("{}|", issuer.name)),
            None => Cow::Borrowed(""),
        }
    }

    /// Two trusted issuers whose subjects have the same prefix, so that no subject would tell them apart.
    pub fn same_prefix(&self) -> Option<SamePrefix> {
        let equal = |one: &IssuerScope, other: &IssuerScope| self.prefix(one).eq_ignore_ascii_case(&self.prefix(other));
        self.issuers.iter().enumerate().find_map(|(n, issuer)| {
            let earlier = self.issuers.iter().take(n).find(|earlier| equal(earlier, issuer))?;
            Some(SamePrefix {
                issuers: [Arc::clone(&earlier.name), Arc::clone(&issuer.name)],
                prefix: self.prefix(issuer).into_owned(),
            })
        })
    }
}

/// Two issuers of one portal whose subjects have the same prefix.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SamePrefix {
    /// `issuers[].name` of both.
    pub issuers: [Arc<str>; 2],
    /// The prefix.
    pub prefix: String,
}

/// A subject that reads as one of another issuer that the portal trusts.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the subject of issuer `{issuer}` reads as one of issuer `{owner}`, whose subjects begin with `{prefix}`; give `{issuer}` a prefix of its \
     own (issuers[].subject_prefix)"
)]
pub struct ForeignSubject {
    /// `issuers[].name` of the issuer of the credential.
    pub issuer: String,
    /// `issuers[].name` of the issuer that the id belongs to.
    pub owner: String,
    /// The owner's prefix.
    pub prefix: String,
}

/// True if a prefix is at the start of an id. Case does not count: some apps compare names of users without it.
fn begins_with(id: &str, prefix: &str) -> bool {
    let start = id.as_bytes().get(..prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

impl RemovedHeaders {
    /// True for a header of no request, by the name in a schema (`_` for `-`).
    pub fn contains(&self, declared: &str) -> bool {
        let spelled = |name: &str| name.to_ascii_lowercase().replace('_', "-");
        let name = spelled(declared);
        let is_among = |items: &[String]| {
            items
                .iter()
                .map(|item| spelled(item))
                .any(|item| match item.strip_suffix('*') {
                    Some(start) => name.starts_with(start),
                    None => item == name,
                })
        };
        is_among(&self.removed) && !is_among(&self.passed)
    }
}

impl IssuerScope {
    /// An issuer with the default claims and no bounds.
    pub fn new(name: impl Into<Arc<str>>, issuer: impl Into<String>, audiences: Vec<String>) -> Self {
        Self {
            name: name.into(),
            issuer: issuer.into(),
            audiences,
            audience_claim: ClaimPath::unquoted("aud"),
            claims: ClaimPaths::default(),
            overage: Overage::Refuse,
            role_limits: RoleLimits::default(),
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
            subject: ClaimPath::unquoted("sub"),
            tenant: ClaimPath::unquoted("tenant"),
            roles: vec![RoleClaim::values(ClaimPath::unquoted("roles"))],
        }
    }
}

impl RoleClaim {
    /// A claim whose value is one role or a list of them.
    pub fn values(path: ClaimPath) -> Self {
        Self {
            path,
            form: RoleForm::Values,
        }
    }
}

impl Default for RoleLimits {
    fn default() -> Self {
        Self {
            count: 1000,
            bytes: 1024,
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

    fn issued(portal: &PortalScope, issuer: &str, subject: &str) -> Result<String, String> {
        let scope = portal
            .issuer(issuer)
            .cloned()
            .unwrap_or_else(|| Arc::new(IssuerScope::unconfigured()));
        let claims = serde_json::json!({ "sub": subject });
        let identity = crate::claims::unsigned_identity(&scope, claims.as_object().unwrap().clone()).unwrap();
        portal.subject(&identity).map_err(|error| error.owner)
    }

    fn trusting(prefixes: &[(&str, Option<&str>)]) -> PortalScope {
        let mut portal = portal(&[], TenantSource::Claim);
        let issuer = |(name, prefix): &(&str, Option<&str>)| {
            let mut issuer = IssuerScope::new(*name, format!("https://{name}.test/"), vec!["shop".to_owned()]);
            issuer.subject_prefix = prefix.map(str::to_owned);
            Arc::new(issuer)
        };
        portal.issuers = prefixes.iter().map(issuer).collect();
        portal
    }

    #[test]
    fn a_subject_that_reads_as_one_of_another_issuer_is_refused() {
        let portal = trusting(&[
            ("corp", None),
            ("partner", Some("")),
            ("eu", Some("corp|eu|")),
            ("x", Some("x:")),
        ]);
        for (issuer, subject, expected) in [
            ("corp", "alice", Ok("corp|alice")),
            ("corp", "eu|alice", Err("eu")),
            ("corp", "partner|alice", Ok("corp|partner|alice")),
            ("partner", "alice", Ok("alice")),
            ("partner", "auth0|alice", Ok("auth0|alice")),
            ("partner", "corp|alice", Err("corp")),
            ("partner", "CORP|alice", Err("corp")),
            ("partner", "corp|", Err("corp")),
            ("partner", "corp", Ok("corp")),
            ("partner", "corp|eu|alice", Err("eu")),
            ("partner", "x:", Err("x")),
            ("eu", "alice", Ok("corp|eu|alice")),
            ("x", "corp|alice", Ok("x:corp|alice")),
        ] {
            let found = issued(&portal, issuer, subject);
            assert_eq!(
                found,
                expected.map(str::to_owned).map_err(str::to_owned),
                "{issuer} {subject}"
            );
        }
        let one = trusting(&[("corp", None)]);
        assert_eq!(
            issued(&one, "corp", "partner|alice"),
            Ok("partner|alice".to_owned()),
            "there is no other issuer"
        );
    }

    #[test]
    fn issuers_of_one_portal_have_different_prefixes() {
        for (prefixes, same) in [
            (vec![("a", None), ("b", None)], false),
            (vec![("a", Some("")), ("b", None)], false),
            (vec![("a", Some("")), ("b", Some(""))], true),
            (vec![("a", Some("b|")), ("b", None)], true),
            (vec![("a", Some("B|")), ("c", None), ("b", None)], true),
            (vec![("a", Some(""))], false),
        ] {
            assert_eq!(trusting(&prefixes).same_prefix().is_some(), same, "{prefixes:?}");
        }
    }

    #[test]
    fn the_tenant_of_a_request_comes_from_its_source_alone() {
        assert_eq!(TenantSource::Claim.of_request(Some("acme.test")), None);
        assert_eq!(TenantSource::HostLabel.of_request(Some("acme.test")), Some("acme"));
        assert_eq!(TenantSource::HostLabel.of_request(None), None, "a named query has no host");
        assert_eq!(TenantSource::Fixed("acme".to_owned()).of_request(None), Some("acme"));
    }
}
