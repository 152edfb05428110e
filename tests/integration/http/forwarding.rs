//! Forwarding in both directions: identity headers, addresses, paths, bodies and framing, and the headers that the gate
//! removes.
//!
//! Written from outside: a client that spoofs, smuggles, stalls and pipelines, and an app that is down, slow or dies.

use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::processes::refusing_address;
use crate::support::{
    Answer, Gate, IDENTITY_HEADERS, ISSUER, PAGE, RawConnection, ScriptedServer, Seen, Setup, claims, eventually, exchange, now,
    open_portal, raw, response, unb64,
};

fn bearer(gate: &Gate) -> String {
    format!("Bearer {}", gate.issuer.token("alice", &["viewer"]))
}

fn value<'a>(seen: &'a Seen, name: &str) -> &'a str {
    let all: Vec<_> = seen.headers.get_all(name).iter().collect();
    assert_eq!(all.len(), 1, "`{name}` is there {} times", all.len());
    all[0].to_str().unwrap()
}

/// A gate in front of a scripted app.
fn gate_before(script: &ScriptedServer, more: &str) -> Gate {
    open_portal()
        .config(&format!("upstream: {{ url: '{}'{more} }}", script.url()))
        .start()
}

fn get(gate: &Gate, method: &str, path: &str, rest: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: shop.test\r\nauthorization: {}\r\n{rest}\r\n",
        bearer(gate)
    )
}

#[test]
fn identity_headers_of_a_client_never_reach_the_app_in_any_spelling() {
    let gate = open_portal().start();
    let authorization = bearer(&gate);
    let mut spoofed: Vec<(String, &str)> = Vec::new();
    for name in IDENTITY_HEADERS.iter().copied().chain([
        "x-cedargate-anything",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-access-token",
        "forwarded",
    ]) {
        for spelling in [
            name.to_owned(),
            name.to_uppercase(),
            name.replace('-', "_"),
            name.to_uppercase().replace('-', "_"),
            name.replacen('-', "_", 1),
            name.replace('-', "."),
            name.replace("x-", "X_"),
        ] {
            spoofed.push((spelling.clone(), "spoof"));
            spoofed.push((spelling, "spoof2"));
        }
    }
    for half in spoofed.chunks(60) {
        let mut headers = vec![("authorization", authorization.as_str())];
        headers.extend(half.iter().map(|(name, value)| (name.as_str(), *value)));
        assert_eq!(gate.send("GET", PAGE, &headers).status, 200);
        let seen = gate.app.last();
        for (name, value) in &seen.headers {
            assert!(
                !String::from_utf8_lossy(value.as_bytes()).contains("spoof"),
                "`{name}: {value:?}` reached the app"
            );
        }
        assert_eq!(value(&seen, "x-forwarded-user"), "alice");
    }
    gate.stop();
}

#[test]
fn a_connection_header_cannot_remove_the_gates_headers() {
    let gate = open_portal().start();
    let named = format!(
        "{}, authorization, host, x-request-id, traceparent, x-forwarded-for, x-own",
        IDENTITY_HEADERS.join(", ")
    );
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(get(
        &gate,
        "GET",
        PAGE,
        &format!("connection: {named}\r\nx-own: mine\r\nconnection: keep-alive\r\n"),
    ));
    assert_eq!(wire.read_answer("GET").unwrap().status, 200);
    let seen = gate.app.last();
    for name in IDENTITY_HEADERS {
        value(&seen, name);
    }
    assert_eq!(value(&seen, "x-forwarded-user"), "alice");
    assert_eq!(value(&seen, "x-forwarded-for"), "127.0.0.1");
    assert!(seen.headers.get("x-own").is_none() && seen.headers.get("connection").is_none());
    value(&seen, "traceparent");
    value(&seen, "x-request-id");
}

#[test]
fn trailers_carry_no_header_that_is_stripped() {
    let script = ScriptedServer::start(|_, wire| {
        let body = wire.read_until("0\r\n");
        let trailers = wire.read_until("\r\n\r\n");
        wire.send(response("200 OK", &[body, trailers].concat()));
    });
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(get(
        &gate,
        "POST",
        PAGE,
        "transfer-encoding: chunked\r\ntrailer: x-forwarded-user, x-sum, authorization\r\n",
    ));
    wire.send(
        "5\r\nhello\r\n0\r\nx-forwarded-user: root\r\nX_Forwarded_User: root\r\nx-sum: 7\r\nauthorization: Bearer root\r\n\
         x-request-id: root\r\nX_Request_Id: root\r\nexpect: root\r\ncontent-type: root\r\nif-match: root\r\ntraceparent: root\r\n\r\n",
    );
    let echoed = wire.read_answer("POST").unwrap().text();
    assert!(echoed.contains("x-sum: 7"), "an honest trailer passes: {echoed}");
    assert!(!echoed.contains("root"), "{echoed}");
}

#[test]
fn a_stated_length_of_zero_reaches_the_app() {
    let script = ScriptedServer::start(|_, wire| {
        wire.send(response("200 OK", b""));
    });
    let gate = gate_before(&script, "");
    for (method, length, expected) in [
        ("POST", "content-length: 0\r\n", 1),
        ("PUT", "Content-Length: 0\r\n", 1),
        ("GET", "", 0),
    ] {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(get(&gate, method, PAGE, length));
        assert_eq!(wire.read_answer(method).unwrap().status, 200, "{method}");
        let head = script.heads.lock().unwrap().pop().unwrap().to_ascii_lowercase();
        assert_eq!(head.matches("content-length: 0\r\n").count(), expected, "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
    }
}

#[test]
fn the_app_sets_no_session_cookie_in_hints_and_trailers() {
    let script = ScriptedServer::start(|_, wire| {
        let hint = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nset-cookie: __Host-cedargate=evil; Path=/; Secure\r\n\r\n";
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: set-cookie, x-sum\r\n\r\n";
        let trailers = "set-cookie: cedargate=evil\r\nx-sum: 7\r\n\r\n";
        wire.send(hint);
        // an answer that arrives together with a hint makes the hint late
        std::thread::sleep(Duration::from_millis(300));
        wire.send(format!("{head}2\r\nok\r\n0\r\n{trailers}"));
    });
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(get(&gate, "GET", PAGE, "te: trailers\r\nconnection: te\r\n"));
    let hint = String::from_utf8(wire.read_until("\r\n\r\n")).unwrap();
    assert!(
        hint.contains("103") && hint.contains("link: </a.css>") && !hint.contains("evil"),
        "{hint}"
    );
    let head = String::from_utf8(wire.read_until("\r\n\r\n")).unwrap();
    let rest = String::from_utf8(wire.read_until("x-sum: 7\r\n\r\n")).unwrap();
    assert!(rest.contains("x-sum: 7") && !rest.contains("evil"), "{head}{rest}");
}

#[test]
fn every_identity_header_is_there_on_every_permit_empty_if_unknown() {
    let gate = open_portal().start();
    let mut claims = claims("alice", &["viewer", "editor"]);
    for (name, text) in [("email", "alice@acme.test"), ("preferred_username", "al")] {
        claims[name] = json!(text);
    }
    claims["groups"] = json!(["g1", "g,2"]);
    let answer = gate.get(PAGE, &gate.issuer.sign(&claims));
    assert_eq!(answer.status, 200);
    let seen = gate.app.last();
    for (name, expected) in [
        ("x-forwarded-user", "alice"),
        ("x-forwarded-email", "alice@acme.test"),
        ("x-forwarded-groups", "g1,g%2C2"),
        ("x-forwarded-preferred-username", "al"),
        ("x-cedargate-tenant", "acme"),
        ("x-cedargate-portal", "p"),
        ("x-cedargate-roles", "viewer,editor"),
    ] {
        assert_eq!(value(&seen, name), expected);
    }
    let record = gate.records(1).remove(0);
    assert_eq!(value(&seen, "x-cedargate-decision-id"), record["decision_id"]);
    assert_eq!(value(&seen, "x-cedargate-revision"), record["revision"]);
    assert_eq!(value(&seen, "x-cedargate-revision"), gate.revision("p").unwrap());

    let spoofs = IDENTITY_HEADERS.map(|name| (name, "spoof"));
    assert_eq!(
        gate.send("GET", "/portal/p/assets/a.css", &spoofs).status,
        200,
        "public, without a token"
    );
    let seen = gate.app.last();
    for name in IDENTITY_HEADERS {
        let known = matches!(
            name,
            "x-cedargate-portal" | "x-cedargate-decision-id" | "x-cedargate-revision"
        );
        assert_eq!(value(&seen, name).is_empty(), !known, "{name}");
    }
    // on a public path the app gets the identity of an authenticated caller
    assert_eq!(gate.get("/portal/p/assets/a.css", &gate.issuer.sign(&claims)).status, 200);
    assert_eq!(value(&gate.app.last(), "x-forwarded-user"), "alice");
    let records = gate.records(3);
    assert!(
        records.iter().all(|r| r["decision"] == "allow" && r["reason"] == "permitted"),
        "{records:#?}"
    );
}

#[test]
fn identity_values_are_percent_encoded_so_that_none_reads_as_another() {
    let gate = open_portal().start();
    for (subject, expected) in [
        ("a,b", "a%2Cb"),
        ("100%", "100%25"),
        ("%2C", "%252C"),
        ("zoë", "zo%C3%AB"),
        ("😀", "%F0%9F%98%80"),
        ("a b", "a b"),
        // receivers trim: without an escape this would be another subject
        ("alice ", "alice%20"),
        (" alice", "%20alice"),
        ("  ", "%20%20"),
    ] {
        let answer = gate.get(PAGE, &gate.issuer.token(subject, &[subject, "x"]));
        assert_eq!(answer.status, 200, "{subject}");
        let seen = gate.app.last();
        assert_eq!(value(&seen, "x-forwarded-user"), expected);
        assert_eq!(value(&seen, "x-cedargate-roles"), format!("{expected},x"));
    }
}

fn assertion(gate: &Gate, audience: &str) -> (Value, Value) {
    let token = value(&gate.app.last(), "x-cedargate-assertion").to_owned();
    let jwks = raw(gate.proxy, "GET", "/.well-known/cedargate/jwks.json", &[], b"");
    assert_eq!((jwks.status, jwks.header("content-type")), (200, "application/jwk-set+json"));
    let jwks: jsonwebtoken::jwk::JwkSet = serde_json::from_slice(&jwks.body).unwrap();
    assert!(
        !serde_json::to_string(&jwks).unwrap().contains("\"d\""),
        "a private key is published"
    );
    let header = jsonwebtoken::decode_header(&token).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(jwks.find(header.kid.as_deref().unwrap()).unwrap()).unwrap();
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    validation.set_audience(&[audience]);
    validation.set_issuer(&["cedargate"]);
    validation.leeway = 0;
    let claims = jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap().claims;
    let header = serde_json::from_slice(&unb64(token.split('.').next().unwrap()).unwrap()).unwrap();
    (header, claims)
}

#[test]
fn an_app_can_verify_the_assertion_with_the_published_keys() {
    let mut setup = open_portal();
    setup.issuers = Some(format!(
        "issuers: [{{ name: test, issuer: '{ISSUER}', audiences: [shop], leeway: 0s, jwks: {{ file: jwks.json }} }}]"
    ));
    let gate = setup.start();
    let audience = format!("http://{}", gate.app.address);
    let mut credential = claims("alice", &["viewer"]);
    credential["email"] = json!("a@b.test");
    credential["secret_claim"] = json!("not for the app");
    credential["exp"] = json!(now() + 20);
    assert_eq!(gate.get(PAGE, &gate.issuer.sign(&credential)).status, 200);
    let (header, claims_of_alice) = assertion(&gate, &audience);
    assert_eq!(
        (&header["alg"], &header["typ"]),
        (&json!("ES256"), &json!("cedargate-assertion+jwt"))
    );
    for (name, expected) in [
        ("sub", json!("alice")),
        ("tenant", json!("acme")),
        ("portal", json!("p")),
        ("roles", json!(["viewer"])),
        ("claims", json!({"email": "a@b.test"})),
        ("revision", json!(gate.revision("p").unwrap())),
    ] {
        assert_eq!(claims_of_alice[name], expected, "{name}");
    }
    assert!(
        claims_of_alice["exp"].as_i64() <= credential["exp"].as_i64(),
        "it outlives its credential"
    );
    assert_eq!(gate.get(PAGE, &gate.issuer.token("bob", &[])).status, 200);
    let (_, claims_of_bob) = assertion(&gate, &audience);
    assert_ne!(claims_of_alice["jti"], claims_of_bob["jti"]);
    let lifetime = claims_of_bob["exp"].as_i64().unwrap() - claims_of_bob["iat"].as_i64().unwrap();
    assert_eq!(lifetime, 60, "assertion.ttl");
    let other = jsonwebtoken::decode_header(value(&gate.app.last(), "x-cedargate-assertion")).unwrap();
    assert_eq!(other.kid.as_deref(), header["kid"].as_str());
}

#[test]
fn the_decision_listener_publishes_the_same_keys() {
    let gate = open_portal().start();
    let path = "/.well-known/cedargate/jwks.json";
    let (proxy, decision) = (
        raw(gate.proxy, "GET", path, &[], b""),
        raw(gate.decision, "GET", path, &[], b""),
    );
    assert_eq!((decision.status, &decision.body), (200, &proxy.body));
    assert_eq!(decision.header("content-type"), "application/jwk-set+json");
    assert_eq!(decision.header("cache-control"), "public, max-age=60");
    assert_eq!(raw(gate.decision, "POST", path, &[], b"").status, 405);
}

#[test]
fn the_assertions_keys_can_only_be_read() {
    let gate = open_portal().start();
    let path = "/.well-known/cedargate/jwks.json";
    for (method, status) in [("GET", 200), ("HEAD", 200), ("POST", 400), ("DELETE", 400)] {
        assert_eq!(raw(gate.proxy, method, path, &[], b"").status, status, "{method}");
    }
    assert_eq!(gate.app.count(), 0);
    let records = gate.records(4);
    let permitted: Vec<_> = records
        .iter()
        .map(|r| (r["decision"].as_str().unwrap(), r["reason"].as_str().unwrap()))
        .collect();
    let (yes, no) = (("allow", "permitted"), ("deny", "request_invalid"));
    assert_eq!(permitted, [yes, yes, no, no], "an answered request was not `cancelled`");
}

#[test]
fn credentials_and_overriding_headers_stay_at_the_gate() {
    let gate = open_portal().start();
    let authorization = bearer(&gate);
    let cookies = "theme=dark; __Host-cedargate_s=SECRET1; lang=de; cedargate_csrf=SECRET2";
    let answer = gate.send(
        "GET",
        PAGE,
        &[
            ("authorization", &authorization),
            ("cookie", cookies),
            ("proxy-authorization", "Basic SECRET3"),
            ("x-http-method-override", "DELETE"),
            ("X_HTTP_Method_Override", "DELETE"),
            ("x-http-method", "DELETE"),
            ("x-method-override", "DELETE"),
            ("x-original-url", "/admin"),
            ("X-Rewrite-URL", "/admin"),
            ("x_original_url", "/admin"),
            ("x-harmless", "yes"),
        ],
    );
    assert_eq!(answer.status, 200);
    let seen = gate.app.last();
    assert_eq!(value(&seen, "cookie"), "theme=dark; lang=de");
    assert_eq!(value(&seen, "x-harmless"), "yes");
    let all = format!("{:?}", seen.headers);
    for gone in ["SECRET", "DELETE", "/admin", &authorization] {
        assert!(!all.contains(gone), "`{gone}` reached the app: {all}");
    }
}

#[test]
fn forward_authorization_and_the_strip_list_are_the_operators_choice() {
    let gate = open_portal()
        .config("upstream: { url: 'http://{app}', forward_authorization: true, strip_headers: [x-internal-role] }")
        .start();
    let authorization = bearer(&gate);
    let headers = [
        ("authorization", authorization.as_str()),
        ("X-Internal_Role", "root"),
        ("x-http-method", "PUT"),
    ];
    assert_eq!(gate.send("GET", PAGE, &headers).status, 200);
    let seen = gate.app.last();
    assert_eq!(value(&seen, "authorization"), authorization);
    assert!(seen.headers.keys().all(|name| !name.as_str().contains("internal")));
    assert_eq!(value(&seen, "x-http-method"), "PUT", "the list is replaced as a whole");
}

#[test]
fn a_portals_own_upstream_settings_hold_for_that_portal() {
    let gate = open_portal()
        .file("schemas/q.cedarschema", crate::support::OPEN_SCHEMA)
        .file("policies/q/main.cedar", crate::support::OPEN_POLICY)
        .config("portals:\n  p: { upstream: { url: 'http://{app}', strip_headers: [x-internal-role], forward_authorization: true } }\n  q: {}")
        .start();
    let authorization = bearer(&gate);
    let headers = [
        ("authorization", authorization.as_str()),
        ("x-internal-role", "root"),
        ("x-original-url", "/x"),
    ];
    assert_eq!(gate.send("GET", PAGE, &headers).status, 200);
    let seen = gate.app.last();
    assert!(
        seen.headers.get("x-internal-role").is_none(),
        "portals.p.upstream.strip_headers is ignored"
    );
    assert!(
        seen.headers.get("authorization").is_some(),
        "portals.p.upstream.forward_authorization is ignored"
    );
    assert_eq!(gate.send("GET", "/portal/q/x", &headers).status, 200);
    let seen = gate.app.last();
    assert_eq!(value(&seen, "x-internal-role"), "root");
    assert!(seen.headers.get("authorization").is_none() && seen.headers.get("x-original-url").is_none());
}

#[test]
fn forwarded_headers_are_rebuilt_from_the_connection() {
    let gate = open_portal().start();
    let authorization = bearer(&gate);
    let headers = [
        ("authorization", authorization.as_str()),
        ("host", "Shop.Test:8080"),
        ("forwarded", "for=6.6.6.6;proto=https;host=evil.test"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.test"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-prefix", "/evil"),
        ("x-real-ip", "6.6.6.6"),
    ];
    assert_eq!(gate.send("GET", PAGE, &headers).status, 200);
    let seen = gate.app.last();
    assert_eq!(value(&seen, "x-forwarded-for"), "127.0.0.1");
    assert_eq!(value(&seen, "x-forwarded-proto"), "http");
    assert_eq!(value(&seen, "x-forwarded-host"), "shop.test:8080");
    assert_eq!(value(&seen, "x-forwarded-port"), "8080");
    assert_eq!(value(&seen, "forwarded"), "for=127.0.0.1;proto=http;host=\"shop.test:8080\"");
    assert!(seen.headers.get("x-forwarded-prefix").is_none());
}

#[test]
fn a_trusted_proxys_chain_is_read_from_the_right_and_garbage_is_refused() {
    let gate = open_portal().config("trusted_proxies: ['127.0.0.0/8', '10.0.0.0/8']").start();
    let authorization = bearer(&gate);
    let send = |chain: &str| {
        gate.send(
            "GET",
            PAGE,
            &[
                ("authorization", &authorization),
                ("x-forwarded-for", chain),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "Public.Test"),
            ],
        )
    };
    for (chain, expected) in [
        ("1.2.3.4", "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4, 10.1.1.1", "1.2.3.4"),
        ("1.2.3.4:5555", "1.2.3.4"),
        ("::ffff:9.9.9.9", "9.9.9.9"),
        ("8.8.8.8, ::ffff:10.1.1.1", "8.8.8.8"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("10.2.2.2, 10.1.1.1", "10.2.2.2"),
        // the client itself wrote the addresses left of its own
        ("garbage, 1.2.3.4", "1.2.3.4"),
    ] {
        assert_eq!(send(chain).status, 200, "{chain}");
        let seen = gate.app.last();
        assert_eq!(value(&seen, "x-forwarded-for"), expected, "{chain}");
        assert_eq!(
            (value(&seen, "x-forwarded-proto"), value(&seen, "x-forwarded-host")),
            ("https", "public.test")
        );
        let node = if expected.contains(':') {
            format!("\"[{expected}]\"")
        } else {
            expected.to_owned()
        };
        assert_eq!(
            value(&seen, "forwarded"),
            format!("for={node};proto=https;host=\"public.test\"")
        );
    }
    for garbage in [
        "",
        "unknown",
        " , ",
        "1.2.3.4, _hidden",
        "999.1.1.1",
        "1.2.3.4 5.6.7.8",
        "localhost",
        "\u{e9}",
    ] {
        let answer = send(garbage);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "request_invalid"),
            "{garbage:?}"
        );
    }
}

#[test]
fn a_proxy_seen_as_an_ipv4_mapped_address_is_the_same_proxy() {
    if TcpListener::bind("[::]:0").is_err() {
        println!("SKIPPED: this machine has no IPv6");
        return;
    }
    let gate = open_portal()
        .config("listen: { proxy: { address: '[::]:0' }, decision: null, admin: { address: '127.0.0.1:0' } }\ntrusted_proxies: ['127.0.0.1/32']")
        .start();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], gate.proxy.port()));
    let answer = raw(
        address,
        "GET",
        PAGE,
        &[("authorization", &bearer(&gate)), ("x-forwarded-for", "1.2.3.4")],
        b"",
    );
    assert_eq!(answer.status, 200);
    assert_eq!(value(&gate.app.last(), "x-forwarded-for"), "1.2.3.4");
}

#[test]
fn traces_continue_and_request_ids_are_echoed_if_well_formed() {
    let gate = open_portal().start();
    let authorization = bearer(&gate);
    let id = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{id}-b7ad6b7169203331-01");
    let answer = gate.send(
        "GET",
        PAGE,
        &[
            ("authorization", &authorization),
            ("traceparent", &parent),
            ("x-request-id", "req-1.A_b"),
        ],
    );
    assert_eq!(answer.header("x-request-id"), "req-1.A_b");
    let seen = gate.app.last();
    let ours = value(&seen, "traceparent");
    assert!(
        ours.starts_with(&format!("00-{id}-")) && ours.ends_with("-01") && ours != parent,
        "{ours}"
    );
    assert_eq!(value(&seen, "x-request-id"), "req-1.A_b");
    let record = gate.records(1).remove(0);
    assert_eq!(
        (&record["trace_id"], &record["request_id"]),
        (&json!(id), &json!("req-1.A_b"))
    );
    for bad in ["a b", "a\"b", &"x".repeat(129), "<script>"] {
        let answer = gate.send("GET", PAGE, &[("traceparent", "00-zz-1-1"), ("x-request-id", bad)]);
        assert_eq!(answer.header("x-request-id").len(), 36, "{bad} was echoed");
    }
}

#[test]
fn the_path_decided_on_is_the_path_forwarded() {
    let gate = open_portal().start();
    for (sent, forwarded) in [
        ("/portal/p/%41bc", "/portal/p/Abc"),
        ("/portal/p/x%c3%a9%3a/", "/portal/p/x%C3%A9%3A/"),
        ("/portal/p/a%20b?q=1%2f&y=%zz", "/portal/p/a%20b?q=1%2f&y=%zz"),
        ("/portal/p/a%23b", "/portal/p/a%23b"),
        ("/portal/p/a?x=//..;", "/portal/p/a?x=//..;"),
        ("/%70ortal/p/a", "/portal/p/a"),
        ("http://shop.test/portal/p/a?b", "/portal/p/a?b"),
    ] {
        assert_eq!(gate.get(sent, &gate.issuer.token("alice", &[])).status, 200, "{sent}");
        assert_eq!(gate.app.last().target, forwarded);
    }
}

#[test]
fn ambiguous_paths_are_400_on_a_closed_connection_and_the_app_sees_nothing() {
    let gate = open_portal().start();
    for tail in [
        "a/../b",
        "..",
        "./a",
        "a/.",
        "%2e%2e/a",
        ".%2E/a",
        "a//b",
        "/",
        "a\\b",
        "a%5cb",
        "a;b=c",
        "a%3bb",
        "%00",
        "a%0d%0aX:y",
        "%7f",
        "a%2fb",
        "a%2Fb",
        "%252e",
        "%25%32%65",
        "%252f",
        "%20a",
        "a%20",
        "a%c2%a0",
        "%ff",
        "%c0%ae",
        "%c0%af",
        "%ed%a0%80",
        "%e0%80%af",
        "%",
        "%2",
        "%zz",
    ] {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(get(&gate, "GET", &format!("/portal/p/{tail}"), ""));
        let answer = wire.read_answer("GET").unwrap_or_else(|| panic!("no answer to {tail}"));
        assert_eq!(
            (answer.status, answer.code().as_str(), answer.header("connection")),
            (400, "request_invalid", "close"),
            "{tail}"
        );
        assert!(wire.is_closed(), "{tail}");
    }
    // bytes that the HTTP library itself refuses
    for tail in ["a b", "a\tb", "a\u{0}b", "\u{7f}"] {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(get(&gate, "GET", &format!("/portal/p/{tail}"), ""));
        assert_eq!(wire.read_answer("GET").unwrap().status, 400, "{tail:?}");
        assert!(wire.is_closed());
    }
    assert_eq!(gate.app.count(), 0);
}

#[test]
fn ambiguous_framing_is_400_on_a_closed_connection_whatever_the_caller_speaks() {
    let gate = open_portal().start();
    let authorization = bearer(&gate);
    for style in ["", "content-type: application/grpc\r\n", "accept: text/html\r\n"] {
        for (what, head) in [
            ("another host in the target", "host: evil.test\r\n"),
            ("odd expectation", "host: shop.test\r\nexpect: 200-maybe\r\n"),
        ] {
            let target = if what.starts_with("another") {
                "http://shop.test/portal/p/page"
            } else {
                PAGE
            };
            let mut wire = RawConnection::open(gate.proxy);
            wire.send(format!(
                "POST {target} HTTP/1.1\r\n{head}{style}authorization: {authorization}\r\n\r\n0\r\n\r\n"
            ));
            let answer = wire
                .read_answer("POST")
                .unwrap_or_else(|| panic!("no answer to {what} {style}"));
            if style.contains("grpc") {
                assert_eq!((answer.status, answer.header("grpc-status")), (200, "3"), "{what}");
            } else {
                assert_eq!((answer.status, answer.code().as_str()), (400, "request_invalid"), "{what}");
            }
            assert_eq!(answer.header("connection"), "close", "{what} {style}");
            assert!(wire.is_closed(), "{what} {style}");
        }
    }
    assert_eq!(gate.app.count(), 0);
}

#[test]
fn a_smuggled_second_request_never_reaches_the_app() {
    let gate = open_portal().start();
    let inner = get(&gate, "DELETE", "/portal/p/smuggled", "");
    for framing in [
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
    ] {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(get(&gate, "POST", PAGE, framing));
        wire.send(format!("0\r\n\r\n{inner}"));
        // the reset that follows unread bytes may take the answer with it
        while wire.read_answer("POST").is_some() {}
    }
    assert!(
        gate.app.seen().iter().all(|s| s.method == "POST" && s.body.is_empty()),
        "{:?}",
        gate.app.seen()
    );
}

#[test]
fn the_gates_own_paths_never_reach_the_app() {
    let gate = open_portal().config("portals:\n  p: { match: { path_prefix: / } }").start();
    let token = gate.issuer.token("alice", &[]);
    assert_eq!(gate.get("/anything", &token).status, 200);
    for path in [
        "/.well-known/cedargate",
        "/.well-known/cedargate/",
        "/.well-known/cedargate/secret",
        "/.well-known/%63edargate/jwks",
        "/api/v1/identity",
        "/api/v1/identity/auth",
        "/api/v1/identity/%61uth/nothing",
        "/api/v1/identity/permissions/nothing",
    ] {
        let answer = gate.get(path, &token);
        assert_eq!((answer.status, answer.code().as_str()), (404, "portal_unknown"), "{path}");
    }
    for path in ["/api/v1/identity/auth/session", "/api/v1/identity/%61uth/login"] {
        let answer = gate.get(path, &token);
        assert_eq!((answer.status, answer.code().as_str()), (400, "request_invalid"), "{path}");
    }
    // only whole segments are reserved
    for path in ["/.well-known/cedargateway", "/api/v1/identityx", "/.well-known/security.txt"] {
        assert_eq!(gate.get(path, &token).status, 200, "{path}");
    }
}

#[test]
fn a_public_path_refuses_an_invalid_token_and_two_tokens() {
    let gate = open_portal().start();
    let path = "/portal/p/assets/a.css";
    assert_eq!(gate.send("GET", path, &[]).status, 200);
    let bad = gate.get(path, "a.b.c");
    assert_eq!((bad.status, bad.code().as_str()), (401, "token_invalid"));
    let expired = gate.issuer.sign(&{
        let mut claims = claims("alice", &[]);
        claims["exp"] = json!(now() - 600);
        claims
    });
    assert_eq!(gate.get(path, &expired).code(), "token_expired");
    let two = gate.send(
        "GET",
        path,
        &[("authorization", &bearer(&gate)), ("authorization", &bearer(&gate))],
    );
    assert_eq!((two.status, two.code().as_str()), (400, "request_invalid"));
    assert_eq!(gate.send("POST", path, &[]).status, 401, "public for GET only");
}

#[test]
fn bodies_arrive_exactly_in_both_framings() {
    let gate = open_portal().start();
    let body: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(get(&gate, "POST", PAGE, &format!("content-length: {}\r\n", body.len())));
    wire.send(&body);
    assert_eq!(wire.read_answer("POST").unwrap().status, 200);
    assert_eq!(gate.app.last().body, body);
    assert_eq!(value(&gate.app.last(), "content-length"), body.len().to_string());
    wire.send(get(&gate, "PUT", PAGE, "transfer-encoding: chunked\r\n"));
    for piece in body.chunks(7001) {
        wire.send(format!("{:x}\r\n", piece.len()));
        wire.send(piece);
        wire.send("\r\n");
    }
    wire.send("0\r\n\r\n");
    assert_eq!(wire.read_answer("PUT").unwrap().status, 200);
    let seen = gate.app.last();
    assert_eq!((seen.method.as_str(), &seen.body[..]), ("PUT", &body[..]));
    // and empty ones stay empty
    wire.send(get(&gate, "POST", PAGE, "content-length: 0\r\n"));
    assert_eq!(wire.read_answer("POST").unwrap().status, 200);
    assert!(gate.app.last().body.is_empty());
}

/// Upper bound of the sockets' own buffers on both sides of the gate.
const IN_FLIGHT_MAX: usize = 64 << 20;

/// Writes until the gate takes no more bytes, or all of them are written.
fn fill(stream: &mut std::net::TcpStream, amount: usize) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(800))).unwrap();
    let piece = vec![b'x'; 64 * 1024];
    let mut written = 0;
    while written < amount {
        match stream.write(&piece) {
            Ok(length) => written += length,
            Err(_) => break,
        }
    }
    written
}

#[test]
fn an_upload_is_never_collected_the_apps_pace_is_the_clients_pace() {
    let script = ScriptedServer::start(|_, wire| {
        // reads nothing until the connection ends
        let mut parked = [0; 1];
        while wire.stream.peek(&mut parked).is_ok_and(|n| n > 0) {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    let whole = 4 * IN_FLIGHT_MAX;
    wire.send(get(&gate, "POST", PAGE, &format!("content-length: {whole}\r\n")));
    let taken = fill(&mut wire.stream, whole);
    assert!(
        (1..IN_FLIGHT_MAX).contains(&taken),
        "{taken} bytes were taken for an app that reads none"
    );
}

#[test]
fn a_download_is_never_collected_the_clients_pace_is_the_apps_pace() {
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&sent);
    let script = ScriptedServer::start(move |_, wire| {
        wire.send(format!(
            "HTTP/1.1 200 OK\r\nx-app: yes\r\ncontent-length: {}\r\n\r\n",
            4 * IN_FLIGHT_MAX
        ));
        counted.store(fill(&mut wire.stream, 4 * IN_FLIGHT_MAX), std::sync::atomic::Ordering::SeqCst);
    });
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(get(&gate, "GET", PAGE, ""));
    let taken = eventually("the app is held back", || {
        match sent.load(std::sync::atomic::Ordering::SeqCst) {
            0 => Err("still writing".to_owned()),
            taken => Ok(taken),
        }
    });
    assert!(taken < IN_FLIGHT_MAX, "{taken} bytes were taken for a client that reads none");
}

#[test]
fn a_download_streams_and_arrives_whole() {
    let script = ScriptedServer::start(|_, wire| {
        wire.send("HTTP/1.1 200 OK\r\nx-app: yes\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        // the second half only comes once the client got the first
        wire.read_until("never");
    });
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(get(&gate, "GET", PAGE, ""));
    assert!(
        wire.read_until("first").ends_with(b"first"),
        "the first piece must not wait for the rest"
    );
    let body: Vec<u8> = (0..8_000_000_u32).map(|n| (n % 253) as u8).collect();
    let sent = body.clone();
    let script = ScriptedServer::start(move |_, wire| {
        wire.send(response("200 OK", &sent));
    });
    let gate = gate_before(&script, "");
    let answer = raw(gate.proxy, "GET", PAGE, &[("authorization", &bearer(&gate))], b"");
    assert!(answer.body == body, "{} of {} bytes", answer.body.len(), body.len());
}

#[test]
fn answers_without_a_body_keep_the_connection_usable() {
    let script = ScriptedServer::start(|head, wire| {
        let answer = |head: &str| {
            let status = head.split("/portal/p/").nth(1).unwrap().split(' ').next().unwrap().to_owned();
            match (head.starts_with("HEAD"), status.as_str()) {
                (true, _) => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".to_owned(),
                (false, "204") => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
                (false, "304") => "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n".to_owned(),
                _ => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_owned(),
            }
        };
        let mut head = head.to_owned();
        while !head.is_empty() {
            wire.send(answer(&head));
            head = String::from_utf8_lossy(&wire.read_until("\r\n\r\n")).into_owned();
        }
    });
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    for (method, page, status, body) in [
        ("HEAD", "x", 200, ""),
        ("GET", "204", 204, ""),
        ("GET", "304", 304, ""),
        ("HEAD", "y", 200, ""),
        ("GET", "z", 200, "hello"),
    ] {
        wire.send(get(&gate, method, &format!("/portal/p/{page}"), ""));
        let answer = wire.read_answer(method).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (status, body), "{method} {page}");
        if method == "HEAD" {
            assert_eq!(answer.header("content-length"), "5");
        }
    }
    // refusing a HEAD sends no body either
    wire.send("HEAD /portal/p/x HTTP/1.1\r\nhost: shop.test\r\n\r\n");
    assert_eq!(wire.read_answer("HEAD").unwrap().status, 401);
    wire.send(get(&gate, "GET", "/portal/p/z", ""));
    assert_eq!(wire.read_answer("GET").unwrap().text(), "hello");
}

#[test]
fn pipelined_requests_get_a_decision_each() {
    let gate = open_portal().start();
    let anonymous = format!("GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\n\r\n");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(format!(
        "{}{anonymous}{}{anonymous}",
        get(&gate, "GET", "/portal/p/one", ""),
        get(&gate, "POST", "/portal/p/two", "content-length: 0\r\n")
    ));
    let statuses: Vec<_> = ["GET", "GET", "POST", "GET"]
        .map(|method| wire.read_answer(method).unwrap().status)
        .into();
    assert_eq!(statuses, [200, 401, 200, 401]);
    let targets: Vec<_> = gate.app.seen().into_iter().map(|s| s.target).collect();
    assert_eq!(targets, ["/portal/p/one", "/portal/p/two"]);
    let records = gate.records(4);
    let mut ids: Vec<_> = records.iter().map(|r| r["decision_id"].to_string()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[test]
fn an_app_that_is_down_is_502_a_slow_one_504_and_both_were_permitted() {
    let down = refusing_address();
    let gate = open_portal().config(&format!("upstream: {{ url: 'http://{down}' }}")).start();
    let down = raw(gate.proxy, "GET", PAGE, &[("authorization", &bearer(&gate))], b"");
    assert_eq!((down.status, down.code().as_str()), (502, "upstream_unavailable"));
    assert!(
        gate.metrics()
            .contains("cedargate_upstream_errors_total{reason=\"connect\"} 1")
    );
    let record = gate.records(1).remove(0);
    assert_eq!(
        (&record["decision"], &record["http"]["status"]),
        (&json!("allow"), &json!(502))
    );

    let script = ScriptedServer::start(|_, wire| {
        wire.read_until("never");
    });
    let gate = gate_before(&script, ", response_timeout: 300ms");
    let slow = raw(gate.proxy, "GET", PAGE, &[("authorization", &bearer(&gate))], b"");
    assert_eq!((slow.status, slow.code().as_str()), (504, "upstream_timeout"));
    assert!(
        gate.metrics()
            .contains("cedargate_upstream_errors_total{reason=\"timeout\"} 1")
    );

    for garbage in ["", "not http\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"] {
        let script = ScriptedServer::start(move |_, wire| {
            wire.send(garbage);
        });
        let gate = gate_before(&script, "");
        let answer = raw(gate.proxy, "GET", PAGE, &[("authorization", &bearer(&gate))], b"");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (502, "upstream_unavailable"),
            "{garbage:?}"
        );
        assert_eq!(script.count(), 1, "a request that may have been seen is not repeated");
    }
}

#[test]
fn an_app_that_dies_in_its_answer_ends_the_clients_connection() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let script = ScriptedServer::start(move |_, wire| {
            wire.send(answer);
        });
        let gate = gate_before(&script, "");
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(get(&gate, "GET", PAGE, ""));
        let head = wire.read_until("half");
        assert!(head.starts_with(b"HTTP/1.1 200"));
        let rest = wire.read_until("never");
        assert!(
            !rest.windows(5).any(|w| w == b"0\r\n\r\n"),
            "a truncated answer must not look whole: {rest:?}"
        );
    }
}

#[test]
fn a_body_past_the_limit_is_413_and_announced_ones_never_reach_the_app() {
    let gate = open_portal()
        .config("limits: { workers: 2, drain_timeout: 5s, body_bytes: 1KiB }")
        .start();
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(get(&gate, "POST", PAGE, "content-length: 1025\r\n"));
    let answer = wire.read_answer("POST").unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (413, "request_too_large"));
    assert_eq!(gate.app.count(), 0);
    let chunked = |bytes: usize| {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(get(&gate, "POST", PAGE, "transfer-encoding: chunked\r\n"));
        for _ in 0..bytes / 64 {
            wire.send(format!("40\r\n{}\r\n", "x".repeat(64)));
        }
        wire.send("0\r\n\r\n");
        wire.read_answer("POST").map(|a| a.status)
    };
    assert_eq!(chunked(1024), Some(200));
    assert_eq!(gate.app.last().body.len(), 1024);
    assert_eq!(chunked(1088), Some(413));
    assert_eq!(gate.app.count(), 1, "the app never saw a whole request");
}

#[test]
fn expect_100_continue_is_answered_only_after_a_permit() {
    let gate = open_portal().start();
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(format!(
        "POST {PAGE} HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n"
    ));
    let head = String::from_utf8(wire.read_until("\r\n")).unwrap();
    assert!(head.starts_with("HTTP/1.1 401"), "{head}");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(get(&gate, "POST", PAGE, "content-length: 5\r\nexpect: 100-continue\r\n"));
    let head = String::from_utf8(wire.read_until("\r\n\r\n")).unwrap();
    assert!(head.starts_with("HTTP/1.1 100"), "{head}");
    wire.send("hello");
    assert_eq!(wire.read_answer("POST").unwrap().status, 200);
    assert_eq!(&gate.app.last().body[..], b"hello");
}

#[test]
fn a_client_that_stops_in_its_body_reaches_no_app_as_a_whole_request() {
    let gate = open_portal().start();
    for (framing, body) in [
        ("content-length: 10\r\n", "half"),
        ("transfer-encoding: chunked\r\n", "4\r\nhalf\r\n"),
        ("transfer-encoding: chunked\r\n", "zz\r\nhalf\r\n0\r\n\r\n"),
    ] {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(get(&gate, "POST", PAGE, framing));
        wire.send(body);
        wire.stream.shutdown(std::net::Shutdown::Write).unwrap();
        wire.read_until("never");
    }
    assert_eq!(gate.get(PAGE, &gate.issuer.token("alice", &[])).status, 200);
    assert_eq!(gate.app.count(), 1, "{:?}", gate.app.seen());
}

#[test]
fn one_request_on_a_reused_connection_never_leaks_into_the_next() {
    let gate = open_portal().start();
    let mut wire = RawConnection::open(gate.proxy);
    for subject in ["alice", "bob", "alice"] {
        let token = gate.issuer.token(subject, &[]);
        wire.send(format!(
            "GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\nauthorization: Bearer {token}\r\n\r\n"
        ));
        assert_eq!(wire.read_answer("GET").unwrap().status, 200);
        assert_eq!(value(&gate.app.last(), "x-forwarded-user"), subject);
    }
    wire.send(format!("GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\n\r\n"));
    assert_eq!(
        wire.read_answer("GET").unwrap().status,
        401,
        "identity is per request, not per connection"
    );
}

#[test]
fn upgrades_connect_and_other_protocols_open_no_tunnel() {
    let gate = open_portal().start();
    let authorization = bearer(&gate);
    for request in [
        "CONNECT shop.test:80 HTTP/1.1\r\nhost: shop.test:80\r\n".to_owned(),
        format!("TRACE {PAGE} HTTP/1.1\r\nhost: shop.test\r\n"),
        "OPTIONS * HTTP/1.1\r\nhost: shop.test\r\n".to_owned(),
    ] {
        let answer: Answer = exchange(
            gate.proxy,
            format!("{request}authorization: {authorization}\r\n\r\n").as_bytes(),
        )
        .unwrap();
        assert_eq!(answer.status, 400, "{request}");
    }
    assert_eq!(gate.app.count(), 0);
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(get(
        &gate,
        "GET",
        PAGE,
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
    ));
    assert_eq!(wire.read_answer("GET").unwrap().status, 200);
    let seen = gate.app.last();
    assert!(
        ["upgrade", "http2-settings", "connection"]
            .iter()
            .all(|name| seen.headers.get(*name).is_none())
    );
    assert!(matches!(
        exchange(gate.proxy, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        None | Some(Answer { status: 400 | 505, .. })
    ));
}

#[test]
fn contradicting_settings_are_start_errors() {
    let start = |yaml: &str| Setup::empty().config(yaml).try_start().err();
    for (yaml, word) in [
        (
            "upstream: { url: 'https://app.test', tls: { ca: absent.pem } }",
            "upstream.tls.ca",
        ),
        ("trusted_proxies: [everyone]", "trusted_proxies"),
        ("assertion: { ttl: 2h }", "assertion.ttl"),
    ] {
        let error = start(yaml).unwrap_or_else(|| panic!("{yaml} was accepted"));
        assert!(error.contains(word), "{yaml}: {error}");
    }
}
