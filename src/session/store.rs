//! The store of sealed values: in this process, or in Redis.
//!
//! It knows keys, bytes and times to live; `Sessions` knows their meaning. Every function returns the store's answer or
//! a `StoreError`.

pub(super) mod memory;
pub(super) mod redis;

use std::time::Duration;

use self::memory::MemoryStore;
use self::redis::RedisStore;
use super::StoreError;
use super::record::Handle;
use super::revocations::log::RevocationEntry;
use super::store_outcome::{Replicated, Swap, number};

pub enum Store {
    Memory(MemoryStore),
    Redis(Box<RedisStore>),
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

    /// Writes, and returns once a replica has it, if the store has replicas.
    pub async fn write_durably(&self, key: &str, value: Vec<u8>, ttl: Duration) -> Result<Replicated, StoreError> {
        match self {
            Self::Memory(memory) => memory.write(key, value, ttl).map(|()| None),
            Self::Redis(redis) => redis.write_durably(key, &value, ttl).await,
        }
    }

    /// Writes only if there is no value; returns true if it wrote.
    pub async fn write_first(&self, key: &str, value: Vec<u8>, ttl: Duration) -> Result<bool, StoreError> {
        match self {
            Self::Memory(memory) => memory.write_first(key, value, ttl),
            Self::Redis(redis) => redis.write_first(key, &value, ttl).await,
        }
    }

    /// Writes only if the value still is `old`.
    pub async fn swap(&self, key: &str, old: &[u8], new: Vec<u8>, ttl: Duration) -> Result<Swap, StoreError> {
        match self {
            Self::Memory(memory) => Ok(memory.swap(key, old, new, ttl)),
            Self::Redis(redis) => redis.swap(key, old, &new, ttl).await,
        }
    }

    /// Removes the value only if it still is `old`.
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

    /// Adds to a counter and returns the sum. The time to live begins with the first increment.
    pub async fn count(&self, key: &str, by: u64, ttl: Duration) -> Result<u64, StoreError> {
        match self {
            Self::Memory(memory) => memory.count(key, by, ttl),
            Self::Redis(redis) => redis.count(key, by, ttl).await,
        }
    }

    pub async fn counted(&self, key: &str) -> Result<u64, StoreError> {
        Ok(self.read(key).await?.map_or(0, |value| number(&value)))
    }

    /// Returns keys that begin with `prefix` with their values, at most `limit`, in no order.
    pub async fn scan(&self, prefix: &str, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        match self {
            Self::Memory(memory) => Ok(memory.scan(prefix, limit)),
            Self::Redis(redis) => redis.scan(prefix, limit).await,
        }
    }

    /// Unix milliseconds of the store's clock; `None` if it has no clock of its own or does not answer.
    pub async fn now(&self) -> Option<i64> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(redis) => redis.now().await,
        }
    }

    /// Publishes revocations to every replica of the gate; returns once a replica of the store has them, if there is
    /// one.
    pub async fn publish(&self, entries: &[RevocationEntry]) -> Result<Replicated, StoreError> {
        match self {
            Self::Memory(_) => Ok(None),
            Self::Redis(redis) => redis.publish(entries).await,
        }
    }

    /// Publishes revocations as soon as the store takes them.
    pub fn publish_later(&self, entries: &[RevocationEntry]) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(redis) => redis.publish_later(entries),
        }
    }

    /// Makes every replica of the gate drop the session from its cache.
    pub async fn publish_change(&self, handle: Handle) -> Result<(), StoreError> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Redis(redis) => redis.publish_change(handle).await,
        }
    }
}
