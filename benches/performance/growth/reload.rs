//! The time from a policy change until it is in force: in this process, and in a whole gate.

use std::time::Instant;

use cedargate_benches::portal::PolicyFile;
use cedargate_benches::reload::Reload;
use cedargate_benches::shop;

use super::draw::{Curve, grouped, short};
use super::measure::{Cost, median, number};
use super::setting::{Files, Setting, until_permitted};
use crate::Extent;
use crate::gate::Gate;
use crate::report::{Axis, Goal, Plot, Section, Series, Table};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const ROUNDS: usize = 5;
const FILE: &str = "policies/bench/new.cedar";
const GOALS: [LoadGoal; 3] = [
    LoadGoal::new(1_000, EVERYTHING, 80.0),
    LoadGoal::new(10_000, EVERYTHING, 500.0),
    LoadGoal::new(10_000, ONE_FILE, 150.0),
];
const EVERYTHING: &str = "all files changed";
const ONE_FILE: &str = "one file changed";

/// The time within which a change must be in force.
struct LoadGoal {
    policies: usize,
    column: &'static str,
    /// Milliseconds.
    limit: f64,
}

impl LoadGoal {
    const fn new(policies: usize, column: &'static str, limit: f64) -> Self {
        Self { policies, column, limit }
    }
}

struct Changed {
    policies: usize,
    /// Milliseconds.
    one: Vec<f64>,
    all: Vec<f64>,
    /// MiB at start, and after all changes.
    before: f64,
    after: f64,
}

pub fn section(extent: Extent) -> Section {
    let sizes = super::sizes(extent, &SIZES, 2);
    let loads = loads(extent, sizes);
    let setting = Setting::new();
    let mut running: Vec<Running> = sizes.iter().map(|size| Running::start(&setting, *size)).collect();
    let rounds = if extent == Extent::Whole { ROUNDS } else { 1 };
    for _ in 0..rounds {
        running.iter_mut().for_each(|running| running.change(&setting));
    }
    let changed: Vec<Changed> = running.into_iter().map(Running::finish).collect();
    Section {
        title: "Reload against policies".to_owned(),
        text: vec![
            "In process: files in memory become a revision (parsed, validated, tested, indexed); everything new, and one file of a hundred policies \
             changed while the loader remembers the rest."
                .to_owned(),
            "The whole program on one core, without traffic: from renaming the last changed file into place to the first request that is answered by the new policies. That \
             includes the notification, reading the folder until two readings agree, and the 20 ms between them."
                .to_owned(),
        ],
        tables: vec![loading(&loads), changes(&changed)],
        plots: vec![plot(&loads, &changed)],
        goals: goals(&changed),
        ..Section::default()
    }
}

/// Milliseconds in this process, sizes in turn.
fn loads(extent: Extent, sizes: &[usize]) -> Vec<Curve> {
    let rounds = if extent == Extent::Whole { ROUNDS } else { 1 };
    let empty = || -> Vec<Cost> {
        sizes
            .iter()
            .map(|x| Cost {
                x: *x,
                rounds: Vec::new(),
            })
            .collect()
    };
    let mut everything = empty();
    let mut one = empty();
    let folders = sizes.iter().map(|size| [shop::tree(*size, ""), shop::tree(*size, "one")]);
    let folders: Vec<_> = folders.collect();
    for _ in 0..rounds {
        for ((everything, one), [first, second]) in everything.iter_mut().zip(&mut one).zip(&folders) {
            let mut reload = Reload::default();
            let begun = Instant::now();
            reload.load(first).unwrap();
            everything.rounds.push(begun.elapsed().as_secs_f64() * 1e3);
            let begun = Instant::now();
            let old = reload.load(second).unwrap();
            one.rounds.push(begun.elapsed().as_secs_f64() * 1e3);
            drop(old);
        }
    }
    vec![Curve::new("everything new", everything), Curve::new(ONE_FILE, one)]
}

/// A gate whose files change.
struct Running {
    files: Files,
    gate: Gate,
    policies: Vec<PolicyFile>,
    changes: usize,
    changed: Changed,
}

impl Running {
    fn start(setting: &Setting, policies: usize) -> Self {
        let files = setting.files(policies);
        let gate = setting.start_one(&files);
        let before = gate.process.resident();
        let mut texts = shop::files(policies, "");
        texts.retain(|file| file.name.ends_with(".cedar"));
        Self {
            files,
            gate,
            policies: texts,
            changes: 0,
            changed: Changed {
                policies,
                one: Vec::new(),
                all: Vec::new(),
                before,
                after: before,
            },
        }
    }

    /// Changes one file, then all files.
    fn change(&mut self, setting: &Setting) {
        let one = self.permit_more(setting);
        self.changed.one.push(one);
        for file in &self.policies {
            self.files.put(&file.name, &format!("{}// {}\n", file.text, self.changes));
        }
        let all = self.permit_more(setting);
        self.changed.all.push(all);
    }

    /// Adds a permit and returns the milliseconds until it is in force.
    fn permit_more(&mut self, setting: &Setting) -> f64 {
        self.changes += 1;
        let path = format!("/new-{}", self.changes);
        let policy = permit(&path);
        let request = setting.get(&path);
        self.files.put(FILE, &policy);
        until_permitted(&self.gate, &request).as_secs_f64() * 1e3
    }

    fn finish(mut self) -> Changed {
        self.changed.after = self.gate.process.resident();
        self.changed
    }
}

/// A permit for a path that no other policy names.
pub fn permit(path: &str) -> String {
    format!("@id(\"new\") permit (principal in Role::\"viewer\", action == Action::\"GET\", resource in Path::\"{path}\");\n")
}

fn loading(curves: &[Curve]) -> Table {
    let sizes = curves
        .first()
        .into_iter()
        .flat_map(|curve| curve.costs.iter().map(|cost| cost.x));
    let row = |x: usize| {
        let cell = |costs: &[Cost]| {
            costs
                .iter()
                .find(|cost| cost.x == x)
                .map_or("–".to_owned(), |cost| short(cost.median()))
        };
        std::iter::once(grouped(x))
            .chain(curves.iter().map(|curve| cell(&curve.costs)))
            .collect()
    };
    Table {
        head: std::iter::once("policies".to_owned())
            .chain(curves.iter().map(|curve| format!("in process, {}, ms", curve.name)))
            .collect(),
        rows: sizes.map(row).collect(),
    }
}

fn changes(all: &[Changed]) -> Table {
    let row = |changed: &Changed| {
        let middle = |values: &[f64]| short(median(values.iter().copied()));
        vec![
            grouped(changed.policies),
            middle(&changed.all),
            middle(&changed.one),
            short(changed.before),
            short(changed.after),
        ]
    };
    let head = [
        "policies".to_owned(),
        format!("to active, {EVERYTHING}, ms"),
        format!("to active, {ONE_FILE}, ms"),
        "RSS before, MiB".to_owned(),
        "RSS after all changes, MiB".to_owned(),
    ];
    Table {
        head: head.into(),
        rows: all.iter().map(row).collect(),
    }
}

fn plot(loads: &[Curve], changed: &[Changed]) -> Plot {
    let mut series: Vec<Series> = loads
        .iter()
        .map(|curve| Series {
            name: format!("in process, {}", curve.name),
            points: curve.costs.iter().map(|cost| (number(cost.x), cost.median())).collect(),
        })
        .collect();
    for (name, of) in [(EVERYTHING, all as fn(&Changed) -> &Vec<f64>), (ONE_FILE, one)] {
        let points = changed
            .iter()
            .map(|one| (number(one.policies), median(of(one).iter().copied())));
        series.push(Series {
            name: format!("to active, {name}"),
            points: points.collect(),
        });
    }
    Plot {
        name: "growth-reload".to_owned(),
        title: "Reload against policies".to_owned(),
        x: Axis {
            label: "policies".to_owned(),
            logarithmic: true,
        },
        y: Axis {
            label: "ms".to_owned(),
            logarithmic: true,
        },
        series,
    }
}

fn one(changed: &Changed) -> &Vec<f64> {
    &changed.one
}

fn all(changed: &Changed) -> &Vec<f64> {
    &changed.all
}

fn goals(changed: &[Changed]) -> Vec<Goal> {
    let goal = |goal: LoadGoal| {
        let LoadGoal { policies, column, limit } = goal;
        let found = changed.iter().find(|changed| changed.policies == policies)?;
        let of = if column == EVERYTHING { &found.all } else { &found.one };
        let millis = median(of.iter().copied());
        Some(Goal {
            number: 10,
            what: format!("change to active at {} policies, {column}", grouped(policies)),
            wanted: format!("≤ {limit} ms"),
            measured: format!("{} ms", short(millis)),
            met: millis <= limit,
            bound: None,
        })
    };
    GOALS.into_iter().filter_map(goal).collect()
}
