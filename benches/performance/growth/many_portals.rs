//! A whole gate against how many portals it has: requests, and what a change in one of them sets off.

use std::time::Duration;

use super::draw::{grouped, percent, short};
use super::measure::{median, number};
use super::portals;
use super::setting::{Files, Setting, Spent, spend, until_permitted};
use crate::Extent;
use crate::gate::Gate;
use crate::load;
use crate::machine::{DEVICE, pause, pinned};
use crate::report::{Axis, Goal, Plot, Section, Series, Table};

const SIZES: [usize; 4] = [1, 10, 100, 1_000];
const ROUNDS: usize = 7;
/// Of how many portals one changes.
const CHANGED: [usize; 3] = [1, 200, 1_000];
const CHANGES: usize = 5;
/// For how long a gate is left alone: two looks at its files, unless configured otherwise.
const ALONE: Duration = Duration::from_secs(10);
/// So that looking at the files is not counted among the requests.
const SELDOM: &str = "poll: 1h,";

struct Asked {
    portals: usize,
    gate: Gate,
    one: Vec<Spent>,
    all: Vec<Spent>,
}

struct Changed {
    portals: usize,
    millis: Vec<f64>,
    /// Loads of the portal that changed, and of all others, per change.
    own: f64,
    others: f64,
    /// Milliseconds of a processor in a second, of a gate that is left alone.
    alone: f64,
}

pub fn section(extent: Extent) -> Section {
    let setting = Setting::new();
    let asked = asked(extent, &setting);
    let changed: Vec<Changed> = super::sizes(extent, &CHANGED, 1)
        .iter()
        .map(|size| change(extent, &setting, *size))
        .collect();
    Section {
        title: "A whole gate against portals".to_owned(),
        text: vec![
            "The whole program on one core, 16 connections, tokens that were seen before; a gate of its own for each row, their rounds in turn. \
             Processor time of the gate per request; the share of a decision in it is in the section above."
                .to_owned(),
            "Then the policies of one portal change: from renaming its file into place to the first request that is answered by the new \
             policies, and how often portals were loaded because of it (`cedargate_reload_total`). Left alone, a gate looks at its files every five seconds."
                .to_owned(),
        ],
        tables: vec![requests(&asked), changes(&changed)],
        plots: vec![plot(&asked)],
        goals: goals(&asked),
        ..Section::default()
    }
}

fn asked(extent: Extent, setting: &Setting) -> Vec<Asked> {
    let sizes = super::sizes(extent, &SIZES, 2);
    let start = |portals: &usize| Asked {
        portals: *portals,
        gate: start(setting, &files(setting, *portals), SELDOM),
        one: Vec::new(),
        all: Vec::new(),
    };
    let mut all: Vec<Asked> = sizes.iter().map(start).collect();
    let (rounds, time) = if extent == Extent::Whole {
        (ROUNDS, Duration::from_millis(500))
    } else {
        (1, Duration::from_millis(10))
    };
    for _ in 0..rounds {
        for asked in &mut all {
            let requests: Vec<Vec<u8>> = (0..asked.portals)
                .map(|n| setting.get(&format!("/portal/p-{n}/shop/cart")))
                .collect();
            let one = requests.get(asked.portals / 2..=asked.portals / 2).unwrap();
            asked.one.push(spend(&asked.gate, asked.gate.proxy, one, time));
            asked.all.push(spend(&asked.gate, asked.gate.proxy, &requests, time));
        }
    }
    all
}

fn files(setting: &Setting, portals: usize) -> Files {
    let files = setting.no_files();
    for n in 0..portals {
        let name = format!("p-{n}");
        let (schema, policies) = portals::files(&name);
        files.put(&format!("schemas/{name}.cedarschema"), schema);
        files.put(&format!("policies/{name}/main.cedar"), &policies);
    }
    files
}

fn start(setting: &Setting, files: &Files, more: &str) -> Gate {
    setting.start(files, pinned(DEVICE), &format!("policies: {{ {more} require: [p-0] }}\n"))
}

/// Milliseconds of a processor in a second.
fn alone(extent: Extent, gate: &Gate) -> f64 {
    let time = if extent == Extent::Whole { ALONE } else { ALONE / 1_000 };
    let before = gate.process.cpu_time();
    pause(time);
    gate.process.cpu_time().saturating_sub(before).as_secs_f64() * 1e3 / time.as_secs_f64()
}

fn change(extent: Extent, setting: &Setting, portals: usize) -> Changed {
    let files = files(setting, portals);
    let gate = start(setting, &files, "");
    let mut changed = Changed {
        portals,
        millis: Vec::new(),
        own: 0.0,
        others: 0.0,
        alone: 0.0,
    };
    let changes = if extent == Extent::Whole { CHANGES } else { 1 };
    let name = format!("p-{}", portals / 2);
    let before = loads(&gate, &name);
    for n in 0..changes {
        let place = format!("/portal/{name}/new-{n}");
        let (_, policies) = portals::files(&name);
        let more = format!(
            "@id(\"new\") permit (principal in Role::\"viewer\", action == Action::\"GET\", resource in Path::\"{place}\");\n"
        );
        files.put(&format!("policies/{name}/main.cedar"), &(policies + &more));
        changed
            .millis
            .push(until_permitted(&gate, &setting.get(&place)).as_secs_f64() * 1e3);
    }
    let after = loads(&gate, &name);
    changed.own = (after.0 - before.0) / number(changes);
    changed.others = (after.1 - before.1) / number(changes);
    changed.alone = alone(extent, &gate);
    changed
}

/// How often this portal was loaded, and all others.
fn loads(gate: &Gate, portal: &str) -> (f64, f64) {
    let (_, metrics) = load::ask(gate.admin, &load::request("GET", "/metrics", &[], None)).unwrap();
    let lines = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("cedargate_reload_total{")?.rsplit_once(' '));
    let (mut own, mut others) = (0.0, 0.0);
    for (labels, value) in lines {
        let counted: f64 = value.parse().unwrap();
        let is_own = labels.contains(&format!("portal=\"{portal}\""));
        *(if is_own { &mut own } else { &mut others }) += counted;
    }
    (own, others)
}

fn middle(spent: &[Spent], of: fn(&Spent) -> f64) -> f64 {
    median(spent.iter().map(of))
}

/// Of the processor's time, round by round.
fn ratio(spent: &[Spent], base: &[Spent]) -> f64 {
    median(spent.iter().zip(base).map(|(own, other)| own.cpu / other.cpu))
}

fn requests(all: &[Asked]) -> Table {
    let base = all.first();
    let row = |asked: &Asked| {
        let against = base.map_or("–".to_owned(), |base| percent(ratio(&asked.one, &base.one)));
        vec![
            grouped(asked.portals),
            short(middle(&asked.one, |spent| spent.cpu)),
            against,
            short(middle(&asked.one, |spent| spent.rate)),
            short(middle(&asked.all, |spent| spent.cpu)),
            short(middle(&asked.all, |spent| spent.rate)),
            short(asked.gate.process.resident()),
        ]
    };
    let head = [
        "portals",
        "one asked: CPU, µs",
        "against one portal",
        "requests/s",
        "all in turn: CPU, µs",
        "requests/s",
        "RSS, MiB",
    ];
    Table {
        head: head.map(str::to_owned).into(),
        rows: all.iter().map(row).collect(),
    }
}

fn changes(all: &[Changed]) -> Table {
    let row = |changed: &Changed| {
        vec![
            grouped(changed.portals),
            short(median(changed.millis.iter().copied())),
            short(changed.own),
            short(changed.others),
            short(changed.alone),
        ]
    };
    Table {
        head: [
            "portals",
            "change of one to active, ms",
            "loads of it",
            "loads of others",
            "left alone: CPU, ms/s",
        ]
        .map(str::to_owned)
        .into(),
        rows: all.iter().map(row).collect(),
    }
}

fn plot(all: &[Asked]) -> Plot {
    let series = |name: &str, of: fn(&Asked) -> &Vec<Spent>| Series {
        name: name.to_owned(),
        points: all
            .iter()
            .map(|asked| (number(asked.portals), middle(of(asked), |spent| spent.cpu)))
            .collect(),
    };
    Plot {
        name: "growth-gate-portals".to_owned(),
        title: "A request against portals".to_owned(),
        x: Axis {
            label: "portals".to_owned(),
            logarithmic: true,
        },
        y: Axis {
            label: "µs of CPU".to_owned(),
            logarithmic: true,
        },
        series: vec![
            series("one of them asked", |asked| &asked.one),
            series("all in turn", |asked| &asked.all),
        ],
    }
}

fn goals(all: &[Asked]) -> Vec<Goal> {
    let (Some(first), Some(last)) = (all.first(), all.last()) else {
        return Vec::new();
    };
    let ratio = ratio(&last.one, &first.one);
    vec![Goal {
        number: 4,
        what: "processor time of a request is flat in portals".to_owned(),
        wanted: format!("{} portals within 5 % of {}", grouped(last.portals), grouped(first.portals)),
        measured: percent(ratio),
        met: ratio <= 1.05,
        bound: None,
    }]
}
