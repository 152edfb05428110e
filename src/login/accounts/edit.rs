//! Changes to a users file for the command line: only the lines of one account, so that comments and order stay.
//!
//! What comes out is read again and compared with what it should say; a file that is written in a way that cannot be
//! changed like that is refused, never rewritten.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::file::{User, Users, UsersError, check_name, read};
use super::hash::Hash;
use crate::config::{Node, Origin, Shape};

/// Of a new users file.
const NEW_MODE: u32 = 0o600;
const MODE_BITS: u32 = 0o7777;
/// How long another command that changes a file in the same folder is waited for, and how often looked at.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Why a users file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error("{0}")]
    File(UsersError),
    #[error("{0}")]
    Name(String),
    #[error("`{file}` is written in a way that only a person can change ({why}); edit it by hand:\n{entry}")]
    ByHand { file: String, why: &'static str, entry: String },
    #[error("`{file}`: {source}")]
    Write { file: String, source: io::Error },
}

/// What a new account is.
#[derive(Debug)]
pub struct UserSpec {
    pub name: String,
    pub password: Hash,
    pub tenant: Option<String>,
    pub roles: Vec<String>,
    pub portals: Vec<String>,
    pub full_name: Option<String>,
    pub email: Option<String>,
}

/// A users file being changed; nobody else who asks like this changes a file in its folder meanwhile.
#[derive(Debug)]
pub struct UsersText {
    path: PathBuf,
    /// `None`: there is no such file yet.
    text: Option<String>,
    users: Users,
    _lock: File,
}

impl UserSpec {
    /// The lines of the account, at this depth.
    fn lines(&self, indent: &str) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let list = |texts: &[String]| serde_json::Value::from(texts).to_string().replace("\",\"", "\", \"");
        let mut lines = format!("{indent}{}:\n", key(&self.name));
        let mut add = |name: &str, value: String| lines.push_str(&format!("{indent}  {name}: {value}\n"));
        add("password", quoted(&self.password.to_text()));
        if let Some(tenant) = &self.tenant {
            add("tenant", quoted(tenant));
        }
        for (name, texts) in [("roles", &self.roles), ("portals", &self.portals)] {
            if !texts.is_empty() {
                add(name, list(texts));
            }
        }
        for (name, text) in [("name", &self.full_name), ("email", &self.email)] {
            if let Some(text) = text {
                add(name, quoted(text));
            }
        }
        lines
    }
}

/// As a key: quoted where YAML could take it for something else than a text.
fn key(name: &str) -> String {
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if name.starts_with(|c: char| c.is_ascii_lowercase()) && !words.contains(&name) {
        name.to_owned()
    } else {
        format!("\"{name}\"")
    }
}

impl UsersText {
    /// A file that does not exist is an empty one.
    pub fn open(path: &Path) -> Result<Self, EditError> {
        let failed = |source| EditError::Write {
            file: path.display().to_string(),
            source,
        };
        // a link stays one; what it leads to is changed
        let path = match path.canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(failed(error)),
        };
        let lock = locked(folder(&path)).map_err(failed)?;
        let text = match path.try_exists().map_err(failed)? {
            true => Some(read(&path).map_err(EditError::File)?),
            false => None,
        };
        let users = Users::parse(text.as_deref().unwrap_or_default(), &path.display().to_string()).map_err(EditError::File)?;
        Ok(Self {
            path,
            text,
            users,
            _lock: lock,
        })
    }

    pub fn has(&self, name: &str) -> bool {
        self.users.find(name).is_some()
    }

    /// Adds an account at the end.
    pub fn add(&self, spec: &UserSpec) -> Result<(), EditError> {
        check_name(&spec.name).map_err(EditError::Name)?;
        if self.has(&spec.name) {
            return Err(EditError::Name(format!(
                "`{}` is there already; `cedargate user passwd` sets a new password",
                spec.name
            )));
        }
        let alone = format!("users:\n{}", spec.lines("  "));
        let expected = Users::parse(&alone, "the new account").map_err(EditError::File)?;
        let mut all = self.all();
        all.extend(expected.iter().map(|(name, user)| (name.to_owned(), user.clone())));
        let text = added(self.text.as_deref().unwrap_or_default(), spec);
        self.store(text, &all, &spec.lines("  "))
    }

    /// Replaces the hash of an account.
    pub fn set_password(&self, name: &str, password: &Hash) -> Result<(), EditError> {
        self.find(name)?;
        let mut all = self.all();
        if let Some(user) = all.get_mut(name) {
            user.password = password.clone();
        }
        let entry = format!("  {}:\n    password: \"{}\"\n", key(name), password.to_text());
        let text = with_password(self.text.as_deref().unwrap_or_default(), name, &password.to_text());
        self.store(text, &all, &entry)
    }

    /// Takes an account away, with the comments inside it.
    pub fn remove(&self, name: &str) -> Result<(), EditError> {
        self.find(name)?;
        let mut all = self.all();
        all.remove(name);
        let text = without(self.text.as_deref().unwrap_or_default(), name);
        self.store(text, &all, &format!("  remove `{name}` and what is below it\n"))
    }

    fn find(&self, name: &str) -> Result<&User, EditError> {
        self.users.find(name).ok_or_else(|| {
            let known: Vec<&str> = self.users.iter().map(|(name, _)| name).collect();
            EditError::Name(format!(
                "there is no `{}`; {}",
                name.escape_debug(),
                crate::config::hint(name, &known)
            ))
        })
    }

    fn all(&self) -> BTreeMap<String, User> {
        self.users
            .iter()
            .map(|(name, user)| (name.to_owned(), user.clone()))
            .collect()
    }

    /// Only if it says exactly what it should.
    fn store(&self, text: Option<String>, expected: &BTreeMap<String, User>, entry: &str) -> Result<(), EditError> {
        let by_hand = |why| EditError::ByHand {
            file: self.path.display().to_string(),
            why,
            entry: entry.to_owned(),
        };
        let text = text.ok_or_else(|| by_hand("one account per block of lines below `users:` is expected"))?;
        let now = Users::parse(&text, "the changed file").map_err(|_error| by_hand("it could not be read any more"))?;
        let same = now.iter().count() == expected.len() && now.iter().all(|(name, user)| expected.get(name) == Some(user));
        if !same {
            return Err(by_hand("other accounts would change, too"));
        }
        replace(&self.path, text.as_bytes()).map_err(|source| EditError::Write {
            file: self.path.display().to_string(),
            source,
        })
    }
}

fn tree(text: &str) -> Option<Node> {
    let file: Arc<str> = Arc::from("");
    let place = |line| Origin::File {
        file: Arc::clone(&file),
        line,
    };
    Node::parse_any(text, &place).ok()
}

fn index(origin: &Origin) -> Option<usize> {
    usize::try_from(origin.line()?).ok()?.checked_sub(1)
}

fn indent_of(line: &str) -> &str {
    let rest = line.trim_start_matches(' ');
    line.strip_suffix(rest).unwrap_or_default()
}

fn is_empty(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

/// The lines of the entry that begins in line `start`: up to what is not deeper, without trailing blanks and comments.
fn extent(lines: &[&str], start: usize) -> Option<std::ops::Range<usize>> {
    let depth = indent_of(lines.get(start)?).len();
    let rest = lines.iter().enumerate().skip(start + 1);
    let inside = rest.take_while(|(_, line)| is_empty(line) || indent_of(line).len() > depth);
    let last = inside.filter(|(_, line)| !is_empty(line)).last().map_or(start, |(n, _)| n);
    Some(start..last + 1)
}

/// Where the account's lines are.
fn entry(text: &str, lines: &[&str], name: &str) -> Option<std::ops::Range<usize>> {
    let root = tree(text)?;
    let Shape::Map(users) = &root.child("users")?.shape else {
        return None;
    };
    let (_, origin, _) = users.iter().find(|(key, ..)| key == name)?;
    let start = index(origin)?;
    let line = lines.get(start)?.trim_start();
    // the key must open its line
    let opens = line
        .strip_prefix(name)
        .or_else(|| line.strip_prefix(&format!("\"{name}\"")))
        .or_else(|| line.strip_prefix(&format!("'{name}'")))?;
    opens.trim_start().starts_with(':').then(|| extent(lines, start))?
}

fn added(text: &str, spec: &UserSpec) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let root = tree(text)?;
    let Some(users) = root.child("users") else {
        return Some(format!("{text}{newline}users:\n{}", spec.lines("  ")));
    };
    let (at, indent) = match &users.shape {
        Shape::Map(entries) if !entries.is_empty() => {
            let (name, origin, _) = entries.last()?;
            let indent = indent_of(lines.get(index(origin)?)?);
            (entry(text, &lines, name)?.end, indent.to_owned())
        }
        // `users:` or `users: {}`
        _ => {
            let at = lines.iter().position(|line| line.starts_with("users:"))?;
            (at + 1, "  ".to_owned())
        }
    };
    let mut out = String::new();
    for (n, line) in lines.iter().enumerate() {
        let opening = n + 1 == at && line.starts_with("users:");
        out.push_str(&if opening {
            line.replacen("{}", "", 1)
        } else {
            (*line).to_owned()
        });
        if n + 1 == at {
            if !out.ends_with('\n') {
                out.push('\n');
            }
            out.push_str(&spec.lines(&indent));
        }
    }
    Some(out)
}

fn with_password(text: &str, name: &str, hash: &str) -> Option<String> {
    let root = tree(text)?;
    let Shape::Map(users) = &root.child("users")?.shape else {
        return None;
    };
    let (_, _, user) = users.iter().find(|(key, ..)| key == name)?;
    let password = user.child("password")?;
    let (Shape::Text(old), at) = (&password.shape, index(&password.origin)?) else {
        return None;
    };
    let mut out = String::new();
    for (n, line) in text.split_inclusive('\n').enumerate() {
        if n != at {
            out.push_str(line);
            continue;
        }
        if line.matches(old.as_str()).count() != 1 {
            return None;
        }
        out.push_str(&line.replacen(old.as_str(), hash, 1));
    }
    Some(out)
}

fn without(text: &str, name: &str) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let gone = entry(text, &lines, name)?;
    let kept = lines.iter().enumerate().filter(|(n, _)| !gone.contains(n));
    Some(kept.map(|(_, line)| *line).collect())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The folder, until dropped.
fn locked(folder: &Path) -> io::Result<File> {
    let file = File::open(folder)?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::park_timeout(LOCK_POLL),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whoever reads the path sees all of the old or all of the new. Mode and owner stay.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let before = match std::fs::metadata(path) {
        Ok(before) => Some(before),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let unfinished = folder(path).join(format!(".{name}.{}", uuid::Uuid::now_v7().simple()));
    let written = (|| {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(NEW_MODE).open(&unfinished)?;
        if let Some(before) = &before {
            let made = file.metadata()?;
            if (made.uid(), made.gid()) != (before.uid(), before.gid()) {
                std::os::unix::fs::fchown(&file, Some(before.uid()), Some(before.gid()))?;
            }
            file.set_permissions(std::fs::Permissions::from_mode(before.mode() & MODE_BITS))?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path)?;
        File::open(folder(path))?.sync_all()
    })();
    if written.is_err() {
        drop(std::fs::remove_file(&unfinished));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    fn spec(name: &str) -> UserSpec {
        UserSpec {
            name: name.to_owned(),
            password: Hash::parse(HASH).unwrap(),
            tenant: Some("acme".to_owned()),
            roles: vec!["viewer".to_owned(), "x: \"y\"".to_owned()],
            portals: Vec::new(),
            full_name: Some("Zoë # not a comment".to_owned()),
            email: None,
        }
    }

    /// The file after the change, or why there was none.
    fn edited(text: &str, change: impl Fn(&UsersText) -> Result<(), EditError>) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.yaml");
        std::fs::write(&path, text.replace("HASH", HASH)).unwrap();
        let outcome = change(&UsersText::open(&path).map_err(|error| error.to_string())?);
        let after = std::fs::read_to_string(&path).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
        match outcome {
            Ok(()) => Ok(after.replace(HASH, "HASH")),
            Err(error) => {
                assert_eq!(after, text.replace("HASH", HASH), "a refused change changes nothing");
                Err(error.to_string())
            }
        }
    }

    const KEPT: &str = "# who may come in\nusers:\n    # the boss\n    alice:   # since 2020\n        password: 'HASH' # rotate in may\n\n        roles: [viewer]\n    # below alice\n    \"bob\": { password: \"HASH\", tenant: acme } # flow\n# the end\n";

    #[test]
    fn an_added_account_leaves_every_other_line_alone() {
        let after = edited(KEPT, |users| users.add(&spec("carol"))).unwrap();
        let (before, rest) = KEPT.split_once("# the end").unwrap();
        let new = after
            .strip_prefix(before)
            .unwrap()
            .strip_suffix(&format!("# the end{rest}"))
            .unwrap();
        assert_eq!(
            new,
            "    carol:\n      password: \"HASH\"\n      tenant: \"acme\"\n      roles: [\"viewer\", \"x: \\\"y\\\"\"]\n      name: \"Zoë # not a comment\"\n"
        );
    }

    #[test]
    fn the_first_account_finds_its_place() {
        for text in [
            "",
            "# nobody\n",
            "users:\n",
            "users: {}\n",
            "users: {} # nobody\n",
            "users:",
            "users:\n# end\n",
        ] {
            let after = edited(text, |users| users.add(&spec("a"))).unwrap();
            for comment in text.lines().filter(|line| line.starts_with('#')) {
                assert!(after.contains(comment), "{after}");
            }
            assert!(after.contains("  a:\n    password: \"HASH\""), "{after}");
        }
    }

    #[test]
    fn a_password_is_changed_in_place_in_any_style() {
        let new = Hash::of("new").unwrap();
        for (name, line) in [
            ("alice", "        password: 'NEW' # rotate in may\n"),
            ("bob", "    \"bob\": { password: \"NEW\", tenant: acme } # flow\n"),
        ] {
            let after = edited(KEPT, |users| users.set_password(name, &new)).unwrap();
            let after = after.replace(&new.to_text(), "NEW");
            assert!(after.contains(line), "{after}");
            assert_eq!(after.replace("NEW", "HASH"), KEPT);
        }
    }

    #[test]
    fn a_removed_account_takes_only_its_own_lines() {
        let after = edited(KEPT, |users| users.remove("alice")).unwrap();
        assert_eq!(
            after,
            "# who may come in\nusers:\n    # the boss\n    # below alice\n    \"bob\": { password: \"HASH\", tenant: acme } # flow\n# the end\n"
        );
        assert!(edited(&after, |users| users.remove("bob")).unwrap().contains("# the end"));
    }

    #[test]
    fn what_cannot_be_changed_without_loss_is_refused() {
        let flow = "users: { a: { password: \"HASH\" }, b: { password: \"HASH\" } }\n";
        let anchors = "users:\n  a: &a\n    password: \"HASH\"\n  b: *a\n";
        for error in [
            edited(flow, |users| users.add(&spec("c"))).unwrap_err(),
            edited(flow, |users| users.remove("a")).unwrap_err(),
            edited(anchors, |users| users.remove("a")).unwrap_err(),
            edited(anchors, |users| users.set_password("b", &Hash::of("x").unwrap())).unwrap_err(),
        ] {
            assert!(error.contains("by hand"), "{error}");
        }
        let folded = "users:\n  a:\n    password: >-\n      HASH\n";
        let new = Hash::of("x").unwrap();
        match edited(folded, |users| users.set_password("a", &new)) {
            Ok(after) => assert!(after.contains(&new.to_text())),
            Err(error) => assert!(error.contains("by hand"), "{error}"),
        }
    }

    #[test]
    fn names_are_checked_and_near_ones_suggested() {
        let again = edited(KEPT, |users| users.add(&spec("alice"))).unwrap_err();
        assert!(again.contains("there already"), "{again}");
        let bad = edited(KEPT, |users| users.add(&spec("Carol"))).unwrap_err();
        assert!(bad.contains("is no name"), "{bad}");
        let near = edited(KEPT, |users| users.remove("alic")).unwrap_err();
        assert!(near.contains("did you mean `alice`"), "{near}");
        for odd in ["true", "7", "-", ".", "@x", "null", "no"] {
            let after = edited("", |users| users.add(&spec(odd))).unwrap();
            assert!(after.contains(&format!("  \"{odd}\":")), "{after}");
        }
    }

    #[test]
    fn a_new_file_is_private_and_an_old_one_keeps_its_mode_and_its_links() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.yaml");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        UsersText::open(&path).unwrap().add(&spec("a")).unwrap();
        assert_eq!(mode(&path), 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link.yaml");
        std::os::unix::fs::symlink("users.yaml", &link).unwrap();
        UsersText::open(&link).unwrap().add(&spec("b")).unwrap();
        assert_eq!(mode(&path), 0o640);
        assert!(link.is_symlink() && UsersText::open(&path).unwrap().has("b"));
    }

    #[test]
    fn accounts_added_at_the_same_time_are_all_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.yaml");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = &path;
                scope.spawn(move || UsersText::open(path).unwrap().add(&spec(&format!("u{n}"))).unwrap());
            }
        });
        let users = UsersText::open(&path).unwrap();
        assert!((0..8).all(|n| users.has(&format!("u{n}"))));
    }
}
