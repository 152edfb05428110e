//! Spans of requests, exported over OTLP (http/protobuf) as the standard `OTEL_*` variables say. Off unless they ask for it.
//!
//! A request carries a `RequestSpan` only while traces are on and its trace is sampled. The steps note when they began and
//! ended; the spans are made when the request is over, or when its client went away. A bounded queue takes them, and a thread
//! of the OpenTelemetry library exports them in batches. With a full queue or a collector that fails, spans are lost and no
//! request waits.
//!
//! SECURITY: a span holds the route, the portal and the outcome, never a user, a header, a path or a query.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cedargate_policy::denial::Denial;
use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, Config as SdkConfig, SamplingDecision, ShouldSample, SpanData, SpanEvents, SpanLinks, SpanProcessor as _,
};
use smallvec::SmallVec;

use crate::base::clock;
use crate::base::outbound::blocking_client;
use crate::http::request::{Sampling, Trace};

/// Longest wait for the last spans when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// One export, from connecting to the answer, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Name of the service and of the scope.
const NAME: &str = "cedargate";
const SERVER_ERROR: u16 = 500;

/// Exports spans.
#[derive(Debug)]
pub struct Tracer {
    processor: BatchSpanProcessor,
    sampler: Box<dyn ShouldSample>,
    scope: InstrumentationScope,
}

/// A step of the path that has a span of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// A bearer token is verified.
    Verify,
    /// A session is found, and renewed if it is due.
    Session,
    /// The policies decide.
    Evaluate,
    /// The app answers.
    Upstream,
}

#[derive(Debug)]
struct Timed {
    step: Step,
    began: Instant,
    ended: Instant,
}

#[derive(Debug)]
struct Open {
    step: Step,
    began: Instant,
}

/// The facts of a finished request that its span shows.
#[derive(Clone, Debug)]
pub struct SpanFacts {
    pub method: http::Method,
    /// `None`: no route matched.
    pub route: Option<Arc<str>>,
    pub portal: Arc<str>,
    pub status: u16,
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
    facts: Option<SpanFacts>,
}

/// A variable of the environment; an empty one counts as absent.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A variable of the exporter: the one for traces, else the one for every signal.
fn exporter_variable(name: &str) -> Option<String> {
    variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}")).or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
}

/// True if the environment asks for traces; the log says why if it asks for what this gate does not do.
fn is_wanted() -> bool {
    let is_on = match variable("OTEL_TRACES_EXPORTER").as_deref() {
        Some("otlp") => true,
        Some("none") => false,
        Some(exporter) => {
            tracing::warn!(exporter, "traces are off: OTEL_TRACES_EXPORTER must be `otlp` or `none`");
            false
        }
        None => exporter_variable("ENDPOINT").is_some(),
    };
    if !is_on || variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return false;
    }
    let protocol = exporter_variable("PROTOCOL").filter(|protocol| protocol != "http/protobuf");
    if let Some(protocol) = &protocol {
        tracing::warn!(
            protocol,
            "traces are off: OTEL_EXPORTER_OTLP_PROTOCOL must be `http/protobuf`, usually at port 4318"
        );
    }
    protocol.is_none()
}

impl Tracer {
    /// The tracer that the environment asks for; `None`: traces are off, which is the default.
    pub fn from_environment() -> Option<Arc<Self>> {
        if !is_wanted() {
            return None;
        }
        match Self::new() {
            Ok(tracer) => {
                tracing::info!(endpoint = exporter_variable("ENDPOINT"), "traces are on");
                Some(Arc::new(tracer))
            }
            Err(why) => {
                tracing::error!(why, "traces are off: the exporter cannot be set up");
                None
            }
        }
    }

    fn new() -> Result<Self, String> {
        let ca_file = exporter_variable("CERTIFICATE").map(PathBuf::from);
        let timeout = exporter_variable("TIMEOUT").and_then(|millis| millis.parse().ok());
        let timeout = timeout.map_or(EXPORT_TIMEOUT, Duration::from_millis);
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(blocking_client(ca_file.as_deref(), timeout)?)
            .with_protocol(Protocol::HttpBinary)
            .build()
            .map_err(|error| error.to_string())?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource());
        Ok(Self {
            processor,
            // reads `OTEL_TRACES_SAMPLER` and its argument
            sampler: SdkConfig::default().sampler,
            scope: InstrumentationScope::builder(NAME)
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        })
    }

    /// Begins the span of a request, and writes into `trace` what the app receives. `None`: the trace is not sampled.
    pub fn begin(self: &Arc<Self>, headers: &HeaderMap, trace: &mut Trace) -> Option<Box<RequestSpan>> {
        let wish = match trace.parent {
            Some(_) => Sampling::Open,
            None => trace.continue_b3(headers),
        };
        let is_sampled = wish == Sampling::Open && self.is_sampled(trace);
        trace.flags = u8::from(is_sampled);
        if !is_sampled {
            return None;
        }
        let own = SpanId::from_bytes(trace.span_id);
        trace.span_id = random_id();
        Some(Box::new(RequestSpan {
            tracer: Arc::clone(self),
            trace_id: TraceId::from_bytes(trace.trace_id),
            own,
            parent: trace.parent.map(SpanId::from_bytes),
            upstream: SpanId::from_bytes(trace.span_id),
            began: Instant::now(),
            began_at: clock::now(),
            steps: SmallVec::new(),
            open: None,
            facts: None,
        }))
    }

    fn is_sampled(&self, trace: &Trace) -> bool {
        let trace_id = TraceId::from_bytes(trace.trace_id);
        let parent = trace.parent.map(|parent| {
            let flags = TraceFlags::new(trace.flags);
            let remote = SpanContext::new(trace_id, SpanId::from_bytes(parent), flags, true, TraceState::default());
            Context::new().with_remote_span_context(remote)
        });
        let sampled = self
            .sampler
            .should_sample(parent.as_ref(), trace_id, NAME, &SpanKind::Server, &[], &[]);
        sampled.decision == SamplingDecision::RecordAndSample
    }

    /// Exports what is queued, within a bounded time.
    pub fn flush(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::warn!(%error, "the last spans could not be exported");
        }
    }
}

/// The gate as the sender of spans: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, and its version.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let is_named = variable("OTEL_SERVICE_NAME").is_some()
        || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|attributes| attributes.contains("service.name="));
    let builder = Resource::builder().with_attribute(version);
    let builder = if is_named { builder } else { builder.with_service_name(NAME) };
    builder.build()
}

impl Step {
    const fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Session => "session",
            Self::Evaluate => "evaluate",
            Self::Upstream => "upstream",
        }
    }
}

impl RequestSpan {
    pub fn begin(&mut self, step: Step) {
        self.open = Some(Open {
            step,
            began: Instant::now(),
        });
    }

    /// Ends the step that began last.
    pub fn end(&mut self) {
        if let Some(Open { step, began }) = self.open.take() {
            self.add(step, began, Instant::now());
        }
    }

    pub fn add(&mut self, step: Step, began: Instant, ended: Instant) {
        self.steps.push(Timed { step, began, ended });
    }

    /// Completes the span; it is exported when it drops.
    pub fn finish(mut self: Box<Self>, facts: SpanFacts) {
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
            Step::Upstream => self.upstream,
            Step::Verify | Step::Session | Step::Evaluate => SpanId::from_bytes(random_id()),
        };
        let mut data = self.data(id, timed.step.name().to_owned(), timed.began, timed.ended);
        if timed.step == Step::Upstream {
            data.span_kind = SpanKind::Client;
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
                    data.status = Status::error(facts.reason());
                }
            }
        }
        data
    }
}

impl SpanFacts {
    fn reason(&self) -> &'static str {
        self.denial.map_or("permitted", Denial::code)
    }

    fn attributes(&self) -> Vec<KeyValue> {
        let decision = if self.denial.is_some() { "deny" } else { "allow" };
        let mut attributes = vec![
            KeyValue::new("http.request.method", self.method.to_string()),
            KeyValue::new("http.response.status_code", i64::from(self.status)),
            KeyValue::new("cedargate.portal", self.portal.to_string()),
            KeyValue::new("cedargate.decision", decision),
            KeyValue::new("cedargate.reason", self.reason()),
            KeyValue::new("cedargate.decision_id", self.decision_id.to_string()),
        ];
        let route = self.route.as_ref();
        attributes.extend(route.map(|route| KeyValue::new("http.route", route.to_string())));
        attributes
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        let ended = Instant::now();
        for timed in &self.steps {
            self.tracer.processor.on_end(self.step_data(timed));
        }
        // a step that began and did not end: it refused the request, or the client went away
        if let Some(Open { step, began }) = self.open.take() {
            let mut data = self.step_data(&Timed { step, began, ended });
            data.status = Status::error("not completed");
            self.tracer.processor.on_end(data);
        }
        self.tracer.processor.on_end(self.own_data(ended));
    }
}

/// An id for a span. A UUID of version 4 never begins with eight zero bytes.
fn random_id() -> [u8; 8] {
    let [id @ .., _, _, _, _, _, _, _, _] = uuid::Uuid::new_v4().into_bytes();
    id
}
