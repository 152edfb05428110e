//! `cedargate sessions list` and `revoke`: a running gate's sessions, over its control socket.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode};
use serde_json::Value;

use super::control::{Answer, AskError, SESSIONS_DEADLINE, Target, ask, with_socket};
use super::{Exit, Paint, complain, print};

#[derive(clap::Subcommand)]
pub(crate) enum SessionsCommand {
    /// Show who is logged in
    List(ListArgs),
    /// End sessions, on every replica and at once; of a subject, tenant or portal also its bearer tokens
    Revoke(RevokeArgs),
}

#[derive(clap::Args)]
#[command(after_help = "Times are when the session began and when the store last heard of its use.")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    target: Target,
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
    /// `human` or `json`
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

#[derive(clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true).args(["session", "subject", "tenant", "portal"]),
    after_help = "What is revoked is what began before now: who logs in again, or gets a new token, is let in. \
                  Exit codes: 0 revoked, 1 not revoked."
)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    target: Target,
    /// One session, by its id in the listing
    #[arg(long)]
    session: Option<String>,
    /// Every session and bearer token of a subject, as its issuer writes it
    #[arg(long)]
    subject: Option<String>,
    /// Whose subject; needed where there are several issuers
    #[arg(long, requires = "subject")]
    issuer: Option<String>,
    /// Every session and bearer token of a tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Every session and bearer token at a portal
    #[arg(long)]
    portal: Option<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Format {
    Human,
    Json,
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
        let answer = ask(socket, (Method::GET, &path), SESSIONS_DEADLINE).await?;
        if answer.status != StatusCode::OK {
            return refused(&answer);
        }
        match args.format {
            Format::Json => print(&answer.body),
            Format::Human => print(&table(&answer.body)?),
        }
        Ok(Exit::Ok)
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
        let answer = ask(socket, (Method::POST, &path), SESSIONS_DEADLINE).await?;
        if answer.status != StatusCode::OK {
            return refused(&answer);
        }
        print(&revoked(args, &answer.body));
        Ok(Exit::Ok)
    })
}

/// What ended, and how surely. That there was any such subject or tenant nobody can tell: bearer tokens are in no listing.
fn revoked(args: &RevokeArgs, body: &str) -> String {
    let everything =
        |what: &str, name: &str| format!("every session and bearer token of {what} `{}` from before now", shown(name));
    let what = match (&args.session, &args.subject, &args.tenant, &args.portal) {
        (Some(_), ..) => "the session".to_owned(),
        (_, Some(subject), ..) => everything("subject", subject),
        (_, _, Some(tenant), _) => everything("tenant", tenant),
        (.., Some(portal)) => everything("portal", portal),
        (None, None, None, None) => String::new(),
    };
    let body: Option<Value> = serde_json::from_str(body).ok();
    let said = |key: &str| body.as_ref().and_then(|body| body.get(key)?.as_bool());
    let doubt = match (said("replicated"), said("everywhere")) {
        (_, Some(false)) => {
            "; not everywhere yet: the session store does not take it (is it full?), and this gate alone knows and goes on trying"
        }
        (Some(false), _) => "; no replica of the store confirmed it in time: if it fails over now, revoke again",
        (Some(true) | None, _) => "",
    };
    format!("revoked {what}{doubt}\n")
}

fn target(path: &str, pairs: &[(&str, Option<&str>)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(format!("{path}?"));
    for (name, value) in pairs {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

fn refused(answer: &Answer) -> Result<Exit, AskError> {
    let said: Option<Value> = serde_json::from_str(&answer.body).ok();
    let why = said.as_ref().and_then(|body| body.get("error")?.as_str());
    complain(why.unwrap_or(&answer.body));
    Ok(Exit::Failure)
}

fn table(body: &str) -> Result<String, AskError> {
    let unreadable = |_error| AskError::Answer("the gate's answer is no JSON".to_owned());
    let body: Value = serde_json::from_str(body).map_err(unreadable)?;
    let none = Vec::new();
    let sessions = body.get("sessions").and_then(Value::as_array).unwrap_or(&none);
    let paint = Paint::stdout();
    let mut text = String::new();
    for session in sessions {
        let field = |name: &str| session.get(name).and_then(Value::as_str).unwrap_or("-");
        let line = format!(
            "{}  {}|{}  tenant {}  portal {}  via {}  since {}  used {}",
            field("session"),
            shown(field("issuer")),
            shown(field("subject")),
            shown(field("tenant")),
            field("portal"),
            field("provider"),
            time(session.get("created_at")),
            time(session.get("used_at")),
        );
        // writing to a String cannot fail
        let _infallible = writeln!(text, "{line}").is_err();
    }
    let unreadable = body.get("unreadable").and_then(Value::as_u64).unwrap_or_default();
    if unreadable > 0 {
        let values = if unreadable == 1 { "value" } else { "values" };
        let line = format!("{unreadable} {values} in the store that no key of the ring opens (sessions.key_file)");
        let _infallible = writeln!(text, "{line}").is_err();
    }
    let more = body.get("more").and_then(Value::as_bool) == Some(true);
    let more = if more { "; there are more (--limit)" } else { "" };
    let noun = if sessions.len() == 1 { "session" } else { "sessions" };
    let total = paint.dim(&format!("{} {noun}{more}", sessions.len()));
    let _infallible = writeln!(text, "{total}").is_err();
    Ok(text)
}

/// A subject is whatever an issuer says: nothing in it may steer the terminal.
fn shown(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
}

fn time(millis: Option<&Value>) -> String {
    let millis = millis.and_then(Value::as_u64).unwrap_or_default();
    let at: SystemTime = UNIX_EPOCH + Duration::from_millis(millis);
    humantime::format_rfc3339_seconds(at).to_string()
}
