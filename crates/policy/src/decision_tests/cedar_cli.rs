//! Tests in the formats of the Cedar CLI: `run-tests` JSON, and `ALLOW/` and `DENY/` folders of request JSON.
//!
//! They skip HTTP and claims: principal, entities and context are those of the file, and the gate adds nothing.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::file::Expect;
use super::runner::{Answer, Runner, deciding};
use super::{CaseResult, Failures, NOW_MILLIS, TestOutcome};
use crate::decision::explain::{Explanation, explain};
use crate::decision::named::{ContextPrecedence, NamedEntity, NamedQuery};
use crate::decision::{Caller, Decision, Query, QueryForm};
use crate::revision::problem::Problem;

/// A request of the Cedar CLI, with what its test expects.
#[derive(Deserialize)]
pub(super) struct CliCase {
    #[serde(default)]
    name: String,
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

/// Reads a file of the Cedar CLI: a list of cases, or the one request of a file below `ALLOW/` or `DENY/`.
pub(super) fn read(name: &str, text: &str) -> Result<Vec<CliCase>, Problem> {
    let fail = |e: serde_json::Error| Problem::new(name, format!("is not a test file: {e}")).at_line(Some(e.line()));
    let expect = [("/ALLOW/", Expect::Allow), ("/DENY/", Expect::Deny)];
    if let Some((_, decision)) = expect.into_iter().find(|(folder, _)| name.contains(folder)) {
        let request = serde_json::from_str(text).map_err(fail)?;
        return Ok(vec![CliCase {
            name: "#0".to_owned(),
            request,
            entities: Value::Null,
            decision,
            reason: Vec::new(),
            num_errors: usize::MAX,
        }]);
    }
    let mut cases: Vec<CliCase> = serde_json::from_str(text).map_err(fail)?;
    for (number, case) in cases.iter_mut().enumerate() {
        if case.name.is_empty() {
            case.name = format!("#{number}");
        }
    }
    Ok(cases)
}

impl CliCase {
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Runner<'_> {
    pub(super) fn cli_case(&self, case: &CliCase) -> CaseResult {
        let (verdict, deciding, answer) = match self.cli_decision(case, &|query, caller| self.answer(query, caller)) {
            Err(message) => (TestOutcome::Failed(message.clone()), Vec::new(), Err(message)),
            Ok(Explanation { decision, .. }) => (judge_cli(case, &decision), deciding(&decision), Ok(decision.denial())),
        };
        let is_explained = self.options.failures == Failures::Explain && matches!(verdict, TestOutcome::Failed(_));
        let explanation = is_explained.then(|| self.cli_decision(case, &explain).ok()).flatten();
        CaseResult {
            file: self.file_name().to_owned(),
            line: None,
            name: case.name.clone(),
            verdict,
            deciding,
            answer,
            explanation: explanation.map(Arc::new),
        }
    }

    fn cli_decision(&self, case: &CliCase, answer: Answer<'_>) -> Result<Explanation, String> {
        let CliRequest {
            principal,
            action,
            resource,
            context,
        } = &case.request;
        let principal = NamedEntity::Text(principal.clone());
        let resource = NamedEntity::Text(resource.clone());
        let entities = match &case.entities {
            Value::Null => &[][..],
            Value::Array(entities) => entities,
            _ => return Err("`entities` is not a list".to_owned()),
        };
        let context = match context {
            Value::Null => None,
            Value::Object(context) => Some(context),
            _ => return Err("`context` is not an object".to_owned()),
        };
        let query = Query {
            portal: self.portal,
            revision: self.revision,
            now_millis: NOW_MILLIS,
            asked: QueryForm::Named(NamedQuery {
                action,
                resource: &resource,
                principal: Some(&principal),
                context,
                precedence: ContextPrecedence::GivenAlone,
                entities,
            }),
        };
        let answered = answer(&query, Caller::Anonymous);
        match answered.decision.unevaluated() {
            Some(refusal) => Err(refusal.detail.to_string()),
            None => Ok(answered),
        }
    }
}

/// The Cedar CLI's rule: the named reasons must be among the deciding policies.
fn judge_cli(case: &CliCase, decision: &Decision) -> TestOutcome {
    let decided = if decision.denial().is_none() {
        Expect::Allow
    } else {
        Expect::Deny
    };
    if decided != case.decision {
        return TestOutcome::Failed(format!("decided {decided:?}, expected {:?}", case.decision).to_lowercase());
    }
    let missing: Vec<_> = case
        .reason
        .iter()
        .filter(|id| decision.policies().iter().all(|p| *p.id != ***id))
        .cloned()
        .collect();
    if !missing.is_empty() {
        return TestOutcome::Failed(format!("missing reason: {}", missing.join(", ")));
    }
    if case.num_errors != usize::MAX && case.num_errors != decision.errors().len() {
        return TestOutcome::Failed(format!(
            "{} policies failed to evaluate, expected {}",
            decision.errors().len(),
            case.num_errors
        ));
    }
    TestOutcome::Passed
}
