//! Decision services at several numbers of policies.

use std::path::Path;

use super::apis::Api;
use super::cells::{bars, gain, number, range, ratio, table, times};
use super::http::Missing;
use super::rounds::{CONNECTIONS, Peer, Plan, Round, Shape, Spread, interleave};
use crate::report::{Goal, Section};

/// The services at one number of policies.
struct Sized {
    policies: usize,
    apis: Vec<Api>,
    rounds: Vec<Vec<Round>>,
}

pub fn section(folder: &Path, sizes: &[usize], plan: Plan) -> Section {
    let mut missing: Vec<Missing> = Vec::new();
    let measured: Vec<Sized> = sizes
        .iter()
        .map(|policies| measure(folder, *policies, plan, &mut missing))
        .collect();
    let rows = measured.iter().flat_map(Sized::rows);
    let mut tables = vec![table(
        [
            "service",
            "policies",
            "decisions/s",
            "of all rounds",
            "gate / peer",
            "CPU µs/decision",
            "memory MiB",
        ],
        rows.collect(),
    )];
    if !missing.is_empty() {
        let rows = missing.into_iter().map(|one| vec![one.name, one.reason]);
        tables.push(table(["missing", "why"], rows.collect()));
    }
    let charts = measured.iter().map(|size| {
        let name = format!("decisions-{}", size.policies);
        let title = format!("Decisions per second at {} policies, one core", size.policies);
        let all = size
            .apis
            .iter()
            .zip(&size.rounds)
            .map(|(api, rounds)| (api.name(), rounds.as_slice()));
        bars(&name, &title, "decisions/s over HTTP, 32 connections", all, |round| {
            round.rate
        })
    });
    Section {
        title: "Decisions over HTTP".to_owned(),
        text: vec![
            "JSON in, JSON out, 32 connections, closed loop, each on one core: may alice, a viewer, view a document of the catalogue? cedar-agent has the same Cedar policies and \
             entities as the gate; Cerbos has a resource policy per kind, OPA a rule per policy whose first condition it can index, and both get the roles with the query. \
             The gate writes a decision record for each answer, the other services write none. Before the measurement, each service has allowed this query, denied two others and refused a truncated one."
                .to_owned(),
        ],
        tables,
        bars: charts.collect(),
        goals: goals(&measured),
        ..Section::default()
    }
}

fn measure(folder: &Path, policies: usize, plan: Plan, missing: &mut Vec<Missing>) -> Sized {
    let mut apis = Vec::new();
    let mut peers = Vec::new();
    for api in Api::ALL {
        let started = api.start(folder, policies);
        match started.and_then(|server| api.check(&server).map(|()| server)) {
            Ok(server) => {
                apis.push(api);
                peers.push(Peer {
                    name: format!("{} at {policies}", api.name()),
                    server,
                    requests: vec![api.request()],
                    records: None,
                    failed: None,
                });
            }
            Err(reason) => {
                assert!(api != Api::Gate, "{}: {reason}", api.name());
                let name = format!("{}, {policies} policies", api.name());
                eprintln!("  {name}: {reason}");
                missing.push(Missing { name, reason });
            }
        }
    }
    let rounds = interleave(&mut peers, plan, Shape::Closed(CONNECTIONS));
    for peer in peers {
        missing.extend(peer.failed.map(|reason| Missing { name: peer.name, reason }));
    }
    Sized { policies, apis, rounds }
}

impl Sized {
    fn of(&self, api: Api) -> Option<&[Round]> {
        let at = self.apis.iter().position(|one| *one == api)?;
        Some(self.rounds.get(at)?.as_slice()).filter(|rounds| !rounds.is_empty())
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let gate = self.of(Api::Gate);
        let rows = self.apis.iter().filter_map(|api| {
            let rounds = self.of(*api)?;
            let of = |what: fn(&Round) -> f64| Spread::of(rounds, what).unwrap_or_default();
            Some(vec![
                api.name().to_owned(),
                number_of(self.policies),
                number(of(|round| round.rate).median),
                range(of(|round| round.rate)),
                gate.and_then(|gate| ratio(gate, rounds, |round| round.rate))
                    .map_or_else(String::new, times),
                number(of(|round| round.cpu).median),
                number(of(|round| round.resident).high),
            ])
        });
        rows.collect()
    }
}

fn number_of(policies: usize) -> String {
    number(crate::load::count(policies)).trim_end_matches(".0").to_owned()
}

fn goals(all: &[Sized]) -> Vec<Goal> {
    let (Some(smallest), Some(largest)) = (all.first(), all.last()) else {
        return Vec::new();
    };
    let goal = |size: &Sized, api: Api, wanted: f64| {
        let gate = size.of(Api::Gate);
        let measured = gate.zip(size.of(api)).and_then(|(gate, other)| gain(gate, other));
        let cpu = gate
            .and_then(|gate| Spread::of(gate, |round| round.cpu))
            .unwrap_or_default()
            .median;
        let met = measured.is_some_and(|(ratio, _)| ratio.median >= wanted);
        let bound = match measured {
            Some(_) => format!("{cpu:.1} µs of CPU per query of the gate, HTTP, JSON and the record included"),
            None => format!("{} was not measured; the table says why", api.name()),
        };
        Goal {
            number: 6,
            what: format!("`/authorize` against {} at {} policies", api.name(), number_of(size.policies)),
            wanted: format!("≥ {wanted}×"),
            measured: measured.map_or_else(|| "not measured".to_owned(), |(ratio, how)| format!("{} {how}", times(ratio))),
            met,
            bound: (!met).then_some(bound),
        }
    };
    vec![
        goal(smallest, Api::CedarAgent, 8.0),
        goal(largest, Api::CedarAgent, 80.0),
        goal(smallest, Api::Cerbos, 20.0),
        goal(largest, Api::Cerbos, 20.0),
    ]
}
