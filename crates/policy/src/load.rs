//! One portal's files → one revision, or every reason why they are rejected.
//!
//! A pipeline of parse → validate → conform → test → index. A candidate is accepted or rejected as a whole; only the
//! emergency forbids of `_deny/` are accepted one by one, and join the revision in force. Nothing here reads a file or
//! a clock: the gate reads folders and passes the files in.

mod checks;
mod emergency;
mod entities;
mod entity_mistakes;
mod facts;
pub mod invariants;
mod json_items;
mod mapped_claims;
mod nesting;
mod slips;
mod policies;
#[cfg(test)]
mod reuse_tests;
#[cfg(test)]
mod scale_tests;
mod schemas;
pub(crate) mod statements;

use std::collections::HashMap;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Weak};

use cedar_policy::{Template, Validator};
use http::HeaderValue;

use self::checks::{
    ForbiddenPaths, duplicate_templates, duplicates, has_own, is_policy_place, login_problems, namespace_warning,
    outside_warnings, placed_path_problems, removed_files, route_problems,
};
use self::emergency::EmergencyLoad;
use self::entities::EntityFile;
use self::facts::DeclaredFacts;
use self::policies::{ParseCache, SharedFiles, Templates};
use self::schemas::Schemas;
use crate::decision_tests;
use crate::engine::index::PolicyIndex;
use crate::engine::{Engine, ErroredForbids, IndexedPolicies, MatchSet, PolicyEntry};
use crate::flags::Flags;
use crate::portal::file::{PortalFile, SkipErrors};
use crate::portal::path::rules::PathRules;
use crate::revision::emergency::EmergencyForbids;
use crate::revision::problem::{Problem, RevisionError};
use crate::revision::recordable::facts_id;
use crate::revision::source::{Files, Tree};
use crate::revision::{Candidate, PortalSchema, Revision};
use crate::rules::Rules;
use crate::schema::TypeNames;
use crate::scope::PortalScope;
use crate::types::PortalSlug;

/// The outcome of one load.
pub struct Loaded {
    /// The revision to serve from now on; `None`: keep the present one.
    pub revision: Option<Arc<Revision>>,
    /// The reason why the candidate, or one of its emergency forbids, was rejected.
    pub rejected: Option<RevisionError>,
}

/// A candidate before the emergency forbids join it, or the reason why there is none.
pub struct Built(Result<Arc<Candidate>, RevisionError>);

/// Turns files into revisions, remembering what it parsed.
pub struct Loader {
    /// The cache of the portal that is being loaded.
    cache: ParseCache,
    caches: HashMap<PortalSlug, ParseCache>,
    shared: SharedFiles,
    schemas: Schemas,
    preparation_queue: Option<SyncSender<Weak<MatchSet>>>,
    decision_tests: DecisionTests,
}

/// The part of decision tests in a load.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum DecisionTests {
    Run,
    /// The command runs them itself.
    Skip,
}

/// The files of a portal as they were read.
struct ReadFiles {
    files: Files,
    /// Files that are not read and look like nothing that decides.
    strays: Vec<Problem>,
    /// What is wrong so far.
    problems: Vec<Problem>,
}

/// The files on which the meaning of all others depends.
struct Basis {
    file: Arc<PortalFile>,
    schema: Arc<PortalSchema>,
}

/// The policies of a portal's files, templates aside.
#[derive(Default)]
struct ParsedPolicies {
    entries: Vec<Arc<PolicyEntry>>,
    templates: Vec<Template>,
    warnings: Vec<Problem>,
    /// For each template the warning that it has no link.
    unlinked: Vec<Problem>,
    /// Paths that no request can have, by the default `paths` of a portal.
    path_problems: Vec<Problem>,
}

/// The policies of a portal's files and links.
struct JoinedPolicies {
    entries: Vec<Arc<PolicyEntry>>,
    warnings: Vec<Problem>,
}

impl Loaded {
    fn rejected(problems: Vec<Problem>) -> Self {
        Self {
            revision: None,
            rejected: Some(RevisionError { problems }),
        }
    }
}

impl Loader {
    pub fn new(preparation_queue: Option<SyncSender<Weak<MatchSet>>>) -> Self {
        Self {
            cache: ParseCache::default(),
            caches: HashMap::new(),
            shared: SharedFiles::default(),
            schemas: Schemas::default(),
            preparation_queue,
            decision_tests: DecisionTests::Run,
        }
    }

    /// Loads candidates without their decision tests; the gate itself never does.
    pub fn untested(mut self) -> Self {
        self.decision_tests = DecisionTests::Skip;
        self
    }

    /// Loads one portal out of the tree; `previous` is the revision that it serves now.
    pub fn load(&mut self, portal: &PortalScope, tree: &Tree, previous: Option<&Revision>) -> Loaded {
        let built = self.build(portal, tree, previous);
        self.join(portal, built, tree, previous)
    }

    /// The slow part of a load: parses, validates and tests everything but the emergency forbids.
    pub fn build(&mut self, portal: &PortalScope, tree: &Tree, previous: Option<&Revision>) -> Built {
        self.with_cache(&portal.slug, |loader| Built(loader.candidate_of(portal, tree, previous)))
    }

    /// The fast part of a load: joins the emergency forbids of the tree to what was built. `previous` is the revision
    /// that is in force now; it may have got further emergency forbids since the building began.
    pub fn join(&mut self, portal: &PortalScope, built: Built, tree: &Tree, previous: Option<&Revision>) -> Loaded {
        self.with_cache(&portal.slug, |loader| {
            let loaded = loader.join_cached(&portal.slug, built, tree, previous);
            loader.cache.retain(|name| tree.files.get(name).is_some());
            loaded
        })
    }

    /// Warms the parse cache ahead of a load; does not affect the result of `load`.
    pub fn prepare(&mut self, portal: &PortalScope, tree: &Tree) {
        let slug = &portal.slug;
        let files = tree.portal_files(slug);
        let namespace = portal_file(slug, &files).map(|file| file.namespace);
        let Ok(schema) = namespace.and_then(|ns| self.schemas.load(slug, &files, ns.as_deref())) else {
            return;
        };
        self.with_cache(slug, |loader| {
            let _found_again_by_the_load = loader.policies(slug, &files, &schema, &mut Vec::new());
        });
    }

    /// Runs with the cache of one portal in place.
    fn with_cache<T>(&mut self, slug: &PortalSlug, run: impl FnOnce(&mut Self) -> T) -> T {
        self.cache = self.caches.remove(slug).unwrap_or_default();
        let result = run(self);
        self.caches.insert(slug.clone(), std::mem::take(&mut self.cache));
        result
    }

    fn join_cached(&mut self, slug: &PortalSlug, built: Built, tree: &Tree, previous: Option<&Revision>) -> Loaded {
        let mut problems = Vec::new();
        let candidate = match built.0 {
            Ok(candidate) => Some(candidate),
            Err(error) => {
                problems = error.problems;
                previous.map(|previous| Arc::clone(&previous.candidate))
            }
        };
        let Some(mut candidate) = candidate else {
            return Loaded::rejected(problems);
        };
        let EmergencyLoad {
            mut emergency_forbids,
            problems: found,
            lost,
        } = self.emergency_forbids(&candidate, slug, tree, previous);
        problems.extend(found);
        // the candidate cannot carry a forbid that is in force: go on with the previous candidate, which can
        if let Some(previous) = previous.filter(|_| !lost.is_empty()) {
            problems.extend(lost);
            candidate = Arc::clone(&previous.candidate);
            emergency_forbids = self
                .emergency_forbids(&candidate, slug, tree, Some(previous))
                .emergency_forbids;
        }
        // SECURITY: no revision is served yet, and an emergency forbid that exists would not hold
        if previous.is_none() && !problems.is_empty() {
            return Loaded::rejected(problems);
        }
        let is_same = previous.is_some_and(|previous| {
            Arc::ptr_eq(&previous.candidate, &candidate) && previous.emergency_forbids.files == emergency_forbids.files
        });
        Loaded {
            revision: (!is_same).then(|| Arc::new(self.assemble(&candidate, emergency_forbids))),
            rejected: RevisionError::check(problems).err(),
        }
    }

    /// The candidate of the files as they are; the previous one if they did not change.
    fn candidate_of(
        &mut self,
        portal: &PortalScope,
        tree: &Tree,
        previous: Option<&Revision>,
    ) -> Result<Arc<Candidate>, RevisionError> {
        let files = tree.portal_files(&portal.slug);
        let mut problems = tree.portal_problems(&portal.slug);
        if has_own(&portal.slug, &files) || problems.is_empty() {
            problems.extend(removed_files(&portal.slug, &files, previous));
        }
        let strays = tree.portal_strays(&portal.slug);
        let is_same = |previous: &&Revision| previous.candidate.files == files && previous.candidate.strays == strays;
        if let Some(previous) = previous.filter(|_| problems.is_empty()).filter(is_same) {
            return Ok(Arc::clone(&previous.candidate));
        }
        if !has_own(&portal.slug, &files) {
            return Err(RevisionError { problems });
        }
        let read = ReadFiles { files, strays, problems };
        self.candidate(portal, read, previous)
    }

    /// The two files on which the meaning of all others depends. If one of them is broken, only the syntax of the
    /// others is looked at: their errors would be consequences.
    fn basis(&mut self, slug: &PortalSlug, read: &mut ReadFiles) -> Option<Basis> {
        let portal_yaml = format!("policies/{slug}/portal.yaml");
        let is_unread = |problem: &Problem| problem.file == portal_yaml || problem.file.starts_with("schemas/");
        let is_read = !read.problems.iter().any(is_unread);
        let file = portal_file(slug, &read.files).map_err(|error| read.problems.extend(error.problems));
        let schema = match file.as_ref().ok().filter(|_| is_read) {
            Some(file) => {
                let loaded = self.schemas.load(slug, &read.files, file.namespace.as_deref());
                loaded.map_err(|error| read.problems.extend(error.problems)).ok()
            }
            None => {
                read.problems.extend(schemas::syntax_problems(slug, &read.files));
                None
            }
        };
        match (file, schema) {
            (Ok(file), Some(schema)) => Some(Basis {
                file: Arc::new(file),
                schema,
            }),
            _ => {
                read.problems.extend(syntax_problems(slug, &read.files));
                let tests = self.unreadable_tests(slug, &read.files);
                read.problems.extend(tests);
                None
            }
        }
    }

    fn candidate(
        &mut self,
        portal: &PortalScope,
        mut read: ReadFiles,
        previous: Option<&Revision>,
    ) -> Result<Arc<Candidate>, RevisionError> {
        let slug = &portal.slug;
        let Some(Basis { file, schema }) = self.basis(slug, &mut read) else {
            return Err(RevisionError { problems: read.problems });
        };
        let ReadFiles {
            files,
            strays,
            mut problems,
        } = read;
        let model = &schema.model;
        let names = Arc::new(TypeNames::new(model, slug.as_str()));
        let declared = DeclaredFacts {
            slug,
            files: &files,
            file: &file,
            model,
            path: schema.path.as_ref(),
            removed_headers: &portal.removed_headers,
        };
        problems.extend(declared.problems());
        problems.extend(route_problems(slug, &files, &file, model));
        problems.extend(login_problems(portal, &file));
        let JoinedPolicies { entries, mut warnings } = self.entries(slug, &files, &file, &schema, &mut problems);
        let entity_file = EntityFile::of(slug, &files);
        let store = entity_file.load(&schema, &names, previous).unwrap_or_else(|found| {
            problems.extend(found);
            Arc::default()
        });
        problems.extend(entity_file.path_problems(&store, &names, &file.paths));
        let forbidden = ForbiddenPaths {
            names: &names,
            model,
            store: &store,
            entries: &entries,
        };
        problems.extend(forbidden.problems(slug, &file, &files));
        problems.extend(mapped_claims::problems(slug, &files, &file, &entries));
        warnings.extend(forbidden.warnings(slug, &file));
        warnings.extend(outside_warnings(portal, &entries, schema.path.as_ref()));
        warnings.extend(namespace_warning(slug, model));
        warnings.extend(strays.iter().cloned());
        warnings.extend(declared.unknown_at_proxy(&schema.plans, &entries));
        if !problems.is_empty() {
            problems.splice(0..0, schemas::missing(slug, &files));
            problems.extend(self.unreadable_tests(slug, &files));
        }
        RevisionError::check(problems)?;
        let candidate = Arc::new(Candidate {
            index: Arc::new(PolicyIndex::of(&entries)),
            files,
            schema,
            names,
            store,
            entries,
            file,
            warnings,
            strays,
        });
        self.test(portal, &candidate)?;
        Ok(candidate)
    }

    /// Runs the candidate's decision tests.
    fn test(&self, portal: &PortalScope, candidate: &Arc<Candidate>) -> Result<(), RevisionError> {
        if self.decision_tests == DecisionTests::Skip {
            return Ok(());
        }
        let tests = decision_tests::DecisionTests::read(&portal.slug, &candidate.files);
        let revision = self.assemble(candidate, EmergencyForbids::default());
        decision_tests::check(&tests, portal, &revision)
    }

    /// The revision that decision tests run against: an emergency forbid skips them.
    pub fn without_emergency_forbids(&self, revision: &Arc<Revision>) -> Arc<Revision> {
        match revision.emergency_forbids.entries.is_empty() {
            true => Arc::clone(revision),
            false => Arc::new(self.assemble(&revision.candidate, EmergencyForbids::default())),
        }
    }

    /// The errors of the test files of a portal that is rejected anyway.
    fn unreadable_tests(&self, slug: &PortalSlug, files: &Files) -> Vec<Problem> {
        match self.decision_tests {
            DecisionTests::Run => decision_tests::DecisionTests::read(slug, files).problems,
            DecisionTests::Skip => Vec::new(),
        }
    }

    /// The policies of all files and links, and every problem that they, and the statements about them, have by
    /// themselves.
    fn entries(
        &mut self,
        slug: &PortalSlug,
        files: &Files,
        file: &PortalFile,
        schema: &PortalSchema,
        problems: &mut Vec<Problem>,
    ) -> JoinedPolicies {
        let before = problems.len();
        let ParsedPolicies {
            entries,
            templates,
            mut warnings,
            unlinked,
            path_problems,
        } = self.policies(slug, files, schema, problems);
        let templates = Templates {
            known: &templates,
            are_all: problems.len() == before,
        };
        match file.paths == PathRules::default() {
            true => problems.extend(path_problems),
            false => problems.extend(placed_path_problems(&entries, schema.path.as_ref(), &file.paths)),
        }
        let links = links(slug, files, &templates, &schema.validator).unwrap_or_else(|found| {
            problems.extend(found);
            Vec::new()
        });
        // a link that does not work says enough, and other portals may link a shared template
        if problems.len() == before {
            let linked = files
                .get(&links_file(slug))
                .map(policies::linked_templates)
                .unwrap_or_default();
            let is_unlinked = |problem: &Problem| problem.policy.as_deref().is_some_and(|id| !linked.contains(id));
            let is_own = |problem: &Problem| !problem.file.starts_with(policies::SHARED);
            warnings.extend(unlinked.into_iter().filter(is_own).filter(is_unlinked));
        }
        problems.extend(duplicate_templates(slug, templates.known, &entries));
        problems.extend(placed_path_problems(&links, schema.path.as_ref(), &file.paths));
        let entries: Vec<_> = entries.into_iter().chain(links).collect();
        problems.extend(duplicates(&entries));
        let statements = invariants::read(slug, files, schema);
        problems.extend(statements.problems);
        warnings.extend(statements.warnings);
        JoinedPolicies { entries, warnings }
    }

    fn policies(
        &mut self,
        slug: &PortalSlug,
        files: &Files,
        schema: &PortalSchema,
        problems: &mut Vec<Problem>,
    ) -> ParsedPolicies {
        let mut all = ParsedPolicies::default();
        for (name, file) in files.0.iter().filter(|(name, _)| name.ends_with(".cedar")) {
            if !is_policy_place(slug, name) {
                problems.push(
                    Problem::new(name, "is in a folder whose policies are not loaded")
                        .with_help(format!("move it to policies/{slug}/, or to _deny/ or candidate/ below it")),
                );
                continue;
            }
            match self.cache.parse(name, file, schema, "", &mut self.shared) {
                Ok(parsed) => {
                    all.path_problems.extend(parsed.path_problems.iter().cloned());
                    all.entries.extend(parsed.entries.iter().cloned());
                    all.templates.extend(parsed.templates.iter().cloned());
                    all.warnings.extend(parsed.warnings.iter().cloned());
                    all.unlinked.extend(parsed.unlinked.iter().cloned());
                }
                Err(found) => problems.extend(found),
            }
        }
        let own = format!("policies/{slug}/");
        if !files.0.keys().any(|name| name.starts_with(&own) && name.ends_with(".cedar")) {
            problems
                .push(Problem::new(&own, "has no policy file").with_help("an empty .cedar file says that nothing is permitted"));
        }
        all
    }

    fn assemble(&self, candidate: &Arc<Candidate>, emergency_forbids: EmergencyForbids) -> Revision {
        let mut all = candidate.files.clone();
        all.0
            .extend(emergency_forbids.files.0.iter().map(|(n, f)| (n.clone(), f.clone())));
        let id: String = all.hash().iter().take(8).map(|b| format!("{b:02x}")).collect();
        let errored = match candidate.file.danger_skip_errors {
            SkipErrors::DangerSkip => ErroredForbids::Skip,
            SkipErrors::Deny => ErroredForbids::Deny,
        };
        let model = &candidate.schema.model;
        let actions = model.actions().map(|(uid, model)| (uid, model.ancestors.as_slice()));
        let engine = Engine::indexed(
            candidate.indexed(&emergency_forbids),
            actions,
            Arc::clone(&candidate.store),
            errored,
        );
        let engine = engine
            .with_preparation_queue(self.preparation_queue.clone())
            .with_names(Arc::clone(&candidate.names));
        let rules = Rules {
            schema: Arc::clone(model),
            engine,
            plans: Arc::clone(&candidate.schema.plans),
            names: Arc::clone(&candidate.names),
            claims: candidate.file.claims.clone(),
            flags: Flags::new(candidate.file.flags.clone()),
        };
        // INVARIANT: hex digits are a header value
        let header = HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static(""));
        Revision {
            id: Arc::from(id),
            header,
            facts: facts_id(model, &candidate.file.claims),
            rules,
            file: Arc::clone(&candidate.file),
            candidate: Arc::clone(candidate),
            emergency_forbids,
            warnings: candidate.warnings.clone(),
        }
    }
}

impl Candidate {
    /// Every policy that takes part, and its index. Emergency forbids come last.
    fn indexed(&self, emergency_forbids: &EmergencyForbids) -> IndexedPolicies {
        let entries: Vec<_> = self.entries.iter().chain(&emergency_forbids.entries).cloned().collect();
        if emergency_forbids.entries.is_empty() {
            return IndexedPolicies {
                policies: entries,
                index: Arc::clone(&self.index),
            };
        }
        let mut index = PolicyIndex::clone(&self.index);
        index.extend(&emergency_forbids.entries);
        IndexedPolicies {
            policies: entries,
            index: Arc::new(index),
        }
    }
}

/// Refuses policy text that nests deeper than the gate loads, before a recursive reader of it runs.
pub fn check_nesting(name: &str, text: &str) -> Result<(), Problem> {
    nesting::check(name, text, nesting::Syntax::Policies)
}

/// The mistake in the text of one schema file; nothing recursive reads a text that nests too deep.
pub fn schema_problem(name: &str, text: &str) -> Option<Problem> {
    schemas::fragment_problem(name, text)
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

/// What is wrong with the texts of a portal's policies and JSON files by themselves, without schema and `portal.yaml`.
fn syntax_problems(slug: &PortalSlug, files: &Files) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, file) in &files.0 {
        if name.ends_with(".cedar") && is_policy_place(slug, name) {
            problems.extend(policies::syntax_problems(name, file));
        }
    }
    for json in ["entities.json", "links.json"] {
        let name = format!("policies/{slug}/{json}");
        let Some(file) = files.get(&name) else { continue };
        problems.extend(json_items::syntax_problem(&name, file));
    }
    problems
}

fn links_file(slug: &PortalSlug) -> String {
    format!("policies/{slug}/links.json")
}

fn links(
    slug: &PortalSlug,
    files: &Files,
    templates: &Templates<'_>,
    validator: &Validator,
) -> Result<Vec<Arc<PolicyEntry>>, Vec<Problem>> {
    let name = links_file(slug);
    files
        .get(&name)
        .map_or_else(|| Ok(Vec::new()), |file| policies::link(&name, file, templates, validator))
}
