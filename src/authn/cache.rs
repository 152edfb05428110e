//! Remembers what verified tokens led to, so that the signature is checked once.
//!
//! Keyed by the SHA-256 of the whole token (header, claims and signature). An entry proves nothing by itself:
//! every hit goes through `Authn::recheck` with the entry's proof. Owned by a revision, so that a new one starts empty.

use std::sync::Arc;

use aws_lc_rs::digest;
use quick_cache::sync::Cache;

/// A bounded map from tokens to `T`; the least useful entries leave first.
pub struct TokenCache<T>(Cache<[u8; 32], Arc<T>>);

/// SHA-256 of the token, whole.
pub fn token_hash(token: &str) -> [u8; 32] {
    sha256(token.as_bytes())
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

impl<T> TokenCache<T> {
    /// At most `entries` tokens (`limits.token_cache`).
    pub fn new(entries: usize) -> Self {
        Self(Cache::new(entries))
    }

    pub fn get(&self, hash: &[u8; 32]) -> Option<Arc<T>> {
        self.0.get(hash)
    }

    pub fn insert(&self, hash: [u8; 32], value: Arc<T>) {
        self.0.insert(hash, value);
    }

    pub fn remove(&self, hash: &[u8; 32]) {
        drop(self.0.remove(hash));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_never_holds_more_than_its_limit() {
        let cache = TokenCache::new(100);
        for n in 0..10_000 {
            cache.insert(token_hash(&format!("token {n}")), Arc::new(n));
        }
        assert!(cache.0.len() <= 100, "{}", cache.0.len());
    }

    #[test]
    fn a_token_differing_in_its_signature_only_is_another_token() {
        let cache = TokenCache::new(8);
        cache.insert(token_hash("a.b.c"), Arc::new(()));
        assert!(cache.get(&token_hash("a.b.c")).is_some());
        assert!(cache.get(&token_hash("a.b.d")).is_none());
        cache.remove(&token_hash("a.b.c"));
        assert!(cache.get(&token_hash("a.b.c")).is_none());
    }
}
