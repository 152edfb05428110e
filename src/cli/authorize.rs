//! `cedargate authorize`: one decision without a running gate.

use std::sync::Arc;

use cedargate_policy::decision::{Decision, decide};
use cedargate_policy::denial::{Denial, Refusal};
use serde_json::{Value, json};
use uuid::Uuid;

use super::offline::QueryArgs;
use super::{Exit, Paint, complain, print};
use crate::doors::authorize::append_answer;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    query: QueryArgs,
    /// The form of the report
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Human,
    Json,
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
    let Decided {
        decision,
        portal,
        revision,
    } = decided;
    if let Some(refusal) = decision.unevaluated() {
        return report_refusal(format, refusal);
    }
    let denial = decision.denial();
    match format {
        Format::Json => {
            let mut answer = Vec::new();
            append_answer(&mut answer, decision, Uuid::now_v7(), portal, revision);
            let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
            print(&format!("{answer:#}\n"));
        }
        Format::Human => {
            let paint = Paint::stdout();
            let head = denial.map_or_else(|| paint.green("allow"), |d| format!("{} {}", paint.red("deny"), d.code()));
            print(&format!("{head}  (portal {portal}, revision {revision})\n"));
            for policy in decision.policies() {
                print(&format!("  decided by {} {}\n", policy.id, paint.dim(&policy.place)));
            }
            for error in decision.errors() {
                print(&format!("  {}\n", error.message));
            }
        }
    }
    if denial.is_none() { Exit::Ok } else { Exit::Deny }
}

/// The query ended before policies were evaluated.
fn report_refusal(format: Format, refusal: &Refusal) -> Exit {
    let code = refusal.denial.code();
    let detail = &refusal.detail;
    match format {
        Format::Human => print(&format!("{} {code}: {detail}\n", Paint::stdout().red("deny"))),
        Format::Json => print(&format!(
            "{:#}\n",
            json!({"decision": "deny", "reason": code, "detail": detail})
        )),
    }
    if refusal.denial == Denial::RequestInvalid {
        Exit::Usage
    } else {
        Exit::Deny
    }
}
