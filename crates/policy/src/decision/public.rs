//! Public paths: they need no identity and no permit, but every forbid holds.
//!
//! A request on a public path has several readings: its method on its path, its method on the other spelling of the
//! path, the action and resource of its route, and all of these with the method whose entry it borrows. A forbid that
//! holds for one of them closes the path for this request. A caller without a credential is a principal without a name,
//! attributes and ancestors, once of each type that the schema has for principals. An emergency forbid whose scope
//! covers every principal closes the path for every caller, and its conditions are not asked.

use std::str::FromStr;
use std::sync::Arc;

use cedar_policy::{EntityId, EntityTypeName, EntityUid};

use super::http::{BorrowedContext, ForbidQuery, GivenFacts, HttpQuery, evaluate_forbids};
use super::{Caller, DecisionContext, Details, Query, Target};
use crate::context::{ContextPlan, RecordedContext};
use crate::denial::Refusal;
use crate::engine::{Evaluation, PolicyInfo};
use crate::portal::PATH_TYPE;
use crate::portal::path::rules::PathReading;
use crate::portal::route::lender;
use crate::revision::Revision;

/// A request that matches an entry of `public`.
pub(super) struct PublicRequest<'a> {
    pub query: &'a Query<'a>,
    pub http: &'a HttpQuery<'a>,
    pub path: &'a PathReading<'a>,
    /// The method of the entry.
    pub entry_method: &'a str,
}

/// The emergency forbid that closes the path for every caller. `entry_method` is the method of the entry that makes it
/// public.
pub(super) fn closed_by(
    revision: &Revision,
    method: &str,
    path: &PathReading<'_>,
    entry_method: Option<&str>,
) -> Option<Arc<PolicyInfo>> {
    if revision.emergency_forbids.entries.is_empty() {
        return None;
    }
    let readings = readings(revision, method, path, entry_method);
    readings
        .iter()
        .find_map(|reading| revision.closed_by(&reading.action, &reading.resource))
}

/// The evaluation that denies this caller; `None` if no forbid holds.
pub(super) fn evaluate(
    request: &PublicRequest<'_>,
    caller: Caller<'_>,
    tenant: Option<&str>,
    details: &mut Details<'_>,
) -> Result<Option<Evaluation>, Refusal> {
    let PublicRequest {
        query,
        http,
        path,
        entry_method,
    } = *request;
    let rules = &query.revision.rules;
    if !rules.engine.has_forbids() {
        return Ok(None);
    }
    let anonymous;
    let principals = match caller {
        Caller::Proven { principal, .. } => std::slice::from_ref(&principal.entity),
        Caller::Anonymous => {
            anonymous = rules.anonymous();
            anonymous.as_slice()
        }
    };
    let given = GivenFacts::of(query, http)?;
    let facts = given.facts(query, http, path, caller, tenant);
    let no_plan = Arc::<ContextPlan>::default();
    for reading in readings(query.revision, http.method, path, Some(entry_method)) {
        let plan = rules.plans.get(&reading.action).unwrap_or(&no_plan);
        let of_request = BorrowedContext {
            plan,
            facts: &facts,
            given: http.context,
        };
        for principal in principals {
            let forbids = evaluate_forbids(rules, principal, &reading, &of_request, details.observer)?;
            if forbids.is_forbidden() {
                let context = RecordedContext::new(plan, &facts).ok();
                details.context = context.map(|context| DecisionContext::Facts(Box::new(context)));
                details.target = Some(Target {
                    action: reading.action,
                    resource: reading.resource,
                    route: None,
                });
                return Ok(Some(forbids));
            }
        }
    }
    Ok(None)
}

/// Every reading of a request on a public path.
fn readings<'a>(
    revision: &Revision,
    method: &'a str,
    path: &PathReading<'_>,
    entry_method: Option<&str>,
) -> Vec<ForbidQuery<'a>> {
    let rules = &revision.rules;
    let routes = &revision.file.routes;
    let route = routes.find(method, path);
    let is_borrowed =
        |lender: &&str| entry_method == Some(*lender) || route.as_ref().is_some_and(|found| found.route.method == **lender);
    let methods = std::iter::once(method).chain(lender(method).filter(is_borrowed));
    // without the type, a policy without a resource constraint still counts
    let path_type = rules.names.path.clone().or_else(|| EntityTypeName::from_str(PATH_TYPE).ok());
    let mut readings = Vec::new();
    for method in methods {
        let mut push = |action: &EntityUid, ty: &EntityTypeName, id: &str| {
            readings.push(ForbidQuery {
                method,
                action: action.clone(),
                resource: rules.resource(EntityUid::from_type_name_and_id(ty.clone(), EntityId::new(id))),
            });
        };
        if let Some((ty, action)) = path_type.as_ref().zip(rules.schema.method_action(method)) {
            path.ids().for_each(|id| push(&action, ty, id));
        }
        let Some(found) = routes.find(method, path) else { continue };
        let action = rules.schema.resolve_action(&found.route.action);
        if let Some((action, ty)) = action.zip(rules.schema.resolve_type(&found.route.resource_type)) {
            push(&action, &ty, &found.resource_id);
            found.folded_id.iter().for_each(|id| push(&action, &ty, id));
        }
    }
    readings
}
