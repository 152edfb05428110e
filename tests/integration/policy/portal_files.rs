//! What the files of a portal may say, against a running gate: a file that would silently allow more is rejected.

use serde_json::{Value, json};

use crate::support::{Gate, Setup, claims, eventually};

const SCHEMA: &str = r#"
    entity Tenant; entity Role in [Role, Group]; entity Portal; entity Path in [Path, Portal, Group];
    entity Group in [Group, Tenant];
    entity User in [Role, Group, Tenant] { age?: Long };
    entity Order { tenant: Tenant, price?: decimal };
    type Facts = { tenant?: String };
    action GET, HEAD, POST appliesTo { principal: [User], resource: [Path], context: Facts };
    action viewOrder appliesTo { principal: [User], resource: [Order], context: { tenant?: String, count?: Long } };
"#;
const OPEN: &str = "@id(\"open\") permit(principal, action, resource);";
const ISOLATION: &str = "@id(\"isolation\") forbid(principal, action, resource)
    when { resource has tenant && !(principal in resource.tenant) };";

/// Waits for a rejection that contains `cause` and returns the problem that does.
fn rejected(gate: &Gate, cause: &str) -> Value {
    eventually(cause, || {
        let last = gate.status()["portals"][0]["last_reload"].clone();
        let problems = last["problems"].as_array().cloned().unwrap_or_default();
        let found = problems.into_iter().find(|problem| problem.to_string().contains(cause));
        found.filter(|_| last["result"] == "rejected").ok_or(last.to_string())
    })
}

fn order(tenant: &str) -> Value {
    json!({"type": "Order", "id": "7", "attrs": {"tenant": {"__entity": {"type": "Tenant", "id": tenant}}}})
}

#[test]
fn a_files_tenant_for_a_caller_is_rejected_and_changes_nothing() {
    let gate = Setup::portal(SCHEMA, &format!("{OPEN}\n{ISOLATION}")).start();
    let mut acme = claims("alice", &["editor"]);
    acme["tenant"] = json!("acme");
    let token = gate.issuer.sign(&acme);
    let ask = |tenant: &str| {
        gate.authorize(&json!({"portal": "p", "token": token, "action": "viewOrder", "resource": order(tenant)}))["decision"]
            .clone()
    };
    assert_eq!((ask("acme"), ask("other")), (json!("allow"), json!("deny")));
    for entities in [
        json!([{"uid": {"type": "User", "id": "alice"}, "attrs": {}, "parents": [{"type": "Tenant", "id": "other"}]}]),
        json!([
            {"uid": {"type": "Role", "id": "editor"}, "attrs": {}, "parents": [{"type": "Group", "id": "g"}]},
            {"uid": {"type": "Group", "id": "g"}, "attrs": {}, "parents": [{"type": "Tenant", "id": "other"}]},
        ]),
    ] {
        gate.put("policies/p/entities.json", &entities.to_string());
        let problem = rejected(&gate, "only a credential");
        assert_eq!(problem["file"], "policies/p/entities.json");
        assert_eq!((ask("acme"), ask("other")), (json!("allow"), json!("deny")));
        gate.put("policies/p/entities.json", "[]");
        eventually("the file is accepted again", || {
            let last = gate.status()["portals"][0]["last_reload"].clone();
            if last["result"] == "success" {
                Ok(())
            } else {
                Err(last.to_string())
            }
        });
    }
    gate.stop();
}

#[test]
fn a_question_that_describes_an_entity_twice_or_holds_a_fraction_is_refused_with_the_place() {
    let gate = Setup::portal(SCHEMA, OPEN).start();
    let ask = |extra: Value| {
        let mut question =
            json!({"portal": "p", "principal": "User::\"alice\"", "action": "viewOrder", "resource": order("acme")});
        question.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        gate.ask("/authorize", &question).json()
    };
    let user = json!({"uid": {"type": "User", "id": "bob"}, "attrs": {"age": 7}, "parents": []});
    assert_eq!(ask(json!({"entities": [user]}))["decision"], "allow");
    let old = json!({"uid": {"type": "User", "id": "bob"}, "attrs": {"age": 7.5}, "parents": []});
    let mut dear = order("acme");
    dear["attrs"]["price"] = json!(1.5);
    for (extra, cause) in [
        (json!({"entities": [user, user]}), "described twice, at 0 and at 1"),
        (json!({"entities": [old]}), "entities.0.attrs.age"),
        (json!({"resource": dear}), "resource.attrs.price"),
        (json!({"context": {"count": u64::MAX}}), "context.count"),
    ] {
        let answer = ask(extra.clone()).to_string();
        assert!(answer.contains(cause), "{extra}: {answer}");
    }
    gate.stop();
}

#[test]
fn a_portal_maps_no_attribute_that_a_shared_forbid_reads_to_another_claim() {
    let schema = crate::support::OPEN_SCHEMA.replace("email?: String", "email?: String, phone?: String");
    let shared = "@id(\"no-guests\") forbid (principal, action, resource) when { principal has email && principal.email like \"*@guest.test\" };";
    let gate = Setup::portal(&schema, OPEN)
        .file("policies/_shared/guests.cedar", shared)
        .start();
    let with_mail = |mail: &str| {
        let mut guest = claims("gina", &[]);
        guest["email"] = json!(mail);
        guest["work_mail"] = json!("gina@acme.test");
        gate.issuer.sign(&guest)
    };
    let (guest, member) = (with_mail("gina@guest.test"), with_mail("gina@acme.test"));
    let statuses = || [&guest, &member].map(|token| gate.get("/portal/p/x", token).status);
    assert_eq!(statuses(), [403, 200]);
    for mapping in ["email: nowhere", "email: work_mail", "phone: tel, email: nested.mail"] {
        gate.put("policies/p/portal.yaml", &format!("claims: {{ {mapping} }}\n"));
        let problem = rejected(
            &gate,
            "claims.email: the shared forbid `no-guests` (policies/_shared/guests.cedar:1)",
        );
        assert_eq!(
            (&problem["file"], &problem["line"]),
            (&json!("policies/p/portal.yaml"), &json!(1))
        );
        assert_eq!(statuses(), [403, 200], "{mapping}");
    }
    for mapping in ["email: email", "phone: tel"] {
        gate.put("policies/p/portal.yaml", &format!("claims: {{ {mapping} }}\n"));
        eventually("the mapping is accepted", || {
            let last = gate.status()["portals"][0]["last_reload"].clone();
            if last["result"] == "success" {
                Ok(())
            } else {
                Err(last.to_string())
            }
        });
        assert_eq!(statuses(), [403, 200], "{mapping}");
        gate.put("policies/p/portal.yaml", "claims: { email: nowhere }\n");
        rejected(&gate, "claims.email");
    }
    gate.stop();
}

#[test]
fn a_forbid_that_reads_what_only_the_app_supplies_denies_requests() {
    let schema = SCHEMA.replace("type Facts = {", "type Facts = { total?: Long,");
    let dear =
        "@id(\"dear\") forbid(principal, action == Action::\"POST\", resource) when { context has total && context.total > 9 };";
    let gate = Setup::portal(&schema, &format!("{OPEN}\n{dear}"))
        .file("policies/p/portal.yaml", "context: { supplied: [total] }")
        .start();
    let token = gate.issuer.token("alice", &[]);
    assert_eq!(gate.get("/portal/p/x", &token).status, 200, "no forbid reads it for GET");
    let bearer = format!("Bearer {token}");
    let answer = gate.send("POST", "/portal/p/x", &[("authorization", &bearer)]);
    assert_eq!((answer.status, answer.code().as_str()), (403, "evaluation_error"));
    let ask = |context: Value| {
        gate.authorize(
            &json!({"portal": "p", "token": token, "action": "POST", "resource": "Path::\"/portal/p/x\"", "context": context}),
        )["decision"]
            .clone()
    };
    assert_eq!(
        (ask(json!({"total": 1})), ask(json!({"total": 10}))),
        (json!("allow"), json!("deny"))
    );
    gate.put("policies/p/portal.yaml", "title: no list");
    let problem = rejected(&gate, "`total`");
    assert_eq!(problem["file"], "schemas/p.cedarschema");
    gate.stop();
}

#[test]
fn a_byte_order_mark_in_any_file_is_ignored_and_utf_16_is_named() {
    let marked = |text: &str| format!("\u{feff}{text}");
    let case = "cases: [{ name: open, claims: { sub: bob }, http: \"GET /portal/p/x\", expect: allow, because: [open] }]";
    let gate = Setup::empty()
        .file("schemas/p.cedarschema", &marked(SCHEMA))
        .file("policies/p/main.cedar", &marked(OPEN))
        .file("policies/p/entities.json", &marked("[]"))
        .file("policies/p/links.json", &marked("[]"))
        .file("policies/p/portal.yaml", &marked("title: Marked"))
        .file("policies/p/tests/t.yaml", &marked(case))
        .start();
    let token = gate.issuer.token("alice", &[]);
    assert_eq!(gate.get("/portal/p/x", &token).status, 200);
    gate.put("policies/p/_deny/stop.cedar", &marked("forbid(principal, action, resource);"));
    eventually("the emergency forbid with a mark holds", || {
        let status = gate.get("/portal/p/x", &token).status;
        if status == 403 { Ok(()) } else { Err(status.to_string()) }
    });
    for (name, text) in [
        ("main.cedar", OPEN),
        ("portal.yaml", "title: Wide"),
        ("entities.json", "[]"),
        ("links.json", "[]"),
    ] {
        let wide: Vec<u8> = marked(text).encode_utf16().flat_map(u16::to_le_bytes).collect();
        std::fs::write(gate.path(&format!("policies/p/{name}")), wide).unwrap();
        let problem = rejected(&gate, &format!("policies/p/{name}"));
        assert!(problem.to_string().contains("UTF-16"), "{problem}");
        gate.put(&format!("policies/p/{name}"), text);
    }
    gate.stop();
}

#[test]
fn a_file_that_is_not_read_is_named_and_one_that_looks_like_an_emergency_forbid_rejects() {
    let gate = Setup::portal(SCHEMA, OPEN).start();
    let token = gate.issuer.token("alice", &[]);
    for name in [
        "policies/p/_deny/lock.CEDAR",
        "policies/_deny/lock.cedar",
        "policies/lock.cedar",
        "policies/p/lock.cedar.json",
        "policies/p/link.json",
        "policies/p/entity.json",
        "policies/p/test/x.yaml",
        "schemas/p.json",
        "schemas/p/p.cedarschema",
    ] {
        gate.put(name, "forbid(principal, action, resource);");
        let problem = rejected(&gate, name);
        assert_eq!(problem["file"], name);
        assert!(problem.to_string().contains("is not read"), "{problem}");
        assert_eq!(gate.get("/portal/p/x", &token).status, 200, "the last good revision serves");
        std::fs::remove_file(gate.path(name)).unwrap();
    }
    gate.put("policies/p/README.md", "the portal");
    gate.put("policies/p/openapi.yaml", "");
    gate.put("policies/p/.main.cedar.swp", "x");
    eventually("the stray file alone is a warning", || {
        let last = gate.status()["portals"][0]["last_reload"].clone();
        let warned: Vec<_> = last["warnings"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|w| w["file"].clone())
            .collect();
        if last["result"] == "success" && warned == [json!("policies/p/openapi.yaml")] {
            Ok(())
        } else {
            Err(last.to_string())
        }
    });
    gate.put("policies/p/_deny/lock.CEDAR", "forbid(principal, action, resource);");
    gate.put("policies/p/_deny/stop.cedar", "forbid(principal, action, resource);");
    eventually("an emergency forbid joins beside it", || {
        let status = gate.get("/portal/p/x", &token).status;
        if status == 403 { Ok(()) } else { Err(status.to_string()) }
    });
    gate.stop();
}
