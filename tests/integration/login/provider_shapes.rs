//! Logging in, renewing and logging out at providers as their public documentation shows their documents and tokens:
//! Keycloak, Entra ID, Google, Okta, Auth0 and Cognito.

use serde_json::{Value, json};
use url::Url;

use crate::support::login_gate::{COOKIE, LoginGate, LoginSetup, header, start_gate_for};
use crate::support::openid::user_agent::query;
use crate::support::openid::{Browser, Request};
use crate::support::scripted_provider::{Script, ScriptedProvider, with};
use crate::support::session_client::IDENTITY_PATH;
use crate::support::{eventually, now, raw};

/// One provider of the market, and the configuration that fits it.
struct Shape {
    name: &'static str,
    /// Path of the issuer.
    path: &'static str,
    script: Script,
    issuer: &'static str,
    provider: &'static str,
    /// Parameters that the authorization request must have.
    asks: &'static [(&'static str, &'static str)],
    /// The claims of a logout token; `None`: the provider sends none.
    logout: Option<Value>,
}

fn shapes() -> Vec<Shape> {
    vec![keycloak(), entra(), google(), okta(), auth0(), cognito()]
}

/// Realm and client roles are in the access token only, whose audience is `account`.
fn keycloak() -> Shape {
    let sid = "0b3a7c1e-5a3e-4d53-9a52-5a1f0a6b7c11";
    Shape {
        name: "keycloak",
        path: "/realms/acme",
        script: Script {
            discovery: json!({"backchannel_logout_supported": true, "backchannel_logout_session_supported": true,
                "authorization_response_iss_parameter_supported": null, "check_session_iframe": "https://id.test/iframe"}),
            token: json!({"refresh_token": "r1", "refresh_expires_in": 1800, "not-before-policy": 0, "session_state": sid,
                "scope": "openid profile email"}),
            id_claims: json!({"typ": "ID", "azp": "gate", "sid": sid, "acr": "1", "auth_time": now(), "email_verified": true,
                "email": "alice@acme.test", "preferred_username": "alice", "jti": "1"}),
            access_claims: json!({"typ": "Bearer", "azp": "gate", "aud": "account", "sid": sid, "acr": "1", "tenant": "acme",
                "allowed-origins": ["https://shop.test"], "realm_access": {"roles": ["viewer"]},
                "resource_access": {"account": {"roles": ["manage-account"]}}, "scope": "openid email profile"}),
            access_header: json!({"typ": "JWT"}),
            key: json!({"use": "sig", "alg": "RS256", "x5c": ["MIIC"], "x5t": "t", "x5t#S256": "s"}),
            keys_before: vec![json!({"kid": "enc", "use": "enc", "alg": "RSA-OAEP", "x5c": ["MIIC"]})],
            ..Script::default()
        },
        issuer: ", claims: { roles: realm_access.roles }",
        provider: ", scopes: [openid, email], claims_from: access_token",
        asks: &[("scope", "openid email")],
        logout: Some(json!({"typ": "Logout", "sid": sid, "sub": "alice"})),
    }
}

/// The access token is for Microsoft Graph, and no other party can verify it; `sub` differs from app to app.
fn entra() -> Shape {
    Shape {
        name: "entra",
        path: "/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0",
        script: Script {
            discovery: json!({"tenant_region_scope": "EU", "request_uri_parameter_supported": false,
                "http_logout_supported": true, "frontchannel_logout_supported": true}),
            token: json!({"scope": "email openid profile", "ext_expires_in": 3599, "expires_in": 3599, "refresh_token": "0.AX"}),
            id_claims: json!({"ver": "2.0", "tid": "72f988bf-86f1-41af-91ab-2d7cd011db47", "oid": "alice", "sub": "pairwise",
                "preferred_username": "alice@acme.test", "email": "alice@acme.test", "roles": ["viewer"], "rh": "0.A", "uti": "u",
                "aio": "x", "nbf": now(), "acct": 0}),
            access_claims: json!({"aud": "00000003-0000-0000-c000-000000000000", "iss": "https://sts.windows.net/72f988bf/"}),
            access_header: json!({"typ": "JWT", "nonce": "n"}),
            // no `alg`, and an issuer that is a template
            key: json!({"use": "sig", "x5t": "t", "x5c": ["MIIC"], "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0"}),
            keys_before: vec![json!({"kid": "old", "use": "sig", "x5t": "o"})],
            userinfo: json!({"sub": "pairwise"}),
            ..Script::default()
        },
        issuer: ", claims: { subject: oid, tenant: tid }",
        provider: ", scopes: [openid, email, offline_access], authorization_params: { response_mode: form_post, domain_hint: acme.test }",
        asks: &[("response_mode", "form_post"), ("domain_hint", "acme.test")],
        logout: None,
    }
}

/// No groups, no logout endpoint; a refresh token only with `access_type` and `prompt`, and no new one with a refresh.
fn google() -> Shape {
    Shape {
        name: "google",
        path: "",
        script: Script {
            discovery: json!({"end_session_endpoint": null, "revocation_endpoint": "https://oauth2.googleapis.com/revoke"}),
            token: json!({"expires_in": 3599, "refresh_token": "1//0g", "refresh_token_expires_in": 604799,
                "scope": "openid https://www.googleapis.com/auth/userinfo.email"}),
            refreshed: json!({"refresh_token": null}),
            key: json!({"use": "sig", "alg": "RS256"}),
            keys_before: vec![json!({"kid": "next", "use": "sig", "alg": "RS256"})],
            id_claims: json!({"azp": "gate", "hd": "acme", "email": "alice@acme.test", "email_verified": true, "roles": ["viewer"]}),
            ..Script::default()
        },
        issuer: ", claims: { tenant: hd }",
        provider: ", scopes: [openid, email], authorization_params: { access_type: offline, prompt: consent, hd: acme.test }",
        asks: &[("access_type", "offline"), ("prompt", "consent"), ("hd", "acme.test")],
        logout: None,
    }
}

/// Groups as roles, `amr` and `auth_time` in the ID token, rotating refresh tokens.
fn okta() -> Shape {
    Shape {
        name: "okta",
        path: "/oauth2/default",
        script: Script {
            token: json!({"scope": "offline_access openid email", "expires_in": 3600, "refresh_token": "okta-1"}),
            refreshed: json!({"refresh_token": "okta-2"}),
            key: json!({"use": "sig", "alg": "RS256", "status": "ACTIVE"}),
            id_claims: json!({"ver": 1, "idp": "00o1", "amr": ["mfa", "pwd"], "auth_time": now(), "jti": "ID.1", "tenant": "acme",
                "groups": ["viewer"], "email": "alice@acme.test", "sid": "idx1"}),
            access_claims: json!({"ver": 1, "cid": "gate", "uid": "00u1", "scp": ["openid", "email"], "aud": "api://default"}),
            ..Script::default()
        },
        issuer: ", claims: { roles: groups }",
        provider: ", scopes: [openid, email, offline_access], claims_from: userinfo",
        asks: &[("scope", "openid email offline_access")],
        logout: Some(json!({"sid": "idx1", "sub": "alice"})),
    }
}

/// An issuer that ends with a slash; custom claims are URLs; an access token for an API needs `audience`.
fn auth0() -> Shape {
    Shape {
        name: "auth0",
        path: "/",
        script: Script {
            token: json!({"scope": "openid email offline_access", "expires_in": 86400, "refresh_token": "v1.M"}),
            key: json!({"use": "sig", "alg": "RS256", "x5t": "t", "x5c": ["MIIC"]}),
            id_claims: json!({"https://shop.example/roles": ["viewer"], "https://shop.example/tenant": "acme", "nickname": "alice",
                "updated_at": "2026-01-01T00:00:00.000Z", "email": "alice@acme.test", "sid": "auth0-sid"}),
            ..Script::default()
        },
        issuer: ", claims: { roles: 'https://shop.example/roles', tenant: 'https://shop.example/tenant' }",
        provider: ", scopes: [openid, email, offline_access], auth_method: client_secret_post, authorization_params: { audience: 'https://api.example' }",
        asks: &[("audience", "https://api.example")],
        logout: Some(json!({"sid": "auth0-sid", "sub": "alice"})),
    }
}

/// Groups have a name with a colon, both tokens carry `token_use`, and a refresh gives no new refresh token.
fn cognito() -> Shape {
    Shape {
        name: "cognito",
        path: "/eu-west-1_a1B2c3",
        script: Script {
            token: json!({"expires_in": 3600, "refresh_token": "eyJjdHkiOiJKV1QifQ"}),
            refreshed: json!({"refresh_token": null}),
            id_claims: json!({"cognito:username": "alice", "token_use": "id", "origin_jti": "o", "event_id": "e", "auth_time": now(),
                "email_verified": true, "email": "alice@acme.test", "custom:tenant": "acme"}),
            access_claims: json!({"aud": null, "client_id": "gate", "token_use": "access", "scope": "openid email", "version": 2,
                "cognito:groups": ["viewer"], "username": "alice"}),
            access_header: json!({"typ": null}),
            key: json!({"use": "sig", "alg": "RS256"}),
            ..Script::default()
        },
        issuer: ", claims: { roles: 'cognito:groups', tenant: 'custom:tenant' }",
        provider: ", scopes: [openid, email], claims_from: access_token",
        asks: &[],
        logout: None,
    }
}

fn start(shape: &Shape) -> (ScriptedProvider, LoginGate) {
    let mut script = shape.script.clone();
    if shape.provider.contains("claims_from: userinfo") {
        script.userinfo = with(script.id_claims.clone(), &json!({"sub": "alice"}));
    }
    let provider = ScriptedProvider::start_below(shape.path, script);
    let login_gate = start_gate_for(&LoginSetup {
        issuer_url: &provider.issuer(),
        issuer: shape.issuer,
        provider: shape.provider,
        ..LoginSetup::default()
    });
    (provider, login_gate)
}

/// Opens a page and logs in, with or without `form_post`.
fn log_in(login_gate: &LoginGate, browser: &mut Browser) -> u16 {
    let mut page = login_gate.open(browser, "/portal/p/x");
    if page.text().contains("<form") {
        let hop = browser.submit(&page, &[]);
        page = browser.follow(hop);
    }
    page.status
}

#[test]
fn every_known_provider_logs_in_renews_and_logs_out() {
    for shape in shapes() {
        let name = shape.name;
        let (provider, login_gate) = start(&shape);
        let mut browser = Browser::new();
        assert_eq!(log_in(&login_gate, &mut browser), 200, "{name}: {}", login_gate.written());
        let seen = login_gate.gate.app.last();
        assert_eq!(header(&seen, "x-cedargate-roles"), "viewer", "{name}");
        assert_eq!(header(&seen, "x-forwarded-user"), "alice", "{name}");
        assert_ne!(header(&seen, "x-cedargate-tenant"), "", "{name}");
        let asked = provider.requests("/authorize").remove(0).parameters;
        for (parameter, value) in shape.asks {
            assert_eq!(asked.get(*parameter).map(String::as_str), Some(*value), "{name}");
        }
        // new roles come with a renewal
        let mut script = shape.script.clone();
        for claims in [&mut script.id_claims, &mut script.access_claims] {
            let text = claims.to_string().replace("\"viewer\"", "\"admin\"");
            *claims = serde_json::from_str(&text).unwrap();
        }
        script.userinfo = if shape.provider.contains("claims_from: userinfo") {
            with(script.id_claims.clone(), &json!({"sub": "alice"}))
        } else {
            script.userinfo
        };
        provider.script(script);
        let renewed = login_gate.post(&mut browser, "auth/refresh");
        assert!(
            renewed.status == 200 && renewed.text().contains("admin"),
            "{name}: {renewed:?}"
        );
        logs_out(&shape, &provider, &login_gate, &mut browser);
    }
}

fn logs_out(shape: &Shape, provider: &ScriptedProvider, login_gate: &LoginGate, browser: &mut Browser) {
    let name = shape.name;
    let logout = login_gate.url(&format!("{IDENTITY_PATH}/auth/logout"));
    let out = browser.send(&logout, &Request::navigation("same-origin").form(&[]));
    match out.location() {
        Some(there) => {
            assert!(
                there.as_str().starts_with(provider.issuer().trim_end_matches('/')),
                "{name}: {there}"
            );
            assert!(query(&there, "id_token_hint").is_some(), "{name}");
        }
        None => assert_eq!((name, out.status), ("google", 200)),
    }
    assert!(browser.cookie(COOKIE).is_none(), "{name}");
    let Some(claims) = &shape.logout else { return };
    assert_eq!(log_in(login_gate, browser), 200, "{name}");
    let token = provider.logout_token(claims);
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let path = format!("{IDENTITY_PATH}/auth/backchannel-logout");
    let body = format!("logout_token={token}");
    let answer = raw(login_gate.gate.proxy, "POST", &path, &[kind], body.as_bytes());
    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    let hop = browser.send(&login_gate.url("/portal/p/x"), &Request::fetch("GET"));
    assert_eq!(hop.status, 401, "{name}");
}

#[test]
fn claims_of_an_access_token_count_only_if_it_is_of_this_login() {
    let shape = keycloak();
    let (provider, login_gate) = start(&shape);
    let long_ago = json!({"iat": now() - 900, "exp": now() - 600});
    let faults = [
        (json!({"sub": "mallory"}), "sub"),
        (json!({"azp": "another-client"}), "azp"),
        (json!({"iss": "https://elsewhere.test"}), "iss"),
        (long_ago, "expired"),
    ];
    for (n, (claims, says)) in faults.iter().enumerate() {
        let mut script = shape.script.clone();
        script.access_claims = with(script.access_claims, claims);
        provider.script(script);
        let mut browser = Browser::new();
        let page = login_gate.open(&mut browser, "/portal/p/x");
        assert!(
            page.status == 400 && page.text().contains("login_invalid"),
            "{claims}: {page:?}"
        );
        assert!(browser.cookie(COOKIE).is_none());
        let detail = detail_of_failure(&login_gate, n + 1);
        assert!(detail.contains("access token") && detail.contains(says), "{claims}: {detail}");
    }
    let mut script = shape.script.clone();
    script.access_claims = Value::Null;
    provider.script(script);
    let page = login_gate.open(&mut Browser::new(), "/portal/p/x");
    assert!(page.text().contains("login_invalid"), "{page:?}");
    let detail = detail_of_failure(&login_gate, faults.len() + 1);
    assert!(detail.contains("claims_from"), "{detail}");
    // the login itself is described by the ID token alone
    let mut script = shape.script.clone();
    script.access_claims = with(script.access_claims, &json!({"acr": "9", "sid": "another", "auth_time": 1}));
    provider.script(script);
    let mut browser = Browser::new();
    assert_eq!(login_gate.open(&mut browser, "/portal/p/x").status, 200);
    let session = browser.send(
        &login_gate.url(&format!("{IDENTITY_PATH}/auth/session")),
        &Request::fetch("GET"),
    );
    assert!(session.text().contains("\"acr\":\"1\""), "{}", session.text());
}

/// Waits for so many failed logins; the detail of the last.
fn detail_of_failure(login_gate: &LoginGate, number: usize) -> String {
    eventually("the failed login is recorded", || {
        let mut failures = login_gate.events("login", 1);
        failures.retain(|event| event["result"] == "failure");
        let last = failures.get(number - 1).ok_or("not yet")?;
        Ok(last["detail"].as_str().unwrap_or_default().to_owned())
    })
}

#[test]
fn sloppy_token_responses_log_in() {
    let provider = ScriptedProvider::start(Script::default());
    let login_gate = start_gate_for(&LoginSetup {
        issuer_url: &provider.issuer(),
        ..LoginSetup::default()
    });
    for (token, id_claims) in [
        (
            json!({"expires_in": "3600", "token_type": null, "refresh_token": null, "scope": ["openid", "email"]}),
            json!({}),
        ),
        (
            json!({"expires_in": null, "token_type": "bearer", "scope": null}),
            json!({"acr": 1, "amr": "pwd"}),
        ),
        (json!({}), json!({"aud": ["gate", "account"]})),
        (json!({}), json!({"acr": null, "amr": null, "auth_time": null, "sid": null})),
    ] {
        provider.script(Script {
            token: token.clone(),
            id_claims: with(
                json!({"tenant": "acme", "roles": ["viewer"], "email": "a@acme.test"}),
                &id_claims,
            ),
            ..Script::default()
        });
        let page = login_gate.open(&mut Browser::new(), "/portal/p/x");
        assert_eq!(page.status, 200, "{token} {id_claims}: {}", login_gate.written());
    }
    let faults = [
        (json!({"access_token": null}), json!({}), "access_token"),
        (json!({"id_token": 7}), json!({}), "id_token"),
        (json!({"token_type": "mac"}), json!({}), "token_type"),
        (json!({}), json!({"aud": ["account"]}), "aud"),
        (json!({}), json!({"aud": ["gate", "account"], "azp": "account"}), "azp"),
        (json!({}), json!({"nonce": "another"}), "nonce"),
    ];
    for (n, (token, id_claims, says)) in faults.iter().enumerate() {
        provider.script(Script {
            token: token.clone(),
            id_claims: id_claims.clone(),
            ..Script::default()
        });
        let page = login_gate.open(&mut Browser::new(), "/portal/p/x");
        assert!(page.text().contains("login_invalid"), "{token} {id_claims}: {page:?}");
        let detail = detail_of_failure(&login_gate, n + 1);
        assert!(detail.contains(&format!("`{says}`")), "{detail}");
    }
}

#[test]
fn login_hint_and_prompt_of_the_login_url_reach_the_provider() {
    let provider = ScriptedProvider::start(Script::default());
    let gate = |params: &str| {
        start_gate_for(&LoginSetup {
            issuer_url: &provider.issuer(),
            provider: &format!(", scopes: [openid] {params}"),
            ..LoginSetup::default()
        })
    };
    let asked = |login_gate: &LoginGate, query: &str| {
        let url = login_gate.url(&format!("{IDENTITY_PATH}/auth/login?portal=p&{query}"));
        let hop = Browser::new().send(&url, &Request::navigation("none"));
        hop.location().unwrap_or_else(|| panic!("{hop:?}"))
    };
    let parameter = |url: &Url, name: &str| query(url, name);
    let plain = gate("");
    let url = asked(&plain, "login_hint=ann%2Bx%40acme.test&prompt=select_account%20login");
    assert_eq!(parameter(&url, "login_hint").as_deref(), Some("ann+x@acme.test"));
    assert_eq!(parameter(&url, "prompt").as_deref(), Some("select_account login"));
    assert_eq!(parameter(&asked(&plain, "prompt=none"), "prompt").as_deref(), Some("none"));
    assert_eq!(parameter(&asked(&plain, "x=1"), "prompt"), None);
    // a link adds to the configured prompt and takes nothing away
    let strict = gate(", authorization_params: { prompt: login, ui_locales: de }");
    for (query, prompt) in [
        ("x=1", "login"),
        ("prompt=none", "login"),
        ("prompt=consent", "login consent"),
        ("prompt=login", "login"),
    ] {
        let url = asked(&strict, query);
        assert_eq!(parameter(&url, "prompt").as_deref(), Some(prompt), "{query}");
        assert_eq!(parameter(&url, "ui_locales").as_deref(), Some("de"));
    }
    for query in [
        "login_hint=",
        "login_hint=a%0d%0ab",
        "login_hint=a&login_hint=b",
        "prompt=",
        "prompt=none%20login",
        "prompt=force",
        "prompt=login&prompt=none",
        &format!("login_hint={}", "a".repeat(400)),
    ] {
        let path = format!("{IDENTITY_PATH}/auth/login?portal=p&{query}");
        let answer = raw(plain.gate.proxy, "GET", &path, &[], b"");
        assert_eq!((answer.status, answer.header("location")), (400, ""), "{query}");
    }
}
