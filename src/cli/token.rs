//! `cedargate token`: mints demo tokens, and decodes tokens without sending them anywhere.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Exit;
use super::report::json as json_report;
use crate::authn::{SigningKey, inspect, mint};
use crate::base::clock;

/// Bytes of a token read from stdin.
const STDIN_BYTES_MAX: u64 = 1024 * 1024;

#[derive(clap::Subcommand)]
pub(crate) enum TokenCommand {
    /// Sign a token with a key file (made if missing); prints the token
    Mint(MintArgs),
    /// Decode a token and list its problems; verifies nothing and sends nothing
    Inspect {
        /// The token; `-` reads it from stdin, so that it stays out of the shell's history
        token: String,
    },
}

#[derive(clap::Args)]
pub(crate) struct MintArgs {
    /// PKCS#8 PEM file of a P-256 key; made if it does not exist
    #[arg(long)]
    key: PathBuf,
    /// Write the public keys as a JWKS to this file, for `issuers[].jwks.file`
    #[arg(long)]
    jwks: Option<PathBuf>,
    /// `iss`
    #[arg(long)]
    issuer: String,
    /// `aud`; may be given several times
    #[arg(long, required = true)]
    audience: Vec<String>,
    /// `sub`
    #[arg(long)]
    subject: String,
    /// The `tenant` claim
    #[arg(long)]
    tenant: Option<String>,
    /// One of the `roles`; may be given several times
    #[arg(long)]
    role: Vec<String>,
    /// Any other claim, as name=JSON; a value that is not JSON is a string
    #[arg(long, value_name = "NAME=VALUE")]
    claim: Vec<String>,
    /// Lifetime of the token
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    ttl: Duration,
}

pub(crate) fn run(command: &TokenCommand) -> Exit {
    Exit::print_or_usage(match command {
        TokenCommand::Mint(args) => mint_token(args),
        TokenCommand::Inspect { token } => inspect_token(token),
    })
}

fn mint_token(args: &MintArgs) -> Result<String, String> {
    let key = read_or_make_key(&args.key)?;
    if let Some(path) = &args.jwks {
        std::fs::write(path, format!("{:#}\n", key.jwks())).map_err(|e| format!("`{}`: {e}", path.display()))?;
    }
    let mut claims = Map::new();
    claims.insert("iss".to_owned(), json!(args.issuer));
    claims.insert("aud".to_owned(), json!(args.audience));
    claims.insert("sub".to_owned(), json!(args.subject));
    claims.insert("roles".to_owned(), json!(args.role));
    if let Some(tenant) = &args.tenant {
        claims.insert("tenant".to_owned(), json!(tenant));
    }
    for claim in &args.claim {
        let (name, value) = claim.split_once('=').ok_or_else(|| format!("`{claim}` is not NAME=VALUE"))?;
        claims.insert(
            name.to_owned(),
            serde_json::from_str(value).unwrap_or_else(|_| Value::from(value)),
        );
    }
    let token = mint(&key, claims, args.ttl, clock::unix_seconds()).map_err(|e| e.to_string())?;
    Ok(format!("{token}\n"))
}

/// Reads the key file, or makes it with a new key that only its owner can read.
pub(super) fn read_or_make_key(path: &Path) -> Result<SigningKey, String> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let named = |e: &dyn std::fmt::Display| format!("`{}`: {e}", path.display());
    match std::fs::read_to_string(path) {
        Ok(pem) => SigningKey::from_pem(&pem).map_err(|e| named(&e)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = SigningKey::generate().map_err(|e| named(&e))?;
            let pem = key.to_pem().map_err(|e| named(&e))?;
            let file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path);
            file.and_then(|mut file| file.write_all(pem.expose().as_bytes()))
                .map_err(|e| named(&e))?;
            Ok(key)
        }
        Err(error) => Err(named(&error)),
    }
}

fn inspect_token(token: &str) -> Result<String, String> {
    let mut text = token.to_owned();
    if token == "-" {
        text.clear();
        std::io::stdin()
            .take(STDIN_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|e| e.to_string())?;
    }
    let report = inspect(text.trim(), clock::unix_seconds());
    let report = json!({"header": report.header, "claims": report.claims, "problems": report.problems});
    Ok(json_report::text(&report))
}
