//! From what the file says to values that are ready to use: everything that one key means beside the others.
//!
//! A function returns its checked value, or has reported why there is none; a required key that is absent or of the
//! wrong type was reported by `walk` and is passed over here. Any doubt about a restriction is an error, never a guess.

mod issuers;
mod login;
mod network;
mod portals;
pub mod secret;
mod sessions;
mod upstream;

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::ConfigErrors;
use super::raw::{
    DurationText, Raw, RawAssertion, RawAudit, RawAuditAllow, RawAuditSink, RawLimits, RawOnFull, RawPolicies, RawRate, SizeText,
};
use super::tree::Node;
use super::walk::hint;
use super::{Assertion, Audit, AuditAllow, AuditSink, Config, Limits, OnFull, Policies, Rate};
use cedargate_policy::types::PortalSlug;

/// The HTTP library needs this much to read a request's head at all.
pub const HEADER_BYTES_MIN: u64 = 8 * 1024;
const POLL_MIN: Duration = Duration::from_millis(100);
const ASSERTION_TTL_MIN: Duration = Duration::from_secs(1);
const ASSERTION_TTL_MAX: Duration = Duration::from_secs(60 * 60);
const RATE_PER_MAX: Duration = Duration::from_secs(60 * 60);
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// Stands in where a mistake was reported.
const RATE_LOGIN_LEAST: Rate = Rate {
    requests: NonZeroU32::MIN,
    per: RATE_PER_MAX,
    burst: NonZeroU32::MIN,
};

/// What every check needs: where mistakes go, where values were written, which folder paths start from.
pub struct Checker<'a> {
    pub errors: &'a mut ConfigErrors,
    pub tree: &'a Node,
    pub folder: &'a Path,
    /// Files whose content became part of the configuration; what is read again while the gate runs is none of them.
    pub secret_files: Vec<PathBuf>,
}

impl Checker<'_> {
    /// `None` if and only if something was reported, here or by `walk`.
    pub fn config(&mut self, raw: &Raw) -> Option<Config> {
        let public_url = self.public_url(raw.public_url.as_deref());
        let listen = self.listen(&raw.listen);
        let upstream = raw.upstream.as_ref().and_then(|upstream| self.upstream(upstream));
        let mut issuers = self.issuers(&raw.issuers);
        let listed = issuers.len();
        let identity_prefix = self.identity_prefix(&raw.identity.prefix);
        let portals = self.portals(raw, upstream.as_ref(), identity_prefix.as_deref());
        let policies = self.policies(&raw.policies, raw);
        let trusted_proxies = self.trusted_proxies(&raw.trusted_proxies);
        let believes_nobody = raw.listen.proxy.proxy_protocol && raw.trusted_proxies.is_empty();
        if believes_nobody {
            let message = "is believed only from `trusted_proxies`, and there are none; name the balancers there";
            self.error("listen.proxy.proxy_protocol", message);
        }
        let assertion = self.assertion(&raw.assertion);
        let audit = self.audit(&raw.audit);
        let limits = self.limits(&raw.limits);
        let sessions = self.sessions(raw);
        let login = self.login(raw, &mut issuers);
        let identity = self.identity(raw, identity_prefix);
        self.not_our_own(raw, public_url.as_deref());
        // INVARIANT: portals refer to issuers by index, so none may be missing; whatever was left out was reported
        let complete = !believes_nobody
            && listed == raw.issuers.len()
            && portals.as_ref().map(Vec::len) == raw.portals.as_ref().map(|all| all.len());
        if !complete {
            return None;
        }
        Some(Config {
            public_url,
            listen: listen?,
            upstream: upstream?,
            portals,
            policies,
            issuers,
            sessions: sessions?,
            login: login?,
            identity: identity?,
            trusted_proxies,
            assertion,
            audit,
            limits,
        })
    }

    pub fn error(&mut self, key: &str, message: impl Into<String>) {
        self.errors.add(key, self.tree.nearest_origin(key), message);
    }

    /// A path in the file starts at the file's folder.
    pub fn path(&mut self, key: &str, text: &str) -> PathBuf {
        if text.trim().is_empty() {
            self.error(key, "is empty; write a path");
        }
        self.folder.join(text)
    }

    /// Reports a duration below `min`; zero would mean "never" or "at once", depending on who reads it.
    pub fn at_least(&mut self, key: &str, value: DurationText, min: Duration) -> Duration {
        if value.0 < min {
            self.error(key, format!("`{}` is too short; the least is {}", text(value.0), text(min)));
        }
        value.0
    }

    pub fn at_most(&mut self, key: &str, value: DurationText, max: Duration) -> Duration {
        if value.0 > max {
            self.error(key, format!("`{}` is too long; the most is {}", text(value.0), text(max)));
        }
        value.0
    }

    pub fn timeout(&mut self, key: &str, value: DurationText) -> Duration {
        self.at_least(key, value, TIMEOUT_MIN)
    }

    pub fn not_blank(&mut self, key: &str, value: &str) {
        if value.trim().is_empty() || value.trim() != value {
            self.error(key, "is empty or has spaces around it; write a value");
        }
    }

    pub fn size(&mut self, key: &str, value: SizeText, min: u64) -> usize {
        if value.0 < min {
            self.error(key, format!("`{}` bytes are too few; the least is {min}", value.0));
        }
        usize::try_from(value.0).unwrap_or_else(|_| {
            self.error(key, format!("`{}` bytes are more than this machine can address", value.0));
            usize::MAX
        })
    }

    fn policies(&mut self, raw: &RawPolicies, whole: &Raw) -> Policies {
        let known: Option<Vec<&str>> = whole
            .portals
            .as_ref()
            .map(|portals| portals.keys().map(String::as_str).collect());
        let mut require = Vec::new();
        for (n, slug) in raw.require.iter().enumerate() {
            let key = format!("policies.require[{n}]");
            match (PortalSlug::parse(slug), &known) {
                (None, _) => self.error(&key, format!("`{slug}` is not a portal's slug; {}", portals::SLUG_RULE)),
                (Some(_), Some(known)) if !known.contains(&slug.as_str()) => {
                    self.error(
                        &key,
                        format!("there is no portal `{slug}` in `portals`; {}", hint(slug, known)),
                    );
                }
                (Some(slug), _) => require.push(slug),
            }
        }
        Policies {
            dir: self.path("policies.dir", &raw.dir),
            schemas: self.path("policies.schemas", &raw.schemas),
            poll: self.at_least("policies.poll", raw.poll, POLL_MIN),
            require,
            state_dir: raw.state_dir.as_ref().map(|dir| self.path("policies.state_dir", dir)),
        }
    }

    fn assertion(&mut self, raw: &RawAssertion) -> Assertion {
        self.at_most("assertion.ttl", raw.ttl, ASSERTION_TTL_MAX);
        let key_file = raw.key_file.as_ref().map(|file| self.path("assertion.key_file", file));
        Assertion {
            header: self.header_name("assertion.header", &raw.header),
            ttl: self.at_least("assertion.ttl", raw.ttl, ASSERTION_TTL_MIN),
            key_file,
        }
    }

    fn audit(&mut self, raw: &RawAudit) -> Audit {
        for (n, path) in raw.mask.iter().enumerate() {
            if path.split('.').any(str::is_empty) {
                self.error(
                    &format!("audit.mask[{n}]"),
                    format!("`{path}` is not a dotted path such as `context.headers`"),
                );
            }
        }
        Audit {
            sink: match &raw.sink {
                RawAuditSink::Stdout => AuditSink::Stdout,
                RawAuditSink::File(file) => AuditSink::File(self.path("audit.sink.file", file)),
            },
            allow: match raw.allow {
                RawAuditAllow::All => AuditAllow::All,
                RawAuditAllow::None => AuditAllow::None,
            },
            mask: raw.mask.clone(),
            on_full: match raw.on_full {
                RawOnFull::Drop => OnFull::Drop,
                RawOnFull::Deny => OnFull::Deny,
            },
            queue: raw.queue,
        }
    }

    fn limits(&mut self, raw: &RawLimits) -> Limits {
        Limits {
            header_bytes: self.size("limits.header_bytes", raw.header_bytes, HEADER_BYTES_MIN),
            body_bytes: raw.body_bytes.map(|size| size.0),
            connections: raw.connections,
            connections_per_address: raw.connections_per_address,
            requests: raw.requests,
            streams: raw.streams,
            rate_per_address: self.rate("limits.rate_per_address", raw.rate_per_address.as_ref()),
            rate_per_principal: self.rate("limits.rate_per_principal", raw.rate_per_principal.as_ref()),
            rate_login: self
                .rate("limits.rate_login", Some(&raw.rate_login))
                .unwrap_or(RATE_LOGIN_LEAST),
            batch: raw.batch,
            decision_body_bytes: self.size("limits.decision_body_bytes", raw.decision_body_bytes, 1),
            header_timeout: self.timeout("limits.header_timeout", raw.header_timeout),
            idle_timeout: self.timeout("limits.idle_timeout", raw.idle_timeout),
            send_timeout: self.timeout("limits.send_timeout", raw.send_timeout),
            tunnel_idle_timeout: self.timeout("limits.tunnel_idle_timeout", raw.tunnel_idle_timeout),
            token_bytes: self.size("limits.token_bytes", raw.token_bytes, 1),
            token_cache: raw.token_cache,
            drain_delay: raw.drain_delay.0,
            drain_timeout: raw.drain_timeout.0,
            workers: raw
                .workers
                .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        }
    }

    /// Absent is no limit; a number out of range was reported by `walk`.
    fn rate(&mut self, section: &str, raw: Option<&RawRate>) -> Option<Rate> {
        let raw = raw?;
        let key = format!("{section}.per");
        self.at_most(&key, raw.per, RATE_PER_MAX);
        let per = self.timeout(&key, raw.per);
        let requests = NonZeroU32::new(raw.requests?)?;
        let burst = raw.burst.map_or(Some(requests), NonZeroU32::new)?;
        Some(Rate { requests, per, burst })
    }
}

fn text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}
