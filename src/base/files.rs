//! Reads a small file completely (keys, certificates, users, tokens), and locks folders.
//!
//! Reading refuses anything but a regular file, because opening a FIFO would block, and stops at the caller's limit even if the file
//! grows while it is read.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _};
use std::path::Path;
use std::time::{Duration, Instant};

use cedargate_policy::text;
use cedargate_policy::types::Redacted;

/// Some editors put it at the beginning of a file (U+FEFF).
const BYTE_ORDER_MARK: char = '\u{feff}';
/// Time between two tries of a lock.
const LOCK_POLL: Duration = Duration::from_millis(5);

/// The file was not read. The message names no path; the caller adds it.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("it is not a regular file of at most {max} bytes")]
    NotSmall { max: u64 },
}

/// The file holds no usable secret. The message names no path and nothing of the content.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("it is empty")]
    Empty,
    #[error("it has several lines; write the secret alone, in one line")]
    SeveralLines,
}

/// Reads the bytes of a regular file of at most `max` bytes.
pub fn read_small(path: &Path, max: u64) -> Result<Vec<u8>, ReadError> {
    let about = std::fs::metadata(path)?;
    if !about.is_file() || about.len() > max {
        return Err(ReadError::NotSmall { max });
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(max.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(ReadError::NotSmall { max });
    }
    Ok(bytes)
}

/// Locks a folder against other processes of the gate until the returned file is dropped. `Err` if another process holds the
/// lock for all of `timeout`.
pub fn lock_folder(folder: &Path, timeout: Duration) -> io::Result<File> {
    let file = File::open(folder)?;
    let deadline = Instant::now() + timeout;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::park_timeout(LOCK_POLL),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads the text of a regular file of at most `max` bytes, without a byte order mark; bytes that are not UTF-8 are an error.
pub fn read_small_text(path: &Path, max: u64) -> Result<String, ReadError> {
    let bytes = read_small(path, max)?;
    let text = text::decode(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(text.to_owned())
}

/// Reads a secret from a file. A byte order mark, a line break at the end and white space around it are not part of the secret.
pub fn read_secret(path: &Path, max: u64) -> Result<Redacted<String>, SecretFileError> {
    let text = read_small_text(path, max)?;
    let secret = text.trim();
    if secret.is_empty() {
        return Err(SecretFileError::Empty);
    }
    if secret.contains(['\n', '\r']) {
        return Err(SecretFileError::SeveralLines);
    }
    Ok(Redacted::new(secret.to_owned()))
}

/// True if the file begins with a byte order mark; false for a file that cannot be read.
pub fn has_byte_order_mark(path: &Path, max: u64) -> bool {
    read_small(path, max).is_ok_and(|bytes| bytes.starts_with(BYTE_ORDER_MARK.encode_utf8(&mut [0; 4]).as_bytes()))
}
