//! What a person sees: a page for every refusal, a way on from every page, and the wanted address after every login.

use serde_json::json;

use crate::support::login_gate::{COOKIE, LoginGate, alice, real, register_at, start_login_gate, start_login_gate_with};
use crate::support::openid::{Browser, MockProvider, Provider, Request};
use crate::support::session_client::{self, HASH, IDENTITY_PATH, browse, set_cookie};
use crate::support::{Answer, Gate, OPEN_SCHEMA, Setup, raw};

const POLICY: &str = "@id(\"viewers\") permit (principal in Role::\"viewer\", action, resource);
@id(\"closed\") @advice(\"Ask the boss.\") forbid (principal, action, resource in Path::\"/portal/p/closed\");
@id(\"vault\") @step_up(\"2\") forbid (principal, action, resource in Path::\"/portal/p/vault\");";

const NAVIGATION: [(&str, &str); 2] = [("accept", "text/html,*/*;q=0.8"), ("sec-fetch-mode", "navigate")];
const FETCH: [(&str, &str); 2] = [("accept", "text/html,*/*;q=0.8"), ("sec-fetch-mode", "cors")];
const API: [(&str, &str); 1] = [("accept", "application/json")];

/// Portal `p` with local accounts, portal `api` without a login, and a public path whose app is away.
fn start(more: &str) -> Gate {
    Setup::portal(OPEN_SCHEMA, POLICY)
        .file("policies/p/portal.yaml", "title: Shop\nlogin: { provider: local }\n")
        .file("schemas/api.cedarschema", OPEN_SCHEMA)
        .file(
            "policies/api/main.cedar",
            "@id(\"none\") forbid (principal, action, resource in Path::\"/portal/api/closed\");",
        )
        .file(
            "policies/api/portal.yaml",
            "public: [ \"GET /portal/api/open/**\", \"POST /portal/api/open/**\" ]\n",
        )
        .file(
            "users.yaml",
            &format!(
                "users:\n  alice: {{ password: '{HASH}', tenant: acme, roles: [viewer], name: Alice, email: alice@shop.test }}\n"
            ),
        )
        .config(&format!(
            "public_url: 'https://shop.test'\nlogin: {{ providers: {{ local: {{ users_file: users.yaml }} }} }}\n\
             portals: {{ p: {{}}, api: {{ upstream: 'http://127.0.0.1:1' }} }}\n{more}"
        ))
        .start()
}

fn page(answer: &Answer, status: u16, code: &str) -> String {
    let text = answer.text();
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (status, "text/html; charset=utf-8"),
        "{text}"
    );
    assert!(
        answer.header("content-security-policy").contains("default-src 'none'"),
        "{answer:?}"
    );
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(text.matches("<h1>").count(), 1, "{text}");
    assert!(
        text.contains(code) && text.contains(answer.header("x-cedargate-decision-id")),
        "{text}"
    );
    text
}

#[test]
fn every_refusal_of_a_navigation_is_a_page_and_of_a_program_is_not() {
    let gate = start("limits: { workers: 2, header_bytes: 8KiB, body_bytes: 1KiB }");
    let long = format!("/portal/p/x?q={}", "a".repeat(9000));
    for (path, status, code) in [
        ("/nowhere", 404, "portal_unknown"),
        ("/api/v1/identity/nowhere", 404, "portal_unknown"),
        ("/.well-known/cedargate/nowhere", 404, "portal_unknown"),
        ("/api/v1/identity/portals/nowhere/", 404, "portal_unknown"),
        ("/portal/p/a//b", 400, "request_invalid"),
        ("/portal/p/%2e%2e/b", 400, "request_invalid"),
        ("/api/v1/identity/auth/login", 400, "request_invalid"),
        ("/api/v1/identity/auth/login?portal=p&rd=//evil.test", 400, "request_invalid"),
        ("/portal/api/x", 401, "token_missing"),
        ("/portal/api/open/x", 502, "upstream_unavailable"),
        (long.as_str(), 431, "request_too_large"),
    ] {
        let text = page(&raw(gate.proxy, "GET", path, &NAVIGATION, b""), status, code);
        assert!(!text.contains("Sign in"), "{text}");
        for headers in [
            &FETCH[..],
            &API,
            &[("accept", "text/html"), ("x-requested-with", "XMLHttpRequest")],
        ] {
            let answer = raw(gate.proxy, "GET", path, headers, b"");
            assert_eq!(
                (answer.status, answer.header("content-type")),
                (status, "application/problem+json"),
                "{path}"
            );
        }
    }
    // a form
    let body = vec![b'a'; 4000];
    let large = raw(gate.proxy, "POST", "/portal/api/open/x", &NAVIGATION, &body);
    page(&large, 413, "request_too_large");
    assert_eq!(
        raw(gate.proxy, "POST", "/portal/api/open/x", &FETCH, &body).header("content-type"),
        "application/problem+json"
    );
    let form = raw(gate.proxy, "POST", "/portal/p/x", &NAVIGATION, b"a=b");
    let text = page(&form, 401, "token_missing");
    assert_eq!(form.header("location"), "", "a form is not sent again after a login");
    assert!(
        text.contains("href=\"/api/v1/identity/auth/login?portal=p&amp;rd=%2Fportal%2Fp\""),
        "{text}"
    );
    // a visit of an address that takes no visits
    for endpoint in [
        "auth/local",
        "auth/logout",
        "auth/refresh",
        "auth/token",
        "auth/backchannel-logout",
    ] {
        let path = format!("{IDENTITY_PATH}/{endpoint}");
        let answer = raw(gate.proxy, "GET", &path, &NAVIGATION, b"");
        assert_eq!((answer.status, answer.header("allow")), (405, "POST"));
        assert_eq!(answer.header("content-type"), "text/html; charset=utf-8", "{endpoint}");
        assert_eq!(
            answer.text().contains("<form"),
            endpoint == "auth/logout",
            "{}",
            answer.text()
        );
        assert_eq!(
            raw(gate.proxy, "GET", &path, &API, b"").header("content-type"),
            "application/json"
        );
    }
}

#[test]
fn a_navigation_that_comes_too_often_gets_a_page() {
    let gate = start("limits: { workers: 1, rate_per_address: { requests: 3, per: 1m } }");
    let mut last = raw(gate.proxy, "GET", "/portal/p/x", &NAVIGATION, b"");
    for _ in 0..8 {
        last = raw(gate.proxy, "GET", "/portal/p/x", &NAVIGATION, b"");
    }
    let text = page(&last, 429, "rate_limited");
    assert!(text.contains("Try again"), "{text}");
}

#[test]
fn without_a_session_every_address_leads_on() {
    let gate = start("");
    let root = browse(&gate, "/", "");
    let text = root.text();
    assert!(root.status == 200 && text.contains("<h1>Choose a portal</h1>"), "{text}");
    assert_eq!(browse(&gate, "/api/v1/identity/portals/", "").text(), text);
    for headers in [&API[..], &FETCH] {
        assert_eq!(raw(gate.proxy, "GET", "/", headers, b"").status, 404);
    }

    assert!(
        text.contains("<strong>Shop</strong>") && text.contains("href=\"/portal/p\""),
        "{text}"
    );
    assert!(
        !text.contains("/portal/api") && !text.contains(">p<"),
        "no portal without a login, no slug: {text}"
    );
    let entry = browse(&gate, "/portal/p", "");
    assert_eq!(
        (entry.status, entry.header("location")),
        (302, "/api/v1/identity/auth/login?portal=p&rd=%2Fportal%2Fp")
    );
    let missing = browse(&gate, "/nowhere", "");
    assert!(
        missing.text().contains("href=\"/api/v1/identity/portals/\""),
        "{}",
        missing.text()
    );
}

#[test]
fn the_page_of_a_denial_names_the_user_and_has_no_dead_end() {
    let gate = start("");
    let session = session_client::log_in(&gate, "alice");
    let denied = browse(&gate, "/portal/p/closed/a?b=c", &session);
    let text = page(&denied, 403, "forbidden");
    for part in [
        "<strong>Alice</strong>",
        "(alice@shop.test)",
        "Ask the boss.",
        "action=\"/api/v1/identity/auth/logout\"",
        "href=\"/api/v1/identity/auth/login?portal=p&amp;rd=%2Fportal%2Fp%2Fclosed%2Fa%3Fb%3Dc&amp;prompt=login\"",
        "href=\"/api/v1/identity/portals/\"",
        "<title>Access denied · Shop</title>",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // a page never names a user to a browser without the session
    let nobody = browse(&gate, "/portal/p/closed/a", "__Host-cedargate=x");
    assert!(!nobody.text().contains("Alice"));
    let token = gate.issuer.token("bob", &["viewer"]);
    let bearer = format!("Bearer {token}");
    let headers = [NAVIGATION[0], NAVIGATION[1], ("authorization", bearer.as_str())];
    let answer = raw(gate.proxy, "GET", "/portal/p/closed/a", &headers, b"");
    assert!(
        !answer.text().contains("auth/logout"),
        "a token is no login: {}",
        answer.text()
    );
}

#[test]
fn a_browser_that_keeps_no_cookies_is_told_so() {
    let (_provider, login_gate) = real(Provider::setup());
    let mut browser = Browser::new();
    let callback = crate::support::login_gate::to_callback(&login_gate, &mut browser, "/portal/p/x");
    let page = Browser::new().send(&callback, &Request::navigation("cross-site"));
    assert!(
        page.text().contains("login_expired") && page.text().contains("Allow cookies"),
        "{}",
        page.text()
    );
    assert!(!page.text().contains("took too long"), "{}", page.text());
}

#[test]
fn logins_that_help_are_never_a_loop_and_logins_that_do_not_are_soon() {
    let mut claims = alice(&["viewer"]);
    claims["acr"] = json!("2");
    let mock = MockProvider::start("alice", &claims);
    let login_gate = start_login_gate(&mock, "");
    let mut browser = Browser::new();
    // ten windows of a browser that was opened again, each with a login that helped
    for n in 0..10 {
        let page = login_gate.open(&mut browser, &format!("{IDENTITY_PATH}/auth/login?portal=p&rd=/portal/p/{n}"));
        assert_eq!((page.status, page.url.path()), (200, format!("/portal/p/{n}").as_str()));
        browser.cookies.retain(|cookie| cookie.name != COOKIE || n % 2 == 0);
        assert_eq!(login_gate.open(&mut browser, "/portal/p/x").status, 200);
    }
    // the provider confirms the level that the policy asks for, and the policy is not content
    login_gate.gate.put(
        "policies/p/main.cedar",
        "@id(\"open\") permit (principal, action, resource);\n\
         @id(\"never\") @step_up(\"2\") forbid (principal, action, resource in Path::\"/portal/p/vault\");",
    );
    crate::support::eventually("the policy is in force", || {
        let mut asked = browser.clone();
        let hop = asked.send(&login_gate.url("/portal/p/vault"), &Request::navigation("none"));
        (hop.status == 302).then_some(()).ok_or(hop.status.to_string())
    });
    let page = login_gate.open(&mut browser, "/portal/p/vault");
    let text = page.text();
    assert!(page.status == 403 && text.contains("login_loop"), "{page:?}");
    for part in ["alice@acme.test", "auth/logout", "prompt=login", "/portals/"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // another account is a choice of the user, and a logout starts afresh
    let other = login_gate.open(
        &mut browser,
        &format!("{IDENTITY_PATH}/auth/login?portal=p&rd=/portal/p/x&prompt=login"),
    );
    assert_eq!(other.status, 200, "{other:?}");
    assert!(login_gate.open(&mut browser, "/portal/p/vault").text().contains("login_loop"));
    login_gate.post(&mut browser, "auth/logout");
    assert_eq!(login_gate.open(&mut browser, "/portal/p/x").status, 200);
}

fn ends_logged_out(login_gate: &LoginGate, browser: &mut Browser, from_page: bool) {
    let fields: &[(&str, &str)] = if from_page { &[("from", "page")] } else { &[] };
    let logout = login_gate.url(&format!("{IDENTITY_PATH}/auth/logout"));
    let out = browser.send(&logout, &Request::navigation("same-origin").form(fields));
    let there = match from_page {
        true => url::Url::parse(out.header("refresh").strip_prefix("0; url=").unwrap()).unwrap(),
        false => out.location().unwrap(),
    };
    let confirm = browser.send(&there, &Request::navigation("cross-site"));
    let hop = browser.submit(&confirm, &[("logout", "yes")]);
    let page = browser.follow(hop);
    assert_eq!(page.status, 200, "{page:?}");
    assert!(page.text().contains("<h1>Logged out</h1>"), "{}", page.text());
    assert!(!browser.cookies.iter().any(|cookie| cookie.name.contains("cedargate-logout")));
}

#[test]
fn a_logout_at_the_provider_ends_on_the_page_that_confirms_it() {
    let (_provider, login_gate) = real(Provider::setup());
    for from_page in [false, true] {
        let mut browser = Browser::new();
        browser.log_in(login_gate.url("/portal/p/x").as_str(), "alice");
        ends_logged_out(&login_gate, &mut browser, from_page);
        let root = login_gate.open(&mut browser, "/");
        assert!(root.text().contains("<h1>Choose a portal</h1>"), "once: {root:?}");
    }
}

#[test]
fn a_logout_ends_on_its_page_also_where_a_portal_has_the_root() {
    let start = |provider: &Provider| start_login_gate_with(provider, "", "portals: { p: { match: { path_prefix: / } } }");
    let (_provider, login_gate) = register_at(start, Provider::start());
    let mut browser = Browser::new();
    browser.log_in(login_gate.url("/portal/p/x").as_str(), "alice");
    ends_logged_out(&login_gate, &mut browser, false);
    // then the root is the portal's again
    let hop = browser.send(&login_gate.url("/"), &Request::navigation("none"));
    assert!(hop.location().unwrap().path().ends_with("/auth/login"), "{hop:?}");
}

#[test]
fn deep_links_survive_the_login_or_end_at_their_path_with_a_word() {
    let mock = MockProvider::start("alice", &alice(&["viewer"]));
    let login_gate = start_login_gate(&mock, "");
    let long = format!("q={}", "a".repeat(2500));
    for (query, kept) in [
        (long.as_str(), long.as_str()),
        ("text=one%0Atwo%0D%0A", "text=one%0Atwo%0D%0A"),
        ("f={\"a\":1}", "f=%7B%22a%22:1%7D"),
        ("f={%22a%22:1}", "f=%7B%22a%22:1%7D"),
        ("f=%7B%22a%22:1%7D", "f=%7B%22a%22:1%7D"),
    ] {
        let mut browser = Browser::new();
        // the client of the test writes the query as it is; a URL type would encode it
        let target = format!("/portal/p/x?{query}");
        let first = raw(login_gate.gate.proxy, "GET", &target, &NAVIGATION, b"");
        assert_eq!(first.status, 302, "{query}");
        let page = login_gate.open(&mut browser, first.header("location"));
        assert_eq!(
            (page.status, page.url.path(), page.url.query()),
            (200, "/portal/p/x", Some(kept)),
            "{page:?}"
        );
    }
    let mut browser = Browser::new();
    let page = login_gate.open(&mut browser, &format!("/portal/p/x?q={}", "a".repeat(6000)));
    let text = page.text();
    assert_eq!(page.status, 200);
    assert!(
        text.contains("You are logged in") && text.contains("too long") && text.contains("href=\"/portal/p/x\""),
        "{text}"
    );
    assert!(browser.cookie(COOKIE).is_some());
    assert_eq!(login_gate.open(&mut browser, "/portal/p/x").status, 200);
}

#[test]
fn deep_links_survive_the_form_of_a_local_account() {
    let gate = start("");
    for query in ["text=one%0Atwo", "f=%7B%22a%22:1%7D"] {
        let first = browse(&gate, &format!("/portal/p/x?{query}"), "");
        let form = browse(&gate, first.header("location"), "");
        let login = set_cookie(&form, "__Host-cedargate-login").unwrap();
        let mut body = form_urlencoded(&form.text());
        body.push_str("&name=alice&password=password");
        let headers = [
            ("cookie", login.as_str()),
            ("origin", "https://shop.test"),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        let done = raw(
            gate.proxy,
            "POST",
            &format!("{IDENTITY_PATH}/auth/local"),
            &headers,
            body.as_bytes(),
        );
        assert_eq!(
            (done.status, done.header("location")),
            (303, format!("/portal/p/x?{query}").as_str()),
            "{}",
            done.text()
        );
    }
}

/// The hidden fields of a form.
fn form_urlencoded(page: &str) -> String {
    let fields = page.split("<input type=\"hidden\" name=\"").skip(1).map(|rest| {
        let (name, rest) = rest.split_once("\" value=\"").unwrap();
        (name, rest.split('"').next().unwrap())
    });
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish()
}
