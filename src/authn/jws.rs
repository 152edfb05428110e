//! Parses a compact JWS as strictly as the RFCs allow.
//!
//! The parser knows no issuers and checks no signature; its result is unverified. A token has exactly three segments of
//! unpadded base64url, with strict JSON objects inside, and no header member that would change their meaning. `none`
//! and HMAC do not parse: the algorithm type has no such variant.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cedargate_policy::json;
use serde_json::{Map, Value};

use super::error::TokenError;
use crate::config::Algorithm;

/// Longest key id, in bytes.
pub const KID_BYTES_MAX: usize = 256;
/// `typ` of the gate's own assertion, which is not a bearer token.
pub const ASSERTION_TYP: &str = "cedargate-assertion+jwt";

/// `typ` of a DPoP proof.
const PROOF_TYP: &str = "dpop+jwt";

/// Header members that would change how the token is read. Members that bring or name a key (`jwk`, `jku`, `x5c`,
/// `x5t`, `x5u`) change nothing: the gate reads a header's `alg`, `kid` and `typ` alone, and `jwk` of a DPoP proof, so
/// they are ignored like every other member.
const REFUSED_MEMBERS: [&str; 6] = ["crit", "b64", "zip", "enc", "cty", "epk"];

/// The algorithms with their JOSE names.
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

/// The kind of token that the caller of the parser expects.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TokenKind {
    Bearer,
    Assertion,
    /// An ID token (OpenID Connect Core 1.0, section 2).
    Id,
    /// A DPoP proof (RFC 9449, section 4.2): the only kind that brings its key.
    Proof,
    /// A logout token (OpenID Connect Back-Channel Logout 1.0, section 2.4).
    Logout,
}

/// An unverified token.
#[derive(Debug)]
pub(super) struct CompactJws<'a> {
    pub header: Header,
    pub claims: Map<String, Value>,
    pub signing_input: &'a str,
    pub signature: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(super) struct Header {
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    /// The key that a DPoP proof brings; `None` for every other kind.
    pub jwk: Option<Value>,
}

/// Parses a token. It checks the length before it decodes anything.
pub(super) fn parse(token: &str, bytes_max: usize, kind: TokenKind) -> Result<CompactJws<'_>, TokenError> {
    if token.len() > bytes_max {
        return Err(TokenError::TooLong { max: bytes_max });
    }
    let (signing_input, signature) = token
        .rsplit_once('.')
        .ok_or(TokenError::malformed("it does not have three segments"))?;
    let (header, claims) = signing_input
        .split_once('.')
        .ok_or(TokenError::malformed("it does not have three segments"))?;
    if claims.contains('.') {
        return Err(TokenError::malformed("it has more than three segments"));
    }
    Ok(CompactJws {
        header: parse_header(&object("header", header)?, kind)?,
        claims: object("claims", claims)?,
        signing_input,
        signature: decode(signature)?,
    })
}

/// Decodes unpadded base64url; trailing bits, white space and other characters are errors.
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

pub(super) fn parse_header(header: &Map<String, Value>, kind: TokenKind) -> Result<Header, TokenError> {
    if let Some(member) = REFUSED_MEMBERS.into_iter().find(|member| header.contains_key(*member)) {
        return Err(TokenError::header(member, "the gate supports no such extension"));
    }
    check_typ(header.get("typ"), kind)?;
    let algorithm = header
        .get("alg")
        .and_then(Value::as_str)
        .and_then(algorithm_named)
        .ok_or(TokenError::header(
            "alg",
            "not the name of an asymmetric algorithm that the gate supports",
        ))?;
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) if kid.len() <= KID_BYTES_MAX => Some(kid.clone()),
        Some(_) => return Err(TokenError::header("kid", "not a string of at most 256 bytes")),
    };
    let jwk = header.get("jwk").filter(|_| kind == TokenKind::Proof).cloned();
    Ok(Header { algorithm, kid, jwk })
}

/// Checks `typ` (RFC 8725, section 3.11): absent, `JWT` or `at+jwt` for bearer tokens; exactly the gate's own type for
/// assertions. An access token's type is refused for an ID token, and a logout token's type for every other kind.
fn check_typ(typ: Option<&Value>, kind: TokenKind) -> Result<(), TokenError> {
    let known: &[&str] = match kind {
        TokenKind::Bearer => &["jwt", "at+jwt"],
        TokenKind::Id => &["jwt"],
        TokenKind::Logout => &["jwt", "logout+jwt"],
        TokenKind::Assertion | TokenKind::Proof => &[],
    };
    let fits = match (typ, kind) {
        (Some(Value::String(typ)), TokenKind::Assertion) => typ == ASSERTION_TYP,
        (Some(Value::String(typ)), TokenKind::Proof) => typ == PROOF_TYP,
        (_, TokenKind::Assertion | TokenKind::Proof) => false,
        (None, TokenKind::Bearer | TokenKind::Id | TokenKind::Logout) => true,
        (Some(Value::String(typ)), TokenKind::Bearer | TokenKind::Id | TokenKind::Logout) => {
            let lower = typ.to_ascii_lowercase();
            known.contains(&lower.strip_prefix("application/").unwrap_or(&lower))
        }
        (Some(_), TokenKind::Bearer | TokenKind::Id | TokenKind::Logout) => false,
    };
    fits.then_some(())
        .ok_or(TokenError::header("typ", "not the type of token that is expected here"))
}
