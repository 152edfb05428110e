//! `cedargate demo`: runs a gate, a demo shop with two portals, a token issuer and accounts in one process, and prints
//! what to try.
//!
//! Only the app is made up: the gate is the one that `serve` starts, and it reads the policy tree on disk, so that an
//! edit takes effect at once. The issuer's key exists only in this process. The accounts are users of that issuer:
//! `alice` is the same principal with her token and with her session. Where no tree is at hand, as in the image, it
//! reads the installed one.

mod api;
mod app;
mod authenticator;
mod decisions;
mod pages;
mod people;
mod question;
mod shop;
mod welcome;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::json;

use self::api::Api;
use self::app::App;
use self::pages::Pages;
use self::people::Person;
use self::question::Gate;
use self::shop::Shop;
use self::welcome::Demo;
use super::{Exit, complain, print, serve};
use crate::app as gate;
use crate::authn::SigningKey;
use crate::base::telemetry;
use crate::config::{self, Config};

const ISSUER_NAME: &str = "demo";
const ISSUER: &str = "https://issuer.demo.invalid/";
const AUDIENCE: &str = "shop";
const USERS_FILE: &str = "users.yaml";
const DECISION_LOG: &str = "decisions.jsonl";
/// The example tree that the image and the Debian package bring along.
const INSTALLED_TREE: &str = "/usr/share/cedargate/example";

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
    /// Folder of the portals' built pages (`customer/index.html`, …), for their developers. Default: those in the
    /// program
    #[arg(long, value_name = "DIR")]
    portals: Option<PathBuf>,
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
    let people = people::people()?;
    let users_file = folder.0.join(USERS_FILE);
    let decision_log = folder.0.join(DECISION_LOG);
    people::write_accounts(&people, &users_file)?;
    let app = Arc::new(shop(args, &people, &decision_log)?);
    let address = app::serve(Arc::clone(&app)).map_err(|e| e.to_string())?;
    let config = config(args, tree, address, &folder.0)?;
    let signals = serve::Signals::catch().map_err(|e| e.to_string())?;
    if !args.address.is_loopback() {
        complain(&format!(
            "{} is not loopback: every machine that reaches this port can try the demo's accounts, over plain HTTP",
            args.address
        ));
    }
    let running = gate::start(config, Vec::new()).map_err(|e| e.to_string())?;
    let demo = Demo {
        addresses: &running.addresses,
        key: &key,
        people: &people,
        users_file,
        decision_log: decision_log.clone(),
        tree,
        has_pages: app.pages.are_there(),
    };
    let _set_once = app.api.gate.authorize.set(demo.authorize_url()).is_err();
    print(&demo.text()?);
    authenticator::start(people, decision_log).map_err(|e| e.to_string())?;
    Ok(serve::run_until_shutdown(running, signals))
}

fn shop(args: &Args, people: &[Person], decision_log: &Path) -> Result<App, String> {
    let customers: Vec<shop::Customer<'_>> = people.iter().map(Person::customer).collect();
    Ok(App {
        pages: Pages::open(args.portals.as_deref())?,
        api: Api {
            shop: Mutex::new(Shop::new(&customers)),
            gate: Gate::new()?,
            decision_log: decision_log.to_owned(),
        },
    })
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
