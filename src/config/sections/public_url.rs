//! `public_url` and `portals.<slug>.public_url`: the origins under which browsers reach the portals.
//!
//! SECURITY: an origin comes from the configuration alone. The host of a request selects one only if `match.hosts` of
//! the portal names it; every other host has no part in it.

use std::borrow::Cow;

use cedargate_policy::portal::{PortalTable, is_host, normal_host};
use cedargate_policy::scope::PortalScope;
use url::Url;

use super::portals::Portal;
use crate::config::Config;
use crate::config::check::{Checker, is_loopback};

/// A public URL, with the key that holds it.
pub struct PublicUrl {
    pub key: String,
    pub url: Url,
}

impl Checker<'_> {
    /// Scheme and authority without a trailing slash.
    pub fn public_url(&mut self, key: &str, text: Option<&str>) -> Option<String> {
        let text = text?;
        let url = self.parse_url(key, text)?;
        let whole = format!("{}://", url.scheme());
        let bare = text.trim_end_matches('/').matches('/').count() == 2;
        if !["http", "https"].contains(&url.scheme()) || !text.to_ascii_lowercase().starts_with(&whole) || url.host().is_none() {
            self.error(key, "write `https://` and the host that browsers use");
            return None;
        }
        if !bare || url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            self.error(key, "has a path or query; write scheme and host only");
            return None;
        }
        Some(url.origin().ascii_serialization())
    }

    /// A browser that logs in comes back to the portal's public URL, so a request to it must be the portal's.
    pub fn reachable_portals(&mut self, portals: &[Portal]) {
        for portal in portals {
            let Some(origin) = &portal.public_url else { continue };
            let host = host_of(origin);
            let key = format!("portals.{}.public_url", portal.slug);
            if !portal.matches.hosts.is_empty() && !portal.is_at(&host) {
                let message = format!(
                    "`{host}` is none of the portal's `match.hosts`, so no login could come back to it; add the host there"
                );
                self.error(&key, message);
            } else if let Some(other) = taken_by(portal, &host, portals) {
                let prefix = &portal.matches.path_prefix;
                let message = format!("`{origin}{prefix}` belongs to portal `{other}`, so no login could come back to this one");
                self.error(&key, message);
            }
        }
    }

    /// Browsers log in at every portal that uses the default provider, so they must be able to.
    pub fn default_logins(&mut self, config: &Config) {
        for portal in config.portals.iter().flatten() {
            if let (Some(_), Some(obstacle)) = (config.login.default_of(portal), config.login_obstacle(portal)) {
                self.error(&format!("portals.{}", portal.slug), obstacle);
            }
        }
    }
}

impl Portal {
    /// True if a host is one of this portal's.
    pub fn is_at(&self, host: &str) -> bool {
        let hosts = &self.matches.hosts;
        hosts.is_empty() || hosts.iter().any(|pattern| is_host(pattern, host))
    }
}

impl Config {
    /// The origin under which a browser that asked for `host` reaches a portal: the portal's `public_url`; else the
    /// host, if it is one of the portal's `match.hosts`, else the first of them, with scheme and port of the top-level
    /// `public_url`; else that one. `None` without a public URL, or if the portal's hosts are patterns that `host` does
    /// not fit.
    pub fn origin_of<'a>(&'a self, portal: &'a Portal, host: &str) -> Option<Cow<'a, str>> {
        if let Some(own) = &portal.public_url {
            return Some(Cow::Borrowed(own));
        }
        let shared = self.public_url.as_deref()?;
        let hosts = &portal.matches.hosts;
        if hosts.is_empty() {
            return Some(Cow::Borrowed(shared));
        }
        let literal = || hosts.iter().map(String::as_str).find(|host| !host.contains('*'));
        let host = if portal.is_at(host) { host } else { literal()? };
        let mut url = Url::parse(shared).ok()?;
        url.set_host(Some(host)).ok()?;
        Some(Cow::Owned(url.origin().ascii_serialization()))
    }

    /// True if pages of `origin` are the gate's own pages at `host`: those of a portal that the configuration puts
    /// there, or of the top-level `public_url` if it puts none there.
    pub fn is_own_origin(&self, host: &str, origin: &str) -> bool {
        let portals = self.portals.iter().flatten();
        let named = |portal: &&Portal| {
            let by_url = portal.public_url.as_deref().is_some_and(|own| host_of(own) == host);
            by_url || (!portal.matches.hosts.is_empty() && portal.is_at(host))
        };
        let mut named = portals.filter(named).peekable();
        if named.peek().is_none() {
            return self.public_url.as_deref() == Some(origin);
        }
        named.any(|portal| self.origin_of(portal, host).as_deref() == Some(origin))
    }

    /// The reason why no browser can log in at a portal; `None` if browsers can.
    pub fn login_obstacle(&self, portal: &Portal) -> Option<String> {
        if portal.public_url.is_some() {
            return None;
        }
        let shared = self.public_url.as_deref()?;
        let own_key = format!("set `portals.{}.public_url`", portal.slug);
        if portal.matches.hosts.is_empty() {
            let portals = self.portals.as_deref().unwrap_or_default();
            let other = taken_by(portal, &host_of(shared), portals)?;
            let prefix = &portal.matches.path_prefix;
            return Some(format!(
                "a login comes back to `{shared}{prefix}`, which belongs to portal `{other}`; {own_key}"
            ));
        }
        let url = Url::parse(shared).ok().filter(|url| url.scheme() == "http")?;
        let plain = portal.matches.hosts.iter().find(|pattern| {
            let mut url = url.clone();
            url.set_host(Some(&pattern.replace('*', "x"))).is_ok() && !is_loopback(&url)
        })?;
        Some(format!(
            "browsers drop the session's cookie at `{plain}` over plain HTTP (`public_url`); serve https, or {own_key}"
        ))
    }
}

/// The host of a checked public URL, as requests name it.
pub fn host_of(origin: &str) -> String {
    let url = Url::parse(origin).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    normal_host(host).unwrap_or_else(|| host.to_owned())
}

/// The other portal that gets the requests for `portal`'s prefix at `host`.
fn taken_by<'a>(portal: &Portal, host: &str, portals: &'a [Portal]) -> Option<&'a str> {
    let path = cedargate_policy::portal::path::CanonicalPath::parse(&portal.matches.path_prefix).ok()?;
    let scopes: Vec<PortalScope> = portals.iter().map(scope_of).collect();
    // a tie was reported
    let found = PortalTable::new(&scopes).ok()?.find(host, &path)?;
    let found = portals.get(found)?;
    (found.slug != portal.slug).then(|| found.slug.as_str())
}

/// The part of a portal that requests are matched by.
fn scope_of(portal: &Portal) -> PortalScope {
    PortalScope {
        matches: portal.matches.clone(),
        ..PortalScope::at(portal.slug.clone(), "/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(public_url: &str, portals: &str) -> Config {
        let yaml = format!(
            "upstream: {{ url: 'http://127.0.0.1:1' }}\npublic_url: '{public_url}'\nportals: {{ {portals} }}\n\
             login: {{ providers: {{ staff: {{ users_file: u.yaml }} }} }}\n"
        );
        Config::from_yaml(&yaml).unwrap_or_else(|errors| panic!("{yaml}\n{errors}"))
    }

    fn portal<'a>(config: &'a Config, slug: &str) -> &'a Portal {
        config
            .portals
            .iter()
            .flatten()
            .find(|portal| portal.slug.as_str() == slug)
            .unwrap()
    }

    const PORTALS: &str = "any: { match: { path_prefix: /any } }, two: { match: { hosts: [a.shop.test, '*.b.test', '[::1]'] } }, \
        tenants: { match: { hosts: ['*.c.test'] } }, own: { public_url: 'https://own.test:8443' }";

    #[test]
    fn origin_is_configured_and_a_requested_host_only_selects_it() {
        let config = config("https://shop.test:444", PORTALS);
        let of = |slug: &str, host: &str| config.origin_of(portal(&config, slug), host).map(Cow::into_owned);
        for (slug, host, origin) in [
            ("any", "shop.test", Some("https://shop.test:444")),
            ("any", "evil.test", Some("https://shop.test:444")),
            ("two", "a.shop.test", Some("https://a.shop.test:444")),
            ("two", "x.b.test", Some("https://x.b.test:444")),
            ("two", "[::1]", Some("https://[::1]:444")),
            ("two", "evil.test", Some("https://a.shop.test:444")),
            ("two", "shop.test", Some("https://a.shop.test:444")),
            ("tenants", "acme.c.test", Some("https://acme.c.test:444")),
            ("tenants", "x.acme.c.test", None),
            ("own", "acme.c.test", Some("https://own.test:8443")),
        ] {
            assert_eq!(of(slug, host).as_deref(), origin, "{slug} {host}");
        }
    }

    #[test]
    fn own_pages_at_a_host_are_those_of_the_portals_there() {
        let config = config("https://shop.test", PORTALS);
        for (host, origin) in [
            ("shop.test", "https://shop.test"),
            ("10.0.0.1", "https://shop.test"),
            ("a.shop.test", "https://a.shop.test"),
            ("acme.c.test", "https://acme.c.test"),
            ("own.test", "https://own.test:8443"),
        ] {
            assert!(config.is_own_origin(host, origin), "{host} {origin}");
        }
        for (host, origin) in [
            ("10.0.0.1", "https://10.0.0.1"),
            ("shop.test", "http://shop.test"),
            ("a.shop.test", "https://shop.test"),
            ("acme.c.test", "https://globex.c.test"),
            ("own.test", "https://own.test"),
            ("shop.test", "null"),
            ("shop.test", ""),
        ] {
            assert!(!config.is_own_origin(host, origin), "{host} {origin}");
        }
    }

    #[test]
    fn public_url_to_which_no_login_could_come_back_is_a_mistake() {
        let errors = |public_url: &str, portals: &str| {
            let yaml = format!(
                "upstream: {{ url: 'http://127.0.0.1:1' }}\npublic_url: '{public_url}'\nportals: {{ {portals} }}\n\
                 login: {{ providers: {{ staff: {{ users_file: u.yaml }} }} }}\n"
            );
            Config::from_yaml(&yaml)
                .err()
                .map(|errors| errors.to_string())
                .unwrap_or_default()
        };
        for (portals, part) in [
            (
                "a: { public_url: 'https://b.test', match: { hosts: [a.test] } }",
                "none of the portal's `match.hosts`",
            ),
            (
                "a: { public_url: 'https://b.test', match: { hosts: ['*.b.test'] } }",
                "none of the portal's `match.hosts`",
            ),
            (
                "a: { public_url: 'https://b.test', match: { path_prefix: / } }, b: { match: { hosts: [b.test], path_prefix: / } }",
                "belongs to portal `b`",
            ),
            ("a: { public_url: 'http://a.test' }", "must be `https://`"),
            ("a: { public_url: 'https://a.test/x' }", "has a path"),
            ("a: { public_url: 'https://me:secret@a.test' }", "user name or password"),
            ("a: { public_url: a.test }", "is not a URL"),
        ] {
            let found = errors("https://shop.test", portals);
            assert!(
                found.contains("portals.a.public_url") && found.contains(part),
                "{portals}: {found}"
            );
            assert!(!found.contains("secret"), "{found}");
        }
        for good in [
            "a: { public_url: 'https://x.b.test', match: { hosts: ['*.b.test'] } }",
            "a: { public_url: 'https://A.test:443/', match: { hosts: [a.test] } }",
            "a: { public_url: 'https://b.test', match: { hosts: [b.test], path_prefix: /x } }, b: { match: { hosts: [b.test], path_prefix: / } }",
        ] {
            assert_eq!(errors("https://shop.test", good), "", "{good}");
        }
    }

    #[test]
    fn obstacle_of_a_login_is_known_before_a_browser_meets_it() {
        let both = "a: { match: { path_prefix: / } }, b: { match: { hosts: [shop.test], path_prefix: / } }";
        let taken = config("https://shop.test", both);
        let why = taken.login_obstacle(portal(&taken, "a")).unwrap();
        assert!(why.contains("portal `b`") && why.contains("portals.a.public_url"), "{why}");
        assert_eq!(taken.login_obstacle(portal(&taken, "b")), None);
        let plain = config(
            "http://localhost:8900",
            "a: { match: { hosts: [a.localhost, a.test] } }, b: { match: { hosts: ['*.localhost'] } }",
        );
        let why = plain.login_obstacle(portal(&plain, "a")).unwrap();
        assert!(why.contains("`a.test`"), "{why}");
        assert_eq!(plain.login_obstacle(portal(&plain, "b")), None);
    }

    #[test]
    fn obstacle_of_the_default_login_is_a_mistake() {
        let yaml = "upstream: { url: 'http://127.0.0.1:1' }\npublic_url: 'https://shop.test'\n\
             portals: { a: { match: { path_prefix: / } }, b: { match: { hosts: [shop.test], path_prefix: / } } }\n\
             login: { default: staff, providers: { staff: { users_file: u.yaml } } }\n";
        let found = Config::from_yaml(yaml).unwrap_err().to_string();
        assert!(found.contains("portals.a: ") && found.contains("portal `b`"), "{found}");
        assert!(Config::from_yaml(&yaml.replace("default: staff, ", "")).is_ok());
    }
}
