//! The permit that came nearest to a query that no policy permits, for its record.
//!
//! It looks at scopes alone, so the answer is the same for all queries with the same scope key, and is remembered by
//! that key. A permit whose scope fits counts as one false clause away. `explain` looks at values as well. Finding it
//! costs as much as looking at every permit's scope: the gate does so after the answer.

use std::sync::Arc;

use cedar_policy::{Effect, EntityUid};

use super::explain::ScopePart;
use super::{Effects, Engine, MatchKey, PolicyEntry, PolicyInfo, QueryEntity, ScopeKey};

/// The distance of one false clause.
pub(crate) const CLAUSE_DISTANCE: usize = 2;

/// The scope key of a query.
pub struct NearestPermitKey(MatchKey);

/// The nearest permit, as far as it is known.
pub enum NearestPermit {
    /// `None`: there is no permit at all.
    Known(Option<Arc<PolicyInfo>>),
    /// To be found with `find_near`.
    Unknown(NearestPermitKey),
}

impl Engine {
    /// The remembered nearest permit.
    pub fn nearest_permit(&self, principal: &QueryEntity, action: &EntityUid, resource: &QueryEntity) -> NearestPermit {
        let undeclared;
        let action = match self.actions.get(action) {
            Some(key) => key,
            None => {
                undeclared = self.index.actions.key(action, []);
                &undeclared
            }
        };
        let sought = MatchKey {
            effects: Effects::Both,
            principal: &principal.key,
            action,
            resource: &resource.key,
        };
        match self.nearest_permits.get(&sought) {
            Some(known) => NearestPermit::Known(known),
            None => NearestPermit::Unknown(NearestPermitKey(MatchKey {
                effects: Effects::Both,
                principal: principal.key.clone(),
                action: action.clone(),
                resource: resource.key.clone(),
            })),
        }
    }

    /// Finds and remembers the nearest permit.
    pub fn find_near(&self, NearestPermitKey(key): NearestPermitKey) -> Option<Arc<PolicyInfo>> {
        let permits = self.policies.iter().filter(|policy| policy.info.effect == Effect::Permit);
        let nearest = permits.min_by_key(|policy| self.scope_distance(policy, &key));
        let nearest = nearest.map(|policy| Arc::clone(&policy.info));
        self.nearest_permits.insert(key, nearest.clone());
        nearest
    }

    fn scope_distance(&self, policy: &PolicyEntry, key: &MatchKey<ScopeKey>) -> usize {
        let fit = self.index.fit(policy.policy(), &key.principal, &key.action, &key.resource);
        let parts = [
            (fit.principal, ScopePart::Principal),
            (fit.action, ScopePart::Action),
            (fit.resource, ScopePart::Resource),
        ];
        let misfits = parts.into_iter().filter(|(fits, _)| !fits);
        match misfits.map(|(_, part)| part.distance()).sum() {
            0 => CLAUSE_DISTANCE,
            distance => distance,
        }
    }
}

#[cfg(test)]
mod tests {
    use cedar_policy::EntityUid;
    use serde_json::json;

    use super::*;
    use crate::claims::unsigned_identity;
    use crate::test_support::{portal, revision};

    const SCHEMA: &str = "entity Role; entity Tenant; entity Path; entity User in [Role, Tenant];
action GET, POST, DELETE appliesTo { principal: User, resource: Path, context: { path?: String } };";
    const POLICIES: &str = r#"
@id("readers") permit (principal in Role::"reader", action == Action::"GET", resource);
@id("writers") permit (principal in Role::"writer", action == Action::"POST", resource in Path::"/docs");
@id("hours") permit (principal in Role::"reader", action == Action::"POST", resource in Path::"/inbox") when { context has path && context.path == "/inbox/1" };
"#;

    fn nearest(action: &str, path: &str, roles: &[&str]) -> Option<String> {
        let (portal, revision) = (
            portal(),
            revision([("schemas/bench.cedarschema", SCHEMA), ("policies/bench/all.cedar", POLICIES)]),
        );
        let claims = json!({"sub": "a", "roles": roles, "realm_access": {"roles": roles}});
        let identity = unsigned_identity(&portal.issuers[0], claims.as_object().unwrap().clone()).unwrap();
        let principal = revision.principal(&portal, &identity).unwrap();
        let action: EntityUid = format!("Action::{action:?}").parse().unwrap();
        let resource = revision.rules.resource(format!("Path::{path:?}").parse().unwrap());
        let engine = &revision.rules.engine;
        let NearestPermit::Unknown(key) = engine.nearest_permit(&principal.entity, &action, &resource) else {
            panic!("nothing was asked before");
        };
        let found = engine.find_near(key);
        let NearestPermit::Known(again) = engine.nearest_permit(&principal.entity, &action, &resource) else {
            panic!("it was found before");
        };
        assert_eq!(
            found.as_ref().map(|policy| &policy.id),
            again.as_ref().map(|policy| &policy.id)
        );
        found.map(|policy| policy.id.to_string())
    }

    #[test]
    fn another_caller_is_nearer_than_another_resource_and_that_nearer_than_another_action() {
        assert_eq!(nearest("POST", "/docs/1", &["reader"]).as_deref(), Some("writers"), "a role");
        assert_eq!(
            nearest("POST", "/elsewhere", &["writer"]).as_deref(),
            Some("writers"),
            "a resource"
        );
        assert_eq!(nearest("GET", "/docs/1", &["guest"]).as_deref(), Some("readers"));
        assert_eq!(nearest("POST", "/inbox/2", &["reader"]).as_deref(), Some("hours"), "a clause");
        assert_eq!(
            nearest("DELETE", "/elsewhere", &["reader"]).as_deref(),
            Some("readers"),
            "an action"
        );
    }
}
