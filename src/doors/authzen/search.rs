//! Search of AuthZEN: the subjects, resources or actions for which the decision is a permit.
//!
//! The candidates are what the portal can enumerate: the entities of `entities.json` of the wanted type, or the actions of the
//! schema. Each is decided by the one decision function, so a result is exact. A page decides at most `PAGE_MAX` candidates and
//! then ends with a token that names the last one; a page may therefore have fewer results than its limit, or none, and a next
//! page. A search writes one record.

use std::collections::BTreeSet;

use cedargate_policy::decision::{self, Caller, Query, QueryForm};
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::digest::short_hash;
use cedargate_policy::types::Door;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::question::{Entity, Evaluation, Translation, action, context};
use super::{invalid, record_unreadable};
use crate::base::clock::unix_millis;
use crate::doors::authorize::Envelope;
use crate::gate::Gate;
use crate::portals::{ActiveRevision, Portal};

/// Most candidates that one page decides.
const PAGE_MAX: usize = 1000;
/// Results of a page that states no limit.
const LIMIT_DEFAULT: usize = 100;
/// Candidates decided before other tasks of the worker run.
const BATCH: usize = 32;

/// The part of a question that a search looks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Searched {
    Subject,
    Resource,
    Action,
}

/// The wanted page.
struct Page {
    limit: usize,
    /// The candidate after which it begins.
    after: Option<String>,
    /// Binds tokens to this search.
    digest: String,
}

pub(super) async fn search(
    gate: &Gate,
    envelope: &Envelope,
    portal: &Portal,
    searched: Searched,
    body: &Map<String, Value>,
    decision_id: Uuid,
) -> Result<Value, Refusal> {
    let unreadable = |refusal| record_unreadable(gate, envelope, refusal, decision_id);
    let mut asked = read(searched, body).map_err(unreadable)?;
    let page = Page::read(searched, body).map_err(unreadable)?;
    let slot = gate.audit.admit()?;
    let mut record = envelope.record(decision_id);
    record.portal = Some(std::sync::Arc::clone(&portal.name));
    let mut guard = gate.audit.guard(slot, record);
    let translation = Translation::of(portal);
    let Some(active) = &translation.active else {
        guard.denied(Denial::NoPolicyLoaded);
        portal.meters.count(Door::Authzen, Some(Denial::NoPolicyLoaded));
        return Err(Denial::NoPolicyLoaded.into());
    };
    guard.record.revision = Some(std::sync::Arc::clone(&active.revision.id));
    let candidates = candidates(active, searched, &asked);
    let mut results = Vec::new();
    let mut last = None;
    let begin = page.after.as_deref();
    let rest = candidates
        .iter()
        .filter(|candidate| begin.is_none_or(|begin| candidate.as_str() > begin));
    let mut rest = rest.enumerate().peekable();
    while let Some((at, candidate)) = rest.next_if(|(at, _)| *at < PAGE_MAX && results.len() < page.limit) {
        if at % BATCH == BATCH - 1 {
            tokio::task::yield_now().await;
        }
        last = Some(candidate.as_str());
        match searched {
            Searched::Subject => asked.subject.id = Some(candidate.clone()),
            Searched::Resource => asked.resource.id = Some(candidate.clone()),
            Searched::Action => asked.action.clone_from(candidate),
        }
        let ask = translation.ask(&asked);
        let query = Query {
            portal: &portal.scope,
            revision: &active.revision,
            now_millis: unix_millis(),
            asked: QueryForm::Named(ask.query()),
        };
        if decision::decide(&query, Caller::Anonymous).denial().is_none() {
            results.push(match searched {
                Searched::Subject => json!({"type": asked.subject.ty, "id": candidate}),
                Searched::Resource => json!({"type": asked.resource.ty, "id": candidate}),
                Searched::Action => json!({"name": candidate}),
            });
        }
    }
    let next = last.filter(|_| rest.peek().is_some()).map(|last| page.token_after(last));
    guard.permitted();
    portal.meters.count(Door::Authzen, None);
    Ok(json!({
        "page": {"next_token": next.unwrap_or_default(), "count": results.len()},
        "results": results,
    }))
}

/// The question, with an empty place for what is searched. An id in that place is ignored, as the specification wants.
fn read(searched: Searched, body: &Map<String, Value>) -> Result<Evaluation, Refusal> {
    let entity = |name: &str, is_searched: bool| {
        let entity = Entity::read(body, name)?;
        if is_searched { Ok(entity) } else { entity.with_id(name) }
    };
    Ok(Evaluation {
        subject: entity("subject", searched == Searched::Subject)?,
        action: match searched {
            Searched::Action => String::new(),
            _ => action(body)?,
        },
        resource: entity("resource", searched == Searched::Resource)?,
        context: context(body)?,
    })
}

/// Everything that the portal can enumerate in the searched place, in order.
fn candidates(active: &ActiveRevision, searched: Searched, asked: &Evaluation) -> BTreeSet<String> {
    let rules = &active.revision.rules;
    let schema = &rules.schema;
    let of_type = |name: &str| {
        let ty = schema.resolve_type(name);
        let stored = rules.engine.store.uids().filter(|uid| ty.as_ref() == Some(uid.type_name()));
        stored.map(|uid| uid.id().unescaped().to_owned()).collect()
    };
    match searched {
        Searched::Subject => of_type(&asked.subject.ty),
        Searched::Resource => of_type(&asked.resource.ty),
        Searched::Action => schema.actions().map(|(uid, _)| schema.action_name(uid)).collect(),
    }
}

impl Page {
    fn read(searched: Searched, body: &Map<String, Value>) -> Result<Self, Refusal> {
        let digest = digest(searched, body);
        let (limit, token) = match body.get("page") {
            None | Some(Value::Null) => (None, None),
            Some(Value::Object(page)) => (page.get("limit"), page.get("token")),
            Some(_) => return Err(invalid("`page` is not an object")),
        };
        let limit = match limit {
            None | Some(Value::Null) => LIMIT_DEFAULT,
            Some(limit) => {
                let limit = limit.as_u64().and_then(|limit| usize::try_from(limit).ok());
                limit
                    .filter(|limit| *limit > 0)
                    .ok_or(invalid("`page.limit` is not a number from 1"))?
            }
        };
        let after = match token {
            None | Some(Value::Null) => None,
            Some(Value::String(token)) if token.is_empty() => None,
            Some(Value::String(token)) => {
                let after = token.strip_prefix(digest.as_str()).and_then(|rest| rest.strip_prefix('.'));
                Some(after.ok_or(invalid("`page.token` is not of this search"))?.to_owned())
            }
            Some(_) => return Err(invalid("`page.token` is not a string")),
        };
        Ok(Self {
            limit: limit.min(PAGE_MAX),
            after,
            digest,
        })
    }

    fn token_after(&self, candidate: &str) -> String {
        format!("{}.{candidate}", self.digest)
    }
}

/// Equal for the pages of one search: everything but `page` counts.
fn digest(searched: Searched, body: &Map<String, Value>) -> String {
    let mut question = body.clone();
    question.remove("page");
    let text = format!("{searched:?}{}", Value::Object(question));
    short_hash(&text)
}
