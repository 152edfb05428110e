//! The return path: the path of this origin to which a browser goes after a login or logout.
//!
//! SECURITY: the text comes from a link that any site can make. `parse` accepts it only if no browser can read it as
//! another origin, and never repairs it. The path is canonical, so that every later reader gives it the same meaning.
//!
//! A navigation that the gate sends to the login may have a query that a link may not (encoded line ends, great
//! length). It travels in a parameter of its own, in base64url, so that no reader on the way meets it as text. A query
//! cannot lead to another origin: the path before it is checked as strictly as in a link.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::portal::path::{CanonicalPath, ancestors_of};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use url::form_urlencoded::Serializer;

use super::input::Parameters;
use crate::config::Config;

/// Bytes of a return path that the gate puts into a link as it is. Percent-encoding may triple them; base64url adds a
/// third.
const PLAIN_BYTES: usize = 2048;
/// Characters that a query carries only encoded.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'`');
/// Names of the parameters: the path or the whole return path, the query in base64url, the mark that the query was left
/// out.
const PATH: &str = "rd";
const QUERY: &str = "rq";
const CUT: &str = "cut";

/// The bounds of return paths.
#[derive(Clone, Copy, Debug)]
pub struct ReturnRules<'a> {
    /// `identity.prefix`: a login must not return to an endpoint of the gate.
    pub own_prefix: &'a str,
    /// `limits.return_bytes`: path and query become part of the provider's URL.
    pub bytes_max: usize,
}

impl<'a> ReturnRules<'a> {
    pub fn of(config: &'a Config) -> Self {
        Self {
            own_prefix: &config.identity.prefix,
            bytes_max: config.limits.return_bytes.as_usize(),
        }
    }
}

/// A checked path of this origin, with its query.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReturnPath {
    text: String,
    /// True if the return path is only a part of the navigation's address, which could not be kept.
    pub is_cut: bool,
}

impl ReturnPath {
    /// Reads the return path of a link.
    ///
    /// # Errors
    /// `request_invalid` with the reason for the log.
    pub fn parse(text: &str, rules: ReturnRules<'_>) -> Result<Self, Refusal> {
        check_length(text, rules)?;
        check_plain(text)?;
        let (path, query) = split(text);
        Self::of(path, query, rules)
    }

    /// The return path of a navigation: its address, or as much of it as fits; `entry` is the prefix of its portal.
    pub fn of_navigation(path: &str, query: Option<&str>, entry: &str, rules: ReturnRules<'_>) -> Option<Self> {
        let query = query.map(|query| utf8_percent_encode(query, ENCODED).to_string());
        let whole = path.len() + 1 + query.as_deref().map_or(0, str::len);
        if whole <= rules.bytes_max {
            match Self::of(path, query.as_deref(), rules) {
                Ok(kept) => return Some(kept),
                Err(refusal) => tracing::debug!(detail = %refusal.detail, "a login does not return to its whole address"),
            }
        }
        let of_path = Some(path).filter(|path| path.len() <= rules.bytes_max);
        let of_path = of_path.and_then(|path| Self::of(path, None, rules).ok());
        let part = of_path.or_else(|| Self::of(entry, None, rules).ok())?;
        Some(Self { is_cut: true, ..part })
    }

    /// Reads the return path of a link or form; `None` without one.
    pub(super) fn from_parameters(parameters: &Parameters, rules: ReturnRules<'_>) -> Result<Option<Self>, Refusal> {
        let Some(text) = parameters.optional(PATH)? else {
            return Ok(None);
        };
        let query = parameters.optional(QUERY)?;
        let is_cut = parameters.optional(CUT)?.is_some();
        let mut parsed = Self::parse(&text, rules)?;
        if let Some(query) = query {
            let query = URL_SAFE_NO_PAD
                .decode(query)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            let query = query.ok_or_else(|| refuse("its query is not base64url"))?;
            parsed = Self::parse_own(&format!("{}?{query}", split(&text).0), rules)?;
        }
        Ok(Some(Self { is_cut, ..parsed }))
    }

    /// Reads a return path that the gate wrote: what `of_navigation` makes.
    pub(super) fn parse_own(text: &str, rules: ReturnRules<'_>) -> Result<Self, Refusal> {
        let (path, query) = split(text);
        let is_encoded = |query: &str| utf8_percent_encode(query, ENCODED).to_string() == query;
        check_length(text, rules)?;
        if !query.is_none_or(is_encoded) {
            return Err(refuse("its query has a character that must be encoded"));
        }
        Self::of(path, query, rules)
    }

    fn of(path: &str, query: Option<&str>, rules: ReturnRules<'_>) -> Result<Self, Refusal> {
        let path = CanonicalPath::parse(path).map_err(|error| refuse(&error.to_string()))?;
        let plain = path.plain_id();
        if plain == rules.own_prefix || ancestors_of(plain).any(|parent| parent == rules.own_prefix) {
            return Err(refuse("an endpoint of the gate's own"));
        }
        let text = match query {
            Some(query) => format!("{}?{query}", path.as_str()),
            None => path.as_str().to_owned(),
        };
        Ok(Self { text, is_cut: false })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The parameters that `from_parameters` reads.
    pub(super) fn parameters(&self) -> impl Iterator<Item = Parameter> + use<> {
        let fits = self.text.len() <= PLAIN_BYTES && check_plain(&self.text).is_ok();
        let (path, query) = split(&self.text);
        let path = if fits { &self.text } else { path };
        let query = query.filter(|_| !fits).map(|query| URL_SAFE_NO_PAD.encode(query));
        [
            query.map(|query| Parameter::new(QUERY, query)),
            self.is_cut.then(|| Parameter::new(CUT, "1".to_owned())),
            Some(Parameter::new(PATH, path.to_owned())),
        ]
        .into_iter()
        .flatten()
    }

    /// The address of a portal's login that returns here.
    pub fn login_at(&self, portal: &str, own_prefix: &str) -> String {
        let mut query = Serializer::new(String::new());
        query.append_pair("portal", portal);
        self.append_to(&mut query);
        format!("{own_prefix}/auth/login?{}", query.finish())
    }

    /// The same for a user who wants another account: the provider asks again.
    pub fn login_as_another(&self, portal: &str, own_prefix: &str) -> String {
        format!("{}&prompt=login", self.login_at(portal, own_prefix))
    }

    /// Appends the parameters to a query.
    pub fn append_to(&self, query: &mut Serializer<'_, String>) {
        for parameter in self.parameters() {
            query.append_pair(parameter.name, &parameter.value);
        }
    }
}

/// A parameter of a link, or a field of a form.
pub(super) struct Parameter {
    pub name: &'static str,
    pub value: String,
}

impl Parameter {
    fn new(name: &'static str, value: String) -> Self {
        Self { name, value }
    }
}

fn split(text: &str) -> (&str, Option<&str>) {
    text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)))
}

fn refuse(why: &str) -> Refusal {
    Refusal::new(Denial::RequestInvalid, format!("the return path is refused: {why}"))
}

fn check_length(text: &str, rules: ReturnRules<'_>) -> Result<(), Refusal> {
    if text.len() > rules.bytes_max {
        return Err(Refusal::over_limit(Denial::RequestInvalid, "limits.return_bytes"));
    }
    Ok(())
}

/// Checks the characters of a return path that a link has as it is.
fn check_plain(text: &str) -> Result<(), Refusal> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refuse("white space, a control character or a letter that must be encoded"));
    }
    if text.contains(['\\', '#', '<', '>', '"']) {
        return Err(refuse("a character that has no place in a path or query"));
    }
    if encoded_bytes(text).any(|byte| byte < b' ' || byte == 0x7f) {
        return Err(refuse("an encoded control character"));
    }
    Ok(())
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
    const RULES: ReturnRules<'_> = ReturnRules {
        own_prefix: PREFIX,
        bytes_max: 4096,
    };

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
            assert_eq!(ReturnPath::parse(text, RULES).unwrap().as_str(), canonical, "{text}");
        }
    }

    #[test]
    fn every_redirect_attack_of_the_corpus_is_refused() {
        let corpus = include_str!("../../../tests/corpus/login/redirects.json");
        let attacks: Vec<String> = serde_json::from_str(corpus).unwrap();
        assert!(attacks.len() >= 150, "{}", attacks.len());
        for attack in &attacks {
            assert!(ReturnPath::parse(attack, RULES).is_err(), "{attack:?}");
        }
        assert!(ReturnPath::parse(&format!("/{}", "a".repeat(4096)), RULES).is_err());
        assert!(ReturnPath::parse(&format!("/{}", "a".repeat(4095)), RULES).is_ok());
    }

    fn read(query: &str) -> Result<Option<ReturnPath>, Refusal> {
        ReturnPath::from_parameters(&Parameters::from_urlencoded(query.as_bytes()), RULES)
    }

    fn written(path: &ReturnPath) -> String {
        let mut query = Serializer::new(String::new());
        path.append_to(&mut query);
        query.finish()
    }

    #[test]
    fn address_of_a_navigation_survives_its_way_through_a_link() {
        let long = format!("q={}", "a".repeat(2500));
        for (query, kept) in [
            ("a=b", "a=b"),
            ("text=one%0Atwo%0D%0A&x=%00", "text=one%0Atwo%0D%0A&x=%00"),
            ("f={%22a%22:1}", "f={%22a%22:1}"),
            ("f={\"a\":1}", "f={%22a%22:1}"),
            ("q=<b>&p=a\\b", "q=%3Cb%3E&p=a%5Cb"),
            ("q=caf\u{e9}", "q=caf%C3%A9"),
            ("next=https://x.test/?a#b", "next=https://x.test/?a%23b"),
            (long.as_str(), long.as_str()),
        ] {
            let path = ReturnPath::of_navigation("/portal/p/x", Some(query), "/portal/p", RULES).unwrap();
            assert_eq!((path.as_str(), path.is_cut), (format!("/portal/p/x?{kept}").as_str(), false));
            assert_eq!(read(&written(&path)).unwrap(), Some(path.clone()), "{query}");
            assert_eq!(ReturnPath::parse_own(path.as_str(), RULES).unwrap(), path);
        }
        // the usual return path stays readable
        let plain = ReturnPath::of_navigation("/a", Some("b=c"), "/", RULES).unwrap();
        assert_eq!(written(&plain), "rd=%2Fa%3Fb%3Dc");
    }

    #[test]
    fn address_that_is_too_long_ends_at_its_path_and_says_so() {
        let query = "a".repeat(5000);
        let path = ReturnPath::of_navigation("/portal/p/x", Some(&query), "/portal/p", RULES).unwrap();
        assert_eq!((path.as_str(), path.is_cut), ("/portal/p/x", true));
        assert_eq!(written(&path), "cut=1&rd=%2Fportal%2Fp%2Fx");
        assert_eq!(read(&written(&path)).unwrap(), Some(path));
        let long = format!("/portal/p/{}", "a".repeat(5000));
        let path = ReturnPath::of_navigation(&long, None, "/portal/p", RULES).unwrap();
        assert_eq!((path.as_str(), path.is_cut), ("/portal/p", true));
        // a path that the portal takes as opaque data has no place in a link
        let path = ReturnPath::of_navigation("/portal/p/a%2Fb", Some("c=d"), "/portal/p", RULES).unwrap();
        assert_eq!((path.as_str(), path.is_cut), ("/portal/p", true));
    }

    #[test]
    fn query_in_a_parameter_of_its_own_leads_nowhere_else() {
        let of = |rd: &str, query: &str| {
            let mut text = Serializer::new(String::new());
            text.append_pair("rd", rd).append_pair("rq", &URL_SAFE_NO_PAD.encode(query));
            read(&text.finish())
        };
        assert_eq!(of("/a", "b=%0A").unwrap().unwrap().as_str(), "/a?b=%0A");
        assert_eq!(of("/a?old", "//evil.test").unwrap().unwrap().as_str(), "/a?//evil.test");
        for (rd, query) in [
            ("//evil.test", "a"),
            ("/a", "b\r\nx: y"),
            ("/a", "b#c"),
            ("/a", "<script>"),
            ("/a", "\\"),
            (PREFIX, "a"),
        ] {
            assert!(of(rd, query).is_err(), "{rd} {query}");
        }
        assert!(of("/a", &"a".repeat(5000)).is_err());
        for bad in [
            "rd=/a&rq=%25",
            "rd=/a&rq=YQ==",
            "rd=/a&rq=YQ&rq=YQ",
            "rd=/a&cut=1&cut=1",
            "rd=/a&rq=_w",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(read("rq=YQ").unwrap(), None);
    }

    proptest::proptest! {
        #[test]
        fn accepted_paths_stay_on_this_origin(text in "[/\\\\a-z.:@%?#0-9\u{9}\u{a} ]{0,24}") {
            if let Ok(path) = ReturnPath::parse(&text, RULES) {
                proptest::prop_assert_eq!(read(&written(&path)).unwrap(), Some(path.clone()));
                let base = url::Url::parse("https://shop.example").unwrap();
                let target = base.join(path.as_str()).unwrap();
                proptest::prop_assert_eq!(target.origin(), base.origin());
                let concatenated = url::Url::parse(&format!("https://shop.example{}", path.as_str())).unwrap();
                proptest::prop_assert_eq!(concatenated.origin(), base.origin());
            }
        }
    }
}
