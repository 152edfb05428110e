//! `cedargate healthcheck` and `status`: ask a running gate's admin listener.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::net::TcpStream;

use super::client::{self, ClientError, ClientRequest, ClientResponse};
use super::config_file::ConfigFile;
use super::{Exit, complain, print};
use crate::config;

/// A gate that does not answer within this time counts as unhealthy.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The admin listener's default address.
const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8903);

#[derive(clap::Args)]
pub(crate) struct Target {
    /// Address of the admin listener; default: what the configuration says, else 127.0.0.1:8903
    #[arg(long)]
    address: Option<SocketAddr>,
    #[command(flatten)]
    config: ConfigFile,
}

#[derive(clap::Args)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    target: Target,
    /// Ask for readiness instead of liveness
    #[arg(long)]
    ready: bool,
}

#[derive(clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    target: Target,
}

pub(crate) fn healthcheck(args: &HealthArgs) -> Exit {
    ask(&args.target, if args.ready { "/readyz?verbose" } else { "/livez" })
}

pub(crate) fn status(args: &StatusArgs) -> Exit {
    ask(&args.target, "/status")
}

fn ask(target: &Target, path: &str) -> Exit {
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

/// The address to connect to. A listener on all addresses (`0.0.0.0`, `::`) is reached on loopback.
fn address(target: &Target) -> Result<SocketAddr, String> {
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
        timeout: TIMEOUT,
    };
    let runtime = client::runtime().map_err(|e| e.to_string())?;
    let response = runtime.block_on(request.send(TcpStream::connect(address)));
    response.map_err(|error| match error {
        ClientError::Connect(_) => format!("{error}; does the gate run, and is this its `listen.admin`? (--config, --address)"),
        other => other.to_string(),
    })
}
