//! A whole gate against its number of portals: requests, and a policy change in one portal.

use std::time::Duration;

use super::draw::{grouped, percent, short};
use super::measure::{median, number};
use super::portals;
use super::reload::permit;
use super::setting::{Files, Setting, Spent, spend, until_permitted};
use crate::Extent;
use crate::gate::Gate;
use crate::load;
use crate::machine::{DEVICE, pause, pinned};
use crate::report::{Axis, Goal, Plot, Section, Series, Table};

const SIZES: [usize; 4] = [1, 10, 100, 1_000];
const ROUNDS: usize = 7;
/// Numbers of portals, of which one changes.
const CHANGED: [usize; 3] = [1, 200, 1_000];
const CHANGES: usize = 5;
/// Time in which a gate gets no request: it looks at its files twice.
const IDLE: Duration = Duration::from_secs(10);
/// The gate does not look at its files while requests are measured.
const SELDOM: &str = "poll: 1h,";

struct Sized {
    portals: usize,
    gate: Gate,
    one: Vec<Spent>,
    all: Vec<Spent>,
}

struct Changed {
    portals: usize,
    millis: Vec<f64>,
    /// Loads of the portal that changed, and of all other portals, per change.
    own: f64,
    others: f64,
    /// CPU milliseconds per second of a gate without requests.
    idle: f64,
}

/// Loads of one portal, and of all other portals together.
#[derive(Default)]
struct Loads {
    own: f64,
    others: f64,
}

pub fn section(extent: Extent) -> Section {
    let setting = Setting::new();
    let sized = measure(extent, &setting);
    let changed: Vec<Changed> = super::sizes(extent, &CHANGED, 1)
        .iter()
        .map(|size| change(extent, &setting, *size))
        .collect();
    Section {
        title: "A whole gate against portals".to_owned(),
        text: vec![
            "The whole program on one core, 16 connections, tokens that are in the cache; a gate of its own for each row, their rounds in turn. \
             CPU time of the gate per request; the share of a decision in it is in the section above."
                .to_owned(),
            "Then the policies of one portal change: from renaming its file into place to the first request that is answered by the new \
             policies, and how often portals were loaded because of it (`cedargate_reload_total`). Without requests, a gate looks at its files every five seconds."
                .to_owned(),
        ],
        tables: vec![requests(&sized), changes(&changed)],
        plots: vec![plot(&sized)],
        goals: goals(&sized),
        ..Section::default()
    }
}

fn measure(extent: Extent, setting: &Setting) -> Vec<Sized> {
    let sizes = super::sizes(extent, &SIZES, 2);
    let start = |portals: &usize| Sized {
        portals: *portals,
        gate: start(setting, &files(setting, *portals), SELDOM),
        one: Vec::new(),
        all: Vec::new(),
    };
    let mut all: Vec<Sized> = sizes.iter().map(start).collect();
    let (rounds, time) = if extent == Extent::Whole {
        (ROUNDS, Duration::from_millis(500))
    } else {
        (1, Duration::from_millis(10))
    };
    for _ in 0..rounds {
        for sized in &mut all {
            let requests: Vec<Vec<u8>> = (0..sized.portals)
                .map(|n| setting.get(&format!("/portal/{}/shop/cart", portals::slug(n))))
                .collect();
            let one = requests.get(sized.portals / 2..=sized.portals / 2).unwrap();
            sized.one.push(spend(&sized.gate, sized.gate.proxy, one, time));
            sized.all.push(spend(&sized.gate, sized.gate.proxy, &requests, time));
        }
    }
    all
}

fn files(setting: &Setting, portals: usize) -> Files {
    let files = setting.no_files();
    for n in 0..portals {
        files.put_all(&portals::files(&portals::slug(n)));
    }
    files
}

fn start(setting: &Setting, files: &Files, more: &str) -> Gate {
    setting.start(files, pinned(DEVICE), &format!("policies: {{ {more} require: [p-0] }}\n"))
}

/// CPU milliseconds per second without requests.
fn idle(extent: Extent, gate: &Gate) -> f64 {
    let time = if extent == Extent::Whole { IDLE } else { IDLE / 1_000 };
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
        idle: 0.0,
    };
    let changes = if extent == Extent::Whole { CHANGES } else { 1 };
    let name = portals::slug(portals / 2);
    let before = loads(&gate, &name);
    for n in 0..changes {
        let path = format!("/portal/{name}/new-{n}");
        files.put(&portals::policies_file(&name), &(portals::policies(&name) + &permit(&path)));
        changed
            .millis
            .push(until_permitted(&gate, &setting.get(&path)).as_secs_f64() * 1e3);
    }
    let after = loads(&gate, &name);
    changed.own = (after.own - before.own) / number(changes);
    changed.others = (after.others - before.others) / number(changes);
    changed.idle = idle(extent, &gate);
    changed
}

/// Counts the loads since the gate started.
fn loads(gate: &Gate, portal: &str) -> Loads {
    let (_, metrics) = load::ask(gate.admin, &load::request("GET", "/metrics", &[], None)).unwrap();
    let lines = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("cedargate_reload_total{")?.rsplit_once(' '));
    let mut loads = Loads::default();
    for (labels, value) in lines {
        let counted: f64 = value.parse().unwrap();
        let is_own = labels.contains(&format!("portal=\"{portal}\""));
        *(if is_own { &mut loads.own } else { &mut loads.others }) += counted;
    }
    loads
}

fn middle(spent: &[Spent], of: fn(&Spent) -> f64) -> f64 {
    median(spent.iter().map(of))
}

/// Ratio of CPU times, round by round.
fn ratio(spent: &[Spent], base: &[Spent]) -> f64 {
    median(spent.iter().zip(base).map(|(own, other)| own.cpu / other.cpu))
}

fn requests(all: &[Sized]) -> Table {
    let base = all.first();
    let row = |sized: &Sized| {
        let against = base.map_or("–".to_owned(), |base| percent(ratio(&sized.one, &base.one)));
        vec![
            grouped(sized.portals),
            short(middle(&sized.one, |spent| spent.cpu)),
            against,
            short(middle(&sized.one, |spent| spent.rate)),
            short(middle(&sized.all, |spent| spent.cpu)),
            short(middle(&sized.all, |spent| spent.rate)),
            short(sized.gate.process.resident()),
        ]
    };
    let head = [
        "portals",
        "one of them: CPU, µs",
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
            short(changed.idle),
        ]
    };
    Table {
        head: [
            "portals",
            "change of one to active, ms",
            "loads of it",
            "loads of the rest",
            "without requests: CPU, ms/s",
        ]
        .map(str::to_owned)
        .into(),
        rows: all.iter().map(row).collect(),
    }
}

fn plot(all: &[Sized]) -> Plot {
    let series = |name: &str, of: fn(&Sized) -> &Vec<Spent>| Series {
        name: name.to_owned(),
        points: all
            .iter()
            .map(|sized| (number(sized.portals), middle(of(sized), |spent| spent.cpu)))
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
            series("one of them", |sized| &sized.one),
            series("all in turn", |sized| &sized.all),
        ],
    }
}

fn goals(all: &[Sized]) -> Vec<Goal> {
    let (Some(first), Some(last)) = (all.first(), all.last()) else {
        return Vec::new();
    };
    let ratio = ratio(&last.one, &first.one);
    vec![Goal {
        number: 4,
        what: "CPU time of a request is flat in portals".to_owned(),
        wanted: format!("{} portals within 5 % of {}", grouped(last.portals), grouped(first.portals)),
        measured: percent(ratio),
        met: ratio <= 1.05,
        bound: None,
    }]
}
