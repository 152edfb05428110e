//! The sessions that this process read lately, so that a request needs no round trip to the store.
//!
//! Three tasks race: a request reads a value from the store and inserts it; the subscriber hears that another replica
//! changed that session; a connection to the store ends and another begins. The order that prevents a stale entry: a
//! reader takes `generation()` *before* it reads, `forget_changed` counts `changes` up before it removes, and `insert`
//! compares `changes` before and after it inserts. So a change that arrives during the read either stops the insert or
//! removes the entry. `flush` counts both numbers up and drops everything; an entry of an earlier connection is never
//! returned. If the subscriber stops, the revocation log becomes stale and `Sessions` refuses every entry of the cache.
//!
//! An entry proves nothing by itself: `Sessions` checks its timeouts and the revocation log on every request. The cache
//! never says that a session does not exist; only the store says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::sync::Cache as BoundedCache;
use tokio::time::Instant;

use super::record::{Handle, Session};

/// One session with the facts that a request must check before it uses it.
pub struct CachedSession {
    pub session: Arc<Session>,
    /// The store connection that the session was read through.
    pub connection: u64,
    /// Epoch of the revocation log at which the session was last found not revoked.
    pub checked_epoch: AtomicU64,
    /// Unix milliseconds of the last use that was written to the store.
    pub used_at: AtomicI64,
    /// Unix milliseconds of the session's end, however often it is used.
    pub ends_at: i64,
    /// No request has used this rotated id yet; the first use retires the previous id.
    pub unconfirmed: AtomicBool,
}

/// At most `sessions.cache` entries; requests and the subscriber write, requests read.
pub struct SessionCache {
    entries: BoundedCache<[u8; 32], Arc<CachedSession>>,
    /// Number of the store connection. Entries of another connection do not count.
    connection: AtomicU64,
    /// Counts the announced changes of sessions. A value read across a change may be old.
    changes: AtomicU64,
    /// Time of the last `flush` after that of the first connection: normally a reconnect.
    reconnected_at: Mutex<Option<Instant>>,
}

/// The state of the cache before a read from the store. `insert` refuses the value if it has changed.
#[derive(Clone, Copy)]
pub struct CacheGeneration {
    pub connection: u64,
    changes: u64,
}

impl SessionCache {
    pub fn new(entries: usize) -> Self {
        Self {
            entries: BoundedCache::new(entries.max(1)),
            connection: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            reconnected_at: Mutex::new(None),
        }
    }

    pub fn get(&self, handle: Handle) -> Option<Arc<CachedSession>> {
        let cached = self.entries.get(&handle.0)?;
        (cached.connection == self.connection.load(Ordering::Acquire)).then_some(cached)
    }

    /// The present generation. Take it before reading from the store.
    pub fn generation(&self) -> CacheGeneration {
        CacheGeneration {
            connection: self.connection.load(Ordering::Acquire),
            changes: self.changes.load(Ordering::Acquire),
        }
    }

    /// Inserts a session that was read at `generation`, unless a change was announced since then.
    pub fn insert(&self, cached: Arc<CachedSession>, generation: CacheGeneration) {
        let handle = cached.session.handle;
        if self.changes.load(Ordering::Acquire) != generation.changes {
            return;
        }
        self.entries.insert(handle.0, cached);
        // the change may have been announced between the check and the insert
        if self.changes.load(Ordering::Acquire) != generation.changes {
            self.remove(handle);
        }
    }

    /// Drops sessions that changed in the store, here or in another replica.
    pub fn forget_changed(&self, handles: impl IntoIterator<Item = Handle>) {
        let mut is_counted = false;
        for handle in handles {
            if !is_counted {
                self.changes.fetch_add(1, Ordering::AcqRel);
                is_counted = true;
            }
            self.remove(handle);
        }
    }

    pub fn remove(&self, handle: Handle) {
        drop(self.entries.remove(&handle.0));
    }

    /// Drops every session, also those that are being read: a new store connection, or a server key that left the ring.
    pub fn flush(&self) {
        let is_first = self.connection.fetch_add(1, Ordering::AcqRel) == 0;
        if !is_first {
            *self.reconnected_at.lock() = Some(Instant::now());
        }
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.entries.clear();
    }

    /// Time since the last reconnect to the store; `None` if there was none.
    pub fn since_reconnect(&self) -> Option<Duration> {
        self.reconnected_at.lock().map(|at| at.elapsed())
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }
}
