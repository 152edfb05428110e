//! Decisions with their reasons, for questions, tokens and recorded decisions.

use cedargate_policy::decision::{Caller, Query};
use http::StatusCode;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::call_context::CallContext;
use super::question::{CallerFacts, WorkbenchQuestion};
use crate::authn::inspect;
use crate::base::clock::unix_seconds;
use crate::cli::client;
use crate::cli::control::ControlSocket;
use crate::cli::explain::explained;
use crate::cli::explain::from_log::{FoundDecision, FromLog, explain_record};
use crate::cli::offline::identity;
use crate::cli::tree::Workbench;
use crate::explained::json::report;

/// Policies of another scope that an explanation on the page names.
const OUT_OF_SCOPE_MAX: usize = 200;

/// `{question}` → the decision with its reasons.
pub(super) fn question(workbench: &Workbench, body: &Value) -> Result<Value, String> {
    let question = WorkbenchQuestion::read(body.get("question").unwrap_or(&Value::Null))?;
    let explained = question.ask(workbench, explained)?;
    Ok(json!({ "explanation": shortened(report(&explained)) }))
}

/// `{token, portal}` → the caller that its claims describe. The signature is not checked.
pub(super) fn token(workbench: &Workbench, body: &Value) -> Result<Value, String> {
    let text = |name: &str| {
        body.get(name)
            .and_then(Value::as_str)
            .ok_or_else(|| format!("`{name}` is missing"))
    };
    let portal = workbench.named(text("portal")?)?;
    let inspected = inspect(text("token")?.trim(), unix_seconds());
    let Some(Value::Object(claims)) = inspected.claims else {
        return Err(format!("this is no token: {}", inspected.problems.join("; ")));
    };
    let identity = identity(portal, claims).map_err(|refusal| format!("{}: {}", refusal.denial.code(), refusal.detail))?;
    Ok(json!({"caller": CallerFacts::of(&identity), "problems": inspected.problems}))
}

/// `{id}` → a recorded decision with its reasons: by the gate that made it, if there is one, else from the log.
pub(super) fn decision(context: &CallContext, workbench: &Workbench, body: &Value) -> Result<Value, String> {
    let id = body.get("id").and_then(Value::as_str).map(str::trim);
    let id = id.filter(|id| !id.is_empty()).ok_or("give a decision id or a request id")?;
    if let Some(socket) = context.gate.as_deref() {
        match from_gate(socket, id) {
            Ok(explanation) => return Ok(json!({"explanation": explanation, "source": "gate", "notes": []})),
            Err(why) if context.logs.is_empty() => return Err(why),
            Err(_) => {}
        }
    }
    if let Some(line) = context.log.record(id) {
        return record(&line, workbench);
    }
    let log = FromLog {
        id,
        logs: &context.logs,
        tree: &context.tree,
    };
    from_log(|see| log.explain_in(workbench, see))
}

/// A recorded decision, given as JSON, with its reasons.
pub(super) fn record(line: &[u8], workbench: &Workbench) -> Result<Value, String> {
    from_log(|see| explain_record(line, workbench, see))
}

fn from_log(
    explain: impl FnOnce(&mut dyn FnMut(&Query<'_>, Caller<'_>)) -> Result<FoundDecision, String>,
) -> Result<Value, String> {
    let mut question = None;
    let mut see = |query: &Query<'_>, caller: Caller<'_>| question = Some(WorkbenchQuestion::of(query, caller));
    let found = explain(&mut see)?;
    Ok(
        json!({"explanation": shortened(report(&found.explained)), "source": "log", "notes": found.notes, "record": found.record, "question": question}),
    )
}

/// The report without most of the policies that are about another principal, action or resource; `left_out` counts
/// them.
pub(super) fn shortened(mut report: Value) -> Value {
    let evaluations = report.get_mut("evaluations").and_then(Value::as_array_mut);
    for evaluation in evaluations.into_iter().flatten() {
        let Some(policies) = evaluation.get_mut("policies").and_then(Value::as_array_mut) else {
            continue;
        };
        let all = policies.len();
        let mut others = 0;
        policies.retain(|policy| {
            let is_other = policy.get("verdict").is_some_and(|verdict| verdict == "out_of_scope");
            others += usize::from(is_other);
            !is_other || others <= OUT_OF_SCOPE_MAX
        });
        let left_out = all - policies.len();
        if let Some(members) = evaluation.as_object_mut() {
            members.insert("left_out".to_owned(), json!(left_out));
        }
    }
    report
}

fn from_gate(socket: &std::path::Path, id: &str) -> Result<Value, String> {
    let runtime = client::runtime().map_err(|error| error.to_string())?;
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("id", id).finish();
    let asked = ControlSocket::at(socket);
    let response = runtime.block_on(asked.get_explanation(&format!("/explain?{query}")));
    let response = response.map_err(|error| format!("{}: {error}", socket.display()))?;
    let mut body = response.json().unwrap_or_default();
    if response.status != StatusCode::OK {
        let message = body.get("error").and_then(Value::as_str).unwrap_or(&response.body);
        return Err(message.to_owned());
    }
    Ok(body.get_mut("explanation").map(Value::take).unwrap_or_default())
}
