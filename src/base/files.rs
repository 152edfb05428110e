//! Reads a small file completely (keys, certificates, users, tokens), makes, replaces and renames one in one step, and
//! locks folders.
//!
//! Reading refuses anything but a regular file, because opening a FIFO would block, and stops at the caller's limit
//! even if the file grows while it is read.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cedargate_policy::text;
use cedargate_policy::types::Redacted;

/// Some editors put it at the beginning of a file (U+FEFF).
const BYTE_ORDER_MARK: char = '\u{feff}';
/// The bits of a mode that `chmod` sets.
const MODE_BITS: u32 = 0o7777;
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

/// Locks a folder against other processes of the gate until the returned file is dropped. `Err` if another process
/// holds the lock for all of `timeout`.
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

/// Reads the text of a regular file of at most `max` bytes, without a byte order mark; bytes that are not UTF-8 are an
/// error.
pub fn read_small_text(path: &Path, max: u64) -> Result<String, ReadError> {
    let bytes = read_small(path, max)?;
    let text = text::decode(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(text.to_owned())
}

/// Reads a secret from a file. A byte order mark, a line break at the end and white space around it are not part of the
/// secret.
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

/// The folder that a file is in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A new name beside the file, which readers of policy folders ignore.
fn temporary_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    folder_of(path).join(format!(".{name}.{}", uuid::Uuid::now_v7().simple()))
}

/// Fails if no file can be made in this folder, or if the folder is not there and cannot be made. Leaves nothing
/// behind.
pub fn check_folder(folder: &Path) -> io::Result<()> {
    let there = folder
        .ancestors()
        .find(|one| one.symlink_metadata().is_ok() || one.as_os_str().is_empty());
    let there = there.filter(|one| !one.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let probe = temporary_beside(&there.join("probe"));
    File::create_new(&probe)?;
    std::fs::remove_file(probe)
}

/// Makes a file in one step: a reader of the path sees nothing, or the complete content. Fails if there is something
/// already.
pub fn create_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = temporary_beside(path);
    let written = (|| {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        move_file(&temporary, path)
    })();
    if written.is_err() {
        drop(std::fs::remove_file(&temporary));
    }
    written
}

/// Renames a file in one step. Fails if the new path has something already, also if another program is making it
/// meanwhile.
pub fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?;
    File::open(folder_of(to))?.sync_all()
}

/// Replaces the file by a rename: a reader of the path sees the complete old or the complete new content. Mode and
/// owner stay; a new file gets `new_mode`. Not for devices and pipes, which a rename would replace.
pub fn replace_file(path: &Path, bytes: &[u8], new_mode: u32) -> io::Result<()> {
    let old = match std::fs::metadata(path) {
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let temporary = temporary_beside(path);
    let written = (|| {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(new_mode).open(&temporary)?;
        if let Some(old) = &old {
            let new = file.metadata()?;
            if new.uid() != old.uid() || new.gid() != old.gid() {
                std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
            file.set_permissions(std::fs::Permissions::from_mode(old.mode() & MODE_BITS))?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(folder_of(path))?.sync_all()
    })();
    if written.is_err() {
        drop(std::fs::remove_file(&temporary));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_or_moved_file_replaces_no_other_and_leaves_no_temporary_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        create_file(&path("a"), b"one", 0o640).unwrap();
        assert_eq!(std::fs::metadata(path("a")).unwrap().mode() & 0o777, 0o640);
        assert_eq!(
            create_file(&path("a"), b"two", 0o640).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        std::os::unix::fs::symlink("nowhere", path("link")).unwrap();
        assert!(create_file(&path("link"), b"two", 0o640).is_err());
        create_file(&path("b"), b"two", 0o640).unwrap();
        assert_eq!(
            move_file(&path("a"), &path("b")).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        move_file(&path("a"), &path("c")).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|one| one.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["b", "c", "link"]);
        assert_eq!(std::fs::read(path("c")).unwrap(), b"one");
        assert_eq!(std::fs::read(path("b")).unwrap(), b"two");
    }
}
