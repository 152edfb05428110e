//! A rate that all replicas count together: what passed here is told to the others, and what passed there counts here.
//!
//! A request never waits for it. Each replica lets through what its own count allows, tells how much that was a few times
//! per second (`app::shared_rates`), and learns the sum over all of them; a caller over the rate is refused until the
//! window in which that was counted is over. So one caller can exceed the rate by what passes between two tellings, and
//! without the store every replica counts for itself.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};

use crate::config::Rate;

/// Callers that are told of between two tellings; what further ones pass is not told.
const KEYS_MAX: usize = 50_000;

/// A caller, the same in every replica: a hash of what it is counted by.
pub type SharedKey = [u8; 32];

/// Something that every replica writes alike.
pub trait CountedAs: Clone + Eq + Hash {
    /// Unambiguous bytes.
    fn bytes(&self) -> Vec<u8>;
}

/// What passed here since it was last told, and who is over the rate everywhere.
#[derive(Debug)]
pub struct Shared {
    rate: Rate,
    area: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    passed: HashMap<SharedKey, u32>,
    over: HashMap<SharedKey, Instant>,
}

/// What one replica has to tell of one caller.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    pub key: SharedKey,
    pub count: u32,
}

impl Shared {
    pub fn new(rate: Rate, area: &'static str) -> Self {
        Self {
            rate,
            area,
            state: Mutex::default(),
        }
    }

    /// The window that `now` is in, since 1970, and how long it still is.
    pub fn window(&self, since_1970: Duration) -> (u64, Duration) {
        let per = self.rate.per.as_nanos().max(1);
        let number = since_1970.as_nanos() / per;
        let left = per - since_1970.as_nanos() % per;
        let nanos = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
        (nanos(number), Duration::from_nanos(nanos(left)))
    }

    /// Of `first` and `count`: a short word for the kind of the rate.
    pub fn area(&self) -> &'static str {
        self.area
    }

    /// How long a window is remembered by whoever keeps the sums.
    pub fn memory(&self) -> Duration {
        self.rate.per.saturating_mul(2).max(Duration::from_secs(1))
    }

    /// Until when this caller is over the rate of all replicas; else it is counted.
    pub fn check(&self, key: &impl CountedAs, now: Instant) -> Result<(), Duration> {
        let key = hash(&key.bytes());
        let mut state = self.state();
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

    /// What is to be told now.
    pub fn take(&self) -> Vec<Passed> {
        let passed = std::mem::take(&mut self.state().passed);
        passed.into_iter().map(|(key, count)| Passed { key, count }).collect()
    }

    /// What all replicas let through in the window that ends at `end`.
    pub fn learn(&self, key: SharedKey, total: u64, end: Instant) {
        let allowed = u64::from(self.rate.requests.max(self.rate.burst).get());
        if total >= allowed {
            let mut state = self.state();
            if state.over.len() < KEYS_MAX {
                state.over.insert(key, end);
            }
        }
    }

    /// Forgets whose window is over.
    pub fn sweep(&self, now: Instant) {
        self.state().over.retain(|_, until| now < *until);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(bytes: &[u8]) -> SharedKey {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}
