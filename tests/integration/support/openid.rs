//! OpenID providers to log in at: a real one, a mock with chosen faults, and a browser that shows every hop.
//!
//! Both run in node (`tests/tools/oidc`), on ports of their own, and end with the test. They take orders at a second
//! port; every method here that changes one is such an order. `user_agent` has the browser.

#![allow(dead_code, reason = "a harness has more handles than each of its users needs")]

mod openid_harness_tests;
pub mod user_agent;

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::processes::Supervised;
use crate::support::tools::tool;
use crate::support::{Answer, once_started, raw};
pub use user_agent::{Browser, Hop, Request};

/// A provider of either kind.
#[derive(Debug)]
pub struct Server {
    folder: tempfile::TempDir,
    process: Supervised,
    pub port: u16,
    control: SocketAddr,
}

/// A fault of an endpoint, for `times` requests or for all.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    DelayMillis(u64),
    Status(u16),
    /// The connection is closed without an answer.
    Close,
}

impl Server {
    fn start(script: &str, options: &Value) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let tools = root.join("target/tools");
        assert!(
            tools.join("node_modules").is_dir(),
            "the providers are missing; run `make tools`"
        );
        let folder = tempfile::tempdir().unwrap();
        let script = root.join("tests/tools/oidc").join(script);
        let args = [script.display().to_string(), tools.display().to_string(), options.to_string()];
        let process = Supervised::start(&tool(&["node"]), &args, &folder.path().join("log"));
        let at: Value = once_started("the provider is ready", || {
            let log = process.log();
            let line = log.lines().find_map(|line| line.strip_prefix("ready "));
            line.and_then(|line| serde_json::from_str(line).ok()).ok_or(log.clone())
        });
        let port = |name: &str| at[name].as_u64().unwrap() as u16;
        Self {
            folder,
            process,
            port: port("port"),
            control: SocketAddr::from(([127, 0, 0, 1], port("control"))),
        }
    }

    /// The issuer as its tokens and its discovery document have it.
    pub fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn pause(&self) {
        self.process.pause();
    }

    pub fn resume(&self) {
        self.process.resume();
    }

    pub fn kill(&self) {
        self.process.kill();
    }

    /// Injects a fault at `token`, `jwks`, `userinfo`, `discovery`, `auth`, …; the next so many requests, or all until
    /// `heal`.
    pub fn fault(&self, at: &str, fault: Fault, times: Option<u32>) {
        let mut order = match fault {
            Fault::DelayMillis(delay) => json!({"delay": delay}),
            Fault::Status(status) => json!({"status": status}),
            Fault::Close => json!({"close": true}),
        };
        order["at"] = json!(at);
        if let Some(times) = times {
            order["times"] = json!(times);
        }
        self.order("fault", &order);
    }

    pub fn heal(&self) {
        self.order("heal", &json!({}));
    }

    /// The number of requests that an endpoint got.
    pub fn count(&self, at: &str) -> u64 {
        self.order("counts", &json!({}))[at].as_u64().unwrap_or(0)
    }

    /// The number of token requests of this `grant_type`, failed ones included.
    pub fn count_tokens(&self, grant_type: &str) -> u64 {
        self.order("counts", &json!({}))["token"][grant_type].as_u64().unwrap_or(0)
    }

    fn order(&self, name: &str, argument: &Value) -> Value {
        let body = argument.to_string();
        let answer = raw(self.control, "POST", &format!("/{name}"), &[], body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// A form to one of its endpoints, as a relying party sends it.
    pub fn post(&self, path: &str, headers: &[(&str, &str)], fields: &[(&str, &str)]) -> Answer {
        let body = user_agent::form(fields);
        let kind = ("content-type", "application/x-www-form-urlencoded");
        raw(self.address(), "POST", path, &[&[kind], headers].concat(), body.as_bytes())
    }

    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        raw(self.address(), "GET", path, headers, b"")
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }
}

/// The behaviour of the real provider.
#[derive(Clone, Debug)]
pub struct Setup(Value);

impl Setup {
    /// Claims of scopes are not in the ID token.
    pub fn claims_in_userinfo_only(self) -> Self {
        self.with("claims_in", json!("userinfo"))
    }

    /// Refresh tokens also without `offline_access`.
    pub fn always_refresh(self) -> Self {
        self.with("always_refresh", json!(true))
    }

    pub fn access_token_seconds(self, seconds: u32) -> Self {
        self.with("access_token_seconds", json!(seconds))
    }

    pub fn refresh_token_seconds(self, seconds: u32) -> Self {
        self.with("refresh_token_seconds", json!(seconds))
    }

    /// The levels of a login; the first is the level of a login that asks for none. `1` and `2` unless a test sets
    /// others.
    pub fn acr_values(self, values: &[&str]) -> Self {
        self.with("acr_values", json!(values))
    }

    /// Every login has the first level, also one that asks for another.
    pub fn ignores_acr(self) -> Self {
        self.with("honours_acr", json!(false))
    }

    /// The peculiarities of a provider of the market, as `provider.mjs` names them.
    pub fn shape(self, shape: &Value) -> Self {
        self.with("shape", shape.clone())
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.0[name] = value;
        self
    }

    pub fn start(self) -> Provider {
        Provider(Server::start("provider.mjs", &self.0))
    }
}

/// `oidc-provider`: PKCE required, refresh tokens rotate, consent is given, accounts need no password.
#[derive(Debug)]
pub struct Provider(Server);

impl std::ops::Deref for Provider {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl Provider {
    pub fn start() -> Self {
        Self::setup().start()
    }

    pub fn setup() -> Setup {
        Setup(json!({
            "claims_in": "id_token", "always_refresh": false, "acr_values": ["1", "2"], "honours_acr": true,
            "access_token_seconds": 600, "id_token_seconds": 600, "refresh_token_seconds": 3600,
        }))
    }

    /// Adds or replaces a client: its metadata as OpenID Dynamic Client Registration names it.
    pub fn client(&self, metadata: &Value) {
        self.order("client", metadata);
    }

    /// Adds or replaces an account: `tenant`, `roles`, `groups` come with `openid`, `email` and `name` with their
    /// scopes.
    pub fn account(&self, name: &str, claims: &Value) {
        self.order("account", &json!({"name": name, "claims": claims}));
    }

    pub fn forget_account(&self, name: &str) {
        self.order("forget", &json!({"account": name}));
    }

    /// Ends an account's sessions at the provider; clients with a `backchannel_logout_uri` are notified before this
    /// returns: `[{client, sid, outcome}]`, the outcome being `ok` or the fault of the answer.
    pub fn end_sessions(&self, account: &str) -> Vec<Value> {
        let outcomes = self.order("logout", &json!({"account": account}));
        outcomes["told"].as_array().unwrap().clone()
    }

    /// Revokes every grant of an account, with its access and refresh tokens; returns their number.
    pub fn revoke_grants(&self, account: &str) -> u64 {
        self.order("revoke", &json!({"account": account}))["grants"].as_u64().unwrap()
    }

    /// New keys under new ids; the old ones are no longer published.
    pub fn rotate_keys(&self) {
        self.order("rotate", &json!({}));
    }

    /// Changes how a running provider behaves: `always_refresh`, `honours_acr`, the lifetimes.
    pub fn change(&self, options: &Value) {
        self.order("set", options);
    }
}

/// `oauth2-mock-server`: a code for every request, no interaction, and chosen faults.
#[derive(Debug)]
pub struct MockProvider(Server);

impl std::ops::Deref for MockProvider {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl MockProvider {
    /// Starts; every login is `subject` with these claims.
    pub fn start(subject: &str, claims: &Value) -> Self {
        Self(Server::start("mock.mjs", &json!({"subject": subject, "claims": claims})))
    }

    /// Adds a fault to all following answers; names are in `tests/tools/oidc/mock.mjs`, an unknown one panics.
    pub fn lie(&self, name: &str) {
        self.order("lie", &json!({"name": name}));
    }

    pub fn tell_the_truth(&self) {
        self.order("lie", &json!({}));
    }

    /// The names of all faults.
    pub fn lies(&self) -> Vec<String> {
        serde_json::from_value(self.order("lies", &json!({}))).unwrap()
    }

    /// Sets the subject of the following logins.
    pub fn subject(&self, subject: &str, claims: &Value) {
        self.order("set", &json!({"subject": subject, "claims": claims}));
    }

    /// Members of its discovery document to put in place of its own.
    pub fn discovery(&self, members: &Value) {
        self.order("set", &json!({"discovery": members}));
    }
}
