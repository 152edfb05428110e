//! Rules about `portal.yaml`: routes, public paths, mapped claims.

use super::{LintFinding, Linted, PUBLIC_ROUTE, ROUTE_OUTSIDE, ROUTE_RESOURCE, UNUSED_CLAIM};
use crate::portal::route::Route;
use crate::revision::problem::Problem;

pub(super) fn findings(linted: &Linted<'_>) -> Vec<LintFinding> {
    let mut findings = Vec::new();
    for route in linted.revision.file.routes.routes() {
        findings.extend(resource(linted, route));
        findings.extend(outside(linted, route));
        findings.extend(public(linted, route));
    }
    findings.extend(claims(linted));
    findings
}

pub(super) fn at_route(linted: &Linted<'_>, route: &Route, message: &str) -> Problem {
    let name = linted.portal_yaml();
    let text = linted.text(&name).unwrap_or_default();
    let problem = Problem::new(&name, format!("routes[{}] `{route}`: {message}", route.index));
    match route.written_at(text) {
        Some(offset) => problem.at_span(text, offset, route.to_string().len()),
        None => problem,
    }
}

fn resource(linted: &Linted<'_>, route: &Route) -> Option<LintFinding> {
    let schema = &linted.revision.rules.schema;
    let uid = schema.resolve_action(&route.action)?;
    let ty = schema.resolve_type(&route.resource_type)?;
    let model = schema.action(&uid)?;
    if model.resources.contains(&ty) {
        return None;
    }
    let types: Vec<String> = model.resources.iter().map(ToString::to_string).collect();
    let problem = at_route(
        linted,
        route,
        &format!("the schema does not let `{}` apply to a `{ty}`", route.action),
    );
    let help = match types.as_slice() {
        [] => "the action applies to nothing: give it `appliesTo` in the schema".to_owned(),
        types => format!("it applies to {}", types.join(", ")),
    };
    Some(LintFinding::new(&ROUTE_RESOURCE, problem.with_help(help)))
}

/// The prefix is known only with a configuration.
fn outside(linted: &Linted<'_>, route: &Route) -> Option<LintFinding> {
    linted.portal.providers.as_ref()?;
    let prefix = linted.portal.matches.path_prefix.trim_end_matches('/').to_lowercase();
    let path = route.text.to_lowercase();
    let mut own = prefix.split('/');
    let mut of_route = path.split('/');
    let is_below = own.by_ref().all(|segment| {
        let other = of_route.next();
        other.is_some_and(|other| other == segment || other.starts_with('{') || other.starts_with('*'))
    });
    if prefix.is_empty() || is_below {
        return None;
    }
    let message = format!("no request of this portal is below it: its requests are those below `{prefix}`");
    let problem = at_route(linted, route, &message);
    Some(LintFinding::new(
        &ROUTE_OUTSIDE,
        problem.with_help("start the route with `portals.<name>.match.path_prefix` of cedargate.yaml"),
    ))
}

fn public(linted: &Linted<'_>, route: &Route) -> Option<LintFinding> {
    let file = &linted.revision.file;
    let entry = file.public.of_route(route, file.paths.case)?;
    let problem = at_route(
        linted,
        route,
        &format!("public `{entry}` needs no caller, so the route's policies protect nothing"),
    );
    Some(LintFinding::new(
        &PUBLIC_ROUTE,
        problem.with_help("make the public entry narrower, or remove the route"),
    ))
}

fn claims(linted: &Linted<'_>) -> Vec<LintFinding> {
    let rules = &linted.revision.rules;
    let is_declared = |attribute: &str| {
        let mut types = rules.schema.principal_types().iter();
        types.any(|ty| {
            rules
                .schema
                .entity(ty)
                .is_some_and(|model| model.attrs.fields.contains_key(attribute))
        })
    };
    let name = linted.portal_yaml();
    let text = linted.text(&name).unwrap_or_default();
    let unused = rules.claims.attributes().filter(|attribute| !is_declared(attribute));
    unused
        .map(|attribute| {
            let problem = Problem::new(
                &name,
                format!("claims.{attribute}: no principal type of the schema has an attribute `{attribute}`"),
            );
            let key = text.match_indices(attribute).find(|(offset, _)| {
                let after = text.get(offset + attribute.len()..).unwrap_or_default();
                after.trim_start_matches(['"', '\'', ' ']).starts_with(':')
            });
            let problem = match key {
                Some((offset, _)) => problem.at_span(text, offset, attribute.len()),
                None => problem,
            };
            LintFinding::new(
                &UNUSED_CLAIM,
                problem.with_help("declare the attribute in the schema, or remove the mapping"),
            )
        })
        .collect()
}
