//! The load generator: pre-rendered HTTP/1.1 requests over keep-alive connections, from one thread, with little CPU.
//!
//! It shares its core with the app, so that the measured program has a core of its own. Closed loop: each connection
//! sends its next request as soon as the answer arrived, which shows the highest rate of the server. Open loop:
//! requests are due at fixed times, and the latency of each counts from the time when it was *due*, so that a stall
//! delays all requests behind it.

mod answer;
mod connection;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use self::connection::{Connection, Received};

/// Longest time without any answer; then the run fails.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time that an open loop gets beyond its end to send the requests that were due and to read their answers.
const OVERTIME: Duration = Duration::from_secs(2);

/// Requests that take turns, and how they are sent.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    pub address: SocketAddr,
    /// Whole requests, head and body; the first is sent again after the last.
    pub requests: &'a [Vec<u8>],
    /// The status of a right answer; answers with another status are counted as unexpected.
    pub expected: u16,
    pub connections: usize,
    pub pace: Pace,
    pub until: Until,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    Closed,
    /// So many requests per second.
    Open(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    Time(Duration),
    /// Every request was sent once.
    AllOnce,
}

/// The answers of one run.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    pub count: usize,
    pub took: Duration,
    /// Latencies in nanoseconds, in ascending order.
    pub times: Vec<u32>,
    pub unexpected: BTreeMap<u16, usize>,
    /// Requests that were due and not sent before the overtime was over (open loop).
    pub unsent: usize,
    /// Connections that the server closed between two requests.
    pub reopened: usize,
}

impl Answers {
    /// Answers per second.
    pub fn rate(&self) -> f64 {
        count(self.count) / self.took.as_secs_f64()
    }

    /// A quantile of the latency in microseconds; `share` from 0 to 1.
    pub fn time(&self, share: f64) -> f64 {
        let last = self.times.len().saturating_sub(1);
        let at = (0..=last)
            .rev()
            .find(|at| count(*at) <= count(last) * share)
            .unwrap_or_default();
        self.times.get(at).map_or(f64::NAN, |nanos| f64::from(*nanos) / 1e3)
    }

    /// Returns the answers if every status was the expected one.
    pub fn all_expected(self) -> Result<Self, String> {
        match self.unexpected.is_empty() && self.count > 0 {
            true => Ok(self),
            false => Err(format!("unexpected among {} answers: {:?}", self.count, self.unexpected)),
        }
    }
}

/// Renders a whole request.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: bench.test\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        text.push_str(&format!(
            "content-type: application/json\r\ncontent-length: {}\r\n",
            body.len()
        ));
    }
    text.push_str("\r\n");
    text.push_str(body.unwrap_or_default());
    text.into_bytes()
}

/// Sends one request on a connection of its own and returns status and body of the answer.
pub fn ask(address: SocketAddr, request: &[u8]) -> Result<(u16, String), String> {
    let mut connection = Connection::open(address)?;
    connection.send(request, Instant::now())?;
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        match connection.receive()? {
            Received::Answer(status) => return Ok((status, connection.body())),
            Received::Nothing => crate::machine::pause(Duration::from_micros(200)),
            Received::End => return Err(format!("{address} closed the connection")),
        }
    }
    Err(format!("{address} did not answer"))
}

impl Load<'_> {
    pub fn run(&self) -> Result<Answers, String> {
        let mut run = Run::open(self)?;
        let answers = match self.pace {
            Pace::Closed => run.closed(),
            Pace::Open(rate) => run.open_loop(rate),
        };
        let mut answers = answers.map_err(|e| format!("{}: {e}", self.address))?;
        answers.times.sort_unstable();
        answers.count = answers.times.len();
        Ok(answers)
    }
}

struct Run<'a> {
    load: &'a Load<'a>,
    epoll: rustix::fd::OwnedFd,
    connections: Vec<Connection>,
    events: Vec<epoll::Event>,
    /// Requests sent so far.
    sent: usize,
    busy: usize,
    answers: Answers,
}

impl<'a> Run<'a> {
    fn open(load: &'a Load<'a>) -> Result<Self, String> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| e.to_string())?;
        let connections = (0..load.connections).map(|_| Connection::open(load.address));
        let run = Self {
            load,
            epoll,
            connections: connections.collect::<Result<_, _>>()?,
            events: Vec::with_capacity(load.connections),
            sent: 0,
            busy: 0,
            answers: Answers::default(),
        };
        for at in 0..load.connections {
            run.watch(at)?;
        }
        Ok(run)
    }

    fn at(&self, at: usize) -> &Connection {
        self.connections.get(at).unwrap()
    }

    fn at_mut(&mut self, at: usize) -> &mut Connection {
        self.connections.get_mut(at).unwrap()
    }

    fn watch(&self, at: usize) -> Result<(), String> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(at as u64);
        epoll::add(&self.epoll, &self.at(at).stream, data, flags).map_err(|e| e.to_string())
    }

    fn closed(&mut self) -> Result<Answers, String> {
        let started = Instant::now();
        let more = |run: &Self, now: Instant| match run.load.until {
            Until::Time(time) => now < started + time,
            Until::AllOnce => run.sent < run.load.requests.len(),
        };
        for at in 0..self.connections.len() {
            let now = Instant::now();
            if more(self, now) {
                self.send(at, now)?;
            }
        }
        while self.busy > 0 {
            self.wait(None)?;
            let mut events = std::mem::take(&mut self.events);
            for event in events.drain(..) {
                let at = usize::try_from(event.data.u64()).unwrap();
                let now = Instant::now();
                if self.receive(at, now)? && more(self, now) {
                    self.send(at, now)?;
                }
            }
            self.events = events;
        }
        self.answers.took = started.elapsed();
        Ok(std::mem::take(&mut self.answers))
    }

    fn open_loop(&mut self, rate: f64) -> Result<Answers, String> {
        // without it a timer is up to 50 µs late
        rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)).map_err(|e| e.to_string())?;
        let mut idle: Vec<usize> = (0..self.connections.len()).collect();
        let total = match self.load.until {
            Until::Time(time) => whole(time.as_secs_f64() * rate),
            Until::AllOnce => self.load.requests.len(),
        };
        let started = Instant::now();
        let due = |nth: usize| started + Duration::from_secs_f64(count(nth) / rate);
        let end = due(total) + OVERTIME;
        while (self.sent < total || self.busy > 0) && Instant::now() < end {
            while self.sent < total && due(self.sent) <= Instant::now() {
                let Some(at) = idle.pop() else { break };
                self.send(at, due(self.sent))?;
            }
            let next = (self.sent < total && !idle.is_empty()).then(|| due(self.sent));
            self.wait(next)?;
            let mut events = std::mem::take(&mut self.events);
            for event in events.drain(..) {
                let at = usize::try_from(event.data.u64()).unwrap();
                if self.receive(at, Instant::now())? {
                    idle.push(at);
                }
            }
            self.events = events;
        }
        self.answers.unsent = total - self.sent;
        self.answers.took = started.elapsed();
        Ok(std::mem::take(&mut self.answers))
    }

    /// Waits until a connection can be read, or until `until`.
    fn wait(&mut self, until: Option<Instant>) -> Result<(), String> {
        let time = until.map_or(PATIENCE, |until| until.saturating_duration_since(Instant::now()));
        let timeout = Timespec::try_from(time).map_err(|e| e.to_string())?;
        let seen = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&timeout));
        match seen {
            Ok(0) if until.is_none() => Err(format!("no answer in {PATIENCE:?}")),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn send(&mut self, at: usize, since: Instant) -> Result<(), String> {
        let load = self.load;
        let number = self.sent % load.requests.len();
        self.sent += 1;
        self.busy += 1;
        let connection = self.at_mut(at);
        connection.request = number;
        if connection.send(load.requests.get(number).unwrap(), since).is_err() {
            self.reopen(at)?;
        }
        Ok(())
    }

    /// Reads from a connection; true if the answer is complete, so that the connection can send again.
    fn receive(&mut self, at: usize, now: Instant) -> Result<bool, String> {
        let connection = self.connections.get_mut(at).unwrap();
        if !connection.busy {
            return Ok(false);
        }
        match connection.receive()? {
            Received::Nothing => Ok(false),
            Received::End => self.reopen(at).map(|()| false),
            Received::Answer(status) => {
                let nanos = now.saturating_duration_since(connection.since).as_nanos();
                self.answers.times.push(u32::try_from(nanos).unwrap_or(u32::MAX));
                if status != self.load.expected {
                    *self.answers.unexpected.entry(status).or_default() += 1;
                }
                self.busy -= 1;
                Ok(true)
            }
        }
    }

    /// Replaces a connection that the server closed between two requests. The request goes over the new one; its
    /// latency still counts from the time when it was due.
    fn reopen(&mut self, at: usize) -> Result<(), String> {
        let load = self.load;
        let since = self.at(at).since;
        let request = self.at(at).request;
        *self.at_mut(at) = Connection::open(load.address)?;
        self.watch(at)?;
        self.answers.reopened += 1;
        self.at_mut(at).request = request;
        self.at_mut(at).send(load.requests.get(request).unwrap(), since)
    }
}

/// A count as a floating-point number.
pub fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn whole(number: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "requests of one run: small and not negative"
    )]
    let whole = number.round() as usize;
    whole
}
