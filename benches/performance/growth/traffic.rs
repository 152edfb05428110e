//! The latency of requests during reloads: the same traffic with and without policy changes, in turn.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::draw::{grouped, percent, short};
use super::measure::median;
use super::reload::permit;
use super::setting::{Files, ONE_PORTAL, Setting};
use crate::Extent;
use crate::gate::Gate;
use crate::load::{Answers, Load, Pace, Until};
use crate::machine::{DEVICE, pause, pinned};
use crate::report::{Goal, Section, Table};

const SIZES: [usize; 2] = [1_000, 10_000];
const ROUNDS: usize = 5;
/// Requests per second: far below the capacity of a core, so that requests rarely wait.
const RATE: f64 = 2_000.0;
const CONNECTIONS: usize = 32;
/// Time between two changes of one file.
const EVERY: Duration = Duration::from_secs(1);
const LIMIT: f64 = 1.10;

/// The cores that the gate may use.
#[derive(Clone, Copy)]
struct Layout {
    name: &'static str,
    /// `None`: all.
    core: Option<usize>,
}

const LAYOUTS: [Layout; 2] = [
    Layout {
        name: "one core",
        core: Some(DEVICE),
    },
    Layout {
        name: "both cores",
        core: None,
    },
];

struct Observed {
    layout: Layout,
    policies: usize,
    quiet: Vec<Times>,
    changing: Vec<Times>,
}

/// Microseconds.
struct Times {
    p50: f64,
    p99: f64,
    p999: f64,
}

pub fn section(extent: Extent) -> Section {
    let setting = Setting::new();
    let mut all = Vec::new();
    let sizes = if extent == Extent::Whole { SIZES.as_slice() } else { &[20] };
    for layout in LAYOUTS {
        for size in sizes {
            all.push(observe(extent, &setting, layout, *size));
        }
    }
    Section {
        title: "Traffic while policies change".to_owned(),
        text: vec![format!(
            "The whole program with one worker; {RATE} requests a second over {CONNECTIONS} connections, each timed from the moment when it was due. In turn no file changes, or one file \
             changes every {EVERY:?}. Where the gate has *one core*, reloading and requests share it; with *both cores* it shares one of them with the load generator and the app. \
             Medians of the rounds."
        )],
        tables: vec![table(&all)],
        goals: all.iter().map(goal).collect(),
        ..Section::default()
    }
}

fn observe(extent: Extent, setting: &Setting, layout: Layout, policies: usize) -> Observed {
    let files = setting.files(policies);
    let gate = setting.start(&files, layout.core.and_then(pinned), ONE_PORTAL);
    let mut observed = Observed {
        layout,
        policies,
        quiet: Vec::new(),
        changing: Vec::new(),
    };
    let (rounds, time) = if extent == Extent::Whole {
        (ROUNDS, 3 * EVERY)
    } else {
        (1, Duration::from_millis(50))
    };
    let requests = [setting.get("/shop/cart")];
    send(&gate, &requests, time / 4);
    for _ in 0..rounds {
        observed.quiet.push(send(&gate, &requests, time));
        observed.changing.push(changing(&files, || send(&gate, &requests, time)));
        // the last reload ends before the next round without changes
        pause(if extent == Extent::Whole { EVERY } else { Duration::ZERO });
    }
    observed
}

fn send(gate: &Gate, requests: &[Vec<u8>], time: Duration) -> Times {
    let load = Load {
        address: gate.proxy,
        requests,
        expected: 200,
        connections: CONNECTIONS,
        pace: Pace::Open(RATE),
        until: Until::Time(time),
    };
    let answers = load.run().and_then(Answers::all_expected).unwrap();
    Times {
        p50: answers.time(0.5),
        p99: answers.time(0.99),
        p999: answers.time(0.999),
    }
}

/// Changes one file again and again while `work` runs.
fn changing<T>(files: &Files, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let begun = Instant::now();
            let mut changes = 0_u32;
            while !over.load(Ordering::Relaxed) {
                if begun.elapsed() >= EVERY * changes {
                    files.put(
                        "policies/bench/new.cedar",
                        &permit(&format!("/changed/{:?}", begun.elapsed())),
                    );
                    changes += 1;
                }
                pause(Duration::from_millis(5));
            }
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        done
    })
}

fn table(all: &[Observed]) -> Table {
    let row = |observed: &Observed| {
        let columns: [fn(&Times) -> f64; 3] = [|times| times.p50, |times| times.p99, |times| times.p999];
        let cells = columns
            .into_iter()
            .flat_map(|of| [&observed.quiet, &observed.changing].map(|rounds| short(median(rounds.iter().map(of)))));
        let all = [observed.layout.name.to_owned(), grouped(observed.policies)]
            .into_iter()
            .chain(cells);
        all.chain([percent(ratio(observed))]).collect()
    };
    let head = [
        "gate on",
        "policies",
        "p50, µs",
        "while changing",
        "p99, µs",
        "while changing",
        "p99.9, µs",
        "while changing",
        "p99, against quiet",
    ];
    Table {
        head: head.map(str::to_owned).into(),
        rows: all.iter().map(row).collect(),
    }
}

/// Ratio of the 99th percentiles, round by round.
fn ratio(observed: &Observed) -> f64 {
    median(
        observed
            .changing
            .iter()
            .zip(&observed.quiet)
            .map(|(changing, quiet)| changing.p99 / quiet.p99),
    )
}

fn goal(observed: &Observed) -> Goal {
    let ratio = ratio(observed);
    Goal {
        number: 10,
        what: format!(
            "p99 while files change, {} policies, gate on {}",
            grouped(observed.policies),
            observed.layout.name
        ),
        wanted: format!("within {:.0} % of quiet", (LIMIT - 1.0) * 100.0),
        measured: percent(ratio),
        met: ratio <= LIMIT,
        bound: (ratio > LIMIT).then(|| {
            "the thread that prepares policies shares cores and caches with requests, and a thread of low priority still finishes its time slice"
                .to_owned()
        }),
    }
}
