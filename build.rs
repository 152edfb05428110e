//! Lists the built pages of the example portals, so that `cedargate demo` carries them. Without the folder the list is
//! empty, and the demo serves no pages.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Where `packages/examples/portals` leaves them: `<portal>/index.html` and `<portal>/assets/*`.
const PAGES: &str = "packages/examples/portals/dist";

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let dist = root.join(PAGES);
    // cargo runs this again when the folder, or its absence, changes
    println!("cargo::rerun-if-changed={PAGES}");
    println!("cargo::rerun-if-changed=build.rs");
    let mut files = Vec::new();
    collect(&dist, &mut files);
    files.sort();
    let mut list = String::from("&[\n");
    for file in &files {
        let name = file.strip_prefix(&dist).unwrap_or(file).display().to_string();
        let _never_fails = writeln!(list, "    ({name:?}, include_bytes!({:?})),", file.display().to_string());
    }
    list.push_str("]\n");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("portal_pages.rs");
    if let Err(error) = std::fs::write(&out, list) {
        println!("cargo::error=cannot write {}: {error}", out.display());
    }
}

/// Adds the files below `folder`; hidden files are not pages.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
        if path.is_dir() {
            collect(&path, files);
        } else if !is_hidden {
            files.push(path);
        }
    }
}
