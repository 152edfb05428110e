//! The identities that an issuer's credentials give: claims, principal type, and the bounds of subjects, tenants and
//! roles. The same keys for `issuers` and `client_certificates`.

use std::str::FromStr as _;
use std::sync::Arc;

use cedar_policy::EntityTypeName;
use cedargate_policy::claim_path::ClaimPath;
use cedargate_policy::scope::{ClaimPaths, IssuerScope, RoleClaim, RoleForm, RoleLimits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::check::Checker;

/// The keys of an issuer about the identities of its credentials.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
pub struct RawIdentityRules {
    /// Paths of the claims that hold subject, tenant and roles.
    #[serde(default)]
    pub claims: RawClaims,
    /// Cedar entity type of its principals.
    #[serde(default = "principal")]
    pub principal: String,
    /// Put before every subject. Absent: `<name>|` where a portal trusts several issuers, else nothing.
    #[serde(default)]
    pub subject_prefix: Option<String>,
    /// Tenants it may assert. Absent: any.
    #[serde(default)]
    pub tenants: Option<Vec<String>>,
    /// Roles it may assert. Absent: any.
    #[serde(default)]
    pub roles: Option<Vec<String>>,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawClaims {
    /// The subject.
    pub subject: String,
    /// The principal's tenant.
    pub tenant: String,
    /// The principal's roles: a path, a mapping with `claim`, or a list of both.
    pub roles: RawRoleClaims,
}

/// One claim that holds roles, or several whose roles are joined.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RawRoleClaims {
    One(RawRoleClaim),
    Several(Vec<RawRoleClaim>),
}

/// A claim that holds roles: its path alone, or how the roles are read from it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RawRoleClaim {
    Path(String),
    Mapping(RawRoleMapping),
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawRoleMapping {
    /// Path of the claim.
    #[schemars(required)]
    pub claim: Option<String>,
    /// `values`: the strings of the claim. `keys`: the names of its members.
    #[serde(default)]
    pub take: RolePart,
    /// Text between the roles of one string, such as `,` or a space. Absent: each string is one role.
    #[serde(default)]
    pub split: Option<String>,
}

/// The part of a claim that names roles.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum RolePart {
    #[default]
    Values,
    Keys,
}

impl Default for RawClaims {
    fn default() -> Self {
        Self {
            subject: "sub".to_owned(),
            tenant: "tenant".to_owned(),
            roles: RawRoleClaims::One(RawRoleClaim::Path("roles".to_owned())),
        }
    }
}

fn principal() -> String {
    "User".to_owned()
}

impl RawIdentityRules {
    /// The scope of an issuer with these rules; every other field comes from `base`.
    pub fn scope(&self, base: IssuerScope, claims: ClaimPaths, role_limits: RoleLimits) -> IssuerScope {
        IssuerScope {
            claims,
            role_limits,
            principal: Arc::from(self.principal.as_str()),
            subject_prefix: self.subject_prefix.clone(),
            tenants: self.tenants.clone(),
            roles: self.roles.clone(),
            ..base
        }
    }
}

impl Checker<'_> {
    /// Checks the rules of the issuer at `section`.
    pub fn identity_rules(&mut self, section: &str, raw: &RawIdentityRules) -> Option<ClaimPaths> {
        self.principal(&format!("{section}.principal"), &raw.principal);
        self.claim_paths(&format!("{section}.claims"), &raw.claims)
    }

    fn principal(&mut self, key: &str, name: &str) {
        if !EntityTypeName::from_str(name).is_ok_and(|parsed| parsed.to_string() == name) {
            self.error(
                key,
                format!("`{name}` is not a Cedar entity type; write a name such as `User` or `Shop::Service`"),
            );
        }
    }

    pub fn claim_path(&mut self, key: &str, text: &str) -> Option<ClaimPath> {
        self.not_blank(key, text);
        let path = ClaimPath::parse(text);
        path.map_err(|error| self.error(key, format!("`{text}` {error}"))).ok()
    }

    fn claim_paths(&mut self, section: &str, raw: &RawClaims) -> Option<ClaimPaths> {
        let subject = self.claim_path(&format!("{section}.subject"), &raw.subject);
        let tenant = self.claim_path(&format!("{section}.tenant"), &raw.tenant);
        let key = format!("{section}.roles");
        let roles = match &raw.roles {
            RawRoleClaims::One(claim) => self.role_claim(&key, claim).map(|claim| vec![claim]),
            RawRoleClaims::Several(claims) => {
                let each = claims.iter().enumerate();
                let checked: Vec<_> = each
                    .map(|(n, claim)| self.role_claim(&format!("{key}[{n}]"), claim))
                    .collect();
                checked.into_iter().collect()
            }
        };
        Some(ClaimPaths {
            subject: subject?,
            tenant: tenant?,
            roles: roles?,
        })
    }

    fn role_claim(&mut self, key: &str, raw: &RawRoleClaim) -> Option<RoleClaim> {
        let mapping = match raw {
            RawRoleClaim::Path(path) => return self.claim_path(key, path).map(RoleClaim::values),
            RawRoleClaim::Mapping(mapping) => mapping,
        };
        let split = format!("{key}.split");
        if mapping.split.as_deref().is_some_and(str::is_empty) {
            self.error(&split, "is empty; write the text between two roles, or remove the key");
        }
        let form = match (mapping.take, &mapping.split) {
            (RolePart::Values, None) => RoleForm::Values,
            (RolePart::Values, Some(separator)) => RoleForm::Split(separator.clone()),
            (RolePart::Keys, None) => RoleForm::Keys,
            (RolePart::Keys, Some(_)) => {
                self.error(
                    &split,
                    "has no meaning with `take: keys`: each key is one role; remove one of the two",
                );
                RoleForm::Keys
            }
        };
        let path = self.claim_path(&format!("{key}.claim"), mapping.claim.as_deref()?)?;
        Some(RoleClaim { path, form })
    }
}
