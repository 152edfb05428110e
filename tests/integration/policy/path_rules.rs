//! Paths that apps read in different ways: case, opaque segments and characters that a client left unescaped.
//!
//! Each test asks the proxy over both HTTP versions, `/authorize`, a decision test and `cedargate authorize`.

use serde_json::{Value, json};

use crate::support::binary::{GateFolder, run};
use crate::support::http2_client::{Client, request};
use crate::support::{Gate, RawConnection, Setup, claims, eventually, raw};

const SCHEMA: &str = r#"
    entity Tenant; entity Role; entity Portal; entity Path in [Path, Portal, Group]; entity Group; entity Order;
    entity User in [Role, Tenant];
    type Facts = { path?: String };
    action GET, HEAD, POST appliesTo { principal: [User], resource: [Path], context: Facts };
    action viewOrder appliesTo { principal: [User], resource: [Order], context: Facts };
"#;
const POLICIES: &str = r#"
    @id("open") permit(principal, action, resource);
    @id("secret") forbid(principal, action, resource in Path::"/portal/p/secret");
    @id("old") forbid(principal, action, resource) when { context has path && context.path like "/portal/p/old*" };
    @id("order") forbid(principal, action == Action::"viewOrder", resource == Order::"a7");
"#;
const ROUTES: &str = "public: [ 'GET /portal/p/Open/**' ]\nroutes:\n  - { route: 'GET /portal/p/Orders/{order}', action: viewOrder, resource: { type: Order, id: '{order}' } }\n";
const FORBID: &str = r#"@id("shut") forbid(principal, action, resource in Path::"/portal/p/open/shut");"#;

fn setup(paths: &str) -> Setup {
    let forbid = if paths.contains("ignored") { FORBID } else { "" };
    Setup::portal(SCHEMA, POLICIES)
        .file("policies/p/portal.yaml", &format!("{ROUTES}{paths}\n"))
        .file("policies/p/_deny/shut.cedar", forbid)
}

/// The status over each HTTP version; the app sees the path as it was sent.
fn statuses(gate: &Gate, path: &str) -> (u16, u16) {
    let bearer = format!("Bearer {}", gate.issuer.token("alice", &[]));
    let first = gate.send("GET", path, &[("authorization", &bearer)]).status;
    if first == 200 {
        assert_eq!(gate.app.last().target, path);
    }
    let second = Client::open(gate.proxy).ask(request(gate, "GET", path), b"").unwrap().status;
    if second == 200 {
        assert_eq!(gate.app.last().target, path);
    }
    (first, second)
}

fn asked(gate: &Gate, id: &str) -> Value {
    let resource = json!({"type": "Path", "id": id});
    let body =
        json!({"portal": "p", "principal": "User::\"alice\"", "action": "GET", "resource": resource, "context": {"path": id}});
    gate.ask("/authorize", &body).json()
}

fn rejected(gate: &Gate, cause: &str) {
    eventually(cause, || {
        let last = gate.status()["portals"][0]["last_reload"].to_string();
        let found = last.contains("rejected") && last.contains(cause);
        if found { Ok(()) } else { Err(last) }
    });
}

#[test]
fn an_app_that_ignores_case_is_decided_on_without_case() {
    let gate = setup("paths: { case: ignored }").start();
    for (path, status) in [
        ("/portal/p/x", 200),
        ("/portal/p/Docs/ReadMe", 200),
        ("/PORTAL/P/x", 200),
        ("/portal/p/secret/x", 403),
        ("/portal/p/SECRET/x", 403),
        ("/portal/p/Secret", 403),
        ("/PORTAL/P/sEcReT/", 403),
        ("/portal/p/%53ecret", 403),
        ("/portal/p/OLD/x", 403),
        ("/portal/p/orders/7", 200),
        ("/portal/p/ORDERS/B7", 200),
        ("/portal/p/orders/A7", 403),
        ("/portal/p/ORDERS/a7", 403),
        ("/portal/p/%CF%82", 400),
        ("/portal/p/%E2%84%AA", 400),
    ] {
        let found = statuses(&gate, path);
        if path.contains("%53") {
            assert_eq!(found, (status, status), "{path}");
            continue;
        }
        assert_eq!(found, (status, status), "{path}");
    }
    for (path, status) in [
        ("/portal/p/open/a", 200),
        ("/portal/p/OPEN/a", 200),
        ("/PORTAL/p/Open/SHUT/a", 403),
        ("/portal/p/open/shut", 403),
        ("/portal/p/other", 401),
    ] {
        assert_eq!(gate.send("GET", path, &[]).status, status, "{path}");
    }
    for (id, reason) in [("/portal/p/SECRET/x", "forbidden"), ("/portal/p/Docs", "permitted")] {
        assert_eq!(asked(&gate, id)["reason"], reason, "{id}");
    }
    assert_eq!(asked(&gate, "/portal/p/%CF%82")["code"], "request_invalid");
}

#[test]
fn case_counts_unless_the_portal_says_otherwise() {
    let gate = setup("").start();
    for (path, status) in [
        ("/portal/p/secret/x", 403),
        ("/portal/p/SECRET/x", 200),
        ("/portal/p/%CF%82", 200),
        ("/portal/p/orders/A7", 200),
        ("/PORTAL/p/x", 404),
    ] {
        assert_eq!(statuses(&gate, path), (status, status), "{path}");
    }
    assert_eq!(asked(&gate, "/portal/p/SECRET/x")["reason"], "permitted");
}

#[test]
fn a_path_in_another_case_than_requests_have_is_a_load_error() {
    let gate = setup("paths: { case: ignored }").start();
    let before = gate.revision("p");
    for (file, text) in [
        (
            "policies/p/more.cedar",
            r#"@id("more") forbid(principal, action, resource in Path::"/portal/p/Secret");"#,
        ),
        (
            "policies/p/_deny/more.cedar",
            r#"forbid(principal, action, resource in Path::"/portal/p/Secret");"#,
        ),
        (
            "policies/p/entities.json",
            r#"[{"uid": {"type": "Path", "id": "/portal/p/Secret"}, "attrs": {}, "parents": [{"type": "Group", "id": "g"}]}]"#,
        ),
    ] {
        gate.put(file, text);
        rejected(&gate, "lower case");
        std::fs::remove_file(gate.path(file)).unwrap();
        eventually("the good files are in force", || {
            let status = gate.status();
            let last = status["portals"][0]["last_reload"].to_string();
            if last.contains("rejected") { Err(last) } else { Ok(()) }
        });
    }
    assert_eq!(gate.revision("p"), before);
}

#[test]
fn a_portal_takes_a_path_in_another_case_from_no_other_portal() {
    let tree = |case: &str| {
        Setup::empty()
            .config("portals: { site: { match: { path_prefix: / } }, shop: { match: { path_prefix: /Shop } } }")
            .file("schemas/site.cedarschema", SCHEMA)
            .file("schemas/shop.cedarschema", SCHEMA)
            .file(
                "policies/site/main.cedar",
                "@id(\"site\") permit(principal, action, resource);",
            )
            .file(
                "policies/shop/main.cedar",
                "@id(\"shop\") forbid(principal, action, resource);",
            )
            .file(
                "policies/site/portal.yaml",
                if case == "site" {
                    "paths: { case: ignored }"
                } else {
                    "title: x"
                },
            )
            .file(
                "policies/shop/portal.yaml",
                if case == "shop" {
                    "paths: { case: ignored }"
                } else {
                    "title: x"
                },
            )
    };
    for (ignoring, path, status) in [
        ("none", "/Shop/x", 403),
        ("none", "/SHOP/x", 200),
        ("none", "/X", 200),
        ("shop", "/shop/x", 403),
        ("shop", "/SHOP/x", 403),
        ("shop", "/X", 200),
        ("site", "/SHOP/x", 400),
        ("site", "/X", 200),
    ] {
        let gate = tree(ignoring).start();
        assert_eq!(statuses(&gate, path), (status, status), "{ignoring}: {path}");
    }
}

/// Paths below a prefix that `paths.opaque` names, and the status of each.
const OPAQUE: [(&str, u16); 12] = [
    ("/portal/p/api/projects/group%2Fproject", 200),
    ("/portal/p/api/@scope%2fpkg", 200),
    ("/portal/p/api;jsessionid=1/list", 400),
    ("/portal/p/api/list;jsessionid=1/x", 200),
    ("/portal/p/api/a//b", 200),
    ("/portal/p/api/files/50%25ab.txt", 200),
    ("/portal/p/api/a%2f..%2fb", 400),
    ("/portal/p/api/..;/b", 400),
    ("/portal/p/api/%252e%252e/b", 400),
    ("/portal/p/api/a%5cb;c", 400),
    ("/portal/p/api//../secret", 400),
    ("/portal/p/other/a%2Fb", 400),
];

#[test]
fn a_named_prefix_keeps_opaque_segments_as_they_are() {
    let gate = setup("paths: { opaque: [/portal/p/api] }").start();
    for (path, status) in OPAQUE {
        assert_eq!(statuses(&gate, path), (status, status), "{path}");
        let answer = asked(&gate, path);
        assert_eq!(answer["decision"] == "allow", status == 200, "{path}: {answer}");
    }
    let token = gate.issuer.token("alice", &[]);
    for (path, rule) in [
        ("/portal/p/other/a%2Fb", "an encoded `/`"),
        ("/portal/p/other/a;b", "a `;`"),
        ("/portal/p/other//b", "an empty segment"),
        ("/portal/p/other/%2541", "percent-encoded twice"),
        ("/elsewhere/a;b", "a `;`"),
        ("/api/v1/identity/auth/session;x", "a `;`"),
    ] {
        let answer = gate.get(path, &token);
        let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert_eq!((answer.status, answer.code().as_str()), (400, "request_invalid"), "{path}");
        assert!(detail.contains(rule) && detail.contains("`paths.opaque`"), "{path}: {detail}");
    }
    let dots = gate.get("/portal/p/api/..%2fx", &token).json();
    assert!(dots["detail"].as_str().unwrap().contains("`.` or `..` segment"), "{dots}");
}

#[test]
fn a_forbid_holds_for_every_reading_of_an_opaque_path() {
    let gate = setup("paths: { opaque: [/portal/p] }").start();
    for path in [
        "/portal/p/secret/x",
        "/portal/p//secret/x",
        "/portal/p/secret;v=1/x",
        "/portal/p/secret%2fx",
        "/portal/p/secret%252fx",
        "/portal/p/secret/a%2Fb",
        "/portal/p/%2573ecret",
    ] {
        assert_eq!(statuses(&gate, path), (403, 403), "{path}");
        assert_eq!(asked(&gate, path)["reason"], "forbidden", "{path}");
    }
    gate.put(
        "policies/p/_deny/shut.cedar",
        r#"forbid(principal, action, resource in Path::"/portal/p/Open/shut");"#,
    );
    eventually("the emergency forbid holds", || {
        match gate.send("GET", "/portal/p/Open/shut", &[]).status {
            403 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    for path in ["/portal/p/Open//shut", "/portal/p/Open/shut;a", "/portal/p/Open/shut%2fb"] {
        assert_eq!(gate.send("GET", path, &[]).status, 403, "{path}");
    }
    assert_eq!(gate.send("GET", "/portal/p/Open/a;b", &[]).status, 200);
}

#[test]
fn a_portal_at_the_root_may_keep_opaque_segments_everywhere_but_at_the_gates_own_endpoints() {
    let gate = Setup::portal(SCHEMA, POLICIES)
        .config("portals: { p: { match: { path_prefix: / } } }")
        .file("policies/p/portal.yaml", "paths: { opaque: [/] }")
        .start();
    for (path, status) in [
        ("/@scope%2fpkg", 200),
        ("/app;jsessionid=1/list", 200),
        ("//x", 200),
        ("//shop.test/x", 200),
        ("/a//", 200),
        ("/a//b?next=//c;d", 200),
        ("/files/50%25ab.txt", 200),
        ("/portal/p//secret", 403),
        ("//portal/p/secret", 403),
        ("/portal%2fp%2fsecret/x", 403),
        ("//..//x", 400),
        ("/..;/x", 400),
        ("/%2e%2e%2fx", 400),
        ("//api/v1/identity/auth/session", 400),
        ("/api/v1/identity;x/auth/session", 400),
        ("/api/v1%2fidentity/auth/session", 400),
        ("/.well-known/cedargate/jwks.json;x", 400),
    ] {
        assert_eq!(statuses(&gate, path), (status, status), "{path}");
    }
}

#[test]
fn a_policy_may_name_an_opaque_path_where_requests_can_have_it() {
    let policies = |id: &str, effect: &str| format!("@id(\"one\") {effect}(principal, action, resource == Path::\"{id}\");");
    for (effect, id, loads) in [
        ("permit", "/portal/p/api/g%2Fp", true),
        ("permit", "/portal/p/api/g%2fp", true),
        ("forbid", "/portal/p/api/g%2Fp", true),
        ("forbid", "/portal/p/api/g%2fp", false),
        ("permit", "/portal/p/g%2Fp", false),
        ("permit", "/portal/p/api/a%2f..", false),
    ] {
        let setup =
            Setup::portal(SCHEMA, &policies(id, effect)).file("policies/p/portal.yaml", "paths: { opaque: [/portal/p/api] }");
        let gate = setup.start();
        assert_eq!(gate.revision("p").is_some(), loads, "{effect} {id}: {}", gate.status());
        if loads && effect == "permit" {
            let token = gate.issuer.token("alice", &[]);
            assert_eq!(gate.get(id, &token).status, 200, "{id}");
            assert_eq!(gate.get("/portal/p/api/g", &token).status, 403);
        }
    }
}

#[test]
fn characters_that_a_client_left_unescaped_are_escaped_before_anything_reads_them() {
    let schema = SCHEMA.replace("path?: String", "path?: String, query?: { q?: String }");
    let policies = r#"
        @id("open") permit(principal, action, resource);
        @id("path") forbid(principal, action, resource in Path::"/portal/p/caf%C3%A9");
        @id("query") forbid(principal, action, resource) when { context has query && context.query has q && context.query.q == "<b>" };
    "#;
    let gate = Setup::portal(&schema, policies).start();
    let bearer = format!("Bearer {}", gate.issuer.token("alice", &[]));
    let ask = |target: &[u8], pause: bool| {
        let mut connection = RawConnection::open(gate.proxy);
        let before = gate.app.count();
        let head = [b"GET ", target, b" HTTP/1.1\r\nhost: shop.test\r\n"].concat();
        let fields = format!("authorization: {bearer}\r\n\r\n");
        if pause {
            // byte by byte, so that every read ends inside the target once
            head.iter().for_each(|byte| assert!(connection.send([*byte])));
            connection.send(fields);
        } else {
            connection.send([&head, fields.as_bytes()].concat());
        }
        let answer = connection.read_answer("GET").unwrap();
        let seen = (gate.app.count() > before).then(|| gate.app.last());
        // the connection is in step: the next request is read by itself
        if answer.status != 400 {
            connection.send(format!(
                "GET /portal/p/next HTTP/1.1\r\nhost: shop.test\r\nauthorization: {bearer}\r\n\r\n"
            ));
            assert_eq!(connection.read_answer("GET").unwrap().status, 200);
            assert_eq!(gate.app.last().target, "/portal/p/next");
        }
        (answer.status, seen.map(|seen| seen.target))
    };
    for (target, status, forwarded) in [
        ("/portal/p/\u{fc}ber?x=\u{e9}", 200, "/portal/p/%C3%BCber?x=%C3%A9"),
        (
            "/portal/p/a<b>\"c\"{d}|e^f`",
            200,
            "/portal/p/a%3Cb%3E%22c%22%7Bd%7D%7Ce%5Ef%60",
        ),
        (
            "/portal/p/x?f={\"a\":[1|2]}&g=<i>`^",
            200,
            "/portal/p/x?f=%7B%22a%22:[1%7C2]%7D&g=%3Ci%3E%60%5E",
        ),
        ("/portal/p/caf\u{e9}", 403, ""),
        ("/portal/p/caf\u{e9}/menu", 403, ""),
        ("/portal/p/x?q=<b>", 403, ""),
        ("/portal/p/x?q=%3Cb>", 403, ""),
        ("/portal/p/x?q=<i>", 200, "/portal/p/x?q=%3Ci%3E"),
        ("\u{e9}/portal/p/x", 400, ""),
        ("http://shop.test/portal/p/\u{e9}", 200, "/portal/p/%C3%A9"),
        ("http://sh\u{f6}p.test/portal/p/x", 400, ""),
    ] {
        for pause in [false, true] {
            let (found, seen) = ask(target.as_bytes(), pause);
            assert_eq!(found, status, "{target}");
            assert_eq!(seen.unwrap_or_default(), forwarded, "{target}");
        }
    }
    for (target, status) in [
        (&b"/portal/p/\xff"[..], 400),
        (b"/portal/p/\xc0\xaf", 400),
        (b"/portal/p/\xed\xa0\x80", 400),
        (b"/portal/p/x\\y", 400),
        (b"/portal/p/\xe2\x80\xae", 200),
        (b"/portal/p/\xc2\x85", 400),
        (b"/portal/p/x?q=\xff", 200),
    ] {
        assert_eq!(ask(target, false).0, status, "{target:?}");
    }
    let long = format!("/portal/p/{}", "\u{e9}".repeat(1200));
    assert_eq!(
        ask(long.as_bytes(), false),
        (200, Some(format!("/portal/p/{}", "%C3%A9".repeat(1200))))
    );
    // what the HTTP/2 library takes gets the same escapes
    let http2 = Client::open(gate.proxy);
    for (target, forwarded) in [
        ("/portal/p/a{d}|e^f", "/portal/p/a%7Bd%7D%7Ce%5Ef"),
        ("/portal/p/x?f={1|2}`^", "/portal/p/x?f=%7B1%7C2%7D%60%5E"),
        ("/portal/p/\u{fc}ber?x=\u{e9}", "/portal/p/%C3%BCber?x=%C3%A9"),
    ] {
        assert_eq!(http2.ask(request(&gate, "GET", target), b"").unwrap().status, 200, "{target}");
        assert_eq!(gate.app.last().target, forwarded, "{target}");
    }
    assert_eq!(
        http2.ask(request(&gate, "GET", "/portal/p/caf\u{e9}"), b"").unwrap().status,
        403
    );
}

#[test]
fn decision_tests_and_the_command_read_paths_as_the_portal_does() {
    let folder = GateFolder::new("http://127.0.0.1:1", "");
    for tree in ["policies", "schemas"] {
        std::fs::remove_dir_all(folder.folder.path().join(tree)).unwrap();
    }
    folder.put("schemas/p.cedarschema", SCHEMA);
    folder.put("policies/p/main.cedar", POLICIES);
    folder.put(
        "policies/p/portal.yaml",
        &format!("{ROUTES}paths: {{ case: ignored, opaque: [/portal/p/Api] }}\n"),
    );
    let rows = [
        ("/portal/p/SECRET/x", "forbidden"),
        ("/PORTAL/P/docs", "permitted"),
        ("/portal/p/ORDERS/A7", "forbidden"),
        ("/portal/p/API/g%2Fp", "permitted"),
        ("/portal/p/g%2Fp", "request_invalid"),
    ];
    let cases: Vec<Value> = rows
        .iter()
        .map(|(path, reason)| {
            let expect = if *reason == "permitted" { "allow" } else { "deny" };
            json!({"name": path, "claims": {"sub": "alice"}, "http": format!("GET {path}"), "expect": expect, "reason": reason})
        })
        .collect();
    folder.put("policies/p/tests/paths.yaml", &json!({ "cases": cases }).to_string());
    let (code, out, error) = folder.run(&["test", "--config", "cedargate.yaml", "."]);
    assert_eq!(code, 0, "{out}{error}");
    let token = folder.issuer.token("alice", &[]);
    for (path, reason) in rows {
        let arguments = [
            "authorize",
            "--config",
            "cedargate.yaml",
            "--format",
            "json",
            "--token",
            &token,
            "--url",
            path,
        ];
        let (_, out, error) = run(folder.folder.path(), &arguments);
        let report: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{path}: {e}: {out}{error}"));
        assert_eq!(report["reason"], *reason, "{path}: {report}");
    }
}

/// What is in a path is in the path's parents, stored or sent; a path that no request has is not followed.
#[test]
fn a_forbid_on_a_path_holds_for_all_that_is_in_a_path_below_it() {
    let schema = SCHEMA_OF_DOCS;
    let policies = "@id(\"all\") permit(principal, action, resource);
        @id(\"secret\") forbid(principal, action, resource in Path::\"/portal/p/secret\");
        @id(\"zone\") forbid(principal, action, resource in Zone::\"z\");
        @id(\"place\") forbid(principal, action, resource) when { resource has place && resource.place in Path::\"/portal/p/secret\" };
        @id(\"home\") forbid(principal, action, resource) when { principal has home && principal.home in Path::\"/portal/p/secret\" };";
    let stored = json!([
        {"uid": {"type": "Doc", "id": "7"}, "attrs": {}, "parents": [{"type": "Path", "id": "/portal/p/secret/room"}]},
        {"uid": {"type": "Doc", "id": "8"}, "attrs": {}, "parents": [{"type": "Path", "id": "/portal/p/yard/corner"}]},
        {"uid": {"type": "Doc", "id": "9"}, "attrs": {}, "parents": [{"type": "Path", "id": "/portal/p/open/room"}]},
        {"uid": {"type": "Path", "id": "/portal/p/yard"}, "attrs": {}, "parents": [{"type": "Zone", "id": "z"}]},
        {"uid": {"type": "Path", "id": "/portal/p/linked"}, "attrs": {}, "parents": [{"type": "Path", "id": "/portal/p/secret/room"}]},
    ]);
    let routes = "routes:\n- { route: \"GET /portal/p/docs/{id}\", action: viewDoc, resource: { type: Doc, id: \"{id}\" } }\n";
    let gate = Setup::portal(schema, policies)
        .file("policies/p/entities.json", &stored.to_string())
        .file("policies/p/portal.yaml", routes)
        .start();
    let token = gate.issuer.token("alice", &[]);
    for (page, status) in [
        ("docs/7", 403),
        ("docs/8", 403),
        ("docs/9", 200),
        ("linked", 403),
        ("linked/x", 403),
        ("open", 200),
    ] {
        assert_eq!(gate.get(&format!("/portal/p/{page}"), &token).status, status, "{page}");
    }
    let path = |id: &str| json!({"type": "Path", "id": id});
    let place = |id: &str| json!({"place": {"__entity": path(id)}});
    for (resource, status, reason) in [
        (json!({"parents": [path("/portal/p/secret/room")]}), 200, "forbidden"),
        (json!({"parents": [path("/portal/p/yard/corner")]}), 200, "forbidden"),
        (json!({"parents": [path("/portal/p/open/room")]}), 200, "permitted"),
        (json!({"parents": [path("/portal/p/open/../secret")]}), 400, "request_invalid"),
        (json!({"attrs": place("/portal/p/secret/room")}), 200, "forbidden"),
        (json!({"attrs": place("/portal/p/open/room")}), 200, "permitted"),
        (json!({"attrs": place("/portal/p/open/../secret")}), 400, "request_invalid"),
        (json!({"attrs": place("/portal/p/%73ecret")}), 400, "request_invalid"),
    ] {
        let mut resource = resource;
        resource
            .as_object_mut()
            .unwrap()
            .extend([("type".into(), json!("Doc")), ("id".into(), json!("new"))]);
        let question = json!({"portal": "p", "token": token, "action": "viewDoc", "resource": resource});
        let answer = raw(gate.decision, "POST", "/authorize", &[], question.to_string().as_bytes());
        let found = answer.json();
        let found = if answer.status == 200 {
            &found["reason"]
        } else {
            &found["code"]
        };
        assert_eq!((answer.status, found), (status, &json!(reason)), "{resource}");
    }
    let mut claims = claims("alice", &[]);
    for (home, status) in [
        ("/portal/p/open", 200),
        ("/portal/p/secret/room", 403),
        ("/portal/p/open/../secret", 403),
    ] {
        claims["home"] = json!(home);
        assert_eq!(
            gate.get("/portal/p/open", &gate.issuer.sign(&claims)).status,
            status,
            "{home}"
        );
    }
}

const SCHEMA_OF_DOCS: &str =
    "entity Tenant; entity Role in [Role]; entity Portal; entity Zone; entity Path in [Path, Portal, Zone];
entity User in [Role, Tenant] = { home?: Path }; entity Doc in [Path] = { place?: Path };
action GET appliesTo { principal: [User], resource: [Path], context: {} };
action viewDoc appliesTo { principal: [User], resource: [Doc], context: {} };";
