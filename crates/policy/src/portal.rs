//! Finds the portal of a request, and the request's action and resource there.
//!
//! The gate calls it with the request's host and path, before it looks for a credential. Reads configuration and a
//! portal's routes only. Must never match by string prefix (`/shop` is not `/shopping`) and never fall back to a portal
//! that an odd spelling of host or path would reach.

pub mod file;
pub mod path;
pub mod route;

use rustc_hash::FxHashMap;
use thiserror::Error;

use self::path::case::folded_where_clear;
use self::path::rules::path_refused;
use self::path::{CanonicalPath, ancestors_of, is_canonical_id};
use crate::denial::Refusal;
use crate::scope::PortalScope;
use crate::types::PortalSlug;

/// Cedar type of a resource that no route names.
pub const PATH_TYPE: &str = "Path";

/// Longest host name, in bytes, and most labels in it (RFC 1035).
pub const HOST_BYTES_MAX: usize = 253;
const HOST_LABELS_MAX: usize = 64;

/// Portals by host and path prefix; lookups do not depend on the number of portals.
#[derive(Clone, Debug, Default)]
pub struct PortalTable {
    prefixes: PrefixTable,
    /// With every prefix in lower case; `None` if they all are.
    folded: Option<PrefixTable>,
    /// By the position of the portal, its prefix in lower case.
    folded_prefixes: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct PrefixTable {
    /// Keyed by host pattern, labels as configured.
    hosts: FxHashMap<String, Prefixes>,
    /// The positions of a host pattern that may be `*`; the most specific shape first.
    shapes: Vec<HostShape>,
    anywhere: Prefixes,
}

/// Index of the portal by the plain id of its prefix.
type Prefixes = FxHashMap<String, usize>;

/// All host patterns with this many labels and `*` at the set bits; bit 0 is the rightmost label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct HostShape {
    labels: u32,
    wild: u64,
}

#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum PortalError {
    #[error("portals `{first}` and `{second}` match the same host and `path_prefix: {prefix}`; change one of them")]
    Tie {
        first: PortalSlug,
        second: PortalSlug,
        prefix: String,
    },
    #[error("`path_prefix: {prefix}` of portal `{slug}` is not canonical; write it with a leading and without a trailing `/`")]
    Prefix { slug: PortalSlug, prefix: String },
    #[error("host `{host}` of portal `{slug}` is not a host name; write labels or `*` with dots between, without a port")]
    Host { slug: PortalSlug, host: String },
}

impl PortalTable {
    /// `find` returns a portal's position in `portals`.
    pub fn new<'a>(portals: impl IntoIterator<Item = &'a PortalScope>) -> Result<Self, PortalError> {
        let portals: Vec<&PortalScope> = portals.into_iter().collect();
        let mut table = Self::default();
        for (index, portal) in portals.iter().enumerate() {
            let prefix = portal.matches.path_prefix.as_str();
            let Some(path) = CanonicalPath::parse(prefix).ok().filter(|_| is_canonical_id(prefix)) else {
                return Err(PortalError::Prefix {
                    slug: portal.slug.clone(),
                    prefix: prefix.to_owned(),
                });
            };
            table.prefixes.add(path.plain_id(), index, &portals)?;
            table.folded_prefixes.push(folded_where_clear(path.plain_id()).into_owned());
        }
        table.prefixes.sort();
        let is_folded = |(portal, folded): (&&PortalScope, &String)| portal.matches.path_prefix == *folded;
        if !portals.iter().zip(&table.folded_prefixes).all(is_folded) {
            let mut folded = PrefixTable::default();
            for (index, prefix) in table.folded_prefixes.iter().enumerate() {
                // two prefixes that differ in case alone: `choose` compares them
                let _first_stays = folded.add(prefix, index, &portals);
            }
            folded.sort();
            table.folded = Some(folded);
        }
        Ok(table)
    }

    /// The most specific host wins (more literal labels, then literals further right, then no `hosts` at all), and
    /// within it the longest prefix; a host without a fitting prefix leaves the path to less specific ones. `host` is a
    /// [`normal_host`]. A path with opaque segments has the portal of its ordinary part.
    pub fn find(&self, host: &str, path: &CanonicalPath) -> Option<usize> {
        self.prefixes.find(host, path.ordinary_id())
    }

    /// As `find`, for apps that read paths in other ways: `ignores_case` says it of a portal's app. `Err` if an app
    /// could take the path for one of another portal.
    ///
    /// SECURITY: else the policies of a portal at `/` would decide on `/SHOP`, which an app that ignores case takes for
    /// `/shop`.
    pub fn choose(
        &self,
        host: &str,
        path: &CanonicalPath,
        ignores_case: impl Fn(usize) -> bool,
    ) -> Result<Option<usize>, Refusal> {
        let found = self.find(host, path);
        if let Some(part) = path.opaque()
            && part.readings.iter().any(|reading| self.prefixes.find(host, reading) != found)
        {
            return Err(path_refused(format!(
                "{}; `paths.opaque` cannot allow it here, because an app that decodes the path could take it for another portal's",
                part.rule
            )));
        }
        let id = path.ordinary_id();
        let folded_id = folded_where_clear(id);
        if self.folded.is_none() && folded_id == id {
            return Ok(found);
        }
        let folded = self.folded.as_ref().unwrap_or(&self.prefixes).find(host, &folded_id);
        let prefix = |found: Option<usize>| found.and_then(|index| self.folded_prefixes.get(index));
        if prefix(folded) == prefix(found) {
            return Ok(found);
        }
        if folded.is_some_and(&ignores_case) {
            return Ok(folded);
        }
        if found.is_some_and(ignores_case) {
            return Err(path_refused(
                "the app ignores case (`paths.case`) and could take the path for another portal's".to_owned(),
            ));
        }
        Ok(found)
    }
}

impl PrefixTable {
    /// Adds the hosts of one portal with this prefix.
    fn add(&mut self, prefix: &str, index: usize, portals: &[&PortalScope]) -> Result<(), PortalError> {
        let Some(portal) = portals.get(index) else {
            return Ok(());
        };
        if portal.matches.hosts.is_empty() {
            claim(&mut self.anywhere, prefix, index, portals)?;
        }
        for host in &portal.matches.hosts {
            let shape = HostShape::of(host).ok_or_else(|| PortalError::Host {
                slug: portal.slug.clone(),
                host: host.clone(),
            })?;
            if !self.shapes.contains(&shape) {
                self.shapes.push(shape);
            }
            claim(self.hosts.entry(host.clone()).or_default(), prefix, index, portals)?;
        }
        Ok(())
    }

    fn sort(&mut self) {
        self.shapes.sort_by_key(|shape| shape.rank());
    }

    fn find(&self, host: &str, id: &str) -> Option<usize> {
        let labels = label_count(host);
        let shapes = self.shapes.iter().filter(|shape| Some(shape.labels) == labels);
        let by_host = |shape: &HostShape| match shape.wild {
            0 => longest_prefix(self.hosts.get(host)?, id),
            _ => longest_prefix(self.hosts.get(&shape.pattern(host))?, id),
        };
        let mut specific = shapes.filter_map(by_host);
        specific.next().or_else(|| longest_prefix(&self.anywhere, id))
    }
}

/// True if a pattern of `hosts` names this normal host; `*` is one whole label.
pub fn is_host(pattern: &str, host: &str) -> bool {
    let mut labels = host.split('.');
    let same = pattern
        .split('.')
        .all(|label| labels.next().is_some_and(|own| label == "*" || label == own));
    same && labels.next().is_none()
}

impl HostShape {
    fn of(pattern: &str) -> Option<Self> {
        let literal = pattern.replace('*', "x");
        let whole = pattern.split('.').all(|label| label == "*" || !label.contains('*'));
        if !whole || normal_host(&literal)? != literal {
            return None;
        }
        let wild = pattern.rsplit('.').enumerate().filter(|(_, label)| *label == "*");
        Some(Self {
            labels: label_count(pattern)?,
            wild: wild.fold(0, |bits, (place, _)| bits | 1_u64 << place),
        })
    }

    fn rank(self) -> (u32, u32, u64) {
        let literals = self.labels - self.wild.count_ones();
        (u32::MAX - literals, self.labels, self.wild.reverse_bits())
    }

    /// The pattern of this shape that matches `host`.
    fn pattern(self, host: &str) -> String {
        let mut out = String::with_capacity(host.len());
        for (label, place) in host.split('.').zip((0..self.labels).rev()) {
            let wild = self.wild >> place & 1 == 1;
            out.push_str(if wild { "*" } else { label });
            out.push_str(if place > 0 { "." } else { "" });
        }
        out
    }
}

/// A host as it is compared: lower case, without port and trailing dot. `None` if it is no host name or address.
pub fn normal_host(host: &str) -> Option<String> {
    if let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let address: std::net::Ipv6Addr = address.parse().ok()?;
        return is_port(port).then(|| format!("[{address}]"));
    }
    let (name, port) = host.find(':').and_then(|at| host.split_at_checked(at)).unwrap_or((host, ""));
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let valid = is_port(port) && name.len() <= HOST_BYTES_MAX && name.split('.').all(label);
    valid.then(|| name.to_ascii_lowercase())
}

/// True for an empty text, or `:` and a port number. RFC 3986 allows a colon without a number; the gate does not.
fn is_port(text: &str) -> bool {
    match text.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok(),
        None => text.is_empty(),
    }
}

fn label_count(host: &str) -> Option<u32> {
    let labels = host.split('.').count();
    u32::try_from(labels).ok().filter(|_| labels <= HOST_LABELS_MAX)
}

fn longest_prefix(prefixes: &Prefixes, id: &str) -> Option<usize> {
    let mut ids = std::iter::once(id).chain(ancestors_of(id));
    ids.find_map(|id| prefixes.get(id)).copied()
}

fn claim(prefixes: &mut Prefixes, prefix: &str, index: usize, portals: &[&PortalScope]) -> Result<(), PortalError> {
    let taken = *prefixes.entry(prefix.to_owned()).or_insert(index);
    match (portals.get(taken), portals.get(index)) {
        (Some(first), Some(second)) if taken != index => Err(PortalError::Tie {
            first: first.slug.clone(),
            second: second.slug.clone(),
            prefix: prefix.to_owned(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn portal(slug: &str, hosts: &[&str], prefix: &str) -> PortalScope {
        let mut portal = PortalScope::at(PortalSlug::parse(slug).unwrap(), prefix);
        portal.matches.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        portal
    }

    fn found<'a>(portals: &'a [PortalScope], host: &str, raw: &str) -> Option<&'a str> {
        let table = PortalTable::new(portals).unwrap();
        let index = table.find(host, &CanonicalPath::parse(raw).unwrap());
        index.map(|i| portals[i].slug.as_str())
    }

    #[test]
    fn the_longest_prefix_wins_by_whole_segments() {
        let portals = [portal("shop", &[], "/shop"), portal("admin", &[], "/shop/admin")];
        for (raw, slug) in [
            ("/shop", Some("shop")),
            ("/shop/", Some("shop")),
            ("/shop/x/y", Some("shop")),
            ("/shop/admin/x", Some("admin")),
            ("/shop/administrator", Some("shop")),
            ("/shopping", None),
            ("/", None),
        ] {
            assert_eq!(found(&portals, "any", raw), slug, "{raw}");
        }
    }

    #[test]
    fn the_most_specific_host_wins_and_leaves_other_paths_to_less_specific_ones() {
        let portals = [
            portal("none", &[], "/"),
            portal("wild", &["*.acme.test"], "/"),
            portal("right", &["*.b.test"], "/x"),
            portal("left", &["a.*.test"], "/x"),
            portal("exact", &["shop.acme.test"], "/shop"),
            portal("double", &["*.*.test"], "/"),
        ];
        for (host, raw, slug) in [
            ("shop.acme.test", "/shop/1", "exact"),
            ("shop.acme.test", "/other", "wild"),
            ("x.acme.test", "/shop", "wild"),
            ("a.b.test", "/x", "right"),
            ("a.c.test", "/x", "left"),
            ("a.b.test", "/y", "double"),
            ("a.b.c.test", "/x", "none"),
            ("acme.test", "/x", "none"),
        ] {
            assert_eq!(found(&portals, host, raw), Some(slug), "{host}{raw}");
        }
    }

    #[test]
    fn a_needless_escape_reaches_the_same_portal() {
        let portals = [portal("all", &[], "/"), portal("admin", &[], "/app:admin")];
        assert_eq!(found(&portals, "h", "/app%3aadmin/x"), Some("admin"));
    }

    #[test]
    fn a_path_that_an_app_could_take_for_another_portals_goes_to_that_portal_or_is_refused() {
        let portals = [
            portal("site", &[], "/"),
            portal("shop", &[], "/shop"),
            portal("big", &[], "/Big"),
        ];
        let table = PortalTable::new(&portals).unwrap();
        let choose = |raw: &str, ignoring: &[usize]| {
            let path = CanonicalPath::parse_request(raw).unwrap();
            let chosen = table.choose("h", &path, |index| ignoring.contains(&index));
            chosen
                .map(|found| found.unwrap())
                .map_err(|refusal| refusal.detail.into_owned())
        };
        for (raw, ignoring, index) in [
            ("/shop/x", &[][..], 1),
            ("/SHOP/x", &[], 0),
            ("/SHOP/x", &[1], 1),
            ("/Shop", &[0, 1], 1),
            ("/X", &[0], 0),
            ("/Big/x", &[0, 1], 2),
            ("/big/x", &[], 0),
            ("/big/x", &[2], 2),
            ("/shop/a%2Fb", &[], 1),
            ("/a;b", &[], 0),
        ] {
            assert_eq!(choose(raw, ignoring), Ok(index), "{raw} {ignoring:?}");
        }
        for (raw, ignoring) in [
            ("/SHOP/x", &[0][..]),
            ("/big", &[0]),
            ("/;x/shop", &[]),
            ("//shop/x", &[]),
            ("/shop%2fx", &[]),
        ] {
            assert!(choose(raw, ignoring).is_err(), "{raw} {ignoring:?}");
        }
    }

    #[test]
    fn ties_and_bad_matches_are_errors() {
        let tie = [portal("a", &["h.test"], "/x"), portal("b", &["i.test", "h.test"], "/x")];
        let text = PortalTable::new(&tie).unwrap_err().to_string();
        assert!(text.contains("`a`") && text.contains("`b`"), "{text}");
        assert!(PortalTable::new(&[portal("a", &[], "/x"), portal("b", &[], "/x")]).is_err());
        assert!(PortalTable::new(&[portal("a", &["h.test", "h.test"], "/x")]).is_ok());
        for prefix in ["", "x", "/x/", "/%61", "/a//b"] {
            assert!(PortalTable::new(&[portal("a", &[], prefix)]).is_err(), "{prefix}");
        }
        for host in ["", "A.test", "a.test.", "a.test:80", "a*.test", "**", "a..b"] {
            assert!(PortalTable::new(&[portal("a", &[host], "/")]).is_err(), "{host}");
        }
    }

    #[test]
    fn a_table_of_many_portals_finds_the_right_one() {
        let host = |n: usize| format!("*.t{n}.example.com");
        let portals: Vec<_> = (0..1000).map(|n| portal(&format!("p{n}"), &[&host(n)], "/app")).collect();
        let table = PortalTable::new(&portals).unwrap();
        assert_eq!(table.prefixes.shapes.len(), 1);
        let path = CanonicalPath::parse("/app/x").unwrap();
        for n in [0, 500, 999] {
            assert_eq!(table.find(&format!("www.t{n}.example.com"), &path), Some(n));
        }
        assert_eq!(table.find("www.t1000.example.com", &path), None);
    }

    #[test]
    fn hosts_compare_without_case_port_and_dot() {
        for (host, normal) in [
            ("Shop.Example.COM:8443", Some("shop.example.com")),
            ("shop.example.com.", Some("shop.example.com")),
            ("shop.example.com.:80", Some("shop.example.com")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("[::1]:80", Some("[::1]")),
            ("[0:0::1]", Some("[::1]")),
            ("", None),
            (".", None),
            ("a..b", None),
            ("a:", None),
            ("a:b", None),
            ("a:+1", None),
            ("a:99999", None),
            ("a b", None),
            ("u@h", None),
            ("*.a", None),
            ("é.test", None),
            ("[::1", None),
            ("a:1:2", None),
        ] {
            assert_eq!(normal_host(host).as_deref(), normal, "{host}");
        }
    }
}
