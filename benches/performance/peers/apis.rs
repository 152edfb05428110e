//! Decision services over HTTP and JSON: may this user view this document?

use std::net::SocketAddr;
use std::path::Path;

use serde_json::json;

use super::installed::program;
use super::servers::Server;
use super::shop::{self, write};
use crate::gate::Gate;
use crate::load::{ask, request};
use crate::machine::{DEVICE, pinned};
use crate::process::{Process, free_address};

/// A query of a user about a document, and its right answer.
#[derive(Clone, Copy)]
struct Query {
    name: &'static str,
    user: &'static str,
    document: &'static str,
    folder: &'static str,
    is_allowed: bool,
}

/// The query under load: a viewer may view a document of the catalogue.
const ALLOWED: Query = Query {
    name: "a viewer and a document of the catalogue",
    user: "alice",
    document: "17",
    folder: "catalogue",
    is_allowed: true,
};
const DENIED: [Query; 2] = [
    Query {
        name: "a viewer and a document of team 5",
        document: "18",
        folder: "team-5",
        is_allowed: false,
        ..ALLOWED
    },
    Query {
        name: "a user without a role",
        user: "bob",
        is_allowed: false,
        ..ALLOWED
    },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    Gate,
    CedarAgent,
    Cerbos,
    Opa,
}

impl Api {
    pub const ALL: [Self; 4] = [Self::Gate, Self::CedarAgent, Self::Cerbos, Self::Opa];

    pub fn name(self) -> &'static str {
        match self {
            Self::Gate => "cedargate /authorize",
            Self::CedarAgent => "cedar-agent",
            Self::Cerbos => "Cerbos",
            Self::Opa => "OPA",
        }
    }

    /// Starts the service with `policies` policies, on the core of the measured program.
    pub fn start(self, folder: &Path, policies: usize) -> Result<Server, String> {
        let folder = folder.join(format!("{self:?}-{policies}"));
        std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        match self {
            Self::Gate => gate(&folder, policies),
            Self::CedarAgent => cedar_agent(&folder, policies),
            Self::Cerbos => cerbos(&folder, policies),
            Self::Opa => opa(&folder, policies),
        }
    }

    /// The request under load.
    pub fn request(self) -> Vec<u8> {
        self.request_for(ALLOWED)
    }

    fn request_for(self, query: Query) -> Vec<u8> {
        let Query {
            user, document, folder, ..
        } = query;
        let roles: &[&str] = if user == "alice" { &["viewer"] } else { &["stranger"] };
        let (path, body) = match self {
            Self::Gate => (
                "/authorize",
                json!({"portal": "shop", "principal": format!("User::\"{user}\""), "action": "view", "resource": format!("Doc::\"{document}\"")}),
            ),
            Self::CedarAgent => (
                "/v1/is_authorized",
                json!({"principal": format!("User::\"{user}\""), "action": "Action::\"view\"", "resource": format!("Doc::\"{document}\""), "context": {}}),
            ),
            Self::Cerbos => (
                "/api/check/resources",
                json!({"principal": {"id": user, "roles": roles}, "resources": [{"actions": ["view"], "resource": {"kind": folder, "id": document}}]}),
            ),
            Self::Opa => (
                "/v1/data/shop/allow",
                json!({"input": {"principal": {"id": user, "roles": roles}, "action": "view", "resource": {"id": document, "folder": folder}}}),
            ),
        };
        request("POST", path, &[], Some(&body.to_string()))
    }

    fn allows(self, answer: &str) -> Option<bool> {
        let answer: serde_json::Value = serde_json::from_str(answer).ok()?;
        match self {
            Self::Gate => Some(answer.get("decision")?.as_str()? == "allow"),
            Self::CedarAgent => Some(answer.get("decision")?.as_str()? == "Allow"),
            Self::Cerbos => Some(answer.pointer("/results/0/actions/view")?.as_str()? == "EFFECT_ALLOW"),
            Self::Opa => answer.get("result")?.as_bool(),
        }
    }

    /// Checks that the service answers every query rightly and refuses a truncated one.
    pub fn check(self, server: &Server) -> Result<(), String> {
        for query in [ALLOWED].into_iter().chain(DENIED) {
            let (status, body) = ask(server.address, &self.request_for(query))?;
            if status != 200 || self.allows(&body) != Some(query.is_allowed) {
                return Err(format!("{} should be {}: {status} {body}", query.name, query.is_allowed));
            }
        }
        let path = match self {
            Self::Gate => "/authorize",
            Self::CedarAgent => "/v1/is_authorized",
            Self::Cerbos => "/api/check/resources",
            Self::Opa => "/v1/data/shop/allow",
        };
        match ask(server.address, &request("POST", path, &[], Some("{\"principal\":")))? {
            (400..=499, _) => Ok(()),
            (status, body) => Err(format!("a truncated query was answered {status} {body}")),
        }
    }
}

fn gate(folder: &Path, policies: usize) -> Result<Server, String> {
    shop::write_documents_gate(folder, policies);
    let config = "upstream: { url: 'http://127.0.0.1:9' }\naudit: { sink: { file: records.jsonl } }\nlimits: { workers: 1 }\n";
    let gate = Gate::start(folder, "gate", config, pinned(DEVICE))?;
    Ok(Server {
        process: gate.process,
        address: gate.decision,
    })
}

fn cedar_agent(folder: &Path, policies: usize) -> Result<Server, String> {
    let all: Vec<_> = shop::documents_cedar(policies)
        .into_iter()
        .map(|(id, content)| json!({"id": id, "content": content}))
        .collect();
    write(folder, "policies.json", &json!(all).to_string());
    write(folder, "data.json", &shop::documents_entities().to_string());
    let address = free_address();
    let port = address.port().to_string();
    let policies = folder.join("policies.json");
    let policies = policies.to_string_lossy();
    let data = folder.join("data.json");
    let data = data.to_string_lossy();
    let args = [
        "--addr",
        "127.0.0.1",
        "--port",
        &port,
        "--policies",
        &policies,
        "--data",
        &data,
        "--log-level",
        "off",
    ];
    let process = Process::start_logged(pinned(DEVICE), program("cedar-agent")?, &args, &folder.join("log"))?;
    ready(process, address, "/v1/")
}

fn cerbos(folder: &Path, policies: usize) -> Result<Server, String> {
    shop::write_cerbos(folder, policies);
    let http = free_address();
    let grpc = free_address();
    let config = json!({
        "server": {"httpListenAddr": http.to_string(), "grpcListenAddr": grpc.to_string()},
        "storage": {"driver": "disk", "disk": {"directory": folder.join("policies"), "watchForChanges": false}},
        "telemetry": {"disabled": true}, "audit": {"enabled": false},
    });
    write(folder, "config.json", &config.to_string());
    let config = folder.join("config.json");
    let config = format!("--config={}", config.display());
    let args = ["server", "--log-level=error", &config];
    let process = Process::start_logged(pinned(DEVICE), program("cerbos")?, &args, &folder.join("log"))?;
    ready(process, http, "/_cerbos/health")
}

fn opa(folder: &Path, policies: usize) -> Result<Server, String> {
    write(folder, "shop.rego", &shop::rego(policies));
    let address = free_address();
    let at = address.to_string();
    let file = folder.join("shop.rego");
    let file = file.to_string_lossy();
    let args = [
        "run",
        "--server",
        "--addr",
        &at,
        "--disable-telemetry",
        "--log-level",
        "error",
        &file,
    ];
    let process = Process::start_logged(pinned(DEVICE), program("opa")?, &args, &folder.join("log"))?;
    ready(process, address, "/health")
}

/// Waits until `path` is answered with success.
fn ready(mut process: Process, address: SocketAddr, path: &str) -> Result<Server, String> {
    let probe = request("GET", path, &[], None);
    process.wait_until(|| ask(address, &probe).is_ok_and(|(status, _)| (200..300).contains(&status)))?;
    Ok(Server { process, address })
}
