//! The gate beside what a user would pick instead, and the gate beside itself as its work grows: one run, one report.
//!
//! `make bench` runs it whole and writes `docs/performance.md`. Ratios of one run count, not its times. Without `--bench`
//! (as `cargo test` does) every part runs once, small, and nothing is written.

#![expect(clippy::unwrap_used, reason = "a bench that cannot set up must stop and say so")]

mod gate;
mod growth;
mod load;
mod machine;
mod peers;
mod process;
mod report;

use self::report::Section;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Enough for numbers that can be published.
    Whole,
    /// Enough to see that every part works.
    Smoke,
}

fn main() {
    let extent = if std::env::args().any(|arg| arg == "--bench") {
        Extent::Whole
    } else {
        Extent::Smoke
    };
    let sections: Vec<Section> = peers::sections(extent).into_iter().chain(growth::sections(extent)).collect();
    for section in &sections {
        println!("{section:#?}");
    }
}
