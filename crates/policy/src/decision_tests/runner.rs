//! Runs one case: the caller, the query, and the function that decides it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::file::{Case, Fixture, Fixtures, PrincipalOfCase};
use super::judge::{fail_unasked, judge};
use super::{CaseResult, DecisionTests, Failures, FileTests, NOW_MILLIS, Options, PortalMismatch, TestOutcome};
use crate::claims::unsigned_identity;
use crate::decision::coverage::decide_covered;
use crate::decision::explain::{Explanation, explain};
use crate::decision::http::HttpQuery;
use crate::decision::named::{ContextPrecedence, NamedEntity, NamedQuery};
use crate::decision::{Caller, Decision, Query, QueryForm, decide};
use crate::denial::{Denial, Refusal};
use crate::portal::normal_host;
use crate::portal::path::CanonicalPath;
use crate::portal::path::rules::path_refused;
use crate::revision::Revision;
use crate::scope::{IssuerScope, PortalScope};
use crate::types::{AuthFacts, Identity, TokenFacts};

/// A case's surroundings.
pub(super) struct Runner<'a> {
    pub portal: &'a PortalScope,
    pub revision: &'a Revision,
    pub tests: &'a DecisionTests<'a>,
    pub file: Option<&'a FileTests<'a>>,
    pub options: &'a Options<'a>,
}

/// The function that answers a case: all decide alike.
pub(super) type Answer<'a> = &'a dyn Fn(&Query<'_>, Caller<'_>) -> Explanation;

impl<'a> Runner<'a> {
    /// The files whose definitions count, the nearest first.
    fn layers(&self) -> impl Iterator<Item = &'a Fixtures> {
        let file = self.file.map(|file| &file.fixtures);
        file.into_iter().chain([&self.tests.own, &self.tests.shared])
    }

    pub fn file_name(&self) -> &'a str {
        self.file.map_or("", |file| file.name)
    }

    /// The answer that the options ask for.
    pub fn answer(&self, query: &Query<'_>, caller: Caller<'_>) -> Explanation {
        let decision = match self.options.coverage {
            Some(coverage) => decide_covered(query, caller, coverage),
            None => decide(query, caller),
        };
        if let Some(see) = self.options.see {
            see(query, caller, &decision);
        }
        decision.into()
    }

    pub fn yaml_case(&self, case: &Case) -> CaseResult {
        let mut result = CaseResult {
            file: self.file_name().to_owned(),
            line: case.line,
            name: case.name.clone(),
            verdict: TestOutcome::Passed,
            deciding: Vec::new(),
            answer: Err("is skipped".to_owned()),
            explanation: None,
        };
        if let Some(why) = &case.skip {
            result.verdict = TestOutcome::Skipped(why.clone());
            return result;
        }
        match self.decide(case, &|query, caller| self.answer(query, caller)) {
            Ok(Explanation { decision, .. }) => {
                result.deciding = deciding(&decision);
                result.answer = Ok(decision.denial());
                result.verdict = judge(case, &decision);
            }
            Err(message) => {
                result.answer = Err(message.clone());
                result.verdict = TestOutcome::Failed(message);
            }
        }
        if self.options.failures == Failures::Explain && matches!(result.verdict, TestOutcome::Failed(_)) {
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
                Err(PortalMismatch::Refused(refusal)) => return Ok(Decision::refused(refusal).into()),
                Err(PortalMismatch::Portal(message)) => return Err(message),
            }
        }
        let no_headers = http::HeaderMap::new();
        let asked = QueryForm::Http(HttpQuery {
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
        let asked = QueryForm::Named(NamedQuery {
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

    fn ask(&self, identity: Option<&Identity>, asked: QueryForm<'_>, now_millis: i64, answer: Answer<'_>) -> Explanation {
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

pub(super) fn deciding(decision: &Decision) -> Vec<Arc<str>> {
    decision.policies().iter().map(|policy| Arc::clone(&policy.id)).collect()
}

fn millis(text: &str) -> Result<i64, String> {
    let time = humantime::parse_rfc3339(text).map_err(|_why| format!("`now: {text}` is not a time like 2026-01-01T00:00:00Z"))?;
    let since = time
        .duration_since(std::time::UNIX_EPOCH)
        .map_err(|_why| format!("`now: {text}` is before 1970"))?;
    i64::try_from(since.as_millis()).map_err(|_why| format!("`now: {text}` is too far ahead"))
}
