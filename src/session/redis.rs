//! The store in Redis.
use super::StoreError;
use super::cache::Cache;
use super::feed::{Entry, Feed};
use super::record::Handle;
use super::store::{Replicated, Swap};
use std::time::Duration;
pub struct Redis {}
fn no<T>() -> Result<T, StoreError> {
    Err(StoreError::Unreachable("not connected yet".to_owned()))
}
#[expect(clippy::unused_async, reason = "not there yet")]
impl Redis {
    pub fn new(_c: &crate::config::Redis) -> Self {
        Self {}
    }
    pub async fn follow(&self, _f: &Feed, _c: &Cache) {
        std::future::pending().await
    }
    pub fn is_connected(&self) -> bool {
        false
    }
    pub fn last_error(&self) -> Option<String> {
        None
    }
    pub async fn read(&self, _k: &str) -> Result<Option<Vec<u8>>, StoreError> {
        no()
    }
    pub async fn write(&self, _k: &str, _v: &[u8], _t: Duration) -> Result<(), StoreError> {
        no()
    }
    pub async fn write_durably(&self, _k: &str, _v: &[u8], _t: Duration) -> Result<Replicated, StoreError> {
        no()
    }
    pub async fn write_first(&self, _k: &str, _v: &[u8], _t: Duration) -> Result<bool, StoreError> {
        no()
    }
    pub async fn swap(&self, _k: &str, _o: &[u8], _n: &[u8], _t: Duration) -> Result<Swap, StoreError> {
        no()
    }
    pub async fn remove(&self, _k: &str) -> Result<(), StoreError> {
        no()
    }
    pub async fn count(&self, _k: &str, _t: Duration) -> Result<u64, StoreError> {
        no()
    }
    pub async fn scan(&self, _p: &str, _l: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        no()
    }
    pub async fn now(&self) -> Option<i64> {
        None
    }
    pub async fn publish(&self, _e: &[Entry]) -> Result<Replicated, StoreError> {
        no()
    }
    pub async fn publish_change(&self, _h: Handle) -> Result<(), StoreError> {
        no()
    }
}
