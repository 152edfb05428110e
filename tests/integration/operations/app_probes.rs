//! The app's probes, forwarded by the admin listener: answers, deadlines, floods, and what is not passed on.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::processes::refusing_address;
use crate::support::{Answer, Gate, RawConnection, ScriptedServer, eventually, open_portal, raw, response};

/// A gate whose probes are `probes`, in YAML.
fn gate(probes: &str) -> Gate {
    open_portal()
        .config(&format!("upstream: {{ url: 'http://{{app}}', probes: {probes} }}"))
        .start()
}

fn ask(gate: &Gate, path: &str) -> Answer {
    raw(gate.admin, "GET", path, &[], b"")
}

#[test]
fn a_probe_passes_on_the_status_of_the_app_and_nothing_else() {
    let app = ScriptedServer::start(|head, wire| {
        let status = head.split(' ').nth(1).unwrap().trim_start_matches('/');
        let body = format!(
            "HTTP/1.1 {status} X\r\nlocation: /elsewhere\r\nset-cookie: secret=1\r\nx-app: yes\r\ncontent-length: 6\r\nconnection: close\r\n\r\nsecret"
        );
        wire.send(body.as_bytes());
    });
    for (status, expected) in [
        (200, 200),
        (204, 200),
        (302, 200),
        (307, 200),
        (400, 503),
        (404, 503),
        (500, 503),
        (503, 503),
    ] {
        let gate = gate(&format!("{{ livez: {{ url: '{}/{status}' }} }}", app.url()));
        let before = app.count();
        let answer = ask(&gate, "/app/livez");
        assert_eq!(answer.status, expected, "{status}");
        assert_eq!(answer.text(), format!("the app answered {status}\n"));
        assert_eq!(app.count() - before, 1, "a redirect is not followed");
        for name in ["location", "set-cookie", "x-app"] {
            assert_eq!(answer.header(name), "", "{name}");
        }
        let head = raw(gate.admin, "HEAD", "/app/livez", &[], b"");
        assert_eq!((head.status, head.text().as_str()), (expected, ""));
        assert_eq!(raw(gate.admin, "POST", "/app/livez", &[], b"").status, 405);
    }
}

#[test]
fn a_probe_sends_its_own_headers_and_none_of_the_caller() {
    let gate = gate(
        "{ readyz: { url: 'http://{app}/ready?deep=1', headers: ['Host: shop.test', 'X-Probe: a', 'X-Probe: b'] }, \
           livez: { url: 'http://{app}' } }",
    );
    let headers = [("x-forwarded-user", "root"), ("cookie", "a=b"), ("host", "evil.test")];
    let answer = raw(gate.admin, "GET", "/app/readyz?path=/admin", &headers, b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = gate.app.last();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/ready?deep=1"));
    let values: Vec<&str> = seen.headers.get_all("x-probe").iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(values, ["a", "b"]);
    assert_eq!(seen.headers["host"], "shop.test");
    assert!(seen.headers["user-agent"].to_str().unwrap().starts_with("cedargate-probe/"));
    assert!(!seen.headers.contains_key("x-forwarded-user") && !seen.headers.contains_key("cookie"));
    assert_eq!(ask(&gate, "/app/livez").status, 200);
    assert_eq!(gate.app.last().target, "/");
}

#[test]
fn a_probe_that_is_not_configured_names_its_key() {
    let gate = gate("{ livez: { tcp: '{app}' } }");
    let answer = ask(&gate, "/app/startupz");
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("`upstream.probes.startupz`"), "{}", answer.text());
    for path in [
        "/app/",
        "/app/livez/",
        "/app/livez/x",
        "/app/LIVEZ",
        "//app/livez",
        "/app/%6civez",
    ] {
        let answer = ask(&gate, path);
        assert!(
            answer.status == 404 && answer.text().contains("app/livez"),
            "{path}: {}",
            answer.text()
        );
    }
    assert_eq!(ask(&gate, "/app/livez").text(), "the app accepted a connection\n");
}

#[test]
fn an_app_that_refuses_stalls_or_talks_nonsense_is_unhealthy_within_the_deadline() {
    let closed = refusing_address();
    let silent = ScriptedServer::start(|_, wire| {
        wire.read_until("more");
    });
    let dripping = ScriptedServer::start(|_, wire| {
        for _ in 0..100 {
            if !wire.send(b"H") {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let nonsense = ScriptedServer::start(|_, wire| {
        wire.send(b"SSH-2.0-OpenSSH\r\n\r\n");
    });
    let leaving = ScriptedServer::start(|_, _| {});
    let huge = ScriptedServer::start(|_, wire| {
        wire.send(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(1 << 20)).as_bytes());
    });
    for (target, part) in [
        (format!("url: 'http://{closed}/'"), "no connection to the app"),
        (format!("tcp: '{closed}'"), "no connection to the app"),
        (format!("url: '{}'", silent.url()), "no answer of the app within 300ms"),
        (format!("url: '{}'", dripping.url()), "no "),
        (format!("url: '{}'", nonsense.url()), "no HTTP answer of the app"),
        (format!("url: '{}'", leaving.url()), "no HTTP answer of the app"),
        (format!("url: '{}'", huge.url()), "no HTTP answer of the app"),
        ("url: 'http://nowhere.invalid/'".to_owned(), "no "),
        (format!("url: 'https://{closed}/'"), "no connection to the app"),
    ] {
        let gate = gate(&format!("{{ livez: {{ {target}, timeout: 300ms }} }}"));
        let started = Instant::now();
        let answer = ask(&gate, "/app/livez");
        assert_eq!(answer.status, 503, "{target}");
        assert!(answer.text().contains(part), "{target}: {}", answer.text());
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "{target}: {:?}",
            started.elapsed()
        );
        assert_eq!(ask(&gate, "/readyz").status, 200, "readiness does not depend on the app");
    }
}

#[test]
fn an_answer_without_an_end_counts_by_its_status_and_holds_nothing() {
    let app = ScriptedServer::start(|_, wire| {
        wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n");
        while wire.send([b'a'; 65536]) {}
    });
    let gate = gate(&format!("{{ livez: {{ url: '{}', timeout: 2s }} }}", app.url()));
    let started = Instant::now();
    assert_eq!(ask(&gate, "/app/livez").status, 200);
    assert!(started.elapsed() < Duration::from_secs(1), "the body is not waited for");
}

#[test]
fn a_flood_on_the_admin_port_is_no_flood_on_the_app() {
    let is_slow = Arc::new(AtomicBool::new(true));
    let slow = Arc::clone(&is_slow);
    let app = ScriptedServer::start(move |_, wire| {
        if slow.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(400));
        }
        wire.send(response("200 OK", b"ok"));
    });
    let gate = gate(&format!(
        "{{ livez: {{ url: '{0}/l', timeout: 5s }}, readyz: {{ url: '{0}/r', timeout: 5s }} }}",
        app.url()
    ));
    let start = Barrier::new(20);
    std::thread::scope(|scope| {
        for n in 0..20 {
            let (gate, start) = (&gate, &start);
            scope.spawn(move || {
                start.wait();
                let path = if n % 2 == 0 { "/app/livez" } else { "/app/readyz" };
                assert_eq!(ask(gate, path).status, 200);
            });
        }
    });
    assert!(app.count() <= 4, "{} calls for two kinds at the same time", app.count());
    is_slow.store(false, Ordering::SeqCst);
    let (before, started) = (app.count(), Instant::now());
    let mut asked = 0;
    while started.elapsed() < Duration::from_millis(600) {
        assert_eq!(ask(&gate, "/app/livez").status, 200);
        asked += 1;
    }
    let calls = app.count() - before;
    assert!(
        asked > 20 && calls <= 5,
        "{calls} calls for {asked} probes one after the other"
    );
}

#[test]
fn a_caller_that_leaves_does_not_end_the_probe_of_the_others() {
    let app = ScriptedServer::start(|_, wire| {
        std::thread::sleep(Duration::from_millis(500));
        wire.send(response("200 OK", b"ok"));
    });
    let gate = gate(&format!("{{ livez: {{ url: '{}', timeout: 5s }} }}", app.url()));
    let mut first = RawConnection::open(gate.admin);
    first.send(b"GET /app/livez HTTP/1.1\r\nhost: a\r\n\r\n");
    eventually("the app is asked", || {
        if app.count() == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    });
    drop(first);
    assert_eq!(ask(&gate, "/app/livez").status, 200);
    assert_eq!(app.count(), 1, "the second caller shares the call of the first");
}

#[test]
fn a_health_that_changes_shows_within_a_second() {
    let is_well = Arc::new(AtomicBool::new(true));
    let well = Arc::clone(&is_well);
    let app = ScriptedServer::start(move |_, wire| {
        let status = if well.load(Ordering::SeqCst) { "200 OK" } else { "500 No" };
        wire.send(response(status, b""));
    });
    let gate = gate(&format!("{{ livez: {{ url: '{}' }} }}", app.url()));
    for state in [true, false, true] {
        is_well.store(state, Ordering::SeqCst);
        let changed = Instant::now();
        eventually("the probe follows", || {
            let status = ask(&gate, "/app/livez").status;
            if status == if state { 200 } else { 503 } {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
        assert!(changed.elapsed() < Duration::from_secs(1));
    }
}

/// A gRPC server whose health service answers with these bytes and this status, and the bodies of the requests that it
/// saw.
fn grpc_app(answer: &'static [u8], status: &'static str) -> (SocketAddr, Arc<Mutex<Vec<Bytes>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let seen: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    let bodies = Arc::clone(&seen);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let bodies = Arc::clone(&bodies);
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let bodies = Arc::clone(&bodies);
                    async move {
                        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                        assert_eq!(request.headers()["content-type"], "application/grpc");
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        bodies.lock().unwrap().push(body);
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", HeaderValue::from_static(status));
                        let body = Full::new(Bytes::from_static(answer)).with_trailers(async { Some(Ok(trailers)) });
                        Ok::<_, std::convert::Infallible>(http::Response::new(body))
                    }
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
    });
    (address, seen)
}

#[test]
fn a_grpc_probe_asks_the_health_service() {
    let serving: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
    for (answer, status, expected, text) in [
        (serving, "0", 200, "the app serves\n"),
        (
            &[0, 0, 0, 0, 2, 8, 2][..],
            "0",
            503,
            "the app's gRPC health service answered NOT_SERVING\n",
        ),
        (&[0, 0, 0, 0, 0], "0", 503, "the app's gRPC health service answered UNKNOWN\n"),
        (serving, "5", 503, "(5, NOT_FOUND)"),
        (&[], "12", 503, "(12, UNIMPLEMENTED)"),
        (&[], "14", 503, "with status 14"),
        (serving, "evil", 503, "without a status"),
        (&[0, 0, 0, 0, 9, 8, 1], "0", 503, "no health"),
        (&[], "0", 503, "no health"),
    ] {
        let (app, seen) = grpc_app(answer, status);
        let gate = gate(&format!(
            "{{ livez: {{ grpc: '{app}', service: shop.v1 }}, readyz: {{ grpc: '{app}' }} }}"
        ));
        for path in ["/app/livez", "/app/readyz"] {
            let answer = ask(&gate, path);
            assert_eq!(answer.status, expected, "{}", answer.text());
            assert!(answer.text().contains(text), "{}", answer.text());
        }
        let seen = seen.lock().unwrap();
        assert_eq!(seen[0], Bytes::from_static(b"\x00\x00\x00\x00\x09\x0a\x07shop.v1"));
        assert_eq!(seen[1], Bytes::from_static(b"\x00\x00\x00\x00\x00"));
    }
    let http1 = ScriptedServer::start(|_, wire| {
        wire.send(response("200 OK", b"hello"));
    });
    let closed = refusing_address();
    for address in [http1.address, closed] {
        let gate = gate(&format!("{{ livez: {{ grpc: '{address}', timeout: 500ms }} }}"));
        let answer = ask(&gate, "/app/livez");
        assert!(answer.status == 503 && answer.text().starts_with("no "), "{}", answer.text());
    }
}
