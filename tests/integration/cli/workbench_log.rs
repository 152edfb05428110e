//! The workbench's page Log in a real browser: records of a real gate, and hostile records.

use serde_json::{Value, json};

use super::workbench::{Bench, browser, example, holds, page};
use crate::support::binary::GateFolder;
use crate::support::{App, eventually, put, raw};

const SCHEMA: &str = "entity Role; entity Portal; entity Path in [Path, Portal]; entity User in [Role];
action GET, POST appliesTo { principal: User, resource: Path };
";
const POLICIES: &str = r#"@id("viewers-read") permit (principal in Role::"viewer", action == Action::"GET", resource);
@id("editors-write") permit (principal in Role::"editor", action in [Action::"GET", Action::"POST"], resource);
"#;

#[test]
fn decisions_of_a_gate_are_counted_filtered_and_explained() {
    let app = App::start();
    let gate = GateFolder::new(&format!("http://{}", app.address), "");
    std::fs::remove_dir_all(gate.folder.path().join("policies")).unwrap();
    std::fs::remove_dir_all(gate.folder.path().join("schemas")).unwrap();
    gate.put("schemas/shop.cedarschema", SCHEMA);
    gate.put("policies/shop/main.cedar", POLICIES);
    let _serving = gate.serve();
    let ask = |role: &str, method: &str| {
        let bearer = format!("Bearer {}", gate.issuer.token(role, &[role]));
        raw(gate.proxy, method, "/portal/shop/orders", &[("authorization", &bearer)], b"").status
    };
    for _ in 0..3 {
        assert_eq!(ask("viewer", "GET"), 200);
    }
    assert_eq!(ask("viewer", "POST"), 403);
    assert_eq!(ask("viewer", "POST"), 403);
    assert_eq!(raw(gate.proxy, "GET", "/portal/shop/orders", &[], b"").status, 401);
    eventually("six decisions are written", || {
        let text = std::fs::read_to_string(gate.folder.path().join("decisions.jsonl")).unwrap_or_default();
        let decisions = text.lines().filter(|line| line.contains("\"kind\":\"decision\"")).count();
        if decisions >= 6 { Ok(()) } else { Err(decisions.to_string()) }
    });

    // the log is that of the configuration
    let bench = Bench::start(gate.folder.path(), &[]);
    let mut browser = browser(gate.folder.path());
    browser.open(&bench.url);
    browser.arrived("/");
    page(&mut browser, "#/log", "Log");
    let says = |text: &str| format!("document.querySelector('main').innerText.includes({})", Value::from(text));
    holds(&mut browser, &says("3 allowed"));
    holds(&mut browser, &says("3 denied"));
    holds(&mut browser, "document.querySelectorAll('svg.plot rect.s-deny').length > 0");
    // the write that was denied twice stands first, with the permit that was nearest
    let first = "document.querySelector('[aria-label=\"Denied most\"] tbody tr').innerText";
    holds(
        &mut browser,
        &format!("{first}.includes('viewer') && {first}.includes('editors-write')"),
    );
    page(&mut browser, "#/log?decision=deny&reason=not_permitted&by=roles", "Log");
    holds(&mut browser, &says("2 decisions"));
    holds(&mut browser, "document.querySelector('.legend').innerText.includes('viewer')");
    page(&mut browser, "#/log?role=stranger", "Log");
    holds(&mut browser, &says("No decision fits the filters."));
    page(&mut browser, "#/log?find=viewer&decision=deny", "Log");
    browser.click("document.querySelector('[aria-label=\"Records\"] tbody a')");
    browser.shows("Explain");
    holds(&mut browser, &says("No permit applies. The nearest is editors-write"));
    // a log that goes on is read again when the user says so
    assert_eq!(ask("viewer", "POST"), 403);
    page(&mut browser, "#/log", "Log");
    let mut by = "portal";
    eventually("the page says that the log has grown", || {
        by = if by == "reason" { "portal" } else { "reason" };
        page(&mut browser, &format!("#/log?by={by}"), "Log");
        let text = browser.eval("document.querySelector('main').innerText");
        let text = text.as_str().unwrap_or_default().to_owned();
        if text.contains("the log has grown") {
            Ok(())
        } else {
            Err(text)
        }
    });
    browser.click("[...document.querySelectorAll('button')].find((one) => one.innerText.startsWith('Read again'))");
    holds(&mut browser, &says("4 denied"));
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn a_hostile_log_stays_text_and_is_counted() {
    let markup = "</script><script>globalThis.ran = 1</script><img src=x onerror=\"globalThis.ran = 1\">";
    let huge = "A".repeat(200_000);
    let folder = example();
    let record = |change: Value| {
        let mut record = json!({
            "kind": "decision", "ts": "2026-01-01T00:00:00Z", "decision_id": "not an id", "portal": "customer", "roles": ["member"],
            "principal": {"type": "User", "id": "u"}, "http": {"method": "GET", "path": "/portal/customer/orders"},
            "decision": "deny", "reason": "not_permitted",
        });
        record.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        format!("{record}\n")
    };
    let mut log: String = [
        json!({"portal": markup, "roles": [markup, "a\u{202e}b"], "reason": markup, "near": markup}),
        json!({"http": {"method": markup, "path": markup, "route": markup}, "principal": {"id": markup}}),
        json!({"portal": huge, "principal": {"id": huge}, "roles": [huge]}),
        json!({"roles": vec!["r"; 5000], "near": {"not": "a text"}, "shadow": {"decision": markup}}),
        json!({"ts": "9999-12-31T23:59:59Z", "sample_rate": 1e-300}),
        json!({"ts": "1970-01-01T00:00:00Z", "decision": markup}),
        json!({"ts": markup, "sample_rate": -1.0, "roles": "***", "principal": "***", "shadow": 7}),
    ]
    .into_iter()
    .map(record)
    .collect();
    for event in [
        json!({"kind": "auth_event", "ts": "2026-01-01T00:00:00Z", "event": "revocation", "result": "success", "reason": "operator", "subject": "alice", "operator": 4711, "decision_id": null}),
        json!({"kind": "auth_event", "ts": "2026-01-01T00:00:01Z", "event": markup, "result": markup, "subject": markup, "detail": huge, "operator": markup}),
        json!({"kind": "policy_event", "ts": "2026-01-01T00:00:02Z", "result": "loaded", "portal": markup}),
        json!({"kind": "http_rejected", "ts": "2026-01-01T00:00:03Z", "reason": "not shown"}),
    ] {
        log.push_str(&format!("{event}\n"));
    }
    log.push_str("{\"kind\":\"decision\",\nnot json at all\n");
    put(folder.path(), "hostile.jsonl", &log);
    let bench = Bench::start(folder.path(), &["--log", "hostile.jsonl"]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    browser.arrived("/");
    for hash in [
        "#/log",
        "#/log?by=portal",
        "#/log?by=roles",
        "#/log?by=reason",
        "#/log?find=%3Cscript",
    ] {
        page(&mut browser, hash, "Log");
        holds(
            &mut browser,
            "document.querySelector('[aria-label=\"Records\"] tbody tr') !== null",
        );
        holds(
            &mut browser,
            "document.querySelectorAll('main img, main script').length === 0 && globalThis.ran === undefined",
        );
        let overflow = browser.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth");
        assert!(overflow.as_i64().unwrap() <= 1, "{hash}: {overflow}");
        let marks = browser.eval("document.querySelectorAll('main *').length");
        assert!(marks.as_i64().unwrap() < 5000, "{marks}");
    }
    let text = browser.eval("document.querySelector('main').innerText");
    let text = text.as_str().unwrap();
    assert!(text.contains("2 lines of the log cannot be read as a record"), "{text}");
    let events = browser.eval("[...document.querySelectorAll('[aria-label=\"Events\"] tbody tr')].map((row) => [row.cells[1].innerText, row.cells[4].innerText, row.cells[5].innerText])");
    assert_eq!(
        (&events[0], &events[2], events.as_array().unwrap().len()),
        (
            &json!(["reload loaded", "", ""]),
            &json!(["revocation success", "alice", "4711"]),
            3
        )
    );
    assert_eq!(browser.complaints, Vec::<String>::new());
}
