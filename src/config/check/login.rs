//! Ways to log in: OIDC providers and local accounts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cedargate_policy::scope::IssuerScope;

use super::Checker;
use crate::config::raw::{Raw, RawAuthMethod, RawIntrospection, RawProvider};
use crate::config::walk::hint;
use crate::config::{ClientAuth, IdentityPages, Introspection, Issuer, Login, Provider, ProviderKind};

/// Longer, and a token that was taken back would live on.
const INTROSPECTION_CACHE_MAX: Duration = Duration::from_secs(5 * 60);

impl Checker<'_> {
    /// Local accounts vouch for their users under the provider's own name: an issuer without tokens.
    pub fn local_issuers(raw: &Raw) -> impl Iterator<Item = &str> {
        let local = raw
            .login
            .providers
            .iter()
            .filter(|(_, provider)| provider.users_file.is_some());
        local.map(|(name, _)| name.as_str())
    }

    pub fn login(&mut self, raw: &Raw, issuers: &mut Vec<Issuer>) -> Option<Login> {
        let before = self.errors.iter().count();
        let mut providers = Vec::new();
        for (name, provider) in &raw.login.providers {
            let section = format!("login.providers.{name}");
            self.issuer_name(&section, name);
            let found = match &provider.users_file {
                Some(file) => self.local(&section, (name, provider), file, issuers),
                None => self.oidc(&section, provider, raw),
            };
            providers.extend(found.map(|(issuer, kind)| Provider {
                name: Arc::from(name.as_str()),
                title: provider.title.clone().unwrap_or_else(|| name.clone()),
                issuer,
                kind,
            }));
        }
        if !raw.login.providers.is_empty() && raw.public_url.is_none() {
            self.error("public_url", "is missing; a login must know where browsers come back to");
        }
        (self.errors.iter().count() == before).then_some(Login { providers })
    }

    fn local(
        &mut self,
        section: &str,
        (name, raw): (&str, &RawProvider),
        file: &str,
        issuers: &mut Vec<Issuer>,
    ) -> Option<(usize, ProviderKind)> {
        for (key, given) in [
            ("issuer", raw.issuer.is_some()),
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
        if issuers.iter().any(|issuer| &*issuer.scope.name == name) {
            self.error(section, format!("an issuer is called `{name}`, too; names must differ"));
            return None;
        }
        let path = self.path(&format!("{section}.users_file"), file);
        issuers.push(local_issuer(name));
        Some((issuers.len() - 1, ProviderKind::Local(path)))
    }

    fn oidc(&mut self, section: &str, provider: &RawProvider, raw: &Raw) -> Option<(usize, ProviderKind)> {
        let key = |name: &str| format!("{section}.{name}");
        let known: Vec<&str> = raw.issuers.iter().filter_map(|issuer| issuer.name.as_deref()).collect();
        let issuer = match provider.issuer.as_deref() {
            None => {
                let message = "is missing: name one of `issuers`, or set `users_file` for local accounts";
                self.error(&key("issuer"), message);
                // nothing says yet that it is an OIDC provider at all: what else that lacks would be noise
                let proof = (
                    &provider.client_secret,
                    &provider.client_secret_file,
                    &provider.client_key_file,
                );
                if let (None, (None, None, None)) = (&provider.client_id, proof) {
                    return None;
                }
                None
            }
            Some(name) => {
                let found = raw.issuers.iter().position(|issuer| issuer.name.as_deref() == Some(name));
                if found.is_none() {
                    let message = format!("there is no issuer `{name}`; {}", hint(name, &known));
                    self.error(&key("issuer"), message);
                }
                found
            }
        };
        if provider.client_id.is_none() {
            self.error(&key("client_id"), "is missing: the gate's client at the provider");
        }
        let auth = self.client_auth(section, provider);
        let mut scopes = provider.scopes.clone();
        if !scopes.iter().any(|scope| scope == "openid") {
            scopes.insert(0, "openid".to_owned());
        }
        for (n, scope) in scopes.iter().enumerate() {
            if scope.is_empty() || !scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\') {
                self.error(&format!("{section}.scopes[{n}]"), format!("`{scope}` is no scope"));
            }
        }
        let kind = ProviderKind::Oidc {
            client_id: provider.client_id.clone()?,
            auth: auth?,
            scopes,
        };
        Some((issuer?, kind))
    }

    fn client_auth(&mut self, section: &str, raw: &RawProvider) -> Option<ClientAuth> {
        let secret = self.secret(
            &format!("{section}.client_secret"),
            raw.client_secret.as_ref(),
            raw.client_secret_file.as_deref(),
        )?;
        let key: Option<PathBuf> = raw
            .client_key_file
            .as_ref()
            .map(|file| self.path(&format!("{section}.client_key_file"), file));
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

    pub fn identity(&mut self, raw: &Raw, prefix: Option<String>) -> Option<IdentityPages> {
        self.not_blank("identity.title", &raw.identity.title);
        let logo = raw.identity.logo.as_ref().map(|logo| self.path("identity.logo", logo));
        Some(IdentityPages {
            prefix: prefix?,
            title: raw.identity.title.clone(),
            logo,
        })
    }

    /// `None` if something was reported; `Some(None)` if there is none.
    pub fn introspection(&mut self, section: &str, raw: Option<&RawIntrospection>) -> Option<Option<Introspection>> {
        let Some(raw) = raw else { return Some(None) };
        let key = |name: &str| format!("{section}.{name}");
        let secret = self.secret(
            &key("client_secret"),
            raw.client_secret.as_ref(),
            raw.client_secret_file.as_deref(),
        )?;
        if secret.is_none() {
            self.error(
                &key("client_secret_file"),
                "is missing: nobody is told about tokens without one",
            );
        }
        if let Some(url) = &raw.url {
            self.secret_url(&key("url"), url)?;
        }
        Some(Some(Introspection {
            url: raw.url.clone(),
            client_id: raw.client_id.clone()?,
            client_secret: secret?,
            cache: self.at_most(&key("cache"), raw.cache, INTROSPECTION_CACHE_MAX),
        }))
    }

    /// A URL that secrets are sent to.
    fn secret_url(&mut self, key: &str, text: &str) -> Option<()> {
        let url = self.parse_url(key, text)?;
        if url.host().is_none() || !(url.scheme() == "https" || super::network::is_loopback(&url)) {
            self.error(key, "must be `https://`: a secret is sent there");
            return None;
        }
        Some(())
    }
}

fn local_issuer(name: &str) -> Issuer {
    Issuer::without_tokens(IssuerScope::new(
        name,
        format!("urn:cedargate:local:{name}"),
        vec!["cedargate".to_owned()],
    ))
}
