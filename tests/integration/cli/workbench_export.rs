//! The exported page of the workbench, the HTML reports, and files that the page saves, in a real browser without a
//! server.

use std::path::Path;

use serde_json::{Value, json};

use super::workbench::{browser, example, holds, page};
use crate::support::binary::run;
use crate::support::chromium::Chromium;
use crate::support::{eventually, put};

const LOG: &str = r#"{"kind":"decision","ts":"2026-01-01T00:00:00Z","decision_id":"0190aaaa-0000-7000-8000-000000000001","portal":"customer","roles":["viewer"],"principal":{"type":"User","id":"u"},"http":{"method":"GET","path":"/portal/customer/orders"},"decision":"allow","reason":"permitted","shadow":{"decision":"deny","revision":"r"}}
{"kind":"decision","ts":"2026-01-01T02:00:00Z","decision_id":"0190aaaa-0000-7000-8000-000000000002","portal":"customer","roles":["viewer"],"principal":{"type":"User","id":"u"},"http":{"method":"POST","path":"/portal/customer/orders"},"decision":"deny","reason":"not_permitted","near":"editors-place-orders"}
{"kind":"decision","ts":"2026-01-01T03:00:00Z","decision_id":"0190aaaa-0000-7000-8000-000000000003","portal":"admin","roles":[],"principal":{"type":"User","id":"v"},"http":{"method":"GET","path":"/portal/admin/x"},"decision":"deny","reason":"not_permitted"}
"#;

fn says(text: &str) -> String {
    format!("document.querySelector('main').innerText.includes({})", Value::from(text))
}

fn click(browser: &mut Chromium, label: &str) {
    browser.click(&format!(
        "[...document.querySelectorAll('main button')].find((one) => (one.ariaLabel ?? one.innerText.trim()) === {})",
        Value::from(label)
    ));
}

fn choose(browser: &mut Chromium, label: &str, value: &str) {
    browser.act(
        &format!(
            "[...document.querySelectorAll('.field')].find((one) => one.firstChild.innerText === {})?.lastChild",
            Value::from(label)
        ),
        &format!(
            "found.value = {}; found.dispatchEvent(new Event('change'))",
            Value::from(value)
        ),
    );
}

/// Opens a file as a user does: no server, no network.
fn open_file(browser: &mut Chromium, path: &Path, hash: &str) {
    browser.open("about:blank");
    browser.open(&format!("file://{}{hash}", path.display()));
    holds(
        browser,
        "document.querySelector('main h1') !== null && document.querySelector('main .wait') === null",
    );
}

fn git(folder: &Path, arguments: &[&str]) {
    let done = std::process::Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@t.test"])
        .args(arguments)
        .current_dir(folder)
        .output();
    assert!(done.unwrap().status.success(), "{arguments:?}");
}

/// A committed tree with an edit that opens a cell, and a log.
fn edited_example() -> tempfile::TempDir {
    let folder = example();
    git(folder.path(), &["init", "-q"]);
    git(folder.path(), &["add", "."]);
    git(folder.path(), &["commit", "-q", "-m", "before"]);
    let file = "policies/customer/orders.cedar";
    let text = std::fs::read_to_string(folder.path().join(file)).unwrap();
    put(folder.path(), file, &text.replacen("Role::\"editor\"", "Role::\"viewer\"", 1));
    put(folder.path(), "decisions.jsonl", LOG);
    folder
}

#[test]
fn an_export_holds_every_page_but_sessions_and_compares_two_trees() {
    let folder = edited_example();
    let (code, out, error) = run(
        folder.path(),
        &["workbench", ".", "--export", "out", "--log", "decisions.jsonl"],
    );
    assert_eq!(code, 0, "{out}{error}");
    let file = folder.path().join("out/index.html");
    let mut browser = browser(folder.path());
    open_file(&mut browser, &file, "");
    let names = browser.eval("[...document.querySelectorAll('#nav a')].map((one) => one.innerText)");
    assert_eq!(
        names,
        json!(["Overview", "Matrix", "Explain", "Tests", "Changes", "Files", "Log"])
    );
    for (hash, heading) in [
        ("#/overview", "Overview"),
        ("#/explain?portal=customer&case=2", "Explain"),
        ("#/tests", "Tests"),
    ] {
        page(&mut browser, hash, heading);
        holds(&mut browser, "document.querySelector('.failure') === null");
    }
    page(&mut browser, "#/changes", "Changes");
    holds(&mut browser, &says("editors-place-orders"));
    browser.click("[...document.querySelectorAll('main a')].find((one) => one.innerText.startsWith('Show in the matrix'))");
    browser.shows("Matrix");
    holds(&mut browser, "document.querySelectorAll('td.opens').length === 2");
    choose(&mut browser, "Compare with", "");
    holds(
        &mut browser,
        "document.querySelector('td.opens') === null && document.querySelectorAll('td.allow').length > 0",
    );

    // a file can be read, and not changed
    page(&mut browser, "#/editor?file=policies%2Fcustomer%2Forders.cedar", "Files");
    holds(
        &mut browser,
        "document.querySelector('textarea.source').readOnly && document.querySelector('textarea.source').value.includes('viewers-read')",
    );
    holds(
        &mut browser,
        "document.querySelector('.effects .diff .added')?.innerText.includes('viewer')",
    );
    browser.click("[...document.querySelectorAll('.file')].find((one) => one.ariaLabel === 'policies/customer/products.cedar')");
    holds(&mut browser, &says("Nothing in this file differs from HEAD"));

    page(&mut browser, "#/log", "Log");
    holds(&mut browser, &says("3 decisions"));
    holds(&mut browser, &says("1 newly denied"));
    choose(&mut browser, "Portal", "customer");
    holds(&mut browser, &says("2 decisions"));
    choose(&mut browser, "Colour by", "reason");
    holds(
        &mut browser,
        "document.querySelector('.legend').innerText.includes('not_permitted')",
    );
    browser.click("document.querySelector('[aria-label=\"Denied most\"] tbody a')");
    browser.shows("Explain");
    holds(&mut browser, "document.querySelector('.verdict') !== null");
    holds(&mut browser, &says("POST /portal/customer/orders"));
    page(&mut browser, "#/sessions", "No such page");
    page(&mut browser, "#/explain?portal=customer&id=unknown", "Explain");
    holds(&mut browser, &says("does not hold it"));
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn an_export_holds_a_log_only_if_the_user_names_it_and_compares_with_what_is_named() {
    let folder = edited_example();
    git(folder.path(), &["commit", "-q", "-a", "-m", "after"]);
    put(
        folder.path(),
        "cedargate.yaml",
        "upstream: { url: 'http://127.0.0.1:1' }\nissuers: []\naudit: { sink: { file: decisions.jsonl } }\n",
    );
    let export = |more: &[&str]| run(folder.path(), &[&["workbench", ".", "--export", "out"], more].concat());
    let (code, out, error) = export(&["--compare", "HEAD~1"]);
    assert_eq!(code, 0, "{out}{error}");
    let html = std::fs::read_to_string(folder.path().join("out/index.html")).unwrap();
    assert!(
        !html.contains("0190aaaa-0000-7000-8000-000000000001"),
        "the log of the configuration"
    );
    let mut browser = browser(folder.path());
    open_file(
        &mut browser,
        &folder.path().join("out/index.html"),
        "#/matrix?portal=customer&tree=HEAD~1",
    );
    holds(&mut browser, "document.querySelectorAll('td.opens').length === 2");
    page(&mut browser, "#/log", "No such page");
    assert_eq!(browser.complaints, Vec::<String>::new());
    for wrong in [&["--compare", "no-such-revision"][..], &["--log", "gone.jsonl"]] {
        let (code, out, error) = export(wrong);
        assert_eq!(code, 64, "{out}{error}");
        assert!(error.contains(wrong[1]), "{error}");
    }
    let (code, _, error) = run(folder.path(), &["workbench", "--compare", "HEAD", "."]);
    assert!(code == 64 && error.contains("--export"), "{code} {error}");
}

#[test]
fn html_reports_are_pages_of_the_workbench() {
    let folder = edited_example();
    let mut browser = browser(folder.path());
    for (arguments, heading, text) in [
        (&["matrix", "--format", "html", "."][..], "Matrix", "viewAccount"),
        (&["diff", "HEAD", ".", "--format", "html"], "Changes", "editors-place-orders"),
        (&["test", "--coverage", "--format", "html", "."], "Tests", "viewers-read"),
    ] {
        let (_, html, error) = run(folder.path(), arguments);
        let name = format!("{heading}.html");
        put(folder.path(), &name, &html);
        for (scheme, width) in [("light", 1360), ("dark", 320)] {
            browser.look(scheme, width, 900);
            open_file(&mut browser, &folder.path().join(&name), "");
            let shown =
                browser.eval("document.querySelector('main h1').innerText + ' ' + document.querySelector('main').innerText");
            let shown = shown.as_str().unwrap();
            assert!(
                shown.starts_with(heading) && shown.contains(text),
                "{arguments:?}: {error}{shown}"
            );
            assert!(
                browser.eval("document.querySelector('.failure') === null").as_bool().unwrap(),
                "{shown}"
            );
            let overflow = browser.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth");
            assert!(overflow.as_i64().unwrap() <= 1, "{heading} at {width}: {overflow}");
        }
    }
    assert_eq!(browser.complaints, Vec::<String>::new());
}

/// The text of a file that a click saves.
fn saved(browser: &mut Chromium, folder: &Path, name: &str, action: impl FnOnce(&mut Chromium)) -> String {
    let path = folder.join(name);
    action(browser);
    eventually(&format!("the browser saves {name}"), || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let names = || std::fs::read_dir(folder).unwrap().map(|one| one.unwrap().file_name());
        if text.is_empty() {
            Err(format!("{:?}", names().collect::<Vec<_>>()))
        } else {
            Ok(text)
        }
    })
}

#[test]
fn saved_tables_and_plots_are_right_and_hostile_cells_stay_text() {
    let folder = example();
    let formula = "=HYPERLINK(\"http://evil.test\";\"x\")";
    let markup = "</svg><script>globalThis.ran = 1</script>|[x](javascript:alert(1))`";
    let record = |id: u32, change: Value| {
        let mut record = json!({
            "kind": "decision", "ts": "2026-01-01T00:00:00Z", "decision_id": format!("0190aaaa-0000-7000-8000-00000000000{id}"),
            "portal": "customer", "roles": ["viewer"], "principal": {"type": "User", "id": "u"},
            "http": {"method": "GET", "path": "/portal/customer/orders"}, "decision": "deny", "reason": "not_permitted",
        });
        record.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        format!("{record}\n")
    };
    let log = [
        record(
            1,
            json!({"reason": formula, "principal": {"type": "User", "id": "a;=1+1\n@SUM(1)"}}),
        ),
        record(2, json!({"reason": markup, "portal": markup, "roles": ["+x", "b\u{202e}c"]})),
    ];
    put(folder.path(), "decisions.jsonl", &log.concat());
    let (code, out, error) = run(
        folder.path(),
        &["workbench", ".", "--export", "out", "--log", "decisions.jsonl"],
    );
    assert_eq!(code, 0, "{out}{error}");
    let downloads = tempfile::tempdir().unwrap();
    let to = downloads.path();
    let mut browser = browser(folder.path());
    browser.call(
        "Browser.setDownloadBehavior",
        json!({"behavior": "allow", "downloadPath": to}),
    );
    open_file(&mut browser, &folder.path().join("out/index.html"), "#/log?by=reason");
    // a saved table, read by another reader of CSV: as many fields as heads, and no cell begins like a formula
    let csv = saved(&mut browser, to, "Records.csv", |browser| {
        click(browser, "Save Records as CSV")
    });
    let script = "import csv, json, sys; print(json.dumps(list(csv.reader(open(sys.argv[1], newline='')))))";
    let read = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(to.join("Records.csv"))
        .output()
        .unwrap();
    let lines: Vec<Vec<String>> = serde_json::from_slice(&read.stdout).unwrap();
    assert_eq!(lines.len(), 3, "{csv}");
    assert_eq!(
        lines[0],
        [
            "Time (UTC)",
            "Portal",
            "Roles",
            "Route or action",
            "Principal",
            "Decision",
            "Nearest permit",
            "Candidate"
        ]
    );
    for cell in lines.iter().flatten() {
        let starts = cell.split([';', '\n', '\t']).map(|part| part.trim_start());
        assert!(
            !starts.into_iter().any(|part| part.starts_with(['=', '+', '-', '@'])),
            "{cell}"
        );
    }
    let row = lines.iter().find(|line| line[4].starts_with("a;")).unwrap();
    assert_eq!(
        (row[4].as_str(), row[5].as_str()),
        ("a;'=1+1\n'@SUM(1)", &*format!("deny {formula}"))
    );
    let row = lines.iter().find(|line| line[1] == markup).unwrap();
    assert_eq!(row[2], "'+x, b\\u{202e}c");
    // Markdown: one line for each row, and every mark is escaped
    let table = saved(&mut browser, to, "Records.md", |browser| {
        click(browser, "Save Records as Markdown")
    });
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.starts_with("| Time (UTC) | Portal | Roles |"), "{table}");
    assert!(!table.replace("\\<", "").contains('<'), "{table}");
    assert!(
        table.contains("\\<script\\>") && table.contains("\\|\\[x\\](javascript:alert(1))\\`"),
        "{table}"
    );
    // the plot alone, as a document: it is drawn, and runs nothing
    saved(&mut browser, to, "decisions-over-time.svg", |browser| {
        click(browser, "Save decisions over time as SVG");
    });
    browser.open(&format!("file://{}", to.join("decisions-over-time.svg").display()));
    let plot = browser.eval("[document.documentElement.localName, document.querySelectorAll('parsererror, script, foreignObject, a, image').length, String(globalThis.ran), document.querySelector('title').textContent.includes('<script>')]");
    assert_eq!(plot, json!(["svg", 0, "undefined", true]));
    let bars = browser.eval("[...document.querySelectorAll('g rect')].filter((one) => !/none|rgba\\(0, 0, 0, 0\\)/.test(one.getAttribute('fill')) && one.getBBox().height > 1).length");
    assert_eq!(bars, 2, "two reasons in one bar");

    // the matrix as a table has the answers of the command
    open_file(
        &mut browser,
        &folder.path().join("out/index.html"),
        "#/matrix?portal=customer&find=viewProduct",
    );
    let csv = saved(&mut browser, to, "matrix-customer.csv", |browser| {
        click(browser, "Save matrix customer as CSV")
    });
    assert_eq!(
        csv,
        "action,resource,(no role),admin,auditor,editor,viewer\r\nviewProduct,Product,allow,allow,allow,allow,allow\r\n"
    );
    open_file(&mut browser, &folder.path().join("out/index.html"), "#/overview");
    let plot = saved(&mut browser, to, "coverage.svg", |browser| {
        click(browser, "Save coverage as SVG")
    });
    assert!(
        plot.contains("xmlns=\"http://www.w3.org/2000/svg\"") && plot.contains(">customer</text>"),
        "{plot}"
    );
    assert_eq!(browser.complaints, Vec::<String>::new());
}
