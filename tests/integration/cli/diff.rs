//! `cedargate diff` and `validate --prove`: as docs/diff.md shows them, as scripts read them, and with solvers that
//! fail.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::binary::{run, run_with};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn git(folder: &Path, arguments: &[&str]) {
    let identity = [
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@example.test",
        "-c",
        "commit.gpgsign=false",
    ];
    let output = Command::new("git")
        .args(identity)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// The repository's own tree, committed once.
fn committed() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in ["policies", "schemas"] {
        copy(&repository().join(part), &folder.path().join(part));
    }
    git(folder.path(), &["init", "--quiet"]);
    git(folder.path(), &["add", "."]);
    git(folder.path(), &["commit", "--quiet", "--message", "one"]);
    folder
}

/// Replaces a text of a file of the tree.
fn edit(folder: &TempDir, name: &str, from: &str, to: &str) {
    let path = folder.path().join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn diff(folder: &TempDir, arguments: &[&str]) -> (i32, String, String) {
    run(folder.path(), &[&["diff"], arguments].concat())
}

fn diff_json(folder: &TempDir, arguments: &[&str]) -> Value {
    let (code, out, error) = diff(folder, &[arguments, &["--format", "json"]].concat());
    assert!(code == 0 || code == 4, "{error}");
    serde_json::from_str(&out).unwrap()
}

const ORDERS: &str = "policies/customer/orders.cedar";
const OWNERS: &str = "when { resource has owner && resource.owner == principal };";
const ADMINS: &str = "when { (resource has owner && resource.owner == principal) || principal in Role::\"admin\" };";

/// Another version of the solver finds another request.
fn without_example(text: &str) -> String {
    let is_example = |line: &&str| {
        let starts = ["context  ", "entities  ", "User::", "Order::", "= help: the request"];
        !starts.iter().any(|start| line.trim_start().starts_with(start))
    };
    text.lines()
        .filter(is_example)
        .collect::<Vec<_>>()
        .join("\n")
        .trim()
        .to_owned()
}

#[test]
fn the_page_about_diffs_shows_what_the_commands_print() {
    let page = std::fs::read_to_string(repository().join("docs/diff.md")).unwrap();
    let (_, section) = page.split_once("## An edit, and what it does").unwrap();
    let blocks: Vec<&str> = section.split("```").collect();
    let line = |sign: &str| blocks[1].lines().find_map(|line| line.strip_prefix(sign)).unwrap();
    let folder = committed();
    edit(&folder, ORDERS, line("-"), line("+"));
    assert_eq!(blocks[3].trim(), "sh\ncedargate diff HEAD . --prove");
    let (code, out, error) = diff(&folder, &["HEAD", ".", "--prove"]);
    assert_eq!((code, error.as_str()), (0, ""));
    let shown = blocks[5].strip_prefix("text\n").unwrap();
    assert_eq!(without_example(&out), without_example(shown));
    let (_, section) = page.split_once("With the edit above:").unwrap();
    let blocks: Vec<&str> = section.split("```").collect();
    assert_eq!(blocks[1].trim(), "sh\ncedargate validate --prove");
    let (code, out, error) = run(folder.path(), &["validate", "--prove"]);
    assert_eq!((code, error.as_str()), (3, ""));
    let without_revision = |text: &str| {
        let words = text.split(' ').map(|word| {
            if word.len() == 17 && word.ends_with(',') {
                "…"
            } else {
                word
            }
        });
        without_example(&words.collect::<Vec<_>>().join(" "))
    };
    let shown = blocks[3].strip_prefix("text\n").unwrap();
    assert_eq!(without_revision(&out), without_revision(shown));
}

#[test]
fn shipped_invariants_are_proved_and_an_edit_that_breaks_one_is_found_at_its_line() {
    let folder = committed();
    let (code, out, error) = run(folder.path(), &["validate", "--prove"]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("proved customer: 5 invariants"), "{out}");
    edit(&folder, ORDERS, OWNERS, ADMINS);
    let (code, out, _) = run(folder.path(), &["validate", "--prove", "--format", "json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, report["findings"].as_array().unwrap().len()), (3, 1), "{report:#}");
    let finding = &report["findings"][0];
    assert_eq!(
        (&finding["rule"], &finding["line"]),
        (&"invariant".into(), &6.into()),
        "{finding:#}"
    );
    assert!(
        finding["message"]
            .as_str()
            .unwrap()
            .contains("`only owners change their orders` is broken"),
        "{finding:#}"
    );
    let broken = report["invariants"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["result"] == "broken");
    assert_eq!(broken.count(), 1);
}

#[test]
fn only_the_proof_finds_an_edit_that_no_test_asks_for() {
    let folder = committed();
    edit(&folder, ORDERS, OWNERS, &ADMINS.replace("\"admin\"", "\"auditor\""));
    let report = diff_json(&folder, &["HEAD", ".", "--fail-on", "widen"]);
    assert_eq!(
        (&report["changed"], &report["widens"]),
        (&true.into(), &false.into()),
        "{report:#}"
    );
    let (code, out, _) = diff(&folder, &["HEAD", ".", "--prove", "--fail-on", "widen"]);
    assert_eq!(code, 4, "{out}");
    let report = diff_json(&folder, &["HEAD", ".", "--prove", "--portal", "customer"]);
    let unproved = &report["portals"][0]["proof"]["unproved"];
    assert_eq!(unproved[0]["result"], "widened", "{report:#}");
    // the example is a question that the gate itself can answer
    let request = unproved[0]["request"].clone();
    let ask = |folder: &Path| {
        let mut body = request.clone();
        body["portal"] = "customer".into();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), body.to_string()).unwrap();
        run(folder, &["authorize", "--request", file.path().to_str().unwrap()]).0
    };
    assert_eq!((ask(repository()), ask(folder.path())), (2, 0), "{request:#}");
    // the other way round nothing is newly allowed
    let (code, out, _) = diff(&folder, &[".", "HEAD", "--prove", "--fail-on", "widen"]);
    assert!(
        code == 0 && out.contains("proved: NEW allows nothing that OLD denied"),
        "{out}"
    );
}

#[test]
fn flips_of_tests_come_with_the_widening_ones_first() {
    let folder = committed();
    edit(&folder, ORDERS, OWNERS, ";");
    edit(
        &folder,
        ORDERS,
        "principal in Role::\"viewer\",\n    action in Action::\"read\"",
        "principal in Role::\"admin\",\n    action in Action::\"read\"",
    );
    let report = diff_json(&folder, &["HEAD", ".", "--portal", "customer"]);
    let flips = report["portals"][0]["tests"]["flips"].as_array().unwrap();
    let directions: Vec<_> = flips.iter().map(|flip| flip["new"]["decision"].as_str().unwrap()).collect();
    assert!(directions.contains(&"allow") && directions.contains(&"deny"), "{flips:#?}");
    assert!(directions.is_sorted(), "{directions:?}");
    let exit = |event: &str| diff(&folder, &["HEAD", ".", "--fail-on", event]).0;
    assert_eq!([exit("widen"), exit("flip"), exit("change")], [4, 4, 4]);
    let (_, markdown, _) = diff(&folder, &["HEAD", ".", "--format", "markdown"]);
    assert!(
        markdown.contains("| **DENY → ALLOW** |") && markdown.contains("```diff"),
        "{markdown}"
    );
    let exit = |event: &str| diff(&folder, &["HEAD", "HEAD", "--fail-on", event]).0;
    assert_eq!([exit("widen"), exit("flip"), exit("change")], [0, 0, 0]);
}

#[test]
fn other_files_are_named_by_their_parts() {
    let folder = committed();
    edit(
        &folder,
        "policies/customer/portal.yaml",
        "title: Customer portal",
        "title: Shop",
    );
    edit(
        &folder,
        "policies/customer/portal.yaml",
        "  - \"GET /portal/customer/assets/**\"",
        "  - \"GET /portal/customer/free/**\"",
    );
    edit(
        &folder,
        "policies/customer/entities.json",
        "\"id\": \"gina\"",
        "\"id\": \"gino\"",
    );
    edit(
        &folder,
        "schemas/customer.cedarschema",
        "entity Product;",
        "entity Product { name?: String };",
    );
    std::fs::remove_file(folder.path().join("policies/customer/links.json")).unwrap();
    let report = diff_json(&folder, &["HEAD", ".", "--portal", "customer"]);
    let files = report["portals"][0]["files"].as_array().unwrap();
    let details = |name: &str| {
        let file = files
            .iter()
            .find(|file| file["file"].as_str().unwrap().ends_with(name))
            .unwrap();
        format!("{} {} {}", file["change"], file["details"], file["diff"])
    };
    assert!(
        details("portal.yaml").contains("public path `GET /portal/customer/free/**` added"),
        "{}",
        details("portal.yaml")
    );
    assert!(details("portal.yaml").contains("`title` changed"));
    assert!(
        details("entities.json").contains("`Order::\\\"8\\\"` changed"),
        "{}",
        details("entities.json")
    );
    assert!(details("customer.cedarschema").contains("+entity Product { name?: String };"));
    assert!(details("links.json").contains("removed"));
    let policies = report["portals"][0]["policies"].as_array().unwrap();
    assert!(policies.iter().any(|policy| policy["change"] == "removed"), "{policies:#?}");
}

#[test]
fn folders_bundles_and_folders_of_revisions_can_be_compared() {
    let folder = committed();
    let nested = folder.path().join("deploy/shop");
    for part in ["policies", "schemas"] {
        copy(&folder.path().join(part), &nested.join(part));
    }
    git(folder.path(), &["add", "."]);
    git(folder.path(), &["commit", "--quiet", "--message", "two"]);
    let (code, _, error) = run(
        folder.path(),
        &["bundle", "build", "--sequence", "1", "--output", "tree.tgz", "."],
    );
    assert_eq!(code, 0, "{error}");
    for (old, new) in [
        ("HEAD", "."),
        ("HEAD:deploy/shop", "."),
        ("tree.tgz", "."),
        ("deploy/shop", "HEAD~1"),
        (".", "tree.tgz"),
    ] {
        let (code, out, error) = diff(&folder, &[old, new, "--fail-on", "change"]);
        assert!(code == 0 && out.contains("no portal differs"), "{old} {new}: {out}{error}");
    }
    // in a folder of the repository, a revision means that folder
    let (code, out, error) = run(&nested, &["diff", "HEAD", ".", "--fail-on", "change"]);
    assert!(code == 0 && out.contains("no portal differs"), "{out}{error}");
}

#[test]
fn what_cannot_be_compared_is_said_at_once() {
    let folder = committed();
    let plain = tempfile::tempdir().unwrap();
    for (arguments, code, said) in [
        (
            &["nonsense", "."][..],
            64,
            "`nonsense` is no folder, no bundle and no git revision",
        ),
        (&["--", "--output=x", "."], 64, "`--output=x` is no folder"),
        (&["HEAD:schemas", "."], 64, "`HEAD` has no folder `policies` in `schemas`"),
        (&["HEAD", ".", "--portal", "shop"], 64, "neither tree has a portal `shop`"),
        (&["policies/customer/orders.cedar", "."], 64, "orders.cedar"),
    ] {
        let (found, _, error) = diff(&folder, arguments);
        assert!(found == code && error.contains(said), "{arguments:?}: {found} {error}");
    }
    let (code, _, error) = run(plain.path(), &["diff", "HEAD", "."]);
    assert!(code == 64 && error.contains("no git revision"), "{error}");
    let (code, _, error) = run_with(folder.path(), &["diff", "HEAD", "."], &[("PATH", "/nowhere")]);
    assert!(code == 64 && error.contains("needs the program `git`"), "{error}");
    std::fs::write(folder.path().join(ORDERS), "permit (").unwrap();
    let (code, _, error) = diff(&folder, &["HEAD", "."]);
    assert!(
        code == 3 && error.contains("orders.cedar:1") && error.contains("does not load"),
        "{error}"
    );
}

#[test]
fn published_schema_fits_the_shipped_invariants_and_refuses_mistakes() {
    let schema = std::fs::read_to_string(repository().join("schemas/invariants.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    for name in ["policies/_shared/invariants.yaml", "policies/customer/invariants.yaml"] {
        let text = std::fs::read_to_string(repository().join(name)).unwrap();
        assert!(
            text.starts_with("# yaml-language-server: $schema=../../schemas/invariants.schema.json"),
            "{name}"
        );
        let value: Value = serde_saphyr::from_str(&text).unwrap();
        assert!(validator.is_valid(&value), "{name}");
    }
    let scope = "(principal, action, resource)";
    for (value, is_valid) in [
        (serde_json::json!([{"name": "x", "never-errors": scope, "why": "y"}]), true),
        (serde_json::json!([{"name": "x"}]), false),
        (serde_json::json!([{"never-errors": scope}]), false),
        (
            serde_json::json!([{"name": "x", "never-errors": scope, "always-denies": scope}]),
            false,
        ),
        (serde_json::json!([{"name": "x", "never-error": scope}]), false),
        (serde_json::json!({"name": "x"}), false),
    ] {
        assert_eq!(validator.is_valid(&value), is_valid, "{value}");
    }
}

/// A program that stands in for the solver.
fn solver(folder: &TempDir, name: &str, script: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.path().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn solver_that_fails_makes_the_proof_unknown_and_never_safe() {
    let folder = committed();
    edit(&folder, ORDERS, OWNERS, ADMINS);
    let tools = tempfile::tempdir().unwrap();
    for (name, script, said) in [
        (
            "gives-up",
            "while read line; do case $line in *check-sat*) echo unknown;; esac; done",
            "the solver gave up",
        ),
        ("hangs", "exec sleep 600", "took too long"),
        (
            "rubbish",
            "while read line; do case $line in *check-sat*) echo moo;; esac; done",
            "answered something else: \"moo\"",
        ),
        ("flood", "exec yes", "answered something else"),
        ("endless-line", "exec cat /dev/zero", "answered something else"),
        ("ends", "exit 3", "unknown:"),
        (
            "lies",
            "while read line; do case $line in *check-sat*) echo sat;; *get-model*) echo '('; echo ')';; esac; done",
            "unknown:",
        ),
        (
            "error",
            "while read line; do case $line in *check-sat*) echo '(error \"no logic\")';; esac; done",
            "no logic",
        ),
    ] {
        let cvc5 = solver(&tools, name, script);
        let started = Instant::now();
        let arguments = ["diff", "HEAD", ".", "--prove", "--prove-timeout", "3s", "--fail-on", "widen"];
        let (code, out, error) = run_with(folder.path(), &arguments, &[("CVC5", &cvc5)]);
        assert!(
            code == 4 && out.contains("unknown:") && out.contains(said),
            "{name}: {code} {out}{error}"
        );
        assert!(!out.contains("proved:"), "{name}: {out}");
        assert!(started.elapsed() < Duration::from_secs(120), "{name}");
        let (code, out, _) = run_with(
            folder.path(),
            &["validate", "--prove", "--prove-timeout", "3s"],
            &[("CVC5", &cvc5)],
        );
        assert!(code == 3 && out.contains("is unknown"), "{name}: {out}");
    }
    let (code, out, error) = run_with(folder.path(), &["diff", "HEAD", ".", "--prove"], &[("CVC5", "/nowhere/cvc5")]);
    assert!(
        code == 1 && out.is_empty() && error.contains("apt-get install cvc5"),
        "{out}{error}"
    );
    let (code, _, error) = run_with(folder.path(), &["validate", "--prove"], &[("CVC5", "/nowhere/cvc5")]);
    assert!(code == 1 && error.contains("`/nowhere/cvc5`, which $CVC5 names"), "{error}");
    // no changed policy, no question
    let (code, out, _) = run_with(
        folder.path(),
        &["diff", "HEAD", "HEAD", "--prove"],
        &[("CVC5", "/nowhere/cvc5")],
    );
    assert!(code == 0 && out.contains("no portal differs"), "{out}");
}

/// Four forbids that an edit narrows beside thousands of permits, none of which becomes effective: each is proved with
/// few questions. Without filters every eight permits cost one.
#[test]
fn narrowed_forbid_is_proved_without_a_question_for_each_permit() {
    const QUESTIONS_MAX: u64 = 150;
    let permits = |scope: &dyn Fn(usize) -> String| -> String {
        let permit = |n: usize| format!("@id(\"p{n}\") permit (principal in Role::\"r{n}\", {};\n", scope(n));
        (0..3_000).map(permit).collect()
    };
    let of_tenants = |n: usize| {
        let tenant = n % 20;
        format!(
            "action == Action::\"viewOrder\", resource is Order) when {{ resource has tenant && resource.tenant == \
             Tenant::\"t{tenant}\" && context.portal == \"customer\" }}"
        )
    };
    let of_paths = |n: usize| format!("action == Action::\"GET\", resource in Path::\"/portal/customer/a{n}\")");
    let orders = "forbid (principal, action == Action::\"viewOrder\", resource is Order)";
    let paths = "forbid (principal, action, resource in Path::\"/portal/customer/closed";
    for (permits, old, new) in [
        (
            permits(&of_tenants),
            format!("{orders} when {{ resource has tenant && resource.tenant == Tenant::\"closed\" }};"),
            format!(
                "{orders} when {{ resource has tenant && resource.tenant == Tenant::\"closed\" && principal in Role::\"r\" }};"
            ),
        ),
        (
            permits(&of_tenants),
            format!("{orders};"),
            format!("{orders} unless {{ resource has tenant && resource.tenant == Tenant::\"other\" }};"),
        ),
        (permits(&of_paths), format!("{paths}\");"), format!("{paths}/more\");")),
        (permits(&of_paths), format!("{paths}\");"), String::new()),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for (side, forbid) in [("old", &old), ("new", &new)] {
            let portal = folder.path().join(side).join("policies/customer");
            std::fs::create_dir_all(&portal).unwrap();
            std::fs::write(portal.join("a.cedar"), format!("{permits}{forbid}\n")).unwrap();
            copy(&repository().join("schemas"), &folder.path().join(side).join("schemas"));
        }
        let (code, out, error) = run(folder.path(), &["diff", "old", "new", "--prove", "--format", "json"]);
        assert_eq!(code, 0, "{error}");
        let report: Value = serde_json::from_str(&out).unwrap();
        let proof = &report["portals"][0]["proof"];
        assert_eq!(proof["proved"], true, "{old} -> {new}: {proof:#}");
        assert!(
            proof["questions"].as_u64().unwrap() < QUESTIONS_MAX,
            "{old} -> {new}: {proof:#}"
        );
    }
}

#[test]
fn ten_thousand_policies_with_one_edit_take_seconds() {
    let folder = tempfile::tempdir().unwrap();
    copy(&repository().join("schemas"), &folder.path().join("schemas"));
    let policies: String = (0..10_000)
        .map(|n| {
            let (tenant, effect) = (n % 100, if n % 7 == 0 { "forbid" } else { "permit" });
            format!(
                "@id(\"p{n}\")\n{effect} (principal in Role::\"r{n}\", action == Action::\"viewOrder\", resource is Order)\n\
                 when {{ resource has tenant && resource.tenant == Tenant::\"t{tenant}\" && context.portal == \"customer\" }};\n"
            )
        })
        .collect();
    for (side, text) in [
        ("old", policies.clone()),
        (
            "wider",
            policies.replace("Tenant::\"t77\" && context.portal", "Tenant::\"t77\" || context.portal"),
        ),
        (
            "narrower",
            policies.replacen(
                "resource.tenant == Tenant::\"t78\"",
                "resource.tenant == Tenant::\"t78\" && principal in Tenant::\"t78\"",
                1,
            ),
        ),
        (
            "freed",
            policies.replacen(
                "forbid (principal in Role::\"r700\"",
                "forbid (principal in Role::\"other\"",
                1,
            ),
        ),
    ] {
        let portal = folder.path().join(side).join("policies/customer");
        std::fs::create_dir_all(&portal).unwrap();
        std::fs::write(portal.join("a.cedar"), text).unwrap();
        copy(&repository().join("schemas"), &folder.path().join(side).join("schemas"));
    }
    let prove = |new: &str| {
        let started = Instant::now();
        let (code, out, error) = run(folder.path(), &["diff", "old", new, "--prove", "--format", "json"]);
        assert_eq!(code, 0, "{error}");
        println!("{new}: {:?}", started.elapsed());
        let report: Value = serde_json::from_str(&out).unwrap();
        report["portals"][0]["proof"].clone()
    };
    assert_eq!(prove("narrower")["proved"], true);
    let wider = prove("wider");
    assert_eq!(wider["unproved"][0]["result"], "widened", "{wider:#}");
    let freed = prove("freed");
    assert_eq!(freed["unproved"][0]["result"], "widened", "{freed:#}");
}
