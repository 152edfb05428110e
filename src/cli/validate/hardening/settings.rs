//! Rules about the configuration's values.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use super::rules::{self, Rule};
use super::{Checklist, last, leaves};
use crate::config::{Address, KeySource, SessionStore, Topology, Upstream, UpstreamUrl};

const LEEWAY_MAX: Duration = Duration::from_secs(60);
const KEYS_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
const ASSERTION_MAX: Duration = Duration::from_secs(5 * 60);
const SESSION_MAX: Duration = Duration::from_secs(24 * 3600);
const IDLE_MAX: Duration = Duration::from_secs(8 * 3600);
const STALENESS_MAX: Duration = Duration::from_secs(5);
/// A network with fewer leading bits is more than the balancers of one site.
const PROXY_BITS_MIN: (u8, u8) = (16, 48);
/// Secrets that the file itself may hold.
const SECRETS: &[&str] = &["client_secret", "password", "tokens"];

pub(super) fn check(list: &mut Checklist<'_>) {
    danger_keys(list);
    listeners(list);
    clients(list);
    issuers(list);
    identity_for_the_app(list);
    sessions(list);
    redis(list);
    secrets(list);
    upstreams(list);
    audit(list);
    if list.loaded.config.policies.state_dir.is_none() {
        list.setting(rules::NO_STATE_DIR, "policies.state_dir", "is not set");
    }
}

fn danger_keys(list: &mut Checklist<'_>) {
    let mut found = Vec::new();
    leaves("", &list.loaded.effective, &mut |key, value| {
        if last(key).starts_with("danger_") && *value == Value::Bool(true) {
            found.push(key.to_owned());
        }
    });
    for key in found {
        list.setting(rules::DANGER_KEY, &key, "is set");
    }
}

fn listeners(list: &mut Checklist<'_>) {
    let config = &list.loaded.config;
    let proxy = &config.listen.proxy;
    if proxy.tls.is_none() && !proxy.address.ip().is_loopback() && config.trusted_proxies.is_empty() {
        let message = format!("serves plain HTTP at {}, and no proxy in front of it is named", proxy.address);
        list.setting(rules::PROXY_PLAIN_TEXT, "listen.proxy", message);
    }
    if let Some(url) = config.public_url.as_deref().filter(|url| is_plain_and_remote(url)) {
        list.setting(rules::PUBLIC_URL_HTTP, "public_url", format!("`{url}` is not https"));
    }
    if let Some(admin) = config.listen.admin.filter(|admin| !admin.ip().is_loopback()) {
        let message = format!("{admin} is not loopback; it shows portals, revisions and metrics to whom it answers");
        list.setting(rules::ADMIN_EXPOSED, "listen.admin.address", message);
    }
    if let Some(decision) = &config.listen.decision
        && let Address::Tcp(address) = decision.address
        && !address.ip().is_loopback()
        && decision.tls.is_none()
    {
        let message = format!("{address} is not loopback, and tokens cross the network in plain text");
        list.setting(rules::DECISION_PLAIN_TEXT, "listen.decision", message);
    }
}

/// True for an `http://` URL of another host than localhost.
fn is_plain_and_remote(url: &str) -> bool {
    url::Url::parse(url).is_ok_and(|url| url.scheme() == "http" && !url.host_str().is_some_and(is_local))
}

fn is_local(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.ends_with(".localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn clients(list: &mut Checklist<'_>) {
    let config = &list.loaded.config;
    let is_wide = |net: &IpNet| {
        let (v4, v6) = PROXY_BITS_MIN;
        net.prefix_len() < if net.addr().is_ipv4() { v4 } else { v6 }
    };
    for (n, net) in config.trusted_proxies.iter().enumerate().filter(|(_, net)| is_wide(net)) {
        list.setting(
            rules::TRUSTED_PROXIES_WIDE,
            &format!("trusted_proxies[{n}]"),
            format!("`{net}` is a large network"),
        );
    }
    if config.limits.rate_per_address.is_none() && config.limits.connections_per_address.is_none() {
        list.setting(
            rules::NO_ADDRESS_LIMIT,
            "limits",
            "one client address may use every connection and slot",
        );
    }
    if config.limits.body_bytes.is_none() {
        list.setting(rules::BODY_UNLIMITED, "limits.body_bytes", "bodies to the app have no limit");
    }
}

fn issuers(list: &mut Checklist<'_>) {
    let issuers = &list.loaded.config.issuers;
    let with_tokens = || {
        issuers
            .iter()
            .enumerate()
            .filter(|(_, issuer)| issuer.keys != KeySource::NoTokens)
    };
    let are_several = with_tokens().count() > 1;
    for (n, issuer) in with_tokens() {
        let key = |name: &str| format!("issuers[{n}].{name}");
        let name = &issuer.scope.name;
        if issuer.leeway > LEEWAY_MAX {
            list.setting(
                rules::LEEWAY_WIDE,
                &key("leeway"),
                format!("{:?} is a long life for an expired token", issuer.leeway),
            );
        }
        if issuer.scope.audiences.len() > 1 {
            let count = issuer.scope.audiences.len();
            list.setting(rules::AUDIENCES_MANY, &key("audiences"), format!("`{name}` has {count}"));
        }
        if issuer.jwks_max_age > KEYS_AGE_MAX {
            list.setting(
                rules::KEYS_KEPT_LONG,
                &key("jwks.max_age"),
                format!("is {:?}", issuer.jwks_max_age),
            );
        }
        if are_several && issuer.scope.tenants.is_none() {
            let message = format!("`{name}` may assert every tenant, beside other issuers");
            list.setting(rules::ISSUER_UNBOUNDED, &key("tenants"), message);
        }
    }
}

fn identity_for_the_app(list: &mut Checklist<'_>) {
    let assertion = &list.loaded.config.assertion;
    if assertion.key_file.is_none() {
        list.setting(
            rules::ASSERTION_EPHEMERAL,
            "assertion.key_file",
            "is not set, so the key ends with the process",
        );
    }
    if assertion.ttl.get() > ASSERTION_MAX {
        list.setting(
            rules::ASSERTION_LONG,
            "assertion.ttl",
            format!("is {:?}", assertion.ttl.get()),
        );
    }
    let mut passed = Vec::new();
    leaves("", &list.loaded.effective, &mut |key, value| {
        let is_switch = *value == Value::Bool(true) && matches!(last(key), "forward_authorization" | "pass_access_token");
        let is_upstream_token = last(key) == "token" && key.ends_with("upstream.token") && value.as_str() == Some("passthrough");
        if is_switch || is_upstream_token {
            passed.push(key.to_owned());
        }
    });
    for key in passed {
        list.setting(rules::TOKEN_FORWARDED, &key, "gives the app a token that others accept, too");
    }
}

fn sessions(list: &mut Checklist<'_>) {
    let config = &list.loaded.config;
    let sessions = &config.sessions;
    let has_logins = !config.login.providers.is_empty();
    if has_logins && matches!(sessions.store, SessionStore::Memory) {
        list.setting(rules::SESSION_MEMORY, "sessions.store", "is `memory`, and browsers log in");
    }
    let too_long: [(Rule, &str, Duration, Duration); 3] = [
        (
            rules::SESSION_LONG,
            "sessions.absolute_timeout",
            sessions.absolute_timeout,
            SESSION_MAX,
        ),
        (rules::SESSION_LONG, "sessions.idle_timeout", sessions.idle_timeout, IDLE_MAX),
        (
            rules::STALENESS_LONG,
            "sessions.staleness_max",
            sessions.staleness_max,
            STALENESS_MAX,
        ),
    ];
    for (rule, key, value, max) in too_long {
        if value > max {
            list.setting(rule, key, format!("{value:?} is more than {max:?}"));
        }
    }
}

fn redis(list: &mut Checklist<'_>) {
    let SessionStore::Redis(redis) = &list.loaded.config.sessions.store else {
        return;
    };
    let is_plain = |url: &str| url.starts_with("redis://") && is_remote_redis(url);
    let (key, plain) = match &redis.topology {
        Topology::Single(url) => ("sessions.redis.url", is_plain(url.expose())),
        Topology::Sentinel { urls, tls, .. } => (
            "sessions.redis.sentinel",
            !tls && urls.iter().any(|url| is_remote_redis(url.expose())),
        ),
        Topology::Cluster(urls) => ("sessions.redis.cluster", urls.iter().any(|url| is_plain(url.expose()))),
    };
    if plain {
        list.setting(rules::REDIS_PLAIN_TEXT, key, "reaches Redis on another host without TLS");
    }
    let is_unix = matches!(&redis.topology, Topology::Single(url) if url.expose().starts_with("unix:"));
    if redis.password.is_none() && !is_unix {
        list.setting(
            rules::REDIS_NO_PASSWORD,
            "sessions.redis",
            "has neither `password` nor `password_file`",
        );
    }
}

fn is_remote_redis(url: &str) -> bool {
    url::Url::parse(url).is_ok_and(|url| !url.host_str().is_some_and(is_local))
}

fn secrets(list: &mut Checklist<'_>) {
    let mut inline = Vec::new();
    leaves("", &list.loaded.effective, &mut |key, value| {
        if SECRETS.contains(&last(key)) && !value.is_null() {
            inline.push(key.to_owned());
        }
    });
    for key in inline {
        list.setting(rules::SECRET_INLINE, &key, "is a secret in the configuration itself");
    }
}

fn upstreams(list: &mut Checklist<'_>) {
    let config = &list.loaded.config;
    let own = config.portals.iter().flatten().filter_map(|portal| {
        let upstream = portal.upstream.as_ref()?;
        Some((format!("portals.{}.upstream", portal.slug), upstream))
    });
    let all: Vec<(String, &Upstream)> = std::iter::once(("upstream".to_owned(), &config.upstream))
        .chain(own)
        .collect();
    for (key, upstream) in all {
        if let UpstreamUrl::Http(authority) = &upstream.url
            && !is_local(authority.dialled())
        {
            let message = format!("`{}` is another host, over plain HTTP", upstream.url.origin());
            list.setting(rules::UPSTREAM_PLAIN_TEXT, &key, message);
        }
    }
    let headers = list.value("/upstream/strip_headers");
    let has_default = headers
        .as_array()
        .is_none_or(|headers| headers.iter().any(|header| header == "default"));
    if !has_default {
        list.setting(
            rules::STRIP_HEADERS_REPLACED,
            "upstream.strip_headers",
            "replaces the built-in list",
        );
    }
    if config.exposure_check.is_none() {
        list.setting(rules::EXPOSURE_UNCHECKED, "upstream.exposure_check", "is off");
    }
}

fn audit(list: &mut Checklist<'_>) {
    if list.value("/audit/on_full") == "drop" {
        list.setting(
            rules::AUDIT_DROPS,
            "audit.on_full",
            "is `drop`: decisions go on without a record",
        );
    }
    if list.value("/audit/allow") != "all" {
        list.setting(rules::AUDIT_PARTIAL, "audit.allow", "leaves allowed decisions out of the log");
    }
    let masks = list.value("/audit/mask").as_array();
    let has_headers = masks.is_some_and(|masks| masks.iter().any(|mask| mask == "context.headers" || mask == "context"));
    if !has_headers {
        list.setting(rules::AUDIT_UNMASKED, "audit.mask", "does not mask `context.headers`");
    }
}
