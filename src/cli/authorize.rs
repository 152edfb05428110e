//! `cedargate authorize`: one decision without a running gate.
//!
//! Takes the body of `POST /authorize`, or a token and a request line. A token's claims are read, its signature is not
//! checked: this asks what the policies *would* say, and lets nobody in.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::tree::{PortalLoad, TreeArgs};
use super::{Exit, Paint, complain, print};
use cedargate_policy::claims::unsigned_identity;

use crate::authn::inspect;
use crate::authz::context::{Facts, HttpFacts};
use crate::authz::engine::Answer;
use crate::denial::{Denial, Refusal};
use crate::doors::authorize::body::{Ask, Who};
use crate::doors::authorize::question::{self, Asker, Place};
use crate::doors::authorize::rendered;
use crate::gate::now_millis;
use crate::http::request::query_pairs;
use crate::json as strict;
use crate::portal::path::CanonicalPath;
use crate::revision::Revision;
use crate::types::Identity;

/// Bytes of a question.
const REQUEST_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The portal; may stand in the request instead
    #[arg(long, short)]
    portal: Option<String>,
    /// File with the body of a `POST /authorize`; `-` is stdin
    #[arg(long, short, conflicts_with_all = ["token", "method", "url"])]
    request: Option<PathBuf>,
    /// A bearer token; only its claims are read
    #[arg(long, requires = "url")]
    token: Option<String>,
    /// The request's method
    #[arg(long, default_value = "GET")]
    method: String,
    /// The request's path and query
    #[arg(long, requires = "token")]
    url: Option<String>,
    /// How to report
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

/// A decision, or a message for whoever mistyped.
type Decided = Result<(Result<Answer, Refusal>, String, String), String>;

pub(crate) fn run(args: &Args) -> Exit {
    let decided = match (&args.request, &args.url) {
        (Some(path), _) => from_request(args, path),
        (None, Some(url)) => from_line(args, url),
        (None, None) => Err("give `--request FILE`, or `--token T --url /path`".to_owned()),
    };
    match decided {
        Ok((outcome, portal, revision)) => report(args.format, outcome, (&Arc::from(portal), &Arc::from(revision))),
        Err(message) => {
            complain(&message);
            Exit::Usage
        }
    }
}

fn from_request(args: &Args, path: &PathBuf) -> Decided {
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
    let ask = Ask::read(body, "").map_err(|r| r.detail.into_owned())?;
    let bench = args.tree.open()?;
    let load = bench.load_named(&ask.portal)?;
    let revision = loaded(&load)?;
    let asker = match &ask.who {
        Who::Principal(_) => Ok(Asker::Named),
        Who::Token(token) => identity(&load, token.expose()).and_then(|identity| proven(&load, revision, identity)),
        Who::Header => return Err("the request needs a `principal` or a `token`".to_owned()),
    };
    let place = Place {
        revision,
        portal: &ask.portal,
        tenant: load.portal.tenant.of_request(None),
    };
    let put = asker.and_then(|asker| question::put(&place, &ask, &asker, now_millis()));
    Ok((put.map(|p| p.answer), ask.portal.clone(), revision.id.to_string()))
}

fn from_line(args: &Args, url: &str) -> Decided {
    let bench = args.tree.open()?;
    let path = |text: &str| CanonicalPath::parse(text).map_err(|e| format!("`{text}`: {e}"));
    let (raw, query) = url.split_once('?').map_or((url, ""), |(path, query)| (path, query));
    let path = path(raw)?;
    let below = |prefix: &str| path.id() == prefix || path.ancestors().any(|a| a == prefix);
    let slug = match &args.portal {
        Some(slug) => slug.clone(),
        None => {
            let found = bench.portals.iter().filter(|p| below(&p.matches.path_prefix));
            let found = found.max_by_key(|p| p.matches.path_prefix.len());
            found
                .map(|p| p.slug.to_string())
                .ok_or_else(|| format!("no portal matches `{raw}`; name one with --portal"))?
        }
    };
    let load = bench.load_named(&slug)?;
    let revision = loaded(&load)?;
    let outcome = line(args, (&load, revision), &path, query);
    Ok((outcome, slug, revision.id.to_string()))
}

fn line(
    args: &Args,
    (load, revision): (&PortalLoad<'_>, &Revision),
    path: &CanonicalPath,
    query: &str,
) -> Result<Answer, Refusal> {
    let token = args.token.as_deref().ok_or(Denial::TokenMissing)?;
    let identity = identity(load, token)?;
    let principal = revision
        .rules
        .principal(&identity, &load.portal.subject_prefix(&identity.issuer))?;
    let target = revision.target(&args.method, path)?;
    let pairs: Vec<_> = query_pairs(query).map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
    let headers = http::HeaderMap::new();
    let facts = Facts {
        portal: load.portal.slug.as_str(),
        tenant: identity.tenant.as_deref(),
        now_millis: now_millis(),
        auth: Some(&identity.auth),
        flags: &revision.flags,
        http: Some(HttpFacts {
            method: &args.method,
            path: path.id(),
            host: "localhost",
            scheme: "http",
            source_ip: std::net::IpAddr::from([127, 0, 0, 1]),
            query: &pairs,
            headers: &headers,
        }),
    };
    revision.rules.ask(&principal, &target, &facts)
}

fn loaded<'a>(load: &'a PortalLoad<'_>) -> Result<&'a Revision, String> {
    let problems = || load.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    load.revision.as_deref().ok_or_else(problems)
}

/// The identity that a token claims, without proof.
fn identity(load: &PortalLoad<'_>, token: &str) -> Result<Identity, Refusal> {
    complain("note: the token's signature is not checked offline");
    let report = inspect(token, now_millis() / 1000);
    let claims = report.claims.and_then(|c| c.as_object().cloned());
    let mut claims = claims.ok_or_else(|| Refusal::new(Denial::TokenInvalid, report.problems.join("; ")))?;
    let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default().to_owned();
    let issuers = &load.portal.issuers;
    let configured = issuers.iter().find(|i| i.issuer == issuer);
    let known = configured.or(issuers.first()).ok_or(Denial::IssuerUnknown)?;
    if configured.is_none() {
        // judged by an issuer that is not its own, without a configuration: only what it says of the caller counts
        claims.remove("aud");
    }
    Ok(unsigned_identity(known, claims)?)
}

fn proven(load: &PortalLoad<'_>, revision: &Revision, identity: Identity) -> Result<Asker, Refusal> {
    let principal = revision
        .rules
        .principal(&identity, &load.portal.subject_prefix(&identity.issuer))?
        .party;
    Ok(Asker::Proven {
        principal: Box::new(principal),
        identity: Box::new(identity),
    })
}

fn report(format: Format, outcome: Result<Answer, Refusal>, (portal, revision): (&Arc<str>, &Arc<str>)) -> Exit {
    let answer = match outcome {
        Ok(answer) => answer,
        Err(refusal) => {
            let (code, detail) = (refusal.denial.code(), &refusal.detail);
            match format {
                Format::Human => print(&format!("{} {code}: {detail}\n", Paint::stdout().red("deny"))),
                Format::Json => print(&format!(
                    "{:#}\n",
                    json!({"decision": "deny", "reason": code, "detail": detail})
                )),
            }
            return if refusal.denial == Denial::RequestInvalid {
                Exit::Usage
            } else {
                Exit::Deny
            };
        }
    };
    let denial = answer.denial();
    match format {
        Format::Json => print(&format!(
            "{:#}\n",
            json!(rendered(&answer, denial, Uuid::now_v7(), (portal, revision)))
        )),
        Format::Human => {
            let paint = Paint::stdout();
            let head = denial.map_or_else(|| paint.green("allow"), |d| format!("{} {}", paint.red("deny"), d.code()));
            print(&format!("{head}  (portal {portal}, revision {revision})\n"));
            answer
                .policies
                .iter()
                .for_each(|p| print(&format!("  decided by {} {}\n", p.id, paint.dim(&p.place))));
            answer.errors.iter().for_each(|e| print(&format!("  {}\n", e.message)));
        }
    }
    if denial.is_none() { Exit::Ok } else { Exit::Deny }
}
