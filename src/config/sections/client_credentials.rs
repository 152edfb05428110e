//! The gate's own client at an issuer: its id and its secret, for introspection and for the exchange of tokens.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Secret;
use crate::config::check::Checker;
use crate::config::values::SecretText;

/// The keys of a client with a secret.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
pub struct RawClientCredentials {
    /// The gate's own client at the issuer.
    #[schemars(required)]
    pub client_id: Option<String>,
    /// Its secret. Better kept in `client_secret_file`.
    #[serde(default)]
    #[schemars(extend("writeOnly" = true))]
    pub client_secret: Option<SecretText>,
    /// The same as a file; read at each use.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
}

pub struct ClientCredentials {
    pub id: String,
    pub secret: Secret,
}

impl Checker<'_> {
    /// `None` if a mistake was reported. `endpoint`: the endpoint that authenticates the client.
    pub fn client_credentials(&mut self, section: &str, raw: &RawClientCredentials, endpoint: &str) -> Option<ClientCredentials> {
        let key = format!("{section}.client_secret");
        let secret = self.secret(&key, raw.client_secret.as_ref(), raw.client_secret_file.as_deref())?;
        if secret.is_none() {
            let message = format!("is required: the {endpoint} endpoint authenticates the gate");
            self.error(&format!("{key}_file"), message);
        }
        Some(ClientCredentials {
            id: raw.client_id.clone()?,
            secret: secret?,
        })
    }
}
