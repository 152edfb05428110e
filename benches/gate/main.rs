//! The parts that decide the gate's speed: decisions, tokens, loading policies. See `benches/README.md`.
//!
//! One program, so that the linker runs once. Without `--bench` (as under `cargo test`) every measured function runs
//! once over small policy sets, so that a bench whose setup fails is found there.

#![expect(clippy::unwrap_used, reason = "a bench that cannot set up must stop and say so")]

mod decision;
mod reload;
mod token;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .configure_from_args();
    decision::bench(&mut criterion);
    token::bench(&mut criterion);
    reload::bench(&mut criterion);
    criterion.final_summary();
}

/// Numbers of policies; only the first where nothing is measured.
fn sizes(all: &'static [usize]) -> &'static [usize] {
    let is_measured = std::env::args().any(|arg| arg == "--bench");
    if is_measured { all } else { all.split_at(1).0 }
}
