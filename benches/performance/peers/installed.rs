//! Where the peers are, or why one is not there.

use std::path::{Path, PathBuf};
use std::process::Command;

pub fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bench")
}

/// What could be installed: `Err` says why it is not.
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

/// What a program says of its version.
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

/// Envoy says commit/version/state.
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
