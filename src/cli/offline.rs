//! A query without a running gate: from the body of `POST /authorize`, or from a token and a request line.
//!
//! `authorize` and `explain` share it. A token's claims are read, its signature is not checked: such a query tells what
//! the policies would decide, and admits no caller.

use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cedargate_policy::claims::unsigned_identity;
use cedargate_policy::decision::http::HttpQuery;
use cedargate_policy::decision::recorded::KnownCaller;
use cedargate_policy::decision::{Caller, Query, QueryForm};
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::json as strict;
use cedargate_policy::portal::path::CanonicalPath;
use cedargate_policy::portal::path::rules::{Case, PathRules};
use cedargate_policy::portal::{PortalTable, normal_host};
use cedargate_policy::scope::PortalScope;
use cedargate_policy::types::{Identity, Scheme};
use serde_json::{Map, Value, json};

use super::complain;
use super::tree::{PortalLoad, TreeArgs, Workbench};
use crate::authn::inspect;
use crate::base::clock::{unix_millis, unix_seconds};
use crate::doors::authorize::body::{Ask, SubjectSource};

/// Bytes of a file that a command reads a query or claims from.
const REQUEST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Arguments that say what is asked, and by which caller.
#[derive(clap::Args)]
pub(super) struct QueryArgs {
    /// The portal; may stand in the request file instead
    #[arg(long, short)]
    portal: Option<String>,
    /// File with the body of a `POST /authorize`; `-` is stdin
    #[arg(long, short, conflicts_with_all = ["token", "claims", "method", "url", "host", "scheme", "source_ip"])]
    request: Option<PathBuf>,
    /// A bearer token; only its claims are read. Without one the request is anonymous
    #[arg(long, requires = "url")]
    token: Option<String>,
    /// The claims of a token, as JSON or as `@FILE`
    #[arg(long, requires = "url", conflicts_with = "token")]
    claims: Option<String>,
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
    #[command(flatten)]
    pub tree: TreeArgs,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum SchemeArg {
    Http,
    Https,
}

/// The caller of an offline query: no signature was checked.
pub(super) enum OfflineCaller {
    Anonymous,
    Claimed(Box<KnownCaller>),
    /// The claims give no identity, or no principal of this portal.
    Refused(Refusal),
}

impl OfflineCaller {
    /// The caller for the decision; `Err` if the claims give none.
    pub fn caller(&self) -> Result<Caller<'_>, &Refusal> {
        match self {
            Self::Anonymous => Ok(Caller::Anonymous),
            Self::Claimed(claimed) => Ok(Caller::Proven {
                identity: &claimed.identity,
                principal: &claimed.principal,
            }),
            Self::Refused(refusal) => Err(refusal),
        }
    }
}

impl QueryArgs {
    /// Reads the query and passes it to `answer`. `Err` is a message for the user.
    pub fn ask<T>(&self, answer: impl FnOnce(&Query<'_>, &OfflineCaller) -> T) -> Result<T, String> {
        match (&self.request, &self.url) {
            (Some(path), _) => self.ask_file(path, answer),
            (None, Some(url)) => self.ask_line(url, answer),
            (None, None) => Err("give `--request FILE`, or `--url /path` with or without `--token T`".to_owned()),
        }
    }

    fn ask_file<T>(&self, path: &Path, answer: impl FnOnce(&Query<'_>, &OfflineCaller) -> T) -> Result<T, String> {
        let bytes = read_bounded(path)?;
        let mut body: Map<String, Value> = strict::object_from_slice(&bytes).map_err(|e| format!("`{}`: {e}", path.display()))?;
        if let Some(portal) = &self.portal {
            body.insert("portal".to_owned(), json!(portal));
        }
        let ask = Ask::read(body, None).map_err(|r| r.detail.into_owned())?;
        let workbench = self.tree.open()?;
        let load = workbench.load_untested_one(workbench.named(&ask.portal)?);
        let credential = match &ask.subject {
            SubjectSource::Principal(_) => ClaimedCredential::None,
            SubjectSource::Token(token) => ClaimedCredential::Token(token.expose().as_str()),
            SubjectSource::Header => return Err("the request needs a `principal` or a `token`".to_owned()),
        };
        answered(&load, &credential, unix_millis(), |_| QueryForm::Named(ask.query()), answer)
    }

    fn ask_line<T>(&self, url: &str, answer: impl FnOnce(&Query<'_>, &OfflineCaller) -> T) -> Result<T, String> {
        let claims = self.claims.as_deref().map(read_claims).transpose()?;
        let workbench = self.tree.open()?;
        let line = RequestLine {
            portal: self.portal.as_deref(),
            method: &self.method,
            url,
            host: self.host.as_deref(),
            scheme: self.scheme.into(),
            source_ip: self.source_ip,
            context: None,
        };
        let credential = match (&self.token, claims) {
            (Some(token), _) => ClaimedCredential::Token(token),
            (None, Some(claims)) => ClaimedCredential::Claims(claims),
            (None, None) => ClaimedCredential::None,
        };
        line.ask(&workbench, &credential, unix_millis(), answer)
    }
}

/// A request to the app, as a user writes it.
pub(super) struct RequestLine<'a> {
    /// `None`: the portal that the gate gives it to.
    pub portal: Option<&'a str>,
    pub method: &'a str,
    /// Path and query.
    pub url: &'a str,
    /// `None`: the portal's first host.
    pub host: Option<&'a str>,
    pub scheme: Scheme,
    pub source_ip: IpAddr,
    /// Context fields that replace the gate's own, as in a decision test.
    pub context: Option<&'a Map<String, Value>>,
}

impl RequestLine<'_> {
    /// Asks a tree, and passes the query to `answer`. `Err` is a message for the user.
    pub fn ask<T>(
        &self,
        workbench: &Workbench,
        credential: &ClaimedCredential<'_>,
        now_millis: i64,
        answer: impl FnOnce(&Query<'_>, &OfflineCaller) -> T,
    ) -> Result<T, String> {
        let (raw, query) = match self.url.split_once('?') {
            Some((raw, query)) => (raw, Some(query)),
            None => (self.url, None),
        };
        let path = CanonicalPath::parse_request(raw).map_err(|e| format!("`{raw}`: {e}"))?;
        let host = match self.host {
            Some(host) => Some(normal_host(host).ok_or_else(|| format!("`--host {host}` is not a host name"))?),
            None => None,
        };
        let portal = match self.portal {
            Some(slug) => workbench.named(slug)?,
            None => matching(workbench, host.as_deref(), &path)?,
        };
        let load = workbench.load_untested_one(portal);
        let prefix = &portal.matches.path_prefix;
        if !path_rules(&load).is_below(&path, prefix) {
            return Err(format!(
                "`{raw}` is not below `{prefix}`, the path of portal `{}`",
                portal.slug
            ));
        }
        let default_host = std::cell::OnceCell::new();
        let headers = http::HeaderMap::new();
        let asked = |tenant: Option<&str>| {
            let host = default_host.get_or_init(|| host.unwrap_or_else(|| portal.default_host(tenant)));
            QueryForm::Http(HttpQuery {
                method: self.method,
                path: &path,
                host,
                scheme: self.scheme,
                source_ip: self.source_ip,
                query,
                headers: Some(&headers),
                context: self.context,
            })
        };
        answered(&load, credential, now_millis, asked, answer)
    }
}

/// The proof of a query's caller, which no command checks.
pub(super) enum ClaimedCredential<'a> {
    None,
    Token(&'a str),
    Claims(Map<String, Value>),
}

/// Asks the portal's revision. `asked` gets the tenant of the caller.
pub(super) fn answered<'q, T>(
    load: &'q PortalLoad<'q>,
    credential: &ClaimedCredential<'_>,
    now_millis: i64,
    asked: impl FnOnce(Option<&str>) -> QueryForm<'q>,
    answer: impl FnOnce(&Query<'_>, &OfflineCaller) -> T,
) -> Result<T, String> {
    let revision = load.loaded()?;
    let identity = match credential {
        ClaimedCredential::None => None,
        ClaimedCredential::Token(token) => Some(token_claims(token).and_then(|claims| identity(load.portal, claims))),
        ClaimedCredential::Claims(claims) => Some(identity(load.portal, claims.clone())),
    };
    let caller = match identity {
        None => OfflineCaller::Anonymous,
        Some(Err(refusal)) => OfflineCaller::Refused(refusal),
        Some(Ok(identity)) => match revision.principal(load.portal, &identity) {
            Ok(principal) => OfflineCaller::Claimed(Box::new(KnownCaller { identity, principal })),
            Err(refusal) => OfflineCaller::Refused(refusal),
        },
    };
    let tenant = match &caller {
        OfflineCaller::Claimed(claimed) => claimed.identity.tenant.as_deref(),
        OfflineCaller::Anonymous | OfflineCaller::Refused(_) => None,
    };
    let query = Query {
        portal: load.portal,
        revision,
        now_millis,
        asked: asked(tenant),
    };
    Ok(answer(&query, &caller))
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().take(REQUEST_BYTES_MAX).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|f| f.take(REQUEST_BYTES_MAX).read_to_end(&mut bytes))
    };
    read.map_err(|e| format!("`{}`: {e}", path.display()))?;
    Ok(bytes)
}

/// The value of `--claims`.
fn read_claims(text: &str) -> Result<Map<String, Value>, String> {
    let bytes = match text.strip_prefix('@') {
        Some(file) => read_bounded(Path::new(file))?,
        None => text.as_bytes().to_vec(),
    };
    strict::object_from_slice(&bytes).map_err(|e| format!("`--claims`: {e}; expected {{\"sub\": …}} or @FILE"))
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
    let places = || -> Vec<String> {
        let all = portals.iter();
        all.map(|portal| format!("{} at {}", portal.slug, portal.matches.path_prefix))
            .collect()
    };
    found.ok_or_else(|| {
        format!(
            "no portal matches `{}`{host}, so the gate answers 404 `portal_unknown`; the portals are {}",
            path.id(),
            places().join(", ")
        )
    })
}

/// How the portal reads paths; the default for a portal that does not load.
fn path_rules(load: &PortalLoad<'_>) -> PathRules {
    let revision = load.revision.as_ref();
    revision.map(|revision| revision.file.paths.clone()).unwrap_or_default()
}

/// The claims of a token, read without proof.
fn token_claims(token: &str) -> Result<Map<String, Value>, Refusal> {
    complain("note: the token's signature is not checked offline");
    let report = inspect(token, unix_seconds());
    if report.claims.is_some() {
        for problem in &report.problems {
            complain(&format!("note: the gate would refuse this token: {problem}"));
        }
    }
    let claims = report.claims.and_then(|c| c.as_object().cloned());
    claims.ok_or_else(|| Refusal::new(Denial::TokenInvalid, report.problems.join("; ")))
}

/// The identity that claims give, without proof.
pub(super) fn identity(portal: &PortalScope, mut claims: Map<String, Value>) -> Result<Identity, Refusal> {
    let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default().to_owned();
    let configured = portal.issuers.iter().find(|i| i.issuer == issuer);
    let known = configured.or(portal.issuers.first()).ok_or(Denial::IssuerUnknown)?;
    if configured.is_none() {
        // without a configuration another issuer's mapping is used: only what the token says of the caller counts
        claims.remove("aud");
    }
    Ok(unsigned_identity(known, claims)?)
}

impl From<SchemeArg> for Scheme {
    fn from(scheme: SchemeArg) -> Self {
        match scheme {
            SchemeArg::Http => Self::Http,
            SchemeArg::Https => Self::Https,
        }
    }
}
