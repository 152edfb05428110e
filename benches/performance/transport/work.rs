//! The kinds of work: each prepares clients, so that connections are open and caches are warm, and then drives them for
//! a time.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use http::Method;
use rustls::HandshakeKind;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;

use super::app::DOWNLOAD;
use super::client::{Asked, Http, Security, Sender, Wire, echo, handshake, websocket};
use super::devices::Device;
use crate::peers::shop;

/// Requests, handshakes or messages at once.
const AT_ONCE: usize = 32;
/// Transfers of a large body at once.
const LARGE_AT_ONCE: usize = 4;
/// Streams of one HTTP/2 connection.
const STREAMS: usize = 8;
/// Bytes of a WebSocket message.
pub const MESSAGE: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// Small requests on connections that stay open.
    Requests(Wire, Http),
    /// A connection for each request.
    Handshakes(HandshakeKind),
    /// So many bytes from the app to the client.
    Download(usize, Wire, Http),
    /// So many bytes from the client to the app.
    Upload(usize, Wire, Http),
    /// Messages to the app and back.
    WebSocket,
}

/// The result of a drive.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub operations: usize,
    pub bytes: usize,
    pub took: Duration,
}

/// A client that waits for the start.
pub enum Client {
    Http(Sender, Asked),
    Handshake(HandshakeKind, TlsConnector, Asked),
    WebSocket(Box<WebSocketStream<TcpStream>>),
}

/// The credentials of a drive.
pub struct Credentials<'a> {
    pub security: &'a Security,
    pub bearer: &'a str,
}

impl Work {
    /// A name for the table.
    pub fn name(self) -> String {
        let over = |wire, http| match (wire, http) {
            (Wire::Plain, Http::One) => "HTTP/1.1",
            (Wire::Plain, Http::Two) => "HTTP/2 without TLS",
            (Wire::Tls, Http::One) => "HTTP/1.1 over TLS 1.3",
            (Wire::Tls, Http::Two) => "HTTP/2 over TLS 1.3",
        };
        let size = |bytes: usize| match bytes {
            super::LARGE => "10 MiB".to_owned(),
            bytes => format!("{} KiB", bytes / 1024),
        };
        match self {
            Self::Requests(wire, http) => format!("requests, {}", over(wire, http)),
            Self::Handshakes(HandshakeKind::Resumed) => "resumed TLS 1.3 connection for each request".to_owned(),
            Self::Handshakes(_) => "new TLS 1.3 connection for each request".to_owned(),
            Self::Download(bytes, wire, http) => format!("download of {}, {}", size(bytes), over(wire, http)),
            Self::Upload(bytes, wire, http) => format!("upload of {}, {}", size(bytes), over(wire, http)),
            Self::WebSocket => format!("WebSocket echo of {}", size(MESSAGE)),
        }
    }

    /// True if megabytes count, not operations.
    pub fn is_of_bytes(self) -> bool {
        matches!(self, Self::Download(..) | Self::Upload(..))
    }

    fn protocol(self) -> (Wire, Http) {
        match self {
            Self::Requests(wire, http) | Self::Download(_, wire, http) | Self::Upload(_, wire, http) => (wire, http),
            Self::Handshakes(_) => (Wire::Tls, Http::One),
            Self::WebSocket => (Wire::Plain, Http::One),
        }
    }

    fn asked(self, bearer: Option<&str>) -> Asked {
        let (method, path, bytes) = match self {
            Self::Download(length, ..) => (Method::GET, format!("{DOWNLOAD}{length}"), 0),
            Self::Upload(length, ..) => (Method::POST, shop::ALLOWED.to_owned(), length),
            _ => (Method::GET, shop::ALLOWED.to_owned(), 0),
        };
        Asked {
            method,
            path,
            bearer: bearer.map(|bearer| format!("Bearer {bearer}")),
            bytes,
        }
    }

    /// Asks once without a credential, and returns the status.
    pub async fn without_credential(self, device: &Device, security: &Security) -> Result<u16, String> {
        let (wire, http) = self.protocol();
        let mut sender = Sender::open(device.address(wire, http), wire, http, security).await?;
        Ok(sender.ask(&self.asked(None)).await?.0)
    }

    /// Opens the connections. Each client has done its work once when this returns.
    pub async fn prepare(self, device: &Device, credentials: &Credentials<'_>) -> Result<Vec<Client>, String> {
        let (wire, http) = self.protocol();
        let address = device.address(wire, http);
        let asked = self.asked(Some(credentials.bearer));
        let is_large = matches!(self, Self::Download(super::LARGE, ..) | Self::Upload(super::LARGE, ..));
        let at_once = if is_large { LARGE_AT_ONCE } else { AT_ONCE };
        let mut clients = Vec::new();
        while clients.len() < at_once {
            match self {
                Self::Handshakes(kind) => {
                    let connector = credentials.security.connector(http, kind);
                    if kind == HandshakeKind::Resumed {
                        handshake(address, &connector, &asked).await?;
                    }
                    clients.push(Client::Handshake(kind, connector, asked.clone()));
                }
                Self::WebSocket => clients.push(Client::WebSocket(Box::new(websocket(address, &asked).await?))),
                _ => {
                    let first = Sender::open(address, wire, http, credentials.security).await?;
                    let streams = (1..STREAMS.min(at_once)).filter_map(|_| first.again()).collect::<Vec<_>>();
                    let all = std::iter::once(first).chain(streams);
                    clients.extend(all.map(|sender| Client::Http(sender, asked.clone())));
                }
            }
        }
        for client in &mut clients {
            client.once(device, self).await?;
        }
        Ok(clients)
    }

    /// Repeats the work of all clients for so long.
    pub async fn drive(self, device: &Device, clients: Vec<Client>, time: Duration) -> Result<Done, String> {
        let begun = Instant::now();
        let each = clients.into_iter().map(|mut client| async move {
            let mut done = Done::default();
            while begun.elapsed() < time {
                done.bytes += client.once(device, self).await?;
                done.operations += 1;
            }
            Ok::<_, String>(done)
        });
        let each = try_join_all(each).await?;
        Ok(Done {
            operations: each.iter().map(|done| done.operations).sum(),
            bytes: each.iter().map(|done| done.bytes).sum(),
            took: begun.elapsed(),
        })
    }
}

impl Client {
    /// Does the work once and checks the answer. Returns the bytes of the bodies.
    async fn once(&mut self, device: &Device, work: Work) -> Result<usize, String> {
        match self {
            Self::Http(sender, asked) => {
                let (status, bytes) = sender.ask(asked).await?;
                let is_whole = !matches!(work, Work::Download(length, ..) if length != bytes);
                match (status, is_whole) {
                    (200, true) => Ok(asked.bytes + bytes),
                    _ => Err(format!("wrong answer: {status}, {bytes} bytes")),
                }
            }
            Self::Handshake(kind, connector, asked) => {
                // without its old sessions a client cannot resume one
                let address = device.address(Wire::Tls, Http::One);
                match handshake(address, connector, asked).await? {
                    made if made == *kind => Ok(0),
                    made => Err(format!("the handshake was {made:?}")),
                }
            }
            Self::WebSocket(socket) => echo(socket, MESSAGE).await.map(|()| MESSAGE),
        }
    }
}
