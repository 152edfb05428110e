//! What the certification scenario and the conformance suite of the OpenID Foundation ask of a policy decision point,
//! as tables of our own: requests, statuses, decisions and results, over HTTP.
//!
//! The identifiers are those of the scenario, so that a run of the suite against a gate with this portal asks the same.
//! The searches of the interoperability event are in `authzen_records`.

use serde_json::{Value, json};

use crate::support::{Answer, Gate, Setup, raw};

const SCHEMA: &str = r#"
    entity user = { role?: String };
    entity record = { status?: String };
    type Context = { time?: String, ip?: String, action?: { soft?: Bool, method?: String } };
    action read, write, delete appliesTo { principal: user, resource: record, context: Context };
"#;

/// The eight rules of the fixture. Known people read; an archived record is written by admins alone.
const POLICIES: &str = r#"
    @id("read") permit (principal, action == Action::"read", resource) when { [user::"alice", user::"bob"].contains(principal) };
    @id("write-active") permit (principal == user::"alice", action == Action::"write", resource)
        unless { resource has status && resource.status == "archived" };
    @id("write-archived") permit (principal, action == Action::"write", resource)
        when { principal has role && principal.role == "admin" && resource has status && resource.status == "archived" };
    @id("delete") permit (principal == user::"alice", action == Action::"delete", resource)
        when { context has action && context.action has soft && context.action.soft };
"#;

fn fixture() -> Setup {
    let entity = |ty: &str, id: &str, attrs: Value| json!({"uid": {"type": ty, "id": id}, "attrs": attrs, "parents": []});
    let entities = json!([
        entity("user", "alice", json!({})),
        entity("user", "bob", json!({"role": "admin"})),
        entity("record", "record-1", json!({"status": "active"})),
        entity("record", "record-2", json!({"status": "archived"})),
    ]);
    Setup::empty()
        .file("schemas/pdp.cedarschema", SCHEMA)
        .file("policies/pdp/main.cedar", POLICIES)
        .file("policies/pdp/entities.json", &entities.to_string())
        .config("authzen: { identifier: 'https://pdp.example.com' }")
}

const EVALUATION: &str = "/access/v1/evaluation";
const EVALUATIONS: &str = "/access/v1/evaluations";
const SUBJECTS: &str = "/access/v1/search/subject";
const RESOURCES: &str = "/access/v1/search/resource";
const ACTIONS: &str = "/access/v1/search/action";

/// A valid question of each endpoint.
fn valid(path: &str) -> Value {
    let mut body = json!({"subject": user("alice"), "action": {"name": "read"}, "resource": record("record-1")});
    match path {
        EVALUATIONS => body["evaluations"] = json!([{}]),
        SUBJECTS => body["subject"] = json!({"type": "user"}),
        RESOURCES => body["resource"] = json!({"type": "record"}),
        ACTIONS => drop(body.as_object_mut().unwrap().remove("action")),
        _ => {}
    }
    body
}

fn user(id: &str) -> Value {
    json!({"type": "user", "id": id})
}

fn record(id: &str) -> Value {
    json!({"type": "record", "id": id})
}

fn archived() -> Value {
    json!({"type": "record", "id": "record-2", "properties": {"status": "archived"}})
}

fn admin() -> Value {
    json!({"type": "user", "id": "bob", "properties": {"role": "admin"}})
}

fn with(body: &Value, member: &str, value: Value) -> Value {
    let mut body = body.clone();
    body[member] = value;
    body
}

fn without(body: &Value, member: &str) -> Value {
    let mut body = body.clone();
    body.as_object_mut().unwrap().remove(member);
    body
}

fn ask(gate: &Gate, path: &str, body: &Value) -> Answer {
    let headers = [("content-type", "application/json"), ("x-request-id", "r-1")];
    let answer = raw(gate.decision, "POST", path, &headers, body.to_string().as_bytes());
    assert_eq!(answer.header("x-request-id"), "r-1", "{body}");
    answer
}

/// The decisions of an answer, one or several.
fn decisions(answer: &Answer) -> Vec<bool> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/json");
    let answer = answer.json();
    match answer["evaluations"].as_array() {
        Some(all) => all.iter().map(|one| one["decision"].as_bool().unwrap()).collect(),
        None => vec![answer["decision"].as_bool().unwrap()],
    }
}

/// The ids or names of a page; each result has the type that was searched.
fn results(answer: &Answer, ty: &str) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    assert!(answer["page"]["next_token"].is_string(), "{answer}");
    let results = answer["results"].as_array().unwrap();
    assert_eq!(answer["page"]["count"], results.len());
    let name = |one: &Value| match ty {
        "action" => one["name"].as_str().unwrap().to_owned(),
        ty => {
            assert_eq!(one["type"], ty);
            one["id"].as_str().unwrap().to_owned()
        }
    };
    results.iter().map(name).collect()
}

#[test]
fn the_decisions_of_the_certification_scenario_are_ours() {
    let gate = fixture().start();
    let question =
        |subject: Value, action: Value, resource: Value| json!({"subject": subject, "action": action, "resource": resource});
    let plain = valid(EVALUATION);
    let delete = |soft: bool| json!({"name": "delete", "properties": {"soft": soft}});
    let context = json!({"time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1"});
    let additional = question(
        json!({"type": "user", "id": "alice", "properties": {"department": "Sales", "role": "manager"}}),
        json!({"name": "read", "properties": {"method": "GET"}}),
        json!({"type": "record", "id": "record-1", "properties": {"status": "active", "owner": "bob"}}),
    );
    for (body, expected) in [
        (plain.clone(), true),
        (question(user("alice"), json!({"name": "write"}), record("record-1")), true),
        (question(user("bob"), json!({"name": "read"}), record("record-1")), true),
        (question(user("bob"), json!({"name": "write"}), record("record-1")), false),
        (question(user("alice"), json!({"name": "write"}), archived()), false),
        (question(admin(), json!({"name": "write"}), archived()), true),
        (question(user("alice"), delete(true), record("record-1")), true),
        (question(user("alice"), delete(false), record("record-1")), false),
        (question(user("alice"), json!({"name": "delete"}), record("record-1")), false),
        // properties count for entities that the portal does not store, too
        (
            question(
                user("alice"),
                json!({"name": "write"}),
                json!({"type": "record", "id": "new", "properties": {"status": "archived"}}),
            ),
            false,
        ),
        (
            question(
                json!({"type": "user", "id": "new", "properties": {"role": "admin"}}),
                json!({"name": "write"}),
                archived(),
            ),
            true,
        ),
        (with(&plain, "context", context.clone()), true),
        (additional, true),
        (
            with(&with(&plain, "foo", json!("bar")), "futureField", json!({"nested": true})),
            true,
        ),
        (
            with(&plain, "subject", json!({"type": "user", "id": "alice", "unknown": 1})),
            true,
        ),
        (with(&plain, "action", json!({"name": "read", "unknown": 1})), true),
        (
            with(&plain, "resource", json!({"type": "record", "id": "record-1", "unknown": 1})),
            true,
        ),
        // a member of the context that is called like the record of the action's properties gives way to them
        (
            with(
                &question(user("alice"), delete(false), record("record-1")),
                "context",
                json!({"action": {"soft": true}}),
            ),
            false,
        ),
    ] {
        for _ in 0..3 {
            let answer = ask(&gate, EVALUATION, &body);
            assert_eq!(decisions(&answer), [expected], "{body} {}", answer.text());
            assert!(answer.json()["context"].is_object());
        }
    }
}

#[test]
fn the_batches_of_the_certification_scenario_are_answered_in_order() {
    let gate = fixture().start();
    let named = |name: &str| json!({"action": {"name": name}});
    let options = |semantic: &str| json!({"evaluations_semantic": semantic});
    let of_bob = json!({"subject": user("bob"), "resource": record("record-1")});
    let of_alice = json!({"subject": user("alice"), "action": {"name": "write"}, "resource": {"type": "record", "id": "record-1",
        "properties": {"status": "active"}}});
    let read = json!({"subject": user("alice"), "action": {"name": "read"}});
    let full = |subject: &str, action: &str| json!({"subject": user(subject), "action": {"name": action}, "resource": record("record-1")});
    let three = with(&of_bob, "evaluations", json!([named("read"), named("write"), named("read")]));
    let broken = with(&read, "evaluations", json!([{"resource": record("record-1")}, {}]));
    let contexts = json!([{"resource": record("record-1")},
        {"resource": record("record-2"), "context": {"time": "2025-06-27T19:00-07:00", "source": "batch-override"}}]);
    for (body, expected) in [
        (
            with(
                &read,
                "evaluations",
                json!([{"resource": record("record-1")}, {"resource": record("record-2")}]),
            ),
            vec![true, true],
        ),
        (
            with(&of_bob, "evaluations", json!([named("read"), named("write")])),
            vec![true, false],
        ),
        (
            with(&of_alice, "evaluations", json!([{}, {"resource": archived()}])),
            vec![true, false],
        ),
        (
            json!({"action": {"name": "write"}, "resource": archived(), "evaluations": [{"subject": user("alice")}, {"subject": admin()}]}),
            vec![false, true],
        ),
        (
            json!({"evaluations": [full("alice", "read"), full("bob", "write")]}),
            vec![true, false],
        ),
        (
            with(
                &with(&read, "context", json!({"time": "2025-06-27T18:03-07:00"})),
                "evaluations",
                contexts,
            ),
            vec![true, true],
        ),
        (with(&broken, "options", options("execute_all")), vec![true, false]),
        (broken, vec![true, false]),
        (
            json!({"action": {"name": "read"}, "evaluations": [{"resource": record("record-1")}]}),
            vec![false],
        ),
        (with(&three, "options", options("execute_all")), vec![true, false, true]),
        (with(&three, "options", options("deny_on_first_deny")), vec![true, false]),
        (with(&three, "options", options("permit_on_first_permit")), vec![true]),
        (with(&three, "unknown", json!([1])), vec![true, false, true]),
        (valid(EVALUATION), vec![true]),
        (with(&valid(EVALUATION), "evaluations", json!([])), vec![true]),
    ] {
        let answer = ask(&gate, EVALUATIONS, &body);
        assert_eq!(decisions(&answer), expected, "{body} {}", answer.text());
    }
    assert_eq!(
        ask(&gate, EVALUATIONS, &with(&three, "options", options("bogus_value"))).status,
        400
    );
}

#[test]
fn the_searches_of_the_certification_scenario_find_their_entities() {
    let gate = fixture().start();
    let context = json!({"time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1"});
    let write = json!({"name": "write"});
    let subjects = valid(SUBJECTS);
    let resources = valid(RESOURCES);
    let actions = valid(ACTIONS);
    for (path, ty, body, expected) in [
        (SUBJECTS, "user", subjects.clone(), vec!["alice", "bob"]),
        (
            SUBJECTS,
            "user",
            with(&subjects, "context", context.clone()),
            vec!["alice", "bob"],
        ),
        (
            SUBJECTS,
            "user",
            with(&subjects, "subject", user("alice")),
            vec!["alice", "bob"],
        ),
        (
            SUBJECTS,
            "user",
            with(&subjects, "page", json!({"limit": 10, "customAttr": "ignored"})),
            vec!["alice", "bob"],
        ),
        (SUBJECTS, "user", with(&subjects, "future", json!(1)), vec!["alice", "bob"]),
        (
            SUBJECTS,
            "user",
            json!({"subject": {"type": "user"}, "action": write, "resource": archived()}),
            vec!["bob"],
        ),
        (
            SUBJECTS,
            "spaceship",
            with(&subjects, "subject", json!({"type": "spaceship"})),
            vec![],
        ),
        (
            SUBJECTS,
            "user",
            with(&subjects, "resource", json!({"type": "spaceship", "id": "x"})),
            vec![],
        ),
        (SUBJECTS, "user", with(&subjects, "action", json!({"name": "fly"})), vec![]),
        (
            SUBJECTS,
            "user",
            with(&subjects, "action", json!({"name": "delete", "properties": {"soft": true}})),
            vec!["alice"],
        ),
        (RESOURCES, "record", resources.clone(), vec!["record-1", "record-2"]),
        (
            RESOURCES,
            "record",
            with(&resources, "context", context.clone()),
            vec!["record-1", "record-2"],
        ),
        (
            RESOURCES,
            "record",
            with(&resources, "resource", record("record-1")),
            vec!["record-1", "record-2"],
        ),
        (
            RESOURCES,
            "record",
            json!({"subject": admin(), "action": write, "resource": {"type": "record"}}),
            vec!["record-2"],
        ),
        (
            RESOURCES,
            "record",
            with(&resources, "subject", user("nonexistent-user")),
            vec![],
        ),
        (
            RESOURCES,
            "spaceship",
            with(&resources, "resource", json!({"type": "spaceship"})),
            vec![],
        ),
        (ACTIONS, "action", actions.clone(), vec!["read", "write"]),
        (ACTIONS, "action", with(&actions, "context", context), vec!["read", "write"]),
        (
            ACTIONS,
            "action",
            with(&actions, "action", json!({"name": "delete", "properties": 7})),
            vec!["read", "write"],
        ),
        (
            ACTIONS,
            "action",
            json!({"subject": admin(), "resource": archived()}),
            vec!["read", "write"],
        ),
        (ACTIONS, "action", with(&actions, "subject", user("nonexistent-user")), vec![]),
        (
            ACTIONS,
            "action",
            with(&actions, "resource", json!({"type": "spaceship", "id": "x"})),
            vec![],
        ),
    ] {
        for _ in 0..2 {
            let answer = ask(&gate, path, &body);
            assert_eq!(results(&answer, ty), expected, "{path} {body}");
            assert_eq!(answer.json()["page"]["next_token"], "", "{path} {body}");
        }
    }
}

#[test]
fn every_endpoint_refuses_what_the_certification_scenario_calls_invalid() {
    let gate = fixture().start();
    let json_type = ("content-type", "application/json");
    for path in [EVALUATION, EVALUATIONS, SUBJECTS, RESOURCES, ACTIONS] {
        let good = valid(path);
        let text = good.to_string();
        for (method, headers, body, status) in [
            (
                "POST",
                vec![("content-type", "application/json; charset=utf-8")],
                text.clone(),
                200,
            ),
            ("POST", vec![json_type], text.clone(), 200),
            ("POST", vec![("content-type", "text/plain")], text.clone(), 400),
            ("POST", vec![("content-type", "application/xml")], text.clone(), 400),
            ("POST", vec![json_type], String::new(), 400),
            ("POST", vec![json_type], "{ not json".to_owned(), 400),
            ("POST", vec![json_type], format!("[{text}]"), 400),
            ("GET", vec![], String::new(), 405),
            ("PUT", vec![json_type], text.clone(), 405),
            ("DELETE", vec![], String::new(), 405),
        ] {
            let answer = raw(gate.decision, method, path, &headers, body.as_bytes());
            assert_eq!(answer.status, status, "{method} {path} {headers:?} {body}: {}", answer.text());
            // without an id of the client there is one of the gate
            assert!(!answer.header("x-request-id").is_empty(), "{method} {path} {body}");
            let named: Vec<_> = headers.iter().copied().chain([("x-request-id", "r-2")]).collect();
            let answer = raw(gate.decision, method, path, &named, body.as_bytes());
            assert_eq!(answer.header("x-request-id"), "r-2", "{method} {path} {body}");
        }
        // a batch denies an item instead
        let members = match path {
            EVALUATIONS => continue,
            SUBJECTS => [
                ("subject", "type"),
                ("action", "name"),
                ("resource", "type"),
                ("resource", "id"),
            ]
            .as_slice(),
            RESOURCES => &[
                ("subject", "type"),
                ("subject", "id"),
                ("action", "name"),
                ("resource", "type"),
            ],
            ACTIONS => &[
                ("subject", "type"),
                ("subject", "id"),
                ("resource", "type"),
                ("resource", "id"),
            ],
            _ => &[
                ("subject", "type"),
                ("subject", "id"),
                ("action", "name"),
                ("resource", "type"),
                ("resource", "id"),
            ],
        };
        for (member, part) in members {
            let mut bodies = vec![
                without(&good, member),
                with(&good, member, json!("alice")),
                with(&good, member, json!([])),
            ];
            bodies.push(with(&good, member, without(&good[member], part)));
            bodies.push(with(&good, member, with(&good[member], part, json!(123))));
            bodies.push(with(&good, member, with(&good[member], "properties", json!("x"))));
            bodies.push(with(&good, "context", json!("x")));
            for body in bodies {
                let answer = ask(&gate, path, &body);
                assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text());
            }
        }
    }
}

#[test]
fn a_page_of_one_result_ends_with_a_token_of_the_next_page() {
    let gate = fixture().start();
    let mut body = with(&valid(SUBJECTS), "page", json!({"limit": 1}));
    let first = ask(&gate, SUBJECTS, &body);
    assert_eq!(results(&first, "user"), ["alice"]);
    // the next page may be asked with the token alone
    body["page"] = json!({"token": first.json()["page"]["next_token"]});
    let second = ask(&gate, SUBJECTS, &body);
    assert_eq!(
        (results(&second, "user"), &second.json()["page"]["next_token"]),
        (vec!["bob".to_owned()], &json!(""))
    );
}

#[test]
fn the_metadata_are_what_the_certification_scenario_reads() {
    let gate = fixture().start();
    for (suffix, identifier) in [("", "https://pdp.example.com"), ("/pdp", "https://pdp.example.com/pdp")] {
        let path = format!("/.well-known/authzen-configuration{suffix}");
        let answer = raw(gate.decision, "GET", &path, &[], b"");
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
        let document = answer.json();
        assert_eq!(document["policy_decision_point"], identifier);
        for (member, end) in [
            ("access_evaluation_endpoint", EVALUATION),
            ("access_evaluations_endpoint", EVALUATIONS),
            ("search_subject_endpoint", SUBJECTS),
            ("search_resource_endpoint", RESOURCES),
            ("search_action_endpoint", ACTIONS),
        ] {
            let url = document[member].as_str().unwrap();
            assert!(url.starts_with("https://pdp.example.com/") && url.ends_with(end), "{url}");
        }
        assert_eq!(document["cedargate_search"]["exact"], true);
        assert_eq!(document["cedargate_search"]["page_limit_max"], 1000);
    }
}
