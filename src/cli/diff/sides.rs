//! The two trees of a comparison: a folder, a configuration, a bundle or a git revision each.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cedargate_policy::load::Loader;
use cedargate_policy::revision::Revision;
use cedargate_policy::revision::source::Files;
use cedargate_policy::scope::PortalScope;

use super::git;
use crate::cli::config_file::ConfigFile;
use crate::cli::tree::{TreeArgs, Workbench};
use crate::cli::validate::report_errors;

/// One tree of a comparison.
pub(in crate::cli) struct Side {
    /// As the user named it.
    pub name: String,
    pub workbench: Workbench,
}

/// One portal of one tree.
pub(super) struct LoadedPortal {
    pub scope: PortalScope,
    pub revision: Arc<Revision>,
}

/// Both trees do not load; the text is for the user.
pub(super) struct Rejected(pub String);

impl Side {
    /// A path that exists is a path; every other text is a git revision.
    /// Git runs in `place`.
    pub fn open(name: &str, config: &ConfigFile, place: &Path) -> Result<Self, String> {
        let path = Path::new(name);
        let is_config = path.is_file() && path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
        let workbench = match path.exists() {
            true if is_config => TreeArgs::at(ConfigFile::named(PathBuf::from(name)), None).open()?,
            true => TreeArgs::at(config.clone(), Some(PathBuf::from(name))).open()?,
            false => Workbench::of_tree(config, git::tree(name, place)?, name)?,
        };
        Ok(Self {
            name: name.to_owned(),
            workbench,
        })
    }

    /// Every portal that has files in this tree. The loader remembers the policies that both trees have.
    pub(in crate::cli::diff) fn load(&self, only: Option<&str>, loader: &mut Loader) -> Result<Vec<LoadedPortal>, Rejected> {
        let is_wanted = |slug: &str| only.is_none_or(|only| only == slug);
        let folder_of = |slug: &str| format!("policies/{slug}/");
        let mut loads = self.workbench.load_with(loader);
        loads.retain(|load| {
            let slug = load.portal.slug.as_str();
            let mut own = self.workbench.files().below(folder_of(slug));
            is_wanted(slug) && own.next().is_some()
        });
        let portals: Vec<LoadedPortal> = loads
            .iter()
            .filter_map(|load| {
                Some(LoadedPortal {
                    scope: load.portal.clone(),
                    revision: Arc::clone(load.revision.as_ref().filter(|_| load.problems.is_empty())?),
                })
            })
            .collect();
        if portals.len() == loads.len() {
            return Ok(portals);
        }
        let name = &self.name;
        let errors = report_errors(&loads, &|file| self.workbench.source(file));
        Err(Rejected(format!("{errors}`{name}` does not load, so it cannot be compared")))
    }
}

/// A loader for both trees.
pub(super) fn loader() -> Loader {
    Loader::new(None).untested()
}

impl LoadedPortal {
    pub fn slug(&self) -> &str {
        self.scope.slug.as_str()
    }

    /// Its files, emergency forbids included.
    pub fn files(&self) -> Files {
        self.revision.files()
    }
}
