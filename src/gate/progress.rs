//! What a request has turned out to be so far: for its record, its metrics, and how it is answered.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Uri};
use uuid::Uuid;

use super::credential::Cookie;
use crate::audit::{AuditGuard, AuditRecord, EntityRef, PolicyError, Seen};
use crate::authz::RecordedContext;
use crate::authz::context::Facts;
use crate::authz::schema::SchemaModel;
use crate::authz::{Target, engine};
use crate::http::request::Trace;
use crate::portal::path::CanonicalPath;
use crate::portals::{Active, Caller, Portal};
use crate::types::Door;

/// What a request has turned out to be so far, for the record and the metrics.
pub(super) struct Progress {
    pub started: Instant,
    pub decision_id: Uuid,
    pub request_id: HeaderValue,
    pub trace: Trace,
    pub record: AuditGuard,
    pub portal: Option<Arc<Portal>>,
    pub active: Option<Arc<Active>>,
    pub origin: Option<HeaderValue>,
    pub upstream_started: Option<Instant>,
    pub gate_ended: Option<Instant>,
    /// Unix milliseconds.
    pub asked_at: i64,
    /// Where a navigation wants to go.
    pub navigation: Option<Uri>,
    pub cookie: Cookie,
    /// The path is the gate's own.
    pub is_own: bool,
}

impl Progress {
    pub fn asked_with(&mut self, method: &http::Method) {
        if let Some(http) = &mut self.record.record.http
            && http.method != *method
        {
            http.method = method.clone();
        }
    }

    pub fn from(&mut self, client: std::net::IpAddr) {
        if let Some(http) = &mut self.record.record.http {
            http.client = Some(client);
        }
    }

    pub fn canonical(&mut self, path: &CanonicalPath) {
        if let Some(http) = &mut self.record.record.http {
            path.as_str().clone_into(&mut http.path);
        }
    }

    pub fn in_portal(&mut self, portal: &Arc<Portal>) {
        self.record.record.portal = Arc::clone(&portal.name);
        self.portal = Some(Arc::clone(portal));
    }

    pub fn under(&mut self, active: &Arc<Active>) {
        self.active = Some(Arc::clone(active));
        self.record.record.revision = Some(Arc::clone(&active.revision.id));
    }

    pub fn authenticated(&mut self, caller: Option<&Caller>) {
        self.record.record.latency_us.authn = Some(micros(self.started.elapsed()));
        let Some(caller) = caller else { return };
        let record = &mut self.record.record;
        record.principal = Some(caller.entity.clone());
        record.roles = Arc::clone(&caller.roles);
        record.tenant = caller.identity.tenant.as_deref().map(Arc::from);
        record.token = caller.token.clone();
    }

    pub fn asks(&mut self, target: &Target, active: &Active) {
        let record = &mut self.record.record;
        let schema = &active.revision.rules.schema;
        record.action = Some(schema.action_text(&target.action));
        record.resource = Some(entity_ref(&target.resource.uid, schema));
        if let Some(http) = &mut record.http {
            http.route.clone_from(&target.route);
        }
    }

    pub fn decided(&mut self, portal: &Portal, started: Instant, answer: Option<&engine::Answer>) {
        let took = started.elapsed();
        self.record.record.latency_us.decision = Some(micros(took));
        if let Some(meter) = portal.meters.decision_duration.get(Door::Proxy as usize) {
            meter.observe(took.as_secs_f64());
        }
        let Some(answer) = answer else { return };
        record_answer(&mut self.record.record, answer);
        portal.meters.errors(answer.errors.len());
        if answer.denial().is_none() {
            self.record.permitted();
        }
    }

    pub fn in_context(&mut self, active: &Active, target: &Target, facts: &Facts<'_>) {
        let plan = active.revision.rules.plans.get(&target.action);
        let context = plan.and_then(|plan| RecordedContext::new(plan, facts).ok());
        self.record.record.context = context.map(|context| Seen::Facts(Box::new(context)));
    }
}

/// The reasons of an answer, for the record.
pub fn record_answer(record: &mut AuditRecord, answer: &engine::Answer) {
    record.policies = answer.policies.iter().map(|p| Arc::clone(&p.id)).collect();
    record.errors = policy_errors(answer);
}

/// The policies that failed, as records and answers show them.
pub fn policy_errors(answer: &engine::Answer) -> Vec<PolicyError> {
    let errors = answer.errors.iter().map(|e| PolicyError {
        policy: Arc::clone(&e.policy),
        message: e.message.clone(),
    });
    errors.collect()
}

pub fn entity_ref(uid: &cedar_policy::EntityUid, schema: &SchemaModel) -> EntityRef {
    EntityRef {
        kind: schema.type_text(uid.type_name()),
        id: Arc::from(uid.id().unescaped()),
        attrs: None,
        parents: Vec::new(),
    }
}

pub(super) fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
