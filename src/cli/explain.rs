//! `cedargate explain`: one decision offline, with its reasons.
//!
//! Asks exactly what `authorize` asks. Shows how the caller and the request became a principal, an action and a resource, what
//! each policy wanted and found, and the permit that needs the least to hold.

mod from_log;
mod json;
pub(crate) mod text;

use std::path::PathBuf;
use std::sync::Arc;

use cedargate_policy::decision::explain::{CallerFact, Explanation, caller_facts, explain};
use cedargate_policy::decision::{Asked, Decision, Query};

use self::from_log::FromLog;
use super::offline::{OfflineCaller, QueryArgs};
use super::report::json as json_report;
use super::{Exit, Paint, print};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    query: QueryArgs,
    /// A recorded decision, by its decision id or request id
    #[arg(long, value_name = "ID", conflicts_with_all = ["request", "token", "claims", "url", "portal"])]
    from_log: Option<String>,
    /// A file of the decision log to look into, plain, gzip or zstd; `-` is standard input. Default: the file of audit.sink and its
    /// rotated ones
    #[arg(long = "log", value_name = "FILE", requires = "from_log")]
    logs: Vec<PathBuf>,
    /// Show every policy; default: those whose scope fits, and the nearest permits
    #[arg(long)]
    all: bool,
    /// The form of the report
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Human,
    Json,
}

/// An explained decision, and what it was about.
struct Explained {
    explanation: Explanation,
    portal: Arc<str>,
    revision: Arc<str>,
    /// `GET /portal/customer/orders`; `None` for a query that names action and resource.
    request: Option<String>,
    facts: Vec<CallerFact>,
}

pub(crate) fn run(args: &Args) -> Exit {
    let explained = match &args.from_log {
        None => args.query.ask(explained),
        Some(id) => FromLog {
            id,
            logs: &args.logs,
            tree: &args.query.tree,
        }
        .explain(),
    };
    Exit::or_usage(explained.map(|explained| {
        print(&match args.format {
            Format::Human => text::report(&explained, args.all, Paint::stdout()),
            Format::Json => json_report::text(&json::report(&explained)),
        });
        match explained.explanation.decision.denial() {
            None => Exit::Ok,
            Some(_) => Exit::Deny,
        }
    }))
}

fn explained(query: &Query<'_>, caller: &OfflineCaller) -> Explained {
    let explanation = match caller.caller() {
        Ok(caller) => explain(query, caller),
        Err(refusal) => Explanation {
            decision: Decision::refused(refusal.clone()),
            evaluations: Vec::new(),
        },
    };
    let facts = match caller {
        OfflineCaller::Claimed(claimed) => caller_facts(query, &claimed.identity, &claimed.principal),
        OfflineCaller::Anonymous | OfflineCaller::Refused(_) => Vec::new(),
    };
    Explained {
        explanation,
        portal: Arc::from(query.portal.slug.as_str()),
        revision: Arc::clone(&query.revision.id),
        request: match &query.asked {
            Asked::Http(http) => Some(format!("{} {}", http.method, http.path.as_str())),
            Asked::Named(_) => None,
        },
        facts,
    }
}
