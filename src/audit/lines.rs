//! The lines of decision-log files, plain, gzip or zstd, one after the other in bounded memory.
//!
//! Verification and every command that reads records use it. A file may be a mixture of nothing but one format; several
//! gzip members or zstd frames in a row are one text.

mod zstd;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;

use self::zstd::ZstdReader;

/// A longer line is no record.
pub const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;
const BUFFER_BYTES: usize = 256 * 1024;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The lines of one file.
pub struct Lines {
    from: Box<dyn BufRead + Send>,
    is_compressed: bool,
    line: Vec<u8>,
    /// Bytes of text before the next line.
    next: u64,
}

/// Counts the bytes that it reads.
struct Counted<R> {
    from: R,
    read: Arc<AtomicU64>,
}

impl<R: io::Read> io::Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        self.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// One line, without its line break.
pub struct Line<'a> {
    pub bytes: &'a [u8],
    /// Bytes of text before the line; of a compressed file, of what it holds.
    pub offset: u64,
    /// False for the last line of a file that does not end with a line break.
    pub is_whole: bool,
    /// True if the line is longer than `LINE_BYTES_MAX`; `bytes` are its beginning.
    pub is_too_long: bool,
}

impl Lines {
    /// Opens a file; `-` is standard input.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_counted(path, &Arc::default())
    }

    /// The same; adds the bytes that it reads from the file, compressed ones as they are, to `read`.
    pub fn open_counted(path: &Path, read: &Arc<AtomicU64>) -> io::Result<Self> {
        let from: Box<dyn io::Read + Send> = if path == Path::new("-") {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path)?)
        };
        let read = Arc::clone(read);
        Self::of(BufReader::with_capacity(BUFFER_BYTES, Counted { from, read }))
    }

    /// Opens a file at a line that was read before, by its offset. A plain file is read from there; a compressed one is
    /// decompressed up to there, and its lines before are not looked at.
    pub fn open_at(path: &Path, offset: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut lines = Self::of(BufReader::with_capacity(BUFFER_BYTES, file.try_clone()?))?;
        if lines.is_compressed {
            io::copy(&mut lines.from.by_ref().take(offset), &mut io::sink())?;
        } else {
            file.seek(SeekFrom::Start(offset))?;
            lines.from = Box::new(BufReader::with_capacity(BUFFER_BYTES, file));
        }
        lines.next = offset;
        Ok(lines)
    }

    fn of(mut from: impl BufRead + Send + 'static) -> io::Result<Self> {
        let start = from.fill_buf()?;
        let is_gzip = start.starts_with(&GZIP_MAGIC);
        let is_zstd = start.starts_with(&ZSTD_MAGIC);
        let from: Box<dyn BufRead + Send> = if is_gzip {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(from)))
        } else if is_zstd {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, ZstdReader::new(from)))
        } else {
            Box::new(from)
        };
        Ok(Self {
            from,
            is_compressed: is_gzip || is_zstd,
            line: Vec::new(),
            next: 0,
        })
    }

    /// The next line; `None` at the end of the file.
    pub fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let offset = self.next;
        let limit = LINE_BYTES_MAX as u64 + 1;
        self.next += self.from.by_ref().take(limit).read_until(b'\n', &mut self.line)? as u64;
        if self.line.is_empty() {
            return Ok(None);
        }
        let is_whole = self.line.pop_if(|last| *last == b'\n').is_some();
        let is_too_long = !is_whole && self.line.len() > LINE_BYTES_MAX;
        if is_too_long {
            self.skip_line()?;
        }
        Ok(Some(Line {
            bytes: &self.line,
            offset,
            is_whole,
            is_too_long,
        }))
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.from.fill_buf()?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let length = end.map_or(buffer.len(), |at| at + 1);
            let is_over = end.is_some() || buffer.is_empty();
            self.from.consume(length);
            self.next += length as u64;
            if is_over {
                return Ok(());
            }
        }
    }
}

/// The files in the order of their first lines, which is the order in which they were written. A gate may compress them
/// meanwhile: a file that is there plain and compressed is read once, and one that is gone is read as its compressed
/// one.
pub fn in_order(paths: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Head {
        ts: String,
    }
    let compressed = |path: &Path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".gz");
        PathBuf::from(name)
    };
    let is_gone = |path: &Path| path != Path::new("-") && !path.exists() && compressed(path).exists();
    let found = paths
        .iter()
        .map(|path| if is_gone(path) { compressed(path) } else { path.clone() });
    let found: BTreeSet<PathBuf> = found.collect();
    let compressed_forms: BTreeSet<PathBuf> = found.iter().map(|path| compressed(path)).collect();
    let mut dated = Vec::new();
    for path in found.difference(&compressed_forms) {
        let mut ts = None;
        // standard input can be read only once
        if path != Path::new("-") {
            let named = |error: io::Error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display()));
            let first = Lines::open(path)
                .map_err(named)?
                .next()
                .map_err(named)?
                .map(|line| line.bytes.to_vec());
            ts = first
                .and_then(|line| serde_json::from_slice::<Head>(&line).ok())
                .map(|head| head.ts);
        }
        dated.push((ts, path.clone()));
    }
    if dated.iter().all(|(ts, _)| ts.is_some()) {
        dated.sort_by(|(a, _), (b, _)| a.cmp(b));
    }
    Ok(dated.into_iter().map(|(_, path)| path).collect())
}
