//! ID tokens and logout tokens: what a provider signs for the gate itself, as its client.
//!
//! The same taking apart, keys and signature check as for bearer tokens; the rules differ. They are for the gate's client id and
//! nobody else, an ID token answers one login's nonce, a logout token names one event. Neither becomes a caller here, and what
//! is a bearer token by its type is neither.

use aws_lc_rs::digest;
use serde_json::{Map, Value};

use cedargate_policy::claims::{self, ClaimError, NAME_BYTES_MAX, SUBJECT_BYTES_MAX, audience_list, name, time};

use super::jws::{self, Compact, Typ};
use super::{Attempt, Authn, IssuerState, Signed, TokenError, keys};
use crate::config::{Algorithm, Issuer};

/// Bytes of an ID token or logout token; they travel in no header, so `limits.token_bytes` is not theirs.
const BYTES_MAX: usize = 64 * 1024;
/// How old a logout token may be, in seconds, beside the issuer's leeway.
const LOGOUT_AGE_MAX: i64 = 5 * 60;
/// The member of `events` that makes a logout token.
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// What an ID token must say beside its issuer.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The client id.
    pub audience: &'a str,
    /// `None` after a refresh: there was no request to answer.
    pub nonce: Option<&'a str>,
    /// The access token that came with it, for `at_hash`.
    pub access_token: &'a str,
}

/// An ID token whose every check held.
#[derive(Clone, Debug)]
pub struct IdToken {
    pub claims: Map<String, Value>,
    /// `sub`.
    pub subject: String,
    pub auth_time: Option<i64>,
    pub acr: Option<String>,
    /// The provider's own session.
    pub sid: Option<String>,
}

/// A logout token whose every check held, but for `jti` being new.
#[derive(Clone, Debug)]
pub struct LogoutToken {
    pub sid: Option<String>,
    pub subject: Option<String>,
    pub jti: String,
}

/// Whom claims name, by the issuer's mapping and within its bounds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Granted {
    pub subject: String,
    pub tenant: Option<String>,
    pub roles: Vec<String>,
}

/// What the claims of a login give by the issuer's claim mapping.
pub fn granted(issuer: &Issuer, claims: &Map<String, Value>) -> Result<Granted, TokenError> {
    let path = &issuer.scope.claims.subject;
    Ok(Granted {
        subject: name(path, claims::at(claims, path)?, SUBJECT_BYTES_MAX)?.to_owned(),
        tenant: claims::tenant(&issuer.scope, claims)?,
        roles: claims::roles(&issuer.scope, claims)?,
    })
}

/// The claims of an ID token that was verified before and kept sealed since. Proves nothing.
pub fn kept_claims(token: &str) -> Option<Map<String, Value>> {
    jws::parse(token, BYTES_MAX, Typ::Id).ok().map(|token| token.claims)
}

impl Authn {
    /// Checks an ID token of the issuer at `index`. Waits like `verify`.
    pub async fn verify_id_token(&self, index: usize, token: &str, expected: Expected<'_>) -> Result<IdToken, TokenError> {
        let (issuer, token, now) = self.signed_by(index, token, Typ::Id).await?;
        issuer.id_token(token, expected, now)
    }

    /// Checks a logout token of the issuer at `index`. Waits like `verify`.
    pub async fn verify_logout_token(&self, index: usize, token: &str, audience: &str) -> Result<LogoutToken, TokenError> {
        let (issuer, token, now) = self.signed_by(index, token, Typ::Logout).await?;
        issuer.logout_token(&token, audience, now)
    }

    /// What an unverified logout token says of its issuer: which provider's keys to try.
    pub fn claimed_issuer(token: &str) -> Result<String, TokenError> {
        let token = jws::parse(token, BYTES_MAX, Typ::Logout)?;
        Ok(name("iss", token.claims.get("iss"), SUBJECT_BYTES_MAX)?.to_owned())
    }

    async fn signed_by<'t>(
        &self,
        index: usize,
        token: &'t str,
        typ: Typ,
    ) -> Result<(&IssuerState, Compact<'t>, i64), TokenError> {
        let issuer = self.issuers.get(index).ok_or(TokenError::IssuerUnknown)?;
        let token = jws::parse(token, BYTES_MAX, typ)?;
        if token.claims.get("iss").and_then(Value::as_str) != Some(&issuer.config.scope.issuer) {
            return Err(TokenError::claim("iss", "is not the provider's issuer"));
        }
        for attempt in [Attempt::First, Attempt::Last] {
            let now = keys::unix_now();
            match issuer.signed(&token, now)? {
                Signed::By { .. } => return Ok((issuer, token, now)),
                Signed::Wait(pause) => {
                    if let Some(error) = self.wait(index, pause, attempt).await {
                        return Err(error);
                    }
                }
            }
        }
        // INVARIANT: waiting on the last attempt always gives an error.
        Err(TokenError::malformed("its key could not be settled"))
    }
}

impl IssuerState {
    fn id_token(&self, token: Compact<'_>, expected: Expected<'_>, now: i64) -> Result<IdToken, TokenError> {
        let claims = token.claims;
        claims::window(&claims, self.leeway)?.check(now)?;
        time(&claims, "iat")?.ok_or(TokenError::claim("iat", "is required"))?;
        self.for_client(&claims, expected.audience)?;
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
            auth_time: time(&claims, "auth_time")?,
            acr: optional(&claims, "acr")?,
            sid: optional(&claims, "sid")?,
            claims,
        })
    }

    fn logout_token(&self, token: &Compact<'_>, audience: &str, now: i64) -> Result<LogoutToken, TokenError> {
        let claims = &token.claims;
        self.for_client(claims, audience)?;
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
        let sid = optional(claims, "sid")?;
        if sid.is_none() && subject.is_none() {
            return Err(TokenError::claim("sid", "and `sub` are both missing"));
        }
        let jti = name("jti", claims.get("jti"), SUBJECT_BYTES_MAX)?.to_owned();
        Ok(LogoutToken { sid, subject, jti })
    }

    /// OpenID Connect Core 1.0, section 3.1.3.7: for this client, and if for others too, then said to be used by it.
    fn for_client(&self, claims: &Map<String, Value>, client: &str) -> Result<(), TokenError> {
        let audiences = audience_list(claims)?;
        let azp = claims.get("azp");
        let fits = audiences.iter().any(|audience| audience == client)
            && azp.is_none_or(|azp| azp.as_str() == Some(client))
            && (audiences.len() == 1 || azp.is_some());
        fits.then_some(())
            .ok_or_else(|| ClaimError::Audience { issuer: self.name() }.into())
    }
}

fn optional(claims: &Map<String, Value>, claim: &str) -> Result<Option<String>, TokenError> {
    match claims.get(claim) {
        None => Ok(None),
        value => Ok(Some(name(claim, value, NAME_BYTES_MAX)?.to_owned())),
    }
}

/// The left half of the hash that the signature's algorithm names (section 3.1.3.6); Ed25519 hashes with SHA-512.
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
