//! The real gate, in process, on free ports, with its policy tree in a temporary folder.
//!
//! `Setup` collects files and configuration, `Gate` is the running gate. `Gate::send` checks every response with
//! `Answer::check`. Dropping a `Gate` stops it and panics if the stop fails.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cedargate::app::{Running, start_from_yaml};
use serde_json::Value;

use super::{Answer, App, ISSUER, Issuer, eventually, raw, record_schema};

/// A running gate in its own folder. Dropping it stops the gate and panics if that goes wrong.
pub struct Gate {
    pub folder: tempfile::TempDir,
    pub issuer: Issuer,
    pub app: App,
    pub proxy: SocketAddr,
    pub decision: SocketAddr,
    pub admin: SocketAddr,
    /// The listener for Envoy's gRPC.
    pub ext_authz: SocketAddr,
    running: Option<Running>,
}

/// Configuration and files of a gate to start; `files` are written below the folder first.
pub struct Setup {
    pub files: BTreeMap<String, String>,
    /// YAML added to the configuration's top level.
    pub config: String,
    /// `issuers:` in full, instead of the test issuer with its key file.
    pub issuers: Option<String>,
}

impl Setup {
    /// The shipped example portals.
    pub fn examples() -> Self {
        let mut setup = Self::empty();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for tree in ["policies", "schemas"] {
            setup.add_tree(root, &root.join(tree));
        }
        setup
    }

    pub fn empty() -> Self {
        Self {
            files: BTreeMap::new(),
            config: String::new(),
            issuers: None,
        }
    }

    /// One portal `p` at `/portal/p`: a schema and a policy text.
    pub fn portal(schema: &str, policies: &str) -> Self {
        Self::empty()
            .file("schemas/p.cedarschema", schema)
            .file("policies/p/main.cedar", policies)
    }

    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.insert(name.to_owned(), text.to_owned());
        self
    }

    pub fn config(mut self, yaml: &str) -> Self {
        self.config.push_str(yaml);
        self.config.push('\n');
        self
    }

    fn add_tree(&mut self, root: &Path, folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.add_tree(root, &path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                self.files.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    pub fn start(self) -> Gate {
        self.try_start()
            .unwrap_or_else(|error| panic!("the gate does not start: {error}"))
    }

    pub fn try_start(self) -> Result<Gate, String> {
        let folder = tempfile::tempdir().unwrap();
        for tree in ["policies", "schemas"] {
            std::fs::create_dir_all(folder.path().join(tree)).unwrap();
        }
        for (name, text) in &self.files {
            put(folder.path(), name, text);
        }
        let issuer = Issuer::new("key-1");
        put(folder.path(), "jwks.json", &issuer.jwks().to_string());
        let app = App::start();
        let issuers = self.issuers.unwrap_or_else(|| {
            format!("issuers: [{{ name: test, issuer: '{ISSUER}', audiences: [shop], jwks: {{ file: jwks.json }} }}]")
        });
        let mut yaml = format!("{}\n{issuers}\n", self.config);
        for (key, text) in [
            ("listen:", "listen: { proxy: { address: '127.0.0.1:0' }, decision: { address: '127.0.0.1:0' }, admin: { address: '127.0.0.1:0' } }".to_owned()),
            ("upstream:", format!("upstream: {{ url: 'http://{}' }}", app.address)),
            ("audit:", "audit: { sink: { file: decisions.jsonl } }".to_owned()),
            ("policies:", "policies: { poll: 200ms }".to_owned()),
            ("limits:", "limits: { workers: 2, drain_timeout: 5s }".to_owned()),
        ] {
            if !yaml.lines().any(|line| line.starts_with(key)) {
                yaml.push_str(&text);
                yaml.push('\n');
            }
        }
        // only tests of the drain wait for balancers
        let yaml = yaml.replace("limits: { workers", "limits: { drain_delay: 0s, workers");
        let yaml = yaml.replace("{app}", &app.address.to_string());
        let running = start_from_yaml(&yaml, folder.path()).map_err(|e| e.to_string())?;
        let addresses = running.addresses.clone();
        let none: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let gate = Gate {
            folder,
            issuer,
            app,
            proxy: addresses.proxy,
            decision: addresses.decision_tcp().unwrap_or(none),
            admin: addresses.admin.unwrap_or(none),
            ext_authz: addresses.ext_authz_tcp().unwrap_or(none),
            running: Some(running),
        };
        Ok(gate)
    }
}

pub fn put(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

impl Gate {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn put(&self, name: &str, text: &str) {
        put(self.folder.path(), name, text);
    }

    /// True if the record shows a permit that a reload or a revocation withdrew before the app answered.
    fn has_cut(&self, decision_id: &str) -> bool {
        let is_it = |line: &str| !decision_id.is_empty() && line.contains(decision_id) && line.contains("\"event\":\"cut\"");
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            let text = std::fs::read_to_string(self.path("decisions.jsonl")).unwrap_or_default();
            if text.lines().any(is_it) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// A request through the proxy; see `Answer`.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let before = self.app.count();
        let answer = raw(self.proxy, method, path, headers, b"");
        let mut reached_app = self.app.count() - before;
        if reached_app == 1 && !answer.headers.contains_key("x-app") && self.has_cut(answer.header("x-cedargate-decision-id")) {
            // the permit was withdrawn before the app answered, so the answer was not forwarded
            reached_app = 0;
        }
        answer.check(method, reached_app);
        answer
    }

    pub fn get(&self, path: &str, token: &str) -> Answer {
        self.send("GET", path, &[("authorization", &format!("Bearer {token}"))])
    }

    /// `POST` to the decision listener.
    pub fn ask(&self, path: &str, body: &Value) -> Answer {
        raw(
            self.decision,
            "POST",
            path,
            &[("content-type", "application/json")],
            body.to_string().as_bytes(),
        )
    }

    pub fn authorize(&self, body: &Value) -> Value {
        let answer = self.ask("/authorize", body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    pub fn status(&self) -> Value {
        raw(self.admin, "GET", "/status", &[], b"").json()
    }

    pub fn metrics(&self) -> String {
        raw(self.admin, "GET", "/metrics", &[], b"").text()
    }

    /// The revision that a portal serves.
    pub fn revision(&self, portal: &str) -> Option<String> {
        let status = self.status();
        let found = status["portals"].as_array()?.iter().find(|p| p["portal"] == portal)?.clone();
        found["revision"].as_str().map(str::to_owned)
    }

    /// Decision records so far (the writer is given time to catch up to `at_least`).
    pub fn records(&self, at_least: usize) -> Vec<Value> {
        eventually("the decision log catches up", || {
            let text = std::fs::read_to_string(self.path("decisions.jsonl")).unwrap_or_default();
            let all: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
            let decisions: Vec<Value> = all.into_iter().filter(|r| r["kind"] == "decision").collect();
            if decisions.len() >= at_least {
                Ok(decisions)
            } else {
                Err(format!("{} records", decisions.len()))
            }
        })
    }

    pub fn stop(mut self) {
        self.end();
    }

    /// Stops the gate; every line that it wrote to its log must have the published shape.
    fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
            if !std::thread::panicking() {
                let text = std::fs::read_to_string(self.path("decisions.jsonl")).unwrap_or_default();
                record_schema::check_lines(&text);
            }
        }
    }

    /// Stops, then looks at what it left in its folder.
    pub fn stop_keeping(mut self, look: impl FnOnce(&Path)) {
        self.end();
        look(self.folder.path());
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.end();
    }
}
