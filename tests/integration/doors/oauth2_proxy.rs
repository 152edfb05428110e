//! The endpoints of oauth2-proxy: the questions of proxies, logins and logouts, and nginx as the migration page
//! configures it.

use serde_json::json;

use super::asking_proxies::{no_confusing_path_reaches_the_secret, no_forged_header_reaches_the_app, start_nginx, token};
use super::front::{block, port, start_gate, with_addresses};
use super::hostile_requests::the_app_sees_what_was_decided;
use crate::support::login_gate::{LoginSetup, register_callback, start_gate_for, to_callback};
use crate::support::openid::{Browser, Provider, Request};
use crate::support::session_client::{ORIGIN, PORTAL_YAML, browse, log_in_below, portal, with_accounts, with_cookie};
use crate::support::{Answer, Gate, OPEN_POLICY, OPEN_SCHEMA, Setup, open_portal, raw};

const SWITCH: &str = "identity: { prefix: /oauth2, oauth2_proxy: x_forwarded }";

fn question<'a>(target: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let stated = [
        ("x-forwarded-method", "GET"),
        ("x-forwarded-uri", target),
        ("x-forwarded-host", "shop.test"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "10.1.2.3"),
    ];
    stated.iter().chain(more).copied().collect()
}

fn ask(gate: &Gate, path: &str, headers: &[(&str, &str)]) -> Answer {
    raw(gate.proxy, "GET", path, headers, b"")
}

fn asked(answer: &Answer) -> (u16, &str) {
    assert!(answer.body.is_empty(), "{answer:?}");
    (answer.status, answer.header("x-cedargate-reason"))
}

#[test]
fn a_question_is_answered_202_401_or_403_with_the_names_of_oauth2_proxy() {
    let gate = start_gate(SWITCH);
    let viewer = token(&gate, &["viewer"]);
    let authorization = [("authorization", viewer.as_str())];
    let answer = ask(&gate, "/oauth2/auth", &question("/portal/p/x?y=1", &authorization));
    assert_eq!(asked(&answer), (202, ""), "{answer:?}");
    assert_eq!(answer.header("x-auth-request-user"), "alice");
    assert_eq!(answer.header("x-auth-request-groups"), "viewer");
    for name in [
        "x-auth-request-email",
        "x-auth-request-preferred-username",
        "x-cedargate-decision-id",
    ] {
        assert!(answer.headers.contains_key(name), "{name}: {answer:?}");
    }
    // a client may reach this path: nothing that opens a door
    for name in [
        "x-cedargate-assertion",
        "authorization",
        "cookie",
        "x-forwarded-access-token",
        "set-cookie",
    ] {
        assert!(!answer.headers.contains_key(name), "{name}: {answer:?}");
    }
    let refused = |target: &str, more: &[(&str, &str)]| {
        let answer = ask(&gate, "/oauth2/auth", &question(target, more));
        (answer.status, answer.header("x-cedargate-reason").to_owned())
    };
    assert_eq!(refused("/portal/p/x", &[]), (401, "token_missing".to_owned()));
    assert_eq!(refused("/portal/p/secret", &authorization), (403, "forbidden".to_owned()));
    assert_eq!(refused("/elsewhere", &authorization), (403, "portal_unknown".to_owned()));
    assert_eq!(
        refused("/oauth2/userinfo", &authorization),
        (403, "portal_unknown".to_owned())
    );
    let records = gate.records(5);
    assert!(records.iter().all(|record| record["door"] == "forward_auth"), "{records:?}");
    // without the switch the path is a portal's, or unknown
    let plain = start_gate("identity: { prefix: /oauth2 }");
    let viewer = token(&plain, &["viewer"]);
    let answer = ask(
        &plain,
        "/oauth2/auth",
        &question("/portal/p/x", &[("authorization", &viewer)]),
    );
    assert_eq!(answer.status, 404, "{answer:?}");
}

#[test]
fn a_question_in_doubt_is_refused() {
    let gate = start_gate(SWITCH);
    let viewer = token(&gate, &["viewer"]);
    let full = question("/portal/p/x", &[("authorization", &viewer)]);
    for at in 0..full.len() {
        let mut less = full.clone();
        less.remove(at);
        let status = ask(&gate, "/oauth2/auth", &less).status;
        assert!([401, 403].contains(&status), "without {}: {status}", full[at].0);
        let mut twice = full.clone();
        twice.push(full[at]);
        if full[at].0 != "x-forwarded-for" {
            let status = ask(&gate, "/oauth2/auth", &twice).status;
            assert!([401, 403].contains(&status), "{} twice: {status}", full[at].0);
        }
    }
    // a statement in the other form is the client's, and decides nothing
    let other = [
        ("x-original-method", "GET"),
        ("x-original-url", "https://shop.test/portal/p/x"),
        ("x-forwarded-for", "10.1.2.3"),
        ("authorization", viewer.as_str()),
    ];
    assert_eq!(asked(&ask(&gate, "/oauth2/auth", &other)), (403, "request_invalid"));
    let mut both = question("/portal/p/secret", &other[..2]);
    both.push(("authorization", &viewer));
    assert_eq!(asked(&ask(&gate, "/oauth2/auth", &both)), (403, "request_invalid"));
    for name in [
        "x-forwarded-user",
        "x_forwarded_email",
        "x-auth-request-user",
        "X-Auth-Request-Email",
        "x-auth-request-access-token",
        "x-cedargate-tenant",
        "x-cedargate-admin",
        "x-http-method-override",
    ] {
        let mut forged = full.clone();
        forged.push((name, "root"));
        assert_eq!(
            asked(&ask(&gate, "/oauth2/auth", &forged)),
            (403, "request_invalid"),
            "{name}"
        );
    }
    // another spelling of the path is no door, and no path of a portal
    for path in [
        "/oauth2/auth/",
        "/oauth2//auth",
        "/oauth2/%61uth",
        "/OAUTH2/auth",
        "/oauth2/auth/x",
        "/oauth2/x/../auth",
    ] {
        let status = ask(&gate, path, &full).status;
        assert!(status >= 400, "{path}: {status}");
    }
    let original = start_gate("identity: { prefix: /oauth2, oauth2_proxy: x_original }");
    let viewer = token(&original, &["viewer"]);
    let mut stated = other;
    stated[3].1 = &viewer;
    assert_eq!(asked(&ask(&original, "/oauth2/auth", &stated)), (202, ""));
    let forwarded = question("/portal/p/x", &[("authorization", &viewer)]);
    assert_eq!(asked(&ask(&original, "/oauth2/auth", &forwarded)), (403, "request_invalid"));
}

#[test]
fn a_peer_that_is_no_trusted_proxy_cannot_ask() {
    // a PROXY header names the peer
    let listen = "listen: { proxy: { address: '127.0.0.1:0', proxy_protocol: true }, decision: { address: '127.0.0.1:0' }, admin: { address: '127.0.0.1:0' } }";
    let gate = start_gate(&format!(
        "{listen}\ntrusted_proxies: ['198.51.100.0/24', '127.0.0.1/32']\n{SWITCH}"
    ));
    let viewer = token(&gate, &["viewer"]);
    for (peer, status) in [("198.51.100.7", "202"), ("203.0.113.7", "403")] {
        let mut request = format!("PROXY TCP4 {peer} 192.0.2.1 40000 443\r\nGET /oauth2/auth HTTP/1.1\r\nhost: shop.test\r\n");
        for (name, value) in question("/portal/p/x", &[("authorization", &viewer), ("connection", "close")]) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        let answer = crate::support::exchange(gate.proxy, format!("{request}\r\n").as_bytes()).unwrap();
        assert_eq!(answer.status.to_string(), status, "{peer}: {answer:?}");
    }
}

#[test]
fn lists_of_a_question_narrow_what_the_policies_permit() {
    let gate = start_gate(SWITCH);
    let viewer = token(&gate, &["viewer"]);
    let ask = |query: &str, target: &str, credential: &[(&str, &str)]| {
        let answer = ask(&gate, &format!("/oauth2/auth?{query}"), &question(target, credential));
        (answer.status, answer.header("x-cedargate-reason").to_owned())
    };
    let alice = [("authorization", viewer.as_str())];
    assert_eq!(ask("allowed_groups=staff,viewer", "/portal/p/x", &alice).0, 202);
    assert_eq!(
        ask("allowed_groups=staff", "/portal/p/x", &alice),
        (403, "not_permitted".to_owned())
    );
    assert_eq!(
        ask("allowed_groups=viewer", "/portal/p/secret", &alice),
        (403, "forbidden".to_owned())
    );
    assert_eq!(ask("allowed_emails=a@b.test", "/portal/p/x", &alice).0, 403);
    assert_eq!(
        ask("allowed_groups=", "/portal/p/x", &alice),
        (403, "request_invalid".to_owned())
    );
    assert_eq!(ask("", "/portal/p/open/x", &[]).0, 202);
    assert_eq!(ask("allowed_groups=viewer", "/portal/p/open/x", &[]).0, 403);
    // the record says what was answered
    let denied = gate.records(4);
    assert_eq!(
        (&denied[1]["decision"], &denied[1]["reason"]),
        (&json!("deny"), &json!("not_permitted")),
        "{denied:?}"
    );
}

fn with_login() -> Setup {
    portal().config(SWITCH)
}

#[test]
fn start_and_sign_in_lead_to_the_login_of_the_portal_and_nowhere_else() {
    let gate = with_login().start();
    let to = |path: &str| {
        let answer = browse(&gate, path, "");
        (answer.status, answer.header("location").to_owned())
    };
    let login = "/oauth2/auth/login?portal=p".to_owned();
    let back = format!("{login}&rd=%2Fportal%2Fp%2Fx%3Fy%3D1");
    for path in ["/oauth2/start", "/oauth2/sign_in"] {
        assert_eq!(to(path), (303, login.clone()));
        assert_eq!(to(&format!("{path}?rd=/portal/p/x?y=1")), (303, back.clone()));
        assert_eq!(to(&format!("{path}?rd={ORIGIN}/portal/p/x?y=1")), (303, back.clone()));
        // nginx states the scheme that it sees itself
        assert_eq!(to(&format!("{path}?rd=http://shop.test/portal/p/x?y=1")), (303, back.clone()));
        let corpus = include_str!("../../corpus/login/redirects.json");
        let attacks: Vec<String> = serde_json::from_str(corpus).unwrap();
        for attack in attacks.iter().map(String::as_str).chain([
            "https://evil.test/portal/p/x",
            "https://shop.test@evil.test/portal/p/x",
            "https://shop.test.evil.test/portal/p/x",
            "https://evil.test\\@shop.test/portal/p/x",
            "https:shop.test/portal/p/x",
            "javascript://shop.test/portal/p/x",
            "https://shop.test/elsewhere",
            "https://shop.test/oauth2/sign_out",
        ]) {
            let encoded: String = url::form_urlencoded::byte_serialize(attack.as_bytes()).collect();
            let (status, location) = to(&format!("{path}?rd={encoded}"));
            let is_refused = (400..500).contains(&status) && location.is_empty();
            let is_own = status == 303 && location.starts_with("/oauth2/auth/login?portal=p&rd=%2Fportal");
            assert!(is_refused || is_own, "{attack}: {status} {location}");
            assert!(!attack.contains("evil") || is_refused, "{attack}: {status} {location}");
        }
    }
    assert_eq!(raw(gate.proxy, "POST", "/oauth2/start", &[], b"").status, 405);
    // at two portals without `rd` the user chooses
    let two = with_login().file("policies/q/portal.yaml", &PORTAL_YAML.replace("/portal/p/", "/portal/q/"));
    let two = two
        .file("policies/q/open.cedar", OPEN_POLICY)
        .file("schemas/q.cedarschema", OPEN_SCHEMA)
        .start();
    let answer = browse(&two, "/oauth2/start", "");
    assert_eq!(
        (answer.status, answer.header("location")),
        (303, "/oauth2/portals/"),
        "{answer:?}"
    );
}

#[test]
fn a_proxy_that_states_the_way_back_chooses_no_other_host() {
    let gate = with_login().start();
    let to = |path: &str, stated: &[&str]| {
        let headers: Vec<_> = stated.iter().map(|stated| ("x-auth-request-redirect", *stated)).collect();
        let answer = raw(gate.proxy, "GET", path, &headers, b"");
        (answer.status, answer.header("location").to_owned())
    };
    let login = (303, "/oauth2/auth/login?portal=p".to_owned());
    let back = |encoded: &str| (303, format!("/oauth2/auth/login?portal=p&rd={encoded}"));
    for path in ["/oauth2/start", "/oauth2/sign_in"] {
        assert_eq!(to(path, &["/portal/p/x?y=1"]), back("%2Fportal%2Fp%2Fx%3Fy%3D1"));
        assert_eq!(to(path, &["https://shop.test/portal/p/x"]), back("%2Fportal%2Fp%2Fx"));
        // the link itself goes before it
        assert_eq!(
            to(&format!("{path}?rd=/portal/p/a"), &["/portal/p/b"]),
            back("%2Fportal%2Fp%2Fa")
        );
        let corpus: Vec<String> = serde_json::from_str(include_str!("../../corpus/login/redirects.json")).unwrap();
        let more = [
            "https://evil.test/portal/p/x",
            "//evil.test/",
            "/oauth2/sign_out",
            "/oauth2/sign_in",
            path,
            "/elsewhere",
        ];
        for attack in corpus.iter().map(String::as_str).chain(more) {
            if http::HeaderValue::from_str(attack).is_err() || attack.trim() != attack {
                continue;
            }
            let answer = to(path, &[attack]);
            let is_own = answer.1.starts_with("/oauth2/auth/login?portal=p&rd=%2Fportal");
            assert!(answer == login || (answer.0 == 303 && is_own), "{attack}: {answer:?}");
            assert!(!answer.1.contains("evil"), "{attack}: {answer:?}");
        }
        assert_eq!(to(path, &["/portal/p/a", "/portal/p/b"]), login, "two statements are none");
    }
    // a question answers no redirect
    let viewer = question("/portal/p/x", &[("x-auth-request-redirect", "https://evil.test/")]);
    let answer = ask(&gate, "/oauth2/auth", &viewer);
    assert_eq!((answer.status, answer.header("location")), (401, ""));
    assert!(!answer.header("x-cedargate-login").contains("evil"), "{answer:?}");
}

#[test]
fn a_session_is_told_and_signed_out() {
    let gate = with_login().start();
    let session = log_in_below(gate.proxy, "alice", "/oauth2");
    let answer = with_cookie(&gate, "GET", "/oauth2/userinfo", &session, &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.json(),
        json!({"user": "local|alice", "email": "alice@shop.test", "groups": ["viewer"]})
    );
    assert_eq!(raw(gate.proxy, "GET", "/oauth2/userinfo", &[], b"").status, 401);
    let cookie = [("cookie", session.as_str()), ("accept", "text/html")];
    let answer = ask(&gate, "/oauth2/auth", &question("/portal/p/x", &cookie));
    assert_eq!(asked(&answer), (202, ""));
    assert_eq!(answer.header("x-auth-request-email"), "alice@shop.test");
    // a link of another site asks the user, and ends nothing
    for more in [&[][..], &[("sec-fetch-site", "cross-site")], &[("sec-fetch-site", "none")]] {
        let mut headers = vec![("accept", "text/html"), ("sec-fetch-mode", "navigate")];
        headers.extend(more);
        let answer = with_cookie(&gate, "GET", "/oauth2/sign_out?rd=/portal/p/x", &session, &headers);
        assert_eq!(answer.status, 200, "{answer:?}");
        let page = answer.text();
        assert!(
            page.contains("action=\"/oauth2/auth/logout\"") && page.contains("value=\"/portal/p/x\""),
            "{page}"
        );
        assert!(!answer.headers.contains_key("set-cookie"), "{answer:?}");
    }
    let script = with_cookie(&gate, "GET", "/oauth2/sign_out", &session, &[]);
    assert_eq!(script.status, 403, "{script:?}");
    assert_eq!(with_cookie(&gate, "GET", "/portal/p/x", &session, &[]).status, 200);
    // a link of the own pages logs out and goes on; a URL of another host leads nowhere
    let own = [
        ("accept", "text/html"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-site", "same-origin"),
    ];
    let answer = with_cookie(
        &gate,
        "GET",
        "/oauth2/sign_out?rd=https%3A%2F%2Fevil.test%2Fx",
        &session,
        &own,
    );
    assert_eq!((answer.status, answer.header("location")), (200, ""), "{answer:?}");
    assert_eq!(with_cookie(&gate, "GET", "/portal/p/x", &session, &[]).status, 401);
    let session = log_in_below(gate.proxy, "alice", "/oauth2");
    let answer = with_cookie(
        &gate,
        "POST",
        "/oauth2/sign_out?rd=/portal/p/x",
        &session,
        &[own[0], own[1], ("origin", ORIGIN)],
    );
    assert_eq!((answer.status, answer.header("location")), (303, "/portal/p/x"), "{answer:?}");
    let answer = ask(&gate, "/oauth2/auth", &question("/portal/p/x", &[("cookie", &session)]));
    assert_eq!(answer.status, 401, "{answer:?}");
}

#[test]
fn the_registered_redirect_uri_stays() {
    let start = |provider: &Provider| {
        start_gate_for(&LoginSetup {
            issuer_url: &provider.issuer(),
            more: SWITCH,
            ..LoginSetup::default()
        })
    };
    let (_provider, login_gate) = register_callback(start, Provider::setup().start(), "/oauth2/callback");
    let mut browser = Browser::new();
    let callback = to_callback(&login_gate, &mut browser, "/oauth2/start?rd=/portal/p/orders");
    assert!(
        callback
            .as_str()
            .starts_with(&format!("{}/oauth2/callback?", login_gate.origin)),
        "{callback}"
    );
    let hop = browser.send(&callback, &Request::navigation("cross-site"));
    assert_eq!(hop.location().unwrap().path(), "/portal/p/orders", "{hop:?}");
    let page = login_gate.open(&mut browser, "/portal/p/orders");
    assert_eq!(page.status, 200, "{page:?}");
}

#[test]
fn nginx_that_asked_oauth2_proxy_asks_the_gate() {
    let (gate, port) = (start_gate(SWITCH), port());
    let page = with_addresses(&block("oauth2-proxy.md", "After, with the gate's", "nginx"), &gate, port);
    // so that the test finds the record of what the app saw
    let user = "proxy_set_header X-User     $user;";
    assert!(page.contains(user), "{page}");
    let id = "auth_request_set $id $upstream_http_x_cedargate_decision_id; proxy_set_header X-Cedargate-Decision-Id $id;";
    let front = start_nginx(page.replace(user, &format!("{user} {id}")), port);
    let viewer = token(&gate, &["viewer"]);
    for method in ["GET", "POST"] {
        let answer = front.send(
            method,
            "/portal/p/orders?x=1",
            &[("authorization", &viewer), ("x-user", "root")],
        );
        assert_eq!(answer.status, 200, "{method} {answer:?}");
        let seen = gate.app.last();
        assert_eq!((seen.method.as_str(), seen.target.as_str()), (method, "/portal/p/orders?x=1"));
        assert_eq!(
            (&seen.headers["x-user"], &seen.headers["x-groups"]),
            (&"alice".parse().unwrap(), &"viewer".parse().unwrap())
        );
    }
    let before = gate.app.count();
    let answer = front.send("GET", "/portal/p/orders?x=1", &[]);
    let to = "/oauth2/sign_in?rd=http://shop.test/portal/p/orders?x=1";
    assert!(answer.status == 302 && answer.header("location").ends_with(to), "{answer:?}");
    assert_eq!(
        front.send("DELETE", "/portal/p/orders", &[("authorization", &viewer)]).status,
        403
    );
    assert_eq!(
        front.send("GET", "/portal/p/secret", &[("authorization", &viewer)]).status,
        403
    );
    assert_eq!(
        front
            .send("GET", "/oauth2/auth", &question("/portal/p/x", &[("authorization", &viewer)]))
            .status,
        404
    );
    assert_eq!(gate.app.count(), before);
    no_confusing_path_reaches_the_secret(&front, &gate);
    no_forged_header_reaches_the_app(&front, &gate);
    the_app_sees_what_was_decided(&front, &gate, "x-user");
}

#[test]
fn a_browser_logs_in_behind_nginx_as_with_oauth2_proxy() {
    let portal_yaml = "login: { provider: local }\npublic: [ \"GET /portal/p/open/**\" ]\n";
    let setup = with_accounts(open_portal()).file("policies/p/portal.yaml", portal_yaml);
    let gate = setup.config(SWITCH).config("trusted_proxies: ['127.0.0.1/32']").start();
    let port = port();
    let page = with_addresses(&block("oauth2-proxy.md", "After, with the gate's", "nginx"), &gate, port);
    // the portal's public URL is https; a TLS terminator in front states it
    let front = start_nginx(page.replace("$scheme", "https"), port);
    let session = log_in_below(front.address, "alice", "/oauth2");
    let answer = front.send("GET", "/portal/p/x", &[("host", "shop.test"), ("cookie", &session)]);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(gate.app.last().headers["x-user"], "local|alice");
    assert_eq!(gate.app.last().headers["x-email"], "alice@shop.test");
    let answer = front.send("GET", "/oauth2/userinfo", &[("cookie", &session)]);
    assert_eq!(answer.json()["email"], "alice@shop.test");
}
