//! The gate beside other products that do the same job, and the gate beside itself as its work grows: one run, one
//! report.
//!
//! `make bench` runs it whole and writes `docs/performance.md`. The report compares numbers of one run; times of
//! different runs are not comparable. Without `--bench` (as under `cargo test`) every part runs once, small, and
//! nothing is written. Linux only: it reads CPU time and memory of processes from `/proc`.

#![expect(clippy::unwrap_used, reason = "a bench that cannot set up must stop and say so")]

mod builds;
mod gate;
mod growth;
mod load;
mod machine;
mod options;
mod peers;
mod process;
mod report;
mod spinners;
mod train;
mod transport;

use std::time::Instant;

use cedargate_benches::repository;
use clap::Parser;

use self::machine::Ticks;
use self::options::{Options, Part};
use self::report::Section;

/// The extent of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Long enough for numbers that can be published.
    Whole,
    /// Every part once, to see that it works.
    Smoke,
}

fn main() {
    let measured = std::env::args().any(|arg| arg == "--bench");
    if !measured && std::env::args().len() > 1 {
        println!("performance: arguments name tests, of which there are none here");
        return;
    }
    let options = if measured { Options::parse() } else { Options::smoke() };
    if !options.filter.is_empty() {
        println!("performance: a filter names other benches; `--only` names a part of this one");
        return;
    }
    if options.train || options.extent == Extent::Smoke {
        train::run(&options);
    }
    if options.train {
        return;
    }
    if !options.build.is_empty() {
        println!("{}", builds::compared(&options));
        return;
    }
    let started = Instant::now();
    let before = Ticks::now();
    let mut sections: Vec<Section> = Vec::new();
    if options.has(Part::Peers) {
        sections.extend(peers::sections(&options));
    }
    if options.has(Part::Transport) {
        sections.push(transport::section(&options));
    }
    if options.has(Part::Growth) {
        sections.extend(growth::sections(options.extent));
    } else if options.has(Part::Doors) {
        sections.extend(growth::doors_alone(options.extent));
    }
    let mut facts = machine::facts();
    facts.extend(peers::versions());
    facts.extend(options.facts());
    facts.push((
        "time".to_owned(),
        format!("{:.0} minutes", started.elapsed().as_secs_f64() / 60.0),
    ));
    let stolen = Ticks::now().stolen_since(before);
    facts.push(("stolen by the host".to_owned(), format!("{stolen:.2} % of the CPU time")));
    let page = options.page();
    let text = report::markdown(page, &facts, &sections);
    match options.extent {
        // proves that the report can be written
        Extent::Smoke => report::write(tempfile::tempdir().unwrap().path(), page, &facts, &sections).unwrap(),
        Extent::Whole => println!("{text}"),
    }
    if options.write {
        report::write(&repository().join("docs"), page, &facts, &sections).unwrap();
    }
}
