//! Decision tests: what the portal's team expects of its own policies, run before a candidate is served.
//!
//! Reads `tests/*.yaml`, the Cedar CLI's `run-tests` JSON and `ALLOW/`, `DENY/` folders of request JSON. A case is
//! decided by the same functions as a request. The clock is the case's own, so that tests don't rot.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use cedar_policy::{Context, EntityUid, Request};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use serde_saphyr::Spanned;

use super::Revision;
use super::problem::{Problem, RevisionError};
use crate::authz::Target;
use crate::authz::context::{Facts, HttpFacts, ReadyContext};
use crate::authz::engine::{Answer, Party};
use crate::authz::supplied::{SuppliedEntities, entity_item, report};
use crate::denial::{Denial, Refusal};
use crate::http::request::query_pairs;
use crate::portal::path::CanonicalPath;
use crate::types::{AuthFacts, Identity, TokenFacts};
use cedargate_policy::claims::unsigned_identity;
use cedargate_policy::scope::{IssuerScope, PortalScope};

/// 2026-01-01T00:00:00Z: the clock of a test that names none.
const NOW_MILLIS: i64 = 1_767_225_600_000;

/// What became of one case.
#[derive(Clone, Debug)]
pub struct CaseResult {
    pub file: String,
    pub line: Option<usize>,
    pub name: String,
    pub verdict: Verdict,
    /// Policies that decided.
    pub deciding: Vec<Arc<str>>,
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
    /// Whose claims they are; default: the portal's first issuer.
    issuer: Option<String>,
    http: Option<String>,
    host: Option<String>,
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

/// A request of the Cedar CLI, with what its test expects.
#[derive(Deserialize)]
struct CliCase {
    name: Option<String>,
    request: CliRequest,
    #[serde(default)]
    entities: Value,
    decision: Expect,
    #[serde(default)]
    reason: Vec<String>,
    #[serde(default)]
    num_errors: usize,
}

#[derive(Deserialize)]
struct CliRequest {
    principal: String,
    action: String,
    resource: String,
    #[serde(default)]
    context: Value,
}

/// What one case came to: an answer, or a refusal before there was a question.
type Outcome = Result<Answer, Refusal>;

/// Fails with every failing case's name.
pub fn check(portal: &PortalScope, revision: &Revision) -> Result<(), RevisionError> {
    let failed = run(portal, revision)?.into_iter().filter_map(|result| match result.verdict {
        Verdict::Failed(why) => {
            Some(Problem::new(&result.file, format!("test `{}` failed: {why}", result.name)).at_line(result.line))
        }
        Verdict::Passed | Verdict::Skipped(_) => None,
    });
    RevisionError::check(failed.collect())
}

/// Runs every decision test of the portal; `Err` if a test file cannot be read as one.
pub fn run(portal: &PortalScope, revision: &Revision) -> Result<Vec<CaseResult>, RevisionError> {
    let folder = format!("policies/{}/tests/", portal.slug);
    let mut results = Vec::new();
    for (name, file) in revision.main_files().0.iter().filter(|(name, _)| name.starts_with(&folder)) {
        let text = file.text(name)?;
        let runner = Runner {
            portal,
            revision,
            file: name,
        };
        match name.rsplit_once('.').map(|(_, suffix)| suffix) {
            Some("yaml" | "yml") => results.extend(runner.yaml(text)?),
            Some("json") => results.extend(runner.json(text)?),
            _ => {}
        }
    }
    Ok(results)
}

struct Runner<'a> {
    portal: &'a PortalScope,
    revision: &'a Revision,
    file: &'a str,
}

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
        };
        if let Some(why) = &case.skip {
            result.verdict = Verdict::Skipped(why.clone());
            return result;
        }
        match self.decide(tests, case) {
            Ok(outcome) => {
                result.deciding = outcome
                    .as_ref()
                    .map(|a| a.policies.iter().map(|p| Arc::clone(&p.id)).collect())
                    .unwrap_or_default();
                result.verdict = judge(case, &outcome);
            }
            Err(message) => result.verdict = Verdict::Failed(message),
        }
        result
    }

    /// `Err` where the case itself makes no sense.
    fn decide(&self, tests: &TestFile, case: &Case) -> Result<Outcome, String> {
        if case.expect.is_none() {
            return Err("needs `expect: allow` or `expect: deny`".to_owned());
        }
        let identity = match self.identity(tests, case)? {
            Ok(identity) => identity,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let now_millis = case
            .now
            .as_ref()
            .or(tests.now.as_ref())
            .map_or(Ok(NOW_MILLIS), |text| millis(text))?;
        match (&case.http, &case.action, &case.resource) {
            (Some(http), None, None) => self.http(&identity, case, http, now_millis),
            (None, Some(action), Some(resource)) => self.direct(&identity, case, (action, resource), now_millis),
            _ => Err("needs either `http`, or `action` and `resource`".to_owned()),
        }
    }

    fn identity(&self, tests: &TestFile, case: &Case) -> Result<Result<Identity, Refusal>, String> {
        match (&case.principal, &case.claims) {
            (Some(name), None) => {
                let fixture = tests
                    .principals
                    .get(name)
                    .ok_or_else(|| format!("there is no principal `{name}`"))?;
                Ok(Ok(self.fixture(fixture)))
            }
            (None, Some(claims)) => Ok(unsigned_identity(&*self.issuer(case)?, claims.clone()).map_err(Refusal::from)),
            _ => Err("needs either `principal` or `claims`".to_owned()),
        }
    }

    /// The fixture's attributes, as the claims that the portal maps to them.
    fn fixture(&self, fixture: &Fixture) -> Identity {
        let mapping = &self.revision.rules.claims;
        let claims = fixture
            .attrs
            .iter()
            .map(|(name, value)| (mapping.get(name).unwrap_or(name).clone(), value.clone()));
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
            claims: Arc::new(claims.collect()),
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

    fn http(&self, identity: &Identity, case: &Case, http: &str, now_millis: i64) -> Result<Outcome, String> {
        let (method, target) = http
            .split_once(' ')
            .ok_or("`http` is a method and a path: \"GET /portal/…\"")?;
        let (raw, query) = target.split_once('?').map_or((target, ""), |(path, query)| (path, query));
        let path = match CanonicalPath::parse(raw) {
            Ok(path) => path,
            Err(error) => return Ok(Err(Refusal::new(Denial::RequestInvalid, error.to_string()))),
        };
        let prefix = &self.portal.matches.path_prefix;
        if !(path.id() == prefix || path.ancestors().any(|a| a == prefix)) {
            return Err(format!("`{raw}` is not below this portal's path `{prefix}`"));
        }
        if self.revision.file.public.matches(method, &path) {
            return Err(format!("`{method} {raw}` is public: no policy is asked"));
        }
        let pairs: Vec<_> = query_pairs(query).map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
        let headers = http::HeaderMap::new();
        let facts = Some(HttpFacts {
            method,
            path: path.id(),
            host: case.host.as_deref().unwrap_or("localhost"),
            scheme: "https",
            source_ip: std::net::IpAddr::from([127, 0, 0, 1]),
            query: &pairs,
            headers: &headers,
        });
        let target = self.revision.target(method, &path).map_err(|r| r.detail.into_owned())?;
        Ok(self.ask(identity, case, &target, (facts, now_millis)))
    }

    fn ask(&self, identity: &Identity, case: &Case, target: &Target, at: (Option<HttpFacts<'_>>, i64)) -> Outcome {
        let rules = &self.revision.rules;
        let principal = rules.principal(identity, &self.prefix(identity))?;
        let facts = self.facts(identity, at);
        match &case.context {
            None => rules.ask(&principal, target, &facts),
            Some(given) => {
                let context = self.context(&target.action, &facts, Some(given))?;
                rules.ask_in(&principal.party, target, &SuppliedEntities::default(), &ReadyContext(context))
            }
        }
    }

    fn direct(
        &self,
        identity: &Identity,
        case: &Case,
        (action, resource): (&str, &Value),
        now_millis: i64,
    ) -> Result<Outcome, String> {
        let rules = &self.revision.rules;
        let action = rules
            .schema
            .resolve_action(action)
            .ok_or_else(|| format!("the schema has no action `{action}`"))?;
        let (uid, item) = self.resource(resource)?;
        let supplied = rules
            .supplied_entities(&Value::Array(item.into_iter().collect()), None)
            .map_err(|e| e.to_string())?;
        let principal = match rules.principal(identity, &self.prefix(identity)) {
            Ok(principal) => principal,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let facts = self.facts(identity, (None, now_millis));
        let context = match self.context(&action, &facts, case.context.as_ref()) {
            Ok(context) => context,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let target = Target {
            action,
            resource: rules.named_resource(uid, &supplied),
            paths: Vec::new(),
            route: None,
        };
        Ok(rules.ask_in(&principal.party, &target, &supplied, &ReadyContext(context)))
    }

    /// The resource, and its entity if the case describes it.
    fn resource(&self, value: &Value) -> Result<(EntityUid, Option<Value>), String> {
        let rules = &self.revision.rules;
        if let Some(text) = value.as_str() {
            return EntityUid::from_str(text)
                .map(|uid| (uid, None))
                .map_err(|_why| format!("`{text}` is not `Type::\"id\"`"));
        }
        let text = |key: &str| {
            value
                .get(key)
                .and_then(Value::as_str)
                .ok_or_else(|| format!("`resource` needs `{key}`"))
        };
        let ty = rules
            .schema
            .resolve_type(text("type")?)
            .ok_or_else(|| format!("the schema has no type `{}`", text("type").unwrap_or_default()))?;
        let uid = EntityUid::from_type_name_and_id(ty, cedar_policy::EntityId::new(text("id")?));
        let (attrs, parents) = (value.get("attrs"), value.get("parents"));
        if attrs.is_none() && parents.is_none() {
            return Ok((uid, None));
        }
        let item = entity_item(&uid, attrs.unwrap_or(&json!({})), parents.unwrap_or(&json!([])));
        Ok((uid, Some(item)))
    }

    fn facts<'f>(&'f self, identity: &'f Identity, (http, now_millis): (Option<HttpFacts<'f>>, i64)) -> Facts<'f> {
        Facts {
            portal: self.portal.slug.as_str(),
            tenant: identity.tenant.as_deref(),
            now_millis,
            auth: Some(&identity.auth),
            flags: &self.revision.flags,
            http,
        }
    }

    /// What the gate would fill in, with the case's own values over it.
    fn context(&self, action: &EntityUid, facts: &Facts<'_>, given: Option<&Map<String, Value>>) -> Result<Context, Refusal> {
        let rules = &self.revision.rules;
        let mut all = match rules.plans.get(action) {
            Some(plan) => plan.to_json(facts)?,
            None => Map::new(),
        };
        all.extend(given.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
        Context::from_json_value(Value::Object(all), Some((&rules.schema.cedar, action)))
            .map_err(|e| Refusal::new(Denial::RequestInvalid, report(&e)))
    }

    fn prefix(&self, identity: &Identity) -> String {
        self.portal.subject_prefix(&identity.issuer)
    }

    fn json(&self, text: &str) -> Result<Vec<CaseResult>, RevisionError> {
        let fail = |e: serde_json::Error| Problem::new(self.file, format!("is not a test file: {e}")).at_line(Some(e.line()));
        let expect = [("/ALLOW/", Expect::Allow), ("/DENY/", Expect::Deny)];
        if let Some((_, decision)) = expect.into_iter().find(|(folder, _)| self.file.contains(folder)) {
            let request = serde_json::from_str(text).map_err(fail)?;
            let case = CliCase {
                name: None,
                request,
                entities: Value::Null,
                decision,
                reason: Vec::new(),
                num_errors: usize::MAX,
            };
            return Ok(vec![self.cli_case(0, &case)]);
        }
        let cases: Vec<CliCase> = serde_json::from_str(text).map_err(fail)?;
        Ok(cases
            .iter()
            .enumerate()
            .map(|(number, case)| self.cli_case(number, case))
            .collect())
    }

    fn cli_case(&self, number: usize, case: &CliCase) -> CaseResult {
        let name = case.name.clone().unwrap_or_else(|| format!("#{number}"));
        let (verdict, deciding) = match self.cli_answer(case) {
            Err(message) => (Verdict::Failed(message), Vec::new()),
            Ok(answer) => {
                let deciding: Vec<_> = answer.policies.iter().map(|p| Arc::clone(&p.id)).collect();
                (judge_cli(case, &answer), deciding)
            }
        };
        CaseResult {
            file: self.file.to_owned(),
            line: None,
            name,
            verdict,
            deciding,
        }
    }

    fn cli_answer(&self, case: &CliCase) -> Result<Answer, String> {
        let rules = &self.revision.rules;
        let uid = |text: &str| EntityUid::from_str(text).map_err(|_why| format!("`{text}` is not `Type::\"id\"`"));
        let (principal, action) = (uid(&case.request.principal)?, uid(&case.request.action)?);
        let resource = uid(&case.request.resource)?;
        let list = if case.entities.is_null() {
            json!([])
        } else {
            case.entities.clone()
        };
        let supplied = rules.supplied_entities(&list, None).map_err(|e| e.to_string())?;
        let context = if case.request.context.is_null() {
            json!({})
        } else {
            case.request.context.clone()
        };
        let schema = &rules.schema.cedar;
        let context = Context::from_json_value(context, Some((schema, &action))).map_err(|e| report(&e))?;
        Request::new(
            principal.clone(),
            action.clone(),
            resource.clone(),
            context.clone(),
            Some(schema),
        )
        .map_err(|e| report(&e))?;
        let principal: Party = rules.named_principal(principal, &supplied);
        let target = Target {
            action,
            resource: rules.named_resource(resource, &supplied),
            paths: Vec::new(),
            route: None,
        };
        rules
            .ask_in(&principal, &target, &supplied, &ReadyContext(context))
            .map_err(|r| r.detail.into_owned())
    }
}

fn millis(text: &str) -> Result<i64, String> {
    let time = humantime::parse_rfc3339(text).map_err(|_why| format!("`now: {text}` is not a time like 2026-01-01T00:00:00Z"))?;
    let since = time
        .duration_since(std::time::UNIX_EPOCH)
        .map_err(|_why| format!("`now: {text}` is before 1970"))?;
    i64::try_from(since.as_millis()).map_err(|_why| format!("`now: {text}` is too far ahead"))
}

fn judge(case: &Case, outcome: &Outcome) -> Verdict {
    let denial = match outcome {
        Ok(answer) => answer.denial(),
        Err(refusal) => Some(refusal.denial),
    };
    let reason = denial.map_or("permitted", Denial::code);
    let decided = if denial.is_none() { Expect::Allow } else { Expect::Deny };
    let mut wrong = Vec::new();
    if Some(decided) != case.expect {
        let detail = outcome.as_ref().err().map(|r| format!(": {}", r.detail)).unwrap_or_default();
        wrong.push(
            format!(
                "decided {decided:?} ({reason}{detail}), expected {:?}",
                case.expect.unwrap_or(Expect::Deny)
            )
            .to_lowercase(),
        );
    }
    let empty = (Vec::new(), 0);
    let (deciding, errors) = outcome
        .as_ref()
        .map(|a| (sorted(a.policies.iter().map(|p| &*p.id)), a.errors.len()))
        .unwrap_or(empty);
    if let Some(because) = case.because.as_ref().map(|b| sorted(b.iter().map(String::as_str)))
        && because != deciding
    {
        wrong.push(format!(
            "decided by [{}], expected [{}]",
            deciding.join(", "),
            because.join(", ")
        ));
    }
    if case.errors.is_some_and(|expected| expected != errors) {
        wrong.push(format!(
            "{errors} policies failed to evaluate, expected {}",
            case.errors.unwrap_or_default()
        ));
    }
    if let Some(expected) = case.reason.as_ref().filter(|expected| *expected != reason) {
        wrong.push(format!("reason is `{reason}`, expected `{expected}`"));
    }
    if wrong.is_empty() {
        Verdict::Passed
    } else {
        Verdict::Failed(wrong.join("; "))
    }
}

/// The Cedar CLI's rule: the named reasons must be among the deciding policies.
fn judge_cli(case: &CliCase, answer: &Answer) -> Verdict {
    let decided = if answer.denial().is_none() {
        Expect::Allow
    } else {
        Expect::Deny
    };
    if decided != case.decision {
        return Verdict::Failed(format!("decided {decided:?}, expected {:?}", case.decision).to_lowercase());
    }
    let missing: Vec<_> = case
        .reason
        .iter()
        .filter(|id| answer.policies.iter().all(|p| *p.id != ***id))
        .cloned()
        .collect();
    if !missing.is_empty() {
        return Verdict::Failed(format!("missing reason: {}", missing.join(", ")));
    }
    if case.num_errors != usize::MAX && case.num_errors != answer.errors.len() {
        return Verdict::Failed(format!(
            "{} policies failed to evaluate, expected {}",
            answer.errors.len(),
            case.num_errors
        ));
    }
    Verdict::Passed
}

fn sorted<'a>(ids: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut all: Vec<_> = ids.collect();
    all.sort_unstable();
    all
}
