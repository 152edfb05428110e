//! An identity → the Cedar principal of one portal.
//!
//! The *schema* declares the attributes; claims and the stored entity fill them as the declared types. A required claim
//! that is missing, or a claim of another type, is an error. Runs once per token and revision; never looks at a
//! request.

use std::sync::Arc;

use cedar_policy::{EntityId, EntityTypeName, EntityUid};
use serde_json::{Map, Value as Json};

use crate::claim_path::ClaimPath;
use crate::denial::{Denial, Refusal, RefusedCredential};
use crate::engine::Ancestors;
use crate::engine::QueryEntity;
use crate::engine::entities::{ResolvedEntity, StoredEntity};
use crate::flags::{ExplainedFlag, FlagCaller};
use crate::revision::Revision;
use crate::rules::Rules;
use crate::schema::EntityModel;
use crate::scope::{ForeignSubject, PortalScope};
use crate::types::Identity;
use crate::value::{Value, value};

/// The principal of a caller.
#[derive(Debug)]
pub struct Principal {
    pub entity: QueryEntity,
    /// The portal's flags for this caller, as the context record.
    pub flags: Arc<Map<String, Json>>,
}

impl Revision {
    /// The Cedar principal that this revision makes of a portal's caller.
    pub fn principal(&self, portal: &PortalScope, identity: &Identity) -> Result<Principal, Refusal> {
        self.rules.principal(identity, &portal.subject(identity)?)
    }
}

impl Rules {
    /// The principal named `id` that an identity's roles, tenant and claims make.
    pub(crate) fn principal(&self, identity: &Identity, id: &str) -> Result<Principal, Refusal> {
        let ty = self.schema.resolve_type(&identity.principal_type).ok_or_else(|| {
            Refusal::new(
                Denial::NotPermitted,
                format!("the schema has no entity type `{}`", identity.principal_type),
            )
        })?;
        let uid = EntityUid::from_type_name_and_id(ty.clone(), EntityId::new(id));
        let stored = self.engine.store.get(&uid);
        let ancestors = self.principal_ancestors(identity, &ty, stored);
        let attrs = match self.schema.entity(&ty) {
            Some(model) => self.attributes(identity, model, stored)?,
            None => Vec::new(),
        };
        let key = self.engine.index().principals.key(&uid, &ancestors);
        let flags = self.caller_flags(identity, id, &ancestors);
        Ok(Principal {
            flags,
            entity: QueryEntity::resolved(ResolvedEntity::with(uid, attrs, ancestors), key),
        })
    }

    /// The flags of the principal `id`; roles count with those that contain them.
    fn caller_flags(&self, identity: &Identity, id: &str, ancestors: &[EntityUid]) -> Arc<Map<String, Json>> {
        if !self.flags.has_audiences() {
            return Arc::clone(&self.flags.anonymous);
        }
        self.as_flag_caller(identity, id, ancestors, |caller| self.flags.of(caller))
    }

    /// The flags of a caller, with the rule that gives each its value.
    pub(crate) fn explained_flags(&self, identity: &Identity, principal: &Principal) -> Vec<ExplainedFlag> {
        let resolved = principal.entity.entity(Ancestors::Read);
        let ancestors = resolved.map(|entity| entity.ancestors()).unwrap_or_default();
        let id = principal.entity.uid.id().unescaped();
        self.as_flag_caller(identity, id, &ancestors, |caller| self.flags.explained(Some(caller)))
    }

    fn as_flag_caller<T>(
        &self,
        identity: &Identity,
        id: &str,
        ancestors: &[EntityUid],
        read: impl FnOnce(&FlagCaller<'_>) -> T,
    ) -> T {
        let above = ancestors
            .iter()
            .filter(|uid| Some(uid.type_name()) == self.names.role.as_ref());
        let above = above.map(|uid| uid.id().unescaped());
        read(&FlagCaller {
            id,
            tenant: identity.tenant.as_deref(),
            roles: &above.chain(identity.roles.iter().map(String::as_str)).collect(),
        })
    }

    /// Roles and tenant of the credential, and the groups of the stored entity; with everything above them.
    fn principal_ancestors(&self, identity: &Identity, ty: &EntityTypeName, stored: Option<&StoredEntity>) -> Vec<EntityUid> {
        let may_be_in = |group: &Option<EntityTypeName>| {
            let group = group.as_ref()?;
            self.schema.entity(ty)?.member_of.contains(group).then(|| group.clone())
        };
        let mut direct = Vec::with_capacity(identity.roles.len() + 1);
        if let Some(role) = may_be_in(&self.names.role) {
            let uids = identity
                .roles
                .iter()
                .map(|r| EntityUid::from_type_name_and_id(role.clone(), EntityId::new(r)));
            direct.extend(uids);
        }
        if let (Some(ty), Some(tenant)) = (may_be_in(&self.names.tenant), &identity.tenant) {
            direct.push(EntityUid::from_type_name_and_id(ty, EntityId::new(tenant)));
        }
        direct.extend(stored.into_iter().flat_map(|s| s.ancestors.iter().cloned()));
        self.with_stored_ancestors(direct)
    }

    /// These entities and all that they are below, each once.
    pub fn with_stored_ancestors(&self, direct: Vec<EntityUid>) -> Vec<EntityUid> {
        self.engine.store.with_ancestors(direct, &self.names)
    }

    fn attributes(
        &self,
        identity: &Identity,
        model: &EntityModel,
        stored: Option<&StoredEntity>,
    ) -> Result<Vec<(String, Value)>, Refusal> {
        let mut attrs = Vec::with_capacity(model.attrs.fields.len());
        for (name, field) in &model.attrs.fields {
            let path = self.claims.get(name).map_or(name.as_str(), ClaimPath::as_str);
            let stored_attr = stored.and_then(|stored| stored.known.attr(name));
            let found = self.claims.claim(&identity.claims, name);
            let claimed = match found.map_err(|error| Refusal::from(error).of_credential(at_fault(path)))? {
                Some(claim) => Some(value(&field.ty, claim, path).map_err(|error| {
                    let detail = format!("claim {error}; the schema wants that for `{name}`");
                    claim_invalid(path, detail)
                })?),
                None => None,
            };
            match (claimed, stored_attr) {
                (Some(claimed), Some(stored_attr)) if claimed != *stored_attr => {
                    let detail = format!("claim `{path}` contradicts the stored attribute `{name}`");
                    return Err(claim_invalid(path, detail));
                }
                (Some(claimed), _) => attrs.push((name.clone(), claimed)),
                (None, Some(stored_attr)) => attrs.push((name.clone(), stored_attr.clone())),
                (None, None) if field.required => {
                    let detail = format!("claim `{path}` is missing; the schema requires `{name}`");
                    return Err(claim_invalid(path, detail));
                }
                (None, None) => {}
            }
        }
        Ok(attrs)
    }
}

impl From<ForeignSubject> for Refusal {
    fn from(error: ForeignSubject) -> Self {
        Self::new(Denial::ClaimInvalid, error.to_string())
    }
}

fn claim_invalid(path: &str, detail: String) -> Refusal {
    Refusal::new(Denial::ClaimInvalid, detail).of_credential(at_fault(path))
}

/// What a record shows of a credential that makes no principal.
fn at_fault(path: &str) -> RefusedCredential {
    RefusedCredential {
        check: "principal",
        claim: Some(path.to_owned()),
        ..RefusedCredential::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use crate::claims::unsigned_identity;
    use crate::denial::{Denial, Refusal};
    use crate::revision::Revision;
    use crate::test_support::{portal, revision};

    fn shop() -> Arc<Revision> {
        revision([
            (
                "schemas/bench.cedarschema",
                "entity User { mail?: String };\nentity Path;\naction GET appliesTo { principal: User, resource: Path };",
            ),
            ("policies/bench/portal.yaml", "claims: { mail: profile.mail }\n"),
            (
                "policies/bench/all.cedar",
                "@id(\"all\") permit (principal, action, resource);\n\
                 @id(\"evil\") forbid (principal, action, resource) when { principal has mail && principal.mail like \"*@evil.test\" };",
            ),
        ])
    }

    fn denial_of(profile: &serde_json::Value) -> Result<(), Denial> {
        let portal = portal();
        let claims = json!({"sub": "a", "profile": profile});
        let identity = unsigned_identity(&portal.issuers[0], claims.as_object().unwrap().clone()).unwrap();
        let principal = shop().principal(&portal, &identity);
        principal.map(drop).map_err(|refusal: Refusal| {
            let shown = refusal.credential.expect("a record shows the claim");
            assert_eq!((shown.check, shown.claim.as_deref()), ("principal", Some("profile.mail")));
            refusal.denial
        })
    }

    #[test]
    fn a_mapped_claim_inside_a_value_that_is_no_object_is_invalid_not_absent() {
        assert_eq!(denial_of(&json!({"mail": "a@acme.test"})), Ok(()));
        assert_eq!(denial_of(&json!({})), Ok(()), "an absent optional claim is absent");
        for wrong in [
            json!("x@evil.test"),
            json!(["x@evil.test"]),
            json!(7),
            json!(true),
            json!(null),
        ] {
            assert_eq!(denial_of(&wrong), Err(Denial::ClaimInvalid), "{wrong}");
        }
    }
}
