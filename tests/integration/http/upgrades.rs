//! WebSockets and other upgrades: when a tunnel begins, what flows through it, and how it ends.
//!
//! Raw bytes where it is about who may say what when; an independent WebSocket library on both ends where it is about
//! working.

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::{Gate, PAGE, RawConnection, ScriptedServer, eventually, open_portal, response};

const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: Echo/1\r\nx-app: yes\r\n\r\n";

fn gate_before(script: &ScriptedServer, more: &str) -> Gate {
    open_portal()
        .config(&format!("upstream: {{ url: '{}' }}\n{more}", script.url()))
        .start()
}

fn ask(gate: &Gate, rest: &str) -> String {
    let token = gate.issuer.token("alice", &["viewer"]);
    format!("GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\nauthorization: Bearer {token}\r\n{rest}\r\n")
}

const ASKED: &str = "connection: x-own, Upgrade\r\nupgrade: echo/1\r\nx-own: 1\r\n";

/// An app that accepts the upgrade and echoes every byte.
fn echo() -> ScriptedServer {
    ScriptedServer::start(|_, wire| {
        wire.send(AGREED);
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = wire.stream.read(&mut buffer) {
            wire.send(&buffer[..length]);
        }
        drop(wire.stream.shutdown(Shutdown::Write));
    })
}

fn open(gate: &Gate) -> RawConnection {
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(ask(gate, ASKED));
    let head = String::from_utf8_lossy(&wire.read_until("\r\n\r\n")).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    wire
}

#[test]
fn a_tunnel_carries_bytes_both_ways_and_a_half_close() {
    let script = echo();
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(ask(&gate, ASKED));
    let head = String::from_utf8_lossy(&wire.read_until("\r\n\r\n")).to_ascii_lowercase();
    for line in ["connection: upgrade", "upgrade: echo/1", "x-app: yes"] {
        assert_eq!(head.lines().filter(|l| *l == line).count(), 1, "{line}: {head}");
    }
    assert!(
        !head.contains("transfer-encoding") && !head.contains("content-length"),
        "{head}"
    );
    let asked = script.heads.lock().unwrap()[0].to_ascii_lowercase();
    assert!(
        asked.contains("\r\nconnection: upgrade\r\n") && asked.contains("\r\nupgrade: echo/1\r\n"),
        "{asked}"
    );
    assert!(!asked.contains("x-own") && !asked.contains("bearer"), "{asked}");
    assert_eq!(asked.matches("x-forwarded-user: alice").count(), 1, "{asked}");
    for text in ["one", "\0\r\n\r\nGET / HTTP/1.1\r\n\r\n"] {
        wire.send(text);
        assert_eq!(wire.read_until(text), text.as_bytes());
    }
    wire.send("last");
    wire.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(wire.read_until("last"), b"last");
    assert!(wire.is_closed());
}

#[test]
fn a_tunnel_holds_back_the_faster_side() {
    let piece = vec![b'x'; 64 * 1024];
    let eager = ScriptedServer::start(|_, wire| {
        wire.send(AGREED);
        let mut buffer = [0; 64 * 1024];
        while let Ok(1..) = wire.stream.read(&mut buffer) {}
    });
    let gate = gate_before(&eager, "");
    let mut wire = open(&gate);
    wire.stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!((0..4096).all(|_| wire.send(&piece)), "an app that reads is kept waiting");
    let stubborn = ScriptedServer::start(|_, wire| {
        wire.send(AGREED);
        std::thread::park_timeout(Duration::from_secs(20));
    });
    let gate = gate_before(&stubborn, "");
    let mut wire = open(&gate);
    wire.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let stalled = (0..4096).any(|_| !wire.send(&piece));
    assert!(stalled, "256 MiB went to an app that does not read");
}

#[test]
fn bytes_before_the_apps_101_wait_and_after_a_refusal_are_the_next_request() {
    let (answer, app_head) = channel::<&'static str>();
    let app_head = std::sync::Mutex::new(app_head);
    let script = ScriptedServer::start(move |_, wire| {
        wire.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut early = [0; 64];
        let early_length = wire.stream.read(&mut early).unwrap_or(0);
        wire.send(app_head.lock().unwrap().recv().unwrap());
        assert_eq!(early_length, 0, "the app heard {:?} before it agreed", &early[..early_length]);
        wire.stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let heard = wire.read_until("early");
        wire.send(heard);
    });
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(ask(&gate, ASKED) + "early");
    answer.send(AGREED).unwrap();
    wire.read_until("\r\n\r\n");
    assert_eq!(wire.read_until("early"), b"early");

    let mut wire = RawConnection::open(gate.proxy);
    wire.send(ask(&gate, ASKED) + "GET /portal/p/second HTTP/1.1\r\nhost: shop.test\r\n\r\n");
    answer.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").unwrap();
    assert_eq!(wire.read_answer("GET").unwrap().text(), "no");
    assert_eq!(wire.read_answer("GET").unwrap().status, 401, "it is decided on its own");
    assert!(script.heads.lock().unwrap().iter().all(|head| !head.contains("second")));
}

#[test]
fn an_app_that_agrees_to_something_else_is_502() {
    for agreed in [
        "upgrade: other",
        "upgrade: echo/1, other",
        "upgrade: echo/1\r\nupgrade: h2c",
        "x: y",
        "upgrade: echo",
    ] {
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n{agreed}\r\n\r\nsecret");
        let script = ScriptedServer::start(move |_, wire| {
            wire.send(&answer);
            wire.read_until("never");
        });
        let gate = gate_before(&script, "");
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(ask(&gate, ASKED));
        let answer = wire.read_answer("GET").unwrap_or_else(|| panic!("{agreed}"));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (502, "upstream_unavailable"),
            "{agreed}"
        );
    }
}

#[test]
fn an_upgrade_with_a_body_is_400_and_does_not_reach_the_app() {
    let script = echo();
    let gate = gate_before(&script, "");
    for framing in ["content-length: 3\r\n", "transfer-encoding: chunked\r\n"] {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(ask(&gate, &format!("{ASKED}{framing}")) + "3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(wire.read_answer("GET").unwrap().status, 400, "{framing}");
    }
    assert_eq!(script.count(), 0);
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(ask(&gate, &format!("{ASKED}content-length: 0\r\n")));
    assert!(wire.read_until("\r\n\r\n").starts_with(b"HTTP/1.1 101"));
}

#[test]
fn an_upgrade_of_no_or_several_protocols_is_an_ordinary_request() {
    let script = ScriptedServer::start(|_, wire| {
        wire.send(response("200 OK", b"plain"));
    });
    let gate = gate_before(&script, "");
    for lines in [
        "connection: upgrade\r\nupgrade: h2c\r\n",
        "connection: upgrade\r\nupgrade: TLS/1.0\r\n",
        "connection: upgrade\r\nupgrade: HTTP/2.0\r\n",
        "connection: upgrade\r\nupgrade: websocket, h2c\r\n",
        "connection: keep-alive\r\nupgrade: websocket\r\n",
        "upgrade: websocket\r\n",
    ] {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(ask(&gate, lines));
        assert_eq!(wire.read_answer("GET").unwrap().text(), "plain", "{lines}");
    }
    for head in script.heads.lock().unwrap().iter() {
        let head = head.to_ascii_lowercase();
        assert!(!head.contains("upgrade") && !head.contains("connection"), "{head}");
    }
}

#[test]
fn a_denied_caller_opens_no_tunnel() {
    let script = echo();
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(format!("GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\n{ASKED}\r\n"));
    assert_eq!(wire.read_answer("GET").unwrap().status, 401);
    assert_eq!(script.count(), 0);
}

#[test]
fn a_silent_tunnel_ends_and_one_that_talks_does_not() {
    let gate = gate_before(&echo(), "limits: { workers: 1, drain_timeout: 5s, tunnel_idle_timeout: 1s }");
    let mut wire = open(&gate);
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(2500) {
        wire.send("tick");
        assert_eq!(wire.read_until("tick"), b"tick", "ended after {:?}", started.elapsed());
        std::thread::sleep(Duration::from_millis(200));
    }
    let silent = Instant::now();
    assert!(wire.is_closed());
    assert!(silent.elapsed() < Duration::from_secs(5), "{:?}", silent.elapsed());
}

#[test]
fn a_tunnel_counts_against_the_connection_limit() {
    let gate = gate_before(&echo(), "limits: { workers: 1, drain_timeout: 5s, connections: 1 }");
    let mut wire = open(&gate);
    let mut second = RawConnection::open(gate.proxy);
    second.send(format!("GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\n\r\n"));
    assert!(
        second.read_answer("GET").is_none_or(|answer| answer.status == 503),
        "a second connection was served"
    );
    wire.send("still here");
    assert_eq!(wire.read_until("here"), b"still here");
    drop(wire);
    eventually("the place is free", || {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(format!("GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\n\r\n"));
        let served = wire.read_answer("GET").is_some_and(|answer| answer.status == 401);
        served.then_some(()).ok_or("taken".to_owned())
    });
}

#[test]
fn draining_waits_for_a_tunnel_and_force_ends_it() {
    let gate = gate_before(&echo(), "limits: { workers: 1, drain_timeout: 20s }");
    let mut wire = open(&gate);
    let address = gate.proxy;
    let stopping = std::thread::spawn(move || gate.stop());
    eventually("the listener is gone", || match TcpStream::connect(address) {
        Err(_) => Ok(()),
        Ok(_) => Err("open".to_owned()),
    });
    wire.send("still here");
    assert_eq!(wire.read_until("here"), b"still here");
    assert!(!stopping.is_finished());
    drop(wire);
    stopping.join().unwrap();

    let gate = gate_before(&echo(), "limits: { workers: 1, drain_timeout: 300ms }");
    let mut wire = open(&gate);
    let started = Instant::now();
    gate.stop();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(wire.is_closed());
}

#[test]
fn a_websocket_library_on_both_ends_talks_through_the_gate() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                    while let Some(Ok(message)) = socket.next().await {
                        if message.is_close() {
                            break;
                        }
                        socket.send(message).await.unwrap();
                    }
                });
            }
        });
        let gate = open_portal().config(&format!("upstream: {{ url: 'http://{app}' }}")).start();
        let mut request = format!("ws://{}{PAGE}", gate.proxy).into_client_request().unwrap();
        let bearer = format!("Bearer {}", gate.issuer.token("alice", &[]));
        request.headers_mut().insert("authorization", bearer.parse().unwrap());
        let stream = tokio::net::TcpStream::connect(gate.proxy).await.unwrap();
        let (mut socket, answer) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        assert_eq!(answer.status(), 101);
        for size in [1, 1000, 1 << 20] {
            let message = tokio_tungstenite::tungstenite::Message::binary(vec![7_u8; size]);
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message);
        }
        socket.close(None).await.unwrap();
        drop(socket);
        tokio::task::spawn_blocking(move || gate.stop()).await.unwrap();
    });
}
