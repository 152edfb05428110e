//! A rate that all replicas count together, through the session store.
//!
//! A request never waits for the store. Each replica lets a request pass that its own count allows, and notes it here.
//! A few times per second `app::shared_rates` publishes the noted counts and learns the totals of all replicas. A
//! caller whose total is over the rate is refused until the window of that total ends.
//!
//! So between two publications one caller can exceed the rate by the requests that the replicas let pass in that time.
//! While the store does not answer, counts are dropped and each replica counts alone. A request that is noted while a
//! publication runs belongs to the next one: `take` swaps the whole map under the lock.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::base::digest::sha256;
use crate::config::Rate;

/// Callers whose counts are noted between two publications; requests of further callers count in their replica alone.
const KEYS_MAX: usize = 50_000;

/// The hash of a caller's key, equal in all replicas.
pub type SharedKey = [u8; 32];

/// A key of a rate with the same bytes in all replicas.
pub trait CountedAs: Clone + Eq + Hash {
    /// Bytes that no other key has.
    fn bytes(&self) -> Vec<u8>;
}

/// One shared rate: counts noted since the last publication, and callers over the rate of all replicas.
#[derive(Debug)]
pub struct SharedRate {
    rate: Rate,
    area: &'static str,
    state: Mutex<SharedCounts>,
}

#[derive(Debug, Default)]
struct SharedCounts {
    passed: HashMap<SharedKey, u32>,
    over: HashMap<SharedKey, Instant>,
}

/// The requests of one caller that this replica let pass since the last publication.
#[derive(Clone, Copy, Debug)]
pub struct PassedRequests {
    pub key: SharedKey,
    pub count: u32,
}

/// One window of a rate. All replicas with the same clock number it alike.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RateWindow {
    /// Windows since 1970.
    pub number: u64,
    /// Time until it ends.
    pub left: Duration,
}

impl SharedRate {
    pub fn new(rate: Rate, area: &'static str) -> Self {
        Self {
            rate,
            area,
            state: Mutex::default(),
        }
    }

    /// Returns the window of a time since 1970.
    pub fn window(&self, since_1970: Duration) -> RateWindow {
        let per = self.rate.per.as_nanos().max(1);
        let number = since_1970.as_nanos() / per;
        let left = per - since_1970.as_nanos() % per;
        let nanos = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
        RateWindow {
            number: nanos(number),
            left: Duration::from_nanos(nanos(left)),
        }
    }

    /// The name of the rate's area in the store.
    pub fn area(&self) -> &'static str {
        self.area
    }

    /// The time for which the store keeps the totals of a window.
    pub fn memory(&self) -> Duration {
        self.rate.per.saturating_mul(2).max(Duration::from_secs(1))
    }

    /// Counts a request, or returns the time for which the caller is over the rate of all replicas.
    pub fn check(&self, key: &impl CountedAs, now: Instant) -> Result<(), Duration> {
        let key = sha256(&key.bytes());
        let mut state = self.state.lock();
        if let Some(until) = state.over.get(&key) {
            if now < *until {
                return Err(*until - now);
            }
            state.over.remove(&key);
        }
        if state.passed.len() < KEYS_MAX || state.passed.contains_key(&key) {
            *state.passed.entry(key).or_default() += 1;
        }
        Ok(())
    }

    /// Takes the counts to publish.
    pub fn take(&self) -> Vec<PassedRequests> {
        let passed = std::mem::take(&mut self.state.lock().passed);
        passed.into_iter().map(|(key, count)| PassedRequests { key, count }).collect()
    }

    /// Notes the total of all replicas in the window that ends at `end`.
    pub fn learn(&self, key: SharedKey, total: u64, end: Instant) {
        let allowed = u64::from(self.rate.requests.max(self.rate.burst).get());
        if total >= allowed {
            let mut state = self.state.lock();
            if state.over.len() < KEYS_MAX {
                state.over.insert(key, end);
            }
        }
    }

    /// Removes callers whose window has ended.
    pub fn sweep(&self, now: Instant) {
        self.state.lock().over.retain(|_, until| now < *until);
    }
}
