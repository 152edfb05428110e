//! The harness itself: each handle does what its name says.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{ClientCertificate, Cluster, Partition, Redis, Sentinel};
use crate::support::eventually;

/// A PING with a deadline: the answer, or the error.
fn ping(stream: &mut TcpStream, patience: Duration) -> Result<String, std::io::ErrorKind> {
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.write_all(b"PING\r\n").map_err(|error| error.kind())?;
    let mut buffer = [0; 64];
    let length = stream.read(&mut buffer).map_err(|error| error.kind())?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn dial(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).unwrap()
}

const SOON: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_secs(10);

#[test]
fn a_redis_keeps_its_data_until_it_is_restarted_on_the_same_port() {
    let mut redis = Redis::start();
    assert_eq!(redis.url(), format!("redis://127.0.0.1:{}", redis.port));
    assert_eq!(redis.cli(&["set", "a", "1"]), "OK");
    assert_eq!(redis.cli(&["get", "a"]), "1");
    redis.restart();
    assert_eq!(redis.cli(&["exists", "a"]), "0");
    let mut lasting = Redis::setup().appendonly().start();
    lasting.cli(&["set", "a", "1"]);
    lasting.restart();
    assert_eq!(lasting.cli(&["get", "a"]), "1");
}

#[test]
fn a_paused_redis_is_silent_and_a_killed_one_is_gone() {
    let redis = Redis::start();
    let mut stream = dial(redis.port);
    assert_eq!(ping(&mut stream, LATE).unwrap(), "+PONG\r\n");
    redis.pause();
    assert!(ping(&mut stream, SOON).is_err());
    redis.resume();
    assert!(ping(&mut stream, LATE).unwrap().starts_with("+PONG\r\n"));
    redis.kill();
    assert!(TcpStream::connect(("127.0.0.1", redis.port)).is_err());
}

#[test]
fn a_password_and_an_acl_are_asked_for() {
    let redis = Redis::setup().password("s3cret").start();
    assert!(redis.url().contains(":s3cret@"));
    assert_eq!(redis.cli(&["ping"]), "PONG");
    assert!(ping(&mut dial(redis.port), LATE).unwrap().starts_with("-NOAUTH"));
    let redis = Redis::setup()
        .acl("user default off\nuser gate on >s3cret ~cedargate:* +get +set +ping")
        .start();
    assert_eq!(redis.cli(&["set", "anything", "1"]), "OK");
    let as_gate = |args: &[&str]| redis.cli(&[&["--user", "gate", "--pass", "s3cret"], args].concat());
    assert_eq!(as_gate(&["set", "cedargate:a", "1"]), "OK");
    assert!(as_gate(&["get", "anything"]).contains("NOPERM"));
    assert!(as_gate(&["flushall"]).contains("NOPERM"));
}

#[test]
fn tls_is_all_that_is_spoken_and_a_client_certificate_may_be_required() {
    for clients in [ClientCertificate::Ignored, ClientCertificate::Required] {
        let redis = Redis::setup().tls(clients).start();
        assert!(redis.url().starts_with("rediss://"));
        assert_eq!(redis.cli(&["ping"]), "PONG");
        assert!(!ping(&mut dial(redis.port), LATE).is_ok_and(|said| said.contains("PONG")));
        let output = std::process::Command::new("redis-cli")
            .args(["-p", &redis.port.to_string(), "--tls", "--cacert"])
            .arg(redis.path("ca.crt"))
            .arg("ping")
            .output()
            .unwrap();
        let is_heard = String::from_utf8_lossy(&output.stdout).contains("PONG");
        assert_eq!(is_heard, clients == ClientCertificate::Ignored, "{output:?}");
    }
}

#[test]
fn sentinels_agree_on_a_new_master_when_asked_and_when_the_old_one_dies() {
    let sentinel = Sentinel::start();
    let first = sentinel.master_port();
    sentinel.master().cli(&["set", "a", "1"]);
    sentinel.master().until_replicated(2);
    let second = sentinel.failover();
    assert_ne!(first, second);
    assert_eq!(sentinel.master().cli(&["get", "a"]), "1");
    sentinel.settle();
    assert_eq!(sentinel.kill_master(), second);
    let third = sentinel.until_master_is_not(second);
    assert_eq!(sentinel.master_port(), third);
    assert_eq!(sentinel.master().cli(&["get", "a"]), "1");
}

#[test]
fn a_cluster_sends_clients_to_the_holder_of_a_key_also_after_its_slot_has_moved() {
    let cluster = Cluster::start();
    assert_eq!(cluster.nodes.len(), 3);
    let old = cluster.holder("a");
    let other = cluster.nodes.iter().find(|node| node.port != old.port).unwrap();
    assert!(
        other
            .cli(&["get", "a"])
            .contains(&format!("MOVED 15495 127.0.0.1:{}", old.port))
    );
    assert_eq!(other.cli(&["-c", "set", "a", "1"]), "OK");
    cluster.move_slot("a");
    assert_ne!(cluster.holder("a").port, old.port);
    assert_eq!(cluster.holder("a").cli(&["get", "a"]), "1");
    assert!(old.cli(&["get", "a"]).contains("MOVED"));
}

#[test]
fn a_cluster_with_replicas_survives_a_master() {
    let cluster = Cluster::of(Redis::setup(), 1);
    let holder = cluster.holder("a");
    holder.cli(&["set", "a", "1"]);
    holder.until_replicated(1);
    let old = holder.port;
    holder.kill();
    eventually("a replica takes over", || {
        let port = cluster.holder("a").port;
        if port == old { Err(String::new()) } else { Ok(()) }
    });
    cluster.until_ok(1);
    assert_eq!(cluster.holder("a").cli(&["get", "a"]), "1");
}

#[test]
fn a_cut_partition_holds_bytes_a_refusing_one_closes_and_both_heal() {
    let redis = Redis::start();
    let network = Partition::to(redis.port);
    let mut stream = dial(network.port);
    assert_eq!(ping(&mut stream, LATE).unwrap(), "+PONG\r\n");
    network.cut();
    assert!(ping(&mut stream, SOON).is_err());
    assert!(ping(&mut dial(network.port), SOON).is_err());
    network.heal();
    assert!(ping(&mut stream, LATE).unwrap().starts_with("+PONG\r\n"));
    network.refuse();
    eventually("the connection is closed", || match ping(&mut stream, LATE) {
        Ok(said) if !said.is_empty() => Err(said),
        _closed => Ok(()),
    });
    assert!(!ping(&mut dial(network.port), LATE).is_ok_and(|said| !said.is_empty()));
    network.heal();
    let other = Redis::start();
    network.aim(other.port);
    let mut stream = dial(network.port);
    assert_eq!(ping(&mut stream, LATE).unwrap(), "+PONG\r\n");
    other.kill();
    assert_eq!(ping(&mut stream, LATE).unwrap_or_default(), "");
}
