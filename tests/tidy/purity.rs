//! The policy crate stays pure, and one adapter names Cedar's inner crate.

use std::path::Path;
use std::process::Command;

use crate::scan::{Source, code_lines, display, files, read, report, sources};

/// Crates that would bring a runtime, sockets, files or a second crypto library into the policy crate.
const IMPURE_CRATES: &[&str] = &[
    "aws-lc-rs",
    "hyper",
    "mio",
    "notify",
    "redis",
    "reqwest",
    "ring",
    "rustls",
    "socket2",
    "tokio",
    "tracing",
];
/// Paths of the standard library that read a clock, a file, a socket or the environment.
const IMPURE_PATHS: &[&str] = &[
    "SystemTime::now",
    "Instant::now",
    "std::env",
    "std::fs",
    "std::io",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os",
    "std::process",
    "std::thread",
    "now_v7",
    "new_v4",
];
/// The files that name `cedar_policy_core` (docs/decisions/0016).
const CEDAR_CORE: &[&str] = &[
    "crates/policy/src/engine/entities.rs",
    "crates/policy/src/engine/explain.rs",
    "crates/policy/src/value.rs",
];

#[test]
fn the_policy_crate_depends_on_no_runtime_and_no_io() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "--package",
            "cedargate-policy",
            "--edges",
            "normal",
            "--prefix",
            "none",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(tree.stdout).unwrap();
    assert!(
        text.lines().count() > 20,
        "`cargo tree` said only:\n{text}\n{}",
        String::from_utf8_lossy(&tree.stderr)
    );
    let findings: Vec<String> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| IMPURE_CRATES.contains(name))
        .map(|name| format!("crates/policy/Cargo.toml: brings in `{name}`; what needs it belongs to the gate"))
        .collect();
    report(&findings);
}

#[test]
fn the_policy_crate_reads_no_clock_and_no_file() {
    let mut findings = Vec::new();
    for Source { name, text, .. } in sources().into_iter().filter(|s| s.module.starts_with("policy::")) {
        for (number, line) in code_lines(&text) {
            let code = line.split("//").next().unwrap_or_default();
            for path in IMPURE_PATHS.iter().filter(|path| code.contains(**path)) {
                findings.push(format!("{name}:{number}: uses `{path}`; the gate passes files and time in"));
            }
        }
    }
    report(&findings);
}

#[test]
fn one_adapter_names_cedars_inner_crate() {
    let roots = ["src", "crates", "benches"].into_iter();
    let rust = roots.flat_map(|root| files(Path::new(root))).map(|file| display(&file));
    let named: Vec<String> = rust
        .filter(|file| file.ends_with(".rs") && read(file).contains("cedar_policy_core::"))
        .collect();
    assert_eq!(
        named, CEDAR_CORE,
        "change docs/decisions/0016-entities-without-closure.md with this list"
    );
}
