//! Kept-alive connections to the app that end just as a request arrives: which requests go once more, and which never.
//!
//! The app answers the first request of a connection and keeps it open. Its script says what it does with the second
//! one.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};

use crate::support::{Answer, Gate, PAGE, RawConnection, ScriptedServer, eventually, open_portal};

/// The requests that the app saw, with the number of their connection, as `0 GET /portal/p/x`.
type Seen = Arc<Mutex<Vec<String>>>;

/// A busy machine may be this late.
const LATE: Duration = Duration::from_secs(5);
const KEPT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-app: yes\r\n\r\nok";

fn gate_before(url: &str, more: &str) -> Gate {
    // one worker, so that one pool of connections
    open_portal()
        .config(&format!(
            "upstream: {{ url: '{url}'{more} }}\nlimits: {{ workers: 1, drain_timeout: 5s }}"
        ))
        .start()
}

/// The connections on which the app ends a request.
#[derive(Clone, Copy, PartialEq)]
enum Lost {
    /// The first one, at its second request.
    Kept,
    /// The first one, at its second request, and every later one.
    KeptAndFresh,
}

/// An app over HTTP/1.1 that plays `end` where it ends a request.
fn app(end: impl Fn(&mut RawConnection) + Send + Sync + 'static, lost: Lost) -> (ScriptedServer, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let connections = Arc::new(Mutex::new(0));
    let script = ScriptedServer::start(move |head, wire| {
        let number = {
            let mut connections = connections.lock().unwrap();
            *connections += 1;
            *connections - 1
        };
        let mut head = head.to_owned();
        let mut requests = 0;
        while !head.is_empty() {
            let line: Vec<&str> = head.split(' ').take(2).collect();
            noted.lock().unwrap().push(format!("{number} {}", line.join(" ")));
            if (number == 0 && requests == 1) || (number > 0 && lost == Lost::KeptAndFresh) {
                return end(wire);
            }
            requests += 1;
            let is_head = head.starts_with("HEAD ");
            wire.send(if is_head { KEPT.trim_end_matches("ok") } else { KEPT });
            head = String::from_utf8_lossy(&wire.read_until("\r\n\r\n")).into_owned();
        }
    });
    (script, seen)
}

fn ask(gate: &Gate, wire: &mut RawConnection, method: &str, rest: &str) -> Answer {
    let token = gate.issuer.token("alice", &["viewer"]);
    wire.send(format!(
        "{method} {PAGE} HTTP/1.1\r\nhost: shop.test\r\nauthorization: Bearer {token}\r\n{rest}"
    ));
    wire.read_answer(method).unwrap_or_else(|| panic!("{method}: no answer"))
}

/// Makes one connection to the app that is kept, then asks with `method`.
fn ask_over_a_kept_connection(gate: &Gate, method: &str, rest: &str) -> Answer {
    let mut wire = RawConnection::open(gate.proxy);
    assert_eq!(ask(gate, &mut wire, "GET", "\r\n").status, 200);
    ask(gate, &mut wire, method, rest)
}

fn asked(seen: &Seen, method: &str) -> Vec<String> {
    let line = format!("{method} {PAGE}");
    let seen = seen.lock().unwrap();
    seen.iter().skip(1).filter(|seen| seen.ends_with(&line)).cloned().collect()
}

#[test]
fn an_idempotent_request_without_a_body_goes_once_more_on_a_fresh_connection() {
    type End = fn(&mut RawConnection);
    let ends: [(&str, End); 2] = [
        ("closed", |_| {}),
        ("reset", |wire| {
            socket2::SockRef::from(&wire.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }),
    ];
    for (name, end) in ends {
        for method in ["GET", "HEAD", "OPTIONS", "DELETE", "PUT"] {
            let (script, seen) = app(end, Lost::Kept);
            let gate = gate_before(&script.url(), "");
            let answer = ask_over_a_kept_connection(&gate, method, "\r\n");
            assert_eq!(answer.status, 200, "{name} {method}: {}", answer.text());
            let expected = [format!("0 {method} {PAGE}"), format!("1 {method} {PAGE}")];
            assert_eq!(asked(&seen, method), expected, "{name}");
            assert!(
                !gate.metrics().contains("upstream_errors_total{reason=\"closed\"} 1"),
                "{name}"
            );
            assert_eq!(gate.records(2).len(), 2, "one decision per request");
        }
    }
}

#[test]
fn what_the_app_may_have_done_is_never_sent_twice() {
    for (method, rest) in [
        ("POST", "content-length: 0\r\n\r\n"),
        ("POST", "\r\n"),
        ("POST", "content-length: 3\r\n\r\nabc"),
        ("PATCH", "\r\n"),
        ("PUT", "content-length: 3\r\n\r\nabc"),
        ("GET", "content-length: 3\r\n\r\nabc"),
        ("DELETE", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    ] {
        let (script, seen) = app(|_| {}, Lost::Kept);
        let gate = gate_before(&script.url(), "");
        let answer = ask_over_a_kept_connection(&gate, method, rest);
        assert_eq!(answer.status, 502, "{method} {rest:?}");
        assert_eq!(asked(&seen, method).len(), 1, "{method} {rest:?}");
    }
}

#[test]
fn an_answer_that_began_or_a_fresh_connection_that_ends_is_502_after_one_try() {
    for began in ["HTTP/1.1 200 OK\r\n", "H", "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"] {
        let (script, seen) = app(move |wire| assert!(wire.send(began)), Lost::Kept);
        let gate = gate_before(&script.url(), "");
        let mut wire = RawConnection::open(gate.proxy);
        assert_eq!(ask(&gate, &mut wire, "GET", "\r\n").status, 200);
        let token = gate.issuer.token("alice", &["viewer"]);
        wire.send(format!(
            "GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\nauthorization: Bearer {token}\r\n\r\n"
        ));
        let got = String::from_utf8_lossy(&wire.read_until("upstream_unavailable")).into_owned();
        assert!(got.contains("HTTP/1.1 502 "), "{began}: {got}");
        assert_eq!(asked(&seen, "GET"), [format!("0 GET {PAGE}")], "{began}");
    }
    let (script, seen) = app(|_| {}, Lost::KeptAndFresh);
    let gate = gate_before(&script.url(), "");
    assert_eq!(ask_over_a_kept_connection(&gate, "GET", "\r\n").status, 502);
    assert_eq!(asked(&seen, "GET"), [format!("0 GET {PAGE}"), format!("1 GET {PAGE}")]);
}

#[test]
fn an_unused_connection_is_given_up_before_usual_apps_close_it() {
    let kept_for = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&kept_for);
    let script = ScriptedServer::start(move |_, wire| {
        wire.send(KEPT);
        let answered = Instant::now();
        wire.read_until("never");
        *noted.lock().unwrap() = Some(answered.elapsed());
    });
    let gate = gate_before(&script.url(), "");
    assert_eq!(ask(&gate, &mut RawConnection::open(gate.proxy), "GET", "\r\n").status, 200);
    let kept_for = eventually("the gate closes the connection", || {
        kept_for.lock().unwrap().ok_or("open".to_owned())
    });
    // Node closes after 5 s; the app notices the end late on a busy machine
    assert!(
        kept_for > Duration::from_secs(3) && kept_for < Duration::from_secs(5) + LATE,
        "{kept_for:?}"
    );
}

/// The way in which an app over HTTP/2 ends the second request of its first connection.
#[derive(Clone, Copy, Debug)]
enum Http2End {
    /// GOAWAY that names the first stream as the last one, then the end of the connection.
    GoAway,
    /// RST_STREAM with REFUSED_STREAM; the connection stays open.
    Refused,
    /// RST_STREAM with INTERNAL_ERROR: the app began.
    Reset,
    /// The end of the connection without a word.
    Closed,
}

fn http2_app(end: Http2End) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(converse(stream, number, end, Arc::clone(&noted)));
            }
        });
    });
    (address, seen)
}

async fn converse(stream: tokio::net::TcpStream, number: usize, end: Http2End, seen: Seen) -> Result<Infallible, h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    let mut requests = 0;
    let ended = || h2::Error::from(h2::Reason::NO_ERROR);
    loop {
        let (request, mut respond): (Request<h2::RecvStream>, _) = connection.accept().await.ok_or_else(ended)??;
        let line = format!("{number} {} {}", request.method(), request.uri().path());
        seen.lock().unwrap().push(line);
        if number == 0 && requests == 1 {
            match end {
                Http2End::Closed => return Err(ended()),
                Http2End::Refused => respond.send_reset(h2::Reason::REFUSED_STREAM),
                Http2End::Reset => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                Http2End::GoAway => {
                    connection.abrupt_shutdown(h2::Reason::NO_ERROR);
                    while connection.accept().await.is_some() {}
                    return Err(ended());
                }
            }
        } else {
            let mut body = respond.send_response(Response::new(()), false)?;
            body.send_data(Bytes::from_static(b"ok"), true)?;
        }
        requests += 1;
    }
}

#[test]
fn over_http2_a_request_that_the_app_refused_or_lost_goes_once_more() {
    for end in [Http2End::GoAway, Http2End::Refused, Http2End::Closed] {
        let (address, seen) = http2_app(end);
        let gate = gate_before(&format!("h2c://{address}"), "");
        let answer = ask_over_a_kept_connection(&gate, "GET", "\r\n");
        assert_eq!(answer.status, 200, "{end:?}: {}", answer.text());
        let expected = [format!("0 GET {PAGE}"), format!("1 GET {PAGE}")];
        assert_eq!(asked(&seen, "GET"), expected, "{end:?}");
    }
}

#[test]
fn over_http2_nothing_else_is_sent_twice() {
    for (end, method, rest) in [
        (Http2End::Reset, "GET", "\r\n"),
        (Http2End::Closed, "POST", "content-length: 0\r\n\r\n"),
        (Http2End::Refused, "POST", "content-length: 3\r\n\r\nabc"),
        (Http2End::GoAway, "POST", "\r\n"),
    ] {
        let (address, seen) = http2_app(end);
        let gate = gate_before(&format!("h2c://{address}"), "");
        let answer = ask_over_a_kept_connection(&gate, method, rest);
        assert_eq!(answer.status, 502, "{end:?} {method}");
        assert_eq!(asked(&seen, method).len(), 1, "{end:?} {method}");
    }
}
