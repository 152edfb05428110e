//! Caches results of verified tokens, so that the gate checks a token's signature once.
//!
//! The key is a hash of the whole token (header, claims and signature), so a token that differs in its signature only
//! is another entry. An entry proves nothing by itself: on every hit the caller checks the entry's proof with
//! `Authn::recheck`. All workers share a cache and may insert the same token twice; the later entry stays. Each portal
//! owns a cache.
//!
//! SECURITY: a token with the hash of another one would pass as that one. The hash is SipHash-2-4 with 128 bits under a
//! secret of this process, so an attacker cannot compute it and can only guess: each guess succeeds with a chance of
//! one to 2^128 for each entry. It takes half the time of SHA-256, and less where the processor has no SHA
//! instructions.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::rand;
use quick_cache::sync::Cache;
use siphasher::sip128::SipHasher24;

use crate::base::digest::sha256;

/// `None`: there is no randomness for a secret, and hashes are SHA-256.
static HASHER: LazyLock<Option<SipHasher24>> = LazyLock::new(|| {
    let mut secret = [0; 16];
    rand::fill(&mut secret).ok()?;
    Some(SipHasher24::new_with_key(&secret))
});

/// A bounded map from tokens to `T`; a full cache evicts entries that were used least.
pub struct TokenCache<T>(Cache<[u8; 32], Arc<T>>);

/// Hash of the whole token; the key of its cache entry in this process.
pub fn token_hash(token: &str) -> [u8; 32] {
    let Some(hasher) = &*HASHER else {
        return sha256(token.as_bytes());
    };
    let mut hash = [0; 32];
    if let Some(half) = hash.first_chunk_mut() {
        *half = hasher.hash(token.as_bytes()).as_bytes();
    }
    hash
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
