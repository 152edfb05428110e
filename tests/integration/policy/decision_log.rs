//! What is made of the decision log: replay, usage, explanations of records, candidate sets, the nearest permit.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::binary::{GateFolder, GateProcess};
use crate::support::record_schema::check_lines;
use crate::support::{App, eventually, put, raw};

const SCHEMA: &str = "entity Tenant; entity Role; entity Portal; entity Path in [Path, Portal];
entity User in [Role, Tenant] = { email?: String };
type Web = { method?: String, headers?: { \"x-dept\"?: String } };
action GET, POST, DELETE appliesTo { principal: User, resource: Path, context: Web };
";
const POLICIES: &str = r#"@id("viewers-read") permit (principal in Role::"viewer", action == Action::"GET", resource);
@id("editors-write") permit (principal in Role::"editor", action in [Action::"GET", Action::"POST"], resource);
@id("owners-delete") permit (principal in Role::"owner", action, resource);
@id("staff") permit (principal, action == Action::"GET", resource in Path::"/portal/shop/staff") when { context has headers && context.headers has "x-dept" };
"#;
const TESTS: &str = "
principals: { vera: { id: vera, roles: [viewer] }, olga: { id: olga, roles: [owner] } }
cases:
  - { name: viewers read, principal: vera, http: GET /portal/shop/orders, expect: allow }
  - { name: owners delete, principal: olga, http: DELETE /portal/shop/orders/7, expect: allow }
";

struct Shop {
    gate: GateFolder,
    _app: App,
}

impl Shop {
    fn new(more: &str) -> Self {
        let app = App::start();
        let gate = GateFolder::new(&format!("http://{}", app.address), more);
        std::fs::remove_dir_all(gate.folder.path().join("policies")).unwrap();
        std::fs::remove_dir_all(gate.folder.path().join("schemas")).unwrap();
        gate.put("schemas/shop.cedarschema", SCHEMA);
        gate.put("policies/shop/main.cedar", POLICIES);
        gate.put("policies/shop/portal.yaml", "public: [ \"GET /portal/shop/assets/**\" ]\n");
        gate.put("policies/shop/tests/shop.yaml", TESTS);
        Self { gate, _app: app }
    }

    fn path(&self) -> &Path {
        self.gate.folder.path()
    }

    fn ask(&self, role: &str, method: &str, path: &str) -> u16 {
        let bearer = format!("Bearer {}", self.gate.issuer.token(role, &[role]));
        let headers = [("authorization", bearer.as_str()), ("x-dept", "hr")];
        raw(self.gate.proxy, method, path, &headers, b"").status
    }

    /// The decision records, once there are so many.
    fn records(&self, wanted: usize) -> Vec<Value> {
        eventually("the records are written", || {
            let text = std::fs::read_to_string(self.path().join("decisions.jsonl")).unwrap_or_default();
            let mut records = check_lines(&text);
            records.retain(|record| record["kind"] == "decision");
            match records.len() {
                count if count >= wanted => Ok(records),
                count => Err(count.to_string()),
            }
        })
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        self.gate.run(arguments)
    }

    fn report(&self, arguments: &[&str]) -> Value {
        let (_, out, error) = self.run(&[arguments, &["--format", "json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{error}"))
    }
}

/// The traffic of the page: reads by viewers and editors, a write that is refused, and no credential.
fn traffic(shop: &Shop) {
    for _ in 0..3 {
        assert_eq!(shop.ask("viewer", "GET", "/portal/shop/orders"), 200);
    }
    assert_eq!(shop.ask("editor", "POST", "/portal/shop/orders"), 200);
    for _ in 0..2 {
        assert_eq!(shop.ask("viewer", "POST", "/portal/shop/orders"), 403);
    }
    assert_eq!(raw(shop.gate.proxy, "GET", "/portal/shop/orders", &[], b"").status, 401);
    assert_eq!(shop.ask("editor", "GET", "/portal/shop/staff/rota"), 200);
    shop.records(8);
}

/// Ids, revisions and times change from run to run.
fn steady(text: &str) -> String {
    let mut steady = String::new();
    for word in text.split_inclusive(|c: char| c.is_whitespace() || ",)".contains(c)) {
        let bare = word.trim_end_matches(|c: char| c.is_whitespace() || ",)".contains(c));
        let is_hex = bare.len() >= 16 && bare.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        let is_time = bare.len() == 20 && bare.starts_with("20") && bare.ends_with('Z');
        let shown = if is_hex || is_time { "…" } else { bare };
        steady.push_str(&word.replace(bare, shown));
    }
    // trailing blanks and the width of what was replaced do not matter
    let lines = steady
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// The output that the page shows for a command.
fn shown(command: &str) -> String {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/replay.md")).unwrap();
    let (_, after) = page
        .split_once(&format!("$ {command}\n"))
        .unwrap_or_else(|| panic!("the page does not show `{command}`"));
    steady(after.split_once("```").unwrap().0)
}

#[track_caller]
fn assert_page_shows(shop: &Shop, command: &str, exit: i32) {
    let arguments: Vec<&str> = command.split_whitespace().skip(1).collect();
    let (code, out, error) = shop.run(&arguments);
    assert_eq!(code, exit, "{out}{error}");
    assert_eq!(steady(&out), shown(command), "the command printed\n{out}");
}

fn served(shop: &Shop) -> GateProcess {
    shop.gate.serve()
}

#[test]
fn planted_flips_are_found_and_the_page_shows_them() {
    let shop = Shop::new("");
    let mut process = served(&shop);
    traffic(&shop);
    process.signal("-TERM");
    assert_eq!(process.exit_code(), 0);
    let same = shop.report(&["replay", "--log", "decisions.jsonl", "--fail-on", "flip"]);
    assert_eq!((&same["replayed"], &same["flips"]), (&json!(6), &json!([])), "{same:#}");
    assert_eq!(
        same["not_replayed"]
            .as_array()
            .unwrap()
            .iter()
            .map(|why| why["reason"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["refused_before_policies", "masked"],
        "{same:#}"
    );
    let edited = POLICIES.replace(
        "principal in Role::\"editor\", action in",
        "principal in Role::\"viewer\", action in",
    );
    shop.gate.put("policies/shop/main.cedar", &edited);
    assert_page_shows(&shop, "cedargate replay --log decisions.jsonl", 0);
    assert_page_shows(&shop, "cedargate usage --log decisions.jsonl", 0);
    for (fail_on, exit) in [("widen", 4), ("flip", 4)] {
        assert_eq!(
            shop.run(&["replay", "--log", "decisions.jsonl", "--fail-on", fail_on]).0,
            exit
        );
    }
    let markdown = shop.run(&["replay", "--log", "decisions.jsonl", "--format", "markdown"]).1;
    assert!(
        markdown.contains("| `2` | `shop` | `viewer` | `editors-write` |"),
        "{markdown}"
    );
    // only a tightening: no widening
    shop.gate
        .put("policies/shop/main.cedar", &POLICIES.replace("\"viewer\"", "\"auditor\""));
    assert_eq!(shop.run(&["replay", "--log", "decisions.jsonl", "--fail-on", "widen"]).0, 0);
    assert_eq!(shop.run(&["replay", "--log", "decisions.jsonl", "--fail-on", "flip"]).0, 4);
    // a path that becomes public
    shop.gate.put("policies/shop/main.cedar", POLICIES);
    shop.gate
        .put("policies/shop/portal.yaml", "public: [ \"GET /portal/shop/orders\" ]\n");
    let public = shop.report(&["replay", "--log", "decisions.jsonl"]);
    assert_eq!(public["newly_allowed"], 1, "{public:#}");
    assert_eq!(public["flips"][0]["denial"], "token_missing", "{public:#}");
}

#[test]
fn a_comparison_of_trees_asks_recorded_decisions_of_both() {
    let shop = Shop::new("");
    let mut process = served(&shop);
    traffic(&shop);
    process.signal("-TERM");
    assert_eq!(process.exit_code(), 0);
    for (name, text) in [("schemas/shop.cedarschema", SCHEMA), ("policies/shop/main.cedar", POLICIES)] {
        put(shop.path(), &format!("before/{name}"), text);
    }
    let compare = ["diff", "before", ".", "--log", "decisions.jsonl", "--fail-on", "widen"];
    let (code, out, error) = shop.run(&compare);
    assert_eq!(code, 0, "{out}{error}");
    // viewers may write, and no test asks
    let edited = POLICIES.replace(
        "principal in Role::\"editor\", action in",
        "principal in Role::\"viewer\", action in",
    );
    shop.gate.put("policies/shop/main.cedar", &edited);
    let (code, out, error) = shop.run(&compare);
    assert_eq!(code, 4, "{out}{error}");
    let report = shop.report(&compare);
    let log = &report["log"];
    assert_eq!(
        (&log["newly_allowed"], &log["newly_denied"]),
        (&json!(2), &json!(1)),
        "{report:#}"
    );
    let markdown = shop.run(&[&compare[..], &["--format", "markdown"]].concat()).1;
    assert!(
        markdown.contains("| `2` | `shop` | `viewer` | `editors-write` |"),
        "{markdown}"
    );
}

#[test]
fn broken_and_foreign_lines_are_named_and_a_missing_log_is_one_error() {
    let shop = Shop::new("");
    let mut process = served(&shop);
    traffic(&shop);
    process.signal("-TERM");
    process.exit_code();
    let log = std::fs::read_to_string(shop.path().join("decisions.jsonl")).unwrap();
    let elsewhere = log.replace("\"portal\":\"shop\"", "\"portal\":\"gone\"");
    let cut = &log[..log.len() - 20];
    put(shop.path(), "other.jsonl", &format!("{elsewhere}not a record\n{cut}"));
    let (code, out, error) = shop.run(&["replay", "--log", "other.jsonl", "--log", "decisions.jsonl"]);
    assert_eq!(code, 0, "{error}");
    assert!(error.contains("2 lines are no records: other.jsonl:"), "{error}");
    assert!(out.contains("the tree has no portal `gone`"), "{out}");
    let (code, out, error) = shop.run(&["replay", "--log", "absent.jsonl"]);
    assert_eq!((code, out.as_str()), (64, ""));
    assert!(error.contains("absent.jsonl"), "{error}");
    shop.gate.put("policies/shop/main.cedar", "permit (");
    let (code, _, error) = shop.run(&["replay", "--log", "decisions.jsonl"]);
    assert!(code == 64 && error.contains("policies/shop/main.cedar:1"), "{code} {error}");
}

#[test]
fn a_record_is_explained_by_either_id_and_names_its_nearest_permit() {
    let shop = Shop::new("");
    let mut process = served(&shop);
    traffic(&shop);
    let records = shop.records(8);
    let refused = records.iter().find(|record| record["reason"] == "not_permitted").unwrap();
    assert_eq!(refused["near"], "editors-write", "{refused:#}");
    let allowed = records.iter().find(|record| record["decision"] == "allow").unwrap();
    assert_eq!(allowed.get("near"), None);
    for id in ["decision_id", "request_id"] {
        // without `--log`: the file of the configuration
        let report = shop.report(&["explain", "--from-log", refused[id].as_str().unwrap()]);
        assert_eq!(report["reason"], "not_permitted", "{report:#}");
        assert_eq!(report["nearest_permit"]["id"], "editors-write", "{report:#}");
        assert_eq!(report["request"], "POST /portal/shop/orders");
    }
    let without = records.iter().find(|record| record["reason"] == "token_missing").unwrap();
    let (code, out, _) = shop.run(&["explain", "--from-log", without["decision_id"].as_str().unwrap()]);
    assert!(code == 2 && out.contains("token_missing"), "{out}");
    let (code, _, error) = shop.run(&["explain", "--from-log", "nothing"]);
    assert!(code == 64 && error.contains("no record has"), "{error}");
    let forged = raw(
        shop.gate.proxy,
        "GET",
        "/portal/shop/orders",
        &[("authorization", "Bearer e30.e30.e30")],
        b"",
    );
    assert_eq!(forged.status, 401);
    let id = forged.header("x-cedargate-decision-id");
    shop.records(9);
    let (code, _, error) = shop.run(&["explain", "--from-log", id]);
    assert!(code == 64 && error.contains("check "), "{error}");
    process.signal("-TERM");
    process.exit_code();
}

#[test]
fn a_candidate_is_evaluated_beside_the_enforced_set_and_never_decides() {
    let shop = Shop::new("");
    let candidate = POLICIES
        .replace(
            "principal in Role::\"editor\", action in",
            "principal in Role::\"viewer\", action in",
        )
        .replace("@id(\"staff\")", "@id(\"staff-only\")");
    shop.gate.put("policies/shop/candidate/main.cedar", &candidate);
    let mut process = served(&shop);
    traffic(&shop);
    let records = shop.records(8);
    let of = |method: &str, role: &str| {
        let mut found = records.iter().filter(|record| {
            record["http"]["method"] == method
                && record["roles"] == json!([role])
                && record["http"]["path"] == "/portal/shop/orders"
        });
        let record = found.next().unwrap();
        (record["decision"].clone(), record["shadow"]["decision"].clone())
    };
    assert_eq!(of("POST", "viewer"), (json!("deny"), json!("allow")));
    assert_eq!(of("POST", "editor"), (json!("allow"), json!("deny")));
    assert_eq!(of("GET", "viewer"), (json!("allow"), json!("allow")));
    let metrics = || String::from_utf8_lossy(&raw(shop.gate.admin, "GET", "/metrics", &[], b"").body).into_owned();
    for line in [
        r#"cedargate_shadow_disagreements_total{enforced="deny",portal="shop",shadow="allow"} 2"#,
        r#"cedargate_shadow_disagreements_total{enforced="allow",portal="shop",shadow="deny"} 1"#,
        r#"cedargate_shadow_decisions_total{portal="shop",result="evaluated"} 7"#,
        r#"cedargate_shadow_active{portal="shop"} 1"#,
    ] {
        assert!(metrics().contains(line), "{line}\n{}", metrics());
    }
    assert_page_shows(&shop, "cedargate shadow report --log decisions.jsonl", 0);
    assert_eq!(
        shop.run(&["shadow", "report", "--log", "decisions.jsonl", "--fail-on", "widen"])
            .0,
        4
    );
    // a broken candidate: only the shadow is off
    shop.gate.put("policies/shop/candidate/main.cedar", "permit (");
    let status = || serde_json::from_slice::<Value>(&raw(shop.gate.admin, "GET", "/status", &[], b"").body).unwrap();
    eventually("the shadow is off", || {
        let portal = &status()["portals"][0];
        let (shadow, own) = (&portal["shadow"], &portal["last_reload"]);
        match (&shadow["revision"], &shadow["last_reload"]["result"], &own["result"]) {
            (Value::Null, rejected, success) if rejected == "rejected" && success == "success" => Ok(()),
            _ => Err(portal.to_string()),
        }
    });
    let problem = &status()["portals"][0]["shadow"]["last_reload"]["problems"][0];
    assert_eq!(problem["file"], "policies/shop/candidate/main.cedar", "{problem:#}");
    assert!(metrics().contains(r#"cedargate_shadow_active{portal="shop"} 0"#));
    let (code, out, _) = shop.run(&["validate"]);
    let warning = "warning: the candidate set would not be evaluated";
    assert!(
        code == 0 && out.contains(warning) && out.contains("policies/shop/candidate/main.cedar:1"),
        "{code} {out}"
    );
    assert_eq!(shop.run(&["validate", "--deny-warnings"]).0, 3);
    assert_eq!(shop.ask("viewer", "GET", "/portal/shop/orders"), 200);
    assert_eq!(raw(shop.gate.admin, "GET", "/readyz", &[], b"").status, 200);
    // and without one there is no shadow
    std::fs::remove_dir_all(shop.path().join("policies/shop/candidate")).unwrap();
    eventually("the shadow is gone", || match status()["portals"][0].get("shadow") {
        None => Ok(()),
        Some(shadow) => Err(shadow.to_string()),
    });
    process.signal("-TERM");
    assert_eq!(process.exit_code(), 0);
}

#[test]
fn candidates_of_another_folder_have_a_budget() {
    let shop = Shop::new("policies: { candidate: next, shadow_budget: 1 }");
    shop.gate
        .put("next/shop/all.cedar", "@id(\"all\") permit (principal, action, resource);");
    let mut process = served(&shop);
    for _ in 0..30 {
        assert_eq!(shop.ask("viewer", "POST", "/portal/shop/orders"), 403);
    }
    let records = shop.records(30);
    let evaluated = records
        .iter()
        .filter(|record| record["shadow"]["decision"] == "allow")
        .count();
    assert!((1..30).contains(&evaluated), "{evaluated} of 30");
    let metrics = String::from_utf8_lossy(&raw(shop.gate.admin, "GET", "/metrics", &[], b"").body).into_owned();
    let skipped = format!(
        "cedargate_shadow_decisions_total{{portal=\"shop\",result=\"skipped\"}} {}",
        30 - evaluated
    );
    assert!(metrics.contains(&skipped), "{skipped}\n{metrics}");
    process.signal("-TERM");
    assert_eq!(process.exit_code(), 0);
}

#[test]
fn a_running_gate_explains_its_newest_decisions_to_operators_alone() {
    let shop = Shop::new("");
    let socket = shop.path().join("control.sock");
    let yaml = std::fs::read_to_string(shop.path().join("cedargate.yaml")).unwrap();
    let control = format!("control: {{ address: 'unix:{}' }}, decision: null", socket.display());
    assert!(yaml.contains("decision: null"));
    shop.gate.put("cedargate.yaml", &yaml.replace("decision: null", &control));
    let mut process = served(&shop);
    traffic(&shop);
    let records = shop.records(8);
    let refused = records.iter().find(|record| record["reason"] == "not_permitted").unwrap();
    let (decision_id, request_id) = (
        refused["decision_id"].as_str().unwrap(),
        refused["request_id"].as_str().unwrap(),
    );
    let socket = socket.to_str().unwrap();
    for id in [decision_id, request_id] {
        let (code, out, error) = shop.run(&["explain", "--socket", socket, "--from-log", id]);
        assert_eq!(code, 2, "{error}");
        assert!(
            out.contains("deny not_permitted") && out.contains("nearest permit\n  permit editors-write"),
            "{out}"
        );
    }
    let report = shop.report(&["explain", "--socket", socket, "--from-log", decision_id]);
    assert_eq!(report["nearest_permit"]["id"], "editors-write", "{report:#}");
    // the policies in force count, and the files on the disk do not
    let (code, _, error) = shop.run(&[
        "explain",
        "--socket",
        socket,
        "--from-log",
        "01a22989-0000-7000-8000-000000000000",
    ]);
    assert!(code == 1 && error.contains("audit.recent_bytes"), "{code} {error}");
    // no other listener has it
    for address in [shop.gate.proxy, shop.gate.admin] {
        let answer = raw(address, "GET", &format!("/explain?id={decision_id}"), &[], b"");
        assert!([401, 404].contains(&answer.status), "{}", answer.status);
        assert!(!answer.text().contains("editors-write"), "{}", answer.text());
    }
    process.signal("-TERM");
    assert_eq!(process.exit_code(), 0);
}
