//! The sessions that this process saw lately, so that a request costs no trip to the store.
//!
//! An entry proves nothing by itself: it counts only in the connection generation it was read in, while the feed is fresh,
//! its times are not over and nothing revoked it. Never says that there is no session: that is the store's to say.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use quick_cache::sync::Cache as Bounded;

use super::record::{Handle, Session};

/// One session, with what must hold for it to count.
pub struct Cached {
    pub session: Arc<Session>,
    /// Of the store's connection that it was read through.
    pub generation: u64,
    /// The feed's epoch at which it was last found not to be revoked.
    pub checked: AtomicU64,
    /// Unix milliseconds of its last use that the store was told of.
    pub used_at: AtomicI64,
    /// Unix milliseconds of its end, whatever happens.
    pub ends_at: i64,
    /// Whoever comes with it next is the first: the id before it is on its way out.
    pub unproven: AtomicBool,
}

pub struct Cache {
    entries: Bounded<[u8; 32], Arc<Cached>>,
    /// The store's connection; another one, and nothing that was read before counts.
    generation: AtomicU64,
    /// Counts what was heard of changed sessions: what was read meanwhile may be old.
    heard: AtomicU64,
    /// When the store was there again after it was away.
    back: Mutex<Option<Instant>>,
}

/// When something was read from the store, for `insert` to tell whether it still counts.
#[derive(Clone, Copy)]
pub struct Moment {
    pub generation: u64,
    heard: u64,
}

impl Cache {
    pub fn new(entries: usize) -> Self {
        Self {
            entries: Bounded::new(entries.max(1)),
            generation: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            back: Mutex::new(None),
        }
    }

    pub fn get(&self, handle: Handle) -> Option<Arc<Cached>> {
        let cached = self.entries.get(&handle.0)?;
        (cached.generation == self.generation.load(Ordering::Acquire)).then_some(cached)
    }

    /// To be taken before the store is asked.
    pub fn moment(&self) -> Moment {
        Moment {
            generation: self.generation.load(Ordering::Acquire),
            heard: self.heard.load(Ordering::Acquire),
        }
    }

    /// Keeps what was read, unless it may have changed since.
    pub fn insert(&self, cached: Arc<Cached>, moment: Moment) {
        let handle = cached.session.handle;
        if self.heard.load(Ordering::Acquire) != moment.heard {
            return;
        }
        self.entries.insert(handle.0, cached);
        // the news may have come between the look and the insert
        if self.heard.load(Ordering::Acquire) != moment.heard {
            self.remove(handle);
        }
    }

    /// Another replica changed these.
    pub fn hear(&self, handles: impl IntoIterator<Item = Handle>) {
        let mut any = false;
        for handle in handles {
            if !any {
                self.heard.fetch_add(1, Ordering::AcqRel);
                any = true;
            }
            self.remove(handle);
        }
    }

    pub fn remove(&self, handle: Handle) {
        drop(self.entries.remove(&handle.0));
    }

    /// Nothing that was read so far counts any more.
    pub fn flush(&self) {
        let first = self.generation.fetch_add(1, Ordering::AcqRel) == 0;
        if !first {
            *self.back.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        self.heard.fetch_add(1, Ordering::AcqRel);
        self.entries.clear();
    }

    /// For how long the store is there again after it was away; `None`: it never was.
    pub fn back_for(&self) -> Option<Duration> {
        let back = *self.back.lock().unwrap_or_else(PoisonError::into_inner);
        back.map(|at| at.elapsed())
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }
}
