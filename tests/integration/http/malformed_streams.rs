//! Malformed HTTP/2 streams: each is reset alone, a shared connection survives single ones, and a flood ends it.

use std::time::{Duration, Instant};

use crate::http::protocol_parity::start;
use crate::support::http2_frames::{
    CONTINUATION, END_HEADERS, END_STREAM, Field, GOAWAY, HEADERS, Http2, Outcome, PING, WINDOW_UPDATE, encode, field,
};
use crate::support::{Gate, PAGE, eventually, open_portal};

const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

fn ask(method: &str, gate: &Gate) -> Vec<Field> {
    let mut fields = start(method, PAGE.as_bytes());
    fields.push(field(
        "authorization",
        format!("Bearer {}", gate.issuer.token("alice", &["viewer"])),
    ));
    fields
}

fn status(outcome: &Outcome) -> Option<u16> {
    match outcome {
        Outcome::Answer(answer) => Some(answer.status),
        _ => None,
    }
}

/// Sends an upload with these bytes as its trailers.
fn upload(client: &mut Http2, gate: &Gate, trailers: &[u8]) -> Outcome {
    let stream = client.ask(&ask("POST", gate), 0);
    client.data(stream, b"body", 0);
    client.frame(HEADERS, END_HEADERS | END_STREAM, stream, trailers);
    client.outcome(stream)
}

#[test]
fn trailers_with_a_pseudo_header_reset_their_stream_alone() {
    let gate = open_portal().start();
    let mut client = Http2::open(gate.proxy);
    // `x-entry` becomes an entry of the table
    let mut head = encode(&ask("GET", &gate));
    head.extend(b"\x40\x07x-entry\x01v");
    let stream = client.next_stream();
    client.frame(HEADERS, END_HEADERS | END_STREAM, stream, &head);
    assert_eq!(status(&client.outcome(stream)), Some(200));
    for (name, trailers) in [
        ("indexed", b"\x84".to_vec()),
        ("indexed status", b"\x88".to_vec()),
        ("literal", encode(&[field(":path", "/x")])),
        (
            "literal, then another",
            encode(&[field(":authority", "a"), field("x-sum", "1")]),
        ),
        ("name of the table", b"\x04\x01/".to_vec()),
        ("huffman-coded", b"\x00\x84\xb9\x58\xd3\x3f\x01/".to_vec()),
        ("not first", encode(&[field("x-sum", "1"), field(":path", "/x")])),
    ] {
        let before = gate.app.count();
        match upload(&mut client, &gate, &trailers) {
            Outcome::Reset(PROTOCOL_ERROR) => {}
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(gate.app.count(), before, "{name}: the app has a whole request");
    }
    // honest trailers, one of them an entry of the table, pass on the same connection
    for trailers in [encode(&[field("x-sum", "1")]), b"\xbe".to_vec(), Vec::new()] {
        assert_eq!(status(&upload(&mut client, &gate, &trailers)), Some(200), "{trailers:?}");
    }
}

#[test]
fn an_entry_of_the_table_and_a_continuation_hide_no_pseudo_header() {
    let gate = open_portal().start();
    let mut client = Http2::open(gate.proxy);
    // `:path: /portal/p/page` becomes an entry; `authorization` is not added
    let mut block = encode(
        &start("GET", PAGE.as_bytes())
            .into_iter()
            .filter(|(name, _)| name != b":path")
            .collect::<Vec<_>>(),
    );
    block.extend(b"\x44\x0e/portal/p/page");
    block.extend(encode(&[field(
        "authorization",
        format!("Bearer {}", gate.issuer.token("alice", &[])),
    )]));
    let stream = client.next_stream();
    client.frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
    assert_eq!(status(&client.outcome(stream)), Some(200));
    assert!(matches!(upload(&mut client, &gate, b"\xbe"), Outcome::Reset(PROTOCOL_ERROR)));
    let stream = client.ask(&ask("POST", &gate), 0);
    client.data(stream, b"body", 0);
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags][..], &stream.to_be_bytes(), payload].concat()
    };
    client.send(&[frame(HEADERS, END_STREAM, b""), frame(CONTINUATION, END_HEADERS, b"\xbe")].concat());
    assert!(matches!(client.outcome(stream), Outcome::Reset(PROTOCOL_ERROR)));
    assert_eq!(status(&client.exchange(&ask("GET", &gate), b"")), Some(200));
}

#[test]
fn single_malformed_streams_do_not_end_a_shared_connection() {
    let gate = open_portal().start();
    let mut client = Http2::open(gate.proxy);
    let mut malformed = ask("GET", &gate);
    malformed.push(field("connection", "close"));
    for n in 0..300 {
        assert!(
            matches!(client.exchange(&malformed, b""), Outcome::Reset(PROTOCOL_ERROR)),
            "malformed stream {n}"
        );
        if n % 20 == 0 {
            assert_eq!(
                status(&client.exchange(&ask("GET", &gate), b"")),
                Some(200),
                "after {n} malformed streams"
            );
        }
    }
    assert_eq!(gate.app.count(), 15);
}

/// Sends until the gate ends the connection; returns the code of its GOAWAY.
fn goaway_after(client: &mut Http2, mut send: impl FnMut(&mut Http2) -> bool) -> Option<u32> {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(20) && send(client) {}
    while let Some(frame) = client.read() {
        if frame.kind == GOAWAY {
            return Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
        }
    }
    None
}

#[test]
fn floods_of_streams_that_the_gate_must_reset_end_the_connection() {
    let gate = open_portal().start();
    let mut malformed = ask("GET", &gate);
    malformed.push(field("connection", "close"));
    let mut client = Http2::open(gate.proxy);
    let code = goaway_after(&mut client, |client| {
        client.ask(&malformed, END_STREAM);
        client.frame(PING, 0, 0, &[0; 8])
    });
    // a reset of the connection may overtake the GOAWAY
    assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
    // a window that overflows makes the gate reset a good stream (MadeYouReset)
    let good = ask("GET", &gate);
    let mut client = Http2::open(gate.proxy);
    let code = goaway_after(&mut client, |client| {
        let stream = client.ask(&good, END_STREAM);
        client.frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])
    });
    assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
    let metrics = gate.metrics();
    assert!(
        metrics.contains("cedargate_http_rejected_total{reason=\"http2_flood\"} 2"),
        "{metrics}"
    );
}

/// Over HTTP/1 the gate escapes these characters; over HTTP/2 the library resets the stream, and no service sees it.
#[test]
fn a_stream_that_never_becomes_a_request_is_counted_and_recorded() {
    let gate = open_portal().start();
    let mut client = Http2::open(gate.proxy);
    let targets = ["/portal/p/a<b", "/portal/p/a>b", "/portal/p/a`b", "/portal/p/a?q=<"];
    for (before, target) in targets.into_iter().enumerate() {
        let mut fields = start("GET", target.as_bytes());
        fields.extend(ask("GET", &gate).into_iter().skip(4));
        let stream = client.ask(&fields, END_STREAM);
        assert!(matches!(client.outcome(stream), Outcome::Reset(PROTOCOL_ERROR)), "{target}");
        let counted = format!("cedargate_http_rejected_total{{reason=\"malformed\"}} {}", before + 1);
        eventually("the stream is counted", || {
            let metrics = gate.metrics();
            if metrics.contains(&counted) { Ok(()) } else { Err(metrics) }
        });
    }
    // an ordinary request, and a reset by the client, are none of them
    let stream = client.ask(&ask("GET", &gate), END_STREAM);
    assert_eq!(status(&client.outcome(stream)), Some(200));
    eventually("each has a record without a caller, and the request its own", || {
        let log = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap_or_default();
        let records: Vec<serde_json::Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let rejected = records.iter().filter(|record| record["kind"] == "http_rejected");
        let reasons: Vec<_> = rejected.map(|record| record["reason"].clone()).collect();
        let decisions = records.iter().filter(|record| record["kind"] == "decision").count();
        match (reasons == vec!["malformed"; targets.len()], decisions) {
            (true, 1) => Ok(()),
            _ => Err(format!("{records:?}")),
        }
    });
    assert_eq!(gate.app.count(), 1);
}
