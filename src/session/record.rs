//! What a session is: what is sealed in the store, and what a process knows of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::types::{PortalSlug, Redacted};

/// Under which a session is stored: a hash of its id.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Handle(pub(super) [u8; 32]);

/// What is sealed in the store with the server's keys and the cookie.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SessionData {
    /// Of `login.providers`.
    pub provider: String,
    /// Of `issuers`.
    pub issuer: String,
    /// Of `issuers[].claims.subject`.
    pub subject: String,
    /// Where the login happened. Other portals may use the session if they trust its issuer and tenant.
    pub portal: String,
    /// Of the ID token and userinfo, or of the users file.
    pub claims: Arc<Map<String, Value>>,
    /// Unix milliseconds of the login: `absolute_timeout` counts from here, and revocations end what began before them.
    pub created_at: i64,
    /// The provider's own name of its session (`sid`), for back-channel logout.
    pub idp_session: Option<String>,
    /// What the provider gave; `None`: local accounts.
    pub grant: Option<Grant>,
    /// The privileges changed since the id was made: it is rotated with the next answer that can carry a cookie.
    pub rotation_due: bool,
}

/// What a provider gave beside claims.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Grant {
    /// For `id_token_hint`.
    #[serde(with = "secret")]
    pub id_token: Redacted<String>,
    /// `None`: the provider gives none, and the session lives until its timeouts.
    #[serde(with = "optional_secret")]
    pub refresh_token: Option<Redacted<String>>,
    /// For userinfo.
    #[serde(with = "secret")]
    pub access_token: Redacted<String>,
    /// Unix milliseconds after which the claims should be renewed; `None`: never.
    pub refresh_at: Option<i64>,
}

/// A session as this process knows it.
#[derive(Clone, Debug)]
pub struct Session {
    pub handle: Handle,
    pub data: SessionData,
    /// Differs whenever handle or data differ: what was made of one version must not be used for another.
    pub version: [u8; 32],
    /// Unix seconds of the absolute end.
    pub expires_at: i64,
}

/// What an operator sees of a session.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Card {
    /// Hex of the handle: what `sessions revoke --session` takes.
    pub session: String,
    pub provider: String,
    pub issuer: String,
    pub subject: String,
    pub tenant: Option<String>,
    pub portal: String,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds, as far as the store was told.
    pub used_at: i64,
}

/// What can be revoked. Ends sessions, and all but `Session` and `IdpSession` bearer tokens, too.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Revocation {
    Session(Handle),
    /// `subject` as the issuer writes it.
    Subject {
        issuer: String,
        subject: String,
    },
    Tenant(String),
    Portal(PortalSlug),
    /// The provider's own session (`sid`).
    IdpSession {
        issuer: String,
        sid: String,
    },
}

impl Handle {
    pub fn to_hex(self) -> String {
        crate::request::hex(&self.0)
    }

    pub fn from_hex(_text: &str) -> Option<Self> {
        None
    }
}

mod secret {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::types::Redacted;

    pub fn serialize<S: Serializer>(value: &Redacted<String>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(value.expose())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Redacted<String>, D::Error> {
        String::deserialize(from).map(Redacted::new)
    }
}

mod optional_secret {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::types::Redacted;

    pub fn serialize<S: Serializer>(value: &Option<Redacted<String>>, to: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(Redacted::expose).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Redacted<String>>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Redacted::new))
    }
}
