//! The session store at the start of a gate, and when it is full.

use std::time::{Duration, Instant};

use crate::sessions::revocations::{on_redis, sessions, status, two_gates};
use crate::support::redis::Redis;
use crate::support::session_client::{auth_event, log_in, log_out};
use crate::support::{eventually, raw};

#[test]
fn a_new_replica_serves_sessions_from_its_first_answer() {
    let redis = Redis::start();
    let first = on_redis(&redis, "").start();
    let cookie = log_in(&first, "alice");
    // the more there is to read, the longer it takes
    let feed = "cedargate:test:{feed}:revocations";
    let fill = format!("for n = 1, 20000 do redis.call('XADD', '{feed}', '*', 'm', 'junk', 'a', '1') end");
    redis.cli(&["eval", &fill, "0"]);
    let second = on_redis(&redis, "").start();
    assert_eq!(status(&second, &cookie), 200);
}

#[test]
fn the_gate_starts_without_waiting_for_an_absent_store() {
    let redis = Redis::start();
    redis.kill();
    let began = Instant::now();
    let gate = on_redis(&redis, "").start();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let ready = raw(gate.admin, "GET", "/readyz", &[], b"");
    assert_eq!(ready.status, 200, "{}", ready.text());
}

#[test]
fn a_full_store_revokes_here_and_reports_that_other_gates_do_not_know() {
    let (folder, redis) = (tempfile::tempdir().unwrap(), Redis::start());
    let ([first, second], cookies) = two_gates(&redis, folder.path());
    assert_eq!(redis.cli(&["config", "set", "maxmemory", "1"]), "OK");
    let logout = log_out(&second, &cookies[1]);
    assert_eq!(logout.status, 202, "{}", logout.text());
    auth_event(&second, "the logout's line", |event| {
        event["event"] == "logout" && event["detail"] == "not known everywhere yet"
    });
    assert_eq!(status(&second, &cookies[1]), 401);
    eventually("gone for others, too", || match status(&first, &cookies[1]) {
        401 => Ok(()),
        other => Err(other.to_string()),
    });
    let (code, message, _) = sessions(folder.path(), &["revoke", "--subject", "alice", "--issuer", "local"]);
    assert_eq!(code, 0);
    assert!(message.contains("not everywhere yet"), "{message}");
    assert_eq!((status(&first, &cookies[0]), status(&second, &cookies[0])), (401, 200));
    let failed = first.status()["sessions"]["last_failed_write"]["error"].to_string();
    assert!(failed.contains("OOM"), "{failed}");
    assert_eq!(redis.cli(&["config", "set", "maxmemory", "0"]), "OK");
    eventually("told as soon as there is room", || match status(&second, &cookies[0]) {
        401 => Ok(()),
        other => Err(other.to_string()),
    });
}
