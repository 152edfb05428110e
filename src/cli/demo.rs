//! `cedargate demo`: a gate, a demo app, a token issuer and two accounts in one process, and what to try.
//!
//! Everything is real but the application: the gate is the one `serve` starts, reading the policy tree on disk, so
//! that an edit shows at once. The issuer's key lives and dies with the process.

use std::net::{Ipv4Addr, SocketAddr};
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
use crate::base::clock::unix_seconds;
use crate::base::telemetry;
use crate::config::{self, Config};

const ISSUER: &str = "https://issuer.demo.invalid/";
const AUDIENCE: &str = "shop";
const USERS_FILE: &str = "users.yaml";
/// Of a password of the demo.
const PASSWORD_RANDOM_BYTES: usize = 9;
const TOKEN_LIFE: Duration = Duration::from_secs(8 * 3600);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder with `policies/` and `schemas/`
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Port of the proxy; the others are the next ones. 0 takes any free ports
    #[arg(long, default_value_t = 8900)]
    port: u16,
}

pub(crate) fn run(args: &Args) -> Exit {
    if !args.dir.join("policies").is_dir() {
        complain(&format!(
            "`{}` has no `policies` folder; run the demo in the repository or name it with --dir",
            args.dir.display()
        ));
        return Exit::Usage;
    }
    let filter = std::env::var("CEDARGATE_LOG").unwrap_or_else(|_| "warn,cedargate::reload=info".to_owned());
    let log = telemetry::start(Some(&filter));
    let exit = start(args).unwrap_or_else(|message| {
        complain(&message);
        Exit::Failure
    });
    drop(log);
    exit
}

fn start(args: &Args) -> Result<Exit, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let key = SigningKey::generate().map_err(|e| text(&e))?;
    let folder = Scratch::new().map_err(|e| text(&e))?;
    let jwks = folder.0.join("jwks.json");
    std::fs::write(&jwks, key.jwks().to_string()).map_err(|e| text(&e))?;
    let app = demo_app().map_err(|e| text(&e))?;
    let users = users(&folder.0)?;
    let config = config(args, app, &folder.0)?;
    let signals = serve::Signals::catch().map_err(|e| text(&e))?;
    let running = app::start(config, Vec::new()).map_err(|e| text(&e))?;
    print(&welcome(&running.addresses, &key, &users)?);
    Ok(serve::until_asked(running, signals))
}

/// A folder that goes with the process.
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
        // a leftover public key and log in the temporary folder harm nobody
        let _left_behind = std::fs::remove_dir_all(&self.0).is_err();
    }
}

/// Two accounts with passwords of this run, as names with passwords and roles.
fn users(scratch: &Path) -> Result<Vec<(&'static str, String, &'static str)>, String> {
    let mut users = Vec::new();
    for (name, role) in [("alice", "viewer"), ("bob", "editor")] {
        let mut random = [0; PASSWORD_RANDOM_BYTES];
        aws_lc_rs::rand::fill(&mut random).map_err(|_unspecified| "there are no random numbers".to_owned())?;
        let password = URL_SAFE_NO_PAD.encode(random);
        let spec = NewUser {
            name: name.to_owned(),
            password: Hash::new(&password)?,
            tenant: Some("acme".to_owned()),
            roles: vec![role.to_owned()],
            portals: Vec::new(),
            full_name: None,
            email: Some(format!("{name}@acme.test")),
        };
        let file = UsersEditor::open(&scratch.join(USERS_FILE)).map_err(|e| e.to_string())?;
        file.add(&spec).map_err(|e| e.to_string())?;
        users.push((name, password, role));
    }
    Ok(users)
}

/// The port in `public_url`, so it must be known before anything listens.
fn proxy_port(args: &Args) -> std::io::Result<u16> {
    if args.port != 0 {
        return Ok(args.port);
    }
    let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(free.local_addr()?.port())
}

fn config(args: &Args, app: SocketAddr, scratch: &Path) -> Result<Config, String> {
    let proxy = proxy_port(args).map_err(|e| e.to_string())?;
    let port = |offset: u16| if args.port == 0 { 0 } else { args.port.saturating_add(offset) };
    let text = json!({
        "public_url": format!("http://localhost:{proxy}"),
        "listen": {
            "proxy": {"address": format!("127.0.0.1:{proxy}")},
            "decision": {"address": format!("127.0.0.1:{}", port(1))},
            "admin": {"address": format!("127.0.0.1:{}", port(3))},
        },
        "upstream": {"url": format!("http://{app}")},
        "policies": {"dir": args.dir.join("policies"), "schemas": args.dir.join("schemas"), "poll": "1s"},
        "issuers": [{"name": "demo", "issuer": ISSUER, "audiences": [AUDIENCE], "jwks": {"file": scratch.join("jwks.json")},
            "subject_prefix": ""}],
        "sessions": {"danger_insecure_cookie": true},
        "login": {"providers": {"local": {"title": "Demo accounts", "users_file": scratch.join(USERS_FILE)}}},
        "identity": {"title": "Demo shop"},
        "audit": {"sink": {"file": scratch.join("decisions.jsonl")}},
    });
    // JSON is YAML; relative folders are relative to where the user is
    config::from_str(&text.to_string(), Path::new(""), std::iter::empty())
        .map(|l| l.config)
        .map_err(|e| e.to_string())
}

/// The application behind the gate: says what it was told about the caller.
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
                    Ok::<_, std::convert::Infallible>(shop(request.method(), request.uri().path(), request.headers()))
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
    })?;
    Ok(address)
}

fn shop(method: &http::Method, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let told = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let body = json!({
        "app": "demo shop",
        "did": format!("{method} {path}"),
        "user": told("x-forwarded-user"),
        "tenant": told("x-cedargate-tenant"),
        "roles": told("x-cedargate-roles"),
        "portal": told("x-cedargate-portal"),
        "decision_id": told("x-cedargate-decision-id"),
    });
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn welcome(addresses: &app::Addresses, key: &SigningKey, users: &[(&str, String, &str)]) -> Result<String, String> {
    let token = |subject: &str, roles: &[&str]| {
        let claims = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "tenant": "acme", "roles": roles,
            "email": format!("{subject}@acme.test")});
        let claims: Map<String, Value> = claims.as_object().cloned().unwrap_or_default();
        mint(key, claims, TOKEN_LIFE, unix_seconds()).map_err(|e| e.to_string())
    };
    let (alice, ed) = (token("alice", &["viewer"])?, token("ed", &["editor"])?);
    let paint = Paint::stdout();
    let url = format!("http://{}/portal/customer/orders", addresses.proxy);
    let decision = match &addresses.decision {
        Some(config::Address::Tcp(address)) => format!("http://{address}/authorize"),
        _ => String::new(),
    };
    let admin = addresses.admin.map(|a| format!("http://{a}/status")).unwrap_or_default();
    let head = |text: &str| paint.green(text);
    let login = format!(
        "http://localhost:{}/api/v1/identity/auth/login?portal=customer&rd=/portal/customer/orders",
        addresses.proxy.port()
    );
    let accounts: String = users
        .iter()
        .map(|(name, password, role)| format!("\n  {name} {password}   # {role}"))
        .collect();
    Ok(format!(
        "{}\n  proxy     {url}\n  authorize {decision}\n  status    {admin}\n\n{}\n\n{}\n  {}\n\n{}\n  {}\n\n{}\n  {}\n\n{}\n{}\n\n{}\n  {login}{accounts}\n\n{}\n  {}\n",
        head("cedargate demo: two portals in front of a demo shop. Ctrl-C ends it."),
        head("Tokens") + &format!("\n  export ALICE={alice}   # viewer\n  export ED={ed}   # editor"),
        head("1. Nobody: 401"),
        format_args!("curl -i {url}"),
        head("2. Alice, a viewer, places an order: 403"),
        format_args!("curl -i -X POST -H \"Authorization: Bearer $ALICE\" {url}"),
        head("3. Alice reads the orders: 200"),
        format_args!("curl -i -H \"Authorization: Bearer $ALICE\" {url}"),
        head("4. Change one line while it runs, and repeat number 2"),
        "  policies/customer/orders.cedar: in `editors-place-orders`, change Role::\"editor\" to Role::\"viewer\"",
        head("In a browser"),
        head("The app asks for itself"),
        format_args!(
            "curl -s {decision} -d '{{\"portal\": \"customer\", \"principal\": {{\"type\": \"User\", \"id\": \"alice\", \
             \"parents\": [\"Role::\\\"viewer\\\"\"]}}, \"action\": \"GET\", \
             \"resource\": \"Path::\\\"/portal/customer/orders\\\"\"}}'"
        ),
    ))
}
