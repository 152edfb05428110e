//! The policy tree of a git revision, read by the program `git` without touching the work tree.
//!
//! Reads the blobs themselves and no archive of them, so that attributes for exports and line ends change nothing. A
//! revision is resolved to its hash first; only the hash goes into further commands.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use cedargate_policy::revision::problem::Problem;
use cedargate_policy::revision::source::{SourceFile, Tree};
use cedargate_policy::revision::unread::Unread;
use cedargate_policy::types::PortalSlug;

use crate::policy_folders::is_policy_file;

/// Bytes of all files of a revision.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// One file of a listing.
struct Listed {
    name: String,
    mode: String,
    blob: String,
}

/// Reads `REVISION` or `REVISION:FOLDER`; without a folder, the current one.
pub(in crate::cli) fn tree(text: &str, place: &Path) -> Result<Tree, String> {
    let git = Git { place };
    let (revision, folder) = match text.split_once(':') {
        Some((revision, folder)) => (revision, Some(folder)),
        None => (text, None),
    };
    let hash = git.hash_of(revision)?;
    let folder = match folder {
        Some(folder) => folder.trim_matches('/').to_owned(),
        None => git
            .said(&["rev-parse", "--show-prefix"])?
            .trim()
            .trim_end_matches('/')
            .to_owned(),
    };
    let mut tree = Tree::default();
    let listed = git.list(&hash, &folder)?;
    let is_policy = |listed: &Listed| listed.name.starts_with("policies/");
    if !listed.iter().any(is_policy) {
        let place = if folder.is_empty() { "." } else { &folder };
        return Err(format!(
            "`{revision}` has no folder `policies` in `{place}`; name the folder that has `policies/` and `schemas/` in it as \
             `{revision}:FOLDER`"
        ));
    }
    let mut wanted = Vec::new();
    for file in listed {
        let folder = file.name.strip_prefix("policies/").and_then(|rest| rest.split_once('/'));
        tree.slugs.extend(folder.and_then(|(slug, _)| PortalSlug::parse(slug)));
        tree.unread.extend(Unread::of(&file.name));
        match file.mode.as_str() {
            _ if !is_policy_file(&file.name) => {}
            "100644" | "100755" => wanted.push(file),
            _ => tree.problems.push(Problem::new(
                &file.name,
                "is a link in the repository; commit the file itself instead",
            )),
        }
    }
    for (file, bytes) in wanted.iter().zip(git.contents(&wanted)?) {
        tree.files.0.insert(file.name.clone(), SourceFile::new(&bytes));
    }
    Ok(tree)
}

/// The program, run in a folder of the repository.
struct Git<'a> {
    place: &'a Path,
}

impl Git<'_> {
    fn hash_of(&self, revision: &str) -> Result<String, String> {
        let commit = format!("{revision}^{{commit}}");
        let hash = self.said(&["rev-parse", "--verify", "--quiet", "--end-of-options", &commit]).map_err(|error| match error {
        GitError::Failed(_) => {
            format!("`{revision}` is no folder, no bundle and no git revision of this repository; a folder has `policies/` in it")
        }
        error => error.to_string(),
    })?;
        Ok(hash.trim().to_owned())
    }

    /// The files in `policies/` and `schemas/` of a folder of the revision.
    fn list(&self, hash: &str, folder: &str) -> Result<Vec<Listed>, String> {
        let prefix = if folder.is_empty() {
            String::new()
        } else {
            format!("{folder}/")
        };
        let roots = ["policies", "schemas"].map(|root| format!("{prefix}{root}/"));
        let arguments = ["ls-tree", "-r", "-z", "--full-tree", hash, "--", &roots[0], &roots[1]];
        let listing = self.said(&arguments)?;
        let line = |line: &str| {
            let (about, name) = line.split_once('\t')?;
            let mut about = about.split(' ');
            let mode = about.next()?;
            about.next()?;
            let blob = about.next()?;
            Some(Listed {
                name: name.strip_prefix(&prefix)?.to_owned(),
                mode: mode.to_owned(),
                blob: blob.to_owned(),
            })
        };
        Ok(listing.split('\0').filter_map(line).collect())
    }

    /// The contents of the files, in their order.
    fn contents(&self, files: &[Listed]) -> Result<Vec<Vec<u8>>, String> {
        let mut git = self
            .command(&["cat-file", "--batch"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| GitError::Absent(error).to_string())?;
        let unreadable = || "git does not give the files of the revision".to_owned();
        let (mut input, output) = git.stdin.take().zip(git.stdout.take()).ok_or_else(unreadable)?;
        // a thread of its own writes the names: git answers while it reads
        let names: String = files.iter().map(|file| format!("{}\n", file.blob)).collect();
        let writer = std::thread::spawn(move || input.write_all(names.as_bytes()));
        let mut all = Vec::new();
        let read = output.take(BYTES_MAX + 1).read_to_end(&mut all);
        // a git that ended early shows in what it gave
        let _written = writer.join();
        // the output is at its end, or more than is read of it
        let _ended = git.kill().and_then(|()| git.wait());
        read.map_err(|error| format!("cannot read from git: {error}"))?;
        if all.len() as u64 > BYTES_MAX {
            return Err(format!("the files of the revision are larger than {BYTES_MAX} bytes"));
        }
        let mut rest = all.as_slice();
        files.iter().map(|_| next_blob(&mut rest).ok_or_else(unreadable)).collect()
    }
}

/// `<hash> blob <size>`, a line break, the content, a line break.
fn next_blob(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let head = std::str::from_utf8(rest.get(..end)?).ok()?;
    let size: usize = head.split(' ').nth(2)?.parse().ok()?;
    let content = rest.get(end + 1..end + 1 + size)?.to_vec();
    *rest = rest.get(end + 2 + size..)?;
    Some(content)
}

#[derive(Debug, thiserror::Error)]
enum GitError {
    #[error("a git revision needs the program `git`, and it cannot be started: {0}")]
    Absent(std::io::Error),
    #[error("git: {0}")]
    Failed(String),
}

impl From<GitError> for String {
    fn from(error: GitError) -> Self {
        error.to_string()
    }
}

impl Git<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(self.place);
        command
    }

    /// The output of a git command.
    fn said(&self, arguments: &[&str]) -> Result<String, GitError> {
        let output = self
            .command(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(GitError::Absent)?;
        if !output.status.success() {
            return Err(GitError::Failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        String::from_utf8(output.stdout).map_err(|_why| GitError::Failed("a file has a name that is not UTF-8".to_owned()))
    }
}
