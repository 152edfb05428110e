//! Every limit that refuses a request is named in the answer and in the record, over both HTTP versions.

use serde_json::{Value, json};

use crate::http::protocol_parity::start;
use crate::support::http2_frames::{Http2, Outcome, field};
use crate::support::session_client::{self, IDENTITY_PATH};
use crate::support::{Answer, Gate, PAGE, RawConnection, ScriptedServer, eventually, exchange, open_portal, raw, response};

fn bearer(gate: &Gate) -> String {
    format!("Bearer {}", gate.issuer.token("alice", &["viewer"]))
}

/// A GET of the page with these headers, over HTTP/1.1 and HTTP/2.
fn ask(gate: &Gate, headers: &[(String, String)]) -> [Answer; 2] {
    let mut all = vec![("authorization".to_owned(), bearer(gate))];
    all.extend_from_slice(headers);
    let lines: String = all.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!("GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n{lines}\r\n");
    let http1 = exchange(gate.proxy, request.as_bytes()).expect("an answer over HTTP/1.1");
    let mut fields = start("GET", PAGE.as_bytes());
    fields.extend(all.iter().map(|(name, value)| field(name, value)));
    match Http2::open(gate.proxy).exchange(&fields, b"") {
        Outcome::Answer(http2) => [http1, http2],
        other => panic!("{other:?}"),
    }
}

fn many(count: usize) -> Vec<(String, String)> {
    (0..count).map(|n| (format!("x-h{n}"), "v".to_owned())).collect()
}

fn assert_names(answer: &Answer, status: u16, limit: &str) {
    assert_eq!(answer.status, status, "{limit}: {}", answer.text());
    assert!(
        answer.json()["detail"].as_str().unwrap_or_default().contains(limit),
        "{limit}: {}",
        answer.text()
    );
}

/// The last records that have a limit.
fn assert_recorded(gate: &Gate, limit: &str, times: usize) {
    eventually("the record names the limit", || {
        let log = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap_or_default();
        let records: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let found = records.iter().filter(|record| record["limit"] == limit).count();
        (found == times)
            .then_some(())
            .ok_or(format!("{limit}: {found} of {times} in {log}"))
    });
}

/// An app that reads whole heads of any size and answers with so many headers.
fn app_with_headers(count: usize) -> ScriptedServer {
    ScriptedServer::start(move |_, wire| {
        let lines: String = (0..count).map(|n| format!("x-a{n}: v\r\n")).collect();
        wire.send(format!(
            "HTTP/1.1 200 OK\r\nx-app: yes\r\n{lines}content-length: 0\r\nconnection: close\r\n\r\n"
        ));
    })
}

#[test]
fn as_many_headers_as_the_limit_pass_both_ways_and_one_more_is_refused_by_name() {
    let app = app_with_headers(240);
    let gate = open_portal().config(&format!("upstream: {{ url: '{}' }}", app.url())).start();
    // host, authorization and connection, or `:authority`, beside these
    for answer in ask(&gate, &many(250)) {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(
            answer.headers.keys().filter(|name| name.as_str().starts_with("x-a")).count(),
            241
        );
    }
    assert!(app.heads.lock().unwrap().iter().all(|head| head.contains("x-h249: v")));
    for answer in ask(&gate, &many(256)) {
        assert_names(&answer, 431, "limits.header_count");
    }
    assert_recorded(&gate, "limits.header_count", 2);
    assert_eq!(app.count(), 2);
    // so many that the library refuses first
    let lines: String = many(1000)
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let flood = format!("GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\n{lines}\r\n");
    assert_eq!(exchange(gate.proxy, flood.as_bytes()).map(|answer| answer.status), Some(431));
    assert_recorded(&gate, "limits.header_bytes or limits.header_count", 1);
}

#[test]
fn a_fixed_limit_says_what_is_too_long() {
    let gate = open_portal().start();
    let authorization = bearer(&gate);
    let own = ("authorization", authorization.as_str());
    let (method, host) = ("M".repeat(33), format!("{}.test", "h".repeat(250)));
    let path = format!("{PAGE}/{}", "p".repeat(8 * 1024));
    for (answer, said) in [
        (
            raw(gate.proxy, &method, PAGE, &[own], b""),
            "the method is longer than 32 bytes",
        ),
        (
            raw(gate.proxy, "GET", PAGE, &[own, ("host", &host)], b""),
            "a host name of at most 253 bytes",
        ),
        (
            raw(gate.proxy, "GET", &path, &[own], b""),
            "the path is longer than 8192 bytes",
        ),
        (
            raw(gate.proxy, "GET", &"/a".repeat(129), &[own], b""),
            "the path has more than 128 segments",
        ),
    ] {
        assert_eq!(answer.status, 400, "{said}");
        let detail = answer.json()["detail"].clone();
        assert!(
            detail.as_str().is_some_and(|detail| detail.contains(said)),
            "{said}: {detail}"
        );
    }
}

#[test]
fn the_limits_of_headers_are_configurable() {
    let app = app_with_headers(150);
    let gate = open_portal()
        .config(&format!(
            "upstream: {{ url: '{}', response_header_count: 100 }}\nlimits: {{ workers: 2, header_count: 40 }}",
            app.url()
        ))
        .start();
    for answer in ask(&gate, &many(41)) {
        assert_names(&answer, 431, "limits.header_count");
    }
    for answer in ask(&gate, &many(30)) {
        assert_names(&answer, 502, "upstream.response_header_count");
    }
    let gate = open_portal()
        .config(&format!(
            "upstream: {{ url: '{}', response_header_count: 2000 }}\nlimits: {{ workers: 2, header_count: 2000, header_bytes: 128KiB }}",
            app.url()
        ))
        .start();
    for answer in ask(&gate, &many(1500)) {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[test]
fn a_head_body_or_token_that_is_too_large_names_its_limit() {
    let limits = "limits: { workers: 2, header_bytes: 8KiB, body_bytes: 10, token_bytes: 100B }";
    let gate = open_portal().config(&limits.replace("100B", "4KiB")).start();
    for answer in ask(&gate, &[("x-large".to_owned(), "v".repeat(9000))]) {
        assert_names(&answer, 431, "limits.header_bytes");
    }
    assert_recorded(&gate, "limits.header_bytes", 2);
    let authorization = bearer(&gate);
    let headers = [("authorization", authorization.as_str())];
    assert_names(
        &raw(gate.proxy, "POST", PAGE, &headers, b"more than ten"),
        413,
        "limits.body_bytes",
    );
    assert_recorded(&gate, "limits.body_bytes", 1);
    let token = format!("Bearer {}", "x".repeat(5000));
    assert_names(
        &raw(gate.proxy, "GET", PAGE, &[("authorization", &token)], b""),
        401,
        "limits.token_bytes",
    );
    assert_recorded(&gate, "limits.token_bytes", 1);
}

#[test]
fn rates_and_slots_name_their_limit() {
    let rate = "{ requests: 1, per: 1h }";
    for key in ["rate_per_address", "rate_per_principal"] {
        let gate = open_portal()
            .config(&format!("limits: {{ workers: 2, {key}: {rate} }}"))
            .start();
        let authorization = bearer(&gate);
        let headers = [("authorization", authorization.as_str())];
        assert_eq!(raw(gate.proxy, "GET", PAGE, &headers, b"").status, 200);
        assert_names(&raw(gate.proxy, "GET", PAGE, &headers, b""), 429, &format!("limits.{key}"));
        assert_recorded(&gate, &format!("limits.{key}"), 1);
    }
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let app = ScriptedServer::start(move |_, wire| {
        wait.lock().unwrap().recv().unwrap();
        wire.send(response("200 OK", b"late"));
    });
    let gate = open_portal()
        .config(&format!(
            "upstream: {{ url: '{}' }}\nlimits: {{ workers: 1, requests: 1 }}",
            app.url()
        ))
        .start();
    let authorization = bearer(&gate);
    let mut slow = RawConnection::open(gate.proxy);
    slow.send(format!(
        "GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\nauthorization: {authorization}\r\n\r\n"
    ));
    eventually("the slot is taken", || {
        (app.count() == 1).then_some(()).ok_or("not yet".to_owned())
    });
    let refused = raw(gate.proxy, "GET", PAGE, &[("authorization", &authorization)], b"");
    assert_names(&refused, 503, "limits.requests");
    assert_recorded(&gate, "limits.requests", 1);
    // the app's questions are not requests of clients
    assert_eq!(gate.ask("/authorize", &json!({})).status, 400);
    go.send(()).unwrap();
    assert_eq!(slow.read_answer("GET").unwrap().status, 200);
}

#[test]
fn questions_of_the_app_that_are_too_large_name_their_limit() {
    let gate = open_portal()
        .config("limits: { workers: 1, batch: 1, decision_body_bytes: 1KiB, header_count: 30 }")
        .start();
    let answer = gate.ask("/authorize/batch", &json!({"portal": "p", "requests": [{}, {}]}));
    assert_names(&answer, 400, "limits.batch");
    assert_recorded(&gate, "limits.batch", 1);
    assert_names(
        &gate.ask("/authorize", &json!({"x": "y".repeat(2000)})),
        413,
        "limits.decision_body_bytes",
    );
    let headers = many(40);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_names(
        &raw(gate.decision, "POST", "/authorize", &headers, b"{}"),
        431,
        "limits.header_count",
    );
}

#[test]
fn limits_of_the_app_are_named_too() {
    let silent = ScriptedServer::start(|_, wire| {
        wire.read_until("never");
    });
    let gate = open_portal()
        .config(&format!("upstream: {{ url: '{}', response_timeout: 300ms }}", silent.url()))
        .start();
    for answer in ask(&gate, &[]) {
        assert_names(&answer, 504, "upstream.response_timeout");
    }
    assert_recorded(&gate, "upstream.response_timeout", 2);
    let page = raw(
        gate.proxy,
        "GET",
        PAGE,
        &[("authorization", &bearer(&gate)), ("accept", "text/html")],
        b"",
    );
    assert!(page.text().contains("`upstream.response_timeout`"), "{}", page.text());
}

#[test]
fn a_slow_head_names_its_limit_in_the_record() {
    let gate = open_portal().config("limits: { workers: 1, header_timeout: 300ms }").start();
    let mut slow = RawConnection::open(gate.proxy);
    slow.send("GET / HTTP/1.1\r\n");
    assert!(slow.is_closed());
    assert_recorded(&gate, "limits.header_timeout", 1);
}

/// An address whose queue of connections is full: a further one waits.
fn full_queue() -> (std::net::SocketAddr, Vec<socket2::Socket>) {
    let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let server = new();
    server.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    server.listen(0).unwrap();
    let address = server.local_addr().unwrap();
    let mut open = vec![server];
    for _ in 0..4 {
        let client = new();
        client.set_nonblocking(true).unwrap();
        // a connection under way is not connected yet
        let _in_progress = client.connect(&address);
        open.push(client);
    }
    (address.as_socket().unwrap(), open)
}

#[test]
fn a_connection_to_the_app_that_takes_too_long_and_the_open_circuit_name_their_limits() {
    let (address, _open) = full_queue();
    let gate = open_portal()
        .config(&format!(
            "upstream: {{ url: 'http://{address}', connect_timeout: 300ms, circuit: {{ failures: 2, pause: 1m }} }}"
        ))
        .start();
    for answer in ask(&gate, &[]) {
        assert_names(&answer, 502, "upstream.connect_timeout");
    }
    assert_recorded(&gate, "upstream.connect_timeout", 2);
    for answer in ask(&gate, &[]) {
        assert_names(&answer, 502, "upstream.circuit.failures");
    }
    assert_recorded(&gate, "upstream.circuit.failures", 2);
    let headers = [("authorization", &*bearer(&gate)), ("accept", "text/html")];
    let page = raw(gate.proxy, "GET", PAGE, &headers, b"");
    assert!(page.text().contains("`upstream.circuit.failures`"), "{}", page.text());
}

#[test]
fn a_body_below_the_identity_prefix_that_is_too_large_or_too_slow_names_its_limit() {
    let gate = session_client::portal()
        .config("limits: { workers: 1, identity_body_bytes: 1KiB, header_timeout: 300ms }")
        .start();
    let path = format!("{IDENTITY_PATH}/auth/backchannel-logout");
    let form = ("content-type", "application/x-www-form-urlencoded");
    let large = format!("logout_token={}", "x".repeat(2000));
    assert_names(
        &raw(gate.proxy, "POST", &path, &[form], large.as_bytes()),
        413,
        "limits.identity_body_bytes",
    );
    assert_recorded(&gate, "limits.identity_body_bytes", 1);
    let mut slow = RawConnection::open(gate.proxy);
    slow.send(format!(
        "POST {path} HTTP/1.1\r\nhost: shop.test\r\ncontent-type: {}\r\ncontent-length: 100\r\n\r\nlogout_token=",
        form.1
    ));
    assert_names(&slow.read_answer("POST").unwrap(), 400, "limits.header_timeout");
    assert_recorded(&gate, "limits.header_timeout", 1);
}

#[test]
fn a_return_path_that_is_too_long_names_its_limit() {
    let gate = session_client::portal()
        .config("limits: { workers: 1, return_bytes: 300B }")
        .start();
    let login = |rd: &str| {
        let path = format!("{IDENTITY_PATH}/auth/login?portal=p&rd={rd}");
        raw(gate.proxy, "GET", &path, &[("accept", "application/json")], b"")
    };
    assert_eq!(login(&format!("/{}", "a".repeat(299))).status, 200);
    assert_names(&login(&format!("/{}", "a".repeat(300))), 400, "limits.return_bytes");
    assert_recorded(&gate, "limits.return_bytes", 1);
    // the address of a navigation is cut
    let sent = session_client::browse(&gate, &format!("{PAGE}?q={}", "a".repeat(300)), "");
    let location = sent.header("location");
    assert!(
        sent.status == 302 && location.contains("cut=1") && !location.contains("aaa"),
        "{location}"
    );
}
