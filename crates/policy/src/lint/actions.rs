//! Actions that nothing uses.

use std::collections::BTreeSet;

use cedar_policy::{ActionConstraint, EntityUid};

use super::{LintFinding, Linted, UNUSED_ACTION};
use crate::revision::problem::Problem;

/// The actions of HTTP methods: the shared schema declares them for every portal.
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

pub(super) fn findings(linted: &Linted<'_>) -> Vec<LintFinding> {
    let schema = &linted.revision.rules.schema;
    let mut mentioned: BTreeSet<EntityUid> = BTreeSet::new();
    for entry in linted.entries() {
        match entry.policy().action_constraint() {
            ActionConstraint::Any => {}
            ActionConstraint::Eq(uid) => drop(mentioned.insert(uid)),
            ActionConstraint::In(uids) => mentioned.extend(uids),
        }
        mentioned.extend(entry.policy().entity_literals());
    }
    // a template without a link mentions its action as well
    let routes = linted.revision.file.routes.routes();
    mentioned.extend(routes.iter().filter_map(|route| schema.resolve_action(&route.action)));
    let own = format!("schemas/{}.cedarschema", linted.portal.slug);
    let Some(text) = linted.text(&own) else { return Vec::new() };
    let groups: BTreeSet<&EntityUid> = schema.actions().flat_map(|(_, model)| &model.ancestors).collect();
    let is_unused = |uid: &EntityUid, ancestors: &[EntityUid]| {
        let id = uid.id().unescaped();
        !METHODS.contains(&id)
            && !groups.contains(uid)
            && !mentioned.contains(uid)
            && !ancestors.iter().any(|group| mentioned.contains(group))
    };
    let templates = linted.templates_text();
    let mut findings = Vec::new();
    for (uid, _) in schema.actions().filter(|(uid, model)| is_unused(uid, &model.ancestors)) {
        let id = uid.id().unescaped();
        let Some(offset) = declared_at(text, id) else { continue };
        if templates.iter().any(|template| template.contains(&format!("\"{id}\""))) {
            continue;
        }
        let problem =
            Problem::new(&own, format!("no route and no policy mentions action `{id}`")).at_span(text, offset, id.len());
        findings.push(LintFinding::new(
            &UNUSED_ACTION,
            problem.with_help("write a policy for it, or remove it from the schema"),
        ));
    }
    findings.sort_by_key(|finding| (finding.problem.line, finding.problem.column));
    findings
}

/// The offset of an action's name behind the word `action`; `None` if the shared schema declares it.
fn declared_at(text: &str, id: &str) -> Option<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(id).map(|(offset, _)| offset).find(|offset| {
        let before = text.get(..*offset).unwrap_or_default();
        let after = text.get(offset + id.len()..).unwrap_or_default();
        let is_whole = !before.ends_with(is_word) && !after.starts_with(is_word);
        // `action a, "b", c in d appliesTo …`: from the last `action` to the name there is nothing but names
        let declaration = before.rfind("action").and_then(|at| before.get(at + "action".len()..));
        let is_declared = declaration.is_some_and(|names| {
            names.starts_with(char::is_whitespace)
                && !names.contains(['{', '}', ';', ':', '[', ']'])
                && !names.contains("appliesTo")
                && !names.contains(" in ")
        });
        is_whole && is_declared
    })
}

impl Linted<'_> {
    /// The text of every policy file that has templates.
    fn templates_text(&self) -> Vec<&str> {
        let files = self
            .revision
            .candidate
            .files
            .0
            .iter()
            .filter(|(name, _)| name.ends_with(".cedar"));
        let texts = files.filter_map(|(name, file)| file.text(name).ok());
        texts
            .filter(|text| text.contains("?principal") || text.contains("?resource"))
            .collect()
    }
}
