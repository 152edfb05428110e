//! The writer thread: formats records and writes them to the sink.
//!
//! Workers put records into a bounded queue; this thread is its only reader. It takes all queued records as one batch and writes
//! the batch at once, then lets records gather for `GATHER_TIME`. A record after a quiet moment is written immediately.
//!
//! A record that cannot be formatted is dropped and counted in `audit_dropped_total`. A batch that the sink does not take, whole
//! or in part, is dropped and counted too, and the gate goes on. With `on_full: deny` the writer keeps the rest of the batch
//! instead and tries again every `RETRY_TIME`; until then the gate admits no request (`Audit::admit`). `close` sends
//! `Stop` behind all queued records, so every accepted record is written, unless the sink blocks longer than `CLOSE_TIMEOUT`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender};

use super::Audit;
use super::mask::{Mask, Masked, MaskedPaths};
use super::record::{AuditRecord, Event, SCHEMA_VERSION, Timestamp};
use crate::base::clock;
use crate::base::metrics::Metrics;
use crate::config::{self, AuditSink, OnFull};

/// A batch is written when it holds this much, or when the queue is empty.
const BATCH_BYTES: usize = 64 * 1024;
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

#[derive(Debug)]
pub(super) enum Message {
    Event(Event),
    Stop,
}

/// Owns the writer thread.
#[derive(Debug)]
pub struct AuditWriter {
    queue: Sender<Message>,
    thread: JoinHandle<()>,
}

enum Sink {
    Stdout,
    File { path: PathBuf, file: File },
}

struct Writer {
    sink: Sink,
    mask: Mask,
    on_full: OnFull,
    fails: Arc<AtomicBool>,
    batch: Vec<u8>,
    lines: u64,
    written: IntCounter,
    dropped: IntCounter,
}

pub(super) fn label(sink: &AuditSink) -> &'static str {
    match sink {
        AuditSink::Stdout => "stdout",
        AuditSink::File(_) => "file",
    }
}

impl AuditWriter {
    pub(super) fn start(
        config: &config::Audit,
        metrics: &Metrics,
        audit: &Audit,
        receiver: Receiver<Message>,
    ) -> Result<Self, AuditError> {
        let name = label(&config.sink);
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
            mask: Mask::new(&config.mask),
            on_full: audit.on_full,
            fails: Arc::clone(&audit.sink_fails),
            batch: Vec::with_capacity(BATCH_BYTES),
            lines: 0,
            written: metrics.audit_events.with_label_values(&[name]),
            dropped: metrics.audit_dropped.with_label_values(&[name]),
        };
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(receiver))
            .map_err(AuditError::Thread)?;
        let queue = audit.queue.clone();
        Ok(Self { queue, thread })
    }

    /// Writes every record queued so far, then ends the thread. Call it after the workers ended. Returns without the last
    /// records if the sink blocks longer than `CLOSE_TIMEOUT`.
    pub fn close(self) {
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        let mut stop = Message::Stop;
        while let Err(TrySendError::Full(again)) = self.queue.try_send(stop) {
            if Instant::now() > deadline {
                break;
            }
            stop = again;
            std::thread::park_timeout(CLOSE_POLL);
        }
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
    fn run(mut self, mut queue: Receiver<Message>) {
        while let Some(message) = queue.blocking_recv() {
            let mut next = Some(message);
            while let Some(message) = next {
                let mut stop = self.append(message);
                while let Ok(message) = queue.try_recv() {
                    stop |= self.append(message);
                    if self.batch.len() >= BATCH_BYTES {
                        self.write();
                    }
                }
                self.write();
                if stop {
                    return;
                }
                std::thread::park_timeout(GATHER_TIME);
                next = queue.try_recv().ok();
            }
        }
    }

    /// Adds a record to the batch. True if the message was `Stop`.
    fn append(&mut self, message: Message) -> bool {
        let Message::Event(event) = message else { return true };
        let start = self.batch.len();
        match write_line(&event, &self.mask, &mut self.batch) {
            Ok(()) => self.lines += 1,
            Err(error) => {
                self.batch.truncate(start);
                self.dropped.inc();
                tracing::error!(%error, "an audit record could not be formatted");
            }
        }
        false
    }

    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut written = self.sink.write(&mut self.batch);
        if self.on_full == OnFull::Deny
            && let Err(error) = &written
        {
            tracing::error!(%error, "the audit sink cannot write; requests are refused until it can");
            self.fails.store(true, Ordering::Relaxed);
            while written.is_err() {
                std::thread::park_timeout(RETRY_TIME);
                written = self.sink.write(&mut self.batch);
            }
            self.fails.store(false, Ordering::Relaxed);
            tracing::info!("the audit sink writes again");
        }
        match written {
            Ok(()) => self.written.inc_by(self.lines),
            Err(error) => {
                self.dropped.inc_by(self.lines);
                tracing::error!(%error, "audit records could not be written");
            }
        }
        self.batch.clear();
        self.lines = 0;
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
    while !batch.is_empty() {
        match to.write(batch) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => drop(batch.drain(..bytes)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// True if the path now names another file, or none.
fn is_rotated(path: &Path, file: &File) -> io::Result<bool> {
    let open = file.metadata()?;
    Ok(std::fs::metadata(path).map_or(true, |named| (named.dev(), named.ino()) != (open.dev(), open.ino())))
}

/// The line of any record that is not a decision.
#[derive(Serialize)]
struct Line<'a, T: Serialize> {
    schema_version: u32,
    kind: &'static str,
    ts: Timestamp,
    #[serde(flatten)]
    event: Masked<'a, 'a, T>,
    /// The last field, because it is known only when all others are written.
    masked: &'a MaskedPaths<'a>,
}

/// The line of a decision. Written as one struct: `#[serde(flatten)]` costs a sixth of the line.
struct DecisionLine<'a> {
    kind: &'static str,
    record: &'a AuditRecord,
    mask: &'a Mask,
}

impl Serialize for DecisionLine<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let found = MaskedPaths::default();
        let mut fields = self.mask.over(to, &found).serialize_struct("decision", 25)?;
        // not masked: every line has these fields, and a reader needs them
        fields.unmasked().serialize_field("schema_version", &SCHEMA_VERSION)?;
        fields.unmasked().serialize_field("kind", self.kind)?;
        self.record.write_fields(&mut fields)?;
        fields.unmasked().serialize_field("masked", &found)?;
        fields.end()
    }
}

/// Appends one JSON line to `out`. A decision carries the time at which it began, any other record the current time.
pub(super) fn write_line(event: &Event, mask: &Mask, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let kind = event.kind();
    match event {
        Event::Decision(record) => serde_json::to_writer(&mut *out, &DecisionLine { kind, record, mask })?,
        Event::Auth(fields) => write_fields(kind, fields, mask, out)?,
        Event::Policy(fields) => write_fields(kind, fields, mask, out)?,
        Event::Admin(fields) => write_fields(kind, fields, mask, out)?,
        Event::HttpRejected(fields) => write_fields(kind, fields, mask, out)?,
    }
    out.push(b'\n');
    Ok(())
}

fn write_fields<T: Serialize>(kind: &'static str, fields: &T, mask: &Mask, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let found = MaskedPaths::default();
    let line = Line {
        schema_version: SCHEMA_VERSION,
        kind,
        ts: Timestamp(clock::now()),
        event: Masked::new(fields, mask, &found),
        masked: &found,
    };
    serde_json::to_writer(out, &line)
}
