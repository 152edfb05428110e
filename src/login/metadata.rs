//! A provider's metadata (OpenID Connect Discovery 1.0), fetched at first use and cached.
//!
//! The document's issuer must equal the configured one, and every endpoint must be https or on the loopback. If a later fetch
//! fails, the last good document stays in force at any age; if an endpoint moved, requests to it fail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use cedargate_policy::json;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use url::Url;

use super::ProviderError;
use super::http::Http;
use crate::authn::{check_url, discovery_url};
use crate::config::KeyTransport;

/// Age at which a document is fetched again.
const REFRESH_AGE: Duration = Duration::from_secs(60 * 60);
/// Time after a failed fetch in which all logins get its error instead of another fetch.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// The members of the document that the gate uses, checked.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    pub authorization: Url,
    pub token: Url,
    pub userinfo: Option<Url>,
    pub end_session: Option<Url>,
    /// True if callbacks must carry `iss` (RFC 9207).
    pub sends_iss: bool,
}

/// One provider's document.
pub(super) struct Discovery {
    issuer: String,
    /// The last good document; `None` before the first fetch succeeds.
    fetched: ArcSwapOption<Fetched>,
    /// Held during a fetch: one fetch at a time, and the other logins wait for its result.
    fetching: tokio::sync::Mutex<()>,
    last_failure: Mutex<Option<FailedFetch>>,
}

struct Fetched {
    metadata: Metadata,
    at: Instant,
}

struct FailedFetch {
    at: Instant,
    error: String,
}

impl Metadata {
    fn parse(document: &[u8], issuer: &str) -> Result<Self, String> {
        let document = json::object_from_slice(document).map_err(|error| error.to_string())?;
        if document.get("issuer").and_then(Value::as_str) != Some(issuer) {
            return Err("its `issuer` is not exactly the configured one (issuers[].issuer)".to_owned());
        }
        let required = |name: &str| endpoint(&document, name)?.ok_or_else(|| format!("it has no `{name}`"));
        let sends_iss = match document.get("authorization_response_iss_parameter_supported") {
            None => false,
            Some(Value::Bool(named)) => *named,
            Some(_) => return Err("`authorization_response_iss_parameter_supported` is not a boolean".to_owned()),
        };
        Ok(Self {
            authorization: required("authorization_endpoint")?,
            token: required("token_endpoint")?,
            userinfo: endpoint(&document, "userinfo_endpoint")?,
            end_session: endpoint(&document, "end_session_endpoint")?,
            sends_iss,
        })
    }
}

fn endpoint(document: &Map<String, Value>, name: &str) -> Result<Option<Url>, String> {
    let Some(value) = document.get(name) else {
        return Ok(None);
    };
    let text = value.as_str().ok_or_else(|| format!("`{name}` is not a string"))?;
    check_url(text, KeyTransport::Tls).map_err(|error| format!("`{name}`: {error}"))?;
    let url = Url::parse(text).map_err(|_invalid| format!("`{name}` is not a URL"))?;
    if url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(format!("`{name}` has a fragment or a user"));
    }
    Ok(Some(url))
}

impl Discovery {
    /// Fails if no discovery URL can be made of the issuer.
    pub fn new(issuer: &str) -> Result<Self, String> {
        check_url(&discovery_url(issuer), KeyTransport::Tls).map_err(|error| error.to_string())?;
        Ok(Self {
            issuer: issuer.to_owned(),
            fetched: ArcSwapOption::empty(),
            fetching: tokio::sync::Mutex::new(()),
            last_failure: Mutex::new(None),
        })
    }

    /// The last good document; fetches it if there is none yet.
    pub async fn metadata(&self, http: &Http) -> Result<Metadata, ProviderError> {
        if let Some(metadata) = self.fetched_metadata() {
            return Ok(metadata);
        }
        let _fetching = self.fetching.lock().await;
        // another login may have fetched it while this one waited
        if let Some(metadata) = self.fetched_metadata() {
            return Ok(metadata);
        }
        if let Some(failure) = self.last_failure.lock().as_ref()
            && failure.at.elapsed() < RETRY_INTERVAL
        {
            return Err(ProviderError::Unreachable(failure.error.clone()));
        }
        self.fetch(http).await
    }

    /// Fetches the document again if it is older than `REFRESH_AGE`. The last good document stays if that fails.
    pub async fn refresh(&self, http: &Http) {
        let age = self.fetched.load().as_ref().map(|fetched| fetched.at.elapsed());
        if age.is_none_or(|age| age <= REFRESH_AGE) {
            return;
        }
        let _fetching = self.fetching.lock().await;
        if let Err(error) = self.fetch(http).await {
            tracing::warn!(issuer = self.issuer, %error, "discovery not refreshed, the last good document stays");
        }
    }

    fn fetched_metadata(&self) -> Option<Metadata> {
        self.fetched.load().as_ref().map(|fetched| fetched.metadata.clone())
    }

    async fn fetch(&self, http: &Http) -> Result<Metadata, ProviderError> {
        match self.request(http).await {
            Ok(metadata) => {
                let fetched = Fetched {
                    metadata: metadata.clone(),
                    at: Instant::now(),
                };
                self.fetched.store(Some(Arc::new(fetched)));
                Ok(metadata)
            }
            Err(why) => {
                let error = format!("discovery of `{}`: {why}", self.issuer);
                *self.last_failure.lock() = Some(FailedFetch {
                    at: Instant::now(),
                    error: error.clone(),
                });
                Err(ProviderError::Unreachable(error))
            }
        }
    }

    async fn request(&self, http: &Http) -> Result<Metadata, String> {
        let url = Url::parse(&discovery_url(&self.issuer)).map_err(|error| error.to_string())?;
        let response = http.get(&url, None).await.map_err(|error| error.to_string())?;
        if response.status != 200 {
            return Err(format!("the response has status {}", response.status));
        }
        Metadata::parse(&response.body, &self.issuer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(document: &Value) -> Result<Metadata, String> {
        Metadata::parse(document.to_string().as_bytes(), "https://id.test")
    }

    fn valid_document() -> Value {
        json!({"issuer": "https://id.test", "authorization_endpoint": "https://id.test/a?x=1", "token_endpoint": "https://id.test/t"})
    }

    #[test]
    fn document_needs_the_configured_issuer_and_safe_endpoints() {
        assert!(parse(&valid_document()).is_ok());
        for (name, value) in [
            ("issuer", json!("https://id.test/")),
            ("issuer", json!(null)),
            ("authorization_endpoint", json!("http://id.test/a")),
            ("authorization_endpoint", json!("javascript:alert(1)")),
            ("authorization_endpoint", json!("https://id.test/a#b")),
            ("token_endpoint", json!("https://me:pw@id.test/t")),
            ("token_endpoint", json!("/t")),
            ("token_endpoint", json!(7)),
            ("userinfo_endpoint", json!("ftp://id.test/u")),
            ("end_session_endpoint", json!("http://localhost.evil.test/e")),
            ("authorization_response_iss_parameter_supported", json!("true")),
        ] {
            let mut document = valid_document();
            document[name] = value.clone();
            assert!(parse(&document).is_err(), "{name}: {value}");
        }
        for name in ["authorization_endpoint", "token_endpoint"] {
            let mut document = valid_document();
            document.as_object_mut().unwrap().remove(name);
            assert!(parse(&document).is_err(), "{name}");
        }
    }
}
