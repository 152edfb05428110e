//! What the gate costs as policies, entities, roles, portals, tokens and connections grow.
//!
//! First what can be measured in this process, then whole gates, each a process of its own.

mod draw;
mod entities;
mod issuer;
mod measure;
mod policies;
mod portals;
mod roles;
mod tokens;
// one generator of policies for both programs
#[path = "../gate/world.rs"]
mod world;

use std::time::Instant;

use self::draw::{grouped, percent};
use self::measure::{Cost, pin};
use crate::Extent;
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
    pin("1");
    let sections = IN_PROCESS.into_iter().filter_map(|part| run(part, extent)).collect();
    pin("0-1");
    sections
}

/// One part, or none where `PERFORMANCE_ONLY` names others (`growth-policies,growth-tokens`).
fn run((name, part): Part, extent: Extent) -> Option<Section> {
    let wanted = std::env::var("PERFORMANCE_ONLY").ok();
    let is_wanted = |only: String| only.split(',').any(|only| only.strip_prefix("growth-") == Some(name) || only == "growth");
    if !wanted.is_none_or(is_wanted) {
        return None;
    }
    let begun = Instant::now();
    let section = part(extent);
    println!("growth: {name} took {:.1} s", begun.elapsed().as_secs_f64());
    Some(section)
}

/// Sizes to measure; only the first few where nothing is.
fn sizes(extent: Extent, all: &[usize], few: usize) -> &[usize] {
    all.split_at_checked(few).filter(|_| extent == Extent::Smoke).map_or(all, |(few, _)| few)
}

/// Goal 4: the largest size costs at most `limit` times the smallest.
fn flat(name: &str, of: &str, costs: &[Cost], limit: f64) -> Option<Goal> {
    let (first, last) = (costs.first()?, costs.last()?);
    let ratio = last.ratio(first);
    Some(Goal {
        number: 4,
        what: format!("a decision is flat in {of}: {name}"),
        wanted: format!("{} {of} within {:.0} % of {}", grouped(last.x), (limit - 1.0) * 100.0, grouped(first.x)),
        measured: percent(ratio),
        met: ratio <= limit,
        bound: None,
    })
}
