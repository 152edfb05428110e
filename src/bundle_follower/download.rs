//! Requests for a bundle: redirects, sizes, and the words for a failure.
//!
//! SECURITY: the credential goes to the configured origin alone. Redirects are followed, because registries and object
//! stores answer with them, but only to URLs that `policies.bundle` would accept itself, and without the credential on
//! another origin. The content is checked by signature and hash, so its server need not be trusted.

use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use http::{Method, StatusCode};
use reqwest::{Client, Response};
use url::Url;

use crate::base::clock;
use crate::base::outbound::{Clients, cause};
use crate::config::{BundleTransport, Egress};

const REDIRECTS_MAX: usize = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A complete download.
pub(super) struct Download {
    pub bytes: Vec<u8>,
    /// The server's word for this content; `None`: it gives none, and each attempt downloads everything.
    pub version: Option<String>,
}

pub(super) enum DownloadAnswer {
    Unchanged,
    New(Download),
}

/// An attempt without an answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub why: String,
    pub retry_after: Option<Duration>,
}

/// One request; a redirect repeats it elsewhere.
pub(super) struct Ask<'a> {
    pub method: Method,
    pub url: &'a Url,
    pub headers: HeaderMap,
    pub authorization: Option<HeaderValue>,
}

impl Failure {
    pub fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            retry_after: None,
        }
    }

    /// A status that is neither the wanted one nor a redirect.
    pub fn status(response: &Response) -> Self {
        let status = response.status();
        let hint = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "; check `user` and `password_file`, or `token_file`, of policies.bundle"
            }
            StatusCode::NOT_FOUND => "; check policies.bundle.url, and that the bundle is published",
            _ => "",
        };
        Self {
            why: format!("`{}` answered {status}{hint}", shown(response.url())),
            retry_after: retry_after(response.headers()),
        }
    }
}

pub(super) fn client(egress: &Egress) -> Result<Client, String> {
    Clients::default().of(egress, |builder| {
        builder.pool_max_idle_per_host(1).connect_timeout(CONNECT_TIMEOUT)
    })
}

/// Sends a request and follows redirects.
pub(super) async fn send(client: &Client, ask: Ask<'_>, transport: BundleTransport) -> Result<Response, Failure> {
    let mut url = ask.url.clone();
    for _ in 0..=REDIRECTS_MAX {
        let mut request = client.request(ask.method.clone(), url.clone()).headers(ask.headers.clone());
        if let Some(authorization) = ask.authorization.as_ref().filter(|_| url.origin() == ask.url.origin()) {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let response = request.send().await.map_err(|error| failed(&url, &error))?;
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(response);
        }
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let next = location.and_then(|location| url.join(location).ok());
        url = match next {
            Some(next) if transport.allows(&next) => next,
            Some(next) => {
                let why = format!("`{}` redirects to `{}`, which is not https", shown(&url), shown(&next));
                return Err(Failure::new(why));
            }
            None => return Err(Failure::new(format!("`{}` redirects to no URL", shown(&url)))),
        };
    }
    Err(Failure::new(format!(
        "`{}` redirects more than {REDIRECTS_MAX} times",
        shown(ask.url)
    )))
}

/// Reads a body of at most `max` bytes.
pub(super) async fn body(mut response: Response, max: u64) -> Result<Vec<u8>, Failure> {
    let url = response.url().clone();
    let too_long = || {
        Failure::new(format!(
            "`{}` sends more than {max} bytes (policies.bundle.bytes_max)",
            shown(&url)
        ))
    };
    if response.content_length().is_some_and(|length| length > max) {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&url, &error))? {
        if (bytes.len() + chunk.len()) as u64 > max {
            return Err(too_long());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

pub(super) fn failed(url: &Url, error: &reqwest::Error) -> Failure {
    Failure::new(format!("cannot fetch `{}`: {}", shown(url), cause(error)))
}

/// A URL without its query, which may hold a token.
pub(super) fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// Seconds, or a date. Without a clock that agrees with the server's, a date in the past counts as none.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(text).ok()?.duration_since(clock::now()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_a_number_or_a_date_to_come() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            retry_after(&headers)
        };
        assert_eq!(of("120"), Some(Duration::from_secs(120)));
        assert_eq!(of("-1"), None);
        assert_eq!(of("soon"), None);
        assert_eq!(of("Thu, 01 Jan 1970 00:00:00 GMT"), None);
        let date = httpdate::fmt_http_date(clock::now() + Duration::from_secs(100));
        assert!(of(&date).is_some_and(|pause| pause > Duration::from_secs(90) && pause <= Duration::from_secs(100)));
    }
}
