//! The files of a portal with any number of policies: ten that the requests here meet, and a rest that cannot apply.
//!
//! The rest has the mix of a real set (roles, methods, subtrees; some conditions, some forbids) but names roles and
//! subtrees that no request here touches, so that portals of every size decide the same requests.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::portal::{LoadedPortal, PolicyFile, PolicyFiles};

/// The file that ends with the mark.
const MARKED: &str = "policies/bench/ours.cedar";
/// Policies in one file.
const PER_FILE: usize = 100;

const SCHEMA: &str = r#"
entity Tenant;
entity Role in [Role];
entity User in [Role, Tenant] = { department?: String };
entity Portal;
entity Path in [Path, Portal];
entity Order in [Portal];
type Auth = { method: String, acr?: String, amr: Set<String>, scopes: Set<String> };
type Facts = {
    portal: String, now: datetime, auth?: Auth, tenant?: String, method?: String, path?: String, source_ip?: ipaddr,
};
action read, write;
action GET, HEAD in [read] appliesTo { principal: [User], resource: [Path], context: Facts };
action POST, PUT, DELETE in [write] appliesTo { principal: [User], resource: [Path], context: Facts };
action viewOrder in [read] appliesTo { principal: [User], resource: [Order], context: Facts };
"#;

const ROUTES: &str = r#"
routes:
  - { route: "GET /orders/{order}", action: viewOrder, resource: { type: Order, id: "{order}" } }
"#;

/// The policies that the requests of `REQUESTS` meet.
const OURS: &str = r#"
@id("read") permit (principal in Role::"viewer", action == Action::"GET", resource in Path::"/shop");
@id("write") permit (principal in Role::"viewer", action == Action::"POST", resource in Path::"/shop")
when { context has source_ip && context.source_ip.isInRange(ip("10.0.0.0/8")) && context has tenant && context.tenant == "acme" };
@id("change") permit (principal in Role::"viewer", action == Action::"PUT", resource in Path::"/shop")
when { principal has department && principal.department == "sales" };
@id("no-outsiders") forbid (principal, action == Action::"PUT", resource in Path::"/shop")
unless { context has source_ip && context.source_ip.isInRange(ip("10.0.0.0/8")) };
@id("no-suspects") forbid (principal in Role::"viewer", action == Action::"PUT", resource)
when { principal has department && principal.department == "suspended" };
@id("deep-0") permit (principal in Role::"viewer", action == Action::"GET", resource in Path::"/a");
@id("deep-1") permit (principal in Role::"viewer", action == Action::"GET", resource in Path::"/a/b/c");
@id("deep-2") permit (principal in Role::"viewer", action == Action::"GET", resource == Path::"/a/b/c/d/e/f/g/h");
@id("orders") permit (principal in Role::"viewer", action == Action::"viewOrder", resource is Order);
@id("closed") forbid (principal, action, resource in Path::"/orders/closed");
"#;

/// A request by method and path.
#[derive(Clone, Copy, Debug)]
pub struct NamedRequest {
    /// Name in reports.
    pub name: &'static str,
    /// HTTP method.
    pub method: &'static str,
    /// Path, in its canonical form.
    pub path: &'static str,
}

/// Requests that the portal allows to the caller of `claims`.
pub const REQUESTS: [NamedRequest; 5] = [
    NamedRequest::new("unconditional", "GET", "/shop/cart"),
    NamedRequest::new("conditional with ip", "POST", "/shop/cart"),
    NamedRequest::new("forbids", "PUT", "/shop/cart"),
    NamedRequest::new("deep path", "GET", "/a/b/c/d/e/f/g/h"),
    NamedRequest::new("routed", "GET", "/orders/17"),
];

impl NamedRequest {
    /// A request of this name, method and path.
    pub const fn new(name: &'static str, method: &'static str, path: &'static str) -> Self {
        Self { name, method, path }
    }
}

/// Claims of a viewer of the tenant acme.
pub fn claims() -> Map<String, Value> {
    let claims = json!({
        "sub": "alice", "tenant": "acme", "department": "sales", "roles": ["viewer", "buyer", "auditor"],
        "amr": ["pwd", "mfa"], "scope": "openid shop",
    });
    claims.as_object().unwrap().clone()
}

/// Loads a portal with `policies` policies.
pub fn load(policies: usize) -> LoadedPortal {
    LoadedPortal::load(&tree(policies, "")).unwrap()
}

/// The files of a portal with `policies` policies, ready to load; one file ends with the comment `mark`.
pub fn tree(policies: usize, mark: &str) -> PolicyFiles {
    PolicyFiles::new(&files(policies, mark))
}

/// The same files by name and text.
pub fn files(policies: usize, mark: &str) -> Vec<PolicyFile> {
    let others: Vec<usize> = (0..policies.saturating_sub(OURS.matches("@id").count())).collect();
    let mut files = vec![
        PolicyFile::new("schemas/bench.cedarschema", SCHEMA),
        PolicyFile::new("policies/bench/portal.yaml", ROUTES),
        PolicyFile::new(MARKED, format!("{OURS}// {mark}\n")),
    ];
    for (number, chunk) in others.chunks(PER_FILE).enumerate() {
        let text = chunk.iter().fold(String::new(), |mut text, n| {
            write!(text, "{}", other(*n)).unwrap();
            text
        });
        files.push(PolicyFile::new(format!("policies/bench/others-{number}.cedar"), text));
    }
    files
}

fn other(n: usize) -> String {
    let (effect, role) = match n % 10 {
        0 => ("forbid", n / 7),
        _ => ("permit", n / 5),
    };
    let action = match n % 3 {
        0 => r#"action == Action::"GET""#,
        1 => r#"action in [Action::"read", Action::"POST"]"#,
        _ => "action",
    };
    let when = match n % 4 {
        0 => "\nwhen { context has tenant && context.tenant == \"other\" }",
        _ => "",
    };
    format!(
        "@id(\"other-{n}\") {effect} (principal in Role::\"role-{role}\", {action}, resource in Path::\"/team-{n}\"){when};\n"
    )
}
