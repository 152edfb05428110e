//! One portal's files → one immutable, content-hashed revision, or every reason why not.
//!
//! Beside the path: a pipeline of parse → validate → conform → test → index. A candidate is taken whole or not at
//! all; only the emergency forbids of `_deny/` are taken one by one, and join whatever revision is in force. Nothing
//! here reads a file or a clock; `files` and `reload` do.

mod brakes;
pub mod cases;
mod checks;
pub mod files;
mod nesting;
pub mod policies;
pub mod problem;

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Weak};

use aws_lc_rs::digest::{SHA256, digest};
use cedar_policy::{Entities, EntityId, EntityUid, Schema, SchemaFragment, Template, Validator};
use http::HeaderValue;
use serde_json::{Map, Value};

use self::brakes::{Braked, Brakes};
use self::checks::{
    duplicates, gone, is_policy_place, login_problem, namespace_warning, path_problems, public_problems, route_problems,
    schema_problems,
};
use self::files::{Files, Tree};
use self::policies::ParseCache;
use self::problem::{Problem, RevisionError};
use crate::authz::context::ContextPlans;
use crate::authz::engine::Party;
use crate::authz::engine::{Engine, ErroredForbids, PolicyEntry, Slice};
use crate::authz::entities::EntityStore;
use crate::authz::schema::SchemaModel;
use crate::authz::supplied::report;
use crate::authz::{Rules, Target, TypeNames};
use crate::config;
use crate::denial::{Denial, Refusal};
use crate::portal::PATH_TYPE;
use crate::portal::file::{PortalFile, SkipErrors};
use crate::portal::path::CanonicalPath;
use crate::types::PortalSlug;

/// Everything of a portal that is hot-reloaded, as one value.
pub struct Revision {
    /// First 16 hex digits of the content's SHA-256.
    pub id: Arc<str>,
    pub header: HeaderValue,
    pub rules: Rules,
    pub file: Arc<PortalFile>,
    /// `portal.yaml`'s flags, as the context record.
    pub flags: Arc<Map<String, Value>>,
    /// What the policies were made of, to fall back on when only a brake changes.
    main: Arc<Main>,
    brakes: Brakes,
    pub warnings: Vec<Problem>,
}

/// The outcome of one load.
pub struct Loaded {
    /// What to serve from now on; `None`: nothing better than what is served already.
    pub revision: Option<Arc<Revision>>,
    /// Why the candidate, or one of its brakes, was not taken.
    pub rejected: Option<RevisionError>,
}

/// Turns files into revisions, remembering what it parsed.
pub struct Loader {
    /// Of the portal that is being loaded.
    cache: ParseCache,
    caches: HashMap<PortalSlug, ParseCache>,
    warnings: Warnings,
    twins: Option<SyncSender<Weak<Slice>>>,
    trial: Trial,
}

/// Whether decision tests gate a candidate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Trial {
    Run,
    /// For a command that runs them itself.
    Skip,
}

/// What validation warnings do to a candidate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Warnings {
    Show,
    /// `--deny-warnings`
    Reject,
}

/// One portal as configuration describes it: the frame its revision works in.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    pub portal: &'a config::Portal,
    /// The issuers it trusts.
    pub issuers: &'a [config::Issuer],
    /// Of `login.providers`; `None`: without a configuration nobody knows them.
    pub providers: Option<&'a [config::Provider]>,
}

/// A candidate without its brakes: parsed, validated, tested.
struct Main {
    files: Files,
    schema: Arc<SchemaModel>,
    schema_hash: [u8; 32],
    validator: Validator,
    plans: Arc<ContextPlans>,
    names: Arc<TypeNames>,
    store: Arc<EntityStore>,
    entries: Vec<Arc<PolicyEntry>>,
    file: Arc<PortalFile>,
    warnings: Vec<Problem>,
}

impl Loader {
    pub fn new(warnings: Warnings, twins: Option<SyncSender<Weak<Slice>>>) -> Self {
        Self {
            cache: ParseCache::default(),
            caches: HashMap::new(),
            warnings,
            twins,
            trial: Trial::Run,
        }
    }

    /// Loads candidates without asking their decision tests; never what a gate serves.
    pub fn untested(mut self) -> Self {
        self.trial = Trial::Skip;
        self
    }

    /// Loads one portal out of the tree; `previous` is what it serves now.
    pub fn load(&mut self, frame: Frame<'_>, tree: &Tree, previous: Option<&Revision>) -> Loaded {
        let slug = &frame.portal.slug;
        self.cache = self.caches.remove(slug).unwrap_or_default();
        self.cache.next_load();
        let loaded = self.load_cached(frame, tree, previous);
        self.caches.insert(slug.clone(), std::mem::take(&mut self.cache));
        loaded
    }

    fn load_cached(&mut self, frame: Frame<'_>, tree: &Tree, previous: Option<&Revision>) -> Loaded {
        let slug = &frame.portal.slug;
        let files = tree.portal_files(slug);
        let mut problems = tree.portal_problems(slug);
        problems.extend(gone(slug, &files, previous));
        let candidate = match previous.filter(|p| problems.is_empty() && p.main.files == files) {
            Some(previous) => Ok(Arc::clone(&previous.main)),
            None => RevisionError::check(problems)
                .and_then(|()| self.main(frame, files))
                .map(Arc::new),
        };
        let (main, mut rejected) = match candidate {
            Ok(main) => (Some(main), None),
            Err(error) => (previous.map(|p| Arc::clone(&p.main)), Some(error)),
        };
        let Some(main) = main else {
            return Loaded {
                revision: None,
                rejected,
            };
        };
        let Braked {
            mut brakes,
            mut problems,
            lost,
        } = self.brakes(&main, slug, tree, previous);
        let mut main = main;
        if let Some(previous) = previous.filter(|_| !lost.is_empty()) {
            problems.extend(lost);
            main = Arc::clone(&previous.main);
            brakes = self.brakes(&main, slug, tree, Some(previous)).brakes;
        }
        if !problems.is_empty() {
            let rejected = rejected.get_or_insert(RevisionError { problems: Vec::new() });
            rejected.problems.extend(problems);
            // SECURITY: nothing is served yet, and a brake that is there does not hold
            if previous.is_none() {
                return Loaded {
                    revision: None,
                    rejected: Some(RevisionError {
                        problems: std::mem::take(&mut rejected.problems),
                    }),
                };
            }
        }
        let same = previous.is_some_and(|p| Arc::ptr_eq(&p.main, &main) && p.brakes.files == brakes.files);
        let revision = (!same).then(|| Arc::new(self.assemble(&main, brakes)));
        Loaded { revision, rejected }
    }

    fn main(&mut self, frame: Frame<'_>, files: Files) -> Result<Main, RevisionError> {
        let slug = &frame.portal.slug;
        let file = Arc::new(portal_file(slug, &files)?);
        let (schema, text) = schema(slug, &files)?;
        let schema_hash = hash(text.as_bytes());
        let validator = Validator::new(schema.clone());
        let model = SchemaModel::new(schema, &text, file.namespace.as_deref())
            .map_err(|e| Problem::new(&format!("schemas/{slug}.cedarschema"), e.to_string()))?;
        let names = Arc::new(TypeNames::new(&model, slug.as_str()));
        let mut problems = schema_problems(slug, &model);
        problems.extend(route_problems(slug, &files, &file, &model));
        problems.extend(login_problem(frame, &file));
        let (entries, templates, mut warnings) = self.policies(slug, &files, (schema_hash, &validator), &mut problems);
        let links = links(slug, &files, &templates, &validator).unwrap_or_else(|found| {
            problems.extend(found);
            Vec::new()
        });
        let entries: Vec<_> = entries.into_iter().chain(links).collect();
        problems.extend(duplicates(&entries));
        problems.extend(path_problems(&entries, &names));
        problems.extend(public_problems(slug, &file, &names, &entries));
        warnings.extend(namespace_warning(slug, &model));
        if self.warnings == Warnings::Reject {
            problems.extend(warnings.iter().cloned());
        }
        let store = entities(slug, &files, &model).unwrap_or_else(|problem| {
            problems.push(problem);
            EntityStore::default()
        });
        RevisionError::check(problems)?;
        let plans = Arc::new(ContextPlans::new(&model));
        let (schema, store) = (Arc::new(model), Arc::new(store));
        let main = Main {
            files,
            schema,
            schema_hash,
            validator,
            plans,
            names,
            store,
            entries,
            file,
            warnings,
        };
        let trial = self.assemble(&Arc::new(main), Brakes::default());
        if self.trial == Trial::Run {
            cases::check(frame, &trial)?;
        }
        Arc::into_inner(trial.main).ok_or_else(|| Problem::new(slug.as_str(), "the trial revision is still in use").into())
    }

    fn policies(
        &mut self,
        slug: &PortalSlug,
        files: &Files,
        schema: ([u8; 32], &Validator),
        problems: &mut Vec<Problem>,
    ) -> (Vec<Arc<PolicyEntry>>, Vec<Template>, Vec<Problem>) {
        let (mut entries, mut templates, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        for (name, file) in files.0.iter().filter(|(name, _)| name.ends_with(".cedar")) {
            if !is_policy_place(slug, name) {
                problems.push(
                    Problem::new(name, "is in a folder whose policies are not loaded")
                        .with_help(format!("move it to policies/{slug}/, or to _deny/ or candidate/ below it")),
                );
                continue;
            }
            match self.cache.parse(name, file, schema, "") {
                Ok(parsed) => {
                    entries.extend(parsed.entries.iter().cloned());
                    templates.extend(parsed.templates.iter().cloned());
                    warnings.extend(parsed.warnings.iter().cloned());
                }
                Err(found) => problems.extend(found),
            }
        }
        let own = format!("policies/{slug}/");
        if !files.0.keys().any(|name| name.starts_with(&own) && name.ends_with(".cedar")) {
            problems
                .push(Problem::new(&own, "has no policy file").with_help("an empty .cedar file says that nothing is permitted"));
        }
        (entries, templates, warnings)
    }

    fn assemble(&self, main: &Arc<Main>, brakes: Brakes) -> Revision {
        let mut all = main.files.clone();
        all.0.extend(brakes.files.0.iter().map(|(n, f)| (n.clone(), f.clone())));
        let id: String = all.hash().iter().take(8).map(|b| format!("{b:02x}")).collect();
        let errored = match main.file.danger_skip_errors {
            SkipErrors::DangerSkip => ErroredForbids::Skip,
            SkipErrors::Deny => ErroredForbids::Deny,
        };
        let entries = main.entries.iter().chain(&brakes.entries).cloned().collect();
        let actions = main.schema.actions().map(|(uid, model)| (uid, model.ancestors.as_slice()));
        let engine = Engine::new(entries, actions, Arc::clone(&main.store), errored);
        let engine = engine.with_twin_queue(self.twins.clone()).with_names(Arc::clone(&main.names));
        let rules = Rules {
            schema: Arc::clone(&main.schema),
            engine,
            plans: Arc::clone(&main.plans),
            names: Arc::clone(&main.names),
            claims: main.file.claims.clone(),
        };
        let flags = main
            .file
            .flags
            .iter()
            .map(|(name, flag)| (name.clone(), Value::Bool(flag.value)));
        // INVARIANT: hex digits are a header value
        let header = HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static(""));
        Revision {
            id: Arc::from(id),
            header,
            rules,
            flags: Arc::new(flags.collect()),
            file: Arc::clone(&main.file),
            main: Arc::clone(main),
            brakes,
            warnings: main.warnings.clone(),
        }
    }
}

impl Revision {
    /// What a request asks for, in this revision's words.
    pub fn target(&self, method: &str, path: &CanonicalPath) -> Result<Target, Refusal> {
        let routed = self.file.routes.find(method, path);
        let (action, ty, id) = match &routed {
            Some(found) => (&*found.route.action, &*found.route.resource_type, &*found.resource_id),
            None => (method, PATH_TYPE, path.id()),
        };
        let schema = &self.rules.schema;
        let action = schema
            .resolve_action(action)
            .ok_or_else(|| not_permitted(format!("the schema has no action `{action}`")))?;
        let ty = schema
            .resolve_type(ty)
            .ok_or_else(|| not_permitted(format!("the schema has no type `{ty}`")))?;
        let resource = self.rules.resource(EntityUid::from_type_name_and_id(ty, EntityId::new(id)));
        let mut paths = Vec::new();
        if routed.is_some() {
            paths.extend(self.path_query(method, path.id()));
        }
        if path.plain_id() != path.id() {
            paths.extend(self.path_query(method, path.plain_id()));
        }
        let route = routed.map(|found| Arc::clone(&found.route.text));
        Ok(Target {
            action,
            resource,
            paths,
            route,
        })
    }

    /// The plain path query; `None` where the schema knows no paths, so that no rule can name one.
    fn path_query(&self, method: &str, id: &str) -> Option<(EntityUid, Party)> {
        let ty = self.rules.names.path.clone()?;
        let path = self.rules.resource(EntityUid::from_type_name_and_id(ty, EntityId::new(id)));
        Some((self.rules.schema.method_action(method)?, path))
    }

    /// Every file it is made of, to keep it over a restart.
    pub fn files(&self) -> Files {
        let mut all = self.main.files.clone();
        all.0.extend(self.brakes.files.0.clone());
        all
    }

    /// Files of decision tests and everything else but the brakes.
    pub fn main_files(&self) -> &Files {
        &self.main.files
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

fn portal_file(slug: &PortalSlug, files: &Files) -> Result<PortalFile, RevisionError> {
    let name = format!("policies/{slug}/portal.yaml");
    let text = match files.get(&name) {
        Some(file) => file.text(&name)?,
        None => "",
    };
    PortalFile::parse(text).map_err(|errors| RevisionError {
        problems: errors
            .into_iter()
            .map(|e| {
                let message = if e.key.is_empty() {
                    e.message
                } else {
                    format!("`{}`: {}", e.key, e.message)
                };
                Problem::new(&name, message).at_line(e.line)
            })
            .collect(),
    })
}

/// The portal's schema: shared and own text joined, errors placed in the file they are in.
fn schema(slug: &PortalSlug, files: &Files) -> Result<(Schema, String), RevisionError> {
    let own = format!("schemas/{slug}.cedarschema");
    let names = ["schemas/_shared.cedarschema".to_owned(), own.clone()];
    let mut joined = String::new();
    let mut problems = Vec::new();
    for name in names.iter().filter(|name| files.get(name).is_some()) {
        let Some(file) = files.get(name) else { continue };
        match file.text(name) {
            Err(problem) => problems.push(problem),
            Ok(text) => match SchemaFragment::from_cedarschema_str(text) {
                Err(error) => problems.push(Problem::from_diagnostic(name, text, &error)),
                Ok(_) => joined = format!("{joined}{text}\n"),
            },
        }
    }
    RevisionError::check(problems)?;
    if joined.is_empty() {
        return Err(Problem::new(&own, "is missing; strict validation needs a schema").into());
    }
    match Schema::from_cedarschema_str(&joined) {
        Ok((schema, _)) => Ok((schema, joined)),
        Err(error) => Err(in_joined(&names, files, &joined, &error).into()),
    }
}

/// An error in the joined text belongs to the file that the place falls into.
fn in_joined(names: &[String], files: &Files, joined: &str, error: &dyn miette::Diagnostic) -> Problem {
    let problem = Problem::from_diagnostic("schemas/", joined, error);
    let mut first_line = 0;
    for name in names {
        let Some(text) = files.get(name).and_then(|f| f.text(name).ok()) else {
            continue;
        };
        let lines = text.matches('\n').count() + 1;
        match problem.line {
            Some(line) if line <= first_line + lines => {
                return Problem {
                    file: name.clone(),
                    line: Some(line - first_line),
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

fn links(
    slug: &PortalSlug,
    files: &Files,
    templates: &[Template],
    validator: &Validator,
) -> Result<Vec<Arc<PolicyEntry>>, Vec<Problem>> {
    let name = format!("policies/{slug}/links.json");
    files
        .get(&name)
        .map_or_else(|| Ok(Vec::new()), |file| policies::link(&name, file, templates, validator))
}

fn not_permitted(detail: String) -> Refusal {
    Refusal::new(Denial::NotPermitted, detail)
}

fn entities(slug: &PortalSlug, files: &Files, model: &SchemaModel) -> Result<EntityStore, Problem> {
    let name = format!("policies/{slug}/entities.json");
    let fail = |message: String| Problem::new(&name, message);
    let parsed = match files.get(&name) {
        Some(file) => Entities::from_json_str(file.text(&name)?, Some(&model.cedar)).map_err(|e| {
            let message = report(&e);
            let line = line_in(&message);
            fail(message).at_line(line)
        })?,
        None => model.cedar.action_entities().map_err(|e| fail(report(&e)))?,
    };
    Ok(EntityStore::new(parsed))
}

/// `… at line 3 column 5`, as the JSON parser puts it.
fn line_in(message: &str) -> Option<usize> {
    let (_, rest) = message.split_once(" at line ")?;
    usize::from_str(rest.split_whitespace().next()?).ok()
}
