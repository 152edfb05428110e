//! The hash chain through the records of one run of the gate: its state, its checkpoints, its link to the run before.
//!
//! The writer thread chains lines when it writes them; the threads that decide know nothing of it. A chain begins with
//! a `start` line, which names the last line of the chain before. The first line of every further file is a `continue`
//! line with the place so far, so that each file can be verified alone. A checkpoint is signed; it proves every line
//! before it. The `end` line is written when the gate ends in order (docs/decisions/0053).
//!
//! The caller keeps the `ChainEnd` of the last line that reached the sink and starts from there again after a failure.

pub mod link;

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use serde::{Deserialize, Serialize};

use super::record::{SCHEMA_VERSION, Timestamp};
use crate::base::clock;
use crate::base::ed25519::{KeyError, SigningKey};
use crate::base::files::{self, ReadError};
use crate::config;
use link::{ChainId, ChainPosition, Hash, Link};

/// Bytes of a key file.
const KEY_BYTES_MAX: u64 = 16 * 1024;
/// Part of the file's end in which the last line of the former chain is looked for.
const TAIL_BYTES: u64 = 1024 * 1024;
/// The hash before the first line of a chain.
pub const NO_HASH: Hash = [0; 32];

/// The key that signs checkpoints cannot be used. The message names no path.
#[derive(Debug, thiserror::Error)]
pub enum ChainKeyError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The words of `event` in a checkpoint.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointEvent {
    /// The gate started.
    Start,
    /// The chain goes on in another file.
    Continue,
    Checkpoint,
    /// The gate ended in order.
    End,
}

/// A place in a chain, as a checkpoint names it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PlaceText {
    pub id: String,
    pub seq: u64,
    pub hash: String,
}

/// The record of a checkpoint.
#[derive(Serialize)]
struct CheckpointRecord<'a> {
    schema_version: u32,
    kind: &'static str,
    ts: Timestamp,
    event: CheckpointEvent,
    replica: &'a str,
    previous: Option<PlaceText>,
    /// Records lost since the gate started.
    lost: u64,
    masked: [&'static str; 0],
}

/// The last line of the chain: where the next one is added.
#[derive(Clone, Copy, Debug)]
pub struct ChainEnd {
    /// Number of the next line.
    pub next: u64,
    pub hash: Hash,
    /// Lines since the last signature.
    pub unsigned: u32,
}

/// The chain of one run of the gate.
#[derive(Debug)]
pub struct Chain {
    key: SigningKey,
    id: ChainId,
    replica: String,
    records_max: u32,
    interval: Duration,
    lost: IntCounter,
    /// The end of the chain of the run before.
    former: Option<PlaceText>,
    scratch: Vec<u8>,
    pub tip: ChainEnd,
    /// The line that the next record must follow, not written yet.
    pub opening: Option<CheckpointEvent>,
    /// When the first line without a signature was written.
    unsigned_since: Option<Instant>,
}

/// Reads the key that signs checkpoints.
pub fn read_key(path: &Path) -> Result<SigningKey, ChainKeyError> {
    Ok(SigningKey::from_pem(&files::read_small_text(path, KEY_BYTES_MAX)?)?)
}

impl Chain {
    /// A chain whose first line is not written yet. `file`: where the run before wrote its lines.
    pub fn new(config: &config::AuditChain, key: SigningKey, file: Option<&Path>, lost: IntCounter) -> Self {
        Self {
            key,
            id: ChainId::random(),
            replica: config.replica.clone().unwrap_or_else(host_name),
            records_max: config.records.get(),
            interval: config.interval.get(),
            lost,
            former: file.and_then(|file| last_place(file).ok().flatten()),
            scratch: Vec::new(),
            tip: ChainEnd {
                next: 0,
                hash: NO_HASH,
                unsigned: 0,
            },
            opening: Some(CheckpointEvent::Start),
            unsigned_since: None,
        }
    }

    /// The next line must say where the chain stands, because it begins a file.
    pub fn continue_elsewhere(&mut self) {
        self.opening = self.opening.or(Some(match self.tip.next {
            0 => CheckpointEvent::Start,
            _ => CheckpointEvent::Continue,
        }));
    }

    /// When the next checkpoint is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.unsigned_since.map(|since| since + self.interval)
    }

    /// True if a checkpoint must follow the line at `tip`.
    pub const fn is_full(&self, tip: &ChainEnd) -> bool {
        tip.unsigned >= self.records_max
    }

    /// Appends a record without its line break. Returns the tip behind it.
    pub fn append(&mut self, tip: &ChainEnd, record: &[u8], out: &mut Vec<u8>) -> ChainEnd {
        let place = ChainPosition {
            id: self.id,
            seq: tip.next,
            before: &tip.hash,
        };
        let hash = link::append(out, record, &place, None, &mut self.scratch);
        ChainEnd {
            next: tip.next + 1,
            hash,
            unsigned: tip.unsigned.saturating_add(1),
        }
    }

    /// Appends a signed line. Returns the tip behind it.
    pub fn append_checkpoint(&mut self, tip: &ChainEnd, event: CheckpointEvent, out: &mut Vec<u8>) -> ChainEnd {
        let previous = match event {
            CheckpointEvent::Start => self.former.clone(),
            CheckpointEvent::Continue => tip.next.checked_sub(1).map(|seq| PlaceText {
                id: self.id.to_string(),
                seq,
                hash: link::hash_text(&tip.hash),
            }),
            CheckpointEvent::Checkpoint | CheckpointEvent::End => None,
        };
        let record = CheckpointRecord {
            schema_version: SCHEMA_VERSION,
            kind: "checkpoint",
            ts: Timestamp(clock::now()),
            event,
            replica: &self.replica,
            previous,
            lost: self.lost.get(),
            masked: [],
        };
        // INVARIANT: texts and numbers alone, which JSON can always express
        let record = serde_json::to_vec(&record).unwrap_or_default();
        let place = ChainPosition {
            id: self.id,
            seq: tip.next,
            before: &tip.hash,
        };
        let hash = link::append(out, &record, &place, Some(&self.key), &mut self.scratch);
        ChainEnd {
            next: tip.next + 1,
            hash,
            unsigned: 0,
        }
    }

    /// The sink has every line up to this one.
    pub fn set_tip(&mut self, tip: ChainEnd) {
        self.unsigned_since = match tip.unsigned {
            0 => None,
            _ => self.unsigned_since.or_else(|| Some(Instant::now())),
        };
        self.tip = tip;
    }
}

/// The host's name, in Kubernetes the pod's.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The place of the last chained line near the end of a file.
fn last_place(path: &Path) -> io::Result<Option<PlaceText>> {
    let about = std::fs::metadata(path)?;
    // opening a pipe would wait for its other end
    if !about.is_file() {
        return Ok(None);
    }
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(about.len().saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    let links = tail.rsplit(|byte| *byte == b'\n').filter_map(Link::of);
    Ok(links
        .map(|link| PlaceText {
            id: link.id.to_string(),
            seq: link.seq,
            hash: link::hash_text(&link.hash),
        })
        .next())
}
