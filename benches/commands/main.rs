//! The commands of the policy workbench over a large tree: 10,000 policies with 10,000 decision tests.
//!
//! `make bench-commands` runs it, prints a line for each command, and fails if `validate`, `lint` and `test` together
//! take longer than `GOAL`. Without `--bench` (as under `cargo test`) the tree is small and no time is judged. The
//! program is the one that cargo built in the profile of this bench.

#![expect(clippy::unwrap_used, reason = "a bench that cannot set up must stop and say so")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// The whole of `validate`, `lint` and `test` on two cores.
const GOAL: Duration = Duration::from_secs(10);
const POLICIES: usize = 10_000;
const POLICIES_SMALL: usize = 100;

const SCHEMA: &str = "entity Tenant; entity Role; entity Portal; entity Path in [Path, Portal];
entity User in [Role, Tenant] = { email?: String };
action GET, POST appliesTo { principal: [User], resource: [Path], context: { portal: String } };
";

fn main() -> ExitCode {
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    let count = if is_measured { POLICIES } else { POLICIES_SMALL };
    let Some(program) = program() else {
        println!("the program `cedargate` is not built in the profile of this bench: run `cargo build` first");
        return if is_measured { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    };
    let folder = tempfile::tempdir().unwrap();
    write_tree(folder.path(), count);
    let mut total = Duration::ZERO;
    for command in ["validate", "lint", "test"] {
        let started = Instant::now();
        let output = Command::new(&program)
            .arg(command)
            .current_dir(folder.path())
            .env_remove("CEDARGATE_CONFIG")
            .output()
            .unwrap();
        let took = started.elapsed();
        total += took;
        println!("{command:9} {:6.2} s", took.as_secs_f64());
        if !output.status.success() {
            let report = String::from_utf8_lossy(&output.stdout);
            println!("{command} failed: {}", report.chars().take(2000).collect::<String>());
            return ExitCode::FAILURE;
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "together  {:6.2} s  ({count} policies, {count} cases, {cores} cores)",
        total.as_secs_f64()
    );
    match is_measured && total > GOAL {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

fn program() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    // a bench is in `deps` beside it
    let program = own.ancestors().nth(2)?.join("cedargate");
    program.is_file().then_some(program)
}

/// Permits and forbids with conditions, each with a role of its own, and a case for each.
fn write_tree(root: &Path, count: usize) {
    let policy = |n: usize| {
        let effect = if n % 4 == 3 { "forbid" } else { "permit" };
        format!(
            "@id(\"p{n}\")\n{effect} (principal in Role::\"r{n}\", action == Action::\"GET\", resource in Path::\"/portal/p/{n}\")\n\
             when {{ principal has email && principal.email != \"{n}\" && context.portal == \"p\" }};\n"
        )
    };
    let case = |n: usize| {
        let expect = if n % 4 == 3 { "deny" } else { "allow" };
        format!(
            "  - {{ name: c{n}, principal: {{ id: a, roles: [r{n}], attrs: {{ email: a }} }}, http: \"GET /portal/p/{n}\", expect: {expect} }}\n"
        )
    };
    for (name, text) in [
        ("schemas/p.cedarschema", SCHEMA.to_owned()),
        ("policies/p/main.cedar", (0..count).map(policy).collect()),
        (
            "policies/p/tests/main.yaml",
            format!("cases:\n{}", (0..count).map(case).collect::<String>()),
        ),
    ] {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}
