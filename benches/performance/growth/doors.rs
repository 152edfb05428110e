//! The cost of one question at each door: the same caller, the same request, the same policies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;

use super::draw::{grouped, short};
use super::measure::median;
use super::setting::{Setting, Spent, spend};
use crate::Extent;
use crate::gate::Gate;
use crate::load;
use crate::report::{Goal, Section, Table};

const POLICIES: usize = 1_000;
const ROUNDS: usize = 7;
/// The path of the request that every door decides on.
const PATH: &str = "/shop/item-1";
/// Questions at a time over gRPC: as many as the connections of the other doors.
const IN_FLIGHT: usize = 16;
/// Connections over gRPC: Envoy has one for each of its workers.
const CONNECTIONS: usize = 2;
/// gRPC costs at most this many times `/authorize`.
const GRPC_RATIO: f64 = 1.5;
const CHECK: &str = "http://gate/envoy.service.auth.v3.Authorization/Check";

struct Door {
    name: &'static str,
    ask: Ask,
    /// Per question, a number per round.
    cpu: Vec<f64>,
    rate: Vec<f64>,
}

enum Ask {
    /// A request of HTTP/1.1, at the decision listener.
    Decision(Vec<u8>),
    /// At the proxy listener.
    Proxy(Vec<u8>),
    Grpc(Bytes),
}

pub fn section(extent: Extent) -> Section {
    let setting = Setting::new();
    let policies = if extent == Extent::Whole { POLICIES } else { 10 };
    let files = setting.files(policies);
    let gate = setting.start_one(&files);
    let mut doors = doors(setting.token());
    let (rounds, time) = match extent {
        Extent::Whole => (ROUNDS, Duration::from_millis(800)),
        Extent::Smoke => (1, Duration::from_millis(10)),
    };
    for _ in 0..rounds {
        for door in &mut doors {
            let spent = door.ask.spend(&gate, time);
            door.cpu.push(spent.cpu);
            door.rate.push(spent.rate);
        }
    }
    Section {
        title: "Doors".to_owned(),
        text: vec![format!(
            "The whole program on one core, {} policies, one permitted question at a time on each of 16 connections (gRPC: {IN_FLIGHT} \
             questions at a time over {CONNECTIONS} connections). CPU time of the gate per question. The doors of proxies answer with \
             the identity headers and a signed assertion, which `/authorize` does not.",
            grouped(policies)
        )],
        goals: vec![goal(&doors)],
        tables: vec![table(&doors)],
        ..Section::default()
    }
}

fn doors(token: &str) -> Vec<Door> {
    let bearer = format!("Bearer {token}");
    let url = format!("https://shop.test{PATH}");
    let named = json!({"portal": "bench", "action": "GET", "resource": {"type": "Path", "id": PATH}, "token": token}).to_string();
    let original = [
        ("x-original-method", "GET"),
        ("x-original-url", url.as_str()),
        ("x-forwarded-for", "10.1.2.3"),
        ("authorization", bearer.as_str()),
    ];
    let forwarded = [
        ("x-forwarded-method", "GET"),
        ("x-forwarded-uri", PATH),
        ("x-forwarded-host", "shop.test"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "10.1.2.3"),
        ("authorization", bearer.as_str()),
    ];
    let own = [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "10.1.2.3"),
        ("authorization", bearer.as_str()),
    ];
    let get = |path: &str, headers: &[(&str, &str)]| load::request("GET", path, headers, None);
    let door = |name, ask| Door {
        name,
        ask,
        cpu: Vec::new(),
        rate: Vec::new(),
    };
    vec![
        door(
            "`/authorize`",
            Ask::Decision(load::request("POST", "/authorize", &[], Some(&named))),
        ),
        door("`/auth-request` (nginx)", Ask::Decision(get("/auth-request", &original))),
        door(
            "`/forward-auth` (Traefik, Caddy)",
            Ask::Decision(get("/forward-auth", &forwarded)),
        ),
        door(
            "`/ext-authz` (Envoy over HTTP)",
            Ask::Decision(get(&format!("/ext-authz{PATH}"), &own)),
        ),
        door("gRPC (Envoy)", Ask::Grpc(check_request(&bearer))),
        door("the proxy listener, with the app's answer", Ask::Proxy(get(PATH, &own[2..]))),
    ]
}

impl Ask {
    fn spend(&self, gate: &Gate, time: Duration) -> Spent {
        match self {
            Self::Decision(request) => spend(gate, gate.decision, std::slice::from_ref(request), time),
            Self::Proxy(request) => spend(gate, gate.proxy, std::slice::from_ref(request), time),
            Self::Grpc(message) => {
                let before = gate.process.cpu_time();
                let (count, took) = grpc_load(gate.ext_authz, message, time);
                let used = gate.process.cpu_time().saturating_sub(before);
                Spent {
                    cpu: used.as_secs_f64() * 1e6 / load::count(count),
                    rate: load::count(count) / took.as_secs_f64(),
                }
            }
        }
    }
}

/// Asks again as soon as an answer is there; returns the answers and the time.
fn grpc_load(address: SocketAddr, message: &Bytes, time: Duration) -> (usize, Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answers = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            for _ in 0..IN_FLIGHT / CONNECTIONS {
                let (mut sender, message, answers) = (sender.clone(), message.clone(), Arc::clone(&answers));
                tasks.push(tokio::spawn(async move {
                    while begun.elapsed() < time {
                        let request = Request::post(CHECK)
                            .header("content-type", "application/grpc")
                            .header("te", "trailers")
                            .body(Full::new(message.clone()))
                            .unwrap();
                        let answer = sender.send_request(request).await.unwrap();
                        let body = answer.into_body().collect().await.unwrap().to_bytes();
                        // `status` of an `OkHttpResponse`: an empty message in front of the headers
                        assert!(body.get(5..7) == Some(&[0x0a, 0x00]), "{body:?}");
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                }));
            }
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
    (answers.load(Ordering::Relaxed), begun.elapsed())
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend_from_slice(bytes);
    out
}

/// Envoy's `CheckRequest` in gRPC's frame.
fn check_request(bearer: &str) -> Bytes {
    let lines: Vec<u8> = [
        (":path", PATH),
        (":method", "GET"),
        (":authority", "shop.test"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "1c5a9d3e-0000-4000-8000-000000000000"),
        ("authorization", bearer),
    ]
    .iter()
    .flat_map(|(name, value)| field(1, &[field(1, name.as_bytes()), field(3, value.as_bytes())].concat()))
    .collect();
    let http = [
        field(2, b"GET"),
        field(4, PATH.as_bytes()),
        field(5, b"shop.test"),
        field(6, b"https"),
        field(13, &lines),
    ];
    let source = field(1, &field(1, &field(1, &field(2, b"10.1.2.3"))));
    let message = field(1, &[source, field(4, &field(2, &http.concat()))].concat());
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

fn cpu(door: &Door) -> f64 {
    median(door.cpu.iter().copied())
}

fn goal(doors: &[Door]) -> Goal {
    let of = |name: &str| doors.iter().find(|door| door.name.starts_with(name)).map_or(f64::NAN, cpu);
    let ratio = of("gRPC") / of("`/authorize`");
    Goal {
        number: 14,
        what: "gRPC against `/authorize`, CPU time".to_owned(),
        wanted: format!("≤ {GRPC_RATIO}×"),
        measured: format!("{}×", short(ratio)),
        met: ratio <= GRPC_RATIO,
        bound: None,
    }
}

fn table(doors: &[Door]) -> Table {
    let base = doors.first().map_or(f64::NAN, cpu);
    let row = |door: &Door| {
        vec![
            door.name.to_owned(),
            short(cpu(door)),
            format!("{}×", short(cpu(door) / base)),
            short(median(door.rate.iter().copied())),
        ]
    };
    Table {
        head: ["door", "CPU, µs", "against `/authorize`", "questions/s"]
            .map(str::to_owned)
            .to_vec(),
        rows: doors.iter().map(row).collect(),
    }
}
