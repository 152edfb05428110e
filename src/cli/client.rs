//! One HTTP exchange with a running gate: its admin listener over TCP, its control socket over a Unix socket.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

const RESPONSE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The gate gave no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("{0}")]
    Connect(#[source] std::io::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("{0}")]
    Exchange(#[from] hyper::Error),
    #[error("{0}")]
    Response(String),
}

/// A request without a body.
#[derive(Clone)]
pub(super) struct ClientRequest<'a> {
    pub method: Method,
    /// Path and query.
    pub target: &'a str,
    /// The `host` header.
    pub host: String,
    /// The `authorization` header.
    pub authorization: Option<HeaderValue>,
    /// Longest time from connecting to the last byte of the response.
    pub timeout: Duration,
}

pub(super) struct ClientResponse {
    pub status: StatusCode,
    pub body: String,
}

impl ClientRequest<'_> {
    /// Connects with `connect`, sends the request, reads the whole response.
    pub async fn send<S>(self, connect: impl Future<Output = std::io::Result<S>>) -> Result<ClientResponse, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let timeout = self.timeout;
        tokio::time::timeout(timeout, self.exchange(connect))
            .await
            .unwrap_or(Err(ClientError::Timeout))
    }

    async fn exchange<S>(self, connect: impl Future<Output = std::io::Result<S>>) -> Result<ClientResponse, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let stream = connect.await.map_err(ClientError::Connect)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut builder = Request::builder()
            .method(self.method)
            .uri(self.target)
            .header("host", self.host);
        if let Some(authorization) = self.authorization {
            builder = builder.header("authorization", authorization);
        }
        let request = builder
            .body(Empty::<Bytes>::new())
            .map_err(|error| ClientError::Response(error.to_string()))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), RESPONSE_BYTES_MAX).collect().await;
        let body = body.map_err(|error| ClientError::Response(error.to_string()))?.to_bytes();
        Ok(ClientResponse {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

impl ClientResponse {
    /// The body as JSON; `None` if it is not JSON.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.body).ok()
    }
}

/// A runtime for one command.
pub(super) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
