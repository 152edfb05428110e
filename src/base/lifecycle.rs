//! Readiness and shutdown: the two states of the process that every listener and task reads.
//!
//! Shutdown has four phases after *running*. *Draining*: readiness is gone, answers ask clients to leave, listeners
//! still accept until load balancers have noticed. *Closing*: listeners accept nothing new, requests in flight finish.
//! *Drained*: they have finished, or their time is over; the app may end. *Forced*: what is still open is dropped.
//!
//! A signal, the control socket and a deadline may move the phase at the same time. The phase is one `watch` value that
//! `advance` only raises, so a late `drain` never undoes a `force`, and every reader sees each phase it has reached. A
//! dropped trigger counts as *forced*: tasks end instead of waiting for a signal that cannot come.
//!
//! Readiness is a set of named blockers, so that a gate that is not ready names the steps it waits for.

use std::collections::BTreeSet;
use std::sync::Arc;

#[cfg(test)]
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Phase {
    Running,
    Draining,
    Closing,
    Drained,
    Forced,
}

/// Requests on the admin listener that may wait for the end of a drain at the same time: one for each container of the
/// pod.
const DRAIN_WAITERS_MAX: usize = 8;

/// Requests that wait for the end of a drain. The process gives them time to be answered before it ends.
#[derive(Clone, Debug)]
struct DrainWaiters(Arc<Semaphore>);

/// The place of one such request; free again when it is dropped.
#[derive(Debug)]
pub struct DrainWaiter {
    _permit: OwnedSemaphorePermit,
}

/// The writing end: moves the phase forward. Dropping it counts as *forced* for every reader.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<Phase>);

/// The reading end; cheap to clone, one per task.
#[derive(Clone, Debug)]
pub struct Shutdown {
    receiver: watch::Receiver<Phase>,
    /// The first phase that this end reports; earlier phases look like *running*.
    first: Phase,
    drain_waiters: DrainWaiters,
}

/// A trigger and a reader of its phase.
pub fn shutdown() -> (ShutdownTrigger, Shutdown) {
    let (sender, receiver) = watch::channel(Phase::Running);
    (
        ShutdownTrigger(sender),
        Shutdown {
            receiver,
            first: Phase::Draining,
            drain_waiters: DrainWaiters(Arc::new(Semaphore::new(DRAIN_WAITERS_MAX))),
        },
    )
}

impl ShutdownTrigger {
    /// Starts draining: the gate is not ready any more, and answers ask clients to leave.
    pub fn drain(&self) {
        self.advance(Phase::Draining);
    }

    /// Starts closing: listeners accept no new connection.
    pub fn close(&self) {
        self.advance(Phase::Closing);
    }

    /// Says that every request was answered, or that its time is over.
    pub fn drained(&self) {
        self.advance(Phase::Drained);
    }

    /// Forces the end: tasks drop every open connection.
    pub fn force(&self) {
        self.advance(Phase::Forced);
    }

    /// Drains, then forces after `limits.drain_timeout` unless every `Shutdown` was dropped before.
    #[cfg(test)]
    pub async fn drain_then_force(&self, timeout: Duration) {
        self.drain();
        if tokio::time::timeout(timeout, self.0.closed()).await.is_err() {
            self.force();
        }
    }

    fn advance(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let forward = to > *phase;
            if forward {
                *phase = to;
            }
            forward
        });
    }
}

impl Shutdown {
    /// A reader that reports only *forced*, for listeners that must answer while the rest drains: admin, control,
    /// reload.
    pub fn forced_only(&self) -> Self {
        Self {
            receiver: self.receiver.clone(),
            first: Phase::Forced,
            drain_waiters: self.drain_waiters.clone(),
        }
    }

    /// True from *draining* on.
    pub fn is_draining(&self) -> bool {
        *self.receiver.borrow() >= self.first
    }

    /// True from *closing* on.
    pub fn is_closing(&self) -> bool {
        *self.receiver.borrow() >= self.first.max(Phase::Closing)
    }

    /// True once *forced*.
    pub fn is_forced(&self) -> bool {
        *self.receiver.borrow() == Phase::Forced
    }

    /// Resolves once draining, or a later phase, began.
    pub async fn draining(&mut self) {
        self.reached(self.first).await;
    }

    /// Resolves once no new connection may be accepted.
    pub async fn closing(&mut self) {
        self.reached(self.first.max(Phase::Closing)).await;
    }

    /// Resolves once every request was answered, or its time is over.
    pub async fn drained(&mut self) {
        self.reached(Phase::Drained).await;
    }

    /// The place of one more request that waits for the end of the drain; `None` if `DRAIN_WAITERS_MAX` wait.
    pub fn drain_waiter(&self) -> Option<DrainWaiter> {
        let permit = Arc::clone(&self.drain_waiters.0).try_acquire_owned().ok()?;
        Some(DrainWaiter { _permit: permit })
    }

    /// True if a request waits for the end of the drain.
    pub fn has_drain_waiters(&self) -> bool {
        self.drain_waiters.0.available_permits() < DRAIN_WAITERS_MAX
    }

    /// Resolves once requests in flight must end.
    pub async fn forced(&mut self) {
        self.reached(Phase::Forced).await;
    }

    async fn reached(&mut self, phase: Phase) {
        // an error means that the trigger was dropped, which counts as forced
        let changed = self.receiver.wait_for(|now| *now >= phase);
        // a busy peer must not hide the phase, see `base::deadline`
        let _dropped = tokio::task::unconstrained(changed).await.is_err();
    }
}

/// The blockers that `/readyz` reports; the gate is ready when none is left.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<String>>>);

/// One step that must finish before the gate is ready. Dropped without `done`, it keeps blocking: a task that ended in
/// a panic has not finished its step.
#[derive(Debug)]
pub struct Blocker {
    readiness: Readiness,
    name: String,
}

impl Readiness {
    /// Adds a blocker.
    pub fn block(&self, name: impl Into<String>) -> Blocker {
        let name = name.into();
        self.0.lock().insert(name.clone());
        Blocker {
            readiness: self.clone(),
            name,
        }
    }

    /// True if no blocker is left.
    pub fn is_ready(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Names of the remaining blockers in alphabetical order; empty when ready.
    pub fn pending(&self) -> Vec<String> {
        self.0.lock().iter().cloned().collect()
    }
}

impl Blocker {
    /// Takes the blocker out of the set.
    pub fn done(self) {
        self.readiness.0.lock().remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_its_blockers_and_a_dropped_blocker_keeps_blocking() {
        let readiness = Readiness::default();
        let policies = readiness.block("policies");
        let keys = readiness.block("jwks corp");
        assert_eq!(readiness.pending(), ["jwks corp", "policies"]);
        policies.done();
        drop(keys);
        assert!(!readiness.is_ready());
        assert_eq!(readiness.pending(), ["jwks corp"]);
    }

    #[tokio::test]
    async fn trigger_forces_the_end_at_the_deadline_after_draining() {
        let (trigger, mut shutdown) = shutdown();
        assert!(!shutdown.is_draining());
        let start = std::time::Instant::now();
        let waiting = tokio::spawn(async move {
            shutdown.draining().await;
            let drained = start.elapsed();
            shutdown.forced().await;
            (drained, start.elapsed())
        });
        tokio::task::yield_now().await;
        trigger.drain_then_force(Duration::from_millis(80)).await;
        let (drained, forced) = waiting.await.unwrap();
        assert!(drained < forced);
        assert!(forced >= Duration::from_millis(80));
    }

    #[test]
    fn reader_sees_every_phase_and_forced_only_reader_sees_the_last() {
        let (trigger, shutdown) = shutdown();
        let forced_only = shutdown.forced_only();
        let phases = |end: &Shutdown| [end.is_draining(), end.is_closing(), end.is_forced()];
        for (step, expected, expected_forced_only) in [
            (None, [false; 3], [false; 3]),
            (
                Some(ShutdownTrigger::drain as fn(&ShutdownTrigger)),
                [true, false, false],
                [false; 3],
            ),
            (Some(ShutdownTrigger::close), [true, true, false], [false; 3]),
            (Some(ShutdownTrigger::drain), [true, true, false], [false; 3]),
            (Some(ShutdownTrigger::drained), [true, true, false], [false; 3]),
            (Some(ShutdownTrigger::force), [true; 3], [true; 3]),
        ] {
            if let Some(step) = step {
                step(&trigger);
            }
            assert_eq!((phases(&shutdown), phases(&forced_only)), (expected, expected_forced_only));
        }
    }

    #[tokio::test]
    async fn drain_after_force_leaves_the_phase_forced() {
        let (trigger, mut shutdown) = shutdown();
        trigger.force();
        trigger.drain();
        shutdown.forced().await;
        assert!(shutdown.is_draining());
    }
}
