//! The claims that a portal maps must not change what a shared forbid reads.
//!
//! `claims` in `portal.yaml` belongs to the portal's team, and `policies/_shared/` does not. An attribute that a shared
//! forbid reads, mapped to a claim that tokens do not have, would be absent, and the forbid would not apply. So such a
//! mapping rejects the candidate.

use std::collections::BTreeSet;
use std::sync::Arc;

use cedar_policy::{Effect, Policy};
use serde_json::Value;

use super::policies::SHARED;
use crate::engine::PolicyEntry;
use crate::portal::file::PortalFile;
use crate::revision::problem::Problem;
use crate::revision::source::Files;
use crate::types::PortalSlug;

/// Reports each attribute that `portal.yaml` maps to another claim and a shared forbid reads; once, by the first such
/// forbid.
pub(super) fn problems(slug: &PortalSlug, files: &Files, file: &PortalFile, entries: &[Arc<PolicyEntry>]) -> Vec<Problem> {
    let moved = file.claims.attributes().filter(|attribute| {
        let claim = file.claims.get(attribute);
        claim.is_some_and(|claim| claim.as_str() != *attribute)
    });
    let mut moved: BTreeSet<&str> = moved.collect();
    if moved.is_empty() {
        return Vec::new();
    }
    let name = format!("policies/{slug}/portal.yaml");
    let text = files.get(&name).and_then(|file| file.text(&name).ok()).unwrap_or_default();
    let mut problems = Vec::new();
    let shared = entries
        .iter()
        .filter(|entry| entry.info.effect == Effect::Forbid && entry.info.place.starts_with(SHARED));
    for entry in shared {
        let read = attributes_of_principal(entry.policy());
        let found: Vec<&str> = moved
            .iter()
            .copied()
            .filter(|attribute| read.as_ref().is_none_or(|read| read.contains(*attribute)))
            .collect();
        for attribute in found {
            moved.remove(attribute);
            let problem = Problem::new(
                &name,
                format!(
                    "claims.{attribute}: the shared forbid `{}` ({}) reads this attribute, so a portal must not map it to another claim",
                    entry.info.id, entry.info.place
                ),
            );
            let problem = match text.find(&format!("{attribute}:")) {
                Some(offset) => problem.at_span(text, offset, attribute.len()),
                None => problem,
            };
            problems.push(problem.with_help(
                "remove the mapping; an attribute that shared forbids read has the name of its claim in schemas/_shared.cedarschema",
            ));
        }
    }
    problems
}

/// The attributes that conditions look up on the principal, or on a value that may be the principal. `None`: the policy
/// has no readable form, and may read every attribute.
fn attributes_of_principal(policy: &Policy) -> Option<BTreeSet<String>> {
    let json = policy.to_json().ok()?;
    let mut read = BTreeSet::new();
    for condition in json.get("conditions")?.as_array()? {
        look(condition.get("body")?, &mut read);
    }
    Some(read)
}

fn look(expression: &Value, read: &mut BTreeSet<String>) {
    match expression {
        Value::Object(node) => {
            for look_up in [".", "has"].into_iter().filter_map(|operator| node.get(operator)) {
                if look_up.get("left").is_some_and(may_be_principal) {
                    add(look_up.get("attr"), read);
                }
            }
            node.values().for_each(|inner| look(inner, read));
        }
        Value::Array(items) => items.iter().for_each(|item| look(item, read)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `has a.b.c` is a list of three names.
fn add(attribute: Option<&Value>, read: &mut BTreeSet<String>) {
    match attribute {
        Some(Value::String(name)) => drop(read.insert(name.clone())),
        Some(Value::Array(names)) => read.extend(names.iter().filter_map(Value::as_str).map(str::to_owned)),
        _ => {}
    }
}

/// False for another variable and for what is inside the context. An attribute of the resource may be the caller.
fn may_be_principal(left: &Value) -> bool {
    if let Some(variable) = left.get("Var").and_then(Value::as_str) {
        return variable == "principal";
    }
    !is_in_context(left)
}

fn is_in_context(expression: &Value) -> bool {
    match expression.get("Var") {
        Some(variable) => variable == "context",
        None => expression
            .get(".")
            .and_then(|access| access.get("left"))
            .is_some_and(is_in_context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_the_principal_are_found_and_those_of_other_variables_are_not() {
        let read = |condition: &str| {
            let policy = Policy::parse(None, format!("forbid(principal, action, resource) when {{ {condition} }};")).unwrap();
            attributes_of_principal(&policy).unwrap()
        };
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(read("principal has mail && principal.mail like \"*@x\""), set(&["mail"]));
        assert_eq!(read("principal has a.b && principal.a.b == 1"), set(&["a", "b"]));
        assert_eq!(read("resource has tenant && !(principal in resource.tenant)"), set(&[]));
        assert_eq!(read("context.auth.acr == \"x\" && context has now"), set(&[]));
        assert_eq!(read("resource.owner.mail == \"x\""), set(&["mail"]));
        assert_eq!(read("(if true then principal else resource).mail == \"x\""), set(&["mail"]));
    }
}
