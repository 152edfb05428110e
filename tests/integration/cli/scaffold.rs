//! `init`, `new portal`, `fmt`, `schema`, `completions`, `man`: what they write works at once, and nothing is
//! overwritten.

use std::path::Path;

use serde_json::Value;

use crate::support::binary::{cedargate, free_address, run};
use crate::support::{ScriptedServer, eventually, raw, response};

fn ok(folder: &Path, arguments: &[&str]) -> String {
    let (code, out, error) = run(folder, arguments);
    assert_eq!(code, 0, "{arguments:?}: {out}{error}");
    out
}

#[test]
fn a_new_tree_validates_and_passes_its_tests_and_rules() {
    let folder = tempfile::tempdir().unwrap();
    let said = ok(
        folder.path(),
        &["init", "shop", "--portal", "customer,back-office", "--tenant", "globex"],
    );
    let shop = folder.path().join("shop");
    assert!(said.contains("cd shop"), "{said}");
    ok(&shop, &["validate", "--deny-warnings"]);
    let tests = ok(&shop, &["test"]);
    assert!(tests.contains("14 passed, 0 failed"), "{tests}");
    ok(&shop, &["lint", "--deny-warnings"]);
    ok(&shop, &["fmt", "--check"]);
    // the tenant is bound where it belongs: the issuer speaks for no other
    let config = std::fs::read_to_string(shop.join("cedargate.yaml")).unwrap();
    assert!(config.contains("tenants: [\"globex\"]"), "{config}");
    for (tenant, code) in [("globex", 0), ("acme", 2)] {
        let claims = format!(r#"{{"sub": "vera", "tenant": "{tenant}", "roles": ["viewer"]}}"#);
        for slug in ["customer", "back-office"] {
            let url = format!("/portal/{slug}/items");
            let asked = run(&shop, &["authorize", "--url", &url, "--claims", &claims]);
            assert_eq!(asked.0, code, "{tenant} {slug}: {asked:?}");
        }
    }
    ok(&shop, &["new", "portal", "admin"]);
    let tests = ok(&shop, &["test"]);
    assert!(tests.contains("21 passed, 0 failed"), "{tests}");
    ok(&shop, &["lint", "--deny-warnings"]);
}

#[test]
fn a_portal_named_twice_is_refused_before_any_file_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, error) = run(folder.path(), &["init", "shop", "--portal", "customer,customer"]);
    assert_eq!(code, 64, "{error}");
    assert!(error.contains("`--portal`: `customer` is named twice"), "{error}");
    assert!(!folder.path().join("shop").exists());
}

#[test]
fn a_new_tree_serves_the_token_that_the_next_steps_mint() {
    let folder = tempfile::tempdir().unwrap();
    let said = ok(folder.path(), &["init"]);
    let app = ScriptedServer::start(|_, wire| {
        wire.send(response("200 OK", b"items"));
    });
    let (proxy, admin) = (free_address(), free_address());
    let yaml = folder.path().join("cedargate.yaml");
    let text = std::fs::read_to_string(&yaml).unwrap();
    let text = text
        .replace("127.0.0.1:8900", &proxy.to_string())
        .replace("127.0.0.1:8903", &admin.to_string())
        .replace("127.0.0.1:8901", &free_address().to_string())
        .replace("127.0.0.1:3000", &app.address.to_string());
    std::fs::write(&yaml, text).unwrap();
    let mint = said
        .split("TOKEN=$(cedargate ")
        .nth(1)
        .unwrap()
        .split(')')
        .next()
        .unwrap()
        .replace('\\', " ");
    let mint: Vec<&str> = mint.split_whitespace().collect();
    let token = ok(folder.path(), &mint);
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let mut gate = cedargate(&["serve"])
        .current_dir(folder.path())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let ask = |headers: &[(&str, &str)]| raw(proxy, "GET", "/portal/customer/items", headers, b"").status;
    eventually("the gate answers", || {
        std::net::TcpStream::connect(proxy).map(drop).map_err(|e| e.to_string())
    });
    eventually("the policies are loaded", || {
        let status = ask(&[("authorization", &format!("Bearer {}", token.trim()))]);
        if status == 200 { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(ask(&[]), 401);
    gate.kill().unwrap();
    gate.wait().unwrap();
}

#[test]
fn nothing_that_exists_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("policies/customer/portal.yaml");
    std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
    std::fs::write(&kept, "title: Mine\n").unwrap();
    let (code, _, error) = run(folder.path(), &["init"]);
    assert_eq!(code, 64);
    assert!(
        error.contains("policies/customer/portal.yaml") && error.contains("nothing was written"),
        "{error}"
    );
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "title: Mine\n");
    assert!(!folder.path().join("cedargate.yaml").exists());
    for wrong in [
        &["init", "--portal", "My_Shop"][..],
        &["init", "--tenant", "a: b"],
        &["init", "--issuer", "https://id.test/"],
        &["init", "--issuer", "ftp://id.test/", "--audience", "a"],
        &["new", "portal", "x"],
    ] {
        let (code, _, error) = run(folder.path(), wrong);
        assert_eq!(code, 64, "{wrong:?}: {error}");
        assert!(!error.is_empty());
    }
}

#[test]
fn the_formatter_keeps_comments_and_decisions_and_names_what_it_cannot_read() {
    let folder = tempfile::tempdir().unwrap();
    ok(folder.path(), &["init"]);
    let file = folder.path().join("policies/customer/pages.cedar");
    let ugly = "// keep me\n@id(\"viewers-read-pages\") permit(principal in Role::\"viewer\",action in Action::\"read\",resource in Path::\"/portal/customer\");\n\
        @id(\"viewers-view-items\") permit(principal in Role::\"viewer\", action == Action::\"viewItem\", resource is Item); // and me\n\
        @id(\"editors-edit-items\") permit(principal in Role::\"editor\", action == Action::\"editItem\", resource is Item);\n";
    std::fs::write(&file, ugly).unwrap();
    let (code, out, _) = run(folder.path(), &["fmt", "--check"]);
    assert_eq!((code, out.trim()), (3, "not formatted policies/customer/pages.cedar"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), ugly);
    ok(folder.path(), &["fmt"]);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("// keep me") && text.contains("// and me"), "{text}");
    ok(folder.path(), &["fmt", "--check"]);
    ok(folder.path(), &["test"]);
    std::fs::write(&file, "permit(principal").unwrap();
    let (code, _, error) = run(folder.path(), &["fmt"]);
    assert_eq!(code, 3);
    assert!(error.contains("policies/customer/pages.cedar"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "permit(principal");
}

#[test]
fn the_schema_of_a_portal_is_one_text_that_cedar_reads() {
    let folder = tempfile::tempdir().unwrap();
    ok(folder.path(), &["init", "--portal", "a,b"]);
    let text = ok(folder.path(), &["schema", "show", "--portal", "a"]);
    assert!(text.contains("entity User") && text.contains("entity Item"), "{text}");
    let json: Value = serde_json::from_str(&ok(folder.path(), &["schema", "to-json", "--portal", "b"])).unwrap();
    assert!(json[""]["entityTypes"]["Item"].is_object(), "{json:#}");
    let (code, _, error) = run(folder.path(), &["schema", "show"]);
    assert_eq!(code, 64);
    assert!(error.contains("--portal: a, b"), "{error}");
}

#[test]
fn completions_and_man_pages_name_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(ok(folder.path(), &["completions", shell]).contains("explain"), "{shell}");
    }
    assert!(ok(folder.path(), &["man"]).contains(".TH cedargate"));
    ok(folder.path(), &["man", "--dir", "pages"]);
    assert!(folder.path().join("pages/cedargate-token-mint.1").exists());
}

#[test]
fn published_schemas_take_the_shipped_and_scaffolded_files_and_refuse_mistakes() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(folder.path(), &["init"]).0, 0);
    let scaffolded = std::fs::read_to_string(folder.path().join("policies/customer/tests/pages.yaml")).unwrap();
    assert!(
        scaffolded.starts_with("# yaml-language-server: $schema=../../../schemas/.editor/tests.schema.json\n"),
        "{scaffolded}"
    );
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let validator = |of: &str| {
        let (code, text, error) = run(folder.path(), &["config", "schema", "--of", of]);
        assert_eq!(code, 0, "{error}");
        let published = std::fs::read_to_string(root.join(format!("schemas/{of}.schema.json"))).unwrap();
        assert_eq!(text, published, "schemas/{of}.schema.json");
        let written = std::fs::read_to_string(folder.path().join(format!("schemas/.editor/{of}.schema.json"))).unwrap();
        assert_eq!(text, written);
        jsonschema::draft202012::new(&serde_json::from_str(&text).unwrap()).unwrap()
    };
    let (portal, tests) = (validator("portal"), validator("tests"));
    let yaml = |text: &str| serde_saphyr::from_str::<serde_json::Value>(text).unwrap();
    let mut checked = 0;
    for tree in [root, folder.path()] {
        for slug in ["admin", "customer"] {
            let Ok(file) = std::fs::read_to_string(tree.join(format!("policies/{slug}/portal.yaml"))) else {
                continue;
            };
            assert!(portal.is_valid(&yaml(&file)), "{file}");
            for entry in std::fs::read_dir(tree.join(format!("policies/{slug}/tests"))).unwrap() {
                let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
                assert!(tests.is_valid(&yaml(&text)), "{text}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 4, "{checked} test files");
    for good in [
        "cases: [{ name: '{a}', for: { a: [x, y] }, principal: '{a}', http: GET /, expect: { x: allow, '*': deny } }]",
        "entities: [{ uid: { type: A, id: b } }]\ncases: [{ principal: { id: x }, action: a, resource: 'A::\"b\"', expect: deny }]",
    ] {
        assert!(tests.is_valid(&yaml(good)), "{good}");
    }
    for bad in [
        "cases: [{ expct: deny }]",
        "cases: [{ expect: maybe }]",
        "case: []",
        "cases: [{ for: { a: [] } }]",
    ] {
        assert!(!tests.is_valid(&yaml(bad)), "{bad}");
    }
    for bad in ["titel: x", "routes: [{ route: GET / }]", "flags: { a: 1.5 }", "cors: any"] {
        assert!(!portal.is_valid(&yaml(bad)), "{bad}");
    }
    // without the schemas a new portal's files do not name them
    std::fs::remove_dir_all(folder.path().join("schemas/.editor")).unwrap();
    assert_eq!(run(folder.path(), &["new", "portal", "shop"]).0, 0);
    let text = std::fs::read_to_string(folder.path().join("policies/shop/portal.yaml")).unwrap();
    assert!(!text.contains("yaml-language-server"), "{text}");
}
