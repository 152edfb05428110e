//! A client of one HTTP/2 connection, by the `h2` library, from a thread without a runtime of its own.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;

use super::Gate;

/// The first bytes of every HTTP/2 connection.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client of one HTTP/2 connection, from a thread without a runtime of its own.
pub struct Client {
    pub runtime: Runtime,
    pub send: SendRequest<Bytes>,
    /// Ends with the connection.
    pub ended: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Client {
    pub fn open(address: SocketAddr) -> Self {
        let runtime = Runtime::start();
        let stream = runtime.block_on(tokio::net::TcpStream::connect(address)).unwrap();
        Self::over(runtime, stream)
    }

    pub fn over(runtime: Runtime, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (send, connection) = runtime.block_on(h2::client::handshake(stream)).unwrap();
        let ended = runtime.spawn(connection);
        Self { runtime, send, ended }
    }

    pub fn ask(&self, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
        self.runtime.block_on(ask(self.send.clone(), request, body.to_vec()))
    }

    pub fn get(&self, gate: &Gate, path: &str) -> Result<Answer, h2::Error> {
        self.ask(request(gate, "GET", path), b"")
    }

    /// True if the peer ended the connection in time.
    pub fn ends(&mut self) -> bool {
        let ended = &mut self.ended;
        self.runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(10), ended).await })
            .is_ok()
    }
}

/// A runtime that a thread of its own keeps going until this is dropped.
pub struct Runtime {
    handle: Handle,
    _running: tokio::sync::oneshot::Sender<()>,
}

impl Runtime {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (running, dropped) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || runtime.block_on(dropped));
        Self {
            handle,
            _running: running,
        }
    }

    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.handle.block_on(future)
    }

    pub fn spawn<F: Future<Output: Send> + Send + 'static>(&self, future: F) -> tokio::task::JoinHandle<F::Output> {
        self.handle.spawn(future)
    }
}

pub fn request(gate: &Gate, method: &str, path: &str) -> Request<()> {
    Request::builder()
        .method(method)
        .uri(format!("http://shop.test{path}"))
        .header("authorization", format!("Bearer {}", gate.issuer.token("alice", &["viewer"])))
        .body(())
        .unwrap()
}

pub async fn ask(send: SendRequest<Bytes>, request: Request<()>, body: Vec<u8>) -> Result<Answer, h2::Error> {
    let (answer, mut stream) = send.ready().await?.send_request(request, body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(body.into(), true)?;
    }
    let (head, mut incoming) = answer.await?.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = incoming.data().await {
        let piece = piece?;
        drop(incoming.flow_control().release_capacity(piece.len()));
        body.extend(piece);
    }
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
    })
}
