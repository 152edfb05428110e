//! Search of AuthZEN: the subjects, resources or actions for which the decision is a permit.
//!
//! `searches` finds one page on a thread of its own; this file reads the question and the wanted page, and writes the
//! answer. A page may have fewer results than its limit, or none, and a next page: the token of the next page names the
//! last candidate that this one looked at. The gate holds no state of a search. A search writes one record.

use std::sync::Arc;

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::digest::short_hash;
use cedargate_policy::search::{FoundPage, PageRange, SearchEntity, SearchQuestion, Searched};
use cedargate_policy::types::Door;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::question::{Action, Entity, Translation, context};
use super::{invalid, record_unreadable};
use crate::doors::authorize::Envelope;
use crate::gate::Gate;
use crate::portals::Portal;
use crate::searches::SearchJob;
use crate::traces::SpanStep;

/// Most results of a page.
pub(super) const LIMIT_MAX: usize = 1000;
/// Results of a page that states no limit.
pub(super) const LIMIT_DEFAULT: usize = 100;

/// The wanted page.
struct WantedPage {
    limit: usize,
    /// The candidate after which it begins.
    after: Option<String>,
    /// Binds tokens to this search.
    digest: String,
}

pub(super) async fn search(
    gate: &Gate,
    envelope: &Envelope,
    portal: &Arc<Portal>,
    searched: Searched,
    body: &Map<String, Value>,
    decision_id: Uuid,
) -> Result<Value, Refusal> {
    let unreadable = |refusal| record_unreadable(gate, envelope, refusal, decision_id);
    let translation = Translation::of(portal);
    let question = read(&translation, searched, body).map_err(unreadable)?;
    let page = WantedPage::read(searched, body).map_err(unreadable)?;
    let slot = gate.audit.admit()?;
    let mut record = envelope.record(decision_id);
    record.portal = Some(Arc::clone(&portal.name));
    let mut guard = gate.audit.guard(slot, record);
    let found = match &translation.active {
        None => Err(Denial::NoPolicyLoaded.into()),
        Some(active) => {
            guard.record.revision = Some(Arc::clone(&active.revision.id));
            let job = SearchJob {
                portal: Arc::clone(portal),
                active: Arc::clone(active),
                question: question.clone(),
                range: PageRange {
                    after: page.after.clone(),
                    results: page.limit,
                },
            };
            envelope.begin_step(SpanStep::Search);
            let found = gate.searches.page(job).await;
            if found.is_ok() {
                envelope.end_step();
            }
            found
        }
    };
    let denial = found.as_ref().err().map(|refusal: &Refusal| refusal.denial);
    envelope.decided(Some(&portal.name), denial, decision_id);
    portal.meters.count(Door::Authzen, denial);
    match found {
        Ok(found) => {
            guard.permitted();
            Ok(page.answer(&question, &found))
        }
        Err(refusal) => {
            guard.denied(refusal.denial);
            Err(refusal)
        }
    }
}

/// The question, with an empty place for what is searched. An id in that place is ignored, as the specification wants.
fn read(translation: &Translation<'_>, searched: Searched, body: &Map<String, Value>) -> Result<SearchQuestion, Refusal> {
    let entity = |name: &str, is_searched: bool| {
        let entity = Entity::read(body, name)?;
        let entity = if is_searched { entity } else { entity.with_id(name)? };
        Ok::<_, Refusal>(SearchEntity {
            attrs: translation.attributes(&entity),
            ty: entity.ty,
            id: entity.id.unwrap_or_default(),
        })
    };
    let subject = entity("subject", searched == Searched::Subject)?;
    // an action beside a search for actions is ignored, as the specification wants
    let action = match searched {
        Searched::Action => Action::default(),
        Searched::Subject | Searched::Resource => Action::read(body)?,
    };
    Ok(SearchQuestion {
        searched,
        subject,
        resource: entity("resource", searched == Searched::Resource)?,
        context: translation.given_context(&action, context(body)?.as_ref()),
        action: action.name,
    })
}

impl WantedPage {
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
            limit: limit.min(LIMIT_MAX),
            after,
            digest,
        })
    }

    fn answer(&self, question: &SearchQuestion, found: &FoundPage) -> Value {
        let result = |name: &String| match question.searched {
            Searched::Subject => json!({"type": question.subject.ty, "id": name}),
            Searched::Resource => json!({"type": question.resource.ty, "id": name}),
            Searched::Action => json!({"name": name}),
        };
        let next = found.next_after.as_ref().map(|last| self.token_after(last));
        json!({
            "page": {"next_token": next.unwrap_or_default(), "count": found.found.len()},
            "results": found.found.iter().map(result).collect::<Vec<_>>(),
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
