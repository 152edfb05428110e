//! The part of a portal's files that is equal in two readings. The other part is still being written.
//!
//! A candidate counts as a whole: files that belong together are written one after the other. Emergency forbids count
//! file by file, so that a file that keeps changing, beside an emergency forbid or anywhere else in the portal, does
//! not delay the emergency forbid.

use std::collections::BTreeSet;

use cedargate_policy::revision::source::Tree;
use cedargate_policy::types::PortalSlug;

/// The comparison of two readings of one portal.
pub(super) struct PortalReading {
    /// True if everything but the emergency forbids is equal.
    pub candidate: bool,
    /// The emergency forbids that differ.
    pub unsettled: BTreeSet<String>,
}

/// A portal whose files keep changing.
#[derive(Default)]
pub(super) struct ChangingPortal {
    /// Rounds in a row.
    pub rounds: u32,
    /// The part of the last round that was loaded; an equal one is not loaded again.
    pub tried: Option<Tree>,
}

impl PortalReading {
    pub fn of(before: &Tree, last: &Tree, slug: &PortalSlug) -> Self {
        let old = before.emergency_files(slug);
        let new = last.emergency_files(slug);
        let names = old.0.keys().chain(new.0.keys());
        Self {
            candidate: before.is_same_candidate(last, slug),
            unsettled: names.filter(|name| old.get(name) != new.get(name)).cloned().collect(),
        }
    }

    pub fn is_complete(&self) -> bool {
        self.candidate && self.unsettled.is_empty()
    }
}
