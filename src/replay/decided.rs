//! A record decided again by the revisions of a tree.

use std::net::IpAddr;

use cedargate_policy::decision::explain::Explanation;
use cedargate_policy::decision::named::NamedEntity;
use cedargate_policy::decision::recorded::{
    NotReplayable, ProvenCaller, RecordedAsked, RecordedCaller, RecordedQuery, Replay, ReplayedCaller,
};
use cedargate_policy::decision::{Decision, Query};
use cedargate_policy::revision::Revision;
use cedargate_policy::scope::PortalScope;
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};

use super::LogRecord;
use crate::audit::NO_PORTAL;
use crate::base::clock::parse_rfc3339;

/// The refusals that a caller without a usable credential gets: on a public path it would have been anonymous.
const WITHOUT_CALLER: [&str; 4] = ["token_missing", "session_missing", "session_expired", "session_revoked"];

/// The reason why a record was not decided again.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, thiserror::Error)]
pub enum NotReplayed {
    /// A check before the policies refused the request: the denial code.
    #[error("refused before policies were asked: {0}")]
    Refused(String),
    /// The record's field is masked, and the decision needs it.
    #[error("`{0}` is masked")]
    Masked(String),
    /// The record cuts the app's entities off.
    #[error("`supplied` is truncated (audit.supplied_bytes)")]
    Truncated,
    /// A policy reads a fact that the record does not hold.
    #[error("`{0}` is not in the record, and policies read it")]
    NotRecorded(String),
    /// The record is of an older gate.
    #[error("the record does not say which entities the app supplied; an older gate wrote it")]
    Incomplete,
    /// The tree has no such portal.
    #[error("the tree has no portal `{0}`")]
    PortalUnknown(String),
    /// No portal matched the request.
    #[error("no portal matched the request")]
    NoPortal,
    #[error("a CORS preflight carries no caller")]
    Preflight,
    #[error("the record is malformed: {0}")]
    Malformed(String),
}

impl NotReplayed {
    /// One word for scripts.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused_before_policies",
            Self::Masked(_) => "masked",
            Self::Truncated => "truncated",
            Self::NotRecorded(_) => "not_recorded",
            Self::Incomplete => "incomplete",
            Self::PortalUnknown(_) => "portal_unknown",
            Self::NoPortal => "no_portal",
            Self::Preflight => "preflight",
            Self::Malformed(_) => "malformed",
        }
    }
}

/// The portals of a tree, ready to decide records.
#[derive(Default)]
pub struct Portals<'a>(FxHashMap<&'a str, Replay<'a>>);

impl<'a> Portals<'a> {
    /// Takes the portals that loaded.
    pub fn new(revisions: impl IntoIterator<Item = PortalRevision<'a>>) -> Self {
        let portals = revisions
            .into_iter()
            .map(|one| (one.portal.slug.as_str(), Replay::new(one.portal, one.revision)));
        Self(portals.collect())
    }

    /// Decides a record again.
    pub fn decide(&self, record: &LogRecord<'_>) -> Result<Decision, NotReplayed> {
        let decided = self.ask(record, |replay, query| replay.decide(query));
        if record.is_of_policies() {
            return decided;
        }
        // of a caller without a credential only this counts: the tree makes the path public
        match decided {
            Ok(decision) if decision.denial().is_none() => Ok(decision),
            Ok(_) | Err(_) => Err(refused(record)),
        }
    }

    /// The same with its reasons. `show` sees the query and the caller as well.
    pub fn explain<T>(
        &self,
        record: &LogRecord<'_>,
        show: impl FnOnce(&Query<'_>, &ReplayedCaller, Explanation) -> T,
    ) -> Result<T, NotReplayed> {
        self.ask(record, |replay, query| replay.explain(query, show))
    }

    fn ask<T>(
        &self,
        record: &LogRecord<'_>,
        ask: impl FnOnce(&Replay<'a>, &RecordedQuery<'_>) -> Result<T, NotReplayable>,
    ) -> Result<T, NotReplayed> {
        let replay = self.portal_of(record)?;
        if !record.is_of_policies() && !WITHOUT_CALLER.contains(&&*record.reason) {
            return Err(refused(record));
        }
        let query = recorded(record)?;
        ask(replay, &query).map_err(|why| not_replayed(why, &record.masked))
    }

    fn portal_of(&self, record: &LogRecord<'_>) -> Result<&Replay<'a>, NotReplayed> {
        check_masked(record, &["portal", "decision", "reason"])?;
        let portal = record.portal.as_deref().unwrap_or(NO_PORTAL);
        self.0.get(portal).ok_or_else(|| match portal {
            NO_PORTAL => NotReplayed::NoPortal,
            portal => NotReplayed::PortalUnknown(portal.to_owned()),
        })
    }
}

/// One portal of a tree.
pub struct PortalRevision<'a> {
    pub portal: &'a PortalScope,
    pub revision: &'a Revision,
}

fn refused(record: &LogRecord<'_>) -> NotReplayed {
    NotReplayed::Refused(record.reason.to_string())
}

fn not_replayed(why: NotReplayable, masked: &[String]) -> NotReplayed {
    let is_masked = |name: &str| masked.iter().any(|pointer| pointer.split('/').any(|part| part == name));
    match why {
        NotReplayable::Unread { name, .. } | NotReplayable::Required(name) if is_masked(&name) => NotReplayed::Masked(name),
        NotReplayable::Unread { name, .. } | NotReplayable::Required(name) => NotReplayed::NotRecorded(name),
        NotReplayable::Malformed(what) => NotReplayed::Malformed(what),
        NotReplayable::Preflight => NotReplayed::Preflight,
    }
}

/// Fails if one of the fields, or a value inside of it, is masked.
fn check_masked(record: &LogRecord<'_>, needed: &[&str]) -> Result<(), NotReplayed> {
    for pointer in &record.masked {
        let path = pointer.trim_start_matches('/').replace('/', ".");
        let is_needed = |field: &&str| path == **field || path.strip_prefix(*field).is_some_and(|rest| rest.starts_with('.'));
        let is_above = |field: &&str| field.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('.'));
        if needed.iter().any(|field| is_needed(field) || is_above(field)) {
            return Err(NotReplayed::Masked(path));
        }
    }
    Ok(())
}

fn recorded<'r>(record: &'r LogRecord<'_>) -> Result<RecordedQuery<'r>, NotReplayed> {
    check_masked(record, &["principal.type", "principal.id", "roles", "tenant"])?;
    let context = record.context.as_object();
    let now = context.and_then(|context| context.get("now")).and_then(Value::as_str);
    let now_millis = now.and_then(parse_rfc3339).or_else(|| record.millis());
    Ok(RecordedQuery {
        caller: caller(record)?,
        asked: asked(record)?,
        now_millis: now_millis.ok_or_else(|| malformed("`ts` is not a time"))?,
        action: record.action.as_deref(),
        context,
        masked: &record.masked,
        revision: record.revision.as_deref(),
        facts: record.facts.as_deref(),
    })
}

fn asked<'r>(record: &'r LogRecord<'_>) -> Result<RecordedAsked<'r>, NotReplayed> {
    if record.http.is_null() {
        check_masked(record, &["action", "resource", "supplied"])?;
        let described = supplied(record)?.get("resource").and_then(Value::as_object);
        let entities = record.supplied.get("entities").and_then(Value::as_array);
        return Ok(RecordedAsked::Named {
            resource: entity(&record.resource, described).ok_or_else(|| malformed("`resource` is not an entity"))?,
            entities: entities.map(Vec::as_slice).unwrap_or_default(),
        });
    }
    check_masked(record, &["http.method", "http.path"])?;
    let text = |name: &str| record.http.get(name).and_then(Value::as_str);
    Ok(RecordedAsked::Http {
        method: text("method").ok_or_else(|| malformed("`http.method` is missing"))?,
        path: text("path").ok_or_else(|| malformed("`http.path` is missing"))?,
        client: text("client").and_then(|client| client.parse::<IpAddr>().ok()),
    })
}

fn caller<'r>(record: &'r LogRecord<'_>) -> Result<RecordedCaller<'r>, NotReplayed> {
    if record.principal.is_null() {
        return Ok(RecordedCaller::Anonymous);
    }
    if !record.roles.is_array() {
        return Err(malformed("`roles` is not a list"));
    }
    let no_entity = || malformed("`principal` is not an entity");
    if record.http.is_null()
        && let Some(named) = supplied(record)?.get("principal")
    {
        let named = entity(&record.principal, named.as_object());
        return Ok(RecordedCaller::Named(named.ok_or_else(no_entity)?));
    }
    let text = |name: &str| record.principal.get(name).and_then(Value::as_str);
    let claims = record.principal.get("attrs").and_then(Value::as_object);
    Ok(RecordedCaller::Proven(ProvenCaller {
        ty: text("type").ok_or_else(no_entity)?,
        id: text("id").ok_or_else(no_entity)?,
        tenant: record.tenant.as_deref(),
        // in the order of the credential
        roles: record
            .roles
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|role| Some(role.as_str()?.to_owned()))
            .collect(),
        claims: claims.cloned().unwrap_or_default(),
        issuer: record.token.get("iss").and_then(Value::as_str),
    }))
}

/// The descriptions of the app.
fn supplied<'r>(record: &'r LogRecord<'_>) -> Result<&'r Map<String, Value>, NotReplayed> {
    match &record.supplied {
        Value::Object(supplied) => Ok(supplied),
        Value::String(_) => Err(NotReplayed::Truncated),
        _ => Err(NotReplayed::Incomplete),
    }
}

fn entity(named: &Value, described: Option<&Map<String, Value>>) -> Option<NamedEntity> {
    let text = |name: &str| Some(named.get(name)?.as_str()?.to_owned());
    let part = |name: &str| described.and_then(|described| described.get(name)).cloned();
    Some(NamedEntity::Parts {
        ty: text("type")?,
        id: text("id")?,
        attrs: part("attrs"),
        parents: part("parents"),
    })
}

fn malformed(what: &str) -> NotReplayed {
    NotReplayed::Malformed(what.to_owned())
}
