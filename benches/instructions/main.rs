//! Instructions per operation of the decision, the token and a whole request, against a committed baseline.
//!
//! `check` compares, `accept` writes the baseline; both run this program once more under callgrind as `measure`, which
//! says on stdout what it does in which order. See `benches/README.md`.

#![expect(clippy::unwrap_used, reason = "what cannot be set up or counted must stop and say so")]

mod callgrind;
mod operations;
mod request;
mod verdict;
#[path = "../gate/world.rs"]
mod world;

use std::path::Path;
use std::process::ExitCode;

use self::callgrind::Part;
use self::verdict::{ACCEPT, Baseline, Counts};

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/baseline.json");
/// The function whose calls cut a run into parts.
const MARK: &str = "instructions::mark";

fn main() -> ExitCode {
    let mode = std::env::args().nth(1).unwrap_or_default();
    match mode.as_str() {
        "measure" => measure_all(),
        "check" => return check(),
        "accept" => std::fs::write(BASELINE, serde_json::to_string_pretty(&counted()).unwrap() + "\n").unwrap(),
        _ => {
            eprintln!("usage: instructions check|accept");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn check() -> ExitCode {
    let Ok(text) = std::fs::read_to_string(BASELINE) else {
        eprintln!("instructions: there is no baseline; `{ACCEPT}` makes one");
        return ExitCode::FAILURE;
    };
    let before: Baseline = serde_json::from_str(&text).unwrap();
    let report = verdict::compare(&before, &counted());
    print!("{}", report.text);
    if report.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn counted() -> Baseline {
    let program = std::env::current_exe().unwrap();
    let folder = program.with_file_name("instructions.run");
    let run = callgrind::count(&program, &["measure"], MARK, &folder).unwrap_or_else(|problem| {
        eprintln!("instructions: {problem}");
        std::process::exit(1);
    });
    let versions = callgrind::said("rustc", &["-vV"]).unwrap();
    let line = |key: &str| {
        versions
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap_or("?")
            .to_owned()
    };
    Baseline {
        rustc: line("release: "),
        target: line("host: "),
        valgrind: callgrind::version().unwrap(),
        instructions: per_operation(&run.said, &run.parts),
    }
}

/// What `measure` said it did, and what callgrind saw.
fn per_operation(said: &str, parts: &[Part]) -> Counts {
    let mut counts = Counts::new();
    for (nth, line) in said.lines().enumerate() {
        let (name, times) = line.rsplit_once(' ').unwrap();
        // every operation lies between two marks; the first part is what was before all of them
        let number = 2 * nth + 2;
        let worker = name.starts_with("request/");
        let ours = |part: &&Part| part.number == number && if worker { part.ran(request::WORKER) } else { part.thread == 1 };
        let threads: Vec<_> = parts.iter().filter(ours).collect();
        assert_eq!(threads.len(), 1, "{name}: which thread did it?");
        let instructions: u64 = threads.iter().map(|part| part.instructions).sum();
        counts.insert(name.to_owned(), instructions / times.parse::<u64>().unwrap());
    }
    counts
}

fn measure_all() {
    operations::decisions();
    operations::tokens();
    request::requests(Path::new("."));
}

/// Has `operation` counted, `times` in a row, once it has run often enough for what it makes the first time to exist.
fn measure(name: &str, times: usize, mut operation: impl FnMut()) {
    (0..times.div_ceil(4)).for_each(|_| operation());
    println!("{name} {times}");
    mark();
    (0..times).for_each(|_| operation());
    mark();
}

#[inline(never)]
fn mark() {
    std::hint::black_box(());
}
