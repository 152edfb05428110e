//! The PROXY protocol: source addresses that a balancer declares, and their effect on addresses and limits.
//!
//! Everything here connects from 127.0.0.1, which is a trusted proxy or a stranger as the test says.

use std::net::Ipv4Addr;

use crate::support::http2_client::{Client, Runtime, request};
use crate::support::{Gate, PAGE, RawConnection, Setup, eventually, open_portal};

const LISTEN: &str = "listen: { proxy: { address: '127.0.0.1:0', proxy_protocol: true }, decision: { address: '127.0.0.1:0' }, admin: { address: '127.0.0.1:0' } }";

fn behind_a_proxy() -> Setup {
    open_portal().config("trusted_proxies: [127.0.0.1]").config(LISTEN)
}

fn get(gate: &Gate, more: &str) -> String {
    let token = gate.issuer.token("alice", &["viewer"]);
    format!("GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\nauthorization: Bearer {token}\r\n{more}\r\n")
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    bytes.extend(rest);
    bytes
}

fn v2_from(source: Ipv4Addr) -> Vec<u8> {
    v2(0x21, 0x11, &[&source.octets()[..], &[127, 0, 0, 1, 4, 210, 1, 187]].concat())
}

fn counts(gate: &Gate, line: &str) {
    eventually(line, || {
        let metrics = gate.metrics();
        let found = metrics.lines().any(|l| l == line);
        found.then_some(()).ok_or(metrics)
    });
}

#[test]
fn the_source_in_the_header_is_the_client() {
    let gate = behind_a_proxy().start();
    let mapped = [&[0; 10][..], &[0xff, 0xff, 198, 51, 100, 7], &[0; 16], &[4, 210, 1, 187]].concat();
    let cases: [(Vec<u8>, &str); 7] = [
        (b"PROXY TCP4 198.51.100.7 127.0.0.1 1234 443\r\n".to_vec(), "198.51.100.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 1234 443\r\n".to_vec(), "2001:db8::7"),
        (v2_from(Ipv4Addr::new(198, 51, 100, 7)), "198.51.100.7"),
        (v2(0x21, 0x21, &mapped), "198.51.100.7"),
        // a LOCAL header: the source is the proxy itself
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x20, 0, &[]), "127.0.0.1"),
        (v2(0x20, 0x11, &[9; 12]), "127.0.0.1"),
    ];
    for (header, source) in cases {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send([header, get(&gate, "").into_bytes()].concat());
        assert_eq!(wire.read_answer("GET").unwrap().status, 200, "{source}");
        let seen = gate.app.last();
        let forwarded = seen.headers["x-forwarded-for"].to_str().unwrap();
        assert_eq!(forwarded, source);
        // and stays so for the whole connection
        wire.send(get(&gate, ""));
        assert_eq!(wire.read_answer("GET").unwrap().status, 200);
        assert_eq!(gate.app.last().headers["x-forwarded-for"], source);
    }
}

#[test]
fn a_client_behind_the_proxy_cannot_set_its_source_address() {
    let gate = behind_a_proxy().start();
    let header = b"PROXY TCP4 198.51.100.7 127.0.0.1 1234 443\r\n".to_vec();
    let mut wire = RawConnection::open(gate.proxy);
    let spoofed = get(&gate, "x-forwarded-for: 10.0.0.1\r\nx-forwarded-proto: https\r\n");
    wire.send([&header[..], spoofed.as_bytes()].concat());
    assert_eq!(wire.read_answer("GET").unwrap().status, 200);
    let seen = gate.app.last();
    assert_eq!(seen.headers["x-forwarded-for"], "198.51.100.7");
    assert_eq!(seen.headers["x-forwarded-proto"], "http");
    // a second header is the client's own, and no HTTP
    let before = gate.app.count();
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(
        [
            &header[..],
            b"PROXY TCP4 10.0.0.1 127.0.0.1 1 2\r\n",
            get(&gate, "").as_bytes(),
        ]
        .concat(),
    );
    assert!(wire.read_answer("GET").is_none_or(|answer| answer.status == 400));
    assert_eq!(gate.app.count(), before);
}

#[test]
fn a_trusted_proxy_without_a_valid_proxy_header_is_disconnected() {
    let gate = behind_a_proxy()
        .config("limits: { workers: 1, header_timeout: 300ms }")
        .start();
    let plain = get(&gate, "").into_bytes();
    let unix = v2(0x21, 0x31, &[b'/'; 216]);
    let starts: [Vec<u8>; 6] = [
        plain.clone(),
        [b"PROXY TCP4 nowhere 127.0.0.1 1 2\r\n".to_vec(), plain.clone()].concat(),
        [unix, plain.clone()].concat(),
        [v2(0x22, 0x11, &[9; 12]), plain.clone()].concat(),
        // never whole
        b"PROXY TCP4 198.51".to_vec(),
        v2(0x21, 0x11, &[9; 12])[..20].to_vec(),
    ];
    let number = starts.len();
    for start in starts {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(&start);
        assert!(wire.read_answer("GET").is_none(), "{:?}", String::from_utf8_lossy(&start));
    }
    counts(
        &gate,
        &format!("cedargate_http_rejected_total{{reason=\"proxy_header\"}} {number}"),
    );
    assert_eq!(gate.app.count(), 0);
    // a port probe without a request
    drop(RawConnection::open(gate.proxy));
    let mut wire = RawConnection::open(gate.proxy);
    wire.send([v2_from(Ipv4Addr::new(198, 51, 100, 7)), plain].concat());
    assert_eq!(wire.read_answer("GET").unwrap().status, 200);
    counts(
        &gate,
        &format!("cedargate_http_rejected_total{{reason=\"proxy_header\"}} {number}"),
    );
}

#[test]
fn a_peer_outside_trusted_proxies_is_a_plain_client() {
    let gate = open_portal().config("trusted_proxies: [10.0.0.0/8]").config(LISTEN).start();
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(get(&gate, ""));
    assert_eq!(wire.read_answer("GET").unwrap().status, 200);
    assert_eq!(gate.app.last().headers["x-forwarded-for"], "127.0.0.1");
    let headers: [Vec<u8>; 2] = [
        b"PROXY TCP4 10.0.0.1 127.0.0.1 1234 443\r\n".to_vec(),
        v2_from(Ipv4Addr::new(10, 0, 0, 1)),
    ];
    for header in headers {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send([header, get(&gate, "").into_bytes()].concat());
        assert!(wire.read_answer("GET").is_none_or(|answer| answer.status == 400));
    }
    counts(&gate, "cedargate_http_rejected_total{reason=\"malformed\"} 2");
    assert_eq!(gate.app.count(), 1);
}

#[test]
fn without_the_switch_a_header_is_no_http_even_from_a_trusted_proxy() {
    let gate = open_portal().config("trusted_proxies: [127.0.0.1]").start();
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(format!("PROXY TCP4 10.0.0.1 127.0.0.1 1234 443\r\n{}", get(&gate, "")));
    assert!(wire.read_answer("GET").is_none_or(|answer| answer.status == 400));
    assert_eq!(gate.app.count(), 0);
}

#[test]
fn a_header_that_comes_in_pieces_is_read_and_http2_may_follow_it() {
    use tokio::io::AsyncWriteExt;
    let gate = behind_a_proxy().start();
    let runtime = Runtime::start();
    let stream = runtime.block_on(async {
        let mut stream = tokio::net::TcpStream::connect(gate.proxy).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in v2_from(Ipv4Addr::new(198, 51, 100, 9)) {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        stream
    });
    let client = Client::over(runtime, stream);
    assert_eq!(client.ask(request(&gate, "GET", PAGE), b"").unwrap().status, 200);
    assert_eq!(gate.app.last().headers["x-forwarded-for"], "198.51.100.9");
}

#[test]
fn the_limit_per_address_is_for_the_address_in_the_header() {
    let gate = behind_a_proxy()
        .config("limits: { workers: 2, connections_per_address: 2 }")
        .start();
    let from = |last: u8| {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send([v2_from(Ipv4Addr::new(198, 51, 100, last)), get(&gate, "").into_bytes()].concat());
        let answer = wire.read_answer("GET").unwrap();
        (wire, answer)
    };
    let (first, answer) = from(1);
    assert_eq!(answer.status, 200);
    let (_second, answer) = from(1);
    assert_eq!(answer.status, 200);
    let (mut third, answer) = from(1);
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
    assert!(third.is_closed());
    assert_eq!(from(2).1.status, 200, "another address has its own");
    assert_eq!(gate.app.count(), 3);
    counts(&gate, "cedargate_http_rejected_total{reason=\"too_many_connections\"} 1");
    drop(first);
    eventually("its place is free", || match from(1).1.status {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
}
