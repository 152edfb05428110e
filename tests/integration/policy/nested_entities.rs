//! Entities inside entities: neither a question nor a portal's file may nest them so deeply that the gate runs out of
//! memory.

use crate::support::{Setup, eventually};

const OPEN: &str = "@id(\"open\") permit(principal, action, resource);";

#[test]
fn nested_entities_are_bounded_in_a_question_and_in_a_file() {
    let folder = "entity Folder in [Folder]; entity Tenant; entity Role in [Role]; entity User in [Role, Tenant]; entity Portal;
        entity Path in [Path, Portal]; action GET appliesTo { principal: [User], resource: [Path], context: {} };";
    let chain = |length: usize| -> serde_json::Value {
        let uid = |n: usize| serde_json::json!({"type": "Folder", "id": n.to_string()});
        let item = |n| serde_json::json!({"uid": uid(n), "attrs": {}, "parents": [uid(n + 1)]});
        (0..length).map(item).collect()
    };
    let gate = Setup::portal(folder, OPEN).start();
    let token = gate.issuer.token("alice", &[]);
    let question = |length| {
        serde_json::json!({"portal": "p", "principal": "User::\"alice\"", "action": "GET", "resource": "Path::\"/portal/p/x\"",
            "entities": chain(length)})
    };
    assert_eq!(gate.authorize(&question(200))["decision"], "allow");
    let refused = gate.ask("/authorize", &question(9_000));
    assert_eq!((refused.status, refused.code()), (400, "request_invalid".to_owned()));
    assert!(refused.text().contains("nest them less deeply"), "{}", refused.text());
    gate.put("policies/p/entities.json", &chain(50_000).to_string());
    eventually("the file is rejected", || {
        let last = gate.status()["portals"][0]["last_reload"].to_string();
        if last.contains("nest them less deeply") {
            Ok(())
        } else {
            Err(last)
        }
    });
    assert_eq!(gate.get("/portal/p/x", &token).status, 200);
    gate.stop();
}
