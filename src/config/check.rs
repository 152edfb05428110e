//! Checks that several sections share, and the list of their mistakes.
//!
//! A check returns the checked value, or reports a mistake and returns `None`. `schema` has already reported a required
//! key that is absent or of the wrong type, so a check skips it. A restriction that could be read in two ways is an
//! error. Messages show no URL that could hold a password: a URL with `@` in it is described and not repeated.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use url::{Host, Url};

use super::error::ConfigErrors;
use super::tree::Node;

/// The prefix of addresses and URLs that are Unix sockets.
pub const UNIX: &str = "unix:";

/// The HTTP library sets hop-by-hop and framing headers; stripping or replacing them would break requests.
const RESERVED_HEADERS: [&str; 11] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-type",
];

/// What becomes of files that hold secrets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SecretFiles {
    /// Each must be there.
    Needed,
    /// They are not looked at: a command about policies runs on machines without the gate's secrets.
    Unread,
}

/// The context of all checks: the mistakes found, the tree that knows their lines, the folder where relative paths
/// start.
pub struct Checker<'a> {
    pub errors: &'a mut ConfigErrors,
    pub tree: &'a Node,
    pub folder: &'a Path,
    pub secrets: SecretFiles,
    /// Files whose content became part of the configuration; files that are read again while the gate runs are not
    /// listed.
    pub secret_files: Vec<PathBuf>,
}

impl Checker<'_> {
    pub fn error(&mut self, key: &str, message: impl Into<String>) {
        self.errors.add(key, self.tree.nearest_origin(key), message);
    }

    /// True if a mistake was reported at `key` or below it.
    pub fn has_error_under(&self, key: &str) -> bool {
        let mut keys = self.errors.iter().filter_map(|error| error.key.strip_prefix(key));
        keys.any(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }

    /// A path of the file; a relative one starts at the file's folder.
    pub fn path(&mut self, key: &str, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        if path.to_str().is_some_and(|text| text.trim().is_empty()) {
            self.error(key, "is empty; write a path");
        }
        self.folder.join(path)
    }

    pub fn optional_path(&mut self, key: &str, path: Option<&Path>) -> Option<PathBuf> {
        path.map(|path| self.path(key, path))
    }

    pub fn not_blank(&mut self, key: &str, value: &str) {
        if value.trim().is_empty() || value.trim() != value {
            self.error(key, "is empty or has spaces around it; write a value");
        }
    }

    /// The name of an issuer or provider.
    pub fn name(&mut self, key: &str, name: &str) {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(fits) {
            self.error(
                key,
                format!("`{name}` is not a name; use 1 to 63 of `a-z`, `0-9`, `_` and `-`"),
            );
        }
    }

    /// Parses a URL; a URL with credentials is refused, so that no credential can end up in a log.
    pub fn parse_url(&mut self, key: &str, text: &str) -> Option<Url> {
        // the parser would silently drop or replace these characters
        let is_unsafe = text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\');
        match Url::parse(text) {
            Ok(url) if !url.username().is_empty() || url.password().is_some() || text.contains('@') => {
                self.error(key, "has a user name or password in it; remove it");
                None
            }
            Ok(url) if !is_unsafe => Some(url),
            _ if text.contains('@') => {
                self.error(key, "is not a URL such as `http://127.0.0.1:3000`");
                None
            }
            _ => {
                self.error(key, format!("`{text}` is not a URL such as `http://127.0.0.1:3000`"));
                None
            }
        }
    }

    /// A URL that secrets are sent to, and `why` it must be safe; `None` if it is not.
    pub fn secret_url(&mut self, key: &str, text: &str, why: &str) -> Option<Url> {
        let url = self.parse_url(key, text)?;
        if url.host().is_none() || !(url.scheme() == "https" || is_loopback(&url)) {
            self.error(key, format!("must be `https://`: {why}"));
            return None;
        }
        Some(url)
    }

    /// A header's name in lower case.
    pub fn header_name(&mut self, key: &str, text: &str) -> String {
        let name = text.to_ascii_lowercase();
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            self.error(key, format!("`{text}` is not a header name; use letters, digits and `-`"));
        } else if RESERVED_HEADERS.contains(&name.as_str()) {
            self.error(
                key,
                format!("`{text}` has a meaning of its own in HTTP and cannot be used here"),
            );
        }
        name
    }
}

/// True if the URL's host is this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).to_canonical().is_loopback(),
        None => false,
    }
}

/// An absent section is fine (`Some(None)`); one with a mistake is not (`None`).
pub fn transpose<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(inner) => inner.map(Some),
    }
}
