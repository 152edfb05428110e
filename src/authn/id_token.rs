//! ID tokens and logout tokens, which a provider signs for the gate as its client.
//!
//! Parser, keys and signature check are those of bearer tokens; the rules for the claims differ. Both kinds must name
//! the gate's client id as their audience. An ID token must repeat the nonce of its login; a logout token must name the
//! logout event. Neither becomes a caller here, and a token whose type marks it as an access token is refused as
//! either.

use aws_lc_rs::digest;
use cedargate_policy::claims::{self, ClaimError, NAME_BYTES_MAX, SUBJECT_BYTES_MAX, audience_list, name, time};
use serde_json::{Map, Value};

use super::jws::{self, CompactJws, TokenKind};
use super::{Authn, IssuerState, SignatureCheck, TokenError, VerificationPass};
use crate::base::clock::unix_seconds;
use crate::config::{Algorithm, Issuer};

/// Longest ID token or logout token, in bytes. They do not travel in headers, so `limits.token_bytes` does not apply.
const BYTES_MAX: usize = 64 * 1024;
/// Oldest logout token, in seconds; the issuer's leeway is added.
const LOGOUT_AGE_MAX: i64 = 5 * 60;
/// The claims of an ID token about the login.
const LOGIN_CLAIMS: [&str; 4] = ["acr", "amr", "auth_time", "sid"];
/// The claims by which access tokens name the client that they were given to.
const CLIENT_CLAIMS: [&str; 4] = ["azp", "client_id", "cid", "appid"];
/// The member of `events` that makes a logout token.
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// The claims that an ID token must have besides its issuer.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedIdToken<'a> {
    /// The client id.
    pub audience: &'a str,
    /// `None` after a refresh: a refresh sends no nonce.
    pub nonce: Option<&'a str>,
    /// The access token of the same response, for `at_hash`.
    pub access_token: &'a str,
}

/// The claims that an access token must have if a login takes claims from it.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedAccessToken<'a> {
    /// The client id, for a token that names its client.
    pub client: &'a str,
    /// `sub` of the ID token of the same response.
    pub subject: &'a str,
}

/// An ID token that passed every check.
#[derive(Clone, Debug)]
pub struct IdToken {
    pub claims: Map<String, Value>,
    /// `sub`.
    pub subject: String,
    pub auth_time: Option<i64>,
    pub acr: Option<String>,
    /// The id of the provider's own session.
    pub sid: Option<String>,
}

/// A logout token that passed every check.
#[derive(Clone, Debug)]
pub struct LogoutToken {
    pub sid: Option<String>,
    pub subject: Option<String>,
    /// `iat`, in Unix seconds of the issuer's clock.
    pub issued: i64,
}

/// The subject, tenant and roles of a login, by the issuer's claim mapping and within the issuer's bounds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MappedClaims {
    pub subject: String,
    pub tenant: Option<String>,
    pub roles: Vec<String>,
}

/// Maps the claims of a login by the issuer's claim mapping. Fails on a tenant or role that the issuer may not assert.
pub fn map_claims(issuer: &Issuer, claims: &Map<String, Value>) -> Result<MappedClaims, TokenError> {
    Ok(MappedClaims {
        subject: claims::subject(&issuer.scope, claims)?.to_owned(),
        tenant: claims::tenant(&issuer.scope, claims)?,
        roles: claims::roles(&issuer.scope, claims)?,
    })
}

/// Decodes the claims of an ID token without verification: for a token that was verified before and stayed sealed
/// since.
pub fn decode_id_token_claims(token: &str) -> Option<Map<String, Value>> {
    jws::parse(token, BYTES_MAX, TokenKind::Id).ok().map(|token| token.claims)
}

/// A token whose signature was verified.
struct SignedToken<'a, 't> {
    issuer: &'a IssuerState,
    token: CompactJws<'t>,
    /// Unix seconds of the check.
    now: i64,
}

impl Authn {
    /// Verifies an ID token of the issuer at `index`. Waits like `verify`.
    pub async fn verify_id_token(&self, index: usize, token: &str, expected: ExpectedIdToken<'_>) -> Result<IdToken, TokenError> {
        let signed = self.verify_signature(index, token, TokenKind::Id).await?;
        signed.issuer.check_id_token(signed.token, expected, signed.now)
    }

    /// Verifies an access token that came with an ID token, and returns its claims. The gate does not use it as a
    /// bearer token, so its audience, which is an API, is not checked. Waits like `verify`.
    pub async fn verify_access_token(
        &self,
        index: usize,
        token: &str,
        expected: ExpectedAccessToken<'_>,
    ) -> Result<Map<String, Value>, TokenError> {
        let signed = self.verify_signature(index, token, TokenKind::Bearer).await?;
        let claims = signed.token.claims;
        claims::window(&claims, signed.issuer.leeway)?.check(signed.now)?;
        if claims.get("sub").and_then(Value::as_str) != Some(expected.subject) {
            return Err(TokenError::claim("sub", "is not that of the ID token"));
        }
        for claim in CLIENT_CLAIMS {
            if claims
                .get(claim)
                .is_some_and(|client| client.as_str() != Some(expected.client))
            {
                return Err(TokenError::claim(claim, "names another client than the login's"));
            }
        }
        Ok(claims)
    }

    /// Verifies a logout token of the issuer at `index`. Waits like `verify`.
    pub async fn verify_logout_token(&self, index: usize, token: &str, audience: &str) -> Result<LogoutToken, TokenError> {
        let signed = self.verify_signature(index, token, TokenKind::Logout).await?;
        signed.issuer.check_logout_token(&signed.token, audience, signed.now)
    }

    /// Returns the issuer that an unverified logout token names, so that the caller can choose the provider whose keys
    /// verify it.
    pub fn claimed_issuer(token: &str) -> Result<String, TokenError> {
        let token = jws::parse(token, BYTES_MAX, TokenKind::Logout)?;
        Ok(name("iss", token.claims.get("iss"), SUBJECT_BYTES_MAX)?.to_owned())
    }

    /// Checks a token's issuer and signature. Waits like `verify`.
    async fn verify_signature<'t>(
        &self,
        index: usize,
        token: &'t str,
        kind: TokenKind,
    ) -> Result<SignedToken<'_, 't>, TokenError> {
        let issuer = self.issuers.get(index).ok_or(TokenError::IssuerUnknown)?;
        let token = jws::parse(token, BYTES_MAX, kind)?;
        if token.claims.get("iss").and_then(Value::as_str) != Some(&issuer.config.scope.issuer) {
            return Err(TokenError::claim("iss", "is not the provider's issuer"));
        }
        for pass in [VerificationPass::First, VerificationPass::Last] {
            let now = unix_seconds();
            match issuer.check_signature(&token, now)? {
                SignatureCheck::Valid { .. } => return Ok(SignedToken { issuer, token, now }),
                SignatureCheck::NeedsKeys(missing) => self.wait_for_keys(index, missing, pass).await?,
            }
        }
        // INVARIANT: `wait_for_keys` fails on the last attempt
        Err(TokenError::malformed("its key could not be determined"))
    }
}

impl IssuerState {
    fn check_id_token(&self, token: CompactJws<'_>, expected: ExpectedIdToken<'_>, now: i64) -> Result<IdToken, TokenError> {
        let mut claims = token.claims;
        write_login_claims_alike(&mut claims);
        claims::window(&claims, self.leeway)?.check(now)?;
        time(&claims, "iat")?.ok_or(TokenError::claim("iat", "is required"))?;
        Self::check_audience(&claims, expected.audience)?;
        if claims.contains_key("events") {
            return Err(TokenError::claim("events", "makes it another kind of token"));
        }
        if let Some(nonce) = expected.nonce
            && claims.get("nonce").and_then(Value::as_str) != Some(nonce)
        {
            return Err(TokenError::claim("nonce", "is not the one of this login"));
        }
        if let Some(hash) = claims.get("at_hash")
            && hash.as_str() != Some(&half_hash(token.header.algorithm, expected.access_token))
        {
            return Err(TokenError::claim("at_hash", "does not belong to the access token"));
        }
        Ok(IdToken {
            subject: name("sub", claims.get("sub"), SUBJECT_BYTES_MAX)?.to_owned(),
            // only a step-up needs them, and it refuses an ID token without them
            auth_time: time(&claims, "auth_time").ok().flatten(),
            acr: optional_name(&claims, "acr").ok().flatten(),
            // SECURITY: a `sid` that the gate cannot read would make the provider's logout miss the session
            sid: optional_name(&claims, "sid")?,
            claims,
        })
    }

    fn check_logout_token(&self, token: &CompactJws<'_>, audience: &str, now: i64) -> Result<LogoutToken, TokenError> {
        let claims = &token.claims;
        Self::check_audience(claims, audience)?;
        let issued = time(claims, "iat")?.ok_or(TokenError::claim("iat", "is required"))?;
        if issued > now.saturating_add(self.leeway) {
            return Err(ClaimError::NotYetValid.into());
        }
        let mut until = issued.saturating_add(LOGOUT_AGE_MAX);
        if let Some(expires) = time(claims, "exp")? {
            until = until.min(expires);
        }
        if now >= until.saturating_add(self.leeway) {
            return Err(ClaimError::Expired { at: until }.into());
        }
        if claims.contains_key("nonce") {
            return Err(TokenError::claim("nonce", "must not be in a logout token"));
        }
        let event = claims.get("events").and_then(|events| events.get(LOGOUT_EVENT));
        if !event.is_some_and(Value::is_object) {
            return Err(TokenError::claim("events", "does not name a back-channel logout"));
        }
        let subject = match claims.get("sub") {
            None => None,
            value => Some(name("sub", value, SUBJECT_BYTES_MAX)?.to_owned()),
        };
        let sid = optional_name(claims, "sid")?;
        if sid.is_none() && subject.is_none() {
            return Err(TokenError::claim("sid", "and `sub` are both missing"));
        }
        // required by the specification, and not needed: a token that comes again ends nothing more
        name("jti", claims.get("jti"), SUBJECT_BYTES_MAX)?;
        Ok(LogoutToken { sid, subject, issued })
    }

    /// Checks that a token is for this client. A token for other audiences as well is accepted, unless `azp` names
    /// another client (OpenID Connect Core 1.0, section 3.1.3.7).
    fn check_audience(claims: &Map<String, Value>, client: &str) -> Result<(), TokenError> {
        if !audience_list(claims)?.iter().any(|audience| audience == client) {
            return Err(TokenError::claim(
                "aud",
                format!("does not name the gate's client `{client}`"),
            ));
        }
        match claims.get("azp") {
            None | Some(Value::Null) => Ok(()),
            Some(azp) if azp.as_str() == Some(client) => Ok(()),
            Some(_) => Err(TokenError::claim("azp", format!("is not the gate's client `{client}`"))),
        }
    }
}

/// Brings the claims about the login into the form of OpenID Connect Core 1.0, section 2, which policies read: some
/// providers write `acr` as a number, `amr` as one text, and `null` for a claim that they do not have.
fn write_login_claims_alike(claims: &mut Map<String, Value>) {
    claims.retain(|name, value| !(value.is_null() && LOGIN_CLAIMS.contains(&name.as_str())));
    if let Some(acr @ Value::Number(_)) = claims.get_mut("acr") {
        *acr = Value::String(acr.to_string());
    }
    if let Some(amr @ Value::String(_)) = claims.get_mut("amr") {
        *amr = Value::Array(vec![amr.take()]);
    }
}

/// A text of bounded length, or a number as a text. `null` counts as absent.
fn optional_name(claims: &Map<String, Value>, claim: &str) -> Result<Option<String>, TokenError> {
    match claims.get(claim) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        value => Ok(Some(name(claim, value, NAME_BYTES_MAX)?.to_owned())),
    }
}

/// Returns the left half of the hash that the signature's algorithm names (OpenID Connect Core 1.0, section 3.1.3.6);
/// Ed25519 hashes with SHA-512.
fn half_hash(algorithm: Algorithm, text: &str) -> String {
    let algorithm = match algorithm {
        Algorithm::Rs256 | Algorithm::Ps256 | Algorithm::Es256 => &digest::SHA256,
        Algorithm::Rs384 | Algorithm::Ps384 | Algorithm::Es384 => &digest::SHA384,
        Algorithm::Rs512 | Algorithm::Ps512 | Algorithm::EdDsa => &digest::SHA512,
    };
    let hash = digest::digest(algorithm, text.as_bytes());
    let half = hash.as_ref().get(..hash.as_ref().len() / 2).unwrap_or_default();
    jws::encode(half)
}
