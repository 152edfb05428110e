//! Claims: the one look-up of a claim by its path, and the identity that an issuer's claims give.
//!
//! Every registered claim is checked here: times, audience, subject, tenant, roles and how the caller logged in. A claim that
//! is present and has the wrong type is an error and never counts as absent. A path that runs through a value that is not an
//! object is an error too. The caller checks signatures and reads the clock.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::denial::{Denial, Refusal};
use crate::digest::short_hash;
use crate::scope::IssuerScope;
use crate::types::{AuthFacts, Identity, TokenFacts};

/// Bytes of a subject.
pub const SUBJECT_BYTES_MAX: usize = 1024;
/// Bytes of a tenant, a role, a scope, an `acr` and an entry of `amr`.
pub const NAME_BYTES_MAX: usize = 256;
/// Roles, scopes, audiences and `amr` entries of one token.
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
    /// `cnf` is present.
    #[error("token is bound to a key (`cnf`) and was presented as a plain bearer")]
    Bound,
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

    /// The denial that the caller sees.
    pub fn denial(&self) -> Denial {
        match self {
            Self::NotYetValid | Self::Bound => Denial::TokenInvalid,
            Self::Expired { .. } => Denial::TokenExpired,
            Self::Audience { .. } => Denial::AudienceMismatch,
            Self::Claim { .. } => Denial::ClaimInvalid,
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
    let begins = time(claims, "nbf")?.max(time(claims, "iat")?);
    Ok(Window {
        from: begins.map_or(i64::MIN, |begins| begins.saturating_sub(leeway)),
        until: until.saturating_add(leeway),
    })
}

/// The identity that a verified token gives. The caller has checked signature and window.
pub fn token_identity(
    issuer: &IssuerScope,
    header: TokenHeader,
    claims: Map<String, Value>,
    window: Window,
) -> Result<Identity, ClaimError> {
    if claims.contains_key("cnf") {
        return Err(ClaimError::Bound);
    }
    let audiences = audiences(issuer, &claims)?;
    let path = &issuer.claims.subject;
    if claims.contains_key("sub") || path == "sub" {
        name("sub", claims.get("sub"), SUBJECT_BYTES_MAX)?;
    }
    let subject = name(path, at(&claims, path)?, SUBJECT_BYTES_MAX)?;
    let jti_hash = match claims.get("jti") {
        None => None,
        Some(Value::String(jti)) => Some(short_hash(jti)),
        Some(_) => return Err(ClaimError::claim("jti", "is not a string")),
    };
    Ok(Identity {
        issuer: Arc::clone(&issuer.name),
        subject: subject.to_owned(),
        principal_type: Arc::clone(&issuer.principal),
        tenant: tenant(issuer, &claims)?,
        roles: roles(issuer, &claims)?,
        expires_at: time(&claims, "exp")?.unwrap_or(window.until),
        auth: Arc::new(auth_facts(&claims)?),
        token: TokenFacts {
            iss: issuer.issuer.clone(),
            aud: audiences,
            kid: header.kid,
            alg: header.alg,
            jti_hash,
        },
        claims: Arc::new(claims),
    })
}

/// The identity that claims without a token would give: for decision tests and offline decisions. `iss`, `aud` and `exp` need
/// not be there.
pub fn unsigned_identity(issuer: &IssuerScope, mut claims: Map<String, Value>) -> Result<Identity, ClaimError> {
    let audience = issuer.audiences.first().cloned().unwrap_or_default();
    let registered = [
        ("iss", json!(issuer.issuer)),
        ("aud", json!(audience)),
        ("exp", json!(UNSIGNED_EXPIRES_AT)),
    ];
    for (name, value) in registered {
        claims.entry(name).or_insert(value);
    }
    let header = TokenHeader { kid: None, alg: "ES256" };
    let window = window(&claims, 0)?;
    token_identity(issuer, header, claims, window)
}

/// The identity that the claims of a login give under the issuer's mapping as it is configured now.
///
/// The claims were checked when the session began. They are checked again, because a session may be older than the configuration:
/// the claims must still name the session's subject, and only a tenant and roles that the issuer may assert.
pub fn login_identity(issuer: &IssuerScope, login: &LoginClaims<'_>) -> Result<Identity, ClaimError> {
    let LoginClaims { claims, subject, .. } = *login;
    let path = &issuer.claims.subject;
    if name(path, at(claims, path)?, SUBJECT_BYTES_MAX)? != subject {
        return Err(ClaimError::claim(path, "is not the subject that the session is for"));
    }
    let mut auth = auth_facts(claims)?;
    auth.method = "session";
    auth.time = time(claims, "auth_time")?.or(Some(login.began_at));
    // scopes were given to the login's client, not to the user
    auth.scopes = Vec::new();
    Ok(Identity {
        issuer: Arc::clone(&issuer.name),
        subject: subject.to_owned(),
        principal_type: Arc::clone(&issuer.principal),
        tenant: tenant(issuer, claims)?,
        roles: roles(issuer, claims)?,
        expires_at: login.expires_at,
        auth: Arc::new(auth),
        token: TokenFacts {
            iss: issuer.issuer.clone(),
            ..TokenFacts::default()
        },
        claims: Arc::clone(claims),
    })
}

/// The claim at a dotted path; a claim whose own name holds the dots wins. `None`: absent.
///
/// A path that runs through a value that is not an object is an error: if it counted as absent, a forbid that reads the claim
/// would silently not apply.
pub fn at<'a>(claims: &'a Map<String, Value>, path: &str) -> Result<Option<&'a Value>, ClaimError> {
    if let Some(value) = claims.get(path) {
        return Ok(Some(value));
    }
    let mut map = claims;
    let mut found = None;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        found = map.get(part);
        match found {
            None => return Ok(None),
            Some(Value::Object(inner)) => map = inner,
            Some(_) if parts.peek().is_some() => {
                return Err(ClaimError::claim(path, "is looked up inside a value that is not an object"));
            }
            Some(_) => {}
        }
    }
    Ok(found)
}

/// A claim that holds unix seconds.
pub fn time(claims: &Map<String, Value>, claim: &str) -> Result<Option<i64>, ClaimError> {
    let Some(value) = claims.get(claim) else {
        return Ok(None);
    };
    value
        .as_i64()
        .filter(|seconds| (0..=TIME_MAX).contains(seconds))
        .map(Some)
        .ok_or(ClaimError::claim(claim, "is not an integer of seconds before the year 10000"))
}

fn audiences(issuer: &IssuerScope, claims: &Map<String, Value>) -> Result<Vec<String>, ClaimError> {
    let audiences = audience_list(claims)?;
    if audiences.iter().any(|audience| issuer.audiences.contains(audience)) {
        return Ok(audiences);
    }
    Err(ClaimError::Audience {
        issuer: issuer.name.to_string(),
    })
}

/// The audiences of a token; empty without `aud`.
pub fn audience_list(claims: &Map<String, Value>) -> Result<Vec<String>, ClaimError> {
    Ok(match claims.get("aud") {
        None => Vec::new(),
        Some(Value::String(audience)) => vec![audience.clone()],
        Some(Value::Array(audiences)) if audiences.len() <= NAMES_MAX => audiences
            .iter()
            .map(|audience| audience.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or(ClaimError::claim("aud", "holds a value that is not a string"))?,
        Some(_) => {
            return Err(ClaimError::claim(
                "aud",
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

/// A string or an array of strings, in order, without repetitions.
fn names(claim: &str, value: &Value) -> Result<Vec<String>, ClaimError> {
    let values = match value {
        Value::Array(values) => values.as_slice(),
        single => std::slice::from_ref(single),
    };
    if values.len() > NAMES_MAX {
        return Err(ClaimError::claim(claim, format!("has more than {NAMES_MAX} entries")));
    }
    let mut names: Vec<String> = Vec::with_capacity(values.len());
    for value in values {
        let text = name(claim, Some(value), NAME_BYTES_MAX)?;
        if !names.iter().any(|known| known == text) {
            names.push(text.to_owned());
        }
    }
    Ok(names)
}

/// The tenant that the claims assert; an error if the issuer may not assert it.
pub fn tenant(issuer: &IssuerScope, claims: &Map<String, Value>) -> Result<Option<String>, ClaimError> {
    let path = &issuer.claims.tenant;
    let Some(value) = at(claims, path)? else {
        return Ok(None);
    };
    let tenant = name(path, Some(value), NAME_BYTES_MAX)?;
    if issuer
        .tenants
        .as_ref()
        .is_some_and(|allowed| !allowed.iter().any(|known| known == tenant))
    {
        return Err(ClaimError::claim(
            path,
            "names a tenant the issuer may not assert (issuers[].tenants)",
        ));
    }
    Ok(Some(tenant.to_owned()))
}

/// The roles that the claims assert; an error if the issuer may not assert one of them.
pub fn roles(issuer: &IssuerScope, claims: &Map<String, Value>) -> Result<Vec<String>, ClaimError> {
    let path = &issuer.claims.roles;
    let Some(value) = at(claims, path)? else {
        return Ok(Vec::new());
    };
    let roles = names(path, value)?;
    if issuer
        .roles
        .as_ref()
        .is_some_and(|allowed| roles.iter().any(|role| !allowed.contains(role)))
    {
        return Err(ClaimError::claim(
            path,
            "names a role the issuer may not assert (issuers[].roles)",
        ));
    }
    Ok(roles)
}

fn auth_facts(claims: &Map<String, Value>) -> Result<AuthFacts, ClaimError> {
    let acr = match claims.get("acr") {
        None => None,
        value => Some(name("acr", value, NAME_BYTES_MAX)?.to_owned()),
    };
    let amr = match claims.get("amr") {
        None => Vec::new(),
        Some(value @ Value::Array(_)) => names("amr", value)?,
        Some(_) => return Err(ClaimError::claim("amr", "is not an array of strings")),
    };
    Ok(AuthFacts {
        method: "bearer",
        time: time(claims, "auth_time")?.or(time(claims, "iat")?),
        acr,
        amr,
        scopes: scopes(claims)?,
    })
}

/// `scope` (RFC 8693) or, without it, `scp`.
fn scopes(claims: &Map<String, Value>) -> Result<Vec<String>, ClaimError> {
    let (claim, value) = match (claims.get("scope"), claims.get("scp")) {
        (Some(value), _) => ("scope", value),
        (None, Some(value)) => ("scp", value),
        (None, None) => return Ok(Vec::new()),
    };
    match value {
        Value::String(text) => {
            let parts = text.split(' ').filter(|part| !part.is_empty()).map(Value::from).collect();
            names(claim, &Value::Array(parts))
        }
        Value::Array(_) if claim == "scp" => names(claim, value),
        _ => Err(ClaimError::claim(claim, "is not a list of scopes")),
    }
}
