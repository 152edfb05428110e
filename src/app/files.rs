//! Checks every file and socket that the configuration names, and reports all unusable ones.
//!
//! `validate` and `serve` call this before anything is bound. Each file is read by the function that the running gate
//! reads it with, so a file that passes here is a file that `serve` starts with. An address that a process listens at
//! passes: for `validate` that may be the running gate.

use std::path::{Path, PathBuf};

use crate::accounts::{Users, read as read_users};
use crate::audit;
use crate::authn::{AssertionError, AssertionKeys};
use crate::base::descriptors;
use crate::base::files::{folder_of, read_secret};
use crate::base::outbound::check_ca_file;
use crate::bundle_follower::{check_state_dir, read_keys};
use crate::config::{
    Address, Bundle, BundleCredential, BundleKeys, ClientAuth, Config, ConfigErrors, Loaded, ProviderKind, Secret, SessionStore,
    Upstream, UpstreamToken,
};
use crate::http::listener::{check_address, check_unix};
use crate::http::pages::Theme;
use crate::http::tls::Certificates;
use crate::http::upstream::{Apps, TlsError};
use crate::login::credential;
use crate::session;

/// Bytes of a secret file.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

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
    unusable.extend(listener_files(config));
    unusable.extend(upstream_files(config));
    unusable.extend(config.bundle.as_ref().map(bundle_files).unwrap_or_default());
    unusable.extend(sockets(config));
    unusable.extend(audit_files(config));
    unusable.extend(open_files(config));
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

fn audit_files(config: &Config) -> Vec<Unusable> {
    let sink = config.audit.sink.file().and_then(|sink| {
        let error = audit::check_file(sink).err()?;
        Some(Unusable::new(
            "audit.sink.file",
            format!("`{}`: {error}", sink.file.display()),
        ))
    });
    let key = config.audit.chain.as_ref().and_then(|chain| {
        let error = audit::check_chain_key(&chain.key_file).err()?;
        Some(Unusable::new(
            "audit.chain.key_file",
            format!("`{}`: {error}", chain.key_file.display()),
        ))
    });
    sink.into_iter().chain(key).collect()
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
    // A running gate gives no such advice when its users file vanishes: a new file with one account would end the
    // sessions of all the other accounts.
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

/// Certificates of the listeners.
fn listener_files(config: &Config) -> Vec<Unusable> {
    let decision = config.listen.decision.as_ref();
    let listeners = [
        ("proxy", config.listen.proxy.tls.as_ref(), config.issuers.as_slice()),
        ("decision", decision.and_then(|decision| decision.tls.as_ref()), &[]),
    ];
    let errors = listeners
        .into_iter()
        .filter_map(|(listener, tls, issuers)| Certificates::load(listener, tls?, issuers).err());
    errors.map(|error| Unusable::new(error.key(), error.problem())).collect()
}

fn bundle_files(bundle: &Bundle) -> Vec<Unusable> {
    let mut unusable = Vec::new();
    if let BundleKeys::Files(files) = &bundle.keys {
        for (number, file) in files.iter().enumerate() {
            if let Err(error) = read_keys(std::slice::from_ref(file)) {
                unusable.push(Unusable::new(format!("policies.bundle.keys[{number}]"), error));
            }
        }
    }
    if let Some(Err(error)) = bundle.egress.ca_file.as_deref().map(check_ca_file) {
        unusable.push(Unusable::new("policies.bundle.ca_file", error));
    }
    let secret = match &bundle.credential {
        Some(BundleCredential::Password { password, .. }) => Some(("password_file", password)),
        Some(BundleCredential::Token(token)) => Some(("token_file", token)),
        None => None,
    };
    if let Some((key, Secret::File(path))) = secret
        && let Err(error) = read_secret(path, SECRET_BYTES_MAX)
    {
        unusable.push(Unusable::new(
            format!("policies.bundle.{key}"),
            format!("`{}`: {error}", path.display()),
        ));
    }
    if let Err(error) = check_state_dir(&bundle.state_dir) {
        unusable.push(Unusable::new("policies.state_dir", error));
    }
    unusable
}

/// TLS to the apps.
fn upstream_files(config: &Config) -> Vec<Unusable> {
    let own = config.portals.iter().flatten().filter_map(|portal| {
        let upstream = portal.upstream.as_ref()?;
        Some((format!("portals.{}.upstream", portal.slug), upstream))
    });
    let all = std::iter::once(("upstream".to_owned(), &config.upstream)).chain(own);
    all.filter_map(|(key, upstream)| upstream_fault(&key, upstream)).collect()
}

fn upstream_fault(key: &str, upstream: &Upstream) -> Option<Unusable> {
    if let UpstreamToken::Exchange(exchange) = &upstream.token
        && let Err(error) = credential::check(&ClientAuth::SecretBasic(exchange.client_secret.clone()))
    {
        return Some(Unusable::new(format!("{key}.exchange.client_secret_file"), error));
    }
    let error = Apps::default().load(upstream).err()?;
    Some(match &error {
        TlsError::File { key: name, file, reason } => {
            Unusable::new(format!("{key}.tls.{name}"), format!("`{}`: {reason}", file.display()))
        }
        TlsError::ServerName(_) | TlsError::Library { .. } => Unusable::new(format!("{key}.tls"), error.to_string()),
    })
}

/// The addresses and paths that the gate listens at.
fn sockets(config: &Config) -> Vec<Unusable> {
    let listen = &config.listen;
    let decision = listen.decision.as_ref().map(|decision| decision.address.clone());
    let all = [
        ("proxy", Some(Address::Tcp(listen.proxy.address))),
        ("decision", decision),
        ("ext_authz", listen.ext_authz.clone()),
        ("admin", listen.admin.map(Address::Tcp)),
        ("control", listen.control.clone().map(Address::Unix)),
    ];
    let mut sockets: Vec<(&str, PathBuf)> = Vec::new();
    let faults = all.into_iter().filter_map(|(listener, address)| {
        let key = format!("listen.{listener}.address");
        let (shown, checked) = match address? {
            Address::Tcp(address) => (address.to_string(), check_address(address).map(drop)),
            Address::Unix(path) => {
                let shown = path.display().to_string();
                let place = socket_place(&path);
                if let Some((other, _)) = sockets.iter().find(|(_, taken)| *taken == place) {
                    let message = format!("`{shown}` is also taken by `listen.{other}.address`; choose another path");
                    return Some(Unusable::new(key, message));
                }
                sockets.push((listener, place));
                (shown, check_unix(&path))
            }
        };
        let message = format!("cannot listen on `{shown}`: {}", checked.err()?);
        Some(Unusable::new(key, message))
    });
    faults.collect()
}

/// The place of a Unix socket without links in its folder, to compare it with other sockets.
fn socket_place(path: &Path) -> PathBuf {
    match (std::fs::canonicalize(folder_of(path)), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

/// Fewer open files than the process needs for itself.
fn open_files(config: &Config) -> Option<Unusable> {
    let needed = descriptors::own(u64::try_from(config.limits.workers()).unwrap_or(u64::MAX));
    let limit = descriptors::most().filter(|limit| *limit < needed)?;
    let message = format!("the limit of open files (`ulimit -n`) is {limit}, and the gate needs {needed} for itself; raise it");
    Some(Unusable::new("limits.workers", message))
}
