//! `cedargate authorize`: one decision without a running gate.

use std::sync::Arc;

use cedargate_policy::decision::{Decision, decide};
use cedargate_policy::denial::Denial;
use serde_json::{Value, json};
use uuid::Uuid;

use super::offline::QueryArgs;
use super::report::{Format, json as json_report};
use super::{Exit, Paint, complain, print};
use crate::doors::authorize::append_answer;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    query: QueryArgs,
    /// The form of the report
    #[arg(long, value_parser = Format::among(&[Format::Human, Format::Json]), default_value = "human")]
    format: Format,
}

/// A decision of one portal's revision.
struct Decided {
    decision: Decision,
    portal: Arc<str>,
    revision: Arc<str>,
}

pub(crate) fn run(args: &Args) -> Exit {
    let decided = args.query.ask(|query, caller| Decided {
        decision: match caller.caller() {
            Ok(caller) => decide(query, caller),
            Err(refusal) => Decision::refused(refusal.clone()),
        },
        portal: Arc::from(query.portal.slug.as_str()),
        revision: Arc::clone(&query.revision.id),
    });
    match decided {
        Ok(decided) => report(args.format, &decided),
        Err(message) => {
            complain(&message);
            Exit::Usage
        }
    }
}

fn report(format: Format, decided: &Decided) -> Exit {
    let refusal = decided.decision.unevaluated();
    print(&match (format, refusal) {
        (Format::Json, None) => json_report::text(&answer(decided)),
        (Format::Json, Some(refusal)) => {
            let code = refusal.denial.code();
            json_report::text(&json!({"decision": "deny", "reason": code, "detail": refusal.detail}))
        }
        (_, None) => decision_text(decided),
        (_, Some(refusal)) => {
            let code = refusal.denial.code();
            format!("{} {code}: {}\n", Paint::stdout().red("deny"), refusal.detail)
        }
    });
    match refusal {
        Some(refusal) if refusal.denial == Denial::RequestInvalid => Exit::Usage,
        None if decided.decision.denial().is_none() => Exit::Ok,
        _ => Exit::Deny,
    }
}

/// The answer that `/authorize` would give.
fn answer(decided: &Decided) -> Value {
    let mut answer = Vec::new();
    append_answer(
        &mut answer,
        &decided.decision,
        Uuid::now_v7(),
        &decided.portal,
        &decided.revision,
    );
    serde_json::from_slice(&answer).unwrap_or_default()
}

fn decision_text(decided: &Decided) -> String {
    let Decided {
        decision,
        portal,
        revision,
    } = decided;
    let paint = Paint::stdout();
    let head = match decision.denial() {
        None => paint.green("allow"),
        Some(denial) => format!("{} {}", paint.red("deny"), denial.code()),
    };
    let mut text = format!("{head}  (portal {portal}, revision {revision})\n");
    for policy in decision.policies() {
        text.push_str(&format!("  decided by {} {}\n", policy.id, paint.dim(&policy.place)));
    }
    for error in decision.errors() {
        text.push_str(&format!("  {}\n", error.message));
    }
    text
}
