//! The pages of the example portals: built into the program, or read from a folder (`--portals`).
//!
//! A name that comes from a request is held against a plain alphabet before any file is opened, so it names a file
//! below the portal's own folder or none. A file that a link leads out of the folder is not served.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Name and content of each built-in page; `build.rs` lists them.
static BUILT_IN: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/portal_pages.rs"));
/// Bytes of a page in a folder.
const PAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[derive(Debug)]
pub(super) enum Pages {
    BuiltIn,
    /// The folder with `<portal>/index.html`, without links in its path.
    Folder(PathBuf),
}

/// A file of a portal.
#[derive(Debug)]
pub(super) struct StaticFile {
    pub content: Cow<'static, [u8]>,
    pub content_type: &'static str,
}

impl Pages {
    /// The pages in `folder`, or the built-in ones.
    pub fn open(folder: Option<&Path>) -> Result<Self, String> {
        let Some(folder) = folder else {
            return Ok(Self::BuiltIn);
        };
        let found = folder.canonicalize().map_err(|e| format!("`{}`: {e}", folder.display()))?;
        let is_built = |portal: &str| found.join(portal).join("index.html").is_file();
        if is_built("customer") && is_built("admin") {
            return Ok(Self::Folder(found));
        }
        Err(format!(
            "`{}` has no customer/index.html and admin/index.html; build packages/examples/portals and name its `dist`",
            folder.display()
        ))
    }

    /// True if the portals can be used in a browser.
    pub fn are_there(&self) -> bool {
        self.index("customer").is_some()
    }

    /// The single page of a portal; its script reads the rest of the path.
    pub fn index(&self, portal: &str) -> Option<StaticFile> {
        self.file(portal, "index.html")
    }

    /// A file below the portal's `assets/`.
    pub fn asset(&self, portal: &str, name: &str) -> Option<StaticFile> {
        self.file(portal, &format!("assets/{name}"))
    }

    fn file(&self, portal: &str, name: &str) -> Option<StaticFile> {
        let name = format!("{portal}/{name}");
        if !name.split('/').all(is_plain) {
            return None;
        }
        let content = match self {
            Self::BuiltIn => Cow::Borrowed(BUILT_IN.iter().find(|(built_in, _)| *built_in == name)?.1),
            Self::Folder(folder) => Cow::Owned(read(folder, &name)?),
        };
        Some(StaticFile {
            content,
            content_type: content_type(&name),
        })
    }
}

/// A segment that names one file or folder, and no parent, hidden or odd one.
fn is_plain(segment: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !segment.is_empty() && !segment.starts_with('.') && segment.bytes().all(allowed)
}

fn read(folder: &Path, name: &str) -> Option<Vec<u8>> {
    let path = folder.join(name).canonicalize().ok()?;
    let about = path.metadata().ok()?;
    let is_inside = path.starts_with(folder) && about.is_file() && about.len() <= PAGE_BYTES_MAX;
    is_inside.then(|| std::fs::read(path).ok())?
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("json" | "map") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("dist/customer/index.html", "the customer's page"),
            ("dist/customer/assets/app-1a2b.js", "script"),
            ("dist/admin/index.html", "the admin's page"),
            ("dist/.env", "hidden"),
            ("secret.txt", "secret"),
        ] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let link = folder.path().join("dist/customer/assets/link.js");
        std::os::unix::fs::symlink(folder.path().join("secret.txt"), link).unwrap();
        folder
    }

    #[test]
    fn files_of_the_folder_are_served_and_no_others() {
        let folder = folder();
        let pages = Pages::open(Some(&folder.path().join("dist"))).unwrap();
        let page = pages.index("customer").unwrap();
        assert_eq!(
            (&*page.content, page.content_type),
            (&b"the customer's page"[..], "text/html; charset=utf-8")
        );
        let script = pages.asset("customer", "app-1a2b.js").unwrap();
        assert_eq!(
            (&*script.content, script.content_type),
            (&b"script"[..], "text/javascript; charset=utf-8")
        );
        for name in [
            "",
            ".",
            "..",
            "../index.html",
            "../../.env",
            "../../../secret.txt",
            "..%2f..%2fsecret.txt",
            "..\\..\\secret.txt",
            "/etc/passwd",
            "link.js",
            "app-1a2b.js/",
            "app-1a2b.js\0",
            "none.js",
        ] {
            assert!(pages.asset("customer", name).is_none(), "{name:?}");
        }
        for portal in ["", ".", "..", "../customer", "shop", ".env"] {
            assert!(pages.index(portal).is_none(), "{portal:?}");
        }
    }

    #[test]
    fn a_folder_without_built_portals_is_refused() {
        let empty = tempfile::tempdir().unwrap();
        assert!(Pages::open(Some(empty.path())).unwrap_err().contains("index.html"));
        assert!(
            Pages::open(Some(Path::new("/nowhere/at/all")))
                .unwrap_err()
                .contains("nowhere")
        );
    }
}
