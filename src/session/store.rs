//! Where sealed values are kept: in this process, or in Redis.
//!
//! Knows keys, bytes and times to live; what they mean is `Sessions`' business. Every answer is what the store said or a
//! `StoreError`, never a guess.

pub(super) mod memory;
pub(super) mod redis;

use std::time::Duration;

use self::memory::{Memory, number};
use self::redis::Redis;
use super::StoreError;
use super::record::Handle;
use super::revocations::log::Entry;

/// What came of a compare-and-set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Swap {
    Done,
    /// Somebody else changed it.
    Changed,
    Gone,
}

/// Whether a replica of the store has what was written; `None`: there is no replica.
pub type Replicated = Option<bool>;

pub enum Store {
    Memory(Memory),
    Redis(Box<Redis>),
}

impl Store {
    pub async fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::Memory(memory) => Ok(memory.read(key)),
            Self::Redis(redis) => redis.read(key).await,
        }
    }

    pub async fn write(&self, key: &str, value: Vec<u8>, ttl: Duration) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.write(key, value, ttl),
            Self::Redis(redis) => redis.write(key, &value, ttl).await,
        }
    }

    /// Returns when a replica has it, where there is one.
    pub async fn write_durably(&self, key: &str, value: Vec<u8>, ttl: Duration) -> Result<Replicated, StoreError> {
        match self {
            Self::Memory(memory) => memory.write(key, value, ttl).map(|()| None),
            Self::Redis(redis) => redis.write_durably(key, &value, ttl).await,
        }
    }

    /// True if nothing was there.
    pub async fn write_first(&self, key: &str, value: Vec<u8>, ttl: Duration) -> Result<bool, StoreError> {
        match self {
            Self::Memory(memory) => memory.write_first(key, value, ttl),
            Self::Redis(redis) => redis.write_first(key, &value, ttl).await,
        }
    }

    /// Writes only if the value still is what was read.
    pub async fn swap(&self, key: &str, old: &[u8], new: Vec<u8>, ttl: Duration) -> Result<Swap, StoreError> {
        match self {
            Self::Memory(memory) => Ok(memory.swap(key, old, new, ttl)),
            Self::Redis(redis) => redis.swap(key, old, &new, ttl).await,
        }
    }

    /// Removes only what is as it was.
    pub async fn remove_if(&self, key: &str, old: &[u8]) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => {
                memory.remove_if(key, old);
                Ok(())
            }
            Self::Redis(redis) => redis.remove_if(key, old).await,
        }
    }

    pub async fn remove(&self, key: &str) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => {
                memory.remove(key);
                Ok(())
            }
            Self::Redis(redis) => redis.remove(key).await,
        }
    }

    /// Counts up; the time begins with the first.
    pub async fn count(&self, key: &str, by: u64, ttl: Duration) -> Result<u64, StoreError> {
        match self {
            Self::Memory(memory) => memory.count(key, by, ttl),
            Self::Redis(redis) => redis.count(key, by, ttl).await,
        }
    }

    pub async fn counted(&self, key: &str) -> Result<u64, StoreError> {
        Ok(self.read(key).await?.map_or(0, |value| number(&value)))
    }

    /// Keys with their values, at most `limit`, in no order.
    pub async fn scan(&self, prefix: &str, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        match self {
            Self::Memory(memory) => Ok(memory.scan(prefix, limit)),
            Self::Redis(redis) => redis.scan(prefix, limit).await,
        }
    }

    /// Unix milliseconds of the store's clock, if it has one of its own.
    pub async fn now(&self) -> Option<i64> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(redis) => redis.now().await,
        }
    }

    /// Tells every replica of the gate; returns when a replica of the store has it, where there is one.
    pub async fn publish(&self, entries: &[Entry]) -> Result<Replicated, StoreError> {
        match self {
            Self::Memory(_) => Ok(None),
            Self::Redis(redis) => redis.publish(entries).await,
        }
    }

    /// Tells every replica of the gate that what it knows of a session is old.
    pub async fn publish_change(&self, handle: Handle) -> Result<(), StoreError> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Redis(redis) => redis.publish_change(handle).await,
        }
    }
}
