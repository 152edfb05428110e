//! Which module may use which: one table, and imports point one way.

use std::collections::{BTreeMap, BTreeSet};

use crate::scan::{Edge, ROOMS, code_lines, edges, full_paths, report, sources};

/// Foundations that every module of the gate may use; they use each other only as `FOUNDATION_EDGES` says.
const EVERYWHERE: &[&str] = &[
    "base::address",
    "base::answer_thread",
    "base::certificates",
    "base::clock",
    "base::deadline",
    "base::descriptors",
    "base::digest",
    "base::ed25519",
    "base::files",
    "base::lifecycle",
    "base::metrics",
    "base::outbound",
    "base::priority",
    "base::telemetry",
    "base::terminal",
    "config",
    "http::pages",
    // the words of the policy crate are the words of the gate
    "policy::claim_path",
    "policy::denial",
    "policy::digest",
    "policy::flags",
    "policy::json",
    "policy::scope",
    "policy::text",
    "policy::types",
];

/// Foundations that every module of the policy crate may use.
const POLICY_EVERYWHERE: &[&str] = &[
    "policy::claim_path",
    "policy::denial",
    "policy::digest",
    "policy::flags",
    "policy::error_chain",
    "policy::json",
    "policy::scope",
    "policy::text",
    "policy::types",
];

/// The edges of foundations to other foundations.
const FOUNDATION_EDGES: &[(&str, &[&str])] = &[
    ("base::digest", &["policy::digest"]),
    (
        "base::lifecycle",
        &["base::metrics", "base::telemetry", "config", "policy::types"],
    ),
    ("base::answer_thread", &["base::priority"]),
    ("base::ed25519", &["base::digest"]),
    ("base::files", &["policy::text", "policy::types"]),
    ("base::certificates", &["base::clock"]),
    ("base::outbound", &["base::certificates", "base::files", "config"]),
    ("base::telemetry", &["config", "policy::types"]),
    ("base::terminal", &[]),
    (
        "config",
        &[
            "base::clock",
            "base::files",
            "policy::claim_path",
            "policy::claims",
            "policy::json",
            "policy::portal",
            "policy::scope",
            "policy::text",
            "policy::types",
        ],
    ),
    ("http::pages", &["base::digest", "base::files", "config"]),
    ("policy::denial", &[]),
    ("policy::digest", &[]),
    ("policy::flags", &["policy::digest"]),
    ("policy::error_chain", &[]),
    ("policy::json", &["policy::text"]),
    ("policy::claim_path", &[]),
    ("policy::scope", &["policy::claim_path", "policy::types"]),
    ("policy::text", &[]),
    ("policy::types", &["policy::json"]),
];

/// Module → the modules it may use besides the foundations. `*`: all. A path below a module (`policy::permit::Permit`)
/// allows only that item. Steps of the path (authn, the decision, upstream) never use each other; gate and doors bring
/// them together.
const LAYERS: &[(&str, &[&str])] = &[
    // composition
    ("main", &["*"]),
    ("lib", &["*"]),
    (
        "cli",
        &[
            "accounts",
            "app",
            "audit",
            "authn",
            "bundle",
            "bundle_follower",
            "doors::authorize",
            "explained",
            "import",
            "inject",
            "login",
            "policy::claims",
            "policy::decision",
            "policy::decision_tests",
            "policy::lint",
            "policy::load",
            "policy::matrix",
            "policy::openapi",
            "policy::portal",
            "policy::revision",
            "policy::schema",
            "policy_folders",
            // `test --watch` waits as the reloader does
            "reload::WakeChannel",
            "reload::Watch",
            "replay",
            "policy::engine",
            "prove",
            "workbench",
        ],
    ),
    ("app", &["*"]),
    // the path of a request
    ("http::client_certificate", &[]),
    (
        "http::listener",
        &["base::address", "http::client_certificate", "http::target", "http::upstream"],
    ),
    (
        "gate",
        &[
            "audit",
            "authn",
            "doors::login",
            "http::answer",
            "http::client_certificate",
            "http::credentials",
            "http::listener",
            "http::request",
            "http::upstream",
            "limits",
            "login",
            "policy::claims",
            "policy::context",
            "policy::decision",
            "policy::engine",
            "policy::permit",
            "policy::portal",
            "policy::principal",
            "policy::revision",
            "portals",
            "searches",
            "session",
            "traces",
        ],
    ),
    ("http::request", &["http::target", "policy::portal"]),
    ("http::target", &[]),
    ("authn", &["audit", "http::client_certificate", "policy::claims", "session"]),
    ("http::credentials", &[]),
    ("traces", &["http::request"]),
    (
        "http::upstream",
        &["http::credentials", "http::request", "limits", "policy::permit"],
    ),
    ("http::answer", &["http::request", "http::upstream"]),
    ("audit", &["policy::decision"]),
    // the other doors to the same decision
    (
        "doors::authorize",
        &[
            "audit",
            "authn",
            "gate",
            "http::answer",
            "http::credentials",
            "http::request",
            "http::upstream",
            "policy::decision",
            "policy::engine",
            "policy::principal",
            "portals",
            "traces",
        ],
    ),
    (
        "doors::decision_listener",
        &[
            "doors::authorize",
            "doors::authzen",
            "doors::forward_auth",
            "gate",
            "http::answer",
            "http::upstream",
        ],
    ),
    (
        "doors::authzen",
        &[
            "doors::authorize",
            "gate",
            "http::answer",
            "http::credentials",
            "http::request",
            "http::upstream",
            "policy::decision",
            "policy::search",
            "portals",
            "searches",
            "traces",
        ],
    ),
    (
        "doors::ext_authz",
        &["doors::authorize", "gate", "http::request", "http::upstream"],
    ),
    (
        "doors::forward_auth",
        &["gate", "http::credentials", "http::request", "http::upstream"],
    ),
    (
        "doors::login",
        &[
            "accounts",
            "audit",
            "authn",
            "http::answer",
            "http::client_certificate",
            "http::credentials",
            "http::request",
            "http::upstream",
            "login",
            "permissions",
            "policy::claims",
            "policy::decision",
            "policy::permissions",
            "policy::portal",
            "portals",
            "session",
        ],
    ),
    (
        "doors::admin",
        &[
            "bundle_follower",
            "exposure",
            "gate",
            "http::answer",
            "http::upstream",
            "portals",
            "reload",
            "session",
        ],
    ),
    (
        "doors::control",
        &[
            "audit",
            "doors::admin::Admin",
            "explained",
            "gate",
            "http::answer",
            "http::upstream",
            "policy::decision",
            "policy::revision",
            "portals",
            "reload",
            "replay",
            "session",
        ],
    ),
    // beside the path
    ("replay", &["audit", "explained", "policy::decision", "policy::revision"]),
    ("explained", &["policy::decision"]),
    (
        "reload",
        &[
            "audit",
            "bundle_follower",
            "gate",
            "policy::load",
            "policy::revision",
            "policy_folders",
            "portals",
        ],
    ),
    ("policy_folders", &["policy::revision"]),
    ("bundle", &["policy::revision", "policy_folders"]),
    ("bundle_follower", &["bundle", "policy::revision"]),
    (
        "portals",
        &[
            "audit",
            "authn",
            "http::credentials",
            "http::upstream",
            "policy::claims",
            "policy::permit",
            "policy::portal",
            "policy::principal",
            "policy::revision",
            "session",
        ],
    ),
    ("session", &["policy::claims"]),
    ("login", &["audit", "authn", "policy::claims", "session"]),
    ("accounts", &["audit", "limits", "session"]),
    ("limits", &["base::address"]),
    ("exposure", &[]),
    ("import", &[]),
    ("inject", &[]),
    ("workbench", &[]),
    (
        "prove",
        &["policy::engine", "policy::load", "policy::portal", "policy::revision"],
    ),
    ("http::tls", &["audit", "http::client_certificate", "http::listener"]),
    ("base", &[]),
    ("doors", &[]),
    ("http", &[]),
    // the policy crate
    ("policy::lib", &[]),
    (
        "policy::load",
        &[
            "policy::context",
            "policy::decision_tests",
            "policy::engine",
            "policy::hierarchy",
            "policy::portal",
            "policy::revision",
            "policy::rules",
            "policy::schema",
        ],
    ),
    (
        "policy::lint",
        &[
            "policy::decision_tests",
            "policy::engine",
            "policy::openapi",
            "policy::load",
            "policy::portal",
            "policy::revision",
            "policy::schema",
        ],
    ),
    ("permissions", &["policy::permissions", "policy::principal", "portals"]),
    ("searches", &["policy::search", "portals"]),
    (
        "policy::search",
        &["policy::decision", "policy::engine", "policy::partial", "policy::revision"],
    ),
    ("policy::matrix", &["policy::engine", "policy::partial", "policy::revision"]),
    (
        "policy::permissions",
        &[
            "policy::context",
            "policy::decision",
            "policy::engine",
            "policy::partial",
            "policy::principal",
            "policy::revision",
            "policy::schema",
        ],
    ),
    ("policy::partial", &["policy::schema"]),
    (
        "policy::decision_tests",
        &["policy::claims", "policy::decision", "policy::portal", "policy::revision"],
    ),
    ("policy::reference", &["policy::decision", "policy::engine"]),
    ("policy::openapi", &["policy::portal"]),
    (
        "policy::decision",
        &[
            "policy::context",
            "policy::engine",
            "policy::fast_path",
            "policy::permit",
            "policy::portal",
            "policy::principal",
            "policy::query_entities",
            "policy::revision",
            "policy::rules",
            "policy::schema",
        ],
    ),
    (
        "policy::revision",
        &[
            "policy::context",
            "policy::engine",
            "policy::portal",
            "policy::rules",
            "policy::schema",
        ],
    ),
    (
        "policy::principal",
        &[
            "policy::engine",
            "policy::revision",
            "policy::rules",
            "policy::schema",
            "policy::value",
        ],
    ),
    ("policy::fast_path", &["policy::engine", "policy::rules", "policy::schema"]),
    (
        "policy::query_entities",
        &["policy::engine", "policy::hierarchy", "policy::rules"],
    ),
    (
        "policy::rules",
        &["policy::context", "policy::engine", "policy::portal", "policy::schema"],
    ),
    ("policy::context", &["policy::engine", "policy::schema", "policy::value"]),
    ("policy::engine", &["policy::schema"]),
    ("policy::value", &["policy::schema"]),
    ("policy::schema", &["policy::portal"]),
    ("policy::portal", &[]),
    ("policy::hierarchy", &[]),
    ("policy::permit", &[]),
    ("policy::claims", &[]),
];

#[test]
fn modules_use_only_what_the_layer_table_allows() {
    let mut findings = Vec::new();
    for file in sources() {
        let is_foundation = is_foundation(&file.module);
        if !is_foundation && !LAYERS.iter().any(|(module, _)| *module == file.module) {
            findings.push(format!(
                "{}:1: `{}` is in no layer; add it to LAYERS in tests/tidy/layers.rs",
                file.name, file.module
            ));
            continue;
        }
        for (number, line) in code_lines(&file.text) {
            for edge in edges(&file.module, line) {
                if !allowed(&file.module, &edge) {
                    let module = &file.module;
                    findings.push(format!(
                        "{}:{number}: `{module}` may not use `{}`; pass a plain value instead, or argue for the edge in LAYERS",
                        file.name, edge.path
                    ));
                }
            }
        }
    }
    report(&findings);
}

#[test]
fn every_edge_of_the_layer_table_is_used() {
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in sources() {
        for (_, line) in code_lines(&file.text) {
            for edge in edges(&file.module, line) {
                let of_file = used.entry(file.module.clone()).or_default();
                of_file.insert(edge.module);
                of_file.insert(edge.path);
            }
        }
    }
    let findings: Vec<String> = LAYERS
        .iter()
        .flat_map(|(module, targets)| targets.iter().map(move |target| (*module, *target)))
        .filter(|(module, target)| *target != "*" && !used.get(*module).is_some_and(|used| used.contains(*target)))
        .map(|(module, target)| format!("tests/tidy/layers.rs: `{module}` does not use `{target}` any more; take the edge out"))
        .collect();
    report(&findings);
}

#[test]
fn the_layer_table_points_one_way() {
    let table: Vec<_> = LAYERS.iter().chain(FOUNDATION_EDGES).collect();
    let mut above: Vec<&str> = table.iter().map(|(module, _)| *module).collect();
    // take away every module that uses nothing left: a cycle is what stays
    while let Some(at) = above.iter().position(|module| {
        let mut uses = table
            .iter()
            .filter(|(name, _)| name == module)
            .flat_map(|(_, targets)| *targets);
        uses.all(|target| *target == "*" || !above.contains(&module_of_target(target)))
    }) {
        above.remove(at);
    }
    assert!(
        above.is_empty(),
        "LAYERS has a cycle among {above:?}; move what they share into a foundation"
    );
}

/// Files of one folder that import each other in a circle cannot be read in any order. A folder counts with the file
/// beside it that declares it. The layer table holds the modules of a root.
#[test]
fn files_of_a_folder_import_each_other_one_way() {
    let all = sources();
    let names: BTreeSet<&str> = all.iter().map(|file| file.name.trim_end_matches(".rs")).collect();
    let mut siblings: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for file in &all {
        let name = file.name.trim_end_matches(".rs");
        let root = if name.starts_with("src/") {
            "src"
        } else {
            "crates/policy/src"
        };
        let own: Vec<&str> = name[root.len() + 1..].split('/').collect();
        let lines = code_lines(&file.text).filter(|(_, line)| !line.trim_start().starts_with("//"));
        for path in lines.flat_map(|(_, line)| full_paths(&own, line)) {
            let is_file = |length: &usize| names.contains(format!("{root}/{}", path[..*length].join("/")).as_str());
            let Some(length) = (1..=path.len()).rev().find(is_file) else {
                continue;
            };
            let common = own.iter().zip(&path[..length]).take_while(|(a, b)| **a == b.as_str()).count();
            if common == 0 || common == own.len() || common == length {
                continue;
            }
            let edges = siblings.entry(format!("{root}/{}", own[..common].join("/"))).or_default();
            edges.entry(own[common].to_owned()).or_default().insert(path[common].clone());
        }
    }
    let mut findings = Vec::new();
    for (folder, mut files) in siblings {
        while let Some(free) = files
            .iter()
            .find(|(_, uses)| uses.iter().all(|used| !files.contains_key(used)))
            .map(|(name, _)| name.clone())
        {
            files.remove(&free);
        }
        if !files.is_empty() {
            let names: Vec<&String> = files.keys().collect();
            findings.push(format!(
                "{folder}/: an import circle among or above {names:?}; move what they share into a file of its own"
            ));
        }
    }
    report(&findings);
}

#[test]
fn the_table_tells_modules_from_items() {
    let edge = |path: &str, module: &str| Edge {
        module: module.to_owned(),
        path: path.to_owned(),
    };
    assert!(allowed("http::upstream", &edge("policy::permit::Permit", "policy::permit")));
    assert!(!allowed(
        "http::upstream",
        &edge("policy::decision::decide", "policy::decision")
    ));
    assert!(!allowed("authn", &edge("gate::Gate", "gate")));
    assert_eq!(module_of_target("http::listener::Shared"), "http::listener");
    assert_eq!(module_of_target("session::Sessions"), "session");
}

fn is_foundation(module: &str) -> bool {
    FOUNDATION_EDGES.iter().any(|(name, _)| *name == module) || EVERYWHERE.contains(&module)
}

fn allowed(module: &str, edge: &Edge) -> bool {
    let everywhere = if module.starts_with("policy::") {
        POLICY_EVERYWHERE
    } else {
        EVERYWHERE
    };
    let is_foundation = is_foundation(module);
    let table = if is_foundation { FOUNDATION_EDGES } else { LAYERS };
    edge.module == module
        || (!is_foundation && everywhere.contains(&edge.module.as_str()))
        || table
            .iter()
            .filter(|(name, _)| *name == module)
            .flat_map(|(_, targets)| *targets)
            .any(|target| *target == "*" || *target == edge.module || *target == edge.path)
}

/// `http::listener::Shared` → `http::listener`.
fn module_of_target(target: &str) -> &str {
    let parts = if target.starts_with("policy::") || ROOMS.iter().any(|room| target.starts_with(&format!("{room}::"))) {
        2
    } else {
        1
    };
    let end = target.match_indices("::").nth(parts - 1).map_or(target.len(), |(at, _)| at);
    &target[..end]
}
