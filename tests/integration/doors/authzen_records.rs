//! The search scenario of AuthZEN's interoperability event, whole: six users, twenty records, three actions, and every
//! search of subjects, resources and actions. What it must find is computed here from the scenario's rules, not by
//! Cedar.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Gate, Setup, raw};

const SCHEMA: &str = r"
    entity user = { role: String, department: String };
    entity record = { department: String, owner: user };
    action view, edit, delete appliesTo { principal: user, resource: record };
";

const POLICIES: &str = r#"
    @id("owner") permit (principal, action, resource) when { resource.owner == principal };
    @id("department") permit (principal, action == Action::"view", resource) when { resource.department == principal.department };
    @id("manager-views") permit (principal, action == Action::"view", resource) when { principal.role == "manager" };
    @id("manager-edits") permit (principal, action == Action::"edit", resource)
        when { principal.role == "manager" && resource.department == principal.department };
"#;

const ACTIONS: [&str; 3] = ["view", "edit", "delete"];

struct User {
    id: &'static str,
    role: &'static str,
    department: &'static str,
}

const fn user(id: &'static str, role: &'static str, department: &'static str) -> User {
    User { id, role, department }
}

const USERS: [User; 6] = [
    user("alice", "manager", "Sales"),
    user("bob", "employee", "Legal"),
    user("carol", "contractor", "Legal"),
    user("dan", "manager", "Finance"),
    user("erin", "employee", "Finance"),
    user("felix", "contractor", "Accounting"),
];

/// Departments of the records from 101 on; their owners are the users in turn.
const DEPARTMENTS: [&str; 20] = [
    "Legal",
    "Legal",
    "Legal",
    "Accounting",
    "Legal",
    "Accounting",
    "Sales",
    "Legal",
    "Accounting",
    "Sales",
    "Accounting",
    "Legal",
    "Sales",
    "Accounting",
    "Finance",
    "Legal",
    "Legal",
    "Accounting",
    "Legal",
    "Accounting",
];

fn record_id(at: usize) -> String {
    (101 + at).to_string()
}

fn owner(at: usize) -> &'static str {
    USERS[at % USERS.len()].id
}

/// The scenario's rules.
fn may(user: &User, action: &str, record: usize) -> bool {
    let is_own = owner(record) == user.id;
    let is_near = DEPARTMENTS[record] == user.department;
    let is_manager = user.role == "manager";
    match action {
        "view" => is_own || is_near || is_manager,
        "edit" => is_own || (is_manager && is_near),
        _ => is_own,
    }
}

fn start() -> Gate {
    let mut entities = Vec::new();
    for user in &USERS {
        let attrs = json!({"role": user.role, "department": user.department});
        entities.push(json!({"uid": {"type": "user", "id": user.id}, "attrs": attrs, "parents": []}));
    }
    for (at, department) in DEPARTMENTS.iter().enumerate() {
        let owner = json!({"__entity": {"type": "user", "id": owner(at)}});
        let attrs = json!({"department": department, "owner": owner});
        entities.push(json!({"uid": {"type": "record", "id": record_id(at)}, "attrs": attrs, "parents": []}));
    }
    Setup::empty()
        .file("schemas/records.cedarschema", SCHEMA)
        .file("policies/records/main.cedar", POLICIES)
        .file("policies/records/entities.json", &json!(entities).to_string())
        .start()
}

/// The values of one member of the results, whether asked on one page or on pages of three.
fn found(gate: &Gate, what: &str, body: &Value, member: &str) -> BTreeSet<String> {
    let all = found_by_pages(gate, what, body, member, 100);
    assert_eq!(found_by_pages(gate, what, body, member, 3), all, "{body}");
    all
}

fn found_by_pages(gate: &Gate, what: &str, body: &Value, member: &str, limit: usize) -> BTreeSet<String> {
    let path = format!("/access/v1/search/{what}");
    let headers = [("content-type", "application/json")];
    let mut body = body.clone();
    body["page"] = json!({ "limit": limit });
    let mut found = BTreeSet::new();
    loop {
        let answer = raw(gate.decision, "POST", &path, &headers, body.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        let page = answer.json();
        let results = page["results"].as_array().unwrap();
        assert!(results.len() <= limit, "{page}");
        for result in results {
            let is_new = found.insert(result[member].as_str().unwrap().to_owned());
            assert!(is_new, "a result is there twice: {page}");
        }
        match page["page"]["next_token"].as_str().unwrap() {
            "" => return found,
            token => body["page"]["token"] = token.into(),
        }
    }
}

#[test]
fn every_search_of_the_record_scenario_finds_what_its_rules_say() {
    let gate = start();
    let records = 0..DEPARTMENTS.len();
    for action in ACTIONS {
        for record in records.clone() {
            let body = json!({"subject": {"type": "user"}, "action": {"name": action}, "resource": {"type": "record", "id": record_id(record)}});
            let expected = USERS
                .iter()
                .filter(|user| may(user, action, record))
                .map(|user| user.id.to_owned());
            assert_eq!(found(&gate, "subject", &body, "id"), expected.collect(), "{body}");
        }
        for user in &USERS {
            let body =
                json!({"subject": {"type": "user", "id": user.id}, "action": {"name": action}, "resource": {"type": "record"}});
            let expected = records.clone().filter(|record| may(user, action, *record)).map(record_id);
            assert_eq!(found(&gate, "resource", &body, "id"), expected.collect(), "{body}");
        }
    }
    for user in &USERS {
        for record in records.clone() {
            let body =
                json!({"subject": {"type": "user", "id": user.id}, "resource": {"type": "record", "id": record_id(record)}});
            let expected = ACTIONS
                .into_iter()
                .filter(|action| may(user, action, record))
                .map(str::to_owned);
            assert_eq!(found(&gate, "action", &body, "name"), expected.collect(), "{body}");
        }
    }
}
