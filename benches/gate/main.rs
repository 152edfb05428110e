//! What the gate costs where it costs: deciding, knowing the caller, loading policies. See `benches/README.md`.
//!
//! One program, so that one link serves all. Run without `--bench` (as `cargo test` does) it asks every question once,
//! over small sets only; a bench that no longer sets up fails there.

#![expect(clippy::unwrap_used, reason = "a bench that cannot set up must stop and say so")]

mod decision;
mod issuer;
mod reload;
mod token;
mod world;

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

/// Numbers of policies; few where nothing is measured.
fn sizes(all: &'static [usize]) -> &'static [usize] {
    let measured = std::env::args().any(|arg| arg == "--bench");
    let few = all.split_at(1).0;
    if measured { all } else { few }
}
