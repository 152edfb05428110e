//! A plain HTTP/1.1 client: keep-alive connections on one thread, one request after the other on each.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

const CONNECTIONS: usize = 16;

/// One kind of request: the credentials take turns.
pub struct Load {
    gate: SocketAddr,
    credentials: Rc<Vec<String>>,
}

pub struct Round {
    /// Per second.
    pub rate: f64,
    /// Microseconds.
    pub p50: f64,
    pub p99: f64,
}

impl Load {
    /// `credentials` are whole header lines.
    pub fn new(gate: SocketAddr, credentials: Vec<String>) -> Self {
        Self {
            gate,
            credentials: Rc::new(credentials),
        }
    }

    pub fn credentials(&self) -> usize {
        self.credentials.len()
    }

    /// Whether every credential is let in.
    pub fn each_once(&self, count: usize) -> bool {
        let (mut all_good, next) = (true, Rc::new(Cell::new(0)));
        block_on(async {
            let mut connection = Connection::open(self.gate).await;
            for _ in 0..count {
                all_good &= connection.ask(self.next(&next)).await == 200;
            }
        });
        all_good
    }

    pub fn one(&self) -> u16 {
        block_on(async { Connection::open(self.gate).await.ask(self.next(&Rc::new(Cell::new(0)))).await })
    }

    pub fn run(&self, time: Duration) -> Round {
        self.measure(time, Some(200))
    }

    /// Whatever the answers are.
    pub fn run_any(&self, time: Duration) -> Round {
        self.measure(time, None)
    }

    fn measure(&self, time: Duration, expected: Option<u16>) -> Round {
        let next = Rc::new(Cell::new(0));
        let started = Instant::now();
        let mut all: Vec<f64> = block_on(async {
            let tasks: Vec<_> = (0..CONNECTIONS)
                .map(|_| {
                    let (next, load) = (Rc::clone(&next), Self::new(self.gate, Vec::new()));
                    let credentials = Rc::clone(&self.credentials);
                    tokio::task::spawn_local(async move {
                        let load = Self { credentials, ..load };
                        let mut connection = Connection::open(load.gate).await;
                        let mut times = Vec::new();
                        while started.elapsed() < time {
                            let asked = Instant::now();
                            let status = connection.ask(load.next(&next)).await;
                            assert!(expected.is_none_or(|wanted| wanted == status), "answered {status}");
                            times.push(asked.elapsed().as_secs_f64() * 1e6);
                        }
                        times
                    })
                })
                .collect();
            let mut all = Vec::new();
            for task in tasks {
                all.extend(task.await.unwrap());
            }
            all
        });
        let took = started.elapsed().as_secs_f64();
        all.sort_by(f64::total_cmp);
        let at = |share: usize| {
            all.get((all.len() * share / 100).min(all.len().saturating_sub(1)))
                .copied()
                .unwrap_or_default()
        };
        Round {
            rate: f64::from(u32::try_from(all.len()).unwrap()) / took,
            p50: at(50),
            p99: at(99),
        }
    }

    fn next(&self, turn: &Rc<Cell<usize>>) -> &str {
        let n = turn.get();
        turn.set(n + 1);
        self.credentials.get(n % self.credentials.len()).unwrap()
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, future)
}

struct Connection {
    stream: TcpStream,
    gate: SocketAddr,
    read: Vec<u8>,
}

impl Connection {
    async fn open(gate: SocketAddr) -> Self {
        let stream = TcpStream::connect(gate).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            gate,
            read: Vec::with_capacity(4096),
        }
    }

    /// The status of one answer.
    async fn ask(&mut self, credential: &str) -> u16 {
        let request = format!(
            "GET /portal/bench/page HTTP/1.1\r\nhost: {}\r\n{credential}\r\n\r\n",
            self.gate
        );
        self.stream.write_all(request.as_bytes()).await.unwrap();
        self.read.clear();
        loop {
            assert!(self.stream.read_buf(&mut self.read).await.unwrap() > 0, "the gate hung up");
            let text = String::from_utf8_lossy(&self.read);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                if body.len() >= length.parse::<usize>().unwrap() {
                    return head.split(' ').nth(1).unwrap().parse().unwrap();
                }
            }
        }
    }
}
