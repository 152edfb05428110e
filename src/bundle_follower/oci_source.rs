//! A bundle in an OCI registry: an artefact whose only layer is the bundle.
//!
//! An attempt asks for the head of the manifest. Without a change that is one answer without a body. With one, the gate
//! reads the manifest and then the layer; each must have the digest by which it was asked for.

use cedargate_policy::json;
use http::header::{ACCEPT, HeaderMap, HeaderValue, IF_NONE_MATCH};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use reqwest::{Client, Response};
use serde_json::{Map, Value};
use url::Url;

use super::download::{Ask, Download, DownloadAnswer, Failure, body, send};
use super::http_source::insert;
use super::registry_auth::{Challenge, RegistryCredential, bearer, token};
use crate::base::digest::sha256;
use crate::config::{self, BundleTransport, OciReference};

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of a bundle.
const LAYER_TYPE: &str = "application/vnd.cedargate.bundle.v1.tar+gzip";
/// The type that tools give a file without a type.
const PLAIN_LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST_BYTES_MAX: u64 = 1024 * 1024;
const DIGEST_HEADER: &str = "docker-content-digest";

pub(super) struct OciSource {
    reference: OciReference,
    client: Client,
    bytes_max: u64,
    transport: BundleTransport,
    credential: RegistryCredential,
    granted: Mutex<Option<Granted>>,
}

/// The header that the registry accepted last, and the credential that it was got with.
#[derive(Clone)]
struct Granted {
    secret: Option<[u8; 32]>,
    authorization: HeaderValue,
}

/// A layer as a manifest describes it.
struct Layer {
    digest: String,
    size: u64,
}

impl OciSource {
    pub fn new(reference: OciReference, client: Client, config: &config::Bundle) -> Self {
        Self {
            reference,
            client,
            bytes_max: config.bytes_max,
            transport: config.transport,
            credential: RegistryCredential::new(config.credential.clone()),
            granted: Mutex::default(),
        }
    }

    pub fn shown(&self) -> String {
        let OciReference {
            origin,
            repository,
            reference,
        } = &self.reference;
        let separator = if reference.starts_with("sha256:") { '@' } else { ':' };
        let host = origin.split_once("://").map_or(origin.as_str(), |(_, host)| host);
        format!("oci://{host}/{repository}{separator}{reference}")
    }

    /// `known` is the digest of the manifest whose layer need not be sent again.
    pub async fn fetch(&self, known: Option<&str>) -> Result<DownloadAnswer, Failure> {
        let reference = self.reference.reference.as_str();
        let path = format!("manifests/{reference}");
        let tag = known.map(|known| format!("\"{known}\""));
        let head = self.ask(Method::HEAD, &path, tag.as_deref()).await?;
        let digest = match head.status() {
            StatusCode::NOT_MODIFIED if known.is_some() => return Ok(DownloadAnswer::Unchanged),
            StatusCode::OK => digest_of(&head),
            _ => return Err(Failure::status(&head)),
        };
        if digest.is_some() && digest.as_deref() == known {
            return Ok(DownloadAnswer::Unchanged);
        }
        // by digest, if the registry says it: the tag may move meanwhile
        let asked = digest.unwrap_or_else(|| reference.to_owned());
        let response = self.ask(Method::GET, &format!("manifests/{asked}"), None).await?;
        if response.status() != StatusCode::OK {
            return Err(Failure::status(&response));
        }
        let manifest = body(response, MANIFEST_BYTES_MAX).await?;
        let found = digest_text(&manifest);
        if [asked.as_str(), reference]
            .iter()
            .any(|wanted| wanted.starts_with("sha256:") && *wanted != found)
        {
            return Err(self.other_content("manifest"));
        }
        if Some(found.as_str()) == known {
            return Ok(DownloadAnswer::Unchanged);
        }
        let layer = self.layer(&manifest)?;
        let response = self.ask(Method::GET, &format!("blobs/{}", layer.digest), None).await?;
        if response.status() != StatusCode::OK {
            return Err(Failure::status(&response));
        }
        let bytes = body(response, layer.size).await?;
        if bytes.len() as u64 != layer.size || digest_text(&bytes) != layer.digest {
            return Err(self.other_content("layer"));
        }
        Ok(DownloadAnswer::New(Download {
            bytes,
            version: Some(found),
        }))
    }

    fn other_content(&self, part: &str) -> Failure {
        Failure::new(format!(
            "`{}`: the {part} that the registry sends does not have its digest",
            self.shown()
        ))
    }

    fn layer(&self, manifest: &[u8]) -> Result<Layer, Failure> {
        let refuse = |why: &str| Failure::new(format!("`{}`: {why}", self.shown()));
        let document =
            json::object_from_slice(manifest).map_err(|error| refuse(&format!("the manifest is not usable: {error}")))?;
        let layers = document.get("layers").and_then(Value::as_array).map(Vec::as_slice);
        let Some([layer]) = layers else {
            return Err(refuse("the manifest does not have exactly one layer"));
        };
        let empty = Map::new();
        let layer = layer.as_object().unwrap_or(&empty);
        let text = |key: &str| layer.get(key).and_then(Value::as_str).unwrap_or_default();
        if ![LAYER_TYPE, PLAIN_LAYER_TYPE].contains(&text("mediaType")) {
            return Err(refuse(&format!(
                "the layer's type is `{}`, expected `{}`",
                text("mediaType").escape_debug(),
                LAYER_TYPE
            )));
        }
        let digest = text("digest");
        let is_digest = is_digest(digest);
        let size = layer.get("size").and_then(Value::as_u64);
        match size {
            Some(size) if is_digest && size <= self.bytes_max => Ok(Layer {
                digest: digest.to_owned(),
                size,
            }),
            Some(_) if is_digest => Err(refuse(&format!(
                "the layer has more than {} bytes (policies.bundle.bytes_max)",
                self.bytes_max
            ))),
            _ => Err(refuse("the layer has no SHA-256 digest, or no size")),
        }
    }

    /// Sends a request; answers one challenge of the registry.
    async fn ask(&self, method: Method, path: &str, if_none_match: Option<&str>) -> Result<Response, Failure> {
        let OciReference { origin, repository, .. } = &self.reference;
        let text = format!("{origin}/v2/{repository}/{path}");
        let url = Url::parse(&text).map_err(|_not_a_url| Failure::new(format!("`{text}` is no URL")))?;
        let secret = self.credential.read()?;
        // a rotated password does not live on in a header
        let hash = secret.as_ref().map(|secret| sha256(secret.text.expose().as_bytes()));
        let granted = self.granted.lock().clone();
        let known = granted
            .filter(|granted| granted.secret == hash)
            .map(|granted| granted.authorization);
        let own = match &secret {
            Some(secret) if secret.user.is_none() => Some(bearer(&secret.text)?),
            _ => None,
        };
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(MANIFEST_TYPE));
        insert(&mut headers, IF_NONE_MATCH, if_none_match);
        let ask = |authorization| Ask {
            method: method.clone(),
            url: &url,
            headers: headers.clone(),
            authorization,
        };
        let response = send(&self.client, ask(own.clone().or(known)), self.transport).await?;
        if response.status() != StatusCode::UNAUTHORIZED || own.is_some() {
            return Ok(response);
        }
        let Some(challenge) = Challenge::of(response.headers()) else {
            return Ok(response);
        };
        let authorization = token(&self.client, &challenge, repository, secret.as_ref(), self.transport).await?;
        *self.granted.lock() = Some(Granted {
            secret: hash,
            authorization: authorization.clone(),
        });
        send(&self.client, ask(Some(authorization)), self.transport).await
    }
}

fn digest_of(response: &Response) -> Option<String> {
    let text = response.headers().get(DIGEST_HEADER)?.to_str().ok()?;
    is_digest(text).then(|| text.to_owned())
}

fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn digest_text(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha256(bytes)))
}
