//! Notices that the configuration changed since start, which only a restart takes up.

use std::path::PathBuf;

/// The configuration's files as they were at start.
pub(super) struct ConfigFiles(Vec<ConfigFile>);

struct ConfigFile {
    path: PathBuf,
    /// `None`: it could not be read.
    content: Option<Vec<u8>>,
}

impl ConfigFiles {
    pub fn read(paths: Vec<PathBuf>) -> Self {
        let files = paths.into_iter().map(|path| ConfigFile {
            content: std::fs::read(&path).ok(),
            path,
        });
        Self(files.collect())
    }

    pub fn have_changed(&self) -> bool {
        self.0.iter().any(|file| std::fs::read(&file.path).ok() != file.content)
    }
}
