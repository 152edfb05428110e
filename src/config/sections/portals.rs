//! `portals`: which traffic each portal gets. Two portals that match the same request equally well are a start error.

use std::collections::BTreeMap;

use cedargate_policy::portal::normal_host;
use cedargate_policy::portal::path::is_at_or_below;
use cedargate_policy::scope::{PortalMatch, TenantSource};
use cedargate_policy::types::PortalSlug;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::upstream::{PortalUpstream, RawUpstream, Upstream};
use crate::config::check::Checker;
use crate::config::suggestion::hint;

/// The gate's own paths on the proxy listener.
pub const RESERVED_PREFIX: &str = "/.well-known/cedargate";

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawPortal {
    /// The requests that belong to the portal. Absent: any host, `/portal/<slug>`.
    #[serde(default, rename = "match")]
    pub matches: RawMatch,
    /// Names of the issuers the portal trusts. Absent: all of them.
    #[serde(default)]
    pub issuers: Option<Vec<String>>,
    /// The source of the request's tenant.
    #[serde(default)]
    pub tenant: RawTenant,
    /// The portal's own app: a URL, or a mapping. Absent: the top-level `upstream`.
    #[serde(default)]
    pub upstream: Option<PortalUpstream>,
    /// Scheme and authority under which browsers reach the portal. Absent: the requested host if `match.hosts` names
    /// it, with scheme and port of the top-level `public_url`; else that one.
    #[serde(default)]
    pub public_url: Option<String>,
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

/// The other sections beside which portals are checked.
pub struct BesidePortals<'a> {
    pub upstream: Option<&'a RawUpstream>,
    /// The names of `Config::issuers` in their order; `None` in place of a name that is missing.
    pub issuers: &'a [Option<&'a str>],
    pub identity_prefix: Option<&'a str>,
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
    /// The portal's own; without a trailing slash.
    pub public_url: Option<String>,
}

impl Portal {
    /// A portal that only its folder announces: at `/portal/<slug>` of any host, every issuer, no tenant of the
    /// request's own.
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
            public_url: None,
        }
    }
}

impl Checker<'_> {
    pub fn portals(&mut self, listed: &BTreeMap<String, RawPortal>, beside: &BesidePortals<'_>) -> Vec<Portal> {
        if listed.is_empty() && !self.has_error_under("portals") {
            self.error(
                "portals",
                "is empty, so nothing would be served; name a portal, or remove the key to serve every folder of policies",
            );
        }
        let portals: Vec<Portal> = listed
            .iter()
            .filter_map(|(slug, portal)| self.portal(slug, portal, beside))
            .collect();
        self.ties(&portals);
        self.reachable_portals(&portals);
        portals
    }

    fn portal(&mut self, slug: &str, raw: &RawPortal, beside: &BesidePortals<'_>) -> Option<Portal> {
        let section = format!("portals.{slug}");
        let parsed = parse_slug(slug).map_err(|message| self.error(&section, message)).ok();
        let hosts = self.hosts(&format!("{section}.match.hosts"), &raw.matches.hosts);
        let path_prefix = self.path_prefix(slug, raw, beside.identity_prefix);
        let issuers = self.trusted(&format!("{section}.issuers"), raw.issuers.as_deref(), beside.issuers);
        let tenant = match &raw.tenant {
            RawTenant::Claim => TenantSource::Claim,
            RawTenant::HostLabel => TenantSource::HostLabel,
            RawTenant::Fixed(tenant) => {
                self.not_blank(&format!("{section}.tenant.fixed"), tenant);
                TenantSource::Fixed(tenant.clone())
            }
        };
        let own = raw.upstream.as_ref().zip(beside.upstream);
        let upstream = own.and_then(|(own, base)| self.portal_upstream(&format!("{section}.upstream"), own, base));
        let public_url = self.public_url(&format!("{section}.public_url"), raw.public_url.as_deref());
        Some(Portal {
            slug: parsed?,
            matches: PortalMatch {
                hosts,
                path_prefix: path_prefix?,
            },
            issuers,
            tenant,
            upstream,
            public_url,
        })
    }

    /// Indexes of the issuers a portal trusts.
    fn trusted(&mut self, key: &str, names: Option<&[String]>, known: &[Option<&str>]) -> Vec<usize> {
        let Some(names) = names else {
            return (0..known.len()).collect();
        };
        let mut found = Vec::new();
        for (n, name) in names.iter().enumerate() {
            match known.iter().position(|one| *one == Some(name.as_str())) {
                Some(index) if found.contains(&index) => {}
                Some(index) => found.push(index),
                // an issuer without a name was reported, and may be the one that this name means
                None if known.contains(&None) => {}
                None => {
                    let known: Vec<&str> = known.iter().copied().flatten().collect();
                    self.error(
                        &format!("{key}[{n}]"),
                        format!("there is no issuer `{name}`; {}", hint(name, &known)),
                    );
                }
            }
        }
        found
    }

    fn path_prefix(&mut self, slug: &str, raw: &RawPortal, identity_prefix: Option<&str>) -> Option<String> {
        let key = format!("portals.{slug}.match.path_prefix");
        let prefix = match &raw.matches.path_prefix {
            Some(text) => self.canonical_prefix(&key, text)?,
            None => format!("/portal/{slug}"),
        };
        for own in [identity_prefix, Some(RESERVED_PREFIX)].into_iter().flatten() {
            if is_at_or_below(&prefix, own) {
                self.error(
                    &key,
                    format!("`{prefix}` lies under `{own}`, which the gate answers itself; choose another"),
                );
                return None;
            }
        }
        Some(prefix)
    }

    /// A prefix of canonical request paths: `/` or `/a/b`. A slash at the end is dropped.
    pub fn canonical_prefix(&mut self, key: &str, text: &str) -> Option<String> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&b);
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        let segment = |segment: &str| !["", ".", ".."].contains(&segment) && segment.bytes().all(plain);
        let canonical = trimmed.strip_prefix('/').is_some_and(|rest| rest.split('/').all(segment));
        if text == "/" || canonical {
            return Some(if trimmed.is_empty() {
                "/".to_owned()
            } else {
                trimmed.to_owned()
            });
        }
        let rule = "start it with `/`; no `//`, `.`, `..`, `%`, `;`, `?`, `#`, spaces or non-ASCII characters";
        self.error(key, format!("`{text}` is not a canonical path; {rule}"));
        None
    }

    fn hosts(&mut self, key: &str, texts: &[String]) -> Vec<String> {
        let mut hosts = Vec::new();
        for (n, text) in texts.iter().enumerate() {
            match host_pattern(text) {
                Ok(host) if hosts.contains(&host) => {}
                Ok(host) => hosts.push(host),
                Err(problem) => self.error(&format!("{key}[{n}]"), format!("`{text}` {problem}")),
            }
        }
        hosts
    }

    /// Two portals that the same request fits equally well.
    fn ties(&mut self, portals: &[Portal]) {
        for (n, portal) in portals.iter().enumerate() {
            for other in portals
                .iter()
                .take(n)
                .filter(|other| other.matches.path_prefix == portal.matches.path_prefix)
            {
                let Some(host) = tied_host(&other.matches.hosts, &portal.matches.hosts) else {
                    continue;
                };
                let prefix = &portal.matches.path_prefix;
                let message = format!(
                    "portal `{}` matches {host} at `{prefix}`, too, so neither would win; give them different hosts or prefixes",
                    other.slug
                );
                self.error(&format!("portals.{}.match", portal.slug), message);
            }
        }
    }
}

/// Reads the slug of a portal.
pub fn parse_slug(text: &str) -> Result<PortalSlug, String> {
    const RULE: &str = "use 1 to 63 of `a-z`, `0-9` and `-`, with no `-` at either end";
    PortalSlug::parse(text).ok_or_else(|| format!("`{text}` is not a portal's slug; {RULE}"))
}

/// A pattern of hosts in the form in which hosts are compared. The rule is that of the hosts of requests, with a `*`
/// for a label.
fn host_pattern(text: &str) -> Result<String, &'static str> {
    let lower = text.to_ascii_lowercase();
    if lower.starts_with('[') {
        let whole = Some(lower).filter(|text| text.ends_with(']'));
        return whole
            .and_then(|text| normal_host(&text))
            .ok_or("is not an IPv6 address in brackets without a port");
    }
    if lower.contains('/') {
        return Err("is not a host name; write it without scheme and path");
    }
    if lower.contains(':') {
        return Err("has a port; hosts are compared without one, so remove it");
    }
    if !lower.is_ascii() {
        return Err("is not ASCII; write it as browsers send it, in punycode (`xn--…`)");
    }
    let pattern = lower.strip_suffix('.').unwrap_or(&lower);
    if pattern.split('.').any(|part| part.contains('*') && part != "*") {
        return Err("has a `*` inside a label; `*` stands for one whole label, as in `*.example.com`");
    }
    let literal = pattern.replace('*', "a");
    if normal_host(&literal).as_deref() != Some(&*literal) {
        return Err("is not a host name such as `shop.example.com` or `*.example.com`");
    }
    Ok(pattern.to_owned())
}

/// A host pattern of `a` that matches the same hosts as one of `b` with the same precision.
fn tied_host(a: &[String], b: &[String]) -> Option<String> {
    if a.is_empty() && b.is_empty() {
        return Some("any host".to_owned());
    }
    let stars = |host: &str| host.split('.').filter(|label| *label == "*").count();
    let overlap = |x: &str, y: &str| {
        let same_length = x.split('.').count() == y.split('.').count();
        same_length && x.split('.').zip(y.split('.')).all(|(x, y)| x == y || x == "*" || y == "*")
    };
    let pairs = a.iter().flat_map(|x| b.iter().map(move |y| (x, y)));
    pairs
        .filter(|(x, y)| stars(x) == stars(y))
        .find(|(x, y)| overlap(x, y))
        .map(|(x, _)| format!("`{x}`"))
}
