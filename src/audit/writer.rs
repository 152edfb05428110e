//! The writer thread: writes the lines of the queue to the sink.
//!
//! This thread is the queue's only reader. It takes all queued lines as one batch and writes the batch at once, then lets lines
//! gather for `GATHER_TIME`. A line after a quiet moment is written immediately.
//!
//! A batch that the sink does not take, whole or in part, is dropped and counted, and the gate goes on. With `on_full: deny`
//! the writer keeps the rest of the batch instead and tries again every `RETRY_TIME`; until then the gate admits no request
//! (`Audit::admit`). `close` ends the thread behind the last queued line, so every accepted record is written, unless the sink
//! blocks longer than `CLOSE_TIMEOUT`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use prometheus::IntCounter;

use super::Shared;
use super::queue::Batch;
use crate::base::metrics::Metrics;
use crate::config::{self, AuditSink, OnFull};

/// Pause after a batch. Without it, under load, every request would wake the writer thread.
const GATHER_TIME: Duration = Duration::from_millis(2);
/// Pause before the writer offers a batch again that the sink did not take.
const RETRY_TIME: Duration = Duration::from_millis(100);
/// Longest wait at shutdown for a sink that blocks.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two looks at the thread while it ends.
const CLOSE_POLL: Duration = Duration::from_millis(1);
/// Decision records are readable by their owner only.
const FILE_MODE: u32 = 0o600;

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("cannot open the audit file `{path}`; check that its folder exists and is writable", path = path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot start the audit writer thread")]
    Thread(#[source] io::Error),
}

/// Owns the writer thread.
#[derive(Debug)]
pub struct AuditWriter {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

enum Sink {
    Stdout,
    File { path: PathBuf, file: File },
}

struct Writer {
    sink: Sink,
    shared: Arc<Shared>,
    written: IntCounter,
}

pub(super) fn label(sink: &AuditSink) -> &'static str {
    match sink {
        AuditSink::Stdout => "stdout",
        AuditSink::File(_) => "file",
    }
}

impl AuditWriter {
    pub(super) fn start(config: &config::Audit, metrics: &Metrics, shared: Arc<Shared>) -> Result<Self, AuditError> {
        let sink = match &config.sink {
            AuditSink::Stdout => Sink::Stdout,
            AuditSink::File(path) => Sink::File {
                path: path.clone(),
                file: open(path).map_err(|source| AuditError::Open {
                    path: path.clone(),
                    source,
                })?,
            },
        };
        let writer = Writer {
            sink,
            shared: Arc::clone(&shared),
            written: metrics.audit_events.with_label_values(&[label(&config.sink)]),
        };
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run())
            .map_err(AuditError::Thread)?;
        Ok(Self { shared, thread })
    }

    /// Writes every record queued so far, then ends the thread. Call it after the workers ended. Returns without the last
    /// records if the sink blocks longer than `CLOSE_TIMEOUT`.
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

/// Fails if the decision log could not be written to this file. Never creates the file, because a gate that starts at the same
/// time may have begun to write it; tries a neighbour instead. A pipe passes: opening it would wait for its reader.
pub fn check_file(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
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

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(FILE_MODE).open(path)
}

impl Writer {
    fn run(mut self) {
        let mut batch = Batch::default();
        while self.shared.queue.take(&mut batch) {
            self.write(&mut batch);
            self.shared.queue.done();
            std::thread::park_timeout(GATHER_TIME);
        }
    }

    /// Writes a batch, and empties it.
    fn write(&mut self, batch: &mut Batch) {
        let mut written = self.sink.write(&mut batch.text);
        if self.shared.on_full == OnFull::Deny
            && let Err(error) = &written
        {
            tracing::error!(%error, "the audit sink cannot write; requests are refused until it can");
            self.shared.sink_fails.store(true, Ordering::Relaxed);
            while written.is_err() {
                std::thread::park_timeout(RETRY_TIME);
                written = self.sink.write(&mut batch.text);
            }
            self.shared.sink_fails.store(false, Ordering::Relaxed);
            tracing::info!("the audit sink writes again");
        }
        // every line ends with its only line break
        let lost = batch.text.iter().filter(|byte| **byte == b'\n').count();
        self.written.inc_by(batch.lines.saturating_sub(lost) as u64);
        if let Err(error) = written {
            self.shared.dropped.inc_by(lost as u64);
            tracing::error!(%error, "audit records could not be written");
        }
        batch.text.clear();
    }
}

impl Sink {
    /// Writes the batch, and removes from it what was written, also if an error ends the writing.
    fn write(&mut self, batch: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                drain_into(&mut out, batch)?;
                out.flush()
            }
            Self::File { path, file } => {
                if is_rotated(path, file)? {
                    *file = open(path)?;
                }
                drain_into(file, batch)
            }
        }
    }
}

fn drain_into(to: &mut impl Write, batch: &mut Vec<u8>) -> io::Result<()> {
    let mut written = 0;
    let mut result = Ok(());
    while result.is_ok()
        && let Some(rest) = batch.get(written..).filter(|rest| !rest.is_empty())
    {
        match to.write(rest) {
            Ok(0) => result = Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => written += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => result = Err(error),
        }
    }
    drop(batch.drain(..written));
    result
}

/// True if the path now names another file, or none.
fn is_rotated(path: &Path, file: &File) -> io::Result<bool> {
    let open = file.metadata()?;
    Ok(std::fs::metadata(path).map_or(true, |named| (named.dev(), named.ino()) != (open.dev(), open.ino())))
}
