//! Broken installations, one fault each: `validate` and `serve` refuse them with the same words and the same code, and
//! what `serve` starts with in spite of a doubt is a warning of both.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::support::binary::{GateFolder, cedargate, free_address};
use crate::support::certificates::Authority;
use crate::support::{OPEN_POLICY, OPEN_SCHEMA, eventually, put};

/// A valid configuration; a case replaces top-level keys of it, or adds some.
const GOOD: [(&str, &str); 5] = [
    (
        "listen",
        "{ proxy: { address: '127.0.0.1:0' }, decision: { address: 'unix:d.sock' }, admin: { address: '127.0.0.1:0' } }",
    ),
    ("upstream", "{ url: 'http://127.0.0.1:1' }"),
    (
        "issuers",
        "[{ name: test, issuer: 'https://issuer.test/', audiences: [shop], jwks: { file: jwks.json } }]",
    ),
    ("public_url", "https://shop.test"),
    ("audit", "{ sink: { file: decisions.jsonl } }"),
];

/// The top-level key that is broken, its value, and a part of what both commands say.
const REFUSED: [(&str, &str, &str); 40] = [
    (
        "listen",
        "{ proxy: { address: '192.0.2.1:8900' } }",
        "listen.proxy.address: cannot listen on",
    ),
    (
        "listen",
        "{ proxy: { address: '[2001:db8::1]:8900' } }",
        "listen.proxy.address: cannot listen on",
    ),
    ("listen", "{ proxy: { address: localhost } }", "listen.proxy.address"),
    (
        "listen",
        "{ proxy: { address: '127.0.0.1:8900' }, admin: { address: '127.0.0.1:8900' } }",
        "is also taken by `listen.proxy.address`",
    ),
    (
        "listen",
        "{ proxy: { address: '0.0.0.0:8900' }, admin: { address: '127.0.0.1:8900' } }",
        "is also taken by `listen.proxy.address`",
    ),
    (
        "listen",
        "{ proxy: { address: '127.0.0.1:8900' }, admin: { address: '[::ffff:127.0.0.1]:8900' } }",
        "is also taken by `listen.proxy.address`",
    ),
    (
        "listen",
        "{ decision: { address: 'unix:x.sock' }, ext_authz: { address: 'unix:./x.sock' } }",
        "is also taken by `listen.decision.address`",
    ),
    (
        "listen",
        "{ decision: { address: 'unix:folder/x.sock' }, control: { address: 'unix:link/x.sock' } }",
        "is also taken by `listen.decision.address`",
    ),
    (
        "listen",
        "{ decision: { address: 'unix:absent/x.sock' } }",
        "No such file or directory",
    ),
    (
        "listen",
        "{ control: { address: 'unix:folder' } }",
        "there is another file at this path",
    ),
    (
        "listen",
        "{ control: { address: 'unix:junk' } }",
        "there is another file at this path",
    ),
    (
        "listen",
        "{ control: { address: 'unix:dangling' } }",
        "there is another file at this path",
    ),
    (
        "listen",
        "{ proxy: { tls: { cert: absent, key: leaf.key } } }",
        "listen.proxy.tls.cert",
    ),
    (
        "listen",
        "{ proxy: { tls: { cert: folder, key: leaf.key } } }",
        "listen.proxy.tls.cert",
    ),
    (
        "listen",
        "{ proxy: { tls: { cert: pipe, key: leaf.key } } }",
        "listen.proxy.tls.cert",
    ),
    (
        "listen",
        "{ proxy: { tls: { cert: leaf.pem, key: other.key } } }",
        "listen.proxy.tls",
    ),
    (
        "listen",
        "{ proxy: { tls: { cert: leaf.pem, key: leaf.pem } } }",
        "listen.proxy.tls.key",
    ),
    (
        "listen",
        "{ proxy: { tls: { cert: leaf.pem, key: leaf.key, client_ca: empty } } }",
        "listen.proxy.tls.client_ca",
    ),
    (
        "listen",
        "{ proxy: { tls: { cert: leaf.pem, key: leaf.key, client_ca: leaf.pem, client_crl: junk } } }",
        "listen.proxy.tls.client_crl",
    ),
    (
        "listen",
        "{ decision: { auth: { tokens_file: absent } } }",
        "listen.decision.auth.tokens_file",
    ),
    (
        "upstream",
        "{ url: 'https://127.0.0.1:1', tls: { ca: absent } }",
        "upstream.tls.ca",
    ),
    (
        "upstream",
        "{ url: 'https://127.0.0.1:1', tls: { cert: leaf.pem, key: other.key } }",
        "upstream.tls",
    ),
    ("upstream", "{ url: 'unix:/LONG' }", "the path of a socket has 107 at most"),
    (
        "upstream",
        "{ url: 'http://127.0.0.1:1', token: exchange, exchange: { issuer: test, client_id: g, client_secret_file: folder, audience: a } }",
        "upstream.exchange.client_secret_file",
    ),
    (
        "upstream",
        "{ url: 'http://127.0.0.1:1', token: exchange, exchange: { issuer: test, client_id: g, client_secret_file: empty, audience: a } }",
        "upstream.exchange.client_secret_file",
    ),
    (
        "issuers",
        "[{ name: test, issuer: 'https://issuer.test/', audiences: [shop], ca_file: absent }]",
        "issuers[0].ca_file",
    ),
    (
        "issuers",
        "[{ name: test, issuer: 'https://issuer.test/', audiences: [shop], introspection: { client_id: a, client_secret_file: lines } }]",
        "issuers[0].introspection.client_secret_file",
    ),
    ("sessions", "{ key_file: junk }", "sessions.key_file"),
    ("sessions", "{ key_file: folder }", "sessions.key_file"),
    (
        "sessions",
        "{ store: redis, redis: { url: nonsense, key_prefix: 'cedargate:test:' } }",
        "sessions.redis.url",
    ),
    (
        "sessions",
        "{ store: redis, redis: { url: 'redis://127.0.0.1:99999', key_prefix: 'cedargate:test:' } }",
        "sessions.redis.url",
    ),
    (
        "login",
        "{ providers: { staff: { users_file: pipe } } }",
        "login.providers.staff.users_file",
    ),
    (
        "login",
        "{ providers: { corp: { issuer: test, client_id: g, client_key_file: leaf.pem } } }",
        "login.providers.corp.client_key_file",
    ),
    ("identity", "{ logo: folder }", "identity.logo"),
    ("assertion", "{ key_file: pipe }", "assertion.key_file"),
    ("audit", "{ sink: { file: folder } }", "audit.sink.file"),
    ("audit", "{ sink: { file: absent/log } }", "audit.sink.file"),
    ("audit", "{ sink: { file: circle } }", "audit.sink.file"),
    (
        "audit",
        "{ sink: { file: decisions.jsonl }, chain: { key_file: junk } }",
        "audit.chain.key_file",
    ),
    (
        "policies",
        "{ bundle: { url: 'https://bundles.test/b', keys: [junk] }, state_dir: state }",
        "policies.bundle.keys[0]",
    ),
];

fn installation() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let (leaf, other) = (authority.issue("shop.test"), authority.issue("other.test"));
    for (name, text) in [
        ("schemas/p.cedarschema", OPEN_SCHEMA),
        ("policies/p/main.cedar", OPEN_POLICY),
        ("leaf.pem", &leaf.cert),
        ("leaf.key", &leaf.key),
        ("other.key", &other.key),
        ("junk", "hunter2-is-in-no-error"),
        ("empty", ""),
        ("lines", "one\ntwo\n"),
        ("jwks.json", &crate::support::Issuer::new("k").jwks().to_string()),
    ] {
        put(folder.path(), name, text);
    }
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("folder")).unwrap();
    symlink("folder", path("link")).unwrap();
    symlink("gone", path("dangling")).unwrap();
    symlink("circle", path("circle")).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(path("pipe"))
            .status()
            .unwrap()
            .success()
    );
    folder
}

/// The good configuration with another value of one key.
fn configure(folder: &Path, key: &str, value: &str) {
    let value = value.replace("LONG", &"l".repeat(200));
    let others = GOOD.iter().filter(|(known, _)| *known != key);
    let lines = others.map(|(key, value)| format!("{key}: {value}\n"));
    put(
        folder,
        "cedargate.yaml",
        &lines.chain([format!("{key}: {value}\n")]).collect::<String>(),
    );
}

/// The code of a command that ends by itself, and its error output.
fn run(folder: &Path, command: &str, environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = cedargate(&[command])
        .envs(environment.iter().copied())
        .current_dir(folder)
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn every_broken_installation_is_refused_by_validate_and_by_serve_in_the_same_words() {
    let folder = installation();
    configure(folder.path(), "public_url", "https://shop.test");
    let (code, error) = run(folder.path(), "validate", &[]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "the installation without a fault");
    for (key, value, said) in REFUSED {
        configure(folder.path(), key, value);
        let validated = run(folder.path(), "validate", &[]);
        assert_eq!(validated.0, Some(64), "{key}: {value}: {}", validated.1);
        assert!(validated.1.contains(said), "{key}: {value}: {}", validated.1);
        assert!(!validated.1.contains("hunter2"), "{key}: {value}: {}", validated.1);
        assert_eq!(run(folder.path(), "serve", &[]), validated, "{key}: {value}");
    }
}

#[test]
fn faults_of_the_environment_are_found_before_the_start_too() {
    let folder = installation();
    configure(folder.path(), "public_url", "https://shop.test");
    let filter = [("CEDARGATE_LOG", "cedargate=nonsense")];
    let validated = run(folder.path(), "validate", &filter);
    assert_eq!(validated.0, Some(64));
    assert!(validated.1.contains("`CEDARGATE_LOG` is not a log filter"), "{}", validated.1);
    assert_eq!(run(folder.path(), "serve", &filter), validated);
    let few_files = |command: &str| {
        let program = env!("CARGO_BIN_EXE_cedargate");
        let script = format!("ulimit -n 20; exec {program} {command}");
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", &script])
            .env_remove("CEDARGATE_CONFIG")
            .current_dir(folder.path());
        let output = shell.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let validated = few_files("validate");
    assert_eq!(validated.0, Some(64), "{}", validated.1);
    assert!(
        validated.1.contains("the limit of open files (`ulimit -n`) is 20"),
        "{}",
        validated.1
    );
    assert_eq!(few_files("serve"), validated);
}

#[test]
fn what_serve_starts_with_in_spite_of_a_doubt_is_a_warning_of_both() {
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    let config = fs::read_to_string(gate_folder.folder.path().join("cedargate.yaml")).unwrap();
    let config = config
        .replace("jwks.json", "policies")
        .replace("decision: null", &format!("decision: {{ address: '{}' }}", free_address()))
        .replace("admin: {", "ext_authz: { address: 'unix:e.sock' }, admin: {");
    let admin = gate_folder.admin.to_string();
    let policies = "policies: { require: [later], candidate: absent, state_dir: jwks.json/state }";
    gate_folder.put("cedargate.yaml", &format!("{config}{policies}\n"));
    gate_folder.put("policies/p/portal.yaml", "");
    gate_folder.put("schemas/old.cedarschema", "");
    let said = [
        "issuers[0].jwks.file: ",
        "policies.require[0]: ",
        "policies.candidate: ",
        "policies.state_dir: ",
        "is not read: there is no portal `old`",
    ];
    let (code, text, error) = gate_folder.run(&["validate"]);
    assert_eq!((code, error.as_str()), (0, ""), "{text}");
    assert!(said.iter().all(|said| text.contains(said)), "{text}");
    assert_eq!(gate_folder.run(&["validate", "--deny-warnings"]).0, 3);
    let (_, linted, _) = gate_folder.run(&["lint"]);
    assert!(
        linted.contains("schemas/old.cedarschema") && linted.contains("there is no portal `old`"),
        "{linted}"
    );
    let log = gate_folder.folder.path().join("log");
    let mut serving = cedargate(&["serve"]);
    serving
        .current_dir(gate_folder.folder.path())
        .stderr(fs::File::create(&log).unwrap());
    let mut gate = crate::support::binary::GateProcess(serving.spawn().unwrap());
    eventually("the gate says the same", || {
        let text = fs::read_to_string(&log).unwrap();
        match said.iter().find(|said| !text.contains(*said)) {
            None => Ok(()),
            Some(missing) => Err(format!("{missing}: {text}")),
        }
    });
    eventually("the gate lives", || {
        match gate_folder.run(&["healthcheck", "--address", &admin]) {
            (0, _, _) => Ok(()),
            (code, _, error) => Err(format!("{code}: {error}")),
        }
    });
    gate.signal("-TERM");
    assert_eq!(gate.exit_code(), 0);
}

#[test]
fn a_port_that_another_process_has_is_a_warning_before_the_start() {
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    let _another = TcpListener::bind(gate_folder.admin).unwrap();
    let (code, text, _) = gate_folder.run(&["validate"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("listen.admin.address: a process listens on"), "{text}");
    assert!(!text.contains("listen.proxy.address"), "{text}");
    let (code, _, error) = gate_folder.run(&["serve"]);
    assert_eq!(code, 1);
    assert!(error.contains("(listen.admin.address): Address already in use"), "{error}");
}

#[test]
fn a_socket_that_a_process_serves_is_usable_for_validate_and_taken_for_serve() {
    let folder = installation();
    configure(
        folder.path(),
        "listen",
        "{ proxy: { address: '127.0.0.1:0' }, admin: null, decision: { address: 'unix:d.sock' } }",
    );
    let _served = UnixListener::bind(folder.path().join("d.sock")).unwrap();
    assert_eq!(run(folder.path(), "validate", &[]).0, Some(0));
    let (code, error) = run(folder.path(), "serve", &[]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("(listen.decision.address): the socket path is in use"),
        "{error}"
    );
}
