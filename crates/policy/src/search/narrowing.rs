//! Which candidates a permit can reach, by their memberships: what Cedar's partial evaluation leaves of each policy.
//!
//! One side of the question is known, the other one by its type alone. A permit that cannot hold is left out. For each
//! other permit this file knows memberships without which it does not hold: `resource in Folder::"a"`. A candidate that
//! lacks one for every permit is excluded.
//!
//! SECURITY: a wrong exclusion would hide a result and allow nothing. Any doubt keeps the candidate: the decision
//! follows.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use cedar_policy::{
    Effect, EntityId, EntityTypeName, EntityUid, PartialEntities, PartialEntityUid, PartialRequest, Policy, PrincipalConstraint,
    ResourceConstraint,
};
use serde_json::Value;

use super::{Search, Searched};
use crate::decision::QueryForm;
use crate::decision::named::{NamedParts, parts};
use crate::engine::entities::EntityStore;
use crate::engine::{Ancestors, PolicyEntry, QueryEntity};
use crate::error_chain::error_chain;
use crate::partial::rewrite::{KnownMemberships, Placeholder};
use crate::partial::{PartialOutcome, PartialQuery, demanded_memberships};

/// Id of an entity that stands in for the candidates; it is never decided about.
const STAND_IN: &str = "\u{0}any candidate";

/// The candidates that a permit can reach.
pub(super) struct Narrowing {
    permits: Vec<Memberships>,
    /// The entity on the other side. It is never excluded: a principal that acts on itself is one entity on both sides.
    other: EntityUid,
}

/// A list for each membership that a permit demands: the candidate is one of the list's entities, or below one.
type Memberships = Vec<Vec<EntityUid>>;

/// The question with the searched side open.
struct OpenQuestion<'a> {
    variable: &'static str,
    ty: &'a EntityTypeName,
    known: &'a QueryEntity,
    parts: &'a NamedParts,
}

impl Narrowing {
    pub fn admits(&self, store: &EntityStore, candidate: &EntityUid) -> bool {
        let is_within = |uid: &EntityUid| uid == candidate || store.ancestors(candidate).contains(uid);
        let holds = |permit: &Memberships| permit.iter().all(|list| list.iter().any(is_within));
        *candidate == self.other || self.permits.iter().any(holds)
    }
}

impl Search<'_> {
    /// `None`: every candidate must be decided.
    pub(super) fn narrowing(&self, ty: &EntityTypeName) -> Option<Narrowing> {
        let rules = &self.revision.rules;
        // a path is decided under the spelling that the portal reads, and its ancestors are not stored
        if rules.names.path.as_ref() == Some(ty) {
            return None;
        }
        let parts = self.ask(STAND_IN, |query| match &query.asked {
            QueryForm::Named(named) => parts(query, named).ok(),
            QueryForm::Http(_) => None,
        })?;
        let (variable, known) = match self.question.searched {
            Searched::Subject => ("principal", &parts.resource),
            Searched::Resource => ("resource", &parts.principal),
            Searched::Action => return None,
        };
        let question = OpenQuestion {
            variable,
            ty,
            known,
            parts: &parts,
        };
        let permits = self.permits(&question);
        // a permit without a demand reaches every candidate
        (!permits.iter().any(Vec::is_empty)).then(|| Narrowing {
            permits,
            other: known.uid.clone(),
        })
    }

    /// What each permit demands that could hold.
    fn permits(&self, question: &OpenQuestion<'_>) -> Vec<Memberships> {
        let rules = &self.revision.rules;
        let NamedParts {
            principal,
            action,
            resource,
            ..
        } = question.parts;
        if !rules
            .schema
            .applies(principal.uid.type_name(), action, resource.uid.type_name())
        {
            return Vec::new();
        }
        let covering: Vec<&PolicyEntry> = match question.variable {
            "principal" => rules
                .engine
                .covering_any_principal(action, resource)
                .map(AsRef::as_ref)
                .collect(),
            _ => {
                let covering = rules.engine.covering_any_resource(principal, action);
                covering.map(|(_, policy)| policy.as_ref()).collect()
            }
        };
        let mut by_scope = Vec::new();
        let mut conditional = Vec::new();
        for policy in covering {
            let Some(demands) = question.demands_of_scope(policy.policy()) else {
                continue;
            };
            let has_condition = policy.policy().has_non_scope_constraint();
            match (policy.info.effect, has_condition) {
                (Effect::Forbid, false) if demands.is_empty() => return Vec::new(),
                (Effect::Permit, true) => conditional.push((policy, demands)),
                (Effect::Permit, false) => by_scope.push(demands),
                (Effect::Forbid, _) => {}
            }
        }
        let further = conditional.split_off(conditional.len().min(self.work.evaluated));
        by_scope.extend(further.into_iter().map(|(_, demands)| demands));
        let outcomes = self.evaluate(question, &conditional);
        for ((_, demands), outcome) in conditional.into_iter().zip(outcomes) {
            match outcome {
                PartialOutcome::False | PartialOutcome::Fails => {}
                PartialOutcome::Depends(more) => by_scope.push([demands, more].concat()),
                PartialOutcome::True | PartialOutcome::Unknown(_) => by_scope.push(demands),
            }
        }
        by_scope
    }

    /// The outcome of each policy; of one that depends on the candidate, the memberships that it demands.
    fn evaluate(
        &self,
        question: &OpenQuestion<'_>,
        policies: &[(&PolicyEntry, Memberships)],
    ) -> Vec<PartialOutcome<Memberships>> {
        let schema = &self.revision.rules.schema;
        let request = match question.request(&schema.cedar) {
            Ok(request) => request,
            Err(why) => return vec![PartialOutcome::Unknown(why); policies.len()],
        };
        let entities = self.revision.rules.engine.with_neighbours(question.known);
        let entities = entities.map_err(|error| error.to_string());
        let entities =
            entities.and_then(|known| PartialEntities::from_concrete(known, &schema.cedar).map_err(|error| error_chain(&error)));
        let stand_in = EntityUid::from_type_name_and_id(question.ty.clone(), EntityId::new(STAND_IN));
        let described = self.described(question);
        let known = KnownMemberships {
            roles: &BTreeSet::new(),
            role_type: None,
            resource: &[],
            context: &BTreeMap::new(),
            stand_in: Some(Placeholder {
                variable: question.variable,
                uid: &stand_in,
                described: &described,
            }),
        };
        let json: Vec<Result<Value, String>> = policies
            .iter()
            .map(|(policy, _)| policy.policy().to_json().map_err(|error| error_chain(&error)))
            .collect();
        let json: Vec<Result<&Value, &String>> = json.iter().map(Result::as_ref).collect();
        let query = PartialQuery {
            schema,
            request: &request,
            entities: entities.as_ref().map_err(Clone::clone),
        };
        query.evaluate_known(&known, &json, &|remaining| {
            let mut demands = demanded_memberships(remaining, question.variable);
            // a comparison with the stand-in marks a doubt and demands nothing
            demands.retain(|list| !list.contains(&stand_in));
            Some(demands)
        })
    }

    /// The variables that have what the schema requires: an entity that nothing describes has no attributes.
    fn described(&self, question: &OpenQuestion<'_>) -> Vec<&'static str> {
        let known = question.known;
        let is_described = known.entity(Ancestors::Read).is_some() || self.revision.rules.engine.store.get(&known.uid).is_some();
        let of_known = match question.variable {
            "principal" => "resource",
            _ => "principal",
        };
        // a stored path may lack attributes: its entity is made of its id
        let is_path = self.revision.rules.is_path(&known.uid);
        ["context"]
            .into_iter()
            .chain((is_described && !is_path).then_some(of_known))
            .collect()
    }
}

impl OpenQuestion<'_> {
    fn request(&self, schema: &cedar_policy::Schema) -> Result<PartialRequest, String> {
        let NamedParts {
            principal,
            action,
            resource,
            context,
        } = self.parts;
        let open = || PartialEntityUid::new(self.ty.clone(), None);
        let known = |entity: &QueryEntity| PartialEntityUid::from_concrete(entity.uid.clone());
        let (principal, resource) = match self.variable {
            "principal" => (open(), known(resource)),
            _ => (known(principal), open()),
        };
        let context = Some(context.clone());
        PartialRequest::new(principal, action.clone(), resource, context, schema).map_err(|error| error_chain(&error))
    }

    /// What a policy's scope demands of the candidate; `None` if it fits no entity of the type.
    fn demands_of_scope(&self, policy: &Policy) -> Option<Memberships> {
        let fits = |ty: &EntityTypeName| ty == self.ty;
        let (is_of_type, within) = match self.variable {
            "principal" => match policy.principal_constraint() {
                PrincipalConstraint::Any => (true, None),
                PrincipalConstraint::Is(ty) => (fits(&ty), None),
                PrincipalConstraint::IsIn(ty, uid) => (fits(&ty), Some(uid)),
                PrincipalConstraint::In(uid) => (true, Some(uid)),
                PrincipalConstraint::Eq(uid) => (fits(uid.type_name()), Some(uid)),
            },
            _ => match policy.resource_constraint() {
                ResourceConstraint::Any => (true, None),
                ResourceConstraint::Is(ty) => (fits(&ty), None),
                ResourceConstraint::IsIn(ty, uid) => (fits(&ty), Some(uid)),
                ResourceConstraint::In(uid) => (true, Some(uid)),
                ResourceConstraint::Eq(uid) => (fits(uid.type_name()), Some(uid)),
            },
        };
        is_of_type.then(|| within.into_iter().map(|uid| vec![uid]).collect())
    }
}
