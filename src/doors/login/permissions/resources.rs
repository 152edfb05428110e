//! `POST permissions`: the caller's permissions on resources that the body names, decided one by one.
//!
//! Each pair of resource and action is a query of the one decision function, with the caller's identity. Entities of
//! the store go before what the body describes, as at `/authorize`. `limits.batch` bounds the pairs. No pair is
//! recorded: none lets a request in.

use std::collections::BTreeMap;

use cedargate_policy::decision::named::NamedEntity;
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::permissions::{Permission, ResourceQuestion};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::KnownCaller;
use crate::base::clock::unix_millis;
use crate::doors::login::caller::{CallerCredential, principal_id};
use crate::doors::login::input::json_body;
use crate::doors::login::{EndpointRequest, LoginDoor};
use crate::http::answer;
use crate::http::upstream::Body;

/// Pairs decided before other requests of the worker run.
const BATCH: usize = 16;

/// The body of the request.
struct Questions {
    portal: Option<String>,
    resources: Vec<AskedResource>,
    /// `None`: every action of the resource's type.
    actions: Option<Vec<String>>,
}

struct AskedResource {
    ty: String,
    id: String,
    entity: NamedEntity,
}

/// The answer about one resource.
#[derive(Serialize)]
struct Answered<'a> {
    #[serde(rename = "type")]
    ty: &'a str,
    id: &'a str,
    actions: BTreeMap<String, Permission>,
    /// Denied actions that nothing but a stronger login allows, with its `acr_values`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    step_up: BTreeMap<String, String>,
}

pub(in crate::doors::login) async fn decide(
    door: &LoginDoor,
    request: &EndpointRequest<'_>,
    body: Incoming,
) -> Result<Response<Body>, Refusal> {
    let credential = CallerCredential::of(door, request).await?;
    credential.check_origin(door, request)?;
    let questions = Questions::read(json_body(&door.config.limits, request.head, body).await?)?;
    let known = KnownCaller::at(door, request, credential, questions.portal.as_deref()).await?;
    let answered = answers(&known, &questions, door.config.limits.batch.as_usize()).await?;
    known.check_again(door)?;
    let caller = &known.caller;
    let body = json!({
        "portal": &*caller.portal.name,
        "revision": &*caller.active.revision.id,
        "subject": principal_id(&caller.portal, &caller.identity)?,
        "tenant": caller.identity.tenant,
        "resources": answered,
    });
    Ok(answer::json(StatusCode::OK, &body))
}

async fn answers<'a>(known: &KnownCaller<'_>, questions: &'a Questions, pairs_max: usize) -> Result<Vec<Answered<'a>>, Refusal> {
    let schema = &known.caller.active.revision.rules.schema;
    let mut pairs = 0_usize;
    let mut answered = Vec::with_capacity(questions.resources.len());
    for (at, resource) in questions.resources.iter().enumerate() {
        let place = format!("`resources.{at}`");
        let ty = resource
            .entity
            .uid(schema, "resource")
            .map_err(|refusal| with_public_detail(refusal.at(&place)))?;
        let actions = match &questions.actions {
            Some(actions) => actions.clone(),
            None => schema.actions_on(ty.type_name()),
        };
        pairs += actions.len().max(1);
        if pairs > pairs_max {
            return Err(Refusal::over_limit(Denial::RequestTooLarge, "limits.batch"));
        }
        let mut answers: BTreeMap<String, Permission> = BTreeMap::new();
        let mut step_ups: BTreeMap<String, String> = BTreeMap::new();
        for (nth, action) in actions.into_iter().enumerate() {
            if nth % BATCH == BATCH - 1 {
                tokio::task::yield_now().await;
            }
            let question = ResourceQuestion {
                action: &action,
                resource: &resource.entity,
                now_millis: unix_millis(),
            };
            let answer = question
                .answer(known.caller.query())
                .map_err(|refusal| with_public_detail(refusal.at(&place)))?;
            if let Some(acr) = answer.step_up {
                step_ups.insert(action.clone(), acr);
            }
            answers.insert(action, answer.permission);
        }
        tokio::task::yield_now().await;
        answered.push(Answered {
            ty: &resource.ty,
            id: &resource.id,
            actions: answers,
            step_up: step_ups,
        });
    }
    Ok(answered)
}

/// The caller may read what is wrong with its own body.
fn with_public_detail(refusal: Refusal) -> Refusal {
    Refusal {
        is_detail_public: refusal.denial == Denial::RequestInvalid,
        ..refusal
    }
}

impl Questions {
    fn read(mut body: Map<String, Value>) -> Result<Self, Refusal> {
        let known = ["portal", "resources", "actions"];
        if let Some(name) = body.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(invalid(format!("`{name}` is not a member; use {}", known.join(", "))));
        }
        let portal = match body.remove("portal") {
            None => None,
            Some(Value::String(slug)) => Some(slug),
            Some(_) => return Err(invalid("`portal` is not a string".to_owned())),
        };
        let resources = match body.remove("resources") {
            Some(Value::Array(list)) => {
                let items = list.into_iter().enumerate();
                items
                    .map(|(at, item)| AskedResource::read(at, item))
                    .collect::<Result<_, _>>()?
            }
            _ => return Err(invalid("`resources` is not a list".to_owned())),
        };
        let actions = match body.remove("actions") {
            None => None,
            Some(Value::Array(list)) => {
                let names = list.into_iter().map(|name| match name {
                    Value::String(name) => Ok(name),
                    _ => Err(invalid("`actions` is not a list of strings".to_owned())),
                });
                Some(names.collect::<Result<_, _>>()?)
            }
            Some(_) => return Err(invalid("`actions` is not a list of strings".to_owned())),
        };
        Ok(Self {
            portal,
            resources,
            actions,
        })
    }
}

impl AskedResource {
    /// `at` is the place in the list.
    fn read(at: usize, item: Value) -> Result<Self, Refusal> {
        let text = |name: &str| match item.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(invalid(format!("`resources.{at}.{name}` is not a string"))),
            None => Err(invalid(format!("`resources.{at}.{name}` is missing"))),
        };
        let ty = text("type")?;
        let id = text("id")?;
        let entity = NamedEntity::read(item, "resource")
            .map_err(|refusal| with_public_detail(refusal.at(&format!("`resources.{at}`"))))?;
        Ok(Self { ty, id, entity })
    }
}

fn invalid(detail: String) -> Refusal {
    with_public_detail(Refusal::new(Denial::RequestInvalid, detail))
}
