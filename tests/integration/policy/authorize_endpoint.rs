//! The contract of `POST /authorize` and `/authorize/batch`: principal, action, resource and context, and each refusal
//! with its place in the body.

use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::support::{Answer, Gate, Setup, claims, exchange, parse, raw};

const SCHEMA: &str = r#"
    entity Tenant; entity Role in [Role]; entity Group in [Group];
    entity User in [Role, Group, Tenant] = { level?: Long };
    entity Portal; entity Path in [Path, Portal];
    entity Doc in [Doc] = { owner?: User, secret?: Bool };
    action read appliesTo { principal: User, resource: [Doc, Path],
        context: { now: datetime, portal: String, tenant?: String, mfa: Bool, note?: String } };
    action GET appliesTo { principal: User, resource: Path, context: { portal: String } };
"#;

const POLICIES: &str = r#"
    @id("owner") permit(principal, action == Action::"read", resource is Doc)
        when { resource has owner && resource.owner == principal && context.mfa };
    @id("viewers") permit(principal in Role::"viewer", action, resource in Path::"/portal/p/docs");
    @id("members") permit(principal, action == Action::"GET", resource in Portal::"p") when { principal has level && principal.level > 5 };
    @id("facts") permit(principal, action == Action::"read", resource == Doc::"facts")
        when { context.portal == "p" && context.now > datetime("2020-01-01") };
    @id("tenant") permit(principal, action == Action::"read", resource == Doc::"tenant")
        when { context has tenant && context.tenant == "acme" };
    @id("staff") permit(principal in Group::"staff", action == Action::"read", resource == Doc::"staff");
    @id("sub") permit(principal, action == Action::"read", resource in Doc::"folder");
    @id("secret") @advice("ask the owner") forbid(principal, action, resource is Doc) when { resource has secret && resource.secret };
    @id("level") forbid(principal, action == Action::"read", resource == Doc::"leveled") unless { principal has level && principal.level > 3 };
"#;

fn setup() -> Setup {
    let entities = json!([
        {"uid": {"type": "Doc", "id": "mine"}, "attrs": {"owner": {"__entity": {"type": "User", "id": "alice"}}}, "parents": []},
        {"uid": {"type": "Doc", "id": "closed"}, "parents": [],
            "attrs": {"secret": true, "owner": {"__entity": {"type": "User", "id": "alice"}}}},
        {"uid": {"type": "User", "id": "bob"}, "attrs": {"level": 1}, "parents": [{"type": "Group", "id": "crew"}]},
        {"uid": {"type": "Group", "id": "crew"}, "attrs": {}, "parents": [{"type": "Group", "id": "staff"}]},
        {"uid": {"type": "Group", "id": "staff"}, "attrs": {}, "parents": []},
        {"uid": {"type": "User", "id": "carl"}, "attrs": {}, "parents": [{"type": "Group", "id": "loose"}]},
        {"uid": {"type": "Doc", "id": "sub"}, "attrs": {}, "parents": [{"type": "Doc", "id": "folder"}]},
        {"uid": {"type": "Doc", "id": "folder"}, "attrs": {}, "parents": []},
    ]);
    Setup::portal(SCHEMA, POLICIES).file("policies/p/entities.json", &entities.to_string())
}

/// A good question, with members replaced.
fn question(changes: &Value) -> Value {
    let mut question = json!({"portal": "p", "principal": "User::\"alice\"", "action": "read", "resource": "Doc::\"mine\"", "context": {"mfa": true}});
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(question.as_object_mut().unwrap().remove(name)),
            value => question[name] = value.clone(),
        }
    }
    question
}

fn decided(gate: &Gate, changes: &Value) -> (String, Vec<String>) {
    let answer = gate.authorize(&question(changes));
    let policies = answer["policies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["id"].as_str().unwrap().to_owned());
    (answer["reason"].as_str().unwrap().to_owned(), policies.collect())
}

fn is(reason: &str, policies: &[&str]) -> (String, Vec<String>) {
    (reason.to_owned(), policies.iter().map(|p| (*p).to_owned()).collect())
}

/// Refused with this status and code, the detail naming the place.
fn refused(answer: &Answer, status: u16, code: &str, place: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(place), "`{place}` is not named: {detail}");
}

fn bad(gate: &Gate, changes: &Value, place: &str) {
    refused(&gate.ask("/authorize", &question(changes)), 400, "request_invalid", place);
}

#[test]
fn principal_and_resource_have_two_forms() {
    let gate = setup().start();
    let allowed = is("permitted", &["owner"]);
    for alice in [
        json!("User::\"alice\""),
        json!({"type": "User", "id": "alice"}),
        json!({"type": "User", "id": "alice", "attrs": {"level": 2}, "parents": []}),
    ] {
        assert_eq!(decided(&gate, &json!({"principal": alice})), allowed);
        assert_eq!(
            decided(
                &gate,
                &json!({"principal": alice, "action": "Action::\"read\"", "resource": {"type": "Doc", "id": "mine"}})
            ),
            allowed
        );
    }
    let described = json!({"type": "User", "id": "new", "attrs": {"level": 9}, "parents": [{"type": "Group", "id": "crew"}]});
    assert_eq!(
        decided(&gate, &json!({"principal": described, "resource": "Doc::\"staff\""})),
        is("permitted", &["staff"]),
        "parents of parents are the store's"
    );
    assert_eq!(
        decided(&gate, &json!({"principal": described, "resource": "Doc::\"leveled\""})).0,
        "not_permitted"
    );
    assert_eq!(
        decided(&gate, &json!({"resource": "Doc::\"leveled\""})),
        is("forbidden", &["level"])
    );
    let own = json!({"type": "Doc", "id": "fresh", "attrs": {"owner": {"__entity": {"type": "User", "id": "alice"}}}});
    assert_eq!(decided(&gate, &json!({"resource": own})), allowed);
    assert_eq!(
        decided(
            &gate,
            &json!({"resource": {"type": "Doc", "id": "new", "parents": ["Doc::\"sub\""]}})
        ),
        is("permitted", &["sub"])
    );
    for (changes, place) in [
        (json!({"principal": null}), "principal"),
        (json!({"principal": 7}), "`principal`"),
        (json!({"principal": "alice"}), "`principal`"),
        (json!({"principal": "Nobody::\"alice\""}), "`Nobody`"),
        (json!({"principal": {"type": "User"}}), "`principal.id`"),
        (
            json!({"principal": {"type": "User", "id": "a", "role": 1}}),
            "`principal.role`",
        ),
        (
            json!({"principal": {"type": "User", "id": "a", "parents": {}}}),
            "`principal.parents`",
        ),
        (
            json!({"principal": {"type": "User", "id": "a", "attrs": {"level": "9"}}}),
            "level",
        ),
        (json!({"principal": {"type": "User", "id": "a", "attrs": {"hat": 9}}}), "hat"),
        (
            json!({"principal": {"type": "User", "id": "a", "parents": ["Doc::\"mine\""]}}),
            "Doc",
        ),
        (json!({"principal": "Doc::\"mine\""}), "does not let"),
        (json!({"resource": null}), "`resource`"),
        (json!({"resource": "User::\"alice\""}), "does not let"),
        (json!({"action": null}), "`action`"),
        (json!({"action": 1}), "`action`"),
        (json!({"action": "write"}), "`write`"),
        (json!({"portal": null}), "`portal`"),
        (json!({"context": []}), "`context`"),
        (json!({"context": {}}), "mfa"),
        (json!({"context": null}), "mfa"),
        (json!({"context": {"mfa": "true"}}), "`context`"),
        (json!({"context": {"mfa": true, "hat": 1}}), "hat"),
        (json!({"entities": {}}), "`entities`"),
        (json!({"entities": [1]}), "`entities`"),
        (json!({"token": "x"}), "not both"),
        (json!({"principal": null, "token": 1}), "`token`"),
    ] {
        let answer = gate.ask("/authorize", &question(&changes));
        let is_anonymous = changes == json!({"principal": null});
        let (status, code) = if is_anonymous {
            (401, "token_missing")
        } else {
            (400, "request_invalid")
        };
        refused(&answer, status, code, place);
    }
}

#[test]
fn a_token_a_header_and_an_assertion_prove_the_principal() {
    let gate = setup().start();
    let alice = gate.issuer.token("alice", &["viewer"]);
    let by_token = |resource: &str| json!({"principal": null, "token": alice, "resource": resource});
    assert_eq!(decided(&gate, &by_token("Doc::\"mine\"")), is("permitted", &["owner"]));
    assert_eq!(
        decided(&gate, &by_token("Path::\"/portal/p/docs/7\"")),
        is("permitted", &["viewers"])
    );
    let bearer = format!("Bearer {alice}");
    let ask = |changes: &Value, bearer: &str| {
        raw(
            gate.decision,
            "POST",
            "/authorize",
            &[("authorization", bearer)],
            question(changes).to_string().as_bytes(),
        )
    };
    assert_eq!(ask(&json!({"principal": null}), &bearer).json()["reason"], "permitted");
    // beside a named principal the header is ignored, even a broken one
    assert_eq!(
        ask(&json!({"principal": "User::\"eve\""}), &bearer).json()["reason"],
        "not_permitted"
    );
    assert_eq!(ask(&json!({}), "Bearer nonsense").json()["reason"], "permitted");
    // a token in the body has precedence over the header: the caller is eve
    let eve = gate.issuer.token("eve", &[]);
    assert_eq!(
        ask(&json!({"principal": null, "token": eve}), &bearer).json()["reason"],
        "not_permitted"
    );
    refused(&ask(&json!({"principal": null}), "Bearer nonsense"), 401, "token_invalid", "");
    for (token, code) in [
        ("nonsense".to_owned(), "token_invalid"),
        (
            gate.issuer
                .sign(&json!({"iss": crate::support::ISSUER, "aud": "shop", "sub": "alice", "exp": 1})),
            "token_expired",
        ),
        (
            gate.issuer
                .sign(&json!({"iss": "https://other.test/", "aud": "shop", "sub": "alice", "exp": crate::support::now() + 60})),
            "issuer_unknown",
        ),
    ] {
        let answer = gate.ask("/authorize", &question(&json!({"principal": null, "token": token})));
        refused(&answer, 401, code, "");
        assert!(answer.headers.contains_key("www-authenticate"));
        assert!(!answer.text().contains(&token), "the token is not echoed");
    }
    assert_eq!(gate.get("/portal/p/docs/7", &alice).status, 200);
    let assertion = gate.app.last().headers["x-cedargate-assertion"].to_str().unwrap().to_owned();
    assert_eq!(
        decided(&gate, &json!({"principal": null, "token": assertion})),
        is("permitted", &["owner"])
    );
    let forged = format!("{}x", assertion);
    refused(
        &gate.ask("/authorize", &question(&json!({"principal": null, "token": forged}))),
        401,
        "token_invalid",
        "",
    );
    let unknown = gate.ask("/authorize", &question(&json!({"portal": "q"})));
    refused(&unknown, 404, "portal_unknown", "`q`");
}

#[test]
fn supplied_entities_never_overrule_stored_ones() {
    let gate = setup().start();
    let doc = |id: &str, attrs: Value| json!({"uid": {"type": "Doc", "id": id}, "attrs": attrs, "parents": []});
    let owner = |who: &str| json!({"__entity": {"type": "User", "id": who}});
    assert_eq!(
        decided(
            &gate,
            &json!({"resource": "Doc::\"new\"", "entities": [doc("new", json!({"owner": owner("alice")}))]})
        ),
        is("permitted", &["owner"])
    );
    // the stored entity has precedence: `closed` stays secret, `mine` stays alice's
    assert_eq!(
        decided(
            &gate,
            &json!({"resource": "Doc::\"closed\"", "entities": [doc("closed", json!({"owner": owner("alice")}))]})
        ),
        is("forbidden", &["secret"])
    );
    assert_eq!(
        decided(
            &gate,
            &json!({"principal": "User::\"eve\"", "entities": [doc("mine", json!({"owner": owner("eve")}))]})
        )
        .0,
        "not_permitted"
    );
    assert_eq!(
        decided(
            &gate,
            &json!({"principal": {"type": "User", "id": "bob", "attrs": {"level": 9}}, "resource": "Doc::\"leveled\""})
        ),
        is("forbidden", &["level"])
    );
    let alice = gate.issuer.token("alice", &[]);
    for entity in [
        json!({"uid": {"type": "User", "id": "alice"}, "attrs": {"level": 9}, "parents": []}),
        json!({"uid": {"type": "Role", "id": "viewer"}, "attrs": {}, "parents": []}),
        json!({"uid": {"type": "Tenant", "id": "acme"}, "attrs": {}, "parents": []}),
        json!({"uid": {"type": "Portal", "id": "p"}, "attrs": {}, "parents": []}),
        json!({"uid": {"type": "Action", "id": "read"}, "attrs": {}, "parents": []}),
        json!({"uid": {"__entity": {"type": "Role", "id": "viewer"}}, "attrs": {}, "parents": []}),
    ] {
        bad(
            &gate,
            &json!({"principal": null, "token": alice, "entities": [entity]}),
            "`entities`",
        );
    }
    // a token does not keep the body from describing another user
    let eve = json!({"uid": {"type": "User", "id": "eve"}, "attrs": {"level": 9}, "parents": []});
    assert_eq!(
        decided(&gate, &json!({"principal": null, "token": alice, "entities": [eve]})),
        is("permitted", &["owner"])
    );
    // one name twice: the gate would have to choose one of the two
    bad(
        &gate,
        &json!({"resource": "Doc::\"new\"", "entities": [doc("new", json!({"secret": true})), doc("new", json!({"owner": owner("alice")}))]}),
        "`entities`",
    );
}

/// A stored entity keeps its stored parents, also when a supplied entity stands between them.
#[test]
fn supplied_entities_never_change_parents_of_stored_ones() {
    let gate = setup().start();
    let below = |ty: &str, id: &str, parent: &str| json!({"uid": {"type": ty, "id": id}, "attrs": {}, "parents": [{"type": ty, "id": parent}]});
    let under_mine = |mine: Value| json!({"resource": "Doc::\"new\"", "entities": [below("Doc", "new", "mine"), mine]});
    assert_eq!(
        decided(&gate, &under_mine(below("Doc", "other", "folder"))).0,
        "not_permitted"
    );
    assert_eq!(
        decided(&gate, &under_mine(below("Doc", "mine", "folder"))).0,
        "not_permitted",
        "the stored `mine` is in no folder"
    );
    let new_under =
        |parent: &str| json!({"resource": "Doc::\"new\"", "entities": [below("Doc", "new", parent), below("Doc", "box", "sub")]});
    assert_eq!(
        decided(&gate, &new_under("box")),
        is("permitted", &["sub"]),
        "what is supplied may nest, and ends below the store"
    );
    let carl = json!({"principal": "User::\"carl\"", "resource": "Doc::\"staff\""});
    assert_eq!(decided(&gate, &carl).0, "not_permitted");
    let mut lifted = carl.clone();
    lifted["entities"] = json!([below("Group", "loose", "staff")]);
    bad(&gate, &lifted, "Group::\"loose\"");
    lifted["entities"] = json!([{"uid": {"type": "Group", "id": "loose"}, "attrs": {}, "parents": []}]);
    assert_eq!(decided(&gate, &lifted).0, "not_permitted");
}

#[test]
fn the_context_is_the_gates_where_the_gate_fills_it() {
    let gate = setup().start();
    let lie = json!({"mfa": true, "portal": "q", "now": "2001-01-01", "note": "x"});
    assert_eq!(
        decided(&gate, &json!({"resource": "Doc::\"facts\"", "context": lie})),
        is("permitted", &["facts"])
    );
    let claimed = json!({"mfa": true, "tenant": "acme"});
    assert_eq!(
        decided(&gate, &json!({"resource": "Doc::\"tenant\"", "context": claimed})).0,
        "not_permitted",
        "a tenant is not the app's to claim"
    );
    let mut globex = claims("alice", &[]);
    globex["tenant"] = json!("globex");
    let ask = |token: String| {
        decided(
            &gate,
            &json!({"principal": null, "token": token, "resource": "Doc::\"tenant\"", "context": claimed}),
        )
    };
    assert_eq!(ask(gate.issuer.sign(&globex)).0, "not_permitted");
    assert_eq!(ask(gate.issuer.token("alice", &[])), is("permitted", &["tenant"]));
}

#[test]
fn a_path_has_its_ancestors_at_this_door_too() {
    let gate = setup().start();
    let viewer = json!({"type": "User", "id": "v", "parents": ["Role::\"viewer\""]});
    let member = json!({"type": "User", "id": "m", "attrs": {"level": 9}});
    for resource in [
        json!("Path::\"/portal/p/docs/a/b\""),
        json!({"type": "Path", "id": "/portal/p/docs"}),
        json!({"type": "Path", "id": "/portal/p/docs/x", "attrs": {}, "parents": []}),
    ] {
        assert_eq!(
            decided(
                &gate,
                &json!({"principal": viewer, "action": "GET", "context": {}, "resource": resource})
            ),
            is("permitted", &["viewers"])
        );
        assert_eq!(
            decided(
                &gate,
                &json!({"principal": member, "action": "GET", "context": {}, "resource": resource})
            ),
            is("permitted", &["members"])
        );
    }
    assert_eq!(
        decided(
            &gate,
            &json!({"principal": viewer, "action": "GET", "context": {}, "resource": "Path::\"/portal/p/docsx\""})
        )
        .0,
        "not_permitted"
    );
}

#[test]
fn a_path_is_read_as_the_proxy_reads_it() {
    let gate = setup().start();
    let viewer = json!({"type": "User", "id": "v", "parents": ["Role::\"viewer\""]});
    let ask = |path: &str| json!({"principal": viewer, "action": "GET", "context": {}, "resource": {"type": "Path", "id": path}});
    for path in [
        "/portal/p/docs/../secret",
        "/portal/p/docs/%2e%2e/secret",
        "/portal/p/docs//x",
        "/portal/p/docs/x?y",
        "/portal/p/docs\\..\\x",
        "/portal/p/docs/a%2Fb",
        "/portal/p/docs/%252e",
        "/portal/p/docs/x;y",
        "portal/p/docs",
        "",
    ] {
        bad(&gate, &ask(path), "`resource`");
    }
    for path in ["/portal/p/docs/", "/portal/p/docs/%7ex", "/portal/p/docs/a%3ab"] {
        assert_eq!(decided(&gate, &ask(path)), is("permitted", &["viewers"]), "{path}");
    }
}

#[test]
fn a_forbid_on_a_path_holds_for_its_escaped_spellings() {
    let policies = "permit(principal, action, resource);\n\
                    @id(\"closed\") forbid(principal, action, resource == Path::\"/portal/p/a:b\");";
    let gate = Setup::portal(SCHEMA, policies).start();
    for path in ["/portal/p/a:b", "/portal/p/a%3Ab", "/portal/p/a%3ab/"] {
        let resource = json!({"type": "Path", "id": path});
        let changes = json!({"action": "GET", "context": {}, "resource": resource});
        assert_eq!(decided(&gate, &changes), is("forbidden", &["closed"]), "{path}");
    }
}

#[test]
fn a_query_gives_a_path_no_parents() {
    let gate = setup().start();
    let viewer = json!({"type": "User", "id": "v", "parents": ["Role::\"viewer\""]});
    let ask = |changes: Value| {
        let mut all = json!({"principal": viewer, "action": "GET", "context": {}});
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        all
    };
    let place = "parents of a path follow from its id";
    for parent in ["Path::\"/portal/p/docs\"", "Portal::\"p\""] {
        let resource = json!({"type": "Path", "id": "/portal/p/x", "parents": [parent]});
        bad(&gate, &ask(json!({"resource": resource})), place);
    }
    let parent = json!({"type": "Path", "id": "/portal/p/docs"});
    let entity = json!({"uid": {"type": "Path", "id": "/portal/p/x"}, "attrs": {}, "parents": [parent]});
    bad(
        &gate,
        &ask(json!({"resource": "Path::\"/portal/p/x\"", "entities": [entity]})),
        place,
    );
}

#[test]
fn bodies_are_read_strictly() {
    let gate = setup().start();
    let send = |body: &[u8]| raw(gate.decision, "POST", "/authorize", &[], body);
    let good = question(&json!({})).to_string();
    refused(
        &send(good.replacen('{', "{\"portal\":\"q\",", 1).as_bytes()),
        400,
        "request_invalid",
        "portal",
    );
    refused(
        &send(good.replace("\"mfa\":true", "\"mfa\":false,\"mfa\":true").as_bytes()),
        400,
        "request_invalid",
        "mfa",
    );
    for body in ["", "{", "[]", "null", "\"x\"", "{} {}", &format!("{good}x")] {
        refused(&send(body.as_bytes()), 400, "request_invalid", "strict JSON");
    }
    let mut invalid = good.replace("alice", "al?ce").into_bytes();
    let at = invalid.iter().position(|b| *b == b'?').unwrap();
    invalid[at] = 0xff;
    refused(&send(&invalid), 400, "request_invalid", "UTF-8");
    refused(
        &send(good.replace("alice", "\\ud800").as_bytes()),
        400,
        "request_invalid",
        "strict JSON",
    );
    let deep = format!("{{\"context\":{}1{}}}", "[".repeat(50_000), "]".repeat(50_000));
    refused(&send(deep.as_bytes()), 400, "request_invalid", "nested deeper");
    for (slip, meant) in [
        ("principel", "principal"),
        ("ressource", "resource"),
        ("contxt", "context"),
        ("entitys", "entities"),
    ] {
        bad(
            &gate,
            &json!({slip: 1}),
            &format!("`{slip}` is not a member; did you mean `{meant}`?"),
        );
    }
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        for path in ["/authorize", "/authorize/batch"] {
            let answer = raw(gate.decision, method, path, &[], b"");
            assert_eq!((answer.status, answer.header("allow")), (405, "POST"), "{method} {path}");
        }
    }
    refused(&send(b"{}"), 400, "request_invalid", "missing");
    assert_eq!(
        decided(&gate, &json!({})),
        is("permitted", &["owner"]),
        "the door still answers"
    );
}

#[test]
fn a_body_of_exactly_the_limit_is_read_and_one_byte_more_is_not() {
    let gate = setup()
        .config("limits: { workers: 2, drain_timeout: 5s, decision_body_bytes: 4KiB }")
        .start();
    let of = |bytes: usize| {
        let mut body = question(&json!({})).to_string();
        body.push_str(&" ".repeat(bytes - body.len()));
        raw(gate.decision, "POST", "/authorize", &[], body.as_bytes())
    };
    assert_eq!(of(4096).json()["reason"], "permitted");
    refused(&of(4097), 413, "request_too_large", "larger than 4096");
}

#[test]
fn a_batch_merges_whole_fields_and_answers_in_order() {
    let gate = setup().start();
    let alice = gate.issuer.token("alice", &["viewer"]);
    let batch = question(&json!({"requests": [
        {},
        {"principal": "User::\"eve\""},
        {"token": alice, "resource": "Path::\"/portal/p/docs/1\""},
        {"resource": "Doc::\"closed\""},
        {"context": {"mfa": false}},
        {"principal": "User::\"bob\"", "resource": "Doc::\"staff\""},
    ]}));
    let decisions = gate.ask("/authorize/batch", &batch).json()["decisions"].clone();
    let reasons: Vec<&str> = decisions
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["reason"].as_str().unwrap())
        .collect();
    assert_eq!(
        reasons,
        [
            "permitted",
            "not_permitted",
            "permitted",
            "forbidden",
            "not_permitted",
            "permitted"
        ]
    );
    let mut ids: Vec<String> = decisions
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["decision_id"].to_string())
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), 6, "each decision has its own id");
    // whole fields: an item's context does not inherit the shared members
    let partial = question(&json!({"requests": [{}, {"context": {"note": "x"}}]}));
    let decisions = gate.ask("/authorize/batch", &partial).json()["decisions"].clone();
    assert_eq!(
        (&decisions[0]["reason"], &decisions[1]["reason"]),
        (&json!("permitted"), &json!("request_invalid"))
    );
    for (requests, place) in [
        (json!(null), "`requests` is missing"),
        (json!({}), "`requests` is not a list"),
    ] {
        refused(
            &gate.ask("/authorize/batch", &question(&json!({"requests": requests}))),
            400,
            "request_invalid",
            place,
        );
    }
    let misspelt = question(&json!({"principel": "User::\"a\"", "requests": [{}]}));
    refused(&gate.ask("/authorize/batch", &misspelt), 400, "request_invalid", "principel");
    let of = |n: usize| gate.ask("/authorize/batch", &question(&json!({"requests": vec![json!({}); n]})));
    assert_eq!(of(200).json()["decisions"].as_array().unwrap().len(), 200);
    refused(&of(201), 400, "request_invalid", "limits.batch allows (200)");
    assert_eq!(of(0).json(), json!({"decisions": []}));
}

#[test]
fn an_item_of_a_batch_that_cannot_be_decided_is_denied_alone() {
    let gate = setup().start();
    let expired = gate
        .issuer
        .sign(&json!({"iss": crate::support::ISSUER, "aud": "shop", "sub": "alice", "exp": 1}));
    let bad = [
        (json!(1), "request_invalid", "is not an object"),
        (json!({"principel": 1}), "request_invalid", "`principel` is not a member"),
        (
            json!({"token": "x", "principal": "User::\"a\""}),
            "request_invalid",
            "not both",
        ),
        (json!({"resource": "Nope::\"x\""}), "request_invalid", "no entity type `Nope`"),
        (
            json!({"resource": "Path::\"/a/../b\""}),
            "request_invalid",
            "is not a valid path",
        ),
        (json!({"resource": null}), "request_invalid", "`resource`"),
        (json!({"requests": []}), "request_invalid", "`requests` is not a member"),
        (json!({"action": "fly"}), "request_invalid", "no action `fly`"),
        (json!({"action": 7}), "request_invalid", "`action` is neither"),
        (json!({"context": {"note": "x"}}), "request_invalid", "`context`"),
        (json!({"context": 7}), "request_invalid", "`context` is not an object"),
        (json!({"entities": [{}]}), "request_invalid", "`entities`"),
        (json!({"portal": "q"}), "portal_unknown", "no portal `q`"),
        (json!({"portal": 7}), "request_invalid", "`portal` is not a string"),
        (json!({"token": "x"}), "token_invalid", ""),
        (json!({"token": expired}), "token_expired", ""),
    ];
    // a good item before, between and after
    let mut requests = vec![json!({})];
    for (item, ..) in &bad {
        requests.extend([item.clone(), json!({"resource": "Doc::\"closed\""})]);
    }
    let answer = gate.ask("/authorize/batch", &question(&json!({ "requests": requests })));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let decisions = answer.json()["decisions"].as_array().unwrap().clone();
    assert_eq!(decisions.len(), requests.len());
    assert_eq!(decisions[0]["reason"], "permitted");
    assert_eq!(decisions[0].get("detail"), None);
    let mut ids = vec![decisions[0]["decision_id"].clone()];
    for (n, (item, reason, detail)) in bad.iter().enumerate() {
        let (denied, good) = (&decisions[2 * n + 1], &decisions[2 * n + 2]);
        assert_eq!(
            (&denied["decision"], &denied["reason"]),
            (&json!("deny"), &json!(reason)),
            "{item}: {denied}"
        );
        let text = denied["detail"].as_str().unwrap();
        assert!(
            text.starts_with(&format!("requests[{}]: ", 2 * n + 1)) && text.contains(detail),
            "{item}: {text}"
        );
        assert_eq!((&denied["policies"], &denied["errors"]), (&json!([]), &json!([])));
        assert_eq!(good["reason"], "forbidden", "{item}: {good}");
        ids.extend([denied["decision_id"].clone(), good["decision_id"].clone()]);
    }
    // each item has one record under its own id
    let records = gate.records(ids.len());
    for (id, decision) in ids.iter().zip(&decisions) {
        let found: Vec<&Value> = records.iter().filter(|record| record["decision_id"] == *id).collect();
        assert_eq!(found.len(), 1, "{decision}");
        assert_eq!(found[0]["reason"], decision["reason"]);
    }
    // without any member in common, each item is a whole question
    let whole = question(&json!({}));
    let answer = gate.ask("/authorize/batch", &json!({"requests": [whole, {}, whole]})).json();
    let reasons: Vec<&Value> = answer["decisions"].as_array().unwrap().iter().map(|d| &d["reason"]).collect();
    assert_eq!(reasons, ["permitted", "request_invalid", "permitted"]);
}

#[test]
fn an_action_has_the_forms_of_an_entity() {
    let gate = setup().start();
    for action in [
        json!("read"),
        json!("Action::\"read\""),
        json!({"type": "Action", "id": "read"}),
    ] {
        assert_eq!(
            decided(&gate, &json!({"action": action})),
            is("permitted", &["owner"]),
            "{action}"
        );
    }
    for (action, place) in [
        (json!({"type": "Action", "id": "fly"}), "no action `Action::\"fly\"`"),
        (json!({"type": "User", "id": "read"}), "no action `User::\"read\"`"),
        (
            json!({"type": "Other::Action", "id": "read"}),
            "no action `Other::Action::\"read\"`",
        ),
        (json!({"type": "no type", "id": "read"}), "`action.type`"),
        (json!({"id": "read"}), "`action.type` is not a string"),
        (json!({"type": "Action", "id": 7}), "`action.id` is not a string"),
        (
            json!({"type": "Action", "id": "read", "attrs": {}}),
            "`action.attrs` is not a member",
        ),
        (json!({"type": "Action", "id": "x\"] || true"}), "no action"),
        (json!(["read"]), "`action` is neither"),
        (json!(null), "`action` is missing"),
    ] {
        bad(&gate, &json!({ "action": action }), place);
    }
    // a schema with a namespace: a name without it is the portal's
    let spaced = format!("namespace Shop {{ {SCHEMA} }}");
    let gate = Setup::portal(
        &spaced,
        "@id(\"all\") permit(principal, action == Shop::Action::\"GET\", resource);",
    )
    .start();
    for action in [
        json!("GET"),
        json!("Action::\"GET\""),
        json!("Shop::Action::\"GET\""),
        json!({"type": "Action", "id": "GET"}),
        json!({"type": "Shop::Action", "id": "GET"}),
    ] {
        let asked = json!({"portal": "p", "principal": "User::\"alice\"", "action": action, "resource": "Path::\"/x\""});
        assert_eq!(gate.authorize(&asked)["reason"], "permitted", "{action}");
    }
}

#[test]
fn concurrent_batches_do_not_mix() {
    let gate = setup().start();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let gate = &gate;
            scope.spawn(move || {
                let who = if n % 2 == 0 { "alice" } else { "eve" };
                let items: Vec<Value> = (0..50)
                    .map(|i| {
                        if i % 3 == 0 {
                            json!({"resource": "Doc::\"closed\""})
                        } else {
                            json!({})
                        }
                    })
                    .collect();
                let batch = question(&json!({"principal": format!("User::\"{who}\""), "requests": items}));
                for _ in 0..4 {
                    let answer = gate.ask("/authorize/batch", &batch).json();
                    for (i, decision) in answer["decisions"].as_array().unwrap().iter().enumerate() {
                        let expected = match (i % 3 == 0, who) {
                            (true, _) => "forbidden",
                            (false, "alice") => "permitted",
                            _ => "not_permitted",
                        };
                        assert_eq!(decision["reason"], expected, "{who} {i}");
                    }
                }
            });
        }
    });
}

#[test]
fn every_answer_leaves_one_record_under_its_decision_id() {
    let gate = setup().start();
    let mut ids = Vec::new();
    let mut note =
        |answer: Answer, reason: &str| ids.push((answer.json()["decision_id"].as_str().unwrap().to_owned(), reason.to_owned()));
    note(gate.ask("/authorize", &question(&json!({}))), "permitted");
    note(
        gate.ask("/authorize", &question(&json!({"resource": "Doc::\"closed\""}))),
        "forbidden",
    );
    note(gate.ask("/authorize", &question(&json!({"portal": "q"}))), "portal_unknown");
    note(
        gate.ask("/authorize", &question(&json!({"principal": null, "token": "x"}))),
        "token_invalid",
    );
    note(gate.ask("/authorize", &question(&json!({"context": {}}))), "request_invalid");
    note(gate.ask("/authorize", &json!({"nonsense": 1})), "request_invalid");
    note(raw(gate.decision, "POST", "/authorize", &[], b"{"), "request_invalid");
    note(
        gate.ask("/authorize/batch", &question(&json!({"requests": 1}))),
        "request_invalid",
    );
    let batch = gate.ask("/authorize/batch", &question(&json!({"requests": [{}, {}]}))).json();
    for decision in batch["decisions"].as_array().unwrap() {
        ids.push((decision["decision_id"].as_str().unwrap().to_owned(), "permitted".to_owned()));
    }
    let recorded = gate.records(ids.len());
    gate.stop();
    let found: Vec<(String, String)> = recorded
        .iter()
        .map(|r| {
            (
                r["decision_id"].as_str().unwrap().to_owned(),
                r["reason"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    assert_eq!(found, ids);
    for record in &recorded {
        assert_eq!(record["door"], "authorize", "{record}");
        let allowed = record["reason"] == "permitted";
        assert_eq!(record["decision"], if allowed { "allow" } else { "deny" }, "{record}");
    }
    assert_eq!(recorded[1]["policies"], json!(["secret"]));
    assert_eq!(recorded[0]["principal"]["id"], "alice");
    assert_eq!(recorded[0]["resource"]["id"], "mine");
    assert_eq!(recorded[0]["context"]["mfa"], true);
}

#[test]
fn an_answer_tells_everything_about_the_decision() {
    let gate = setup().start();
    let answer = gate.authorize(&question(&json!({"resource": "Doc::\"closed\""})));
    assert_eq!(answer["decision"], "deny");
    assert_eq!(
        answer["policies"],
        json!([{"id": "secret", "annotations": {"id": "secret", "advice": "ask the owner"}}])
    );
    assert_eq!((answer["errors"].clone(), answer["portal"].clone()), (json!([]), json!("p")));
    assert_eq!(answer["revision"].as_str(), gate.revision("p").as_deref());
    assert_eq!(answer.as_object().unwrap().len(), 7, "{answer}");
}

/// The listener's address and its tokens, as `listen.decision`.
fn listening(decision: &str) -> Setup {
    setup().config(&format!(
        "listen: {{ proxy: {{ address: '127.0.0.1:0' }}, decision: {decision}, admin: {{ address: '127.0.0.1:0' }} }}"
    ))
}

#[test]
fn off_loopback_the_listener_needs_tokens_and_asks_for_one() {
    let error = listening("{ address: '0.0.0.0:0' }")
        .try_start()
        .err()
        .expect("an open decision listener starts");
    assert!(error.contains("listen.decision"), "{error}");
    let open = listening("{ address: '0.0.0.0:0', auth: { tokens_file: tokens } }");
    let gate = open
        .file("tokens", "first-token-0123456789abcdef\nsecond-token-0123456789abcdef\n")
        .start();
    let body = question(&json!({})).to_string();
    let ask = |headers: &[(&str, &str)]| raw(gate.decision, "POST", "/authorize", headers, body.as_bytes());
    refused(&ask(&[]), 401, "token_missing", "");
    refused(&ask(&[("authorization", "Bearer wrong")]), 401, "token_invalid", "");
    refused(
        &ask(&[("authorization", "Bearer first-token-0123456789abcde")]),
        401,
        "token_invalid",
        "",
    );
    let alice = format!("Bearer {}", gate.issuer.token("alice", &[]));
    refused(&ask(&[("authorization", &alice)]), 401, "token_invalid", "");
    for token in ["first-token-0123456789abcdef", "second-token-0123456789abcdef"] {
        assert_eq!(
            ask(&[("authorization", &format!("Bearer {token}"))]).json()["reason"],
            "permitted"
        );
    }
    // the listener's own token proves no caller
    let anonymous = question(&json!({"principal": null})).to_string();
    let answer = raw(
        gate.decision,
        "POST",
        "/authorize",
        &[("authorization", "Bearer first-token-0123456789abcdef")],
        anonymous.as_bytes(),
    );
    refused(&answer, 401, "token_missing", "principal");
}

#[test]
fn the_listener_may_be_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("decision.sock");
    let gate = listening(&format!("{{ address: 'unix:{}' }}", socket.display())).start();
    let body = question(&json!({})).to_string();
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    write!(
        stream,
        "POST /authorize HTTP/1.1\r\nhost: gate\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    let answer = parse(&received).expect("an answer");
    assert_eq!(
        (answer.status, answer.json()["reason"].as_str()),
        (200, Some("permitted")),
        "{}",
        answer.text()
    );
    gate.stop();
}

#[test]
fn a_body_that_breaks_off_decides_nothing() {
    let gate = setup().start();
    let body = question(&json!({})).to_string();
    let head = format!(
        "POST /authorize HTTP/1.1\r\nhost: gate\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\nZZ\r\n",
        body.len()
    );
    let answer = exchange(gate.decision, head.as_bytes());
    assert!(answer.is_none_or(|a| a.status >= 400), "a truncated question was answered");
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let gate = Setup::examples()
        .config("limits: { workers: 2, drain_timeout: 5s, header_timeout: 300ms }")
        .start();
    let mut wire = crate::support::RawConnection::open(gate.decision);
    wire.send("POST /authorize HTTP/1.1\r\nhost: gate\r\ncontent-length: 10\r\n\r\n{");
    let answer = wire.read_answer("POST").expect("an answer");
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("header_timeout"), "{}", answer.text());
}
