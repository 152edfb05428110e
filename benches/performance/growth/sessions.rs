//! The cost of a session beside a token, over a real Redis: cached in this process, fetched from Redis, Redis not
//! answering.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cedargate::app::{Running, start_from_yaml};
use cedargate_benches::issuer::Keys;
use cedargate_benches::sessions::create_sessions;
use cedargate_benches::{AUDIENCE, ISSUER};

use super::draw::{grouped, short};
use super::measure::median;
use super::redis::Redis;
use super::setting::{Files, app, closed};
use crate::Extent;
use crate::load::{self, Answers, Load, Pace, Until};
use crate::machine::{DEVICE, REST, pause, pin_thread, pinned};
use crate::report::{Goal, Section, Table};

/// Sessions in the store.
const SESSIONS: usize = 10_000;
const ROUNDS: usize = 7;
const CONNECTIONS: usize = 16;
/// Time within which the gate must notice that Redis stopped answering, or answers again.
const PATIENCE: Duration = Duration::from_secs(10);
const LIMIT: f64 = 0.9;
const PATH: &str = "/portal/bench/page";

const SCHEMA: &str = "entity Tenant, Role; entity User in [Role, Tenant]; entity Path in [Path, Portal]; entity Portal; \
                      action GET appliesTo { principal: User, resource: Path };";
const POLICY: &str = "@id(\"viewers\") permit(principal in Role::\"viewer\", action == Action::\"GET\", resource);";

/// Two gates on one Redis and one app: one caches all sessions, the other caches one.
struct Setting {
    redis: Redis,
    cached: Gate,
    uncached: Gate,
    cookies: Vec<Vec<u8>>,
    token: Vec<u8>,
    _files: Files,
}

/// A gate in this process, so that the bench can create its sessions without logins.
struct Gate {
    running: Option<Running>,
    address: SocketAddr,
}

struct Kind {
    name: String,
    gate: SocketAddr,
    requests: Vec<Vec<u8>>,
    rounds: Vec<Answers>,
}

pub fn section(extent: Extent) -> Section {
    let whole = extent == Extent::Whole;
    let (sessions, rounds, time) = if whole {
        (SESSIONS, ROUNDS, Duration::from_secs(1))
    } else {
        (50, 1, Duration::from_millis(20))
    };
    let title = "Sessions".to_owned();
    let Some(setting) = Setting::start(sessions) else {
        let text = vec!["`redis-server` is missing: nothing was measured.".to_owned()];
        return Section {
            title,
            text,
            ..Section::default()
        };
    };
    let mut kinds = setting.kinds();
    kinds.iter().for_each(Kind::each_once);
    for _ in 0..rounds {
        for kind in &mut kinds {
            kind.rounds.push(closed(kind.gate, &kind.requests, CONNECTIONS, time));
        }
    }
    Section {
        title,
        text: vec![
            format!(
                "Whole gates with one worker on one core, in one process, over one Redis; {CONNECTIONS} connections; Redis, app and load generator share the other \
                 core. A session in the cache of the process needs no request to Redis while the log of revocations is fresh."
            ),
            paused(&setting, extent),
        ],
        tables: vec![table(&kinds)],
        goals: goal(&kinds).into_iter().collect(),
        ..Section::default()
    }
}

impl Setting {
    /// `None` without a `redis-server`.
    fn start(sessions: usize) -> Option<Self> {
        let redis = Redis::start()?;
        let files = Files::new();
        files.put("schemas/bench.cedarschema", SCHEMA);
        files.put("policies/bench/main.cedar", POLICY);
        files.put("keys", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n");
        let keys = Keys::generate();
        let token = keys.token("ES256", "alice");
        files.put("jwks.json", &keys.jwks().to_string());
        let app = app();
        let gate = |cache: usize| Gate::start(&files, app, redis.address, cache);
        let cached = gate(SESSIONS * 10);
        let uncached = gate(1);
        let cookies = create_sessions(cached.running.as_ref().unwrap(), sessions, &["viewer"]).unwrap();
        let with = |name: &str, value: &str| load::request("GET", PATH, &[(name, value)], None);
        let cookies = cookies.iter().map(|cookie| with("cookie", cookie));
        Some(Self {
            cookies: cookies.collect(),
            token: with("authorization", &format!("Bearer {token}")),
            redis,
            cached,
            uncached,
            _files: files,
        })
    }

    fn kinds(&self) -> Vec<Kind> {
        let one = self.cookies.iter().take(1).cloned().collect();
        let all = || self.cookies.clone();
        let many = grouped(self.cookies.len());
        vec![
            Kind::new("token", &self.cached, vec![self.token.clone()]),
            Kind::new("session, in this process", &self.cached, one),
            Kind::new(&format!("{many} sessions in turn, in this process"), &self.cached, all()),
            Kind::new("session, fetched from Redis each time", &self.uncached, all()),
        ]
    }
}

impl Kind {
    fn new(name: &str, gate: &Gate, requests: Vec<Vec<u8>>) -> Self {
        Self {
            name: name.to_owned(),
            gate: gate.address,
            requests,
            rounds: Vec::new(),
        }
    }

    /// Sends every request once, so that the gate has seen each session; every answer must be the app's.
    fn each_once(&self) {
        let load = Load {
            address: self.gate,
            requests: &self.requests,
            expected: 200,
            connections: CONNECTIONS,
            pace: Pace::Closed,
            until: Until::AllOnce,
        };
        load.run().and_then(Answers::all_expected).unwrap();
    }
}

impl Gate {
    fn start(files: &Files, app: SocketAddr, redis: SocketAddr, cache: usize) -> Self {
        let yaml = format!(
            "listen: {{ proxy: {{ address: '127.0.0.1:0' }}, decision: null, admin: null }}\n\
             upstream: {{ url: 'http://{app}' }}\n\
             policies: {{ poll: 1s }}\n\
             issuers: [{{ name: corp, issuer: '{ISSUER}', audiences: [{AUDIENCE}], jwks: {{ file: jwks.json }} }}]\n\
             sessions: {{ store: redis, key_file: keys, cache: {cache}, redis: {{ url: 'redis://{redis}', key_prefix: 'cedargate:bench:' }} }}\n\
             audit: {{ sink: {{ file: '/dev/null' }} }}\n\
             limits: {{ workers: 1, drain_delay: 0s }}\n"
        );
        // the gate's threads inherit the core
        pin_thread(pinned(DEVICE)).unwrap();
        let running = start_from_yaml(&yaml, files.path()).unwrap();
        pin_thread(pinned(REST)).unwrap();
        Self {
            address: running.addresses.proxy,
            running: Some(running),
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

/// Pauses Redis: the time until the first 503, and after resuming until the first 200.
fn paused(setting: &Setting, extent: Extent) -> String {
    let gate = setting.cached.address;
    let request = setting.cookies.first().unwrap();
    let status = || load::ask(gate, request).unwrap().0;
    setting.redis.pause();
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    let unavailable_after = loop {
        let sent = Instant::now();
        let status = status();
        slowest = slowest.max(sent.elapsed());
        assert!([200, 503].contains(&status), "{status} while Redis is paused");
        if status == 503 {
            break begun.elapsed();
        }
        assert!(begun.elapsed() < PATIENCE, "still served without Redis");
    };
    let time = Duration::from_millis(if extent == Extent::Whole { 1_000 } else { 20 });
    let load = Load {
        address: gate,
        requests: std::slice::from_ref(request),
        expected: 503,
        connections: CONNECTIONS,
        pace: Pace::Closed,
        until: Until::Time(time),
    };
    let refused = load.run().and_then(Answers::all_expected).unwrap();
    setting.redis.resume();
    let resumed = Instant::now();
    while status() != 200 {
        assert!(resumed.elapsed() < PATIENCE, "not served again");
        pause(Duration::from_millis(1));
    }
    format!(
        "Redis paused: first 503 after {:.0} ms, slowest answer until then {:.1} ms, then {:.0} refusals/s at a median of {:.0} µs; served \
         again {:.0} ms after Redis resumed.",
        unavailable_after.as_secs_f64() * 1e3,
        slowest.as_secs_f64() * 1e3,
        refused.rate(),
        refused.time(0.5),
        resumed.elapsed().as_secs_f64() * 1e3,
    )
}

/// Ratio of the rates, round by round.
fn ratio(kind: &Kind, base: &Kind) -> f64 {
    median(
        kind.rounds
            .iter()
            .zip(&base.rounds)
            .map(|(own, other)| own.rate() / other.rate()),
    )
}

fn table(kinds: &[Kind]) -> Table {
    let token = kinds.first().unwrap();
    let row = |kind: &Kind| {
        let columns: [fn(&Answers) -> f64; 3] = [Answers::rate, |answers| answers.time(0.5), |answers| answers.time(0.99)];
        let cells = columns.map(|of| short(median(kind.rounds.iter().map(of))));
        let cells = std::iter::once(kind.name.clone()).chain(cells);
        cells.chain([format!("{:.2}×", ratio(kind, token))]).collect()
    };
    Table {
        head: ["", "requests/s", "p50, µs", "p99, µs", "against token"]
            .map(str::to_owned)
            .into(),
        rows: kinds.iter().map(row).collect(),
    }
}

fn goal(kinds: &[Kind]) -> Option<Goal> {
    let ratio = ratio(kinds.get(1)?, kinds.first()?);
    Some(Goal {
        number: 8,
        what: "a session in the cache of the process, against a token".to_owned(),
        wanted: "requests/s within 10 %".to_owned(),
        measured: format!("{ratio:.2}×"),
        met: ratio >= LIMIT,
        bound: None,
    })
}
