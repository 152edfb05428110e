//! Unit tests of the matrix: what it says of known policies, and that it never contradicts a decision.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::claims::unsigned_identity;
use crate::decision::named::{ContextPrecedence, NamedEntity, NamedQuery};
use crate::decision::{Caller, Query, QueryForm, decide};
use crate::load::Loader;
use crate::test_support::{portal, tree};

const SCHEMA: &str = r#"
entity Role in [Role, Group]; entity Tenant; entity Group;
entity User in [Role, Tenant, Group] { level?: Long };
entity Portal; entity Path in [Path, Portal];
entity Doc { owner: User, level: Long, tenant: Tenant, open?: Bool };
action read;
action view in [read] appliesTo { principal: [User], resource: [Doc], context: { mfa?: Bool } };
action edit appliesTo { principal: [User], resource: [Doc], context: { mfa?: Bool } };
action GET appliesTo { principal: [User], resource: [Path], context: {} };
"#;
const ENTITIES: &str = r#"[
  { "uid": { "type": "Role", "id": "admin" }, "attrs": {}, "parents": [{ "type": "Role", "id": "editor" }, { "type": "Group", "id": "staff" }] },
  { "uid": { "type": "Role", "id": "editor" }, "attrs": {}, "parents": [] }
]"#;

fn revision(policies: &str) -> Arc<Revision> {
    let files = [
        ("schemas/bench.cedarschema", SCHEMA.to_owned()),
        ("policies/bench/main.cedar", policies.to_owned()),
        ("policies/bench/entities.json", ENTITIES.to_owned()),
    ];
    let tree = tree(files.iter().map(|(name, text)| (*name, text.as_str())));
    let loaded = Loader::new(None).load(&portal(), &tree, None);
    loaded.revision.unwrap_or_else(|| panic!("{:?}", loaded.rejected))
}

/// `role action: answer` of every cell of `Doc`, with the conditions.
fn cells(policies: &str) -> BTreeMap<String, String> {
    let matrix = Matrix::of(&portal(), &revision(policies));
    let mut shown = BTreeMap::new();
    for (row, cells) in matrix.rows.iter().zip(&matrix.cells) {
        for (column, cell) in matrix.columns.iter().zip(cells) {
            let role = row.role.as_ref().map_or("-", |role| role.id().unescaped());
            let texts = |conditions: &[Arc<Condition>]| {
                let text = |one: &Arc<Condition>| format!(" {}({})", one.policy.id, one.text.as_deref().unwrap_or("always"));
                conditions.iter().map(text).collect::<String>()
            };
            let key = format!("{role} {}", column.action.id().unescaped());
            let forbids = texts(&cell.forbids);
            let forbids = if forbids.is_empty() {
                forbids
            } else {
                format!(" unless{forbids}")
            };
            shown.insert(key, format!("{}{}{forbids}", cell.answer.as_str(), texts(&cell.permits)));
        }
    }
    shown
}

#[test]
fn roles_that_contain_each_other_unconditional_and_conditional_policies() {
    let cells = cells(
        r#"
@id("editors") permit (principal in Role::"editor", action in Action::"read", resource);
@id("owners") permit (principal, action == Action::"edit", resource) when { resource.owner == principal };
@id("alice") permit (principal == User::"alice", action == Action::"edit", resource);
@id("mfa") forbid (principal in Group::"staff", action == Action::"edit", resource) unless { context has mfa && context.mfa };
@id("pages") permit (principal in Role::"viewer", action == Action::"GET", resource in Portal::"bench");
@id("area") permit (principal in Role::"editor", action == Action::"GET", resource in Path::"/a");
"#,
    );
    for (cell, expected) in [
        ("- view", "deny"),
        ("editor view", "allow editors(always)"),
        ("admin view", "allow editors(always)"),
        ("viewer view", "deny"),
        ("viewer GET", "allow pages(always)"),
        ("admin GET", "conditional area(resource in Path::\"/a\")"),
        ("- GET", "deny"),
    ] {
        assert_eq!(cells.get(cell).map(String::as_str), Some(expected), "{cell}: {cells:#?}");
    }
    // a role that is not in the group: a stored entity of the caller may be
    let editor = cells.get("editor edit").unwrap();
    assert!(editor.starts_with("conditional owners("), "{editor}");
    assert!(editor.contains("alice(principal == User::\"alice\")"), "{editor}");
    assert!(
        editor.contains("unless mfa(") && editor.contains("Group::\"staff\""),
        "{editor}"
    );
    let admin = cells.get("admin edit").unwrap();
    assert!(admin.contains("unless mfa(") && !admin.contains("Group"), "{admin}");
}

#[test]
fn a_forbid_that_always_holds_denies_and_one_that_never_holds_is_not_shown() {
    let cells = cells(
        r#"
@id("all") permit (principal, action, resource);
@id("none") forbid (principal in Role::"viewer", action == Action::"view", resource);
@id("never") forbid (principal, action == Action::"view", resource) when { principal in Role::"viewer" && !(principal in Role::"viewer") };
@id("set") forbid (principal, action == Action::"edit", resource) when { principal in [Role::"viewer", Role::"admin"] };
"#,
    );
    assert_eq!(cells["viewer view"], "deny unless none(always)");
    assert_eq!(cells["editor view"], "allow all(always)");
    assert_eq!(cells["viewer edit"], "deny unless set(always)");
    assert_eq!(cells["admin edit"], "deny unless set(always)");
    assert_eq!(cells["editor edit"], "allow all(always)");
    assert_eq!(cells["- edit"], "allow all(always)");
}

/// Scopes and conditions of random policies.
const PRINCIPALS: [&str; 7] = [
    "principal",
    "principal in Role::\"admin\"",
    "principal in Role::\"editor\"",
    "principal is User in Role::\"viewer\"",
    "principal == User::\"u\"",
    "principal in Tenant::\"t\"",
    "principal in Group::\"staff\"",
];
const ACTIONS: [&str; 4] = [
    "action",
    "action == Action::\"edit\"",
    "action in Action::\"read\"",
    "action in [Action::\"view\", Action::\"edit\"]",
];
const CLAUSES: [&str; 12] = [
    "true",
    "resource.owner == principal",
    "resource.level > 3",
    "resource has open && resource.open",
    "principal in resource.tenant",
    "principal in Role::\"editor\"",
    "!(principal in Role::\"viewer\")",
    "principal in [Role::\"viewer\", Role::\"admin\"]",
    "principal has level && principal.level * 4611686018427387904 > 0",
    "if principal in Role::\"admin\" then context has mfa else resource.level == 1",
    "principal is User in Role::\"editor\" || resource.level == 2",
    "context has mfa && context.mfa",
];

prop_compose! {
    fn policy()(forbid in prop::bool::weighted(0.3), principal in 0..PRINCIPALS.len(), action in 0..ACTIONS.len(),
        when in prop::collection::vec(0..CLAUSES.len(), 0..3), unless in prop::option::weighted(0.3, 0..CLAUSES.len())) -> String {
        let effect = if forbid { "forbid" } else { "permit" };
        let when: String = when.iter().map(|clause| format!(" when {{ {} }}", CLAUSES[*clause])).collect();
        let unless = unless.map(|clause| format!(" unless {{ {} }}", CLAUSES[clause])).unwrap_or_default();
        format!("{effect} ({}, {}, resource is Doc){when}{unless};\n", PRINCIPALS[principal], ACTIONS[action])
    }
}

/// One question about a document.
#[derive(Clone, Debug)]
struct Question {
    subject: &'static str,
    tenant: &'static str,
    role: Option<&'static str>,
    level: Option<i64>,
    action: &'static str,
    owner: &'static str,
    doc_level: i64,
    doc_tenant: &'static str,
    open: Option<bool>,
    mfa: Option<bool>,
}

prop_compose! {
    fn question()(subject in prop::sample::select(vec!["u", "v"]), tenant in prop::sample::select(vec!["t", "s"]),
        role in prop::option::of(prop::sample::select(vec!["admin", "editor", "viewer"])), level in prop::option::of(0_i64..4),
        action in prop::sample::select(vec!["view", "edit"]), owner in prop::sample::select(vec!["u", "v"]), doc_level in 0_i64..5,
        doc_tenant in prop::sample::select(vec!["t", "s"]), open in prop::option::of(any::<bool>()), mfa in prop::option::of(any::<bool>())) -> Question {
        Question { subject, tenant, role, level, action, owner, doc_level, doc_tenant, open, mfa }
    }
}

fn is_allowed(portal: &PortalScope, revision: &Revision, question: &Question) -> bool {
    let roles: Vec<&str> = question.role.into_iter().collect();
    let mut claims =
        json!({"iss": "https://id.example.test/", "sub": question.subject, "tenant": question.tenant, "roles": roles});
    if let Some(level) = question.level {
        claims["level"] = level.into();
    }
    let identity = unsigned_identity(&portal.issuers[0], claims.as_object().unwrap().clone()).unwrap();
    let principal = revision.principal(portal, &identity).unwrap();
    let mut attrs = json!({"owner": {"__entity": {"type": "User", "id": question.owner}}, "level": question.doc_level,
        "tenant": {"__entity": {"type": "Tenant", "id": question.doc_tenant}}});
    if let Some(open) = question.open {
        attrs["open"] = open.into();
    }
    let resource = NamedEntity::read(json!({"type": "Doc", "id": "d", "attrs": attrs}), "resource").unwrap();
    let context = question.mfa.map(|mfa| json!({"mfa": mfa}).as_object().unwrap().clone());
    let query = Query {
        portal,
        revision,
        now_millis: 0,
        asked: QueryForm::Named(NamedQuery {
            action: question.action,
            resource: &resource,
            principal: None,
            context: context.as_ref(),
            precedence: ContextPrecedence::Gate,
            entities: &[],
        }),
    };
    let decision = decide(
        &query,
        Caller::Proven {
            identity: &identity,
            principal: &principal,
        },
    );
    assert!(decision.is_evaluated(), "{:?}", decision.refusal());
    decision.denial().is_none()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn no_decision_contradicts_the_matrix(policies in prop::collection::vec(policy(), 1..6), questions in prop::collection::vec(question(), 30)) {
        let (portal, revision) = (portal(), revision(&policies.concat()));
        let matrix = Matrix::of(&portal, &revision);
        for question in questions {
            let row = matrix.rows.iter().position(|row| row.role.as_ref().map(|role| role.id().unescaped()) == question.role);
            // a role that no policy names has no row: its callers are like those without one
            let row = row.unwrap_or(0);
            let column = matrix.columns.iter().position(|column| column.action.id().unescaped() == question.action).unwrap();
            let cell = &matrix.cells[row][column];
            let allowed = is_allowed(&portal, &revision, &question);
            prop_assert!(cell.answer != CellAnswer::Unknown, "{:?}", cell.why);
            prop_assert!(cell.answer != CellAnswer::Allow || allowed, "{} {question:?} {cell:?}", policies.concat());
            prop_assert!(cell.answer != CellAnswer::Deny || !allowed, "{} {question:?} {cell:?}", policies.concat());
        }
    }
}
