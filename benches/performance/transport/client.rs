//! Clients: HTTP/1.1 and HTTP/2, with TLS and without, WebSockets, and handshakes alone. Libraries do the protocols.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::AUTHORIZATION;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::app::zeros;

/// The name in the certificate, and the host of every request.
pub const HOST: &str = "bench.test";
const SESSIONS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    One,
    Two,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Plain,
    Tls,
}

/// One request of a load, and the size of its body.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub path: String,
    pub bearer: Option<String>,
    pub bytes: usize,
}

/// The sending side of an HTTP connection; clones of an HTTP/2 sender send on the same connection.
pub enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// A client's TLS settings: version, cipher and curve are the same for every server.
pub struct Security {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
}

impl Security {
    /// A client that trusts the certificate in `pem`.
    pub fn new(pem: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let provider = CryptoProvider {
            cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![kx_group::X25519],
            ..default_provider()
        };
        Self {
            provider: Arc::new(provider),
            roots: Arc::new(roots),
        }
    }

    /// A connector with an empty cache of sessions of its own, or with none.
    pub fn connector(&self, http: Http, kind: HandshakeKind) -> TlsConnector {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider)).with_protocol_versions(&[&TLS13]);
        let mut config = builder
            .unwrap()
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = match http {
            Http::One => vec![b"http/1.1".to_vec()],
            Http::Two => vec![b"h2".to_vec()],
        };
        config.resumption = match kind {
            HandshakeKind::Resumed => Resumption::in_memory_sessions(SESSIONS),
            _ => Resumption::disabled(),
        };
        TlsConnector::from(Arc::new(config))
    }
}

impl Sender {
    pub async fn open(address: SocketAddr, wire: Wire, http: Http, security: &Security) -> Result<Self, String> {
        match wire {
            Wire::Plain => Self::over(tcp(address).await?, http).await,
            Wire::Tls => Self::over(tls(address, &security.connector(http, HandshakeKind::Full)).await?, http).await,
        }
    }

    async fn over<S>(stream: S, http: Http) -> Result<Self, String>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let stream = TokioIo::new(stream);
        match http {
            Http::One => {
                let (sender, connection) = http1::handshake(stream).await.map_err(text)?;
                tokio::spawn(connection);
                Ok(Self::One(sender))
            }
            Http::Two => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.map_err(text)?;
                tokio::spawn(connection);
                Ok(Self::Two(sender))
            }
        }
    }

    /// Another sender for the same connection, if the protocol has streams.
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::One(_) => None,
            Self::Two(sender) => Some(Self::Two(sender.clone())),
        }
    }

    /// Sends a request, reads the answer to its end and returns the status and the number of bytes of the body.
    pub async fn ask(&mut self, asked: &Asked) -> Result<(u16, usize), String> {
        let mut request = Request::builder().method(&asked.method);
        if let Some(bearer) = &asked.bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        let body = Full::new(zeros(asked.bytes));
        let answer = match self {
            Self::One(sender) => {
                let request = request.header("host", HOST).uri(&asked.path);
                sender.ready().await.map_err(text)?;
                sender.send_request(request.body(body).map_err(text)?).await
            }
            Self::Two(sender) => {
                let request = request.uri(format!("https://{HOST}{}", asked.path));
                sender.ready().await.map_err(text)?;
                sender.send_request(request.body(body).map_err(text)?).await
            }
        };
        let answer = answer.map_err(text)?;
        let status = answer.status().as_u16();
        let mut body = answer.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame.map_err(text)?.data_ref().map_or(0, Bytes::len);
        }
        Ok((status, bytes))
    }
}

/// Connects, shakes hands, sends one request that closes the connection, and reads to its end. Returns the kind of
/// handshake.
pub async fn handshake(address: SocketAddr, connector: &TlsConnector, asked: &Asked) -> Result<HandshakeKind, String> {
    let mut stream = tls(address, connector).await?;
    let bearer = asked.bearer.as_deref().unwrap_or_default();
    let request = format!(
        "GET {} HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {bearer}\r\nconnection: close\r\n\r\n",
        asked.path
    );
    stream.write_all(request.as_bytes()).await.map_err(text)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map_err(text)?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err(format!("wrong answer: {}", String::from_utf8_lossy(&answer)));
    }
    stream
        .get_ref()
        .1
        .handshake_kind()
        .ok_or_else(|| "the handshake is not complete".to_owned())
}

/// A WebSocket through the measured program to the app.
pub async fn websocket(address: SocketAddr, asked: &Asked) -> Result<WebSocketStream<TcpStream>, String> {
    let mut request = format!("ws://{HOST}{}", asked.path).into_client_request().map_err(text)?;
    if let Some(bearer) = &asked.bearer {
        request.headers_mut().insert(AUTHORIZATION, bearer.parse().map_err(text)?);
    }
    let (socket, _) = tokio_tungstenite::client_async(request, tcp(address).await?)
        .await
        .map_err(text)?;
    Ok(socket)
}

/// Sends a message and waits until it is back.
pub async fn echo(socket: &mut WebSocketStream<TcpStream>, bytes: usize) -> Result<(), String> {
    socket.send(Message::binary(zeros(bytes))).await.map_err(text)?;
    match socket.next().await {
        Some(Ok(message)) if message.len() == bytes => Ok(()),
        other => Err(format!("another message came back: {other:?}")),
    }
}

async fn tcp(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address).await.map_err(text)?;
    stream.set_nodelay(true).map_err(text)?;
    Ok(stream)
}

async fn tls(address: SocketAddr, connector: &TlsConnector) -> Result<TlsStream<TcpStream>, String> {
    let name = ServerName::try_from(HOST).map_err(text)?;
    connector.connect(name, tcp(address).await?).await.map_err(text)
}

fn text(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
