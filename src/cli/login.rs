//! `cedargate login`: gets a token for `curl` and scripts from the provider, by the device flow (RFC 8628).
//!
//! The user logs in with a browser, on this machine or another. The token goes to stdout or into a file of its owner;
//! nothing is stored besides, and no refresh token is asked for.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use cedargate_policy::types::Redacted;
use clap::ValueEnum;

use super::client::runtime;
use super::config_file::ConfigFile;
use super::{Exit, complain, print};
use crate::config::{self, Egress, KeyTransport, ProviderKind};
use crate::login::{DeviceError, DeviceLogin, DeviceRequest, DeviceTokens};

const TOKEN_MODE: u32 = 0o600;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The provider's issuer. Default: that of a provider of the configuration
    #[arg(long, conflicts_with = "provider")]
    issuer: Option<String>,
    /// One of `login.providers` of the configuration; not needed if there is one
    #[arg(long)]
    provider: Option<String>,
    #[command(flatten)]
    config: ConfigFile,
    /// A public client that the provider allows the device flow; never the gate's own
    #[arg(long)]
    client_id: String,
    /// May be given several times
    #[arg(long, default_value = "openid")]
    scope: Vec<String>,
    /// The API that the token is for, for providers that take `audience`
    #[arg(long)]
    audience: Option<String>,
    /// The API that the token is for, for providers that take `resource` (RFC 8707)
    #[arg(long)]
    resource: Option<String>,
    /// PEM file of the only trusted authorities
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The token to print
    #[arg(long, value_enum, default_value = "access")]
    token: WantedToken,
    /// Write the token to this file, which only its owner can read, instead of stdout
    #[arg(long, short)]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum WantedToken {
    Access,
    Id,
}

/// Where and how the provider is reached.
struct LoginTarget {
    issuer: String,
    discovery_url: Option<String>,
    transport: KeyTransport,
    egress: Egress,
}

pub(crate) fn run(args: &Args) -> Exit {
    let place = match args.place() {
        Ok(place) => place,
        Err(message) => {
            complain(&message);
            return Exit::Usage;
        }
    };
    let token = runtime()
        .map_err(|e| e.to_string())
        .and_then(|runtime| runtime.block_on(log_in(args, &place)).map_err(|e| e.to_string()))
        .and_then(|tokens| args.choose(tokens))
        .and_then(|token| args.hand_over(&token));
    match token {
        Ok(()) => Exit::Ok,
        Err(message) => {
            complain(&message);
            Exit::Failure
        }
    }
}

async fn log_in(args: &Args, place: &LoginTarget) -> Result<DeviceTokens, DeviceError> {
    let parameters = args.parameters();
    let login = DeviceLogin::begin(&DeviceRequest {
        issuer: &place.issuer,
        discovery_url: place.discovery_url.as_deref(),
        transport: place.transport,
        egress: &place.egress,
        client_id: &args.client_id,
        scopes: &args.scope,
        parameters: &parameters,
    })
    .await?;
    complain(&instructions(&login, &place.issuer));
    login.wait().await
}

/// What the user reads, on stderr: stdout is for the token.
fn instructions(login: &DeviceLogin, issuer: &str) -> String {
    let link = login.address_with_code.as_ref();
    let link = link
        .map(|link| format!("\n  or open     {link}\n  and compare the code"))
        .unwrap_or_default();
    format!(
        "To log in at {issuer}, open in any browser\n\n  address     {}\n  code        {}{link}\n\n\
         Only go on if you started this command yourself just now. The person who started it gets your access:\n\
         a code that arrives by mail, chat or telephone is an attack.\n\
         Waiting for up to {} minutes; Ctrl-C ends it.",
        login.address,
        login.user_code,
        login.expires_in.as_secs().div_ceil(60)
    )
}

impl Args {
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let given = [("audience", &self.audience), ("resource", &self.resource)];
        given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.clone()?)))
            .collect()
    }

    fn place(&self) -> Result<LoginTarget, String> {
        let own = Egress {
            ca_file: self.ca_file.clone(),
            proxy: None,
        };
        if let Some(issuer) = &self.issuer {
            return Ok(LoginTarget {
                issuer: issuer.clone(),
                discovery_url: None,
                transport: KeyTransport::Tls,
                egress: own,
            });
        }
        let path = self.config.required();
        let loaded = config::load(&path, config::process_environment())
            .map_err(|errors| format!("{errors}\nname the provider with --issuer, or the configuration with --config"))?;
        let config = loaded.config;
        let oidc = |provider: &config::Provider| match &provider.kind {
            ProviderKind::Oidc(client) => Some((provider.clone(), client.clone())),
            ProviderKind::Local(_) => None,
        };
        let is_named = |name: &str| self.provider.as_deref().is_none_or(|wanted| wanted == name);
        let providers = config.login.providers.iter().filter_map(oidc);
        let found: Vec<_> = providers.filter(|(provider, _)| is_named(&provider.name)).collect();
        let [(provider, client)] = found.as_slice() else {
            let names: Vec<&str> = config.login.providers.iter().map(|provider| &*provider.name).collect();
            return Err(format!(
                "name one OpenID Connect provider with --provider ({}), or its --issuer",
                names.join(", ")
            ));
        };
        if *client.client_id == self.client_id {
            return Err(format!(
                "`{}` is the gate's own client; register a public client for the device flow",
                self.client_id
            ));
        }
        let issuer = config.issuers.get(provider.issuer).ok_or("the provider has no issuer")?;
        Ok(LoginTarget {
            issuer: issuer.scope.issuer.to_string(),
            discovery_url: client.discovery_url.clone(),
            transport: client.transport,
            egress: own.or(&client.egress.or(&issuer.egress)),
        })
    }

    fn choose(&self, tokens: DeviceTokens) -> Result<Redacted<String>, String> {
        match self.token {
            WantedToken::Access => Ok(tokens.access_token),
            WantedToken::Id => tokens
                .id_token
                .ok_or_else(|| "the provider gave no ID token; ask for `--scope openid`".to_owned()),
        }
    }

    fn hand_over(&self, token: &Redacted<String>) -> Result<(), String> {
        if token.expose().split('.').count() != 3 {
            complain(
                "the token is not a JWT, and the gate accepts it only with `issuers[].introspection`; \
                 many providers give a JWT for an API: --audience or --resource",
            );
        }
        match &self.output {
            None => print(&format!("{}\n", token.expose())),
            Some(path) => write_private(path, token.expose()).map_err(|e| format!("`{}`: {e}", path.display()))?,
        }
        Ok(())
    }
}

/// Replaces the file, so that no wider mode of an older one stays, and follows no link.
fn write_private(path: &Path, token: &str) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", uuid::Uuid::now_v7()));
    let beside = PathBuf::from(name);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(TOKEN_MODE)
        .open(&beside)?;
    let written = writeln!(file, "{token}").and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        let _left_behind = std::fs::remove_file(&beside).is_err();
    }
    written
}
