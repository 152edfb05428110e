//! Where the workbench may write: files of the tree, in the tree's own folders.
//!
//! SECURITY: names come from the page, and links in a tree may lead anywhere. Each function returns the path of a file
//! below the folders of the tree, after links, or an error.

use std::path::{Path, PathBuf};

use crate::cli::tree::Workbench;
use crate::policy_folders::{DEPTH_MAX, is_policy_file, is_temporary};

/// Bytes of a name.
const NAME_BYTES_MAX: usize = 500;

/// The path of a file that the tree has.
pub(super) fn known(workbench: &Workbench, name: &str) -> Result<PathBuf, String> {
    let path = workbench.path(name)?;
    let file = path
        .canonicalize()
        .map_err(|error| format!("`{}`: {error}", path.display()))?;
    if is_inside(workbench, &file) {
        return Ok(path);
    }
    Err(format!(
        "`{name}` is a link to `{}`, outside of the policy tree; edit it there",
        file.display()
    ))
}

/// The path of a file that the tree has and that is no link: what is renamed or deleted is the file itself.
pub(super) fn known_file(workbench: &Workbench, name: &str) -> Result<PathBuf, String> {
    let path = known(workbench, name)?;
    let is_link = path.symlink_metadata().is_ok_and(|about| about.is_symlink());
    if is_link {
        return Err(format!("`{name}` is a link; change it in its folder"));
    }
    Ok(path)
}

/// The path of a file that the tree will have. Its folder may be missing.
pub(super) fn new(workbench: &Workbench, name: &str) -> Result<PathBuf, String> {
    check_name(name)?;
    let path = workbench.path(name)?;
    if workbench.files().get(name).is_some() || path.symlink_metadata().is_ok() {
        return Err(format!("there is already `{name}`"));
    }
    let folder = path.ancestors().skip(1).find_map(|folder| folder.canonicalize().ok());
    if folder.is_some_and(|folder| is_inside(workbench, &folder)) {
        return Ok(path);
    }
    Err(format!("`{name}` would be outside of the policy tree"))
}

/// A name that a reading of the tree takes as a file of a revision.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let parts: Vec<&str> = name.split('/').collect();
    let is_plain =
        |part: &&str| !part.is_empty() && !is_temporary(part) && !part.contains('\\') && !part.contains(char::is_control);
    let is_place = matches!(parts.first(), Some(&("policies" | "schemas"))) && (2..=DEPTH_MAX + 2).contains(&parts.len());
    if !is_place || !parts.iter().all(is_plain) || name.len() > NAME_BYTES_MAX {
        return Err(format!(
            "`{}` is no name such as policies/shop/main.cedar or schemas/shop.cedarschema",
            name.chars().take(100).collect::<String>()
        ));
    }
    if !is_policy_file(name) {
        return Err(format!(
            "`{name}` ends in none of .cedar, .cedarschema, .yaml, .yml and .json"
        ));
    }
    Ok(())
}

fn is_inside(workbench: &Workbench, path: &Path) -> bool {
    let folders = workbench.folders().into_iter();
    let folders = folders.flat_map(|folders| [&folders.policies, &folders.schemas]);
    folders
        .filter_map(|folder| folder.canonicalize().ok())
        .any(|folder| path.starts_with(folder))
}
