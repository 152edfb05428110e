//! `cedargate bundle`: what it writes, what it refuses, and its exit codes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::support::binary::run;
use crate::support::{OPEN_POLICY, OPEN_SCHEMA, put};

fn tree() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "schemas/p.cedarschema", OPEN_SCHEMA);
    put(folder.path(), "policies/p/main.cedar", OPEN_POLICY);
    put(folder.path(), "policies/README.md", "not packed");
    folder
}

fn ok(folder: &Path, line: &str) -> String {
    let (code, out, error) = run(folder, &line.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 0, "{line}: {error}");
    out
}

fn refused(folder: &Path, line: &str, code: i32, words: &str) {
    let (found, out, error) = run(folder, &line.split(' ').collect::<Vec<_>>());
    assert_eq!(found, code, "{line}: {out}{error}");
    assert!(error.contains(words), "{line}: {error}");
}

#[test]
fn equal_trees_make_equal_bundles_in_any_folder_at_any_time() {
    let (one, other) = (tree(), tree());
    ok(one.path(), "bundle keygen policy");
    for name in ["policy.key", "policy.pub"] {
        std::fs::copy(one.path().join(name), other.path().join(name)).unwrap();
    }
    let mode = std::fs::metadata(one.path().join("policy.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let old = std::time::SystemTime::UNIX_EPOCH;
    std::fs::File::open(other.path().join("policies/p/main.cedar"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    std::fs::set_permissions(
        other.path().join("schemas/p.cedarschema"),
        std::fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    let build = "bundle build --sequence 7 --label commit=3f2a --key policy.key";
    let bytes = |folder: &Path| {
        ok(folder, build);
        std::fs::read(folder.join("bundle.tar.gz")).unwrap()
    };
    let first = bytes(one.path());
    assert_eq!(first, bytes(other.path()));
    assert_eq!(first, bytes(one.path()));
    assert!(ok(one.path(), "bundle verify bundle.tar.gz --key policy.pub").contains("sequence 7, 2 files, 1 signature"));
    let shown: Value = serde_json::from_str(&ok(one.path(), "bundle inspect bundle.tar.gz --format json")).unwrap();
    assert_eq!(shown["manifest"]["labels"]["commit"], "3f2a");
    assert_eq!(shown["manifest"]["files"][0]["name"], "policies/p/main.cedar");
    assert_eq!(shown["signatures"].as_array().unwrap().len(), 1);
    // plain tools read it
    let listed = std::process::Command::new("tar")
        .args(["tzf", "bundle.tar.gz"])
        .current_dir(one.path())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(listed.stdout).unwrap(),
        "manifest.json\nsignatures.txt\npolicies/p/main.cedar\nschemas/p.cedarschema\n"
    );
}

#[test]
fn commands_read_a_bundle_in_place_of_a_folder() {
    let folder = tree();
    put(
        folder.path(),
        "policies/p/tests/t.yaml",
        "cases: [{ name: all, claims: { sub: a, tenant: t, roles: [] }, http: \"GET /portal/p/x\", expect: allow }]\n",
    );
    ok(folder.path(), "bundle build --sequence 1");
    let elsewhere = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle.tar.gz");
    for command in ["validate", "test"] {
        let out = ok(elsewhere.path(), &format!("{command} {}", bundle.display()));
        assert!(out.contains('p'), "{out}");
    }
}

#[test]
fn what_is_not_good_is_refused_with_a_reason() {
    let folder = tree();
    let at = folder.path();
    ok(at, "bundle keygen policy");
    ok(at, "bundle keygen other");
    refused(at, "bundle keygen policy", 64, "is there already");
    refused(at, "bundle build", 64, "--sequence");
    refused(at, "bundle build --sequence 0", 64, "between 1 and 2^53-1");
    refused(at, "bundle build --sequence 1 --label x", 64, "write KEY=VALUE");
    refused(
        at,
        "bundle build --sequence 1 --key policy.pub",
        64,
        "holds no PEM block `PRIVATE KEY`",
    );
    ok(at, "bundle build --sequence 1");
    refused(at, "bundle verify bundle.tar.gz --key policy.pub", 1, "it has no signature");
    refused(
        at,
        "bundle verify bundle.tar.gz --key policy.key",
        64,
        "it holds a private key",
    );
    refused(at, "bundle verify bundle.tar.gz", 64, "name the public key with --key");
    ok(at, "bundle sign bundle.tar.gz --key other.key");
    refused(
        at,
        "bundle verify bundle.tar.gz --key policy.pub",
        1,
        "no trusted key signed it",
    );
    ok(at, "bundle sign bundle.tar.gz --key policy.key");
    ok(at, "bundle verify bundle.tar.gz --key policy.pub");
    ok(at, "bundle verify bundle.tar.gz --key other.pub");
    let mut bytes = std::fs::read(at.join("bundle.tar.gz")).unwrap();
    bytes.truncate(bytes.len() - 20);
    std::fs::write(at.join("cut.tar.gz"), bytes).unwrap();
    refused(at, "bundle inspect cut.tar.gz", 1, "cut off");
    refused(at, "bundle inspect policy.pub", 1, "it is not a bundle");
    refused(at, "validate cut.tar.gz", 64, "cut off");
    put(
        at,
        "policies/p/main.cedar",
        "permit (principal, action, resource == Nothing::\"x\");",
    );
    refused(
        at,
        "bundle build --sequence 2 --output broken.tar.gz",
        3,
        "a gate would reject this tree",
    );
    assert!(!at.join("broken.tar.gz").exists());
    ok(at, "bundle build --sequence 2 --output broken.tar.gz --danger-invalid");
}

#[test]
fn a_configuration_with_a_bundle_is_validated_with_the_files_that_it_names() {
    let folder = tree();
    let at = folder.path();
    ok(at, "bundle keygen policy");
    put(at, "junk", "junk");
    let config = |bundle: &str| {
        let head = "upstream: { url: 'http://127.0.0.1:1' }\nlisten: { proxy: { address: '127.0.0.1:0' }, decision: null, admin: null }\n";
        put(at, "cedargate.yaml", &format!("{head}policies: {{ {bundle} }}\n"));
    };
    config("state_dir: state, bundle: { url: 'https://files.test/b', keys: [policy.pub] }");
    let (code, _, error) = run(at, &["validate", "--config", "cedargate.yaml"]);
    assert_eq!(code, 0, "{error}");
    assert!(error.contains("this machine has no bundle yet"), "{error}");
    config("state_dir: junk, bundle: { url: 'https://files.test/b', keys: [junk, nowhere], ca_file: junk, token_file: junk }");
    for command in [&["validate", "--config", "cedargate.yaml"][..], &["serve"]] {
        let (code, _, error) = run(at, command);
        assert_eq!(code, 64, "{error}");
        for words in [
            "policies.bundle.keys[0]",
            "holds no PEM block `PUBLIC KEY`",
            "policies.bundle.keys[1]",
            "policies.bundle.ca_file",
            "policies.state_dir",
        ] {
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
