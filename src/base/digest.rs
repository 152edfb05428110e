//! SHA-256, as the array that keys of maps and names in stores are made of.

use aws_lc_rs::digest::{Context, SHA256, digest};

/// SHA-256 of `bytes`. One call of the library: unlike a `Context`, it allocates nothing.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// SHA-256 of the concatenation of `parts`. Lengths are not part of it: use it only if no other split of the same bytes
/// is possible.
pub fn sha256_of(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}
