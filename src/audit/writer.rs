//! The writer thread: writes the lines of the queue to the sink.
//!
//! This thread is the queue's only reader. It takes all queued lines as one batch and writes the batch at once, then
//! lets lines gather for `GATHER_TIME`. A line after a quiet moment is written immediately. Between batches it does
//! what is due by time.
//!
//! A batch that the sink does not take, whole or in part, is dropped and counted, and the gate goes on. With `on_full:
//! deny` the writer keeps the rest of the batch instead and tries again every `RETRY_TIME`; until then the gate admits
//! no request (`Audit::admit`). The log says once that the sink fails and once that it works again. `close` ends the
//! thread behind the last queued line, so every accepted record is written, unless the sink blocks longer than
//! `CLOSE_TIMEOUT`.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use prometheus::{IntCounter, IntCounterVec};

use super::Shared;
use super::chain::{self, Chain, ChainKeyError};
use super::output::Output;
use super::queue::{Batch, TakenLines};
use super::sink::{Sink, open};
use crate::base::metrics::Metrics;
use crate::config::{self, AuditSink, FileSink, OnFull};

/// Pause after a batch. Without it, under load, every request would wake the writer thread.
const GATHER_TIME: Duration = Duration::from_millis(2);
/// Pause before the writer tries again what the sink did not take.
const RETRY_TIME: Duration = Duration::from_millis(100);
/// Longest wait at shutdown for a sink that blocks.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two looks at the thread while it ends.
const CLOSE_POLL: Duration = Duration::from_millis(1);

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("cannot open the audit file `{path}`; check that its folder exists and is writable", path = path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("audit.chain.key_file: `{path}`: {source}", path = path.display())]
    Key { path: PathBuf, source: ChainKeyError },
    #[error("cannot start the audit writer thread")]
    Thread(#[source] io::Error),
}

/// Owns the writer thread.
#[derive(Debug)]
pub struct AuditWriter {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Writer {
    output: Output,
    shared: Arc<Shared>,
    written: IntCounter,
    errors: IntCounterVec,
    /// Set while the sink does not take what it is given.
    failing: Option<Failing>,
}

/// A sink that fails since some time.
#[derive(Clone, Copy, Debug)]
struct Failing {
    /// Records dropped when it began to fail.
    dropped_before: u64,
    /// The next try of what is due by time.
    retry_at: Instant,
}

pub(super) fn label(sink: &AuditSink) -> &'static str {
    match sink {
        AuditSink::Word(_) => "stdout",
        AuditSink::File(_) => "file",
    }
}

impl AuditWriter {
    pub(super) fn start(config: &config::Audit, metrics: &Metrics, shared: Arc<Shared>) -> Result<Self, AuditError> {
        let errors = metrics.audit_errors.clone();
        let file = config.sink.file().map(|sink| sink.file.as_path());
        let chain = match &config.chain {
            None => None,
            Some(chain) => {
                let key = chain::read_key(&chain.key_file).map_err(|source| AuditError::Key {
                    path: chain.key_file.clone(),
                    source,
                })?;
                Some(Chain::new(chain, key, file, shared.dropped.clone()))
            }
        };
        let sink = Sink::open(&config.sink, &errors).map_err(|source| AuditError::Open {
            path: file.unwrap_or(Path::new("stdout")).to_owned(),
            source,
        })?;
        let writer = Writer {
            output: Output::new(sink, chain),
            shared: Arc::clone(&shared),
            written: metrics.audit_events.with_label_values(&[label(&config.sink)]),
            errors,
            failing: None,
        };
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run())
            .map_err(AuditError::Thread)?;
        Ok(Self { shared, thread })
    }

    /// Writes every record queued so far, then ends the thread. Call it after the workers ended. Returns without the
    /// last records if the sink blocks longer than `CLOSE_TIMEOUT`.
    pub fn close(self) {
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        self.shared.queue.close();
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::park_timeout(CLOSE_POLL);
        }
        if !self.thread.is_finished() {
            tracing::error!("the audit sink blocks; the process ends without writing the last records");
        } else if self.thread.join().is_err() {
            tracing::error!("the audit writer ended in a panic");
        }
    }
}

/// Fails if the decision log could not be written to this file. Never creates the file, because a gate that starts at
/// the same time may have begun to write it; tries a neighbour instead. A pipe passes: opening it would wait for its
/// reader.
pub fn check_file(sink: &FileSink) -> io::Result<()> {
    let path = sink.file.as_path();
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() && sink.rotate.is_some() => Err(io::Error::other(
            "is not a regular file and cannot be rotated; leave out `rotate`",
        )),
        Ok(found) if found.file_type().is_fifo() => Ok(()),
        Ok(_) => OpenOptions::new().append(true).open(path).map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let neighbour = path.with_file_name(format!(".cedargate-{}", uuid::Uuid::now_v7()));
            open(&neighbour)?;
            std::fs::remove_file(neighbour)
        }
        Err(error) => Err(error),
    }
}

/// Fails if the key of `audit.chain` cannot be used.
pub fn check_chain_key(path: &Path) -> Result<(), ChainKeyError> {
    chain::read_key(path).map(drop)
}

impl Writer {
    fn run(mut self) {
        let mut batch = Batch::default();
        self.attend();
        loop {
            let deadline = self.output.deadline();
            let deadline = deadline.map(|at| self.failing.map_or(at, |failing| at.max(failing.retry_at)));
            match self.shared.queue.take(&mut batch, deadline) {
                TakenLines::Lines => {
                    self.write(&mut batch);
                    self.shared.queue.done();
                    std::thread::park_timeout(GATHER_TIME);
                    if deadline.is_some_and(|at| at <= Instant::now()) {
                        self.attend();
                    }
                }
                TakenLines::Nothing => self.attend(),
                TakenLines::Closed => break,
            }
        }
        let finished = self.output.finish();
        self.note(&finished);
    }

    fn attend(&mut self) {
        let attended = self.output.attend();
        self.note(&attended);
    }

    /// Writes a batch, and empties it.
    fn write(&mut self, batch: &mut Batch) {
        self.shared.recent.add(&batch.text);
        let mut written = self.output.write(&mut batch.text);
        self.note(&written);
        if self.shared.on_full == OnFull::Deny {
            while written.is_err() {
                self.shared.sink_fails.store(true, Ordering::Relaxed);
                std::thread::park_timeout(RETRY_TIME);
                written = self.output.write(&mut batch.text);
                self.note(&written);
            }
            self.shared.sink_fails.store(false, Ordering::Relaxed);
        }
        // every line ends with its only line break
        let lost = batch.text.iter().filter(|byte| **byte == b'\n').count();
        self.written.inc_by(batch.lines.saturating_sub(lost) as u64);
        self.shared.dropped.inc_by(lost as u64);
        batch.text.clear();
    }

    /// Counts a failure, and logs when the sink begins to fail and when it works again.
    fn note(&mut self, result: &io::Result<()>) {
        match (result, self.failing) {
            (Ok(()), None) => {}
            (Ok(()), Some(failing)) => {
                let lost = self.shared.dropped.get().saturating_sub(failing.dropped_before);
                tracing::info!(lost, "the audit sink writes again");
                self.failing = None;
            }
            (Err(error), before) => {
                self.errors.with_label_values(&["write"]).inc();
                if before.is_none() {
                    let consequence = match self.shared.on_full {
                        OnFull::Drop => "records are dropped",
                        OnFull::Deny => "requests are refused",
                    };
                    tracing::error!(%error, "the audit sink cannot write; {consequence} until it can");
                }
                self.failing = Some(Failing {
                    dropped_before: before.map_or_else(|| self.shared.dropped.get(), |failing| failing.dropped_before),
                    retry_at: Instant::now() + RETRY_TIME,
                });
            }
        }
    }
}
