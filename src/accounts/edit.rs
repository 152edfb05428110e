//! Edits a users file for the command line: changes only the lines of one account, so that comments and order stay.
//!
//! YAML cannot be parsed and written back without losing comments, so the editor finds the account's lines with the
//! parser's line numbers and edits the text. Before it writes, it parses the new text and compares every account with
//! the expected result. A file whose style does not allow such an edit (flow style, anchors) is refused and left as it
//! is. The new file replaces the old one by a rename, under a lock of the folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::hash::Hash;
use super::totp::TotpSecret;
use super::users::{User, Users, UsersError, check_name, read};
use crate::base::files::{folder_of, lock_folder, replace_file};
use crate::config::{Node, Origin, Shape};

/// Mode of a new users file.
const NEW_MODE: u32 = 0o600;
/// Time to wait for another command that holds the folder's lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// The reason why a users file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error("{0}")]
    File(UsersError),
    #[error("{0}")]
    Name(String),
    #[error("`{file}` cannot be edited automatically ({why}); edit it by hand:\n{entry}")]
    ByHand { file: String, why: &'static str, entry: String },
    #[error("`{file}`: {source}")]
    Write { file: String, source: io::Error },
}

/// An account to add.
#[derive(Debug)]
pub struct NewUser {
    pub name: String,
    pub password: Hash,
    pub totp: Option<TotpSecret>,
    pub tenant: Option<String>,
    pub roles: Vec<String>,
    pub portals: Vec<String>,
    pub full_name: Option<String>,
    pub email: Option<String>,
}

/// An open users file. Holds the lock of its folder, so that no other `UsersEditor` changes a file in the folder
/// meanwhile.
#[derive(Debug)]
pub struct UsersEditor {
    path: PathBuf,
    /// Empty for a file that does not exist yet.
    text: String,
    users: Users,
    _lock: File,
}

impl NewUser {
    /// The YAML lines of the account, its key indented by `indent`.
    fn lines(&self, indent: &str) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let list = |texts: &[String]| serde_json::Value::from(texts).to_string().replace("\",\"", "\", \"");
        let mut lines = format!("{indent}{}:\n", yaml_key(&self.name));
        let mut add = |name: &str, value: String| lines.push_str(&format!("{indent}  {name}: {value}\n"));
        add("password", quoted(&self.password.to_text()));
        if let Some(secret) = &self.totp {
            add("totp", quoted(&secret.to_text()));
        }
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

/// The name as a YAML key: quoted if YAML could read it as a boolean, null or number.
fn yaml_key(name: &str) -> String {
    let yaml_words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if name.starts_with(|c: char| c.is_ascii_lowercase()) && !yaml_words.contains(&name) {
        name.to_owned()
    } else {
        format!("\"{name}\"")
    }
}

impl UsersEditor {
    /// Locks the folder and reads the file; a file that does not exist counts as empty.
    pub fn open(path: &Path) -> Result<Self, EditError> {
        let failed = |source| EditError::Write {
            file: path.display().to_string(),
            source,
        };
        // edits the target of a symbolic link, so that the link stays one
        let path = match path.canonicalize() {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(failed(error)),
        };
        let lock = lock_folder(folder_of(&path), LOCK_TIMEOUT).map_err(failed)?;
        let text = if path.try_exists().map_err(failed)? {
            read(&path).map_err(EditError::File)?
        } else {
            String::new()
        };
        let users = Users::parse(&text, &path.display().to_string()).map_err(EditError::File)?;
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

    /// Adds an account after the last one.
    pub fn add(&self, new: &NewUser) -> Result<(), EditError> {
        check_name(&new.name).map_err(EditError::Name)?;
        if self.has(&new.name) {
            return Err(EditError::Name(format!(
                "`{}` exists already; `cedargate user passwd` sets a new password",
                new.name
            )));
        }
        let file_of_one = format!("users:\n{}", new.lines("  "));
        let parsed = Users::parse(&file_of_one, "the new account").map_err(EditError::File)?;
        let mut expected = self.users_by_name();
        expected.extend(parsed.iter().map(|(name, user)| (name.to_owned(), user.clone())));
        let text = insert_user(&self.text, new);
        self.write(text, &expected, &new.lines("  "))
    }

    /// Replaces the hash of an account.
    pub fn set_password(&self, name: &str, password: &Hash) -> Result<(), EditError> {
        self.find(name)?;
        let mut expected = self.users_by_name();
        if let Some(user) = expected.get_mut(name) {
            user.password = password.clone();
        }
        let by_hand = format!("  {}:\n    password: \"{}\"\n", yaml_key(name), password.to_text());
        let text = replace_value(&self.text, name, "password", &password.to_text());
        self.write(text, &expected, &by_hand)
    }

    /// Gives an account another second factor, or takes it away.
    pub fn set_totp(&self, name: &str, totp: Option<&TotpSecret>) -> Result<(), EditError> {
        let had = self.find(name)?.totp.is_some();
        let mut expected = self.users_by_name();
        if let Some(user) = expected.get_mut(name) {
            user.totp = totp.cloned();
        }
        let key = yaml_key(name);
        let (text, by_hand) = match totp.map(TotpSecret::to_text) {
            Some(secret) => {
                let text = if had {
                    replace_value(&self.text, name, "totp", &secret)
                } else {
                    insert_totp(&self.text, name, &secret)
                };
                (text, format!("  {key}:\n    totp: \"{secret}\"\n"))
            }
            None if had => (remove_totp(&self.text, name), format!("  remove `totp` of `{key}`\n")),
            None => return Err(EditError::Name(format!("`{name}` has no second factor"))),
        };
        self.write(text, &expected, &by_hand)
    }

    /// Removes the lines of an account, with the comments between them.
    pub fn remove(&self, name: &str) -> Result<(), EditError> {
        self.find(name)?;
        let mut expected = self.users_by_name();
        expected.remove(name);
        let text = remove_user(&self.text, name);
        self.write(text, &expected, &format!("  remove `{name}` and the lines below it\n"))
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

    fn users_by_name(&self) -> BTreeMap<String, User> {
        self.users
            .iter()
            .map(|(name, user)| (name.to_owned(), user.clone()))
            .collect()
    }

    /// Writes the edited text if it parses to exactly the `expected` accounts. `by_hand` is the entry that the error
    /// shows to a user who must edit the file by hand.
    fn write(&self, text: Option<String>, expected: &BTreeMap<String, User>, by_hand: &str) -> Result<(), EditError> {
        let refuse = |why| EditError::ByHand {
            file: self.path.display().to_string(),
            why,
            entry: by_hand.to_owned(),
        };
        let text = text.ok_or_else(|| refuse("one account per block of lines below `users:` is expected"))?;
        let parsed = Users::parse(&text, "the edited file").map_err(|_error| refuse("the edit would make it unreadable"))?;
        let as_expected =
            parsed.iter().count() == expected.len() && parsed.iter().all(|(name, user)| expected.get(name) == Some(user));
        if !as_expected {
            return Err(refuse("the edit would change other accounts"));
        }
        replace_file(&self.path, text.as_bytes(), NEW_MODE).map_err(|source| EditError::Write {
            file: self.path.display().to_string(),
            source,
        })
    }
}

fn parse_tree(text: &str) -> Option<Node> {
    let file: Arc<str> = Arc::from("");
    let origin = |line| Origin::File {
        file: Arc::clone(&file),
        line,
    };
    Node::parse_any(text, &origin).ok()
}

/// Index of the node's line, counted from 0.
fn line_index(origin: &Origin) -> Option<usize> {
    usize::try_from(origin.line()?).ok()?.checked_sub(1)
}

fn indent_of(line: &str) -> &str {
    let rest = line.trim_start_matches(' ');
    line.strip_suffix(rest).unwrap_or_default()
}

fn is_blank_or_comment(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

/// The lines of the entry that begins at line `start`: all lines below it that are indented deeper, without trailing
/// blank lines and comments.
fn entry_from(lines: &[&str], start: usize) -> Option<std::ops::Range<usize>> {
    let depth = indent_of(lines.get(start)?).len();
    let below = lines.iter().enumerate().skip(start + 1);
    let deeper = below.take_while(|(_, line)| is_blank_or_comment(line) || indent_of(line).len() > depth);
    let last = deeper
        .filter(|(_, line)| !is_blank_or_comment(line))
        .last()
        .map_or(start, |(n, _)| n);
    Some(start..last + 1)
}

/// The lines of an account; `None` if the file's style gives it no lines of its own.
fn entry_of(text: &str, lines: &[&str], name: &str) -> Option<std::ops::Range<usize>> {
    let root = parse_tree(text)?;
    let Shape::Map(users) = &root.child("users")?.shape else {
        return None;
    };
    let (_, origin, _) = users.iter().find(|(key, ..)| key == name)?;
    let start = line_index(origin)?;
    let line = lines.get(start)?.trim_start();
    // the key must be the first text of its line
    let after_key = line
        .strip_prefix(name)
        .or_else(|| line.strip_prefix(&format!("\"{name}\"")))
        .or_else(|| line.strip_prefix(&format!("'{name}'")))?;
    after_key.trim_start().starts_with(':').then(|| entry_from(lines, start))?
}

/// The text with the new account after the last one; `None` if the file's style does not allow it.
fn insert_user(text: &str, new: &NewUser) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let root = parse_tree(text)?;
    let Some(users) = root.child("users") else {
        return Some(format!("{text}{newline}users:\n{}", new.lines("  ")));
    };
    // the new account follows `lines_before` lines
    let lines_before;
    let indent;
    match &users.shape {
        Shape::Map(entries) if !entries.is_empty() => {
            let (name, origin, _) = entries.last()?;
            lines_before = entry_of(text, &lines, name)?.end;
            indent = indent_of(lines.get(line_index(origin)?)?);
        }
        // `users:` or `users: {}`
        _ => {
            lines_before = lines.iter().position(|line| line.starts_with("users:"))? + 1;
            indent = "  ";
        }
    }
    let mut edited = String::new();
    for (n, line) in lines.iter().enumerate() {
        let is_last_before = n + 1 == lines_before;
        if is_last_before && line.starts_with("users:") {
            edited.push_str(&line.replacen("{}", "", 1));
        } else {
            edited.push_str(line);
        }
        if is_last_before {
            if !edited.ends_with('\n') {
                edited.push('\n');
            }
            edited.push_str(&new.lines(indent));
        }
    }
    Some(edited)
}

/// A key of an account: the index of its line, and its value; `None` if the value is not plain text.
fn value_of(text: &str, name: &str, key: &str) -> Option<(usize, String)> {
    let root = parse_tree(text)?;
    let Shape::Map(users) = &root.child("users")?.shape else {
        return None;
    };
    let (_, _, user) = users.iter().find(|(found, ..)| found == name)?;
    let value = user.child(key)?;
    let Shape::Text(old) = &value.shape else {
        return None;
    };
    Some((line_index(&value.origin)?, old.clone()))
}

/// The text with the line of this index changed; `None` if `change` gives none.
fn with_line(text: &str, index: usize, change: impl Fn(&str) -> Option<String>) -> Option<String> {
    let lines = text.split_inclusive('\n').enumerate();
    lines
        .map(|(n, line)| if n == index { change(line) } else { Some(line.to_owned()) })
        .collect()
}

/// The text with another value for a key of the account; `None` if the old value is not plain text in one line.
fn replace_value(text: &str, name: &str, key: &str, value: &str) -> Option<String> {
    let (index, old) = value_of(text, name, key)?;
    with_line(text, index, |line| {
        (line.matches(old.as_str()).count() == 1).then(|| line.replacen(old.as_str(), value, 1))
    })
}

/// The text with a second factor below the account's password; `None` if the password has no line of its own.
fn insert_totp(text: &str, name: &str, secret: &str) -> Option<String> {
    let (index, _) = value_of(text, name, "password")?;
    with_line(text, index, |line| {
        let newline = if line.ends_with('\n') { "" } else { "\n" };
        let has_own_line = line.trim_start().starts_with("password:");
        has_own_line.then(|| format!("{line}{newline}{}totp: \"{secret}\"\n", indent_of(line)))
    })
}

/// The text without the account's second factor; `None` if it has no line of its own.
fn remove_totp(text: &str, name: &str) -> Option<String> {
    let (index, _) = value_of(text, name, "totp")?;
    with_line(text, index, |line| line.trim_start().starts_with("totp:").then(String::new))
}

/// The text without the lines of the account; `None` if it has no lines of its own.
fn remove_user(text: &str, name: &str) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let removed = entry_of(text, &lines, name)?;
    let remaining = lines.iter().enumerate().filter(|(n, _)| !removed.contains(n));
    Some(remaining.map(|(_, line)| *line).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    fn new_user(name: &str) -> NewUser {
        NewUser {
            name: name.to_owned(),
            password: Hash::parse(HASH).unwrap(),
            totp: None,
            tenant: Some("acme".to_owned()),
            roles: vec!["viewer".to_owned(), "x: \"y\"".to_owned()],
            portals: Vec::new(),
            full_name: Some("Zoë # not a comment".to_owned()),
            email: None,
        }
    }

    /// Edits a file with this text; returns the text afterwards, or the error.
    fn edited(text: &str, edit: impl Fn(&UsersEditor) -> Result<(), EditError>) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.yaml");
        std::fs::write(&path, text.replace("HASH", HASH)).unwrap();
        let outcome = edit(&UsersEditor::open(&path).map_err(|error| error.to_string())?);
        let after = std::fs::read_to_string(&path).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
        match outcome {
            Ok(()) => Ok(after.replace(HASH, "HASH")),
            Err(error) => {
                assert_eq!(after, text.replace("HASH", HASH), "a refused edit changes nothing");
                Err(error.to_string())
            }
        }
    }

    const COMMENTED: &str = "# users of the shop\nusers:\n    # the boss\n    alice:   # since 2020\n        password: 'HASH' # rotate in may\n\n        roles: [viewer]\n    # below alice\n    \"bob\": { password: \"HASH\", tenant: acme } # flow\n# the end\n";

    #[test]
    fn added_account_leaves_every_other_line_unchanged() {
        let after = edited(COMMENTED, |users| users.add(&new_user("carol"))).unwrap();
        let (before, rest) = COMMENTED.split_once("# the end").unwrap();
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
    fn first_account_is_added_to_every_kind_of_empty_file() {
        for text in [
            "",
            "# no users yet\n",
            "users:\n",
            "users: {}\n",
            "users: {} # no users yet\n",
            "users:",
            "users:\n# end\n",
        ] {
            let after = edited(text, |users| users.add(&new_user("a"))).unwrap();
            for comment in text.lines().filter(|line| line.starts_with('#')) {
                assert!(after.contains(comment), "{after}");
            }
            assert!(after.contains("  a:\n    password: \"HASH\""), "{after}");
        }
    }

    #[test]
    fn new_password_changes_only_the_hash_in_every_yaml_style() {
        let new = Hash::new("new").unwrap();
        for (name, line) in [
            ("alice", "        password: 'NEW' # rotate in may\n"),
            ("bob", "    \"bob\": { password: \"NEW\", tenant: acme } # flow\n"),
        ] {
            let after = edited(COMMENTED, |users| users.set_password(name, &new)).unwrap();
            let after = after.replace(&new.to_text(), "NEW");
            assert!(after.contains(line), "{after}");
            assert_eq!(after.replace("NEW", "HASH"), COMMENTED);
        }
    }

    #[test]
    fn second_factor_is_one_line_that_is_added_replaced_and_removed() {
        let (one, two) = (TotpSecret::generate().unwrap(), TotpSecret::generate().unwrap());
        let with = edited(COMMENTED, |users| users.set_totp("alice", Some(&one))).unwrap();
        let line = format!("        totp: \"{}\"\n", one.to_text());
        assert_eq!(with.replace(&line, ""), COMMENTED);
        assert!(with.contains(&format!("# rotate in may\n{line}")), "{with}");
        let again = edited(&with, |users| users.set_totp("alice", Some(&two))).unwrap();
        assert_eq!(again, with.replace(&one.to_text(), &two.to_text()));
        assert_eq!(edited(&again, |users| users.set_totp("alice", None)).unwrap(), COMMENTED);
        // the last line of a file without a newline
        let bare = edited("users:\n  a:\n    password: \"HASH\"", |users| {
            users.set_totp("a", Some(&one))
        })
        .unwrap();
        assert!(bare.ends_with(&format!("\n    totp: \"{}\"\n", one.to_text())), "{bare}");
        let flow = edited(COMMENTED, |users| users.set_totp("bob", Some(&one))).unwrap_err();
        assert!(flow.contains("by hand") && flow.contains(&one.to_text()), "{flow}");
        let none = edited(COMMENTED, |users| users.set_totp("bob", None)).unwrap_err();
        assert!(none.contains("has no second factor"), "{none}");
        assert!(
            edited(COMMENTED, |users| users.set_totp("alic", None))
                .unwrap_err()
                .contains("did you mean `alice`")
        );
    }

    #[test]
    fn removed_account_loses_only_its_own_lines() {
        let after = edited(COMMENTED, |users| users.remove("alice")).unwrap();
        assert_eq!(
            after,
            "# users of the shop\nusers:\n    # the boss\n    # below alice\n    \"bob\": { password: \"HASH\", tenant: acme } # flow\n# the end\n"
        );
        assert!(edited(&after, |users| users.remove("bob")).unwrap().contains("# the end"));
    }

    #[test]
    fn edit_that_would_change_other_lines_is_refused() {
        let flow = "users: { a: { password: \"HASH\" }, b: { password: \"HASH\" } }\n";
        let anchors = "users:\n  a: &a\n    password: \"HASH\"\n  b: *a\n";
        for error in [
            edited(flow, |users| users.add(&new_user("c"))).unwrap_err(),
            edited(flow, |users| users.remove("a")).unwrap_err(),
            edited(anchors, |users| users.remove("a")).unwrap_err(),
            edited(anchors, |users| users.set_password("b", &Hash::new("x").unwrap())).unwrap_err(),
        ] {
            assert!(error.contains("by hand"), "{error}");
        }
        let folded = "users:\n  a:\n    password: >-\n      HASH\n";
        let new = Hash::new("x").unwrap();
        match edited(folded, |users| users.set_password("a", &new)) {
            Ok(after) => assert!(after.contains(&new.to_text())),
            Err(error) => assert!(error.contains("by hand"), "{error}"),
        }
    }

    #[test]
    fn bad_names_are_refused_and_close_names_suggested() {
        let again = edited(COMMENTED, |users| users.add(&new_user("alice"))).unwrap_err();
        assert!(again.contains("exists already"), "{again}");
        let bad = edited(COMMENTED, |users| users.add(&new_user("Carol"))).unwrap_err();
        assert!(bad.contains("is not a valid name"), "{bad}");
        let near = edited(COMMENTED, |users| users.remove("alic")).unwrap_err();
        assert!(near.contains("did you mean `alice`"), "{near}");
        for odd in ["true", "7", "-", ".", "@x", "null", "no"] {
            let after = edited("", |users| users.add(&new_user(odd))).unwrap();
            assert!(after.contains(&format!("  \"{odd}\":")), "{after}");
        }
    }

    #[test]
    fn new_file_is_private_and_existing_file_keeps_mode_and_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.yaml");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        UsersEditor::open(&path).unwrap().add(&new_user("a")).unwrap();
        assert_eq!(mode(&path), 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link.yaml");
        std::os::unix::fs::symlink("users.yaml", &link).unwrap();
        UsersEditor::open(&link).unwrap().add(&new_user("b")).unwrap();
        assert_eq!(mode(&path), 0o640);
        assert!(link.is_symlink() && UsersEditor::open(&path).unwrap().has("b"));
    }

    #[test]
    fn accounts_added_concurrently_are_all_stored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.yaml");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = &path;
                scope.spawn(move || UsersEditor::open(path).unwrap().add(&new_user(&format!("u{n}"))).unwrap());
            }
        });
        let users = UsersEditor::open(&path).unwrap();
        assert!((0..8).all(|n| users.has(&format!("u{n}"))));
    }
}
