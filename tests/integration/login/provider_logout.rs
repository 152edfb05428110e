//! Logging out at a real OpenID provider: the redirect to a registered address, and no ID token for scripts.

use serde_json::{Value, json};
use url::Url;

use crate::support::login_gate::{COOKIE, LoginGate, alice, real, start_login_gate, start_login_gate_with};
use crate::support::openid::user_agent::query;
use crate::support::openid::{Browser, Hop, MockProvider, Provider, Request};
use crate::support::session_client::IDENTITY_PATH;

/// Confirms a logout at the provider; returns the last hop, and true if the provider's own session is over.
fn leave(login_gate: &LoginGate, browser: &mut Browser, there: &Url) -> (Hop, bool) {
    let page = browser.send(there, &Request::navigation("cross-site"));
    assert_eq!(page.status, 200, "the provider takes it: {page:?}");
    let hop = browser.submit(&page, &[("logout", "yes")]);
    let asked = login_gate.open(browser, "/portal/p/x");
    (hop, asked.url.origin() != login_gate.url("/").origin())
}

#[test]
fn a_logout_with_its_own_target_still_sends_the_provider_a_registered_address() {
    let (provider, login_gate) = real(Provider::setup());
    let logout = login_gate.url(&format!("{IDENTITY_PATH}/auth/logout"));
    for rd in [&[][..], &[("rd", "/portal/p/bye")], &[("rd", "/")]] {
        let mut browser = Browser::new();
        browser.log_in(login_gate.url("/portal/p/x").as_str(), "alice");
        assert!(browser.cookie(COOKIE).is_some());
        let out = browser.send(&logout, &Request::navigation("same-origin").form(rd));
        let there = out.location().unwrap();
        assert_eq!(out.status, 303);
        assert!(there.as_str().starts_with(&provider.issuer()), "{there}");
        assert_eq!(
            query(&there, "post_logout_redirect_uri"),
            Some(format!("{}/", login_gate.origin)),
            "{rd:?}"
        );
        let (hop, is_over) = leave(&login_gate, &mut browser, &there);
        assert_eq!(hop.location(), Some(login_gate.url("/")), "{rd:?}: {hop:?}");
        assert!(is_over, "{rd:?}");
    }
}

#[test]
fn a_script_that_logs_out_gets_no_id_token_and_the_provider_takes_the_logout_without() {
    let (_provider, login_gate) = real(Provider::setup());
    let logout = login_gate.url(&format!("{IDENTITY_PATH}/auth/logout"));
    let mut browser = Browser::new();
    browser.log_in(login_gate.url("/portal/p/x").as_str(), "alice");
    let out = browser.send(&logout, &Request::fetch("POST"));
    assert_eq!(out.status, 200);
    assert!(
        !out.text().contains("eyJ") && !out.text().contains("id_token"),
        "{}",
        out.text()
    );
    let answer: Value = serde_json::from_str(&out.text()).unwrap();
    let there = Url::parse(answer["location"].as_str().unwrap()).unwrap();
    assert_eq!(query(&there, "client_id").as_deref(), Some("gate"));
    let (hop, is_over) = leave(&login_gate, &mut browser, &there);
    assert_eq!(hop.location(), Some(login_gate.url("/")), "{hop:?}");
    assert!(is_over);
    // a navigation is redirected there with the ID token, and the provider asks for no account
    browser.log_in(login_gate.url("/portal/p/x").as_str(), "alice");
    let out = browser.send(&logout, &Request::navigation("same-origin").form(&[]));
    assert!(query(&out.location().unwrap(), "id_token_hint").unwrap().starts_with("eyJ"));
}

#[test]
fn the_record_of_a_login_names_the_tenant_by_the_issuers_mapping() {
    let mut claims = alice(&["viewer"]);
    claims["org"] = json!({"id": "globex"});
    let mock = MockProvider::start("alice", &claims);
    let login_gate = start_login_gate_with(&mock, ", claims: { tenant: org.id }", "");
    let mut browser = Browser::new();
    assert_eq!(login_gate.open(&mut browser, "/portal/p/x").status, 200);
    assert_eq!(login_gate.events("login", 1)[0]["tenant"], "globex");
}

#[test]
fn an_id_token_that_is_too_long_for_an_address_stays_out_of_the_logout() {
    let mock = MockProvider::start("alice", &alice(&[]));
    let login_gate = start_login_gate(&mock, "");
    let logout = login_gate.url(&format!("{IDENTITY_PATH}/auth/logout"));
    for (groups, has_hint) in [(0, true), (30, true), (100, false), (2500, false)] {
        let mut claims = alice(&[]);
        claims["groups"] = json!(vec!["a-group-name-01"; groups]);
        mock.subject("alice", &claims);
        let mut browser = Browser::new();
        assert_eq!(login_gate.open(&mut browser, "/portal/p/x").status, 200);
        let out = browser.send(&logout, &Request::navigation("same-origin").form(&[]));
        let there = out.location().unwrap();
        assert_eq!(query(&there, "id_token_hint").is_some(), has_hint, "{groups}: {there}");
        assert_eq!(query(&there, "client_id").as_deref(), Some("gate"));
        assert!(there.as_str().len() < 3000, "{}", there.as_str().len());
    }
}
