//! Live connections: the gate closes those that it would not permit any more within a second, and no others.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::session_client::{ORIGIN, PORTAL_YAML, auth_event, log_in, log_out, portal};
use crate::support::{Gate, OPEN_POLICY, RawConnection, ScriptedServer, claims, eventually};

/// The longest time until a connection is closed; a slow machine may need more than the promised second.
const CLOSED_WITHIN: Duration = Duration::from_secs(3);
const TICK: &str = "2\r\n.\n\r\n";

/// Streams without end: `/tick` sends chunks all the time, `/quiet` sends none after its first, `/echo` is a tunnel,
/// and `/late` sends its head when the test releases it.
fn app(late: &Arc<AtomicBool>) -> ScriptedServer {
    let late = Arc::clone(late);
    ScriptedServer::start(move |head, wire| {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        if path.ends_with("/echo") {
            wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: echo/1\r\n\r\n");
            let mut buffer = [0; 1024];
            while let Ok(length @ 1..) = wire.stream.read(&mut buffer) {
                wire.send(&buffer[..length]);
            }
            return;
        }
        if path.ends_with("/late") {
            while !late.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(5));
            }
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret");
            return;
        }
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
        if path.ends_with("/quiet") {
            let _gone = wire.stream.read(&mut [0; 1]);
        }
        while wire.send(TICK) {
            std::thread::sleep(Duration::from_millis(10));
        }
    })
}

struct LiveGate {
    gate: Gate,
    _app: ScriptedServer,
    late: Arc<AtomicBool>,
}

fn start() -> LiveGate {
    let late = Arc::new(AtomicBool::new(false));
    let app = app(&late);
    let gate = portal().config(&format!("upstream: {{ url: '{}' }}", app.url())).start();
    LiveGate { gate, _app: app, late }
}

impl LiveGate {
    fn ask(&self, path: &str, credential: &str) -> RawConnection {
        let mut wire = RawConnection::open(self.gate.proxy);
        let upgrade = if path.ends_with("/echo") {
            "connection: upgrade\r\nupgrade: echo/1\r\n"
        } else {
            ""
        };
        wire.send(format!(
            "GET /portal/p{path} HTTP/1.1\r\nhost: shop.test\r\norigin: {ORIGIN}\r\n{credential}\r\n{upgrade}\r\n"
        ));
        wire
    }

    /// Opens a live connection and reads its first bytes.
    fn live(&self, path: &str, credential: &str) -> RawConnection {
        let mut wire = self.ask(path, credential);
        let first = if path.ends_with("/echo") { "\r\n\r\n" } else { "hello\r\n" };
        let head = String::from_utf8(wire.read_until(first)).unwrap();
        assert!(head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.1 101"), "{head}");
        wire
    }
}

fn assert_ends(what: &str, mut wire: RawConnection) {
    let begun = Instant::now();
    while begun.elapsed() < CLOSED_WITHIN && !wire.read_exactly(1).is_empty() {
        wire.take_left();
    }
    assert!(begun.elapsed() < CLOSED_WITHIN, "{what} was not closed");
}

fn assert_lives(what: &str, wire: &mut RawConnection) {
    let received = if what.ends_with("/echo") {
        wire.send("still here");
        wire.read_until("still here")
    } else {
        // by then all ticks from before are read
        for _ in 0..50 {
            wire.read_until(TICK);
        }
        wire.read_until(TICK)
    };
    assert!(!received.is_empty(), "{what} was closed");
}

fn cookie(pair: &str) -> String {
    format!("cookie: {pair}")
}

#[test]
fn an_ended_session_ends_its_own_live_connections_only() {
    let live = start();
    let (alice, bob) = (log_in(&live.gate, "alice"), log_in(&live.gate, "bob"));
    let second = log_in(&live.gate, "alice");
    let bearer = format!("authorization: Bearer {}", live.gate.issuer.token("alice", &[]));
    let ending: Vec<_> = ["/tick", "/quiet", "/echo", "/assets/tick"]
        .map(|path| (path, live.live(path, &cookie(&alice))))
        .into();
    let mut staying: Vec<_> = [cookie(&bob), cookie(&second), bearer, "x-anonymous: 1".to_owned()]
        .iter()
        .flat_map(|who| {
            let paths: &[&str] = if who.starts_with("x-") {
                &["/assets/tick"]
            } else {
                &["/tick", "/echo"]
            };
            paths.iter().map(|path| (*path, live.live(path, who))).collect::<Vec<_>>()
        })
        .collect();
    assert!(log_out(&live.gate, &alice).status < 400);
    for (path, wire) in ending {
        assert_ends(path, wire);
    }
    for (path, wire) in &mut staying {
        assert_lives(path, wire);
    }
    let event = auth_event(&live.gate, "a cut is recorded", |event| event["event"] == "cut");
    assert_eq!(
        (&event["reason"], &event["subject"]),
        (&json!("session_revoked"), &json!("alice"))
    );
    assert!(event["decision_id"].is_string() && event["session"].is_string(), "{event}");
    let counted = "cedargate_live_connections_cut_total{reason=\"revoked\"} 4";
    assert!(live.gate.metrics().contains(counted), "{}", live.gate.metrics());
}

#[test]
fn a_reload_closes_the_live_connections_that_it_denies_and_no_other() {
    let live = start();
    let alice = cookie(&log_in(&live.gate, "alice"));
    let bearer = format!("authorization: Bearer {}", live.gate.issuer.token("carol", &[]));
    let mut ending = Vec::new();
    let mut staying = Vec::new();
    for who in [&alice, &bearer] {
        ending.extend(["/closed/tick", "/closed/quiet", "/closed/echo"].map(|path| (path, live.live(path, who))));
        staying.extend(["/tick", "/echo"].map(|path| (path, live.live(path, who))));
    }
    let before = live.gate.revision("p");
    // a reload that changes nothing for them
    live.gate.put("policies/p/main.cedar", &format!("{OPEN_POLICY}\n// a word"));
    eventually("it is loaded", || {
        (live.gate.revision("p") != before).then_some(()).ok_or_else(String::new)
    });
    for (path, wire) in &mut staying {
        assert_lives(path, wire);
    }
    let forbid = "@id(\"closed\") forbid (principal, action, resource in Path::\"/portal/p/closed\");";
    live.gate.put("policies/p/main.cedar", &format!("{OPEN_POLICY}\n{forbid}"));
    for (path, wire) in ending {
        assert_ends(path, wire);
    }
    for (path, wire) in &mut staying {
        assert_lives(path, wire);
    }
    let event = auth_event(&live.gate, "a cut is recorded", |event| event["event"] == "cut");
    assert_eq!(event["reason"], "forbidden");
    let counted = "cedargate_live_connections_cut_total{reason=\"reload\"} 6";
    assert!(live.gate.metrics().contains(counted), "{}", live.gate.metrics());
}

#[test]
fn a_reload_that_maps_claims_in_another_way_closes_what_a_forbid_then_covers_also_on_public_paths() {
    let live = start();
    let forbid = "@id(\"evil\") forbid (principal, action, resource) when { principal has email && principal.email like \"*@evil.test\" };";
    let before = live.gate.revision("p");
    live.gate.put("policies/p/main.cedar", &format!("{OPEN_POLICY}\n{forbid}"));
    eventually("the forbid is loaded", || {
        (live.gate.revision("p") != before).then_some(()).ok_or_else(String::new)
    });
    let mut claims = claims("carol", &[]);
    claims["email"] = json!("carol@good.test");
    claims["mail"] = json!("carol@evil.test");
    let bearer = format!("authorization: Bearer {}", live.gate.issuer.sign(&claims));
    let [closed, public] = ["/tick", "/assets/tick"].map(|path| live.live(path, &bearer));
    let mut staying = live.live("/assets/tick", "accept: */*");
    live.gate
        .put("policies/p/portal.yaml", &format!("{PORTAL_YAML}claims: {{ email: mail }}\n"));
    assert_ends("/tick", closed);
    assert_ends("/assets/tick", public);
    assert_lives("/assets/tick of an anonymous client", &mut staying);
}

#[test]
fn an_answer_that_comes_after_its_session_ended_is_not_forwarded() {
    let live = start();
    let alice = log_in(&live.gate, "alice");
    let mut wire = live.ask("/late", &cookie(&alice));
    eventually("the app is asked", || {
        let heads = live._app.heads.lock().unwrap();
        heads
            .iter()
            .any(|head| head.contains("/late"))
            .then_some(())
            .ok_or_else(String::new)
    });
    assert!(log_out(&live.gate, &alice).status < 400);
    live.late.store(true, Ordering::Release);
    let answer = wire.read_answer("GET").unwrap();
    assert_eq!((answer.status, answer.code()), (401, "session_revoked".to_owned()));
    assert!(!answer.text().contains("secret"));
}
