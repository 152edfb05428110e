//! Everything that is not traffic and needs a runtime, on one thread: keys, certificates, the admin listener, the
//! control socket, telling other replicas who asked how often, and forgetting it. Sessions and logins have a thread of
//! their own: what a client began there goes on without it, and a slow store delays no probe.

use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use super::{SWEEP_INTERVAL, StartError, front, runtime, shared_rates, thread};
use crate::audit::{AdminEvent, Event};
use crate::base::lifecycle::Shutdown;
use crate::doors::admin::Admin;
use crate::doors::control::Control;
use crate::gate::Gate;
use crate::http::listener::{ConnectionCount, Socket, serve};
use crate::http::tls::Watcher;

/// Connections of the admin listener, apart from `limits.connections`: probes must get through under load.
const ADMIN_CONNECTIONS: usize = 256;
/// Connections of the control socket.
const CONTROL_CONNECTIONS: usize = 16;

/// What runs on the thread.
pub(super) struct Operation {
    pub admin: Admin,
    pub control: Control,
    pub certificates: Watcher,
}

/// Keeps sessions and logins going, on a thread of their own, until everything is forced to end.
fn start_sessions(gate: &Arc<Gate>, mut shutdown: Shutdown) -> Result<JoinHandle<()>, StartError> {
    let runtime = runtime()?;
    let (sessions, login) = (Arc::clone(&gate.sessions), Arc::clone(&gate.login));
    let run = move || {
        runtime.block_on(async move {
            let stop = CancellationToken::new();
            let ending = async {
                shutdown.forced().await;
                stop.cancel();
            };
            tokio::join!(ending, sessions.run(stop.clone()), login.run(stop.clone()));
        });
    };
    Ok(thread("sessions", run)?)
}

impl Operation {
    pub(super) fn start(
        self,
        (admin, control): (Option<std::net::TcpListener>, Option<std::os::unix::net::UnixListener>),
        shutdown: Shutdown,
    ) -> Result<[JoinHandle<()>; 2], StartError> {
        let sessions = start_sessions(&self.admin.gate, shutdown.clone())?;
        let runtime = runtime()?;
        let run = move || {
            LocalSet::new().block_on(&runtime, async move {
                let admin = admin.and_then(|l| Socket::tcp(l).ok());
                let control = control.and_then(|l| Socket::unix(l).ok());
                self.run(admin, control, shutdown).await;
            });
        };
        Ok([thread("control", run)?, sessions])
    }

    /// Both listeners answer until the end: probes must see that the gate drains.
    async fn run(self, admin: Option<Socket>, control: Option<Socket>, shutdown: Shutdown) {
        let gate = Arc::clone(&self.admin.gate);
        let (stop, mut forced, until_the_end) = (CancellationToken::new(), shutdown.clone(), shutdown.after_draining());
        let keys = tokio::task::spawn_local(Arc::clone(&gate.authn).run(stop.clone()));
        let watching = tokio::task::spawn_local(self.certificates.run(stop.clone()));
        tokio::task::spawn_local(shared_rates::run(Arc::clone(&gate), stop.clone()));
        let signing = tokio::task::spawn_local(watch_assertion_keys(Arc::clone(&gate), stop.clone()));
        let accounts = tokio::task::spawn_local(Arc::clone(&gate.identity.accounts).run(stop.clone()));
        let sweeping = Arc::clone(&gate);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                sweeping.limits.sweep();
            }
        });
        if let Some(socket) = admin {
            let (door, front) = (Rc::new(self.admin), front(&gate, ConnectionCount::apart(ADMIN_CONNECTIONS)));
            let handler = move |request, _| {
                let door = Rc::clone(&door);
                async move { door.handle(request).await }
            };
            tokio::task::spawn_local(serve(socket, Rc::new(front), until_the_end.clone(), handler));
        }
        if let Some(socket) = control {
            let (door, front) = (
                Rc::new(self.control),
                front(&gate, ConnectionCount::apart(CONTROL_CONNECTIONS)),
            );
            let handler = move |request, _| {
                let door = Rc::clone(&door);
                async move { door.handle(request).await }
            };
            tokio::task::spawn_local(serve(socket, Rc::new(front), until_the_end, handler));
        }
        forced.forced().await;
        stop.cancel();
        let _ended = (keys.await.is_err(), watching.await.is_err());
        let _ended = (signing.await.is_err(), accounts.await.is_err());
    }
}

/// Takes up a changed `assertion.key_file`. A file that cannot be used is told once per change, and the old keys stay.
async fn watch_assertion_keys(gate: Arc<Gate>, stop: CancellationToken) {
    let mut last_error = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(gate.config.policies.poll.get()) => {}
        }
        let assertions = Arc::clone(&gate.assertions);
        let Ok(looked) = tokio::task::spawn_blocking(move || assertions.look()).await else {
            continue;
        };
        let error = looked
            .as_ref()
            .and_then(|outcome| outcome.as_ref().err())
            .map(ToString::to_string);
        let repeated = error.is_some() && error == last_error;
        last_error = error.clone();
        let (result, event) = match looked {
            None => continue,
            Some(_) if repeated => continue,
            Some(Ok(())) => ("success", "assertion_keys_reloaded"),
            Some(Err(_)) => ("rejected", "assertion_keys_rejected"),
        };
        match &error {
            None => tracing::info!("new assertion keys in force"),
            Some(error) => tracing::warn!(error, "assertion keys rejected; the old ones stay in force"),
        }
        gate.metrics.assertion_keys.with_label_values(&[result]).inc();
        gate.audit.send(Event::Admin(AdminEvent { event, detail: error }));
    }
}
