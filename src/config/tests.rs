//! Tests of the configuration as a whole: a text and an environment in, values or messages out.

use std::path::Path;
use std::time::Duration;

use cedargate_policy::scope::TenantSource;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

const MINIMAL: &str = "upstream: { url: 'http://127.0.0.1:3000' }\n";
const ISSUER: &str = "issuers:\n  - { name: corp, issuer: 'https://id.test/', audiences: [orders] }\n";

fn with(more: &str) -> String {
    format!("{MINIMAL}{more}")
}

fn from_env(text: &str, env: &[(&str, &str)]) -> Result<load::Loaded, ConfigErrors> {
    let env: Vec<_> = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    from_str(text, Path::new("/etc/cedargate"), env.into_iter())
}

fn good(text: &str) -> Config {
    from_env(text, &[]).unwrap_or_else(|errors| panic!("{text}\n{errors}")).config
}

/// Every part must occur in the messages of `text`.
fn bad(text: &str, parts: &[&str]) {
    let message = match from_env(text, &[]) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(errors) => errors.to_string(),
    };
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in:\n{message}\nfor\n{text}");
    }
}

#[test]
fn an_upstream_alone_is_a_complete_configuration() {
    let config = good(MINIMAL);
    assert_eq!(config.listen.proxy.address.to_string(), "0.0.0.0:8900");
    assert_eq!(
        config.listen.decision.unwrap().address,
        Address::Tcp("127.0.0.1:8901".parse().unwrap())
    );
    assert_eq!(config.listen.admin.unwrap().to_string(), "127.0.0.1:8903");
    assert_eq!(config.upstream.connect_timeout, Duration::from_secs(1));
    assert_eq!(config.upstream.response_timeout, Duration::from_secs(60));
    assert_eq!(config.upstream.idle_timeout, Duration::from_secs(4));
    assert!(config.upstream.strip_headers.contains(&"x-original-*".to_owned()));
    assert_eq!(config.upstream.token, UpstreamToken::None);
    assert_eq!(config.policies.dir, Path::new("/etc/cedargate/policies"));
    assert_eq!(config.policies.poll.get(), Duration::from_secs(5));
    assert_eq!(config.limits.header_bytes.get(), 32 * 1024);
    assert_eq!(config.limits.decision_body_bytes.get(), 1024 * 1024);
    assert_eq!(config.limits.token_bytes.get(), 16 * 1024);
    assert_eq!(
        (
            config.limits.connections.get(),
            config.limits.batch.get(),
            config.limits.token_cache.get()
        ),
        (10_000, 200, 10_000)
    );
    assert!(config.limits.workers() >= 1 && config.limits.body_bytes.is_none());
    assert!(config.audit.sink.file().is_none() && config.audit.chain.is_none());
    assert_eq!((config.audit.on_full, config.audit.queue.get()), (OnFull::Drop, 8192));
    assert_eq!(config.assertion.header, "x-cedargate-assertion");
    assert_eq!(config.identity.prefix, "/api/v1/identity");
    assert!(config.portals.is_none() && config.issuers.is_empty());
}

#[test]
fn the_example_of_the_contract_loads() {
    let config = good(
        r#"
public_url: https://Shop.example.com:443/
listen:
  proxy: { address: "0.0.0.0:8900" }
  decision: { address: "unix:/run/decision.sock" }
  admin: null
upstream: { url: "http://127.0.0.1:3000", connect_timeout: 500ms, response_timeout: 1m30s }
portals:
  customer: { match: { hosts: ["Shop.Example.com.", "*.example.com"], path_prefix: /portal/customer/ }, issuers: [ci], tenant: claim, upstream: "http://127.0.0.1:3001" }
  admin: { tenant: host_label, upstream: { url: "http://[::1]:3002", response_timeout: 5s } }
  partner: { tenant: { fixed: acme } }
policies: { require: [customer] }
issuers:
  - name: corp
    issuer: https://id.example.com/
    audiences: [orders]
    jwks: { file: keys.json, max_age: 1h }
    algorithms: [ES256, ES256]
    claims: { roles: realm_access.roles }
  - { name: ci, issuer: "https://ci.example.com", audiences: [orders], principal: "Shop::Service" }
sessions: { store: memory, idle_timeout: 30m }
trusted_proxies: [10.0.0.0/8, "::1"]
audit: { sink: { file: audit.jsonl }, on_full: deny }
limits: { header_bytes: 65536, body_bytes: 10MiB, workers: 2 }
"#,
    );
    assert_eq!(config.public_url.as_deref(), Some("https://shop.example.com"));
    assert_eq!(
        config.listen.decision.unwrap().address,
        Address::Unix("/run/decision.sock".into())
    );
    assert!(config.listen.admin.is_none());
    let portals = config.portals.unwrap();
    let portal = |slug: &str| portals.iter().find(|portal| portal.slug.as_str() == slug).unwrap();
    let customer = portal("customer");
    assert_eq!(customer.matches.hosts, ["shop.example.com", "*.example.com"]);
    assert_eq!(customer.matches.path_prefix, "/portal/customer");
    assert_eq!(customer.issuers, [1]);
    assert_eq!(
        customer.upstream.as_ref().unwrap().connect_timeout,
        Duration::from_millis(500),
        "a URL alone keeps the times above"
    );
    let admin = portal("admin").upstream.clone().unwrap();
    assert_eq!(
        (admin.url.origin().as_str(), admin.response_timeout),
        ("http://[::1]:3002", Duration::from_secs(5))
    );
    assert_eq!(portal("admin").issuers, [0, 1]);
    assert_eq!(portal("partner").tenant, TenantSource::Fixed("acme".to_owned()));
    assert_eq!(portal("partner").matches.path_prefix, "/portal/partner");
    assert_eq!(config.issuers[0].keys, KeySource::File("/etc/cedargate/keys.json".into()));
    assert_eq!(config.issuers[0].algorithms, [Algorithm::Es256]);
    assert_eq!(config.issuers[0].scope.claims.subject.as_str(), "sub");
    assert_eq!(config.issuers[1].keys, KeySource::Discovery);
    assert_eq!(
        config.audit.sink,
        AuditSink::File(FileSink::plain("/etc/cedargate/audit.jsonl"))
    );
    assert_eq!(config.limits.body_bytes.map(ByteSize::get), Some(10 * 1024 * 1024));
}

#[test]
fn all_mistakes_are_reported_at_once_each_with_its_line() {
    let text = "upstream:\n  url: ftp://app\nlistn: {}\nlimits:\n  batch: many\n  header_timeout: 5\nissuers:\n  - name: corp\n    issuer: https://id.test\n";
    bad(
        text,
        &[
            "cedargate.yaml:2: upstream.url: write it as `http://host:port`",
            "cedargate.yaml:3: listn: unknown key; did you mean `listen`?",
            "cedargate.yaml:5: limits.batch: expected a whole number, got the string `many`",
            "cedargate.yaml:6: limits.header_timeout: expected a duration such as `5s`, got the number `5`",
            "issuers[0].audiences: this key is required",
        ],
    );
    let errors = from_env(text, &[]).unwrap_err();
    assert_eq!(errors.len(), 5, "{errors}");
    assert_eq!(errors.to_json()[0]["line"], 2);
    assert_eq!(errors.to_json()[0]["key"], "upstream.url");
}

#[test]
fn errors_of_structure_name_the_remedy() {
    bad("", &["upstream: this key is required"]);
    bad("[a, b]", &["expected a mapping of keys, got a list"]);
    bad("a: [", &["cedargate.yaml:"]);
    bad(
        &with("limits: { batch: 1, batch: 2 }"),
        &["limits.batch: this key is given twice"],
    );
    bad(&with("limits:"), &["limits: expected a mapping, got nothing"]);
    bad(
        &with("limits: { batch: 0 }"),
        &["limits.batch: `0` is too small; the least is 1"],
    );
    bad(&with("limits: { batch: -1 }"), &["limits.batch"]);
    bad(&with("limits: { batch: 1.5 }"), &["limits.batch: expected a whole number"]);
    bad(
        &with("audit: { allow: al }"),
        &["audit.allow: unknown value `al`; did you mean `all`?"],
    );
    bad(&with("audit: { sink: 3 }"), &["audit.sink: expected `stdout` or a mapping"]);
    bad(
        &with("trusted_proxies: 10.0.0.1"),
        &["trusted_proxies: expected a list such as `[a, b]`"],
    );
    bad(
        &with("portals: { a: { mach: {} } }"),
        &["portals.a.mach: unknown key; did you mean `match`?"],
    );
    bad(
        &with("issuers: [ 3, { nam: x } ]"),
        &["issuers[0]: expected a mapping", "issuers[1].nam", "issuers[1].name"],
    );
}

#[test]
fn envoy_asks_over_grpc_on_this_machine_only() {
    for (address, part) in [
        ("x", "is not an IP address"),
        ("'0.0.0.0:8902'", "reachable from other hosts"),
        ("'10.0.0.1:8902'", "let Envoy ask over HTTP"),
        ("'127.0.0.1:8901'", "also taken by `listen.decision.address`"),
        ("'unix:'", "needs a path"),
    ] {
        bad(
            &with(&format!("listen: {{ ext_authz: {{ address: {address} }} }}")),
            &["listen.ext_authz.address", part],
        );
    }
    for address in ["127.0.0.1:8902", "[::1]:8902", "unix:/run/envoy.sock"] {
        let text = with(&format!("listen: {{ ext_authz: {{ address: '{address}' }} }}"));
        let config = from_str(&text, Path::new("."), std::iter::empty()).unwrap().config;
        assert!(config.listen.ext_authz.is_some(), "{address}");
    }
}

#[test]
fn the_portal_and_the_identifier_of_authzen_are_checked() {
    let good = with("authzen: { portal: shop, identifier: 'https://pdp.test/a/' }\nportals: { shop: {} }");
    let config = from_str(&good, Path::new("."), std::iter::empty()).unwrap().config;
    assert_eq!(config.authzen.identifier.as_deref(), Some("https://pdp.test/a"));
    bad(
        &with("authzen: { portal: shot }\nportals: { shop: {} }"),
        &["authzen.portal: there is no portal `shot`"],
    );
    for url in [
        "pdp.test",
        "https://",
        "ftp://pdp.test",
        "https://pdp.test/?a",
        "https://pdp.test/#a",
        "https://u@pdp.test",
    ] {
        bad(&with(&format!("authzen: {{ identifier: '{url}' }}")), &["authzen.identifier"]);
    }
}

#[test]
fn bad_durations_and_sizes_are_explained() {
    for text in ["5", "''", "abc", "-1s"] {
        bad(&with(&format!("policies: {{ poll: {text} }}")), &["policies.poll", "5s"]);
    }
    bad(
        &with("policies: { poll: 99ms }"),
        &["policies.poll: `99ms` is too short; the least is 100ms"],
    );
    bad(&with("limits: { idle_timeout: 0s }"), &["limits.idle_timeout"]);
    for text in ["32KB", "-5", "1.5MiB", "''", "KiB", "99999999999GiB"] {
        bad(&with(&format!("limits: {{ token_bytes: {text} }}")), &["limits.token_bytes"]);
    }
    bad(
        &with("limits: { header_bytes: 1KiB }"),
        &["limits.header_bytes", "the least is 8192"],
    );
    bad(&with("assertion: { ttl: 2h }"), &["assertion.ttl"]);
    bad(&with("sessions: { absolute_timeout: 1m }"), &["sessions.absolute_timeout"]);
}

#[test]
fn mistakes_of_a_bundle_are_explained() {
    let of = |bundle: &str| {
        with(&format!(
            "policies: {{ state_dir: s, bundle: {{ keys: [k.pub], {bundle} }} }}"
        ))
    };
    for (bundle, part) in [
        ("poll: 2s", "policies.bundle.url"),
        ("url: 'http://files.test/b'", "is not https"),
        ("url: 'ftp://files.test/b'", "is not the URL of a bundle"),
        ("url: 'https://u:p@files.test/b'", "has a user name or password"),
        ("url: 'oci://registry.test/shop'", "oci://registry/repository:tag"),
        ("url: 'oci://registry.test/Shop:x'", "oci://registry/repository:tag"),
        ("url: 'oci://registry.test/../x:y'", "oci://registry/repository:tag"),
        ("url: 'oci://registry.test/shop@sha256:12'", "oci://registry/repository:tag"),
        ("url: 'oci+http://registry.test/shop:x'", "is not https"),
        ("url: 'https://f.test/b', poll: 999ms", "policies.bundle.poll"),
        ("url: 'https://f.test/b', bytes_max: 65MiB", "policies.bundle.bytes_max"),
        ("url: 'https://f.test/b', user: a", "policies.bundle.user"),
        (
            "url: 'https://f.test/b', user: a, password: b, token: c",
            "policies.bundle.user",
        ),
        ("url: 'https://f.test/b', proxy: 'socks5://x'", "policies.bundle.proxy"),
        (
            "url: 'https://f.test/b', danger_unsigned: true",
            "has no effect beside `policies.bundle.keys`",
        ),
    ] {
        bad(&of(bundle), &[part]);
    }
    let plain = "bundle: { url: 'https://f.test/b', keys: [k] }";
    bad(
        &with(&format!("policies: {{ dir: p, schemas: s, {plain} }}")),
        &[
            "policies.dir: `policies.bundle` is given",
            "policies.schemas: `policies.bundle`",
            "policies.state_dir: is missing",
        ],
    );
    bad(
        &with("policies: { state_dir: s, bundle: { url: 'https://f.test/b' } }"),
        &["policies.bundle.keys: is missing"],
    );
    for good in [
        "url: 'https://f.test/b?sig=1', token: t",
        "url: 'http://localhost:1/b'",
        "url: 'http://f.test/b', danger_insecure_url: true",
        "url: 'oci://registry.test:5000/a/b-c:v1.0', user: a, password: b",
        "url: 'oci+http://127.0.0.1:5000/shop:x'",
        "url: 'oci://r.test/shop@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'",
    ] {
        assert!(Config::from_yaml(&of(good)).unwrap().bundle.is_some(), "{good}");
    }
}

#[test]
fn bad_addresses_are_explained() {
    for (address, part) in [
        ("127.0.0.1", "has no port"),
        (":8900", "has no address"),
        ("localhost:8900", "is a name"),
        ("unix:/x", "only `listen.decision`"),
        ("127.0.0.1:99999", "is not an IP address and port"),
    ] {
        bad(
            &with(&format!("listen: {{ proxy: {{ address: '{address}' }} }}")),
            &["listen.proxy.address", part],
        );
    }
    bad(&with("listen: { decision: { address: 'unix:' } }"), &["needs a path"]);
    bad(
        &with("listen: { admin: { address: '127.0.0.1:8900' } }"),
        &["also taken by `listen.proxy.address`"],
    );
    bad(
        &with("trusted_proxies: [10.0.0.0/33]"),
        &["trusted_proxies[0]: `10.0.0.0/33` is not a network"],
    );
    bad(&with("assertion: { header: 'a b' }"), &["assertion.header"]);
    bad(&with("assertion: { header: Host }"), &["assertion.header"]);
}

#[test]
fn bad_urls_are_explained_and_never_show_a_password() {
    for (url, part) in [
        ("unix:", "needs the path"),
        ("unix://app.sock", "needs the path"),
        ("grpc://app:1", "write it as `http://host:port`"),
        ("https://app:1/path", "has a path"),
        ("h2c://app/x", "has a path"),
        ("app:3000", "write it as `http://host:port`"),
        ("http:app", "write it as `http://host:port`"),
        ("http://app:1/path", "has a path"),
        ("http://app:1/.", "has a path"),
        ("http://app:1?q", "has a path or query"),
        ("http://app:1#f", "has a path or query"),
        ("http://app:0", "port 0"),
        ("http://app:99999", "is not a URL"),
        ("http://", "is not a URL"),
    ] {
        bad(&format!("upstream: {{ url: '{url}' }}"), &["upstream.url", part]);
    }
    for text in [
        "upstream: { url: 'http://me:hunter2@app:1' }".to_owned(),
        "upstream: { url: 'http://me:hunter2@app:999999' }".to_owned(),
        with("public_url: 'https://me:hunter2@shop.test'"),
        with("issuers: [{ name: a, issuer: x, audiences: [y], jwks: { url: 'https://me:hunter2@id.test/keys' } }]"),
    ] {
        let message = from_env(&text, &[]).unwrap_err().to_string();
        assert!(!message.contains("hunter2"), "{message}");
    }
    for url in [
        "shop.example.com",
        "ftp://shop.test",
        "https://shop.test/app",
        "https://shop.test?x",
    ] {
        bad(&with(&format!("public_url: '{url}'")), &["public_url"]);
    }
}

#[test]
fn url_and_protocol_decide_the_http_version_of_an_upstream() {
    let upstream = |text: &str| good(&format!("upstream: {{ {text} }}")).upstream;
    for (text, origin, protocol) in [
        ("url: 'http://App'", "http://app:80", Protocol::Auto),
        ("url: 'https://app'", "https://app:443", Protocol::Auto),
        ("url: 'H2C://app:50051'", "http://app:50051", Protocol::Http2),
        ("url: 'http://app', protocol: http2", "http://app:80", Protocol::Http2),
        ("url: 'https://app', protocol: http1", "https://app:443", Protocol::Http1),
        ("url: 'unix:/run/app.sock'", "unix:/run/app.sock", Protocol::Auto),
    ] {
        let upstream = upstream(text);
        assert_eq!(
            (upstream.url.origin().as_str(), upstream.protocol),
            (origin, protocol),
            "{text}"
        );
    }
    bad(
        "upstream: { url: 'h2c://app', protocol: http1 }",
        &["upstream.protocol: `http1` contradicts"],
    );
    bad(
        "upstream: { url: 'https://app', tls: { cert: a.pem } }",
        &["upstream.tls.cert: needs `key`"],
    );
    bad(
        "upstream: { url: 'http://app', tls: { ca: a.pem } }",
        &["upstream.tls: is for an `https` URL"],
    );
    let both = "upstream: { url: 'h2c://app' }\nportals: { a: { upstream: 'http://a' }, b: { upstream: { url: 'http://b', protocol: http1 } } }";
    let portals = good(both).portals.unwrap();
    let protocols: Vec<_> = portals.iter().map(|p| p.upstream.as_ref().unwrap().protocol).collect();
    assert_eq!(
        protocols,
        [Protocol::Http2, Protocol::Http1],
        "what a portal leaves out is the top level's"
    );
}

#[test]
fn a_portal_takes_the_upstream_keys_that_it_leaves_out_from_the_top_level() {
    let portal = |base: &str, own: &str| {
        let text = format!("upstream: {{ {base} }}\nportals: {{ a: {{ upstream: {own} }} }}");
        good(&text).portals.unwrap().remove(0).upstream.unwrap()
    };
    let base = "url: 'https://app', tls: { ca: ca.pem }, connect_timeout: 3s, circuit: { failures: 9, pause: 9s }";
    for own in [
        "'https://b'",
        "{ url: 'https://b' }",
        "{ url: 'https://b', tls: null, circuit: null }",
    ] {
        let upstream = portal(base, own);
        assert_eq!(upstream.connect_timeout, Duration::from_secs(3), "{own}");
        assert_eq!(upstream.tls.ca.as_deref(), Some(Path::new("/etc/cedargate/ca.pem")), "{own}");
        assert_eq!(upstream.circuit.failures, 9, "{own}");
    }
    let upstream = portal(base, "{ url: 'https://b', tls: {}, circuit: { failures: 2 } }");
    assert_eq!(upstream.tls, UpstreamTls::default(), "a given mapping replaces the whole one");
    assert_eq!(upstream.circuit.pause.get(), Duration::from_millis(200));
    let upstream = portal(base, "'http://b'");
    assert_eq!(upstream.tls, UpstreamTls::default(), "the files are for an `https` URL");
    let upstream = portal("url: 'http://app', protocol: http1", "'h2c://b'");
    assert_eq!(upstream.protocol, Protocol::Http2, "the portal's own scheme says it");
}

#[test]
fn mistakes_of_the_top_level_upstream_are_not_repeated_for_portals() {
    let text = "upstream: { url: 'https://app', tls: { cert: a }, connect_timeout: 0s, strip_headers: ['a b'] }\n\
                portals: { a: { upstream: 'https://b' }, b: { upstream: { url: 'https://b', idle_timeout: 0s } } }";
    let errors = from_env(text, &[]).unwrap_err();
    let mut keys: Vec<&str> = errors.iter().map(|error| error.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "portals.b.upstream.idle_timeout",
            "upstream.connect_timeout",
            "upstream.strip_headers[0]",
            "upstream.tls.cert"
        ]
    );
}

#[test]
fn probes_of_the_app_have_a_url_or_an_address() {
    let probes = |probes: &str| format!("upstream: {{ url: 'http://127.0.0.1:3000', probes: {probes} }}\n");
    let config = good(&probes(
        "{ livez: { url: 'http://localhost:80/a/../health?x=1', headers: ['Host: a.test'] }, readyz: { url: 'https://[::1]:8443', timeout: 900ms }, startupz: { tcp: '[::1]:80' } }",
    ));
    let AppProbe { target, timeout } = config.app_probes.livez.unwrap();
    let ProbeTarget::Http { url, target, headers } = target else {
        panic!("{target:?}")
    };
    assert_eq!(
        (url.origin().as_str(), target.to_string().as_str()),
        ("http://localhost:80", "/health?x=1")
    );
    assert_eq!(
        (headers["host"].to_str().unwrap(), timeout),
        ("a.test", Duration::from_secs(1))
    );
    let ready = config.app_probes.readyz.unwrap();
    assert!(matches!(
        ready.target,
        ProbeTarget::Http {
            url: UpstreamUrl::Https(_),
            ..
        }
    ));
    assert_eq!(ready.timeout, Duration::from_millis(900));
    let started = config.app_probes.startupz.unwrap().target;
    assert!(
        matches!(&started, ProbeTarget::Tcp(at) if at.dialled() == "::1" && at.port == 80),
        "{started:?}"
    );
    assert!(good(MINIMAL).app_probes.livez.is_none());
    for (mistake, part) in [
        ("{}", "needs `url`"),
        ("{ url: 'http://a', tcp: 'a:1' }", "keep one"),
        ("{ grpc: 'a:1', tcp: 'a:1' }", "keep one"),
        ("{ grpc: 'a' }", "is not `host:port`"),
        ("{ grpc: 'a:1', service: 'a b' }", "not the name of a service"),
        ("{ tcp: 'a:1', service: a }", "is for `grpc`"),
        ("{ url: 'ftp://a' }", "cannot be asked"),
        ("{ url: 'http://a#b' }", "cannot be asked"),
        ("{ url: 'http://u:p@a' }", "user name or password"),
        ("{ url: '/healthz' }", "is not a URL"),
        ("{ tcp: '127.0.0.1' }", "is not `host:port`"),
        ("{ tcp: '3000' }", "is not `host:port`"),
        ("{ tcp: 'a:0' }", "is not `host:port`"),
        ("{ tcp: 'a:65536' }", "is not `host:port`"),
        ("{ tcp: 'http://a:1' }", "is not `host:port`"),
        ("{ tcp: 'a:1', headers: ['a: b'] }", "is for `url`"),
        ("{ url: 'http://a', headers: ['a'] }", "headers[0]"),
        (
            "{ url: 'http://a', headers: ['Authorization: x'] }",
            "`authorization` cannot be a header of a probe",
        ),
        ("{ url: 'http://a', timeout: 61s }", "the most is 1m"),
        ("{ url: 'http://a', timeout: 0s }", "too short"),
        ("{ ulr: 'http://a' }", "known are: url, tcp, grpc"),
    ] {
        bad(
            &probes(&format!("{{ readyz: {mistake} }}")),
            &["upstream.probes.readyz", part],
        );
    }
    bad(&probes("{ ready: { tcp: 'a:1' } }"), &["upstream.probes.ready"]);
    let portal = "portals: { a: { upstream: { url: 'http://b', probes: {} } }, b: { upstream: { url: 'http://b', exposure_check: null } } }";
    bad(
        &with(portal),
        &["portals.a.upstream.probes", "portals.b.upstream.exposure_check"],
    );
    let loaded = from_env(&with("portals: { a: { upstream: { url: 'http://b' } } }"), &[]).unwrap();
    assert!(loaded.effective.pointer("/portals/a/upstream/probes").is_none());
}

#[test]
fn the_exposure_check_is_on_and_can_be_turned_off() {
    let check = |check: &str| {
        good(&format!(
            "upstream: {{ url: 'http://127.0.0.1:3000', exposure_check: {check} }}"
        ))
        .exposure_check
    };
    let on = good(MINIMAL).exposure_check.unwrap();
    assert_eq!((on.interval, on.addresses.len()), (Duration::from_secs(60), 0));
    assert_eq!(check("null"), None);
    let given = check("{ interval: 1s, addresses: ['10.1.2.3', 'fd00::1', '::ffff:10.1.2.4'] }").unwrap();
    assert_eq!(
        given.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.1.2.3", "fd00::1", "10.1.2.4"]
    );
    for (mistake, part) in [
        ("{ interval: 500ms }", "too short"),
        ("{ addresses: ['127.0.0.1'] }", "where the app belongs"),
        ("{ addresses: ['0.0.0.0'] }", "where the app belongs"),
        ("{ addresses: ['10.1.2.3:80'] }", "not an IP address"),
        ("{ addresses: [shop] }", "not an IP address"),
        ("{ adresses: [] }", "did you mean `addresses`"),
    ] {
        let text = format!("upstream: {{ url: 'http://a', exposure_check: {mistake} }}");
        bad(&text, &["upstream.exposure_check", part]);
    }
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("relative"), "a-token-of-16-characters").unwrap();
    let tls = "{ cert: relative, key: relative, client_ca: relative }";
    let client = "client_id: gate, client_secret_file: relative";
    let text = format!(
        "public_url: https://shop.test\n\
         listen: {{ proxy: {{ tls: {tls} }}, decision: {{ tls: {tls}, auth: {{ tokens_file: relative }} }}, control: {{ address: 'unix:relative' }} }}\n\
         upstream: {{ url: 'https://app', token: exchange, exchange: {{ issuer: corp, {client} }}, tls: {{ ca: relative, cert: relative, key: relative }} }}\n\
         portals: {{ a: {{ upstream: {{ url: 'https://b', token: exchange, exchange: {{ issuer: corp, {client} }}, tls: {{ ca: relative, cert: relative, key: relative }} }} }}, b: {{ upstream: 'unix:relative' }} }}\n\
         policies: {{ dir: relative, schemas: relative, state_dir: relative }}\n\
         issuers: [{{ name: corp, issuer: 'https://id.test', audiences: [x], jwks: {{ file: relative }}, ca_file: relative, introspection: {{ {client} }} }}]\n\
         client_certificates: [{{ name: mesh, subject: dns, ca_file: relative }}]\n\
         sessions: {{ store: redis, key_file: relative, redis: {{ url: 'rediss://r', key_prefix: 'x:', password_file: relative, tls: {{ ca: relative, cert: relative, key: relative }} }} }}\n\
         login: {{ providers: {{ a: {{ issuer: corp, {client}, ca_file: relative }}, b: {{ issuer: corp, client_id: gate, client_key_file: relative }}, c: {{ users_file: relative }} }} }}\n\
         identity: {{ logo: relative }}\nassertion: {{ key_file: relative }}\naudit: {{ sink: {{ file: relative }}, chain: {{ key_file: relative }} }}\n"
    );
    let loaded = from_str(&text, folder.path(), std::iter::empty()).unwrap_or_else(|errors| panic!("{errors}"));
    let shown = format!("{:?}", loaded.config);
    assert!(!shown.contains("\"relative\""), "a path was not resolved: {shown}");
    assert_eq!(loaded.effective["policies"]["dir"], "relative", "printed as written");
    let bundle = "upstream: { url: 'http://app' }\n\
                  policies: { state_dir: relative, bundle: { url: 'https://f', keys: [relative], ca_file: relative, user: a, password_file: relative } }\n";
    let by_token = bundle.replace("user: a, password_file", "token_file");
    for text in [bundle, &by_token] {
        let loaded = from_str(text, folder.path(), std::iter::empty()).unwrap_or_else(|errors| panic!("{errors}"));
        let shown = format!("{:?}", loaded.config);
        assert!(!shown.contains("\"relative\""), "a path was not resolved: {shown}");
    }
    // a new key for a file joins the texts above
    let keys = schema::keys(&json_schema());
    let files = keys.iter().filter(|key| key.ends_with("_file") || key.ends_with(".file"));
    assert_eq!(files.count(), 19);
}

#[test]
fn the_published_schema_is_the_generated_one() {
    let published = include_str!("../../schemas/config.schema.json");
    assert!(
        format!("{:#}\n", json_schema()) == published,
        "run `cedargate config schema > schemas/config.schema.json`"
    );
}

#[test]
fn the_schema_carries_the_bounds_of_durations_and_sizes() {
    let schema = json_schema();
    let key = |section: &str, key: &str| schema["$defs"][section]["properties"][key].clone();
    assert_eq!(key("Policies", "poll")["x-minimum"], "100ms");
    assert_eq!(key("Assertion", "ttl")["x-maximum"], "1h");
    assert_eq!(key("Limits", "header_bytes")["x-minimum"], 8192);
    assert_eq!(key("Limits", "drain_delay").get("x-minimum"), None);
}

#[test]
fn listeners_take_tls_files_and_a_control_socket() {
    let tls = "cert: tls.pem, key: tls.key, client_ca: ca.pem";
    let config = good(&with(&format!(
        "trusted_proxies: [10.0.0.0/8]\nlisten: {{ proxy: {{ tls: {{ {tls} }}, proxy_protocol: true }}, decision: {{ address: '0.0.0.0:1', tls: {{ {tls} }} }}, control: {{ address: 'unix:c.sock' }} }}"
    )));
    assert_eq!(config.listen.proxy.proxy_protocol, ProxyProtocol::Required);
    assert_eq!(
        config.listen.proxy.tls.unwrap().client_ca.unwrap(),
        Path::new("/etc/cedargate/ca.pem")
    );
    assert!(
        config.listen.decision.unwrap().tokens.is_empty(),
        "a client's certificate is enough off loopback"
    );
    assert_eq!(config.listen.control.unwrap(), Path::new("/etc/cedargate/c.sock"));
    bad(
        &with("listen: { decision: { address: '0.0.0.0:1', tls: { cert: a, key: b } } }"),
        &["listen.decision.auth.tokens_file", "a token or a certificate"],
    );
    bad(
        &with("listen: { proxy: { proxy_protocol: true } }"),
        &["listen.proxy.proxy_protocol: is believed only from `trusted_proxies`"],
    );
    bad(
        &with("listen: { decision: { address: 'unix:/d.sock', tls: { cert: a, key: b } } }"),
        &["listen.decision.tls: is for TCP"],
    );
    bad(
        &with("listen: { proxy: { tls: { cert: a } } }"),
        &["listen.proxy.tls.key: this key is required"],
    );
    bad(
        &with("listen: { control: { address: '127.0.0.1:1' } }"),
        &["is a Unix socket only"],
    );
}

#[test]
fn rates_have_a_time_and_a_burst() {
    let config = good(&with(
        "limits: { rate_per_address: { requests: 10 }, rate_per_principal: { requests: 1, per: 1m, burst: 5 } }",
    ));
    let numbers = |rate: Option<RateLimit>| {
        rate.map(|rate| rate.rate())
            .map(|r| (r.requests.get(), r.per.as_secs(), r.burst.get()))
    };
    assert_eq!(numbers(config.limits.rate_per_address), Some((10, 1, 10)));
    assert_eq!(numbers(config.limits.rate_per_principal), Some((1, 60, 5)));
    bad(
        &with("limits: { rate_per_address: { requests: 0 } }"),
        &["limits.rate_per_address.requests"],
    );
    bad(
        &with("limits: { rate_per_address: { per: 1s } }"),
        &["limits.rate_per_address.requests: this key is required"],
    );
    bad(
        &with("limits: { rate_per_address: { requests: 1, per: 2h } }"),
        &["limits.rate_per_address.per: `2h` is too long"],
    );
}

#[test]
fn unsafe_issuers_are_refused() {
    let issuer = |more: &str| {
        with(&format!(
            "issuers:\n  - {{ name: corp, issuer: 'https://id.test', {more} }}\n"
        ))
    };
    bad(&issuer("audiences: []"), &["issuers[0].audiences: is empty"]);
    bad(&issuer("audiences: ['']"), &["issuers[0].audiences[0]"]);
    let issuer = |more: &str| issuer(&format!("audiences: [x], {more}"));
    bad(
        &issuer("algorithms: [HS256]"),
        &["issuers[0].algorithms[0]: `HS256` is symmetric"],
    );
    bad(&issuer("algorithms: [none]"), &["unsigned"]);
    bad(&issuer("algorithms: [rs256]"), &["did you mean `RS256`?"]);
    bad(&issuer("algorithms: []"), &["issuers[0].algorithms: is empty"]);
    bad(
        &issuer("leeway: 6m"),
        &["issuers[0].leeway: `6m` is too long; the most is 5m"],
    );
    bad(&issuer("principal: 'not a type'"), &["issuers[0].principal"]);
    bad(&issuer("claims: { subject: '' }"), &["issuers[0].claims.subject"]);
    bad(&issuer("jwks: { url: null }"), &["exactly one"]);
    bad(&issuer("jwks: { url: 7 }"), &["issuers[0].jwks.url: expected a string"]);
    bad(
        &issuer("jwks: {}"),
        &["issuers[0].jwks: needs exactly one of `url` and `file`"],
    );
    bad(&issuer("jwks: { url: 'https://a.test', file: b }"), &["exactly one"]);
    bad(
        &issuer("jwks: { url: 'http://keys.test/jwks' }"),
        &["issuers[0].jwks.url", "danger_insecure_jwks"],
    );
    bad(&issuer("jwks: { url: 'file:///etc/keys' }"), &["issuers[0].jwks.url"]);
    good(&issuer("jwks: { url: 'http://keys.test/jwks' }, danger_insecure_jwks: true"));
    good(&issuer("jwks: { url: 'http://127.0.0.1:9/jwks' }"));
    good(&issuer("jwks: { url: 'http://localhost:9/jwks' }"));
    bad(
        &with("issuers: [{ name: a, issuer: 'http://id.test', audiences: [x] }]"),
        &["issuers[0].issuer"],
    );
    bad(
        &with("issuers: [{ name: Corp, issuer: 'https://id.test', audiences: [x] }]"),
        &["issuers[0].name"],
    );
    let twice = "issuers:\n  - { name: a, issuer: 'https://id.test', audiences: [x] }\n  - { name: a, issuer: 'https://id.test', audiences: [y] }\n";
    bad(
        &with(twice),
        &["issuers[1].name: another issuer", "issuers[1].issuer: another issuer"],
    );
}

#[test]
fn role_claims_are_a_path_a_mapping_or_a_list() {
    let claims = |roles: &str| {
        with(&format!(
            "issuers:\n  - {{ name: corp, issuer: 'https://id.test', audiences: [x], claims: {{ roles: {roles} }} }}\n"
        ))
    };
    let paths = |text: &str| -> Vec<String> {
        let config = good(&claims(text));
        let roles = &config.issuers[0].scope.claims.roles;
        roles.iter().map(|claim| format!("{} {:?}", claim.path, claim.form)).collect()
    };
    assert_eq!(paths("a.b"), ["a.b Values"]);
    assert_eq!(paths("{ claim: a, take: keys }"), ["a Keys"]);
    assert_eq!(paths("{ claim: a, split: ' ' }"), ["a Split(\" \")"]);
    assert_eq!(
        paths("[a, '\"b.c\".d', { claim: e }]"),
        ["a Values", "\"b.c\".d Values", "e Values"]
    );
    for (wrong, parts) in [
        ("''", vec!["issuers[0].claims.roles: is empty"]),
        ("'\"a'", vec!["issuers[0].claims.roles: `\"a` has a quote without its end"]),
        ("[a, '\"b\"c']", vec!["issuers[0].claims.roles[1]: `\"b\"c` has text after"]),
        ("{ take: keys }", vec!["issuers[0].claims.roles.claim: this key is required"]),
        ("{ claim: a, take: key }", vec!["issuers[0].claims.roles.take", "keys"]),
        (
            "{ claim: a, take: keys, split: ',' }",
            vec!["issuers[0].claims.roles.split: has no meaning"],
        ),
        ("{ claim: a, split: '' }", vec!["issuers[0].claims.roles.split: is empty"]),
        (
            "{ claim: a, spilt: ',' }",
            vec!["issuers[0].claims.roles.spilt", "did you mean `split`?"],
        ),
        ("7", vec!["issuers[0].claims.roles: expected"]),
    ] {
        bad(&claims(wrong), &parts);
    }
    let env = from_env(
        &with(ISSUER),
        &[("CEDARGATE_ISSUERS__0__CLAIMS__ROLES", "realm_access.roles")],
    )
    .unwrap();
    assert_eq!(
        env.config.issuers[0].scope.claims.roles[0].path.as_str(),
        "realm_access.roles"
    );
}

#[test]
fn issuers_of_one_portal_whose_subjects_could_be_the_same_are_refused() {
    let two = |one: &str, other: &str, more: &str| {
        with(&format!(
            "issuers:\n  - {{ name: a, issuer: 'https://a.test', audiences: [x]{one} }}\n  - {{ name: b, issuer: 'https://b.test', audiences: [x]{other} }}\n{more}"
        ))
    };
    let none = ", subject_prefix: ''";
    good(&two(none, "", ""));
    good(&two("", "", ""));
    bad(
        &two(none, none, ""),
        &["issuers[1].subject_prefix: the subjects of `a` and `b`"],
    );
    bad(&two(", subject_prefix: 'B|'", "", ""), &["issuers[1].subject_prefix"]);
    bad(
        &two(none, ", subject_prefix: '', principal: Service", ""),
        &["issuers[1].subject_prefix"],
    );
    good(&two(none, none, "portals: { p: { issuers: [a] }, q: { issuers: [b] } }\n"));
    bad(
        &two(none, none, "portals: { p: { issuers: [a] }, q: {} }\n"),
        &["issuers[1].subject_prefix"],
    );
    let accounts = "public_url: 'https://shop.test'\nlogin: { providers: { staff: { users_file: u.yaml } } }\n";
    bad(
        &two(", subject_prefix: 'staff|'", "", accounts),
        &["subject_prefix", "`staff`"],
    );
}

#[test]
fn ambiguous_portals_are_refused() {
    let portal = |more: &str| with(&format!("{ISSUER}portals: {{ shop: {{ {more} }} }}"));
    for (host, part) in [
        ("shop.test:80", "has a port"),
        ("*shop.test", "inside a label"),
        ("https://shop.test", "without scheme"),
        ("shop..test", "is not a host name"),
        ("", "is not a host name"),
        ("bücher.test", "punycode"),
    ] {
        bad(
            &portal(&format!("match: {{ hosts: ['{host}'] }}")),
            &["portals.shop.match.hosts[0]", part],
        );
    }
    for prefix in [
        "shop", "/a//b", "/a/../b", "/a/./b", "/a%20b", "/a b", "/a;b", "//", "", "/a?b", "/ü",
    ] {
        bad(
            &portal(&format!("match: {{ path_prefix: '{prefix}' }}")),
            &["portals.shop.match.path_prefix", "canonical"],
        );
    }
    for prefix in ["/api/v1/identity", "/api/v1/identity/x", "/.well-known/cedargate/y"] {
        bad(&portal(&format!("match: {{ path_prefix: '{prefix}' }}")), &["lies under"]);
    }
    good(&portal("match: { path_prefix: /api/v1/identity2 }"));
    bad(
        &portal("issuers: [crop]"),
        &["portals.shop.issuers[0]: there is no issuer `crop`; did you mean `corp`?"],
    );
    bad(
        &portal("tenant: claims"),
        &["portals.shop.tenant: unknown value `claims`; did you mean `claim`?"],
    );
    bad(&portal("tenant: { fixd: a }"), &["portals.shop.tenant.fixd"]);
    bad(&portal("tenant: {}"), &["portals.shop.tenant.fixed: this key is required"]);
    bad(
        &portal("upstream: 'ftp://x'"),
        &["portals.shop.upstream: write it as `http://host:port`"],
    );
    bad(
        &with("portals: { Shop_1: {} }"),
        &["portals.Shop_1: `Shop_1` is not a portal's slug"],
    );
    bad(&with("portals: {}"), &["portals: is empty"]);
    bad(
        &with("portals: { a: {} }\npolicies: { require: [b] }"),
        &["policies.require[0]: there is no portal `b`"],
    );
    bad(&with("identity: { prefix: / }"), &["identity.prefix"]);
}

#[test]
fn ties_between_portals_are_start_errors() {
    let two = |a: &str, b: &str| {
        with(&format!(
            "portals:\n  a: {{ match: {{ hosts: [{a}], path_prefix: /x }} }}\n  b: {{ match: {{ hosts: [{b}], path_prefix: /x }} }}\n"
        ))
    };
    bad(&two("", ""), &["portals.b.match: portal `a` matches any host at `/x`"]);
    bad(&two("'s.test'", "'S.test.'"), &["portal `a` matches `s.test`"]);
    bad(&two("'*.a.test'", "'s.*.test'"), &["neither would win"]);
    good(&two("'s.test'", "'*.test'"));
    good(&two("'s.test'", ""));
    good(&two("'s.test'", "'t.test'"));
}

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

#[test]
fn secrets_come_in_place_or_by_file_and_never_print() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokens"), "# first\n\nfile-secret-0123456789\n").unwrap();
    let path = folder.path().join("cedargate.yaml");
    std::fs::write(
        &path,
        with("listen: { decision: { address: '0.0.0.0:8901', auth: { tokens_file: tokens } } }"),
    )
    .unwrap();
    let loaded = load(&path, std::iter::empty()).unwrap_or_else(|errors| panic!("{errors}"));
    let tokens = &loaded.config.listen.decision.as_ref().unwrap().tokens;
    assert_eq!(tokens[0].expose(), "file-secret-0123456789");
    assert_eq!(loaded.watched, [path, folder.path().join("tokens")]);

    let inline = with("listen: { decision: { auth: { tokens: [inline-secret-0123456789] } } }");
    let inline = from_env(&inline, &[]).unwrap_or_else(|errors| panic!("{errors}"));
    for loaded in [loaded, inline] {
        let shown = format!(
            "{loaded:?}{}{}",
            print(&loaded, PrintFormat::Human),
            print(&loaded, PrintFormat::Json)
        );
        assert!(!shown.contains("secret-0123456789"), "{shown}");
        assert!(shown.contains("[redacted]"), "{shown}");
    }
}

#[test]
fn a_misspelt_store_causes_no_further_errors() {
    let yaml = with("sessions: { store: reddis, redis: { url: 'redis://r:6379', key_prefix: 'cedargate:shop:' } }\n");
    assert_eq!(Config::from_yaml(&yaml).unwrap_err().len(), 1);
    bad(&yaml, &["sessions.store: unknown value `reddis`; did you mean `redis`?"]);
}

#[test]
fn a_misspelt_provider_key_and_the_missing_issuer_are_both_reported() {
    let yaml = with("public_url: 'https://shop.test'\nlogin: { providers: { staff: { user_file: u.yaml } } }\n");
    let errors = Config::from_yaml(&yaml).unwrap_err();
    assert_eq!(errors.iter().count(), 2, "{errors}");
    bad(
        &yaml,
        &[
            "login.providers.staff.user_file: unknown key; did you mean `users_file`?",
            "login.providers.staff.issuer: is missing: name one of `issuers`, or set `users_file`",
        ],
    );
}

#[test]
fn accounts_of_a_configured_issuer_need_one_with_the_default_claims() {
    let login = |issuer: &str, provider: &str| {
        with(&format!(
            "public_url: 'https://shop.test'\nissuers: [{{ name: corp, issuer: 'https://id.test/', audiences: [a] {issuer} }}]\n\
             login: {{ {provider} }}\n"
        ))
    };
    let config = good(&login("", "providers: { staff: { users_file: u.yaml, issuer: corp } }"));
    assert_eq!(config.issuers.len(), 1, "the file is no issuer of its own");
    bad(
        &login("", "providers: { staff: { users_file: u.yaml, issuer: crop } }"),
        &["login.providers.staff.issuer: there is no issuer `crop`; did you mean `corp`?"],
    );
    bad(
        &login(
            ", claims: { roles: realm_access.roles }",
            "providers: { staff: { users_file: u.yaml, issuer: corp } }",
        ),
        &["login.providers.staff.issuer: `corp` maps claims (issuers[0].claims)"],
    );
    bad(
        &login("", "providers: { corp: { users_file: u.yaml } }"),
        &["login.providers.corp: an issuer is called `corp`, too", "`issuer: corp`"],
    );
}

#[test]
fn the_default_login_is_one_of_the_providers_and_trusted_by_the_portal() {
    let login = |default: &str| {
        with(&format!(
            "public_url: 'https://shop.test'\n{ISSUER}login: {{ default: {default}, providers: {{ staff: {{ users_file: u.yaml }} }} }}\n\
             portals: {{ shop: {{}}, api: {{ issuers: [corp] }} }}\n"
        ))
    };
    bad(
        &login("stuff"),
        &["login.default: there is no provider `stuff`; did you mean `staff`?"],
    );
    let config = good(&login("staff"));
    let of = |slug: &str| {
        let portal = config
            .portals
            .iter()
            .flatten()
            .find(|portal| portal.slug.as_str() == slug)
            .unwrap();
        config.login.default_of(portal).map(|provider| provider.name.to_string())
    };
    assert_eq!(of("shop").as_deref(), Some("staff"));
    assert_eq!(of("api"), None, "it does not trust the accounts");
}

#[test]
fn a_bad_scope_is_reported_at_its_own_place_in_the_list() {
    let provider = "issuer: corp, client_id: gate, client_secret: x, scopes: [email, 'a b']";
    let yaml = with(&format!(
        "public_url: 'https://shop.test'\n{ISSUER}login: {{ providers: {{ corp: {{ {provider} }} }} }}\n"
    ));
    bad(&yaml, &["login.providers.corp.scopes[1]: `a b` is not a valid scope"]);
}

#[test]
fn mistakes_in_how_a_provider_is_reached_and_asked_name_their_key() {
    let yaml = |keys: &str| {
        with(&format!(
            "public_url: 'https://shop.test'\n{ISSUER}login: {{ providers: {{ corp: {{ issuer: corp, client_id: gate, client_secret: x, {keys} }} }} }}\n"
        ))
    };
    for (keys, part) in [
        (
            "authorization_params: { state: x }",
            "authorization_params.state: the gate sets `state` itself",
        ),
        (
            "authorization_params: { redirect_uri: x }",
            "the gate sets `redirect_uri` itself",
        ),
        (
            "authorization_params: { request_uri: x }",
            "the gate sets `request_uri` itself",
        ),
        (
            "authorization_params: { scope: x }",
            "list the scopes in `login.providers.corp.scopes`",
        ),
        (
            "authorization_params: { response_mode: fragment }",
            "`fragment` does not reach the gate",
        ),
        ("authorization_params: { 'a b': x }", "`a b` is not a parameter name"),
        ("authorization_params: { prompt: \"a\\nb\" }", "holds a control character"),
        ("discovery_url: 'http://keycloak:8080/x'", "discovery_url: must be `https://`"),
        (
            "endpoints: { token: 'http://keycloak:8080/t' }",
            "endpoints.token: must be `https://`",
        ),
        (
            "endpoints: { userinfo: 'https://id.test/u#x' }",
            "endpoints.userinfo: must be `https://` without a fragment",
        ),
        ("endpoints: { tokens: 'https://id.test/t' }", "did you mean `token`?"),
        (
            "proxy: 'socks5://proxy:1080'",
            "proxy: `socks5://proxy:1080` is not an HTTP proxy",
        ),
        ("proxy: 'http://user:pw@proxy:3128'", "has a user name or password in it"),
        ("proxy: 'http://proxy:3128/path'", "is not an HTTP proxy"),
        ("claims_from: saml", "claims_from"),
        (
            "users_file: u, pass_access_token: true",
            "pass_access_token: has no effect beside `users_file`",
        ),
        (
            "users_file: u, claims_from: userinfo",
            "claims_from: has no effect beside `users_file`",
        ),
    ] {
        bad(&yaml(keys), &[part]);
    }
    for keys in [
        "danger_insecure_endpoints: true, discovery_url: 'http://keycloak:8080/x', endpoints: { token: 'http://keycloak:8080/t' }",
        "proxy: 'https://proxy.test:3128', ca_file: ca.pem, claims_from: access_token",
        "endpoints: { authorization: 'https://id.test/a', token: 'http://127.0.0.1:1/t' }",
        "authorization_params: { response_mode: form_post, prompt: login, acr_values: '2' }, persistent: true",
    ] {
        good(&yaml(keys));
    }
    // names of parameters are no slugs: an underscore stays one
    let name = "CEDARGATE_LOGIN__PROVIDERS__CORP__AUTHORIZATION_PARAMS__ACCESS_TYPE";
    let loaded = from_env(&yaml("title: x"), &[(name, "offline")]).unwrap();
    let ProviderKind::Oidc(client) = &loaded.config.login.providers[0].kind else {
        panic!("not an OIDC provider");
    };
    assert_eq!(client.authorization_params["access_type"], "offline");
}

#[test]
fn secrets_lose_a_byte_order_mark_and_white_space_and_a_mark_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "\u{feff}s3cret\r\n").unwrap();
    let text = with(&format!(
        "public_url: 'https://shop.test'\n{ISSUER}login: {{ providers: {{ corp: {{ issuer: corp, client_id: gate, client_secret_file: secret }}, \
         inline: {{ issuer: corp, client_id: gate, client_secret: \"s3cret\\n\" }} }} }}\n"
    ));
    let config = from_str(&text, folder.path(), std::iter::empty()).unwrap().config;
    let warnings = config.warnings();
    assert!(
        warnings
            .iter()
            .any(|one| one.contains("login.providers.corp.client_secret_file") && one.contains("byte order mark")),
        "{warnings:?}"
    );
    assert!(warnings.iter().all(|one| !one.contains("s3cret")));
    let ProviderKind::Oidc(client) = &config.login.providers[1].kind else {
        panic!("not an OIDC provider");
    };
    let ClientAuth::SecretBasic(Secret::Value(secret)) = &client.auth else {
        panic!("another kind of client authentication");
    };
    assert_eq!(secret.expose(), "s3cret");
}

#[test]
fn a_login_over_plain_http_is_refused_where_browsers_drop_its_cookie() {
    let login = |url: &str| {
        with(&format!(
            "public_url: '{url}'\nlogin: {{ providers: {{ staff: {{ users_file: u.yaml }} }} }}\n"
        ))
    };
    bad(&login("http://shop.example.com"), &["public_url", "https://"]);
    good(&login("https://shop.example.com"));
    good(&login("http://localhost:8900"));
    good(&with("public_url: http://shop.example.com\n"));
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

#[test]
fn files_that_the_gate_reads_again_need_no_restart() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        "secret",
        "redis",
        "key",
        "users.yaml",
        "keys",
        "ring.pem",
        "jwks.json",
        "tls.pem",
    ];
    for file in files {
        std::fs::write(folder.path().join(file), "x").unwrap();
    }
    let path = folder.path().join("cedargate.yaml");
    let text = with(
        "public_url: https://shop.test\n\
         listen: { proxy: { tls: { cert: tls.pem, key: tls.pem } } }\n\
         assertion: { key_file: ring.pem }\n\
         issuers:\n  - { name: corp, issuer: 'https://id.test/', audiences: [a], jwks: { file: jwks.json },\n\
         \x20     introspection: { client_id: gate, client_secret_file: secret } }\n\
         login:\n  providers:\n    staff: { users_file: users.yaml }\n    corp: { issuer: corp, client_id: gate, client_secret_file: secret }\n\
         \x20   other: { issuer: corp, client_id: gate, client_key_file: key }\n\
         sessions:\n  store: redis\n  key_file: keys\n  redis: { url: 'rediss://r:6379', key_prefix: 'x:', username: gate, password_file: redis, tls: { ca: tls.pem } }\n",
    );
    std::fs::write(&path, text).unwrap();
    let loaded = load(&path, std::iter::empty()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.watched, [path]);
}

#[test]
fn bad_secrets_are_errors_that_do_not_show_them() {
    let auth = |auth: &str| with(&format!("listen: {{ decision: {{ auth: {{ {auth} }} }} }}"));
    for text in [
        auth("tokens: [hunter2]"),
        auth("tokens: hunter2"),
        auth("tokens: ['hunter2 hunter2 hunter2']"),
        auth("tokens: [hunter2-0123456789abc], tokens_file: nowhere"),
        auth("tokens: [{ hunter2: hunter2 }]"),
    ] {
        let message = from_env(&text, &[]).unwrap_err().to_string();
        assert!(!message.contains("hunter2"), "{message}");
        assert!(message.contains("listen.decision.auth.tokens"), "{message}");
    }
    bad(&auth("tokens: []"), &["is empty"]);
    bad(
        &auth("tokens_file: nowhere"),
        &["listen.decision.auth.tokens_file: cannot read `/etc/cedargate/nowhere`"],
    );
    let folder = tempfile::tempdir().unwrap();
    for (content, part) in [
        ("", "holds no token"),
        ("# a\n", "holds no token"),
        ("long-enough-0123456789\nhunter2\n", "line 2"),
    ] {
        let path = folder.path().join("t");
        std::fs::write(&path, content).unwrap();
        let message = secret::read_tokens(&path).unwrap_err();
        assert!(message.contains(part) && !message.contains("hunter2"), "{message}");
    }
}

#[test]
fn a_decision_listener_off_loopback_needs_tokens() {
    for address in ["0.0.0.0:8901", "10.0.0.1:8901", "[::]:8901"] {
        bad(
            &with(&format!("listen: {{ decision: {{ address: '{address}' }} }}")),
            &["listen.decision.auth.tokens_file", "must present a token"],
        );
    }
    bad(
        &with("listen: { decision: { address: '0.0.0.0:8901', auth: { tokens: null, tokens_file: null } } }"),
        &["must present a token"],
    );
    for address in ["127.0.0.2:8901", "[::1]:8901", "unix:/run/x.sock"] {
        good(&with(&format!("listen: {{ decision: {{ address: '{address}' }} }}")));
    }
}

#[test]
fn an_unreadable_file_is_named() {
    let error = load(Path::new("/nowhere/cedargate.yaml"), std::iter::empty()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("cannot read the configuration file `/nowhere/cedargate.yaml`"),
        "{error}"
    );
}

#[test]
fn the_effective_configuration_loads_to_itself() {
    let first = from_env(&with(&format!("{ISSUER}portals: {{ a: {{ tenant: {{ fixed: t }} }} }}")), &[]).unwrap();
    let second = from_env(&first.effective.to_string(), &[]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(first.effective, second.effective);
    assert!(print(&first, PrintFormat::Human).contains("limits.batch = 200  # default"));
}

#[test]
fn every_key_is_documented() {
    let docs = include_str!("../../docs/configuration.md");
    for key in schema::keys(&json_schema()) {
        assert!(docs.contains(&format!("`{key}`")), "docs/configuration.md lacks `{key}`");
    }
}

#[test]
fn every_key_has_a_description_in_the_schema() {
    fn visit(value: &Value) {
        let properties = value.get("properties").and_then(Value::as_object);
        for (key, schema) in properties.into_iter().flatten() {
            assert!(
                schema.get("description").is_some() || key == "fixed" || key == "file",
                "{key} lacks a description"
            );
        }
        for below in value
            .as_object()
            .into_iter()
            .flatten()
            .map(|(_, below)| below)
            .filter(|below| below.is_object())
        {
            visit(below);
        }
    }
    visit(&json_schema());
}

/// Fragments that are close enough to a configuration to reach every check.
fn yamlish() -> impl Strategy<Value = String> {
    let scalars = prop_oneof![
        Just("null".to_owned()),
        Just("''".to_owned()),
        Just("'[::1'".to_owned()),
        Just("'http://[::1'".to_owned()),
        Just("'unix:é'".to_owned()),
        Just("'httpé://x'".to_owned()),
        Just("-1".to_owned()),
        Just("1e400".to_owned()),
        Just("99999999999999999999999".to_owned()),
        "'[a-z/:*.@%é]{0,12}'".prop_map(|text| text),
    ];
    scalars.prop_recursive(4, 32, 4, |inner| {
        let keys = schema::keys(&json_schema());
        let names: Vec<String> = keys
            .iter()
            .filter_map(|key| key.rsplit('.').next())
            .map(|key| key.replace(['[', ']'], ""))
            .collect();
        let key = prop_oneof![
            proptest::sample::select(names),
            "[a-z<>]{1,4}".prop_map(|key| format!("'{key}'"))
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::vec((key, inner), 0..5).prop_map(|entries| format!(
                "{{{}}}",
                entries
                    .iter()
                    .map(|(key, value)| format!("{key}: {value}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_gives_values_or_messages(text in "\\PC{0,200}") {
        if let Err(errors) = from_env(&text, &[]) {
            prop_assert!(!errors.is_empty());
        }
    }

    #[test]
    fn any_yaml_gives_values_or_messages(text in yamlish(), name in "(LISTEN|ISSUERS|PORTALS|UPSTREAM|LIMITS)(__[A-Z0-9_]{0,8}){0,3}", value in "\\PC{0,20}") {
        let name = format!("CEDARGATE_{name}");
        if let Err(errors) = from_env(&text, &[(&name, &value)]) {
            prop_assert!(!errors.is_empty());
        }
    }

    #[test]
    fn any_value_at_any_key_gives_values_or_messages(at in any::<prop::sample::Index>(), value in yamlish()) {
        let keys: Vec<String> = schema::keys(&json_schema());
        let name = keys[at.index(keys.len())].replace("[]", "__0").replace("<slug>", "a").replace('.', "__").to_uppercase();
        let name = format!("CEDARGATE_{name}");
        if let Err(errors) = from_env(&with(ISSUER), &[(&name, value.trim_matches('\''))]) {
            prop_assert!(!errors.is_empty());
        }
    }
}
