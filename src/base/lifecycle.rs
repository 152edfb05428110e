//! When the gate is ready, when it stops taking work, and when it stops waiting for it.
//!
//! Foundation. Shutdown has three moments: *draining* (readiness is gone, answers ask clients to leave, new connections
//! are still taken until balancers have noticed), *closing* (no new connections, in-flight requests finish) and *forced*
//! (what is still open is dropped). They only ever move forward, whoever moves them: a signal, the control socket, a
//! deadline. Readiness is a set of named blockers, so that a
//! gate that is not ready says what it waits for. Nothing here decides anything about a request.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
#[cfg(test)]
use std::time::Duration;

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Phase {
    Running,
    Draining,
    Closing,
    Forced,
}

/// The end that starts a shutdown. Dropping it without a drain counts as forced: nobody is left to wait for.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<Phase>);

/// The end that is told; cheap to clone, one per task.
#[derive(Clone, Debug)]
pub struct Shutdown {
    receiver: watch::Receiver<Phase>,
    /// What this end takes for draining.
    from: Phase,
}

pub fn shutdown() -> (ShutdownTrigger, Shutdown) {
    let (sender, receiver) = watch::channel(Phase::Running);
    (
        ShutdownTrigger(sender),
        Shutdown {
            receiver,
            from: Phase::Draining,
        },
    )
}

impl ShutdownTrigger {
    /// Not ready any more; clients are asked to leave.
    pub fn drain(&self) {
        self.advance(Phase::Draining);
    }

    /// No new connections from here on.
    pub fn close(&self) {
        self.advance(Phase::Closing);
    }

    /// Everything still open ends now.
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
    /// A view that skips draining: told of nothing before the end. For what must answer while the rest drains.
    pub fn after_draining(&self) -> Self {
        Self {
            receiver: self.receiver.clone(),
            from: Phase::Forced,
        }
    }

    pub fn is_draining(&self) -> bool {
        *self.receiver.borrow() >= self.from
    }

    pub fn is_closing(&self) -> bool {
        *self.receiver.borrow() >= self.from.max(Phase::Closing)
    }

    pub fn is_forced(&self) -> bool {
        *self.receiver.borrow() == Phase::Forced
    }

    /// Resolves once draining (or worse) began.
    pub async fn draining(&mut self) {
        self.reached(self.from).await;
    }

    /// Resolves once no new work may begin.
    pub async fn closing(&mut self) {
        self.reached(self.from.max(Phase::Closing)).await;
    }

    /// Resolves once in-flight work must end.
    pub async fn forced(&mut self) {
        self.reached(Phase::Forced).await;
    }

    async fn reached(&mut self, phase: Phase) {
        // An error means the trigger is gone, which is as good as forced.
        let _gone = self.receiver.wait_for(|now| *now >= phase).await.is_err();
    }
}

/// What `/readyz` asks: ready when no blocker is left.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<String>>>);

/// One thing that must happen before the gate is ready. Dropped without `done`, it keeps blocking: a task that
/// died has not finished.
#[derive(Debug)]
pub struct Blocker {
    readiness: Readiness,
    name: String,
}

impl Readiness {
    pub fn block(&self, name: impl Into<String>) -> Blocker {
        let name = name.into();
        self.names().insert(name.clone());
        Blocker {
            readiness: self.clone(),
            name,
        }
    }

    pub fn is_ready(&self) -> bool {
        self.names().is_empty()
    }

    /// In alphabetical order; empty when ready.
    pub fn pending(&self) -> Vec<String> {
        self.names().iter().cloned().collect()
    }

    // A set of names has no state that a panic could leave half-written.
    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blocker {
    pub fn done(self) {
        self.readiness.names().remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_what_is_pending_and_a_dropped_blocker_keeps_blocking() {
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
    async fn drain_is_followed_by_force_at_the_deadline() {
        let (trigger, mut told) = shutdown();
        assert!(!told.is_draining());
        let start = std::time::Instant::now();
        let waiting = tokio::spawn(async move {
            told.draining().await;
            let drained = start.elapsed();
            told.forced().await;
            (drained, start.elapsed())
        });
        tokio::task::yield_now().await;
        trigger.drain_then_force(Duration::from_millis(80)).await;
        let (drained, forced) = waiting.await.unwrap();
        assert!(drained < forced);
        assert!(forced >= Duration::from_millis(80));
    }

    #[test]
    fn each_phase_is_told_from_the_next_and_some_are_told_of_the_end_only() {
        let (trigger, told) = shutdown();
        let last = told.after_draining();
        let phases = |end: &Shutdown| [end.is_draining(), end.is_closing(), end.is_forced()];
        for (step, expected, expected_last) in [
            (None, [false; 3], [false; 3]),
            (
                Some(ShutdownTrigger::drain as fn(&ShutdownTrigger)),
                [true, false, false],
                [false; 3],
            ),
            (Some(ShutdownTrigger::close), [true, true, false], [false; 3]),
            (Some(ShutdownTrigger::drain), [true, true, false], [false; 3]),
            (Some(ShutdownTrigger::force), [true; 3], [true; 3]),
        ] {
            if let Some(step) = step {
                step(&trigger);
            }
            assert_eq!((phases(&told), phases(&last)), (expected, expected_last));
        }
    }

    #[tokio::test]
    async fn a_phase_never_goes_back() {
        let (trigger, mut told) = shutdown();
        trigger.force();
        trigger.drain();
        told.forced().await;
        assert!(told.is_draining());
    }
}
