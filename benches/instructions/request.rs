//! Whole requests through a running gate with one worker: one keep-alive client, an app that answers two bytes.
//!
//! Only the threads of the worker and of the record writer are counted. Client and app are plain threads of the same
//! process. The client sends a request only after it has read the answer to the one before, so the worker never runs
//! while the client does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use cedargate::app::{Running, start_from_yaml};
use cedargate_benches::shop::files;
use cedargate_benches::{AUDIENCE, ISSUER};
use serde_json::{Value, json};

use crate::operations::{jwks, token};

/// The type whose functions only the worker thread calls.
pub const WORKER: &str = "cedargate::gate::Worker";
/// The function that only the thread of the record writer calls.
pub const RECORDS: &str = "cedargate::audit::output::Output::write";
/// The kind whose allocations are counted, too.
pub const PERMITTED: &str = "request/permitted";
/// A small number, so that the gate starts soon: a decision costs the same at any number.
const POLICIES: usize = 100;
/// Uncounted requests of each kind: they open the connections, verify the token and make the match sets.
const WARM: usize = 50;
/// Queries of one batch.
const BATCH: usize = 20;

/// One kind of counted request.
pub struct Kind {
    pub name: &'static str,
    method: &'static str,
    path: &'static str,
    status: u16,
    /// Part of the answer; empty for any.
    answer: &'static str,
    /// Requests of a run that counts this kind.
    pub counted: u32,
}

/// The counted kinds. `/authorize` is asked on the decision listener, everything else on the proxy listener.
pub const KINDS: [Kind; 4] = [
    Kind::new(PERMITTED, "GET", "/shop/cart", 200),
    Kind::new("request/denied", "DELETE", "/shop/cart", 403),
    Kind {
        answer: "\"decision\":\"allow\"",
        ..Kind::new("authorize/one", "POST", "/authorize", 200)
    },
    Kind {
        answer: "\"decision\":\"allow\"",
        counted: 100,
        ..Kind::new("authorize/batch of 20", "POST", "/authorize/batch", 200)
    },
];

impl Kind {
    const fn new(name: &'static str, method: &'static str, path: &'static str, status: u16) -> Self {
        Self {
            name,
            method,
            path,
            status,
            answer: "",
            counted: 500,
        }
    }

    fn is_query(&self) -> bool {
        self.path.starts_with("/authorize")
    }

    fn head_and_body(&self) -> String {
        let Self { method, path, .. } = self;
        let head = format!("{method} {path} HTTP/1.1\r\nhost: shop.example.test\r\nuser-agent: instructions\r\naccept: */*\r\n");
        if !self.is_query() {
            return format!(
                "{head}accept-encoding: gzip\r\nauthorization: Bearer {}\r\n\r\n",
                token("RS256")
            );
        }
        let body = match self.path {
            "/authorize" => query(17),
            _ => json!({"requests": (0..BATCH).map(query).collect::<Vec<_>>()}),
        };
        let body = body.to_string();
        let length = body.len();
        format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
    }
}

/// May carol, whom the portal's entities name a viewer, see this order?
fn query(order: usize) -> Value {
    json!({
        "portal": "bench", "principal": "User::\"carol\"", "action": "viewOrder", "resource": format!("Order::\"{order}\""),
    })
}

fn entities() -> Value {
    json!([{"uid": {"type": "User", "id": "carol"}, "attrs": {}, "parents": [{"type": "Role", "id": "viewer"}]}])
}

/// Sends the warm-up and the given numbers of requests through a gate, then stops the gate.
pub fn requests(folder: &Path, counted: &[usize]) {
    let gate = start(folder);
    let mut proxy = Client::new(gate.addresses.proxy);
    let mut decision = Client::new(gate.addresses.decision_tcp().unwrap());
    for (at, kind) in KINDS.iter().enumerate() {
        let client = if kind.is_query() { &mut decision } else { &mut proxy };
        let request = kind.head_and_body();
        let times = WARM + counted.get(at).copied().unwrap_or(0);
        (0..times).for_each(|_| client.ask(&request, kind));
    }
    drop((proxy, decision));
    gate.stop();
}

fn start(folder: &Path) -> Running {
    for file in files(POLICIES, "") {
        let path = folder.join(file.name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file.text).unwrap();
    }
    std::fs::write(folder.join("policies/bench/entities.json"), entities().to_string()).unwrap();
    std::fs::write(folder.join("jwks.json"), jwks()).unwrap();
    let yaml = format!(
        "listen: {{ proxy: {{ address: '127.0.0.1:0' }}, decision: {{ address: '127.0.0.1:0' }}, admin: null }}\n\
         upstream: {{ url: 'http://{}' }}\n\
         portals: {{ bench: {{ match: {{ path_prefix: / }} }} }}\n\
         issuers: [{{ name: corp, issuer: '{ISSUER}', audiences: [{AUDIENCE}], jwks: {{ file: jwks.json }} }}]\n\
         audit: {{ sink: {{ file: /dev/null }} }}\n\
         limits: {{ workers: 1, drain_delay: 0s }}\n",
        app()
    );
    start_from_yaml(&yaml, folder).unwrap()
}

struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        Self {
            stream: connect(address),
            read: Vec::new(),
        }
    }

    /// Sends one request and checks its answer.
    fn ask(&mut self, request: &str, kind: &Kind) {
        self.stream.write_all(request.as_bytes()).unwrap();
        assert!(
            read_message(&mut self.stream, &mut self.read),
            "the gate closed the connection"
        );
        let answer = String::from_utf8_lossy(&self.read);
        let status: u16 = answer.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(status, kind.status, "{answer}");
        assert!(answer.contains(kind.answer), "{answer}");
    }
}

/// Starts an app that answers every request with two bytes.
fn app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut read = Vec::new();
                while read_message(&mut stream, &mut read) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok";
                    stream.write_all(answer).unwrap();
                }
            });
        }
    });
    address
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads one message into `read`; false if the peer closed the connection.
fn read_message(stream: &mut TcpStream, read: &mut Vec<u8>) -> bool {
    read.clear();
    let mut bytes = [0; 16 * 1024];
    loop {
        let Ok(count @ 1..) = stream.read(&mut bytes) else {
            return false;
        };
        read.extend(bytes.iter().take(count));
        let text = String::from_utf8_lossy(read);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return true;
            }
        }
    }
}
