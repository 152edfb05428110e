//! Cross-origin requests: preflights answered by the gate or the app, answers readable by allowed origins only.

use crate::support::{Answer, Gate, PAGE, RawConnection, ScriptedServer, Setup, open_portal};

const ORIGIN: &str = "https://ui.example.com";
const ORDERS: &str = "/portal/customer/orders";

fn gate(cors: &str) -> Gate {
    let mut setup = Setup::examples();
    let portal = setup.files.get_mut("policies/customer/portal.yaml").unwrap();
    portal.push_str(&format!("\ncors: {cors}\n"));
    setup.start()
}

fn preflight(gate: &Gate, origin: &str) -> Answer {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ];
    crate::support::raw(gate.proxy, "OPTIONS", ORDERS, &headers, b"")
}

#[test]
fn the_gate_answers_preflights_of_allowed_origins_and_refuses_others() {
    let gate = gate(&format!("{{ origins: [\"{ORIGIN}\"] }}"));
    let granted = preflight(&gate, ORIGIN);
    assert_eq!((granted.status, granted.header("access-control-allow-origin")), (204, ORIGIN));
    assert_eq!(granted.header("access-control-allow-methods"), "POST");
    assert_eq!(granted.header("access-control-allow-headers"), "authorization");
    for stranger in [
        "https://evil.example",
        "https://ui.example.com.evil.test",
        "null",
        "http://ui.example.com",
    ] {
        let refused = preflight(&gate, stranger);
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (403, "origin_mismatch"),
            "{stranger}"
        );
        assert_eq!(refused.header("access-control-allow-origin"), "");
    }
    assert_eq!(gate.app.count(), 0, "no preflight reaches the app");
}

#[test]
fn a_refusal_is_readable_by_an_allowed_origin_only() {
    let gate = gate(&format!("{{ origins: [\"{ORIGIN}\"] }}"));
    let read = |origin| crate::support::raw(gate.proxy, "GET", ORDERS, &[("origin", origin)], b"");
    let refused = read(ORIGIN);
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, ORIGIN));
    assert_eq!(refused.header("vary"), "Origin");
    let exposed = refused.header("access-control-expose-headers");
    assert!(
        exposed.contains("x-cedargate-decision-id") && exposed.contains("www-authenticate"),
        "{exposed}"
    );
    assert_eq!(read("https://evil.example").header("access-control-allow-origin"), "");
}

#[test]
fn the_app_answers_preflights_without_credentials_and_nothing_else_passes() {
    let gate = gate("app");
    let headers = [
        ("origin", ORIGIN),
        ("access-control-request-method", "POST"),
        ("authorization", "Bearer not.a.token"),
        ("cookie", "a=b"),
    ];
    assert_eq!(crate::support::raw(gate.proxy, "OPTIONS", ORDERS, &headers, b"").status, 200);
    let seen = gate.app.last();
    assert!(seen.headers.get("authorization").is_none() && seen.headers.get("cookie").is_none());
    assert_eq!(seen.headers["x-forwarded-user"], "");
    assert_eq!(
        gate.send("OPTIONS", ORDERS, &[("origin", ORIGIN)]).status,
        401,
        "no preflight: a request like any other"
    );
    let with_body = crate::support::raw(gate.proxy, "OPTIONS", ORDERS, &headers[..2], b"x");
    assert_eq!(with_body.status, 401, "a preflight has no body");
}

#[test]
fn a_preflight_that_asks_for_an_upgrade_gets_no_tunnel() {
    let script = ScriptedServer::start(|head, wire| {
        let answer = match head.to_ascii_lowercase().contains("upgrade") {
            true => "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            false => "HTTP/1.1 204 No Content\r\n\r\n",
        };
        wire.send(answer);
    });
    let gate = open_portal()
        .file("policies/p/portal.yaml", "cors: app\n")
        .config(&format!("upstream: {{ url: '{}' }}", script.url()))
        .start();
    for protocol in ["websocket", "my-protocol/1", "WebSocket"] {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(format!(
            "OPTIONS {PAGE} HTTP/1.1\r\nhost: a\r\norigin: {ORIGIN}\r\naccess-control-request-method: GET\r\n\
             connection: Upgrade\r\nupgrade: {protocol}\r\nsec-websocket-key: x\r\n\r\n"
        ));
        assert_eq!(wire.read_answer("OPTIONS").unwrap().status, 204, "{protocol}");
    }
}

#[test]
fn without_cors_a_preflight_is_a_request_like_any_other() {
    let gate = Setup::examples().start();
    assert_eq!(preflight(&gate, ORIGIN).status, 401);
    assert_eq!(gate.app.count(), 0);
}

#[test]
fn an_emergency_forbid_closes_preflights_that_the_app_would_answer() {
    let gate = gate("app");
    assert_eq!(preflight(&gate, ORIGIN).status, 200);
    gate.put("policies/customer/_deny/stop.cedar", "forbid(principal, action, resource);");
    crate::support::eventually("the emergency forbid closes the preflight", || {
        let status = preflight(&gate, ORIGIN).status;
        if status == 403 { Ok(()) } else { Err(status.to_string()) }
    });
}
