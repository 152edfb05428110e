//! Records on every exit path, and every record against the published schema.

use std::time::Duration;

use cedar_policy::EntityId;
use cedargate_policy::decision::DecisionContext;
use cedargate_policy::flags::FlagChange;
use cedargate_policy::types::{Door, TokenFacts};
use proptest::prelude::*;
use serde_json::Value;
use smallvec::SmallVec;
use uuid::Uuid;

use super::queue::Batch;
use super::record::{Latency, Shadow};
use super::words::{AuthReason, AuthResult};
use super::*;
use crate::config::{AuditSink, FileSink};

fn queue(on_full: OnFull, slots: usize) -> Audit {
    Audit(Arc::new(Shared {
        queue: Arc::new(Queue::new(slots)),
        mask: Mask::default(),
        sampling: None,
        on_full,
        sink_fails: AtomicBool::default(),
        dropped: IntCounter::new("dropped", "test").unwrap(),
        recent: Recent::new(0),
    }))
}

fn record() -> AuditRecord {
    AuditRecord::new(Uuid::now_v7(), Door::Proxy)
}

fn full_record() -> AuditRecord {
    let attrs = serde_json::json!({"email": "a@acme.test"});
    let entity = EntityRef {
        kind: "User".into(),
        id: EntityId::new("alice"),
        attrs: Some(Arc::new(attrs)),
        parents: vec!["Role::\"viewer\"".into()],
    };
    AuditRecord {
        request_id: Some(http::HeaderValue::from_static("r")),
        trace_id: Some([7; 16]),
        portal: Some("customer".into()),
        revision: Some("3f2a".into()),
        facts: Some("9f3a62c1".into()),
        supplied: Some(Supplied::new(
            br#"{"principal":{"attrs":{"email":"a@acme.test"}},"entities":[{"uid":{"type":"User","id":"b"}}]}"#.to_vec(),
        )),
        near: Some("viewers".into()),
        caller: Some(Arc::new(CallerRecord::of(
            entity.clone(),
            Some("acme"),
            &["viewer".to_owned()],
            Some(&TokenFacts {
                alg: "RS256",
                ..TokenFacts::default()
            }),
        ))),
        action: Some("Action::\"GET\"".into()),
        resource: Some(entity),
        context: Some(DecisionContext::Json(
            serde_json::json!({"headers": {"x": "secret"}, "path": "/"}),
        )),
        verdict: RecordedOutcome::Permitted,
        policies: SmallVec::from_iter(["p".into()]),
        errors: vec![PolicyError {
            policy: "q".into(),
            message: "m".to_owned(),
        }],
        shadow: Some(Shadow {
            revision: "4".into(),
            decision: "deny",
        }),
        http: Some(HttpRecord {
            method: http::Method::GET,
            path: "/".to_owned(),
            client: None,
            route: None,
            status: Some(200),
        }),
        ..record()
    }
}

fn masked(paths: &[&str]) -> Mask {
    let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
    Mask::new(&paths)
}

fn parsed(line: &[u8]) -> Value {
    assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
    serde_json::from_slice(line).unwrap()
}

fn decision(record: &AuditRecord, mask: &[&str]) -> Value {
    let mut line = Vec::new();
    line::write_decision(record, &masked(mask), &mut line).unwrap();
    parsed(&line)
}

fn other(event: &Event, mask: &[&str]) -> Value {
    let mut line = Vec::new();
    line::write_event(event, &masked(mask), &mut line).unwrap();
    parsed(&line)
}

/// The reasons of the records that wait in the queue.
fn reasons(audit: &Audit) -> Vec<String> {
    audit.0.queue.push(b"{}\n").unwrap();
    let mut batch = Batch::default();
    assert_eq!(audit.0.queue.take(&mut batch, None), queue::TakenLines::Lines);
    audit.0.queue.done();
    let text = String::from_utf8(batch.text).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter_map(|line| Some(line.get("reason")?.as_str()?.to_owned()))
        .collect()
}

#[test]
fn every_kind_of_record_matches_the_published_schema() {
    let schema: Value = serde_json::from_str(include_str!("../../schemas/audit-event.schema.json")).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let events = [
        Event::Policy(PolicyEvent {
            portal: "p".into(),
            revision: None,
            result: PolicyResult::Rejected,
            detail: Some("d".to_owned()),
            flags: vec![FlagChange {
                name: "beta".to_owned(),
                old: None,
                new: Some("true".to_owned()),
            }],
        }),
        Event::Admin(AdminEvent {
            event: AdminAct::DrainRequested,
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
        .map(RecordedOutcome::Denied)
        .chain([RecordedOutcome::Cancelled, RecordedOutcome::Panicked]);
    let records: Vec<_> = verdicts
        .map(|verdict| AuditRecord { verdict, ..record() })
        .chain([full_record()])
        .collect();
    for mask in [&[][..], &["context.headers", "principal.attrs", "roles", "no.such"]] {
        let decisions = records.iter().map(|record| decision(record, mask));
        for line in decisions.chain(events.iter().map(|event| other(event, mask))) {
            let errors: Vec<String> = validator.iter_errors(&line).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{line}: {errors:?}");
        }
    }
    let mut extra = decision(&full_record(), &[]);
    extra["token_raw"] = "x".into();
    assert!(!validator.is_valid(&extra));
}

/// The closed lists of words in the published schema, one line each, in the order of the code.
fn word_lists() -> Vec<String> {
    let list = |name: &str, words: &mut dyn Iterator<Item = &'static str>| {
        let mut listed: Vec<&str> = Vec::new();
        for word in words {
            // two variants may share a word
            if !listed.contains(&word) {
                listed.push(word);
            }
        }
        format!("    \"{name}\": {{ \"enum\": [\"{}\"] }},", listed.join("\", \""))
    };
    let facts = AuthFact::ALL.iter().map(|fact| fact.as_str());
    let login_codes = LoginCode::ALL.iter().map(|code| code.as_str());
    let denials = Denial::ALL.into_iter().map(Denial::code);
    vec![
        list("auth_act", &mut AuthAct::ALL.iter().map(|act| act.as_str())),
        list("auth_result", &mut AuthResult::ALL.iter().map(|result| result.as_str())),
        list("auth_reason", &mut facts.chain(login_codes).chain(denials)),
        list("policy_result", &mut PolicyResult::ALL.iter().map(|result| result.as_str())),
        list("admin_act", &mut AdminAct::ALL.iter().map(|act| act.as_str())),
    ]
}

#[test]
fn published_words_of_events_are_those_of_the_code() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/audit-event.schema.json");
    let published = std::fs::read_to_string(&path).unwrap();
    let mut current = String::new();
    let lists = word_lists();
    for line in published.lines() {
        let name = line.split("{ \"enum\"").next().unwrap_or_default();
        let made = lists.iter().find(|list| list.starts_with(name) && name.starts_with("    \""));
        current.push_str(made.map_or(line, String::as_str));
        current.push('\n');
    }
    for list in &lists {
        assert!(current.contains(list.as_str()), "the schema has no line for {list}");
    }
    if std::env::var_os("CEDARGATE_ACCEPT").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        published, current,
        "`CEDARGATE_ACCEPT=1 cargo test --lib audit` writes the words"
    );
}

#[test]
fn the_pages_name_every_word_of_events() {
    let read = |page: &str| std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let (sessions, operations) = (read("docs/sessions.md"), read("docs/operations.md"));
    let acts = AuthAct::ALL.iter().map(|act| act.as_str());
    for word in acts.chain(AuthFact::ALL.iter().map(|fact| fact.as_str())) {
        assert!(
            sessions.contains(&format!("`{word}`")),
            "docs/sessions.md does not name `{word}`"
        );
    }
    let results = PolicyResult::ALL.iter().map(|result| result.as_str());
    for word in results.chain(AdminAct::ALL.iter().map(|act| act.as_str())) {
        assert!(
            operations.contains(&format!("`{word}`")),
            "docs/operations.md does not name `{word}`"
        );
    }
}

#[test]
fn an_event_of_every_word_fits_the_published_schema_and_no_other_word_does() {
    let schema: Value = serde_json::from_str(include_str!("../../schemas/audit-event.schema.json")).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let facts = AuthFact::ALL.iter().copied().map(AuthReason::from);
    let login_codes = LoginCode::ALL.iter().copied().map(AuthReason::from);
    let reasons = facts.chain(login_codes).chain(Denial::ALL.into_iter().map(AuthReason::from));
    let mut events: Vec<Event> = reasons
        .map(|reason| Event::Auth(Box::new(AuthSubject::default().failed(AuthAct::Login, reason))))
        .collect();
    let about = AuthSubject {
        operator: Some(7),
        decision_id: Some(Uuid::now_v7()),
        ..AuthSubject::default()
    };
    for act in AuthAct::ALL {
        let event = about.clone().succeeded(*act, AuthFact::Operator);
        events.push(Event::Auth(Box::new(event.with_detail(Some("d".to_owned())))));
    }
    for result in PolicyResult::ALL {
        events.push(Event::Policy(PolicyEvent {
            portal: "p".into(),
            revision: None,
            result: *result,
            detail: None,
            flags: Vec::new(),
        }));
    }
    events.extend(AdminAct::ALL.iter().map(|act| {
        Event::Admin(AdminEvent {
            event: *act,
            detail: None,
        })
    }));
    for event in &events {
        let line = other(event, &[]);
        let errors: Vec<String> = validator.iter_errors(&line).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{line}: {errors:?}");
        for field in ["event", "result", "reason"] {
            if line.get(field).is_some() {
                let mut changed = line.clone();
                changed[field] = "another_word".into();
                assert!(!validator.is_valid(&changed), "{changed}");
            }
        }
    }
}

#[test]
fn published_reasons_and_doors_are_those_of_the_code() {
    let schema: Value = serde_json::from_str(include_str!("../../schemas/audit-event.schema.json")).unwrap();
    let published = |field: &str| -> Vec<String> {
        let words = &schema["$defs"]["decision"]["properties"][field]["enum"];
        let mut words: Vec<String> = serde_json::from_value(words.clone()).unwrap();
        words.sort_unstable();
        words
    };
    let verdicts = Denial::ALL.into_iter().map(RecordedOutcome::Denied).chain([
        RecordedOutcome::Permitted,
        RecordedOutcome::Cancelled,
        RecordedOutcome::Panicked,
    ]);
    let mut reasons: Vec<&str> = verdicts.map(|verdict| verdict.words().1).collect();
    reasons.sort_unstable();
    // two denials, 413 and 431, share a code
    reasons.dedup();
    assert_eq!(published("reason"), reasons);
    let doors = published("door");
    assert!(
        Door::ALL.iter().all(|door| doors.contains(&door.as_str().to_owned())),
        "{doors:?}"
    );
}

#[test]
fn sampled_record_says_its_rate_and_a_denial_is_never_sampled() {
    let rate = config::Share::new(0.25);
    let sampled = AuditRecord {
        sample_rate: rate,
        ..full_record()
    };
    assert_eq!(decision(&sampled, &[])["sample_rate"], 0.25);
    let mut audit = queue(OnFull::Drop, 4000);
    let allow = serde_json::from_value(serde_json::json!({"default": 0.25})).unwrap();
    Arc::get_mut(&mut audit.0).unwrap().sampling = Sampling::new(&allow);
    for n in 0..2000 {
        let mut guard = audit.guard(Slot(None), record());
        if n % 2 == 0 {
            guard.permitted();
        } else {
            guard.denied(Denial::Forbidden);
        }
    }
    let reasons = reasons(&audit);
    let allowed = reasons.iter().filter(|reason| *reason == "permitted").count();
    assert_eq!(reasons.len() - allowed, 1000, "every denial is recorded");
    assert!((180..=320).contains(&allowed), "{allowed}");
}

#[test]
fn masked_fields_are_replaced_and_listed() {
    let line = decision(&full_record(), &["context.headers", "context.none"]);
    assert_eq!(line["context"]["headers"], "[masked]");
    assert_eq!(line["context"]["path"], "/");
    assert_eq!(line["masked"], serde_json::json!(["/context/headers"]));
    assert!(!line.to_string().contains("secret"));
}

#[test]
fn mask_leaves_kind_and_schema_version_readable() {
    let line = decision(&full_record(), &["kind", "schema_version", "masked", "ts"]);
    assert_eq!((&line["kind"], &line["schema_version"]), (&"decision".into(), &1.into()));
    assert_eq!(
        (&line["ts"], &line["masked"]),
        (&"[masked]".into(), &serde_json::json!(["/ts"]))
    );
}

fn entity() -> impl Strategy<Value = EntityRef> {
    let attrs = prop::option::of(any::<String>().prop_map(|text| Arc::new(serde_json::json!({ "email": text }))));
    let parents = prop::collection::vec(any::<String>().prop_map(Arc::from), 0..3);
    (any::<String>(), any::<String>(), attrs, parents).prop_map(|(kind, id, attrs, parents)| EntityRef {
        kind: kind.into(),
        id: EntityId::new(id),
        attrs,
        parents,
    })
}

fn caller() -> impl Strategy<Value = CallerRecord> {
    let token = (any::<String>(), prop::option::of(any::<String>())).prop_map(|(iss, kid)| TokenFacts {
        aud: vec![iss.clone()],
        iss,
        kid,
        alg: "ES256",
        jti_hash: None,
    });
    let tenant = prop::option::of(any::<String>());
    let roles = prop::collection::vec(any::<String>(), 0..3);
    (entity(), tenant, roles, prop::option::of(token))
        .prop_map(|(principal, tenant, roles, token)| CallerRecord::of(principal, tenant.as_deref(), &roles, token.as_ref()))
}

fn http_facts() -> impl Strategy<Value = HttpRecord> {
    let client = prop::option::of(any::<std::net::IpAddr>());
    (
        any::<String>(),
        prop::option::of(any::<String>()),
        client,
        prop::option::of(any::<u16>()),
    )
        .prop_map(|(path, route, client, status)| HttpRecord {
            method: http::Method::PATCH,
            path,
            route: route.map(Arc::from),
            client,
            status,
        })
}

fn any_record() -> impl Strategy<Value = AuditRecord> {
    let context =
        any::<String>().prop_map(|text| DecisionContext::Json(serde_json::json!({"headers": {"x": text}, "path": text})));
    let policies = prop::collection::vec(any::<String>().prop_map(Arc::from), 0..4);
    let verdict = prop_oneof![
        Just(RecordedOutcome::Permitted),
        Just(RecordedOutcome::Panicked),
        Just(RecordedOutcome::Denied(Denial::Forbidden))
    ];
    let facts = (
        prop::option::of(caller().prop_map(Arc::new)),
        prop::option::of(entity()),
        prop::option::of(entity()),
        prop::option::of(context),
        prop::option::of(http_facts()),
        prop::option::of(any::<[u8; 16]>()),
    );
    let rest = (policies, verdict, any::<(String, u64, Option<u64>, u128)>(), any::<bool>());
    (facts, rest).prop_map(
        |((caller, principal, resource, context, http, trace_id), (policies, verdict, values, is_full))| {
            let (text, total, micros, id) = values;
            let full = if is_full { full_record() } else { record() };
            AuditRecord {
                decision_id: Uuid::from_u128(id),
                sample_rate: micros
                    .and_then(|micros| config::Share::new(1.0 / f64::from(u32::try_from(micros % 1000 + 1).unwrap_or(1)))),
                ts: std::time::UNIX_EPOCH + Duration::from_micros(total % 250_000_000_000_000_000),
                request_id: http::HeaderValue::from_str(&text).ok(),
                trace_id,
                tenant: Some(text.as_str().into()),
                caller,
                principal,
                action: micros.map(|_| text.as_str().into()),
                resource,
                context,
                verdict,
                policies: policies.into(),
                http,
                latency_us: Latency {
                    total,
                    authn: micros,
                    decision: None,
                    upstream: micros,
                },
                ..full
            }
        },
    )
}

proptest! {
    #[test]
    fn decision_is_written_as_serde_writes_it(record in any_record()) {
        let everywhere = ["roles", "tenant", "principal.id", "token.kid", "http.path", "request_id", "resource", "context"];
        for mask in [&[][..], &["context.headers"], &["context.headers.x", "context.none"], &everywhere] {
            let mut line = Vec::new();
            line::write_decision(&record, &masked(mask), &mut line).unwrap();
            let expected = line::by_serde(&record, &masked(mask)).unwrap() + "\n";
            prop_assert_eq!(String::from_utf8(line).unwrap(), expected);
        }
    }
}

#[test]
fn guard_sends_exactly_one_record_on_every_exit() {
    let audit = queue(OnFull::Drop, 8);
    drop(audit.guard(Slot(None), record()));
    let mut guard = audit.guard(Slot(None), record());
    guard.denied(Denial::Forbidden);
    drop(guard);
    let panicking = audit.clone();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _guard = panicking.guard(Slot(None), record());
        panic!("on purpose");
    }));
    assert!(panic.is_err());
    assert_eq!(reasons(&audit), ["cancelled", "forbidden", "panicked"]);
}

#[test]
fn only_allowed_decisions_can_be_omitted() {
    let mut audit = queue(OnFull::Drop, 8);
    let allow = config::AuditAllow::Word(config::AllowWord::None);
    Arc::get_mut(&mut audit.0).unwrap().sampling = Sampling::new(&allow);
    for permitted in [true, false] {
        let mut guard = audit.guard(Slot(None), record());
        if permitted {
            guard.permitted();
        }
    }
    assert_eq!(reasons(&audit), ["cancelled"]);
}

#[test]
fn full_queue_counts_the_records_it_drops() {
    let audit = queue(OnFull::Drop, 1);
    for _ in 0..3 {
        let slot = audit.admit().unwrap();
        drop(audit.guard(slot, record()));
    }
    assert_eq!(audit.0.dropped.get(), 2);
}

#[test]
fn on_full_deny_reserves_a_slot_before_the_decision() {
    let audit = queue(OnFull::Deny, 2);
    let slot = audit.admit().unwrap();
    drop(audit.admit().unwrap());
    let unused = audit.admit().unwrap();
    assert_eq!(audit.admit().unwrap_err().denial, Denial::StoreUnavailable);
    drop(unused);
    drop(audit.guard(slot, record()));
    assert_eq!(reasons(&audit), ["cancelled"]);
    assert!(audit.admit().is_ok());
}

#[test]
fn file_sink_is_private_survives_rotation_and_writes_every_record_on_close() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let old = folder.path().join("old");
    let config = config::Audit {
        sink: AuditSink::File(FileSink::plain(&path)),
        mask: Vec::new(),
        queue: config::Count::of::<1000>(),
        ..config::Audit::default()
    };
    let metrics = Metrics::new().unwrap();
    let written = metrics.audit_events.with_label_values(&["file"]);
    let (audit, writer) = start(&config, &metrics).unwrap();
    drop(audit.guard(Slot(None), record()));
    for _ in 0..500 {
        if written.get() == 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    std::fs::rename(&path, &old).unwrap();
    for _ in 0..300 {
        drop(audit.guard(Slot(None), record()));
    }
    writer.close();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&old).unwrap().lines().count(), 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 300);
    assert_eq!(written.get(), 301);
}
