//! The questions of proxies, sent to the decision listener itself.

use serde_json::json;

use super::front::start_gate;
use crate::support::IDENTITY_HEADERS;
use crate::support::session_client::{ORIGIN, log_in, portal};
use crate::support::{Answer, Gate, ISSUER, now, raw};

fn viewer(gate: &Gate) -> String {
    let claims = json!({"iss": ISSUER, "aud": "shop", "sub": "alice", "roles": ["viewer"], "iat": now(), "exp": now() + 600});
    format!("Bearer {}", gate.issuer.sign(&claims))
}

fn nginx<'a>(url: &'a str, authorization: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("x-original-method", "GET"),
        ("x-original-url", url),
        ("x-forwarded-for", "10.1.2.3"),
        ("authorization", authorization),
    ]
}

fn traefik<'a>(target: &'a str, authorization: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("x-forwarded-method", "GET"),
        ("x-forwarded-uri", target),
        ("x-forwarded-host", "shop.test"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "10.1.2.3"),
        ("authorization", authorization),
    ]
}

fn ask(gate: &Gate, path: &str, headers: &[(&str, &str)]) -> Answer {
    raw(gate.decision, "GET", path, headers, b"")
}

#[test]
fn a_permitted_question_is_answered_with_every_identity_header() {
    let gate = start_gate("");
    let viewer = viewer(&gate);
    let own = [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "10.1.2.3"),
        ("authorization", viewer.as_str()),
    ];
    for answer in [
        ask(&gate, "/auth-request", &nginx("https://shop.test/portal/p/x?y", &viewer)),
        ask(&gate, "/forward-auth", &traefik("/portal/p/x?y", &viewer)),
        ask(&gate, "/ext-authz/portal/p/x?y", &own),
    ] {
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{answer:?}");
        assert_eq!(answer.header("x-forwarded-user"), "alice");
        for name in IDENTITY_HEADERS
            .into_iter()
            .chain(["cookie", "authorization", "x-forwarded-access-token"])
        {
            assert!(answer.headers.contains_key(name), "{name}: {answer:?}");
        }
    }
    // on a public path without a credential all are there, and empty
    let answer = ask(&gate, "/forward-auth", &traefik("/portal/p/open/x", "")[..5]);
    assert_eq!((answer.status, answer.header("x-forwarded-user")), (200, ""));
    for name in IDENTITY_HEADERS {
        assert!(answer.headers.contains_key(name), "{name}: {answer:?}");
    }
    let doors: Vec<_> = gate.records(4).iter().map(|record| record["door"].clone()).collect();
    assert_eq!(doors, ["forward_auth", "forward_auth", "ext_authz", "forward_auth"]);
    let metrics = gate.metrics();
    assert!(metrics.contains("door=\"forward_auth\""), "{metrics}");
}

#[test]
fn nginx_gets_nothing_but_200_401_and_403_without_a_body() {
    let gate = start_gate("");
    let viewer = viewer(&gate);
    let broken = [
        ("https://shop.test/portal/p/secret", viewer.as_str(), 403, "forbidden"),
        ("https://shop.test/portal/none", &viewer, 403, "portal_unknown"),
        ("https://shop.test/portal/p//x", &viewer, 403, "request_invalid"),
        ("https://shop.test/portal/p/x", "Bearer x", 401, "token_invalid"),
        ("https://a b/portal/p/x", &viewer, 403, "request_invalid"),
        ("/portal/p/x", &viewer, 403, "request_invalid"),
    ];
    for (url, authorization, status, reason) in broken {
        let answer = ask(&gate, "/auth-request", &nginx(url, authorization));
        assert_eq!((answer.status, answer.body.len()), (status, 0), "{url} {answer:?}");
        assert_eq!(answer.header("x-cedargate-reason"), reason, "{url}");
        assert_eq!(answer.headers.contains_key("www-authenticate"), status == 401, "{url}");
    }
}

#[test]
fn a_question_that_leaves_a_doubt_is_refused() {
    let gate = start_gate("");
    let viewer = viewer(&gate);
    for (path, full) in [
        ("/auth-request", nginx("https://shop.test/portal/p/x", &viewer)),
        ("/forward-auth", traefik("/portal/p/x", &viewer)),
    ] {
        for at in 0..full.len() {
            let mut twice = full.clone();
            twice.push(full[at]);
            // an address may come in several lines; the last one counts
            if full[at].0 != "x-forwarded-for" {
                assert_ne!(ask(&gate, path, &twice).status, 200, "{path}: {} twice", full[at].0);
            }
            let mut less = full.clone();
            less.remove(at);
            assert_ne!(ask(&gate, path, &less).status, 200, "{path}: without {}", full[at].0);
        }
        for more in [
            ("x_forwarded_user", "root"),
            ("x-cedargate-admin", "1"),
            ("x-http-method-override", "DELETE"),
            ("x-rewrite-url", "/portal/p/secret"),
        ] {
            let mut with = full.clone();
            with.push(more);
            assert_ne!(ask(&gate, path, &with).status, 200, "{path}: {more:?}");
        }
    }
    for path in [
        "/portal/p/%78",
        "/portal/p/x#y",
        "portal/p/x",
        "*",
        "/api/v1/identity/auth/session",
        "/portal/p/x/../y",
    ] {
        assert_ne!(ask(&gate, "/forward-auth", &traefik(path, &viewer)).status, 200, "{path}");
    }
    // gRPC's form of a refusal is a 200
    let mut grpc = traefik("/portal/p/secret", &viewer);
    grpc.push(("content-type", "application/grpc"));
    assert_eq!(ask(&gate, "/forward-auth", &grpc).status, 403);
}

#[test]
fn the_listeners_token_comes_in_a_header_of_its_own() {
    let auth = "listen: { proxy: { address: '127.0.0.1:0' }, decision: { address: '127.0.0.1:0', auth: { tokens: [0123456789abcdef] } }, admin: { address: '127.0.0.1:0' } }";
    let gate = start_gate(auth);
    let viewer = viewer(&gate);
    let mut question = traefik("/portal/p/x", &viewer);
    assert_eq!(ask(&gate, "/forward-auth", &question).status, 401);
    question.push(("x-cedargate-door-token", "0123456789abcdee"));
    assert_eq!(ask(&gate, "/forward-auth", &question).status, 401);
    question.pop();
    question.push(("x-cedargate-door-token", "0123456789abcdef"));
    assert_eq!(ask(&gate, "/forward-auth", &question).status, 200);
}

/// An address of this machine that is not loopback.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // sends nothing; the system chooses the address that it would send from
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[test]
fn a_peer_that_is_neither_loopback_nor_trusted_is_refused_at_every_door() {
    let Some(own) = own_address() else {
        return eprintln!("skipped: this machine has no address but loopback");
    };
    let listen = "listen: { proxy: { address: '127.0.0.1:0' }, decision: { address: '0.0.0.0:0', auth: { tokens: [0123456789abcdef] } }, admin: { address: '127.0.0.1:0' } }";
    for (trusted, status) in [("['198.51.100.0/24']".to_owned(), 403), (format!("['{own}/32']"), 200)] {
        let gate = start_gate(&format!("{listen}\ntrusted_proxies: {trusted}"));
        let viewer = viewer(&gate);
        let own_request = vec![
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "10.1.2.3"),
            ("authorization", viewer.as_str()),
        ];
        for (path, headers) in [
            ("/auth-request", nginx("https://shop.test/portal/p/x", &viewer)),
            ("/forward-auth", traefik("/portal/p/x", &viewer)),
            ("/ext-authz/portal/p/x", own_request),
        ] {
            let mut with_token = headers.clone();
            with_token.push(("x-cedargate-door-token", "0123456789abcdef"));
            let address = std::net::SocketAddr::from((own, gate.decision.port()));
            let answer = raw(address, "GET", path, &with_token, b"");
            assert_eq!(answer.status, status, "{trusted} {path}: {answer:?}");
            // a trusted address alone is not enough
            let answer = raw(address, "GET", path, &headers, b"");
            assert!([401, 403].contains(&answer.status), "{trusted} {path}: {answer:?}");
        }
    }
}

#[test]
fn text_that_looks_like_an_entity_is_refused_with_a_hint_where_the_schema_wants_an_entity() {
    let schema = "entity Tenant; entity Role in [Role]; entity Portal; entity Path in [Path, Portal];
        entity User in [Role, Tenant] = { email?: String };
        entity Note = { owner?: User, watchers?: Set<User>, text?: String };
        action GET appliesTo { principal: [User], resource: [Path], context: {} };
        action read appliesTo { principal: [User], resource: [Note], context: { by?: User } };";
    let policy = "@id(\"others\") permit (principal, action == Action::\"read\", resource) unless { resource has owner && resource.owner == principal };";
    let gate = crate::support::Setup::portal(schema, policy).start();
    let ask = |attrs: serde_json::Value, context: serde_json::Value| {
        gate.ask(
            "/authorize",
            &json!({"portal": "p", "principal": "User::\"alice\"", "action": "read",
                "resource": {"type": "Note", "id": "1", "attrs": attrs}, "context": context}),
        )
    };
    let text = "User::\"alice\"";
    for (attrs, context) in [
        (json!({"owner": text}), json!({})),
        (json!({"watchers": [text]}), json!({})),
        (json!({}), json!({"by": text})),
    ] {
        let answer = ask(attrs.clone(), context);
        let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            (answer.status, answer.code()),
            (400, "request_invalid".to_owned()),
            "{attrs}: {}",
            answer.text()
        );
        assert!(
            detail.contains("\"type\"") || detail.contains("__entity"),
            "{attrs}: {}",
            answer.text()
        );
    }
    let named = json!({"__entity": {"type": "User", "id": "alice"}});
    assert_eq!(ask(json!({"owner": named}), json!({})).json()["decision"], "deny");
    // where the schema wants text, it is text
    assert_eq!(ask(json!({"text": text}), json!({})).json()["decision"], "allow");
}

#[test]
fn unknown_paths_are_404_and_wrong_methods_405() {
    let gate = start_gate("");
    for path in ["/", "/authorizes", "/authorize/", "/ext-authz", "/auth-request/x", "/metrics"] {
        assert_eq!(ask(&gate, path, &[]).status, 404, "{path}");
    }
    let answer = ask(&gate, "/authorize", &[]);
    assert_eq!((answer.status, answer.header("allow")), (405, "POST"));
}

#[test]
fn a_browser_without_a_session_is_sent_to_the_login_and_a_session_gets_in() {
    let gate = portal().start();
    let host = "shop.test";
    let url = format!("{ORIGIN}/portal/p/x?y=1");
    let browser_headers = [("accept", "text/html"), ("x-forwarded-for", "10.1.2.3")];
    let original = [("x-original-method", "GET"), ("x-original-url", url.as_str())];
    let forwarded = [
        ("x-forwarded-method", "GET"),
        ("x-forwarded-uri", "/portal/p/x?y=1"),
        ("x-forwarded-host", host),
        ("x-forwarded-proto", "https"),
    ];
    let with = |line: &[(&'static str, &str)], more: &[(&'static str, &str)]| {
        let lines = line.iter().chain(&browser_headers).chain(more).copied();
        lines.map(|(name, value)| (name, value.to_owned())).collect::<Vec<_>>()
    };
    let ask = |path: &str, headers: &[(&'static str, String)]| {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        raw(gate.decision, "GET", path, &headers, b"")
    };
    let to_login = "/api/v1/identity/auth/login?portal=p&rd=%2Fportal%2Fp%2Fx%3Fy%3D1";
    let answer = ask("/forward-auth", &with(&forwarded, &[]));
    assert_eq!((answer.status, answer.header("location")), (302, to_login), "{answer:?}");
    let answer = ask("/auth-request", &with(&original, &[]));
    assert_eq!(
        (answer.status, answer.header("x-cedargate-login")),
        (401, to_login),
        "{answer:?}"
    );

    let session = log_in(&gate, "alice");
    let cookie = format!("{session}; theme=dark");
    let answer = ask("/forward-auth", &with(&forwarded, &[("cookie", &cookie)]));
    assert_eq!((answer.status, answer.header("cookie")), (200, "theme=dark"), "{answer:?}");
    let answer = ask("/auth-request", &with(&original, &[("cookie", &cookie)]));
    assert_eq!(answer.status, 200, "{answer:?}");
    // a page of another site: a POST, and a WebSocket whose `Upgrade` the proxy took out
    let post: Vec<_> = with(&original, &[("cookie", &cookie)])
        .into_iter()
        .skip(1)
        .chain([("x-original-method", "POST".to_owned())])
        .collect();
    assert_eq!(ask("/auth-request", &post).header("x-cedargate-reason"), "origin_mismatch");
    let socket = with(
        &original,
        &[
            ("cookie", &cookie),
            ("sec-websocket-key", "x"),
            ("origin", "https://evil.test"),
        ],
    );
    assert_eq!(ask("/auth-request", &socket).header("x-cedargate-reason"), "origin_mismatch");
    let socket = with(
        &original,
        &[
            ("cookie", &cookie),
            ("sec-websocket-key", "x"),
            ("sec-fetch-site", "same-origin"),
        ],
    );
    assert_eq!(ask("/auth-request", &socket).status, 200);
}
