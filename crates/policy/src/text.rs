//! The bytes of a file that a user wrote → its text.
//!
//! Foundation. Editors and shells of Windows begin a file with a byte order mark, or write UTF-16. The mark is no part
//! of the text. UTF-16 is refused by its name: a parser's own message about it ("invalid token") does not lead to the
//! cause.

/// The reason why bytes are no text.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TextError {
    #[error("is UTF-16; save it as UTF-8")]
    Utf16,
    #[error("is not valid UTF-8 (byte {0}); save it as UTF-8")]
    NotUtf8(usize),
}

/// The text of a file, without a byte order mark.
pub fn decode(bytes: &[u8]) -> Result<&str, TextError> {
    // without a mark, the first character of UTF-16 shows as a zero byte: these files begin with ASCII
    let is_utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.iter().take(2).any(|b| *b == 0);
    if is_utf16 {
        return Err(TextError::Utf16);
    }
    let text = std::str::from_utf8(bytes).map_err(|error| TextError::NotUtf8(error.valid_up_to()))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// The mistake for which a text is no YAML.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct YamlMistake {
    pub line: Option<usize>,
    /// The key in that line.
    pub key: Option<String>,
    pub message: String,
}

impl YamlMistake {
    pub fn of(text: &str, error: &serde_saphyr::Error) -> Self {
        let line = error.location().and_then(|at| usize::try_from(at.line()).ok());
        let line = line.filter(|line| *line > 0);
        let written = line.and_then(|line| text.lines().nth(line - 1)).unwrap_or_default();
        let message = match written.contains("{{") {
            true => "`{{` is no YAML: fill in the template, or put the text in quotes".to_owned(),
            false => yaml_message(error),
        };
        Self {
            line,
            key: key_in(written),
            message,
        }
    }
}

/// The first key of a line of YAML.
fn key_in(line: &str) -> Option<String> {
    let (key, _) = line.trim_start_matches([' ', '-', '{', '[']).split_once(':')?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    (!key.is_empty() && key.chars().all(is_plain)).then(|| key.to_owned())
}

/// A YAML library's message without the place, which problems have by themselves, and without its advice to
/// programmers.
pub fn yaml_message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let end = [" at line ", ", set DuplicateKeyPolicy"]
        .iter()
        .filter_map(|part| text.find(part))
        .min();
    let text = end.and_then(|end| text.get(..end)).unwrap_or(&text);
    match text.strip_prefix("budget breached: ").map(|breach| breach.split(' ').next()) {
        None => text.to_owned(),
        Some(Some("Depth")) => "is nested too deep".to_owned(),
        Some(Some("Nodes" | "Events")) => "has more values than a file may have; split it".to_owned(),
        Some(_) => "uses more aliases or text than a file may".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_of_yaml_names_its_line_and_key() {
        let mistake = |text: &str| {
            let error = serde_saphyr::from_str::<serde_json::Value>(text).unwrap_err();
            let found = YamlMistake::of(text, &error);
            (found.line, found.key, found.message)
        };
        let template = "`{{` is no YAML: fill in the template, or put the text in quotes";
        for (text, line, key) in [
            ("title: a\nlogin: {{\n", 2, "login"),
            ("title: a\nroutes:\n  - route: {{ .Values.route }}\n", 3, "route"),
            ("limits: { batch: {{ n }} }\n", 1, "limits"),
        ] {
            assert_eq!(mistake(text), (Some(line), Some(key.to_owned()), template.to_owned()));
        }
        let open = mistake("title: a\nlogin: {\n");
        assert_eq!((open.0, open.1.as_deref()), (Some(2), Some("login")));
        assert!(open.2.contains("unclosed") && !open.2.contains("line"), "{}", open.2);
        assert_eq!(mistake("title: a\n] \"x\": y\n").1, None);
    }

    #[test]
    fn a_byte_order_mark_is_no_text_and_utf_16_is_named() {
        assert_eq!(decode(b"\xef\xbb\xbfpermit"), Ok("permit"));
        assert_eq!(decode(b"permit"), Ok("permit"));
        assert_eq!(decode(b"\xef\xbb\xbf"), Ok(""));
        assert_eq!(decode(b""), Ok(""));
        let wide = |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        for text in ["\u{feff}permit", "permit", "\u{feff}é"] {
            assert_eq!(decode(&wide(text, u16::to_le_bytes)), Err(TextError::Utf16), "{text}");
            assert_eq!(decode(&wide(text, u16::to_be_bytes)), Err(TextError::Utf16), "{text}");
        }
        assert_eq!(decode(b"a\xff"), Err(TextError::NotUtf8(1)));
    }
}
