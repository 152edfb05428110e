//! Spans of the doors beside the proxy listener.

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::{Value, json};

use super::{Collector, SPAN, TRACE, Traced, attribute, named};
use crate::support::envoy_call::{Envoy, Held};
use crate::support::raw;

/// The trace of the request number `n` of a test.
fn trace_id(n: usize) -> String {
    format!("{}{n:04}", &TRACE[..28])
}

fn traced(collector: &Collector) -> Traced {
    Traced::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.server.url()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ])
}

/// Asks the decision listener as part of trace `n`, and returns the answer's status and the spans.
fn ask(traced: &Traced, collector: &Collector, n: usize, path: &str, body: &Value) -> (u16, Vec<Span>) {
    let id = trace_id(n);
    let parent = format!("00-{id}-{SPAN}-01");
    let headers = [("traceparent", parent.as_str()), ("content-type", "application/json")];
    let answer = raw(traced.decision, "POST", path, &headers, body.to_string().as_bytes());
    (answer.status, collector.trace(&id))
}

fn own(spans: &[Span]) -> &Span {
    let own = spans.iter().find(|span| span.kind == SpanKind::Server as i32).unwrap();
    assert_eq!(hex::encode(&own.parent_span_id), SPAN);
    own
}

fn says(span: &Span, attributes: &[(&str, &str)]) {
    for (key, value) in attributes {
        assert!(attribute(span, key).contains(value), "{key} {value}: {span:?}");
    }
}

fn question(traced: &Traced, portal: &str) -> Value {
    json!({
        "portal": portal, "token": traced.folder.issuer.token("alice", &[]),
        "action": "GET", "resource": {"type": "Path", "id": "/portal/p/a"}
    })
}

#[test]
fn a_query_has_a_span_with_its_verification_and_its_evaluation() {
    let collector = Collector::start();
    let traced = traced(&collector);
    let (status, spans) = ask(&traced, &collector, 1, "/authorize", &question(&traced, "p"));
    assert_eq!((status, spans.len()), (200, 3), "{spans:?}");
    let permitted = named(&spans, "POST /authorize");
    says(
        permitted,
        &[
            ("cedargate.door", "authorize"),
            ("cedargate.portal", "\"p\""),
            ("cedargate.reason", "permitted"),
            ("http.route", "/authorize"),
        ],
    );
    for step in ["verify", "evaluate"] {
        assert_eq!(named(&spans, step).parent_span_id, permitted.span_id, "{step}");
    }
    assert!(!format!("{spans:?}").contains("alice"), "no user is in a span");
    // a credential that is refused: the step that refused it
    let mut forged = question(&traced, "p");
    forged["token"] = "nonsense".into();
    let (status, spans) = ask(&traced, &collector, 2, "/authorize", &forged);
    assert_eq!((status, spans.len()), (401, 2), "{spans:?}");
    says(
        own(&spans),
        &[("cedargate.reason", "token_invalid"), ("cedargate.decision", "deny")],
    );
    assert_eq!(
        named(&spans, "verify").status.as_ref().unwrap().code,
        StatusCode::Error as i32
    );
    let (status, spans) = ask(&traced, &collector, 3, "/authorize", &json!({"nonsense": 1}));
    assert_eq!((status, spans.len()), (400, 1), "{spans:?}");
    says(
        own(&spans),
        &[("cedargate.reason", "request_invalid"), ("cedargate.portal", "none")],
    );
}

#[test]
fn each_item_of_a_batch_has_an_evaluation_with_its_own_decision() {
    let collector = Collector::start();
    let traced = traced(&collector);
    let items = json!([question(&traced, "p"), question(&traced, "nowhere"), question(&traced, "p"), {"nonsense": 1}]);
    let (status, spans) = ask(&traced, &collector, 1, "/authorize/batch", &json!({ "requests": items }));
    assert_eq!(status, 200);
    let batch = named(&spans, "POST /authorize/batch");
    assert_eq!(
        attribute(batch, "cedargate.decision"),
        "None",
        "several decisions: each is on its own span"
    );
    let evaluations: Vec<&Span> = spans.iter().filter(|span| span.name == "evaluate").collect();
    assert_eq!(evaluations.len(), 2, "{spans:?}");
    let mut ids: Vec<String> = Vec::new();
    for evaluation in evaluations {
        says(
            evaluation,
            &[("cedargate.reason", "permitted"), ("cedargate.portal", "\"p\"")],
        );
        assert_eq!(evaluation.parent_span_id, batch.span_id);
        ids.push(attribute(evaluation, "cedargate.decision_id"));
    }
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn authzen_has_spans_of_its_endpoints() {
    let collector = Collector::start();
    let traced = traced(&collector);
    let question = json!({
        "subject": {"type": "User", "id": "alice"}, "action": {"name": "GET"},
        "resource": {"type": "Path", "id": "/portal/p/a"}
    });
    let (status, spans) = ask(&traced, &collector, 1, "/portals/p/access/v1/evaluation", &question);
    assert_eq!(status, 200);
    let own_span = named(&spans, "POST /access/v1/evaluation");
    says(own_span, &[("cedargate.door", "authzen"), ("cedargate.portal", "\"p\"")]);
    let mut search = question;
    search["action"] = json!({});
    let (status, spans) = ask(&traced, &collector, 2, "/access/v1/search/action", &search);
    assert_eq!(status, 200, "{spans:?}");
    named(&spans, "POST /access/v1/search/action");
    named(&spans, "search");
}

#[test]
fn a_request_that_another_proxy_holds_back_has_the_spans_of_its_decision() {
    let collector = Collector::start();
    let traced = traced(&collector);
    let token = format!("Bearer {}", traced.folder.issuer.token("alice", &[]));
    let id = trace_id(1);
    let parent = format!("00-{id}-{SPAN}-01");
    let headers = [
        ("x-original-method", "GET"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-original-url", "http://shop.test/portal/p/a"),
        ("authorization", token.as_str()),
        ("traceparent", parent.as_str()),
    ];
    assert_eq!(raw(traced.decision, "GET", "/auth-request", &headers, b"").status, 200);
    let spans = collector.trace(&id);
    says(
        own(&spans),
        &[("cedargate.door", "forward_auth"), ("cedargate.reason", "permitted")],
    );
    for step in ["verify", "evaluate"] {
        named(&spans, step);
    }
    let id = trace_id(2);
    let parent = format!("00-{id}-{SPAN}-01");
    let held = Held {
        method: "GET",
        path: "/portal/p/a",
        host: "shop.test",
        scheme: "http",
        source_ip: "192.0.2.7",
        headers: &[("traceparent", &parent)],
    };
    Envoy::connect(traced.ext_authz).check(&held);
    let spans = collector.trace(&id);
    says(
        own(&spans),
        &[("cedargate.door", "ext_authz"), ("cedargate.reason", "token_missing")],
    );
    assert_eq!(spans.len(), 1, "{spans:?}");
}
