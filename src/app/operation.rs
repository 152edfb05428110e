//! Everything that is not traffic and needs a runtime, on one thread: keys, certificates, the admin listener, the
//! control socket, and forgetting who asked how often. Sessions and logins have a thread of their own: what a client
//! began there goes on without it, and a slow store delays no probe.

use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use super::{SWEEP_INTERVAL, StartError, front, runtime, thread};
use crate::doors::admin::Admin;
use crate::doors::control::Control;
use crate::gate::Gate;
use crate::lifecycle::Shutdown;
use crate::listener::{ConnectionCount, Socket, serve};
use crate::tls::Watcher;

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
    }
}
