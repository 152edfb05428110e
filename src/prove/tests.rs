//! Edits and invariants, proved by the real solver.

use std::sync::Arc;
use std::time::Duration;

use cedargate_policy::load::{Loader, invariants};
use cedargate_policy::revision::Revision;
use cedargate_policy::revision::source::{SourceFile, Tree};
use cedargate_policy::scope::PortalScope;
use cedargate_policy::types::PortalSlug;

use super::*;

const SHARED: &str = include_str!("../../schemas/_shared.cedarschema");
/// Orders whose tenant and owner are always there.
const OWN: &str = r#"
    entity Order = { tenant: Tenant, owner: User };
    entity Product;
    action viewOrder in [read] appliesTo { principal: [User], resource: [Order], context: Facts };
    action editOrder, cancelOrder in [write] appliesTo { principal: [User], resource: [Order], context: Facts };
    action viewProduct in [read] appliesTo { principal: [User], resource: [Product], context: Facts };"#;
const PERMITS: &str = r#"
    @id("read") permit (principal in Role::"viewer", action in Action::"read", resource in Path::"/shop");
    @id("view") permit (principal in Role::"viewer", action == Action::"viewOrder", resource is Order)
        when { resource has tenant && principal in resource.tenant };
    @id("change") permit (principal in Role::"viewer", action in [Action::"editOrder", Action::"cancelOrder"], resource is Order)
        when { resource has owner && resource.owner == principal };"#;
const FORBIDS: &str = r#"
    @id("isolation") forbid (principal, action, resource) when { resource has tenant && !(principal in resource.tenant) };
    @id("internal") forbid (principal, action, resource in Path::"/shop/internal");
    @id("mfa") forbid (principal in Role::"admin", action in Action::"write", resource)
        unless { context has auth && context.auth.amr.contains("mfa") };"#;
const ROUTES: &str = r#"
    routes: [{ route: "GET /shop/orders/{order}", action: viewOrder, resource: { type: Order, id: "{order}" } }]"#;

fn portal() -> PortalScope {
    PortalScope::at(PortalSlug::parse("shop").unwrap(), "/shop")
}

fn loaded(loader: &mut Loader, files: &[(&str, &str)]) -> Arc<Revision> {
    let mut tree = Tree::default();
    let schemas = [("schemas/_shared.cedarschema", SHARED), ("schemas/shop.cedarschema", OWN)];
    for (name, text) in schemas.iter().chain(files) {
        tree.files.0.insert((*name).to_owned(), SourceFile::new(text.as_bytes()));
    }
    tree.slugs.extend(PortalSlug::parse("shop"));
    let loaded = loader.load(&portal(), &tree, None);
    match (loaded.revision, loaded.rejected) {
        (Some(revision), None) => revision,
        (_, rejected) => panic!("{rejected:?}"),
    }
}

pub(super) fn revision(policies: &str) -> Arc<Revision> {
    loaded(&mut Loader::new(None), &[("policies/shop/a.cedar", policies)])
}

fn prover() -> Prover {
    Prover::new(Duration::from_secs(300)).unwrap()
}

fn base() -> String {
    format!("{PERMITS}{FORBIDS}")
}

/// The findings of an edit from `old` to `new`, one line each.
fn widened(old: &Revision, new: &Revision) -> Vec<String> {
    let widening = widening("shop", old, new, &mut prover()).unwrap();
    widening.findings.iter().map(shown).collect()
}

fn shown(finding: &ProofFinding) -> String {
    let ProofFinding { kind, about, found } = finding;
    match found {
        SearchResult::Example(example) => format!(
            "{kind} {about:?}: {} {} | old {}, new {}",
            example.principal,
            example.resource,
            example.outer.as_ref().map_or("-".to_owned(), reasons),
            example.inner.as_ref().map_or("-".to_owned(), reasons),
        ),
        SearchResult::Unknown(reason) => format!("{kind} {about:?}: unknown, {reason}"),
        SearchResult::Nothing => format!("{kind}: nothing"),
    }
}

/// The edit that replaces a text of the base.
fn edit(from: &str, to: &str) -> Vec<String> {
    let text = base();
    assert!(text.contains(from), "{from}");
    widened(&revision(&text), &revision(&text.replacen(from, to, 1)))
}

#[test]
fn edits_that_allow_nothing_new_are_proved() {
    let nothing: [String; 0] = [];
    assert_eq!(widened(&revision(&base()), &revision(&base())), nothing, "no change");
    assert_eq!(edit("@id(\"read\")", "@id(\"renamed\") @advice(\"x\")"), nothing);
    assert_eq!(
        edit("resource in Path::\"/shop\");", "resource in Path::\"/shop/orders\");"),
        nothing
    );
    assert_eq!(
        edit(
            "resource.owner == principal };",
            "resource.owner == principal && context.portal == \"shop\" };"
        ),
        nothing
    );
    assert_eq!(
        edit(
            "Role::\"viewer\", action in Action::\"read\"",
            "Role::\"viewer\", action == Action::\"GET\""
        ),
        nothing
    );
    // a permit for which another one stands in
    let more = format!(
        "{}{}",
        base(),
        r#"@id("again") permit (principal in Role::"viewer", action == Action::"GET", resource in Path::"/shop/x");"#
    );
    assert_eq!(widened(&revision(&base()), &revision(&more)), nothing);
    // a permit that a forbid cancels
    let more = format!(
        "{}{}",
        base(),
        r#"@id("closed") permit (principal, action == Action::"GET", resource in Path::"/shop/internal");"#
    );
    assert_eq!(widened(&revision(&base()), &revision(&more)), nothing);
    // a forbid that another one replaces
    assert_eq!(
        edit("resource in Path::\"/shop/internal\");", "resource in Path::\"/shop\");"),
        nothing
    );
    // two forbids for one
    let split = r#"@id("mfa") forbid (principal in Role::"admin", action in Action::"write", resource) unless { context has auth };
        @id("mfa2") forbid (principal in Role::"admin", action in Action::"write", resource)
            when { context has auth && !context.auth.amr.contains("mfa") };"#;
    let from = &FORBIDS[FORBIDS.find("@id(\"mfa\")").unwrap()..];
    assert_eq!(edit(from, split), nothing);
}

#[test]
fn edits_that_allow_more_come_with_an_example() {
    for (from, to, about) in [
        (
            "principal in Role::\"viewer\", action in Action::\"read\"",
            "principal, action in Action::\"read\"",
            "GET",
        ),
        ("action in Action::\"read\"", "action", "POST"),
        ("resource in Path::\"/shop\");", "resource);", "GET"),
        (
            "resource.owner == principal",
            "(resource.owner == principal || principal in Role::\"editor\")",
            "cancelOrder",
        ),
        (
            "resource in Path::\"/shop/internal\"",
            "resource in Path::\"/shop/internal/x\"",
            "GET",
        ),
        (
            "action in Action::\"write\", resource)",
            "action == Action::\"POST\", resource)",
            "editOrder",
        ),
    ] {
        let found = edit(from, to);
        assert!(!found.is_empty(), "{from} -> {to}");
        assert!(found.iter().all(|one| one.contains("permitted by")), "{found:?}");
        assert!(found.iter().any(|one| one.contains(about)), "{found:?}");
    }
}

#[test]
fn forbid_that_goes_matters_only_where_a_permit_holds() {
    // no permit is about accounts: the forbid was never needed
    let forbid = r#"@id("f") forbid (principal, action == Action::"DELETE", resource);"#;
    let with = revision(&format!("{}{forbid}", base()));
    let nothing: [String; 0] = [];
    assert_eq!(widened(&with, &revision(&base())), nothing);
    // with routes, the forbids of the plain path count by themselves
    let load = |policies: &str| {
        let files = [("policies/shop/a.cedar", policies), ("policies/shop/portal.yaml", ROUTES)];
        loaded(&mut Loader::new(None), &files)
    };
    let found = widened(&load(&format!("{}{forbid}", base())), &load(&base()));
    assert!(
        found.len() == 1 && found[0].contains("DELETE") && found[0].contains("Forbids"),
        "{found:?}"
    );
}

#[test]
fn resource_without_an_entry_is_looked_at() {
    // with an entry both are the same: isolation forbids other tenants. Without an entry, `has` is false, and only the
    // permit asks.
    let found = edit("when { resource has tenant && principal in resource.tenant };", ";");
    assert!(
        found.len() == 1 && found[0].contains("viewOrder") && found[0].contains("Undescribed"),
        "{found:?}"
    );
}

#[test]
fn invariants_hold_fail_and_say_nothing() {
    let text = r#"
- name: callers stay in their tenant
  always-denies: (principal, action, resource is Order) when { !(principal in resource.tenant) }
- name: internal pages are closed
  always-denies: |
    permit (principal, action, resource in Path::"/shop/internal");
- name: viewers read
  always-allows: (principal in Role::"viewer", action == Action::"GET", resource in Path::"/shop")
- name: viewers read the rest
  always-allows: |
    permit (principal in Role::"viewer", action == Action::"GET", resource in Path::"/shop")
    unless { resource in Path::"/shop/internal" };
- name: no errors
  never-errors: (principal, action, resource)
- name: exactly owners
  equivalent: (principal in Role::"viewer", action == Action::"editOrder", resource is Order) when { resource.owner == principal }
- name: admins delete
  always-denies: (principal in Role::"admin", action == Action::"DELETE", resource)
- name: empty
  always-denies: (principal, action == Action::"GET", resource) when { context.portal == "a" && context.portal == "b" }
"#;
    let policies = base();
    let files = [
        ("policies/shop/a.cedar", policies.as_str()),
        ("policies/shop/invariants.yaml", text),
    ];
    let revision = loaded(&mut Loader::new(None), &files);
    let all = invariants::of(&portal().slug, &revision);
    let mut prover = prover();
    let results: Vec<String> = all
        .iter()
        .map(|invariant| {
            let checked = check("shop", &revision, invariant, &mut prover).unwrap();
            let findings: Vec<String> = checked.findings.iter().map(shown).collect();
            format!("{} {}: {}", invariant.name, checked.is_empty, findings.join("; "))
        })
        .collect();
    for line in &results {
        println!("{line}");
    }
    for (at, holds) in [(0, true), (1, true), (2, false), (3, true), (6, true)] {
        assert_eq!(results[at].ends_with("false: "), holds, "{}", results[at]);
    }
    assert!(results[7].ends_with("empty true: "), "{}", results[7]);
}
