//! Providers that the gate reaches in unusual ways: by form post, at an internal address, behind a private authority,
//! through a proxy; and the cause of a failed request.

use serde_json::json;

use crate::support::certificates::Authority;
use crate::support::chromium::Chromium;
use crate::support::login_gate::{COOKIE, LoginGate, LoginSetup, header, start_gate_for, start_gate_in};
use crate::support::openid::{Browser, Request};
use crate::support::processes::free_port;
use crate::support::scripted_provider::{Script, ScriptedProvider};
use crate::support::session_client::IDENTITY_PATH;
use crate::support::{OPEN_POLICY, OPEN_SCHEMA, Setup, eventually, raw};

fn alice() -> Script {
    Script {
        id_claims: json!({"tenant": "acme", "roles": ["viewer"], "email": "alice@acme.test"}),
        ..Script::default()
    }
}

fn detail(login_gate: &LoginGate) -> String {
    let failures = login_gate.events("login", 1);
    failures.last().unwrap()["detail"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_callback_by_form_post_logs_in_although_the_login_cookie_does_not_come_with_it() {
    let provider = ScriptedProvider::start(alice());
    let login_gate = start_gate_for(&LoginSetup {
        issuer_url: &provider.issuer(),
        provider: ", scopes: [openid], authorization_params: { response_mode: form_post }",
        ..LoginSetup::default()
    });
    let mut browser = Browser::new();
    let page = login_gate.open(&mut browser, "/portal/p/x?y=1");
    let field = |name: &str| {
        let text = page.text();
        let value = text.split(&format!("name=\"{name}\" value=\"")).nth(1).unwrap();
        value.split('"').next().unwrap().to_owned()
    };
    let form =
        Request::navigation("cross-site").form(&[("code", &field("code")), ("state", &field("state")), ("session_state", "s")]);
    // a browser sends no cookie with a POST of another site
    let callback = login_gate.url(&format!("{IDENTITY_PATH}/auth/callback"));
    let hop = Browser::new().send(&callback, &form);
    assert_eq!((hop.status, hop.set_cookies()), (303, Vec::new()), "{hop:?}");
    let done = browser.follow(hop);
    assert_eq!(
        (done.status, done.url.path(), done.url.query()),
        (200, "/portal/p/x", Some("y=1")),
        "{done:?}"
    );
    assert!(browser.cookie(COOKIE).is_some());
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let path = format!("{IDENTITY_PATH}/auth/callback");
    for (headers, body) in [
        (&[][..], "code=a&state=b"),
        (&[("content-type", "application/json")], "{}"),
        (&[kind], "code=a&code=b&state=c"),
    ] {
        let answer = raw(login_gate.gate.proxy, "POST", &path, headers, body.as_bytes());
        assert_eq!((answer.status, answer.header("location")), (400, ""), "{body}");
    }
    // the target is the gate's own callback, also for a form of another site
    let answer = raw(
        login_gate.gate.proxy,
        "POST",
        &path,
        &[kind],
        b"state=%0d%0ax:y&error=%2F%2Fevil.test&rd=//evil.test",
    );
    assert_eq!(answer.status, 303);
    assert_eq!(
        answer.header("location"),
        format!("{path}?state=%0D%0Ax%3Ay&error=%2F%2Fevil.test")
    );
    let answer = raw(login_gate.gate.proxy, "PUT", &path, &[], b"");
    assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD, POST"));
}

#[test]
fn a_real_browser_brings_its_login_cookie_after_a_form_post_of_another_site() {
    let provider = ScriptedProvider::start_at_localhost(alice());
    let login_gate = start_gate_for(&LoginSetup {
        issuer_url: &provider.issuer(),
        provider: ", scopes: [openid], authorization_params: { response_mode: form_post }",
        ..LoginSetup::default()
    });
    let folder = tempfile::tempdir().unwrap();
    let mut chromium = Chromium::start(folder.path());
    chromium.open(login_gate.url("/portal/p/x?after=login").as_str());
    eventually("the app is reached", || {
        let seen = login_gate.gate.app.count();
        (seen > 0).then_some(()).ok_or_else(|| login_gate.written())
    });
    assert_eq!(header(&login_gate.gate.app.last(), "x-forwarded-user"), "alice");
    assert!(login_gate.counted("success") && !login_gate.counted("login_expired"));
}

#[test]
fn discovery_and_token_endpoint_may_be_at_an_internal_address() {
    let public = "https://id.example.test/realms/acme";
    let provider = ScriptedProvider::start_as(public, alice());
    let inside = format!("{}/realms/acme", provider.url());
    provider.script(Script {
        discovery: json!({"token_endpoint": format!("{inside}/token"), "userinfo_endpoint": format!("{inside}/userinfo"),
            "authorization_endpoint": format!("{inside}/authorize")}),
        ..alice()
    });
    let jwks = format!(", jwks: {{ url: '{inside}/jwks' }}");
    let by_url = format!(", scopes: [openid], discovery_url: '{inside}/.well-known/openid-configuration'");
    let endpoints = format!("authorization: '{inside}/authorize', token: '{inside}/token', end_session: '{public}/logout'");
    let without = format!(", scopes: [openid], endpoints: {{ {endpoints} }}");
    for (keys, documents) in [(by_url, 1), (without, 1)] {
        let login_gate = start_gate_for(&LoginSetup {
            issuer_url: public,
            issuer: &jwks,
            provider: &keys,
            ..LoginSetup::default()
        });
        let mut browser = Browser::new();
        let page = login_gate.open(&mut browser, "/portal/p/x");
        assert_eq!(page.status, 200, "{keys}: {}", login_gate.written());
        assert_eq!(
            provider.requests("/.well-known/openid-configuration").len(),
            documents,
            "{keys}"
        );
        let out = browser.send(
            &login_gate.url(&format!("{IDENTITY_PATH}/auth/logout")),
            &Request::navigation("same-origin").form(&[]),
        );
        assert!(
            out.location().unwrap().as_str().starts_with(&format!("{public}/logout")),
            "{out:?}"
        );
    }
    // a document of another issuer is refused, wherever it lies
    provider.script(Script {
        discovery: json!({"issuer": "https://other.test"}),
        ..alice()
    });
    let login_gate = start_gate_for(&LoginSetup {
        issuer_url: public,
        issuer: &jwks,
        provider: &format!(", discovery_url: '{inside}/.well-known/openid-configuration'"),
        ..LoginSetup::default()
    });
    assert_eq!(login_gate.open(&mut Browser::new(), "/portal/p/x").status, 503);
    assert!(detail(&login_gate).contains("`issuer`"), "{}", detail(&login_gate));
}

#[test]
fn a_provider_of_a_private_authority_is_trusted_by_its_file_alone() {
    let authority = Authority::new("private");
    let provider = ScriptedProvider::start_tls(&authority.issue("localhost"), alice());
    let gate = |issuer: &str, provider_keys: &str, pem: &str| {
        let setup = Setup::portal(OPEN_SCHEMA, OPEN_POLICY).file("ca.pem", pem);
        let login = LoginSetup {
            issuer_url: &provider.issuer(),
            issuer,
            provider: &format!(", scopes: [openid] {provider_keys}"),
            ..LoginSetup::default()
        };
        start_gate_in(&login, setup)
    };
    let plain_keys = format!(", jwks: {{ url: '{}/jwks' }}", provider.url());
    // for the provider alone, and for the issuer with its keys and its provider
    for (issuer, keys) in [(plain_keys.as_str(), ", ca_file: ca.pem"), (", ca_file: ca.pem", "")] {
        let mut browser = Browser::new().trusting(&authority.pem);
        let login_gate = gate(issuer, keys, &authority.pem);
        let page = login_gate.open(&mut browser, "/portal/p/x");
        assert_eq!(page.status, 200, "{issuer} {keys}: {}", login_gate.written());
    }
    let other = Authority::new("other");
    let mut browser = Browser::new().trusting(&authority.pem);
    for (issuer, keys, pem) in [
        (plain_keys.as_str(), ", ca_file: ca.pem", &other.pem),
        (&plain_keys, "", &authority.pem),
        (", ca_file: ca.pem", "", &other.pem),
    ] {
        let login_gate = gate(issuer, keys, pem);
        assert_eq!(login_gate.open(&mut browser, "/portal/p/x").status, 503, "{issuer} {keys}");
        let detail = detail(&login_gate);
        assert!(detail.contains("UnknownIssuer") && detail.contains("ca_file"), "{detail}");
    }
}

#[test]
fn the_cause_of_keys_that_cannot_be_fetched_is_named() {
    let authority = Authority::new("private");
    let unknown = ScriptedProvider::start_tls(&authority.issue("localhost"), alice());
    let refused = format!("http://127.0.0.1:{}/jwks", free_port());
    for (url, says) in [
        (refused, "refused"),
        ("https://no-such-host.invalid/jwks".to_owned(), "lookup"),
        (format!("{}/jwks", unknown.issuer()), "UnknownIssuer"),
    ] {
        let login_gate = start_gate_for(&LoginSetup {
            issuer_url: "https://id.test",
            issuer: &format!(", jwks: {{ url: '{url}' }}"),
            ..LoginSetup::default()
        });
        eventually("the cause is in the status", || {
            let status = login_gate.gate.status().to_string();
            status.contains(says).then_some(()).ok_or(status)
        });
    }
}

#[test]
fn a_provider_is_asked_through_the_configured_proxy() {
    // the scripted provider answers requests for any host, as a proxy does
    let provider = ScriptedProvider::start_as("http://127.0.0.1:9", alice());
    let proxy = format!(", proxy: '{}'", provider.url());
    let browsers = format!(
        ", scopes: [openid], endpoints: {{ authorization: '{}/authorize' }}",
        provider.url()
    );
    let plain_keys = format!(", jwks: {{ url: '{}/jwks' }}", provider.url());
    for (issuer, keys, paths) in [
        (
            plain_keys,
            format!("{browsers}{proxy}"),
            &["/.well-known/openid-configuration", "/token"][..],
        ),
        (
            proxy.clone(),
            browsers,
            &["/.well-known/openid-configuration", "/token", "/jwks"],
        ),
    ] {
        let login_gate = start_gate_for(&LoginSetup {
            issuer_url: "http://127.0.0.1:9",
            issuer: &issuer,
            provider: &keys,
            ..LoginSetup::default()
        });
        let page = login_gate.open(&mut Browser::new(), "/portal/p/x");
        assert_eq!(page.status, 200, "{}", login_gate.written());
        for path in paths {
            let head = provider.requests(path).pop().unwrap().head;
            assert!(head.contains(&format!("http://127.0.0.1:9{path}")), "{head}");
        }
    }
}

#[test]
fn the_cause_of_a_failed_request_to_a_provider_is_named() {
    let refused = format!("http://127.0.0.1:{}", free_port());
    for (issuer_url, says) in [(refused.as_str(), "refused"), ("https://no-such-host.invalid", "lookup")] {
        let login_gate = start_gate_for(&LoginSetup {
            issuer_url,
            ..LoginSetup::default()
        });
        let page = login_gate.open(&mut Browser::new(), "/portal/p/x");
        assert!(page.status == 503 && page.text().contains("provider_unavailable"), "{page:?}");
        let detail = detail(&login_gate);
        assert!(
            detail.contains(says) && detail.contains("discovery"),
            "{issuer_url}: {detail}"
        );
    }
    let provider = ScriptedProvider::start(alice());
    let token = format!("{refused}/token");
    let login_gate = start_gate_for(&LoginSetup {
        issuer_url: &provider.issuer(),
        provider: &format!(", scopes: [openid], endpoints: {{ token: '{token}' }}"),
        ..LoginSetup::default()
    });
    assert_eq!(login_gate.open(&mut Browser::new(), "/portal/p/x").status, 503);
    assert!(detail(&login_gate).contains("refused"), "{}", detail(&login_gate));
}
