//! The failures of an exchange with the app: a closed set for the metric, which the gate turns into a response.
//!
//! `classify` is the one place that converts hyper's errors. It looks at the request's body first: if the client
//! stopped sending or sent too much, the exchange broke because of the client, and the app is not at fault.

use std::error::Error as StdError;
use std::io;

use super::request_body::BodyProgress;

/// The reason of a failure between the gate and the app; the label of `upstream_errors_total{reason}`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailureReason {
    Connect,
    ConnectTimeout,
    /// The handshake failed, or the app does not speak the HTTP version that the configuration requires.
    Tls,
    /// Too many connection attempts failed; the gate made none for this request.
    CircuitOpen,
    /// The descriptors that are left are kept back for other parts of the gate.
    Descriptors,
    /// The connection or stream ended before the response's head.
    Closed,
    /// The app refused the HTTP/2 stream without processing it.
    RefusedStream,
    /// The app's response was not valid HTTP, or its framing was ambiguous.
    Malformed,
    /// The response's head is beyond `upstream.response_header_bytes` or `upstream.response_header_count`.
    HeadersTooLarge,
}

#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("{}", reason.message())]
    Unavailable {
        reason: FailureReason,
        source: Option<Box<dyn StdError + Send + Sync>>,
    },
    #[error("the app did not answer within `upstream.response_timeout`")]
    Timeout,
    #[error("the request body is larger than `limits.body_bytes`")]
    BodyTooLarge,
    #[error("the client's request body stopped, is malformed, or comes with an upgrade")]
    ClientBody,
}

impl FailureReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Tls => "tls",
            Self::CircuitOpen => "circuit_open",
            Self::Descriptors => "descriptors",
            Self::Closed => "closed",
            Self::RefusedStream => "refused_stream",
            Self::Malformed => "malformed",
            Self::HeadersTooLarge => "headers_too_large",
        }
    }

    /// The text for the operator: the event, and the setting or log to check.
    const fn message(self) -> &'static str {
        match self {
            Self::Connect => "no connection to the app; check that it listens at `upstream.url`",
            Self::ConnectTimeout => {
                "no connection to the app within `upstream.connect_timeout`; check `upstream.url` and the network"
            }
            Self::Tls => "no TLS connection to the app; check its certificate, `upstream.tls` and `upstream.protocol`",
            Self::CircuitOpen => {
                "the app could not be reached, so the gate makes no new connection for now; see `upstream.circuit` in /status"
            }
            Self::Descriptors => {
                "no file descriptor is free for a connection to the app; raise the limit of open files (`ulimit -n`)"
            }
            Self::Closed => {
                "the app ended the connection before it answered; check the app's log, and whether it requires a client certificate"
            }
            Self::RefusedStream => "the app refused the HTTP/2 stream",
            Self::Malformed => "the app's answer is not valid HTTP, or its framing is ambiguous; check `upstream.protocol`",
            Self::HeadersTooLarge => {
                "the head of the app's answer is beyond `upstream.response_header_bytes` or `upstream.response_header_count`"
            }
        }
    }
}

impl UpstreamError {
    pub(super) fn unavailable(reason: FailureReason) -> Self {
        Self::Unavailable { reason, source: None }
    }

    pub(super) fn failed(reason: FailureReason, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Unavailable {
            reason,
            source: Some(source.into()),
        }
    }

    /// An answer that the gate must not pass on, although hyper could parse it.
    pub(super) fn malformed(detail: &'static str) -> Self {
        Self::failed(FailureReason::Malformed, detail)
    }

    /// True if the log does not contain this failure of the app yet. An open circuit repeats an earlier failure; the
    /// errors of the client's body say nothing about the app.
    pub const fn is_worth_logging(&self) -> bool {
        match self {
            Self::Unavailable { reason, .. } => !matches!(reason, FailureReason::CircuitOpen),
            Self::Timeout => true,
            Self::BodyTooLarge | Self::ClientBody => false,
        }
    }

    /// The reason and its source on one line, for the log and `/status`.
    pub fn cause(&self) -> String {
        match self {
            Self::Unavailable {
                reason,
                source: Some(source),
            } => format!("{}: {source}", reason.as_str()),
            other => other.reason().to_owned(),
        }
    }

    /// The key of the limit that was exceeded.
    pub const fn limit(&self) -> Option<&'static str> {
        match self {
            Self::Unavailable { reason, .. } => match reason {
                FailureReason::ConnectTimeout => Some("upstream.connect_timeout"),
                FailureReason::HeadersTooLarge => Some("upstream.response_header_bytes or upstream.response_header_count"),
                FailureReason::CircuitOpen => Some("upstream.circuit.failures"),
                _ => None,
            },
            Self::Timeout => Some("upstream.response_timeout"),
            Self::BodyTooLarge => Some("limits.body_bytes"),
            Self::ClientBody => None,
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

/// Converts hyper's error of a broken exchange.
pub(super) fn classify(error: hyper::Error, progress: &BodyProgress) -> UpstreamError {
    if progress.too_large.get() {
        return UpstreamError::BodyTooLarge;
    }
    if progress.client_failed.get() {
        return UpstreamError::ClientBody;
    }
    let reason = if error.is_parse_too_large() {
        FailureReason::HeadersTooLarge
    } else if error.is_parse() {
        FailureReason::Malformed
    } else if is_tls(&error) {
        FailureReason::Tls
    } else {
        http2_reason(&error).unwrap_or(FailureReason::Closed)
    };
    UpstreamError::failed(reason, error)
}

/// True if the connection ended under the request, or the app refused the stream without processing it. False for an
/// app that answered wrongly, reset the stream for a reason of its own, or did not answer a ping.
pub(super) fn is_lost_connection(error: &hyper::Error) -> bool {
    let source = error.source();
    if let Some(http2) = source.and_then(|source| source.downcast_ref::<h2::Error>()) {
        let is_refused = http2.reason() == Some(h2::Reason::REFUSED_STREAM);
        return http2.is_io() || (http2.is_remote() && (http2.is_go_away() || is_refused));
    }
    if let Some(io) = source.and_then(|source| source.downcast_ref::<io::Error>()) {
        return matches!(
            io.kind(),
            io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::NotConnected
                | io::ErrorKind::UnexpectedEof
        );
    }
    error.is_incomplete_message()
}

/// True for a TLS alert after the handshake: with TLS 1.3 an app refuses the gate's certificate only then.
fn is_tls(error: &hyper::Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    io.and_then(io::Error::get_ref)
        .is_some_and(|inner| inner.is::<rustls::Error>())
}

/// The reason of an HTTP/2 error; `None` for HTTP/1.1, and for a connection that ended without an HTTP/2 error code.
fn http2_reason(error: &hyper::Error) -> Option<FailureReason> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    match error.reason()? {
        h2::Reason::REFUSED_STREAM => Some(FailureReason::RefusedStream),
        // h2 reports a head that is too large with the same codes
        h2::Reason::PROTOCOL_ERROR | h2::Reason::FRAME_SIZE_ERROR | h2::Reason::COMPRESSION_ERROR if !error.is_remote() => {
            Some(FailureReason::Malformed)
        }
        _ => Some(FailureReason::Closed),
    }
}
