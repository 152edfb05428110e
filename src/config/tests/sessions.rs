//! The store of sessions.

use super::*;

#[test]
fn a_misspelt_store_causes_no_further_errors() {
    let yaml = with("sessions: { store: reddis, redis: { url: 'redis://r:6379', key_prefix: 'cedargate:shop:' } }\n");
    assert_eq!(Config::from_yaml(&yaml).unwrap_err().len(), 1);
    bad(&yaml, &["sessions.store: unknown value `reddis`; did you mean `redis`?"]);
}

#[test]
fn ambiguous_redis_settings_are_refused_at_their_key() {
    let redis = |redis: &str| with(&format!("sessions: {{ store: redis, key_file: k, redis: {{ {redis} }} }}\n"));
    let prefixed = |more: &str| redis(&format!("key_prefix: 'x:', {more}"));
    bad(&redis("url: 'redis://r'"), &["sessions.redis.key_prefix: is missing"]);
    for (more, key) in [
        ("url: 'unix:run/redis.sock'", "url: needs an absolute path"),
        ("url: 'redis://r/?protocol=resp2'", "url: may hold only"),
        ("url: 'redis://r/#insecure'", "url: may hold only"),
        ("url: 'redis://r/prod'", "url: may hold only"),
        ("url: 'unix:/run/redis.sock?db=1'", "url: may hold only"),
        (
            "cluster: ['redis://a', 'rediss://b']",
            "cluster: has `redis://` and `rediss://`",
        ),
        (
            "sentinel: { master: m, urls: ['redis://a', 'rediss://b'] }",
            "sentinel.urls: has `redis://` and `rediss://`",
        ),
        ("url: 'redis://r', tls: { ca: c }", "tls.ca: has no effect"),
        ("url: 'redis://r', tls: { cert: c, key: k }", "tls.key: has no effect"),
        ("url: 'redis://r', username: gate", "password_file: is missing"),
    ] {
        bad(&prefixed(more), &[&format!("sessions.redis.{key}")]);
    }
    for more in [
        "url: 'redis://r:6379/3'",
        "url: 'redis://r:6379/'",
        "url: 'unix:/run/redis.sock'",
        "url: 'unix:///run/redis.sock'",
        "url: 'rediss://r', tls: { ca: c }",
        "cluster: ['rediss://a', 'rediss://b'], tls: { ca: c }",
        "sentinel: { master: m, urls: ['redis://a'], tls: true }, tls: { ca: c }",
        "url: 'redis://r', username: gate, password: p",
        "url: 'redis://r', password: p",
    ] {
        good(&prefixed(more));
    }
    bad(
        &with("sessions: { staleness_max: 2m }"),
        &["sessions.staleness_max", "the most is 1m"],
    );
}
