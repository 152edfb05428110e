//! `.ci/release-packages`: the version that a change of a portal's contract or of a package needs.

use std::path::Path;
use std::process::Command;

use crate::support::binary::run;

/// A repository with a scaffold, a contract and two packages, as its first commit.
struct Repository(tempfile::TempDir);

impl Repository {
    fn new() -> Self {
        let repository = Self(tempfile::tempdir().unwrap());
        let (code, _, error) = run(repository.0.path(), &["init"]);
        assert_eq!(code, 0, "{error}");
        repository.write("packages/contracts.json", "{\n  \"customer\": \"1.2.3\"\n}\n");
        repository.write(
            "packages/rbac/package.json",
            "{\n  \"name\": \"rbac\",\n  \"version\": \"0.3.1\"\n}\n",
        );
        repository.write("packages/rbac/src/index.ts", "export const one = 1;\n");
        repository.write("packages/python/pyproject.toml", "[project]\nversion = \"0.3.1\"\n");
        repository.write("packages/examples/package.json", "{\"private\": true}\n");
        for arguments in [
            &["init", "--quiet"][..],
            &["add", "--all"],
            &["commit", "--quiet", "--message", "one"],
            &["tag", "v1"],
        ] {
            let done = Command::new("git")
                .args(["-c", "user.name=test", "-c", "user.email=test@example.com"])
                .args(arguments)
                .current_dir(repository.0.path())
                .output()
                .unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        repository
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn replace(&self, name: &str, old: &str, new: &str) {
        let text = self.read(name);
        assert!(text.contains(old), "{text}");
        self.write(name, &text.replace(old, new));
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.path().join(name)).unwrap()
    }

    /// The exit code and what the script said.
    fn versions(&self, arguments: &[&str]) -> (i32, String) {
        let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/release-packages"))
            .args(arguments)
            .env("ROOT", self.0.path())
            .env("CEDARGATE", env!("CARGO_BIN_EXE_cedargate"))
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
    }
}

#[test]
fn a_change_needs_a_version_that_says_whether_it_breaks() {
    let repository = Repository::new();
    let (code, said) = repository.versions(&["v1"]);
    assert!(
        code == 0 && said.contains("customer     1.2.3 -> 1.2.3  unchanged  ok"),
        "{said}"
    );
    // compatible: a minor version
    let schema = "schemas/customer.cedarschema";
    repository.replace(schema, "owner?: User,", "owner?: User,\n    note?: String,");
    let (code, said) = repository.versions(&["v1"]);
    assert!(code == 4 && said.contains("minor  TOO SMALL, needs 1.3.0"), "{said}");
    repository.write("packages/contracts.json", "{\"customer\": \"1.2.4\"}");
    assert_eq!(repository.versions(&["v1"]).0, 4, "a patch is too small");
    let (code, said) = repository.versions(&["--write", "v1"]);
    assert!(code == 0 && said.contains("raised to 1.3.0"), "{said}");
    assert!(repository.read("packages/contracts.json").contains("\"customer\": \"1.3.0\""));
    assert_eq!(repository.versions(&["v1"]).0, 0);
    // breaking: a major version, with the place
    repository.replace(schema, "owner?: User,", "owner: User,");
    let (code, said) = repository.versions(&["v1"]);
    assert!(
        code == 4 && said.contains("needs 2.0.0") && said.contains("Item.owner"),
        "{said}"
    );
    repository.write("packages/contracts.json", "{\"customer\": \"2.0.0\"}");
    assert_eq!(repository.versions(&["v1"]).0, 0);
}

#[test]
fn a_flag_belongs_to_the_contract() {
    let repository = Repository::new();
    let portal = "policies/customer/portal.yaml";
    let text = repository.read(portal);
    repository.write(portal, &format!("{text}\nflags: {{ beta: true }}\n"));
    let (code, said) = repository.versions(&["v1"]);
    assert!(code == 4 && said.contains("needs 1.3.0"), "{said}");
    repository.write("packages/contracts.json", "{\"customer\": \"1.3.0\"}");
    for arguments in [&["add", "--all"][..], &["commit", "--quiet", "--message", "two"]] {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=test", "-c", "user.email=test@example.com"]);
        assert!(
            git.args(arguments)
                .current_dir(repository.0.path())
                .status()
                .unwrap()
                .success()
        );
    }
    assert_eq!(repository.versions(&["v1", "HEAD"]).0, 0, "two revisions");
    repository.write(portal, &format!("{text}\nflags: {{ beta: dark }}\n"));
    let (code, said) = repository.versions(&["HEAD"]);
    assert!(
        code == 4 && said.contains("flag beta: boolean became string") && said.contains("needs 2.0.0"),
        "{said}"
    );
    repository.write(portal, &text);
    let (code, said) = repository.versions(&["HEAD"]);
    assert!(
        code == 4 && said.contains("flag beta: removed") && said.contains("needs 2.0.0"),
        "{said}"
    );
}

#[test]
fn a_route_belongs_to_the_contract() {
    let repository = Repository::new();
    let portal = "policies/customer/portal.yaml";
    let text = repository.read(portal);
    let route =
        "  - { route: \"GET /portal/customer/items/{item}\", action: viewItem, resource: { type: Item, id: \"{item}\" } }\n";
    assert!(text.contains(route), "{text}");
    for (changed, says) in [
        // another spelling, a comment and another order say the same
        (
            text.replace(
                route,
                "  # one item\n  - route: 'GET /portal/customer/items/{item}'\n    resource: { id: '{item}', type: Item }\n    action: viewItem\n",
            ),
            "1.2.3 -> 1.2.3  unchanged  ok",
        ),
        (
            text.replace(route, &format!("{route}{}", route.replace("/items/", "/things/"))),
            "minor  TOO SMALL, needs 1.3.0",
        ),
        (
            text.replace(route, &route.replace("viewItem", "editItem")),
            "route GET /portal/customer/items/{item}: it means something else",
        ),
        (text.replace(route, ""), "route GET /portal/customer/items/{item}: removed"),
    ] {
        repository.write(portal, &changed);
        let (code, said) = repository.versions(&["v1"]);
        assert!(said.contains(says), "{changed}\n{said}");
        assert_eq!(code, if says.ends_with("ok") { 0 } else { 4 }, "{said}");
        assert_eq!(said.contains("needs 2.0.0"), says.starts_with("route"), "{said}");
    }
}

#[test]
fn a_changed_package_needs_a_version_and_a_test_of_it_needs_none() {
    let repository = Repository::new();
    repository.write("packages/rbac/src/index.test.ts", "test");
    assert_eq!(repository.versions(&["v1"]).0, 0);
    repository.write("packages/rbac/src/index.ts", "export const one = 2;\n");
    repository.write("packages/python/src/cedargate/contract.py", "# types");
    repository.replace("schemas/customer.cedarschema", "owner?: User,", "owner: User,");
    repository.write("packages/contracts.json", "{\"customer\": \"2.0.0\"}");
    let (code, said) = repository.versions(&["v1"]);
    assert_eq!(code, 4, "{said}");
    assert!(
        said.contains("rbac         0.3.1 -> 0.3.1  patch  TOO SMALL, needs 0.3.2"),
        "{said}"
    );
    // it carries types that break; before 1.0 a minor version may break
    assert!(
        said.contains("python       0.3.1 -> 0.3.1  major  TOO SMALL, needs 0.4.0"),
        "{said}"
    );
    assert!(!said.contains("examples"), "{said}");
    assert_eq!(repository.versions(&["--write", "v1"]).0, 0);
    assert!(
        repository
            .read("packages/rbac/package.json")
            .contains("\"version\": \"0.3.2\"")
    );
    assert!(
        repository
            .read("packages/python/pyproject.toml")
            .contains("version = \"0.4.0\"")
    );
    assert_eq!(repository.versions(&["v1"]).0, 0);
}

#[test]
fn wrong_calls_are_usage_errors() {
    let repository = Repository::new();
    for arguments in [&[][..], &["v1", "HEAD", "HEAD"], &["--nonsense"], &["--write", "v1", "HEAD"]] {
        assert_eq!(repository.versions(arguments).0, 64, "{arguments:?}");
    }
    assert_ne!(repository.versions(&["no-such-revision"]).0, 0);
}
