//! A provider's metadata (OpenID Connect Discovery 1.0), fetched at first use and cached.
//!
//! The document's issuer must equal the configured one, wherever the document lies, and every endpoint must be https or
//! on the loopback. Endpoints of the configuration go before those of the document; with enough of them no document is
//! read. If a later fetch fails, the last good document stays in force at any age; if an endpoint moved, requests to it
//! fail.

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
use crate::config::{Endpoints, KeyTransport, OidcClient};

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
    url: String,
    transport: KeyTransport,
    given: Endpoints,
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
    /// The metadata of a provider without a document, if the configuration has what a login needs.
    fn of_configuration(given: &Endpoints) -> Option<Self> {
        Some(Self {
            authorization: given.authorization.clone()?,
            token: given.token.clone()?,
            userinfo: given.userinfo.clone(),
            end_session: given.end_session.clone(),
            sends_iss: false,
        })
    }

    fn parse(document: &[u8], discovery: &Discovery) -> Result<Self, String> {
        let document = json::object_from_slice(document).map_err(|error| error.to_string())?;
        if document.get("issuer").and_then(Value::as_str) != Some(&discovery.issuer) {
            return Err("its `issuer` is not exactly the configured one (issuers[].issuer)".to_owned());
        }
        let given = &discovery.given;
        let optional = |given: &Option<Url>, name: &str| match given {
            Some(url) => Ok(Some(url.clone())),
            None => endpoint(&document, name, discovery.transport),
        };
        let required = |given, name: &str| optional(given, name)?.ok_or_else(|| format!("it has no `{name}`"));
        let sends_iss = match document.get("authorization_response_iss_parameter_supported") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(named)) => *named,
            Some(_) => return Err("`authorization_response_iss_parameter_supported` is not a boolean".to_owned()),
        };
        Ok(Self {
            authorization: required(&given.authorization, "authorization_endpoint")?,
            token: required(&given.token, "token_endpoint")?,
            userinfo: optional(&given.userinfo, "userinfo_endpoint")?,
            end_session: optional(&given.end_session, "end_session_endpoint")?,
            sends_iss,
        })
    }
}

/// An endpoint of a discovery document; `None` if the document does not name it.
pub(super) fn endpoint(document: &Map<String, Value>, name: &str, transport: KeyTransport) -> Result<Option<Url>, String> {
    let Some(value) = document.get(name).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let text = value.as_str().ok_or_else(|| format!("`{name}` is not a string"))?;
    check_url(text, transport).map_err(|error| format!("`{name}`: {error}"))?;
    let url = Url::parse(text).map_err(|_invalid| format!("`{name}` is not a URL"))?;
    if url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(format!("`{name}` has a fragment or a user"));
    }
    Ok(Some(url))
}

impl Discovery {
    /// Fails if no discovery URL can be made of the issuer, and none is needed.
    pub fn new(issuer: &str, client: &OidcClient) -> Result<Self, String> {
        let url = client.discovery_url.clone().unwrap_or_else(|| discovery_url(issuer));
        if Metadata::of_configuration(&client.endpoints).is_none() {
            check_url(&url, client.transport).map_err(|error| error.to_string())?;
        }
        Ok(Self {
            issuer: issuer.to_owned(),
            url,
            transport: client.transport,
            given: client.endpoints.clone(),
            fetched: ArcSwapOption::empty(),
            fetching: tokio::sync::Mutex::new(()),
            last_failure: Mutex::new(None),
        })
    }

    /// The endpoints; fetches the document if they need one and there is none yet.
    pub async fn metadata(&self, http: &Http) -> Result<Metadata, ProviderError> {
        if let Some(metadata) = Metadata::of_configuration(&self.given) {
            return Ok(metadata);
        }
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
                let error = format!("discovery at `{}`: {why}", self.url);
                *self.last_failure.lock() = Some(FailedFetch {
                    at: Instant::now(),
                    error: error.clone(),
                });
                Err(ProviderError::Unreachable(error))
            }
        }
    }

    async fn request(&self, http: &Http) -> Result<Metadata, String> {
        let url = Url::parse(&self.url).map_err(|error| error.to_string())?;
        let response = http.get(&url, None).await.map_err(|error| error.to_string())?;
        if response.status != 200 {
            return Err(format!("the response has status {}", response.status));
        }
        Metadata::parse(&response.body, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn discovery(given: Endpoints, transport: KeyTransport) -> Discovery {
        Discovery {
            issuer: "https://id.test".to_owned(),
            url: String::new(),
            transport,
            given,
            fetched: ArcSwapOption::empty(),
            fetching: tokio::sync::Mutex::new(()),
            last_failure: Mutex::new(None),
        }
    }

    fn parse(document: &Value) -> Result<Metadata, String> {
        let discovery = discovery(Endpoints::default(), KeyTransport::Tls);
        Metadata::parse(document.to_string().as_bytes(), &discovery)
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

    #[test]
    fn null_counts_as_absent_and_configured_endpoints_go_first() {
        let mut document = valid_document();
        for name in [
            "userinfo_endpoint",
            "end_session_endpoint",
            "authorization_response_iss_parameter_supported",
        ] {
            document[name] = json!(null);
        }
        let parsed = parse(&document).unwrap();
        assert!(parsed.userinfo.is_none() && parsed.end_session.is_none() && !parsed.sends_iss);
        let internal = Url::parse("http://id.internal:8080/t").unwrap();
        let given = Endpoints {
            token: Some(internal.clone()),
            ..Endpoints::default()
        };
        document["token_endpoint"] = json!(7);
        let parsed = Metadata::parse(document.to_string().as_bytes(), &discovery(given, KeyTransport::Tls)).unwrap();
        assert_eq!(
            (parsed.token, parsed.authorization.as_str()),
            (internal, "https://id.test/a?x=1")
        );
        document["token_endpoint"] = json!("http://id.internal:8080/t");
        assert!(parse(&document).is_err());
        let plain = discovery(Endpoints::default(), KeyTransport::DangerPlain);
        assert!(Metadata::parse(document.to_string().as_bytes(), &plain).is_ok());
    }
}
