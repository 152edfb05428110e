//! The app of this section: answers of any size, bodies read to their end, and a WebSocket that sends every message
//! back.
//!
//! It runs on a thread of this process and on the core of the load.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// A download's length is the last segment of its path.
pub const DOWNLOAD: &str = "/portal/shop/catalogue/bytes/";

/// Starts the app and returns its address.
pub fn start() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(listener));
    });
    address
}

async fn serve(listener: std::net::TcpListener) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(connection.with_upgrades());
    }
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) {
        let accept = derive_accept_key(key.as_bytes());
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
                while let Some(Ok(message)) = socket.next().await {
                    if socket.send(message).await.is_err() {
                        break;
                    }
                }
            }
        });
        let answer = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
        let answer = answer.header(UPGRADE, "websocket").header(CONNECTION, "upgrade");
        return Ok(answer.header(SEC_WEBSOCKET_ACCEPT, accept).body(Full::default()).unwrap());
    }
    let length = request
        .uri()
        .path()
        .strip_prefix(DOWNLOAD)
        .and_then(|length| length.parse().ok());
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    let bytes = length.map_or_else(|| Bytes::from_static(b"ok\n"), zeros);
    Ok(Response::new(Full::new(bytes)))
}

/// A body of so many bytes. The longest is made once.
pub fn zeros(length: usize) -> Bytes {
    static ZEROS: [u8; super::LARGE] = [0; super::LARGE];
    Bytes::from_static(ZEROS.get(..length).unwrap())
}
