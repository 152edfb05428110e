//! Interleaved rounds: A B C A B C …, so that slow moments of the machine meet all peers alike.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::servers::Server;
use crate::load::{Load, Pace, Until, count};
use crate::machine::pause;

/// Connections in every run with more than one.
pub const CONNECTIONS: usize = 32;
/// An open loop must be able to send while earlier requests wait.
const OPEN_CONNECTIONS: usize = 256;
const WARM_UP: Duration = Duration::from_millis(300);

/// A server to measure. A peer that failed once is not measured again, and the report says why.
pub struct Peer {
    pub name: String,
    pub server: Server,
    pub requests: Vec<Vec<u8>>,
    /// The file of decision records, if the peer is a gate that writes them.
    pub records: Option<PathBuf>,
    pub failed: Option<String>,
}

#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Closed loop over this many connections.
    Closed(usize),
    /// Open loop with so many requests per second.
    Open(f64),
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed(1) => f.write_str("one at a time"),
            Self::Closed(connections) => write!(f, "{connections} connections"),
            Self::Open(rate) => write!(f, "{rate:.0} requests/s"),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Round {
    /// Answers per second.
    pub rate: f64,
    /// Microseconds.
    pub p50: f64,
    pub p99: f64,
    /// CPU time of the peer per request, in microseconds.
    pub cpu: f64,
    /// Share of one core that the peer used.
    pub busy: f64,
    /// Share of the time in which the peer could have run and did not get its core.
    pub waited: f64,
    /// Share of the requests that were due and not sent in time.
    pub unsent: f64,
    /// Resident memory right after the round, in MiB.
    pub resident: f64,
    pub answered: f64,
    /// Decision records in the file.
    pub recorded: f64,
}

/// A median, the smallest and the largest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(rounds: &[Round], what: impl Fn(&Round) -> f64) -> Option<Self> {
        let mut all: Vec<f64> = rounds.iter().map(what).collect();
        all.sort_by(f64::total_cmp);
        Some(Self {
            median: *all.get(all.len() / 2)?,
            low: *all.first()?,
            high: *all.last()?,
        })
    }
}

/// The number of rounds and the time of each.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub rounds: usize,
    pub time: Duration,
}

/// Measures the peers in turn. Returns one list of rounds per peer, empty for a peer that failed.
pub fn interleave(peers: &mut [Peer], plan: Plan, shape: Shape) -> Vec<Vec<Round>> {
    let mut all: Vec<Vec<Round>> = peers.iter().map(|_| Vec::new()).collect();
    for round in 0..plan.rounds {
        for (peer, rounds) in peers.iter_mut().zip(&mut all).filter(|(peer, _)| peer.failed.is_none()) {
            let warm_up = if round == 0 { WARM_UP.min(plan.time) } else { Duration::ZERO };
            match peer.round(shape, plan.time, warm_up) {
                Ok(one) => rounds.push(one),
                Err(error) => {
                    eprintln!("  {} failed: {error}", peer.name);
                    peer.failed = Some(error);
                    rounds.clear();
                }
            }
        }
        eprintln!("  {shape}, round {} of {}", round + 1, plan.rounds);
    }
    all
}

impl Peer {
    fn round(&self, shape: Shape, time: Duration, warm_up: Duration) -> Result<Round, String> {
        if warm_up > Duration::ZERO {
            self.load(Shape::Closed(CONNECTIONS), Until::Time(warm_up))
                .run()?
                .all_expected()?;
            self.take_records(0);
        }
        let taken = self.measure(&self.load(shape, Until::Time(time)));
        taken.map_err(|e| format!("{shape:?}: {e}"))
    }

    pub fn load(&self, shape: Shape, until: Until) -> Load<'_> {
        let (connections, pace) = match shape {
            Shape::Closed(connections) => (connections, Pace::Closed),
            Shape::Open(rate) => (OPEN_CONNECTIONS, Pace::Open(rate)),
        };
        Load {
            address: self.server.address,
            requests: &self.requests,
            expected: 200,
            connections,
            pace,
            until,
        }
    }

    pub fn measure(&self, load: &Load<'_>) -> Result<Round, String> {
        let process = &self.server.process;
        let cpu_before = process.cpu_time();
        let waited_before = process.waited();
        let answers = load.run()?.all_expected()?;
        let waited = process.waited().saturating_sub(waited_before);
        let resident = process.resident();
        let recorded = self.take_records(answers.count);
        // records that are written after the last answer cost CPU time of the requests, too
        let cpu = process.cpu_time().saturating_sub(cpu_before);
        let answered = count(answers.count);
        let unsent = count(answers.unsent);
        Ok(Round {
            rate: answers.rate(),
            p50: answers.time(0.5),
            p99: answers.time(0.99),
            cpu: cpu.as_secs_f64() * 1e6 / answered,
            busy: cpu.as_secs_f64() / answers.took.as_secs_f64(),
            waited: waited.as_secs_f64() / answers.took.as_secs_f64(),
            unsent: unsent / (answered + unsent),
            resident,
            answered,
            recorded: count(recorded),
        })
    }

    /// Waits for `expected` records in the file, at most half a second. Returns their number and empties the file.
    fn take_records(&self, expected: usize) -> usize {
        let Some(file) = &self.records else { return 0 };
        let until = Instant::now() + Duration::from_millis(500);
        let mut found = lines(file);
        while found < expected && Instant::now() < until {
            pause(Duration::from_millis(20));
            found = lines(file);
        }
        OpenOptions::new()
            .write(true)
            .open(file)
            .and_then(|file| file.set_len(0))
            .unwrap();
        found
    }
}

fn lines(file: &Path) -> usize {
    let mut reader = BufReader::with_capacity(1 << 20, std::fs::File::open(file).unwrap());
    let mut lines = 0;
    loop {
        let read = reader.fill_buf().unwrap();
        let length = read.len();
        if length == 0 {
            return lines;
        }
        lines += read.iter().filter(|byte| **byte == b'\n').count();
        reader.consume(length);
    }
}
