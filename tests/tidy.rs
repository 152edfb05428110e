//! House rules as tests: which module may use which, sizes, headers, and docs that name everything they must.
//!
//! Plain std, part of the ordinary test run. Every finding says file, line and what to do about it. `LAYERS` is the
//! one table to edit when a module joins; an edge outside it is a design question, not a formality.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a tidy test that cannot read the tree must stop and say so"
)]

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;
const FILE_LINES_GOAL: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;

/// Foundations that every module may use; they use each other only as `LAYERS` says.
const EVERYWHERE: &[&str] = &[
    "base::clock",
    "base::digest",
    "base::files",
    "base::lifecycle",
    "base::metrics",
    "base::telemetry",
    "config",
    "denial",
    "http::pages",
    "json",
    "types",
];

/// Folders whose files are modules of their own in the table: `http::listener`, not `http`.
const ROOMS: &[&str] = &["base", "doors", "http"];

/// Module → what it may use besides `EVERYWHERE`. `*`: anything. A path below a module (`authz::Permit`) allows only that item.
/// Steps of the path (portal, authn, authz, upstream) never use each other's steps; gate and doors bring them together.
const LAYERS: &[(&str, &[&str])] = &[
    ("main", &["*"]),
    ("lib", &["*"]),
    (
        "cli",
        &[
            "app",
            "authn",
            "authz",
            "doors",
            "gate",
            // makes and edits users files
            "login::accounts",
            "portal",
            "http::request",
            "revision",
        ],
    ),
    ("app", &["*"]),
    ("bench", &["*"]),
    ("base", &[]),
    ("doors", &[]),
    ("http", &[]),
    // the path of a request
    ("http::listener", &["http::upstream::Body"]),
    (
        "gate",
        &[
            "http::answer",
            "audit",
            "authn",
            "authz",
            "doors::login",
            "limits",
            "http::listener::Link",
            "login",
            "portal",
            "http::request",
            "revision",
            "portals",
            "session",
            "http::upstream",
        ],
    ),
    ("http::request", &[]),
    ("portal", &[]),
    // where introspections are shared and recorded
    ("authn", &["audit", "session::Sessions"]),
    ("authz", &[]),
    // the permit it consumes, and what the permit says
    (
        "http::upstream",
        &["authz::CallerHeaders", "authz::Permit", "limits::Place", "http::request"],
    ),
    (
        "http::answer",
        &["http::request", "http::upstream::Body", "http::upstream::UpstreamError"],
    ),
    ("audit", &["authz::RecordedContext"]),
    // the other doors
    (
        "doors",
        &[
            "http::answer",
            "audit",
            "authn",
            "authz",
            "gate",
            "reload::Outcome",
            "reload::AskError",
            "reload::Asks",
            "reload::Outcomes",
            "reload::ReloadResult",
            "http::request",
            "revision",
            "portals",
            "session",
            // what `/status` says of its circuit
            "http::upstream::App",
            "http::upstream::Body",
        ],
    ),
    (
        "doors::login",
        &[
            "http::answer",
            "audit",
            "authn",
            "authz",
            "login",
            // what a return path may be
            "portal::path",
            "portal::file",
            "http::request",
            "revision",
            "portals",
            "session",
            "http::upstream::Body",
        ],
    ),
    // beside the path
    ("session", &["audit"]),
    ("login", &["audit", "authn", "limits", "http::request", "session"]),
    ("revision", &["authn", "authz", "portal", "http::request::query_pairs"]),
    (
        "portals",
        &[
            // a caller as records show it
            "audit::EntityRef",
            "authn",
            "authz",
            "portal",
            "revision",
            // what a caller is believed for
            "session::Session",
            "http::upstream::App",
            "http::upstream::HeaderRules",
        ],
    ),
    ("reload", &["audit", "gate::Gate", "portal", "revision", "portals"]),
    ("limits", &[]),
    (
        "http::tls",
        &["audit", "http::listener::ALPN_HTTP2", "http::listener::SharedTls"],
    ),
    // foundations
    ("config", &[]),
    ("denial", &[]),
    ("json", &[]),
    ("base::lifecycle", &[]),
    ("base::metrics", &[]),
    ("http::pages", &[]),
    ("base::telemetry", &[]),
    ("types", &[]),
];
/// What a foundation may use of the other foundations.
const FOUNDATION_EDGES: &[(&str, &[&str])] = &[
    ("config", &["json", "types"]),
    ("base::lifecycle", &["config", "base::metrics", "base::telemetry", "types"]),
    ("http::pages", &["config"]),
    ("base::telemetry", &["config", "types"]),
    ("types", &["json"]),
];

struct Source {
    /// Relative to the package, with `/`.
    name: String,
    module: String,
    text: String,
}

#[test]
fn modules_use_only_what_the_layer_table_allows() {
    let mut findings = Vec::new();
    for file in sources() {
        if !LAYERS.iter().any(|(module, _)| *module == file.module) {
            findings.push(format!(
                "{}:1: `{}` is in no layer; add it to LAYERS in tests/tidy.rs",
                file.name, file.module
            ));
            continue;
        }
        for (number, line) in code_lines(&file.text) {
            for edge in edges(line) {
                if !allowed(&file.module, &edge) {
                    let module = &file.module;
                    findings.push(format!(
                        "{}:{number}: `{module}` may not use `{edge}`; pass a value of `types` instead, or argue for the edge in LAYERS",
                        file.name
                    ));
                }
            }
        }
    }
    report(&findings);
}

#[test]
fn the_layer_table_points_one_way() {
    let table: Vec<_> = LAYERS.iter().chain(FOUNDATION_EDGES).collect();
    let mut above: Vec<&str> = LAYERS.iter().map(|(module, _)| *module).collect();
    // take away what uses nothing that is left; a cycle is what stays
    while let Some(at) = above.iter().position(|module| {
        let mut uses = table
            .iter()
            .filter(|(name, _)| name == module)
            .flat_map(|(_, targets)| *targets);
        uses.all(|target| *target == "*" || !above.contains(&target.split("::").next().unwrap()))
    }) {
        above.remove(at);
    }
    assert!(
        above.is_empty(),
        "LAYERS has a cycle among {above:?}; move what they share into `types`"
    );
}

#[test]
fn files_open_with_their_purpose_and_fit_in_a_head() {
    let mut findings = Vec::new();
    for Source { name, text, .. } in sources() {
        if !text.starts_with("//!") {
            findings.push(format!(
                "{name}:1: open the file with `//!`: what it is for, where on the path, what it never does"
            ));
        }
        if name.ends_with("/mod.rs") {
            findings.push(format!("{name}:1: move it to `foo.rs` beside `foo/`"));
        }
        let lines = code_lines(&text).count();
        if lines > FILE_LINES_MAX {
            findings.push(format!(
                "{name}: {lines} lines without tests, at most {FILE_LINES_MAX}; split it by concern"
            ));
        } else if lines > FILE_LINES_GOAL {
            println!("{name}: {lines} lines without tests; the goal is {FILE_LINES_GOAL}");
        }
        let unfinished = [["TO", "DO"].concat(), ["FIX", "ME"].concat()];
        for (number, line) in text.lines().enumerate() {
            if unfinished.iter().any(|mark| line.contains(mark.as_str())) {
                findings.push(format!(
                    "{name}:{}: finish it or open an issue; no marks in the code",
                    number + 1
                ));
            }
        }
    }
    report(&findings);
}

#[test]
fn functions_fit_on_a_screen() {
    let mut findings = Vec::new();
    for Source { name, text, .. } in sources() {
        let mut open: Option<(usize, String)> = None;
        for (number, line) in code_lines(&text) {
            let indent: String = line.chars().take_while(|c| *c == ' ').collect();
            if open.is_none() && is_function(line) && !line.trim_end().ends_with(['}', ';']) {
                open = Some((number, indent));
            } else if let Some((start, close)) = &open
                && (line == format!("{close}}}") || (line.trim_end().ends_with(';') && *close == indent))
            {
                let length = number - start + 1;
                if length > FUNCTION_LINES_MAX {
                    findings.push(format!(
                        "{name}:{start}: {length} lines, at most {FUNCTION_LINES_MAX}; name its steps"
                    ));
                }
                open = None;
            }
        }
    }
    report(&findings);
}

#[test]
fn reference_pages_name_every_denial_metric_and_config_key() {
    let mut findings = Vec::new();
    let denials = between(&read("src/denial.rs"), "const fn row(", "pub const fn code");
    let codes: Vec<String> = quoted(&denials).filter(|text| text.len() > 5 && snake(text)).collect();
    assert!(codes.len() > 15, "the scan of src/denial.rs found only {codes:?}");
    missing("docs/denials.md", &codes, &mut findings);
    let names: Vec<String> = quoted(&between(&read("src/metrics.rs"), "pub fn new()", "pub fn render"))
        .filter(|text| snake(text) && text.contains('_') || matches!(text.as_str(), "connections" | "draining"))
        .filter(|text| text != "status_class")
        .map(|name| format!("cedargate_{name}"))
        .collect();
    assert!(names.len() > 15, "the scan of src/metrics.rs found only {names:?}");
    missing("docs/metrics.md", &names, &mut findings);
    if Path::new("schemas/config.schema.json").exists() {
        missing(
            "docs/configuration.md",
            &schema_keys(&read("schemas/config.schema.json")),
            &mut findings,
        );
    }
    report(&findings);
}

#[test]
fn every_shipped_policy_is_named_by_a_decision_test() {
    let mut tests = String::new();
    let mut ids = Vec::new();
    for file in files(Path::new("policies")) {
        let (name, text) = (display(&file), fs::read_to_string(&file).unwrap());
        if name.contains("/tests/") || name.ends_with("links.json") {
            tests.push_str(&text);
        } else if name.ends_with(".cedar") {
            let policies = text.matches("permit (").count() + text.matches("forbid (").count();
            let found: Vec<_> = text
                .split("@id(\"")
                .skip(1)
                .filter_map(|rest| rest.split('"').next())
                .collect();
            assert_eq!(found.len(), policies, "{name}: give every policy an @id");
            ids.extend(found.iter().map(|id| (name.clone(), (*id).to_owned())));
        }
    }
    assert!(ids.len() > 5, "the scan of policies/ found only {ids:?}");
    let words: Vec<&str> = tests
        .split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'))
        .collect();
    let findings: Vec<String> = ids
        .into_iter()
        .filter(|(_, id)| !words.contains(&id.as_str()))
        .map(|(file, id)| format!("{file}: no decision test names `{id}`; add a case with `because: [{id}]`"))
        .collect();
    report(&findings);
}

#[test]
fn the_scanners_find_what_they_look_for() {
    assert_eq!(
        edges("use crate::authz::{Permit, engine};"),
        ["authz::Permit", "authz::engine"]
    );
    assert_eq!(edges("use crate::{types::Door, authn};"), ["types::Door", "authn"]);
    assert_eq!(
        edges("    let x = crate::json::parse(crate::types::y);"),
        ["json::parse", "types::y"]
    );
    assert!(allowed("upstream", "authz::Permit") && !allowed("upstream", "authz::decide"));
    assert!(!allowed("authz", "authn::verify") && !allowed("types", "config::Config"));
    assert!(is_function("    pub(crate) async fn x(") && is_function("fn x() {") && !is_function("// fn x("));
}

fn allowed(module: &str, edge: &str) -> bool {
    let target = edge.split("::").next().unwrap();
    let foundation = EVERYWHERE.contains(&module);
    let table = LAYERS.iter().chain(if foundation { FOUNDATION_EDGES } else { &[] });
    target == module
        || (!foundation && EVERYWHERE.contains(&target))
        || table
            .filter(|(name, _)| *name == module)
            .flat_map(|(_, targets)| *targets)
            .any(|t| *t == "*" || *t == target || *t == edge)
}

/// `module::item` for every `crate::…` in a line, groups opened.
fn edges(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in line.split("crate::").skip(1) {
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(items(group).into_iter().map(|item| first_two(&item)));
        } else {
            match rest.split_once("::{") {
                Some((module, group)) if is_name(module) => {
                    found.extend(items(group).iter().map(|item| first_two(&format!("{module}::{item}"))));
                }
                _ => found.push(first_two(rest)),
            }
        }
    }
    found
}

/// The top-level items of a `{…}` group, its opening brace already gone.
fn items(group: &str) -> Vec<String> {
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

fn first_two(path: &str) -> String {
    let mut parts = path
        .split("::")
        .map(|part| part.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap());
    let module = parts.next().unwrap_or_default().to_owned();
    match parts.next().filter(|item| !item.is_empty()) {
        Some(item) => format!("{module}::{item}"),
        None => module,
    }
}

/// Numbered lines before the unit tests. `use` items that rustfmt broke over lines arrive as one line.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("\n#[cfg(test)]\nmod ").map_or(text.len(), |at| at + 1);
    let mut rest = text.split_at(end).0;
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

fn is_function(line: &str) -> bool {
    let words: Vec<&str> = line
        .split_whitespace()
        .take_while(|word| !word.starts_with("//"))
        .take(5)
        .collect();
    let before = words.iter().position(|word| *word == "fn");
    let modifier = |w: &&str| w.starts_with("pub") || matches!(*w, "async" | "const" | "extern" | "in");
    before.is_some_and(|at| words.iter().take(at).all(modifier))
}

fn is_name(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

fn snake(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

fn quoted(text: &str) -> impl Iterator<Item = String> {
    text.split('"').skip(1).step_by(2).map(str::to_owned)
}

/// Every property name of a JSON Schema: a key whose value is an object inside `properties`.
fn schema_keys(schema: &str) -> Vec<String> {
    let mut keys = Vec::new();
    for (at, name) in schema.match_indices("\"properties\":") {
        let block = schema.split_at(at + name.len()).1;
        let mut depth = 0_usize;
        for line in block.lines() {
            let key = line.trim().split_once("\": ").and_then(|(key, _)| key.strip_prefix('"'));
            if let (1, Some(key)) = (depth, key) {
                keys.push(key.to_owned());
            }
            depth = (depth + line.matches('{').count()).saturating_sub(line.matches('}').count());
            if depth == 0 {
                break;
            }
        }
    }
    keys
}

fn missing(page: &str, names: &[String], findings: &mut Vec<String>) {
    let text = read(page);
    let known: Vec<&str> = text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).collect();
    for name in names {
        if !known.contains(&name.as_str()) {
            findings.push(format!("{page}: says nothing of `{name}`; add a row"));
        }
    }
}

fn between(text: &str, start: &str, end: &str) -> String {
    let after = text.split_once(start).unwrap_or_else(|| panic!("no `{start}` to scan")).1;
    after
        .split_once(end)
        .unwrap_or_else(|| panic!("no `{end}` to stop at"))
        .0
        .to_owned()
}

/// A control is only as good as the test that the threat model names for it.
#[test]
fn every_test_that_the_threat_model_names_exists() {
    let text = fs::read_to_string("docs/threat-model.md").unwrap();
    let code: String = files(Path::new("tests"))
        .into_iter()
        .chain(files(Path::new("src")))
        .filter(|file| file.extension().is_some_and(|e| e == "rs"))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let named = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.matches('_').count() > 2 && !word.contains(['.', ' ']));
    let named: Vec<&str> = named.collect();
    assert!(named.len() > 20, "the threat model names {} tests", named.len());
    let missing = named.into_iter().filter(|name| !code.contains(&format!("fn {name}(")));
    report(
        &missing
            .map(|name| format!("docs/threat-model.md: there is no test `{name}`"))
            .collect::<Vec<_>>(),
    );
}

fn sources() -> Vec<Source> {
    let rust = files(Path::new("src"))
        .into_iter()
        .filter(|file| file.extension().is_some_and(|e| e == "rs") && !is_tests(file));
    rust.map(|file| {
        let name = display(&file);
        let module = name
            .trim_start_matches("src/")
            .trim_end_matches(".rs")
            .split('/')
            .next()
            .unwrap()
            .to_owned();
        Source {
            text: fs::read_to_string(&file).unwrap(),
            module,
            name,
        }
    })
    .collect()
}

/// Unit tests in a file of their own may use what they test against.
fn is_tests(file: &Path) -> bool {
    let stem = file.file_stem().unwrap().to_string_lossy().into_owned();
    stem == "tests" || stem.ends_with("_tests")
}

fn files(dir: &Path) -> Vec<PathBuf> {
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

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn display(path: &Path) -> String {
    path.display().to_string().replace('\\', "/")
}

fn report(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}
