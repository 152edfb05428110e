//! Paths without regard to case, for portals whose app ignores it.
//!
//! A letter and its partner of the other case fold into one. Some letters have no single partner (`ς`, `ſ`, `ı`, the
//! Kelvin sign): apps disagree about them, so a path with such a letter is refused.

use std::borrow::Cow;

use super::{PathError, escaped_byte, push_escape};

/// A canonical id with every letter in lower case.
pub(crate) fn folded(id: &str) -> Result<Cow<'_, str>, PathError> {
    fold(id, |letter| folded_letter(letter).ok_or(PathError::Case))
}

/// The same for a look-up of portals: a letter without a single partner stays.
pub(crate) fn folded_where_clear(id: &str) -> Cow<'_, str> {
    fold(id, |letter| Ok(folded_letter(letter).unwrap_or(letter))).unwrap_or(Cow::Borrowed(id))
}

fn fold(id: &str, letter: impl Fn(char) -> Result<char, PathError>) -> Result<Cow<'_, str>, PathError> {
    if !id.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'%') {
        return Ok(Cow::Borrowed(id));
    }
    let mut out = String::with_capacity(id.len());
    let mut bytes = id.bytes();
    let mut escaped = Vec::new();
    while let Some(first) = bytes.next() {
        if first == b'%' {
            escaped.push(escaped_byte(&mut bytes).ok_or(PathError::BadEscape)?);
            continue;
        }
        push_folded(&escaped, &mut out, &letter)?;
        escaped.clear();
        out.push(char::from(first).to_ascii_lowercase());
    }
    push_folded(&escaped, &mut out, &letter)?;
    Ok(if out == id { Cow::Borrowed(id) } else { Cow::Owned(out) })
}

/// Writes a run of escapes: a letter outside ASCII is a run of its own.
fn push_folded(bytes: &[u8], out: &mut String, letter: impl Fn(char) -> Result<char, PathError>) -> Result<(), PathError> {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let folded = letter(c)?;
            folded
                .encode_utf8(&mut [0; 4])
                .bytes()
                .for_each(|byte| push_escape(out, byte));
        }
        chunk.invalid().iter().for_each(|byte| push_escape(out, *byte));
    }
    Ok(())
}

/// `None` if the letter is not one of a pair.
fn folded_letter(c: char) -> Option<char> {
    let lower = only(c.to_lowercase());
    let upper = only(c.to_uppercase());
    match (lower, upper) {
        // no other case, or one that is several letters (`ß`)
        (Some(lower), upper) if lower == c && upper.is_none_or(|upper| upper == c) => Some(c),
        (Some(lower), Some(upper)) if lower == c => (only(upper.to_lowercase()) == Some(c)).then_some(c),
        (Some(lower), _) => (only(lower.to_uppercase()) == Some(c)).then_some(lower),
        (None, _) => None,
    }
}

fn only(mut letters: impl Iterator<Item = char>) -> Option<char> {
    let first = letters.next();
    first.filter(|_| letters.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_fold_and_escapes_keep_their_digits() {
        for (id, expected) in [
            ("/", "/"),
            ("/shop/secret", "/shop/secret"),
            ("/Shop/SECRET", "/shop/secret"),
            ("/CAF%C3%89", "/caf%C3%A9"),
            ("/a%3AB", "/a%3Ab"),
            ("/stra%C3%9Fe", "/stra%C3%9Fe"),
            ("/%D0%9C%D0%98%D0%A0", "/%D0%BC%D0%B8%D1%80"),
            ("/%E4%B8%AD%25", "/%E4%B8%AD%25"),
            ("/x%2FY", "/x%2Fy"),
            ("/f/50%AB", "/f/50%AB"),
        ] {
            assert_eq!(folded(id).unwrap(), expected, "{id}");
            assert_eq!(folded(expected).unwrap(), expected, "folding twice");
            assert_eq!(folded_where_clear(id), expected);
        }
    }

    #[test]
    fn letters_without_a_single_partner_are_refused() {
        for (letter, text) in [
            ("kelvin sign", "%E2%84%AA"),
            ("long s", "%C5%BF"),
            ("dotless i", "%C4%B1"),
            ("dotted I", "%C4%B0"),
            ("final sigma", "%CF%82"),
            ("micro sign", "%C2%B5"),
            ("capital sharp s", "%E1%BA%9E"),
            ("angstrom sign", "%E2%84%AB"),
            ("titlecase dz", "%C7%B2"),
        ] {
            let id = format!("/A{text}");
            assert_eq!(folded(&id), Err(PathError::Case), "{letter}");
            assert_eq!(folded_where_clear(&id), format!("/a{text}"), "{letter}");
        }
    }

    #[test]
    fn no_two_letters_that_upper_or_lower_case_unites_fold_apart() {
        for c in (0_u32..0x11_0000).filter_map(char::from_u32) {
            let Some(own) = folded_letter(c) else { continue };
            for other in [only(c.to_lowercase()), only(c.to_uppercase())].into_iter().flatten() {
                assert!(folded_letter(other).is_none_or(|folded| folded == own), "{c} and {other}");
            }
        }
    }
}
