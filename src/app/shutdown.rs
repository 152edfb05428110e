//! A running gate and its shutdown, in phases: draining, closing, drained, forced, joined.
//!
//! `stop` runs on one thread and waits at each phase for its timeout, for the workers, or for the next phase, whichever
//! comes first. A `ShutdownHandle` (second signal) or the control socket may move the phase from other threads at any
//! time; phases only move forward (`base::lifecycle`), so a phase that came early only shortens the wait.
//!
//! The order at the end matters. Workers and background threads end before the audit writer closes, so that every
//! record that was accepted is written. Socket files go last: `cedargate drain --wait` takes a removed control socket
//! as the end.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Addresses;
use crate::audit::{AdminAct, AdminEvent, AuditWriter, Event};
use crate::base::lifecycle::{Shutdown, ShutdownTrigger};
use crate::gate::Gate;
use crate::http::listener::SocketFile;
use crate::reload::ReloadRequests;
use crate::session::Sessions;

/// Longest wait for threads to end after the shutdown was forced; the process ends without a thread that takes longer.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the admin listener to answer the requests that waited for the end of the drain.
const ANSWER_DRAINED_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause between two looks at a condition that a phase waits for.
const WAIT_POLL: Duration = Duration::from_millis(5);

/// A running gate.
pub struct Running {
    /// The gate's addresses.
    pub addresses: Addresses,
    pub(super) trigger: Arc<ShutdownTrigger>,
    pub(super) shutdown: Shutdown,
    pub(crate) gate: Arc<Gate>,
    pub(super) workers: Vec<JoinHandle<()>>,
    pub(super) background: Vec<JoinHandle<()>>,
    pub(super) reload_requests: ReloadRequests,
    pub(super) audit: AuditWriter,
    pub(super) files: Vec<SocketFile>,
}

/// Moves a gate's shutdown forward while another thread waits in `Running::stop`.
#[derive(Clone)]
pub struct ShutdownHandle(Arc<ShutdownTrigger>);

impl ShutdownHandle {
    /// Starts draining: readiness ends, and answers ask clients to leave.
    pub fn drain(&self) {
        self.0.drain();
    }

    /// Starts closing, even before `limits.drain_delay` is over: no new connections.
    pub fn close(&self) {
        self.0.close();
    }

    /// Forces the end: drops every open connection.
    pub fn force(&self) {
        self.0.force();
    }
}

impl Running {
    /// The gate's sessions: `benches/` creates thousands of them without a login each.
    #[doc(hidden)]
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.gate.sessions
    }

    /// Drains for `limits.drain_delay` (new connections are still accepted), closes for at most `limits.drain_timeout`
    /// (requests in flight and session renewals finish, because a rotated refresh token cannot be fetched again),
    /// forces what is left, and returns when every accepted record is written. A `ShutdownHandle` cuts each phase
    /// short.
    pub fn stop(self) {
        let limits = &self.gate.config.limits;
        self.start_draining();
        self.wait(limits.drain_delay.get(), Shutdown::is_closing);
        self.trigger.close();
        self.wait(limits.drain_timeout.get(), Shutdown::is_forced);
        self.trigger.drained();
        self.wait_for_drain_waiters();
        self.trigger.force();
        self.reload_requests.wake();
        // the `conditions` thread ends when the last revision is dropped; both of these hold revisions
        drop(self.reload_requests);
        let tracer = self.gate.tracer.clone();
        drop(self.gate);
        join(self.workers.into_iter().chain(self.background).collect());
        self.audit.close();
        if let Some(tracer) = tracer {
            tracer.flush();
        }
        drop(self.files);
    }

    fn start_draining(&self) {
        self.gate.metrics.draining.set(1);
        self.gate.audit.send(&Event::Admin(AdminEvent {
            event: AdminAct::Draining,
            detail: None,
        }));
        self.trigger.drain();
        self.gate.sessions.stop_renewing();
    }

    /// Waits until the workers ended and no session is being renewed, or the phase is reached, or `timeout` is over.
    fn wait(&self, timeout: Duration, phase_is_reached: impl Fn(&Shutdown) -> bool) {
        let deadline = Instant::now() + timeout;
        let is_idle = || self.workers.iter().all(JoinHandle::is_finished) && self.gate.sessions.has_renewed();
        while Instant::now() < deadline && !is_idle() && !phase_is_reached(&self.shutdown) {
            std::thread::park_timeout(WAIT_POLL);
        }
    }

    /// Waits until the admin listener answered the requests to `/drained`. A waiter's place is free just before its
    /// answer is written, so one more pause lets the bytes out.
    fn wait_for_drain_waiters(&self) {
        if !self.shutdown.has_drain_waiters() {
            return;
        }
        let deadline = Instant::now() + ANSWER_DRAINED_TIMEOUT;
        while Instant::now() < deadline && self.shutdown.has_drain_waiters() && !self.shutdown.is_forced() {
            std::thread::park_timeout(WAIT_POLL);
        }
        std::thread::park_timeout(WAIT_POLL);
    }

    /// Makes the reloader read the policy files now, because of SIGHUP; resolves when it has.
    pub(crate) fn reload(&self) -> impl Future<Output = ()> + use<> {
        self.gate.audit.send(&Event::Admin(AdminEvent {
            event: AdminAct::ReloadRequested,
            detail: Some("SIGHUP".to_owned()),
        }));
        let requests = self.reload_requests.clone();
        async move {
            if let Err(error) = requests.reload().await {
                tracing::warn!(%error, "the reload that SIGHUP asked for did not finish");
            }
        }
    }

    /// A handle that moves the shutdown forward from another thread.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        ShutdownHandle(Arc::clone(&self.trigger))
    }

    /// Resolves once draining began: through the control socket or a `ShutdownHandle`.
    pub fn draining(&self) -> impl Future<Output = ()> + use<> {
        let mut shutdown = self.shutdown.clone();
        async move { shutdown.draining().await }
    }
}

/// Joins the threads that end in time; a stuck thread must not keep the process.
fn join(threads: Vec<JoinHandle<()>>) {
    let deadline = Instant::now() + JOIN_TIMEOUT;
    while Instant::now() < deadline && !threads.iter().all(JoinHandle::is_finished) {
        std::thread::park_timeout(WAIT_POLL);
    }
    for thread in threads {
        let name = thread.thread().name().unwrap_or_default().to_owned();
        if !thread.is_finished() {
            tracing::error!(thread = name, "a thread did not end; the process ends without it");
        } else if thread.join().is_err() {
            tracing::error!(thread = name, "a thread ended in a panic");
        }
    }
}
