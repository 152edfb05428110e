//! The HTTPS client of the gate's own requests to issuers and providers: its authorities, its proxy, and the cause of a
//! failure.
//!
//! It follows no redirect, because a redirect would send a code, a token or a secret to a host that is not configured,
//! and it reads no proxy from the environment. The caller adds deadlines.

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, ClientBuilder, Proxy};

use super::certificates::has_system_authorities;
use super::files::read_small;
use crate::config::Egress;

const USER_AGENT: &str = concat!("cedargate/", env!("CARGO_PKG_VERSION"));
/// Bytes of a `ca_file`.
const CA_BYTES_MAX: u64 = 1024 * 1024;
/// Text of hyper's connector for a host name without an address.
const DNS_ERROR: &str = "dns error";
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
        .user_agent(USER_AGENT);
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

/// A client for a thread that may block: the exporter of traces. The error names the file.
pub fn blocking_client(ca_file: Option<&Path>, timeout: Duration) -> Result<reqwest::blocking::Client, String> {
    let mut builder = reqwest::blocking::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(timeout)
        .user_agent(USER_AGENT);
    if let Some(path) = ca_file {
        builder = builder.tls_certs_only(read_authorities(path)?);
    } else if !has_system_authorities() {
        builder = builder.tls_certs_only([]);
    }
    let client = builder.build();
    client.map_err(|error| format!("cannot set up the https client: {}", cause(&error)))
}

/// Checks a `ca_file` at start; the error names the file.
pub fn check_ca_file(path: &Path) -> Result<(), String> {
    read_authorities(path).map(drop)
}

/// Reads a `ca_file` for a client that parses it itself; the error names the file.
pub fn read_ca_file(path: &Path) -> Result<Vec<u8>, String> {
    check_ca_file(path)?;
    read_pem(path)
}

fn read_pem(path: &Path) -> Result<Vec<u8>, String> {
    read_small(path, CA_BYTES_MAX).map_err(|error| format!("cannot read `{}`: {error}", path.display()))
}

fn read_authorities(path: &Path) -> Result<Vec<Certificate>, String> {
    let shown = path.display();
    let pem = read_pem(path)?;
    let authorities = Certificate::from_pem_bundle(&pem).map_err(|error| format!("`{shown}`: {}", cause(&error)))?;
    if authorities.is_empty() {
        return Err(format!("`{shown}` holds no certificate in PEM"));
    }
    Ok(authorities)
}

/// The step that failed (`DNS`, `connection`, `TLS`) and the last error of the chain: the outer text, `error sending
/// request`, does not say what failed. Contains no URL.
pub fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        let what = if error.is_connect() { "no connection" } else { "no answer" };
        return format!("{what} in time");
    }
    let innermost = chain(error).last().map(ToString::to_string).unwrap_or_default();
    let step = if chain(error).any(|error| error.to_string().contains(DNS_ERROR)) {
        "DNS: "
    } else if chain(error).any(is_tls) {
        "TLS: "
    } else if error.is_connect() {
        "connection: "
    } else {
        ""
    };
    let innermost = format!("{step}{innermost}");
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

/// The error and its causes, the outermost first.
fn chain(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let outermost: &(dyn Error + 'static) = error;
    std::iter::successors(Some(outermost), |error| (**error).source())
}

/// True for an error of rustls, also inside I/O errors, which do not name what they hold as their source.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<rustls::Error>() {
            return true;
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inner.map(|inner| inner as &(dyn Error + 'static));
    }
    false
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_failure_names_the_step_that_failed() {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let (silent, plain) = (bind(), bind());
        let (closed, no_tls) = (port(&bind()), port(&plain));
        std::thread::spawn(move || {
            for stream in plain.incoming().flatten() {
                let _gone = (&stream).write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").is_err();
            }
        });
        let client = client_builder(&Egress::default()).unwrap();
        let client = client.timeout(Duration::from_secs(2)).build().unwrap();
        for (url, beginning) in [
            ("http://nowhere.invalid/".to_owned(), "DNS: "),
            (format!("http://127.0.0.1:{closed}/"), "connection: "),
            (format!("https://127.0.0.1:{no_tls}/"), "TLS: "),
            (format!("http://127.0.0.1:{}/", port(&silent)), "no answer in time"),
        ] {
            let error = client.get(&url).send().await.unwrap_err();
            assert!(cause(&error).starts_with(beginning), "{url}: {}", cause(&error));
        }
    }
}
