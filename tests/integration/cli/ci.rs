//! The files of `packaging/ci` and the hooks: what they run works in a real repository.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::binary::run;
use crate::support::tools::tool;

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A repository with the scaffold as its first commit.
struct Repository {
    folder: tempfile::TempDir,
}

impl Repository {
    fn new() -> Self {
        let repository = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let (code, _, error) = run(repository.folder.path(), &["init"]);
        assert_eq!(code, 0, "{error}");
        repository.commit();
        repository
    }

    fn commit(&self) {
        self.git(&["init", "--quiet"]);
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", "one"]);
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=test", "-c", "user.email=test@example.com"]);
        said(command.args(arguments).current_dir(self.folder.path()))
    }

    fn replace(&self, name: &str, old: &str, new: &str) {
        let path = self.folder.path().join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(old), "{text}");
        std::fs::write(path, text.replace(old, new)).unwrap();
    }

    fn checks(&self, variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(root("packaging/ci/policy-checks"));
        command
            .current_dir(self.folder.path())
            .env("CEDARGATE", env!("CARGO_BIN_EXE_cedargate"));
        command.envs(variables.iter().copied()).output().unwrap()
    }

    fn report(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join("policy-checks").join(name)).unwrap()
    }
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn the_policy_checks_report_what_a_pull_request_allows() {
    let repository = Repository::new();
    let unchanged = repository.checks(&[("BASE", "HEAD"), ("PROVE", "yes"), ("COVERAGE", "10")]);
    assert_eq!(unchanged.status.code(), Some(0), "{unchanged:?}");
    assert!(repository.report("comment.md").contains("No portal differs."));
    // an edit that no test sees
    repository.replace(
        "policies/customer/pages.cedar",
        "action == Action::\"editItem\"",
        "action in [Action::\"editItem\", Action::\"PATCH\"]",
    );
    repository.replace(
        "policies/customer/pages.cedar",
        "    resource is Item\n);\n\n@id(\"editors",
        "    resource is Item\n);\n@id(\"editors",
    );
    repository.replace(
        "policies/customer/pages.cedar",
        "    resource is Item\n);\n",
        "    resource\n);\n",
    );
    let tested = repository.checks(&[("BASE", "HEAD")]);
    assert_eq!(tested.status.code(), Some(0), "the tests see nothing: {tested:?}");
    let proved = repository.checks(&[("BASE", "HEAD"), ("PROVE", "yes")]);
    assert_eq!(proved.status.code(), Some(4), "{proved:?}");
    let comment = repository.report("comment.md");
    for expected in [
        "| validate | passed |",
        "| test | passed |",
        "| diff HEAD | **failed** (exit code 4) |",
        "PATCH",
    ] {
        assert!(comment.contains(expected), "{expected}: {comment}");
    }
    assert!(repository.report("tests.xml").contains("<testsuite"));
    let sarif: Value = serde_json::from_str(&repository.report("lint.sarif")).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    let meant = repository.checks(&[("BASE", "HEAD"), ("PROVE", "yes"), ("FAIL_ON", "nothing")]);
    assert_eq!(meant.status.code(), Some(0), "{meant:?}");
}

#[test]
fn every_policy_check_runs_although_the_first_fails() {
    let repository = Repository::new();
    repository.replace(
        "policies/customer/tests/pages.yaml",
        "expect: allow, because: [viewers-read-pages]",
        "expect: deny",
    );
    let checked = repository.checks(&[("BASE", "no-such-revision")]);
    assert_eq!(checked.status.code(), Some(3), "{checked:?}");
    let comment = repository.report("comment.md");
    for expected in [
        "| validate | **failed** (exit code 3) |",
        "| lint | passed |",
        "| test | **failed** (exit code 4) |",
        "| diff no-such-revision | **failed** (exit code 64) |",
    ] {
        assert!(comment.contains(expected), "{expected}: {comment}");
    }
    let out = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(out.contains("FAILED viewers read pages"), "{out}");
}

#[test]
fn the_hooks_run_in_pre_commit() {
    let hooks = Repository {
        folder: tempfile::tempdir().unwrap(),
    };
    std::fs::copy(
        root(".pre-commit-hooks.yaml"),
        hooks.folder.path().join(".pre-commit-hooks.yaml"),
    )
    .unwrap();
    hooks.commit();
    let revision = hooks.git(&["rev-parse", "HEAD"]);
    let repository = Repository::new();
    let config = format!(
        "repos:\n  - repo: {}\n    rev: {}\n    hooks: [{{ id: cedargate-fmt }}, {{ id: cedargate-validate }}, {{ id: cedargate-lint }}, \
         {{ id: cedargate-test }}]\n",
        hooks.folder.path().display(),
        revision.trim()
    );
    std::fs::write(repository.folder.path().join(".pre-commit-config.yaml"), config).unwrap();
    repository.git(&["add", "--all"]);
    let program = Path::new(env!("CARGO_BIN_EXE_cedargate")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let all = |repository: &Repository| {
        Command::new(tool(&["pre-commit"]))
            .args(["run", "--all-files"])
            .current_dir(repository.folder.path())
            .env("PATH", &path)
            .env("PRE_COMMIT_HOME", hooks.folder.path().join("home"))
            .output()
            .unwrap()
    };
    let passed = all(&repository);
    let text = String::from_utf8_lossy(&passed.stdout).into_owned();
    assert_eq!(
        (passed.status.code(), text.matches("Passed").count()),
        (Some(0), 4),
        "{passed:?}"
    );
    repository.replace("policies/customer/pages.cedar", "Role::\"viewer\"", "Role::\"viewr\"");
    let failed = all(&repository);
    let text = String::from_utf8_lossy(&failed.stdout).into_owned();
    assert!(text.contains("cedargate test") && text.contains("Failed"), "{failed:?}");
}

/// Every `run` and `script` of the file.
fn scripts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("run", Value::String(script)) => found.push(script.clone()),
                    ("before_script" | "script" | "after_script", Value::Array(lines)) => {
                        let lines: Vec<&str> = lines.iter().map(|line| line.as_str().expect("a line is a text")).collect();
                        found.push(lines.join("\n"));
                    }
                    (_, value) => scripts(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| scripts(item, found)),
        _ => {}
    }
}

#[test]
fn the_scripts_of_the_action_and_of_the_template_parse() {
    for (name, count) in [("packaging/ci/github/action.yml", 3), ("packaging/ci/gitlab.yml", 3)] {
        let text = std::fs::read_to_string(root(name)).unwrap();
        let file: Value = serde_saphyr::from_str(&text).unwrap();
        let mut found = Vec::new();
        scripts(&file, &mut found);
        assert_eq!(found.len(), count, "{name}");
        for script in &found {
            said(Command::new("bash").args(["-n", "-c", script]));
            assert!(
                !script.contains("${{"),
                "{name}: an expression in a script can be code of somebody else: {script}"
            );
        }
        // an input that no step reads has no effect
        for input in file["inputs"].as_object().into_iter().flatten().map(|(input, _)| input) {
            assert!(
                text.contains(&format!("${{{{ inputs.{input} }}}}")) || text.contains(&format!("inputs.{input} ==")),
                "{input}"
            );
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    for name in ["packaging/ci/github/action.yml", "packaging/ci/gitlab.yml"] {
        assert!(
            std::fs::read_to_string(root(name))
                .unwrap()
                .contains(&format!("\"{version}\"")),
            "{name} installs this version"
        );
    }
}
