//! The file of a Unix socket: created so that no other user can ever connect, removed at the end.
//!
//! Two orders matter. A private socket gets its mode in a folder that only its owner can enter, and its name only after
//! that: between bind and chmod no other user can reach it. Two gates that start at once both find the same stale file;
//! the lock on the folder makes the second look only after the first has put its own socket there, so it finds a live
//! socket and fails. The name is a hard link, which never replaces a file.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::socket::{bind_unix, remove_stale_socket};
use crate::base::files::lock_folder;

/// Mode of the socket, and of the folder in which it is bound.
const SOCKET_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// Longest wait for another gate that starts in the same folder.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// The file of a bound socket. Dropping it removes the file, unless another file has replaced it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: FileIdentity,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct FileIdentity {
    device: u64,
    inode: u64,
}

/// A folder that is removed with its content when it is dropped.
struct PrivateFolder(PathBuf);

impl SocketFile {
    /// Takes over the file of a socket that was just bound to the path.
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

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Binds a socket that only the gate's own user can connect to.
pub fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unique = Uuid::now_v7().simple().to_string();
    let private = PrivateFolder(folder.join(format!(".{}", unique.get(24..).unwrap_or(&unique))));
    DirBuilder::new().mode(FOLDER_MODE).create(&private.0)?;
    let bound = private.0.join("s");
    let listener = bind_unix(&bound)?;
    fs::set_permissions(&bound, Permissions::from_mode(SOCKET_MODE))?;
    // without the lock, a second gate could remove the socket that the first has just linked
    let _lock = lock_folder(folder, LOCK_TIMEOUT)?;
    remove_stale_socket(path)?;
    fs::hard_link(&bound, path)?;
    Ok(listener)
}

fn identity(path: &Path) -> io::Result<FileIdentity> {
    let file = fs::symlink_metadata(path)?;
    Ok(FileIdentity {
        device: file.dev(),
        inode: file.ino(),
    })
}
