//! Asks the app whether it is healthy: one request or one connection, under one deadline.
//!
//! Only the admin listener calls this. Nothing of the app's answer but its status leaves this file. A redirect counts
//! as an answer and is not followed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::UpstreamError;
use super::apps::{App, Apps};
use super::client_tls::TlsError;
use super::http2_connection::LocalExecutor;
use super::transport::{VersionOffer, connect_tcp, dial};
use crate::config::{AppProbe, Authority, ProbeTarget, Protocol, Upstream, UpstreamTls, UpstreamUrl};

/// Bytes of the answer's body that are read, so that an app is not cut off while it writes a small one.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Path of the gRPC health service.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
const GRPC_STATUS: &str = "grpc-status";
const AGENT: &str = concat!("cedargate-probe/", env!("CARGO_PKG_VERSION"));

/// A probe that is ready to be sent.
#[derive(Debug)]
pub struct Probe {
    target: ProbeAddress,
    timeout: Duration,
}

#[derive(Debug)]
enum ProbeAddress {
    Http { app: Arc<App>, target: Uri, headers: HeaderMap },
    Tcp(Authority),
    Grpc { authority: Authority, service: String },
}

/// The app is healthy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Healthy {
    Answered(StatusCode),
    Connected,
    /// The gRPC health service said so.
    Serves,
}

impl fmt::Display for Healthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(status) => write!(f, "the app answered {}", status.as_u16()),
            Self::Connected => f.write_str("the app accepted a connection"),
            Self::Serves => f.write_str("the app serves"),
        }
    }
}

/// The reason why the app counts as unhealthy; a text for the kubelet's events.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    #[error("the app answered {}", .0.as_u16())]
    Answered(StatusCode),
    #[error("the app's gRPC health service answered {0}")]
    Grpc(String),
    #[error("no answer of the app within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    #[error("no connection to the app: {}", .0.cause())]
    Connection(#[from] UpstreamError),
    #[error("no HTTP answer of the app: {0}")]
    Exchange(#[from] hyper::Error),
}

impl Probe {
    /// Prepares a probe. `upstream` has the TLS settings for an `https` probe of an `https` app.
    ///
    /// # Errors
    /// TLS that cannot be set up.
    pub fn new(probe: &AppProbe, upstream: &Upstream) -> Result<Self, TlsError> {
        let target = match &probe.target {
            ProbeTarget::Tcp(authority) => ProbeAddress::Tcp(authority.clone()),
            ProbeTarget::Grpc { authority, service } => ProbeAddress::Grpc {
                authority: authority.clone(),
                service: service.clone(),
            },
            ProbeTarget::Http { url, target, headers } => {
                let is_https_app = matches!(upstream.url, UpstreamUrl::Https(_));
                let settings = Upstream {
                    url: url.clone(),
                    protocol: Protocol::Http1,
                    tls: if is_https_app {
                        upstream.tls.clone()
                    } else {
                        UpstreamTls::default()
                    },
                    ..upstream.clone()
                };
                // not one of the apps that requests go to: it shares no circuit and no connection with them
                ProbeAddress::Http {
                    app: Apps::default().load(&settings)?,
                    target: target.clone(),
                    headers: request_headers(url, headers),
                }
            }
        };
        Ok(Self {
            target,
            timeout: probe.timeout,
        })
    }

    /// Asks the app once. Needs a runtime that spawns local tasks.
    pub async fn send(&self) -> Result<Healthy, Unhealthy> {
        let deadline = Instant::now() + self.timeout;
        let asked = async {
            match &self.target {
                ProbeAddress::Tcp(authority) => {
                    connect_tcp(authority).await?;
                    Ok(Healthy::Connected)
                }
                ProbeAddress::Grpc { authority, service } => ask_grpc(authority, service, deadline).await,
                ProbeAddress::Http { app, target, headers } => {
                    let status = ask(app, target, headers, deadline).await?;
                    if status.is_success() || status.is_redirection() {
                        Ok(Healthy::Answered(status))
                    } else {
                        Err(Unhealthy::Answered(status))
                    }
                }
            }
        };
        timeout_at(deadline, asked)
            .await
            .unwrap_or(Err(Unhealthy::Timeout(self.timeout)))
    }
}

/// The configured headers over the probe's own.
fn request_headers(url: &UpstreamUrl, configured: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let host = url.origin();
    let host = host.split_once("://").map_or("", |(_, authority)| authority);
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(HOST, host);
    }
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    for name in configured.keys() {
        headers.remove(name);
    }
    headers.extend(configured.clone());
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers
}

async fn ask(app: &App, target: &Uri, headers: &HeaderMap, deadline: Instant) -> Result<StatusCode, Unhealthy> {
    let dialed = dial(app, VersionOffer::Http1).await?;
    let (mut sender, connection) = http1::Builder::new()
        .max_header_size(app.settings.response_header_bytes)
        .max_headers(app.settings.response_header_count)
        .handshake(TokioIo::new(dialed.transport))
        .await?;
    // ends with the deadline, or when `sender` and the body are dropped
    tokio::task::spawn_local(async move { drop(timeout_at(deadline, connection).await) });
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = target.clone();
    *request.headers_mut() = headers.clone();
    let response = sender.send_request(request).await?;
    let status = response.status();
    tokio::task::spawn_local(async move { drop(timeout_at(deadline, drain(response.into_body())).await) });
    Ok(status)
}

/// The status decided already; the body is read for the app's sake, and thrown away.
async fn drain(body: Incoming) {
    drop(Limited::new(body, BODY_BYTES_MAX).collect().await);
}

/// Asks the gRPC health service (grpc.health.v1) over HTTP/2 without TLS, as the kubelet does.
async fn ask_grpc(authority: &Authority, service: &str, deadline: Instant) -> Result<Healthy, Unhealthy> {
    let stream = connect_tcp(authority).await?;
    let (mut sender, connection) = http2::Builder::new(LocalExecutor).handshake(TokioIo::new(stream)).await?;
    // ends with the deadline, or when `sender` is dropped
    tokio::task::spawn_local(async move { drop(timeout_at(deadline, connection).await) });
    let mut request = Request::new(Full::new(health_request(service)));
    *request.method_mut() = Method::POST;
    let uri = format!("http://{}:{}{HEALTH_CHECK}", authority.host, authority.port);
    *request.uri_mut() = uri
        .parse()
        .map_err(|_invalid| Unhealthy::Grpc("nothing: its address is no URL".to_owned()))?;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    let (head, body) = sender.send_request(request).await?.into_parts();
    if head.status != StatusCode::OK {
        return Err(Unhealthy::Answered(head.status));
    }
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|_error| Unhealthy::Grpc("too much, or ended too early".to_owned()))?;
    let status = body.trailers().and_then(|trailers| trailers.get(GRPC_STATUS));
    let status = status.or_else(|| head.headers.get(GRPC_STATUS)).map(HeaderValue::as_bytes);
    match status {
        Some(b"0") => health(&body.to_bytes()),
        // the numbers of gRPC
        Some(b"5") => Err(Unhealthy::Grpc("that it does not know the service (5, NOT_FOUND)".to_owned())),
        Some(b"12") => Err(Unhealthy::Grpc("that there is none (12, UNIMPLEMENTED)".to_owned())),
        Some(other) if other.len() < 4 && other.iter().all(u8::is_ascii_digit) => {
            Err(Unhealthy::Grpc(format!("with status {}", String::from_utf8_lossy(other))))
        }
        _ => Err(Unhealthy::Grpc("without a status".to_owned())),
    }
}

/// A `HealthCheckRequest` in one frame: no compression, its length, field 1 with the service. The configuration bounds
/// the name, so both lengths fit into one byte.
fn health_request(service: &str) -> Bytes {
    let length = u8::try_from(service.len()).unwrap_or(u8::MAX);
    let mut message = Vec::new();
    if length > 0 {
        message.extend([0x0a, length]);
        message.extend(service.as_bytes());
    }
    let mut frame = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap_or(u8::MAX)];
    frame.extend(message);
    frame.into()
}

/// Reads a `HealthCheckResponse`: field 1 is the status, which is absent if it is 0.
fn health(frame: &[u8]) -> Result<Healthy, Unhealthy> {
    match frame {
        [0, 0, 0, 0, 2, 0x08, 1] => Ok(Healthy::Serves),
        [0, 0, 0, 0, 2, 0x08, 2] => Err(Unhealthy::Grpc("NOT_SERVING".to_owned())),
        [0, 0, 0, 0, 2, 0x08, 3] => Err(Unhealthy::Grpc("SERVICE_UNKNOWN".to_owned())),
        [0, 0, 0, 0, 0] => Err(Unhealthy::Grpc("UNKNOWN".to_owned())),
        _ => Err(Unhealthy::Grpc("with bytes that are no health".to_owned())),
    }
}
