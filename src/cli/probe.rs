//! `cedargate healthcheck` and `status`: ask a running gate's admin listener, or, with `--url`, any listener of a gate.
//!
//! An image of the gate has no other HTTP client: probes of containers and `helm test` use this one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};
use tokio::net::TcpStream;
use url::{Position, Url};

use super::client::{self, ClientError, ClientRequest, ClientResponse};
use super::config_file::ConfigFile;
use super::{Exit, complain, print};
use crate::base::files::read_secret;
use crate::config;

/// A gate that does not answer within this time counts as unhealthy.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The same for a request with `--url`, which may go through the app.
const URL_TIMEOUT: Duration = Duration::from_secs(10);
/// Size of the file of `--token-file`.
const TOKEN_FILE_BYTES_MAX: u64 = 64 * 1024;
/// The admin listener's default address.
const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8903);

#[derive(clap::Args)]
pub(crate) struct AdminTarget {
    /// Address of the admin listener; default: what the configuration says, else 127.0.0.1:8903
    #[arg(long)]
    address: Option<SocketAddr>,
    #[command(flatten)]
    config: ConfigFile,
}

#[derive(clap::Args)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    target: AdminTarget,
    /// Ask for readiness instead of liveness
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    other: UrlArgs,
}

/// A request to another listener than the admin listener.
#[derive(clap::Args)]
struct UrlArgs {
    /// Ask this URL instead, such as `http://orders.shop.svc/portal/customer`; http only, redirects are not followed
    #[arg(long, conflicts_with_all = ["ready", "address"])]
    url: Option<Url>,
    /// With --url: the statuses that count as healthy, such as `401,403`. Default: 200 to 299
    #[arg(long, requires = "url", value_delimiter = ',')]
    status: Vec<StatusCode>,
    /// With --url: the `Host` of the request. Default: the URL's
    #[arg(long, requires = "url")]
    host: Option<String>,
    /// With --url: a file that holds a bearer token to send
    #[arg(long, requires = "url", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    target: AdminTarget,
}

pub(crate) fn healthcheck(args: &HealthArgs) -> Exit {
    if let Some(url) = &args.other.url {
        return ask_url(url, &args.other);
    }
    ask(&args.target, if args.ready { "/readyz?verbose" } else { "/livez" })
}

pub(crate) fn status(args: &StatusArgs) -> Exit {
    ask(&args.target, "/status")
}

fn ask(target: &AdminTarget, path: &str) -> Exit {
    let address = match address(target) {
        Ok(address) => address,
        Err(message) => return Exit::or_usage(Err(message)),
    };
    match get(address, path) {
        Ok(response) => {
            print(&response.body);
            if response.status == StatusCode::OK {
                Exit::Ok
            } else {
                Exit::Failure
            }
        }
        Err(message) => {
            complain(&format!("{address}: {message}"));
            Exit::Failure
        }
    }
}

/// Prints the answer's status and body; the exit code says if the status is one of those that `--status` names.
fn ask_url(url: &Url, args: &UrlArgs) -> Exit {
    let request = match url_request(url, args) {
        Ok(request) => request,
        Err(message) => return Exit::or_usage(Err(message)),
    };
    let place = (url.host_str().unwrap_or_default().to_owned(), url.port().unwrap_or(80));
    let response = client::runtime().map_err(|error| error.to_string()).and_then(|runtime| {
        let exchange = request.send(async move { TcpStream::connect((trim_brackets(&place.0), place.1)).await });
        runtime.block_on(exchange).map_err(|error| error.to_string())
    });
    let response = match response {
        Ok(response) => response,
        Err(message) => {
            complain(&format!("{url}: {message}"));
            return Exit::Failure;
        }
    };
    print(&format!("{}\n{}\n", response.status, response.body.trim_end()));
    let expected = match args.status.as_slice() {
        [] => response.status.is_success(),
        statuses => statuses.contains(&response.status),
    };
    if expected {
        return Exit::Ok;
    }
    let wanted: Vec<&str> = args.status.iter().map(StatusCode::as_str).collect();
    let wanted = if wanted.is_empty() {
        "200 to 299".to_owned()
    } else {
        wanted.join(", ")
    };
    complain(&format!("{url}: expected status {wanted}, got {}", response.status.as_u16()));
    Exit::Failure
}

fn url_request<'a>(url: &'a Url, args: &UrlArgs) -> Result<ClientRequest<'a>, String> {
    if url.scheme() != "http" || url.host_str().is_none_or(str::is_empty) {
        return Err(format!("--url: `{url}` is not an `http://host:port/path`"));
    }
    let authorization = match &args.token_file {
        None => None,
        Some(file) => {
            let token = read_secret(file, TOKEN_FILE_BYTES_MAX).map_err(|error| format!("--token-file: {error}"))?;
            let value = HeaderValue::try_from(format!("Bearer {}", token.expose()));
            Some(value.map_err(|_why| "--token-file: the file holds no token that fits into a header".to_owned())?)
        }
    };
    Ok(ClientRequest {
        method: Method::GET,
        target: &url[Position::BeforePath..Position::AfterQuery],
        host: match &args.host {
            Some(host) => host.clone(),
            None => url[Position::BeforeHost..Position::AfterPort].to_owned(),
        },
        authorization,
        timeout: URL_TIMEOUT,
    })
}

/// The resolver takes an IPv6 address without the brackets of a URL.
fn trim_brackets(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// The address to connect to. A listener on all addresses (`0.0.0.0`, `::`) is reached on loopback.
fn address(target: &AdminTarget) -> Result<SocketAddr, String> {
    let mut address = match (&target.address, &target.config.found()) {
        (Some(address), _) => *address,
        (None, Some(path)) => {
            let loaded = config::load(path, config::process_environment()).map_err(|e| e.to_string())?;
            loaded.config.listen.admin.ok_or("the configuration has no listen.admin")?
        }
        (None, None) => ADMIN_DEFAULT,
    };
    if address.ip().is_unspecified() {
        let loopback: IpAddr = if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        };
        address.set_ip(loopback);
    }
    Ok(address)
}

fn get(address: SocketAddr, path: &str) -> Result<ClientResponse, String> {
    let request = ClientRequest {
        method: Method::GET,
        target: path,
        host: address.to_string(),
        authorization: None,
        timeout: TIMEOUT,
    };
    let runtime = client::runtime().map_err(|e| e.to_string())?;
    let response = runtime.block_on(request.send(TcpStream::connect(address)));
    response.map_err(|error| match error {
        ClientError::Connect(_) => format!("{error}; does the gate run, and is this its `listen.admin`? (--config, --address)"),
        other => other.to_string(),
    })
}
