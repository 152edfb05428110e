//! The surroundings of a whole gate: files, an app, an issuer; and requests to it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use cedargate_benches::issuer::Keys;
use cedargate_benches::portal::PolicyFile;
use cedargate_benches::{AUDIENCE, ISSUER, shop};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;

use crate::gate::Gate;
use crate::load::{self, Answers, Load, Pace, Until};
use crate::machine::{DEVICE, pause, pinned};

/// Longest wait until a policy change is in force.
const PATIENCE: Duration = Duration::from_secs(60);

/// An app and an issuer for any number of gates.
pub struct Setting {
    app: SocketAddr,
    keys: Keys,
    token: String,
}

/// The folder of one gate.
pub struct Files(TempDir);

/// CPU time and rate of a closed loop.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// CPU time of the gate per request, in microseconds.
    pub cpu: f64,
    /// Requests per second.
    pub rate: f64,
}

impl Setting {
    pub fn new() -> Self {
        let keys = Keys::generate();
        let token = keys.token("ES256", "alice");
        Self { app: app(), keys, token }
    }

    /// The files of a gate with one portal of so many policies.
    pub fn files(&self, policies: usize) -> Files {
        let files = self.no_files();
        files.put_all(&shop::files(policies, ""));
        files
    }

    pub fn no_files(&self) -> Files {
        let files = Files::new();
        files.put("jwks.json", &self.keys.jwks().to_string());
        files
    }

    /// Starts a gate with one worker. `more` is further configuration.
    pub fn start(&self, files: &Files, core: Option<usize>, more: &str) -> Gate {
        let config = format!(
            "upstream: {{ url: 'http://{}' }}\n\
             issuers: [{{ name: corp, issuer: '{ISSUER}', audiences: [{AUDIENCE}], jwks: {{ file: jwks.json }} }}]\n\
             audit: {{ sink: {{ file: '/dev/null' }} }}\n\
             limits: {{ workers: 1, drain_delay: 0s, connections: 12000, idle_timeout: 10m }}\n{more}",
            self.app
        );
        Gate::start(files.0.path(), "gate", &config, core).unwrap()
    }

    /// Starts a gate with one portal at `/`, alone on its core.
    pub fn start_one(&self, files: &Files) -> Gate {
        self.start(files, pinned(DEVICE), ONE_PORTAL)
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// A token of another subject.
    pub fn token_of(&self, algorithm: &str, subject: &str) -> String {
        self.keys.token(algorithm, subject)
    }

    /// The address of the app.
    pub fn app(&self) -> SocketAddr {
        self.app
    }

    /// A GET request with a valid token.
    pub fn get(&self, path: &str) -> Vec<u8> {
        load::request("GET", path, &[("authorization", &format!("Bearer {}", self.token))], None)
    }
}

/// Configuration of one portal that has every path.
pub const ONE_PORTAL: &str = "portals: { bench: { match: { path_prefix: '/' } } }\npolicies: { require: [bench] }\n";

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn put_all(&self, files: &[PolicyFile]) {
        files.iter().for_each(|file| self.put(&file.name, &file.text));
    }

    pub fn put(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // as deployments do: a rename makes the file appear whole
        let beside = path.with_file_name(".new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, path).unwrap();
    }
}

/// Sends requests as fast as the gate answers, over so many connections.
pub fn closed(address: SocketAddr, requests: &[Vec<u8>], connections: usize, time: Duration) -> Answers {
    let load = Load {
        address,
        requests,
        expected: 200,
        connections,
        pace: Pace::Closed,
        until: Until::Time(time),
    };
    load.run().and_then(Answers::all_expected).unwrap()
}

/// The same over 16 connections, with the CPU time of the gate.
pub fn spend(gate: &Gate, address: SocketAddr, requests: &[Vec<u8>], time: Duration) -> Spent {
    let before = gate.process.cpu_time();
    let answers = closed(address, requests, 16, time);
    let used = gate.process.cpu_time().saturating_sub(before);
    Spent {
        cpu: used.as_secs_f64() * 1e6 / load::count(answers.count),
        rate: answers.rate(),
    }
}

/// Waits until a request is answered with 200, and returns the time.
pub fn until_permitted(gate: &Gate, request: &[u8]) -> Duration {
    let begun = Instant::now();
    while load::ask(gate.proxy, request).unwrap().0 != 200 {
        assert!(begun.elapsed() < PATIENCE, "a change is not in force after {PATIENCE:?}");
        pause(Duration::from_micros(500));
    }
    begun.elapsed()
}

/// Starts an app that answers every request with two bytes, on a thread of its own.
pub fn app() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|_request| async {
                    Ok::<_, hyper::Error>(http::Response::new(Full::new(bytes::Bytes::from_static(b"ok"))))
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
    });
    address
}
