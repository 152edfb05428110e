//! Takes emergency forbids into force apart from everything else, so that no portal's files delay another portal's
//! emergency forbid.
//!
//! The thread `reload` loads one portal after the other, and one portal's owner decides how long that takes: by many
//! policies, by slow decision tests, by a new edit every moment. This thread reads the folders `_deny/` alone. It joins
//! each file that is equal in two readings, `CHANGE_QUIET` apart, to the revision in force; the portal's other files do
//! not matter for that.
//!
//! It only adds. Everything else about emergency forbids stays with `reload`: releasing them, reports, and files that
//! do not parse or hold no forbid. Both threads replace revisions under the portal's lock (`swaps`). A load may have
//! read the files before a forbid joined. So a joined forbid is kept in `Portal::writer` until a reading that began
//! later has seen its file, and each load meanwhile lays it over the files that it read.
//!
//! The watcher wakes this thread for each event that may concern a folder `_deny/`. Without watches it looks at each
//! `policies.poll`. A panic is counted, and the next pass tries again.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use cedargate_policy::load::Loader;
use cedargate_policy::revision::source::Tree;
use cedargate_policy::types::PortalSlug;

use super::source::Source;
use super::swaps::Swaps;
use super::wait_until_quiet;
use crate::base::lifecycle::Shutdown;
use crate::gate::Gate;
use crate::portals::Portal;

/// Pause between two looks at the shutdown.
const STOP_CHECK: Duration = Duration::from_millis(100);

/// Reads and joins emergency forbids.
pub struct EmergencyReload {
    pub(super) gate: Arc<Gate>,
    pub(super) loader: Loader,
    pub(super) source: Source,
    pub(super) swaps: Swaps,
    pub(super) wake: Receiver<()>,
    /// The last reading, so that unchanged files are not hashed again.
    pub(super) last: BTreeMap<PortalSlug, Tree>,
}

/// The outcome of one pass over all portals.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pass {
    Complete,
    /// A file is still being written, or a portal's revision was just being replaced.
    Again,
}

impl EmergencyReload {
    /// Joins emergency forbids until the shutdown is forced.
    pub fn run(mut self, shutdown: &Shutdown) {
        let poll = self.gate.config.policies.poll.get();
        let mut next = Instant::now();
        while !shutdown.is_forced() {
            let left = next.saturating_duration_since(Instant::now());
            match self.wake.recv_timeout(left.min(STOP_CHECK)) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) if left > STOP_CHECK => continue,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // a panic over one file must not end this thread
            let pass = catch_unwind(AssertUnwindSafe(|| self.pass()));
            if pass.is_err() {
                self.gate.metrics.panics.inc();
                tracing::error!("reading emergency forbids ended in a panic; the next pass tries again");
            }
            next = match pass {
                Ok(Pass::Again) => Instant::now(),
                Ok(Pass::Complete) | Err(_) => Instant::now() + poll,
            };
        }
    }

    /// Reads the emergency forbids of all portals twice, and joins those that did not change in between.
    fn pass(&mut self) -> Pass {
        let registry = self.gate.portals.load_full();
        let since = Instant::now();
        let mut before = std::mem::take(&mut self.last);
        for portal in &registry.portals {
            let known = before.remove(portal.slug()).unwrap_or_default();
            before.insert(
                portal.slug().clone(),
                self.source.read_emergency_forbids(portal.slug(), &known),
            );
        }
        wait_until_quiet(since);
        let mut pass = Pass::Complete;
        let mut portals: Vec<&Arc<Portal>> = registry.portals.iter().collect();
        // a portal whose revision takes long to put together does not delay those that are quick
        portals.sort_by_key(|portal| policies(portal));
        for portal in portals {
            let Some(earlier) = before.get(portal.slug()) else { continue };
            let read_at = Instant::now();
            let mut now = self.source.read_emergency_forbids(portal.slug(), earlier);
            self.last.insert(portal.slug().clone(), now.clone());
            let read = now.files.0.len();
            now.files.0.retain(|name, file| earlier.files.get(name) == Some(file));
            if now.files.0.len() < read || self.join(portal, &now, read_at) == Pass::Again {
                pass = Pass::Again;
            }
        }
        pass
    }

    /// Joins the files that are not in force yet.
    fn join(&mut self, portal: &Portal, settled: &Tree, read_at: Instant) -> Pass {
        let is_known = |active: &Arc<_>| portal.has_in_force(active, &settled.files);
        if portal.active.load().as_ref().is_none_or(is_known) {
            // without a revision every request is denied
            return Pass::Complete;
        }
        // the reloader puts a revision of this portal together; other portals do not wait for that
        let Some(mut writer) = portal.writer.try_lock() else {
            return Pass::Again;
        };
        let Some(active) = portal.active.load_full() else {
            return Pass::Complete;
        };
        let joined = self
            .loader
            .with_emergency_forbids(portal.slug(), &settled.files, &active.revision);
        if let Some(revision) = joined {
            writer.add(&revision, &active.revision, read_at);
            tracing::info!(portal = %portal.slug(), revision = %revision.id, "an emergency forbid is in force");
            self.swaps.activate(portal, revision, &writer);
        }
        Pass::Complete
    }
}

/// The number of policies in force.
fn policies(portal: &Portal) -> usize {
    let active = portal.active.load();
    active
        .as_ref()
        .map_or(0, |active| active.revision.rules.engine.policies().len())
}
