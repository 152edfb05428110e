//! `cedargate explain`: one decision offline, with its reasons.
//!
//! Asks exactly what `authorize` asks. Shows how the caller and the request became a principal, an action and a
//! resource, what each policy wanted and found, and the permit that needs the least to hold.

pub(super) mod from_log;

use std::path::{Path, PathBuf};

use cedargate_policy::decision::explain::explain;
use cedargate_policy::decision::{Decision, Query};

use http::StatusCode;
use serde_json::Value;
use url::form_urlencoded;

use self::from_log::FromLog;
use super::control::with_socket_at;
use super::offline::{OfflineCaller, QueryArgs};
use super::report::{Format, Writers, json as json_report};
use super::{Exit, Paint, complain, print};
use crate::base::terminal::escaped;
use crate::explained::text::OutOfScope;
use crate::explained::{Explained, json, text};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    query: QueryArgs,
    /// A recorded decision, by its decision id or request id
    #[arg(long, value_name = "ID", conflicts_with_all = ["request", "token", "claims", "url", "portal"])]
    from_log: Option<String>,
    /// A file of the decision log to look into, plain, gzip or zstd; `-` is standard input. Default: the file of
    /// audit.sink and its rotated ones
    #[arg(long = "log", value_name = "FILE", requires = "from_log")]
    logs: Vec<PathBuf>,
    /// Ask the running gate at this control socket, by the policies in force, about a decision among its newest records
    #[arg(long, value_name = "PATH", requires = "from_log", conflicts_with_all = ["logs", "all"])]
    socket: Option<PathBuf>,
    /// Show every policy; default: those whose scope fits, and the nearest permits
    #[arg(long)]
    all: bool,
    /// The form of the report
    #[arg(long, value_parser = ExplainReport::WRITERS.parser(), default_value = "human")]
    format: Format,
}

struct ExplainReport {
    explained: Explained,
    shown: OutOfScope,
}

impl ExplainReport {
    const WRITERS: Writers<Self, 2> = Writers([
        (Format::Human, |report| {
            text::report(&report.explained, report.shown, Paint::stdout())
        }),
        (Format::Json, |report| json_report::text(&json::report(&report.explained))),
    ]);
}

/// A running gate's answer: a text for people beside the explanation. The gate escaped what clients chose.
const GATES_ANSWER: Writers<Value, 2> = Writers([
    (Format::Human, |answer| {
        let text = answer.get("text").and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    }),
    (Format::Json, |answer| {
        json_report::text(answer.get("explanation").unwrap_or(&Value::Null))
    }),
]);

pub(crate) fn run(args: &Args) -> Exit {
    if let (Some(socket), Some(id)) = (&args.socket, &args.from_log) {
        return ask_gate(socket, id, args.format);
    }
    let explained = match &args.from_log {
        None => args.query.ask(explained),
        Some(id) => FromLog {
            id,
            logs: &args.logs,
            tree: &args.query.tree,
        }
        .explain(),
    };
    let shown = if args.all { OutOfScope::All } else { OutOfScope::Nearest };
    Exit::or_usage(explained.and_then(|explained| {
        let report = ExplainReport { explained, shown };
        print(&ExplainReport::WRITERS.write(args.format, &report)?);
        Ok(match report.explained.explanation.decision.denial() {
            None => Exit::Ok,
            Some(_) => Exit::Deny,
        })
    }))
}

/// Asks a running gate.
fn ask_gate(socket: &Path, id: &str, format: Format) -> Exit {
    with_socket_at(socket, async |socket| {
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("id", id).finish();
        let response = socket.get_explanation(&format!("/explain?{query}")).await?;
        let body = response.json().unwrap_or_default();
        if response.status != StatusCode::OK {
            let error = body.get("error").and_then(Value::as_str);
            complain(&escaped(error.unwrap_or(&response.body)));
            return Ok(Exit::Failure);
        }
        let decision = body.get("explanation").and_then(|explanation| explanation.get("decision"));
        let is_allow = decision.is_some_and(|decision| decision == "allow");
        Ok(Exit::or_usage(GATES_ANSWER.write(format, &body).map(|text| {
            print(&text);
            if is_allow { Exit::Ok } else { Exit::Deny }
        })))
    })
}

/// Decides the query, and says why.
pub(super) fn explained(query: &Query<'_>, caller: &OfflineCaller) -> Explained {
    let explanation = match caller.caller() {
        Ok(caller) => explain(query, caller),
        Err(refusal) => Decision::refused(refusal.clone()).into(),
    };
    let known = match caller {
        OfflineCaller::Claimed(claimed) => Some(&**claimed),
        OfflineCaller::Anonymous | OfflineCaller::Refused(_) => None,
    };
    Explained::new(query, known, explanation)
}
