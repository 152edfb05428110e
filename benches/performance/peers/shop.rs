//! One portal of `n` policies, in the format of each peer.
//!
//! One policy permits the measured request (viewers read the catalogue). The rest names other roles and other subtrees,
//! and cannot apply; every tenth policy is a forbid.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

/// A path that viewers may read.
pub const ALLOWED: &str = "/portal/shop/catalogue/items/17";
/// A path that viewers may not read.
pub const DENIED: &str = "/portal/shop/team-5/items/17";
/// A public path.
pub const PUBLIC: &str = "/portal/shop/assets/logo.svg";
/// The app answers with the signed assertion that it received.
pub const ECHO: &str = "/portal/shop/catalogue/echo";

const SCHEMA: &str = r#"
entity Tenant;
entity Role in [Role];
entity User in [Role, Tenant];
entity Portal;
entity Path in [Path, Portal] = { tenant?: Tenant };
entity Folder;
entity Doc in [Folder];
type Auth = { method: String, acr?: String, amr: Set<String>, scopes: Set<String> };
type Facts = { portal: String, now: datetime, auth?: Auth, tenant?: String, method?: String, path?: String, source_ip?: ipaddr };
action read, write;
action GET, HEAD in [read] appliesTo { principal: [User], resource: [Path], context: Facts };
action POST, PUT, PATCH, DELETE in [write] appliesTo { principal: [User], resource: [Path], context: Facts };
action view appliesTo { principal: [User], resource: [Doc] };
"#;

const UNCONDITIONAL: &str = r#"
@id("viewers-read") permit (principal in Role::"viewer", action == Action::"GET", resource in Path::"/portal/shop/catalogue");
"#;

/// The shared rules of the demo, and a permit that looks at the tenant.
const CONDITIONAL: &str = r#"
@id("viewers-read") permit (principal in Role::"viewer", action == Action::"GET", resource in Path::"/portal/shop/catalogue")
when { context has tenant && context.tenant == "acme" };
@id("second-factor") forbid (principal in Role::"viewer", action, resource in Path::"/portal/shop/catalogue")
unless { context has auth && context.auth.amr.contains("mfa") };
@id("tenant-isolation") forbid (principal, action, resource)
when { resource has tenant && !(principal in resource.tenant) };
"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Unconditional,
    Conditional,
}

/// Writes the policy tree of a gate below `folder`.
pub fn write_gate(folder: &Path, kind: Kind, policies: usize) {
    let own = match kind {
        Kind::Unconditional => UNCONDITIONAL,
        Kind::Conditional => CONDITIONAL,
    };
    let mut text = own.to_owned();
    for n in 1..=policies.saturating_sub(own.matches("@id").count()) {
        let effect = effect(n);
        let scope =
            format!("principal in Role::\"role-{n}\", action == Action::\"GET\", resource in Path::\"/portal/shop/team-{n}\"");
        writeln!(text, "@id(\"team-{n}\") {effect} ({scope});").unwrap();
    }
    write(folder, "schemas/shop.cedarschema", SCHEMA);
    write(folder, "policies/shop/main.cedar", &text);
    write(
        folder,
        "policies/shop/portal.yaml",
        "public:\n  - 'GET /portal/shop/assets/**'\n",
    );
}

fn effect(n: usize) -> &'static str {
    if n.is_multiple_of(10) { "forbid" } else { "permit" }
}

/// The policies of the decision services: may alice, a viewer, view document 17 of the catalogue?
pub fn documents_cedar(policies: usize) -> Vec<(String, String)> {
    let policy = |name: String, effect: &str, role: &str, folder: &str| {
        let scope = format!("principal in Role::\"{role}\", action == Action::\"view\", resource in Folder::\"{folder}\"");
        (name, format!("{effect} ({scope});"))
    };
    let others = (1..policies).map(|n| policy(format!("team-{n}"), effect(n), &format!("role-{n}"), &format!("team-{n}")));
    std::iter::once(policy("viewers-view".to_owned(), "permit", "viewer", "catalogue"))
        .chain(others)
        .collect()
}

pub fn documents_entities() -> Value {
    let entity = |kind: &str, id: &str, parents: Value| json!({"uid": {"type": kind, "id": id}, "attrs": {}, "parents": parents});
    let parent = |kind: &str, id: &str| json!([{"type": kind, "id": id}]);
    json!([
        entity("Role", "viewer", json!([])),
        entity("User", "alice", parent("Role", "viewer")),
        entity("User", "bob", json!([])),
        entity("Folder", "catalogue", json!([])),
        entity("Folder", "team-5", json!([])),
        entity("Doc", "17", parent("Folder", "catalogue")),
        entity("Doc", "18", parent("Folder", "team-5")),
    ])
}

pub fn write_documents_gate(folder: &Path, policies: usize) {
    let text = documents_cedar(policies)
        .iter()
        .fold(String::new(), |mut text, (name, policy)| {
            writeln!(text, "@id(\"{name}\") {policy}").unwrap();
            text
        });
    write(folder, "schemas/shop.cedarschema", SCHEMA);
    write(folder, "policies/shop/main.cedar", &text);
    write(folder, "policies/shop/entities.json", &documents_entities().to_string());
}

/// Writes one resource policy per kind, because Cerbos finds policies by kind.
pub fn write_cerbos(folder: &Path, policies: usize) {
    for n in 0..policies {
        let (kind, role) = match n {
            0 => ("catalogue".to_owned(), "viewer".to_owned()),
            n => (format!("team-{n}"), format!("role-{n}")),
        };
        let effect = if effect(n) == "forbid" && n > 0 {
            "EFFECT_DENY"
        } else {
            "EFFECT_ALLOW"
        };
        let text = json!({"apiVersion": "api.cerbos.dev/v1", "resourcePolicy": {
            "resource": kind, "version": "default", "rules": [{"actions": ["view"], "effect": effect, "roles": [role]}]
        }});
        write(folder, &format!("policies/{kind}.json"), &text.to_string());
    }
}

/// One rule per policy; the first condition of each is an equality, so that OPA can index them.
pub fn rego(policies: usize) -> String {
    let mut text =
        "package shop\n\ndefault allow := false\n\nallow if { permitted; not forbidden }\n\ndefault forbidden := false\n"
            .to_owned();
    for n in 0..policies {
        let (kind, role) = match n {
            0 => ("catalogue".to_owned(), "viewer".to_owned()),
            n => (format!("team-{n}"), format!("role-{n}")),
        };
        let rule = if effect(n) == "forbid" && n > 0 {
            "forbidden"
        } else {
            "permitted"
        };
        writeln!(
            text,
            "{rule} if {{ input.resource.folder == \"{kind}\"; input.action == \"view\"; \"{role}\" in input.principal.roles }}"
        )
        .unwrap();
    }
    text
}

/// The policies of one RBAC filter, which either permits or forbids; the claims come from the JWT filter.
pub fn envoy_rbac(policies: usize, wanted: &str) -> Value {
    let policy = |role: &str, prefix: &str| {
        json!({
            "permissions": [{"and_rules": {"rules": [
                {"header": {"name": ":method", "string_match": {"exact": "GET"}}},
                {"url_path": {"path": {"prefix": format!("{prefix}/")}}},
            ]}}],
            "principals": [{"metadata": {
                "filter": "envoy.filters.http.jwt_authn", "path": [{"key": "jwt"}, {"key": "roles"}],
                "value": {"list_match": {"one_of": {"string_match": {"exact": role}}}},
            }}],
        })
    };
    let mut all = serde_json::Map::new();
    for n in 0..policies {
        // Envoy tries policies in the order of their names: the one that applies is in the middle
        let name = format!("policy-{n:06}");
        let of = |n: usize| policy(&format!("role-{n}"), &format!("/portal/shop/team-{n}"));
        let own = n == policies / 2;
        match (own, effect(n) == wanted) {
            (true, _) if wanted == "permit" => drop(all.insert(name, policy("viewer", "/portal/shop/catalogue"))),
            (false, true) => drop(all.insert(name, of(n))),
            _ => {}
        }
    }
    Value::Object(all)
}

pub fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}
