//! A gate that runs, and how it leaves: draining, closing, forced, gone.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Addresses;
use crate::audit::{AdminEvent, AuditWriter, Event};
use crate::base::lifecycle::{Shutdown, ShutdownTrigger};
use crate::gate::Gate;
use crate::http::listener::SocketFile;
use crate::reload::Asks;
use crate::session::Sessions;

/// How long threads may take to notice that everything was forced to end; past it the process goes without them.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often leaving looks whether what it waits for has come.
const WAIT_POLL: Duration = Duration::from_millis(5);

/// A running gate.
pub struct Running {
    /// Where it listens.
    pub addresses: Addresses,
    pub(super) trigger: Arc<ShutdownTrigger>,
    pub(super) shutdown: Shutdown,
    pub(crate) gate: Arc<Gate>,
    pub(super) workers: Vec<JoinHandle<()>>,
    pub(super) background: Vec<JoinHandle<()>>,
    pub(super) reloader: Asks,
    pub(super) audit: AuditWriter,
    /// Removed last: who waits for the gate to be gone looks at the control socket's file.
    pub(super) files: Vec<SocketFile>,
}

/// Moves a gate's end along, from another thread than the one that waits for it.
#[derive(Clone)]
pub struct Ending(Arc<ShutdownTrigger>);

impl Ending {
    /// Not ready any more; whoever is answered is asked to leave.
    pub fn drain(&self) {
        self.0.drain();
    }

    /// No new connections from now on, whatever is left of `limits.drain_delay`.
    pub fn close(&self) {
        self.0.close();
    }

    /// What is in flight is dropped.
    pub fn force(&self) {
        self.0.force();
    }
}

impl Running {
    /// Takes new connections for `limits.drain_delay` more, lets what is in flight finish until `limits.drain_timeout`
    /// (sessions that are being renewed, too: a refresh token that rotated cannot be had twice), then returns with every accepted record written. `Ending` cuts each of these short.
    pub fn stop(self) {
        self.gate.metrics.draining.set(1);
        self.gate.audit.send(Event::Admin(AdminEvent {
            event: "draining",
            detail: None,
        }));
        self.trigger.drain();
        self.gate.sessions.stop_renewing();
        let limits = &self.gate.config.limits;
        self.wait(limits.drain_delay, Shutdown::is_closing);
        self.trigger.close();
        self.wait(limits.drain_timeout, Shutdown::is_forced);
        self.trigger.force();
        self.reloader.wake();
        // the twin maker ends when the last revision is gone, and these are ways to hold one
        drop((self.gate, self.reloader));
        join(self.workers.into_iter().chain(self.background).collect());
        self.audit.close();
        drop(self.files);
    }

    /// Until the workers have ended and no session is being renewed, or the end has come so far, at most so long.
    fn wait(&self, at_most: Duration, far_enough: impl Fn(&Shutdown) -> bool) {
        let deadline = Instant::now() + at_most;
        let ended = || self.workers.iter().all(JoinHandle::is_finished) && self.gate.sessions.has_renewed();
        while Instant::now() < deadline && !ended() && !far_enough(&self.shutdown) {
            std::thread::park_timeout(WAIT_POLL);
        }
    }

    /// The gate's sessions: `benches/` creates thousands of them without a login each.
    #[doc(hidden)]
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.gate.sessions
    }

    /// A handle on the end, for another thread.
    pub fn ending(&self) -> Ending {
        Ending(Arc::clone(&self.trigger))
    }

    /// Resolves once somebody asked the gate to leave: through the control socket, or an `Ending`.
    pub fn asked_to_leave(&self) -> impl Future<Output = ()> + use<> {
        let mut shutdown = self.shutdown.clone();
        async move { shutdown.draining().await }
    }
}

/// A thread that is stuck must not keep the process.
fn join(mut threads: Vec<JoinHandle<()>>) {
    let deadline = Instant::now() + JOIN_TIMEOUT;
    while Instant::now() < deadline && !threads.iter().all(JoinHandle::is_finished) {
        std::thread::park_timeout(WAIT_POLL);
    }
    for thread in threads.drain(..) {
        let name = thread.thread().name().unwrap_or_default().to_owned();
        if !thread.is_finished() {
            tracing::error!(thread = name, "a thread did not end; leaving without it");
        } else if thread.join().is_err() {
            tracing::error!(thread = name, "a thread ended in a panic");
        }
    }
}
