//! Decision tests: the expectations of the portal's team about its policies, checked before a candidate is served.
//!
//! Reads `tests/*.yaml`, the Cedar CLI's `run-tests` JSON and `ALLOW/`, `DENY/` folders of request JSON. A case is decided by
//! the same functions as a request. Each case sets the clock, so that a test gives the same result at any time.

mod cedar_cli;
mod judge;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use self::judge::judge;
use crate::claims::unsigned_identity;
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
use crate::scope::{IssuerScope, PortalScope};
use crate::types::{AuthFacts, Identity, Scheme, TokenFacts};

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
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failures {
    /// Only the difference to what it expects.
    Name,
    /// The reasons of its decision, too.
    Explain,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestFile {
    #[serde(default)]
    principals: BTreeMap<String, Fixture>,
    now: Option<String>,
    #[serde(default)]
    cases: Vec<Spanned<Case>>,
}

/// A principal by its attributes.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    id: String,
    #[serde(rename = "type")]
    ty: Option<String>,
    tenant: Option<String>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    attrs: Map<String, Value>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: Option<String>,
    principal: Option<String>,
    claims: Option<Map<String, Value>>,
    /// The issuer of the claims; default: the portal's first.
    issuer: Option<String>,
    http: Option<String>,
    host: Option<String>,
    /// The scheme by which the client came; default `https`.
    scheme: Option<TestScheme>,
    /// The client's address; default `127.0.0.1`.
    source_ip: Option<IpAddr>,
    action: Option<String>,
    resource: Option<Value>,
    context: Option<Map<String, Value>>,
    now: Option<String>,
    expect: Option<Expect>,
    because: Option<Vec<String>>,
    errors: Option<usize>,
    reason: Option<String>,
    skip: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TestScheme {
    Http,
    #[default]
    Https,
}

/// Fails with every failing case's name.
pub fn check(portal: &PortalScope, revision: &Revision) -> Result<(), RevisionError> {
    let failed = run(portal, revision, Failures::Name)?
        .into_iter()
        .filter_map(|result| match result.verdict {
            Verdict::Failed(why) => {
                Some(Problem::new(&result.file, format!("test `{}` failed: {why}", result.name)).at_line(result.line))
            }
            Verdict::Passed | Verdict::Skipped(_) => None,
        });
    RevisionError::check(failed.collect())
}

/// Runs every decision test of the portal; `Err` if a test file cannot be read as one.
pub fn run(portal: &PortalScope, revision: &Revision, failures: Failures) -> Result<Vec<CaseResult>, RevisionError> {
    let folder = format!("policies/{}/tests/", portal.slug);
    let mut results = Vec::new();
    for (name, file) in revision.portal_files().0.iter().filter(|(name, _)| name.starts_with(&folder)) {
        let text = file.text(name)?;
        let runner = Runner {
            portal,
            revision,
            file: name,
            failures,
        };
        match name.rsplit_once('.').map(|(_, suffix)| suffix) {
            Some("yaml" | "yml") => results.extend(runner.yaml(text)?),
            Some("json") => results.extend(runner.json(text)?),
            _ => {}
        }
    }
    Ok(results)
}

/// A caller of a test file.
pub enum TestCaller {
    Fixture { roles: Vec<String>, tenant: Option<String> },
    Claims(Map<String, Value>),
}

/// The callers that a YAML test file names; none for a file in another form, or one that cannot be read.
pub fn callers(name: &str, text: &str) -> Vec<TestCaller> {
    let is_yaml = name.ends_with(".yaml") || name.ends_with(".yml");
    let Some(tests) = is_yaml.then(|| serde_saphyr::from_str::<TestFile>(text).ok()).flatten() else {
        return Vec::new();
    };
    let fixtures = tests.principals.into_values().map(|fixture| TestCaller::Fixture {
        roles: fixture.roles,
        tenant: fixture.tenant,
    });
    let claims = tests
        .cases
        .into_iter()
        .filter_map(|case| Some(TestCaller::Claims(case.value.claims?)));
    fixtures.chain(claims).collect()
}

struct Runner<'a> {
    portal: &'a PortalScope,
    revision: &'a Revision,
    file: &'a str,
    failures: Failures,
}

/// The function that answers a case: both decide alike.
type Answer = fn(&Query<'_>, Caller<'_>) -> Explanation;

impl Runner<'_> {
    fn yaml(&self, text: &str) -> Result<Vec<CaseResult>, RevisionError> {
        let tests: TestFile = serde_saphyr::from_str(text).map_err(|e| {
            let line = e.location().and_then(|at| usize::try_from(at.line()).ok());
            Problem::new(self.file, format!("is not a test file: {e}")).at_line(line)
        })?;
        Ok(tests
            .cases
            .iter()
            .enumerate()
            .map(|(n, case)| self.yaml_case(&tests, n, case))
            .collect())
    }

    fn yaml_case(&self, tests: &TestFile, number: usize, case: &Spanned<Case>) -> CaseResult {
        let line = usize::try_from(case.referenced.line()).ok();
        let case = &case.value;
        let name = case.name.clone().unwrap_or_else(|| format!("#{number}"));
        let mut result = CaseResult {
            file: self.file.to_owned(),
            line,
            name,
            verdict: Verdict::Passed,
            deciding: Vec::new(),
            explanation: None,
        };
        if let Some(why) = &case.skip {
            result.verdict = Verdict::Skipped(why.clone());
            return result;
        }
        match self.decide(tests, case, unexplained) {
            Ok(Explanation { decision, .. }) => {
                result.deciding = deciding(&decision);
                result.verdict = judge(case, &decision);
            }
            Err(message) => result.verdict = Verdict::Failed(message),
        }
        if self.failures == Failures::Explain && matches!(result.verdict, Verdict::Failed(_)) {
            result.explanation = self.decide(tests, case, explain).ok().map(Arc::new);
        }
        result
    }

    /// `Err` if the case itself is malformed.
    fn decide(&self, tests: &TestFile, case: &Case, answer: Answer) -> Result<Explanation, String> {
        if case.expect.is_none() {
            return Err("needs `expect: allow` or `expect: deny`".to_owned());
        }
        let identity = match self.identity(tests, case)? {
            Ok(identity) => identity,
            Err(refusal) => return Ok(Decision::refused(refusal).into()),
        };
        let now = case.now.as_ref().or(tests.now.as_ref());
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
    fn identity(&self, tests: &TestFile, case: &Case) -> Result<Result<Option<Identity>, Refusal>, String> {
        match (&case.principal, &case.claims) {
            (Some(name), None) => {
                let fixture = tests
                    .principals
                    .get(name)
                    .ok_or_else(|| format!("there is no principal `{name}`"))?;
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
        answer: Answer,
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
        let no_headers = http::HeaderMap::new();
        let asked = Asked::Http(HttpQuery {
            method,
            path: &path,
            host: &host,
            scheme: case.scheme.unwrap_or_default().into(),
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
        answer: Answer,
    ) -> Result<Explanation, String> {
        let resource = case.resource.as_ref().ok_or("needs `resource`")?;
        let resource = NamedEntity::read(resource.clone(), "resource").map_err(|refusal| refusal.detail.into_owned())?;
        let asked = Asked::Named(NamedQuery {
            action,
            resource: &resource,
            principal: None,
            context: case.context.as_ref(),
            precedence: ContextPrecedence::Given,
            entities: &[],
        });
        let answered = self.ask(Some(identity), asked, now_millis, answer);
        fail_unasked(case, &answered.decision, Denial::RequestInvalid)?;
        Ok(answered)
    }

    fn ask(&self, identity: Option<&Identity>, asked: Asked<'_>, now_millis: i64, answer: Answer) -> Explanation {
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

/// The decision alone.
fn unexplained(query: &Query<'_>, caller: Caller<'_>) -> Explanation {
    decide(query, caller).into()
}

impl From<TestScheme> for Scheme {
    fn from(scheme: TestScheme) -> Self {
        match scheme {
            TestScheme::Http => Self::Http,
            TestScheme::Https => Self::Https,
        }
    }
}

/// A misspelled method, action or attribute must not pass as an expected deny: `Err` if the gate answers the case with
/// `denial` before it evaluates a policy, and the case does not say so.
fn fail_unasked(case: &Case, decision: &Decision, denial: Denial) -> Result<(), String> {
    match decision.unevaluated() {
        Some(refusal) if refusal.denial == denial && case.reason.as_deref() != Some(denial.code()) => {
            Err(refusal.detail.to_string())
        }
        _ => Ok(()),
    }
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
