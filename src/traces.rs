//! Spans of requests, exported over OTLP as the standard `OTEL_*` variables say. Off unless they ask for it.
//!
//! A request carries a `RequestSpan` only while traces are on and its trace is sampled. The steps note when they began
//! and ended; the spans are made when the request is over, or when its client went away. A bounded queue takes them,
//! and a thread of the OpenTelemetry library exports them in batches. With a full queue or a collector that fails,
//! spans are lost and no request waits.
//!
//! SECURITY: a span holds the route, the portal and the outcome, never a user, a header, a path or a query.

mod export;
mod span;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Config as SdkConfig, SamplingDecision, ShouldSample, SpanProcessor as _};

use self::export::{Connection, Export, Transport, exporter_variable, variable};
pub use self::span::{DecisionFacts, RequestSpan, SpanFacts, SpanStep};
use crate::http::request::{Sampling, Trace};

/// Longest wait for the last spans when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// Name of the service and of the scope.
const NAME: &str = "cedargate";

/// Exports spans.
#[derive(Debug)]
pub struct Tracer {
    processor: BatchSpanProcessor,
    sampler: Box<dyn ShouldSample>,
    scope: InstrumentationScope,
    /// Driven as long as the processor exports over it.
    _connection: Option<Connection>,
}

/// The transport to the collector if the environment asks for traces; the log says why if it asks for what this gate
/// does not do.
fn wanted() -> Option<Transport> {
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
        return None;
    }
    match Transport::from_environment() {
        Ok(transport) => Some(transport),
        Err(protocol) => {
            tracing::warn!(
                protocol,
                "traces are off: OTEL_EXPORTER_OTLP_PROTOCOL must be `http/protobuf` (usually at port 4318) or `grpc` (4317)"
            );
            None
        }
    }
}

impl Tracer {
    /// The tracer that the environment asks for; `None`: traces are off, which is the default.
    pub fn from_environment() -> Option<Arc<Self>> {
        let transport = wanted()?;
        match Self::new(transport) {
            Ok(tracer) => {
                tracing::info!(endpoint = exporter_variable("ENDPOINT"), ?transport, "traces are on");
                Some(Arc::new(tracer))
            }
            Err(why) => {
                tracing::error!(why, "traces are off: the exporter cannot be set up");
                None
            }
        }
    }

    fn new(transport: Transport) -> Result<Self, String> {
        let Export { exporter, connection } = Export::start(transport)?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource());
        Ok(Self {
            processor,
            // reads `OTEL_TRACES_SAMPLER` and its argument
            sampler: SdkConfig::default().sampler,
            scope: InstrumentationScope::builder(NAME)
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
            _connection: connection,
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
        Some(Box::new(RequestSpan::new(self, trace)))
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
