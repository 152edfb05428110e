//! An identity → the Cedar principal of one portal.
//!
//! Attributes are what the *schema* declares, filled from claims as the declared types; a claim that is missing or of
//! another type refuses. Runs once per token and revision; never looks at a request.

use std::collections::{HashMap, HashSet};

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, EvalResult, RestrictedExpression};

use super::Rules;
use super::engine::Party;
use super::entities::{Known, StoredEntity};
use super::schema::EntityModel;
use super::value::expression;
use crate::denial::{Denial, Refusal};
use crate::types::Identity;

/// The principal, and what headers and records say of it.
#[derive(Debug)]
pub struct Principal {
    pub party: Party,
}

impl Rules {
    /// `prefix` goes before the subject where a portal trusts several issuers.
    pub fn principal(&self, identity: &Identity, prefix: &str) -> Result<Principal, Refusal> {
        let ty = self.schema.resolve_type(&identity.principal_type).ok_or_else(|| {
            Refusal::new(
                Denial::NotPermitted,
                format!("the schema has no entity type `{}`", identity.principal_type),
            )
        })?;
        let id = EntityId::new(format!("{prefix}{}", identity.subject));
        let uid = EntityUid::from_type_name_and_id(ty.clone(), id);
        let stored = self.engine.store.get(&uid);
        let ancestors = self.principal_ancestors(identity, &ty, stored);
        let attrs = match self.schema.entity(&ty) {
            Some(model) => self.attributes(identity, model, stored)?.into_iter().collect(),
            None => HashMap::new(),
        };
        let parents: HashSet<EntityUid> = ancestors.iter().cloned().collect();
        let entity = Entity::new(uid.clone(), attrs, parents)
            .map_err(|e| Refusal::new(Denial::ClaimInvalid, format!("attributes of `{uid}`: {e}")))?;
        let key = self.engine.index().principals.key(&uid, &ancestors);
        Ok(Principal {
            party: Party::known(Known::new(&entity), key),
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

    /// These and everything the store says is above them, each once.
    pub fn with_stored_ancestors(&self, direct: Vec<EntityUid>) -> Vec<EntityUid> {
        let above: Vec<EntityUid> = direct
            .iter()
            .flat_map(|uid| self.engine.store.ancestors(uid))
            .cloned()
            .collect();
        let mut all = direct;
        all.extend(above);
        all.sort();
        all.dedup();
        all
    }

    fn attributes(
        &self,
        identity: &Identity,
        model: &EntityModel,
        stored: Option<&StoredEntity>,
    ) -> Result<Vec<(String, RestrictedExpression)>, Refusal> {
        let mut attrs = Vec::with_capacity(model.attrs.fields.len());
        let stored = stored.map(|stored| stored.known.entity());
        for (name, field) in &model.attrs.fields {
            let path = self.claims.get(name).map_or(name.as_str(), String::as_str);
            let kept = stored.as_ref().and_then(|s| s.attr(name)).and_then(Result::ok);
            let value = match claim(&identity.claims, path) {
                Some(claim) => Some(expression(&field.ty, claim, path).map_err(|e| claim_invalid(e.to_string()))?),
                None => None,
            };
            match (value, kept) {
                (Some(value), Some(kept)) if !same(&value, &kept) => {
                    return Err(claim_invalid(format!(
                        "claim `{path}` contradicts the stored attribute `{name}`"
                    )));
                }
                (Some(value), _) => attrs.push((name.clone(), value)),
                (None, Some(_)) => attrs.extend(stored.as_ref().and_then(|s| stored_attr(s, name))),
                (None, None) if field.required => {
                    return Err(claim_invalid(format!(
                        "claim `{path}` is missing; the schema requires `{name}`"
                    )));
                }
                (None, None) => {}
            }
        }
        Ok(attrs)
    }
}

fn claim_invalid(detail: String) -> Refusal {
    Refusal::new(Denial::ClaimInvalid, detail)
}

/// A claim by its name, or by a dotted path where no claim has the whole name.
pub fn claim<'a>(claims: &'a serde_json::Map<String, serde_json::Value>, path: &str) -> Option<&'a serde_json::Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let mut steps = path.split('.');
    let first = claims.get(steps.next()?)?;
    steps.try_fold(first, |value, step| value.as_object()?.get(step))
}

fn same(value: &RestrictedExpression, kept: &EvalResult) -> bool {
    let context = cedar_policy::Context::from_pairs([("value".to_owned(), value.clone())]);
    context.ok().and_then(|c| c.get("value")).is_some_and(|v| v == *kept)
}

fn stored_attr(stored: &Entity, name: &str) -> Option<(String, RestrictedExpression)> {
    let (_, attrs, _) = stored.clone().into_inner();
    attrs.into_iter().find(|(k, _)| k == name)
}
