//! The background threads: everything that serves no traffic.
//!
//! - `reload` loads the policies once before traffic, then watches them (`reload`).
//! - `emergency` takes emergency forbids into force apart from `reload` (`reload/emergency`).
//! - `shadow` decides by candidate sets after the answer (`gate/shadow`).
//! - `conditions` prepares policies for cheap evaluation after their first use.
//! - `operations` has a runtime for the admin listener, the control socket and periodic work: keys, certificates,
//!   assertion keys, users files, shared rates, expired rate-limit counters, the look for an app that is reachable
//!   around the gate.
//! - `sessions` has a runtime for sessions and logins. They run apart from `operations` so that a slow session store or
//!   identity provider delays no probe.
//!
//! `operations` and `sessions` run until the shutdown is forced: probes must see that the gate drains, and renewals
//! that a client began must finish.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use cedargate_policy::engine::MatchSet;
use tokio::task::spawn_local;
use tokio_util::sync::CancellationToken;

use super::bind::{Addresses, OperationsListeners};
use super::build::BackgroundParts;
use super::{SWEEP_INTERVAL, StartError, assertion_keys, listener_context, local_thread, runtime_builder, shared_rates, thread};
use crate::base::lifecycle::{Blocker, Shutdown};
use crate::base::priority;
use crate::bundle_follower::BundleFollower;
use crate::doors::admin::Admin;
use crate::doors::control::Control;
use crate::exposure::ExposureWatch;
use crate::gate::Gate;
use crate::http::listener::{ClientConnection, ConnectionCount, Socket, serve};
use crate::http::tls::{CertificateWatcher, Certificates};
use crate::reload::Reloader;

pub(super) struct Background {
    pub threads: Vec<JoinHandle<()>>,
    first_load: Receiver<()>,
}

/// The `operations` thread before it starts.
struct Operations {
    gate: Arc<Gate>,
    admin: Arc<Admin>,
    control: Control,
    bundle: Option<Arc<BundleFollower>>,
    certificates: CertificateWatcher,
    shutdown: Shutdown,
    exposure: Option<ExposureWatch>,
}

impl Background {
    pub fn spawn(
        parts: BackgroundParts,
        certificates: Vec<Certificates>,
        listeners: OperationsListeners,
        addresses: &Addresses,
    ) -> Result<Self, StartError> {
        let gate = parts.gate;
        let exposure = parts.admin.exposure.clone();
        let match_sets = parts.match_sets;
        let shadow = parts.shadow;
        let operations = Operations {
            certificates: CertificateWatcher {
                certificates,
                poll: gate.config.policies.poll.get(),
                metrics: gate.metrics.clone(),
                audit: gate.audit.clone(),
                reloads: gate.reloads.clone(),
            },
            admin: parts.admin,
            control: parts.control,
            bundle: parts.bundle,
            shutdown: parts.shutdown.clone(),
            exposure: ExposureWatch::new(&gate.config, addresses.tcp(), exposure, gate.metrics.clone()),
            gate: Arc::clone(&gate),
        };
        let (loaded, first_load) = sync_channel(1);
        let reload = Reload {
            reloader: parts.reloader,
            blocker: parts.first_load,
            loaded,
            shutdown: parts.shutdown.clone(),
        };
        let mut threads = vec![
            thread("shadow", move || shadow.run())?,
            thread("conditions", move || prepare_conditions(&match_sets))?,
            spawn_sessions(&gate, parts.shutdown.clone())?,
            operations.spawn(listeners)?,
            thread("reload", move || reload.run())?,
        ];
        if let Some(emergency) = parts.emergency {
            let shutdown = parts.shutdown.clone();
            threads.push(thread("emergency", move || emergency.run(&shutdown))?);
        }
        Ok(Self { threads, first_load })
    }

    /// Blocks until the `reload` thread tried to load every portal.
    pub fn wait_for_first_load(&self) -> Result<(), StartError> {
        self.first_load.recv().map_err(|_thread_ended| StartError::Loading)
    }
}

/// The `reload` thread before it starts.
struct Reload {
    reloader: Reloader,
    blocker: Blocker,
    loaded: SyncSender<()>,
    shutdown: Shutdown,
}

impl Reload {
    fn run(mut self) {
        self.reloader.first_load();
        self.blocker.done();
        // fails only if `start` gave up meanwhile
        let _start_failed = self.loaded.send(()).is_err();
        // only now: during the first load there is no traffic to make way for
        priority::lower();
        self.reloader.run(&self.shutdown);
    }
}

/// Ends when the last revision is dropped, because each revision's engine holds a sender.
fn prepare_conditions(match_sets: &Receiver<Weak<MatchSet>>) {
    priority::lower();
    while let Ok(match_set) = match_sets.recv() {
        if let Some(match_set) = match_set.upgrade() {
            match_set.make_condition_only();
        }
    }
}

fn spawn_sessions(gate: &Arc<Gate>, mut shutdown: Shutdown) -> Result<JoinHandle<()>, StartError> {
    let runtime = runtime_builder().build()?;
    let sessions = Arc::clone(&gate.sessions);
    let login = Arc::clone(&gate.login);
    let run = async move {
        let stop = CancellationToken::new();
        let stop_when_forced = async {
            shutdown.forced().await;
            stop.cancel();
        };
        tokio::join!(stop_when_forced, sessions.run(stop.clone()), login.run(stop.clone()));
    };
    Ok(thread("sessions", move || runtime.block_on(run))?)
}

impl Operations {
    fn spawn(self, listeners: OperationsListeners) -> Result<JoinHandle<()>, StartError> {
        Ok(local_thread("operations", move || self.run(listeners))?)
    }

    async fn run(self, listeners: OperationsListeners) {
        let Self { gate, mut shutdown, .. } = self;
        let stop = CancellationToken::new();
        // stop on request, and are waited for: one of them may be writing
        let stoppable = [
            spawn_local(Arc::clone(&gate.authn).run(stop.clone())),
            spawn_local(self.certificates.run(stop.clone())),
            spawn_local(assertion_keys::watch(Arc::clone(&gate), stop.clone())),
            spawn_local(Arc::clone(&gate.identity.accounts).run(stop.clone())),
        ];
        if let Some(follower) = self.bundle {
            spawn_local(follower.run(stop.clone()));
        }
        spawn_local(shared_rates::run(Arc::clone(&gate), stop.clone()));
        spawn_local(sweep(Arc::clone(&gate)));
        if let Some(exposure) = self.exposure {
            spawn_local(exposure.run(stop.clone()));
        }
        if let Some(listener) = listeners.admin {
            spawn_local(serve_admin(self.admin, listener, shutdown.forced_only()));
        }
        if let Some(listener) = listeners.control {
            spawn_local(serve_control(self.control, listener, shutdown.forced_only()));
        }
        shutdown.forced().await;
        stop.cancel();
        for task in stoppable {
            let _panicked = task.await.is_err();
        }
    }
}

async fn sweep(gate: Arc<Gate>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        gate.limits.sweep();
    }
}

async fn serve_admin(admin: Arc<Admin>, listener: TcpListener, shutdown: Shutdown) {
    let max = admin.gate.config.limits.admin_connections.as_usize();
    let context = listener_context(&admin.gate, ConnectionCount::new("limits.admin_connections", max));
    let handler = move |request, _| {
        let door = Arc::clone(&admin);
        async move { door.handle(request).await }
    };
    match Socket::tcp(listener) {
        Ok(socket) => serve(socket, Rc::new(context), shutdown, handler).await,
        Err(error) => tracing::error!(%error, "the admin listener cannot listen"),
    }
}

async fn serve_control(control: Control, listener: UnixListener, shutdown: Shutdown) {
    let max = control.gate.config.limits.control_connections.as_usize();
    let context = listener_context(&control.gate, ConnectionCount::new("limits.control_connections", max));
    let door = Rc::new(control);
    let handler = move |request, connection: Rc<ClientConnection>| {
        let door = Rc::clone(&door);
        let operator = connection.peer.user_id();
        async move { door.handle(request, operator).await }
    };
    match Socket::unix(listener) {
        Ok(socket) => serve(socket, Rc::new(context), shutdown, handler).await,
        Err(error) => tracing::error!(%error, "the control socket cannot listen"),
    }
}
