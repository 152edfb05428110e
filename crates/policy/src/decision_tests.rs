//! Decision tests: the expectations of the portal's team about its policies, checked before a candidate is served.
//!
//! Reads `tests/*.yaml`, the Cedar CLI's `run-tests` JSON and `ALLOW/`, `DENY/` folders of request JSON. A case is decided by
//! the same functions as a request. Each case sets the clock, so that a test gives the same result at any time. Principals and
//! entities that several files use are in `tests/fixtures.yaml` of the portal and of `_shared`; the nearest definition counts.

mod cedar_cli;
mod fields;
mod file;
mod judge;
mod matrix;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value};

use self::cedar_cli::CliCase;
use self::file::{Case, Fixture, Fixtures, PrincipalOfCase, TestFile};
use self::judge::{fail_unasked, judge};
use crate::claims::unsigned_identity;
use crate::decision::coverage::{Coverage, decide_covered};
use crate::decision::explain::{Explanation, explain};
use crate::decision::http::HttpQuery;
use crate::decision::named::{ContextPrecedence, NamedEntity, NamedQuery};
use crate::decision::{Asked, Caller, Decision, Query, decide};
use crate::denial::{Denial, Refusal};
use crate::portal::normal_host;
use crate::portal::path::CanonicalPath;
use crate::portal::path::rules::path_refused;
use crate::revision::Revision;
use crate::revision::problem::{Problem, RevisionError};
use crate::revision::source::Files;
use crate::revision::unread::FIXTURES;
use crate::scope::{IssuerScope, PortalScope};
use crate::types::{AuthFacts, Identity, TokenFacts};

/// 2026-01-01T00:00:00Z: the clock of a test that names none.
const NOW_MILLIS: i64 = 1_767_225_600_000;

/// The result of one case.
#[derive(Clone, Debug)]
pub struct CaseResult {
    pub file: String,
    pub line: Option<usize>,
    pub name: String,
    pub verdict: Verdict,
    /// Policies that decided.
    pub deciding: Vec<Arc<str>>,
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
pub type Matching<'a> = &'a (dyn Fn(&str, &CanonicalPath) -> Result<(), Elsewhere> + Sync);

/// The reason why a request does not come to the portal.
pub enum Elsewhere {
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
pub enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

/// The decision tests of one portal, read and ready to run.
pub struct DecisionTests<'a> {
    portal: &'a PortalScope,
    revision: &'a Revision,
    shared: Fixtures,
    own: Fixtures,
    files: Vec<FileTests<'a>>,
    /// Every case, with the position of its file in `files`.
    cases: Vec<Placed>,
    /// Errors of the files; the cases without one are still there.
    pub problems: Vec<Problem>,
}

/// One test file without its cases.
struct FileTests<'a> {
    name: &'a str,
    fixtures: Fixtures,
}

struct Placed {
    file: usize,
    body: Body,
}

enum Body {
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
pub fn check(portal: &PortalScope, revision: &Revision) -> Result<(), RevisionError> {
    let tests = DecisionTests::read(portal, revision);
    let failed = tests
        .run(0..tests.len(), &Options::default())
        .into_iter()
        .filter_map(|result| match result.verdict {
            Verdict::Failed(why) => {
                Some(Problem::new(&result.file, format!("test `{}` failed: {why}", result.name)).at_line(result.line))
            }
            Verdict::Passed | Verdict::Skipped(_) => None,
        });
    let problems = tests.problems.iter().cloned().chain(failed).collect();
    RevisionError::check(problems)
}

/// The folder of a portal's decision tests.
fn folder(portal: &PortalScope) -> String {
    format!("policies/{}/tests/", portal.slug)
}

impl<'a> DecisionTests<'a> {
    /// Reads every test file of the portal.
    pub fn read(portal: &'a PortalScope, revision: &'a Revision) -> Self {
        let mut tests = Self {
            portal,
            revision,
            shared: Fixtures::default(),
            own: Fixtures::default(),
            files: Vec::new(),
            cases: Vec::new(),
            problems: Vec::new(),
        };
        let files = revision.portal_files();
        let mut room = matrix::EXPANDED_MAX;
        tests.read_shared(files, &mut room);
        let own = folder(portal);
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
                        Ok(cases) => tests.cases.extend(cases.into_iter().map(|case| Placed {
                            file: number,
                            body: Body::Cli(Box::new(case)),
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
        let file::Reading { file: read, problems } = TestFile::read(name, text, room);
        let number = self.files.len();
        self.cases.extend(read.cases.into_iter().map(|case| Placed {
            file: number,
            body: Body::Yaml(Box::new(case)),
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
        let file::Reading { file: read, problems } = TestFile::read(&name, text, room);
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
        let fixtures = format!("{}{FIXTURES}", folder(self.portal));
        let names = self.files.iter().map(|file| file.name);
        names.filter(move |name| *name != fixtures)
    }

    /// Every case by name, in the order of the files.
    pub fn names(&self) -> impl Iterator<Item = NamedCase<'_>> {
        self.cases.iter().map(|placed| {
            let file = self.files.get(placed.file).map_or("", |file| file.name);
            match &placed.body {
                Body::Yaml(case) => NamedCase {
                    file,
                    line: case.line,
                    name: &case.name,
                },
                Body::Cli(case) => NamedCase {
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
            Body::Yaml(case) => match &case.principal {
                Some(PrincipalOfCase::Inline(fixture)) => Some(fixture),
                Some(PrincipalOfCase::Named(_)) | None => None,
            },
            Body::Cli(_) => None,
        });
        let claims = self.cases.iter().filter_map(|placed| match &placed.body {
            Body::Yaml(case) => case.claims.as_ref().map(TestCaller::Claims),
            Body::Cli(_) => None,
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
    pub fn run(&self, range: Range<usize>, options: &Options<'_>) -> Vec<CaseResult> {
        let cases = self.cases.get(range).unwrap_or_default();
        cases.iter().map(|placed| self.run_one(placed, options)).collect()
    }

    fn run_one(&self, placed: &Placed, options: &Options<'_>) -> CaseResult {
        let runner = Runner {
            portal: self.portal,
            revision: self.revision,
            tests: self,
            file: self.files.get(placed.file),
            options,
        };
        match &placed.body {
            Body::Yaml(case) => runner.yaml_case(case),
            Body::Cli(case) => runner.cli_case(case),
        }
    }
}

struct Runner<'a> {
    portal: &'a PortalScope,
    revision: &'a Revision,
    tests: &'a DecisionTests<'a>,
    file: Option<&'a FileTests<'a>>,
    options: &'a Options<'a>,
}

/// The function that answers a case: all decide alike.
type Answer<'a> = &'a dyn Fn(&Query<'_>, Caller<'_>) -> Explanation;

impl<'a> Runner<'a> {
    /// The files whose definitions count, the nearest first.
    fn layers(&self) -> impl Iterator<Item = &'a Fixtures> {
        let file = self.file.map(|file| &file.fixtures);
        file.into_iter().chain([&self.tests.own, &self.tests.shared])
    }

    fn file_name(&self) -> &'a str {
        self.file.map_or("", |file| file.name)
    }

    /// The answer that the options ask for.
    fn answer(&self, query: &Query<'_>, caller: Caller<'_>) -> Explanation {
        let decision = match self.options.coverage {
            Some(coverage) => decide_covered(query, caller, coverage),
            None => decide(query, caller),
        };
        if let Some(see) = self.options.see {
            see(query, caller, &decision);
        }
        decision.into()
    }

    fn yaml_case(&self, case: &Case) -> CaseResult {
        let mut result = CaseResult {
            file: self.file_name().to_owned(),
            line: case.line,
            name: case.name.clone(),
            verdict: Verdict::Passed,
            deciding: Vec::new(),
            explanation: None,
        };
        if let Some(why) = &case.skip {
            result.verdict = Verdict::Skipped(why.clone());
            return result;
        }
        match self.decide(case, &|query, caller| self.answer(query, caller)) {
            Ok(Explanation { decision, .. }) => {
                result.deciding = deciding(&decision);
                result.verdict = judge(case, &decision);
            }
            Err(message) => result.verdict = Verdict::Failed(message),
        }
        if self.options.failures == Failures::Explain && matches!(result.verdict, Verdict::Failed(_)) {
            result.explanation = self.decide(case, &explain).ok().map(Arc::new);
        }
        result
    }

    /// `Err` if the case itself is malformed.
    fn decide(&self, case: &Case, answer: Answer<'_>) -> Result<Explanation, String> {
        if case.expect.is_none() {
            return Err("needs `expect: allow` or `expect: deny`".to_owned());
        }
        let identity = match self.identity(case)? {
            Ok(identity) => identity,
            Err(refusal) => return Ok(Decision::refused(refusal).into()),
        };
        let of_layers = || self.layers().find_map(|layer| layer.now.as_ref());
        let now = case.now.as_ref().or_else(of_layers);
        let now_millis = now.map_or(Ok(NOW_MILLIS), |text| millis(text))?;
        match (&case.http, &case.action, &case.resource) {
            (Some(http), None, None) => self.http(identity.as_ref(), case, http, now_millis, answer),
            (None, Some(action), Some(_)) => {
                let identity = identity.as_ref().ok_or("needs either `principal` or `claims`")?;
                self.named(identity, case, action, now_millis, answer)
            }
            _ => Err("needs either `http`, or `action` and `resource`".to_owned()),
        }
    }

    /// `None`: the case presents no credential.
    fn identity(&self, case: &Case) -> Result<Result<Option<Identity>, Refusal>, String> {
        match (&case.principal, &case.claims) {
            (Some(PrincipalOfCase::Inline(fixture)), None) => Ok(Ok(Some(self.fixture(fixture)))),
            (Some(PrincipalOfCase::Named(name)), None) => {
                let fixture = self.layers().find_map(|layer| layer.principals.get(name));
                let fixture = fixture.ok_or_else(|| format!("there is no principal `{name}`"))?;
                Ok(Ok(Some(self.fixture(fixture))))
            }
            (None, Some(claims)) => {
                let identity = unsigned_identity(&*self.issuer(case)?, claims.clone());
                Ok(identity.map(Some).map_err(Refusal::from))
            }
            (None, None) => Ok(Ok(None)),
            (Some(_), Some(_)) => Err("needs either `principal` or `claims`".to_owned()),
        }
    }

    /// The fixture's attributes, as the claims that the portal maps to them.
    fn fixture(&self, fixture: &Fixture) -> Identity {
        let mapping = &self.revision.rules.claims;
        let mut claims = Map::new();
        for (name, value) in &fixture.attrs {
            match mapping.get(name) {
                Some(path) => path.insert(&mut claims, value.clone()),
                None => drop(claims.insert(name.clone(), value.clone())),
            }
        }
        Identity {
            issuer: self
                .portal
                .issuers
                .first()
                .map_or_else(|| Arc::from("test"), |i| Arc::clone(&i.name)),
            subject: fixture.id.clone(),
            principal_type: Arc::from(fixture.ty.as_deref().unwrap_or("User")),
            tenant: fixture.tenant.clone(),
            roles: fixture.roles.clone(),
            claims: Arc::new(claims),
            expires_at: i64::MAX,
            auth: Arc::new(AuthFacts {
                method: "bearer",
                ..AuthFacts::default()
            }),
            token: TokenFacts::default(),
        }
    }

    /// Without any issuer, claims are read by the default names.
    fn issuer(&self, case: &Case) -> Result<Cow<'_, IssuerScope>, String> {
        let found = match &case.issuer {
            Some(name) => self.portal.issuers.iter().find(|i| *i.name == **name),
            None => self.portal.issuers.first(),
        };
        match found {
            Some(issuer) => Ok(Cow::Borrowed(issuer)),
            None if self.portal.issuers.is_empty() && case.issuer.is_none() => Ok(Cow::Owned(IssuerScope::unconfigured())),
            None => Err("the portal trusts no issuer of that name; `claims` need one".to_owned()),
        }
    }

    fn http(
        &self,
        identity: Option<&Identity>,
        case: &Case,
        http: &str,
        now_millis: i64,
        answer: Answer<'_>,
    ) -> Result<Explanation, String> {
        let (method, target) = http
            .split_once(' ')
            .ok_or("`http` is a method and a path: \"GET /portal/…\"")?;
        let (raw, query) = match target.split_once('?') {
            Some((raw, query)) => (raw, Some(query)),
            None => (target, None),
        };
        let path = match CanonicalPath::parse_request(raw) {
            Ok(path) => path,
            Err(error) => return Ok(Decision::refused(path_refused(error.to_string())).into()),
        };
        let prefix = &self.portal.matches.path_prefix;
        if !self.revision.file.paths.is_below(&path, prefix) {
            return Err(format!("`{raw}` is not below this portal's path `{prefix}`"));
        }
        let host = match &case.host {
            Some(host) => normal_host(host).ok_or_else(|| format!("`host: {host}` is not a host name"))?,
            None => self
                .portal
                .default_host(identity.and_then(|identity| identity.tenant.as_deref())),
        };
        if let Some(matching) = self.options.matching {
            match matching(&host, &path) {
                Ok(()) => {}
                Err(Elsewhere::Refused(refusal)) => return Ok(Decision::refused(refusal).into()),
                Err(Elsewhere::Portal(message)) => return Err(message),
            }
        }
        let no_headers = http::HeaderMap::new();
        let asked = Asked::Http(HttpQuery {
            method,
            path: &path,
            host: &host,
            scheme: case.scheme.into(),
            source_ip: case.source_ip.unwrap_or(IpAddr::from([127, 0, 0, 1])),
            query,
            headers: Some(&no_headers),
            context: case.context.as_ref(),
        });
        let answered = self.ask(identity, asked, now_millis, answer);
        fail_unasked(case, &answered.decision, Denial::NotPermitted)?;
        Ok(answered)
    }

    fn named(
        &self,
        identity: &Identity,
        case: &Case,
        action: &str,
        now_millis: i64,
        answer: Answer<'_>,
    ) -> Result<Explanation, String> {
        let resource = case.resource.as_ref().ok_or("needs `resource`")?;
        let resource = NamedEntity::read(resource.clone(), "resource").map_err(|refusal| refusal.detail.into_owned())?;
        let entities = self.entities(case);
        let asked = Asked::Named(NamedQuery {
            action,
            resource: &resource,
            principal: None,
            context: case.context.as_ref(),
            precedence: ContextPrecedence::Given,
            entities: &entities,
        });
        let answered = self.ask(Some(identity), asked, now_millis, answer);
        fail_unasked(case, &answered.decision, Denial::RequestInvalid)?;
        Ok(answered)
    }

    /// The entities of the case, its file and the fixtures: of several with one name the nearest.
    fn entities(&self, case: &Case) -> Vec<Value> {
        let far = self.layers().flat_map(|layer| &layer.entities);
        let mut by_name: BTreeMap<String, &Value> = BTreeMap::new();
        for entity in case.entities.iter().chain(far) {
            by_name.entry(entity_name(entity)).or_insert(entity);
        }
        by_name.into_values().cloned().collect()
    }

    fn ask(&self, identity: Option<&Identity>, asked: Asked<'_>, now_millis: i64, answer: Answer<'_>) -> Explanation {
        let query = Query {
            portal: self.portal,
            revision: self.revision,
            now_millis,
            asked,
        };
        let Some(identity) = identity else {
            return answer(&query, Caller::Anonymous);
        };
        match self.revision.principal(self.portal, identity) {
            Ok(principal) => {
                let principal = &principal;
                answer(&query, Caller::Proven { identity, principal })
            }
            Err(refusal) => Decision::refused(refusal).into(),
        }
    }
}

/// The name of an entity as its JSON spells it.
fn entity_name(entity: &Value) -> String {
    entity.get("uid").unwrap_or(entity).to_string()
}

fn deciding(decision: &Decision) -> Vec<Arc<str>> {
    decision.policies().iter().map(|policy| Arc::clone(&policy.id)).collect()
}

fn millis(text: &str) -> Result<i64, String> {
    let time = humantime::parse_rfc3339(text).map_err(|_why| format!("`now: {text}` is not a time like 2026-01-01T00:00:00Z"))?;
    let since = time
        .duration_since(std::time::UNIX_EPOCH)
        .map_err(|_why| format!("`now: {text}` is before 1970"))?;
    i64::try_from(since.as_millis()).map_err(|_why| format!("`now: {text}` is too far ahead"))
}
