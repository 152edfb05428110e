//! HTTP/2 from clients: prior knowledge, streams, limits, and leaving; over TLS in `tls`.
//!
//! The client is the `h2` library where streams matter, and raw frames where rules are broken.

use std::io::Write;
use std::time::{Duration, Instant};

use http::Request;

use crate::support::http2_client::{Client, PREFACE, ask, request};
use crate::support::{Gate, PAGE, RawConnection, ScriptedServer, Setup, eventually, open_portal};

/// An empty SETTINGS frame, and its acknowledgement.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
const GOAWAY: u8 = 7;

fn rejected(gate: &Gate, reason: &str) -> u64 {
    let line = format!("cedargate_http_rejected_total{{reason=\"{reason}\"}} ");
    let metrics = gate.metrics();
    let found = metrics.lines().find_map(|l| l.strip_prefix(&line)).map(str::to_owned);
    found.map_or(0, |n| n.parse().unwrap())
}

fn rejected_once(gate: &Gate, reason: &str) {
    eventually("it is counted", || match rejected(gate, reason) {
        1 => Ok(()),
        other => Err(format!("{reason}: {other}")),
    });
}

/// Frames until the end of the connection: kind and payload.
fn frames(wire: &mut RawConnection) -> Vec<(u8, Vec<u8>)> {
    use std::io::Read;
    let mut bytes = Vec::new();
    drop(wire.stream.read_to_end(&mut bytes));
    let (mut rest, mut all) = (&bytes[..], Vec::new());
    while rest.len() >= 9 {
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        let payload = rest[9..].iter().copied().take(length).collect();
        all.push((rest[3], payload));
        rest = &rest[(9 + length).min(rest.len())..];
    }
    all
}

#[test]
fn requests_with_and_without_a_body_reach_the_app_with_their_caller() {
    let gate = open_portal().start();
    let client = Client::open(gate.proxy);
    let got = client.get(&gate, PAGE).unwrap();
    assert_eq!((got.status, &*got.body), (200, &b"{\"app\":\"recording\"}"[..]));
    let posted = client.ask(request(&gate, "POST", PAGE), &[7; 200_000]).unwrap();
    assert_eq!(posted.status, 200, "{posted:?}");
    let seen = gate.app.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].headers["x-forwarded-user"], "alice");
    assert_eq!(seen[0].headers["x-forwarded-proto"], "http");
    assert_eq!(seen[1].body.len(), 200_000);
    let refused = Request::get(format!("http://shop.test{PAGE}")).body(()).unwrap();
    let refused = client.ask(refused, b"").unwrap();
    assert_eq!(refused.status, 401);
    assert_eq!(gate.app.count(), 2);
}

#[test]
fn http1_is_served_on_the_same_port_even_if_it_begins_like_http2() {
    let gate = open_portal().start();
    for (first, rest) in [
        ("P", "OST /portal/p/page HTTP/1.1\r\n"),
        ("PR", "I * HTTP/1.1\r\n"),
        ("G", "ET / HTTP/1.1\r\n"),
    ] {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(first);
        wire.send(format!("{rest}host: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"));
        let answer = wire.read_answer("GET").unwrap();
        assert!(matches!(answer.status, 400..500), "{answer:?}");
    }
    let mut slow = RawConnection::open(gate.proxy);
    for piece in PREFACE.chunks(5) {
        assert!(slow.send(piece));
    }
    slow.send(SETTINGS);
    slow.send([0, 0, 0, 99, 0, 0, 0, 0, 0]);
    slow.send([0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    slow.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let frames = frames(&mut slow);
    assert_eq!(frames[0].0, 4, "no SETTINGS came: {frames:?}");
}

#[test]
fn streams_are_answered_side_by_side_up_to_the_limit() {
    let gate = open_portal().config("limits: { workers: 1, streams: 5 }").start();
    let client = Client::open(gate.proxy);
    assert_eq!(client.get(&gate, PAGE).unwrap().status, 200);
    assert_eq!(client.send.current_max_send_streams(), 5);
    let statuses = client.runtime.block_on(async {
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..40 {
            asking.spawn(ask(client.send.clone(), request(&gate, "GET", PAGE), Vec::new()));
        }
        asking.join_all().await
    });
    assert!(statuses.iter().all(|answer| answer.as_ref().unwrap().status == 200));
    assert_eq!(gate.app.count(), 41);
}

#[test]
fn an_http2_answer_streams_without_headers_of_http1() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let script = ScriptedServer::start(move |_, wire| {
        wire.send("HTTP/1.1 200 OK\r\nx-app: yes\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\nkeep-alive: timeout=5\r\n\r\n3\r\none\r\n");
        wait.lock().unwrap().recv().unwrap();
        wire.send("3\r\ntwo\r\n0\r\n\r\n");
    });
    let gate = open_portal()
        .config(&format!("upstream: {{ url: '{}' }}", script.url()))
        .start();
    let client = Client::open(gate.proxy);
    client.runtime.block_on(async {
        let mut send = client.send.clone().ready().await.unwrap();
        let (answer, _) = send.send_request(request(&gate, "GET", PAGE), true).unwrap();
        let (head, mut body) = answer.await.unwrap().into_parts();
        for name in ["connection", "keep-alive", "transfer-encoding"] {
            assert!(!head.headers.contains_key(name), "{head:?}");
        }
        assert_eq!(body.data().await.unwrap().unwrap(), "one");
        go.send(()).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "two");
        let rest = body.data().await;
        assert!(rest.is_none_or(|rest| rest.unwrap().is_empty()), "there is more");
    });
}

#[test]
fn a_head_over_the_limit_is_refused_and_the_connection_lives_on() {
    let gate = open_portal().config("limits: { workers: 1, header_bytes: 8KiB }").start();
    let client = Client::open(gate.proxy);
    let mut large = request(&gate, "GET", PAGE);
    for n in 0..20 {
        let name: http::HeaderName = format!("x-large-{n}").parse().unwrap();
        large.headers_mut().insert(name, "y".repeat(1000).parse().unwrap());
    }
    let refused = client.ask(large, b"");
    assert!(
        refused.as_ref().is_err() || refused.as_ref().unwrap().status == 431,
        "{refused:?}"
    );
    assert_eq!(gate.app.count(), 0);
    assert_eq!(client.get(&gate, PAGE).unwrap().status, 200);
}

#[test]
fn an_unfinished_http2_preface_is_closed() {
    let gate = open_portal().config("limits: { workers: 1, header_timeout: 300ms }").start();
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(&PREFACE[..20]);
    assert!(wire.is_closed());
    rejected_once(&gate, "header_timeout");
}

#[test]
fn bytes_that_are_not_http2_end_the_connection_and_are_counted() {
    let gate = open_portal().start();
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(PREFACE);
    wire.send(SETTINGS);
    // DATA on the connection itself
    wire.send([0, 0, 1, 0, 0, 0, 0, 0, 0, 42]);
    let frames = frames(&mut wire);
    assert!(frames.iter().any(|(kind, _)| *kind == GOAWAY), "{frames:?}");
    rejected_once(&gate, "http2_protocol_error");
    eventually("there is a record", || {
        let log = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap_or_default();
        let found = log
            .lines()
            .any(|l| l.contains("http_rejected") && l.contains("http2_protocol_error"));
        found.then_some(()).ok_or(log)
    });
    assert_eq!(gate.app.count(), 0);
}

#[test]
fn a_client_that_goes_away_in_the_middle_is_no_protocol_error() {
    let gate = open_portal().start();
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(PREFACE);
    wire.send(SETTINGS);
    wire.send([0, 0, 9]);
    drop(wire);
    let metric = |name: &str| gate.metrics().lines().any(|l| l == name);
    eventually("the connection ended", || {
        metric("cedargate_connections 0").then_some(()).ok_or(gate.metrics())
    });
    assert_eq!(rejected(&gate, "http2_protocol_error"), 0);
}

#[test]
fn a_connection_without_streams_is_told_to_leave_and_one_with_is_not() {
    let script = ScriptedServer::start(|_, wire| {
        wire.send("HTTP/1.1 200 OK\r\nx-app: yes\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n");
        // longer than the client's idle timeout
        std::thread::sleep(Duration::from_millis(1500));
        wire.send("3\r\ntwo\r\n0\r\n\r\n");
    });
    let gate = open_portal()
        .config(&format!(
            "upstream: {{ url: '{}' }}\nlimits: {{ workers: 1, idle_timeout: 500ms }}",
            script.url()
        ))
        .start();
    let mut client = Client::open(gate.proxy);
    let answer = client.get(&gate, PAGE).unwrap();
    assert_eq!((answer.status, &*answer.body), (200, &b"onetwo"[..]));
    assert!(client.ends(), "an idle connection was kept");
    // pings are no streams
    let mut wire = RawConnection::open(gate.proxy);
    wire.send([PREFACE, &SETTINGS, &SETTINGS_ACK].concat());
    let started = Instant::now();
    let mut pinging = wire.stream.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        while pinging
            .write_all(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
            .is_ok()
        {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let frames = frames(&mut wire);
    assert!(frames.iter().any(|(kind, _)| *kind == GOAWAY), "{frames:?}");
    assert!(started.elapsed() < Duration::from_secs(9));
    thread.join().unwrap();
}

#[test]
fn draining_says_goaway_and_lets_streams_finish() {
    let (begun, started) = std::sync::mpsc::channel::<()>();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (begun, wait) = (std::sync::Mutex::new(begun), std::sync::Mutex::new(wait));
    let script = ScriptedServer::start(move |_, wire| {
        begun.lock().unwrap().send(()).unwrap();
        wait.lock().unwrap().recv().unwrap();
        wire.send("HTTP/1.1 200 OK\r\nx-app: yes\r\ncontent-length: 2\r\n\r\nok");
    });
    let gate = open_portal()
        .config(&format!(
            "upstream: {{ url: '{}' }}\nlimits: {{ drain_delay: 3s, workers: 1, drain_timeout: 10s }}",
            script.url()
        ))
        .start();
    let mut client = Client::open(gate.proxy);
    let asking = client
        .runtime
        .spawn(ask(client.send.clone(), request(&gate, "GET", PAGE), Vec::new()));
    started.recv().unwrap();
    let late = request(&gate, "GET", PAGE);
    let proxy = gate.proxy;
    let stopping = std::thread::spawn(move || gate.stop());
    let mut send = client.send.clone();
    eventually("the client is told", || {
        let ready = client
            .runtime
            .block_on(async { std::future::poll_fn(|cx| send.poll_ready(cx)).await });
        ready.map_or(Ok(()), |()| Err("new streams may still be opened".to_owned()))
    });
    // until balancers notice the drain, new clients are served as before
    let newcomer = Client::open(proxy);
    let serving = newcomer.runtime.spawn(ask(newcomer.send.clone(), late, Vec::new()));
    started.recv().unwrap();
    go.send(()).unwrap();
    go.send(()).unwrap();
    for asked in [asking, serving] {
        let answer = client.runtime.block_on(asked).unwrap().unwrap();
        assert_eq!((answer.status, &*answer.body), (200, &b"ok"[..]));
        assert!(!answer.headers.contains_key("connection"), "{answer:?}");
    }
    assert!(client.ends());
    stopping.join().unwrap();
}

#[test]
fn streams_that_outlive_the_drain_are_ended() {
    let (begun, started) = std::sync::mpsc::channel::<()>();
    let begun = std::sync::Mutex::new(begun);
    let script = ScriptedServer::start(move |_, wire| {
        begun.lock().unwrap().send(()).unwrap();
        // until the gate hangs up
        wire.is_closed();
    });
    let gate = open_portal()
        .config(&format!(
            "upstream: {{ url: '{}' }}\nlimits: {{ drain_delay: 0s, workers: 1, drain_timeout: 300ms }}",
            script.url()
        ))
        .start();
    let client = Client::open(gate.proxy);
    let asking = client
        .runtime
        .spawn(ask(client.send.clone(), request(&gate, "GET", PAGE), Vec::new()));
    started.recv().unwrap();
    let began = Instant::now();
    gate.stop();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(client.runtime.block_on(asking).unwrap().is_err());
}

#[test]
fn the_admin_and_decision_listeners_serve_http2_too() {
    let gate = Setup::examples().start();
    let admin = Client::open(gate.admin);
    let health = Request::get("http://admin.test/healthz").body(()).unwrap();
    assert_eq!(admin.ask(health, b"").unwrap().status, 200);
    let decision = Client::open(gate.decision);
    let question = Request::post("http://gate.test/authorize")
        .header("content-type", "application/json")
        .body(())
        .unwrap();
    let answer = decision.ask(question, b"{}").unwrap();
    assert_eq!(answer.status, 400, "{answer:?}");
}
