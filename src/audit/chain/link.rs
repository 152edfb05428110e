//! The last member of a chained line: written by the gate, read by `cedargate audit verify`.
//!
//! A chained line is the record's own JSON object with one more member, always the last:
//!
//! `"chain":{"id":"…","seq":7,"hash":"…"}`, and in checkpoints also `"key":"…","signature":"…"`.
//!
//! `hash` is SHA-256 of the hash of the line before (32 bytes), `id` (16 ASCII characters), `seq` (8 bytes, big-endian)
//! and the line without the member and without the line break. `signature` is Ed25519 over `CONTEXT` and the hash. The
//! form is exact: a line with other spaces, other order or other escapes is not a chained line.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::base::digest::sha256;
use crate::base::ed25519::SigningKey;

/// Put before the hash that a checkpoint's signature covers.
const CONTEXT: &[u8] = b"cedargate audit checkpoint 1\0";
/// Characters of a chain's id: 12 random bytes.
pub const ID_CHARS: usize = 16;
const OPENING: &[u8] = b",\"chain\":{\"id\":\"";
/// No number of a line is larger.
const SEQ_DIGITS_MAX: usize = 20;

/// SHA-256.
pub type Hash = [u8; 32];

/// A chain's id.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ChainId([u8; ID_CHARS]);

/// The chain member of a line.
#[derive(Clone, Debug)]
pub struct Link<'a> {
    pub id: ChainId,
    pub seq: u64,
    pub hash: Hash,
    /// Only checkpoints have one.
    pub signature: Option<Signature<'a>>,
    /// The line before the member, without the closing brace.
    body: &'a [u8],
}

#[derive(Clone, Debug)]
pub struct Signature<'a> {
    /// Id of the key.
    pub key: &'a str,
    pub bytes: Vec<u8>,
}

impl ChainId {
    /// `None`: not 16 characters of the alphabet of base64url.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let fits = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_';
        let id = <[u8; ID_CHARS]>::try_from(text).ok()?;
        id.iter().all(fits).then_some(Self(id))
    }

    /// A new id.
    pub fn random() -> Self {
        let random = uuid::Uuid::new_v4().into_bytes();
        let mut twelve = [0; 12];
        // the bytes between these hold the version and the variant
        for (to, from) in twelve.iter_mut().zip(random.iter().take(6).chain(random.iter().skip(10))) {
            *to = *from;
        }
        let mut id = [b'-'; ID_CHARS];
        for (to, from) in id.iter_mut().zip(URL_SAFE_NO_PAD.encode(twelve).bytes()) {
            *to = from;
        }
        Self(id)
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Display for ChainId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<'a> Link<'a> {
    /// Reads the chain member of a line without its line break. `None`: not a chained line.
    pub fn of(line: &'a [u8]) -> Option<Self> {
        let at = rfind(line, OPENING)?;
        let (body, member) = line.split_at_checked(at)?;
        let rest = member.strip_prefix(OPENING)?;
        let (id, rest) = rest.split_at_checked(ID_CHARS)?;
        let rest = rest.strip_prefix(b"\",\"seq\":")?;
        let digits = rest.iter().take(SEQ_DIGITS_MAX).take_while(|b| b.is_ascii_digit()).count();
        let (seq, rest) = rest.split_at_checked(digits)?;
        let (hash, rest) = text(rest.strip_prefix(b",\"hash\":\"")?)?;
        let signature = match rest.strip_prefix(b",\"key\":\"") {
            None => None,
            Some(rest) => return Self::signed(body, id, seq, hash, rest),
        };
        (rest == b"}}").then_some(())?;
        Self::checked(body, id, seq, hash, signature)
    }

    fn signed(body: &'a [u8], id: &[u8], seq: &[u8], hash: &[u8], rest: &'a [u8]) -> Option<Self> {
        let (key, rest) = text(rest)?;
        let (signature, rest) = text(rest.strip_prefix(b",\"signature\":\"")?)?;
        (rest == b"}}").then_some(())?;
        let signature = Signature {
            key: std::str::from_utf8(key).ok()?,
            bytes: URL_SAFE_NO_PAD.decode(signature).ok()?,
        };
        Self::checked(body, id, seq, hash, Some(signature))
    }

    fn checked(body: &'a [u8], id: &[u8], seq: &[u8], hash: &[u8], signature: Option<Signature<'a>>) -> Option<Self> {
        let seq = std::str::from_utf8(seq).ok()?;
        let has_leading_zero = seq.len() > 1 && seq.starts_with('0');
        (!has_leading_zero).then_some(())?;
        Some(Self {
            id: ChainId::parse(id)?,
            seq: seq.parse().ok()?,
            hash: Hash::try_from(URL_SAFE_NO_PAD.decode(hash).ok()?).ok()?,
            signature,
            body,
        })
    }

    /// The record without the chain member.
    pub fn record(&self) -> Vec<u8> {
        [self.body, b"}"].concat()
    }

    /// The hash that the line has behind a line with the hash `before`.
    pub fn hash_behind(&self, before: &Hash, scratch: &mut Vec<u8>) -> Hash {
        hash(before, self.id, self.seq, &[self.body, b"}"], scratch)
    }
}

/// The hash of a line: of the hash `before` it, its place, and its text without the chain member.
fn hash(before: &Hash, id: ChainId, seq: u64, record: &[&[u8]], scratch: &mut Vec<u8>) -> Hash {
    scratch.clear();
    scratch.extend_from_slice(before);
    scratch.extend_from_slice(&id.0);
    scratch.extend_from_slice(&seq.to_be_bytes());
    for part in record {
        scratch.extend_from_slice(part);
    }
    sha256(scratch)
}

/// The text that a checkpoint's signature covers.
pub fn signed_text(hash: &Hash) -> Vec<u8> {
    [CONTEXT, hash].concat()
}

pub fn hash_text(hash: &Hash) -> String {
    URL_SAFE_NO_PAD.encode(hash)
}

pub fn parse_hash(text: &str) -> Option<Hash> {
    Hash::try_from(URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

/// Appends a record, which is a JSON object without a line break, as a chained line. Returns its hash.
pub fn append(
    out: &mut Vec<u8>,
    record: &[u8],
    place: &ChainPosition<'_>,
    signer: Option<&SigningKey>,
    scratch: &mut Vec<u8>,
) -> Hash {
    let ChainPosition { id, seq, before } = *place;
    let hash = hash(before, id, seq, &[record], scratch);
    out.extend_from_slice(record.strip_suffix(b"}").unwrap_or(record));
    out.extend_from_slice(OPENING);
    out.extend_from_slice(&id.0);
    out.extend_from_slice(b"\",\"seq\":");
    cedargate_policy::json::append::number(out, seq);
    out.extend_from_slice(b",\"hash\":\"");
    append_base64(out, &hash);
    if let Some(key) = signer {
        out.extend_from_slice(b"\",\"key\":\"");
        out.extend_from_slice(key.id().as_bytes());
        out.extend_from_slice(b"\",\"signature\":\"");
        append_base64(out, &key.sign(&signed_text(&hash)));
    }
    out.extend_from_slice(b"\"}}\n");
    hash
}

/// The place of a line in its chain.
#[derive(Clone, Copy, Debug)]
pub struct ChainPosition<'a> {
    pub id: ChainId,
    pub seq: u64,
    /// Hash of the line before.
    pub before: &'a Hash,
}

fn append_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    // four characters for three bytes
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = out
        .get_mut(start..)
        .and_then(|to| URL_SAFE_NO_PAD.encode_slice(bytes, to).ok());
    out.truncate(start + written.unwrap_or_default());
}

/// The bytes up to the next quote, and those behind it.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == b'"')?;
    let (text, rest) = bytes.split_at_checked(end)?;
    Some((text, rest.strip_prefix(b"\"")?))
}

/// Where `wanted` begins for the last time. Looks at the end of the line only: the member is short.
fn rfind(line: &[u8], wanted: &[u8]) -> Option<usize> {
    const MEMBER_BYTES_MAX: usize = 512;
    let start = line.len().saturating_sub(MEMBER_BYTES_MAX);
    let end = line.get(start..)?;
    let at = end.windows(wanted.len()).rposition(|window| window == wanted)?;
    Some(start + at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::ed25519::VerifyingKey;
    use crate::base::ed25519::tests::PRIVATE;

    const ZERO: Hash = [0; 32];

    fn line(record: &str, seq: u64, signer: Option<&SigningKey>) -> Vec<u8> {
        let id = ChainId::parse(b"abcdefghijklmno_").unwrap();
        let (mut out, mut scratch) = (Vec::new(), Vec::new());
        let place = ChainPosition { id, seq, before: &ZERO };
        append(&mut out, record.as_bytes(), &place, signer, &mut scratch);
        assert_eq!(out.pop(), Some(b'\n'));
        out
    }

    #[test]
    fn line_is_json_and_reads_back() {
        let key = SigningKey::from_pem(PRIVATE).unwrap();
        let record = r#"{"a":1,"chain":{"id":"x"}}"#;
        for signer in [None, Some(&key)] {
            let line = line(record, 42, signer);
            serde_json::from_slice::<serde_json::Value>(&line).unwrap();
            let link = Link::of(&line).unwrap();
            assert_eq!((link.id.as_str(), link.seq), ("abcdefghijklmno_", 42));
            assert_eq!(link.record(), record.as_bytes());
            assert_eq!(link.hash, link.hash_behind(&ZERO, &mut Vec::new()));
            assert_eq!(link.signature.is_some(), signer.is_some());
            if let Some(signature) = link.signature {
                assert_eq!(signature.key, key.id());
                let public = VerifyingKey::all_from_pem(PRIVATE).unwrap().remove(0);
                assert!(public.verifies(&signed_text(&link.hash), &signature.bytes));
            }
        }
        assert_ne!(ChainId::random(), ChainId::random());
        assert!(ChainId::parse(ChainId::random().as_str().as_bytes()).is_some());
    }

    #[test]
    fn other_forms_are_not_chained_lines() {
        let good = String::from_utf8(line("{}", 7, None)).unwrap();
        assert!(Link::of(good.as_bytes()).is_some());
        for bad in [
            "{}".to_owned(),
            String::new(),
            format!("{good} "),
            good.replace("\"seq\":7", "\"seq\":07"),
            good.replace("\"seq\":7", "\"seq\": 7"),
            good.replace("\"seq\":7", "\"seq\":"),
            good.replace("\"seq\":7", "\"seq\":99999999999999999999"),
            good.replace("abcdefghijklmno_", "abcdefghijklmno\""),
            good.replace("\"hash\":\"", "\"hash\":\"A"),
            good.replace("}}", ",\"key\":\"k\"}}"),
            good.replace("}}", ",\"key\":\"k\",\"signature\":\"*\"}}"),
        ] {
            assert!(Link::of(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_change_of_a_line_changes_its_hash_or_its_form(at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut line = line(r#"{"schema_version":1,"kind":"decision","reason":"forbidden"}"#, 7, None);
            let at = at.index(line.len());
            let before = line[at];
            line[at] = to;
            let still = Link::of(&line).is_some_and(|link| link.hash == link.hash_behind(&ZERO, &mut Vec::new()));
            prop_assert_eq!(still, to == before);
        }
    }
}
