//! Unusable files that the configuration names: `validate` and `serve` report all of them in the same words.

use std::path::Path;

use crate::support::binary::{GateFolder, cedargate};

const CONFIG: &str = "\
public_url: https://shop.test
upstream: { url: 'http://127.0.0.1:1' }
issuers:
  - name: corp
    issuer: https://id.test/
    audiences: [a]
    jwks: { url: 'https://id.test/keys' }
    ca_file: junk
    introspection: { client_id: gate, client_secret_file: empty }
assertion: { key_file: junk }
identity: { logo: junk }
login:
  providers:
    post: { issuer: corp, client_id: gate, client_secret_file: empty, auth_method: client_secret_post, ca_file: junk }
    signed: { issuer: corp, client_id: gate, client_key_file: absent }
    staff: { users_file: junk }
    more: { users_file: nowhere.yaml }
sessions:
  store: redis
  key_file: junk
  redis:
    url: rediss://redis.test:6379
    key_prefix: 'cedargate:test:'
    username: gate
    password_file: empty
    tls: { ca: junk, cert: junk, key: junk }
";

fn run_output(folder: &Path, command: &[&str]) -> (i32, String) {
    let output = cedargate(command).current_dir(folder).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn validate_and_serve_name_every_file_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in [
        ("cedargate.yaml", CONFIG),
        ("empty", "\n"),
        ("junk", "hunter2-is-in-no-error"),
        ("schemas/p.cedarschema", crate::support::OPEN_SCHEMA),
        ("policies/p/main.cedar", crate::support::OPEN_POLICY),
    ] {
        crate::support::put(folder.path(), file, text);
    }
    for command in [&["validate", "--config", "cedargate.yaml"][..], &["serve"]] {
        let (code, error) = run_output(folder.path(), command);
        assert_eq!(code, 64, "{command:?}: {error}");
        for (line, key) in [
            (8, "issuers[0].ca_file"),
            (9, "issuers[0].introspection.client_secret_file"),
            (10, "assertion.key_file"),
            (11, "identity.logo"),
            (14, "login.providers.post.client_secret_file"),
            (14, "login.providers.post.ca_file"),
            (15, "login.providers.signed.client_key_file"),
            (16, "login.providers.staff.users_file"),
            (20, "sessions.key_file"),
            (25, "sessions.redis.password_file"),
            (26, "sessions.redis.tls.ca"),
            (26, "sessions.redis.tls.cert"),
            (26, "sessions.redis.tls.key"),
        ] {
            let place = format!("cedargate.yaml:{line}: {key}: ");
            assert!(error.contains(&place), "{command:?} does not say `{place}`:\n{error}");
        }
        assert!(
            error.contains("nowhere.yaml: cannot be read: ") && error.contains("`cedargate user add` makes one"),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }
}

/// Everything else that `serve` opens: certificates, TLS to the apps, the decision log, addresses and socket paths.
const SOCKETS: &str = "\
upstream: { url: 'https://127.0.0.1:1', tls: { ca: junk } }
issuers:
  - { name: corp, issuer: 'https://id.test/', audiences: [a] }
listen:
  proxy: { address: '192.0.2.1:8900', tls: { cert: junk, key: absent } }
  decision: { address: 'unix:junk' }
  admin: { address: '127.0.0.1:0' }
  control: { address: 'unix:absent/control.sock' }
portals:
  p: { match: { path_prefix: /p }, upstream: { url: 'https://127.0.0.1:2', tls: { ca: absent } } }
audit: { sink: { file: absent/log } }
";

#[test]
fn validate_and_serve_name_every_socket_and_certificate_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in [
        ("cedargate.yaml", SOCKETS),
        ("junk", "hunter2-is-in-no-error"),
        ("schemas/p.cedarschema", crate::support::OPEN_SCHEMA),
        ("policies/p/main.cedar", crate::support::OPEN_POLICY),
    ] {
        crate::support::put(folder.path(), file, text);
    }
    for command in [&["validate"][..], &["serve"]] {
        let (code, error) = run_output(folder.path(), command);
        assert_eq!(code, 64, "{command:?}: {error}");
        for (line, key) in [
            (1, "upstream.tls.ca"),
            (5, "listen.proxy.address"),
            (5, "listen.proxy.tls.cert"),
            (6, "listen.decision.address"),
            (8, "listen.control.address"),
            (10, "portals.p.upstream.tls.ca"),
            (11, "audit.sink.file"),
        ] {
            let place = format!("cedargate.yaml:{line}: {key}: ");
            assert!(error.contains(&place), "{command:?} does not say `{place}`:\n{error}");
        }
        assert!(!error.contains("hunter2") && !error.contains("listen.admin"), "{error}");
    }
}

#[test]
fn validate_passes_while_a_gate_serves_the_same_configuration_and_leaves_nothing_behind() {
    let control = "listen: { control: { address: 'unix:control.sock' }, decision: { address: 'unix:decision.sock' }, \
                   proxy: { address: '127.0.0.1:PORT' }, admin: { address: '127.0.0.1:ADMIN' } }";
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    let config = std::fs::read_to_string(gate_folder.folder.path().join("cedargate.yaml")).unwrap();
    let control = control
        .replace("PORT", &gate_folder.proxy.port().to_string())
        .replace("ADMIN", &gate_folder.admin.port().to_string());
    let rest: Vec<&str> = config.lines().skip(1).collect();
    gate_folder.put("cedargate.yaml", &format!("{control}\n{}\n", rest.join("\n")));
    let names = || {
        let entries = std::fs::read_dir(gate_folder.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    assert_eq!(gate_folder.run(&["validate"]).0, 0);
    assert_eq!(names(), before, "no socket and no log is left");
    let _gate = gate_folder.serve();
    let during = names();
    let (code, _, error) = gate_folder.run(&["validate"]);
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(names(), during);
}

#[test]
fn commands_about_policies_need_no_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let config = "public_url: https://shop.test\nupstream: { url: 'http://127.0.0.1:1' }\nlisten: { decision: { address: '127.0.0.1:0', auth: { tokens_file: absent } } }\n\
                  issuers:\n  - { name: corp, issuer: 'https://id.test/', audiences: [a] }\n\
                  login: { providers: { corp: { issuer: corp, client_id: gate, client_secret_file: absent } } }\n";
    for (file, text) in [
        ("cedargate.yaml", config),
        ("schemas/p.cedarschema", crate::support::OPEN_SCHEMA),
        ("policies/p/main.cedar", crate::support::OPEN_POLICY),
    ] {
        crate::support::put(folder.path(), file, text);
    }
    for command in [
        &["lint"][..],
        &["test"],
        &["matrix"],
        &["fmt"],
        &["schema", "types", "--ts"],
        &["diff", ".", "."],
        &[
            "explain",
            "--portal",
            "p",
            "--url",
            "/portal/p/x",
            "--claims",
            "{\"sub\":\"a\"}",
        ],
    ] {
        let (code, error) = run_output(folder.path(), command);
        assert!(code == 0 && !error.contains("absent"), "{command:?}: {code} {error}");
    }
    for command in [&["validate"][..], &["serve"]] {
        let (code, error) = run_output(folder.path(), command);
        assert_eq!(code, 64, "{command:?}: {error}");
        for key in ["listen.decision.auth.tokens_file", "login.providers.corp.client_secret_file"] {
            assert!(
                error.contains(&format!("{key}: cannot read `absent`")),
                "{command:?}: {error}"
            );
        }
    }
}
