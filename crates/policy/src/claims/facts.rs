//! How the caller logged in: the claims behind the context record `auth`.
//!
//! The gate itself reads none of them, so a malformed one is no fault of the credential by itself. It is listed as
//! unreadable, and a query whose context declares the field is refused (`context`): a forbid that reads it must not see
//! it as absent.

use serde_json::{Map, Value};

use super::{ClaimError, NAME_BYTES_MAX, NAMES_MAX, name, time};
use crate::types::{AuthFacts, UnreadableFact};

/// Reads the claims about the login. Fails only on a time that `window` would refuse as well.
pub(super) fn auth_facts(claims: &Map<String, Value>) -> Result<AuthFacts, ClaimError> {
    let mut unreadable = Vec::new();
    let mut keep = |field: &'static str, error: ClaimError| {
        unreadable.push(UnreadableFact {
            field,
            claim: error.claim_at_fault().unwrap_or_default().to_owned(),
            detail: error.to_string(),
        });
    };
    let authenticated = time(claims, "auth_time").unwrap_or_else(|error| {
        keep("time", error);
        None
    });
    let acr = acr(claims).unwrap_or_else(|error| {
        keep("acr", error);
        None
    });
    let amr = list(claims, "amr").unwrap_or_else(|error| {
        keep("amr", error);
        Vec::new()
    });
    let scopes = scopes(claims).unwrap_or_else(|error| {
        keep("scopes", error);
        Vec::new()
    });
    Ok(AuthFacts {
        method: "bearer",
        time: if has_time(claims) {
            authenticated
        } else {
            time(claims, "iat")?
        },
        acr,
        amr,
        scopes,
        unreadable,
    })
}

/// True if the claims say when the caller logged in, readable or not.
pub(super) fn has_time(claims: &Map<String, Value>) -> bool {
    claims.get("auth_time").is_some_and(|time| !time.is_null())
}

/// `acr` is a string. Some issuers write a level as a number, which has one reading as a string.
fn acr(claims: &Map<String, Value>) -> Result<Option<String>, ClaimError> {
    match claims.get("acr") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(level)) if level.is_i64() || level.is_u64() => Ok(Some(level.to_string())),
        value => Ok(Some(name("acr", value, NAME_BYTES_MAX)?.to_owned())),
    }
}

/// A string or an array of strings, in order, without repetitions.
fn list(claims: &Map<String, Value>, claim: &str) -> Result<Vec<String>, ClaimError> {
    match claims.get(claim) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) => names(claim, values),
        Some(single) => names(claim, std::slice::from_ref(single)),
    }
}

/// `scope` (RFC 8693) or, without it, `scp`: a string of names with spaces between, or an array.
fn scopes(claims: &Map<String, Value>) -> Result<Vec<String>, ClaimError> {
    let present = |claim: &&str| claims.get(*claim).is_some_and(|value| !value.is_null());
    let Some(claim) = ["scope", "scp"].into_iter().find(present) else {
        return Ok(Vec::new());
    };
    match claims.get(claim) {
        Some(Value::String(text)) => {
            let parts: Vec<Value> = text.split(' ').filter(|part| !part.is_empty()).map(Value::from).collect();
            names(claim, &parts)
        }
        Some(Value::Array(values)) => names(claim, values),
        _ => Err(ClaimError::claim(claim, "is not a list of scopes")),
    }
}

fn names(claim: &str, values: &[Value]) -> Result<Vec<String>, ClaimError> {
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
