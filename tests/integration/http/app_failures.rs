//! An app that refuses, stalls, sends contradicting framing or dies in the middle: the client's answer, and that no
//! request is sent twice.
//!
//! The app is a script of raw bytes, the client reads raw bytes: what hyper would repair on either side is not.

use std::io::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::processes::refusing_address;
use crate::support::{Gate, PAGE, RawConnection, ScriptedServer, eventually, open_portal, response};

fn gate_before(script: &ScriptedServer, more: &str) -> Gate {
    open_portal()
        .config(&format!("upstream: {{ url: '{}'{more} }}", script.url()))
        .start()
}

fn head(gate: &Gate, method: &str, rest: &str) -> String {
    let token = gate.issuer.token("alice", &["viewer"]);
    format!("{method} {PAGE} HTTP/1.1\r\nhost: shop.test\r\nauthorization: Bearer {token}\r\n{rest}\r\n")
}

/// The counter of upstream failures with this reason.
fn failures(gate: &Gate, reason: &str) -> u64 {
    let name = format!("cedargate_upstream_errors_total{{reason=\"{reason}\"}} ");
    let text = gate.metrics();
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn an_answer_that_two_readers_could_frame_in_two_ways_is_502_and_never_reaches_the_client() {
    let evil = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nowned";
    for (framing, body) in [
        ("content-length: 3\r\ntransfer-encoding: chunked", "3\r\nxyz\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\ncontent-length: 3", "3\r\nxyz\r\n0\r\n\r\n"),
        ("content-length: 3\r\ncontent-length: 3", "xyz"),
        ("content-length: 3\r\ncontent-length: 4", "xyz"),
        ("content-length: 3, 3", "xyz"),
        ("content-length: +3", "xyz"),
        ("content-length: 0x3", "xyz"),
        ("content-length: -1", "xyz"),
        ("content-length: ", "xyz"),
        ("content-length: 99999999999999999999", "xyz"),
        ("transfer-encoding: gzip, chunked", "3\r\nxyz\r\n0\r\n\r\n"),
        (
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "3\r\nxyz\r\n0\r\n\r\n",
        ),
        ("transfer-encoding: identity", "xyz"),
        ("transfer-encoding: xchunked", "xyz"),
        ("x: y\r\n folded: yes\r\ncontent-length: 3", "xyz"),
        ("bad name: y\r\ncontent-length: 3", "xyz"),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{body}{evil}");
        let script = ScriptedServer::start(move |_, wire| {
            wire.send(&answer);
            wire.read_until("never");
        });
        let gate = gate_before(&script, "");
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(head(&gate, "GET", ""));
        let answer = wire.read_answer("GET").unwrap_or_else(|| panic!("{framing}: no answer"));
        assert_eq!(answer.status, 502, "{framing}: {}", answer.text());
        assert_eq!(answer.code(), "upstream_unavailable", "{framing}");
        assert!(
            !answer.text().contains("xyz") && !answer.text().contains("owned"),
            "{framing}"
        );
        assert_eq!(failures(&gate, "malformed"), 1, "{framing}");
        assert_eq!(script.count(), 1, "{framing}: nothing is sent twice");
    }
}

#[test]
fn a_length_on_answers_without_a_body_frames_nothing() {
    let script = ScriptedServer::start(|head, wire| {
        let mut head = head.to_owned();
        while !head.is_empty() {
            wire.send(match head.split(' ').next() {
                Some("HEAD") => "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n",
                Some("PUT") => "HTTP/1.1 204 No Content\r\n\r\n",
                Some("GET") => "HTTP/1.1 304 Not Modified\r\ncontent-length: 50\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
            });
            head = String::from_utf8_lossy(&wire.read_until("\r\n\r\n")).into_owned();
        }
    });
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    for (method, status) in [("HEAD", 200), ("PUT", 204), ("GET", 304), ("DELETE", 200)] {
        wire.send(head(
            &gate,
            method,
            if method == "PUT" { "content-length: 0\r\n" } else { "" },
        ));
        assert_eq!(wire.read_answer(method).unwrap().status, status, "{method}");
    }
}

#[test]
fn a_head_that_is_cut_too_large_too_long_or_no_http_is_502_or_504_with_its_reason() {
    type Play = fn(&mut RawConnection);
    let table: [(&str, u16, &str, Play); 9] = [
        ("nothing", 502, "closed", |_| {}),
        ("half a head", 502, "closed", |wire| {
            wire.send("HTTP/1.1 200 OK\r\ncontent-le");
        }),
        ("no http", 502, "malformed", |wire| {
            wire.send("220 smtp ready\r\n\r\n");
        }),
        ("another http", 502, "malformed", |wire| {
            wire.send("HTTP/2.0 200 OK\r\n\r\n");
        }),
        ("an unasked upgrade", 502, "malformed", |wire| {
            wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello");
            wire.read_until("never");
        }),
        ("one large header", 502, "headers_too_large", |wire| {
            wire.send(format!(
                "HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n",
                "y".repeat(9 * 1024)
            ));
            wire.read_until("never");
        }),
        ("endless headers", 502, "headers_too_large", |wire| {
            wire.send("HTTP/1.1 200 OK\r\n");
            while wire.send(format!("x: {}\r\n", "y".repeat(1000))) {}
        }),
        ("many headers", 502, "headers_too_large", |wire| {
            wire.send(format!(
                "HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n",
                "x: y\r\n".repeat(300)
            ));
            wire.read_until("never");
        }),
        ("a slow head", 504, "timeout", |wire| {
            for byte in "HTTP/1.1 200 OK\r\n".bytes().cycle() {
                if !wire.send([byte]) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }),
    ];
    for (name, status, reason, play) in table {
        let script = ScriptedServer::start(move |_, wire| play(wire));
        let gate = gate_before(&script, ", response_timeout: 500ms, response_header_bytes: 8KiB");
        let mut wire = RawConnection::open(gate.proxy);
        let started = Instant::now();
        wire.send(head(&gate, "POST", "content-length: 3\r\n") + "abc");
        let answer = wire.read_answer("POST").unwrap_or_else(|| panic!("{name}: no answer"));
        assert_eq!(answer.status, status, "{name}");
        assert!(started.elapsed() < Duration::from_secs(5), "{name}");
        assert_eq!(failures(&gate, reason), 1, "{name}: {}", gate.metrics());
        assert_eq!(script.count(), 1, "{name}: nothing is sent twice");
    }
}

#[test]
fn a_body_that_breaks_off_reaches_the_client_broken() {
    for (framing, part) in [
        ("content-length: 10", "12345"),
        ("transfer-encoding: chunked", "5\r\n12345\r\n"),
        ("transfer-encoding: chunked", "5\r\n123"),
        ("transfer-encoding: chunked", "5\r\n12345\r\nzz\r\n"),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{part}");
        let script = ScriptedServer::start(move |_, wire| {
            wire.send(&answer);
        });
        let gate = gate_before(&script, "");
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(head(&gate, "GET", ""));
        let got = String::from_utf8_lossy(&wire.read_until("never comes")).into_owned();
        assert!(got.starts_with("HTTP/1.1 200"), "{framing}: {got}");
        assert!(!got.ends_with("0\r\n\r\n"), "a broken body looks whole: {got}");
        let body = got.split_once("\r\n\r\n").unwrap().1;
        assert!(framing.contains("chunked") || body.len() < 10, "{got}");
    }
}

#[test]
fn an_interim_flood_ends_with_the_response_timeout() {
    let script = ScriptedServer::start(|_, wire| while wire.send("HTTP/1.1 102 Processing\r\n\r\n".repeat(100)) {});
    let gate = gate_before(&script, ", response_timeout: 500ms");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(head(&gate, "GET", ""));
    assert_eq!(wire.read_answer("GET").unwrap().status, 504);
}

#[test]
fn the_app_gets_the_head_before_a_waiting_client_gets_100() {
    let script = ScriptedServer::start(|head, wire| {
        assert!(head.to_ascii_lowercase().contains("expect: 100-continue"), "{head}");
        wire.send("HTTP/1.1 100 Continue\r\n\r\n");
        let body = wire.read_until("abc");
        wire.send(response("200 OK", &body));
    });
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(head(&gate, "POST", "expect: 100-continue\r\ncontent-length: 3\r\n"));
    assert_eq!(wire.read_until("\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
    wire.send("abc");
    let answer = wire.read_answer("POST").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "abc"));
}

#[test]
fn an_app_that_answers_first_gets_no_body_and_the_client_is_never_asked_for_it() {
    for status in [
        "417 Expectation Failed",
        "401 Unauthorized",
        "413 Content Too Large",
        "503 Service Unavailable",
    ] {
        let extra = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&extra);
        let script = ScriptedServer::start(move |_, wire| {
            wire.send(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nno"));
            seen.fetch_add(wire.read_until("never").len() + 1, Ordering::SeqCst);
        });
        let gate = gate_before(&script, "");
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(head(&gate, "POST", "expect: 100-continue\r\ncontent-length: 3\r\n"));
        let got = String::from_utf8_lossy(&wire.read_until("no")).into_owned();
        assert!(got.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{got}");
        // the connection to the app ends: the request on it was never finished
        eventually("the app's connection ends", || match extra.load(Ordering::SeqCst) {
            0 => Err("open".to_owned()),
            1 => Ok(()),
            more => panic!("{} bytes of the body reached the app", more - 1),
        });
        assert_eq!(
            gate.get(PAGE, &gate.issuer.token("bob", &[])).status,
            status[..3].parse::<u16>().unwrap()
        );
    }
}

#[test]
fn an_app_that_ignores_the_expectation_gets_the_body_after_a_second() {
    let script = ScriptedServer::start(|_, wire| {
        let body = wire.read_until("abc");
        wire.send(response("200 OK", &body));
    });
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    let started = Instant::now();
    wire.send(head(&gate, "POST", "expect: 100-continue\r\ncontent-length: 3\r\n"));
    assert_eq!(wire.read_until("\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
    let waited = started.elapsed();
    assert!(
        waited > Duration::from_millis(900) && waited < Duration::from_secs(5),
        "{waited:?}"
    );
    wire.send("abc");
    assert_eq!(wire.read_answer("POST").unwrap().text(), "abc");
}

fn circuit(gate: &Gate) -> serde_json::Value {
    gate.status()["upstream"]["circuit"].clone()
}

#[test]
fn the_circuit_opens_after_refused_connections_and_closes_when_the_app_is_back() {
    let place = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let gate = open_portal()
        .config(&format!(
            "upstream: {{ url: 'http://{address}', circuit: {{ failures: 3, pause: 2s }} }}"
        ))
        .start();
    let token = gate.issuer.token("alice", &[]);
    assert_eq!(circuit(&gate)["state"], "closed");
    for _ in 0..3 {
        assert_eq!(gate.get(PAGE, &token).status, 502);
    }
    let status = circuit(&gate);
    assert_eq!(
        (status["state"].as_str(), status["failures"].as_u64()),
        (Some("open"), Some(3)),
        "{status}"
    );
    let last = status["last_error"].as_str().unwrap();
    assert!(last.contains("refused") && !last.contains(&token), "{last}");
    for _ in 0..20 {
        let answer = gate.get(PAGE, &token);
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_unavailable"));
    }
    assert_eq!((failures(&gate, "connect"), failures(&gate, "circuit_open")), (3, 20));
    let script = ScriptedServer::on(TcpListener::bind(address).unwrap(), |_, wire| {
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nback");
    });
    eventually("half open", || match circuit(&gate)["state"].as_str() {
        Some("half_open") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(gate.get(PAGE, &token).status, 200);
    assert_eq!(script.count(), 1);
    let status = circuit(&gate);
    assert_eq!(
        (
            status["state"].as_str(),
            status["failures"].as_u64(),
            status["last_error"].is_null()
        ),
        (Some("closed"), Some(0), true)
    );
}

#[test]
fn equal_upstreams_share_a_circuit_and_others_have_their_own() {
    let dead = refusing_address();
    let (schema, policy) = (crate::support::OPEN_SCHEMA, crate::support::OPEN_POLICY);
    let mut setup = crate::support::Setup::empty();
    for name in ["a", "b", "c"] {
        setup = setup
            .file(&format!("schemas/{name}.cedarschema"), schema)
            .file(&format!("policies/{name}/main.cedar"), policy);
    }
    let own = format!("upstream: {{ url: 'http://{dead}', circuit: {{ failures: 1, pause: 1m }} }}");
    let gate = setup
        .config(&format!("portals: {{ a: {{ {own} }}, b: {{ {own} }}, c: {{}} }}"))
        .start();
    let token = gate.issuer.token("alice", &[]);
    assert_eq!(gate.get("/portal/a/x", &token).status, 502);
    assert_eq!(gate.get("/portal/b/x", &token).status, 502);
    assert_eq!((failures(&gate, "connect"), failures(&gate, "circuit_open")), (1, 1));
    assert_eq!(gate.get("/portal/c/x", &token).status, 200);
    let status = gate.status();
    let shown = |name: &str| {
        let portals = status["portals"].as_array().unwrap();
        portals.iter().find(|p| p["portal"] == name).unwrap()["upstream"].clone()
    };
    assert_eq!(shown("a")["circuit"]["state"], "open", "{status}");
    assert_eq!(shown("b"), shown("a"));
    assert!(shown("c").is_null());
    assert_eq!(status["upstream"]["circuit"]["state"], "closed");
}

#[test]
fn a_get_whose_body_has_no_announced_length_keeps_its_body() {
    let script = ScriptedServer::start(|head, wire| {
        assert!(head.to_ascii_lowercase().contains("transfer-encoding: chunked"), "{head}");
        wire.read_until("0\r\n\r\n");
        wire.send(response("200 OK", b"whole"));
    });
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(head(&gate, "GET", "transfer-encoding: chunked\r\n") + "3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(wire.read_answer("GET").unwrap().text(), "whole");
}

#[test]
fn an_app_that_answers_before_it_reads_gets_the_body() {
    let script = ScriptedServer::start(|_, wire| {
        // the connection ends after the answer: the gate must not use it again
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\n");
        let body = wire.read_until("abc");
        wire.send(body);
    });
    let gate = gate_before(&script, "");
    for expect in ["", "expect: 100-continue\r\n"] {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(head(&gate, "POST", &format!("{expect}content-length: 3\r\n")));
        assert!(wire.read_until("\r\n\r\n").starts_with(b"HTTP/1.1 200"));
        wire.send("abc");
        assert_eq!(wire.read_until("abc"), b"abc", "{expect}");
    }
}

/// More than sockets and buffers on the way hold.
const LARGE: usize = 32 * 1024 * 1024;

#[test]
fn an_upload_goes_on_while_the_client_does_not_read_the_answer_that_has_begun() {
    let script = ScriptedServer::start(|_, wire| {
        let mut answers = wire.stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n");
            answers.write_all(head.as_bytes()).unwrap();
            answers.write_all(&vec![b'a'; LARGE]).unwrap();
        });
        assert_eq!(wire.read_exactly(LARGE).len(), LARGE);
        writing.join().unwrap();
    });
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(head(&gate, "POST", &format!("content-length: {LARGE}\r\n")));
    // the answer has begun; its body is not read before the whole upload was sent
    let answer = wire.read_until("\r\n\r\n");
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert!(wire.send(vec![b'u'; LARGE]), "the upload stopped");
    assert_eq!(wire.read_exactly(LARGE).len(), LARGE);
}
