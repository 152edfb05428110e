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
