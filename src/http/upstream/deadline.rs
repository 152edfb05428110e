//! How long the app's head may take: silence for ordinary requests, the caller's own deadline for gRPC.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName};
use tokio::time::{Instant, sleep_until};

use super::UpstreamError;
use super::body::Progress;

/// Longest wait that a gRPC caller can ask for.
const GRPC_TIMEOUT_MAX: Duration = Duration::from_secs(60 * 60);
/// Digits of a `grpc-timeout` (gRPC over HTTP/2, "TimeoutValue").
const GRPC_TIMEOUT_DIGITS_MAX: usize = 8;

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How long to wait for one answer's head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Patience {
    /// From the last piece of the request that moved.
    Silence(Duration),
    /// All in all.
    Until(Instant),
}

impl Patience {
    pub fn of(headers: &HeaderMap, response_timeout: Duration) -> Self {
        match grpc_timeout(headers) {
            Some(timeout) => Self::Until(Instant::now() + timeout),
            None => Self::Silence(response_timeout),
        }
    }

    /// Resolves when there is none left; says whose fault it is.
    pub async fn end(self, progress: &Progress) -> UpstreamError {
        let silence = match self {
            Self::Until(deadline) => {
                sleep_until(deadline).await;
                return UpstreamError::Timeout;
            }
            Self::Silence(silence) => silence,
        };
        loop {
            let deadline = progress.last.get() + silence;
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

/// Whether a request is gRPC; gRPC-Web is not.
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
    fn only_grpc_requests_have_a_deadline_of_their_own_and_only_a_well_formed_one() {
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
