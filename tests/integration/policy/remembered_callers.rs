//! Callers across revisions: an edit costs no caller a signature check, and no fact of a caller outlives the revision
//! that made it.
//!
//! The law: after each edit, a token that the gate has seen before is answered as one with the same claims that it
//! never saw.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::{Gate, ISSUER, PAGE, Setup, Signer, claims, eventually, now};

const SCHEMA: &str = "schemas/p.cedarschema";
const MAIN: &str = "policies/p/main.cedar";
const PORTAL: &str = "policies/p/portal.yaml";
const ENTITIES: &str = "policies/p/entities.json";

const VIEWER: &str = "@id(\"viewer\") permit (principal in Role::\"viewer\", action, resource);";

/// The schema of users with these attributes in these types.
fn schema(member_of: &str, attributes: &str) -> String {
    format!(
        "entity Tenant; entity Role in [Role]; entity Group; entity Portal; entity Path in [Path, Portal];
        entity User in [{member_of}] = {{ {attributes} }};
        action GET appliesTo {{ principal: [User], resource: [Path], context: {{}} }};"
    )
}

fn gate() -> Gate {
    Setup::portal(&schema("Role, Group, Tenant", "email?: String"), VIEWER)
        .config("policies: { poll: 1h }")
        .start()
}

fn alice() -> Value {
    let mut all = claims("alice", &["viewer"]);
    all["email"] = json!("work@x.test");
    all["home"] = json!("home@x.test");
    all
}

/// Writes the files and waits for the revision that holds them.
fn edit(gate: &Gate, files: &[(&str, &str)]) {
    let before = gate.revision("p");
    for (name, text) in files {
        gate.put(&format!("{name}.next"), text);
    }
    for (name, _) in files {
        std::fs::rename(gate.path(&format!("{name}.next")), gate.path(name)).unwrap();
    }
    moves_on(gate, &before);
}

fn moves_on(gate: &Gate, before: &Option<String>) {
    eventually("another revision is in force", || match gate.revision("p") {
        now if now == *before => Err(format!("{now:?}")),
        _ => Ok(()),
    });
}

/// Signature checks that succeeded.
fn verified(gate: &Gate) -> String {
    let metrics = gate.metrics();
    let is_it = |line: &&str| line.starts_with("cedargate_token_validations_total{") && line.contains("\"ok\"");
    let line = metrics.lines().find(is_it).expect("tokens were verified");
    line.rsplit(' ').next().unwrap().to_owned()
}

fn asserted(gate: &Gate) -> (String, Value) {
    let token = gate.app.last().headers["x-cedargate-assertion"].to_str().unwrap().to_owned();
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    (token, serde_json::from_slice(&payload).unwrap())
}

fn header(gate: &Gate, name: &str) -> String {
    gate.app.last().headers[name].to_str().unwrap().to_owned()
}

/// Status, code, and everything that the app is told of the caller.
fn answer(gate: &Gate, token: &str) -> (u16, String, BTreeMap<String, String>, Value) {
    let answer = gate.get(PAGE, token);
    if answer.status != 200 {
        return (answer.status, answer.code(), BTreeMap::new(), Value::Null);
    }
    let seen = gate.app.last();
    let about_caller = ["x-forwarded-", "x-auth-", "x-cedargate-tenant", "x-cedargate-roles"];
    let headers = seen.headers.iter().filter_map(|(name, value)| {
        let is_about = about_caller.iter().any(|start| name.as_str().starts_with(start));
        is_about.then(|| (name.to_string(), value.to_str().unwrap().to_owned()))
    });
    let mut claims = asserted(gate).1;
    // they say which assertion it is
    for of_its_own in ["jti", "iat", "exp", "revision"] {
        claims.as_object_mut().unwrap().remove(of_its_own);
    }
    (200, String::new(), headers.collect(), claims)
}

#[test]
fn an_edit_costs_no_caller_a_signature_check_and_no_new_assertion() {
    let gate = gate();
    let token = gate.issuer.sign(&alice());
    assert_eq!(gate.get(PAGE, &token).status, 200);
    let (first, claims) = asserted(&gate);
    let signed_under = gate.revision("p").unwrap();
    for n in 0..3 {
        edit(
            &gate,
            &[(
                "policies/p/more.cedar",
                &format!("@id(\"more-{n}\") permit (principal in Role::\"r{n}\", action, resource);"),
            )],
        );
        assert_eq!(gate.get(PAGE, &token).status, 200);
        assert_eq!(header(&gate, "x-cedargate-revision"), gate.revision("p").unwrap());
        assert_eq!(asserted(&gate).0, first, "the same assertion");
    }
    assert_eq!(
        claims["revision"], *signed_under,
        "it names the revision that it was signed under"
    );
    assert_eq!(verified(&gate), "1");
    gate.stop();
}

#[test]
fn a_remembered_token_is_answered_as_one_that_was_never_seen() {
    let gate = gate();
    // the same times in every token
    let alice = alice();
    let warm = gate.issuer.sign(&alice);
    let in_staff = json!([{"uid": {"type": "User", "id": "alice"}, "attrs": {}, "parents": [{"type": "Group", "id": "staff"}]}]);
    let contradicting = json!([{"uid": {"type": "User", "id": "alice"}, "attrs": {"email": "x@x.test"}, "parents": []}]);
    let in_chief = json!([{"uid": {"type": "Role", "id": "viewer"}, "attrs": {}, "parents": [{"type": "Role", "id": "chief"}]}]);
    let staff = "@id(\"staff\") permit (principal in Group::\"staff\", action, resource);";
    let home =
        "@id(\"home\") permit (principal, action, resource) when { principal has email && principal.email == \"home@x.test\" };";
    let edits: [(&str, &[(&str, &str)], u16); 14] = [
        ("as it was", &[], 200),
        ("the claim mapping", &[(PORTAL, "claims: { email: home }\n")], 200),
        ("a condition on the mapped claim", &[(MAIN, home)], 200),
        ("another mapping", &[(PORTAL, "claims: { email: email }\n")], 403),
        (
            "a mapped claim that is missing",
            &[(PORTAL, "claims: { email: nowhere }\n")],
            403,
        ),
        ("back to the role", &[(MAIN, VIEWER), (PORTAL, "title: Shop\n")], 200),
        (
            "another role, and other scope ids",
            &[(MAIN, "permit (principal in Role::\"other\", action, resource);")],
            403,
        ),
        (
            "a role above the token's",
            &[
                (MAIN, "permit (principal in Role::\"chief\", action, resource);"),
                (ENTITIES, &in_chief.to_string()),
            ],
            200,
        ),
        (
            "a group that entities.json gives",
            &[(MAIN, staff), (ENTITIES, &in_staff.to_string())],
            200,
        ),
        ("the group is gone", &[(ENTITIES, "[]")], 403),
        (
            "an entity that contradicts the token",
            &[(MAIN, VIEWER), (ENTITIES, &contradicting.to_string())],
            401,
        ),
        ("no contradiction", &[(ENTITIES, "[]")], 200),
        (
            "a required claim",
            &[(SCHEMA, &schema("Role, Group, Tenant", "email?: String, clearance: Long"))],
            401,
        ),
        (
            "users are in no role",
            &[
                (SCHEMA, &schema("Group, Tenant", "email?: String")),
                (MAIN, "@id(\"all\") permit (principal, action, resource);"),
            ],
            200,
        ),
    ];
    for (n, (what, files, status)) in edits.into_iter().enumerate() {
        if !files.is_empty() {
            edit(&gate, files);
        }
        let mut never_seen = alice.clone();
        never_seen["jti"] = json!(n);
        let fresh = answer(&gate, &gate.issuer.sign(&never_seen));
        assert_eq!(fresh.0, status, "{what}: {fresh:?}");
        assert_eq!(answer(&gate, &warm), fresh, "{what}");
    }
    gate.stop();
}

#[test]
fn an_assertion_is_signed_anew_once_the_revision_would_say_something_else() {
    let gate = gate();
    let mut body = alice();
    body["clearance"] = json!(3);
    let token = gate.issuer.sign(&body);
    let said = |expected: Value| {
        assert_eq!(gate.get(PAGE, &token).status, 200);
        let (_, claims) = asserted(&gate);
        assert_eq!(claims["claims"], expected);
        claims["jti"].as_str().unwrap().to_owned()
    };
    let first = said(json!({"email": "work@x.test"}));
    edit(&gate, &[(PORTAL, "claims: { email: home }\n")]);
    let mapped = said(json!({"home": "home@x.test"}));
    edit(&gate, &[(PORTAL, "title: Shop\n")]);
    let back = said(json!({"email": "work@x.test"}));
    edit(
        &gate,
        &[(SCHEMA, &schema("Role, Group, Tenant", "email?: String, clearance?: Long"))],
    );
    let declared = said(json!({"email": "work@x.test", "clearance": 3}));
    edit(&gate, &[(SCHEMA, &schema("Role, Group, Tenant", ""))]);
    let nothing = said(json!({}));
    let all = [first, mapped, back, declared, nothing];
    assert!(all.windows(2).all(|two| two[0] != two[1]), "{all:?}");
    assert_eq!(verified(&gate), "1");
    gate.stop();
}

#[test]
fn an_emergency_forbid_and_an_edit_stop_a_remembered_caller_at_once() {
    let gate = gate();
    let token = gate.issuer.sign(&alice());
    assert_eq!(gate.get(PAGE, &token).status, 200);
    let forbid = "@id(\"stop\") forbid (principal == User::\"alice\", action, resource);";
    edit(&gate, &[("policies/p/_deny/stop.cedar", forbid)]);
    assert_eq!(gate.get(PAGE, &token).code(), "forbidden");
    let before = gate.revision("p");
    std::fs::remove_file(gate.path("policies/p/_deny/stop.cedar")).unwrap();
    moves_on(&gate, &before);
    assert_eq!(gate.get(PAGE, &token).status, 200);
    edit(&gate, &[(MAIN, "@id(\"nobody\") forbid (principal, action, resource);")]);
    assert_eq!(gate.get(PAGE, &token).status, 403);
    assert_eq!(verified(&gate), "1");
    gate.stop();
}

#[test]
fn a_proof_that_ended_is_not_carried_into_a_revision() {
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let keys = |signer: &Signer| json!({"keys": [signer.jwk]}).to_string();
    let mut setup = Setup::portal(&schema("Role, Group, Tenant", "email?: String"), VIEWER).file("keys.json", &keys(&old));
    setup.issuers = Some(format!(
        "issuers: [{{ name: test, issuer: '{ISSUER}', audiences: [shop], leeway: 0s, jwks: {{ file: keys.json }} }}]"
    ));
    let gate = setup.config("policies: { poll: 1h }").start();
    let (by_old, by_new) = (old.token(&alice()), new.token(&alice()));
    let mut short = alice();
    short["exp"] = json!(now() + 2);
    let short = old.token(&short);
    assert_eq!(gate.get(PAGE, &by_old).status, 200);
    assert_eq!(gate.get(PAGE, &short).status, 200);
    eventually("the token expires", || match gate.get(PAGE, &short).status {
        401 => Ok(()),
        other => Err(other.to_string()),
    });
    edit(
        &gate,
        &[(
            "policies/p/more.cedar",
            "permit (principal in Role::\"other\", action, resource);",
        )],
    );
    assert_eq!(gate.get(PAGE, &short).code(), "token_expired");
    assert_eq!(gate.get(PAGE, &by_old).status, 200);
    gate.put("next.json", &keys(&new));
    std::fs::rename(gate.path("next.json"), gate.path("keys.json")).unwrap();
    eventually("the new key works", || match gate.get(PAGE, &by_new).status {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
    edit(
        &gate,
        &[(
            "policies/p/more.cedar",
            "permit (principal in Role::\"another\", action, resource);",
        )],
    );
    assert_eq!(gate.get(PAGE, &by_old).code(), "token_invalid");
    assert_eq!(gate.get(PAGE, &by_new).status, 200);
    gate.stop();
}
