//! Real software on both sides of the gate: gRPC and WebSocket libraries, curl, Chromium, h2spec, and very large
//! bodies.
//!
//! `make tools` installs the tools; a test fails with a message if its tool is missing. Scripts are in `tests/tools`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{Request as Upgrade, Response as Upgraded};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::http2_frames::{Field, Http2, field};
use crate::support::tools::tool;
use crate::support::{Gate, Issuer, OPEN_POLICY, OPEN_SCHEMA, PAGE, RawConnection, ScriptedServer, Setup, eventually, put, raw};

const CLOSED: &str = "@id(\"closed\") forbid (principal, action, resource in Path::\"/portal/p/closed\");
@id(\"closed-service\") forbid (principal, action, resource in Path::\"/portal/p/echo.Closed\");";
const PLAIN: &str = "listen: { proxy: { address: '127.0.0.1:0' }, decision: null, admin: { address: '127.0.0.1:0' } }";
pub const TLS: &str = "listen: { proxy: { address: '127.0.0.1:0', tls: { cert: tls.crt, key: tls.key } }, decision: null, admin: { address: '127.0.0.1:0' } }";
/// The longest run of a tool.
const PATIENCE: Duration = Duration::from_secs(90);

fn python(script: &str) -> Command {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/venv/bin/python");
    assert!(own.exists(), "the Python environment is missing; run `make tools`");
    let mut command = Command::new(own);
    command
        .arg("-u")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools").join(script));
    // loopback tests do not use the machine's proxy
    for name in [
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "grpc_proxy",
    ] {
        command.env_remove(name);
    }
    command
}

/// A process that ends with the test; what it prints comes line by line.
struct Process {
    child: Child,
    lines: Receiver<String>,
    printed: Vec<String>,
}

impl Process {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            printed: Vec::new(),
        }
    }

    fn line(&mut self) -> String {
        let line = self.lines.recv_timeout(PATIENCE).expect("the process says nothing more");
        self.printed.push(line.clone());
        line
    }

    /// Waits until it printed a line that starts like this.
    fn wait_for_line(&mut self, start: &str) -> String {
        eventually(start, || {
            self.printed.extend(self.lines.try_iter());
            let found = self.printed.iter().find(|line| line.starts_with(start)).cloned();
            found.ok_or_else(|| self.printed.join("\n"))
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs to its end; kills it when that takes too long.
fn finished(command: &mut Command) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    ended(child)
}

fn ended(child: Child) -> Output {
    let pid = child.id();
    let (sender, done) = channel();
    let waiter = std::thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        let _nobody_waits = sender.send(()).is_err();
        output
    });
    if done.recv_timeout(PATIENCE).is_err() {
        drop(Command::new("kill").arg("-9").arg(pid.to_string()).status());
        panic!("a tool did not end: {}", text(&waiter.join().unwrap().stderr));
    }
    waiter.join().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A certificate for `shop.test`, which is its own authority.
pub fn certified(setup: Setup) -> Setup {
    let names = ["shop.test", "localhost", "127.0.0.1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    setup
        .file("tls.crt", &made.cert.pem())
        .file("tls.key", &made.signing_key.serialize_pem())
}

pub fn portal(upstream: &str, listen: &str) -> Setup {
    let setup = Setup::portal(OPEN_SCHEMA, &format!("{OPEN_POLICY}\n{CLOSED}"));
    let public = "public: [ \"GET /portal/p/assets/**\", \"HEAD /portal/p/assets/**\", \"POST /portal/p/assets/**\", \"OPTIONS /portal/p/assets/**\" ]\n";
    let setup = setup.file("policies/p/portal.yaml", public).config(listen);
    if upstream.is_empty() {
        setup
    } else {
        setup.config(&format!("upstream: {{ url: '{upstream}' }}"))
    }
}

fn alice(gate: &Gate) -> String {
    gate.issuer.token("alice", &["viewer"])
}

/// Runs a script's `call` and expects it to come to its end and to print all of this.
fn calls(command: &mut Command, expected: &[&str]) {
    let output = finished(command);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", text(&output.stderr));
    for name in expected {
        assert!(
            printed.lines().any(|line| line == format!("ok {name}")),
            "`{name}` was not tried:\n{printed}"
        );
    }
}

const GRPC: [&str; 17] = [
    "unary",
    "identity",
    "empty",
    "server-streaming",
    "empty-stream",
    "client-streaming",
    "bidirectional",
    "trailers-only",
    "late-error",
    "unimplemented",
    "large",
    "deadline",
    "cancel",
    "denied",
    "unauthenticated",
    "denied-stream",
    "after",
];

#[test]
fn real_grpc_calls_of_every_kind_pass_in_plain_and_over_tls() {
    let mut app = {
        let mut command = python("grpc_calls.py");
        command.arg("serve");
        Process::start(command)
    };
    let port = app.line();
    for (upstream, listen) in [
        (format!("http://127.0.0.1:{port}"), PLAIN),
        (format!("h2c://127.0.0.1:{port}"), TLS),
    ] {
        let gate = certified(portal(&upstream, listen)).start();
        let mut client = python("grpc_calls.py");
        client.arg("call").arg(gate.proxy.to_string()).arg(alice(&gate));
        if listen == TLS {
            client.arg(gate.path("tls.crt"));
        }
        calls(&mut client, &GRPC);
        // the app sees the cancellation of the client, and it knows the deadline itself
        app.wait_for_line("ended hang deadline had-deadline=True");
        app.wait_for_line("ended endless cancel");
        app.printed.clear();
        let denied = gate.records(10).into_iter().filter(|r| r["reason"] == "forbidden").count();
        assert_eq!(denied, 2);
    }
}

#[test]
fn grpc_callers_of_an_app_that_is_down_are_told_unavailable() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let gate = portal(&format!("http://127.0.0.1:{port}"), PLAIN).start();
    let mut client = python("grpc_calls.py");
    client.arg("down").arg(gate.proxy.to_string()).arg(alice(&gate));
    calls(&mut client, &["down"]);
}

#[test]
fn real_websockets_pass_in_plain_and_over_tls_and_refusals_open_none() {
    let mut app = {
        let mut command = python("websocket_calls.py");
        command.arg("serve");
        Process::start(command)
    };
    let port = app.line();
    for (scheme, listen) in [("ws", PLAIN), ("wss", TLS)] {
        let gate = certified(portal(&format!("http://127.0.0.1:{port}"), listen)).start();
        let mut client = python("websocket_calls.py");
        client
            .arg("call")
            .arg(format!("{scheme}://127.0.0.1:{}/portal/p", gate.proxy.port()))
            .arg(alice(&gate));
        if listen == TLS {
            client.arg(gate.path("tls.crt"));
        }
        let all = [
            "subprotocol",
            "deflate",
            "echo",
            "ping",
            "fragments",
            "close",
            "close-by-app",
            "identity",
            "refusals",
            "many",
        ];
        calls(&mut client, &all);
        app.wait_for_line("closed /portal/p/ws 4001");
        app.printed.clear();
    }
}

#[test]
fn another_websocket_library_passes_too_and_an_end_of_either_side_reaches_the_other() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gate = portal(&format!("http://{}", listener.local_addr().unwrap()), PLAIN).start();
        let dial = |path: &str| {
            let mut request = format!("ws://{}{path}", gate.proxy).into_client_request().unwrap();
            let bearer = format!("Bearer {}", alice(&gate));
            request.headers_mut().insert("authorization", bearer.parse().unwrap());
            tokio_tungstenite::connect_async(request)
        };
        let accept = || async {
            let (stream, _) = listener.accept().await.unwrap();
            let look = |request: &Upgrade, response: Upgraded| {
                assert_eq!(request.headers()["x-forwarded-user"], "alice");
                assert_eq!(request.headers().get_all("upgrade").iter().count(), 1);
                assert!(request.headers().get("authorization").is_none());
                Ok(response)
            };
            tokio_tungstenite::accept_hdr_async(stream, look).await.unwrap()
        };
        let (client, mut server) = tokio::join!(dial("/portal/p/ws"), accept());
        let (mut client, response) = client.unwrap();
        assert_eq!(response.status(), 101);
        let large = Message::binary((0..1_000_000_u32).map(|n| n as u8).collect::<Vec<u8>>());
        for message in [Message::text("hé"), large, Message::Ping("x".into())] {
            client.send(message.clone()).await.unwrap();
            assert_eq!(server.next().await.unwrap().unwrap(), message);
        }
        // the other way, and without being asked
        server.send(Message::text("unasked")).await.unwrap();
        let mut got = client.next().await.unwrap().unwrap();
        if matches!(got, Message::Pong(_)) {
            got = client.next().await.unwrap().unwrap();
        }
        assert_eq!(got, Message::text("unasked"));
        // either side aborts without a close frame
        drop(client);
        let end = server.next().await;
        assert!(matches!(end, None | Some(Err(_))), "{end:?}");
        let (client, server) = tokio::join!(dial("/portal/p/ws"), accept());
        drop(server);
        let end = client.unwrap().0.next().await;
        assert!(matches!(end, None | Some(Err(_))), "{end:?}");
        let Err(Error::Http(refused)) = dial("/portal/p/closed/ws").await else {
            panic!("a tunnel past a forbid");
        };
        assert_eq!(refused.status(), 403);
    });
}

struct Curl<'a> {
    gate: &'a Gate,
    ways: Vec<&'static str>,
    scheme: &'static str,
}

impl Curl<'_> {
    fn command(&self, arguments: &[&str], path: &str) -> Command {
        let port = self.gate.proxy.port();
        let mut command = Command::new(tool(&["curl"]));
        command.args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"]);
        command.args(&self.ways).arg("--cacert").arg(self.gate.path("tls.crt"));
        command.arg("--resolve").arg(format!("shop.test:{port}:127.0.0.1"));
        command
            .arg("--header")
            .arg(format!("Authorization: Bearer {}", alice(self.gate)));
        command
            .args(arguments)
            .arg(format!("{}://shop.test:{port}{path}", self.scheme));
        command
    }

    /// Status, HTTP version and body.
    fn run(&self, arguments: &[&str], path: &str) -> (String, String, String) {
        let output = finished(
            self.command(arguments, path)
                .args(["--write-out", "\n%{http_code} %{http_version}"]),
        );
        assert!(
            output.status.success(),
            "curl {:?} {arguments:?}: {}",
            self.ways,
            text(&output.stderr)
        );
        let printed = text(&output.stdout);
        let (body, last) = printed.rsplit_once('\n').unwrap();
        let (code, version) = last.split_once(' ').unwrap();
        (code.to_owned(), version.to_owned(), body.to_owned())
    }
}

#[test]
fn curl_in_every_version_of_http_in_plain_and_over_tls() {
    for (listen, scheme) in [(PLAIN, "http"), (TLS, "https")] {
        let gate = certified(portal("", listen)).start();
        let body: Vec<u8> = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(gate.path("upload"), &body).unwrap();
        let upload = gate.path("upload").display().to_string();
        let second = if scheme == "http" {
            "--http2-prior-knowledge"
        } else {
            "--http2"
        };
        for (way, version) in [("--http1.0", "1.0"), ("--http1.1", "1.1"), (second, "2")] {
            let curl = Curl {
                gate: &gate,
                ways: vec![way],
                scheme,
            };
            let what = format!("{way} {scheme}");
            let (code, spoken, answer) = curl.run(&[], "/portal/p/page?q=1");
            assert_eq!((code.as_str(), answer.as_str()), ("200", "{\"app\":\"recording\"}"), "{what}");
            // an HTTP/1.1 server may answer a 1.0 request with its own version
            assert!(
                spoken == version || (version == "1.0" && spoken.starts_with('1')),
                "{what}: {spoken}"
            );
            assert_eq!(gate.app.last().target, "/portal/p/page?q=1");
            assert_eq!(gate.app.last().headers["x-forwarded-proto"], scheme);
            let (code, _, head) = curl.run(&["--head"], PAGE);
            assert_eq!((code.as_str(), gate.app.last().method.as_str()), ("200", "HEAD"), "{what}");
            assert!(head.to_ascii_lowercase().contains("x-app: yes"), "{what}: {head}");
            let (code, ..) = curl.run(&["--request", "OPTIONS"], PAGE);
            assert_eq!((code.as_str(), gate.app.last().method.as_str()), ("200", "OPTIONS"), "{what}");
            // with `Expect: 100-continue` where curl thinks it worth it
            let (code, ..) = curl.run(&["--upload-file", &upload], PAGE);
            let seen = gate.app.last();
            assert_eq!(
                (code.as_str(), seen.method.as_str(), seen.body.len()),
                ("200", "PUT", body.len()),
                "{what}"
            );
            assert!(seen.body == body, "{what}: another body arrived");
            if version != "1.0" {
                let mut child = curl.command(&["--upload-file", "-", "--write-out", "%{http_code}"], PAGE);
                let mut child = child
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut stdin = child.stdin.take().unwrap();
                for piece in body[..200_000].chunks(50_000) {
                    stdin.write_all(piece).unwrap();
                }
                drop(stdin);
                let output = ended(child);
                assert!(text(&output.stdout).ends_with("200"), "{what}: {output:?}");
                let seen = gate.app.last();
                assert!(
                    seen.body == body[..200_000] && seen.headers.get("content-length").is_none(),
                    "{what}"
                );
            }
            let (code, _, answer) = curl.run(&[], "/portal/p/closed/x");
            assert!(code == "403" && answer.contains("\"forbidden\""), "{what}: {code} {answer}");
            let (code, ..) = curl.run(&["--path-as-is"], "/portal/p/x/../closed");
            assert_eq!(code, "400", "{what}");
        }
        // two requests on one connection; curl 7.88 cannot do that with HTTP/2 by prior knowledge
        let ways = vec![if scheme == "http" { "--http1.1" } else { "--http2" }];
        let curl = Curl {
            gate: &gate,
            ways,
            scheme,
        };
        let again = format!("{scheme}://shop.test:{}{PAGE}", gate.proxy.port());
        let output = finished(&mut curl.command(&["--write-out", " %{num_connects} ", &again], PAGE));
        assert_eq!(
            text(&output.stdout),
            "{\"app\":\"recording\"} 1 {\"app\":\"recording\"} 0 ",
            "{output:?}"
        );
    }
}

#[test]
fn a_server_sent_event_arrives_before_the_next_one_is_made() {
    let (next, made) = std::sync::mpsc::sync_channel::<()>(0);
    let made = Mutex::new(made);
    let app = ScriptedServer::start(move |_, wire| {
        wire.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
        for n in 0..5 {
            let event = format!("data: {n}\n\n");
            wire.send(format!("{:x}\r\n{event}\r\n", event.len()));
            // until the client has it
            if made.lock().unwrap().recv_timeout(Duration::from_secs(20)).is_err() {
                return;
            }
        }
        wire.send("0\r\n\r\n");
    });
    for (listen, scheme, way) in [
        (PLAIN, "http", "--http1.1"),
        (PLAIN, "http", "--http2-prior-knowledge"),
        (TLS, "https", "--http2"),
    ] {
        let gate = certified(portal(&app.url(), listen)).start();
        let curl = Curl {
            gate: &gate,
            ways: vec![way, "--no-buffer"],
            scheme,
        };
        let mut client = Process::start(curl.command(&[], "/portal/p/events"));
        for n in 0..5 {
            assert_eq!((client.line(), client.line()), (format!("data: {n}"), String::new()), "{way}");
            next.send(()).unwrap();
        }
        assert!(client.child.wait().unwrap().success(), "{way}");
    }
}

/// Tests of h2spec that fail where one port speaks both HTTPs, each with its reason.
const H2SPEC_PLAIN: &[(&str, &str)] = &[(
    "http2/3.5: Sends invalid connection preface",
    "what is not the preface is HTTP/1.1, and answered 400 in it before the connection is closed",
)];

#[test]
fn h2spec_finds_nothing() {
    let spec = tool(&["h2spec"]);
    for (listen, tls) in [(PLAIN, false), (TLS, true)] {
        let gate = certified(portal("", listen)).start();
        let report = gate.path("h2spec.xml");
        let mut command = Command::new(&spec);
        command.args([
            "--host",
            "127.0.0.1",
            "--path",
            "/portal/p/assets/a.css",
            "--timeout",
            "2",
            "--strict",
        ]);
        command
            .arg("--port")
            .arg(gate.proxy.port().to_string())
            .arg("--junit-report")
            .arg(&report);
        if tls {
            command.args(["--tls", "--insecure"]);
        }
        let output = finished(&mut command);
        let xml = std::fs::read_to_string(&report).unwrap_or_else(|e| panic!("{e}: {output:?}"));
        let failed: BTreeSet<String> = failures(&xml).into_iter().collect();
        // with TLS, ALPN has chosen the HTTP version
        let known: &[(&str, &str)] = if tls { &[] } else { H2SPEC_PLAIN };
        let known: BTreeSet<String> = known.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert!(xml.matches("<testcase").count() > 140, "{xml}");
        assert_eq!(failed, known, "tls {tls}: {}", text(&output.stdout));
    }
}

/// `package: what was tested` of every test case with a failure or an error in it.
fn failures(xml: &str) -> Vec<String> {
    let attribute = |case: &str, name: &str| -> String {
        let rest = case.split(&format!(" {name}=\"")).nth(1).unwrap_or_default();
        rest.split('"').next().unwrap_or_default().replace("&#39;", "'")
    };
    let cases = xml.split("<testcase").skip(1);
    let failed = cases.filter(|case| case.contains("<failure") || case.contains("<error"));
    failed
        .map(|case| format!("{}: {}", attribute(case, "package"), attribute(case, "classname")))
        .collect()
}

const DOWNLOAD: u64 = 512 * 1024 * 1024;

/// An app that sends as much as the gate takes, and counts the bytes.
fn endless(written: &Arc<AtomicU64>) -> ScriptedServer {
    let written = Arc::clone(written);
    ScriptedServer::start(move |_, wire| {
        let piece = vec![b'x'; 256 * 1024];
        wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {DOWNLOAD}\r\n\r\n"));
        while written.load(Ordering::SeqCst) < DOWNLOAD && wire.send(&piece) {
            written.fetch_add(piece.len() as u64, Ordering::SeqCst);
        }
    })
}

/// The built binary with the open portal, in a process of its own.
struct Binary {
    _process: Process,
    pid: u32,
    proxy: SocketAddr,
    token: String,
    _folder: tempfile::TempDir,
}

fn binary(upstream: &str) -> Binary {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), Issuer::new("key-1"));
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (proxy, admin) = (free(), free());
    for (name, content) in [
        ("schemas/p.cedarschema", OPEN_SCHEMA),
        ("policies/p/main.cedar", OPEN_POLICY),
        ("jwks.json", &issuer.jwks().to_string()),
        (
            "cedargate.yaml",
            &format!(
                "listen: {{ proxy: {{ address: '{proxy}' }}, decision: null, admin: {{ address: '{admin}' }} }}\nupstream: {{ url: '{upstream}' }}\n\
                 issuers: [{{ name: test, issuer: 'https://issuer.test/', audiences: [shop], jwks: {{ file: jwks.json }} }}]\n\
                 audit: {{ sink: {{ file: decisions.jsonl }} }}\nlimits: {{ workers: 1 }}\n"
            ),
        ),
    ] {
        put(folder.path(), name, content);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_cedargate"));
    command
        .arg("serve")
        .current_dir(folder.path())
        .env_remove("CEDARGATE_CONFIG")
        .env("CEDARGATE_LOG", "warn");
    command.stderr(Stdio::null());
    let process = Process::start(command);
    eventually("the gate is ready", || match TcpStream::connect(admin) {
        Ok(_) if raw(admin, "GET", "/readyz", &[], b"").status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    Binary {
        pid: process.child.id(),
        _process: process,
        proxy,
        token: issuer.token("alice", &[]),
        _folder: folder,
    }
}

/// Resident memory in bytes.
fn resident(pid: u32) -> u64 {
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn a_large_download_needs_no_memory() {
    let written = Arc::<AtomicU64>::default();
    let app = endless(&written);
    let gate = binary(&app.url());
    for way in ["--http1.1", "--http2-prior-knowledge"] {
        // memory that the first request allocates for good is no growth
        written.store(DOWNLOAD - 1, Ordering::SeqCst);
        drop(finished(&mut download(&gate, way)));
        written.store(0, Ordering::SeqCst);
        let (before, started, mut most) = (resident(gate.pid), Instant::now(), 0);
        let mut client = download(&gate, way)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let ended_with = loop {
            most = most.max(resident(gate.pid));
            if let Some(status) = client.try_wait().unwrap() {
                break status;
            }
            assert!(started.elapsed() < PATIENCE, "{way}: too slow");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(ended_with.success(), "{way}: {ended_with}");
        let mut printed = String::new();
        client.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        assert_eq!(printed, format!("200 {DOWNLOAD}"), "{way}");
        let grown = most.saturating_sub(before);
        assert!(grown < 16 * 1024 * 1024, "{way}: {grown} bytes more while {DOWNLOAD} passed");
        println!("{way}: {:?}, {} KiB more", started.elapsed(), grown / 1024);
    }
}

fn download(gate: &Binary, way: &str) -> Command {
    let mut command = Command::new(tool(&["curl"]));
    command.args([
        "--silent",
        way,
        "--noproxy",
        "*",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code} %{size_download}",
    ]);
    command.arg("--header").arg(format!("Authorization: Bearer {}", gate.token));
    command.arg(format!("http://{}{PAGE}", gate.proxy));
    command
}

#[test]
fn a_client_that_does_not_read_stops_the_app_over_either_http() {
    let written = Arc::<AtomicU64>::default();
    let app = endless(&written);
    let gate = binary(&app.url());
    // over HTTP/1.1 the socket's buffers fill up, over HTTP/2 the stream's window
    let mut plain = RawConnection::open(gate.proxy);
    plain.send(format!(
        "GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\nauthorization: Bearer {}\r\n\r\n",
        gate.token
    ));
    let first = stalled(&written);
    let mut second = Http2::open(gate.proxy);
    let fields: Vec<Field> = vec![
        field(":method", "GET"),
        field(":scheme", "http"),
        field(":authority", "shop.test"),
        field(":path", PAGE),
        field("authorization", format!("Bearer {}", gate.token)),
    ];
    second.ask(&fields, crate::support::http2_frames::END_STREAM);
    let both = stalled(&written);
    for (way, passed) in [("1.1", first), ("2", both - first)] {
        assert!(
            (1..32 * 1024 * 1024).contains(&passed),
            "HTTP/{way}: {passed} bytes for a client that reads nothing"
        );
    }
    drop((plain, second));
}

/// The bytes written, once the count stands still.
fn stalled(written: &AtomicU64) -> u64 {
    let mut last = (written.load(Ordering::SeqCst), Instant::now());
    eventually("the app stops writing", || {
        let now = written.load(Ordering::SeqCst);
        if now != last.0 {
            last = (now, Instant::now());
        }
        if now > 0 && last.1.elapsed() > Duration::from_millis(500) {
            Ok(now)
        } else {
            Err(now.to_string())
        }
    })
}
