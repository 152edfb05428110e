//! Asks the app whether it is healthy: one request or one connection, under one deadline.
//!
//! Only the admin listener calls this. Nothing of the app's answer but its status leaves this file. A redirect counts as an
//! answer and is not followed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::UpstreamError;
use super::apps::{App, Apps};
use super::client_tls::TlsError;
use super::transport::{VersionOffer, connect_tcp, dial};
use crate::config::{AppProbe, Authority, ProbeTarget, Protocol, Upstream, UpstreamTls, UpstreamUrl};

/// Bytes of the answer's body that are read, so that an app is not cut off while it writes a small one.
const BODY_BYTES_MAX: usize = 64 * 1024;
const AGENT: &str = concat!("cedargate-probe/", env!("CARGO_PKG_VERSION"));

/// A probe that is ready to be sent.
#[derive(Debug)]
pub struct Probe {
    target: Target,
    timeout: Duration,
}

#[derive(Debug)]
enum Target {
    Http { app: Arc<App>, target: Uri, headers: HeaderMap },
    Tcp(Authority),
}

/// The app is healthy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Healthy {
    Answered(StatusCode),
    Connected,
}

impl fmt::Display for Healthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(status) => write!(f, "the app answered {}", status.as_u16()),
            Self::Connected => f.write_str("the app accepted a connection"),
        }
    }
}

/// The reason why the app counts as unhealthy; a text for the kubelet's events.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    #[error("the app answered {}", .0.as_u16())]
    Answered(StatusCode),
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
            ProbeTarget::Tcp(authority) => Target::Tcp(authority.clone()),
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
                Target::Http {
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
                Target::Tcp(authority) => {
                    connect_tcp(authority).await?;
                    Ok(Healthy::Connected)
                }
                Target::Http { app, target, headers } => {
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
