//! Connection limits: the answer to a connection over the limit, the release of its slot, and what is kept back for
//! other listeners.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::binary::{GateFolder, GateProcess};
use crate::support::{Gate, PAGE, RawConnection, ScriptedServer, eventually, open_portal, raw};

fn get(gate: &Gate) -> String {
    let token = gate.issuer.token("alice", &["viewer"]);
    format!("GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\nauthorization: Bearer {token}\r\n\r\n")
}

/// A connection on which one request was answered.
fn open_connection(gate: &Gate) -> RawConnection {
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(get(gate));
    assert_eq!(wire.read_answer("GET").unwrap().status, 200);
    wire
}

fn status(gate: &Gate) -> Result<u16, String> {
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(get(gate));
    wire.read_answer("GET")
        .map(|answer| answer.status)
        .ok_or("no answer".to_owned())
}

fn assert_refused(gate: &Gate) {
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(get(gate));
    let answer = wire.read_answer("GET").unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
    assert_eq!(answer.header("connection"), "close");
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["code"], "overloaded");
    assert!(
        problem["detail"].as_str().unwrap().contains("`limits.connections"),
        "{problem}"
    );
    assert!(wire.is_closed());
}

fn wait_for_free_slot(gate: &Gate) {
    eventually("a place is free", || match status(gate)? {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn a_connection_over_the_limit_gets_503_and_the_admin_listener_still_answers() {
    let gate = open_portal().config("limits: { workers: 2, connections: 3 }").start();
    let mut held: Vec<RawConnection> = (0..3).map(|_| open_connection(&gate)).collect();
    for _ in 0..5 {
        assert_refused(&gate);
    }
    assert_eq!(gate.app.count(), 3);
    let metrics = gate.metrics();
    let line = "cedargate_http_rejected_total{reason=\"too_many_connections\"} 5";
    assert!(metrics.lines().any(|l| l == line), "{metrics}");
    // the connected client is still served
    let first = &mut held[0];
    first.send(get(&gate));
    assert_eq!(first.read_answer("GET").unwrap().status, 200);
    held.pop();
    wait_for_free_slot(&gate);
    let log = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap();
    assert!(!log.contains("too_many_connections"), "a flood must not crowd out decisions");
}

#[test]
fn a_flood_of_silent_refused_connections_ends_soon() {
    let gate = open_portal().config("limits: { workers: 1, connections: 1 }").start();
    let held = open_connection(&gate);
    let mut silent: Vec<RawConnection> = (0..200).map(|_| RawConnection::open(gate.proxy)).collect();
    for wire in &mut silent {
        // the connection ends in time, with or without the answer
        wire.read_answer("GET");
        assert!(wire.is_closed());
    }
    drop(held);
    wait_for_free_slot(&gate);
}

#[test]
fn an_address_has_its_own_limit() {
    let gate = open_portal()
        .config("limits: { workers: 2, connections_per_address: 2 }")
        .start();
    let held: Vec<RawConnection> = (0..2).map(|_| open_connection(&gate)).collect();
    assert_refused(&gate);
    // the decision listener has no such limit
    let questions: Vec<RawConnection> = (0..4).map(|_| RawConnection::open(gate.decision)).collect();
    let body = serde_json::json!({});
    assert_eq!(gate.ask("/authorize", &body).status, 400);
    drop(questions);
    drop(held);
    wait_for_free_slot(&gate);
}

#[test]
fn trusted_proxies_have_no_limit_of_their_own() {
    let gate = open_portal()
        .config("trusted_proxies: [127.0.0.0/8]\nlimits: { workers: 2, connections_per_address: 1 }")
        .start();
    let held: Vec<RawConnection> = (0..5).map(|_| open_connection(&gate)).collect();
    assert_eq!(held.len(), 5);
}

#[test]
fn a_tunnel_keeps_its_connection_slot() {
    let script = ScriptedServer::start(|head, wire| {
        if head.to_ascii_lowercase().contains("upgrade: echo") {
            wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello");
            wire.read_until("bye");
        } else {
            wire.send("HTTP/1.1 200 OK\r\nx-app: yes\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    let gate = open_portal()
        .config(&format!(
            "upstream: {{ url: '{}' }}\nlimits: {{ workers: 2, connections_per_address: 1 }}",
            script.url()
        ))
        .start();
    let mut tunnel = RawConnection::open(gate.proxy);
    let upgrade = get(&gate).replace("\r\n\r\n", "\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    tunnel.send(upgrade);
    let received = String::from_utf8(tunnel.read_until("hello")).unwrap();
    assert!(received.starts_with("HTTP/1.1 101"), "{received}");
    assert_refused(&gate);
    tunnel.send("bye");
    drop(tunnel);
    wait_for_free_slot(&gate);
}

#[test]
fn clients_of_the_proxy_starve_neither_the_app_nor_the_operator() {
    let gate = open_portal().config("limits: { workers: 2, connections: 2 }").start();
    let _held: Vec<RawConnection> = (0..2).map(|_| open_connection(&gate)).collect();
    assert_refused(&gate);
    let token = gate.issuer.token("alice", &["viewer"]);
    let question = json!({"portal": "p", "token": token, "action": "GET", "resource": format!("Path::\"{PAGE}\"")});
    assert_eq!(gate.ask("/authorize", &question).status, 200);
    assert_eq!(raw(gate.admin, "GET", "/livez", &[], b"").status, 200);
}

#[test]
fn every_listener_has_its_own_limit_of_connections() {
    let limits = "limits: { workers: 1, connections: 9, decision_connections: 1, admin_connections: 2 }";
    let gate = open_portal().config(limits).start();
    let refused = |address, key: &str| {
        eventually("a connection is refused", || {
            let mut wire = RawConnection::open(address);
            wire.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            let answer = wire.read_answer("GET").ok_or("no answer".to_owned())?;
            let is_named = answer.status == 503 && answer.text().contains(&format!("`{key}`"));
            is_named.then_some(()).ok_or(answer.text())
        });
    };
    let _question = RawConnection::open(gate.decision);
    refused(gate.decision, "limits.decision_connections");
    let _probes = [RawConnection::open(gate.admin), RawConnection::open(gate.admin)];
    refused(gate.admin, "limits.admin_connections");
    drop(open_connection(&gate));
}

/// A gate that may open so many files.
fn serve_with_descriptors(folder: &GateFolder, limit: u32) -> GateProcess {
    let script = format!("ulimit -n {limit} && exec {} serve", env!("CARGO_BIN_EXE_cedargate"));
    let child = Command::new("sh")
        .args(["-c", &script])
        .current_dir(folder.folder.path())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.folder.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    GateProcess(child)
}

#[test]
fn clients_that_use_up_the_descriptors_leave_some_for_the_operator_and_the_app() {
    for limit in [128, 256] {
        let app = crate::support::App::start();
        let folder = GateFolder::new(&format!("http://{}", app.address), "limits: { workers: 2 }");
        let _gate = serve_with_descriptors(&folder, limit);
        let livez = || match RawConnection::try_open(folder.admin).ok().map(|mut wire| {
            wire.send("GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            wire.read_answer("GET")
        }) {
            Some(Some(answer)) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        };
        eventually("the gate is live", livez);
        eventually("the log names the limit", || {
            let log = std::fs::read_to_string(folder.folder.path().join("log")).unwrap();
            let is_named = log.contains("ulimit -n") && log.contains("limits.connections");
            is_named.then_some(()).ok_or(log)
        });
        // far more idle clients than the process may have descriptors
        let mut idle: Vec<RawConnection> = (0..600).map(|_| RawConnection::open(folder.proxy)).collect();
        for _ in 0..20 {
            livez().unwrap();
        }
        let status = |wire: &mut RawConnection| {
            wire.send(folder.request());
            wire.read_answer("GET").map(|answer| answer.status)
        };
        let served = idle.iter_mut().position(|wire| status(wire) == Some(200));
        let served = served.expect("a client that was accepted gets its answer");
        // policies are still read
        folder.put(
            "policies/p/_deny/all.cedar",
            "@id(\"stop\") forbid (principal, action, resource);",
        );
        eventually("the emergency forbid is read", || match status(&mut idle[served]) {
            Some(403) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        drop(idle);
        eventually("clients are served again", || {
            let mut wire = RawConnection::open(folder.proxy);
            wire.send(folder.request());
            match wire.read_answer("GET").map(|answer| answer.status) {
                Some(403) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}
