//! Several tabs that began to log in before the browser had a cookie, as when it is opened again with all its windows.
//!
//! The last answer's cookie wins, so that only one of the logins can be finished as it began. The other tabs reach
//! their page nevertheless. A login that another browser began never logs its account in.

use url::Url;

use crate::support::login_gate::{COOKIE, LoginGate, alice, real, start_login_gate, to_callback};
use crate::support::openid::user_agent::query;
use crate::support::openid::{Browser, MockProvider, Provider, Request};
use crate::support::session_client::IDENTITY_PATH;
use crate::support::{Seen, raw};

const BINDING: &str = "__Host-cedargate-login";

/// Begins a login in a tab without the cookie of another tab; returns the provider's address.
fn begin(login_gate: &LoginGate, browser: &mut Browser, path: &str) -> Url {
    browser.cookies.retain(|cookie| cookie.name != BINDING);
    let hop = browser.send(&login_gate.url(path), &Request::navigation("none"));
    let hop = browser.follow_until(hop, |url| url.origin() != login_gate.url("/").origin());
    hop.location().unwrap()
}

/// Logs in at the provider; returns the callback address without sending it.
fn through_provider(browser: &mut Browser, there: &Url, account: &str) -> Url {
    let is_callback = |url: &Url| url.path().ends_with("/auth/callback");
    let hop = browser.send(there, &Request::navigation("cross-site"));
    let mut hop = browser.follow_until(hop, is_callback);
    if hop.status == 200 {
        hop = browser.submit(&hop, &[("login", account)]);
        hop = browser.follow_until(hop, is_callback);
    }
    hop.location().unwrap_or_else(|| panic!("{hop:?}"))
}

fn user(seen: &Seen) -> &str {
    seen.headers["x-forwarded-user"].to_str().unwrap()
}

#[test]
fn tabs_that_began_without_a_cookie_all_reach_their_page_in_any_order() {
    let (_provider, login_gate) = real(Provider::setup());
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for (order, all_return_first) in orders.iter().flat_map(|order| [(order, false), (order, true)]) {
        let mut browser = Browser::new();
        let paths = ["/portal/p/zero", "/portal/p/one?x=1", "/portal/p/two"];
        let begun = paths.map(|path| begin(&login_gate, &mut browser, path));
        let early: Vec<Url> = if all_return_first {
            begun
                .iter()
                .map(|there| through_provider(&mut browser, there, "alice"))
                .collect()
        } else {
            Vec::new()
        };
        for &tab in order {
            let callback = early.get(tab).cloned();
            let callback = callback.unwrap_or_else(|| through_provider(&mut browser, &begun[tab], "alice"));
            let hop = browser.send(&callback, &Request::navigation("cross-site"));
            let page = browser.follow(hop);
            assert_eq!(
                (page.status, page.url),
                (200, login_gate.url(paths[tab])),
                "tab {tab} of {order:?}, {all_return_first}"
            );
        }
        assert_eq!(user(&login_gate.gate.app.last()), "alice");
    }
}

#[test]
fn a_callback_of_another_browsers_login_does_not_log_its_account_in() {
    let (provider, login_gate) = real(Provider::setup());
    provider.account("bob", &alice(&[]));
    let mut attacker = Browser::new();
    let forged = to_callback(&login_gate, &mut attacker, "/portal/p/of-the-attacker");
    let state = query(&forged, "state").unwrap();
    assert!(state.len() < 2048, "{}", state.len());
    // without cookies the gate shows a page instead of redirecting for ever
    let mut none = Browser::new();
    let page = none.send(&forged, &Request::navigation("cross-site"));
    assert!(page.status >= 400 && page.text().contains("login_expired"), "{page:?}");
    assert!(none.cookies.is_empty());
    // a browser that is logging in goes on, as itself
    let mut victim = Browser::new();
    begin(&login_gate, &mut victim, "/portal/p/own");
    let hop = victim.send(&forged, &Request::navigation("cross-site"));
    let target = hop.location().unwrap();
    assert_eq!(
        (hop.status, target.path()),
        (303, format!("{IDENTITY_PATH}/auth/login").as_str())
    );
    assert_eq!(query(&target, "rd").as_deref(), Some("/portal/p/of-the-attacker"));
    assert!(victim.cookie(COOKIE).is_none());
    let callback = through_provider(&mut victim, &target, "bob");
    let hop = victim.send(&callback, &Request::navigation("cross-site"));
    assert_eq!(victim.follow(hop).status, 200);
    assert_eq!(user(&login_gate.gate.app.last()), "bob");
    // a browser that is logged in keeps its account
    let session = victim.cookie(COOKIE).unwrap().value.clone();
    let hop = victim.send(&forged, &Request::navigation("cross-site"));
    assert_eq!(
        (hop.status, hop.location().unwrap()),
        (303, login_gate.url("/portal/p/of-the-attacker"))
    );
    assert!(hop.set_cookies().is_empty(), "{hop:?}");
    assert_eq!(victim.cookie(COOKIE).unwrap().value, session);
    // the callback is still valid
    let hop = attacker.send(&forged, &Request::navigation("cross-site"));
    assert_eq!(attacker.follow(hop).status, 200);
    assert_eq!(user(&login_gate.gate.app.last()), "alice");
    // exchanging parts of `state` makes no other valid callback
    let session = attacker.cookie(COOKIE).unwrap().value.clone();
    let (outer, inner) = state.split_once('.').unwrap();
    for other in [inner.to_owned(), format!("{inner}.{inner}"), format!("AAAA.{inner}")] {
        let again = forged.as_str().replace(&state, &other);
        let hop = attacker.send(&Url::parse(&again).unwrap(), &Request::navigation("cross-site"));
        assert_eq!((hop.status, hop.set_cookies()), (303, Vec::new()), "{other}");
    }
    assert_eq!(attacker.cookie(COOKIE).unwrap().value, session);
    // without the server's keys nothing says where to go
    for bad in [
        outer.to_owned(),
        format!("{inner}.{outer}"),
        format!(
            "{}{}.x",
            &outer[..outer.len() - 1],
            if outer.ends_with('A') { 'Q' } else { 'A' }
        ),
        "x.y".to_owned(),
    ] {
        let mut browser = Browser::new();
        begin(&login_gate, &mut browser, "/portal/p/own");
        let path = format!("{IDENTITY_PATH}/auth/callback?code=x&state={bad}");
        let page = browser.send(&login_gate.url(&path), &Request::navigation("cross-site"));
        assert!(page.status >= 400 && page.text().contains("login_expired"), "{bad}: {page:?}");
    }
}

#[test]
fn too_many_begun_logins_end_in_a_page() {
    let mock = MockProvider::start("alice", &alice(&[]));
    let login_gate = start_login_gate(&mock, "");
    let foreign = begin(&login_gate, &mut Browser::new(), "/portal/p/x");
    let state: String = url::form_urlencoded::byte_serialize(query(&foreign, "state").unwrap().as_bytes()).collect();
    let callback = format!("{IDENTITY_PATH}/auth/callback?code=x&state={state}&iss={}", mock.issuer());
    let mut browser = Browser::new();
    begin(&login_gate, &mut browser, "/portal/p/y");
    let mut last = None;
    for _ in 0..6 {
        let hop = browser.send(&login_gate.url(&callback), &Request::navigation("cross-site"));
        assert_eq!(hop.status, 303, "{hop:?}");
        last = Some(browser.send(&hop.location().unwrap(), &Request::navigation("cross-site")));
    }
    let page = last.unwrap();
    assert!(page.status >= 400 && page.text().contains("login_loop"), "{page:?}");
    assert!(browser.cookie(COOKIE).is_none());
    assert_eq!(raw(login_gate.gate.proxy, "GET", "/portal/p/x", &[], b"").status, 401);
}
