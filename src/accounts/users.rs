//! The users file: parses its accounts, completely or not at all.
//!
//! One pass reports all mistakes, each with its line. Unknown keys are errors: ignoring a misspelt `disabled` would
//! leave a disabled account enabled. No type of this file prints a hash.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::path::Path;
use std::sync::Arc;

use cedargate_policy::types::PortalSlug;
use serde_json::{Map, Value, json};

use super::Account;
use super::hash::Hash;
use super::totp::TotpSecret;
use crate::base::files::read_small_text;
use crate::config::{Node, Origin, Shape};

/// Bytes of a users file.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Accounts in one file; a larger installation needs an OIDC provider.
const USERS_MAX: usize = 10_000;
/// Edit distance up to which an unknown key is taken for a misspelt known one.
const MISSPELT_DISTANCE_MAX: usize = 2;
/// Characters of an account name.
pub const NAME_CHARS_MAX: usize = 64;

const KEYS: [&str; 9] = [
    "password", "totp", "tenant", "roles", "portals", "name", "email", "disabled", "claims",
];
/// Claims that `claims` of an account may not set: the gate writes them, or another key of the account does.
const RESERVED_CLAIMS: [&str; 15] = [
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

/// The accounts of one file.
#[derive(Debug)]
pub struct Users {
    by_name: BTreeMap<String, User>,
    /// Chooses the decoy hash of an unknown name. Seeded per process, so that a client cannot compute the choice.
    hasher: RandomState,
    /// Decoy hash of a file without accounts.
    dummy: Hash,
}

/// One entry of the file: an account, its password hash and its state.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct User {
    pub account: Account,
    pub password: Hash,
    /// The second factor.
    pub totp: Option<TotpSecret>,
    pub state: UserState,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UserState {
    Enabled,
    Disabled,
}

/// All mistakes of one file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UsersError {
    file: String,
    mistakes: Vec<Mistake>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Mistake {
    /// `None` for a mistake of the whole file.
    line: Option<u64>,
    /// Path of the key, such as `users.alice.roles`; empty at the top of the file.
    key: String,
    message: String,
}

impl std::error::Error for UsersError {}

impl fmt::Display for UsersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, mistake) in self.mistakes.iter().enumerate() {
            let newline = if n == 0 { "" } else { "\n" };
            let line = mistake.line.map(|line| format!(":{line}")).unwrap_or_default();
            let key = match mistake.key.as_str() {
                "" => String::new(),
                key => format!(" {key}:"),
            };
            write!(f, "{newline}{}{line}:{key} {}", self.file, mistake.message)?;
        }
        Ok(())
    }
}

/// Accepts a to z, digits, `.`, `_`, `@` and `-`: in this alphabet no two names look alike and no name has two
/// spellings.
pub fn check_name(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'@' | b'-');
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.bytes().all(allowed) {
        return Err(format!(
            "`{}` is not a valid name: 1 to {NAME_CHARS_MAX} of a-z, 0-9, `.`, `_`, `@`, `-`",
            name.escape_debug()
        ));
    }
    Ok(())
}

impl Users {
    /// Parses the content of a users file; errors name it `file`.
    pub fn parse(text: &str, file: &str) -> Result<Self, UsersError> {
        let file_name: Arc<str> = Arc::from(file);
        let origin = |line| Origin::File {
            file: Arc::clone(&file_name),
            line,
        };
        let mut parser = Parser::default();
        let mut by_name = BTreeMap::new();
        match Node::parse_any(text, &origin) {
            Ok(root) => parser.users(&root, &mut by_name),
            Err(error) => parser.mistakes.push(Mistake {
                line: Some(error.line),
                key: String::new(),
                message: error.message,
            }),
        }
        let dummy = Hash::dummy().map_err(|message| UsersError::new(file, message))?;
        if parser.mistakes.is_empty() {
            return Ok(Self {
                by_name,
                hasher: RandomState::new(),
                dummy,
            });
        }
        Err(UsersError {
            file: file.to_owned(),
            mistakes: parser.mistakes,
        })
    }

    pub fn find(&self, name: &str) -> Option<&User> {
        self.by_name.get(name)
    }

    /// The accounts, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &User)> {
        self.by_name.iter().map(|(name, user)| (name.as_str(), user))
    }

    /// True if an account has a second factor.
    pub fn have_codes(&self) -> bool {
        self.by_name.values().any(|user| user.totp.is_some())
    }

    /// The hash to check a password against when the name is unknown, so that the check takes as long as for an
    /// account. Always the same for one name; taken from the file's own hashes, so that it costs what they cost.
    pub fn decoy_hash(&self, name: &str) -> &Hash {
        let count = u64::try_from(self.by_name.len()).unwrap_or(u64::MAX).max(1);
        let nth = usize::try_from(self.hasher.hash_one(name) % count).unwrap_or(0);
        self.by_name.values().nth(nth).map_or(&self.dummy, |user| &user.password)
    }

    /// Names whose entry is missing in `newer` or differs there; their sessions must end.
    pub fn changed_in<'a>(&'a self, newer: &'a Self) -> impl Iterator<Item = &'a str> {
        self.iter()
            .filter(|(name, user)| newer.find(name) != Some(user))
            .map(|(name, _)| name)
    }
}

impl UsersError {
    /// A mistake of the whole file.
    pub fn new(file: &str, message: impl Into<String>) -> Self {
        let mistake = Mistake {
            line: None,
            key: String::new(),
            message: message.into(),
        };
        Self {
            file: file.to_owned(),
            mistakes: vec![mistake],
        }
    }
}

/// SECURITY: text in the place of a key may be a password. The message quotes it only if it is close to a known key.
fn unknown_key(found: &str, known: &[&str]) -> String {
    let closest = known
        .iter()
        .find(|one| strsim::levenshtein(found, one) <= MISSPELT_DISTANCE_MAX);
    closest.map_or_else(
        || format!("an unknown key; known are: {}", known.join(", ")),
        |closest| format!("unknown key `{}`; did you mean `{closest}`?", found.escape_debug()),
    )
}

/// Reads the text of a users file.
pub fn read(path: &Path) -> Result<String, UsersError> {
    read_small_text(path, FILE_BYTES_MAX)
        .map_err(|error| UsersError::new(&path.display().to_string(), format!("cannot be read: {error}")))
}

/// Walks the YAML tree and collects the mistakes.
#[derive(Default)]
struct Parser {
    mistakes: Vec<Mistake>,
}

impl Parser {
    fn mistake(&mut self, key: &str, origin: &Origin, message: impl Into<String>) {
        self.mistakes.push(Mistake {
            line: origin.line(),
            key: key.to_owned(),
            message: message.into(),
        });
    }

    /// The entries of a mapping; repeated keys are mistakes.
    fn entries<'a>(&mut self, key: &str, node: &'a Node) -> Vec<(&'a str, &'a Origin, &'a Node)> {
        let Shape::Map(entries) = &node.shape else {
            let got = node.type_name();
            self.mistake(key, &node.origin, format!("expected a mapping of keys, got {got}"));
            return Vec::new();
        };
        let mut seen: BTreeMap<&str, Option<u64>> = BTreeMap::new();
        let mut found = Vec::new();
        for (name, origin, value) in entries {
            if let Some(first) = seen.insert(name, origin.line()) {
                let first = first.map(|line| format!(" (first in line {line})")).unwrap_or_default();
                self.mistake(key, origin, format!("`{}` is repeated{first}", name.escape_debug()));
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
                self.mistake("", origin, unknown_key(key, &["users"]));
                continue;
            }
            if matches!(node.shape, Shape::Null) {
                continue;
            }
            let entries = self.entries("users", node);
            if entries.len() > USERS_MAX {
                let message = format!("{} accounts, at most {USERS_MAX}; use an OIDC provider", entries.len());
                self.mistake("users", &node.origin, message);
                return;
            }
            for (name, origin, node) in entries {
                if let Err(message) = check_name(name) {
                    self.mistake("users", origin, message);
                } else if let Some(user) = self.user(name, origin, node) {
                    users.insert(name.to_owned(), user);
                }
            }
        }
    }

    fn user(&mut self, name: &str, origin: &Origin, node: &Node) -> Option<User> {
        let before = self.mistakes.len();
        let at = |key: &str| format!("users.{name}.{key}");
        let mut password = None;
        let mut totp = None;
        let mut state = UserState::Enabled;
        let mut portals = None;
        let mut claims = Map::new();
        claims.insert("sub".to_owned(), json!(name));
        claims.insert("roles".to_owned(), json!([]));
        for (key, origin, value) in self.entries(&format!("users.{name}"), node) {
            match key {
                "password" => password = self.password(&at(key), value),
                "totp" => totp = self.totp(&at(key), value),
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
                    Shape::Bool(true) => state = UserState::Disabled,
                    Shape::Bool(false) => {}
                    _ => self.mistake(&at(key), &value.origin, "expected `true` or `false`"),
                },
                "claims" => self.claims(&at(key), value, &mut claims),
                other => {
                    self.mistake(&format!("users.{name}"), origin, unknown_key(other, &KEYS));
                }
            }
        }
        let is_map = matches!(node.shape, Shape::Map(_));
        if password.is_none() && is_map && node.child("password").is_none() {
            let message = "`password` is missing; set it with `cedargate user passwd`";
            self.mistake(&format!("users.{name}"), origin, message);
        }
        let user = User {
            account: Account {
                name: name.to_owned(),
                claims: Arc::new(claims),
                portals,
            },
            password: password?,
            totp,
            state,
        };
        (self.mistakes.len() == before).then_some(user)
    }

    fn password(&mut self, key: &str, node: &Node) -> Option<Hash> {
        // SECURITY: messages never quote this value; it may be a password
        let Shape::Text(text) = &node.shape else {
            self.mistake(key, &node.origin, "expected a hash; set it with `cedargate user passwd`");
            return None;
        };
        Hash::parse(text)
            .map_err(|message| self.mistake(key, &node.origin, message))
            .ok()
    }

    fn totp(&mut self, key: &str, node: &Node) -> Option<TotpSecret> {
        // SECURITY: messages never quote this value
        let Shape::Text(text) = &node.shape else {
            self.mistake(key, &node.origin, "expected the base32 text of a secret");
            return None;
        };
        TotpSecret::parse(text)
            .map_err(|message| self.mistake(key, &node.origin, message))
            .ok()
    }

    fn text(&mut self, key: &str, node: &Node) -> Option<String> {
        match &node.shape {
            Shape::Text(text) if !text.trim().is_empty() => return Some(text.clone()),
            Shape::Text(_) => self.mistake(key, &node.origin, "is empty; leave the key out instead"),
            _ => {
                let got = node.type_name();
                self.mistake(key, &node.origin, format!("expected a text, got {got}"));
            }
        }
        None
    }

    fn texts(&mut self, key: &str, node: &Node) -> Vec<String> {
        let Shape::List(items) = &node.shape else {
            let got = node.type_name();
            self.mistake(key, &node.origin, format!("expected a list, got {got}"));
            return Vec::new();
        };
        let mut texts: Vec<String> = Vec::new();
        for item in items {
            match self.text(key, item) {
                Some(text) if texts.contains(&text) => {
                    self.mistake(key, &item.origin, format!("`{}` is repeated", text.escape_debug()));
                }
                text => texts.extend(text),
            }
        }
        texts
    }

    fn portals(&mut self, key: &str, node: &Node) -> Vec<String> {
        let portals = self.texts(key, node);
        for portal in portals.iter().filter(|portal| PortalSlug::parse(portal).is_none()) {
            let message = format!("`{}` is not a valid portal name", portal.escape_debug());
            self.mistake(key, &node.origin, message);
        }
        portals
    }

    fn claims(&mut self, key: &str, node: &Node, claims: &mut Map<String, Value>) {
        for (name, origin, value) in self.entries(key, node) {
            if RESERVED_CLAIMS.contains(&name) {
                let message = format!("`{name}` is written by the gate, or has a key of its own");
                self.mistake(key, origin, message);
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
    fn a_bad_second_factor_is_a_mistake_and_is_never_quoted() {
        for bad in ["12345678", "[a]", "GEZDGNBV", "\"no 32!\""] {
            let message = error(&format!("users:\n  ada: {{ password: \"HASH\", totp: {bad} }}\n"));
            assert!(message.starts_with("users.yaml:2: users.ada.totp: "), "{message}");
            assert!(!message.contains("GEZDGNBV") && !message.contains("no 32!"), "{message}");
        }
        let users = parse("users:\n  ada: { password: \"HASH\", totp: GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ }\n").unwrap();
        assert!(users.have_codes() && users.find("ada").unwrap().account.claims.get("totp").is_none());
    }

    #[test]
    fn keys_of_an_account_become_its_claims() {
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
            (UserState::Enabled, UserState::Disabled)
        );
        assert_eq!(users.find("bob").unwrap().account.portals, None);
        assert!(!format!("{users:?}").contains("CTFhFd"));
    }

    #[test]
    fn empty_file_has_no_accounts() {
        for text in ["", "# no accounts yet\n", "users:\n", "users: {}\n"] {
            let users = parse(text).unwrap();
            assert!(
                users.iter().next().is_none() && !users.decoy_hash("x").accepts(""),
                "{text:?}"
            );
        }
    }

    #[test]
    fn each_mistake_names_its_line_and_the_fix() {
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
            ("users:\n  Alice: { password: \"HASH\" }", 2, "`Alice` is not a valid name"),
            ("users:\n  \"a b\": { password: \"HASH\" }", 2, "is not a valid name"),
            ("users:\n  \"ä\": { password: \"HASH\" }", 2, "is not a valid name"),
            ("users:\n  \"\": { password: \"HASH\" }", 2, "is not a valid name"),
            ("users:\n  a: { password: \"HASH\", roles: viewer }", 2, "expected a list"),
            ("users:\n  a: { password: \"HASH\", roles: [x, x] }", 2, "`x` is repeated"),
            ("users:\n  a: { password: \"HASH\", roles: [7] }", 2, "expected a text"),
            ("users:\n  a: { password: \"HASH\", tenant: \" \" }", 2, "is empty"),
            (
                "users:\n  a: { password: \"HASH\", portals: [Bad_One] }",
                2,
                "not a valid portal name",
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
    fn huge_and_deeply_nested_files_are_refused() {
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
    fn decoy_hash_is_stable_per_name_and_covers_all_costs() {
        let users = parse("users:\n  a: { password: \"HASH\" }\n  b: { password: \"$argon2id$v=19$m=16,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc\" }\n").unwrap();
        let costs: Vec<bool> = (0..100)
            .map(|n| {
                let name = format!("unknown{n}");
                assert_eq!(users.decoy_hash(&name), users.decoy_hash(&name));
                users.decoy_hash(&name) == &users.find("a").unwrap().password
            })
            .collect();
        assert!(costs.contains(&true) && costs.contains(&false), "both costs occur");
    }

    #[test]
    fn changed_disabled_and_removed_accounts_are_reported() {
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
            let old = parse(base).unwrap();
            let new = parse(&text).unwrap();
            assert_eq!(old.changed_in(&new).collect::<Vec<_>>(), changed, "{text}");
        }
    }
}
