//! Paths with segments that apps read in different ways: `a%2Fb`, `a;b=c`, an empty one, `%25xx`.
//!
//! `CanonicalPath::parse` refuses them. `CanonicalPath::parse_request` keeps such a segment byte for byte, and notes
//! the rule that it breaks; only a portal that names a prefix of the path in `paths.opaque` decides on it. Beside the
//! path itself this file lists how apps could read it that decode, split or shorten such segments: a forbid on one of
//! these readings holds, too. A segment that is `.` or `..` in any of the readings is refused everywhere.

use super::{PATH_BYTES_MAX, Written, plain_of, segments, trim_id};
use super::{PathError, check_byte, escaped_byte, is_blank, is_segment_byte, push_escape};

/// Layers of percent-encoding that are looked through; a path with more of them is refused.
const LAYERS_MAX: usize = 4;

/// The part of a path that apps could read in several ways.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct OpaquePart {
    /// Plain id of the path before its first such segment.
    pub ordinary: String,
    /// The rule that this segment breaks.
    pub rule: PathError,
    /// Ids of the path as apps read it that decode, split or shorten such segments.
    pub readings: Vec<String>,
}

/// A path that keeps opaque segments, in its one spelling.
pub(super) struct Rewritten {
    pub text: String,
    /// `None`: every segment is ordinary.
    pub part: Option<OpaquePart>,
}

/// True for a rule that an opaque segment may break.
pub(super) fn is_opaque(rule: PathError) -> bool {
    matches!(
        rule,
        PathError::EncodedSlash | PathError::Semicolon | PathError::EncodedTwice | PathError::EmptySegment
    )
}

/// The spelling of a path given without its first `/`, opaque segments kept as they are.
pub(super) fn rewrite(tail: &str) -> Result<Rewritten, PathError> {
    let mut text = String::with_capacity(tail.len() + 32);
    let mut first = None;
    let mut readings = PathDecodings::new();
    for segment in segments(tail) {
        let segment = segment?;
        let start = text.len();
        text.push('/');
        if let Err(rule) = segment.rewrite(&mut text) {
            if !is_opaque(rule) {
                return Err(rule);
            }
            text.truncate(start + 1);
            keep(segment.text, &mut text)?;
            first.get_or_insert(Opening { start, rule });
        }
        readings.read(segment.text)?;
    }
    if text.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    let part = first.map(|Opening { start, rule }| OpaquePart {
        ordinary: ordinary_id(text.get(..start).unwrap_or_default()),
        rule,
        readings: readings.ids(trim_id(&text)),
    });
    Ok(Rewritten { text, part })
}

/// The first opaque segment.
struct Opening {
    start: usize,
    rule: PathError,
}

fn ordinary_id(text: &str) -> String {
    match plain_of(text) {
        Some(plain) => plain.into(),
        None if text.is_empty() => "/".to_owned(),
        None => text.to_owned(),
    }
}

/// Writes an opaque segment: its escapes and its characters as sent, every byte escaped that must be.
fn keep(segment: &str, out: &mut String) -> Result<(), PathError> {
    let mut bytes = segment.bytes();
    while let Some(first) = bytes.next() {
        if first != b'%' {
            check_kept(first, Written::Raw)?;
            match is_segment_byte(first) || first == b';' {
                true => out.push(char::from(first)),
                false => push_escape(out, first),
            }
            continue;
        }
        let escape: String = std::iter::once('%').chain(bytes.clone().take(2).map(char::from)).collect();
        let byte = escaped_byte(&mut bytes).ok_or(PathError::BadEscape)?;
        check_kept(byte, Written::Escaped)?;
        out.push_str(&escape);
    }
    Ok(())
}

fn check_kept(byte: u8, written: Written) -> Result<(), PathError> {
    match check_byte(byte, written) {
        Err(PathError::EncodedSlash | PathError::Semicolon) => Ok(()),
        checked => checked,
    }
}

/// The path as an app reads it that decodes it once, twice, … and then splits it at every separator.
struct PathDecodings {
    layers: [String; LAYERS_MAX],
}

impl PathDecodings {
    fn new() -> Self {
        Self {
            layers: Default::default(),
        }
    }

    /// Adds one segment to every layer. `Err` if a piece of it is `.` or `..` in any layer, or if it hides a control or
    /// a backslash.
    fn read(&mut self, segment: &str) -> Result<(), PathError> {
        let mut decoded = unescape(segment.as_bytes());
        check_first(&decoded)?;
        for layer in &mut self.layers {
            for piece in decoded.split(|byte| *byte == b'/') {
                push_piece(piece, layer)?;
            }
            decoded = decode(&decoded);
        }
        match decode(&decoded) == decoded {
            true => Ok(()),
            false => Err(PathError::EncodedTwice),
        }
    }

    /// Every reading that differs from the path's own id.
    fn ids(self, own: &str) -> Vec<String> {
        let mut ids: Vec<String> = Vec::new();
        for id in self.layers {
            let id = if id.is_empty() { "/".to_owned() } else { id };
            if id != own && !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }
}

/// The first layer is what every app reads: it is valid text without blanks at the edges.
fn check_first(decoded: &[u8]) -> Result<(), PathError> {
    let text = std::str::from_utf8(decoded).map_err(|_utf8| PathError::InvalidUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(PathError::Control);
    }
    let is_blank_edge = |piece: &str| piece.starts_with(is_blank) || piece.ends_with(is_blank);
    match text.split(['/', ';']).any(is_blank_edge) {
        true => Err(PathError::EdgeWhitespace),
        false => Ok(()),
    }
}

/// Adds one piece to an id in plain spelling, without its parameters (`;…`); an empty piece adds nothing.
fn push_piece(piece: &[u8], id: &mut String) -> Result<(), PathError> {
    if piece.iter().any(u8::is_ascii_control) {
        return Err(PathError::Control);
    }
    if piece.contains(&b'\\') {
        return Err(PathError::Backslash);
    }
    let name = piece.split(|byte| *byte == b';').next().unwrap_or_default();
    if matches!(name.trim_ascii(), b"." | b"..") {
        return Err(PathError::DotSegment);
    }
    if name.is_empty() {
        return Ok(());
    }
    id.push('/');
    for byte in name {
        match is_segment_byte(*byte) {
            true => id.push(char::from(*byte)),
            false => push_escape(id, *byte),
        }
    }
    Ok(())
}

/// Decodes one layer of escapes, and the overlong forms of ASCII characters that lenient decoders read.
fn decode(bytes: &[u8]) -> Vec<u8> {
    plain_overlong(unescape(bytes))
}

/// Decodes `%2e` and `%u002e`; leaves what is no escape.
fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let escaped = if *first == b'%' { escape_at(after) } else { None };
        match escaped {
            Some(Escape { byte, length }) => {
                out.push(byte);
                rest = after.get(length..).unwrap_or_default();
            }
            None => out.push(*first),
        }
    }
    out
}

/// An escape without its `%`.
struct Escape {
    byte: u8,
    length: usize,
}

fn escape_at(after: &[u8]) -> Option<Escape> {
    let hex = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    let is_hex = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
    match after {
        [b'u' | b'U', digits @ ..] => {
            let digits = digits.get(..4).filter(|digits| is_hex(digits))?;
            let byte = u8::try_from(hex(digits)?).ok()?;
            Some(Escape { byte, length: 5 })
        }
        digits => {
            let digits = digits.get(..2).filter(|digits| is_hex(digits))?;
            let byte = u8::try_from(hex(digits)?).ok()?;
            Some(Escape { byte, length: 2 })
        }
    }
}

fn plain_overlong(bytes: Vec<u8>) -> Vec<u8> {
    if !bytes.iter().any(|byte| matches!(byte, 0xc0 | 0xc1 | 0xe0 | 0xf0)) {
        return bytes;
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes.as_slice();
    while let Some((first, after)) = rest.split_first() {
        let (byte, tail) = match rest {
            [lead @ (0xc0 | 0xc1), last @ 0x80..=0xbf, tail @ ..] => ((lead & 1) << 6 | last & 0x3f, tail),
            [0xe0, lead @ (0x80 | 0x81), last @ 0x80..=0xbf, tail @ ..] => ((lead & 1) << 6 | last & 0x3f, tail),
            [0xf0, 0x80, lead @ (0x80 | 0x81), last @ 0x80..=0xbf, tail @ ..] => ((lead & 1) << 6 | last & 0x3f, tail),
            _ => (*first, after),
        };
        out.push(byte);
        rest = tail;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::CanonicalPath;
    use super::*;

    fn read(raw: &str) -> CanonicalPath {
        CanonicalPath::parse_request(raw).unwrap_or_else(|e| panic!("{raw}: {e}"))
    }

    #[test]
    fn opaque_segments_are_kept_as_sent() {
        for (raw, text, rule, ordinary) in [
            (
                "/api/projects/g%2Fp",
                "/api/projects/g%2Fp",
                PathError::EncodedSlash,
                "/api/projects",
            ),
            ("/@scope%2fpkg", "/@scope%2fpkg", PathError::EncodedSlash, "/"),
            (
                "/%61pp;jsessionid=1/list",
                "/%61pp;jsessionid=1/list",
                PathError::Semicolon,
                "/",
            ),
            ("/%61/b;c/%7e", "/a/b;c/~", PathError::Semicolon, "/a"),
            ("/a//b", "/a//b", PathError::EmptySegment, "/a"),
            ("/a//", "/a//", PathError::EmptySegment, "/a"),
            ("/files/50%25ab.txt", "/files/50%25ab.txt", PathError::EncodedTwice, "/files"),
            ("/x/a%252Fb", "/x/a%252Fb", PathError::EncodedTwice, "/x"),
            ("/x%3ay/a b;\"c\"", "/x%3Ay/a%20b;%22c%22", PathError::Semicolon, "/x:y"),
        ] {
            let path = read(raw);
            assert_eq!(path.as_str(), text, "{raw}");
            let part = path.opaque().unwrap();
            assert_eq!((part.rule, part.ordinary.as_str()), (rule, ordinary), "{raw}");
            assert_eq!(CanonicalPath::parse(raw), Err(rule), "{raw}");
        }
        for raw in ["/", "/a/b/", "/%61"] {
            assert_eq!(read(raw).opaque(), None);
            assert_eq!(CanonicalPath::parse(raw), Ok(read(raw)));
        }
    }

    #[test]
    fn the_readings_of_other_apps_are_listed() {
        for (raw, readings) in [
            ("/a/b%2Fc", &["/a/b/c"][..]),
            ("/a//b", &["/a/b"]),
            ("/a/b;c=d/e", &["/a/b/e"]),
            ("/a/b%253Bc%2fd", &["/a/b%253Bc/d", "/a/b/d"]),
            ("/a/b%252fc", &["/a/b/c"]),
            ("/f/50%25ab", &["/f/50%AB"]),
        ] {
            let found = read(raw).opaque().unwrap().readings.clone();
            assert_eq!(found, readings, "{raw}");
        }
    }

    #[test]
    fn dots_backslashes_and_controls_hide_in_no_layer() {
        use PathError as E;
        for (error, raws) in [
            (
                E::DotSegment,
                &[
                    "/a/..%2fb",
                    "/a/%2e%2e%2fb",
                    "/a/b%2f..",
                    "/a/b%2F%2E%2e%2Fc",
                    "/a/..;/b",
                    "/a/..;x=1/b",
                    "/a/.;/b",
                    "/a//../b",
                    "/a//%2e/b",
                    "/a/%252e%252e%252fb",
                    "/a/%252e%252e/b",
                    "/a/%25252e%25252e/b",
                    "/a/..%252fb",
                    "/a/x%2f%252e%252e",
                    "/a/%25c0%25ae%25c0%25ae%252fb",
                    "/a/%25u002e%25u002e%252fb",
                    "/a/b;x%2f../c",
                    "/a/%252e;b",
                    "/a/.%252e/b",
                ][..],
            ),
            (
                E::Backslash,
                &["/a/b%2f%5c", "/a;\\b", "/a/%255c..", "/a//b%5cc", "/a/%25c1%259c"],
            ),
            (
                E::Control,
                &["/a/b%2f%00", "/a/%2500", "/a/b;%0a", "/a/%250d%250a", "/a//%7f"],
            ),
            (E::InvalidUtf8, &["/a/b%2f%ff", "/a;%c0%ae", "/a/%e0%80%ae%2f"]),
            (E::BadEscape, &["/a;%", "/a/%2f%zz", "/a//%u002e"]),
            (E::EdgeWhitespace, &["/a/b%2f%20", "/a/%20;b", "/a;%20"]),
            (E::Delimiter, &["/a;b?c", "/a//b#c"]),
            (E::EncodedTwice, &["/a/%2525252525252e"]),
        ] {
            for raw in raws {
                assert_eq!(CanonicalPath::parse_request(raw), Err(error), "{raw}");
            }
        }
    }

    fn hostile() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => "[a-c.]{1,2}",
            2 => Just("/".to_owned()),
            1 => prop::sample::select(vec!["%2f", "%2F", "%25", "%252f", "%2e", "%252e", ";", "%3b", "//", "..", "%41", "%c3%a9", "%u002e", "%5c"])
                .prop_map(str::to_owned),
        ];
        prop::collection::vec(piece, 0..10).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn a_kept_path_is_read_again_as_itself(raw in hostile()) {
            if let Ok(path) = CanonicalPath::parse_request(&raw) {
                prop_assert_eq!(CanonicalPath::parse_request(path.as_str()), Ok(path.clone()));
                prop_assert_eq!(path.opaque().is_none(), CanonicalPath::parse(&raw).is_ok());
            }
        }

        #[test]
        fn decoding_any_number_of_times_never_yields_a_dot_segment(raw in hostile()) {
            if let Ok(path) = CanonicalPath::parse_request(&raw) {
                let mut bytes = path.as_str().as_bytes().to_vec();
                for _ in 0..10 {
                    for piece in bytes.split(|b| matches!(b, b'/' | b'\\')) {
                        let name = piece.split(|b| *b == b';').next().unwrap();
                        prop_assert!(name != b"." && name != b"..", "{:?}", path);
                    }
                    bytes = decode(&bytes);
                }
            }
        }
    }
}
