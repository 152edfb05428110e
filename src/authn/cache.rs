//! Caches results of verified tokens, so that the gate checks a token's signature once.
//!
//! The key is the SHA-256 of the whole token (header, claims and signature), so a token that differs in its signature only is
//! another entry. An entry proves nothing by itself: on every hit the caller checks the entry's proof with `Authn::recheck`.
//! All workers share a cache and may insert the same token twice; the later entry stays. Each portal owns a cache.

use std::sync::Arc;

use quick_cache::sync::Cache;

use crate::base::digest::sha256;

/// A bounded map from tokens to `T`; a full cache evicts entries that were used least.
pub struct TokenCache<T>(Cache<[u8; 32], Arc<T>>);

/// SHA-256 of the whole token; the key of its cache entry.
pub fn token_hash(token: &str) -> [u8; 32] {
    sha256(token.as_bytes())
}

impl<T> TokenCache<T> {
    /// Makes a cache of at most `entries` tokens (`limits.token_cache`).
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
    fn cache_never_exceeds_its_limit() {
        let cache = TokenCache::new(100);
        for n in 0..10_000 {
            cache.insert(token_hash(&format!("token {n}")), Arc::new(n));
        }
        assert!(cache.0.len() <= 100, "{}", cache.0.len());
    }

    #[test]
    fn token_that_differs_only_in_its_signature_is_another_entry() {
        let cache = TokenCache::new(8);
        cache.insert(token_hash("a.b.c"), Arc::new(()));
        assert!(cache.get(&token_hash("a.b.c")).is_some());
        assert!(cache.get(&token_hash("a.b.d")).is_none());
        cache.remove(&token_hash("a.b.c"));
        assert!(cache.get(&token_hash("a.b.c")).is_none());
    }
}
