//! Sessions under Sentinel: a session that was ended on the agreed master is ended, whichever server a gate still
//! reaches.

use std::time::{Duration, Instant};

use crate::support::redis::{Partition, Redis, Sentinel};
use crate::support::session_client::{log_in, log_out, portal, with_cookie};
use crate::support::{Gate, PAGE, eventually};

/// `sessions.staleness_max`, and a request that was on its way.
const KNOWN_WITHIN: Duration = Duration::from_millis(1100);

/// The password of the Redis servers; the Sentinels have none.
const PASSWORD: &str = "s3cret";

fn start() -> Sentinel {
    Sentinel::of(Redis::setup().password(PASSWORD))
}

fn gate(servers: &Sentinel, sentinels: &[u16]) -> Gate {
    let urls: Vec<String> = sentinels.iter().map(|port| format!("'redis://127.0.0.1:{port}'")).collect();
    portal()
        .file("keys", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")
        .config(&format!(
            "sessions: {{ store: redis, key_file: keys, redis: {{ key_prefix: 'cedargate:shop:', password: {PASSWORD}, sentinel: {{ master: {}, urls: [{}] }} }} }}\n\
             limits: {{ workers: 2, drain_timeout: 5s }}",
            servers.name(),
            urls.join(", ")
        ))
        .start()
}

fn status(gate: &Gate, cookie: &str) -> u16 {
    with_cookie(gate, "GET", PAGE, cookie, &[]).status
}

fn wait_for_status(what: &str, gate: &Gate, cookie: &str, wanted: u16) {
    eventually(what, || match status(gate, cookie) {
        status if status == wanted => Ok(()),
        other => Err(format!("{other}: {}", gate.status()["sessions"])),
    });
}

/// Asserts, until `long` after the end of a session, that the gate answers no 200 to its cookie once it must know the
/// end.
fn assert_never_served(gate: &Gate, cookie: &str, ended: Instant, long: Duration) {
    while ended.elapsed() < long {
        let asked = ended.elapsed();
        let status = status(gate, cookie);
        assert!(status != 200 || asked < KNOWN_WITHIN, "let in {asked:?} after its end");
        assert!([200, 401, 503].contains(&status), "{status}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn log_out_at(gate: &Gate, cookie: &str) -> Instant {
    eventually("a logout", || {
        let answer = log_out(gate, cookie);
        if answer.status < 400 { Ok(()) } else { Err(answer.text()) }
    });
    Instant::now()
}

#[test]
fn a_gate_leaves_a_master_that_the_sentinels_left() {
    let servers = start();
    let first = gate(&servers, &servers.sentinel_ports());
    let (alice, bob) = (log_in(&first, "alice"), log_in(&first, "bob"));
    servers.master().until_replicated(2);
    // the old master answers as master until a Sentinel demotes it
    servers.failover();
    let second = gate(&servers, &servers.sentinel_ports());
    wait_for_status("the other gate serves", &second, &alice, 200);
    let ended = log_out_at(&second, &alice);
    assert_never_served(&first, &alice, ended, Duration::from_secs(3));
    wait_for_status("it knows", &first, &alice, 401);
    wait_for_status("a session that was not ended is still served", &first, &bob, 200);
}

#[test]
fn an_old_master_that_wakes_up_serves_no_ended_session() {
    let servers = start();
    let gates = [(); 2].map(|()| gate(&servers, &servers.sentinel_ports()));
    let (alice, bob) = (log_in(&gates[0], "alice"), log_in(&gates[1], "bob"));
    for gate in &gates {
        assert_eq!((status(gate, &alice), status(gate, &bob)), (200, 200));
    }
    servers.master().until_replicated(2);
    let old = servers.master_port();
    let stopped = servers.nodes.iter().find(|node| node.port == old).unwrap();
    stopped.pause();
    servers.until_master_is_not(old);
    wait_for_status("the new master is used", &gates[0], &alice, 200);
    let ended = log_out_at(&gates[0], &alice);
    stopped.resume();
    for gate in &gates {
        assert_never_served(gate, &alice, ended, Duration::from_secs(4));
        wait_for_status("a session that was not ended is still served", gate, &bob, 200);
        wait_for_status("it knows", gate, &alice, 401);
    }
}

#[test]
fn a_gate_cut_off_with_the_old_master_serves_no_session_and_ends_none() {
    let servers = start();
    let ports = servers.sentinel_ports();
    let (one, two) = (Partition::to(ports[1]), Partition::to(ports[2]));
    let first = gate(&servers, &[ports[0], one.port, two.port]);
    let (alice, bob) = (log_in(&first, "alice"), log_in(&first, "bob"));
    servers.master().until_replicated(2);
    // one of three is enough to lose, as it is for the Sentinels themselves
    one.cut();
    let cut = Instant::now();
    while cut.elapsed() < Duration::from_secs(2) {
        assert_eq!(status(&first, &alice), 200);
        std::thread::sleep(Duration::from_millis(20));
    }
    two.cut();
    wait_for_status("no Sentinel confirms the master", &first, &alice, 503);
    eventually("it says why", || {
        let message = first.status()["sessions"]["last_error"].to_string();
        let is_it = message.contains("fewer than 2 of 3 Sentinels");
        if is_it { Ok(()) } else { Err(message) }
    });
    servers.failover();
    let second = gate(&servers, &ports);
    wait_for_status("the other gate serves", &second, &alice, 200);
    let ended = log_out_at(&second, &alice);
    assert_never_served(&first, &alice, ended, Duration::from_secs(2));
    assert_eq!((status(&first, &alice), status(&first, &bob)), (503, 503));
    one.heal();
    two.heal();
    wait_for_status("back with the others", &first, &bob, 200);
    wait_for_status("it knows", &first, &alice, 401);
}
