//! Rules about one policy's own text, and about permits that repeat each other.

use cedar_policy::{ActionConstraint, Effect, EntityUid, PrincipalConstraint, ResourceConstraint};
use rustc_hash::FxHashMap;

use super::shared::is_impossible;
use super::{
    ANY_ACTION, COVERED, EXPIRED, FORBID_MAY_FAIL, Fix, LintFinding, Linted, MISSING_ID, NEVER_APPLIES, PERMIT_ALL,
    UNKNOWN_ANNOTATION, conditions, each_node, place_of,
};
use crate::engine::PolicyEntry;
use crate::portal::path::ancestors_of;

/// The annotations that the gate reads, and those that only people read.
const ANNOTATIONS: [&str; 8] = ["advice", "description", "doc", "expires", "id", "owner", "step_up", "title"];
/// Operators that can overflow.
const ARITHMETIC: [&str; 3] = ["+", "-", "*"];

pub(super) fn findings(linted: &Linted<'_>) -> Vec<LintFinding> {
    let mut findings = Vec::new();
    for entry in linted.entries() {
        findings.extend(breadth(linted, entry));
        findings.extend(missing_id(linted, entry));
        findings.extend(annotations(linted, entry));
        findings.extend(expired(linted, entry));
        findings.extend(may_fail(linted, entry));
    }
    findings.extend(covered(linted));
    findings.extend(never_applies(linted));
    findings
}

/// A permit for everything, or for every action.
fn breadth(linted: &Linted<'_>, entry: &PolicyEntry) -> Option<LintFinding> {
    if entry.info.effect != Effect::Permit || entry.policy().action_constraint() != ActionConstraint::Any {
        return None;
    }
    if is_open(entry) {
        let problem = linted.at_policy(
            entry,
            "permit",
            "permits every action on everything to every caller".to_owned(),
        );
        let help = "name a principal, an action or a resource, or add a condition";
        return Some(LintFinding::new(&PERMIT_ALL, problem.with_help(help)));
    }
    let message = "permits every action, also those that the schema will have later";
    let problem = linted.at_policy(entry, "action", message.to_owned());
    Some(LintFinding::new(
        &ANY_ACTION,
        problem.with_help("write `action in [Action::\"…\", …]`"),
    ))
}

/// True for a permit without scope and condition.
fn is_open(entry: &PolicyEntry) -> bool {
    let policy = entry.policy();
    policy.principal_constraint() == PrincipalConstraint::Any
        && policy.action_constraint() == ActionConstraint::Any
        && policy.resource_constraint() == ResourceConstraint::Any
        && !policy.has_non_scope_constraint()
}

fn missing_id(linted: &Linted<'_>, entry: &PolicyEntry) -> Option<LintFinding> {
    let (file, line) = place_of(entry);
    if entry.info.annotation("id").is_some_and(|id| !id.is_empty()) || !file.ends_with(".cedar") {
        return None;
    }
    let id = &entry.info.id;
    let effect = match entry.info.effect {
        Effect::Permit => "permit",
        Effect::Forbid => "forbid",
    };
    let problem = linted.at_policy(
        entry,
        effect,
        format!("has no `@id`, so it is called `{id}` until a policy above it comes or goes"),
    );
    let mut finding = LintFinding::new(
        &MISSING_ID,
        problem.with_help("write `@id(\"…\")` in front of it; `--fix` keeps the name that it has"),
    );
    // of two policies in one line the place does not say which
    let mut statements = line.into_iter().flat_map(|line| linted.statements_at(file, line));
    let offset = match (statements.next(), statements.next()) {
        (Some(statement), None) => Some(statement.offset),
        _ => None,
    };
    finding.fix = offset.map(|offset| Fix {
        file: file.to_owned(),
        offset,
        text: format!("@id(\"{id}\")\n"),
    });
    Some(finding)
}

fn annotations(linted: &Linted<'_>, entry: &PolicyEntry) -> Vec<LintFinding> {
    let unknown = entry
        .info
        .annotations
        .iter()
        .filter(|(name, _)| !ANNOTATIONS.contains(&name.as_str()));
    unknown
        .map(|(name, _)| {
            let closest = ANNOTATIONS
                .iter()
                .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
            let problem = linted.at_policy(
                entry,
                &format!("@{name}"),
                format!("`@{name}` is no annotation that the gate knows"),
            );
            LintFinding::new(
                &UNKNOWN_ANNOTATION,
                problem.with_help(format!(
                    "did you mean `@{}`? For people: `@description`, `@doc`, `@owner`, `@title`",
                    closest.unwrap_or(&"id")
                )),
            )
        })
        .collect()
}

fn expired(linted: &Linted<'_>, entry: &PolicyEntry) -> Option<LintFinding> {
    let written = entry.info.annotation("expires")?;
    let full = if written.contains('T') {
        written.to_owned()
    } else {
        format!("{written}T00:00:00Z")
    };
    let at = humantime::parse_rfc3339(&full).ok();
    let at = at
        .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok())
        .map(|since| since.as_secs());
    let message = match at.map(|at| i64::try_from(at).unwrap_or(i64::MAX)) {
        None => format!("`@expires(\"{written}\")` is no date like 2026-12-31 or 2026-12-31T12:00:00Z"),
        Some(at) if at <= linted.now => format!("expired on {written}, and it is still in force"),
        Some(_) => return None,
    };
    let problem = linted.at_policy(entry, "@expires", message);
    Some(LintFinding::new(
        &EXPIRED,
        problem.with_help("the gate does not end policies: remove it, or write a later date"),
    ))
}

/// Arithmetic overflows. Cedar's validator refuses every other expression that may fail.
fn may_fail(linted: &Linted<'_>, entry: &PolicyEntry) -> Option<LintFinding> {
    if entry.info.effect != Effect::Forbid {
        return None;
    }
    let mut found = None;
    for condition in conditions(entry) {
        each_node(&condition, &mut |operator, _| {
            found = found.or(ARITHMETIC.iter().find(|arithmetic| **arithmetic == operator));
        });
    }
    let operator = found?;
    let message = format!("`{operator}` fails for numbers that are too large, and a forbid that fails denies the request");
    let problem = linted.at_policy(entry, operator, message);
    Some(LintFinding::new(
        &FORBID_MAY_FAIL,
        problem.with_help("compare the numbers without arithmetic"),
    ))
}

fn never_applies(linted: &Linted<'_>) -> Vec<LintFinding> {
    // Cedar's validator proves it
    let warnings = linted.revision.warnings.iter().filter(|warning| is_impossible(warning));
    warnings
        .map(|warning| LintFinding::new(&NEVER_APPLIES, warning.clone()))
        .collect()
}

/// The three parts of a scope, as text.
type ScopeText = (String, String, String);

/// Permits whose every request another permit without conditions permits, too.
fn covered(linted: &Linted<'_>) -> Vec<LintFinding> {
    let permits = || linted.entries().iter().filter(|entry| entry.info.effect == Effect::Permit);
    let mut open: FxHashMap<ScopeText, &PolicyEntry> = FxHashMap::default();
    // one that permits everything is a finding of its own
    for entry in permits().filter(|entry| !entry.policy().has_non_scope_constraint() && !is_open(entry)) {
        for action in actions_of(entry) {
            open.entry((principal_of(entry), action, resource_of(entry))).or_insert(entry);
        }
    }
    let mut findings = Vec::new();
    for entry in permits() {
        let wider = actions_of(entry)
            .into_iter()
            .map(|action| covering(linted, entry, &action, &open));
        let wider: Option<Vec<&PolicyEntry>> = wider.collect();
        let Some(other) = wider.as_ref().and_then(|wider| wider.first()) else {
            continue;
        };
        let message = format!(
            "permits nothing that `{}` ({}) does not permit",
            other.info.id, other.info.place
        );
        let problem = linted.at_policy(entry, "permit", message);
        findings.push(LintFinding::new(&COVERED, problem.with_help("remove one of the two")));
    }
    findings
}

/// Another permit without conditions whose scope includes this one's, for one of its actions.
fn covering<'a>(
    linted: &Linted<'_>,
    entry: &PolicyEntry,
    action: &str,
    open: &FxHashMap<ScopeText, &'a PolicyEntry>,
) -> Option<&'a PolicyEntry> {
    let store = &linted.revision.candidate.store;
    let mut principals = vec![principal_of(entry), "any".to_owned()];
    if let PrincipalConstraint::In(uid) | PrincipalConstraint::Eq(uid) | PrincipalConstraint::IsIn(_, uid) =
        entry.policy().principal_constraint()
    {
        principals.push(format!("in {uid}"));
        principals.extend(store.ancestors(&uid).iter().map(|above| format!("in {above}")));
    }
    let mut resources = vec![resource_of(entry), "any".to_owned()];
    match entry.policy().resource_constraint() {
        ResourceConstraint::In(uid) | ResourceConstraint::Eq(uid) => {
            resources.push(format!("in {uid}"));
            resources.extend(above(linted, &uid));
            resources.push(format!("is {}", uid.type_name()));
        }
        ResourceConstraint::IsIn(ty, uid) => {
            resources.extend([format!("is {ty}"), format!("in {uid}")]);
            resources.extend(above(linted, &uid));
        }
        ResourceConstraint::Any | ResourceConstraint::Is(_) => {}
    }
    // an `in` scope may hold entities of any type, so `is` covers only `==` and `is … in`
    if matches!(entry.policy().resource_constraint(), ResourceConstraint::In(_)) {
        resources.retain(|text| !text.starts_with("is "));
    }
    let mut actions = vec![action.to_owned(), "any".to_owned()];
    let groups = linted
        .revision
        .rules
        .schema
        .actions()
        .find(|(uid, _)| uid.to_string() == action);
    actions.extend(
        groups
            .into_iter()
            .flat_map(|(_, model)| model.ancestors.iter().map(EntityUid::to_string)),
    );
    let combinations = principals.iter().flat_map(|p| {
        actions
            .iter()
            .flat_map(|a| resources.iter().map(move |r| (p.clone(), a.clone(), r.clone())))
            .collect::<Vec<_>>()
    });
    combinations
        .filter_map(|scope| open.get(&scope).copied())
        .find(|other| !std::ptr::eq(*other, entry) && (!is_same_scope(entry, other) || other.info.id < entry.info.id))
}

/// Of two equal permits only one is reported: the one whose id comes later.
fn is_same_scope(one: &PolicyEntry, other: &PolicyEntry) -> bool {
    !one.policy().has_non_scope_constraint()
        && principal_of(one) == principal_of(other)
        && resource_of(one) == resource_of(other)
        && actions_of(one) == actions_of(other)
}

fn above(linted: &Linted<'_>, uid: &EntityUid) -> Vec<String> {
    if linted.revision.rules.is_path(uid) {
        let ty = uid.type_name();
        return ancestors_of(uid.id().unescaped())
            .map(|id| format!("in {ty}::\"{id}\""))
            .collect();
    }
    let store = &linted.revision.candidate.store;
    store.ancestors(uid).iter().map(|above| format!("in {above}")).collect()
}

fn principal_of(entry: &PolicyEntry) -> String {
    match entry.policy().principal_constraint() {
        PrincipalConstraint::Any => "any".to_owned(),
        PrincipalConstraint::Is(ty) => format!("is {ty}"),
        PrincipalConstraint::In(uid) => format!("in {uid}"),
        PrincipalConstraint::Eq(uid) => format!("== {uid}"),
        PrincipalConstraint::IsIn(ty, uid) => format!("is {ty} in {uid}"),
    }
}

fn resource_of(entry: &PolicyEntry) -> String {
    match entry.policy().resource_constraint() {
        ResourceConstraint::Any => "any".to_owned(),
        ResourceConstraint::Is(ty) => format!("is {ty}"),
        ResourceConstraint::In(uid) => format!("in {uid}"),
        ResourceConstraint::Eq(uid) => format!("== {uid}"),
        ResourceConstraint::IsIn(ty, uid) => format!("is {ty} in {uid}"),
    }
}

fn actions_of(entry: &PolicyEntry) -> Vec<String> {
    match entry.policy().action_constraint() {
        ActionConstraint::Any => vec!["any".to_owned()],
        ActionConstraint::Eq(uid) => vec![uid.to_string()],
        ActionConstraint::In(uids) => uids.iter().map(EntityUid::to_string).collect(),
    }
}
