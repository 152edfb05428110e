//! The principal and the context that the gate makes of a token and a request: types, bounds, tenants, routes, step-up.

use serde_json::{Value, json};

use crate::support::{Gate, ISSUER, Setup, claims, now, raw};

const BASE: &str = "entity Tenant; entity Role in [Role]; entity Group in [Group]; entity Portal; entity Path in [Path, Portal];";

/// A portal whose users have these attributes and whose GET has this context.
fn portal(attributes: &str, context: &str, policies: &str) -> Setup {
    let schema = format!(
        "{BASE} entity User in [Role, Group, Tenant] = {{ {attributes} }};
        action GET, POST appliesTo {{ principal: [User], resource: [Path], context: {{ {context} }} }};"
    );
    Setup::portal(&schema, policies)
}

fn with(extra: &Value) -> Value {
    let mut all = claims("alice", &["viewer"]);
    for (name, value) in extra.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

/// Status and code (empty where the app answered) of a GET with these claims.
fn get(gate: &Gate, path: &str, claims: &Value) -> (u16, String) {
    let answer = gate.get(path, &gate.issuer.sign(claims));
    (
        answer.status,
        if answer.status == 200 { String::new() } else { answer.code() },
    )
}

fn ok() -> (u16, String) {
    (200, String::new())
}

fn no(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn attributes_of_every_type_come_from_claims_of_exactly_that_type() {
    let good = json!({
        "s": "text", "n": 7, "b": true, "set": ["x", "y"], "rec": {"in": {"deep": 1}, "extra": "is dropped"},
        "ip": "10.0.0.7", "dec": "1.25", "at": "2026-01-31T10:00:00Z", "friend": "bob", "rich": {"type": "User", "id": "eve"},
    });
    let gate = portal(
        "s: String, n: Long, b: Bool, set: Set<String>, rec: { \"in\": { deep: Long }, opt?: String }, ip: ipaddr, dec: decimal,
         at: datetime, friend: User, rich?: User",
        "",
        r#"permit(principal, action, resource) when {
            principal.s == "text" && principal.n == 7 && principal.b && principal.set.containsAll(["x", "y"]) &&
            principal.rec["in"].deep == 1 && !(principal.rec has opt) && principal.ip.isInRange(ip("10.0.0.0/8")) &&
            principal.dec.greaterThan(decimal("1.2")) && principal.at > datetime("2026-01-01") &&
            principal.friend == User::"bob" && principal has rich && principal.rich == User::"eve" };"#,
    )
    .start();
    assert_eq!(get(&gate, "/portal/p/x", &with(&good)), ok());
    let change = |name: &str, value: Value| {
        let mut changed = good.clone();
        changed[name] = value;
        with(&changed)
    };
    for (name, values) in [
        ("s", vec![json!(7), json!(true), json!(null), json!(["text"]), json!({})]),
        (
            "n",
            vec![
                json!("7"),
                json!(7.0),
                json!(7.5),
                json!(true),
                json!(9_223_372_036_854_775_808_u64),
                json!(null),
            ],
        ),
        ("b", vec![json!("true"), json!(1), json!("false"), json!(null)]),
        ("set", vec![json!("x"), json!(["x", 1]), json!({"x": "y"}), json!(null)]),
        (
            "rec",
            vec![
                json!("x"),
                json!({}),
                json!({"in": {"deep": "1"}}),
                json!({"in": {"deep": 1}, "opt": 1}),
                json!([]),
            ],
        ),
        (
            "ip",
            vec![
                json!("10.0.0"),
                json!("10.0.0.7/99"),
                json!(167),
                json!(""),
                json!({"__extn": {"fn": "decimal", "arg": "1.0"}}),
            ],
        ),
        ("dec", vec![json!("1"), json!(1.25), json!("1.23456"), json!("x")]),
        ("at", vec![json!("yesterday"), json!(1.5), json!("2026-02-31"), json!(true)]),
        (
            "friend",
            vec![json!(7), json!({"type": "Group", "id": "bob"}), json!(["bob"])],
        ),
        ("rich", vec![json!({"type": "Role", "id": "x"}), json!(1)]),
    ] {
        for value in values {
            let claims = change(name, value.clone());
            assert_eq!(
                get(&gate, "/portal/p/x", &claims),
                no(401, "claim_invalid"),
                "{name} = {value}"
            );
        }
        let mut without = with(&good);
        without.as_object_mut().unwrap().remove(name);
        let expected = if name == "rich" {
            no(403, "not_permitted")
        } else {
            no(401, "claim_invalid")
        };
        assert_eq!(get(&gate, "/portal/p/x", &without), expected, "without {name}");
    }
}

#[test]
fn claims_are_mapped_by_portal_yaml_also_from_inside() {
    let gate = portal("email: String, level?: Long", "", r#"permit(principal, action, resource) when { principal.email == "a@x.test" && principal has level && principal.level == 3 };"#)
        .file("policies/p/portal.yaml", "claims: { email: mail, level: app.level }\n")
        .start();
    let alice = with(&json!({"mail": "a@x.test", "email": "wrong", "app": {"level": 3}}));
    assert_eq!(get(&gate, "/portal/p/x", &alice), ok());
    assert_eq!(
        get(
            &gate,
            "/portal/p/x",
            &with(&json!({"email": "a@x.test", "app": {"level": 3}}))
        ),
        no(401, "claim_invalid")
    );
    assert_eq!(
        get(&gate, "/portal/p/x", &with(&json!({"mail": "a@x.test", "level": 3}))),
        no(403, "not_permitted")
    );
}

#[test]
fn a_stored_user_adds_parents_and_never_contradicts_the_token() {
    let entities = json!([
        {"uid": {"type": "User", "id": "alice"}, "attrs": {"level": 3}, "parents": [{"type": "Group", "id": "team"}]},
        {"uid": {"type": "Group", "id": "team"}, "attrs": {}, "parents": [{"type": "Group", "id": "staff"}]},
        {"uid": {"type": "Group", "id": "staff"}, "attrs": {}, "parents": []},
        {"uid": {"type": "Role", "id": "editor"}, "attrs": {}, "parents": [{"type": "Role", "id": "viewer"}]},
        {"uid": {"type": "Role", "id": "admin"}, "attrs": {}, "parents": [{"type": "Role", "id": "editor"}]},
    ]);
    let gate = portal(
        "level?: Long",
        "",
        r#"@id("staff") permit(principal in Group::"staff", action, resource == Path::"/portal/p/staff") when { principal.level == 3 };
           @id("viewers") permit(principal in Role::"viewer", action, resource == Path::"/portal/p/read");
           @id("inner") permit(principal, action, resource == Path::"/portal/p/inner") when { principal in Role::"viewer" && principal in Tenant::"acme" };"#
            .replace("when { principal.level == 3 }", "when { principal has level && principal.level == 3 }")
            .as_str(),
    )
    .file("policies/p/entities.json", &entities.to_string())
    .start();
    assert_eq!(get(&gate, "/portal/p/staff", &with(&json!({}))), ok());
    assert_eq!(get(&gate, "/portal/p/staff", &with(&json!({"level": 3}))), ok());
    assert_eq!(
        get(&gate, "/portal/p/staff", &with(&json!({"level": 4}))),
        no(401, "claim_invalid"),
        "token and store disagree"
    );
    assert_eq!(
        get(&gate, "/portal/p/staff", &with(&json!({"sub": "bob", "level": 3}))),
        no(403, "not_permitted")
    );
    for role in ["viewer", "editor", "admin"] {
        for path in ["/portal/p/read", "/portal/p/inner"] {
            assert_eq!(get(&gate, path, &with(&json!({"roles": [role]}))), ok(), "{role} {path}");
        }
    }
    assert_eq!(
        get(&gate, "/portal/p/read", &with(&json!({"roles": ["guest"]}))),
        no(403, "not_permitted")
    );
    assert_eq!(
        get(&gate, "/portal/p/inner", &with(&json!({"tenant": "globex"}))),
        no(403, "not_permitted")
    );
}

fn two_issuers(second: &str) -> String {
    format!(
        "issuers:\n  - {{ name: corp, issuer: '{ISSUER}', audiences: [shop], jwks: {{ file: jwks.json }} }}\n  - {{ name: partner, issuer: 'https://partner.test/', audiences: [shop], jwks: {{ file: jwks.json }}{second} }}"
    )
}

fn partner(extra: &Value) -> Value {
    let mut all = with(&json!({"iss": "https://partner.test/"}));
    for (name, value) in extra.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

#[test]
fn subjects_of_several_issuers_do_not_meet() {
    let policies = r#"permit(principal == User::"corp|alice", action, resource == Path::"/portal/p/corp");
        permit(principal == User::"partner|alice", action, resource == Path::"/portal/p/partner");
        permit(principal == User::"alice", action, resource == Path::"/portal/p/bare");
        permit(principal == User::"ext:alice", action, resource == Path::"/portal/p/prefixed");"#;
    let mut setup = portal("", "", policies);
    setup.issuers = Some(two_issuers(""));
    let gate = setup.start();
    let allowed = |gate: &Gate, claims: &Value| -> Vec<&str> {
        let paths = ["corp", "partner", "bare", "prefixed"];
        paths
            .into_iter()
            .filter(|p| get(gate, &format!("/portal/p/{p}"), claims).0 == 200)
            .collect()
    };
    assert_eq!(allowed(&gate, &with(&json!({}))), ["corp"]);
    assert_eq!(allowed(&gate, &partner(&json!({}))), ["partner"]);
    assert_eq!(allowed(&gate, &partner(&json!({"sub": "corp|alice"}))), Vec::<&str>::new());
    assert_eq!(gate.app.last().headers["x-forwarded-user"], "partner|alice");
    gate.stop();
    let mut setup = portal("", "", policies);
    setup.issuers = Some(two_issuers(", subject_prefix: 'ext:'"));
    let gate = setup.start();
    assert_eq!(allowed(&gate, &partner(&json!({}))), ["prefixed"]);
    assert_eq!(allowed(&gate, &with(&json!({}))), ["corp"]);
}

#[test]
fn a_subject_that_reads_as_one_of_another_issuer_is_refused_at_every_door() {
    let mut setup = portal("", "", "permit(principal, action, resource);");
    setup.issuers = Some(two_issuers(", subject_prefix: ''"));
    let gate = setup.start();
    let token = |sub: &str| gate.issuer.sign(&partner(&json!({ "sub": sub })));
    let passes = |sub: &str| get(&gate, "/portal/p/x", &partner(&json!({ "sub": sub })));
    assert_eq!(passes("alice"), ok());
    assert_eq!(gate.app.last().headers["x-forwarded-user"], "alice");
    assert_eq!(passes("auth0|alice"), ok(), "not a prefix of an issuer");
    let count = gate.app.count();
    for sub in ["corp|alice", "corp|", "Corp|alice", "corp|corp|alice"] {
        assert_eq!(passes(sub), no(401, "claim_invalid"), "{sub}");
        let asked =
            json!({"portal": "p", "token": token(sub), "action": "GET", "resource": {"type": "Path", "id": "/portal/p/x"}});
        let answer = gate.ask("/authorize", &asked);
        assert_eq!((answer.status, answer.code().as_str()), (401, "claim_invalid"), "{sub}");
        let session = gate.get("/api/v1/identity/auth/session?portal=p", &token(sub));
        assert_eq!((session.status, session.code().as_str()), (401, "claim_invalid"), "{sub}");
    }
    assert_eq!(gate.app.count(), count, "the app saw none of them");
    assert_eq!(get(&gate, "/portal/p/x", &with(&json!({}))), ok());
    assert_eq!(
        gate.app.last().headers["x-forwarded-user"],
        "corp|alice",
        "the issuer's own user"
    );
}

#[test]
fn a_group_overage_is_refused_where_the_groups_are_read_and_nowhere_else() {
    let start = |more: &str, attributes: &str| {
        let mut setup = portal(
            attributes,
            "",
            r#"permit(principal, action, resource); forbid(principal in Role::"suspended", action, resource);"#,
        );
        setup.issuers = Some(format!(
            "issuers:\n  - {{ name: corp, issuer: '{ISSUER}', audiences: [shop], jwks: {{ file: jwks.json }}{more} }}"
        ));
        setup.start()
    };
    let overage = [
        json!({"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://graph.test/"}}}),
        json!({"hasgroups": true}),
        json!({"groups:src1": "https://graph.test/"}),
    ];
    let mapped = start(", claims: { roles: groups }", "");
    let ignoring = start(
        ", claims: { roles: groups }, danger_ignore_overage: true",
        "groups?: Set<String>",
    );
    let unread = start("", "");
    let attribute = start("", "groups?: Set<String>");
    for claims in overage {
        assert_eq!(
            get(&mapped, "/portal/p/x", &with(&claims)),
            no(401, "claim_invalid"),
            "{claims}"
        );
        assert_eq!(
            get(&attribute, "/portal/p/x", &with(&claims)),
            no(401, "claim_invalid"),
            "{claims}"
        );
        assert_eq!(get(&unread, "/portal/p/x", &with(&claims)), ok(), "{claims}");
        assert_eq!(get(&ignoring, "/portal/p/x", &with(&claims)), ok(), "{claims}");
    }
    assert_eq!(
        get(&mapped, "/portal/p/x", &with(&json!({"groups": ["suspended"]}))),
        no(403, "forbidden")
    );
}

#[test]
fn a_malformed_claim_about_the_login_refuses_only_where_the_context_declares_it() {
    let fields = [
        ("acr", json!({})),
        ("amr", json!([1])),
        ("scope", json!(1)),
        ("auth_time", json!("1")),
    ];
    let all = portal(
        "",
        "auth: { acr?: String, amr?: Set<String>, scopes?: Set<String>, time?: Long }",
        "permit(principal, action, resource);",
    )
    .start();
    let method = portal("", "auth: { method: String }", "permit(principal, action, resource);").start();
    for (claim, value) in fields {
        let claims = with(&json!({ claim: value }));
        assert_eq!(get(&all, "/portal/p/x", &claims), no(401, "claim_invalid"), "{claim}");
        assert_eq!(get(&method, "/portal/p/x", &claims), ok(), "{claim}");
        // the same identity as the app's assertion of it
        let assertion = method.app.last().headers["x-cedargate-assertion"]
            .to_str()
            .unwrap()
            .to_owned();
        let asked =
            json!({"portal": "p", "token": assertion, "action": "GET", "resource": {"type": "Path", "id": "/portal/p/x"}});
        assert_eq!(method.authorize(&asked)["decision"], "allow", "{claim}");
    }
    let forms = with(&json!({"acr": 2, "amr": "pwd", "scope": ["a"], "auth_time": 7.5}));
    assert_eq!(get(&all, "/portal/p/x", &forms), ok());
}

#[test]
fn an_issuer_asserts_only_the_tenants_and_roles_it_may() {
    let mut setup = portal(
        "",
        "",
        r#"permit(principal in Role::"viewer", action, resource); permit(principal in Role::"admin", action, resource == Path::"/portal/p/admin");"#,
    );
    setup.issuers = Some(two_issuers(", tenants: [acme], roles: [viewer]"));
    let gate = setup.start();
    assert_eq!(get(&gate, "/portal/p/x", &partner(&json!({}))), ok());
    assert_eq!(
        get(&gate, "/portal/p/x", &with(&json!({"tenant": "globex"}))),
        ok(),
        "the other issuer is unbounded"
    );
    let foreign = get(&gate, "/portal/p/x", &partner(&json!({"tenant": "globex"})));
    assert_ne!(foreign.0, 200, "{foreign:?}");
    let stronger = get(&gate, "/portal/p/admin", &partner(&json!({"roles": ["admin"]})));
    assert_ne!(stronger.0, 200, "{stronger:?}");
}

#[test]
fn the_requests_tenant_and_the_callers_must_not_differ() {
    let start = |tenant: &str| {
        portal(
            "",
            "tenant?: String",
            r#"permit(principal in Tenant::"acme", action, resource) when { context has tenant && context.tenant == "acme" };"#,
        )
        .config(&format!("portals: {{ p: {{ tenant: {tenant} }} }}"))
        .start()
    };
    let gate = start("host_label");
    let token = |gate: &Gate, claims: &Value| format!("Bearer {}", gate.issuer.sign(claims));
    let send = |gate: &Gate, host: &str, claims: &Value| {
        let answer = gate.send(
            "GET",
            "/portal/p/x",
            &[("host", host), ("authorization", &token(gate, claims))],
        );
        (
            answer.status,
            if answer.status == 200 { String::new() } else { answer.code() },
        )
    };
    let acme = with(&json!({}));
    assert_eq!(send(&gate, "acme.shop.test", &acme), ok());
    assert_eq!(send(&gate, "ACME.shop.test:80", &acme), ok());
    assert_eq!(send(&gate, "globex.shop.test", &acme), no(403, "tenant_mismatch"));
    // the gate's own endpoints compare the same host
    for (host, path, expected) in [
        ("acme.shop.test", "auth/session", ok()),
        ("globex.shop.test", "auth/session", no(403, "tenant_mismatch")),
        ("globex.shop.test", "permissions", no(403, "tenant_mismatch")),
    ] {
        let authorization = token(&gate, &acme);
        let headers = [("host", host), ("authorization", &*authorization)];
        let answer = gate.send("GET", &format!("/api/v1/identity/{path}?portal=p"), &headers);
        let code = if answer.status == 200 { String::new() } else { answer.code() };
        assert_eq!((answer.status, code), expected, "{host} {path}");
    }
    let mut nowhere = acme.clone();
    nowhere.as_object_mut().unwrap().remove("tenant");
    assert_eq!(
        send(&gate, "acme.shop.test", &nowhere),
        no(403, "not_permitted"),
        "the host makes no caller a member"
    );
    gate.stop();
    let gate = start("{ fixed: acme }");
    assert_eq!(send(&gate, "any.test", &acme), ok());
    assert_eq!(
        send(&gate, "any.test", &with(&json!({"tenant": "globex"}))),
        no(403, "tenant_mismatch")
    );
    gate.stop();
    let gate = start("claim");
    assert_eq!(send(&gate, "globex.test", &acme), ok());
    assert_eq!(
        send(&gate, "acme.test", &with(&json!({"tenant": "globex"}))),
        no(403, "not_permitted")
    );
}

#[test]
fn query_and_headers_are_context_only_where_they_are_unambiguous() {
    let gate = portal(
        "",
        "query: { id?: String, tag: Set<String> }, headers: { x_kind?: String, x_all: Set<String> }",
        r#"permit(principal, action, resource == Path::"/portal/p/id") when { context.query has id && context.query.id == "a b" };
           permit(principal, action, resource == Path::"/portal/p/tags") when { context.query.tag.containsAll(["x", "y"]) };
           permit(principal, action, resource == Path::"/portal/p/kind") when { context.headers has x_kind && context.headers.x_kind == "k" };
           permit(principal, action, resource == Path::"/portal/p/all") when { context.headers.x_all.containsAll(["1", "2"]) };
           permit(principal, action, resource == Path::"/portal/p/free");"#,
    )
    .start();
    let bearer = format!("Bearer {}", gate.issuer.sign(&with(&json!({}))));
    let send = |path: &str, extra: &[(&str, &str)]| {
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend_from_slice(extra);
        let answer = gate.send("GET", path, &headers);
        (
            answer.status,
            if answer.status == 200 { String::new() } else { answer.code() },
        )
    };
    assert_eq!(send("/portal/p/id?id=a%20b", &[]), ok());
    assert_eq!(send("/portal/p/id?%69d=a+b&other=1&other=2", &[]), ok());
    assert_eq!(send("/portal/p/id?id=b", &[]), no(403, "not_permitted"));
    for query in ["id=a%20b&id=a%20b", "id=x&%69%64=a%20b", "id=a%20b&id"] {
        assert_eq!(
            send(&format!("/portal/p/id?{query}"), &[]),
            no(400, "request_invalid"),
            "{query}"
        );
        assert_eq!(
            send(&format!("/portal/p/free?{query}"), &[]),
            no(400, "request_invalid"),
            "also where no policy reads it: {query}"
        );
    }
    assert_eq!(send("/portal/p/tags?tag=x&tag=y&tag=z", &[]), ok());
    assert_eq!(send("/portal/p/tags?tag=x", &[]), no(403, "not_permitted"));
    assert_eq!(send("/portal/p/kind", &[("x-kind", "k")]), ok());
    assert_eq!(
        send("/portal/p/kind", &[("x-kind", "k"), ("X-Kind", "k")]),
        no(400, "request_invalid")
    );
    assert_eq!(send("/portal/p/all", &[("x-all", "1"), ("x-all", "2")]), ok());
    assert_eq!(send("/portal/p/all", &[("x-all", "1")]), no(403, "not_permitted"));
}

#[test]
fn headers_that_carry_credentials_cannot_be_declared() {
    for name in [
        "authorization",
        "cookie",
        "Cookie",
        "proxy_authorization",
        "set_cookie",
        "x_cedargate_assertion",
    ] {
        let gate = portal(
            "",
            &format!("headers?: {{ {name}?: String }}"),
            "permit(principal, action, resource);",
        )
        .start();
        assert!(gate.revision("p").is_none(), "{name} is taken");
        assert!(
            gate.status().to_string().contains("carries credentials"),
            "{name}: {}",
            gate.status()
        );
        assert_eq!(get(&gate, "/portal/p/x", &with(&json!({}))), no(403, "no_policy_loaded"));
    }
}

#[test]
fn the_source_address_is_the_rightmost_untrusted_one() {
    let start = |config: &str| {
        portal("", "source_ip: ipaddr, scheme: String, now: datetime, flags: { beta: Bool }", r#"permit(principal, action, resource) when {
            context.source_ip == ip("203.0.113.9") && context.now > datetime("2026-01-01") && context.flags.beta };
            permit(principal, action, resource == Path::"/portal/p/local") when { context.source_ip.isLoopback() && context.scheme == "http" };"#)
            .file("policies/p/portal.yaml", "flags: { beta: true }\n")
            .config(config)
            .start()
    };
    let send = |gate: &Gate, path: &str, forwarded: &str| {
        let bearer = format!("Bearer {}", gate.issuer.sign(&with(&json!({}))));
        gate.send("GET", path, &[("authorization", &bearer), ("x-forwarded-for", forwarded)])
            .status
    };
    let gate = start("");
    assert_eq!(
        send(&gate, "/portal/p/x", "203.0.113.9"),
        403,
        "an untrusted peer's word is no address"
    );
    assert_eq!(send(&gate, "/portal/p/local", "203.0.113.9"), 200);
    gate.stop();
    let gate = start("trusted_proxies: ['127.0.0.0/8', '10.0.0.0/8']");
    assert_eq!(send(&gate, "/portal/p/x", "203.0.113.9"), 200);
    assert_eq!(send(&gate, "/portal/p/x", "6.6.6.6, 203.0.113.9, 10.1.1.1"), 200);
    assert_eq!(send(&gate, "/portal/p/x", "203.0.113.9, 6.6.6.6"), 403);
    assert_eq!(send(&gate, "/portal/p/x", "203.0.113.9, unknown"), 400);
    assert_eq!(send(&gate, "/portal/p/local", "6.6.6.6"), 403);
}

const ROUTED: &str = "entity Tenant; entity Role in [Role]; entity Portal; entity Path in [Path, Portal]; entity Report;
    entity User in [Role, Tenant];
    action GET, HEAD, POST appliesTo { principal: [User], resource: [Path] };
    action viewReport appliesTo { principal: [User], resource: [Report] };";

#[test]
fn a_routed_request_survives_the_forbids_of_its_plain_path_in_every_spelling() {
    let gate = Setup::portal(
        ROUTED,
        r#"@id("reports") permit(principal, action == Action::"viewReport", resource is Report);
           @id("pages") permit(principal, action, resource in Path::"/portal/p");
           @id("closed") forbid(principal, action, resource in Path::"/portal/p/reports/closed");
           @id("export") forbid(principal, action, resource in Path::"/portal/p/reports:export");
           @id("get-only") forbid(principal, action == Action::"GET", resource == Path::"/portal/p/reports/get");"#,
    )
    .file(
        "policies/p/portal.yaml",
        "routes:\n  - { route: 'GET /portal/p/reports/{id}', action: viewReport, resource: { type: Report, id: '{id}' } }\n",
    )
    .start();
    let alice = with(&json!({}));
    assert_eq!(get(&gate, "/portal/p/reports/1", &alice), ok());
    assert_eq!(get(&gate, "/portal/p/reports/closed", &alice), no(403, "forbidden"));
    assert_eq!(get(&gate, "/portal/p/reports/clos%65d", &alice), no(403, "forbidden"));
    assert_eq!(get(&gate, "/portal/p/reports/closed/", &alice), no(403, "forbidden"));
    assert_eq!(get(&gate, "/portal/p/reports/get", &alice), no(403, "forbidden"));
    for path in [
        "/portal/p/reports:export",
        "/portal/p/reports%3Aexport",
        "/portal/p/reports%3aexport",
        "/portal/p/reports%3Aexport/all",
        "/portal/p/report%73%3aexport",
    ] {
        assert_eq!(get(&gate, path, &alice), no(403, "forbidden"), "{path}");
    }
    assert_eq!(get(&gate, "/portal/p/reports-export", &alice), ok());
    // HEAD uses GET's route: decided as viewReport, and its own plain path query is HEAD's
    let bearer = format!("Bearer {}", gate.issuer.sign(&alice));
    assert_eq!(
        gate.send("HEAD", "/portal/p/reports/1", &[("authorization", &bearer)]).status,
        200
    );
    let closed = raw(
        gate.proxy,
        "HEAD",
        "/portal/p/reports/closed",
        &[("authorization", &bearer)],
        b"",
    );
    assert_eq!((closed.status, closed.body.len()), (403, 0));
    let last = gate
        .records(13)
        .into_iter()
        .rev()
        .find(|r| r["http"]["method"] == "HEAD" && r["decision"] == "allow")
        .unwrap();
    assert_eq!(last["action"], "Action::\"viewReport\"");
}

#[test]
fn a_borrowed_head_meets_the_forbids_of_get_where_the_schema_has_no_head() {
    let gate = Setup::portal(
        &ROUTED.replace("GET, HEAD, POST", "GET"),
        r#"@id("reports") permit(principal, action == Action::"viewReport", resource is Report);
           @id("closed") forbid(principal, action == Action::"GET", resource in Path::"/portal/p/reports/closed");"#,
    )
    .file(
        "policies/p/portal.yaml",
        "public: [ 'GET /portal/p/open/**' ]\nroutes:\n  - { route: 'GET /portal/p/reports/{id}', action: viewReport, resource: { type: Report, id: '{id}' } }\n",
    )
    .file(
        "policies/p/_deny/incident.cedar",
        r#"forbid(principal, action == Action::"GET", resource in Path::"/portal/p/open/shut");"#,
    )
    .start();
    let bearer = format!("Bearer {}", gate.issuer.sign(&with(&json!({}))));
    for (path, status) in [
        ("/portal/p/reports/1", 200),
        ("/portal/p/reports/closed", 403),
        ("/portal/p/open/a", 200),
        ("/portal/p/open/shut/a", 403),
        ("/portal/p/elsewhere", 403),
    ] {
        for method in ["HEAD", "GET"] {
            let answer = gate.send(method, path, &[("authorization", &bearer)]);
            assert_eq!(answer.status, status, "{method} {path}");
        }
    }
}

#[test]
fn an_undeclared_action_denies() {
    let gate = Setup::portal(ROUTED, "permit(principal, action, resource);").start();
    let bearer = format!("Bearer {}", gate.issuer.sign(&with(&json!({}))));
    for method in ["DELETE", "PUT", "PROPFIND", "OPTIONS"] {
        let answer = gate.send(method, "/portal/p/x", &[("authorization", &bearer)]);
        assert_eq!((answer.status, answer.code().as_str()), (403, "not_permitted"), "{method}");
    }
    for method in ["GET", "POST"] {
        assert_eq!(
            gate.send(method, "/portal/p/x", &[("authorization", &bearer)]).status,
            200,
            "{method}"
        );
    }
}

#[test]
fn step_up_and_advice_reach_the_caller() {
    let gate = portal(
        "",
        "auth?: { method: String, acr?: String }",
        r#"@id("keyholders") @step_up("urn:acr:mfa") @advice("log in with your key")
           permit(principal in Role::"viewer", action, resource == Path::"/portal/p/money")
               when { context has auth && context.auth has acr && context.auth.acr == "urn:acr:mfa" };
           @id("open") permit(principal, action, resource in Path::"/portal/p/all");
           @id("gone") @advice("this moved")
           forbid(principal, action, resource == Path::"/portal/p/all/old");
           @id("fresh") @step_up("urn:acr:mfa")
           forbid(principal, action, resource == Path::"/portal/p/all/admin")
               unless { context has auth && context.auth has acr && context.auth.acr == "urn:acr:mfa" };
           @id("hard") forbid(principal, action, resource == Path::"/portal/p/all/never");
           @id("soft") @step_up("urn:acr:mfa") forbid(principal, action, resource == Path::"/portal/p/all/never");"#,
    )
    .start();
    let token = gate.issuer.sign(&with(&json!({})));
    for path in ["/portal/p/money", "/portal/p/all/admin"] {
        let answer = gate.get(path, &token);
        assert_eq!((answer.status, answer.code().as_str()), (401, "step_up_required"), "{path}");
        let challenge = answer.header("www-authenticate");
        assert!(
            challenge.contains("insufficient_user_authentication") && challenge.contains("urn:acr:mfa"),
            "{challenge}"
        );
        assert_eq!(get(&gate, path, &with(&json!({"acr": "urn:acr:mfa"}))), ok(), "{path}");
    }
    assert_eq!(gate.get("/portal/p/money", &token).json()["advice"], "log in with your key");
    let old = gate.get("/portal/p/all/old", &token);
    assert_eq!(
        (old.code().as_str(), old.json()["advice"].as_str()),
        ("forbidden", Some("this moved"))
    );
    let never = gate.get("/portal/p/all/never", &token);
    assert_eq!(
        (never.status, never.code().as_str()),
        (403, "forbidden"),
        "a stronger login would not help"
    );
    let other = get(&gate, "/portal/p/money", &with(&json!({"roles": []})));
    assert_eq!(
        other,
        no(403, "not_permitted"),
        "who is not meant by the permit is told nothing"
    );
    let token = gate.issuer.sign(&with(&json!({"exp": now() + 60})));
    let text = gate.get("/portal/p/money", &token).text();
    assert!(
        !text.contains("keyholders") && !text.contains("Role"),
        "policy text never leaves: {text}"
    );
}
