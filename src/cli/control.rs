//! `cedargate drain` and `reload`: act on a running gate through its control socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use tokio::net::UnixStream;

use super::client::{self, ClientError, ClientRequest, ClientResponse};
use super::config_file::ConfigFile;
use super::{Exit, complain, print};
use crate::config;

/// A gate that does not answer a drain, or a question about its log, within this time is stuck.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than a reload request may take in the gate, so that the gate's own answer arrives.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(90);
/// Listing a store with many sessions takes time.
const SESSIONS_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two looks of `drain --wait`.
const WAIT_POLL: Duration = Duration::from_millis(50);
/// A socket file that refuses connections for this time belongs to a killed process.
const REFUSED_MAX: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct ControlTarget {
    /// The gate's control socket, as a path or as the configuration writes it; default: its `listen.control`
    #[arg(long)]
    socket: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
}

#[derive(clap::Args)]
#[command(
    after_help = "Readiness goes off at once; new connections are taken for limits.drain_delay more, and what is \
                        in flight may finish until limits.drain_timeout. Exit codes: 0 draining (with --wait: gone), \
                        1 no answer, or still there after --timeout."
)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    target: ControlTarget,
    /// Return when the gate is gone
    #[arg(long)]
    wait: bool,
    /// Longest wait of --wait
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(clap::Args)]
#[command(
    after_help = "The gate watches its files by itself; this tells when it has taken them, and how that went. \
                        Exit codes: 0 every portal is as its files say, 1 a candidate was rejected (the last good \
                        revision keeps serving) or no answer."
)]
pub(crate) struct ReloadArgs {
    #[command(flatten)]
    target: ControlTarget,
}

/// A running gate, by its control socket.
pub(super) struct ControlSocket(PathBuf);

pub(crate) fn drain(args: &DrainArgs) -> Exit {
    with_socket(&args.target, async |socket| {
        let response = socket.send(Method::POST, "/drain", DRAIN_TIMEOUT).await?;
        print(&response.body);
        if response.status != StatusCode::ACCEPTED {
            return Ok(Exit::Failure);
        }
        if args.wait && !socket.has_process_ended(pid(&response), args.timeout).await {
            complain("the gate is still there");
            return Ok(Exit::Failure);
        }
        Ok(Exit::Ok)
    })
}

pub(crate) fn reload(args: &ReloadArgs) -> Exit {
    with_socket(&args.target, async |socket| {
        let response = socket.send(Method::POST, "/reload", RELOAD_TIMEOUT).await?;
        print(&response.body);
        Ok(if response.status == StatusCode::OK {
            Exit::Ok
        } else {
            Exit::Failure
        })
    })
}

/// Runs a command against the gate that `target` names. No socket is a usage error; no response is a failure.
pub(super) fn with_socket(target: &ControlTarget, run: impl AsyncFnOnce(&ControlSocket) -> Result<Exit, ClientError>) -> Exit {
    match target.socket() {
        Ok(path) => with_socket_at(&path, run),
        Err(message) => Exit::or_usage(Err(message)),
    }
}

/// The same with a socket by its path, also as the configuration writes it.
pub(super) fn with_socket_at(path: &Path, run: impl AsyncFnOnce(&ControlSocket) -> Result<Exit, ClientError>) -> Exit {
    let socket = ControlSocket::at(path);
    let runtime = match client::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error.to_string());
            return Exit::Failure;
        }
    };
    runtime.block_on(run(&socket)).unwrap_or_else(|error| {
        let hint = match error {
            ClientError::Connect(_) => "; does the gate run, with `listen.control`?",
            _ => "",
        };
        complain(&format!("{}: {error}{hint}", socket.0.display()));
        Exit::Failure
    })
}

impl ControlTarget {
    fn socket(&self) -> Result<PathBuf, String> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let loaded = config::load(&self.config.required(), config::process_environment()).map_err(|e| e.to_string())?;
        let socket = loaded.config.listen.control;
        socket.ok_or_else(|| "the configuration has no listen.control; name the socket with --socket".to_owned())
    }
}

impl ControlSocket {
    /// The socket of a path, also as the configuration writes it.
    pub fn at(path: &Path) -> Self {
        let text = path.to_str().and_then(|text| text.strip_prefix("unix:"));
        Self(text.map_or(path, Path::new).to_owned())
    }

    pub async fn get_sessions(&self, target: &str) -> Result<ClientResponse, ClientError> {
        self.send(Method::GET, target, SESSIONS_TIMEOUT).await
    }

    pub async fn post_sessions(&self, target: &str) -> Result<ClientResponse, ClientError> {
        self.send(Method::POST, target, SESSIONS_TIMEOUT).await
    }

    /// An explanation takes as long as all policies together.
    pub async fn get_explanation(&self, target: &str) -> Result<ClientResponse, ClientError> {
        self.send(Method::GET, target, SESSIONS_TIMEOUT).await
    }

    pub async fn get(&self, target: &str) -> Result<ClientResponse, ClientError> {
        self.send(Method::GET, target, DRAIN_TIMEOUT).await
    }

    pub async fn post(&self, target: &str) -> Result<ClientResponse, ClientError> {
        self.send(Method::POST, target, DRAIN_TIMEOUT).await
    }

    async fn send(&self, method: Method, target: &str, timeout: Duration) -> Result<ClientResponse, ClientError> {
        let request = ClientRequest {
            method,
            target,
            host: "control".to_owned(),
            authorization: None,
            timeout,
        };
        request.send(UnixStream::connect(&self.0)).await
    }

    /// True once the process with this id does not answer on the socket any more: the socket's file is gone, another
    /// process answers, or connections are refused for `REFUSED_MAX`. False if it still answers after `timeout`.
    async fn has_process_ended(&self, pid_before: Option<u64>, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut refused_since: Option<Instant> = None;
        while Instant::now() < deadline {
            match self.send(Method::GET, "/", DRAIN_TIMEOUT).await {
                Ok(response) if pid(&response) != pid_before => return true,
                Err(ClientError::Connect(error)) if error.kind() == ErrorKind::NotFound => return true,
                Err(ClientError::Connect(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                    if refused_since.get_or_insert_with(Instant::now).elapsed() > REFUSED_MAX {
                        return true;
                    }
                }
                // includes a response that the end of the process cut off; the next attempt shows
                Ok(_) | Err(_) => refused_since = None,
            }
            tokio::time::sleep(WAIT_POLL).await;
        }
        false
    }
}

/// The id of the process that answered.
fn pid(response: &ClientResponse) -> Option<u64> {
    response.json()?.get("pid")?.as_u64()
}
