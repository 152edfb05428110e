//! The reloader's source of policy trees: folders, or a bundle.
//!
//! A bundle is always settled, and both threads see a new one in the same moment. Everything after the reading is the
//! same for both.

use std::sync::Arc;

use cedargate_policy::revision::source::{Files, Tree};
use cedargate_policy::types::PortalSlug;

use crate::bundle_follower::BundleFollower;
use crate::policy_folders::{PolicyFolders, Readings, Scope};

#[derive(Clone)]
pub(super) enum Source {
    Folders(PolicyFolders),
    Bundle(Arc<BundleFollower>),
}

impl Source {
    /// The folders to watch.
    pub fn folders(&self) -> Option<&PolicyFolders> {
        match self {
            Self::Folders(folders) => Some(folders),
            Self::Bundle(_) => None,
        }
    }

    pub fn bundle(&self) -> Option<&Arc<BundleFollower>> {
        match self {
            Self::Folders(_) => None,
            Self::Bundle(follower) => Some(follower),
        }
    }

    /// False before the first bundle: there is nothing to load, and nothing is gone.
    pub fn is_there(&self) -> bool {
        match self {
            Self::Folders(_) => true,
            Self::Bundle(follower) => follower.tree().is_some(),
        }
    }

    pub fn read_twice(&self, known: &Tree, scope: &Scope, attempts: usize) -> Readings {
        match self {
            Self::Folders(folders) => folders.read_twice(known, scope, attempts),
            Self::Bundle(follower) => {
                let last = current(follower);
                Readings {
                    before: last.clone(),
                    last,
                }
            }
        }
    }

    pub fn read_again(&self, known: &Tree, scope: &Scope) -> Tree {
        match self {
            Self::Folders(folders) => folders.read_again(known, scope),
            Self::Bundle(follower) => current(follower),
        }
    }

    pub fn read_emergency_forbids(&self, slug: &PortalSlug, known: &Tree) -> Tree {
        match self {
            Self::Folders(folders) => folders.read_emergency_forbids(slug, known),
            Self::Bundle(follower) => {
                let tree = follower.tree();
                let files = tree.map_or_else(Files::default, |tree| tree.emergency_files(slug));
                Tree {
                    files,
                    ..Tree::default()
                }
            }
        }
    }
}

fn current(follower: &BundleFollower) -> Tree {
    follower.tree().map(|tree| Tree::clone(&tree)).unwrap_or_default()
}
