//! The gate's own log: JSON lines on stderr, or readable text on a terminal.
//!
//! Not the decision log, which is `audit`. The level comes from `CEDARGATE_LOG` (tracing's filter syntax, default `info`).
//! Threads that log put their lines into a bounded queue, and one writer thread writes them. With a stuck terminal or a full
//! pipe the queue fills and new lines are dropped; no request waits for the log.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait for stderr; a full queue drops new lines.
const LOG_QUEUE_LINES: usize = 4096;
/// Longest wait for the last lines when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
const DEFAULT_LEVEL: &str = "info";
/// Silences a crate whose lines carry paths of the build machine; the gate logs the same failures itself.
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

/// The running log; dropping it writes the queued lines.
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
    // an error of stderr itself cannot be reported anywhere
    for message in queue {
        match message {
            Message::Line(line) => drop(out.write_all(&line)),
            Message::Flush(done) => {
                drop(out.flush());
                let _wait_given_up = done.try_send(()).is_err();
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
    /// Called once per event; a full queue drops the line.
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
    fn full_log_queue_drops_lines_and_does_not_block() {
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
    fn invalid_log_filter_is_an_error() {
        assert!(matches!(start(Some("a=b=c=,,")), Err(TelemetryError::Filter(_))));
    }
}
