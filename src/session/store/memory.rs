//! The store within this process: for one gate, and lost with it.
//!
//! Holds the same values as Redis would: sealed bytes under hashed keys, each with a time to live. Both maps are
//! bounded. Expired entries make room when a map is full; if that is not enough, new entries are refused with `Full`.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::session::StoreError;
use crate::session::store_outcome::{Swap, number};

/// Maximum number of sessions.
pub const SESSIONS_MAX: usize = 100_000;
/// Maximum number of marks, counters, leases and small values together.
pub const OTHERS_MAX: usize = 100_000;

pub struct MemoryStore {
    sessions: Mutex<BoundedMap>,
    others: Mutex<BoundedMap>,
}

struct BoundedMap {
    entries: HashMap<String, StoredValue>,
    max: usize,
}

struct StoredValue {
    value: Vec<u8>,
    expires_at: Instant,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self {
            sessions: Mutex::new(BoundedMap::new(SESSIONS_MAX)),
            others: Mutex::new(BoundedMap::new(OTHERS_MAX)),
        }
    }
}

impl MemoryStore {
    pub fn read(&self, key: &str) -> Option<Vec<u8>> {
        self.map_of(key).live(key).map(|stored| stored.value.clone())
    }

    pub fn write(&self, key: &str, value: Vec<u8>, ttl: Duration) -> Result<(), StoreError> {
        self.map_of(key).insert(key, value, ttl)
    }

    /// Writes only if there is no value; returns true if it wrote.
    pub fn write_first(&self, key: &str, value: Vec<u8>, ttl: Duration) -> Result<bool, StoreError> {
        let mut map = self.map_of(key);
        if map.live(key).is_some() {
            return Ok(false);
        }
        map.insert(key, value, ttl).map(|()| true)
    }

    pub fn swap(&self, key: &str, old: &[u8], new: Vec<u8>, ttl: Duration) -> Swap {
        match self.map_of(key).live(key) {
            None => Swap::Gone,
            Some(stored) if stored.value != old => Swap::Changed,
            Some(stored) => {
                *stored = StoredValue {
                    value: new,
                    expires_at: Instant::now() + ttl,
                };
                Swap::Done
            }
        }
    }

    pub fn remove_if(&self, key: &str, old: &[u8]) {
        let mut map = self.map_of(key);
        if map.live(key).is_some_and(|stored| stored.value == old) {
            map.entries.remove(key);
        }
    }

    pub fn remove(&self, key: &str) {
        self.map_of(key).entries.remove(key);
    }

    pub fn count(&self, key: &str, by: u64, ttl: Duration) -> Result<u64, StoreError> {
        let mut map = self.map_of(key);
        if let Some(stored) = map.live(key) {
            let count = number(&stored.value).saturating_add(by);
            stored.value = count.to_string().into_bytes();
            return Ok(count);
        }
        map.insert(key, by.to_string().into_bytes(), ttl).map(|()| by)
    }

    pub fn scan(&self, prefix: &str, limit: usize) -> Vec<(String, Vec<u8>)> {
        let now = Instant::now();
        let map = self.map_of(prefix);
        let live = map
            .entries
            .iter()
            .filter(|(key, stored)| stored.expires_at > now && key.starts_with(prefix));
        live.take(limit)
            .map(|(key, stored)| (key.clone(), stored.value.clone()))
            .collect()
    }

    /// Removes expired entries.
    pub fn sweep(&self) {
        self.sessions.lock().sweep();
        self.others.lock().sweep();
    }

    fn map_of(&self, key: &str) -> MutexGuard<'_, BoundedMap> {
        let map = if key.starts_with("s:") { &self.sessions } else { &self.others };
        map.lock()
    }
}

impl BoundedMap {
    fn new(max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            max,
        }
    }

    fn live(&mut self, key: &str) -> Option<&mut StoredValue> {
        let now = Instant::now();
        self.entries.get_mut(key).filter(|stored| stored.expires_at > now)
    }

    fn insert(&mut self, key: &str, value: Vec<u8>, ttl: Duration) -> Result<(), StoreError> {
        if self.entries.len() >= self.max && !self.entries.contains_key(key) {
            self.sweep();
            if self.entries.len() >= self.max {
                return Err(StoreError::Full);
            }
        }
        let expires_at = Instant::now() + ttl;
        self.entries.insert(key.to_owned(), StoredValue { value, expires_at });
        Ok(())
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        self.entries.retain(|_, stored| stored.expires_at > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    /// Expires at once.
    const NOW: Duration = Duration::ZERO;

    #[test]
    fn full_store_refuses_new_entries_until_one_expires() {
        let memory = MemoryStore::default();
        for n in 0..SESSIONS_MAX {
            memory.write(&format!("s:{n}"), vec![1], MINUTE).unwrap();
        }
        assert!(matches!(memory.write("s:more", vec![], MINUTE), Err(StoreError::Full)));
        memory.write("s:1", vec![2], MINUTE).unwrap();
        memory.write("first:x", vec![], MINUTE).unwrap();
        memory.write("s:0", vec![1], NOW).unwrap();
        memory.write("s:more", vec![], MINUTE).unwrap();
        assert!(matches!(memory.write("s:evenmore", vec![], MINUTE), Err(StoreError::Full)));
        assert_eq!(memory.read("s:0"), None);
        assert_eq!(memory.read("s:1"), Some(vec![2]));
    }

    #[test]
    fn swap_writes_only_over_the_expected_value() {
        let memory = MemoryStore::default();
        assert_eq!(memory.swap("s:a", b"", b"1".to_vec(), MINUTE), Swap::Gone);
        assert!(memory.write_first("s:a", b"1".to_vec(), MINUTE).unwrap());
        assert!(!memory.write_first("s:a", b"2".to_vec(), MINUTE).unwrap());
        assert_eq!(memory.swap("s:a", b"2", b"3".to_vec(), MINUTE), Swap::Changed);
        assert_eq!(memory.swap("s:a", b"1", b"3".to_vec(), NOW), Swap::Done);
        assert_eq!(memory.swap("s:a", b"3", b"4".to_vec(), MINUTE), Swap::Gone);
        assert!(memory.write_first("s:a", b"2".to_vec(), MINUTE).unwrap());
    }

    #[test]
    fn counter_expires_its_time_to_live_after_the_first_increment() {
        let memory = MemoryStore::default();
        assert_eq!(memory.count("c", 1, MINUTE).unwrap(), 1);
        assert_eq!(
            memory.count("c", 1, NOW).unwrap(),
            2,
            "the time to live of the first increment counts"
        );
        assert_eq!(memory.count("c", 1, NOW).unwrap(), 3);
        assert_eq!(memory.count("d", 1, NOW).unwrap(), 1);
        assert_eq!(memory.count("d", 1, NOW).unwrap(), 1);
    }
}
