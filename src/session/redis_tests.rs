//! Sessions over a real Redis, which the tests stop, kill, fill and change.

mod outages;
mod refusals;
mod renewal;
mod replicas;
mod revocations;
mod rotation;
mod secrecy;

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cedargate_policy::denial::Denial;
use serde_json::json;

use super::tests::{config, data, sessions};
use super::*;
use crate::base::clock::unix_millis;

const PATIENCE: Duration = Duration::from_secs(20);

/// A Redis server of one test.
struct Server {
    child: Option<Child>,
    port: u16,
    folder: tempfile::TempDir,
    options: Vec<String>,
}

impl Server {
    fn start(options: &[&str]) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut server = Self {
            child: None,
            port,
            folder: tempfile::tempdir().unwrap(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        server.run();
        server
    }

    fn run(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]);
        command.arg(self.folder.path()).args(&self.options);
        self.child = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while self.client().get_connection().is_err() {
            assert!(Instant::now() < deadline, "redis-server does not start");
            std::thread::yield_now();
        }
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    fn client(&self) -> ::redis::Client {
        ::redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap()
    }

    fn query<T: ::redis::FromRedisValue>(&self, command: &[&[u8]]) -> T {
        let mut cmd = ::redis::Cmd::new();
        for part in command {
            cmd.arg(*part);
        }
        cmd.query(&mut self.client().get_connection().unwrap()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.signal("-CONT");
            self.kill();
        }
    }
}

/// The running sessions of one gate process.
struct Gate {
    sessions: Arc<Sessions>,
    stop: CancellationToken,
}

impl std::ops::Deref for Gate {
    type Target = Arc<Sessions>;

    fn deref(&self) -> &Arc<Sessions> {
        &self.sessions
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn start(server: &Server, more: &str) -> Gate {
    let keys = server.folder.path().join("keys");
    std::fs::write(&keys, STANDARD.encode([7; 32])).unwrap();
    let yaml = format!(
        "sessions:\n  store: redis\n  key_file: {}\n  redis:\n    url: \"redis://127.0.0.1:{}\"\n    key_prefix: \"cedargate:test:\"\n{more}",
        keys.display(),
        server.port
    );
    let sessions = sessions(&config(&yaml));
    let stop = CancellationToken::new();
    tokio::spawn(Arc::clone(&sessions).run(stop.clone()));
    Gate { sessions, stop }
}

async fn started(server: &Server) -> Gate {
    let gate = start(server, "");
    gate.is_up().await;
    gate
}

impl Gate {
    async fn is_up(&self) {
        eventually("connected and fresh", || async {
            self.status().reachable && self.is_revocation_log_fresh()
        })
        .await;
    }
}

async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) -> Duration {
    let began = Instant::now();
    while !check().await {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    began.elapsed()
}

#[derive(Clone)]
struct LogBuffer(Arc<parking_lot::Mutex<Vec<u8>>>);

impl std::io::Write for LogBuffer {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for LogBuffer {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Sessions {
    fn stored(&self, session: &Session) -> String {
        format!("{}{}", self.seal.prefix, record::session_key(session.handle))
    }

    fn check_identity_of(&self, subject: &str) -> Result<(), Denial> {
        self.check_identity(&super::tests::identity(subject, None), "shop")
    }
}
