//! Spans over gRPC, to a collector that another implementation of gRPC serves.

use std::path::Path;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use super::{SPAN, TRACE, Traced, attribute, named, spans_of, trace_among};
use crate::support::binary::free_address;
use crate::support::certificates::Authority;
use crate::support::processes::Supervised;
use crate::support::{once_started, put};

/// The collector of `tests/tools/otlp_collector.py`.
struct GrpcCollector {
    folder: tempfile::TempDir,
    port: u16,
    _process: Supervised,
}

impl GrpcCollector {
    fn start(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("target/tools/venv/bin/python");
        assert!(python.exists(), "the Python environment is missing; run `make tools`");
        let mut arguments = vec![root.join("tests/tools/otlp_collector.py")];
        for (name, text) in files {
            put(folder.path(), name, text);
            arguments.push(folder.path().join(name));
        }
        let process = Supervised::start(&python, &arguments, &folder.path().join("collector.log"));
        let port = once_started("the collector names its port", || {
            let log = std::fs::read_to_string(folder.path().join("collector.log")).unwrap_or_default();
            let port = log.lines().find_map(|line| line.strip_prefix("port "));
            port.and_then(|port| port.parse().ok()).ok_or(log)
        });
        Self {
            folder,
            port,
            _process: process,
        }
    }

    /// The exports: the header `x-team` and the message.
    fn exports(&self) -> Vec<(String, ExportTraceServiceRequest)> {
        let log = std::fs::read_to_string(self.folder.path().join("collector.log")).unwrap();
        // the last line may still be written
        let lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let exports = lines.filter_map(|line| line.trim_end().strip_prefix("export "));
        let decoded = exports.map(|line| {
            let (team, message) = line.split_once(' ').unwrap();
            let message = hex::decode(message).unwrap();
            (
                team.to_owned(),
                ExportTraceServiceRequest::decode(message.as_slice()).unwrap(),
            )
        });
        decoded.collect()
    }

    fn spans(&self) -> Vec<Span> {
        let exports: Vec<_> = self.exports().into_iter().map(|(_, export)| export).collect();
        spans_of(&exports)
    }
}

#[test]
fn spans_go_over_grpc_if_the_environment_says_so() {
    let collector = GrpcCollector::start(&[]);
    let endpoint = format!("http://127.0.0.1:{}", collector.port);
    let traced = Traced::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=shop"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ]);
    assert_eq!(traced.get(&[("traceparent", &format!("00-{TRACE}-{SPAN}-01"))]).status, 200);
    let spans = trace_among(TRACE, || collector.spans());
    let own = named(&spans, "GET");
    assert_eq!(hex::encode(&own.parent_span_id), SPAN);
    assert!(attribute(own, "cedargate.door").contains("proxy"), "{own:?}");
    for step in ["verify", "evaluate", "upstream"] {
        assert_eq!(named(&spans, step).parent_span_id, own.span_id, "{step}");
    }
    let (team, export) = collector.exports().remove(0);
    assert_eq!(team, "shop");
    let resource = format!("{:?}", export.resource_spans[0].resource);
    assert!(resource.contains("cedargate"), "{resource}");
}

#[test]
fn grpc_over_tls_trusts_the_named_authority_alone() {
    let authority = Authority::new("collectors");
    let pair = authority.issue("localhost");
    let collector = GrpcCollector::start(&[("tls.crt", &pair.cert), ("tls.key", &pair.key)]);
    put(collector.folder.path(), "ca.pem", &authority.pem);
    put(collector.folder.path(), "other.pem", &Authority::new("others").pem);
    let endpoint = format!("https://localhost:{}", collector.port);
    let start = |ca: &str| {
        let ca = collector.folder.path().join(ca);
        Traced::start(&[
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.to_str().unwrap()),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ])
    };
    let untrusting = start("other.pem");
    assert_eq!(untrusting.get(&[]).status, 200);
    once_started("the log says that the export fails", || {
        let log = untrusting.log();
        if log.contains("Export") { Ok(()) } else { Err(log) }
    });
    assert!(collector.exports().is_empty(), "another authority signed the certificate");
    let traced = start("ca.pem");
    assert_eq!(traced.get(&[("traceparent", &format!("00-{TRACE}-{SPAN}-01"))]).status, 200);
    trace_among(TRACE, || collector.spans());
}

#[test]
fn a_grpc_collector_that_is_down_delays_no_request_and_no_end() {
    let dead = format!("http://{}", free_address());
    let traced = Traced::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &dead),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "8"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8"),
    ]);
    for _ in 0..50 {
        assert_eq!(traced.get(&[]).status, 200);
    }
    once_started("the log says that the export fails", || {
        let log = traced.log();
        if log.contains("Export") { Ok(()) } else { Err(log) }
    });
}
