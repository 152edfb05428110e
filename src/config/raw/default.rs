//! What a key means when nobody says anything: every default of `cedargate.yaml`, and nothing else.

use std::time::Duration;

use super::{
    AlgorithmText, DurationText, RawAdminListen, RawAssertion, RawAudit, RawAuditAllow, RawAuditSink, RawCircuit, RawClaims,
    RawDecisionAuth, RawDecisionListen, RawIdentity, RawLimits, RawListen, RawOnFull, RawPolicies, RawProvider, RawProxyListen,
    RawRate, RawRedis, RawRedisTls, RawSessionStore, RawSessions, SizeText,
};

const fn seconds(seconds: u64) -> DurationText {
    DurationText(Duration::from_secs(seconds))
}

const fn kibibytes(number: u64) -> SizeText {
    SizeText(number << 10)
}

pub fn connect_timeout() -> DurationText {
    seconds(1)
}

pub fn response_timeout() -> DurationText {
    seconds(60)
}

pub fn response_header_bytes() -> SizeText {
    kibibytes(64)
}

pub fn rate_per() -> DurationText {
    seconds(1)
}

pub fn upstream_idle_timeout() -> DurationText {
    seconds(30)
}

/// Headers by which frameworks replace the method, path or host that was decided on.
pub fn strip_headers() -> Vec<String> {
    [
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-original-url",
        "x-rewrite-url",
        "x-original-uri",
        "x-original-method",
        "x-original-host",
        "x-override-url",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "x-envoy-original-path",
        "proxy",
    ]
    .map(str::to_owned)
    .to_vec()
}

pub fn algorithms() -> Vec<AlgorithmText> {
    ["RS256", "ES256", "EdDSA"]
        .map(|name| AlgorithmText(name.to_owned()))
        .to_vec()
}

pub fn leeway() -> DurationText {
    seconds(30)
}

pub fn principal() -> String {
    "User".to_owned()
}

pub fn introspection_cache() -> DurationText {
    seconds(30)
}

pub fn jwks_max_age() -> DurationText {
    seconds(24 * 60 * 60)
}

impl Default for RawListen {
    fn default() -> Self {
        Self {
            proxy: RawProxyListen::default(),
            decision: Some(RawDecisionListen::default()),
            admin: Some(RawAdminListen::default()),
            control: None,
        }
    }
}

impl Default for RawProxyListen {
    fn default() -> Self {
        Self {
            address: "0.0.0.0:8900".to_owned(),
            tls: None,
            proxy_protocol: false,
        }
    }
}

impl Default for RawDecisionListen {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:8901".to_owned(),
            auth: RawDecisionAuth::default(),
            tls: None,
        }
    }
}

impl Default for RawCircuit {
    fn default() -> Self {
        Self {
            failures: 5,
            pause: DurationText(Duration::from_millis(200)),
        }
    }
}

impl Default for RawAdminListen {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:8903".to_owned(),
        }
    }
}

impl Default for RawPolicies {
    fn default() -> Self {
        Self {
            dir: "policies".to_owned(),
            schemas: "schemas".to_owned(),
            poll: seconds(5),
            require: Vec::new(),
            state_dir: None,
        }
    }
}

impl Default for RawClaims {
    fn default() -> Self {
        Self {
            subject: "sub".to_owned(),
            tenant: "tenant".to_owned(),
            roles: "roles".to_owned(),
        }
    }
}

impl Default for RawSessions {
    fn default() -> Self {
        Self {
            store: RawSessionStore::Memory,
            idle_timeout: seconds(30 * 60),
            absolute_timeout: seconds(12 * 60 * 60),
            staleness_max: seconds(1),
            key_file: None,
            redis: None,
            cache: 20_000,
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
            timeout: DurationText(Duration::from_millis(500)),
        }
    }
}

impl Default for RawProvider {
    fn default() -> Self {
        Self {
            title: None,
            issuer: None,
            client_id: None,
            client_secret: None,
            client_secret_file: None,
            client_key_file: None,
            auth_method: None,
            scopes: ["openid", "profile", "email"].map(str::to_owned).to_vec(),
            users_file: None,
        }
    }
}

impl Default for RawIdentity {
    fn default() -> Self {
        Self {
            prefix: "/api/v1/identity".to_owned(),
            title: "Sign in".to_owned(),
            logo: None,
        }
    }
}

impl Default for RawAssertion {
    fn default() -> Self {
        Self {
            header: "x-cedargate-assertion".to_owned(),
            ttl: seconds(60),
            key_file: None,
        }
    }
}

impl Default for RawAudit {
    fn default() -> Self {
        Self {
            sink: RawAuditSink::Stdout,
            allow: RawAuditAllow::All,
            mask: vec!["context.headers".to_owned()],
            on_full: RawOnFull::Drop,
            queue: 8192,
        }
    }
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            header_bytes: kibibytes(32),
            body_bytes: None,
            connections: 10_000,
            connections_per_address: None,
            requests: 10_000,
            streams: 128,
            rate_per_address: None,
            rate_per_principal: None,
            rate_login: RawRate {
                requests: Some(10),
                per: seconds(60),
                burst: None,
            },
            batch: 200,
            decision_body_bytes: kibibytes(1024),
            header_timeout: seconds(10),
            idle_timeout: seconds(75),
            send_timeout: seconds(60),
            tunnel_idle_timeout: seconds(60 * 60),
            token_bytes: kibibytes(16),
            token_cache: 10_000,
            drain_delay: seconds(2),
            drain_timeout: seconds(30),
            workers: None,
        }
    }
}
