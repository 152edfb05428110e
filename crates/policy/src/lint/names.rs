//! Roles, tenants and groups that policies name and that nothing defines.

use std::collections::BTreeSet;

use cedar_policy::{Effect, EntityTypeName, EntityUid};

use super::cases::TestNames;
use super::{LintFinding, Linted, Severity, UNKNOWN_NAME};
use crate::engine::PolicyEntry;
use crate::load::invariants::{self, Invariant};
use crate::revision::problem::Problem;
use crate::scope::TenantSource;

/// Similarity from which on a name counts as a misspelling of another.
const SIMILAR: f64 = 0.8;

/// The ids that entities of one type may have.
struct KnownIds {
    ids: BTreeSet<String>,
    /// Only these exist. Else credentials may name others.
    is_closed: bool,
}

pub(super) fn unknown(linted: &Linted<'_>, tests: &TestNames) -> Vec<LintFinding> {
    let names = &linted.revision.rules.names;
    let groups = group_types(linted);
    let mut known: Vec<(EntityTypeName, KnownIds)> = Vec::new();
    known.extend(names.role.clone().map(|ty| (ty.clone(), roles(linted, &ty, tests))));
    known.extend(names.tenant.clone().map(|ty| (ty.clone(), tenants(linted, &ty, tests))));
    known.extend(groups.into_iter().map(|ty| {
        let ids = stored(linted, &ty);
        (ty, KnownIds { ids, is_closed: true })
    }));
    let mut findings = Vec::new();
    for entry in linted.entries() {
        for uid in entry.policy().entity_literals() {
            if let Some((_, known)) = known.iter().find(|(ty, _)| ty == uid.type_name()) {
                findings.extend(finding(linted, entry, &uid, known));
            }
        }
    }
    for invariant in invariants::of(&linted.portal.slug, linted.revision) {
        // a shared statement may be about names that another portal has
        let own = invariant
            .policies
            .iter()
            .filter(|_| !invariant.place.file.starts_with("policies/_shared/"));
        for uid in own.flat_map(|entry| entry.policy().entity_literals()) {
            if let Some((_, known)) = known.iter().find(|(ty, _)| ty == uid.type_name()) {
                findings.extend(in_invariant(&invariant, &uid, known));
            }
        }
    }
    findings
}

/// A misspelt name makes a statement say less than it seems to.
fn in_invariant(invariant: &Invariant, uid: &EntityUid, known: &KnownIds) -> Option<LintFinding> {
    if known.has(uid) {
        return None;
    }
    let message = format!(
        "`{uid}` is unknown: nothing defines it, so `{}` does not protect what it says",
        invariant.name
    );
    let problem = Problem {
        message,
        ..invariant.place.clone()
    };
    Some(LintFinding::new(&UNKNOWN_NAME, known.advised(problem, uid)))
}

impl KnownIds {
    /// True also if credentials alone may name such entities: then no file can say which there are.
    fn has(&self, uid: &EntityUid) -> bool {
        self.ids.contains(uid.id().unescaped()) || (!self.is_closed && self.ids.is_empty())
    }

    fn advised(&self, problem: Problem, uid: &EntityUid) -> Problem {
        let similarity = |other: &String| strsim::jaro_winkler(uid.id().unescaped(), other);
        let similar = self.ids.iter().map(|other| (similarity(other), other));
        let similar = similar
            .filter(|(similarity, _)| *similarity >= SIMILAR)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        match similar {
            Some((_, other)) => problem.with_help(format!("did you mean `{}::\"{other}\"`?", uid.type_name())),
            None => {
                problem.with_help("define it in entities.json, or in `issuers[].roles` or `issuers[].tenants` of cedargate.yaml")
            }
        }
    }
}

fn finding(linted: &Linted<'_>, entry: &PolicyEntry, uid: &EntityUid, known: &KnownIds) -> Option<LintFinding> {
    if known.has(uid) {
        return None;
    }
    let effect = match entry.info.effect {
        Effect::Forbid => "so the forbid protects nothing",
        Effect::Permit => "so the permit never applies",
    };
    let source = match known.is_closed {
        true => "nothing defines it",
        false => "no entity, issuer or test has it",
    };
    let problem = linted.at_policy(entry, &uid.to_string(), format!("`{uid}` is unknown: {source}, {effect}"));
    let finding = LintFinding::new(&UNKNOWN_NAME, known.advised(problem, uid));
    Some(match entry.info.effect {
        Effect::Forbid => finding,
        Effect::Permit => finding.milder(Severity::Warning),
    })
}

fn stored(linted: &Linted<'_>, ty: &EntityTypeName) -> BTreeSet<String> {
    let uids = linted.revision.candidate.store.uids().filter(|uid| uid.type_name() == ty);
    uids.map(|uid| uid.id().unescaped().to_owned()).collect()
}

fn roles(linted: &Linted<'_>, ty: &EntityTypeName, tests: &TestNames) -> KnownIds {
    let bounds: Vec<_> = linted.portal.issuers.iter().map(|issuer| issuer.roles.as_ref()).collect();
    bounded(stored(linted, ty), &bounds, &tests.roles)
}

fn tenants(linted: &Linted<'_>, ty: &EntityTypeName, tests: &TestNames) -> KnownIds {
    let bounds: Vec<_> = linted.portal.issuers.iter().map(|issuer| issuer.tenants.as_ref()).collect();
    let mut known = bounded(stored(linted, ty), &bounds, &tests.tenants);
    if let TenantSource::Fixed(tenant) = &linted.portal.tenant {
        known.ids.insert(tenant.clone());
    }
    known
}

/// With a bound on every issuer, tests add nothing: no credential can bring another name.
fn bounded(mut ids: BTreeSet<String>, bounds: &[Option<&Vec<String>>], in_tests: &BTreeSet<String>) -> KnownIds {
    let is_closed = !bounds.is_empty() && bounds.iter().all(Option::is_some);
    ids.extend(bounds.iter().flatten().copied().flatten().cloned());
    if !is_closed {
        ids.extend(in_tests.iter().cloned());
    }
    KnownIds { ids, is_closed }
}

/// The types that callers can be in and no credential names: only entities.json can put a caller into one. A type that
/// resources are in as well is left out: an app supplies it with its question.
fn group_types(linted: &Linted<'_>) -> BTreeSet<EntityTypeName> {
    let rules = &linted.revision.rules;
    let principals = rules.schema.principal_types();
    let mut above = BTreeSet::new();
    let mut open: Vec<EntityTypeName> = principals.iter().cloned().collect();
    while let Some(ty) = open.pop() {
        for group in rules.schema.entity(&ty).into_iter().flat_map(|model| &model.member_of) {
            if above.insert(group.clone()) {
                open.push(group.clone());
            }
        }
    }
    let is_above_resource = |group: &EntityTypeName| {
        let mut resources = rules.schema.actions().flat_map(|(_, action)| &action.resources);
        resources
            .any(|ty| !principals.contains(ty) && rules.schema.entity(ty).is_some_and(|model| model.member_of.contains(group)))
    };
    let names = &rules.names;
    let is_own = |ty: &EntityTypeName| {
        [&names.role, &names.tenant, &names.path]
            .into_iter()
            .any(|own| own.as_ref() == Some(ty))
    };
    let portal = names.portal.as_ref().map(EntityUid::type_name);
    above.retain(|ty| !is_own(ty) && portal != Some(ty) && !principals.contains(ty) && !is_above_resource(ty));
    above
}
