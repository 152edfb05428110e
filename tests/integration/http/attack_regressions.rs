//! Regressions of attacks that a review found: bypasses of a decision, and harm to other clients.

use std::time::Duration;

use serde_json::json;

use crate::http::protocol_parity::start;
use crate::support::http2_frames::{DATA, END_STREAM, Field, Http2, Outcome, RST_STREAM, SETTINGS, field};
use crate::support::{Gate, OPEN_SCHEMA, PAGE, ScriptedServer, Setup, eventually, open_portal, raw, response};

fn bearer(gate: &Gate) -> String {
    format!("Bearer {}", gate.issuer.token("alice", &["viewer"]))
}

fn ask(method: &str, path: &str, gate: &Gate) -> Vec<Field> {
    let mut fields = start(method, path.as_bytes());
    fields.push(field("authorization", bearer(gate)));
    fields
}

/// A client that opens no stream's window.
fn shut(gate: &Gate) -> Http2 {
    let mut client = Http2::open(gate.proxy);
    client.frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    client
}

#[test]
fn a_connection_header_removes_no_header_of_the_decision() {
    let schema = OPEN_SCHEMA.replace("context: {}", "context: { headers: { x_readonly?: String } }");
    let policy = "@id(\"careful\") permit (principal, action, resource) when { context.headers has x_readonly };";
    let gate = Setup::portal(&schema, policy).start();
    let token = bearer(&gate);
    let put = |more: &[(&str, &str)]| {
        let mut headers = vec![("authorization", token.as_str()), ("x-readonly", "1")];
        headers.extend_from_slice(more);
        raw(gate.proxy, "PUT", PAGE, &headers, b"x").status
    };
    assert_eq!(put(&[]), 200);
    assert_eq!(gate.app.last().headers["x-readonly"], "1");
    for named in ["x-readonly", "keep-alive, X-Readonly", "close,,x-readonly"] {
        assert_eq!(put(&[("connection", named)]), 403, "{named}");
    }
    for twin in ["x_readonly", "x.readonly"] {
        assert_eq!(put(&[(twin, "0")]), 400, "{twin}");
    }
    assert_eq!(gate.app.count(), 1);
}

#[test]
fn the_app_gets_the_host_that_was_decided_on() {
    let gate = open_portal().config("trusted_proxies: [127.0.0.1]").start();
    let token = bearer(&gate);
    let headers = [
        ("authorization", token.as_str()),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-host", "Shop.test"),
    ];
    assert_eq!(raw(gate.proxy, "GET", PAGE, &headers, b"").status, 200);
    let hosts: Vec<_> = gate.app.last().headers.get_all("host").iter().cloned().collect();
    assert_eq!(hosts, ["shop.test"]);
    let forged = [
        ("authorization", token.as_str()),
        ("x-forwarded-for", "1.2.3.4"),
        ("forwarded", "for=1.2.3.4;host=other.test"),
    ];
    assert_eq!(raw(gate.proxy, "GET", PAGE, &forged, b"").status, 400);
}

#[test]
fn a_body_after_an_answer_without_one_never_answers_another_request() {
    let app = ScriptedServer::start(|head, wire| {
        if head.starts_with("HEAD") {
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 60\r\n\r\n");
            std::thread::sleep(Duration::from_millis(50));
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL");
            let _next = wire.read_until("\r\n\r\n");
        } else {
            wire.send(response("200 OK", b"mine"));
        }
    });
    let gate = open_portal().config(&format!("upstream: {{ url: '{}' }}", app.url())).start();
    let token = bearer(&gate);
    for _ in 0..10 {
        assert_eq!(raw(gate.proxy, "HEAD", PAGE, &[("authorization", &token)], b"").status, 200);
        let answer = raw(gate.proxy, "GET", PAGE, &[("authorization", &token)], b"");
        assert_eq!(answer.text(), "mine");
    }
    assert_eq!(app.count(), 20, "a connection was used again");
}

#[test]
fn a_grpc_content_type_does_not_open_the_apps_circuit() {
    let gate = open_portal().start();
    let token = bearer(&gate);
    for _ in 0..20 {
        let headers = [("authorization", token.as_str()), ("content-type", "application/grpc")];
        let answer = raw(gate.proxy, "POST", PAGE, &headers, b"x");
        assert_eq!((answer.status, answer.header("grpc-status")), (200, "14"));
        assert_eq!(
            raw(gate.proxy, "GET", PAGE, &headers, b"").status,
            200,
            "gRPC is always a POST"
        );
    }
    let circuit = &gate.status()["upstream"]["circuit"];
    assert_eq!((&circuit["state"], &circuit["failures"]), (&json!("closed"), &json!(0)));
}

#[test]
fn a_refused_head_has_no_content_over_http2() {
    let gate = open_portal().start();
    for path in ["/nowhere", PAGE, "/a//b"] {
        match Http2::open(gate.proxy).exchange(&start("HEAD", path.as_bytes()), b"") {
            Outcome::Answer(answer) => {
                assert!(answer.status >= 400 && answer.body.is_empty(), "{path}: {answer:?}");
                assert!(answer.header("content-length").parse::<u32>().unwrap() > 100);
            }
            other => panic!("{path}: {other:?}"),
        }
    }
}

#[test]
fn streams_whose_window_stays_shut_are_reset_and_free_their_slot() {
    let limits = "limits: { workers: 2, drain_timeout: 1s, requests: 8, send_timeout: 5s }";
    let gate = open_portal().config(limits).start();
    let mut client = shut(&gate);
    // the gate's own answers hold no request slot
    let refused: Vec<u32> = (0..40).map(|_| client.ask(&start("GET", b"/nowhere"), END_STREAM)).collect();
    eventually("every stream has its head", || {
        let text = gate.metrics();
        text.contains("portal=\"none\",reason=\"portal_unknown\"} 40")
            .then_some(())
            .ok_or(text)
    });
    let token = bearer(&gate);
    let honest = || raw(gate.proxy, "GET", PAGE, &[("authorization", &token)], b"").status;
    assert_eq!(honest(), 200);
    // the app's answers hold a slot until the send timeout; the first client's connection may have been closed by then
    let mut holder = shut(&gate);
    for _ in 0..8 {
        holder.ask(&ask("GET", PAGE, &gate), END_STREAM);
    }
    // an honest request before this would take the place of one of them
    eventually("the app has answered them", || match gate.app.count() {
        9 => Ok(()),
        other => Err(other.to_string()),
    });
    for wanted in [503, 200] {
        eventually("all places are taken, and free again", || match honest() {
            status if status == wanted => Ok(()),
            other => Err(other.to_string()),
        });
    }
    let mut reset = std::collections::BTreeSet::new();
    // a connection whose client takes no bytes at all is closed
    while let Some(frame) = client.read() {
        if frame.kind == RST_STREAM {
            reset.insert(frame.stream);
        }
    }
    assert!(reset.len() > refused.len() / 2, "{reset:?}");
}

#[test]
fn a_burst_of_small_frames_within_the_window_is_a_body_like_any_other() {
    let gate = open_portal().start();
    let mut client = Http2::open(gate.proxy);
    let stream = client.ask(&ask("POST", PAGE, &gate), 0);
    let mut burst = Vec::new();
    for _ in 0..1500 {
        burst.extend([0, 0, 12, DATA, 0]);
        burst.extend(stream.to_be_bytes());
        burst.extend(b"twelve bytes");
    }
    client.send(&burst);
    client.data(stream, b"", END_STREAM);
    match client.outcome(stream) {
        Outcome::Answer(answer) => assert_eq!(answer.status, 200),
        other => panic!("{other:?}"),
    }
    assert_eq!(gate.app.last().body.len(), 18_000);
}

#[test]
fn a_head_too_large_for_the_gate_is_recorded_over_http2_too() {
    let gate = open_portal().start();
    let mut fields = ask("GET", PAGE, &gate);
    fields.push(field("x-large", "a".repeat(34_000)));
    match Http2::open(gate.proxy).exchange(&fields, b"") {
        Outcome::Answer(answer) => assert_eq!((answer.status, answer.code().as_str()), (431, "request_too_large")),
        other => panic!("{other:?}"),
    }
    let record = gate.records(1).remove(0);
    assert_eq!(record["reason"], "request_too_large");
    assert_eq!(gate.get(PAGE, &gate.issuer.token("alice", &[])).status, 200);
    assert_eq!(gate.records(2)[1]["http"]["client"], "127.0.0.1");
}

#[test]
fn an_app_that_refuses_an_upload_and_hangs_up_is_answered_to_the_client() {
    let app = ScriptedServer::start(|_head, wire| {
        wire.send(response("413 Payload Too Large", b"too much"));
    });
    let gate = open_portal().config(&format!("upstream: {{ url: '{}' }}", app.url())).start();
    let token = bearer(&gate);
    let upload = vec![b'x'; 3 << 20];
    for _ in 0..20 {
        let answer = raw(gate.proxy, "POST", PAGE, &[("authorization", &token)], &upload);
        assert_eq!((answer.status, answer.text().as_str()), (413, "too much"));
    }
}
