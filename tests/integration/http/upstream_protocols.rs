//! Every transport to an app: HTTP/1.1 and HTTP/2, TCP, Unix sockets and TLS; gRPC with its trailers.
//!
//! The app is hyper's own server, told how to speak, which notes what arrived and by which connection.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::support::{Gate, PAGE, RawConnection, Setup, eventually, open_portal};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// One request as the app saw it.
#[derive(Clone, Debug)]
struct Seen {
    connection: usize,
    version: Version,
    authority: Option<String>,
    path: String,
    headers: HeaderMap,
}

enum Transport {
    Tcp,
    Unix(PathBuf),
    Tls(Arc<rustls::ServerConfig>),
}

/// The app's handler of a request.
type Answer = dyn Fn(Request<Incoming>) -> futures_util::future::BoxFuture<'static, Response<Body>> + Send + Sync;

#[derive(Clone)]
struct App {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    open: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    streams_max: u32,
    /// Requests after which the app closes a connection; 0: never.
    requests_max: usize,
    answer: Arc<Answer>,
}

impl App {
    fn new<F: Future<Output = Response<Body>> + Send + 'static>(
        answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Self {
        Self {
            address: String::new(),
            seen: Arc::default(),
            open: Arc::default(),
            connections: Arc::default(),
            streams_max: 100,
            requests_max: 0,
            answer: Arc::new(move |request| Box::pin(answer(request))),
        }
    }

    /// Answers with the request's body.
    fn echo() -> Self {
        Self::new(|request| async { Response::new(request.into_body().map_err(std::io::Error::other).boxed_unsync()) })
    }

    fn start(mut self, place: Transport) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let guard = runtime.enter();
        match place {
            Transport::Tcp => {
                let (listener, app) = self.bind();
                self = app.clone();
                std::thread::spawn(move || {
                    runtime.block_on(async move {
                        while let Ok((stream, _)) = listener.accept().await {
                            let mut preface = [0; 3];
                            let app = app.clone();
                            tokio::spawn(async move {
                                let http2 = stream.peek(&mut preface).await.is_ok() && &preface == b"PRI";
                                app.converse(stream, http2).await;
                            });
                        }
                    });
                });
            }
            Transport::Unix(path) => {
                drop(guard);
                self.address = path.display().to_string();
                let app = self.clone();
                std::thread::spawn(move || {
                    runtime.block_on(async move {
                        let listener = tokio::net::UnixListener::bind(path).unwrap();
                        while let Ok((stream, _)) = listener.accept().await {
                            let app = app.clone();
                            tokio::spawn(async move { app.converse(stream, false).await });
                        }
                    });
                });
            }
            Transport::Tls(config) => {
                let (listener, app) = self.bind();
                self = app.clone();
                let acceptor = tokio_rustls::TlsAcceptor::from(config);
                std::thread::spawn(move || {
                    runtime.block_on(async move {
                        while let Ok((stream, _)) = listener.accept().await {
                            let (app, acceptor) = (app.clone(), acceptor.clone());
                            tokio::spawn(async move {
                                let Ok(stream) = acceptor.accept(stream).await else { return };
                                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                                app.converse(stream, http2).await;
                            });
                        }
                    });
                });
            }
        }
        self
    }

    fn bind(mut self) -> (tokio::net::TcpListener, Self) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        self.address = listener.local_addr().unwrap().to_string();
        (tokio::net::TcpListener::from_std(listener).unwrap(), self)
    }

    async fn converse(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, http2: bool) {
        let connection = self.connections.fetch_add(1, Ordering::SeqCst);
        self.open.fetch_add(1, Ordering::SeqCst);
        let served = Arc::new(tokio::sync::Semaphore::new(0));
        let (app, count) = (self.clone(), Arc::clone(&served));
        let service = service_fn(move |request: Request<Incoming>| {
            app.seen.lock().unwrap().push(Seen {
                connection,
                version: request.version(),
                authority: request.uri().authority().map(ToString::to_string),
                path: request.uri().path().to_owned(),
                headers: request.headers().clone(),
            });
            count.add_permits(1);
            let answer = (app.answer)(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let io = TokioIo::new(stream);
        if http2 {
            let mut connection = std::pin::pin!(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .max_concurrent_streams(self.streams_max)
                    .serve_connection(io, service)
            );
            let enough = async {
                match u32::try_from(self.requests_max) {
                    Ok(0) | Err(_) => std::future::pending().await,
                    Ok(many) => drop(served.acquire_many(many).await),
                }
            };
            tokio::select! {
                _ = connection.as_mut() => {}
                () = enough => {
                    connection.as_mut().graceful_shutdown();
                    drop(connection.await);
                }
            }
        } else {
            drop(hyper::server::conn::http1::Builder::new().serve_connection(io, service).await);
        }
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn full(text: &'static str) -> Body {
    Full::new(Bytes::from_static(text.as_bytes()))
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body whose frames the test sends one by one.
fn channel() -> (tokio::sync::mpsc::UnboundedSender<Frame<Bytes>>, Body) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
        Some((Ok(receiver.recv().await?), receiver))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

fn trailers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()))
        .collect()
}

fn gate_before(app: &App, scheme: &str, more: &str) -> Gate {
    let limits = "limits: { workers: 1, drain_timeout: 5s }";
    open_portal()
        .config(&format!("upstream: {{ url: '{scheme}{}'{more} }}\n{limits}", app.address))
        .start()
}

fn ask(gate: &Gate, method: &str, rest: &str, body: &str) -> String {
    let token = gate.issuer.token("alice", &["viewer"]);
    let length = body.len();
    format!(
        "{method} {PAGE} HTTP/1.1\r\nhost: Shop.test:8080\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n{rest}\r\n{body}"
    )
}

fn failures(gate: &Gate, reason: &str) -> u64 {
    let name = format!("cedargate_upstream_errors_total{{reason=\"{reason}\"}} ");
    let text = gate.metrics();
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |count| count.parse().unwrap())
}

/// Drives a test that needs HTTP/2 from the client's side.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(30), test)
            .await
            .expect("the test hangs")
    });
}

type Client = hyper::client::conn::http2::SendRequest<Body>;

async fn client(gate: &Gate) -> Client {
    let stream = tokio::net::TcpStream::connect(gate.proxy).await.unwrap();
    let (client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

fn grpc(gate: &Gate, lines: &[(&str, &str)], body: Body) -> Request<Body> {
    let token = gate.issuer.token("alice", &["viewer"]);
    let mut request = Request::post(format!("http://shop.test{PAGE}"))
        .header("host", "shop.test")
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

#[test]
fn over_http2_the_app_gets_an_authority_and_no_connection_headers() {
    let app = App::echo().start(Transport::Tcp);
    for (scheme, more) in [("h2c://", ""), ("http://", ", protocol: http2")] {
        let gate = gate_before(&app, scheme, more);
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(ask(
            &gate,
            "POST",
            "connection: keep-alive, te, x-own\r\nx-own: 1\r\nte: trailers, gzip\r\nkeep-alive: 5\r\nproxy-connection: keep-alive\r\ncookie: a=1; b=2\r\n",
            "hello",
        ));
        let answer = wire.read_answer("POST").unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        let seen = app.seen().pop().unwrap();
        assert_eq!((seen.version, seen.path.as_str()), (Version::HTTP_2, PAGE));
        assert_eq!(seen.authority.as_deref(), Some("Shop.test:8080"));
        for gone in [
            "host",
            "connection",
            "x-own",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "authorization",
        ] {
            assert!(!seen.headers.contains_key(gone), "{gone}: {seen:?}");
        }
        for (name, value) in [
            ("te", "trailers"),
            ("x-forwarded-user", "alice"),
            ("cookie", "a=1; b=2"),
            ("content-length", "5"),
        ] {
            assert_eq!(seen.headers.get_all(name).iter().collect::<Vec<_>>(), [value], "{name}");
        }
    }
}

#[test]
fn many_requests_share_one_http2_connection_and_a_full_one_gets_company() {
    async fn late(_: Request<Incoming>) -> Response<Body> {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Response::new(full("late"))
    }
    for (streams_max, expected) in [(100, 1..=1), (2, 2..=8)] {
        let app = App {
            streams_max,
            ..App::new(late)
        }
        .start(Transport::Tcp);
        let gate = gate_before(&app, "h2c://", "");
        let all = 40;
        std::thread::scope(|scope| {
            for _ in 0..all {
                scope.spawn(|| {
                    let mut wire = RawConnection::open(gate.proxy);
                    wire.send(ask(&gate, "GET", "", ""));
                    assert_eq!(wire.read_answer("GET").unwrap().text(), "late");
                });
            }
        });
        assert_eq!(app.seen().len(), all);
        assert!(expected.contains(&app.connections()), "{} connections", app.connections());
    }
}

#[test]
fn a_connection_that_the_app_ends_is_replaced_and_no_request_is_lost() {
    let app = App {
        requests_max: 3,
        ..App::echo()
    }
    .start(Transport::Tcp);
    let gate = gate_before(&app, "h2c://", "");
    let mut wire = RawConnection::open(gate.proxy);
    for number in 0..30 {
        wire.send(ask(&gate, "POST", "", "x"));
        let answer = wire
            .read_answer("POST")
            .unwrap_or_else(|| panic!("request {number}: no answer; the app saw {:#?}", app.seen().len()));
        assert_eq!(answer.status, 200, "request {number}");
    }
    assert_eq!(app.seen().len(), 30, "each was sent once");
    let used: BTreeSet<usize> = app.seen().iter().map(|seen| seen.connection).collect();
    assert!(used.len() > 5, "{used:?}");
}

#[test]
fn an_app_that_restarts_under_load_loses_no_request() {
    let app = App {
        requests_max: 7,
        ..App::new(|_| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Response::new(full("slow"))
        })
    }
    .start(Transport::Tcp);
    let gate = gate_before(&app, "h2c://", "");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut wire = RawConnection::open(gate.proxy);
                for number in 0..40 {
                    wire.send(ask(&gate, "GET", "", ""));
                    let answer = wire
                        .read_answer("GET")
                        .unwrap_or_else(|| panic!("no answer to request {number}"));
                    assert_eq!((answer.status, answer.text().as_str()), (200, "slow"), "request {number}");
                }
            });
        }
    });
    assert_eq!(app.seen().len(), 8 * 40, "each was sent once");
    assert!(app.connections() > 10, "{} connections", app.connections());
}

#[test]
fn over_http2_an_expected_body_comes_after_a_second_and_never_after_an_answer() {
    let app = App::new(|request| async move {
        if request.method() == Method::PUT {
            let mut refused = Response::new(full("no"));
            *refused.status_mut() = http::StatusCode::EXPECTATION_FAILED;
            return refused;
        }
        let early = request.method() == Method::DELETE;
        let body = request.into_body().map_err(std::io::Error::other).boxed_unsync();
        if early {
            return Response::new(body);
        }
        let whole = body.collect().await.unwrap().to_bytes();
        Response::new(Full::new(whole).map_err(|never| match never {}).boxed_unsync())
    })
    .start(Transport::Tcp);
    let gate = gate_before(&app, "h2c://", "");
    let token = gate.issuer.token("alice", &[]);
    let ask = |method: &str| {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(format!(
            "{method} {PAGE} HTTP/1.1\r\nhost: a.test\r\nauthorization: Bearer {token}\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
        ));
        wire
    };
    let refused = ask("PUT").read_answer("PUT").unwrap();
    assert_eq!((refused.status, refused.text().as_str()), (417, "no"));
    let mut waiting = ask("POST");
    assert_eq!(waiting.read_until("\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
    waiting.send("abc");
    assert_eq!(waiting.read_answer("POST").unwrap().text(), "abc");
    // an app that answers at once and reads afterwards
    let mut early = ask("DELETE");
    assert!(early.read_until("\r\n\r\n").starts_with(b"HTTP/1.1 200"));
    let sent_at = Instant::now();
    early.send("abc");
    assert_eq!(early.read_until("abc"), b"abc", "after {:?}", sent_at.elapsed());
    assert_eq!(app.connections(), 1);
}

#[test]
fn an_idle_http2_connection_to_the_app_is_closed() {
    let app = App::echo().start(Transport::Tcp);
    let gate = gate_before(&app, "h2c://", ", idle_timeout: 1s");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(ask(&gate, "GET", "", ""));
    assert_eq!(wire.read_answer("GET").unwrap().status, 200);
    eventually("it is closed", || match app.open.load(Ordering::SeqCst) {
        0 => Ok(()),
        open => Err(format!("{open} open")),
    });
    wire.send(ask(&gate, "GET", "", ""));
    assert_eq!(wire.read_answer("GET").unwrap().status, 200);
    assert_eq!(app.connections(), 2);
}

#[test]
fn in_plain_text_grpc_goes_by_http2_and_everything_else_by_http1() {
    let app = App::new(|_| async {
        let body = Full::new(Bytes::from_static(b"message"))
            .map_err(|never| match never {})
            .with_trailers(async { Some(Ok(trailers(&[("grpc-status", "0"), ("x-end", "9")]))) });
        Response::new(body.boxed_unsync())
    })
    .start(Transport::Tcp);
    let gate = gate_before(&app, "http://", "");
    run(async {
        let mut client = client(&gate).await;
        let answer = client.send_request(grpc(&gate, &[], full("x"))).await.unwrap();
        let collected = answer.into_body().collect().await.unwrap();
        let end = collected.trailers().cloned().unwrap();
        assert_eq!(
            (end["grpc-status"].to_str().unwrap(), end["x-end"].to_str().unwrap()),
            ("0", "9")
        );
        assert_eq!(collected.to_bytes(), "message");
        for kind in ["application/json", "application/grpc-web"] {
            let mut plain = grpc(&gate, &[], full("x"));
            plain.headers_mut().insert("content-type", kind.parse().unwrap());
            assert_eq!(client.send_request(plain).await.unwrap().status(), 200);
        }
    });
    let versions: Vec<Version> = app.seen().iter().map(|seen| seen.version).collect();
    assert_eq!(versions, [Version::HTTP_2, Version::HTTP_11, Version::HTTP_11]);
    for seen in app.seen() {
        let hosts = seen.headers.get_all("host").iter().count();
        assert_eq!(hosts, usize::from(seen.version == Version::HTTP_11), "{seen:?}");
    }
}

#[test]
fn grpc_streams_both_ways_at_once_and_trailers_go_up_too() {
    let app = App::new(|request| async {
        let (sender, body) = channel();
        tokio::spawn(async move {
            let mut incoming = request.into_body();
            let mut end = trailers(&[("grpc-status", "0")]);
            while let Some(Ok(frame)) = incoming.frame().await {
                match frame.into_data() {
                    Ok(data) => drop(sender.send(Frame::data(data))),
                    Err(frame) => end.extend(frame.into_trailers().unwrap()),
                }
            }
            drop(sender.send(Frame::trailers(end)));
        });
        Response::new(body)
    })
    .start(Transport::Tcp);
    let gate = gate_before(&app, "http://", "");
    run(async {
        let (sender, body) = channel();
        let mut client = client(&gate).await;
        let mut answer = client.send_request(grpc(&gate, &[], body)).await.unwrap().into_body();
        for message in ["one", "two", "three"] {
            sender.send(Frame::data(Bytes::from_static(message.as_bytes()))).unwrap();
            let echoed = answer.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(echoed, message);
        }
        let end = trailers(&[("x-sum", "7"), ("x-forwarded-user", "root"), ("authorization", "Bearer root")]);
        sender.send(Frame::trailers(end)).unwrap();
        drop(sender);
        let end = answer.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(end["x-sum"], "7");
        assert!(
            !end.contains_key("x-forwarded-user") && !end.contains_key("authorization"),
            "{end:?}"
        );
    });
}

#[test]
fn a_trailers_only_error_of_the_app_reaches_the_caller_as_it_is() {
    let app = App::new(|_| async {
        let empty = Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync();
        let mut answer = Response::new(empty);
        answer.headers_mut().extend(trailers(&[
            ("content-type", "application/grpc"),
            ("grpc-status", "5"),
            ("grpc-message", "none"),
        ]));
        answer
    })
    .start(Transport::Tcp);
    let gate = gate_before(&app, "http://", "");
    run(async {
        let answer = client(&gate).await.send_request(grpc(&gate, &[], full("x"))).await.unwrap();
        assert_eq!(
            (answer.status(), answer.headers()["grpc-status"].to_str().unwrap()),
            (http::StatusCode::OK, "5")
        );
        assert!(hyper::body::Body::is_end_stream(answer.body()), "one frame has it all");
    });
}

#[test]
fn a_grpc_deadline_ends_the_wait_for_a_silent_app() {
    let app = App::new(|_| async { std::future::pending().await }).start(Transport::Tcp);
    let gate = gate_before(&app, "http://", "");
    run(async {
        let started = Instant::now();
        let request = grpc(&gate, &[("grpc-timeout", "300m")], full("x"));
        let answer = client(&gate).await.send_request(request).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "4", "{answer:?}");
        let waited = started.elapsed();
        assert!(
            waited >= Duration::from_millis(300) && waited < Duration::from_secs(5),
            "{waited:?}"
        );
    });
    assert_eq!(failures(&gate, "timeout"), 1);
}

#[test]
fn a_head_larger_than_allowed_is_502_and_its_connection_goes_on() {
    let app = App::new(|request| async move {
        let mut answer = Response::new(full("x"));
        if request.method() == Method::PUT {
            for number in 0..40 {
                let name: http::HeaderName = format!("x-{number}").parse().unwrap();
                answer.headers_mut().insert(name, "y".repeat(500).parse().unwrap());
            }
        }
        answer
    })
    .start(Transport::Tcp);
    let gate = gate_before(&app, "h2c://", ", response_header_bytes: 8KiB");
    for (method, status) in [("GET", 200), ("PUT", 502), ("GET", 200)] {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(ask(&gate, method, "", ""));
        assert_eq!(wire.read_answer(method).unwrap().status, status);
    }
    assert_eq!(
        (failures(&gate, "malformed"), app.connections()),
        (1, 1),
        "{}",
        gate.metrics()
    );
}

#[test]
fn a_client_that_does_not_read_stalls_no_other_client_on_the_shared_connection() {
    let app = App::new(|request| async move {
        if request.method() == Method::PUT {
            let endless = futures_util::stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[7; 16 * 1024]))));
            return Response::new(StreamBody::new(endless).boxed_unsync());
        }
        Response::new(full("quick"))
    })
    .start(Transport::Tcp);
    let gate = gate_before(&app, "h2c://", "");
    let stubborn: Vec<RawConnection> = (0..30)
        .map(|_| {
            let mut wire = RawConnection::open(gate.proxy);
            wire.send(ask(&gate, "PUT", "", ""));
            wire
        })
        .collect();
    eventually("all of them are being answered", || match app.seen().len() {
        30 => Ok(()),
        other => Err(format!("{other}")),
    });
    for _ in 0..20 {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(ask(&gate, "GET", "", ""));
        assert_eq!(wire.read_answer("GET").unwrap().text(), "quick");
    }
    assert_eq!(app.connections(), 1);
    drop(stubborn);
}

#[test]
fn a_stream_that_the_app_resets_in_its_body_reaches_the_client_broken() {
    let app = App::new(|_| async {
        let frames = futures_util::stream::iter([
            Ok(Frame::data(Bytes::from_static(b"half"))),
            Err(std::io::Error::other("gone")),
        ]);
        Response::new(
            StreamBody::new(frames.then(|frame| async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                frame
            }))
            .boxed_unsync(),
        )
    })
    .start(Transport::Tcp);
    let gate = gate_before(&app, "h2c://", "");
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(ask(&gate, "GET", "", ""));
    let got = String::from_utf8_lossy(&wire.read_until("never")).into_owned();
    assert!(
        got.starts_with("HTTP/1.1 200") && got.contains("half") && !got.ends_with("0\r\n\r\n"),
        "{got}"
    );
}

#[test]
fn an_app_that_does_not_speak_http2_after_all_is_502() {
    let script = crate::support::ScriptedServer::start(|_, wire| {
        wire.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        wire.read_until("never");
    });
    let gate = open_portal()
        .config(&format!(
            "upstream: {{ url: 'h2c://{}', response_timeout: 2s }}",
            script.address
        ))
        .start();
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(ask(&gate, "GET", "", ""));
    assert_eq!(wire.read_answer("GET").unwrap().status, 502);
}

#[test]
fn an_app_behind_a_unix_socket_is_an_app() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::echo().start(Transport::Unix(folder.path().join("app.sock")));
    let gate = gate_before(&app, "unix:", "");
    eventually("it listens", || {
        if folder.path().join("app.sock").exists() {
            Ok(())
        } else {
            Err(String::new())
        }
    });
    let mut wire = RawConnection::open(gate.proxy);
    for _ in 0..3 {
        wire.send(ask(&gate, "POST", "", "hello"));
        assert_eq!(wire.read_answer("POST").unwrap().text(), "hello");
    }
    let seen = app.seen().pop().unwrap();
    assert_eq!(
        (seen.headers["host"].to_str().unwrap(), seen.connection),
        ("Shop.test:8080", 0)
    );
    assert_eq!(gate.status()["upstream"]["reachable"], true);
    std::fs::remove_file(folder.path().join("app.sock")).unwrap();
    drop(wire);
}

/// A certificate authority that makes server certificates.
struct Authority {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Self {
            issuer: rcgen::CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Certificate and key, in PEM.
    fn leaf(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn server(&self, name: &str, alpn: &[&str], clients: Option<&Authority>) -> rustls::ServerConfig {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let (cert, key) = self.leaf(name);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = rustls::RootCertStore::empty();
                roots
                    .add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap())
                    .unwrap();
                let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        let mut config = builder
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

fn secured(app: &App, files: &[(&str, &str)], more: &str) -> Setup {
    let files = files.iter().fold(open_portal(), |setup, (name, text)| setup.file(name, text));
    files.config(&format!(
        "upstream: {{ url: 'https://{}'{more} }}\nlimits: {{ workers: 1, drain_timeout: 5s }}",
        app.address
    ))
}

fn status(gate: &Gate) -> u16 {
    let mut wire = RawConnection::open(gate.proxy);
    wire.send(ask(gate, "POST", "", "hello"));
    let answer = wire.read_answer("POST").unwrap();
    assert!(answer.status != 200 || answer.text() == "hello");
    answer.status
}

#[test]
fn tls_to_the_app_negotiates_the_http_version_of_both_sides() {
    let authority = Authority::new();
    let ca = authority.pem();
    for (alpn, protocol, expected) in [
        (&["h2", "http/1.1"] as &[&str], "auto", Some(Version::HTTP_2)),
        (&["http/1.1"], "auto", Some(Version::HTTP_11)),
        (&[], "auto", Some(Version::HTTP_11)),
        (&["h2", "http/1.1"], "http1", Some(Version::HTTP_11)),
        (&["h2", "http/1.1"], "http2", Some(Version::HTTP_2)),
        (&["http/1.1"], "http2", None),
        (&[], "http2", None),
        (&["h2"], "http1", None),
    ] {
        let app = App::echo().start(Transport::Tls(Arc::new(authority.server("127.0.0.1", alpn, None))));
        let gate = secured(
            &app,
            &[("ca.pem", &ca)],
            &format!(", protocol: {protocol}, tls: {{ ca: ca.pem }}"),
        )
        .start();
        for _ in 0..3 {
            assert_eq!(
                status(&gate),
                if expected.is_some() { 200 } else { 502 },
                "{alpn:?} {protocol}"
            );
        }
        let versions: BTreeSet<String> = app.seen().iter().map(|seen| format!("{:?}", seen.version)).collect();
        assert_eq!(
            versions,
            expected.iter().map(|v| format!("{v:?}")).collect(),
            "{alpn:?} {protocol}"
        );
        match expected {
            Some(_) => assert_eq!(app.connections(), 1, "{alpn:?} {protocol}: reused"),
            None => assert_eq!(failures(&gate, "tls"), 3),
        }
    }
}

#[test]
fn an_app_whose_certificate_does_not_hold_is_502_and_gets_no_request() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (ca, wrong) = (authority.pem(), other.pem());
    for (name, tls, expected) in [
        ("127.0.0.1", "{ ca: ca.pem }", 200),
        ("127.0.0.1", "{ ca: wrong.pem }", 502),
        ("127.0.0.1", "{}", 502),
        ("10.0.0.1", "{ ca: ca.pem }", 502),
        ("app.test", "{ ca: ca.pem }", 502),
        ("app.test", "{ ca: ca.pem, server_name: app.test }", 200),
        ("app.test", "{ ca: ca.pem, server_name: other.test }", 502),
    ] {
        let app = App::echo().start(Transport::Tls(Arc::new(authority.server(name, &["http/1.1"], None))));
        let gate = secured(&app, &[("ca.pem", &ca), ("wrong.pem", &wrong)], &format!(", tls: {tls}")).start();
        assert_eq!(status(&gate), expected, "{name} {tls}");
        assert_eq!(app.seen().len(), usize::from(expected == 200), "{name} {tls}");
        assert_eq!(failures(&gate, "tls"), u64::from(expected == 502), "{name} {tls}");
    }
    // the circuit counts it as an attempt that failed
    let app = App::echo().start(Transport::Tls(Arc::new(authority.server("app.test", &[], None))));
    let gate = secured(
        &app,
        &[("ca.pem", &ca)],
        ", tls: { ca: ca.pem }, circuit: { failures: 1, pause: 1m }",
    )
    .start();
    assert_eq!((status(&gate), status(&gate)), (502, 502));
    assert_eq!((failures(&gate, "tls"), failures(&gate, "circuit_open")), (1, 1));
}

#[test]
fn an_app_that_asks_for_a_client_certificate_gets_the_gates() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (cert, key) = clients.leaf("gate.test");
    let ca = authority.pem();
    for (tls, expected) in [
        ("{ ca: ca.pem, cert: gate.pem, key: gate.key }", 200),
        ("{ ca: ca.pem }", 502),
    ] {
        let app = App::echo().start(Transport::Tls(Arc::new(authority.server(
            "127.0.0.1",
            &["h2"],
            Some(&clients),
        ))));
        let files = [
            ("ca.pem", ca.as_str()),
            ("gate.pem", cert.as_str()),
            ("gate.key", key.as_str()),
        ];
        let gate = secured(&app, &files, &format!(", tls: {tls}")).start();
        assert_eq!(status(&gate), expected, "{tls}");
        assert_eq!(failures(&gate, "tls"), u64::from(expected == 502), "{tls}");
    }
}

#[test]
fn files_for_tls_that_do_not_hold_are_start_errors_that_name_file_and_key() {
    let authority = Authority::new();
    let (cert, key) = authority.leaf("gate.test");
    let (_, other) = authority.leaf("gate.test");
    let app = App::echo();
    for (tls, words) in [
        ("{ ca: absent.pem }", ["upstream.tls.ca", "absent.pem"]),
        ("{ ca: empty.pem }", ["upstream.tls.ca", "empty.pem"]),
        ("{ ca: gate.key }", ["upstream.tls.ca", "gate.key"]),
        (
            "{ ca: gate.pem, cert: empty.pem, key: gate.key }",
            ["upstream.tls.cert", "empty.pem"],
        ),
        (
            "{ ca: gate.pem, cert: gate.pem, key: gate.pem }",
            ["upstream.tls.key", "gate.pem"],
        ),
        (
            "{ ca: gate.pem, cert: gate.pem, key: other.key }",
            ["upstream.tls.key", "other.key"],
        ),
        (
            "{ ca: gate.pem, server_name: 'not a name' }",
            ["upstream.tls.server_name", "not a name"],
        ),
    ] {
        let files = [
            ("gate.pem", cert.as_str()),
            ("gate.key", &key),
            ("other.key", &other),
            ("empty.pem", ""),
        ];
        let app = App {
            address: "127.0.0.1:1".to_owned(),
            ..app.clone()
        };
        let error = secured(&app, &files, &format!(", tls: {tls}"))
            .try_start()
            .err()
            .unwrap_or_default();
        assert!(words.iter().all(|word| error.contains(word)), "{tls}: {error}");
    }
}
