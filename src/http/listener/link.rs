//! What a request knows of the connection it came on.

use std::cell::OnceCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::places::Place;
use super::watched::{Activity, EarlyHints};
use super::{PeerAddr, caught};
use crate::base::lifecycle::Shutdown;
use crate::types::Scheme;

/// One client connection. Whoever holds it keeps the connection's place in `limits.connections` and its address's: an
/// upgraded connection outlives the HTTP that opened it.
#[derive(Debug)]
pub struct Link {
    /// The client as the socket, or a PROXY header from a trusted proxy, says.
    pub peer: PeerAddr,
    /// `Https` where TLS ended here.
    pub scheme: Scheme,
    work: Work,
    /// Of an HTTP/1 connection.
    activity: OnceCell<Arc<Activity>>,
    _place: Place,
}

/// How the listener keeps hold of what it spawned.
#[derive(Clone, Debug)]
pub struct Work {
    pub tracker: TaskTracker,
    pub shutdown: Shutdown,
    pub panics: prometheus::IntCounter,
}

impl Link {
    pub fn new(peer: PeerAddr, scheme: Scheme, work: Work, place: Place) -> Rc<Self> {
        Rc::new(Self {
            peer,
            scheme,
            work,
            activity: OnceCell::new(),
            _place: place,
        })
    }

    /// Lets answers be announced on this connection.
    pub(super) fn watch(&self, activity: &Arc<Activity>) {
        let _once = self.activity.set(Arc::clone(activity));
    }

    /// Sends `103 Early Hints` for the request that came last; `None` where the client cannot be told (HTTP/1.0, HTTP/2).
    pub fn early_hints(&self) -> Option<EarlyHints> {
        self.activity.get()?.hints()
    }

    /// Runs beside the connection, a tunnel for example. Draining waits for it; being forced drops it; a panic is
    /// counted and ends it alone.
    pub fn spawn(self: &Rc<Self>, future: impl Future<Output = ()> + 'static) {
        let link = Rc::clone(self);
        self.work.tracker.spawn_local(async move {
            let mut shutdown = link.work.shutdown.clone();
            tokio::select! {
                biased;
                () = shutdown.forced() => {}
                ended = caught(future) => if ended.is_err() {
                    link.work.panics.inc();
                    tracing::error!("a part of a connection ended in a panic");
                }
            }
        });
    }
}
