//! From a change to its being in force: in this process, in a whole gate, and what the traffic notices of it.

use std::time::Instant;

use cedargate::bench::Reload;

use super::draw::{Curve, grouped, short};
use super::measure::{Cost, median, number};
use super::setting::{Files, Setting, until_permitted};
use super::world;
use crate::Extent;
use crate::gate::Gate;
use crate::report::{Axis, Goal, Plot, Section, Series, Table};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const ROUNDS: usize = 5;
const FILE: &str = "policies/bench/new.cedar";
/// Policies, which column, ms.
const GOALS: [(usize, &str, f64); 3] = [
    (1_000, EVERYTHING, 80.0),
    (10_000, EVERYTHING, 500.0),
    (10_000, ONE_FILE, 150.0),
];
const EVERYTHING: &str = "all files changed";
const ONE_FILE: &str = "one file changed";

struct Changed {
    policies: usize,
    /// Milliseconds.
    one: Vec<f64>,
    all: Vec<f64>,
    /// MiB: at start, and when all changes are in force.
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
             includes noticing, reading the folder until it holds still and waiting 20 ms to see that it does."
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
    let (mut everything, mut one) = (empty(), empty());
    let folders = sizes
        .iter()
        .map(|size| [world::folder(*size, ""), world::folder(*size, "one")]);
    let folders: Vec<_> = folders.collect();
    for _ in 0..rounds {
        for ((everything, one), [first, second]) in everything.iter_mut().zip(&mut one).zip(&folders) {
            let mut reload = Reload::new().unwrap();
            let begun = Instant::now();
            reload.load(first).unwrap();
            everything.rounds.push(begun.elapsed().as_secs_f64() * 1e3);
            let begun = Instant::now();
            let old = reload.load(second).unwrap();
            one.rounds.push(begun.elapsed().as_secs_f64() * 1e3);
            drop(old);
        }
    }
    vec![("everything new".to_owned(), everything), (ONE_FILE.to_owned(), one)]
}

/// A gate whose files change.
struct Running {
    files: Files,
    gate: Gate,
    policies: Vec<(String, String)>,
    changes: usize,
    changed: Changed,
}

impl Running {
    fn start(setting: &Setting, policies: usize) -> Self {
        let files = setting.files(policies);
        let gate = setting.start_one(&files);
        let before = gate.process.resident();
        let mut texts = world::files(policies, "");
        texts.retain(|(name, _)| name.ends_with(".cedar"));
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

    /// One file, then every one of them.
    fn change(&mut self, setting: &Setting) {
        let one = self.permit_more(setting);
        self.changed.one.push(one);
        for (name, text) in &self.policies {
            self.files.put(name, &format!("{text}// {}\n", self.changes));
        }
        let all = self.permit_more(setting);
        self.changed.all.push(all);
    }

    /// Milliseconds until it is permitted.
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

/// One policy about a path that no other names.
pub fn permit(path: &str) -> String {
    format!("@id(\"new\") permit (principal in Role::\"viewer\", action == Action::\"GET\", resource in Path::\"{path}\");\n")
}

fn loading(curves: &[Curve]) -> Table {
    let sizes = curves
        .first()
        .into_iter()
        .flat_map(|(_, costs)| costs.iter().map(|cost| cost.x));
    let row = |x: usize| {
        let cell = |costs: &[Cost]| {
            costs
                .iter()
                .find(|cost| cost.x == x)
                .map_or("–".to_owned(), |cost| short(cost.median()))
        };
        std::iter::once(grouped(x))
            .chain(curves.iter().map(|(_, costs)| cell(costs)))
            .collect()
    };
    Table {
        head: std::iter::once("policies".to_owned())
            .chain(curves.iter().map(|(name, _)| format!("in process, {name}, ms")))
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
        .map(|(name, costs)| Series {
            name: format!("in process, {name}"),
            points: costs.iter().map(|cost| (number(cost.x), cost.median())).collect(),
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
    let goal = |(size, what, limit): (usize, &str, f64)| {
        let found = changed.iter().find(|changed| changed.policies == size)?;
        let of = if what == EVERYTHING { &found.all } else { &found.one };
        let millis = median(of.iter().copied());
        Some(Goal {
            number: 10,
            what: format!("change to active at {} policies, {what}", grouped(size)),
            wanted: format!("≤ {limit} ms"),
            measured: format!("{} ms", short(millis)),
            met: millis <= limit,
            bound: None,
        })
    };
    GOALS.into_iter().filter_map(goal).collect()
}
