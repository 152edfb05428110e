//! Reads decision logs on every core, in bounded memory.
//!
//! One thread reads and decompresses lines into batches; workers parse each line and give decision records to their own
//! `Visitor`; at the end the visitors are joined. The channel between them holds few batches, so a log of any size
//! takes the same memory. A line that is no record is counted and named, and so is a file that is cut off; reading goes
//! on behind it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use parking_lot::Mutex;

use super::LogRecord;
use crate::audit::lines::{Lines, in_order};

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// Bytes of lines that a worker takes at once; one longer line is a batch of its own.
const BATCH_BYTES: usize = 512 * 1024;
/// Batches that wait for each worker.
const BATCHES_PER_WORKER: usize = 2;
/// Broken lines that are named; more are counted.
const BROKEN_NAMED_MAX: usize = 10;

/// Sees the decision records of logs. Each worker has its own; the order of records among them is not that of the log.
pub trait Visitor: Send {
    fn visit(&mut self, record: &LogRecord<'_>, place: RecordLocation<'_>);

    /// Sees a record of another kind, as it stands in the log.
    fn visit_event(&mut self, _text: &[u8]) {}

    /// Adds what another visitor saw.
    fn join(&mut self, other: Self);
}

/// The place of a record.
#[derive(Clone, Copy, Debug)]
pub struct RecordLocation<'a> {
    pub file: &'a str,
    /// From 1.
    pub line: u64,
    /// Bytes of text before the line.
    pub offset: u64,
}

/// A line that is no record.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct BrokenLine {
    pub file: Arc<str>,
    pub line: u64,
}

/// A file that cannot be read to its end.
#[derive(Clone, Debug)]
pub struct CutFile {
    pub file: String,
    /// The last line that could be read.
    pub line: u64,
    pub why: String,
}

/// The numbers of one reading.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Decision records.
    pub decisions: u64,
    /// Records of other kinds.
    pub others: u64,
    pub broken: u64,
    /// The first broken lines.
    pub broken_lines: Vec<BrokenLine>,
    pub cut_files: Vec<CutFile>,
}

/// The result of reading logs.
pub struct Reading<V> {
    pub visitor: V,
    pub totals: Totals,
}

/// The part that was read so far.
#[derive(Clone, Copy, Debug)]
pub struct ReadProgress {
    pub lines: u64,
    /// Bytes of the files, compressed ones as they are.
    pub bytes: u64,
    /// The bytes of all files; `None`: standard input is among them.
    pub bytes_total: Option<u64>,
}

/// The logs to read.
pub struct LogReader<'a> {
    /// Files, in any order; `-` is standard input.
    pub logs: &'a [PathBuf],
    pub workers: usize,
    /// Bytes of a worker's stack: Cedar evaluates recursively.
    pub stack_bytes: usize,
}

struct Batch {
    file: Arc<str>,
    /// Number of the first line.
    first: u64,
    text: Vec<u8>,
    lines: Vec<BatchLine>,
}

/// A line of a batch.
struct BatchLine {
    /// Its end in the batch's text.
    end: usize,
    /// Bytes of the file's text before it.
    offset: u64,
}

impl LogReader<'_> {
    /// Reads everything. `progress` is called now and then. Fails if a file cannot be opened.
    pub fn read<V: Visitor>(&self, new: impl Fn() -> V + Sync, mut progress: impl FnMut(ReadProgress)) -> io::Result<Reading<V>> {
        let workers = self.workers.max(1);
        let (sender, receiver) = sync_channel(workers * BATCHES_PER_WORKER);
        let receiver = Mutex::new(receiver);
        thread::scope(|scope| {
            let work = || work(&receiver, new());
            let mut threads = Vec::with_capacity(workers);
            for _ in 0..workers {
                threads.push(
                    thread::Builder::new()
                        .stack_size(self.stack_bytes)
                        .spawn_scoped(scope, work)?,
                );
            }
            let read = self.send_batches(&sender, &mut progress);
            drop(sender);
            let mut all: Option<Reading<V>> = None;
            for thread in threads {
                let part = thread.join().map_err(|_panic| io::Error::other("a worker panicked"))?;
                match &mut all {
                    None => all = Some(part),
                    Some(all) => all.join(part),
                }
            }
            let mut reading = all.ok_or_else(|| io::Error::other("no worker"))?;
            reading.totals.cut_files = read?;
            Ok(reading)
        })
    }

    fn send_batches(&self, sender: &SyncSender<Batch>, progress: &mut impl FnMut(ReadProgress)) -> io::Result<Vec<CutFile>> {
        let mut cut = Vec::new();
        let paths = in_order(self.logs)?;
        let sizes = paths.iter().map(|path| std::fs::metadata(path).map(|file| file.len()).ok());
        let read = Arc::default();
        let mut so_far = ReadProgress {
            lines: 0,
            bytes: 0,
            bytes_total: sizes.sum(),
        };
        for path in paths {
            let named = |error: io::Error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display()));
            let mut file = OpenLog::open(&path, &read).map_err(named)?;
            loop {
                let filled = file.batch();
                if let Some(batch) = filled.batch {
                    so_far.lines += batch.lines.len() as u64;
                    so_far.bytes = read.load(Ordering::Relaxed);
                    if sender.send(batch).is_err() {
                        return Err(io::Error::other("the workers ended"));
                    }
                    progress(so_far);
                }
                match filled.end {
                    None => {}
                    Some(Ok(())) => break,
                    Some(Err(error)) => {
                        cut.push(CutFile {
                            file: file.name.to_string(),
                            line: file.line,
                            why: error.to_string(),
                        });
                        break;
                    }
                }
            }
        }
        Ok(cut)
    }
}

/// A log that is being read.
struct OpenLog {
    name: Arc<str>,
    lines: Lines,
    /// Lines read so far.
    line: u64,
}

/// The next lines of a file.
struct Filled {
    /// `None`: there was none.
    batch: Option<Batch>,
    /// `None`: the file goes on.
    end: Option<io::Result<()>>,
}

impl OpenLog {
    fn open(path: &Path, read: &Arc<AtomicU64>) -> io::Result<Self> {
        Ok(Self {
            name: Arc::from(path.display().to_string()),
            lines: Lines::open_counted(path, read)?,
            line: 0,
        })
    }

    fn batch(&mut self) -> Filled {
        let mut batch = Batch {
            file: Arc::clone(&self.name),
            first: self.line + 1,
            text: Vec::new(),
            lines: Vec::new(),
        };
        let mut end = None;
        while batch.text.len() < BATCH_BYTES && end.is_none() {
            match self.lines.next() {
                Ok(None) => end = Some(Ok(())),
                Err(error) => end = Some(Err(error)),
                Ok(Some(line)) => {
                    self.line += 1;
                    // the beginning of a line that is too long is no record
                    let text = if line.is_too_long { &[] } else { line.bytes };
                    batch.text.extend_from_slice(text);
                    batch.lines.push(BatchLine {
                        end: batch.text.len(),
                        offset: line.offset,
                    });
                }
            }
        }
        Filled {
            batch: (!batch.lines.is_empty()).then_some(batch),
            end,
        }
    }
}

fn work<V: Visitor>(batches: &Mutex<Receiver<Batch>>, visitor: V) -> Reading<V> {
    let mut reading = Reading {
        visitor,
        totals: Totals::default(),
    };
    loop {
        let next = batches.lock().recv();
        let Ok(batch) = next else { return reading };
        let mut start = 0;
        for (line, BatchLine { end, offset }) in (batch.first..).zip(&batch.lines) {
            let text = batch.text.get(start..*end).unwrap_or_default();
            start = *end;
            let place = RecordLocation {
                file: &batch.file,
                line,
                offset: *offset,
            };
            // a record must not end the reading of all others
            let read = catch_unwind(AssertUnwindSafe(|| reading.line(text, place)));
            if !matches!(read, Ok(true)) {
                reading.totals.add_broken(BrokenLine {
                    file: Arc::clone(&batch.file),
                    line,
                });
            }
        }
    }
}

impl<V: Visitor> Reading<V> {
    /// False if the line is no record.
    fn line(&mut self, text: &[u8], place: RecordLocation<'_>) -> bool {
        // editors and shells of Windows begin a file with a byte order mark
        let text = text.strip_prefix(BYTE_ORDER_MARK).filter(|_| place.line == 1).unwrap_or(text);
        let Some(record) = LogRecord::parse(text) else {
            return false;
        };
        if record.kind.is_empty() {
            return false;
        }
        if record.is_decision() {
            self.totals.decisions += 1;
            self.visitor.visit(&record, place);
        } else {
            self.totals.others += 1;
            self.visitor.visit_event(text);
        }
        true
    }

    fn join(&mut self, other: Self) {
        self.visitor.join(other.visitor);
        let Totals {
            decisions,
            others,
            broken,
            broken_lines,
            cut_files: _,
        } = other.totals;
        self.totals.decisions += decisions;
        self.totals.others += others;
        let uncounted = broken - broken_lines.len() as u64;
        broken_lines.into_iter().for_each(|line| self.totals.add_broken(line));
        self.totals.broken += uncounted;
    }
}

impl Totals {
    fn add_broken(&mut self, line: BrokenLine) {
        self.broken += 1;
        let at = self.broken_lines.partition_point(|known| *known < line);
        self.broken_lines.insert(at, line);
        self.broken_lines.truncate(BROKEN_NAMED_MAX);
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
