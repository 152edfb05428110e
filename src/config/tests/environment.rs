//! Keys in environment variables.

use super::*;

#[test]
fn the_environment_overrides_the_file() {
    let text = with(ISSUER);
    let loaded = from_env(
        &text,
        &[
            ("CEDARGATE_LIMITS__BATCH", "7"),
            ("CEDARGATE_LIMITS__TOKEN_BYTES", "8KiB"),
            ("CEDARGATE_LIMITS__DECISION_BODY_BYTES", "4096"),
            ("CEDARGATE_UPSTREAM__FORWARD_AUTHORIZATION", "true"),
            ("CEDARGATE_UPSTREAM__URL", "http://10.0.0.1:80"),
            ("CEDARGATE_LISTEN__ADMIN", "null"),
            ("CEDARGATE_TRUSTED_PROXIES", "10.0.0.0/8, 192.168.0.0/16"),
            ("CEDARGATE_ISSUERS__0__AUDIENCES", "[one, two]"),
            ("CEDARGATE_ISSUERS__1__NAME", "ci"),
            ("CEDARGATE_ISSUERS__1__ISSUER", "https://ci.test"),
            ("CEDARGATE_ISSUERS__1__AUDIENCES__0", "x"),
            ("CEDARGATE_PORTALS__SHOP_2__TENANT", "{ fixed: acme }"),
            ("CEDARGATE_PORTALS__SHOP_2__ISSUERS", "ci"),
            ("CEDARGATE_PUBLIC_URL", "https://shop.test"),
        ],
    )
    .unwrap_or_else(|errors| panic!("{errors}"));
    let config = &loaded.config;
    assert_eq!(
        (
            config.limits.batch.get(),
            config.limits.token_bytes.get(),
            config.limits.decision_body_bytes.get()
        ),
        (7, 8192, 4096)
    );
    assert!(config.upstream.token == UpstreamToken::Passthrough && config.listen.admin.is_none());
    assert_eq!(config.upstream.url.origin(), "http://10.0.0.1:80");
    assert_eq!(config.trusted_proxies.len(), 2);
    assert_eq!(config.issuers[0].scope.audiences, ["one", "two"]);
    assert_eq!(&*config.issuers[1].scope.name, "ci");
    let portal = &config.portals.as_ref().unwrap()[0];
    assert_eq!((portal.slug.as_str(), portal.issuers.as_slice()), ("shop-2", [1].as_slice()));
    assert_eq!(loaded.origins["limits.batch"], "environment CEDARGATE_LIMITS__BATCH");
    assert_eq!(loaded.origins["issuers[0].name"], "cedargate.yaml:3");
    assert_eq!(loaded.origins["limits.connections"], "default");
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    let fails = |name: &str, value: &str, parts: &[&str]| {
        let message = from_env(MINIMAL, &[(name, value)]).expect_err(name).to_string();
        for part in parts.iter().copied().chain([name]) {
            assert!(message.contains(part), "`{part}` is not in:\n{message}");
        }
    };
    fails(
        "CEDARGATE_LIMITS__BACH",
        "7",
        &["limits.bach: unknown key; did you mean `batch`?"],
    );
    fails("CEDARGATE_LIMIT__BATCH", "7", &["limit: unknown key; did you mean `limits`?"]);
    fails(
        "CEDARGATE_LIMITS__BATCH",
        "seven",
        &["expected a whole number, got the string `seven`"],
    );
    fails("CEDARGATE_LIMITS", "many", &["limits: expected a mapping"]);
    fails("CEDARGATE_LIMITS_BATCH", "7", &["write `CEDARGATE_LIMITS__BATCH`"]);
    fails("CEDARGATE_ISSUERS__1__NAME", "x", &["without a gap"]);
    fails("CEDARGATE_TRUSTED_PROXIES", "[1, ", &["cannot be read"]);
    fails("CEDARGATE__X", "x", &["unknown key"]);
}

#[test]
fn service_link_variables_of_kubernetes_are_ignored() {
    let names = [
        "CEDARGATE_PORT",
        "CEDARGATE_SERVICE_HOST",
        "CEDARGATE_SERVICE_PORT",
        "CEDARGATE_SERVICE_PORT_HTTP",
        "CEDARGATE_PORT_8900_TCP",
        "CEDARGATE_PORT_8900_TCP_ADDR",
        "CEDARGATE_LIMITS_SERVICE_HOST",
        "CEDARGATE_LIMITS_PORT",
        "CEDARGATE_TEST_DATA",
        "CEDARGATE_LOG",
        "CEDARGATE_CONFIG",
        "PATH",
    ];
    let env: Vec<_> = names.iter().map(|name| (*name, "tcp://10.0.0.1:8900")).collect();
    from_env(MINIMAL, &env).unwrap_or_else(|errors| panic!("{errors}"));
}
