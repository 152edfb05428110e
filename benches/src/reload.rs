//! Files in memory → a revision, again and again with one loader.

use std::sync::Arc;

use cedargate_policy::load::Loader;
use cedargate_policy::revision::Revision;

use crate::portal::PolicyFiles;

/// A loader and the revision that it loaded last.
pub struct Reload {
    loader: Loader,
    current: Option<Arc<Revision>>,
}

impl Default for Reload {
    fn default() -> Self {
        Self {
            loader: Loader::new(None),
            current: None,
        }
    }
}

impl Reload {
    /// Does the work between reading the files and swapping: parse, validate, index. Returns the replaced revision, so
    /// that the caller drops it outside of the measured time. Fails if the files are rejected or did not change.
    pub fn load(&mut self, files: &PolicyFiles) -> Result<Option<Arc<Revision>>, String> {
        let loaded = self.loader.load(&files.scope("/"), &files.tree, self.current.as_deref());
        if let Some(rejected) = loaded.rejected {
            return Err(rejected.to_string());
        }
        let revision = loaded.revision.ok_or("the files did not change")?;
        Ok(self.current.replace(revision))
    }
}
