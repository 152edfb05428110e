//! The spans of one sampled request: what its steps note on the way, and what is exported when it is over.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use cedargate_policy::denial::Denial;
use cedargate_policy::types::Door;
use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks, SpanProcessor as _};
use smallvec::SmallVec;

use super::Tracer;
use crate::base::clock;
use crate::http::request::Trace;

const SERVER_ERROR: u16 = 500;

/// A step of the path that has a span of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SpanStep {
    /// A bearer token is verified.
    Verify,
    /// A session is found, and renewed if it is due.
    Session,
    /// The policies decide.
    Evaluate,
    /// A page of a search is found.
    Search,
    /// The app answers.
    Upstream,
}

#[derive(Debug)]
struct Timed {
    step: SpanStep,
    began: Instant,
    ended: Instant,
    end: End,
    /// The decision of an evaluation at a door that decides several.
    decision: Option<DecisionFacts>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Completed,
    /// It refused the request, or the client went away.
    NotCompleted,
}

#[derive(Debug)]
struct Open {
    step: SpanStep,
    began: Instant,
}

/// The decisions that a request noted.
#[derive(Debug)]
enum Noted {
    None,
    One(DecisionFacts),
    Several,
}

/// The facts of a finished request that its span shows.
#[derive(Clone, Debug)]
pub struct SpanFacts {
    pub method: http::Method,
    /// `None`: no route matched.
    pub route: Option<Arc<str>>,
    pub door: Door,
    pub status: u16,
    /// `None`: the request noted its decisions with `decided`.
    pub decision: Option<DecisionFacts>,
}

/// The facts of a decision that a span shows.
#[derive(Clone, Debug)]
pub struct DecisionFacts {
    pub portal: Arc<str>,
    pub denial: Option<Denial>,
    pub decision_id: uuid::Uuid,
}

/// One sampled request. Dropped before `finish`, it shows a client that went away.
#[derive(Debug)]
pub struct RequestSpan {
    tracer: Arc<Tracer>,
    trace_id: TraceId,
    own: SpanId,
    parent: Option<SpanId>,
    /// The app's parent.
    upstream: SpanId,
    began: Instant,
    began_at: SystemTime,
    steps: SmallVec<[Timed; 4]>,
    open: Option<Open>,
    noted: Noted,
    facts: Option<SpanFacts>,
}

impl SpanStep {
    const fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Session => "session",
            Self::Evaluate => "evaluate",
            Self::Search => "search",
            Self::Upstream => "upstream",
        }
    }
}

impl RequestSpan {
    /// Begins the span of `trace`, and gives the app another one as its parent.
    pub(super) fn new(tracer: &Arc<Tracer>, trace: &mut Trace) -> Self {
        let own = SpanId::from_bytes(trace.span_id);
        trace.span_id = random_id();
        Self {
            tracer: Arc::clone(tracer),
            trace_id: TraceId::from_bytes(trace.trace_id),
            own,
            parent: trace.parent.map(SpanId::from_bytes),
            upstream: SpanId::from_bytes(trace.span_id),
            began: Instant::now(),
            began_at: clock::now(),
            steps: SmallVec::new(),
            open: None,
            noted: Noted::None,
            facts: None,
        }
    }

    pub fn begin(&mut self, step: SpanStep) {
        self.close(End::NotCompleted);
        self.open = Some(Open {
            step,
            began: Instant::now(),
        });
    }

    /// Ends the step that began last.
    pub fn end(&mut self) {
        self.close(End::Completed);
    }

    fn close(&mut self, end: End) {
        if let Some(Open { step, began }) = self.open.take() {
            self.push(step, began, Instant::now(), end);
        }
    }

    pub fn add(&mut self, step: SpanStep, began: Instant, ended: Instant) {
        self.push(step, began, ended, End::Completed);
    }

    fn push(&mut self, step: SpanStep, began: Instant, ended: Instant, end: End) {
        self.steps.push(Timed {
            step,
            began,
            ended,
            end,
            decision: None,
        });
    }

    /// Notes a decision of a door that decides several: on the evaluation that ended last, if it has none yet, and on
    /// the request's own span if it stays the only one.
    pub fn decided(&mut self, facts: DecisionFacts) {
        self.close(End::NotCompleted);
        let last = self.steps.last_mut();
        if let Some(evaluation) = last.filter(|last| last.step == SpanStep::Evaluate && last.decision.is_none()) {
            evaluation.decision = Some(facts.clone());
        }
        self.noted = match self.noted {
            Noted::None => Noted::One(facts),
            Noted::One(_) | Noted::Several => Noted::Several,
        };
    }

    /// Completes the span; it is exported when it drops.
    pub fn finish(mut self: Box<Self>, mut facts: SpanFacts) {
        if let Noted::One(only) = &self.noted {
            facts.decision.get_or_insert_with(|| only.clone());
        }
        self.facts = Some(facts);
    }

    fn at(&self, instant: Instant) -> SystemTime {
        self.began_at + instant.saturating_duration_since(self.began)
    }

    fn data(&self, id: SpanId, name: String, began: Instant, ended: Instant) -> SpanData {
        SpanData {
            span_context: SpanContext::new(self.trace_id, id, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: self.own,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: self.at(began),
            end_time: self.at(ended),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.tracer.scope.clone(),
        }
    }

    fn step_data(&self, timed: &Timed) -> SpanData {
        let id = match timed.step {
            SpanStep::Upstream => self.upstream,
            SpanStep::Verify | SpanStep::Session | SpanStep::Evaluate | SpanStep::Search => SpanId::from_bytes(random_id()),
        };
        let mut data = self.data(id, timed.step.name().to_owned(), timed.began, timed.ended);
        if timed.step == SpanStep::Upstream {
            data.span_kind = SpanKind::Client;
        }
        if timed.end == End::NotCompleted {
            data.status = Status::error("not completed");
        }
        if let Some(decision) = &timed.decision {
            data.attributes = decision.attributes().into();
        }
        data
    }

    fn own_data(&self, ended: Instant) -> SpanData {
        let name = match &self.facts {
            None => "request".to_owned(),
            Some(SpanFacts { method, route: None, .. }) => method.to_string(),
            Some(SpanFacts {
                method,
                route: Some(route),
                ..
            }) => format!("{method} {route}"),
        };
        let mut data = self.data(self.own, name, self.began, ended);
        data.span_kind = SpanKind::Server;
        data.parent_span_id = self.parent.unwrap_or(SpanId::INVALID);
        data.parent_span_is_remote = self.parent.is_some();
        match &self.facts {
            None => data.status = Status::error("the client went away"),
            Some(facts) => {
                data.attributes = facts.attributes();
                if facts.status >= SERVER_ERROR {
                    let reason = facts.decision.as_ref().map_or("no decision", DecisionFacts::reason);
                    data.status = Status::error(reason);
                }
            }
        }
        data
    }
}

impl DecisionFacts {
    fn reason(&self) -> &'static str {
        self.denial.map_or("permitted", Denial::code)
    }

    fn attributes(&self) -> [KeyValue; 4] {
        let decision = if self.denial.is_some() { "deny" } else { "allow" };
        [
            KeyValue::new("cedargate.portal", self.portal.to_string()),
            KeyValue::new("cedargate.decision", decision),
            KeyValue::new("cedargate.reason", self.reason()),
            KeyValue::new("cedargate.decision_id", self.decision_id.to_string()),
        ]
    }
}

impl SpanFacts {
    fn attributes(&self) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new("http.request.method", self.method.to_string()),
            KeyValue::new("http.response.status_code", i64::from(self.status)),
            KeyValue::new("cedargate.door", self.door.as_str()),
        ];
        attributes.extend(self.decision.iter().flat_map(DecisionFacts::attributes));
        let route = self.route.as_ref();
        attributes.extend(route.map(|route| KeyValue::new("http.route", route.to_string())));
        attributes
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        self.close(End::NotCompleted);
        let ended = Instant::now();
        for timed in &self.steps {
            self.tracer.processor.on_end(self.step_data(timed));
        }
        self.tracer.processor.on_end(self.own_data(ended));
    }
}

/// An id for a span. A UUID of version 4 never begins with eight zero bytes.
fn random_id() -> [u8; 8] {
    let [id @ .., _, _, _, _, _, _, _, _] = uuid::Uuid::new_v4().into_bytes();
    id
}
