//! The query of an HTTP request: route and path → action and resource → context → policies.
//!
//! For a routed request, and for a path with a second spelling, the forbids of the plain path query are evaluated as
//! well. So a route, which maps a path to a resource of the domain, never bypasses a forbid on the path. A HEAD that
//! borrows GET's route must survive the forbids of the GET, too.

use std::net::IpAddr;

use cedar_policy::{Context, EntityId, EntityUid};
use http::HeaderMap;
use serde_json::{Map, Value};

use super::named::read_context;
use super::{Caller, DecisionContext, Details, Query, Target};
use crate::context::{ContextFacts, ContextPlan, HttpFacts, ProxyContext, ReadyContext, RecordedContext};
use crate::denial::{Denial, Refusal};
use crate::engine::dependencies::ContextDependencies;
use crate::engine::entities::SuppliedEntities;
use crate::engine::{ContextSource, Evaluation, QueryEntity};
use crate::portal::PATH_TYPE;
use crate::portal::path::CanonicalPath;
use crate::portal::path::rules::PathReading;
use crate::portal::route::lender;
use crate::revision::Revision;
use crate::rules::{Observer, Rules};
use crate::types::Scheme;

/// One request, as far as policies may see it.
pub struct HttpQuery<'a> {
    /// Verbatim.
    pub method: &'a str,
    /// The path that is decided on and forwarded.
    pub path: &'a CanonicalPath,
    /// Lower case, without port.
    pub host: &'a str,
    /// The scheme by which the client reached the first trusted hop.
    pub scheme: Scheme,
    /// The rightmost address that no trusted proxy vouches for.
    pub source_ip: IpAddr,
    /// The raw query string.
    pub query: Option<&'a str>,
    /// `None`: the door did not keep them; then a revision whose policies read headers denies.
    pub headers: Option<&'a HeaderMap>,
    /// Context fields that replace the gate's own. Decision tests alone give them.
    pub context: Option<&'a Map<String, Value>>,
}

/// The action and resource of a request, and the further queries whose forbids count too.
struct Located<'a> {
    target: Target,
    forbid_queries: Vec<ForbidQuery<'a>>,
}

/// A reading of a request of which only the forbids count.
pub(super) struct ForbidQuery<'a> {
    /// The request's method, or the one that lends it a route.
    pub method: &'a str,
    pub action: EntityUid,
    pub resource: QueryEntity,
}

/// The context of one evaluation.
enum HttpContext<'a> {
    Facts(ProxyContext<'a>),
    /// A context that a decision test gives, and the fields of it that no request has.
    Given(ReadyContext, &'a [String]),
}

pub(super) fn evaluate(
    query: &Query<'_>,
    http: &HttpQuery<'_>,
    path: &PathReading<'_>,
    caller: Caller<'_>,
    tenant: Option<&str>,
    details: &mut Details<'_>,
) -> Result<Evaluation, Refusal> {
    let Caller::Proven { principal, .. } = caller else {
        return Err(Denial::TokenMissing.into());
    };
    let revision = query.revision;
    let plans = &revision.rules.plans;
    let given = GivenFacts::of(query, http)?;
    let located = locate(revision, http.method, path)?;
    let facts = given.facts(query, http, path, caller, tenant);
    let evaluation = evaluate_located(
        &revision.rules,
        &principal.entity,
        &located,
        &facts,
        http.context,
        details.observer,
    );
    let plan = plans.get(&located.target.action);
    let context = plan.and_then(|plan| RecordedContext::new(plan, &facts).ok());
    details.context = context.map(|context| DecisionContext::Facts(Box::new(context)));
    details.target = Some(located.target);
    evaluation
}

/// The facts whose names the client chooses, as far as policies read them.
pub(super) struct GivenFacts<'a> {
    pairs: Vec<(String, String)>,
    beside_semicolons: Vec<String>,
    headers: Option<&'a HeaderMap>,
    no_headers: HeaderMap,
}

impl<'a> GivenFacts<'a> {
    pub(super) fn of(query: &Query<'_>, http: &HttpQuery<'a>) -> Result<Self, Refusal> {
        let plans = &query.revision.rules.plans;
        if http.headers.is_none() && plans.reads_headers() {
            let detail = "the policies read headers, and the headers of this request were not stored";
            return Err(Refusal::new(Denial::EvaluationError, detail));
        }
        let query_text = http.query.filter(|_| plans.reads_query()).unwrap_or_default();
        Ok(Self {
            pairs: query_pairs(query_text),
            beside_semicolons: names_beside_semicolons(query_text),
            headers: http.headers,
            no_headers: HeaderMap::new(),
        })
    }

    pub(super) fn facts<'f>(
        &'f self,
        query: &'f Query<'_>,
        http: &'f HttpQuery<'_>,
        path: &'f PathReading<'_>,
        caller: Caller<'f>,
        tenant: Option<&'f str>,
    ) -> ContextFacts<'f> {
        let identity = caller.identity();
        ContextFacts {
            portal: query.portal.slug.as_str(),
            tenant: tenant.or_else(|| identity?.tenant.as_deref()),
            now_millis: query.now_millis,
            auth: identity.map(|identity| &identity.auth),
            flags: caller.flags(query.revision),
            http: Some(HttpFacts {
                method: http.method,
                path: path.id(),
                host: http.host,
                scheme: http.scheme.as_str(),
                source_ip: http.source_ip,
                query: &self.pairs,
                beside_semicolons: &self.beside_semicolons,
                headers: self.headers.unwrap_or(&self.no_headers),
            }),
        }
    }
}

/// `Err` if the query cannot be evaluated; every other outcome is in the evaluation.
fn evaluate_located(
    rules: &Rules,
    principal: &QueryEntity,
    located: &Located<'_>,
    facts: &ContextFacts<'_>,
    given: Option<&Map<String, Value>>,
    observer: Option<&dyn Observer>,
) -> Result<Evaluation, Refusal> {
    let action = &located.target.action;
    let Some(plan) = rules.plans.get(action) else {
        let detail = format!("action `{action}` is not declared");
        return Err(Refusal::new(Denial::NotPermitted, detail));
    };
    if given.is_none() {
        plan.check(facts)?;
    }
    for query in &located.forbid_queries {
        let forbids = evaluate_forbids(rules, principal, query, &BorrowedContext { plan, facts, given }, observer)?;
        if forbids.is_forbidden() {
            return Ok(forbids);
        }
    }
    let context = match given {
        Some(given) => HttpContext::Given(overlaid(rules, action, facts, given)?, plan.supplied()),
        None => HttpContext::Facts(ProxyContext { plan, facts }),
    };
    let supplied = SuppliedEntities::default();
    rules.evaluate(principal, action, &located.target.resource, &supplied, &context, observer)
}

/// The context of a request, for a second reading of it.
pub(super) struct BorrowedContext<'a> {
    /// The plan of the request's own action.
    pub plan: &'a ContextPlan,
    pub facts: &'a ContextFacts<'a>,
    pub given: Option<&'a Map<String, Value>>,
}

pub(super) fn evaluate_forbids(
    rules: &Rules,
    principal: &QueryEntity,
    query: &ForbidQuery<'_>,
    of_request: &BorrowedContext<'_>,
    observer: Option<&dyn Observer>,
) -> Result<Evaluation, Refusal> {
    let BorrowedContext { plan, facts, given } = *of_request;
    let ForbidQuery {
        method,
        action,
        resource,
    } = query;
    let facts = &ContextFacts {
        http: facts.http.map(|http| HttpFacts { method, ..http }),
        ..*facts
    };
    // if the method is not a declared action, policies without an action constraint still count, with the context of
    // the route's action
    let own_plan = rules.plans.get(action).map(|plan| &**plan);
    let context = match given {
        Some(given) if own_plan.is_some() => {
            let given = declared_of(rules, action, given);
            HttpContext::Given(overlaid(rules, action, facts, &given)?, own_plan.unwrap_or(plan).supplied())
        }
        _ => HttpContext::Facts(ProxyContext {
            plan: own_plan.unwrap_or(plan),
            facts,
        }),
    };
    Ok(rules.evaluate_forbids(principal, action, resource, &context, observer))
}

/// The given fields that the action's context declares.
fn declared_of(rules: &Rules, action: &EntityUid, given: &Map<String, Value>) -> Map<String, Value> {
    let declared = rules.schema.action(action).map(|model| &model.context.fields);
    let is_declared = |name: &String| declared.is_some_and(|fields| fields.contains_key(name));
    let fields = given.iter().filter(|(name, _)| is_declared(name));
    fields.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The gate's own fields with the given ones over them.
fn overlaid(
    rules: &Rules,
    action: &EntityUid,
    facts: &ContextFacts<'_>,
    given: &Map<String, Value>,
) -> Result<ReadyContext, Refusal> {
    let mut all = match rules.plans.get(action) {
        Some(plan) => plan.to_json(facts)?,
        None => Map::new(),
    };
    all.extend(given.iter().map(|(name, value)| (name.clone(), value.clone())));
    read_context(Value::Object(all), rules, action).map(ReadyContext)
}

/// Finds the action and resource of a request in this revision.
fn locate<'a>(revision: &Revision, method: &'a str, path: &PathReading<'_>) -> Result<Located<'a>, Refusal> {
    let routed = revision.file.routes.find(method, path);
    let (action, ty, id) = match &routed {
        Some(found) => (&*found.route.action, &*found.route.resource_type, &*found.resource_id),
        None => (method, PATH_TYPE, path.id()),
    };
    let rules = &revision.rules;
    let not_permitted = |detail: String| Refusal::new(Denial::NotPermitted, detail);
    let action = rules
        .schema
        .resolve_action(action)
        .ok_or_else(|| not_permitted(format!("the schema has no action `{action}`")))?;
    let ty = rules
        .schema
        .resolve_type(ty)
        .ok_or_else(|| not_permitted(format!("the schema has no type `{ty}`")))?;
    let resource = rules.resource(EntityUid::from_type_name_and_id(ty.clone(), EntityId::new(id)));
    let borrowed = lender(method).filter(|lender| routed.as_ref().is_some_and(|found| found.route.method == *lender));
    let mut forbid_queries = Vec::new();
    if let Some(lender) = borrowed {
        forbid_queries.push(ForbidQuery {
            method: lender,
            action: action.clone(),
            resource: rules.resource(resource.uid.clone()),
        });
    }
    let methods = std::iter::once(method).chain(borrowed);
    if let Some(id) = routed.as_ref().and_then(|found| found.folded_id.as_deref()) {
        let folded = EntityUid::from_type_name_and_id(ty, EntityId::new(id));
        forbid_queries.extend(methods.clone().map(|method| ForbidQuery {
            method,
            action: action.clone(),
            resource: rules.resource(folded.clone()),
        }));
    }
    let own_id = routed.is_some().then(|| path.id());
    for id in own_id.into_iter().chain(path.further_ids()) {
        forbid_queries.extend(methods.clone().filter_map(|method| path_query(rules, method, id)));
    }
    let target = Target {
        action,
        resource,
        route: routed.map(|found| found.route.text.clone()),
    };
    Ok(Located { target, forbid_queries })
}

/// A request as a plain path: its method as action, its path as resource. `None` if the schema does not declare paths:
/// then no policy can name one.
fn path_query<'a>(rules: &Rules, method: &'a str, id: &str) -> Option<ForbidQuery<'a>> {
    let ty = rules.names.path.clone()?;
    Some(ForbidQuery {
        method,
        resource: rules.resource(EntityUid::from_type_name_and_id(ty, EntityId::new(id))),
        action: rules.schema.method_action(method)?,
    })
}

/// Decoded pairs of a form-urlencoded query string, in their order.
pub fn query_pairs(query: &str) -> Vec<(String, String)> {
    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// Decoded names of the parameters beside a `;`, which some apps read as `&`: for these apps the value before it ends
/// there, and another parameter begins.
fn names_beside_semicolons(query: &str) -> Vec<String> {
    let split = query.split('&').filter(|piece| piece.contains(';'));
    let parts = split.flat_map(|piece| piece.split(';'));
    parts.flat_map(query_pairs).map(|(name, _)| name).collect()
}

impl ContextSource for HttpContext<'_> {
    fn context(&self, needed: &ContextDependencies) -> Result<Context, String> {
        match self {
            Self::Facts(facts) => facts.context(needed),
            Self::Given(given, _) => given.context(needed),
        }
    }

    fn names_entities(&self) -> bool {
        match self {
            Self::Facts(facts) => facts.names_entities(),
            Self::Given(given, _) => given.names_entities(),
        }
    }

    fn unknown(&self) -> &[String] {
        match self {
            Self::Facts(facts) => facts.unknown(),
            Self::Given(_, unknown) => unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_pairs_come_decoded_and_in_order() {
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let pairs = query_pairs("a=1&b=%20+2&%61=3");
        assert_eq!(pairs, [text("a", "1"), text("b", "  2"), text("a", "3")]);
        assert_eq!(names_beside_semicolons("a=1;b=2&c;%64=3;&e=%3Bf"), ["a", "b", "c", "d"]);
        assert!(names_beside_semicolons("a=1&b=2").is_empty());
    }
}
