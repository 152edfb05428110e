//! Whether every file that the configuration names for sessions, logins and tokens can be used: all that cannot, at once.
//!
//! Asked by `validate` and by `serve` before it binds anything. Each file is read the way that the running gate reads it.

use std::path::Path;

use crate::accounts::{Users, read as read_users};
use crate::authn::{AssertionError, AssertionKeys};
use crate::config::{ClientAuth, Config, ConfigErrors, Loaded, ProviderKind, Secret, SessionStore};
use crate::http::pages::Theme;
use crate::login::credential;
use crate::session;

/// What cannot be used, with its key and where that stands. Empty: everything can.
pub(crate) fn check_files(loaded: &Loaded) -> ConfigErrors {
    let mut wrong = Vec::new();
    sessions(&loaded.config, &mut wrong);
    providers(&loaded.config, &mut wrong);
    tokens(&loaded.config, &mut wrong);
    let logo = Theme::load(&loaded.config.identity).err();
    wrong.extend(logo.map(|error| ("identity.logo".to_owned(), error.problem())));
    let mut errors = ConfigErrors::default();
    for (key, message) in wrong {
        let origin = loaded.places.get(&key).cloned();
        errors.add(&key, origin, message);
    }
    errors.sort();
    errors
}

type Wrong = Vec<(String, String)>;

fn sessions(config: &Config, wrong: &mut Wrong) {
    if let Some(path) = &config.sessions.key_file {
        let error = session::check_key_file(path).err();
        wrong.extend(error.map(|why| ("sessions.key_file".to_owned(), format!("`{}`: {why}", path.display()))));
    }
    if let SessionStore::Redis(redis) = &config.sessions.store {
        let files = session::check_redis_files(redis).into_iter();
        wrong.extend(files.map(|(key, why)| (format!("sessions.redis.{key}"), why)));
    }
}

fn providers(config: &Config, wrong: &mut Wrong) {
    for provider in &config.login.providers {
        let (key, error) = match &provider.kind {
            ProviderKind::Local(path) => ("users_file", check_users(path).err()),
            ProviderKind::Oidc { auth, .. } => {
                let key = match auth {
                    ClientAuth::PrivateKeyJwt(_) => "client_key_file",
                    ClientAuth::SecretBasic(_) | ClientAuth::SecretPost(_) => "client_secret_file",
                };
                (key, credential::check(auth).err())
            }
        };
        wrong.extend(error.map(|why| (format!("login.providers.{}.{key}", provider.name), why)));
    }
}

fn check_users(path: &Path) -> Result<(), String> {
    // not said while the gate runs: a file of one account in place of one that vanished would end everybody else
    let hint = if path.exists() {
        ""
    } else {
        "; `cedargate user add` makes one"
    };
    let text = read_users(path).map_err(|error| format!("{error}{hint}"))?;
    let parsed = Users::parse(&text, &path.display().to_string());
    parsed.map(drop).map_err(|error| error.to_string())
}

fn tokens(config: &Config, wrong: &mut Wrong) {
    for (n, issuer) in config.issuers.iter().enumerate() {
        let secret = issuer.introspection.as_ref().map(|about| &about.client_secret);
        if let Some(secret @ Secret::File(_)) = secret {
            // sent the same way as a login's
            let error = credential::check(&ClientAuth::SecretBasic(secret.clone())).err();
            wrong.extend(error.map(|why| (format!("issuers[{n}].introspection.client_secret_file"), why)));
        }
    }
    let error = AssertionKeys::load(&config.assertion, "cedargate").err();
    let message = error.map(|error| match error {
        AssertionError::File { path, source } => format!("cannot read `{}`: {source}", path.display()),
        AssertionError::Key { path, source } => format!("`{}`: {source}", path.display()),
        other @ AssertionError::Generate(_) => other.to_string(),
    });
    wrong.extend(message.map(|message| ("assertion.key_file".to_owned(), message)));
}
