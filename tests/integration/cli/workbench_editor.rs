//! The workbench's page Editor in a real browser: a broken and a widening text, saving, and every way to write what it
//! must not.

use serde_json::{Value, json};

use super::workbench::{Bench, browser, example, holds, page};
use crate::support::chromium::Chromium;
use crate::support::{eventually, put};

const FILE: &str = "policies/customer/orders.cedar";

fn edit(browser: &mut Chromium, from: &str, to: &str) {
    let (from, to) = (Value::from(from), Value::from(to));
    browser.act(
        &format!("[...document.querySelectorAll('textarea.source')].find((one) => one.value.includes({from}))"),
        &format!("found.value = found.value.replace({from}, {to}); found.dispatchEvent(new Event('input'))"),
    );
}

fn click(browser: &mut Chromium, label: &str) {
    browser.click(&format!(
        "[...document.querySelectorAll('main button')].find((one) => one.innerText.trim() === {})",
        Value::from(label)
    ));
}

fn says(text: &str) -> String {
    format!("document.querySelector('main').innerText.includes({})", Value::from(text))
}

#[test]
fn a_text_is_checked_compared_and_proved_before_only_save_writes_it() {
    let folder = example();
    let disk = || std::fs::read_to_string(folder.path().join(FILE)).unwrap();
    let before = disk();
    let bench = Bench::start(folder.path(), &[]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    browser.arrived("/");
    page(&mut browser, &format!("#/editor?file={}", FILE.replace('/', "%2F")), "Editor");
    holds(&mut browser, "document.querySelector('#check')?.innerText.includes('loads')");
    holds(&mut browser, "document.querySelector('.colours .c-effect.permit') !== null");

    // a broken text names its line at once
    edit(&mut browser, "permit (", "permi (");
    holds(&mut browser, "document.querySelector('#check').innerText.includes('error')");
    holds(&mut browser, "document.querySelector('.numbers .error') !== null");
    holds(&mut browser, &says("does not load, so it cannot be compared"));
    let prove = "[...document.querySelectorAll('main button')].find((one) => one.innerText.startsWith('Prove'))";
    holds(&mut browser, &format!("{prove}.disabled"));
    edit(&mut browser, "permi (", "permit (");
    holds(&mut browser, "document.querySelector('#check').innerText.includes('loads')");

    // a widening text that no decision test sees: the proof draws a request that it opens
    edit(&mut browser, "Role::\"editor\"", "Role::\"viewer\"");
    holds(&mut browser, &says("no test is decided in another way"));
    holds(&mut browser, "document.querySelector('.effects .diff .added') !== null");
    click(&mut browser, "Prove that nothing is newly allowed");
    holds(&mut browser, "document.querySelector('.counterexample .flow') !== null");
    holds(
        &mut browser,
        "document.querySelector('.counterexample').innerText.includes('POST')",
    );
    // and one that flips tests
    edit(&mut browser, "resource.owner == principal", "true");
    holds(&mut browser, &says("something is newly allowed"));
    holds(&mut browser, &says("2 of 51 tests failed"));
    assert_eq!(disk(), before, "nothing was written yet");

    // the unsaved text survives a visit to another page
    page(&mut browser, "#/tests", "Tests");
    page(&mut browser, "#/editor", "Editor");
    holds(&mut browser, "document.querySelector('textarea.source') !== null");
    page(&mut browser, &format!("#/editor?file={}", FILE.replace('/', "%2F")), "Editor");
    holds(&mut browser, &says("not saved"));
    click(&mut browser, "Save");
    holds(&mut browser, &says(&format!("Saved {FILE}.")));
    let edited = before.replacen("Role::\"editor\"", "Role::\"viewer\"", 1);
    assert_eq!(disk(), edited.replacen("resource.owner == principal", "true", 1));
    holds(&mut browser, &says("as on disk"));

    // another program writes the file meanwhile
    edit(&mut browser, "// Viewing", "// Mine: viewing");
    let theirs = disk().replace("// Viewing", "// Theirs: viewing");
    put(folder.path(), FILE, &theirs);
    holds(&mut browser, &says("changed on disk after you opened it"));
    click(&mut browser, "Save");
    holds(&mut browser, &says("nothing was written"));
    assert_eq!(disk(), theirs);
    click(&mut browser, "Take the file's text");
    holds(
        &mut browser,
        "document.querySelector('textarea.source').value.includes('// Theirs')",
    );
    // Chromium names every answer that is no success: the broken text, and the refused save
    browser
        .complaints
        .retain(|one| !one.contains("/api/compare") && !one.contains("/api/save"));
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn save_writes_no_file_that_is_not_of_the_tree_and_no_newer_one() {
    let folder = example();
    let outside = tempfile::tempdir().unwrap();
    put(outside.path(), "outside.cedar", "// outside\n");
    put(folder.path(), "secret.txt", "secret\n");
    let link = folder.path().join("policies/customer/linked.cedar");
    std::os::unix::fs::symlink(outside.path().join("outside.cedar"), &link).unwrap();
    let bench = Bench::start(folder.path(), &[]);
    let cookie = bench.cookie();
    let headers = [
        ("cookie", cookie.as_str()),
        ("content-type", "application/json"),
        ("x-cedargate-workbench", "1"),
    ];
    let open = |file: &str| -> Value {
        let path = format!("/api/file?file={}", file.replace('/', "%2F"));
        serde_json::from_str(&bench.ask("GET", &path, &headers[..1], "").2).unwrap()
    };
    let save = |file: &str, text: &str, hash: &Value| {
        let body = json!({"file": file, "text": text, "hash": hash}).to_string();
        bench.ask("POST", "/api/save", &headers, &body)
    };
    let hash = open(FILE)["hash"].clone();
    for file in [
        "secret.txt",
        "../secret.txt",
        "policies/../secret.txt",
        "policies/customer/new.cedar",
        "/etc/passwd",
        "",
    ] {
        assert_eq!(save(file, "x", &hash).0, 422, "{file}");
        assert!(open(file)["error"].is_string(), "{file}");
    }
    // a link out of its folder is no file of the tree
    assert!(open("policies/customer/linked.cedar")["error"].is_string());
    assert_eq!(save("policies/customer/linked.cedar", "// changed\n", &hash).0, 422);
    std::fs::remove_file(&link).unwrap();
    // nor is a file that a link replaces after the page opened it, with the same text
    let products = "policies/customer/products.cedar";
    let opened = open(products);
    put(outside.path(), "products.cedar", opened["text"].as_str().unwrap());
    std::fs::remove_file(folder.path().join(products)).unwrap();
    std::os::unix::fs::symlink(outside.path().join("products.cedar"), folder.path().join(products)).unwrap();
    assert_eq!(save(products, "// changed\n", &opened["hash"]).0, 422);
    let kept = std::fs::read_to_string(outside.path().join("products.cedar")).unwrap();
    assert_eq!(kept, opened["text"]);
    std::fs::remove_file(folder.path().join(products)).unwrap();
    put(folder.path(), products, &kept);
    // without the identity of the opened file, with that of another, and of an older text
    let text = open(FILE)["text"].as_str().unwrap().to_owned();
    assert_eq!(save(FILE, "x", &Value::Null).0, 409);
    assert_eq!(save(FILE, "x", &opened["hash"]).0, 409);
    put(folder.path(), FILE, &format!("{text}// newer\n"));
    let refused = save(FILE, "x", &hash);
    assert!([409, 422].contains(&refused.0), "{refused:?}");
    assert!(
        std::fs::read_to_string(folder.path().join(FILE))
            .unwrap()
            .ends_with("// newer\n")
    );
    // the same call with what is there now, and its mode stays
    use std::os::unix::fs::PermissionsExt;
    let path = folder.path().join(FILE);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let saved = eventually("the workbench has read the newer file", || {
        let (status, _, body) = save(FILE, &text, &open(FILE)["hash"]);
        if status == 200 { Ok(body) } else { Err(body) }
    });
    assert_eq!(
        serde_json::from_str::<Value>(&saved).unwrap()["tests"]["failed"],
        json!([]),
        "{saved}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    // a GET writes nothing, nor does a text of the wrong form
    assert_eq!(bench.ask("GET", "/api/save?file=x", &headers[..1], "").0, 404);
    assert_eq!(bench.ask("POST", "/api/save", &headers, "{\"file\":1}").0, 422);
}
