//! The decision log of the page: read once, in the background, and then counted for each view.
//!
//! The first call starts a thread that reads the logs into a `LogIndex`; until it ends, calls answer with its progress.
//! The index stays until the page asks to read again. No call reads a policy.

mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use uuid::Uuid;

use self::view::View;
use crate::app::STACK_BYTES;
use crate::cli::logs::totals_json;
use crate::replay::{LogIndex, LogReader, ReadProgress, Totals};
use crate::workbench::{Call, CallRefusal};

/// Threads that parse the log. Each has rows of its own until the end, so more of them take more memory.
const WORKERS_MAX: usize = 4;

/// The log that the page shows.
#[derive(Default)]
pub(super) struct SharedLog(Arc<Mutex<LogState>>);

/// Written by the reading thread and by a call that starts one, read by each call.
#[derive(Default)]
enum LogState {
    #[default]
    Unread,
    Reading(Option<ReadProgress>),
    Read(Arc<ReadLog>),
    Failed(String),
}

/// A log that was read.
struct ReadLog {
    index: LogIndex,
    totals: Totals,
    files: Vec<Measured>,
    took: Duration,
}

/// A file as it was before the reading.
#[derive(Eq, PartialEq)]
struct Measured {
    path: PathBuf,
    bytes: u64,
}

impl SharedLog {
    /// Answers `log`, with the parameters of a view.
    pub fn view(&self, call: &Call, files: Result<Vec<PathBuf>, String>) -> Result<Bytes, CallRefusal> {
        let read = match &*self.0.lock() {
            LogState::Read(read) => Some(Arc::clone(read)),
            _ => None,
        };
        let Some(read) = read else {
            return self.progress(files).map(|progress| progress.to_string().into());
        };
        let view = View::of(&read.index, call)?;
        let mut answer = view.answer();
        if let Some(answer) = answer.as_object_mut() {
            answer.insert("state".to_owned(), json!("read"));
            answer.insert("log".to_owned(), read.about(files));
        }
        Ok(answer.to_string().into())
    }

    /// Reads the logs now. Afterwards `view` answers at once.
    pub fn read_now(&self, files: &[PathBuf]) -> Result<(), String> {
        let read = ReadLog::new(files, |_| {})?;
        *self.0.lock() = LogState::Read(Arc::new(read));
        Ok(())
    }

    /// The record of a decision id, as JSON, from its place in the log; `None`: the log was not read yet, its sample
    /// does not hold the decision, or the file has changed.
    pub fn record(&self, id: &str) -> Option<Vec<u8>> {
        let read = match &*self.0.lock() {
            LogState::Read(read) => Arc::clone(read),
            _ => return None,
        };
        read.index.place(Uuid::try_parse(id).ok()?)?.read(id)
    }

    /// Answers `log` with a body: forgets what was read, and reads again.
    pub fn read_again(&self, files: Result<Vec<PathBuf>, String>) -> Result<Bytes, CallRefusal> {
        {
            let mut state = self.0.lock();
            if !matches!(*state, LogState::Reading(_)) {
                *state = LogState::Unread;
            }
        }
        self.progress(files).map(|progress| progress.to_string().into())
    }

    /// The progress; starts the reading if none has begun.
    fn progress(&self, files: Result<Vec<PathBuf>, String>) -> Result<Value, CallRefusal> {
        let mut state = self.0.lock();
        if matches!(*state, LogState::Unread) {
            *state = LogState::Reading(None);
            if let Err(message) = files.and_then(|files| self.start(files)) {
                *state = LogState::Failed(message);
            }
        }
        match &*state {
            LogState::Failed(message) => Ok(json!({"state": "failed", "message": message})),
            LogState::Reading(Some(progress)) => Ok(json!({
                "state": "reading",
                "lines": progress.lines,
                "bytes": progress.bytes,
                "bytes_total": progress.bytes_total,
            })),
            LogState::Unread | LogState::Reading(None) | LogState::Read(_) => Ok(json!({"state": "reading", "lines": 0})),
        }
    }

    fn start(&self, files: Vec<PathBuf>) -> Result<(), String> {
        let state = Arc::clone(&self.0);
        let thread = std::thread::Builder::new()
            .name("workbench-log".to_owned())
            .stack_size(STACK_BYTES);
        let work = move || {
            let read = ReadLog::new(&files, |progress| *state.lock() = LogState::Reading(Some(progress)));
            *state.lock() = match read {
                Ok(read) => LogState::Read(Arc::new(read)),
                Err(message) => LogState::Failed(message),
            };
        };
        let started = thread.spawn(work).map(drop);
        started.map_err(|error| format!("cannot start a thread: {error}"))
    }
}

impl ReadLog {
    fn new(files: &[PathBuf], progress: impl FnMut(ReadProgress)) -> Result<Self, String> {
        let started = Instant::now();
        let measured = measured(files);
        let reader = LogReader {
            logs: files,
            workers: available_parallelism().map_or(1, usize::from).min(WORKERS_MAX),
            stack_bytes: STACK_BYTES,
        };
        let reading = reader.read(LogIndex::default, progress).map_err(|error| error.to_string())?;
        let mut index = reading.visitor;
        index.sort();
        Ok(Self {
            index,
            totals: reading.totals,
            files: measured,
            took: started.elapsed(),
        })
    }

    /// The reading itself.
    fn about(&self, now: Result<Vec<PathBuf>, String>) -> Value {
        let names = self.files.iter().map(|file| file.path.display().to_string());
        json!({
            "files": names.collect::<Vec<_>>(),
            "totals": totals_json(&self.totals),
            "kept": self.index.rows().len(),
            "one_in": self.index.one_in(),
            "seconds": self.took.as_secs_f64(),
            "has_grown": now.is_ok_and(|files| measured(&files) != self.files),
        })
    }
}

fn measured(files: &[PathBuf]) -> Vec<Measured> {
    let measured = files.iter().map(|path| Measured {
        path: path.clone(),
        bytes: std::fs::metadata(path).map_or(0, |file| file.len()),
    });
    measured.collect()
}
