//! Writes the files of a scaffold: nothing that exists is overwritten, and without room for all nothing is written.

use std::path::Path;

/// A file to make.
pub(super) struct NewFile {
    /// Below the folder of the tree.
    pub name: String,
    pub text: String,
}

/// `Err` names what is there already.
pub(super) fn refuse_existing<'a>(dir: &Path, files: impl Iterator<Item = &'a NewFile>) -> Result<(), String> {
    let existing: Vec<String> = files
        .map(|file| dir.join(&file.name))
        .filter(|path| path.symlink_metadata().is_ok())
        .map(|path| format!("`{}`", path.display()))
        .collect();
    if existing.is_empty() {
        return Ok(());
    }
    Err(format!("nothing was written: there is already {}", existing.join(", ")))
}

pub(super) fn write(dir: &Path, files: &[NewFile]) -> Result<(), String> {
    use std::io::Write;
    for file in files {
        let path = dir.join(&file.name);
        make_parent(&path)?;
        let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
        made.and_then(|mut made| made.write_all(file.text.as_bytes()))
            .map_err(|e| format!("cannot make `{}`: {e}", path.display()))?;
    }
    Ok(())
}

pub(super) fn make_parent(path: &Path) -> Result<(), String> {
    let Some(parent) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(parent).map_err(|e| format!("cannot make the folder `{}`: {e}", parent.display()))
}
