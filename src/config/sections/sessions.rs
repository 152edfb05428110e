//! `sessions`: where browser sessions live, how long, and with which keys.

use std::path::PathBuf;
use std::time::Duration;

use cedargate_policy::types::Redacted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::login::RawLogin;
use super::public_url::PublicUrl;
use crate::config::Secret;
use crate::config::check::{Checker, is_loopback};
use crate::config::values::{Count, SecretText, TimeSpan, Timeout};

const PREFIX_BYTES_MAX: usize = 64;
/// A revocation that takes longer than this would not protect the app.
const STALENESS_MAX_MS: u64 = 60 * 1000;

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSessions {
    /// The store of sessions.
    pub store: RawSessionStore,
    /// Server keys, shared by all replicas: one per line, 32 bytes in base64; the first seals, all open; watched.
    /// Needed by the redis store; null with the memory store: an ephemeral key.
    pub key_file: Option<PathBuf>,
    /// The Redis of the redis store.
    pub redis: Option<RawRedis>,
    /// A session not used for this long ends.
    pub idle_timeout: Timeout,
    /// A session ends this long after its login.
    pub absolute_timeout: Timeout,
    /// Longest time until every replica knows of a revocation.
    pub staleness_max: TimeSpan<1, STALENESS_MAX_MS>,
    /// Sessions that this process keeps in memory, so that it asks the store less often.
    pub cache: Count<1, 10_000_000>,
    /// Set the cookie without `Secure` and `__Host-`: for plain HTTP on localhost only.
    pub danger_insecure_cookie: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RawSessionStore {
    /// In this process.
    #[default]
    Memory,
    /// In Redis, for all replicas.
    Redis,
}

/// Exactly one of `url`, `sentinel` and `cluster` is given.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRedis {
    /// A single server: `redis://host:port/db`, `rediss://` over TLS, `unix:/path`.
    #[schemars(extend("writeOnly" = true))]
    pub url: Option<SecretText>,
    /// Sentinels that know the master.
    pub sentinel: Option<RawSentinel>,
    /// URLs of some nodes of a cluster.
    #[schemars(extend("writeOnly" = true))]
    pub cluster: Option<Vec<SecretText>>,
    /// ACL user. Absent: the default user.
    pub username: Option<String>,
    /// Its password. Better kept in `password_file`.
    #[schemars(extend("writeOnly" = true))]
    pub password: Option<SecretText>,
    /// The same as a file; read again for every connection.
    pub password_file: Option<PathBuf>,
    /// Certificates for TLS with the servers.
    pub tls: RawRedisTls,
    /// Put before every key; `cedargate:<deployment>:`. Deployments that share a Redis must differ.
    pub key_prefix: Option<String>,
    /// Longest time of one command.
    pub timeout: Timeout,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawSentinel {
    /// Name of the master.
    #[schemars(required)]
    pub master: Option<String>,
    /// URLs of the sentinels.
    #[schemars(required, extend("writeOnly" = true))]
    pub urls: Option<Vec<SecretText>>,
    /// True if the servers behind the sentinels speak TLS.
    #[serde(default)]
    pub tls: bool,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRedisTls {
    /// PEM file of the authorities that the servers' certificates must come from. Absent: the system's.
    pub ca: Option<PathBuf>,
    /// PEM file of the gate's own certificate chain. Absent: none is presented.
    pub cert: Option<PathBuf>,
    /// PEM file of its private key.
    pub key: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct Sessions {
    pub store: SessionStore,
    /// `None`: an ephemeral key, with the memory store only.
    pub key_file: Option<PathBuf>,
    pub idle_timeout: Duration,
    pub absolute_timeout: Duration,
    pub staleness_max: Duration,
    /// Sessions that this process keeps in memory.
    pub cache: usize,
    pub cookie: CookieSecurity,
}

#[derive(Clone, Debug)]
pub enum SessionStore {
    Memory,
    Redis(Box<Redis>),
}

/// The protection of the session cookie in addition to HttpOnly and SameSite.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CookieSecurity {
    /// `Secure`, and a `__Host-` name.
    Host,
    /// Neither: for plain HTTP on localhost.
    DangerInsecure,
}

#[derive(Clone, Debug)]
pub struct Redis {
    pub topology: Topology,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub tls: RedisTls,
    pub key_prefix: String,
    /// Longest time of one command.
    pub timeout: Duration,
}

#[derive(Clone, Debug)]
pub enum Topology {
    Single(Redacted<String>),
    Sentinel {
        master: String,
        urls: Vec<Redacted<String>>,
        /// True if the servers behind the sentinels speak TLS.
        tls: bool,
    },
    Cluster(Vec<Redacted<String>>),
}

#[derive(Clone, Debug, Default)]
pub struct RedisTls {
    /// `None`: the system's authorities.
    pub ca: Option<PathBuf>,
    /// Certificate chain and key of the gate's own.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Default for RawSessions {
    fn default() -> Self {
        Self {
            store: RawSessionStore::Memory,
            idle_timeout: Timeout::seconds::<1800>(),
            absolute_timeout: Timeout::seconds::<43_200>(),
            staleness_max: TimeSpan::seconds::<1>(),
            key_file: None,
            redis: None,
            cache: Count::of::<20_000>(),
            danger_insecure_cookie: false,
        }
    }
}

impl Default for RawRedis {
    fn default() -> Self {
        Self {
            url: None,
            sentinel: None,
            cluster: None,
            username: None,
            password: None,
            password_file: None,
            tls: RawRedisTls::default(),
            key_prefix: None,
            timeout: Timeout::millis::<500>(),
        }
    }
}

impl Checker<'_> {
    pub fn sessions(&mut self, sessions: &RawSessions, login: &RawLogin, urls: &[PublicUrl]) -> Option<Sessions> {
        // a reported time was left out, so comparing its default would mislead
        let is_known = !["sessions.idle_timeout", "sessions.absolute_timeout"]
            .iter()
            .any(|key| self.has_error_under(key));
        if is_known && sessions.absolute_timeout < sessions.idle_timeout {
            self.error(
                "sessions.absolute_timeout",
                "is shorter than `sessions.idle_timeout`; raise it or lower the other",
            );
        }
        let key_file = self.optional_path("sessions.key_file", sessions.key_file.as_deref());
        let store = match (sessions.store, &sessions.redis) {
            (RawSessionStore::Memory, None) => Some(SessionStore::Memory),
            // a misspelt store was reported and reads as the default
            (RawSessionStore::Memory, Some(_)) if self.has_error_under("sessions.store") => None,
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
        let cookie = self.cookie(sessions, login, urls);
        Some(Sessions {
            store: store?,
            key_file,
            idle_timeout: sessions.idle_timeout.get(),
            absolute_timeout: sessions.absolute_timeout.get(),
            staleness_max: sessions.staleness_max.get(),
            cache: sessions.cache.as_usize(),
            cookie,
        })
    }

    /// Without `Secure` an attacker on the network can take the session over.
    fn cookie(&mut self, sessions: &RawSessions, login: &RawLogin, urls: &[PublicUrl]) -> CookieSecurity {
        if !sessions.danger_insecure_cookie {
            // browsers accept `Secure` cookies over plain HTTP from localhost; from other hosts they drop them silently
            let dropped = urls.iter().filter(|one| one.url.scheme() == "http" && !is_loopback(&one.url));
            if !login.providers.is_empty() {
                for PublicUrl { key, .. } in dropped {
                    let message = "must be `https://`: browsers drop the session's `Secure` cookie over plain HTTP, so that no login could succeed";
                    self.error(key, message);
                }
            }
            return CookieSecurity::Host;
        }
        if urls.is_empty() || !urls.iter().all(|one| one.url.scheme() == "http" && is_loopback(&one.url)) {
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
            let message = format!("`{prefix}` is not a valid prefix; use 1 to {PREFIX_BYTES_MAX} letters, digits and `:_-.`");
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
        let ca = self.optional_path(&format!("{section}.tls.ca"), raw.tls.ca.as_deref());
        Some(Redis {
            topology: topology?,
            username: raw.username.clone(),
            password: password?,
            tls: RedisTls { ca, identity },
            key_prefix: raw.key_prefix.clone()?,
            timeout: raw.timeout.get(),
        })
    }

    /// TLS files without a TLS URL are an error: the connection would be plain.
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

    fn redis_urls(&mut self, key: &str, urls: &[SecretText]) -> Option<Vec<Redacted<String>>> {
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

    /// Credentials belong in `username` and `password_file`, because URLs end up in logs.
    fn redis_url(&mut self, key: &str, text: &SecretText, schemes: &[&str]) -> Option<Redacted<String>> {
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
                let message = "may hold only a host, a port and the number of a database; other settings have keys of their own";
                self.error(key, message);
                None
            }
            Some(url) if url.scheme() == "unix" || url.host().is_some() => Some(Redacted::new(text.clone())),
            _ => {
                self.error(
                    key,
                    "is not a Redis URL; write it as `redis://host:port`, `rediss://host:port` or `unix:/path`",
                );
                None
            }
        }
    }
}

fn is_tls(url: &SecretText) -> bool {
    url.0.expose().starts_with("rediss:")
}

/// True if the path of the URL is empty or the number of a database: `redis://host:port/3`. A socket may have any path.
fn has_database_at_most(url: &Url) -> bool {
    let database = url.path().strip_prefix('/').unwrap_or_default();
    url.scheme() == "unix" || database.is_empty() || database.parse::<u16>().is_ok()
}

const SINGLE: [&str; 3] = ["redis", "rediss", "unix"];
const TCP: [&str; 2] = ["redis", "rediss"];
