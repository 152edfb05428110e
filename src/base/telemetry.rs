//! The gate's own log: JSON lines on stderr, or readable text on a terminal.
//!
//! Foundation; not the decision log, which is `audit`. The level comes from `CEDARGATE_LOG` (tracing's filter
//! syntax, default `info`). A line is handed to one writer thread through a bounded queue: a stuck terminal or a
//! full pipe costs log lines, never a request.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines waiting for stderr; more are dropped.
const LOG_QUEUE_LINES: usize = 4096;
/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
const DEFAULT_LEVEL: &str = "info";
/// Crates that report, with paths of the machine that built them, what the gate reports itself.
const SILENCED: &str = ",rustls_platform_verifier=off";

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("`CEDARGATE_LOG` is not a log filter; use a level such as `info` or `cedargate=debug`")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    #[error("the log was already set up; start telemetry once per process")]
    AlreadySet(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot start the log writer thread")]
    Thread(#[source] io::Error),
}

/// Keeps the log alive; dropping it writes out what is queued.
#[derive(Debug)]
pub struct Telemetry(SyncSender<Message>);

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

#[derive(Clone, Debug)]
struct Lines(SyncSender<Message>);

/// Starts the log. `filter` is the value of `CEDARGATE_LOG`.
pub fn start(filter: Option<&str>) -> Result<Telemetry, TelemetryError> {
    let filter = filter.map_or_else(|| format!("{DEFAULT_LEVEL}{SILENCED}"), str::to_owned);
    let filter = EnvFilter::try_new(filter).map_err(TelemetryError::Filter)?;
    let (sender, receiver) = sync_channel(LOG_QUEUE_LINES);
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_lines(&receiver, io::stderr()))
        .map_err(TelemetryError::Thread)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Lines(sender.clone()));
    let set = if io::stderr().is_terminal() {
        builder.with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    set.map_err(TelemetryError::AlreadySet)?;
    Ok(Telemetry(sender))
}

fn write_lines(queue: &Receiver<Message>, mut out: impl Write) {
    // Errors of the log's own sink have nowhere to go.
    for message in queue {
        match message {
            Message::Line(line) => drop(out.write_all(&line)),
            Message::Flush(done) => {
                drop(out.flush());
                let _nobody_waits = done.try_send(()).is_err();
            }
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

impl Write for Lines {
    /// One call per event; a full queue swallows the line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        drop(self.0.try_send(Message::Line(line.to_vec())));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_loses_lines_and_does_not_block() {
        let (sender, receiver) = sync_channel(2);
        let mut lines = Lines(sender);
        for line in ["one\n", "two\n", "three\n"] {
            assert_eq!(lines.write(line.as_bytes()).unwrap(), line.len());
        }
        drop(lines);
        let mut out = Vec::new();
        write_lines(&receiver, &mut out);
        assert_eq!(out, b"one\ntwo\n");
    }

    #[test]
    fn a_bad_filter_is_an_error() {
        assert!(matches!(start(Some("a=b=c=,,")), Err(TelemetryError::Filter(_))));
    }
}
