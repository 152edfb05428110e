//! Instructions per operation of the decision, the token and a whole request, and allocations of a request, against a
//! committed baseline.
//!
//! `check` compares, `accept` writes the baseline. Both run this program again under callgrind: once for the operations
//! that run on one thread (`operations`, which prints each operation before it runs), and as a gate under requests
//! (`requests`): once without counted requests, and once for each kind. See `benches/README.md`.

#![expect(clippy::unwrap_used, reason = "a count that cannot be taken must stop and say so")]

mod callgrind;
mod operations;
mod request;
mod verdict;

use std::path::Path;
use std::process::ExitCode;

use self::callgrind::{Part, Run};
use self::verdict::{ACCEPT, Baseline, Counts};

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions/baseline.json");
/// The function at whose calls callgrind cuts a run into parts.
const MARK: &str = "instructions::mark";
/// The functions of the C library that allocate; Rust's allocator calls them, too.
const ALLOCATE: [&str; 6] = ["malloc", "calloc", "realloc", "aligned_alloc", "memalign", "posix_memalign"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["check"] => check(),
        ["accept"] => accept(),
        ["operations"] => {
            operations::decisions();
            operations::tokens();
            Ok(())
        }
        ["requests", counted @ ..] => {
            let counted: Vec<usize> = counted.iter().map(|count| count.parse().unwrap()).collect();
            request::requests(Path::new("."), &counted);
            Ok(())
        }
        _ => Err("usage: instructions check|accept".to_owned()),
    };
    let Err(problem) = done else {
        return ExitCode::SUCCESS;
    };
    eprintln!("instructions: {problem}");
    ExitCode::FAILURE
}

fn check() -> Result<(), String> {
    let text = std::fs::read_to_string(BASELINE).map_err(|e| format!("cannot read the baseline ({e}); `{ACCEPT}` writes one"))?;
    let before: Baseline = serde_json::from_str(&text).map_err(|e| format!("`{BASELINE}`: {e}"))?;
    let report = verdict::compare(&before, &counted()?);
    print!("{}", report.text);
    if report.failed {
        return Err("counts exceed the baseline, or the workloads differ from it".to_owned());
    }
    Ok(())
}

fn accept() -> Result<(), String> {
    let text = serde_json::to_string_pretty(&counted()?).map_err(|e| e.to_string())?;
    std::fs::write(BASELINE, text + "\n").map_err(|e| format!("cannot write `{BASELINE}`: {e}"))
}

fn counted() -> Result<Baseline, String> {
    let versions = callgrind::output_of("rustc", &["-vV"])?;
    let line = |key: &str| {
        versions
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap_or("?")
            .to_owned()
    };
    Ok(Baseline {
        rustc: line("release: "),
        target: line("host: "),
        valgrind: callgrind::version()?,
        instructions: instructions()?,
    })
}

/// The runs are separate processes: each counts the same, however many run at once.
fn instructions() -> Result<Counts, String> {
    std::thread::scope(|scope| {
        let operations = scope.spawn(|| run(&["operations".to_owned()]));
        let without = scope.spawn(|| run(&["requests".to_owned()]));
        let kinds = request::KINDS.iter().enumerate();
        let kinds: Vec<_> = kinds
            .map(|(at, kind)| {
                // the other kinds of the list are not counted in this run
                let counts = std::iter::repeat_n(0, at)
                    .chain([kind.counted])
                    .map(|count| count.to_string());
                let arguments: Vec<String> = std::iter::once("requests".to_owned()).chain(counts).collect();
                (kind, scope.spawn(move || run(&arguments)))
            })
            .collect();
        let mut counts = per_operation(&operations.join().unwrap()?);
        let without = without.join().unwrap()?;
        for (kind, with) in kinds {
            let with = with.join().unwrap()?;
            let per_request = |of: fn(&Run) -> u64| (of(&with) - of(&without)) / u64::from(kind.counted);
            counts.insert(kind.name.to_owned(), per_request(serving));
            if kind.name == request::PERMITTED {
                let allocations = per_request(|run| part_of(run, request::WORKER).calls(&ALLOCATE));
                counts.insert("allocations/permitted".to_owned(), allocations);
            }
        }
        Ok(counts)
    })
}

fn run(arguments: &[String]) -> Result<Run, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let folder = program.with_file_name("instructions.run").join(arguments.join("-"));
    callgrind::count(&program, arguments, MARK, &folder)
}

/// Instructions per operation: the run printed names and repetitions, callgrind wrote the counts.
fn per_operation(run: &Run) -> Counts {
    let mut counts = Counts::new();
    for (nth, line) in run.printed.lines().enumerate() {
        let (name, times) = line.rsplit_once(' ').unwrap();
        // every operation lies between two marks; the first part lies before all of them
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

/// Instructions of the worker's and the record writer's threads.
fn serving(run: &Run) -> u64 {
    part_of(run, request::WORKER).instructions + part_of(run, request::RECORDS).instructions
}

/// The part of the thread that runs `owner`, from start to end: a mark cuts only the thread that calls it.
fn part_of<'a>(run: &'a Run, owner: &str) -> &'a Part {
    let mut parts = run.parts.iter().filter(|part| part.ran(owner));
    let part = parts.next().unwrap();
    assert!(parts.next().is_none(), "only one thread runs `{owner}`");
    part
}

/// Counts `operation`, `times` in a row, after a warm-up: caches and lazily made values are filled then.
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
