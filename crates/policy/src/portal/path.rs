//! The canonical path: policies decide on the same path that the app receives.
//!
//! The gate parses the path before it looks for the portal. A path that two parsers could read differently is refused,
//! never repaired; every accepted path has one spelling. Must never guess, and must never decode anything into a
//! separator. The whole file is pure: no configuration, no request types.
//!
//! `opaque` reads the paths that only some portals take, `rules` says how a portal reads a path.

pub(crate) mod case;
mod opaque;
pub mod rules;

use std::borrow::Cow;
use std::str;

use percent_encoding::percent_decode_str;
use smallvec::SmallVec;
use thiserror::Error;

pub use self::opaque::OpaquePart;

/// Longest path, in bytes, as received and in canonical form.
pub const PATH_BYTES_MAX: usize = 8 * 1024;

/// Most segments in a path; each one is an ancestor that a policy may name.
pub const PATH_SEGMENTS_MAX: usize = 128;

/// A request's path with one meaning and one spelling. Built by [`CanonicalPath::parse`] and
/// [`CanonicalPath::parse_request`] only.
///
/// INVARIANT: if no segment is opaque, it starts with `/`; no empty, `.` or `..` segment; every escape is upper-case,
/// complete, and decodes within its segment to valid UTF-8 without controls, `/`, `\` or `;`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct CanonicalPath {
    text: String,
    /// `plain_id()` if it differs from `id()`; else `None`.
    plain: Option<Box<str>>,
    /// Segments that apps read in different ways.
    opaque: Option<Box<OpaquePart>>,
}

/// The reason why a path is refused; all of them are `request_invalid`.
#[derive(Clone, Copy, Debug, Eq, Error, Hash, PartialEq)]
pub enum PathError {
    #[error("the path does not start with `/`")]
    NotAbsolute,
    #[error("the path is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    #[error("the path has more than {PATH_SEGMENTS_MAX} segments")]
    TooManySegments,
    #[error("the path has an empty segment (`//`)")]
    EmptySegment,
    #[error("the path has a `.` or `..` segment")]
    DotSegment,
    #[error("the path has a backslash")]
    Backslash,
    #[error("the path has a `;`")]
    Semicolon,
    #[error("the path has a control character")]
    Control,
    #[error("the path has an encoded `/`")]
    EncodedSlash,
    #[error("the path is percent-encoded twice")]
    EncodedTwice,
    #[error("the path has an incomplete percent-escape")]
    BadEscape,
    #[error("the path is not valid UTF-8")]
    InvalidUtf8,
    #[error("a path segment starts or ends with whitespace")]
    EdgeWhitespace,
    #[error("the path has a raw `?` or `#`")]
    Delimiter,
    #[error("the path has a letter without a single partner in the other case, and the app ignores case")]
    Case,
}

/// The spelling of one byte of a segment.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Written {
    Raw,
    Escaped,
}

impl CanonicalPath {
    /// Takes the path of a request target, without its query. Costs one scan and one allocation if `raw` is canonical
    /// and without escapes.
    pub fn parse(raw: &str) -> Result<Self, PathError> {
        if raw.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        let tail = raw.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
        if is_plain(tail)? {
            return Ok(Self {
                text: raw.to_owned(),
                plain: None,
                opaque: None,
            });
        }
        let text = rewrite(tail)?;
        let plain = plain_of(trim_id(&text));
        Ok(Self {
            text,
            plain,
            opaque: None,
        })
    }

    /// As `parse`, but keeps segments that apps read in different ways (`a%2Fb`, `a;b`, an empty one, `%25xx`).
    ///
    /// SECURITY: only a portal that names a prefix of such a path may decide on it: [`rules::PathRules::read`] checks
    /// that.
    pub fn parse_request(raw: &str) -> Result<Self, PathError> {
        let rule = match Self::parse(raw) {
            Err(rule) if opaque::is_opaque(rule) => rule,
            parsed => return parsed,
        };
        let kept = opaque::rewrite(raw.strip_prefix('/').ok_or(PathError::NotAbsolute)?)?;
        let part = kept.part.ok_or(rule)?;
        Ok(Self {
            plain: plain_of(trim_id(&kept.text)),
            text: kept.text,
            opaque: Some(Box::new(part)),
        })
    }

    /// The segments that apps read in different ways; `None` for an ordinary path.
    pub fn opaque(&self) -> Option<&OpaquePart> {
        self.opaque.as_deref()
    }

    /// The plain id of the path up to its first opaque segment; of an ordinary path the whole.
    pub fn ordinary_id(&self) -> &str {
        self.opaque().map_or_else(|| self.plain_id(), |part| part.ordinary.as_str())
    }

    /// The path that is forwarded: the canonical spelling, with the trailing slash that the client sent.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path that is decided on: the canonical spelling without a trailing slash; the root is `/`.
    pub fn id(&self) -> &str {
        trim_id(&self.text)
    }

    /// The id with every escape decoded that a segment can do without (`%3A`, `%40`, `%2B`…).
    ///
    /// SECURITY: `/a%3Ab` and `/a:b` have different ids, as RFC 3986 wants, but most apps read them alike. Every
    /// look-up by path (portal, route, public entry) compares this one, and where it differs from `id()` a forbid on
    /// either must hold; else an escape would bypass a rule.
    pub fn plain_id(&self) -> &str {
        self.plain.as_deref().unwrap_or_else(|| self.id())
    }

    /// Ids of every parent, the nearest first, up to `/`; without the path itself.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        ancestors_of(self.id())
    }
}

/// True if `id` could be some path's `id()`: checks ids in policies and at the other doors.
pub fn is_canonical_id(id: &str) -> bool {
    CanonicalPath::parse(id).is_ok_and(|path| path.id() == id)
}

/// True if `id` is a path as the gate spells it, with or without a trailing slash.
pub fn is_spelled_canonically(id: &str) -> bool {
    CanonicalPath::parse_request(id).is_ok_and(|path| path.as_str() == id)
}

/// Ids of every parent of a canonical id, the nearest first, up to `/`; without the id itself.
pub fn ancestors_of(id: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(parent(id), |id| parent(id))
}

/// True if a canonical id is `prefix` or lies below it, by whole segments.
pub fn is_at_or_below(id: &str, prefix: &str) -> bool {
    id == prefix || ancestors_of(id).any(|ancestor| ancestor == prefix)
}

/// The encoded segments of a canonical id; none for the root. Only an opaque path has empty ones.
pub fn segments_of(id: &str) -> impl Iterator<Item = &str> {
    let tail = id.strip_prefix('/').unwrap_or(id);
    tail.split('/').filter(move |_| !tail.is_empty())
}

/// The text of one canonical segment; never holds a `/`.
pub fn decoded_segment(segment: &str) -> Cow<'_, str> {
    percent_decode_str(segment).decode_utf8_lossy()
}

/// One canonical segment with every escape decoded that it can do without: see [`CanonicalPath::plain_id`].
pub(crate) fn plain_segment(segment: &str) -> Cow<'_, str> {
    plain_of(segment).map_or(Cow::Borrowed(segment), |plain| Cow::Owned(plain.into()))
}

fn parent(id: &str) -> Option<&str> {
    match id.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (head, _) => Some(head),
    }
}

fn trim_id(text: &str) -> &str {
    match text.strip_suffix('/') {
        Some("") | None => text,
        Some(id) => id,
    }
}

/// The path after its first `/`, if nothing needs rewriting. An error here is one that rewriting would find as well.
fn is_plain(tail: &str) -> Result<bool, PathError> {
    let mut length = 0_usize;
    let mut dots = 0_usize;
    let mut segments = 1_usize;
    for byte in tail.bytes() {
        if byte == b'/' {
            check_shape(length, dots)?;
            (length, dots) = (0, 0);
            segments += 1;
        } else if is_segment_byte(byte) {
            length += 1;
            dots += usize::from(byte == b'.');
        } else {
            return Ok(false);
        }
    }
    if length > 0 {
        check_shape(length, dots)?;
    }
    if segments > PATH_SEGMENTS_MAX {
        return Err(PathError::TooManySegments);
    }
    Ok(true)
}

fn check_shape(length: usize, dots: usize) -> Result<(), PathError> {
    match length {
        0 => Err(PathError::EmptySegment),
        1 | 2 if dots == length => Err(PathError::DotSegment),
        _ => Ok(()),
    }
}

/// One segment of a path, as it was sent.
struct RawSegment<'a> {
    text: &'a str,
    is_last: bool,
}

impl RawSegment<'_> {
    /// Writes the canonical spelling. Only the last segment may be empty.
    fn rewrite(&self, out: &mut String) -> Result<(), PathError> {
        match (self.text, self.is_last) {
            ("", true) => Ok(()),
            ("", false) => Err(PathError::EmptySegment),
            (text, _) => rewrite_segment(text, out),
        }
    }
}

/// The segments of a path given without its first `/`; an error in place of the first that is too many.
fn segments(tail: &str) -> impl Iterator<Item = Result<RawSegment<'_>, PathError>> {
    let mut texts = tail.split('/').peekable();
    let mut count = 0_usize;
    std::iter::from_fn(move || {
        let text = texts.next()?;
        count += 1;
        let segment = RawSegment {
            text,
            is_last: texts.peek().is_none(),
        };
        Some(
            (count <= PATH_SEGMENTS_MAX)
                .then_some(segment)
                .ok_or(PathError::TooManySegments),
        )
    })
}

/// The canonical spelling of a path given without its first `/`.
fn rewrite(tail: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(tail.len() + 32);
    for segment in segments(tail) {
        out.push('/');
        segment?.rewrite(&mut out)?;
    }
    if out.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    Ok(out)
}

fn rewrite_segment(segment: &str, out: &mut String) -> Result<(), PathError> {
    let mut decoded = SmallVec::<[u8; 64]>::new();
    let mut bytes = segment.bytes();
    while let Some(first) = bytes.next() {
        let (byte, written) = if first == b'%' {
            (escaped_byte(&mut bytes).ok_or(PathError::BadEscape)?, Written::Escaped)
        } else {
            (first, Written::Raw)
        };
        check_byte(byte, written)?;
        let keep = is_unreserved(byte) || (written == Written::Raw && is_segment_byte(byte));
        if keep {
            out.push(char::from(byte));
        } else {
            push_escape(out, byte);
        }
        decoded.push(byte);
    }
    check_decoded(&decoded)
}

fn escaped_byte(bytes: &mut str::Bytes<'_>) -> Option<u8> {
    let high = char::from(bytes.next()?).to_digit(16)?;
    let low = char::from(bytes.next()?).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

fn check_byte(byte: u8, written: Written) -> Result<(), PathError> {
    match (byte, written) {
        (0x00..=0x1f | 0x7f, _) => Err(PathError::Control),
        (b'\\', _) => Err(PathError::Backslash),
        (b';', _) => Err(PathError::Semicolon),
        (b'/', Written::Escaped) => Err(PathError::EncodedSlash),
        (b'?' | b'#', Written::Raw) => Err(PathError::Delimiter),
        _ => Ok(()),
    }
}

/// Checks the whole decoded segment: escapes may hide a part of it.
fn check_decoded(decoded: &[u8]) -> Result<(), PathError> {
    let text = str::from_utf8(decoded).map_err(|_utf8| PathError::InvalidUtf8)?;
    if text == "." || text == ".." {
        return Err(PathError::DotSegment);
    }
    if text.chars().any(char::is_control) {
        return Err(PathError::Control);
    }
    if text.starts_with(is_blank) || text.ends_with(is_blank) {
        return Err(PathError::EdgeWhitespace);
    }
    // A `%` in the text came from `%25`, and its digits may have been escaped too.
    let twice = |triple: &[u8]| matches!(triple, [b'%', a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    if decoded.windows(3).any(twice) {
        return Err(PathError::EncodedTwice);
    }
    Ok(())
}

/// Whitespace, and what the `trim` of some language takes for it.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{feff}' | '\u{180e}' | '\u{200b}')
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 `pchar` without `%` and `;`: needs no escape in a segment.
fn is_segment_byte(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'!' | b'$' | b'&'..=b',' | b'=' | b':' | b'@')
}

/// Upper-case percent-escape of one byte.
pub(crate) fn push_escape(out: &mut String, byte: u8) {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).map_or('0', |c| c.to_ascii_uppercase());
    out.extend(['%', digit(byte >> 4), digit(byte & 0xf)]);
}

/// Percent-escapes everything but unreserved characters: the result has no separator of any kind.
pub(crate) fn escape_all(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if is_unreserved(byte) {
            out.push(char::from(byte));
        } else {
            push_escape(&mut out, byte);
        }
    }
    out
}

/// `None` if the canonical text is plain already. Works on segments and on ids: no escape of a canonical path decodes
/// to `/`.
fn plain_of(text: &str) -> Option<Box<str>> {
    if !text.contains('%') {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(first) = bytes.next() {
        match (first, first == b'%') {
            (byte, false) => out.push(char::from(byte)),
            (_, true) => match escaped_byte(&mut bytes)? {
                byte if is_segment_byte(byte) => out.push(char::from(byte)),
                byte => push_escape(&mut out, byte),
            },
        }
    }
    (out != text).then(|| out.into_boxed_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(raw: &str) -> String {
        CanonicalPath::parse(raw)
            .unwrap_or_else(|e| panic!("{raw:?}: {e}"))
            .as_str()
            .to_owned()
    }

    #[test]
    fn one_spelling_is_left() {
        for (raw, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/%61%2D%7e/x", "/a-~/x"),
            ("/a%3ab/c:d", "/a%3Ab/c:d"),
            ("/caf\u{e9}/%c3%a9", "/caf%C3%A9/%C3%A9"),
            ("/a b/\"<>^`{|}[]", "/a%20b/%22%3C%3E%5E%60%7B%7C%7D%5B%5D"),
            ("/a%23b%3fc", "/a%23b%3Fc"),
            ("/100%25", "/100%25"),
            ("/%25zz", "/%25zz"),
            ("/!$&'()*+,=:@", "/!$&'()*+,=:@"),
            ("/...", "/..."),
            ("/.hidden/..a/a..", "/.hidden/..a/a.."),
        ] {
            assert_eq!(canonical(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn ambiguity_is_refused_raw_and_encoded() {
        use PathError as E;
        for (error, raws) in [
            (E::NotAbsolute, &["", "a", "*", "?q", "http://a/b"][..]),
            (E::EmptySegment, &["//", "/a//b", "//a", "/a//", "/%41x//"][..]),
            (
                E::DotSegment,
                &[
                    "/.",
                    "/..",
                    "/a/./b",
                    "/a/../b",
                    "/a/%2e",
                    "/%2E%2e/a",
                    "/.%2e/x",
                    "/%2e./",
                    "/a/..",
                ],
            ),
            (E::Backslash, &["/a\\b", "/a%5cb", "/%5C..", "/..\\x"]),
            (E::Semicolon, &["/a;b=c", "/a%3b", "/;/x", "/..;/x", "/%3B"]),
            (
                E::Control,
                &[
                    "/a\0",
                    "/%00",
                    "/%0a",
                    "/a%0D",
                    "/\t",
                    "/%09a",
                    "/%7f",
                    "/\u{7f}",
                    "/%c2%85a",
                    "/a\u{9f}b",
                    "/%1F",
                ],
            ),
            (E::EncodedSlash, &["/a%2fb", "/%2F", "/..%2f.."]),
            (E::EncodedTwice, &["/%252f", "/%25%32%66", "/a%2541", "/%252%65", "/%25%61f"]),
            (
                E::BadEscape,
                &["/%", "/%2", "/%zz", "/%u002f", "/%%41", "/%+1", "/%4/1", "/a%2\u{e9}"],
            ),
            (
                E::InvalidUtf8,
                &[
                    "/%c0%af",
                    "/%ff",
                    "/%e0%80%af",
                    "/%ed%a0%80",
                    "/%c3",
                    "/%c3/%a9",
                    "/%f4%90%80%80",
                    "/\u{e9}%a9",
                ],
            ),
            (
                E::EdgeWhitespace,
                &[
                    "/ a",
                    "/a ",
                    "/%20",
                    "/a%20/b",
                    "/%c2%a0a",
                    "/a\u{3000}",
                    "/%e2%80%83x",
                    "/x%ef%bb%bf",
                    "/.%20",
                ],
            ),
            (E::Delimiter, &["/a?b", "/a#b", "/#", "/%41#"]),
        ] {
            for raw in raws {
                assert_eq!(CanonicalPath::parse(raw), Err(error), "{raw:?}");
            }
        }
    }

    #[test]
    fn length_and_segments_are_bounded() {
        let longest = format!("/{}", "a".repeat(PATH_BYTES_MAX - 1));
        assert!(CanonicalPath::parse(&longest).is_ok());
        assert_eq!(CanonicalPath::parse(&format!("{longest}a")), Err(PathError::TooLong));
        let grows = format!("/{}", "\"".repeat(PATH_BYTES_MAX / 2));
        assert_eq!(CanonicalPath::parse(&grows), Err(PathError::TooLong));
        assert!(CanonicalPath::parse(&"/a".repeat(PATH_SEGMENTS_MAX)).is_ok());
        for one_more in ["/a", "/%20b"] {
            let deep = format!("{one_more}{}", "/a".repeat(PATH_SEGMENTS_MAX));
            assert!(CanonicalPath::parse(&deep).is_err());
        }
        let too_deep = format!("{}/{}", "/a".repeat(PATH_SEGMENTS_MAX), "%41");
        assert_eq!(CanonicalPath::parse(&too_deep), Err(PathError::TooManySegments));
    }

    #[test]
    fn the_trailing_slash_is_forwarded_but_not_decided_on() {
        let path = CanonicalPath::parse("/a/b/").unwrap();
        assert_eq!((path.as_str(), path.id()), ("/a/b/", "/a/b"));
        assert_eq!(segments_of(path.id()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(path.ancestors().collect::<Vec<_>>(), ["/a", "/"]);
        let root = CanonicalPath::parse("/").unwrap();
        assert_eq!((root.as_str(), root.id()), ("/", "/"));
        assert_eq!((segments_of(root.id()).count(), root.ancestors().count()), (0, 0));
    }

    #[test]
    fn the_plain_id_is_blind_to_needless_escapes() {
        let path = CanonicalPath::parse("/x%3Ay/a%2bb%20c%25%40").unwrap();
        assert_eq!(path.id(), "/x%3Ay/a%2Bb%20c%25%40");
        assert_eq!(path.plain_id(), "/x:y/a+b%20c%25@");
        assert_eq!(CanonicalPath::parse("/x:y/").unwrap().plain_id(), "/x:y");
    }

    #[test]
    fn only_canonical_ids_are_canonical_ids() {
        for good in ["/", "/a", "/a/b%20c", "/a:b", "/a%3Ab"] {
            assert!(is_canonical_id(good), "{good}");
        }
        for bad in ["", "a", "/a/", "//", "/a/..", "/%61", "/%c3%a9", "/a b", "/\u{e9}"] {
            assert!(!is_canonical_id(bad), "{bad}");
        }
    }

    #[test]
    fn recorded_pairs_are_refused_or_agree() {
        let Ok(data) = std::env::var("CEDARGATE_TEST_DATA") else {
            eprintln!("SKIPPED recorded_pairs_are_refused_or_agree: CEDARGATE_TEST_DATA is not set");
            return;
        };
        let file = std::path::Path::new(&data).join("http/envoy_path_normalization.json");
        let recorded: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        for input in recorded["reject"].as_array().unwrap() {
            assert!(CanonicalPath::parse(input.as_str().unwrap()).is_err(), "{input}");
        }
        let mut accepted = 0;
        for group in ["rfc_normalize", "merge_slashes"] {
            for pair in recorded[group].as_array().unwrap() {
                let without_query = |side: usize| pair[side].as_str().unwrap().split('?').next().unwrap().to_owned();
                if let Ok(path) = CanonicalPath::parse(&without_query(0)) {
                    assert_eq!(path.as_str(), without_query(1), "{pair}");
                    accepted += 1;
                }
            }
        }
        assert!(accepted >= 4, "only {accepted} pairs were accepted");
    }

    /// The path that the laxest app would see: decode, backslashes are slashes, no empty or dot segments, cut at `;`.
    fn lenient_segments(path: &str) -> Vec<String> {
        let decoded = percent_decode_str(path).decode_utf8_lossy().replace('\\', "/");
        let mut segments: Vec<String> = Vec::new();
        for segment in decoded.split('/') {
            let segment = segment.split(';').next().unwrap_or_default().trim();
            match segment {
                "" | "." => {}
                ".." => drop(segments.pop()),
                _ => segments.push(segment.to_owned()),
            }
        }
        segments
    }

    fn hostile_path() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => "[a-z]{1,3}",
            4 => Just("/".to_owned()),
            1 => "[ -~]",
            1 => any::<char>().prop_map(String::from),
            2 => "%[0-9a-fA-F]{2}",
            1 => "(%c3%a9|%2e|\\.|\\.\\.|%25|%2f|%5c|%20|%3a|:|%C2%A0|%25%34)",
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn parsing_never_panics_and_is_idempotent(raw in any::<String>()) {
            if let Ok(path) = CanonicalPath::parse(&raw) {
                prop_assert_eq!(CanonicalPath::parse(path.as_str()), Ok(path));
            }
        }

        #[test]
        fn canonicalisation_is_idempotent(raw in hostile_path()) {
            if let Ok(path) = CanonicalPath::parse(&raw) {
                prop_assert_eq!(CanonicalPath::parse(path.as_str()), Ok(path.clone()));
                prop_assert!(is_canonical_id(path.id()));
                prop_assert!(is_canonical_id(path.plain_id()));
                let again = CanonicalPath::parse(path.plain_id()).unwrap();
                prop_assert_eq!(again.plain_id(), path.plain_id());
            }
        }

        #[test]
        fn no_decoder_disagrees_with_the_canonical_path(raw in hostile_path()) {
            if let Ok(path) = CanonicalPath::parse(&raw) {
                let own: Vec<String> = segments_of(path.id()).map(|s| decoded_segment(s).into_owned()).collect();
                prop_assert_eq!(&lenient_segments(path.as_str()), &own);
                prop_assert_eq!(&lenient_segments(&raw), &own);
                let plain: Vec<String> = segments_of(path.plain_id()).map(|s| decoded_segment(s).into_owned()).collect();
                prop_assert_eq!(&plain, &own);
                // decoding once more changes nothing: a client cannot hide a second layer
                prop_assert!(own.iter().all(|s| decoded_segment(s) == s.as_str()));
            }
        }

        #[test]
        fn paths_that_read_alike_share_their_plain_id(a in hostile_path(), b in hostile_path()) {
            if let (Ok(a), Ok(b)) = (CanonicalPath::parse(&a), CanonicalPath::parse(&b)) {
                let alike = lenient_segments(a.as_str()) == lenient_segments(b.as_str());
                prop_assert_eq!(alike, a.plain_id() == b.plain_id());
            }
        }

        #[test]
        fn ancestors_are_strict_prefixes_by_segment(raw in hostile_path()) {
            if let Ok(path) = CanonicalPath::parse(&raw) {
                let segments: Vec<&str> = segments_of(path.id()).collect();
                let ancestors: Vec<&str> = path.ancestors().collect();
                prop_assert_eq!(ancestors.len(), segments.len());
                for (up, ancestor) in ancestors.iter().enumerate() {
                    let expected = &segments[..segments.len() - 1 - up];
                    prop_assert_eq!(segments_of(ancestor).collect::<Vec<_>>(), expected);
                    prop_assert!(is_canonical_id(ancestor));
                }
            }
        }
    }
}
