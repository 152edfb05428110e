//! The cost of a connection, idle and used, and the CPU time of requests against the number of connections.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::draw::{grouped, percent, short};
use super::measure::{median, number};
use super::setting::Setting;
use crate::Extent;
use crate::gate::Gate;
use crate::machine::{DEVICE, pinned};
use crate::report::{Axis, Plot, Section, Series, Table};

const SIZES: [usize; 5] = [1, 10, 100, 1_000, 10_000];
/// Requests in flight at once; the connections take turns.
const IN_FLIGHT: usize = 32;
const ROUNDS: usize = 5;
/// Open files of a process besides the connections to the gate: 32 connections to the app, and some more.
const FILES_APART: usize = 200;
const READ_BYTES: usize = 16 * 1024;
/// Time within which the gate must answer.
const PATIENCE: Duration = Duration::from_secs(10);

struct Measured {
    connections: usize,
    /// MiB before the first connection.
    before: f64,
    /// MiB with all connections open and silent.
    idle: f64,
    /// MiB after one request on each connection.
    used: f64,
    rate: Vec<f64>,
    cpu: Vec<f64>,
}

/// A gate and the open connections to it.
struct Connected {
    gate: Gate,
    streams: Vec<TcpStream>,
    measured: Measured,
}

pub fn section(extent: Extent) -> Section {
    let setting = Setting::new();
    let files = setting.files(10);
    let request = setting.get("/shop/cart");
    let most = files_max();
    let fits = |size: &&usize| *size + FILES_APART <= most;
    let sizes = super::sizes(extent, &SIZES, 2).iter().filter(fits);
    // all gates run at once, so that their rounds take turns
    let mut all: Vec<Connected> = sizes
        .map(|size| {
            let gate = setting.start(&files, pinned(DEVICE), super::setting::ONE_PORTAL);
            connect(gate, *size, &request)
        })
        .collect();
    let (rounds, time) = if extent == Extent::Whole {
        (ROUNDS, Duration::from_secs(1))
    } else {
        (1, Duration::from_millis(10))
    };
    for _ in 0..rounds {
        for connected in &mut all {
            connected.drive(&request, time);
        }
    }
    let all: Vec<Measured> = all.into_iter().map(|connected| connected.measured).collect();
    Section {
        title: "Connections".to_owned(),
        text: vec![format!(
            "The whole program on one core with ten policies; a gate of its own for each row. Connections are opened and left silent, then each sends one request, then all take \
             turns: {IN_FLIGHT} connections send a request each, and the next ones send when all of these have their answers. Both ends are on this machine; \
             kernel memory of connections is not in RSS. CPU is the gate's, per request. A process may have {} files open here.",
            grouped(most)
        )],
        tables: vec![table(&all)],
        plots: vec![plot(&all)],
        ..Section::default()
    }
}

/// `ulimit -n`; 1,024 if `/proc` cannot be read.
fn files_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    soft.unwrap_or(1_024)
}

fn connect(gate: Gate, connections: usize, request: &[u8]) -> Connected {
    // the first request fills the caches
    let mut first = [open(gate.proxy)];
    ask(&mut first, request);
    drop(first);
    let before = gate.process.resident();
    let mut streams: Vec<TcpStream> = (0..connections).map(|_| open(gate.proxy)).collect();
    if let Some(last) = streams.last_mut() {
        // the gate accepts in order: when it answers the last connection, it has accepted all
        ask(std::slice::from_mut(last), request);
    }
    let idle = gate.process.resident();
    streams.chunks_mut(IN_FLIGHT).for_each(|chunk| ask(chunk, request));
    let used = gate.process.resident();
    let measured = Measured {
        connections,
        before,
        idle,
        used,
        rate: Vec::new(),
        cpu: Vec::new(),
    };
    Connected { gate, streams, measured }
}

fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends the request on every connection, then reads every answer.
fn ask(streams: &mut [TcpStream], request: &[u8]) {
    for stream in &mut *streams {
        stream.write_all(request).unwrap();
    }
    let mut buffer = [0; READ_BYTES];
    for stream in streams {
        let mut filled = 0;
        // the app answers `ok`
        while !buffer.get(..filled).unwrap().ends_with(b"\r\n\r\nok") {
            let read = stream.read(buffer.get_mut(filled..).unwrap()).unwrap();
            assert!(
                read > 0,
                "the gate closed the connection or refused: {}",
                String::from_utf8_lossy(buffer.get(..filled).unwrap())
            );
            filled += read;
        }
    }
}

impl Connected {
    fn drive(&mut self, request: &[u8], time: Duration) {
        let process = &self.gate.process;
        let before = process.cpu_time();
        let begun = Instant::now();
        let mut sent = 0;
        'time: loop {
            for chunk in self.streams.chunks_mut(IN_FLIGHT) {
                ask(chunk, request);
                sent += chunk.len();
                if begun.elapsed() > time {
                    break 'time;
                }
            }
        }
        let used = process.cpu_time().saturating_sub(before);
        self.measured.rate.push(number(sent) / begun.elapsed().as_secs_f64());
        self.measured.cpu.push(used.as_secs_f64() * 1e6 / number(sent));
    }
}

fn table(all: &[Measured]) -> Table {
    let base = all.iter().find(|one| one.connections >= IN_FLIGHT);
    let row = |one: &Measured| {
        let each = |mib: f64| short((mib - one.before) * 1024.0 / number(one.connections));
        let against = base.filter(|base| base.connections <= one.connections);
        let ratio = |of: fn(&Measured) -> &Vec<f64>| {
            against.map_or("–".to_owned(), |base| {
                percent(median(of(one).iter().zip(of(base)).map(|(a, b)| a / b)))
            })
        };
        let middle = |values: &[f64]| short(median(values.iter().copied()));
        vec![
            grouped(one.connections),
            short(one.idle),
            each(one.idle),
            each(one.used),
            middle(&one.rate),
            middle(&one.cpu),
            ratio(|one| &one.cpu),
        ]
    };
    Table {
        head: [
            "connections",
            "RSS idle, MiB",
            "each idle, KiB",
            "each once used, KiB",
            "requests/s",
            "CPU, µs",
            "CPU against 100",
        ]
        .map(str::to_owned)
        .into(),
        rows: all.iter().map(row).collect(),
    }
}

fn plot(all: &[Measured]) -> Plot {
    Plot {
        name: "growth-connections".to_owned(),
        title: "CPU of a request against open connections".to_owned(),
        x: Axis {
            label: "connections".to_owned(),
            logarithmic: true,
        },
        y: Axis {
            label: "µs of CPU".to_owned(),
            logarithmic: true,
        },
        series: vec![Series {
            name: format!("{IN_FLIGHT} requests in flight at most"),
            points: all
                .iter()
                .map(|one| (number(one.connections), median(one.cpu.iter().copied())))
                .collect(),
        }],
    }
}
