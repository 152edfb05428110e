//! Ends of client connections: a client that sends no more and waits, a client that is gone, and a client that still
//! sends what the gate refused to read.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::http2_client::{Runtime, request};
use crate::support::{Answer, Gate, PAGE, RawConnection, ScriptedServer, Setup, eventually, open_portal, parse, raw, response};

/// An upload that fits no buffer on its way.
const UPLOAD_BYTES: usize = 2 * 1024 * 1024;
/// Long enough that the gate asks whether the client is still there.
const LONG_WAIT: Duration = Duration::from_millis(2_500);

fn gate_before(script: &ScriptedServer, limits: &str) -> Gate {
    open_portal()
        .config(&format!(
            "upstream: {{ url: '{}' }}\nlimits: {{ workers: 1, drain_timeout: 5s{limits} }}",
            script.url()
        ))
        .start()
}

fn head(gate: &Gate, method: &str, version: &str, rest: &str) -> String {
    let token = gate.issuer.token("alice", &["viewer"]);
    format!("{method} {PAGE} {version}\r\nhost: shop.test\r\nauthorization: Bearer {token}\r\n{rest}\r\n")
}

/// Sends the bytes, closes the sending side, and reads to the end.
fn send_and_shut(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    received
}

#[test]
fn a_client_that_sends_no_more_gets_its_answer() {
    let script = ScriptedServer::start(|head, wire| {
        if head.contains("transfer-encoding") {
            wire.read_until("0\r\n\r\n");
        } else if head.contains("content-length: 3") {
            wire.read_until("abc");
        }
        std::thread::sleep(LONG_WAIT);
        wire.send(response("200 OK", &[b'x'; 300_000]));
    });
    let gate = gate_before(&script, "");
    std::thread::scope(|scope| {
        for (method, version, rest, body) in [
            ("GET", "HTTP/1.1", "", ""),
            ("GET", "HTTP/1.1", "connection: close\r\n", ""),
            ("GET", "HTTP/1.0", "", ""),
            ("POST", "HTTP/1.1", "content-length: 3\r\n", "abc"),
            ("POST", "HTTP/1.1", "transfer-encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
        ] {
            let gate = &gate;
            scope.spawn(move || {
                let bytes = head(gate, method, version, rest) + body;
                let received = send_and_shut(gate.proxy, bytes.as_bytes());
                let answer = parse(&received).unwrap_or_else(|| panic!("{method} {version} {rest}: no answer"));
                assert_eq!(
                    (answer.status, answer.body.len()),
                    (200, 300_000),
                    "{method} {version} {rest}"
                );
            });
        }
    });
    // pipelined requests are all answered
    let both = head(&gate, "GET", "HTTP/1.1", "").repeat(2);
    let received = send_and_shut(gate.proxy, both.as_bytes());
    let text = String::from_utf8_lossy(&received);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2);
}

#[test]
fn the_app_and_a_probe_that_send_no_more_get_their_answers() {
    let gate = open_portal().start();
    let body =
        json!({"portal": "p", "principal": "User::\"alice\"", "action": "GET", "resource": "Path::\"/portal/p/x\""}).to_string();
    let question = format!(
        "POST /authorize HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = parse(&send_and_shut(gate.decision, question.as_bytes())).unwrap();
    assert_eq!((answer.status, answer.json()["decision"].as_str()), (200, Some("allow")));
    let answer = parse(&send_and_shut(gate.admin, b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")).unwrap();
    assert_eq!(answer.status, 200);
}

#[test]
fn a_decision_socket_answers_a_client_that_sends_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decision.sock");
    let gate = open_portal()
        .config(&format!(
            "listen: {{ proxy: {{ address: '127.0.0.1:0' }}, decision: {{ address: 'unix:{}' }}, admin: {{ address: '127.0.0.1:0' }} }}",
            path.display()
        ))
        .start();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream
        .write_all(b"POST /authorize HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    assert_eq!(parse(&received).unwrap().status, 400);
    drop(gate);
}

#[test]
fn an_end_in_a_body_or_a_head_completes_no_request() {
    let gate = open_portal().start();
    let cut_body = head(&gate, "POST", "HTTP/1.1", "content-length: 10\r\n") + "12345";
    let received = send_and_shut(gate.proxy, cut_body.as_bytes());
    assert!(parse(&received).is_none_or(|answer| answer.status == 400));
    let cut_head = head(&gate, "GET", "HTTP/1.1", "");
    send_and_shut(gate.proxy, cut_head.trim_end().as_bytes());
    assert_eq!(gate.app.count(), 0);
}

/// An app that sends `first` and then only waits; counts its connections that ended.
fn waiting_app(first: &'static str) -> (ScriptedServer, Arc<AtomicUsize>) {
    let ended = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&ended);
    let script = ScriptedServer::start(move |_, wire| {
        wire.send(first);
        wire.read_until("never");
        counted.fetch_add(1, Ordering::SeqCst);
    });
    (script, ended)
}

#[test]
fn a_client_that_is_gone_ends_its_request_at_the_app() {
    let streaming = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n";
    for (name, first) in [("before the answer", ""), ("in a silent answer", streaming)] {
        let (script, ended) = waiting_app(first);
        let gate = gate_before(&script, ", half_close_timeout: 1s");
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(head(&gate, "GET", "HTTP/1.1", ""));
        eventually("the app has the request", || match script.count() {
            1 => Ok(()),
            other => Err(other.to_string()),
        });
        if !first.is_empty() {
            wire.read_until("hi");
        }
        // a plain close: a FIN, as for a client that only sends no more
        drop(wire);
        let left = Instant::now();
        eventually(name, || match ended.load(Ordering::SeqCst) {
            1 => Ok(()),
            other => Err(other.to_string()),
        });
        assert!(left.elapsed() < Duration::from_secs(5), "{name}: {:?}", left.elapsed());
    }
}

#[test]
fn a_long_answer_reaches_a_slow_client_that_sends_no_more() {
    let script = ScriptedServer::start(|_, wire| {
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n");
        for _ in 0..6 {
            std::thread::sleep(Duration::from_millis(500));
            wire.send("2\r\nhi\r\n");
        }
        wire.send("0\r\n\r\n");
    });
    let gate = gate_before(&script, ", half_close_timeout: 1500ms");
    let received = send_and_shut(gate.proxy, head(&gate, "GET", "HTTP/1.1", "").as_bytes());
    assert_eq!(parse(&received).unwrap().text(), "hi".repeat(6));
}

/// Sends everything before it reads anything, as many clients do.
fn upload(address: SocketAddr, head: &str, body_bytes: usize) -> Result<Answer, String> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    stream.write_all(head.as_bytes()).map_err(|error| format!("head: {error}"))?;
    stream
        .write_all(&vec![b'x'; body_bytes])
        .map_err(|error| format!("body: {error}"))?;
    let mut received = Vec::new();
    stream
        .read_to_end(&mut received)
        .map_err(|error| format!("answer: {error}"))?;
    parse(&received).ok_or("no answer".to_owned())
}

fn announced(rest: &str) -> String {
    format!("POST {PAGE} HTTP/1.1\r\nhost: shop.test\r\n{rest}content-length: {UPLOAD_BYTES}\r\n\r\n")
}

#[test]
fn a_client_that_uploads_before_it_reads_gets_the_refusal() {
    let schema = crate::support::OPEN_SCHEMA;
    let gate = Setup::portal(
        schema,
        "@id(\"nobody\") permit (principal in Role::\"admin\", action, resource);",
    )
    .config("limits: { workers: 2, body_bytes: 1MiB, rate_per_principal: { requests: 10, per: 1h } }")
    .start();
    let bearer = |user: &str| {
        let token = gate.issuer.token(user, &["viewer"]);
        format!("authorization: Bearer {token}\r\n")
    };
    let admin = format!("authorization: Bearer {}\r\n", gate.issuer.token("root", &["admin"]));
    let limited = bearer("limited");
    for _ in 0..10 {
        let head = format!("GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n{limited}\r\n");
        assert_eq!(upload(gate.proxy, &head, 0).unwrap().status, 403);
    }
    let smuggled = format!("{}transfer-encoding: chunked\r\n", bearer("alice"));
    let large = format!("{}x-large: {}\r\n", bearer("alice"), "y".repeat(64 * 1024));
    let chunked =
        format!("POST {PAGE} HTTP/1.1\r\nhost: shop.test\r\n{admin}transfer-encoding: chunked\r\n\r\n{UPLOAD_BYTES:x}\r\n");
    let elsewhere = announced(&bearer("alice")).replace(PAGE, "/elsewhere");
    for (status, head) in [
        (401, announced("")),
        (401, announced("authorization: Bearer no.such.token\r\n")),
        (403, announced(&bearer("alice"))),
        (404, elsewhere),
        (413, announced(&admin)),
        (413, chunked),
        (429, announced(&limited)),
        (400, announced(&smuggled)),
        (431, announced(&large)),
        (401, announced("connection: upgrade\r\nupgrade: websocket\r\n")),
        (
            400,
            announced("")
                .replace(PAGE, "/portal/p/../page")
                .replace("\r\n\r\n", "\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"),
        ),
        (
            400,
            "CONNECT shop.test:443 HTTP/1.1\r\nhost: shop.test:443\r\n\r\n".to_owned(),
        ),
    ] {
        for attempt in 0..3 {
            let answer = upload(gate.proxy, &head, UPLOAD_BYTES);
            let answer = answer.unwrap_or_else(|error| panic!("{status}, attempt {attempt}: {error}"));
            assert_eq!(answer.status, status, "{}", answer.text());
        }
    }
    assert_eq!(gate.app.count(), 0);
}

#[test]
fn an_overloaded_gate_and_the_decision_listener_answer_uploads_too() {
    let (script, _ended) = waiting_app("");
    let gate = gate_before(&script, ", requests: 1, decision_body_bytes: 1KiB");
    let mut held = RawConnection::open(gate.proxy);
    held.send(head(&gate, "GET", "HTTP/1.1", ""));
    eventually("the app has the request", || match script.count() {
        1 => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(upload(gate.proxy, &announced(""), UPLOAD_BYTES).unwrap().status, 503);
    let question = format!("POST /authorize HTTP/1.1\r\nhost: x\r\ncontent-length: {UPLOAD_BYTES}\r\n\r\n");
    assert_eq!(upload(gate.decision, &question, UPLOAD_BYTES).unwrap().status, 413);
}

#[test]
fn a_connection_over_the_limit_is_answered_although_it_uploads() {
    let gate = open_portal().config("limits: { workers: 1, connections: 1 }").start();
    let mut held = RawConnection::open(gate.proxy);
    held.send(head(&gate, "GET", "HTTP/1.1", ""));
    assert_eq!(held.read_answer("GET").unwrap().status, 200);
    assert_eq!(upload(gate.proxy, &announced(""), UPLOAD_BYTES).unwrap().status, 503);
}

/// The number of open client connections.
fn connections(gate: &Gate) -> usize {
    let metrics = gate.metrics();
    let line = metrics.lines().find_map(|line| line.strip_prefix("cedargate_connections "));
    line.unwrap().parse().unwrap()
}

#[test]
fn a_lingering_connection_ends_by_time_or_by_bytes_and_keeps_its_slot_until_then() {
    let gate = open_portal()
        .config("limits: { workers: 1, linger_timeout: 2s, linger_bytes: 1MiB }")
        .start();
    let mut silent = TcpStream::connect(gate.proxy).unwrap();
    silent.write_all(announced("").as_bytes()).unwrap();
    let mut head = vec![0; 4096];
    let length = silent.read(&mut head).unwrap();
    assert!(String::from_utf8_lossy(&head[..length]).starts_with("HTTP/1.1 401"));
    let refused = Instant::now();
    assert_eq!(connections(&gate), 1, "it counts while it lingers");
    eventually("the time is over", || match connections(&gate) {
        0 => Ok(()),
        other => Err(other.to_string()),
    });
    assert!(refused.elapsed() > Duration::from_millis(1_500), "{:?}", refused.elapsed());
    // more bytes than the gate drops: the socket closes long before the time is over
    let started = Instant::now();
    let mut flood = TcpStream::connect(gate.proxy).unwrap();
    flood.write_all(announced("").as_bytes()).unwrap();
    let mut sent = 0;
    while flood.write_all(&[b'x'; 64 * 1024]).is_ok() {
        sent += 64 * 1024;
        assert!(sent < 64 * 1024 * 1024, "the gate reads without end");
    }
    assert!(started.elapsed() < Duration::from_millis(1_500), "{:?}", started.elapsed());
}

#[test]
fn an_ordinary_end_does_not_linger() {
    let gate = open_portal().start();
    let token = gate.issuer.token("alice", &["viewer"]);
    let open: Mutex<Vec<TcpStream>> = Mutex::default();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(gate.proxy).unwrap();
        let head =
            format!("GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        // the client does not close
        open.lock().unwrap().push(stream);
    }
    eventually("the slots are free", || match connections(&gate) {
        0 => Ok(()),
        other => Err(other.to_string()),
    });
    drop(open);
    assert_eq!(raw(gate.admin, "GET", "/livez", &[], b"").status, 200);
}

#[test]
fn over_http2_a_refusal_comes_before_the_upload_ends_and_its_stream_is_reset_without_an_error() {
    let gate = open_portal().start();
    let runtime = Runtime::start();
    runtime.block_on({
        let (proxy, refused, allowed) = (gate.proxy, refused_upload(), request(&gate, "GET", PAGE));
        async move {
            let stream = tokio::net::TcpStream::connect(proxy).await.unwrap();
            let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let (answer, mut body) = send.send_request(refused, false).unwrap();
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 401);
            // the client goes on sending until it reads the reset
            let reset = loop {
                body.reserve_capacity(16 * 1024);
                match futures_util::future::poll_fn(|cx| body.poll_capacity(cx)).await {
                    Some(Ok(capacity)) => drop(body.send_data(vec![b'x'; capacity].into(), false)),
                    _ended => break futures_util::future::poll_fn(|cx| body.poll_reset(cx)).await.unwrap(),
                }
            };
            assert_eq!(reset, h2::Reason::NO_ERROR);
            let (answer, _body) = send.send_request(allowed, true).unwrap();
            assert_eq!(answer.await.unwrap().status(), 200);
        }
    });
}

fn refused_upload() -> http::Request<()> {
    http::Request::post(format!("http://shop.test{PAGE}")).body(()).unwrap()
}

#[test]
fn an_answer_that_leaves_a_body_unread_says_that_the_connection_ends() {
    let gate = open_portal().config("limits: { workers: 1, drain_timeout: 5s }").start();
    // the gate refuses a request without a credential before it reads the body
    let post = |rest: &str| format!("POST {PAGE} HTTP/1.1\r\nhost: shop.test\r\n{rest}");
    for (sent, ends) in [
        // the body comes later, as many clients send it
        (post("content-length: 5\r\n\r\n"), true),
        (post("content-length: 5\r\n\r\nab"), true),
        (post("content-length: 5\r\nexpect: 100-continue\r\n\r\n"), true),
        (post("transfer-encoding: chunked\r\n\r\n"), true),
        (post("transfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"), true),
        (post("content-length: 5\r\n\r\nabcde"), false),
        (post("content-length: 0\r\n\r\n"), false),
        (post("\r\n"), false),
    ] {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(&sent);
        let answer = wire.read_answer("POST").unwrap();
        assert_eq!(answer.status, 401, "{sent}");
        let said = if ends { "close" } else { "" };
        assert_eq!(answer.header("connection"), said, "{sent}: {answer:?}");
        if ends {
            assert!(wire.read_answer("POST").is_none(), "{sent}: the connection goes on");
        } else {
            wire.send(head(&gate, "GET", "HTTP/1.1", ""));
            assert_eq!(wire.read_answer("GET").unwrap().status, 200, "{sent}");
        }
    }
}

#[test]
fn an_app_that_answers_before_the_upload_ends_still_gets_the_upload() {
    let uploads = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&uploads);
    let script = ScriptedServer::start(move |_, wire| {
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes");
        noted.lock().unwrap().push(wire.read_exactly(6));
    });
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(head(&gate, "POST", "HTTP/1.1", "content-length: 6\r\n") + "abc");
    let answer = wire.read_answer("POST").unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, ""));
    wire.send("def");
    eventually("the app has the whole upload", || match uploads.lock().unwrap().first() {
        Some(body) if body == b"abcdef" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
