//! Pages that people and tools read instead of code, held against the program: alerts, dashboards, runbooks,
//! checklists, the book.
//!
//! `alerts`: rules and their unit tests. `dashboards`: their JSON and every query. `runbooks`: one for each alert, in
//! one form. `consoles` runs what pages show of a terminal; `procedures` runs the shell of runbooks word for word;
//! `hardening` has a case for each rule of the checklist. `promql` has Prometheus parse every query that a page shows.
//! The commands in pages are parsed by `src/cli/pages_tests.rs`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on must stop and say where"
)]

mod alerts;
mod book;
mod consoles;
mod dashboards;
mod hardening;
mod procedures;
mod promql;
mod runbooks;

use std::path::{Path, PathBuf};

/// A path in the repository.
fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Names of the files of a folder with this ending, sorted, relative to the repository.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(root(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(ending))
        .map(|name| format!("{folder}/{name}"))
        .collect();
    names.sort();
    names
}

/// Every Markdown page below `docs/`, and those of the repository's root.
fn pages() -> Vec<String> {
    let mut found: Vec<String> = ["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(str::to_owned).into();
    let mut folders = vec!["docs".to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{folder}/{}", entry.file_name().into_string().unwrap());
            if entry.path().is_dir() {
                folders.push(name);
            } else if name.ends_with(".md") {
                found.push(name);
            }
        }
    }
    found.sort();
    found
}

/// The findings of a test, all at once.
fn report(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}
