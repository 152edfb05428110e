//! The pages of the workbench at work: accessible, by keyboard, and with the answers of the commands.

use std::path::Path;

use serde_json::{Value, json};

use super::workbench::{Bench, browser, example, holds, page};
use crate::support::binary::{GateFolder, run};
use crate::support::chromium::Chromium;
use crate::support::put;

const PAGES: [(&str, &str); 7] = [
    ("#/overview", "Overview"),
    ("#/matrix?portal=customer", "Matrix"),
    ("#/explain?portal=customer&case=8", "Explain"),
    ("#/tests", "Tests"),
    ("#/changes", "Changes"),
    ("#/editor?file=policies%2Fcustomer%2Forders.cedar", "Editor"),
    ("#/log", "Log"),
];
/// A log with one decision of each kind.
const LOG: &str = r#"{"kind":"decision","ts":"2026-01-01T00:00:00Z","decision_id":"0190aaaa-0000-7000-8000-000000000001","portal":"customer","roles":["viewer"],"principal":{"type":"User","id":"u"},"http":{"method":"GET","path":"/portal/customer/orders"},"decision":"allow","reason":"permitted","shadow":{"decision":"deny","revision":"r"}}
{"kind":"decision","ts":"2026-01-01T02:00:00Z","decision_id":"0190aaaa-0000-7000-8000-000000000002","portal":"customer","roles":["viewer"],"principal":{"type":"User","id":"u"},"http":{"method":"POST","path":"/portal/customer/orders"},"decision":"deny","reason":"not_permitted","near":"editors-place-orders"}
"#;

/// Rules of axe that the page breaks.
pub fn violations(browser: &mut Chromium) -> Value {
    browser.eval(
        "axe.run(document, { resultTypes: ['violations'] }).then(r => r.violations.map(v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 200) + ' ' + n.failureSummary).join(' | ')))",
    )
}

fn text(browser: &mut Chromium, selector: &str) -> String {
    let value = browser.eval(&format!("document.querySelector({})?.innerText ?? ''", Value::from(selector)));
    value.as_str().unwrap().to_owned()
}

/// Opens a page with axe in it. axe makes markup of its own; the pages run under their policy in every other test.
pub fn open_with_axe(browser: &mut Chromium, url: &str) {
    let axe = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/node_modules/axe-core/axe.min.js");
    let axe = std::fs::read_to_string(axe).expect("axe-core is missing; run `make tools`");
    browser.call("Page.setBypassCSP", json!({"enabled": true}));
    browser.open(url);
    holds(browser, "document.querySelector('main h1') !== null");
    browser.eval(&format!("{axe}; null"));
}

#[test]
fn every_page_is_accessible_in_both_schemes() {
    let folder = example();
    put(folder.path(), "decisions.jsonl", LOG);
    let bench = Bench::start(folder.path(), &["--log", "decisions.jsonl"]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    browser.arrived("/");
    open_with_axe(&mut browser, &format!("http://{}/", bench.host));
    browser.eval("document.body.append(document.createElement('img')); null");
    assert_ne!(violations(&mut browser), json!([]), "an image without a text");
    browser.eval("document.body.lastChild.remove(); null");
    for (hash, heading) in PAGES {
        for (scheme, width) in [("light", 1360), ("dark", 1360), ("light", 320)] {
            browser.look(scheme, width, 900);
            page(&mut browser, hash, heading);
            browser.eval("document.querySelector('main [role=gridcell]')?.click()");
            holds(&mut browser, "document.querySelector('.wait') === null");
            assert_eq!(violations(&mut browser), json!([]), "{hash} {scheme} {width}");
        }
    }
    page(&mut browser, "#/matrix?portal=customer", "Matrix");
    browser.click("document.querySelector('td.conditional')");
    holds(&mut browser, "document.querySelector('.detail button.policy') !== null");
    browser.click("document.querySelector('.detail button.policy')");
    holds(&mut browser, "document.querySelector('dialog pre') !== null");
    assert_eq!(violations(&mut browser), json!([]), "a policy's dialog");
    browser.eval("document.querySelector('dialog').close()");
    page(&mut browser, PAGES[5].0, "Editor");
    for label in ["New file…", "Rename…", "Delete…"] {
        let button =
            format!("[...document.querySelectorAll('main button')].find((one) => one.innerText === '{label}' && !one.disabled)");
        holds(&mut browser, &format!("{button} !== undefined"));
        browser.eval(&format!("{button}.click()"));
        holds(
            &mut browser,
            "document.querySelector('dialog') !== null && document.querySelector('.wait') === null",
        );
        assert_eq!(violations(&mut browser), json!([]), "{label}");
        browser.eval("document.querySelector('dialog').close()");
        holds(&mut browser, "document.querySelector('dialog') === null");
    }
}

#[test]
fn an_exported_page_is_accessible() {
    let folder = example();
    put(folder.path(), "decisions.jsonl", LOG);
    let (code, out, error) = run(
        folder.path(),
        &["workbench", ".", "--export", "out", "--log", "decisions.jsonl"],
    );
    assert_eq!(code, 0, "{out}{error}");
    let mut browser = browser(folder.path());
    open_with_axe(&mut browser, &format!("file://{}/out/index.html", folder.path().display()));
    for (hash, heading) in PAGES {
        let heading = if heading == "Editor" { "Files" } else { heading };
        for (scheme, width) in [("light", 320), ("dark", 1360)] {
            browser.look(scheme, width, 900);
            page(&mut browser, hash, heading);
            assert_eq!(violations(&mut browser), json!([]), "{hash} {scheme} {width}");
            let overflow = browser.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth");
            assert!(overflow.as_i64().unwrap() <= 1, "{hash} at {width}: {overflow}");
        }
    }
}

#[test]
fn every_page_is_worked_with_the_keyboard_alone() {
    let folder = example();
    put(folder.path(), "decisions.jsonl", LOG);
    let bench = Bench::start(folder.path(), &["--log", "decisions.jsonl"]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    browser.arrived("/");
    browser.look("light", 1360, 900);
    for (hash, heading) in PAGES {
        page(&mut browser, hash, heading);
        browser.eval("window.stops = []; document.querySelector('#skip').focus()");
        for _ in 0..60 {
            browser.press("Tab");
            browser.eval("{ const now = document.activeElement; const last = window.stops.at(-1); if (now !== document.body) window.stops.push(now); if (now === last) window.stuck = true; }");
        }
        // each stop can be seen, and none holds the focus; the stops reach from the navigation into the page
        let seen = browser.eval("[[...new Set(window.stops)].filter((one) => one.isConnected && one.getClientRects().length === 0).map((one) => one.outerHTML.slice(0, 200)), String(window.stuck), window.stops.some((one) => one.closest('#nav')), window.stops.some((one) => one.closest('main') && one.id !== 'main')]");
        assert_eq!(seen, json!([[], "undefined", true, true]), "{hash}");
    }
    // a new file, by keys alone; Escape closes the dialog and gives the focus back
    page(&mut browser, PAGES[5].0, "Editor");
    let make = "[...document.querySelectorAll('main button')].find((one) => one.innerText === 'New file…')";
    for key in ["Escape", "Enter"] {
        holds(&mut browser, &format!("{make} !== undefined"));
        browser.eval(&format!("{make}.focus()"));
        browser.press("Enter");
        holds(&mut browser, "document.activeElement.closest('dialog') !== null");
        if key == "Enter" {
            browser.type_text("made.cedar");
        }
        browser.press(key);
        holds(&mut browser, "document.querySelector('dialog') === null");
        if key == "Escape" {
            holds(&mut browser, "document.activeElement.innerText === 'New file…'");
        }
    }
    holds(
        &mut browser,
        "document.querySelector('textarea.source')?.ariaLabel === 'Text of policies/customer/made.cedar'",
    );
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn a_cell_of_the_matrix_names_policies_conditions_and_tests_by_keyboard() {
    let folder = example();
    let bench = Bench::start(folder.path(), &[]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    page(&mut browser, "#/matrix?portal=customer&find=viewOrder", "Matrix");
    browser.eval("document.querySelector('[role=gridcell]').focus(); null");
    let key = |browser: &mut Chromium, key: &str| {
        browser.eval(&format!(
            "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{ key: '{key}', bubbles: true }})); null"
        ));
    };
    for _ in 0..4 {
        key(&mut browser, "ArrowRight");
    }
    let label = browser.eval("document.activeElement.getAttribute('aria-label')");
    assert_eq!(label, "viewer: conditional");
    key(&mut browser, "Enter");
    holds(&mut browser, "document.querySelector('.detail .wait') === null");
    let detail = text(&mut browser, ".detail");
    for part in [
        "viewer: viewOrder on Order",
        "viewers-view-orders",
        "tenant-isolation",
        "another tenant's order stays closed",
    ] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    // the cells are those of the command
    let (_, out, _) = run(folder.path(), &["matrix", "--portal", "customer", "--format", "json", "."]);
    let report: Value = serde_json::from_str(&out).unwrap();
    page(&mut browser, "#/matrix?portal=customer", "Matrix");
    let cells = browser.eval("[...document.querySelectorAll('.matrix tbody tr')].map(row => [row.cells[0].innerText, [...row.querySelectorAll('.cell .word')].map(cell => cell.innerText)])");
    for line in cells.as_array().unwrap() {
        let of_action = report["portals"][0]["cells"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|cell| cell["action"] == line[0]);
        let answers: Vec<&Value> = of_action.map(|cell| &cell["answer"]).collect();
        assert_eq!(json!(answers), line[1], "{line}");
    }
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn two_trees_side_by_side_show_what_an_edit_opens_and_closes() {
    let folder = example();
    let git = |arguments: &[&str]| {
        let status = std::process::Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t.test"])
            .args(arguments)
            .current_dir(folder.path())
            .output();
        assert!(status.unwrap().status.success(), "{arguments:?}");
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "before"]);
    put(
        folder.path(),
        "policies/customer/opened.cedar",
        "@id(\"opened\")\npermit (principal, action == Action::\"cancelOrder\", resource);\n@id(\"shut\")\nforbid (principal, action == Action::\"viewProduct\", resource);\n",
    );
    let bench = Bench::start(folder.path(), &[]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    page(&mut browser, "#/matrix?portal=customer&tree=HEAD&only=1", "Matrix");
    let lines = browser.eval("[...document.querySelectorAll('.matrix tbody tr')].map(row => [row.cells[0].innerText, row.querySelectorAll('.opens').length, row.querySelectorAll('.closes').length])");
    assert_eq!(lines, json!([["cancelOrder", 5, 0], ["viewProduct", 0, 5]]));
    page(&mut browser, "#/changes", "Changes");
    let shown = text(&mut browser, "main");
    for part in ["opened", "shut", "something is newly allowed"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn a_changed_fact_changes_the_decision_and_a_question_becomes_a_test_once_confirmed() {
    let folder = example();
    let bench = Bench::start(folder.path(), &[]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    let question = json!({"portal": "customer", "caller": {"subject": "zoe", "tenant": "acme", "roles": [], "claims": {}},
        "http": {"method": "GET", "url": "/portal/customer/orders", "host": null, "scheme": null, "source_ip": null}, "named": null, "context": null, "now": null});
    let query: String = url::form_urlencoded::byte_serialize(question.to_string().as_bytes()).collect();
    page(&mut browser, &format!("#/explain?portal=customer&q={query}"), "Explain");
    holds(&mut browser, "document.querySelector('.verdict.deny') !== null");
    let reasons = text(&mut browser, "main");
    assert!(
        reasons.contains("What would have to differ") && reasons.contains("viewers-read"),
        "{reasons}"
    );
    browser.click("[...document.querySelectorAll('.chip')].find(chip => chip.innerText === 'viewer')");
    holds(&mut browser, "document.querySelector('.verdict.allow') !== null");
    holds(&mut browser, "location.hash.includes('viewer')");
    let file = folder.path().join("policies/customer/tests/workbench.yaml");
    browser.click("document.querySelector('button.make')");
    browser.type_text("zoe reads the list");
    holds(&mut browser, "document.querySelector('dialog pre') !== null");
    assert!(!file.exists(), "shown, and not written");
    let yaml = text(&mut browser, "dialog pre");
    assert!(yaml.contains("expect: \"allow\"") && yaml.contains("viewers-read"), "{yaml}");
    browser.click("[...document.querySelectorAll('dialog button')].find(button => button.innerText === 'Write it')");
    holds(&mut browser, "document.querySelector('dialog').innerText.includes('written')");
    assert!(file.exists());
    let (code, out, error) = run(folder.path(), &["test", "--filter", "zoe reads", "."]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("zoe reads the list"), "{out}");
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn a_pasted_token_is_read_and_not_checked() {
    let folder = example();
    let bench = Bench::start(folder.path(), &[]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    page(&mut browser, "#/explain?portal=customer", "Explain");
    holds(&mut browser, "document.querySelector('main details') !== null");
    let segment = |value: Value| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, value.to_string());
    let claims = json!({"iss": "https://id.test/", "sub": "tina", "tenant": "acme", "roles": ["viewer"]});
    let token = format!("{}.{}.c2ln", segment(json!({"alg": "ES256"})), segment(claims));
    browser.eval(&format!(
        "document.querySelector('main details').open = true; document.querySelector('main textarea').value = '{token}'; null"
    ));
    browser.click("[...document.querySelectorAll('button')].find(button => button.innerText === 'Read the token')");
    holds(
        &mut browser,
        "document.querySelector('main').innerText.includes('The signature is not checked here')",
    );
    holds(
        &mut browser,
        "[...document.querySelectorAll('input')].some(input => input.value === 'tina')",
    );
    holds(&mut browser, "document.querySelector('.verdict.allow') !== null");
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn a_running_gate_is_shown_beside_the_tree_and_explains_its_decisions() {
    let gate = GateFolder::new("http://127.0.0.1:1", "");
    let folder = gate.folder.path();
    let yaml = std::fs::read_to_string(folder.join("cedargate.yaml")).unwrap();
    let socket = folder.join("control.sock").display().to_string();
    let control = format!("control: {{ address: 'unix:{socket}' }}, decision: null");
    gate.put("cedargate.yaml", &yaml.replace("decision: null", &control));
    let _process = gate.serve();
    let answer = crate::support::raw(gate.proxy, "GET", crate::support::PAGE, &[], b"");
    assert_eq!(answer.status, 401, "{}", answer.text());
    let record = crate::support::eventually("the decision is in the log", || {
        let log = std::fs::read_to_string(folder.join("decisions.jsonl")).unwrap_or_default();
        let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut decisions = records.filter(|record| record["kind"] == "decision");
        decisions.next().ok_or(log.clone())
    });
    let id = record["decision_id"].as_str().unwrap();
    for (arguments, source) in [
        (["--gate", socket.as_str()], "by the running gate"),
        (["--log", "decisions.jsonl"], "by this tree"),
    ] {
        let bench = Bench::start(folder, &arguments);
        let profile = tempfile::tempdir().unwrap();
        let mut browser = browser(profile.path());
        browser.open(&bench.url);
        page(&mut browser, "#/overview", "Overview");
        if source == "by the running gate" {
            holds(
                &mut browser,
                "document.querySelector('main').innerText.includes('Portals of the gate')",
            );
            let shown = text(&mut browser, "main");
            for part in ["ready", "same", "Keys of issuers", "Sessions: memory"] {
                assert!(shown.contains(part), "{part}: {shown}");
            }
        }
        page(&mut browser, &format!("#/explain?portal=p&id={id}"), "Explain");
        holds(
            &mut browser,
            &format!("document.querySelector('main').innerText.includes('{source}')"),
        );
        assert!(text(&mut browser, ".verdict").contains("token_missing"));
        if source == "by this tree" {
            browser.click("document.querySelector('main a.button')");
            holds(&mut browser, "document.querySelector('button.make') !== null");
            holds(&mut browser, "document.querySelector('.verdict.deny') !== null");
        }
        page(&mut browser, "#/explain?portal=p&id=unknown", "Explain");
        holds(&mut browser, "document.querySelector('.failure') !== null");
    }
}
