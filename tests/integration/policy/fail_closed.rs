//! Regressions of a review: each fault turned a deny into an allow, or took the gate down.

use serde_json::json;

use crate::support::http2_client::{Client, request};
use crate::support::{Gate, ISSUER, RawConnection, ScriptedServer, Setup, claims, eventually};

const SCHEMA: &str = r#"
    entity Tenant; entity Role; entity Portal; entity Path in [Path, Portal];
    entity User in [Role, Tenant] { mail?: String, home?: Path };
    type Facts = { tenant?: String, headers?: { x_risk?: String } };
    action GET appliesTo { principal: [User], resource: [Path], context: Facts };
    action see appliesTo { principal: [User], resource: [User], context: Facts };
"#;
const OPEN: &str = "@id(\"open\") permit(principal, action, resource);";

fn rejected(gate: &Gate, cause: &str) {
    eventually(cause, || {
        let last = gate.status()["portals"][0]["last_reload"].clone();
        let found = last["result"] == "rejected" && last.to_string().contains(cause);
        if found { Ok(()) } else { Err(last.to_string()) }
    });
}

#[test]
fn a_policy_that_nests_without_end_is_rejected_and_ends_nothing() {
    let gate = Setup::portal(SCHEMA, OPEN).start();
    let token = gate.issuer.token("alice", &[]);
    for (deep, cause) in [
        (format!("{}true{}", "(".repeat(5000), ")".repeat(5000)), "nest deeper"),
        (format!("{}true", "true || ".repeat(50_000)), "operators"),
        (format!("{}true", "!".repeat(50_000)), "operators"),
    ] {
        gate.put(
            "policies/p/main.cedar",
            &format!("@id(\"deep\") forbid(principal, action, resource) when {{ {deep} }};"),
        );
        rejected(&gate, cause);
        assert_eq!(gate.get("/portal/p/x", &token).status, 200);
    }
}

#[test]
fn policies_just_within_the_limits_are_loaded_and_decided() {
    let nested = format!("{}true{}", "(".repeat(90), ")".repeat(90));
    let chained = format!("{}true", "false || ".repeat(1900));
    let policies = format!(
        "@id(\"a\") permit(principal, action, resource) when {{ {nested} }};\n\
         @id(\"b\") permit(principal, action, resource) when {{ {chained} }};"
    );
    let gate = Setup::portal(SCHEMA, &policies).start();
    let token = gate.issuer.token("alice", &[]);
    for _ in 0..3 {
        assert_eq!(gate.get("/portal/p/x", &token).status, 200);
    }
}

#[test]
fn an_emergency_forbid_closes_public_paths_too() {
    let gate = Setup::portal(SCHEMA, OPEN)
        .file("policies/p/portal.yaml", "public: [\"GET /portal/p/open/**\"]")
        .start();
    assert_eq!(gate.send("GET", "/portal/p/open/x", &[]).status, 200);
    for forbid in [
        "forbid(principal, action, resource);",
        "forbid(principal, action == Action::\"GET\", resource in Path::\"/portal/p/open\");",
        "forbid(principal is User, action, resource in Portal::\"p\") when { context has tenant };",
    ] {
        gate.put("policies/p/_deny/stop.cedar", forbid);
        eventually("the emergency forbid closes the public path", || {
            let answer = gate.send("GET", "/portal/p/open/x", &[]);
            if answer.status == 403 && answer.code() == "forbidden" {
                Ok(())
            } else {
                Err(format!("{forbid}: {}", answer.status))
            }
        });
        std::fs::remove_file(gate.path("policies/p/_deny/stop.cedar")).unwrap();
        eventually("the emergency forbid is lifted", || {
            let status = gate.send("GET", "/portal/p/open/x", &[]).status;
            if status == 200 { Ok(()) } else { Err(status.to_string()) }
        });
    }
    let elsewhere = "forbid(principal == User::\"mallory\", action, resource); forbid(principal, action, resource in Path::\"/portal/p/other\");";
    gate.put("policies/p/_deny/stop.cedar", elsewhere);
    eventually("the other emergency forbid joins", || {
        if gate.status().to_string().contains("\"policies\": 3") || gate.status()["portals"][0]["policies"] == 3 {
            Ok(())
        } else {
            Err(String::new())
        }
    });
    assert_eq!(gate.send("GET", "/portal/p/open/x", &[]).status, 200);
}

#[test]
fn a_candidate_that_an_emergency_forbid_does_not_fit_is_rejected() {
    let gate = Setup::portal(SCHEMA, OPEN).start();
    let token = gate.issuer.token("alice", &[]);
    gate.put("policies/p/_deny/stop.cedar", "forbid(principal, action, resource is Path);");
    eventually("the emergency forbid holds", || {
        let status = gate.get("/portal/p/x", &token).status;
        if status == 403 { Ok(()) } else { Err(status.to_string()) }
    });
    let renamed = SCHEMA
        .replace("entity Path in [Path, Portal]", "entity Page in [Page, Portal]")
        .replace("home?: Path", "home?: Page");
    gate.put(
        "schemas/p.cedarschema",
        &renamed.replace("resource: [Path]", "resource: [Page]"),
    );
    rejected(&gate, "does not fit the candidate");
    assert_eq!(gate.get("/portal/p/x", &token).status, 403);
}

#[test]
fn a_broken_emergency_forbid_at_the_first_load_denies() {
    let gate = Setup::portal(SCHEMA, OPEN)
        .file("policies/p/_deny/stop.cedar", "forbid(principal, action, resource")
        .start();
    let answer = gate.get("/portal/p/x", &gate.issuer.token("alice", &[]));
    assert_eq!((answer.status, answer.code().as_str()), (403, "no_policy_loaded"));
}

#[test]
fn the_authorize_endpoint_checks_the_portals_tenant() {
    let config = "portals: { p: { match: { path_prefix: /portal/p }, tenant: { fixed: acme } } }";
    let gate = Setup::portal(SCHEMA, OPEN).config(config).start();
    let ask = |tenant: &str| {
        let mut claims = claims("alice", &[]);
        claims["tenant"] = json!(tenant);
        let token = gate.issuer.sign(&claims);
        gate.authorize(&json!({"portal": "p", "token": token, "action": "GET", "resource": "Path::\"/x\""}))
    };
    assert_eq!(ask("acme")["decision"], "allow");
    let foreign = ask("beta");
    assert_eq!(
        (foreign["decision"].as_str(), foreign["reason"].as_str()),
        (Some("deny"), Some("tenant_mismatch"))
    );
}

#[test]
fn a_caller_that_acts_on_itself_is_one_entity_as_principal_and_resource() {
    let policies =
        format!("{OPEN} @id(\"not-on-admins\") forbid(principal, action == Action::\"see\", resource in Role::\"admin\");");
    let gate = Setup::portal(SCHEMA, &policies).start();
    let token = gate.issuer.token("root", &["admin"]);
    let answer = gate.authorize(&json!({"portal": "p", "token": token, "action": "see", "resource": "User::\"root\""}));
    assert_eq!(answer["policies"][0]["id"], "not-on-admins", "{answer}");
}

#[test]
fn a_path_in_an_attribute_has_its_ancestors() {
    let policies = format!(
        "{OPEN} @id(\"at-home\") forbid(principal, action, resource) when {{ principal has home && principal.home in Path::\"/secret\" }};"
    );
    let gate = Setup::portal(SCHEMA, &policies).start();
    let mut claims = claims("alice", &[]);
    assert_eq!(gate.get("/portal/p/x", &gate.issuer.sign(&claims)).status, 200);
    claims["home"] = json!("/secret/room");
    assert_eq!(gate.get("/portal/p/x", &gate.issuer.sign(&claims)).status, 403);
}

#[test]
fn another_spelling_of_a_header_that_policies_read_is_refused() {
    let policies = format!(
        "{OPEN} @id(\"risky\") forbid(principal, action, resource) when {{ context has headers && context.headers has x_risk && context.headers.x_risk == \"high\" }};"
    );
    let gate = Setup::portal(SCHEMA, &policies).start();
    let bearer = format!("Bearer {}", gate.issuer.token("alice", &[]));
    let send = |name: &str, value: &str| {
        gate.send("GET", "/portal/p/x", &[("authorization", &bearer), (name, value)])
            .status
    };
    assert_eq!((send("x-risk", "low"), send("X-Risk", "high")), (200, 403));
    for other in ["x_risk", "X_Risk", "x.risk", "x!risk", "x~risk"] {
        assert_eq!(send(other, "high"), 400, "{other}");
        // and beside the right one
        let both = [("authorization", &*bearer), ("x-risk", "low"), (other, "high")];
        assert_eq!(gate.send("GET", "/portal/p/x", &both).status, 400, "{other}");
    }
    let http2 = Client::open(gate.proxy);
    for (name, status) in [("x-risk", 200), ("x_risk", 400), ("x.risk", 400)] {
        let mut request = request(&gate, "GET", "/portal/p/x");
        let headers = request.headers_mut();
        headers.insert("authorization", bearer.parse().unwrap());
        headers.insert(name, "low".parse().unwrap());
        assert_eq!(http2.ask(request, b"").unwrap().status, status, "{name}");
    }
}

#[test]
fn a_query_parameter_that_an_app_could_merge_with_one_that_policies_read_is_refused() {
    let schema = SCHEMA.replace(
        "headers?: { x_risk?: String }",
        "query?: { team_id?: String, tag?: Set<String> }",
    );
    let policies = format!(
        "{OPEN} @id(\"admins\") forbid(principal, action, resource) when {{ context has query && context.query has team_id && context.query.team_id == \"admin\" }};"
    );
    let gate = Setup::portal(&schema, &policies).start();
    let token = gate.issuer.token("alice", &[]);
    for (query, status) in [
        ("team_id=eng&other=1", 200),
        ("team-id=admin&team_ids=admin&x=team_id", 200),
        ("other=1;2&x[team_id]=admin&filter[a]=1", 200),
        ("other=a%3Bteam_id=admin", 200),
        ("tag=a&tag=b", 200),
        ("team_id=admin", 403),
        ("te%61m_id=%61dmin", 403),
        ("team_id=eng&team_id=admin", 400),
        ("team_id[]=admin", 400),
        ("team_id=eng&team_id%5B%5D=admin", 400),
        ("team_id[0]=admin", 400),
        ("team_id[=admin", 400),
        ("team.id=admin", 400),
        ("team[id=admin", 400),
        ("team%5Bid=admin", 400),
        ("team[id]=admin", 200),
        ("!team_id=admin", 400),
        ("team+id=admin", 400),
        ("team%20id=admin", 400),
        ("+team_id=admin", 400),
        ("TEAM_ID=admin", 400),
        ("Team_Id=eng", 400),
        ("team_id%00x=admin", 400),
        ("team_id=admin;x=1", 400),
        ("other=1;team_id=admin", 400),
        ("other=1;x;team_id[]=admin&y=2", 400),
        ("tag=a&tag[]=b", 400),
    ] {
        let answer = gate.get(&format!("/portal/p/x?{query}"), &token);
        assert_eq!(answer.status, status, "{query}: {}", answer.text());
    }
}

#[test]
fn a_trailer_adds_no_header_that_policies_have_read() {
    let script = ScriptedServer::start(|_, wire| {
        let body = wire.read_until("0\r\n");
        let trailers = wire.read_until("\r\n\r\n");
        let echo = [body, trailers].concat();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", echo.len());
        wire.send([head.as_bytes(), &echo].concat());
    });
    let schema = SCHEMA.replace("action GET", "action GET, POST");
    let gate = Setup::portal(&schema, OPEN)
        .config(&format!("upstream: {{ url: '{}' }}", script.url()))
        .start();
    let mut wire = RawConnection::open(gate.proxy);
    let token = gate.issuer.token("alice", &[]);
    wire.send(format!(
        "POST /portal/p/x HTTP/1.1\r\nhost: shop.test\r\nauthorization: Bearer {token}\r\ntransfer-encoding: chunked\r\ntrailer: x-risk, x-sum\r\n\r\n\
         5\r\nhello\r\n0\r\nx-risk: high\r\nX_Risk: high\r\nx.risk: high\r\nx-sum: 7\r\n\r\n"
    ));
    let echoed = wire.read_answer("POST").unwrap().text();
    assert!(echoed.contains("x-sum: 7") && !echoed.contains("high"), "{echoed}");
}

#[test]
fn the_app_gets_the_mail_address_that_the_policies_read() {
    let gate = Setup::portal(SCHEMA, OPEN)
        .file("policies/p/portal.yaml", "claims: { email: mail }")
        .start();
    let mut claims = claims("alice", &["viewer"]);
    claims["mail"] = json!("alice@acme.test");
    claims["email"] = json!("ceo@acme.test");
    claims["iss"] = json!(ISSUER);
    assert_eq!(gate.get("/portal/p/x", &gate.issuer.sign(&claims)).status, 200);
    assert_eq!(gate.app.last().headers["x-forwarded-email"], "alice@acme.test");
}

#[test]
fn the_example_portals_load_without_any_issuer() {
    let mut setup = Setup::examples();
    setup.issuers = Some(String::new());
    let gate = setup.start();
    let who = json!({"type": "User", "id": "alice", "parents": ["Role::\"viewer\""]});
    let path = "Path::\"/portal/customer/orders\"";
    let answer = gate.authorize(&json!({"portal": "customer", "principal": who, "action": "GET", "resource": path}));
    assert_eq!(answer["decision"], "allow", "{answer}");
}

#[test]
fn a_portal_that_skips_errors_still_obeys_shared_and_emergency_forbids() {
    let errs = "forbid(principal, action, resource) when { 9223372036854775807 + 1 > 0 };";
    let own = format!("{OPEN}\n@id(\"own\") {errs}");
    let gate = Setup::portal(SCHEMA, &own)
        .file("policies/p/portal.yaml", "danger_skip_errors: true")
        .start();
    let token = gate.issuer.token("alice", &[]);
    assert_eq!(gate.get("/portal/p/x", &token).status, 200, "its own forbid is skipped");
    for file in ["policies/_shared/stop.cedar", "policies/p/_deny/stop.cedar"] {
        gate.put(file, &format!("@id(\"stop\") {errs}"));
        eventually(file, || {
            let answer = gate.get("/portal/p/x", &token);
            if (answer.status, answer.code().as_str()) == (403, "evaluation_error") {
                Ok(())
            } else {
                Err(answer.status.to_string())
            }
        });
        // a shared file may go only after it was emptied
        gate.put(file, "");
        eventually("the forbid is gone", || match gate.get("/portal/p/x", &token).status {
            200 => Ok(()),
            other => Err(other.to_string()),
        });
    }
}
