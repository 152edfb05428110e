//! The server's keys: a ring of which the first seals and all open, read again when its file changes.
//!
//! Every use derives a key of its own by HKDF, so that what is sealed for one purpose opens for no other. A file that
//! cannot be used changes nothing: the old ring stays, and it is said once.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::sha256;
use crate::types::Redacted;

/// Keys of one ring.
const KEYS_MAX: usize = 32;
/// Bytes of the file.
const FILE_BYTES_MAX: u64 = 64 * 1024;
pub const KEY_ID_BYTES: usize = 8;

/// One key of the server's.
pub struct RingKey {
    /// Says which key sealed; tells nothing of it.
    pub id: [u8; KEY_ID_BYTES],
    secret: Redacted<[u8; 32]>,
}

/// Never empty: the first key stands apart.
pub struct Ring {
    first: RingKey,
    others: Vec<RingKey>,
}

/// The ring in force.
pub struct Keys {
    ring: ArcSwap<Ring>,
    file: Option<PathBuf>,
    /// What the file held when it was last looked at.
    seen: Mutex<Result<[u8; 32], String>>,
}

/// Whether keys of the old ring are not in the new one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Left {
    None,
    Some,
}

/// How many bytes HKDF makes.
struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

impl RingKey {
    fn new(secret: [u8; 32]) -> Self {
        let hash = sha256(&[b"cedargate key id v1", &secret]);
        let mut id = [0; KEY_ID_BYTES];
        for (to, from) in id.iter_mut().zip(hash) {
            *to = from;
        }
        Self {
            id,
            secret: Redacted::new(secret),
        }
    }

    /// A key for one purpose; `None`: the cryptographic library failed.
    pub fn derive(&self, salt: &[u8], info: &[&[u8]]) -> Option<RandomizedNonceKey> {
        let mut info_bytes = Vec::new();
        for part in info {
            info_bytes.extend_from_slice(&u32::try_from(part.len()).ok()?.to_be_bytes());
            info_bytes.extend_from_slice(part);
        }
        let mut key = [0; 32];
        let extracted = Salt::new(HKDF_SHA256, salt).extract(self.secret.expose());
        extracted.expand(&[&info_bytes], Length).ok()?.fill(&mut key).ok()?;
        RandomizedNonceKey::new(&AES_256_GCM, &key).ok()
    }
}

impl Ring {
    /// One base64 key of 32 bytes per line; blank lines and `#` lines do not count.
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
            .ok_or("there is no key in it; make one with `openssl rand -base64 32`")?;
        Ok(Self {
            first,
            others: keys.collect(),
        })
    }

    pub fn sealing(&self) -> &RingKey {
        &self.first
    }

    pub fn find(&self, id: &[u8]) -> Option<&RingKey> {
        self.keys().find(|key| key.id == id)
    }

    fn keys(&self) -> impl Iterator<Item = &RingKey> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl Keys {
    /// From the file; without one a key that ends with the process.
    pub fn load(file: Option<PathBuf>) -> Result<Self, (PathBuf, String)> {
        let (ring, seen) = match &file {
            None => {
                let mut secret = [0; 32];
                let filled = aws_lc_rs::rand::fill(&mut secret);
                filled.map_err(|_unspecified| (PathBuf::new(), "there is no randomness".to_owned()))?;
                let ring = Ring {
                    first: RingKey::new(secret),
                    others: Vec::new(),
                };
                (ring, [0; 32])
            }
            Some(path) => {
                let text = read(path).map_err(|message| (path.clone(), message))?;
                let ring = Ring::parse(&text).map_err(|message| (path.clone(), message))?;
                (ring, sha256(&[text.as_bytes()]))
            }
        };
        Ok(Self {
            ring: ArcSwap::from_pointee(ring),
            file,
            seen: Mutex::new(Ok(seen)),
        })
    }

    pub fn ring(&self) -> Arc<Ring> {
        self.ring.load_full()
    }

    /// Takes the file if it changed. Blocks on the file system. `None`: nothing new.
    pub fn look(&self) -> Option<Result<Left, String>> {
        let path = self.file.as_ref()?;
        let text = read(path);
        let now = match &text {
            Ok(text) => Ok(sha256(&[text.as_bytes()])),
            Err(message) => Err(message.clone()),
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return None;
        }
        // a bad file is said once, not at every look
        *seen = now;
        Some(text.and_then(|text| Ring::parse(&text)).map(|ring| {
            let ring = Arc::new(ring);
            let old = self.ring.swap(Arc::clone(&ring));
            if old.keys().all(|key| ring.find(&key.id).is_some()) {
                Left::None
            } else {
                Left::Some
            }
        }))
    }
}

/// Whether a key file can be used.
pub fn check_key_file(path: &Path) -> Result<(), String> {
    Ring::parse(&read(path)?).map(drop)
}

/// A small text file; a pipe would be waited for, so it is none.
fn read(path: &Path) -> Result<String, String> {
    let about = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !about.is_file() || about.len() > FILE_BYTES_MAX {
        return Err(format!("it is no file of at most {FILE_BYTES_MAX} bytes"));
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let read = file.take(FILE_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| error.to_string())?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(byte: u8) -> String {
        STANDARD.encode([byte; 32])
    }

    #[test]
    fn a_ring_is_one_key_per_line_and_the_first_seals() {
        let ring = Ring::parse(&format!("# new\n{}\n\n{}\n{}\n", line(1), line(2), line(1))).unwrap();
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
            let error = Ring::parse(bad).err().unwrap();
            assert!(!error.contains("AAAA") && error.contains("openssl rand"), "{error}");
        }
    }

    #[test]
    fn a_changed_file_is_taken_up_and_a_bad_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        std::fs::write(&file, line(1)).unwrap();
        let keys = Keys::load(Some(file.clone())).unwrap();
        assert!(keys.look().is_none());
        std::fs::write(&file, format!("{}\n{}", line(2), line(1))).unwrap();
        assert_eq!(keys.look(), Some(Ok(Left::None)));
        assert_eq!(keys.ring().sealing().id, RingKey::new([2; 32]).id);
        for bad in ["", "junk"] {
            std::fs::write(&file, bad).unwrap();
            assert!(keys.look().unwrap().is_err());
            assert!(keys.look().is_none());
            assert_eq!(keys.ring().sealing().id, RingKey::new([2; 32]).id);
        }
        std::fs::remove_file(&file).unwrap();
        assert!(keys.look().unwrap().is_err());
        std::fs::write(&file, line(3)).unwrap();
        assert_eq!(keys.look(), Some(Ok(Left::Some)));
        assert_eq!(keys.ring().sealing().id, RingKey::new([3; 32]).id);
    }
}
