//! Emergency forbids: `_deny/*.cedar`, taken file by file, even when the rest of the candidate is rejected.
//!
//! An emergency forbid joins the revision in force. Only removing its file releases it: not a rejected edit, not a file
//! that cannot be read, not a candidate whose schema it does not fit. It holds on public paths too.

use std::sync::Arc;

use cedar_policy::Effect;

use super::Loader;
use super::checks::{EMERGENCY_PREFIX, at_place, is_folder_gone, placed_path_problems};
use crate::engine::PolicyEntry;
use crate::revision::emergency::EmergencyForbids;
use crate::revision::problem::Problem;
use crate::revision::source::{Files, SourceFile, Tree};
use crate::revision::{Candidate, Revision};
use crate::types::PortalSlug;

/// The emergency forbids that a candidate can carry.
pub(super) struct EmergencyLoad {
    pub emergency_forbids: EmergencyForbids,
    pub problems: Vec<Problem>,
    /// Emergency forbids in force that the candidate cannot carry: then it must not be served.
    pub lost: Vec<Problem>,
}

impl EmergencyForbids {
    /// Adds a file's forbids, unless one of their ids is taken: Cedar would keep one policy of the two.
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
    /// The revision in force with further or changed emergency forbids, without a look at any other file of the portal.
    /// `None` if none of `files` brings a forbid, or if one in force would be lost: both are left to `load`.
    pub fn with_emergency_forbids(&mut self, slug: &PortalSlug, files: &Files, active: &Revision) -> Option<Arc<Revision>> {
        self.with_cache(slug, |loader| {
            let known = &active.emergency_forbids.files;
            let mut tree = Tree {
                files: known.clone(),
                ..Tree::default()
            };
            for (name, file) in files.0.iter().filter(|(name, file)| known.get(name) != Some(*file)) {
                // SECURITY: a file without a forbid may be one that is being written again; its last good content holds
                let parsed = loader.emergency_forbid(&active.candidate, name, file);
                if parsed.is_ok_and(|entries| !entries.is_empty()) {
                    tree.files.0.insert(name.clone(), file.clone());
                }
            }
            let joined = loader.emergency_forbids(&active.candidate, slug, &tree, Some(active));
            loader.cache.retain(|name| tree.files.get(name).is_some());
            let joined = joined.emergency_forbids;
            let holds_all = known.0.keys().all(|name| joined.files.get(name).is_some());
            (holds_all && joined.files != *known).then(|| Arc::new(loader.assemble(&active.candidate, joined)))
        })
    }

    /// The emergency forbids: each file on its own, its last good content if the new one is broken or unreadable.
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
        let mut last_good = Vec::new();
        let known = previous.map(|p| &p.emergency_forbids.files);
        let files = tree.emergency_files(slug);
        for (name, file) in &files.0 {
            match self.emergency_forbid(candidate, name, file) {
                Ok(entries) => problems.extend(emergency_forbids.join(name, file, entries)),
                Err(found) => {
                    problems.extend(found);
                    last_good.extend(known.and_then(|files| Some((name, files.get(name)?))));
                }
            }
        }
        // SECURITY: only a file that was removed releases its emergency forbid, not one that cannot be seen
        let unseen = known.into_iter().flat_map(|known| &known.0);
        last_good.extend(
            unseen.filter(|(name, _)| files.get(name).is_none() && (tree.is_in_doubt(name) || is_folder_gone(tree, slug))),
        );
        for (name, file) in last_good {
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
            .map(|e| {
                let message = format!("`{}` is a permit; `_deny/` holds forbids only", e.info.id);
                at_place(&e.info.place, message)
            })
            .collect();
        problems.extend(parsed.templates.iter().map(|t| {
            let id: &str = t.id().as_ref();
            Problem::new(name, format!("`{id}` is a template; `_deny/` holds plain forbids only"))
        }));
        problems.extend(placed_path_problems(
            &parsed.entries,
            candidate.schema.path.as_ref(),
            &candidate.file.paths,
        ));
        if problems.is_empty() {
            Ok(parsed.entries.clone())
        } else {
            Err(problems)
        }
    }
}
