//! A gate whose portal logs in at an OpenID provider, on a port that is known before the gate starts.

use serde_json::{Value, json};
use url::Url;

use super::openid::{Browser, Hop, Provider, Request, Server};
use super::processes::free_port;
use super::session_client::IDENTITY_PATH;
use super::{Gate, Seen, Setup, eventually};

const SCHEMA: &str = "entity Tenant; entity Role in [Role]; entity Portal; entity Path in [Path, Portal];
    entity User in [Role, Tenant] = { email?: String };
    action GET, POST appliesTo { principal: [User], resource: [Path], context: { auth?: { acr?: String } } };";
const POLICIES: &str = r#"
    @id("open") permit (principal, action, resource);
    @id("vault") @step_up("2") forbid (principal, action, resource in Path::"/portal/p/vault")
        unless { context has auth && context.auth has acr && context.auth.acr == "2" };
"#;
pub const SECRET: &str = "the-clients-secret";
pub const COOKIE: &str = "__Host-cedargate";

/// A gate at a port that is known before it starts, with a portal that logs in at `provider`.
pub struct LoginGate {
    pub gate: Gate,
    pub origin: String,
}

pub fn start_login_gate(provider: &Server, more: &str) -> LoginGate {
    start_login_gate_with(provider, "", more)
}

/// Like `start_login_gate`, with more keys of the issuer's configuration.
pub fn start_login_gate_with(provider: &Server, issuer: &str, more: &str) -> LoginGate {
    start_gate_for(&LoginSetup {
        issuer_url: &provider.issuer(),
        issuer,
        more,
        ..LoginSetup::default()
    })
}

/// The configuration of a gate whose portal logs in at an OpenID provider.
#[derive(Clone, Copy, Debug)]
pub struct LoginSetup<'a> {
    pub issuer_url: &'a str,
    /// More keys of the issuer, beginning with a comma.
    pub issuer: &'a str,
    /// More keys of the provider, beginning with a comma.
    pub provider: &'a str,
    /// `portal.yaml`.
    pub portal: &'a str,
    /// More sections.
    pub more: &'a str,
}

impl Default for LoginSetup<'_> {
    fn default() -> Self {
        Self {
            issuer_url: "",
            issuer: "",
            provider: ", scopes: [openid, email]",
            portal: "login: { provider: corp }\n",
            more: "",
        }
    }
}

pub fn start_gate_for(login: &LoginSetup<'_>) -> LoginGate {
    start_gate_in(login, Setup::portal(SCHEMA, POLICIES))
}

/// Like `start_gate_for`, with more files.
pub fn start_gate_in(login: &LoginSetup<'_>, setup: Setup) -> LoginGate {
    let LoginSetup {
        issuer_url,
        issuer,
        provider,
        portal,
        more,
    } = login;
    let port = free_port();
    let origin = format!("http://127.0.0.1:{port}");
    let mut setup = setup
        .file("policies/p/portal.yaml", portal)
        .config(&format!("public_url: '{origin}'"))
        .config(&format!("listen: {{ proxy: {{ address: '127.0.0.1:{port}' }}, decision: {{ address: '127.0.0.1:0' }}, admin: {{ address: '127.0.0.1:0' }} }}"))
        .config(&format!(
            "login: {{ providers: {{ corp: {{ issuer: corp, client_id: gate, client_secret: {SECRET} {provider} }} }} }}"
        ))
        .config(more);
    setup.issuers = Some(format!(
        "issuers: [{{ name: corp, issuer: '{issuer_url}', audiences: [api], leeway: 5s {issuer} }}]"
    ));
    LoginGate {
        gate: setup.start(),
        origin,
    }
}

impl LoginGate {
    pub fn url(&self, path: &str) -> Url {
        Url::parse(&format!("{}{path}", self.origin)).unwrap()
    }

    pub fn open(&self, browser: &mut Browser, path: &str) -> Hop {
        browser.open(self.url(path).as_str())
    }

    pub fn post(&self, browser: &mut Browser, endpoint: &str) -> Hop {
        browser.send(&self.url(&format!("{IDENTITY_PATH}/{endpoint}")), &Request::fetch("POST"))
    }

    pub fn written(&self) -> String {
        std::fs::read_to_string(self.gate.path("decisions.jsonl")).unwrap_or_default()
    }

    /// Waits for `at_least` auth events of one kind.
    pub fn events(&self, event: &str, at_least: usize) -> Vec<Value> {
        eventually("the auth events are written", || {
            let text = self.written();
            let all = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let of_kind = all.filter(|record| record["kind"] == "auth_event" && record["event"] == event);
            let found: Vec<Value> = of_kind.collect();
            (found.len() >= at_least).then_some(found).ok_or(text)
        })
    }

    pub fn counted(&self, result: &str) -> bool {
        let line = format!("cedargate_logins_total{{provider=\"corp\",result=\"{result}\"}}");
        self.gate.metrics().contains(&line)
    }
}

pub fn register_at(start: impl Fn(&Provider) -> LoginGate, provider: Provider) -> (Provider, LoginGate) {
    register_callback(start, provider, &format!("{IDENTITY_PATH}/auth/callback"))
}

/// Like `register_at`, with the path of the redirect URI.
pub fn register_callback(start: impl Fn(&Provider) -> LoginGate, provider: Provider, callback: &str) -> (Provider, LoginGate) {
    let login_gate = start(&provider);
    provider.client(&json!({
        "client_id": "gate", "client_secret": SECRET,
        "redirect_uris": [format!("{}{callback}", login_gate.origin)],
        "grant_types": ["authorization_code", "refresh_token"],
        "post_logout_redirect_uris": [format!("{}/", login_gate.origin)],
        "backchannel_logout_uri": format!("{}{IDENTITY_PATH}/auth/backchannel-logout", login_gate.origin),
        "backchannel_logout_session_required": true,
    }));
    provider.account("alice", &alice(&["viewer"]));
    (provider, login_gate)
}

pub fn alice(roles: &[&str]) -> Value {
    json!({"tenant": "acme", "roles": roles, "email": "alice@acme.test"})
}

pub fn real(setup: crate::support::openid::Setup) -> (Provider, LoginGate) {
    register_at(|provider| start_login_gate(provider, ""), setup.start())
}

pub fn header<'a>(seen: &'a Seen, name: &str) -> &'a str {
    seen.headers
        .get(name)
        .map(|value| value.to_str().unwrap())
        .unwrap_or_default()
}

pub fn is_callback(url: &Url) -> bool {
    url.path().ends_with("/auth/callback") || url.path() == "/oauth2/callback"
}

/// Opens the path and logs in at the provider; returns the callback address without sending it.
pub fn to_callback(login_gate: &LoginGate, browser: &mut Browser, path: &str) -> Url {
    let hop = browser.send(&login_gate.url(path), &Request::navigation("none"));
    let mut hop = browser.follow_until(hop, is_callback);
    if hop.status == 200 {
        hop = browser.submit(&hop, &[("login", "alice")]);
        hop = browser.follow_until(hop, is_callback);
    }
    hop.location().unwrap_or_else(|| panic!("{hop:?}"))
}
