//! `cedargate explain`: the reasons that it shows, as docs/policies.md shows them and as scripts read them.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::binary::run;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn explain(arguments: &[&str]) -> (i32, String, String) {
    run(repository(), &[&["explain"], arguments].concat())
}

fn explained(arguments: &[&str]) -> Value {
    let (code, out, error) = explain(&[arguments, &["--format", "json"]].concat());
    assert!(code == 0 || code == 2, "{error}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code == 0, report["decision"] == "allow", "{report:#}");
    report
}

/// The policy of an evaluation by its id.
fn policy<'a>(report: &'a Value, id: &str) -> &'a Value {
    let evaluations = report["evaluations"].as_array().unwrap();
    let policies = evaluations.last().unwrap()["policies"].as_array().unwrap();
    policies.iter().find(|policy| policy["id"] == id).unwrap()
}

/// The revision depends on every file of the tree.
fn without_revision(text: &str) -> String {
    match text.split_once("revision ") {
        Some((before, after)) => format!(
            "{before}revision …{}",
            after.trim_start_matches(|c: char| c.is_ascii_hexdigit())
        ),
        None => text.to_owned(),
    }
}

#[test]
fn the_page_about_policies_shows_what_the_command_prints() {
    let page = std::fs::read_to_string(repository().join("docs/policies.md")).unwrap();
    let (_, section) = page.split_once("## Why was this decided?").unwrap();
    let blocks: Vec<&str> = section.split("```").collect();
    let (command, shown) = (blocks[1], blocks[3]);
    assert!(
        command.contains("cedargate explain --method POST --url /portal/customer/orders"),
        "{command}"
    );
    let claims = command.split('\'').nth(1).unwrap();
    let (code, out, error) = explain(&["--method", "POST", "--url", "/portal/customer/orders", "--claims", claims]);
    assert_eq!((code, error.as_str()), (2, ""));
    assert_eq!(without_revision(&out).trim(), without_revision(shown).trim());
}

#[test]
fn the_clause_that_was_false_comes_with_its_line_and_values() {
    let order = json!({"type": "Order", "id": "9", "attrs": {
        "owner": {"__entity": {"type": "User", "id": "bob"}}, "tenant": {"__entity": {"type": "Tenant", "id": "acme"}}}});
    let folder = tempfile::tempdir().unwrap();
    let request = folder.path().join("request.json");
    let principal =
        json!({"type": "User", "id": "alice", "parents": [{"type": "Role", "id": "viewer"}, {"type": "Tenant", "id": "acme"}]});
    let mut body = json!({"portal": "customer", "principal": principal, "action": "cancelOrder", "resource": order});
    std::fs::write(&request, body.to_string()).unwrap();
    let report = explained(&["--request", request.to_str().unwrap()]);
    assert_eq!(report["reason"], "not_permitted", "{report:#}");
    let owners = policy(&report, "owners-change-their-orders");
    assert_eq!(owners["verdict"], "condition_false", "{owners:#}");
    let clause = &owners["clauses"][0];
    assert_eq!(clause["text"], "resource.owner == principal");
    let file = std::fs::read_to_string(repository().join("policies/customer/orders.cedar")).unwrap();
    let line = usize::try_from(clause["line"].as_u64().unwrap()).unwrap();
    assert!(
        file.lines().nth(line - 1).unwrap().contains("resource.owner == principal"),
        "line {line}"
    );
    assert_eq!(
        clause["operands"],
        json!([{"text": "resource.owner", "value": "User::\"bob\""}, {"text": "principal", "value": "User::\"alice\""}])
    );
    assert_eq!(report["nearest_permit"]["id"], "owners-change-their-orders");
    body["resource"]["attrs"]["owner"]["__entity"]["id"] = json!("\u{1b}[2Jbob");
    std::fs::write(&request, body.to_string()).unwrap();
    let (code, out, _) = explain(&["--request", request.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(out.contains("bob"), "{out}");
    assert!(!out.contains('\u{1b}'), "a value must not steer the terminal: {out:?}");
}

#[test]
fn a_query_that_ends_before_the_policies_says_where() {
    let report = explained(&["--url", "/portal/customer/orders"]);
    assert_eq!(
        (&report["reason"], &report["evaluations"]),
        (&json!("token_missing"), &json!([]))
    );
    let report = explained(&["--url", "/portal/customer/orders", "--claims", "{\"sub\": 7}"]);
    assert_eq!(report["reason"], "claim_invalid");
    assert!(report["detail"].as_str().unwrap().contains("`sub`"), "{report:#}");
    let (code, _, error) = explain(&["--url", "/portal/customer/orders", "--claims", "{sub: a}"]);
    assert_eq!(code, 64);
    assert!(error.contains("--claims"), "{error}");
    let (code, _, error) = explain(&["--url", "/portal/customer/orders", "--claims", "@absent.json"]);
    assert_eq!(code, 64);
    assert!(error.contains("absent.json"), "{error}");
}

#[test]
fn a_forbid_on_the_path_of_a_routed_request_is_shown_with_its_own_reading() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        (
            "schemas/p.cedarschema",
            "entity User; entity Path in [Path, Portal]; entity Portal; entity Order;\n\
             action GET appliesTo { principal: User, resource: Path }; action view appliesTo { principal: User, resource: Order };",
        ),
        (
            "policies/p/portal.yaml",
            "routes: [{ route: 'GET /portal/p/orders/{id}', action: view, resource: { type: Order, id: '{id}' } }]\n",
        ),
        (
            "policies/p/all.cedar",
            "@id(\"all\") permit (principal, action, resource);\n@id(\"closed\") forbid (principal, action, resource in Path::\"/portal/p/orders/7\");",
        ),
    ];
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let arguments = ["explain", "--url", "/portal/p/orders/7", "--claims", "{\"sub\": \"x\"}"];
    let (code, out, error) = run(folder.path(), &arguments);
    assert_eq!((code, error.as_str()), (2, ""), "{out}");
    assert!(out.starts_with("deny forbidden"), "{out}");
    assert!(out.contains("forbid closed"), "{out}");
    assert!(out.contains("Path::\"/portal/p/orders/7\""), "{out}");
    assert!(!out.contains("nearest permit"), "permits were not asked: {out}");
}

#[test]
fn a_failing_decision_test_shows_its_reasons_and_a_filter_that_matches_nothing_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(folder.path(), &["init"]).0, 0);
    let tests = folder.path().join("policies/customer/tests/pages.yaml");
    let text = std::fs::read_to_string(&tests).unwrap();
    let wrong = text.replace(
        "principal: vera, http: \"PUT /portal/customer/items/7\", expect: deny, reason: not_permitted",
        "principal: vera, http: \"PUT /portal/customer/items/7\", expect: allow",
    );
    assert_ne!(text, wrong);
    std::fs::write(&tests, wrong).unwrap();
    let (code, out, _) = run(folder.path(), &["test"]);
    assert_eq!(code, 4, "{out}");
    assert!(out.contains("nearest permit") && out.contains("editors-edit-items"), "{out}");
    assert!(out.contains("wants principal in Role::\"editor\""), "{out}");
    let (code, xml, _) = run(folder.path(), &["test", "--format", "junit"]);
    assert_eq!(code, 4);
    assert!(
        xml.contains("tests=\"7\" failures=\"1\" errors=\"0\" skipped=\"0\" time=\""),
        "{xml}"
    );
    let (code, _, error) = run(folder.path(), &["test", "--filter", "no such case"]);
    assert_eq!(code, 64);
    assert!(error.contains("`no such case`"), "{error}");
}
