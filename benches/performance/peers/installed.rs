//! The programs of the peers: where they are installed, or the reason why one is missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use cedargate_benches::repository;

pub fn tools() -> PathBuf {
    repository().join("target/tools/bench")
}

/// The path of a peer's program. The error says why it is not installed.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let tools = tools();
    let found = match name {
        "nginx" | "haproxy" => system(name),
        "envoy" => envoy(&tools),
        "cerbos" => Some(tools.join("npm/node_modules/@cerbos/cerbos-linux-x64/cerbos-linux-x64")),
        "cedar-agent" => Some(tools.join("cedar-agent/bin/cedar-agent")),
        name => Some(tools.join("bin").join(name)),
    };
    found.filter(|path| path.is_file()).ok_or_else(|| {
        let reason = std::fs::read_to_string(tools.join(format!("{name}.missing")));
        reason.map_or_else(
            |_| "not installed (`.ci/bench-tools` does)".to_owned(),
            |why| why.trim().to_owned(),
        )
    })
}

/// The version that a program prints.
pub fn version(name: &str) -> String {
    let Ok(path) = program(name) else {
        return "missing".to_owned();
    };
    let (arg, mark) = match name {
        "nginx" | "haproxy" => ("-v", '/'),
        "opa" => ("version", ' '),
        _ => ("--version", ' '),
    };
    let Ok(output) = Command::new(path).arg(arg).output() else {
        return "unknown".to_owned();
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let mut words = first.split([' ', mark]).rev();
    let version = words.find(|word| word.contains('.') && word.contains(|c: char| c.is_ascii_digit()));
    version.map_or_else(|| first.to_owned(), |word| short(word).to_owned())
}

/// The version in Envoy's `commit/version/state`.
fn short(word: &str) -> &str {
    let mut parts = word.split('/').filter(|part| part.contains('.'));
    parts.next().unwrap_or(word)
}

fn system(name: &str) -> Option<PathBuf> {
    let folders = std::env::var("PATH").unwrap_or_default();
    let mut folders = folders.split(':').chain(["/usr/sbin"]);
    folders.find_map(|folder| Some(Path::new(folder).join(name)).filter(|path| path.is_file()))
}

fn envoy(tools: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(tools.join("envoy/lib")).ok()?;
    let mut inside = versions
        .flatten()
        .map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    inside.find(|path| path.is_file())
}
