//! Tokens made from data: the rows of `tests/corpus/token_cases/*.json`, for the verifier alone and for a running gate.
//!
//! `src/authn/attack_tests.rs` includes this file too, so that both levels judge the same tokens. A file is a list of
//! groups: `keys` says which keys the issuer publishes (default: `rsa`, `ed` and `ec`), `cases` how each token differs
//! from a good one. In a case, `{"$each": […]}` makes one token per value, `{"$now": seconds}` is a time relative to
//! now, `{"$repeat": [text, n]}` and `{"$times": [value, n]}` are long values, `{"$jwk": key}` is a public key.

use std::path::Path;
use std::sync::LazyLock;

use aws_lc_rs::hmac;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::signer::{Signer, b64, unb64};

/// The issuer and the audience of a good token.
pub const ISSUER: &str = "https://issuer.test/";
pub const AUDIENCE: &str = "shop";
/// The algorithms that the issuer may use.
pub const ALGORITHMS: [&str; 4] = ["RS256", "PS256", "ES256", "EdDSA"];

/// The keys of the tokens; `other` is never the issuer's unless a group publishes it.
pub struct Keys {
    pub rsa: Signer,
    pub ed: Signer,
    pub ec: Signer,
    pub other: Signer,
}

pub static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    rsa: Signer::rsa("r"),
    ed: Signer::ed("e"),
    ec: Signer::ec("c"),
    other: Signer::ec("c"),
});

/// Cases that share one published key set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    keys: Option<Vec<PublishedKey>>,
    cases: Vec<Value>,
}

/// One member of the published key set: a key, some members replaced.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishedKey {
    key: String,
    #[serde(default)]
    set: Map<String, Value>,
}

pub struct Group {
    pub jwks: Value,
    pub cases: Vec<Case>,
}

/// How a token is made, and the expected denial code; `permitted` if the token is good.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    #[serde(default = "ec")]
    key: String,
    /// Members that replace or join those of a good header.
    #[serde(default)]
    header: Map<String, Value>,
    #[serde(default)]
    without_header: Vec<String>,
    /// Text at the end of the header object: a member twice, or a value that no JSON library writes.
    append_header: Option<Value>,
    /// The whole text in place of the header.
    header_text: Option<String>,
    #[serde(default)]
    claims: Map<String, Value>,
    #[serde(default)]
    without_claims: Vec<String>,
    append_claims: Option<Value>,
    /// The whole text in place of the claims; `<token>` is a good token.
    claims_text: Option<String>,
    /// The algorithm of the signature; default: the header's.
    alg: Option<String>,
    #[serde(default)]
    signature: Signature,
    /// The form that is sent, with `<token>`, `<header>`, `<payload>`, `<signature>`, `<signature_respelled>` and
    /// `<signature_standard>` replaced.
    compact: Option<Value>,
    pub expect: String,
    /// The only level that can run the case; default: both.
    pub only: Option<Level>,
}

#[derive(Clone, Copy, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The verifier alone, with a clock that stands still.
    Unit,
    /// A running gate.
    Gate,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Signature {
    /// By the case's key.
    #[default]
    Own,
    /// By the case's key, then the last byte changed.
    Changed,
    Empty,
    Zeros(usize),
    Hex(String),
    /// With a secret that the attacker knows: a form of the RSA public key, `text:…` or `hex:…`.
    Hmac(String),
}

fn ec() -> String {
    "ec".to_owned()
}

/// The names of all files, sorted.
pub fn files() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".json").unwrap().to_owned()
        })
        .collect();
    names.sort();
    names
}

/// The groups of one file that this level can run.
pub fn groups(file: &str, level: Level) -> Vec<Group> {
    let text = std::fs::read_to_string(folder().join(format!("{file}.json"))).unwrap();
    let raw: Vec<RawGroup> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
    raw.into_iter()
        .map(|group| Group {
            jwks: published(group.keys),
            cases: group
                .cases
                .into_iter()
                .flat_map(|case| variants(case).into_iter())
                .map(|case| read_case(file, case))
                .filter(|case| case.only.is_none_or(|only| only == level))
                .collect(),
        })
        .collect()
}

/// Claims of a good token.
pub fn good_claims(now: i64) -> Value {
    json!({"iss": ISSUER, "sub": "alice", "aud": AUDIENCE, "exp": now + 300, "iat": now, "tenant": "acme",
        "realm_access": {"roles": ["viewer"]}})
}

impl Case {
    pub fn token(&self, now: i64) -> String {
        let signer = key(&self.key);
        let header = merged(signer.header(), &self.header, &self.without_header, now);
        let claims = merged(good_claims(now), &self.claims, &self.without_claims, now);
        let header_text = written(&header, self.append_header.as_ref(), self.header_text.as_deref(), now);
        let claims_text = written(&claims, self.append_claims.as_ref(), self.claims_text.as_deref(), now);
        let claims_text = claims_text.replace("<token>", &KEYS.ec.token(&good_claims(now)));
        let input = format!("{}.{}", b64(header_text), b64(claims_text));
        let alg = self.alg.as_deref().or(header["alg"].as_str()).unwrap_or_default();
        let signature = self.signature.bytes(signer, alg, &input);
        let token = format!("{input}.{}", b64(&signature));
        match &self.compact {
            None => token,
            Some(form) => filled(&text(&expanded(form, now)), &token, &signature),
        }
    }
}

impl Signature {
    fn bytes(&self, signer: &Signer, alg: &str, input: &str) -> Vec<u8> {
        match self {
            Self::Own => signer.signature(alg, input),
            Self::Changed => {
                let mut bytes = signer.signature(alg, input);
                *bytes.last_mut().unwrap() ^= 1;
                bytes
            }
            Self::Empty => Vec::new(),
            Self::Zeros(length) => vec![0; *length],
            Self::Hex(digits) => unhex(digits),
            Self::Hmac(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, &known_secret(secret));
                hmac::sign(&key, input.as_bytes()).as_ref().to_vec()
            }
        }
    }
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/token_cases"))
}

fn key(name: &str) -> &'static Signer {
    match name {
        "rsa" => &KEYS.rsa,
        "ed" => &KEYS.ed,
        "ec" => &KEYS.ec,
        "other" => &KEYS.other,
        _ => panic!("there is no key `{name}`"),
    }
}

fn published(keys: Option<Vec<PublishedKey>>) -> Value {
    let jwks: Vec<Value> = match keys {
        None => ["rsa", "ed", "ec"].map(|name| key(name).jwk.clone()).into(),
        Some(keys) => keys
            .iter()
            .map(|published| merged(key(&published.key).jwk.clone(), &published.set, &[], 0))
            .collect(),
    };
    json!({ "keys": jwks })
}

/// One value for each element of the first `$each`, until there is none.
fn variants(case: Value) -> Vec<Value> {
    match first_each(&case) {
        None => vec![case],
        Some(values) => values
            .iter()
            .flat_map(|value| {
                let mut variant = case.clone();
                assert!(replace_each(&mut variant, value));
                variants(variant)
            })
            .collect(),
    }
}

fn first_each(value: &Value) -> Option<Vec<Value>> {
    match value {
        Value::Object(members) => match members.get("$each") {
            Some(each) => Some(each.as_array().unwrap().clone()),
            None => members.values().find_map(first_each),
        },
        Value::Array(items) => items.iter().find_map(first_each),
        _ => None,
    }
}

fn replace_each(value: &mut Value, by: &Value) -> bool {
    match value {
        Value::Object(members) if members.contains_key("$each") => {
            *value = by.clone();
            true
        }
        Value::Object(members) => members.values_mut().any(|member| replace_each(member, by)),
        Value::Array(items) => items.iter_mut().any(|item| replace_each(item, by)),
        _ => false,
    }
}

fn read_case(file: &str, case: Value) -> Case {
    let shown: String = case.to_string().chars().take(300).collect();
    let mut case: Case = serde_json::from_value(case).unwrap_or_else(|e| panic!("{file}: {shown}: {e}"));
    case.name = format!("{file}: {shown}");
    case
}

fn merged(mut object: Value, set: &Map<String, Value>, without: &[String], now: i64) -> Value {
    for (name, value) in set {
        object[name] = expanded(value, now);
    }
    for name in without {
        object.as_object_mut().unwrap().remove(name).unwrap();
    }
    object
}

fn written(object: &Value, append: Option<&Value>, whole: Option<&str>, now: i64) -> String {
    let own = object.to_string();
    match (whole, append) {
        (Some(whole), _) => whole.to_owned(),
        (None, Some(append)) => format!("{},{}}}", own.strip_suffix('}').unwrap(), text(&expanded(append, now))),
        (None, None) => own,
    }
}

/// `$now`, `$repeat`, `$times` and `$jwk` replaced by what they stand for.
fn expanded(value: &Value, now: i64) -> Value {
    let Some(members) = value.as_object() else {
        return match value {
            Value::Array(items) => items.iter().map(|item| expanded(item, now)).collect(),
            other => other.clone(),
        };
    };
    let only = members.iter().next().filter(|_| members.len() == 1);
    match only.map(|(name, value)| (name.as_str(), value)) {
        Some(("$now", seconds)) => json!(now + seconds.as_i64().unwrap()),
        Some(("$repeat", of)) => json!(of[0].as_str().unwrap().repeat(count(&of[1]))),
        Some(("$times", of)) => json!(vec![of[0].clone(); count(&of[1])]),
        Some(("$jwk", name)) => key(name.as_str().unwrap()).jwk.clone(),
        _ => members
            .iter()
            .map(|(name, value)| (name.clone(), expanded(value, now)))
            .collect(),
    }
}

fn count(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

/// A text, or a list of texts that are joined.
fn text(value: &Value) -> String {
    match value {
        Value::Array(parts) => parts.iter().map(|part| part.as_str().unwrap()).collect(),
        one => one.as_str().unwrap().to_owned(),
    }
}

fn filled(form: &str, token: &str, signature: &[u8]) -> String {
    use base64::Engine;
    let parts: Vec<&str> = token.split('.').collect();
    let standard = base64::engine::general_purpose::STANDARD_NO_PAD.encode(signature);
    form.replace("<token>", token)
        .replace("<header>", parts[0])
        .replace("<payload>", parts[1])
        .replace("<signature>", parts[2])
        .replace("<signature_respelled>", &respelled(parts[2]))
        .replace("<signature_standard>", &standard)
}

/// 64 bytes leave four unused bits in the last character: the next character spells the same bytes.
fn respelled(signature: &str) -> String {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut characters: Vec<char> = signature.chars().collect();
    let last = characters.last_mut().unwrap();
    let next = (alphabet.find(*last).unwrap() + 1) % alphabet.len();
    *last = alphabet.chars().nth(next).unwrap();
    characters.into_iter().collect()
}

fn known_secret(name: &str) -> Vec<u8> {
    let modulus = KEYS.rsa.jwk["n"].as_str().unwrap();
    match name.split_once(':') {
        Some(("text", secret)) => secret.as_bytes().to_vec(),
        Some(("hex", digits)) => unhex(digits),
        _ => match name {
            "der" => KEYS.rsa.public_der(),
            "modulus" => unb64(modulus).unwrap(),
            "modulus_text" => modulus.as_bytes().to_vec(),
            "jwk" => KEYS.rsa.jwk.to_string().into_bytes(),
            _ => panic!("there is no secret `{name}`"),
        },
    }
}

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len())
        .step_by(2)
        .map(|n| u8::from_str_radix(&digits[n..n + 2], 16).unwrap())
        .collect()
}
