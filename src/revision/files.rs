//! Reading the policy tree: every file a user owns, whole, as it stood at one moment.
//!
//! The only I/O of loading. Follows symlinks (kubelet mounts are made of them), ignores what editors leave lying about,
//! and refuses to read without bounds. Reading says nothing about whether the files are any good.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};

use super::problem::Problem;
use crate::types::PortalSlug;

/// Bytes of one file.
pub const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Files in the whole tree.
const FILES_MAX: usize = 100_000;
/// Folders below the policy folder: portal, then `tests`, `_deny`, `candidate`, then `ALLOW`, `DENY`.
const DEPTH_MAX: usize = 4;

/// One file as it was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SourceFile {
    pub bytes: Arc<[u8]>,
    pub hash: [u8; 32],
}

/// Files by name (`policies/customer/orders.cedar`, `schemas/customer.cedarschema`), in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Files(pub BTreeMap<String, SourceFile>);

/// The whole policy tree at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tree {
    pub files: Files,
    /// Folders of `policies/` that are portals by name.
    pub slugs: BTreeSet<PortalSlug>,
    /// What could not be read; belongs to the portal whose name the path holds, or to all.
    pub problems: Vec<Problem>,
}

/// Where the tree is.
#[derive(Clone, Debug)]
pub struct Places {
    pub policies: PathBuf,
    pub schemas: PathBuf,
}

impl SourceFile {
    pub fn new(bytes: Vec<u8>) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&bytes);
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Self {
            bytes: bytes.into(),
            hash,
        }
    }

    /// The content as text, or a problem that names the file.
    pub fn text(&self, name: &str) -> Result<&str, Problem> {
        std::str::from_utf8(&self.bytes).map_err(|e| {
            Problem::new(
                name,
                format!("is not valid UTF-8 (byte {}); save it as UTF-8", e.valid_up_to()),
            )
        })
    }
}

impl Files {
    /// Identity of the content: names, lengths and bytes; independent of where the tree is.
    pub fn hash(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        for (name, file) in &self.0 {
            context.update(&(name.len() as u64).to_be_bytes());
            context.update(name.as_bytes());
            context.update(&file.hash);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        hash
    }

    pub fn get(&self, name: &str) -> Option<&SourceFile> {
        self.0.get(name)
    }

    fn select(&self, wanted: impl Fn(&str) -> bool) -> Self {
        Self(
            self.0
                .iter()
                .filter(|(name, _)| wanted(name))
                .map(|(n, f)| (n.clone(), f.clone()))
                .collect(),
        )
    }
}

impl Tree {
    /// Reads everything once.
    pub fn read(places: &Places) -> Self {
        let mut tree = Self::default();
        tree.walk(&places.policies, "policies", 0);
        tree.walk(&places.schemas, "schemas", DEPTH_MAX);
        tree
    }

    /// Reads until two readings in a row are identical, so that no half-written file counts.
    ///
    /// `None` after `attempts`: somebody keeps writing; look again later.
    pub fn read_settled(places: &Places, attempts: usize) -> Option<Self> {
        let mut last = Self::read(places);
        for _ in 0..attempts {
            let again = Self::read(places);
            if again == last {
                return Some(again);
            }
            last = again;
        }
        None
    }

    /// What one portal's revision is made of: its folder without the brakes, everything shared, its schemas.
    pub fn portal_files(&self, slug: &PortalSlug) -> Files {
        let own = format!("policies/{slug}/");
        let brakes = format!("policies/{slug}/_deny/");
        let candidate = format!("policies/{slug}/candidate/");
        let schema = format!("schemas/{slug}.cedarschema");
        self.files.select(|name| {
            let mine = name.starts_with(&own) && !name.starts_with(&brakes) && !name.starts_with(&candidate);
            mine || name.starts_with("policies/_shared/") || name == schema || name == "schemas/_shared.cedarschema"
        })
    }

    /// The emergency forbids of one portal.
    pub fn brake_files(&self, slug: &PortalSlug) -> Files {
        let brakes = format!("policies/{slug}/_deny/");
        self.files
            .select(|name| name.starts_with(&brakes) && name.ends_with(".cedar"))
    }

    /// What could not be read for one portal.
    pub fn portal_problems(&self, slug: &PortalSlug) -> Vec<Problem> {
        let own = format!("policies/{slug}/");
        let mine = |file: &str| {
            let foreign =
                file.starts_with("policies/") && file.matches('/').count() > 1 && !file.starts_with("policies/_shared/");
            file.starts_with(&own) || !foreign
        };
        self.problems.iter().filter(|p| mine(&p.file)).cloned().collect()
    }

    fn walk(&mut self, folder: &Path, name: &str, depth: usize) {
        let entries = match fs::read_dir(folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>()) {
            Ok(entries) => entries,
            Err(error) => {
                return self
                    .problems
                    .push(Problem::new(&format!("{name}/"), format!("cannot be read: {error}")));
            }
        };
        for entry in entries {
            let Some(file_name) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            if is_litter(&file_name) {
                continue;
            }
            let child = format!("{name}/{file_name}");
            // metadata follows symlinks: kubelet's files are symlinks into `..data`
            match fs::metadata(entry.path()) {
                Ok(meta) if meta.is_dir() && depth < DEPTH_MAX => {
                    if depth == 0 {
                        self.slugs.extend(PortalSlug::parse(&file_name));
                    }
                    self.walk(&entry.path(), &child, depth + 1);
                }
                Ok(meta) if meta.is_file() => self.read_file(&entry.path(), child, meta.len()),
                Ok(_) => {}
                Err(error) => self.problems.push(Problem::new(&child, format!("cannot be read: {error}"))),
            }
        }
    }

    fn read_file(&mut self, path: &Path, name: String, length: u64) {
        if !is_ours(&name) {
            return;
        }
        if length > FILE_BYTES_MAX {
            return self
                .problems
                .push(Problem::new(&name, format!("is larger than {FILE_BYTES_MAX} bytes")));
        }
        if self.files.0.len() >= FILES_MAX {
            return self
                .problems
                .push(Problem::new(&name, format!("there are more than {FILES_MAX} files")));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        let read = fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
        match read {
            Ok(_) => {
                self.files.0.insert(name, SourceFile::new(bytes));
            }
            Err(error) => self.problems.push(Problem::new(&name, format!("cannot be read: {error}"))),
        }
    }
}

/// Hidden files, kubelet's `..data`, editors' swap and backup files.
fn is_litter(name: &str) -> bool {
    name.starts_with('.') || name.ends_with('~') || (name.starts_with('#') && name.ends_with('#'))
}

/// Kinds of file that mean something to a revision; a README beside them does not.
fn is_ours(name: &str) -> bool {
    [".cedar", ".cedarschema", ".yaml", ".yml", ".json"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn places(root: &Path) -> Places {
        Places {
            policies: root.join("policies"),
            schemas: root.join("schemas"),
        }
    }

    #[test]
    fn a_portal_is_its_folder_the_shared_files_and_its_schemas() {
        let root = tempfile::tempdir().unwrap();
        for name in [
            "policies/_shared/tenant.cedar",
            "policies/a/x.cedar",
            "policies/a/_deny/stop.cedar",
            "policies/a/candidate/y.cedar",
            "policies/a/tests/t.yaml",
            "policies/a/.x.cedar.swp",
            "policies/a/x.cedar~",
            "policies/a/README.md",
            "policies/b/x.cedar",
            "schemas/_shared.cedarschema",
            "schemas/a.cedarschema",
            "schemas/b.cedarschema",
        ] {
            put(root.path(), name, name);
        }
        let tree = Tree::read(&places(root.path()));
        let slug = PortalSlug::parse("a").unwrap();
        let names: Vec<_> = tree.portal_files(&slug).0.into_keys().collect();
        assert_eq!(
            names,
            [
                "policies/_shared/tenant.cedar",
                "policies/a/tests/t.yaml",
                "policies/a/x.cedar",
                "schemas/_shared.cedarschema",
                "schemas/a.cedarschema",
            ]
        );
        assert_eq!(tree.brake_files(&slug).0.len(), 1);
        assert_eq!(tree.slugs.len(), 2);
    }

    #[test]
    fn names_and_contents_cannot_be_confused_in_the_hash() {
        let files = |pairs: &[(&str, &str)]| {
            Files(
                pairs
                    .iter()
                    .map(|(n, t)| ((*n).to_owned(), SourceFile::new(t.as_bytes().to_vec())))
                    .collect(),
            )
        };
        assert_ne!(files(&[("a", "bc")]).hash(), files(&[("ab", "c")]).hash());
        assert_ne!(files(&[("a", ""), ("b", "")]).hash(), files(&[("ab", "")]).hash());
        assert_eq!(files(&[("a", "x")]).hash(), files(&[("a", "x")]).hash());
    }

    #[test]
    fn kubelet_symlinks_are_followed_and_the_data_folder_is_not_read_twice() {
        let root = tempfile::tempdir().unwrap();
        put(
            root.path(),
            "policies/a/..2026/x.cedar",
            "permit(principal, action, resource);",
        );
        std::os::unix::fs::symlink("..2026", root.path().join("policies/a/..data")).unwrap();
        std::os::unix::fs::symlink("..data/x.cedar", root.path().join("policies/a/x.cedar")).unwrap();
        fs::create_dir_all(root.path().join("schemas")).unwrap();
        let tree = Tree::read(&places(root.path()));
        assert_eq!(tree.files.0.keys().collect::<Vec<_>>(), ["policies/a/x.cedar"]);
    }

    #[test]
    fn a_missing_folder_is_a_problem_for_every_portal() {
        let root = tempfile::tempdir().unwrap();
        let tree = Tree::read(&places(root.path()));
        assert_eq!(tree.portal_problems(&PortalSlug::parse("a").unwrap()).len(), 2);
    }
}
