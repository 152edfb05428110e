//! The shipped example portals: authentication, decision, forwarding and record of an ordinary request.

use serde_json::json;

use crate::support::{Setup, claims};

const ORDERS: &str = "/portal/customer/orders";

#[test]
fn no_token_is_401_a_viewer_writing_is_403_a_viewer_reading_is_200() {
    let gate = Setup::examples().start();
    let alice = gate.issuer.token("alice", &["viewer"]);
    let anonymous = gate.send("GET", ORDERS, &[]);
    assert_eq!((anonymous.status, anonymous.code().as_str()), (401, "token_missing"));
    let bearer = format!("Bearer {alice}");
    let writing = gate.send("POST", ORDERS, &[("authorization", &bearer)]);
    assert_eq!((writing.status, writing.code().as_str()), (403, "not_permitted"));
    let reading = gate.get(ORDERS, &alice);
    assert_eq!(reading.status, 200);
    let seen = gate.app.last();
    assert_eq!(seen.headers["x-forwarded-user"], "alice");
    assert_eq!(seen.headers["x-cedargate-tenant"], "acme");
    assert!(seen.headers.get("authorization").is_none(), "the token stays at the gate");
    gate.stop();
}

#[test]
fn the_app_asks_about_its_caller_by_handing_back_the_assertion() {
    let gate = Setup::examples().start();
    let alice = gate.issuer.token("alice", &["viewer"]);
    assert_eq!(gate.get(ORDERS, &alice).status, 200);
    let assertion = gate.app.last().headers["x-cedargate-assertion"].to_str().unwrap().to_owned();
    let question = json!({"portal": "customer", "token": assertion, "action": "GET", "resource": {"type": "Path", "id": ORDERS}});
    let answer = gate.authorize(&question);
    assert_eq!(answer["decision"], "allow", "{answer}");
    assert_eq!(answer["policies"][0]["id"], "viewers-read");
    let back = gate.get(ORDERS, &assertion);
    assert_eq!(
        (back.status, back.code().as_str()),
        (401, "token_invalid"),
        "the proxy takes no assertion"
    );
}

#[test]
fn every_refusal_and_every_permit_leaves_exactly_one_record() {
    let gate = Setup::examples().start();
    gate.send("GET", ORDERS, &[]);
    gate.send("GET", "/nowhere", &[]);
    gate.send("GET", "/portal/customer/a/../b", &[]);
    gate.get(ORDERS, "not.a.token");
    gate.get(ORDERS, &gate.issuer.sign(&claims("alice", &["viewer"])));
    let records = gate.records(5);
    let reasons: Vec<_> = records.iter().map(|r| r["reason"].as_str().unwrap()).collect();
    assert_eq!(
        reasons,
        [
            "token_missing",
            "portal_unknown",
            "request_invalid",
            "token_invalid",
            "permitted"
        ]
    );
}
