//! Runs the cases of one portal on all cores.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, available_parallelism, scope};

use cedargate_policy::decision_tests::{CaseResult, DecisionTests, Options, Subject};

use crate::app::STACK_BYTES;

/// Cases that a thread takes at once.
const CHUNK: usize = 64;

/// A part of the results, with the number of its first case.
struct NumberedResults {
    first: usize,
    results: Vec<CaseResult>,
}

/// Runs every case; the results are in the order of the cases.
pub(super) fn run(tests: &DecisionTests<'_>, subject: &Subject<'_>, options: &Options<'_>) -> Vec<CaseResult> {
    let cores = available_parallelism().map_or(1, NonZero::get);
    let threads = cores.min(tests.len().div_ceil(CHUNK));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut parts = Vec::new();
        loop {
            let first = next.fetch_add(CHUNK, Ordering::Relaxed);
            if first >= tests.len() {
                return parts;
            }
            let results = tests.run(first..tests.len().min(first + CHUNK), subject, options);
            parts.push(NumberedResults { first, results });
        }
    };
    let mut parts = scope(|scope| {
        let start = |_| Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work).ok();
        let started: Vec<_> = (1..threads).filter_map(start).collect();
        let mut parts = work();
        for thread in started {
            match thread.join() {
                Ok(of_thread) => parts.extend(of_thread),
                // the command ends as it would without threads
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        parts
    });
    parts.sort_unstable_by_key(|part| part.first);
    parts.into_iter().flat_map(|part| part.results).collect()
}
