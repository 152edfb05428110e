//! `cedargate sessions list` and `revoke`: a running gate's sessions, through its control socket.

use std::num::NonZeroUsize;

use http::StatusCode;
use serde_json::Value;

use super::client::{ClientError, ClientResponse};
use super::control::{ControlTarget, with_socket};
use super::report::text::{escaped, listing};
use super::report::{Format, Listing, Writers, json as json_report};
use super::{Exit, Paint, complain, print};
use crate::base::clock::rfc3339_millis;

/// Labels of the listing's columns.
const COLUMNS: &[&str] = &["", "", "tenant ", "portal ", "via ", "since ", "used "];

/// The gate's answer to the question for sessions.
const SESSIONS: Writers<Value, 2> = Writers([(Format::Human, as_text), (Format::Json, json_report::text)]);

#[derive(clap::Subcommand)]
pub(crate) enum SessionsCommand {
    /// List the sessions
    List(ListArgs),
    /// End sessions, on every replica and at once; of a subject, tenant or portal also its bearer tokens
    Revoke(RevokeArgs),
}

#[derive(clap::Args)]
#[command(after_help = "Times are when the session began and when the store last heard of its use.")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    target: ControlTarget,
    /// Only of this subject, as its issuer writes it
    #[arg(long)]
    subject: Option<String>,
    /// Only of this issuer (a provider of local accounts is one, too)
    #[arg(long)]
    issuer: Option<String>,
    /// Only of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only begun at this portal
    #[arg(long)]
    portal: Option<String>,
    /// At most so many, the youngest first
    #[arg(long, default_value = "1000")]
    limit: NonZeroUsize,
    /// Format of the report
    #[arg(long, value_parser = SESSIONS.parser(), default_value = "human")]
    format: Format,
}

#[derive(clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true).args(["session", "subject", "tenant", "portal"]),
    after_help = "A revocation ends sessions and tokens from before now: a user who logs in again, or gets a new token, is let in. \
                  Exit codes: 0 revoked, 1 not revoked."
)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    target: ControlTarget,
    /// One session, by its id in the listing
    #[arg(long)]
    session: Option<String>,
    /// Every session and bearer token of a subject, as its issuer writes it
    #[arg(long)]
    subject: Option<String>,
    /// The subject's issuer; needed if there are several issuers
    #[arg(long, requires = "subject")]
    issuer: Option<String>,
    /// Every session and bearer token of a tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Every session and bearer token at a portal
    #[arg(long)]
    portal: Option<String>,
}

pub(crate) fn run(command: &SessionsCommand) -> Exit {
    match command {
        SessionsCommand::List(args) => list(args),
        SessionsCommand::Revoke(args) => revoke(args),
    }
}

fn list(args: &ListArgs) -> Exit {
    let limit = args.limit.to_string();
    let path = target(
        "/sessions",
        &[
            ("subject", args.subject.as_deref()),
            ("issuer", args.issuer.as_deref()),
            ("tenant", args.tenant.as_deref()),
            ("portal", args.portal.as_deref()),
            ("limit", Some(&limit)),
        ],
    );
    with_socket(&args.target, async |socket| {
        let response = socket.get_sessions(&path).await?;
        if response.status != StatusCode::OK {
            return refused(&response);
        }
        let not_json = || ClientError::Response("the gate's answer is not JSON".to_owned());
        let body = response.json().ok_or_else(not_json)?;
        Ok(Exit::print_or_usage(SESSIONS.write(args.format, &body)))
    })
}

fn revoke(args: &RevokeArgs) -> Exit {
    let path = target(
        "/sessions/revoke",
        &[
            ("session", args.session.as_deref()),
            ("subject", args.subject.as_deref()),
            ("issuer", args.issuer.as_deref()),
            ("tenant", args.tenant.as_deref()),
            ("portal", args.portal.as_deref()),
        ],
    );
    with_socket(&args.target, async |socket| {
        let response = socket.post_sessions(&path).await?;
        if response.status != StatusCode::OK {
            return refused(&response);
        }
        print(&format!("revoked {}{}\n", revoked_target(args), reservation(&response)));
        Ok(Exit::Ok)
    })
}

/// The revoked target. The gate does not say if such a subject or tenant exists: no listing holds bearer tokens.
fn revoked_target(args: &RevokeArgs) -> String {
    let everything =
        |kind: &str, name: &str| format!("every session and bearer token of {kind} `{}` from before now", escaped(name));
    match (&args.session, &args.subject, &args.tenant, &args.portal) {
        (Some(_), ..) => "the session".to_owned(),
        (_, Some(subject), ..) => everything("subject", subject),
        (_, _, Some(tenant), _) => everything("tenant", tenant),
        (.., Some(portal)) => everything("portal", portal),
        (None, None, None, None) => String::new(),
    }
}

/// The reservation that the revocation may not hold everywhere; empty if it holds.
fn reservation(response: &ClientResponse) -> &'static str {
    let body = response.json();
    let flag = |key: &str| body.as_ref().and_then(|body| body.get(key)?.as_bool());
    match (flag("replicated"), flag("everywhere")) {
        (_, Some(false)) => {
            "; not everywhere yet: the session store does not take it (is it full?), and this gate alone knows and goes on trying"
        }
        (Some(false), _) => "; no replica of the store confirmed it in time: if it fails over now, revoke again",
        (Some(true) | None, _) => "",
    }
}

/// A path with those of the pairs that have a value.
pub(super) fn target(path: &str, pairs: &[(&str, Option<&str>)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(format!("{path}?"));
    for (name, value) in pairs {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

fn refused(response: &ClientResponse) -> Result<Exit, ClientError> {
    let body = response.json();
    let error = body.as_ref().and_then(|body| body.get("error")?.as_str());
    complain(error.unwrap_or(&response.body));
    Ok(Exit::Failure)
}

fn as_text(body: &Value) -> String {
    let none = Vec::new();
    let sessions = body.get("sessions").and_then(Value::as_array).unwrap_or(&none);
    let mut text = listing(&Listing {
        labels: COLUMNS,
        rows: sessions.iter().map(row).collect(),
    });
    let unreadable = body.get("unreadable").and_then(Value::as_u64).unwrap_or_default();
    if unreadable > 0 {
        let values = if unreadable == 1 { "value" } else { "values" };
        text.push_str(&format!(
            "{unreadable} {values} in the store that no key of the ring opens (sessions.key_file)\n"
        ));
    }
    let more = body.get("more").and_then(Value::as_bool) == Some(true);
    let more = if more { "; there are more (--limit)" } else { "" };
    let noun = if sessions.len() == 1 { "session" } else { "sessions" };
    let total = Paint::stdout().dim(&format!("{} {noun}{more}", sessions.len()));
    text.push_str(&format!("{total}\n"));
    text
}

fn row(session: &Value) -> Vec<String> {
    let field = |name: &str| session.get(name).and_then(Value::as_str).unwrap_or("-");
    vec![
        field("session").to_owned(),
        format!("{}|{}", field("issuer"), field("subject")),
        field("tenant").to_owned(),
        field("portal").to_owned(),
        field("provider").to_owned(),
        time(session.get("created_at")),
        time(session.get("used_at")),
    ]
}

fn time(unix_millis: Option<&Value>) -> String {
    rfc3339_millis(unix_millis.and_then(Value::as_i64).unwrap_or_default())
}
