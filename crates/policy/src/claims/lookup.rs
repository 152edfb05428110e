//! The one look-up of a claim by its path.
//!
//! A path that runs through a value that is not an object is an error: if it counted as absent, a forbid that reads the
//! claim would silently not apply. For the same reason a claim that its issuer left out of the token and offers
//! elsewhere is an error (OpenID Connect Core 1.0, section 5.6.2): Entra ID does so when a user is in too many groups.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::ClaimError;
use crate::claim_path::{ClaimMapping, ClaimPath};
use crate::scope::{ClaimPaths, IssuerScope, Overage};

/// The claim that maps names of claims to sources outside the token.
const DISTRIBUTED: &str = "_claim_names";
/// Entra ID's short form of the same, for groups alone.
const HAS_GROUPS: &str = "hasgroups";
const GROUPS: &str = "groups";
const SOURCE: &str = ":src";

/// The claim at a path. `None`: absent.
pub fn at<'a>(claims: &'a Map<String, Value>, path: &ClaimPath) -> Result<Option<&'a Value>, ClaimError> {
    let segments = path.segments().iter().map(String::as_str);
    lookup(claims, path.whole_name(), segments, path.as_str())
}

/// The tenant of a session, read from its claims as for its issuer's tokens: for records, listings and revocations,
/// which name a session without deciding. A tenant of the wrong type counts as absent here; every portal refuses such
/// an identity.
pub fn tenant_of_session<'a>(claims: &'a Map<String, Value>, paths: &ClaimPaths) -> Option<&'a str> {
    at(claims, &paths.tenant).ok().flatten().and_then(Value::as_str)
}

/// Looks up a claim by its whole name, then by the segments of its path.
fn lookup<'a, 'p>(
    claims: &'a Map<String, Value>,
    whole_name: Option<&str>,
    segments: impl Iterator<Item = &'p str>,
    shown: &str,
) -> Result<Option<&'a Value>, ClaimError> {
    let mut segments = segments.peekable();
    let first = segments.peek().copied().unwrap_or_default();
    if is_elsewhere(claims, |name| name == first || whole_name == Some(name)) {
        return Err(ClaimError::Elsewhere { claim: shown.to_owned() });
    }
    if let Some(value) = whole_name.and_then(|name| claims.get(name)) {
        return Ok(Some(value));
    }
    let mut map = claims;
    let mut found = None;
    while let Some(segment) = segments.next() {
        found = map.get(segment);
        match found {
            None => return Ok(None),
            Some(Value::Object(inner)) => map = inner,
            Some(_) if segments.peek().is_some() => {
                return Err(ClaimError::claim(shown, "is looked up inside a value that is not an object"));
            }
            Some(_) => {}
        }
    }
    Ok(found)
}

/// The claim at a path that the issuer's configuration names.
pub fn of_issuer<'a>(
    issuer: &IssuerScope,
    claims: &'a Map<String, Value>,
    path: &ClaimPath,
) -> Result<Option<&'a Value>, ClaimError> {
    match (at(claims, path), issuer.overage) {
        (Err(ClaimError::Elsewhere { .. }), Overage::DangerIgnore) => Ok(None),
        (found, _) => found,
    }
}

impl ClaimMapping {
    /// The claim of a principal's attribute: the mapped one, else the claim of the attribute's own name.
    pub fn claim<'a>(&self, claims: &'a Map<String, Value>, attribute: &str) -> Result<Option<&'a Value>, ClaimError> {
        match self.get(attribute) {
            Some(path) => at(claims, path),
            None => lookup(claims, Some(attribute), attribute.split('.'), attribute),
        }
    }
}

/// Removes what says that claims are elsewhere, if the issuer's configuration says that such claims count as absent.
pub(super) fn forget_elsewhere(issuer: &IssuerScope, claims: &mut Arc<Map<String, Value>>) {
    let says_elsewhere = |name: &str| name == DISTRIBUTED || name == HAS_GROUPS || is_source_of_groups(name);
    if issuer.overage == Overage::DangerIgnore && claims.keys().any(|name| says_elsewhere(name)) {
        Arc::make_mut(claims).retain(|name, _| !says_elsewhere(name));
    }
}

/// True if the issuer left out of the token a claim that `is_read`.
fn is_elsewhere(claims: &Map<String, Value>, is_read: impl Fn(&str) -> bool) -> bool {
    let is_distributed = match claims.get(DISTRIBUTED) {
        None | Some(Value::Null) => false,
        Some(Value::Object(sources)) => sources.keys().any(|name| is_read(name)),
        // not readable, so it may name any claim
        Some(_) => true,
    };
    is_distributed
        || is_read(GROUPS)
            && (!matches!(claims.get(HAS_GROUPS), None | Some(Value::Null | Value::Bool(false)))
                || claims.keys().any(|name| is_source_of_groups(name)))
}

/// `groups:src1`: Entra ID's form of the same in older tokens.
fn is_source_of_groups(name: &str) -> bool {
    let number = name.strip_prefix(GROUPS).and_then(|rest| rest.strip_prefix(SOURCE));
    number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}
