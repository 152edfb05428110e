//! Early hints and what is kept back behind upgrades, over a real hyper connection.

use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

const LOOK: &str = "</style.css>; rel=preload";

fn hints() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("link", HeaderValue::from_static(LOOK));
    headers.insert("content-length", HeaderValue::from_static("7"));
    headers
}

/// A server whose answer waits for what `before` does; hears so many answers.
async fn exchange(said: &str, answers: usize, before: impl Fn(Option<EarlyHints>) + Clone + 'static) -> String {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let activity = Activity::http1();
    let watched = TokioIo::new(Watched::http1(server, Arc::clone(&activity)));
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let busy = activity.request(request.version());
        let (activity, before) = (Arc::clone(&activity), before.clone());
        async move {
            before(activity.hints());
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            activity.answered(StatusCode::OK);
            drop(busy);
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(watched, service);
    client.write_all(said.as_bytes()).await.unwrap();
    let served = async {
        let _ended = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        heard = until(&mut client, answers) => heard,
        () = served => String::new(),
    }
}

async fn until(client: &mut DuplexStream, answers: usize) -> String {
    let mut heard = String::new();
    while heard.matches("done").count() < answers {
        let mut piece = vec![0; 4096];
        let length = client.read(&mut piece).await.unwrap();
        assert!(length > 0, "the end after {heard}");
        heard.push_str(std::str::from_utf8(&piece[..length]).unwrap());
    }
    heard
}

const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn hints_come_before_their_answer_and_say_nothing_of_framing() {
    let heard = exchange(ASK, 1, |hint| hint.unwrap().send(&hints())).await;
    let expected = format!("HTTP/1.1 103 Early Hints\r\nlink: {LOOK}\r\n\r\nHTTP/1.1 200 OK\r\n");
    assert!(heard.starts_with(&expected), "{heard}");
}

#[tokio::test]
async fn hints_that_come_together_all_come() {
    let heard = exchange(ASK, 1, |hint| {
        let hint = hint.unwrap();
        hint.send(&hints());
        hint.send(&hints());
    })
    .await;
    assert_eq!(heard.matches("HTTP/1.1 103 Early Hints\r\n").count(), 2, "{heard}");
    assert!(heard.rfind(" 103 ") < heard.find(" 200 "), "{heard}");
}

#[tokio::test]
async fn hints_from_elsewhere_wake_the_connection() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let heard = exchange(ASK, 1, |hint| {
                tokio::task::spawn_local(async move { hint.unwrap().send(&hints()) });
            })
            .await;
            assert!(
                heard.starts_with("HTTP/1.1 103 Early Hints\r\n") && heard.contains("200 OK"),
                "{heard}"
            );
        })
        .await;
}

#[tokio::test]
async fn no_hints_for_old_clients_answered_requests_or_beyond_a_size() {
    let old = exchange("GET / HTTP/1.0\r\nHost: a\r\n\r\n", 1, |hint| assert!(hint.is_none())).await;
    assert!(old.starts_with("HTTP/1.0 200 OK"), "{old}");
    let large = exchange(ASK, 1, |hint| {
        let mut headers = HeaderMap::new();
        headers.insert("link", HeaderValue::from_str(&"x".repeat(9000)).unwrap());
        hint.unwrap().send(&headers);
    })
    .await;
    assert!(large.starts_with("HTTP/1.1 200 OK"), "{large}");
    assert!(Activity::http2().hints().is_none());
    // a hint that is kept for the next request is for nobody
    let kept: Arc<Mutex<Option<EarlyHints>>> = Arc::default();
    let keep = Arc::clone(&kept);
    let heard = exchange(&ASK.repeat(2), 2, move |hint| {
        let late = keep.lock().unwrap().replace(hint.unwrap());
        if let Some(late) = late {
            late.send(&hints());
        }
    })
    .await;
    assert!(kept.lock().unwrap().is_some() && !heard.contains("103"), "{heard}");
}

/// What passes of the early bytes before the answer has this status, and altogether.
async fn upgrade(status: StatusCode, early: &str) -> (usize, Vec<u8>) {
    let activity = Activity::http1();
    let _busy = activity.request(http::Version::HTTP_11);
    let mut watched = Watched::http1(saying(early.as_bytes()), Arc::clone(&activity));
    let mut seen = Vec::new();
    all_there_is(&mut watched, &mut seen).await;
    let before = seen.len();
    activity.answered(status);
    all_there_is(&mut watched, &mut seen).await;
    (before, seen)
}

async fn all_there_is(watched: &mut Watched<DuplexStream>, seen: &mut Vec<u8>) {
    let silence = std::time::Duration::from_millis(50);
    while let Ok(Ok(1..)) = tokio::time::timeout(silence, watched.read_buf(seen)).await {}
}

/// A stream that has said something and stays open.
fn saying(said: &[u8]) -> DuplexStream {
    let (client, server) = tokio::io::duplex(1 << 20);
    let said = said.to_vec();
    tokio::spawn(async move {
        let mut client = client;
        client.write_all(&said).await.unwrap();
        std::future::pending::<()>().await;
    });
    server
}

#[tokio::test]
async fn early_bytes_behind_an_upgrade_wait_for_its_answer_and_then_are_what_it_says() {
    let head = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
    // a tunnel's bytes are nobody's to judge
    let bytes = format!("{head}\0\u{1}not http\r\r\n");
    let tunnel = upgrade(StatusCode::SWITCHING_PROTOCOLS, &bytes).await;
    assert_eq!(tunnel, (head.len(), bytes.clone().into_bytes()));
    // a refused upgrade's are the next request
    let refused = upgrade(StatusCode::OK, &bytes).await;
    assert_eq!(refused, (head.len(), [head.as_bytes(), POISON].concat()));
    let next = format!("{head}{ASK}");
    assert_eq!(upgrade(StatusCode::FORBIDDEN, &next).await, (head.len(), next.into_bytes()));
    // more than what is kept back waits outside, and is not lost
    let flood = format!("{head}{}", "x".repeat(300 * 1024));
    let (before, seen) = upgrade(StatusCode::SWITCHING_PROTOCOLS, &flood).await;
    assert_eq!((before, seen.len()), (head.len(), flood.len()));
}
