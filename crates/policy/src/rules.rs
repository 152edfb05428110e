//! One portal's rules: schema, policies and entities, and the entities that a query names.
//!
//! Only `decision` evaluates queries with them. Pure: no I/O, no clock.

use std::sync::Arc;

use cedar_policy::{EntityId, EntityTypeName, EntityUid};

use crate::claim_path::ClaimMapping;
use crate::context::ContextPlans;
use crate::denial::{Denial, Refusal};
use crate::engine::entities::ResolvedEntity;
use crate::engine::entities::SuppliedEntities;
use crate::engine::{Ancestors, ContextSource, Effects, Engine, EntityQuery, Evaluation, QueryEntity};
use crate::flags::Flags;
use crate::portal::path::ancestors_of;
use crate::schema::SchemaModel;
use crate::schema::TypeNames;

/// A portal's policies, schema and entities, ready to evaluate queries.
pub struct Rules {
    pub schema: Arc<SchemaModel>,
    pub engine: Engine,
    pub plans: Arc<ContextPlans>,
    pub names: Arc<TypeNames>,
    /// Principal attribute <- claim, from `portal.yaml`.
    pub claims: ClaimMapping,
    pub flags: Flags,
}

/// Sees every evaluation of a decision. Requests have none: only an explanation does.
pub(crate) trait Observer {
    fn evaluated(&self, engine: &Engine, query: &EntityQuery<'_>, evaluation: &Evaluation);
}

impl Rules {
    /// Evaluates all policies. `Err` if the schema does not let this principal do this action on this resource.
    pub(crate) fn evaluate(
        &self,
        principal: &QueryEntity,
        action: &EntityUid,
        resource: &QueryEntity,
        supplied: &SuppliedEntities,
        context: &dyn ContextSource,
        observer: Option<&dyn Observer>,
    ) -> Result<Evaluation, Refusal> {
        let principal_type = principal.uid.type_name();
        let resource_type = resource.uid.type_name();
        if !self.schema.applies(principal_type, action, resource_type) {
            let detail = format!("the schema does not let a `{principal_type}` do `{action}` on a `{resource_type}`");
            return Err(Refusal::new(Denial::NotPermitted, detail));
        }
        let own = (principal.uid == resource.uid).then(|| self.as_resource(principal)).flatten();
        let query = EntityQuery {
            principal,
            action,
            resource: own.as_ref().unwrap_or(resource),
            context,
            supplied,
            effects: Effects::Both,
        };
        Ok(self.decide(&query, observer))
    }

    /// Evaluates only the policies that could forbid.
    pub(crate) fn evaluate_forbids(
        &self,
        principal: &QueryEntity,
        action: &EntityUid,
        resource: &QueryEntity,
        context: &dyn ContextSource,
        observer: Option<&dyn Observer>,
    ) -> Evaluation {
        let query = EntityQuery {
            principal,
            action,
            resource,
            context,
            supplied: &SuppliedEntities::default(),
            effects: Effects::Forbids,
        };
        self.decide(&query, observer)
    }

    fn decide(&self, query: &EntityQuery<'_>, observer: Option<&dyn Observer>) -> Evaluation {
        let evaluation = self.engine.decide(query);
        if let Some(observer) = observer {
            observer.evaluated(&self.engine, query, &evaluation);
        }
        evaluation
    }

    /// A caller without a credential: an entity without attributes and ancestors, of each type that principals have.
    /// Subjects are never empty, so its id is no caller's.
    pub(crate) fn anonymous(&self) -> Vec<QueryEntity> {
        let keys = &self.engine.index().principals;
        let entity = |ty: &EntityTypeName| {
            let uid = EntityUid::from_type_name_and_id(ty.clone(), EntityId::new(""));
            let key = keys.key(&uid, []);
            QueryEntity::resolved(ResolvedEntity::without_attributes(uid, []), key)
        };
        self.schema.principal_types().iter().map(entity).collect()
    }

    /// A principal that acts on itself is one entity: its ancestors count on both sides.
    fn as_resource(&self, principal: &QueryEntity) -> Option<QueryEntity> {
        let resolved = principal.entity(Ancestors::Read)?;
        let key = self.engine.index().resources.key(&principal.uid, &resolved.ancestors());
        Some(QueryEntity::resolved(resolved, key))
    }

    /// A resource by name. A path gets its ancestors from its id; every other resource is the store's entity of that
    /// name.
    pub fn resource(&self, uid: EntityUid) -> QueryEntity {
        let keys = &self.engine.index().resources;
        if !self.is_path(&uid) {
            let key = keys.key(&uid, self.engine.store.ancestors(&uid));
            return QueryEntity::stored(uid, key);
        }
        let stored = self.engine.store.get(&uid);
        if stored.is_none() && !self.may_have_stored_ancestors() {
            let key = keys.key_among(&uid, ancestors_of(uid.id().unescaped()), &self.names.portal);
            return QueryEntity::path(uid, key, Arc::clone(&self.names));
        }
        let ancestors = self.path_ancestors(&uid);
        let key = keys.key(&uid, &ancestors);
        match stored {
            Some(stored) => QueryEntity::resolved(stored.known.below(ancestors), key),
            None => QueryEntity::resolved(ResolvedEntity::without_attributes(uid, ancestors), key),
        }
    }

    /// True if an entity is a path of the HTTP tree.
    pub(crate) fn is_path(&self, uid: &EntityUid) -> bool {
        self.names.is_path(uid)
    }

    /// Every parent path up to `/`, the portal, and every stored ancestor of any of them.
    pub fn path_ancestors(&self, uid: &EntityUid) -> Vec<EntityUid> {
        match self.may_have_stored_ancestors() {
            true => self.engine.path_ancestors(uid),
            false => self.names.parents_of_path(uid),
        }
    }

    /// True if the store may hold ancestors of a path or of the portal.
    fn may_have_stored_ancestors(&self) -> bool {
        let portal = self.names.portal.as_ref().map(EntityUid::type_name);
        let mut types = self.names.path.iter().chain(portal);
        types.any(|ty| self.engine.store.has_ancestors(ty))
    }
}
