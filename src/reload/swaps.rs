//! Puts revisions into force, for the two threads that do so: `reload` and `emergency`.
//!
//! Both replace a portal's revision by one that they made of it. So each takes the portal's lock (`Portal::writer`),
//! then reads the revision in force, and swaps before it gives the lock back. Only the fast part of a load happens
//! under the lock.

use std::sync::Arc;

use cedargate_policy::revision::Revision;
use parking_lot::{Mutex, MutexGuard};

use crate::gate::Gate;
use crate::portals::{ActiveRevision, JoinedForbids, Portal};

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Swaps {
    gate: Arc<Gate>,
    /// Replaced revisions that requests may still hold.
    retired: Arc<Mutex<Vec<Arc<ActiveRevision>>>>,
}

impl Swaps {
    pub fn new(gate: Arc<Gate>) -> Self {
        Self {
            gate,
            retired: Arc::default(),
        }
    }

    /// Serves `revision` from now on. The guard proves that no other thread replaces the same portal's revision
    /// meanwhile.
    pub fn activate(&self, portal: &Portal, revision: Arc<Revision>, _writer: &MutexGuard<'_, JoinedForbids>) {
        let info = &self.gate.metrics.revision_info;
        if let Some(old) = portal.active.load_full() {
            let _was_not_set = info.remove_label_values(&[&*portal.name, &*old.revision.id]).is_err();
            self.retired.lock().push(old);
        }
        info.with_label_values(&[&*portal.name, &*revision.id]).set(1);
        portal.active.store(Some(Arc::new(ActiveRevision { revision })));
        self.gate.reloads.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Drops replaced revisions that no request holds any more.
    pub fn drop_retired(&self) {
        let (kept, dropped) = std::mem::take(&mut *self.retired.lock())
            .into_iter()
            .partition::<Vec<_>, _>(|old| Arc::strong_count(old) > 1);
        self.retired.lock().extend(kept);
        drop(dropped);
    }
}
