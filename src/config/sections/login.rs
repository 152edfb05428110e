//! `login`: the ways to log in, which are OIDC providers and local accounts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cedargate_policy::scope::IssuerScope;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::egress::Egress;
use super::issuer_claims::RawClaims;
use super::issuers::{Issuer, KeyTransport, RawIssuer};
use super::portals::Portal;
use crate::config::Secret;
use crate::config::check::{Checker, is_loopback};
use crate::config::suggestion::hint;
use crate::config::values::SecretText;

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLogin {
    /// The provider of the portals whose `portal.yaml` names none. Absent: such portals never redirect to a login.
    pub default: Option<String>,
    /// Providers to log in, by name; `portal.yaml` names the one that a portal uses.
    pub providers: BTreeMap<String, RawProvider>,
}

/// An OIDC provider (`issuer`, `client_id`), or local accounts (`users_file`).
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawProvider {
    /// The name on the login page. Absent: its key.
    pub title: Option<String>,
    /// Name of the issuer, one of `issuers`. Absent beside `users_file`: the file is an issuer of its own.
    pub issuer: Option<String>,
    /// The gate's client at the provider.
    pub client_id: Option<String>,
    /// Its secret. Better kept in `client_secret_file`.
    #[schemars(extend("writeOnly" = true))]
    pub client_secret: Option<SecretText>,
    /// The same as a file; read at each use.
    pub client_secret_file: Option<PathBuf>,
    /// PKCS#8 PEM of the client's P-256 key, for `private_key_jwt`; read at each use.
    pub client_key_file: Option<PathBuf>,
    /// The proof of identity of the gate. Absent: `private_key_jwt` with a key, `client_secret_basic` with a secret.
    pub auth_method: Option<RawAuthMethod>,
    /// Scopes to ask for; the gate always adds `openid`.
    pub scopes: Vec<String>,
    /// The token or endpoint whose claims are mapped.
    pub claims_from: ClaimsFrom,
    /// More parameters of the authorization request, such as `prompt`, `access_type`, `audience` or `response_mode:
    /// form_post`.
    #[schemars(extend("x-verbatim-keys" = true))]
    pub authorization_params: BTreeMap<String, String>,
    /// URL of the discovery document, such as one inside the cluster. Absent: at `issuer`.
    pub discovery_url: Option<String>,
    /// Endpoints in place of those of the discovery document.
    pub endpoints: RawEndpoints,
    /// PEM file of the only authorities that the gate trusts for requests to the provider. Absent: as for the issuer.
    pub ca_file: Option<PathBuf>,
    /// HTTP proxy for requests to the provider, such as `http://proxy.example.com:3128`. Absent: as for the issuer.
    pub proxy: Option<String>,
    /// Allow requests to the provider without TLS. Client secret, codes and tokens can then be read on the way.
    pub danger_insecure_endpoints: bool,
    /// Pass the provider's access token to the app, in the header `x-forwarded-access-token`.
    pub pass_access_token: bool,
    /// Keep the session cookie when the browser closes, until the session's absolute timeout.
    pub persistent: bool,
    /// Users of local accounts: YAML, made with `cedargate user add`; watched.
    pub users_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawEndpoints {
    /// URL at which browsers log in. With this and `token`, the gate reads no discovery document.
    pub authorization: Option<String>,
    /// URL at which the gate redeems codes and refresh tokens.
    pub token: Option<String>,
    /// URL at which the gate asks for claims.
    pub userinfo: Option<String>,
    /// URL at which browsers log out.
    pub end_session: Option<String>,
}

/// The claims of a login that are mapped. The claims that identify user and login (`sub`, `acr`, `auth_time`, `sid` …)
/// always come from the ID token.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimsFrom {
    /// The ID token; userinfo adds mapped claims that it lacks.
    #[default]
    IdToken,
    /// The access token, which must be a JWT of the issuer; it goes before the ID token.
    AccessToken,
    /// Userinfo; it goes before the ID token.
    Userinfo,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RawAuthMethod {
    /// The secret in `Authorization: Basic`.
    ClientSecretBasic,
    /// The secret in the form.
    ClientSecretPost,
    /// A JWT signed with the client's key (RFC 7523).
    PrivateKeyJwt,
}

#[derive(Clone, Debug, Default)]
pub struct Login {
    /// The provider of portals that name none: an index into `providers`.
    default: Option<usize>,
    /// In the order of their names, which are `[a-z0-9_-]+`.
    pub providers: Vec<Provider>,
}

impl Login {
    /// The provider of a portal that names none. `None` if the portal does not trust it.
    pub fn default_of(&self, portal: &Portal) -> Option<&Provider> {
        let provider = self.providers.get(self.default?)?;
        portal.issuers.contains(&provider.issuer).then_some(provider)
    }
}

/// A way to log in.
#[derive(Clone, Debug)]
pub struct Provider {
    pub name: Arc<str>,
    pub title: String,
    /// Index into `Config::issuers`.
    pub issuer: usize,
    pub kind: ProviderKind,
    pub cookie: SessionCookie,
}

/// The life of a session cookie in the browser.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SessionCookie {
    UntilBrowserCloses,
    /// Until the session's absolute timeout.
    Persistent,
}

#[derive(Clone, Debug)]
pub enum ProviderKind {
    Oidc(Box<OidcClient>),
    /// Accounts in this file.
    Local(PathBuf),
}

/// The gate as the client of an OIDC provider.
#[derive(Clone, Debug)]
pub struct OidcClient {
    pub client_id: String,
    pub auth: ClientAuth,
    /// With `openid`.
    pub scopes: Vec<String>,
    pub claims_from: ClaimsFrom,
    /// None of them is one that the gate sets itself.
    pub authorization_params: BTreeMap<String, String>,
    /// `None`: at the issuer.
    pub discovery_url: Option<String>,
    pub endpoints: Endpoints,
    /// The transports over which discovery and endpoints may be reached.
    pub transport: KeyTransport,
    /// What it leaves open is as for the issuer.
    pub egress: Egress,
    pub access_token: AccessTokenUse,
}

/// The parties that see the access token of a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AccessTokenUse {
    GateOnly,
    /// Every request of the session carries it to the app.
    PassToApp,
}

/// Endpoints of a provider that the configuration gives.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    pub authorization: Option<Url>,
    pub token: Option<Url>,
    pub userinfo: Option<Url>,
    pub end_session: Option<Url>,
}

/// The proof of identity that the gate gives to a provider.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    SecretBasic(Secret),
    SecretPost(Secret),
    /// PKCS#8 PEM of a P-256 key.
    PrivateKeyJwt(PathBuf),
}

/// A provider's kind, and the index of the issuer that vouches for its users.
struct TrustedProvider {
    issuer: usize,
    kind: ProviderKind,
}

impl Default for RawProvider {
    fn default() -> Self {
        Self {
            title: None,
            issuer: None,
            client_id: None,
            client_secret: None,
            client_secret_file: None,
            client_key_file: None,
            auth_method: None,
            scopes: ["openid", "profile", "email"].map(str::to_owned).to_vec(),
            claims_from: ClaimsFrom::default(),
            authorization_params: BTreeMap::new(),
            discovery_url: None,
            endpoints: RawEndpoints::default(),
            ca_file: None,
            proxy: None,
            danger_insecure_endpoints: false,
            pass_access_token: false,
            persistent: false,
            users_file: None,
        }
    }
}

/// Parameters of an authorization request that bind it to its login.
const OWN_PARAMETERS: [&str; 9] = [
    "response_type",
    "client_id",
    "redirect_uri",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "request",
    "request_uri",
];
const RESPONSE_MODES: [&str; 2] = ["query", "form_post"];
/// Bytes of the value of an `authorization_params` entry.
const PARAMETER_BYTES_MAX: usize = 1024;

impl RawEndpoints {
    fn is_given(&self) -> bool {
        [&self.authorization, &self.token, &self.userinfo, &self.end_session]
            .iter()
            .any(|endpoint| endpoint.is_some())
    }
}

impl RawLogin {
    /// The names of the providers whose local accounts belong to no configured issuer. Each is also the name of an
    /// issuer without tokens.
    pub fn local_issuers(&self) -> impl Iterator<Item = &str> {
        let local = self
            .providers
            .iter()
            .filter(|(_, provider)| provider.users_file.is_some() && provider.issuer.is_none());
        local.map(|(name, _)| name.as_str())
    }
}

impl RawProvider {
    /// True if a key is given that only OIDC providers have.
    fn has_client(&self) -> bool {
        self.client_id.is_some()
            || self.client_secret.is_some()
            || self.client_secret_file.is_some()
            || self.client_key_file.is_some()
    }
}

impl Checker<'_> {
    /// `listed`: the issuers of the file. `issuers` gets one more for each provider whose local accounts belong to none
    /// of them.
    pub fn login(
        &mut self,
        login: &RawLogin,
        public_url: Option<&str>,
        listed: &[RawIssuer],
        issuers: &mut Vec<Issuer>,
    ) -> Option<Login> {
        let before = self.errors.iter().count();
        let mut providers = Vec::new();
        for (name, provider) in &login.providers {
            let section = format!("login.providers.{name}");
            self.name(&section, name);
            let found = match &provider.users_file {
                Some(file) => self.local(name, provider, file, listed, issuers),
                None => self.oidc(&section, provider, listed),
            };
            providers.extend(found.map(|trusted| Provider {
                name: Arc::from(name.as_str()),
                title: provider.title.clone().unwrap_or_else(|| name.clone()),
                issuer: trusted.issuer,
                kind: trusted.kind,
                cookie: if provider.persistent {
                    SessionCookie::Persistent
                } else {
                    SessionCookie::UntilBrowserCloses
                },
            }));
        }
        if !login.providers.is_empty() && public_url.is_none() {
            self.error("public_url", "is missing; a login must know where browsers come back to");
        }
        let default = login.default.as_deref().and_then(|name| {
            let known: Vec<&str> = login.providers.keys().map(String::as_str).collect();
            if !known.contains(&name) {
                self.error(
                    "login.default",
                    format!("there is no provider `{name}`; {}", hint(name, &known)),
                );
            }
            providers.iter().position(|provider| *provider.name == *name)
        });
        (self.errors.iter().count() == before).then_some(Login { default, providers })
    }

    fn local(
        &mut self,
        name: &str,
        raw: &RawProvider,
        file: &Path,
        listed: &[RawIssuer],
        issuers: &mut Vec<Issuer>,
    ) -> Option<TrustedProvider> {
        let section = format!("login.providers.{name}");
        for (key, given) in [
            ("client_id", raw.client_id.is_some()),
            (
                "client_secret",
                raw.client_secret.is_some() || raw.client_secret_file.is_some(),
            ),
            ("client_key_file", raw.client_key_file.is_some()),
            ("authorization_params", !raw.authorization_params.is_empty()),
            ("claims_from", raw.claims_from != ClaimsFrom::default()),
            ("discovery_url", raw.discovery_url.is_some()),
            ("endpoints", raw.endpoints.is_given()),
            ("ca_file", raw.ca_file.is_some()),
            ("proxy", raw.proxy.is_some()),
            ("danger_insecure_endpoints", raw.danger_insecure_endpoints),
            ("pass_access_token", raw.pass_access_token),
        ] {
            if given {
                self.error(
                    &format!("{section}.{key}"),
                    "has no effect beside `users_file`; remove one of them",
                );
            }
        }
        let path = self.path(&format!("{section}.users_file"), file);
        let issuer = match &raw.issuer {
            Some(issuer) => self.issuer_of_accounts(&format!("{section}.issuer"), issuer, listed)?,
            None if issuers.iter().any(|issuer| &*issuer.scope.name == name) => {
                let message = format!(
                    "an issuer is called `{name}`, too; choose another name, or write `issuer: {name}` if the accounts are its users"
                );
                self.error(&section, message);
                return None;
            }
            None => {
                issuers.push(local_issuer(name));
                issuers.len() - 1
            }
        };
        Some(TrustedProvider {
            issuer,
            kind: ProviderKind::Local(path),
        })
    }

    /// The index of the configured issuer whose users the accounts of a file are. The file knows the default claims
    /// only.
    fn issuer_of_accounts(&mut self, key: &str, name: &str, listed: &[RawIssuer]) -> Option<usize> {
        let index = self.issuer_named(key, name, listed)?;
        let claims = &listed.get(index)?.identity.claims;
        if *claims != RawClaims::default() {
            let message =
                format!("`{name}` maps claims (issuers[{index}].claims) that accounts of a file do not have; remove this key");
            self.error(key, message);
            return None;
        }
        Some(index)
    }

    /// The index of an issuer that a provider names.
    fn issuer_named(&mut self, key: &str, name: &str, listed: &[RawIssuer]) -> Option<usize> {
        let mut names = listed.iter().map(|issuer| issuer.name.as_deref());
        let found = names.position(|one| one == Some(name));
        if found.is_none() {
            let known: Vec<&str> = listed.iter().filter_map(|issuer| issuer.name.as_deref()).collect();
            self.error(key, format!("there is no issuer `{name}`; {}", hint(name, &known)));
        }
        found
    }

    fn oidc(&mut self, section: &str, provider: &RawProvider, listed: &[RawIssuer]) -> Option<TrustedProvider> {
        let key = |name: &str| format!("{section}.{name}");
        let issuer = match provider.issuer.as_deref() {
            None => {
                let message = "is missing: name one of `issuers`, or set `users_file` for local accounts";
                self.error(&key("issuer"), message);
                // without any key of an OIDC provider, further messages about its missing keys would only distract
                if !provider.has_client() {
                    return None;
                }
                None
            }
            Some(name) => self.issuer_named(&key("issuer"), name, listed),
        };
        if provider.client_id.is_none() {
            self.error(&key("client_id"), "is missing: the gate's client at the provider");
        }
        let client = self.client(section, provider);
        Some(TrustedProvider {
            kind: ProviderKind::Oidc(Box::new(client?)),
            issuer: issuer?,
        })
    }

    fn client(&mut self, section: &str, provider: &RawProvider) -> Option<OidcClient> {
        let auth = self.client_auth(section, provider);
        for (n, scope) in provider.scopes.iter().enumerate() {
            if scope.is_empty() || !scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\') {
                self.error(&format!("{section}.scopes[{n}]"), format!("`{scope}` is not a valid scope"));
            }
        }
        let mut scopes = provider.scopes.clone();
        if !scopes.iter().any(|scope| scope == "openid") {
            scopes.insert(0, "openid".to_owned());
        }
        self.authorization_params(section, &provider.authorization_params);
        let transport = if provider.danger_insecure_endpoints {
            KeyTransport::DangerPlain
        } else {
            KeyTransport::Tls
        };
        let discovery_url = provider.discovery_url.as_deref();
        let is_usable = discovery_url.is_none_or(|url| {
            self.provider_url(&format!("{section}.discovery_url"), url, transport)
                .is_some()
        });
        let endpoints = self.endpoints(&format!("{section}.endpoints"), &provider.endpoints, transport);
        let egress = self.egress(section, provider.ca_file.as_deref(), provider.proxy.as_deref());
        Some(OidcClient {
            client_id: provider.client_id.clone()?,
            auth: auth?,
            scopes,
            claims_from: provider.claims_from,
            authorization_params: provider.authorization_params.clone(),
            discovery_url: discovery_url.filter(|_| is_usable).map(str::to_owned),
            endpoints: endpoints?,
            transport,
            egress: egress?,
            access_token: if provider.pass_access_token {
                AccessTokenUse::PassToApp
            } else {
                AccessTokenUse::GateOnly
            },
        })
    }

    fn authorization_params(&mut self, section: &str, params: &BTreeMap<String, String>) {
        for (name, value) in params {
            let key = format!("{section}.authorization_params.{name}");
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
            if !is_name {
                self.error(
                    &key,
                    format!("`{name}` is not a parameter name; use letters, digits, `_`, `-` and `.`"),
                );
            } else if OWN_PARAMETERS.contains(&name.as_str()) {
                self.error(&key, format!("the gate sets `{name}` itself; remove it"));
            } else if name == "scope" {
                self.error(&key, format!("list the scopes in `{section}.scopes`"));
            } else if name == "response_mode" && !RESPONSE_MODES.contains(&value.as_str()) {
                let message = format!("`{value}` does not reach the gate; use `query` or `form_post`");
                self.error(&key, message);
            } else if value.len() > PARAMETER_BYTES_MAX || value.chars().any(char::is_control) {
                let message = format!("is longer than {PARAMETER_BYTES_MAX} bytes or holds a control character");
                self.error(&key, message);
            }
        }
    }

    fn endpoints(&mut self, section: &str, raw: &RawEndpoints, transport: KeyTransport) -> Option<Endpoints> {
        let before = self.errors.iter().count();
        let mut endpoint = |name: &str, text: Option<&String>| {
            let key = format!("{section}.{name}");
            text.and_then(|text| self.provider_url(&key, text, transport))
        };
        let endpoints = Endpoints {
            authorization: endpoint("authorization", raw.authorization.as_ref()),
            token: endpoint("token", raw.token.as_ref()),
            userinfo: endpoint("userinfo", raw.userinfo.as_ref()),
            end_session: endpoint("end_session", raw.end_session.as_ref()),
        };
        (self.errors.iter().count() == before).then_some(endpoints)
    }

    /// A URL that secrets, codes or browsers are sent to.
    fn provider_url(&mut self, key: &str, text: &str, transport: KeyTransport) -> Option<Url> {
        let url = self.parse_url(key, text)?;
        let is_safe =
            url.scheme() == "https" || (url.scheme() == "http" && (is_loopback(&url) || transport == KeyTransport::DangerPlain));
        if url.host().is_none() || !is_safe || url.fragment().is_some() {
            let message = "must be `https://` without a fragment: secrets and codes are sent there; \
                           use https, a loopback host, or set `danger_insecure_endpoints: true`";
            self.error(key, message);
            return None;
        }
        Some(url)
    }

    fn client_auth(&mut self, section: &str, raw: &RawProvider) -> Option<ClientAuth> {
        let secret = self.secret(
            &format!("{section}.client_secret"),
            raw.client_secret.as_ref(),
            raw.client_secret_file.as_deref(),
        )?;
        let key = self.optional_path(&format!("{section}.client_key_file"), raw.client_key_file.as_deref());
        match (raw.auth_method, secret, key) {
            (None | Some(RawAuthMethod::ClientSecretBasic), Some(secret), None) => Some(ClientAuth::SecretBasic(secret)),
            (Some(RawAuthMethod::ClientSecretPost), Some(secret), None) => Some(ClientAuth::SecretPost(secret)),
            (None | Some(RawAuthMethod::PrivateKeyJwt), None, Some(key)) => Some(ClientAuth::PrivateKeyJwt(key)),
            _ => {
                let message = "set `client_secret_file`, or `client_key_file` for `private_key_jwt`; exactly one of them";
                self.error(section, message);
                None
            }
        }
    }
}

fn local_issuer(name: &str) -> Issuer {
    Issuer::without_tokens(IssuerScope::new(
        name,
        format!("urn:cedargate:local:{name}"),
        vec!["cedargate".to_owned()],
    ))
}
