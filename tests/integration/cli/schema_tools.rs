//! `schema from-openapi`, `diff`, `types` and `lint --openapi`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::binary::{GateFolder, run};
use crate::support::raw;

/// A scaffold, and the text of the example description beside it.
struct Shop {
    folder: tempfile::TempDir,
}

impl Shop {
    fn new() -> Self {
        let shop = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        shop.ok(&["init"]);
        shop.write("shop.yaml", include_str!("../../corpus/openapi/shop.yaml"));
        shop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let (code, out, error) = run(self.folder.path(), arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}{error}");
        out
    }

    fn fails(&self, expected: i32, arguments: &[&str]) -> String {
        let (code, out, error) = run(self.folder.path(), arguments);
        assert_eq!(code, expected, "{arguments:?}: {out}{error}");
        out + &error
    }
}

/// Descriptions with what real ones have: base paths, verbs behind a colon, suffixes, other alphabets, open operations.
const DESCRIPTIONS: [&str; 3] = [
    include_str!("../../corpus/openapi/shop.yaml"),
    include_str!("../../corpus/openapi/library.json"),
    include_str!("../../corpus/openapi/files.yaml"),
];

/// A route of `portal.yaml`, with a segment for each parameter.
fn as_requested(route: &str) -> (String, String) {
    let (method, pattern) = route.split_once(' ').unwrap();
    let mut path = String::new();
    for part in pattern.replace("/**", "/a/b").split('{') {
        match part.split_once('}') {
            Some((_, rest)) => path.push_str(&format!("7{rest}")),
            None => path.push_str(part),
        }
    }
    (method.to_owned(), path)
}

#[test]
fn a_gate_serves_every_tree_that_a_description_makes() {
    for text in DESCRIPTIONS {
        let gate = GateFolder::new("http://127.0.0.1:1", "");
        std::fs::remove_dir_all(gate.folder.path().join("policies")).unwrap();
        std::fs::remove_dir_all(gate.folder.path().join("schemas")).unwrap();
        gate.put(
            "schemas/_shared.cedarschema",
            include_str!("../../../schemas/_shared.cedarschema"),
        );
        gate.put("description", text);
        let (code, out, error) = gate.run(&["schema", "from-openapi", "description", "--portal", "api", "--write"]);
        assert_eq!(code, 0, "{out}{error}");
        let portal = std::fs::read_to_string(gate.folder.path().join("policies/api/portal.yaml")).unwrap();
        let portal: Value = serde_saphyr::from_str(&portal).unwrap();
        let process = gate.serve();
        let routes = portal["routes"].as_array().unwrap();
        for route in routes {
            let route = route["route"].as_str().unwrap();
            let (method, path) = as_requested(route);
            let bearer = format!("Bearer {}", gate.issuer.token("alice", &["viewer"]));
            let ask = |headers: &[(&str, &str)]| raw(gate.proxy, &method, &path, headers, b"").status;
            // nothing permits it yet, and what the description leaves open is a comment
            let answers = [ask(&[]), ask(&[("authorization", &bearer)])];
            assert_eq!(answers, [401, 403], "{route}: {method} {path}");
        }
        assert_eq!(raw(gate.proxy, "GET", "/elsewhere", &[], b"").status, 404);
        drop(process);
    }
}

#[test]
fn a_description_becomes_a_portal_that_validates_and_denies_everything() {
    let shop = Shop::new();
    let make = ["schema", "from-openapi", "shop.yaml", "--portal", "shop"];
    let printed = shop.ok(&make);
    assert!(
        !shop.path("schemas/shop.cedarschema").exists(),
        "nothing is written without --write"
    );
    let (code, out, notes) = run(shop.folder.path(), &[&make[..], &["--write"]].concat());
    assert_eq!(code, 0, "{out}{notes}");
    assert!(out.contains("10 actions, 5 resource types, 10 routes"), "{out}");
    assert!(!notes.contains("left out"), "{notes}");
    let wide: Vec<&str> = notes.lines().filter_map(|line| line.split('`').nth(1)).collect();
    assert_eq!(wide, ["GET /files/{name}.{ext}", "POST /orders/{orderId}:refund"], "{notes}");
    for name in [
        "schemas/shop.cedarschema",
        "policies/shop/portal.yaml",
        "policies/shop/tests/openapi.yaml",
    ] {
        assert!(
            printed.contains(&shop.read(name)),
            "{name} is not what was printed:\n{printed}"
        );
    }
    shop.ok(&["validate"]);
    let tests = shop.ok(&["test"]);
    assert!(tests.contains("17 passed, 0 failed"), "{tests}");
    shop.ok(&["fmt", "--check"]);
    let lint = shop.ok(&["lint", "--openapi", "shop=shop.yaml"]);
    assert!(
        !lint.contains("no route covers") && !lint.contains("no such operation"),
        "{lint}"
    );
    let again = shop.fails(64, &[&make[..], &["--write"]].concat());
    assert!(again.contains("nothing was written: there is already"), "{again}");
}

#[test]
fn lint_compares_a_description_with_the_routes() {
    let shop = Shop::new();
    let text = "openapi: 3.0.0\npaths:\n  /items/{id}:\n    get: {}\n    patch: {}\n";
    shop.write("api.yaml", text);
    let found = shop.ok(&["lint", "--openapi", "api.yaml"]);
    assert!(
        found.contains("no route covers `PATCH /portal/customer/items/{id}`") && found.contains("--> api.yaml:5:5"),
        "{found}"
    );
    assert!(
        found.contains("5 |     patch: {}"),
        "the line of the description is shown: {found}"
    );
    assert!(
        found.contains("`PUT /portal/customer/items/{item}`: `api.yaml` has no such operation"),
        "{found}"
    );
    shop.fails(3, &["lint", "--openapi", "api.yaml", "--deny-warnings"]);
    shop.ok(&["new", "portal", "admin"]);
    let asked = shop.fails(64, &["lint", "--openapi", "api.yaml"]);
    assert!(
        asked.contains("--openapi <portal>=api.yaml; the portals are admin, customer"),
        "{asked}"
    );
    let asked = shop.fails(64, &["lint", "--openapi", "shop=api.yaml"]);
    assert!(asked.contains("there is no portal `shop`"), "{asked}");
    shop.ok(&["lint", "--openapi", "customer=api.yaml"]);
}

#[test]
fn what_is_no_description_is_one_clear_error() {
    let shop = Shop::new();
    std::fs::write(shop.path("binary.yaml"), [0xff, 0xfe, 0x00, 0x80]).unwrap();
    shop.write("swagger.json", r#"{"swagger": "2.0", "paths": {}}"#);
    shop.write("broken.yaml", "openapi: 3.0.0\npaths:\n  /a: {get: [\n");
    shop.write("empty.yaml", "openapi: 3.0.0\n");
    shop.write("other.yaml", "kind: Pod\n");
    shop.write("deep.yaml", &format!("openapi: 3.0.0\npaths: {}", "[".repeat(100_000)));
    for (name, expected) in [
        ("binary.yaml", "cannot read `binary.yaml`"),
        ("swagger.json", "it is Swagger 2.0; convert it to OpenAPI 3 first"),
        ("broken.yaml", "broken.yaml:"),
        ("empty.yaml", "has no operation that could be a route"),
        ("other.yaml", "so it is no OpenAPI description"),
        ("deep.yaml", "deep.yaml"),
        ("missing.yaml", "cannot read `missing.yaml`"),
        ("policies", "cannot read `policies`"),
    ] {
        let said = shop.fails(64, &["schema", "from-openapi", name, "--portal", "x"]);
        assert!(said.contains(expected) && said.lines().count() == 1, "{name}: {said}");
    }
}

#[test]
fn types_are_generated_checked_and_never_replace_a_file_of_somebody_else() {
    let shop = Shop::new();
    fn generate<'a>(language: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["schema", "types", language], more].concat()
    }
    for (language, name) in [("--ts", "contract.ts"), ("--py", "contract.py")] {
        shop.fails(3, &generate(language, &["--out", name, "--check"]));
        shop.ok(&generate(language, &["--out", name]));
        shop.ok(&generate(language, &["--out", name, "--check"]));
        assert_eq!(shop.read(name), shop.ok(&generate(language, &[])));
    }
    let python = "import contract; print(sorted(contract.RESOURCES['viewItem']), contract.PORTAL)";
    let out = Command::new("python3")
        .args(["-c", python])
        .current_dir(shop.folder.path())
        .output()
        .unwrap();
    let out = (
        String::from_utf8_lossy(&out.stdout).into_owned(),
        String::from_utf8_lossy(&out.stderr).into_owned(),
    );
    assert_eq!(out.0, "['Item'] customer\n", "{}", out.1);
    shop.write("mine.ts", "export const x = 1;\n");
    let said = shop.fails(64, &generate("--ts", &["--out", "mine.ts"]));
    assert!(said.contains("was not made by this command"), "{said}");
    let schema = shop.read("schemas/customer.cedarschema");
    shop.write(
        "schemas/customer.cedarschema",
        &schema.replace("owner?: User", "owner?: User, colour?: String"),
    );
    let said = shop.fails(3, &generate("--ts", &["--out", "contract.ts", "--check"]));
    assert!(
        said.contains("contract.ts:") && said.contains("is not what the schema says"),
        "{said}"
    );
}

#[test]
fn a_schema_diff_names_what_breaks_and_can_fail_on_it() {
    let old = Shop::new();
    let new = Shop::new();
    let place = |shop: &Shop| shop.folder.path().display().to_string();
    let (from, to) = (place(&old), place(&new));
    assert_eq!(
        old.ok(&["schema", "diff", &from, &to]),
        "breaking: 0, to review: 0, compatible: 0; next version: unchanged\n"
    );
    let text = new.read("schemas/customer.cedarschema");
    let text = text
        .replace("owner?: User", "owner: User")
        .replace("viewItem in [read]", "viewItem in [read, write]");
    new.write("schemas/customer.cedarschema", &text);
    let said = old.fails(4, &["schema", "diff", &from, &to, "--fail-on", "breaking"]);
    assert_eq!(
        said,
        "breaking   Item.owner: was optional, is required: entities without it are refused\n\
         review     viewItem: joins `write`: policies for the group hold for it now\n\
         breaking: 1, to review: 1, compatible: 0; next version: major\n"
    );
    old.ok(&["schema", "diff", &from, &to]);
    let json: serde_json::Value = serde_json::from_str(&old.ok(&["schema", "diff", &from, &to, "--format", "json"])).unwrap();
    assert_eq!(json["version"], "major");
    let markdown = old.ok(&["schema", "diff", &from, &to, "--format", "markdown"]);
    assert!(markdown.contains("| breaking | `Item.owner` | was optional"), "{markdown}");
    let file = Path::new(&to).join("schemas/_shared.cedarschema").display().to_string();
    let said = old.fails(64, &["schema", "diff", &from, "/nowhere"]);
    assert!(said.contains("/nowhere"), "{said}");
    old.ok(&["schema", "diff", &file, &file]);
}

#[test]
fn the_files_for_editors_are_hidden_from_the_gate_and_from_git() {
    let shop = Shop::new();
    shop.ok(&["new", "portal", "admin"]);
    let said = shop.ok(&["schema", "show", "--editor"]);
    assert_eq!(
        said.lines().count(),
        5,
        "two schemas, two links, the shared folder's schema: {said}"
    );
    let revision = shop.ok(&["validate", "--deny-warnings"]);
    for (portal, other) in [("customer", "admin"), ("admin", "customer")] {
        let joined = shop.ok(&["schema", "show", "--portal", portal]);
        assert_eq!(shop.read(&format!("policies/{portal}/.editor.cedarschema")), joined);
        assert!(!joined.contains(other), "{joined}");
        assert_eq!(
            shop.read(&format!("policies/{portal}/.cedarentities.json")),
            shop.read(&format!("policies/{portal}/entities.json"))
        );
    }
    shop.ok(&["schema", "show", "--editor"]);
    shop.ok(&["lint", "--deny-warnings"]);
    let ignored = shop.read("policies/.gitignore");
    assert!(ignored.contains(".editor.cedarschema") && ignored.contains(".cedarentities.json"));
    std::fs::remove_file(shop.path("policies/customer/.editor.cedarschema")).unwrap();
    assert_eq!(
        shop.ok(&["validate", "--deny-warnings"]),
        revision,
        "a gate does not read them"
    );
}
