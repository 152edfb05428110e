//! `cedargate authorize`: one decision without a running gate.

use std::sync::Arc;

use cedargate_policy::decision::{Decision, decide};
use cedargate_policy::denial::Denial;
use serde_json::{Value, json};
use uuid::Uuid;

use super::offline::QueryArgs;
use super::report::{Format, Writers, json as json_report};
use super::{Exit, Paint, print};
use crate::doors::authorize::append_answer;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    query: QueryArgs,
    /// The form of the report
    #[arg(long, value_parser = Decided::WRITERS.parser(), default_value = "human")]
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
    Exit::or_usage(decided.and_then(|decided| {
        print(&Decided::WRITERS.write(args.format, &decided)?);
        Ok(decided.exit())
    }))
}

impl Decided {
    const WRITERS: Writers<Self, 2> = Writers([
        (Format::Human, decision_text),
        (Format::Json, |decided| json_report::text(&answer(decided))),
    ]);

    fn exit(&self) -> Exit {
        match self.decision.unevaluated() {
            Some(refusal) if refusal.denial == Denial::RequestInvalid => Exit::Usage,
            None if self.decision.denial().is_none() => Exit::Ok,
            _ => Exit::Deny,
        }
    }
}

/// The answer that `/authorize` would give; of a refusal before the policies also the detail.
fn answer(decided: &Decided) -> Value {
    if let Some(refusal) = decided.decision.unevaluated() {
        return json!({"decision": "deny", "reason": refusal.denial.code(), "detail": refusal.detail});
    }
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
    if let Some(refusal) = decision.unevaluated() {
        return format!("{} {}: {}\n", paint.red("deny"), refusal.denial.code(), refusal.detail);
    }
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
