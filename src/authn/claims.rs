//! From the claims of a token whose signature held to an `Identity`.
//!
//! Every registered claim is checked here and nowhere else: times, audience, subject, tenant, roles and how the
//! caller logged in. A claim that is there and not of its type is a refusal, never an absence.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::cache::sha256;
use super::error::TokenError;
use super::jws::{Header, algorithm_name};
use crate::config::Issuer;
use crate::types::{AuthFacts, Identity, TokenFacts};

/// Bytes of a subject.
pub const SUBJECT_BYTES_MAX: usize = 1024;
/// Bytes of a tenant, a role, a scope, an `acr` and an entry of `amr`.
pub const NAME_BYTES_MAX: usize = 256;
/// Roles, scopes, audiences and `amr` entries of one token.
pub const NAMES_MAX: usize = 256;
/// The last second of the year 9999.
const TIME_MAX: i64 = 253_402_300_799;

/// When a token is worth anything; the leeway is already in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// First second.
    pub from: i64,
    /// First second after.
    pub until: i64,
}

/// What a session keeps of a login.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    pub claims: &'a Arc<Map<String, Value>>,
    pub subject: &'a str,
    /// Unix seconds.
    pub began_at: i64,
    /// Unix seconds of the session's end.
    pub expires_at: i64,
}

impl Window {
    pub(super) fn check(self, now: i64) -> Result<(), TokenError> {
        if now >= self.until {
            Err(TokenError::Expired { at: self.until })
        } else if now < self.from {
            Err(TokenError::NotYetValid)
        } else {
            Ok(())
        }
    }
}

/// The times of a token: `exp` is required, `nbf` and `iat` must not lie ahead.
pub(super) fn window(claims: &Map<String, Value>, leeway: i64) -> Result<Window, TokenError> {
    let until = time(claims, "exp")?.ok_or(TokenError::claim("exp", "is required"))?;
    let begins = time(claims, "nbf")?.max(time(claims, "iat")?);
    Ok(Window {
        from: begins.map_or(i64::MIN, |begins| begins.saturating_sub(leeway)),
        until: until.saturating_add(leeway),
    })
}

/// Everything an identity needs; the window was checked before.
pub(super) fn identity(
    issuer: &Issuer,
    header: Header,
    claims: Map<String, Value>,
    window: Window,
) -> Result<Identity, TokenError> {
    of_access(issuer, claims, window, |aud, jti_hash| TokenFacts {
        iss: issuer.issuer.clone(),
        aud,
        kid: header.kid,
        alg: algorithm_name(header.algorithm),
        jti_hash,
    })
}

/// The same for whatever stands for a token; `facts` of its audiences and the hash of its id.
pub(super) fn of_access(
    issuer: &Issuer,
    claims: Map<String, Value>,
    window: Window,
    facts: impl FnOnce(Vec<String>, Option<String>) -> TokenFacts,
) -> Result<Identity, TokenError> {
    if claims.contains_key("cnf") {
        return Err(TokenError::Bound);
    }
    let audiences = audiences(issuer, &claims)?;
    if claims.contains_key("sub") || issuer.claims.subject == "sub" {
        name("sub", claims.get("sub"), SUBJECT_BYTES_MAX)?;
    }
    let subject = name(
        &issuer.claims.subject,
        lookup(&claims, &issuer.claims.subject)?,
        SUBJECT_BYTES_MAX,
    )?;
    let jti_hash = match claims.get("jti") {
        None => None,
        Some(Value::String(jti)) => Some(short_hash(jti)),
        Some(_) => return Err(TokenError::claim("jti", "is not a string")),
    };
    Ok(Identity {
        issuer: Arc::clone(&issuer.name),
        subject: subject.to_owned(),
        principal_type: Arc::clone(&issuer.principal),
        tenant: tenant(issuer, &claims)?,
        roles: roles(issuer, &claims)?,
        expires_at: time(&claims, "exp")?.unwrap_or(window.until),
        auth: Arc::new(auth_facts(&claims)?),
        token: facts(audiences, jti_hash),
        claims: Arc::new(claims),
    })
}

/// The identity that the claims of a login give under an issuer's mapping, as it is configured now.
///
/// The claims were checked when the session began; what the issuer may assert is checked again, because a session may be older
/// than the configuration. `subject` is whom the session is for: the claims must still say the same.
pub(super) fn of_login(issuer: &Issuer, login: &Login<'_>) -> Result<Identity, TokenError> {
    let Login { claims, subject, .. } = *login;
    let path = &issuer.claims.subject;
    if name(path, lookup(claims, path)?, SUBJECT_BYTES_MAX)? != subject {
        return Err(TokenError::claim(path, "is not whom the session is for"));
    }
    let mut auth = auth_facts(claims)?;
    auth.method = "session";
    auth.time = time(claims, "auth_time")?.or(Some(login.began_at));
    // a session has what its user has, not what the login's client was given
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

/// First 16 hex digits of SHA-256.
pub(super) fn short_hash(text: &str) -> String {
    sha256(text.as_bytes())
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A dotted path into the claims; a claim whose own name holds the dots wins.
pub(super) fn lookup<'a>(claims: &'a Map<String, Value>, path: &str) -> Result<Option<&'a Value>, TokenError> {
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
                return Err(TokenError::claim(path, "is looked for inside a value that is no object"));
            }
            Some(_) => {}
        }
    }
    Ok(found)
}

pub(super) fn time(claims: &Map<String, Value>, claim: &str) -> Result<Option<i64>, TokenError> {
    let Some(value) = claims.get(claim) else {
        return Ok(None);
    };
    value
        .as_i64()
        .filter(|seconds| (0..=TIME_MAX).contains(seconds))
        .map(Some)
        .ok_or(TokenError::claim(claim, "is not an integer of seconds before the year 10000"))
}

fn audiences(issuer: &Issuer, claims: &Map<String, Value>) -> Result<Vec<String>, TokenError> {
    let audiences = audience_list(claims)?;
    if audiences.iter().any(|audience| issuer.audiences.contains(audience)) {
        return Ok(audiences);
    }
    Err(TokenError::Audience {
        issuer: issuer.name.to_string(),
    })
}

/// Whom a token is for; empty if it does not say.
pub(super) fn audience_list(claims: &Map<String, Value>) -> Result<Vec<String>, TokenError> {
    Ok(match claims.get("aud") {
        None => Vec::new(),
        Some(Value::String(audience)) => vec![audience.clone()],
        Some(Value::Array(audiences)) if audiences.len() <= NAMES_MAX => audiences
            .iter()
            .map(|audience| audience.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or(TokenError::claim("aud", "holds something that is no string"))?,
        Some(_) => {
            return Err(TokenError::claim(
                "aud",
                "is neither a string nor an array of at most 256 strings",
            ));
        }
    })
}

/// A non-empty string of bounded length without control characters.
pub(super) fn name<'a>(claim: &str, value: Option<&'a Value>, bytes_max: usize) -> Result<&'a str, TokenError> {
    let text = value
        .and_then(Value::as_str)
        .ok_or_else(|| TokenError::claim(claim, "is missing or no string"))?;
    if text.is_empty() || text.len() > bytes_max {
        return Err(TokenError::claim(claim, format!("is empty or longer than {bytes_max} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(TokenError::claim(claim, "holds a control character"));
    }
    Ok(text)
}

/// A string or an array of strings, in order, without repetitions.
fn names(claim: &str, value: &Value) -> Result<Vec<String>, TokenError> {
    let values = match value {
        Value::Array(values) => values.as_slice(),
        single => std::slice::from_ref(single),
    };
    if values.len() > NAMES_MAX {
        return Err(TokenError::claim(claim, format!("has more than {NAMES_MAX} entries")));
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

pub(super) fn tenant(issuer: &Issuer, claims: &Map<String, Value>) -> Result<Option<String>, TokenError> {
    let path = &issuer.claims.tenant;
    let Some(value) = lookup(claims, path)? else {
        return Ok(None);
    };
    let tenant = name(path, Some(value), NAME_BYTES_MAX)?;
    if issuer
        .tenants
        .as_ref()
        .is_some_and(|allowed| !allowed.iter().any(|known| known == tenant))
    {
        return Err(TokenError::claim(
            path,
            "names a tenant the issuer may not assert (issuers[].tenants)",
        ));
    }
    Ok(Some(tenant.to_owned()))
}

pub(super) fn roles(issuer: &Issuer, claims: &Map<String, Value>) -> Result<Vec<String>, TokenError> {
    let path = &issuer.claims.roles;
    let Some(value) = lookup(claims, path)? else {
        return Ok(Vec::new());
    };
    let roles = names(path, value)?;
    if issuer
        .roles
        .as_ref()
        .is_some_and(|allowed| roles.iter().any(|role| !allowed.contains(role)))
    {
        return Err(TokenError::claim(
            path,
            "names a role the issuer may not assert (issuers[].roles)",
        ));
    }
    Ok(roles)
}

fn auth_facts(claims: &Map<String, Value>) -> Result<AuthFacts, TokenError> {
    let acr = match claims.get("acr") {
        None => None,
        value => Some(name("acr", value, NAME_BYTES_MAX)?.to_owned()),
    };
    let amr = match claims.get("amr") {
        None => Vec::new(),
        Some(value @ Value::Array(_)) => names("amr", value)?,
        Some(_) => return Err(TokenError::claim("amr", "is no array of strings")),
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
fn scopes(claims: &Map<String, Value>) -> Result<Vec<String>, TokenError> {
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
        _ => Err(TokenError::claim(claim, "is not a list of scopes")),
    }
}
