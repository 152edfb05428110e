//! The steps of kubelet's `AtomicWriter` on a ConfigMap or Secret volume, with its names and in its order.
//!
//! A timestamped folder is filled, `..data` is swapped to it by a rename, and what users see are symlinks
//! `name -> ..data/name` (a folder is one symlink, too). Stale symlinks and the old folder are removed last.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// One volume, mounted at a folder.
pub struct Volume {
    root: PathBuf,
    generation: u32,
    visible: BTreeSet<String>,
}

impl Volume {
    /// The mount point: an empty folder in place of the former content.
    pub fn mount(root: &Path) -> Self {
        if root.exists() {
            std::fs::remove_dir_all(root).unwrap();
        }
        std::fs::create_dir_all(root).unwrap();
        Self {
            root: root.to_owned(),
            generation: 0,
            visible: BTreeSet::new(),
        }
    }

    /// `AtomicWriter.Write`: afterwards the volume holds exactly these files.
    pub fn publish(&mut self, files: &[(&str, &str)]) {
        self.generation += 1;
        let data = self.root.join("..data");
        let old = std::fs::read_link(&data).ok();
        let folder = format!("..2026_11_23_05_10_20.{:09}", self.generation);
        let filled = self.root.join(&folder);
        std::fs::create_dir(&filled).unwrap();
        std::fs::set_permissions(&filled, std::fs::Permissions::from_mode(0o755)).unwrap();
        for (name, text) in files {
            crate::support::put(&filled, name, text);
        }
        let temporary = self.root.join("..data_tmp");
        symlink(&folder, &temporary).unwrap();
        std::fs::rename(&temporary, &data).unwrap();
        let visible: BTreeSet<String> = files.iter().map(|(name, _)| first(name).to_owned()).collect();
        for name in &visible {
            if std::fs::symlink_metadata(self.root.join(name)).is_err() {
                symlink(Path::new("..data").join(name), self.root.join(name)).unwrap();
            }
        }
        for stale in self.visible.difference(&visible) {
            std::fs::remove_file(self.root.join(stale)).unwrap();
        }
        self.visible = visible;
        if let Some(old) = old {
            std::fs::remove_dir_all(self.root.join(old)).unwrap();
        }
    }
}

fn first(name: &str) -> &str {
    name.split('/').next().unwrap()
}
