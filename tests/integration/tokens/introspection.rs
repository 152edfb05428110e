//! Opaque tokens: the gate introspects each once at its issuer, and refuses it without an answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::session_client::auth_event;
use crate::support::{Gate, ISSUER, OPEN_SCHEMA, PAGE, ScriptedServer, b64, now, open_portal, raw, response};

struct IntrospectionGate {
    gate: Gate,
    /// The issuer's answer; a number is a status.
    set_answer: Arc<Mutex<Value>>,
    issuer: ScriptedServer,
    calls: Arc<AtomicUsize>,
}

fn start_with(more: &str) -> IntrospectionGate {
    let (set_answer, calls) = (Arc::new(Mutex::new(json!({"active": false}))), Arc::new(AtomicUsize::new(0)));
    let (answers, counted) = (Arc::clone(&set_answer), Arc::clone(&calls));
    let issuer = ScriptedServer::start(move |_, wire| {
        counted.fetch_add(1, Ordering::AcqRel);
        let answer = answers.lock().unwrap().clone();
        match answer.as_str() {
            Some("hang up") => {}
            Some(status) => drop(wire.send(response(status, b"{}"))),
            None => {
                std::thread::sleep(Duration::from_millis(50));
                wire.send(response("200 OK", answer.to_string().as_bytes()));
            }
        }
    });
    let mut setup = open_portal();
    setup.issuers = Some(format!(
        "issuers:\n  - name: test\n    issuer: '{ISSUER}'\n    audiences: [shop]\n    jwks: {{ file: jwks.json }}\n    \
         introspection: {{ url: '{}/introspect', client_id: 'gate:1', client_secret: 'p%w d', cache: 30s {more} }}",
        issuer.url()
    ));
    let gate = setup.start();
    IntrospectionGate {
        gate,
        set_answer,
        issuer,
        calls,
    }
}

fn active() -> Value {
    json!({"active": true, "sub": "carol", "tenant": "acme", "roles": ["viewer"], "exp": now() + 600, "iat": now(), "token_type": "Bearer"})
}

impl IntrospectionGate {
    fn set_answer(&self, answer: Value) {
        *self.set_answer.lock().unwrap() = answer;
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Acquire)
    }
}

#[test]
fn an_active_token_gives_its_subject_and_is_introspected_once() {
    let setup = start_with("");
    setup.set_answer(active());
    let token = "opaque-secret-token";
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let authorization = format!("Bearer {token}");
            let ask = move |proxy| raw(proxy, "GET", PAGE, &[("authorization", &authorization)], b"").status;
            let proxy = setup.gate.proxy;
            scope.spawn(move || assert_eq!(ask(proxy), 200));
        }
    });
    assert_eq!((setup.gate.get(PAGE, token).status, setup.calls()), (200, 1));
    assert_eq!(setup.gate.app.last().headers["x-forwarded-user"], "carol");
    let head = setup.issuer.heads.lock().unwrap()[0].clone();
    let basic = base64::engine::general_purpose::STANDARD.encode("gate%3A1:p%25w+d");
    assert!(
        head.contains(&format!("authorization: Basic {basic}")) || head.contains(&format!("Authorization: Basic {basic}")),
        "{head}"
    );
    let event = auth_event(&setup.gate, "it is recorded", |e| e["event"] == "introspection");
    assert_eq!(
        (&event["reason"], &event["subject"], &event["issuer"]),
        (&json!("active"), &json!("carol"), &json!("test"))
    );
    assert!(
        !std::fs::read_to_string(setup.gate.path("decisions.jsonl"))
            .unwrap()
            .contains(token)
    );
}

#[test]
fn a_jwt_is_never_sent_to_the_introspection_endpoint() {
    let setup = start_with("");
    let jwt = setup.gate.issuer.token("alice", &[]);
    assert_eq!(setup.gate.get(PAGE, &jwt).status, 200);
    assert_eq!(setup.gate.get(PAGE, &format!("{}.{}.x", b64("{}"), b64("{}"))).status, 401);
    assert_eq!(setup.calls(), 0);
}

#[test]
fn an_unusable_introspection_answer_refuses_the_token() {
    let setup = start_with("");
    for (n, (member, value, status)) in [
        ("active", json!(false), 401),
        ("active", json!("true"), 503),
        ("iss", json!("https://evil.test/"), 401),
        ("aud", json!("other"), 401),
        ("aud", json!(["other", "shop"]), 200),
        ("exp", json!(now() - 3600), 401),
        ("exp", json!("soon"), 401),
        ("nbf", json!(now() + 3600), 401),
        ("sub", json!(""), 401),
        ("sub", Value::Null, 401),
        ("cnf", json!({"jkt": "x"}), 401),
        ("token_type", json!("DPoP"), 401),
        ("token_use", json!("refresh_token"), 401),
        ("typ", json!("Refresh"), 401),
        ("roles", json!([1]), 401),
    ]
    .into_iter()
    .enumerate()
    {
        let mut answer = active();
        answer[member] = value.clone();
        setup.set_answer(answer);
        let got = setup.gate.get(PAGE, &format!("token-{n}"));
        assert_eq!(got.status, status, "{member}: {value}: {}", got.text());
    }
}

#[test]
fn a_silent_issuer_gives_503_and_is_asked_again() {
    let setup = start_with("");
    setup.set_answer(active());
    assert_eq!(setup.gate.get(PAGE, "known").status, 200);
    for (n, trouble) in ["hang up", "500 Oops", "401 No", "302 Found", "200 OK"]
        .into_iter()
        .enumerate()
    {
        setup.set_answer(json!(trouble));
        let answer = setup.gate.get(PAGE, &format!("new-{n}"));
        assert_eq!(
            (answer.status, answer.code()),
            (503, "key_unavailable".to_owned()),
            "{trouble}"
        );
        assert_eq!(setup.gate.get(PAGE, "known").status, 200, "what was said before still counts");
        assert_eq!(setup.gate.get(PAGE, &setup.gate.issuer.token("alice", &[])).status, 200);
    }
    setup.set_answer(active());
    crate::support::eventually("it is asked again soon", || {
        let status = setup.gate.get(PAGE, "new-0").status;
        (status == 200).then_some(()).ok_or_else(|| status.to_string())
    });
}

#[test]
fn an_inactive_token_is_remembered_and_without_introspection_an_opaque_token_is_malformed() {
    let setup = start_with("");
    for _ in 0..5 {
        assert_eq!(setup.gate.get(PAGE, "nobodys").code(), "token_invalid");
    }
    assert_eq!(setup.calls(), 1);
    let gate = crate::support::Setup::portal(OPEN_SCHEMA, crate::support::OPEN_POLICY).start();
    assert_eq!(gate.get(PAGE, "opaque").code(), "token_invalid");
}
