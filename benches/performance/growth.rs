//! What the gate costs as policies, entities, roles, portals, tokens and connections grow.
//!
//! First what can be measured in this process, then whole gates, each a process of its own.

mod batch;
mod connections;
mod draw;
mod entities;
#[path = "../gate/issuer.rs"]
mod issuer;
mod many_portals;
mod measure;
mod policies;
mod portals;
mod redis;
mod reload;
mod roles;
mod sessions;
mod setting;
mod start;
mod tokens;
mod traffic;
// one generator of policies for both programs
#[path = "../gate/world.rs"]
mod world;

use std::time::Instant;

use self::draw::{grouped, percent};
use self::measure::Cost;
use crate::Extent;
use crate::machine::{REST, Spinners, pin_thread, pinned};
use crate::report::{Goal, Section};

type Part = (&'static str, fn(Extent) -> Section);

const IN_PROCESS: [Part; 5] = [
    ("policies", policies::section),
    ("entities", entities::section),
    ("roles", roles::section),
    ("portals", portals::section),
    ("tokens", tokens::section),
];

pub fn sections(extent: Extent) -> Vec<Section> {
    // the gates that come later have the other core
    pin_thread(pinned(REST)).unwrap();
    let _awake = Spinners::start();
    IN_PROCESS
        .into_iter()
        .chain(WHOLE)
        .filter_map(|part| run(part, extent))
        .collect()
}

const WHOLE: [Part; 7] = [
    ("gate-portals", many_portals::section),
    ("reload", reload::section),
    ("traffic", traffic::section),
    ("start", start::section),
    ("batch", batch::section),
    ("connections", connections::section),
    ("sessions", sessions::section),
];

/// One part, or none where `GROWTH_ONLY` names others (`policies,tokens`).
fn run((name, part): Part, extent: Extent) -> Option<Section> {
    let wanted = std::env::var("GROWTH_ONLY").ok();
    if !wanted.is_none_or(|only| only.split(',').any(|only| only == name)) {
        return None;
    }
    let begun = Instant::now();
    let section = part(extent);
    println!("growth: {name} took {:.1} s", begun.elapsed().as_secs_f64());
    Some(section)
}

/// Sizes to measure; only the first few where nothing is.
fn sizes(extent: Extent, all: &[usize], few: usize) -> &[usize] {
    all.split_at_checked(few)
        .filter(|_| extent == Extent::Smoke)
        .map_or(all, |(few, _)| few)
}

/// Goal 4: the largest size costs at most `limit` times the smallest.
fn flat(name: &str, of: &str, costs: &[Cost], limit: f64) -> Option<Goal> {
    let (first, last) = (costs.first()?, costs.last()?);
    let ratio = last.ratio(first);
    Some(Goal {
        number: 4,
        what: format!("a decision is flat in {of}: {name}"),
        wanted: format!(
            "{} {of} within {:.0} % of {}",
            grouped(last.x),
            (limit - 1.0) * 100.0,
            grouped(first.x)
        ),
        measured: percent(ratio),
        met: ratio <= limit,
        bound: None,
    })
}
