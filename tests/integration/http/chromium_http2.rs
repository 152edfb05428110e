//! A real browser over TLS and HTTP/2: fetch, server-sent events and a WebSocket that Chromium puts on the same
//! connection.
//!
//! Chromium comes from `make tools`. The page is the app's own; it says what it saw to the app, on a public path.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::http::interoperability::{TLS, certified, portal};
use crate::support::eventually;
use crate::support::tools::tool;

const PAGE: &str = r#"<!doctype html><title>page</title><script>
const at = "/portal/p/assets/";
async function ask(path, options) { const r = await fetch(path, options); return [r.status, await r.text()]; }
function events() {
  return new Promise((done, failed) => {
    const got = [], source = new EventSource(at + "events");
    source.onmessage = e => { got.push(e.data); if (got.length == 3) { source.close(); done(got); } };
    source.onerror = () => failed("events");
  });
}
function socket(path) {
  return new Promise(done => {
    const s = new WebSocket("wss://" + location.host + path, ["a.chat", "b.chat"]), got = [];
    s.onopen = () => { got.push(s.protocol); s.send("hello"); s.send(new Uint8Array(70000)); };
    s.onmessage = async e => {
      got.push(typeof e.data == "string" ? e.data : e.data.size);
      if (got.length == 3) s.close(4005, "enough");
    };
    s.onclose = e => done([...got, e.code]);
  });
}
(async () => {
  const seen = {};
  const steps = {
    open: () => ask(at + "text"),
    posted: () => ask(at + "text", { method: "POST", body: "x".repeat(100000) }),
    protected: async () => (await ask("/portal/p/secret"))[0],
    ambiguous: async () => (await ask(at + "a%2fb"))[0],
    events, socket: () => socket(at + "socket"), protectedSocket: () => socket("/portal/p/socket"),
    protocols: async () => [...new Set(performance.getEntriesByType("resource").map(e => e.nextHopProtocol))],
  };
  for (const name in steps) { try { seen[name] = await steps[name](); } catch (e) { seen[name] = "failed: " + e; } }
  await fetch(at + "report", { method: "POST", body: JSON.stringify(seen) });
})();
</script>"#;

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn whole(kind: &str, text: String) -> Answer {
    let response = Response::builder().header("content-type", kind);
    response.body(Full::new(Bytes::from(text)).boxed()).unwrap()
}

fn events() -> Answer {
    let events = futures_util::stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let event = Frame::data(Bytes::from(format!("data: {n}\n\n")));
        Some((Ok(event), n + 1))
    });
    let response = Response::builder().header("content-type", "text/event-stream");
    response.body(BodyExt::boxed(StreamBody::new(events))).unwrap()
}

fn socket(request: Request<Incoming>) -> Answer {
    let key = derive_accept_key(request.headers()["sec-websocket-key"].as_bytes());
    tokio::spawn(async move {
        let upgraded = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Server, None).await;
        // reading on after a close is what answers it
        while let Some(Ok(message)) = socket.next().await {
            if !message.is_close() && socket.send(message).await.is_err() {
                break;
            }
        }
    });
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-protocol", "b.chat")
        .header("sec-websocket-accept", key);
    response.body(Full::new(Bytes::new()).boxed()).unwrap()
}

async fn answer(request: Request<Incoming>, report: Sender<Value>) -> Result<Answer, Infallible> {
    Ok(match request.uri().path() {
        "/portal/p/assets/page" => whole("text/html; charset=utf-8", PAGE.to_owned()),
        "/portal/p/assets/events" => events(),
        "/portal/p/assets/socket" => socket(request),
        "/portal/p/assets/report" => {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            drop(report.send(serde_json::from_slice(&body).unwrap()));
            whole("text/plain", String::new())
        }
        "/portal/p/assets/text" => {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            whole("text/plain", format!("{} bytes", body.len()))
        }
        other => whole("text/plain", format!("no `{other}` here")),
    })
}

fn start(report: Sender<Value>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let report = report.clone();
                let service = service_fn(move |request| answer(request, report.clone()));
                let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection.with_upgrades());
            }
        });
    });
    address
}

#[test]
fn chromium_fetches_listens_and_opens_sockets_over_one_http_2_connection() {
    let (report, seen) = channel();
    let gate = certified(portal(&format!("http://{}", start(report)), TLS)).start();
    let log = gate.path("netlog.json");
    let mut browser = Command::new(tool(&["chromium", "google-chrome"]))
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-proxy-server",
            "--ignore-certificate-errors",
        ])
        .args([
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            "--remote-debugging-port=0",
        ])
        .arg(format!("--user-data-dir={}", gate.path("profile").display()))
        .arg(format!("--log-net-log={}", log.display()))
        .arg(format!("https://127.0.0.1:{}/portal/p/assets/page", gate.proxy.port()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let seen = seen.recv_timeout(Duration::from_secs(60));
    // a browser that is asked to leave completes its log
    drop(Command::new("kill").arg(browser.id().to_string()).status());
    let ended = eventually("the browser ends", || browser.try_wait().unwrap().ok_or_else(String::new));
    let seen = seen.unwrap_or_else(|_| panic!("the page reported nothing; the browser: {ended}"));
    assert_eq!(
        seen,
        json!({
            "open": [200, "0 bytes"],
            "posted": [200, "100000 bytes"],
            "protected": 401,
            "ambiguous": 400,
            "events": ["0", "1", "2"],
            "socket": ["b.chat", "hello", 70000, 4005],
            // the browser opens no socket and gives scripts no reason
            "protectedSocket": [1006],
            "protocols": ["h2"],
        })
    );
    let log = std::fs::read_to_string(log).unwrap();
    assert!(
        log.contains(":protocol: websocket"),
        "the WebSocket had a connection of its own"
    );
}
