//! The rules of `validate --hardening`: id, severity and advice. `docs/hardening.md` has a section for each.

use crate::cli::report::Severity;

/// One rule. Its findings differ in place and message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub id: &'static str,
    pub severity: Severity,
    pub help: &'static str,
}

const fn warning(id: &'static str, help: &'static str) -> Rule {
    Rule {
        id,
        severity: Severity::Warning,
        help,
    }
}

const fn note(id: &'static str, help: &'static str) -> Rule {
    Rule {
        id,
        severity: Severity::Note,
        help,
    }
}

// the way in
pub(super) const DANGER_KEY: Rule = warning("danger-key", "remove the key; each `danger_` key gives up one protection");
pub(super) const PROXY_PLAIN_TEXT: Rule = warning(
    "proxy-plain-text",
    "set `listen.proxy.tls`, or name the balancer that ends TLS in `trusted_proxies`",
);
pub(super) const PUBLIC_URL_HTTP: Rule = warning("public-url-http", "browsers must reach the gate over https; cookies need it");
pub(super) const ADMIN_EXPOSED: Rule = note(
    "admin-exposed",
    "bind it to loopback, or let a network policy admit only the kubelet and Prometheus",
);
pub(super) const DECISION_PLAIN_TEXT: Rule = warning(
    "decision-plain-text",
    "bind it to loopback or a Unix socket, or set `listen.decision.tls`",
);
pub(super) const TRUSTED_PROXIES_WIDE: Rule = warning(
    "trusted-proxies-wide",
    "name the balancers' own networks; every host in them can claim to be any client address",
);
pub(super) const CONTROL_FOLDER_OPEN: Rule = warning(
    "control-folder-open",
    "give the socket a folder that only the gate's user may write to",
);
pub(super) const NO_ADDRESS_LIMIT: Rule = note(
    "no-address-limit",
    "set `limits.rate_per_address` or `limits.connections_per_address`, unless the balancer limits clients",
);
pub(super) const BODY_UNLIMITED: Rule = note(
    "body-unlimited",
    "set `limits.body_bytes`, unless the app limits bodies itself",
);

// identity
pub(super) const LEEWAY_WIDE: Rule = warning("leeway-wide", "keep clocks synchronised, and the leeway at 60s or less");
pub(super) const AUDIENCES_MANY: Rule = note(
    "audiences-many",
    "accept one audience of this API; every further one admits tokens that were made for another API",
);
pub(super) const ISSUER_UNBOUNDED: Rule = warning(
    "issuer-unbounded",
    "list `tenants` (and `roles`) of every issuer; otherwise each can assert those of the others",
);
pub(super) const KEYS_KEPT_LONG: Rule = warning(
    "keys-kept-long",
    "use 24h or less; for so long a withdrawn key counts while the issuer cannot be reached",
);
pub(super) const TOKEN_FORWARDED: Rule = warning(
    "token-forwarded",
    "let the app verify `x-cedargate-assertion`; a forwarded token can be used elsewhere in the caller's name",
);
pub(super) const ASSERTION_EPHEMERAL: Rule = note(
    "assertion-ephemeral",
    "set `assertion.key_file`, so that replicas sign with the same key and a restart changes nothing",
);
pub(super) const ASSERTION_LONG: Rule = warning("assertion-long", "use 5m or less; an assertion cannot be revoked");

// sessions
pub(super) const SESSION_MEMORY: Rule = warning(
    "session-memory",
    "use `sessions.store: redis`; in memory, a logout at one replica does not hold at another, and a restart ends all sessions",
);
pub(super) const SESSION_LONG: Rule = warning("session-long", "use 24h or less in all, and 8h or less without use");
pub(super) const STALENESS_LONG: Rule = warning(
    "staleness-long",
    "use 5s or less; for so long a stolen session outlives its logout",
);
pub(super) const REDIS_PLAIN_TEXT: Rule = warning("redis-plain-text", "use `rediss://` (or `sentinel.tls`)");
pub(super) const REDIS_NO_PASSWORD: Rule = warning(
    "redis-no-password",
    "give the gate an ACL user of its own (`username`, `password_file`); a writer in Redis can end sessions",
);

// secrets
pub(super) const SECRET_INLINE: Rule = warning(
    "secret-inline",
    "move it to a file (the key with `_file`); it can then be changed without a restart and stays out of version control",
);
pub(super) const FILE_OPEN: Rule = warning(
    "file-open",
    "`chmod o-rw`; in Kubernetes `defaultMode: 0440` on the volume and `fsGroup` on the pod",
);

// the app and the record
pub(super) const STRIP_HEADERS_REPLACED: Rule = warning(
    "strip-headers-replaced",
    "keep `default` in the list; it holds some 200 headers that apps believe without a proof",
);
pub(super) const UPSTREAM_PLAIN_TEXT: Rule = warning(
    "upstream-plain-text",
    "keep the app on loopback or a Unix socket, or use https",
);
pub(super) const EXPOSURE_UNCHECKED: Rule = warning(
    "exposure-unchecked",
    "leave `upstream.exposure_check` at its default; without it an app that can be reached around the gate goes unnoticed",
);
pub(super) const AUDIT_DROPS: Rule = note(
    "audit-drops",
    "with `audit.on_full: deny` no request is decided without a record; agree with the owner of the app",
);
pub(super) const AUDIT_PARTIAL: Rule = warning(
    "audit-partial",
    "record every decision; an investigation needs the allowed ones",
);
pub(super) const AUDIT_UNMASKED: Rule = warning(
    "audit-unmasked",
    "keep `context.headers` in `audit.mask`; headers carry personal data",
);

// portals
pub(super) const TENANTS_MIXED: Rule = warning(
    "tenants-mixed",
    "add a forbid to `policies/_shared/` that keeps a caller away from other tenants' resources",
);
pub(super) const PERMIT_EVERYTHING: Rule = warning(
    "permit-everything",
    "name who may do what; a permit for all replaces the gate",
);
pub(super) const PUBLIC_EVERYTHING: Rule = warning("public-everything", "list the paths that need no identity, one by one");
pub(super) const PORTAL_UNTESTED: Rule = warning(
    "portal-untested",
    "add decision tests; without them an edit that parses is in force",
);
pub(super) const PORTAL_NOT_REQUIRED: Rule = note(
    "portal-not-required",
    "name it in `policies.require`; a replica without its policies then gets no traffic",
);
pub(super) const NO_STATE_DIR: Rule = note(
    "no-state-dir",
    "set `policies.state_dir`; without it a restart with broken policies denies everything",
);

/// All rules, in the order of docs/hardening.md.
pub(crate) const RULES: &[Rule] = &[
    DANGER_KEY,
    PROXY_PLAIN_TEXT,
    PUBLIC_URL_HTTP,
    ADMIN_EXPOSED,
    DECISION_PLAIN_TEXT,
    TRUSTED_PROXIES_WIDE,
    CONTROL_FOLDER_OPEN,
    NO_ADDRESS_LIMIT,
    BODY_UNLIMITED,
    LEEWAY_WIDE,
    AUDIENCES_MANY,
    ISSUER_UNBOUNDED,
    KEYS_KEPT_LONG,
    TOKEN_FORWARDED,
    ASSERTION_EPHEMERAL,
    ASSERTION_LONG,
    SESSION_MEMORY,
    SESSION_LONG,
    STALENESS_LONG,
    REDIS_PLAIN_TEXT,
    REDIS_NO_PASSWORD,
    SECRET_INLINE,
    FILE_OPEN,
    STRIP_HEADERS_REPLACED,
    UPSTREAM_PLAIN_TEXT,
    EXPOSURE_UNCHECKED,
    AUDIT_DROPS,
    AUDIT_PARTIAL,
    AUDIT_UNMASKED,
    TENANTS_MIXED,
    PERMIT_EVERYTHING,
    PUBLIC_EVERYTHING,
    PORTAL_UNTESTED,
    PORTAL_NOT_REQUIRED,
    NO_STATE_DIR,
];

/// A parser for `--accept`; an unknown id is an error that lists the nearest ones.
pub(crate) fn ids() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(RULES.iter().map(|rule| rule.id))
}
