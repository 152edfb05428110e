//! The AuthZEN Authorization API 1.0 on the decision listener: evaluation, evaluations, search, metadata.
//!
//! The door is a translation. A subject becomes a principal that the app names, properties become the attributes that
//! the schema declares, and everything else is the named query of `/authorize`, decided and recorded there. An item
//! that cannot be decided is `"decision": false` with the cause in its context. Members that the specification does not
//! name are ignored, as it wants; duplicate members are refused, because two readers could take different ones.

mod metadata;
mod question;
mod search;

use std::sync::Arc;

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::json;
use cedargate_policy::search::Searched;
use cedargate_policy::types::{Door, Redacted};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use self::question::{Evaluation, Semantics, Translation};
use crate::doors::authorize::{Envelope, decide_ask, read_body, record_unreadable};
use crate::gate::Gate;
use crate::http::answer::{self, AnswerContext, Style};
use crate::http::credentials::{bearer, check_listener_token};
use crate::http::request::{X_REQUEST_ID, check_head_size, correlation};
use crate::http::upstream::Body;
use crate::portals::Portal;

/// The paths below a portal's, or below the root.
const BASE: &str = "/access/v1/";
const METADATA: &str = "/.well-known/authzen-configuration";

/// An endpoint of the API.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// `None`: the portal of `authzen.portal`, or the only one.
    portal: Option<String>,
    operation: Operation,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Operation {
    Evaluation,
    Evaluations,
    Search(Searched),
    Metadata,
}

impl Endpoint {
    /// The endpoint at a path of the decision listener.
    pub fn at(path: &str) -> Option<Self> {
        if let Some(rest) = path.strip_prefix(METADATA) {
            let portal = rest.strip_prefix('/').filter(|slug| !slug.is_empty() && !slug.contains('/'));
            let is_it = rest.is_empty() || portal.is_some();
            return is_it.then(|| Self {
                portal: portal.map(str::to_owned),
                operation: Operation::Metadata,
            });
        }
        let (portal, rest) = match path.strip_prefix("/portals/") {
            Some(rest) => {
                let (slug, _) = rest.split_once('/')?;
                (Some(slug.to_owned()), rest.get(slug.len()..)?)
            }
            None => (None, path),
        };
        let operation = match rest.strip_prefix(BASE)? {
            "evaluation" => Operation::Evaluation,
            "evaluations" => Operation::Evaluations,
            "search/subject" => Operation::Search(Searched::Subject),
            "search/resource" => Operation::Search(Searched::Resource),
            "search/action" => Operation::Search(Searched::Action),
            _ => return None,
        };
        Some(Self { portal, operation })
    }

    /// The only method, as the `Allow` header names it.
    fn method(&self) -> &'static str {
        match self.operation {
            Operation::Metadata => "GET",
            _ => "POST",
        }
    }
}

impl Operation {
    /// The path without the portal, which spans show.
    const fn route(self) -> &'static str {
        match self {
            Self::Evaluation => "/access/v1/evaluation",
            Self::Evaluations => "/access/v1/evaluations",
            Self::Search(Searched::Subject) => "/access/v1/search/subject",
            Self::Search(Searched::Resource) => "/access/v1/search/resource",
            Self::Search(Searched::Action) => "/access/v1/search/action",
            Self::Metadata => METADATA,
        }
    }
}

/// Answers one question; never fails.
pub async fn handle(gate: &Gate, tokens: &[Redacted<String>], endpoint: Endpoint, head: Parts, body: Incoming) -> Response<Body> {
    let decision_id = Uuid::now_v7();
    if head.method != endpoint.method() {
        let mut response = answer::method_not_allowed(endpoint.method());
        // every answer to a question names it
        let request_id = correlation(&head.headers, decision_id).request_id;
        response.headers_mut().insert(&X_REQUEST_ID, request_id);
        return response;
    }
    let envelope = Envelope::new(gate, Door::Authzen, &head.headers, decision_id);
    let outcome = match endpoint.operation {
        Operation::Metadata => metadata::document(gate, endpoint.portal.as_deref()),
        _ => answer_question(gate, tokens, &endpoint, &head, body, &envelope, decision_id).await,
    };
    let request_id = envelope.request_id.clone();
    let response = match outcome {
        Ok(answer) => {
            let mut response = answer::json(StatusCode::OK, &answer);
            let headers = response.headers_mut();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            headers.insert(&X_REQUEST_ID, request_id);
            response
        }
        Err(refusal) => {
            let answer = AnswerContext::new(Style::Problem, decision_id, request_id, &gate.theme);
            answer::detailed_refusal_response(&refusal, &answer)
        }
    };
    envelope.finish_span(&head.method, endpoint.operation.route(), response.status());
    response
}

async fn answer_question(
    gate: &Gate,
    tokens: &[Redacted<String>],
    endpoint: &Endpoint,
    head: &Parts,
    body: Incoming,
    envelope: &Envelope,
    decision_id: Uuid,
) -> Result<Value, Refusal> {
    let unreadable = |refusal| record_unreadable(gate, envelope, refusal, decision_id);
    let read = read(gate, tokens, head, body).await;
    let body = read.map_err(unreadable)?;
    let portal = portal_of(gate, endpoint.portal.as_deref()).map_err(unreadable)?;
    match endpoint.operation {
        Operation::Search(searched) => search::search(gate, envelope, &portal, searched, &body, decision_id).await,
        Operation::Evaluations if has_items(&body) => evaluate_all(gate, envelope, &portal, &body).await.map_err(unreadable),
        _ => {
            let translation = Translation::of(&portal);
            let asked = Evaluation::read(&body).map_err(unreadable)?;
            Ok(evaluate(gate, envelope, &translation, Ok(asked), decision_id).await.0)
        }
    }
}

/// The body of a question whose caller may ask.
async fn read(gate: &Gate, tokens: &[Redacted<String>], head: &Parts, body: Incoming) -> Result<Map<String, Value>, Refusal> {
    check_head_size(head, &gate.config.limits)?;
    if !tokens.is_empty() {
        let presented = bearer(&head.headers)?;
        let presented = presented.ok_or(Refusal::new(Denial::TokenMissing, "this listener needs one of its tokens"))?;
        check_listener_token(tokens, presented)?;
    }
    if !is_json(&head.headers) {
        return Err(invalid("`content-type` is not application/json"));
    }
    let bytes = read_body(gate, body).await?;
    json::object_from_slice(&bytes).map_err(|error| invalid(&format!("the body is not strict JSON: {error}")))
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else {
        return false;
    };
    let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

/// The portal of a question.
fn portal_of(gate: &Gate, named: Option<&str>) -> Result<Arc<Portal>, Refusal> {
    let registry = gate.portals.load();
    let unknown = |detail: String| Refusal::new(Denial::PortalUnknown, detail);
    match named.or(gate.config.authzen.portal.as_deref()) {
        Some(slug) => {
            let portal = registry.named(slug).cloned();
            portal.ok_or_else(|| unknown(format!("there is no portal `{slug}`")))
        }
        None => match registry.portals.as_slice() {
            [only] => Ok(Arc::clone(only)),
            _ => Err(unknown(
                "there are several portals: ask at `/portals/<slug>/access/v1/…`, or set `authzen.portal`".to_owned(),
            )),
        },
    }
}

/// True if the body is of several questions; the specification takes another one for a single question.
fn has_items(body: &Map<String, Value>) -> bool {
    !matches!(body.get("evaluations"), None | Some(Value::Null)) && body.get("evaluations") != Some(&json!([]))
}

async fn evaluate_all(gate: &Gate, envelope: &Envelope, portal: &Portal, body: &Map<String, Value>) -> Result<Value, Refusal> {
    let semantics = Semantics::read(body)?;
    let items = Evaluation::read_all(body, gate.config.limits.batch.as_usize())?;
    let translation = Translation::of(portal);
    let mut answers = Vec::with_capacity(items.len());
    for item in items {
        let EvaluatedItem(answer, is_allowed) = evaluate(gate, envelope, &translation, item, Uuid::now_v7()).await;
        answers.push(answer);
        if semantics.ends_at(is_allowed) {
            break;
        }
    }
    Ok(json!({ "evaluations": answers }))
}

/// The answer to one question, and the decision in it.
struct EvaluatedItem(Value, question::ItemDecision);

async fn evaluate(
    gate: &Gate,
    envelope: &Envelope,
    translation: &Translation<'_>,
    asked: Result<Evaluation, Refusal>,
    decision_id: Uuid,
) -> EvaluatedItem {
    let asked = match asked {
        Ok(asked) => asked,
        Err(refusal) => return undecided(&record_unreadable(gate, envelope, refusal, decision_id), decision_id),
    };
    let decided = match decide_ask(gate, envelope, &translation.ask(&asked), decision_id).await {
        Ok(decided) => decided,
        Err(refusal) => return undecided(&refusal, decision_id),
    };
    let decision = &decided.decision;
    if let Some(refusal) = decision.unevaluated() {
        return undecided(refusal, decision_id);
    }
    let denial = decision.denial();
    let policies: Vec<&str> = decision.policies().iter().map(|policy| &*policy.id).collect();
    let answer = json!({
        "decision": denial.is_none(),
        "context": {
            "reason": denial.map_or("permitted", Denial::code),
            "policies": policies,
            "decision_id": decision_id.to_string(),
            "revision": decided.revision,
        },
    });
    EvaluatedItem(answer, question::ItemDecision::of(denial))
}

/// A question without a decision: it is not permitted, and says why.
fn undecided(refusal: &Refusal, decision_id: Uuid) -> EvaluatedItem {
    let answer = json!({
        "decision": false,
        "context": {
            "reason": refusal.denial.code(),
            "error": { "status": refusal.denial.status().as_u16(), "message": &*refusal.detail },
            "decision_id": decision_id.to_string(),
        },
    });
    EvaluatedItem(answer, question::ItemDecision::Deny)
}

fn invalid(detail: &str) -> Refusal {
    Refusal::new(Denial::RequestInvalid, detail.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_found_by_their_exact_path() {
        let at = |path: &str| Endpoint::at(path).map(|endpoint| (endpoint.portal, endpoint.operation));
        assert_eq!(at("/access/v1/evaluation"), Some((None, Operation::Evaluation)));
        assert_eq!(
            at("/portals/shop/access/v1/search/action"),
            Some((Some("shop".to_owned()), Operation::Search(Searched::Action)))
        );
        assert_eq!(
            at("/.well-known/authzen-configuration/shop"),
            Some((Some("shop".to_owned()), Operation::Metadata))
        );
        for path in [
            "/access/v1/evaluation/",
            "/access/v1/search",
            "/access/v2/evaluation",
            "/portals/access/v1/evaluation",
            "/portals/a/b/access/v1/evaluation",
            "/.well-known/authzen-configuration/",
            "/.well-known/authzen-configurations",
            "/.well-known/authzen-configuration/a/b",
        ] {
            assert_eq!(at(path), None, "{path}");
        }
    }
}
