//! Programs that `make tools` installs. A test fails with a message if its program is missing.

use std::path::{Path, PathBuf};

/// The first of these programs that is installed, below `target/tools` or on the machine.
pub fn tool(names: &[&str]) -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = [own.join("venv/bin"), own.join("bin")]
        .into_iter()
        .chain(std::env::split_paths(&path))
        // Debian's nginx; not in the path of every user
        .chain([PathBuf::from("/usr/sbin")])
        .collect();
    let found = names
        .iter()
        .find_map(|name| folders.iter().map(|f| f.join(name)).find(|p| p.is_file()));
    found.unwrap_or_else(|| panic!("{} is missing; run `make tools`", names[0]))
}
