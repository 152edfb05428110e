//! `*.cedar`, `links.json` → policies with their final ids, parsed and strictly validated, statement by statement.
//!
//! Ids are `@id("…")`, or `<file stem>#<n>`. An unchanged file is not read again. In a changed file an unchanged
//! statement is neither parsed nor (under the same schema) validated again, and keeps all that was derived from it.
//! Nothing is dropped silently: a statement that does not fit is a problem.
//!
//! A known statement is found by its text, so it can move within its file: only its line changes. A statement without
//! `@id` is named by its number, so it counts as unchanged only at the same number. Validation results are kept per
//! schema: another schema validates every statement again.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::sync::{Arc, Weak};

use cedar_policy::{EntityUid, PolicyId, PolicySet, SlotId, Template, ValidationMode, Validator};
use miette::Diagnostic;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;
use serde_json::Value;

use super::checks::{ImpossiblePath, path_problems};
use super::json_items::{self, items, json_problem};
use super::nesting::{self, Syntax};
use super::slips;
use super::statements::{Statement, find, split};
use crate::engine::PolicyEntry;
use crate::error_chain::error_chain;
use crate::portal::path::rules::PathRules;
use crate::revision::PortalSchema;
use crate::revision::problem::{Position, Problem, merged};
use crate::revision::source::SourceFile;

/// Files that several portals may load.
pub(super) const SHARED: &str = "policies/_shared/";

/// The policies of one file.
pub struct ParsedFile {
    pub entries: Vec<Arc<PolicyEntry>>,
    pub templates: Vec<Template>,
    pub warnings: Vec<Problem>,
    /// For each template the warning that it has no link.
    pub unlinked: Vec<Problem>,
    /// Paths in it that no request can have, unless `paths` of `portal.yaml` says otherwise.
    pub path_problems: Vec<Problem>,
    source: SourceFile,
    schema: [u8; 32],
    statements: Vec<KnownStatement>,
}

/// One portal's parsed files, by name, as of the last time they parsed.
#[derive(Default)]
pub struct ParseCache(HashMap<String, Arc<ParsedFile>>);

/// The parsed files of `_shared`, as long as any portal's cache holds them.
#[derive(Default)]
pub struct SharedFiles(HashMap<String, Vec<Weak<ParsedFile>>>);

/// The parse result of one statement of a file.
struct KnownStatement {
    /// Bytes before the statement; its own length follows.
    offset: usize,
    length: usize,
    /// First line, from 1.
    place: Position,
    number: usize,
    item: FileItem,
    checked: CheckedPolicy,
}

/// The content of a statement. Revisions share entries, and with them all that is derived from a policy.
#[derive(Clone)]
enum FileItem {
    Policy(Arc<PolicyEntry>),
    Template(Box<Template>),
}

/// The validation result of one statement; places count from the statement's own beginning.
#[derive(Clone, Default)]
struct CheckedPolicy {
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    path_problems: Vec<Problem>,
}

/// One template link of `links.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkItem {
    #[serde(alias = "template_id")]
    template: String,
    #[serde(alias = "link_id")]
    id: String,
    #[serde(alias = "args")]
    slots: BTreeMap<String, Value>,
}

impl ParseCache {
    /// Forgets the files that are not wanted any more.
    pub fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| wanted(name));
    }

    /// `prefix` goes before every id.
    pub fn parse(
        &mut self,
        name: &str,
        file: &SourceFile,
        schema: &PortalSchema,
        prefix: &str,
        shared: &mut SharedFiles,
    ) -> Result<Arc<ParsedFile>, Vec<Problem>> {
        let cached = self.0.get(name);
        if let Some(same) = cached.filter(|known| known.is(file, schema)) {
            return Ok(Arc::clone(same));
        }
        let base = cached.cloned().or_else(|| shared.like(name, file));
        let parsed = match shared.same(name, file, schema) {
            Some(same) => same,
            None => Arc::new(parse_file(name, file, schema, prefix, base.as_deref())?),
        };
        shared.add(name, &parsed);
        self.0.insert(name.to_owned(), Arc::clone(&parsed));
        Ok(parsed)
    }
}

impl SharedFiles {
    fn all(&self, name: &str) -> impl Iterator<Item = Arc<ParsedFile>> {
        self.0.get(name).into_iter().flatten().filter_map(Weak::upgrade)
    }

    fn same(&self, name: &str, file: &SourceFile, schema: &PortalSchema) -> Option<Arc<ParsedFile>> {
        self.all(name).find(|known| known.is(file, schema))
    }

    /// The same text under another schema: it need not be parsed again.
    fn like(&self, name: &str, file: &SourceFile) -> Option<Arc<ParsedFile>> {
        self.all(name).find(|known| known.source == *file)
    }

    fn add(&mut self, name: &str, parsed: &Arc<ParsedFile>) {
        if !name.starts_with(SHARED) {
            return;
        }
        let known = self.0.entry(name.to_owned()).or_default();
        known.retain(|file| file.strong_count() > 0);
        let parsed = Arc::downgrade(parsed);
        if !known.iter().any(|file| file.ptr_eq(&parsed)) {
            known.push(parsed);
        }
        self.0.retain(|_, files| files.iter().any(|file| file.strong_count() > 0));
    }
}

impl ParsedFile {
    fn is(&self, file: &SourceFile, schema: &PortalSchema) -> bool {
        self.schema == schema.id && self.source == *file
    }

    /// Parse results by statement, to find unchanged ones.
    fn by_text(&self) -> FxHashMap<&str, &KnownStatement> {
        let text = self.source.text("").unwrap_or_default();
        let of = |known: &KnownStatement| text.get(known.offset..known.offset + known.length);
        self.statements.iter().filter_map(|k| Some((of(k)?, k))).collect()
    }
}

impl FileItem {
    fn id(&self) -> &PolicyId {
        match self {
            Self::Policy(entry) => entry.policy().id(),
            Self::Template(template) => template.id(),
        }
    }

    fn is_named(&self) -> bool {
        let annotation = match self {
            Self::Policy(entry) => entry.policy().annotation("id"),
            Self::Template(template) => template.annotation("id"),
        };
        annotation.is_some_and(|id| !id.is_empty())
    }
}

/// What is wrong with the text of a file by itself, without the schema.
pub fn syntax_problems(name: &str, file: &SourceFile) -> Vec<Problem> {
    let text = match file.text(name) {
        Ok(text) => text,
        Err(problem) => return vec![problem],
    };
    if let Err(problem) = nesting::check(name, text, Syntax::Policies) {
        return vec![problem];
    }
    let naming = Naming { name, text, prefix: "" };
    match PolicySet::from_str(text) {
        Ok(_) => Vec::new(),
        Err(_) => naming.broken(),
    }
}

/// Parses and validates one file; takes over from `base`, an earlier reading of it, every statement that did not
/// change.
fn parse_file(
    name: &str,
    file: &SourceFile,
    schema: &PortalSchema,
    prefix: &str,
    base: Option<&ParsedFile>,
) -> Result<ParsedFile, Vec<Problem>> {
    let text = file.text(name).map_err(|p| vec![p])?;
    nesting::check(name, text, Syntax::Policies).map_err(|p| vec![p])?;
    let before = base.map(ParsedFile::by_text).unwrap_or_default();
    let is_validated = base.is_some_and(|base| base.schema == schema.id);
    let naming = Naming { name, text, prefix };
    let mut statements = Vec::new();
    for (number, statement) in split(text).ok_or_else(|| naming.broken())?.into_iter().enumerate() {
        let known = before.get(statement.text);
        let known = known.filter(|k| k.item.is_named() || k.number == number);
        let item = known.map(|k| naming.place(&k.item, &statement));
        let item = item
            .or_else(|| naming.read(number, &statement))
            .ok_or_else(|| naming.broken())?;
        let checked = known.filter(|_| is_validated).map(|k| k.checked.clone());
        statements.push(KnownStatement {
            offset: statement.offset,
            length: statement.text.len(),
            place: Position {
                line: statement.line,
                column: statement.column,
            },
            number,
            checked: checked.unwrap_or_else(|| check(&item, statement.text, schema)),
            item,
        });
    }
    join(&naming, file, schema, statements)
}

/// Joins the statements of one file: its policies, and every problem of it.
fn join(
    naming: &Naming<'_>,
    file: &SourceFile,
    schema: &PortalSchema,
    statements: Vec<KnownStatement>,
) -> Result<ParsedFile, Vec<Problem>> {
    let mut parsed = ParsedFile {
        entries: Vec::with_capacity(statements.len()),
        templates: Vec::new(),
        warnings: Vec::new(),
        unlinked: Vec::new(),
        path_problems: Vec::new(),
        source: file.clone(),
        schema: schema.id,
        statements: Vec::new(),
    };
    let mut problems = Vec::new();
    let mut ids = FxHashSet::default();
    for known in &statements {
        if !ids.insert(known.item.id()) {
            problems.push(naming.duplicate(known.item.id(), known.place));
        }
        let id: &str = known.item.id().as_ref();
        let placed = |problem: &Problem| problem.clone().within(naming.name, known.place).of_policy(id);
        problems.extend(known.checked.errors.iter().map(placed));
        parsed.warnings.extend(known.checked.warnings.iter().map(placed));
        parsed.path_problems.extend(known.checked.path_problems.iter().map(placed));
        match &known.item {
            FileItem::Policy(entry) => parsed.entries.push(Arc::clone(entry)),
            FileItem::Template(template) => {
                parsed.templates.push(Template::clone(template));
                let problem = Problem::new(
                    "",
                    format!("template `{id}` has no link in links.json, so it decides nothing"),
                );
                parsed
                    .unlinked
                    .push(placed(&problem.with_help("link it, or write an entity where the slot is")));
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    parsed.statements = statements;
    Ok(parsed)
}

/// Validates one statement strictly; the rest of the file makes no difference to it.
fn check(item: &FileItem, text: &str, schema: &PortalSchema) -> CheckedPolicy {
    let mut set = PolicySet::new();
    let added = match item {
        FileItem::Policy(entry) => set.add(entry.policy().clone()),
        FileItem::Template(template) => set.add_template(Template::clone(template)),
    };
    let (mut errors, warnings) = validate("", text, &set, &schema.validator);
    errors.extend(added.err().map(|e| Problem::new("", e.to_string())));
    let path_problems = match item {
        FileItem::Policy(entry) => path_problems(entry, schema.path.as_ref(), &PathRules::default())
            .into_iter()
            .map(|ImpossiblePath { path, problem }| match find(text, &path) {
                Some(offset) => problem.at_span(text, offset, path.len()),
                None => problem,
            })
            .collect(),
        FileItem::Template(_) => Vec::new(),
    };
    CheckedPolicy {
        errors,
        warnings,
        path_problems,
    }
}

/// Gives policies the ids users see.
struct Naming<'a> {
    name: &'a str,
    text: &'a str,
    prefix: &'a str,
}

impl Naming<'_> {
    /// One policy or template, with its final id; `None` if the statement is anything else.
    fn read(&self, number: usize, statement: &Statement<'_>) -> Option<FileItem> {
        let set = PolicySet::from_str(statement.text).ok()?;
        let mut policies = set.policies();
        let mut templates = set.templates();
        match (policies.next(), templates.next()) {
            (Some(policy), None) if policies.next().is_none() => {
                let policy = policy.new_id(self.id(policy.annotation("id"), number));
                Some(FileItem::Policy(Arc::new(PolicyEntry::new(
                    &policy,
                    self.place_of(statement),
                )?)))
            }
            (None, Some(template)) if templates.next().is_none() => {
                let id = self.id(template.annotation("id"), number);
                Some(FileItem::Template(Box::new(template.new_id(id))))
            }
            _ => None,
        }
    }

    /// The known result, moved to its present line.
    fn place(&self, item: &FileItem, statement: &Statement<'_>) -> FileItem {
        match item {
            FileItem::Policy(entry) => FileItem::Policy(entry.at(self.place_of(statement))),
            FileItem::Template(_) => item.clone(),
        }
    }

    fn place_of(&self, statement: &Statement<'_>) -> String {
        format!("{}:{}", self.name, statement.line)
    }

    fn id(&self, annotation: Option<&str>, number: usize) -> PolicyId {
        let prefix = self.prefix;
        match annotation.filter(|id| !id.is_empty()) {
            Some(id) => PolicyId::new(format!("{prefix}{id}")),
            None => PolicyId::new(format!("{prefix}{}#{number}", stem(self.name))),
        }
    }

    fn duplicate(&self, id: &PolicyId, position: Position) -> Problem {
        let id: &str = id.as_ref();
        let mut problem = Problem::new(self.name, format!("policy id `{id}` is used twice"));
        problem.line = Some(position.line);
        problem.column = Some(position.column);
        problem
    }

    /// Cedar's errors for the whole file: they place a mistake better than those of the pieces.
    fn broken(&self) -> Vec<Problem> {
        match PolicySet::from_str(self.text) {
            Err(errors) => errors
                .iter()
                .map(|error| slips::with_help(Problem::from_diagnostic(self.name, self.text, error), self.text, error))
                .collect(),
            Ok(_) => vec![Problem::new(
                self.name,
                "cannot be taken apart into policies; report this as a bug",
            )],
        }
    }
}

/// `policies/customer/orders.cedar` → `orders`.
fn stem(name: &str) -> &str {
    let file = name.rsplit_once('/').map_or(name, |(_, file)| file);
    file.strip_suffix(".cedar").unwrap_or(file)
}

pub(super) fn validate(name: &str, text: &str, set: &PolicySet, validator: &Validator) -> (Vec<Problem>, Vec<Problem>) {
    let result = validator.validate(set, ValidationMode::Strict);
    let place = |error: &dyn Diagnostic| {
        let mut problem = Problem::from_diagnostic(name, text, error);
        // the problem has the policy as a field
        if let Some((id, message)) = without_policy(&problem.message) {
            (problem.policy, problem.message) = (Some(id.into()), message);
        }
        if let Some((_, help)) = problem.help.as_deref().and_then(without_policy) {
            problem.help = Some(help.into());
        }
        problem
    };
    let errors = result.validation_errors().map(|e| place(e)).collect();
    let warnings = result.validation_warnings().map(|w| place(w)).collect();
    (merged(errors), merged(warnings))
}

/// ``for policy `id`, …``: the id, and the rest.
fn without_policy(text: &str) -> Option<(String, String)> {
    let (id, rest) = text.strip_prefix("for policy `")?.split_once("`, ")?;
    Some((id.to_owned(), rest.to_owned()))
}

/// The templates that links may name.
pub(super) struct Templates<'a> {
    pub known: &'a [Template],
    /// False if a policy file could not be read: it may hold the template that seems to be missing.
    pub are_all: bool,
}

/// Template links from `links.json`, linked against every template of the portal and validated.
///
/// The Cedar CLI's names for the members (`template_id`, `link_id`, `args`) are understood too.
pub(super) fn link(
    name: &str,
    file: &SourceFile,
    templates: &Templates<'_>,
    validator: &Validator,
) -> Result<Vec<Arc<PolicyEntry>>, Vec<Problem>> {
    let text = file.text(name).map_err(|p| vec![p])?;
    let links: Vec<LinkItem> = serde_json::from_str(text).map_err(|e| {
        let problem = json_problem(name, &e, &e.to_string());
        vec![problem.with_help("a link is `{ \"template\": …, \"id\": …, \"slots\": { … } }`")]
    })?;
    let mut set = PolicySet::new();
    for template in templates.known {
        // duplicates were found when the files were joined
        let _known = set.add_template(template.clone());
    }
    let mut problems = Vec::new();
    let places: Vec<json_items::JsonItem<'_>> = items(text).collect();
    for (link, item) in links.iter().zip(&places) {
        if !templates.are_all && set.template(&PolicyId::new(&link.template)).is_none() {
            continue;
        }
        if let Err(message) = add_link(&mut set, link) {
            problems.push(item.place_whole(name, Problem::new(name, format!("link `{}`: {message}", link.id))));
        }
    }
    let (errors, _) = validate(name, "", &set, validator);
    problems.extend(errors.into_iter().map(|problem| {
        let mut linked = links.iter().zip(&places);
        match linked.find(|(link, _)| problem.policy.as_deref() == Some(link.id.as_str())) {
            Some((_, item)) => item.place_whole(name, problem),
            None => problem,
        }
    }));
    let mut entries = Vec::with_capacity(links.len());
    for (link, item) in links.iter().zip(&places) {
        let linked = set.policy(&PolicyId::new(&link.id));
        let place = format!("{name}:{}", item.begin.line);
        entries.extend(linked.and_then(|policy| PolicyEntry::new(policy, place)).map(Arc::new));
    }
    if problems.is_empty() && templates.are_all && entries.len() != links.len() {
        problems.push(Problem::new(name, "a link cannot be used as a policy"));
    }
    if problems.is_empty() { Ok(entries) } else { Err(problems) }
}

/// The templates that the links of a file name.
pub(super) fn linked_templates(file: &SourceFile) -> FxHashSet<String> {
    let links: Option<Vec<LinkItem>> = file.text("").ok().and_then(|text| serde_json::from_str(text).ok());
    links.into_iter().flatten().map(|link| link.template).collect()
}

fn add_link(set: &mut PolicySet, link: &LinkItem) -> Result<(), String> {
    let mut slots = HashMap::new();
    for (slot, value) in &link.slots {
        let slot = match slot.as_str() {
            "?principal" | "principal" => SlotId::principal(),
            "?resource" | "resource" => SlotId::resource(),
            other => return Err(format!("unknown slot `{other}`; a template has `?principal` and `?resource`")),
        };
        let uid = match value {
            Value::String(text) => EntityUid::from_str(text).ok(),
            other => EntityUid::from_json(other.clone()).ok(),
        };
        let uid = uid.ok_or_else(|| format!("`{value}` is not an entity; write `Type::\"id\"` or {{\"type\", \"id\"}}"))?;
        slots.insert(slot, uid);
    }
    let template = PolicyId::new(&link.template);
    if set.template(&template).is_none() {
        return Err(format!("there is no template `{}`", link.template));
    }
    set.link(template, PolicyId::new(&link.id), slots)
        .map_err(|e| error_chain(&e))
}
