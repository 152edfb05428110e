//! `cedargate healthcheck` and `status`: talk to a running gate's admin listener.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;

use super::{Exit, complain, print};
use crate::config;

/// A gate that does not answer in this time is not healthy.
const DEADLINE: Duration = Duration::from_secs(2);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
const ADMIN_DEFAULT: &str = "127.0.0.1:8903";

#[derive(clap::Args)]
pub(crate) struct Target {
    /// Address of the admin listener; default: what the configuration says, else 127.0.0.1:8903
    #[arg(long)]
    address: Option<SocketAddr>,
    /// The running gate's configuration
    #[arg(long, short, env = "CEDARGATE_CONFIG")]
    config: Option<PathBuf>,
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
        Err(message) => {
            complain(&message);
            return Exit::Usage;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = runtime.map_err(|e| e.to_string()).and_then(|runtime| {
        runtime.block_on(async {
            tokio::time::timeout(DEADLINE, get(address, path))
                .await
                .unwrap_or_else(|_| Err("no answer in time".to_owned()))
        })
    });
    match answer {
        Ok((status, body)) => {
            print(&body);
            if status == StatusCode::OK { Exit::Ok } else { Exit::Failure }
        }
        Err(message) => {
            complain(&format!("{address}: {message}"));
            Exit::Failure
        }
    }
}

/// A listener on every address is asked on loopback.
fn address(target: &Target) -> Result<SocketAddr, String> {
    let mut address = match (&target.address, &target.config) {
        (Some(address), _) => *address,
        (None, Some(path)) => {
            let loaded = config::load(path, config::process_environment()).map_err(|e| e.to_string())?;
            loaded.config.listen.admin.ok_or("the configuration has no listen.admin")?
        }
        (None, None) => ADMIN_DEFAULT.parse().map_err(|_why| "no address")?,
    };
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr = if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        };
        address.set_ip(loopback);
    }
    Ok(address)
}

async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, String), String> {
    let stream = tokio::net::TcpStream::connect(address).await;
    let stream =
        stream.map_err(|error| format!("{error}; does the gate run, and is this its `listen.admin`? (--config, --address)"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", address.to_string())
        .body(Empty::<Bytes>::new());
    let response = sender
        .send_request(request.map_err(|e| e.to_string())?)
        .await
        .map_err(|e| e.to_string())?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|e| e.to_string())?;
    Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}
