//! Emergency forbids on public paths, where policies are not evaluated.
//!
//! `load` takes the files of `_deny/` one by one. This file finds the one that closes a public path for every caller.

use std::sync::Arc;

use cedar_policy::{ActionConstraint, EntityUid, PrincipalConstraint, ResourceConstraint};

use super::Revision;
use super::source::Files;
use crate::engine::{PolicyEntry, PolicyInfo};
use crate::portal::path::ancestors_of;
use crate::portal::path::rules::PathReading;

/// Emergency forbids in force: the last good content of each file.
#[derive(Clone, Default)]
pub(crate) struct EmergencyForbids {
    pub files: Files,
    pub entries: Vec<Arc<PolicyEntry>>,
}

impl Revision {
    /// The emergency forbid that closes a public path, where no caller is known: one whose scope covers every principal.
    ///
    /// Its conditions are not evaluated: every condition counts as satisfied.
    pub fn closed_by(&self, method: &str, path: &PathReading<'_>) -> Option<Arc<PolicyInfo>> {
        let closes = |entry: &&Arc<PolicyEntry>| {
            let covers_all_principals = matches!(
                entry.policy().principal_constraint(),
                PrincipalConstraint::Any | PrincipalConstraint::Is(_)
            );
            covers_all_principals && self.names_method(entry, method) && self.names_path(entry, path)
        };
        self.emergency_forbids
            .entries
            .iter()
            .find(closes)
            .map(|entry| Arc::clone(&entry.info))
    }

    fn names_method(&self, entry: &PolicyEntry, method: &str) -> bool {
        let schema = &self.rules.schema;
        let Some(action) = schema.method_action(method) else {
            return true;
        };
        let groups = schema
            .action(&action)
            .map(|model| model.ancestors.as_slice())
            .unwrap_or_default();
        let covers = |uid: &EntityUid| *uid == action || groups.contains(uid);
        match entry.policy().action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(uid) => uid == action,
            ActionConstraint::In(all) => all.iter().any(covers),
        }
    }

    fn names_path(&self, entry: &PolicyEntry, path: &PathReading<'_>) -> bool {
        let names = &self.rules.names;
        let is_path = |uid: &EntityUid| names.path.as_ref() == Some(uid.type_name());
        let is = |uid: &EntityUid| is_path(uid) && path.ids().any(|id| id == uid.id().unescaped());
        let within = |uid: &EntityUid| {
            let mut above = path.ids().flat_map(ancestors_of);
            is(uid) || names.portal.as_ref() == Some(uid) || above.any(|id| id == uid.id().unescaped())
        };
        match entry.policy().resource_constraint() {
            ResourceConstraint::Any => true,
            ResourceConstraint::Is(ty) => names.path.as_ref() == Some(&ty),
            ResourceConstraint::Eq(uid) => is(&uid),
            ResourceConstraint::In(uid) => within(&uid),
            ResourceConstraint::IsIn(ty, uid) => names.path.as_ref() == Some(&ty) && within(&uid),
        }
    }
}
