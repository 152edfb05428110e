//! What a portal and a provider offer the user: a choice of providers, a session that outlives the browser, a token for
//! the app.

use serde_json::{Value, json};

use crate::support::login_gate::{COOKIE, LoginGate, LoginSetup, SECRET, header, start_gate_for};
use crate::support::openid::user_agent::query;
use crate::support::openid::{Browser, Request};
use crate::support::scripted_provider::{Script, ScriptedProvider};
use crate::support::session_client::IDENTITY_PATH;
use crate::support::{now, raw};

fn script(tenant: &str) -> Script {
    Script {
        token: json!({"refresh_token": "r"}),
        id_claims: json!({"tenant": tenant, "roles": ["viewer"], "email": "alice@acme.test"}),
        ..Script::default()
    }
}

/// A gate with the providers `corp` and `partner`.
fn two_providers(corp: &ScriptedProvider, partner: &ScriptedProvider, portal: &str) -> LoginGate {
    let issuer = format!(" }}, {{ name: partner, issuer: '{}', audiences: [api]", partner.issuer());
    let provider = format!(
        ", scopes: [openid] }}, partner: {{ title: 'Partner <Inc>', issuer: partner, client_id: gate, client_secret: {SECRET}, scopes: [openid]"
    );
    start_gate_for(&LoginSetup {
        issuer_url: &corp.issuer(),
        issuer: &issuer,
        provider: &provider,
        portal,
        ..LoginSetup::default()
    })
}

#[test]
fn a_portal_with_several_providers_lets_the_user_choose() {
    let (corp, partner) = (
        ScriptedProvider::start(script("acme")),
        ScriptedProvider::start(script("globex")),
    );
    let login_gate = two_providers(&corp, &partner, "login: { providers: [partner, corp] }\n");
    for (name, tenant) in [("corp", "acme"), ("partner", "globex")] {
        let mut browser = Browser::new();
        let page = login_gate.open(&mut browser, "/portal/p/x?y=1");
        assert_eq!(
            (page.status, page.url.path()),
            (200, "/api/v1/identity/auth/login"),
            "{page:?}"
        );
        let text = page.text();
        assert!(text.contains("Partner &lt;Inc&gt;") && !text.contains("<Inc>"), "{text}");
        assert!(
            text.find("provider=partner") < text.find("provider=corp"),
            "in the order of the file: {text}"
        );
        let link = text
            .split("href=\"")
            .find(|rest| rest.starts_with(IDENTITY_PATH) && rest.contains(&format!("provider={name}\"")));
        let link = link.unwrap().split('"').next().unwrap().replace("&amp;", "&");
        let done = login_gate.open(&mut browser, &link);
        assert_eq!(
            (done.status, done.url.path(), done.url.query()),
            (200, "/portal/p/x", Some("y=1")),
            "{done:?}"
        );
        assert_eq!(header(&login_gate.gate.app.last(), "x-cedargate-tenant"), tenant);
    }
    let page = |query: &str| {
        let path = format!("{IDENTITY_PATH}/auth/login?{query}");
        raw(login_gate.gate.proxy, "GET", &path, &[("sec-fetch-mode", "navigate")], b"")
    };
    for query in [
        "portal=p&provider=other",
        "portal=p&rd=//evil.test",
        "portal=p&provider=corp&provider=partner",
    ] {
        assert_eq!(page(query).status, 400, "{query}");
    }
    let described = raw(login_gate.gate.proxy, "GET", &format!("{IDENTITY_PATH}/portals/p"), &[], b"").json();
    assert_eq!(described["login"]["providers"][0]["provider"], "Partner <Inc>", "{described}");
    assert_eq!(described["login"]["providers"][1]["provider"], "corp");
}

#[test]
fn a_step_up_goes_to_the_provider_of_the_session() {
    let (corp, partner) = (
        ScriptedProvider::start(script("acme")),
        ScriptedProvider::start(script("globex")),
    );
    let login_gate = two_providers(&corp, &partner, "login: { providers: [partner, corp] }\n");
    let mut browser = Browser::new();
    login_gate.open(
        &mut browser,
        &format!("{IDENTITY_PATH}/auth/login?portal=p&provider=corp&rd=/portal/p/x"),
    );
    let hop = browser.send(&login_gate.url("/portal/p/vault"), &Request::navigation("none"));
    let location = hop.location().unwrap();
    assert_eq!(query(&location, "provider").as_deref(), Some("corp"), "{location}");
    assert_eq!(query(&location, "acr_values").as_deref(), Some("2"), "{location}");
}

#[test]
fn a_portal_does_not_log_in_at_a_provider_that_it_does_not_offer() {
    let (corp, partner) = (
        ScriptedProvider::start(script("acme")),
        ScriptedProvider::start(script("globex")),
    );
    let third = ScriptedProvider::start(script("third"));
    let issuer = format!(
        " }}, {{ name: partner, issuer: '{}', audiences: [api] }}, {{ name: third, issuer: '{}', audiences: [api]",
        partner.issuer(),
        third.issuer()
    );
    let one = |name: &str| format!("{name}: {{ issuer: {name}, client_id: gate, client_secret: {SECRET}");
    let provider = format!(" }}, {} }}, {}", one("partner"), one("third"));
    let login_gate = start_gate_for(&LoginSetup {
        issuer_url: &corp.issuer(),
        issuer: &issuer,
        provider: &provider,
        portal: "login: { providers: [partner, corp] }\n",
        ..LoginSetup::default()
    });
    let login = |name: &str| {
        let path = format!("{IDENTITY_PATH}/auth/login?portal=p&provider={name}");
        raw(login_gate.gate.proxy, "GET", &path, &[("sec-fetch-mode", "navigate")], b"").status
    };
    assert_eq!((login("corp"), login("partner"), login("third")), (303, 303, 400));
}

#[test]
fn a_persistent_session_outlives_the_browser_and_ends_with_the_session() {
    let corp = ScriptedProvider::start(script("acme"));
    let gate = |more: &str| {
        start_gate_for(&LoginSetup {
            issuer_url: &corp.issuer(),
            provider: &format!(", scopes: [openid] {more}"),
            more: "sessions: { absolute_timeout: 8h }",
            ..LoginSetup::default()
        })
    };
    let login_gate = gate(", persistent: true");
    let mut browser = Browser::new();
    assert_eq!(login_gate.open(&mut browser, "/portal/p/x").status, 200);
    let expires = browser.cookie(COOKIE).unwrap().expires.unwrap();
    assert!((now() + 8 * 3600 - 60..=now() + 8 * 3600).contains(&expires), "{expires}");
    browser.restart();
    let page = browser.send(&login_gate.url("/portal/p/x"), &Request::fetch("GET"));
    assert_eq!(page.status, 200, "still logged in");
    // a new id keeps the end of the session
    corp.script(Script {
        id_claims: json!({"tenant": "acme", "roles": ["admin"], "email": "alice@acme.test"}),
        ..script("acme")
    });
    let renewed = login_gate.post(&mut browser, "auth/refresh");
    assert_eq!(renewed.status, 200, "{renewed:?}");
    login_gate.open(&mut browser, "/portal/p/x");
    let again = browser.cookie(COOKIE).unwrap().expires.unwrap();
    assert!((expires - 1..=expires + 1).contains(&again), "{again}");
    login_gate.post(&mut browser, "auth/logout");
    assert!(browser.cookie(COOKIE).is_none());
    let login_gate = gate("");
    let mut browser = Browser::new();
    login_gate.open(&mut browser, "/portal/p/x");
    assert_eq!(browser.cookie(COOKIE).unwrap().expires, None);
}

#[test]
fn the_app_gets_the_providers_access_token_only_if_configured() {
    let token = |value: &Value| Script {
        token: json!({"access_token": value, "refresh_token": "r"}),
        ..script("acme")
    };
    for (keys, passes) in [(", pass_access_token: true", true), ("", false)] {
        let corp = ScriptedProvider::start(token(&json!("first-token")));
        let login_gate = start_gate_for(&LoginSetup {
            issuer_url: &corp.issuer(),
            provider: &format!(", scopes: [openid] {keys}"),
            ..LoginSetup::default()
        });
        let mut browser = Browser::new();
        let forged = Request::fetch("GET")
            .header("x-forwarded-access-token", "forged")
            .header("x_forwarded_access_token", "forged");
        assert_eq!(login_gate.open(&mut browser, "/portal/p/x").status, 200);
        let expected = |value: &'static str| if passes { value } else { "" };
        let sent = |browser: &mut Browser| {
            assert_eq!(browser.send(&login_gate.url("/portal/p/x"), &forged).status, 200);
            let seen = login_gate.gate.app.last();
            assert!(!format!("{:?}", seen.headers).contains("forged"));
            header(&seen, "x-forwarded-access-token").to_owned()
        };
        assert_eq!(sent(&mut browser), expected("first-token"));
        corp.script(token(&json!("second-token")));
        assert_eq!(login_gate.post(&mut browser, "auth/refresh").status, 200);
        assert_eq!(sent(&mut browser), expected("second-token"), "a renewed token");
        let records = login_gate.written();
        assert!(!records.contains("first-token") && !records.contains("second-token"));
    }
}
