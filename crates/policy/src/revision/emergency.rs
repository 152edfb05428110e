//! Emergency forbids: `_deny/*.cedar`, taken file by file, even when the rest of the candidate is rejected.
//!
//! An emergency forbid joins the revision in force. Only removing its file releases it: not a rejected edit, not a file that
//! cannot be read, not a candidate whose schema it does not fit. It holds on public paths too.

use std::sync::Arc;

use cedar_policy::{ActionConstraint, Effect, EntityUid, PrincipalConstraint, ResourceConstraint};

use super::checks::is_folder_gone;
use super::problem::Problem;
use super::source::{Files, SourceFile, Tree};
use super::{Candidate, Loader, Revision};
use crate::engine::{PolicyEntry, PolicyInfo};
use crate::portal::path::CanonicalPath;
use crate::types::PortalSlug;

/// Emergency forbids in force: the last good content of each file.
#[derive(Clone, Default)]
pub(super) struct EmergencyForbids {
    pub files: Files,
    pub entries: Vec<Arc<PolicyEntry>>,
}

/// The prefix of the ids of emergency forbids, so that they never collide with other policies.
pub(super) const EMERGENCY_PREFIX: &str = "_deny/";

/// The emergency forbids that a candidate can carry.
pub(super) struct EmergencyLoad {
    pub emergency_forbids: EmergencyForbids,
    pub problems: Vec<Problem>,
    /// EmergencyForbids in force that it cannot carry: then it must not be served.
    pub lost: Vec<Problem>,
}

impl EmergencyForbids {
    /// A policy id that is taken already keeps the file out: two policies of one id would be one.
    fn join(&mut self, name: &str, file: &SourceFile, entries: Vec<Arc<PolicyEntry>>) -> Option<Problem> {
        let taken = |entry: &&Arc<PolicyEntry>| self.entries.iter().any(|e| e.info.id == entry.info.id);
        if let Some(entry) = entries.iter().find(taken) {
            return Some(Problem::new(name, format!("policy id `{}` is already used", entry.info.id)));
        }
        self.files.0.insert(name.to_owned(), file.clone());
        self.entries.extend(entries);
        None
    }
}

impl Loader {
    /// The emergency forbids: each file on its own, its last good content if the new one is broken or out of sight.
    pub(super) fn emergency_forbids(
        &mut self,
        candidate: &Candidate,
        slug: &PortalSlug,
        tree: &Tree,
        previous: Option<&Revision>,
    ) -> EmergencyLoad {
        let mut emergency_forbids = EmergencyForbids::default();
        let mut problems = Vec::new();
        let mut lost = Vec::new();
        let mut kept = Vec::new();
        let known = previous.map(|p| &p.emergency_forbids.files);
        let files = tree.emergency_files(slug);
        for (name, file) in &files.0 {
            match self.emergency_forbid(candidate, name, file) {
                Ok(entries) => problems.extend(emergency_forbids.join(name, file, entries)),
                Err(found) => {
                    problems.extend(found);
                    kept.extend(known.and_then(|files| Some((name, files.get(name)?))));
                }
            }
        }
        // SECURITY: only a file that was removed releases its emergency forbid, not one that cannot be seen
        let unseen = known.into_iter().flat_map(|known| &known.0);
        kept.extend(
            unseen.filter(|(name, _)| files.get(name).is_none() && (tree.is_in_doubt(name) || is_folder_gone(tree, slug))),
        );
        for (name, file) in kept {
            match self.emergency_forbid(candidate, name, file) {
                Ok(entries) => problems.extend(emergency_forbids.join(name, file, entries)),
                Err(_) => lost.push(Problem::new(
                    name,
                    "is in force and does not fit the candidate's schema any more",
                )),
            }
        }
        EmergencyLoad {
            emergency_forbids,
            problems,
            lost,
        }
    }

    fn emergency_forbid(
        &mut self,
        candidate: &Candidate,
        name: &str,
        file: &SourceFile,
    ) -> Result<Vec<Arc<PolicyEntry>>, Vec<Problem>> {
        let stem = name
            .rsplit_once("/_deny/")
            .map_or(name, |(_, f)| f)
            .trim_end_matches(".cedar");
        let prefix = format!("{EMERGENCY_PREFIX}{stem}/");
        let parsed = self.cache.parse(name, file, &candidate.schema, &prefix, &mut self.shared)?;
        let permits = parsed.entries.iter().filter(|e| e.info.effect == Effect::Permit);
        let mut problems: Vec<Problem> = permits
            .map(|e| Problem::new(name, format!("`{}` is a permit; `_deny/` holds forbids only", e.info.id)))
            .collect();
        problems.extend(parsed.templates.iter().map(|t| {
            let id: &str = t.id().as_ref();
            Problem::new(name, format!("`{id}` is a template; `_deny/` holds plain forbids only"))
        }));
        if problems.is_empty() {
            Ok(parsed.entries.clone())
        } else {
            Err(problems)
        }
    }
}

impl Revision {
    /// The emergency forbid that closes a public path, where no caller is known: one whose scope covers every principal.
    ///
    /// Its conditions are not evaluated: a condition that may hold is taken to hold.
    pub fn closed_by(&self, method: &str, path: &CanonicalPath) -> Option<Arc<PolicyInfo>> {
        let closes = |entry: &&Arc<PolicyEntry>| {
            let everybody = matches!(
                entry.policy().principal_constraint(),
                PrincipalConstraint::Any | PrincipalConstraint::Is(_)
            );
            everybody && self.names_method(entry, method) && self.names_path(entry, path)
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

    fn names_path(&self, entry: &PolicyEntry, path: &CanonicalPath) -> bool {
        let names = &self.rules.names;
        let ids = [path.id(), path.plain_id()];
        let is = |uid: &EntityUid| names.path.as_ref() == Some(uid.type_name()) && ids.contains(&uid.id().unescaped());
        let within = |uid: &EntityUid| {
            let above = ids.iter().flat_map(|id| crate::portal::path::ancestors_of(id));
            is(uid) || names.portal.as_ref() == Some(uid) || above.into_iter().any(|id| id == uid.id().unescaped())
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
