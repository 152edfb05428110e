//! A portal's schema files → the validator of its policies and the model that values are filled by.
//!
//! Shared and own text are joined. Portals with equal schema files share one result, and a change of any other file
//! keeps it: reading a schema costs as much as hundreds of policies.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use cedar_policy::{Schema, SchemaFragment, Validator};

use super::nesting::{self, Syntax};
use super::statements::find;
use crate::context::ContextPlans;
use crate::digest::sha256_of;
use crate::revision::PortalSchema;
use crate::revision::problem::{Position, Problem, RevisionError};
use crate::revision::source::Files;
use crate::schema::SchemaModel;
use crate::types::PortalSlug;

/// The schemas that portals serve, and the last one loaded: a load prepared ahead serves its schema only later.
#[derive(Default)]
pub struct Schemas {
    known: HashMap<[u8; 32], Weak<PortalSchema>>,
    pub(super) recent: Option<Arc<PortalSchema>>,
}

impl Schemas {
    pub fn load(
        &mut self,
        slug: &PortalSlug,
        files: &Files,
        namespace: Option<&str>,
    ) -> Result<Arc<PortalSchema>, RevisionError> {
        let names = names(slug);
        let id = id(&names, files, namespace);
        if let Some(known) = self.known.get(&id).and_then(Weak::upgrade) {
            self.recent = Some(Arc::clone(&known));
            return Ok(known);
        }
        let [_, own] = &names;
        let (schema, text) = parse(&names, files)?;
        let validator = Validator::new(schema.clone());
        let model = SchemaModel::new(schema, &text, namespace).map_err(|e| Problem::new(own, e.to_string()))?;
        let made = Arc::new(PortalSchema {
            id,
            plans: Arc::new(ContextPlans::new(&model)),
            path: model.resolve_type("Path"),
            model: Arc::new(model),
            validator,
        });
        self.recent = Some(Arc::clone(&made));
        self.known.retain(|_, known| known.strong_count() > 0);
        self.known.insert(id, Arc::downgrade(&made));
        Ok(made)
    }
}

/// A portal without a schema file of its own: said first where the portal is rejected, because it may be the cause of
/// the rest.
pub fn missing(slug: &PortalSlug, files: &Files) -> Option<Problem> {
    let own = format!("schemas/{slug}.cedarschema");
    let problem = || {
        Problem::new(&own, "is missing: the portal's own entity types and actions are unknown")
            .with_help("only schemas/_shared.cedarschema counts; add the file, or make it empty if the portal needs none")
    };
    files.get(&own).is_none().then(problem)
}

/// The identity of a schema. It includes which of the two files holds which text, because errors name their file.
fn id(names: &[String; 2], files: &Files, namespace: Option<&str>) -> [u8; 32] {
    let mut content = Vec::new();
    for name in names {
        let file = files.get(name);
        content.push(u8::from(file.is_some()));
        content.extend(file.map(|file| file.hash).unwrap_or_default());
    }
    content.push(u8::from(namespace.is_some()));
    content.extend(namespace.unwrap_or_default().as_bytes());
    sha256_of([content.as_slice()])
}

/// The portal's schema: shared and own text joined, errors placed in the file they are in.
fn parse(names: &[String; 2], files: &Files) -> Result<(Schema, String), RevisionError> {
    let [_, own] = names;
    let mut joined = String::new();
    let mut problems = Vec::new();
    for name in names.iter().filter(|name| files.get(name).is_some()) {
        let Some(file) = files.get(name) else { continue };
        match file.text(name) {
            Err(problem) => problems.push(problem),
            Ok(text) => match fragment_problem(name, text) {
                Some(problem) => problems.push(problem),
                None => joined = format!("{joined}{text}\n"),
            },
        }
    }
    RevisionError::check(problems)?;
    if joined.is_empty() {
        return Err(Problem::new(own, "is missing; strict validation needs a schema").into());
    }
    match Schema::from_cedarschema_str(&joined) {
        Ok((schema, _)) => Ok((schema, joined)),
        Err(error) => Err(in_joined(names, files, &joined, &error).into()),
    }
}

/// What is wrong with the text of one schema file by itself.
pub fn fragment_problem(name: &str, text: &str) -> Option<Problem> {
    // SECURITY: Cedar's parser recurses as deep as the text nests, and a stack that overflows ends the process
    if let Err(problem) = nesting::check(name, text, Syntax::Schema) {
        return Some(problem);
    }
    let parsed = SchemaFragment::from_cedarschema_str(text);
    parsed.err().map(|error| Problem::from_diagnostic(name, text, &error))
}

/// What is wrong with the texts of a portal's schemas, each by itself.
pub fn syntax_problems(slug: &PortalSlug, files: &Files) -> Vec<Problem> {
    let problem = |name: &String| match files.get(name)?.text(name) {
        Ok(text) => fragment_problem(name, text),
        Err(problem) => Some(problem),
    };
    names(slug).iter().filter_map(problem).collect()
}

/// The files of a portal's schema, the shared one first.
fn names(slug: &PortalSlug) -> [String; 2] {
    [
        "schemas/_shared.cedarschema".to_owned(),
        format!("schemas/{slug}.cedarschema"),
    ]
}

/// Some errors have no place, and name what they are about as `Action::"name"`.
fn at_quoted_name(problem: Problem, text: &str) -> Problem {
    let name = problem.message.split('"').nth(1).unwrap_or_default().to_owned();
    match find(text, &name).filter(|_| !name.is_empty()) {
        Some(offset) => problem.at_span(text, offset, name.len()),
        None => problem,
    }
}

/// An error in the joined text belongs to the file that the place falls into.
fn in_joined(names: &[String], files: &Files, joined: &str, error: &dyn miette::Diagnostic) -> Problem {
    let problem = Problem::from_diagnostic("schemas/", joined, error);
    // of two declarations of one name the later one is the mistake: the portal's own text comes last
    let last = error
        .labels()
        .and_then(|labels| labels.max_by_key(miette::LabeledSpan::offset));
    let problem = match (last, problem.line) {
        (Some(label), _) => problem.at_span(joined, label.offset(), label.len()),
        (None, None) => at_quoted_name(problem, joined),
        (None, Some(_)) => problem,
    };
    let mut first_line = 0;
    for name in names {
        let Some(text) = files.get(name).and_then(|f| f.text(name).ok()) else {
            continue;
        };
        let lines = text.matches('\n').count() + 1;
        match problem.line {
            Some(line) if line <= first_line + lines => {
                let end = problem.end.as_deref().copied();
                return Problem {
                    file: name.clone(),
                    line: Some(line - first_line),
                    end: end.map(|Position { line, column }| {
                        Box::new(Position {
                            line: line.saturating_sub(first_line),
                            column,
                        })
                    }),
                    ..problem
                };
            }
            None => {
                return Problem {
                    file: names.last().cloned().unwrap_or_default(),
                    ..problem
                };
            }
            Some(_) => first_line += lines,
        }
    }
    problem
}
