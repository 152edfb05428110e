//! The files of a release, made by `.ci/package` around this build's program: they unpack, run, and say what is inside.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn package(out: &Path, environment: &[(&str, &str)]) -> (bool, String) {
    let output = Command::new(repository().join(".ci/package"))
        .arg(env!("CARGO_BIN_EXE_cedargate"))
        .arg(out)
        .env("FAST", "1")
        .env("SOURCE_DATE_EPOCH", "1800000000")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn run(program: &str, arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The one file with this end.
fn file(folder: &Path, end: &str) -> PathBuf {
    let files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let found = files.iter().find(|path| path.to_string_lossy().ends_with(end));
    found.unwrap_or_else(|| panic!("no {end} in {files:?}")).clone()
}

/// One test, because packing is the slow part.
#[test]
fn the_files_of_a_release_unpack_and_run_and_name_their_contents() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("dist");
    let (done, error) = package(&out, &[]);
    assert!(done, "{error}");
    let sums = file(&out, &format!("SHA256SUMS-{}", std::env::consts::ARCH));
    assert_eq!(std::fs::read_to_string(&sums).unwrap().lines().count(), 3);
    run("sha256sum", &["--check", "--strict", sums.to_str().unwrap()], &out);
    the_tar_runs(&out, folder.path());
    the_debian_package_runs(&out, folder.path());
    the_bill_of_materials_is_what_is_linked(&out);
    let again = folder.path().join("again");
    assert!(package(&again, &[]).0);
    let repeated = file(&again, &format!("SHA256SUMS-{}", std::env::consts::ARCH));
    assert_eq!(
        std::fs::read_to_string(sums).unwrap(),
        std::fs::read_to_string(repeated).unwrap(),
        "the same input gives the same bytes"
    );
}

fn the_tar_runs(out: &Path, folder: &Path) {
    run("tar", &["-xzf", file(out, ".tar.gz").to_str().unwrap()], folder);
    let tree = folder.join(format!("cedargate-{VERSION}-{}-linux-gnu", std::env::consts::ARCH));
    let program = tree.join("cedargate");
    assert_eq!(
        run(program.to_str().unwrap(), &["--version"], folder).trim(),
        format!("cedargate {VERSION}")
    );
    run(program.to_str().unwrap(), &["validate", "example"], &tree);
    for name in [
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "THIRD-PARTY-LICENSES.txt",
        "cedargate.service",
    ] {
        assert!(tree.join(name).is_file(), "{name}");
    }
    let licences = std::fs::read_to_string(tree.join("THIRD-PARTY-LICENSES.txt")).unwrap();
    for name in ["rustls ", "cedar-policy ", "serde ", "aws-lc-sys "] {
        assert!(licences.contains(&format!("\n{name}")), "{name}");
    }
}

fn the_debian_package_runs(out: &Path, folder: &Path) {
    let deb = file(out, ".deb");
    let deb = deb.to_str().unwrap();
    let field = |name: &str| run("dpkg-deb", &["--field", deb, name], folder).trim().to_owned();
    assert_eq!((field("Package").as_str(), field("Version").as_str()), ("cedargate", VERSION));
    assert!(field("Depends").starts_with("libc6 (>= 2."), "{}", field("Depends"));
    let root = folder.join("root");
    run("dpkg-deb", &["--extract", deb, root.to_str().unwrap()], folder);
    let program = root.join("usr/bin/cedargate");
    let example = root.join("usr/share/cedargate/example");
    run(program.to_str().unwrap(), &["validate", example.to_str().unwrap()], folder);
    assert!(root.join("etc/cedargate").is_dir());
    let service = std::fs::read_to_string(root.join("usr/lib/systemd/system/cedargate.service")).unwrap();
    let start = service.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    assert_eq!(start, "/usr/bin/cedargate serve --config /etc/cedargate/cedargate.yaml");
    let scripts = folder.join("scripts");
    run("dpkg-deb", &["--control", deb, scripts.to_str().unwrap()], folder);
    for script in ["postinst", "prerm", "postrm"] {
        run("sh", &["-n", script], &scripts);
    }
}

fn the_bill_of_materials_is_what_is_linked(out: &Path) {
    let bom: Value = serde_json::from_slice(&std::fs::read(file(out, ".cdx.json")).unwrap()).unwrap();
    assert_eq!(
        (bom["bomFormat"].as_str(), bom["specVersion"].as_str()),
        (Some("CycloneDX"), Some("1.5"))
    );
    assert_eq!(bom["metadata"]["component"]["version"], VERSION);
    let components = bom["components"].as_array().unwrap();
    let names: BTreeSet<&str> = components.iter().map(|one| one["name"].as_str().unwrap()).collect();
    for linked in ["cedar-policy", "cedargate-policy", "rustls", "tokio", "aws-lc-sys"] {
        assert!(names.contains(linked), "{linked} is missing");
    }
    // a development dependency, a macro, a build tool, a crate of another system
    for absent in ["jsonwebtoken", "serde_derive", "cc", "windows-sys"] {
        assert!(!names.contains(absent), "{absent} is not in the program");
    }
    let locked = locked_checksums();
    for one in components.iter().filter(|one| one["name"] != "cedargate-policy") {
        let key = (
            one["name"].as_str().unwrap().to_owned(),
            one["version"].as_str().unwrap().to_owned(),
        );
        assert_eq!(
            one["hashes"][0]["content"].as_str(),
            locked.get(&key).map(String::as_str),
            "{key:?}"
        );
        assert!(one["licenses"][0]["expression"].is_string(), "{one}");
    }
    // every reference leads to a component
    let mut known: BTreeSet<&str> = components.iter().map(|one| one["bom-ref"].as_str().unwrap()).collect();
    known.insert("cedargate");
    for entry in bom["dependencies"].as_array().unwrap() {
        let ends = entry["dependsOn"].as_array().unwrap();
        assert!(
            ends.iter()
                .chain([&entry["ref"]])
                .all(|end| known.contains(end.as_str().unwrap())),
            "{entry}"
        );
    }
}

fn locked_checksums() -> BTreeMap<(String, String), String> {
    let text = std::fs::read_to_string(repository().join("Cargo.lock")).unwrap();
    let value = |block: &str, key: &str| {
        let start = format!("{key} = \"");
        block
            .lines()
            .find_map(|line| line.strip_prefix(&start))
            .map(|rest| rest.trim_end_matches('"').to_owned())
    };
    let blocks = text.split("[[package]]").skip(1);
    blocks
        .filter_map(|block| Some(((value(block, "name")?, value(block, "version")?), value(block, "checksum")?)))
        .collect()
}

#[test]
fn a_program_of_another_version_is_not_packed() {
    let folder = tempfile::tempdir().unwrap();
    let (done, error) = package(folder.path(), &[("VERSION", "9.9.9")]);
    assert!(!done);
    assert!(error.contains("the release is `cedargate 9.9.9`"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
