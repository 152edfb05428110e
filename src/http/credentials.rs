//! The places of a request's head that hold a bearer token: `Authorization`, and the places that issuers configure.
//!
//! Runs before the decision. A token from a configured place is taken out of the head, so that no policy, record or app
//! sees it. A head with two different tokens outside `Authorization` is refused: the gate does not choose a caller.
//!
//! SECURITY: a browser sends a cookie by itself, and a proxy in front of the gate may set its header for every request
//! of a browser. `FoundToken::origin` says which evidence of the request's origin the token needs.

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::types::Redacted;
use http::header::{AUTHORIZATION, COOKIE, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::TokenSource;

/// The content of a request's `Authorization` header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Authorization<'a> {
    Absent,
    /// The scheme `Bearer`, which is the gate's.
    Bearer(&'a str),
    /// The scheme `DPoP`, which is the gate's, too: the token needs a proof.
    Dpop(&'a str),
    /// Another scheme, which is the app's.
    Foreign,
}

/// The places from which one portal takes tokens, besides `Authorization`; empty for most portals.
#[derive(Clone, Debug, Default)]
pub struct TokenSources(Vec<IssuersAt>);

/// One place, and the issuers whose tokens may be there.
#[derive(Clone, Debug)]
struct IssuersAt {
    source: TokenSource,
    /// Indexes into `Config::issuers`.
    issuers: Vec<usize>,
}

/// A token from a configured place.
#[derive(Clone, Debug)]
pub struct FoundToken {
    pub token: Redacted<String>,
    /// The issuers that may have issued it: indexes into `Config::issuers`.
    pub issuers: Vec<usize>,
    pub origin: OriginEvidence,
}

/// The evidence of its origin that a request with a token needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OriginEvidence {
    /// The same as for a session cookie: a browser sends the cookie by itself.
    AsForCookies,
    /// A browser's request must come from the gate's own origin: a proxy in front may have set the header.
    IfFromBrowser,
    /// None: a page must have put the token there.
    NotNeeded,
}

impl<'a> Authorization<'a> {
    /// # Errors
    /// Two headers, a malformed bearer token, or text that is no scheme.
    pub fn of(headers: &'a HeaderMap) -> Result<Self, Refusal> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else {
            return Ok(Self::Absent);
        };
        if values.next().is_some() {
            return Err(Refusal::new(Denial::RequestInvalid, "several `authorization` headers"));
        }
        // some proxies and browser extensions send the header without a value: it proves no caller
        if value.as_bytes().trim_ascii().is_empty() {
            return Ok(Self::Foreign);
        }
        let invalid = |why| Refusal::new(Denial::TokenInvalid, why);
        // the checks of the characters below also exclude non-ASCII
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_not_text| invalid("`authorization` is not visible ASCII"))?;
        let scheme = scheme_of(text.as_bytes());
        let rest = text.get(scheme.len()..).unwrap_or_default();
        if scheme.is_empty() {
            return Err(invalid("`authorization` holds no credential"));
        }
        if !is_own(scheme) {
            return Ok(Self::Foreign);
        }
        // RFC 6750, 2.1: one space or more
        let token = rest.trim_start_matches(' ');
        if token.len() == rest.len() || !is_token(token) {
            return Err(invalid(
                "the bearer token is empty or holds characters that a token may not have",
            ));
        }
        Ok(match is_bearer(scheme) {
            true => Self::Bearer(token),
            false => Self::Dpop(token),
        })
    }
}

/// True if `Authorization::of` says `Foreign`. Reads only the scheme of a token.
pub fn is_foreign(headers: &HeaderMap) -> bool {
    let is_other = |value: &HeaderValue| !is_own(scheme_of(value.as_bytes()));
    headers.get(AUTHORIZATION).is_some_and(is_other) && matches!(Authorization::of(headers), Ok(Authorization::Foreign))
}

/// The scheme that a value begins with; empty if it begins with none.
fn scheme_of(value: &[u8]) -> &[u8] {
    let end = value.iter().position(|byte| !is_scheme(*byte)).unwrap_or(value.len());
    value.get(..end).unwrap_or_default()
}

fn is_bearer(scheme: &[u8]) -> bool {
    scheme.eq_ignore_ascii_case(b"bearer")
}

/// True for the schemes whose credentials are the gate's.
fn is_own(scheme: &[u8]) -> bool {
    is_bearer(scheme) || scheme.eq_ignore_ascii_case(b"dpop")
}

/// The bearer token of a request where no other credential counts. `None` without `Authorization`; another scheme is an
/// error.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    match Authorization::of(headers)? {
        Authorization::Absent => Ok(None),
        Authorization::Bearer(token) => Ok(Some(token)),
        Authorization::Dpop(_) => Err(no_proofs_here()),
        Authorization::Foreign => Err(foreign_scheme()),
    }
}

/// The refusal of a token with a DPoP proof where the gate does not see the request that the proof is for.
pub fn no_proofs_here() -> Refusal {
    Refusal::new(Denial::TokenInvalid, "this endpoint takes no token with a DPoP proof")
}

/// Checks that a token is one of those of the decision listener.
pub fn check_listener_token(tokens: &[Redacted<String>], presented: &str) -> Result<(), Refusal> {
    let known = tokens.iter().fold(false, |known, token| {
        // every token is compared, each in constant time
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(token.expose().as_bytes(), presented.as_bytes()).is_ok();
        known | same
    });
    match known {
        true => Ok(()),
        false => Err(Refusal::new(Denial::TokenInvalid, "not one of this listener's tokens")),
    }
}

/// The refusal of a request whose only credential is of another scheme.
pub fn foreign_scheme() -> Refusal {
    Refusal::new(
        Denial::TokenInvalid,
        "`authorization` has another scheme than Bearer and DPoP",
    )
}

impl TokenSources {
    /// The places of a portal's issuers, given with their indexes.
    pub fn of<'a>(issuers: impl Iterator<Item = (usize, &'a [TokenSource])>) -> Self {
        let mut places: Vec<IssuersAt> = Vec::new();
        for (index, sources) in issuers {
            for source in sources {
                match places.iter_mut().find(|place| place.source == *source) {
                    Some(place) => place.issuers.push(index),
                    None => places.push(IssuersAt {
                        source: source.clone(),
                        issuers: vec![index],
                    }),
                }
            }
        }
        Self(places)
    }

    /// Takes every token out of the head. `None`: there is none.
    ///
    /// # Errors
    /// Two different tokens, or one that is malformed.
    pub fn take(&self, headers: &mut HeaderMap) -> Result<Option<FoundToken>, Refusal> {
        let mut found: Option<FoundToken> = None;
        for place in &self.0 {
            for token in place.source.take(headers)? {
                match &mut found {
                    None => {
                        found = Some(FoundToken {
                            token: Redacted::new(token),
                            issuers: place.issuers.clone(),
                            origin: place.source.origin(),
                        });
                    }
                    // the same token twice: every place must allow its issuer
                    Some(first) if *first.token.expose() == token => {
                        first.issuers.retain(|index| place.issuers.contains(index));
                    }
                    Some(_) => {
                        return Err(Refusal::new(
                            Denial::RequestInvalid,
                            "the request holds two different tokens (issuers[].token_from)",
                        ));
                    }
                }
            }
        }
        Ok(found)
    }
}

impl TokenSource {
    fn origin(&self) -> OriginEvidence {
        match self {
            Self::Cookie(_) => OriginEvidence::AsForCookies,
            Self::Header(_) => OriginEvidence::IfFromBrowser,
            Self::WebsocketProtocol(_) => OriginEvidence::NotNeeded,
        }
    }

    fn take(&self, headers: &mut HeaderMap) -> Result<Vec<String>, Refusal> {
        let found = match self {
            Self::Header(name) => take_header(headers, name),
            Self::Cookie(name) => take_cookie(headers, name.as_bytes()),
            Self::WebsocketProtocol(marker) => take_websocket_protocol(headers, marker)?,
        };
        if found.iter().any(|token| !is_token(token)) {
            return Err(Refusal::new(
                Denial::TokenInvalid,
                "a token outside `authorization` holds characters that a token may not have",
            ));
        }
        Ok(found)
    }
}

/// The values of a header, without the scheme `Bearer`; an empty value is none.
fn take_header(headers: &mut HeaderMap, name: &HeaderName) -> Vec<String> {
    if !headers.contains_key(name) {
        return Vec::new();
    }
    let values = headers.get_all(name).iter().map(|value| {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start_matches(' ').to_owned(),
            _ => text,
        }
    });
    let found = values.filter(|token| !token.is_empty()).collect();
    headers.remove(name);
    found
}

/// The values of the cookies of a name; an empty value is none.
fn take_cookie(headers: &mut HeaderMap, name: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut kept = Vec::new();
    for value in headers.get_all(COOKIE) {
        let mut others: Vec<&[u8]> = Vec::new();
        for pair in value.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii) {
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            if halves.next().unwrap_or_default().trim_ascii() != name {
                others.push(pair);
                continue;
            }
            let token = halves.next().unwrap_or_default().trim_ascii();
            if !token.is_empty() {
                found.push(String::from_utf8_lossy(token).into_owned());
            }
        }
        let rest = HeaderValue::from_bytes(&others.join(&b"; "[..]));
        kept.extend(rest.ok().filter(|rest| !rest.is_empty()));
    }
    if headers.contains_key(COOKIE) {
        headers.remove(COOKIE);
        for value in kept {
            headers.append(COOKIE, value);
        }
    }
    found
}

/// The subprotocol behind `marker`. Both are taken out of the list; the others stay for the app.
fn take_websocket_protocol(headers: &mut HeaderMap, marker: &str) -> Result<Vec<String>, Refusal> {
    let mut all: Vec<String> = Vec::new();
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        let text = String::from_utf8_lossy(value.as_bytes());
        all.extend(text.split(',').map(|item| item.trim().to_owned()));
    }
    if !all.iter().any(|item| item == marker) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let mut kept = Vec::new();
    let mut items = all.into_iter();
    while let Some(item) = items.next() {
        if item != marker {
            kept.push(item);
            continue;
        }
        match items.next().filter(|token| !token.is_empty()) {
            Some(token) => found.push(token),
            None => {
                return Err(Refusal::new(
                    Denial::TokenInvalid,
                    "no token follows the subprotocol that announces one",
                ));
            }
        }
    }
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    let kept = HeaderValue::try_from(kept.join(", ")).ok().filter(|kept| !kept.is_empty());
    if let Some(kept) = kept {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, kept);
    }
    Ok(found)
}

/// True for a character of a scheme (RFC 9110, 5.6.2: a token).
fn is_scheme(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// True for a text that is not empty and holds the characters of `token68` alone.
fn is_token(text: &str) -> bool {
    // the loop checks every byte and never stops early, so that the compiler can vectorise it
    let is_sound = text.bytes().fold(true, |sound, byte| sound & is_token68(byte));
    !text.is_empty() && is_sound
}

/// True for a character of `token68` (RFC 9110, section 11.2). Computed without a branch.
fn is_token68(byte: u8) -> bool {
    let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    // `-`, `.`, `/` and the digits are consecutive codes
    let digit = byte.wrapping_sub(b'-') < 13;
    letter | digit | (byte == b'_') | (byte == b'~') | (byte == b'+') | (byte == b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_authorization_header_is_read_strictly() {
        let read = |values: &[&str]| {
            let lines: Vec<_> = values.iter().map(|value| ("authorization", *value)).collect();
            let headers = headers(&lines);
            let read = Authorization::of(&headers).map_err(|refusal| refusal.denial);
            assert_eq!(is_foreign(&headers), read == Ok(Authorization::Foreign), "{values:?}");
            read.map(|found| match found {
                Authorization::Absent => "absent".to_owned(),
                Authorization::Bearer(token) => token.to_owned(),
                Authorization::Dpop(token) => format!("dpop {token}"),
                Authorization::Foreign => "foreign".to_owned(),
            })
        };
        for (values, expected) in [
            (&[][..], Ok("absent")),
            (&["Bearer a.b.c"], Ok("a.b.c")),
            (&["bEARER a-_~+/=="], Ok("a-_~+/==")),
            (&["Bearer  a"], Ok("a")),
            (&["Bearer a", "Bearer a"], Err(Denial::RequestInvalid)),
            (&["Basic YTpi", "Bearer a"], Err(Denial::RequestInvalid)),
            (&["Basic YTpi"], Ok("foreign")),
            (&["Negotiate"], Ok("foreign")),
            (&["DPoP a.b.c"], Ok("dpop a.b.c")),
            (&["dpop a.b.c", "Bearer a"], Err(Denial::RequestInvalid)),
            (&["DPoP"], Err(Denial::TokenInvalid)),
            (&["DPoPs a"], Ok("foreign")),
            (&["Token token=\"x\", n=1"], Ok("foreign")),
            (&["a.b.c"], Ok("foreign")),
            (&["Bearers a"], Ok("foreign")),
            (&[""], Ok("foreign")),
            (&[" \t"], Ok("foreign")),
            (&["", "Bearer a"], Err(Denial::RequestInvalid)),
            (&["Bearer"], Err(Denial::TokenInvalid)),
            (&["Bearer "], Err(Denial::TokenInvalid)),
            (&["Bearer   "], Err(Denial::TokenInvalid)),
            (&["Bearer a b"], Err(Denial::TokenInvalid)),
            (&["Bearer a,b"], Err(Denial::TokenInvalid)),
            (&["Bearer\ta"], Err(Denial::TokenInvalid)),
            (&["Bearer,a"], Err(Denial::TokenInvalid)),
            (&["bearer:a"], Err(Denial::TokenInvalid)),
            (&["\"a\""], Err(Denial::TokenInvalid)),
            (&["=Basic YTpi"], Err(Denial::TokenInvalid)),
        ] {
            assert_eq!(read(values), expected.map(str::to_owned), "{values:?}");
        }
    }

    fn sources() -> TokenSources {
        let header = TokenSource::Header(HeaderName::from_static("x-token"));
        let one = [header.clone(), TokenSource::WebsocketProtocol("bearer".to_owned())];
        let two = [header, TokenSource::Cookie("jwt".to_owned())];
        TokenSources::of([(4, one.as_slice()), (7, two.as_slice())].into_iter())
    }

    #[test]
    fn a_token_is_taken_out_of_its_place_with_the_issuers_of_that_place() {
        for (lines, token, issuers, left) in [
            (vec![("x-token", "a.b.c")], "a.b.c", vec![4, 7], vec![]),
            (vec![("x-token", "Bearer  a.b.c")], "a.b.c", vec![4, 7], vec![]),
            (vec![("x-token", "a"), ("x-token", "a")], "a", vec![4, 7], vec![]),
            (
                vec![("cookie", "x=1; jwt=a; y=2")],
                "a",
                vec![7],
                vec![("cookie", "x=1; y=2")],
            ),
            (
                vec![("cookie", "jwt=a"), ("cookie", "z=3")],
                "a",
                vec![7],
                vec![("cookie", "z=3")],
            ),
            (vec![("cookie", "jwt=a"), ("x-token", "a")], "a", vec![7], vec![]),
            (
                vec![("sec-websocket-protocol", "chat, bearer, a.b.c")],
                "a.b.c",
                vec![4],
                vec![("sec-websocket-protocol", "chat")],
            ),
            (
                vec![("sec-websocket-protocol", "bearer"), ("sec-websocket-protocol", "a")],
                "a",
                vec![4],
                vec![],
            ),
        ] {
            let mut head = headers(&lines);
            let found = sources().take(&mut head).unwrap().unwrap();
            assert_eq!((found.token.expose().as_str(), found.issuers), (token, issuers), "{lines:?}");
            assert_eq!(head, headers(&left), "{lines:?}");
        }
    }

    #[test]
    fn two_tokens_and_a_malformed_one_are_refused_and_empty_places_hold_none() {
        for (lines, denial) in [
            (vec![("x-token", "a"), ("x-token", "b")], Denial::RequestInvalid),
            (vec![("x-token", "a"), ("cookie", "jwt=b")], Denial::RequestInvalid),
            (vec![("cookie", "jwt=a; jwt=b")], Denial::RequestInvalid),
            (
                vec![("sec-websocket-protocol", "bearer, a, bearer, b")],
                Denial::RequestInvalid,
            ),
            (vec![("sec-websocket-protocol", "chat, bearer")], Denial::TokenInvalid),
            (vec![("x-token", "a b")], Denial::TokenInvalid),
            (vec![("x-token", "a,b")], Denial::TokenInvalid),
            (vec![("cookie", "jwt=\"a\"")], Denial::TokenInvalid),
        ] {
            let refusal = sources().take(&mut headers(&lines)).unwrap_err();
            assert_eq!(refusal.denial, denial, "{lines:?}");
        }
        for lines in [
            vec![("x-token", "")],
            vec![("cookie", "jwt=; a=1")],
            vec![("cookie", "jwt")],
            vec![("cookie", "JWT=a; xjwt=b")],
            vec![("sec-websocket-protocol", "chat")],
            vec![("x-tokens", "a")],
        ] {
            assert!(sources().take(&mut headers(&lines)).unwrap().is_none(), "{lines:?}");
        }
    }
}
