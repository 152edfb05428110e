//! Accounts of a users file that are users of a configured issuer: one principal with a token and with a session.

use serde_json::{Value, json};

use crate::support::session_client::{HASH, IDENTITY_PATH, ORIGIN, auth_event, browse, log_in, log_out, with_cookie};
use crate::support::{PAGE, Setup, eventually, open_portal};

fn setup(login: &str) -> Setup {
    open_portal()
        .file("users.yaml", &users("viewer"))
        .config(&format!("public_url: '{ORIGIN}'\nlogin: {{ {login} }}"))
}

fn users(role: &str) -> String {
    format!("users:\n  alice: {{ password: '{HASH}', tenant: acme, roles: [{role}] }}\n")
}

const OF_ISSUER: &str = "default: local, providers: { local: { users_file: users.yaml, issuer: test } }";

#[test]
fn a_token_and_a_session_of_one_person_are_one_principal() {
    let gate = setup(OF_ISSUER).start();
    let cookie = log_in(&gate, "alice");
    assert_eq!(with_cookie(&gate, "GET", PAGE, &cookie, &[]).status, 200);
    assert_eq!(gate.get(PAGE, &gate.issuer.token("alice", &["viewer"])).status, 200);
    let principals = eventually("the records of both requests", || {
        let records = gate.records(2).into_iter();
        let principals: Vec<Value> = records.map(|r| r["principal"].clone()).filter(|p| !p.is_null()).collect();
        if principals.len() < 2 {
            Err(format!("{principals:?}"))
        } else {
            Ok(principals)
        }
    });
    let alice = json!({"type": "User", "id": "alice"});
    assert_eq!(principals, [alice.clone(), alice]);
}

#[test]
fn the_default_login_serves_a_portal_that_names_none() {
    let gate = setup(OF_ISSUER).start();
    let answer = browse(&gate, PAGE, "");
    let to = answer.header("location").to_owned();
    assert!(
        answer.status == 302 && to.starts_with(&format!("{IDENTITY_PATH}/auth/login?portal=p")),
        "{to}"
    );
    gate.stop();
    // without the key, a portal that names no login does not redirect
    let gate = setup("providers: { local: { users_file: users.yaml, issuer: test } }").start();
    assert_eq!(browse(&gate, PAGE, "").status, 401);
}

#[test]
fn a_changed_account_ends_its_sessions_under_the_issuers_name() {
    let gate = setup(OF_ISSUER).config("policies: { poll: 1s }").start();
    let cookie = log_in(&gate, "alice");
    gate.put("users.yaml", &users("editor"));
    let event = auth_event(&gate, "the account's sessions are ended", |event| {
        event["event"] == "revocation"
    });
    assert_eq!((&event["issuer"], &event["provider"]), (&json!("test"), &json!("local")));
    eventually("the session ends", || {
        match with_cookie(&gate, "GET", PAGE, &cookie, &[]).status {
            401 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    log_out(&gate, &cookie);
}
