//! The HTTPS client of the gate's own requests to issuers and providers: its authorities, its proxy, and the cause of a failure.
//!
//! It follows no redirect, because a redirect would send a code, a token or a secret to a host that is not configured, and it
//! reads no proxy from the environment. The caller adds deadlines.

use std::path::Path;

use reqwest::{Certificate, ClientBuilder, Proxy};

use super::certificates::has_system_authorities;
use super::files::read_small;
use crate::config::Egress;

/// Bytes of a `ca_file`.
const CA_BYTES_MAX: u64 = 1024 * 1024;
/// Text of rustls for a certificate of an authority that is not trusted.
const UNKNOWN_AUTHORITY: &str = "UnknownIssuer";

/// The clients of one component: one for each way, because each reads the system's authorities.
#[derive(Default)]
pub struct Clients(Vec<(Egress, reqwest::Client)>);

impl Clients {
    /// The client of a way; `finish` adds the component's own settings. The error names file or URL.
    pub fn of(
        &mut self,
        egress: &Egress,
        finish: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Result<reqwest::Client, String> {
        if let Some((_, client)) = self.0.iter().find(|(known, _)| known == egress) {
            return Ok(client.clone());
        }
        let client = finish(client_builder(egress)?).build();
        let client = client.map_err(|error| format!("cannot set up the https client: {}", cause(&error)))?;
        self.0.push((egress.clone(), client.clone()));
        Ok(client)
    }
}

/// Begins a client with the trust and the proxy of `egress`. The error names the file or URL.
fn client_builder(egress: &Egress) -> Result<ClientBuilder, String> {
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("cedargate/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = &egress.ca_file {
        builder = builder.tls_certs_only(read_authorities(path)?);
    } else if !has_system_authorities() {
        builder = builder.tls_certs_only([]);
    }
    if let Some(url) = &egress.proxy {
        let proxy = Proxy::all(url).map_err(|error| format!("`{url}` cannot be used as a proxy: {}", cause(&error)))?;
        builder = builder.proxy(proxy);
    }
    Ok(builder)
}

/// Checks a `ca_file` at start; the error names the file.
pub fn check_ca_file(path: &Path) -> Result<(), String> {
    read_authorities(path).map(drop)
}

fn read_authorities(path: &Path) -> Result<Vec<Certificate>, String> {
    let shown = path.display();
    let pem = read_small(path, CA_BYTES_MAX).map_err(|error| format!("cannot read `{shown}`: {error}"))?;
    let authorities = Certificate::from_pem_bundle(&pem).map_err(|error| format!("`{shown}`: {}", cause(&error)))?;
    if authorities.is_empty() {
        return Err(format!("`{shown}` holds no certificate in PEM"));
    }
    Ok(authorities)
}

/// The last error of the chain: the outer text, `error sending request`, does not say what failed. Contains no URL.
pub fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let chain = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let innermost = chain.last().map(ToString::to_string).unwrap_or_default();
    if innermost.contains(UNKNOWN_AUTHORITY) && !has_system_authorities() {
        return format!(
            "{innermost}; this system trusts no public authority: install `ca-certificates`, or name the authority in `ca_file`"
        );
    }
    if innermost.contains(UNKNOWN_AUTHORITY) {
        return format!("{innermost}; if the certificate is of a private authority, name it in `ca_file`");
    }
    innermost
}
