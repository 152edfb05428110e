//! Draining: the gate announces it to balancers and clients, finishes open requests, ends at once on a second signal,
//! and loses no request of a client that obeys. Real processes and real signals.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::binary::{GateFolder, GateProcess};
use crate::support::{App, PAGE, RawConnection, ScriptedServer, eventually, raw, response};

fn ready(admin: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&admin, Duration::from_millis(200)) else {
        return false;
    };
    let mut head = [0; 12];
    let asked = stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .and_then(|()| stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"))
        .and_then(|()| stream.read_exact(&mut head));
    asked.is_ok() && &head == b"HTTP/1.1 200"
}

fn begin_draining(gate_folder: &GateFolder, gate_process: &GateProcess, signal: &str) {
    gate_process.signal(signal);
    eventually("it says that it drains", || {
        let answer = raw(gate_folder.admin, "GET", "/readyz", &[], b"");
        match (answer.status, answer.text().contains("draining")) {
            (503, true) => Ok(()),
            _ => Err(answer.text()),
        }
    });
}

fn decisions(gate_folder: &GateFolder) -> Vec<Value> {
    let log = std::fs::read_to_string(gate_folder.folder.path().join("decisions.jsonl")).unwrap();
    let all = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("whole lines only"));
    all.filter(|record| record["kind"] == "decision").collect()
}

fn hello() -> ScriptedServer {
    ScriptedServer::start(|_, wire| {
        wire.send(response("200 OK", b"hello"));
    })
}

#[test]
fn a_draining_gate_serves_every_client_and_asks_it_to_leave() {
    let script = hello();
    let gate_folder = GateFolder::new(&script.url(), "limits: { drain_delay: 3s }");
    let mut gate_process = gate_folder.serve();
    let mut kept = RawConnection::open(gate_folder.proxy);
    kept.send(gate_folder.request());
    assert_eq!(kept.read_answer("GET").unwrap().header("connection"), "");
    let mut unused = RawConnection::open(gate_folder.proxy);
    let begun = Instant::now();
    begin_draining(&gate_folder, &gate_process, "-TERM");
    let metrics = raw(gate_folder.admin, "GET", "/metrics", &[], b"").text();
    assert!(metrics.contains("cedargate_draining 1"), "{metrics}");
    assert_eq!(raw(gate_folder.admin, "GET", "/status", &[], b"").json()["draining"], true);
    assert_eq!(
        raw(gate_folder.admin, "GET", "/livez", &[], b"").status,
        200,
        "it lives until it ends"
    );
    for wire in [&mut kept, &mut RawConnection::open(gate_folder.proxy), &mut unused] {
        wire.send(gate_folder.request());
        let answer = wire.read_answer("GET").unwrap();
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("hello", "close"));
        assert!(wire.is_closed());
    }
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "the machine is too slow for this test"
    );
    assert_eq!(gate_process.exit_code(), 0);
    assert!(
        begun.elapsed() >= Duration::from_secs(3),
        "balancers had the time they were promised"
    );
    assert_eq!(decisions(&gate_folder).len(), 4);
}

#[test]
fn ctrl_c_does_not_wait_for_balancers() {
    let script = ScriptedServer::start(|_, wire| {
        wire.read_until("never");
    });
    let gate_folder = GateFolder::new(&script.url(), "limits: { drain_delay: 10m, drain_timeout: 10m }");
    let mut idle = gate_folder.serve();
    idle.signal("-INT");
    assert_eq!(idle.exit_code(), 0);
    // the gate waits for requests in flight until the second signal
    let mut busy = gate_folder.serve();
    let mut wire = RawConnection::open(gate_folder.proxy);
    wire.send(gate_folder.request());
    eventually("the app is asked", || {
        (script.count() == 1).then_some(()).ok_or(String::new())
    });
    begin_draining(&gate_folder, &busy, "-INT");
    eventually("no new connection is taken", || {
        TcpStream::connect(gate_folder.proxy)
            .is_err()
            .then_some(())
            .ok_or("accepting".to_owned())
    });
    assert!(busy.0.try_wait().unwrap().is_none());
    busy.signal("-INT");
    assert_eq!(busy.exit_code(), 0);
    let records = decisions(&gate_folder);
    assert_eq!(records.len(), 1, "what was cut off has its record: {records:?}");
    assert_eq!(records[0]["http"]["status"], Value::Null);
}

#[test]
fn a_second_signal_also_cuts_the_delay_short() {
    let script = hello();
    let gate_folder = GateFolder::new(&script.url(), "limits: { drain_delay: 10m, drain_timeout: 10m }");
    let mut gate_process = gate_folder.serve();
    begin_draining(&gate_folder, &gate_process, "-TERM");
    gate_process.signal("-TERM");
    assert_eq!(gate_process.exit_code(), 0);
}

#[test]
fn idle_connections_do_not_delay_the_end_of_a_drain() {
    let script = hello();
    let limits = "limits: { drain_delay: 0s, drain_timeout: 10m, header_timeout: 1s, idle_timeout: 10m }";
    let gate_folder = GateFolder::new(&script.url(), limits);
    let mut gate_process = gate_folder.serve();
    let mut wires: Vec<RawConnection> = (0..20).map(|_| RawConnection::open(gate_folder.proxy)).collect();
    wires[0].send(gate_folder.request());
    assert_eq!(wires[0].read_answer("GET").unwrap().text(), "hello");
    wires[1].send("GET /half HTTP/1.1\r\nho");
    gate_process.signal("-TERM");
    assert_eq!(gate_process.exit_code(), 0);
    for wire in &mut wires {
        assert!(wire.is_closed());
    }
}

/// The hook of an app's container in Kubernetes: the app must not end before the requests that the gate forwarded to
/// it.
#[test]
fn drained_is_answered_after_the_requests_in_flight_and_before_the_end() {
    let answers = Arc::new(AtomicBool::new(false));
    let may_answer = Arc::clone(&answers);
    let script = ScriptedServer::start(move |_, wire| {
        while !may_answer.load(Ordering::SeqCst) {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        wire.send(response("200 OK", b"late"));
    });
    let gate_folder = GateFolder::new(&script.url(), "limits: { drain_delay: 100ms, drain_timeout: 10m }");
    let mut gate_process = gate_folder.serve();
    let mut in_flight = RawConnection::open(gate_folder.proxy);
    in_flight.send(gate_folder.request());
    eventually("the app is asked", || {
        (script.count() == 1).then_some(()).ok_or(String::new())
    });
    let mut hook = RawConnection::open(gate_folder.admin);
    hook.send("GET /drained HTTP/1.1\r\nhost: a\r\n\r\n");
    begin_draining(&gate_folder, &gate_process, "-TERM");
    eventually("no new connection is taken", || {
        TcpStream::connect(gate_folder.proxy)
            .is_err()
            .then_some(())
            .ok_or("accepting".to_owned())
    });
    hook.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let early = hook.stream.read(&mut [0]);
    assert!(early.is_err(), "`/drained` was answered while a request was in flight");
    answers.store(true, Ordering::SeqCst);
    assert_eq!(in_flight.read_answer("GET").unwrap().text(), "late");
    hook.stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let answer = hook.read_answer("GET").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "drained\n"));
    assert_eq!(gate_process.exit_code(), 0);
}

#[test]
fn drained_without_a_drain_says_so_and_many_of_them_leave_the_probes_alone() {
    let script = hello();
    let gate_folder = GateFolder::new(&script.url(), "");
    let _gate_process = gate_folder.serve();
    let mut hooks: Vec<RawConnection> = (0..8).map(|_| RawConnection::open(gate_folder.admin)).collect();
    for hook in &mut hooks {
        hook.send("GET /drained HTTP/1.1\r\nhost: a\r\n\r\n");
    }
    eventually("a further request is refused at once", || {
        let answer = raw(gate_folder.admin, "GET", "/drained", &[], b"");
        (answer.status == 503 && answer.text().contains("too many"))
            .then_some(())
            .ok_or(answer.text())
    });
    assert_eq!(raw(gate_folder.admin, "GET", "/livez", &[], b"").status, 200);
    for hook in &mut hooks {
        let answer = hook.read_answer("GET").unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (503, "the gate does not drain\n"));
    }
}

#[test]
fn an_emergency_forbid_takes_effect_while_the_gate_drains() {
    let script = hello();
    let gate_folder = GateFolder::new(&script.url(), "limits: { drain_delay: 10m }\npolicies: { poll: 100ms }");
    let mut gate_process = gate_folder.serve();
    begin_draining(&gate_folder, &gate_process, "-TERM");
    gate_folder.put(
        "policies/p/_deny/stop.cedar",
        "@id(\"stop\") forbid (principal, action, resource);",
    );
    eventually("the emergency forbid is in force", || {
        let mut wire = RawConnection::open(gate_folder.proxy);
        wire.send(gate_folder.request());
        match wire.read_answer("GET").unwrap().status {
            403 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    gate_process.signal("-TERM");
    assert_eq!(gate_process.exit_code(), 0);
}

#[test]
fn every_answer_has_its_record_when_the_gate_is_gone() {
    let app = App::start();
    let gate_folder = GateFolder::new(&format!("http://{}", app.address), "limits: { drain_delay: 200ms }");
    let mut gate_process = gate_folder.serve();
    let answered: Mutex<BTreeSet<String>> = Mutex::default();
    let token = gate_folder.issuer.token("alice", &[]);
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (answered, token, proxy) = (&answered, &token, gate_folder.proxy);
            scope.spawn(move || {
                for number in 0.. {
                    let id = format!("{client}-{number}");
                    let Ok(mut stream) = TcpStream::connect(proxy) else { return };
                    let request = format!(
                        "GET {PAGE} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\nx-request-id: {id}\r\nconnection: close\r\n\r\n"
                    );
                    let mut answer = Vec::new();
                    let done = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut answer));
                    if done.is_ok() && answer.starts_with(b"HTTP/1.1 200") {
                        answered.lock().unwrap().insert(id);
                    }
                }
            });
        }
        eventually("there is traffic", || {
            (answered.lock().unwrap().len() > 100).then_some(()).ok_or(String::new())
        });
        gate_process.signal("-TERM");
        assert_eq!(gate_process.exit_code(), 0);
    });
    let mut records: BTreeMap<String, usize> = BTreeMap::new();
    for record in decisions(&gate_folder) {
        *records.entry(record["request_id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    for id in answered.into_inner().unwrap() {
        assert_eq!(records.get(&id), Some(&1), "{id}");
    }
}

/// A gate behind a balancer.
struct Backend {
    proxy: SocketAddr,
    admin: SocketAddr,
    ready: AtomicBool,
    connections: AtomicUsize,
}

/// Spreads new connections over the ready gates in turn; an open connection stays at its gate.
struct Balancer {
    address: SocketAddr,
    backends: Arc<[Backend]>,
    /// Connections for which no gate was there.
    lost: Arc<AtomicUsize>,
}

impl Balancer {
    fn start(backends: Vec<Backend>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let balancer = Self {
            address: listener.local_addr().unwrap(),
            backends: backends.into(),
            lost: Arc::default(),
        };
        for number in 0..balancer.backends.len() {
            let backends = Arc::clone(&balancer.backends);
            std::thread::spawn(move || {
                let backend = &backends[number];
                loop {
                    backend.ready.store(ready(backend.admin), Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        }
        let (backends, lost) = (Arc::clone(&balancer.backends), Arc::clone(&balancer.lost));
        std::thread::spawn(move || {
            for (turn, client) in listener.incoming().flatten().enumerate() {
                let in_turn = (0..backends.len()).map(|step| &backends[(turn + step) % backends.len()]);
                let chosen = { in_turn }.find(|backend| backend.ready.load(Ordering::SeqCst));
                match chosen.map(|backend| (backend, TcpStream::connect(backend.proxy))) {
                    Some((backend, Ok(gate))) => {
                        backend.connections.fetch_add(1, Ordering::SeqCst);
                        join(client, gate);
                    }
                    _ => drop(lost.fetch_add(1, Ordering::SeqCst)),
                }
            }
        });
        balancer
    }
}

/// Bytes and ends of both directions, as they come.
fn join(client: TcpStream, gate: TcpStream) {
    for stream in [&client, &gate] {
        stream.set_nodelay(true).unwrap();
    }
    let pairs = [(client.try_clone().unwrap(), gate.try_clone().unwrap()), (gate, client)];
    for (mut from, mut to) in pairs {
        std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            drop(to.shutdown(Shutdown::Write));
        });
    }
}

/// Sends requests over one connection after another until `stop`; leaves a connection when the gate asks it to. Returns
/// the number of answers, and the failures.
fn client(name: usize, address: SocketAddr, token: &str, stop: &AtomicBool) -> (usize, Vec<String>) {
    /// Also leaves by itself now and then, so that new connections come all the time.
    const REQUESTS_PER_CONNECTION: usize = 40;
    let (mut answered, mut wrong) = (0, Vec::new());
    while !stop.load(Ordering::SeqCst) {
        let mut wire = RawConnection::open(address);
        for turn in 0..REQUESTS_PER_CONNECTION {
            let method = ["GET", "POST", "PUT"][answered % 3];
            let body = if method == "GET" {
                String::new()
            } else {
                "x".repeat(answered % 5000)
            };
            let asked = wire.send(format!(
                "{method} {PAGE} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\nx-request-id: {name}-{answered}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ));
            let answer = wire.read_answer(method);
            match answer {
                Some(answer) if asked && answer.status == 200 => {
                    answered += 1;
                    if answer.header("connection") == "close" || stop.load(Ordering::SeqCst) {
                        break;
                    }
                }
                other => {
                    wrong.push(format!(
                        "{method} {name}-{answered}, number {turn} of its connection: {other:?}"
                    ));
                    return (answered, wrong);
                }
            }
        }
    }
    (answered, wrong)
}

#[test]
fn a_rolling_restart_of_two_gates_behind_a_balancer_under_load_loses_no_request() {
    let app = App::start();
    let places = [(); 2].map(|()| GateFolder::new(&format!("http://{}", app.address), "limits: { drain_delay: 1s, workers: 2 }"));
    places[1].put("jwks.json", &places[0].issuer.jwks().to_string());
    let mut gates: Vec<GateProcess> = places.iter().map(GateFolder::serve).collect();
    let backends = places.iter().map(|gate_folder| Backend {
        proxy: gate_folder.proxy,
        admin: gate_folder.admin,
        ready: AtomicBool::new(true),
        connections: AtomicUsize::new(0),
    });
    let balancer = Balancer::start(backends.collect());
    let (token, stop) = (places[0].issuer.token("alice", &[]), AtomicBool::new(false));
    let outcomes: Vec<(usize, Vec<String>)> = std::thread::scope(|scope| {
        let (token, stop, address) = (&token, &stop, balancer.address);
        let clients: Vec<_> = (0..6)
            .map(|name| scope.spawn(move || client(name, address, token, stop)))
            .collect();
        let restarted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for (number, gate_folder) in places.iter().enumerate() {
                let connections = &balancer.backends[number].connections;
                let used = |before: usize| {
                    eventually("the gate has traffic", || {
                        let now = connections.load(Ordering::SeqCst);
                        (now > before + 5)
                            .then_some(())
                            .ok_or(format!("{now} connections, {before} before"))
                    });
                };
                used(connections.load(Ordering::SeqCst));
                gates[number].signal("-TERM");
                assert_eq!(gates[number].exit_code(), 0);
                gates[number] = gate_folder.serve();
                used(connections.load(Ordering::SeqCst));
            }
        }));
        stop.store(true, Ordering::SeqCst);
        let outcomes = clients.into_iter().map(|client| client.join().unwrap()).collect();
        restarted.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        outcomes
    });
    let wrong: Vec<&String> = outcomes.iter().flat_map(|(_, wrong)| wrong).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(balancer.lost.load(Ordering::SeqCst), 0, "a connection found no gate");
    let answered: usize = outcomes.iter().map(|(answered, _)| answered).sum();
    assert!(answered > 500, "{answered} requests are no load");
    // each reached the app exactly once, whole
    let seen = app.seen();
    let ids: BTreeSet<&str> = seen.iter().map(|s| s.headers["x-request-id"].to_str().unwrap()).collect();
    assert_eq!((ids.len(), seen.len()), (answered, answered));
    assert!(seen.iter().all(|s| {
        let number: usize = s.headers["x-request-id"]
            .to_str()
            .unwrap()
            .split('-')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        s.method == "GET" || s.body.len() == number % 5000
    }));
}

#[test]
fn an_upload_under_way_is_finished_after_the_listeners_closed() {
    let app = App::start();
    let gate_folder = GateFolder::new(&format!("http://{}", app.address), "limits: { drain_delay: 0s }");
    let mut gate_process = gate_folder.serve();
    let mut wire = RawConnection::open(gate_folder.proxy);
    let token = gate_folder.issuer.token("alice", &[]);
    wire.send(format!(
        "POST {PAGE} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-length: 8\r\n\r\nhalf"
    ));
    eventually("the request is being answered", || {
        let metrics = raw(gate_folder.admin, "GET", "/metrics", &[], b"").text();
        let decided = "cedargate_decision_duration_seconds_count{door=\"proxy\",portal=\"p\"} 1";
        metrics.contains(decided).then_some(()).ok_or(metrics)
    });
    gate_process.signal("-TERM");
    eventually("no new connection is taken", || {
        TcpStream::connect(gate_folder.proxy)
            .is_err()
            .then_some(())
            .ok_or("accepting".to_owned())
    });
    assert!(gate_process.0.try_wait().unwrap().is_none());
    wire.send("full");
    let answer = wire.read_answer("POST").unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    assert_eq!(&app.last().body[..], b"halffull");
    assert_eq!(gate_process.exit_code(), 0);
}

#[test]
fn a_signal_just_after_the_port_is_open_drains_the_gate() {
    let script = hello();
    for signal in ["-TERM", "-INT"] {
        let gate_folder = GateFolder::new(&script.url(), "limits: { drain_delay: 0s }");
        let mut gate_process = gate_folder.spawn();
        eventually("the port is open", || {
            TcpStream::connect(gate_folder.proxy).map(drop).map_err(|e| e.to_string())
        });
        gate_process.signal(signal);
        assert_eq!(
            gate_process.exit_code(),
            0,
            "it ended by {signal} itself, with nothing written"
        );
    }
}
