//! The part of a client connection that its requests see, and that outlives the HTTP on it.
//!
//! An upgraded connection goes on as a tunnel after hyper has let go of it. The tunnel holds this, and with it the
//! connection's slots, until it ends.

use std::cell::OnceCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use cedargate_policy::types::Scheme;
use tokio_util::task::TaskTracker;

use super::activity::{Activity, EarlyHints};
use super::connection_slots::ConnectionSlot;
use super::{PeerAddr, catch_panic};
use crate::base::lifecycle::Shutdown;
use crate::http::client_certificate::ClientCertificate;

/// One client connection. Every holder keeps its slot in `limits.connections` and in its address's limit taken.
#[derive(Debug)]
pub struct ClientConnection {
    /// The client's address, by the socket or by a trusted proxy's PROXY header.
    pub peer: PeerAddr,
    /// `Https` if TLS ended at this listener.
    pub scheme: Scheme,
    /// The certificate that the client presented; `None` without one.
    pub certificate: Option<Arc<ClientCertificate>>,
    tasks: ConnectionTasks,
    /// Set for HTTP/1 only.
    activity: OnceCell<Arc<Activity>>,
    _slot: ConnectionSlot,
}

/// What TLS says of a connection.
#[derive(Clone, Debug)]
pub struct Secured {
    pub scheme: Scheme,
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// The means by which a listener spawns, ends and counts the tasks of its connections.
#[derive(Clone, Debug)]
pub struct ConnectionTasks {
    /// Draining waits for every task in it.
    pub tracker: TaskTracker,
    pub shutdown: Shutdown,
    pub panics: prometheus::IntCounter,
}

impl ClientConnection {
    pub fn new(peer: PeerAddr, secured: Secured, tasks: ConnectionTasks, slot: ConnectionSlot) -> Rc<Self> {
        Rc::new(Self {
            peer,
            scheme: secured.scheme,
            certificate: secured.certificate,
            tasks,
            activity: OnceCell::new(),
            _slot: slot,
        })
    }

    /// True once the client's certificate is not trusted any more: the answer asks the client to leave.
    pub(super) fn is_distrusted(&self) -> bool {
        self.certificate.as_ref().is_some_and(|certificate| !certificate.is_trusted())
    }

    /// Lets requests send early hints on this connection.
    pub(super) fn enable_early_hints(&self, activity: &Arc<Activity>) {
        let _once = self.activity.set(Arc::clone(activity));
    }

    /// Sends `103 Early Hints` for the request that came last; `None` if the client takes none (HTTP/1.0, HTTP/2).
    pub fn early_hints(&self) -> Option<EarlyHints> {
        self.activity.get()?.early_hints()
    }

    /// Runs a task beside the connection, a tunnel for example. Draining waits for it, a forced shutdown drops it, and
    /// a panic in it is counted and ends this task alone.
    pub fn spawn(self: &Rc<Self>, future: impl Future<Output = ()> + 'static) {
        let connection = Rc::clone(self);
        self.tasks.tracker.spawn_local(async move {
            let mut shutdown = connection.tasks.shutdown.clone();
            tokio::select! {
                biased;
                () = shutdown.forced() => {}
                ended = catch_panic(future) => if ended.is_err() {
                    connection.tasks.panics.inc();
                    tracing::error!("a task of a connection ended in a panic");
                }
            }
        });
    }
}
