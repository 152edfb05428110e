//! The cost of the gate as policies, entities, roles, portals, tokens and connections grow.
//!
//! First the functions that can be called in this process, then whole gates, each a process of its own.

mod batch;
mod connections;
mod doors;
mod draw;
mod entities;
mod many_portals;
pub mod measure;
mod policies;
mod portals;
pub mod redis;
mod reload;
mod roles;
mod sessions;
pub mod setting;
mod start;
mod tokens;
mod traffic;

use std::time::Instant;

use self::draw::{Curve, grouped, percent};
use crate::Extent;
use crate::machine::{REST, pin_thread, pinned};
use crate::report::{Goal, Section};
use crate::spinners::Spinners;

/// One section of the report, by the name that `GROWTH_ONLY` takes.
struct Part {
    name: &'static str,
    section: fn(Extent) -> Section,
}

/// Functions called in this process, then whole gates.
const PARTS: [Part; 13] = [
    Part::new("policies", policies::section),
    Part::new("entities", entities::section),
    Part::new("roles", roles::section),
    Part::new("portals", portals::section),
    Part::new("tokens", tokens::section),
    Part::new("gate-portals", many_portals::section),
    Part::new("reload", reload::section),
    Part::new("traffic", traffic::section),
    Part::new("start", start::section),
    Part::new("batch", batch::section),
    Part::new("doors", doors::section),
    Part::new("connections", connections::section),
    Part::new("sessions", sessions::section),
];

pub fn sections(extent: Extent) -> Vec<Section> {
    // the gates that start later run on the other core
    pin_thread(pinned(REST)).unwrap();
    let _awake = Spinners::start();
    PARTS.iter().filter_map(|part| part.run(extent)).collect()
}

/// The section of the doors.
pub fn doors_alone(extent: Extent) -> Vec<Section> {
    pin_thread(pinned(REST)).unwrap();
    let _awake = Spinners::start();
    vec![doors::section(extent)]
}

impl Part {
    const fn new(name: &'static str, section: fn(Extent) -> Section) -> Self {
        Self { name, section }
    }

    /// Measures the part; `None` if `GROWTH_ONLY` names other parts (`policies,tokens`).
    fn run(&self, extent: Extent) -> Option<Section> {
        let wanted = std::env::var("GROWTH_ONLY").ok();
        if !wanted.is_none_or(|only| only.split(',').any(|only| only == self.name)) {
            return None;
        }
        let begun = Instant::now();
        let section = (self.section)(extent);
        println!("growth: {} took {:.1} s", self.name, begun.elapsed().as_secs_f64());
        Some(section)
    }
}

/// The sizes to measure; the first `few` in a smoke run.
fn sizes(extent: Extent, all: &[usize], few: usize) -> &[usize] {
    all.split_at_checked(few)
        .filter(|_| extent == Extent::Smoke)
        .map_or(all, |(few, _)| few)
}

/// Goal 4: the largest size costs at most `limit` times the smallest.
fn flat(curve: &Curve, of: &str, limit: f64) -> Option<Goal> {
    let first = curve.costs.first()?;
    let last = curve.costs.last()?;
    let ratio = last.ratio(first);
    Some(Goal {
        number: 4,
        what: format!("a decision is flat in {of}: {}", curve.name),
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
