//! `cedargate authorize`: one decision without a running gate.
//!
//! Takes the body of `POST /authorize`, or a token and a request line. A token's claims are read, its signature is not
//! checked: the command tells what the policies would decide, and admits no caller.

use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cedargate_policy::claims::unsigned_identity;
use cedargate_policy::decision::http::HttpQuery;
use cedargate_policy::decision::{Asked, Caller, Decision, Query, decide};
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::json as strict;
use cedargate_policy::portal::path::CanonicalPath;
use cedargate_policy::portal::path::rules::{Case, PathRules};
use cedargate_policy::portal::{PortalTable, normal_host};
use cedargate_policy::scope::PortalScope;
use cedargate_policy::types::{Identity, Scheme};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::tree::{PortalLoad, TreeArgs, Workbench};
use super::{Exit, Paint, complain, print};
use crate::authn::inspect;
use crate::base::clock::{unix_millis, unix_seconds};
use crate::doors::authorize::append_answer;
use crate::doors::authorize::body::{Ask, SubjectSource};

/// Bytes of a request file.
const REQUEST_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The portal; may stand in the request file instead
    #[arg(long, short)]
    portal: Option<String>,
    /// File with the body of a `POST /authorize`; `-` is stdin
    #[arg(long, short, conflicts_with_all = ["token", "method", "url", "host", "scheme", "source_ip"])]
    request: Option<PathBuf>,
    /// A bearer token; only its claims are read. Without one the request is anonymous
    #[arg(long, requires = "url")]
    token: Option<String>,
    /// The request's method
    #[arg(long, default_value = "GET")]
    method: String,
    /// The request's path and query
    #[arg(long)]
    url: Option<String>,
    /// The host that the client asked for; default: the portal's first (`*` is the caller's tenant), else localhost
    #[arg(long, requires = "url")]
    host: Option<String>,
    /// The scheme by which the client reached the gate
    #[arg(long, value_enum, default_value = "https")]
    scheme: SchemeArg,
    /// The client's address
    #[arg(long, default_value = "127.0.0.1")]
    source_ip: IpAddr,
    /// The form of the report
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
    #[command(flatten)]
    tree: TreeArgs,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Human,
    Json,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum SchemeArg {
    Http,
    Https,
}

/// A decision of one portal's revision.
struct Decided {
    decision: Decision,
    portal: Arc<str>,
    revision: Arc<str>,
}

pub(crate) fn run(args: &Args) -> Exit {
    let decided = match (&args.request, &args.url) {
        (Some(path), _) => from_request(args, path),
        (None, Some(url)) => from_line(args, url),
        (None, None) => Err("give `--request FILE`, or `--url /path` with or without `--token T`".to_owned()),
    };
    match decided {
        Ok(decided) => report(args.format, &decided),
        Err(message) => {
            complain(&message);
            Exit::Usage
        }
    }
}

/// `Err` is a message for the user.
fn from_request(args: &Args, path: &Path) -> Result<Decided, String> {
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().take(REQUEST_BYTES_MAX).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|f| f.take(REQUEST_BYTES_MAX).read_to_end(&mut bytes))
    };
    read.map_err(|e| format!("`{}`: {e}", path.display()))?;
    let mut body: Map<String, Value> = strict::object_from_slice(&bytes).map_err(|e| format!("`{}`: {e}", path.display()))?;
    if let Some(portal) = &args.portal {
        body.insert("portal".to_owned(), json!(portal));
    }
    let ask = Ask::read(body, None).map_err(|r| r.detail.into_owned())?;
    let workbench = args.tree.open()?;
    let load = workbench.load_untested_one(workbench.named(&ask.portal)?);
    let token = match &ask.subject {
        SubjectSource::Principal(_) => None,
        SubjectSource::Token(token) => Some(token.expose().as_str()),
        SubjectSource::Header => return Err("the request needs a `principal` or a `token`".to_owned()),
    };
    decided(&load, &caller(&load, token), Asked::Named(ask.query()))
}

/// `Err` is a message for the user.
fn from_line(args: &Args, url: &str) -> Result<Decided, String> {
    let workbench = args.tree.open()?;
    let (raw, query) = match url.split_once('?') {
        Some((raw, query)) => (raw, Some(query)),
        None => (url, None),
    };
    let path = CanonicalPath::parse_request(raw).map_err(|e| format!("`{raw}`: {e}"))?;
    let host = match &args.host {
        Some(host) => Some(normal_host(host).ok_or_else(|| format!("`--host {host}` is not a host name"))?),
        None => None,
    };
    let portal = match &args.portal {
        Some(slug) => workbench.named(slug)?,
        None => matching(&workbench, host.as_deref(), &path)?,
    };
    let load = workbench.load_untested_one(portal);
    let prefix = &portal.matches.path_prefix;
    if !path_rules(&load).is_below(&path, prefix) {
        return Err(format!(
            "`{raw}` is not below `{prefix}`, the path of portal `{}`",
            portal.slug
        ));
    }
    let caller = caller(&load, args.token.as_deref());
    let tenant = match &caller {
        OfflineCaller::Claimed(identity) => identity.tenant.as_deref(),
        OfflineCaller::Anonymous | OfflineCaller::Refused(_) => None,
    };
    let host = host.unwrap_or_else(|| portal.default_host(tenant));
    let headers = http::HeaderMap::new();
    let asked = Asked::Http(HttpQuery {
        method: &args.method,
        path: &path,
        host: &host,
        scheme: args.scheme.into(),
        source_ip: args.source_ip,
        query,
        headers: Some(&headers),
        context: None,
    });
    decided(&load, &caller, asked)
}

/// The portal that the gate gives this request. Without a host: the one with the longest prefix on any host.
fn matching<'a>(workbench: &'a Workbench, host: Option<&str>, path: &CanonicalPath) -> Result<&'a PortalScope, String> {
    let portals = &workbench.portals;
    let rules = |portal: &'a PortalScope| path_rules(&workbench.load_untested_one(portal));
    let found = match host {
        Some(host) => {
            let table = PortalTable::new(portals).map_err(|e| e.to_string())?;
            let ignores_case = |index: usize| portals.get(index).is_some_and(|portal| rules(portal).case == Case::Ignored);
            let found = table
                .choose(host, path, ignores_case)
                .map_err(|refusal| refusal.detail.into_owned())?;
            found.and_then(|index| portals.get(index))
        }
        None => portals
            .iter()
            .filter(|portal| rules(portal).is_below(path, &portal.matches.path_prefix))
            .max_by_key(|portal| portal.matches.path_prefix.len()),
    };
    let host = host.map_or_else(String::new, |host| format!(" of host `{host}`"));
    found.ok_or_else(|| format!("no portal matches `{}`{host}; name one with --portal", path.id()))
}

/// How the portal reads paths; the default for a portal that does not load.
fn path_rules(load: &PortalLoad<'_>) -> PathRules {
    let revision = load.revision.as_ref();
    revision.map(|revision| revision.file.paths.clone()).unwrap_or_default()
}

/// The caller of an offline decision: no signature was checked.
enum OfflineCaller {
    Anonymous,
    Claimed(Box<Identity>),
    /// The claims give no identity.
    Refused(Refusal),
}

fn caller(load: &PortalLoad<'_>, token: Option<&str>) -> OfflineCaller {
    match token.map(|token| identity(load, token)) {
        None => OfflineCaller::Anonymous,
        Some(Ok(identity)) => OfflineCaller::Claimed(Box::new(identity)),
        Some(Err(refusal)) => OfflineCaller::Refused(refusal),
    }
}

fn decided(load: &PortalLoad<'_>, caller: &OfflineCaller, asked: Asked<'_>) -> Result<Decided, String> {
    let problems = || load.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let revision = load.revision.as_deref().ok_or_else(problems)?;
    let query = Query {
        portal: load.portal,
        revision,
        now_millis: unix_millis(),
        asked,
    };
    let decision = match caller {
        OfflineCaller::Anonymous => decide(&query, Caller::Anonymous),
        OfflineCaller::Claimed(identity) => match revision.principal(load.portal, identity) {
            Ok(principal) => {
                let principal = &principal;
                decide(&query, Caller::Proven { identity, principal })
            }
            Err(refusal) => Decision::refused(refusal),
        },
        OfflineCaller::Refused(refusal) => Decision::refused(refusal.clone()),
    };
    Ok(Decided {
        decision,
        portal: Arc::from(load.portal.slug.as_str()),
        revision: Arc::clone(&revision.id),
    })
}

/// The identity that a token claims, without proof.
fn identity(load: &PortalLoad<'_>, token: &str) -> Result<Identity, Refusal> {
    complain("note: the token's signature is not checked offline");
    let report = inspect(token, unix_seconds());
    let claims = report.claims.and_then(|c| c.as_object().cloned());
    let mut claims = claims.ok_or_else(|| Refusal::new(Denial::TokenInvalid, report.problems.join("; ")))?;
    let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default().to_owned();
    let issuers = &load.portal.issuers;
    let configured = issuers.iter().find(|i| i.issuer == issuer);
    let known = configured.or(issuers.first()).ok_or(Denial::IssuerUnknown)?;
    if configured.is_none() {
        // without a configuration another issuer's mapping is used: only what the token says of the caller counts
        claims.remove("aud");
    }
    Ok(unsigned_identity(known, claims)?)
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

impl From<SchemeArg> for Scheme {
    fn from(scheme: SchemeArg) -> Self {
        match scheme {
            SchemeArg::Http => Self::Http,
            SchemeArg::Https => Self::Https,
        }
    }
}
