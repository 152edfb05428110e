//! Trees of our own, each with one planted mistake: the commands find it at its place, once, and nothing else.
//!
//! `tests/corpus/planted` is a tree without a mistake. A plant edits it; in the new text `«` stands in front of the
//! place that the finding names, `¦` at the beginning of its line if it names no column, and `§` anywhere in a file
//! that it names as a whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::support::binary::run;
use crate::support::put;

const MARKS: [char; 3] = ['«', '¦', '§'];
const BASE: &str = "tests/corpus/planted";

const SCHEMA: &str = "schemas/shop.cedarschema";
const SHARED: &str = "policies/_shared/tenants.cedar";
const PORTAL: &str = "policies/shop/portal.yaml";
const ORDERS: &str = "policies/shop/orders.cedar";
const PRODUCTS: &str = "policies/shop/products.cedar";
const LINKS: &str = "policies/shop/links.json";
const ENTITIES: &str = "policies/shop/entities.json";
const INVARIANTS: &str = "policies/shop/invariants.yaml";
const FORBID_FILE: &str = "policies/shop/_deny/blocked.cedar";
const CANDIDATE: &str = "policies/shop/candidate/next.cedar";
const TESTS: &str = "policies/shop/tests/orders.yaml";

/// The commands that name the mistake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum By {
    /// The tree does not load: `validate` and `lint`.
    Both,
    /// `validate` alone: a warning of loading, or a failing decision test.
    Validate,
    /// `lint` alone.
    Lint,
}

enum Edit {
    Replace(&'static str, &'static str, &'static str),
    /// At the end of a file, which may be new.
    Append(&'static str, &'static str),
    Remove(&'static str),
}

use Edit::{Append, Remove, Replace};

struct Plant {
    by: By,
    rule: &'static str,
    /// A part of the message.
    message: &'static str,
    edits: Vec<Edit>,
}

fn plant(by: By, rule: &'static str, message: &'static str, edits: impl Into<Vec<Edit>>) -> Plant {
    Plant {
        by,
        rule,
        message,
        edits: edits.into(),
    }
}

/// The tree does not load.
fn broken(message: &'static str, edits: impl Into<Vec<Edit>>) -> Plant {
    plant(By::Both, "validation", message, edits)
}

/// `validate` warns.
fn odd(message: &'static str, edits: impl Into<Vec<Edit>>) -> Plant {
    plant(By::Validate, "validation", message, edits)
}

/// A rule of `lint` finds it; `validate` too, if the rule's severity is error.
fn rule(rule: &'static str, edits: impl Into<Vec<Edit>>) -> Plant {
    let by = match rule {
        "unknown-name" | "route-resource" | "suppression" => By::Both,
        _ => By::Lint,
    };
    plant(by, rule, "", edits)
}

/// Every file of a folder, by its name below it.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            files.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
    files
}

fn base() -> BTreeMap<String, String> {
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(BASE))
}

/// File, line and column that a finding names.
type Place = (String, Option<u64>, Option<u64>);

/// The place that a mark in the files says, and the files without marks.
fn without_marks(files: &mut BTreeMap<String, String>) -> Place {
    let mut places = Vec::new();
    for (name, text) in files.iter_mut() {
        let Some(offset) = text.find(MARKS) else { continue };
        let mark = text[offset..].chars().next().unwrap();
        let before = &text[..offset];
        let line = before.matches('\n').count() as u64 + 1;
        let column = (before.len() - before.rfind('\n').map_or(0, |at| at + 1)) as u64 + 1;
        places.push(match mark {
            '«' => (name.clone(), Some(line), Some(column)),
            '¦' => (name.clone(), Some(line), None),
            _ => (name.clone(), None, None),
        });
        *text = text.replacen(mark, "", 1);
        assert!(!text.contains(MARKS), "{name} has two marks");
    }
    assert_eq!(places.len(), 1, "a plant has one mark: {files:?}");
    places.remove(0)
}

fn planted(plant: &Plant) -> (tempfile::TempDir, Place) {
    let mut files = base();
    for edit in &plant.edits {
        match *edit {
            Replace(name, old, new) => {
                let text = files.get_mut(name).unwrap();
                assert_eq!(text.matches(old).count(), 1, "{name}: {old}");
                *text = text.replace(old, new);
            }
            Append(name, more) => files.entry(name.to_owned()).or_default().push_str(more),
            Remove(name) => assert!(files.remove(name).is_some(), "{name}"),
        }
    }
    let place = without_marks(&mut files);
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in &files {
        put(folder.path(), name, text);
    }
    (folder, place)
}

fn findings(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let (code, out, error) = run(folder, arguments);
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{arguments:?} {code}: {out}{error}"));
    report["findings"].as_array().unwrap().clone()
}

/// What is wrong with the findings of one plant.
fn mistakes_of(plant: &Plant) -> Vec<String> {
    let (folder, place) = planted(plant);
    let mut wrong = Vec::new();
    for (command, by) in [("validate", By::Validate), ("lint", By::Lint)] {
        let mut arguments = vec![command, "--format", "json"];
        let is_compared = ["unrouted-operation", "undescribed-route"].contains(&plant.rule);
        if is_compared && command == "lint" {
            arguments.extend(["--openapi", "shop=openapi.yaml"]);
        }
        let found = findings(folder.path(), &arguments);
        let is_expected = plant.by == By::Both || plant.by == by;
        let is_right = match found.as_slice() {
            [] => !is_expected,
            [one] => {
                let at = (
                    one["file"].as_str().unwrap_or_default().to_owned(),
                    one["line"].as_u64(),
                    one["column"].as_u64(),
                );
                let help = one["help"].as_str().unwrap_or_default();
                let message = format!("{} {help}", one["message"].as_str().unwrap());
                // a mark of a line says nothing about the column, but there is one
                let is_there = match place {
                    (_, Some(_), None) => (&at.0, at.1) == (&place.0, place.1) && at.2.is_some(),
                    _ => at == place,
                };
                is_expected && one["rule"] == plant.rule && is_there && message.contains(plant.message)
            }
            _ => false,
        };
        if !is_right {
            let found: Vec<String> = found.iter().map(Value::to_string).collect();
            wrong.push(format!(
                "{} {:?} at {place:?}: {command} found\n    {}",
                plant.rule,
                plant.message,
                found.join("\n    ")
            ));
        }
    }
    wrong
}

fn check(plants: &[Plant]) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut wrong = Vec::new();
        while let Some(plant) = plants.get(next.fetch_add(1, Ordering::Relaxed)) {
            wrong.extend(mistakes_of(plant));
        }
        wrong
    };
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{} of {}\n{}", wrong.len(), plants.len(), wrong.join("\n"));
}

#[test]
fn a_mistake_in_a_policy_is_found_once_at_its_place() {
    check(&[
        // syntax
        broken(
            "unexpected token",
            [Replace(
                ORDERS,
                "principal in Role::\"viewer\",\n    action in",
                "principal in Role::\"viewer\"\n    «action in",
            )],
        ),
        broken(
            "unexpected end of input",
            [Replace(
                PRODUCTS,
                "    action,\n    resource\n);\n",
                "    action,\n    resource\n)«\n",
            )],
        ),
        broken(
            "",
            [Append(
                ORDERS,
                "\n@id(\"x\")\npermit (principal, action == Action::\"GET\", «resorce);\n",
            )],
        ),
        broken(
            "",
            [Append(
                ORDERS,
                "\n@id(\"x\")\n«permitt (principal, action == Action::\"GET\", resource);\n",
            )],
        ),
        broken(
            "",
            [Append(
                ORDERS,
                "\n@id(\"x\")\npermit (principal, action == Action::\"GET\", resource) when { «principal.email = \"a\" };\n",
            )],
        ),
        // names and types that the schema does not know
        broken("Oder", [Replace(ORDERS, "resource is Order\n)", "resource is «Oder\n)")]),
        broken(
            "viewOder",
            [Replace(
                ORDERS,
                "action == Action::\"viewOrder\",\n    resource is",
                "action == «Action::\"viewOder\",\n    resource is",
            )],
        ),
        broken(
            "tennant",
            [Replace(
                ORDERS,
                "principal in resource.tenant };",
                "principal in «resource.tennant };",
            )],
        ),
        broken(
            "Roel",
            [Replace(
                ORDERS,
                "principal in Role::\"editor\"",
                "principal in «Roel::\"editor\"",
            )],
        ),
        broken(
            "optional",
            [Replace(
                ORDERS,
                "when { resource has tenant && principal in resource.tenant };",
                "when { principal in «resource.tenant };",
            )],
        ),
        broken(
            "",
            [Append(
                ORDERS,
                "\n@id(\"x\")\nforbid (principal, action, resource) when { «context.portal == 1 };\n",
            )],
        ),
        broken(
            "",
            [Append(
                ORDERS,
                "\n@id(\"x\")\nforbid (principal, action, resource) when { context.portal like \"a*\" && «ip(context.portal).isLoopback() };\n",
            )],
        ),
        broken(
            "",
            [Append(
                ORDERS,
                "\n@id(\"x\")\nforbid (principal, action, resource) when { «decimal(\"1\").lessThan(decimal(\"2.0\")) };\n",
            )],
        ),
        broken(
            "",
            [Append(
                ORDERS,
                "\n@id(\"x\")\nforbid (principal, action, resource) when { «[1, \"a\"].contains(1) };\n",
            )],
        ),
        // ids
        broken(
            "`viewers-read` is used twice",
            [Append(
                ORDERS,
                "\n«@id(\"viewers-read\")\nforbid (principal, action, resource is Product);\n",
            )],
        ),
        broken(
            "`viewers-read` is already used",
            [Append(
                PRODUCTS,
                "\n¦@id(\"viewers-read\")\nforbid (principal, action == Action::\"POST\", resource is Path);\n",
            )],
        ),
        // paths
        broken(
            "no request's path can be",
            [Replace(ORDERS, "Path::\"/portal/shop\"", "«Path::\"/portal/shop/\"")],
        ),
        odd(
            "no request of this portal is below",
            [
                Replace(
                    PRODUCTS,
                    "Path::\"/portal/shop/internal\"",
                    "Path::\"/portal/shopp/internal\"",
                ),
                Replace(PRODUCTS, "@id(\"internal-is-closed\")", "¦@id(\"internal-is-closed\")"),
                Replace(
                    TESTS,
                    "GET /portal/shop/internal/jobs\", expect: deny, reason: forbidden",
                    "PUT /portal/shop/internal/jobs\", expect: deny",
                ),
            ],
        ),
        // rules of lint
        rule(
            "unknown-name",
            [Replace(PRODUCTS, "Group::\"suspended\"", "«Group::\"suspend\"")],
        ),
        // a permit of a role that no caller has fails closed: a warning
        plant(
            By::Lint,
            "unknown-name",
            "the permit never applies",
            [
                Replace(ORDERS, "principal in Role::\"editor\"", "principal in «Role::\"edittor\""),
                Replace(TESTS, "expect: allow, because: [editors-write]", "expect: deny"),
            ],
        ),
        rule(
            "unknown-name",
            [Append(
                PRODUCTS,
                "\n@id(\"x\")\nforbid (principal, action, resource)\nwhen { principal in «Tenant::\"acmee\" };\n",
            )],
        ),
        rule(
            "unknown-name",
            [Append(
                SHARED,
                "\n@id(\"x\")\nforbid (principal in «Role::\"auditor\", action == Action::\"DELETE\", resource);\n",
            )],
        ),
        rule(
            "permit-all",
            [
                Append(PRODUCTS, "\n@id(\"x\")\n«permit (principal, action, resource);\n"),
                Replace(TESTS, "expect: deny, reason: not_permitted", "expect: allow"),
                Replace(TESTS, "because: [viewers-read]", "because: [viewers-read, x]"),
                Replace(TESTS, "because: [editors-write]", "because: [editors-write, x]"),
            ],
        ),
        rule(
            "any-action",
            [Append(
                PRODUCTS,
                "\n@id(\"x\")\npermit (principal in Role::\"editor\", «action, resource is Product);\n",
            )],
        ),
        rule(
            "missing-id",
            [Append(
                PRODUCTS,
                "\n«permit (principal in Role::\"editor\", action == Action::\"DELETE\", resource in Path::\"/portal/shop/old\");\n",
            )],
        ),
        rule("unknown-annotation", [Replace(ORDERS, "@advice(", "«@advise(")]),
        rule(
            "expired",
            [Replace(
                PRODUCTS,
                "@id(\"internal-is-closed\")",
                "@id(\"internal-is-closed\")\n«@expires(\"2020-01-31\")",
            )],
        ),
        rule(
            "expired",
            [Replace(
                PRODUCTS,
                "@id(\"internal-is-closed\")",
                "@id(\"internal-is-closed\")\n«@expires(\"31 January\")",
            )],
        ),
        rule(
            "covered",
            [Append(
                PRODUCTS,
                "\n@id(\"x\")\n«permit (\n    principal in Role::\"editor\",\n    action == Action::\"GET\",\n    resource in Path::\"/portal/shop/start\"\n);\n",
            )],
        ),
        rule(
            "forbid-may-fail",
            [Append(
                PRODUCTS,
                "\n@id(\"x\")\nforbid (principal, action, resource is Product)\nwhen { resource has price && resource.price «* 100 > 5000 };\n",
            )],
        ),
        rule(
            "undescribed-resource",
            [
                Replace(
                    SCHEMA,
                    "entity Product = { price?: Long };",
                    "entity Product = { price: Long };",
                ),
                Append(
                    PRODUCTS,
                    "\n@id(\"x\")\nforbid (principal, action, resource is Product)\nwhen { «resource.price > 5000 };\n",
                ),
            ],
        ),
        rule(
            "missing-tenant-check",
            [
                Remove(SHARED),
                Replace(
                    ORDERS,
                    "@id(\"editors-write\")\npermit (",
                    "@id(\"editors-write\")\n«permit (",
                ),
            ],
        ),
        rule(
            "suppression",
            [Replace(
                PRODUCTS,
                "@id(\"internal-is-closed\")",
                "¦// lint: allow(permit-al) needed\n@id(\"internal-is-closed\")",
            )],
        ),
        rule(
            "suppression",
            [Replace(
                PRODUCTS,
                "@id(\"internal-is-closed\")",
                "¦// lint: allow(permit-all)\n@id(\"internal-is-closed\")",
            )],
        ),
        rule(
            "unused-suppression",
            [Replace(
                PRODUCTS,
                "@id(\"internal-is-closed\")",
                "¦// lint: allow(permit-all) needed once\n@id(\"internal-is-closed\")",
            )],
        ),
        // emergency forbids and candidates
        broken(
            "is a permit",
            [
                Replace(FORBID_FILE, "@id(\"no-exports\")", "¦@id(\"no-exports\")"),
                Replace(FORBID_FILE, "forbid (", "permit ("),
            ],
        ),
        broken(
            "is used twice",
            [Replace(
                FORBID_FILE,
                "@id(\"no-exports\")",
                "@id(\"no-exports\")\nforbid (principal, action == Action::\"PUT\", resource);\n«@id(\"no-exports\")",
            )],
        ),
        broken(
            "Pth",
            [Replace(
                FORBID_FILE,
                "Path::\"/portal/shop/exports\"",
                "«Pth::\"/portal/shop/exports\"",
            )],
        ),
        odd(
            "the candidate set would not be evaluated",
            [Replace(
                CANDIDATE,
                "action in Action::\"read\"",
                "action in «Action::\"reed\"",
            )],
        ),
    ]);
}

#[test]
fn a_policy_that_no_request_satisfies_is_named_by_both_commands() {
    for (rule, by) in [("validation", By::Validate), ("never-applies", By::Lint)] {
        let found = |name: &'static str, text: &'static str| plant(by, rule, "impossible", [Append(name, text)]);
        for plant in [
            found(
                PRODUCTS,
                "\n«@id(\"x\")\npermit (principal is User, action == Action::\"GET\", resource)\nwhen { principal is Role };\n",
            ),
            found(
                SHARED,
                "\n«@id(\"x\")\nforbid (principal, action, resource) when { principal is Role };\n",
            ),
        ] {
            let (folder, place) = planted(&plant);
            let command = if by == By::Lint { "lint" } else { "validate" };
            let found = findings(folder.path(), &[command, "--format", "json"]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(
                (found[0]["rule"].as_str(), found[0]["file"].as_str()),
                (Some(rule), Some(&*place.0))
            );
            assert_eq!((found[0]["line"].as_u64(), found[0]["column"].as_u64()), (place.1, place.2));
            let (code, ..) = run(folder.path(), &[command, "--deny-warnings"]);
            assert_eq!(code, 3);
        }
    }
}

#[test]
fn a_mistake_in_a_schema_or_in_portal_yaml_is_found_once_at_its_place() {
    const OPENAPI: &str = "openapi: 3.0.0\npaths:\n  /portal/shop/orders/{order}:\n    get: { operationId: viewOrder }\n    put: { operationId: editOrder }\n    \
        delete: { operationId: cancelOrder }\n";
    const PRODUCTS_OPERATION: &str = "  /portal/shop/products/{product}:\n    get: { operationId: viewProduct }\n";
    check(&[
        broken(
            "",
            [Replace(
                SCHEMA,
                "entity Product = { price?: Long };",
                "entity Product = { price?: Long }\n«action",
            )],
        ),
        broken(
            "Ordr",
            [Replace(
                SCHEMA,
                "action viewOrder in [read] appliesTo { principal: [User], resource: [Order]",
                "action viewOrder in [read] appliesTo { principal: [User], resource: [«Ordr]",
            )],
        ),
        broken(
            "Fact",
            [Replace(
                SCHEMA,
                "resource: [Product], context: Facts }",
                "resource: [Product], context: «Fact }",
            )],
        ),
        broken(
            "Tenant",
            [Replace(SCHEMA, "entity Product = ", "entity «Tenant;\nentity Product = ")],
        ),
        broken("", [Replace(SCHEMA, "locked?: Bool,", "locked?: «Boolean,")]),
        broken(
            "redd",
            [Replace(
                SCHEMA,
                "action viewProduct in [read]",
                "action viewProduct in [«redd]",
            )],
        ),
        rule(
            "unused-action",
            [Append(
                SCHEMA,
                "action «archiveOrder appliesTo { principal: [User], resource: [Order], context: Facts };\n",
            )],
        ),
        broken(
            "no fact that the gate fills",
            [
                Replace(SCHEMA, "action viewProduct in", "¦action viewProduct in"),
                Replace(
                    SCHEMA,
                    "resource: [Product], context: Facts }",
                    "resource: [Product], context: { basket: String } }",
                ),
            ],
        ),
        // portal.yaml
        broken("unknown key `titel`", [Replace(PORTAL, "title: Shop", "¦titel: Shop")]),
        broken("title", [Replace(PORTAL, "title: Shop", "¦title: [Shop]")]),
        broken(
            "claims.email",
            [Replace(PORTAL, "claims: { email: mail }", "¦claims: { email: '' }")],
        ),
        broken(
            "flags.beta",
            [Replace(PORTAL, "flags: { beta: true }", "¦flags: { beta: 'true' }")],
        ),
        broken(
            "flags.betta",
            [Replace(PORTAL, "flags: { beta: true }", "¦flags: { betta: true }")],
        ),
        broken(
            "flow mapping",
            [Replace(PORTAL, "flags: { beta: true }\n", "flags: { beta: true\n¦")],
        ),
        broken(
            "the schema has no action `viewOder`",
            [Replace(
                PORTAL,
                "GET /portal/shop/orders/{order}\", action: viewOrder",
                "«GET /portal/shop/orders/{order}\", action: viewOder",
            )],
        ),
        broken(
            "the schema has no entity type `Oder`",
            [Replace(
                PORTAL,
                "PUT /portal/shop/orders/{order}\", action: editOrder, resource: { type: Order,",
                "«PUT /portal/shop/orders/{order}\", action: editOrder, resource: { type: Oder,",
            )],
        ),
        broken(
            "which `GET /portal/shop/products/{product}` does not capture",
            [Replace(
                PORTAL,
                "{ route: \"GET /portal/shop/products/{product}\", action: viewProduct, resource: { type: Product, id: \"{product}\" } }",
                "¦{ route: \"GET /portal/shop/products/{product}\", action: viewProduct, resource: { type: Product, id: \"{prodct}\" } }",
            )],
        ),
        broken(
            "matches exactly what",
            [Append(
                PORTAL,
                "¦  - { route: \"GET /portal/shop/products/{id}\", action: viewProduct, resource: { type: Product, id: \"{id}\" } }\n",
            )],
        ),
        broken(
            "is not `METHOD /path`",
            [Append(
                PORTAL,
                "¦  - { route: \"get /portal/shop/things\", action: viewProduct, resource: { type: Product, id: \"1\" } }\n",
            )],
        ),
        broken(
            "is not canonical",
            [Append(
                PORTAL,
                "¦  - { route: \"GET /portal/shop/a%2Db\", action: viewProduct, resource: { type: Product, id: \"1\" } }\n",
            )],
        ),
        broken("login", [Append(PORTAL, "¦login: { provider: corpp }\n")]),
        broken(
            "is not an exact origin",
            [Append(PORTAL, "¦cors: { origins: [\"https://ui.example.com/\"] }\n")],
        ),
        broken(
            "/portal/shop/internal",
            [Replace(PORTAL, "GET /portal/shop/assets/**", "«GET /portal/shop/**")],
        ),
        rule(
            "route-resource",
            [Replace(
                PORTAL,
                "GET /portal/shop/products/{product}\", action: viewProduct, resource: { type: Product,",
                "«GET /portal/shop/products/{product}\", action: viewProduct, resource: { type: Order,",
            )],
        ),
        rule(
            "route-outside",
            [Append(
                PORTAL,
                "  - { route: \"«GET /portal/shp/products\", action: viewProduct, resource: { type: Product, id: all } }\n",
            )],
        ),
        rule(
            "unused-claim",
            [Replace(
                PORTAL,
                "claims: { email: mail }",
                "claims: { email: mail, «phone: tel }",
            )],
        ),
        rule(
            "public-route",
            [Append(
                PORTAL,
                "  - { route: \"«GET /portal/shop/assets/{product}\", action: viewProduct, resource: { type: Product, id: \"{product}\" } }\n",
            )],
        ),
        rule(
            "unrouted-operation",
            [
                Append("openapi.yaml", OPENAPI),
                Append("openapi.yaml", PRODUCTS_OPERATION),
                Append("openapi.yaml", "    «delete: { operationId: dropProduct }\n"),
            ],
        ),
        rule(
            "undescribed-route",
            [
                Append("openapi.yaml", OPENAPI),
                Replace(
                    PORTAL,
                    "GET /portal/shop/products/{product}",
                    "«GET /portal/shop/products/{product}",
                ),
            ],
        ),
    ]);
}

#[test]
fn a_missing_schema_file_is_named_before_its_consequences() {
    let plant = broken("", [Remove(SCHEMA), Append("README.md", "§")]);
    let (folder, _) = planted(&plant);
    for command in ["validate", "lint"] {
        let found = findings(folder.path(), &[command, "--format", "json"]);
        assert_eq!(found[0]["file"], SCHEMA, "{command}");
        assert!(found[0]["message"].as_str().unwrap().starts_with("is missing"), "{command}");
        assert!(found.len() > 10, "{command}: {}", found.len());
    }
}

#[test]
fn a_mistake_in_entities_links_or_invariants_is_found_once_at_its_place() {
    check(&[
        broken(
            "Rol",
            [Replace(
                ENTITIES,
                "{ \"uid\": { \"type\": \"Role\", \"id\": \"viewer\" }",
                "{ \"uid\": { \"type\": «\"Rol\", \"id\": \"viewer\" }",
            )],
        ),
        broken(
            "cycle",
            [Replace(
                ENTITIES,
                "{ \"uid\": { \"type\": \"Role\", \"id\": \"viewer\" }, \"attrs\": {}, \"parents\": []",
                "«{ \"uid\": { \"type\": \"Role\", \"id\": \"viewer\" }, \"attrs\": {}, \"parents\": [{ \"type\": \"Role\", \"id\": \"editor\" }]",
            )],
        ),
        broken(
            "is already described in line 2",
            [Replace(
                ENTITIES,
                "{ \"uid\": { \"type\": \"Group\", \"id\": \"suspended\" }",
                "«{ \"uid\": { \"type\": \"Role\", \"id\": \"viewer\" }, \"attrs\": {}, \"parents\": [] },\n  { \"uid\": { \"type\": \"Group\", \"id\": \"suspended\" }",
            )],
        ),
        broken(
            "total",
            [
                Replace(
                    ENTITIES,
                    "  {\n    \"uid\": { \"type\": \"Order\"",
                    "  {\n    \"uid\": { \"type\": \"Order\"",
                ),
                Replace(ENTITIES, "\"total\": 100", "«\"total\": \"100\""),
            ],
        ),
        broken(
            "totl",
            [
                Replace(
                    ENTITIES,
                    "  {\n    \"uid\": { \"type\": \"Order\"",
                    "  {\n    \"uid\": { \"type\": \"Order\"",
                ),
                Replace(ENTITIES, "\"total\": 100", "«\"totl\": 100"),
            ],
        ),
        broken(
            "only a credential may say so",
            [Replace(
                ENTITIES,
                "{ \"uid\": { \"type\": \"Group\", \"id\": \"suspended\" }",
                "«{ \"uid\": { \"type\": \"User\", \"id\": \"vera\" }, \"attrs\": {}, \"parents\": [{ \"type\": \"Tenant\", \"id\": \"globex\" }] },\n  { \"uid\": { \"type\": \"Group\", \"id\": \"suspended\" }",
            )],
        ),
        broken("", [Replace(ENTITIES, "\"total\": 100\n    ", "\"total\": 100,\n    «")]),
        // links
        broken(
            "there is no template `share-oder`",
            [
                Replace(LINKS, "\"template\": \"share-order\"", "\"template\": \"share-oder\""),
                Replace(LINKS, "  {\n", "  «{\n"),
            ],
        ),
        broken(
            "is not an entity",
            [
                Replace(LINKS, "  {\n", "  «{\n"),
                Replace(LINKS, "{ \"type\": \"User\", \"id\": \"vera\" }", "\"vera\""),
            ],
        ),
        broken(
            "unknown slot `?prinicpal`",
            [
                Replace(LINKS, "  {\n", "  «{\n"),
                Replace(LINKS, "\"?principal\"", "\"?prinicpal\""),
            ],
        ),
        broken(
            "resource",
            [
                Replace(LINKS, "  {\n", "  «{\n"),
                Replace(LINKS, ", \"?resource\": { \"type\": \"Order\", \"id\": \"7\" }", ""),
            ],
        ),
        broken(
            "`viewers-read` is already used",
            [
                Replace(LINKS, "  {\n", "¦  {\n"),
                Replace(LINKS, "order-7-for-vera", "viewers-read"),
            ],
        ),
        // invariants
        broken("needs exactly one claim", [Append(INVARIANTS, "¦- name: nothing\n")]),
        broken(
            "`always-deny`",
            [Append(
                INVARIANTS,
                "- name: nothing\n  ¦always-deny: (principal, action, resource)\n",
            )],
        ),
        broken(
            "is called `no policy fails`, too",
            [Append(
                INVARIANTS,
                "¦- name: no policy fails\n  never-errors: (principal, action, resource is Order)\n",
            )],
        ),
        broken(
            "DELET",
            [Append(
                INVARIANTS,
                "- name: x\n  always-denies: (principal, action == «Action::\"DELET\", resource)\n",
            )],
        ),
        broken(
            "unexpected",
            [Append(
                INVARIANTS,
                "- name: x\n  always-denies: (principal, action == Action::\"DELETE\" «resource)\n",
            )],
        ),
        rule(
            "unknown-name",
            [Append(
                INVARIANTS,
                "- name: x\n  always-denies: «(principal in Group::\"supended\", action == Action::\"DELETE\", resource)\n",
            )],
        ),
    ]);
}

#[test]
fn a_mistake_in_tests_or_file_names_is_found_once_at_its_place() {
    check(&[
        plant(
            By::Validate,
            "validation",
            "editors change it",
            [Replace(
                TESTS,
                "  - { name: editors change it, principal: ed",
                "¦  - { name: editors change it, principal: vera",
            )],
        ),
        broken(
            "`expct`",
            [Replace(
                TESTS,
                "  - { name: editors change it, principal: ed, http: \"PUT /portal/shop/orders/7\", expect:",
                "¦  - { name: editors change it, principal: ed, http: \"PUT /portal/shop/orders/7\", expct:",
            )],
        ),
        plant(
            By::Validate,
            "validation",
            "nobody",
            [Replace(
                TESTS,
                "  - { name: editors change it, principal: ed",
                "¦  - { name: editors change it, principal: nobody",
            )],
        ),
        broken(
            "is not a test file",
            [Replace(TESTS, "    expect: allow\n", "    expect: allow\n¦   worse: [\n")],
        ),
        rule("no-tests", [Remove(TESTS), Append(PORTAL, "§")]),
        rule("empty-tests", [Append("policies/shop/tests/more.yaml", "§cases: []\n")]),
        rule(
            "duplicate-case",
            [Append(
                TESTS,
                "¦  - { name: editors change it, principal: ed, http: \"PUT /portal/shop/orders/9\", expect: allow }\n",
            )],
        ),
        // files that are not read
        broken(
            "end in `.cedar`",
            [Append("policies/shop/more.ceder", "§permit (principal, action, resource);\n")],
        ),
        broken(
            "end in `.cedar`",
            [Append(
                "policies/shop/_deny/more.ceder",
                "§forbid (principal, action, resource);\n",
            )],
        ),
        broken(
            "end in `.cedar`",
            [Append(
                "policies/_shared/more.ceder",
                "§forbid (principal, action, resource);\n",
            )],
        ),
        broken(
            "`Shop` is no portal",
            [Append("policies/Shop/main.cedar", "§permit (principal, action, resource);\n")],
        ),
        broken(
            "`my_shop` is no portal",
            [Append(
                "policies/my_shop/main.cedar",
                "§permit (principal, action, resource);\n",
            )],
        ),
        broken("portal.yaml", [Append("policies/shop/portal.yml", "§title: Shop\n")]),
        broken("tests", [Append("policies/shop/test/t.yaml", "§cases: []\n")]),
        broken("", [Append("schemas/shop.cedarscheme", "§entity X;\n")]),
        odd("is not read", [Append("policies/shop/notes.txt", "§call Ann\n")]),
        odd("is not read", [Append("policies/notes.txt", "§call Ann\n")]),
    ]);
}
