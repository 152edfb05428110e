//! `cedargate login` at a real provider (`oidc-provider`) with the device flow, and at one that misbehaves.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::login_gate::{LoginSetup, start_gate_for};
use crate::support::openid::{Browser, Hop, Provider};
use crate::support::{RawConnection, ScriptedServer};

/// A running `cedargate login`, and what it told its user.
struct Login {
    process: Child,
    address: String,
    code: String,
    told: String,
}

impl Login {
    fn start(issuer: &str, more: &[&str]) -> Self {
        Self::start_at(&["--issuer", issuer], more)
    }

    fn start_at(provider: &[&str], more: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_cedargate"))
            .args(["login", "--client-id", "cli"])
            .args(provider)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = String::new();
        for line in BufReader::new(process.stderr.as_mut().unwrap()).lines().map(Result::unwrap) {
            told.push_str(&line);
            told.push('\n');
            if line.starts_with("Waiting") {
                break;
            }
        }
        let after = |name: &str| {
            let line = told.lines().find_map(|line| line.trim().strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name}: {told}")).trim().to_owned()
        };
        Self {
            address: after("address "),
            code: after("code "),
            process,
            told,
        }
    }

    /// The exit code and stdout.
    fn finish(mut self) -> (i32, String) {
        let mut out = String::new();
        self.process.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        (self.process.wait().unwrap().code().unwrap(), out)
    }
}

fn provider() -> Provider {
    let shape = json!({"access": {"aud": "api", "claims": {"tenant": "acme", "roles": ["viewer"]}}});
    let provider = Provider::setup().shape(&shape).start();
    provider.client(
        &json!({"client_id": "cli", "token_endpoint_auth_method": "none", "response_types": [],
        "redirect_uris": [], "grant_types": ["urn:ietf:params:oauth:grant-type:device_code"]}),
    );
    provider.account("alice", &json!({"tenant": "acme", "roles": ["viewer"]}));
    provider
}

/// Types the code and compares it, as far as the login form.
fn enter(browser: &mut Browser, login: &Login) -> Hop {
    let page = browser.open(&login.address);
    let confirm = browser.submit(&page, &[("user_code", &login.code)]);
    assert!(confirm.text().contains(&login.code), "{}", confirm.text());
    confirm
}

fn approve(login: &Login) {
    let mut browser = Browser::new();
    let confirm = enter(&mut browser, login);
    let hop = browser.submit(&confirm, &[]);
    let form = browser.follow(hop);
    let hop = browser.submit(&form, &[("login", "alice")]);
    let done = browser.follow(hop);
    assert!(done.text().contains("Done"), "{} {}", done.url, done.text());
}

#[test]
fn a_token_of_the_device_flow_opens_the_gate() {
    let provider = provider();
    let gate = start_gate_for(&LoginSetup {
        issuer_url: &provider.issuer(),
        ..LoginSetup::default()
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "an older file that everyone can read").unwrap();
    let login = Login::start(&provider.issuer(), &["--output", file.to_str().unwrap()]);
    assert!(
        login.told.contains("Only go on if you started this command yourself"),
        "{}",
        login.told
    );
    approve(&login);
    assert_eq!(login.finish(), (0, String::new()));
    let token = std::fs::read_to_string(&file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    let answer = gate.gate.get("/portal/p/page", token.trim());
    assert_eq!(answer.status, 200, "{}", answer.text());
    // to stdout, and nothing else there
    let login = Login::start(&provider.issuer(), &["--token", "id"]);
    approve(&login);
    let (code, id_token) = login.finish();
    assert_eq!((code, id_token.trim().split('.').count()), (0, 3), "{id_token}");
}

#[test]
fn the_provider_is_one_of_the_configuration_and_the_client_never_the_gates_own() {
    let provider = provider();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cedargate.yaml");
    let file = path.to_str().unwrap();
    let configured = |providers: &str| {
        let text = format!(
            "public_url: https://shop.test\nupstream: {{ url: 'http://127.0.0.1:1' }}\n\
             issuers:\n  - {{ name: corp, issuer: '{}', audiences: [api] }}\n  - {{ name: other, issuer: 'https://id.test/', audiences: [api] }}\n\
             login: {{ providers: {{ {providers} }} }}\n",
            provider.issuer()
        );
        std::fs::write(&path, text).unwrap();
    };
    let client = "client_id: gate, client_secret_file: secret";
    let both = format!("corp: {{ issuer: corp, {client} }}, partner: {{ issuer: other, {client} }}");
    let local = "staff: { users_file: users.yaml }";
    std::fs::write(folder.path().join("secret"), "of the gate").unwrap();
    std::fs::write(folder.path().join("users.yaml"), "users: {}\n").unwrap();
    configured(&both);
    let refused = |arguments: &[&str], client: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_cedargate"))
            .args(["login", "--config", file, "--client-id", client])
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for arguments in [&[][..], &["--provider", "nobody"]] {
        let told = refused(arguments, "cli");
        assert!(told.contains("--provider (corp, partner)"), "{told}");
    }
    assert!(refused(&["--provider", "corp"], "gate").contains("the gate's own client"));
    let login = Login::start_at(&["--config", file, "--provider", "corp"], &[]);
    approve(&login);
    let (code, token) = login.finish();
    assert_eq!((code, token.trim().split('.').count()), (0, 3));
    // the only provider with tokens needs no name
    configured(&format!("corp: {{ issuer: corp, {client} }}, {local}"));
    let login = Login::start_at(&["--config", file], &[]);
    approve(&login);
    assert_eq!(login.finish().0, 0);
    assert!(refused(&["--provider", "staff"], "cli").contains("OpenID Connect provider"));
    std::fs::write(&path, "upstrem: {}\n").unwrap();
    assert!(refused(&[], "cli").contains("name the provider with --issuer"));
}

#[test]
fn a_refused_login_and_a_provider_without_the_flow_are_failures() {
    let provider = provider();
    let login = Login::start(&provider.issuer(), &[]);
    let mut browser = Browser::new();
    let confirm = enter(&mut browser, &login);
    browser.submit(&confirm, &[("abort", "yes")]);
    assert_eq!(login.finish(), (1, String::new()));
    let no_flow = Command::new(env!("CARGO_BIN_EXE_cedargate"))
        .args(["login", "--issuer", "http://127.0.0.1:9", "--client-id", "cli"])
        .output()
        .unwrap();
    assert_eq!(no_flow.status.code(), Some(1));
    let unknown = Command::new(env!("CARGO_BIN_EXE_cedargate"))
        .args(["login", "--issuer", &provider.issuer(), "--client-id", "stranger"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(unknown.status.code() == Some(1) && told.contains("invalid_client"), "{told}");
}

/// A provider with this answer to the request for a code, `HOST` being its own; the token endpoint answers what `token`
/// says about the so many-th request.
fn scripted(
    answer: &'static str,
    token: impl Fn(usize) -> &'static str + Send + Sync + 'static,
) -> (ScriptedServer, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = ScriptedServer::start(move |head: &str, wire: &mut RawConnection| {
        let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().trim();
        let (status, body) = if head.contains("openid-configuration") {
            let body = format!(
                r#"{{"issuer":"http://{host}","device_authorization_endpoint":"http://{host}/device","token_endpoint":"http://{host}/token"}}"#
            );
            ("200 OK", body)
        } else if head.starts_with("POST /device") {
            ("200 OK", answer.replace("HOST", host))
        } else {
            let body = token(count.fetch_add(1, Ordering::SeqCst));
            (
                if body.contains("error") { "400 Bad Request" } else { "200 OK" },
                body.to_owned(),
            )
        };
        wire.send(format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        ));
    });
    (server, asked)
}

#[test]
fn slow_down_makes_the_interval_longer() {
    let answer = r#"{"device_code":"d","user_code":"AB-CD","verification_uri":"http://HOST/","expires_in":60,"interval":1}"#;
    let (server, asked) = scripted(answer, |request| match request {
        0 => r#"{"error":"authorization_pending"}"#,
        1 => r#"{"error":"slow_down"}"#,
        _ => r#"{"access_token":"a.b.c","token_type":"Bearer"}"#,
    });
    let started = Instant::now();
    let login = Login::start(&server.url(), &[]);
    assert_eq!(login.finish(), (0, "a.b.c\n".to_owned()));
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    // 1 s after the first, 5 s more after `slow_down` (RFC 8628, section 3.5)
    assert!(started.elapsed() >= Duration::from_secs(7), "{:?}", started.elapsed());
}

#[test]
fn an_answer_that_a_terminal_must_not_print_is_refused() {
    for answer in [
        r#"{"device_code":"d","user_code":"AB\u001b[2J","verification_uri":"http://HOST/","expires_in":60}"#,
        r#"{"device_code":"d","user_code":"AB","verification_uri":"javascript:alert(1)","expires_in":60}"#,
        r#"{"device_code":"d","user_code":"AB","verification_uri":"http://elsewhere.test/device","expires_in":60}"#,
        r#"{"device_code":"d","user_code":"AB","verification_uri":"http://HOST/",
            "verification_uri_complete":"http://elsewhere.test/device?user_code=AB","expires_in":60}"#,
    ] {
        let (server, asked) = scripted(answer, |_| r#"{"error":"authorization_pending"}"#);
        let output = Command::new(env!("CARGO_BIN_EXE_cedargate"))
            .args(["login", "--issuer", &server.url(), "--client-id", "cli"])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{answer}: {told}");
        assert!(told.contains("user_code") || told.contains("verification_uri"), "{told}");
        assert!(!told.contains('\u{1b}') && !told.contains("elsewhere"), "{told}");
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    }
}
