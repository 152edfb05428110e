//! Slow clients and floods of cheap frames, against the running gate.
//!
//! Every attack runs beside an ordinary client and the admin listener, who must be served as before.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Gate, OPEN_POLICY, OPEN_SCHEMA, PAGE, RawConnection, ScriptedServer, Setup, eventually, open_portal};

const LIMITS: &str =
    "limits: { workers: 2, drain_timeout: 5s, header_timeout: 500ms, idle_timeout: 1500ms, send_timeout: 500ms }";
/// The longest wait of an ordinary client during an attack, on a slow machine.
const SERVED_WITHIN: Duration = Duration::from_secs(3);
/// The longest time until the gate closes a slow client: twice every timeout above, on a slow machine.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

fn gate() -> Gate {
    open_portal().config(LIMITS).start()
}

/// A gate in front of a scripted app.
fn gate_before(script: &ScriptedServer, upstream: &str) -> Gate {
    Setup::portal(OPEN_SCHEMA, OPEN_POLICY)
        .config(LIMITS)
        .config(&format!("upstream: {{ url: '{}'{upstream} }}", script.url()))
        .start()
}

/// An app whose answer is larger than all buffers on the way; counts the bytes that it sent.
fn endless_app(bytes: usize) -> (ScriptedServer, Arc<AtomicUsize>) {
    let given = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&given);
    let script = ScriptedServer::start(move |head, wire| {
        if head.contains("/small") {
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-app: yes\r\nconnection: close\r\n\r\nok");
            return;
        }
        wire.send(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\nx-app: yes\r\nconnection: close\r\n\r\n"
        ));
        let piece = vec![b'x'; 64 * 1024];
        for _ in 0..bytes / piece.len() {
            if !wire.send(&piece) {
                return;
            }
            count.fetch_add(piece.len(), Ordering::SeqCst);
        }
    });
    (script, given)
}

fn ask(gate: &Gate, path: &str) -> String {
    let token = gate.issuer.token("alice", &[]);
    format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\nAuthorization: Bearer {token}\r\n\r\n")
}

fn rejected(gate: &Gate, reason: &str) -> usize {
    let start = format!("cedargate_http_rejected_total{{reason=\"{reason}\"}} ");
    let metrics = gate.metrics();
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(&start)?.parse().ok())
        .unwrap_or(0)
}

/// An ordinary client and the admin listener are served at once.
fn assert_others_are_served(gate: &Gate, path: &str) {
    let begun = Instant::now();
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(ask(gate, path));
    assert_eq!(wire.read_answer("GET").map(|answer| answer.status), Some(200));
    gate.status();
    assert!(
        begun.elapsed() < SERVED_WITHIN,
        "an ordinary client waited {:?}",
        begun.elapsed()
    );
}

fn is_closed_soon(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(CLOSED_WITHIN)).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
        }
    }
}

#[test]
fn slow_heads_are_closed_and_other_clients_are_served() {
    let gate = gate();
    let head = format!("{}X-Drip: ", ask(&gate, PAGE).trim_end_matches("\r\n"));
    let mut drips: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(gate.proxy).unwrap()).collect();
    // also on a connection whose first request was answered
    for drip in drips.iter_mut().step_by(2) {
        drip.write_all(ask(&gate, PAGE).as_bytes()).unwrap();
    }
    let begun = Instant::now();
    for byte in head.bytes().cycle() {
        drips.retain_mut(|drip| drip.write_all(&[byte]).is_ok());
        if drips.is_empty() {
            break;
        }
        assert!(begun.elapsed() < CLOSED_WITHIN, "{} still drip", drips.len());
        assert_others_are_served(&gate, PAGE);
        std::thread::sleep(Duration::from_millis(20));
    }
    eventually("every drip is counted", || match rejected(&gate, "header_timeout") {
        100 => Ok(()),
        other => Err(format!("{other}")),
    });
}

#[test]
fn a_slow_request_body_ends_with_the_response_timeout() {
    let (script, _) = endless_app(64 * 1024);
    let gate = gate_before(&script, ", response_timeout: 500ms");
    let token = gate.issuer.token("alice", &[]);
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(format!(
        "POST /portal/p/slow HTTP/1.1\r\nHost: shop.test\r\nAuthorization: Bearer {token}\r\nContent-Length: 100000\r\n\r\n"
    ));
    let begun = Instant::now();
    let mut dripping = wire.stream.try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        while begun.elapsed() < CLOSED_WITHIN && dripping.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert_others_are_served(&gate, "/portal/p/small");
    drip.join().unwrap();
    assert!(begun.elapsed() < CLOSED_WITHIN, "the body was waited for");
}

#[test]
fn a_download_that_is_not_read_is_ended_on_both_sides() {
    let (script, given) = endless_app(256 << 20);
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(ask(&gate, "/portal/p/big"));
    eventually("the client that reads nothing is counted", || {
        match rejected(&gate, "send_timeout") {
            1 => Ok(()),
            other => Err(format!("{other}")),
        }
    });
    assert_others_are_served(&gate, "/portal/p/small");
    assert!(given.load(Ordering::SeqCst) < 256 << 20);
    assert!(is_closed_soon(&wire.stream));
}

#[test]
fn a_download_that_is_read_too_slowly_is_ended_too() {
    let (script, _) = endless_app(256 << 20);
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(ask(&gate, "/portal/p/big"));
    let begun = Instant::now();
    while rejected(&gate, "send_timeout") == 0 {
        assert!(begun.elapsed() < CLOSED_WITHIN, "drips keep the connection");
        let _some = wire.stream.read(&mut [0; 10]);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_download_that_is_read_slowly_but_read_is_whole() {
    let bytes = 24 << 20;
    let (script, _) = endless_app(bytes);
    let gate = gate_before(&script, "");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(ask(&gate, "/portal/p/big"));
    wire.read_until("\r\n\r\n");
    let mut left = vec![0; 256 * 1024];
    let (mut read, begun) = (0, Instant::now());
    loop {
        match wire.stream.read(&mut left) {
            Ok(0) => break,
            Ok(length) => read += length,
            Err(error) => panic!("after {read} bytes: {error}"),
        }
        if begun.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    assert!(read > bytes - (1 << 20), "{read} of {bytes}");
    assert_eq!(rejected(&gate, "send_timeout"), 0);
}

#[test]
fn an_idle_connection_is_closed_in_both_protocols_even_if_it_pings() {
    let gate = gate();
    let mut one = RawConnection::open(gate.proxy);
    one.send(ask(&gate, PAGE));
    assert_eq!(one.read_answer("GET").map(|answer| answer.status), Some(200));
    let mut two = Client::open(&gate);
    two.request(&gate, 1, PAGE);
    let begun = Instant::now();
    let mut pinging = two.stream.try_clone().unwrap();
    let pings = std::thread::spawn(move || {
        while begun.elapsed() < CLOSED_WITHIN && pinging.write_all(&frame(6, 0, 0, &[0; 8])).is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    assert!(one.is_closed());
    pings.join().unwrap();
    assert!(begun.elapsed() < CLOSED_WITHIN, "pings keep the connection");
    assert_eq!(rejected(&gate, "http2_flood"), 0);
}

/// A minimal HTTP/2 client that can misbehave.
struct Client {
    stream: TcpStream,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Client {
    fn open(gate: &Gate) -> Self {
        Self::with_settings(gate, &[])
    }

    fn with_settings(gate: &Gate, settings: &[u8]) -> Self {
        let mut stream = TcpStream::connect(gate.proxy).unwrap();
        stream.set_read_timeout(Some(CLOSED_WITHIN)).unwrap();
        stream.write_all(&[PREFACE, &frame(4, 0, 0, settings)].concat()).unwrap();
        Self { stream }
    }

    fn request(&mut self, gate: &Gate, stream: u32, path: &str) {
        self.stream.write_all(&frame(1, 0x5, stream, &block(gate, path))).unwrap();
    }

    /// Reads everything until the end; the error codes of the GOAWAYs in it.
    fn goaway_codes(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let _reset = self.stream.read_to_end(&mut all);
        let (mut rest, mut found) = (&all[..], Vec::new());
        while rest.len() >= 9 {
            let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
            if rest[3] == 7 && rest.len() >= 17 {
                found.push(rest[16]);
            }
            rest = rest.get(9 + length..).unwrap_or_default();
        }
        found
    }
}

/// A header block without any compression but the static table.
fn block(gate: &Gate, path: &str) -> Vec<u8> {
    let literal = |index: &[u8], value: &str| {
        let mut bytes = index.to_vec();
        if value.len() < 127 {
            bytes.push(value.len() as u8);
        } else {
            bytes.push(127);
            let mut rest = value.len() - 127;
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 0x80);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
        bytes.extend(value.bytes());
        bytes
    };
    let token = format!("Bearer {}", gate.issuer.token("alice", &[]));
    // GET, http, path, authority, authorization
    [
        vec![0x82, 0x86],
        literal(&[4], path),
        literal(&[1], "shop.test"),
        literal(&[0x0f, 8], &token),
    ]
    .concat()
}

#[test]
fn an_http2_client_without_settings_or_with_half_a_head_is_closed() {
    let gate = gate();
    let part = block(&gate, PAGE);
    let whole = frame(1, 0x5, 1, &part);
    for (what, greeting, bytes) in [
        ("nothing after the preface", PREFACE.to_vec(), Vec::new()),
        ("half of the settings", [PREFACE, &[0, 0, 6, 4]].concat(), Vec::new()),
        (
            "a block without an end",
            [PREFACE, &frame(4, 0, 0, &[])].concat(),
            frame(1, 0x1, 1, &part),
        ),
        (
            "half of a block",
            [PREFACE, &frame(4, 0, 0, &[])].concat(),
            whole[..whole.len() - 1].to_vec(),
        ),
    ] {
        let before = rejected(&gate, "header_timeout");
        let mut stream = TcpStream::connect(gate.proxy).unwrap();
        stream.write_all(&greeting).unwrap();
        stream.write_all(&bytes).unwrap();
        assert!(is_closed_soon(&stream), "{what}");
        assert_eq!(rejected(&gate, "header_timeout"), before + 1, "{what}");
    }
    assert_others_are_served(&gate, PAGE);
}

#[test]
fn an_http2_download_whose_window_stays_shut_or_whose_socket_is_not_read_is_ended() {
    let (script, _) = endless_app(256 << 20);
    let gate = gate_before(&script, "");
    // 64 KiB and no more
    let mut shut = Client::open(&gate);
    shut.request(&gate, 1, "/portal/p/big");
    // the window takes the whole answer, but the client does not read
    let mut open = Client::with_settings(&gate, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    open.stream.write_all(&frame(8, 0, 0, &[0x7f, 0, 0, 0])).unwrap();
    open.request(&gate, 1, "/portal/p/big");
    eventually("both are counted", || match rejected(&gate, "send_timeout") {
        2 => Ok(()),
        other => Err(format!("{other}")),
    });
    assert_others_are_served(&gate, "/portal/p/small");
    assert!(is_closed_soon(&shut.stream) && is_closed_soon(&open.stream));
}

#[test]
fn floods_of_frames_end_their_connection_and_other_clients_are_served() {
    let gate = gate();
    let head = block(&gate, PAGE);
    let floods: [(&str, Box<dyn Fn(u32) -> Vec<u8>>); 7] = [
        ("ping", Box::new(|_| frame(6, 0, 0, &[0; 8]))),
        ("settings", Box::new(|_| frame(4, 0, 0, &[]))),
        ("priority", Box::new(|_| frame(2, 0, 1, &[0, 0, 0, 3, 1]))),
        ("unknown types", Box::new(|_| frame(0xbe, 0, 0, b"x"))),
        (
            "resets",
            Box::new(move |n| [frame(1, 0x5, 2 * n + 1, &head), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()),
        ),
        ("window updates", Box::new(|_| frame(8, 0, 0, &[0, 0, 0, 1]))),
        (
            "continuations",
            Box::new(|n| {
                if n == 0 {
                    frame(1, 0x1, 1, &[0x82])
                } else {
                    frame(9, 0, 1, &[0x00, 1, b'x', 1, b'y'])
                }
            }),
        ),
    ];
    for (number, (what, flood)) in floods.iter().enumerate() {
        let mut client = Client::open(&gate);
        for start in (0..20_000).step_by(100) {
            let frames: Vec<u8> = (start..start + 100).flat_map(flood).collect();
            if client.stream.write_all(&frames).is_err() {
                break;
            }
        }
        assert_others_are_served(&gate, PAGE);
        let codes = client.goaway_codes();
        // the reset that follows unread bytes may overtake the GOAWAY
        assert!(codes.is_empty() || codes.contains(&0xb), "{what}: {codes:?}");
        eventually("the flood is counted", || match rejected(&gate, "http2_flood") {
            count if count == number + 1 => Ok(()),
            other => Err(format!("{what}: {other}")),
        });
    }
}

#[test]
fn ordinary_http2_traffic_is_no_flood() {
    let gate = gate();
    let mut client = Client::open(&gate);
    let mut frames = Vec::new();
    // gRPC's bandwidth probes, a browser's priorities and new kinds of frames, a page that is left
    for n in 0..200_u32 {
        frames.extend(frame(6, 0, 0, &[0; 8]));
        frames.extend(frame(0x10, 0, 0, b"\0\0\0\x01u=1"));
        frames.extend(frame(8, 0, 0, &[0, 0, 0, 1 + n as u8]));
    }
    client.stream.write_all(&frames).unwrap();
    client.request(&gate, 1, PAGE);
    eventually("its request is served", || match gate.app.count() {
        1 => Ok(()),
        other => Err(format!("{other}")),
    });
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert!(is_closed_soon(&client.stream));
    assert_eq!(rejected(&gate, "http2_flood"), 0);
}
