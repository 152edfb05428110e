//! Sessions: where they live, how long, and with which keys.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::Checker;
use crate::config::raw::{Raw, RawRedis, RawSessionStore, Secret as RawSecret};
use crate::config::{CookieSecurity, Redis, RedisTls, Secret, SessionStore, Sessions, Topology};
use cedargate_policy::types::Redacted;

const PREFIX_BYTES_MAX: usize = 64;
/// A revocation that takes longer is none.
const STALENESS_MOST: Duration = Duration::from_secs(60);

impl Checker<'_> {
    pub fn sessions(&mut self, raw: &Raw) -> Option<Sessions> {
        let sessions = &raw.sessions;
        let idle_timeout = self.timeout("sessions.idle_timeout", sessions.idle_timeout);
        let staleness_max = self.timeout("sessions.staleness_max", sessions.staleness_max);
        self.at_most("sessions.staleness_max", sessions.staleness_max, STALENESS_MOST);
        let absolute_timeout = self.timeout("sessions.absolute_timeout", sessions.absolute_timeout);
        if absolute_timeout < sessions.idle_timeout.0 {
            self.error(
                "sessions.absolute_timeout",
                "is shorter than `sessions.idle_timeout`; raise it or lower the other",
            );
        }
        let key_file = sessions.key_file.as_ref().map(|file| self.path("sessions.key_file", file));
        let store = match (sessions.store, &sessions.redis) {
            (RawSessionStore::Memory, None) => Some(SessionStore::Memory),
            // a misspelt store is none that was meant
            (RawSessionStore::Memory, Some(_)) if self.errors.iter().any(|error| error.key == "sessions.store") => None,
            (RawSessionStore::Memory, Some(_)) => {
                self.error(
                    "sessions.redis",
                    "has no effect with the memory store; set `sessions.store: redis`",
                );
                None
            }
            (RawSessionStore::Redis, None) => {
                self.error(
                    "sessions.redis",
                    "is missing; say where Redis is, with `url`, `sentinel` or `cluster`",
                );
                None
            }
            (RawSessionStore::Redis, Some(redis)) => {
                if key_file.is_none() {
                    let message = "is missing; replicas must share their keys: make one with `openssl rand -base64 32`";
                    self.error("sessions.key_file", message);
                }
                self.redis(redis).map(Box::new).map(SessionStore::Redis)
            }
        };
        let cookie = self.cookie(raw);
        Some(Sessions {
            store: store?,
            key_file,
            idle_timeout,
            absolute_timeout,
            staleness_max,
            cache: sessions.cache,
            cookie,
        })
    }

    /// Without `Secure` anyone on the way can take the session over.
    fn cookie(&mut self, raw: &Raw) -> CookieSecurity {
        let url = raw.public_url.as_deref().and_then(|text| Url::parse(text).ok());
        let local = |url: &Url| super::network::is_loopback(url) || url.host_str() == Some("localhost");
        if !raw.sessions.danger_insecure_cookie {
            // from there browsers take `Secure` cookies over plain HTTP, too; from elsewhere they drop them without a word
            let dropped = url.is_some_and(|url| url.scheme() == "http" && !local(&url));
            if dropped && !raw.login.providers.is_empty() {
                let message =
                    "must be `https://`: browsers drop the session's `Secure` cookie over plain HTTP, and nobody could log in";
                self.error("public_url", message);
            }
            return CookieSecurity::Host;
        }
        if !url.is_some_and(|url| url.scheme() == "http" && local(&url)) {
            let message = "is for a `public_url` such as `http://localhost:8900` only; anywhere else serve https";
            self.error("sessions.danger_insecure_cookie", message);
        }
        CookieSecurity::DangerInsecure
    }

    fn redis(&mut self, raw: &RawRedis) -> Option<Redis> {
        let section = "sessions.redis";
        let topology = self.topology(section, raw);
        let password = self.secret(
            &format!("{section}.password"),
            raw.password.as_ref(),
            raw.password_file.as_deref(),
        );
        if raw.username.is_some() && matches!(password, Some(None)) {
            let message = "is missing: an ACL user logs in with one";
            self.error(&format!("{section}.password_file"), message);
        }
        self.redis_tls_is_used(section, raw);
        if raw.key_prefix.is_none() {
            let message = "is missing; write one of this deployment's own, such as `cedargate:shop:`";
            self.error(&format!("{section}.key_prefix"), message);
        }
        let prefix = raw.key_prefix.as_deref().unwrap_or_default();
        let fits = |b: u8| b.is_ascii_alphanumeric() || b":_-.".contains(&b);
        if raw.key_prefix.is_some() && (prefix.is_empty() || prefix.len() > PREFIX_BYTES_MAX || !prefix.bytes().all(fits)) {
            let message = format!("`{prefix}` is no prefix; use 1 to {PREFIX_BYTES_MAX} letters, digits and `:_-.`");
            self.error(&format!("{section}.key_prefix"), message);
        }
        let identity = match (&raw.tls.cert, &raw.tls.key) {
            (Some(cert), Some(key)) => Some((
                self.path(&format!("{section}.tls.cert"), cert),
                self.path(&format!("{section}.tls.key"), key),
            )),
            (None, None) => None,
            (Some(_), None) => {
                self.error(&format!("{section}.tls.key"), "is missing beside `cert`");
                None
            }
            (None, Some(_)) => {
                self.error(&format!("{section}.tls.cert"), "is missing beside `key`");
                None
            }
        };
        let ca = raw.tls.ca.as_ref().map(|ca| self.path(&format!("{section}.tls.ca"), ca));
        Some(Redis {
            topology: topology?,
            username: raw.username.clone(),
            password: password?,
            tls: RedisTls { ca, identity },
            key_prefix: raw.key_prefix.clone()?,
            timeout: self.timeout(&format!("{section}.timeout"), raw.timeout),
        })
    }

    /// Certificates that nobody looks at would be an encryption that there is not.
    fn redis_tls_is_used(&mut self, section: &str, raw: &RawRedis) {
        let urls = raw.url.iter().chain(raw.cluster.iter().flatten());
        let sentinel = raw.sentinel.as_ref();
        let urls = urls.chain(sentinel.and_then(|sentinel| sentinel.urls.as_ref()).into_iter().flatten());
        let is_used = sentinel.is_some_and(|sentinel| sentinel.tls) || urls.into_iter().any(is_tls);
        for (key, given) in [("ca", &raw.tls.ca), ("cert", &raw.tls.cert), ("key", &raw.tls.key)] {
            if given.is_some() && !is_used {
                let message = "has no effect without TLS; write the URL as `rediss://`, or remove this";
                self.error(&format!("{section}.tls.{key}"), message);
            }
        }
    }

    fn topology(&mut self, section: &str, raw: &RawRedis) -> Option<Topology> {
        match (&raw.url, &raw.sentinel, &raw.cluster) {
            (Some(url), None, None) => self.redis_url(&format!("{section}.url"), url, &SINGLE).map(Topology::Single),
            (None, Some(sentinel), None) => {
                let urls = sentinel.urls.as_deref().unwrap_or_default();
                let key = format!("{section}.sentinel.urls");
                Some(Topology::Sentinel {
                    master: sentinel.master.clone()?,
                    urls: self.redis_urls(&key, urls)?,
                    tls: sentinel.tls,
                })
            }
            (None, None, Some(urls)) => self.redis_urls(&format!("{section}.cluster"), urls).map(Topology::Cluster),
            _ => {
                self.error(section, "needs exactly one of `url`, `sentinel` and `cluster`");
                None
            }
        }
    }

    fn redis_urls(&mut self, key: &str, urls: &[RawSecret]) -> Option<Vec<Redacted<String>>> {
        if urls.is_empty() {
            self.error(key, "is empty; name at least one server");
            return None;
        }
        if urls.iter().any(is_tls) && !urls.iter().all(is_tls) {
            self.error(key, "has `redis://` and `rediss://` in it; write all of them alike");
            return None;
        }
        let checked = urls.iter().enumerate();
        let checked: Vec<_> = checked
            .filter_map(|(n, url)| self.redis_url(&format!("{key}[{n}]"), url, &TCP))
            .collect();
        (checked.len() == urls.len()).then_some(checked)
    }

    /// Credentials belong to `username` and `password_file`: a URL ends up in logs.
    fn redis_url(&mut self, key: &str, text: &RawSecret, schemes: &[&str]) -> Option<Redacted<String>> {
        let text = text.0.expose();
        let url = Url::parse(text).ok().filter(|url| schemes.contains(&url.scheme()));
        match url {
            Some(url) if !url.username().is_empty() || url.password().is_some() => {
                self.error(
                    key,
                    "has a user or password in it; write them as `username` and `password_file`",
                );
                None
            }
            Some(url) if url.scheme() == "unix" && !(text.starts_with("unix:/") && url.path().len() > 1) => {
                self.error(key, "needs an absolute path, as in `unix:/run/redis.sock`");
                None
            }
            Some(url) if url.query().is_some() || url.fragment().is_some() || !has_database_at_most(&url) => {
                let message = "has more in it than a host, a port and the number of a database; the rest is in keys of its own";
                self.error(key, message);
                None
            }
            Some(url) if url.scheme() == "unix" || url.host().is_some() => Some(Redacted::new(text.clone())),
            _ => {
                self.error(
                    key,
                    "is no Redis URL; write it as `redis://host:port`, `rediss://host:port` or `unix:/path`",
                );
                None
            }
        }
    }

    /// `None` if something was reported; `Some(None)` if there is none.
    pub fn secret(&mut self, key: &str, inline: Option<&RawSecret>, file: Option<&str>) -> Option<Option<Secret>> {
        let file_key = format!("{key}_file");
        match (inline, file) {
            (Some(_), Some(_)) => {
                self.error(&file_key, format!("`{key}` is given, too; keep one of them"));
                None
            }
            (Some(secret), None) if secret.0.expose().trim().is_empty() => {
                self.error(key, "is empty; write the secret or remove the key");
                None
            }
            (Some(secret), None) => Some(Some(Secret::Value(secret.0.clone()))),
            (None, Some(file)) => {
                let path: PathBuf = self.path(&file_key, file);
                if let Err(error) = std::fs::metadata(&path) {
                    self.error(&file_key, format!("cannot read `{}`: {error}", path.display()));
                    return None;
                }
                Some(Some(Secret::File(path)))
            }
            (None, None) => Some(None),
        }
    }
}

fn is_tls(url: &RawSecret) -> bool {
    url.0.expose().starts_with("rediss:")
}

/// `redis://host:port/3`; a socket's path is its own.
fn has_database_at_most(url: &Url) -> bool {
    let database = url.path().strip_prefix('/').unwrap_or_default();
    url.scheme() == "unix" || database.is_empty() || database.parse::<u16>().is_ok()
}

const SINGLE: [&str; 3] = ["redis", "rediss", "unix"];
const TCP: [&str; 2] = ["redis", "rediss"];
