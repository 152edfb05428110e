//! The gate with one worker and with two, and its memory by number of policies.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cells::{number, range, table, times};
use super::http::{Site, gate_with_workers};
use super::rounds::{CONNECTIONS, Peer, Plan, Round, Shape, Spread, interleave};
use crate::load::Until;
use crate::machine::{DEVICE, pinned};
use crate::report::{Goal, Section};

/// Goal of two cores against one.
const GAIN_MIN: f64 = 1.8;

/// One round, and the CPU microseconds per request of the busiest thread.
struct Shares {
    round: Round,
    busiest: f64,
}

/// Memory that a gate may use with so many policies.
pub struct MemoryGoal {
    policies: usize,
    /// MiB.
    limit: f64,
}

impl MemoryGoal {
    pub const fn new(policies: usize, limit: f64) -> Self {
        Self { policies, limit }
    }
}

/// Compares the CPU time per request of one worker and of two. App and load run on the same two cores, so the request
/// rate of two workers cannot be twice that of one.
pub fn section(site: &Site<'_>, plan: Plan) -> Section {
    let peers: Result<Vec<Peer>, String> = [1, 2]
        .into_iter()
        .map(|workers| gate_with_workers(site, workers, None))
        .collect();
    let peers = match peers {
        Ok(peers) => peers,
        Err(reason) => return failed(&reason),
    };
    let mut all: Vec<Vec<Shares>> = vec![Vec::new(), Vec::new()];
    for round in 0..plan.rounds {
        for (peer, rounds) in peers.iter().zip(&mut all) {
            match measured(peer, plan.time) {
                Ok(measured) => rounds.push(measured),
                Err(reason) => return failed(&reason),
            }
        }
        eprintln!("  workers, round {} of {}", round + 1, plan.rounds);
    }
    let rounds = |at: usize| -> Vec<Round> { all.get(at).into_iter().flatten().map(|shares| shares.round).collect() };
    let busiest = |at: usize| {
        Spread::of(
            &all.get(at)
                .into_iter()
                .flatten()
                .map(|shares| rate(shares.busiest))
                .collect::<Vec<_>>(),
            |round| round.rate,
        )
    };
    let rows = peers.iter().enumerate().map(|(at, peer)| {
        let of = |what: fn(&Round) -> f64| Spread::of(&rounds(at), what).unwrap_or_default();
        vec![
            peer.name.clone(),
            number(of(|round| round.cpu).median),
            range(of(|round| round.cpu)),
            number(busiest(at).unwrap_or_default().median),
            number(of(|round| round.rate).median),
        ]
    });
    let head = [
        "no thread of gate and load pinned",
        "CPU µs/request",
        "of all rounds",
        "of it the busiest thread",
        "requests/s",
    ];
    Section {
        title: "Two workers".to_owned(),
        text: vec![
            "App and load need CPU too, so that on two cores two workers cannot show twice the requests of one. The goal is therefore computed from the gate's CPU time: with one \
             worker on a core of its own, a request takes all of its CPU time; with two, half of that, or the part of the busiest thread if that is more. The costs that two workers \
             cause each other (locks, shared cache lines, an uneven spread of connections) are in these times; the last column is the rate on these cores."
                .to_owned(),
        ],
        tables: vec![table(head, rows.collect())],
        goals: goal(&all).into_iter().collect(),
        ..Section::default()
    }
}

fn failed(reason: &str) -> Section {
    Section {
        title: "Two workers".to_owned(),
        text: vec![format!("Not measured: {reason}")],
        ..Section::default()
    }
}

fn rate(rate: f64) -> Round {
    Round {
        rate,
        ..Round::default()
    }
}

fn measured(peer: &Peer, time: Duration) -> Result<Shares, String> {
    let process = &peer.server.process;
    let before = process.thread_times();
    let round = peer.measure(&peer.load(Shape::Closed(CONNECTIONS), Until::Time(time)))?;
    let after: BTreeMap<u32, Duration> = process.thread_times();
    let used = after
        .iter()
        .map(|(thread, time)| time.saturating_sub(before.get(thread).copied().unwrap_or_default()));
    let busiest = used.max().unwrap_or_default().as_secs_f64() * 1e6 / round.answered;
    Ok(Shares { round, busiest })
}

fn goal(all: &[Vec<Shares>]) -> Option<Goal> {
    let one = all.first()?;
    let two = all.get(1)?;
    let gains = one
        .iter()
        .zip(two)
        .map(|(one, two)| rate(one.round.cpu / (two.round.cpu / 2.0).max(two.busiest)));
    let gain = Spread::of(&gains.collect::<Vec<_>>(), |round| round.rate)?;
    let met = gain.median >= GAIN_MIN;
    let of = |all: &[Shares], what: fn(&Shares) -> f64| {
        let values: Vec<Round> = all.iter().map(|shares| rate(what(shares))).collect();
        Spread::of(&values, |round| round.rate).unwrap_or_default().median
    };
    let bound = format!(
        "with two workers a request takes {:.1} µs of CPU instead of {:.1}, and the busiest thread has {:.1} µs of it",
        of(two, |shares| shares.round.cpu),
        of(one, |shares| shares.round.cpu),
        of(two, |shares| shares.busiest),
    );
    Some(Goal {
        number: 11,
        what: "two cores against one, by the gate's own CPU time".to_owned(),
        wanted: format!("≥ {GAIN_MIN}×"),
        measured: times(gain),
        met,
        bound: (!met).then_some(bound),
    })
}

/// Memory of a gate under load, by number of policies.
pub fn memory(site: &Site<'_>, all: &[MemoryGoal], plan: Plan) -> Section {
    let mut rows = Vec::new();
    let mut goals = Vec::new();
    for MemoryGoal { policies, limit } in all {
        let sized = Site {
            policies: *policies,
            ..*site
        };
        let Ok(peer) = gate_with_workers(&sized, 1, pinned(DEVICE)) else {
            continue;
        };
        let mut peers = [peer];
        let rounds = interleave(&mut peers, Plan { rounds: 1, ..plan }, Shape::Closed(CONNECTIONS));
        let Some(resident) = Spread::of(rounds.first().map_or(&[], Vec::as_slice), |round| round.resident) else {
            continue;
        };
        let policies = number(crate::load::count(*policies));
        rows.push(vec![policies.clone(), number(resident.median)]);
        let met = resident.median <= *limit;
        goals.push(Goal {
            number: 9,
            what: format!("resident memory under load at {policies} policies"),
            wanted: format!("≤ {limit} MiB"),
            measured: format!("{:.1} MiB", resident.median),
            met,
            bound: (!met).then(|| {
                "program, allocator and connection buffers are in it; the other row shows the growth per policy".to_owned()
            }),
        });
    }
    Section {
        title: "Memory under load".to_owned(),
        text: vec!["Resident memory with one worker, right after a closed loop over 32 connections.".to_owned()],
        tables: vec![table(["policies", "memory MiB"], rows)],
        goals,
        ..Section::default()
    }
}
