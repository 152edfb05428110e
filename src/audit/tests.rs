//! Records on every exit path, and every record against the published schema.

use std::time::Duration;

use cedargate_policy::decision::DecisionContext;
use cedargate_policy::types::{Door, TokenFacts};
use serde_json::Value;
use tokio::sync::mpsc::Receiver;
use uuid::Uuid;

use super::mask::Mask;
use super::record::Shadow;
use super::*;
use crate::config::{AuditAllow, AuditSink};

fn queue(on_full: OnFull, slots: usize) -> (Audit, Receiver<Message>) {
    let (queue, receiver) = channel(slots);
    let dropped = IntCounter::new("dropped", "test").unwrap();
    let sink_fails = Arc::default();
    let audit = Audit {
        queue,
        on_full,
        sink_fails,
        dropped,
    };
    (audit, receiver)
}

fn record() -> AuditRecord {
    AuditRecord::new(Uuid::now_v7(), "customer".into(), Door::Proxy)
}

fn full_record() -> AuditRecord {
    let attrs = serde_json::json!({"email": "a@acme.test"});
    let entity = EntityRef {
        kind: "User".into(),
        id: "alice".into(),
        attrs: Some(Arc::new(attrs)),
        parents: vec!["Role::\"viewer\"".into()],
    };
    AuditRecord {
        request_id: Some(http::HeaderValue::from_static("r")),
        trace_id: Some([7; 16]),
        tenant: Some("acme".into()),
        revision: Some("3f2a".into()),
        principal: Some(entity.clone()),
        roles: Arc::from(["viewer".into()]),
        action: Some("Action::\"GET\"".into()),
        resource: Some(entity),
        context: Some(DecisionContext::Json(
            serde_json::json!({"headers": {"x": "secret"}, "path": "/"}),
        )),
        verdict: Verdict::Permitted,
        policies: vec!["p".into()],
        errors: vec![PolicyError {
            policy: "q".into(),
            message: "m".to_owned(),
        }],
        shadow: Some(Shadow {
            revision: "4".into(),
            decision: "deny",
        }),
        token: Some(Arc::new(TokenFacts {
            alg: "RS256",
            ..TokenFacts::default()
        })),
        http: Some(HttpFacts {
            method: http::Method::GET,
            path: "/".to_owned(),
            client: None,
            route: None,
            status: Some(200),
        }),
        ..record()
    }
}

fn json(event: &Event, mask: &[&str]) -> Value {
    let paths: Vec<String> = mask.iter().map(|path| (*path).to_owned()).collect();
    let mask = Mask::new(&paths);
    let mut out = Vec::new();
    writer::write_line(event, &mask, &mut out).unwrap();
    assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
    serde_json::from_slice(&out).unwrap()
}

fn received(receiver: &mut Receiver<Message>) -> Verdict {
    match receiver.try_recv() {
        Ok(Message::Event(Event::Decision(record))) => record.verdict,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_kind_of_record_matches_the_published_schema() {
    let schema: Value = serde_json::from_str(include_str!("../../schemas/audit-event.schema.json")).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let mut events = vec![
        Event::Decision(Box::new(full_record())),
        Event::Policy(PolicyEvent {
            portal: "p".into(),
            revision: None,
            result: "rejected",
            detail: Some("d".to_owned()),
        }),
        Event::Admin(AdminEvent {
            event: "drain",
            detail: None,
        }),
        Event::HttpRejected(HttpRejected {
            limit: Some("limits.header_timeout"),
            reason: "malformed",
            peer: Some("::1".parse().unwrap()),
        }),
    ];
    let verdicts = Denial::ALL
        .into_iter()
        .map(Verdict::Denied)
        .chain([Verdict::Cancelled, Verdict::Panicked]);
    events.extend(verdicts.map(|verdict| Event::Decision(Box::new(AuditRecord { verdict, ..record() }))));
    for event in &events {
        for mask in [&[][..], &["context.headers", "principal.attrs", "roles", "no.such"]] {
            let line = json(event, mask);
            let errors: Vec<String> = validator.iter_errors(&line).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{line}: {errors:?}");
        }
    }
    let mut extra = json(events.first().unwrap(), &[]);
    extra["token_raw"] = "x".into();
    assert!(!validator.is_valid(&extra));
}

#[test]
fn masked_fields_are_replaced_and_listed() {
    let line = json(
        &Event::Decision(Box::new(full_record())),
        &["context.headers", "context.none"],
    );
    assert_eq!(line["context"]["headers"], "[masked]");
    assert_eq!(line["context"]["path"], "/");
    assert_eq!(line["masked"], serde_json::json!(["/context/headers"]));
    assert!(!line.to_string().contains("secret"));
}

#[test]
fn mask_leaves_kind_and_schema_version_readable() {
    let event = Event::Decision(Box::new(full_record()));
    let line = json(&event, &["kind", "schema_version", "masked", "ts"]);
    assert_eq!((&line["kind"], &line["schema_version"]), (&"decision".into(), &1.into()));
    assert_eq!(
        (&line["ts"], &line["masked"]),
        (&"[masked]".into(), &serde_json::json!(["/ts"]))
    );
}

#[test]
fn guard_sends_exactly_one_record_on_every_exit() {
    let (audit, mut receiver) = queue(OnFull::Drop, 8);
    drop(audit.guard(Slot(None), record()));
    assert_eq!(received(&mut receiver), Verdict::Cancelled);
    let mut guard = audit.guard(Slot(None), record());
    guard.denied(Denial::Forbidden);
    drop(guard);
    assert_eq!(received(&mut receiver), Verdict::Denied(Denial::Forbidden));
    let panicking = audit.clone();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _guard = panicking.guard(Slot(None), record());
        panic!("on purpose");
    }));
    assert!(panic.is_err());
    assert_eq!(received(&mut receiver), Verdict::Panicked);
    assert!(receiver.try_recv().is_err());
}

#[test]
fn only_allowed_decisions_can_be_omitted() {
    let (audit, mut receiver) = queue(OnFull::Drop, 8);
    for permitted in [true, false] {
        let mut guard = audit.guard(Slot(None), record());
        guard.omit_allowed();
        if permitted {
            guard.permitted();
        }
    }
    assert_eq!(received(&mut receiver), Verdict::Cancelled);
    assert!(receiver.try_recv().is_err());
}

#[test]
fn full_queue_counts_the_records_it_drops() {
    let (audit, _receiver) = queue(OnFull::Drop, 1);
    for _ in 0..3 {
        let slot = audit.admit().unwrap();
        drop(audit.guard(slot, record()));
    }
    assert_eq!(audit.dropped.get(), 2);
}

#[test]
fn on_full_deny_reserves_a_slot_before_the_decision() {
    let (audit, mut receiver) = queue(OnFull::Deny, 1);
    let slot = audit.admit().unwrap();
    assert_eq!(audit.admit().unwrap_err().denial, Denial::StoreUnavailable);
    drop(audit.guard(slot, record()));
    assert_eq!(received(&mut receiver), Verdict::Cancelled);
    assert!(audit.admit().is_ok());
}

#[test]
fn file_sink_is_private_survives_rotation_and_writes_every_record_on_close() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let old = folder.path().join("old");
    let config = config::Audit {
        sink: AuditSink::File(path.clone()),
        allow: AuditAllow::All,
        mask: Vec::new(),
        on_full: OnFull::Drop,
        queue: config::Count::of::<1000>(),
    };
    let metrics = Metrics::new().unwrap();
    let written = metrics.audit_events.with_label_values(&["file"]);
    let (audit, writer) = start(&config, &metrics).unwrap();
    audit.send(Event::Decision(Box::new(record())));
    for _ in 0..500 {
        if written.get() == 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    std::fs::rename(&path, &old).unwrap();
    for _ in 0..300 {
        audit.send(Event::Decision(Box::new(record())));
    }
    writer.close();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&old).unwrap().lines().count(), 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 300);
    assert_eq!(written.get(), 301);
}
