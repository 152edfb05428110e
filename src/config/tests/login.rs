//! Providers and local accounts.

use super::*;

#[test]
fn a_misspelt_provider_key_and_the_missing_issuer_are_both_reported() {
    let yaml = with("public_url: 'https://shop.test'\nlogin: { providers: { staff: { user_file: u.yaml } } }\n");
    let errors = Config::from_yaml(&yaml).unwrap_err();
    assert_eq!(errors.iter().count(), 2, "{errors}");
    bad(
        &yaml,
        &[
            "login.providers.staff.user_file: unknown key; did you mean `users_file`?",
            "login.providers.staff.issuer: is missing: name one of `issuers`, or set `users_file`",
        ],
    );
}

#[test]
fn accounts_of_a_configured_issuer_need_one_with_the_default_claims() {
    let login = |issuer: &str, provider: &str| {
        with(&format!(
            "public_url: 'https://shop.test'\nissuers: [{{ name: corp, issuer: 'https://id.test/', audiences: [a] {issuer} }}]\n\
             login: {{ {provider} }}\n"
        ))
    };
    let config = good(&login("", "providers: { staff: { users_file: u.yaml, issuer: corp } }"));
    assert_eq!(config.issuers.len(), 1, "the file is no issuer of its own");
    bad(
        &login("", "providers: { staff: { users_file: u.yaml, issuer: crop } }"),
        &["login.providers.staff.issuer: there is no issuer `crop`; did you mean `corp`?"],
    );
    bad(
        &login(
            ", claims: { roles: realm_access.roles }",
            "providers: { staff: { users_file: u.yaml, issuer: corp } }",
        ),
        &["login.providers.staff.issuer: `corp` maps claims (issuers[0].claims)"],
    );
    bad(
        &login("", "providers: { corp: { users_file: u.yaml } }"),
        &["login.providers.corp: an issuer is called `corp`, too", "`issuer: corp`"],
    );
}

#[test]
fn the_default_login_is_one_of_the_providers_and_trusted_by_the_portal() {
    let login = |default: &str| {
        with(&format!(
            "public_url: 'https://shop.test'\n{ISSUER}login: {{ default: {default}, providers: {{ staff: {{ users_file: u.yaml }} }} }}\n\
             portals: {{ shop: {{}}, api: {{ issuers: [corp] }} }}\n"
        ))
    };
    bad(
        &login("stuff"),
        &["login.default: there is no provider `stuff`; did you mean `staff`?"],
    );
    let config = good(&login("staff"));
    let of = |slug: &str| {
        let portal = config
            .portals
            .iter()
            .flatten()
            .find(|portal| portal.slug.as_str() == slug)
            .unwrap();
        config.login.default_of(portal).map(|provider| provider.name.to_string())
    };
    assert_eq!(of("shop").as_deref(), Some("staff"));
    assert_eq!(of("api"), None, "it does not trust the accounts");
}

#[test]
fn a_bad_scope_is_reported_at_its_own_place_in_the_list() {
    let provider = "issuer: corp, client_id: gate, client_secret: x, scopes: [email, 'a b']";
    let yaml = with(&format!(
        "public_url: 'https://shop.test'\n{ISSUER}login: {{ providers: {{ corp: {{ {provider} }} }} }}\n"
    ));
    bad(&yaml, &["login.providers.corp.scopes[1]: `a b` is not a valid scope"]);
}

#[test]
fn mistakes_in_how_a_provider_is_reached_and_asked_name_their_key() {
    let yaml = |keys: &str| {
        with(&format!(
            "public_url: 'https://shop.test'\n{ISSUER}login: {{ providers: {{ corp: {{ issuer: corp, client_id: gate, client_secret: x, {keys} }} }} }}\n"
        ))
    };
    for (keys, part) in [
        (
            "authorization_params: { state: x }",
            "authorization_params.state: the gate sets `state` itself",
        ),
        (
            "authorization_params: { redirect_uri: x }",
            "the gate sets `redirect_uri` itself",
        ),
        (
            "authorization_params: { request_uri: x }",
            "the gate sets `request_uri` itself",
        ),
        (
            "authorization_params: { scope: x }",
            "list the scopes in `login.providers.corp.scopes`",
        ),
        (
            "authorization_params: { response_mode: fragment }",
            "`fragment` does not reach the gate",
        ),
        ("authorization_params: { 'a b': x }", "`a b` is not a parameter name"),
        ("authorization_params: { prompt: \"a\\nb\" }", "holds a control character"),
        ("discovery_url: 'http://keycloak:8080/x'", "discovery_url: must be `https://`"),
        (
            "endpoints: { token: 'http://keycloak:8080/t' }",
            "endpoints.token: must be `https://`",
        ),
        (
            "endpoints: { userinfo: 'https://id.test/u#x' }",
            "endpoints.userinfo: must be `https://` without a fragment",
        ),
        ("endpoints: { tokens: 'https://id.test/t' }", "did you mean `token`?"),
        (
            "proxy: 'socks5://proxy:1080'",
            "proxy: `socks5://proxy:1080` is not an HTTP proxy",
        ),
        ("proxy: 'http://user:pw@proxy:3128'", "has a user name or password in it"),
        ("proxy: 'http://proxy:3128/path'", "is not an HTTP proxy"),
        ("claims_from: saml", "claims_from"),
        (
            "users_file: u, pass_access_token: true",
            "pass_access_token: has no effect beside `users_file`",
        ),
        (
            "users_file: u, claims_from: userinfo",
            "claims_from: has no effect beside `users_file`",
        ),
    ] {
        bad(&yaml(keys), &[part]);
    }
    for keys in [
        "danger_insecure_endpoints: true, discovery_url: 'http://keycloak:8080/x', endpoints: { token: 'http://keycloak:8080/t' }",
        "proxy: 'https://proxy.test:3128', ca_file: ca.pem, claims_from: access_token",
        "endpoints: { authorization: 'https://id.test/a', token: 'http://127.0.0.1:1/t' }",
        "authorization_params: { response_mode: form_post, prompt: login, acr_values: '2' }, persistent: true",
    ] {
        good(&yaml(keys));
    }
    // names of parameters are no slugs: an underscore stays one
    let name = "CEDARGATE_LOGIN__PROVIDERS__CORP__AUTHORIZATION_PARAMS__ACCESS_TYPE";
    let loaded = from_env(&yaml("title: x"), &[(name, "offline")]).unwrap();
    let ProviderKind::Oidc(client) = &loaded.config.login.providers[0].kind else {
        panic!("not an OIDC provider");
    };
    assert_eq!(client.authorization_params["access_type"], "offline");
}

#[test]
fn a_login_over_plain_http_is_refused_where_browsers_drop_its_cookie() {
    let login = |url: &str| {
        with(&format!(
            "public_url: '{url}'\nlogin: {{ providers: {{ staff: {{ users_file: u.yaml }} }} }}\n"
        ))
    };
    bad(&login("http://shop.example.com"), &["public_url", "https://"]);
    good(&login("https://shop.example.com"));
    good(&login("http://localhost:8900"));
    good(&with("public_url: http://shop.example.com\n"));
}
