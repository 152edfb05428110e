//! Portals: which traffic each gets. Two that could claim the same request are a mistake, not a race.

use super::Checker;
use crate::config::raw::{Raw, RawPortal, RawPortalUpstream, RawTenant};
use crate::config::walk::hint;
use crate::config::{Portal, Upstream};
use cedargate_policy::scope::{PortalMatch, TenantSource};
use cedargate_policy::types::PortalSlug;

pub const SLUG_RULE: &str = "use 1 to 63 of `a-z`, `0-9` and `-`, with no `-` at either end";

/// The gate's own paths on the proxy listener.
const RESERVED_PREFIX: &str = "/.well-known/cedargate";

/// What all portals are checked against.
struct Around<'a> {
    raw: &'a Raw,
    upstream: Option<&'a Upstream>,
    identity_prefix: Option<&'a str>,
}

impl Checker<'_> {
    pub fn portals(&mut self, raw: &Raw, upstream: Option<&Upstream>, identity_prefix: Option<&str>) -> Option<Vec<Portal>> {
        let listed = raw.portals.as_ref()?;
        if listed.is_empty() && !self.errors.iter().any(|error| error.key.starts_with("portals.")) {
            self.error(
                "portals",
                "is empty, so nothing would be served; name a portal, or remove the key to serve every folder of policies",
            );
        }
        let around = Around {
            raw,
            upstream,
            identity_prefix,
        };
        let portals: Vec<Portal> = listed
            .iter()
            .filter_map(|(slug, portal)| self.portal(slug, portal, &around))
            .collect();
        self.ties(&portals);
        Some(portals)
    }

    pub fn identity_prefix(&mut self, text: &str) -> Option<String> {
        let key = "identity.prefix";
        let prefix = self.canonical_prefix(key, text)?;
        if prefix == "/" || is_under(&prefix, RESERVED_PREFIX) || is_under(RESERVED_PREFIX, &prefix) {
            self.error(
                key,
                format!("`{text}` would cover other paths; choose one such as `/api/v1/identity`"),
            );
            return None;
        }
        Some(prefix)
    }

    fn portal(&mut self, slug: &str, raw: &RawPortal, around: &Around<'_>) -> Option<Portal> {
        let section = format!("portals.{slug}");
        let parsed = PortalSlug::parse(slug);
        if parsed.is_none() {
            self.error(&section, format!("`{slug}` is not a portal's slug; {SLUG_RULE}"));
        }
        let hosts = self.hosts(&format!("{section}.match.hosts"), &raw.matches.hosts);
        let path_prefix = self.path_prefix(slug, raw, around);
        let issuers = self.trusted(&format!("{section}.issuers"), raw.issuers.as_deref(), around.raw);
        let tenant = match &raw.tenant {
            RawTenant::Claim => TenantSource::Claim,
            RawTenant::HostLabel => TenantSource::HostLabel,
            RawTenant::Fixed(tenant) => {
                self.not_blank(&format!("{section}.tenant.fixed"), tenant);
                TenantSource::Fixed(tenant.clone())
            }
        };
        let upstream = raw
            .upstream
            .as_ref()
            .and_then(|upstream| self.portal_upstream(&section, upstream, around.upstream));
        Some(Portal {
            slug: parsed?,
            matches: PortalMatch {
                hosts,
                path_prefix: path_prefix?,
            },
            issuers,
            tenant,
            upstream,
        })
    }

    fn portal_upstream(&mut self, section: &str, raw: &RawPortalUpstream, base: Option<&Upstream>) -> Option<Upstream> {
        let key = format!("{section}.upstream");
        match raw {
            RawPortalUpstream::Url(text) => self.upstream_at(&key, text, base?),
            RawPortalUpstream::Full(full) => self.upstream_override(&key, full, base?),
        }
    }

    /// Indexes of the issuers a portal trusts.
    fn trusted(&mut self, key: &str, names: Option<&[String]>, raw: &Raw) -> Vec<usize> {
        let Some(names) = names else {
            return (0..raw.issuers.len() + Self::local_issuers(raw).count()).collect();
        };
        let listed = raw.issuers.iter().map(|issuer| issuer.name.as_deref());
        let known: Vec<Option<&str>> = listed.chain(Self::local_issuers(raw).map(Some)).collect();
        let mut found = Vec::new();
        for (n, name) in names.iter().enumerate() {
            match known.iter().position(|one| *one == Some(name.as_str())) {
                Some(index) if found.contains(&index) => {}
                Some(index) => found.push(index),
                // an issuer without a name was reported, and may be the one meant
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

    fn path_prefix(&mut self, slug: &str, raw: &RawPortal, around: &Around<'_>) -> Option<String> {
        let key = format!("portals.{slug}.match.path_prefix");
        let prefix = match &raw.matches.path_prefix {
            Some(text) => self.canonical_prefix(&key, text)?,
            None => format!("/portal/{slug}"),
        };
        for own in [around.identity_prefix, Some(RESERVED_PREFIX)].into_iter().flatten() {
            if is_under(&prefix, own) {
                self.error(
                    &key,
                    format!("`{prefix}` lies under `{own}`, which the gate answers itself; choose another"),
                );
                return None;
            }
        }
        Some(prefix)
    }

    /// `/` or `/a/b`: what a canonical request path can start with. A slash at the end is dropped.
    fn canonical_prefix(&mut self, key: &str, text: &str) -> Option<String> {
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
            match normal_host(text) {
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

fn normal_host(text: &str) -> Result<String, &'static str> {
    let lower = text.to_ascii_lowercase();
    if lower.starts_with('[') {
        let inner = lower.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address = inner.and_then(|inner| inner.parse::<std::net::Ipv6Addr>().ok());
        return address
            .map(|address| format!("[{address}]"))
            .ok_or("is not an IPv6 address in brackets without a port");
    }
    if lower.contains("//") || lower.contains('/') {
        return Err("is not a host name; write it without scheme and path");
    }
    if lower.contains(':') {
        return Err("has a port; hosts are compared without one, so remove it");
    }
    if !lower.is_ascii() {
        return Err("is not ASCII; write it as browsers send it, in punycode (`xn--…`)");
    }
    let host = lower.strip_suffix('.').unwrap_or(&lower);
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let label = |label: &str| label == "*" || ((1..=63).contains(&label.len()) && label.bytes().all(fits));
    if host.split('.').any(|part| part.contains('*') && part != "*") {
        return Err("has a `*` inside a label; `*` stands for one whole label, as in `*.example.com`");
    }
    if host.len() > 253 || !host.split('.').all(label) {
        return Err("is not a host name such as `shop.example.com` or `*.example.com`");
    }
    Ok(host.to_owned())
}

/// What both sets of hosts match with the same precision.
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

/// Whether `path` is `prefix` or below it, by whole segments.
fn is_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
