//! What a provider says of itself (OpenID Connect Discovery 1.0), fetched when first needed and kept.
//!
//! The issuer must be exactly the configured one, and every endpoint https or on this very machine. A fetch that fails leaves
//! the last good document in force, however old: an endpoint that moved is noticed when it is used.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use serde_json::{Map, Value};
use url::Url;

use super::ProviderError;
use super::http::Http;
use crate::authn::{check_url, discovery_url};
use crate::config::KeyTransport;
use crate::json;

/// How old a document may grow before it is fetched again.
const REFRESH_AGE: Duration = Duration::from_secs(60 * 60);
/// Between two attempts after a failure, for all who ask together.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// The checked part that the gate uses.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    pub authorization: Url,
    pub token: Url,
    pub userinfo: Option<Url>,
    pub end_session: Option<Url>,
    /// Whether callbacks must carry `iss` (RFC 9207).
    pub names_itself: bool,
}

/// One provider's document.
pub(super) struct Discovery {
    issuer: String,
    known: ArcSwapOption<(Metadata, Instant)>,
    /// One fetch at a time; others wait for it.
    turn: tokio::sync::Mutex<()>,
    failed: Mutex<Option<(Instant, String)>>,
}

impl Metadata {
    fn parse(document: &[u8], issuer: &str) -> Result<Self, String> {
        let document = json::object_from_slice(document).map_err(|error| error.to_string())?;
        if document.get("issuer").and_then(Value::as_str) != Some(issuer) {
            return Err("its `issuer` is not exactly the configured one (issuers[].issuer)".to_owned());
        }
        let required = |name: &str| endpoint(&document, name)?.ok_or_else(|| format!("it has no `{name}`"));
        let names_itself = match document.get("authorization_response_iss_parameter_supported") {
            None => false,
            Some(Value::Bool(named)) => *named,
            Some(_) => return Err("`authorization_response_iss_parameter_supported` is no boolean".to_owned()),
        };
        Ok(Self {
            authorization: required("authorization_endpoint")?,
            token: required("token_endpoint")?,
            userinfo: endpoint(&document, "userinfo_endpoint")?,
            end_session: endpoint(&document, "end_session_endpoint")?,
            names_itself,
        })
    }
}

fn endpoint(document: &Map<String, Value>, name: &str) -> Result<Option<Url>, String> {
    let Some(value) = document.get(name) else {
        return Ok(None);
    };
    let text = value.as_str().ok_or_else(|| format!("`{name}` is no string"))?;
    check_url(text, KeyTransport::Tls).map_err(|error| format!("`{name}`: {error}"))?;
    let url = Url::parse(text).map_err(|_invalid| format!("`{name}` is no URL"))?;
    if url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(format!("`{name}` has a fragment or a user"));
    }
    Ok(Some(url))
}

impl Discovery {
    /// Fails if the issuer's name is no place to ask at.
    pub fn new(issuer: &str) -> Result<Self, String> {
        check_url(&discovery_url(issuer), KeyTransport::Tls).map_err(|error| error.to_string())?;
        Ok(Self {
            issuer: issuer.to_owned(),
            known: ArcSwapOption::empty(),
            turn: tokio::sync::Mutex::new(()),
            failed: Mutex::new(None),
        })
    }

    /// The last good document, or the first one.
    pub async fn metadata(&self, http: &Http) -> Result<Metadata, ProviderError> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let _turn = self.turn.lock().await;
        if let Some(known) = self.known() {
            return Ok(known);
        }
        if let Some((at, why)) = self.failed.lock().unwrap_or_else(PoisonError::into_inner).as_ref()
            && at.elapsed() < RETRY_INTERVAL
        {
            return Err(ProviderError::Unreachable(why.clone()));
        }
        self.fetch(http).await
    }

    /// Fetches again what is in use and has grown old. The last good document stays if that fails.
    pub async fn freshen(&self, http: &Http) {
        let old = self
            .known
            .load()
            .as_ref()
            .is_some_and(|known| known.1.elapsed() > REFRESH_AGE);
        if !old {
            return;
        }
        let _turn = self.turn.lock().await;
        if let Err(error) = self.fetch(http).await {
            tracing::warn!(issuer = self.issuer, %error, "discovery not refreshed, the last good document stays");
        }
    }

    fn known(&self) -> Option<Metadata> {
        self.known.load().as_ref().map(|known| known.0.clone())
    }

    async fn fetch(&self, http: &Http) -> Result<Metadata, ProviderError> {
        match self.fetched(http).await {
            Ok(metadata) => {
                self.known.store(Some(Arc::new((metadata.clone(), Instant::now()))));
                Ok(metadata)
            }
            Err(why) => {
                let why = format!("discovery of `{}`: {why}", self.issuer);
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), why.clone()));
                Err(ProviderError::Unreachable(why))
            }
        }
    }

    async fn fetched(&self, http: &Http) -> Result<Metadata, String> {
        let url = Url::parse(&discovery_url(&self.issuer)).map_err(|error| error.to_string())?;
        let reply = http.get(&url, None).await.map_err(|error| error.to_string())?;
        if reply.status != 200 {
            return Err(format!("the answer was {}", reply.status));
        }
        Metadata::parse(&reply.body, &self.issuer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(document: &Value) -> Result<Metadata, String> {
        Metadata::parse(document.to_string().as_bytes(), "https://id.test")
    }

    fn good() -> Value {
        json!({"issuer": "https://id.test", "authorization_endpoint": "https://id.test/a?x=1", "token_endpoint": "https://id.test/t"})
    }

    #[test]
    fn a_document_needs_its_issuer_and_endpoints_that_secrets_may_go_to() {
        assert!(parse(&good()).is_ok());
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
            let mut document = good();
            document[name] = value.clone();
            assert!(parse(&document).is_err(), "{name}: {value}");
        }
        for name in ["authorization_endpoint", "token_endpoint"] {
            let mut document = good();
            document.as_object_mut().unwrap().remove(name);
            assert!(parse(&document).is_err(), "{name}");
        }
    }
}
