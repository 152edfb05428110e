//! The provider: an issuer, and the client that logs in at it.

use cedargate_policy::json::quoted;

use super::settings::{Setting, Settings};
use super::yaml::{Yaml, list};
use super::{Remarks, Weight};

/// Stands where the operator must name an issuer.
const MISSING: &str = "https://issuer.invalid";
/// An audience that no token has.
const NO_AUDIENCE: &str = "none.invalid";
/// Algorithms of the gate.
const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];
/// The path to the client's secret, if the settings hold the secret itself.
const SECRET_FILE: &str = "secrets/client-secret";

pub(super) struct Provider<'a> {
    settings: &'a Settings,
    issuer: String,
    algorithms: Vec<String>,
}

/// The issuer of a kind of provider; `Err`: the reason why the gate cannot log in there.
fn issuer_of(kind: &str, settings: &Settings) -> Result<Option<String>, String> {
    let url = settings.get("oidc_issuer_url").map(|setting| setting.text().to_owned());
    let azure = || {
        let tenant = settings.get("azure_tenant").map_or("", Setting::text);
        let is_one = !tenant.is_empty() && !["common", "organizations", "consumers"].contains(&tenant);
        is_one.then(|| format!("https://login.microsoftonline.com/{tenant}/v2.0"))
    };
    Ok(match kind {
        "" | "google" => Some(url.unwrap_or_else(|| "https://accounts.google.com".to_owned())),
        "gitlab" => Some(url.unwrap_or_else(|| "https://gitlab.com".to_owned())),
        "azure" | "entra-id" => url.or_else(azure),
        "oidc" | "keycloak-oidc" | "adfs" | "cidaas" => url,
        "login.gov" => {
            return Err("login.gov wants clients with an RSA key, and the gate signs with P-256 (`client_key_file`)".to_owned());
        }
        "keycloak" => {
            return Err("this provider reads no ID token; use the realm's OpenID Connect: `https://…/realms/<realm>`".to_owned());
        }
        "github" | "bitbucket" | "facebook" | "digitalocean" | "linkedin" | "nextcloud" | "sourcehut" | "gitea" | "openshift" => {
            return Err(format!(
                "`{kind}` is not OpenID Connect in oauth2-proxy; put a provider such as Dex or Keycloak between, and name it"
            ));
        }
        _ => return Err("is no provider of oauth2-proxy 7".to_owned()),
    })
}

/// `key: value` of each setting that is there.
fn given(settings: &Settings, names: &[(&str, &str)], value: impl Fn(&str) -> String) -> Vec<String> {
    let found = names.iter().filter_map(|(name, key)| Some((settings.get(name)?, key)));
    found
        .map(|(setting, key)| format!("{key}: {}", quoted(&value(setting.text()))))
        .collect()
}

/// The URL with `https` in the place of `http`, unless it stays on this machine.
pub(super) fn over_tls(text: &str) -> String {
    let rest = text.strip_prefix("http://").filter(|rest| {
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        host != "localhost" && host != "127.0.0.1" && !rest.starts_with("[::1]")
    });
    rest.map_or_else(|| text.to_owned(), |rest| format!("https://{rest}"))
}

pub(super) fn translate<'a>(settings: &'a Settings, remarks: &mut Remarks) -> Provider<'a> {
    let none = Setting::default();
    let kind = settings.get("provider").unwrap_or(&none);
    let issuer = match issuer_of(kind.text(), settings) {
        Ok(Some(issuer)) => issuer,
        Ok(None) => {
            remarks.missing("the provider's issuer: exactly the `iss` of its tokens, for one tenant");
            MISSING.to_owned()
        }
        Err(why) => {
            remarks.of(Weight::Decide, kind, why);
            MISSING.to_owned()
        }
    };
    if settings.get("client_id").is_none() {
        remarks.missing("`client_id`: the client's id at the provider");
    }
    secret(settings, remarks);
    differences(settings, remarks);
    let algorithms = algorithms(settings, remarks);
    Provider {
        settings,
        issuer,
        algorithms,
    }
}

/// Remarks on what the client does in another way.
fn differences(settings: &Settings, remarks: &mut Remarks) {
    let urls = ["oidc_issuer_url", "oidc_jwks_url", "login_url", "redeem_url", "profile_url"];
    for setting in urls.iter().filter_map(|name| settings.get(name)) {
        if over_tls(setting.text()) != setting.text() {
            remarks.of(
                Weight::Decide,
                setting,
                "secrets, codes and keys travel over TLS only: the result says https",
            );
        }
    }
    if let Some(setting) = settings
        .get("oidc_audience_claims")
        .filter(|setting| setting.values != ["aud"])
    {
        remarks.of(
            Weight::Decide,
            setting,
            "the ID token's audience is `aud`; for bearer tokens set `issuers[].audience_claim`",
        );
    }
    if let Some(setting) = settings.get("provider_ca_files").filter(|setting| setting.values.len() > 1) {
        remarks.of(
            Weight::Decide,
            setting,
            "put the authorities into one file; the first one is named",
        );
    }
    if let Some(setting) = settings
        .get("entra_id_allowed_tenants")
        .filter(|setting| setting.values.len() > 1)
    {
        remarks.of(
            Weight::Decide,
            setting,
            "each tenant is an issuer of its own; add one entry of `issuers` for each",
        );
    }
    if let Some(setting) = settings.get("user_id_claim").filter(|setting| setting.text() != "sub") {
        let message = "the gate identifies users by `sub`, which never changes; set `issuers[].claims.subject` only for a claim that is as unique";
        remarks.of(Weight::Decide, setting, message);
    }
    match settings.switch("skip_jwt_bearer_tokens") {
        Some(setting) => remarks.of(Weight::Note, setting, "bearer tokens of `issuers` are always accepted"),
        None => remarks.0.push(super::Remark {
            weight: Weight::Note,
            setting: String::new(),
            line: None,
            message: "oauth2-proxy took no bearer tokens; to accept them, name the audience of your API in `issuers[].audiences`"
                .to_owned(),
        }),
    }
}

/// The signature algorithms that the gate accepts, too; none: its default.
fn algorithms(settings: &Settings, remarks: &mut Remarks) -> Vec<String> {
    let wanted = settings.list("oidc_enabled_signing_algs");
    let algorithms: Vec<String> = wanted
        .iter()
        .filter(|name| ALGORITHMS.contains(&name.as_str()))
        .cloned()
        .collect();
    if let Some(setting) = settings
        .get("oidc_enabled_signing_algs")
        .filter(|_| algorithms.len() < wanted.len())
    {
        remarks.of(
            Weight::Decide,
            setting,
            "some of these algorithms are not accepted: the gate verifies asymmetric signatures",
        );
    }
    algorithms
}

fn secret(settings: &Settings, remarks: &mut Remarks) {
    if let Some(setting) = settings.get("client_secret") {
        let message = format!("is not printed: put it into `{SECRET_FILE}`");
        remarks.of(Weight::Decide, setting, message);
    } else if settings.get("client_secret_file").is_none() {
        remarks.missing(&format!(
            "the client's secret: put it into `{SECRET_FILE}`, or name its file in `client_secret_file`"
        ));
    }
    for name in ["jwt_key", "jwt_key_file"] {
        if let Some(setting) = settings.get(name) {
            remarks.of(
                Weight::Decide,
                setting,
                "a key of the client must be P-256, in `login.providers.*.client_key_file`",
            );
        }
    }
}

impl Provider<'_> {
    pub fn write(&self, yaml: &mut Yaml) {
        self.write_issuers(yaml);
        self.write_login(yaml);
    }

    fn write_issuers(&self, yaml: &mut Yaml) {
        let settings = self.settings;
        yaml.line(0, "issuers:");
        yaml.line(2, "- name: main");
        let issuer = format!("issuer: {}", quoted(&over_tls(&self.issuer)));
        match settings.get("oidc_issuer_url").or_else(|| settings.get("provider")) {
            Some(setting) => yaml.from(4, &issuer, setting),
            None => yaml.explained(4, &issuer, "provider: google, which is oauth2-proxy's default"),
        }
        let client = settings.get("client_id").map_or("client-id", Setting::text);
        // SECURITY: an ID token of the login is a bearer token only where it was one before
        match settings.switch("skip_jwt_bearer_tokens") {
            Some(setting) => {
                let mut audiences = vec![client];
                audiences.extend(settings.list("oidc_extra_audiences").iter().map(String::as_str));
                yaml.from(4, &format!("audiences: {}", list(&audiences)), setting);
            }
            None => yaml.explained(
                4,
                &format!("audiences: {}", list(&[NO_AUDIENCE])),
                "no bearer tokens: skip_jwt_bearer_tokens is off",
            ),
        }
        if let Some(setting) = settings.get("oidc_jwks_url") {
            yaml.from(4, &format!("jwks: {{ url: {} }}", quoted(&over_tls(setting.text()))), setting);
        }
        if !self.algorithms.is_empty() {
            yaml.line(4, &format!("algorithms: {}", list(&self.algorithms)));
        }
        if let Some(setting) = settings.get("provider_ca_files") {
            yaml.from(4, &format!("ca_file: {}", quoted(setting.text())), setting);
        }
        let groups = settings.get("oidc_groups_claim");
        let mut roles = vec![groups.map_or("groups", Setting::text)];
        if settings
            .get("provider")
            .is_some_and(|setting| setting.text() == "keycloak-oidc")
        {
            roles.push("realm_access.roles");
        }
        yaml.explained(4, &format!("claims: {{ roles: {} }}", list(&roles)), "groups are roles here");
        for (number, extra) in settings.list("extra_jwt_issuers").iter().enumerate() {
            if let Some((issuer, audience)) = extra.rsplit_once('=') {
                yaml.line(2, &format!("- name: extra-{}", number + 1));
                yaml.explained(4, &format!("issuer: {}", quoted(issuer)), "extra_jwt_issuers");
                yaml.line(4, &format!("audiences: {}", list(&[audience])));
                yaml.line(4, &format!("claims: {{ roles: {} }}", list(&roles)));
            }
        }
    }

    fn write_login(&self, yaml: &mut Yaml) {
        let settings = self.settings;
        yaml.line(0, "login:");
        yaml.line(2, "default: main");
        yaml.line(2, "providers:");
        yaml.line(4, "main:");
        yaml.line(6, "issuer: main");
        let client = settings.get("client_id").map_or("client-id", Setting::text);
        yaml.line(6, &format!("client_id: {}", quoted(client)));
        match settings.get("client_secret_file") {
            Some(setting) => yaml.from(6, &format!("client_secret_file: {}", quoted(setting.text())), setting),
            None => yaml.explained(
                6,
                &format!("client_secret_file: {}", quoted(SECRET_FILE)),
                "put the client's secret there",
            ),
        }
        if let Some(setting) = settings.get("provider_display_name") {
            yaml.from(6, &format!("title: {}", quoted(setting.text())), setting);
        }
        if let Some(setting) = settings.get("scope") {
            let scopes: Vec<&str> = setting.text().split([' ', '+']).filter(|scope| !scope.is_empty()).collect();
            yaml.from(6, &format!("scopes: {}", list(&scopes)), setting);
        }
        if let Some(setting) = settings.switch("pass_access_token") {
            yaml.from(6, "pass_access_token: true", setting);
        }
        let parameters = [
            ("prompt", "prompt"),
            ("acr_values", "acr_values"),
            ("auth_request_response_mode", "response_mode"),
        ];
        let parameters = given(settings, &parameters, str::to_owned);
        if !parameters.is_empty() {
            yaml.explained(
                6,
                &format!("authorization_params: {{ {} }}", parameters.join(", ")),
                "prompt, acr_values, auth-request-response-mode",
            );
        }
        if settings.switch("skip_oidc_discovery").is_some() {
            let endpoints = [
                ("login_url", "authorization"),
                ("redeem_url", "token"),
                ("profile_url", "userinfo"),
            ];
            let endpoints = given(settings, &endpoints, over_tls);
            if !endpoints.is_empty() {
                yaml.explained(
                    6,
                    &format!("endpoints: {{ {} }}", endpoints.join(", ")),
                    "skip_oidc_discovery: login_url, redeem_url, profile_url",
                );
            }
        }
    }
}
