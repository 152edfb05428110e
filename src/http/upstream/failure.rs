//! Why the app gave no answer: a closed set for the metric, and what the path turns into a response.
//!
//! `classified` is the one place where hyper's errors become ours. It looks at the request's body first: an exchange
//! that broke because the client stopped is not the app's failure.

use std::error::Error as StdError;

use super::body::Progress;

/// What went wrong between the gate and the app; the label of `upstream_errors_total{reason}`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failure {
    Connect,
    ConnectTimeout,
    /// The handshake failed, or the app does not speak the protocol that it must.
    Tls,
    /// Too many connection attempts failed; none was made for this request.
    CircuitOpen,
    /// The connection or stream ended before the response's head.
    Closed,
    /// The app refused the HTTP/2 stream without looking at it.
    RefusedStream,
    /// The app's answer was no valid HTTP, or could be read in two ways.
    Malformed,
    /// The answer's head is larger than `upstream.response_header_bytes`.
    HeadersTooLarge,
}

#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("{}", reason.advice())]
    Unavailable {
        reason: Failure,
        source: Option<Box<dyn StdError + Send + Sync>>,
    },
    #[error("the app did not answer within `upstream.response_timeout`")]
    Timeout,
    #[error("the request body is larger than `limits.body_bytes`")]
    BodyTooLarge,
    #[error("the client's request body stopped, is malformed, or comes with an upgrade")]
    ClientBody,
}

impl Failure {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Tls => "tls",
            Self::CircuitOpen => "circuit_open",
            Self::Closed => "closed",
            Self::RefusedStream => "refused_stream",
            Self::Malformed => "malformed",
            Self::HeadersTooLarge => "headers_too_large",
        }
    }
}

impl Failure {
    /// For the operator: what happened and where to look.
    const fn advice(self) -> &'static str {
        match self {
            Self::Connect => "no connection to the app; check that it listens at `upstream.url`",
            Self::ConnectTimeout => {
                "no connection to the app within `upstream.connect_timeout`; check `upstream.url` and the network"
            }
            Self::Tls => "no TLS connection to the app; check its certificate, `upstream.tls` and `upstream.protocol`",
            Self::CircuitOpen => "the app could not be reached lately, and was not asked; see `upstream.circuit` in /status",
            Self::Closed => {
                "the app ended the connection before it answered; look at the app's log, and whether it wants a certificate"
            }
            Self::RefusedStream => "the app refused the HTTP/2 stream",
            Self::Malformed => "the app's answer is no HTTP that can be passed on; check `upstream.protocol`",
            Self::HeadersTooLarge => {
                "the head of the app's answer is larger than `upstream.response_header_bytes`, or has more than 100 headers"
            }
        }
    }
}

impl UpstreamError {
    pub(super) fn unavailable(reason: Failure) -> Self {
        Self::Unavailable { reason, source: None }
    }

    pub(super) fn failed(reason: Failure, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Unavailable {
            reason,
            source: Some(source.into()),
        }
    }

    /// An answer that is HTTP to somebody, but not one that may be passed on.
    pub(super) fn malformed(what: &'static str) -> Self {
        Self::failed(Failure::Malformed, what)
    }

    /// Whether it says something of the app that the log does not say already.
    pub const fn is_news(&self) -> bool {
        match self {
            Self::Unavailable { reason, .. } => !matches!(reason, Failure::CircuitOpen),
            Self::Timeout => true,
            Self::BodyTooLarge | Self::ClientBody => false,
        }
    }

    /// What it failed of, for the log and `/status`.
    pub fn cause(&self) -> String {
        match self {
            Self::Unavailable {
                reason,
                source: Some(source),
            } => format!("{}: {source}", reason.as_str()),
            other => other.reason().to_owned(),
        }
    }

    /// The metric's label; a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unavailable { reason, .. } => reason.as_str(),
            Self::Timeout => "timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::ClientBody => "client_body",
        }
    }
}

/// What an exchange that broke says about app and client.
pub(super) fn classified(error: hyper::Error, progress: &Progress) -> UpstreamError {
    if progress.too_large.get() {
        return UpstreamError::BodyTooLarge;
    }
    if progress.client_failed.get() {
        return UpstreamError::ClientBody;
    }
    let reason = if error.is_parse_too_large() {
        Failure::HeadersTooLarge
    } else if error.is_parse() {
        Failure::Malformed
    } else if is_tls(&error) {
        Failure::Tls
    } else {
        stream_failure(&error).unwrap_or(Failure::Closed)
    };
    UpstreamError::failed(reason, error)
}

/// With TLS 1.3 an app that does not like the gate's certificate says so only after the handshake.
fn is_tls(error: &hyper::Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    io.and_then(std::io::Error::get_ref)
        .is_some_and(|inner| inner.is::<rustls::Error>())
}

/// `None` for HTTP/1.1, and where the connection just ended.
fn stream_failure(error: &hyper::Error) -> Option<Failure> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    match error.reason()? {
        h2::Reason::REFUSED_STREAM => Some(Failure::RefusedStream),
        // also where the head is too large: h2 does not tell one from the other
        h2::Reason::PROTOCOL_ERROR | h2::Reason::FRAME_SIZE_ERROR | h2::Reason::COMPRESSION_ERROR if !error.is_remote() => {
            Some(Failure::Malformed)
        }
        _ => Some(Failure::Closed),
    }
}
