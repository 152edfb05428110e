//! The operator lists and revokes: revoked sessions and bearer tokens end on every gate, and no others.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::binary::cedargate;
use crate::support::redis::Redis;
use crate::support::session_client::{IDENTITY_PATH, ORIGIN, auth_event, log_in, portal, with_cookie};
use crate::support::{Gate, PAGE, Setup, claims, eventually, now, raw};

pub fn controlled(setup: Setup, folder: &Path) -> Setup {
    setup.config(&format!(
        "listen: {{ proxy: {{ address: '127.0.0.1:0' }}, decision: {{ address: '127.0.0.1:0' }}, \
         admin: {{ address: '127.0.0.1:0' }}, control: {{ address: 'unix:{}/control.sock' }} }}",
        folder.display()
    ))
}

pub fn on_redis(redis: &Redis, limits: &str) -> Setup {
    portal()
        .file("keys", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")
        .config(&format!(
            "sessions: {{ store: redis, key_file: keys, redis: {{ url: '{}', key_prefix: 'cedargate:test:' }} }}\n\
             limits: {{ workers: 2, drain_timeout: 5s{limits} }}",
            redis.url()
        ))
}

/// Exit code, stdout, stderr of `cedargate sessions …`.
pub fn sessions(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let socket = format!("unix:{}/control.sock", folder.display());
    let output = cedargate(&["sessions"])
        .args(arguments)
        .args(["--socket", &socket])
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn listed(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let (code, out, complaint) = sessions(folder, &[&["list", "--format", "json"], arguments].concat());
    assert_eq!(code, 0, "{complaint}");
    let body: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(body["complete"], true);
    body["sessions"].as_array().unwrap().clone()
}

/// Two gates on one Redis, the first with a control socket; alice logged in at the first and bob at the second are
/// served by both.
pub fn two_gates(redis: &Redis, folder: &Path) -> ([Gate; 2], [String; 2]) {
    let gates = [controlled(on_redis(redis, ""), folder).start(), on_redis(redis, "").start()];
    let cookies = [log_in(&gates[0], "alice"), log_in(&gates[1], "bob")];
    for cookie in &cookies {
        assert_eq!(gates.each_ref().map(|gate| status(gate, cookie)), [200, 200]);
    }
    (gates, cookies)
}

pub fn status(gate: &Gate, cookie: &str) -> u16 {
    with_cookie(gate, "GET", PAGE, cookie, &[]).status
}

#[test]
fn one_session_is_listed_and_ended_and_its_neighbour_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let gate = controlled(portal(), folder.path()).start();
    let (alice, bob) = (log_in(&gate, "alice"), log_in(&gate, "bob"));
    let all = listed(folder.path(), &[]);
    assert_eq!(all.len(), 2);
    assert!(
        all.iter()
            .all(|s| s["tenant"] == "acme" && s["portal"] == "p" && s["provider"] == "local")
    );
    assert_eq!(listed(folder.path(), &["--subject", "nobody"]).len(), 0);
    assert_eq!(
        listed(folder.path(), &["--tenant", "acme", "--portal", "p", "--issuer", "local"]).len(),
        2
    );
    let hers = listed(folder.path(), &["--subject", "alice"]).remove(0);
    let (code, out, _) = sessions(folder.path(), &["list"]);
    assert!(
        code == 0 && out.contains("local|alice") && out.contains("2 sessions"),
        "{out}"
    );
    assert!(!out.contains(alice.split('=').nth(1).unwrap()), "a listing opens nothing");
    let id = hers["session"].as_str().unwrap();
    let revoked = sessions(folder.path(), &["revoke", "--session", id]);
    assert_eq!((revoked.0, revoked.1.as_str()), (0, "revoked the session\n"), "{}", revoked.2);
    assert_eq!(status(&gate, &alice), 401);
    assert_eq!(with_cookie(&gate, "GET", PAGE, &alice, &[]).code(), "session_revoked");
    assert_eq!(status(&gate, &bob), 200);
    assert_eq!(listed(folder.path(), &[]).len(), 1);
    let event = auth_event(&gate, "the revocation is recorded", |e| e["event"] == "revocation");
    assert_eq!(
        (&event["result"], &event["reason"], &event["session"]),
        (&json!("success"), &json!("operator"), &json!(id))
    );
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(folder.path()).unwrap());
    assert_eq!(event["operator"], own, "the record names the user whose process asked");
}

#[test]
fn an_edit_costs_no_session_a_new_assertion_and_brings_no_revoked_caller_back() {
    let folder = tempfile::tempdir().unwrap();
    let gate = controlled(portal(), folder.path()).start();
    let cookie = log_in(&gate, "alice");
    let mut body = claims("carol", &[]);
    body["iat"] = json!(now() - 60);
    let carol = gate.issuer.sign(&body);
    let edit = |id: &str| {
        let before = gate.revision("p");
        let text = format!("@id(\"{id}\") permit (principal, action, resource);");
        gate.put("policies/p/more.cedar.next", &text);
        std::fs::rename(gate.path("policies/p/more.cedar.next"), gate.path("policies/p/more.cedar")).unwrap();
        eventually("another revision is in force", || match gate.revision("p") {
            now if now == before => Err(format!("{now:?}")),
            _ => Ok(()),
        });
    };
    let assertion = || {
        assert_eq!(status(&gate, &cookie), 200);
        gate.app.last().headers["x-cedargate-assertion"].clone()
    };
    let first = assertion();
    assert_eq!(gate.get(PAGE, &carol).status, 200);
    edit("one");
    assert_eq!(assertion(), first);
    assert_eq!(gate.get(PAGE, &carol).status, 200);
    for (subject, issuer) in [("alice", "local"), ("carol", "test")] {
        let revoked = sessions(folder.path(), &["revoke", "--subject", subject, "--issuer", issuer]);
        assert_eq!(revoked.0, 0, "{}", revoked.2);
    }
    edit("two");
    assert_eq!(status(&gate, &cookie), 401);
    assert_eq!(gate.get(PAGE, &carol).code(), "session_revoked");
}

#[test]
fn a_revoked_subject_loses_sessions_and_tokens_and_comes_back_with_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let gate = controlled(portal(), folder.path()).start();
    let (session, other) = (log_in(&gate, "alice"), log_in(&gate, "bob"));
    let minted = |subject: &str, issued: i64| {
        let mut claims = claims(subject, &[]);
        claims["iat"] = json!(issued);
        gate.issuer.sign(&claims)
    };
    let mut timeless = claims("carol", &[]);
    timeless.as_object_mut().unwrap().remove("iat");
    let timeless = gate.issuer.sign(&timeless);
    let (carol, dave) = (minted("carol", now() - 60), minted("dave", now() - 60));
    for token in [&carol, &dave, &timeless] {
        assert_eq!(gate.get(PAGE, token).status, 200);
    }
    let revoke = |arguments: &[&str]| sessions(folder.path(), &[&["revoke"], arguments].concat());
    let (code, message, _) = revoke(&["--subject", "alice", "--issuer", "local"]);
    assert_eq!(
        (code, message.as_str()),
        (
            0,
            "revoked every session and bearer token of subject `alice` from before now\n"
        )
    );
    assert_eq!(revoke(&["--subject", "carol", "--issuer", "test"]).0, 0);
    for token in [&carol, &timeless] {
        let answer = gate.get(PAGE, token);
        assert_eq!((answer.status, answer.code().as_str()), (401, "session_revoked"));
    }
    let ask = |token: &str| {
        let question = json!({"portal": "p", "token": token, "action": "GET", "resource": {"type": "Path", "id": PAGE}});
        gate.ask("/authorize", &question)
    };
    assert_eq!((ask(&carol).status, ask(&carol).code().as_str()), (401, "session_revoked"));
    assert_eq!((status(&gate, &session), status(&gate, &other)), (401, 200));
    assert_eq!(gate.get(PAGE, &dave).status, 200);
    assert_eq!(
        gate.get(PAGE, &minted("carol", now() + 2)).status,
        200,
        "a new token is another thing"
    );
    eventually("who logs in again is let in", || {
        let again = log_in(&gate, "alice");
        match status(&gate, &again) {
            200 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    assert_eq!(revoke(&["--tenant", "acme"]).0, 0);
    assert_eq!((status(&gate, &other), gate.get(PAGE, &dave).status), (401, 401));
}

#[test]
fn a_misspelt_or_unknown_revocation_ends_no_session_and_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let gate = controlled(portal(), folder.path()).start();
    let cookie = log_in(&gate, "alice");
    for (arguments, code, says) in [
        (&["revoke"][..], 64, "--session"),
        (&["revoke", "--tenant", "acme", "--portal", "p"], 64, "cannot be used with"),
        (&["revoke", "--portal", "q"], 1, "there is no portal `q`"),
        (&["revoke", "--session", "xyz"], 1, "is not a session"),
        (&["revoke", "--subject", "alice"], 1, "say whose subject it is"),
        (
            &["revoke", "--subject", "alice", "--issuer", "corp"],
            1,
            "there is no issuer `corp`",
        ),
        (&["revoke", "--tenant", ""], 1, "name exactly one"),
        (&["list", "--portal", "q"], 1, "there is no portal `q`"),
        (&["list", "--limit", "0"], 64, "--limit"),
    ] {
        let (exit, _, complaint) = sessions(folder.path(), arguments);
        assert_eq!(exit, code, "{arguments:?}: {complaint}");
        assert!(complaint.contains(says), "{arguments:?}: {complaint}");
    }
    assert_eq!(status(&gate, &cookie), 200);
}

#[test]
fn a_listing_counts_sessions_that_no_key_opens() {
    let (folder, redis) = (tempfile::tempdir().unwrap(), Redis::start());
    let gate = controlled(on_redis(&redis, ""), folder.path()).start();
    log_in(&gate, "alice");
    log_in(&gate, "bob");
    assert_eq!(listed(folder.path(), &[]).len(), 2);
    let foreign = format!("cedargate:test:s:{{{}}}", "5".repeat(64));
    redis.cli(&["SET", &foreign, "sealed with a foreign key"]);
    let (code, out, complaint) = sessions(folder.path(), &["list"]);
    assert_eq!(code, 0, "{complaint}");
    assert!(
        out.contains("1 value in the store that no key of the ring opens") && out.contains("2 sessions\n"),
        "{out}"
    );
    let (_, out, _) = sessions(folder.path(), &["list", "--limit", "1"]);
    assert!(out.contains("1 session; there are more (--limit)"), "{out}");
    let (_, out, _) = sessions(folder.path(), &["list", "--format", "json"]);
    let body: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&body["unreadable"], &body["complete"]), (&json!(1), &json!(false)));
}

#[test]
fn a_revocation_at_one_gate_holds_at_the_other_within_a_second() {
    let (folder, redis) = (tempfile::tempdir().unwrap(), Redis::start());
    let ([first, second], cookies) = two_gates(&redis, folder.path());
    assert_eq!(listed(folder.path(), &[]).len(), 2, "all replicas' sessions");
    let event_stream = second.app.count();
    assert_eq!(
        sessions(folder.path(), &["revoke", "--subject", "bob", "--issuer", "local"]).0,
        0
    );
    let revoked = Instant::now();
    eventually("the other gate knows", || match status(&second, &cookies[1]) {
        401 => Ok(()),
        other => Err(other.to_string()),
    });
    assert!(revoked.elapsed() < Duration::from_secs(1), "{:?}", revoked.elapsed());
    assert_eq!(status(&first, &cookies[1]), 401);
    assert_eq!((status(&first, &cookies[0]), status(&second, &cookies[0])), (200, 200));
    assert!(second.app.count() > event_stream);
    let logout = with_cookie(
        &second,
        "POST",
        &format!("{IDENTITY_PATH}/auth/logout"),
        &cookies[0],
        &[("origin", ORIGIN)],
    );
    assert!(logout.status < 400, "{}", logout.text());
    eventually("a logout holds everywhere", || match status(&first, &cookies[0]) {
        401 => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn gates_on_one_redis_count_one_rate_together() {
    let redis = Redis::start();
    let limits = ", rate_per_address: { requests: 40, per: 1h }";
    let (first, second) = (on_redis(&redis, limits).start(), on_redis(&redis, limits).start());
    let asset = "/portal/p/assets/logo.png";
    let ask = |gate: &Gate| raw(gate.proxy, "GET", asset, &[], b"").status;
    for _ in 0..30 {
        assert_eq!(ask(&first), 200);
    }
    // thirty there and ten here are forty together
    let mut served = 0;
    eventually("the other gate counts them, too", || match ask(&second) {
        429 => Ok(()),
        status => {
            served += u32::from(status == 200);
            Err(format!("{served} served"))
        }
    });
    assert!(served < 40, "the second gate alone let {served} through");
    eventually("and the first one learns of it", || match ask(&first) {
        429 => Ok(()),
        other => Err(other.to_string()),
    });
}
