//! The one thread that formats and writes records.
//!
//! Takes what is queued in batches and writes each batch at once: a record after a quiet moment as it comes, what follows
//! it closely together. A sink that fails costs records (counted), never the gate.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use prometheus::IntCounter;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender};

use super::mask::{Found, Mask, Masked};
use super::record::{AuditRecord, Event, SCHEMA_VERSION, Timestamp};
use crate::base::metrics::Metrics;
use crate::config::{self, AuditSink};

/// A batch is written when it holds so much, or when the queue is empty.
const BATCH_BYTES: usize = 64 * 1024;
/// After a batch the next one gathers for so long: under load a thread that waits for each record is woken by each request.
const GATHER_TIME: Duration = Duration::from_millis(2);
/// How long leaving waits for a sink that does not take its records.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const CLOSE_POLL: Duration = Duration::from_millis(1);
/// Only the owner reads decision records.
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

struct Writing {
    sink: Sink,
    mask: Mask,
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
        queue: Sender<Message>,
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
        let writing = Writing {
            sink,
            mask: Mask::new(&config.mask),
            batch: Vec::with_capacity(BATCH_BYTES),
            lines: 0,
            written: metrics.audit_events.with_label_values(&[name]),
            dropped: metrics.audit_dropped.with_label_values(&[name]),
        };
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writing.run(receiver))
            .map_err(AuditError::Thread)?;
        Ok(Self { queue, thread })
    }

    /// Writes everything queued so far, then ends; call after the workers ended. A sink that takes nothing is given up on.
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
            tracing::error!("the audit sink takes no records; leaving without the last ones");
        } else if self.thread.join().is_err() {
            tracing::error!("the audit writer ended in a panic");
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(FILE_MODE).open(path)
}

impl Writing {
    fn run(mut self, mut queue: Receiver<Message>) {
        while let Some(message) = queue.blocking_recv() {
            let mut next = Some(message);
            while let Some(message) = next {
                let mut stop = self.take(message);
                while let Ok(message) = queue.try_recv() {
                    stop |= self.take(message);
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

    /// Whether this was the end.
    fn take(&mut self, message: Message) -> bool {
        let Message::Event(event) = message else { return true };
        let start = self.batch.len();
        match line(&event, &self.mask, &mut self.batch) {
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
        match self.sink.write(&self.batch) {
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
    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(batch)?;
                out.flush()
            }
            Self::File { path, file } => {
                if rotated(path, file)? {
                    *file = open(path)?;
                }
                file.write_all(batch)
            }
        }
    }
}

/// Whether the path now names another file, or none.
fn rotated(path: &Path, file: &File) -> io::Result<bool> {
    let open = file.metadata()?;
    Ok(std::fs::metadata(path).map_or(true, |named| (named.dev(), named.ino()) != (open.dev(), open.ino())))
}

#[derive(Serialize)]
struct Line<'a, T: Serialize> {
    schema_version: u32,
    kind: &'static str,
    /// Decisions carry the time they began.
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<Timestamp>,
    #[serde(flatten)]
    event: Masked<'a, 'a, T>,
    /// Last, because it is known only when everything else is written.
    masked: &'a Found<'a>,
}

/// A decision's line, in one object from the start.
struct DecisionLine<'a> {
    kind: &'static str,
    record: &'a AuditRecord,
    mask: &'a Mask,
}

impl Serialize for DecisionLine<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let found = Found::default();
        let mut fields = self.mask.over(to, &found).serialize_struct("decision", 25)?;
        // what every line has is nobody's secret
        fields.bare().serialize_field("schema_version", &SCHEMA_VERSION)?;
        fields.bare().serialize_field("kind", self.kind)?;
        self.record.write_fields(&mut fields)?;
        fields.bare().serialize_field("masked", &found)?;
        fields.end()
    }
}

/// Appends one JSON line.
pub(super) fn line(event: &Event, mask: &Mask, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let now = Some(Timestamp(SystemTime::now()));
    match event {
        Event::Decision(record) => {
            let kind = event.kind();
            serde_json::to_writer(&mut *out, &DecisionLine { kind, record, mask })?;
            out.push(b'\n');
            Ok(())
        }
        Event::Auth(fields) => append(event.kind(), now, fields, mask, out),
        Event::Policy(fields) => append(event.kind(), now, fields, mask, out),
        Event::Admin(fields) => append(event.kind(), now, fields, mask, out),
        Event::HttpRejected(fields) => append(event.kind(), now, fields, mask, out),
    }
}

fn append<T: Serialize>(
    kind: &'static str,
    ts: Option<Timestamp>,
    event: &T,
    mask: &Mask,
    out: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let found = Found::default();
    let line = Line {
        schema_version: SCHEMA_VERSION,
        kind,
        ts,
        event: Masked::new(event, mask, &found),
        masked: &found,
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.push(b'\n');
    Ok(())
}
