//! Forwarding over real sockets: raw client bytes → `listener::serve` → `forward` → an app that records bytes.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use cedargate_policy::decision::http::HttpQuery;
use cedargate_policy::decision::{Caller, Query, QueryForm, decide};
use cedargate_policy::denial::Denial;
use cedargate_policy::load::Loader;
use cedargate_policy::permit::{ForwardedIdentity, Permit};
use cedargate_policy::portal::path::CanonicalPath;
use cedargate_policy::revision::source::{SourceFile, Tree};
use cedargate_policy::scope::PortalScope;
use cedargate_policy::types::{PortalSlug, Scheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::timeout;
use uuid::Uuid;

use super::*;
use crate::base::lifecycle::{ShutdownTrigger, shutdown};
use crate::base::metrics::Metrics;
use crate::config::{Config, Count, Limits, Portal, Timeout, Upstream};
use crate::http::listener::{ConnectionCount, ListenerContext, Rejected, Socket, bind, serve};
use crate::http::request::correlation;
use crate::http::{answer, request};

const PATIENCE: Duration = Duration::from_secs(20);

struct Gate {
    address: SocketAddr,
    trigger: ShutdownTrigger,
    served: JoinHandle<()>,
    metrics: Metrics,
    rejected: Rc<RefCell<Vec<Rejected>>>,
    /// The headers of the app's 103s.
    hints: Rc<RefCell<Vec<http::HeaderMap>>>,
    tunnels: Tunnels,
}

fn limits() -> Limits {
    let config = Config::from_yaml("upstream: { url: 'http://127.0.0.1:1' }").unwrap();
    Limits {
        connections: Count::of::<100>(),
        header_timeout: Timeout::millis::<300>(),
        idle_timeout: Timeout::seconds::<10>(),
        ..config.limits
    }
}

async fn local<F: Future<Output = ()>>(test: F) {
    LocalSet::new()
        .run_until(async { timeout(PATIENCE, test).await.expect("the test hangs") })
        .await;
}

fn gate(app: SocketAddr, body_bytes_max: Option<u64>) -> Gate {
    let limits = limits();
    let (trigger, shutdown) = shutdown();
    let metrics = Metrics::new().unwrap();
    let rejected = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&rejected);
    let front = Rc::new(ListenerContext::new(
        &limits,
        ConnectionCount::new("limits.connections", 100),
        &metrics,
        Box::new(move |reason, _| seen.borrow_mut().push(reason)),
    ));
    let socket = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
    let address = socket.local_addr().unwrap();
    let tunnels = Tunnels::new(shutdown.clone(), Duration::from_secs(5));
    let pool = Pool::new(tunnels.clone());
    let hints: Rc<RefCell<Vec<http::HeaderMap>>> = Rc::default();
    let hinted = Rc::clone(&hints);
    let config = Config::from_yaml(&format!("upstream: {{ url: 'http://{app}' }}")).unwrap();
    let portal = Portal::discovered(&PortalSlug::parse("p").unwrap(), 0);
    let removed = config.removed_headers(&portal);
    let upstream = Upstream {
        response_timeout: Duration::from_millis(500),
        idle_timeout: Duration::from_secs(5),
        ..config.upstream
    };
    let rules = std::sync::Arc::new(HeaderRules::of(&upstream, "x-cedargate-assertion", &removed));
    let app = Apps::default().load(&upstream).unwrap();
    let handler = move |request: Request<Incoming>, link: Rc<crate::http::listener::ClientConnection>| {
        let pool = pool.clone();
        let rules = std::sync::Arc::clone(&rules);
        let upstream = std::sync::Arc::clone(&app);
        let hinted = Rc::clone(&hinted);
        async move {
            assert!(request.uri().path() != "/panic", "on purpose");
            let (mut parts, body) = request.into_parts();
            let request::Correlation { request_id, trace } = correlation(&parts.headers, Uuid::now_v7());
            let style = answer::Style::for_request(&parts.method, &parts.headers);
            let answer = answer::AnswerContext {
                style,
                decision_id: uuid::Uuid::nil(),
                request_id: request_id.clone(),
                theme: crate::http::pages::Theme::plain(),
                page_links: None,
            };
            // an extended CONNECT is checked as the GET that it stands for
            let mut checked = parts.clone();
            if checked.method == Method::CONNECT {
                checked.method = Method::GET;
            }
            let (client, path, query) = match request::check(&checked) {
                Ok(target) => {
                    let (path, query) = (target.path.to_owned(), target.query.map(str::to_owned));
                    (
                        request::client_facts(&parts.headers, link.peer.ip(), link.scheme, target, &[]).unwrap(),
                        path,
                        query,
                    )
                }
                Err(refusal) => return answer::refusal_response(&refusal, &answer),
            };
            let sanitized = sanitize(&mut parts.headers, &rules, Sender::Client);
            let to = ForwardRequest {
                cut: Rc::default(),
                app: &upstream,
                path: &path,
                query: query.as_deref(),
                client: &client,
                trace: &trace,
                request_id: &request_id,
                rules: &rules,
                policy_headers: &cedargate_policy::types::HeaderNames::default(),
                sanitized,
                body_bytes_max,
                send_hints: Some(&|headers| hinted.borrow_mut().push(headers)),
                connection_slot: link,
            };
            let answered = async {
                Exchange::begin(&pool, permit(), Box::new(parts), body, to)
                    .await?
                    .answer()
                    .await
            };
            match answered.await {
                Ok(response) => response,
                Err(error) => answer::upstream_error_response(&error, &answer),
            }
        }
    };
    let served = spawn_local(serve(Socket::tcp(socket).unwrap(), front, shutdown, handler));
    Gate {
        address,
        trigger,
        served,
        metrics,
        rejected,
        hints,
        tunnels,
    }
}

/// Reads one message: the head and the body that its framing announces.
async fn message(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let chunked = head.contains("transfer-encoding: chunked");
            if (chunked && body.ends_with("\r\n\r\n")) || (!chunked && body.len() >= length.unwrap_or(0)) {
                return Some(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

async fn ask(address: SocketAddr, raw: &str) -> String {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(raw.as_bytes()).await.unwrap();
    message(&mut client).await.unwrap_or_default()
}

async fn app() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Answers one request on a new connection and returns the request's bytes.
async fn one_exchange(listener: &TcpListener, response: &str) -> (String, TcpStream) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let seen = message(&mut stream).await.unwrap();
    stream.write_all(response.as_bytes()).await.unwrap();
    (seen, stream)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

/// A permit as every caller gets it: from a decision, here about a public path.
fn permit() -> Permit {
    let portal = PortalScope::at(PortalSlug::parse("customer").unwrap(), "/");
    let mut tree = Tree::default();
    for (name, text) in [
        (
            "schemas/customer.cedarschema",
            "entity User; entity Path; action GET appliesTo { principal: User, resource: Path };",
        ),
        ("policies/customer/portal.yaml", "public: [ \"GET /**\" ]"),
        ("policies/customer/none.cedar", ""),
    ] {
        tree.files.0.insert(name.to_owned(), SourceFile::new(text.as_bytes()));
    }
    tree.slugs.insert(portal.slug.clone());
    let loaded = Loader::new(None).load(&portal, &tree, None);
    let revision = loaded.revision.expect("the portal loads");
    let path = CanonicalPath::parse("/x").unwrap();
    let query = Query {
        portal: &portal,
        revision: &revision,
        now_millis: 0,
        asked: QueryForm::Http(HttpQuery {
            method: "GET",
            path: &path,
            host: "localhost",
            scheme: Scheme::Http,
            source_ip: [127, 0, 0, 1].into(),
            query: None,
            headers: None,
            context: None,
        }),
    };
    let identity = ForwardedIdentity {
        decision_id: uuid::Uuid::nil(),
        portal: HeaderValue::from_static("customer"),
        revision: HeaderValue::from_static("3f2a"),
        caller: None,
        assertion: HeaderValue::from_static("a.b.c"),
        authorization: None,
    };
    decide(&query, Caller::Anonymous)
        .permit(|| Ok(identity))
        .expect("a public path is permitted")
}

#[tokio::test]
async fn no_spelling_of_an_identity_header_reaches_the_app() {
    local(async {
        let (listener, address) = app().await;
        let gate = gate(address, None);
        let raw = "GET /x?q=1 HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-User: evil\r\nX_Forwarded_User: evil\r\nx-forwarded_EMAIL: evil\r\n\
            X-Cedargate-Roles: evil\r\nx-cedargate-roles: evil\r\nX-Cedargate-Assertion: evil\r\nForwarded: for=evil\r\nX-Forwarded-For: 6.6.6.6\r\n\
            X-HTTP-Method-Override: EVIL\r\nX-Original-URL: /evil\r\nAuthorization: Bearer evil\r\nCookie: __Host-cedargate=evil; a=1\r\n\
            Connection: x-forwarded-user, x-cedargate-tenant, x-gone\r\nX-Gone: evil\r\nX-Kept: yes\r\n\r\n";
        let (answer, (seen, _stream)) = tokio::join!(ask(gate.address, raw), one_exchange(&listener, OK));
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hi"), "{answer}");
        let seen = seen.to_ascii_lowercase();
        assert!(seen.starts_with("get /x?q=1 http/1.1\r\n"), "{seen}");
        assert!(!seen.contains("evil") && !seen.contains("6.6.6.6"), "{seen}");
        for line in ["x-forwarded-user: ", "x-cedargate-tenant: ", "x-cedargate-portal: customer", "x-cedargate-assertion: a.b.c", "host: a.test", "x-kept: yes", "cookie: a=1", "x-forwarded-for: 127.0.0.1"] {
            assert_eq!(seen.lines().filter(|l| l.trim_end() == line.trim_end()).count(), 1, "{line}\n{seen}");
        }
    })
    .await;
}

#[tokio::test]
async fn app_connection_is_reused_and_a_dead_one_is_replaced() {
    local(async {
        let (listener, address) = app().await;
        let gate = gate(address, None);
        let raw = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        let (_, (_, mut stream)) = tokio::join!(ask(gate.address, raw), one_exchange(&listener, OK));
        let second = async {
            let seen = message(&mut stream).await.expect("the connection was not reused");
            stream.write_all(OK.as_bytes()).await.unwrap();
            seen
        };
        let (answer, seen) = tokio::join!(ask(gate.address, raw), second);
        assert!(answer.contains("200 OK") && seen.ends_with("abc"), "{seen}");
        drop(stream);
        let (answer, _) = tokio::join!(ask(gate.address, raw), one_exchange(&listener, OK));
        assert!(answer.contains("200 OK"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn absent_app_gives_502_and_slow_app_gives_504() {
    local(async {
        let (listener, address) = app().await;
        let raw = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let slow = gate(address, None);
        let answer = ask(slow.address, raw).await;
        assert!(
            answer.starts_with("HTTP/1.1 504") && answer.contains("upstream_timeout"),
            "{answer}"
        );
        drop(listener);
        let answer = ask(gate(address, None).address, raw).await;
        assert!(
            answer.starts_with("HTTP/1.1 502") && answer.contains("upstream_unavailable"),
            "{answer}"
        );
    })
    .await;
}

#[tokio::test]
async fn trailers_pass_in_both_directions_but_identity_trailers_are_removed() {
    local(async {
        let (listener, address) = app().await;
        let gate = gate(address, None);
        let raw = "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: x-sum, x-cedargate-roles\r\nTransfer-Encoding: chunked\r\n\r\n\
            3\r\nabc\r\n0\r\nx-sum: 7\r\nx-cedargate-roles: evil\r\n\r\n";
        let response = "HTTP/1.1 200 OK\r\ntrailer: x-end\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-end: 9\r\n\r\n";
        let (answer, (seen, _stream)) = tokio::join!(ask(gate.address, raw), one_exchange(&listener, response));
        assert!(answer.contains("x-end: 9"), "{answer}");
        assert!(seen.contains("x-sum: 7") && !seen.contains("evil"), "{seen}");
    })
    .await;
}

#[tokio::test]
async fn body_over_the_limit_gets_413_with_and_without_an_announced_length() {
    local(async {
        let (listener, address) = app().await;
        let gate = gate(address, Some(4));
        let answer = ask(gate.address, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde").await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        let contacted = timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(contacted.is_err(), "the app saw a request that was too large");
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n";
        let aborted = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            message(&mut stream).await
        };
        let (answer, seen) = tokio::join!(ask(gate.address, chunked), aborted);
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(seen.is_none_or(|seen| !seen.contains("abcde")));
    })
    .await;
}

#[tokio::test]
async fn large_answer_is_not_buffered_for_a_slow_client() {
    local(async {
        let (listener, address) = app().await;
        let gate = gate(address, None);
        const BYTES: usize = 64 * 1024 * 1024;
        let written = Rc::new(std::cell::Cell::new(0_usize));
        let count = Rc::clone(&written);
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            message(&mut stream).await.unwrap();
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {BYTES}\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let chunk = vec![7_u8; 64 * 1024];
            for _ in 0..BYTES / chunk.len() {
                stream.write_all(&chunk).await.unwrap();
                count.set(count.get() + chunk.len());
            }
        });
        let mut client = TcpStream::connect(gate.address).await.unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(written.get() < BYTES / 2, "{} bytes were buffered", written.get());
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert!(all.len() > BYTES);
    })
    .await;
}

#[tokio::test]
async fn malformed_bytes_are_counted_and_reported() {
    local(async {
        let (_listener, address) = app().await;
        let gate = gate(address, None);
        for raw in ["GET / HTTP/1.1\r\nHost : a\r\n\r\n", "\x01\x02\r\n\r\n"] {
            ask(gate.address, raw).await;
        }
        let huge = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
        ask(gate.address, &huge).await;
        let mut slow = TcpStream::connect(gate.address).await.unwrap();
        slow.write_all(b"GET / HT").await.unwrap();
        assert!(message(&mut slow).await.is_none());
        assert_eq!(
            *gate.rejected.borrow(),
            [
                Rejected::Malformed,
                Rejected::Malformed,
                Rejected::HeadersTooLarge,
                Rejected::HeaderTimeout
            ]
        );
        assert_eq!(gate.metrics.http_rejected.with_label_values(&["malformed"]).get(), 2);
    })
    .await;
}

#[tokio::test]
async fn malformed_request_is_refused_and_its_connection_is_closed() {
    local(async {
        let (listener, address) = app().await;
        let gate = gate(address, None);
        let mut client = TcpStream::connect(gate.address).await.unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-maybe\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let mut all = String::new();
        client.read_to_string(&mut all).await.unwrap();
        assert_eq!(all.matches("HTTP/1.1").count(), 1, "{all}");
        assert!(
            all.starts_with("HTTP/1.1 400") && all.contains(Denial::RequestInvalid.code()),
            "{all}"
        );
        assert!(timeout(Duration::from_millis(50), listener.accept()).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn panic_ends_one_connection_and_is_counted() {
    local(async {
        let (listener, address) = app().await;
        let gate = gate(address, None);
        assert_eq!(ask(gate.address, "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await, "");
        assert_eq!(gate.metrics.panics.get(), 1);
        let (answer, _) = tokio::join!(
            ask(gate.address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            one_exchange(&listener, OK)
        );
        assert!(answer.contains("200 OK"));
    })
    .await;
}

#[tokio::test]
async fn drain_waits_for_requests_in_flight() {
    local(async {
        let (listener, address) = app().await;
        let gate = gate(address, None);
        let asking = spawn_local(ask(gate.address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        let (mut stream, _) = listener.accept().await.unwrap();
        message(&mut stream).await.unwrap();
        gate.trigger.close();
        tokio::task::yield_now().await;
        assert!(!gate.served.is_finished());
        stream.write_all(OK.as_bytes()).await.unwrap();
        let answer = asking.await.unwrap();
        assert!(answer.contains("200 OK") && answer.contains("connection: close"), "{answer}");
        gate.served.await.unwrap();
        assert_eq!(gate.metrics.connections.get(), 0);
        assert!(TcpStream::connect(gate.address).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn request_that_outlives_the_drain_is_ended() {
    local(async {
        let (listener, address) = app().await;
        let gate = gate(address, None);
        let asking = spawn_local(ask(gate.address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        let (mut stream, _) = listener.accept().await.unwrap();
        message(&mut stream).await.unwrap();
        gate.trigger.drain_then_force(Duration::from_millis(50)).await;
        gate.served.await.unwrap();
        assert_eq!(asking.await.unwrap(), "");
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
    })
    .await;
}

#[tokio::test]
async fn at_most_eight_early_hints_reach_the_client_before_the_answer_without_hop_by_hop_headers() {
    local(async {
        let (listener, address) = app().await;
        let gate = gate(address, None);
        let hint = |n: usize| {
            format!("HTTP/1.1 103 Early Hints\r\nlink: </{n}.css>\r\nconnection: x-hop\r\nx-hop: 1\r\ncontent-length: 5\r\n\r\n")
        };
        let interims: String = (0..40).map(hint).collect();
        let response = format!("HTTP/1.1 102 Processing\r\n\r\n{interims}{OK}");
        let raw = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let (answer, _) = tokio::join!(ask(gate.address, raw), one_exchange(&listener, &response));
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hi"), "{answer}");
        let hints = gate.hints.borrow();
        assert_eq!(hints.len(), 8);
        for (n, headers) in hints.iter().enumerate() {
            assert_eq!(
                (headers.len(), headers["link"].to_str().unwrap()),
                (1, format!("</{n}.css>").as_str())
            );
        }
    })
    .await;
}

/// Asks for a WebSocket by extended CONNECT; returns the answer, the request that the app received, and the app's
/// connection.
async fn websocket(
    gate: &Gate,
    listener: &TcpListener,
    respond: impl Fn(&str) -> String,
) -> (Response<Incoming>, String, TcpStream) {
    let stream = TcpStream::connect(gate.address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut client, connection) = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io)
        .await
        .unwrap();
    let connection = std::cell::RefCell::new(Box::pin(connection));
    let enabled = std::future::poll_fn(|cx| {
        let mut connection = connection.borrow_mut();
        let _running = connection.as_mut().poll(cx);
        if connection.is_extended_connect_protocol_enabled() {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    });
    enabled.await;
    spawn_local(connection.into_inner());
    let mut request = Request::new(http_body_util::Empty::<bytes::Bytes>::new());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "http://a.test/socket?x=1".parse().unwrap();
    request
        .extensions_mut()
        .insert(hyper::ext::Protocol::from_static("websocket"));
    for (name, value) in [
        ("host", "a.test"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat"),
        ("sec-websocket-key", "clients"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let app = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let seen = message(&mut stream).await.unwrap();
        let key = seen
            .lines()
            .find_map(|l| l.strip_prefix("sec-websocket-key: "))
            .unwrap()
            .to_owned();
        stream.write_all(respond(&key).as_bytes()).await.unwrap();
        (seen, stream)
    };
    let (answer, (seen, stream)) = tokio::join!(client.send_request(request), app);
    (answer.unwrap(), seen, stream)
}

fn switched(accept: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: WebSocket\r\nsec-websocket-accept: {accept}\r\nsec-websocket-protocol: chat\r\n\r\n"
    )
}

#[tokio::test]
async fn websocket_over_http2_reaches_the_app_as_an_http1_upgrade() {
    local(async {
        let (listener, address) = app().await;
        let gate = gate(address, None);
        let (mut answer, seen, mut stream) = websocket(&gate, &listener, |key| switched(&upgrade::websocket_accept(key))).await;
        assert_eq!(answer.status(), 200);
        assert!(!answer.headers().contains_key("sec-websocket-accept") && !answer.headers().contains_key("upgrade"));
        assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
        assert!(seen.starts_with("GET /socket?x=1 HTTP/1.1\r\n"), "{seen}");
        for line in [
            "host: a.test",
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            "sec-websocket-protocol: chat",
        ] {
            assert_eq!(seen.lines().filter(|l| *l == line).count(), 1, "{line}: {seen}");
        }
        assert!(
            !seen.contains("clients") && seen.matches("sec-websocket-key").count() == 1,
            "{seen}"
        );
        let mut tunnel = hyper_util::rt::TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
        tunnel.write_all(b"up").await.unwrap();
        let mut two = [0; 2];
        stream.read_exact(&mut two).await.unwrap();
        stream.write_all(&two).await.unwrap();
        tunnel.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"up");
        drop(stream);
        assert_eq!(tunnel.read(&mut two).await.unwrap_or(0), 0);
        drop(tunnel);
        gate.tunnels.wait().await;
    })
    .await;
}

#[tokio::test]
async fn app_that_does_not_accept_a_websocket_over_http2_opens_no_tunnel() {
    local(async {
        let (listener, address) = app().await;
        let gate = gate(address, None);
        for (response, status) in [
            (switched("wrong"), 502),
            (switched(&upgrade::websocket_accept("clients")), 502),
            (
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n".to_owned(),
                502,
            ),
            // the client would treat these as a tunnel
            (OK.to_owned(), 502),
            ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), 502),
            ("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno".to_owned(), 403),
        ] {
            let (answer, _, _stream) = websocket(&gate, &listener, |_| response.clone()).await;
            assert_eq!(answer.status(), status, "{response}");
        }
        gate.tunnels.wait().await;
    })
    .await;
}
