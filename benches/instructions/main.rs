//! Instructions per operation of the decision, the token and a whole request, against a committed baseline.
//!
//! `check` compares, `accept` writes the baseline; both run this program again under callgrind: once for everything that
//! runs on one thread (`operations`, which says on stdout what it does in which order), and as a gate that is asked, with
//! and without the requests that are counted (`requests`). See `benches/README.md`.

#![expect(clippy::unwrap_used, reason = "what cannot be set up or counted must stop and say so")]

mod callgrind;
mod operations;
mod request;
mod verdict;
#[path = "../gate/world.rs"]
mod world;

use std::path::Path;
use std::process::ExitCode;

use self::callgrind::Run;
use self::verdict::{ACCEPT, Baseline, Counts};

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/baseline.json");
/// The function whose calls cut a run into parts.
const MARK: &str = "instructions::mark";
/// Requests of a kind.
const REQUESTS: &str = "500";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["check"] => return check(),
        ["accept"] => std::fs::write(BASELINE, serde_json::to_string_pretty(&counted()).unwrap() + "\n").unwrap(),
        ["operations"] => {
            operations::decisions();
            operations::tokens();
        }
        ["requests", permitted, denied] => request::requests(Path::new("."), permitted.parse().unwrap(), denied.parse().unwrap()),
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
        instructions: instructions(),
    }
}

/// The runs do not know of each other and count the same however many there are at once.
fn instructions() -> Counts {
    std::thread::scope(|scope| {
        let operations = scope.spawn(|| per_operation(&run(&["operations"])));
        let requests = scope.spawn(|| worker(&run(&["requests", "0", "0"])));
        let permitted = scope.spawn(|| worker(&run(&["requests", REQUESTS, "0"])));
        let denied = scope.spawn(|| worker(&run(&["requests", "0", REQUESTS])));
        let mut counts = operations.join().unwrap();
        let (without, times) = (requests.join().unwrap(), REQUESTS.parse::<u64>().unwrap());
        for (name, with) in [("permitted", permitted), ("denied", denied)] {
            counts.insert(format!("request/{name}"), (with.join().unwrap() - without) / times);
        }
        counts
    })
}

fn run(arguments: &[&str]) -> Run {
    let program = std::env::current_exe().unwrap();
    let folder = program.with_file_name("instructions.run").join(arguments.join("-"));
    callgrind::count(&program, arguments, MARK, &folder).unwrap_or_else(|problem| {
        eprintln!("instructions: {problem}");
        std::process::exit(1);
    })
}

/// What the run said it did, and what callgrind saw.
fn per_operation(run: &Run) -> Counts {
    let mut counts = Counts::new();
    for (nth, line) in run.said.lines().enumerate() {
        let (name, times) = line.rsplit_once(' ').unwrap();
        // every operation lies between two marks; the first part is what was before all of them
        let number = 2 * nth + 2;
        let part = run
            .parts
            .iter()
            .find(|part| part.number == number && part.thread == 1)
            .unwrap();
        counts.insert(name.to_owned(), part.instructions / times.parse::<u64>().unwrap());
    }
    counts
}

/// All that the worker did, from start to end: marks cut the calling thread alone.
fn worker(run: &Run) -> u64 {
    let workers: Vec<_> = run.parts.iter().filter(|part| part.ran(request::WORKER)).collect();
    assert_eq!(
        workers.len(),
        1,
        "there is one worker, and nothing else runs `{}`",
        request::WORKER
    );
    workers.iter().map(|part| part.instructions).sum()
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
