//! New, renamed and deleted files in the workbench's editor: in a real browser, and every name and link that must not
//! work.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use super::workbench::{Bench, browser, example, holds, page};
use crate::support::chromium::Chromium;
use crate::support::{eventually, put};

const FILE: &str = "policies/customer/sharing.cedar";

fn click(browser: &mut Chromium, scope: &str, label: &str) {
    // a saved file draws the page anew
    let found = format!(
        "[...document.querySelectorAll({})].find((one) => one.innerText.trim() === {} && !one.disabled)",
        Value::from(format!("{scope} button")),
        Value::from(label)
    );
    holds(browser, &format!("{found} !== undefined"));
    browser.eval(&format!("{found}.click()"));
}

fn type_name(browser: &mut Chromium, name: &str) {
    browser.eval(&format!(
        "{{ const input = document.querySelector('dialog input'); input.value = {}; input.dispatchEvent(new Event('input')); }}",
        Value::from(name)
    ));
}

fn says(text: &str) -> String {
    format!("document.body.innerText.includes({})", Value::from(text))
}

fn open(browser: &mut Chromium, file: &str) {
    page(browser, &format!("#/editor?file={}", file.replace('/', "%2F")), "Editor");
    holds(
        browser,
        &format!(
            "document.querySelector('textarea.source').ariaLabel === {}",
            Value::from(format!("Text of {file}"))
        ),
    );
}

/// The browser asks before it leaves the page.
fn asks_before_leaving(browser: &mut Chromium) -> bool {
    let asks = browser.eval("!window.dispatchEvent(new Event('beforeunload', { cancelable: true }))");
    asks.as_bool().unwrap()
}

#[test]
fn a_file_is_made_renamed_and_deleted_after_a_yes() {
    let folder = example();
    let is_there = |name: &str| folder.path().join(name).exists();
    let bench = Bench::start(folder.path(), &[]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    browser.arrived("/");
    open(&mut browser, FILE);
    assert!(!asks_before_leaving(&mut browser));

    // a new file: a wrong name is refused, and nothing is written before Save
    let new = "policies/customer/refunds.cedar";
    click(&mut browser, "main", "New file…");
    holds(&mut browser, "document.activeElement.value === 'policies/customer/'");
    type_name(&mut browser, "policies/../outside.cedar");
    click(&mut browser, "dialog", "Open it");
    holds(
        &mut browser,
        "document.querySelector('dialog .failure')?.innerText.includes('is no name such as')",
    );
    type_name(&mut browser, new);
    click(&mut browser, "dialog", "Open it");
    holds(&mut browser, &says("new, not saved"));
    holds(&mut browser, "document.querySelector('#nav').innerText.includes('1 unsaved')");
    let text = "@id(\"open-cancel\")\npermit (principal, action == Action::\"cancelOrder\", resource);\n";
    browser.eval(&format!(
        "{{ const area = document.querySelector('textarea.source'); area.value = {}; area.dispatchEvent(new Event('input')); }}",
        Value::from(text)
    ));
    holds(&mut browser, "document.querySelector('#check')?.innerText.includes('loads')");
    holds(
        &mut browser,
        "document.querySelector('.effects .diff .added')?.innerText.includes('open-cancel')",
    );
    assert!(!is_there(new), "only Save writes");
    // the unsaved text outlives other pages, which show that there is one; the browser asks before it drops it
    page(&mut browser, "#/tests", "Tests");
    holds(&mut browser, "document.querySelector('#nav').innerText.includes('1 unsaved')");
    assert!(asks_before_leaving(&mut browser));
    open(&mut browser, new);
    click(&mut browser, "main", "Save");
    holds(&mut browser, &says(&format!("Saved {new}.")));
    holds(&mut browser, &says("as on disk"));
    assert!(
        std::fs::read_to_string(folder.path().join(new))
            .unwrap()
            .contains("cancelOrder")
    );
    assert!(!asks_before_leaving(&mut browser));

    // another name in another portal: the dialog shows the difference before the yes
    let moved = "policies/admin/refunds.cedar";
    click(&mut browser, "main", "Rename…");
    type_name(&mut browser, FILE);
    holds(
        &mut browser,
        "document.querySelector('dialog .failure')?.innerText.includes('there is already')",
    );
    type_name(&mut browser, moved);
    holds(
        &mut browser,
        "document.querySelector('dialog').innerText.includes('open-cancel')",
    );
    assert!(is_there(new) && !is_there(moved));
    type_name(&mut browser, "policies/customer/cancelling.cedar");
    holds(
        &mut browser,
        "[...document.querySelectorAll('dialog button')].some((one) => one.innerText === 'Rename' && !one.disabled)",
    );
    click(&mut browser, "dialog", "Rename");
    holds(
        &mut browser,
        "document.querySelector('textarea.source')?.ariaLabel === 'Text of policies/customer/cancelling.cedar'",
    );
    eventually("the file has its new name", || {
        match is_there("policies/customer/cancelling.cedar") && !is_there(new) {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    });

    // deleting shows what goes with the file; Cancel keeps it
    open(&mut browser, FILE);
    click(&mut browser, "main", "Delete…");
    holds(
        &mut browser,
        "document.querySelector('dialog')?.innerText.includes('removed')",
    );
    click(&mut browser, "dialog", "Cancel");
    assert!(is_there(FILE));
    click(&mut browser, "main", "Delete…");
    holds(&mut browser, "document.querySelector('dialog .danger') !== null");
    click(&mut browser, "dialog", "Delete");
    holds(
        &mut browser,
        &format!(
            "!document.querySelector('.files').innerText.includes('sharing.cedar') && !{}",
            says("removed from the disk")
        ),
    );
    assert!(!is_there(FILE));
    browser
        .complaints
        .retain(|one| !one.contains("/api/check") && !one.contains("/api/compare"));
    assert_eq!(browser.complaints, Vec::<String>::new());
}

/// Calls of the page, with its cookie.
struct Calls<'a> {
    bench: &'a Bench,
    cookie: String,
}

impl Calls<'_> {
    fn post(&self, call: &str, body: &Value) -> (u16, String) {
        let headers = [
            ("cookie", self.cookie.as_str()),
            ("content-type", "application/json"),
            ("x-cedargate-workbench", "1"),
        ];
        let (status, _, body) = self.bench.ask("POST", &format!("/api/{call}"), &headers, &body.to_string());
        (status, body)
    }

    fn hash(&self, file: &str) -> Value {
        let path = format!("/api/file?file={}", file.replace('/', "%2F"));
        let body = self.bench.ask("GET", &path, &[("cookie", &self.cookie)], "").2;
        serde_json::from_str::<Value>(&body).unwrap()["hash"].clone()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            names.push(path.display().to_string());
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            }
        }
    }
    names.sort();
    names
}

#[test]
fn no_name_or_link_makes_moves_or_deletes_a_file_outside_of_the_tree() {
    let folder = example();
    let outside = tempfile::tempdir().unwrap();
    put(outside.path(), "kept.cedar", "// kept\n");
    symlink(outside.path(), folder.path().join("policies/customer/out")).unwrap();
    symlink("orders.cedar", folder.path().join("policies/customer/link.cedar")).unwrap();
    put(folder.path(), "policies/customer/README.md", "not of the tree\n");
    let bench = Bench::start(folder.path(), &[]);
    let calls = Calls {
        bench: &bench,
        cookie: bench.cookie(),
    };
    let before = (names(folder.path()), names(outside.path()));
    let hash = calls.hash(FILE);
    for name in [
        "",
        "/etc/x.cedar",
        "x.cedar",
        "secret/x.cedar",
        "policies",
        "policies/",
        "policies//x.cedar",
        "policies/../x.cedar",
        "policies/customer/../../x.cedar",
        "policies/./x.cedar",
        "policies/customer/.hidden.cedar",
        "policies/customer/x.cedar~",
        "policies/customer/x.txt",
        "policies/customer/x",
        "policies/customer/a\\b.cedar",
        "policies/customer/a\u{0}b.cedar",
        "policies/customer/a\nb.cedar",
        "policies/customer/out/x.cedar",
        "policies/customer/out/new/x.cedar",
        "policies/customer/1/2/3/4/x.cedar",
        // names that are taken
        "policies/customer/orders.cedar",
        "policies/customer/link.cedar",
        &format!("policies/customer/{}.cedar", "x".repeat(600)),
        &format!("policies/customer/{}.cedar", "x".repeat(300)),
    ] {
        let made = calls.post("save", &json!({"file": name, "text": "x", "hash": null}));
        assert!(made.0 == 422 || made.0 == 409, "{name:?}: {made:?}");
        let moved = calls.post("rename", &json!({"file": FILE, "to": name, "hash": hash}));
        assert_eq!(moved.0, 422, "{name:?}: {moved:?}");
        let gone = calls.post("delete", &json!({"file": name, "hash": hash}));
        assert!(gone.0 == 422 || gone.0 == 409, "{name:?}: {gone:?}");
    }
    // a link is neither renamed nor deleted, and nothing without the identity of the file, or with an older one
    let link = "policies/customer/link.cedar";
    for (call, change) in [
        ("delete", json!({"file": link, "hash": calls.hash(link)})),
        (
            "rename",
            json!({"file": link, "to": "policies/customer/l.cedar", "hash": calls.hash(link)}),
        ),
        ("delete", json!({"file": FILE})),
        ("delete", json!({"file": FILE, "hash": null})),
        (
            "delete",
            json!({"file": FILE, "hash": calls.hash("policies/customer/orders.cedar")}),
        ),
        ("rename", json!({"file": FILE, "to": "policies/customer/y.cedar"})),
        ("delete", json!({"file": FILE, "hash": hash, "text": "x"})),
        ("rename", json!({"file": FILE, "hash": hash})),
        ("save", json!({"file": FILE, "hash": hash})),
        (
            "save",
            json!({"file": "policies/customer/README.md", "text": "x", "hash": null}),
        ),
    ] {
        let (status, body) = calls.post(call, &change);
        assert!(status == 422 || status == 409, "{call} {change}: {status} {body}");
    }
    for call in ["delete", "rename"] {
        let path = format!("/api/{call}?file={FILE}");
        assert_eq!(bench.ask("GET", &path, &[("cookie", &calls.cookie)], "").0, 404, "{call}");
    }
    assert_eq!((names(folder.path()), names(outside.path())), before);

    // a folder that a link replaces after the page looked at it
    let real = folder.path().join("policies/customer/tests");
    std::fs::rename(&real, outside.path().join("tests")).unwrap();
    symlink(outside.path().join("tests"), &real).unwrap();
    let made = calls.post(
        "save",
        &json!({"file": "policies/customer/tests/new.yaml", "text": "cases: []\n", "hash": null}),
    );
    assert_eq!(made.0, 422, "{made:?}");
    let case = "policies/customer/tests/orders.yaml";
    if let hash @ Value::String(_) = calls.hash(case) {
        let gone = calls.post("delete", &json!({"file": case, "hash": hash}));
        assert_eq!(gone.0, 422, "{gone:?}");
    }
    assert!(!outside.path().join("tests/new.yaml").exists());
    std::fs::remove_file(&real).unwrap();
    std::fs::rename(outside.path().join("tests"), &real).unwrap();

    // what is allowed: a new folder, a name in it, and away again
    let post = |call: &str, change: Value| {
        eventually("the workbench has read the tree again", || {
            let (status, body) = calls.post(call, &change);
            if status == 200 {
                Ok(body)
            } else {
                Err(format!("{status} {body}"))
            }
        })
    };
    let (made, moved) = ("policies/partner/main.cedar", "policies/partner/deep/main.cedar");
    post("save", json!({"file": made, "text": "// partner\n", "hash": null}));
    let hash = calls.hash(made);
    post("rename", json!({"file": made, "to": moved, "hash": hash}));
    assert_eq!(std::fs::read_to_string(folder.path().join(moved)).unwrap(), "// partner\n");
    post("delete", json!({"file": moved, "hash": hash}));
    assert!(!folder.path().join(moved).exists());
}
