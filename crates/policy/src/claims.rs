//! Claims: the one look-up of a claim by its path, and the identity that an issuer's claims give.
//!
//! Every claim that the gate itself reads is checked here: times, audience, subject, tenant and roles. A claim that is
//! present and has the wrong type is an error and never counts as absent (`claims/lookup.rs`). The claims about the
//! login are an error only for a portal whose policies read them (`claims/facts.rs`). The caller checks signatures and
//! reads the clock.

mod binding;
mod facts;
mod lookup;
mod roles;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value, json};

pub use self::binding::{Binding, Possession, Thumbprint};
pub use self::lookup::{at, tenant_of_session};
use self::lookup::{forget_elsewhere, of_issuer};
pub use self::roles::roles;
use crate::denial::{Denial, Refusal};
use crate::digest::short_hash;
use crate::scope::{IssuerScope, PortalScope};
use crate::types::{Identity, TokenFacts};

/// Bytes of a subject.
pub const SUBJECT_BYTES_MAX: usize = 1024;
/// Bytes of a tenant, a scope, an `acr` and an entry of `amr`.
pub const NAME_BYTES_MAX: usize = 256;
/// Scopes, audiences and `amr` entries of one token.
pub const NAMES_MAX: usize = 256;
/// The last second of the year 9999.
const TIME_MAX: i64 = 253_402_300_799;
/// 2100-01-01: the expiry of claims that come without a token.
const UNSIGNED_EXPIRES_AT: i64 = 4_102_444_800;

/// The reason why claims give no identity.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ClaimError {
    /// `nbf` or `iat` is ahead.
    #[error("token is not valid yet")]
    NotYetValid,
    /// `exp` has passed.
    #[error("token expired at {at}")]
    Expired {
        /// Unix seconds, leeway included.
        at: i64,
    },
    /// `aud` names none of the issuer's audiences.
    #[error("token is for another audience than issuer `{issuer}` is configured for (issuers[].audiences)")]
    Audience {
        /// `issuers[].name`.
        issuer: String,
    },
    /// The sender did not prove the keys that the token is bound to (`cnf`).
    #[error("token may not be used by its sender: {0}")]
    Bound(&'static str),
    /// A claim that is mapped or read is not in the token; its issuer offers it elsewhere.
    #[error(
        "claim `{claim}` is not in the token: its issuer left it out (group overage, `_claim_names` or `hasgroups`); have the issuer send \
         fewer groups or app roles, or set issuers[].danger_ignore_overage"
    )]
    Elsewhere {
        /// The claim's path.
        claim: String,
    },
    /// A claim is missing or malformed.
    #[error("claim `{claim}` {why}")]
    Claim {
        /// The claim's path.
        claim: String,
        /// The end of the sentence that begins with the claim's name.
        why: Cow<'static, str>,
    },
}

impl ClaimError {
    /// An error about one claim; `why` continues the sentence "claim `x` …".
    pub fn claim(claim: &str, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Claim {
            claim: claim.to_owned(),
            why: why.into(),
        }
    }

    /// The path of the claim at fault, if one is.
    pub fn claim_at_fault(&self) -> Option<&str> {
        match self {
            Self::Elsewhere { claim } | Self::Claim { claim, .. } => Some(claim),
            Self::NotYetValid | Self::Bound(_) | Self::Expired { .. } | Self::Audience { .. } => None,
        }
    }

    /// The denial that the caller sees.
    pub fn denial(&self) -> Denial {
        match self {
            Self::NotYetValid | Self::Bound(_) => Denial::TokenInvalid,
            Self::Expired { .. } => Denial::TokenExpired,
            Self::Audience { .. } => Denial::AudienceMismatch,
            Self::Elsewhere { .. } | Self::Claim { .. } => Denial::ClaimInvalid,
        }
    }
}

impl From<ClaimError> for Refusal {
    fn from(error: ClaimError) -> Self {
        Self::new(error.denial(), error.to_string())
    }
}

/// The time in which a token is valid; the leeway is already in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// First second.
    pub from: i64,
    /// First second after.
    pub until: i64,
}

/// A token's own header, as far as records show it.
#[derive(Clone, Debug)]
pub struct TokenHeader {
    /// The key's id.
    pub kid: Option<String>,
    /// The algorithm's name; `opaque` for a token that only its issuer can read.
    pub alg: &'static str,
}

/// The part of a login that its session stores.
#[derive(Clone, Copy, Debug)]
pub struct LoginClaims<'a> {
    /// All claims of the login.
    pub claims: &'a Arc<Map<String, Value>>,
    /// Name of the issuer of the login.
    pub issuer: &'a str,
    /// The portals that the account may use; `None`: every one.
    pub portals: Option<&'a [String]>,
    /// The subject that the session is for.
    pub subject: &'a str,
    /// Unix seconds.
    pub began_at: i64,
    /// Unix seconds of the session's end.
    pub expires_at: i64,
}

impl Window {
    /// Fails outside the window; `now` is in unix seconds.
    pub fn check(self, now: i64) -> Result<(), ClaimError> {
        if now >= self.until {
            Err(ClaimError::Expired { at: self.until })
        } else if now < self.from {
            Err(ClaimError::NotYetValid)
        } else {
            Ok(())
        }
    }
}

/// The times of a token: `exp` is required, `nbf` and `iat` must not lie ahead. `leeway` is in seconds.
pub fn window(claims: &Map<String, Value>, leeway: i64) -> Result<Window, ClaimError> {
    let until = time(claims, "exp")?.ok_or(ClaimError::claim("exp", "is required"))?;
    let begins = seconds(claims, "nbf", f64::ceil)?.max(time(claims, "iat")?);
    Ok(Window {
        from: begins.map_or(i64::MIN, |begins| begins.saturating_sub(leeway)),
        until: until.saturating_add(leeway),
    })
}

/// An identity, and the keys that the token behind it is bound to.
#[derive(Clone, Debug)]
pub struct BoundIdentity {
    /// The identity.
    pub identity: Identity,
    /// `Binding::check` compares it with the sender of every further request with the token.
    pub binding: Binding,
}

/// The identity that a verified token gives to a sender with these keys. The caller has checked signature and window.
pub fn token_identity(
    issuer: &IssuerScope,
    header: TokenHeader,
    claims: Map<String, Value>,
    window: Window,
    possession: &Possession,
) -> Result<BoundIdentity, ClaimError> {
    let binding = Binding::of(&claims)?;
    binding.check(possession)?;
    let audiences = audiences(issuer, &claims)?;
    let identity = identity_for(issuer, header, claims, window, audiences)?;
    Ok(BoundIdentity { identity, binding })
}

/// The identity that the facts of a verified client certificate give, as claims.
pub fn certificate_identity(issuer: &IssuerScope, fingerprint: &str, claims: Map<String, Value>) -> Result<Identity, ClaimError> {
    let header = TokenHeader {
        kid: Some(fingerprint.to_owned()),
        alg: "x509",
    };
    let window = window(&claims, 0)?;
    let mut identity = identity_for(issuer, header, claims, window, Vec::new())?;
    Arc::make_mut(&mut identity.auth).method = "certificate";
    Ok(identity)
}

/// The identity of claims whose audience was judged.
fn identity_for(
    issuer: &IssuerScope,
    header: TokenHeader,
    claims: Map<String, Value>,
    window: Window,
    audiences: Vec<String>,
) -> Result<Identity, ClaimError> {
    if claims.contains_key("sub") || issuer.claims.subject.as_str() == "sub" {
        name("sub", claims.get("sub"), SUBJECT_BYTES_MAX)?;
    }
    let mut claims = Arc::new(claims);
    forget_elsewhere(issuer, &mut claims);
    Ok(Identity {
        issuer: Arc::clone(&issuer.name),
        subject: subject(issuer, &claims)?.to_owned(),
        principal_type: Arc::clone(&issuer.principal),
        tenant: tenant(issuer, &claims)?,
        roles: roles(issuer, &claims)?,
        expires_at: time(&claims, "exp")?.unwrap_or(window.until),
        auth: Arc::new(facts::auth_facts(&claims)?),
        token: TokenFacts {
            iss: issuer.issuer.clone(),
            aud: audiences,
            kid: header.kid,
            alg: header.alg,
            jti_hash: jti_hash(&claims),
        },
        claims,
    })
}

/// The subject that the claims name.
pub fn subject<'a>(issuer: &IssuerScope, claims: &'a Map<String, Value>) -> Result<&'a str, ClaimError> {
    let path = &issuer.claims.subject;
    name(path.as_str(), of_issuer(issuer, claims, path)?, SUBJECT_BYTES_MAX)
}

/// The hash of the token's id, for the record alone. `None` without an id that can be shown.
fn jti_hash(claims: &Map<String, Value>) -> Option<String> {
    match claims.get("jti")? {
        Value::String(jti) => Some(short_hash(jti)),
        Value::Number(jti) => Some(short_hash(&jti.to_string())),
        _ => None,
    }
}

/// The identity that claims without a token would give: for decision tests and offline decisions. `iss`, `aud` and
/// `exp` need not be there.
pub fn unsigned_identity(issuer: &IssuerScope, mut claims: Map<String, Value>) -> Result<Identity, ClaimError> {
    for (name, value) in [("iss", json!(issuer.issuer)), ("exp", json!(UNSIGNED_EXPIRES_AT))] {
        claims.entry(name).or_insert(value);
    }
    let header = TokenHeader { kid: None, alg: "ES256" };
    let window = window(&claims, 0)?;
    if claims.contains_key("aud") || of_issuer(issuer, &claims, &issuer.audience_claim)?.is_some() {
        return Ok(token_identity(issuer, header, claims, window, &Possession::NONE)?.identity);
    }
    let audience = issuer.audiences.first().cloned().into_iter().collect();
    Binding::of(&claims)?.check(&Possession::NONE)?;
    identity_for(issuer, header, claims, window, audience)
}

/// The identity that the claims of a login give under the issuer's mapping as it is configured now.
///
/// The claims were checked when the session began. They are checked again, because a session may be older than the
/// configuration: the claims must still name the session's subject, and only a tenant and roles that the issuer may
/// assert.
///
/// # Errors
/// The account may not use the portal, the portal does not trust the issuer of the login, or the claims of the login do
/// not fit the issuer's mapping any more.
pub fn login_identity(portal: &PortalScope, login: &LoginClaims<'_>) -> Result<Identity, Refusal> {
    let is_this = |allowed: &String| *allowed == *portal.slug.as_str();
    if login.portals.is_some_and(|allowed| !allowed.iter().any(is_this)) {
        let detail = "the account may not use this portal (`portals` in the users file)";
        return Err(Refusal::new(Denial::NotPermitted, detail));
    }
    let issuer = portal.issuer(login.issuer).ok_or_else(|| {
        let detail = "the portal does not trust the issuer of the login (portals.<slug>.issuers)";
        Refusal::new(Denial::IssuerUnknown, detail)
    })?;
    Ok(identity_of_login(issuer, login)?)
}

fn identity_of_login(issuer: &IssuerScope, login: &LoginClaims<'_>) -> Result<Identity, ClaimError> {
    let mut claims = Arc::clone(login.claims);
    forget_elsewhere(issuer, &mut claims);
    if subject(issuer, &claims)? != login.subject {
        let path = &issuer.claims.subject;
        return Err(ClaimError::claim(path.as_str(), "is not the subject that the session is for"));
    }
    let mut auth = facts::auth_facts(&claims)?;
    auth.method = "session";
    if !facts::has_time(&claims) {
        auth.time = Some(login.began_at);
    }
    // scopes were given to the login's client, not to the user
    auth.scopes = Vec::new();
    Ok(Identity {
        issuer: Arc::clone(&issuer.name),
        subject: login.subject.to_owned(),
        principal_type: Arc::clone(&issuer.principal),
        tenant: tenant(issuer, &claims)?,
        roles: roles(issuer, &claims)?,
        expires_at: login.expires_at,
        auth: Arc::new(auth),
        token: TokenFacts {
            iss: issuer.issuer.clone(),
            ..TokenFacts::default()
        },
        claims,
    })
}

/// A claim that holds unix seconds, rounded down (RFC 7519's `NumericDate` may have a fraction). `null` counts as
/// absent.
pub fn time(claims: &Map<String, Value>, claim: &str) -> Result<Option<i64>, ClaimError> {
    seconds(claims, claim, f64::floor)
}

fn seconds(claims: &Map<String, Value>, claim: &str, round: fn(f64) -> f64) -> Result<Option<i64>, ClaimError> {
    let value = match claims.get(claim) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    #[expect(clippy::cast_possible_truncation, reason = "saturates, and the range is checked afterwards")]
    let rounded = |seconds: f64| round(seconds) as i64;
    let fraction = || value.as_f64().filter(|seconds| *seconds >= 0.0).map(rounded);
    value
        .as_i64()
        .or_else(fraction)
        .filter(|seconds| (0..=TIME_MAX).contains(seconds))
        .map(Some)
        .ok_or(ClaimError::claim(claim, "is not a number of seconds before the year 10000"))
}

/// The audiences that the issuer's audience claim names. An `aud` beside it must fit as well (RFC 7519, section 4.1.3).
fn audiences(issuer: &IssuerScope, claims: &Map<String, Value>) -> Result<Vec<String>, ClaimError> {
    let fits = |audiences: &[String]| audiences.iter().any(|audience| issuer.audiences.contains(audience));
    let path = &issuer.audience_claim;
    let named = audience_values(path.as_str(), of_issuer(issuer, claims, path)?)?;
    let own = if path.as_str() == "aud" {
        &named
    } else {
        &audience_list(claims)?
    };
    if fits(&named) && (fits(own) || own.is_empty() && !claims.contains_key("aud")) {
        return Ok(named);
    }
    Err(ClaimError::Audience {
        issuer: issuer.name.to_string(),
    })
}

/// The audiences of a token; empty without `aud`.
pub fn audience_list(claims: &Map<String, Value>) -> Result<Vec<String>, ClaimError> {
    audience_values("aud", claims.get("aud"))
}

fn audience_values(claim: &str, value: Option<&Value>) -> Result<Vec<String>, ClaimError> {
    Ok(match value {
        None => Vec::new(),
        Some(Value::String(audience)) => vec![audience.clone()],
        Some(Value::Array(audiences)) if audiences.len() <= NAMES_MAX => audiences
            .iter()
            .map(|audience| audience.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or(ClaimError::claim(claim, "holds a value that is not a string"))?,
        Some(_) => {
            return Err(ClaimError::claim(
                claim,
                "is neither a string nor an array of at most 256 strings",
            ));
        }
    })
}

/// A non-empty string of bounded length without control characters.
pub fn name<'a>(claim: &str, value: Option<&'a Value>, bytes_max: usize) -> Result<&'a str, ClaimError> {
    let text = value
        .and_then(Value::as_str)
        .ok_or_else(|| ClaimError::claim(claim, "is missing or no string"))?;
    if text.is_empty() || text.len() > bytes_max {
        return Err(ClaimError::claim(claim, format!("is empty or longer than {bytes_max} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(ClaimError::claim(claim, "holds a control character"));
    }
    Ok(text)
}

/// The tenant that the claims assert; an error if the issuer may not assert it.
pub fn tenant(issuer: &IssuerScope, claims: &Map<String, Value>) -> Result<Option<String>, ClaimError> {
    let path = &issuer.claims.tenant;
    let Some(value) = of_issuer(issuer, claims, path)? else {
        return Ok(None);
    };
    let tenant = name(path.as_str(), Some(value), NAME_BYTES_MAX)?;
    if issuer
        .tenants
        .as_ref()
        .is_some_and(|allowed| !allowed.iter().any(|known| known == tenant))
    {
        return Err(ClaimError::claim(
            path.as_str(),
            "names a tenant the issuer may not assert (issuers[].tenants)",
        ));
    }
    Ok(Some(tenant.to_owned()))
}
