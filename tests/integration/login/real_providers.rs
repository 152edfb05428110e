//! A real provider (`oidc-provider`), configured as Keycloak, Entra ID, Google, Okta, Auth0 and Cognito are, and a real
//! browser that logs in there, reads a page and logs out.
//!
//! `provider_shapes` has the same six member by member; here a provider's own code checks what the gate sends.

use serde_json::{Value, json};

use crate::support::chromium::Chromium;
use crate::support::login_gate::{COOKIE, LoginGate, LoginSetup, SECRET, header, start_gate_for};
use crate::support::openid::Provider;
use crate::support::session_client::IDENTITY_PATH;

/// One provider of the market.
struct Market {
    name: &'static str,
    /// Path of the issuer.
    path: &'static str,
    shape: Value,
    /// Claims of alice.
    account: Value,
    /// More metadata of the gate's client.
    client: Value,
    /// Keys of the gate's issuer and provider.
    issuer: &'static str,
    provider: &'static str,
    /// False if the provider has no logout.
    ends_session: bool,
    /// True if the login brings a refresh token.
    renews: bool,
}

fn market() -> Vec<Market> {
    vec![
        // ES256, routes of its own below a realm, realm roles in the access token alone, whose audience is `account`
        Market {
            name: "keycloak",
            path: "/realms/acme",
            shape: json!({"path": "/realms/acme", "alg": "ES256",
                "routes": {"authorization": "/protocol/openid-connect/auth", "token": "/protocol/openid-connect/token",
                    "userinfo": "/protocol/openid-connect/userinfo", "jwks": "/protocol/openid-connect/certs",
                    "end_session": "/protocol/openid-connect/logout"},
                "access": {"aud": "account", "header": {"typ": "JWT"}, "claims": {"typ": "Bearer", "azp": "gate",
                    "tenant": "acme", "realm_access": {"roles": ["viewer"]},
                    "resource_access": {"account": {"roles": ["manage-account"]}}}}}),
            account: json!({"email": "alice@acme.test"}),
            client: json!({"id_token_signed_response_alg": "ES256"}),
            issuer: ", claims: { roles: realm_access.roles }",
            provider: ", scopes: [openid, email], claims_from: access_token",
            ends_session: true,
            renews: true,
        },
        // a form of the provider brings the answer, `sub` is pairwise, keys have no `alg`, access tokens are for
        // another API
        Market {
            name: "entra",
            path: "/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0",
            shape: json!({"path": "/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0", "keys_without_alg": true,
                "claims": ["oid", "tid", "roles", "ver", "preferred_username"], "extra_params": ["domain_hint"],
                "access": {"aud": "00000003-0000-0000-c000-000000000000", "header": {"typ": "JWT", "nonce": "n"}}}),
            account: json!({"oid": "alice", "tid": "72f988bf-86f1-41af-91ab-2d7cd011db47", "roles": ["viewer"], "ver": "2.0",
                "preferred_username": "alice@acme.test", "email": "alice@acme.test"}),
            client: json!({"subject_type": "pairwise"}),
            issuer: ", claims: { subject: oid, tenant: tid }",
            provider: ", scopes: [openid, email], authorization_params: { response_mode: form_post, domain_hint: acme.test }",
            ends_session: true,
            renews: false,
        },
        // opaque access tokens, no logout
        Market {
            name: "google",
            path: "",
            shape: json!({"no_end_session": true, "claims": ["hd", "roles"], "extra_params": ["access_type", "hd"]}),
            account: json!({"hd": "acme", "roles": ["viewer"], "email": "alice@acme.test", "email_verified": true}),
            client: json!({}),
            issuer: ", claims: { tenant: hd }",
            provider: ", scopes: [openid, email], authorization_params: { access_type: offline, hd: acme.test }",
            ends_session: false,
            renews: true,
        },
        // groups in userinfo alone
        Market {
            name: "okta",
            path: "/oauth2/default",
            shape: json!({"path": "/oauth2/default", "claims": ["groups", "tenant"],
                "routes": {"authorization": "/v1/authorize", "token": "/v1/token", "userinfo": "/v1/userinfo", "jwks": "/v1/keys",
                    "end_session": "/v1/logout"}}),
            account: json!({"groups": ["viewer"], "tenant": "acme", "email": "alice@acme.test"}),
            client: json!({}),
            issuer: ", claims: { roles: groups }",
            provider: ", scopes: [openid, email, offline_access], claims_from: userinfo, authorization_params: { prompt: consent }",
            ends_session: true,
            renews: true,
        },
        // PS256, an issuer that ends with a slash, claims that are URLs, an access token for the API that `audience`
        // names
        Market {
            name: "auth0",
            path: "/",
            shape: json!({"path": "/", "alg": "PS256", "claims": ["https://shop.example/roles", "https://shop.example/tenant"],
                "extra_params": ["audience"],
                "routes": {"authorization": "/authorize", "token": "/oauth/token", "userinfo": "/userinfo",
                    "jwks": "/.well-known/jwks.json", "end_session": "/oidc/logout"},
                "access": {"aud": "https://api.example", "claims": {"azp": "gate"}}}),
            account: json!({"https://shop.example/roles": ["viewer"], "https://shop.example/tenant": "acme",
                "email": "alice@acme.test"}),
            client: json!({"token_endpoint_auth_method": "client_secret_post", "id_token_signed_response_alg": "PS256"}),
            issuer: ", algorithms: [PS256], claims: { roles: 'https://shop.example/roles', tenant: 'https://shop.example/tenant' }",
            provider: ", scopes: [openid, email], auth_method: client_secret_post, authorization_params: { audience: 'https://api.example' }",
            ends_session: true,
            renews: true,
        },
        // groups under a name with a colon in the access token, no logout that OpenID Connect knows
        Market {
            name: "cognito",
            path: "/eu-west-1_a1B2c3",
            shape: json!({"path": "/eu-west-1_a1B2c3", "no_end_session": true, "claims": ["cognito:username", "custom:tenant", "token_use"],
                "routes": {"authorization": "/oauth2/authorize", "token": "/oauth2/token", "userinfo": "/oauth2/userInfo",
                    "jwks": "/.well-known/jwks.json"},
                "access": {"aud": "gate", "claims": {"token_use": "access", "version": 2, "username": "alice",
                    "cognito:groups": ["viewer"]}}}),
            account: json!({"cognito:username": "alice", "custom:tenant": "acme", "token_use": "id", "email": "alice@acme.test"}),
            client: json!({}),
            issuer: ", claims: { roles: 'cognito:groups', tenant: 'custom:tenant' }",
            provider: ", scopes: [openid, email], claims_from: access_token",
            ends_session: false,
            renews: true,
        },
    ]
}

fn start(market: &Market) -> (Provider, LoginGate) {
    let mut setup = Provider::setup().shape(&market.shape);
    if market.renews {
        setup = setup.always_refresh();
    }
    if market.provider.contains("claims_from: userinfo") {
        setup = setup.claims_in_userinfo_only();
    }
    let provider = setup.start();
    let login_gate = start_gate_for(&LoginSetup {
        issuer_url: &format!("{}{}", provider.issuer(), market.path),
        issuer: market.issuer,
        provider: market.provider,
        ..LoginSetup::default()
    });
    let mut client = json!({
        "client_id": "gate", "client_secret": SECRET,
        "redirect_uris": [format!("{}{IDENTITY_PATH}/auth/callback", login_gate.origin)],
        "grant_types": ["authorization_code", "refresh_token"],
        "post_logout_redirect_uris": [format!("{}/", login_gate.origin)],
    });
    for (member, value) in market.client.as_object().unwrap() {
        client[member] = value.clone();
    }
    provider.client(&client);
    provider.account("alice", &market.account);
    (provider, login_gate)
}

/// True if the browser has the session cookie of a gate. The gate's pages let no script ask the gate.
fn has_session(browser: &mut Chromium) -> bool {
    let cookies = browser.call("Network.getAllCookies", json!({}));
    cookies["cookies"]
        .as_array()
        .unwrap()
        .iter()
        .any(|cookie| cookie["name"] == COOKIE)
}

#[test]
fn a_browser_logs_in_and_out_at_a_real_provider_configured_as_each_of_the_market() {
    let folder = tempfile::tempdir().unwrap();
    let mut browser = Chromium::start(folder.path());
    for market in market() {
        let name = market.name;
        let (provider, login_gate) = start(&market);
        let problem = || format!("{name}: {} {}", login_gate.written(), provider.log());
        browser.open(login_gate.url("/portal/p/x?after=login").as_str());
        browser.waits("document.title", "Sign in");
        browser.type_text("alice");
        browser.press("Enter");
        browser.arrived("/portal/p/x?after=login");
        let seen = login_gate.gate.app.last();
        assert_eq!(header(&seen, "x-forwarded-user"), "alice", "{}", problem());
        assert_eq!(header(&seen, "x-cedargate-roles"), "viewer", "{}", problem());
        assert_ne!(header(&seen, "x-cedargate-tenant"), "", "{}", problem());
        let refresh = format!("fetch('{IDENTITY_PATH}/auth/refresh', {{ method: 'POST' }}).then(answer => answer.status)");
        let renewed = browser.eval(&refresh);
        assert_eq!(renewed, 200, "{}", problem());
        assert_eq!(
            provider.count_tokens("refresh_token"),
            u64::from(market.renews),
            "{}",
            problem()
        );
        assert!(has_session(&mut browser), "{}", problem());
        // the page of the logout, that of the provider, and the one that says so
        browser.open(login_gate.url(&format!("{IDENTITY_PATH}/auth/logout")).as_str());
        browser.shows("Log out?");
        browser.click("document.querySelector('form button')");
        if market.ends_session {
            browser.waits("document.title", "Sign out");
            browser.click("document.querySelector('[name=logout]')");
        }
        browser.shows("Logged out");
        assert!(!has_session(&mut browser), "{}", problem());
        browser.call("Network.clearBrowserCookies", json!({}));
        login_gate.gate.stop();
    }
}
