//! Reads the policy tree from folders: the only I/O of loading policies.
//!
//! Follows symlinks that stay inside their portal's folder (kubelet mounts are made of them), ignores the temporary
//! files of editors, and reads within bounds. An editor may be writing while the gate reads: `read_twice` reads until
//! two readings are identical, so that no half-written file counts.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use cedargate_policy::revision::problem::Problem;
use cedargate_policy::revision::source::{SourceFile, Tree};
use cedargate_policy::revision::unread::Unread;
use cedargate_policy::types::PortalSlug;

/// Bytes of all files of one folder below `policies/`, or of `schemas/`: the memory that one portal's owner can use.
pub const FOLDER_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Directory entries of one such folder, so that neither many files nor circular symlinks in one folder delay the other
/// folders.
const FOLDER_ENTRIES_MAX: usize = 100_000;
/// The same for the emergency forbids of one portal, where they are read apart from everything else.
const EMERGENCY_BYTES_MAX: u64 = 1024 * 1024;
const EMERGENCY_ENTRIES_MAX: usize = 1000;
/// Folders below the policy folder: portal, then `tests`, `_deny`, `candidate`, then `ALLOW`, `DENY`.
pub const DEPTH_MAX: usize = 4;

/// The part of the tree that may have changed since a reading.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scope {
    Everything,
    /// These entries of the two roots, named like files (`policies/customer`); every other entry is unchanged.
    Entries(BTreeSet<String>),
}

/// One reading of the tree: the reading before, the part that may have changed since, and the result.
struct FolderReader<'a> {
    tree: Tree,
    known: &'a Tree,
    scope: &'a Scope,
    /// Buffer for the file that is being read.
    bytes: Vec<u8>,
}

/// The entries and bytes that may still be read from one folder, and the folder itself.
struct Budget {
    entries: usize,
    bytes: u64,
    /// No link below it may lead out of it.
    folder: PathBuf,
}

/// The two roots of the tree.
#[derive(Clone, Debug)]
pub struct PolicyFolders {
    pub policies: PathBuf,
    pub schemas: PathBuf,
}

/// The two last readings of a tree. A part that differs between them was still being written and must not be used.
pub struct Readings {
    pub before: Tree,
    pub last: Tree,
}

/// Where a problem of a candidate set is: its policies are loaded under the names of the portal's own. `elsewhere` is
/// the folder of `policies.candidate`.
pub fn at_candidate(problem: Problem, slug: &PortalSlug, elsewhere: Option<&Path>) -> Problem {
    let own = format!("policies/{slug}/");
    let name = problem.file.strip_prefix(&own);
    let policy = name.filter(|name| name.ends_with(".cedar") && !name.contains('/'));
    let file = policy.map(|policy| match elsewhere {
        Some(folder) => folder.join(slug.as_str()).join(policy).display().to_string(),
        None => format!("{own}candidate/{policy}"),
    });
    Problem {
        file: file.unwrap_or(problem.file),
        ..problem
    }
}

impl PolicyFolders {
    /// Reads everything once.
    pub fn read(&self) -> Tree {
        self.read_again(&Tree::default(), &Scope::Everything)
    }

    /// Reads once the part of the tree that may have changed since `known`. A file with unchanged content is taken
    /// over: it is neither hashed again nor stored twice.
    pub fn read_again(&self, known: &Tree, scope: &Scope) -> Tree {
        let roots = [&self.policies, &self.schemas];
        // an entry that is a link may change under another name than its own
        let scope = if roots.into_iter().any(|root| has_links(root)) {
            &Scope::Everything
        } else {
            scope
        };
        let mut reader = FolderReader {
            tree: Tree::default(),
            known,
            scope,
            bytes: Vec::new(),
        };
        reader.walk(&self.policies, "policies", 0, &mut Budget::full(&self.policies));
        // one level below `schemas/` is read only to name what lies there
        reader.walk(&self.schemas, "schemas", DEPTH_MAX - 1, &mut Budget::full(&self.schemas));
        reader.tree
    }

    /// Reads the emergency forbids of one portal, as far as they are few and small: `EMERGENCY_ENTRIES_MAX` and
    /// `EMERGENCY_BYTES_MAX`. The others wait for a reading of the whole tree.
    pub fn read_emergency_forbids(&self, slug: &PortalSlug, known: &Tree) -> Tree {
        let folder = self.policies.join(slug.as_str());
        let mut reader = FolderReader {
            tree: Tree::default(),
            known,
            scope: &Scope::Everything,
            bytes: Vec::new(),
        };
        let mut budget = Budget {
            entries: EMERGENCY_ENTRIES_MAX,
            bytes: EMERGENCY_BYTES_MAX,
            folder: folder.clone(),
        };
        reader.walk(&folder.join("_deny"), &format!("policies/{slug}/_deny"), 2, &mut budget);
        reader.tree
    }

    /// Reads until two readings in a row are identical, so that no half-written file counts.
    ///
    /// `None` after `attempts`: an editor keeps writing; the caller reads again later.
    pub fn read_settled(&self, attempts: usize) -> Option<Tree> {
        let Readings { before, last } = self.read_twice(&Tree::default(), &Scope::Everything, attempts);
        (before == last).then_some(last)
    }

    /// Reads until two readings in a row are identical, at most `attempts` times.
    pub fn read_twice(&self, known: &Tree, scope: &Scope, attempts: usize) -> Readings {
        let mut before = self.read_again(known, scope);
        let mut last = self.read_again(&before, scope);
        for _ in 1..attempts {
            if before == last {
                break;
            }
            let next = self.read_again(&last, scope);
            before = std::mem::replace(&mut last, next);
        }
        Readings { before, last }
    }
}

impl FolderReader<'_> {
    fn walk(&mut self, folder: &Path, name: &str, depth: usize, budget: &mut Budget) {
        let entries = match fs::read_dir(folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>()) {
            Ok(entries) => entries,
            Err(error) => return self.problem(&format!("{name}/"), format!("cannot be read: {error}")),
        };
        for entry in entries {
            let file_name = entry.file_name();
            let shown = file_name.to_string_lossy();
            if is_temporary(&shown) {
                continue;
            }
            let child = format!("{name}/{shown}");
            if ["policies", "schemas"].contains(&name) && self.take_over(&child, budget) {
                continue;
            }
            // the files directly in `policies/` have a budget of their own
            let mut own = Budget::full(&entry.path());
            let budget = if depth == 0 { &mut own } else { &mut *budget };
            if budget.entries == 0 {
                return self.problem(
                    &format!("{name}/"),
                    format!("there are more than {FOLDER_ENTRIES_MAX} entries"),
                );
            }
            budget.entries -= 1;
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            let is_read = is_policy_file(&child) || entry.path().is_dir();
            if is_link && is_read && budget.is_left_by(&entry.path()) {
                self.problem(&child, "is a link that leads out of its folder; copy the file instead");
                continue;
            }
            // metadata follows symlinks: kubelet's files are symlinks into `..data`
            match fs::metadata(entry.path()) {
                Err(error) => {
                    // a portal whose folder is broken keeps its traffic, and denies
                    self.tree.slugs.extend(PortalSlug::parse(&shown).filter(|_| depth == 0));
                    self.problem(&child, format!("cannot be read: {error}"));
                }
                Ok(meta) if (meta.is_dir() || is_policy_file(&child)) && file_name.to_str().is_none() => {
                    self.problem(&child, "has a name that is not UTF-8; rename it");
                }
                Ok(meta) if meta.is_dir() && is_policy_file(&child) => {
                    self.problem(&child, "is a folder with the name of a file; rename it");
                }
                Ok(meta) if meta.is_dir() && depth < DEPTH_MAX => {
                    if depth == 0 {
                        self.tree.slugs.extend(PortalSlug::parse(&shown));
                    }
                    self.walk(&entry.path(), &child, depth + 1, budget);
                }
                Ok(meta) if meta.is_dir() => self.tree.unread.push(Unread::too_deep(&child)),
                Ok(meta) if meta.is_file() => {
                    self.tree.unread.extend(Unread::of(&child));
                    self.read_file(&entry.path(), child, meta.len(), budget);
                }
                Ok(_) if is_policy_file(&child) => self.problem(&child, "is not a regular file"),
                Ok(_) => {}
            }
        }
    }

    /// Takes over an entry of a root that no event named, if it was there before.
    fn take_over(&mut self, child: &str, budget: &mut Budget) -> bool {
        match self.scope {
            Scope::Everything => return false,
            Scope::Entries(touched) if touched.contains(child) => return false,
            Scope::Entries(_) => {}
        }
        let known = self.known;
        let folder = format!("{child}/");
        let files: Vec<_> = match known.files.0.get_key_value(child) {
            Some(file) => vec![file],
            None => known.files.below(folder.clone()).collect(),
        };
        if files.is_empty() {
            return false;
        }
        let slug = child.strip_prefix("policies/").and_then(PortalSlug::parse);
        self.tree.slugs.extend(slug.filter(|slug| known.slugs.contains(slug)));
        let of_child = |problem: &&Problem| problem.file == child || problem.file.starts_with(&folder);
        self.tree.problems.extend(known.problems.iter().filter(of_child).cloned());
        let unread = known.unread.iter().filter(|unread| of_child(&&unread.problem));
        self.tree.unread.extend(unread.cloned());
        for (name, file) in files {
            budget.entries = budget.entries.saturating_sub(usize::from(name == child));
            budget.bytes = budget.bytes.saturating_sub(file.bytes.len() as u64);
            self.tree.files.0.insert(name.clone(), file.clone());
        }
        true
    }

    fn problem(&mut self, name: &str, message: impl Into<String>) {
        self.tree.problems.push(Problem::new(name, message));
    }

    fn read_file(&mut self, path: &Path, name: String, length: u64, budget: &mut Budget) {
        if !is_policy_file(&name) {
            return;
        }
        let too_large = format!("makes its folder larger than {FOLDER_BYTES_MAX} bytes");
        if length > budget.bytes {
            return self.problem(&name, too_large);
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let read = open(path).and_then(|file| file.take(budget.bytes + 1).read_to_end(&mut bytes));
        match read {
            Err(error) => self.problem(&name, format!("cannot be read: {error}")),
            Ok(_) if bytes.len() as u64 > budget.bytes => self.problem(&name, too_large),
            Ok(_) => {
                budget.bytes -= bytes.len() as u64;
                let known = self.known.files.get(&name).filter(|known| *known.bytes == *bytes);
                let file = known.cloned().unwrap_or_else(|| SourceFile::new(&bytes));
                self.tree.files.0.insert(name, file);
            }
        }
        self.bytes = bytes;
    }
}

impl Budget {
    fn full(folder: &Path) -> Self {
        Self {
            entries: FOLDER_ENTRIES_MAX,
            bytes: FOLDER_BYTES_MAX,
            folder: folder.to_owned(),
        }
    }

    /// SECURITY: True for a link out of the folder. The owner of one portal's folder must not have the gate read, and
    /// show in an error message, files of other portals and secrets of the pod.
    fn is_left_by(&self, link: &Path) -> bool {
        let (Ok(target), Ok(folder)) = (fs::canonicalize(link), fs::canonicalize(&self.folder)) else {
            // it cannot be read, which is reported as such
            return false;
        };
        !target.starts_with(folder)
    }
}

/// True if any entry is a symlink, as in kubelet's mounts.
fn has_links(root: &Path) -> bool {
    let is_link = |entry: io::Result<fs::DirEntry>| entry.and_then(|e| e.file_type()).is_ok_and(|ty| ty.is_symlink());
    fs::read_dir(root).is_ok_and(|mut entries| entries.any(is_link))
}

/// Opens a regular file without blocking: a FIFO that replaced the file after it was listed would block every reload.
fn open(path: &Path) -> io::Result<fs::File> {
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("is not a regular file"))
    }
}

/// The endings of files that editors and tools write beside the one that they change.
const TEMPORARY: [&str; 9] = ["~", ".swp", ".swo", ".swx", ".tmp", ".bak", ".orig", ".rej", ".part"];

/// True for hidden files, kubelet's `..data`, and editors' swap and backup files.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.')
        || TEMPORARY.iter().any(|ending| name.ends_with(ending))
        || (name.starts_with('#') && name.ends_with('#'))
        // the file by which vim tests a folder, and the copies that IntelliJ makes
        || name == "4913"
        || name.contains("___jb_")
}

/// True for the kinds of file that a revision can contain; a README beside them is ignored.
pub fn is_policy_file(name: &str) -> bool {
    [".cedar", ".cedarschema", ".yaml", ".yml", ".json"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn put(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn places(root: &Path) -> PolicyFolders {
        PolicyFolders {
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
        let tree = places(root.path()).read();
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
        assert_eq!(tree.emergency_files(&slug).0.len(), 1);
        assert_eq!(tree.slugs.len(), 2);
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
        let tree = places(root.path()).read();
        assert_eq!(tree.files.0.keys().collect::<Vec<_>>(), ["policies/a/x.cedar"]);
    }

    #[test]
    fn a_link_out_of_a_portals_folder_is_a_problem_and_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "secret.cedar", "hunter2");
        put(root.path(), "secrets/x.cedar", "hunter2");
        put(root.path(), "policies/b/x.cedar", "hunter2");
        put(root.path(), "mounted/x.cedar", "permit(principal, action, resource);");
        put(root.path(), "policies/a/own.cedar", "permit(principal, action, resource);");
        put(root.path(), "schemas/b.cedarschema", "entity B;");
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(root.path().join(to), root.path().join(name)).unwrap();
        link("secret.cedar", "policies/a/file.cedar");
        link("policies/b/x.cedar", "policies/a/other.cedar");
        link("secrets", "policies/a/tests");
        link("secret.cedar", "policies/a/README.md");
        link("policies/a/own.cedar", "policies/a/again.cedar");
        link("secret.cedar", "schemas/a.cedarschema");
        link("schemas/b.cedarschema", "schemas/c.cedarschema");
        // an entry of the root belongs to the operator, who may mount it from elsewhere
        link("mounted", "policies/m");
        let tree = places(root.path()).read();
        let read: Vec<_> = tree.files.0.keys().map(String::as_str).collect();
        let expected = [
            "policies/a/again.cedar",
            "policies/a/own.cedar",
            "policies/b/x.cedar",
            "policies/m/x.cedar",
            "schemas/b.cedarschema",
            "schemas/c.cedarschema",
        ];
        assert_eq!(read, expected);
        let mut problems: Vec<_> = tree.problems.iter().map(|problem| problem.file.as_str()).collect();
        problems.sort_unstable();
        let out = [
            "policies/a/file.cedar",
            "policies/a/other.cedar",
            "policies/a/tests",
            "schemas/a.cedarschema",
        ];
        assert_eq!(problems, out);
        assert!(
            tree.problems
                .iter()
                .all(|problem| problem.message.contains("leads out of its folder"))
        );
    }

    #[test]
    fn a_missing_folder_is_a_problem_for_every_portal() {
        let root = tempfile::tempdir().unwrap();
        let tree = places(root.path()).read();
        assert_eq!(tree.portal_problems(&PortalSlug::parse("a").unwrap()).len(), 2);
    }

    #[test]
    fn an_untouched_entry_is_taken_over_and_equal_content_is_the_same_file() {
        let root = tempfile::tempdir().unwrap();
        for name in [
            "policies/a/x.cedar",
            "policies/b/x.cedar",
            "policies/_shared/s.cedar",
            "schemas/a.cedarschema",
        ] {
            put(root.path(), name, name);
        }
        std::os::unix::fs::symlink("nowhere", root.path().join("policies/b/gone.cedar")).unwrap();
        let (places, touched) = (places(root.path()), |names: &[&str]| {
            Scope::Entries(names.iter().map(|name| (*name).to_owned()).collect())
        });
        let first = places.read();
        put(root.path(), "policies/a/x.cedar", "edited");
        put(root.path(), "policies/b/x.cedar", "edited");
        put(root.path(), "policies/c/deep/er/still/x.cedar", "new");
        put(root.path(), "schemas/c.cedarschema", "new");
        let second = places.read_again(&first, &touched(&["policies/a"]));
        let text = |tree: &Tree, name: &str| String::from_utf8(tree.files.get(name).unwrap().bytes.to_vec()).unwrap();
        assert_eq!(text(&second, "policies/a/x.cedar"), "edited");
        assert_eq!(text(&second, "policies/b/x.cedar"), "policies/b/x.cedar");
        assert_eq!(
            text(&second, "schemas/c.cedarschema"),
            "new",
            "what was not there is always read"
        );
        assert_eq!(second.slugs.len(), 3);
        assert_eq!(second.problems, first.problems);
        let third = places.read_again(&second, &Scope::Everything);
        assert_eq!(third, places.read());
        let bytes = |tree: &Tree, name: &str| Arc::clone(&tree.files.get(name).unwrap().bytes);
        assert!(Arc::ptr_eq(
            &bytes(&second, "policies/a/x.cedar"),
            &bytes(&third, "policies/a/x.cedar")
        ));
        assert_eq!(places.read_again(&third, &touched(&["policies/c"])), third);
        fs::remove_dir_all(root.path().join("policies/b")).unwrap();
        assert_eq!(
            places.read_again(&third, &touched(&[])),
            places.read(),
            "a removed folder is not in the tree any more"
        );
    }

    #[test]
    fn where_an_entry_is_a_link_everything_is_read() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "policies/a/x.cedar", "one");
        put(root.path(), "schemas/a.cedarschema", "");
        std::os::unix::fs::symlink("a", root.path().join("policies/b")).unwrap();
        let first = places(root.path()).read();
        put(root.path(), "policies/a/x.cedar", "two");
        let only_a = Scope::Entries(["policies/a".to_owned()].into());
        assert_eq!(places(root.path()).read_again(&first, &only_a), places(root.path()).read());
    }

    fn slug(name: &str) -> PortalSlug {
        PortalSlug::parse(name).unwrap()
    }

    fn problems_of(tree: &Tree, name: &str) -> Vec<String> {
        tree.portal_problems(&slug(name)).into_iter().map(|p| p.file).collect()
    }

    #[test]
    fn a_pipe_a_loop_and_a_folder_named_like_a_policy_are_problems_of_their_portal_alone() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "policies/a/x.cedar/inner.txt", "");
        put(root.path(), "policies/b/x.cedar", "");
        put(root.path(), "schemas/b.cedarschema", "");
        let made = std::process::Command::new("mkfifo")
            .arg(root.path().join("policies/a/pipe.cedar"))
            .status();
        assert!(made.unwrap().success());
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, root.path().join(name)).unwrap();
        link("loop.cedar", "policies/a/loop.cedar");
        link("missing", "policies/gone");
        link("missing", "schemas/a.cedarschema");
        let tree = places(root.path()).read();
        let mut found = problems_of(&tree, "a");
        found.sort();
        let expected = [
            "policies/a/loop.cedar",
            "policies/a/pipe.cedar",
            "policies/a/x.cedar",
            "schemas/a.cedarschema",
        ];
        assert_eq!(found, expected);
        assert!(problems_of(&tree, "b").is_empty(), "{:?}", tree.problems);
        assert!(tree.is_in_doubt("policies/gone/_deny/x.cedar"));
        assert!(!tree.is_in_doubt("policies/gone2/_deny/x.cedar"));
    }

    #[test]
    fn a_policy_whose_name_is_not_utf_8_is_not_dropped_silently() {
        use std::os::unix::ffi::OsStrExt;
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "policies/a/x.cedar", "");
        put(root.path(), "schemas/a.cedarschema", "");
        let name = std::ffi::OsStr::from_bytes(b"forbid-\xff.cedar");
        fs::write(root.path().join("policies/a").join(name), "").unwrap();
        let tree = places(root.path()).read();
        assert_eq!(tree.portal_problems(&slug("a")).len(), 1, "{:?}", tree.problems);
    }

    #[test]
    fn a_fifo_in_a_files_place_is_refused_without_waiting_for_a_writer() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.cedar");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        assert!(open(&path).unwrap_err().to_string().contains("not a regular file"));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "x").unwrap();
        assert!(open(&path).is_ok());
    }

    #[test]
    fn one_portals_symlinks_in_circles_and_sparse_giants_cost_the_others_nothing() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "policies/a/x.cedar", "");
        put(root.path(), "policies/b/x.cedar", "");
        put(root.path(), "schemas/b.cedarschema", "");
        for n in 0..60 {
            std::os::unix::fs::symlink(".", root.path().join(format!("policies/a/loop-{n}"))).unwrap();
        }
        put(root.path(), "policies/c/big.json", "");
        let big = fs::OpenOptions::new()
            .write(true)
            .open(root.path().join("policies/c/big.json"));
        big.unwrap().set_len(FOLDER_BYTES_MAX + 1).unwrap();
        let tree = places(root.path()).read();
        let found: Vec<_> = tree.portal_problems(&slug("a")).into_iter().map(|p| p.message).collect();
        assert!(found.iter().any(|m| m.contains("entries")), "{found:?}");
        assert!(found.len() < 100, "one finding per folder, not per entry: {}", found.len());
        assert_eq!(problems_of(&tree, "c"), ["policies/c/big.json"]);
        assert!(problems_of(&tree, "b").is_empty());
        assert!(tree.files.get("policies/b/x.cedar").is_some());
    }
}
