//! What replicas tell each other beside sessions: marks, counts, small sealed values, and values that go through a browser.
//!
//! Keys are hashes that the caller made; areas keep them apart. Nothing here is about one session.

use std::time::Duration;

use super::{Sessions, StoreError};

const MARK: &[u8] = b"1";

impl Sessions {
    /// True the first time that anybody marks `key` within `ttl`, in any replica. `area` is a short fixed word.
    pub async fn first(&self, area: &'static str, key: &[u8; 32], ttl: Duration) -> Result<bool, StoreError> {
        let place = place("first", area, key);
        self.meters
            .measure("first", self.store.write_first(&place, MARK.to_vec(), ttl))
            .await
    }

    /// Counts up, in all replicas together; the count is forgotten `ttl` after its beginning.
    pub async fn count(&self, area: &'static str, key: &[u8; 32], ttl: Duration) -> Result<u64, StoreError> {
        let place = place("count", area, key);
        self.meters.measure("count", self.store.count(&place, 1, ttl)).await
    }

    /// Adds to many counts; gives back their sums, in order.
    pub async fn add(&self, area: &'static str, counts: &[([u8; 32], u64)], ttl: Duration) -> Result<Vec<u64>, StoreError> {
        let mut sums = Vec::with_capacity(counts.len());
        for (key, by) in counts {
            sums.push(self.store.count(&place("count", area, key), *by, ttl).await?);
        }
        Ok(sums)
    }

    /// The count so far.
    pub async fn counted(&self, area: &'static str, key: &[u8; 32]) -> Result<u64, StoreError> {
        self.meters
            .measure("count", self.store.counted(&place("count", area, key)))
            .await
    }

    /// Forgets a count or a mark.
    pub async fn forget(&self, area: &'static str, key: &[u8; 32]) -> Result<(), StoreError> {
        self.store.remove(&place("count", area, key)).await?;
        self.store.remove(&place("first", area, key)).await
    }

    /// Keeps a small value for other replicas, sealed with the server's keys.
    pub async fn put(&self, area: &'static str, key: &[u8; 32], value: &[u8], ttl: Duration) -> Result<(), StoreError> {
        let place = place("value", area, key);
        let sealed = self.seal.shared(place.as_bytes(), value)?;
        self.meters.measure("put", self.store.write(&place, sealed, ttl)).await
    }

    /// What was put; `None`: nothing, or nothing that can be opened.
    pub async fn fetch(&self, area: &'static str, key: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        let place = place("value", area, key);
        let sealed = self.meters.measure("fetch", self.store.read(&place)).await?;
        let opened = sealed.map(|sealed| self.seal.open_shared(place.as_bytes(), &sealed));
        Ok(opened.and_then(|opened| {
            let error = |error| {
                self.meters.count("open", "corrupt");
                tracing::error!(%error, area, "a shared value in the store cannot be opened and counts as missing");
            };
            opened.map_err(error).ok()
        }))
    }

    /// Seals a value for a trip through the browser (the `state` of a login), bound to `secret`, with the server's keys.
    pub fn seal_for_trip(&self, secret: &[u8], value: &[u8]) -> String {
        // what is empty opens nowhere: the login fails instead of going on unsealed
        self.seal.trip(secret, value).unwrap_or_default()
    }

    /// What `seal_for_trip` sealed, here or in another replica; `None`: something else.
    pub fn open_from_trip(&self, secret: &[u8], text: &str) -> Option<Vec<u8>> {
        self.seal.open_trip(secret, text).ok()
    }
}

fn place(kind: &str, area: &str, key: &[u8; 32]) -> String {
    format!("{kind}:{area}:{{{}}}", hex::encode(key))
}
