//! Reads a policy tree and loads its portals for a command, without a running gate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cedargate_policy::load::{Loader, Warnings};
use cedargate_policy::revision::Revision;
use cedargate_policy::revision::problem::{Problem, RevisionError};
use cedargate_policy::revision::source::Tree;
use cedargate_policy::scope::PortalScope;

use super::config_file::ConfigFile;
use crate::config::{self, Config, Loaded};
use crate::policy_folders::PolicyFolders;

/// Readings in a row before a tree that keeps changing is used as it was read last.
const READ_ATTEMPTS: usize = 8;
/// Configuration for a command without one; its issuer stands for the issuer of decision tests.
const TEST_ISSUER: &str = "
upstream: { url: 'http://127.0.0.1:1' }
issuers: [{ name: test, issuer: 'https://test.invalid/', audiences: [test], jwks: { url: 'https://test.invalid/jwks' } }]
";

/// Arguments that name a policy tree.
#[derive(clap::Args, Clone)]
pub(crate) struct TreeArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// A folder with `policies/` and `schemas/` in it; default: what the configuration says, else the current folder
    dir: Option<PathBuf>,
}

/// A policy tree as it was read, with its configuration.
pub(crate) struct Workbench {
    pub config: Config,
    pub portals: Vec<PortalScope>,
    /// The configuration; `None` if the command found no file.
    pub loaded: Option<Loaded>,
    tree: Tree,
}

/// One loaded portal.
pub(crate) struct PortalLoad<'a> {
    pub portal: &'a PortalScope,
    pub revision: Option<Arc<Revision>>,
    pub problems: Vec<Problem>,
}

impl TreeArgs {
    /// Reads configuration and tree; `Err` is a text for the user.
    pub(crate) fn open(&self) -> Result<Workbench, String> {
        let loaded = self
            .config
            .found()
            .map(|path| config::load(&path, config::process_environment()));
        let loaded = loaded.transpose().map_err(|e| e.to_string())?;
        let config = match &loaded {
            Some(loaded) => loaded.config.clone(),
            None => Config::from_yaml(TEST_ISSUER).map_err(|e| e.to_string())?,
        };
        let places = match (&self.dir, &loaded) {
            (Some(dir), _) => places(dir)?,
            (None, Some(_)) => PolicyFolders {
                policies: config.policies.dir.clone(),
                schemas: config.policies.schemas.clone(),
            },
            (None, None) => places(Path::new("."))?,
        };
        let tree = places.read_settled(READ_ATTEMPTS).unwrap_or_else(|| places.read());
        let configured: Vec<config::Portal> = match &config.portals {
            Some(portals) => portals.clone(),
            None => {
                let portal = |slug| config::Portal::discovered(slug, config.issuers.len());
                tree.slugs.iter().map(portal).collect()
            }
        };
        let scope = |portal: &config::Portal| {
            let scope = config.portal_scope(portal);
            PortalScope {
                // without a configuration of the user's own, names of providers cannot be checked
                providers: scope.providers.filter(|_| loaded.is_some()),
                ..scope
            }
        };
        let portals: Vec<PortalScope> = configured.iter().map(scope).collect();
        if portals.is_empty() {
            return Err(format!(
                "there is no portal folder in `{}` (policies.dir); each folder in it is a portal",
                places.policies.display()
            ));
        }
        Ok(Workbench {
            config,
            portals,
            loaded,
            tree,
        })
    }
}

impl Workbench {
    /// Loads every portal and runs its decision tests.
    pub(crate) fn load(&self, warnings: Warnings) -> Vec<PortalLoad<'_>> {
        let mut loader = Loader::new(warnings, None);
        self.portals.iter().map(|portal| self.load_one(&mut loader, portal)).collect()
    }

    /// Loads every portal without running its decision tests.
    pub(crate) fn load_untested(&self, warnings: Warnings) -> Vec<PortalLoad<'_>> {
        let mut loader = Loader::new(warnings, None).untested();
        self.portals.iter().map(|portal| self.load_one(&mut loader, portal)).collect()
    }

    fn load_one<'a>(&'a self, loader: &mut Loader, portal: &'a PortalScope) -> PortalLoad<'a> {
        let loaded = loader.load(portal, &self.tree, None);
        let problems = loaded.rejected.map(|RevisionError { problems }| problems).unwrap_or_default();
        PortalLoad {
            portal,
            revision: loaded.revision,
            problems,
        }
    }

    /// The portal of that name.
    pub(crate) fn named(&self, slug: &str) -> Result<&PortalScope, String> {
        let portal = self.portals.iter().find(|p| p.slug.as_str() == slug);
        portal.ok_or_else(|| {
            let known: Vec<_> = self.portals.iter().map(|p| p.slug.as_str()).collect();
            format!("there is no portal `{slug}`; known: {}", known.join(", "))
        })
    }

    /// Loads one portal without running its decision tests.
    pub(crate) fn load_untested_one<'a>(&'a self, portal: &'a PortalScope) -> PortalLoad<'a> {
        self.load_one(&mut Loader::new(Warnings::Show, None).untested(), portal)
    }
}

/// The two folders of `DIR`: it holds `policies/` and `schemas/`, or it is the policy folder with `schemas/` beside it.
fn places(dir: &Path) -> Result<PolicyFolders, String> {
    let inside = PolicyFolders {
        policies: dir.join("policies"),
        schemas: dir.join("schemas"),
    };
    if inside.policies.is_dir() {
        return Ok(inside);
    }
    let beside = dir.parent().unwrap_or(Path::new("")).join("schemas");
    if dir.is_dir() && beside.is_dir() {
        return Ok(PolicyFolders {
            policies: dir.to_owned(),
            schemas: beside,
        });
    }
    Err(format!(
        "`{}` has no `policies` folder; name the folder that has `policies/` and `schemas/` in it",
        dir.display()
    ))
}
