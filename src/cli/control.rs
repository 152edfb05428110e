//! `cedargate drain` and `reload`: talk to a running gate's control socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{Exit, complain, print};
use crate::config;

/// A gate that does not say a word in this time is stuck; a reload may take as long as it takes the gate to give up.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
const RELOAD_DEADLINE: Duration = Duration::from_secs(90);
/// A store with many sessions takes its time to list them.
pub(super) const SESSIONS_DEADLINE: Duration = Duration::from_secs(60);
/// How often `--wait` looks.
const WAIT_POLL: Duration = Duration::from_millis(50);
/// A socket file that refuses connections for so long was left behind by a process that was killed.
const REFUSED_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(clap::Args)]
pub(crate) struct Target {
    /// The gate's control socket, as a path or as the configuration writes it; default: its `listen.control`
    #[arg(long)]
    socket: Option<PathBuf>,
    /// The running gate's configuration
    #[arg(long, short, env = "CEDARGATE_CONFIG", default_value = "cedargate.yaml")]
    config: PathBuf,
}

#[derive(clap::Args)]
#[command(
    after_help = "Readiness goes off at once; new connections are taken for limits.drain_delay more, and what is \
                        in flight may finish until limits.drain_timeout. Exit codes: 0 draining (with --wait: gone), \
                        1 no answer, or still there after --timeout."
)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    target: Target,
    /// Return when the gate is gone
    #[arg(long)]
    wait: bool,
    /// How long to wait for that
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
    target: Target,
}

/// Why the gate did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("{0}; does the gate run, with `listen.control`?")]
    Connect(#[source] std::io::Error),
    #[error("no answer in time")]
    Silent,
    #[error("{0}")]
    Exchange(#[from] hyper::Error),
    #[error("{0}")]
    Answer(String),
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: String,
}

pub(crate) fn drain(args: &DrainArgs) -> Exit {
    with_socket(&args.target, async |socket| {
        let answer = ask(socket, (Method::POST, "/drain"), DRAIN_DEADLINE).await?;
        print(&answer.body);
        if answer.status != StatusCode::ACCEPTED {
            return Ok(Exit::Failure);
        }
        if args.wait && !is_gone(socket, answer.pid(), args.timeout).await {
            complain("the gate is still there");
            return Ok(Exit::Failure);
        }
        Ok(Exit::Ok)
    })
}

pub(crate) fn reload(args: &ReloadArgs) -> Exit {
    with_socket(&args.target, async |socket| {
        let answer = ask(socket, (Method::POST, "/reload"), RELOAD_DEADLINE).await?;
        print(&answer.body);
        Ok(if answer.status == StatusCode::OK {
            Exit::Ok
        } else {
            Exit::Failure
        })
    })
}

pub(super) fn with_socket(target: &Target, run: impl AsyncFnOnce(&Path) -> Result<Exit, AskError>) -> Exit {
    let socket = match socket(target) {
        Ok(socket) => socket,
        Err(message) => {
            complain(&message);
            return Exit::Usage;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error.to_string());
            return Exit::Failure;
        }
    };
    runtime.block_on(run(&socket)).unwrap_or_else(|error| {
        complain(&format!("{}: {error}", socket.display()));
        Exit::Failure
    })
}

fn socket(target: &Target) -> Result<PathBuf, String> {
    if let Some(socket) = &target.socket {
        let path = socket.to_str().and_then(|text| text.strip_prefix("unix:"));
        return Ok(path.map_or_else(|| socket.clone(), PathBuf::from));
    }
    let loaded = config::load(&target.config, config::process_environment()).map_err(|e| e.to_string())?;
    let socket = loaded.config.listen.control;
    socket.ok_or_else(|| "the configuration has no listen.control; name the socket with --socket".to_owned())
}

/// Whether the process is gone before the time is over. Another process behind the same name is not the one asked.
async fn is_gone(socket: &Path, pid: Option<u64>, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    let mut refused: Option<Instant> = None;
    while Instant::now() < deadline {
        match ask(socket, (Method::GET, "/"), DRAIN_DEADLINE).await {
            Ok(answer) if answer.pid() != pid => return true,
            Err(AskError::Connect(error)) if error.kind() == ErrorKind::NotFound => return true,
            Err(AskError::Connect(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                if refused.get_or_insert_with(Instant::now).elapsed() > REFUSED_PATIENCE {
                    return true;
                }
            }
            // an answer cut off by the end; the next look tells
            Ok(_) | Err(_) => refused = None,
        }
        tokio::time::sleep(WAIT_POLL).await;
    }
    false
}

pub(super) async fn ask(socket: &Path, what: (Method, &str), deadline: Duration) -> Result<Answer, AskError> {
    tokio::time::timeout(deadline, exchange(socket, what))
        .await
        .unwrap_or(Err(AskError::Silent))
}

async fn exchange(socket: &Path, (method, path): (Method, &str)) -> Result<Answer, AskError> {
    let stream = UnixStream::connect(socket).await.map_err(AskError::Connect)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "control");
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|e| AskError::Answer(e.to_string()))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|e| AskError::Answer(e.to_string()))?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Answer { status, body })
}

impl Answer {
    fn pid(&self) -> Option<u64> {
        let body: Value = serde_json::from_str(&self.body).ok()?;
        body.get("pid")?.as_u64()
    }
}
