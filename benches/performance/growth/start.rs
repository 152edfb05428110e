//! Time from start to ready, and memory, against policies and entities.

use std::time::{Duration, Instant};

use super::draw::{grouped, short};
use super::entities;
use super::measure::{median, number};
use super::setting::{Files, ONE_PORTAL, Setting, closed};
use crate::Extent;
use crate::machine::{DEVICE, pinned};
use crate::report::{Axis, Goal, Plot, Section, Series, Table};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const STARTS: usize = 5;
const ENTITIES: [usize; 3] = [1_000, 10_000, 100_000];
const CONNECTIONS: usize = 32;
/// Policies, and MiB under load.
const MEMORY_GOALS: [(usize, f64); 2] = [(1_000, 25.0), (10_000, 90.0)];
/// Policies of the goal for the start.
const START_POLICIES: usize = 1_000;
/// Milliseconds.
const START_LIMIT: f64 = 150.0;

#[derive(Default)]
struct Started {
    size: usize,
    millis: Vec<f64>,
    /// MiB.
    at_start: Vec<f64>,
    loaded: Vec<f64>,
    /// The part of it that no file backs.
    own: Vec<f64>,
}

pub fn section(extent: Extent) -> Section {
    let setting = Setting::new();
    let policies = series(extent, &setting, super::sizes(extent, &SIZES, 1), |size| setting.files(size));
    let entities = series(extent, &setting, super::sizes(extent, &ENTITIES, 1), |size| {
        let files = setting.no_files();
        files.put_all(&entities::files(size));
        files
    });
    Section {
        title: "Start and memory".to_owned(),
        text: vec![format!(
            "The whole program, one worker, alone on its core: from starting the process to the first 200 of `/readyz` (requested every 5 ms), its memory \
             then (RSS), and its memory after a closed loop of one second over {CONNECTIONS} connections. Medians of \
             {STARTS} starts. *Each more* is the slope from the size above it in the table."
        )],
        tables: vec![table("policies", &policies), table("entities", &entities)],
        plots: vec![plot(&policies, &entities)],
        goals: goals(&policies),
        ..Section::default()
    }
}

fn series(extent: Extent, setting: &Setting, sizes: &[usize], files: impl Fn(usize) -> Files) -> Vec<Started> {
    let mut all: Vec<(Started, Files)> = sizes
        .iter()
        .map(|size| {
            (
                Started {
                    size: *size,
                    ..Started::default()
                },
                files(*size),
            )
        })
        .collect();
    let rounds = if extent == Extent::Whole { STARTS } else { 1 };
    for _ in 0..rounds {
        for (started, files) in &mut all {
            start(extent, setting, files, started);
        }
    }
    all.into_iter().map(|(started, _)| started).collect()
}

fn start(extent: Extent, setting: &Setting, files: &Files, started: &mut Started) {
    let begun = Instant::now();
    let gate = setting.start(files, pinned(DEVICE), ONE_PORTAL);
    started.millis.push(begun.elapsed().as_secs_f64() * 1e3);
    started.at_start.push(gate.process.resident());
    let time = if extent == Extent::Whole {
        Duration::from_secs(1)
    } else {
        Duration::from_millis(20)
    };
    closed(gate.proxy, &[setting.get(entities::PERMITTED)], CONNECTIONS, time);
    started.loaded.push(gate.process.resident());
    started.own.push(gate.process.anonymous());
}

fn table(of: &str, all: &[Started]) -> Table {
    let before = std::iter::once(None).chain(all.iter().map(Some));
    let row = |(started, before): (&Started, Option<&Started>)| {
        let slope = before.map_or("–".to_owned(), |before| {
            let more = median(started.loaded.iter().copied()) - median(before.loaded.iter().copied());
            short(more * 1024.0 / number(started.size - before.size))
        });
        let middle = |values: &[f64]| short(median(values.iter().copied()));
        vec![
            grouped(started.size),
            middle(&started.millis),
            middle(&started.at_start),
            middle(&started.loaded),
            middle(&started.own),
            slope,
        ]
    };
    Table {
        head: [
            of,
            "start to ready, ms",
            "RSS at start, MiB",
            "RSS under load, MiB",
            "of it anonymous, MiB",
            "each more, KiB",
        ]
        .map(str::to_owned)
        .into(),
        rows: all.iter().zip(before).map(row).collect(),
    }
}

fn plot(policies: &[Started], entities: &[Started]) -> Plot {
    let of = |name: &str, all: &[Started]| Series {
        name: name.to_owned(),
        points: all
            .iter()
            .map(|one| (number(one.size), median(one.loaded.iter().copied())))
            .collect(),
    };
    Plot {
        name: "growth-memory".to_owned(),
        title: "Memory under load".to_owned(),
        x: Axis {
            label: "policies or entities".to_owned(),
            logarithmic: true,
        },
        y: Axis {
            label: "RSS, MiB".to_owned(),
            logarithmic: true,
        },
        series: vec![of("policies", policies), of("entities", entities)],
    }
}

fn goals(policies: &[Started]) -> Vec<Goal> {
    let find = |size: usize| policies.iter().find(|one| one.size == size);
    let goal = |what: String, wanted: String, measured: String, met: bool| Goal {
        number: 9,
        what,
        wanted,
        measured,
        met,
        bound: None,
    };
    let memory = MEMORY_GOALS.iter().filter_map(|(size, limit)| {
        let one = find(*size)?;
        let mib = median(one.loaded.iter().copied());
        let own = median(one.own.iter().copied());
        let met = mib <= *limit;
        Some(Goal {
            bound: (!met).then(|| {
                format!(
                    "{} MiB are the program's file, which all its processes share; {} MiB are its own",
                    short(mib - own),
                    short(own)
                )
            }),
            ..goal(
                format!("RSS under load at {} policies", grouped(*size)),
                format!("≤ {limit} MiB"),
                format!("{} MiB", short(mib)),
                met,
            )
        })
    });
    let start = find(START_POLICIES).map(|one| {
        let millis = median(one.millis.iter().copied());
        goal(
            format!("start to ready at {} policies", grouped(START_POLICIES)),
            format!("≤ {START_LIMIT} ms"),
            format!("{} ms", short(millis)),
            millis <= START_LIMIT,
        )
    });
    memory.chain(start).collect()
}
