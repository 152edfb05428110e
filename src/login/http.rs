//! One HTTP exchange with a provider: bounded in time and bytes, never redirected, never through a proxy.
//!
//! A redirect would lead a code, a token or a secret to whom nobody configured. Connections are not kept: logins are rare, and
//! each of the gate's threads has a runtime of its own.

use std::pin::Pin;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};

use crate::types::Redacted;

/// One exchange, from connecting to the last byte. Shorter than the lease of a refresh.
const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Why there is no answer to go on with. Says nothing of what was sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("cannot reach `{host}`: {why}")]
    Unreachable { host: String, why: String },
    #[error("`{host}` answered {status}")]
    Status { host: String, status: u16 },
    #[error("`{host}` sent more than {ANSWER_BYTES_MAX} bytes")]
    TooLong { host: String },
    #[error("the request cannot be made")]
    Request,
}

/// An answer that came in time and was not too long. Not a redirect, and no failure of the server's own.
pub(super) struct Reply {
    pub status: u16,
    pub kind: String,
    pub body: Vec<u8>,
}

#[derive(Clone)]
pub(super) struct Http {
    client: reqwest::Client,
    deadline: Duration,
}

impl Http {
    pub fn new() -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(0)
            .user_agent(concat!("cedargate/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            client,
            deadline: DEADLINE,
        })
    }

    #[cfg(test)]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    pub async fn get(&self, url: &url::Url, bearer: Option<&Redacted<String>>) -> Result<Reply, HttpError> {
        let mut request = self.client.get(url.clone()).header(ACCEPT, "application/json");
        if let Some(token) = bearer {
            request = request.bearer_auth(token.expose());
        }
        self.exchange(request).await
    }

    async fn answer(&self, request: oauth2::HttpRequest) -> Result<oauth2::HttpResponse, HttpError> {
        let (head, body) = request.into_parts();
        let outward = self
            .client
            .request(head.method, head.uri.to_string())
            .headers(head.headers)
            .body(body);
        let reply = self.exchange(outward).await?;
        let mut answer = http::Response::builder().status(reply.status);
        if !reply.kind.is_empty() {
            answer = answer.header(CONTENT_TYPE, reply.kind);
        }
        answer.body(reply.body).map_err(|_invalid| HttpError::Request)
    }

    async fn exchange(&self, request: reqwest::RequestBuilder) -> Result<Reply, HttpError> {
        let request = request
            .timeout(self.deadline)
            .build()
            .map_err(|_invalid| HttpError::Request)?;
        let host = request.url().host_str().unwrap_or_default().to_owned();
        // SECURITY: the URL of a reqwest error is left out; it may hold what is nobody's business.
        let failed = |error: reqwest::Error| HttpError::Unreachable {
            host: host.clone(),
            why: cause(&error.without_url()),
        };
        let mut response = self.client.execute(request).await.map_err(failed)?;
        let status = response.status();
        if !(status.is_success() || status.is_client_error()) || status == reqwest::StatusCode::TOO_MANY_REQUESTS {
            return Err(HttpError::Status {
                host,
                status: status.as_u16(),
            });
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default().to_owned();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(HttpError::TooLong { host });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply {
            status: status.as_u16(),
            kind,
            body,
        })
    }
}

impl<'c> oauth2::AsyncHttpClient<'c> for Http {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<oauth2::HttpResponse, HttpError>> + Send + 'c>>;

    fn call(&'c self, request: oauth2::HttpRequest) -> Self::Future {
        Box::pin(self.answer(request))
    }
}

/// The innermost reason: `error sending request` alone helps nobody.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let chain = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    chain.last().map(ToString::to_string).unwrap_or_default()
}
