//! Tests the framing by itself, and in the real stream in front of a real hyper server.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Framing, ScanResult, Unescaped};
use crate::http::listener::activity::Activity;
use crate::http::listener::guarded_stream::{ClientEnd, GuardedStream};

const GOOD: &[u8] = b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n";

/// A client that sends its pieces, one per read, records every answer, and closes after `reads_left` empty reads.
struct Client {
    reads_left: usize,
    pieces: VecDeque<Vec<u8>>,
    received: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match this.pieces.front_mut() {
            Some(piece) if piece.is_empty() => {
                // a piece ends where the reader has to wait
                this.pieces.pop_front();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(piece) => {
                let length = piece.len().min(buf.remaining());
                buf.put_slice(&piece.drain(..length).collect::<Vec<_>>());
                Poll::Ready(Ok(()))
            }
            None if this.reads_left > 0 => {
                this.reads_left -= 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.received.lock().extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A request as the service saw it: method, target, body; no body if it broke.
type Served = (String, String, Option<Vec<u8>>);

/// Serves the pieces with hyper behind the guard.
fn serve(pieces: &[&[u8]]) -> (Vec<Served>, Vec<String>, bool) {
    let served: Arc<Mutex<Vec<Served>>> = Arc::default();
    let received: Arc<Mutex<Vec<u8>>> = Arc::default();
    let activity = Activity::http1();
    let client = Client {
        reads_left: 20,
        pieces: pieces.iter().map(|piece| piece.to_vec()).collect(),
        received: Arc::clone(&received),
    };
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let served = Arc::clone(&served);
        let activity = Arc::clone(&activity);
        async move {
            let method = request.method().to_string();
            let target = request.uri().to_string();
            let at = {
                let mut all = served.lock();
                all.push((method, target, None));
                all.len() - 1
            };
            let Ok(body) = request.into_body().collect().await else {
                return Err("broken");
            };
            served.lock()[at].2 = Some(body.to_bytes().to_vec());
            activity.answered(http::StatusCode::OK);
            Ok(http::Response::new(Empty::<Bytes>::new()))
        }
    });
    let client_end = ClientEnd {
        half_close_timeout: Duration::from_secs(10),
        duplicate: |_| Err(io::ErrorKind::Unsupported.into()),
    };
    let guarded = TokioIo::new(GuardedStream::http1(client, Arc::clone(&activity), client_end));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let connection = hyper::server::conn::http1::Builder::new()
        .max_buf_size(64 * 1024)
        .half_close(false)
        .serve_connection(guarded, service);
    let _outcome = runtime.block_on(connection);
    let received = String::from_utf8(received.lock().clone()).unwrap();
    let statuses = received
        .split("HTTP/1.")
        .skip(1)
        .map(|answer| answer[2..5].to_owned())
        .collect();
    let served = served.lock().clone();
    (served, statuses, activity.is_refused())
}

fn request(head: &str, body: &str) -> Vec<u8> {
    format!("{head}\r\n\r\n{body}").into_bytes()
}

/// Every rule of the grammar broken in a head.
fn bad_heads() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.10\r\nHost: a\r\n\r\n",
        "GET /#f HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\tfolded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost\t: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\u{0}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\u{1}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\u{b}c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\u{7f}c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\u{0}: b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent_Length: 3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    for value in [
        "",
        " ",
        "+3",
        "-3",
        "03",
        "3,3",
        "3 ",
        "3\t",
        "\t3",
        "0x3",
        "3a",
        "1234567890123456789",
        "3 3",
    ] {
        all.push(request(
            &format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {value}"),
            "abc",
        ));
    }
    for value in [
        "",
        "chunked ",
        "\tchunked",
        "chunked\t",
        "\u{b}chunked",
        "xchunked",
        "chunkedx",
        "chunked, identity",
        "gzip, chunked",
        ",chunked",
        "chunked,",
        "\"chunked\"",
        "chunked;q=1",
        "identity",
    ] {
        all.push(request(
            &format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {value}"),
            "0\r\n\r\n",
        ));
    }
    all
}

fn bad_chunks() -> Vec<&'static str> {
    vec![
        "3;x=y\r\nabc\r\n0\r\n\r\n",
        "3;\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "3\t\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\n\r\n",
        "3\r\nabc\r\n0\r\n\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "g\r\nabc\r\n0\r\n\r\n",
        "00000000000000003\r\nabc\r\n0\r\n\r\n",
        "8000000000000000\r\nabc",
        "ffffffffffffffff\r\nabc",
        "3\rabc\r\n0\r\n\r\n",
        "3\r\nabc\r0\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\nX: y\r\n folded\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX: \u{0}\r\n\r\n",
        "0\r\nContent-Length: 3\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nHost: b\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\n: x\r\n\r\n",
    ]
}

/// Splits the bytes after every byte, nowhere, and at each single position.
fn splits(all: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut found = vec![all.chunks(1).collect::<Vec<_>>(), vec![all]];
    found.extend((1..all.len()).map(|at| vec![&all[..at], &all[at..]]));
    found
}

#[test]
fn a_bad_head_is_refused_by_hyper_at_every_split_and_no_service_sees_it() {
    for bad in bad_heads() {
        for pieces in splits(&bad) {
            let (served, statuses, refused) = serve(&pieces);
            assert_eq!(
                (served, statuses, refused),
                (Vec::new(), vec!["400".to_owned()], true),
                "{:?}",
                String::from_utf8_lossy(&bad)
            );
        }
        // behind a good one, which is answered
        let pipeline = [GOOD, &bad].concat();
        for pieces in splits(&pipeline) {
            let (served, statuses, refused) = serve(&pieces);
            assert_eq!(
                served,
                [("GET".to_owned(), "/ok".to_owned(), Some(Vec::new()))],
                "{:?}",
                String::from_utf8_lossy(&bad)
            );
            assert_eq!((statuses, refused), (vec!["200".to_owned(), "400".to_owned()], true));
        }
    }
}

#[test]
fn a_bad_chunked_body_stops_its_request_in_one_read_and_breaks_it_later() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in bad_chunks() {
        let all = [head, body].concat().into_bytes();
        let (served, statuses, refused) = serve(&[&all]);
        assert_eq!(
            (served, statuses, refused),
            (Vec::new(), vec!["400".to_owned()], true),
            "{body:?}"
        );
        for pieces in splits(&all) {
            let (served, statuses, refused) = serve(&pieces);
            assert!(refused, "{body:?}");
            assert!(
                served.iter().all(|(_, _, body)| body.is_none()),
                "{body:?} reached the service whole"
            );
            assert!(statuses.iter().all(|status| status == "400"), "{body:?} {statuses:?}");
        }
    }
}

#[test]
fn well_formed_requests_are_served_at_every_split() {
    let chunked = "POST /c HTTP/1.1\r\nhost: a\r\nTRANSFER-ENCODING: Chunked\r\n\r\n";
    for (all, expected) in [
        (request("GET / HTTP/1.0", ""), vec![("GET", "/", "")]),
        (
            request("GET /a?b=%20 HTTP/1.1\r\nHost:a\r\nX:\t a\tb \u{e9} \r\nEmpty:", ""),
            vec![("GET", "/a?b=%20", "")],
        ),
        (
            request("POST /l HTTP/1.1\r\nHost: a\r\nContent-Length:   5", "hello"),
            vec![("POST", "/l", "hello")],
        ),
        (
            request("POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: 0", ""),
            vec![("POST", "/l", "")],
        ),
        (
            [chunked, "5\r\nhello\r\n00\r\n\r\n"].concat().into_bytes(),
            vec![("POST", "/c", "hello")],
        ),
        (
            [chunked, "A\r\n0\r\n\r\nGET /\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n"]
                .concat()
                .into_bytes(),
            vec![("POST", "/c", "0\r\n\r\nGET /")],
        ),
        (
            [
                &request("POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: 5", "hello")[..],
                chunked.as_bytes(),
                b"1\r\n\n\r\n0\r\n\r\n",
                GOOD,
            ]
            .concat(),
            vec![("POST", "/l", "hello"), ("POST", "/c", "\n"), ("GET", "/ok", "")],
        ),
        (
            [
                &request("GET /u HTTP/1.1\r\nHost: a\r\nUpgrade: websocket", "")[..],
                GOOD,
                &request("POST /u HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nContent-Length: 2", "xy"),
                GOOD,
            ]
            .concat(),
            vec![
                ("GET", "/u", ""),
                ("GET", "/ok", ""),
                ("POST", "/u", "xy"),
                ("GET", "/ok", ""),
            ],
        ),
    ] {
        for pieces in splits(&all) {
            let (served, statuses, refused) = serve(&pieces);
            let expected: Vec<Served> = expected
                .iter()
                .map(|(method, target, body)| ((*method).to_owned(), (*target).to_owned(), Some(body.as_bytes().to_vec())))
                .collect();
            let cut = pieces.first().map_or(0, |piece| piece.len());
            assert_eq!(
                served,
                expected,
                "{:?} cut at {cut}: {statuses:?}",
                String::from_utf8_lossy(&all)
            );
            assert!(!refused && statuses.iter().all(|status| status == "200"), "{statuses:?}");
        }
    }
}

/// One well-formed request: its bytes, and the request that the service must see.
fn valid_request() -> impl Strategy<Value = (Vec<u8>, Served)> {
    let method = prop_oneof![Just("GET"), Just("POST"), Just("DELETE"), Just("M-SEARCH")];
    let fields = vec(("[A-Za-z][A-Za-z0-9-]{0,20}x", "[ -~\t]{0,40}"), 0..6);
    let body = prop_oneof![
        Just(None),
        vec(any::<u8>(), 0..60).prop_map(|body| Some(vec![body])),
        vec(vec(any::<u8>(), 1..40), 0..4).prop_map(Some),
    ];
    (
        method,
        "/[a-z0-9/?=&%.~_<>\"{}|^`\u{e9}-]{0,30}",
        fields,
        body,
        any::<[bool; 3]>(),
    )
        .prop_map(|(method, target, fields, body, [chunk, upgrade, trailer])| {
            let mut bytes = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
            for (name, value) in &fields {
                bytes.extend(format!("{name}:{value}\r\n").into_bytes());
            }
            bytes.extend(b"hOsT: a.test\r\n");
            if upgrade {
                bytes.extend(b"Upgrade: foo\r\n");
            }
            let whole = body.clone().unwrap_or_default().concat();
            match body {
                Some(pieces) if chunk => {
                    bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                        bytes.extend(format!("{:X}\r\n", piece.len()).into_bytes());
                        bytes.extend(piece);
                        bytes.extend(b"\r\n");
                    }
                    bytes.extend(if trailer { &b"0\r\nX-T: 1\r\n\r\n"[..] } else { b"0\r\n\r\n" });
                }
                Some(_) => {
                    bytes.extend(format!("Content-Length: {}\r\n\r\n", whole.len()).into_bytes());
                    bytes.extend(&whole);
                }
                None => bytes.extend(b"\r\n"),
            }
            (bytes, (method.to_owned(), with_escapes(target.as_bytes()), Some(whole)))
        })
}

/// The target with the escapes that its client left out.
fn with_escapes(target: &[u8]) -> String {
    let escape = |byte: &u8| match byte {
        b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => format!("%{byte:02X}"),
        _ => char::from(*byte).to_string(),
    };
    target.iter().map(escape).collect()
}

fn split_at<'a>(bytes: &'a [u8], at: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut positions: Vec<usize> = at.iter().map(|index| index.index(bytes.len() + 1)).collect();
    positions.extend([0, bytes.len()]);
    positions.sort_unstable();
    positions.dedup();
    positions.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// Parses the first message as a strict reader does; returns the message and the rest. Works on whole lines, so that it
/// shares nothing with the framing.
fn reference(bytes: &[u8]) -> Option<(Served, &[u8])> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = &bytes[..end];
    let rest = &bytes[end + 4..];
    let lines = lines(head)?;
    let (first, fields) = lines.split_first()?;
    let [method, target, version] = first.split(|b| *b == b' ').collect::<Vec<_>>().try_into().ok()?;
    let visible = |b: &u8| ((0x21..0x7f).contains(b) && *b != b'#') || !b.is_ascii();
    let lawful = !target.is_empty() && target.iter().all(visible) && is_name(method);
    if !lawful || (version != b"HTTP/1.1" && version != b"HTTP/1.0") {
        return None;
    }
    let fields: Vec<(String, &[u8])> = fields.iter().map(|line| field_of(line)).collect::<Option<_>>()?;
    let all = |name: &str| fields.iter().filter(|(n, _)| n.replace('_', "-") == name).collect::<Vec<_>>();
    let hosts = all("host");
    let lengths = all("content-length");
    let encodings = all("transfer-encoding");
    let new = version == b"HTTP/1.1";
    if hosts.len() > 1 || (new && hosts.is_empty()) || lengths.len() + encodings.len() > 1 {
        return None;
    }
    let said = |body: &[u8]| {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(method), with_escapes(target), Some(body.to_vec()))
    };
    if let Some((name, value)) = lengths.first() {
        let text = std::str::from_utf8(value).ok()?.trim_start_matches(' ');
        let length: u64 = text.parse().ok()?;
        if name.contains('_') || length.to_string() != text || text.len() > 18 {
            return None;
        }
        let length = usize::try_from(length).ok()?;
        return Some((said(rest.get(..length)?), &rest[length..]));
    }
    if let Some((name, value)) = encodings.first() {
        let text = std::str::from_utf8(value).ok()?.trim_start_matches(' ');
        if !new || name.contains('_') || !text.eq_ignore_ascii_case("chunked") {
            return None;
        }
        let (body, rest) = chunks_of(rest)?;
        return Some((said(&body), rest));
    }
    Some((said(b""), rest))
}

fn chunks_of(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let end = rest.iter().position(|b| *b == b'\n')?;
        let size = rest[..end].strip_suffix(b"\r")?;
        if size.is_empty() || size.len() > 16 || !size.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let size = usize::try_from(i64::from_str_radix(std::str::from_utf8(size).unwrap(), 16).ok()?).ok()?;
        rest = &rest[end + 1..];
        if size == 0 {
            if let Some(rest) = rest.strip_prefix(b"\r\n") {
                return Some((body, rest));
            }
            let end = rest.windows(4).position(|four| four == b"\r\n\r\n")?;
            for line in lines(&rest[..end])? {
                let (name, _) = field_of(line)?;
                if ["host", "content-length", "transfer-encoding"].contains(&name.replace('_', "-").as_str()) {
                    return None;
                }
            }
            return Some((body, &rest[end + 4..]));
        }
        body.extend(rest.get(..size)?);
        rest = rest[size..].strip_prefix(b"\r\n")?;
    }
}

/// Lines between CRLFs, none of which holds a CR or LF of its own.
fn lines(text: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        found.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    found.push(rest);
    let whole = |line: &&[u8]| !line.iter().any(|b| matches!(b, b'\r' | b'\n'));
    found.iter().all(whole).then_some(found)
}

fn field_of(line: &[u8]) -> Option<(String, &[u8])> {
    let colon = line.iter().position(|b| *b == b':')?;
    let name = &line[..colon];
    let value = &line[colon + 1..];
    let lawful = is_name(name) && value.iter().all(|b| *b == b'\t' || (*b >= 0x20 && *b != 0x7f));
    lawful.then(|| (String::from_utf8(name.to_ascii_lowercase()).unwrap(), value))
}

fn is_name(name: &[u8]) -> bool {
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !name.is_empty() && name.iter().all(token)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_valid_pipeline_passes_unchanged_however_it_is_split(
        requests in vec(valid_request(), 1..5),
        positions in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let bytes: Vec<u8> = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let mut framing = Framing::new();
        for piece in split_at(&bytes, &positions) {
            let mut rest = piece.to_vec();
            loop {
                match framing.scan(&rest) {
                    ScanResult::Pass => break,
                    ScanResult::Refuse(at) => prop_assert!(false, "refused at {at} of {:?}", String::from_utf8_lossy(&rest)),
                    ScanResult::Hold(at) => {
                        framing.continue_as_http();
                        rest.drain(..at);
                    }
                    ScanResult::Escape(Unescaped { at, length }) => {
                        let escaped = with_escapes(&rest[at..at + length]);
                        rest = [escaped.as_bytes(), &rest[at + length..]].concat();
                    }
                }
            }
        }
        prop_assert_eq!(framing.heads(), requests.len() as u64);
        let (served, statuses, refused) = serve(&split_at(&bytes, &positions));
        let expected: Vec<Served> = requests.into_iter().map(|(_, served)| served).collect();
        prop_assert_eq!(served, expected);
        prop_assert!(!refused && statuses.iter().all(|status| status == "200"));
    }

    #[test]
    fn of_a_mutated_pipeline_only_what_a_strict_reader_reads_is_served(
        requests in vec(valid_request(), 1..4),
        positions in vec(any::<prop::sample::Index>(), 0..4),
        mutations in vec((any::<prop::sample::Index>(), 0..4_u8, prop::sample::select(&b"\r\n\t :;,#\0\x0b0aA_-{\x80"[..])), 1..4),
    ) {
        let mut bytes: Vec<u8> = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        for (at, kind, byte) in mutations {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => { bytes.remove(at); }
                _ => bytes.truncate(at.max(1)),
            }
            prop_assume!(!bytes.is_empty());
        }
        let mut lawful = Vec::new();
        let mut rest = &bytes[..];
        while let Some((said, after)) = reference(rest) {
            lawful.push(said);
            rest = after;
        }
        let (served, _, _) = serve(&split_at(&bytes, &positions));
        // whole requests are the strict reader's, in its order; one more may have begun and broken
        let whole: Vec<_> = served.iter().filter(|(_, _, body)| body.is_some()).cloned().collect();
        prop_assert!(lawful.starts_with(&whole), "{whole:?} of {lawful:?} in {:?}", String::from_utf8_lossy(&bytes));
        prop_assert!(served.len() <= whole.len() + 1 && served.starts_with(&whole), "{served:?}");
    }
}

proptest! {
    #[test]
    fn reading_eight_bytes_at_a_time_stops_at_the_same_byte_as_reading_one(
        bytes in vec(prop_oneof![8 => 0x20..0x7f_u8, 1 => any::<u8>(), 1 => prop::sample::select(&b"\t\x1f\x7f\x80\0"[..])], 0..64),
    ) {
        let outside = |byte: &u8| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f;
        let expected = bytes.iter().position(outside).unwrap_or(bytes.len());
        prop_assert_eq!(super::byte_classes::value_run(&bytes), expected);
    }
}
