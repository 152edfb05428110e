//! Tests of the configuration as a whole: a text and an environment in, values or messages out.

mod any_text;
mod bundle;
mod environment;
mod issuers;
mod keys;
mod listen;
mod login;
mod secrets;
mod sessions;
mod upstream;

use std::path::Path;
use std::time::Duration;

use cedargate_policy::scope::TenantSource;

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
    assert!(effective_lines(&first).contains("limits.batch = 200  # default"));
}
