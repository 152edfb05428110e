//! `auth/sessions`: users see and end their own sessions, in every browser and at every gate.

use serde_json::Value;

use crate::sessions::revocations::{on_redis, status};
use crate::support::redis::Redis;
use crate::support::session_client::{IDENTITY_PATH, ORIGIN, auth_event, browse, log_in, portal, with_cookie};
use crate::support::{Answer, Gate, raw};

fn list(gate: &Gate, cookie: &str) -> Vec<Value> {
    let answer = with_cookie(gate, "GET", &format!("{IDENTITY_PATH}/auth/sessions"), cookie, &[]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    assert_eq!(body["complete"], true);
    body["sessions"].as_array().unwrap().clone()
}

fn end(gate: &Gate, cookie: &str, body: &str, origin: &str) -> Answer {
    let path = format!("{IDENTITY_PATH}/auth/sessions");
    let headers = [
        ("cookie", cookie),
        ("origin", origin),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    raw(gate.proxy, "POST", &path, &headers, body.as_bytes())
}

#[test]
fn users_see_and_end_their_own_sessions_and_no_others() {
    let gate = portal().start();
    let [first, second] = [log_in(&gate, "alice"), log_in(&gate, "alice")];
    let bob = log_in(&gate, "bob");
    let sessions = list(&gate, &first);
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    let named = |current: bool| {
        let found = sessions.iter().find(|session| session["current"] == current).unwrap();
        found["session"].as_str().unwrap().to_owned()
    };
    assert!(
        sessions
            .iter()
            .all(|session| session["portal"] == "p" && session["provider"] == "local")
    );
    let secret = |cookie: &str| cookie.split_once('=').unwrap().1.to_owned();
    let text = serde_json::to_string(&sessions).unwrap();
    assert!(!text.contains(&secret(&first)) && !text.contains(&secret(&second)));
    let bobs = list(&gate, &bob).remove(0)["session"].as_str().unwrap().to_owned();
    for (body, origin, code) in [
        (format!("session={bobs}"), ORIGIN, 400),
        (format!("session={}", "0".repeat(64)), ORIGIN, 400),
        (format!("session={}", named(false)), "https://evil.test", 403),
        ("session=x".to_owned(), ORIGIN, 400),
        ("all=yes".to_owned(), ORIGIN, 400),
        (format!("session={}&all=true", named(false)), ORIGIN, 400),
        (String::new(), ORIGIN, 400),
    ] {
        assert_eq!(end(&gate, &first, &body, origin).status, code, "{body}");
    }
    assert_eq!([&first, &second, &bob].map(|cookie| status(&gate, cookie)), [200, 200, 200]);
    let ended = end(&gate, &first, &format!("session={}", named(false)), ORIGIN);
    assert_eq!((ended.status, ended.header("set-cookie")), (204, ""), "{}", ended.text());
    assert_eq!([&first, &second, &bob].map(|cookie| status(&gate, cookie)), [200, 401, 200]);
    let event = auth_event(&gate, "the end is recorded", |event| event["event"] == "logout");
    assert_eq!(
        (&event["session"], &event["subject"]),
        (&Value::from(named(false)), &Value::from("alice"))
    );
    let ended = end(&gate, &first, &format!("session={}", named(true)), ORIGIN);
    assert!(ended.header("set-cookie").contains("Max-Age=0"), "{:?}", ended.headers);
    assert_eq!(status(&gate, &first), 401);
    let token = gate.issuer.token("alice", &["viewer"]);
    let path = format!("{IDENTITY_PATH}/auth/sessions");
    let bearer = format!("Bearer {token}");
    assert_eq!(raw(gate.proxy, "GET", &path, &[("authorization", &bearer)], b"").status, 401);
    assert_eq!(raw(gate.proxy, "GET", &path, &[], b"").status, 401);
    assert_eq!(raw(gate.proxy, "DELETE", &path, &[], b"").status, 405);
}

#[test]
fn all_sessions_of_a_user_end_at_every_gate() {
    let redis = Redis::start();
    let (one, other) = (on_redis(&redis, "").start(), on_redis(&redis, "").start());
    let cookies = [log_in(&one, "alice"), log_in(&other, "alice")];
    let bob = log_in(&other, "bob");
    assert_eq!(list(&one, &cookies[0]).len(), 2);
    assert_eq!(end(&one, &cookies[0], "all=true", ORIGIN).status, 204);
    for gate in [&one, &other] {
        crate::support::eventually("every session of the user is over", || {
            let statuses = [&cookies[0], &cookies[1], &bob].map(|cookie| status(gate, cookie));
            (statuses == [401, 401, 200]).then_some(()).ok_or(format!("{statuses:?}"))
        });
    }
}

#[test]
fn the_page_of_own_sessions_has_a_form_for_each_and_leads_back() {
    let gate = portal().start();
    let [first, second] = [log_in(&gate, "alice"), log_in(&gate, "alice")];
    let page = browse(&gate, &format!("{IDENTITY_PATH}/auth/sessions"), &first);
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let text = page.text();
    assert_eq!(text.matches("name=\"session\"").count(), 2, "{text}");
    assert!(
        text.contains("This browser") && text.contains("Shop") && text.contains(" UTC"),
        "{text}"
    );
    let other = text.split("Another browser").nth(1).unwrap();
    let handle = other.split("value=\"").nth(1).unwrap().split('"').next().unwrap();
    let headers = [
        ("cookie", first.as_str()),
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-mode", "navigate"),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    let path = format!("{IDENTITY_PATH}/auth/sessions");
    let answer = raw(gate.proxy, "POST", &path, &headers, format!("session={handle}").as_bytes());
    assert_eq!((answer.status, answer.header("location")), (303, path.as_str()));
    assert_eq!([&first, &second].map(|cookie| status(&gate, cookie)), [200, 401]);
    let answer = raw(gate.proxy, "POST", &path, &headers, b"all=true");
    assert!(
        answer.status == 200 && answer.text().contains("Logged out"),
        "{}",
        answer.text()
    );
    assert_eq!(status(&gate, &first), 401);
}

#[test]
fn a_list_that_may_lack_sessions_says_so() {
    let gate = portal().config("limits: { workers: 1, own_sessions: 1 }").start();
    let cookies = [log_in(&gate, "alice"), log_in(&gate, "alice")];
    let path = format!("{IDENTITY_PATH}/auth/sessions");
    let answer = with_cookie(&gate, "GET", &path, &cookies[0], &[]).json();
    assert_eq!(answer["complete"], false);
    assert!(answer["sessions"].as_array().unwrap().len() <= 1, "{answer}");
    let page = browse(&gate, &path, &cookies[0]).text();
    assert!(page.contains("There may be more sessions of yours"), "{page}");
    gate.stop();
}
