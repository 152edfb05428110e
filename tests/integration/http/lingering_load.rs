//! Many connections that end badly: refused uploads that linger, and clients that closed their sending side and wait.
//! Memory and descriptors are bounded and come back, and other clients are served meanwhile.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::support::binary::{GateFolder, GateProcess};
use crate::support::{PAGE, ScriptedServer, eventually, exchange, response};

const LINGERING: usize = 300;
const HALF_CLOSED: usize = 100;
/// Resident memory of one such connection; the kernel's buffers are not in it.
const BYTES_PER_CONNECTION: usize = 64 * 1024;
/// Resident memory that a first load of any kind costs for good: caches, arenas of the allocator, pages of the program.
const FIRST_LOAD_BYTES: usize = 12 * 1024 * 1024;

/// The memory and the open files of the process.
#[derive(Clone, Copy, Debug)]
struct Usage {
    resident: usize,
    files: usize,
}

fn usage(gate: &GateProcess) -> Usage {
    let process = format!("/proc/{}", gate.0.id());
    let pages = std::fs::read_to_string(format!("{process}/statm")).unwrap();
    Usage {
        resident: pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096,
        files: std::fs::read_dir(format!("{process}/fd")).unwrap().count(),
    }
}

/// A request without a credential, and half of its body.
fn refused_upload(folder: &GateFolder) -> TcpStream {
    let mut client = TcpStream::connect(folder.proxy).unwrap();
    let head = format!("POST {PAGE} HTTP/1.1\r\nhost: a\r\ncontent-length: 20000\r\n\r\n");
    client.write_all(head.as_bytes()).unwrap();
    client.write_all(&[b'x'; 10_000]).unwrap();
    let mut start = [0; 12];
    client.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 401");
    client
}

fn half_closed(folder: &GateFolder) -> TcpStream {
    let mut client = TcpStream::connect(folder.proxy).unwrap();
    client
        .write_all(folder.request().replace(PAGE, &format!("{PAGE}?wait")).as_bytes())
        .unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    client
}

#[test]
fn many_lingering_and_half_closed_connections_are_bounded_and_come_back() {
    let app = ScriptedServer::start(|head, wire| {
        if head.starts_with(&format!("GET {PAGE}?wait")) {
            wire.read_until("never");
        }
        wire.send(response("200 OK", b"served"));
    });
    let limits = "limits: { workers: 1, linger_timeout: 60s, linger_idle_timeout: 60s }";
    let folder = GateFolder::new(&app.url(), limits);
    let gate = folder.serve();
    let is_served = || exchange(folder.proxy, folder.request().as_bytes()).is_some_and(|answer| answer.status == 200);
    assert!(is_served());
    let idle = usage(&gate);

    let lingering: Vec<TcpStream> = (0..LINGERING).map(|_| refused_upload(&folder)).collect();
    let waiting: Vec<TcpStream> = (0..HALF_CLOSED).map(|_| half_closed(&folder)).collect();
    eventually("the app has every request of the half-closed clients", || {
        let count = app.count();
        (count == HALF_CLOSED + 1).then_some(()).ok_or(count.to_string())
    });
    assert!(is_served(), "another client is served");
    let loaded = usage(&gate);
    let files = loaded.files - idle.files;
    assert!(
        (LINGERING + HALF_CLOSED..LINGERING + 2 * HALF_CLOSED + 10).contains(&files),
        "{idle:?} {loaded:?}"
    );
    let grown = loaded.resident.saturating_sub(idle.resident);
    assert!(
        grown < FIRST_LOAD_BYTES + (LINGERING + HALF_CLOSED) * BYTES_PER_CONNECTION,
        "{idle:?} {loaded:?}"
    );

    drop((lingering, waiting));
    eventually("the descriptors come back", || {
        let now = usage(&gate).files;
        (now < idle.files + 10)
            .then_some(())
            .ok_or(format!("{now} of {}", idle.files))
    });
    assert!(is_served());
    // the same load again costs no more memory than the first
    let again: Vec<TcpStream> = (0..LINGERING).map(|_| refused_upload(&folder)).collect();
    let resident = usage(&gate).resident;
    assert!(
        resident < loaded.resident + FIRST_LOAD_BYTES / 4,
        "{idle:?} {loaded:?} {resident}"
    );
    eprintln!("{idle:?} {loaded:?} {resident}");
    drop(again);
}
