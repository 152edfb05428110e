//! The decision log and the metrics: exactly one record per request on every way out, each of the published shape.

use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::record_schema::check_lines as valid_lines;
use crate::support::{Gate, Issuer, PAGE, RawConnection, ScriptedServer, eventually, open_portal, raw, response};

fn bearer(gate: &Gate) -> String {
    format!("Bearer {}", gate.issuer.token("alice", &["viewer"]))
}

/// Requests of every kind.
fn traffic(gate: &Gate) -> usize {
    let authorization = bearer(gate);
    let auth = ("authorization", authorization.as_str());
    let requests: [(&str, &str, &[(&str, &str)]); 11] = [
        ("GET", PAGE, &[auth]),
        ("POST", PAGE, &[auth, ("x-request-id", "r-1")]),
        ("BREW", PAGE, &[auth]),
        ("GET", PAGE, &[]),
        ("GET", PAGE, &[("authorization", "Bearer a.b.c")]),
        ("GET", "/portal/p/assets/x.css", &[]),
        ("GET", "/.well-known/cedargate/jwks.json", &[]),
        ("GET", "/nowhere", &[auth]),
        ("GET", "/portal/p/%2e%2e", &[auth]),
        ("GET", "/api/v1/identity/x", &[auth]),
        ("GET", PAGE, &[auth, auth]),
    ];
    for (method, path, headers) in requests {
        raw(gate.proxy, method, path, headers, b"");
    }
    requests.len()
}

#[test]
fn every_line_of_the_log_has_the_published_shape_and_there_is_one_per_request() {
    let gate = open_portal().start();
    let mut requests = traffic(&gate);
    gate.authorize(&json!({"portal": "p", "principal": {"type": "User", "id": "a"}, "action": "GET", "resource": {"type": "Path", "id": PAGE}}));
    requests += 1;
    RawConnection::open(gate.proxy).send("garbage\r\n\r\n");
    gate.put("policies/p/main.cedar", "broken");
    eventually("the rejected candidate is noticed", || {
        let status = gate.status().to_string();
        if status.contains("rejected") || status.contains("main.cedar") {
            Ok(())
        } else {
            Err(status)
        }
    });
    let all = gate.records(requests);
    assert_eq!(all.len(), requests);
    let mode = std::fs::metadata(gate.path("decisions.jsonl")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    gate.stop_keeping(|folder| {
        let lines = valid_lines(&std::fs::read_to_string(folder.join("decisions.jsonl")).unwrap());
        let of = |kind: &str| lines.iter().filter(|l| l["kind"] == kind).count();
        assert_eq!(of("decision"), requests);
        assert_eq!(of("http_rejected"), 1);
        assert!(of("policy_event") >= 2, "loaded, then rejected");
        let mut ids: Vec<_> = lines.iter().filter_map(|l| l["decision_id"].as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), requests, "decision ids are unique");
        assert!(lines.iter().all(|l| l["reason"] != "cancelled"), "no client went away");
    });
}

#[test]
fn a_client_that_goes_away_leaves_exactly_one_record() {
    let script = ScriptedServer::start(|_, wire| {
        wire.read_until("never");
    });
    // other keys are answered at once; a key that is not published gets no answer
    let (others, asked) = (Issuer::new("other").jwks().to_string(), AtomicBool::new(false));
    let hanging = ScriptedServer::start(move |_, wire| {
        if asked.swap(true, Ordering::SeqCst) {
            wire.read_until("never");
        } else {
            wire.send(response("200 OK", others.as_bytes()));
        }
    });
    let mut setup = open_portal().config(&format!("upstream: {{ url: '{}' }}", script.url()));
    setup.issuers = Some(format!(
        "issuers:\n  - {{ name: test, issuer: 'https://issuer.test/', audiences: [shop], subject_prefix: '', jwks: {{ file: jwks.json }} }}\n  \
         - {{ name: stuck, issuer: 'https://stuck.test/', audiences: [shop], subject_prefix: 's|', jwks: {{ url: '{}/' }} }}",
        hanging.url()
    ));
    let gate = setup.start();
    // while the app thinks
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(format!(
        "GET {PAGE} HTTP/1.1\r\nhost: a\r\nauthorization: {}\r\n\r\n",
        bearer(&gate)
    ));
    eventually("the app is asked", || {
        if script.count() == 1 { Ok(()) } else { Err(String::new()) }
    });
    drop(wire);
    let record = gate.records(1).remove(0);
    assert_eq!(
        (&record["decision"], &record["reason"], &record["http"]["status"]),
        (&json!("allow"), &json!("permitted"), &Value::Null)
    );
    // while the gate waits for keys: nothing was decided, nothing forwarded
    let mut claims = crate::support::claims("alice", &[]);
    claims["iss"] = json!("https://stuck.test/");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(format!(
        "GET {PAGE} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\r\n",
        gate.issuer.sign(&claims)
    ));
    // a client that leaves before the gate reads its head leaves no record: hyper may read the end together with the
    // head
    eventually("keys are asked for on its behalf", || {
        if hanging.count() == 2 {
            Ok(())
        } else {
            Err(hanging.count().to_string())
        }
    });
    drop(wire);
    let record = gate.records(2).remove(1);
    assert_eq!(record["decision"], "deny");
    assert!(
        ["cancelled", "key_unavailable"].contains(&record["reason"].as_str().unwrap()),
        "{record}"
    );
    assert_eq!(script.count(), 1);
    gate.stop_keeping(|folder| {
        let lines = valid_lines(&std::fs::read_to_string(folder.join("decisions.jsonl")).unwrap());
        assert_eq!(lines.iter().filter(|l| l["kind"] == "decision").count(), 2);
    });
}

#[test]
fn on_full_deny_refuses_requests_while_the_sink_cannot_write_and_loses_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let (sink, good) = (folder.path().join("sink"), folder.path().join("good"));
    std::os::unix::fs::symlink("/dev/full", &sink).unwrap();
    let gate = open_portal()
        .config(&format!("audit: {{ sink: {{ file: '{}' }}, on_full: deny }}", sink.display()))
        .start();
    let authorization = bearer(&gate);
    let proxy = gate.proxy;
    let ask = || raw(proxy, "GET", PAGE, &[("authorization", &authorization)], b"");
    let mut let_in = 0;
    eventually("the gate refuses", || match ask() {
        answer if answer.code() == "store_unavailable" => Ok(()),
        answer => {
            let_in += 1;
            Err(answer.status.to_string())
        }
    });
    for _ in 0..20 {
        assert_eq!((ask().status, gate.app.count()), (503, let_in));
    }
    std::fs::write(&good, "").unwrap();
    std::fs::remove_file(&sink).unwrap();
    std::os::unix::fs::symlink(&good, &sink).unwrap();
    eventually("the gate lets callers in again", || match ask().status {
        200 => Ok(()),
        status => Err(status.to_string()),
    });
    let_in += 1;
    gate.stop();
    let lines = valid_lines(&std::fs::read_to_string(&good).unwrap());
    let allowed = lines.iter().filter(|line| line["decision"] == "allow").count();
    assert_eq!(allowed, let_in, "{lines:?}");
}

#[test]
fn on_full_deny_refuses_unrecorded_requests_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    const O_NONBLOCK: i32 = 0o4000;
    // a FIFO without a reader
    let mut reader = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(&fifo)
        .unwrap();
    let gate = open_portal()
        .config(&format!(
            "audit: {{ sink: {{ file: '{}' }}, on_full: deny, queue: 2 }}",
            fifo.display()
        ))
        .start();
    let authorization = bearer(&gate);
    let proxy = gate.proxy;
    let ask = || raw(proxy, "GET", PAGE, &[("authorization", &authorization)], b"");
    let mut let_in = 0;
    let refused = loop {
        let answer = ask();
        if answer.status != 200 {
            break answer;
        }
        let_in += 1;
        assert!(let_in < 2000, "the sink is never full");
    };
    assert_eq!(
        (refused.status, refused.code().as_str(), refused.header("retry-after")),
        (503, "store_unavailable", "1")
    );
    assert_eq!(gate.app.count(), let_in);
    let metrics = gate.metrics();
    let dropped = metrics
        .lines()
        .find(|l| l.starts_with("cedargate_audit_dropped_total{sink=\"file\"}"))
        .unwrap();
    assert_ne!(dropped.rsplit(' ').next(), Some("0"));
    // the reader is back
    let done = AtomicBool::new(false);
    let lines = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let (mut text, mut buffer) = (Vec::new(), [0; 65536]);
            loop {
                match reader.read(&mut buffer) {
                    Ok(0) if done.load(Ordering::SeqCst) => break,
                    Ok(length) => text.extend(&buffer[..length]),
                    Err(_) => std::thread::sleep(std::time::Duration::from_millis(2)),
                }
            }
            String::from_utf8(text).unwrap()
        });
        eventually("the gate lets callers in again", || {
            let status = ask().status;
            if status == 200 { Ok(()) } else { Err(status.to_string()) }
        });
        let_in += 1;
        assert_eq!(gate.app.count(), let_in);
        gate.stop();
        done.store(true, Ordering::SeqCst);
        valid_lines(&reading.join().unwrap())
    });
    let allowed = lines.iter().filter(|l| l["decision"] == "allow").count();
    assert_eq!(allowed, let_in, "every permitted request is on record");
}

#[test]
fn masked_fields_are_masked_and_named() {
    let gate = open_portal()
        .config("audit: { sink: { file: decisions.jsonl }, mask: [principal.id, http.path, resource, tenant, token, context.headers] }")
        .start();
    raw(gate.proxy, "GET", PAGE, &[("authorization", &bearer(&gate))], b"");
    raw(gate.proxy, "GET", PAGE, &[], b"");
    let records = gate.records(2);
    assert_eq!(records[0]["principal"]["id"], "[masked]");
    assert_eq!(
        records[0]["masked"],
        json!(["/principal/id", "/http/path", "/resource", "/tenant", "/token"])
    );
    assert_eq!(records[1]["masked"], json!(["/http/path"]));
    gate.stop_keeping(|folder| {
        let text = std::fs::read_to_string(folder.join("decisions.jsonl")).unwrap();
        valid_lines(&text);
        assert!(
            !text.contains("alice") && !text.contains("acme") && !text.contains("/portal/p/page"),
            "{text}"
        );
    });
}

#[test]
fn allow_none_leaves_out_allowed_decisions_only() {
    let gate = open_portal()
        .config("audit: { sink: { file: decisions.jsonl }, allow: none }")
        .start();
    traffic(&gate);
    let expected = [
        "token_missing",
        "token_invalid",
        "portal_unknown",
        "request_invalid",
        "portal_unknown",
        "request_invalid",
    ];
    gate.stop_keeping(|folder| {
        let lines = valid_lines(&std::fs::read_to_string(folder.join("decisions.jsonl")).unwrap());
        let decisions: Vec<_> = lines.iter().filter(|l| l["kind"] == "decision").collect();
        let reasons: Vec<_> = decisions
            .iter()
            .filter(|l| l["http"]["method"] != "BREW")
            .map(|l| l["reason"].as_str().unwrap())
            .collect();
        assert_eq!(reasons, expected);
        assert!(decisions.iter().all(|l| l["decision"] == "deny"));
    });
}

#[test]
fn query_cookies_and_bodies_are_not_recorded() {
    let gate = open_portal().start();
    let headers = [
        ("authorization", bearer(&gate)),
        ("cookie", "session=m4rk3r".to_owned()),
        ("x-api-key", "m4rk3r".to_owned()),
    ];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    raw(gate.proxy, "POST", &format!("{PAGE}?password=m4rk3r"), &headers, b"m4rk3r");
    raw(
        gate.proxy,
        "POST",
        &format!("{PAGE}?password=m4rk3r"),
        &headers[1..],
        b"m4rk3r",
    );
    gate.records(2);
    gate.stop_keeping(|folder| {
        let text = std::fs::read_to_string(folder.join("decisions.jsonl")).unwrap();
        assert!(!text.contains("m4rk3r"), "{text}");
    });
}

/// The metrics that traffic of this test produces.
const METRICS: &[&str] = &[
    "http_requests_total",
    "http_request_duration_seconds",
    "http_rejected_total",
    "gate_duration_seconds",
    "decisions_total",
    "decision_duration_seconds",
    "policy_evaluation_errors_total",
    "reload_total",
    "reload_last_success_timestamp_seconds",
    "reload_last_successful",
    "revision_info",
    "token_validations_total",
    "jwks_refresh_total",
    "jwks_age_seconds",
    "audit_events_total",
    "audit_dropped_total",
    "upstream_errors_total",
    "connections",
    "panics_total",
    "draining",
    "restart_required",
    "build_info",
];

fn busy_metrics() -> String {
    let schema = "entity Portal; entity Path in [Path, Portal]; entity User = { n?: Long };
        action GET appliesTo { principal: [User], resource: [Path], context: {} };";
    let policies = "permit (principal, action, resource);
        @id(\"errs\") permit (principal, action, resource) when { principal has n && principal.n * 9223372036854775807 > 0 };";
    let script = ScriptedServer::start(|_, wire| {
        wire.send(response("200 OK", b""));
    });
    let gate = crate::support::Setup::portal(schema, policies)
        .config(&format!("upstream: {{ url: '{}' }}", script.url()))
        .start();
    let mut claims = crate::support::claims("alice@acme.test", &["viewer"]);
    claims["n"] = json!(2);
    let authorization = format!("Bearer {}", gate.issuer.sign(&claims));
    for n in 0..20 {
        for method in ["GET", "BREW", "XYZZY"] {
            let path = format!("/portal/p/secret-path-{n}");
            raw(
                gate.proxy,
                method,
                &path,
                &[("authorization", &authorization), ("host", &format!("host{n}.test"))],
                b"",
            );
            raw(gate.proxy, method, &format!("/unknown-{n}"), &[], b"");
        }
    }
    RawConnection::open(gate.proxy).send("garbage\r\n\r\n");
    let dead = crate::support::Setup::portal(schema, policies)
        .config("upstream: { url: 'http://127.0.0.1:1' }")
        .start();
    raw(
        dead.proxy,
        "GET",
        PAGE,
        &[("authorization", &format!("Bearer {}", dead.issuer.token("a", &[])))],
        b"",
    );
    assert!(
        dead.metrics()
            .contains("cedargate_upstream_errors_total{reason=\"connect\"} 1")
    );
    eventually("everything has been counted", || {
        let metrics = gate.metrics();
        let missing: Vec<_> = METRICS
            .iter()
            .filter(|name| **name != "upstream_errors_total" && !metrics.contains(&format!("# TYPE cedargate_{name} ")))
            .collect();
        if missing.is_empty() {
            Ok(metrics)
        } else {
            Err(format!("{missing:?}"))
        }
    })
}

#[test]
fn every_metric_is_there_after_traffic_with_bounded_labels_and_promtool_is_content() {
    let metrics = busy_metrics();
    for secret in [
        "secret-path",
        "alice",
        "acme",
        "host1",
        "unknown-",
        "BREW",
        "XYZZY",
        "errs",
        "/portal",
    ] {
        assert!(!metrics.contains(secret), "`{secret}` is in a label");
    }
    assert!(
        metrics
            .lines()
            .filter(|l| l.starts_with("cedargate_http_requests_total{"))
            .count()
            <= 6,
        "series grow with requests"
    );
    assert!(metrics.contains("cedargate_policy_evaluation_errors_total{portal=\"p\"} 20"));
    use std::io::Write;
    let promtool = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        println!("SKIPPED: promtool is not installed, the metrics' names were not checked");
        return;
    };
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
