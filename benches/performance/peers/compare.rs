//! Those in front of the app, in every shape of load: tables, plots and the goals about them.

use super::cells::{BUSY_MIN, bars, gain, number, range, ratio, table, times};
use super::http::{Missing, Site, Who};
use super::rounds::{CONNECTIONS, Peer, Plan, Round, Shape, Spread, interleave};
use crate::report::{Goal, Section, Table};

/// An open loop at this share of what the slowest can do at most leaves everybody room.
const SHARE_OF_SLOWEST: f64 = 0.5;
/// And one that only the faster ones keep.
const SHARE_OF_GATE: f64 = 0.5;
/// Policies of an Envoy that is spared the others.
const FEW_POLICIES: usize = 10;
/// Answering less than this share of what was due per second is not keeping the rate.
const KEPT_MIN: f64 = 0.98;

/// Everybody who came up and answered rightly, in the order of the tables.
pub struct Compared {
    who: Vec<Who>,
    pub peers: Vec<Peer>,
    missing: Vec<Missing>,
    closed: Vec<Vec<Round>>,
    single: Vec<Vec<Round>>,
    /// Rate, and what came of it.
    open: Vec<(f64, Vec<Vec<Round>>)>,
}

impl Compared {
    pub fn start(site: &Site<'_>) -> Self {
        let envoy = |policies, token_cache| Who::Envoy { policies, token_cache };
        let mut wanted = vec![
            Who::Gate,
            Who::GateConditional,
            Who::GatePublic,
            Who::Nginx,
            Who::NginxAuthRequest,
            Who::Haproxy,
            envoy(FEW_POLICIES, false),
            envoy(FEW_POLICIES, true),
        ];
        if site.policies > FEW_POLICIES {
            wanted.extend([envoy(site.policies, false), envoy(site.policies, true)]);
        }
        let (mut who, mut peers, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for one in wanted {
            match one.start(site) {
                Ok(peer) => {
                    who.push(one);
                    peers.push(peer);
                }
                Err(reason) => {
                    let ours = matches!(one, Who::Gate | Who::GateConditional | Who::GatePublic);
                    assert!(!ours, "{}: {reason}", one.name());
                    eprintln!("  {}: {reason}", one.name());
                    let name = one.name();
                    missing.push(Missing { name, reason });
                }
            }
        }
        Self {
            who,
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
            .closed(Who::Gate)
            .and_then(|rounds| Spread::of(rounds, |round| round.rate));
        if slowest.is_finite() {
            let rates = [Some(slowest * SHARE_OF_SLOWEST), gate.map(|gate| gate.median * SHARE_OF_GATE)];
            for rate in rates.into_iter().flatten() {
                let rounds = interleave(&mut self.peers, plan, Shape::Open(rate));
                self.open.push((rate, rounds));
            }
        }
        let short = Plan {
            time: plan.time / 2,
            ..plan
        };
        self.single = interleave(&mut self.peers, short, Shape::Closed(1));
    }

    fn of<'a>(&self, all: &'a [Vec<Round>], who: Who) -> Option<&'a [Round]> {
        let at = self.who.iter().position(|one| *one == who)?;
        Some(all.get(at)?.as_slice()).filter(|rounds| !rounds.is_empty())
    }

    fn closed(&self, who: Who) -> Option<&[Round]> {
        self.of(&self.closed, who)
    }

    fn rows<'a>(&'a self, all: &'a [Vec<Round>]) -> impl Iterator<Item = (&'a str, &'a [Round])> {
        let names = self.peers.iter().map(|peer| peer.name.as_str());
        names
            .zip(all.iter().map(Vec::as_slice))
            .filter(|(_, rounds)| !rounds.is_empty())
    }

    pub fn section(&self, site: &Site<'_>) -> Section {
        let mut tables = vec![self.jobs(), self.closed_table()];
        tables.extend(self.open.iter().map(|(rate, rounds)| self.open_table(*rate, rounds)));
        tables.push(self.single_table());
        let charts = vec![
            bars(
                (
                    "throughput",
                    "Requests per second, one core",
                    "requests/s, 32 connections, closed loop",
                ),
                self.rows(&self.closed),
                |round| round.rate,
            ),
            bars(
                ("cpu", "CPU time per request", "microseconds of CPU per request"),
                self.rows(&self.closed),
                |round| round.cpu,
            ),
            bars(
                (
                    "latency",
                    "Median latency, one request at a time",
                    "microseconds, one connection",
                ),
                self.rows(&self.single),
                |round| round.p50,
            ),
        ];
        let recorded = self.records();
        Section {
            title: "The same job, done by others".to_owned(),
            text: vec![
                format!(
                    "Everybody forwards the same GET to the same app (nginx, a small answer) on one core of its own; app and load share the other. \
                     The gate has {} policies, of which one applies. Before anything is measured, everybody who checks has allowed what is allowed and refused \
                     another subtree, another role, a forged signature, an expired token and no token. Who is missing, or answered wrongly, is named in the first table and not measured.",
                    number(crate::load::count(site.policies)).trim_end_matches(".0")
                ),
                "Envoy has the same rules as the gate as far as its RBAC can say them: one policy per role and path prefix in an ALLOW filter, every tenth in a DENY \
                 filter, the one that applies in the middle of the order in which it tries them. For who would write fewer, it is measured with few as well. It writes no \
                 access log and signs nothing. nginx's `auth_request` asks a service that decides nothing and runs on the other core, outside of nginx's CPU time.".to_owned(),
                "First: closed loop, as many requests as will go. *busy* is the share of its core that the peer used: below 95 % something else was the limit and the CPU time per \
                 request is the better measure. All requests carry the same valid token; new ones have their own section. Then open loops: requests are due at fixed times and their latency counts from when they were due. Last: one request at a time."
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
        let measured = self.who.iter().zip(&self.peers);
        let rows = measured.map(|(who, peer)| {
            let state = peer
                .failed
                .as_ref()
                .map_or_else(|| "right answers, measured".to_owned(), |why| format!("failed: {why}"));
            vec![peer.name.clone(), who.job().to_owned(), state]
        });
        let missing = self
            .missing
            .iter()
            .map(|one| vec![one.name.clone(), String::new(), format!("**missing**: {}", one.reason)]);
        table(
            ["who", "what it does", ""],
            rows.chain(missing).chain(super::out_of_reach()).collect(),
        )
    }

    fn closed_table(&self) -> Table {
        let gate = self.closed(Who::Gate);
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
            "the gate does times as many",
            "CPU µs/request",
            "times the gate's",
            "busy",
            "memory MiB",
        ];
        table(head, rows.collect())
    }

    fn open_table(&self, rate: f64, all: &[Vec<Round>]) -> Table {
        let rows = self.rows(all).map(|(name, rounds)| {
            let of = |what: fn(&Round) -> f64| Spread::of(rounds, what).unwrap_or_default();
            let kept = of(|round| round.rate).median >= rate * KEPT_MIN && of(|round| round.unsent).median == 0.0;
            // who falls behind is later and later: the numbers would be those of the run's length
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

    /// Exactly one record each was promised.
    fn records(&self) -> String {
        let gates = [Who::Gate, Who::GateConditional].into_iter();
        let rounds: Vec<&Round> = gates.filter_map(|who| self.closed(who)).flatten().collect();
        let (answered, recorded) = (
            rounds.iter().map(|round| round.answered),
            rounds.iter().map(|round| round.recorded),
        );
        format!(
            "Of {} requests that the recording gates answered in the closed loops, {} decision records were in their files afterwards.",
            number(answered.sum()),
            number(recorded.sum())
        )
    }

    /// Whether the machine did anything else: nginx has one thread, and its core to itself.
    fn idleness(&self) -> String {
        let waited = self
            .closed(Who::Nginx)
            .and_then(|rounds| Spread::of(rounds, |round| round.waited));
        waited.map_or_else(
            || "Whether the machine was idle is not known, because nginx was not measured.".to_owned(),
            |waited| {
                format!(
                    "nginx, alone on its core, waited for it {:.1} % of the time: on an idle machine that is close to nothing, and if it is not, believe no number here.",
                    waited.median * 100.0
                )
            },
        )
    }

    /// Envoy's goals are judged by the easier Envoy: the one with few policies.
    fn goals(&self) -> Vec<Goal> {
        let largest = self.who.iter().filter_map(|who| match who {
            Who::Envoy { policies, .. } => Some(*policies),
            _ => None,
        });
        let largest = largest.max().unwrap_or(FEW_POLICIES);
        let mut goals = Vec::new();
        for (token_cache, wanted, what) in [
            (false, 6.0, "the whole job, against Envoy `jwt_authn` + RBAC"),
            (true, 3.5, "the whole job, against Envoy with its token cache"),
        ] {
            let envoy = |policies| Who::Envoy { policies, token_cache };
            let what = format!("{what}, {FEW_POLICIES} policies there");
            let mut goal = self.throughput(1, &what, envoy(FEW_POLICIES), wanted);
            if let Some((same, _)) = self.gate_ratio(envoy(largest)).filter(|_| largest > FEW_POLICIES) {
                goal.measured += &format!("; {} where Envoy has {largest}", times(same));
            }
            goals.push(goal);
        }
        goals.push(self.throughput(2, "the whole job, against nginx that checks nothing", Who::Nginx, 0.85));
        goals.push(self.throughput(2, "the whole job, against nginx `auth_request`", Who::NginxAuthRequest, 1.2));
        goals.extend(self.added());
        goals
    }

    fn gate_ratio(&self, to: Who) -> Option<(Spread, &'static str)> {
        gain(self.closed(Who::Gate)?, self.closed(to)?)
    }

    fn throughput(&self, number: u8, what: &str, to: Who, wanted: f64) -> Goal {
        let ratio = self.gate_ratio(to);
        let met = ratio.is_some_and(|(ratio, _)| ratio.median >= wanted);
        let cpu = |who| {
            let rounds = self.closed(who)?;
            Some(format!("{:.1} µs", Spread::of(rounds, |round| round.cpu)?.median))
        };
        let bound = match (cpu(Who::Gate), cpu(to), cpu(Who::GatePublic)) {
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

    /// What the whole job costs beyond passing through.
    fn added(&self) -> Vec<Goal> {
        let more = |all: &[Vec<Round>], what: fn(&Round) -> f64| {
            let (whole, public) = (self.of(all, Who::Gate)?, self.of(all, Who::GatePublic)?);
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
