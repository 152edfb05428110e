//! The ten questions of docs/workbench.md, answered in a real browser with the example portals, as a new user does.

use serde_json::{Value, json};

use super::workbench::{Bench, browser, example, holds};
use crate::support::chromium::Chromium;
use crate::support::put;

/// A log with one denial, and the end of a session.
const LOG: &str = r#"{"kind":"decision","ts":"2026-01-01T02:00:00Z","decision_id":"0190aaaa-0000-7000-8000-000000000002","portal":"customer","roles":["viewer"],"principal":{"type":"User","id":"vera"},"http":{"method":"POST","path":"/portal/customer/orders"},"decision":"deny","reason":"not_permitted","near":"editors-place-orders"}
{"kind":"auth_event","ts":"2026-01-01T03:00:00Z","event":"revocation","result":"success","reason":"operator","subject":"vera","operator":1000,"decision_id":null}
"#;

/// A user at the page: counts what they do for one question.
struct User {
    browser: Chromium,
    steps: usize,
}

impl User {
    /// Clicks the first link, button or cell with this text or label.
    fn click(&mut self, text: &str) {
        self.steps += 1;
        self.browser.click(&format!(
            "[...document.querySelectorAll('a, button, summary, [role=gridcell]')].find((one) => one.getClientRects().length && !one.disabled && [one.innerText.trim(), one.ariaLabel].includes({}))",
            Value::from(text)
        ));
    }

    fn search(&mut self, words: &str) {
        self.steps += 1;
        self.browser.eval(&format!(
            "{{ const find = document.querySelector('#find-text'); find.value = {}; find.form.requestSubmit(); }}",
            Value::from(words)
        ));
    }

    fn choose(&mut self, label: &str, value: &str) {
        self.steps += 1;
        let field = format!(
            "[...document.querySelectorAll('.field')].find((one) => one.firstChild.innerText === {})?.querySelector('select')",
            Value::from(label)
        );
        holds(&mut self.browser, &format!("{field} != null"));
        self.browser.eval(&format!(
            "{{ const it = {field}; it.value = {}; it.dispatchEvent(new Event('change')); }}",
            Value::from(value)
        ));
    }

    /// The page shows each text; it took few steps.
    fn reads(&mut self, question: &str, texts: &[&str]) {
        for text in texts {
            holds(
                &mut self.browser,
                &format!(
                    "document.querySelector('dialog, main').ownerDocument.body.innerText.includes({})",
                    Value::from(*text)
                ),
            );
        }
        assert!(self.steps <= 4, "{question}: {} steps", self.steps);
        self.steps = 0;
    }
}

#[test]
fn ten_questions_are_answered_in_a_few_steps_each() {
    let folder = example();
    put(folder.path(), "decisions.jsonl", LOG);
    let git = |arguments: &[&str]| {
        let done = std::process::Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t.test"])
            .args(arguments)
            .current_dir(folder.path())
            .output();
        assert!(done.unwrap().status.success(), "{arguments:?}");
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "before"]);
    let file = "policies/customer/orders.cedar";
    let text = std::fs::read_to_string(folder.path().join(file)).unwrap();
    put(folder.path(), file, &text.replacen("Role::\"editor\"", "Role::\"viewer\"", 1));
    let bench = Bench::start(folder.path(), &["--log", "decisions.jsonl"]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    browser.arrived("/");
    browser.look("light", 1360, 900);
    let mut user = User { browser, steps: 0 };

    user.search("cancel order");
    user.reads("Who can cancel orders?", &["cancelOrder", "1 line, 5 roles", "conditional"]);
    user.click("editor: conditional");
    user.click("permit owners-change-their-orders");
    user.reads(
        "Under which conditions, by which rule?",
        &["resource.owner == principal", "policies/customer/orders.cedar"],
    );
    user.click("Close");
    user.search("refund");
    user.reads(
        "Who can refund orders? Nobody: there is no such action",
        &["has these words", "cancelOrder"],
    );
    user.click("Matrix");
    user.choose("Portal", "customer");
    user.choose("Role", "editor");
    user.choose("beside", "viewer");
    user.reads("What can an editor do that a viewer cannot?", &["2 roles", "editOrder"]);
    user.click("Log");
    user.click("2026-01-01 02:00:00");
    user.reads(
        "Why was vera denied?",
        &[
            "Decided again by this tree",
            "the record says deny not_permitted",
            "editors-place-orders",
        ],
    );
    user.click("Changes");
    user.click("Show in the matrix what this opens and closes");
    user.reads("What does this edit open?", &["2 opened", "deny → conditional"]);
    user.click("Tests");
    user.reads(
        "Do the tests pass, and what do they not reach?",
        &["all as expected", "Coverage", "never"],
    );
    user.click("Explain");
    user.choose("Portal", "customer");
    user.click("viewer");
    user.reads("May a viewer open the portal?", &["Allowed", "viewers-read"]);
    user.click("Log");
    user.reads("Who ended vera's session?", &["revocation success", "1000"]);
    user.click("Editor");
    user.click("policies/customer/orders.cedar");
    user.reads(
        "Where is the rule, and does it load?",
        &["policies/customer/orders.cedar", "loads"],
    );
    user.browser.complaints.retain(|one| !one.contains("favicon"));
    assert_eq!(json!(user.browser.complaints), json!([]));
}
