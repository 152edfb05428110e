//! Reads the sources line by line: modules, imports, functions, comments.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders whose files are modules of their own in the layer table: `http::listener`, not `http`.
pub const ROOMS: &[&str] = &["base", "doors", "http"];

/// One file that is not a test.
pub struct Source {
    /// Relative to the root, with `/`.
    pub name: String,
    /// Its module in the layer table: `gate`, `http::listener`, `policy::decision`.
    pub module: String,
    pub text: String,
}

/// Every file of the gate and of the policy crate, unit tests in files of their own aside.
pub fn sources() -> Vec<Source> {
    let mut all = Vec::new();
    for root in ["src", "crates/policy/src"] {
        let rust = files(Path::new(root))
            .into_iter()
            .filter(|file| file.extension().is_some_and(|e| e == "rs") && !is_tests(file));
        all.extend(rust.map(|file| {
            let name = display(&file);
            let inner = name.trim_start_matches(root).trim_start_matches('/').trim_end_matches(".rs");
            let parts: Vec<&str> = inner.split('/').collect();
            let module = module_of(&parts);
            Source {
                text: fs::read_to_string(&file).unwrap(),
                module: if root == "src" { module } else { format!("policy::{module}") },
                name,
            }
        }));
    }
    all
}

fn module_of(parts: &[&str]) -> String {
    match parts {
        [room, inner, ..] if ROOMS.contains(room) => format!("{room}::{inner}"),
        [module, ..] => (*module).to_owned(),
        [] => String::new(),
    }
}

/// Unit tests in a file of their own may use what they test against.
fn is_tests(file: &Path) -> bool {
    let parts = file.with_extension("");
    parts.iter().any(|part| {
        let name = part.to_string_lossy();
        name == "tests" || name == "test_support" || (name.ends_with("_tests") && name != "decision_tests")
    })
}

/// A use of another module: the module as the layer table names it, and the item below it.
#[derive(Debug, Eq, PartialEq)]
pub struct Edge {
    pub module: String,
    /// `http::upstream::Body`; equal to `module` where the module itself is imported.
    pub path: String,
}

/// Every `crate::…` and `cedargate_policy::…` of a line, groups opened. `own` is the module of the file.
pub fn edges(own: &str, line: &str) -> Vec<Edge> {
    let in_policy = own.starts_with("policy::");
    let mut found = paths_after(line, "crate::", if in_policy { "policy::" } else { "" });
    found.extend(paths_after(line, "cedargate_policy::", "policy::"));
    found
}

fn paths_after(line: &str, root: &str, prefix: &str) -> Vec<Edge> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find(root) {
        let before = rest[..at].chars().next_back();
        rest = &rest[at + root.len()..];
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let mut paths = Vec::new();
        open_groups(rest, "", &mut paths);
        found.extend(paths.into_iter().map(|path| edge(&path, prefix)));
    }
    found
}

/// The full paths of every `crate::…` and `super::…` of a line, groups opened. `own` is the path of the file below its
/// root: `cli`, `workbench`, `desk`.
pub fn full_paths(own: &[&str], line: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for root in ["crate::", "super::"] {
        let mut rest = line;
        while let Some(at) = rest.find(root) {
            let before = rest[..at].chars().next_back();
            rest = &rest[at..];
            let mut base = if root == "super::" { own } else { &[] };
            while let Some(after) = rest.strip_prefix(root) {
                base = base.split_last().map_or(&[], |(_, above)| above);
                rest = after;
            }
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let mut paths = Vec::new();
            open_groups(rest, "", &mut paths);
            found.extend(paths.iter().map(|path| {
                let below = path.split("::").map(str::to_owned);
                base.iter().map(|part| (*part).to_owned()).chain(below).collect()
            }));
        }
    }
    found
}

fn edge(path: &str, prefix: &str) -> Edge {
    let parts: Vec<&str> = path.split("::").collect();
    let module = format!("{prefix}{}", module_of(&parts));
    let depth = module.split("::").count() - usize::from(!prefix.is_empty());
    let item = parts.get(depth).map_or(String::new(), |item| format!("::{item}"));
    Edge {
        path: format!("{module}{item}"),
        module,
    }
}

/// `a::{b, c::d}` → `a::b`, `a::c::d`.
fn open_groups(text: &str, prefix: &str, paths: &mut Vec<String>) {
    if let Some(group) = text.strip_prefix('{') {
        for item in items(group) {
            open_groups(&item, prefix, paths);
        }
        return;
    }
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .unwrap_or(text.len());
    let name = &text[..end];
    match (name.ends_with("::"), text[end..].starts_with('{')) {
        (true, true) => open_groups(&text[end..], &format!("{prefix}{name}"), paths),
        _ => paths.push(format!("{prefix}{}", name.trim_end_matches(':'))),
    }
}

/// The top-level items of a `{…}` group, its opening brace already gone.
pub fn items(group: &str) -> Vec<String> {
    let (mut depth, mut out) = (0, vec![String::new()]);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => out.push(String::new()),
            _ => {}
        }
        if depth > 0 || c != ',' {
            out.last_mut().unwrap().push(c);
        }
    }
    out.iter()
        .map(|item| item.trim().to_owned())
        .filter(|item| !item.is_empty())
        .collect()
}

/// Numbered lines before the unit tests. `use` items that rustfmt broke over lines arrive as one line.
pub fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = text.split_at(tests_start(text)).0;
    let mut number = 0;
    std::iter::from_fn(move || {
        let words = rest.trim_start_matches(' ');
        let broken = ["use ", "pub use ", "pub(crate) use "]
            .iter()
            .any(|start| words.starts_with(start));
        let stop = if broken {
            rest.find(";\n").map(|at| at + 1)
        } else {
            rest.find('\n')
        };
        let (line, after) = rest.split_at(stop.unwrap_or(rest.len()));
        if line.is_empty() && after.is_empty() {
            return None;
        }
        rest = after.strip_prefix('\n').unwrap_or(after);
        let start = number + 1;
        number += line.lines().count().max(1);
        Some((start, line))
    })
}

/// The place where unit tests in a block begin; a `mod tests;` in a file of its own ends nothing.
fn tests_start(text: &str) -> usize {
    let blocks = text.match_indices("\n#[cfg(test)]\nmod ").filter(|(at, _)| {
        let line = text[at + 1..].lines().nth(1).unwrap_or_default();
        line.ends_with('{')
    });
    blocks.map(|(at, _)| at + 1).next().unwrap_or(text.len())
}

pub fn is_function(line: &str) -> bool {
    let words: Vec<&str> = line
        .split_whitespace()
        .take_while(|word| !word.starts_with("//"))
        .take(5)
        .collect();
    let before = words.iter().position(|word| *word == "fn");
    let modifier = |w: &&str| w.starts_with("pub") || matches!(*w, "async" | "const" | "extern" | "in");
    before.is_some_and(|at| words.iter().take(at).all(modifier))
}

pub fn snake(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

pub fn quoted(text: &str) -> impl Iterator<Item = String> {
    text.split('"').skip(1).step_by(2).map(str::to_owned)
}

pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

pub fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub fn display(path: &Path) -> String {
    path.display().to_string().replace('\\', "/")
}

pub fn report(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn the_scanner_finds_modules_imports_and_functions() {
    let paths = |own: &str, line: &str| -> Vec<String> { edges(own, line).into_iter().map(|edge| edge.path).collect() };
    assert_eq!(
        paths("gate", "use crate::authn::{Proof, keys};"),
        ["authn::Proof", "authn::keys"]
    );
    assert_eq!(paths("gate", "use crate::{http::answer, authn};"), ["http::answer", "authn"]);
    assert_eq!(
        paths("gate", "use crate::http::upstream::{Body, pool::Pool};"),
        ["http::upstream::Body", "http::upstream::pool"]
    );
    assert_eq!(
        paths("gate", "    let x = crate::base::clock::unix_seconds();"),
        ["base::clock::unix_seconds"]
    );
    assert_eq!(
        paths("gate", "use cedargate_policy::decision::{Query, decide};"),
        ["policy::decision::Query", "policy::decision::decide"]
    );
    assert_eq!(
        paths("policy::load", "use crate::schema::TypeNames;"),
        ["policy::schema::TypeNames"]
    );
    let full = |line: &str| -> Vec<String> {
        let paths = full_paths(&["cli", "workbench", "desk"], line);
        paths.iter().map(|path| path.join("::")).collect()
    };
    assert_eq!(
        full("use super::{editor, log::Log};"),
        ["cli::workbench::editor", "cli::workbench::log::Log"]
    );
    assert_eq!(
        full("    super::super::print(crate::cli::tree::X);"),
        ["cli::tree::X", "cli::print"]
    );
    assert!(is_function("    pub(crate) async fn x(") && is_function("fn x() {") && !is_function("// fn x("));
    let text = "#[cfg(test)]\nmod a_tests;\nuse crate::x;\n\n#[cfg(test)]\nmod tests {\n    fn y() {}\n}\n";
    assert_eq!(code_lines(text).count(), 4);
}
