//! `login`: the ways to log in, which are OIDC providers and local accounts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cedargate_policy::scope::IssuerScope;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::issuers::{Issuer, RawClaims};
use super::portals::Portal;
use crate::config::Secret;
use crate::config::check::Checker;
use crate::config::document::Document;
use crate::config::schema::hint;
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
    /// Users of local accounts: YAML, made with `cedargate user add`; watched.
    pub users_file: Option<PathBuf>,
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
}

#[derive(Clone, Debug)]
pub enum ProviderKind {
    Oidc {
        client_id: String,
        auth: ClientAuth,
        /// With `openid`.
        scopes: Vec<String>,
    },
    /// Accounts in this file.
    Local(PathBuf),
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
            users_file: None,
        }
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
    /// The names of the providers whose local accounts belong to no configured issuer. Each is also the name of an issuer without
    /// tokens.
    pub fn local_issuers(document: &Document) -> impl Iterator<Item = &str> {
        let local = document
            .login
            .providers
            .iter()
            .filter(|(_, provider)| provider.users_file.is_some() && provider.issuer.is_none());
        local.map(|(name, _)| name.as_str())
    }

    pub fn login(&mut self, document: &Document, issuers: &mut Vec<Issuer>) -> Option<Login> {
        let before = self.errors.iter().count();
        let mut providers = Vec::new();
        for (name, provider) in &document.login.providers {
            let section = format!("login.providers.{name}");
            self.name(&section, name);
            let found = match &provider.users_file {
                Some(file) => self.local(name, provider, file, issuers, document),
                None => self.oidc(&section, provider, document),
            };
            providers.extend(found.map(|trusted| Provider {
                name: Arc::from(name.as_str()),
                title: provider.title.clone().unwrap_or_else(|| name.clone()),
                issuer: trusted.issuer,
                kind: trusted.kind,
            }));
        }
        if !document.login.providers.is_empty() && document.public_url.is_none() {
            self.error("public_url", "is missing; a login must know where browsers come back to");
        }
        let default = document.login.default.as_deref().and_then(|name| {
            let known: Vec<&str> = document.login.providers.keys().map(String::as_str).collect();
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
        issuers: &mut Vec<Issuer>,
        document: &Document,
    ) -> Option<TrustedProvider> {
        let section = format!("login.providers.{name}");
        for (key, given) in [
            ("client_id", raw.client_id.is_some()),
            (
                "client_secret",
                raw.client_secret.is_some() || raw.client_secret_file.is_some(),
            ),
            ("client_key_file", raw.client_key_file.is_some()),
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
            Some(issuer) => self.issuer_of_accounts(&format!("{section}.issuer"), issuer, document)?,
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

    /// The index of the configured issuer whose users the accounts of a file are. The file knows the default claims only.
    fn issuer_of_accounts(&mut self, key: &str, name: &str, document: &Document) -> Option<usize> {
        let index = self.issuer_named(key, name, document)?;
        let claims = &document.issuers.get(index)?.claims;
        let default = RawClaims::default();
        if (&claims.subject, &claims.tenant, &claims.roles) != (&default.subject, &default.tenant, &default.roles) {
            let message =
                format!("`{name}` maps claims (issuers[{index}].claims) that accounts of a file do not have; remove this key");
            self.error(key, message);
            return None;
        }
        Some(index)
    }

    /// The index of an issuer that a provider names.
    fn issuer_named(&mut self, key: &str, name: &str, document: &Document) -> Option<usize> {
        let mut names = document.issuers.iter().map(|issuer| issuer.name.as_deref());
        let found = names.position(|one| one == Some(name));
        if found.is_none() {
            let known: Vec<&str> = document.issuers.iter().filter_map(|issuer| issuer.name.as_deref()).collect();
            self.error(key, format!("there is no issuer `{name}`; {}", hint(name, &known)));
        }
        found
    }

    fn oidc(&mut self, section: &str, provider: &RawProvider, document: &Document) -> Option<TrustedProvider> {
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
            Some(name) => self.issuer_named(&key("issuer"), name, document),
        };
        if provider.client_id.is_none() {
            self.error(&key("client_id"), "is missing: the gate's client at the provider");
        }
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
        Some(TrustedProvider {
            kind: ProviderKind::Oidc {
                client_id: provider.client_id.clone()?,
                auth: auth?,
                scopes,
            },
            issuer: issuer?,
        })
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
