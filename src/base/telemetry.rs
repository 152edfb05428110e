//! The gate's own log: JSON lines on stderr, or readable text on a terminal.
//!
//! Not the decision log, which is `audit`. The level comes from `CEDARGATE_LOG` (tracing's filter syntax, default
//! `info`), and the control socket can change it for a time (`level`). Threads that log put their lines into a bounded
//! queue, and one writer thread writes them. With a stuck terminal or a full pipe the queue fills and new lines are
//! dropped; no request waits for the log. Warnings and errors that repeat are left out and counted (`throttle`).

mod level;
mod throttle;

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use self::level::{LogLevelError, log_level};
use self::throttle::Throttle;

/// Lines that wait for stderr; a full queue drops new lines.
const LOG_QUEUE_LINES: usize = 4096;
/// Longest wait for the last lines when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval at which the writer reports lines that were left out.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("`CEDARGATE_LOG` is not a log filter; use a level such as `info` or `cedargate=debug`")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    #[error("the log was already set up; start telemetry once per process")]
    AlreadySet(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot start the log writer thread")]
    Thread(#[source] io::Error),
}

/// The running log; dropping it writes the queued lines.
#[derive(Debug)]
pub struct Telemetry(SyncSender<Message>);

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

#[derive(Clone, Debug)]
struct LogLines(SyncSender<Message>);

/// The value of `CEDARGATE_LOG`; `None`: it is not set.
pub fn configured_filter() -> Option<String> {
    std::env::var("CEDARGATE_LOG").ok()
}

/// Fails if `start` would fail with the value of `CEDARGATE_LOG`.
pub fn check_filter() -> Result<(), TelemetryError> {
    let filter = level::filter_text(configured_filter().as_deref());
    level::parse(&filter).map(drop).map_err(TelemetryError::Filter)
}

/// Starts the log. `filter` is the value of `CEDARGATE_LOG`.
pub fn start(filter: Option<&str>) -> Result<Telemetry, TelemetryError> {
    let filter = level::filter_text(filter);
    let (filter_layer, handle) = reload::Layer::new(level::parse(&filter).map_err(TelemetryError::Filter)?);
    let (sender, receiver) = sync_channel(LOG_QUEUE_LINES);
    let throttle = Throttle::default();
    let left_out = throttle.clone();
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_lines(&receiver, io::stderr(), &left_out))
        .map_err(TelemetryError::Thread)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(LogLines(sender.clone()));
    let lines = if io::stderr().is_terminal() {
        lines.with_target(false).boxed()
    } else {
        lines.json().flatten_event(true).boxed()
    };
    let log = tracing_subscriber::registry().with(filter_layer).with(throttle).with(lines);
    log.try_init().map_err(|error| TelemetryError::AlreadySet(error.into()))?;
    level::install(filter, move |filter| handle.reload(filter).is_ok());
    Ok(Telemetry(sender))
}

fn write_lines(queue: &Receiver<Message>, mut out: impl Write, throttle: &Throttle) {
    let mut reported = Instant::now();
    loop {
        // an error of stderr itself cannot be reported anywhere
        match queue.recv_timeout(REPORT_INTERVAL) {
            Ok(Message::Line(line)) => drop(out.write_all(&line)),
            Ok(Message::Flush(done)) => {
                drop(out.flush());
                let _wait_given_up = done.try_send(()).is_err();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if reported.elapsed() >= REPORT_INTERVAL {
            reported = Instant::now();
            throttle.report();
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        let (done, flushed) = sync_channel(1);
        if self.0.try_send(Message::Flush(done)).is_ok() {
            let _too_slow = flushed.recv_timeout(FLUSH_TIMEOUT).is_err();
        }
    }
}

impl Write for LogLines {
    /// Called once per event; a full queue drops the line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        drop(self.0.try_send(Message::Line(line.to_vec())));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogLines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_log_queue_drops_lines_and_does_not_block() {
        let (sender, receiver) = sync_channel(2);
        let mut lines = LogLines(sender);
        for line in ["one\n", "two\n", "three\n"] {
            assert_eq!(lines.write(line.as_bytes()).unwrap(), line.len());
        }
        drop(lines);
        let mut out = Vec::new();
        write_lines(&receiver, &mut out, &Throttle::default());
        assert_eq!(out, b"one\ntwo\n");
    }

    #[test]
    fn invalid_log_filter_is_an_error() {
        assert!(matches!(start(Some("a=b=c=,,")), Err(TelemetryError::Filter(_))));
    }
}
