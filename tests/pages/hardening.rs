//! `cedargate validate --hardening`: a configuration without a finding, and for each rule a change that is found and
//! placed.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{read, report};

/// A configuration that has no finding. Each line can be replaced by a case.
const CONFIG: &str = "\
public_url: https://shop.example.com
trusted_proxies: [192.0.2.0/28]
upstream: { url: 'http://127.0.0.1:3000' }
listen:
  proxy: { address: '0.0.0.0:8900' }
  admin: { address: '127.0.0.1:8903' }
  decision: { address: '127.0.0.1:8901' }
  control: { address: 'unix:run/control.sock' }
policies: { require: [shop], state_dir: state }
issuers:
  - { name: corp, issuer: 'https://id.example.com/', audiences: [orders], tenants: [acme], jwks: { file: jwks.json } }
login: { providers: { corp: { issuer: corp, client_id: gate, client_secret_file: client-secret } } }
sessions: { store: redis, key_file: session-keys, redis: { url: 'rediss://redis.example.com', key_prefix: 'cedargate:a:', password_file: redis-password } }
assertion: { key_file: assertion.pem }
audit: { on_full: deny }
limits: { rate_per_address: { requests: 100 }, body_bytes: 10MiB }
";
const SCHEMA: &str = "entity Tenant; entity Role; entity User in [Role, Tenant]; entity Portal; entity Path in [Path, Portal];
    action GET appliesTo { principal: [User], resource: [Path], context: {} };";
const SHARED: &str = "@id(\"apart\") forbid (principal, action, resource) unless { principal in Tenant::\"acme\" };";
const POLICY: &str = "@id(\"read\")\npermit (principal in Role::\"viewer\", action, resource);\n";
const TESTS: &str = "principals: { a: { id: a, tenant: acme, roles: [viewer] } }
cases: [{ name: viewers read, principal: a, action: GET, resource: { type: Path, id: /portal/shop }, expect: allow }]\n";

/// A change of one file, and the finding that it must cause: rule, and the start of its message or the file it names.
struct Case {
    file: &'static str,
    from: &'static str,
    to: &'static str,
    rule: &'static str,
    says: &'static str,
}

const fn case(rule: &'static str, from: &'static str, to: &'static str, says: &'static str) -> Case {
    Case {
        file: "cedargate.yaml",
        from,
        to,
        rule,
        says,
    }
}

const fn case_in(file: &'static str, rule: &'static str, from: &'static str, to: &'static str, says: &'static str) -> Case {
    Case {
        file,
        from,
        to,
        rule,
        says,
    }
}

const PORTAL: &str = "policies/shop/portal.yaml";
const CASES: &[Case] = &[
    case(
        "danger-key",
        "tenants: [acme]",
        "tenants: [acme], danger_ignore_overage: true",
        "issuers[0].danger_ignore_overage: ",
    ),
    case_in(
        PORTAL,
        "danger-key",
        "title: Shop",
        "danger_skip_errors: true",
        "danger_skip_errors: ",
    ),
    case(
        "proxy-plain-text",
        "trusted_proxies: [192.0.2.0/28]",
        "trusted_proxies: []",
        "listen.proxy: ",
    ),
    case(
        "admin-exposed",
        "'127.0.0.1:8903'",
        "'0.0.0.0:8903'",
        "listen.admin.address: ",
    ),
    case(
        "decision-plain-text",
        "'127.0.0.1:8901' }",
        "'0.0.0.0:8901', auth: { tokens_file: tokens } }",
        "listen.decision: ",
    ),
    case("trusted-proxies-wide", "192.0.2.0/28", "10.0.0.0/8", "trusted_proxies[0]: "),
    case(
        "trusted-proxies-wide",
        "192.0.2.0/28",
        "'2001:db8::/32'",
        "trusted_proxies[0]: ",
    ),
    case("control-folder-open", "unix:run/", "unix:open/", "listen.control.address: "),
    case("no-address-limit", "rate_per_address: { requests: 100 }, ", "", "limits: "),
    case("body-unlimited", ", body_bytes: 10MiB", "", "limits.body_bytes: "),
    case(
        "leeway-wide",
        "tenants: [acme]",
        "tenants: [acme], leeway: 61s",
        "issuers[0].leeway: ",
    ),
    case("audiences-many", "[orders]", "[orders, others]", "issuers[0].audiences: "),
    case(
        "issuer-unbounded",
        "tenants: [acme], jwks: { file: jwks.json } }",
        "jwks: { file: jwks.json } }\n  - { name: b, issuer: 'https://b.example.com', audiences: [x], tenants: [b] }",
        "issuers[0].tenants: ",
    ),
    case(
        "keys-kept-long",
        "file: jwks.json",
        "file: jwks.json, max_age: 25h",
        "issuers[0].jwks.max_age: ",
    ),
    case(
        "token-forwarded",
        ":3000'",
        ":3000', forward_authorization: true",
        "upstream.forward_authorization: ",
    ),
    case(
        "token-forwarded",
        "client_id: gate",
        "client_id: gate, pass_access_token: true",
        "login.providers.corp.pass_access_token: ",
    ),
    case(
        "assertion-ephemeral",
        "assertion: { key_file: assertion.pem }",
        "assertion: {}",
        "assertion.key_file: ",
    ),
    case(
        "assertion-long",
        "{ key_file: assertion.pem",
        "{ ttl: 6m, key_file: assertion.pem",
        "assertion.ttl: ",
    ),
    case(
        "session-memory",
        "store: redis, key_file: session-keys, redis: { url: 'rediss://redis.example.com', key_prefix: 'cedargate:a:', password_file: redis-password }",
        "store: memory",
        "sessions.store: ",
    ),
    case(
        "session-long",
        "sessions: { store",
        "sessions: { absolute_timeout: 25h, store",
        "sessions.absolute_timeout: ",
    ),
    case(
        "session-long",
        "sessions: { store",
        "sessions: { idle_timeout: 9h, store",
        "sessions.idle_timeout: ",
    ),
    case(
        "staleness-long",
        "sessions: { store",
        "sessions: { staleness_max: 6s, store",
        "sessions.staleness_max: ",
    ),
    case("redis-plain-text", "rediss://", "redis://", "sessions.redis.url: "),
    case("redis-no-password", ", password_file: redis-password", "", "sessions.redis: "),
    case(
        "secret-inline",
        "client_secret_file: client-secret",
        "client_secret: of-the-provider",
        "login.providers.corp.client_secret: ",
    ),
    case("file-open", "session-keys", "session-keys-open", "sessions.key_file: "),
    case(
        "strip-headers-replaced",
        ":3000'",
        ":3000', strip_headers: [x-own]",
        "upstream.strip_headers: ",
    ),
    case("upstream-plain-text", "127.0.0.1:3000", "10.0.0.3:3000", "upstream: "),
    case(
        "exposure-unchecked",
        ":3000'",
        ":3000', exposure_check: null",
        "upstream.exposure_check: ",
    ),
    case("audit-drops", "on_full: deny", "on_full: drop", "audit.on_full: "),
    case(
        "audit-partial",
        "on_full: deny",
        "on_full: deny, allow: none",
        "audit.allow: ",
    ),
    case("audit-unmasked", "on_full: deny", "on_full: deny, mask: []", "audit.mask: "),
    case("portal-not-required", "require: [shop], ", "", "policies.require: "),
    case("no-state-dir", ", state_dir: state", "", "policies.state_dir: "),
    case_in(
        "policies/_shared/a.cedar",
        "tenants-mixed",
        SHARED,
        "@id(\"x\") forbid (principal, action, resource) when { resource == Path::\"/x\" };",
        "no forbid in `policies/_shared/`",
    ),
    case_in(
        "policies/shop/a.cedar",
        "permit-everything",
        "principal in Role::\"viewer\"",
        "principal",
        "`read` permits everything",
    ),
    case_in(
        PORTAL,
        "public-everything",
        "title: Shop",
        "title: Shop\npublic: [\"GET /portal/shop/**\"]",
        "public: `GET /portal/shop/**`",
    ),
    case_in(
        "policies/shop/tests/a.yaml",
        "portal-untested",
        TESTS,
        "",
        "`shop` has no decision tests",
    ),
];

/// A rule whose weak value is a start error beside logins has a configuration of its own.
const HTTP: (&str, &str) = (
    "public-url-http",
    "upstream: { url: 'http://127.0.0.1:3000' }\npublic_url: http://shop.example.com\n",
);

fn put(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn rights(folder: &Path, name: &str, mode: u32) {
    std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
}

fn cedargate(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_cedargate"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("CEDARGATE_CONFIG")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A tenant's folder without a finding.
fn tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    let folder = tree.path();
    for (name, text) in [
        ("cedargate.yaml", CONFIG),
        ("schemas/shop.cedarschema", SCHEMA),
        ("policies/_shared/a.cedar", SHARED),
        ("policies/shop/a.cedar", POLICY),
        ("policies/shop/portal.yaml", "title: Shop\n"),
        ("policies/shop/tests/a.yaml", TESTS),
        ("client-secret", "of-the-provider"),
        ("redis-password", "of-redis-0123456789"),
        ("tokens", "hunter2-0123456789abc"),
        ("session-keys", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
        ("session-keys-open", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
    ] {
        put(folder, name, text);
    }
    for name in ["run", "open", "state"] {
        std::fs::create_dir(folder.join(name)).unwrap();
    }
    let minted = cedargate(
        folder,
        &[
            "token",
            "mint",
            "--key",
            "assertion.pem",
            "--jwks",
            "jwks.json",
            "--issuer",
            "https://a",
            "--audience",
            "a",
            "--subject",
            "a",
        ],
    );
    assert_eq!(minted.0, Some(0), "{minted:?}");
    for name in ["client-secret", "redis-password", "tokens", "session-keys", "assertion.pem"] {
        rights(folder, name, 0o600);
    }
    rights(folder, "session-keys-open", 0o644);
    rights(folder, "run", 0o700);
    rights(folder, "open", 0o777);
    tree
}

fn findings(folder: &Path, more: &[&str]) -> Vec<Value> {
    let arguments = [&["validate", "--hardening", "--format", "json"], more].concat();
    let (_, printed, error) = cedargate(folder, &arguments);
    let report: Value = serde_json::from_str(&printed).unwrap_or_else(|_| panic!("{printed}{error}"));
    assert!(
        report["portals"]
            .as_array()
            .unwrap()
            .iter()
            .all(|portal| portal["valid"] == true),
        "{report:#}"
    );
    report["findings"].as_array().unwrap().clone()
}

fn has(findings: &[Value], rule: &str, says: &str) -> bool {
    let is_it = |finding: &&Value| finding["rule"] == rule && finding["message"].as_str().unwrap().starts_with(says);
    let found = findings.iter().find(is_it);
    found.is_some_and(|finding| finding["help"].as_str().is_some_and(|help| help.len() > 10))
}

#[test]
fn a_hardened_configuration_has_no_finding_and_each_change_is_found() {
    let tree = tree();
    let folder = tree.path();
    assert_eq!(findings(folder, &[]), Vec::<Value>::new());
    let mut missed = Vec::new();
    for Case {
        file,
        from,
        to,
        rule,
        says,
    } in CASES
    {
        let before = std::fs::read_to_string(folder.join(file)).unwrap();
        assert!(before.contains(from), "{file} has no `{from}`");
        if to.is_empty() && *from == TESTS {
            std::fs::remove_file(folder.join(file)).unwrap();
        } else {
            put(folder, file, &before.replace(from, to));
        }
        let found = findings(folder, &[]);
        if !has(&found, rule, says) {
            missed.push(format!("{rule} `{to}`: found {found:?}"));
        }
        if !findings(folder, &["--accept", rule])
            .iter()
            .all(|finding| finding["rule"] != *rule)
        {
            missed.push(format!("{rule}: `--accept` leaves it in"));
        }
        put(folder, file, &before);
    }
    report(&missed);
    assert_eq!(findings(folder, &[]), Vec::<Value>::new());
}

#[test]
fn a_public_url_without_tls_is_found() {
    let tree = tree();
    put(tree.path(), "cedargate.yaml", HTTP.1);
    assert!(has(&findings(tree.path(), &[]), HTTP.0, "public_url: "));
}

#[test]
fn a_finding_names_file_and_line_and_warnings_fail_where_they_are_denied() {
    let tree = tree();
    let folder = tree.path();
    put(
        folder,
        "cedargate.yaml",
        &CONFIG
            .replace("tenants: [acme]", "tenants: [acme], leeway: 61s")
            .replace("[orders]", "[orders, b]"),
    );
    let found = findings(folder, &[]);
    let leeway = found.iter().find(|finding| finding["rule"] == "leeway-wide").unwrap();
    assert_eq!(
        (&leeway["file"], &leeway["line"], &leeway["severity"]),
        (&"cedargate.yaml".into(), &11.into(), &"warning".into())
    );
    let code = |arguments: &[&str]| cedargate(folder, arguments).0;
    assert_eq!(code(&["validate", "--hardening"]), Some(0));
    assert_eq!(code(&["validate", "--hardening", "--deny-warnings"]), Some(3));
    // what is left is a note
    assert_eq!(
        code(&["validate", "--hardening", "--deny-warnings", "--accept", "leeway-wide"]),
        Some(0)
    );
    assert_eq!(code(&["validate", "--hardening", "--accept", "no-such-rule"]), Some(64));
    assert_eq!(code(&["validate", "--accept", "leeway-wide"]), Some(64));
    let (_, text, _) = cedargate(folder, &["validate", "--hardening"]);
    for part in [
        "warning: issuers[0].leeway: ",
        " [leeway-wide]\n",
        "cedargate.yaml:11",
        "= help: keep clocks",
    ] {
        assert!(text.contains(part), "`{part}` in\n{text}");
    }
    let (_, sarif, _) = cedargate(folder, &["validate", "--hardening", "--format", "sarif"]);
    assert!(sarif.contains("\"leeway-wide\""), "{sarif}");
    let (_, annotations, _) = cedargate(folder, &["validate", "--hardening", "--format", "github"]);
    assert!(
        annotations.contains("::warning file=cedargate.yaml,line=11,title=leeway-wide::"),
        "{annotations}"
    );
    assert!(annotations.contains("::notice "), "{annotations}");
}

#[test]
fn a_tree_without_a_configuration_is_no_subject_of_hardening() {
    let tree = tree();
    std::fs::remove_file(tree.path().join("cedargate.yaml")).unwrap();
    let (code, _, error) = cedargate(tree.path(), &["validate", "--hardening", "."]);
    assert!(code == Some(64) && error.contains("--config"), "{code:?} {error}");
}

#[test]
fn every_rule_has_a_row_in_its_page_and_a_case_here() {
    let source = read("src/cli/validate/hardening/rules.rs");
    let ids = |constructor: &str| -> BTreeSet<String> {
        let call = format!(": Rule = {constructor}(");
        let calls = source.split(&call).skip(1);
        calls.map(|rest| rest.split('"').nth(1).unwrap().to_owned()).collect()
    };
    let (page, mut findings) = (read("docs/hardening.md"), Vec::new());
    let mut count = 0;
    for severity in ["warning", "note"] {
        for id in ids(severity) {
            count += 1;
            if !page.contains(&format!("| `{id}` | {severity} |")) {
                findings.push(format!("docs/hardening.md: no row `{id}` with severity {severity}"));
            }
            if id != HTTP.0 && !CASES.iter().any(|case| case.rule == id) {
                findings.push(format!("tests/pages/hardening.rs: no case for `{id}`"));
            }
        }
    }
    assert!(count > 30 && page.matches("\n| `").count() == count, "{count} rules");
    report(&findings);
}
