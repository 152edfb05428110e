//! The session store as a gate meets it: at its start, and full.

use std::time::{Duration, Instant};

use crate::redis::Redis;
use crate::revoking::{on_redis, status};
use crate::sessions::log_in;
use crate::support::raw;

#[test]
fn a_new_replica_serves_sessions_from_its_first_answer() {
    let redis = Redis::start();
    let first = on_redis(&redis, "").start();
    let cookie = log_in(&first, "alice");
    // the more there is to read, the longer it takes
    let feed = "cedargate:default:{feed}:revocations";
    let fill = format!("for n = 1, 20000 do redis.call('XADD', '{feed}', '*', 'm', 'junk', 'a', '1') end");
    redis.cli(&["eval", &fill, "0"]);
    let second = on_redis(&redis, "").start();
    assert_eq!(status(&second, &cookie), 200);
}

#[test]
fn a_start_waits_for_no_store_that_is_not_there() {
    let redis = Redis::start();
    redis.kill();
    let began = Instant::now();
    let gate = on_redis(&redis, "").start();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let ready = raw(gate.admin, "GET", "/readyz", &[], b"");
    assert_eq!(ready.status, 200, "{}", ready.text());
}
