//! TLS, HTTP/2, bodies and WebSockets: the gate with its whole job beside nginx and Envoy that only forward.
//!
//! The clients are libraries and share a core with the app, so they are the limit of the rates. The CPU time of the
//! measured program per request, megabyte or message is what counts.

mod app;
mod client;
mod devices;
mod work;

use std::time::Duration;

use rustls::HandshakeKind;
use tokio::runtime::Runtime;

use self::client::{HOST, Http, Security, Wire};
use self::devices::{Device, Site};
use self::work::{Credentials, Work};
use crate::Extent;
use crate::machine::{REST, pin_thread, pinned};
use crate::options::Options;
use crate::peers::cells::{number, range, ratio, table, times};
use crate::peers::rounds::{Round, Spread};
use crate::peers::shop::write;
use crate::peers::token::Issuer;
use crate::report::{Goal, Section};
use crate::spinners::Spinners;

const GATE: &str = "cedargate, the whole job";
const NGINX: &str = "nginx, checks nothing";
const ENVOY: &str = "Envoy, checks nothing";
/// Bytes of a large body.
const LARGE: usize = 10 * 1024 * 1024;
const SMALL: usize = 64 * 1024;
/// CPU time of the gate against nginx.
const LIMIT: f64 = 1.5;

const WORKS: [Work; 12] = [
    Work::Requests(Wire::Tls, Http::One),
    Work::Handshakes(HandshakeKind::Full),
    Work::Handshakes(HandshakeKind::Resumed),
    Work::Requests(Wire::Tls, Http::Two),
    Work::Requests(Wire::Plain, Http::Two),
    Work::Download(SMALL, Wire::Plain, Http::One),
    Work::Download(LARGE, Wire::Plain, Http::One),
    Work::Download(LARGE, Wire::Tls, Http::Two),
    Work::Upload(SMALL, Wire::Plain, Http::One),
    Work::Upload(LARGE, Wire::Plain, Http::One),
    Work::Upload(LARGE, Wire::Tls, Http::Two),
    Work::WebSocket,
];

/// The measured programs, and what one run of this section needs.
struct Bench {
    runtime: Runtime,
    devices: Vec<Device>,
    missing: Vec<String>,
    security: Security,
    bearer: String,
}

/// The rounds of one kind of work, a list for each device.
struct Rows {
    work: Work,
    rounds: Vec<Vec<Round>>,
}

pub fn section(options: &Options) -> Section {
    pin_thread(pinned(REST)).unwrap();
    let spinners = (options.extent == Extent::Whole).then(Spinners::start);
    let folder = tempfile::tempdir().unwrap();
    let issuer = Issuer::new();
    let site = Site {
        folder: folder.path(),
        app: app::start(),
        issuer: &issuer,
        policies: if options.extent == Extent::Whole { 1_000 } else { 10 },
    };
    let mut bench = Bench::start(&site);
    bench.start_peers(&site);
    eprintln!("TLS, HTTP/2, bodies and WebSockets");
    let all: Vec<Rows> = WORKS.iter().map(|work| bench.rounds(*work, options)).collect();
    drop(spinners);
    pin_thread(None).unwrap();
    bench.section(&all)
}

/// Sends work of every kind to gates, and ends them in order.
pub fn train(policies: usize, time: Duration) {
    let folder = tempfile::tempdir().unwrap();
    let site = Site {
        folder: folder.path(),
        app: app::start(),
        issuer: &Issuer::new(),
        policies,
    };
    let bench = Bench::start(&site);
    for work in WORKS {
        for device in &bench.devices {
            bench.runtime.block_on(bench.round(work, device, time)).unwrap();
        }
    }
    bench.devices.into_iter().for_each(Device::end);
}

impl Bench {
    /// Starts the gate.
    fn start(site: &Site<'_>) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        let certificate = certificate.self_signed(&key).unwrap().pem();
        write(site.folder, "cert.pem", &certificate);
        write(site.folder, "key.pem", &key.serialize_pem());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Self {
            runtime: runtime.unwrap(),
            devices: vec![devices::gates(site).unwrap()],
            missing: Vec::new(),
            security: Security::new(&certificate),
            bearer: site.issuer.token(&["viewer", "buyer"], 1),
        }
    }

    fn start_peers(&mut self, site: &Site<'_>) {
        for (name, started) in [(NGINX, devices::nginx_plain(site)), (ENVOY, devices::envoy(site))] {
            match started {
                Ok(device) => self.devices.push(device),
                Err(reason) => self.missing.push(format!("{name} was not measured: {reason}")),
            }
        }
    }

    /// Interleaved rounds. A device that fails once ends the run: its numbers would be of another kind.
    fn rounds(&self, work: Work, options: &Options) -> Rows {
        let mut rounds: Vec<Vec<Round>> = self.devices.iter().map(|_| Vec::new()).collect();
        let refused = self.devices.first().unwrap();
        let refused = self.runtime.block_on(work.without_credential(refused, &self.security));
        assert_eq!(refused, Ok(401), "the gate without a credential, {}", work.name());
        for _ in 0..options.rounds {
            for (device, rounds) in self.devices.iter().zip(&mut rounds) {
                let round = self.runtime.block_on(self.round(work, device, options.time() / 2));
                let round = round.map_err(|error| format!("{}, {}: {error}", device.name, work.name()));
                rounds.push(round.unwrap());
            }
        }
        eprintln!("  {}", work.name());
        Rows { work, rounds }
    }

    async fn round(&self, work: Work, device: &Device, time: Duration) -> Result<Round, String> {
        let credentials = Credentials {
            security: &self.security,
            bearer: &self.bearer,
        };
        let clients = work.prepare(device, &credentials).await?;
        let before = device.cpu_time();
        let done = work.drive(device, clients, time).await?;
        let used = device.cpu_time().saturating_sub(before).as_secs_f64();
        let seconds = done.took.as_secs_f64();
        let count = match work.is_of_bytes() {
            true => crate::load::count(done.bytes) / 1e6,
            false => crate::load::count(done.operations),
        };
        Ok(Round {
            rate: count / seconds,
            cpu: used * 1e6 / count,
            busy: used / seconds,
            ..Round::default()
        })
    }

    fn section(&self, all: &[Rows]) -> Section {
        let mut text = vec![
            "One measured program at a time on a core of its own; clients and app share the other. The gate does its whole job for each request and for each WebSocket, the peers only \
             forward. All have the same certificate (P-256); clients offer TLS 1.3 with AES-128-GCM and X25519 alone. 32 requests, connections or messages at once, 4 for \
             large bodies; an HTTP/2 connection carries 8 streams at most. A connection for each request includes the TCP handshake, one request and the end of the connection. nginx passes bodies on as they come \
             (`proxy_request_buffering off`) and writes none to a disk."
                .to_owned(),
            "Clients and app need more CPU than the measured programs, so that the rates show them as much as the program; the goals are judged by CPU time. Before each kind of work the gate \
             has refused it without a credential, and every answer is checked."
                .to_owned(),
        ];
        text.extend(self.missing.iter().cloned());
        let head = [
            "work",
            "program",
            "each second",
            "of all rounds",
            "CPU µs each",
            "CPU / nginx",
            "busy",
        ];
        Section {
            title: "TLS, HTTP/2, bodies and WebSockets".to_owned(),
            text,
            tables: vec![table(head, all.iter().flat_map(|rows| self.cells(rows)).collect())],
            goals: all.iter().map(|rows| self.goal(rows)).collect(),
            ..Section::default()
        }
    }

    fn of<'a>(&self, rows: &'a Rows, name: &str) -> Option<&'a [Round]> {
        let at = self.devices.iter().position(|device| device.name == name)?;
        rows.rounds.get(at).map(Vec::as_slice)
    }

    fn cells(&self, rows: &Rows) -> Vec<Vec<String>> {
        let nginx = self.of(rows, NGINX);
        let unit = if rows.work.is_of_bytes() { " MB" } else { "" };
        let row = |(device, rounds): (&Device, &Vec<Round>)| {
            let of = |what: fn(&Round) -> f64| Spread::of(rounds, what).unwrap_or_default();
            let against = nginx.and_then(|nginx| ratio(rounds, nginx, |round| round.cpu));
            vec![
                rows.work.name(),
                device.name.to_owned(),
                format!("{}{unit}", number(of(|round| round.rate).median)),
                range(of(|round| round.rate)),
                number(of(|round| round.cpu).median),
                against.map_or_else(String::new, times),
                format!("{:.0} %", of(|round| round.busy).median * 100.0),
            ]
        };
        self.devices.iter().zip(&rows.rounds).map(row).collect()
    }

    fn goal(&self, rows: &Rows) -> Goal {
        let gate = self.of(rows, GATE);
        let measured = gate
            .zip(self.of(rows, NGINX))
            .and_then(|(gate, nginx)| ratio(gate, nginx, |round| round.cpu));
        let met = measured.is_some_and(|ratio| ratio.median <= LIMIT);
        let cpu = |name| Spread::of(self.of(rows, name)?, |round| round.cpu);
        let each = if rows.work.is_of_bytes() { "MB" } else { "operation" };
        let bound = cpu(GATE).zip(cpu(NGINX)).map_or_else(
            || "nginx was not measured; the section says why".to_owned(),
            |(gate, nginx)| {
                format!(
                    "{}: {} µs of CPU per {each}, nginx {}",
                    rows.work.name(),
                    number(gate.median),
                    number(nginx.median)
                )
            },
        );
        Goal {
            number: 13,
            what: format!("CPU time against nginx: {}", rows.work.name()),
            wanted: format!("≤ {LIMIT}×"),
            measured: measured.map_or_else(|| "not measured".to_owned(), times),
            met,
            bound: (!met).then_some(bound),
        }
    }
}
