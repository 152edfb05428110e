//! The store within this process: for one gate, and gone with it.
//!
//! Keeps exactly what Redis would: sealed values under hashed keys, each with a time to live. Bounded: what is expired makes
//! room, nothing else does; without room, nothing new is kept.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::StoreError;
use super::Swap;

/// Sessions at once.
pub const SESSIONS_MAX: usize = 100_000;
/// Marks, counts, leases and small values at once.
pub const OTHERS_MAX: usize = 100_000;

#[derive(Default)]
pub struct Memory {
    sessions: Mutex<Room>,
    others: Mutex<Room>,
}

#[derive(Default)]
struct Room(HashMap<String, Kept>);

struct Kept {
    value: Vec<u8>,
    until: Instant,
}

impl Memory {
    pub fn read(&self, key: &str) -> Option<Vec<u8>> {
        self.room(key).live(key).map(|kept| kept.value.clone())
    }

    pub fn write(&self, key: &str, value: Vec<u8>, ttl: Duration) -> Result<(), StoreError> {
        let max = self.max(key);
        self.room(key).insert(key, value, (ttl, max))
    }

    /// True if nothing was there.
    pub fn write_first(&self, key: &str, value: Vec<u8>, ttl: Duration) -> Result<bool, StoreError> {
        let max = self.max(key);
        let mut room = self.room(key);
        if room.live(key).is_some() {
            return Ok(false);
        }
        room.insert(key, value, (ttl, max)).map(|()| true)
    }

    pub fn swap(&self, key: &str, old: &[u8], new: Vec<u8>, ttl: Duration) -> Swap {
        let mut room = self.room(key);
        match room.live(key) {
            None => Swap::Gone,
            Some(kept) if kept.value != old => Swap::Changed,
            Some(kept) => {
                *kept = Kept {
                    value: new,
                    until: Instant::now() + ttl,
                };
                Swap::Done
            }
        }
    }

    pub fn remove_if(&self, key: &str, old: &[u8]) {
        let mut room = self.room(key);
        if room.live(key).is_some_and(|kept| kept.value == old) {
            room.0.remove(key);
        }
    }

    pub fn remove(&self, key: &str) {
        self.room(key).0.remove(key);
    }

    pub fn count(&self, key: &str, by: u64, ttl: Duration) -> Result<u64, StoreError> {
        let max = self.max(key);
        let mut room = self.room(key);
        if let Some(kept) = room.live(key) {
            let count = number(&kept.value).saturating_add(by);
            kept.value = count.to_string().into_bytes();
            return Ok(count);
        }
        room.insert(key, by.to_string().into_bytes(), (ttl, max)).map(|()| by)
    }

    pub fn scan(&self, prefix: &str, limit: usize) -> Vec<(String, Vec<u8>)> {
        let now = Instant::now();
        let room = self.room(prefix);
        let live = room
            .0
            .iter()
            .filter(|(key, kept)| kept.until > now && key.starts_with(prefix));
        live.take(limit)
            .map(|(key, kept)| (key.clone(), kept.value.clone()))
            .collect()
    }

    /// Drops what is expired.
    pub fn sweep(&self) {
        for room in [&self.sessions, &self.others] {
            room.lock().unwrap_or_else(PoisonError::into_inner).sweep();
        }
    }

    fn room(&self, key: &str) -> MutexGuard<'_, Room> {
        let room = if is_session(key) { &self.sessions } else { &self.others };
        room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn max(&self, key: &str) -> usize {
        if is_session(key) { SESSIONS_MAX } else { OTHERS_MAX }
    }
}

impl Room {
    fn live(&mut self, key: &str) -> Option<&mut Kept> {
        let now = Instant::now();
        self.0.get_mut(key).filter(|kept| kept.until > now)
    }

    fn insert(&mut self, key: &str, value: Vec<u8>, (ttl, max): (Duration, usize)) -> Result<(), StoreError> {
        if self.0.len() >= max && !self.0.contains_key(key) {
            self.sweep();
            if self.0.len() >= max {
                return Err(StoreError::Full);
            }
        }
        let until = Instant::now() + ttl;
        self.0.insert(key.to_owned(), Kept { value, until });
        Ok(())
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        self.0.retain(|_, kept| kept.until > now);
    }
}

fn is_session(key: &str) -> bool {
    key.starts_with("s:")
}

pub fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    /// Over as soon as it began.
    const NOW: Duration = Duration::ZERO;

    #[test]
    fn a_full_store_refuses_until_something_expires_and_forgets_nothing_else() {
        let memory = Memory::default();
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
    fn values_are_swapped_only_if_they_are_what_was_read() {
        let memory = Memory::default();
        assert_eq!(memory.swap("s:a", b"", b"1".to_vec(), MINUTE), Swap::Gone);
        assert!(memory.write_first("s:a", b"1".to_vec(), MINUTE).unwrap());
        assert!(!memory.write_first("s:a", b"2".to_vec(), MINUTE).unwrap());
        assert_eq!(memory.swap("s:a", b"2", b"3".to_vec(), MINUTE), Swap::Changed);
        assert_eq!(memory.swap("s:a", b"1", b"3".to_vec(), NOW), Swap::Done);
        assert_eq!(memory.swap("s:a", b"3", b"4".to_vec(), MINUTE), Swap::Gone);
        assert!(memory.write_first("s:a", b"2".to_vec(), MINUTE).unwrap());
    }

    #[test]
    fn a_count_is_forgotten_its_time_after_it_began() {
        let memory = Memory::default();
        assert_eq!(memory.count("c", 1, MINUTE).unwrap(), 1);
        assert_eq!(memory.count("c", 1, NOW).unwrap(), 2, "the first one's time counts");
        assert_eq!(memory.count("c", 1, NOW).unwrap(), 3);
        assert_eq!(memory.count("d", 1, NOW).unwrap(), 1);
        assert_eq!(memory.count("d", 1, NOW).unwrap(), 1);
    }
}
