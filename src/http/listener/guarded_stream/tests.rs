//! Tests early hints, and the bytes held back behind upgrades, over a real hyper connection.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::http::listener::activity::EarlyHints;

const LINK: &str = "</style.css>; rel=preload";

fn no_socket<S>() -> ClientEnd<S> {
    ClientEnd {
        half_close_timeout: Duration::from_secs(10),
        duplicate: |_| Err(io::ErrorKind::Unsupported.into()),
    }
}

fn hints() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("link", HeaderValue::from_static(LINK));
    headers.insert("content-length", HeaderValue::from_static("7"));
    headers
}

/// Sends `sent` to a server that calls `before` and then answers; returns the bytes up to so many answers.
async fn exchange(sent: &str, answers: usize, before: impl Fn(Option<EarlyHints>) + Clone + 'static) -> String {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let activity = Activity::http1();
    let guarded = TokioIo::new(GuardedStream::http1(server, Arc::clone(&activity), no_socket()));
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let in_flight = activity.begin_request(request.version());
        let activity = Arc::clone(&activity);
        let before = before.clone();
        async move {
            before(activity.early_hints());
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            activity.answered(StatusCode::OK);
            drop(in_flight);
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(guarded, service);
    client.write_all(sent.as_bytes()).await.unwrap();
    let served = async {
        let _ended = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        received = until(&mut client, answers) => received,
        () = served => String::new(),
    }
}

async fn until(client: &mut DuplexStream, answers: usize) -> String {
    let mut received = String::new();
    while received.matches("done").count() < answers {
        let mut piece = vec![0; 4096];
        let length = client.read(&mut piece).await.unwrap();
        assert!(length > 0, "the end after {received}");
        received.push_str(std::str::from_utf8(&piece[..length]).unwrap());
    }
    received
}

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn early_hints_precede_their_answer_and_hold_no_framing_headers() {
    let received = exchange(REQUEST, 1, |hint| hint.unwrap().send(&hints())).await;
    let expected = format!("HTTP/1.1 103 Early Hints\r\nlink: {LINK}\r\n\r\nHTTP/1.1 200 OK\r\n");
    assert!(received.starts_with(&expected), "{received}");
}

#[tokio::test]
async fn early_hints_sent_together_are_all_written() {
    let received = exchange(REQUEST, 1, |hint| {
        let hint = hint.unwrap();
        hint.send(&hints());
        hint.send(&hints());
    })
    .await;
    assert_eq!(received.matches("HTTP/1.1 103 Early Hints\r\n").count(), 2, "{received}");
    assert!(received.rfind(" 103 ") < received.find(" 200 "), "{received}");
}

#[tokio::test]
async fn early_hints_from_another_task_wake_the_connection() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let received = exchange(REQUEST, 1, |hint| {
                tokio::task::spawn_local(async move { hint.unwrap().send(&hints()) });
            })
            .await;
            assert!(
                received.starts_with("HTTP/1.1 103 Early Hints\r\n") && received.contains("200 OK"),
                "{received}"
            );
        })
        .await;
}

#[tokio::test]
async fn no_early_hints_for_http_1_0_for_answered_requests_or_beyond_the_size_limit() {
    let old = exchange("GET / HTTP/1.0\r\nHost: a\r\n\r\n", 1, |hint| assert!(hint.is_none())).await;
    assert!(old.starts_with("HTTP/1.0 200 OK"), "{old}");
    let large = exchange(REQUEST, 1, |hint| {
        let mut headers = HeaderMap::new();
        headers.insert("link", HeaderValue::from_str(&"x".repeat(9000)).unwrap());
        hint.unwrap().send(&headers);
    })
    .await;
    assert!(large.starts_with("HTTP/1.1 200 OK"), "{large}");
    assert!(Activity::http2().early_hints().is_none());
    // a hint of the first request that is sent during the second one is dropped
    let first_hints: Arc<Mutex<Option<EarlyHints>>> = Arc::default();
    let kept = Arc::clone(&first_hints);
    let received = exchange(&REQUEST.repeat(2), 2, move |hint| {
        let late = kept.lock().replace(hint.unwrap());
        if let Some(late) = late {
            late.send(&hints());
        }
    })
    .await;
    assert!(first_hints.lock().is_some() && !received.contains("103"), "{received}");
}

/// Returns how many of the early bytes pass before the answer, and all bytes that pass after an answer with this
/// status.
async fn upgrade(status: StatusCode, early: &str) -> (usize, Vec<u8>) {
    let activity = Activity::http1();
    let _in_flight = activity.begin_request(http::Version::HTTP_11);
    let mut guarded = GuardedStream::http1(stream_with(early.as_bytes()), Arc::clone(&activity), no_socket());
    let mut seen = Vec::new();
    read_available(&mut guarded, &mut seen).await;
    let before = seen.len();
    activity.answered(status);
    read_available(&mut guarded, &mut seen).await;
    (before, seen)
}

async fn read_available(guarded: &mut GuardedStream<DuplexStream>, seen: &mut Vec<u8>) {
    let silence = std::time::Duration::from_millis(50);
    while let Ok(Ok(1..)) = tokio::time::timeout(silence, guarded.read_buf(seen)).await {}
}

/// A stream that sends these bytes and stays open.
fn stream_with(bytes: &[u8]) -> DuplexStream {
    let (client, server) = tokio::io::duplex(1 << 20);
    let bytes = bytes.to_vec();
    tokio::spawn(async move {
        let mut client = client;
        client.write_all(&bytes).await.unwrap();
        std::future::pending::<()>().await;
    });
    server
}

#[tokio::test]
async fn early_bytes_behind_an_upgrade_wait_for_its_answer_and_then_are_what_it_says() {
    let head = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
    // the guard does not read the bytes of a tunnel
    let bytes = format!("{head}\0\u{1}not http\r\r\n");
    let tunnel = upgrade(StatusCode::SWITCHING_PROTOCOLS, &bytes).await;
    assert_eq!(tunnel, (head.len(), bytes.clone().into_bytes()));
    // after a refused upgrade they are the next request
    let refused = upgrade(StatusCode::OK, &bytes).await;
    assert_eq!(refused, (head.len(), [head.as_bytes(), INVALID_BYTES].concat()));
    let next = format!("{head}{REQUEST}");
    assert_eq!(upgrade(StatusCode::FORBIDDEN, &next).await, (head.len(), next.into_bytes()));
    // bytes beyond the limit wait in the socket, and none are lost
    let flood = format!("{head}{}", "x".repeat(300 * 1024));
    let (before, seen) = upgrade(StatusCode::SWITCHING_PROTOCOLS, &flood).await;
    assert_eq!((before, seen.len()), (head.len(), flood.len()));
}
