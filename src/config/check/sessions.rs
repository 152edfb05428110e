//! Sessions: where they live, how long, and with which keys.

use std::path::PathBuf;

use url::Url;

use super::Checker;
use crate::config::raw::{Raw, RawRedis, RawSessionStore, Secret as RawSecret};
use crate::config::{CookieSecurity, Redis, RedisTls, Secret, SessionStore, Sessions, Topology};
use crate::types::Redacted;

const PREFIX_BYTES_MAX: usize = 64;

impl Checker<'_> {
    pub fn sessions(&mut self, raw: &Raw) -> Option<Sessions> {
        let sessions = &raw.sessions;
        let idle_timeout = self.timeout("sessions.idle_timeout", sessions.idle_timeout);
        let staleness_max = self.timeout("sessions.staleness_max", sessions.staleness_max);
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
        if !raw.sessions.danger_insecure_cookie {
            return CookieSecurity::Host;
        }
        let url = raw.public_url.as_deref().and_then(|text| Url::parse(text).ok());
        let local = |url: &Url| super::network::is_loopback(url) || url.host_str() == Some("localhost");
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
        let prefix = &raw.key_prefix;
        let fits = |b: u8| b.is_ascii_alphanumeric() || b":_-.".contains(&b);
        if prefix.is_empty() || prefix.len() > PREFIX_BYTES_MAX || !prefix.bytes().all(fits) {
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
            key_prefix: prefix.clone(),
            timeout: self.timeout(&format!("{section}.timeout"), raw.timeout),
        })
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

const SINGLE: [&str; 3] = ["redis", "rediss", "unix"];
const TCP: [&str; 2] = ["redis", "rediss"];
