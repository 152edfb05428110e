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

/// Ten refusals with ten causes: each names the cause, what was found, and where.
#[test]
fn a_stranger_can_act_on_each_of_ten_refusals() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("tree");
    super::diff::copy(&repository().join("tests/corpus/planted"), &copy);
    let strong = "@id(\"audits-need-a-strong-login\")\nforbid (principal, action, resource in Path::\"/portal/shop/audit\")\n\
        unless { context has auth && context.auth has acr && context.auth.acr == \"high\" };\n\n\
        @id(\"beta-is-off\")\nforbid (principal, action, resource in Path::\"/portal/shop/beta\")\n\
        unless { context has flags && context.flags has beta && context.flags.beta };\n";
    std::fs::write(copy.join("policies/shop/strong.cedar"), strong).unwrap();
    let portal = copy.join("policies/shop/portal.yaml");
    let off = std::fs::read_to_string(&portal).unwrap().replace("beta: true", "beta: false");
    std::fs::write(portal, off).unwrap();
    let viewer = r#"{"sub": "vera", "tenant": "acme", "roles": ["viewer"]}"#;
    let url = |method: &str, path: &str, claims: &str| {
        ["--method", method, "--url", path, "--claims", claims]
            .map(str::to_owned)
            .to_vec()
    };
    let query = |action: &str, resource: &str| {
        let principal = json!({"type": "User", "id": "vera", "parents": [{"type": "Role", "id": "viewer"}]});
        let body = json!({"portal": "shop", "principal": principal, "action": action, "resource": resource});
        let path = folder.path().join(format!("{action}.json"));
        std::fs::write(&path, body.to_string()).unwrap();
        vec!["--request".to_owned(), path.to_str().unwrap().to_owned()]
    };
    let cases: [(&str, Vec<String>, &[&str]); 10] = [
        (
            "a missing role",
            url("POST", "/portal/shop/start", viewer),
            &[
                "nearest permit\n  permit editors-write",
                "wants principal in Role::\"editor\"",
                "found User::\"vera\" in Role::\"viewer\"",
            ],
        ),
        (
            "another tenant",
            url("GET", "/portal/shop/orders/7", &viewer.replace("acme", "globex")),
            &[
                "decided by tenant-isolation",
                "principal in resource.tenant is false, as the policy needs it",
                "resource.tenant = Tenant::\"acme\"",
            ],
        ),
        (
            "a login that is too weak",
            url("GET", "/portal/shop/audit/x", &viewer.replace('}', ", \"acr\": \"low\"}")),
            &[
                "decided by audits-need-a-strong-login",
                "context.auth.acr = \"low\"",
                "without the forbid, the request would be allowed\n  permit viewers-read",
            ],
        ),
        (
            "a path of no portal",
            url("GET", "/portal/shopp/start", viewer),
            &[
                "no portal matches `/portal/shopp/start`",
                "404 `portal_unknown`",
                "office at /portal/office, shop at /portal/shop",
            ],
        ),
        (
            "a method without an action",
            url("PROPFIND", "/portal/shop/start", viewer),
            &["no policy was asked: the schema has no action `PROPFIND`"],
        ),
        (
            "an attribute that the resource lacks",
            query("viewOrder", "Order::\"99\""),
            &[
                "nearest permit\n  permit viewers-view-orders",
                "resource has tenant is false, and the policy needs true",
                "resource = Order::\"99\"",
            ],
        ),
        (
            "a flag that is off",
            url("GET", "/portal/shop/beta/x", viewer),
            &[
                "decided by beta-is-off",
                "context.flags.beta is false, as the policy needs it",
                "flags.beta = false  <- portal.yaml, the value for every caller",
            ],
        ),
        (
            "a forbid",
            url("GET", "/portal/shop/internal/jobs", viewer),
            &[
                "decided by internal-is-closed  policies/shop/products.cedar",
                "without the forbid, the request would be allowed\n  permit viewers-read",
            ],
        ),
        (
            "an unknown action",
            query("viewOder", "Order::\"7\""),
            &["`action`: the schema has no action `viewOder`"],
        ),
        (
            "a claim of another type",
            url("GET", "/portal/shop/start", &viewer.replace('}', ", \"mail\": 7}")),
            &[
                "claim_invalid",
                "claim `mail` is not a string; the schema wants that for `email`",
            ],
        ),
    ];
    for (cause, arguments, lines) in cases {
        let arguments: Vec<&str> = ["explain"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let (code, out, error) = run(&copy, &arguments);
        assert!(code == 2 || code == 64, "{cause}: {code} {out}{error}");
        for line in lines {
            assert!(
                format!("{out}{error}").contains(line),
                "{cause}: `{line}` is not in\n{out}{error}"
            );
        }
    }
}
