//! Many connections between two requests: the memory that they hold, and that each of them goes on as if it were alone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::binary::{GateFolder, GateProcess};
use crate::support::{App, eventually};

const CONNECTIONS: usize = 500;
/// Each connection may hold so much beyond the kernel's part.
const BYTES_EACH: usize = 4 * 1024;
/// Some connections keep their buffers, and the allocator has holes.
const SLACK: usize = 3 * 1024 * 1024;

struct Client(TcpStream);

impl Client {
    fn connect(folder: &GateFolder) -> Self {
        let stream = TcpStream::connect(folder.proxy).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream)
    }

    fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// Reads this many answers of the app.
    fn read(&mut self, answers: usize) {
        let mut text = String::new();
        let mut buffer = [0; 4096];
        while text.matches("HTTP/1.1 200 OK").count() < answers || !text.ends_with("{\"app\":\"recording\"}") {
            let length = self.0.read(&mut buffer).unwrap();
            assert!(length > 0, "the gate closed the connection: {text}");
            text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        assert_eq!(text.matches("HTTP/1.1 ").count(), answers, "{text}");
    }
}

/// Memory of the process that no file backs, in bytes.
fn anonymous(gate: &GateProcess) -> usize {
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", gate.0.id())).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Sends the text on some connections at a time, and reads this many answers on each.
fn ask(clients: &mut [Client], text: &str, answers: usize) {
    for some in clients.chunks_mut(16) {
        some.iter_mut().for_each(|client| client.send(text));
        some.iter_mut().for_each(|client| client.read(answers));
    }
}

#[test]
fn connections_at_rest_hold_little_memory_and_go_on_when_their_client_does() {
    let app = App::start();
    let folder = GateFolder::new(
        &format!("http://{}", app.address),
        "limits: { workers: 1, drain_delay: 0s, connections: 1000 }",
    );
    let mut gate = folder.serve();
    let request = folder.request();
    let mut first: Vec<Client> = (0..64).map(|_| Client::connect(&folder)).collect();
    for _ in 0..5 {
        ask(&mut first, &request, 1);
    }
    let before = anonymous(&gate);
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| Client::connect(&folder)).collect();
    let bound = before + CONNECTIONS * BYTES_EACH + SLACK;
    let is_small = || match anonymous(&gate) {
        now if now <= bound => Ok(()),
        now => Err(format!("{} KiB, bound {} KiB", now / 1024, bound / 1024)),
    };
    ask(&mut clients[CONNECTIONS - 1..], &request, 1);
    eventually("connections without a request are small", is_small);
    ask(&mut clients, &request, 1);
    eventually("connections after a request are small", is_small);
    // two requests in one write, and one request in two writes
    ask(&mut clients, &request.repeat(2), 2);
    let (start, end) = request.split_at(request.len() / 2);
    for some in clients.chunks_mut(16) {
        some.iter_mut().for_each(|client| client.send(start));
        some.iter_mut().for_each(|client| client.send(end));
        some.iter_mut().for_each(|client| client.read(1));
    }
    eventually("connections after several requests are small", is_small);
    gate.signal("-TERM");
    for client in &mut clients {
        let mut rest = Vec::new();
        client.0.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "a byte without a request");
    }
    drop((clients, first));
    assert_eq!(gate.exit_code(), 0);
}
