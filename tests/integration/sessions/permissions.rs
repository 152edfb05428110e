//! `permissions`: what a caller may do, as a snapshot, for named resources, and as events when it changes.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::session_client::{IDENTITY_PATH, ORIGIN, log_in, log_out, with_accounts, with_cookie};
use crate::support::{Answer, Gate, Setup, claims, eventually, now, patience, raw};

const SCHEMA: &str = r#"
entity Role in [Role]; entity Tenant; entity Portal; entity Path in [Path, Portal];
entity User in [Role, Tenant];
entity Order { owner: User };
action GET, POST appliesTo { principal: [User], resource: [Path], context: { method?: String } };
action viewOrder, cancelOrder appliesTo { principal: [User], resource: [Order], context: { source_ip?: ipaddr, flags?: { beta?: Bool, plain?: Bool } } };
"#;
const POLICIES: &str = r#"
@id("pages") permit (principal in Role::"viewer", action == Action::"GET", resource in Portal::"p");
@id("write") permit (principal in Role::"viewer", action == Action::"POST", resource) when { context has method && context.method == "POST" };
@id("own") permit (principal in Role::"viewer", action == Action::"viewOrder", resource) when { resource.owner == principal };
@id("editors") permit (principal in Role::"editor", action, resource is Order);
@id("mfa") @step_up("mfa") forbid (principal in Role::"admin", action, resource is Order);
@id("local") forbid (principal, action == Action::"cancelOrder", resource) when { context has source_ip && context.source_ip.isMulticast() };
"#;
const ENTITIES: &str = r#"[
  { "uid": { "type": "Order", "id": "1" }, "attrs": { "owner": { "__entity": { "type": "User", "id": "test|alice" } } }, "parents": [] }
]"#;

fn setup() -> Setup {
    with_accounts(Setup::portal(SCHEMA, POLICIES))
        .file("policies/p/entities.json", ENTITIES)
        .file(
            "policies/p/portal.yaml",
            "login: { provider: local }\nflags: { beta: true }\n",
        )
}

fn path(query: &str) -> String {
    format!("{IDENTITY_PATH}/permissions{query}")
}

fn bearer(gate: &Gate, path: &str, token: &str, more: &[(&str, &str)]) -> Answer {
    let token = format!("Bearer {token}");
    let headers: Vec<_> = [("authorization", token.as_str())]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    raw(gate.proxy, "GET", path, &headers, b"")
}

fn ask(gate: &Gate, token: &str, body: &Value) -> Answer {
    let token = format!("Bearer {token}");
    let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
    raw(gate.proxy, "POST", &path(""), &headers, body.to_string().as_bytes())
}

#[test]
fn a_snapshot_says_what_the_caller_may_do_and_its_tag_saves_the_next_one() {
    let gate = setup().start();
    let token = gate.issuer.token("alice", &["viewer"]);
    let first = bearer(&gate, &path("?portal=p"), &token, &[]);
    assert_eq!(first.status, 200, "{}", first.text());
    let body = first.json();
    assert_eq!(body["portal"], "p");
    assert_eq!(body["revision"], Value::from(gate.revision("p").unwrap()));
    assert_eq!((&body["subject"], &body["tenant"]), (&json!("test|alice"), &json!("acme")));
    assert_eq!(body["roles"], json!(["viewer"]));
    assert!(body["expires_at"].as_str().unwrap().ends_with('Z'), "{body}");
    assert_eq!(
        body["resource_types"],
        json!({"Order": {"viewOrder": "conditional", "cancelOrder": "deny"}, "Path": {"GET": "allow", "POST": "conditional"}})
    );
    assert_eq!(
        body["actions"],
        json!({"viewOrder": "conditional", "cancelOrder": "deny", "GET": "allow", "POST": "conditional"})
    );
    assert_eq!(body["flags"], json!({"beta": true}));
    assert_eq!(
        (first.header("cache-control"), first.header("vary")),
        ("private, no-cache", "Cookie, Authorization")
    );
    let tag = first.header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.len() == 34, "{tag}");
    let again = bearer(&gate, &path(""), &token, &[("if-none-match", &tag)]);
    assert_eq!((again.status, again.header("etag"), again.body.len()), (304, tag.as_str(), 0));
    assert_eq!(again.header("vary"), "Cookie, Authorization");
    // other facts, other tags
    let bob = gate.issuer.token("bob", &["viewer"]);
    let editor = gate.issuer.token("alice", &["editor"]);
    for (token, query) in [(&bob, ""), (&editor, ""), (&token, "?format=casl")] {
        let other = bearer(&gate, &path(query), token, &[("if-none-match", &tag)]);
        assert_eq!(other.status, 200);
        assert_ne!(other.header("etag"), tag);
    }
    let rules = bearer(&gate, &path("?format=casl&portal=p"), &editor, &[]).json();
    assert_eq!(rules, json!([{"action": "viewOrder", "subject": "Order"}]), "{rules}");
    let metrics = gate.metrics();
    for (result, count) in [("computed", 3), ("not_modified", 1)] {
        let line = format!("cedargate_permission_snapshots_total{{portal=\"p\",result=\"{result}\"}} {count}");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    // an edit is another revision and another tag
    let before = gate.revision("p");
    gate.put(
        "policies/p/main.cedar",
        &POLICIES.replace("@id(\"own\") permit", "@id(\"own\") forbid"),
    );
    eventually("the edit is in force", || {
        (gate.revision("p") != before).then_some(()).ok_or("old".to_owned())
    });
    let edited = bearer(&gate, &path(""), &token, &[("if-none-match", &tag)]);
    assert_eq!((edited.status, &edited.json()["actions"]["viewOrder"]), (200, &json!("deny")));
}

#[test]
fn only_a_credential_of_the_portal_gets_an_answer() {
    let gate = setup()
        .file("policies/broken/main.cedar", "permit (")
        .file("schemas/broken.cedarschema", SCHEMA)
        .config("portals: { p: { issuers: [test, local], tenant: { fixed: acme } }, broken: { issuers: [test] } }")
        .start();
    let token = gate.issuer.token("alice", &["viewer"]);
    let mut other = claims("alice", &["viewer"]);
    other["tenant"] = json!("globex");
    let other = gate.issuer.sign(&other);
    for (answer, status, code) in [
        (raw(gate.proxy, "GET", &path("?portal=p"), &[], b""), 401, "token_missing"),
        (bearer(&gate, &path("?portal=p"), "x.y.z", &[]), 401, "token_invalid"),
        (bearer(&gate, &path("?portal=nope"), &token, &[]), 404, "portal_unknown"),
        (bearer(&gate, &path(""), &token, &[]), 400, "request_invalid"),
        (
            bearer(&gate, &path("?portal=p&format=xml"), &token, &[]),
            400,
            "request_invalid",
        ),
        (bearer(&gate, &path("?portal=p"), &other, &[]), 403, "tenant_mismatch"),
        (bearer(&gate, &path("?portal=broken"), &token, &[]), 403, "no_policy_loaded"),
        (
            with_cookie(&gate, "GET", &path("?portal=p"), "__Host-cedargate=x", &[]),
            401,
            "session_missing",
        ),
        (bearer(&gate, &path("/events?portal=p"), "x.y.z", &[]), 401, "token_invalid"),
    ] {
        assert_eq!((answer.status, answer.code()), (status, code.to_owned()), "{}", answer.text());
    }
    // a caller may read what is wrong with its own query
    for (query, detail) in [("", "add `?portal=`"), ("?portal=p&format=xml", "`format` is not `casl`")] {
        let refused = bearer(&gate, &path(query), &token, &[]).json();
        assert!(refused["detail"].as_str().unwrap_or_default().contains(detail), "{refused}");
    }
    // the same session is no credential where its issuer is not trusted
    let cookie = log_in(&gate, "alice");
    let own = with_cookie(&gate, "GET", &path(""), &cookie, &[]);
    assert_eq!(
        (own.status, &own.json()["subject"]),
        (200, &json!("local|alice")),
        "{}",
        own.text()
    );
    let foreign = with_cookie(&gate, "GET", &path("?portal=broken"), &cookie, &[]);
    assert_eq!((foreign.status, foreign.code()), (401, "issuer_unknown".to_owned()));
    log_out(&gate, &cookie);
    let gone = with_cookie(&gate, "GET", &path(""), &cookie, &[]);
    assert_eq!(gone.status, 401);
}

#[test]
fn named_resources_are_decided_one_by_one_and_stored_entities_win() {
    let gate = setup().start();
    let token = gate.issuer.token("alice", &["viewer"]);
    let mine = json!({"owner": {"__entity": {"type": "User", "id": "test|alice"}}});
    let body = json!({"portal": "p", "resources": [
        {"type": "Order", "id": "1"},
        {"type": "Order", "id": "2", "attrs": mine},
        {"type": "Order", "id": "3"},
        {"type": "Path", "id": "/portal/p/x"},
    ]});
    let answer = ask(&gate, &token, &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    assert_eq!(
        (&answer["portal"], &answer["revision"]),
        (&json!("p"), &json!(gate.revision("p").unwrap()))
    );
    let actions: Vec<Value> = answer["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["actions"].clone())
        .collect();
    assert_eq!(
        actions,
        [
            json!({"cancelOrder": "deny", "viewOrder": "allow"}),
            json!({"cancelOrder": "deny", "viewOrder": "allow"}),
            json!({"cancelOrder": "deny", "viewOrder": "deny"}),
            json!({"GET": "allow", "POST": "conditional"}),
        ]
    );
    let editor = gate.issuer.token("eve", &["editor"]);
    let cancel = json!({"resources": [{"type": "Order", "id": "1"}], "actions": ["cancelOrder"]});
    // the forbid reads the address of a request
    assert_eq!(
        ask(&gate, &editor, &cancel).json()["resources"][0]["actions"]["cancelOrder"],
        "conditional"
    );
    let admin = gate.issuer.token("ada", &["admin", "editor"]);
    let order = json!({"resources": [{"type": "Order", "id": "1"}]});
    let answer = ask(&gate, &admin, &order).json();
    assert_eq!((&answer["subject"], &answer["tenant"]), (&json!("test|ada"), &json!("acme")));
    let of_order = &answer["resources"][0];
    assert_eq!(of_order["actions"], json!({"cancelOrder": "deny", "viewOrder": "deny"}));
    assert_eq!(of_order["step_up"], json!({"cancelOrder": "mfa", "viewOrder": "mfa"}));
    let allowed = ask(&gate, &editor, &order).json();
    assert!(allowed["resources"][0].get("step_up").is_none(), "{allowed}");
    let theirs = json!({"resources": [{"type": "Order", "id": "1", "attrs": {"owner": {"__entity": {"type": "User", "id": "test|eve"}}}}], "actions": ["viewOrder"]});
    let viewer = gate.issuer.token("eve", &["viewer"]);
    assert_eq!(
        ask(&gate, &viewer, &theirs).json()["resources"][0]["actions"]["viewOrder"],
        "deny",
        "the stored owner counts"
    );
    for (body, detail) in [
        (json!({"resources": [{"type": "Nope", "id": "1"}]}), "no entity type `Nope`"),
        (json!({"resources": [{"type": "Order"}]}), "`resources.0.id` is missing"),
        (
            json!({"resources": [{"type": 7, "id": "1"}]}),
            "`resources.0.type` is not a string",
        ),
        (
            json!({"resources": [{"type": "Order", "id": "1", "attrs": {"owner": 7}}]}),
            "owner",
        ),
        (
            json!({"resources": [{"type": "Order", "id": "1"}], "actions": ["nope"]}),
            "no action `nope`",
        ),
        (json!({"resources": {}, "portal": "p"}), "`resources` is not a list"),
        (json!({"resources": [], "more": 1}), "`more` is not a member"),
        (json!({}), "`resources` is not a list"),
        (json!([]), "the body is not strict JSON"),
    ] {
        let answer = ask(&gate, &token, &body);
        assert_eq!((answer.status, answer.code()), (400, "request_invalid".to_owned()), "{body}");
        let told = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(told.contains(detail), "{body}: {}", answer.text());
    }
    let elsewhere = ask(&gate, &token, &json!({"portal": "nope", "resources": []}));
    assert_eq!((elsewhere.status, elsewhere.code()), (404, "portal_unknown".to_owned()));
    assert_eq!(elsewhere.json()["detail"], "there is no portal `nope`");
    let many: Vec<Value> = (0..101).map(|n| json!({"type": "Order", "id": n.to_string()})).collect();
    assert_eq!(ask(&gate, &token, &json!({"resources": many[..100]})).status, 200);
    let answer = ask(&gate, &token, &json!({"resources": many}));
    assert_eq!((answer.status, answer.code()), (413, "request_too_large".to_owned()));
    let huge = json!({"resources": [{"type": "Order", "id": "x".repeat(70_000)}]});
    assert_eq!(ask(&gate, &token, &huge).status, 413);
    // a cookie needs evidence of the origin
    let cookie = log_in(&gate, "alice");
    let body = json!({"resources": [{"type": "Order", "id": "1"}]}).to_string();
    for (origin, status) in [(ORIGIN, 200), ("https://evil.test", 403)] {
        let headers = [
            ("cookie", cookie.as_str()),
            ("origin", origin),
            ("content-type", "application/json"),
        ];
        assert_eq!(
            raw(gate.proxy, "POST", &path(""), &headers, body.as_bytes()).status,
            status,
            "{origin}"
        );
    }
    let headers = [("cookie", cookie.as_str()), ("content-type", "application/json")];
    let answer = raw(gate.proxy, "POST", &path(""), &headers, body.as_bytes());
    assert_eq!((answer.status, answer.code()), (403, "origin_mismatch".to_owned()));
}

/// An open stream of events.
struct Stream {
    socket: TcpStream,
    read: String,
}

impl Stream {
    fn open(gate: &Gate, headers: &[(&str, &str)]) -> Self {
        let mut socket = TcpStream::connect(gate.proxy).unwrap();
        socket.set_read_timeout(Some(patience())).unwrap();
        let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("GET {}/events?portal=p HTTP/1.1\r\nhost: shop.test\r\n{more}\r\n", path(""));
        socket.write_all(head.as_bytes()).unwrap();
        Self {
            socket,
            read: String::new(),
        }
    }

    fn of(gate: &Gate, token: &str) -> Self {
        Self::open(gate, &[("authorization", &format!("Bearer {token}"))])
    }

    /// Reads on until the text came.
    fn until(&mut self, text: &str) {
        while !self.read.contains(text) {
            assert!(self.more(), "the stream ended before `{text}`: {}", self.read);
        }
    }

    /// Reads to the end of the answer.
    fn ends(&mut self) {
        while !self.read.ends_with("0\r\n\r\n") && self.more() {}
    }

    fn more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let count = self.socket.read(&mut buffer).unwrap();
        self.read.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        count > 0
    }
}

#[test]
fn a_stream_tells_of_edits_revocations_and_the_end_of_the_credential() {
    let gate = setup().start();
    let token = gate.issuer.token("alice", &["viewer"]);
    let mut stream = Stream::of(&gate, &token);
    stream.until("retry: 3000");
    let revision = gate.revision("p").unwrap();
    stream.until(&format!("id: {revision}\n"));
    assert!(
        stream.read.contains("content-type: text/event-stream") && !stream.read.contains("event:"),
        "{}",
        stream.read
    );
    gate.put(
        "policies/p/portal.yaml",
        "login: { provider: local }\nflags: { beta: false }\n",
    );
    stream.until("event: changed\ndata: {\"revision\":\"");
    let edited = eventually("the edit is in force", || {
        gate.revision("p").filter(|now| *now != revision).ok_or(String::new())
    });
    stream.until(&format!("{{\"revision\":\"{edited}\"}}"));
    // an emergency forbid
    gate.put(
        "policies/p/_deny/stop.cedar",
        "forbid (principal, action == Action::\"viewOrder\", resource);",
    );
    let stopped = eventually("the emergency forbid is in force", || {
        gate.revision("p").filter(|now| *now != edited).ok_or(String::new())
    });
    stream.until(&format!("{{\"revision\":\"{stopped}\"}}"));
    // a client that comes back
    let mut old = Stream::open(
        &gate,
        &[("authorization", &format!("Bearer {token}")), ("last-event-id", &revision)],
    );
    old.until(&format!("{{\"revision\":\"{stopped}\"}}"));
    let mut current = Stream::open(
        &gate,
        &[("authorization", &format!("Bearer {token}")), ("last-event-id", &stopped)],
    );
    current.until("retry: 3000");
    assert!(!current.read.contains("event:"));
    // a logout
    let cookie = log_in(&gate, "alice");
    let mut of_session = Stream::open(&gate, &[("cookie", &cookie)]);
    of_session.until("retry: 3000");
    log_out(&gate, &cookie);
    of_session.until("event: changed\ndata: {\"reason\":\"revoked\"}");
    of_session.ends();
    // an expiry
    let mut short = claims("bob", &["viewer"]);
    short["exp"] = json!(now() + 2);
    let mut short = Stream::of(&gate, &gate.issuer.sign(&short));
    short.until("event: changed\ndata: {\"reason\":\"expired\"}");
    short.ends();
    assert!(
        gate.metrics().contains("cedargate_permission_streams 3"),
        "{}",
        gate.metrics()
    );
    // the drain ends the others
    drop(old);
    drop(current);
    let mut last = stream;
    let reader = std::thread::spawn(move || last.ends());
    gate.stop();
    reader.join().unwrap();
}

#[test]
fn streams_are_bounded_by_caller_and_in_all() {
    let gate = setup()
        .config("limits: { workers: 2, drain_timeout: 5s, permission_streams: 5, permission_streams_per_caller: 2, half_close_timeout: 1s }")
        .start();
    let tokens: Vec<String> = ["a", "b", "c", "d"].map(|name| gate.issuer.token(name, &["viewer"])).into();
    let mut open: Vec<Stream> = Vec::new();
    for token in tokens.iter().flat_map(|token| [token, token]).take(5) {
        let mut stream = Stream::of(&gate, token);
        stream.until("retry: 3000");
        open.push(stream);
    }
    let events = path("/events?portal=p");
    let refused = bearer(&gate, &events, &tokens[0], &[]);
    assert_eq!((refused.status, refused.code()), (429, "rate_limited".to_owned()));
    let refused = bearer(&gate, &events, &tokens[3], &[]);
    assert_eq!((refused.status, refused.code()), (503, "overloaded".to_owned()));
    let limit = eventually("the refusal is recorded", || {
        let records = gate.records(1);
        let limits: Vec<_> = records
            .iter()
            .filter_map(|record| record["limit"].as_str().map(str::to_owned))
            .collect();
        (limits.len() == 2).then_some(limits).ok_or(String::new())
    });
    assert_eq!(limit, ["limits.permission_streams_per_caller", "limits.permission_streams"]);
    open.clear();
    eventually("the places are free again", || {
        let free = gate.metrics().contains("cedargate_permission_streams 0");
        free.then_some(()).ok_or(String::new())
    });
    Stream::of(&gate, &tokens[3]).until("retry: 3000");
}

#[test]
fn a_flag_for_some_callers_is_the_same_at_every_door_and_its_changes_are_recorded() {
    let schema = SCHEMA.replace("method?: String", "method?: String, flags?: { beta?: Bool, plain?: Bool }");
    let policies = "@id(\"beta\") permit (principal, action == Action::\"GET\", resource) when { context has flags && context.flags has beta && context.flags.beta };";
    let entities =
        r#"[{ "uid": { "type": "Role", "id": "admin" }, "attrs": {}, "parents": [{ "type": "Role", "id": "editor" }] }]"#;
    let yaml = |flag: &str| format!("login: {{ provider: local }}\nflags: {{ beta: {flag}, plain: true }}\n");
    let gate = with_accounts(Setup::portal(&schema, policies))
        .file("policies/p/entities.json", entities)
        .file(
            "policies/p/portal.yaml",
            &yaml("{ value: true, tenants: [acme], roles: [editor], public: true }"),
        )
        .start();
    let mut globex = claims("gina", &["editor"]);
    globex["tenant"] = json!("globex");
    for (token, has_it) in [
        (gate.issuer.token("eve", &["editor"]), true),
        (gate.issuer.token("ada", &["admin"]), true),
        (gate.issuer.token("vic", &["viewer"]), false),
        (gate.issuer.sign(&globex), false),
    ] {
        assert_eq!(gate.get("/portal/p/x", &token).status, if has_it { 200 } else { 403 });
        let asked = gate.authorize(
            &json!({"portal": "p", "token": token, "action": "GET", "resource": {"type": "Path", "id": "/portal/p/x"}}),
        );
        assert_eq!(asked["decision"], if has_it { "allow" } else { "deny" });
        let snapshot = bearer(&gate, &path(""), &token, &[]).json();
        assert_eq!(snapshot["flags"], json!({"beta": has_it, "plain": true}));
        assert_eq!(
            snapshot["resource_types"]["Path"]["GET"],
            if has_it { "allow" } else { "deny" }
        );
        let metadata = bearer(&gate, &format!("{IDENTITY_PATH}/portals/p/"), &token, &[]).json();
        assert_eq!(metadata["flags"], json!({"beta": has_it}));
    }
    let metadata = raw(gate.proxy, "GET", &format!("{IDENTITY_PATH}/portals/p/"), &[], b"").json();
    assert_eq!(metadata["flags"], json!({"beta": false}), "without a credential");
    let before = gate.revision("p");
    gate.put("policies/p/portal.yaml", &yaml("false"));
    eventually("the edit is in force", || {
        (gate.revision("p") != before).then_some(()).ok_or(String::new())
    });
    let change = eventually("the change is recorded", || {
        let text = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap();
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut changes = records.filter_map(|record| record.get("flags").cloned());
        changes.next().ok_or(String::new())
    });
    let old = "{\"value\":true,\"public\":true,\"tenants\":[\"acme\"],\"roles\":[\"editor\"],\"otherwise\":false}";
    assert_eq!(change, json!([{"name": "beta", "old": old, "new": "false"}]));
    let eve = gate.issuer.token("eve", &["editor"]);
    assert_eq!(gate.get("/portal/p/x", &eve).status, 403);
}
