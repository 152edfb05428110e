//! Servers that tests start. They end with their test, even if the whole test process is killed; no other process is
//! ended.
//!
//! A shell stands between: it starts the server, then reads from a pipe that only this process holds open. When the
//! pipe closes, also because this process died, the shell kills the one process that it started and has not reaped.

#![allow(dead_code, reason = "a harness has more handles than each of its users needs")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::support::eventually;

const SUPERVISE: &str =
    r#"log=$1; shift; "$@" >"$log" 2>&1 </dev/null & echo $!; exec >/dev/null; read -r _; kill -9 $! 2>/dev/null; wait"#;
/// Ports below the kernel's ephemeral range; so is a cluster's second port, which is 10000 higher.
const PORTS: std::ops::Range<u32> = 11_000..21_000;

/// One server. Dropping it kills the server.
#[derive(Debug)]
pub struct Supervised {
    shell: Child,
    pub pid: u32,
    log: PathBuf,
}

impl Supervised {
    pub fn start(program: &Path, args: &[impl AsRef<OsStr>], log: &Path) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", SUPERVISE, "supervise"])
            .arg(log)
            .arg(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        Self {
            shell,
            pid: pid.trim().parse().unwrap(),
            log: log.to_owned(),
        }
    }

    /// Its output so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// A process that ended keeps its id (state `Z`) until the shell reaps it. Its threads end after it and hold its
    /// ports.
    pub fn is_running(&self) -> bool {
        let process = PathBuf::from(format!("/proc/{}", self.pid));
        let threads = std::fs::read_dir(process.join("task")).map_or(0, Iterator::count);
        threads > 1 || self.state().is_some_and(|state| state != 'Z')
    }

    fn state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        stat.rsplit(") ").next()?.chars().next()
    }

    /// Stops the process: it keeps its sockets open and does nothing.
    pub fn pause(&self) {
        self.signal("-STOP");
        self.reaches('T');
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    /// Returns when it is gone.
    pub fn kill(&self) {
        self.signal("-KILL");
        eventually("a killed server is gone", || {
            if self.is_running() {
                Err(self.pid.to_string())
            } else {
                Ok(())
            }
        });
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.pid.to_string()])
            .stderr(Stdio::null())
            .status();
        assert!(sent.unwrap().success() || !self.is_running(), "cannot send {signal}");
    }

    fn reaches(&self, state: char) {
        eventually("a stopped server stands still", || match self.state() {
            Some(now) if now == state => Ok(()),
            now => Err(format!("{now:?}")),
        });
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        drop(self.shell.wait());
    }
}

/// A free loopback port whose neighbour, ten thousand higher, is free too. The port is not held: a test that starts a
/// server on it must check that its own server answers.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let span = PORTS.end - PORTS.start;
    let own = std::process::id().wrapping_mul(37);
    for _ in 0..span {
        let n = own.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (PORTS.start + n % span) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
    panic!("no free port")
}

/// A loopback address that refuses connections. A socket that never listens holds it until this process ends, so that
/// no server of another test gets it.
pub fn refusing_address() -> SocketAddr {
    static HELD: Mutex<Vec<socket2::Socket>> = Mutex::new(Vec::new());
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    HELD.lock().push(socket);
    address
}

#[test]
fn a_supervised_process_ends_with_the_pipe_and_ends_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let start = |name: &str| Supervised::start(Path::new("sleep"), &["600"], &folder.path().join(name));
    let (mut first, second) = (start("a"), start("b"));
    // as when the test process dies; paused, because only SIGKILL ends a stopped process
    first.pause();
    drop(first.shell.stdin.take());
    eventually("the first one ends", || {
        if first.is_running() { Err(String::new()) } else { Ok(()) }
    });
    assert!(second.is_running());
    let pid = second.pid;
    drop(second);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}
