//! Emergency forbids on public paths, where policies are not evaluated.
//!
//! `load` takes the files of `_deny/` one by one. This file finds the one that closes a public path for every caller.

use std::sync::Arc;

use cedar_policy::EntityUid;

use super::Revision;
use super::source::Files;
use crate::engine::{PolicyEntry, PolicyInfo, QueryEntity};

/// Emergency forbids in force: the last good content of each file.
#[derive(Clone, Default)]
pub(crate) struct EmergencyForbids {
    pub files: Files,
    pub entries: Vec<Arc<PolicyEntry>>,
}

impl Revision {
    /// The emergency forbid that closes a public path, where no caller is known: one whose scope covers every
    /// principal.
    ///
    /// Its conditions are not evaluated: every condition counts as satisfied.
    pub(crate) fn closed_by(&self, action: &EntityUid, resource: &QueryEntity) -> Option<Arc<PolicyInfo>> {
        let known = &self.emergency_forbids.entries;
        if known.is_empty() {
            return None;
        }
        let mut covering = self.rules.engine.covering_all_principals(action, resource);
        let forbid = covering.find(|entry| known.iter().any(|forbid| Arc::ptr_eq(forbid, entry)))?;
        Some(Arc::clone(&forbid.info))
    }
}
