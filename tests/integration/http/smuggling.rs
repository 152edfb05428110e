//! Requests that two readers could read in two ways, as raw bytes against the running gate: each is 400 on a closed
//! connection and unseen by the app, alone and behind a request that is in order.
//!
//! Where the client still talks HTTP/1 to something else, the trick would hide a second request (`DELETE /smuggled`).

use crate::support::{Gate, PAGE, RawConnection, open_portal};

const HIDDEN: &str = "DELETE /portal/p/smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n";

/// A request with these lines after the usual ones, and these bytes after its head.
fn post(gate: &Gate, lines: &str, body: &str) -> Vec<u8> {
    let token = gate.issuer.token("alice", &[]);
    format!("POST {PAGE} HTTP/1.1\r\nHost: shop.test\r\nAuthorization: Bearer {token}\r\n{lines}\r\n{body}").into_bytes()
}

/// The same with its own request line and fields.
fn bare(gate: &Gate, line: &str, fields: &str, body: &str) -> Vec<u8> {
    let token = gate.issuer.token("alice", &[]);
    format!("{line}\r\n{fields}Authorization: Bearer {token}\r\n\r\n{body}").into_bytes()
}

/// Values of `Transfer-Encoding` that some reader takes for `chunked` or for nothing.
const ENCODINGS: [&str; 43] = [
    "",
    " ",
    "chunked ",
    "chunked\t",
    "\tchunked",
    " \tchunked",
    "\u{b}chunked",
    "\u{c}chunked",
    "chunked\u{b}",
    "\u{0}chunked",
    "chunked\u{0}",
    "\u{7f}chunked",
    "\u{a0}chunked",
    "xchunked",
    "chunkedx",
    "chunke",
    "cchunked",
    "chunked, identity",
    "identity, chunked",
    "identity",
    "chunked, chunked",
    "chunked,",
    ",chunked",
    ", chunked",
    "chunked,gzip",
    "gzip, chunked",
    "gzip",
    "deflate",
    "compress, chunked",
    "x-chunked",
    "chunked-x",
    "\"chunked\"",
    "'chunked'",
    "chunked;",
    "chunked; q=1.0",
    "chunked;ext=1",
    "(chunked)",
    "[chunked]",
    "chunked\\",
    "\\x63hunked",
    "%63hunked",
    "chun\u{212a}ed",
    "chunked\r\n\tx",
];

/// Lines that say `Transfer-Encoding: chunked` in a way that some parsers read and others do not.
const ENCODING_LINES: [&str; 30] = [
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding\t: chunked\r\n",
    " Transfer-Encoding: chunked\r\n",
    "\tTransfer-Encoding: chunked\r\n",
    "X: y\n Transfer-Encoding: chunked\r\n",
    "X: y\nTransfer-Encoding: chunked\r\n",
    "X: y\rTransfer-Encoding: chunked\r\n",
    "X: y\r\n\rTransfer-Encoding: chunked\r\n",
    "X: y\r\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding:\r\n chunked\r\n",
    "Transfer-Encoding:\n chunked\r\n",
    "Transfer-Encoding:\r\n\tchunked\r\n",
    "Transfer-Encoding: chunked\n\r\n",
    "Transfer-Encoding: chunked\r\r\n",
    "Transfer_Encoding: chunked\r\n",
    "transfer_encoding: chunked\r\n",
    "Transfer-Encoding chunked\r\n",
    "Transfer-Encoding\r\n: chunked\r\n",
    "Transfer-\r\n Encoding: chunked\r\n",
    "\u{0}Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding\u{0}: chunked\r\n",
    "Transfer-Encoding\u{b}: chunked\r\n",
    "\"Transfer-Encoding\": chunked\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\ntransfer-encoding: cow\r\n",
    "Transfer-Encoding: chunked\r\nTransfer_Encoding: identity\r\n",
    "Transfer-Encoding\u{ad}: chunked\r\n",
    ": chunked\r\n",
];

/// Values of `Content-Length` other than plain digits.
const LENGTHS: [&str; 29] = [
    "",
    " ",
    "+5",
    "-5",
    "05",
    "005",
    "5 ",
    "5\t",
    "\t5",
    "5,5",
    "5, 5",
    "5,6",
    "5;5",
    "0x5",
    "5.0",
    "5e0",
    "5_0",
    "1 0",
    "five",
    "\"5\"",
    "5\u{b}",
    "\u{0}5",
    "5\u{0}",
    "\u{665}",
    "18446744073709551615",
    "18446744073709551621",
    "9223372036854775808",
    "1000000000000000000",
    "5\r\n 0",
];

/// Lines that give a length twice, or a length and an encoding.
const LENGTH_LINES: [&str; 24] = [
    "Content-Length: 5\r\nContent-Length: 5\r\n",
    "Content-Length: 5\r\nContent-Length: 0\r\n",
    "Content-Length: 0\r\nContent-Length: 5\r\n",
    "Content-Length: 5\r\nX: y\r\ncontent-length: 5\r\n",
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    "transfer-encoding: chunked\r\ncontent-length: 0\r\n",
    "Content-Length: 5\r\nTransfer-Encoding: identity\r\n",
    "Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n",
    "Content-Length: 5\r\nTransfer-Encoding : chunked\r\n",
    "Content-Length: 5\r\nTransfer-Encoding:\tchunked\r\n",
    "Content-Length: 5\r\nTransfer_Encoding: chunked\r\n",
    "Content-Length: 5\r\nContent_Length: 0\r\n",
    "Content_Length: 5\r\n",
    "content_length: 0\r\n",
    "Content-Length : 5\r\n",
    "Content-Length\t: 5\r\n",
    " Content-Length: 5\r\n",
    "Content-Length:\r\n 5\r\n",
    "X: y\nContent-Length: 5\r\n",
    "X: y\rContent-Length: 5\r\n",
    "Content-Length 5\r\n",
    "Content-Length\u{0}: 5\r\n",
];

/// Chunked bodies with sizes, ends and extensions that parsers read differently.
const CHUNKS: [&str; 46] = [
    "5;a=b\r\nhello\r\n0\r\n\r\n",
    "5;\r\nhello\r\n0\r\n\r\n",
    "5 ;a\r\nhello\r\n0\r\n\r\n",
    "5;a\nhello\r\n0\r\n\r\n",
    "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
    "5;a\rb\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0;a\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "5\t\r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "\t5\r\nhello\r\n0\r\n\r\n",
    "5 5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "0X5\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "-0\r\n\r\n",
    "5_\r\nhello\r\n0\r\n\r\n",
    "5.0\r\nhello\r\n0\r\n\r\n",
    "5h\r\nhello\r\n0\r\n\r\n",
    "g\r\nhello\r\n0\r\n\r\n",
    "\r\nhello\r\n0\r\n\r\n",
    "\r\n0\r\n\r\n",
    "\n0\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "5\rhello\r\n0\r\n\r\n",
    "5\r\rhello\r\n0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhello\r0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhelloXX0\r\n\r\n",
    "5\r\nhello\r\n0\n\r\n",
    "5\r\nhello\r\n0\r\n\n",
    "5\r\nhello\r\n0\r\r\n\r\n",
    "5\r\nhell\r\n0\r\n\r\n",
    "5\r\nhello!\r\n0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "100000000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
    "00000000000000005\r\nhello\r\n0\r\n\r\n",
    "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "8000000000000000\r\nhello\r\n0\r\n\r\n",
    "\u{ff15}\r\nhello\r\n0\r\n\r\n",
    "0\r\nX: y\n\r\n",
    "0\r\nX : y\r\n\r\n",
    "0\r\nX: y\r\n folded\r\n\r\n",
    "0\r\nTransfer-Encoding: chunked\r\n\r\n",
];

/// Request lines, whole.
const REQUEST_LINES: [&str; 35] = [
    "\r\nPOST /portal/p/page HTTP/1.1",
    "\nPOST /portal/p/page HTTP/1.1",
    "\r\n\r\nPOST /portal/p/page HTTP/1.1",
    " POST /portal/p/page HTTP/1.1",
    "\tPOST /portal/p/page HTTP/1.1",
    "\u{0}POST /portal/p/page HTTP/1.1",
    "\u{feff}POST /portal/p/page HTTP/1.1",
    "POST  /portal/p/page HTTP/1.1",
    "POST\t/portal/p/page HTTP/1.1",
    "POST /portal/p/page  HTTP/1.1",
    "POST /portal/p/page\tHTTP/1.1",
    "POST /portal/p/page HTTP/1.1 ",
    "POST /portal/p/page HTTP/1.1\t",
    "POST /portal/p/page HTTP/1.1 x",
    "POST /portal/p/page HTTP/1.1\r",
    "POST /portal/p/page HTTP/1.2",
    "POST /portal/p/page HTTP/1.01",
    "POST /portal/p/page HTTP/01.1",
    "POST /portal/p/page HTTP/1",
    "POST /portal/p/page HTTP/1.",
    "POST /portal/p/page HTTP/2.0",
    "POST /portal/p/page HTTP/0.9",
    "POST /portal/p/page http/1.1",
    "POST /portal/p/page HTTPS/1.1",
    "POST /portal/p/page HTTP /1.1",
    "POST /portal/p/page",
    "POST /portal/p/page ",
    "POST",
    "POST /portal/p/page#fragment HTTP/1.1",
    "POST /portal/p/page?a#b HTTP/1.1",
    "POST /portal/p/p\u{e4}\u{0}ge HTTP/1.1",
    "POST /portal/p/pa\u{0}ge HTTP/1.1",
    "POST /portal/p/pa\u{7f}ge HTTP/1.1",
    "PO(ST /portal/p/page HTTP/1.1",
    "POST: /portal/p/page HTTP/1.1",
];

/// Whole header fields of a request with a valid request line.
const FIELDS: [&str; 27] = [
    "",
    "Host: shop.test\r\nHost: shop.test\r\n",
    "Host: shop.test\r\nHost: evil.test\r\n",
    "Host: shop.test\r\nhost:\r\n",
    "Host: shop.test, evil.test\r\n",
    "Host: shop.test evil.test\r\n",
    "Host:\r\n shop.test\r\n",
    "Host : shop.test\r\n",
    " Host: shop.test\r\n",
    "\tHost: shop.test\r\n",
    "Host: shop.test\n",
    "Host: shop.test\r",
    "Host: shop.test\r\n Host: evil.test\r\n",
    "Host: shop.test\nHost: evil.test\r\n",
    "Host: shop.test\rHost: evil.test\r\n",
    "Host: shop.test\u{0}\r\n",
    "Host: shop\u{0}.test\r\n",
    "Host: shop.test\r\nX: a\u{0}b\r\n",
    "Host: shop.test\r\nX: a\u{1}b\r\n",
    "Host: shop.test\r\nX: a\u{8}b\r\n",
    "Host: shop.test\r\nX: a\u{b}b\r\n",
    "Host: shop.test\r\nX: a\u{7f}b\r\n",
    "Host: shop.test\r\nX: a\rb\r\n",
    "Host: shop.test\r\nX\r\n",
    "Host: shop.test\r\nX y: z\r\n",
    "Host: shop.test\r\nX: y\r\n folded\r\n",
    "Host: shop.test\r\n: nameless\r\n",
];

/// Every case: its description and its bytes.
fn cases(gate: &Gate) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for value in ENCODINGS {
        all.push((
            format!("Transfer-Encoding:{value:?}"),
            post(
                gate,
                &format!("Transfer-Encoding: {value}\r\n"),
                &format!("0\r\n\r\n{HIDDEN}"),
            ),
        ));
    }
    for lines in ENCODING_LINES {
        all.push((format!("{lines:?}"), post(gate, lines, &format!("0\r\n\r\n{HIDDEN}"))));
    }
    for value in LENGTHS {
        all.push((
            format!("Content-Length:{value:?}"),
            post(gate, &format!("Content-Length: {value}\r\n"), &format!("hello{HIDDEN}")),
        ));
    }
    for lines in LENGTH_LINES {
        all.push((format!("{lines:?}"), post(gate, lines, &format!("0\r\n\r\n{HIDDEN}"))));
    }
    for body in CHUNKS {
        all.push((
            format!("{body:?}"),
            post(gate, "Transfer-Encoding: chunked\r\n", &format!("{body}{HIDDEN}")),
        ));
    }
    for line in REQUEST_LINES {
        all.push((format!("{line:?}"), bare(gate, line, "Host: shop.test\r\n", HIDDEN)));
    }
    for fields in FIELDS {
        all.push((
            format!("{fields:?}"),
            bare(gate, &format!("POST {PAGE} HTTP/1.1"), fields, HIDDEN),
        ));
    }
    let old = format!("POST {PAGE} HTTP/1.0");
    all.push((
        "chunked in HTTP/1.0".to_owned(),
        bare(gate, &old, "Transfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{HIDDEN}")),
    ));
    all.push((
        "two hosts in HTTP/1.0".to_owned(),
        bare(gate, &old, "Host: shop.test\r\nHost: evil.test\r\n", HIDDEN),
    ));
    let absolute = format!("POST http://evil.test{PAGE} HTTP/1.1");
    all.push((
        "another host in the target".to_owned(),
        bare(gate, &absolute, "Host: shop.test\r\n", HIDDEN),
    ));
    let userinfo = format!("POST http://user@shop.test{PAGE} HTTP/1.1");
    all.push((
        "userinfo in the target".to_owned(),
        bare(gate, &userinfo, "Host: shop.test\r\n", HIDDEN),
    ));
    for value in ["200-maybe", "100-continue, x", "x\u{0}", "100-continue\r\n x"] {
        all.push((
            format!("Expect:{value:?}"),
            post(
                gate,
                &format!("Expect: {value}\r\nContent-Length: 5\r\n"),
                &format!("hello{HIDDEN}"),
            ),
        ));
    }
    all
}

#[test]
fn two_hundred_ways_to_smuggle_are_400_on_a_closed_connection_unseen_by_the_app() {
    let gate = open_portal().start();
    let cases = cases(&gate);
    assert!(cases.len() >= 200, "{}", cases.len());
    let mut findings = Vec::new();
    for (what, bytes) in &cases {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(bytes);
        match wire.read_answer("POST") {
            Some(answer) if answer.status == 400 && wire.is_closed() => {}
            other => findings.push(format!("{what}: {:?}", other.map(|answer| answer.status))),
        }
        let seen = gate.app.count();
        if seen > 0 {
            panic!("{what} reached the app: {:?}", gate.app.seen());
        }
    }
    assert!(findings.is_empty(), "not 400 and closed:\n{}", findings.join("\n"));
}

#[test]
fn behind_a_valid_request_smuggled_ones_are_refused_and_only_it_reaches_the_app() {
    let gate = open_portal().start();
    let mut findings = Vec::new();
    for (number, (what, bytes)) in cases(&gate).iter().enumerate() {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(
            [
                &post(&gate, &format!("X-Number: {number}\r\nContent-Length: 2\r\n"), "ok"),
                &bytes[..],
            ]
            .concat(),
        );
        let first = wire.read_answer("POST").map(|answer| answer.status);
        let second = wire.read_answer("POST").map(|answer| answer.status);
        if (first, second) != (Some(200), Some(400)) || !wire.is_closed() {
            findings.push(format!("{what}: {first:?} {second:?}"));
        }
        let seen = gate.app.seen();
        assert_eq!(seen.len(), number + 1, "{what}");
        let last = seen.last().unwrap();
        assert_eq!(
            (last.headers["x-number"].to_str().unwrap(), &last.body[..]),
            (number.to_string().as_str(), &b"ok"[..])
        );
    }
    assert!(findings.is_empty(), "not 200, then 400 and closed:\n{}", findings.join("\n"));
}

#[test]
fn smuggled_requests_sent_byte_by_byte_are_refused_too() {
    let gate = open_portal().start();
    for (what, bytes) in cases(&gate).iter().step_by(7) {
        let mut wire = RawConnection::open(gate.proxy);
        let stopped = bytes.iter().position(|byte| !wire.send([*byte]));
        let answer = wire.read_answer("POST").map(|answer| answer.status);
        // a reset that follows unread bytes may overtake the answer; the end of a body may overtake the refusal
        assert!(matches!(answer, Some(400) | None), "{what}: {answer:?} {stopped:?}");
    }
    assert!(
        gate.app.seen().iter().all(|seen| seen.method == "POST"),
        "{:?}",
        gate.app.seen()
    );
    assert!(!gate.app.seen().iter().any(|seen| seen.target.contains("smuggled")));
}

#[test]
fn unusual_requests_with_one_meaning_pass() {
    let gate = open_portal().start();
    for (lines, body, expected) in [
        ("Content-Length: 5\r\n", "hello", "hello"),
        ("content-length:5\r\n", "hello", "hello"),
        ("CONTENT-LENGTH:   5\r\n", "hello", "hello"),
        ("Transfer-Encoding: CHUNKED\r\n", "5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("transfer-encoding:chunked\r\n", "0005\r\nhello\r\n000\r\n\r\n", "hello"),
        (
            "Transfer-Encoding: chunked\r\n",
            "1\r\n\r\r\n1\r\n\n\r\n0\r\nX-Sum: 1\r\n\r\n",
            "\r\n",
        ),
        ("Upgrade: nothing\r\nContent-Length: 5\r\n", "hello", "hello"),
        ("X-Tab:\ta\tb\t\r\nX-Empty:\r\nContent-Length: 0\r\n", "", ""),
    ] {
        let before = gate.app.count();
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(
            [
                post(&gate, lines, body),
                post(&gate, "X-Next: 1\r\nContent-Length: 0\r\n", ""),
            ]
            .concat(),
        );
        assert_eq!(wire.read_answer("POST").map(|answer| answer.status), Some(200), "{lines:?}");
        assert_eq!(
            wire.read_answer("POST").map(|answer| answer.status),
            Some(200),
            "{lines:?} next"
        );
        let seen = gate.app.seen();
        assert_eq!(seen.len(), before + 2, "{lines:?}");
        assert_eq!(&seen[before].body[..], expected.as_bytes(), "{lines:?}");
        assert!(seen[before + 1].headers.contains_key("x-next"));
    }
}

#[test]
fn an_http2_preface_after_a_request_does_not_change_the_protocol() {
    let gate = open_portal().start();
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(
        [
            &post(&gate, "Content-Length: 0\r\n", "")[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ]
        .concat(),
    );
    assert_eq!(wire.read_answer("POST").map(|answer| answer.status), Some(200));
    assert_eq!(wire.read_answer("POST").map(|answer| answer.status), Some(400));
    assert!(wire.is_closed());
    assert_eq!(gate.app.count(), 1);
}

#[test]
fn each_refusal_is_counted_once() {
    let gate = open_portal().start();
    for (number, (what, bytes)) in [
        (
            "a head",
            post(&gate, "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", "0\r\n\r\n"),
        ),
        (
            "a body in one read",
            post(&gate, "Transfer-Encoding: chunked\r\n", "1;x\r\na\r\n0\r\n\r\n"),
        ),
        ("a line", post(&gate, "X: y\n", "")),
    ]
    .iter()
    .enumerate()
    {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(bytes);
        assert_eq!(wire.read_answer("POST").map(|answer| answer.status), Some(400), "{what}");
        assert!(wire.is_closed());
        let counted = format!("cedargate_http_rejected_total{{reason=\"malformed\"}} {}", number + 1);
        crate::support::eventually("the refusal is counted", || {
            let metrics = gate.metrics();
            if metrics.contains(&counted) { Ok(()) } else { Err(metrics) }
        });
    }
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(post(&gate, "Transfer-Encoding: chunked\r\n", ""));
    wire.send("5\r\nhel");
    std::thread::yield_now();
    wire.send("lo\n0\r\n\r\n");
    crate::support::eventually("a body that breaks later is counted", || {
        let metrics = gate.metrics();
        if metrics.contains("reason=\"malformed\"} 4") {
            Ok(())
        } else {
            Err(metrics)
        }
    });
    assert_eq!(gate.app.count(), 0);
}
