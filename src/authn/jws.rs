//! A compact JWS, taken apart as strictly as the RFCs allow.
//!
//! Knows nothing of issuers and checks no signature: it answers what the token *says*. Exactly three segments of
//! unpadded base64url, strict JSON objects inside, no header member that would change their meaning. No `none`
//! and no HMAC: the algorithm type has no such variant.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::error::TokenError;
use crate::config::Algorithm;
use crate::json;

/// Bytes of a key id.
pub const KID_BYTES_MAX: usize = 256;
/// `typ` of the gate's own assertion, which is no bearer token.
pub const ASSERTION_TYP: &str = "cedargate-assertion+jwt";

/// Header members that would need us to read the token otherwise, or to take keys from it.
const REFUSED_MEMBERS: [&str; 9] = ["crit", "b64", "zip", "enc", "cty", "jwk", "jku", "x5u", "epk"];

/// Every algorithm with its JOSE name.
const NAMES: [(Algorithm, &str); 9] = [
    (Algorithm::Rs256, "RS256"),
    (Algorithm::Rs384, "RS384"),
    (Algorithm::Rs512, "RS512"),
    (Algorithm::Ps256, "PS256"),
    (Algorithm::Ps384, "PS384"),
    (Algorithm::Ps512, "PS512"),
    (Algorithm::Es256, "ES256"),
    (Algorithm::Es384, "ES384"),
    (Algorithm::EdDsa, "EdDSA"),
];

/// Which tokens a door takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Typ {
    Bearer,
    Assertion,
    /// Of a login (OpenID Connect Core 1.0, section 2).
    Id,
    /// OpenID Connect Back-Channel Logout 1.0, section 2.4.
    Logout,
}

/// An unverified token.
#[derive(Debug)]
pub(super) struct Compact<'a> {
    pub header: Header,
    pub claims: Map<String, Value>,
    pub signing_input: &'a str,
    pub signature: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(super) struct Header {
    pub algorithm: Algorithm,
    pub kid: Option<String>,
}

/// Takes the token apart; nothing is decoded before its length is known to be within bounds.
pub(super) fn parse(token: &str, bytes_max: usize, typ: Typ) -> Result<Compact<'_>, TokenError> {
    if token.len() > bytes_max {
        return Err(TokenError::TooLong { max: bytes_max });
    }
    let (signing_input, signature) = token
        .rsplit_once('.')
        .ok_or(TokenError::malformed("it has no three segments"))?;
    let (header, claims) = signing_input
        .split_once('.')
        .ok_or(TokenError::malformed("it has no three segments"))?;
    if claims.contains('.') {
        return Err(TokenError::malformed("it has more than three segments"));
    }
    Ok(Compact {
        header: parse_header(&object("header", header)?, typ)?,
        claims: object("claims", claims)?,
        signing_input,
        signature: decode(signature)?,
    })
}

/// Unpadded base64url without trailing bits, white space or foreign characters.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|error| TokenError::malformed(format!("not base64url: {error}")))
}

pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn algorithm_named(name: &str) -> Option<Algorithm> {
    NAMES
        .iter()
        .find(|(_, known)| *known == name)
        .map(|(algorithm, _)| *algorithm)
}

pub(super) fn algorithm_name(algorithm: Algorithm) -> &'static str {
    NAMES
        .iter()
        .find(|(known, _)| *known == algorithm)
        .map_or("", |(_, name)| name)
}

fn object(part: &'static str, segment: &str) -> Result<Map<String, Value>, TokenError> {
    json::object_from_slice(&decode(segment)?).map_err(|source| TokenError::Json { part, source })
}

pub(super) fn parse_header(header: &Map<String, Value>, typ: Typ) -> Result<Header, TokenError> {
    if let Some(member) = REFUSED_MEMBERS.into_iter().find(|member| header.contains_key(*member)) {
        return Err(TokenError::header(member, "no such extension is understood here"));
    }
    check_typ(header.get("typ"), typ)?;
    let algorithm = header
        .get("alg")
        .and_then(Value::as_str)
        .and_then(algorithm_named)
        .ok_or(TokenError::header(
            "alg",
            "not the name of an asymmetric algorithm this gate knows",
        ))?;
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) if kid.len() <= KID_BYTES_MAX => Some(kid.clone()),
        Some(_) => return Err(TokenError::header("kid", "not a string of at most 256 bytes")),
    };
    Ok(Header { algorithm, kid })
}

/// Absent, `JWT` or `at+jwt` for bearers; exactly our own type for assertions (RFC 8725, section 3.11). An access token is no
/// ID token, and nothing else may call itself a logout token.
fn check_typ(typ: Option<&Value>, wanted: Typ) -> Result<(), TokenError> {
    let known: &[&str] = match wanted {
        Typ::Bearer => &["jwt", "at+jwt"],
        Typ::Id => &["jwt"],
        Typ::Logout => &["jwt", "logout+jwt"],
        Typ::Assertion => &[],
    };
    let fits = match (typ, wanted) {
        (Some(Value::String(typ)), Typ::Assertion) => typ == ASSERTION_TYP,
        (_, Typ::Assertion) => false,
        (None, Typ::Bearer | Typ::Id | Typ::Logout) => true,
        (Some(Value::String(typ)), Typ::Bearer | Typ::Id | Typ::Logout) => {
            let lower = typ.to_ascii_lowercase();
            known.contains(&lower.strip_prefix("application/").unwrap_or(&lower))
        }
        (Some(_), Typ::Bearer | Typ::Id | Typ::Logout) => false,
    };
    fits.then_some(())
        .ok_or(TokenError::header("typ", "another type of token is expected here"))
}
