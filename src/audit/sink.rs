//! The end of the decision log: standard output, or a file that the gate opens, rotates and forces to the disk.
//!
//! Only the writer thread uses it. The file is opened for appending, so that another program may truncate it, and its
//! path is looked at before each write, so that another program may move it. Nothing is written to a file that was
//! moved.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus::IntCounterVec;

use super::FILE_MODE;
use super::rotated::{self, Sweeper};
use crate::base::clock;
use crate::config::{self, Fsync, Rotate};

/// Pause after a rotation that failed; meanwhile the file grows.
const ROTATION_RETRY_TIME: Duration = Duration::from_secs(10);

/// What is written to.
#[derive(Debug)]
pub(super) enum Sink {
    Stdout,
    File(Box<FileSink>),
}

/// The file, and what is known of it.
#[derive(Debug)]
pub(super) struct FileSink {
    path: PathBuf,
    file: File,
    /// False for a pipe or a device: those are not rotated and have no length.
    is_regular: bool,
    /// Length as far as this process knows.
    length: u64,
    /// Index of the interval in which the file began.
    period: u128,
    rotate: Option<Rotate>,
    fsync: Fsync,
    /// When the first byte was written that is not forced to the disk.
    unsynced_since: Option<Instant>,
    /// A rotation failed; the next one waits until then.
    rotation_paused_until: Option<Instant>,
    sweeper: Option<Sweeper>,
    errors: IntCounterVec,
}

/// What another program did to the file since the last write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Found {
    Same,
    /// Moved or deleted; a new file was opened.
    Replaced,
    /// Truncated; writing goes on at its new end.
    Truncated,
}

/// How far a write came.
#[derive(Debug)]
pub(super) struct WriteProgress {
    pub bytes: usize,
    pub result: io::Result<()>,
}

impl Sink {
    pub fn open(config: &config::AuditSink, errors: &IntCounterVec) -> io::Result<Self> {
        match config.file() {
            None => Ok(Self::Stdout),
            Some(file) => FileSink::open(file, errors.clone()).map(|file| Self::File(Box::new(file))),
        }
    }

    /// Writes as much of the bytes as the sink takes.
    pub fn write(&mut self, bytes: &[u8]) -> WriteProgress {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                let mut progress = write_all(&mut out, bytes);
                if progress.result.is_ok() {
                    progress.result = out.flush();
                }
                progress
            }
            Self::File(sink) => sink.write(bytes),
        }
    }

    pub fn file(&mut self) -> Option<&mut FileSink> {
        match self {
            Self::Stdout => None,
            Self::File(file) => Some(file),
        }
    }
}

impl FileSink {
    fn open(config: &config::FileSink, errors: IntCounterVec) -> io::Result<Self> {
        if std::fs::metadata(&config.file).is_ok_and(|about| about.file_type().is_fifo()) {
            tracing::info!(file = %config.file.display(), "the decision log is a pipe: the gate starts when another program reads it");
        }
        let file = open(&config.file)?;
        let sweeper = match &config.rotate {
            Some(rotate) => Sweeper::start(rotate, &config.file, errors.clone())?,
            None => None,
        };
        let mut sink = Self {
            path: config.file.clone(),
            file,
            is_regular: false,
            length: 0,
            period: 0,
            rotate: config.rotate.clone(),
            fsync: config.fsync,
            unsynced_since: None,
            rotation_paused_until: None,
            sweeper,
            errors,
        };
        sink.learn()?;
        Ok(sink)
    }

    /// Sets what is known of a file that was opened.
    fn learn(&mut self) -> io::Result<()> {
        let about = self.file.metadata()?;
        self.is_regular = about.is_file();
        self.length = if self.is_regular { about.len() } else { 0 };
        let since = if self.length == 0 { clock::now() } else { about.modified()? };
        self.period = self.period_of(since);
        Ok(())
    }

    /// True if the file ends within a line: a process or a machine ended while it wrote.
    pub fn ends_within_line(&self) -> bool {
        let last = || -> io::Result<bool> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::End(-1))?;
            let mut byte = [0];
            file.read_exact(&mut byte)?;
            Ok(byte != *b"\n")
        };
        self.length > 0 && last().unwrap_or_default()
    }

    /// Opens the file that the path names, if that is another one, and notices a truncated one.
    pub fn look(&mut self) -> io::Result<Found> {
        let open_file = self.file.metadata()?;
        let is_same = |named: std::fs::Metadata| (named.dev(), named.ino()) == (open_file.dev(), open_file.ino());
        if !std::fs::metadata(&self.path).is_ok_and(is_same) {
            self.reopen()?;
            return Ok(Found::Replaced);
        }
        let before = std::mem::replace(&mut self.length, if self.is_regular { open_file.len() } else { 0 });
        Ok(if self.length < before { Found::Truncated } else { Found::Same })
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = open(&self.path)?;
        if self.unsynced_since.is_some() {
            self.sync()?;
        }
        self.file = file;
        self.learn()
    }

    fn write(&mut self, bytes: &[u8]) -> WriteProgress {
        let progress = write_all(&mut self.file, bytes);
        if self.is_regular {
            self.length += progress.bytes as u64;
        }
        if self.fsync != Fsync::Never && progress.bytes > 0 && self.is_regular {
            self.unsynced_since = self.unsynced_since.or_else(|| Some(Instant::now()));
        }
        progress
    }

    /// Bytes that fit until the file is rotated by size.
    pub fn room(&self) -> Option<u64> {
        let bytes = self.rotate.as_ref()?.bytes?.get();
        (self.is_regular && self.rotation_paused_until.is_none()).then(|| bytes.saturating_sub(self.length))
    }

    /// True if the file must be rotated before `more` bytes are written. An empty file never is.
    pub fn is_rotation_due(&mut self, more: usize) -> bool {
        if self.rotation_paused_until.is_some_and(|until| until > Instant::now()) {
            return false;
        }
        self.rotation_paused_until = None;
        let Some(rotate) = self.rotate.as_ref().filter(|_| self.is_regular && self.length > 0) else {
            return false;
        };
        let length = self.length.saturating_add(more as u64);
        let is_full = rotate.bytes.is_some_and(|bytes| length > bytes.get());
        is_full || (rotate.interval.is_some() && self.period_of(clock::now()) > self.period)
    }

    /// Moves the file away and opens a new one. If that fails the file grows, and the next try is later.
    pub fn rotate(&mut self) -> bool {
        let rotated = rotated::rename(&self.path);
        let result = rotated.and_then(|path| self.reopen().map(|()| path));
        match result {
            Ok(path) => {
                if let Some(sweeper) = &self.sweeper {
                    sweeper.wake(&path);
                }
                true
            }
            Err(error) => {
                self.errors.with_label_values(&["rotate"]).inc();
                tracing::error!(%error, "the audit file cannot be rotated; it grows until it can");
                self.rotation_paused_until = Some(Instant::now() + ROTATION_RETRY_TIME);
                false
            }
        }
    }

    /// Forces what was written to the disk, if that is due.
    pub fn sync_if_due(&mut self) -> io::Result<()> {
        let is_due = match (self.fsync, self.unsynced_since) {
            (Fsync::Never, _) | (_, None) => false,
            (Fsync::Always, Some(_)) => true,
            (Fsync::Interval(interval), Some(since)) => since.elapsed() >= interval,
        };
        if is_due { self.sync() } else { Ok(()) }
    }

    /// Forces what was written to the disk, unless `fsync` is `never`.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.unsynced_since.is_some() {
            self.file
                .sync_data()
                .inspect_err(|_| self.errors.with_label_values(&["sync"]).inc())?;
            self.unsynced_since = None;
        }
        Ok(())
    }

    /// When the file is due to be rotated by time, or forced to the disk.
    pub fn deadline(&self) -> Option<Instant> {
        let sync = match self.fsync {
            Fsync::Interval(interval) => self.unsynced_since.map(|since| since + interval),
            Fsync::Never | Fsync::Always => None,
        };
        let rotation = self
            .rotation_deadline()
            .map(|at| at.max(self.rotation_paused_until.unwrap_or(at)));
        sync.into_iter().chain(rotation).min()
    }

    fn rotation_deadline(&self) -> Option<Instant> {
        let interval = self.rotate.as_ref()?.interval?.get();
        if self.length == 0 || !self.is_regular {
            return None;
        }
        let since_epoch = clock::now().duration_since(UNIX_EPOCH).ok()?;
        let end = interval.as_millis().checked_mul(self.period + 1)?;
        let left = end.saturating_sub(since_epoch.as_millis());
        Some(Instant::now() + Duration::from_millis(u64::try_from(left).ok()?))
    }

    fn period_of(&self, time: SystemTime) -> u128 {
        let interval = self.rotate.as_ref().and_then(|rotate| rotate.interval);
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        interval.map_or(0, |interval| since_epoch / interval.get().as_millis().max(1))
    }
}

/// Opens a file to append to; its owner alone can read a new one.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(FILE_MODE).open(path)
}

fn write_all(to: &mut impl Write, bytes: &[u8]) -> WriteProgress {
    let mut written = 0;
    let mut result = Ok(());
    while result.is_ok()
        && let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty())
    {
        match to.write(rest) {
            Ok(0) => result = Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => written += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => result = Err(error),
        }
    }
    WriteProgress { bytes: written, result }
}
