//! The progress of one request: facts for its record, its metrics and its answer, set as they become known.

use std::sync::Arc;
use std::time::Instant;

use cedargate_policy::decision::Decision;
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::engine::QueryEntity;
use cedargate_policy::engine::nearest_permit::NearestPermit;
use cedargate_policy::portal::path::CanonicalPath;
use cedargate_policy::revision::Revision;
use cedargate_policy::types::Door;
use http::{HeaderValue, StatusCode, Uri};
use uuid::Uuid;

use super::authenticate::Cookie;
use super::{ActivePortal, DeferredWork, EnteredPortal, NearestPermitQuery, RequestHead};
use crate::audit::{AuditGuard, AuditRecord, EntityRef, NO_PORTAL, PolicyError};
use crate::http::request::{ClientFacts, Correlation, Trace};
use crate::portals::{ActiveRevision, Caller, Portal};
use crate::traces::{DecisionFacts, RequestSpan, SpanFacts, SpanStep};

/// The facts of one request that are known so far.
pub(super) struct Progress {
    pub door: Door,
    pub started: Instant,
    pub decision_id: Uuid,
    pub request_id: HeaderValue,
    pub trace: Trace,
    pub record: AuditGuard,
    /// `None`: traces are off, or this one is not sampled.
    pub span: Option<Box<RequestSpan>>,
    pub portal: Option<Arc<Portal>>,
    pub active: Option<Arc<ActiveRevision>>,
    pub origin: Option<HeaderValue>,
    pub upstream_started: Option<Instant>,
    pub gate_ended: Option<Instant>,
    /// Unix milliseconds: the `now` of the decision.
    pub decided_at: i64,
    /// `None`: no person sees the answer.
    pub visit: Option<Box<Visit>>,
    pub cookie: Cookie,
    /// A nonce for the client's next DPoP proofs.
    pub next_nonce: Option<HeaderValue>,
    /// What is done when the answer is on its way.
    pub afterwards: DeferredWork,
    /// True if the path belongs to the gate and not to a portal.
    pub is_gate_endpoint: bool,
}

/// A navigation, whose answer a person sees.
pub(super) struct Visit {
    /// The target; `None` for the POST of a form, to which no redirect leads back.
    pub target: Option<Uri>,
    /// The requested host; empty before the head is checked.
    pub host: String,
    /// True if the browser comes from a logout at a provider.
    pub is_after_logout: bool,
    /// The browser's count of logins that did not help.
    pub logins: u32,
    /// True if the session lets the user in here.
    pub is_let_in: bool,
}

impl Progress {
    /// The progress of a request of which only the ids are known; the rest is filled on the way.
    pub fn begin(
        door: Door,
        decision_id: Uuid,
        Correlation { request_id, trace }: Correlation,
        decided_at: i64,
        record: AuditGuard,
    ) -> Self {
        Self {
            door,
            started: Instant::now(),
            decision_id,
            request_id,
            trace,
            record,
            span: None,
            portal: None,
            active: None,
            origin: None,
            upstream_started: None,
            gate_ended: None,
            decided_at,
            visit: None,
            cookie: Cookie::Absent,
            next_nonce: None,
            afterwards: DeferredWork::default(),
            is_gate_endpoint: false,
        }
    }

    /// The target of a navigation that a redirect can lead back to.
    pub fn navigation(&self) -> Option<&Uri> {
        self.visit.as_ref()?.target.as_ref()
    }

    /// Begins the span of a step; it ends with `end_step`, or with the request as not completed.
    pub fn begin_step(&mut self, step: SpanStep) {
        if let Some(span) = &mut self.span {
            span.begin(step);
        }
    }

    pub fn end_step(&mut self) {
        if let Some(span) = &mut self.span {
            span.end();
        }
    }

    /// Exports the request's spans.
    pub fn finish_span(&self, mut span: Box<RequestSpan>, status: StatusCode, denial: Option<Denial>, ended: Instant) {
        if let Some(began) = self.upstream_started {
            span.add(SpanStep::Upstream, began, ended);
        }
        let http = self.record.record.http.as_ref();
        let portal = self.portal.as_ref();
        span.finish(SpanFacts {
            method: http.map(|http| http.method.clone()).unwrap_or_default(),
            route: http.and_then(|http| http.route.as_deref()).map(Arc::from),
            door: self.door,
            status: status.as_u16(),
            decision: Some(DecisionFacts {
                portal: portal.map_or_else(|| Arc::from(NO_PORTAL), |portal| Arc::clone(&portal.name)),
                denial,
                decision_id: self.decision_id,
            }),
        });
    }

    pub fn set_method(&mut self, method: &http::Method) {
        if let Some(http) = &mut self.record.record.http
            && http.method != *method
        {
            http.method = method.clone();
        }
    }

    pub fn set_client(&mut self, client: &ClientFacts) {
        if let Some(http) = &mut self.record.record.http {
            http.client = Some(client.source_ip);
        }
        if let Some(visit) = &mut self.visit {
            visit.host.clone_from(&client.host);
        }
    }

    pub fn set_path(&mut self, path: &CanonicalPath) {
        if let Some(http) = &mut self.record.record.http {
            path.as_str().clone_into(&mut http.path);
        }
    }

    /// Begins the part of a request that belongs to a portal. `rate`: the answer to whether the client's address may
    /// ask, which is refused only here, because the answer needs the portal's CORS headers.
    pub fn enter(
        &mut self,
        portal: &Arc<Portal>,
        head: &mut RequestHead,
        rate: Result<(), Refusal>,
    ) -> Result<EnteredPortal, Refusal> {
        self.set_portal(portal);
        let active = portal.active_revision()?;
        self.set_revision(&active);
        rate?;
        // also for a preflight that the gate answers; the decision reads the path again
        active.revision.file.paths.read(&head.path)?;
        // before `sanitize`, which removes the headers that hold tokens
        let token = portal.token_sources.take(&mut head.parts.headers)?;
        Ok(EnteredPortal { active, token })
    }

    fn set_portal(&mut self, portal: &Arc<Portal>) {
        self.record.record.portal = Some(Arc::clone(&portal.name));
        self.portal = Some(Arc::clone(portal));
    }

    fn set_revision(&mut self, active: &Arc<ActiveRevision>) {
        self.active = Some(Arc::clone(active));
        self.record.record.revision = Some(Arc::clone(&active.revision.id));
        self.record.record.facts = Some(Arc::clone(&active.revision.facts));
    }

    pub fn set_caller(&mut self, caller: Option<&Caller>) {
        let record = &mut self.record.record;
        record.latency_us.authn = Some(micros(self.started.elapsed()));
        record.caller = caller.map(|caller| Arc::clone(&caller.record));
    }

    /// Records the duration of the decision, unless the query ended before action and resource were known.
    pub fn set_duration(&mut self, portal: &Portal, started: Instant, decision: &Decision) {
        if decision.target.is_none() {
            return;
        }
        let took = started.elapsed();
        if let Some(span) = &mut self.span {
            span.add(SpanStep::Evaluate, started, started + took);
        }
        self.record.record.latency_us.decision = Some(micros(took));
        if let Some(meter) = portal.meters.decision_duration.get(self.door as usize) {
            meter.observe(took.as_secs_f64());
        }
    }

    pub fn set_decision(&mut self, active_portal: ActivePortal<'_>, decision: &Decision) {
        let record = &mut self.record.record;
        record_decision(record, decision, &active_portal.active.revision);
        if let (Some(http), Some(target)) = (&mut record.http, &decision.target) {
            http.route.clone_from(&target.route);
        }
        active_portal.portal.meters.errors(decision.errors().len());
    }

    pub fn set_context(&mut self, decision: &mut Decision) {
        self.record.record.context = decision.context.take();
    }
}

/// Action, resource and reasons of a decision, for the record.
pub fn record_decision(record: &mut AuditRecord, decision: &Decision, revision: &Revision) {
    let schema = &revision.rules.schema;
    if let Some(target) = &decision.target {
        record.action = Some(schema.action_text(&target.action));
        record.resource = Some(entity_ref(&target.resource.uid, revision));
    }
    record.policies = decision.policies().iter().map(|p| Arc::clone(&p.id)).collect();
    record.errors = policy_errors(decision);
}

/// Notes the nearest permit of a decision that no policy permits, or what is needed to find it.
pub fn note_nearest_permit(
    record: &mut AuditRecord,
    decision: &Decision,
    principal: &QueryEntity,
    active: &Arc<ActiveRevision>,
) -> Option<Box<NearestPermitQuery>> {
    let target = decision.target.as_ref()?;
    if decision.denial() != Some(Denial::NotPermitted) || !decision.is_evaluated() {
        return None;
    }
    match active
        .revision
        .rules
        .engine
        .nearest_permit(principal, &target.action, &target.resource)
    {
        NearestPermit::Known(policy) => {
            record.near = policy.map(|policy| Arc::clone(&policy.id));
            None
        }
        NearestPermit::Unknown(key) => Some(Box::new(NearestPermitQuery {
            active: Arc::clone(active),
            key,
        })),
    }
}

/// The policies that failed, as records show them.
fn policy_errors(decision: &Decision) -> Vec<PolicyError> {
    let errors = decision.errors().iter().map(|e| PolicyError {
        policy: Arc::clone(&e.policy),
        message: e.message.clone(),
    });
    errors.collect()
}

/// An entity by name, for the record.
pub fn entity_ref(uid: &cedar_policy::EntityUid, revision: &Revision) -> EntityRef {
    EntityRef {
        kind: revision.rules.schema.type_text(uid.type_name()),
        id: uid.id().clone(),
        attrs: None,
        parents: Vec::new(),
    }
}

pub fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
