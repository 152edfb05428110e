//! Minutes of mixed traffic with reloads, key rotations and Redis restarts: no wrong decision, and no resource grows.
//!
//! `make soak MINUTES=10` runs it with an optimised binary; `make test` runs a few seconds of it. The test makes the
//! policies, so it knows the right answer to every request (`clients`). The gate is the real binary in a process of its
//! own; its memory, descriptors and threads are read after a first round of traffic and after the last, both times at
//! rest.

mod clients;
mod echo_app;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use self::clients::{Clients, Phase, Tally};
use self::echo_app::EchoApp;
use crate::support::binary::{GateFolder, GateProcess};
use crate::support::redis::Redis;
use crate::support::session_client::users;
use crate::support::{Issuer, OPEN_SCHEMA, eventually, raw};

/// Duration in `make test`.
const SECONDS: u64 = 6;
/// Longest first round, before the first look at the process.
const WARM_UP: Duration = Duration::from_secs(30);
/// Most that the resident memory may grow between the two looks.
const GROWTH_KIB_MAX: u64 = 24 * 1024;
/// The same for a run of seconds, in which caches and the allocator are still filling.
const SHORT_GROWTH_KIB_MAX: u64 = 96 * 1024;
const PORTAL_YAML: &str = "title: Shop\nlogin: { provider: local }\npublic: [ \"GET /portal/p/assets/**\" ]\n";

/// The policies; `flip` decides whether `/portal/p/flip` is allowed.
fn policies(flip: bool) -> String {
    let flip = if flip { "viewer" } else { "no-such-role" };
    format!(
        "@id(\"open\") permit (principal in Role::\"viewer\", action, resource) unless {{ resource in Path::\"/portal/p/flip\" }};\n\
         @id(\"flip\") permit (principal in Role::\"{flip}\", action, resource in Path::\"/portal/p/flip\");\n\
         @id(\"closed\") forbid (principal, action, resource in Path::\"/portal/p/closed\");\n"
    )
}

/// What the operating system says of the gate's process.
#[derive(Clone, Copy, Debug)]
struct Resources {
    resident_kib: u64,
    descriptors: usize,
    threads: u64,
}

struct Soak {
    folder: GateFolder,
    process: GateProcess,
    redis: Redis,
    app: EchoApp,
    decision: std::net::SocketAddr,
}

impl Soak {
    fn start() -> Self {
        let redis = Redis::setup().appendonly().start();
        let app = EchoApp::start();
        let more = format!(
            "public_url: 'https://shop.test'\nlogin: {{ providers: {{ local: {{ users_file: users.yaml }} }} }}\n\
             sessions: {{ store: redis, key_file: keys, redis: {{ url: '{}', key_prefix: 'cedargate:soak:' }} }}\n\
             policies: {{ poll: 100ms }}\nlimits: {{ workers: 2, drain_delay: 0s, rate_login: {{ requests: 100000, per: 1m }} }}",
            redis.url()
        );
        let folder = GateFolder::new(&format!("http://{}", app.address), &more);
        let decision = crate::support::binary::free_address();
        let config = std::fs::read_to_string(folder.folder.path().join("cedargate.yaml")).unwrap();
        let listen = format!("decision: {{ address: '{decision}' }}, control: {{ address: 'unix:control.sock' }}");
        let audit = "audit: { sink: { file: decisions.jsonl, rotate: { bytes: 4MiB, keep: 3, compress: gzip }, fsync: 1s }, \
                     chain: { key_file: audit.pem } }";
        let config = config
            .replace("decision: null", &listen)
            .replace("audit: { sink: { file: decisions.jsonl } }", audit);
        folder.put("cedargate.yaml", &config);
        folder.put("keys", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n");
        folder.put("audit.pem", "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n");
        folder.put("users.yaml", &users().replace("acme, roles: [viewer] }", "acme, roles: [] }"));
        folder.put("schemas/p.cedarschema", OPEN_SCHEMA);
        folder.put("policies/p/main.cedar", &policies(true));
        folder.put("policies/p/portal.yaml", PORTAL_YAML);
        let process = spawn(&folder);
        Self {
            folder,
            process,
            redis,
            app,
            decision,
        }
    }

    fn resources(&self) -> Resources {
        let of_process = PathBuf::from(format!("/proc/{}", self.process.0.id()));
        let status = std::fs::read_to_string(of_process.join("status")).unwrap();
        let number = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        Resources {
            resident_kib: number("VmRSS:"),
            descriptors: std::fs::read_dir(of_process.join("fd")).unwrap().count(),
            threads: number("Threads:"),
        }
    }

    /// The resources once no client is connected.
    fn at_rest(&self) -> Resources {
        eventually("every connection is closed", || {
            let metrics = raw(self.folder.admin, "GET", "/metrics", &[], b"").text();
            match metrics.lines().find_map(|line| line.strip_prefix("cedargate_connections ")) {
                Some("0") => Ok(()),
                other => Err(format!("{other:?} connections")),
            }
        });
        self.resources()
    }

    /// Traffic for this time, and meanwhile reloads, key rotations and, if there is time, Redis restarts.
    fn run(&mut self, duration: Duration, clients: &Arc<Clients>, mut table: Option<&mut Table>) {
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let (clients, stop) = (Arc::clone(clients), Arc::clone(&stop));
                std::thread::spawn(move || clients.run(seed, &stop))
            })
            .collect();
        let end = Instant::now() + duration;
        let restart_interval = Duration::from_secs(20).min(duration / 2);
        let mut restart_at = Instant::now() + restart_interval;
        let mut turn = 0;
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(300).min(end.saturating_duration_since(Instant::now())));
            turn += 1;
            self.reload(clients, turn % 2 == 0);
            if turn % 4 == 0 {
                self.rotate_keys(clients, turn);
            }
            if Instant::now() >= restart_at && table.is_some() {
                clients.set_store(Phase::Uncertain);
                self.redis.restart();
                clients.tally.lock().unwrap().redis_restarts += 1;
                restart_at = Instant::now() + restart_interval;
            } else if clients.is_store_uncertain() && clients.session_works() {
                clients.set_store(Phase::Certain);
            }
            if let Some(table) = &mut table {
                table.row_if_due(self, clients);
            }
        }
        stop.store(true, Ordering::SeqCst);
        for thread in threads {
            thread.join().unwrap();
        }
    }

    /// A new policy set, known to be in force before a client asks for what it decides.
    fn reload(&self, clients: &Clients, flip: bool) {
        clients.while_changing(flip, || {
            self.folder.put("policies/p/main.cedar", &policies(flip));
            let (code, out, error) = self.folder.run(&["reload"]);
            assert_eq!(code, 0, "{out}{error}");
        });
        clients.tally.lock().unwrap().reloads += 1;
    }

    /// A new key beside the old one; then tokens of the new key alone.
    fn rotate_keys(&self, clients: &Clients, turn: u32) {
        let fresh = Arc::new(Issuer::new(&format!("key-{turn}")));
        let old = clients.issuer();
        self.folder
            .put("jwks.json", &json!({"keys": [old.jwk(), fresh.jwk()]}).to_string());
        clients.wait_for_key(&fresh);
        clients.set_issuer(fresh);
        clients.tally.lock().unwrap().key_rotations += 1;
    }
}

fn spawn(folder: &GateFolder) -> GateProcess {
    let binary = std::env::var("CEDARGATE_SOAK_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_cedargate").to_owned());
    let child = Command::new(binary)
        .arg("serve")
        .current_dir(folder.folder.path())
        .env("CEDARGATE_LOG", "error")
        .env_remove("CEDARGATE_CONFIG")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let process = GateProcess(child);
    let admin = folder.admin.to_string();
    eventually("the gate is ready", || {
        match folder.run(&["healthcheck", "--ready", "--address", &admin]) {
            (0, _, _) => Ok(()),
            (code, _, error) => Err(format!("{code}: {error}")),
        }
    });
    process
}

/// The report: one row for each minute, or for a third of a short run.
struct Table {
    started: Instant,
    step: Duration,
    next: Instant,
    before: Tally,
}

impl Table {
    fn new(duration: Duration) -> Self {
        let step = Duration::from_secs(60).min(duration / 3);
        println!(
            "{:>7} {:>9} {:>6} {:>8} {:>7} {:>8} {:>6} {:>6} {:>9} {:>5} {:>8}",
            "seconds", "requests", "wrong", "refused", "reloads", "new keys", "redis", "aborts", "RSS KiB", "fds", "threads"
        );
        Self {
            started: Instant::now(),
            step,
            next: Instant::now() + step,
            before: Tally::default(),
        }
    }

    fn row_if_due(&mut self, soak: &Soak, clients: &Clients) {
        if Instant::now() >= self.next {
            self.next += self.step;
            self.row(&soak.resources(), clients);
        }
    }

    fn row(&mut self, resources: &Resources, clients: &Clients) {
        let now = clients.tally.lock().unwrap().clone();
        let before = std::mem::replace(&mut self.before, now.clone());
        println!(
            "{:>7} {:>9} {:>6} {:>8} {:>7} {:>8} {:>6} {:>6} {:>9} {:>5} {:>8}",
            self.started.elapsed().as_secs(),
            now.requests - before.requests,
            now.wrong.len() - before.wrong.len(),
            now.store_refusals - before.store_refusals,
            now.reloads - before.reloads,
            now.key_rotations - before.key_rotations,
            now.redis_restarts - before.redis_restarts,
            now.aborts - before.aborts,
            resources.resident_kib,
            resources.descriptors,
            resources.threads
        );
    }
}

#[test]
fn soak_of_mixed_traffic_has_no_wrong_decision_and_grows_no_resource() {
    let seconds = std::env::var("CEDARGATE_SOAK_SECONDS")
        .ok()
        .map(|text| text.parse::<u64>().unwrap());
    let duration = Duration::from_secs(seconds.unwrap_or(SECONDS));
    let mut soak = Soak::start();
    let issuer = Issuer::new("key-0");
    soak.folder.put(
        "jwks.json",
        &json!({"keys": [soak.folder.issuer.jwk(), issuer.jwk()]}).to_string(),
    );
    let clients = Arc::new(Clients::new(soak.folder.proxy, soak.decision, issuer));
    clients.log_in();
    soak.run(WARM_UP.min(duration / 2), &clients, None);
    let before = soak.at_rest();
    let mut table = Table::new(duration);
    soak.run(duration, &clients, Some(&mut table));
    let after = soak.at_rest();
    table.row(&after, &clients);
    println!(
        "at rest before: {before:?}\nat rest after:  {after:?}\napp saw {} requests",
        soak.app.count()
    );
    let tally = clients.tally.lock().unwrap().clone();
    assert!(
        tally.wrong.is_empty(),
        "{} wrong: {:#?}",
        tally.wrong.len(),
        tally.wrong.iter().take(20).collect::<Vec<_>>()
    );
    assert!(tally.requests > 50 && tally.reloads > 2 && tally.aborts > 0, "{tally:?}");
    // a descriptor that a background task opens for a moment (a policy file) may be among them
    assert!(after.descriptors <= before.descriptors + 3, "{before:?} {after:?}");
    // threads that look up names for Redis live for some seconds after
    assert!(after.threads <= before.threads + 2, "{before:?} {after:?}");
    let growth_max = if duration > WARM_UP {
        GROWTH_KIB_MAX
    } else {
        SHORT_GROWTH_KIB_MAX
    };
    assert!(after.resident_kib <= before.resident_kib + growth_max, "{before:?} {after:?}");
    soak.process.signal("-TERM");
    assert_eq!(soak.process.exit_code(), 0);
    let (code, out, _) = soak.folder.run(&["audit", "verify", "decisions.jsonl"]);
    assert_eq!(code, 0, "{out}");
}
