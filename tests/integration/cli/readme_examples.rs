//! The README's examples: its configuration loads, its requests are the demo's.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let opening = format!("```{language}\n");
    text.split(opening.as_str())
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect()
}

#[test]
fn the_configuration_in_the_readme_loads() {
    let readme = readme();
    let configurations = blocks(&readme, "yaml");
    assert!(!configurations.is_empty());
    for text in configurations {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cedargate.yaml");
        std::fs::write(&path, text).unwrap();
        std::fs::write(folder.path().join("client-secret"), "of the provider").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_cedargate"))
            .args(["config", "print", "--config"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = text
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
            .count();
        assert!(lines <= 10, "ten lines are promised, the README has {lines}");
    }
}

#[test]
fn the_requests_in_the_readme_are_those_that_the_demo_prints() {
    let readme = readme();
    let console = blocks(&readme, "console");
    let shown: Vec<&str> = console
        .iter()
        .flat_map(|block| block.lines())
        .filter_map(|line| line.strip_prefix("$ "))
        .collect();
    assert_eq!(shown.len(), 3);
    let root = env!("CARGO_MANIFEST_DIR");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_cedargate"))
        .args(["demo", "--port", "0", "--dir", root])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut printed = Vec::new();
    let mut address = String::new();
    for line in BufReader::new(demo.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(url) = line.trim().strip_prefix("proxy     http://") {
            address = url.split('/').next().unwrap().to_owned();
        }
        printed.extend(
            line.trim()
                .starts_with("curl -i")
                .then(|| line.trim().replace(&address, "127.0.0.1:8900")),
        );
        if printed.len() == 3 {
            break;
        }
    }
    demo.kill().unwrap();
    demo.wait().unwrap();
    assert_eq!(printed, shown);
}

#[test]
fn the_published_configuration_schema_is_the_one_that_the_binary_prints() {
    let printed = Command::new(env!("CARGO_BIN_EXE_cedargate"))
        .args(["config", "schema"])
        .output()
        .unwrap();
    let published = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/config.schema.json")).unwrap();
    assert!(
        printed.stdout == published,
        "run `cedargate config schema > schemas/config.schema.json`"
    );
}
