//! `POST /authorize` and `/authorize/batch`: a query of the app, on the decision listener.
//!
//! The query names the subject (a token, the gate's own assertion, or a principal that the app describes), action,
//! resource, context and entities. Every decision is a 200; a malformed query is a 400 that names the wrong member. In
//! a batch, an item that cannot be decided is denied with its reason, and the other items are decided. The app cannot
//! override the gate's own facts (portal, time, the credential's tenant).

mod answered;
pub mod body;
mod supplied;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cedargate_policy::decision::{self, Caller as DecisionCaller, Decision, Query, QueryForm};
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::engine::QueryEntity;
use cedargate_policy::principal::Principal;
use cedargate_policy::types::{Door, Identity, Redacted};
use http::header::COOKIE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::timeout;
use uuid::Uuid;

pub use self::answered::append as append_answer;
use self::body::{Ask, SubjectSource};
use self::supplied::supplied;
use crate::audit::{AuditGuard, AuditRecord, CallerRecord, NO_PORTAL};
use crate::authn::{PresentedToken, VerifiedAssertion, is_assertion};
use crate::base::clock::{unix_millis, unix_seconds};

use crate::gate::{
    ActivePortal, DeferredWork, Gate, ShadowQuery, asserted_entity, entity_ref, micros, note_nearest_permit, record_decision,
};
use crate::http::answer::{self, AnswerContext, Style};
use crate::http::credentials::{Authorization, bearer, check_listener_token, foreign_scheme, no_proofs_here};
use crate::http::request::{Correlation, Trace, check_head_size, correlation};
use crate::http::upstream::Body;
use crate::portals::{Caller, Portal};
use crate::traces::{DecisionFacts, RequestSpan, SpanFacts, SpanStep};

/// The only query of a body.
pub const PATH: &str = "/authorize";
/// The queries of a batch.
pub const BATCH_PATH: &str = "/authorize/batch";

/// The facts of one request to this door besides its body.
pub struct Envelope {
    door: Door,
    pub request_id: HeaderValue,
    trace: Trace,
    /// The caller's credential from the `Authorization` header.
    bearer: Option<String>,
    /// The caller's `Cookie` headers, if the app passes them on.
    cookie: HeaderMap,
    /// `None`: traces are off, or this one is not sampled. Written by this request's own steps, never across an await.
    span: RefCell<Option<Box<RequestSpan>>>,
}

/// A decided query.
pub struct Decided {
    pub decision: Decision,
    pub portal: Arc<str>,
    /// Empty if the portal has no revision.
    pub revision: Arc<str>,
}

/// The queries of one request.
enum BodyQueries {
    One(Box<Ask>),
    /// An item that cannot be read is refused alone.
    Batch(Vec<Result<Ask, Refusal>>),
}

/// Answers one query, or a batch; never fails. A caller must present one of `tokens`, unless the list is empty.
pub async fn handle(gate: &Gate, tokens: &[Redacted<String>], head: Parts, body: Incoming) -> Response<Body> {
    let decision_id = Uuid::now_v7();
    let mut envelope = Envelope::new(gate, Door::Authorize, &head.headers, decision_id);
    let outcome = match read(gate, tokens, &head, body, &mut envelope).await {
        Ok(asks) => respond(gate, &envelope, &asks, decision_id).await,
        Err(refusal) => Err(record_unreadable(gate, &envelope, refusal, decision_id)),
    };
    let request_id = envelope.request_id.clone();
    let response = match outcome {
        Ok(body) => answered::response(body, request_id),
        Err(refusal) => {
            let answer = AnswerContext::new(Style::Problem, decision_id, request_id, &gate.theme);
            answer::detailed_refusal_response(&refusal, &answer)
        }
    };
    envelope.finish_span(&head.method, route_of(&head), response.status());
    response
}

/// The endpoint of a request: its path is one of the two.
fn route_of(head: &Parts) -> &'static str {
    match head.uri.path() {
        BATCH_PATH => BATCH_PATH,
        _ => PATH,
    }
}

/// Reads credential and queries of a request, without deciding.
async fn read(
    gate: &Gate,
    tokens: &[Redacted<String>],
    head: &Parts,
    body: Incoming,
    envelope: &mut Envelope,
) -> Result<BodyQueries, Refusal> {
    check_head_size(head, &gate.config.limits)?;
    envelope.bearer = credential(&head.headers, tokens)?;
    for value in head.headers.get_all(COOKIE) {
        envelope.cookie.append(COOKIE, value.clone());
    }
    let batch = route_of(head) == BATCH_PATH;
    let bytes = read_body(gate, body).await?;
    if batch {
        return Ask::batch_from_body(&bytes, gate.config.limits.batch.as_usize()).map(BodyQueries::Batch);
    }
    Ok(BodyQueries::One(Box::new(Ask::from_body(&bytes)?)))
}

/// Reads the body of a question, within its limits.
pub async fn read_body(gate: &Gate, body: Incoming) -> Result<Bytes, Refusal> {
    let limits = &gate.config.limits;
    let max = limits.decision_body_bytes.as_usize();
    let bytes = timeout(limits.header_timeout.get(), Limited::new(body, max).collect()).await;
    let bytes = bytes.map_err(|_elapsed| invalid("the body did not come within `limits.header_timeout`".to_owned()))?;
    let bytes = bytes.map_err(|_why| Refusal {
        detail: format!("the body is larger than {max} bytes (`limits.decision_body_bytes`)").into(),
        ..Refusal::over_limit(Denial::RequestTooLarge, "limits.decision_body_bytes")
    })?;
    Ok(bytes.to_bytes())
}

/// Decides every query and returns the JSON of the answer. The only query is decided under `decision_id`; each item of
/// a batch has an id of its own.
async fn respond(gate: &Gate, envelope: &Envelope, asks: &BodyQueries, decision_id: Uuid) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::new();
    match asks {
        BodyQueries::One(ask) => decide_one(gate, envelope, ask, decision_id, &mut out).await?,
        BodyQueries::Batch(items) => {
            out.extend_from_slice(b"{\"decisions\":[");
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                decide_item(gate, envelope, item, &mut out).await;
            }
            out.extend_from_slice(b"]}");
        }
    }
    Ok(out)
}

/// Decides one item of a batch; an item without a decision is denied, and says why.
async fn decide_item(gate: &Gate, envelope: &Envelope, item: &Result<Ask, Refusal>, out: &mut Vec<u8>) {
    let decision_id = Uuid::now_v7();
    match item {
        Ok(ask) => {
            if let Err(refusal) = decide_one(gate, envelope, ask, decision_id, out).await {
                answered::append_undecided(out, &refusal.at(&ask.place()), decision_id, &ask.portal);
            }
        }
        Err(refusal) => {
            let refusal = record_unreadable(gate, envelope, refusal.clone(), decision_id);
            answered::append_undecided(out, &refusal, decision_id, "");
        }
    }
}

/// Records a request without a readable query.
pub fn record_unreadable(gate: &Gate, envelope: &Envelope, refusal: Refusal, decision_id: Uuid) -> Refusal {
    match gate.audit.admit() {
        Err(full) => full,
        Ok(slot) => {
            let record = envelope.record(decision_id);
            let mut guard = gate.audit.guard(slot, record);
            guard.record.limit = refusal.limit;
            guard.denied(refusal.denial);
            gate.count_without_portal(envelope.door, Some(refusal.denial));
            envelope.decided(None, Some(refusal.denial), decision_id);
            refusal
        }
    }
}

impl Envelope {
    /// The facts of a request without a credential of a caller.
    pub fn new(gate: &Gate, door: Door, headers: &HeaderMap, decision_id: Uuid) -> Self {
        let Correlation { request_id, mut trace } = correlation(headers, decision_id);
        let span = gate.begin_span(headers, &mut trace);
        Self {
            door,
            request_id,
            trace,
            bearer: None,
            cookie: HeaderMap::new(),
            span: RefCell::new(span),
        }
    }

    fn with_span(&self, note: impl FnOnce(&mut RequestSpan)) {
        if let Some(span) = self.span.borrow_mut().as_mut() {
            note(span);
        }
    }

    /// Begins the span of a step; it ends with `end_step`, or as not completed.
    pub fn begin_step(&self, step: SpanStep) {
        self.with_span(|span| span.begin(step));
    }

    pub fn end_step(&self) {
        self.with_span(RequestSpan::end);
    }

    /// Notes a decision on the request's span.
    pub fn decided(&self, portal: Option<&Arc<str>>, denial: Option<Denial>, decision_id: Uuid) {
        self.with_span(|span| {
            span.decided(DecisionFacts {
                portal: portal.map_or_else(|| Arc::from(NO_PORTAL), Arc::clone),
                denial,
                decision_id,
            });
        });
    }

    /// Exports the request's spans.
    pub fn finish_span(&self, method: &Method, route: &'static str, status: StatusCode) {
        if let Some(span) = self.span.take() {
            span.finish(SpanFacts {
                method: method.clone(),
                route: Some(Arc::from(route)),
                door: self.door,
                status: status.as_u16(),
                decision: None,
            });
        }
    }

    pub fn record(&self, decision_id: Uuid) -> AuditRecord {
        let mut record = AuditRecord::new(decision_id, self.door);
        record.request_id = Some(self.request_id.clone());
        record.trace_id = Some(self.trace.trace_id);
        record
    }
}

/// Off loopback the `Authorization` header is the listener's own token; otherwise it is the caller's credential.
fn credential(headers: &HeaderMap, tokens: &[Redacted<String>]) -> Result<Option<String>, Refusal> {
    if tokens.is_empty() {
        return Ok(match Authorization::of(headers)? {
            Authorization::Bearer(token) => Some(token.to_owned()),
            // an app may pass its own credential on beside the session cookie
            Authorization::Foreign if headers.contains_key(COOKIE) => None,
            Authorization::Foreign => return Err(foreign_scheme()),
            Authorization::Dpop(_) => return Err(no_proofs_here()),
            Authorization::Absent => None,
        });
    }
    let presented = bearer(headers)?.ok_or(Refusal::new(Denial::TokenMissing, "this listener needs one of its tokens"))?;
    check_listener_token(tokens, presented)?;
    Ok(None)
}

/// Decides one query, and appends its answer to `out`. `Err`, and nothing appended, if there is no decision: the query
/// cannot be evaluated, or the caller's credential is not valid.
async fn decide_one(gate: &Gate, envelope: &Envelope, ask: &Ask, decision_id: Uuid, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let decided = decide_ask(gate, envelope, ask, decision_id).await?;
    match decided.decision.unevaluated() {
        Some(refusal) if refusal.denial.status() != StatusCode::FORBIDDEN => return Err(refusal.clone()),
        _ => {}
    }
    answered::append(out, &decided.decision, decision_id, &decided.portal, &decided.revision);
    Ok(())
}

/// Decides one query and sends its record. `Err` without a portal, and if the record has no place.
pub async fn decide_ask(gate: &Gate, envelope: &Envelope, ask: &Ask, decision_id: Uuid) -> Result<Decided, Refusal> {
    let portal = gate.portals.load().named(&ask.portal).cloned();
    let slot = gate.audit.admit()?;
    let Some(portal) = portal else {
        // an unknown name from the app must not become a metric label
        let record = envelope.record(decision_id);
        gate.audit.guard(slot, record).denied(Denial::PortalUnknown);
        gate.count_without_portal(envelope.door, Some(Denial::PortalUnknown));
        envelope.decided(None, Some(Denial::PortalUnknown), decision_id);
        return Err(Refusal::new(
            Denial::PortalUnknown,
            format!("there is no portal `{}`", ask.portal),
        ));
    };
    let mut record = envelope.record(decision_id);
    record.portal = Some(Arc::clone(&portal.name));
    let mut guard = gate.audit.guard(slot, record);
    let started = Instant::now();
    let active = portal.active.load_full();
    let Evaluated { decision, afterwards } = match &active {
        None => Decision::unloaded().into(),
        Some(active) => {
            let active_portal = ActivePortal { portal: &portal, active };
            let decided = decide(gate, active_portal, envelope, ask, &mut guard).await;
            decided.unwrap_or_else(|refusal| Decision::refused(refusal).into())
        }
    };
    guard.record.latency_us.total = micros(started.elapsed());
    let denial = decision.denial();
    portal.meters.count(envelope.door, denial);
    envelope.decided(Some(&portal.name), denial, decision_id);
    match denial {
        Some(denial) => match decision.unevaluated() {
            Some(refusal) => guard.refused(refusal),
            None => guard.denied(denial),
        },
        None => guard.permitted(),
    }
    gate.shadows.finish(afterwards, guard);
    Ok(Decided {
        decision,
        revision: active.map_or_else(|| Arc::from(""), |active| Arc::clone(&active.revision.id)),
        portal: Arc::clone(&portal.name),
    })
}

/// `Err` if the caller's credential is not valid.
async fn decide(
    gate: &Gate,
    active_portal: ActivePortal<'_>,
    envelope: &Envelope,
    ask: &Ask,
    guard: &mut AuditGuard,
) -> Result<Evaluated, Refusal> {
    let revision = &active_portal.active.revision;
    guard.record.revision = Some(Arc::clone(&revision.id));
    guard.record.facts = Some(Arc::clone(&revision.facts));
    let subject = subject(gate, active_portal, envelope, ask).await?;
    match &subject {
        Subject::Named => {}
        Subject::Caller(caller) => guard.record.caller = Some(Arc::clone(&caller.record)),
        Subject::Asserted(asserted) => guard.record.caller = Some(Arc::new(asserted.record(active_portal)?)),
    }
    let caller = subject.for_decision();
    let started = Instant::now();
    let now_millis = unix_millis();
    let mut decision = decision::decide(&query(active_portal, ask, now_millis), caller);
    if decision.target.is_some() {
        let took = started.elapsed();
        envelope.with_span(|span| span.add(SpanStep::Evaluate, started, started + took));
        guard.record.latency_us.decision = Some(micros(took));
        let principal = decision
            .named_principal
            .as_ref()
            .or(subject.entity())
            .map(|entity| &entity.uid);
        if let Some(principal) = principal.filter(|_| guard.record.caller.is_none()) {
            guard.record.principal = Some(entity_ref(principal, revision));
        }
        if let Some(meter) = active_portal.portal.meters.decision_duration.get(envelope.door as usize) {
            meter.observe(took.as_secs_f64());
        }
        active_portal.portal.meters.errors(decision.errors().len());
        record_decision(&mut guard.record, &decision, revision);
        guard.record.context = decision.context.take();
        let bytes_max = gate.config.audit.supplied_bytes.as_usize();
        guard.record.supplied = Some(supplied(ask, bytes_max));
    }
    let nearest_permit = decision
        .named_principal
        .as_ref()
        .or(subject.entity())
        .and_then(|principal| note_nearest_permit(&mut guard.record, &decision, principal, active_portal.active));
    let shadow = shadow(gate, active_portal, ask, subject, now_millis, decision.denial());
    let afterwards = DeferredWork { shadow, nearest_permit };
    Ok(Evaluated { decision, afterwards })
}

/// A decision, and what is done when the answer is on its way.
struct Evaluated {
    decision: Decision,
    afterwards: DeferredWork,
}

impl From<Decision> for Evaluated {
    fn from(decision: Decision) -> Self {
        Self {
            decision,
            afterwards: DeferredWork::default(),
        }
    }
}

fn query<'a>(active_portal: ActivePortal<'a>, ask: &'a Ask, now_millis: i64) -> Query<'a> {
    Query {
        portal: &active_portal.portal.scope,
        revision: &active_portal.active.revision,
        now_millis,
        asked: QueryForm::Named(ask.query()),
    }
}

/// The same query for the portal's candidate set, if it has one. `enforced` is the denial of the revision in force.
fn shadow(
    gate: &Gate,
    active_portal: ActivePortal<'_>,
    ask: &Ask,
    subject: Subject,
    now_millis: i64,
    enforced: Option<Denial>,
) -> Option<Box<ShadowQuery>> {
    let candidate = gate.shadows.candidate(active_portal.portal)?;
    let ask = ask.clone();
    let decide = move |active_portal: ActivePortal<'_>| {
        let query = query(active_portal, &ask, now_millis);
        query.decide_anew(subject.identity()).denial()
    };
    Some(ShadowQuery::new(active_portal.portal, candidate, enforced, decide))
}

/// The principal of a query, named by the body or proved by a credential.
enum Subject {
    /// The body names it.
    Named,
    /// A token or a session proved it.
    Caller(Arc<Caller>),
    /// The gate's own assertion proved it.
    Asserted(Box<Asserted>),
}

/// The identity that an assertion carries, and its principal in the revision in force.
struct Asserted {
    identity: Identity,
    principal: Principal,
}

impl Asserted {
    /// The caller as records show it. The assertion is the gate's own, so the record names no token.
    fn record(&self, active_portal: ActivePortal<'_>) -> Result<CallerRecord, Refusal> {
        let entity = asserted_entity(&self.principal, &active_portal.active.revision, &self.identity)?;
        Ok(CallerRecord::new(entity, &self.identity, None))
    }
}

impl Subject {
    fn for_decision(&self) -> DecisionCaller<'_> {
        match self {
            Self::Named => DecisionCaller::Anonymous,
            Self::Caller(caller) => Caller::for_decision(Some(caller)),
            Self::Asserted(asserted) => DecisionCaller::Proven {
                identity: &asserted.identity,
                principal: &asserted.principal,
            },
        }
    }

    fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Named => None,
            Self::Caller(caller) => Some(&caller.proven.identity),
            Self::Asserted(asserted) => Some(&asserted.identity),
        }
    }

    /// The principal that a credential proved.
    fn entity(&self) -> Option<&QueryEntity> {
        match self {
            Self::Named => None,
            Self::Caller(caller) => Some(&caller.principal.entity),
            Self::Asserted(asserted) => Some(&asserted.principal.entity),
        }
    }
}

async fn subject(gate: &Gate, active_portal: ActivePortal<'_>, envelope: &Envelope, ask: &Ask) -> Result<Subject, Refusal> {
    let portal = active_portal.portal;
    let token = match (&ask.subject, &envelope.bearer) {
        (SubjectSource::Principal(_), _) => return Ok(Subject::Named),
        (SubjectSource::Token(token), _) => token.expose().as_str(),
        (SubjectSource::Header, Some(token)) => token.as_str(),
        (SubjectSource::Header, None) => {
            envelope.begin_step(SpanStep::Session);
            let presented = gate.presented_session(portal, &envelope.cookie).await?;
            envelope.end_step();
            let presented = presented.ok_or(Refusal::new(Denial::TokenMissing, "name a `principal`, or give a `token`"))?;
            return Ok(Subject::Caller(gate.session_caller(active_portal, &presented.session)?));
        }
    };
    envelope.begin_step(SpanStep::Verify);
    let proven = proven(gate, active_portal, token).await?;
    envelope.end_step();
    Ok(proven)
}

/// The subject that a token, or the gate's own assertion, proves.
async fn proven(gate: &Gate, active_portal: ActivePortal<'_>, token: &str) -> Result<Subject, Refusal> {
    let portal = active_portal.portal;
    if !is_assertion(token) {
        return Ok(Subject::Caller(
            gate.caller(active_portal, PresentedToken::bearer(token)).await?,
        ));
    }
    let audience = portal.upstream.url.origin();
    let returned = gate.assertions.verify(token, &portal.name, &audience, unix_seconds())?;
    let identity = check_asserted(gate, portal, returned)?;
    if portal.scope.issuer(&identity.issuer).is_none() {
        let detail = "the assertion's issuer is not trusted by this portal any more";
        return Err(Refusal::new(Denial::IssuerUnknown, detail));
    }
    let principal = active_portal.active.revision.principal(&portal.scope, &identity)?;
    Ok(Subject::Asserted(Box::new(Asserted { identity, principal })))
}

/// The identity of an assertion that the app handed back; an error if a revocation since its issue covers it.
fn check_asserted(gate: &Gate, portal: &Portal, returned: VerifiedAssertion) -> Result<Identity, Refusal> {
    let VerifiedAssertion { identity, issued_at } = returned;
    let mut dated = identity.clone();
    Arc::make_mut(&mut dated.claims).insert("iat".to_owned(), json!(issued_at));
    gate.sessions.check_identity(&dated, &portal.name)?;
    Ok(identity)
}

fn invalid(detail: String) -> Refusal {
    Refusal::new(Denial::RequestInvalid, detail)
}
