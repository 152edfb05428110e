//! Rules about the app's own description of itself: operations that no route covers, and routes that it lacks.

use super::{LintFinding, Linted, UNDESCRIBED_ROUTE, UNROUTED_OPERATION};
use crate::openapi::{OpenApi, Operation};
use crate::portal::route::{Route, lender};
use crate::revision::problem::Problem;

/// An OpenAPI description of one portal's app, as it was read.
#[derive(Clone, Copy, Debug)]
pub struct DescribedApp<'a> {
    pub api: &'a OpenApi,
    /// Name and text of the file, for the places of findings.
    pub file: &'a str,
    pub text: &'a str,
}

/// What one segment of a route or of an operation matches.
#[derive(Clone, Copy, Eq, PartialEq)]
enum SegmentMatch<'a> {
    Literal(&'a str),
    Any,
    Rest,
}

pub(super) fn findings(linted: &Linted<'_>, described: &DescribedApp<'_>) -> Vec<LintFinding> {
    let mount = described.api.mount(&linted.portal.matches.path_prefix);
    let operations = &described.api.operations;
    let unrouted = operations
        .iter()
        .filter(|operation| !is_covered(linted, operation, &mount))
        .map(|operation| unrouted(described, operation, &mount));
    let undescribed = linted.revision.file.routes.routes().iter();
    let undescribed = undescribed
        .filter(|route| !operations.iter().any(|operation| is_about(route, operation, &mount)))
        .map(|route| undescribed_route(linted, described, route));
    unrouted.chain(undescribed).collect()
}

/// True if a route or a public entry covers the operation. One with a path that the gate refuses has no use for a
/// route.
fn is_covered(linted: &Linted<'_>, operation: &Operation, mount: &str) -> bool {
    let file = &linted.revision.file;
    let Some(path) = operation.example(mount) else {
        return true;
    };
    let Ok(reading) = file.paths.read(&path) else {
        return true;
    };
    file.routes.find(&operation.method, &reading).is_some() || file.public.find(&operation.method, &reading).is_some()
}

fn unrouted(described: &DescribedApp<'_>, operation: &Operation, mount: &str) -> LintFinding {
    let name = operation.id.as_ref().map(|id| format!(" `{id}`")).unwrap_or_default();
    let message = format!(
        "operation{name}: no route covers `{} {mount}{}`",
        operation.method, operation.path
    );
    let problem = Problem::new(described.file, message);
    let problem = match operation.written_at(described.text) {
        Some((offset, length)) => problem.at_span(described.text, offset, length),
        None => problem,
    };
    LintFinding::new(
        &UNROUTED_OPERATION,
        problem.with_help("add a route to portal.yaml; `cedargate schema from-openapi` prints routes for all operations"),
    )
}

fn undescribed_route(linted: &Linted<'_>, described: &DescribedApp<'_>, route: &Route) -> LintFinding {
    let message = format!("`{}` has no such operation", described.file);
    let problem = super::portal_file::at_route(linted, route, &message);
    LintFinding::new(
        &UNDESCRIBED_ROUTE,
        problem.with_help("remove the route, correct its path, or describe the operation"),
    )
}

/// True if some request is both for the route and for the operation.
fn is_about(route: &Route, operation: &Operation, mount: &str) -> bool {
    let path = format!("{mount}{}", operation.path);
    let is_asked = operation.method == route.method || lender(&operation.method) == Some(route.method.as_str());
    is_asked && meet(&segments(&route.text), &segments(&path))
}

fn segments(path: &str) -> Vec<SegmentMatch<'_>> {
    let of = |segment| match segment {
        "**" => SegmentMatch::Rest,
        segment if segment.contains(['{', '*']) => SegmentMatch::Any,
        literal => SegmentMatch::Literal(literal),
    };
    path.trim_matches('/').split('/').map(of).collect()
}

fn meet(one: &[SegmentMatch<'_>], other: &[SegmentMatch<'_>]) -> bool {
    match (one.split_first(), other.split_first()) {
        (Some((SegmentMatch::Rest, _)), _) | (_, Some((SegmentMatch::Rest, _))) | (None, None) => true,
        (None, Some(_)) | (Some(_), None) => false,
        (Some((SegmentMatch::Literal(a), _)), Some((SegmentMatch::Literal(b), _))) if !a.eq_ignore_ascii_case(b) => false,
        (Some((_, one)), Some((_, other))) => meet(one, other),
    }
}
