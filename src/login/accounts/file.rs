//! A users file: who there is, and what the file says of each. Read whole or refused whole.
//!
//! Every mistake is reported at once with its line. Never takes a key that it does not know: a misspelt `disabled` would
//! be an open door. Nothing that comes out of here prints a hash.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Account;
use super::hash::Hash;
use crate::config::{Node, Origin, Shape};
use crate::types::PortalSlug;

/// Bytes of a users file.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Accounts in one file; who has more wants a provider.
const USERS_MAX: usize = 10_000;
/// Characters that a misspelt key may have wrong.
const MISSPELT_MOST: usize = 2;
/// Characters of a name.
pub const NAME_CHARS_MAX: usize = 64;

const KEYS: [&str; 8] = [
    "password", "tenant", "roles", "portals", "name", "email", "disabled", "claims",
];
/// Claims that the gate makes itself, or that other keys of the file are for.
const OWN_CLAIMS: [&str; 15] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "sid",
    "auth_time",
    "acr",
    "amr",
    "tenant",
    "roles",
    "name",
    "email",
];

/// Everybody in one file.
#[derive(Debug)]
pub struct Users {
    by_name: BTreeMap<String, User>,
    /// Whose hash stands in for a name that nobody has; its seed is this process's own.
    hasher: RandomState,
    /// Stands in where there is nobody at all.
    dummy: Hash,
}

/// One entry of the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct User {
    pub account: Account,
    pub password: Hash,
    pub state: State,
}

/// Whether a user may log in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    Enabled,
    Disabled,
}

/// Everything that is wrong with a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UsersError {
    file: String,
    /// Line, key, message.
    faults: Vec<(Option<u64>, String, String)>,
}

impl fmt::Display for UsersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (line, key, message)) in self.faults.iter().enumerate() {
            let newline = if n == 0 { "" } else { "\n" };
            let line = line.map(|line| format!(":{line}")).unwrap_or_default();
            let key = if key.is_empty() { String::new() } else { format!(" {key}:") };
            write!(f, "{newline}{}{line}:{key} {message}", self.file)?;
        }
        Ok(())
    }
}

/// Letters a to z, digits, `.`, `_`, `@` and `-`: no two names look alike, and none has two spellings.
pub fn check_name(name: &str) -> Result<(), String> {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'@' | b'-');
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.bytes().all(known) {
        return Err(format!(
            "`{}` is no name: 1 to {NAME_CHARS_MAX} of a-z, 0-9, `.`, `_`, `@`, `-`",
            name.escape_debug()
        ));
    }
    Ok(())
}

impl Users {
    /// The accounts of a text; `file` is what errors call it.
    pub fn parse(text: &str, file: &str) -> Result<Self, UsersError> {
        let named: Arc<str> = Arc::from(file);
        let place = |line| Origin::File {
            file: Arc::clone(&named),
            line,
        };
        let mut reader = Reader::default();
        let mut by_name = BTreeMap::new();
        match Node::parse_any(text, &place) {
            Ok(root) => reader.users(&root, &mut by_name),
            Err(error) => reader.faults.push((Some(error.line), String::new(), error.message)),
        }
        let dummy = Hash::dummy().map_err(|message| UsersError::of(file, message))?;
        if reader.faults.is_empty() {
            return Ok(Self {
                by_name,
                hasher: RandomState::new(),
                dummy,
            });
        }
        Err(UsersError {
            file: file.to_owned(),
            faults: reader.faults,
        })
    }

    pub fn find(&self, name: &str) -> Option<&User> {
        self.by_name.get(name)
    }

    /// In the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &User)> {
        self.by_name.iter().map(|(name, user)| (name.as_str(), user))
    }

    /// What a password for a name that nobody has is checked against: always the same for one name, and of the same costs
    /// as the file's own hashes.
    pub fn stand_in(&self, name: &str) -> &Hash {
        let count = u64::try_from(self.by_name.len()).unwrap_or(u64::MAX).max(1);
        let nth = usize::try_from(self.hasher.hash_one(name) % count).unwrap_or(0);
        self.by_name.values().nth(nth).map_or(&self.dummy, |user| &user.password)
    }

    /// Names whose sessions must not go on under `newer`: gone, disabled, or anything changed.
    pub fn changed_in<'a>(&'a self, newer: &'a Self) -> impl Iterator<Item = &'a str> {
        self.iter()
            .filter(|(name, user)| newer.find(name) != Some(user))
            .map(|(name, _)| name)
    }
}

impl UsersError {
    pub fn of(file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            faults: vec![(None, String::new(), message.into())],
        }
    }
}

/// SECURITY: what stands where a key should be may be a password. It is repeated only if it is a key misspelt.
fn unknown_key(found: &str, known: &[&str]) -> String {
    let near = known.iter().find(|one| strsim::levenshtein(found, one) <= MISSPELT_MOST);
    near.map_or_else(
        || format!("an unknown key; known are: {}", known.join(", ")),
        |near| format!("unknown key `{}`; did you mean `{near}`?", found.escape_debug()),
    )
}

/// The text of a users file, or why it cannot be read.
pub fn read(path: &Path) -> Result<String, UsersError> {
    use std::io::Read;
    let shown = path.display().to_string();
    let fail = |error: std::io::Error| UsersError::of(&shown, format!("cannot be read: {error}"));
    // a pipe would be waited for
    if !std::fs::metadata(path).map_err(fail)?.is_file() {
        return Err(UsersError::of(&shown, "is no file"));
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(fail)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        return Err(UsersError::of(&shown, format!("is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

#[derive(Default)]
struct Reader {
    faults: Vec<(Option<u64>, String, String)>,
}

impl Reader {
    fn fault(&mut self, key: &str, origin: &Origin, message: impl Into<String>) {
        self.faults.push((origin.line(), key.to_owned(), message.into()));
    }

    /// The entries of a mapping; repeated keys are faults.
    fn entries<'a>(&mut self, key: &str, node: &'a Node) -> Vec<(&'a str, &'a Origin, &'a Node)> {
        let Shape::Map(entries) = &node.shape else {
            let got = node.type_name();
            self.fault(key, &node.origin, format!("expected a mapping of keys, got {got}"));
            return Vec::new();
        };
        let mut seen: BTreeMap<&str, Option<u64>> = BTreeMap::new();
        let mut found = Vec::new();
        for (name, origin, value) in entries {
            if let Some(first) = seen.insert(name, origin.line()) {
                let first = first.map(|line| format!(" (first in line {line})")).unwrap_or_default();
                self.fault(key, origin, format!("`{}` is repeated{first}", name.escape_debug()));
                continue;
            }
            found.push((name.as_str(), origin, value));
        }
        found
    }

    fn users(&mut self, root: &Node, users: &mut BTreeMap<String, User>) {
        if matches!(root.shape, Shape::Null) {
            return;
        }
        for (key, origin, node) in self.entries("", root) {
            if key != "users" {
                self.fault("", origin, unknown_key(key, &["users"]));
                continue;
            }
            if matches!(node.shape, Shape::Null) {
                continue;
            }
            let entries = self.entries("users", node);
            if entries.len() > USERS_MAX {
                let message = format!("{} accounts, at most {USERS_MAX}; use an OIDC provider", entries.len());
                self.fault("users", &node.origin, message);
                return;
            }
            for (name, origin, node) in entries {
                if let Err(message) = check_name(name) {
                    self.fault("users", origin, message);
                } else if let Some(user) = self.user(name, origin, node) {
                    users.insert(name.to_owned(), user);
                }
            }
        }
    }

    fn user(&mut self, name: &str, origin: &Origin, node: &Node) -> Option<User> {
        let before = self.faults.len();
        let at = |key: &str| format!("users.{name}.{key}");
        let (mut password, mut state, mut portals) = (None, State::Enabled, None);
        let mut claims = Map::new();
        claims.insert("sub".to_owned(), json!(name));
        claims.insert("roles".to_owned(), json!([]));
        for (key, origin, value) in self.entries(&format!("users.{name}"), node) {
            match key {
                "password" => password = self.password(&at(key), value),
                "tenant" | "name" | "email" => {
                    let text = self.text(&at(key), value);
                    claims.extend(text.map(|text| (key.to_owned(), json!(text))));
                }
                "roles" => {
                    let roles = self.texts(&at(key), value);
                    claims.insert(key.to_owned(), json!(roles));
                }
                "portals" => portals = Some(self.portals(&at(key), value)),
                "disabled" => match value.shape {
                    Shape::Bool(true) => state = State::Disabled,
                    Shape::Bool(false) => {}
                    _ => self.fault(&at(key), &value.origin, "expected `true` or `false`"),
                },
                "claims" => self.claims(&at(key), value, &mut claims),
                other => {
                    self.fault(&format!("users.{name}"), origin, unknown_key(other, &KEYS));
                }
            }
        }
        let is_map = matches!(node.shape, Shape::Map(_));
        if password.is_none() && is_map && node.child("password").is_none() {
            let message = "`password` is missing; set it with `cedargate user passwd`";
            self.fault(&format!("users.{name}"), origin, message);
        }
        let user = User {
            account: Account {
                name: name.to_owned(),
                claims: Arc::new(claims),
                portals,
            },
            password: password?,
            state,
        };
        (self.faults.len() == before).then_some(user)
    }

    fn password(&mut self, key: &str, node: &Node) -> Option<Hash> {
        // SECURITY: messages never quote what stands here; it may be a password
        let Shape::Text(text) = &node.shape else {
            self.fault(key, &node.origin, "expected a hash; set it with `cedargate user passwd`");
            return None;
        };
        Hash::parse(text)
            .map_err(|message| self.fault(key, &node.origin, message))
            .ok()
    }

    fn text(&mut self, key: &str, node: &Node) -> Option<String> {
        match &node.shape {
            Shape::Text(text) if !text.trim().is_empty() => return Some(text.clone()),
            Shape::Text(_) => self.fault(key, &node.origin, "is empty; leave the key out instead"),
            _ => {
                let got = node.type_name();
                self.fault(key, &node.origin, format!("expected a text, got {got}"));
            }
        }
        None
    }

    fn texts(&mut self, key: &str, node: &Node) -> Vec<String> {
        let Shape::List(items) = &node.shape else {
            let got = node.type_name();
            self.fault(key, &node.origin, format!("expected a list, got {got}"));
            return Vec::new();
        };
        let mut texts: Vec<String> = Vec::new();
        for item in items {
            match self.text(key, item) {
                Some(text) if texts.contains(&text) => {
                    self.fault(key, &item.origin, format!("`{}` is repeated", text.escape_debug()));
                }
                text => texts.extend(text),
            }
        }
        texts
    }

    fn portals(&mut self, key: &str, node: &Node) -> Vec<String> {
        let portals = self.texts(key, node);
        for portal in portals.iter().filter(|portal| PortalSlug::parse(portal).is_none()) {
            let message = format!("`{}` is no portal's name", portal.escape_debug());
            self.fault(key, &node.origin, message);
        }
        portals
    }

    fn claims(&mut self, key: &str, node: &Node, claims: &mut Map<String, Value>) {
        for (name, origin, value) in self.entries(key, node) {
            if OWN_CLAIMS.contains(&name) {
                let message = format!("`{name}` is made by the gate, or has a key of its own");
                self.fault(key, origin, message);
            } else if let Some(value) = self.value(&format!("{key}.{name}"), value) {
                claims.insert(name.to_owned(), value);
            }
        }
    }

    fn value(&mut self, key: &str, node: &Node) -> Option<Value> {
        Some(match &node.shape {
            Shape::Null => Value::Null,
            Shape::Bool(value) => Value::Bool(*value),
            Shape::Number(value) => Value::Number(value.clone()),
            Shape::Text(text) => Value::String(text.clone()),
            Shape::List(items) => Value::Array(items.iter().map(|item| self.value(key, item)).collect::<Option<_>>()?),
            Shape::Map(_) => {
                let entries = self.entries(key, node);
                let value = entries
                    .into_iter()
                    .map(|(name, _, value)| Some((name.to_owned(), self.value(key, value)?)));
                Value::Object(value.collect::<Option<_>>()?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    fn parse(text: &str) -> Result<Users, String> {
        Users::parse(&text.replace("HASH", HASH), "users.yaml").map_err(|error| error.to_string())
    }

    fn error(text: &str) -> String {
        parse(text).unwrap_err()
    }

    #[test]
    fn what_the_file_says_are_the_claims() {
        let users = parse(
            "users:\n  alice.b@acme.test:\n    password: \"HASH\"\n    tenant: acme\n    roles: [viewer, editor]\n    portals: [customer]\n    \
             name: Alice B\n    email: a@acme.test\n    disabled: false\n    claims: { level: 3, org: { unit: x, tags: [a] } }\n  bob: { password: \"HASH\", disabled: true }\n",
        )
        .unwrap();
        let alice = users.find("alice.b@acme.test").unwrap();
        assert_eq!(
            Value::Object(alice.account.claims.as_ref().clone()),
            json!({"sub": "alice.b@acme.test", "tenant": "acme", "roles": ["viewer", "editor"], "name": "Alice B",
                "email": "a@acme.test", "level": 3, "org": {"unit": "x", "tags": ["a"]}})
        );
        assert_eq!(alice.account.portals.as_deref(), Some(&["customer".to_owned()][..]));
        assert_eq!(
            (alice.state, users.find("bob").unwrap().state),
            (State::Enabled, State::Disabled)
        );
        assert_eq!(users.find("bob").unwrap().account.portals, None);
        assert!(!format!("{users:?}").contains("CTFhFd"));
    }

    #[test]
    fn a_file_may_be_empty() {
        for text in ["", "# nobody yet\n", "users:\n", "users: {}\n"] {
            let users = parse(text).unwrap();
            assert!(users.iter().next().is_none() && !users.stand_in("x").accepts(""), "{text:?}");
        }
    }

    #[test]
    fn every_mistake_has_its_line_and_says_what_to_do() {
        for (text, line, says) in [
            ("user: {}", 1, "did you mean `users`"),
            (
                "users:\n  a: { password: \"HASH\", disable: true }",
                2,
                "did you mean `disabled`",
            ),
            (
                "users:\n  a: { password: \"HASH\" }\n  a: { password: \"HASH\" }",
                3,
                "repeated (first in line 2)",
            ),
            (
                "users:\n  a: { password: \"HASH\", password: \"HASH\" }",
                2,
                "`password` is repeated",
            ),
            (
                "users:\n  a: { password: \"HASH\", hunter2: x }",
                2,
                "an unknown key; known are: password",
            ),
            ("users:\n  a:\n    hunter2: \n", 3, "an unknown key"),
            ("hunter2: {}", 1, "an unknown key; known are: users"),
            ("users:\n  a: { tenant: x }", 2, "`password` is missing"),
            ("users:\n  a:\n    password: hunter2", 3, "user passwd"),
            ("users:\n  a:\n    password: 7", 3, "expected a hash"),
            ("users:\n  Alice: { password: \"HASH\" }", 2, "`Alice` is no name"),
            ("users:\n  \"a b\": { password: \"HASH\" }", 2, "is no name"),
            ("users:\n  \"ä\": { password: \"HASH\" }", 2, "is no name"),
            ("users:\n  \"\": { password: \"HASH\" }", 2, "is no name"),
            ("users:\n  a: { password: \"HASH\", roles: viewer }", 2, "expected a list"),
            ("users:\n  a: { password: \"HASH\", roles: [x, x] }", 2, "`x` is repeated"),
            ("users:\n  a: { password: \"HASH\", roles: [7] }", 2, "expected a text"),
            ("users:\n  a: { password: \"HASH\", tenant: \" \" }", 2, "is empty"),
            (
                "users:\n  a: { password: \"HASH\", portals: [Bad_One] }",
                2,
                "no portal's name",
            ),
            ("users:\n  a: { password: \"HASH\", disabled: no }", 2, "`true` or `false`"),
            (
                "users:\n  a: { password: \"HASH\", claims: { sub: root } }",
                2,
                "key of its own",
            ),
            (
                "users:\n  a: { password: \"HASH\", claims: { x: { y: 1, y: 2 } } }",
                2,
                "`y` is repeated",
            ),
            ("users:\n  a: just text", 2, "expected a mapping"),
            ("users: [a]", 1, "expected a mapping"),
            ("users:\n  a: [", 2, ""),
            ("users: {}\n---\nusers: {}", 1, ""),
        ] {
            let error = error(text);
            let place = error.split(' ').next().unwrap();
            assert!(error.contains(says) && place.starts_with("users.yaml:"), "{text}: {error}");
            if !says.is_empty() {
                assert!(place.starts_with(&format!("users.yaml:{line}:")), "{text}: {error}");
            }
            assert!(!error.contains("hunter2"), "{error}");
        }
        let two = error("users:\n  A: { password: \"HASH\" }\n  b: { role: [] }\n");
        assert_eq!(two.lines().count(), 3, "{two}");
    }

    #[test]
    fn huge_and_deep_files_are_refused() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        let deep = format!(
            "users:\n  a: {{ password: \"HASH\", claims: {{ x: {}1{} }} }}",
            "[".repeat(50),
            "]".repeat(50)
        );
        assert!(parse(&deep).is_err());
        let many: String = (0..=USERS_MAX).map(|n| format!("  u{n}: {{}}\n")).collect();
        assert!(error(&format!("users:\n{many}")).contains("at most"));
    }

    #[test]
    fn a_stand_in_is_always_the_same_for_one_name() {
        let users = parse("users:\n  a: { password: \"HASH\" }\n  b: { password: \"$argon2id$v=19$m=16,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc\" }\n").unwrap();
        let costs: Vec<bool> = (0..100)
            .map(|n| {
                let name = format!("nobody{n}");
                assert_eq!(users.stand_in(&name), users.stand_in(&name));
                users.stand_in(&name) == &users.find("a").unwrap().password
            })
            .collect();
        assert!(costs.contains(&true) && costs.contains(&false), "both costs occur");
    }

    #[test]
    fn changes_that_sessions_must_hear_of() {
        let base = "users:\n  a: { password: \"HASH\", roles: [x], tenant: t }\n  b: { password: \"HASH\" }\n";
        let other = HASH.replace("CTFh", "CTFi");
        for (text, changed) in [
            (base.to_owned(), vec![]),
            (format!("# a comment\n{base}  c: {{ password: \"HASH\" }}\n"), vec![]),
            (
                "users:\n  a: { password: \"HASH\", roles: [x], tenant: t }\n".to_owned(),
                vec!["b"],
            ),
            (base.replace("[x]", "[x, y]"), vec!["a"]),
            (base.replace("tenant: t", "tenant: u"), vec!["a"]),
            (base.replace("tenant: t", "disabled: true"), vec!["a"]),
            (base.replace("HASH", &other), vec!["a", "b"]),
            (base.replace("tenant: t", "tenant: t, portals: [p]"), vec!["a"]),
            (String::new(), vec!["a", "b"]),
        ] {
            let (old, new) = (parse(base).unwrap(), parse(&text).unwrap());
            assert_eq!(old.changed_in(&new).collect::<Vec<_>>(), changed, "{text}");
        }
    }
}
