//! A spare copy of a request that may go to the app a second time, made before the first send.
//!
//! Nearly every copy is dropped unused, so it must cost little: method and body are cloned, target and headers are
//! written into one buffer. A clone of the header map would cost twenty times as much, because it allocates for most
//! values.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body::Body as _;

use super::RequestBody;

/// Bytes reserved for the text of a usual head.
const TEXT_BYTES: usize = 2048;

/// An idempotent request without a body.
#[derive(Debug)]
pub(super) struct SpareRequest {
    method: Method,
    /// The target, then `name:value` of each header; each ends with a line feed, which neither of them can contain.
    text: Vec<u8>,
    body: RequestBody,
}

impl SpareRequest {
    /// `None` for a request that the app must not get twice, or whose body can be read only once.
    pub fn of(request: &Request<RequestBody>) -> Option<Self> {
        if !request.method().is_idempotent() || !request.body().is_end_stream() {
            return None;
        }
        let mut text = Vec::with_capacity(TEXT_BYTES);
        text.extend_from_slice(request.uri().path_and_query()?.as_str().as_bytes());
        text.push(b'\n');
        for (name, value) in request.headers() {
            text.extend_from_slice(name.as_str().as_bytes());
            text.push(b':');
            text.extend_from_slice(value.as_bytes());
            text.push(b'\n');
        }
        Some(Self {
            method: request.method().clone(),
            text,
            body: request.body().copy_of_empty(),
        })
    }

    /// The request, as it was before the first send.
    pub fn into_request(self) -> Option<Request<RequestBody>> {
        let mut lines = self.text.split(|&byte| byte == b'\n');
        let target = Uri::try_from(lines.next()?).ok()?;
        let headers: Option<HeaderMap> = lines.filter(|line| !line.is_empty()).map(header).collect();
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method;
        *request.uri_mut() = target;
        *request.headers_mut() = headers?;
        Some(request)
    }
}

/// Reads `name:value`; a name contains no colon.
fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = line.split_at_checked(colon)?;
    let name = HeaderName::from_bytes(name).ok()?;
    Some((name, HeaderValue::from_bytes(value.get(1..)?).ok()?))
}
