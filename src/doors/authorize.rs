//! `POST /authorize` and `/authorize/batch`: the app's own question, on the decision listener.
//!
//! Who is a token, the gate's own assertion, or a principal the app names; then action, resource, context, entities.
//! Every decision is a 200; what cannot be asked is a 400 that names the place. What the gate knows itself (portal,
//! time, the credential's tenant) the app cannot override.

pub mod body;
pub mod question;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use serde_json::json;
use tokio::time::timeout;
use uuid::Uuid;

use self::body::{Ask, Who};
use self::question::{Asker, Place};
use crate::audit::{AuditGuard, AuditRecord, PolicyError};
use crate::authn::{Returned, bearer, is_assertion};
use crate::authz::engine::{self, PolicyInfo};
use crate::config::AuditAllow;
use crate::denial::{Denial, Refusal};
use crate::gate::{Gate, NO_PORTAL, check_tenant, entity_ref, now_millis, policy_errors, record_answer};
use crate::http::answer::{self, Answer, Style};
use crate::http::request::{Trace, correlation};
use crate::http::upstream::Body;
use crate::json;
use crate::portals::{Active, Caller, Portal};
use crate::types::{Door, Identity, Redacted};

/// What one request to this door carries besides its body.
struct Envelope {
    request_id: HeaderValue,
    trace: Trace,
    /// The caller's credential from the `Authorization` header.
    bearer: Option<String>,
    /// The caller's `Cookie`, where the app passes it on.
    cookie: HeaderMap,
}

/// What one request asks.
enum Asks {
    One(Box<Ask>),
    Batch(Vec<Ask>),
}

/// What it is answered with.
#[derive(Serialize)]
#[serde(untagged)]
enum Answered {
    One(Rendered),
    Batch { decisions: Vec<Rendered> },
}

/// Answers one request on the decision listener; never fails. `tokens` are what callers must present, if any.
pub async fn handle(gate: &Gate, tokens: &[Redacted<String>], request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    // of the decision that a refusal is about
    let mut decision_id = Uuid::now_v7();
    let (request_id, trace) = correlation(&head.headers, decision_id);
    let mut envelope = Envelope {
        request_id,
        trace,
        bearer: None,
        cookie: HeaderMap::new(),
    };
    let outcome = match read(gate, tokens, (&head, body), &mut envelope).await {
        Ok(asks) => respond(gate, &envelope, &asks, &mut decision_id).await,
        Err(refusal) => Err(unasked(gate, &envelope, refusal, decision_id)),
    };
    match outcome {
        Ok(body) => json_response(&body, envelope.request_id),
        Err(refusal) => {
            let answer = Answer {
                style: Style::Problem,
                decision_id,
                request_id: envelope.request_id,
                theme: Arc::clone(&gate.theme),
            };
            answer::refused_in_detail(&refusal, &answer)
        }
    }
}

/// Reads what is asked; nothing is decided yet.
async fn read(
    gate: &Gate,
    tokens: &[Redacted<String>],
    (head, body): (&Parts, Incoming),
    envelope: &mut Envelope,
) -> Result<Asks, Refusal> {
    envelope.bearer = credential(&head.headers, tokens)?;
    for value in head.headers.get_all(COOKIE) {
        envelope.cookie.append(COOKIE, value.clone());
    }
    let batch = match head.uri.path() {
        "/authorize" => false,
        "/authorize/batch" => true,
        other => return Err(invalid(format!("there is no endpoint `{other}` on this listener"))),
    };
    if head.method != Method::POST {
        return Err(invalid(format!("`{}` takes POST", head.uri.path())));
    }
    let max = gate.config.limits.decision_body_bytes.as_usize();
    let limits = &gate.config.limits;
    let bytes = timeout(limits.header_timeout.get(), Limited::new(body, max).collect()).await;
    let bytes = bytes.map_err(|_elapsed| invalid("the body did not come within `limits.header_timeout`".to_owned()))?;
    let bytes = bytes.map_err(|_why| Refusal::new(Denial::RequestTooLarge, format!("the body is larger than {max} bytes")))?;
    let parsed = json::object_from_slice(&bytes.to_bytes()).map_err(|e| invalid(format!("the body is not strict JSON: {e}")))?;
    if batch {
        return Ask::read_batch(parsed, gate.config.limits.batch.as_usize()).map(Asks::Batch);
    }
    Ok(Asks::One(Box::new(Ask::read(parsed, "")?)))
}

/// Decides everything asked; `decision_id` is left at the last one.
async fn respond(gate: &Gate, envelope: &Envelope, asks: &Asks, decision_id: &mut Uuid) -> Result<Answered, Refusal> {
    let asks = match asks {
        Asks::One(ask) => return one(gate, envelope, ask, *decision_id).await.map(Answered::One),
        Asks::Batch(asks) => asks,
    };
    let mut decisions = Vec::with_capacity(asks.len());
    for ask in asks {
        *decision_id = Uuid::now_v7();
        let decision = one(gate, envelope, ask, *decision_id).await;
        decisions.push(decision.map_err(|r| r.at(&ask.place))?);
    }
    Ok(Answered::Batch { decisions })
}

/// Records a request that asked nothing that could be read.
fn unasked(gate: &Gate, envelope: &Envelope, refusal: Refusal, decision_id: Uuid) -> Refusal {
    match gate.audit.admit() {
        Err(full) => full,
        Ok(slot) => {
            let record = envelope.record(decision_id, NO_PORTAL);
            gate.audit.guard(slot, record).denied(refusal.denial);
            count_without_portal(gate, refusal.denial);
            refusal
        }
    }
}

fn count_without_portal(gate: &Gate, denial: Denial) {
    let labels = [NO_PORTAL, "authorize", "deny", denial.code()];
    gate.metrics.decisions.with_label_values(&labels).inc();
}

impl Envelope {
    fn record(&self, decision_id: Uuid, portal: &str) -> AuditRecord {
        let mut record = AuditRecord::new(decision_id, Arc::from(portal), Door::Authorize);
        record.request_id = Some(self.request_id.clone());
        record.trace_id = Some(self.trace.trace_id);
        record
    }
}

/// Off loopback the `Authorization` header is the listener's own token; otherwise it is the caller's credential.
fn credential(headers: &HeaderMap, tokens: &[Redacted<String>]) -> Result<Option<String>, Refusal> {
    let presented = bearer(headers)?;
    if tokens.is_empty() {
        return Ok(presented.map(str::to_owned));
    }
    let presented = presented.ok_or(Refusal::new(Denial::TokenMissing, "this listener needs one of its tokens"))?;
    let known = tokens.iter().fold(false, |known, token| {
        // every token is compared, each in constant time
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(token.expose().as_bytes(), presented.as_bytes()).is_ok();
        known | same
    });
    if known {
        Ok(None)
    } else {
        Err(Refusal::new(Denial::TokenInvalid, "not one of this listener's tokens"))
    }
}

/// One question, one record.
async fn one(gate: &Gate, envelope: &Envelope, ask: &Ask, decision_id: Uuid) -> Result<Rendered, Refusal> {
    let portal = gate.serving.load().named(&ask.portal).cloned();
    let slot = gate.audit.admit()?;
    let Some(portal) = portal else {
        // a name that the app made up is no label
        let record = envelope.record(decision_id, NO_PORTAL);
        gate.audit.guard(slot, record).denied(Denial::PortalUnknown);
        count_without_portal(gate, Denial::PortalUnknown);
        return Err(Refusal::new(
            Denial::PortalUnknown,
            format!("there is no portal `{}`", ask.portal),
        ));
    };
    let record = envelope.record(decision_id, &ask.portal);
    let mut guard = gate.audit.guard(slot, record);
    let started = Instant::now();
    let outcome = decide(gate, &portal, (envelope, ask), &mut guard).await;
    guard.record.latency_us.total = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let denial = match &outcome {
        Ok((answer, _)) => answer.denial(),
        Err(refusal) => Some(refusal.denial),
    };
    portal.meters.count(Door::Authorize, denial);
    match denial {
        Some(denial) => guard.denied(denial),
        None => guard.permitted(),
    }
    if gate.config.audit.allow == AuditAllow::None {
        guard.omit_allowed();
    }
    let (answer, revision) = match outcome {
        Ok(decided) => decided,
        // a decision like any other: only what could not be asked, and who could not be proven, is an error
        Err(refusal) if refusal.denial.status() == StatusCode::FORBIDDEN => {
            let revision = portal
                .active
                .load()
                .as_ref()
                .map_or_else(|| Arc::from(""), |a| Arc::clone(&a.revision.id));
            (engine::Answer::unloaded(), revision)
        }
        Err(refusal) => return Err(refusal),
    };
    Ok(rendered(&answer, denial, decision_id, (&portal.name, &revision)))
}

async fn decide(
    gate: &Gate,
    portal: &Portal,
    (envelope, ask): (&Envelope, &Ask),
    guard: &mut AuditGuard,
) -> Result<(engine::Answer, Arc<str>), Refusal> {
    let Some(active) = portal.active.load_full() else {
        return Ok((engine::Answer::unloaded(), Arc::from("")));
    };
    let revision = &active.revision;
    guard.record.revision = Some(Arc::clone(&revision.id));
    let (asker, caller) = asker(gate, (portal, &active), (envelope, ask)).await?;
    if let Some(caller) = &caller {
        guard.record.principal = Some(caller.entity.clone());
        guard.record.roles = Arc::clone(&caller.roles);
        guard.record.token = caller.token.clone();
    }
    guard.record.tenant = asker.identity().and_then(|i| i.tenant.as_deref()).map(Arc::from);
    let started = Instant::now();
    let tenant = portal.config.tenant.of_request(None);
    check_tenant(tenant, asker.identity())?;
    let place = Place {
        revision,
        portal: &portal.name,
        tenant,
    };
    let put = question::put(&place, ask, &asker, now_millis())?;
    let took = started.elapsed();
    guard.record.latency_us.decision = u64::try_from(took.as_micros()).ok();
    let schema = &revision.rules.schema;
    guard
        .record
        .principal
        .get_or_insert_with(|| entity_ref(&put.principal, schema));
    guard.record.action = Some(schema.action_text(&put.action));
    guard.record.resource = Some(entity_ref(&put.resource, schema));
    guard.record.context = put.context;
    if let Some(meter) = portal.meters.decision_duration.get(Door::Authorize as usize) {
        meter.observe(took.as_secs_f64());
    }
    portal.meters.errors(put.answer.errors.len());
    record_answer(&mut guard.record, &put.answer);
    Ok((put.answer, Arc::clone(&revision.id)))
}

/// Who asks: the named principal, or whoever the token or the header proves.
async fn asker(
    gate: &Gate,
    (portal, active): (&Portal, &Active),
    (envelope, ask): (&Envelope, &Ask),
) -> Result<(Asker, Option<Arc<Caller>>), Refusal> {
    let token = match (&ask.who, &envelope.bearer) {
        (Who::Principal(_), _) => return Ok((Asker::Named, None)),
        (Who::Token(token), _) => token.expose().as_str(),
        (Who::Header, Some(token)) => token.as_str(),
        (Who::Header, None) => {
            let found = gate.identity.session(&envelope.cookie).await?;
            let (_, session) = found.ok_or(Refusal::new(Denial::TokenMissing, "name a `principal`, or give a `token`"))?;
            return Ok(proven(gate.session_caller(portal, active, &session)?));
        }
    };
    if is_assertion(token) {
        let now = now_millis() / 1000;
        let returned = gate
            .assertions
            .verify(token, &portal.name, &portal.upstream.url.origin(), now)?;
        let identity = stands(gate, portal, returned)?;
        if portal.scope.issuer(&identity.issuer).is_none() {
            let detail = "the assertion's issuer is not trusted by this portal any more";
            return Err(Refusal::new(Denial::IssuerUnknown, detail));
        }
        let prefix = portal.scope.subject_prefix(&identity.issuer);
        let principal = active.revision.rules.principal(&identity, &prefix)?.party;
        return Ok((
            Asker::Proven {
                principal: Box::new(principal),
                identity: Box::new(identity),
            },
            None,
        ));
    }
    Ok(proven(gate.caller(portal, active, token).await?))
}

fn proven(caller: Arc<Caller>) -> (Asker, Option<Arc<Caller>>) {
    let (principal, identity) = (Box::new(caller.principal.party.clone()), Box::new(caller.identity.clone()));
    (Asker::Proven { principal, identity }, Some(caller))
}

/// The identity of an assertion that was handed back, if nothing of it was revoked since the gate stood by it.
fn stands(gate: &Gate, portal: &Portal, returned: Returned) -> Result<Identity, Refusal> {
    let Returned { identity, issued_at } = returned;
    let mut dated = identity.clone();
    Arc::make_mut(&mut dated.claims).insert("iat".to_owned(), json!(issued_at));
    gate.sessions.check_identity(&dated, &portal.name)?;
    Ok(identity)
}

fn invalid(detail: String) -> Refusal {
    Refusal::new(Denial::RequestInvalid, detail)
}

/// An answer as the app gets it.
#[derive(Debug, Serialize)]
pub struct Rendered {
    decision: &'static str,
    reason: &'static str,
    policies: Vec<Deciding>,
    errors: Vec<PolicyError>,
    #[serde(serialize_with = "text")]
    decision_id: Uuid,
    portal: Arc<str>,
    revision: Arc<str>,
}

/// A policy that decided.
#[derive(Debug)]
struct Deciding(Arc<PolicyInfo>);

impl Serialize for Deciding {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let annotations = Annotations(&self.0.annotations);
        let mut fields = to.serialize_struct("policy", 2)?;
        fields.serialize_field("id", &self.0.id)?;
        fields.serialize_field("annotations", &annotations)?;
        fields.end()
    }
}

fn text<S: Serializer>(id: &Uuid, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
}

struct Annotations<'a>(&'a [(String, String)]);

impl Serialize for Annotations<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

pub fn rendered(
    answer: &engine::Answer,
    denial: Option<Denial>,
    decision_id: Uuid,
    (portal, revision): (&Arc<str>, &Arc<str>),
) -> Rendered {
    Rendered {
        decision: if denial.is_none() { "allow" } else { "deny" },
        reason: denial.map_or("permitted", Denial::code),
        policies: answer.policies.iter().map(|p| Deciding(Arc::clone(p))).collect(),
        errors: policy_errors(answer),
        decision_id,
        portal: Arc::clone(portal),
        revision: Arc::clone(revision),
    }
}

fn json_response(body: &Answered, request_id: HeaderValue) -> Response<Body> {
    let (status, body) = match serde_json::to_vec(body) {
        Ok(body) => (StatusCode::OK, body),
        // texts, which JSON can say; but what could not be said must not look like an answer
        Err(_unsaid) => (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
    };
    let mut response = Response::new(Body::full(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-request-id", request_id);
    response
}
