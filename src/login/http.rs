//! One HTTP exchange with a provider: bounded in time and bytes.
//!
//! Connections are not kept open: logins are rare, and each worker thread has a runtime of its own.

use std::pin::Pin;
use std::time::Duration;

use cedargate_policy::types::Redacted;
use http::header::{ACCEPT, CONTENT_TYPE};

use crate::base::outbound::{Clients, cause};
use crate::config::Egress;

/// Time for one exchange, from connecting to the last byte. Shorter than the lease of a session renewal.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of a response body.
const RESPONSE_BYTES_MAX: usize = 256 * 1024;

/// The reason why there is no usable response. Contains nothing of the request.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("cannot reach `{host}`: {why}")]
    Unreachable { host: String, why: String },
    #[error("`{host}` answered {status}")]
    Status { host: String, status: u16 },
    #[error("`{host}` sent more than {RESPONSE_BYTES_MAX} bytes")]
    TooLong { host: String },
    #[error("the request cannot be made")]
    Request,
}

/// A complete response of status 2xx or 4xx (without 429).
pub(super) struct ProviderResponse {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
}

#[derive(Clone)]
pub(super) struct Http {
    client: reqwest::Client,
    deadline: Duration,
}

impl Http {
    /// The error says which file or which part cannot be used.
    pub fn new(egress: &Egress, deadline: Duration) -> Result<Self, String> {
        let client = Clients::default().of(egress, |builder| builder.pool_max_idle_per_host(0))?;
        Ok(Self { client, deadline })
    }

    pub async fn get(&self, url: &url::Url, bearer: Option<&Redacted<String>>) -> Result<ProviderResponse, HttpError> {
        let mut request = self.client.get(url.clone()).header(ACCEPT, "application/json");
        if let Some(token) = bearer {
            request = request.bearer_auth(token.expose());
        }
        self.exchange(request).await
    }

    async fn send_oauth(&self, request: oauth2::HttpRequest) -> Result<oauth2::HttpResponse, HttpError> {
        let (head, body) = request.into_parts();
        let request = self
            .client
            .request(head.method, head.uri.to_string())
            .headers(head.headers)
            .body(body);
        let response = self.exchange(request).await?;
        // without the content type, which `oauth2` would hold against `application/json`: the body says whether it is
        // JSON
        let builder = http::Response::builder().status(response.status);
        builder.body(response.body).map_err(|_invalid| HttpError::Request)
    }

    async fn exchange(&self, request: reqwest::RequestBuilder) -> Result<ProviderResponse, HttpError> {
        let request = request
            .timeout(self.deadline)
            .build()
            .map_err(|_invalid| HttpError::Request)?;
        let host = request.url().host_str().unwrap_or_default().to_owned();
        // SECURITY: leaves out the URL of a reqwest error: its query may hold a code or token
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
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > RESPONSE_BYTES_MAX {
                return Err(HttpError::TooLong { host });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(ProviderResponse {
            status: status.as_u16(),
            content_type,
            body,
        })
    }
}

impl<'c> oauth2::AsyncHttpClient<'c> for Http {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<oauth2::HttpResponse, HttpError>> + Send + 'c>>;

    fn call(&'c self, request: oauth2::HttpRequest) -> Self::Future {
        Box::pin(self.send_oauth(request))
    }
}
