//! The token that the app gets: none, the client's own, the gate's assertion, or one that the provider gives for it
//! (RFC 8693).
//!
//! The provider's token endpoint is a server of the test, which records what it is asked; in one test it is that of a
//! real provider, `oidc-provider`.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::login_gate::{LoginSetup, alice, header, register_at, start_gate_for};
use crate::support::openid::{Browser, Provider};
use crate::support::scripted_provider::{Script, ScriptedProvider};
use crate::support::session_client::auth_event;
use crate::support::{Gate, PAGE, ScriptedServer, Setup, eventually, open_portal, raw, response};

/// A token endpoint.
struct TokenEndpoint {
    server: ScriptedServer,
    /// Status line and body of the next answers.
    answer: Arc<Mutex<(String, Value)>>,
    forms: Arc<Mutex<Vec<HashMap<String, String>>>>,
}

impl TokenEndpoint {
    fn start() -> Self {
        let answer = Arc::new(Mutex::new(("200 OK".to_owned(), good("app-token", 600))));
        let forms = Arc::new(Mutex::new(Vec::new()));
        let (answers, asked) = (Arc::clone(&answer), Arc::clone(&forms));
        let server = ScriptedServer::start(move |head, wire| {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let mut body = wire.take_left();
            let missing = length.unwrap_or(0) - body.len();
            let mut rest = vec![0; missing];
            wire.stream.read_exact(&mut rest).unwrap();
            body.extend(rest);
            asked
                .lock()
                .unwrap()
                .push(url::form_urlencoded::parse(&body).into_owned().collect());
            std::thread::sleep(Duration::from_millis(50));
            let (status, body) = answers.lock().unwrap().clone();
            if status != "hang up" {
                wire.send(response(&status, body.to_string().as_bytes()));
            }
        });
        Self { server, answer, forms }
    }

    fn answer(&self, status: &str, body: Value) {
        *self.answer.lock().unwrap() = (status.to_owned(), body);
    }

    fn asked(&self) -> Vec<HashMap<String, String>> {
        self.forms.lock().unwrap().clone()
    }

    fn upstream(&self, more: &str) -> String {
        format!(
            "upstream: {{ url: 'http://{{app}}', token: exchange, exchange: {{ issuer: test, token_url: '{}/token', client_id: 'gate:1', \
             client_secret: 'p%w d' {more} }} }}",
            self.server.url()
        )
    }
}

fn good(token: &str, life: i64) -> Value {
    json!({"access_token": token, "token_type": "Bearer", "expires_in": life,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"})
}

fn start(endpoint: &TokenEndpoint) -> Gate {
    let more = ", audience: orders, scopes: [read, write]";
    open_portal().config(&endpoint.upstream(more)).start()
}

fn seen_authorization(gate: &Gate) -> Option<String> {
    let seen = gate.app.last();
    seen.headers
        .get("authorization")
        .map(|value| value.to_str().unwrap().to_owned())
}

#[test]
fn the_app_gets_the_exchanged_token_and_one_call_serves_all_requests_of_a_caller() {
    let endpoint = TokenEndpoint::start();
    let gate = start(&endpoint);
    let token = gate.issuer.token("alice", &["viewer"]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let authorization = format!("Bearer {token}");
            let proxy = gate.proxy;
            scope.spawn(move || assert_eq!(raw(proxy, "GET", PAGE, &[("authorization", &authorization)], b"").status, 200));
        }
    });
    assert_eq!(gate.get(PAGE, &token).status, 200);
    assert_eq!(seen_authorization(&gate).as_deref(), Some("Bearer app-token"));
    let asked = endpoint.asked();
    assert_eq!(asked.len(), 1, "the answer is cached, and concurrent requests share one call");
    let expected = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", token.as_str()),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("audience", "orders"),
        ("scope", "read write"),
    ];
    assert_eq!(
        asked[0],
        expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    );
    let head = endpoint.server.heads.lock().unwrap()[0].to_ascii_lowercase();
    assert!(head.contains("authorization: basic "), "{head}");
    // another caller has another token, and nothing of it is for alice
    endpoint.answer("200 OK", good("bobs-app-token", 600));
    assert_eq!(gate.get(PAGE, &gate.issuer.token("bob", &["viewer"])).status, 200);
    assert_eq!(seen_authorization(&gate).as_deref(), Some("Bearer bobs-app-token"));
    assert_eq!(gate.get(PAGE, &token).status, 200);
    assert_eq!(seen_authorization(&gate).as_deref(), Some("Bearer app-token"));
    // on a public path without a caller there is none
    assert_eq!(
        gate.send("GET", "/portal/p/assets/a", &[("authorization", "Basic YTpi")])
            .status,
        200
    );
    assert_eq!(seen_authorization(&gate), None, "no scheme of the client reaches the app");
    let event = auth_event(&gate, "it is recorded", |e| e["event"] == "token_exchange");
    assert_eq!(
        (&event["result"], &event["subject"], &event["issuer"]),
        (&json!("success"), &json!("alice"), &json!("test"))
    );
    let log = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap();
    assert!(!log.contains("app-token") && !log.contains(&token), "{log}");
}

#[test]
fn a_token_that_expires_soon_is_not_used_again() {
    let endpoint = TokenEndpoint::start();
    endpoint.answer("200 OK", good("short", 10));
    let gate = start(&endpoint);
    let token = gate.issuer.token("alice", &["viewer"]);
    for calls in [1, 2] {
        assert_eq!(gate.get(PAGE, &token).status, 200);
        assert_eq!(endpoint.asked().len(), calls);
    }
}

#[test]
fn whatever_fails_the_clients_own_token_never_reaches_the_app() {
    let failures: [(&str, Value, u16, &str); 12] = [
        ("500 Internal Server Error", json!({}), 503, "key_unavailable"),
        ("302 Found", json!({}), 503, "key_unavailable"),
        ("401 Unauthorized", json!({"error": "invalid_client"}), 503, "key_unavailable"),
        ("400 Bad Request", json!({"error": "invalid_target"}), 503, "key_unavailable"),
        ("400 Bad Request", json!({"error": "invalid_request"}), 401, "token_invalid"),
        ("400 Bad Request", json!({"error": "invalid_grant"}), 401, "token_invalid"),
        ("hang up", json!({}), 503, "key_unavailable"),
        ("200 OK", json!([1]), 503, "key_unavailable"),
        ("200 OK", json!({"token_type": "Bearer"}), 503, "key_unavailable"),
        (
            "200 OK",
            json!({"access_token": "a\r\nx-evil: 1", "token_type": "Bearer"}),
            503,
            "key_unavailable",
        ),
        (
            "200 OK",
            json!({"access_token": "a", "token_type": "DPoP"}),
            503,
            "key_unavailable",
        ),
        (
            "200 OK",
            json!({"access_token": "a", "token_type": "Bearer", "issued_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}),
            503,
            "key_unavailable",
        ),
    ];
    let endpoint = TokenEndpoint::start();
    let gate = start(&endpoint);
    for (n, (status, body, expected, code)) in failures.into_iter().enumerate() {
        endpoint.answer(status, body.clone());
        let answer = gate.get(PAGE, &gate.issuer.token(&format!("user-{n}"), &["viewer"]));
        assert_eq!((answer.status, answer.code().as_str()), (expected, code), "{status} {body}");
        assert!(!answer.text().contains("invalid_"), "{}", answer.text());
    }
    assert_eq!(gate.app.count(), 0);
    // the gate asks a failed provider again after a moment
    endpoint.answer("200 OK", good("app-token", 600));
    let token = gate.issuer.token("user-0", &["viewer"]);
    eventually("the exchange works again", || {
        let answer = gate.get(PAGE, &token);
        (answer.status == 200).then_some(()).ok_or(answer.text())
    });
}

#[test]
fn a_token_goes_to_the_provider_of_its_own_issuer_alone() {
    let endpoint = TokenEndpoint::start();
    let mut setup = open_portal().config(&endpoint.upstream(""));
    setup.issuers = Some(
        "issuers: [{ name: other, issuer: 'https://issuer.test/', audiences: [shop], jwks: { file: jwks.json } }, \
         { name: test, issuer: 'https://elsewhere.test/', audiences: [shop], jwks: { file: jwks.json } }]"
            .to_owned(),
    );
    let gate = setup.start();
    let answer = gate.get(PAGE, &gate.issuer.token("alice", &["viewer"]));
    assert_eq!((answer.status, answer.code().as_str()), (503, "key_unavailable"));
    assert!(endpoint.asked().is_empty(), "the token was not sent");
}

#[test]
fn a_session_exchanges_the_access_token_of_its_login() {
    let endpoint = TokenEndpoint::start();
    let corp = ScriptedProvider::start(Script {
        token: json!({"access_token": "session-token", "refresh_token": "r"}),
        id_claims: json!({"tenant": "acme", "roles": ["viewer"]}),
        ..Script::default()
    });
    let upstream = endpoint.upstream("").replace("issuer: test", "issuer: corp");
    let login_gate = start_gate_for(&LoginSetup {
        issuer_url: &corp.issuer(),
        provider: ", scopes: [openid]",
        more: &upstream,
        ..LoginSetup::default()
    });
    let mut browser = Browser::new();
    assert_eq!(login_gate.open(&mut browser, "/portal/p/x").status, 200);
    assert_eq!(header(&login_gate.gate.app.last(), "authorization"), "Bearer app-token");
    assert_eq!(endpoint.asked()[0]["subject_token"], "session-token");
}

#[test]
fn a_real_provider_gives_the_app_a_token_of_the_session_that_it_began() {
    let exchange = "urn:ietf:params:oauth:grant-type:token-exchange";
    let gate_at = |provider: &Provider, secret: &str| {
        let upstream = format!(
            "upstream: {{ url: 'http://{{app}}', token: exchange, exchange: {{ issuer: corp, token_url: '{}/token', client_id: orders, \
             client_secret: '{secret}', audience: orders }} }}",
            provider.issuer()
        );
        start_gate_for(&LoginSetup {
            issuer_url: &provider.issuer(),
            more: &upstream,
            ..LoginSetup::default()
        })
    };
    let client = |provider: &Provider, grant_types: Value| {
        provider.client(
            &json!({"client_id": "orders", "client_secret": "a secret of the orders", "redirect_uris": [],
            "response_types": [], "grant_types": grant_types}),
        );
    };
    let (provider, login_gate) = register_at(
        |provider| gate_at(provider, "a secret of the orders"),
        Provider::setup().start(),
    );
    client(&provider, json!([exchange]));
    provider.account("bob", &alice(&["viewer"]));
    let mut tokens = Vec::new();
    for name in ["alice", "bob"] {
        let mut browser = Browser::new();
        let page = browser.log_in(login_gate.url("/portal/p/x").as_str(), name);
        assert_eq!(page.status, 200, "{}", page.text());
        let authorization = header(&login_gate.gate.app.last(), "authorization").to_owned();
        assert_eq!(login_gate.open(&mut browser, "/portal/p/y").status, 200);
        assert_eq!(
            header(&login_gate.gate.app.last(), "authorization"),
            authorization,
            "one token for a session"
        );
        // the provider knows the app's token, and of whom it is
        let account = provider.get("/me", &[("authorization", &authorization)]);
        assert_eq!(
            (account.status, &account.json()["sub"]),
            (200, &json!(name)),
            "{}",
            account.text()
        );
        tokens.push(authorization);
    }
    assert_ne!(tokens[0], tokens[1]);
    assert_eq!(provider.count_tokens(exchange), 2);
    // a wrong secret, and a client that may not exchange: the app sees nothing
    for (secret, grant_types) in [("another secret", json!([exchange])), ("a secret of the orders", json!([]))] {
        let (provider, login_gate) = register_at(|provider| gate_at(provider, secret), Provider::setup().start());
        client(&provider, grant_types);
        let page = Browser::new().log_in(login_gate.url("/portal/p/x").as_str(), "alice");
        assert_eq!(page.status, 503, "{}", page.text());
        assert_eq!(login_gate.gate.app.count(), 0);
    }
}

#[test]
fn the_assertion_can_be_the_apps_bearer_token() {
    let gate = open_portal()
        .config("upstream: { url: 'http://{app}', token: assertion }")
        .start();
    let token = gate.issuer.token("alice", &["viewer"]);
    assert_eq!(gate.get(PAGE, &token).status, 200);
    let seen = gate.app.last();
    let assertion = seen.headers["x-cedargate-assertion"].to_str().unwrap();
    assert_eq!(seen_authorization(&gate), Some(format!("Bearer {assertion}")));
    assert_eq!(
        gate.send("GET", "/portal/p/assets/a", &[("authorization", "Basic YTpi")])
            .status,
        200
    );
    assert_eq!(seen_authorization(&gate), None);
    // a proxy that asks gets the same header to set
    let authorization = format!("Bearer {token}");
    let asked = raw(
        gate.decision,
        "GET",
        "/auth-request",
        &[
            ("authorization", &authorization),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-original-method", "GET"),
            ("x-original-url", &format!("https://shop.test{PAGE}")),
        ],
        b"",
    );
    assert_eq!(asked.status, 200);
    assert_eq!(
        asked.header("authorization"),
        format!("Bearer {}", asked.header("x-cedargate-assertion"))
    );
}

#[test]
fn passthrough_has_an_older_name_and_mistakes_are_start_errors() {
    for upstream in [
        "token: passthrough",
        "forward_authorization: true",
        "token: passthrough, forward_authorization: true",
    ] {
        let gate = open_portal()
            .config(&format!("upstream: {{ url: 'http://{{app}}', {upstream} }}"))
            .start();
        let token = gate.issuer.token("alice", &["viewer"]);
        assert_eq!(gate.get(PAGE, &token).status, 200);
        assert_eq!(seen_authorization(&gate), Some(format!("Bearer {token}")));
    }
    let refused = |setup: Setup| setup.try_start().err().expect("it started");
    for (upstream, key) in [
        ("token: exchange", "upstream.exchange"),
        (
            "token: assertion, forward_authorization: true",
            "upstream.forward_authorization",
        ),
        (
            "exchange: { issuer: test, client_id: a, client_secret: b }",
            "upstream.exchange",
        ),
        (
            "token: exchange, exchange: { issuer: nobody, client_id: a, client_secret: b }",
            "upstream.exchange.issuer",
        ),
        (
            "token: exchange, exchange: { issuer: test, client_id: a }",
            "upstream.exchange.client_secret_file",
        ),
        (
            "token: exchange, exchange: { issuer: test, client_id: a, client_secret: b, token_url: 'http://id.test/t' }",
            "upstream.exchange.token_url",
        ),
    ] {
        let error = refused(open_portal().config(&format!("upstream: {{ url: 'http://{{app}}', {upstream} }}")));
        assert!(error.contains(key), "{upstream}: {error}");
    }
}
