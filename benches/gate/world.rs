//! A portal of any size: what the questions need, and the rest about others.
//!
//! The rest has the mix of a real set (roles, methods, subtrees; some conditions, some forbids) but names roles and
//! subtrees that no question here touches, so that every size is asked the same thing.

use std::fmt::Write;

use cedargate::bench::{Folder, World};
use serde_json::{Map, Value, json};

/// Policies in one file.
pub const PER_FILE: usize = 100;

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

/// What the questions of `QUESTIONS` meet.
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

/// Name, method, path: each is allowed.
pub const QUESTIONS: [(&str, &str, &str); 5] = [
    ("unconditional", "GET", "/shop/cart"),
    ("conditional with ip", "POST", "/shop/cart"),
    ("forbids", "PUT", "/shop/cart"),
    ("deep path", "GET", "/a/b/c/d/e/f/g/h"),
    ("routed", "GET", "/orders/17"),
];

pub fn claims() -> Map<String, Value> {
    let claims = json!({
        "sub": "alice", "tenant": "acme", "department": "sales", "roles": ["viewer", "buyer", "auditor"],
        "amr": ["pwd", "mfa"], "scope": "openid shop",
    });
    claims.as_object().unwrap().clone()
}

/// The files of a portal with `policies` policies, one of them saying `mark`.
pub fn folder(policies: usize, mark: &str) -> Folder {
    let files = files(policies, mark);
    Folder::new(files.iter().map(|(name, text)| (name.as_str(), text.as_str())))
}

/// The same by name.
pub fn files(policies: usize, mark: &str) -> Vec<(String, String)> {
    let others: Vec<usize> = (0..policies.saturating_sub(OURS.matches("@id").count())).collect();
    let mut files = vec![
        ("schemas/bench.cedarschema".to_owned(), SCHEMA.to_owned()),
        ("policies/bench/portal.yaml".to_owned(), ROUTES.to_owned()),
        ("policies/bench/ours.cedar".to_owned(), format!("{OURS}// {mark}\n")),
    ];
    for (number, chunk) in others.chunks(PER_FILE).enumerate() {
        let text = chunk.iter().fold(String::new(), |mut text, n| {
            write!(text, "{}", other(*n)).unwrap();
            text
        });
        files.push((format!("policies/bench/others-{number}.cedar"), text));
    }
    files
}

pub fn world(policies: usize) -> World {
    World::load(&folder(policies, "")).unwrap()
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
