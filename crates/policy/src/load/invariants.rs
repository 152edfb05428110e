//! `invariants.yaml`: statements about a portal's policies that no edit may break.
//!
//! Each names requests by a scope that is written like a policy, and says what is always true of them. Loading parses
//! the file and holds every scope against the schema; `cedargate validate --prove` proves the statements. A running
//! gate never looks at them.

use std::str::FromStr;
use std::sync::Arc;

use cedar_policy::{Effect, PolicyId, PolicySet};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::checks::{ImpossiblePath, path_problems};
use super::statements::find;
use super::{nesting, policies};
use crate::engine::PolicyEntry;
use crate::portal::path::rules::PathRules;
use crate::revision::problem::Problem;
use crate::revision::source::Files;
use crate::revision::{PortalSchema, Revision};
use crate::text::yaml_message;
use crate::types::PortalSlug;

/// The name of the file, in a portal's folder and in `policies/_shared/`.
pub const FILE: &str = "invariants.yaml";
const EXAMPLE: &str = "an invariant is `- name: …` with one of `always-denies`, `always-allows`, `never-errors` and `equivalent`";
const SCOPE: &str =
    "write the requests like a policy: `(principal in Role::\"viewer\", action == Action::\"DELETE\", resource) when { … }`";

/// One statement.
#[derive(Clone, Debug)]
pub struct Invariant {
    pub name: String,
    pub claim: Claim,
    /// The requests that it is about: one permit; for `Equivalent` the policies that say all of it.
    pub policies: Vec<Arc<PolicyEntry>>,
    pub why: Option<String>,
    /// The file and the place of the scope.
    pub place: Problem,
}

/// The part of a statement that is always true.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// No policy fails to evaluate.
    NeverErrors,
    AlwaysDenies,
    AlwaysAllows,
    /// Among the requests of the policies' heads, exactly those are allowed that the policies allow.
    Equivalent,
}

/// The statements of a portal, and what is wrong with its files.
#[derive(Default)]
pub struct Invariants {
    pub all: Vec<Invariant>,
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    name: String,
    always_denies: Option<String>,
    always_allows: Option<String>,
    never_errors: Option<String>,
    equivalent: Option<String>,
    why: Option<String>,
}

impl Claim {
    /// The key in the file.
    pub fn key(self) -> &'static str {
        match self {
            Self::NeverErrors => "never-errors",
            Self::AlwaysDenies => "always-denies",
            Self::AlwaysAllows => "always-allows",
            Self::Equivalent => "equivalent",
        }
    }
}

/// The statements of a loaded portal, the shared ones first.
pub fn of(slug: &PortalSlug, revision: &Revision) -> Vec<Invariant> {
    read(slug, revision.portal_files(), &revision.candidate.schema).all
}

/// Reads the portal's own file and the shared one.
pub(crate) fn read(slug: &PortalSlug, files: &Files, schema: &PortalSchema) -> Invariants {
    let mut read = Invariants::default();
    for name in [format!("policies/_shared/{FILE}"), format!("policies/{slug}/{FILE}")] {
        let Some(file) = files.get(&name) else { continue };
        match file.text(&name) {
            Ok(text) => InvariantReader {
                name: &name,
                text,
                schema,
            }
            .read(&mut read),
            Err(problem) => read.problems.push(problem),
        }
    }
    read
}

struct InvariantReader<'a> {
    name: &'a str,
    text: &'a str,
    schema: &'a PortalSchema,
}

impl InvariantReader<'_> {
    fn read(&self, into: &mut Invariants) {
        // a file of comments alone says nothing
        let entries: Option<Vec<Spanned<Entry>>> = match serde_saphyr::from_str(self.text) {
            Ok(entries) => entries,
            Err(error) => {
                let line = error.location().and_then(|at| usize::try_from(at.line()).ok());
                let message = format!("is not a list of invariants: {}", yaml_message(&error));
                into.problems
                    .push(Problem::new(self.name, message).with_help(EXAMPLE).at_line(line));
                return;
            }
        };
        let mut names = std::collections::BTreeMap::new();
        for (number, entry) in entries.unwrap_or_default().into_iter().enumerate() {
            let line = usize::try_from(entry.referenced.line()).unwrap_or(1);
            let entry = entry.value;
            let at = Problem::new(self.name, "").at_line(Some(line));
            if let Some(first) = names.insert(entry.name.clone(), line) {
                let message = format!("another invariant, in line {first}, is called `{}`, too", entry.name);
                into.problems.push(Problem { message, ..at });
                continue;
            }
            self.entry(number, entry, at, into);
        }
    }

    fn entry(&self, number: usize, entry: Entry, at: Problem, into: &mut Invariants) {
        let claims = [
            (Claim::AlwaysDenies, entry.always_denies),
            (Claim::AlwaysAllows, entry.always_allows),
            (Claim::NeverErrors, entry.never_errors),
            (Claim::Equivalent, entry.equivalent),
        ];
        let mut claims = claims.into_iter().filter_map(|(claim, scope)| Some((claim, scope?)));
        let (Some((claim, scope)), None) = (claims.next(), claims.next()) else {
            let message = format!("invariant `{}` needs exactly one claim", entry.name);
            into.problems.push(Problem { message, ..at }.with_help(EXAMPLE));
            return;
        };
        let scope = Scope {
            reader: self,
            first: at.line.unwrap_or(1),
            text: completed(&scope),
        };
        let place = scope.placed(Problem::new("", "").at_line(Some(1)));
        match scope.policies(claim, number) {
            Ok(found) => {
                into.problems.extend(found.problems);
                into.warnings.extend(found.warnings);
                into.all.push(Invariant {
                    name: entry.name,
                    claim,
                    policies: found.policies,
                    why: entry.why,
                    place,
                });
            }
            Err(problems) => into.problems.extend(problems),
        }
    }
}

/// A scope may leave out `permit` and `;`.
fn completed(scope: &str) -> String {
    let mut text = scope.trim_end().to_owned();
    if text.trim_start().starts_with('(') {
        text.insert_str(0, PERMIT);
    }
    if !text.ends_with(';') {
        text.push(';');
    }
    text
}

const PERMIT: &str = "permit ";

/// The scope of one entry, as the text of policies.
struct Scope<'a> {
    reader: &'a InvariantReader<'a>,
    /// The line of the file where the entry begins.
    first: usize,
    text: String,
}

/// The policies of a scope, and what the schema says to them.
struct CheckedInvariant {
    policies: Vec<Arc<PolicyEntry>>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Scope<'_> {
    fn policies(&self, claim: Claim, number: usize) -> Result<CheckedInvariant, Vec<Problem>> {
        let placed = |problem: Problem| self.placed(problem);
        nesting::check("", &self.text, nesting::Syntax::Policies).map_err(|problem| vec![placed(problem)])?;
        let set = PolicySet::from_str(&self.text).map_err(|errors| {
            let problems = errors.iter().map(|error| Problem::from_diagnostic("", &self.text, error));
            let problem = problems
                .take(1)
                .map(|p| if p.help.is_none() { p.with_help(SCOPE) } else { p });
            problem.map(placed).collect::<Vec<_>>()
        })?;
        let fail = |message: &str| Err(vec![placed(Problem::new("", message).at_line(Some(1)).with_help(SCOPE))]);
        if set.templates().next().is_some() {
            return fail("an invariant cannot have a slot");
        }
        if set.is_empty() {
            return fail("the scope is empty");
        }
        if claim != Claim::Equivalent && (set.policies().count() > 1 || set.policies().any(|p| p.effect() == Effect::Forbid)) {
            return fail("the scope is one `permit`, which names the requests that the invariant is about");
        }
        let (errors, warnings) = policies::validate("", &self.text, &set, &self.reader.schema.validator);
        // the user gave the policies of a statement no names
        let unnamed = |problem: Problem| Problem { policy: None, ..problem };
        let mut checked = CheckedInvariant {
            policies: Vec::new(),
            problems: errors.into_iter().map(unnamed).map(placed).collect(),
            warnings: warnings.into_iter().map(unnamed).map(placed).collect(),
        };
        let place = placed(Problem::new("", "").at_line(Some(1)));
        let place = format!("{}:{}", place.file, place.line.unwrap_or(1));
        // the order of the text, not of the set's hash map
        let mut all: Vec<_> = set.policies().collect();
        all.sort_by_key(|policy| policy.id().clone());
        for (n, policy) in all.into_iter().enumerate() {
            let renamed = policy.new_id(PolicyId::new(format!("invariant#{number}.{n}")));
            let entry = PolicyEntry::new(&renamed, place.clone()).map(Arc::new);
            let path = self.reader.schema.path.as_ref();
            let paths = entry
                .iter()
                .flat_map(|entry| path_problems(entry, path, &PathRules::default()));
            checked.problems.extend(paths.map(|ImpossiblePath { path, problem }| {
                let problem = match find(&self.text, &path) {
                    Some(offset) => problem.at_span(&self.text, offset, path.len()),
                    None => problem.at_line(Some(1)),
                };
                Problem {
                    policy: None,
                    ..self.placed(problem)
                }
            }));
            checked.policies.extend(entry);
        }
        Ok(checked)
    }

    /// Moves a problem of the scope's text to the file. A block of YAML is indented, so the line is found by its text.
    fn placed(&self, problem: Problem) -> Problem {
        let line = problem.line.unwrap_or(1);
        let mut lines = self.text.lines();
        let own = lines.nth(line.saturating_sub(1)).unwrap_or_default();
        let inserted = if line == 1 && own.starts_with(PERMIT) && !self.reader.text.contains(own.trim_end_matches(';')) {
            PERMIT.len()
        } else {
            0
        };
        let sought = own.get(inserted..).unwrap_or(own).trim_end_matches(';').trim_end();
        let mut candidates = self.reader.text.lines().enumerate().skip(self.first.saturating_sub(1));
        let found = candidates.find_map(|(at, raw)| Some((at + 1, raw.find(sought).filter(|_| !sought.trim().is_empty())?)));
        let (at, indent) = found.unwrap_or((self.first, 0));
        let moved = |column: usize| column.saturating_sub(inserted).max(1) + indent;
        Problem {
            file: self.reader.name.to_owned(),
            line: Some(at),
            column: problem.column.map(moved).or((indent > 0).then_some(indent + 1)),
            end: problem.end.map(|mut end| {
                end.column = moved(end.column);
                end.line = at + end.line.saturating_sub(line);
                end
            }),
            ..problem
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::load::Loader;
    use crate::test_support::{portal, tree};

    const SCHEMA: &str = "entity Role; entity User in [Role]; entity Doc { owner: User, name?: String };
        action view, edit appliesTo { principal: [User], resource: [Doc] };";

    /// The problems of a file, and the statements that were read.
    fn read(text: &str) -> (Vec<String>, usize) {
        let files = [
            ("schemas/bench.cedarschema", SCHEMA),
            ("policies/bench/a.cedar", "permit (principal, action, resource);"),
            ("policies/bench/invariants.yaml", text),
        ];
        let loaded = Loader::new(None).load(&portal(), &tree(files), None);
        let problems = loaded.rejected.map(|rejected| rejected.problems).unwrap_or_default();
        let warnings = loaded.revision.iter().flat_map(|revision| revision.warnings.clone());
        let all = loaded
            .revision
            .as_ref()
            .map(|revision| super::of(&portal().slug, revision).len());
        (
            problems
                .into_iter()
                .chain(warnings)
                .map(|problem| problem.to_string())
                .collect(),
            all.unwrap_or_default(),
        )
    }

    #[test]
    fn scopes_are_read_with_and_without_the_word_permit() {
        let text = r#"
- name: one
  always-denies: (principal in Role::"a", action == Action::"edit", resource)
- name: two
  why: because
  always-allows: |
    permit (principal, action == Action::"view", resource)
    when { resource.owner == principal };
- { name: three, never-errors: '(principal, action, resource)' }
- name: four
  equivalent: |
    permit (principal, action == Action::"view", resource) when { resource.owner == principal };
    forbid (principal, action == Action::"view", resource) when { resource has name && resource.name == "x" };
"#;
        assert_eq!(read(text).1, 4, "{:?}", read(text).0);
        assert_eq!(read("# nothing yet\n"), (Vec::new(), 0));
    }

    #[test]
    fn mistakes_have_their_place() {
        let mut wrong = Vec::new();
        for (text, place, said) in [
            (
                "- name: x\n  always-denies: (principal, action)\n",
                "policies/bench/invariants.yaml:2:36",
                "missing the `resource` variable",
            ),
            (
                "- name: x\n  always-denies: |\n    (principal, action, resource)\n    when { resource.ownr == principal }\n",
                "policies/bench/invariants.yaml:4:12",
                "ownr",
            ),
            (
                "- name: x\n  never-errors: (principal is Usr, action, resource)\n",
                "policies/bench/invariants.yaml:2:",
                "Usr",
            ),
            ("- name: x\n", "policies/bench/invariants.yaml:1", "needs exactly one claim"),
            (
                "- name: x\n  always-denies: (principal, action, resource)\n  always-allows: (principal, action, resource)\n",
                "policies/bench/invariants.yaml:1",
                "needs exactly one claim",
            ),
            (
                "- name: x\n  always-denied: (principal, action, resource)\n",
                "policies/bench/invariants.yaml:",
                "always-denied",
            ),
            ("a: b\n", "policies/bench/invariants.yaml:", "is not a list of invariants"),
            (
                "- name: x\n  always-denies: forbid (principal, action, resource);\n",
                "policies/bench/invariants.yaml:2:",
                "one `permit`",
            ),
            (
                "- name: x\n  always-denies: (principal == ?principal, action, resource)\n",
                "policies/bench/invariants.yaml:2:",
                "slot",
            ),
            (
                "- name: x\n  always-denies: (principal, action, resource)\n- name: x\n  always-denies: (principal, action, resource)\n",
                "policies/bench/invariants.yaml:3",
                "called `x`, too",
            ),
            (
                "- name: x\n  always-denies: ''\n",
                "policies/bench/invariants.yaml:",
                "unexpected",
            ),
        ] {
            let (problems, _) = read(text);
            let is_right = |problem: &String| problem.contains(said) && problem.starts_with(place);
            if problems.len() != 1 || !problems.iter().all(is_right) {
                wrong.push(format!("{text}: {problems:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let deep = format!(
            "- name: x\n  always-denies: (principal, action, resource) when {{ {}true{} }}\n",
            "(".repeat(500),
            ")".repeat(500)
        );
        assert!(read(&deep).0[0].contains("nest deeper"), "{:?}", read(&deep).0);
    }
}
