//! The renewals that run in this process: one per session; every other request of that session waits for its result.
//!
//! Requests of all workers race to start a renewal. `join_or_start` decides under one lock: the first request of a
//! session inserts a receiver and gets the sender, every later request gets a copy of the receiver. `close` sets its
//! flag first, and `join_or_start` reads it under the lock; so after `close` a caller that then sees `is_idle` knows
//! that no renewal will run. The guard removes the entry however the renewal ends, also by a panic; then the sender is
//! dropped and the waiting requests go on with the session as it was. While `RENEWALS_MAX` renewals run, further
//! sessions are not renewed and go on as they are.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::session::record::{Handle, Session};
use crate::session::{SessionError, Sessions};

/// Maximum number of renewals at once.
const RENEWALS_MAX: usize = 10_000;
/// Interval at which `idle` checks for running renewals.
const IDLE_CHECK: Duration = Duration::from_millis(50);

/// `None` until the renewal has a result.
type RenewalResult = Option<Result<Arc<Session>, SessionError>>;
pub type ResultReceiver = watch::Receiver<RenewalResult>;
pub type ResultSender = watch::Sender<RenewalResult>;

pub struct Renewals {
    running: Mutex<HashMap<Handle, ResultReceiver>>,
    /// Sessions that are not renewed before a time. Bounded; a dropped entry costs one early try.
    paused: Cache<[u8; 32], Instant>,
    /// The gate is ending: running renewals finish, none starts.
    is_closed: AtomicBool,
}

/// The answer of `join` and `join_or_start`.
pub enum Join {
    /// A renewal is running: wait for its result.
    Wait(ResultReceiver),
    /// The caller must renew and send the result.
    Start(ResultSender),
    /// No renewal now: the session stays as it is.
    Skip,
}

/// Removes the entry of a running renewal when it drops.
pub struct RenewalGuard {
    pub sessions: Arc<Sessions>,
    pub handle: Handle,
}

impl Drop for RenewalGuard {
    fn drop(&mut self) {
        self.sessions.renewals.running.lock().remove(&self.handle);
    }
}

impl Default for Renewals {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
            paused: Cache::new(RENEWALS_MAX),
            is_closed: AtomicBool::new(false),
        }
    }
}

impl Renewals {
    /// Joins the running renewal of a session; skips if there is none.
    pub fn join(&self, handle: Handle) -> Join {
        let running = self.running.lock();
        running
            .get(&handle)
            .map_or(Join::Skip, |receiver| Join::Wait(receiver.clone()))
    }

    /// Joins the running renewal of a session, or starts one.
    pub fn join_or_start(&self, handle: Handle) -> Join {
        let mut running = self.running.lock();
        if let Some(receiver) = running.get(&handle) {
            return Join::Wait(receiver.clone());
        }
        let is_paused = self.paused.get(&handle.0).is_some_and(|until| Instant::now() < until);
        // under the lock: after `close`, `is_idle` sees every renewal that started before
        if is_paused || self.is_closed() || running.len() >= RENEWALS_MAX {
            return Join::Skip;
        }
        let sender = ResultSender::new(None);
        running.insert(handle, sender.subscribe());
        Join::Start(sender)
    }

    /// Starts no renewal of this session for `duration`.
    pub fn pause(&self, handle: Handle, duration: Duration) {
        self.paused.insert(handle.0, Instant::now() + duration);
    }

    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    pub fn is_idle(&self) -> bool {
        self.running.lock().is_empty()
    }

    /// Waits until no renewal is running.
    pub async fn idle(&self) {
        while !self.is_idle() {
            sleep(IDLE_CHECK).await;
        }
    }
}
