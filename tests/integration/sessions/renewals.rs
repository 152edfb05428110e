//! Interrupted renewals and id rotations: lost answers, draining gates, an unreachable store.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::sessions::store_faults;
use crate::support::login_gate::{COOKIE, alice, real};
use crate::support::openid::{Browser, Fault, Provider};
use crate::support::redis::Redis;
use crate::support::session_client::IDENTITY_PATH;
use crate::support::{Answer, PAGE, eventually, raw};

fn renew(gate: SocketAddr, origin: &str, cookie: &str) -> Answer {
    let headers = [("cookie", cookie), ("origin", origin)];
    raw(gate, "POST", &format!("{IDENTITY_PATH}/auth/refresh"), &headers, b"")
}

/// The session cookie that an answer sets, as a request sends it.
fn new_cookie(answer: &Answer) -> Option<String> {
    let set = answer.header("set-cookie").split(';').next()?;
    set.starts_with(COOKIE).then(|| set.to_owned())
}

#[test]
fn a_new_id_whose_answer_was_lost_comes_again_until_the_browser_has_it() {
    let (provider, login_gate) = real(Provider::setup().always_refresh());
    let mut browser = Browser::new();
    browser.log_in(login_gate.url("/portal/p/x").as_str(), "alice");
    let old = format!("{COOKIE}={}", browser.cookie(COOKIE).unwrap().value);
    provider.account("alice", &alice(&["admin"]));
    let open = |cookie: &str| {
        let headers = [("cookie", cookie), ("sec-fetch-mode", "navigate")];
        raw(login_gate.gate.proxy, "GET", "/portal/p/x", &headers, b"")
    };
    let lost = renew(login_gate.gate.proxy, &login_gate.origin, &old);
    assert_eq!(lost.status, 200, "{}", lost.text());
    let new = eventually("an answer has the new id", || {
        let answer = open(&old);
        new_cookie(&answer).ok_or_else(|| answer.text())
    });
    assert_ne!(new, old);
    for _ in 0..3 {
        let again = open(&old);
        assert_eq!((again.status, new_cookie(&again)), (200, Some(new.clone())));
        assert_eq!(again.header("cache-control"), "no-store");
    }
    // this time the answer arrived
    let with_new = open(&new);
    assert_eq!((with_new.status, new_cookie(&with_new)), (200, None));
    eventually("who has the old one is told no more", || match new_cookie(&open(&old)) {
        None => Ok(()),
        Some(told) => Err(told),
    });
    let headers = [("cookie", old.as_str()), ("origin", login_gate.origin.as_str())];
    let path = format!("{IDENTITY_PATH}/auth/logout");
    assert!(raw(login_gate.gate.proxy, "POST", &path, &headers, b"").status < 400);
    for cookie in [&old, &new] {
        assert_ne!(open(cookie).status, 200, "either ends both");
    }
}

#[test]
fn a_draining_gate_waits_for_renewals_under_way_and_begins_none() {
    let redis = Redis::setup().appendonly().start();
    let provider = Provider::setup().always_refresh().access_token_seconds(2).start();
    let (first, origin) = store_faults::gate(&redis, &provider, None);
    let (second, _) = store_faults::gate(&redis, &provider, Some(&origin));
    store_faults::register(&provider, &origin);
    let user = store_faults::log_in(&provider, &origin, "alice");
    let proxy = first.proxy;
    provider.fault("token", Fault::DelayMillis(3500), Some(1));
    let asking = std::thread::spawn({
        let (origin, cookie) = (origin.clone(), user.cookie.clone());
        // the client that asked goes away in the middle
        move || {
            use std::io::Write as _;
            let mut stream = std::net::TcpStream::connect(proxy).unwrap();
            let head =
                format!("POST {IDENTITY_PATH}/auth/refresh HTTP/1.1\r\nhost: a\r\ncookie: {cookie}\r\norigin: {origin}\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    eventually("the provider is asked", || {
        let asked = provider.count_tokens("refresh_token");
        (asked == 1).then_some(()).ok_or(asked.to_string())
    });
    asking.join().unwrap();
    let began = Instant::now();
    first.stop();
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    let now = store_faults::ask(&second, &user.cookie);
    assert_eq!(now, 200);
    eventually("another gate renews what this one wrote", || {
        let answer = renew(second.proxy, &origin, &user.cookie);
        let renewals = provider.count_tokens("refresh_token");
        match (answer.status, renewals) {
            (200, 2..) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(raw(second.proxy, "GET", PAGE, &[("cookie", &user.cookie)], b"").status, 200);
}

#[test]
fn a_request_that_waited_for_a_renewal_is_checked_against_revocations_afterwards() {
    let redis = Redis::setup().appendonly().start();
    let provider = Provider::setup().always_refresh().access_token_seconds(2).start();
    let (gate, origin) = store_faults::gate(&redis, &provider, None);
    store_faults::register(&provider, &origin);
    let user = store_faults::log_in(&provider, &origin, "alice");
    // a token is taken to live for 10 s at least; twice that, and requests wait for new claims
    std::thread::sleep(Duration::from_secs(19));
    provider.fault("token", Fault::DelayMillis(3500), Some(1));
    let served = gate.app.count();
    let status = std::thread::scope(|scope| {
        let asking = scope.spawn(|| store_faults::ask(&gate, &user.cookie));
        eventually("the provider is asked", || {
            let asked = provider.count_tokens("refresh_token");
            (asked == 1).then_some(()).ok_or(asked.to_string())
        });
        redis.pause();
        asking.join().unwrap()
    });
    assert_eq!(
        (status, gate.app.count()),
        (503, served),
        "the store had confirmed no revocation for seconds"
    );
    redis.resume();
    eventually("it goes on", || match store_faults::ask(&gate, &user.cookie) {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
}
