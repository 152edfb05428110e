//! Reads oauth2-proxy's alpha configuration (YAML) into the settings of the TOML file.
//!
//! A member that has no such setting is named. An array of providers counts with its first one, as in oauth2-proxy.

use serde_json::{Map, Value};

use super::settings::{Setting, Settings};
use super::{Remarks, Weight};

/// Members of a provider, and the settings that they are.
const PROVIDER: &[(&str, &str)] = &[
    ("provider", "provider"),
    ("name", "provider_display_name"),
    ("clientID", "client_id"),
    ("clientSecret", "client_secret"),
    ("clientSecretFile", "client_secret_file"),
    ("caFiles", "provider_ca_files"),
    ("loginURL", "login_url"),
    ("redeemURL", "redeem_url"),
    ("profileURL", "profile_url"),
    ("validateURL", "validate_url"),
    ("scope", "scope"),
    ("allowedGroups", "allowed_groups"),
    ("code_challenge_method", "code_challenge_method"),
    ("backendLogoutURL", "backend_logout_url"),
    ("oidcConfig.issuerURL", "oidc_issuer_url"),
    ("oidcConfig.jwksURL", "oidc_jwks_url"),
    ("oidcConfig.skipDiscovery", "skip_oidc_discovery"),
    ("oidcConfig.emailClaim", "oidc_email_claim"),
    ("oidcConfig.groupsClaim", "oidc_groups_claim"),
    ("oidcConfig.userIDClaim", "user_id_claim"),
    ("oidcConfig.audienceClaims", "oidc_audience_claims"),
    ("oidcConfig.extraAudiences", "oidc_extra_audiences"),
    ("oidcConfig.enabledSigningAlgs", "oidc_enabled_signing_algs"),
    ("oidcConfig.publicKeyFiles", "oidc_public_key_files"),
    (
        "oidcConfig.insecureAllowUnverifiedEmail",
        "insecure_oidc_allow_unverified_email",
    ),
    (
        "oidcConfig.insecureSkipIssuerVerification",
        "insecure_oidc_skip_issuer_verification",
    ),
    ("oidcConfig.insecureSkipNonce", "insecure_oidc_skip_nonce"),
    ("azureConfig.tenant", "azure_tenant"),
    ("microsoftEntraIDConfig.allowedTenants", "entra_id_allowed_tenants"),
    ("keycloakConfig.groups", "keycloak_groups"),
    ("keycloakConfig.roles", "allowed_roles"),
    ("gitlabConfig.group", "gitlab_groups"),
    ("gitlabConfig.projects", "gitlab_projects"),
    ("googleConfig.group", "google_groups"),
    ("githubConfig.org", "github_org"),
    ("githubConfig.team", "github_team"),
    ("githubConfig.users", "github_users"),
];

const SERVER: &[(&str, &str)] = &[
    ("bindAddress", "http_address"),
    ("secureBindAddress", "https_address"),
    ("tls.key.fromFile", "tls_key_file"),
    ("tls.cert.fromFile", "tls_cert_file"),
];

const SECTIONS: [&str; 7] = [
    "upstreamConfig",
    "injectRequestHeaders",
    "injectResponseHeaders",
    "server",
    "metricsServer",
    "providers",
    "upstreams",
];

/// `None`: the text is no alpha configuration.
pub(super) fn read(text: &str, remarks: &mut Remarks) -> Option<Settings> {
    let root: Value = serde_saphyr::from_str(text).ok()?;
    read_value(&root, text, remarks)
}

/// Reads an alpha configuration that stands in `text`.
pub(super) fn read_value(root: &Value, text: &str, remarks: &mut Remarks) -> Option<Settings> {
    let root = root
        .as_object()
        .filter(|root| SECTIONS.iter().any(|section| root.contains_key(*section)))?;
    let mut reader = AlphaReader {
        settings: Settings::default(),
        text,
        remarks,
    };
    for (name, value) in root {
        match (name.as_str(), value) {
            ("providers", Value::Array(providers)) => {
                if let Some(provider) = providers.first() {
                    reader.members("providers", provider, PROVIDER);
                }
            }
            ("server", value) => reader.members("server", value, SERVER),
            ("metricsServer", value) => reader.members("metricsServer", value, &[("bindAddress", "metrics_address")]),
            ("upstreamConfig", Value::Object(config)) => {
                let upstreams = config.get("upstreams").and_then(Value::as_array);
                reader.upstreams(upstreams.map_or(&[], Vec::as_slice));
            }
            ("upstreams", Value::Array(upstreams)) => reader.upstreams(upstreams),
            ("injectRequestHeaders" | "injectResponseHeaders", Value::Array(headers)) => reader.headers(name, headers),
            _ => reader.unread(name),
        }
    }
    Some(reader.settings)
}

struct AlphaReader<'a, 'r> {
    settings: Settings,
    text: &'a str,
    remarks: &'r mut Remarks,
}

impl AlphaReader<'_, '_> {
    fn members(&mut self, section: &str, value: &Value, known: &[(&str, &str)]) {
        let Value::Object(members) = value else { return };
        for (path, value) in leaves(members) {
            let found = known.iter().find(|(name, _)| *name == path);
            match found {
                Some((_, setting)) => {
                    let line = self.line_of(&path);
                    let key = self.settings.add(setting, texts(value), line);
                    if let Some(setting) = self.settings.0.get_mut(&key) {
                        setting.written = format!("{section}.{path}");
                    }
                }
                None if path == "id" => {}
                None => self.unread(&format!("{section}.{path}")),
            }
        }
    }

    fn upstreams(&mut self, upstreams: &[Value]) {
        for upstream in upstreams {
            let text = |name: &str| upstream.get(name).and_then(Value::as_str).unwrap_or_default();
            let path = text("path");
            let uri = match upstream.get("static") {
                Some(Value::Bool(true)) => "static://200",
                _ => text("uri").trim_end_matches('/'),
            };
            let line = self.line_of("uri");
            // a path of the URI, or a rewriting, is another path at the app
            let has_path = url::Url::parse(uri).is_ok_and(|url| url.path().len() > 1);
            let name =
                match !text("rewriteTarget").is_empty() || (has_path && !uri.starts_with("static")) || path.starts_with('^') {
                    true => "rewritten_upstreams",
                    false => "upstreams",
                };
            let value = if uri.starts_with("static") {
                uri.to_owned()
            } else {
                format!("{uri}{path}")
            };
            let key = self.settings.add(name, vec![value], line);
            if let Some(setting) = self.settings.0.get_mut(&key) {
                setting.written = "upstreams".to_owned();
            }
            for name in ["insecureSkipTLSVerify"] {
                if upstream.get(name) == Some(&Value::Bool(true)) {
                    let line = self.line_of(name);
                    self.settings
                        .add("ssl_upstream_insecure_skip_verify", vec!["true".to_owned()], line);
                }
            }
        }
    }

    fn headers(&mut self, section: &str, headers: &[Value]) {
        for header in headers {
            let name = header.get("name").and_then(Value::as_str).unwrap_or_default();
            let setting = Setting {
                written: format!("{section}: {name}"),
                line: self.line_of(name),
                values: Vec::new(),
            };
            let listed = [
                "X-Forwarded-User",
                "X-Forwarded-Email",
                "X-Forwarded-Groups",
                "X-Forwarded-Preferred-Username",
            ];
            let is_listed = listed.iter().any(|listed| name.eq_ignore_ascii_case(listed))
                || name.to_ascii_lowercase().starts_with("x-auth-request-");
            if !is_listed {
                let message = "the app gets no header of this name; read the identity headers or the assertion (docs/apps.md)";
                self.remarks.of(Weight::Differs, &setting, message);
            }
        }
    }

    fn unread(&mut self, path: &str) {
        let last = path.rsplit('.').next().unwrap_or(path);
        let setting = Setting {
            written: path.to_owned(),
            line: self.line_of(last),
            values: Vec::new(),
        };
        self.remarks.of(Weight::Differs, &setting, "has no counterpart");
    }

    /// The first line that holds the last member of the path.
    fn line_of(&self, path: &str) -> Option<usize> {
        let last = path.rsplit('.').next().unwrap_or(path);
        let found = self.text.lines().position(|line| !last.is_empty() && line.contains(last));
        found.map(|number| number + 1)
    }
}

/// Values by their dotted paths.
fn leaves(members: &Map<String, Value>) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for (name, value) in members {
        match value {
            Value::Object(inner) => {
                let below = leaves(inner).into_iter();
                found.extend(below.map(|(path, value)| (format!("{name}.{path}"), value)));
            }
            value => found.push((name.clone(), value)),
        }
    }
    found
}

/// The texts of a value, or of the items of a list.
pub(super) fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::String(text) => vec![text.clone()],
        Value::Null => Vec::new(),
        other => vec![other.to_string()],
    }
}
