//! `cedargate demo`: runs a gate, a demo app, a token issuer and two accounts in one process, and prints requests to try.
//!
//! Only the app is made up: the gate is the one that `serve` starts, and it reads the policy tree on disk, so that an edit
//! takes effect at once. The issuer's key exists only in this process. The accounts are users of that issuer: `alice` is the
//! same principal with her token and with her session. Where no tree is at hand, as in the image, it reads the installed one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};

use super::{Exit, Paint, complain, print, serve};
use crate::accounts::{Hash, NewUser, UsersEditor};
use crate::app;
use crate::authn::{SigningKey, mint};
use crate::base::{clock, telemetry};
use crate::config::{self, Config};

const ISSUER_NAME: &str = "demo";
const ISSUER: &str = "https://issuer.demo.invalid/";
const AUDIENCE: &str = "shop";
const TENANT: &str = "acme";
const USERS_FILE: &str = "users.yaml";
const DECISION_LOG: &str = "decisions.jsonl";
/// The example tree that the image and the Debian package bring along.
const INSTALLED_TREE: &str = "/usr/share/cedargate/example";
/// Random bytes of a demo password.
const PASSWORD_RANDOM_BYTES: usize = 9;
/// The edit that turns the second request's 403 into 200; the file stands before it.
const EDIT: &str = r#"in `editors-place-orders`, change Role::"editor" to Role::"viewer""#;
/// The file of that edit, in the tree.
const EDITED: &str = "policies/customer/orders.cedar";
/// The body of a `POST /authorize`.
const APP_QUERY: &str = r#"{"portal": "customer", "principal": {"type": "User", "id": "alice", "parents": ["Role::\"viewer\""]}, "action": "GET", "resource": "Path::\"/portal/customer/orders\""}"#;
const TOKEN_LIFE: Duration = Duration::from_secs(8 * 3600);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder with `policies/` and `schemas/`. Default: this folder if it has them, else the installed example
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Address of the proxy and of the admin listener; in a container 0.0.0.0. The decision listener stays on loopback
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    /// Port of the proxy; the others are the next ones. 0 takes any free ports
    #[arg(long, default_value_t = 8900)]
    port: u16,
}

impl Args {
    /// The folder of the policy tree.
    fn tree(&self) -> PathBuf {
        let installed = || has_policies(Path::new(INSTALLED_TREE)) && !has_policies(Path::new("."));
        match &self.dir {
            Some(dir) => dir.clone(),
            None if installed() => PathBuf::from(INSTALLED_TREE),
            None => PathBuf::from("."),
        }
    }
}

fn has_policies(dir: &Path) -> bool {
    dir.join("policies").is_dir()
}

pub(crate) fn run(args: &Args) -> Exit {
    let tree = args.tree();
    if !has_policies(&tree) {
        complain(&format!(
            "`{}` has no `policies` folder; run the demo in the repository or name it with --dir",
            tree.display()
        ));
        return Exit::Usage;
    }
    let filter = std::env::var("CEDARGATE_LOG").unwrap_or_else(|_| "warn,cedargate::reload=info".to_owned());
    let log = telemetry::start(Some(&filter));
    let exit = start(args, &tree).unwrap_or_else(|message| {
        complain(&message);
        Exit::Failure
    });
    drop(log);
    exit
}

fn start(args: &Args, tree: &Path) -> Result<Exit, String> {
    let key = SigningKey::generate().map_err(|e| e.to_string())?;
    let folder = Scratch::new().map_err(|e| e.to_string())?;
    let jwks = folder.0.join("jwks.json");
    std::fs::write(&jwks, key.jwks().to_string()).map_err(|e| e.to_string())?;
    let app = demo_app().map_err(|e| e.to_string())?;
    let accounts = make_accounts(&folder.0)?;
    let config = config(args, tree, app, &folder.0)?;
    let signals = serve::Signals::catch().map_err(|e| e.to_string())?;
    let running = app::start(config, Vec::new()).map_err(|e| e.to_string())?;
    let demo = Demo {
        addresses: &running.addresses,
        key: &key,
        accounts: &accounts,
        decision_log: folder.0.join(DECISION_LOG),
        tree,
    };
    print(&demo.welcome()?);
    Ok(serve::run_until_shutdown(running, signals))
}

/// A temporary folder; dropping it removes the folder.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("cedargate-demo-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // a leftover public key and decision log in the temporary folder are harmless
        let _left_behind = std::fs::remove_dir_all(&self.0).is_err();
    }
}

/// An account with a password of this run.
struct DemoAccount {
    name: &'static str,
    password: String,
    role: &'static str,
}

impl DemoAccount {
    fn line(&self) -> String {
        format!("{} {}   # {}", self.name, self.password, self.role)
    }
}

fn make_accounts(scratch: &Path) -> Result<Vec<DemoAccount>, String> {
    let mut accounts = Vec::new();
    for (name, role) in [("alice", "viewer"), ("bob", "editor")] {
        let mut random = [0; PASSWORD_RANDOM_BYTES];
        aws_lc_rs::rand::fill(&mut random).map_err(|_unspecified| "the random number generator failed".to_owned())?;
        let password = URL_SAFE_NO_PAD.encode(random);
        let spec = NewUser {
            name: name.to_owned(),
            password: Hash::new(&password)?,
            tenant: Some(TENANT.to_owned()),
            roles: vec![role.to_owned()],
            portals: Vec::new(),
            full_name: None,
            email: Some(email(name)),
        };
        let file = UsersEditor::open(&scratch.join(USERS_FILE)).map_err(|e| e.to_string())?;
        file.add(&spec).map_err(|e| e.to_string())?;
        accounts.push(DemoAccount { name, password, role });
    }
    Ok(accounts)
}

/// The proxy's port. It is part of `public_url`, so it must be known before the gate listens.
fn proxy_port(args: &Args) -> std::io::Result<u16> {
    if args.port != 0 {
        return Ok(args.port);
    }
    let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(free.local_addr()?.port())
}

fn config(args: &Args, tree: &Path, app: SocketAddr, scratch: &Path) -> Result<Config, String> {
    let proxy = proxy_port(args).map_err(|e| e.to_string())?;
    let port = |offset: u16| if args.port == 0 { 0 } else { args.port.saturating_add(offset) };
    let text = json!({
        "public_url": format!("http://localhost:{proxy}"),
        "listen": {
            "proxy": {"address": SocketAddr::new(args.address, proxy).to_string()},
            "decision": {"address": format!("127.0.0.1:{}", port(1))},
            "admin": {"address": SocketAddr::new(args.address, port(3)).to_string()},
        },
        "upstream": {"url": format!("http://{app}")},
        "policies": {"dir": tree.join("policies"), "schemas": tree.join("schemas"), "poll": "1s"},
        "issuers": [{"name": ISSUER_NAME, "issuer": ISSUER, "audiences": [AUDIENCE], "jwks": {"file": scratch.join("jwks.json")}}],
        "sessions": {"danger_insecure_cookie": true},
        "login": {"default": "local", "providers": {"local": {"title": "Demo accounts", "issuer": ISSUER_NAME, "users_file": scratch.join(USERS_FILE)}}},
        "identity": {"title": "Demo shop"},
        "audit": {"sink": {"file": scratch.join(DECISION_LOG)}},
    });
    // JSON is YAML; relative folders start at the current folder
    config::from_str(&text.to_string(), Path::new(""), std::iter::empty())
        .map(|l| l.config)
        .map_err(|e| e.to_string())
}

/// The app behind the gate: answers with the identity headers that it received.
fn demo_app() -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("demo-app".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
                return;
            };
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                    Ok::<_, std::convert::Infallible>(demo_response(request.method(), request.uri().path(), request.headers()))
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
    })?;
    Ok(address)
}

fn demo_response(method: &http::Method, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let body = json!({
        "app": "demo shop",
        "did": format!("{method} {path}"),
        "user": header("x-forwarded-user"),
        "tenant": header("x-cedargate-tenant"),
        "roles": header("x-cedargate-roles"),
        "portal": header("x-cedargate-portal"),
        "decision_id": header("x-cedargate-decision-id"),
    });
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

/// A running demo, as the welcome text describes it.
struct Demo<'a> {
    addresses: &'a app::Addresses,
    key: &'a SigningKey,
    accounts: &'a [DemoAccount],
    decision_log: PathBuf,
    tree: &'a Path,
}

impl Demo<'_> {
    /// The installed example belongs to the package, so its reader edits a copy.
    fn edit(&self) -> String {
        if self.tree == Path::new(INSTALLED_TREE) {
            return format!("start the demo with --dir and your own copy of {INSTALLED_TREE}; in {EDITED}, {EDIT}");
        }
        format!("{}: {EDIT}", self.tree.join(EDITED).display())
    }

    fn welcome(&self) -> Result<String, String> {
        let orders = format!("http://{}/portal/customer/orders", reached(self.addresses.proxy));
        let decision = match &self.addresses.decision {
            Some(config::Address::Tcp(address)) => format!("http://{address}/authorize"),
            _ => String::new(),
        };
        let status = self
            .addresses
            .admin
            .map(|a| format!("http://{}/status", reached(a)))
            .unwrap_or_default();
        let mut browser = vec![format!("http://localhost:{}/", self.addresses.proxy.port())];
        browser.extend(self.accounts.iter().map(DemoAccount::line));
        Ok([
            section(
                "cedargate demo: two portals in front of a demo shop. Ctrl-C ends it.",
                &[
                    format!("proxy     {orders}"),
                    format!("authorize {decision}"),
                    format!("status    {status}"),
                    format!("decisions {}", self.decision_log.display()),
                ],
            ),
            section(
                "Tokens",
                &[
                    format!("export ALICE={}   # viewer", self.token("alice", "viewer")?),
                    format!("export BOB={}   # editor", self.token("bob", "editor")?),
                ],
            ),
            section("1. Without a token: 401", &[format!("curl -i {orders}")]),
            section(
                "2. Alice, a viewer, places an order: 403",
                &[format!("curl -i -X POST -H \"Authorization: Bearer $ALICE\" {orders}")],
            ),
            section(
                "3. Alice reads the orders: 200",
                &[format!("curl -i -H \"Authorization: Bearer $ALICE\" {orders}")],
            ),
            section("4. Change one line while it runs, and repeat number 2", &[self.edit()]),
            section("In a browser, as one of these", &browser),
            section(
                "The app makes its own query",
                &[format!("curl -s {decision} -d '{APP_QUERY}'")],
            ),
        ]
        .join("\n"))
    }

    fn token(&self, subject: &str, role: &str) -> Result<String, String> {
        let claims = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "tenant": TENANT, "roles": [role],
            "email": email(subject)});
        let claims: Map<String, Value> = claims.as_object().cloned().unwrap_or_default();
        mint(self.key, claims, TOKEN_LIFE, clock::unix_seconds()).map_err(|e| e.to_string())
    }
}

/// The address to connect to. A listener on all addresses is reached on loopback, also through a container's published port.
fn reached(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        return SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
    }
    address
}

fn email(name: &str) -> String {
    format!("{name}@acme.test")
}

/// A headline and its lines.
fn section(headline: &str, lines: &[String]) -> String {
    let lines: String = lines.iter().map(|line| format!("  {line}\n")).collect();
    format!("{}\n{lines}", Paint::stdout().green(headline))
}
