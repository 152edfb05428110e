//! A provider's logout reaches the session in every order of events: again, late, during the login, and while Redis
//! fails.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::login_gate::{COOKIE, LoginGate, LoginSetup, start_gate_for, to_callback};
use crate::support::openid::{Browser, Request};
use crate::support::redis::Redis;
use crate::support::scripted_provider::{Script, ScriptedProvider};
use crate::support::session_client::IDENTITY_PATH;
use crate::support::{Answer, eventually, now, raw};

fn claims(sid: &Value) -> Script {
    Script {
        id_claims: json!({"tenant": "acme", "roles": ["viewer"], "email": "alice@acme.test", "sid": sid}),
        ..Script::default()
    }
}

fn gate(provider: &ScriptedProvider, more: &str) -> LoginGate {
    start_gate_for(&LoginSetup {
        issuer_url: &provider.issuer(),
        more,
        ..LoginSetup::default()
    })
}

fn on_redis(redis: &Redis) -> String {
    // written in place: both gates of a test have the key
    let key_file = redis.path("session-keys");
    std::fs::write(&key_file, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").unwrap();
    format!(
        "sessions: {{ store: redis, key_file: '{}', danger_insecure_cookie: true, redis: {{ url: '{}', key_prefix: 'cedargate:test:', timeout: 300ms }} }}",
        key_file.display(),
        redis.url()
    )
}

fn tell(login_gate: &LoginGate, token: &str) -> Answer {
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let path = format!("{IDENTITY_PATH}/auth/backchannel-logout");
    raw(
        login_gate.gate.proxy,
        "POST",
        &path,
        &[kind],
        format!("logout_token={token}").as_bytes(),
    )
}

fn status(login_gate: &LoginGate, browser: &mut Browser) -> u16 {
    browser.send(&login_gate.url("/portal/p/x"), &Request::fetch("GET")).status
}

fn until_status(login_gate: &LoginGate, cookie: &str, wanted: u16) {
    eventually("the session has the wanted status", || {
        let status = raw(login_gate.gate.proxy, "GET", "/portal/p/x", &[("cookie", cookie)], b"").status;
        (status == wanted).then_some(()).ok_or(status.to_string())
    });
}

#[test]
fn a_repeated_logout_token_is_answered_alike_and_does_not_end_the_next_session() {
    let provider = ScriptedProvider::start(claims(&Value::Null));
    let login_gate = gate(&provider, "");
    let mut browser = Browser::new();
    assert_eq!(login_gate.open(&mut browser, "/portal/p/x").status, 200);
    let token = provider.logout_token(&json!({"sub": "alice"}));
    assert_eq!(tell(&login_gate, &token).status, 200);
    assert_eq!(status(&login_gate, &mut browser), 401);
    assert_eq!(login_gate.open(&mut browser, "/portal/p/x").status, 200);
    for _ in 0..2 {
        assert_eq!(tell(&login_gate, &token).status, 200, "a provider may send it again");
        assert_eq!(status(&login_gate, &mut browser), 200, "what began later goes on");
    }
    // a token that arrives late ends what began before it was made, and nothing later
    let late = provider.logout_token(&json!({"sub": "alice", "iat": now() - 60}));
    assert_eq!(tell(&login_gate, &late).status, 200);
    assert_eq!(status(&login_gate, &mut browser), 200);
    let reasons: Vec<Value> = login_gate.events("logout", 4);
    assert!(
        reasons.iter().all(|event| event["reason"] == "backchannel_logout"),
        "{reasons:?}"
    );
}

#[test]
fn a_logout_while_the_login_completes_ends_the_new_session() {
    for (sid, logout) in [
        (json!("sid-1"), json!({"sid": "sid-1"})),
        // made by a clock that is behind, which matters to no `sid`
        (json!("sid-1"), json!({"sid": "sid-1", "iat": now() - 100, "exp": null})),
        (Value::Null, json!({"sub": "alice"})),
        // the ID token did not say which session of the provider it belongs to
        (Value::Null, json!({"sid": "sid-1", "sub": "alice"})),
    ] {
        let provider = ScriptedProvider::start(claims(&sid));
        let login_gate = Arc::new(gate(&provider, ""));
        let mut browser = Browser::new();
        let callback = to_callback(&login_gate, &mut browser, "/portal/p/x");
        let (token, told) = (provider.logout_token(&logout), Arc::clone(&login_gate));
        provider.before_tokens(move || assert_eq!(tell(&told, &token).status, 200));
        let done = browser.send(&callback, &Request::navigation("cross-site"));
        assert_eq!(done.status, 303, "{done:?}");
        assert!(browser.cookie(COOKIE).is_some());
        assert_eq!(status(&login_gate, &mut browser), 401, "{logout}");
    }
}

#[test]
fn a_logout_of_one_session_of_the_provider_leaves_the_users_other_sessions() {
    let provider = ScriptedProvider::start(claims(&json!("sid-1")));
    let login_gate = gate(&provider, "");
    let (mut one, mut other) = (Browser::new(), Browser::new());
    assert_eq!(login_gate.open(&mut one, "/portal/p/x").status, 200);
    provider.script(claims(&json!("sid-2")));
    assert_eq!(login_gate.open(&mut other, "/portal/p/x").status, 200);
    let token = provider.logout_token(&json!({"sid": "sid-1", "sub": "alice"}));
    assert_eq!(tell(&login_gate, &token).status, 200);
    assert_eq!((status(&login_gate, &mut one), status(&login_gate, &mut other)), (401, 200));
}

#[test]
fn a_logout_at_another_gate_while_the_login_completes_ends_the_new_session() {
    let redis = Redis::start();
    for (sid, logout) in [
        (json!("sid-1"), json!({"sid": "sid-1"})),
        (Value::Null, json!({"sub": "alice"})),
    ] {
        let provider = ScriptedProvider::start(claims(&sid));
        let one = gate(&provider, &on_redis(&redis));
        let other = Arc::new(gate(&provider, &on_redis(&redis)));
        let mut browser = Browser::new();
        let callback = to_callback(&one, &mut browser, "/portal/p/x");
        let (token, told) = (provider.logout_token(&logout), Arc::clone(&other));
        provider.before_tokens(move || assert_eq!(tell(&told, &token).status, 200));
        let done = browser.send(&callback, &Request::navigation("cross-site"));
        assert_eq!(done.status, 303, "{done:?}");
        let cookie = browser.cookies_for(&one.url("/portal/p/x"));
        for gate in [&one, &*other] {
            until_status(gate, &cookie, 401);
        }
    }
}

#[test]
fn a_logout_that_redis_does_not_take_holds_at_once_and_reaches_every_gate_later() {
    let redis = Redis::start();
    let provider = ScriptedProvider::start(claims(&json!("sid-1")));
    let told = gate(&provider, &on_redis(&redis));
    let mut browser = Browser::new();
    assert_eq!(told.open(&mut browser, "/portal/p/x").status, 200);
    let other = gate(&provider, &on_redis(&redis));
    let cookie = browser.cookies_for(&told.url("/portal/p/x"));
    until_status(&other, &cookie, 200);
    redis.pause();
    let token = provider.logout_token(&json!({"sid": "sid-1"}));
    let answer = tell(&told, &token);
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.json()["error"], "temporarily_unavailable");
    redis.resume();
    // the provider does not ask again
    for gate in [&told, &other] {
        until_status(gate, &cookie, 401);
    }
    assert_eq!(tell(&told, &token).status, 200, "and it may");
}

#[test]
fn a_retry_at_another_gate_ends_what_the_first_could_not() {
    let redis = Redis::start();
    let provider = ScriptedProvider::start(claims(&Value::Null));
    let first = gate(&provider, &on_redis(&redis));
    let mut browser = Browser::new();
    assert_eq!(first.open(&mut browser, "/portal/p/x").status, 200);
    let second = gate(&provider, &on_redis(&redis));
    let cookie = browser.cookies_for(&first.url("/portal/p/x"));
    redis.pause();
    let token = provider.logout_token(&json!({"sub": "alice"}));
    assert_eq!(tell(&first, &token).status, 400);
    drop(first);
    redis.resume();
    until_status(&second, &cookie, 200);
    eventually("the retry is taken", || {
        let answer = tell(&second, &token);
        (answer.status == 200).then_some(()).ok_or_else(|| answer.text())
    });
    until_status(&second, &cookie, 401);
}

#[test]
fn a_full_or_read_only_redis_keeps_no_logged_out_session_alive_at_the_gate_that_was_told() {
    for (broken, healed) in [
        (["maxmemory", "1"], ["maxmemory", "0"]),
        (["min-replicas-to-write", "1"], ["min-replicas-to-write", "0"]),
    ] {
        for logout in [json!({"sid": "sid-1"}), json!({"sub": "alice"})] {
            let redis = Redis::start();
            let provider = ScriptedProvider::start(claims(&json!("sid-1")));
            let told = gate(&provider, &on_redis(&redis));
            let mut browser = Browser::new();
            assert_eq!(told.open(&mut browser, "/portal/p/x").status, 200);
            let other = gate(&provider, &on_redis(&redis));
            let cookie = browser.cookies_for(&told.url("/portal/p/x"));
            until_status(&other, &cookie, 200);
            redis.cli(&["CONFIG", "SET", broken[0], broken[1]]);
            let answer = tell(&told, &provider.logout_token(&logout));
            assert_eq!(answer.status, 200, "{broken:?} {logout}: {}", answer.text());
            assert_eq!(status(&told, &mut browser), 401, "{broken:?} {logout}");
            redis.cli(&["CONFIG", "SET", healed[0], healed[1]]);
            until_status(&other, &cookie, 401);
        }
    }
}
