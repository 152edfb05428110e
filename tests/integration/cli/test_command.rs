//! `cedargate test`: coverage, matching, watching.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::binary::{GateFolder, GateProcess, cedargate};
use crate::support::{OPEN_SCHEMA, PAGE, claims};

fn case(name: &str, http: &str, expect: &str) -> String {
    format!("  - {{ name: {name}, principal: a, http: \"{http}\", expect: {expect} }}\n")
}

fn cases(cases: &[String]) -> String {
    format!("principals:\n  a: {{ id: a, roles: [] }}\ncases:\n{}", cases.concat())
}

#[test]
fn coverage_names_what_no_case_reaches_and_min_coverage_exits_4() {
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    gate_folder.put(
        "policies/p/main.cedar",
        "@id(\"open\") permit (principal, action == Action::\"GET\", resource) when { resource in Path::\"/portal/p\" };\n\
         @id(\"never\") permit (principal, action == Action::\"PUT\", resource);\n",
    );
    gate_folder.put(
        "policies/p/tests/t.yaml",
        &cases(&[case("c", &format!("GET {PAGE}"), "allow")]),
    );
    let (code, out, error) = gate_folder.run(&["test", "--coverage"]);
    assert_eq!(code, 0, "{out}{error}");
    for line in [
        "p: 50.0 %",
        "  never false: resource in Path::\"/portal/p\"  policies/p/main.cedar:1 (open)",
        "  not covered: never  policies/p/main.cedar:2",
        "all: 50.0 %",
    ] {
        assert!(out.lines().any(|shown| shown == line), "{line}: {out}");
    }
    for (wanted, expected) in [("50", 0), ("50.1", 4), ("0", 0), ("101", 64), ("half", 64)] {
        let (code, out, error) = gate_folder.run(&["test", "--min-coverage", wanted]);
        assert_eq!(code, expected, "{wanted}: {out}{error}");
        assert!(expected != 4 || error.contains("reach 50.0 %"), "{error}");
    }
    let (_, out, _) = gate_folder.run(&["test", "--coverage", "--format", "json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["coverage"]["percent"], 50.0);
    assert_eq!(report["coverage"]["groups"][0]["policies"][1]["decides"], false);
}

#[test]
fn an_emergency_forbid_fails_no_test() {
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    gate_folder.put(
        "policies/p/tests/t.yaml",
        &cases(&[case("pages", "GET /portal/p/page", "allow")]),
    );
    gate_folder.put("policies/p/_deny/all.cedar", "forbid (principal, action, resource);\n");
    let (code, out, error) = gate_folder.run(&["test", "--coverage"]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("1 passed, 0 failed") && !out.contains("_deny"), "{out}");
    // the loader of the gate agrees, and the forbid is in force
    assert_eq!(gate_folder.run(&["validate"]).0, 0);
    let asked = gate_folder.run(&["authorize", "--url", "/portal/p/page", "--claims", "{\"sub\": \"a\"}"]);
    assert_eq!(asked.0, 2, "{asked:?}");
}

#[test]
fn a_case_whose_request_goes_to_another_portal_fails() {
    let portals = "portals:\n  p: { match: { hosts: ['a.test'], path_prefix: /portal/p }, issuers: [test] }\n  \
                   q: { match: { hosts: ['a.test'], path_prefix: /portal/p/q }, issuers: [test] }\n";
    let gate_folder = GateFolder::new("http://127.0.0.1:1", portals);
    gate_folder.put("schemas/q.cedarschema", OPEN_SCHEMA);
    gate_folder.put("policies/q/main.cedar", "permit (principal, action, resource);");
    gate_folder.put(
        "policies/p/tests/t.yaml",
        &cases(&[
            case("own", "GET /portal/p/page", "allow"),
            case("other", "GET /portal/p/q/page", "allow"),
            case("host", "GET /portal/p/page\", host: \"b.test", "allow"),
        ]),
    );
    let (code, out, error) = gate_folder.run(&["test", "--config", "cedargate.yaml"]);
    assert_eq!((code, error.as_str()), (4, ""), "{out}");
    assert!(out.contains("1 passed, 2 failed"), "{out}");
    for message in [
        "`/portal/p/q/page` on host `a.test` goes to portal `q`",
        "no portal gets `/portal/p/page` on host `b.test`",
    ] {
        assert!(out.contains(message), "{message}: {out}");
    }
    // without a configuration each folder is a portal, and the report says so
    std::fs::remove_file(gate_folder.folder.path().join("cedargate.yaml")).unwrap();
    let (code, out, error) = gate_folder.run(&["test"]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(
        error.contains("note: without a configuration each folder of `policies/` is a portal"),
        "{error}"
    );
}

#[test]
fn watching_runs_the_tests_again_after_an_edit_by_rename() {
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    let file = |expect: &str| cases(&[case("c", &format!("GET {PAGE}"), expect)]);
    gate_folder.put("policies/p/tests/t.yaml", &file("allow"));
    let mut child = cedargate(&["test", "--watch"])
        .current_dir(gate_folder.folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut process = GateProcess(child);
    let mut counts = || {
        lines
            .by_ref()
            .map(Result::unwrap)
            .find(|line| line.contains("passed"))
            .unwrap()
    };
    assert_eq!(counts(), "1 passed, 0 failed, 0 skipped");
    let folder = gate_folder.folder.path();
    let replace = |text: &str| {
        std::fs::write(folder.join("policies/p/tests/.t.yaml.new"), text).unwrap();
        std::fs::rename(
            folder.join("policies/p/tests/.t.yaml.new"),
            folder.join("policies/p/tests/t.yaml"),
        )
        .unwrap();
    };
    replace(&file("deny"));
    assert_eq!(counts(), "0 passed, 1 failed, 0 skipped");
    // a tree that cannot be opened ends nothing
    std::fs::rename(folder.join("policies"), folder.join("away")).unwrap();
    std::fs::rename(folder.join("away"), folder.join("policies")).unwrap();
    replace(&file("allow"));
    assert_eq!(counts(), "1 passed, 0 failed, 0 skipped");
    process.signal("-INT");
    assert_eq!(process.exit_code(), -1, "ended by the signal");
}

#[test]
fn authorize_says_that_the_gate_would_refuse_an_expired_token() {
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    let mut expired = claims("alice", &[]);
    expired["exp"] = 1_000_000_000.into();
    let token = gate_folder.issuer.sign(&expired);
    let arguments = ["authorize", "--config", "cedargate.yaml", "--token", &token, "--url", PAGE];
    let (code, out, error) = gate_folder.run(&arguments);
    assert_eq!(code, 0, "{out}{error}");
    assert!(error.contains("note: the gate would refuse this token: "), "{error}");
    assert!(error.contains("expired"), "{error}");
}

/// Policies and cases of the scale test. `make bench-commands` measures the same; here the bound only keeps a command
/// from growing with the square: a debug build on a quiet machine takes seven seconds for all three commands.
const MANY: usize = 10_000;
const MANY_MAX: Duration = Duration::from_secs(300);
/// For the commands that compute more for each policy.
const SOME: usize = 1000;

fn scaled(count: usize) -> GateFolder {
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    let policies: String = (0..count)
        .map(|n| {
            let effect = if n % 4 == 3 { "forbid" } else { "permit" };
            format!(
                "@id(\"p{n}\") {effect} (principal in Role::\"r{n}\", action == Action::\"GET\", resource in Path::\"/portal/p/{n}\")\n\
                 when {{ principal has email && principal.email != \"{n}\" }};\n"
            )
        })
        .collect();
    let all: String = (0..count)
        .map(|n| {
            let expect = if n % 4 == 3 { "deny" } else { "allow" };
            format!(
                "  - {{ name: c{n}, principal: {{ id: a, roles: [r{n}], attrs: {{ email: a }} }}, http: \"GET /portal/p/{n}\", expect: {expect} }}\n"
            )
        })
        .collect();
    gate_folder.put("policies/p/main.cedar", &policies);
    gate_folder.put("policies/p/tests/t.yaml", &format!("cases:\n{all}"));
    gate_folder
}

#[test]
fn ten_thousand_policies_and_cases_are_checked_in_time() {
    let started = Instant::now();
    for (count, commands) in [
        (MANY, &[&["validate"][..], &["lint"], &["test"]][..]),
        (SOME, &[&["test", "--coverage"], &["matrix", "--format", "json"]]),
    ] {
        let gate_folder = scaled(count);
        for command in commands {
            let (code, out, error) = gate_folder.run(command);
            assert_eq!(code, 0, "{command:?}: {} {error}", out.chars().take(2000).collect::<String>());
        }
    }
    assert!(started.elapsed() < MANY_MAX, "{:?}", started.elapsed());
}
