//! SHA-256 of content: names revisions and tells values apart in records.

use sha2::{Digest as _, Sha256};

/// SHA-256 of the concatenation of `parts`. Lengths are not part of it: use it only if no other split of the same bytes
/// is possible.
pub fn sha256_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// First 16 hex digits of SHA-256: tells values apart in records without showing them.
pub fn short_hash(text: &str) -> String {
    let hash = sha256_of([text.as_bytes()]);
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
