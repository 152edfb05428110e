//! The bundles on disk, below `policies.state_dir/bundle/`: the last one taken, the last one that every portal
//! accepted, and the state.
//!
//! Each file is written under another name, made durable and renamed into place: a crash leaves the old one or the new
//! one. The archive is written before the state. A crash in between leaves a state with a lower number, which the
//! archive's own manifest then raises. The files are as untrusted as a download: readers verify them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::order::Mark;
use crate::base::digest::sha256;
use crate::base::files::{ReadError, read_small, replace_file};
use crate::bundle::BYTES_MAX;

const FORMAT: u32 = 1;
const FILE_MODE: u32 = 0o600;
const STATE_BYTES_MAX: u64 = 64 * 1024;
const LATEST: &str = "latest.tar.gz";
const GOOD: &str = "good.tar.gz";
const STATE: &str = "state.json";

pub(super) struct Kept {
    folder: PathBuf,
    /// Held while files are replaced: the follower saves, the reloader confirms.
    writing: Mutex<()>,
}

/// What is remembered of the last bundle.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct KeptState {
    format: u32,
    sequence: u64,
    tree: String,
    /// SHA-256 of the archive.
    archive: String,
    /// Where the bundle came from, and the server's word for it.
    source: String,
    pub version: Option<String>,
}

impl KeptState {
    pub fn new(mark: &Mark, archive: &[u8], version: Option<String>, source: String) -> Self {
        Self {
            format: FORMAT,
            sequence: mark.sequence,
            tree: mark.tree.clone(),
            archive: hex::encode(sha256(archive)),
            source,
            version,
        }
    }

    pub fn mark(&self) -> Mark {
        Mark {
            sequence: self.sequence,
            tree: self.tree.clone(),
        }
    }

    /// True if the version belongs to this archive of this source.
    pub fn describes(&self, archive: &[u8], source: &str) -> bool {
        self.archive == hex::encode(sha256(archive)) && self.source == source
    }
}

/// The last bundle that a gate with this `policies.state_dir` took; for commands.
pub fn read_kept(state_dir: &Path) -> Result<Option<Vec<u8>>, String> {
    Kept::new(state_dir).latest()
}

impl Kept {
    pub fn new(state_dir: &Path) -> Self {
        Self {
            folder: state_dir.join("bundle"),
            writing: Mutex::default(),
        }
    }

    pub fn latest(&self) -> Result<Option<Vec<u8>>, String> {
        self.read(LATEST, BYTES_MAX)
    }

    pub fn good(&self) -> Result<Option<Vec<u8>>, String> {
        self.read(GOOD, BYTES_MAX)
    }

    pub fn state(&self) -> Result<Option<KeptState>, String> {
        let Some(bytes) = self.read(STATE, STATE_BYTES_MAX)? else {
            return Ok(None);
        };
        let path = self.folder.join(STATE);
        let state: KeptState = serde_json::from_slice(&bytes).map_err(|error| format!("`{}`: {error}", path.display()))?;
        if state.format != FORMAT {
            return Err(format!("`{}`: format {} is not known", path.display(), state.format));
        }
        Ok(Some(state))
    }

    /// Replaces the last bundle.
    pub fn save(&self, archive: &[u8], state: &KeptState) -> Result<(), String> {
        let _one_writer = self.writing.lock();
        let text = serde_json::to_vec(state).map_err(|error| error.to_string())?;
        self.write(LATEST, archive).and_then(|()| self.write(STATE, &text))
    }

    /// Keeps the last bundle as the last good one, if it still has this digest: a newer one may be saved and not loaded
    /// yet.
    pub fn confirm(&self, accepted: &[u8; 32]) -> Result<(), String> {
        let _one_writer = self.writing.lock();
        let Some(archive) = self.latest()?.filter(|latest| sha256(latest) == *accepted) else {
            return Ok(());
        };
        if self.good()?.is_some_and(|good| good == archive) {
            return Ok(());
        }
        self.write(GOOD, &archive)
    }

    fn read(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, String> {
        let path = self.folder.join(name);
        match read_small(&path, max) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("cannot read `{}`: {error}", path.display())),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        let path = self.folder.join(name);
        let failed = |error: io::Error| format!("cannot write `{}`: {error}", path.display());
        fs::create_dir_all(&self.folder).map_err(failed)?;
        replace_file(&path, bytes, FILE_MODE).map_err(failed)
    }
}

/// Checks at start that the folder can be written.
pub fn check_state_dir(state_dir: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot write below `{}`: {error}", state_dir.display());
    let folder = state_dir.join("bundle");
    fs::create_dir_all(&folder).map_err(failed)?;
    let probe = folder.join(".probe");
    fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reloader accepts one bundle while the follower already saves the next.
    #[test]
    fn a_newer_bundle_that_no_portal_has_loaded_is_not_kept_as_the_last_good_one() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path());
        let save = |archive: &[u8]| {
            let mark = Mark {
                sequence: 1,
                tree: "t".to_owned(),
            };
            kept.save(archive, &KeptState::new(&mark, archive, None, "s".to_owned()))
                .unwrap();
        };
        save(b"first");
        kept.confirm(&sha256(b"first")).unwrap();
        save(b"second");
        kept.confirm(&sha256(b"first")).unwrap();
        assert_eq!(kept.good().unwrap().as_deref(), Some(&b"first"[..]));
        kept.confirm(&sha256(b"second")).unwrap();
        assert_eq!(kept.good().unwrap().as_deref(), Some(&b"second"[..]));
    }
}
