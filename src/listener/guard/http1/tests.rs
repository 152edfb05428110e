//! The framing by itself, and behind the real stream in front of a real hyper server.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;
use crate::listener::watched::{Activity, Watched};

const GOOD: &[u8] = b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n";

/// A client that says its pieces, one per read, and hears everything.
struct Client {
    pieces: VecDeque<Vec<u8>>,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.pieces.front_mut() {
            Some(piece) if piece.is_empty() => {
                // a piece ends where the reader has to wait
                self.pieces.pop_front();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(piece) => {
                let length = piece.len().min(buf.remaining());
                buf.put_slice(&piece.drain(..length).collect::<Vec<_>>());
                Poll::Ready(Ok(()))
            }
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.heard.lock().unwrap().extend_from_slice(buf);
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

/// What a hyper server behind the guard made of the pieces: served requests, the answers' statuses, whether it was refused.
fn serve(pieces: &[&[u8]]) -> (Vec<Served>, Vec<String>, bool) {
    let served: Arc<Mutex<Vec<Served>>> = Arc::default();
    let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
    let activity = Activity::http1();
    let client = Client {
        pieces: pieces.iter().map(|piece| piece.to_vec()).collect(),
        heard: Arc::clone(&heard),
    };
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let (served, activity) = (Arc::clone(&served), Arc::clone(&activity));
        async move {
            let (method, target) = (request.method().to_string(), request.uri().to_string());
            let at = {
                let mut all = served.lock().unwrap();
                all.push((method, target, None));
                all.len() - 1
            };
            let Ok(body) = request.into_body().collect().await else {
                return Err("broken");
            };
            served.lock().unwrap()[at].2 = Some(body.to_bytes().to_vec());
            activity.answered(http::StatusCode::OK);
            Ok(http::Response::new(Empty::<Bytes>::new()))
        }
    });
    let watched = TokioIo::new(Watched::http1(client, Arc::clone(&activity)));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let connection = hyper::server::conn::http1::Builder::new()
        .max_buf_size(64 * 1024)
        .half_close(false)
        .serve_connection(watched, service);
    let _outcome = runtime.block_on(connection);
    let heard = String::from_utf8(heard.lock().unwrap().clone()).unwrap();
    let statuses = heard.split("HTTP/1.").skip(1).map(|answer| answer[2..5].to_owned()).collect();
    let served = served.lock().unwrap().clone();
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
        "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
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
    for value in ["", " ", "+3", "-3", "03", "3,3", "3 ", "3\t", "\t3", "0x3", "3a", "1234567890123456789", "3 3"] {
        all.push(request(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {value}"), "abc"));
    }
    for value in ["", "chunked ", "\tchunked", "chunked\t", "\u{b}chunked", "xchunked", "chunkedx", "chunked, identity", "gzip, chunked", ",chunked", "chunked,", "\"chunked\"", "chunked;q=1", "identity"] {
        all.push(request(&format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {value}"), "0\r\n\r\n"));
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

/// The pieces that a read boundary after every byte, at one place or nowhere gives.
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
            assert_eq!((served, statuses, refused), (Vec::new(), vec!["400".to_owned()], true), "{:?}", String::from_utf8_lossy(&bad));
        }
        // behind a good one, which is answered
        let pipeline = [GOOD, &bad].concat();
        for pieces in splits(&pipeline) {
            let (served, statuses, refused) = serve(&pieces);
            assert_eq!(served, [("GET".to_owned(), "/ok".to_owned(), Some(Vec::new()))], "{:?}", String::from_utf8_lossy(&bad));
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
        assert_eq!((served, statuses, refused), (Vec::new(), vec!["400".to_owned()], true), "{body:?}");
        for pieces in splits(&all) {
            let (served, statuses, refused) = serve(&pieces);
            assert!(refused, "{body:?}");
            assert!(served.iter().all(|(_, _, body)| body.is_none()), "{body:?} reached the service whole");
            assert!(statuses.iter().all(|status| status == "400"), "{body:?} {statuses:?}");
        }
    }
}

#[test]
fn what_is_well_formed_is_served_at_every_split() {
    let chunked = "POST /c HTTP/1.1\r\nhost: a\r\nTRANSFER-ENCODING: Chunked\r\n\r\n";
    for (all, expected) in [
        (request("GET / HTTP/1.0", ""), vec![("GET", "/", "")]),
        (request("GET /a?b=%20 HTTP/1.1\r\nHost:a\r\nX:\t a\tb \u{e9} \r\nEmpty:", ""), vec![("GET", "/a?b=%20", "")]),
        (request("POST /l HTTP/1.1\r\nHost: a\r\nContent-Length:   5", "hello"), vec![("POST", "/l", "hello")]),
        (request("POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: 0", ""), vec![("POST", "/l", "")]),
        ([chunked, "5\r\nhello\r\n00\r\n\r\n"].concat().into_bytes(), vec![("POST", "/c", "hello")]),
        ([chunked, "A\r\n0\r\n\r\nGET /\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n"].concat().into_bytes(), vec![("POST", "/c", "0\r\n\r\nGET /")]),
        (
            [&request("POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: 5", "hello")[..], chunked.as_bytes(), b"1\r\n\n\r\n0\r\n\r\n", GOOD].concat(),
            vec![("POST", "/l", "hello"), ("POST", "/c", "\n"), ("GET", "/ok", "")],
        ),
        (
            [&request("GET /u HTTP/1.1\r\nHost: a\r\nUpgrade: websocket", "")[..], GOOD, &request("POST /u HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nContent-Length: 2", "xy"), GOOD].concat(),
            vec![("GET", "/u", ""), ("GET", "/ok", ""), ("POST", "/u", "xy"), ("GET", "/ok", "")],
        ),
    ] {
        for pieces in splits(&all) {
            let (served, statuses, refused) = serve(&pieces);
            let expected: Vec<Served> = expected
                .iter()
                .map(|(method, target, body)| ((*method).to_owned(), (*target).to_owned(), Some(body.as_bytes().to_vec())))
                .collect();
            assert_eq!(served, expected, "{:?}", String::from_utf8_lossy(&all));
            assert!(!refused && statuses.iter().all(|status| status == "200"), "{statuses:?}");
        }
    }
}
