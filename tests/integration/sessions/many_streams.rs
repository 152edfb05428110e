//! Many event streams of `permissions/events` at once, to a gate of its own process: what each costs, and clients that
//! do not read theirs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::support::binary::{GateFolder, GateProcess};
use crate::support::{OPEN_POLICY, eventually, patience, raw};

/// Streams, if `CEDARGATE_STREAMS` says no other number. The gate keeps a descriptor for the app beside each
/// connection, so a process that may open 20,000 files takes 9,000.
const STREAMS: usize = 2_000;
/// Callers share the streams; each has at most this many.
const OF_ONE_CALLER: usize = 100;
/// The most memory of the gate that a stream may cost, its connection included.
const STREAM_BYTES_MAX: u64 = 64 * 1024;
/// The most that a stream may grow while its client does not read.
const UNREAD_BYTES_MAX: u64 = 4 * 1024;
/// Edits while half of the clients do not read.
const EDITS: usize = 5;

fn streams() -> usize {
    let number = std::env::var("CEDARGATE_STREAMS").ok();
    number.map_or(STREAMS, |number| number.parse().unwrap())
}

fn resident(process: &GateProcess) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

struct Stream {
    socket: TcpStream,
    read: String,
}

impl Stream {
    fn open(folder: &GateFolder, token: &str) -> Self {
        let mut socket = TcpStream::connect(folder.proxy).unwrap();
        socket.set_read_timeout(Some(patience())).unwrap();
        let head = format!(
            "GET /api/v1/identity/permissions/events?portal=p HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).unwrap();
        let mut stream = Self {
            socket,
            read: String::new(),
        };
        stream.until(": permissions of p");
        stream
    }

    fn until(&mut self, text: &str) {
        let mut buffer = [0; 4096];
        while !self.read.contains(text) {
            let count = self.socket.read(&mut buffer).unwrap();
            assert!(count > 0, "the stream ended before `{text}`: {}", self.read);
            self.read.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
    }
}

/// The revision in force once it is another than `before`.
fn revision_after(folder: &GateFolder, before: &str) -> String {
    eventually("the edit is in force", || {
        let status = raw(folder.admin, "GET", "/status", &[], b"").json();
        let revision = status["portals"][0]["revision"].as_str().unwrap_or_default().to_owned();
        (revision != before && !revision.is_empty())
            .then_some(revision)
            .ok_or(String::new())
    })
}

fn gauge(folder: &GateFolder) -> String {
    let metrics = raw(folder.admin, "GET", "/metrics", &[], b"").text();
    let found = metrics
        .lines()
        .find_map(|line| line.strip_prefix("cedargate_permission_streams "));
    found.unwrap_or_default().to_owned()
}

#[test]
fn each_of_many_streams_hears_of_edits_and_a_client_that_does_not_read_costs_nothing_more() {
    let count = streams();
    // an open stream takes a place of all three limits
    let room = count + 100;
    let more = format!(
        "limits: {{ workers: 2, connections: {room}, requests: {room}, permission_streams: {count}, \
         permission_streams_per_caller: {OF_ONE_CALLER}, drain_delay: 0s, half_close_timeout: 1s }}\npolicies: {{ poll: 100ms }}"
    );
    let folder = GateFolder::new("http://127.0.0.1:9", &more);
    let process = folder.serve();
    let token = |nth: usize| folder.issuer.token(&format!("caller-{}", nth / OF_ONE_CALLER), &["viewer"]);
    let mut warm = vec![Stream::open(&folder, &token(0))];
    let before = resident(&process);
    let begun = Instant::now();
    let mut open: Vec<Stream> = Vec::with_capacity(count);
    let mut of_caller = String::new();
    for nth in 1..count {
        if nth % OF_ONE_CALLER == 0 || nth == 1 {
            of_caller = token(nth);
        }
        open.push(Stream::open(&folder, &of_caller));
    }
    let opened = begun.elapsed();
    open.append(&mut warm);
    assert_eq!(gauge(&folder), count.to_string());
    let all = resident(&process);
    let each = all.saturating_sub(before) / u64::try_from(count - 1).unwrap();
    assert!(each <= STREAM_BYTES_MAX, "{each} bytes for each of {count} streams");

    // every second client reads nothing meanwhile
    let mut revision = revision_after(&folder, "");
    for edit in 0..EDITS {
        folder.put(
            "policies/p/main.cedar",
            &format!("{OPEN_POLICY}\n@id(\"edit-{edit}\") forbid (principal, action, resource in Path::\"/none-{edit}\");\n"),
        );
        revision = revision_after(&folder, &revision);
        let event = format!("data: {{\"revision\":\"{revision}\"}}");
        open.iter_mut().step_by(2).for_each(|stream| stream.until(&event));
    }
    let unread = resident(&process).saturating_sub(all) / u64::try_from(count).unwrap();
    assert!(unread <= UNREAD_BYTES_MAX, "{unread} bytes more for each of {count} streams");
    let event = format!("data: {{\"revision\":\"{revision}\"}}");
    open.iter_mut().for_each(|stream| stream.until(&event));
    println!("{count} streams: {each} bytes each, {unread} more while half of the clients do not read; opened in {opened:?}");
    drop(open);
    eventually("every stream is closed", || {
        let left = gauge(&folder);
        (left == "0").then_some(()).ok_or(left)
    });
}
