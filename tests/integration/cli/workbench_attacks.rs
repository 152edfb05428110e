//! Attacks on the workbench: a hostile tree, another page of the same browser, and a tree of 10,000 policies.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::Instant;

use serde_json::json;

use super::workbench::{Bench, browser, example, holds, page};
use crate::support::put;

/// Markup, script and hidden characters, as ids and texts can hold them.
const HOSTILE: &str = "</script></code><img src=x onerror=window.hacked=1><svg onload=window.hacked=2>{{7*7}}${window.hacked=3}javascript:window.hacked=4";

/// A file's name can hold markup, too.
const HOSTILE_FILE: &str = "policies/p/<img src=x onerror=window.hacked=8>.cedar";

fn hostile_tree(folder: &Path) {
    let huge = "x".repeat(20_000);
    let schema = "namespace Shop { entity Role; entity Tenant; entity Portal; entity Path in [Path, Portal]; \
                  entity User in [Role, Tenant] { email?: String }; entity Order { note?: String }; \
                  action GET, POST appliesTo { principal: [User], resource: [Path], context: {} }; \
                  action \"ACTION\" appliesTo { principal: [User], resource: [Order], context: {} }; }";
    let action = HOSTILE.replace('"', "'");
    put(
        folder,
        "schemas/p.cedarschema",
        &schema
            .replace("namespace Shop { ", "")
            .replacen(" }; }", " };", 1)
            .replace("ACTION", &action),
    );
    put(
        folder,
        "policies/p/main.cedar",
        &format!(
            "@id(\"{HOSTILE}\") @advice(\"{HOSTILE}\")\npermit (principal in Role::\"{HOSTILE}\", action, resource)\nwhen {{ principal has email && principal.email == \"{HOSTILE}\\u{{202e}}\" }};\n\
             @id(\"{huge}\")\nforbid (principal, action == Action::\"{action}\", resource) when {{ resource has note && resource.note == \"{huge}\" }};\n"
        ),
    );
    let case = json!({"name": HOSTILE, "claims": {"sub": HOSTILE, "roles": [HOSTILE], "email": HOSTILE}, "http": "GET /portal/p/x", "expect": "deny"});
    put(folder, "policies/p/tests/t.yaml", &json!({ "cases": [case] }).to_string());
    put(folder, "policies/p/portal.yaml", &json!({ "title": HOSTILE }).to_string());
    put(
        folder,
        HOSTILE_FILE,
        "@id(\"named\")\nforbid (principal, action, resource) when { false };\n",
    );
    let record = json!({"kind": "decision", "ts": "2026-01-01T00:00:00Z", "decision_id": "0190aaaa-0000-7000-8000-000000000001", "portal": "p",
        "roles": [HOSTILE], "principal": {"type": "User", "id": HOSTILE}, "http": {"method": "GET", "path": "/portal/p/x"}, "decision": "deny", "reason": HOSTILE, "near": HOSTILE});
    let event = json!({"kind": "auth_event", "ts": "2026-01-01T00:00:00Z", "event": HOSTILE, "subject": HOSTILE, "operator": HOSTILE, "detail": HOSTILE});
    put(folder, "hostile.jsonl", &format!("{record}\n{event}\n"));
}

#[test]
fn a_hostile_tree_never_runs_as_script() {
    let folder = tempfile::tempdir().unwrap();
    hostile_tree(folder.path());
    let bench = Bench::start(folder.path(), &["--log", "hostile.jsonl"]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    browser.arrived("/");
    let of_file: String = url::form_urlencoded::byte_serialize(HOSTILE_FILE.as_bytes()).collect();
    let of_file = format!("#/editor?file={of_file}");
    for (hash, heading) in [
        ("#/overview", "Overview"),
        ("#/log?by=roles", "Log"),
        ("#/explain?portal=p&id=0190aaaa-0000-7000-8000-000000000001", "Explain"),
        ("#/editor", "Editor"),
        (of_file.as_str(), "Editor"),
        ("#/matrix?portal=p", "Matrix"),
        ("#/explain?portal=p&case=0", "Explain"),
        ("#/tests", "Tests"),
        ("#/changes?since=<img%20src=x%20onerror=window.hacked=5>", "Changes"),
        ("#/matrix?portal=<img%20src=x%20onerror=window.hacked=6>", "Matrix"),
        ("#/explain?portal=p&q=<img%20src=x%20onerror=window.hacked=7>", "Explain"),
    ] {
        browser.look("light", 320, 900);
        page(&mut browser, hash, heading);
        let overflow = browser.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth");
        assert!(overflow.as_i64().unwrap() <= 1, "{hash}: {overflow}");
        // every place that a person could click
        browser.eval(
            "[...document.querySelectorAll('main summary, main [role=gridcell], main button.policy, main button')].filter((node) => /policy|^(Delete|Rename|New file)/.test(node.className + node.innerText) || node.tagName !== 'BUTTON').forEach((node) => node.click())",
        );
        holds(&mut browser, "document.querySelector('.wait') === null");
        let loaded = browser.eval("document.querySelectorAll('img, iframe, object, embed, main svg[onload]').length");
        assert_eq!(loaded, 0, "{hash}");
        assert_eq!(browser.eval("String(window.hacked)"), "undefined", "{hash}");
        browser.eval("document.querySelectorAll('dialog').forEach((node) => node.close())");
    }
    page(&mut browser, "#/matrix?portal=p", "Matrix");
    holds(
        &mut browser,
        "document.querySelector('main').textContent.includes('<img src=x onerror=window.hacked=1>')",
    );
    // unknown portals and revisions are errors of a call, which the browser logs
    browser.complaints.retain(|text| !text.contains("status of 422"));
    assert_eq!(browser.complaints, Vec::<String>::new());
    let (code, out, error) = crate::support::binary::run(
        folder.path(),
        &["workbench", ".", "--export", "out", "--log", "hostile.jsonl"],
    );
    assert_eq!(code, 0, "{out}{error}");
    for hash in [
        "",
        "#/matrix?portal=p",
        "#/explain?portal=p&case=0",
        "#/tests",
        "#/changes",
        "#/editor",
        &of_file,
        "#/log?by=reason",
        "#/explain?portal=p&id=0190aaaa-0000-7000-8000-000000000001",
    ] {
        browser.open("about:blank");
        browser.open(&format!("file://{}/out/index.html{hash}", folder.path().display()));
        holds(
            &mut browser,
            "document.querySelector('main h1') !== null && document.querySelector('main .wait') === null",
        );
        assert_eq!(browser.eval("String(window.hacked)"), "undefined", "{hash}");
    }
    assert_eq!(browser.complaints, Vec::<String>::new());
}

/// A page of another origin, which asks the workbench in every way that a browser knows.
fn attacker(workbench: &str) -> String {
    let page = format!(
        "<!doctype html><title>attacker</title><script>(async () => {{ const seen = [];\n\
         const body = JSON.stringify({{question: {{portal: 'customer', caller: null, http: {{method: 'GET', url: '/portal/customer/x', host: null, scheme: null, source_ip: null}}, named: null, context: null, now: null}}, name: 'planted', write: true}});\n\
         const ways = [{{}}, {{mode: 'no-cors'}}, {{credentials: 'include'}}, {{method: 'POST', mode: 'no-cors', credentials: 'include', body}}, {{method: 'POST', credentials: 'include', headers: {{'content-type': 'application/json', 'x-cedargate-workbench': '1'}}, body}}];\n\
         for (const way of ways) for (const path of ['/api/tree', '/api/test', '/']) try {{ const r = await fetch('http://{workbench}' + path, way); seen.push(r.type + r.status + (await r.text()).length); }} catch (e) {{ seen.push('refused'); }}\n\
         const frame = document.createElement('iframe'); frame.src = 'http://{workbench}/'; document.body.append(frame); await new Promise(done => setTimeout(done, 500));\n\
         try {{ seen.push('frame ' + frame.contentDocument.body.textContent.length); }} catch (e) {{ seen.push('closed'); }}\n\
         const form = document.createElement('form'); form.method = 'post'; form.enctype = 'text/plain'; form.action = 'http://{workbench}/api/test'; form.target = '_blank'; document.body.append(form); form.submit();\n\
         document.title = [...new Set(seen)].join(' '); document.documentElement.dataset.done = '1'; }})();</script><body>"
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                page.len()
            );
            let answer = format!("{head}{page}");
            // a thread for each: a browser opens connections in advance, and sends nothing on some
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                let _read = stream.read(&mut request);
                let _sent = stream.write_all(answer.as_bytes());
            });
        }
    });
    format!("http://{address}/")
}

#[test]
fn another_page_of_the_same_browser_reads_and_writes_nothing() {
    let folder = example();
    let bench = Bench::start(folder.path(), &[]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    page(&mut browser, "#/overview", "Overview");
    // another port of 127.0.0.1: the same site to a cookie
    let attacker = attacker(&bench.host);
    for host in ["127.0.0.1", "localhost"] {
        browser.open(&attacker.replace("127.0.0.1", host));
        holds(&mut browser, "document.documentElement.dataset.done === '1'");
        let seen = browser.eval("document.title");
        let allowed = ["refused", "opaque00", "closed", "opaqueredirect00"];
        for word in seen.as_str().unwrap().split(' ') {
            assert!(allowed.contains(&word), "{host}: {seen}");
        }
    }
    assert!(!folder.path().join("policies/customer/tests/workbench.yaml").exists());
    browser.open(&format!("http://{}/", bench.host));
    holds(&mut browser, "document.querySelector('main h1')?.textContent === 'Overview'");
}

#[test]
fn a_tree_of_10000_policies_is_usable() {
    let folder = example();
    let policies: String = (0..10_000)
        .map(|n| format!("@id(\"made-{n}\")\npermit (principal in Role::\"editor\", action == Action::\"viewOrder\", resource == Order::\"{n}\");\n"))
        .collect();
    put(folder.path(), "policies/customer/made.cedar", &policies);
    let bench = Bench::start(folder.path(), &[]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    browser.arrived("/");
    let painted = browser.eval("new Promise(done => { const look = () => { const paint = performance.getEntriesByName('first-contentful-paint')[0]; paint ? done(paint.startTime) : setTimeout(look, 50); }; look(); })");
    assert!(painted.as_f64().unwrap() < 3000.0, "first paint after {painted} ms");
    for (hash, heading) in [
        ("#/overview", "Overview"),
        ("#/matrix?portal=customer", "Matrix"),
        ("#/explain?portal=customer&case=2", "Explain"),
        ("#/tests", "Tests"),
    ] {
        let started = Instant::now();
        page(&mut browser, hash, heading);
        println!("{heading}: {:?}", started.elapsed());
    }
    page(&mut browser, "#/matrix?portal=customer&find=viewOrder", "Matrix");
    browser.click("document.querySelector('[role=gridcell].conditional:last-child, [role=gridcell].conditional')");
    holds(&mut browser, "document.querySelector('.detail .conditions') !== null");
    assert_eq!(browser.complaints, Vec::<String>::new());
}
