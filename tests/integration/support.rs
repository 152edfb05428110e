//! A gate with everything around it: policy tree in a temporary folder, issuer, recording app, strict client.
//!
//! `Client::send` checks on *every* response the status class, the error shape and a header allow-list, and that a
//! refused request never reached the app. Waiting is done by `eventually`, never by a bare sleep.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cedargate::app::{Running, start_from_yaml};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

/// How long `eventually` waits; a slow machine may set `CEDARGATE_TEST_PATIENCE` (seconds).
fn patience() -> Duration {
    let seconds = std::env::var("CEDARGATE_TEST_PATIENCE").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

/// Tries until it holds; panics with the last state otherwise.
pub fn eventually<T>(what: &str, attempt: impl FnMut() -> Result<T, String>) -> T {
    until(Instant::now() + patience(), what, attempt)
}

/// The same for the start of a large program that is not ours: many at once take their time on a few cores.
pub fn once_started<T>(what: &str, attempt: impl FnMut() -> Result<T, String>) -> T {
    until(Instant::now() + patience() * 6, what, attempt)
}

fn until<T>(deadline: Instant, what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(state) if Instant::now() > deadline => panic!("never came true: {what}; last: {state}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// An issuer with one ES256 key, minting with a library of its own.
pub struct Issuer {
    pub kid: String,
    pem: String,
    public: Vec<u8>,
}

impl Issuer {
    pub fn new(kid: &str) -> Self {
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let der = pair.to_pkcs8v1().unwrap();
        let body = base64(der.as_ref(), &base64::engine::general_purpose::STANDARD);
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        Self {
            kid: kid.to_owned(),
            pem,
            public: pair.public_key().as_ref().to_vec(),
        }
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub fn jwk(&self) -> Value {
        let url = |bytes: &[u8]| base64(bytes, &base64::engine::general_purpose::URL_SAFE_NO_PAD);
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid,
            "x": url(&self.public[1..33]), "y": url(&self.public[33..65])})
    }

    pub fn jwks(&self) -> Value {
        json!({"keys": [self.jwk()]})
    }

    /// Signs exactly these claims.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(&json!({}), claims)
    }

    /// Signs with extra header members.
    pub fn sign_with(&self, extra: &Value, claims: &Value) -> String {
        let mut header = json!({"alg": "ES256", "typ": "JWT", "kid": self.kid});
        for (name, value) in extra.as_object().unwrap() {
            header[name] = value.clone();
        }
        let url = |v: &Value| base64(v.to_string().as_bytes(), &base64::engine::general_purpose::URL_SAFE_NO_PAD);
        self.sign_raw(&format!("{}.{}", url(&header), url(claims)))
    }

    /// Signs any `header.payload`.
    pub fn sign_raw(&self, input: &str) -> String {
        let key = EncodingKey::from_ec_pem(self.pem.as_bytes()).unwrap();
        let signature = jsonwebtoken::crypto::sign(input.as_bytes(), &key, Algorithm::ES256).unwrap();
        format!("{input}.{signature}")
    }

    /// A token of this issuer for the usual audience.
    pub fn token(&self, subject: &str, roles: &[&str]) -> String {
        self.sign(&claims(subject, roles))
    }
}

/// Claims of the test issuer: tenant `acme`, ten minutes.
pub fn claims(subject: &str, roles: &[&str]) -> Value {
    json!({"iss": ISSUER, "aud": "shop", "sub": subject, "tenant": "acme", "roles": roles, "iat": now(), "exp": now() + 600})
}

pub fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        .try_into()
        .unwrap()
}

pub const ISSUER: &str = "https://issuer.test/";

fn base64(bytes: &[u8], engine: &base64::engine::GeneralPurpose) -> String {
    use base64::Engine;
    engine.encode(bytes)
}

/// What the app saw.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An app that records every request and answers 200 with `{"app":"recording"}`.
#[derive(Clone)]
pub struct App {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl App {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let app = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
        };
        let seen = Arc::clone(&app.seen);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let seen = Arc::clone(&seen);
                    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let seen = Arc::clone(&seen);
                        async move {
                            let (head, body) = request.into_parts();
                            let Ok(body) = body.collect().await else {
                                return Err("truncated");
                            };
                            seen.lock().unwrap().push(Seen {
                                method: head.method.to_string(),
                                target: head.uri.to_string(),
                                headers: head.headers,
                                body: body.to_bytes(),
                            });
                            let mut response = Response::new(Full::new(Bytes::from_static(b"{\"app\":\"recording\"}")));
                            response.headers_mut().insert("x-app", http::HeaderValue::from_static("yes"));
                            Ok(response)
                        }
                    });
                    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
                }
            });
        });
        app
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub fn last(&self) -> Seen {
        self.seen.lock().unwrap().last().cloned().expect("the app saw a request")
    }
}

/// A running gate in its own folder. Dropping it stops the gate and panics if that goes wrong.
pub struct Gate {
    pub folder: tempfile::TempDir,
    pub issuer: Issuer,
    pub app: App,
    pub proxy: SocketAddr,
    pub decision: SocketAddr,
    pub admin: SocketAddr,
    running: Option<Running>,
}

/// What to start; `files` are written below the folder first.
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
        // a test that does not look at it does not wait for balancers
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

    /// Whether a permit is on record that a reload or a revocation took back before the app had answered.
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
            // permitted, and not any more when the app's answer came: that went nowhere
            reached_app = 0;
        }
        answer.check(reached_app);
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
        self.running.take().unwrap().stop();
    }

    /// Stops, then looks at what it left in its folder.
    pub fn stop_keeping(mut self, look: impl FnOnce(&Path)) {
        self.running.take().unwrap().stop();
        look(self.folder.path());
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

/// One response, as it came over the wire.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Headers that may appear on any response; one more is a leak until somebody adds it here on purpose.
const HEADERS_ALLOWED: [&str; 16] = [
    "content-type",
    "content-length",
    "transfer-encoding",
    "date",
    "connection",
    "cache-control",
    "x-content-type-options",
    "x-request-id",
    "x-cedargate-decision-id",
    "www-authenticate",
    "retry-after",
    "content-security-policy",
    // of pages
    "referrer-policy",
    "x-frame-options",
    "cross-origin-opener-policy",
    "x-app",
];

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {}", self.text()))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().unwrap()).unwrap_or_default()
    }

    /// The denial code of a refused request.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// What must hold for every answer of the proxy.
    fn check(&self, reached_app: usize) {
        for name in self.headers.keys() {
            assert!(HEADERS_ALLOWED.contains(&name.as_str()), "header `{name}` leaks: {self:?}");
        }
        let from_app = self.headers.contains_key("x-app");
        assert_eq!(
            reached_app,
            usize::from(from_app),
            "the app saw {reached_app} requests for {self:?}"
        );
        if !from_app && self.status != 200 && self.header("content-type") == "application/problem+json" {
            let body = self.json();
            assert_eq!(body["status"], self.status, "{body}");
            for member in ["type", "title", "code", "decision_id"] {
                assert!(body[member].is_string(), "`{member}` is missing: {body}");
            }
            assert_eq!(self.status == 401, self.headers.contains_key("www-authenticate"), "{self:?}");
        }
    }
}

/// One HTTP/1.1 exchange over a fresh connection.
pub fn raw(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("host")) {
        head.push_str("host: shop.test\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    exchange(address, &bytes).unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

/// Sends raw bytes and reads one response; `None` if the connection closes without one.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    // the gate may close before it has read everything
    drop(stream.write_all(bytes));
    let mut received = Vec::new();
    drop(stream.read_to_end(&mut received));
    parse(&received)
}

/// The first final response in what was received.
pub fn parse(received: &[u8]) -> Option<Answer> {
    let split = received.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&received[..split]).unwrap();
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    if status == 100 {
        return parse(&received[split + 4..]);
    }
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        headers.append(http::HeaderName::try_from(name).unwrap(), value.trim().parse().unwrap());
    }
    let rest = &received[split + 4..];
    let body = if headers.get("transfer-encoding").is_some() {
        dechunk(rest)
    } else {
        rest.to_vec()
    };
    assert!(StatusCode::from_u16(status).is_ok());
    Some(Answer {
        status,
        headers,
        body: body.into(),
    })
}

fn dechunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap().trim(), 16).unwrap();
        if size == 0 || rest.len() < end + 2 + size {
            break;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[(end + 2 + size + 2).min(rest.len())..];
    }
    body
}
