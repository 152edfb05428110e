//! Logging out at a real OpenID provider: it knows where to send people back to, and scripts learn nothing of its tokens.

use serde_json::{Value, json};
use url::Url;

use crate::login::{COOKIE, IDENTITY, Place, alice, place_of, real};
use crate::oidc::user_agent::query;
use crate::oidc::{Browser, Hop, MockProvider, Provider, Request};

/// From the provider's address of a logout to wherever it leads, and whether its own session is over then.
fn leave(place: &Place, browser: &mut Browser, there: &Url) -> (Hop, bool) {
    let page = browser.send(there, &Request::navigation("cross-site"));
    assert_eq!(page.status, 200, "the provider takes it: {page:?}");
    let hop = browser.submit(&page, &[("logout", "yes")]);
    let asked = place.open(browser, "/portal/p/x");
    (hop, asked.url.origin() != place.url("/").origin())
}

#[test]
fn a_logout_with_a_target_of_its_own_still_ends_at_a_place_that_the_provider_knows() {
    let (provider, place) = real(Provider::setup());
    let logout = place.url(&format!("{IDENTITY}/auth/logout"));
    for rd in [&[][..], &[("rd", "/portal/p/bye")], &[("rd", "/")]] {
        let mut browser = Browser::new();
        browser.log_in(place.url("/portal/p/x").as_str(), "alice");
        assert!(browser.cookie(COOKIE).is_some());
        let out = browser.send(&logout, &Request::navigation("same-origin").form(rd));
        let there = out.location().unwrap();
        assert_eq!(out.status, 303);
        assert!(there.as_str().starts_with(&provider.issuer()), "{there}");
        assert_eq!(
            query(&there, "post_logout_redirect_uri"),
            Some(format!("{}/", place.origin)),
            "{rd:?}"
        );
        let (hop, is_over) = leave(&place, &mut browser, &there);
        assert_eq!(hop.location(), Some(place.url("/")), "{rd:?}: {hop:?}");
        assert!(is_over, "{rd:?}");
    }
}

#[test]
fn a_script_that_logs_out_gets_no_id_token_and_the_provider_takes_the_logout_without() {
    let (_provider, place) = real(Provider::setup());
    let logout = place.url(&format!("{IDENTITY}/auth/logout"));
    let mut browser = Browser::new();
    browser.log_in(place.url("/portal/p/x").as_str(), "alice");
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
    let (hop, is_over) = leave(&place, &mut browser, &there);
    assert_eq!(hop.location(), Some(place.url("/")), "{hop:?}");
    assert!(is_over);
    // a navigation is sent there with it, and is not asked who it is
    browser.log_in(place.url("/portal/p/x").as_str(), "alice");
    let out = browser.send(&logout, &Request::navigation("same-origin").form(&[]));
    assert!(query(&out.location().unwrap(), "id_token_hint").unwrap().starts_with("eyJ"));
}

#[test]
fn the_record_of_a_login_names_the_tenant_by_the_issuers_mapping() {
    let mut claims = alice(&["viewer"]);
    claims["org"] = json!({"id": "globex"});
    let mock = MockProvider::start("alice", &claims);
    let place = place_of(&mock, ", claims: { tenant: org.id }", "");
    let mut browser = Browser::new();
    assert_eq!(place.open(&mut browser, "/portal/p/x").status, 200);
    assert_eq!(place.events("login", 1)[0]["tenant"], "globex");
}
