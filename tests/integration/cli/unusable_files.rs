//! Unusable files that the configuration names: `validate` and `serve` report all of them in the same words.

use std::path::Path;

use crate::support::binary::cedargate;

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
