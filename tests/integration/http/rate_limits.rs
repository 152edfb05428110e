//! Rates per address and per principal, and shedding what is too much at once.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::support::{Gate, PAGE, RawConnection, ScriptedServer, Setup, claims, eventually, open_portal, raw};

const ASSET: &str = "/portal/p/assets/logo.png";

fn limited(limits: &str) -> Setup {
    open_portal().config(&format!("limits: {{ workers: 2, drain_timeout: 5s, {limits} }}"))
}

fn reasons(gate: &Gate, at_least: usize) -> Vec<String> {
    let records = gate.records(at_least);
    records.iter().map(|r| r["reason"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_address_over_its_rate_is_refused_before_its_credential_is_read() {
    let gate = limited("rate_per_address: { requests: 4, per: 1h }")
        .file(
            "policies/p/portal.yaml",
            "public: [ \"GET /portal/p/assets/**\" ]\ncors: { origins: [\"https://ui.test\"] }\n",
        )
        .start();
    // these count: the gate's own endpoint, a public path, a preflight, a request without a token
    assert_eq!(gate.send("GET", "/.well-known/cedargate/jwks.json", &[]).status, 200);
    assert_eq!(raw(gate.proxy, "GET", ASSET, &[], b"").status, 200);
    let preflight = [("origin", "https://ui.test"), ("access-control-request-method", "GET")];
    assert_eq!(raw(gate.proxy, "OPTIONS", PAGE, &preflight, b"").status, 204);
    assert_eq!(raw(gate.proxy, "GET", PAGE, &[], b"").status, 401);
    let token = gate.issuer.token("alice", &[]);
    for path in [PAGE, ASSET, "/.well-known/cedargate/jwks.json"] {
        let answer = raw(gate.proxy, "GET", path, &[("authorization", &format!("Bearer {token}"))], b"");
        assert_eq!((answer.status, answer.code().as_str()), (429, "rate_limited"), "{path}");
        let wait: u64 = answer.header("retry-after").parse().unwrap();
        assert!((800..=900).contains(&wait), "one of four per hour: {wait}");
    }
    let grpc = raw(gate.proxy, "POST", PAGE, &[("content-type", "application/grpc")], b"");
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, "8"));
    assert!(!grpc.header("retry-after").is_empty());
    let read = raw(gate.proxy, "GET", PAGE, &[("origin", "https://ui.test")], b"");
    assert_eq!(
        (read.status, read.header("access-control-allow-origin")),
        (429, "https://ui.test")
    );
    assert!(read.header("access-control-expose-headers").contains("retry-after"));
    assert_eq!(gate.app.count(), 1, "only the first asset reached the app");
    let reasons = reasons(&gate, 9);
    assert_eq!(reasons.iter().filter(|r| *r == "rate_limited").count(), 5, "{reasons:?}");
    let metrics = gate.metrics();
    let counted = "cedargate_decisions_total{decision=\"deny\",door=\"proxy\",portal=\"p\",reason=\"rate_limited\"} 4";
    assert!(metrics.contains(counted), "{metrics}");
    // other doors and listeners do not count
    let ask = json!({"portal": "p", "token": token, "action": "GET", "resource": {"type": "Path", "id": PAGE}});
    assert_eq!(gate.authorize(&ask)["decision"], "allow");
}

#[test]
fn clients_behind_a_trusted_proxy_have_their_own_rates_and_other_peers_cannot_claim_an_address() {
    let rate = "rate_per_address: { requests: 1, per: 1h }";
    let trusted = limited(rate).config("trusted_proxies: [127.0.0.0/8]").start();
    let from = |gate: &Gate, address: &str| gate.send("GET", ASSET, &[("x-forwarded-for", address)]).status;
    for (address, status) in [
        ("192.0.2.1", 200),
        ("192.0.2.1", 429),
        ("::ffff:192.0.2.1", 429),
        ("198.51.100.7, 192.0.2.1", 429),
        ("192.0.2.2", 200),
        ("2001:db8::1", 200),
        ("2001:db8::ffff", 429),
        ("2001:db8:0:1::1", 200),
    ] {
        assert_eq!(from(&trusted, address), status, "{address}");
    }
    let direct = limited(rate).start();
    assert_eq!(from(&direct, "192.0.2.1"), 200);
    assert_eq!(from(&direct, "192.0.2.2"), 429);
}

#[test]
fn a_principal_has_one_rate_for_all_its_tokens() {
    let gate = limited("rate_per_principal: { requests: 2, per: 1h }").start();
    let mut other = claims("alice", &["viewer"]);
    other["jti"] = json!("another");
    let (first, second) = (gate.issuer.token("alice", &[]), gate.issuer.sign(&other));
    assert_eq!(gate.get(PAGE, &first).status, 200);
    // a public path with a credential is a request of that principal
    assert_eq!(gate.get(ASSET, &second).status, 200);
    let answer = gate.get(PAGE, &second);
    assert_eq!((answer.status, answer.code().as_str()), (429, "rate_limited"));
    assert_eq!(gate.get(PAGE, &first).status, 429);
    assert_eq!(gate.get(PAGE, &gate.issuer.token("bob", &[])).status, 200);
    for _ in 0..5 {
        assert_eq!(
            gate.send("GET", ASSET, &[]).status,
            200,
            "an anonymous request has no principal rate"
        );
    }
    let ask = json!({"portal": "p", "token": first, "action": "GET", "resource": {"type": "Path", "id": PAGE}});
    assert_eq!(gate.authorize(&ask)["decision"], "allow", "the app's own question");
    let record = gate.records(10).into_iter().find(|r| r["reason"] == "rate_limited").unwrap();
    assert_eq!(
        (&record["principal"]["id"], &record["portal"]),
        (&json!("alice"), &json!("p"))
    );
    assert_eq!(record["http"]["status"], 429);
}

#[test]
fn a_client_that_waits_for_retry_after_is_answered() {
    let gate = limited("rate_per_principal: { requests: 2, per: 1s, burst: 1 }").start();
    let token = gate.issuer.token("alice", &[]);
    assert_eq!(gate.get(PAGE, &token).status, 200);
    let refused = std::iter::repeat_with(|| gate.get(PAGE, &token))
        .find(|answer| answer.status == 429)
        .unwrap();
    assert_eq!(refused.header("retry-after"), "1");
    eventually("half a second later it is answered", || match gate.get(PAGE, &token).status {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
}

/// An app that answers the head at once and the body's end when it is released.
fn slow_app() -> (ScriptedServer, Arc<AtomicBool>) {
    let released = Arc::new(AtomicBool::new(false));
    let released_app = Arc::clone(&released);
    let script = ScriptedServer::start(move |_, wire| {
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\nx-app: yes\r\nconnection: close\r\n\r\nhalf");
        eventually("the app is released", || {
            released_app.load(Ordering::SeqCst).then_some(()).ok_or(String::new())
        });
        wire.send("full");
    });
    (script, released)
}

fn request(gate: &Gate, path: &str) -> String {
    let token = gate.issuer.token("alice", &[]);
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n")
}

#[test]
fn requests_over_the_limit_are_shed_at_once_on_an_open_connection() {
    let (app, released) = slow_app();
    let gate = limited("requests: 1")
        .config(&format!("upstream: {{ url: '{}' }}", app.url()))
        .start();
    let (mut first, mut second) = (RawConnection::open(gate.proxy), RawConnection::open(gate.proxy));
    first.send(request(&gate, PAGE));
    first.read_until("half");
    // the app sent the head but not the body: the request is still in progress
    for _ in 0..3 {
        second.send(request(&gate, PAGE));
        let shed = second.read_answer("GET").unwrap();
        assert_eq!((shed.status, shed.code().as_str()), (503, "overloaded"));
        assert_eq!((shed.header("retry-after"), shed.header("connection")), ("1", ""));
    }
    assert_eq!(raw(gate.admin, "GET", "/readyz", &[], b"").status, 200);
    let ask = json!({"portal": "p", "principal": "User::\"a\"", "action": "GET", "resource": {"type": "Path", "id": PAGE}});
    assert_eq!(gate.authorize(&ask)["decision"], "allow", "what is in flight may ask");
    assert_eq!(app.count(), 1);
    released.store(true, Ordering::SeqCst);
    first.read_until("full");
    eventually("the place is free again", || {
        second.send(request(&gate, PAGE));
        match second.read_answer("GET").unwrap().status {
            200 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    let shed = gate.records(6).into_iter().filter(|r| r["reason"] == "overloaded").count();
    assert!(shed >= 3, "{shed}");
    assert!(gate.metrics().contains("reason=\"overloaded\""));
}

#[test]
fn a_client_that_goes_away_frees_its_request_slot() {
    let (app, _never) = slow_app();
    let gate = limited("requests: 2")
        .config(&format!("upstream: {{ url: '{}' }}", app.url()))
        .start();
    for _ in 0..10 {
        let mut wires: Vec<RawConnection> = (0..2).map(|_| RawConnection::open(gate.proxy)).collect();
        for wire in &mut wires {
            eventually("there is a place", || {
                wire.send(request(&gate, PAGE));
                let mut head = [0; 12];
                wire.stream.read_exact(&mut head).unwrap();
                match &head {
                    b"HTTP/1.1 200" => Ok(()),
                    _ => {
                        *wire = RawConnection::open(gate.proxy);
                        Err(String::from_utf8_lossy(&head).into_owned())
                    }
                }
            });
        }
    }
}

#[test]
fn a_shed_upload_is_refused_without_being_read() {
    let (app, _never) = slow_app();
    let gate = limited("requests: 1")
        .config(&format!("upstream: {{ url: '{}' }}", app.url()))
        .start();
    let mut first = RawConnection::open(gate.proxy);
    first.send(request(&gate, PAGE));
    first.read_until("half");
    let mut second = RawConnection::open(gate.proxy);
    second
        .stream
        .write_all(b"POST /portal/p/page HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\nx")
        .unwrap();
    assert_eq!(second.read_answer("POST").unwrap().status, 503);
    assert!(second.is_closed(), "the gate does not read a gigabyte to keep a connection");
}
