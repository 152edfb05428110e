//! A network that a test can cut: forwards connections to a port until a test changes its state.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::time::Duration;

const WHOLE: u8 = 0;
const CUT: u8 = 1;
const REFUSING: u8 = 2;
const GONE: u8 = 3;
/// Interval at which the threads look at the state.
const TURN: Duration = Duration::from_millis(5);

/// Listens on `port`. Dropping it closes everything.
#[derive(Debug)]
pub struct Partition {
    pub port: u16,
    state: Arc<AtomicU8>,
    target: Arc<AtomicU16>,
}

impl Partition {
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let partition = Self {
            port: listener.local_addr().unwrap().port(),
            state: Arc::default(),
            target: Arc::new(AtomicU16::new(target)),
        };
        let (state, target) = (Arc::clone(&partition.state), Arc::clone(&partition.target));
        std::thread::spawn(move || accept(&listener, &state, &target));
        partition
    }

    /// Passes no byte and closes no connection; new connections are accepted and not forwarded. Bytes sent meanwhile
    /// arrive after `heal`, as after a packet loss.
    pub fn cut(&self) {
        self.state.store(CUT, Ordering::SeqCst);
    }

    /// Closes every connection, new ones at once.
    pub fn refuse(&self) {
        self.state.store(REFUSING, Ordering::SeqCst);
    }

    pub fn heal(&self) {
        self.state.store(WHOLE, Ordering::SeqCst);
    }

    /// Sends new connections to another port.
    pub fn aim(&self, target: u16) {
        self.target.store(target, Ordering::SeqCst);
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.state.store(GONE, Ordering::SeqCst);
    }
}

fn accept(listener: &TcpListener, state: &Arc<AtomicU8>, target: &Arc<AtomicU16>) {
    while state.load(Ordering::SeqCst) != GONE {
        match listener.accept() {
            Ok(_refused) if state.load(Ordering::SeqCst) == REFUSING => {}
            Ok((client, _)) => {
                let (state, target) = (Arc::clone(state), Arc::clone(target));
                std::thread::spawn(move || connect(client, &state, &target));
            }
            Err(_nobody) => std::thread::sleep(TURN),
        }
    }
}

fn connect(client: TcpStream, state: &Arc<AtomicU8>, target: &AtomicU16) {
    if wait_until_whole(state).is_none() {
        return;
    }
    client.set_nonblocking(false).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], target.load(Ordering::SeqCst)));
    let Ok(server) = TcpStream::connect(address) else {
        return;
    };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(TURN)).unwrap();
    }
    let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let there = Arc::clone(state);
    let going = std::thread::spawn(move || pump(from, to, &there));
    pump(server, client, state);
    drop(going.join());
}

/// `None`: it will not be.
fn wait_until_whole(state: &AtomicU8) -> Option<()> {
    loop {
        match state.load(Ordering::SeqCst) {
            WHOLE => return Some(()),
            CUT => std::thread::sleep(TURN),
            _ => return None,
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, state: &AtomicU8) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer);
        // an end does not pass either
        if wait_until_whole(state).is_none() {
            drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
            return;
        }
        match read {
            Ok(length @ 1..) if to.write_all(&buffer[..length]).is_ok() => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ended => {
                drop(to.shutdown(Shutdown::Write));
                return;
            }
        }
    }
}
