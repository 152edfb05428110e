//! Saves last good revisions on disk (`policies.state_dir`), so that a restart into a broken tree keeps serving.
//!
//! One file per portal, readable by its owner only, written under another name and renamed into place: a crash leaves
//! the old file or the new one. It holds the policy sources, not the result of loading them; a restored revision passes
//! through the same pipeline as any other. The `reload` thread is the only reader and writer.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cedargate_policy::revision::Revision;
use cedargate_policy::revision::source::{Files, SourceFile, Tree};
use cedargate_policy::types::PortalSlug;
use serde::{Deserialize, Serialize};

use crate::base::files::replace_file;

const FORMAT: u32 = 1;
const FILE_MODE: u32 = 0o600;

/// The folder `policies.state_dir`.
pub struct StateDir(PathBuf);

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("`{}`: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("`{}` is not a saved revision: {why}", path.display())]
    Content { path: PathBuf, why: String },
}

#[derive(Deserialize, Serialize)]
struct Saved {
    format: u32,
    revision: String,
    /// File contents in base64, by name.
    files: BTreeMap<String, String>,
}

impl StateDir {
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    fn path(&self, slug: &PortalSlug) -> PathBuf {
        self.0.join(format!("{slug}.json"))
    }

    /// Replaces the portal's saved revision; made durable before it gets its name.
    pub fn save(&self, slug: &PortalSlug, revision: &Revision) -> Result<(), StateError> {
        let path = self.path(slug);
        let fail = |source| StateError::Io {
            path: path.clone(),
            source,
        };
        let files = revision
            .files()
            .0
            .iter()
            .map(|(name, file)| (name.clone(), STANDARD.encode(&file.bytes)))
            .collect();
        let saved = Saved {
            format: FORMAT,
            revision: revision.id.to_string(),
            files,
        };
        let text = serde_json::to_vec(&saved).map_err(|e| fail(e.into()))?;
        fs::create_dir_all(&self.0).map_err(fail)?;
        replace_file(&path, &text, FILE_MODE).map_err(fail)
    }

    /// The saved sources; `None` if the portal has none.
    pub fn load(&self, slug: &PortalSlug) -> Result<Option<Tree>, StateError> {
        let path = self.path(slug);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Io { path, source }),
        };
        let bad = |why: String| StateError::Content { path: path.clone(), why };
        let saved: Saved = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        if saved.format != FORMAT {
            return Err(bad(format!("format {} is not known", saved.format)));
        }
        let mut files = Files::default();
        for (name, content) in saved.files {
            let bytes = STANDARD.decode(content).map_err(|e| bad(format!("`{name}`: {e}")))?;
            files.0.insert(name, SourceFile::new(&bytes));
        }
        Ok(Some(Tree {
            files,
            slugs: [slug.clone()].into(),
            ..Tree::default()
        }))
    }
}
