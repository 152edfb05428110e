//! The workbench's page Sessions in a real browser, beside a running gate.

use serde_json::{Value, json};

use super::revocations::{controlled, status};
use crate::cli::workbench::{Bench, browser, example, holds, page};
use crate::cli::workbench_pages::{open_with_axe, violations};
use crate::support::session_client::{auth_event, log_in, portal};

#[test]
fn chromium_lists_and_revokes_sessions_and_the_record_names_the_user() {
    let folder = example();
    let gate = controlled(portal(), folder.path()).start();
    let (alice, bob) = (log_in(&gate, "alice"), log_in(&gate, "bob"));
    let is_served = |cookie: &str| status(&gate, cookie) == 200;
    assert!(is_served(&alice) && is_served(&bob));
    let socket = folder.path().join("control.sock");
    let bench = Bench::start(folder.path(), &["--gate", socket.to_str().unwrap()]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    browser.arrived("/");
    page(&mut browser, "#/sessions", "Sessions");
    let says = |text: &str| format!("document.querySelector('main').innerText.includes({})", Value::from(text));
    holds(&mut browser, &says("2 sessions"));
    let button = |label: &str| {
        format!(
            "[...document.querySelectorAll('button')].find((one) => (one.ariaLabel ?? one.innerText).startsWith({}))",
            Value::from(label)
        )
    };
    // accessible, with its dialog and without
    open_with_axe(&mut browser, &format!("http://{}/#/sessions", bench.host));
    for (scheme, width) in [("light", 1360), ("dark", 320)] {
        browser.look(scheme, width, 900);
        page(&mut browser, "#/sessions", "Sessions");
        holds(&mut browser, &says("2 sessions"));
        browser.screenshot(&format!("workbench-Sessions-{scheme}-{width}"));
        assert_eq!(violations(&mut browser), json!([]), "{scheme} {width}");
        browser.click(&button("Session of alice"));
        assert_eq!(violations(&mut browser), json!([]), "the question");
        browser.click(&button("Cancel"));
        let overflow = browser.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth");
        assert!(overflow.as_i64().unwrap() <= 1, "{width}: {overflow}");
    }
    // a no leaves the session
    browser.click(&button("Session of alice"));
    browser.click(&button("Cancel"));
    assert!(is_served(&alice));
    browser.click(&button("Session of alice"));
    browser.click("document.querySelector('dialog[open] .danger')");
    holds(&mut browser, &says("Revoked the session"));
    holds(&mut browser, &says("1 session"));
    assert!(!is_served(&alice) && is_served(&bob));
    let event = auth_event(&gate, "the revocation is recorded", |event| event["event"] == "revocation");
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(folder.path()).unwrap());
    assert_eq!((&event["reason"], &event["operator"]), (&json!("operator"), &json!(own)));
    // everything of a subject, through the form; a name that the gate does not know as a portal is refused with the
    // gate's words
    page(&mut browser, "#/sessions?portal=customer", "Sessions");
    holds(&mut browser, &says("there is no portal `customer`"));
    page(&mut browser, "#/sessions?subject=bob", "Sessions");
    holds(&mut browser, &says("1 session"));
    browser.eval("{ const form = document.querySelector('section form'); form.elements.of.value = 'bob'; form.elements['its-issuer'].value = 'local'; form.requestSubmit(); }");
    browser.click("document.querySelector('dialog[open] .danger')");
    holds(
        &mut browser,
        &says("Revoked every session and bearer token of subject “bob” from before now."),
    );
    assert!(!is_served(&bob));
    // Chromium names every answer that is no success
    browser
        .complaints
        .retain(|complaint| !complaint.contains("/api/sessions?portal=customer"));
    assert_eq!(browser.complaints, Vec::<String>::new());

    // the calls of the page name exactly one target, as those of the command
    let cookie = bench.cookie();
    let headers = [
        ("cookie", cookie.as_str()),
        ("content-type", "application/json"),
        ("x-cedargate-workbench", "1"),
    ];
    for (body, status) in [
        (json!({"tenant": "acme", "portal": "p"}), 400),
        (json!({"tenant": ""}), 400),
        (json!({}), 400),
        (json!({"everything": "yes"}), 422),
        (json!(null), 422),
    ] {
        assert_eq!(
            bench.ask("POST", "/api/revoke", &headers, &body.to_string()).0,
            status,
            "{body}"
        );
    }
    assert_eq!(
        bench.ask("GET", "/api/revoke?tenant=acme", &headers[..1], "").0,
        404,
        "no revocation without a body"
    );
}

#[test]
fn without_a_gate_there_is_no_page_and_a_dead_gate_is_named() {
    let folder = example();
    let bench = Bench::start(folder.path(), &[]);
    let cookie = bench.cookie();
    let headers = [("cookie", cookie.as_str())];
    assert!(!bench.ask("GET", "/api/tree", &headers, "").2.contains("\"sessions\""));
    assert_eq!(bench.ask("GET", "/api/sessions", &headers, "").0, 422);
    let bench = Bench::start(folder.path(), &["--gate", "gone.sock"]);
    let cookie = bench.cookie();
    let (status, _, body) = bench.ask("GET", "/api/sessions", &[("cookie", cookie.as_str())], "");
    assert!(status == 502 && body.contains("does the gate run"), "{status} {body}");
}
