//! What a connection costs, idle and used, and whether many of them slow down the rest.

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
/// Requests in flight at once, over connections that take turns.
const IN_FLIGHT: usize = 32;
const ROUNDS: usize = 5;
/// Open files of a process that are no connections to the gate: 32 to the app, and some.
const FILES_APART: usize = 200;
const READ_BYTES: usize = 16 * 1024;
/// How long the gate may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

struct Measured {
    connections: usize,
    /// MiB: before anybody connected, all connected and silent, each has asked.
    before: f64,
    idle: f64,
    used: f64,
    rate: Vec<f64>,
    cpu: Vec<f64>,
}

pub fn section(extent: Extent) -> Section {
    let setting = Setting::new();
    let files = setting.files(10);
    let request = setting.get("/shop/cart");
    let most = files_max();
    let fits = |size: &&usize| *size + FILES_APART <= most;
    let sizes = super::sizes(extent, &SIZES, 2).iter().filter(fits);
    // all at once, so that their rounds take turns
    let mut all: Vec<(Gate, Vec<TcpStream>, Measured)> = sizes
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
        for (gate, streams, measured) in &mut all {
            drive(gate, streams, &request, (measured, time));
        }
    }
    let all: Vec<Measured> = all.into_iter().map(|(_, _, measured)| measured).collect();
    Section {
        title: "Connections".to_owned(),
        text: vec![format!(
            "The whole program on one core with ten policies; a gate of its own for each row. Connections are opened and left silent, then each asks once, then all take \
             turns with at most {IN_FLIGHT} requests in flight, all of a lot answered before the next lot is asked. Both ends are on this machine; \
             what the kernel keeps for a connection is not in RSS. CPU is the gate's, per request. A process may have {} files open here.",
            grouped(most)
        )],
        tables: vec![table(&all)],
        plots: vec![plot(&all)],
        ..Section::default()
    }
}

/// `ulimit -n`; without `/proc` what every system gives.
fn files_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    soft.unwrap_or(1_024)
}

fn connect(gate: Gate, connections: usize, request: &[u8]) -> (Gate, Vec<TcpStream>, Measured) {
    // the first request makes what is made once
    let mut first = [open(gate.proxy)];
    ask(&mut first, request);
    drop(first);
    let before = gate.process.resident();
    let mut streams: Vec<TcpStream> = (0..connections).map(|_| open(gate.proxy)).collect();
    if let Some(last) = streams.last_mut() {
        // accepted in order: when the last is answered all are there
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
    (gate, streams, measured)
}

fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// All of them at once, then every answer.
fn ask(streams: &mut [TcpStream], request: &[u8]) {
    for stream in &mut *streams {
        stream.write_all(request).unwrap();
    }
    let mut buffer = [0; READ_BYTES];
    for stream in streams {
        let mut filled = 0;
        // the app's answer is `ok` and says how long it is
        while !buffer.get(..filled).unwrap().ends_with(b"\r\n\r\nok") {
            let read = stream.read(buffer.get_mut(filled..).unwrap()).unwrap();
            assert!(
                read > 0,
                "the gate hung up or refused: {}",
                String::from_utf8_lossy(buffer.get(..filled).unwrap())
            );
            filled += read;
        }
    }
}

fn drive(gate: &Gate, streams: &mut [TcpStream], request: &[u8], (measured, time): (&mut Measured, Duration)) {
    let (begun, before, mut asked) = (Instant::now(), gate.process.cpu_time(), 0);
    'time: loop {
        for chunk in streams.chunks_mut(IN_FLIGHT) {
            ask(chunk, request);
            asked += chunk.len();
            if begun.elapsed() > time {
                break 'time;
            }
        }
    }
    let used = gate.process.cpu_time().saturating_sub(before);
    measured.rate.push(number(asked) / begun.elapsed().as_secs_f64());
    measured.cpu.push(used.as_secs_f64() * 1e6 / number(asked));
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
