//! Reads a policy tree and loads its portals for a command, without a running gate.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use cedargate_policy::digest::sha256_of;
use cedargate_policy::load::{Loader, schema_problem};
use cedargate_policy::revision::Revision;
use cedargate_policy::revision::problem::{Problem, RevisionError};
use cedargate_policy::revision::source::{Files, SourceFile, Tree};
use cedargate_policy::scope::PortalScope;
use cedargate_policy::types::PortalSlug;

use super::config_file::ConfigFile;
use super::report::Finding;
use crate::base::files::{read_small, replace_file};
use crate::bundle::{BYTES_MAX, Bundle, Trust};
use crate::bundle_follower::read_kept;
use crate::config::{self, Config, Loaded};
use crate::policy_folders::{PolicyFolders, at_candidate};

/// Mode of a policy file that a command makes; a changed one keeps its own.
const NEW_MODE: u32 = 0o644;
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
    /// A folder with `policies/` and `schemas/` in it, or a bundle; default: what the configuration says, else the
    /// current folder
    dir: Option<PathBuf>,
}

/// A policy tree as it was read, with its configuration.
pub(crate) struct Workbench {
    pub config: Config,
    pub portals: Vec<PortalScope>,
    /// The configuration; `None` if the command found no file.
    pub loaded: Option<Loaded>,
    /// False if the files kept changing while they were read.
    pub is_settled: bool,
    /// False if the policies come from a bundle that this machine does not have yet.
    pub has_tree: bool,
    tree: Tree,
    /// The folders of the files; `None`: they come from a bundle.
    folders: Option<PolicyFolders>,
    /// Its portals, loaded untested; filled by `keep`.
    kept: OnceLock<Vec<CachedLoad>>,
}

/// A loaded portal that further questions use again.
struct CachedLoad {
    revision: Option<Arc<Revision>>,
    problems: Vec<Problem>,
}

/// A tree as it was read.
struct ReadTree {
    tree: Tree,
    is_settled: bool,
    /// The policy folder, or the bundle.
    place: PathBuf,
    folders: Option<PolicyFolders>,
    /// False if the configuration names a bundle that this machine does not have.
    is_there: bool,
}

/// One loaded portal.
pub(crate) struct PortalLoad<'a> {
    pub portal: &'a PortalScope,
    pub revision: Option<Arc<Revision>>,
    pub problems: Vec<Problem>,
}

impl PortalLoad<'_> {
    /// The revision, or every reason why there is none.
    pub(super) fn loaded(&self) -> Result<&Revision, String> {
        self.revision.as_deref().ok_or_else(|| {
            let problems: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
            problems.join("\n")
        })
    }
}

impl TreeArgs {
    /// A folder or a bundle, without a configuration.
    pub(super) fn of(place: &Path) -> Self {
        Self {
            config: ConfigFile::unread(),
            dir: Some(place.to_owned()),
        }
    }

    /// Reads configuration and tree; `Err` is a text for the user.
    pub(crate) fn open(&self) -> Result<Workbench, String> {
        let workbench = self.opened(self.config.loaded_without_secrets()?)?;
        if !workbench.has_tree {
            return Err(
                "the policies come from policies.bundle, and this machine has no bundle yet; name a folder or a bundle"
                    .to_owned(),
            );
        }
        Ok(workbench)
    }

    /// The configuration that stands in the folder that the command was given, and that it does not read.
    pub(super) fn config_beside(&self) -> Option<PathBuf> {
        let beside = self.dir.as_ref()?.join("cedargate.yaml");
        beside.is_file().then_some(beside)
    }

    /// The configuration file as it is now; `None` if there is none.
    pub(crate) fn config_bytes(&self) -> Option<Vec<u8>> {
        self.config.found().and_then(|path| std::fs::read(path).ok())
    }

    /// The same with the files of secrets, also before the configuration's bundle arrived.
    pub(crate) fn open_for_validation(&self) -> Result<Workbench, String> {
        self.opened(self.config.loaded()?)
    }

    fn opened(&self, loaded: Option<Loaded>) -> Result<Workbench, String> {
        let reading = self.read(loaded.as_ref())?;
        Workbench::new(loaded, reading)
    }

    /// The tree that `dir`, a folder or a bundle, holds; `None`: that the configuration names.
    pub(crate) fn at(config: ConfigFile, dir: Option<PathBuf>) -> Self {
        Self { config, dir }
    }
    fn read(&self, loaded: Option<&Loaded>) -> Result<ReadTree, String> {
        let places = match (&self.dir, loaded) {
            (Some(dir), _) if dir.is_file() => return ReadTree::of_bundle(dir),
            (Some(dir), _) => places(dir)?,
            (None, Some(loaded)) => {
                if let Some(bundle) = &loaded.config.bundle {
                    return Ok(ReadTree::of_kept(&bundle.state_dir));
                }
                let policies = &loaded.config.policies;
                PolicyFolders {
                    policies: policies.dir.clone(),
                    schemas: policies.schemas.clone(),
                }
            }
            (None, None) => places(Path::new("."))?,
        };
        let settled = places.read_settled(READ_ATTEMPTS);
        Ok(ReadTree {
            is_settled: settled.is_some(),
            tree: settled.unwrap_or_else(|| places.read()),
            place: places.policies.clone(),
            folders: Some(places),
            is_there: true,
        })
    }
}

impl ReadTree {
    /// SECURITY: without a look at signatures; a command that reads a bundle only reports what it holds.
    fn of_bundle(path: &Path) -> Result<Self, String> {
        Ok(Self {
            tree: read_bundle(path, Trust::DangerUnsigned)?.tree(),
            is_settled: true,
            place: path.to_owned(),
            folders: None,
            is_there: true,
        })
    }

    /// The bundle that the gate of this configuration took last. There is none before its first start, or if it cannot
    /// be read.
    fn of_kept(state_dir: &Path) -> Self {
        let bytes = read_kept(state_dir).unwrap_or_default();
        let bundle = bytes.and_then(|bytes| Bundle::read(&bytes, Trust::DangerUnsigned).ok());
        Self {
            is_there: bundle.is_some(),
            tree: bundle.map(|bundle| bundle.tree()).unwrap_or_default(),
            is_settled: true,
            place: state_dir.to_owned(),
            folders: None,
        }
    }
}

/// A file of a tree with another text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileEdit<'a> {
    pub name: &'a str,
    /// `None`: without the file.
    pub text: Option<&'a str>,
}

impl Workbench {
    /// A tree that was read elsewhere; `place` names it in messages.
    pub(crate) fn of_tree(config: &ConfigFile, tree: Tree, place: &str) -> Result<Self, String> {
        let reading = ReadTree {
            tree,
            is_settled: true,
            place: PathBuf::from(place),
            folders: None,
            is_there: true,
        };
        Self::new(config.loaded_without_secrets()?, reading)
    }

    fn new(loaded: Option<Loaded>, reading: ReadTree) -> Result<Self, String> {
        let config = match &loaded {
            Some(loaded) => loaded.config.clone(),
            None => Config::from_yaml(TEST_ISSUER).map_err(|e| e.to_string())?,
        };
        let tree = reading.tree;
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
        if portals.is_empty() && reading.is_there {
            let mut message = format!(
                "there is no portal folder in `{}` (policies.dir); each folder in it is a portal",
                reading.place.display()
            );
            // a folder whose name is no portal's is the likely cause
            for unread in &tree.unread {
                message.push_str(&format!("\n{}", unread.problem));
            }
            return Err(message);
        }
        Ok(Workbench {
            config,
            portals,
            loaded,
            is_settled: reading.is_settled,
            has_tree: reading.is_there,
            tree,
            folders: reading.folders,
            kept: OnceLock::new(),
        })
    }

    /// The tree with other texts of some files; nothing is written. A name in a new folder makes a portal, as on disk.
    pub(crate) fn edited(&self, config: &ConfigFile, edits: &[FileEdit<'_>]) -> Result<Self, String> {
        let mut tree = self.tree.clone();
        for FileEdit { name, text } in edits {
            match text {
                Some(text) => drop(tree.files.0.insert((*name).to_owned(), SourceFile::new(text.as_bytes()))),
                None => drop(tree.files.0.remove(*name)),
            }
            let folder = name.strip_prefix("policies/").and_then(|rest| rest.split_once('/'));
            tree.slugs.extend(folder.and_then(|(folder, _)| PortalSlug::parse(folder)));
        }
        let reading = ReadTree {
            tree,
            is_settled: true,
            place: self
                .folders
                .as_ref()
                .map(|folders| folders.policies.clone())
                .unwrap_or_default(),
            folders: self.folders.clone(),
            is_there: true,
        };
        Self::new(config.loaded_without_secrets()?, reading)
    }

    /// Folders and schemas that no portal reads.
    pub(crate) fn of_no_portal(&self) -> Vec<Finding> {
        let problems = self.tree.of_no_portal(self.portals.iter().map(|portal| &portal.slug));
        problems.iter().map(Finding::of_no_portal).collect()
    }

    /// Loads every portal and runs its decision tests.
    pub(crate) fn load(&self) -> Vec<PortalLoad<'_>> {
        let mut loader = Loader::new(None);
        self.portals.iter().map(|portal| self.load_one(&mut loader, portal)).collect()
    }

    /// Loads every candidate set, as the gate does beside the revision in force.
    pub(crate) fn load_candidates(&self) -> Vec<PortalLoad<'_>> {
        let elsewhere = self.config.policies.candidate.as_ref().map(|folder| {
            let folders = PolicyFolders {
                policies: folder.clone(),
                schemas: self.config.policies.schemas.clone(),
            };
            folders.read()
        });
        let mut loader = Loader::new(None).untested();
        let portals = self.portals.iter().filter_map(|portal| {
            let candidate = match &elsewhere {
                Some(elsewhere) => self.tree.with_candidate_of(elsewhere, &portal.slug),
                None => self.tree.with_candidate(&portal.slug),
            };
            let loaded = loader.load(portal, &candidate?, None);
            Some(PortalLoad {
                portal,
                revision: loaded.revision,
                problems: loaded
                    .rejected
                    .into_iter()
                    .flat_map(|RevisionError { problems }| problems)
                    .map(|problem| at_candidate(problem, &portal.slug, self.config.policies.candidate.as_deref()))
                    .collect(),
            })
        });
        portals.collect()
    }

    /// Loads every portal without running its decision tests. After `keep` it takes what is kept.
    pub(crate) fn load_untested(&self) -> Vec<PortalLoad<'_>> {
        if let Some(kept) = self.kept.get() {
            return self
                .portals
                .iter()
                .zip(kept)
                .map(|(portal, kept)| kept.load(portal))
                .collect();
        }
        let mut loader = Loader::new(None).untested();
        self.portals.iter().map(|portal| self.load_one(&mut loader, portal)).collect()
    }

    /// Loads every portal once, for a command that asks many questions of the same tree.
    pub(crate) fn keep(&self) {
        self.kept.get_or_init(|| {
            let loads = self.load_untested().into_iter();
            loads
                .map(|load| CachedLoad {
                    revision: load.revision,
                    problems: load.problems,
                })
                .collect()
        });
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

    /// The folders of the tree; `None`: it is a bundle.
    pub(crate) fn folders(&self) -> Option<&PolicyFolders> {
        self.folders.as_ref()
    }

    /// Identity of the files, and of the problems of reading them.
    pub(crate) fn hash(&self) -> [u8; 32] {
        let files = self.tree.files.hash();
        let problems = format!("{:?} {:?}", self.tree.problems, self.tree.slugs);
        sha256_of([files.as_slice(), problems.as_bytes()])
    }

    /// Loads every portal with a loader that remembers what it read of another tree, without running decision tests.
    pub(crate) fn load_with(&self, loader: &mut Loader) -> Vec<PortalLoad<'_>> {
        self.portals.iter().map(|portal| self.load_one(loader, portal)).collect()
    }

    /// Every file of the tree.
    pub(crate) fn files(&self) -> &Files {
        &self.tree.files
    }

    /// Files of the tree that could not be read.
    pub(crate) fn problems(&self) -> &[Problem] {
        &self.tree.problems
    }

    /// The text of a file of the tree, or why it is none.
    pub(crate) fn text(&self, name: &str) -> Result<String, Problem> {
        let file = self.tree.files.get(name).ok_or_else(|| Problem::new(name, "is not there"))?;
        file.text(name).map(str::to_owned)
    }

    /// The text of a file of the tree.
    pub(crate) fn source(&self, name: &str) -> Option<String> {
        Some(self.tree.files.get(name)?.text(name).ok()?.to_owned())
    }

    /// The text of a schema file, if it is there and parses by itself.
    pub(crate) fn schema(&self, name: &str) -> Result<Option<&str>, String> {
        let Some(file) = self.tree.files.get(name) else {
            return Ok(None);
        };
        let text = file.text(name).map_err(|problem| problem.to_string())?;
        match schema_problem(name, text) {
            Some(problem) => Err(problem.to_string()),
            None => Ok(Some(text)),
        }
    }

    /// The names of all policy files, emergency forbids and shadow policies included.
    pub(crate) fn policy_files(&self) -> impl Iterator<Item = &str> {
        self.tree
            .files
            .0
            .keys()
            .map(String::as_str)
            .filter(|name| name.ends_with(".cedar"))
    }

    /// Gives a file of the tree another text, at once: a gate or an editor sees the old one or the new one. Refuses a
    /// file that changed after the command read it.
    pub(crate) fn rewrite(&self, name: &str, text: &str) -> Result<(), String> {
        let file = self.unchanged(name)?;
        replace_file(&file, text.as_bytes(), NEW_MODE).map_err(|e| format!("cannot change `{}`: {e}", file.display()))
    }

    /// The path of a file that is as the command read it; the file that a link names, not the link.
    pub(crate) fn unchanged(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.path(name)?;
        let fail = |e: std::io::Error| format!("cannot change `{}`: {e}", path.display());
        let file = path.canonicalize().map_err(fail)?;
        let known = self.tree.files.get(name).map(|file| &*file.bytes);
        if known == Some(std::fs::read(&file).map_err(fail)?.as_slice()) {
            return Ok(file);
        }
        Err(format!(
            "`{}` changed after it was read; run the command again",
            path.display()
        ))
    }

    /// The path of a file or a folder of the tree on this machine.
    pub(super) fn path(&self, name: &str) -> Result<PathBuf, String> {
        let from_bundle = || "the policies come from a bundle, which cannot be changed; name a folder".to_owned();
        let folders = self.folders.as_ref().ok_or_else(from_bundle)?;
        Ok(match (name.strip_prefix("policies/"), name.strip_prefix("schemas/")) {
            (Some(rest), _) => folders.policies.join(rest),
            (None, Some(rest)) => folders.schemas.join(rest),
            (None, None) => PathBuf::from(name),
        })
    }

    /// The portal of that name.
    pub(crate) fn named(&self, slug: &str) -> Result<&PortalScope, String> {
        let portal = self.portals.iter().find(|p| p.slug.as_str() == slug);
        portal.ok_or_else(|| {
            let known: Vec<_> = self.portals.iter().map(|p| p.slug.as_str()).collect();
            no_portal(slug, &known)
        })
    }

    /// Loads one portal without running its decision tests. After `keep` it takes what is kept.
    pub(crate) fn load_untested_one<'a>(&'a self, portal: &'a PortalScope) -> PortalLoad<'a> {
        let at = self.portals.iter().position(|known| known.slug == portal.slug);
        if let Some(kept) = self.kept.get().zip(at).and_then(|(kept, at)| kept.get(at)) {
            return kept.load(portal);
        }
        self.load_one(&mut Loader::new(None).untested(), portal)
    }
}

/// The refusal of a portal's name.
pub(super) fn no_portal(slug: &str, known: &[&str]) -> String {
    format!("there is no portal `{slug}`; {}", crate::config::hint(slug, known))
}

impl CachedLoad {
    fn load<'a>(&self, portal: &'a PortalScope) -> PortalLoad<'a> {
        PortalLoad {
            portal,
            revision: self.revision.clone(),
            problems: self.problems.clone(),
        }
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

/// Reads a bundle from a file; the error is a text for the user.
pub(super) fn read_bundle(path: &Path, trust: Trust<'_>) -> Result<Bundle, String> {
    let bytes = read_small(path, BYTES_MAX).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    Bundle::read(&bytes, trust).map_err(|error| format!("`{}`: {error}", path.display()))
}
