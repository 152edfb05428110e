//! `cedargate config import oauth2-proxy` with configurations in the forms that people publish: what it writes
//! validates, its tests pass, and no secret gets out.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::support::binary::cedargate;
use crate::support::certificates::Authority;

/// Text of every secret in the corpus.
const SECRET: &str = "SECRET-";

fn corpus() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/oauth2-proxy");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn run(args: &[&str]) -> Output {
    cedargate(args).output().unwrap()
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Makes the files that the configuration names and no command may invent.
fn fill_in(folder: &Path, config: &str) {
    let secrets = folder.join("secrets");
    std::fs::create_dir_all(&secrets).unwrap();
    let file = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = secrets.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    file("client-secret", "made-up\n");
    file("redis-password", "made-up\n");
    file("session-keys", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n");
    // files of the machine that the configuration came from
    let config = config
        .replace("/etc/oauth2/secret", "secrets/client-secret")
        .replace("/etc/oauth/client-secret", "secrets/client-secret")
        .replace("/etc/secret", "secrets/client-secret");
    let pair = Authority::new("test").issue("localhost");
    file("a.crt", &pair.cert);
    file("a.key", &pair.key);
    let config = config
        .replace("/etc/ssl/a.crt", "secrets/a.crt")
        .replace("/etc/ssl/a.key", "secrets/a.key")
        .replace("/etc/tls/private/tls.crt", "secrets/a.crt")
        .replace("/etc/tls/private/tls.key", "secrets/a.key");
    std::fs::write(folder.join("cedargate.yaml"), config).unwrap();
}

#[test]
fn imported_configurations_validate_and_their_tests_pass() {
    let files = corpus();
    assert!(files.len() >= 37, "{}", files.len());
    for file in files {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_str().unwrap();
        let imported = run(&["config", "import", "oauth2-proxy", file.to_str().unwrap(), "--write", dir]);
        let shown = text(&imported);
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        assert!(matches!(imported.status.code(), Some(0 | 3)), "{name}: {shown}");
        let config = std::fs::read_to_string(folder.path().join("cedargate.yaml")).unwrap();
        assert!(!shown.contains(SECRET) && !config.contains(SECRET), "{name}: {shown}{config}");
        fill_in(folder.path(), &config);
        let path = folder.path().join("cedargate.yaml");
        for command in ["validate", "test"] {
            let checked = run(&[command, "--config", path.to_str().unwrap()]);
            assert!(checked.status.success(), "{name}: {command}: {}\n{config}", text(&checked));
        }
        // a tree that is there is left as it is
        let again = run(&["config", "import", "oauth2-proxy", file.to_str().unwrap(), "--write", dir]);
        assert_eq!(again.status.code(), Some(64), "{name}: {}", text(&again));
    }
}

#[test]
fn the_report_says_what_has_to_be_decided() {
    let import = |name: &str| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/corpus/oauth2-proxy")
            .join(name);
        let output = run(&["config", "import", "oauth2-proxy", file.to_str().unwrap(), "--format", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
        (output.status.code(), report)
    };
    let named = |report: &Value, severity: &str| -> Vec<String> {
        let findings = report["findings"].as_array().unwrap().iter();
        findings
            .filter(|finding| finding["severity"] == severity)
            .map(|finding| finding["message"].as_str().unwrap().to_owned())
            .collect()
    };
    let (code, report) = import("08-github-org.cfg");
    assert_eq!(code, Some(3));
    let errors = named(&report, "error").join("\n");
    assert!(
        errors.contains("not OpenID Connect") && errors.contains("`github_org`"),
        "{errors}"
    );
    let policies = report["files"]["policies/_shared/access.cedar"].as_str().unwrap();
    assert!(
        policies.contains("false"),
        "a lost restriction must close the portal: {policies}"
    );
    let (_, report) = import("05-skip-routes.cfg");
    let portal = report["files"]["policies/app/portal.yaml"].as_str().unwrap();
    assert!(
        portal.contains("\"GET /static/**\"") && portal.contains("\"GET /health\"") && portal.contains("cors: app"),
        "{portal}"
    );
    assert!(!portal.contains("(a|b)"), "{portal}");
    let (_, report) = import("06-several-upstreams.cfg");
    let config = report["files"]["cedargate.yaml"].as_str().unwrap();
    assert!(
        config.contains("api: { match: { path_prefix: \"/api\" }, upstream: \"http://api:9090\" }"),
        "{config}"
    );
    let (_, report) = import("18-alpha.yaml");
    let config = report["files"]["cedargate.yaml"].as_str().unwrap();
    assert!(
        config.contains("issuer: \"https://dex.example.com/dex\"") && config.contains("client_id: \"alpha\""),
        "{config}"
    );
    assert!(named(&report, "warning").join("\n").contains("X-Static-Key"), "{report}");
    // values of the chart: a flag goes before the file, and an unquoted `false` is named
    let (_, report) = import("29-argocd-values.yaml");
    let policies = report["files"]["policies/_shared/access.cedar"].as_str().unwrap();
    assert!(
        policies.contains("*@staff.example.org") && !policies.contains("*@example.org"),
        "{policies}"
    );
    let config = report["files"]["cedargate.yaml"].as_str().unwrap();
    assert!(
        config.contains("issuer: \"https://login.example.org\"") && config.contains("(line 22)"),
        "{config}"
    );
    let (_, report) = import("26-helm-extra-args.yaml");
    assert!(
        named(&report, "warning").join("\n").contains("`pass-host-header`"),
        "{report}"
    );
    let (_, report) = import("32-configmap-and-deployment.yaml");
    let policies = report["files"]["policies/_shared/access.cedar"].as_str().unwrap();
    assert!(policies.contains("*@example.com"), "{policies}");
    for (name, closed_by) in [
        ("28-helm-release.yaml", "`github-org`"),
        ("31-helm-emails-file.yaml", "`authenticatedEmailsFile`"),
    ] {
        let (_, report) = import(name);
        let policies = report["files"]["policies/_shared/access.cedar"].as_str().unwrap();
        let errors = named(&report, "error").join("\n");
        assert!(
            policies.contains("false") && errors.contains(closed_by),
            "{name}: {errors} {policies}"
        );
    }
    let (_, report) = import("24-cluster-trusted.cfg");
    let errors = named(&report, "error").join("\n");
    for name in [
        "trusted_ips",
        "trusted_proxy_ips",
        "redis_insecure_skip_tls_verify",
        "oidc_enabled_signing_algs",
        "oidc_audience_claims",
    ] {
        assert!(errors.contains(&format!("`{name}`")), "{name}: {errors}");
    }
}

#[test]
fn a_configuration_comes_from_stdin_and_goes_to_stdout() {
    let mut child = cedargate(&["config", "import", "oauth2-proxy", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::Write;
    let text = "--provider=oidc --oidc-issuer-url=https://id.test --client-id=c --client-secret-file=s --email-domain=* --upstream=http://127.0.0.1:1 --redirect-url=https://a.test/oauth2/callback";
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let config = String::from_utf8(output.stdout).unwrap();
    assert!(config.contains("public_url: \"https://a.test\""), "{config}");
    for (file, why) in [("/dev/null", "no setting"), ("/nonexistent", "No such file")] {
        let output = run(&["config", "import", "oauth2-proxy", file]);
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{output:?}");
    }
}
