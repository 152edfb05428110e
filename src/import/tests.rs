//! What becomes of single settings; whole configurations run in `tests/integration`.

use super::{Imported, Weight, oauth2_proxy};

fn import(text: &str) -> Imported {
    oauth2_proxy(text).unwrap_or_else(|why| panic!("{text}: {why}"))
}

fn file<'a>(imported: &'a Imported, name: &str) -> &'a str {
    let found = imported.files.iter().find(|file| file.name == name);
    found.map_or_else(|| panic!("no {name}"), |file| file.text.as_str())
}

fn decides(imported: &Imported, setting: &str) -> bool {
    imported
        .remarks
        .iter()
        .any(|remark| remark.weight == Weight::Decide && remark.setting == setting)
}

#[test]
fn the_same_settings_in_every_form_are_the_same_configuration() {
    let toml = "provider = \"oidc\"\noidc_issuer_url = \"https://id.test\"\nclient_id = \"c\"\nemail_domains = [\"a.test\", \"b.test\"]\nupstreams = [\"http://app:1\"]\nskip_provider_button = true\n";
    let flags = "--provider=oidc --oidc-issuer-url=https://id.test --client-id c --email-domain=a.test --email-domain b.test \\\n  --upstream=\"http://app:1\" --skip-provider-button";
    let values = "config: { clientID: c }\nextraArgs: { provider: oidc, oidc-issuer-url: 'https://id.test', email-domain: [ a.test, b.test ], upstream: 'http://app:1', skip-provider-button: true }";
    let block = "oauth2-proxy:\n  config:\n    configFile: |-\n      provider = \"oidc\"\n      oidc_issuer_url = \"https://id.test\"\n      client_id = \"c\"\n      email_domains = [\"a.test\", \"b.test\"]\n      upstreams = [\"http://app:1\"]\n  extraArgs: { skip-provider-button: 'true' }\n";
    let list = "args: [ \"--provider=oidc\", \"--oidc-issuer-url=https://id.test\", \"--client-id=c\", \"--email-domain=a.test,b.test\", \"--upstream=http://app:1\", '--skip-provider-button' ]";
    let variables = "OAUTH2_PROXY_PROVIDER=oidc\nexport OAUTH2_PROXY_OIDC_ISSUER_URL=\"https://id.test\"\n-e OAUTH2_PROXY_CLIENT_ID=c \\\nOAUTH2_PROXY_EMAIL_DOMAINS: a.test,b.test\n- name: OAUTH2_PROXY_UPSTREAMS\n  value: 'http://app:1'\nOAUTH2_PROXY_SKIP_PROVIDER_BUTTON=true";
    let uncommented = |text: &str| -> String {
        let config = import(text).config;
        config
            .lines()
            .map(|line| line.split(" # ").next().unwrap_or_default().trim_end().to_owned() + "\n")
            .collect()
    };
    let expected = uncommented(toml);
    assert!(expected.contains("issuer: \"https://id.test\""), "{expected}");
    for other in [flags, list, variables, values, block] {
        assert_eq!(uncommented(other), expected, "{other}");
        let policies = |text: &str| file(&import(text), "policies/_shared/access.cedar").to_owned();
        assert_eq!(policies(other), policies(toml));
    }
}

#[test]
fn a_comment_names_setting_and_line() {
    let config = import("# first\nclient_id = \"c\"\nredirect_url = \"https://a.test/oauth2/callback\"\n").config;
    let line = config.lines().find(|line| line.starts_with("public_url")).unwrap();
    assert!(
        line.starts_with("public_url: \"https://a.test\"") && line.ends_with("# redirect_url (line 3)"),
        "{line}"
    );
}

#[test]
fn nothing_that_is_said_inexactly_lets_more_callers_in() {
    let policies = |text: &str| file(&import(text), "policies/_shared/access.cedar").to_owned();
    // no statement: no caller comes in
    assert!(
        policies("client_id = \"c\"").contains("(false)") || policies("client_id = \"c\"").contains("false"),
        "{}",
        policies("client_id = \"c\"")
    );
    assert!(policies("authenticated_emails_file = \"/x\"").contains("false"));
    // a restriction of the provider that is lost: no caller comes in
    for lost in ["github_org = \"acme\"", "google_groups = [\"g\"]", "github_users = [\"u\"]"] {
        let text = format!("email_domains = [\"*\"]\n{lost}");
        assert!(policies(&text).contains("false"), "{text}");
        assert!(decides(&import(&text), lost.split(' ').next().unwrap()), "{text}");
    }
    for bad in ["*", "a*b.test", "a.test\\\"", "", " "] {
        let text = format!("email_domains = [\"ok.test\", \"{bad}\"]");
        let has_wildcard = policies(&text).contains("a*b") || policies(&text).contains("\\\"");
        assert!(!has_wildcard, "{text}");
    }
    let text = policies("email_domains = [\".Shop.TEST\"]\nallowed_groups = [\"a\\\"b\"]");
    assert!(
        text.contains("like \"*@shop.test\"") && text.contains("like \"*@*.shop.test\""),
        "{text}"
    );
    assert!(text.contains("Role::\"a\\\"b\""), "{text}");
    assert!(text.contains("unverified-address"), "{text}");
    assert!(!policies("email_domains = [\"*\"]\ninsecure_oidc_allow_unverified_email = true").contains("unverified"));
}

#[test]
fn routes_without_authentication_are_public_only_if_they_are_plain() {
    let public = |routes: &str| {
        let imported = import(&format!("email_domains = [\"*\"]\nskip_auth_routes = [{routes}]"));
        let yaml = file(&imported, "policies/app/portal.yaml").to_owned();
        let paths: Vec<String> = yaml
            .lines()
            .filter_map(|line| line.strip_prefix("  - "))
            .map(str::to_owned)
            .collect();
        (paths, decides(&imported, "skip_auth_routes"))
    };
    let of = |paths: &[&str]| paths.iter().map(|path| format!("\"{path}\"")).collect::<Vec<_>>();
    assert_eq!(public("'GET=^/health$'"), (of(&["GET /health"]), false));
    assert_eq!(public("'GET=^/static/'"), (of(&["GET /static/**"]), false));
    assert_eq!(public("'GET=^/static/.*$'"), (of(&["GET /static/**"]), false));
    assert_eq!(public("'GET=^/fav\\.ico$'"), (of(&["GET /fav.ico"]), false));
    assert_eq!(public("'POST=^/api'"), (of(&["POST /api", "POST /api/**"]), false));
    assert_eq!(public("'^/x$'").0.len(), 5);
    for closed in [
        "'/health'",
        "'GET=^/(a|b)'",
        "'GET!=^/a'",
        "'GET=^/a/../b'",
        "'GET=^/a+'",
        "'GET=^/a?b'",
        "'GET=^//'",
        "'get=^/a'",
        "'GET=^/a\\.*$'",
        "'GET=/a$'",
    ] {
        let (paths, told) = public(closed);
        assert!(told && paths.is_empty(), "{closed}: {paths:?}");
    }
}

#[test]
fn no_secret_is_in_the_result_or_in_an_error() {
    let names = [
        "client_secret",
        "cookie_secret",
        "basic_auth_password",
        "redis_password",
        "redis_sentinel_password",
        "signature_key",
        "jwt_key",
        "github_token",
    ];
    for name in names {
        for text in [
            format!("client_id = \"c\"\n{name} = \"hunter2\"\n"),
            format!("--client-id=c --{}=hunter2", name.replace('_', "-")),
            format!("OAUTH2_PROXY_{}=hunter2", name.to_ascii_uppercase()),
        ] {
            let imported = import(&text);
            assert!(!format!("{imported:?}").contains("hunter2"), "{text}");
        }
    }
    for url in ["redis://:hunter2@r:1/2", "redis://u:hunter2@r:1", "u:hunter2@r:1"] {
        let imported = import(&format!("session_store_type = \"redis\"\nredis_connection_url = \"{url}\""));
        assert!(!format!("{imported:?}").contains("hunter2"), "{url}");
    }
    for broken in ["client_secret = \"hunter2", "client_secret = hunter2", "[[[hunter2"] {
        let why = oauth2_proxy(broken).unwrap_err();
        assert!(!why.contains("hunter2"), "{why}");
    }
}

#[test]
fn every_proxy_is_believed_by_no_configuration() {
    for text in [
        "reverse_proxy = true",
        "reverse_proxy = true\ntrusted_proxy_ips = [\"0.0.0.0/0\", \"::/0\"]",
    ] {
        let imported = import(text);
        assert!(imported.config.contains("trusted_proxies: []"), "{}", imported.config);
        assert!(decides(&imported, "reverse_proxy"), "{text}");
    }
}

#[test]
fn values_that_could_be_read_in_two_ways_are_refused() {
    let two = "a:\n  extraArgs: { provider: oidc }\nb:\n  extraArgs: { provider: github }\n";
    assert!(oauth2_proxy(two).unwrap_err().contains("several"), "{two}");
    // the chart's own name says which values are meant
    let named = two.replace("b:", "oauth2-proxy:");
    assert!(decides(&import(&named), ""));
    let two = "data:\n  a.cfg: 'client_id = \"a\"'\n  b.cfg: 'client_id = \"b\"'\n";
    assert!(oauth2_proxy(two).unwrap_err().contains("several"), "{two}");
    let template = "extraArgs:\n  client-id: {{ .Values.id }}\n";
    assert_eq!(
        oauth2_proxy(template).unwrap_err(),
        "line 2: the values hold a template; render them first"
    );
    let secret = "config:\n  clientID: c\n  configFile: |-\n    cookie_secret = hunter2\n";
    let why = oauth2_proxy(secret).unwrap_err();
    assert!(why.contains("configuration file") && !why.contains("hunter2"), "{why}");
}

#[test]
fn what_is_no_configuration_is_refused() {
    for text in ["", "hello: world", "just words", "<html>", "\u{0}"] {
        assert!(oauth2_proxy(text).is_err(), "{text:?}");
    }
    assert!(decides(&import("client_id = \"c\"\nunknown_key = 1"), "unknown_key"));
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(?s).{0,200}", start in proptest::sample::select(vec!["", "--upstream=", "client_id = ", "OAUTH2_PROXY_X=", "providers:\n - ", "skip_auth_routes = ['^"])) {
        let _any = oauth2_proxy(&format!("{start}{text}"));
    }
}
