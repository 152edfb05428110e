//! The policy tree at one moment: every policy, schema, entity and test file, by name.
//!
//! The gate reads folders into it; bundles and tests build it from what they have. The files of a tree are not checked
//! yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::problem::Problem;
use super::unread::{Unread, UnreadSeverity};
use crate::digest::sha256_of;
use crate::text;
use crate::types::PortalSlug;

/// One file as it was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SourceFile {
    pub bytes: Arc<[u8]>,
    pub hash: [u8; 32],
}

/// Files by name (`policies/customer/orders.cedar`, `schemas/customer.cedarschema`), in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Files(pub BTreeMap<String, SourceFile>);

/// A file by its name in a folder.
struct NamedFile {
    name: String,
    file: SourceFile,
}

/// The whole policy tree at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tree {
    pub files: Files,
    /// Folders of `policies/` that are portals by name.
    pub slugs: BTreeSet<PortalSlug>,
    /// Files that could not be read; each belongs to the portal whose name its path holds, or to all portals.
    pub problems: Vec<Problem>,
    /// Files that no revision reads.
    pub unread: Vec<Unread>,
    /// Emergency forbids that are being written. Their last good content counts.
    pub unsettled: BTreeSet<String>,
}

impl SourceFile {
    pub fn new(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.into(),
            hash: sha256_of([bytes]),
        }
    }

    /// The content as text, or a problem that names the file.
    pub fn text(&self, name: &str) -> Result<&str, Problem> {
        text::decode(&self.bytes).map_err(|error| Problem::new(name, error.to_string()))
    }
}

impl Files {
    /// Identity of the content: names, lengths and bytes; independent of the folder of the tree.
    pub fn hash(&self) -> [u8; 32] {
        let lengths: Vec<[u8; 8]> = self.0.keys().map(|name| (name.len() as u64).to_be_bytes()).collect();
        let files = self.0.iter().zip(&lengths);
        sha256_of(files.flat_map(|((name, file), length)| [length.as_slice(), name.as_bytes(), file.hash.as_slice()]))
    }

    pub fn get(&self, name: &str) -> Option<&SourceFile> {
        self.0.get(name)
    }

    /// The files below a folder, named with its `/`: names are in order, so nothing else is looked at.
    pub fn below(&self, folder: String) -> impl Iterator<Item = (&String, &SourceFile)> + use<'_> {
        let from = self.0.range(folder.clone()..);
        from.take_while(move |(name, _)| name.starts_with(&folder))
    }

    fn of<'a>(entries: impl Iterator<Item = (&'a String, &'a SourceFile)>) -> Self {
        Self(entries.map(|(name, file)| (name.clone(), file.clone())).collect())
    }
}

impl Tree {
    /// True if one portal is made of the same files, emergency forbids and problems in both trees. An emergency forbid
    /// that is being written, whose last good content holds, differs from one that is gone.
    pub fn is_same_for(&self, other: &Self, slug: &PortalSlug) -> bool {
        self.is_same_candidate(other, slug)
            && self.emergency_entries(slug).eq(other.emergency_entries(slug))
            && self.unsettled == other.unsettled
    }

    /// The same, emergency forbids left out.
    pub fn is_same_candidate(&self, other: &Self, slug: &PortalSlug) -> bool {
        self.portal_entries(slug).eq(other.portal_entries(slug))
            && self.portal_problems(slug) == other.portal_problems(slug)
            && self.portal_strays(slug) == other.portal_strays(slug)
    }

    /// Marks emergency forbids as being written: their content of this reading does not count.
    #[must_use]
    pub fn without_unsettled(&self, names: BTreeSet<String>) -> Self {
        let mut tree = self.clone();
        names.iter().for_each(|name| drop(tree.files.0.remove(name)));
        tree.unsettled = names;
        tree
    }

    /// The files of one portal's revision: its folder without the emergency forbids, the shared policies, its schemas.
    pub fn portal_files(&self, slug: &PortalSlug) -> Files {
        Files::of(self.portal_entries(slug))
    }

    /// The tree of one portal in which its candidate set takes the place of its own policies. `None`: there is no
    /// candidate.
    pub fn with_candidate(&self, slug: &PortalSlug) -> Option<Self> {
        let folder = format!("policies/{slug}/candidate/");
        self.with_policies(slug, self.policies_in(folder).collect())
    }

    /// The same with the candidate of another tree: its files of this portal.
    pub fn with_candidate_of(&self, other: &Self, slug: &PortalSlug) -> Option<Self> {
        self.with_policies(slug, other.policies_in(format!("policies/{slug}/")).collect())
    }

    /// Policy files directly in a folder, by their names in it.
    fn policies_in(&self, folder: String) -> impl Iterator<Item = NamedFile> {
        let files = self.files.below(folder.clone());
        files.filter_map(move |(name, file)| {
            let name = name.strip_prefix(&folder)?;
            let is_policy = name.ends_with(".cedar") && !name.contains('/');
            is_policy.then(|| NamedFile {
                name: name.to_owned(),
                file: file.clone(),
            })
        })
    }

    fn with_policies(&self, slug: &PortalSlug, policies: Vec<NamedFile>) -> Option<Self> {
        if policies.is_empty() {
            return None;
        }
        let own = format!("policies/{slug}/");
        let is_own_policy = |name: &str| {
            name.strip_prefix(&own)
                .is_some_and(|rest| rest.ends_with(".cedar") && !rest.contains('/'))
        };
        let kept = self.portal_entries(slug).filter(|(name, _)| !is_own_policy(name));
        let mut files = Files::of(kept.chain(self.emergency_entries(slug)));
        files.0.extend(
            policies
                .into_iter()
                .map(|policy| (format!("{own}{}", policy.name), policy.file)),
        );
        Some(Self {
            files,
            ..Self::default()
        })
    }

    /// The emergency forbids of one portal.
    pub fn emergency_files(&self, slug: &PortalSlug) -> Files {
        Files::of(self.emergency_entries(slug))
    }

    fn portal_entries(&self, slug: &PortalSlug) -> impl Iterator<Item = (&String, &SourceFile)> {
        let own = format!("policies/{slug}/");
        let apart = [format!("{own}_deny/"), format!("{own}candidate/")];
        let is_apart = move |name: &str| apart.iter().any(|folder| name.starts_with(folder));
        let own_files = self.files.below(own).filter(move |(name, _)| !is_apart(name));
        let schemas = [
            format!("schemas/{slug}.cedarschema"),
            "schemas/_shared.cedarschema".to_owned(),
        ];
        let schemas = schemas.into_iter().filter_map(|name| self.files.0.get_key_value(&name));
        own_files
            .chain(self.files.below("policies/_shared/".to_owned()))
            .chain(schemas)
    }

    fn emergency_entries(&self, slug: &PortalSlug) -> impl Iterator<Item = (&String, &SourceFile)> {
        let folder = format!("policies/{slug}/_deny/");
        self.files.below(folder).filter(|(name, _)| name.ends_with(".cedar"))
    }

    /// Files of one portal that are not read and look like nothing that decides.
    pub fn portal_strays(&self, slug: &PortalSlug) -> Vec<Problem> {
        self.unread_of(slug, UnreadSeverity::Stray)
    }

    /// Folders and schemas that no portal reads, although their names are those of portals.
    pub fn of_no_portal<'a>(&self, portals: impl IntoIterator<Item = &'a PortalSlug>) -> Vec<Problem> {
        let portals: BTreeSet<&PortalSlug> = portals.into_iter().collect();
        let problem = |name: &str, slug: &PortalSlug| {
            let help = match slug.as_str() {
                "shared" => "policies and types for every portal are in policies/_shared/ and schemas/_shared.cedarschema",
                _ => "rename it after its portal, or remove it; if cedargate.yaml has `portals`, only those are portals",
            };
            Problem::new(name, format!("is not read: there is no portal `{slug}`")).with_help(help)
        };
        let folders = self.slugs.iter().filter(|slug| !portals.contains(slug));
        let folders = folders.map(|slug| problem(&format!("policies/{slug}/"), slug));
        let schemas = self.files.below("schemas/".to_owned()).filter_map(|(name, _)| {
            let slug = PortalSlug::parse(name.strip_prefix("schemas/")?.strip_suffix(".cedarschema")?)?;
            (!portals.contains(&slug)).then(|| problem(name, &slug))
        });
        folders.chain(schemas).collect()
    }

    fn unread_of(&self, slug: &PortalSlug, severity: UnreadSeverity) -> Vec<Problem> {
        let found = self
            .unread
            .iter()
            .filter(|unread| unread.severity == severity && unread.concerns(slug));
        found.map(|unread| unread.problem.clone()).collect()
    }

    /// Problems of one portal: its own files, the shared ones, the roots themselves, and files that look like policies
    /// and are not read.
    pub fn portal_problems(&self, slug: &PortalSlug) -> Vec<Problem> {
        let is_own = |file: &str| {
            ["policies/", "schemas/", "schemas/_shared.cedarschema", "policies/_shared"].contains(&file)
                || file.starts_with("policies/_shared/")
                || file == format!("policies/{slug}")
                || file.starts_with(&format!("policies/{slug}/"))
                || file == format!("schemas/{slug}.cedarschema")
        };
        let mut problems: Vec<Problem> = self.problems.iter().filter(|p| is_own(&p.file)).cloned().collect();
        problems.extend(self.unread_of(slug, UnreadSeverity::Mistake));
        problems
    }

    /// True if a missing file may exist: it is being written, or the file or a folder above it could not be read.
    pub fn is_in_doubt(&self, name: &str) -> bool {
        if self.unsettled.contains(name) {
            return true;
        }
        self.problems.iter().any(|problem| {
            let rest = name.strip_prefix(problem.file.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_contents_cannot_be_confused_in_the_hash() {
        let files = |pairs: &[(&str, &str)]| {
            Files(
                pairs
                    .iter()
                    .map(|(n, t)| ((*n).to_owned(), SourceFile::new(t.as_bytes())))
                    .collect(),
            )
        };
        assert_ne!(files(&[("a", "bc")]).hash(), files(&[("ab", "c")]).hash());
        assert_ne!(files(&[("a", ""), ("b", "")]).hash(), files(&[("ab", "")]).hash());
        assert_eq!(files(&[("a", "x")]).hash(), files(&[("a", "x")]).hash());
    }
}
