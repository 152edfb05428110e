//! Whole requests through a running gate with one worker: one keep-alive client, an app that answers two bytes.
//!
//! Only the worker thread is counted. Client and app are plain threads of the same process. The client sends a request only
//! after it has read the answer to the one before, so the worker never runs while the client does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use cedargate::app::{Running, start_from_yaml};
use cedargate_benches::shop::files;
use cedargate_benches::{AUDIENCE, ISSUER};

use crate::operations::{jwks, token};

/// The type whose functions only the worker thread calls.
pub const WORKER: &str = "cedargate::gate::Worker";
/// A small number, so that the gate starts soon: a decision costs the same at any number.
const POLICIES: usize = 100;
/// Uncounted requests of each kind: they open the connections, verify the token and make the match sets.
const WARM: usize = 50;

/// Sends the warm-up and the given numbers of requests through a gate, then stops the gate.
pub fn requests(folder: &Path, permitted: usize, denied: usize) {
    let gate = start(folder);
    let mut client = Client {
        stream: connect(gate.addresses.proxy),
        credential: token("RS256"),
        read: Vec::new(),
    };
    (0..WARM + permitted).for_each(|_| assert_eq!(client.ask("GET", "/shop/cart"), 200));
    (0..WARM + denied).for_each(|_| assert_eq!(client.ask("DELETE", "/shop/cart"), 403));
    drop(client);
    gate.stop();
}

fn start(folder: &Path) -> Running {
    for file in files(POLICIES, "") {
        let path = folder.join(file.name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file.text).unwrap();
    }
    std::fs::write(folder.join("jwks.json"), jwks()).unwrap();
    let yaml = format!(
        "listen: {{ proxy: {{ address: '127.0.0.1:0' }}, decision: null, admin: null }}\n\
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
    credential: String,
    read: Vec<u8>,
}

impl Client {
    /// Sends one request and returns the status of its answer.
    fn ask(&mut self, method: &str, path: &str) -> u16 {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: shop.example.test\r\nuser-agent: instructions\r\naccept: */*\r\n\
             accept-encoding: gzip\r\nauthorization: Bearer {}\r\n\r\n",
            self.credential
        );
        self.stream.write_all(request.as_bytes()).unwrap();
        assert!(
            read_message(&mut self.stream, &mut self.read),
            "the gate closed the connection"
        );
        let head = String::from_utf8_lossy(&self.read);
        head.split(' ').nth(1).unwrap().parse().unwrap()
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
