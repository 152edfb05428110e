//! The roles that claims assert.

use rustc_hash::FxHashSet;
use serde_json::{Map, Value};

use super::ClaimError;
use super::lookup::of_issuer;
use crate::scope::{IssuerScope, RoleClaim, RoleForm};

/// The roles of all the issuer's role claims, in order, each once; an error if the issuer may not assert one of them.
pub fn roles(issuer: &IssuerScope, claims: &Map<String, Value>) -> Result<Vec<String>, ClaimError> {
    let mut found = FoundRoles {
        issuer,
        seen: FxHashSet::default(),
        roles: Vec::new(),
    };
    for claim in &issuer.claims.roles {
        if let Some(value) = of_issuer(issuer, claims, &claim.path)? {
            found.add_claim(claim, value)?;
        }
    }
    Ok(found.roles)
}

struct FoundRoles<'a> {
    issuer: &'a IssuerScope,
    seen: FxHashSet<&'a str>,
    roles: Vec<String>,
}

impl<'a> FoundRoles<'a> {
    fn add_claim(&mut self, claim: &RoleClaim, value: &'a Value) -> Result<(), ClaimError> {
        let path = claim.path.as_str();
        match (&claim.form, value) {
            (RoleForm::Keys, Value::Object(members)) => {
                // a member that is `false` or `null` says that the caller does not have the role
                let held = members
                    .iter()
                    .filter(|(_, value)| !matches!(value, Value::Null | Value::Bool(false)));
                held.into_iter().try_for_each(|(role, _)| self.add(path, role))
            }
            (RoleForm::Keys, _) => Err(ClaimError::claim(
                path,
                "is not an object, and its keys would be the roles (issuers[].claims.roles, `take: keys`)",
            )),
            (RoleForm::Values | RoleForm::Split(_), Value::Array(values)) => {
                values.iter().try_for_each(|value| self.add_value(claim, value))
            }
            (RoleForm::Values | RoleForm::Split(_), Value::Object(_)) => Err(ClaimError::claim(
                path,
                "is an object; if its keys are the roles, say `take: keys` (issuers[].claims.roles)",
            )),
            (RoleForm::Values | RoleForm::Split(_), single) => self.add_value(claim, single),
        }
    }

    fn add_value(&mut self, claim: &RoleClaim, value: &'a Value) -> Result<(), ClaimError> {
        let path = claim.path.as_str();
        let Some(text) = value.as_str() else {
            return Err(ClaimError::claim(path, "is neither a string nor a list of strings"));
        };
        match &claim.form {
            RoleForm::Split(separator) => text
                .split(separator.as_str())
                .try_for_each(|part| self.add(path, part.trim())),
            RoleForm::Values | RoleForm::Keys => self.add(path, text),
        }
    }

    /// Adds one role. An empty one names nothing and is left out.
    fn add(&mut self, path: &str, role: &'a str) -> Result<(), ClaimError> {
        if role.is_empty() || self.seen.contains(role) {
            return Ok(());
        }
        let limits = self.issuer.role_limits;
        if role.len() > limits.bytes {
            let why = format!("has a role of more than {} bytes (limits.role_bytes)", limits.bytes);
            return Err(ClaimError::claim(path, why));
        }
        if self.roles.len() == limits.count {
            let why = format!("brings more than {} roles (limits.roles)", limits.count);
            return Err(ClaimError::claim(path, why));
        }
        let role = self.checked(path, role)?;
        self.seen.insert(role);
        self.roles.push(role.to_owned());
        Ok(())
    }

    fn checked(&self, path: &str, role: &'a str) -> Result<&'a str, ClaimError> {
        if role.chars().any(char::is_control) {
            return Err(ClaimError::claim(path, "holds a control character"));
        }
        let allowed = self.issuer.roles.as_ref();
        if allowed.is_some_and(|allowed| !allowed.iter().any(|known| known == role)) {
            let why = "names a role the issuer may not assert (issuers[].roles)";
            return Err(ClaimError::claim(path, why));
        }
        Ok(role)
    }
}
