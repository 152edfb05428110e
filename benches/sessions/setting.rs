//! Redis, an app, and two gates on both: one that remembers sessions, one that can remember a single one.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cedargate::app::{Running, start_from_yaml};
use cedargate::bench;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;

use crate::client::Load;

const SCHEMA: &str = "entity Tenant, Role; entity User in [Role, Tenant]; entity Path in [Path, Portal]; entity Portal; \
                      action GET appliesTo { principal: User, resource: Path };";
const POLICY: &str = "@id(\"viewers\") permit(principal in Role::\"viewer\", action == Action::\"GET\", resource);";

pub struct Setting {
    pub redis: Redis,
    pub cached: Gate,
    pub uncached: Gate,
    cookies: Vec<String>,
    token: String,
    _folder: TempDir,
}

pub struct Redis {
    process: Child,
    port: u16,
}

pub struct Gate {
    running: Option<Running>,
    address: SocketAddr,
}

impl Setting {
    /// `None` without a `redis-server`.
    pub fn start(sessions: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let redis = Redis::start(&folder)?;
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("schemas/bench.cedarschema", SCHEMA);
        put("policies/bench/main.cedar", POLICY);
        put("keys", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n");
        let (jwks, token) = bench::token(&["viewer"]).unwrap();
        put("jwks.json", &jwks);
        let app = app();
        let gate = |cache: usize| Gate::start(&folder, (app, redis.port), cache);
        let (cached, uncached) = (gate(100_000), gate(1));
        let ids = bench::create_sessions(cached.running.as_ref().unwrap(), sessions, &["viewer"]).unwrap();
        let name = "__Host-cedargate";
        Some(Self {
            cookies: ids.iter().map(|id| format!("cookie: {name}={id}")).collect(),
            token: format!("authorization: Bearer {token}"),
            redis,
            cached,
            uncached,
            _folder: folder,
        })
    }

    pub fn token(&self) -> String {
        self.token.clone()
    }

    pub fn cookies(&self, count: usize) -> Vec<String> {
        self.cookies.iter().take(count).cloned().collect()
    }
}

impl Gate {
    fn start(folder: &TempDir, (app, redis): (SocketAddr, u16), cache: usize) -> Self {
        let yaml = format!(
            "listen: {{ proxy: {{ address: '127.0.0.1:0' }}, decision: null, admin: null }}\n\
             upstream: {{ url: 'http://{app}' }}\n\
             policies: {{ poll: 1s }}\n\
             issuers: [{{ name: corp, issuer: '{}', audiences: [{}], jwks: {{ file: jwks.json }} }}]\n\
             sessions: {{ store: redis, key_file: keys, cache: {cache}, redis: {{ url: 'redis://127.0.0.1:{redis}', key_prefix: 'cedargate:bench:' }} }}\n\
             audit: {{ sink: {{ file: '/dev/null' }} }}\n\
             limits: {{ workers: 1, drain_delay: 0s }}\n",
            bench::ISSUER,
            bench::AUDIENCE
        );
        let running = start_from_yaml(&yaml, folder.path()).unwrap();
        let address = running.addresses.proxy;
        Self {
            running: Some(running),
            address,
        }
    }

    pub fn load(&self, credentials: Vec<String>) -> Load {
        Load::new(self.address, credentials)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

impl Redis {
    fn start(folder: &TempDir) -> Option<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let redis = Self { process, port };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "redis-server does not start");
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Some(redis)
    }

    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.resume();
        let _gone = (self.process.kill().is_err(), self.process.wait().is_err());
    }
}

/// Answers everything with two bytes.
fn app() -> SocketAddr {
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
