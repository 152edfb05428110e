//! The pieces of a call to an issuer's endpoint that introspection and token exchange share: its discovery, the gate's
//! own credentials, a bounded answer.

use std::time::Duration;

use cedargate_policy::json;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};
use tokio::time::Instant;
use url::form_urlencoded;

use super::keys::{check_url, discovery_url};
use crate::base::files;
use crate::base::outbound::cause;
use crate::config::{Issuer, KeyTransport, Secret};

/// Life of a discovered endpoint.
const ENDPOINT_LIFE: Duration = Duration::from_secs(3600);
/// Longest discovery document, in bytes.
const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// Longest secret file, in bytes.
const SECRET_BYTES_MAX: u64 = 4096;

/// The reason for which an issuer could not be asked; for the log.
pub(super) type CallFailure = String;

/// Discovered endpoints of one kind, by the index of the issuer.
pub(super) struct Endpoints {
    /// The member of the discovery document.
    member: &'static str,
    known: Mutex<FxHashMap<usize, DiscoveredEndpoint>>,
}

#[derive(Clone)]
struct DiscoveredEndpoint {
    url: String,
    expires_at: Instant,
}

impl Endpoints {
    pub fn of(member: &'static str) -> Self {
        Self {
            member,
            known: Mutex::default(),
        }
    }

    /// Discovers the endpoint again at the next call.
    pub fn forget(&self, index: usize) {
        self.known.lock().remove(&index);
    }

    /// Returns the endpoint that the issuer's discovery document names.
    pub async fn discover(&self, client: &reqwest::Client, index: usize, issuer: &Issuer) -> Result<String, CallFailure> {
        let discovered = self.known.lock().get(&index).cloned();
        if let Some(endpoint) = discovered
            && Instant::now() < endpoint.expires_at
        {
            return Ok(endpoint.url);
        }
        let discovery = discovery_url(&issuer.scope.issuer);
        check_url(&discovery, KeyTransport::Tls).map_err(|error| error.to_string())?;
        let document = fetch_object(client.get(discovery), DOCUMENT_BYTES_MAX).await?;
        if document.get("issuer").and_then(Value::as_str) != Some(&issuer.scope.issuer) {
            return Err("its discovery document names another issuer".to_owned());
        }
        let url = document.get(self.member).and_then(Value::as_str);
        let url = url.ok_or_else(|| format!("its discovery document names no `{}`", self.member))?;
        check_url(url, KeyTransport::Tls).map_err(|error| error.to_string())?;
        let endpoint = DiscoveredEndpoint {
            url: url.to_owned(),
            expires_at: Instant::now() + ENDPOINT_LIFE,
        };
        self.known.lock().insert(index, endpoint);
        Ok(url.to_owned())
    }
}

/// User and password of `client_secret_basic`. Client id and secret are form-encoded before they go into the header
/// (RFC 6749, section 2.3.1).
pub(super) fn basic_credentials(client_id: &str, secret: &str) -> (String, String) {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect();
    (encoded(client_id), encoded(secret))
}

/// Sends a request and parses its answer as a strict JSON object.
pub(super) async fn fetch_object(request: reqwest::RequestBuilder, bytes_max: usize) -> Result<Map<String, Value>, CallFailure> {
    // a reqwest error may contain the URL, never the body or the secret
    let response = request.send().await.map_err(|error| cause(&error))?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("it answered {}", response.status().as_u16()));
    }
    let body = read_body(response, bytes_max).await?;
    json::object_from_slice(&body).map_err(|error| format!("its answer is not strict JSON: {error}"))
}

/// Reads a body of at most `bytes_max`.
pub(super) async fn read_body(mut response: reqwest::Response, bytes_max: usize) -> Result<Vec<u8>, CallFailure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| cause(&error))? {
        if body.len() + chunk.len() > bytes_max {
            return Err(format!("it sent more than {bytes_max} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Reads the secret again for every call, so that a changed file is effective at once.
pub(super) async fn read_secret(secret: &Secret) -> Result<String, CallFailure> {
    let path = match secret {
        Secret::Value(value) => return Ok(value.expose().clone()),
        Secret::File(path) => path.clone(),
    };
    match tokio::task::spawn_blocking(move || files::read_secret(&path, SECRET_BYTES_MAX)).await {
        Ok(Ok(secret)) => Ok(secret.expose().clone()),
        Ok(Err(error)) => Err(format!("the client secret's file cannot be read: {error}")),
        Err(_panicked_or_cancelled) => Err("the read of the client secret's file did not finish".to_owned()),
    }
}
