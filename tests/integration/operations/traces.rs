//! Traces over OTLP, and the log's level and repetitions, of the built binary.

mod doors;
mod grpc;

use std::fs::File;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;

use crate::support::binary::{GateFolder, GateProcess, cedargate, free_address};
use crate::support::{Answer, PAGE, ScriptedServer, eventually, once_started, raw, response};

const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
const SPAN: &str = "e457b5a2e4d86bd1";

/// A collector that decodes what it gets.
struct Collector {
    server: ScriptedServer,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    fn start() -> Self {
        let requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>> = Arc::default();
        let sink = Arc::clone(&requests);
        let server = ScriptedServer::start(move |head, wire| {
            assert!(head.starts_with("POST /v1/traces "), "{head}");
            let lower = head.to_lowercase();
            let length = lower.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
            let body = wire.read_exactly(length.parse().unwrap());
            let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
            sink.lock().unwrap().push(request);
            wire.send(response("200 OK", b""));
        });
        Self { server, requests }
    }

    fn spans(&self) -> Vec<Span> {
        spans_of(&self.requests.lock().unwrap())
    }

    fn trace(&self, trace_id: &str) -> Vec<Span> {
        trace_among(trace_id, || self.spans())
    }
}

fn spans_of(requests: &[ExportTraceServiceRequest]) -> Vec<Span> {
    let resources = requests.iter().flat_map(|request| &request.resource_spans);
    let scopes = resources.flat_map(|resource| &resource.scope_spans);
    scopes.flat_map(|scope| scope.spans.clone()).collect()
}

/// The spans of one trace, once the request's own span arrived: it is the last of them.
fn trace_among(trace_id: &str, spans: impl Fn() -> Vec<Span>) -> Vec<Span> {
    once_started("the spans arrive", || {
        let own: Vec<Span> = spans()
            .into_iter()
            .filter(|span| hex::encode(&span.trace_id) == trace_id)
            .collect();
        let is_complete = own.iter().any(|span| span.kind == SpanKind::Server as i32);
        if is_complete { Ok(own) } else { Err(format!("{own:?}")) }
    })
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name}: {spans:?}");
    found[0]
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    format!("{:?}", found.map(|attribute| &attribute.value))
}

/// A gate with its app, its log and the environment that a test gives it.
struct Traced {
    folder: GateFolder,
    app: ScriptedServer,
    /// Set, the app closes every connection without an answer.
    is_gone: Arc<AtomicBool>,
    /// The listener of the app's own queries.
    decision: SocketAddr,
    ext_authz: SocketAddr,
    _process: GateProcess,
}

impl Traced {
    fn start(environment: &[(&str, &str)]) -> Self {
        let is_gone = Arc::new(AtomicBool::new(false));
        let gone = Arc::clone(&is_gone);
        let app = ScriptedServer::start(move |_, wire| {
            if !gone.load(Ordering::Relaxed) {
                wire.send(response("200 OK", b"app"));
            }
        });
        let folder = GateFolder::new(&app.url(), "");
        let path = |name: &str| folder.folder.path().join(name);
        let decision = free_address();
        let ext_authz = free_address();
        let control = format!(
            "listen: {{ control: {{ address: 'unix:{}' }}, ext_authz: {{ address: '{ext_authz}' }},",
            path("control.sock").display()
        );
        let config = std::fs::read_to_string(path("cedargate.yaml")).unwrap();
        let config = config.replacen("listen: {", &control, 1);
        let config = config.replacen("decision: null", &format!("decision: {{ address: '{decision}' }}"), 1);
        let config = config.replacen("upstream: {", "upstream: { circuit: { failures: 0 },", 1);
        folder.put("cedargate.yaml", &config);
        let mut command = cedargate(&["serve"]);
        command
            .current_dir(folder.folder.path())
            .stdout(Stdio::null())
            .stderr(File::create(path("gate.log")).unwrap())
            .env_remove("CEDARGATE_LOG")
            .envs(environment.iter().copied());
        let process = GateProcess(command.spawn().unwrap());
        let admin = folder.admin.to_string();
        let is_ready = || match folder.run(&["healthcheck", "--ready", "--address", &admin]) {
            (0, _, _) => Ok(()),
            (code, _, error) => Err(format!("{code}: {error}")),
        };
        once_started("the gate is ready", is_ready);
        Self {
            folder,
            app,
            is_gone,
            decision,
            ext_authz,
            _process: process,
        }
    }

    fn get(&self, headers: &[(&str, &str)]) -> Answer {
        let token = format!("Bearer {}", self.folder.issuer.token("alice", &[]));
        let all = [&[("authorization", token.as_str())], headers].concat();
        raw(self.folder.proxy, "GET", PAGE, &all, b"")
    }

    fn head_at_app(&self) -> String {
        self.app.heads.lock().unwrap().last().unwrap().to_lowercase()
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.folder.path().join(name)).unwrap()
    }

    fn log(&self) -> String {
        self.file("gate.log")
    }
}

#[test]
fn a_request_is_exported_with_its_steps_and_the_app_continues_it() {
    let collector = Collector::start();
    let traced = Traced::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.server.url()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_SERVICE_NAME", "shop"),
    ]);
    assert_eq!(traced.get(&[("traceparent", &format!("00-{TRACE}-{SPAN}-01"))]).status, 200);
    let spans = collector.trace(TRACE);
    let own = named(&spans, "GET");
    assert_eq!(
        (hex::encode(&own.parent_span_id).as_str(), own.kind),
        (SPAN, SpanKind::Server as i32)
    );
    for step in ["verify", "evaluate", "upstream"] {
        let span = named(&spans, step);
        assert_eq!(span.parent_span_id, own.span_id, "{step}");
        let is_within =
            span.start_time_unix_nano >= own.start_time_unix_nano && span.end_time_unix_nano <= own.end_time_unix_nano;
        assert!(is_within, "{step}: {spans:?}");
    }
    assert_eq!(spans.len(), 4);
    let upstream = hex::encode(&named(&spans, "upstream").span_id);
    let told = format!("traceparent: 00-{TRACE}-{upstream}-01");
    assert!(traced.head_at_app().contains(&told), "{}", traced.head_at_app());
    assert!(attribute(own, "cedargate.reason").contains("permitted") && attribute(own, "cedargate.portal").contains("\"p\""));
    let resource = format!("{:?}", collector.requests.lock().unwrap()[0].resource_spans[0].resource);
    assert!(
        resource.contains("shop") && resource.contains("service.version"),
        "{resource}"
    );
    assert!(!format!("{spans:?}").contains("alice"), "no user is in a span");
}

#[test]
fn a_refused_request_shows_the_step_that_refused_it_and_sampling_is_the_callers() {
    let collector = Collector::start();
    let traced = Traced::start(&[
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            &format!("{}/v1/traces", collector.server.url()),
        ),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ]);
    let answer = raw(traced.folder.proxy, "GET", PAGE, &[("authorization", "Bearer nonsense")], b"");
    assert_eq!(answer.status, 401);
    let refused = once_started("the refusal arrives", || {
        let found = collector
            .spans()
            .into_iter()
            .find(|span| attribute(span, "cedargate.decision").contains("deny"));
        found.ok_or_else(String::new)
    });
    assert!(refused.parent_span_id.is_empty(), "{refused:?}");
    assert!(
        attribute(&refused, "cedargate.reason").contains("token_invalid"),
        "{refused:?}"
    );
    let failed = collector.trace(&hex::encode(&refused.trace_id));
    assert_eq!(
        named(&failed, "verify").status.as_ref().unwrap().code,
        StatusCode::Error as i32
    );
    // the caller does not sample: neither does the gate
    let count = collector.spans().len();
    let other = TRACE.replace('8', "7");
    assert_eq!(traced.get(&[("traceparent", &format!("00-{other}-{SPAN}-00"))]).status, 200);
    let head = traced.head_at_app();
    assert!(
        head.contains(&format!("traceparent: 00-{other}-")) && head.contains("-00\r\n"),
        "{head}"
    );
    let multi = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "0")];
    assert_eq!(traced.get(&multi).status, 200);
    assert!(traced.head_at_app().contains("x-b3-sampled: 0"));
    let last = TRACE.replace('8', "6");
    assert_eq!(traced.get(&[("b3", &format!("{last}-{SPAN}-1"))]).status, 200);
    let spans = collector.trace(&last);
    let upstream = hex::encode(&named(&spans, "upstream").span_id);
    let told = format!("b3: {last}-{upstream}-1");
    assert!(traced.head_at_app().contains(&told), "{}", traced.head_at_app());
    assert_eq!(hex::encode(&named(&spans, "GET").parent_span_id), SPAN);
    assert_eq!(
        collector.spans().len(),
        count + 4,
        "nothing of the traces that are not sampled"
    );
}

#[test]
fn traces_are_off_unless_asked_for_and_a_dead_collector_delays_no_request() {
    let collector = Collector::start();
    let on = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.server.url());
    for environment in [
        &[][..],
        &[(on.0, on.1.as_str()), ("OTEL_SDK_DISABLED", "true")],
        &[(on.0, on.1.as_str()), ("OTEL_TRACES_EXPORTER", "none")],
        &[(on.0, on.1.as_str()), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")],
        &[(on.0, on.1.as_str()), ("OTEL_TRACES_SAMPLER", "always_off")],
    ] {
        let traced = Traced::start(&[environment, &[("OTEL_BSP_SCHEDULE_DELAY", "50")]].concat());
        // the app gets headers that the gate does not use as they are
        assert_eq!(traced.get(&[("x-b3-parentspanid", SPAN)]).status, 200);
        assert!(
            traced.head_at_app().contains(&format!("x-b3-parentspanid: {SPAN}")),
            "{environment:?}"
        );
    }
    assert_eq!(collector.server.count(), 0);
    let dead = format!("http://{}", free_address());
    let traced = Traced::start(&[
        (on.0, &dead),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "8"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8"),
    ]);
    let started = Instant::now();
    for _ in 0..50 {
        assert_eq!(traced.get(&[]).status, 200);
    }
    assert!(started.elapsed() < Duration::from_secs(20));
    once_started("the log says that the export fails", || {
        let log = traced.log();
        if log.contains("ExportError") || log.contains("Failed") {
            Ok(())
        } else {
            Err(log)
        }
    });
}

#[test]
fn the_log_level_changes_for_a_time_and_repeated_lines_are_counted() {
    let traced = Traced::start(&[]);
    let socket = traced.folder.folder.path().join("control.sock");
    let level = |more: &[&str]| {
        let all = [&["log-level", "--socket", socket.to_str().unwrap()], more].concat();
        traced.folder.run(&all)
    };
    let refuse = || assert_eq!(raw(traced.folder.proxy, "GET", PAGE, &[], b"").status, 401);
    let debug_lines = || traced.log().lines().filter(|line| line.contains("\"refused\"")).count();
    refuse();
    assert_eq!(debug_lines(), 0);
    let (code, out, error) = level(&["debug", "--for", "2s"]);
    assert!(code == 0 && out.contains("cedargate=debug"), "{out}{error}");
    refuse();
    eventually("debug lines appear", || {
        if debug_lines() == 1 { Ok(()) } else { Err(traced.log()) }
    });
    eventually("the level of the start is back", || {
        let (_, out, _) = level(&[]);
        if out.replace(' ', "").contains("\"reverts_in_seconds\":null") {
            Ok(())
        } else {
            Err(out)
        }
    });
    refuse();
    assert_eq!(debug_lines(), 1);
    for (arguments, words) in [
        (&["a=b=c=,,"][..], "is not a log filter"),
        (&["debug", "--for", "48h"], "at most 24h"),
        (&["debug", "--for", "0s"], "at most 24h"),
    ] {
        let (code, out, error) = level(arguments);
        assert!(code == 1 && format!("{out}{error}").contains(words), "{out}{error}");
    }
    assert_eq!((level(&["trace"]).0, level(&["--revert"]).0), (0, 0));
    assert!(
        traced.file("decisions.jsonl").contains("log_level_changed"),
        "each change is on record"
    );
    // an app that is gone: every request would log
    traced.is_gone.store(true, Ordering::Relaxed);
    for _ in 0..250 {
        assert_eq!(traced.get(&[]).status, 502);
    }
    once_started("what was left out is counted", || {
        let log = traced.log();
        let written = log.lines().filter(|line| line.contains("no answer from the app")).count();
        let reports = log.lines().filter(|line| line.contains("repeated lines were left out"));
        let counts = reports.filter_map(|line| {
            line.split("\"lines\":")
                .nth(1)?
                .split([',', '}'])
                .next()?
                .parse::<usize>()
                .ok()
        });
        let left_out: usize = counts.sum();
        let is_all = left_out > 0 && written + left_out == 250;
        if is_all {
            Ok(())
        } else {
            Err(format!("{written} written, {left_out} left out"))
        }
    });
}
