//! Checks every file that the configuration names for sessions, logins, tokens and pages, and reports all unusable ones.
//!
//! `validate` and `serve` call this before anything is bound. Each file is read by the function that the running gate reads
//! it with, so a file that passes here is a file that `serve` starts with.

use std::path::Path;

use crate::accounts::{Users, read as read_users};
use crate::authn::{AssertionError, AssertionKeys};
use crate::base::outbound::check_ca_file;
use crate::config::{ClientAuth, Config, ConfigErrors, Loaded, ProviderKind, Secret, SessionStore};
use crate::http::pages::Theme;
use crate::login::credential;
use crate::session;

/// An unusable file, by the configuration key that names it.
struct Unusable {
    key: String,
    message: String,
}

/// The unusable files, each with its key and the line of the configuration. Empty if all can be used.
pub(crate) fn check_files(loaded: &Loaded) -> ConfigErrors {
    let config = &loaded.config;
    let mut unusable = session_files(config);
    unusable.extend(provider_files(config));
    unusable.extend(token_files(config));
    if let Err(error) = Theme::load(&config.identity) {
        unusable.push(Unusable::new("identity.logo", error.problem()));
    }
    let mut errors = ConfigErrors::default();
    for Unusable { key, message } in unusable {
        let origin = loaded.places.get(&key).cloned();
        errors.add(&key, origin, message);
    }
    errors.sort();
    errors
}

impl Unusable {
    fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            message: message.into(),
        }
    }
}

fn session_files(config: &Config) -> Vec<Unusable> {
    let mut unusable = Vec::new();
    if let Some(path) = &config.sessions.key_file
        && let Err(error) = session::check_key_file(path)
    {
        unusable.push(Unusable::new("sessions.key_file", format!("`{}`: {error}", path.display())));
    }
    if let SessionStore::Redis(redis) = &config.sessions.store {
        for (key, error) in session::check_redis_files(redis) {
            unusable.push(Unusable::new(format!("sessions.redis.{key}"), error));
        }
    }
    unusable
}

fn provider_files(config: &Config) -> Vec<Unusable> {
    let mut unusable = Vec::new();
    for provider in &config.login.providers {
        let checked = match &provider.kind {
            ProviderKind::Local(path) => vec![("users_file", check_users(path))],
            ProviderKind::Oidc(client) => {
                let ca_file = client.egress.ca_file.as_deref();
                let ca_file = ca_file.map(|path| ("ca_file", check_ca_file(path)));
                [Some((secret_key(&client.auth), credential::check(&client.auth))), ca_file]
                    .into_iter()
                    .flatten()
                    .collect()
            }
        };
        let faults = checked.into_iter().filter_map(|(key, checked)| Some((key, checked.err()?)));
        unusable.extend(faults.map(|(key, error)| Unusable::new(format!("login.providers.{}.{key}", provider.name), error)));
    }
    unusable
}

fn secret_key(auth: &ClientAuth) -> &'static str {
    match auth {
        ClientAuth::PrivateKeyJwt(_) => "client_key_file",
        ClientAuth::SecretBasic(_) | ClientAuth::SecretPost(_) => "client_secret_file",
    }
}

fn check_users(path: &Path) -> Result<(), String> {
    // A running gate gives no such advice when its users file vanishes: a new file with one account would end the sessions
    // of all the other accounts.
    let hint = if path.exists() {
        ""
    } else {
        "; `cedargate user add` makes one"
    };
    let text = read_users(path).map_err(|error| format!("{error}{hint}"))?;
    let users = Users::parse(&text, &path.display().to_string());
    users.map(drop).map_err(|error| error.to_string())
}

fn token_files(config: &Config) -> Vec<Unusable> {
    let mut unusable = Vec::new();
    for (number, issuer) in config.issuers.iter().enumerate() {
        if let Some(Err(error)) = issuer.egress.ca_file.as_deref().map(check_ca_file) {
            unusable.push(Unusable::new(format!("issuers[{number}].ca_file"), error));
        }
        let secret = issuer
            .introspection
            .as_ref()
            .map(|introspection| &introspection.client_secret);
        // introspection sends its secret like a login provider's `SecretBasic`
        if let Some(secret @ Secret::File(_)) = secret
            && let Err(error) = credential::check(&ClientAuth::SecretBasic(secret.clone()))
        {
            let key = format!("issuers[{number}].introspection.client_secret_file");
            unusable.push(Unusable::new(key, error));
        }
    }
    if let Err(error) = AssertionKeys::load(&config.assertion, "cedargate") {
        let message = match error {
            AssertionError::File { path, source } => format!("cannot read `{}`: {source}", path.display()),
            AssertionError::Key { path, source } => format!("`{}`: {source}", path.display()),
            other @ AssertionError::Generate(_) => other.to_string(),
        };
        unusable.push(Unusable::new("assertion.key_file", message));
    }
    unusable
}
