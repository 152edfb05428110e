//! One call for all requests that want the same answer: a mutex for each key.
//!
//! The first request holds the mutex while it asks, the others wait for it and then find the answer in their cache. If
//! the first is cancelled (its client went away), its mutex is free and the next one asks.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Mutex as AsyncMutex;

/// The mutexes of keys that requests ask about now; bounded by the requests in flight.
#[derive(Default)]
pub(super) struct InFlight(Mutex<FxHashMap<[u8; 32], Weak<AsyncMutex<()>>>>);

impl InFlight {
    /// Returns the mutex of a key. The last request that holds it drops it; a later call removes its entry from the
    /// map.
    pub fn mutex(&self, key: [u8; 32]) -> Arc<AsyncMutex<()>> {
        let mut in_flight = self.0.lock();
        if let Some(mutex) = in_flight.get(&key).and_then(Weak::upgrade) {
            return mutex;
        }
        in_flight.retain(|_, mutex| mutex.strong_count() > 0);
        let mutex = Arc::new(AsyncMutex::new(()));
        in_flight.insert(key, Arc::downgrade(&mutex));
        mutex
    }
}
