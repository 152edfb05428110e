//! Lint: mistakes that load and validate, and decide something else than their author meant.
//!
//! Reads one portal's revision and says what looks wrong; changes nothing and decides nothing. A rule reports only what
//! the files themselves prove, so that a tree without mistakes has no finding. A comment `lint: allow(<rule>) <reason>`
//! in front of the place silences one rule there (`suppression`).

mod actions;
mod cases;
mod names;
mod openapi;
mod portal_file;
mod resources;
mod shape;
mod shared;
mod suppression;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::decision_tests::DecisionTests;
use crate::engine::PolicyEntry;
use crate::load::statements::{Statement, find, split};
use crate::revision::Revision;
use crate::revision::problem::{Position, Problem};
use crate::scope::PortalScope;

pub use openapi::DescribedApp;
pub use shared::{settle, settle_warnings};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// Certainly not what the author meant; `validate` rejects it, too.
    Error,
    Warning,
    /// Worth a look.
    Note,
}

/// A rule, as `docs/lint.md` describes it.
#[derive(Debug, Eq, PartialEq)]
pub struct Rule {
    pub id: &'static str,
    pub severity: Severity,
    /// Why it matters, in one sentence.
    pub reason: &'static str,
}

/// Something that looks wrong.
#[derive(Clone, Debug)]
pub struct LintFinding {
    pub rule: &'static Rule,
    /// The rule's, or a milder one where the mistake fails closed.
    pub severity: Severity,
    pub problem: Problem,
    /// A change of the file that mends it and changes no decision.
    pub fix: Option<Fix>,
}

/// Text to insert.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fix {
    pub file: String,
    /// Bytes before the insertion.
    pub offset: usize,
    pub text: String,
}

macro_rules! rules {
    ($($name:ident $id:literal $severity:ident $reason:literal;)*) => {
        $(static $name: Rule = Rule { id: $id, severity: Severity::$severity, reason: $reason };)*
        /// Every rule, in the order of the documentation.
        pub static RULES: &[&Rule] = &[$(&$name),*];
    };
}

rules! {
    UNKNOWN_NAME "unknown-name" Error
        "A role, tenant or group that nothing defines: a permit never applies, and a forbid never protects.";
    PERMIT_ALL "permit-all" Warning "A permit without scope and condition permits every action to every caller.";
    ANY_ACTION "any-action" Note "A permit without an action also permits every action that the schema will have later.";
    MISSING_ID "missing-id" Warning "Without `@id` the policy is named by its number, which changes when one is inserted above it.";
    UNKNOWN_ANNOTATION "unknown-annotation" Warning "An annotation that the gate does not know has no effect.";
    EXPIRED "expired" Warning "The date of `@expires` has passed, and the policy is still in force.";
    COVERED "covered" Warning "Another permit without conditions permits everything that this one does.";
    NEVER_APPLIES "never-applies" Warning "No request that the schema allows can satisfy the policy.";
    FORBID_MAY_FAIL "forbid-may-fail" Warning "A forbid that cannot be evaluated denies the request, whatever it was about.";
    UNDESCRIBED_RESOURCE "undescribed-resource" Warning
        "Through the proxy a resource without an entry in entities.json has no attributes: a forbid that reads one denies every request.";
    MISSING_TENANT_CHECK "missing-tenant-check" Warning "Resources have a tenant, and nothing compares it with the caller's.";
    UNUSED_ACTION "unused-action" Warning "No route and no policy mentions the action, so it can never be permitted.";
    ROUTE_RESOURCE "route-resource" Error "The schema does not let the route's action apply to its resource type: every request is denied.";
    ROUTE_OUTSIDE "route-outside" Warning "No request of this portal is below the route's path.";
    UNUSED_CLAIM "unused-claim" Warning "No principal type has the attribute that the claim is mapped to.";
    PUBLIC_ROUTE "public-route" Warning "A public path needs no caller, so the route's policies do not protect it.";
    UNROUTED_OPERATION "unrouted-operation" Warning "No route covers the operation, so policies see its method and path alone.";
    UNDESCRIBED_ROUTE "undescribed-route" Warning "The API description has no operation that the route could be about.";
    NO_TESTS "no-tests" Warning "Nothing notices when an edit changes what the portal permits.";
    EMPTY_TESTS "empty-tests" Warning "The file tests nothing.";
    DUPLICATE_CASE "duplicate-case" Warning "Two cases of one name: a report does not say which of them failed.";
    SUPPRESSION "suppression" Error "A suppression names a rule that exists and says why.";
    UNUSED_SUPPRESSION "unused-suppression" Note "The suppression silences nothing.";
}

/// Everything that the rules read.
struct Linted<'a> {
    portal: &'a PortalScope,
    revision: &'a Revision,
    /// Unix seconds.
    now: i64,
    /// Of each policy file, in the order of the file.
    statements: BTreeMap<&'a str, Vec<Statement<'a>>>,
}

/// Lints one portal; `settle` then joins what portals say about their shared files. `now` is in Unix seconds, for
/// `@expires`; `described` is the app's description of its operations, if the caller has one.
pub fn lint(portal: &PortalScope, revision: &Revision, now: i64, described: Option<&DescribedApp<'_>>) -> Vec<LintFinding> {
    let linted = Linted::new(portal, revision, now);
    let tests = DecisionTests::read(&portal.slug, revision.portal_files());
    let mut findings = names::unknown(&linted, &cases::TestNames::of(&tests));
    findings.extend(shape::findings(&linted));
    findings.extend(resources::findings(&linted));
    findings.extend(actions::findings(&linted));
    findings.extend(portal_file::findings(&linted));
    findings.extend(cases::findings(&linted, &tests));
    match described {
        Some(described) => {
            findings.extend(openapi::findings(&linted, described));
            suppression::apply(&linted, findings, &[])
        }
        None => suppression::apply(&linted, findings, &[&UNROUTED_OPERATION, &UNDESCRIBED_ROUTE]),
    }
}

impl LintFinding {
    fn new(rule: &'static Rule, problem: Problem) -> Self {
        Self {
            rule,
            severity: rule.severity,
            problem,
            fix: None,
        }
    }

    fn milder(self, severity: Severity) -> Self {
        Self {
            severity: self.severity.max(severity),
            ..self
        }
    }
}

impl<'a> Linted<'a> {
    fn new(portal: &'a PortalScope, revision: &'a Revision, now: i64) -> Self {
        let files = revision.candidate.files.0.iter();
        let policies = files.filter(|(name, _)| name.ends_with(".cedar"));
        let statements = policies.filter_map(|(name, file)| Some((name.as_str(), split(file.text(name).ok()?)?)));
        Self {
            portal,
            revision,
            now,
            statements: statements.collect(),
        }
    }

    /// The policies of the portal and of `_shared`, emergency forbids left out.
    fn entries(&self) -> &'a [Arc<PolicyEntry>] {
        &self.revision.candidate.entries
    }

    fn text(&self, file: &str) -> Option<&'a str> {
        self.revision.candidate.files.get(file)?.text(file).ok()
    }

    fn portal_yaml(&self) -> String {
        format!("policies/{}/portal.yaml", self.portal.slug)
    }

    /// A problem of a policy; at `needle` if the policy's own text has it.
    fn at_policy(&self, entry: &PolicyEntry, needle: &str, message: String) -> Problem {
        let (file, line) = place_of(entry);
        let problem = Problem::new(file, message).of_policy(&entry.info.id);
        let found = line.and_then(|line| {
            let (statement, offset) = self
                .statements_at(file, line)
                .find_map(|one| Some((one, find(one.text, needle)?)))?;
            let Statement { text, line, column, .. } = *statement;
            let placed = problem.clone().at_span(text, offset, needle.len());
            Some(placed.within(file, Position { line, column }))
        });
        found.unwrap_or_else(|| problem.at_line(line))
    }

    /// The statements that begin in a line. A link has none.
    fn statements_at(&self, file: &str, line: usize) -> impl Iterator<Item = &Statement<'a>> {
        let all = self.statements.get(file).map(Vec::as_slice).unwrap_or_default();
        let first = all.partition_point(|statement| statement.line < line);
        let from = all.get(first..).unwrap_or_default();
        from.iter().take_while(move |statement| statement.line == line)
    }
}

/// File and line of a policy.
fn place_of(entry: &PolicyEntry) -> (&str, Option<usize>) {
    match entry.info.place.rsplit_once(':') {
        Some((file, line)) => (file, line.parse().ok()),
        None => (&entry.info.place, None),
    }
}

/// The conditions of a policy as Cedar's JSON.
fn conditions(entry: &PolicyEntry) -> Vec<Value> {
    let json = entry.policy().to_json().ok();
    let conditions = json.as_ref().and_then(|json| json.get("conditions")?.as_array());
    conditions.cloned().unwrap_or_default()
}

/// Calls `visit` with each node `{operator: operands}` of an expression.
fn each_node<'v>(expression: &'v Value, visit: &mut impl FnMut(&'v str, &'v Value)) {
    match expression {
        Value::Object(node) => {
            for (operator, operands) in node {
                match (operator.as_str(), operands) {
                    // names of a record's fields are no operators, and a literal holds no expression
                    ("Record", Value::Object(fields)) => fields.values().for_each(|field| each_node(field, visit)),
                    ("Value", literal) => visit("Value", literal),
                    _ => {
                        visit(operator, operands);
                        each_node(operands, visit);
                    }
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| each_node(item, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
