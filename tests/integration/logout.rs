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
