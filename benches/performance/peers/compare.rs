//! The proxies in front of the app, under every shape of load: tables, plots and goals.

use super::cells::{BUSY_MIN, bars, gain, number, range, ratio, table, times};
use super::http::{Missing, ProxyKind, Site};
use super::rounds::{CONNECTIONS, Peer, Plan, Round, Shape, Spread, interleave};
use super::servers::EnvoyOptions;
use crate::report::{Goal, Section, Table};

/// Rate of the first open loop, as a share of the slowest peer's highest rate: every peer can keep it.
const SHARE_OF_SLOWEST: f64 = 0.5;
/// Rate of the second open loop, as a share of the gate's highest rate: only the faster peers can keep it.
const SHARE_OF_GATE: f64 = 0.5;
/// Policies of the Envoy with few.
const FEW_POLICIES: usize = 10;
/// A peer that answers a smaller share of the requests that were due does not keep the rate.
const KEPT_MIN: f64 = 0.98;

/// The peers that started and answered rightly, in the order of the tables.
pub struct Compared {
    kinds: Vec<ProxyKind>,
    pub peers: Vec<Peer>,
    missing: Vec<Missing>,
    closed: Vec<Vec<Round>>,
    single: Vec<Vec<Round>>,
    open: Vec<OpenLoop>,
}

/// The rounds of an open loop with this many requests per second.
struct OpenLoop {
    rate: f64,
    rounds: Vec<Vec<Round>>,
}

impl Compared {
    pub fn start(site: &Site<'_>) -> Self {
        let envoy = |policies, token_cache| ProxyKind::Envoy(EnvoyOptions { policies, token_cache });
        let mut wanted = vec![
            ProxyKind::Gate,
            ProxyKind::GateConditional,
            ProxyKind::GatePublic,
            ProxyKind::Nginx,
            ProxyKind::NginxAuthRequest,
            ProxyKind::Haproxy,
            envoy(FEW_POLICIES, false),
            envoy(FEW_POLICIES, true),
        ];
        if site.policies > FEW_POLICIES {
            wanted.extend([envoy(site.policies, false), envoy(site.policies, true)]);
        }
        let mut kinds = Vec::new();
        let mut peers = Vec::new();
        let mut missing = Vec::new();
        for kind in wanted {
            match kind.start(site) {
                Ok(peer) => {
                    kinds.push(kind);
                    peers.push(peer);
                }
                Err(reason) => {
                    let name = kind.name();
                    let is_gate = matches!(kind, ProxyKind::Gate | ProxyKind::GateConditional | ProxyKind::GatePublic);
                    assert!(!is_gate, "{name}: {reason}");
                    eprintln!("  {name}: {reason}");
                    missing.push(Missing { name, reason });
                }
            }
        }
        Self {
            kinds,
            peers,
            missing,
            closed: Vec::new(),
            single: Vec::new(),
            open: Vec::new(),
        }
    }

    pub fn measure(&mut self, plan: Plan) {
        self.closed = interleave(&mut self.peers, plan, Shape::Closed(CONNECTIONS));
        let rates = self.closed.iter().filter_map(|rounds| Spread::of(rounds, |round| round.rate));
        let slowest = rates.map(|rate| rate.median).fold(f64::INFINITY, f64::min);
        let gate = self
            .closed(ProxyKind::Gate)
            .and_then(|rounds| Spread::of(rounds, |round| round.rate));
        if slowest.is_finite() {
            let rates = [Some(slowest * SHARE_OF_SLOWEST), gate.map(|gate| gate.median * SHARE_OF_GATE)];
            for rate in rates.into_iter().flatten() {
                let rounds = interleave(&mut self.peers, plan, Shape::Open(rate));
                self.open.push(OpenLoop { rate, rounds });
            }
        }
        let short = Plan {
            time: plan.time / 2,
            ..plan
        };
        self.single = interleave(&mut self.peers, short, Shape::Closed(1));
    }

    fn of<'a>(&self, all: &'a [Vec<Round>], kind: ProxyKind) -> Option<&'a [Round]> {
        let at = self.kinds.iter().position(|one| *one == kind)?;
        Some(all.get(at)?.as_slice()).filter(|rounds| !rounds.is_empty())
    }

    fn closed(&self, kind: ProxyKind) -> Option<&[Round]> {
        self.of(&self.closed, kind)
    }

    fn rows<'a>(&'a self, all: &'a [Vec<Round>]) -> impl Iterator<Item = (&'a str, &'a [Round])> {
        let names = self.peers.iter().map(|peer| peer.name.as_str());
        names
            .zip(all.iter().map(Vec::as_slice))
            .filter(|(_, rounds)| !rounds.is_empty())
    }

    pub fn section(&self, site: &Site<'_>) -> Section {
        let mut tables = vec![self.jobs(), self.closed_table()];
        tables.extend(self.open.iter().map(|open| self.open_table(open)));
        tables.push(self.single_table());
        let charts = vec![
            bars(
                "throughput",
                "Requests per second, one core",
                "requests/s, 32 connections, closed loop",
                self.rows(&self.closed),
                |round| round.rate,
            ),
            bars(
                "cpu",
                "CPU time per request",
                "microseconds of CPU per request",
                self.rows(&self.closed),
                |round| round.cpu,
            ),
            bars(
                "latency",
                "Median latency, one request at a time",
                "microseconds, one connection",
                self.rows(&self.single),
                |round| round.p50,
            ),
        ];
        let recorded = self.records();
        Section {
            title: "The same job, done by other products".to_owned(),
            text: vec![
                format!(
                    "Each peer forwards the same GET to the same app (nginx, a small answer) on one core of its own; app and load share the other. \
                     The gate has {} policies, of which one applies. Before the measurement, each peer that checks requests has allowed the permitted request and refused \
                     another subtree, another role, a forged signature, an expired token and no token. The first table names each peer that is missing or answered wrongly; such a peer is not measured.",
                    number(crate::load::count(site.policies)).trim_end_matches(".0")
                ),
                "Envoy has the same rules as the gate as far as its RBAC can express them: one policy per role and path prefix in an ALLOW filter, every tenth in a DENY \
                 filter, the one that applies in the middle of the order in which Envoy tries them. It is also measured with ten policies, for sites that need few. It writes no \
                 access log and signs nothing. nginx's `auth_request` calls a service that decides nothing and runs on the other core, outside of nginx's CPU time.".to_owned(),
                "First a closed loop: each connection sends its next request as soon as it has the answer. *busy* is the share of its core that the peer used: below 95 % app or load was the limit and the CPU time per \
                 request is the better measure. All requests carry the same valid token; new tokens have their own section. Then open loops: requests are due at fixed times and their latency counts from then. Last: one request at a time."
                    .to_owned(),
                recorded,
                self.idleness(),
            ],
            tables,
            bars: charts,
            goals: self.goals(),
            ..Section::default()
        }
    }

    fn jobs(&self) -> Table {
        let measured = self.kinds.iter().zip(&self.peers);
        let rows = measured.map(|(kind, peer)| {
            let state = peer
                .failed
                .as_ref()
                .map_or_else(|| "right answers, measured".to_owned(), |why| format!("failed: {why}"));
            vec![peer.name.clone(), kind.job().to_owned(), state]
        });
        let missing = self
            .missing
            .iter()
            .map(|one| vec![one.name.clone(), String::new(), format!("**missing**: {}", one.reason)]);
        table(
            ["peer", "what it does", ""],
            rows.chain(missing).chain(super::out_of_reach()).collect(),
        )
    }

    fn closed_table(&self) -> Table {
        let gate = self.closed(ProxyKind::Gate);
        let rows = self.rows(&self.closed).map(|(name, rounds)| {
            let of = |what: fn(&Round) -> f64| Spread::of(rounds, what).unwrap_or_default();
            let busy = of(|round| round.busy).median;
            let mark = if busy < BUSY_MIN { " (not its limit)" } else { "" };
            vec![
                name.to_owned(),
                number(of(|round| round.rate).median),
                range(of(|round| round.rate)),
                gate.and_then(|gate| ratio(gate, rounds, |round| round.rate))
                    .map_or_else(String::new, times),
                number(of(|round| round.cpu).median),
                gate.and_then(|gate| ratio(rounds, gate, |round| round.cpu))
                    .map_or_else(String::new, times),
                format!("{:.0} %{mark}", busy * 100.0),
                number(of(|round| round.resident).high),
            ]
        });
        let head = [
            "32 connections, closed loop",
            "requests/s",
            "of all rounds",
            "gate / peer",
            "CPU µs/request",
            "peer / gate",
            "busy",
            "memory MiB",
        ];
        table(head, rows.collect())
    }

    fn open_table(&self, open: &OpenLoop) -> Table {
        let rate = open.rate;
        let rows = self.rows(&open.rounds).map(|(name, rounds)| {
            let of = |what: fn(&Round) -> f64| Spread::of(rounds, what).unwrap_or_default();
            let kept = of(|round| round.rate).median >= rate * KEPT_MIN && of(|round| round.unsent).median == 0.0;
            // the latency of a peer that falls behind grows all the time: it would only show the length of the run
            let time = |text: String| if kept { text } else { "–".to_owned() };
            vec![
                name.to_owned(),
                if kept { "yes" } else { "**no**" }.to_owned(),
                time(number(of(|round| round.p50).median)),
                time(range(of(|round| round.p50))),
                time(number(of(|round| round.p99).median)),
                number(of(|round| round.cpu).median),
            ]
        });
        let title = format!("open loop, {} requests/s", number(rate));
        table(
            [
                &title,
                "keeps the rate",
                "median µs",
                "of all rounds",
                "99 % µs",
                "CPU µs/request",
            ],
            rows.collect(),
        )
    }

    fn single_table(&self) -> Table {
        let rows = self.rows(&self.single).map(|(name, rounds)| {
            let of = |what: fn(&Round) -> f64| Spread::of(rounds, what).unwrap_or_default();
            vec![
                name.to_owned(),
                number(of(|round| round.p50).median),
                range(of(|round| round.p50)),
                number(of(|round| round.p99).median),
                number(of(|round| round.cpu).median),
            ]
        });
        table(
            [
                "one request at a time",
                "median µs",
                "of all rounds",
                "99 % µs",
                "CPU µs/request",
            ],
            rows.collect(),
        )
    }

    /// Compares the number of decision records with the number of answers: the gate writes exactly one for each.
    fn records(&self) -> String {
        let gates = [ProxyKind::Gate, ProxyKind::GateConditional].into_iter();
        let rounds: Vec<&Round> = gates.filter_map(|kind| self.closed(kind)).flatten().collect();
        let answered = rounds.iter().map(|round| round.answered);
        let recorded = rounds.iter().map(|round| round.recorded);
        format!(
            "Of {} requests that the recording gates answered in the closed loops, {} decision records were in their files afterwards.",
            number(answered.sum()),
            number(recorded.sum())
        )
    }

    /// Tells whether the machine was idle otherwise: nginx has one thread and a core of its own, so it should never
    /// wait for it.
    fn idleness(&self) -> String {
        let waited = self
            .closed(ProxyKind::Nginx)
            .and_then(|rounds| Spread::of(rounds, |round| round.waited));
        waited.map_or_else(
            || "It is unknown whether the machine was idle, because nginx was not measured.".to_owned(),
            |waited| {
                format!(
                    "nginx, alone on its core, waited for the core {:.1} % of the time. On an idle machine that is close to zero; a larger share means that other programs ran and the numbers here are wrong.",
                    waited.median * 100.0
                )
            },
        )
    }

    /// Envoy's goals are judged by the easier Envoy: the one with few policies.
    fn goals(&self) -> Vec<Goal> {
        let largest = self.kinds.iter().filter_map(|kind| match kind {
            ProxyKind::Envoy(options) => Some(options.policies),
            _ => None,
        });
        let largest = largest.max().unwrap_or(FEW_POLICIES);
        let mut goals = Vec::new();
        for (token_cache, wanted, what) in [
            (false, 6.0, "the whole job, against Envoy `jwt_authn` + RBAC"),
            (true, 3.5, "the whole job, against Envoy with its token cache"),
        ] {
            let envoy = |policies| ProxyKind::Envoy(EnvoyOptions { policies, token_cache });
            let what = format!("{what}, which has {FEW_POLICIES} policies");
            let mut goal = self.throughput(1, &what, envoy(FEW_POLICIES), wanted);
            if let Some((same, _)) = self.gate_ratio(envoy(largest)).filter(|_| largest > FEW_POLICIES) {
                goal.measured += &format!("; {} with {largest} policies", times(same));
            }
            goals.push(goal);
        }
        goals.push(self.throughput(2, "the whole job, against nginx that checks nothing", ProxyKind::Nginx, 0.85));
        goals.push(self.throughput(
            2,
            "the whole job, against nginx `auth_request`",
            ProxyKind::NginxAuthRequest,
            1.2,
        ));
        goals.extend(self.added());
        goals
    }

    fn gate_ratio(&self, to: ProxyKind) -> Option<(Spread, &'static str)> {
        gain(self.closed(ProxyKind::Gate)?, self.closed(to)?)
    }

    fn throughput(&self, number: u8, what: &str, to: ProxyKind, wanted: f64) -> Goal {
        let ratio = self.gate_ratio(to);
        let met = ratio.is_some_and(|(ratio, _)| ratio.median >= wanted);
        let cpu = |kind| {
            let rounds = self.closed(kind)?;
            Some(format!("{:.1} µs", Spread::of(rounds, |round| round.cpu)?.median))
        };
        let bound = match (cpu(ProxyKind::Gate), cpu(to), cpu(ProxyKind::GatePublic)) {
            (Some(gate), Some(other), Some(public)) => format!(
                "the gate's whole job takes {gate} of CPU per request, of which {public} are forwarding alone; {} takes {other}",
                to.name()
            ),
            _ => format!("{} was not measured; the table below says why", to.name()),
        };
        Goal {
            number,
            what: what.to_owned(),
            wanted: format!("≥ {wanted}×"),
            measured: ratio.map_or_else(|| "not measured".to_owned(), |(ratio, how)| format!("{} {how}", times(ratio))),
            met,
            bound: (!met).then_some(bound),
        }
    }

    /// The cost of the whole job beyond forwarding alone.
    fn added(&self) -> Vec<Goal> {
        let more = |all: &[Vec<Round>], what: fn(&Round) -> f64| {
            let whole = self.of(all, ProxyKind::Gate)?;
            let public = self.of(all, ProxyKind::GatePublic)?;
            let each = whole.iter().zip(public).map(|(whole, public)| Round {
                rate: what(whole) - what(public),
                ..Round::default()
            });
            Spread::of(&each.collect::<Vec<_>>(), |round| round.rate)
        };
        let goal = |what: &str, limit: f64, added: Option<Spread>, bound: &str| {
            let added = added?;
            let met = added.median <= limit;
            Some(Goal {
                number: 3,
                what: what.to_owned(),
                wanted: format!("≤ {limit} µs"),
                measured: format!("{:.1} µs ({:.1}–{:.1})", added.median, added.low, added.high),
                met,
                bound: (!met).then(|| bound.to_owned()),
            })
        };
        let bound =
            "token look-up, decision, identity headers and the decision record, which is formatted and written on the same core";
        let cpu = goal(
            "CPU that the gate adds to its own pass-through",
            5.0,
            more(&self.closed, |round| round.cpu),
            bound,
        );
        let p50 = goal(
            "median latency that the gate adds to its own pass-through, one request at a time",
            8.0,
            more(&self.single, |round| round.p50),
            bound,
        );
        cpu.into_iter().chain(p50).collect()
    }
}
