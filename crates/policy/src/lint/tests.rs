//! Each rule finds its planted mistake once, at its place, and a tree without mistakes has no finding.

use std::sync::Arc;

use super::*;
use crate::load::Loader;
use crate::openapi::OpenApi;
use crate::scope::ProviderScope;
use crate::test_support::{portal, tree};

/// 2026-06-01T00:00:00Z
const NOW: i64 = 1_780_272_000;

const SHARED_SCHEMA: &str = "entity Tenant; entity Role in [Role]; entity Group; entity Portal; entity Path in [Path, Portal];\n\
    entity User in [Role, Tenant, Group] = { mail?: String };\n\
    action read; action GET in [read] appliesTo { principal: [User], resource: [Path] };\n\
    action POST appliesTo { principal: [User], resource: [Path] };\n";
const SCHEMA: &str = "entity Order = { tenant: Tenant, locked: Bool, total: Long };\n\
    entity Product;\n\
    action viewOrder in [read] appliesTo { principal: [User], resource: [Order] };\n\
    action editOrder appliesTo { principal: [User], resource: [Order] };\n\
    action viewProduct appliesTo { principal: [User], resource: [Product] };\n";
const PORTAL: &str = "claims: { mail: contact.mail }\n\
    public: [ 'GET /assets/**' ]\n\
    routes:\n\
    \x20 - { route: 'GET /orders/{order}', action: viewOrder, resource: { type: Order, id: '{order}' } }\n\
    \x20 - { route: 'GET /products/{p}', action: viewProduct, resource: { type: Product, id: '{p}' } }\n";
const POLICIES: &str = "@id(\"read\")\n\
    permit (principal in Role::\"viewer\", action in [Action::\"GET\", Action::\"POST\"], resource in Path::\"/pages\");\n\
    @id(\"orders\") @expires(\"2027-01-01\")\n\
    permit (principal in Role::\"viewer\", action in [Action::\"viewOrder\", Action::\"editOrder\"], resource is Order)\n\
    when { resource has tenant && principal in resource.tenant };\n\
    @id(\"products\") permit (principal, action == Action::\"viewProduct\", resource);\n\
    @id(\"blocked\") forbid (principal in Group::\"blocked\", action, resource);\n\
    @id(\"locked\") forbid (principal, action, resource is Order) when { resource has locked && resource.locked };\n";
const ENTITIES: &str = "[{\"uid\": {\"type\": \"Role\", \"id\": \"editor\"}, \"attrs\": {}, \"parents\": [{\"type\": \"Role\", \"id\": \"viewer\"}]},\n\
    {\"uid\": {\"type\": \"Group\", \"id\": \"blocked\"}, \"attrs\": {}, \"parents\": []}]";
const TESTS: &str = "principals: { a: { id: a, roles: [viewer, auditor], tenant: acme } }\n\
    cases:\n\
    \x20 - { name: reads, principal: a, http: 'GET /pages/x', expect: allow }\n\
    \x20 - { name: writes, principal: a, http: 'POST /other', expect: deny }\n";

/// One file of the tree below, with more text or another text.
enum Change<'a> {
    Append(&'a str, &'a str),
    Replace(&'a str, &'a str, &'a str),
    Remove(&'a str),
}

fn linted(changes: &[Change<'_>]) -> Vec<LintFinding> {
    described(changes, None)
}

fn described(changes: &[Change<'_>], described: Option<&DescribedApp<'_>>) -> Vec<LintFinding> {
    let mut files: Vec<(&str, String)> = vec![
        ("schemas/_shared.cedarschema", SHARED_SCHEMA.to_owned()),
        ("schemas/bench.cedarschema", SCHEMA.to_owned()),
        ("policies/bench/portal.yaml", PORTAL.to_owned()),
        ("policies/bench/all.cedar", POLICIES.to_owned()),
        ("policies/bench/entities.json", ENTITIES.to_owned()),
        ("policies/bench/tests/t.yaml", TESTS.to_owned()),
    ];
    for change in changes {
        match change {
            Change::Append(name, more) => files.iter_mut().find(|(file, _)| file == name).unwrap().1.push_str(more),
            Change::Replace(name, old, new) => {
                let text = &mut files.iter_mut().find(|(file, _)| file == name).unwrap().1;
                assert!(text.contains(old), "{old}");
                *text = text.replace(old, new);
            }
            Change::Remove(name) => files.retain(|(file, _)| file != name),
        }
    }
    let tree = tree(files.iter().map(|(name, text)| (*name, text.as_str())));
    let portal = portal();
    let loaded = Loader::new(None).untested().load(&portal, &tree, None);
    let revision = loaded.revision.unwrap_or_else(|| panic!("{:?}", loaded.rejected));
    lint(&portal, &revision, NOW, described)
}

/// Rule and line of each finding.
fn found(changes: &[Change<'_>]) -> Vec<(&'static str, Option<usize>)> {
    linted(changes)
        .iter()
        .map(|finding| (finding.rule.id, finding.problem.line))
        .collect()
}

const CEDAR: &str = "policies/bench/all.cedar";
const YAML: &str = "policies/bench/portal.yaml";
const CASES: &str = "policies/bench/tests/t.yaml";

#[test]
fn a_tree_without_mistakes_has_no_finding() {
    assert_eq!(found(&[]), []);
}

#[test]
fn each_rule_finds_its_mistake_in_a_policy_once_and_at_its_line() {
    // the tree's own policies end in line 8
    for (policy, expected) in [
        (
            "@id(\"x\") forbid (principal in Role::\"suspendd\", action, resource);",
            &[("unknown-name", 9)][..],
        ),
        (
            "@id(\"x\") forbid (principal in Group::\"bloked\", action, resource);",
            &[("unknown-name", 9)],
        ),
        (
            "@id(\"x\")\nforbid (principal, action, resource) when {\n  principal in Tenant::\"acmee\" };",
            &[("unknown-name", 11)],
        ),
        ("@id(\"x\") forbid (principal in Role::\"auditor\", action, resource);", &[]),
        (
            "@id(\"x\") permit (principal, action, resource);",
            &[("missing-tenant-check", 9), ("permit-all", 9)],
        ),
        (
            "@id(\"x\") permit (principal in Role::\"editor\", action, resource is Product);",
            &[("any-action", 9)],
        ),
        (
            "permit (principal, action == Action::\"GET\", resource in Path::\"/a\");",
            &[("missing-id", 9)],
        ),
        (
            "@id(\"x\") @advise(\"y\") permit (principal, action == Action::\"GET\", resource in Path::\"/a\");",
            &[("unknown-annotation", 9)],
        ),
        (
            "@id(\"x\") @expires(\"2026-05-31\") permit (principal, action == Action::\"GET\", resource in Path::\"/a\");",
            &[("expired", 9)],
        ),
        (
            "@id(\"x\") @expires(\"soon\") permit (principal, action == Action::\"GET\", resource in Path::\"/a\");",
            &[("expired", 9)],
        ),
        (
            "@id(\"x\") permit (principal in Role::\"editor\", action == Action::\"GET\", resource in Path::\"/pages/a\");",
            &[("covered", 9)],
        ),
        (
            "@id(\"x\") permit (principal in Role::\"editor\", action == Action::\"GET\", resource in Path::\"/page\");",
            &[],
        ),
        (
            "@id(\"x\") permit (principal is User, action == Action::\"viewProduct\", resource) when { principal is Role };",
            &[("never-applies", 9), ("covered", 9)],
        ),
        (
            "@id(\"x\") forbid (principal, action, resource is Order) when { resource has total && resource.total * 2 > 9 };",
            &[("forbid-may-fail", 9)],
        ),
        (
            "@id(\"x\") forbid (principal, action, resource is Order) when { resource.locked };",
            &[("undescribed-resource", 9)],
        ),
        (
            "@id(\"x\") permit (principal, action == Action::\"editOrder\", resource is Order);",
            &[("missing-tenant-check", 9)],
        ),
        (
            "@id(\"x\") permit (principal, action == Action::\"editOrder\", resource is Order);\n\
             @id(\"y\") forbid (principal, action, resource is Order) unless { resource has tenant && principal in resource.tenant };",
            &[],
        ),
    ] {
        let expected: Vec<_> = expected.iter().map(|(rule, line)| (*rule, Some(*line))).collect();
        let mut found = found(&[Change::Append(CEDAR, policy)]);
        found.sort_unstable();
        let mut sorted = expected.clone();
        sorted.sort_unstable();
        assert_eq!(found, sorted, "{policy}");
    }
}

#[test]
fn each_rule_finds_its_mistake_in_the_other_files() {
    let action = "\naction archive appliesTo { principal: [User], resource: [Order] };\n";
    for (changes, expected) in [
        (
            vec![Change::Append("schemas/bench.cedarschema", action)],
            ("unused-action", Some(7)),
        ),
        (
            vec![Change::Replace(YAML, "type: Order", "type: Product")],
            ("route-resource", Some(4)),
        ),
        (
            vec![Change::Replace(YAML, "{ mail: contact.mail }", "{ mial: contact.mail }")],
            ("unused-claim", Some(1)),
        ),
        (
            vec![Change::Replace(YAML, "/assets/**", "/products/**")],
            ("public-route", Some(5)),
        ),
        (vec![Change::Remove(CASES)], ("no-tests", None)),
        (
            vec![Change::Append(
                CASES,
                "  - { name: reads, principal: a, http: 'GET /pages/y', expect: allow }\n",
            )],
            ("duplicate-case", Some(5)),
        ),
    ] {
        let found = found(&changes);
        let first = found.first().copied();
        assert_eq!(first, Some(expected), "{found:?}");
        // without tests, only entities and issuers define roles and tenants
        assert!(found.len() == 1 || expected.0 == "no-tests", "{found:?}");
    }
}

#[test]
fn a_route_outside_the_portal_is_found_where_the_prefix_is_known() {
    let tree = tree([
        ("schemas/bench.cedarschema", SHARED_SCHEMA),
        (
            "policies/bench/all.cedar",
            "@id(\"a\") permit (principal, action == Action::\"GET\", resource in Path::\"/shop\");",
        ),
        (
            "policies/bench/portal.yaml",
            "routes:\n  - { route: 'GET /shop/a', action: GET, resource: { type: Path, id: '/shop/a' } }\n\
             \x20 - { route: 'GET /shopping', action: GET, resource: { type: Path, id: '/shopping' } }\n",
        ),
        (
            "policies/bench/tests/t.yaml",
            "cases: [{ name: a, http: 'GET /shop', expect: deny, reason: token_missing }]\n",
        ),
    ]);
    let mut portal = portal();
    portal.matches.path_prefix = "/shop".to_owned();
    portal.providers = Some(Vec::<ProviderScope>::new());
    let loaded = Loader::new(None).load(&portal, &tree, None);
    let revision: Arc<Revision> = loaded.revision.unwrap_or_else(|| panic!("{:?}", loaded.rejected));
    let found = lint(&portal, &revision, NOW, None);
    let found: Vec<_> = found.iter().map(|finding| (finding.rule.id, finding.problem.line)).collect();
    assert_eq!(found, [("route-outside", Some(3))]);
}

#[test]
fn a_misspelt_role_is_an_error_in_a_forbid_and_a_warning_in_a_permit() {
    let forbid = "@id(\"x\") forbid (principal in Role::\"viewr\", action, resource);";
    let [finding] = linted(&[Change::Append(CEDAR, forbid)]).try_into().unwrap();
    assert_eq!(finding.severity, Severity::Error);
    assert_eq!(finding.problem.help.as_deref(), Some("did you mean `Role::\"viewer\"`?"));
    assert_eq!(
        (finding.problem.column, finding.problem.end.as_ref().map(|end| end.column)),
        (Some(31), Some(44))
    );
    let permit = forbid
        .replace("forbid", "permit")
        .replace("action, resource", "action == Action::\"GET\", resource in Path::\"/a\"");
    let [finding] = linted(&[Change::Append(CEDAR, &permit)]).try_into().unwrap();
    assert_eq!(finding.severity, Severity::Warning);
}

#[test]
fn suppressions_silence_one_rule_at_one_place_and_need_a_reason() {
    let expired =
        "@id(\"x\")\n@expires(\"2026-01-01\")\npermit (principal, action == Action::\"GET\", resource in Path::\"/a\");\n";
    let with = |comment: &str| found(&[Change::Append(CEDAR, &format!("{comment}{expired}"))]);
    assert_eq!(with("// lint: allow(expired) until the audit in June\n"), []);
    assert_eq!(
        with("// lint: allow(expired)\n"),
        [("suppression", Some(9)), ("expired", Some(11))]
    );
    assert_eq!(
        with("// lint: allow(expird) typo\n"),
        [("suppression", Some(9)), ("expired", Some(11))]
    );
    assert_eq!(
        with("// lint: allow(covered) other rule\n"),
        [("unused-suppression", Some(9)), ("expired", Some(11))]
    );
    let inside = format!("# lint: allow(no-tests) the shared policies have them\n{PORTAL}");
    let quiet = found(&[Change::Remove(CASES), Change::Replace(YAML, PORTAL, &inside)]);
    assert!(!quiet.iter().any(|(rule, _)| *rule == "no-tests"), "{quiet:?}");
}

#[test]
fn the_fix_of_a_missing_id_keeps_the_name_that_the_policy_has() {
    let two = "permit (principal, action == Action::\"GET\", resource in Path::\"/a\");\n  permit (principal, action == Action::\"GET\", resource in Path::\"/b\");\n";
    let findings = linted(&[Change::Append(CEDAR, two)]);
    let mut text = format!("{POLICIES}{two}");
    for fix in findings.iter().rev().filter_map(|finding| finding.fix.as_ref()) {
        text.insert_str(fix.offset, &fix.text);
    }
    assert_eq!(found(&[Change::Replace(CEDAR, POLICIES, &text)]), []);
    let names: Vec<_> = findings
        .iter()
        .map(|finding| finding.problem.policy.clone().unwrap().into_string())
        .collect();
    assert_eq!(names, ["all#5", "all#6"]);
    assert!(
        text.contains("@id(\"all#5\")\npermit") && text.contains("@id(\"all#6\")\npermit"),
        "{text}"
    );
}

#[test]
fn a_description_and_the_routes_are_compared_both_ways() {
    let text = "openapi: 3.0.0\npaths:\n  /orders/{id}:\n    get: {}\n    head: {}\n    delete: { operationId: cancel }\n  \
                /products/{a}/{b}:\n    get: {}\n  /assets/app.js:\n    get: {}\n  /a//b:\n    get: {}\n";
    let api = OpenApi::parse(text).unwrap();
    let asked = DescribedApp {
        api: &api,
        file: "api.yaml",
        text,
    };
    let places = |findings: Vec<LintFinding>| -> Vec<String> {
        let place = |finding: &LintFinding| {
            let problem = &finding.problem;
            format!("{} {}:{}", finding.rule.id, problem.file, problem.line.unwrap_or_default())
        };
        findings.iter().map(place).collect()
    };
    assert_eq!(
        places(described(&[], Some(&asked))),
        [
            "unrouted-operation api.yaml:6",
            "unrouted-operation api.yaml:8",
            "undescribed-route policies/bench/portal.yaml:5",
        ]
    );
    let silenced = [Change::Replace(
        YAML,
        "  - { route: 'GET /products",
        "  # lint: allow(undescribed-route) it is not public yet\n  - { route: 'GET /products",
    )];
    assert_eq!(places(described(&silenced, Some(&asked))).len(), 2);
    assert_eq!(
        places(described(&silenced, None)),
        [""; 0],
        "nobody asked, so the suppression may be unused"
    );
}
