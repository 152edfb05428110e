//! A bundle on a file server: one conditional GET for each attempt.

use http::header::{ACCEPT, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH};
use http::{Method, StatusCode};
use reqwest::Client;
use url::Url;

use super::download::{Ask, Download, DownloadAnswer, Failure, body, send, shown};
use super::registry_auth::{RegistryCredential, basic, bearer};
use crate::config::{self, BundleTransport};

/// Longest entity tag that is sent back.
const TAG_BYTES_MAX: usize = 1024;

pub(super) struct HttpSource {
    url: Url,
    client: Client,
    bytes_max: u64,
    transport: BundleTransport,
    credential: RegistryCredential,
}

impl HttpSource {
    pub fn new(url: Url, client: Client, config: &config::Bundle) -> Self {
        Self {
            url,
            client,
            bytes_max: config.bytes_max,
            transport: config.transport,
            credential: RegistryCredential::new(config.credential.clone()),
        }
    }

    pub fn shown(&self) -> String {
        shown(&self.url)
    }

    /// `known` is the entity tag of the content that need not be sent again.
    pub async fn fetch(&self, known: Option<&str>) -> Result<DownloadAnswer, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        insert(&mut headers, IF_NONE_MATCH, known);
        let authorization = match self.credential.read()? {
            None => None,
            Some(secret) => Some(match &secret.user {
                Some(user) => basic(user, &secret.text)?,
                None => bearer(&secret.text)?,
            }),
        };
        let ask = Ask {
            method: Method::GET,
            url: &self.url,
            headers,
            authorization,
        };
        let response = send(&self.client, ask, self.transport).await?;
        match response.status() {
            StatusCode::NOT_MODIFIED if known.is_some() => Ok(DownloadAnswer::Unchanged),
            StatusCode::OK => {
                let tag = response.headers().get(ETAG).and_then(|value| value.to_str().ok());
                let version = tag.filter(|tag| tag.len() <= TAG_BYTES_MAX).map(str::to_owned);
                let bytes = body(response, self.bytes_max).await?;
                Ok(DownloadAnswer::New(Download { bytes, version }))
            }
            _ => Err(Failure::status(&response)),
        }
    }
}

/// Adds a header, if there is a value that a header can hold.
pub(super) fn insert(headers: &mut HeaderMap, name: HeaderName, value: Option<&str>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
        headers.insert(name, value);
    }
}
