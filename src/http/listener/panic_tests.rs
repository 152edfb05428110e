//! Tests that a panic ends one request and is counted; other requests, the listener and the process go on.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::timeout;

use super::*;
use crate::base::lifecycle::{ShutdownTrigger, shutdown};
use crate::config::Config;

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

struct Gate {
    address: SocketAddr,
    metrics: Metrics,
    trigger: ShutdownTrigger,
    served: JoinHandle<()>,
    /// Lets `/slow` be answered.
    release: Rc<Notify>,
}

/// A gate whose handler panics at once, after a wait, or after reading a body, and answers all other paths.
fn gate() -> Gate {
    let limits = Config::from_yaml("upstream: { url: 'http://127.0.0.1:1' }").unwrap().limits;
    let metrics = Metrics::new().unwrap();
    let (trigger, shutdown) = shutdown();
    let count = ConnectionCount::new("limits.connections", 100);
    let context = Rc::new(ListenerContext::new(&limits, count, &metrics, Box::new(|_, _| {})));
    let socket = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
    let address = socket.local_addr().unwrap();
    let release = Rc::new(Notify::new());
    let released = Rc::clone(&release);
    let handler = move |request: Request<Incoming>, _client: Rc<ClientConnection>| {
        let released = Rc::clone(&released);
        assert!(request.uri().path() != "/panic-unpolled", "on purpose");
        async move {
            let (head, body) = request.into_parts();
            match head.uri.path() {
                "/panic" => panic!("on purpose"),
                "/panic-late" => {
                    tokio::task::yield_now().await;
                    panic!("on purpose, late");
                }
                "/panic-body" => {
                    let read = body.collect().await.unwrap().to_bytes();
                    panic!("on purpose, after {} bytes", read.len());
                }
                "/slow" => released.notified().await,
                _ => {}
            }
            Response::new(Body::full(Bytes::from_static(b"fine")))
        }
    };
    let served = spawn_local(serve(Socket::tcp(socket).unwrap(), context, shutdown, handler));
    Gate {
        address,
        metrics,
        trigger,
        served,
        release,
    }
}

async fn local<F: Future<Output = ()>>(test: F) {
    LocalSet::new()
        .run_until(async { timeout(TEST_TIMEOUT, test).await.expect("the test hangs") })
        .await;
}

/// One exchange on a kept connection; returns the bytes before the end if the connection ends.
async fn exchange(client: &mut TcpStream, head: &str) -> String {
    client.write_all(head.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    while !all.ends_with(b"fine") {
        if client.read_buf(&mut all).await.unwrap_or(0) == 0 {
            break;
        }
    }
    String::from_utf8(all).unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[tokio::test]
async fn a_panic_at_any_time_ends_only_its_own_request_and_is_counted_once() {
    local(async {
        let gate = gate();
        let body = "POST /panic-body HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".to_owned();
        let requests = [get("/panic"), get("/panic-late"), get("/panic-unpolled"), body];
        for (before, panicking) in requests.iter().enumerate() {
            let mut neighbour = TcpStream::connect(gate.address).await.unwrap();
            assert!(exchange(&mut neighbour, &get("/")).await.contains("200 OK"));
            let mut slow = TcpStream::connect(gate.address).await.unwrap();
            slow.write_all(get("/slow").as_bytes()).await.unwrap();
            let mut client = TcpStream::connect(gate.address).await.unwrap();
            assert!(
                exchange(&mut client, &get("/")).await.contains("200 OK"),
                "an earlier request of its own"
            );
            assert_eq!(exchange(&mut client, panicking).await, "", "{panicking}");
            assert_eq!(gate.metrics.panics.get(), before as u64 + 1, "{panicking}");
            assert!(
                exchange(&mut neighbour, &get("/")).await.contains("200 OK"),
                "a kept connection goes on"
            );
            gate.release.notify_one();
            let mut answer = Vec::new();
            while !answer.ends_with(b"fine") {
                assert_ne!(
                    slow.read_buf(&mut answer).await.unwrap(),
                    0,
                    "the request in flight is answered"
                );
            }
        }
        gate.trigger.close();
        gate.served.await.expect("the listener ends without a panic");
        assert_eq!(gate.metrics.connections.get(), 0, "every slot is free again");
    })
    .await;
}

#[tokio::test]
async fn an_http2_panic_ends_only_its_own_stream() {
    local(async {
        let gate = gate();
        let stream = TcpStream::connect(gate.address).await.unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (client, connection) = handshake.await.unwrap();
        spawn_local(connection);
        let send = |path: &str| {
            let request = Request::get(format!("http://a{path}")).body(Empty::<Bytes>::new()).unwrap();
            client.clone().send_request(request)
        };
        let slow = spawn_local(send("/slow"));
        for (before, path) in ["/panic", "/panic-late"].into_iter().enumerate() {
            let error = send(path).await.expect_err("there is no answer");
            assert!(!error.is_canceled(), "the stream was reset, not lost: {error:?}");
            assert_eq!(gate.metrics.panics.get(), before as u64 + 1);
            assert_eq!(send("/").await.unwrap().status(), 200, "the connection goes on");
        }
        gate.release.notify_one();
        let answer = slow.await.unwrap().unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "fine");
    })
    .await;
}
