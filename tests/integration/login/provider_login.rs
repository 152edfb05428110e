//! Logging in through a whole gate: at a real OpenID provider, and at a mock provider with faults.
//!
//! The browser is the harness's own, which shows every hop. The store is the gate's memory; what replicas share is
//! shown where there is Redis.

use std::net::SocketAddr;

use serde_json::{Value, json};
use url::Url;

use crate::support::login_gate::{COOKIE, SECRET, alice, header, is_callback, real, start_login_gate, to_callback};
use crate::support::openid::{Browser, Fault, MockProvider, Provider, Request};
use crate::support::session_client::IDENTITY_PATH;
use crate::support::{eventually, raw};

#[test]
fn a_browser_logs_in_at_a_real_provider_reaches_what_it_wanted_and_logs_out_everywhere() {
    let (provider, login_gate) = real(Provider::setup());
    let mut browser = Browser::new();
    let page = browser.log_in(
        login_gate.url("/portal/p/orders?q=blue%20shoes&next=https://x.test").as_str(),
        "alice",
    );
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!(page.url.query(), Some("q=blue%20shoes&next=https://x.test"));
    let seen = login_gate.gate.app.last();
    assert_eq!(header(&seen, "x-forwarded-user"), "alice");
    assert_eq!(header(&seen, "x-forwarded-email"), "alice@acme.test");
    assert_eq!(header(&seen, "x-cedargate-tenant"), "acme");
    assert_eq!(header(&seen, "cookie"), "", "the app sees no cookie of the gate's");
    let cookie = browser.cookie(COOKIE).unwrap();
    assert!(
        cookie.is_secure && cookie.path == "/" && cookie.expires.is_none(),
        "{cookie:?}"
    );
    let event = &login_gate.events("login", 1)[0];
    assert_eq!(
        (
            &event["result"],
            &event["provider"],
            &event["subject"],
            &event["tenant"],
            &event["portal"]
        ),
        (
            &json!("success"),
            &json!("corp"),
            &json!("alice"),
            &json!("acme"),
            &json!("p")
        )
    );
    assert!(login_gate.counted("success"));
    // logged out at the gate and at the provider
    let old = browser.cookies.clone();
    let out = browser.send(
        &login_gate.url(&format!("{IDENTITY_PATH}/auth/logout")),
        &Request::fetch("POST"),
    );
    assert_eq!(out.status, 200, "{out:?}");
    assert!(browser.cookie(COOKIE).is_none());
    let answer: Value = serde_json::from_str(&out.text()).unwrap();
    let there = Url::parse(answer["location"].as_str().unwrap()).unwrap();
    assert!(there.as_str().starts_with(&provider.issuer()), "{there}");
    let back = crate::support::openid::user_agent::query(&there, "post_logout_redirect_uri");
    assert_eq!(back, Some(format!("{}/", login_gate.origin)));
    let bye = browser.send(&there, &Request::navigation("same-origin"));
    assert!(bye.status < 400, "the provider takes the logout: {bye:?}");
    browser.cookies = old;
    let stale = browser.send(&login_gate.url("/portal/p/orders"), &Request::fetch("GET"));
    assert_eq!(stale.status, 401, "a kept cookie is worth nothing");
    let event = login_gate.events("logout", 1).remove(0);
    assert_eq!((&event["subject"], &event["tenant"]), (&json!("alice"), &json!("acme")));
    let again = login_gate.post(&mut browser, "auth/logout");
    assert_eq!(again.status, 204, "without a session there is nothing to end");
}

#[test]
fn every_invalid_provider_answer_ends_in_a_page_with_its_reason_and_no_session() {
    let mock = MockProvider::start("alice", &alice(&["viewer"]));
    let login_gate = start_login_gate(&mock, "");
    let mut browser = Browser::new();
    assert_eq!(login_gate.open(&mut browser, "/portal/p/x").status, 200);
    assert!(browser.cookie(COOKIE).is_some());
    let (before, lies) = (login_gate.gate.app.count(), mock.lies());
    assert!(lies.len() > 25, "{lies:?}");
    let mut failures = 0;
    for lie in &lies {
        // the gate has the discovery document already, and needs no userinfo if the ID token has all claims
        if ["discovery-iss", "other-sub", "missing-userinfo-sub", "userinfo-500"].contains(&lie.as_str()) {
            continue;
        }
        mock.lie(lie);
        let mut browser = Browser::new();
        let page = login_gate.open(&mut browser, "/portal/p/x");
        assert!((400..600).contains(&page.status), "{lie}: {page:?}");
        assert!(browser.cookie(COOKIE).is_none(), "{lie}");
        let code = match lie.as_str() {
            "wrong-state" | "missing-state" | "invalid-grant" => "login_expired",
            "denied" => "login_denied",
            "token-500" => "provider_unavailable",
            _ => "login_invalid",
        };
        assert!(page.text().contains(code), "{lie}: {}", page.text());
        failures += 1;
        let events = login_gate.events("login", 1 + failures);
        let last = events.last().unwrap();
        assert_eq!(last["reason"], code, "{lie}");
        mock.tell_the_truth();
    }
    assert_eq!(login_gate.gate.app.count(), before, "the app saw nothing");
    assert!(login_gate.counted("login_invalid") && login_gate.counted("login_denied"));
}

#[test]
fn userinfo_of_another_subject_begins_no_session() {
    let mock = MockProvider::start("alice", &json!({}));
    let login_gate = start_login_gate(&mock, "");
    for (lie, code) in [
        ("other-sub", "login_invalid"),
        ("missing-userinfo-sub", "login_invalid"),
        ("userinfo-500", "provider_unavailable"),
    ] {
        mock.lie(lie);
        let mut browser = Browser::new();
        let page = login_gate.open(&mut browser, "/portal/p/x");
        assert!(page.status >= 400 && page.text().contains(code), "{lie}: {}", page.text());
        assert!(browser.cookie(COOKIE).is_none(), "{lie}");
    }
}

#[test]
fn tabs_the_back_button_and_reloads_do_not_disturb_each_other_and_no_other_browser_can_finish() {
    let (_provider, login_gate) = real(Provider::setup());
    let mut browser = Browser::new();
    // the first answer gives the browser its secret; later tabs share it
    let begin = browser.send(&login_gate.url("/portal/p/zero"), &Request::navigation("none"));
    let _begun = browser.follow_until(begin, |url| url.path().starts_with("/auth"));
    let one = to_callback(&login_gate, &mut browser, "/portal/p/one");
    let two = to_callback(&login_gate, &mut browser, "/portal/p/two?x=1");
    let mut thief = Browser::new();
    let stolen = thief.send(&one, &Request::navigation("cross-site"));
    assert!(stolen.status >= 400 && stolen.text().contains("login_expired"), "{stolen:?}");
    assert!(thief.cookie(COOKIE).is_none());
    let second = browser.send(&two, &Request::navigation("cross-site"));
    assert_eq!(
        (second.status, second.location().unwrap()),
        (303, login_gate.url("/portal/p/two?x=1"))
    );
    let session = browser.cookie(COOKIE).unwrap().value.clone();
    let first = browser.send(&one, &Request::navigation("cross-site"));
    assert_eq!(
        (first.status, first.location().unwrap()),
        (303, login_gate.url("/portal/p/one"))
    );
    let newer = browser.cookie(COOKIE).unwrap().value.clone();
    assert_ne!(session, newer, "a login gives a new id");
    // back button and reload: the same callback goes on to its page and changes nothing
    for _ in 0..2 {
        let repeated = browser.send(&two, &Request::navigation("cross-site"));
        assert_eq!(
            (repeated.status, repeated.location().unwrap()),
            (303, login_gate.url("/portal/p/two?x=1"))
        );
    }
    assert_eq!(browser.cookie(COOKIE).unwrap().value, newer);
    let status = |value: &str| {
        let cookie = format!("{COOKIE}={value}");
        raw(login_gate.gate.proxy, "GET", "/portal/p/x", &[("cookie", &cookie)], b"").status
    };
    assert_eq!((status(&session), status(&newer)), (401, 200), "the session before ended");
    // without a session a repeated callback begins again
    browser.cookies.retain(|cookie| cookie.name != COOKIE);
    let again = browser.send(&two, &Request::navigation("cross-site"));
    let target = again.location().unwrap();
    assert!(target.path().ends_with("/auth/login"), "{target}");
    assert_eq!(
        crate::support::openid::user_agent::query(&target, "rd").as_deref(),
        Some("/portal/p/two?x=1")
    );
    // a HEAD uses nothing up
    let three = to_callback(&login_gate, &mut browser, "/portal/p/three");
    let cookies = browser.cookies_for(&three);
    let path = &three[url::Position::BeforePath..];
    let head = raw(login_gate.gate.proxy, "HEAD", path, &[("cookie", &cookies)], b"");
    assert_eq!(head.status, 405);
    assert_eq!(browser.send(&three, &Request::navigation("cross-site")).status, 303);
}

#[test]
fn no_open_redirect_of_the_corpus_gets_anywhere() {
    let mock = MockProvider::start("alice", &alice(&[]));
    let login_gate = start_login_gate(&mock, "");
    let text = include_str!("../../corpus/login/redirects.json");
    let mut tricks: Vec<String> = serde_json::from_str(text).unwrap();
    assert!(tricks.len() >= 150);
    tricks.push(format!("/{}", "a".repeat(4096)));
    for trick in &tricks {
        let rd: String = url::form_urlencoded::byte_serialize(trick.as_bytes()).collect();
        let path = format!("{IDENTITY_PATH}/auth/login?portal=p&rd={rd}");
        let answer = raw(login_gate.gate.proxy, "GET", &path, &[("accept", "text/html")], b"");
        assert_eq!((answer.status, answer.header("location")), (400, ""), "{trick:?}");
        let ours = ("origin", login_gate.origin.as_str());
        let answer = raw(
            login_gate.gate.proxy,
            "POST",
            &format!("{IDENTITY_PATH}/auth/logout?rd={rd}"),
            &[ours],
            b"",
        );
        assert_eq!((answer.status, answer.header("location")), (400, ""), "{trick:?}");
        // an address of the portal in another spelling never becomes a target elsewhere
        if let Ok(target) = login_gate
            .url("/portal/p/")
            .join(trick)
            .map(|url| url[url::Position::BeforePath..].to_owned())
        {
            let headers = [("accept", "text/html"), ("sec-fetch-mode", "navigate")];
            let answer = raw(login_gate.gate.proxy, "GET", &target, &headers, b"");
            let location = answer.header("location");
            assert!(
                location.is_empty() || location.starts_with(&format!("{IDENTITY_PATH}/auth/login?")),
                "{trick:?}: {location}"
            );
        }
    }
    for query in [
        "",
        "portal=p&portal=p",
        "portal=p&rd=/a&rd=/b",
        "portal=p&acr_values=a%0d%0ab",
        "portal=p&acr_values=",
        "portal=p&max_age=-1",
        "portal=p&max_age=99999999999",
        "portal=p&provider=other",
    ] {
        let answer = raw(
            login_gate.gate.proxy,
            "GET",
            &format!("{IDENTITY_PATH}/auth/login?{query}"),
            &[],
            b"",
        );
        assert_eq!((answer.status, answer.header("location")), (400, ""), "{query}");
    }
    let script = raw(
        login_gate.gate.proxy,
        "GET",
        &format!("{IDENTITY_PATH}/auth/login?portal=p"),
        &[("sec-fetch-mode", "cors")],
        b"",
    );
    assert_eq!(
        (script.status, script.header("location")),
        (400, ""),
        "a script is not sent to a provider"
    );
}

#[test]
fn a_logout_needs_evidence_of_origin_and_redirects_a_form_to_the_provider() {
    let (provider, login_gate) = real(Provider::setup());
    let mut browser = Browser::new();
    browser.log_in(login_gate.url("/portal/p/x").as_str(), "alice");
    let logout = login_gate.url(&format!("{IDENTITY_PATH}/auth/logout"));
    let cookies = browser.cookies_for(&logout);
    for headers in [
        &[][..],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "null")],
        &[("origin", "https://evil.test")],
    ] {
        let headers = [headers, &[("cookie", cookies.as_str())]].concat();
        for endpoint in ["auth/logout", "auth/refresh"] {
            let answer = raw(
                login_gate.gate.proxy,
                "POST",
                &format!("{IDENTITY_PATH}/{endpoint}"),
                &headers,
                b"",
            );
            assert_eq!(
                (answer.status, answer.code()),
                (403, "origin_mismatch".to_owned()),
                "{headers:?}"
            );
        }
    }
    assert_eq!(login_gate.open(&mut browser, "/portal/p/x").status, 200, "nothing ended");
    let form = Request::navigation("same-origin").form(&[("rd", "/")]);
    let out = browser.send(&logout, &form);
    assert_eq!(out.status, 303);
    assert!(out.location().unwrap().as_str().starts_with(&provider.issuer()));
    let form = Request::navigation("same-origin").form(&[("rd", "/portal/p/bye")]);
    let again = browser.send(&logout, &form);
    assert_eq!(
        (again.status, again.location().unwrap()),
        (303, login_gate.url("/portal/p/bye"))
    );
}

#[test]
fn a_back_channel_logout_of_the_provider_ends_sessions() {
    let (provider, login_gate) = real(Provider::setup());
    let (mut one, mut other) = (Browser::new(), Browser::new());
    provider.account("bob", &alice(&[]));
    one.log_in(login_gate.url("/portal/p/x").as_str(), "alice");
    other.log_in(login_gate.url("/portal/p/x").as_str(), "bob");
    let outcomes = provider.end_sessions("alice");
    assert!(
        !outcomes.is_empty() && outcomes.iter().all(|outcomes| outcomes["outcome"] == "ok"),
        "{outcomes:?}"
    );
    let status = |browser: &mut Browser| browser.send(&login_gate.url("/portal/p/x"), &Request::fetch("GET")).status;
    eventually("the session is over", || {
        let status = status(&mut one);
        (status == 401).then_some(()).ok_or(status.to_string())
    });
    assert_eq!(status(&mut other), 200, "the other session goes on");
    assert_eq!(login_gate.events("logout", 1)[0]["reason"], "backchannel_logout");
    let path = format!("{IDENTITY_PATH}/auth/backchannel-logout");
    let kind = ("content-type", "application/x-www-form-urlencoded");
    for body in [
        "logout_token=x",
        "logout_token=a.b.c",
        "logout_token=",
        "x=y",
        "logout_token=a&logout_token=b",
    ] {
        let answer = raw(login_gate.gate.proxy, "POST", &path, &[kind], body.as_bytes());
        assert_eq!((answer.status, answer.header("cache-control")), (400, "no-store"), "{body}");
    }
    assert_eq!(raw(login_gate.gate.proxy, "POST", &path, &[], b"logout_token=x").status, 400);
    assert_eq!(raw(login_gate.gate.proxy, "GET", &path, &[], b"").status, 405);
    assert_eq!(status(&mut other), 200);
}

#[test]
fn a_refresh_brings_new_roles_under_a_new_id_and_ends_what_the_provider_ended() {
    let (provider, login_gate) = real(Provider::setup().always_refresh());
    let mut browser = Browser::new();
    browser.log_in(login_gate.url("/portal/p/x").as_str(), "alice");
    let id = browser.cookie(COOKIE).unwrap().value.clone();
    provider.account("alice", &alice(&["admin"]));
    let renewed = login_gate.post(&mut browser, "auth/refresh");
    assert_eq!(renewed.status, 200, "{renewed:?}");
    assert!(renewed.text().contains("admin"), "{}", renewed.text());
    assert!(!renewed.text().contains("eyJ"));
    eventually("privileges changed: an answer brings another id", || {
        login_gate.open(&mut browser, "/portal/p/x");
        let now = browser.cookie(COOKIE).unwrap().value.clone();
        (now != id).then_some(()).ok_or(now)
    });
    let login = login_gate.events("login", 1).remove(0);
    let event = login_gate.events("refresh", 1).remove(0);
    assert_eq!(
        (&event["result"], &event["reason"], &event["subject"], &event["tenant"]),
        (&json!("success"), &json!("renewed"), &json!("alice"), &json!("acme"))
    );
    assert_eq!(event["session"], login["session"], "{event}");
    assert!(event["session"].is_string());
    assert_eq!(provider.count_tokens("refresh_token"), 1);
    assert_eq!(login_gate.open(&mut browser, "/portal/p/x").status, 200);
    assert_eq!(header(&login_gate.gate.app.last(), "x-cedargate-roles"), "admin");
    provider.fault("token", Fault::Status(500), None);
    assert_eq!(
        login_gate.post(&mut browser, "auth/refresh").status,
        200,
        "a provider that is out of order ends nothing"
    );
    provider.heal();
    assert_eq!(login_gate.open(&mut browser, "/portal/p/x").status, 200);
    let none = login_gate.post(&mut Browser::new(), "auth/refresh");
    assert_eq!(none.status, 401);
}

#[test]
fn an_unreachable_provider_gives_a_page_and_a_later_login_works() {
    let (provider, login_gate) = real(Provider::setup());
    let mut browser = Browser::new();
    let callback = to_callback(&login_gate, &mut browser, "/portal/p/x");
    provider.fault("token", Fault::Close, None);
    let page = browser.send(&callback, &Request::navigation("cross-site"));
    assert!(page.status >= 500 && page.text().contains("provider_unavailable"), "{page:?}");
    provider.heal();
    let again = login_gate.open(&mut browser, "/portal/p/x");
    assert_eq!(again.status, 200, "{again:?}");
    assert!(login_gate.counted("provider_unavailable") && login_gate.counted("success"));
}

#[test]
fn a_step_up_that_the_provider_does_not_do_ends_in_a_page() {
    let (_provider, login_gate) = real(Provider::setup());
    let mut browser = Browser::new();
    browser.log_in(login_gate.url("/portal/p/x").as_str(), "alice");
    let hop = browser.send(&login_gate.url("/portal/p/vault"), &Request::navigation("none"));
    let hop = browser.follow_until(hop, |url| url.origin() != login_gate.url("/").origin());
    let target = hop.location().unwrap();
    assert_eq!(
        crate::support::openid::user_agent::query(&target, "acr_values").as_deref(),
        Some("2"),
        "{target}"
    );
    let mut page = browser.follow(hop);
    if page.text().contains("<form") {
        let hop = browser.submit(&page, &[("login", "alice")]);
        page = browser.follow(hop);
    }
    assert_eq!((page.status, page.url.path()), (200, "/portal/p/vault"), "{page:?}");
    let (_provider, login_gate) = real(Provider::setup().ignores_acr());
    let mut browser = Browser::new();
    let rd = format!("{IDENTITY_PATH}/auth/login?portal=p&acr_values=2&rd=/portal/p/vault");
    let page = browser.log_in(login_gate.url(&rd).as_str(), "alice");
    assert!(page.status >= 400 && page.text().contains("step_up_failed"), "{page:?}");
    assert!(browser.cookie(COOKIE).is_none());
}

#[test]
fn a_loop_of_logins_ends_in_a_page_until_the_browser_logs_out() {
    let mock = MockProvider::start("alice", &alice(&[]));
    let login_gate = start_login_gate(&mock, "");
    let mut browser = Browser::new();
    let login = format!("{IDENTITY_PATH}/auth/login?portal=p&rd=/portal/p/x");
    let after_login = |url: &Url| url.path() == "/portal/p/x";
    for n in 0..4 {
        // the page after the login is never seen
        let hop = browser.send(&login_gate.url(&login), &Request::navigation("none"));
        let hop = browser.follow_until(hop, after_login);
        assert!(hop.location().is_some_and(|url| after_login(&url)), "{n}: {hop:?}");
    }
    let page = login_gate.open(&mut browser, &login);
    assert!(page.status >= 400 && page.text().contains("login_loop"), "{page:?}");
    assert!(page.text().contains("`limits.login_loop`"), "{page:?}");
    let failed = login_gate
        .events("login", 5)
        .into_iter()
        .find(|event| event["reason"] == "login_loop");
    assert_eq!(failed.unwrap()["limit"], "limits.login_loop");
    assert!(page.location().is_none());
    login_gate.post(&mut browser, "auth/logout");
    assert_eq!(login_gate.open(&mut browser, &login).status, 200);
}

#[test]
fn no_secret_is_logged_or_shown() {
    let (provider, login_gate) = real(Provider::setup().always_refresh());
    let mut browser = Browser::new();
    browser.log_in(login_gate.url("/portal/p/x").as_str(), "alice");
    login_gate.post(&mut browser, "auth/refresh");
    let callback = browser.hops.iter().find(|hop| is_callback(&hop.url)).unwrap().clone();
    let mut secrets: Vec<String> = browser.cookies.iter().map(|cookie| cookie.value.clone()).collect();
    secrets.extend([
        callback.query("code").unwrap(),
        callback.query("state").unwrap(),
        SECRET.to_owned(),
    ]);
    provider.fault("token", Fault::Status(500), None);
    login_gate.post(&mut browser, "auth/refresh");
    login_gate.post(&mut browser, "auth/logout");
    let callback = to_callback(&login_gate, &mut browser, "/portal/p/x");
    let page = browser.send(&callback, &Request::navigation("cross-site"));
    secrets.push(crate::support::openid::user_agent::query(&callback, "code").unwrap());
    secrets.push(crate::support::openid::user_agent::query(&callback, "state").unwrap());
    login_gate.events("login", 2);
    login_gate.events("logout", 1);
    let shown = [login_gate.written(), login_gate.gate.metrics(), page.text()].join("\n");
    assert!(shown.contains("provider_unavailable"));
    for secret in secrets {
        assert!(secret.len() > 8 && !shown.contains(&secret), "{secret}");
    }
    assert!(!shown.contains("eyJ"), "no token, whole or in part");
    let address: SocketAddr = login_gate.gate.proxy;
    assert_eq!(raw(address, "GET", "/portal/p/x", &[], b"").status, 401);
}
