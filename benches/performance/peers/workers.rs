//! One worker and two, and memory by policies: the gate alone.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cells::{number, range, table, times};
use super::http::{Site, gate_with_workers};
use super::rounds::{CONNECTIONS, Peer, Plan, Round, Shape, Spread, interleave};
use crate::load::Until;
use crate::machine::{DEVICE, pinned, thread_times};
use crate::report::{Goal, Section};

/// Wanted of two cores.
const GAIN_MIN: f64 = 1.8;

/// Of one round: requests per second, CPU per request of all threads and of the busiest one.
type Shares = (Round, f64);

/// Two workers beside app and load on as many cores cannot show twice the requests, so the gate's own time is compared.
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
    let rounds = |at: usize| -> Vec<Round> { all.get(at).into_iter().flatten().map(|(round, _)| *round).collect() };
    let busiest = |at: usize| {
        Spread::of(
            &all.get(at)
                .into_iter()
                .flatten()
                .map(|(_, busiest)| rate(*busiest))
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
            "App and load need CPU too, so that on two cores two workers cannot show twice the requests of one. What the gate itself allows is computed from its CPU time: with one \
             worker on a core of its own, a request takes all of its CPU time; with two, half of that, or what the busiest thread has of it if that is more. Whatever two workers \
             cost each other (locks, shared cache lines, an uneven spread of connections) is in these times; the last column is what came through on these cores."
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
    let pid = peer.server.process.pid();
    let before = thread_times(pid);
    let round = peer.measure(&peer.load(Shape::Closed(CONNECTIONS), Until::Time(time)))?;
    let after: BTreeMap<u32, Duration> = thread_times(pid);
    let used = after
        .iter()
        .map(|(thread, time)| time.saturating_sub(before.get(thread).copied().unwrap_or_default()));
    let busiest = used.max().unwrap_or_default().as_secs_f64() * 1e6 / round.answered;
    Ok((round, busiest))
}

fn goal(all: &[Vec<Shares>]) -> Option<Goal> {
    let (one, two) = (all.first()?, all.get(1)?);
    let gains = one
        .iter()
        .zip(two)
        .map(|((one, _), (two, busiest))| rate(one.cpu / (two.cpu / 2.0).max(*busiest)));
    let gain = Spread::of(&gains.collect::<Vec<_>>(), |round| round.rate)?;
    let met = gain.median >= GAIN_MIN;
    let of = |all: &[Shares], what: fn(&Shares) -> f64| {
        let values: Vec<Round> = all.iter().map(|shares| rate(what(shares))).collect();
        Spread::of(&values, |round| round.rate).unwrap_or_default().median
    };
    let bound = format!(
        "with two workers a request takes {:.1} µs of CPU instead of {:.1}, and the busiest thread has {:.1} µs of it",
        of(two, |(round, _)| round.cpu),
        of(one, |(round, _)| round.cpu),
        of(two, |(_, busiest)| *busiest),
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

/// What a gate needs under load, by policies.
pub fn memory(site: &Site<'_>, sizes: &[(usize, f64)], plan: Plan) -> Section {
    let mut rows = Vec::new();
    let mut goals = Vec::new();
    for (policies, limit) in sizes {
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
                "program, allocator and buffers of the connections are in it; growth per policy is in the other row".to_owned()
            }),
        });
    }
    Section {
        title: "Memory under load".to_owned(),
        text: vec!["Resident, with one worker, right after a closed loop over 32 connections.".to_owned()],
        tables: vec![table(["policies", "memory MiB"], rows)],
        goals,
        ..Section::default()
    }
}
