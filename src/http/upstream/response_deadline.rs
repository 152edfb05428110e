//! The deadline of a response's head: a time without progress for ordinary requests, the caller's own deadline for
//! gRPC.
//!
//! The deadline races against the app's answer in `Exchange::send`, which polls the answer first: an answer that
//! arrives in the same moment wins. Every frame of the request body moves an idle deadline
//! (`BodyProgress::last_activity`), so a slow upload does not expire while it proceeds. When the deadline expires while
//! the gate waits for the client's next frame, the client is at fault (400); otherwise the app is (504). A gRPC
//! deadline is absolute and always counts against the app.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use super::UpstreamError;
use super::request_body::BodyProgress;
use crate::base::deadline::sleep_until;

/// Longest deadline that a gRPC caller can set.
const GRPC_TIMEOUT_MAX: Duration = Duration::from_secs(60 * 60);
/// Digits of a `grpc-timeout` (gRPC over HTTP/2, "TimeoutValue").
const GRPC_TIMEOUT_DIGITS_MAX: usize = 8;

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The deadline of one response's head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ResponseDeadline {
    /// This long after the last progress of the request.
    Idle(Duration),
    At(Instant),
}

impl ResponseDeadline {
    pub fn from_headers(headers: &HeaderMap, response_timeout: Duration) -> Self {
        match grpc_timeout(headers) {
            Some(timeout) => Self::At(Instant::now() + timeout),
            None => Self::Idle(response_timeout),
        }
    }

    /// Waits until the deadline expires and returns the error that names the side at fault.
    pub async fn expire(self, progress: &BodyProgress) -> UpstreamError {
        let idle_timeout = match self {
            Self::At(deadline) => {
                sleep_until(deadline).await;
                return UpstreamError::Timeout;
            }
            Self::Idle(timeout) => timeout,
        };
        loop {
            let deadline = progress.last_activity.get() + idle_timeout;
            if deadline <= Instant::now() {
                break;
            }
            sleep_until(deadline).await;
        }
        if progress.waits_for_client.get() {
            UpstreamError::ClientBody
        } else {
            UpstreamError::Timeout
        }
    }
}

/// True for gRPC; gRPC-Web is not gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(rest) = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"))
    else {
        return false;
    };
    matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(&GRPC_TIMEOUT)?;
    if !is_grpc(headers) {
        return None;
    }
    let (unit, digits) = text.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > GRPC_TIMEOUT_DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let timeout = match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    };
    Some(timeout.min(GRPC_TIMEOUT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_grpc_request_with_a_well_formed_timeout_sets_its_own_deadline() {
        let headers = |kind: &str, timeout: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", kind.parse().unwrap());
            headers.insert("grpc-timeout", timeout.parse().unwrap());
            grpc_timeout(&headers)
        };
        let millis = |ms| Some(Duration::from_millis(ms));
        for (kind, timeout, expected) in [
            ("application/grpc", "100m", millis(100)),
            ("application/grpc+proto", "2S", millis(2_000)),
            ("application/grpc; x=y", "3M", millis(180_000)),
            ("application/grpc", "99999999H", Some(GRPC_TIMEOUT_MAX)),
            ("application/grpc", "5000u", millis(5)),
            ("application/grpc", "0n", millis(0)),
            ("application/grpc-web", "100m", None),
            ("application/json", "100m", None),
            ("application/grpc", "123456789S", None),
            ("application/grpc", "S", None),
            ("application/grpc", "+1S", None),
            ("application/grpc", "1s", None),
        ] {
            assert_eq!(headers(kind, timeout), expected, "{kind} {timeout}");
        }
    }
}
