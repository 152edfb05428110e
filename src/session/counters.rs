//! State that replicas share in addition to sessions: one-time marks, counters and small sealed values.
//!
//! The callers (login, limits, introspection) make the keys as hashes; `area` keeps the callers apart. Every entry has
//! a time to live. A store error is returned as an error; the caller decides.

use std::time::Duration;

use aws_lc_rs::hmac;

use super::store::Store;
use super::store_outcome::number;
use super::{Sessions, StoreError};

const MARK: &[u8] = b"1";

impl Sessions {
    /// True for the first caller in any replica that marks `key` within `ttl`. `area` is a short fixed word.
    pub async fn first(&self, area: &'static str, key: &[u8; 32], ttl: Duration) -> Result<bool, StoreError> {
        let key = shared_key("first", area, key);
        self.meters
            .measure("first", self.store.write_first(&key, MARK.to_vec(), ttl))
            .await
    }

    /// Keys that every replica has, for the tags of one purpose: the first one makes tags, and each of them checks.
    /// `None`: the store is this process's own.
    pub fn shared_macs(&self, label: &[u8]) -> Option<Vec<hmac::Key>> {
        match self.store {
            Store::Memory(_) => None,
            Store::Redis(_) => {
                let ring = self.seal.keys.ring.load();
                let prefix = self.seal.prefix.as_bytes();
                Some(ring.keys().filter_map(|key| key.derive_mac(label, &[prefix])).collect())
            }
        }
    }

    /// Unix milliseconds at which `key` was first seen by any replica within `ttl`; now if the store does not tell.
    /// Reads the clock of `later_clock`.
    pub async fn first_seen(&self, area: &'static str, key: &[u8; 32], ttl: Duration) -> i64 {
        let now = self.later_clock().await;
        let key = shared_key("seen", area, key);
        let noted = self.meters.measure("first", self.note_or_read(&key, now, ttl)).await;
        match noted {
            Ok(first) => first.min(now),
            Err(error) => {
                tracing::debug!(%error, area, "the store does not tell when this was first seen; it counts as first seen now");
                now
            }
        }
    }

    async fn note_or_read(&self, key: &str, now: i64, ttl: Duration) -> Result<i64, StoreError> {
        if self.store.write_first(key, now.to_string().into_bytes(), ttl).await? {
            return Ok(now);
        }
        let noted = self.store.read(key).await?;
        Ok(noted.map_or(now, |noted| i64::try_from(number(&noted)).unwrap_or(now)))
    }

    /// Adds one to a counter of all replicas and returns the sum. The counter expires `ttl` after its first increment.
    pub async fn count(&self, area: &'static str, key: &[u8; 32], ttl: Duration) -> Result<u64, StoreError> {
        let key = shared_key("count", area, key);
        self.meters.measure("count", self.store.count(&key, 1, ttl)).await
    }

    /// Adds to many counters; returns their sums in the same order.
    pub async fn add(&self, area: &'static str, counts: &[([u8; 32], u64)], ttl: Duration) -> Result<Vec<u64>, StoreError> {
        let mut sums = Vec::with_capacity(counts.len());
        for (key, by) in counts {
            sums.push(self.store.count(&shared_key("count", area, key), *by, ttl).await?);
        }
        Ok(sums)
    }

    /// Reads a counter; zero if it does not exist.
    pub async fn counted(&self, area: &'static str, key: &[u8; 32]) -> Result<u64, StoreError> {
        self.meters
            .measure("count", self.store.counted(&shared_key("count", area, key)))
            .await
    }

    /// Removes a counter and a mark.
    pub async fn forget(&self, area: &'static str, key: &[u8; 32]) -> Result<(), StoreError> {
        self.store.remove(&shared_key("count", area, key)).await?;
        self.store.remove(&shared_key("first", area, key)).await
    }

    /// Stores a small value for the other replicas, sealed with the server's keys.
    pub async fn put(&self, area: &'static str, key: &[u8; 32], value: &[u8], ttl: Duration) -> Result<(), StoreError> {
        let key = shared_key("value", area, key);
        let sealed = self.seal.shared(key.as_bytes(), value)?;
        self.meters.measure("put", self.store.write(&key, sealed, ttl)).await
    }

    /// Reads a value that `put` stored; `None` if there is none, or if it cannot be opened.
    pub async fn fetch(&self, area: &'static str, key: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        let key = shared_key("value", area, key);
        let sealed = self.meters.measure("fetch", self.store.read(&key)).await?;
        let opened = sealed.map(|sealed| self.seal.open_shared(key.as_bytes(), &sealed));
        Ok(opened.and_then(|opened| {
            let log = |error| {
                self.meters.count("open", "corrupt");
                tracing::error!(%error, area, "a shared value in the store cannot be opened and counts as missing");
            };
            opened.map_err(log).ok()
        }))
    }
}

/// The store's key. Part of the stored format.
fn shared_key(kind: &str, area: &str, key: &[u8; 32]) -> String {
    format!("{kind}:{area}:{{{}}}", hex::encode(key))
}
