//! `*.cedar`, `links.json` → policies with their final ids, parsed and strictly validated, file by file.
//!
//! Ids are `@id("…")`, or `<file stem>#<n>`. A file that did not change is neither parsed nor validated again: the
//! cache keeps it by name, content and schema. Nothing is dropped silently: what does not fit is a problem.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::sync::Arc;

use cedar_policy::{EntityUid, Policy, PolicyId, PolicySet, SlotId, Template, ValidationMode, Validator};
use miette::Diagnostic;
use serde::Deserialize;
use serde_json::Value;

use super::files::SourceFile;
use super::problem::Problem;
use crate::authz::engine::PolicyEntry;

/// The policies of one file.
#[derive(Default)]
pub struct ParsedFile {
    pub entries: Vec<Arc<PolicyEntry>>,
    pub templates: Vec<Template>,
    pub warnings: Vec<Problem>,
}

/// Parsed files, kept while they and their schema do not change.
#[derive(Default)]
pub struct ParseCache {
    files: HashMap<CacheKey, Arc<ParsedFile>>,
    used: HashMap<CacheKey, Arc<ParsedFile>>,
}

type CacheKey = (String, [u8; 32], [u8; 32]);

/// One template link of `links.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    #[serde(alias = "template_id")]
    template: String,
    #[serde(alias = "link_id")]
    id: String,
    #[serde(alias = "args")]
    slots: BTreeMap<String, Value>,
}

impl ParseCache {
    /// Call before each load of the portal: forgets what its last load did not use.
    pub fn next_load(&mut self) {
        self.files = std::mem::take(&mut self.used);
    }

    pub fn parse(
        &mut self,
        name: &str,
        file: &SourceFile,
        schema: ([u8; 32], &Validator),
        prefix: &str,
    ) -> Result<Arc<ParsedFile>, Vec<Problem>> {
        let key = (name.to_owned(), file.hash, schema.0);
        let known = self.files.get(&key).or_else(|| self.used.get(&key)).cloned();
        let parsed = match known {
            Some(parsed) => parsed,
            None => Arc::new(parse_file(name, file, schema.1, prefix)?),
        };
        self.used.insert(key, Arc::clone(&parsed));
        Ok(parsed)
    }
}

/// Parses and validates one file; `prefix` goes before every id.
fn parse_file(name: &str, file: &SourceFile, validator: &Validator, prefix: &str) -> Result<ParsedFile, Vec<Problem>> {
    let text = file.text(name).map_err(|p| vec![p])?;
    super::nesting::check(name, text).map_err(|p| vec![p])?;
    let set = PolicySet::from_str(text).map_err(|errors| {
        errors
            .iter()
            .map(|e| Problem::from_diagnostic(name, text, e))
            .collect::<Vec<_>>()
    })?;
    let naming = Naming { name, text, prefix };
    let mut problems = Vec::new();
    let mut renamed = PolicySet::new();
    let mut policies: Vec<(usize, Policy)> = set.policies().map(|p| (number(p.id()), naming.policy(p))).collect();
    policies.sort_by_key(|(n, _)| *n);
    let mut templates: Vec<(usize, Template)> = set.templates().map(|t| (number(t.id()), naming.template(t))).collect();
    templates.sort_by_key(|(n, _)| *n);
    for (_, policy) in &policies {
        if renamed.add(policy.clone()).is_err() {
            problems.push(naming.duplicate(policy.id(), offset_of(policy)));
        }
    }
    for (_, template) in &templates {
        if renamed.add_template(template.clone()).is_err() {
            problems.push(naming.duplicate(template.id(), template.as_ref().loc().map_or(0, |l| l.span.offset())));
        }
    }
    let (errors, warnings) = validate(name, text, &renamed, validator);
    problems.extend(errors);
    let mut entries = Vec::with_capacity(policies.len());
    for (_, policy) in &policies {
        let (line, _) = super::problem::position(text, offset_of(policy));
        match PolicyEntry::new(policy, format!("{name}:{line}")) {
            Some(entry) => entries.push(Arc::new(entry)),
            None => problems.push(Problem::new(name, format!("policy `{}` cannot be used", policy.id())).at_line(Some(line))),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(ParsedFile {
        entries,
        templates: templates.into_iter().map(|(_, t)| t).collect(),
        warnings,
    })
}

/// Gives policies the ids users see.
struct Naming<'a> {
    name: &'a str,
    text: &'a str,
    prefix: &'a str,
}

impl Naming<'_> {
    fn policy(&self, policy: &Policy) -> Policy {
        policy.new_id(self.id(policy.annotation("id"), policy.id()))
    }

    fn template(&self, template: &Template) -> Template {
        template.new_id(self.id(template.annotation("id"), template.id()))
    }

    fn id(&self, annotation: Option<&str>, given: &PolicyId) -> PolicyId {
        let prefix = self.prefix;
        match annotation.filter(|id| !id.is_empty()) {
            Some(id) => PolicyId::new(format!("{prefix}{id}")),
            None => PolicyId::new(format!("{prefix}{}#{}", stem(self.name), number(given))),
        }
    }

    fn duplicate(&self, id: &PolicyId, offset: usize) -> Problem {
        let id: &str = id.as_ref();
        Problem::new(self.name, format!("policy id `{id}` is used twice")).at_offset(self.text, offset)
    }
}

/// Cedar numbers the policies of a text from 0: `policy0`, `policy1` …
fn number(id: &PolicyId) -> usize {
    let id: &str = id.as_ref();
    id.strip_prefix("policy").and_then(|n| n.parse().ok()).unwrap_or_default()
}

fn offset_of(policy: &Policy) -> usize {
    policy.as_ref().loc().map_or(0, |loc| loc.span.offset())
}

/// `policies/customer/orders.cedar` → `orders`.
fn stem(name: &str) -> &str {
    let file = name.rsplit_once('/').map_or(name, |(_, file)| file);
    file.strip_suffix(".cedar").unwrap_or(file)
}

fn validate(name: &str, text: &str, set: &PolicySet, validator: &Validator) -> (Vec<Problem>, Vec<Problem>) {
    let result = validator.validate(set, ValidationMode::Strict);
    let place = |error: &dyn Diagnostic| Problem::from_diagnostic(name, text, error);
    let errors = result.validation_errors().map(|e| place(e)).collect();
    let warnings = result.validation_warnings().map(|w| place(w)).collect();
    (errors, warnings)
}

/// Template links from `links.json`, linked against every template of the portal and validated.
///
/// The Cedar CLI's names for the members (`template_id`, `link_id`, `args`) are understood too.
pub fn link(
    name: &str,
    file: &SourceFile,
    templates: &[Template],
    validator: &Validator,
) -> Result<Vec<Arc<PolicyEntry>>, Vec<Problem>> {
    let text = file.text(name).map_err(|p| vec![p])?;
    let links: Vec<Link> = serde_json::from_str(text).map_err(|e| {
        let problem = Problem::new(
            name,
            format!("{e}; expected [{{\"template\": …, \"id\": …, \"slots\": {{…}}}}]"),
        );
        vec![problem.at_line(Some(e.line()))]
    })?;
    let mut set = PolicySet::new();
    for template in templates {
        // duplicates were found when the files were joined
        let _known = set.add_template(template.clone());
    }
    let mut problems = Vec::new();
    for link in &links {
        if let Err(message) = add_link(&mut set, link) {
            problems.push(Problem::new(name, format!("link `{}`: {message}", link.id)).at_line(line_of(text, &link.id)));
        }
    }
    let (errors, _) = validate(name, "", &set, validator);
    problems.extend(errors);
    let mut entries = Vec::with_capacity(links.len());
    for link in &links {
        let place = line_of(text, &link.id).map_or_else(|| name.to_owned(), |line| format!("{name}:{line}"));
        let linked = set.policy(&PolicyId::new(&link.id));
        entries.extend(linked.and_then(|policy| PolicyEntry::new(policy, place)).map(Arc::new));
    }
    if problems.is_empty() && entries.len() != links.len() {
        problems.push(Problem::new(name, "a link cannot be used as a policy"));
    }
    if problems.is_empty() { Ok(entries) } else { Err(problems) }
}

fn add_link(set: &mut PolicySet, link: &Link) -> Result<(), String> {
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
    set.link(template, PolicyId::new(&link.id), slots).map_err(|e| e.to_string())
}

/// Where a link's id stands in the file, for reports.
fn line_of(text: &str, id: &str) -> Option<usize> {
    let quoted = serde_json::to_string(id).ok()?;
    let offset = text.find(&quoted)?;
    Some(super::problem::position(text, offset).0)
}
