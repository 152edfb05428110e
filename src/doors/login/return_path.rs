//! The return path: the path of this origin to which a browser goes after a login or logout.
//!
//! SECURITY: the text comes from a link that any site can make. `parse` accepts it only if no browser can read it as another
//! origin, and never repairs it. The path is canonical, so that every later reader gives it the same meaning.

use crate::denial::{Denial, Refusal};
use cedargate_policy::portal::path::{CanonicalPath, ancestors_of};

/// Bytes of a return path; it becomes part of the provider's URL.
const BYTES_MAX: usize = 2048;

/// A checked path of this origin, with its query.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReturnPath(String);

impl ReturnPath {
    /// Refuses paths below `own_prefix`, which is `identity.prefix`: a login must not return to an endpoint of the gate.
    ///
    /// # Errors
    /// `request_invalid` with the reason for the log.
    pub fn parse(text: &str, own_prefix: &str) -> Result<Self, Refusal> {
        let refuse = |why: String| Refusal::new(Denial::RequestInvalid, format!("the return path is refused: {why}"));
        if text.len() > BYTES_MAX {
            return Err(refuse(format!("longer than {BYTES_MAX} bytes")));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refuse(
                "white space, a control character or a letter that must be encoded".to_owned(),
            ));
        }
        if text.contains(['\\', '#', '<', '>', '"']) {
            return Err(refuse("a character that has no place in a path or query".to_owned()));
        }
        if encoded_bytes(text).any(|byte| byte < b' ' || byte == 0x7f) {
            return Err(refuse("an encoded control character".to_owned()));
        }
        let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
        let path = CanonicalPath::parse(path).map_err(|error| refuse(error.to_string()))?;
        let plain = path.plain_id();
        if plain == own_prefix || ancestors_of(plain).any(|parent| parent == own_prefix) {
            return Err(refuse("an endpoint of the gate's own".to_owned()));
        }
        Ok(Self(match query {
            Some(query) => format!("{}?{query}", path.as_str()),
            None => path.as_str().to_owned(),
        }))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The bytes of all percent-escapes; malformed escapes are skipped.
fn encoded_bytes(text: &str) -> impl Iterator<Item = u8> {
    text.split('%').skip(1).filter_map(|rest| {
        let digits = rest.get(..2)?;
        u8::from_str_radix(digits, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/api/v1/identity";

    #[test]
    fn paths_of_this_origin_are_accepted_in_canonical_spelling() {
        for (text, canonical) in [
            ("/", "/"),
            ("/portal/customer/orders/7", "/portal/customer/orders/7"),
            ("/a/", "/a/"),
            ("/a?b=c&d=%20e", "/a?b=c&d=%20e"),
            ("/a?next=https://other.test/x", "/a?next=https://other.test/x"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/blue%20shoes", "/blue%20shoes"),
            ("/api/v1/identityx", "/api/v1/identityx"),
        ] {
            assert_eq!(ReturnPath::parse(text, PREFIX).unwrap().as_str(), canonical, "{text}");
        }
    }

    #[test]
    fn every_redirect_attack_of_the_corpus_is_refused() {
        let corpus = include_str!("../../../tests/corpus/login/redirects.json");
        let attacks: Vec<String> = serde_json::from_str(corpus).unwrap();
        assert!(attacks.len() >= 150, "{}", attacks.len());
        for attack in &attacks {
            assert!(ReturnPath::parse(attack, PREFIX).is_err(), "{attack:?}");
        }
        assert!(ReturnPath::parse(&format!("/{}", "a".repeat(BYTES_MAX)), PREFIX).is_err());
        assert!(ReturnPath::parse(&format!("/{}", "a".repeat(BYTES_MAX - 1)), PREFIX).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn accepted_paths_stay_on_this_origin(text in "[/\\\\a-z.:@%?#0-9\u{9}\u{a} ]{0,24}") {
            if let Ok(path) = ReturnPath::parse(&text, PREFIX) {
                let base = url::Url::parse("https://shop.example").unwrap();
                let target = base.join(path.as_str()).unwrap();
                proptest::prop_assert_eq!(target.origin(), base.origin());
                let concatenated = url::Url::parse(&format!("https://shop.example{}", path.as_str())).unwrap();
                proptest::prop_assert_eq!(concatenated.origin(), base.origin());
            }
        }
    }
}
