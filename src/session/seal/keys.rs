//! The file of the server's keys: read at the start and again when it changes.
//!
//! If the changed file cannot be used, the old ring stays in force and the error is reported once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;

use super::{KeyRing, RingKey};
use crate::base::digest::sha256;
use crate::base::files::read_small_text;
use crate::session::SessionsError;

/// Maximum number of keys in a ring.
const KEYS_MAX: usize = 32;
/// Maximum size of the key file in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The key ring in force, and the file that it came from.
pub struct ActiveKeyRing {
    /// Read by every sealing and opening; replaced by `reload_if_changed`.
    pub ring: ArcSwap<KeyRing>,
    file: Option<PathBuf>,
    /// Hash of the file's content at the last check, or the error of reading it.
    last_check: Mutex<Result<[u8; 32], String>>,
}

/// The difference between the old ring and the new one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RingChange {
    /// Every old key is in the new ring.
    KeysKept,
    KeysRemoved,
}

impl KeyRing {
    /// Parses one base64 key of 32 bytes per line; skips blank lines and lines that begin with `#`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut keys: Vec<RingKey> = Vec::new();
        for (n, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = || {
                format!(
                    "line {} is not 32 bytes in base64; make one with `openssl rand -base64 32`",
                    n + 1
                )
            };
            let mut secret = [0; 32];
            let bytes = STANDARD.decode(line).map_err(|_may_quote| bad())?;
            if bytes.len() != secret.len() {
                return Err(bad());
            }
            secret.copy_from_slice(&bytes);
            let key = RingKey::new(secret);
            if keys.iter().all(|other| other.id != key.id) {
                keys.push(key);
            }
        }
        if keys.len() > KEYS_MAX {
            return Err(format!("there are more than {KEYS_MAX} keys; remove the oldest"));
        }
        let mut keys = keys.into_iter();
        let first = keys
            .next()
            .ok_or("it contains no key; make one with `openssl rand -base64 32`")?;
        Ok(Self {
            first,
            others: keys.collect(),
        })
    }
}

impl ActiveKeyRing {
    /// Reads the ring from the file; without a file, makes a random key that ends with the process.
    pub fn load(file: Option<PathBuf>) -> Result<Self, SessionsError> {
        let (ring, hash) = match &file {
            None => {
                let mut secret = [0; 32];
                let filled = aws_lc_rs::rand::fill(&mut secret);
                filled.map_err(|_unspecified| SessionsError::Keys {
                    path: PathBuf::new(),
                    message: "the system's random generator failed".to_owned(),
                })?;
                let ring = KeyRing {
                    first: RingKey::new(secret),
                    others: Vec::new(),
                };
                (ring, [0; 32])
            }
            Some(path) => {
                let unusable = |message| SessionsError::Keys {
                    path: path.clone(),
                    message,
                };
                let text = read(path).map_err(unusable)?;
                let ring = KeyRing::parse(&text).map_err(unusable)?;
                (ring, sha256(text.as_bytes()))
            }
        };
        Ok(Self {
            ring: ArcSwap::from_pointee(ring),
            file,
            last_check: Mutex::new(Ok(hash)),
        })
    }

    /// Puts the file's ring in force if the file changed. `None` if it did not. Blocks on the file system.
    pub fn reload_if_changed(&self) -> Option<Result<RingChange, String>> {
        let path = self.file.as_ref()?;
        let text = read(path);
        let now = match &text {
            Ok(text) => Ok(sha256(text.as_bytes())),
            Err(message) => Err(message.clone()),
        };
        let mut last_check = self.last_check.lock();
        if *last_check == now {
            return None;
        }
        // an unusable file is reported once, not at every check
        *last_check = now;
        Some(text.and_then(|text| KeyRing::parse(&text)).map(|ring| {
            let ring = Arc::new(ring);
            let old = self.ring.swap(Arc::clone(&ring));
            if old.keys().all(|key| ring.find(&key.id).is_some()) {
                RingChange::KeysKept
            } else {
                RingChange::KeysRemoved
            }
        }))
    }
}

/// Checks that a key file can be used.
pub fn check_key_file(path: &Path) -> Result<(), String> {
    KeyRing::parse(&read(path)?).map(drop)
}

fn read(path: &Path) -> Result<String, String> {
    read_small_text(path, FILE_BYTES_MAX).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(byte: u8) -> String {
        STANDARD.encode([byte; 32])
    }

    #[test]
    fn ring_is_one_key_per_line_and_the_first_key_seals() {
        let ring = KeyRing::parse(&format!("# new\n{}\n\n{}\n{}\n", line(1), line(2), line(1))).unwrap();
        assert_eq!(ring.sealing().id, RingKey::new([1; 32]).id);
        assert_eq!(ring.others.len(), 1);
        assert!(ring.find(&RingKey::new([2; 32]).id).is_some());
        assert!(ring.find(&RingKey::new([3; 32]).id).is_none());
        for bad in [
            "",
            "# nothing",
            "AAAA",
            "not base64",
            &format!("{}\nAAAA", line(1)),
            &STANDARD.encode([1; 33]),
        ] {
            let error = KeyRing::parse(bad).err().unwrap();
            assert!(!error.contains("AAAA") && error.contains("openssl rand"), "{error}");
        }
    }

    #[test]
    fn changed_key_file_is_put_in_force_and_an_unusable_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        std::fs::write(&file, line(1)).unwrap();
        let keys = ActiveKeyRing::load(Some(file.clone())).unwrap();
        assert!(keys.reload_if_changed().is_none());
        std::fs::write(&file, format!("{}\n{}", line(2), line(1))).unwrap();
        assert_eq!(keys.reload_if_changed(), Some(Ok(RingChange::KeysKept)));
        assert_eq!(keys.ring.load().sealing().id, RingKey::new([2; 32]).id);
        for bad in ["", "junk"] {
            std::fs::write(&file, bad).unwrap();
            assert!(keys.reload_if_changed().unwrap().is_err());
            assert!(keys.reload_if_changed().is_none());
            assert_eq!(keys.ring.load().sealing().id, RingKey::new([2; 32]).id);
        }
        std::fs::remove_file(&file).unwrap();
        assert!(keys.reload_if_changed().unwrap().is_err());
        std::fs::write(&file, line(3)).unwrap();
        assert_eq!(keys.reload_if_changed(), Some(Ok(RingChange::KeysRemoved)));
        assert_eq!(keys.ring.load().sealing().id, RingKey::new([3; 32]).id);
    }
}
