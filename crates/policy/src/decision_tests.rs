//! Decision tests: the expectations of the portal's team about its policies, checked before a candidate is served.
//!
//! Reads `tests/*.yaml`, the Cedar CLI's `run-tests` JSON and `ALLOW/`, `DENY/` folders of request JSON. A case is
//! decided by the same functions as a request. Each case sets the clock, so that a test gives the same result at any
//! time. Principals and entities that several files use are in `tests/fixtures.yaml` of the portal and of `_shared`;
//! the nearest definition counts.

mod cedar_cli;
mod fields;
mod file;
mod judge;
mod matrix;
mod runner;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value};

use self::cedar_cli::CliCase;
use self::file::{Case, Fixtures, PrincipalOfCase, TestFile};
use self::runner::Runner;
use crate::decision::coverage::Coverage;
use crate::decision::explain::Explanation;
use crate::decision::{Caller, Decision, Query};
use crate::denial::{Denial, Refusal};
use crate::portal::path::CanonicalPath;
use crate::revision::Revision;
use crate::revision::problem::{Problem, RevisionError};
use crate::revision::source::Files;
use crate::revision::unread::FIXTURES;
use crate::scope::PortalScope;
use crate::types::PortalSlug;

/// 2026-01-01T00:00:00Z: the clock of a test that names none.
const NOW_MILLIS: i64 = 1_767_225_600_000;

/// The result of one case.
#[derive(Clone, Debug)]
pub struct CaseResult {
    pub file: String,
    pub line: Option<usize>,
    pub name: String,
    pub verdict: TestOutcome,
    /// Policies that decided.
    pub deciding: Vec<Arc<str>>,
    /// The denial, or `None` for an allow; `Err` says why the case cannot be asked.
    pub answer: Result<Option<Denial>, String>,
    /// The reasons of the decision, for a case that failed, if they were asked for.
    pub explanation: Option<Arc<Explanation>>,
}

/// What becomes of a case that fails.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Failures {
    /// Only the difference to what it expects.
    #[default]
    Name,
    /// The reasons of its decision, too.
    Explain,
}

/// Tells whether the gate gives a request, by host and path, to the portal.
pub type Matching<'a> = &'a (dyn Fn(&str, &CanonicalPath) -> Result<(), PortalMismatch> + Sync);

/// The reason why a request does not come to the portal.
pub enum PortalMismatch {
    /// The gate refuses it.
    Refused(Refusal),
    /// Another portal gets it, or none; a text for the user.
    Portal(String),
}

/// Sees the query, the caller and the decision of a case.
pub type See<'a> = &'a (dyn Fn(&Query<'_>, Caller<'_>, &Decision) + Sync);

/// How cases are run.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    pub failures: Failures,
    /// Notes which clauses the cases reach.
    pub coverage: Option<&'a Coverage>,
    /// The portals beside this one; absent: a request only has to be below the portal's path.
    pub matching: Option<Matching<'a>>,
    /// Sees each decision.
    pub see: Option<See<'a>>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TestOutcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// The decision tests of one portal, read and ready to run.
pub struct DecisionTests<'a> {
    slug: &'a PortalSlug,
    shared: Fixtures,
    own: Fixtures,
    files: Vec<FileTests<'a>>,
    /// Every case, with the position of its file in `files`.
    cases: Vec<LocatedCase>,
    /// Errors of the files; the cases without one are still there.
    pub problems: Vec<Problem>,
}

/// What the tests are run against.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub portal: &'a PortalScope,
    pub revision: &'a Revision,
}

/// One test file without its cases.
struct FileTests<'a> {
    name: &'a str,
    fixtures: Fixtures,
}

struct LocatedCase {
    file: usize,
    body: CaseBody,
}

enum CaseBody {
    Yaml(Box<Case>),
    Cli(Box<CliCase>),
}

/// A case as lint rules see it.
pub struct NamedCase<'a> {
    pub file: &'a str,
    pub line: Option<usize>,
    pub name: &'a str,
}

/// A caller of a test file.
pub enum TestCaller<'a> {
    Fixture { roles: &'a [String], tenant: Option<&'a str> },
    Claims(&'a Map<String, Value>),
}

/// Fails with every failing case's name, and every error of the files.
pub fn check(tests: &DecisionTests<'_>, portal: &PortalScope, revision: &Revision) -> Result<(), RevisionError> {
    let failed = tests
        .run(0..tests.len(), &Subject { portal, revision }, &Options::default())
        .into_iter()
        .filter_map(|result| match result.verdict {
            TestOutcome::Failed(why) => {
                Some(Problem::new(&result.file, format!("test `{}` failed: {why}", result.name)).at_line(result.line))
            }
            TestOutcome::Passed | TestOutcome::Skipped(_) => None,
        });
    let problems = tests.problems.iter().cloned().chain(failed).collect();
    RevisionError::check(problems)
}

/// The folder of a portal's decision tests.
fn folder(slug: &PortalSlug) -> String {
    format!("policies/{slug}/tests/")
}

impl<'a> DecisionTests<'a> {
    /// Reads every test file of the portal.
    pub fn read(slug: &'a PortalSlug, files: &'a Files) -> Self {
        let mut tests = Self {
            slug,
            shared: Fixtures::default(),
            own: Fixtures::default(),
            files: Vec::new(),
            cases: Vec::new(),
            problems: Vec::new(),
        };
        let mut room = matrix::EXPANDED_MAX;
        tests.read_shared(files, &mut room);
        let own = folder(slug);
        let fixtures = format!("{own}{FIXTURES}");
        for (name, file) in files.below(own) {
            let text = match file.text(name) {
                Ok(text) => text,
                Err(problem) => {
                    tests.problems.push(problem);
                    continue;
                }
            };
            match name.rsplit_once('.').map(|(_, suffix)| suffix) {
                Some("yaml" | "yml") => {
                    let read = tests.read_yaml(name, text, &mut room);
                    if *name == fixtures {
                        tests.own = read;
                        tests.push_file(name, Fixtures::default());
                    } else {
                        tests.push_file(name, read);
                    }
                }
                Some("json") => {
                    let number = tests.files.len();
                    match cedar_cli::read(name, text) {
                        Ok(cases) => tests.cases.extend(cases.into_iter().map(|case| LocatedCase {
                            file: number,
                            body: CaseBody::Cli(Box::new(case)),
                        })),
                        Err(problem) => tests.problems.push(problem),
                    }
                    tests.push_file(name, Fixtures::default());
                }
                _ => {}
            }
        }
        tests
    }

    fn push_file(&mut self, name: &'a str, fixtures: Fixtures) {
        self.files.push(FileTests { name, fixtures });
    }

    /// Reads a file's cases, and returns what else is in it. The caller adds the file after them.
    fn read_yaml(&mut self, name: &str, text: &str, room: &mut usize) -> Fixtures {
        let file::ReadTestFile { file: read, problems } = TestFile::read(name, text, room);
        let number = self.files.len();
        self.cases.extend(read.cases.into_iter().map(|case| LocatedCase {
            file: number,
            body: CaseBody::Yaml(Box::new(case)),
        }));
        self.problems.extend(problems);
        read.fixtures
    }

    fn read_shared(&mut self, files: &Files, room: &mut usize) {
        let name = format!("policies/_shared/tests/{FIXTURES}");
        let Some(file) = files.get(&name) else { return };
        let text = match file.text(&name) {
            Ok(text) => text,
            Err(problem) => return self.problems.push(problem),
        };
        let file::ReadTestFile { file: read, problems } = TestFile::read(&name, text, room);
        self.problems.extend(problems);
        if let Some(case) = read.cases.first() {
            let problem = Problem::new(&name, "cases of the shared fixtures would run for no portal").at_line(case.line);
            self.problems.push(problem.with_help("move them to policies/<portal>/tests/"));
        }
        self.shared = read.fixtures;
    }

    /// Number of cases.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// True if there is no case.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// The test files by name, fixtures left out.
    pub fn files(&self) -> impl Iterator<Item = &'a str> {
        let fixtures = format!("{}{FIXTURES}", folder(self.slug));
        let names = self.files.iter().map(|file| file.name);
        names.filter(move |name| *name != fixtures)
    }

    /// Every case by name, in the order of the files.
    pub fn names(&self) -> impl Iterator<Item = NamedCase<'_>> {
        self.cases.iter().map(|placed| {
            let file = self.files.get(placed.file).map_or("", |file| file.name);
            match &placed.body {
                CaseBody::Yaml(case) => NamedCase {
                    file,
                    line: case.line,
                    name: &case.name,
                },
                CaseBody::Cli(case) => NamedCase {
                    file,
                    line: None,
                    name: case.name(),
                },
            }
        })
    }

    /// The callers that the files name.
    pub fn callers(&self) -> impl Iterator<Item = TestCaller<'_>> {
        let files = self.files.iter().map(|file| &file.fixtures);
        let fixtures = files
            .chain([&self.shared, &self.own])
            .flat_map(|file| file.principals.values());
        let inline = self.cases.iter().filter_map(|placed| match &placed.body {
            CaseBody::Yaml(case) => match &case.principal {
                Some(PrincipalOfCase::Inline(fixture)) => Some(fixture),
                Some(PrincipalOfCase::Named(_)) | None => None,
            },
            CaseBody::Cli(_) => None,
        });
        let claims = self.cases.iter().filter_map(|placed| match &placed.body {
            CaseBody::Yaml(case) => case.claims.as_ref().map(TestCaller::Claims),
            CaseBody::Cli(_) => None,
        });
        fixtures
            .chain(inline)
            .map(|fixture| TestCaller::Fixture {
                roles: &fixture.roles,
                tenant: fixture.tenant.as_deref(),
            })
            .chain(claims)
    }

    /// Runs the cases of a range; several threads can run ranges of their own.
    pub fn run(&self, range: Range<usize>, subject: &Subject<'_>, options: &Options<'_>) -> Vec<CaseResult> {
        let cases = self.cases.get(range).unwrap_or_default();
        cases.iter().map(|placed| self.run_one(placed, subject, options)).collect()
    }

    fn run_one(&self, placed: &LocatedCase, subject: &Subject<'_>, options: &Options<'_>) -> CaseResult {
        let runner = Runner {
            portal: subject.portal,
            revision: subject.revision,
            tests: self,
            file: self.files.get(placed.file),
            options,
        };
        match &placed.body {
            CaseBody::Yaml(case) => runner.yaml_case(case),
            CaseBody::Cli(case) => runner.cli_case(case),
        }
    }
}
