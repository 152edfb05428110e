//! The harness itself: a handmade relying party logs in, refreshes and is logged out, and sees every fault of the mock.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};
use url::Url;

use super::user_agent::query;
use super::{Browser, Fault, Hop, MockProvider, Provider, Request, Server};
use crate::support::{Answer, App, Issuer, b64, now, unb64};

const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const BASIC: (&str, &str) = ("authorization", "Basic cnA6c2VjcmV0");

/// The redirect and logout endpoints of the relying party: the recording app.
fn callback(app: &App) -> String {
    format!("http://{}/callback", app.address)
}

fn provider_with_client(setup: super::Setup, app: &App) -> Provider {
    let provider = setup.start();
    provider.client(&json!({
        "client_id": "rp", "client_secret": "secret", "redirect_uris": [callback(app)],
        "grant_types": ["authorization_code", "refresh_token"],
        "post_logout_redirect_uris": [format!("http://{}/bye", app.address)],
        "backchannel_logout_uri": format!("http://{}/backchannel", app.address),
        "backchannel_logout_session_required": true,
    }));
    let claims = json!({"tenant": "acme", "roles": ["viewer"], "groups": ["g"], "email": "alice@acme.test"});
    provider.account("alice", &claims);
    provider
}

fn authorization_url(server: &Server, path: &str, app: &App, more: &[(&str, &str)]) -> String {
    let challenge = b64(digest(&SHA256, VERIFIER.as_bytes()));
    let mut url = Url::parse(&format!("{}{path}", server.issuer())).unwrap();
    url.query_pairs_mut()
        .extend_pairs([
            ("client_id", "rp"),
            ("response_type", "code"),
            ("state", "st4te"),
            ("nonce", "n0nce"),
        ])
        .extend_pairs([("redirect_uri", callback(app).as_str()), ("code_challenge", &challenge)])
        .extend_pairs([("code_challenge_method", "S256")])
        .extend_pairs(more);
    url.into()
}

fn redeem(server: &Server, app: &App, code: &str) -> Answer {
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("code_verifier", VERIFIER),
    ];
    server.post(
        "/token",
        &[BASIC],
        &[&fields[..], &[("redirect_uri", &callback(app))]].concat(),
    )
}

fn refresh(server: &Server, token: &Value) -> Answer {
    let fields = [("grant_type", "refresh_token"), ("refresh_token", token.as_str().unwrap())];
    server.post("/token", &[BASIC], &fields)
}

fn claims(token: &Value) -> Value {
    let payload = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&unb64(payload).unwrap()).unwrap()
}

/// The token endpoint's answer of a login, and the last hop before it.
fn logged_in(provider: &Provider, app: &App, browser: &mut Browser, more: &[(&str, &str)]) -> (Value, Hop) {
    let hop = browser.log_in(&authorization_url(provider, "/auth", app, more), "alice");
    let answer = redeem(provider, app, &hop.query("code").unwrap_or_else(|| panic!("{hop:?}")));
    assert_eq!(answer.status, 200, "{}", answer.text());
    (answer.json(), hop)
}

#[test]
fn a_relying_party_logs_an_account_in_and_reads_its_identity() {
    let app = App::start();
    let provider = provider_with_client(Provider::setup(), &app);
    let mut browser = Browser::new();
    let scope = [("scope", "openid email"), ("max_age", "3600")];
    let (tokens, last) = logged_in(&provider, &app, &mut browser, &scope);
    assert_eq!(last.query("state").as_deref(), Some("st4te"));
    assert_eq!(last.query("iss"), Some(provider.issuer()));
    let id = claims(&tokens["id_token"]);
    assert_eq!(
        (&id["iss"], &id["aud"], &id["sub"], &id["nonce"]),
        (&json!(provider.issuer()), &json!("rp"), &json!("alice"), &json!("n0nce"))
    );
    assert_eq!(
        (&id["tenant"], &id["roles"], &id["email"]),
        (&json!("acme"), &json!(["viewer"]), &json!("alice@acme.test"))
    );
    assert!((now() - id["auth_time"].as_i64().unwrap()).abs() < 60);
    assert!(tokens.get("refresh_token").is_none());
    // the page was a form with a label, and the way back crossed sites
    let page = browser
        .hops
        .iter()
        .find(|hop| hop.url.path().starts_with("/interaction/"))
        .unwrap();
    assert!(page.text().contains("<label for=\"login\">Account</label>"));
    assert!(last.sent.contains(&("sec-fetch-site".to_owned(), "cross-site".to_owned())));
    // a browser that is logged in gets no form
    let again = browser.open(&authorization_url(&provider, "/auth", &app, &scope));
    assert!(again.query("code").is_some());
    assert_eq!(provider.count_tokens("authorization_code"), 1);
}

#[test]
fn a_cancelled_login_an_unknown_name_and_a_code_without_pkce_are_denied() {
    let app = App::start();
    let provider = provider_with_client(Provider::setup(), &app);
    let mut browser = Browser::new();
    let url = authorization_url(&provider, "/auth", &app, &[("scope", "openid")]);
    let page = browser.open(&url);
    let refused = browser.submit(&page, &[("login", "mallory")]);
    assert_eq!(refused.status, 400);
    let cancelled = browser.submit(&page, &[("login", ""), ("cancel", "yes")]);
    let back = browser.follow(cancelled);
    assert_eq!(back.query("error").as_deref(), Some("access_denied"));
    let bare = url.replace("code_challenge", "unused");
    assert_eq!(browser.open(&bare).query("error").as_deref(), Some("invalid_request"));
}

#[test]
fn claims_are_in_userinfo_only_where_the_provider_is_told_so() {
    let app = App::start();
    let provider = provider_with_client(Provider::setup().claims_in_userinfo_only(), &app);
    let (tokens, _) = logged_in(&provider, &app, &mut Browser::new(), &[("scope", "openid email")]);
    assert!(claims(&tokens["id_token"]).get("tenant").is_none());
    let bearer = format!("Bearer {}", tokens["access_token"].as_str().unwrap());
    let url = Url::parse(&format!("{}/me", provider.issuer())).unwrap();
    let hop = Browser::new().send(&url, &Request::fetch("GET").header("authorization", &bearer));
    assert!(hop.sent.contains(&("sec-fetch-dest".to_owned(), "empty".to_owned())));
    let userinfo: Value = serde_json::from_slice(&hop.body).unwrap();
    assert_eq!((&userinfo["sub"], &userinfo["tenant"]), (&json!("alice"), &json!("acme")));
}

#[test]
fn a_client_may_send_its_secret_in_the_form_or_sign_with_its_own_key() {
    let app = App::start();
    let provider = provider_with_client(Provider::setup(), &app);
    let key = Issuer::new("rp-key");
    let assertion = key.sign(&json!({
        "iss": "rp", "sub": "rp", "aud": provider.issuer(), "jti": "once", "iat": now(), "exp": now() + 60,
    }));
    let jwt_bearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let posted = vec![("client_id", "rp"), ("client_secret", "secret")];
    let signed = vec![
        ("client_assertion_type", jwt_bearer),
        ("client_assertion", assertion.as_str()),
    ];
    for (method, proof) in [("client_secret_post", posted), ("private_key_jwt", signed)] {
        let mut metadata = json!({"client_id": "rp", "redirect_uris": [callback(&app)], "token_endpoint_auth_method": method});
        if method == "private_key_jwt" {
            metadata["jwks"] = key.jwks();
            metadata["token_endpoint_auth_signing_alg"] = json!("ES256");
        } else {
            metadata["client_secret"] = json!("secret");
        }
        provider.client(&metadata);
        let url = authorization_url(&provider, "/auth", &app, &[("scope", "openid")]);
        let code = Browser::new().log_in(&url, "alice").query("code").unwrap();
        let redirect = callback(&app);
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("code_verifier", VERIFIER),
        ];
        fields.push(("redirect_uri", &redirect));
        assert_ne!(provider.post("/token", &[], &fields).status, 200, "{method}");
        fields.extend(proof);
        let answer = provider.post("/token", &[], &fields);
        assert_eq!(answer.status, 200, "{method}: {}", answer.text());
    }
}

#[test]
fn refresh_tokens_rotate_and_a_reused_one_ends_them_all() {
    let app = App::start();
    let provider = provider_with_client(Provider::setup().always_refresh().access_token_seconds(2), &app);
    let (tokens, _) = logged_in(&provider, &app, &mut Browser::new(), &[("scope", "openid")]);
    assert_eq!(tokens["expires_in"], 2);
    let second = refresh(&provider, &tokens["refresh_token"]).json();
    assert_ne!(second["refresh_token"], tokens["refresh_token"]);
    let reused = refresh(&provider, &tokens["refresh_token"]);
    assert_eq!((reused.status, &reused.json()["error"]), (400, &json!("invalid_grant")));
    let newest = refresh(&provider, &second["refresh_token"]);
    assert_eq!((newest.status, &newest.json()["error"]), (400, &json!("invalid_grant")));
    assert_eq!(provider.count_tokens("refresh_token"), 3);
}

#[test]
fn offline_access_gives_a_refresh_token_until_its_grant_is_revoked() {
    let app = App::start();
    let provider = provider_with_client(Provider::setup(), &app);
    let scope = [("scope", "openid offline_access"), ("prompt", "consent")];
    let (tokens, _) = logged_in(&provider, &app, &mut Browser::new(), &scope);
    let second = refresh(&provider, &tokens["refresh_token"]);
    assert_eq!(second.status, 200, "{}", second.text());
    assert_eq!(provider.revoke_grants("alice"), 1);
    let third = refresh(&provider, &second.json()["refresh_token"]);
    assert_eq!(third.json()["error"], "invalid_grant");
}

#[test]
fn a_session_that_ends_at_the_provider_is_told_to_the_client() {
    let app = App::start();
    let provider = provider_with_client(Provider::setup(), &app);
    let mut browser = Browser::new();
    let (tokens, _) = logged_in(&provider, &app, &mut browser, &[("scope", "openid")]);
    let outcomes = provider.end_sessions("alice");
    assert_eq!((outcomes.len(), &outcomes[0]["outcome"]), (1, &json!("ok")));
    let logout = app.last();
    assert_eq!((logout.method.as_str(), logout.target.as_str()), ("POST", "/backchannel"));
    let body = String::from_utf8(logout.body.to_vec()).unwrap();
    let token = claims(&json!(body.strip_prefix("logout_token=").unwrap()));
    assert_eq!((&token["sub"], &token["aud"]), (&json!("alice"), &json!("rp")));
    assert_eq!(token["sid"], claims(&tokens["id_token"])["sid"]);
    assert!(token["events"]["http://schemas.openid.net/event/backchannel-logout"].is_object());
    // and the next visit needs a new login
    let page = browser.open(&authorization_url(&provider, "/auth", &app, &[("scope", "openid")]));
    assert!(page.text().contains("Sign in"));
}

#[test]
fn a_logout_that_the_client_begins_ends_the_session_and_comes_back() {
    let app = App::start();
    let provider = provider_with_client(Provider::setup(), &app);
    let mut browser = Browser::new();
    let (tokens, _) = logged_in(&provider, &app, &mut browser, &[("scope", "openid")]);
    let mut url = Url::parse(&format!("{}/session/end", provider.issuer())).unwrap();
    url.query_pairs_mut()
        .append_pair("id_token_hint", tokens["id_token"].as_str().unwrap())
        .append_pair("post_logout_redirect_uri", &format!("http://{}/bye", app.address));
    let page = browser.open(url.as_str());
    let hop = browser.submit(&page, &[("logout", "yes")]);
    assert_eq!(browser.follow(hop).url.path(), "/bye");
    let paths: Vec<String> = app.seen().into_iter().map(|seen| seen.target).collect();
    assert!(paths.contains(&"/backchannel".to_owned()), "{paths:?}");
}

#[test]
fn a_higher_level_needs_another_login_unless_levels_are_ignored() {
    let app = App::start();
    let provider = provider_with_client(Provider::setup(), &app);
    let mut browser = Browser::new();
    let (low, _) = logged_in(&provider, &app, &mut browser, &[("scope", "openid"), ("acr_values", "1")]);
    assert_eq!(claims(&low["id_token"])["acr"], "1");
    let high = [("scope", "openid"), ("acr_values", "2")];
    let (high, _) = logged_in(&provider, &app, &mut browser, &high);
    assert_eq!(claims(&high["id_token"])["acr"], "2");
    let provider = provider_with_client(Provider::setup().ignores_acr(), &app);
    let (same, _) = logged_in(
        &provider,
        &app,
        &mut Browser::new(),
        &[("scope", "openid"), ("acr_values", "2")],
    );
    assert_eq!(claims(&same["id_token"])["acr"], "1");
}

#[test]
fn faults_and_new_keys_of_a_provider_are_seen_and_pass() {
    let provider = Provider::start();
    let kids = |provider: &Provider| -> Vec<Value> {
        let keys = provider.get("/jwks", &[]).json();
        keys["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key["kid"].clone())
            .collect()
    };
    let old = kids(&provider);
    provider.rotate_keys();
    assert!(kids(&provider).iter().all(|kid| !old.contains(kid)));
    assert_eq!(provider.count("jwks"), 2);
    provider.fault("jwks", Fault::Status(500), Some(1));
    assert_eq!(provider.get("/jwks", &[]).status, 500);
    assert_eq!(provider.get("/jwks", &[]).status, 200);
    provider.fault("token", Fault::Close, None);
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], provider.port));
    let request = b"POST /token HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
    assert!(crate::support::exchange(address, request).is_none());
    provider.heal();
    assert_eq!(provider.post("/token", &[BASIC], &[("grant_type", "x")]).status, 401);
    provider.fault("discovery", Fault::DelayMillis(300), None);
    let started = std::time::Instant::now();
    assert_eq!(provider.get("/.well-known/openid-configuration", &[]).status, 200);
    assert!(started.elapsed().as_millis() >= 290);
    provider.kill();
    assert!(std::net::TcpStream::connect(address).is_err());
}

/// The parts of a login at the mock provider that a fault can change: callback, token answer, ID token claims,
/// userinfo.
fn look(mock: &MockProvider, app: &App) -> Value {
    let mut browser = Browser::new();
    let hop = browser.open(&authorization_url(mock, "/authorize", app, &[("scope", "openid")]));
    let back = |name: &str| query(&hop.url, name);
    let mut seen = json!({"state": back("state"), "iss": back("iss"), "error": back("error")});
    seen["discovery"] = mock.get("/.well-known/openid-configuration", &[]).json()["issuer"].clone();
    let userinfo = mock.get("/userinfo", &[]);
    seen["userinfo"] = json!([userinfo.status, userinfo.json()["sub"]]);
    let Some(code) = back("code") else { return seen };
    let answer = redeem(mock, app, &code);
    let tokens = answer.json();
    seen["token"] = json!([
        answer.status,
        tokens["error"],
        tokens["token_type"],
        tokens["access_token"].is_string()
    ]);
    seen["id_token"] = json!(tokens["id_token"].is_string());
    let Some(token) = tokens["id_token"].as_str() else {
        return seen;
    };
    let parts: Vec<Option<Value>> = token.split('.').map(|p| serde_json::from_slice(&unb64(p)?).ok()).collect();
    seen["alg"] = parts[0].as_ref().map_or(Value::Null, |head| head["alg"].clone());
    let Some(claims) = &parts[1] else { return seen };
    for name in ["iss", "aud", "azp", "nonce", "sub"] {
        seen[format!("claim {name}")] = claims[name].clone();
    }
    for name in ["iat", "exp", "nbf"] {
        seen[format!("claim {name}")] = json!(claims[name].as_i64().map(|at| (at - now() + 30).div_euclid(1800)));
    }
    seen["signature"] = json!(is_signed(mock, token));
    seen
}

fn is_signed(mock: &MockProvider, token: &str) -> bool {
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_value(mock.get("/jwks", &[]).json()).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(&keys.keys[0]).unwrap();
    let (input, signature) = token.rsplit_once('.').unwrap();
    jsonwebtoken::crypto::verify(signature, input.as_bytes(), &key, jsonwebtoken::Algorithm::RS256).unwrap_or(false)
}

#[test]
fn every_fault_of_the_mock_provider_is_visible_to_a_relying_party() {
    let app = App::start();
    let mock = MockProvider::start("alice", &json!({"tenant": "acme"}));
    let truth = look(&mock, &app);
    assert_eq!(
        (
            &truth["claim sub"],
            &truth["claim nonce"],
            &truth["claim aud"],
            &truth["signature"]
        ),
        (&json!("alice"), &json!("n0nce"), &json!("rp"), &json!(true)),
        "{truth}"
    );
    let mut views = vec![truth.clone()];
    for lie in mock.lies() {
        mock.lie(&lie);
        let view = look(&mock, &app);
        assert!(!views.contains(&view), "`{lie}` looks like another or the truth: {view}");
        views.push(view);
    }
    assert!(views.len() > 25);
    mock.tell_the_truth();
    assert_eq!(look(&mock, &app), truth);
    mock.subject("bob", &json!({}));
    mock.discovery(&json!({"userinfo_endpoint": null}));
    assert_eq!(look(&mock, &app)["claim sub"], "bob");
    mock.fault("token", Fault::Status(500), Some(1));
    assert_eq!(look(&mock, &app)["token"][0], 500);
}
