//! A Unix socket's file: made so that nobody but its owner was ever able to connect, and taken away at the end.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::socket::{bind_unix, make_way};

/// Of the socket, and of the folder in which it comes to be.
const SOCKET_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// How long another gate that starts in the same folder is waited for, and how often looked at.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
const LOCK_POLL: Duration = Duration::from_millis(5);

/// The file of a socket of ours; dropping it removes the file, unless somebody put another one in its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

/// A folder that goes with everything in it.
struct Birthplace(PathBuf);

impl SocketFile {
    /// Of a socket that was just bound to the path.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            drop(fs::remove_file(&self.path));
        }
    }
}

impl Drop for Birthplace {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A socket that only the gate's own user can connect to. It is bound in a folder that nobody else can enter, gets its
/// mode there, and only then its name, by a link, which never replaces anything.
pub fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unique = Uuid::now_v7().simple().to_string();
    let birthplace = Birthplace(folder.join(format!(".{}", unique.get(24..).unwrap_or(&unique))));
    DirBuilder::new().mode(FOLDER_MODE).create(&birthplace.0)?;
    let born = birthplace.0.join("s");
    let listener = bind_unix(&born)?;
    fs::set_permissions(&born, Permissions::from_mode(SOCKET_MODE))?;
    // two gates that both find a stale file must not each take it for the other's
    let _lock = locked(folder)?;
    make_way(path)?;
    fs::hard_link(&born, path)?;
    Ok(listener)
}

/// The folder, until dropped for this gate alone.
fn locked(folder: &Path) -> io::Result<File> {
    let file = File::open(folder)?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::park_timeout(LOCK_POLL),
            Err(error) => return Err(error.into()),
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}
